/* Not a test: what the tests of the sandbox run inside it. `attempt NAME [WORDS]` tries to get out, or to take more
 * than it was given, in one way. It ends with 0 when it was held, with 1 when it got through, and says which on
 * standard output. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <netdb.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char **word;           /* what follows the name */
static char *volatile in_use; /* so that compilers do not leave out memory that is only filled */

/* One way of many in an attempt: true is bad. */
static bool through(const char *what, bool got) {
  if (got)
    printf("got through: %s\n", what);
  else
    printf("held: %s: %s\n", what, strerror(errno));
  return got;
}

static bool calls(const char *what, long result) {
  return through(what, result >= 0);
}

/* ---- network ---- */

static bool try_tcp(void) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(word[0]))};
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  bool bad = calls("a TCP socket", fd);
  return (fd >= 0 && calls("connect", connect(fd, (struct sockaddr *)&to, sizeof to))) || bad;
}

static bool try_udp(void) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(word[0]))};
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  bool bad = calls("a UDP socket", fd);
  return (fd >= 0 && calls("send", sendto(fd, "x", 1, 0, (struct sockaddr *)&to, sizeof to))) || bad;
}

static bool try_dns(void) {
  struct addrinfo *found = NULL, hints = {.ai_socktype = SOCK_STREAM};
  errno = 0;
  return through("a name of the network", getaddrinfo("debian.org", "80", &hints, &found) == 0);
}

static socklen_t address(struct sockaddr_un *to, const char *name, bool abstract) {
  *to = (struct sockaddr_un){.sun_family = AF_UNIX};
  snprintf(to->sun_path + abstract, sizeof to->sun_path - abstract, "%s", name);
  return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + abstract + strlen(name));
}

/* A socket of the machine's by name, or by file; from a socket of its own, or from one of a pair. */
static bool try_unix(void) {
  bool bad = false;
  for (int abstract = 0; abstract < 2; abstract++) {
    struct sockaddr_un to;
    socklen_t len = address(&to, word[abstract], abstract);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0), pair[2] = {-1, -1};
    if (fd >= 0) bad |= calls("connect to a Unix socket", connect(fd, (struct sockaddr *)&to, len));
    bad |= calls("a socket", fd);
    bad |= calls("a pair of datagram sockets", socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    if (pair[0] >= 0) bad |= calls("send", sendto(pair[0], "x", 1, 0, (struct sockaddr *)&to, len));
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) continue;
    bad |= calls("send from a pair", sendto(pair[0], "x", 1, MSG_NOSIGNAL, (struct sockaddr *)&to, len));
    bad |= calls("connect a pair", connect(pair[0], (struct sockaddr *)&to, len));
  }
  return bad;
}

static bool try_sockets(void) {
  static const struct {
    const char *what;
    int family, type, protocol;
  } kinds[] = {{"a raw socket", AF_INET, SOCK_RAW, IPPROTO_ICMP},
               {"ping", AF_INET, SOCK_DGRAM, IPPROTO_ICMP},
               {"a packet socket", AF_PACKET, SOCK_RAW, 0x300},
               {"netlink", AF_NETLINK, SOCK_RAW, 0},
               {"kernel cryptography", AF_ALG, SOCK_SEQPACKET, 0},
               {"vsock", AF_VSOCK, SOCK_STREAM, 0},
               {"IPv6", AF_INET6, SOCK_STREAM, 0},
               {"TIPC", AF_TIPC, SOCK_STREAM, 0},
               {"CAN", AF_CAN, SOCK_RAW, 1},
               {"bluetooth", AF_BLUETOOTH, SOCK_RAW, 1}};
  bool bad = false;
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    bad |= calls(kinds[i].what, socket(kinds[i].family, kinds[i].type, kinds[i].protocol));
  int pair[2];
  bad |= calls("a pair of another family", socketpair(AF_TIPC, SOCK_STREAM, 0, pair));
  return bad;
}

/* ---- files ---- */

/* Each of the files named, by its path and by ways around: .., a link, the root of the first process, of itself. */
static bool try_read(void) {
  bool bad = false;
  for (char **p = word; *p; p++) {
    char path[4200];
    const char *const ways[] = {"",
                                "/..",
                                "/../../../../..",
                                "/proc/1/root",
                                "/proc/self/root",
                                "/proc/self/cwd/../..",
                                "/proc/1/cwd/..",
                                "/proc/self/fd/0/..",
                                "/usr/../.."};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
      snprintf(path, sizeof path, "%s%s", ways[i], *p);
      bad |= calls(path, open(path, O_RDONLY));
    }
    unlink("/tmp/link");
    bad |= symlink(*p, "/tmp/link") == 0 && calls("a link to it", open("/tmp/link", O_RDONLY));
    bad |= calls("a hard link", link(*p, "/tmp/hard"));
  }
  return bad;
}

/* Descriptors that the caller left open. */
static bool try_descriptors(void) {
  bool bad = false;
  for (int fd = 3; fd < 2048; fd++)
    if (fcntl(fd, F_GETFD) >= 0) bad |= through("a descriptor", true);
  return bad;
}

static bool try_write(void) {
  static const char *const paths[] = {"/mine",
                                      "/usr/mine",
                                      "/usr/bin/mine",
                                      "/etc/mine",
                                      "/etc/passwd",
                                      "/dev/mine",
                                      "/data/mine",
                                      "/bin/mine",
                                      "/home/mine",
                                      "/root/mine",
                                      "/var/mine",
                                      "/run/mine",
                                      "/proc/self/oom_score_adj",
                                      "/proc/self/uid_map",
                                      "/proc/self/comm"};
  bool bad = false;
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
    bad |= calls(paths[i], open(paths[i], O_CREAT | O_WRONLY, 0600));
  bad |= calls("chmod of /usr", chmod("/usr", 0777));
  bad |= calls("chmod of python", chmod("/usr/bin/env", 0777));
  bad |= calls("times of a file of /data", utimensat(AT_FDCWD, "/data/attempt", NULL, 0));
  bad |= calls("unlink in /data", unlink("/data/attempt"));
  bad |= calls("rename in /data", rename("/data/attempt", "/data/other"));
  bad |= calls("truncate in /data", truncate("/data/attempt", 0));
  bad |=
      calls("set user id in /tmp", open("/tmp/suid", O_CREAT | O_WRONLY, 04755) >= 0 && chmod("/tmp/suid", 04755) == 0
                                       ? access("/tmp/nothing", F_OK)
                                       : -1);
  return bad;
}

static bool try_kernel_files(void) {
  static const char *const paths[] = {"/proc/sys/kernel/hostname",
                                      "/proc/sys/kernel/core_pattern",
                                      "/proc/sysrq-trigger",
                                      "/proc/kcore",
                                      "/proc/kallsyms",
                                      "/proc/kmsg",
                                      "/proc/keys",
                                      "/proc/config.gz",
                                      "/proc/bus",
                                      "/proc/irq",
                                      "/proc/scsi",
                                      "/proc/timer_list",
                                      "/sys/kernel",
                                      "/sys/fs/cgroup",
                                      "/sys/firmware",
                                      "/dev/mem",
                                      "/dev/kmsg",
                                      "/dev/sda",
                                      "/dev/vda",
                                      "/dev/kvm",
                                      "/dev/fuse",
                                      "/dev/net/tun",
                                      "/dev/tty",
                                      "/dev/ptmx",
                                      "/dev/pts",
                                      "/dev/console",
                                      "/dev/nvidia0",
                                      "/run/docker.sock",
                                      "/var/run/docker.sock"};
  bool bad = false;
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) bad |= calls(paths[i], open(paths[i], O_RDONLY));
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) bad |= calls(paths[i], open(paths[i], O_WRONLY));
  return bad;
}

static bool try_mknod(void) {
  bool bad = calls("a block device", mknod("/tmp/disk", S_IFBLK | 0600, 0xfe00));
  bad |= calls("a character device", mknod("/tmp/mem", S_IFCHR | 0600, 0x101));
  return calls("an overlay's whiteout", mknod("/tmp/white", S_IFCHR | 0600, 0)) || bad;
}

/* Locks and leases on files of the caller's, and notices of them. */
static bool try_locks(void) {
  int fd = open("/data/attempt", O_RDONLY);
  bool bad = calls("a lock on a whole file", flock(fd, LOCK_EX | LOCK_NB));
  bad |= calls("a lease", fcntl(fd, F_SETLEASE, F_RDLCK));
  struct flock all = {.l_type = F_WRLCK};
  bad |= calls("a lock for writing", fcntl(fd, F_SETLK, &all));
  int ends[2];
  return (pipe(ends) == 0 && calls("a larger pipe", fcntl(ends[0], F_SETPIPE_SZ, 1 << 20))) || bad;
}

/* Until nothing more fits; prints how much did. */
static bool try_fill(void) {
  static char chunk[1 << 16];
  unsigned long long kept = 0;
  char path[64];
  signal(SIGXFSZ, SIG_IGN);
  memset(chunk, 1, sizeof chunk);
  for (int i = 0, failed = 0; failed < 3 && i < 1 << 20; i++) {
    snprintf(path, sizeof path, "%s/%d", i & 1 ? "/tmp" : "/dev/shm", i);
    int fd = open(path, O_CREAT | O_WRONLY | O_EXCL, 0600);
    ssize_t n = 0;
    while (fd >= 0 && kept < 1ULL << 33 && (n = write(fd, chunk, sizeof chunk)) > 0) kept += (unsigned long long)n;
    if (fd < 0 || n <= 0) failed++;
    if (fd >= 0) close(fd);
  }
  printf("kept %llu\n", kept);
  return kept > strtoull(word[0], NULL, 10);
}

static bool try_many_files(void) {
  long made = 0;
  char path[64];
  for (int fd = 0; fd >= 0 && made < 1 << 20; made++) {
    snprintf(path, sizeof path, "/tmp/f%ld", made);
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    if (fd >= 0) close(fd);
  }
  printf("made %ld\n", made);
  return made > 1 << 17;
}

static bool try_huge_file(void) {
  signal(SIGXFSZ, SIG_IGN);
  int fd = open("/tmp/huge", O_CREAT | O_RDWR, 0600);
  bool bad = calls("a file of 1 TiB", ftruncate(fd, 1LL << 40));
  bad |= calls("its room", posix_fallocate(fd, 0, 1LL << 34) == 0 ? 0 : -1);
  return calls("a byte far out", pwrite(fd, "x", 1, 1LL << 40)) || bad;
}

/* ---- other processes ---- */

static bool try_ptrace(void) {
  bool bad = calls("being traced", ptrace(PTRACE_TRACEME, 0, NULL, NULL));
  pid_t child = fork();
  if (child == 0) {
    pause();
    _exit(0);
  }
  pid_t pids[] = {1, child, atoi(word[0])};
  char bytes[8], path[64];
  for (size_t i = 0; i < 3; i++) {
    struct iovec mine = {bytes, sizeof bytes}, its = {(void *)&word, sizeof bytes};
    bad |= calls("tracing", ptrace(PTRACE_ATTACH, pids[i], NULL, NULL));
    bad |= calls("seizing", ptrace(PTRACE_SEIZE, pids[i], NULL, NULL));
    bad |= calls("reading its memory", process_vm_readv(pids[i], &mine, 1, &its, 1, 0));
    bad |= calls("writing its memory", process_vm_writev(pids[i], &mine, 1, &its, 1, 0));
    bad |= calls("comparing", syscall(SYS_kcmp, pids[i], getpid(), 0, 0, 0));
    if (pids[i] == child) continue;
    snprintf(path, sizeof path, "/proc/%d/mem", pids[i]);
    bad |= calls(path, open(path, O_RDONLY));
    snprintf(path, sizeof path, "/proc/%d/environ", pids[i]);
    bad |= calls(path, open(path, O_RDONLY));
    snprintf(path, sizeof path, "/proc/%d/fd/3", pids[i]);
    bad |= calls(path, open(path, O_RDONLY));
    snprintf(path, sizeof path, "/proc/%d/maps", pids[i]);
    bad |= calls(path, open(path, O_RDONLY));
  }
  int pidfd = (int)syscall(SYS_pidfd_open, 1, 0);
  bad |= pidfd >= 0 && calls("a descriptor of the first process", syscall(SYS_pidfd_getfd, pidfd, 0, 0));
  kill(child, SIGKILL);
  return bad;
}

/* The first process inside, the test outside by its own number, and the parent. */
static bool try_signals(void) {
  bool bad = calls("a signal to the test", kill(atoi(word[0]), SIGKILL));
  for (int sig = 1; sig < 32; sig++)
    if (sig != SIGCONT) kill(1, sig), kill(getppid(), sig);
  usleep(50000);
  printf("the first process is %s\n", kill(1, 0) == 0 ? "there" : "gone");
  return kill(1, 0) != 0 || bad;
}

/* Everything it can see: this ends, with it, what is inside. */
static bool try_kill_all(void) {
  pid_t child = fork();
  if (child == 0) {
    kill(-1, SIGKILL);
    _exit(0);
  }
  for (;;) pause();
}

/* ---- the kernel ---- */

static bool try_namespaces(void) {
  static const struct {
    const char *what;
    int flag;
  } kinds[] = {{"user", CLONE_NEWUSER}, {"pid", CLONE_NEWPID}, {"mount", CLONE_NEWNS},      {"net", CLONE_NEWNET},
               {"ipc", CLONE_NEWIPC},   {"uts", CLONE_NEWUTS}, {"cgroup", CLONE_NEWCGROUP}, {"time", 0x80}};
  bool bad = false;
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    bad |= calls(kinds[i].what, unshare(kinds[i].flag));
    if (kinds[i].flag == 0x80) continue; /* a signal's number, in clone */
    long pid = syscall(SYS_clone, (unsigned long)kinds[i].flag | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) _exit(0);
    bad |= calls("clone", pid);
  }
  unsigned long long args[11] = {CLONE_NEWUSER, [4] = SIGCHLD};
  bad |= calls("clone3", syscall(SYS_clone3, args, sizeof args));
  bad |= calls("setns", setns(open("/proc/self/ns/net", O_RDONLY), 0));
  return calls("setns by pidfd", setns((int)syscall(SYS_pidfd_open, 1, 0), CLONE_NEWNS)) || bad;
}

static bool try_mounts(void) {
  bool bad = calls("mount", mount("tmpfs", "/tmp", "tmpfs", 0, NULL));
  bad |= calls("bind", mount("/usr", "/tmp", NULL, MS_BIND, NULL));
  bad |= calls("remount", mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL));
  bad |= calls("umount", umount2("/proc", MNT_DETACH));
  bad |= calls("umount root", umount2("/", MNT_DETACH));
  bad |= calls("pivot_root", syscall(SYS_pivot_root, "/tmp", "/tmp"));
  bad |= calls("chroot", chroot("/tmp"));
  bad |= calls("fsopen", fsopen("tmpfs", 0));
  bad |= calls("open_tree", open_tree(AT_FDCWD, "/", OPEN_TREE_CLONE));
  bad |= calls("move_mount", move_mount(AT_FDCWD, "/usr", AT_FDCWD, "/tmp", 0));
  struct mount_attr attr = {.attr_clr = MOUNT_ATTR_RDONLY};
  return calls("mount_setattr", mount_setattr(AT_FDCWD, "/", 0, &attr, sizeof attr)) || bad;
}

static bool try_ids(void) {
  bool bad = calls("setuid", setuid(0));
  bad |= calls("setgid", setgid(0));
  bad |= calls("setresuid", setresuid(0, 0, 0));
  bad |= calls("setreuid", setreuid(65534, 65534));
  gid_t zero = 0;
  bad |= calls("setgroups", syscall(SYS_setgroups, 1, &zero));
  syscall(SYS_setfsuid, 0);
  bad |= through("setfsuid", syscall(SYS_setfsuid, -1) == 0);
  unsigned header[2] = {0x20080522, 0}, data[6] = {~0U, ~0U, ~0U, ~0U, ~0U, ~0U};
  bad |= calls("capset", syscall(SYS_capset, header, data));
  bad |= calls("a priority", setpriority(PRIO_PROCESS, 0, -5));
  bad |= calls("a securebit", prctl(PR_SET_SECUREBITS, 0));
  bad |= calls("a filter of its own", prctl(PR_SET_SECCOMP, 1));
  bad |= calls("root", getuid() == 0 || geteuid() == 0 || getgid() == 0 ? 0 : -1);
  struct rlimit more = {RLIM_INFINITY, RLIM_INFINITY};
  for (int i = 0; i < RLIM_NLIMITS; i++) {
    struct rlimit now;
    getrlimit(i, &now);
    if (now.rlim_max != RLIM_INFINITY) bad |= calls("a higher limit", setrlimit(i, &more));
  }
  return bad;
}

/* /proc says so too: no capability in any set, no way to one, a filter. */
static bool try_status(void) {
  char line[256];
  bool bad = false;
  FILE *f = fopen("/proc/self/status", "r");
  for (int held = 0; f && fgets(line, sizeof line, f); held++) {
    bool cap = strncmp(line, "Cap", 3) == 0;
    if (cap && strspn(strchr(line, ':') + 1, "\t0\n") != strlen(strchr(line, ':') + 1)) bad |= through(line, true);
    if (strncmp(line, "NoNewPrivs:", 11) == 0 && !strchr(line, '1')) bad |= through(line, true);
    if (strncmp(line, "Seccomp:", 8) == 0 && !strchr(line, '2')) bad |= through(line, true);
    if (strncmp(line, "Groups:", 7) == 0 && word[0] && strpbrk(line, "0123456789") && atoi(word[0])) printf("%s", line);
  }
  if (f) fclose(f);
  return bad;
}

/* System calls that do harm, or are ways around others. Their arguments make no sense: a call that is answered at all
 * says something else than that it does not exist or is not allowed. */
static bool try_calls(void) {
  static const struct {
    const char *what;
    long nr;
  } list[] = {{"keyctl", SYS_keyctl},
              {"add_key", SYS_add_key},
              {"request_key", SYS_request_key},
              {"bpf", SYS_bpf},
              {"perf_event_open", SYS_perf_event_open},
              {"io_uring_setup", SYS_io_uring_setup},
              {"io_uring_enter", SYS_io_uring_enter},
              {"userfaultfd", SYS_userfaultfd},
              {"kexec_load", SYS_kexec_load},
              {"init_module", SYS_init_module},
              {"finit_module", SYS_finit_module},
              {"delete_module", SYS_delete_module},
              {"reboot", SYS_reboot},
              {"swapon", SYS_swapon},
              {"swapoff", SYS_swapoff},
              {"open_by_handle_at", SYS_open_by_handle_at},
              {"name_to_handle_at", SYS_name_to_handle_at},
              {"quotactl", SYS_quotactl},
              {"personality", SYS_personality},
              {"sethostname", SYS_sethostname},
              {"setdomainname", SYS_setdomainname},
              {"settimeofday", SYS_settimeofday},
              {"clock_settime", SYS_clock_settime},
              {"clock_adjtime", SYS_clock_adjtime},
              {"adjtimex", SYS_adjtimex},
              {"memfd_create", SYS_memfd_create},
              {"memfd_secret", 447},
              {"shmget", SYS_shmget},
              {"semget", SYS_semget},
              {"msgget", SYS_msgget},
              {"mq_open", SYS_mq_open},
              {"inotify_init1", SYS_inotify_init1},
              {"syslog", SYS_syslog},
              {"acct", SYS_acct},
              {"fanotify_init", SYS_fanotify_init},
              {"move_pages", SYS_move_pages},
              {"migrate_pages", SYS_migrate_pages},
              {"mbind", SYS_mbind},
              {"set_mempolicy", SYS_set_mempolicy},
              {"vmsplice", SYS_vmsplice},
              {"vhangup", SYS_vhangup},
              {"seccomp", SYS_seccomp},
              {"process_madvise", SYS_process_madvise},
              {"process_mrelease", 448},
              {"setxattr", SYS_setxattr},
              {"landlock_create_ruleset", 444},
              {"lookup_dcookie", SYS_lookup_dcookie},
#ifdef __x86_64__
              {"iopl", SYS_iopl},
              {"ioperm", SYS_ioperm},
              {"modify_ldt", SYS_modify_ldt},
              {"uselib", SYS_uselib},
              {"ustat", SYS_ustat},
              {"sysfs", SYS_sysfs},
              {"_sysctl", SYS__sysctl},
#endif
              {"bind", SYS_bind},
              {"listen", SYS_listen},
              {"accept", SYS_accept4},
              {"setsockopt", SYS_setsockopt},
              {"a call there is not", 4000}};
  bool bad = false;
  for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
    long result = syscall(list[i].nr, -1, -1, -1, -1, -1, -1);
    bad |= through(list[i].what, result >= 0 || (errno != ENOSYS && errno != EPERM));
  }
  return bad;
}

/* Keystrokes put into a terminal that the caller sits at. */
static bool try_terminal(void) {
  bool bad = false;
  for (int fd = 0; fd < 3; fd++) {
    bad |= calls("TIOCSTI", ioctl(fd, TIOCSTI, "x"));
    bad |= calls("TIOCLINUX", ioctl(fd, TIOCLINUX, "\3"));
    bad |= calls("TIOCSCTTY", ioctl(fd, TIOCSCTTY, 1));
    bad |= through("TIOCSTI with more bits", ioctl(fd, 0x700000000UL | TIOCSTI, "x") >= 0 || errno != ENOSYS);
    bad |= through("a terminal", isatty(fd));
  }
  return calls("/dev/tty", open("/dev/tty", O_RDWR)) || bad;
}

static bool try_memory_tricks(void) {
  size_t n = 1 << 20;
  bool bad = through("memory that is shared",
                     mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
  bad |= through("huge pages", mmap(NULL, 2 * n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1,
                                    0) != MAP_FAILED);
  bad |= through("locked memory", mlock(malloc(n), n) == 0);
  return bad;
}

/* ---- more than it was given ---- */

/* Forks until it may not, and keeps them. word[0]: more than this are too many. */
static bool try_forks(void) {
  long made = 0;
  for (pid_t child = 0; made < 100000 && (child = fork()) >= 0; made++)
    if (child == 0)
      for (;;) pause();
  printf("made %ld: %s\n", made, strerror(errno));
  return made >= atol(word[0]);
}

static void *wait_for_ever(void *arg) {
  for (;;) pause();
  return arg;
}

static bool try_threads(void) {
  long made = 0;
  pthread_attr_t attr;
  pthread_t t;
  pthread_attr_init(&attr);
  pthread_attr_setstacksize(&attr, 65536);
  while (made < 100000 && pthread_create(&t, &attr, wait_for_ever, NULL) == 0) made++;
  printf("made %ld\n", made);
  return made >= atol(word[0]);
}

/* The classic: every process forks for ever, until it is ended. */
static bool try_bomb(void) {
  while (fork() >= 0 || usleep(1000) == 0) {}
  return true;
}

/* Takes memory until none is given; then it is held, and told so. */
static bool try_memory(void) {
  size_t got = 0, chunk = 1 << 20;
  for (char *p; got < (size_t)1 << 40 && (p = malloc(chunk)); got += chunk) in_use = memset(p, 1, chunk);
  printf("got %zu\n", got);
  return got > strtoull(word[0], NULL, 10);
}

/* Many that together take more than they may. word[0]: how many, word[1]: bytes each. */
static bool try_memory_together(void) {
  for (int i = 0; i < atoi(word[0]); i++) {
    if (fork() != 0) continue;
    size_t n = strtoull(word[1], NULL, 10);
    char *p = malloc(n);
    if (p) in_use = memset(p, 1, n);
    for (;;) pause();
  }
  sleep(60);
  return true;
}

static void *keep(void *bytes) {
  size_t n = strtoull(bytes, NULL, 10);
  in_use = memset(malloc(n), 1, n);
  for (;;) pause();
  return NULL;
}

/* The same, by processes whose first thread has ended: the kernel says of that one that it has no memory.
 * word[0], word[1]: as above. */
static bool try_memory_headless(void) {
  for (int i = 0; i < atoi(word[0]); i++) {
    if (fork() != 0) continue;
    pthread_t t;
    if (pthread_create(&t, NULL, keep, word[1]) == 0) pthread_exit(NULL);
    _exit(1);
  }
  sleep(60);
  return true;
}

/* Not an attempt: a child that is for a while in its parent's memory uses nothing more. word[0]: bytes. */
static bool try_vfork(void) {
  size_t n = strtoull(word[0], NULL, 10);
  in_use = memset(malloc(n), 1, n);
  pid_t child = vfork();
  if (child == 0) {
    usleep(300000);
    _exit(0);
  }
  return waitpid(child, NULL, 0) != child;
}

/* A child that has left: its own session, its parent gone. It keeps standard output. */
static bool try_daemon(void) {
  if (fork() == 0) {
    setsid();
    if (fork() == 0) {
      for (int i = 1; i < 32; i++) signal(i, SIG_IGN);
      sleep(1000);
    }
    _exit(0);
  }
  wait(NULL);
  puts("left");
  return false;
}

static bool try_spin(void) {
  for (volatile bool on = true; on;) {}
  return true;
}

/* Processor time of many: none of them takes much. */
static bool try_spin_together(void) {
  for (;;) {
    pid_t child = fork();
    if (child == 0) {
      clock_t end = clock() + CLOCKS_PER_SEC / 10;
      while (clock() < end) {}
      _exit(0);
    }
    waitpid(child, NULL, 0);
  }
}

/* The same, of children that nobody waits for: the kernel forgets their time. word[0]: milliseconds of each. */
static bool try_spin_unwaited(void) {
  signal(SIGCHLD, SIG_IGN);
  for (;;) {
    if (fork() == 0) {
      clock_t end = clock() + CLOCKS_PER_SEC / 1000 * atoi(word[0]);
      while (clock() < end) {}
      _exit(0);
    }
    wait(NULL);
  }
}

static bool try_sleep(void) {
  sleep(1000);
  return true;
}

static bool try_output(void) {
  static char text[4096];
  memset(text, 'x', sizeof text);
  for (int fd = 1;; fd = 3 - fd)
    if (write(fd, text, sizeof text) < 0) return false;
}

static int deeper(volatile char *above) {
  volatile char here[4096];
  here[0] = above ? above[0] : 1;
  return here[0] ? deeper(here) + here[0] : 0;
}

static bool try_stack(void) {
  return deeper(NULL) == 0;
}

static bool try_core(void) {
  struct rlimit none = {0, 0};
  if (calls("a limit of core dumps that lets them out", setrlimit(RLIMIT_CORE, &none))) return true;
  fflush(stdout);
  abort();
}

/* System calls by the doors of other architectures. */
static bool try_old_door(void) {
#ifdef __x86_64__
  long result;
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory"); /* getpid */
  return through("int 0x80", result > 0);
#else
  raise(SIGSYS);
  return false;
#endif
}

static bool try_x32_door(void) {
#ifdef __x86_64__
  return calls("x32", syscall(0x40000000 | SYS_getpid));
#else
  raise(SIGSYS);
  return false;
#endif
}

static bool try_environment(void) {
  extern char **environ;
  bool bad = false;
  for (char **p = environ; *p; p++)
    if (strstr(*p, "SECRET")) bad |= through(*p, true);
  char host[64] = "";
  gethostname(host, sizeof host);
  bad |= through("the name of the machine", strcmp(host, "sandbox") != 0);
  printf("parent %d session %d self %d\n", getppid(), getsid(0), getpid());
  return bad;
}

static const struct {
  const char *name;
  bool (*try)(void);
} attempts[] = {{"tcp", try_tcp},
                {"udp", try_udp},
                {"dns", try_dns},
                {"unix", try_unix},
                {"sockets", try_sockets},
                {"read", try_read},
                {"descriptors", try_descriptors},
                {"write", try_write},
                {"kernel-files", try_kernel_files},
                {"mknod", try_mknod},
                {"locks", try_locks},
                {"fill", try_fill},
                {"many-files", try_many_files},
                {"huge-file", try_huge_file},
                {"ptrace", try_ptrace},
                {"signals", try_signals},
                {"kill-all", try_kill_all},
                {"namespaces", try_namespaces},
                {"mounts", try_mounts},
                {"ids", try_ids},
                {"status", try_status},
                {"calls", try_calls},
                {"terminal", try_terminal},
                {"memory-tricks", try_memory_tricks},
                {"forks", try_forks},
                {"threads", try_threads},
                {"bomb", try_bomb},
                {"memory", try_memory},
                {"memory-together", try_memory_together},
                {"memory-headless", try_memory_headless},
                {"vfork", try_vfork},
                {"daemon", try_daemon},
                {"spin", try_spin},
                {"spin-together", try_spin_together},
                {"spin-unwaited", try_spin_unwaited},
                {"sleep", try_sleep},
                {"output", try_output},
                {"stack", try_stack},
                {"core", try_core},
                {"old-door", try_old_door},
                {"x32-door", try_x32_door},
                {"environment", try_environment}};

int main(int argc, char **argv) {
  char host[64] = "";
  if (gethostname(host, sizeof host) != 0 || strcmp(host, "sandbox") != 0 || getuid() != 1000) {
    fputs("attempt: this is not the sandbox, where alone it may be run\n", stderr);
    return 3;
  }
  word = argv + (argc > 1 ? 2 : 1);
  for (size_t i = 0; argc > 1 && i < sizeof attempts / sizeof *attempts; i++)
    if (strcmp(argv[1], attempts[i].name) == 0) return attempts[i].try();
  return 2;
}
