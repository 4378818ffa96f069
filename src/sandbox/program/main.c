/* The watcher: makes the namespaces, maps ids, looks at what is used, and kills all when told to. */
#include "src/sandbox/program/box.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

void box_send(const box_report *r) {
  ssize_t sent = write(BOX_REPORT, r, sizeof *r); /* smaller than PIPE_BUF: whole, or puyu is gone */
  if (sent != (ssize_t)sizeof *r) _exit(1);
}

_Noreturn void box_fail(box_step step, const char *what) {
  box_report r = {.end = BOX_FAILED, .code = errno, .step = step};
  snprintf(r.what, sizeof r.what, "%s", what);
  box_send(&r);
  _exit(1);
}

/* The plan stays mapped: filter and texts point into it. */
static box read_plan(void) {
  struct stat st;
  if (fstat(BOX_PLAN, &st) != 0) box_fail(BOX_STEP_PLAN, "");
  char *p = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, BOX_PLAN, 0);
  if (p == MAP_FAILED) box_fail(BOX_STEP_PLAN, "");
  box b = {.plan = *(box_plan *)p};
  if (st.st_size != (off_t)(sizeof b.plan + b.plan.room)) {
    errno = EINVAL;
    box_fail(BOX_STEP_PLAN, "");
  }
  b.filter = (struct sock_filter *)(p + sizeof b.plan);
  char *text = (char *)(b.filter + b.plan.filters);
  b.argv = calloc(b.plan.argc + 1, sizeof *b.argv);
  if (!b.argv) box_fail(BOX_STEP_PLAN, "");
  for (uint32_t i = 0; i < b.plan.argc; i++, text += strlen(text) + 1) b.argv[i] = text;
  b.folder = text;
  return b;
}

static void write_proc(int pid, const char *name, const char *text) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) box_fail(BOX_STEP_MAP, path);
  close(fd);
}

/* One id inside, and no other: whatever else owns a file is nobody there. */
static void map_ids(const box *b, int pid) {
  char line[64];
  if (!b->plan.privileged) write_proc(pid, "setgroups", "deny"); /* or the kernel does not let us map groups */
  snprintf(line, sizeof line, "%d %u 1", BOX_INSIDE, b->plan.privileged ? (unsigned)BOX_NOBODY : (unsigned)geteuid());
  write_proc(pid, "uid_map", line);
  snprintf(line, sizeof line, "%d %u 1", BOX_INSIDE, b->plan.privileged ? (unsigned)BOX_NOBODY : (unsigned)getegid());
  write_proc(pid, "gid_map", line);
}

/* Until the first process inside ends, an order comes or a limit is passed. Returns the limit, or BOX_EXIT. */
static box_end watch(const box *b, int pid, int pidfd) {
  struct pollfd fds[2] = {{.fd = pidfd, .events = POLLIN}, {.fd = BOX_ORDER, .events = POLLIN}};
  for (;;) {
    if (poll(fds, 2, BOX_LOOK_MS) < 0 && errno != EINTR) return BOX_KILLED;
    if (fds[1].revents) return BOX_KILLED;
    if (fds[0].revents) return BOX_EXIT;
    box_use use = box_look(pid, b->plan.memory);
    if (use.memory > b->plan.memory) return BOX_MEMORY;
    if (use.cpu_seconds > b->plan.cpu_seconds) return BOX_CPU;
  }
}

static void report_end(box_end end, int result) {
  int status = SIGKILL; /* of a first process that was killed before it could say */
  if (read(result, &status, sizeof status) != (ssize_t)sizeof status) status = SIGKILL;
  box_report r = {.end = end};
  if (end == BOX_EXIT && WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU) {
    r.end = BOX_CPU;
  } else if (end == BOX_EXIT) {
    r.end = WIFEXITED(status) ? BOX_EXIT : BOX_SIGNAL;
    r.code = WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status);
  }
  box_send(&r);
}

/* Rather these than puyu when the machine runs out of memory. No wall: it may fail. */
static void offer_to_oom(void) {
  int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  ssize_t sent = write(fd, "1000", 4);
  (void)sent;
  close(fd);
}

int main(void) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (syscall(SYS_close_range, BOX_ORDER + 1, ~0U, 0) != 0 ||
      syscall(SYS_close_range, BOX_PLAN, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */) != 0)
    box_fail(BOX_STEP_PLAN, "");
  umask(022);
  box b = read_plan();
  if (!box_can_look()) box_fail(BOX_STEP_WATCH, "");
  offer_to_oom();
  int go[2], result[2], pidfd = -1;
  if (pipe2(go, O_CLOEXEC) != 0 || pipe2(result, O_CLOEXEC) != 0) box_fail(BOX_STEP_PLAN, "");
  unsigned long flags = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |
                        CLONE_NEWCGROUP | CLONE_PIDFD | SIGCHLD;
  long pid = syscall(SYS_clone, flags, NULL, &pidfd, NULL, 0UL);
  if (pid < 0) box_fail(BOX_STEP_CLONE, "");
  if (pid == 0) {
    close(go[1]);
    close(result[0]);
    close(BOX_ORDER);
    box_inside(&b, go[0], result[1]);
  }
  close(go[0]);
  close(result[1]);
  map_ids(&b, (int)pid);
  if (write(go[1], "", 1) != 1) box_fail(BOX_STEP_MAP, "");
  box_end end = watch(&b, (int)pid, pidfd);
  kill((pid_t)pid, SIGKILL);
  /* Waiting for the first process of a pid namespace is waiting for all of it. */
  while (waitpid((pid_t)pid, NULL, 0) < 0 && errno == EINTR) {}
  report_end(end, result[0]);
  return 0;
}
