/* Runs the program itself, as a user's shell would. */
#ifndef PUYU_E2E_PROGRAM_H
#define PUYU_E2E_PROGRAM_H

#include "tests/test.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_WORDS = 32 };

/* Starts `puyu WORDS…` (NULL-ended) with both outputs in files. */
static inline pid_t program_start(const char *const *words, const char *out, const char *err) {
  const char *argv[MAX_WORDS + 2] = {PU_PROGRAM};
  for (int i = 0; words[i] && i < MAX_WORDS; i++) argv[i + 1] = words[i];
  pid_t pid = fork();
  if (pid != 0) return pid;
  int o = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0644), e = open(err, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (o < 0 || e < 0 || dup2(o, 1) < 0 || dup2(e, 2) < 0) _exit(126);
  execv(PU_PROGRAM, (char *const *)(uintptr_t)argv);
  _exit(127);
}

/* The exit status; 128 + signal. */
static inline int program_wait(pid_t pid) {
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static inline bool program_ended(pid_t pid) {
  siginfo_t info = {0};
  return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid;
}

static inline bool file_says(const char *path, const char *what) {
  pu_buf b;
  pu_buf_init(&b, 64 << 20);
  bool found = pu_file_read(path, 64 << 20, &b, NULL) == PU_OK && b.data && strstr(b.data, what);
  if (!found) print_message("%s does not say '%s' but:\n%s\n", path, what, b.data ? b.data : "");
  pu_buf_deinit(&b);
  return found;
}

#endif
