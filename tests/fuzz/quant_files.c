/* A line of JSON as config.json, and the bytes behind it as a safetensors file: of what is shown as a quantised matrix,
 * all values may be read, as floats and in few bits. */
#include <stdlib.h>
#include <string.h>

#include "src/model/source.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST_ROWS = 64, MOST_COLUMNS = 4096 };

static volatile float sink;

static void read_matrix(const pu_source *s, const pu_source_tensor *t) {
  static float values[PU_SOURCE_GRAIN], scale[MOST_ROWS * MOST_COLUMNS / 32], zero[MOST_ROWS * MOST_COLUMNS / 32];
  static uint8_t q[MOST_ROWS * MOST_COLUMNS];
  int64_t n = t->shape[0] * t->shape[1];
  for (int64_t at = 0; at < n; at += PU_SOURCE_GRAIN) {
    s->values(t, at, PU_MIN(n - at, (int64_t)PU_SOURCE_GRAIN), values);
    sink = sink + values[0];
  }
  if (!t->few.bits || t->shape[1] > MOST_COLUMNS - 128) return;
  for (int64_t row = 0; row < t->shape[0]; row += MOST_ROWS) {
    s->codes(t, row, PU_MIN(t->shape[0] - row, (int64_t)MOST_ROWS), q, scale, t->few.zeros ? zero : NULL);
    for (int64_t k = 0; k < t->shape[1]; k++)
      if (q[k] >= 1 << t->few.bits) abort();
  }
}

static void read_all(const json_t *config, pu_safetensors *files) {
  pu_quant_files *f = NULL;
  pu_error e;
  pu_source s = {.where = "fuzz"};
  s.tensors = calloc(pu_safetensors_count(files) + 1, sizeof *s.tensors);
  for (; s.tensors && s.n < pu_safetensors_count(files); s.n++) {
    const pu_st_tensor *t = pu_safetensors_at(files, s.n);
    s.tensors[s.n] = (pu_source_tensor){.name = t->name, .dtype = PU_DTYPE_COUNT, .ndim = t->ndim, .data = t->data};
  }
  if (s.tensors && pu_quant_files_show(config, "fuzz", files, &s, &f, &e) == PU_OK)
    for (size_t i = 0; i < s.n; i++)
      if (s.tensors[i].coding) read_matrix(&s, &s.tensors[i]);
  pu_quant_files_close(f);
  free(s.tensors);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const uint8_t *end = memchr(data, '\n', size);
  size_t line = end ? (size_t)(end - data) : size, rest = end ? size - line - 1 : 0;
  char *copy = malloc(rest ? rest : 1); /* so that reading past the end is seen */
  json_t *config;
  pu_safetensors *files;
  pu_error e;
  if (copy && rest) memcpy(copy, end + 1, rest);
  if (copy && pu_json_parse("fuzz", pu_str_of((const char *)data, line), &config, &e) == PU_OK) {
    if (pu_safetensors_parse(pu_str_of(copy, rest), &files, &e) == PU_OK) {
      read_all(config, files);
      pu_safetensors_close(files);
    }
    json_decref(config);
  }
  free(copy);
  return 0;
}
