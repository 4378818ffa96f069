/* From memory into a Hugging Face directory: the rules of loading, walked the other way. */
#include "src/model/weights.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_NAME = 256 };

#define SINGLE_NAME "model.safetensors"
#define INDEX_NAME  "model.safetensors.index.json"

/* ---- one file tensor's values from memory ---- */

typedef struct origin {
  const pu_model *m;
  const pu_tensor *from;
  pu_mapping map;
  pu_dtype dtype; /* in the file */
} origin;

/* n elements from memory element `mem` on, in the file's type. */
static pu_err read_run(const origin *o, int64_t mem, int64_t n, uint8_t *dst, pu_error *e) {
  pu_backend *be = o->m->be;
  size_t from_size = pu_dtype_size(o->from->dtype), to_size = pu_dtype_size(o->dtype);
  const uint8_t *src = (const uint8_t *)o->from->data + (size_t)mem * from_size;
  if (o->from->dtype == o->dtype) return be->download(be, dst, src, (size_t)n * to_size, e);
  uint32_t raw[1024], out[1024];
  for (int64_t i = 0; i < n; i += 1024) {
    int64_t k = PU_MIN(n - i, 1024);
    PU_TRY(be->download(be, raw, src + (size_t)i * from_size, (size_t)k * from_size, e));
    pu_convert(out, o->dtype, raw, o->from->dtype, k);
    memcpy(dst + (size_t)i * to_size, out, (size_t)k * to_size);
  }
  return PU_OK;
}

/* pu_st_source.read: any piece of the file's tensor, from the runs that it overlaps. */
static pu_err read_piece(void *arg, size_t offset, void *buf, size_t len, pu_error *e) {
  const origin *o = arg;
  size_t size = pu_dtype_size(o->dtype);
  int64_t begin = (int64_t)(offset / size), end = (int64_t)((offset + len) / size);
  for (int s = 0; s < o->map.n_seq; s++)
    for (int64_t i = 0; i < o->map.seq[s].count; i++) {
      int64_t file = o->map.seq[s].first.file + i * o->map.seq[s].file_step;
      int64_t mem = o->map.seq[s].first.mem + i * o->map.seq[s].mem_step;
      int64_t from = PU_MAX(begin, file), to = PU_MIN(end, file + o->map.seq[s].first.n);
      if (from < to)
        PU_TRY(read_run(o, mem + from - file, to - from, (uint8_t *)buf + (size_t)(from - begin) * size, e));
    }
  return PU_OK;
}

/* ---- the list of tensors ---- */

typedef struct saver {
  const pu_model *m;
  const char *dir;
  pu_dtype dtype;
  pu_arena *a;
  pu_st_source *sources;
  size_t n;
} saver;

static size_t count_tensors(const pu_model *m) {
  size_t n = 0;
  for (size_t i = 0; i < m->n_params; i++)
    for (const pu_tensor_rule *r = m->arch->tensors; r->name; r++)
      if (r->slot == m->params[i].slot) n += (size_t)pu_rule_experts(&m->hp, r);
  return n;
}

static pu_err add_tensor(saver *s, const pu_param *p, const pu_tensor_rule *rule, int64_t expert, pu_error *e) {
  char name[MAX_NAME];
  origin *o = pu_arena_alloc(s->a, sizeof *o);
  pu_rule_name(rule, p->layer, expert, name, sizeof name);
  const char *kept = pu_arena_strdup(s->a, name);
  if (!o || !kept) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the list of tensors", s->dir);
  *o = (origin){.m = s->m, .from = p->master ? p->master : p->w, .dtype = s->dtype};
  pu_mapping_of(&s->m->hp, rule, pu_rule_places(rule) > 1 ? expert : -1, &o->map);
  pu_st_source *t = &s->sources[s->n++];
  *t = (pu_st_source){.name = kept, .dtype = s->dtype, .ndim = o->map.ndim, .read = read_piece, .arg = o};
  memcpy(t->shape, o->map.shape, sizeof t->shape);
  return PU_OK;
}

static pu_err add_param(saver *s, const pu_param *p, pu_error *e) {
  size_t before = s->n;
  if (p->w->layout != PU_LAYOUT_PLAIN)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: a model with tiled weights cannot be saved", s->dir);
  for (const pu_tensor_rule *r = s->m->arch->tensors; r->name; r++)
    for (int64_t x = 0; r->slot == p->slot && x < pu_rule_experts(&s->m->hp, r); x++) PU_TRY(add_tensor(s, p, r, x, e));
  if (s->n == before)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: the family %s has no tensor for '%s'", s->dir, s->m->arch->name,
                   p->name);
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
  s->sources = pu_arena_alloc(s->a, count_tensors(s->m) * sizeof *s->sources);
  if (!s->sources || !config) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the list of tensors", s->dir);
  for (size_t i = 0; i < s->m->n_params; i++) PU_TRY(add_param(s, &s->m->params[i], e));
  bool was_there = pu_path_exists(s->dir);
  PU_TRY(pu_mkdirs(s->dir, e));
  pu_err err = write_files(s, limit ? limit : (size_t)5000000000, e);
  /* The configuration last: it is what makes the folder a model, and a full disk must not leave it without weights. */
  if (err == PU_OK) err = pu_config_write(config, s->m->arch, &s->m->hp, s->dtype, e);
  if (err != PU_OK && !was_there && pu_remove_tree(s->dir, NULL) != PU_OK)
    pu_log(PU_LOG_WARN, "%s: what was written so far cannot be removed", s->dir);
  return err;
}

pu_err pu_model_save(const pu_model *m, const char *dir, pu_dtype dtype, size_t shard_bytes, pu_error *e) {
  if (dtype != PU_F32 && dtype != PU_BF16 && dtype != PU_F16)
    return pu_fail(e, PU_ERR_USAGE, "weights are written as f32, bf16 or f16, not %s", pu_dtype_name(dtype));
  saver s = {.m = m, .dir = dir, .dtype = dtype};
  size_t per = sizeof(pu_st_source) + sizeof(origin) + MAX_NAME + 256;
  PU_TRY(pu_arena_create((1 << 16) + count_tensors(m) * per, &s.a, e));
  pu_err err = save_into(&s, shard_bytes, e);
  pu_arena_free(s.a);
  return err;
}

/* ---- parts of a parameter ---- */

/* The values of one file tensor, in the file's order; a view into data where they lie together, else `*made`. */
static const float *gather(const pu_mapping *map, const float *data, float **made) {
  *made = NULL;
  if (map->n_seq == 1 && map->seq[0].count == 1) return data + map->seq[0].first.mem;
  int64_t n = 1;
  for (int i = 0; i < map->ndim; i++) n *= map->shape[i];
  float *out = *made = malloc((size_t)n * sizeof *out);
  if (!out) return NULL;
  for (int s = 0; s < map->n_seq; s++)
    for (int64_t i = 0; i < map->seq[s].count; i++)
      memcpy(out + map->seq[s].first.file + i * map->seq[s].file_step,
             data + map->seq[s].first.mem + i * map->seq[s].mem_step, (size_t)map->seq[s].first.n * sizeof *out);
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
