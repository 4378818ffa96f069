/* A run as puyu sees it: checks the job, writes the plan, reads what comes, keeps the clock. */
#include "src/sandbox/inner.h"
#include "src/sandbox/plan.h"

#include <errno.h>
#include <linux/filter.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

enum { TURN_MS = 50, MOST_ARGUMENTS = 1 << 20, MOST_PROCESSES = 4000, DAY = 86400 };

pu_sandbox_limits pu_sandbox_defaults(void) {
  return (pu_sandbox_limits){.seconds = 10,
                             .cpu_seconds = 10,
                             .memory = (size_t)512 << 20,
                             .processes = 32,
                             .output = 1 << 20,
                             .files = (size_t)64 << 20};
}

/* ---- the job ---- */

static pu_err check_limits(const pu_sandbox_limits *l, pu_error *e) {
  if (!(l->seconds > 0 && l->seconds <= DAY) || !(l->cpu_seconds > 0 && l->cpu_seconds <= 1e6))
    return pu_fail(e, PU_ERR_USAGE, "sandbox: seconds must be above 0 and at most %d, cpu_seconds at most 1000000",
                   DAY);
  if (l->processes < 1 || l->processes > MOST_PROCESSES)
    return pu_fail(e, PU_ERR_USAGE, "sandbox: processes must be in 1 to %d", MOST_PROCESSES);
  if (l->memory < 8 << 20 || l->memory > (size_t)1 << 50 || l->files < 1 || l->files > (size_t)1 << 50)
    return pu_fail(e, PU_ERR_USAGE, "sandbox: memory must be at least 8 MiB and files above 0");
  if (l->output < 1 || l->output > PU_BUF_MAX / 2)
    return pu_fail(e, PU_ERR_USAGE, "sandbox: output must be above 0 and at most 2 GiB");
  return PU_OK;
}

static pu_err make_plan(const pu_sandbox_job *job, bool check_only, pu_buf *out, pu_error *e) {
  const pu_sandbox_limits *l = &job->limits;
  box_plan plan = {.check_only = check_only,
                   .privileged = geteuid() == 0,
                   .processes = (uint32_t)l->processes,
                   .memory = l->memory,
                   .files = l->files,
                   .cpu_seconds = l->cpu_seconds};
  pu_buf_append(out, &plan, sizeof plan);
  PU_TRY(sandbox_filter(out, e));
  plan.filters = (uint32_t)((out->len - sizeof plan) / sizeof(struct sock_filter));
  for (; job->argv[plan.argc]; plan.argc++) pu_buf_append(out, job->argv[plan.argc], strlen(job->argv[plan.argc]) + 1);
  if (job->read_only)
    PU_TRY(sandbox_folder(job->read_only, out, e));
  else
    pu_buf_append(out, "", 1);
  if (out->failed) return pu_fail(e, PU_ERR_USAGE, "sandbox: the arguments are more than 1 MiB: give text as input");
  plan.room = (uint32_t)(out->len - sizeof plan);
  memcpy(out->data, &plan, sizeof plan);
  return PU_OK;
}

/* ---- the run ---- */

typedef struct run {
  const pu_sandbox_job *job;
  bool (*stop)(void);
  pu_sandbox_result *result;
  sandbox_child child;
  double began;
  bool ordered, stopped, past; /* an end was asked for; by stop; a limit that is ours was passed: result->end */
  box_report report;
  bool reported;
} run;

static void end_run(run *r, bool limit, pu_sandbox_end end) {
  if (r->ordered) return;
  r->ordered = true;
  r->past = limit;
  if (limit) r->result->end = end;
  close(r->child.order);
  r->child.order = -1;
}

/* Keeps what fits; more is read and dropped, so that nobody waits. False: its end. */
static bool take_output(run *r, int fd, pu_buf *into) {
  char bytes[16384];
  ssize_t n = read(fd, bytes, sizeof bytes);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return true;
  if (n <= 0) return false;
  size_t left = r->job->limits.output - r->result->out.len - r->result->err.len, keep = PU_MIN((size_t)n, left);
  if (!pu_buf_append(into, bytes, keep) || keep < (size_t)n) end_run(r, true, PU_SANDBOX_OUTPUT);
  return true;
}

static bool take_report(run *r) {
  box_report got;
  ssize_t n = read(r->child.report, &got, sizeof got);
  if (n < 0 && errno == EINTR) return true;
  if (n == (ssize_t)sizeof got && !r->reported) r->report = got, r->reported = true;
  return n > 0;
}

static void look_at_clock(run *r) {
  if (r->stop && !r->ordered && r->stop()) r->stopped = true, end_run(r, false, PU_SANDBOX_EXIT);
  if (pu_now() - r->began >= r->job->limits.seconds) end_run(r, true, PU_SANDBOX_TIMEOUT);
}

static int turn_ms(const run *r) {
  double left = r->job->limits.seconds - (pu_now() - r->began);
  return r->ordered || left > TURN_MS * 1e-3 ? TURN_MS : left > 0 ? (int)ceil(left * 1e3) : 0;
}

/* Until all pipes ended, which is when no process of the run is left. */
static void follow(run *r) {
  struct pollfd fds[3] = {{.fd = r->child.out, .events = POLLIN},
                          {.fd = r->child.err, .events = POLLIN},
                          {.fd = r->child.report, .events = POLLIN}};
  while (fds[0].fd >= 0 || fds[1].fd >= 0 || fds[2].fd >= 0) {
    look_at_clock(r);
    if (poll(fds, 3, turn_ms(r)) <= 0) continue;
    if (fds[0].fd >= 0 && fds[0].revents && !take_output(r, fds[0].fd, &r->result->out)) fds[0].fd = -1;
    if (fds[1].fd >= 0 && fds[1].revents && !take_output(r, fds[1].fd, &r->result->err)) fds[1].fd = -1;
    if (fds[2].fd >= 0 && fds[2].revents && !take_report(r)) fds[2].fd = -1;
  }
}

/* ---- how it ended ---- */

static const char *mend_of(const box_report *b) {
  bool refused = b->code == EPERM || b->code == EACCES || b->code == EINVAL;
  if (b->step == BOX_STEP_CLONE && b->code == ENOSPC)
    return "; sysctl user.max_user_namespaces (and …pid…, …net…) is too low";
  if (b->step == BOX_STEP_WATCH) return "; /proc must be mounted, in a kernel with CONFIG_PROC_CHILDREN";
  if (b->step == BOX_STEP_BIND && b->code == ENOENT) return "; it must be there";
  if (b->step == BOX_STEP_BIND && b->code == EACCES && b->what[1]) /* of / itself it is what AppArmor says */
    return "; root must be able to enter it as its owner, or anybody: privileges do not count here";
  if (b->step == BOX_STEP_MAP && geteuid() == 0) return "; a container must map user 65534 (nobody), too";
  if (b->step == BOX_STEP_FILTER) return "; the kernel needs CONFIG_SECCOMP_FILTER";
  if (refused && b->step <= BOX_STEP_DROP && b->step >= BOX_STEP_CLONE)
    return "; user namespaces must be allowed: sysctl kernel.unprivileged_userns_clone=1, on Ubuntu "
           "kernel.apparmor_restrict_unprivileged_userns=0 or a profile for puyu, in a container --security-opt "
           "seccomp=unconfined --security-opt apparmor=unconfined (Docker, Podman)";
  return "";
}

static pu_err fail_step(const box_report *b, pu_error *e) {
  static const char *const steps[] = {
#define BOX_STEP(name, text) text,
      BOX_STEPS(BOX_STEP)
#undef BOX_STEP
  };
  const char *step = b->step < BOX_STEP_COUNT ? steps[b->step] : "a step";
  if (b->step == BOX_STEP_EXEC)
    return pu_fail(e, PU_ERR_USAGE,
                   "sandbox: %.100s cannot be started: %s (it is looked for in /usr/local/bin, /usr/bin and "
                   "/bin)",
                   b->what, strerror(b->code));
  return pu_fail(e, PU_ERR_UNSUPPORTED, "sandbox: nothing was run, since %s%s%.100s failed: %s%s", step,
                 *b->what ? " " : "", b->what, strerror(b->code), mend_of(b));
}

static pu_err settle(run *r, pu_error *e) {
  if (r->stopped) return pu_fail(e, PU_ERR_STOPPED, "sandbox: stopped");
  if (r->reported && r->report.end == BOX_FAILED) return fail_step(&r->report, e);
  if (r->result->out.failed || r->result->err.failed)
    return pu_fail(e, PU_ERR_NOMEM, "sandbox: no memory for its output");
  if (r->past) return PU_OK;
  if (!r->reported || r->report.end >= BOX_KILLED)
    return pu_fail(e, PU_ERR_IO, "sandbox: the process that watched the run was killed, and the run with it");
  static const pu_sandbox_end ends[] = {[BOX_EXIT] = PU_SANDBOX_EXIT,
                                        [BOX_SIGNAL] = PU_SANDBOX_SIGNAL,
                                        [BOX_CPU] = PU_SANDBOX_CPU,
                                        [BOX_MEMORY] = PU_SANDBOX_MEMORY};
  r->result->end = ends[r->report.end];
  r->result->code = r->report.code;
  return PU_OK;
}

/* Limits of processes count per user namespace from 5.14 on; before, what the user runs elsewhere counts too. */
static pu_err check_kernel(pu_error *e) {
  struct utsname u;
  int major = 0, minor = 0;
  if (uname(&u) != 0 || sscanf(u.release, "%d.%d", &major, &minor) != 2 || major < 5 || (major == 5 && minor < 14))
    return pu_fail(e, PU_ERR_UNSUPPORTED, "sandbox: it needs Linux 5.14 or later, this is %.40s", u.release);
  return PU_OK;
}

static pu_err run_job(const pu_sandbox_job *job, bool check_only, bool (*stop)(void), pu_sandbox_result *out,
                      pu_error *e) {
  PU_TRY(check_limits(&job->limits, e));
  if (!job->argv || !job->argv[0]) return pu_fail(e, PU_ERR_USAGE, "sandbox: no program to run");
  PU_TRY(check_kernel(e));
  run r = {.job = job, .stop = stop, .result = out, .began = pu_now()};
  pu_buf plan;
  pu_buf_init(&plan, MOST_ARGUMENTS);
  pu_err err = make_plan(job, check_only, &plan, e);
  if (!err) err = sandbox_spawn(pu_str_of(plan.data, plan.len), job->input, &r.child, e);
  pu_buf_deinit(&plan);
  if (err) return err;
  follow(&r);
  sandbox_child_close(&r.child);
  out->seconds = pu_now() - r.began;
  return settle(&r, e);
}

pu_err pu_sandbox_run(const pu_sandbox_job *job, bool (*stop)(void), pu_sandbox_result *out, pu_error *e) {
  *out = (pu_sandbox_result){0};
  pu_buf_init(&out->out, PU_BUF_MAX);
  pu_buf_init(&out->err, PU_BUF_MAX);
  return run_job(job, false, stop, out, e);
}

pu_err pu_sandbox_check(pu_error *e) {
  static const char *const argv[] = {"true", NULL};
  pu_sandbox_job job = {.argv = argv, .limits = pu_sandbox_defaults()};
  pu_sandbox_result r = {0};
  pu_buf_init(&r.out, 1);
  pu_buf_init(&r.err, 1);
  pu_err err = run_job(&job, true, NULL, &r, e);
  pu_sandbox_result_deinit(&r);
  return err;
}

void pu_sandbox_result_deinit(pu_sandbox_result *r) {
  pu_buf_deinit(&r->out);
  pu_buf_deinit(&r->err);
}

const char *pu_sandbox_end_text(const pu_sandbox_result *r, const pu_sandbox_limits *limits, char text[80]) {
  char bytes[24];
  switch (r->end) {
  case PU_SANDBOX_EXIT:
    snprintf(text, 80, "exit status %d", r->code);
    break;
  case PU_SANDBOX_SIGNAL:
    snprintf(text, 80, "signal %d (%s)", r->code, strsignal(r->code));
    break;
  case PU_SANDBOX_TIMEOUT:
    snprintf(text, 80, "stopped after %g s", limits->seconds);
    break;
  case PU_SANDBOX_CPU:
    snprintf(text, 80, "stopped after %g s of processor time", limits->cpu_seconds);
    break;
  case PU_SANDBOX_MEMORY:
    snprintf(text, 80, "stopped with more than %s in use", pu_bytes_text(limits->memory, bytes));
    break;
  case PU_SANDBOX_OUTPUT:
    snprintf(text, 80, "stopped after %s of output", pu_bytes_text(limits->output, bytes));
    break;
  }
  return text;
}
