/* What the three files of option tables share: option.c (text and checks), option_yaml.c (in), option_write.c (out). */
#ifndef PUYU_BASE_OPTION_H
#define PUYU_BASE_OPTION_H

#include "puyu/base.h"

/* The row with that key, or NULL. */
const pu_option *pu_option_find(const pu_option *table, const char *key);
/* Fails with "WHERE: unknown key 'KEY'; did you mean 'NEAREST'?" */
pu_err pu_option_unknown(const pu_option *table, const char *key, const char *where, pu_error *e);
/* "one of a, b, c": choices for messages. */
void pu_option_choices(const char *choices, char *dst, size_t size);
/* Sets a row that holds a single value: every type but lists. */
pu_err pu_option_set_scalar(const pu_option *row, void *out, const char *text, const char *where, pu_arena *a,
                            pu_error *e);
/* Parses one number of a PU_OPT_FLOATS or PU_OPT_FLOAT row. */
pu_err pu_option_number(const pu_option *row, const char *text, double *v, const char *where, pu_error *e);
/* A copy of n elements in the arena; NULL with e set when it is spent. n may be 0. */
pu_err pu_option_copy(pu_arena *a, const void *from, size_t n, size_t size, void **to, pu_error *e);

static inline void *pu_option_field(const pu_option *row, void *out) {
  return (char *)out + row->offset;
}

#endif
