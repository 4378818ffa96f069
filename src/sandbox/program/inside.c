/* The first process inside: builds the walls around itself, starts the program, reaps. Nothing but SIGKILL from outside
 * ends it: it has no signal handlers, and it is the first process of its pid namespace. */
#include "src/sandbox/program/box.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static char *const environment[] = {
    "PATH=/usr/local/bin:/usr/bin:/bin",
    "HOME=/tmp",
    "TMPDIR=/tmp",
    "USER=user",
    "LANG=C.UTF-8",
    "LC_ALL=C.UTF-8",
    "TZ=UTC",
    "TERM=dumb",
    "PYTHONUNBUFFERED=1", /* what was printed before a limit is there to be read */
    "MALLOC_ARENA_MAX=2", /* threads reserve address space, which is limited */
    "OMP_NUM_THREADS=1",
    "OPENBLAS_NUM_THREADS=1",
    NULL,
};

/* Ends with the watcher. That is lost when ids change, so it is asked for again then; a watcher that died before it was
 * asked for is noticed by the end of its pipe. */
static void die_with_watcher(int go) {
  struct pollfd p = {.fd = go, .events = POLLIN};
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || (poll(&p, 1, 0) > 0 && p.revents & POLLHUP)) _exit(1);
}

_Noreturn static void start(const box *b) {
  setsid();
  if (b->plan.check_only) _exit(0);
  execvpe(b->argv[0], b->argv, environment);
  box_fail(BOX_STEP_EXEC, b->argv[0]);
}

_Noreturn void box_inside(const box *b, int go, int result) {
  char byte;
  die_with_watcher(go);
  if (read(go, &byte, 1) != 1) _exit(1);
  const box_binds *binds = box_take_binds(b);
  box_become_user(b);
  die_with_watcher(go);
  box_make_root(b, binds);
  box_set_limits(b);
  box_drop_privileges();
  box_set_filter(b);
  pid_t pid = fork();
  if (pid < 0) box_fail(BOX_STEP_EXEC, "its first process");
  if (pid == 0) start(b);
  for (;;) {
    int status;
    pid_t ended = waitpid(-1, &status, 0);
    if (ended < 0 && errno != EINTR) _exit(1);
    if (ended != pid) continue;
    ssize_t sent = write(result, &status, sizeof status);
    _exit(sent == (ssize_t)sizeof status ? 0 : 1); /* and with it all that is left inside */
  }
}
