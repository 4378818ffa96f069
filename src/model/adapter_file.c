/* Adapters in and out of PEFT's directories, and into a model's own weights. */
#include "src/model/adapter.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_NAME = 256 };
#define VALUES  "adapter_model.safetensors"
#define PICKLED "adapter_model.bin"
#define PREFIX  "base_model.model."

/* ---- values, in the file's order ---- */

/* Rows of B: from the file's order into memory's, or back. A's are the same in both. */
static void reorder(const pu_adapted *t, const float *in, float *out, bool to_memory) {
  int64_t runs = pu_mapping_runs(&t->map), cols = t->map.shape[1];
  for (int64_t i = 0; i < runs; i++) {
    pu_run r = pu_mapping_run(&t->map, i);
    int64_t file = r.file / cols * t->rank, mem = (r.mem / cols - t->from) * t->rank, n = r.n / cols * t->rank;
    memcpy(out + (to_memory ? mem : file), in + (to_memory ? file : mem), (size_t)n * sizeof *out);
  }
}

static const pu_param *param_of(const pu_adapter *a, const pu_adapted *t, bool b) {
  return &a->params[2 * (t - a->v) + b];
}

/* Room for n values, once in memory's order and once as they lie in memory. */
typedef struct room {
  float *ordered;
  uint16_t *typed; /* n values of f32, or of bf16 and behind them the lower halves */
} room;

static pu_err room_take(room *r, const pu_adapter *a, int64_t n, pu_error *e) {
  *r = (room){malloc((size_t)n * sizeof(float)), malloc((size_t)n * sizeof(float))};
  return r->ordered && r->typed ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its values", a->where);
}

static void room_give(room *r) {
  free(r->ordered);
  free(r->typed);
}

static pu_err put_ordered(pu_backend *be, const pu_param *p, const room *r, int64_t n, pu_error *e) {
  if (!p->low) {
    pu_convert(r->typed, p->w->dtype, r->ordered, PU_F32, n);
    return be->upload(be, p->w->data, r->typed, pu_tensor_bytes(p->w), e);
  }
  pu_split_halves(r->typed, r->typed + n, r->ordered, n);
  PU_TRY(be->upload(be, p->w->data, r->typed, pu_tensor_bytes(p->w), e));
  return be->upload(be, p->low->data, r->typed + n, pu_tensor_bytes(p->low), e);
}

pu_err pu_adapter_put(pu_adapter *a, const pu_adapted *t, bool b, const float *values, pu_error *e) {
  const pu_param *p = param_of(a, t, b);
  int64_t n = pu_tensor_count(p->w);
  room r;
  pu_err err = room_take(&r, a, n, e);
  if (err == PU_OK) {
    if (b)
      reorder(t, values, r.ordered, true);
    else
      memcpy(r.ordered, values, (size_t)n * sizeof *values);
    err = put_ordered(a->m->be, p, &r, n, e);
  }
  room_give(&r);
  return err;
}

static pu_err host_download(pu_backend *be, void *to, const void *from, size_t bytes, pu_error *e) {
  (void)be, (void)e;
  memcpy(to, from, bytes);
  return PU_OK;
}

static pu_err get_ordered(pu_backend *be, bool host, const pu_param *p, const room *r, int64_t n, pu_error *e) {
  pu_err (*download)(pu_backend *, void *, const void *, size_t, pu_error *) = host ? host_download : be->download;
  PU_TRY(download(be, r->typed, p->w->data, pu_tensor_bytes(p->w), e));
  if (!p->low) {
    pu_convert(r->ordered, PU_F32, r->typed, p->w->dtype, n);
    return PU_OK;
  }
  PU_TRY(download(be, r->typed + n, p->low->data, pu_tensor_bytes(p->low), e));
  pu_join_halves(r->ordered, r->typed, r->typed + n, n);
  return PU_OK;
}

/* Values of a or b, row-major, in the file's order of rows. copy: not NULL where they lie in the host's memory. */
static pu_err get_values(const pu_adapter *a, const pu_adapted *t, bool b, const pu_param *copy, float *values,
                         pu_error *e) {
  const pu_param *p = copy ? copy : param_of(a, t, b);
  int64_t n = pu_tensor_count(p->w);
  room r;
  pu_err err = room_take(&r, a, n, e);
  if (err == PU_OK) err = get_ordered(a->m->be, copy != NULL, p, &r, n, e);
  if (err == PU_OK && b) reorder(t, r.ordered, values, false);
  if (err == PU_OK && !b) memcpy(values, r.ordered, (size_t)n * sizeof *values);
  room_give(&r);
  return err;
}

/* ---- reading ---- */

typedef struct reader {
  pu_adapter *a;
  pu_safetensors *files;
  bool *used; /* by index in files */
} reader;

static pu_err no_half(const reader *r, const char *name, const pu_adapted *t, pu_error *e) {
  return pu_fail(e, PU_ERR_FORMAT,
                 "%s: tensor '%s' is missing: " PU_ADAPTER_CONFIG " says that '%s' is adapted, which takes lora_A and "
                 "lora_B",
                 r->a->where, name, t->module);
}

static pu_err check_shape(const reader *r, const pu_st_tensor *s, const pu_tensor *want, pu_error *e) {
  if (s->ndim == 2 && s->shape[0] == want->shape[0] && s->shape[1] == want->shape[1]) return PU_OK;
  char got[60] = "not a matrix";
  if (s->ndim == 2) snprintf(got, sizeof got, "[%lld, %lld]", (long long)s->shape[0], (long long)s->shape[1]);
  return pu_fail(e, PU_ERR_SHAPE,
                 "%s: tensor '%s' is %s, but the base and " PU_ADAPTER_CONFIG
                 " make it [%lld, %lld]: is it an adapter of another base?",
                 r->a->where, s->name, got, (long long)want->shape[0], (long long)want->shape[1]);
}

static pu_err read_half(reader *r, const pu_adapted *t, bool b, pu_error *e) {
  char name[MAX_NAME + 64];
  snprintf(name, sizeof name, PREFIX "%s.lora_%s.weight", t->module, b ? "B" : "A");
  const pu_st_tensor *s = pu_safetensors_find(r->files, name);
  if (!s) return no_half(r, name, t, e);
  PU_TRY(check_shape(r, s, b ? t->b : t->a, e));
  if (s->dtype != PU_F32 && s->dtype != PU_BF16 && s->dtype != PU_F16)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: tensor '%s' is of type %s; adapters are read from f32, bf16 and f16",
                   r->a->where, name, s->type);
  r->used[s - pu_safetensors_at(r->files, 0)] = true;
  int64_t n = s->shape[0] * s->shape[1];
  void *raw = malloc(s->bytes + 1);
  float *values = malloc((size_t)n * sizeof *values + 1);
  pu_err err = raw && values ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "%s: no memory to read it", r->a->where);
  if (err == PU_OK) {
    memcpy(raw, s->data, s->bytes); /* the file's may be unaligned */
    pu_convert(values, PU_F32, raw, s->dtype, n);
    err = pu_adapter_put(r->a, t, b, values, e);
  }
  free(raw);
  free(values);
  return err;
}

static pu_err check_surplus(const reader *r, pu_error *e) {
  for (size_t i = 0; i < pu_safetensors_count(r->files); i++)
    if (!r->used[i])
      return pu_fail(e, PU_ERR_FORMAT,
                     "%s: tensor '%.160s' has no place: family %s takes adapters of the matrices of attention and of a "
                     "dense MLP that " PU_ADAPTER_CONFIG " names. Is it one of another base?",
                     r->a->where, pu_safetensors_at(r->files, i)->name, r->a->m->arch->name);
  return PU_OK;
}

static pu_err read_values(reader *r, const char *dir, pu_arena *scratch, pu_error *e) {
  const char *path = pu_path_join(scratch, dir, VALUES), *pickled = pu_path_join(scratch, dir, PICKLED);
  if (!path || !pickled) return pu_fail(e, PU_ERR_NOMEM, "%s: the name is too long", dir);
  if (!pu_path_exists(path))
    return pu_fail(e, PU_ERR_IO, "%s: " VALUES " is missing%s", dir,
                   pu_path_exists(pickled) ? ": " PICKLED " cannot be read; save it with safe_serialization" : "");
  PU_TRY(pu_safetensors_open(path, &r->files, e));
  r->used = calloc(pu_safetensors_count(r->files) + 1, sizeof *r->used);
  if (!r->used) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the list of its tensors", dir);
  for (size_t i = 0; i < r->a->n; i++) {
    PU_TRY(read_half(r, &r->a->v[i], false, e));
    PU_TRY(read_half(r, &r->a->v[i], true, e));
  }
  return check_surplus(r, e);
}

pu_err pu_adapter_load_as(const char *dir, const pu_model *m, pu_dtype dtype, bool train, pu_adapter **out,
                          pu_error *e) {
  pu_arena *scratch;
  pu_adapter_config config;
  reader r = {0};
  *out = NULL;
  PU_TRY(pu_arena_create(1 << 16, &scratch, e));
  pu_err err = pu_adapter_config_open(dir, scratch, &config, e);
  if (err == PU_OK) err = pu_adapter_new(m, &config, dir, dtype, train, &r.a, e);
  if (err == PU_OK) err = read_values(&r, dir, scratch, e);
  pu_safetensors_close(r.files);
  free(r.used);
  pu_arena_free(scratch);
  if (err == PU_OK)
    *out = r.a;
  else
    pu_adapter_free(r.a);
  return err;
}

pu_err pu_adapter_load(const char *dir, const pu_model *m, bool train, pu_adapter **out, pu_error *e) {
  return pu_adapter_load_as(dir, m, m->dtype, train, out, e);
}

/* ---- writing ---- */

typedef struct saving {
  const pu_adapter *a;
  const pu_param *copy; /* values of these instead of its own; NULL: its own */
  pu_dtype dtype;
  pu_arena *mem;
} saving;

static pu_err collect(const saving *s, size_t i, pu_st_source *out, pu_error *e) {
  const pu_adapter *a = s->a;
  const pu_adapted *t = &a->v[i / 2];
  const pu_param *p = &a->params[i];
  pu_dtype dtype = s->dtype;
  pu_arena *mem = s->mem;
  int64_t n = pu_tensor_count(p->w);
  void *typed = pu_arena_alloc(mem, (size_t)n * pu_dtype_size(dtype));
  *out = (pu_st_source){.name = pu_arena_printf(mem, PREFIX "%s", p->name),
                        .dtype = dtype,
                        .ndim = 2,
                        .shape = {p->w->shape[0], p->w->shape[1]},
                        .data = typed};
  float *values = malloc((size_t)n * sizeof *values);
  pu_err err = out->name && typed && values ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "%s: no memory to save it", a->where);
  if (err == PU_OK) err = get_values(a, t, i % 2, s->copy ? &s->copy[i] : NULL, values, e);
  if (err == PU_OK) pu_convert(typed, dtype, values, PU_F32, n);
  free(values);
  return err;
}

static pu_err write_config(const pu_adapter *a, const char *path, pu_error *e) {
  char *text = json_dumps(a->config.json, JSON_INDENT(2));
  if (!text) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory to write it", path);
  pu_err err = pu_file_write(path, text, strlen(text), e);
  free(text);
  return err;
}

static pu_err save_into(const saving *s, const char *dir, pu_error *e) {
  static const char *const metadata[] = {"format", "pt", NULL};
  const pu_adapter *a = s->a;
  pu_arena *mem = s->mem;
  const char *values = pu_path_join(mem, dir, VALUES), *config = pu_path_join(mem, dir, PU_ADAPTER_CONFIG);
  pu_st_source *list = pu_arena_alloc(mem, 2 * a->n * sizeof *list);
  if (!values || !config || !list) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory to save an adapter", dir);
  for (size_t i = 0; i < 2 * a->n; i++) PU_TRY(collect(s, i, &list[i], e));
  PU_TRY(pu_mkdirs(dir, e));
  PU_TRY(pu_safetensors_write(values, list, 2 * a->n, metadata, e));
  return write_config(a, config, e);
}

pu_err pu_adapter_save_params(const pu_adapter *a, const pu_param *params, const char *dir, pu_dtype dtype,
                              pu_error *e) {
  saving s = {.a = a, .copy = params, .dtype = dtype};
  size_t bytes = 1 << 16;
  if (dtype != PU_F32 && dtype != PU_BF16 && dtype != PU_F16)
    return pu_fail(e, PU_ERR_USAGE, "adapters are written as f32, bf16 or f16, not %s", pu_dtype_name(dtype));
  for (size_t i = 0; i < 2 * a->n; i++)
    bytes += (size_t)pu_tensor_count(a->params[i].w) * pu_dtype_size(dtype) + sizeof(pu_st_source) + 2 * MAX_NAME;
  PU_TRY(pu_arena_create(bytes, &s.mem, e));
  pu_err err = save_into(&s, dir, e);
  pu_arena_free(s.mem);
  return err;
}

pu_err pu_adapter_save(const pu_adapter *a, const char *dir, pu_dtype dtype, pu_error *e) {
  return pu_adapter_save_params(a, NULL, dir, dtype, e);
}

/* ---- into the weights ---- */

typedef struct merging {
  const pu_adapted *t;
  float *a, *b; /* [rank, cols]; [rows, rank], rows as in memory */
  float *rows;  /* [rows, cols]: of the model's matrix */
  void *typed;  /* the same, in its type */
} merging;

static void merge_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const merging *g = arg;
  int64_t cols = g->t->map.shape[1];
  (void)worker;
  for (int64_t i = begin; i < end; i++) {
    float *row = g->rows + i * cols;
    for (int64_t k = 0; k < g->t->rank; k++) {
      float s = g->t->scale * g->b[i * g->t->rank + k];
      const float *a = g->a + k * cols;
      for (int64_t c = 0; c < cols; c++) row[c] += s * a[c];
    }
  }
}

/* Rows of the matrix come to the host, are changed, and go back. */
static pu_err merge_values(pu_model *m, merging *g, const pu_tensor *w, pu_error *e) {
  pu_backend *be = m->be;
  int64_t rows = g->t->map.shape[0], cols = g->t->map.shape[1];
  size_t size = pu_dtype_size(w->dtype), bytes = (size_t)(rows * cols) * size;
  char *at = (char *)w->data + (size_t)(g->t->from * cols) * size;
  PU_TRY(be->download(be, g->a, g->t->a->data, pu_tensor_bytes(g->t->a), e));
  PU_TRY(be->download(be, g->b, g->t->b->data, pu_tensor_bytes(g->t->b), e));
  PU_TRY(be->download(be, g->typed, at, bytes, e));
  pu_convert(g->rows, PU_F32, g->typed, w->dtype, rows * cols);
  pu_pool_run(be->pool, rows, 16, merge_rows, g);
  pu_convert(g->typed, w->dtype, g->rows, PU_F32, rows * cols);
  return be->upload(be, at, g->typed, bytes, e);
}

static pu_err merge_one(pu_model *m, const pu_adapted *t, pu_error *e) {
  const pu_tensor *w = m->layers[t->layer].slot[t->slot];
  size_t n = (size_t)(t->map.shape[0] * t->map.shape[1]);
  if (w->layout != PU_LAYOUT_PLAIN)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "an adapter cannot be merged into weights that are laid out for inference");
  merging g = {.t = t,
               .a = malloc(pu_tensor_bytes(t->a)),
               .b = malloc(pu_tensor_bytes(t->b)),
               .rows = malloc(n * sizeof(float)),
               .typed = malloc(n * pu_dtype_size(w->dtype))};
  pu_err err = g.a && g.b && g.rows && g.typed ? merge_values(m, &g, w, e)
                                               : pu_fail(e, PU_ERR_NOMEM, "no memory to merge '%s'", t->module);
  free(g.a);
  free(g.b);
  free(g.rows);
  free(g.typed);
  return err;
}

pu_err pu_model_merge(pu_model *m, const char *adapter_dir, pu_error *e) {
  pu_adapter *a;
  PU_TRY(pu_adapter_load_as(adapter_dir, m, PU_F32, false, &a, e));
  pu_err err = PU_OK;
  for (size_t i = 0; i < a->n && err == PU_OK; i++) err = merge_one(m, &a->v[i], e);
  pu_adapter_free(a);
  return err;
}
