/* An adapter's tensors: which there are, where they lie, and what they add to which rows. */
#include "src/model/adapter.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NAME = 256 };

/* ---- which matrices it has ---- */

/* Products that an adapter can stand beside. */
static bool is_adaptable(pu_slot slot) {
  return slot == PU_SLOT_QKV || slot == PU_SLOT_WO || slot == PU_SLOT_GATE_UP || slot == PU_SLOT_DOWN;
}

/* "model.layers.0.self_attn.q_proj" */
static void module_name(const pu_tensor_rule *rule, int64_t layer, char *dst, size_t size) {
  pu_rule_name(rule, layer, 0, dst, size);
  char *end = strstr(dst, ".weight");
  if (end && !end[7]) *end = 0;
}

typedef struct walk {
  const pu_arch *arch;
  const pu_hparams *hp;
  const pu_adapter_config *config;
  int layer;
  pu_slot slot;
} walk;

/* One tensor that is adapted. */
typedef struct found {
  int layer;
  const pu_tensor_rule *rule;
  const char *module;
  pu_adapter_match match;
} found;
typedef pu_err (*walk_fn)(void *arg, const found *f, pu_error *e);

static pu_err walk_slot(const walk *w, walk_fn fn, void *arg, pu_error *e) {
  int64_t shape[PU_MAX_DIMS];
  if (!is_adaptable(w->slot) || !pu_slot_shape(w->hp, w->slot, shape)) return PU_OK;
  for (const pu_tensor_rule *r = w->arch->tensors; r->name; r++) {
    char module[MAX_NAME];
    found f = {.layer = w->layer, .rule = r, .module = module};
    if (r->slot != w->slot) continue;
    module_name(r, w->layer, module, sizeof module);
    PU_TRY(pu_adapter_config_match(w->config, module, w->layer, &f.match, e));
    if (f.match.targeted) PU_TRY(fn(arg, &f, e));
  }
  return PU_OK;
}

static pu_err walk_all(const pu_arch *arch, const pu_hparams *hp, const pu_adapter_config *config, walk_fn fn,
                       void *arg, pu_error *e) {
  walk w = {arch, hp, config, 0, 0};
  for (w.layer = 0; w.layer < hp->layers; w.layer++)
    for (int s = 0; s < PU_SLOT_COUNT; s++) {
      w.slot = (pu_slot)s;
      PU_TRY(walk_slot(&w, fn, arg, e));
    }
  return PU_OK;
}

static const char *a_module_of(const pu_arch *arch, char *dst, size_t size) {
  const pu_tensor_rule *r = arch->tensors;
  while (r->name && r->slot != PU_SLOT_QKV) r++;
  *dst = 0;
  if (r->name) module_name(r, 0, dst, size);
  return dst;
}

static pu_err none_targeted(const pu_arch *arch, const char *where, pu_error *e) {
  char example[MAX_NAME];
  return pu_fail(e, PU_ERR_FORMAT,
                 "%s: 'target_modules' names no matrix of attention or MLP that family %s has, such as '%s': is it an "
                 "adapter of another base?",
                 where, arch->name, a_module_of(arch, example, sizeof example));
}

/* ---- sizes ---- */

typedef struct sizes {
  const pu_hparams *hp;
  pu_dtype dtype;
  bool train;
  size_t n, bytes;
} sizes;

static size_t aligned(size_t bytes) {
  return (bytes + 63) & ~(size_t)63;
}

static size_t param_bytes(const sizes *s, int64_t rows, int64_t cols) {
  size_t n = (size_t)(rows * cols), bytes = aligned(n * pu_dtype_size(s->dtype));
  if (s->train) bytes += aligned(n * 4) + (s->dtype == PU_BF16 ? aligned(n * 2) : 0);
  return bytes;
}

static pu_err count_one(void *arg, const found *f, pu_error *e) {
  sizes *s = arg;
  pu_mapping map;
  (void)e;
  pu_mapping_of(s->hp, f->rule, -1, &map);
  s->n++;
  s->bytes += param_bytes(s, f->match.rank, map.shape[1]) + param_bytes(s, map.shape[0], f->match.rank);
  return PU_OK;
}

static pu_err measure(const pu_arch *arch, const pu_adapter_config *config, sizes *s, pu_error *e) {
  PU_TRY(walk_all(arch, s->hp, config, count_one, s, e));
  return s->n ? PU_OK : none_targeted(arch, config->where, e);
}

pu_err pu_adapter_measure(const char *dir, const pu_arch *arch, const pu_hparams *hp, pu_dtype dtype, size_t *bytes,
                          pu_error *e) {
  pu_arena *a;
  pu_adapter_config config;
  sizes s = {.hp = hp, .dtype = dtype};
  PU_TRY(pu_arena_create(1 << 16, &a, e));
  pu_err err = pu_adapter_config_open(dir, a, &config, e);
  if (err == PU_OK) {
    err = measure(arch, &config, &s, e);
    pu_adapter_config_deinit(&config);
  }
  pu_arena_free(a);
  *bytes = s.bytes;
  return err;
}

/* ---- making the tensors ---- */

typedef struct maker {
  pu_adapter *a;
  bool train;
} maker;

static pu_tensor *placed(pu_adapter *a, pu_dtype dtype, int64_t rows, int64_t cols) {
  pu_ctx c = {.be = a->m->be, .mem = a->weights, .host = a->host};
  return pu_tensor_new(&c, dtype, 2, (int64_t[]){rows, cols}, false);
}

static pu_tensor *make_param(maker *k, const pu_adapted *t, const char *which, int64_t rows, int64_t cols) {
  pu_adapter *a = k->a;
  pu_param *p = &a->params[2 * a->n + (*which == 'B')];
  *p = (pu_param){.name = pu_arena_printf(a->host, "%s.lora_%s.weight", t->module, which),
                  .slot = t->slot,
                  .layer = t->layer,
                  .w = placed(a, a->dtype, rows, cols),
                  .decay = true};
  if (!p->name || !p->w) return NULL;
  if (k->train) {
    bool halves = a->dtype == PU_BF16;
    p->w->grad = placed(a, PU_F32, rows, cols);
    if (halves) p->low = placed(a, PU_U16, rows, cols);
    if (!p->w->grad || (halves && !p->low)) return NULL;
  }
  return p->w;
}

static int64_t first_row(const pu_mapping *map) {
  int64_t first = INT64_MAX, runs = pu_mapping_runs(map);
  for (int64_t i = 0; i < runs; i++) {
    pu_run r = pu_mapping_run(map, i);
    first = PU_MIN(first, r.mem / map->shape[1]);
  }
  return first;
}

static pu_err make_one(void *arg, const found *f, pu_error *e) {
  maker *k = arg;
  pu_adapter *a = k->a;
  pu_adapted *t = &a->v[a->n];
  *t = (pu_adapted){.module = pu_arena_strdup(a->host, f->module),
                    .slot = f->rule->slot,
                    .layer = f->layer,
                    .rank = f->match.rank,
                    .scale = (float)f->match.scale};
  pu_mapping_of(&a->m->hp, f->rule, -1, &t->map);
  t->from = first_row(&t->map);
  t->a = t->module ? make_param(k, t, "A", t->rank, t->map.shape[1]) : NULL;
  t->b = t->a ? make_param(k, t, "B", t->map.shape[0], t->rank) : NULL;
  if (!t->b) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the adapter's tensors", a->where);
  a->n++;
  return PU_OK;
}

static pu_err make_memory(pu_adapter *a, const sizes *s, pu_error *e) {
  size_t layers = (size_t)a->m->hp.layers, each = sizeof(pu_adapted) + 2 * (sizeof(pu_param) + 3 * MAX_NAME + 512);
  a->bytes = s->bytes;
  PU_TRY(pu_arena_create((1 << 16) + s->n * each + layers * PU_SLOT_COUNT * sizeof(size_t), &a->host, e));
  PU_TRY(a->m->be->alloc(a->m->be, a->bytes + 64, &a->memory, e));
  PU_TRY(pu_arena_wrap(a->memory, a->bytes + 64, &a->weights, e));
  a->v = pu_arena_zalloc(a->host, s->n * sizeof *a->v);
  a->params = pu_arena_zalloc(a->host, 2 * s->n * sizeof *a->params);
  a->first = pu_arena_zalloc(a->host, (layers * PU_SLOT_COUNT + 1) * sizeof *a->first);
  a->where = pu_arena_strdup(a->host, a->where);
  if (a->v && a->params && a->first && a->where) return PU_OK;
  return pu_fail(e, PU_ERR_NOMEM, "no memory for an adapter of %zu matrices", s->n);
}

/* v is in the order of layers and slots. */
static void index_layers(pu_adapter *a) {
  size_t at = 0;
  for (size_t i = 0; i <= (size_t)a->m->hp.layers * PU_SLOT_COUNT; i++) {
    while (at < a->n && (size_t)a->v[at].layer * PU_SLOT_COUNT + (size_t)a->v[at].slot < i) at++;
    a->first[i] = at;
  }
}

static pu_err make_all(pu_adapter *a, bool train, pu_error *e) {
  sizes s = {.hp = &a->m->hp, .dtype = a->dtype, .train = train};
  maker k = {a, train};
  PU_TRY(measure(a->m->arch, &a->config, &s, e));
  PU_TRY(make_memory(a, &s, e));
  PU_TRY(walk_all(a->m->arch, s.hp, &a->config, make_one, &k, e));
  index_layers(a);
  return PU_OK;
}

pu_err pu_adapter_new(const pu_model *m, pu_adapter_config *config, const char *where, pu_dtype dtype, bool train,
                      pu_adapter **out, pu_error *e) {
  *out = NULL;
  pu_adapter *a = calloc(1, sizeof *a);
  if (!a) {
    pu_adapter_config_deinit(config);
    return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for an adapter", where);
  }
  *a = (pu_adapter){.m = m, .dtype = dtype, .config = *config, .where = where};
  pu_err err = make_all(a, train, e);
  a->config.where = a->where;
  if (err == PU_OK)
    *out = a;
  else
    pu_adapter_free(a);
  return err;
}

void pu_adapter_free(pu_adapter *a) {
  if (!a) return;
  pu_adapter_config_deinit(&a->config);
  pu_arena_free(a->weights);
  if (a->memory) a->m->be->free(a->m->be, a->memory);
  pu_arena_free(a->host);
  free(a);
}

size_t pu_adapter_bytes(const pu_adapter *a) {
  return a->bytes;
}

pu_param *pu_adapter_params(pu_adapter *a, size_t *n) {
  *n = 2 * a->n;
  return a->params;
}

/* ---- a new one ---- */

static bool in_list(const json_t *list, const char *name) {
  size_t i;
  const json_t *v;
  json_array_foreach(list, i, v) if (strcmp(json_string_value(v), name) == 0) return true;
  return false;
}

/* The last parts of the names of all matrices that can be adapted. */
static void all_targets(const pu_model *m, json_t *list) {
  int64_t shape[PU_MAX_DIMS];
  for (const pu_tensor_rule *r = m->arch->tensors; r->name; r++) {
    char module[MAX_NAME];
    if (!is_adaptable(r->slot) || !pu_slot_shape(&m->hp, r->slot, shape)) continue;
    module_name(r, 0, module, sizeof module);
    const char *dot = strrchr(module, '.');
    if (dot && !in_list(list, dot + 1)) json_array_append_new(list, json_string(dot + 1));
  }
}

static json_t *config_json(const pu_model *m, const pu_adapter_shape *s) {
  json_t *targets = json_array();
  for (size_t i = 0; i < s->targets.n; i++) json_array_append_new(targets, json_string(s->targets.v[i]));
  if (s->targets.n == 0) all_targets(m, targets);
  return json_pack("{ss ss ss sI sf sb so sb sb sf sn ss?}", "peft_type", "LORA", "task_type", "CAUSAL_LM", "bias",
                   "none", "r", (json_int_t)s->rank, "lora_alpha", s->alpha, "use_rslora", s->rslora, "target_modules",
                   targets, "fan_in_fan_out", 0, "inference_mode", 1, "lora_dropout", 0.0, "modules_to_save",
                   "base_model_name_or_path", s->base);
}

/* PEFT's start: kaiming_uniform_(a = sqrt(5)) is uniform in +-1 / sqrt(columns). */
static pu_err fill_new(pu_adapter *a, const pu_adapted *t, uint64_t seed, pu_error *e) {
  size_t na = (size_t)pu_tensor_count(t->a), nb = (size_t)pu_tensor_count(t->b);
  float *v = calloc(PU_MAX(na, nb), sizeof *v);
  if (!v) return pu_fail(e, PU_ERR_NOMEM, "no memory for the adapter's values");
  uint64_t stream = pu_hash64(t->module, strlen(t->module), 0);
  pu_err err = pu_adapter_put(a, t, true, v, e);
  double bound = 1 / sqrt((double)t->map.shape[1]);
  for (size_t i = 0; i < na; i++)
    v[i] = (float)(bound * (2 * ((double)(pu_random_at(seed, stream, i) >> 11) * 0x1p-53) - 1));
  if (err == PU_OK) err = pu_adapter_put(a, t, false, v, e);
  free(v);
  return err;
}

pu_err pu_adapter_create(const pu_model *m, const pu_adapter_shape *s, uint64_t seed, pu_adapter **out, pu_error *e) {
  static const char where[] = "the new adapter";
  pu_adapter_config config;
  pu_adapter *a;
  *out = NULL;
  json_t *json = config_json(m, s);
  if (!json) return pu_fail(e, PU_ERR_NOMEM, "no memory for a new adapter");
  PU_TRY(pu_adapter_config_read(json, where, &config, e));
  PU_TRY(pu_adapter_new(m, &config, where, m->dtype, true, &a, e));
  pu_err err = PU_OK;
  for (size_t i = 0; i < a->n && err == PU_OK; i++) err = fill_new(a, &a->v[i], seed, e);
  if (err == PU_OK)
    *out = a;
  else
    pu_adapter_free(a);
  return err;
}

/* ---- in the forward pass ---- */

int pu_adapter_parts(const pu_adapter *a, int64_t layer, pu_slot slot, int32_t row, int32_t rows, pu_lora_part *parts) {
  const size_t *at = &a->first[(size_t)layer * PU_SLOT_COUNT + (size_t)slot];
  for (size_t i = at[0]; i < at[1] && parts; i++) {
    const pu_adapted *t = &a->v[i];
    *parts++ = (pu_lora_part){.a = t->a, .b = t->b, .row = row, .rows = rows, .from = t->from, .scale = t->scale};
  }
  return (int)(at[1] - at[0]);
}
