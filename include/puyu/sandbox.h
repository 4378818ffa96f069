/* sandbox: runs a program that nobody vouches for (python3 with code a model wrote) so that it can harm nothing.
 *
 * What it gets   A root of its own: /usr (and /bin, /lib…) of this machine read-only, a few files of /etc, /dev/null and
 *                /dev/urandom, /proc of its own processes where that may be mounted, /tmp (its home, where it starts)
 *                in memory, and a folder of the caller's as /data, read-only. An environment that is the same for all.
 *                Standard input is a file of the bytes given, standard output and error are pipes.
 * What it lacks  Everything else: other files, any network (127.0.0.1 and the machine's Unix sockets, too), processes
 *                outside, privileges, devices, and most of the kernel: a list of system calls says what is answered at
 *                all. docs/sandbox.md says how each wall is built and what it does not promise.
 * What it costs  Some 10 ms a run, and a small process that watches it.
 *
 * Fails closed.  If one wall cannot be had nothing runs, and the error names the step and the mend
 *                (PU_ERR_UNSUPPORTED). There is no weaker mode.
 * Needs          Linux 5.14 with user, pid, mount, network, ipc, uts and cgroup namespaces, and seccomp filters; no
 *                privilege. A caller that is root runs the program as nobody (uid 65534) all the same.
 * Threads.       Runs are independent; any number at once, from any threads, whatever else the process does. It must
 *                not wait for children that it did not start. When pu_sandbox_run returns none of the program's
 *                processes is left; when the calling process dies, whatever way, they die with it; when the thread
 *                that called ends before it returns (pthread_cancel), too. */
#ifndef PUYU_SANDBOX_H
#define PUYU_SANDBOX_H

#include "puyu/base.h"

typedef struct pu_sandbox_limits {
  double seconds;     /* by the clock, start to end; at most a day */
  double cpu_seconds; /* of all its processes together */
  size_t memory;      /* bytes, from 8 MiB: address space of each process (a call that asks for more fails), and memory
                       * in use of all together (looked at every 20 ms: more ends the run) */
  int processes;      /* and threads, at one time */
  size_t output;      /* bytes of standard output and error together */
  size_t files;       /* bytes it may write to /tmp, which are memory too and not counted above */
} pu_sandbox_limits;

/* 10 seconds, 10 of processor time, 512 MiB, 32 processes, 1 MiB of output, 64 MiB of files. */
pu_sandbox_limits pu_sandbox_defaults(void);

typedef struct pu_sandbox_job {
  const char *const *argv;   /* ended by NULL; argv[0] is looked for in /usr/local/bin, /usr/bin, /bin of the sandbox */
  pu_str input;              /* standard input */
  pu_sandbox_limits limits;  /* every one above 0 */
  const char *read_only;     /* a folder shown as /data, with what is mounted below it, or NULL. For a caller that is
                              * root, too, the program reads only what nobody (the user) may. Not /, nor in /dev,
                              * /proc, /run or /sys, nor one with a mount of the kernel's (proc, sysfs…) in it. */
} pu_sandbox_job;

typedef enum pu_sandbox_end {
  PU_SANDBOX_EXIT,    /* by itself: code is its exit status */
  PU_SANDBOX_SIGNAL,  /* by a signal: code is its number (a crash; SIGKILL may be the kernel's, out of memory) */
  PU_SANDBOX_TIMEOUT, /* the rest are limits; code is 0 */
  PU_SANDBOX_CPU,
  PU_SANDBOX_MEMORY, /* of all together; a process that alone asks for too much hears of it, as Python's MemoryError */
  PU_SANDBOX_OUTPUT
} pu_sandbox_end;

typedef struct pu_sandbox_result {
  pu_sandbox_end end;
  int code;
  pu_buf out, err; /* what was written until the end, also of a run that a limit ended; any bytes */
  double seconds;
} pu_sandbox_result;

/* Can it be had here? Builds all walls and runs nothing inside. */
pu_err pu_sandbox_check(pu_error *e) PU_MUST_USE;

/* Runs the job to its end. stop (or NULL) is asked some 20 times a second, on this thread; true ends the run with
 * PU_ERR_STOPPED. A program that is not there or cannot be started is PU_ERR_USAGE. The caller owns *out
 * (pu_sandbox_result_deinit), which is set, if to nothing, whatever is returned. */
pu_err pu_sandbox_run(const pu_sandbox_job *job, bool (*stop)(void), pu_sandbox_result *out, pu_error *e) PU_MUST_USE;
void pu_sandbox_result_deinit(pu_sandbox_result *r);
/* The end in words: "exit status 1", "signal 11 (Segmentation fault)", "stopped after 10 s"; = text. */
const char *pu_sandbox_end_text(const pu_sandbox_result *r, const pu_sandbox_limits *limits, char text[80]);

#endif
