/* Inside eval: the tasks that are built in, as CMake puts src/eval/tasks/NAME.yaml into the program. */
#ifndef PUYU_EVAL_TEXTS_H
#define PUYU_EVAL_TEXTS_H

#include <stddef.h>

typedef struct pu_eval_text {
  const char *name, *text;
  size_t len;
} pu_eval_text;
extern const pu_eval_text pu_eval_texts[]; /* by name; the last has none */

#endif
