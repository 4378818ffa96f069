/* A model's weights as they lie in memory, kept in a file, so that the next start maps it instead of reading, rounding
 * and packing. The file's name is a hash of all that decides its bytes: the model's files (names, sizes, times of
 * change), the compute type, each matrix's form. Whatever is not as expected is taken for no cache, and written anew.
 *
 * {head, a place for each parameter and one for a tied output's copy}, then from a multiple of 4096 bytes the weights.
 */
#include "src/model/weights.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { VERSION = 1, PAGE = 4096 };

typedef struct head {
  char magic[8];
  uint64_t key, bytes, n;
} head;

typedef struct place {
  uint64_t offset, layout; /* offset NOWHERE: there is none */
} place;

#define NOWHERE UINT64_MAX

static const char magic[8] = "puyu-wts";

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
  const uint64_t parts[] = {VERSION, (uint64_t)m->dtype, hash_files(model),
                            full ? pu_hash64(full, strlen(full), 0) : 0};
  free(full);
  out->key = hash_forms(m, forms, pu_hash64(parts, sizeof parts, 0));
  int n = snprintf(out->path, sizeof out->path, "%s/%016llx.weights", dir, (unsigned long long)out->key);
  return n > 0 && n < (int)sizeof out->path;
}

/* ---- reading ---- */

static size_t data_at(size_t n) {
  return (sizeof(head) + n * sizeof(place) + PAGE - 1) / PAGE * PAGE;
}

/* A tied model's output is no parameter. */
static pu_tensor *tensor_at(const pu_model *m, size_t i) {
  if (i < m->n_params) return m->params[i].w;
  return m->hp.tied ? m->outer[PU_SLOT_OUTPUT] : NULL;
}

static bool fits(const pu_tensor *w, const place *p, uint64_t bytes) {
  pu_tensor as = *w;
  as.layout = (pu_layout)p->layout;
  if (p->layout > PU_LAYOUT_PACKED || (p->layout == PU_LAYOUT_PACKED) != (w->packing.bits > 0)) return false;
  uint64_t size = pu_weight_bytes(&as);
  return p->offset % 64 == 0 && p->offset <= bytes && size <= bytes - p->offset;
}

static bool check_map(const pu_model *m, const pu_map *map, uint64_t key, head *h) {
  size_t n = m->n_params + 1;
  if (map->len < data_at(n)) return false;
  memcpy(h, map->data, sizeof *h);
  if (memcmp(h->magic, magic, sizeof magic) != 0 || h->key != key || h->n != n || h->bytes != map->len - data_at(n))
    return false;
  const place *places = (const place *)(const void *)((const char *)map->data + sizeof *h);
  for (size_t i = 0; i < n; i++) {
    const pu_tensor *w = tensor_at(m, i);
    if (!w != (places[i].offset == NOWHERE) || (w && !fits(w, &places[i], h->bytes))) return false;
  }
  return true;
}

bool pu_weights_cache_read(const pu_weights_cache *c, pu_model *m) {
  pu_map map;
  head h;
  if (!pu_path_exists(c->path) || pu_map_open(c->path, &map, NULL) != PU_OK) return false;
  pu_arena *weights = NULL;
  pu_tensor *output = pu_arena_zalloc(m->host, sizeof *output);
  char *base = (char *)(uintptr_t)map.data + data_at(m->n_params + 1);
  if (!output || !check_map(m, &map, c->key, &h) || pu_arena_wrap(base, h.bytes, &weights, NULL) != PU_OK) {
    pu_map_close(&map);
    return false;
  }
  const place *places = (const place *)(const void *)((const char *)map.data + sizeof h);
  if (m->hp.tied) { /* of its own, since the embedding stays plain */
    *output = *m->outer[PU_SLOT_OUTPUT];
    m->outer[PU_SLOT_OUTPUT] = output;
  }
  for (size_t i = 0; i <= m->n_params; i++) {
    pu_tensor *w = tensor_at(m, i);
    if (!w) continue;
    w->layout = (pu_layout)places[i].layout;
    w->data = base + places[i].offset;
  }
  (void)pu_arena_alloc(weights, h.bytes);
  pu_arena_free(m->weights);
  m->be->free(m->be, m->weights_memory);
  m->weights = weights;
  m->weights_memory = base;
  m->weights_map = map;
  return true;
}

/* ---- writing ---- */

static pu_err write_all(pu_writer *w, const pu_weights_cache *c, const pu_model *m, pu_error *e) {
  static const char zeros[PAGE] = {0};
  size_t n = m->n_params + 1, at = sizeof(head) + n * sizeof(place);
  head h = {.key = c->key, .bytes = pu_arena_mark(m->weights), .n = n};
  memcpy(h.magic, magic, sizeof magic);
  PU_TRY(pu_writer_put(w, &h, sizeof h, e));
  for (size_t i = 0; i < n; i++) {
    const pu_tensor *t = tensor_at(m, i);
    place p = {NOWHERE, 0};
    if (t) p = (place){(uint64_t)((const char *)t->data - (const char *)m->weights_memory), (uint64_t)t->layout};
    PU_TRY(pu_writer_put(w, &p, sizeof p, e));
  }
  PU_TRY(pu_writer_put(w, zeros, data_at(n) - at, e));
  return pu_writer_put(w, m->weights_memory, h.bytes, e);
}

pu_err pu_weights_cache_write(const pu_weights_cache *c, const char *dir, const pu_model *m, pu_error *e) {
  pu_writer *w;
  PU_TRY(pu_mkdirs(dir, e));
  PU_TRY(pu_writer_begin(c->path, &w, e));
  return pu_writer_end(w, write_all(w, c, m, e), e);
}
