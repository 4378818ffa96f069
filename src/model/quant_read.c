/* Quantised Hugging Face directories: the tensors that a matrix is spread over (packed values, zeros, scales, the
 * inputs' groups) are shown as the one that the family's rules name. `quantization_config` in config.json says how they
 * lie:
 *
 * awq (AutoAWQ, `gemm`): qweight i32 [K, N/8], the eight halves of a byte in a word are columns 0 2 4 6 1 3 5 7; qzeros
 * i32 [G, N/8], the same way; scales [G, N]. Without qzeros it is symmetric.
 *
 * gptq (AutoGPTQ, GPTQModel): qweight i32 [K bits/32, N], the lowest bits first; qzeros i32 [G, N bits/32], each zero
 * less one, but in `gptq_v2`; scales [G, N]; g_idx i32 [K], the group of each input.
 *
 * compressed-tensors (llm-compressor, `int-quantized`): weight i8 [N, K], weight_scale [N, 1].
 *
 * w[n][k] = (q - zero) scale.
 *
 * fp8 (DeepSeek's, Qwen's, Mistral's releases; AutoFP8): weight F8_E4M3 [N, K]. With `weight_block_size` [R, C],
 * weight_scale_inv [ceil(N/R), ceil(K/C)]; else weight_scale (Mistral: weight_scale_inv), one, or one a row.
 *
 * compressed-tensors (llm-compressor, `float-quantized`): weight F8_E4M3 [N, K]; weight_scale: one (strategy `tensor`),
 * [N, 1] (`channel`), or as above in blocks of `block_structure` (`block`).
 *
 * w[n][k] = q scale: `inv` is the scale's name in training, not what is done with it. transformers computes the same
 * product in f32 and rounds it to the model's type, bf16. Here it is f32, and loading rounds it to the compute type. */
#include "src/model/source.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CONFIG = 4 << 20 };

#define FP8_TYPE "F8_E4M3" /* as safetensors has it */

typedef enum method { AWQ, GPTQ, INT8, FP8 } method;

/* Which weights of an FP8 matrix share a scale. */
typedef enum sharing {
  BY_BLOCK,
  BY_TENSOR,
  BY_ROW,
  BY_SHAPE /* either of these two: the scale's shape tells */
} sharing;

typedef struct fp8_scheme {
  sharing by;
  int64_t block[2];          /* rows, columns */
  const char *const *scales; /* ends of their names, the first that is there; NULL-ended */
} fp8_scheme;

typedef struct coding {
  method how;
  bool less_one; /* zeros are stored so */
  int bits;
  int64_t cols, rows, groups, group; /* K, N */
  int64_t scale_rows;                /* rows that share a scale where scales lie as the rows do; 0: they lie [G, N] */
  const float *e4m3;                 /* FP8: the value of each code */
  const pu_st_tensor *q, *zeros, *scales;
  const int32_t *g_idx; /* NULL: k / group */
} coding;

struct pu_quant_files {
  pu_arena *a;
  const char *config; /* its path, for errors */
  method how;
  bool less_one;
  int64_t bits, group; /* group -1: all inputs */
  fp8_scheme fp8;
  float e4m3[256];
};

/* ---- quantization_config ---- */

static pu_err read_awq(const json_t *o, pu_quant_files *f, pu_error *e) {
  const char *version;
  PU_TRY(pu_json_int_or(o, "w_bit", 0, 64, 4, &f->bits, f->config, e));
  PU_TRY(pu_json_int_or(o, "bits", 0, 64, f->bits, &f->bits, f->config, e));
  PU_TRY(pu_json_int_or(o, "q_group_size", -1, 1 << 24, 128, &f->group, f->config, e));
  PU_TRY(pu_json_int_or(o, "group_size", -1, 1 << 24, f->group, &f->group, f->config, e));
  PU_TRY(pu_json_str_or(o, "version", "gemm", &version, f->config, e));
  if (f->bits != 4)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: AWQ weights of %lld bits are not supported: 4 are", f->config,
                   (long long)f->bits);
  if (strcasecmp(version, "gemm") != 0)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: AWQ weights in the layout '%.40s' are not supported: gemm is", f->config,
                   version);
  return PU_OK;
}

static pu_err read_gptq(const json_t *o, pu_quant_files *f, pu_error *e) {
  const char *format;
  PU_TRY(pu_json_int_or(o, "bits", 0, 64, 4, &f->bits, f->config, e));
  PU_TRY(pu_json_int_or(o, "group_size", -1, 1 << 24, 128, &f->group, f->config, e));
  PU_TRY(pu_json_str_or(o, "checkpoint_format", "gptq", &format, f->config, e));
  if (f->bits != 4 && f->bits != 8)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: GPTQ weights of %lld bits are not supported: 4 and 8 are", f->config,
                   (long long)f->bits);
  if (strcmp(format, "gptq") != 0 && strcmp(format, "gptq_v2") != 0)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: checkpoint_format '%.40s' is not supported: gptq and gptq_v2 are",
                   f->config, format);
  f->less_one = strcmp(format, "gptq") == 0;
  return PU_OK;
}

/* [rows, columns] */
static pu_err read_block(const json_t *o, const char *key, const pu_quant_files *f, int64_t block[2], pu_error *e) {
  const json_t *pair = json_object_get(o, key);
  bool fits = json_is_array(pair) && json_array_size(pair) == 2;
  for (size_t i = 0; fits && i < 2; i++) {
    const json_t *v = json_array_get(pair, i);
    block[i] = json_integer_value(v);
    fits = json_is_integer(v) && block[i] > 0 && block[i] <= INT32_MAX;
  }
  return fits ? PU_OK
              : pu_fail(e, PU_ERR_FORMAT,
                        "%s: '%s' should be the rows and the columns of a block, two positive numbers", f->config, key);
}

/* modules_to_not_convert and ignored_layers need no look: what they name is plain in the files. */
static pu_err read_fp8(const json_t *o, pu_quant_files *f, pu_error *e) {
  static const char *const of_blocks[] = {"weight_scale_inv", NULL}, *const of_rows[] = {"weight_scale",
                                                                                         "weight_scale_inv", NULL};
  const json_t *block = json_object_get(o, "weight_block_size");
  const char *fmt;
  bool blocks = block && !json_is_null(block);
  PU_TRY(pu_json_str_or(o, "fmt", "e4m3", &fmt, f->config, e));
  if (strcmp(fmt, "e4m3") != 0)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: FP8 weights in '%.40s' are not supported: e4m3 is", f->config, fmt);
  f->group = -1;
  f->fp8 = (fp8_scheme){.by = blocks ? BY_BLOCK : BY_SHAPE, .scales = blocks ? of_blocks : of_rows};
  return blocks ? read_block(o, "weight_block_size", f, f->fp8.block, e) : PU_OK;
}

/* ---- compressed-tensors ---- */

typedef struct ct_weights {
  int64_t bits;
  const char *type, *strategy;
  bool symmetric;
  int64_t block[2];
} ct_weights;

static pu_err read_ct_weights(const json_t *o, const pu_quant_files *f, ct_weights *w, pu_error *e) {
  *w = (ct_weights){0};
  PU_TRY(pu_json_int_or(o, "num_bits", 0, 64, 8, &w->bits, f->config, e));
  PU_TRY(pu_json_str_or(o, "type", "int", &w->type, f->config, e));
  PU_TRY(pu_json_bool_or(o, "symmetric", true, &w->symmetric, f->config, e));
  PU_TRY(pu_json_str_or(o, "strategy", "tensor", &w->strategy, f->config, e));
  if (strcmp(w->strategy, "block") == 0) PU_TRY(read_block(o, "block_structure", f, w->block, e));
  return PU_OK;
}

static pu_err take_ct_floats(const ct_weights *w, pu_quant_files *f, pu_error *e) {
  static const char *const names[] = {[BY_BLOCK] = "block", [BY_TENSOR] = "tensor", [BY_ROW] = "channel"},
                           *const scales[] = {"weight_scale", NULL};
  size_t by = 0;
  while (by < PU_COUNT(names) && strcmp(names[by], w->strategy) != 0) by++;
  if (by == PU_COUNT(names))
    return pu_fail(
        e, PU_ERR_UNSUPPORTED,
        "%s: FP8 weights of compressed-tensors with scales by '%.40s' are not supported: tensor, channel and "
        "block are",
        f->config, w->strategy);
  f->how = FP8;
  f->fp8 = (fp8_scheme){(sharing)by, {w->block[0], w->block[1]}, scales};
  return PU_OK;
}

static bool ct_alike(const ct_weights *a, const ct_weights *b) {
  return strcmp(a->type, b->type) == 0 && strcmp(a->strategy, b->strategy) == 0 && a->block[0] == b->block[0] &&
         a->block[1] == b->block[1];
}

/* All groups of layers must have weights of one kind: which is whose is not looked at. */
static pu_err read_compressed(const json_t *o, pu_quant_files *f, pu_error *e) {
  const char *name;
  const json_t *group;
  ct_weights first = {.type = ""}, w;
  bool any = false;
  f->group = -1;
  json_object_foreach(json_object_get(o, "config_groups"), name, group) {
    const json_t *weights = json_object_get(group, "weights");
    if (!json_is_object(weights)) continue;
    PU_TRY(read_ct_weights(weights, f, &w, e));
    bool known = strcmp(w.type, "int") == 0 || strcmp(w.type, "float") == 0;
    if (w.bits != 8 || !known || !w.symmetric)
      return pu_fail(
          e, PU_ERR_UNSUPPORTED,
          "%s: weights of compressed-tensors in %lld bits, '%.20s', are not supported: 8 bits, int or float, "
          "symmetric are",
          f->config, (long long)w.bits, w.type);
    if (any && !ct_alike(&w, &first))
      return pu_fail(e, PU_ERR_UNSUPPORTED,
                     "%s: weights of compressed-tensors in several kinds ('%.40s' has another one) are not supported",
                     f->config, name);
    first = w;
    any = true;
  }
  if (!any) return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: 'config_groups' has no weights of any kind", f->config);
  f->bits = first.bits;
  return strcmp(first.type, "float") == 0 ? take_ct_floats(&first, f, e) : PU_OK;
}

static pu_err read_method(const json_t *o, pu_quant_files *f, pu_error *e) {
  static const struct {
    const char *name;
    method how;
    pu_err (*read)(const json_t *o, pu_quant_files *f, pu_error *e);
  } methods[] = {{"awq", AWQ, read_awq},
                 {"gptq", GPTQ, read_gptq},
                 {"compressed-tensors", INT8, read_compressed},
                 {"fp8", FP8, read_fp8}};
  const char *name;
  if (!json_is_object(o)) return pu_fail(e, PU_ERR_FORMAT, "%s: 'quantization_config' is no object", f->config);
  PU_TRY(pu_json_str_or(o, "quant_method", "", &name, f->config, e));
  for (size_t i = 0; i < PU_COUNT(methods); i++)
    if (strcmp(methods[i].name, name) == 0) {
      f->how = methods[i].how;
      PU_TRY(methods[i].read(o, f, e));
      if (f->group == -1 || f->group > 0) return PU_OK;
      return pu_fail(e, PU_ERR_FORMAT, "%s: 'group_size' should be positive, or -1", f->config);
    }
  return pu_fail(e, PU_ERR_UNSUPPORTED,
                 "%s: quant_method '%.40s' is not supported: awq, gptq, fp8 and compressed-tensors are", f->config,
                 name);
}

/* ---- values ---- */

static uint32_t word_at(const pu_st_tensor *t, int64_t i) {
  uint32_t w;
  memcpy(&w, (const char *)t->data + i * 4, sizeof w);
  return w;
}

/* Where column c of eight lies in AWQ's words. */
static int awq_shift(int64_t column) {
  return (int)(4 * (column % 2 * 4 + column % 8 / 2));
}

static uint8_t value_of(const coding *c, int64_t row, int64_t k) {
  uint32_t mask = (1u << c->bits) - 1;
  int64_t per = 32 / c->bits;
  switch (c->how) {
  case AWQ:
    return (uint8_t)(word_at(c->q, k * (c->rows / 8) + row / 8) >> awq_shift(row) & mask);
  case GPTQ:
    return (uint8_t)(word_at(c->q, k / per * c->rows + row) >> (k % per * c->bits) & mask);
  default:
    return ((const uint8_t *)c->q->data)[row * c->cols + k] ^ 0x80;
  }
}

static int zero_of(const coding *c, int64_t row, int64_t g) {
  uint32_t mask = (1u << c->bits) - 1;
  int64_t per = 32 / c->bits;
  if (!c->zeros) return 1 << (c->bits - 1);
  if (c->how == AWQ) return (int)(word_at(c->zeros, g * (c->rows / 8) + row / 8) >> awq_shift(row) & mask);
  uint32_t stored = word_at(c->zeros, g * (c->rows / per) + row / per) >> (row % per * c->bits);
  return (int)((stored + c->less_one) & mask);
}

static float scale_of(const coding *c, int64_t row, int64_t g) {
  const pu_st_tensor *t = c->scales;
  size_t size = pu_dtype_size(t->dtype);
  int64_t at = c->scale_rows ? row / c->scale_rows * c->groups + g : g * c->rows + row;
  uint32_t raw;
  float out;
  memcpy(&raw, (const char *)t->data + (size_t)at * size, size);
  pu_convert(&out, PU_F32, &raw, t->dtype, 1);
  return out;
}

/* Stretches of one row that share a scale. */
static void fp8_values(const coding *c, int64_t at, int64_t n, float *to) {
  const uint8_t *q = (const uint8_t *)c->q->data + at;
  while (n > 0) {
    int64_t row = at / c->cols, k = at % c->cols, g = k / c->group;
    int64_t most = PU_MIN(n, PU_MIN((g + 1) * c->group, c->cols) - k);
    float scale = scale_of(c, row, g);
    for (int64_t i = 0; i < most; i++) to[i] = c->e4m3[q[i]] * scale;
    q += most, to += most, at += most, n -= most;
  }
}

static void values(const pu_source_tensor *t, int64_t at, int64_t n, void *out) {
  const coding *c = t->coding;
  float *to = out;
  if (c->how == FP8) {
    fp8_values(c, at, n, to);
    return;
  }
  for (int64_t i = 0; i < n; i++) {
    int64_t row = (at + i) / c->cols, k = (at + i) % c->cols, g = c->g_idx ? c->g_idx[k] : k / c->group;
    to[i] = (float)(value_of(c, row, k) - zero_of(c, row, g)) * scale_of(c, row, g);
  }
}

/* Inputs outermost: that is how the words lie, and neighbouring rows share lines of memory. */
static void codes(const pu_source_tensor *t, int64_t row, int64_t n, uint8_t *q, float *scale, float *zero) {
  const coding *c = t->coding;
  int64_t groups = pu_packed_groups(&t->few, c->cols);
  for (int64_t k = 0; k < c->cols; k++)
    for (int64_t r = 0; r < n; r++) q[r * c->cols + k] = value_of(c, row + r, k);
  for (int64_t g = 0; g < groups; g++)
    for (int64_t r = 0; r < n; r++) {
      scale[r * groups + g] = scale_of(c, row + r, g * t->few.group / c->group);
      if (zero) zero[r * groups + g] = (float)zero_of(c, row + r, g * t->few.group / c->group);
    }
}

static float fp8_scale(const pu_source_tensor *t, int64_t row, int64_t col) {
  const coding *c = t->coding;
  return scale_of(c, row, col / c->group);
}

/* ---- checking one matrix ---- */

static pu_err misfit(const pu_quant_files *f, const pu_st_tensor *t, const char *want, pu_error *e) {
  char is[100] = "";
  for (int i = 0; i < t->ndim; i++) {
    size_t at = strlen(is);
    snprintf(is + at, sizeof is - at, "%s%lld", i ? ", " : "", (long long)t->shape[i]);
  }
  return pu_fail(e, PU_ERR_SHAPE, "%s: tensor '%.150s', %s [%s], should be %s, as its matrix and config.json have it",
                 f->config, t->name, t->type, is, want);
}

static bool is_shape(const pu_st_tensor *t, pu_dtype dtype, int64_t rows, int64_t cols) {
  bool fits = t->ndim == 2 && t->shape[0] == rows && t->shape[1] == cols;
  return fits && (t->dtype == dtype || (dtype == PU_F32 && (t->dtype == PU_F16 || t->dtype == PU_BF16)));
}

static bool is_float(const pu_st_tensor *t) {
  return t->dtype == PU_F32 || t->dtype == PU_F16 || t->dtype == PU_BF16;
}

static bool is_one(const pu_st_tensor *t) {
  bool one = t->ndim <= 2;
  for (int i = 0; i < t->ndim; i++) one &= t->shape[i] == 1;
  return one;
}

static bool is_a_row(const pu_st_tensor *t, int64_t rows) {
  return t->ndim >= 1 && t->ndim <= 2 && t->shape[0] == rows && (t->ndim == 1 || t->shape[1] == 1);
}

static bool is_finite(const pu_st_tensor *t) {
  enum { SOME = 256 };
  const int64_t size = (int64_t)pu_dtype_size(t->dtype), n = (int64_t)t->bytes / size;
  for (int64_t i = 0; i < n; i += SOME) {
    float v[SOME];
    const int64_t some = PU_MIN(n - i, (int64_t)SOME);
    pu_convert(v, PU_F32, (const char *)t->data + i * size, t->dtype, some);
    for (int64_t k = 0; k < some; k++)
      if (!isfinite(v[k])) return false;
  }
  return true;
}

/* Which weights share a scale: what the configuration says and the scale's shape fits. */
static pu_err check_fp8(const pu_quant_files *f, coding *c, pu_error *e) {
  const pu_st_tensor *t = c->scales;
  sharing by = f->fp8.by;
  char want[120];
  if (!t)
    return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%.150s' has no %s beside it", f->config, c->q->name,
                   f->fp8.scales[0]);
  if (by == BY_SHAPE) by = is_one(t) ? BY_TENSOR : BY_ROW;
  c->scale_rows = by == BY_BLOCK ? f->fp8.block[0] : by == BY_TENSOR ? c->rows : 1;
  c->group = by == BY_BLOCK ? f->fp8.block[1] : c->cols;
  c->groups = (c->cols + c->group - 1) / c->group;
  int64_t rows = (c->rows + c->scale_rows - 1) / c->scale_rows;
  bool fits = by == BY_BLOCK    ? t->ndim == 2 && t->shape[0] == rows && t->shape[1] == c->groups
              : by == BY_TENSOR ? is_one(t)
                                : is_a_row(t, rows);
  if (fits && is_float(t)) {
    if (is_finite(t)) return PU_OK;
    return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%.150s' has scales that are not finite: is the file damaged?",
                   f->config, t->name);
  }
  if (by == BY_TENSOR)
    snprintf(want, sizeof want, "one float");
  else if (by == BY_BLOCK)
    snprintf(want, sizeof want, "floats [%lld, %lld], one for each block of %lld x %lld", (long long)rows,
             (long long)c->groups, (long long)f->fp8.block[0], (long long)f->fp8.block[1]);
  else
    snprintf(want, sizeof want, "%sfloats [%lld, 1]", f->fp8.by == BY_SHAPE ? "one float, or " : "", (long long)rows);
  return misfit(f, t, want, e);
}

static pu_err check_parts(const pu_quant_files *f, const coding *c, pu_error *e) {
  char want[80];
  int64_t per = 32 / c->bits;
  bool by_row = c->how == INT8;
  if (c->rows < 1 || c->cols < 1 || (c->how != INT8 && c->rows % per))
    return pu_fail(e, PU_ERR_SHAPE, "%s: tensor '%.150s': no matrix of a multiple of %lld rows", f->config, c->q->name,
                   (long long)per);
  if (!c->scales || !is_shape(c->scales, PU_F32, by_row ? c->rows : c->groups, by_row ? c->groups : c->rows)) {
    snprintf(want, sizeof want, "floats [%lld, %lld]", (long long)(by_row ? c->rows : c->groups),
             (long long)(by_row ? c->groups : c->rows));
    if (c->scales) return misfit(f, c->scales, want, e);
    return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%.150s' has no scales beside it", f->config, c->q->name);
  }
  if (c->zeros && !is_shape(c->zeros, PU_I32, c->groups, c->rows / per)) {
    snprintf(want, sizeof want, "I32 [%lld, %lld]", (long long)c->groups, (long long)(c->rows / per));
    return misfit(f, c->zeros, want, e);
  }
  if (c->how == GPTQ && !c->zeros)
    return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%.150s' has no qzeros beside it", f->config, c->q->name);
  return PU_OK;
}

/* Each group must have its number of inputs: they are sorted by it, and become neighbours. */
static pu_err read_g_idx(pu_quant_files *f, coding *c, const pu_st_tensor *t, pu_error *e) {
  bool in_order = true;
  if (!t) return PU_OK;
  if (t->ndim != 1 || t->shape[0] != c->cols || t->dtype != PU_I32) return misfit(f, t, "I32 [inputs]", e);
  int32_t *idx = pu_arena_alloc(f->a, (size_t)c->cols * sizeof *idx);
  int64_t *count = calloc((size_t)c->groups, sizeof *count);
  pu_err err = idx && count ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "%s: no memory for '%.150s'", f->config, t->name);
  if (err == PU_OK) memcpy(idx, t->data, (size_t)c->cols * sizeof *idx);
  for (int64_t k = 0; err == PU_OK && k < c->cols; k++) {
    if (idx[k] < 0 || idx[k] >= c->groups)
      err = pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%.150s': input %lld is in group %d, and there are %lld", f->config,
                    t->name, (long long)k, (int)idx[k], (long long)c->groups);
    else
      count[idx[k]]++;
    in_order &= idx[k] == k / c->group;
  }
  for (int64_t g = 0; err == PU_OK && g < c->groups; g++)
    if (count[g] != PU_MIN(c->group, c->cols - g * c->group))
      err = pu_fail(e, PU_ERR_UNSUPPORTED, "%s: tensor '%.150s': group %lld has %lld inputs instead of %lld", f->config,
                    t->name, (long long)g, (long long)count[g], (long long)PU_MIN(c->group, c->cols - g * c->group));
  free(count);
  if (!in_order) c->g_idx = idx;
  return err;
}

/* Are all zeros 2^(bits-1)? Then they need not be kept. */
static bool is_symmetric(const coding *c) {
  for (int64_t g = 0; c->zeros && g < c->groups; g++)
    for (int64_t r = 0; r < c->rows; r++)
      if (zero_of(c, r, g) != 1 << (c->bits - 1)) return false;
  return true;
}

/* A group of the file is one or several of the kernels'; where that cannot be, the matrix is only had as floats. So is
 * FP8: its codes are no steps of one size. */
static pu_packing packing_of(const coding *c) {
  if (c->how == FP8) return (pu_packing){0};
  pu_packing p = {.bits = c->bits, .group = 128, .zeros = c->zeros != NULL, .ordered = c->g_idx != NULL};
  int64_t whole = c->groups == 1 ? c->cols : c->group;
  while (p.group > 32 && whole % p.group) p.group /= 2;
  return c->groups > 1 && whole % p.group ? (pu_packing){0} : p;
}

static const pu_st_tensor *part(const pu_safetensors *files, const char *stem, const char *end) {
  char name[300];
  snprintf(name, sizeof name, "%s.%s", stem, end);
  return pu_safetensors_find(files, name);
}

static pu_err show(pu_quant_files *f, const pu_safetensors *files, const char *stem, coding *c, pu_source_tensor *out,
                   pu_error *e) {
  c->group = c->how == INT8 || f->group < 0 ? PU_MAX(c->cols, 1) : f->group;
  c->groups = (c->cols + c->group - 1) / c->group;
  c->scale_rows = c->how == INT8;
  PU_TRY(c->how == FP8 ? check_fp8(f, c, e) : check_parts(f, c, e));
  PU_TRY(read_g_idx(f, c, c->how == GPTQ ? part(files, stem, "g_idx") : NULL, e));
  if (is_symmetric(c)) c->zeros = NULL;
  *out = (pu_source_tensor){.name = pu_arena_printf(f->a, "%s.weight", stem),
                            .type = c->how == FP8    ? "fp8"
                                    : c->how == INT8 ? "int8"
                                    : c->bits == 4   ? "4 bits"
                                                     : "8 bits",
                            .dtype = PU_F32,
                            .ndim = 2,
                            .shape = {c->rows, c->cols},
                            .block = 1,
                            .data = c->q->data,
                            .coding = c,
                            .floats = c->how == FP8,
                            .few = packing_of(c),
                            .g_idx = c->g_idx,
                            .file_group = c->group,
                            .fp8_rows = c->how == FP8 ? c->scale_rows : 0};
  return out->name ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the list of its tensors", f->config);
}

/* ---- all of them ---- */

/* Is this tensor, STEM.END, a matrix's packed values? */
static bool is_packed(const pu_quant_files *f, const pu_safetensors *files, const pu_st_tensor *t, const char *stem) {
  const char *end = t->name + strlen(stem) + 1;
  if (f->how == FP8) return strcmp(end, "weight") == 0 && strcmp(t->type, FP8_TYPE) == 0 && t->ndim == 2;
  if (f->how != INT8) return strcmp(end, "qweight") == 0 && t->dtype == PU_I32 && t->ndim == 2;
  return strcmp(end, "weight") == 0 && t->dtype == PU_I8 && t->ndim == 2 && part(files, stem, "weight_scale");
}

static const pu_st_tensor *scales_of(const pu_quant_files *f, const pu_safetensors *files, const char *stem) {
  const pu_st_tensor *t = NULL;
  if (f->how != FP8) return part(files, stem, f->how == INT8 ? "weight_scale" : "scales");
  for (const char *const *end = f->fp8.scales; !t && *end; end++) t = part(files, stem, *end);
  return t;
}

static bool has_end(const char *end, const char *const *ends) {
  while (*ends && strcmp(end, *ends) != 0) ends++;
  return *ends != NULL;
}

/* A tensor that belongs to one, and is not shown. Beside FP8 there may be the scale that inputs were meant to be
 * rounded by (static activation schemes; Mistral's name is the second): it says nothing of the weights. */
static bool is_part(const pu_quant_files *f, const pu_safetensors *files, const pu_st_tensor *t, const char *stem) {
  static const char *const ends[] = {"qzeros", "scales", "g_idx", NULL}, *const int8_ends[] = {"weight_scale", NULL},
                           *const fp8_ends[] = {"input_scale", "activation_scale", NULL};
  const pu_st_tensor *whole = part(files, stem, f->how == INT8 || f->how == FP8 ? "weight" : "qweight");
  if (!whole || !is_packed(f, files, whole, stem)) return false;
  if (f->how == FP8 && t == scales_of(f, files, stem)) return true;
  return has_end(t->name + strlen(stem) + 1, f->how == FP8 ? fp8_ends : f->how == INT8 ? int8_ends : ends);
}

static pu_err show_packed(pu_quant_files *f, const pu_safetensors *files, const pu_st_tensor *t, const char *stem,
                          pu_source_tensor *out, pu_error *e) {
  coding *c = pu_arena_zalloc(f->a, sizeof *c);
  if (t->shape[0] < 1 || t->shape[0] > INT32_MAX / 8 || t->shape[1] < 1 || t->shape[1] > INT32_MAX / 8)
    return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%.150s' [%lld, %lld] is no matrix in few bits", f->config, t->name,
                   (long long)t->shape[0], (long long)t->shape[1]);
  if (!c) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the list of its tensors", f->config);
  *c = (coding){.how = f->how, .less_one = f->less_one, .bits = (int)f->bits, .q = t, .e4m3 = f->e4m3};
  c->scales = scales_of(f, files, stem);
  c->zeros = f->how == INT8 || f->how == FP8 ? NULL : part(files, stem, "qzeros");
  c->cols = f->how == AWQ ? t->shape[0] : f->how == GPTQ ? t->shape[0] * (32 / f->bits) : t->shape[1];
  c->rows = f->how == AWQ ? t->shape[1] * 8 : f->how == GPTQ ? t->shape[1] : t->shape[0];
  return show(f, files, stem, c, out, e);
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const pu_source_tensor *)a)->name, ((const pu_source_tensor *)b)->name);
}

static pu_err show_all(pu_quant_files *f, const pu_safetensors *files, pu_source *s, pu_error *e) {
  size_t n = 0;
  for (size_t i = 0; i < s->n; i++) {
    const pu_st_tensor *t = pu_safetensors_find(files, s->tensors[i].name);
    const char *dot = t ? strrchr(t->name, '.') : NULL;
    char stem[256];
    snprintf(stem, sizeof stem, "%.*s", dot ? (int)PU_MIN(dot - t->name, 255) : 0, t ? t->name : "");
    bool fits = dot && dot - t->name < (ptrdiff_t)sizeof stem;
    if (fits && is_packed(f, files, t, stem))
      PU_TRY(show_packed(f, files, t, stem, &s->tensors[n++], e));
    else if (!fits || !is_part(f, files, t, stem))
      s->tensors[n++] = s->tensors[i];
  }
  s->n = n;
  qsort(s->tensors, n, sizeof *s->tensors, by_name);
  for (size_t i = 1; i < n; i++)
    if (strcmp(s->tensors[i - 1].name, s->tensors[i].name) == 0)
      return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%.150s' is there twice: plain and quantised", s->where,
                     s->tensors[i].name);
  s->values = values;
  s->codes = codes;
  s->scale = fp8_scale;
  return PU_OK;
}

/* Room for names, codings and the inputs' groups. */
static size_t list_bytes(const pu_safetensors *files) {
  size_t bytes = 1 << 16;
  for (size_t i = 0; i < pu_safetensors_count(files); i++) {
    const pu_st_tensor *t = pu_safetensors_at(files, i);
    bytes += sizeof(coding) + 512 + (t->ndim == 1 && t->dtype == PU_I32 ? t->bytes + 64 : 0);
  }
  return bytes;
}

pu_err pu_quant_files_show(const json_t *config, const char *where, const pu_safetensors *files, pu_source *s,
                           pu_quant_files **out, pu_error *e) {
  const json_t *o = json_object_get(config, "quantization_config");
  pu_arena *a;
  *out = NULL;
  if (!o || json_is_null(o)) return PU_OK;
  PU_TRY(pu_arena_create(list_bytes(files) + strlen(where), &a, e));
  pu_quant_files *f = *out = pu_arena_zalloc(a, sizeof *f);
  if (!f) {
    pu_arena_free(a);
    return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its description", where);
  }
  f->a = a;
  f->config = pu_arena_strdup(a, where);
  if (!f->config) return pu_fail(e, PU_ERR_NOMEM, "%s: the name is too long", where);
  PU_TRY(read_method(o, f, e));
  for (int i = 0; i < 256; i++) f->e4m3[i] = pu_e4m3_to_f32((uint8_t)i);
  return show_all(f, files, s, e);
}

/* The first GPTQ files had a file of their own beside a config.json that knows nothing. */
static pu_err add_older_config(pu_arena *a, const char *dir, json_t *config, pu_error *e) {
  json_t *older;
  const char *path = pu_path_join(a, dir, "quantize_config.json");
  if (!path || json_object_get(config, "quantization_config") || !pu_path_exists(path)) return PU_OK;
  PU_TRY(pu_json_read(path, MAX_CONFIG, &older, e));
  if (json_is_object(older) && !json_object_get(older, "quant_method"))
    json_object_set_new(older, "quant_method", json_string("gptq"));
  if (json_object_set_new(config, "quantization_config", older) == 0) return PU_OK;
  return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its configuration", dir);
}

pu_err pu_quant_files_open(const char *dir, const pu_safetensors *files, pu_source *s, pu_quant_files **out,
                           pu_error *e) {
  pu_arena *a;
  json_t *config = NULL;
  *out = NULL;
  PU_TRY(pu_arena_create(1 << 16, &a, e));
  const char *path = pu_path_join(a, dir, "config.json");
  pu_err err =
      path ? pu_json_read(path, MAX_CONFIG, &config, e) : pu_fail(e, PU_ERR_NOMEM, "%s: the name is too long", dir);
  if (err == PU_OK) err = add_older_config(a, dir, config, e);
  if (err == PU_OK) err = pu_quant_files_show(config, path, files, s, out, e);
  json_decref(config);
  pu_arena_free(a);
  return err;
}

void pu_quant_files_close(pu_quant_files *f) {
  if (f) pu_arena_free(f->a);
}
