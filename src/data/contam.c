/* The index of evaluation sets. */
#include "src/data/contam.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/data/reader.h"

#define ITEMS_MAX ((size_t)1 << 28)
#define BYTES_MAX ((size_t)1 << 40) /* of a buffer: the memory that is allowed is less */

const char *const pu_contam_mode_names[PU_CONTAM_MODES] = {"document", "passage"};
const char *const pu_contam_by_names[] = {"ngram", "whole", "near"};

static pu_err nomem(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "decontaminate: no memory");
}

pu_contam_options pu_contam_defaults(void) {
  return (pu_contam_options){.ngram = 13, .share = 0.2, .similarity = 0.5, .common = 10};
}

static pu_err check_options(const pu_contam_options *o, pu_error *e) {
  if (o->ngram < 5 || o->ngram > PU_ROLL_MAX)
    return pu_fail(e, PU_ERR_USAGE, "decontaminate: n-grams of %lld tokens; 5 to %d are possible", (long long)o->ngram,
                   (int)PU_ROLL_MAX);
  if (!(o->share >= 0 && o->share <= 1) || !(o->similarity >= 0.3 && o->similarity <= 1))
    return pu_fail(e, PU_ERR_USAGE, "decontaminate: share must be in [0, 1], similarity in [0.3, 1]");
  if (o->common < 1) return pu_fail(e, PU_ERR_USAGE, "decontaminate: common must be at least 1");
  return PU_OK;
}

pu_err contam_create(const pu_contam_options *o, size_t memory, pu_contam **out, pu_error *e) {
  *out = NULL;
  PU_TRY(check_options(o, e));
  pu_contam *c = calloc(1, sizeof *c);
  if (!c) return nomem(e);
  c->o = *o;
  c->bands = pu_bands_for(o->similarity);
  c->memory = memory ? memory : PU_MAX(pu_memory_free() / 2, (size_t)1 << 28);
  pu_buf *buffers[] = {&c->files, &c->items,      &c->fields,       &c->sets,         &c->seen,       &c->tokens,
                       &c->here,  &c->keys.pairs, &c->ngrams.pairs, &c->wholes.pairs, &c->tails.pairs};
  for (size_t i = 0; i < PU_COUNT(buffers); i++) pu_buf_init(buffers[i], BYTES_MAX);
  pu_err err = pu_arena_create((size_t)1 << 26, &c->arena, e);
  if (err == PU_OK)
    *out = c;
  else
    pu_contam_close(c);
  return err;
}

static void lookup_free(lookup *l) {
  pu_buf_deinit(&l->pairs);
  free(l->hashes);
  free(l->items);
  free(l->filter);
  free(l->begin);
}

void pu_contam_close(pu_contam *c) {
  if (!c) return;
  lookup_free(&c->ngrams);
  lookup_free(&c->keys);
  lookup_free(&c->wholes);
  lookup_free(&c->tails);
  pu_buf *buffers[] = {&c->files, &c->items, &c->fields, &c->sets, &c->seen, &c->tokens, &c->here};
  for (size_t i = 0; i < PU_COUNT(buffers); i++) pu_buf_deinit(buffers[i]);
  pu_arena_free(c->arena);
  free(c);
}

/* ---- items in ---------------------------------------------------------------------------------------------------- */

static const pu_token *tokens(const pu_contam *c) {
  return (const pu_token *)(const void *)c->tokens.data;
}

static size_t n_tokens(const pu_contam *c) {
  return c->tokens.len / sizeof(pu_token);
}

static pu_err fold(pu_contam *c, pu_str text, pu_error *e) {
  pu_token batch[256];
  pu_folder f = {text, 0};
  pu_buf_clear(&c->tokens);
  for (size_t n; (n = pu_fold_next(&f, batch, PU_COUNT(batch))) > 0;)
    if (!pu_buf_append(&c->tokens, batch, n * sizeof *batch)) return nomem(e);
  return PU_OK;
}

/* A single character of three bytes or more: of a script without spaces, near enough. */
static bool is_character(pu_str text, pu_token t) {
  uint8_t first = (uint8_t)text.ptr[t.at];
  return first >= 0xe0 && t.len == (first >= 0xf0 ? 4 : 3);
}

static bool is_word(pu_str text, pu_token t) {
  char first = text.ptr[t.at];
  return t.len >= 2 && !(first >= '0' && first <= '9');
}

/* Are there enough different words in a row of tokens to tell it from others? */
static bool is_telling(pu_str text, const pu_token *t, size_t n) {
  uint64_t seen[CONTAM_DIFFERENT];
  size_t different = 0;
  for (size_t i = 0; i < n; i++) {
    size_t k = 0;
    if (!is_word(text, t[i])) continue;
    while (k < different && seen[k] != t[i].hash) k++;
    if (k == different) seen[different++] = t[i].hash;
    if (different == CONTAM_DIFFERENT) return true;
  }
  return false;
}

/* Is the string that was folded one to look for? */
static bool is_item(const pu_contam *c, pu_str text) {
  size_t n = n_tokens(c), characters = 0;
  const pu_token *t = tokens(c);
  if (text.len >= 7 && (memcmp(text.ptr, "http://", 7) == 0 || memcmp(text.ptr, "https:/", 7) == 0)) return false;
  if (n >= (size_t)c->o.ngram) return true;
  for (size_t i = 0; i < n; i++) characters += is_character(text, t[i]);
  return n >= (2 * characters > n ? CONTAM_CHARS : CONTAM_WORDS) && is_telling(text, t, n);
}

/* Makes room for one more in the table of what was seen. */
static pu_err seen_grow(pu_contam *c, pu_error *e) {
  size_t slots = c->seen.len / sizeof(uint32_t), used = contam_n_items(c);
  if (2 * (used + 1) <= slots) return PU_OK;
  size_t grown = PU_MAX(2 * slots, (size_t)1024);
  if (!pu_buf_reserve(&c->seen, (grown - slots) * sizeof(uint32_t))) return nomem(e);
  uint32_t *v = (uint32_t *)(void *)c->seen.data;
  memset(v, 0, grown * sizeof *v);
  c->seen.len = grown * sizeof *v;
  for (size_t i = 0; i < used; i++) {
    size_t at = contam_items(c)[i].hash & (grown - 1);
    while (v[at]) at = (at + 1) & (grown - 1);
    v[at] = (uint32_t)i + 1;
  }
  return PU_OK;
}

/* The item of these tokens; a new one is added. */
static pu_err item_find(pu_contam *c, uint64_t number, pu_str field, item **out, bool *fresh, pu_error *e) {
  size_t n = n_tokens(c), count = contam_n_items(c);
  uint64_t hash = n;
  PU_TRY(seen_grow(c, e));
  for (size_t i = 0; i < n; i++) hash = contam_chain(hash, tokens(c)[i].hash);
  uint32_t *v = (uint32_t *)(void *)c->seen.data;
  size_t slots = c->seen.len / sizeof *v, at = hash & (slots - 1);
  while (v[at] && contam_items(c)[v[at] - 1].hash != hash) at = (at + 1) & (slots - 1);
  *fresh = v[at] == 0;
  if (*fresh) {
    if (count == ITEMS_MAX) return pu_fail(e, PU_ERR_UNSUPPORTED, "decontaminate: more than 2^28 items");
    uint32_t file = (uint32_t)contam_n_files(c) - 1;
    item x = {.hash = hash, .number = number, .file = file, .tokens = (uint32_t)n, .field = c->fields.len};
    x.last_file = UINT32_MAX;
    pu_buf_append(&c->fields, field.ptr, field.len);
    pu_buf_append(&c->fields, "", 1);
    if (!pu_buf_append(&c->items, &x, sizeof x) || c->fields.failed) return nomem(e);
    contam_files(c)[file].items++;
    v[at] = (uint32_t)count + 1;
  }
  *out = &contam_items(c)[v[at] - 1];
  return PU_OK;
}

/* One more record of this file that has the item. */
static pu_err item_note(pu_contam *c, item *x, uint64_t number, pu_error *e) {
  uint32_t file = (uint32_t)contam_n_files(c) - 1, index = (uint32_t)(x - contam_items(c));
  if (x->last_file == file && x->last == number) return PU_OK;
  if (x->last_file != file) {
    x->files++;
    x->times = 0;
    if (!pu_buf_append(&c->here, &index, sizeof index)) return nomem(e);
  }
  x->last_file = file;
  x->last = number;
  x->times++;
  return PU_OK;
}

static pu_err add_ngrams(pu_contam *c, pu_str text, uint64_t index, pu_error *e) {
  pu_roll roll;
  pu_roll_init(&roll, (int)c->o.ngram);
  const pu_token *t = tokens(c);
  for (size_t i = 0, n = n_tokens(c); i < n; i++) {
    pu_pair x = {pu_roll_push(&roll, t[i].hash), index};
    if (!pu_roll_full(&roll) || !is_telling(text, &t[i + 1 - (size_t)c->o.ngram], (size_t)c->o.ngram)) continue;
    if (!pu_buf_append(&c->ngrams.pairs, &x, sizeof x)) return nomem(e);
  }
  return PU_OK;
}

static pu_err add_keys(pu_contam *c, item *x, pu_str text, uint64_t index, pu_error *e) {
  uint32_t signature[PU_MINHASHES];
  if (!c->o.near || pu_minhash(text, signature) == 0) return PU_OK;
  x->set_at = c->sets.len / sizeof(uint32_t);
  PU_TRY(pu_shingle_set(text, &c->sets, e));
  x->set_n = (uint32_t)(c->sets.len / sizeof(uint32_t) - x->set_at);
  x->bytes = (uint32_t)text.len;
  for (int b = 0; b < c->bands.bands; b++) {
    pu_pair p = {pu_band_key(signature, c->bands, b), index};
    if (!pu_buf_append(&c->keys.pairs, &p, sizeof p)) return nomem(e);
  }
  return PU_OK;
}

static pu_err add_whole(pu_contam *c, const item *x, uint64_t index, pu_error *e) {
  pu_roll roll;
  uint64_t tail = 0;
  pu_roll_init(&roll, CONTAM_WORDS);
  for (size_t i = 0, n = n_tokens(c); i < n; i++) tail = pu_roll_push(&roll, tokens(c)[i].hash);
  bool ok = pu_buf_append(&c->wholes.pairs, &(pu_pair){x->hash, index}, sizeof(pu_pair)) &&
            pu_buf_append(&c->tails.pairs, &(pu_pair){tail, index}, sizeof(pu_pair));
  return ok ? PU_OK : nomem(e);
}

static size_t bytes_of(const pu_contam *c) {
  const lookup *lookups[] = {&c->ngrams, &c->keys, &c->wholes, &c->tails};
  const pu_buf *buffers[] = {&c->files, &c->items, &c->fields, &c->sets, &c->seen, &c->tokens, &c->here};
  size_t n = pu_arena_peak(c->arena);
  for (size_t i = 0; i < PU_COUNT(buffers); i++) n += buffers[i]->cap;
  for (size_t i = 0; i < PU_COUNT(lookups); i++) {
    const lookup *l = lookups[i];
    n += l->pairs.cap + l->n * (sizeof *l->hashes + sizeof *l->items);
    if (l->begin) n += ((size_t)4 << l->bits) + ((size_t)1 << l->filter_bits) / 8;
  }
  return n;
}

static pu_err check_memory(const pu_contam *c, pu_error *e) {
  char used[24], most[24];
  size_t n = bytes_of(c);
  if (n <= c->memory) return PU_OK;
  return pu_fail(e, PU_ERR_NOMEM, "decontaminate: the index is at %s and has more to come, of %s allowed",
                 pu_bytes_text(n, used), pu_bytes_text(c->memory, most));
}

pu_err contam_file_begin(pu_contam *c, const char *name, pu_error *e) {
  pu_buf valid; /* as it will stand in JSON */
  pu_buf_init(&valid, PU_BUF_MAX);
  pu_err err = pu_text_append(pu_str_c(name), &valid, e);
  set_file f = {.name = err == PU_OK ? pu_arena_strndup(c->arena, valid.data, valid.len) : NULL};
  pu_buf_deinit(&valid);
  pu_buf_clear(&c->here);
  c->counts.files++;
  PU_TRY(err);
  return f.name && pu_buf_append(&c->files, &f, sizeof f) ? PU_OK : nomem(e);
}

pu_err contam_take(pu_contam *c, uint64_t number, pu_str field, pu_str text, pu_error *e) {
  item *x = NULL;
  bool fresh;
  if (text.len > PU_DOC_MAX) text.len = PU_DOC_MAX;
  PU_TRY(fold(c, text, e));
  if (!is_item(c, text)) {
    c->counts.shorter++;
    return PU_OK;
  }
  PU_TRY(item_find(c, number, field, &x, &fresh, e));
  PU_TRY(item_note(c, x, number, e));
  if (!fresh) return PU_OK;
  uint64_t index = (uint64_t)(x - contam_items(c));
  if (x->tokens < (uint64_t)c->o.ngram) {
    PU_TRY(add_whole(c, x, index, e));
  } else {
    PU_TRY(add_ngrams(c, text, index, e));
    PU_TRY(add_keys(c, x, text, index, e));
  }
  return check_memory(c, e);
}

static bool is_most(uint64_t n, uint64_t records) {
  return records >= CONTAM_TEMPLATE && 2 * n > records;
}

void contam_file_end(pu_contam *c, uint64_t records) {
  size_t file = contam_n_files(c) - 1;
  contam_files(c)[file].records = records;
  c->counts.records += records;
  for (size_t i = 0; i < c->here.len / sizeof(uint32_t); i++) {
    item *x = &contam_items(c)[((const uint32_t *)(const void *)c->here.data)[i]];
    if (x->file == file) x->home_times = x->times;
    x->template |= is_most(x->times, records) || x->files > (uint64_t)c->o.common;
  }
}

/* ---- the index ----------------------------------------------------------------------------------------------------
 */

static pu_pair *pairs_of(lookup *l) {
  return (pu_pair *)(void *)l->pairs.data;
}

/* Is a hash that n items have, in their order, their own? */
static bool is_own(const pu_contam *c, const pu_pair *v, size_t n) {
  if (n > (size_t)c->o.common) return false;
  uint64_t records = 0, number = 0;
  for (size_t i = 0; i < n; i++) {
    const item *x = &contam_items(c)[v[i].b], *before = i > 0 ? &contam_items(c)[v[i - 1].b] : NULL;
    if (x->template) return false;
    if (!before || before->file != x->file) records = number = 0;
    if (x->number != number) records += x->home_times;
    number = x->number;
    if (is_most(records, contam_files(c)[x->file].records)) return false;
  }
  return true;
}

/* Sorts, drops repeated pairs, and hashes that are nobody's own. */
static void clean_ngrams(pu_contam *c) {
  pu_pair *v = pairs_of(&c->ngrams);
  size_t n = c->ngrams.pairs.len / sizeof *v, kept = 0;
  pu_pairs_sort(v, n);
  for (size_t i = 0; i < n;) {
    size_t from = kept;
    uint64_t hash = v[i].a;
    for (; i < n && v[i].a == hash; i++)
      if (kept == from || v[kept - 1].b != v[i].b) v[kept++] = v[i];
    if (is_own(c, v + from, kept - from)) continue;
    c->counts.shared += kept - from;
    kept = from;
  }
  for (size_t i = 0; i < kept; i++) contam_items(c)[v[i].b].ngrams++;
  c->ngrams.pairs.len = kept * sizeof *v;
}

/* Keeps the first `most` pairs of a hash, of items that are looked for. */
static void clean_others(pu_contam *c, lookup *l, bool ngrams, size_t most) {
  pu_pair *v = pairs_of(l);
  size_t n = l->pairs.len / sizeof *v, kept = 0, same = 0;
  pu_pairs_sort(v, n);
  for (size_t i = 0; i < n; i++) {
    const item *x = &contam_items(c)[v[i].b];
    if (x->template || (ngrams && x->ngrams == 0)) continue;
    same = kept > 0 && v[kept - 1].a == v[i].a ? same + 1 : 1;
    if (same <= most) v[kept++] = v[i];
  }
  l->pairs.len = kept * sizeof *v;
}

static pu_err lookup_build(lookup *l, pu_error *e) {
  const pu_pair *v = pairs_of(l);
  size_t n = l->n = l->pairs.len / sizeof *v;
  for (l->bits = 1; l->bits < 31 && (size_t)1 << l->bits < n; l->bits++) continue;
  l->filter_bits = l->bits + 4;
  l->begin = calloc(((size_t)1 << l->bits) + 1, sizeof *l->begin);
  l->filter = calloc(((size_t)1 << l->filter_bits) / 64 + 1, sizeof *l->filter);
  l->hashes = malloc((n + 1) * sizeof *l->hashes);
  l->items = malloc((n + 1) * sizeof *l->items);
  if (!l->begin || !l->filter || !l->hashes || !l->items || n > UINT32_MAX) return nomem(e);
  for (size_t i = 0; i < n; i++) {
    uint64_t bit = v[i].a >> (64 - l->filter_bits);
    l->filter[bit >> 6] |= (uint64_t)1 << (bit & 63);
    l->begin[(v[i].a >> (64 - l->bits)) + 1]++;
    l->hashes[i] = v[i].a;
    l->items[i] = (uint32_t)v[i].b;
  }
  for (size_t i = 0; i < (size_t)1 << l->bits; i++) l->begin[i + 1] += l->begin[i];
  pu_buf_deinit(&l->pairs);
  return PU_OK;
}

const uint32_t *lookup_find(const lookup *l, uint64_t hash, size_t *n) {
  if (!lookup_may(l, hash)) return NULL;
  uint64_t bucket = hash >> (64 - l->bits);
  size_t i = l->begin[bucket], stop = l->begin[bucket + 1];
  while (i < stop && l->hashes[i] < hash) i++;
  if (i == stop || l->hashes[i] != hash) return NULL;
  for (*n = 1; i + *n < stop && l->hashes[i + *n] == hash;) ++*n;
  return &l->items[i];
}

/* A Jaccard similarity of s needs a set between s and 1/s of the other's; texts of as many shingles differ in bytes, so
 * twice that is allowed. */
static void near_bounds(pu_contam *c) {
  double least = INFINITY, most = 0;
  for (size_t i = 0; i < contam_n_items(c); i++) {
    const item *x = &contam_items(c)[i];
    if (x->set_n == 0 || x->template || x->ngrams == 0) continue;
    least = PU_MIN(least, (double)x->bytes);
    most = PU_MAX(most, (double)x->bytes);
  }
  if (most == 0) return;
  c->near_bytes[0] = (size_t)(least * c->o.similarity / 2);
  c->near_bytes[1] = (size_t)(most / c->o.similarity * 2);
}

pu_err contam_build(pu_contam *c, pu_error *e) {
  lookup *lookups[] = {&c->ngrams, &c->keys, &c->wholes, &c->tails};
  clean_ngrams(c);
  clean_others(c, &c->keys, true, CONTAM_NEAR_MAX);
  clean_others(c, &c->wholes, false, 1);
  clean_others(c, &c->tails, false, 1);
  for (size_t i = 0; i < PU_COUNT(lookups); i++) PU_TRY(lookup_build(lookups[i], e));
  near_bounds(c);
  pu_buf_deinit(&c->seen);
  pu_buf_deinit(&c->tokens);
  pu_buf_deinit(&c->here);
  for (size_t i = 0; i < contam_n_items(c); i++) c->counts.templates += contam_items(c)[i].template;
  c->counts.items = contam_n_items(c);
  c->counts.ngrams = c->ngrams.n;
  c->counts.bytes = bytes_of(c);
  if (c->ngrams.n + c->wholes.n == 0)
    return pu_fail(e, PU_ERR_USAGE,
                   "decontaminate: nothing to look for in %llu files (%llu records): no string of %d words or more",
                   (unsigned long long)c->counts.files, (unsigned long long)c->counts.records, (int)CONTAM_WORDS);
  c->built = true;
  return check_memory(c, e);
}

pu_err pu_contam_open(const pu_contam_options *o, size_t memory, pu_contam **out, pu_error *e) {
  *out = NULL;
  pu_contam *c;
  if (o->against.n == 0) return pu_fail(e, PU_ERR_USAGE, "decontaminate: name evaluation sets to hold text against");
  PU_TRY(contam_create(o, memory, &c, e));
  pu_err err = PU_OK;
  for (size_t i = 0; err == PU_OK && i < o->against.n; i++) err = contam_add(c, o->against.v[i], e);
  if (err == PU_OK) err = contam_build(c, e);
  if (err == PU_OK)
    *out = c;
  else
    pu_contam_close(c);
  return err;
}

pu_contam_about pu_contam_about_of(const pu_contam *c) {
  return c->counts;
}

uint64_t contam_hash(const pu_contam *c) {
  char o[128];
  int n = snprintf(o, sizeof o, "%lld %.17g %d %.17g %lld", (long long)c->o.ngram, c->o.share, c->o.near,
                   c->o.similarity, (long long)c->o.common);
  uint64_t hash = pu_hash64(o, (size_t)n, 0);
  for (size_t i = 0; i < contam_n_items(c); i++) {
    const item *x = &contam_items(c)[i];
    const uint64_t what[] = {x->hash, x->number, x->file, x->template, x->ngrams};
    hash = pu_hash64(what, sizeof what, hash);
  }
  for (size_t i = 0; i < contam_n_files(c); i++)
    hash = pu_hash64(contam_files(c)[i].name, strlen(contam_files(c)[i].name), hash);
  return hash;
}

pu_contam_item pu_contam_item_of(const pu_contam *c, uint32_t index) {
  const item *x = &contam_items(c)[index];
  return (pu_contam_item){contam_files(c)[x->file].name, c->fields.data + x->field, x->number};
}
