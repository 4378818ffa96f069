/* Inside the module. */
#ifndef PUYU_SANDBOX_INNER_H
#define PUYU_SANDBOX_INNER_H

#include "puyu/sandbox.h"

/* filter.c: appends the seccomp filter, as the kernel takes it (struct sock_filter). */
pu_err sandbox_filter(pu_buf *out, pu_error *e) PU_MUST_USE;

/* folder.c: appends the folder's path as it is without links, and a NUL; an error where it leads to more than files. */
pu_err sandbox_folder(const char *path, pu_buf *out, pu_error *e) PU_MUST_USE;

/* spawn.c: a program that was started and the ends of its pipes, which are ours to close; -1: closed. */
typedef struct sandbox_child {
  int pid;
  int out, err; /* read from without waiting */
  int report;   /* read from */
  int order;    /* closing it ends the run */
} sandbox_child;
/* input becomes the standard input of the program inside. */
pu_err sandbox_spawn(pu_str plan, pu_str input, sandbox_child *out, pu_error *e) PU_MUST_USE;
void sandbox_child_close(sandbox_child *c); /* waits for its end */

/* The program of program/, put here by cmake/bytes.cmake. */
extern const unsigned char sandbox_program[];
extern const unsigned long sandbox_program_len;

#endif
