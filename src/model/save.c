/* From memory into a Hugging Face directory: the rules of loading, walked the other way. */
#include "src/model/arch.h"
#include "src/model/weights.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_NAME = 256 };

#define SINGLE_NAME "model.safetensors"
#define INDEX_NAME  "model.safetensors.index.json"

/* ---- one file tensor's values from memory ---- */

/* What follows, of a parameter in two halves. */
static pu_err read_halves(const pu_outgoing *o, int64_t mem, int64_t n, pu_dtype type, uint8_t *dst, pu_error *e) {
  enum { PIECE = 4096 };
  pu_backend *be = o->m->be;
  uint16_t high[PIECE], low[PIECE];
  float values[PIECE];
  uint32_t out[PIECE];
  for (int64_t i = 0; i < n; i += PIECE) {
    int64_t k = PU_MIN(n - i, PIECE);
    PU_TRY(be->download(be, high, (const uint16_t *)o->from->data + mem + i, (size_t)k * sizeof *high, e));
    PU_TRY(be->download(be, low, (const uint16_t *)o->low->data + mem + i, (size_t)k * sizeof *low, e));
    pu_join_halves(values, high, low, k);
    pu_convert(out, type, values, PU_F32, k);
    memcpy(dst + (size_t)i * pu_dtype_size(type), out, (size_t)k * pu_dtype_size(type));
  }
  return PU_OK;
}

/* n elements from memory element `mem` on, as `type`. */
static pu_err read_run(const pu_outgoing *o, int64_t mem, int64_t n, pu_dtype type, uint8_t *dst, pu_error *e) {
  pu_backend *be = o->m->be;
  if (o->low) return read_halves(o, mem, n, type, dst, e);
  size_t from_size = pu_dtype_size(o->from->dtype), to_size = pu_dtype_size(type);
  const uint8_t *src = (const uint8_t *)o->from->data + (size_t)mem * from_size;
  if (o->from->dtype == type) return be->download(be, dst, src, (size_t)n * to_size, e);
  uint32_t raw[1024], out[1024];
  for (int64_t i = 0; i < n; i += 1024) {
    int64_t k = PU_MIN(n - i, 1024);
    PU_TRY(be->download(be, raw, src + (size_t)i * from_size, (size_t)k * from_size, e));
    pu_convert(out, type, raw, o->from->dtype, k);
    memcpy(dst + (size_t)i * to_size, out, (size_t)k * to_size);
  }
  return PU_OK;
}

pu_err pu_outgoing_read(const pu_outgoing *o, int64_t at, int64_t n, pu_dtype type, void *out, pu_error *e) {
  size_t size = pu_dtype_size(type);
  int64_t runs = pu_mapping_runs(&o->map);
  for (int64_t i = 0; i < runs; i++) {
    pu_run r = pu_mapping_run(&o->map, i);
    int64_t from = PU_MAX(at, r.file), to = PU_MIN(at + n, r.file + r.n);
    if (from < to)
      PU_TRY(read_run(o, r.mem + from - r.file, to - from, type, (uint8_t *)out + (size_t)(from - at) * size, e));
  }
  return PU_OK;
}

/* ---- the list of tensors ---- */

size_t pu_outgoing_count(const pu_model *m, const pu_tensor_rule *rules) {
  size_t n = 0;
  for (size_t i = 0; i < m->n_params; i++)
    for (const pu_tensor_rule *r = rules; r->name; r++)
      if (r->slot == m->params[i].slot) n += (size_t)pu_rule_experts(&m->hp, r);
  return n;
}

static pu_err fill_outgoing(const pu_model *m, const pu_param *p, const pu_tensor_rule *rule, int64_t expert,
                            pu_arena *a, pu_outgoing *o, pu_error *e) {
  char name[MAX_NAME];
  pu_rule_name(rule, p->layer, expert, name, sizeof name);
  *o = (pu_outgoing){.m = m, .slot = p->slot, .param = (size_t)(p - m->params), .from = p->w, .low = p->low};
  o->name = pu_arena_strdup(a, name);
  pu_mapping_of(&m->hp, rule, pu_rule_places(rule) > 1 ? expert : -1, &o->map);
  return o->name ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory for the list of tensors");
}

pu_err pu_outgoing_list(const pu_model *m, const pu_tensor_rule *rules, const char *where, pu_arena *a,
                        pu_outgoing **out, pu_error *e) {
  pu_outgoing *o = *out = pu_arena_alloc(a, (pu_outgoing_count(m, rules) + 1) * sizeof **out);
  if (!o) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the list of tensors", where);
  for (size_t i = 0; i < m->n_params; i++) {
    const pu_param *p = &m->params[i];
    const pu_outgoing *first = o;
    if (p->w->layout != PU_LAYOUT_PLAIN)
      return pu_fail(e, PU_ERR_UNSUPPORTED,
                     "%s: a model made for inference alone, its weights tiled or packed, cannot be saved", where);
    for (const pu_tensor_rule *r = rules; r->name; r++)
      for (int64_t x = 0; r->slot == p->slot && x < pu_rule_experts(&m->hp, r); x++)
        PU_TRY(fill_outgoing(m, p, r, x, a, o++, e));
    if (o == first)
      return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: the family %s has no tensor for '%s'", where, m->arch->name, p->name);
  }
  return PU_OK;
}

size_t pu_outgoing_list_bytes(const pu_model *m, const pu_tensor_rule *rules) {
  return pu_outgoing_count(m, rules) * (sizeof(pu_outgoing) + MAX_NAME) + 4096;
}

/* ---- as safetensors ---- */

typedef struct saver {
  const pu_model *m;
  const char *dir;
  pu_dtype dtype;
  pu_quant_format format;
  const pu_qmatrix *q; /* of each parameter; NULL: none is in few bits */
  json_t *quantisation;
  pu_arena *a;
  pu_st_source *sources;
  size_t n;
} saver;

typedef struct typed {
  const pu_outgoing *o;
  pu_dtype dtype;
} typed;

static pu_err read_piece(void *arg, size_t offset, void *buf, size_t len, pu_error *e) {
  const typed *t = arg;
  int64_t size = (int64_t)pu_dtype_size(t->dtype);
  return pu_outgoing_read(t->o, (int64_t)offset / size, (int64_t)len / size, t->dtype, buf, e);
}

static pu_err list_sources(saver *s, pu_error *e) {
  pu_outgoing *o;
  size_t n = pu_outgoing_count(s->m, s->m->arch->tensors);
  PU_TRY(pu_outgoing_list(s->m, s->m->arch->tensors, s->dir, s->a, &o, e));
  if (s->q) s->quantisation = pu_quant_config(o, n, s->format, s->q);
  if (s->q && !s->quantisation) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its configuration", s->dir);
  s->sources = pu_arena_alloc(s->a, n * (s->q ? PU_QUANT_PARTS : 1) * sizeof *s->sources);
  typed *args = pu_arena_alloc(s->a, n * sizeof *args);
  if (!s->sources || !args) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the list of tensors", s->dir);
  for (size_t i = 0; i < n; i++, o++) {
    if (s->q && s->q[o->param].bits) {
      PU_TRY(pu_quant_sources(o, s->format, &s->q[o->param], s->a, s->sources, &s->n, e));
      continue;
    }
    pu_st_source *t = &s->sources[s->n++];
    args[i] = (typed){o, s->dtype};
    *t = (pu_st_source){.name = o->name, .dtype = s->dtype, .ndim = o->map.ndim, .read = read_piece, .arg = &args[i]};
    memcpy(t->shape, o->map.shape, sizeof t->shape);
  }
  return PU_OK;
}

/* ---- files ---- */

static size_t bytes_of(const pu_st_source *t) {
  size_t n = pu_dtype_size(t->dtype);
  for (int i = 0; i < t->ndim; i++) n *= (size_t)t->shape[i];
  return n;
}

/* The tensors from `begin` that fit into one file: at least one. */
static size_t shard_end(const saver *s, size_t begin, size_t limit) {
  size_t bytes = 0, i = begin;
  for (; i < s->n; i++) {
    size_t more = bytes_of(&s->sources[i]);
    if (i > begin && (bytes > limit || more > limit - bytes)) break;
    bytes += more;
  }
  return i;
}

static const char *const metadata[] = {"format", "pt", NULL};

static pu_err write_shard(const saver *s, const char *name, size_t begin, size_t end, pu_error *e) {
  size_t mark = pu_arena_mark(s->a);
  const char *path = pu_path_join(s->a, s->dir, name);
  if (!path) return pu_fail(e, PU_ERR_NOMEM, "%s: the name is too long", s->dir);
  pu_err err = pu_safetensors_write(path, s->sources + begin, end - begin, metadata, e);
  pu_arena_release(s->a, mark);
  return err;
}

static void unlink_in(const saver *s, const char *name) {
  size_t mark = pu_arena_mark(s->a);
  const char *path = pu_path_join(s->a, s->dir, name);
  if (path) unlink(path);
  pu_arena_release(s->a, mark);
}

static pu_err write_index(const saver *s, const pu_buf *weight_map, pu_error *e) {
  pu_buf b;
  size_t total = 0;
  for (size_t i = 0; i < s->n; i++) total += bytes_of(&s->sources[i]);
  const char *path = pu_path_join(s->a, s->dir, INDEX_NAME);
  pu_buf_init(&b, PU_BUF_MAX);
  pu_buf_printf(&b, "{\n  \"metadata\": {\"total_size\": %zu},\n  \"weight_map\": {\n", total);
  pu_buf_append(&b, weight_map->data, weight_map->len);
  pu_buf_puts(&b, "  }\n}\n");
  pu_err err = !path || b.failed || weight_map->failed ? pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the index", s->dir)
                                                       : pu_file_write(path, b.data, b.len, e);
  pu_buf_deinit(&b);
  return err;
}

static pu_err write_shards(const saver *s, size_t limit, size_t shards, pu_buf *weight_map, pu_error *e) {
  for (size_t i = 0, begin = 0, end; begin < s->n; begin = end, i++) {
    char name[64];
    end = shard_end(s, begin, limit);
    snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, shards);
    PU_TRY(write_shard(s, name, begin, end, e));
    for (size_t t = begin; t < end; t++)
      pu_buf_printf(weight_map, "    \"%s\": \"%s\"%s\n", s->sources[t].name, name, t + 1 < s->n ? "," : "");
  }
  return write_index(s, weight_map, e);
}

static pu_err write_files(const saver *s, size_t limit, pu_error *e) {
  size_t shards = 0;
  for (size_t i = 0; i < s->n; i = shard_end(s, i, limit)) shards++;
  /* A directory with both forms would be ambiguous: the one not written goes. */
  if (shards <= 1) {
    PU_TRY(write_shard(s, SINGLE_NAME, 0, s->n, e));
    unlink_in(s, INDEX_NAME);
    return PU_OK;
  }
  pu_buf weight_map;
  pu_buf_init(&weight_map, PU_BUF_MAX);
  pu_err err = write_shards(s, limit, shards, &weight_map, e);
  pu_buf_deinit(&weight_map);
  if (err == PU_OK) unlink_in(s, SINGLE_NAME);
  return err;
}

static pu_err save_into(saver *s, size_t limit, pu_error *e) {
  const char *config = pu_path_join(s->a, s->dir, "config.json");
  PU_TRY(pu_config_check(s->dir, s->m->arch, &s->m->hp, e));
  if (!config) return pu_fail(e, PU_ERR_NOMEM, "%s: the name is too long", s->dir);
  PU_TRY(list_sources(s, e));
  bool was_there = pu_path_exists(s->dir);
  PU_TRY(pu_mkdirs(s->dir, e));
  pu_err err = write_files(s, limit ? limit : (size_t)5000000000, e);
  /* The configuration last: it is what makes the folder a model, and a full disk must not leave it without weights. */
  if (err == PU_OK) err = pu_config_write_with(config, s->m->arch, &s->m->hp, s->dtype, s->quantisation, e);
  if (err != PU_OK && !was_there && pu_remove_tree(s->dir, NULL) != PU_OK)
    pu_log(PU_LOG_WARN, "%s: what was written so far cannot be removed", s->dir);
  return err;
}

/* Names, and rows of matrices in few bits. */
static size_t quant_list_bytes(const saver *s) {
  size_t bytes = 0;
  for (size_t i = 0; s->q && i < s->m->n_params; i++) bytes += (size_t)s->q[i].rows * sizeof(int32_t) + 64;
  return bytes + (s->q ? pu_outgoing_count(s->m, s->m->arch->tensors) * PU_QUANT_LIST : 0);
}

static pu_err save(saver *s, size_t shard_bytes, pu_error *e) {
  const pu_model *m = s->m;
  pu_dtype dtype = s->dtype;
  if (dtype != PU_F32 && dtype != PU_BF16 && dtype != PU_F16)
    return pu_fail(e, PU_ERR_USAGE, "weights are written as f32, bf16 or f16, not %s", pu_dtype_name(dtype));
  size_t list = pu_outgoing_count(m, m->arch->tensors) * (sizeof(pu_st_source) + sizeof(typed)) + quant_list_bytes(s);
  PU_TRY(pu_arena_create((1 << 16) + list + pu_outgoing_list_bytes(m, m->arch->tensors), &s->a, e));
  pu_err err = save_into(s, shard_bytes, e);
  pu_arena_free(s->a);
  json_decref(s->quantisation);
  return err;
}

pu_err pu_model_save(const pu_model *m, const char *dir, pu_dtype dtype, size_t shard_bytes, pu_error *e) {
  return save(&(saver){.m = m, .dir = dir, .dtype = dtype}, shard_bytes, e);
}

pu_err pu_model_save_quantised(const pu_model *m, const char *dir, pu_dtype dtype, pu_quant_format format,
                               const pu_qmatrix *q, size_t shard_bytes, pu_error *e) {
  PU_TRY(pu_quant_check(m, dir, format, q, e));
  return save(&(saver){.m = m, .dir = dir, .dtype = dtype, .format = format, .q = q}, shard_bytes, e);
}

/* ---- parts of a parameter ---- */

/* The values of one file tensor, in the file's order; a view into data where they lie together, else `*made`. */
static const float *gather(const pu_mapping *map, const float *data, float **made) {
  *made = NULL;
  int64_t runs = pu_mapping_runs(map);
  if (runs == 1) return data + map->seq[0].first.mem;
  int64_t n = 1;
  for (int i = 0; i < map->ndim; i++) n *= map->shape[i];
  float *out = *made = malloc((size_t)n * sizeof *out);
  if (!out) return NULL;
  for (int64_t i = 0; i < runs; i++) {
    pu_run r = pu_mapping_run(map, i);
    memcpy(out + r.file, data + r.mem, (size_t)r.n * sizeof *out);
  }
  return out;
}

pu_err pu_param_parts(const pu_model *m, const pu_param *p, const float *host_data, pu_param_part_fn fn, void *arg,
                      pu_error *e) {
  bool any = false;
  for (const pu_tensor_rule *r = m->arch->tensors; r->name; r++) {
    for (int64_t x = 0; r->slot == p->slot && x < pu_rule_experts(&m->hp, r); x++) {
      char name[MAX_NAME];
      pu_mapping map;
      float *made;
      pu_mapping_of(&m->hp, r, pu_rule_places(r) > 1 ? x : -1, &map);
      pu_rule_name(r, p->layer, x, name, sizeof name);
      const float *data = gather(&map, host_data, &made);
      pu_err err = data ? fn(arg, name, map.ndim, map.shape, data, e)
                        : pu_fail(e, PU_ERR_NOMEM, "no memory to gather tensor '%s'", name);
      free(made);
      PU_TRY(err);
      any = true;
    }
  }
  if (!any) return pu_fail(e, PU_ERR_UNSUPPORTED, "the family %s has no tensor for '%s'", m->arch->name, p->name);
  return PU_OK;
}
