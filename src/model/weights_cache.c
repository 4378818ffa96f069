/* A model's weights as they lie in memory, kept in a file, so that the next start maps it instead of reading, rounding,
 * packing and tiling. The file's name is a hash of all that decides its bytes: the model's files (names, sizes, times
 * of change), the compute type, each matrix's form, and how this build lays weights out on this processor. A file of
 * that name that is not as it should be is told of, and written anew.
 *
 * {head, a place for each parameter and one for a tied output's copy}, then from a multiple of 4096 bytes the weights.
 */
#include "src/model/weights.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { VERSION = 2, PAGE = 4096, PIECE = 1 << 24 };

typedef struct head {
  char magic[8];
  uint64_t key, bytes, n, sum; /* sum: of places, weights, and the head before it */
} head;

typedef struct place {
  uint64_t offset, layout; /* offset NOWHERE: there is none */
} place;

#define NOWHERE UINT64_MAX

static const char magic[8] = "puyu-wts";

/* ---- how weights are laid out ---- */

enum { PROBE_ROWS = 19, PROBE_COLS = 77, PROBE_PLACES = 96, PROBE_GROUPS = 3 }; /* no multiples of any tile or block */

typedef struct probe {
  pu_ctx c;
  float w[PROBE_ROWS * PROBE_COLS];
  uint64_t hash; /* 0: no memory */
} probe;

static void add_weight(probe *p, const pu_tensor *t) {
  p->hash = p->hash && t && t->data ? pu_hash64(t->data, pu_weight_bytes(t), p->hash) : 0;
}

static pu_tensor probe_of(pu_dtype dtype, void *data) {
  return (pu_tensor){
      .dtype = dtype, .ndim = 2, .shape = {PROBE_ROWS, PROBE_COLS}, .stride = {PROBE_COLS, 1}, .data = data};
}

static void probe_tiles(probe *p, pu_dtype dtype) {
  uint32_t room[PROBE_ROWS * PROBE_COLS];
  pu_tensor w = probe_of(dtype, room);
  pu_convert(room, dtype, p->w, PU_F32, PROBE_ROWS * PROBE_COLS);
  add_weight(p, pu_tile_weight(&p->c, &w));
}

/* Rounded as on load; ordered: as in a file with an order of inputs. */
static void probe_packing(probe *p, pu_packing packing) {
  enum { VALUES = PROBE_ROWS * PROBE_COLS, SCALES = PROBE_ROWS * PROBE_GROUPS };
  uint8_t q[VALUES];
  float scale[SCALES], zero[SCALES];
  int32_t order[PROBE_PLACES];
  pu_packer *k = NULL;
  pu_tensor w = probe_of(PU_F32, NULL);
  w.layout = PU_LAYOUT_PACKED;
  w.packing = packing;
  pu_err err;
  if (packing.ordered) {
    for (int i = 0; i < VALUES; i++) q[i] = (uint8_t)(i * 7 % (1 << packing.bits));
    for (int i = 0; i < SCALES; i++) scale[i] = p->w[i], zero[i] = (float)(i % 9);
    for (int i = 0; i < PROBE_PLACES; i++) order[i] = i < PROBE_COLS ? i * 5 % PROBE_COLS : -1;
    w.data = pu_arena_alloc(p->c.mem, pu_weight_bytes(&w));
    pu_pack_weight_args a = {q, scale, packing.zeros ? zero : NULL, order, &w};
    err = w.data ? pu_pack_weight(&p->c, &a) : PU_ERR_NOMEM;
  } else {
    err = pu_packer_create(p->c.be, VALUES, SCALES, PROBE_COLS, &k, NULL);
    if (!err) {
      pu_packer_begin(k, &w);
      pu_packer_round(k, 0, p->w, PU_F32, VALUES);
      err = pu_packer_end(k, &p->c, &w, NULL);
    }
    pu_packer_free(k);
  }
  add_weight(p, err ? NULL : &w);
}

/* A hash of what becomes of some values: another build that lays them out or rounds them in another way has another
 * one. 0: no memory to say. */
static uint64_t hash_layout(pu_backend *be) {
  static const pu_packing packings[] = {
      {4, 32, true, false}, {8, 32, false, false}, {4, 32, false, true}, {8, 32, true, true}};
  probe p = {.c = {.be = be}, .hash = 1 + (uint64_t)pu_cpu_isa(be)};
  pu_error why;
  pu_arena *a;
  if (pu_arena_create(1 << 20, &a, &why) != PU_OK) return 0;
  p.c.mem = p.c.host = a;
  p.c.err = &why;
  for (int i = 0; i < PROBE_ROWS * PROBE_COLS; i++) p.w[i] = (float)((i * 37) % 101 - 50) * 0.03125f;
  probe_tiles(&p, PU_F32);
  probe_tiles(&p, PU_BF16);
  for (size_t i = 0; i < PU_COUNT(packings); i++) probe_packing(&p, packings[i]);
  pu_arena_free(a);
  return p.hash;
}

/* ---- the name ---- */

static uint64_t hash_file(const char *dir, const char *name) {
  char path[4096];
  struct stat st;
  snprintf(path, sizeof path, "%s%s%s", dir, *name ? "/" : "", name);
  if (stat(path, &st) != 0) return 0;
  const int64_t parts[] = {st.st_size, st.st_mtim.tv_sec, st.st_mtim.tv_nsec, (int64_t)st.st_ino};
  return pu_hash64(parts, sizeof parts, pu_hash64(name, strlen(name), 0));
}

/* A sum, since a directory lists its files in no order. */
static uint64_t hash_files(const char *model) {
  uint64_t sum = 0;
  DIR *d = opendir(model);
  if (!d) return hash_file(model, "");
  for (const struct dirent *f; (f = readdir(d));)
    if (pu_ends_with(f->d_name, ".safetensors") || pu_ends_with(f->d_name, ".json")) sum += hash_file(model, f->d_name);
  closedir(d);
  return sum;
}

static uint64_t hash_forms(const pu_model *m, const pu_forms *forms, uint64_t seed) {
  for (int layer = -1; layer < m->hp.layers; layer++)
    for (int s = 0; s < PU_SLOT_COUNT; s++) {
      const pu_form *f = pu_form_of(forms, (pu_slot)s, layer);
      const int32_t parts[] = {f->packing.bits, f->packing.group, f->packing.zeros, f->packing.ordered, f->as_file};
      seed = pu_hash64(parts, sizeof parts, seed);
    }
  return seed;
}

bool pu_weights_cache_find(const char *dir, const char *model, const pu_model *m, const pu_forms *forms,
                           pu_weights_cache *out) {
  char *full = realpath(model, NULL);
  uint64_t layout = hash_layout(m->be);
  const uint64_t parts[] = {VERSION, layout, (uint64_t)m->dtype, hash_files(model),
                            full ? pu_hash64(full, strlen(full), 0) : 0};
  free(full);
  out->key = hash_forms(m, forms, pu_hash64(parts, sizeof parts, 0));
  int n = snprintf(out->path, sizeof out->path, "%s/%016llx.weights", dir, (unsigned long long)out->key);
  return layout && n > 0 && n < (int)sizeof out->path;
}

/* ---- what a file holds ---- */

static size_t data_at(size_t n) {
  return (sizeof(head) + n * sizeof(place) + PAGE - 1) / PAGE * PAGE;
}

/* A tied model's output is no parameter. */
static pu_tensor *tensor_at(const pu_model *m, size_t i) {
  if (i < m->n_params) return m->params[i].w;
  return m->hp.tied ? m->outer[PU_SLOT_OUTPUT] : NULL;
}

/* As a model that is not filled yet is going to have it. */
static pu_layout layout_at(const pu_model *m, size_t i) {
  const pu_tensor *w = tensor_at(m, i);
  if (w->packing.bits) return PU_LAYOUT_PACKED;
  return !w->data || i == m->n_params ? PU_LAYOUT_TILED : PU_LAYOUT_PLAIN;
}

/* The kernels read inputs by it. */
static bool order_fits(const pu_tensor *w, const char *data) {
  int64_t cols = w->shape[w->ndim - 1], rows = w->shape[w->ndim - 2], n = w->ndim == 3 ? w->shape[0] : 1;
  size_t places = (size_t)(pu_packed_groups(&w->packing, cols) * w->packing.group);
  size_t bytes = pu_packed_bytes(&w->packing, rows, cols), from = bytes - (places * sizeof(int32_t) + 63) / 64 * 64;
  for (int64_t i = 0; i < n; i++, data += bytes)
    for (size_t k = 0; k < places; k++) {
      int32_t input;
      memcpy(&input, data + from + k * sizeof input, sizeof input);
      if (input < -1 || input >= cols) return false;
    }
  return true;
}

static bool fits(const pu_tensor *w, const place *p, const char *data, uint64_t bytes) {
  pu_tensor as = *w;
  as.layout = (pu_layout)p->layout;
  uint64_t size = pu_weight_bytes(&as);
  if (p->offset % 64 || p->offset > bytes || size > bytes - p->offset) return false;
  return !w->packing.ordered || order_fits(w, data + p->offset);
}

const char *pu_weights_cache_parse(pu_str file, uint64_t key, const pu_model *m, pu_kept *out) {
  head h;
  size_t n = m->n_params + 1, at = data_at(n);
  if (file.len < at) return "it is too short";
  memcpy(&h, file.ptr, sizeof h);
  if (memcmp(h.magic, magic, sizeof magic) != 0 || h.key != key || h.n != n) return "it holds other weights";
  if (h.bytes != file.len - at) return "it is not whole";
  for (size_t i = 0; i < n; i++) {
    place p;
    const pu_tensor *w = tensor_at(m, i);
    memcpy(&p, file.ptr + sizeof h + i * sizeof p, sizeof p);
    out[i] = (pu_kept){0};
    if (!w && p.offset == NOWHERE) continue;
    if (!w || p.layout != layout_at(m, i) || !fits(w, &p, file.ptr + at, h.bytes)) return "its weights are elsewhere";
    out[i] = (pu_kept){file.ptr + at + p.offset, (pu_layout)p.layout};
  }
  return NULL;
}

/* ---- the sum ---- */

typedef struct sum_job {
  const char *data;
  size_t len;
  uint64_t *sums; /* of pieces */
} sum_job;

static void sum_pieces(void *arg, int64_t begin, int64_t end, int worker) {
  const sum_job *j = arg;
  (void)worker;
  for (int64_t i = begin; i < end; i++) {
    size_t at = (size_t)i * PIECE;
    j->sums[i] = pu_hash64(j->data + at, PU_MIN(j->len - at, (size_t)PIECE), 0);
  }
}

/* Of the places, with the zeros behind them, and the weights; false: no memory. */
static bool make_sum(pu_backend *be, const head *h, const place *places, const char *data, uint64_t *out) {
  size_t pieces = (h->bytes + PIECE - 1) / PIECE;
  sum_job j = {data, h->bytes, malloc((pieces + 1) * sizeof *j.sums)};
  if (!j.sums) return false;
  pu_pool_run(be->pool, (int64_t)pieces, 1, sum_pieces, &j);
  uint64_t sum = pu_hash64(h, offsetof(head, sum), 0);
  sum = pu_hash64(places, data_at(h->n) - sizeof *h, sum);
  *out = pu_hash64(j.sums, pieces * sizeof *j.sums, sum);
  free(j.sums);
  return true;
}

/* ---- reading ---- */

static const char *check(const pu_model *m, const pu_map *map, uint64_t key, pu_kept *out) {
  uint64_t sum = 0;
  const char *why = pu_weights_cache_parse(pu_str_of((const char *)map->data, map->len), key, m, out);
  if (why) return why;
  const head *h = (const head *)(const void *)map->data;
  const place *places = (const place *)(const void *)(h + 1);
  if (!make_sum(m->be, h, places, (const char *)map->data + data_at(h->n), &sum)) return "no memory to check it";
  return sum == h->sum ? NULL : "its checksum is another";
}

static bool take(pu_model *m, const pu_map *map, const pu_kept *kept) {
  pu_arena *weights = NULL;
  size_t at = data_at(m->n_params + 1);
  pu_tensor *output = pu_arena_zalloc(m->host, sizeof *output);
  char *base = (char *)(uintptr_t)map->data + at;
  if (!output || pu_arena_wrap(base, map->len - at, &weights, NULL) != PU_OK) return false;
  if (m->hp.tied) { /* of its own, since the embedding stays plain */
    *output = *m->outer[PU_SLOT_OUTPUT];
    m->outer[PU_SLOT_OUTPUT] = output;
  }
  for (size_t i = 0; i <= m->n_params; i++) {
    pu_tensor *w = tensor_at(m, i);
    if (!w) continue;
    w->layout = kept[i].layout;
    w->data = (void *)(uintptr_t)kept[i].data;
  }
  (void)pu_arena_alloc(weights, map->len - at);
  pu_arena_free(m->weights);
  m->be->free(m->be, m->weights_memory);
  m->weights = weights;
  m->weights_memory = base;
  m->weights_map = *map;
  return true;
}

bool pu_weights_cache_read(const pu_weights_cache *c, pu_model *m) {
  pu_map map;
  pu_error e;
  if (!pu_path_exists(c->path)) return false;
  if (pu_map_open(c->path, &map, &e) != PU_OK) {
    pu_log(PU_LOG_WARN, "%s; it is made anew", e.msg);
    return false;
  }
  pu_kept *kept = calloc(m->n_params + 1, sizeof *kept);
  const char *why = kept ? check(m, &map, c->key, kept) : "no memory to check it";
  if (!why && !take(m, &map, kept)) why = "no memory to use it";
  free(kept);
  if (!why) return true;
  pu_log(PU_LOG_WARN, "%s: kept weights that cannot be used: %s; they are made anew", c->path, why);
  pu_map_close(&map);
  return false;
}

/* ---- writing ---- */

/* places: zeros, up to the weights. */
static pu_err write_all(pu_writer *w, const pu_weights_cache *c, const pu_model *m, place *places, pu_error *e) {
  size_t n = m->n_params + 1;
  head h = {.key = c->key, .bytes = pu_arena_mark(m->weights), .n = n};
  memcpy(h.magic, magic, sizeof magic);
  for (size_t i = 0; i < n; i++) {
    const pu_tensor *t = tensor_at(m, i);
    places[i] = (place){NOWHERE, 0};
    if (t) places[i].offset = (uint64_t)((const char *)t->data - (const char *)m->weights_memory);
    if (t) places[i].layout = (uint64_t)t->layout;
  }
  if (!make_sum(m->be, &h, places, m->weights_memory, &h.sum))
    return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its checksum", c->path);
  PU_TRY(pu_writer_put(w, &h, sizeof h, e));
  PU_TRY(pu_writer_put(w, places, data_at(n) - sizeof h, e));
  return pu_writer_put(w, m->weights_memory, h.bytes, e);
}

pu_err pu_weights_cache_write(const pu_weights_cache *c, const char *dir, const pu_model *m, pu_error *e) {
  pu_writer *w;
  PU_TRY(pu_mkdirs(dir, e));
  place *places = calloc(1, data_at(m->n_params + 1));
  if (!places) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its list", c->path);
  pu_err err = pu_writer_begin(c->path, &w, e);
  if (err == PU_OK) err = pu_writer_end(w, write_all(w, c, m, places, e), e);
  free(places);
  return err;
}
