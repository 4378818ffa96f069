/* From a Hugging Face directory into memory: the family's rules say which tensor of the file fills which rows. */
#include "src/model/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NAME = 256 };

typedef struct loader {
  const char *dir;
  const pu_arch *arch;
  const pu_safetensors *files;
  bool *used; /* by index in files */
  pu_filler fill;
  float *row; /* one row of the output matrix, where it is normalised */
} loader;

/* ---- finding and checking one tensor ---- */

static void shape_text(const int64_t *shape, int ndim, char *dst, size_t size) {
  size_t at = (size_t)snprintf(dst, size, "[");
  for (int i = 0; i < ndim && at < size; i++)
    at += (size_t)snprintf(dst + at, size - at, "%s%lld", i ? ", " : "", (long long)shape[i]);
  if (at < size) snprintf(dst + at, size - at, "]");
}

static pu_err missing(const loader *l, const char *name, const pu_mapping *map, pu_error *e) {
  char want[100], other[MAX_NAME + 8];
  snprintf(other, sizeof other, "%s", name);
  char *suffix = strstr(other, ".weight");
  if (suffix) {
    snprintf(suffix, sizeof other - (size_t)(suffix - other), ".qweight");
    if (pu_safetensors_find(l->files, other))
      return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: '%s' is quantised: quantised checkpoints cannot be loaded here",
                     l->dir, other);
  }
  shape_text(map->shape, map->ndim, want, sizeof want);
  return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%s' %s is missing: family %s needs it", l->dir, name, want,
                 l->arch->name);
}

static pu_err find_tensor(loader *l, const char *name, const pu_mapping *map, const pu_st_tensor **out, pu_error *e) {
  const pu_st_tensor *t = pu_safetensors_find(l->files, name);
  if (!t) return missing(l, name, map, e);
  if (t->ndim != map->ndim || memcmp(t->shape, map->shape, (size_t)t->ndim * sizeof *t->shape) != 0) {
    char got[100], want[100];
    shape_text(t->shape, t->ndim, got, sizeof got);
    shape_text(map->shape, map->ndim, want, sizeof want);
    return pu_fail(e, PU_ERR_SHAPE, "%s: tensor '%s' is %s, but config.json makes it %s", l->dir, name, got, want);
  }
  if (t->dtype != PU_F32 && t->dtype != PU_BF16 && t->dtype != PU_F16)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: tensor '%s' is of type %s; weights are read from f32, bf16 and f16",
                   l->dir, name, t->type);
  l->used[t - pu_safetensors_at(l->files, 0)] = true;
  *out = t;
  return PU_OK;
}

/* ---- filling one parameter ---- */

/* Older InternLM2 checkpoints use the rows of the output matrix at length 1; here they are so from the start. */
static pu_err put_normalised(loader *l, const pu_param *p, const pu_st_tensor *t, pu_error *e) {
  int64_t width = t->shape[1];
  size_t row_bytes = (size_t)width * pu_dtype_size(t->dtype);
  void *raw = l->row + width;
  for (int64_t r = 0; r < t->shape[0]; r++) {
    memcpy(raw, (const char *)t->data + (size_t)r * row_bytes, row_bytes);
    pu_convert(l->row, PU_F32, raw, t->dtype, width);
    double sum = 0;
    for (int64_t i = 0; i < width; i++) sum += (double)l->row[i] * (double)l->row[i];
    float scale = (float)(1.0 / fmax(sqrt(sum), 1e-12)); /* as torch.nn.functional.normalize */
    for (int64_t i = 0; i < width; i++) l->row[i] *= scale;
    PU_TRY(pu_filler_put(&l->fill, p, r * width, l->row, PU_F32, width, e));
  }
  return PU_OK;
}

static pu_err put_tensor(loader *l, const pu_param *p, const pu_mapping *map, const pu_st_tensor *t, pu_error *e) {
  if (p->slot == PU_SLOT_OUTPUT && l->fill.m->hp.norm_head) return put_normalised(l, p, t, e);
  size_t size = pu_dtype_size(t->dtype);
  for (int s = 0; s < map->n_seq; s++)
    for (int64_t i = 0; i < map->seq[s].count; i++) {
      int64_t file = map->seq[s].first.file + i * map->seq[s].file_step;
      int64_t mem = map->seq[s].first.mem + i * map->seq[s].mem_step;
      PU_TRY(pu_filler_put(&l->fill, p, mem, (const char *)t->data + (size_t)file * size, t->dtype, map->seq[s].first.n,
                           e));
    }
  return PU_OK;
}

static pu_err load_rule(loader *l, const pu_param *p, const pu_tensor_rule *rule, pu_error *e) {
  const pu_hparams *hp = &l->fill.m->hp;
  int64_t n = pu_rule_experts(hp, rule);
  bool one_by_one = pu_rule_places(rule) > 1;
  for (int64_t expert = 0; expert < n; expert++) {
    char name[MAX_NAME];
    pu_mapping map;
    const pu_st_tensor *t = NULL;
    pu_mapping_of(hp, rule, one_by_one ? expert : -1, &map);
    pu_rule_name(rule, p->layer, expert, name, sizeof name);
    PU_TRY(find_tensor(l, name, &map, &t, e));
    PU_TRY(put_tensor(l, p, &map, t, e));
  }
  return PU_OK;
}

static const pu_tensor_rule *first_rule(const pu_tensor_rule *rules, pu_slot slot) {
  for (; rules && rules->name; rules++)
    if (rules->slot == slot) return rules;
  return NULL;
}

/* The family's own names, or the other ones where the file has those. */
static const pu_tensor_rule *rules_for(const loader *l, const pu_param *p) {
  const pu_tensor_rule *other = first_rule(l->arch->also_read, p->slot);
  char name[MAX_NAME];
  if (!other) return l->arch->tensors;
  pu_rule_name(other, p->layer, 0, name, sizeof name);
  return pu_safetensors_find(l->files, name) ? l->arch->also_read : l->arch->tensors;
}

static pu_err load_param(loader *l, const pu_param *p, pu_error *e) {
  const pu_tensor_rule *rules = rules_for(l, p);
  if (!first_rule(rules, p->slot))
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: the family %s has no tensor for '%s'", l->dir, l->arch->name, p->name);
  for (; rules->name; rules++)
    if (rules->slot == p->slot) PU_TRY(load_rule(l, p, rules, e));
  return pu_filler_finish(&l->fill, p, e);
}

/* ---- the whole ---- */

static bool ends_with(const char *s, const char *end) {
  size_t n = strlen(s), k = strlen(end);
  return n >= k && strcmp(s + n - k, end) == 0;
}

/* Tables that older files hold though they follow from config.json, and the second copy of a tied embedding. */
static bool may_be_ignored(const loader *l, const char *name) {
  const pu_tensor_rule *output = first_rule(l->arch->tensors, PU_SLOT_OUTPUT);
  return ends_with(name, ".inv_freq") || ends_with(name, ".masked_bias") ||
         (l->fill.m->hp.tied && output && strcmp(name, output->name) == 0);
}

static pu_err check_surplus(const loader *l, pu_error *e) {
  for (size_t i = 0; i < pu_safetensors_count(l->files); i++) {
    const char *name = pu_safetensors_at(l->files, i)->name;
    if (!l->used[i] && !may_be_ignored(l, name))
      return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%.150s' belongs to nothing in family %s: does config.json fit it?",
                     l->dir, name, l->arch->name);
  }
  return PU_OK;
}

static pu_err load_all(loader *l, pu_model *m, const pu_model_options *o, pu_error *e) {
  PU_TRY(pu_filler_init(&l->fill, m, o, e));
  l->used = calloc(pu_safetensors_count(l->files) + 1, sizeof *l->used);
  l->row = m->hp.norm_head ? malloc((size_t)m->hp.hidden * 2 * sizeof *l->row) : NULL;
  if (!l->used || (m->hp.norm_head && !l->row)) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory to load it", l->dir);
  for (size_t i = 0; i < m->n_params; i++) PU_TRY(load_param(l, &m->params[i], e));
  PU_TRY(check_surplus(l, e));
  m->hp.norm_head = false; /* done once and for all above */
  return PU_OK;
}

static pu_err load_from(const char *dir, pu_arena *a, pu_safetensors **files, const pu_arch **arch, pu_hparams *hp,
                        pu_error *e) {
  const char *config = pu_path_join(a, dir, "config.json");
  if (!config) return pu_fail(e, PU_ERR_NOMEM, "%s: the name is too long", dir);
  if (!pu_path_is_dir(dir)) return pu_fail(e, PU_ERR_IO, "%s: not a model directory", dir);
  PU_TRY(pu_config_read(config, arch, hp, e));
  return pu_safetensors_open(dir, files, e);
}

pu_err pu_model_load(const char *dir, pu_backend *be, const pu_model_options *o, pu_model **out, pu_error *e) {
  pu_arena *a;
  pu_hparams hp;
  pu_safetensors *files = NULL;
  pu_model *m = NULL;
  loader l = {.dir = dir};
  *out = NULL;
  PU_TRY(pu_arena_create(1 << 16, &a, e));
  pu_err err = load_from(dir, a, &files, &l.arch, &hp, e);
  l.files = files;
  if (err == PU_OK) err = pu_model_new(l.arch, &hp, be, o, &m, e);
  if (err == PU_OK) {
    err = load_all(&l, m, o, e);
    pu_filler_deinit(&l.fill);
  }
  free(l.used);
  free(l.row);
  pu_safetensors_close(files);
  pu_arena_free(a);
  if (err == PU_OK)
    *out = m;
  else
    pu_model_free(m);
  return err;
}
