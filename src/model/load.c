/* From a source into memory: its rules say which of its tensors fills which rows. */
#include "src/model/source.h"
#include "src/model/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NAME = 256 };

typedef struct loader {
  pu_source from;
  pu_forms forms;
  bool *used; /* by index in from.tensors */
  pu_filler fill;
  void *room; /* values on their way: PIECE of 4 bytes */
  float *row; /* one row of the output matrix, where it is normalised, twice */
  struct {    /* CODE_ROWS of a matrix in few bits, as they come; for as many columns as the widest has */
    uint8_t *q;
    float *scale, *zero;
    int32_t *order;
  } code;
} loader;

enum { CODE_ROWS = 64, PIECE = 1 << 18 };

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
    if (pu_source_find(&l->from, other))
      return pu_fail(e, PU_ERR_UNSUPPORTED,
                     "%s: '%s' is quantised, but config.json has no quantization_config that says how", l->from.where,
                     other);
  }
  shape_text(map->shape, map->ndim, want, sizeof want);
  return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%s' %s is missing: family %s needs it", l->from.where, name, want,
                 l->from.arch->name);
}

static pu_err find_tensor(loader *l, const char *name, const pu_mapping *map, const pu_source_tensor **out,
                          pu_error *e) {
  const pu_source_tensor *t = pu_source_find(&l->from, name);
  if (!t) return missing(l, name, map, e);
  if (t->ndim != map->ndim || memcmp(t->shape, map->shape, (size_t)t->ndim * sizeof *t->shape) != 0) {
    char got[100], want[100];
    shape_text(t->shape, t->ndim, got, sizeof got);
    shape_text(map->shape, map->ndim, want, sizeof want);
    return pu_fail(e, PU_ERR_SHAPE, "%s: tensor '%s' is %s, but %s makes it %s", l->from.where, name, got,
                   l->from.config, want);
  }
  if (t->dtype == PU_DTYPE_COUNT)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: tensor '%s' is of type %s; weights are read from %s", l->from.where,
                   name, t->type, l->from.types);
  l->used[t - l->from.tensors] = true;
  *out = t;
  return PU_OK;
}

/* ---- filling one parameter ---- */

/* Values with a coding, by the backend's threads. */
typedef struct decoding {
  const pu_source *from;
  const pu_source_tensor *t;
  int64_t at;
  char *out;
} decoding;

static void decode_part(void *arg, int64_t begin, int64_t end, int worker) {
  const decoding *d = arg;
  (void)worker;
  d->from->values(d->t, d->at + begin, end - begin, d->out + (size_t)begin * pu_dtype_size(d->t->dtype));
}

static const void *decode(loader *l, const pu_source_tensor *t, int64_t at, int64_t n) {
  decoding d = {&l->from, t, at, l->room};
  pu_pool_run(l->fill.m->be->pool, n, PU_SOURCE_GRAIN, decode_part, &d);
  return l->room;
}

/* n values from element `at` of the file's tensor become the parameter's from `mem` on. */
static pu_err put_run(loader *l, const pu_param *p, const pu_source_tensor *t, const pu_run *run, pu_error *e) {
  if (run->file % t->block || run->n % t->block)
    return pu_fail(e, PU_ERR_UNSUPPORTED,
                   "%s: tensor '%s' of type %s cannot be reordered: its blocks reach across rows", l->from.where,
                   t->name, t->type);
  int64_t most = t->coding ? PIECE : run->n; /* what is there already is a view of any size */
  for (int64_t i = 0; i < run->n; i += most) {
    int64_t n = PU_MIN(run->n - i, most);
    const void *values =
        t->coding ? decode(l, t, run->file + i, n) : pu_source_values(&l->from, t, run->file + i, n, l->room);
    PU_TRY(pu_filler_put(&l->fill, p, run->mem + i, values, t->dtype, n, e));
  }
  return PU_OK;
}

/* Older InternLM2 checkpoints use the rows of the output matrix at length 1; here they are so from the start. */
static pu_err put_normalised(loader *l, const pu_param *p, const pu_source_tensor *t, pu_error *e) {
  int64_t width = t->shape[1];
  for (int64_t r = 0; r < t->shape[0]; r++) {
    void *raw = l->row + width;
    for (int64_t i = 0; i < width; i += PIECE) {
      int64_t n = PU_MIN(width - i, (int64_t)PIECE);
      memcpy(raw, pu_source_values(&l->from, t, r * width + i, n, l->room), (size_t)n * pu_dtype_size(t->dtype));
      pu_convert(l->row + i, PU_F32, raw, t->dtype, n);
    }
    double sum = 0;
    for (int64_t i = 0; i < width; i++) sum += (double)l->row[i] * (double)l->row[i];
    float scale = (float)(1.0 / fmax(sqrt(sum), 1e-12)); /* as torch.nn.functional.normalize */
    for (int64_t i = 0; i < width; i++) l->row[i] *= scale;
    PU_TRY(pu_filler_put(&l->fill, p, r * width, l->row, PU_F32, width, e));
  }
  return PU_OK;
}

/* Rows of the file's own few bits. Those of a run lie together in the file and in memory. */
static pu_err put_codes(loader *l, const pu_param *p, const pu_source_tensor *t, const pu_run *run, pu_error *e) {
  int64_t cols = t->shape[t->ndim - 1], rows = run->n / cols, groups = pu_packed_groups(&t->few, cols);
  for (int64_t i = 0; i < rows; i += CODE_ROWS) {
    int64_t n = PU_MIN(rows - i, (int64_t)CODE_ROWS);
    float *zero = t->few.zeros ? l->code.zero : NULL;
    l->from.codes(t, run->file / cols + i, n, l->code.q, l->code.scale, zero);
    if (p->w->layout == PU_LAYOUT_INT8)
      PU_TRY(pu_filler_put_int8(&l->fill, p, run->mem / cols + i, n, l->code.q, l->code.scale, groups, e));
    else
      pu_filler_put_codes(&l->fill, p, run->mem / cols + i, n, l->code.q, l->code.scale, zero);
  }
  return PU_OK;
}

/* Codes of FP8 as they lie in the file, and their scales: of rows, which may be fewer in the file, or of blocks. */
static pu_err put_fp8(loader *l, const pu_param *p, const pu_source_tensor *t, const pu_run *run, pu_error *e) {
  const int64_t cols = t->shape[1], rows = run->n / cols, first = run->file / cols;
  const int64_t high = PU_MAX(p->w->packing.group, 1), across = pu_fp8_scales(p->w->packing.group, 1, cols);
  const int64_t most = PU_MAX(PIECE / across, 1) * high;
  float *scale = l->room;
  for (int64_t i = 0; i < rows; i += most) {
    int64_t n = PU_MIN(rows - i, most), at = 0;
    for (int64_t r = 0; r < n; r += high)
      for (int64_t k = 0; k < across; k++) scale[at++] = l->from.scale(t, first + i + r, k * PU_FP8_BLOCK);
    const uint8_t *codes = (const uint8_t *)t->data + (first + i) * cols;
    PU_TRY(pu_filler_put_fp8(&l->fill, p, run->mem / cols + i, n, codes, scale, e));
  }
  return PU_OK;
}

/* Inputs by group, those of one in the order that they have: a place for each, and none for what is missing of the
 * last. */
static void put_order(loader *l, const pu_param *p, const pu_source_tensor *t) {
  int64_t cols = t->shape[t->ndim - 1], places = pu_packed_groups(&t->few, cols) * t->few.group, at = 0;
  for (int64_t g = 0; at < cols; g++)
    for (int64_t k = 0; k < cols; k++)
      if (t->g_idx[k] == g) l->code.order[at++] = (int32_t)k;
  while (at < places) l->code.order[at++] = -1;
  pu_filler_set_order(&l->fill, p, l->code.order);
}

static pu_err put_tensor(loader *l, const pu_param *p, const pu_mapping *map, const pu_source_tensor *t, pu_error *e) {
  if (p->slot == PU_SLOT_OUTPUT && l->fill.m->hp.norm_head) return put_normalised(l, p, t, e);
  int64_t runs = pu_mapping_runs(map);
  if (l->fill.coded && t->few.ordered) put_order(l, p, t);
  for (int64_t i = 0; i < runs; i++) {
    pu_run run = pu_mapping_run(map, i);
    bool fp8 = l->fill.coded && p->w->layout == PU_LAYOUT_FP8;
    bool plain = p->w->layout != PU_LAYOUT_PACKED && p->w->layout != PU_LAYOUT_INT8 && !fp8;
    if (fp8)
      PU_TRY(put_fp8(l, p, t, &run, e));
    else if (l->fill.coded)
      PU_TRY(put_codes(l, p, t, &run, e));
    if (plain || !l->fill.coded) PU_TRY(put_run(l, p, t, &run, e));
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
    const pu_source_tensor *t = NULL;
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

/* The source's own names, or the other ones where the file has those. */
static const pu_tensor_rule *rules_for(const pu_source *from, pu_slot slot, int layer) {
  const pu_tensor_rule *other = first_rule(from->also_read, slot);
  char name[MAX_NAME];
  if (!other) return from->rules;
  pu_rule_name(other, layer, 0, name, sizeof name);
  return pu_source_find(from, name) ? from->also_read : from->rules;
}

static pu_err load_param(loader *l, const pu_param *p, pu_error *e) {
  const pu_tensor_rule *rules = rules_for(&l->from, p->slot, p->layer);
  pu_slot made = p->slot == PU_SLOT_EMBED && l->fill.m->hp.tied ? PU_SLOT_OUTPUT : p->slot;
  if (!first_rule(rules, p->slot))
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: the family %s has no tensor for '%s'", l->from.where, l->from.arch->name,
                   p->name);
  pu_filler_begin(&l->fill, p, pu_form_of(&l->forms, made, p->layer)->as_file);
  for (; rules->name; rules++)
    if (rules->slot == p->slot) PU_TRY(load_rule(l, p, rules, e));
  return pu_filler_finish(&l->fill, p, e);
}

/* ---- in what form ---- */

static bool alike(const pu_source_tensor *a, const pu_source_tensor *b) {
  size_t cols = (size_t)a->shape[a->ndim - 1];
  if (a->few.bits != b->few.bits || a->few.group != b->few.group || a->few.ordered != b->few.ordered ||
      a->shape[a->ndim - 1] != b->shape[b->ndim - 1])
    return false;
  return !a->few.ordered || memcmp(a->g_idx, b->g_idx, cols * sizeof *a->g_idx) == 0;
}

/* The tensors of one parameter can be kept as they are where all have the same bits and groups, and take the inputs in
 * the same order, for they become one matrix. by_row: in int8 with a scale for each row. */
static bool keeps(const pu_source *from, pu_slot slot, int layer, pu_packing *out, bool *by_row) {
  const pu_source_tensor *first = NULL;
  *out = (pu_packing){0};
  *by_row = true;
  for (const pu_tensor_rule *r = rules_for(from, slot, layer); r->name; r++)
    for (int64_t x = 0; r->slot == slot && x < pu_rule_experts(&from->hp, r); x++) {
      char name[MAX_NAME];
      pu_rule_name(r, layer, x, name, sizeof name);
      const pu_source_tensor *t = pu_source_find(from, name);
      if (!t || !t->few.bits || (first && !alike(t, first))) return false;
      if (!first) *out = t->few;
      out->zeros |= t->few.zeros;
      *by_row &= t->few.bits == 8 && !t->few.zeros && !t->few.ordered && t->file_group == t->shape[t->ndim - 1];
      first = t;
    }
  return first != NULL;
}

/* The form of one matrix that the file has in few bits: a tied output is the embedding, whatever else the file has.
 * Among those in int8 only what is that in the file stays so. */
static void choose_form(const pu_source *from, const pu_model_options *o, pu_forms *forms, pu_slot slot, int layer) {
  const pu_hparams *hp = &from->hp;
  int64_t shape[PU_MAX_DIMS];
  pu_packing packing;
  bool by_row, normalised = slot == PU_SLOT_OUTPUT && hp->norm_head;
  pu_slot its = slot == PU_SLOT_OUTPUT && hp->tied ? PU_SLOT_EMBED : slot;
  int ndim = pu_slot_shape(hp, its, shape);
  if (!pu_slot_is_packable(slot) || normalised || !ndim || !keeps(from, its, layer, &packing, &by_row)) return;
  if (o->quant != PU_QUANT_I8)
    *pu_form_of(forms, slot, layer) = (pu_form){.packing = packing, .as_file = true};
  else
    pu_form_of(forms, slot, layer)->as_file = by_row && pu_coded_layout(slot, shape, ndim, o) == PU_LAYOUT_INT8;
}

/* Whether blocks of rows stay blocks where a tensor of so many rows goes. */
static bool blocks_stay(const pu_mapping *map, int64_t cols, int64_t file_rows, int64_t mem_rows) {
  for (int64_t i = 0; i < pu_mapping_runs(map); i++) {
    pu_run run = pu_mapping_run(map, i);
    int64_t file = run.file / cols, mem = run.mem / cols, n = run.n / cols;
    bool last = file + n == file_rows && mem + n == mem_rows;
    if (file % PU_FP8_BLOCK || mem % PU_FP8_BLOCK || (n % PU_FP8_BLOCK && !last)) return false;
  }
  return true;
}

/* The same of FP8, *group being that of its packing: a scale a row can be had of one for several whole rows, too. */
static bool keeps_fp8(const pu_source *from, pu_slot slot, int layer, const int64_t *shape, int *group) {
  bool rows = true, blocks = true, any = false;
  for (const pu_tensor_rule *r = rules_for(from, slot, layer); r->name; r++) {
    char name[MAX_NAME];
    pu_mapping map;
    if (r->slot != slot) continue;
    pu_mapping_of(&from->hp, r, -1, &map);
    pu_rule_name(r, layer, 0, name, sizeof name);
    const pu_source_tensor *t = pu_source_find(from, name);
    if (!t || !t->fp8_rows || t->shape[1] != shape[1]) return false;
    rows &= t->file_group >= shape[1];
    blocks &= t->file_group == PU_FP8_BLOCK && t->fp8_rows == PU_FP8_BLOCK && shape[1] / PU_FP8_BLOCK < PIECE &&
              blocks_stay(&map, shape[1], t->shape[0], shape[0]);
    any = true;
  }
  *group = rows ? 0 : PU_FP8_BLOCK;
  return any && (rows || blocks);
}

static void choose_fp8(const pu_source *from, const pu_model_options *o, pu_forms *forms, pu_slot slot, int layer) {
  int64_t shape[PU_MAX_DIMS];
  int group, ndim = pu_slot_shape(&from->hp, slot, shape);
  if (pu_takes_codes(slot, shape, ndim, o) && keeps_fp8(from, slot, layer, shape, &group))
    *pu_form_of(forms, slot, layer) = (pu_form){.packing.group = group, .as_file = true, .fp8 = true};
}

static pu_err choose_forms(const pu_source *from, const pu_model_options *o, pu_forms *forms, pu_error *e) {
  bool few = o->tile && o->quant != PU_QUANT_NONE && o->quant != PU_QUANT_FP8;
  bool fp8 = o->tile && (o->quant == PU_QUANT_FP8 || (o->quant == PU_QUANT_FILE && o->fp8_files));
  PU_TRY(pu_forms_init(forms, &from->hp, o, e));
  for (int layer = -1; layer < from->hp.layers; layer++)
    for (int s = 0; s < PU_SLOT_COUNT; s++) {
      if (pu_slot_is_outer((pu_slot)s) != (layer < 0)) continue;
      if (few) choose_form(from, o, forms, (pu_slot)s, layer);
      if (fp8) choose_fp8(from, o, forms, (pu_slot)s, layer);
    }
  return PU_OK;
}

pu_err pu_model_load_bytes(const char *path, const pu_model_options *o, size_t *out, pu_error *e) {
  pu_source from;
  pu_forms forms = {0};
  PU_TRY(pu_source_open(path, &from, e));
  pu_err err = choose_forms(&from, o, &forms, e);
  if (err == PU_OK) *out = pu_model_bytes(&from.hp, o, &forms);
  pu_forms_deinit(&forms);
  pu_source_close(&from);
  return err;
}

/* ---- the whole ---- */

/* What the source calls needless, and the second copy of a tied embedding. */
static bool may_be_ignored(const loader *l, const char *name) {
  for (const char *const *end = l->from.ignored; *end; end++)
    if (pu_ends_with(name, *end)) return true;
  const pu_tensor_rule *output = first_rule(l->from.rules, PU_SLOT_OUTPUT);
  return l->from.hp.tied && output && strcmp(name, output->name) == 0;
}

/* Old GPTQ files have a bias of zeros beside every matrix: it adds nothing. */
static bool is_zero_bias(const loader *l, const pu_source_tensor *t) {
  if (!pu_ends_with(t->name, ".bias") || t->ndim != 1 || t->dtype == PU_DTYPE_COUNT || t->coding) return false;
  for (int64_t i = 0; i < t->shape[0]; i++) {
    float v;
    uint32_t raw;
    memcpy(&raw, pu_source_values(&l->from, t, i, 1, l->room), pu_dtype_size(t->dtype));
    pu_convert(&v, PU_F32, &raw, t->dtype, 1);
    if (v != 0) return false;
  }
  return true;
}

static pu_err check_surplus(const loader *l, pu_error *e) {
  for (size_t i = 0; i < l->from.n; i++) {
    const char *name = l->from.tensors[i].name;
    if (!l->used[i] && !may_be_ignored(l, name) && !is_zero_bias(l, &l->from.tensors[i]))
      return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%.150s' belongs to nothing in family %s: does %s fit it?",
                     l->from.where, name, l->from.arch->name, l->from.config);
  }
  return PU_OK;
}

/* Every tensor that the slot is made of. */
static pu_err find_all(loader *l, pu_slot slot, int layer, pu_error *e) {
  const pu_tensor_rule *rules = rules_for(&l->from, slot, layer);
  const pu_hparams *hp = &l->from.hp;
  for (const pu_tensor_rule *r = rules; r->name; r++)
    for (int64_t x = 0; r->slot == slot && x < pu_rule_experts(hp, r); x++) {
      char name[MAX_NAME];
      pu_mapping map;
      const pu_source_tensor *t;
      pu_mapping_of(hp, r, pu_rule_places(r) > 1 ? x : -1, &map);
      pu_rule_name(r, layer, x, name, sizeof name);
      PU_TRY(find_tensor(l, name, &map, &t, e));
    }
  return PU_OK;
}

static pu_err check_all(loader *l, pu_error *e) {
  l->used = calloc(l->from.n + 1, sizeof *l->used);
  l->room = malloc((size_t)PIECE * 4);
  if (!l->used || !l->room) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory to check it", l->from.where);
  for (int layer = -1; layer < l->from.hp.layers; layer++)
    for (int s = 0; s < PU_SLOT_COUNT; s++) {
      int64_t shape[PU_MAX_DIMS];
      if (pu_slot_is_outer((pu_slot)s) == (layer < 0) && pu_slot_shape(&l->from.hp, (pu_slot)s, shape))
        PU_TRY(find_all(l, (pu_slot)s, layer, e));
    }
  return check_surplus(l, e);
}

pu_err pu_model_check(const char *path, pu_error *e) {
  loader l = {0};
  PU_TRY(pu_source_open(path, &l.from, e));
  pu_err err = check_all(&l, e);
  free(l.used);
  free(l.room);
  pu_source_close(&l.from);
  return err;
}

static pu_err make_code_room(loader *l, pu_error *e) {
  int64_t cols = 0;
  for (size_t i = 0; i < l->from.n; i++) {
    const pu_source_tensor *t = &l->from.tensors[i];
    if (t->few.bits) cols = PU_MAX(cols, t->shape[t->ndim - 1] + 128);
  }
  if (!cols) return PU_OK;
  size_t scales = (size_t)CODE_ROWS * (size_t)(cols / 32) * sizeof(float);
  l->code.q = malloc((size_t)CODE_ROWS * (size_t)cols);
  l->code.scale = malloc(scales);
  l->code.zero = malloc(scales);
  l->code.order = malloc((size_t)cols * sizeof *l->code.order);
  if (l->code.q && l->code.scale && l->code.zero && l->code.order) return PU_OK;
  return pu_fail(e, PU_ERR_NOMEM, "%s: no memory to load it", l->from.where);
}

static pu_err load_all(loader *l, pu_model *m, const pu_model_options *o, pu_error *e) {
  PU_TRY(pu_filler_init(&l->fill, m, o, e));
  PU_TRY(make_code_room(l, e));
  size_t width = m->hp.norm_head ? (size_t)m->hp.hidden : 1;
  l->used = calloc(l->from.n + 1, sizeof *l->used);
  l->room = malloc((size_t)PIECE * 4);
  l->row = malloc(width * 2 * sizeof *l->row);
  if (!l->used || !l->room || !l->row) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory to load it", l->from.where);
  for (size_t i = 0; i < m->n_params; i++) PU_TRY(load_param(l, &m->params[i], e));
  if (!o->part) PU_TRY(check_surplus(l, e));
  m->hp.norm_head = false; /* done once and for all above */
  return PU_OK;
}

/* From the cache where it has them, else from the files, and then into the cache. */
static pu_err fill(loader *l, const char *path, const pu_model_options *o, pu_model *m, pu_error *e) {
  pu_weights_cache cache;
  pu_error why;
  bool cached = o->cache && o->tile && o->quant < PU_QUANT_FP8 && !o->part && strcmp(m->be->name, "cpu") == 0 &&
                pu_weights_cache_find(o->cache, path, m, &l->forms, &cache);
  if (o->cache && m->be->memory)
    pu_log(PU_LOG_WARN, "%s: weights are kept for a processor only, and %s has memory of its own", o->cache,
           m->be->name);
  if (cached && pu_weights_cache_read(&cache, m)) {
    m->hp.norm_head = false;
    if (o->progress) o->progress(o->progress_arg, 1, 1);
    return PU_OK;
  }
  pu_err err = load_all(l, m, o, e);
  pu_filler_deinit(&l->fill);
  if (err == PU_OK && cached && pu_weights_cache_write(&cache, o->cache, m, &why) != PU_OK)
    pu_log(PU_LOG_WARN, "%s: the weights are not kept for the next time", why.msg);
  return err;
}

pu_err pu_model_load(const char *path, pu_backend *be, const pu_model_options *o, pu_model **out, pu_error *e) {
  loader l = {0};
  pu_model *m = NULL;
  const pu_model_options own = pu_model_options_on(be, o);
  *out = NULL;
  PU_TRY(pu_source_open(path, &l.from, e));
  pu_err err = choose_forms(&l.from, &own, &l.forms, e);
  if (err == PU_OK) err = pu_model_new(l.from.arch, &l.from.hp, be, &own, &l.forms, &m, e);
  if (err == PU_OK) err = fill(&l, path, &own, m, e);
  free(l.used);
  free(l.room);
  free(l.row);
  free(l.code.q);
  free(l.code.scale);
  free(l.code.zero);
  free(l.code.order);
  pu_forms_deinit(&l.forms);
  pu_source_close(&l.from);
  if (err == PU_OK)
    *out = m;
  else
    pu_model_free(m);
  return err;
}
