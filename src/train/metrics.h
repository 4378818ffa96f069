/* JSON Lines that survive a kill: each line reaches the kernel in one write; floats read back to the same bits. Reading
 * back leaves out a last line that a crash tore. */
#ifndef PUYU_TRAIN_METRICS_H
#define PUYU_TRAIN_METRICS_H

#include "puyu/base.h"

typedef struct pu_train_log {
  int fd;
  char path[512];
  pu_buf line;
} pu_train_log;

pu_err pu_train_log_open(pu_train_log *l, const char *run, const char *name, pu_error *e) PU_MUST_USE; /* appends */
void pu_train_log_close(pu_train_log *l);
/* A line: begin, fields, end. */
void pu_train_log_begin(pu_train_log *l);
void pu_train_log_int(pu_train_log *l, const char *key, int64_t v);
void pu_train_log_num(pu_train_log *l, const char *key, double v);
void pu_train_log_str(pu_train_log *l, const char *key, pu_str v);
void pu_train_log_raw(pu_train_log *l, const char *key, const char *json);
pu_err pu_train_log_end(pu_train_log *l, pu_error *e) PU_MUST_USE;
/* To the disk itself, before a checkpoint that promises these lines. */
pu_err pu_train_log_sync(pu_train_log *l, pu_error *e) PU_MUST_USE;

/* One line of a log; `end`: the byte after it. *stop: no more lines, please. */
typedef pu_err (*pu_train_line_fn)(void *arg, json_t *line, size_t end, bool *stop, pu_error *e);
/* Calls fn for each line of the text of a log, read from `path`. The last line is left out where it has no end or is no
 * JSON: it was being written. Such a line before others is PU_ERR_FORMAT, with its number. */
pu_err pu_train_log_each(const char *path, pu_str text, pu_train_line_fn fn, void *arg, pu_error *e) PU_MUST_USE;

#endif
