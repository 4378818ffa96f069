/* Checkpoints in FP8 as others write them, made of a plain one by an encoder of the tests' own: the matrices of its
 * layers become F8_E4M3 with scales, all else bf16, as in releases. Beside it the same model with the values that the
 * codes stand for, written out plainly in f32. */
#ifndef PUYU_TEST_FP8_H
#define PUYU_TEST_FP8_H

#include <math.h>
#include <stdlib.h>

#include "puyu/model.h"
#include "tests/test.h"

typedef struct fp8_layout {
  const char *name;   /* of its folder */
  const char *config; /* quantization_config, JSON */
  const char *scale;  /* the end of its tensors' names */
  int64_t rows, cols; /* weights that share a scale; 0: all */
  int dims;           /* of the scales' tensor: 0 and 1 for one or as many as rows, 2 */
  bool bf16;          /* scales; else f32 */
  const char *inputs; /* the end of the names of the inputs' scales, or NULL */
  bool output;        /* the output matrix, too */
} fp8_layout;

/* E4M3 by its bits (Micikevicius et al. 2022): sign, 4 of exponent, bias 7, 3 of fraction; 0x7f and 0xff are NaN. */
static inline float fp8_value(int code) {
  int exponent = code >> 3 & 15, fraction = code & 7;
  float v = exponent ? ldexpf((float)(8 + fraction), exponent - 10) : ldexpf((float)fraction, -9);
  if ((code & 0x7f) == 0x7f) return NAN;
  return code & 0x80 ? -v : v;
}

/* Of the values that fp8_value gives; those of NaN are never nearer. */
static inline uint8_t fp8_nearest(const float values[256], float v) {
  int best = 0;
  for (int code = 1; code < 256; code++)
    if (fabsf(values[code] - v) < fabsf(values[best] - v)) best = code;
  return (uint8_t)best;
}

/* A safetensors file in the making. */
typedef struct fp8_file {
  pu_buf header, body;
} fp8_file;

static inline void fp8_add(fp8_file *f, const char *name, const char *type, int ndim, const int64_t *shape,
                           const void *data, size_t bytes) {
  pu_buf_printf(&f->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", f->header.len ? "," : "{", name, type);
  for (int d = 0; d < ndim; d++) pu_buf_printf(&f->header, "%s%lld", d ? "," : "", (long long)shape[d]);
  pu_buf_printf(&f->header, "],\"data_offsets\":[%zu,%zu]}", f->body.len, f->body.len + bytes);
  pu_buf_append(&f->body, data, bytes);
}

static inline void fp8_begin(fp8_file *f) {
  pu_buf_init(&f->header, 1 << 20);
  pu_buf_init(&f->body, 1 << 24);
}

static inline void fp8_end(fp8_file *f, const char *path) {
  pu_buf all;
  pu_error e;
  pu_buf_init(&all, 1 << 25);
  pu_buf_putc(&f->header, '}');
  uint64_t length = f->header.len;
  pu_buf_append(&all, &length, sizeof length);
  pu_buf_append(&all, f->header.data, f->header.len);
  pu_buf_append(&all, f->body.data, f->body.len);
  assert_false(all.failed || f->header.failed || f->body.failed);
  assert_ok(pu_file_write(path, all.data, all.len, &e), &e);
  pu_buf_deinit(&all);
  pu_buf_deinit(&f->header);
  pu_buf_deinit(&f->body);
}

/* The largest magnitude over 448, in the type of scales. */
static inline float fp8_scale(const fp8_layout *l, const float *w, int64_t cols, int64_t rows, int64_t wide) {
  float most = 1e-8f;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t k = 0; k < wide; k++) most = fmaxf(most, fabsf(w[r * cols + k]));
  most /= 448;
  return l->bf16 ? pu_bf16_to_f32(pu_f32_to_bf16(most)) : most;
}

/* w becomes the values of its codes. `seen` counts weights: some codes are not the nearest ones but each in its turn,
 * so that all 254 are there. */
static inline void fp8_matrix(const fp8_layout *l, fp8_file *f, const char *stem, const int64_t shape[2], float *w,
                              int64_t *seen) {
  int64_t rows = l->rows ? l->rows : shape[0], cols = l->cols ? l->cols : shape[1];
  int64_t grid[2] = {(shape[0] + rows - 1) / rows, (shape[1] + cols - 1) / cols};
  size_t n = (size_t)(shape[0] * shape[1]), scales = (size_t)(grid[0] * grid[1]), size = l->bf16 ? 2 : 4;
  uint8_t *codes = malloc(n), *stored = malloc(scales * size);
  char name[300];
  float values[256];
  for (int code = 0; code < 256; code++) values[code] = fp8_value(code);
  for (int64_t i = 0; i < (int64_t)scales; i++) {
    int64_t row = i / grid[1] * rows, col = i % grid[1] * cols;
    int64_t high = PU_MIN(rows, shape[0] - row), wide = PU_MIN(cols, shape[1] - col);
    float *from = w + row * shape[1] + col, scale = fp8_scale(l, from, shape[1], high, wide);
    memcpy(stored + (size_t)i * size, (const char *)&scale + 4 - size, size); /* little endian */
    for (int64_t r = 0; r < high; r++)
      for (int64_t k = 0; k < wide; k++, ++*seen) {
        int64_t at = r * shape[1] + k;
        int turn = (int)(*seen / 13 % 256);
        uint8_t code = *seen % 13 || isnan(values[turn]) ? fp8_nearest(values, from[at] / scale) : (uint8_t)turn;
        codes[row * shape[1] + col + at] = code;
        from[at] = values[code] * scale;
      }
  }
  snprintf(name, sizeof name, "%s.weight", stem);
  fp8_add(f, name, "F8_E4M3", 2, shape, codes, n);
  snprintf(name, sizeof name, "%s.%s", stem, l->scale);
  fp8_add(f, name, l->bf16 ? "BF16" : "F32", l->dims, grid, stored, scales * size);
  free(codes);
  free(stored);
  if (!l->inputs) return;
  float input = 0.25f;
  snprintf(name, sizeof name, "%s.%s", stem, l->inputs);
  fp8_add(f, name, "F32", 0, NULL, &input, sizeof input);
}

static inline void fp8_config(const char *from, const char *quant, const char *dir) {
  char path[600];
  json_t *config, *value;
  pu_error e;
  snprintf(path, sizeof path, "%s/config.json", from);
  assert_ok(pu_json_read(path, 1 << 20, &config, &e), &e);
  if (quant) {
    assert_ok(pu_json_parse("quantization_config", pu_str_c(quant), &value, &e), &e);
    assert_int_equal(json_object_set_new(config, "quantization_config", value), 0);
  }
  char *text = json_dumps(config, 0);
  snprintf(path, sizeof path, "%s/config.json", dir);
  assert_ok(pu_mkdirs(dir, &e), &e);
  assert_ok(pu_file_write(path, text, strlen(text), &e), &e);
  free(text);
  json_decref(config);
}

/* A matrix that releases have in FP8: of a layer, and no router. */
static inline bool fp8_takes(const fp8_layout *l, const pu_st_tensor *t) {
  bool layers = strstr(t->name, ".layers.") && !pu_ends_with(t->name, ".gate.weight");
  bool output = strcmp(t->name, "lm_head.weight") == 0 || strcmp(t->name, "output.weight") == 0;
  return t->ndim == 2 && (layers || (output && l->output));
}

/* Of `from`, whose weights are in one file: dir in FP8, and `plain` with the same values in f32. */
static inline void fp8_write(const char *from, const fp8_layout *l, const char *dir, const char *plain) {
  char path[600], stem[300];
  fp8_file f, p;
  pu_safetensors *st;
  pu_error e;
  int64_t seen = 0;
  fp8_config(from, l->config, dir);
  fp8_config(from, NULL, plain);
  assert_ok(pu_safetensors_open(from, &st, &e), &e);
  fp8_begin(&f);
  fp8_begin(&p);
  for (size_t i = 0; i < pu_safetensors_count(st); i++) {
    const pu_st_tensor *t = pu_safetensors_at(st, i);
    int64_t n = 1;
    for (int d = 0; d < t->ndim; d++) n *= t->shape[d];
    assert_int_equal(t->dtype, PU_F32);
    float *w = malloc((size_t)n * sizeof *w);
    uint16_t *half = malloc((size_t)n * sizeof *half);
    memcpy(w, t->data, (size_t)n * sizeof *w);
    if (fp8_takes(l, t)) {
      snprintf(stem, sizeof stem, "%.*s", (int)(strlen(t->name) - strlen(".weight")), t->name);
      fp8_matrix(l, &f, stem, t->shape, w, &seen);
    } else {
      pu_convert(half, PU_BF16, w, PU_F32, n);
      pu_convert(w, PU_F32, half, PU_BF16, n);
      fp8_add(&f, t->name, "BF16", t->ndim, t->shape, half, (size_t)n * sizeof *half);
    }
    fp8_add(&p, t->name, "F32", t->ndim, t->shape, w, (size_t)n * sizeof *w);
    free(w);
    free(half);
  }
  pu_safetensors_close(st);
  assert_true(seen > 0);
  snprintf(path, sizeof path, "%s/model.safetensors", dir);
  fp8_end(&f, path);
  snprintf(path, sizeof path, "%s/model.safetensors", plain);
  fp8_end(&p, path);
}

#endif
