/* Starts the program that builds the walls. It is run from memory, so that puyu stays one file; nothing of this process
 * goes along but the six descriptors it is given. */
#include "src/sandbox/inner.h"
#include "src/sandbox/plan.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

enum { ABOVE = 16 }; /* descriptors here are above those of the program, so that moving one never covers another */

static pu_err no_descriptor(pu_error *e) {
  return pu_fail(e, PU_ERR_IO, "sandbox: no file or pipe for it: %s%s", strerror(errno),
                 errno == EMFILE   ? "; ulimit -n is too low"
                 : errno == ENOENT ? "; /proc must be mounted"
                                   : "");
}

/* Above those of the program; the old one is closed. */
static int lift(int fd) {
  int high = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, ABOVE);
  if (fd >= 0) close(fd);
  return high;
}

static bool write_all(int fd, pu_str s) {
  while (s.len) {
    ssize_t n = write(fd, s.ptr, s.len);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    s.ptr += n, s.len -= (size_t)n;
  }
  return true;
}

/* To who the program is, so that it may open /dev/stdin and the like. Where that cannot be its id cannot be mapped
 * either, and the run fails for that. */
static void give_away(int fd) {
  int failed = geteuid() == 0 ? fchown(fd, BOX_NOBODY, BOX_NOBODY) : 0;
  (void)failed;
}

/* A kernel before 6.3 does not know MFD_EXEC, and lets all be run. */
static int make_memory(const char *name, bool run) {
  int fd = run ? memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC) : -1;
  return fd >= 0 ? fd : memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
}

/* Sealed, since its descriptor goes to those we do not trust, and opened anew, for reading. */
static pu_err memory_file(const char *name, pu_str bytes, bool run, int *fd, pu_error *e) {
  char path[64];
  int made = make_memory(name, run);
  if (made < 0) return no_descriptor(e);
  bool ok =
      write_all(made, bytes) && fcntl(made, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) == 0;
  give_away(made);
  snprintf(path, sizeof path, "/proc/self/fd/%d", made);
  *fd = ok ? lift(open(path, O_RDONLY | O_CLOEXEC)) : -1;
  pu_err err = *fd < 0 ? no_descriptor(e) : PU_OK;
  close(made);
  return err;
}

/* ours: which end stays here, 0 (reading) or 1. */
static pu_err make_pipe(int ours, int *here, int *there, pu_error *e) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return no_descriptor(e);
  *here = lift(ends[ours]);
  *there = lift(ends[1 - ours]);
  return *here < 0 || *there < 0 ? no_descriptor(e) : PU_OK;
}

typedef struct side {
  int fd[BOX_ORDER + 1]; /* the program's descriptors by their numbers there */
  int program;
} side;

static pu_err open_all(pu_str plan, pu_str input, side *s, sandbox_child *c, pu_error *e) {
  PU_TRY(
      memory_file("puyu-sandbox", pu_str_of((const char *)sandbox_program, sandbox_program_len), true, &s->program, e));
  PU_TRY(memory_file("plan", plan, false, &s->fd[BOX_PLAN], e));
  PU_TRY(memory_file("input", input, false, &s->fd[0], e));
  PU_TRY(make_pipe(0, &c->out, &s->fd[1], e));
  PU_TRY(make_pipe(0, &c->err, &s->fd[2], e));
  PU_TRY(make_pipe(0, &c->report, &s->fd[BOX_REPORT], e));
  PU_TRY(make_pipe(1, &c->order, &s->fd[BOX_ORDER], e));
  bool ok = fcntl(c->out, F_SETFL, O_NONBLOCK) == 0 && fcntl(c->err, F_SETFL, O_NONBLOCK) == 0;
  give_away(s->fd[1]);
  give_away(s->fd[2]);
  return ok ? PU_OK : no_descriptor(e);
}

/* In a session of its own, without signals blocked, ignored or handled, and with an empty environment. */
static int start(const side *s, pid_t *pid) {
  char path[64], *argv[] = {(char[]){"puyu-sandbox"}, NULL}, *envp[] = {NULL};
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attr;
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  snprintf(path, sizeof path, "/proc/self/fd/%d", s->program);
  int err = posix_spawn_file_actions_init(&actions);
  if (err) return err;
  err = posix_spawnattr_init(&attr);
  if (!err) {
    for (int i = 0; i <= BOX_ORDER && !err; i++) err = posix_spawn_file_actions_adddup2(&actions, s->fd[i], i);
    if (!err) err = posix_spawnattr_setsigmask(&attr, &none);
    if (!err) err = posix_spawnattr_setsigdefault(&attr, &all);
    if (!err)
      err = posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
    if (!err) err = posix_spawn(pid, path, &actions, &attr, argv, envp);
    posix_spawnattr_destroy(&attr);
  }
  posix_spawn_file_actions_destroy(&actions);
  return err;
}

static void shut(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

pu_err sandbox_spawn(pu_str plan, pu_str input, sandbox_child *out, pu_error *e) {
  side s = {.program = -1};
  memset(s.fd, -1, sizeof s.fd);
  *out = (sandbox_child){-1, -1, -1, -1, -1};
  pu_err err = open_all(plan, input, &s, out, e);
  int failed = err ? 0 : start(&s, &out->pid);
  if (failed)
    err =
        pu_fail(e, PU_ERR_UNSUPPORTED, "sandbox: the program that builds it cannot be run from memory: %s%s",
                strerror(failed), failed == EACCES ? "; sysctl vm.memfd_noexec must be 0 or 1, and /proc mounted" : "");
  for (int i = 0; i <= BOX_ORDER; i++) shut(&s.fd[i]);
  shut(&s.program);
  if (err) sandbox_child_close(out);
  return err;
}

void sandbox_child_close(sandbox_child *c) {
  shut(&c->order);
  shut(&c->out);
  shut(&c->err);
  if (c->pid > 0)
    while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR) {}
  shut(&c->report);
  c->pid = -1;
}
