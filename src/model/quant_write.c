/* Matrices in few bits on their way into a Hugging Face directory: the tensors that quant_read.c describes, word by
 * word, and the quantization_config that says how they lie. */
#include "src/model/arch.h"
#include "src/model/weights.h"

#include <stdlib.h>
#include <string.h>

/* ---- what can be written ---- */

/* All that are in few bits have what `first` has. */
static pu_err check_alike(const char *where, const pu_param *p, const pu_qmatrix *q, const pu_qmatrix *first,
                          pu_error *e) {
  int64_t cols = p->w->shape[p->w->ndim - 1];
  if (!pu_slot_is_packable(p->slot) || q->cols != cols || q->rows * cols != pu_tensor_count(p->w))
    return pu_fail(e, PU_ERR_USAGE, "%s: '%s' has no [%lld, %lld] weights that could be in few bits", where, p->name,
                   (long long)q->rows, (long long)q->cols);
  bool whole = q->group == q->cols && first->group == first->cols;
  if (q->bits == first->bits && !q->zero == !first->zero && (whole || q->group == first->group)) return PU_OK;
  return pu_fail(e, PU_ERR_USAGE, "%s: '%s' differs from other matrices in bits, groups or zeros", where, p->name);
}

static const char *format_misfit(pu_quant_format f, const pu_qmatrix *q) {
  if (f == PU_QUANT_AWQ && q->bits != 4) return "AWQ's layout is of 4 bits";
  if (f == PU_QUANT_AWQ && q->g_idx) return "AWQ's layout has no order of inputs";
  if (f != PU_QUANT_INT8) return NULL;
  return q->bits != 8 || q->zero || q->g_idx || q->group != q->cols ? "int8 is symmetric, with one scale a row" : NULL;
}

pu_err pu_quant_check(const pu_model *m, const char *where, pu_quant_format f, const pu_qmatrix *q, pu_error *e) {
  const pu_qmatrix *first = NULL;
  for (size_t i = 0; i < m->n_params; i++) {
    if (!q[i].bits) continue;
    if (!first) first = &q[i];
    PU_TRY(check_alike(where, &m->params[i], &q[i], first, e));
    const char *misfit = format_misfit(f, &q[i]);
    if (misfit) return pu_fail(e, PU_ERR_USAGE, "%s: '%s': %s", where, m->params[i].name, misfit);
  }
  return first ? PU_OK : pu_fail(e, PU_ERR_USAGE, "%s: no matrix is in few bits", where);
}

/* ---- values of one tensor of the file ---- */

typedef struct parts {
  const pu_qmatrix *q;
  int32_t *row; /* [rows]: where each of the file's is in memory */
  int64_t rows;
  pu_quant_format how;
} parts;

static int zero_of(const parts *p, int64_t row, int64_t g) {
  const pu_qmatrix *q = p->q;
  return q->zero ? q->zero[p->row[row] * pu_qmatrix_groups(q) + g] : 1 << (q->bits - 1);
}

/* Columns in the order in which AWQ lays them from the lowest bits of a word on. */
static int64_t awq_column(int i) {
  return i % 4 * 2 + i / 4;
}

/* Word w of a tensor [.., N / 8] or, of GPTQ, [.., N bits / 32] whose rows are groups. Where there are no zeros all are
 * the same: other readers want them all the same. GPTQ's are as they are, which is `gptq_v2`: less one, as the first
 * format has them, a zero of 0 would wrap. */
static uint32_t zero_word(const parts *p, int64_t w) {
  int bits = p->q->bits, per = 32 / bits;
  int64_t across = p->rows / per, g = w / across, first = w % across * per;
  uint32_t out = 0;
  for (int i = 0; i < per; i++) {
    int zero = zero_of(p, first + (p->how == PU_QUANT_AWQ ? awq_column(i) : i), g);
    out |= (uint32_t)zero << (i * bits);
  }
  return out;
}

static uint32_t value_word(const parts *p, int64_t w) {
  const pu_qmatrix *q = p->q;
  int bits = q->bits, per = 32 / bits;
  int64_t across = p->how == PU_QUANT_AWQ ? p->rows / per : p->rows, down = w / across, at = w % across;
  uint32_t out = 0;
  for (int i = 0; i < per; i++) {
    int64_t row = p->how == PU_QUANT_AWQ ? at * per + awq_column(i) : at;
    int64_t k = p->how == PU_QUANT_AWQ ? down : down * per + i;
    out |= (uint32_t)q->q[p->row[row] * q->cols + k] << (i * bits);
  }
  return out;
}

static pu_err read_words(const parts *p, uint32_t (*word)(const parts *p, int64_t w), size_t offset, void *buf,
                         size_t len) {
  for (size_t i = 0; i < len / 4; i++) {
    uint32_t w = word(p, (int64_t)(offset / 4 + i));
    memcpy((char *)buf + i * 4, &w, sizeof w);
  }
  return PU_OK;
}

static pu_err read_values(void *arg, size_t offset, void *buf, size_t len, pu_error *e) {
  (void)e;
  return read_words(arg, value_word, offset, buf, len);
}

static pu_err read_zeros(void *arg, size_t offset, void *buf, size_t len, pu_error *e) {
  (void)e;
  return read_words(arg, zero_word, offset, buf, len);
}

static pu_err read_scales(void *arg, size_t offset, void *buf, size_t len, pu_error *e) {
  const parts *p = arg;
  (void)e;
  for (size_t i = 0; i < len / 2; i++) {
    int64_t at = (int64_t)(offset / 2 + i), g = at / p->rows, row = at % p->rows;
    uint16_t h = pu_f32_to_f16(p->q->scale[p->row[row] * pu_qmatrix_groups(p->q) + g]);
    memcpy((char *)buf + i * 2, &h, sizeof h);
  }
  return PU_OK;
}

static pu_err read_g_idx(void *arg, size_t offset, void *buf, size_t len, pu_error *e) {
  const parts *p = arg;
  (void)e;
  for (size_t i = 0; i < len / 4; i++) {
    int64_t k = (int64_t)(offset / 4 + i);
    int32_t g = p->q->g_idx ? p->q->g_idx[k] : (int32_t)(k / p->q->group);
    memcpy((char *)buf + i * 4, &g, sizeof g);
  }
  return PU_OK;
}

static pu_err read_bytes(void *arg, size_t offset, void *buf, size_t len, pu_error *e) {
  const parts *p = arg;
  (void)e;
  for (size_t i = 0; i < len; i++) {
    int64_t at = (int64_t)(offset + i);
    ((uint8_t *)buf)[i] = p->q->q[p->row[at / p->q->cols] * p->q->cols + at % p->q->cols] ^ 0x80;
  }
  return PU_OK;
}

static pu_err read_row_scales(void *arg, size_t offset, void *buf, size_t len, pu_error *e) {
  const parts *p = arg;
  (void)e;
  for (size_t i = 0; i < len / 4; i++) memcpy((char *)buf + i * 4, &p->q->scale[p->row[offset / 4 + i]], sizeof(float));
  return PU_OK;
}

/* ---- the tensors of one matrix ---- */

typedef struct part {
  const char *end;
  pu_dtype dtype;
  int ndim;
  int64_t shape[2];
  pu_err (*read)(void *arg, size_t offset, void *buf, size_t len, pu_error *e);
} part;

static int parts_of(const parts *p, part out[PU_QUANT_PARTS]) {
  const pu_qmatrix *q = p->q;
  int64_t N = p->rows, K = q->cols, G = pu_qmatrix_groups(q), per = 32 / q->bits;
  int n = 0;
  if (p->how == PU_QUANT_INT8) {
    out[n++] = (part){"weight", PU_I8, 2, {N, K}, read_bytes};
    out[n++] = (part){"weight_scale", PU_F32, 2, {N, 1}, read_row_scales};
    return n;
  }
  bool awq = p->how == PU_QUANT_AWQ;
  if (!awq) out[n++] = (part){"g_idx", PU_I32, 1, {K, 1}, read_g_idx};
  out[n++] = (part){"qweight", PU_I32, 2, {awq ? K : K / per, awq ? N / per : N}, read_values};
  out[n++] = (part){"qzeros", PU_I32, 2, {G, N / per}, read_zeros};
  out[n++] = (part){"scales", PU_F16, 2, {G, N}, read_scales};
  return n;
}

static pu_err make_rows(const pu_outgoing *o, parts *p, pu_arena *a, pu_error *e) {
  int64_t runs = pu_mapping_runs(&o->map), cols = p->q->cols;
  p->row = pu_arena_alloc(a, (size_t)p->rows * sizeof *p->row);
  if (!p->row) return pu_fail(e, PU_ERR_NOMEM, "no memory for the rows of '%s'", o->name);
  for (int64_t i = 0; i < runs; i++) {
    pu_run r = pu_mapping_run(&o->map, i);
    for (int64_t j = 0; j < r.n / cols; j++) p->row[r.file / cols + j] = (int32_t)(r.mem / cols + j);
  }
  return PU_OK;
}

pu_err pu_quant_sources(const pu_outgoing *o, pu_quant_format f, const pu_qmatrix *q, pu_arena *a, pu_st_source *out,
                        size_t *n, pu_error *e) {
  part list[PU_QUANT_PARTS];
  parts *p = pu_arena_alloc(a, sizeof *p);
  const char *end = strrchr(o->name, '.');
  int64_t per = 32 / q->bits;
  if (!p) return pu_fail(e, PU_ERR_NOMEM, "no memory for the list of tensors");
  *p = (parts){.q = q, .rows = o->map.shape[0], .how = f};
  if (o->map.ndim != 2 || !end || strcmp(end, ".weight") != 0)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "tensor '%s' cannot be written in few bits: no matrix of its own", o->name);
  if (f != PU_QUANT_INT8 && (p->rows % per || (f == PU_QUANT_GPTQ && q->cols % per)))
    return pu_fail(e, PU_ERR_UNSUPPORTED, "tensor '%s' [%lld, %lld] cannot be packed by %lld into words", o->name,
                   (long long)p->rows, (long long)q->cols, (long long)per);
  PU_TRY(make_rows(o, p, a, e));
  int parts_n = parts_of(p, list);
  for (int i = 0; i < parts_n; i++) {
    pu_st_source *t = &out[(*n)++];
    *t = (pu_st_source){.dtype = list[i].dtype, .ndim = list[i].ndim, .read = list[i].read, .arg = p};
    memcpy(t->shape, list[i].shape, sizeof list[i].shape);
    t->name = pu_arena_printf(a, "%.*s.%s", (int)(end - o->name), o->name, list[i].end);
    if (!t->name) return pu_fail(e, PU_ERR_NOMEM, "no memory for the list of tensors");
  }
  return PU_OK;
}

/* ---- quantization_config ---- */

/* Matrices that are not in few bits, under the file's names without ".weight". */
static json_t *plain_modules(const pu_outgoing *o, size_t n, const pu_qmatrix *q) {
  json_t *list = json_array();
  for (size_t i = 0; i < n; i++) {
    const char *end = strrchr(o[i].name, '.');
    if (pu_slot_is_matrix(o[i].slot) && !q[o[i].param].bits && end)
      json_array_append_new(list, json_stringn(o[i].name, (size_t)(end - o[i].name)));
  }
  return list;
}

static json_t *int8_config(json_t *ignored) {
  return json_pack("{s:s, s:s, s:s, s:o, s:{s:{s:[s], s:{s:i, s:s, s:b, s:s, s:b}, s:{s:i, s:s, s:b, s:s, s:b}}}}",
                   "quant_method", "compressed-tensors", "format", "int-quantized", "quantization_status", "compressed",
                   "ignore", ignored, "config_groups", "group_0", "targets", "Linear", "weights", "num_bits", 8, "type",
                   "int", "symmetric", 1, "strategy", "channel", "dynamic", 0, "input_activations", "num_bits", 8,
                   "type", "int", "symmetric", 1, "strategy", "token", "dynamic", 1);
}

json_t *pu_quant_config(const pu_outgoing *o, size_t n, pu_quant_format f, const pu_qmatrix *q) {
  const pu_qmatrix *any = NULL;
  bool ordered = false, output = false;
  for (size_t i = 0; i < n; i++) {
    const pu_qmatrix *of = &q[o[i].param];
    if (!of->bits) continue;
    if (!any || of->group != of->cols) any = of;
    ordered |= of->g_idx != NULL;
    output |= o[i].slot == PU_SLOT_OUTPUT;
  }
  if (!any) return NULL;
  json_t *modules = plain_modules(o, n, q);
  if (f == PU_QUANT_INT8) return int8_config(modules);
  json_int_t group = any->group == any->cols ? -1 : any->group;
  if (f == PU_QUANT_AWQ)
    return json_pack("{s:s, s:i, s:I, s:b, s:s, s:o}", "quant_method", "awq", "bits", 4, "group_size", group,
                     "zero_point", 1, "version", "gemm", "modules_to_not_convert", modules);
  json_decref(modules);
  return json_pack("{s:s, s:i, s:I, s:b, s:b, s:b, s:s}", "quant_method", "gptq", "bits", any->bits, "group_size",
                   group, "desc_act", ordered, "sym", any->zero == NULL, "lm_head", output, "checkpoint_format",
                   "gptq_v2");
}
