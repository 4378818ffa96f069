/* Ways out, each its own case: tests/sandbox/attempt.c tries, and must be held; what the machine shows must say so too.
 */
#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "tests/sandbox/sandbox.h"

static int tcp = -1, udp = -1, by_name = -1, by_file = -1; /* what programs inside try to reach */
static char port[2][16], name[64], pid[16], secret[64], home_secret[300];

static void write_secret(const char *path) {
  int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return;
  ssize_t n = write(fd, "SECRET\n", 7);
  assert_int_equal(n, 7);
  close(fd);
}

static int listen_inet(int type, char text[16]) {
  struct sockaddr_in at = {.sin_family = AF_INET};
  socklen_t len = sizeof at;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
  if (type == SOCK_STREAM) assert_int_equal(listen(fd, 8), 0);
  assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
  snprintf(text, 16, "%d", ntohs(at.sin_port));
  return fd;
}

static int listen_unix(const char *path, bool abstract) {
  struct sockaddr_un at = {.sun_family = AF_UNIX};
  snprintf(at.sun_path + abstract, sizeof at.sun_path - abstract, "%s", path);
  socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + abstract + strlen(path));
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  assert_int_equal(bind(fd, (struct sockaddr *)&at, len), 0);
  if (!abstract) assert_int_equal(chmod(path, 0777), 0);
  assert_int_equal(listen(fd, 8), 0);
  return fd;
}

static int set_up(void **state) {
  if (make_folder(state) != 0) return -1;
  char path[64];
  snprintf(path, sizeof path, "%s/socket", folder);
  tcp = listen_inet(SOCK_STREAM, port[0]);
  udp = listen_inet(SOCK_DGRAM, port[1]);
  snprintf(name, sizeof name, "puyu-test-%d", (int)getpid());
  by_name = listen_unix(name, true);
  by_file = listen_unix(path, false);
  snprintf(pid, sizeof pid, "%d", (int)getpid());
  snprintf(secret, sizeof secret, "/tmp/puyu-secret-%d", (int)getpid());
  write_secret(secret);
  const char *home = getenv("HOME");
  snprintf(home_secret, sizeof home_secret, "%s/.puyu-secret-%d", home ? home : "", (int)getpid());
  write_secret(home_secret);
  int open_one = open(secret, O_RDONLY); /* left open, for programs to inherit */
  return setenv("PUYU_SECRET", "SECRET", 1) == 0 && dup2(open_one, 100) == 100 && dup2(open_one, 700) == 700 ? 0 : -1;
}

static int tear_down(void **state) {
  unlink(secret);
  unlink(home_secret);
  int fds[] = {tcp, udp, by_name, by_file, 100, 700};
  for (size_t i = 0; i < PU_COUNT(fds); i++) close(fds[i]);
  return remove_folder(state);
}

/* ---- attempts that are refused ---- */

/* The program says it was held on every way, and nobody came to where it wanted to go. */
static void held(const char *const *words) {
  char bytes[8];
  assert_ok(run_words(NULL, NULL, words), &err);
  ends_with(PU_SANDBOX_EXIT, 0);
  assert_null(strstr(text_of(&r.out), "got through"));
  assert_null(strstr(text_of(&r.out), "SECRET"));
  assert_int_equal(accept(tcp, NULL, NULL), -1);
  assert_int_equal(accept(by_name, NULL, NULL), -1);
  assert_int_equal(accept(by_file, NULL, NULL), -1);
  assert_int_equal(recv(udp, bytes, sizeof bytes, 0), -1);
  nothing_left();
}

#define HELD(test, ...)                                                                                                \
  static void test_##test(void **state) {                                                                              \
    (void)state;                                                                                                       \
    held(WORDS("/data/attempt", __VA_ARGS__));                                                                         \
  }

HELD(tcp, "tcp", port[0])
HELD(udp, "udp", port[1])
HELD(dns, "dns")
HELD(unix_sockets, "unix", "/data/socket", name)
HELD(sockets, "sockets")
HELD(read, "read", secret, home_secret, "/etc/shadow", "/etc/hostname", "/root", "/home", "/var", "/run", "/sys",
     "/boot", "/mnt", "/proc/sys", "/opt")
HELD(descriptors, "descriptors")
HELD(write, "write")
HELD(kernel_files, "kernel-files")
HELD(mknod, "mknod")
HELD(locks, "locks")
HELD(huge_file, "huge-file")
HELD(many_files, "many-files")
HELD(ptrace, "ptrace", pid)
HELD(signals, "signals", pid)
HELD(namespaces, "namespaces")
HELD(mounts, "mounts")
HELD(ids, "ids")
HELD(status, "status")
HELD(calls, "calls")
HELD(terminal, "terminal")
HELD(memory_tricks, "memory-tricks")
HELD(environment, "environment")

/* A root caller gives no root away: outside, the program is nobody, without groups. */
static void test_groups(void **state) {
  (void)state;
  held(WORDS("/data/attempt", "status", geteuid() == 0 ? "1" : "0"));
  if (geteuid() == 0) assert_null(strstr(text_of(&r.out), "Groups:\t0"));
}

/* What the attempts say of other doors is that the process is no more. */
static void test_doors(void **state) {
  (void)state;
  assert_ok(run_words(NULL, NULL, WORDS("/data/attempt", "old-door")), &err);
  ends_with(PU_SANDBOX_SIGNAL, SIGSYS);
  assert_ok(run_words(NULL, NULL, WORDS("/data/attempt", "x32-door")), &err);
  ends_with(PU_SANDBOX_SIGNAL, SIGSYS);
}

/* kill(-1) ends the program itself, if anything, and nobody outside. */
static void test_kill_all(void **state) {
  (void)state;
  assert_ok(run_words(NULL, NULL, WORDS("/data/attempt", "kill-all")), &err);
  ends_with(PU_SANDBOX_SIGNAL, SIGKILL);
  nothing_left();
}

static void test_core(void **state) {
  (void)state;
  assert_ok(run_words(NULL, NULL, WORDS("/data/attempt", "core")), &err);
  ends_with(PU_SANDBOX_SIGNAL, SIGABRT);
  assert_non_null(strstr(text_of(&r.out), "held"));
  assert_int_not_equal(access("core", F_OK), 0);
}

static void test_stack(void **state) {
  (void)state;
  assert_ok(run_words(NULL, NULL, WORDS("/data/attempt", "stack")), &err);
  ends_with(PU_SANDBOX_SIGNAL, SIGSEGV);
}

/* What of the machine must be as before. */
static void test_machine(void **state) {
  (void)state;
  char before[64], after[64];
  struct timeval then, now;
  gethostname(before, sizeof before);
  gettimeofday(&then, NULL);
  python("import ctypes, os\n"
         "c = ctypes.CDLL(None, use_errno=True)\n"
         "print(c.sethostname(b'gone', 4), ctypes.get_errno())\n"
         "print(c.settimeofday((ctypes.c_long * 2)(1, 0), None), ctypes.get_errno())\n"
         "print(c.unshare(0x10000000), c.mount(b'x', b'/tmp', b'tmpfs', 0, None), c.chroot(b'/tmp'))\n"
         "print(os.uname().nodename)");
  assert_string_equal(text_of(&r.out), "-1 38\n-1 38\n-1 -1 -1\nsandbox\n");
  gethostname(after, sizeof after);
  gettimeofday(&now, NULL);
  assert_string_equal(before, after);
  assert_true(now.tv_sec >= then.tv_sec);
}

/* ---- more than it was given ---- */

static void test_forks(void **state) {
  (void)state;
  pu_sandbox_limits l = pu_sandbox_defaults();
  l.seconds = 60;
  l.processes = 20;
  for (int i = 0; i < 2; i++) { /* processes and threads: 20 with the first, so 19 more */
    assert_ok(run_words(&l, NULL, WORDS("/data/attempt", i ? "threads" : "forks", "20")), &err);
    ends_with(PU_SANDBOX_EXIT, 0);
    assert_non_null(strstr(text_of(&r.out), "made 19"));
    nothing_left();
  }
}

/* Ended by the clock, or by its processor time, whichever comes first; in both cases whole. */
static void test_fork_bomb(void **state) {
  (void)state;
  pu_sandbox_limits l = pu_sandbox_defaults();
  l.seconds = 1.5;
  assert_ok(run_words(&l, NULL, WORDS("/data/attempt", "bomb")), &err);
  assert_true(r.end == PU_SANDBOX_TIMEOUT || r.end == PU_SANDBOX_CPU);
  nothing_left();
}

static void test_memory(void **state) {
  (void)state;
  pu_sandbox_limits l = pu_sandbox_defaults();
  l.seconds = 60;
  l.memory = 100 << 20;
  assert_ok(run_words(&l, NULL, WORDS("/data/attempt", "memory", "104857600")), &err);
  ends_with(PU_SANDBOX_EXIT, 0);
}

/* Each alone is within the limit. */
static void test_memory_together(void **state) {
  (void)state;
  pu_sandbox_limits l = pu_sandbox_defaults();
  l.seconds = 60;
  l.memory = 100 << 20;
  assert_ok(run_words(&l, NULL, WORDS("/data/attempt", "memory-together", "8", "50000000")), &err);
  ends_with(PU_SANDBOX_MEMORY, 0);
  nothing_left();
}

/* Those whose first thread has ended hold memory all the same. */
static void test_memory_headless(void **state) {
  (void)state;
  pu_sandbox_limits l = pu_sandbox_defaults();
  l.seconds = 60;
  l.memory = 100 << 20;
  assert_ok(run_words(&l, NULL, WORDS("/data/attempt", "memory-headless", "8", "50000000")), &err);
  ends_with(PU_SANDBOX_MEMORY, 0);
  nothing_left();
}

static void test_memory_of_vfork(void **state) {
  (void)state;
  pu_sandbox_limits l = pu_sandbox_defaults();
  l.seconds = 60;
  l.memory = 100 << 20;
  assert_ok(run_words(&l, NULL, WORDS("/data/attempt", "vfork", "70000000")), &err);
  ends_with(PU_SANDBOX_EXIT, 0);
}

/* What processes share counts once: eight that share 60 MB use less than 100. */
static void test_memory_shared(void **state) {
  (void)state;
  if (!have_python) skip();
  pu_sandbox_limits l = pu_sandbox_defaults();
  l.seconds = 60;
  l.memory = 160 << 20;
  const char *code = "import os, time\n"
                     "x = bytes(60000000)\n"
                     "for i in range(8):\n"
                     "  if os.fork() == 0: time.sleep(0.5); os._exit(0)\n"
                     "for i in range(8): os.wait()\n"
                     "print('shared')";
  assert_ok(run_words(&l, NULL, WORDS("python3", "-c", code)), &err);
  ends_with(PU_SANDBOX_EXIT, 0);
}

static void test_disk(void **state) {
  (void)state;
  pu_sandbox_limits l = pu_sandbox_defaults();
  l.seconds = 60;
  l.files = 8 << 20;
  assert_ok(run_words(&l, NULL, WORDS("/data/attempt", "fill", "8388608")), &err);
  ends_with(PU_SANDBOX_EXIT, 0);
}

static void test_output(void **state) {
  (void)state;
  pu_sandbox_limits l = pu_sandbox_defaults();
  l.seconds = 60;
  l.output = 100000;
  assert_ok(run_words(&l, NULL, WORDS("/data/attempt", "output")), &err);
  ends_with(PU_SANDBOX_OUTPUT, 0);
  assert_int_equal(r.out.len + r.err.len, 100000);
  nothing_left();
}

static void test_spin(void **state) {
  (void)state;
  pu_sandbox_limits l = pu_sandbox_defaults();
  l.seconds = 100;
  l.cpu_seconds = 0.5;
  for (int i = 0; i < 2; i++) {
    assert_ok(run_words(&l, NULL, WORDS("/data/attempt", i ? "spin-together" : "spin")), &err);
    ends_with(PU_SANDBOX_CPU, 0);
    nothing_left();
  }
}

/* Time of children that nobody waits for counts, too. */
static void test_spin_unwaited(void **state) {
  (void)state;
  pu_sandbox_limits l = pu_sandbox_defaults();
  l.seconds = 100;
  l.cpu_seconds = 0.5;
  assert_ok(run_words(&l, NULL, WORDS("/data/attempt", "spin-unwaited", "200")), &err);
  ends_with(PU_SANDBOX_CPU, 0);
  nothing_left();
}

static void test_sleep(void **state) {
  (void)state;
  pu_sandbox_limits l = pu_sandbox_defaults();
  l.seconds = 0.5;
  assert_ok(run_words(&l, NULL, WORDS("/data/attempt", "sleep")), &err);
  ends_with(PU_SANDBOX_TIMEOUT, 0);
  assert_true(r.seconds >= 0.5);
  nothing_left();
}

/* The run is over with the program, not with what it left behind. */
static void test_daemon(void **state) {
  (void)state;
  assert_ok(run_words(NULL, NULL, WORDS("/data/attempt", "daemon")), &err);
  ends_with(PU_SANDBOX_EXIT, 0);
  assert_string_equal(text_of(&r.out), "left\n");
  nothing_left();
}

#define TEST(name) cmocka_unit_test(test_##name)

static int all(void) {
  const struct CMUnitTest tests[] = {TEST(tcp),
                                     TEST(udp),
                                     TEST(dns),
                                     TEST(unix_sockets),
                                     TEST(sockets),
                                     TEST(read),
                                     TEST(descriptors),
                                     TEST(write),
                                     TEST(kernel_files),
                                     TEST(mknod),
                                     TEST(locks),
                                     TEST(huge_file),
                                     TEST(many_files),
                                     TEST(ptrace),
                                     TEST(signals),
                                     TEST(namespaces),
                                     TEST(mounts),
                                     TEST(ids),
                                     TEST(status),
                                     TEST(calls),
                                     TEST(terminal),
                                     TEST(memory_tricks),
                                     TEST(environment),
                                     TEST(groups),
                                     TEST(doors),
                                     TEST(kill_all),
                                     TEST(core),
                                     TEST(stack),
                                     TEST(machine),
                                     TEST(forks),
                                     TEST(fork_bomb),
                                     TEST(memory),
                                     TEST(memory_together),
                                     TEST(memory_headless),
                                     TEST(memory_of_vfork),
                                     TEST(memory_shared),
                                     TEST(disk),
                                     TEST(output),
                                     TEST(spin),
                                     TEST(spin_unwaited),
                                     TEST(sleep),
                                     TEST(daemon)};
  return cmocka_run_group_tests(tests, set_up, tear_down);
}

int main(int argc, char **argv) {
  return sandbox_main(argc, argv, all);
}
