/* What tests of the sandbox share: a run in a line, and a main that, started by root, runs all tests once more as
 * nobody. */
#ifndef PUYU_TEST_SANDBOX_H
#define PUYU_TEST_SANDBOX_H

#include "puyu/sandbox.h"
#include "tests/test.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[] = "/tmp/puyu-sandbox-XXXXXX"; /* shown as /data, with the program `attempt` in it */
static int attempt_fd = -1;                        /* that program, opened before root was given up */
static bool have_python;

static pu_sandbox_result r; /* of the last run */
static pu_error err;
static char mark[64]; /* the last word of every command line in it */

/* Runs words; NULL ends them. input may be NULL. */
static inline pu_err run_words(const pu_sandbox_limits *l, const char *input, const char *const *words) {
  static int runs;
  const char *argv[20];
  int n = 0;
  for (; words[n]; n++) argv[n] = words[n];
  if (strcmp(argv[0], "/data/attempt") == 0) {
    snprintf(mark, sizeof mark, "puyu-mark-%d-%d", (int)getpid(), runs++);
    argv[n++] = mark;
  }
  argv[n] = NULL;
  pu_sandbox_job job = {.argv = argv,
                        .input = input ? pu_str_c(input) : (pu_str){0},
                        .limits = l ? *l : pu_sandbox_defaults(),
                        .read_only = folder};
  if (!l) job.limits.seconds = 60; /* none of the tests but those of limits is about time, on any machine */
  pu_sandbox_result_deinit(&r);
  err = (pu_error){0};
  return pu_sandbox_run(&job, NULL, &r, &err);
}

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

static inline const char *text_of(const pu_buf *b) {
  return b->data ? b->data : "";
}

static inline void ends_with(pu_sandbox_end end, int code) {
  char words[80];
  pu_sandbox_limits l = pu_sandbox_defaults();
  if (r.end == end && r.code == code) return;
  fail_msg("%s, out: %.3000s, err: %.1000s", pu_sandbox_end_text(&r, &l, words), text_of(&r.out), text_of(&r.err));
}

static inline void python(const char *code) {
  if (!have_python) skip();
  assert_ok(run_words(NULL, NULL, WORDS("python3", "-c", code)), &err);
}

/* Processes whose command line ends with the mark of the last run. */
static inline int left(void) {
  DIR *d = opendir("/proc");
  int n = 0;
  for (struct dirent *e; (e = readdir(d));) {
    char path[300], line[4096] = "";
    if (!isdigit((unsigned char)*e->d_name)) continue;
    snprintf(path, sizeof path, "/proc/%s/cmdline", e->d_name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t len = fd < 0 ? 0 : read(fd, line, sizeof line - 1);
    if (fd >= 0) close(fd);
    n += len > 0 && memmem(line, (size_t)len, mark, strlen(mark) + 1) != NULL;
  }
  closedir(d);
  return n;
}

static inline void nothing_left(void) {
  if (left()) fail_msg("%d processes with %s are left", left(), mark);
}

static inline bool copy_attempt(void) {
  char path[64], bytes[65536];
  snprintf(path, sizeof path, "%s/attempt", folder);
  int fd = open(path, O_CREAT | O_WRONLY | O_EXCL | O_CLOEXEC, 0755);
  off_t at = 0;
  for (ssize_t n; fd >= 0 && (n = pread(attempt_fd, bytes, sizeof bytes, at)) > 0; at += n)
    if (write(fd, bytes, (size_t)n) != n) return false;
  return fd >= 0 && close(fd) == 0;
}

static inline int make_folder(void **state) {
  (void)state;
  umask(022);
  return mkdtemp(folder) && chmod(folder, 0755) == 0 && copy_attempt() ? 0 : -1;
}

static inline int remove_folder(void **state) {
  (void)state;
  pu_sandbox_result_deinit(&r);
  return pu_remove_tree(folder, NULL) == PU_OK ? 0 : -1;
}

/* Where it cannot be had: nothing runs, and a line says why. */
static inline void test_fails_closed(void **state) {
  (void)state;
  pu_error e = {0};
  assert_int_equal(pu_sandbox_check(&e), PU_ERR_UNSUPPORTED);
  assert_non_null(strstr(e.msg, "sandbox: "));
  assert_int_equal(run_words(NULL, NULL, WORDS("/data/attempt", "environment")), PU_ERR_UNSUPPORTED);
  assert_int_equal(r.out.len, 0);
  printf("No sandbox can be had here, so only this was tested: that nothing runs without one. %s\n", e.msg);
}

/* Has this machine what a sandbox is made of? Then one that cannot be had is a fault of puyu's. A new process that is
 * root in namespaces of its own tries to mount there. */
static inline bool has_namespaces(void) {
  int all = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
  long pid = syscall(SYS_clone, (unsigned long)all | SIGCHLD, 0, 0, 0, 0);
  if (pid == 0) _exit(syscall(SYS_mount, NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0);
  int status = -1;
  return pid > 0 && waitpid((pid_t)pid, &status, 0) == pid && status == 0;
}

/* A new program, since one that gave up root may not look at its own descriptors in /proc. */
static inline int again_as_nobody(char **argv) {
  int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  char number[16];
  snprintf(number, sizeof number, "%d", attempt_fd);
  fflush(NULL);
  pid_t pid = fork();
  if (pid == 0) {
    extern char **environ;
    char *words[] = {argv[0], number, NULL};
    if (setgroups(0, NULL) == 0 && setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0)
      fexecve(self, words, environ);
    perror("again as nobody");
    _exit(127);
  }
  int status = -1;
  waitpid(pid, &status, 0);
  close(self);
  return status == 0 ? 0 : 1;
}

/* Gives the exit status of main. The group's setup and teardown are the two above, or call them. */
static inline int sandbox_main(int argc, char **argv, int (*tests)(void)) {
  const struct CMUnitTest closed[] = {cmocka_unit_test(test_fails_closed)};
  attempt_fd = argc > 1 ? atoi(argv[1]) : open(PU_ATTEMPT, O_RDONLY);
  have_python = access("/usr/bin/python3", X_OK) == 0;
  if (!have_python) printf("python3 is missing: what runs it is skipped\n");
  pu_error e = {0};
  printf("as user %d\n", (int)geteuid());
  bool have = pu_sandbox_check(&e) == PU_OK;
  int bad = have ? tests() : cmocka_run_group_tests(closed, make_folder, remove_folder);
  if (!have && has_namespaces() && !strstr(e.msg, "it needs Linux")) {
    fprintf(stderr, "this machine has what a sandbox needs: %s\n", e.msg);
    bad = 1;
  }
  return argc == 1 && geteuid() == 0 ? again_as_nobody(argv) | bad : bad;
}

#endif
