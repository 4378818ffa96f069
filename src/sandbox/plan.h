/* What goes between puyu and the program that builds the walls (program/): both are made by the same build, so these
 * are plain structs. The plan is read from a file in memory, reports come through a pipe. */
#ifndef PUYU_SANDBOX_PLAN_H
#define PUYU_SANDBOX_PLAN_H

#include <stdint.h>

/* Descriptors the program is started with, after standard input, output and error. */
enum {
  BOX_PLAN = 3,   /* read from: a box_plan and what follows it */
  BOX_REPORT = 4, /* written to: box_report; the first one counts */
  BOX_ORDER = 5   /* read from: its end, or anything in it, ends the run */
};

enum {
  BOX_INSIDE = 1000,  /* the user and group the sandbox sees itself as */
  BOX_NOBODY = 65534, /* and who that is outside, where the caller is root */
  BOX_LOOK_MS = 20    /* between looks at memory and processor time */
};

typedef struct box_plan {
  uint32_t check_only; /* build everything, run nothing */
  uint32_t privileged; /* the caller is root: map to nobody, drop its groups */
  uint32_t processes;
  uint32_t filters; /* instructions of the seccomp filter */
  uint32_t argc;
  uint32_t room; /* bytes that follow: the filter, argv, then the folder ("" for none), each text with its NUL */
  uint64_t memory, files;
  double cpu_seconds;
} box_plan;

/* Steps that can fail, each with what it is in words. */
#define BOX_STEPS(X)                                                                                                   \
  X(PLAN, "reading the plan")                                                                                          \
  X(WATCH, "watching processes through /proc")                                                                         \
  X(CLONE, "making user, pid, mount, network, ipc, uts and cgroup namespaces")                                         \
  X(MAP, "mapping user and group ids")                                                                                 \
  X(BIND, "taking a read-only view of")                                                                                \
  X(USER, "becoming an unprivileged user")                                                                             \
  X(ROOT, "building the new root at")                                                                                  \
  X(PIVOT, "leaving the old root")                                                                                     \
  X(LIMITS, "setting limits of resources")                                                                             \
  X(DROP, "dropping capabilities")                                                                                     \
  X(FILTER, "filtering system calls")                                                                                  \
  X(EXEC, "starting")

typedef enum box_step {
#define BOX_STEP(name, text) BOX_STEP_##name,
  BOX_STEPS(BOX_STEP)
#undef BOX_STEP
      BOX_STEP_COUNT
} box_step;

typedef enum box_end { BOX_FAILED, BOX_EXIT, BOX_SIGNAL, BOX_CPU, BOX_MEMORY, BOX_KILLED } box_end;

typedef struct box_report {
  uint32_t end;   /* box_end */
  int32_t code;   /* exit status, signal, or errno of a step that failed */
  uint32_t step;  /* of BOX_FAILED */
  char what[100]; /* its path or the like, or "" */
} box_report;

#endif
