/* Any bytes as a text whose language is looked for. A short input is repeated past what is looked at. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/data/lang/lang.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool good) {
  if (!good) abort();
}

static void find(pu_str text, size_t max) {
  pu_lang_guess g[5];
  double all = 0;
  size_t n = pu_lang_find(text, g, max);
  must(n <= max && (n > 0) == (max > 0));
  for (size_t i = 0; i < n; i++) {
    must(g[i].lang && g[i].share > 0 && g[i].score >= 0 && g[i].score < 1.001);
    all += g[i].share;
  }
  must(!n || fabs(all - 1) < 1e-6);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char *text = malloc(size + 1); /* exact, so that a read past its end is seen */
  memcpy(text, data, size);
  char *exact = realloc(text, size ? size : 1);
  find(pu_str_of(exact, size), size % 6);
  free(exact);
  if (size == 0 || data[0] % 8) return 0;
  size_t longer = (64 << 10) + size * 7;
  char *many = malloc(longer);
  for (size_t i = 0; i < longer; i++) many[i] = (char)data[i % size];
  find(pu_str_of(many, longer), 3);
  free(many);
  return 0;
}
