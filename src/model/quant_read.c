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
 * w[n][k] = (q - zero) scale. */
#include "src/model/source.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_CONFIG = 4 << 20 };

typedef enum method { AWQ, GPTQ, INT8 } method;

typedef struct coding {
  method how;
  bool less_one; /* zeros are stored so */
  int bits;
  int64_t cols, rows, groups, group; /* K, N */
  const pu_st_tensor *q, *zeros, *scales;
  const int32_t *g_idx; /* NULL: k / group */
} coding;

struct pu_quant_files {
  pu_arena *a;
  const char *config; /* its path, for errors */
  method how;
  bool less_one;
  int64_t bits, group; /* group -1: all inputs */
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

static pu_err read_compressed(const json_t *o, pu_quant_files *f, pu_error *e) {
  const char *name, *type = "";
  const json_t *group;
  bool symmetric = true;
  f->group = -1;
  json_object_foreach(json_object_get(o, "config_groups"), name, group) {
    const json_t *weights = json_object_get(group, "weights");
    if (!json_is_object(weights)) continue;
    PU_TRY(pu_json_int_or(weights, "num_bits", 0, 64, 8, &f->bits, f->config, e));
    PU_TRY(pu_json_str_or(weights, "type", "int", &type, f->config, e));
    PU_TRY(pu_json_bool_or(weights, "symmetric", true, &symmetric, f->config, e));
    if (f->bits != 8 || strcmp(type, "int") != 0 || !symmetric) break;
  }
  if (f->bits == 8 && strcmp(type, "int") == 0 && symmetric) return PU_OK;
  return pu_fail(
      e, PU_ERR_UNSUPPORTED,
      "%s: weights of compressed-tensors in %lld bits, '%.20s', are not supported: 8 bits, int, symmetric are",
      f->config, (long long)f->bits, type);
}

static pu_err read_method(const json_t *o, pu_quant_files *f, pu_error *e) {
  static const struct {
    const char *name;
    method how;
    pu_err (*read)(const json_t *o, pu_quant_files *f, pu_error *e);
  } methods[] = {{"awq", AWQ, read_awq}, {"gptq", GPTQ, read_gptq}, {"compressed-tensors", INT8, read_compressed}};
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
                 "%s: quant_method '%.40s' is not supported: awq, gptq and compressed-tensors are", f->config, name);
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
  int64_t at = c->how == INT8 ? row * c->groups + g : g * c->rows + row;
  uint32_t raw;
  float out;
  memcpy(&raw, (const char *)t->data + (size_t)at * size, size);
  pu_convert(&out, PU_F32, &raw, t->dtype, 1);
  return out;
}

static void values(const pu_source_tensor *t, int64_t at, int64_t n, void *out) {
  const coding *c = t->coding;
  float *to = out;
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

/* ---- checking one matrix ---- */

static pu_err misfit(const pu_quant_files *f, const pu_st_tensor *t, const char *want, pu_error *e) {
  return pu_fail(e, PU_ERR_SHAPE, "%s: tensor '%.150s' should be %s, as its qweight and config.json have it", f->config,
                 t->name, want);
}

static bool is_shape(const pu_st_tensor *t, pu_dtype dtype, int64_t rows, int64_t cols) {
  bool fits = t->ndim == 2 && t->shape[0] == rows && t->shape[1] == cols;
  return fits && (t->dtype == dtype || (dtype == PU_F32 && (t->dtype == PU_F16 || t->dtype == PU_BF16)));
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

/* A group of the file is one or several of the kernels'; where that cannot be, the matrix is only had as floats. */
static pu_packing packing_of(const coding *c) {
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
  PU_TRY(check_parts(f, c, e));
  PU_TRY(read_g_idx(f, c, c->how == GPTQ ? part(files, stem, "g_idx") : NULL, e));
  if (is_symmetric(c)) c->zeros = NULL;
  *out = (pu_source_tensor){.name = pu_arena_printf(f->a, "%s.weight", stem),
                            .type = c->how == INT8 ? "int8"
                                    : c->bits == 4 ? "4 bits"
                                                   : "8 bits",
                            .dtype = PU_F32,
                            .ndim = 2,
                            .shape = {c->rows, c->cols},
                            .block = 1,
                            .data = c->q->data,
                            .coding = c,
                            .few = packing_of(c),
                            .g_idx = c->g_idx,
                            .file_group = c->group};
  return out->name ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the list of its tensors", f->config);
}

/* ---- all of them ---- */

/* Is this tensor, STEM.END, a matrix's packed values? */
static bool is_packed(const pu_quant_files *f, const pu_safetensors *files, const pu_st_tensor *t, const char *stem) {
  const char *end = t->name + strlen(stem) + 1;
  if (f->how != INT8) return strcmp(end, "qweight") == 0 && t->dtype == PU_I32 && t->ndim == 2;
  return strcmp(end, "weight") == 0 && t->dtype == PU_I8 && t->ndim == 2 && part(files, stem, "weight_scale");
}

/* A tensor that belongs to one, and is not shown. */
static bool is_part(const pu_quant_files *f, const pu_safetensors *files, const pu_st_tensor *t, const char *stem) {
  static const char *const ends[] = {"qzeros", "scales", "g_idx", NULL}, *const int8_ends[] = {"weight_scale", NULL};
  const pu_st_tensor *whole = part(files, stem, f->how == INT8 ? "weight" : "qweight");
  for (const char *const *end = f->how == INT8 ? int8_ends : ends; *end; end++)
    if (strcmp(t->name + strlen(stem) + 1, *end) == 0) return whole && is_packed(f, files, whole, stem);
  return false;
}

static pu_err show_packed(pu_quant_files *f, const pu_safetensors *files, const pu_st_tensor *t, const char *stem,
                          pu_source_tensor *out, pu_error *e) {
  coding *c = pu_arena_zalloc(f->a, sizeof *c);
  if (t->shape[0] < 1 || t->shape[0] > INT32_MAX / 8 || t->shape[1] < 1 || t->shape[1] > INT32_MAX / 8)
    return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%.150s' [%lld, %lld] is no matrix in few bits", f->config, t->name,
                   (long long)t->shape[0], (long long)t->shape[1]);
  if (!c) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the list of its tensors", f->config);
  *c = (coding){.how = f->how, .less_one = f->less_one, .bits = (int)f->bits, .q = t};
  c->scales = part(files, stem, f->how == INT8 ? "weight_scale" : "scales");
  c->zeros = f->how == INT8 ? NULL : part(files, stem, "qzeros");
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
