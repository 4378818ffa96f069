/* The program that builds the walls, in three processes: the watcher, started by puyu, outside; the first process of
 * the new pid namespace, which builds the walls from inside and then reaps; and the program that nobody vouches for.
 * Nothing here is linked into puyu: what runs is this small program without puyu's memory, descriptors and threads. */
#ifndef PUYU_SANDBOX_BOX_H
#define PUYU_SANDBOX_BOX_H

#include "src/sandbox/plan.h"

#include <linux/filter.h>
#include <stdbool.h>

typedef struct box {
  box_plan plan;
  struct sock_filter *filter;
  char **argv;
  const char *folder; /* "" for none */
} box;

/* Reports a step that failed (errno says why) and ends the process. */
_Noreturn void box_fail(box_step step, const char *what);
void box_send(const box_report *r);

/* root.c: binds first, while files of the caller can still be reached; then, as the new user, the new root. */
typedef struct box_binds box_binds;
const box_binds *box_take_binds(const box *b);
void box_make_root(const box *b, const box_binds *binds);

/* cage.c: privileges, limits of resources, system calls; in this order, and for good. */
void box_become_user(const box *b);
void box_set_limits(const box *b);
void box_drop_privileges(void);
void box_set_filter(const box *b);

/* inside.c: the first process inside. go: a byte comes when ids are mapped, and its end when the watcher died; result:
 * where the program's wait status goes. */
_Noreturn void box_inside(const box *b, int go, int result);

/* look.c: what the process and all below it use now, from outside. */
typedef struct box_use {
  uint64_t memory; /* bytes: anonymous and shared memory of all; an upper bound unless it is above `enough` */
  double cpu_seconds;
} box_use;
bool box_can_look(void);
box_use box_look(int pid, uint64_t enough);

#endif
