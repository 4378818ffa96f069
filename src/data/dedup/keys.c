/* Keys: blocks of [parts] counts, then pairs sorted by part. */
#include <stdlib.h>

#include "src/data/dedup/passes.h"

enum { KEY_BLOCK = 1 << 16 };

pu_err keys_begin(pu_work *w, size_t unit, size_t parts, key_writer *k, pu_error *e) {
  *k = (key_writer){.n_parts = parts};
  k->pairs = malloc(KEY_BLOCK * sizeof *k->pairs);
  k->sorted = malloc(KEY_BLOCK * sizeof *k->sorted);
  k->parts = malloc(KEY_BLOCK);
  if (!k->pairs || !k->sorted || !k->parts) return pu_fail(e, PU_ERR_NOMEM, "dedup: no memory for keys");
  return pu_work_begin(w, unit, "keys", &k->file, e);
}

static pu_err keys_flush(key_writer *k, pu_error *e) {
  uint64_t counts[256] = {0};
  size_t at[256], sum = 0;
  for (size_t i = 0; i < k->n; i++) counts[k->parts[i]]++;
  for (size_t p = 0; p < k->n_parts; p++) {
    at[p] = sum;
    sum += counts[p];
  }
  for (size_t i = 0; i < k->n; i++) k->sorted[at[k->parts[i]]++] = k->pairs[i];
  PU_TRY(pu_work_put(&k->file, counts, k->n_parts * sizeof *counts, e));
  PU_TRY(pu_work_put(&k->file, k->sorted, k->n * sizeof *k->sorted, e));
  k->total += k->n;
  k->n = 0;
  return PU_OK;
}

pu_err keys_add(key_writer *k, size_t part, uint64_t key, uint64_t place, pu_error *e) {
  if (k->n == KEY_BLOCK) PU_TRY(keys_flush(k, e));
  k->parts[k->n] = (uint8_t)part;
  k->pairs[k->n++] = (pu_pair){key, place};
  return PU_OK;
}

pu_err keys_end(key_writer *k, pu_err err, pu_error *e) {
  if (err == PU_OK && k->n > 0) err = keys_flush(k, e);
  err = pu_work_end(&k->file, k->total, err, e);
  free(k->pairs);
  free(k->sorted);
  free(k->parts);
  return err;
}

pu_err keys_sort(const pu_map *m, size_t parts, size_t part, uint64_t base, pu_sorter *s, pu_error *e) {
  const uint64_t *p = (const uint64_t *)(const void *)m->data;
  const uint64_t *end = p + pu_work_bytes(m) / sizeof *p;
  while (p < end) {
    const uint64_t *counts = p;
    uint64_t skip = 0, all = 0;
    for (size_t i = 0; i < parts; i++) {
      if (i < part) skip += counts[i];
      all += counts[i];
    }
    const uint64_t *pairs = p + parts;
    for (uint64_t i = 0; i < counts[part]; i++) {
      const uint64_t *pair = pairs + 2 * (skip + i);
      PU_TRY(pu_sorter_add(s, pair[0], pair[1] + base, e));
    }
    p = pairs + 2 * all;
  }
  return PU_OK;
}
