/* Languages for tests of filters: of a text that begins with "LANG SCORE SHARE " they are those, else unknown. Weak:
 * puyu's own model takes its place in programs that hold it. */
#ifndef PUYU_TESTS_LANG_STUB_H
#define PUYU_TESTS_LANG_STUB_H

#include <string.h>

#include "src/data/lang/lang.h"

__attribute__((weak)) size_t pu_lang_find(pu_str text, pu_lang_guess *out, size_t max) {
  static const char *const names[] = {"en", "zh", "zh-Hant", "und"};
  char head[64] = {0}, name[16];
  memcpy(head, text.ptr, PU_MIN(text.len, sizeof head - 1));
  if (max == 0 || sscanf(head, "%15s %lf %lf", name, &out->score, &out->share) != 3) return 0;
  for (size_t i = 0; i < PU_COUNT(names); i++)
    if (strcmp(name, names[i]) == 0) return out->lang = names[i], 1;
  return 0;
}

#endif
