/* Which system calls are answered. A list of what programs need, since nobody can list all that could do harm: a call
 * that is not on it does not exist (ENOSYS, which C libraries know to get around), and one that comes by another
 * architecture's door ends the process. */
#include "src/sandbox/inner.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <seccomp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* Not here, on purpose: anything that makes or enters namespaces, mounts, changes ids, the clock or the machine, looks
 * into other processes, loads code into the kernel (bpf, modules), keyrings, sockets that are not a pair, io_uring (it
 * calls past this filter), userfaultfd, perf_event_open, file handles, locks on whole files and notices of them, and
 * memory that no process is charged with (memfd_create, System V and POSIX message queues, shared memory and
 * semaphores). */
static const char *const allowed[] = {
    /* files (fcntl has a rule of its own) */
    "access", "chdir", "chmod", "close", "close_range", "copy_file_range", "creat", "dup", "dup2", "dup3", "faccessat",
    "faccessat2", "fadvise64", "fadvise64_64", "fallocate", "fchdir", "fchmod", "fchmodat", "fchmodat2", "fdatasync",
    "fgetxattr", "flistxattr", "fstat", "fstat64", "fstatat64", "fstatfs", "fstatfs64", "fsync", "ftruncate",
    "ftruncate64", "futimesat", "getcwd", "getdents", "getdents64", "getxattr", "lgetxattr", "link", "linkat",
    "listxattr", "llistxattr", "lseek", "_llseek", "lstat", "lstat64", "mkdir", "mkdirat", "newfstatat", "open",
    "openat", "openat2", "pipe", "pipe2", "pread64", "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "read",
    "readahead", "readlink", "readlinkat", "readv", "rename", "renameat", "renameat2", "rmdir", "sendfile",
    "sendfile64", "splice", "stat", "stat64", "statfs", "statfs64", "statx", "symlink", "symlinkat", "sync_file_range",
    "tee", "truncate", "truncate64", "umask", "unlink", "unlinkat", "utime", "utimensat", "utimensat_time64", "utimes",
    "write", "writev",
    /* memory (mmap has rules of its own) */
    "brk", "madvise", "mincore", "mlock", "mlock2", "mprotect", "mremap", "msync", "munlock", "munmap",
    /* processes, threads, signals */
    "arch_prctl", "execve", "execveat", "exit", "exit_group", "fork", "futex", "futex_time64", "futex_waitv",
    "get_robust_list", "getpgid", "getpgrp", "getpid", "getppid", "getsid", "gettid", "kill", "membarrier", "pause",
    "pidfd_open", "pidfd_send_signal", "restart_syscall", "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask",
    "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64",
    "rt_tgsigqueueinfo", "set_robust_list", "set_tid_address", "setpgid", "setsid", "set_thread_area",
    "get_thread_area", "sigaltstack", "sigreturn", "signalfd", "signalfd4", "tgkill", "tkill", "vfork", "wait4",
    "waitid", "waitpid",
    /* who and how much */
    "getcpu", "getegid", "getegid32", "geteuid", "geteuid32", "getgid", "getgid32", "getgroups", "getgroups32",
    "getpriority", "getrandom", "getresgid", "getresgid32", "getresuid", "getresuid32", "getrlimit", "getrusage",
    "getuid", "getuid32", "ioprio_get", "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity",
    "sched_getattr", "sched_getparam", "sched_getscheduler", "sched_rr_get_interval", "sched_yield", "sysinfo", "times",
    "ugetrlimit", "uname",
    /* time and waiting */
    "alarm", "clock_getres", "clock_getres_time64", "clock_gettime", "clock_gettime64", "clock_nanosleep",
    "clock_nanosleep_time64", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait",
    "eventfd", "eventfd2", "getitimer", "gettimeofday", "nanosleep", "_newselect", "poll", "ppoll", "ppoll_time64",
    "pselect6", "pselect6_time64", "select", "setitimer", "time", "timer_create", "timer_delete", "timer_getoverrun",
    "timer_gettime", "timer_settime", "timerfd_create", "timerfd_gettime", "timerfd_settime",
    /* a pair of sockets (socketpair has a rule of its own) */
    "getpeername", "getsockname", "getsockopt", "recvfrom", "recvmsg", "sendmsg", "sendto", "shutdown"};

/* What a program asks of its own files; the rest, and with it all of terminals that writes, is refused. */
static const unsigned long ioctls[] = {FIONREAD, FIOCLEX, FIONCLEX, FIONBIO, TCGETS, TIOCGWINSZ, TIOCGPGRP};

/* Not: leases, notices and owners of files (the caller's, in /data, may be under it), and larger pipes. */
static const int fcntls[] = {F_DUPFD,     F_DUPFD_CLOEXEC, F_GETFD,      F_SETFD,    F_GETFL,
                             F_SETFL,     F_GETLK,         F_SETLK,      F_SETLKW,   F_OFD_GETLK,
                             F_OFD_SETLK, F_OFD_SETLKW,    F_GETPIPE_SZ, F_GET_SEALS};

static const int prctls[] = {PR_SET_NAME,       PR_GET_NAME,         PR_SET_PDEATHSIG,    PR_GET_PDEATHSIG,
                             PR_GET_DUMPABLE,   PR_GET_NO_NEW_PRIVS, PR_SET_NO_NEW_PRIVS, PR_SET_TIMERSLACK,
                             PR_GET_TIMERSLACK, PR_GET_SECCOMP,      PR_CAPBSET_READ};

/* Of an argument of 64 bits the kernel reads these, where it is an int: a rule that compared all could be got around.
 */
#define LOW 0xffffffffUL

static int add(scmp_filter_ctx f, uint32_t action, const char *name, unsigned n, const struct scmp_arg_cmp *args) {
  int nr = seccomp_syscall_resolve_name(name);
  if (nr == __NR_SCMP_ERROR) return 0; /* newer than the library: then it is refused as all that is not named */
  return seccomp_rule_add_array(f, action, nr, n, args);
}

static int allow_equal(scmp_filter_ctx f, const char *name, unsigned arg, uint64_t mask, uint64_t value) {
  struct scmp_arg_cmp is = SCMP_CMP64(arg, SCMP_CMP_MASKED_EQ, mask, value);
  return add(f, SCMP_ACT_ALLOW, name, 1, &is);
}

/* clone: processes and threads, but none with a namespace of its own. clone3, whose flags a filter cannot read, does
 * not exist: C libraries fall back to clone. */
static int rules_of_clone(scmp_filter_ctx f) {
  uint64_t namespaces =
      CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
  return allow_equal(f, "clone", 0, namespaces, 0);
}

/* mmap: anonymous memory that is shared can be given up page by page and still be there, where no count of what a
 * process uses sees it; huge pages are in no limit. */
static int rules_of_mmap(scmp_filter_ctx f) {
  static const char *const names[] = {"mmap", "mmap2"};
  uint64_t never = MAP_HUGETLB, shared = MAP_SHARED | MAP_ANONYMOUS | never;
  int err = 0;
  for (size_t i = 0; i < PU_COUNT(names) && !err; i++) {
    if (!err) err = allow_equal(f, names[i], 3, MAP_ANONYMOUS | never, 0);
    if (!err) err = allow_equal(f, names[i], 3, shared, MAP_ANONYMOUS);
  }
  return err;
}

/* A pair of stream sockets: they cannot be sent from to any other. */
static int rules_of_socketpair(scmp_filter_ctx f) {
  struct scmp_arg_cmp is[] = {
      SCMP_CMP64(0, SCMP_CMP_MASKED_EQ, LOW, AF_UNIX),
      SCMP_CMP64(1, SCMP_CMP_MASKED_EQ, LOW & ~(uint64_t)(SOCK_CLOEXEC | SOCK_NONBLOCK), SOCK_STREAM)};
  return add(f, SCMP_ACT_ALLOW, "socketpair", 2, is);
}

/* Limits, of itself only, and never that of core dumps: it is what keeps them from a program of the machine's. */
static int rules_of_limits(scmp_filter_ctx f) {
  static const int may[] = {RLIMIT_AS,     RLIMIT_CPU,   RLIMIT_DATA, RLIMIT_FSIZE,
                            RLIMIT_NOFILE, RLIMIT_NPROC, RLIMIT_STACK};
  struct scmp_arg_cmp self = SCMP_CMP64(0, SCMP_CMP_MASKED_EQ, LOW, 0);
  int err = add(f, SCMP_ACT_ALLOW, "prlimit64", 2, (struct scmp_arg_cmp[]){self, SCMP_CMP64(2, SCMP_CMP_EQ, 0, 0)});
  for (size_t i = 0; i < PU_COUNT(may) && !err; i++) {
    struct scmp_arg_cmp is[] = {self, SCMP_CMP64(1, SCMP_CMP_MASKED_EQ, LOW, (uint64_t)may[i])};
    err = add(f, SCMP_ACT_ALLOW, "prlimit64", 2, is);
    if (!err) err = allow_equal(f, "setrlimit", 0, LOW, (uint64_t)may[i]);
  }
  return err;
}

static int rules(scmp_filter_ctx f) {
  int err = 0;
  for (size_t i = 0; i < PU_COUNT(allowed) && !err; i++) err = add(f, SCMP_ACT_ALLOW, allowed[i], 0, NULL);
  for (size_t i = 0; i < PU_COUNT(ioctls) && !err; i++) err = allow_equal(f, "ioctl", 1, LOW, ioctls[i]);
  for (size_t i = 0; i < PU_COUNT(fcntls) && !err; i++) {
    err = allow_equal(f, "fcntl", 1, LOW, (uint64_t)fcntls[i]);
    if (!err) err = allow_equal(f, "fcntl64", 1, LOW, (uint64_t)fcntls[i]);
  }
  for (size_t i = 0; i < PU_COUNT(prctls) && !err; i++) err = allow_equal(f, "prctl", 0, LOW, (uint64_t)prctls[i]);
  if (!err) err = rules_of_clone(f);
  if (!err) err = rules_of_mmap(f);
  if (!err) err = rules_of_socketpair(f);
  if (!err) err = rules_of_limits(f);
  if (!err) err = allow_equal(f, "sched_setaffinity", 0, LOW, 0);
  return err;
}

/* libseccomp writes filters to descriptors only. */
static pu_err export_to(scmp_filter_ctx f, pu_buf *out, pu_error *e) {
  int fd = memfd_create("filter", MFD_CLOEXEC);
  if (fd < 0) return pu_fail(e, PU_ERR_IO, "sandbox: a file in memory cannot be made: %s", strerror(errno));
  int err = seccomp_export_bpf(f, fd);
  off_t size = err ? 0 : lseek(fd, 0, SEEK_END);
  bool ok = size > 0 && pu_buf_reserve(out, (size_t)size) &&
            pread(fd, out->data + out->len, (size_t)size, 0) == (ssize_t)size;
  if (ok) out->len += (size_t)size;
  close(fd);
  return ok ? PU_OK
            : pu_fail(e, PU_ERR_INTERNAL, "sandbox: the filter of system calls cannot be made: %s", strerror(-err));
}

pu_err sandbox_filter(pu_buf *out, pu_error *e) {
  scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
  if (!f) return pu_fail(e, PU_ERR_NOMEM, "sandbox: no memory for the filter of system calls");
  int err = seccomp_attr_set(f, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
  if (!err) err = seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a tree: some ten comparisons a call, not 300 */
  if (!err) err = rules(f);
  pu_err result = err ? pu_fail(e, PU_ERR_INTERNAL, "sandbox: libseccomp refuses a rule: %s", strerror(-err))
                      : export_to(f, out, e);
  seccomp_release(f);
  return result;
}
