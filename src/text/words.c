/* The cache of words: text to ids, of a fixed size, two places a word may be in, newest first. */
#include "src/text/encoder.h"

#define COUNT_SHIFT 56 /* of key[3]: above it the number of ids, below it the length */

static uint64_t word_mask(size_t len, size_t i) {
  return len >= 8 * i + 8 ? UINT64_MAX : len <= 8 * i ? 0 : ((uint64_t)1 << (8 * (len - 8 * i))) - 1;
}

/* n <= WORD_MAX */
static inline word_key key_of(const pu_encoder *enc, const uint8_t *p, size_t n) {
  word_key w;
  if (enc->readable - p >= WORD_PAD) {
    memcpy(w.k, p, sizeof w.k);
    for (size_t i = 0; i < 4; i++) w.k[i] &= word_mask(n, i);
  } else {
    memset(w.k, 0, sizeof w.k);
    memcpy(w.k, p, n);
  }
  w.k[3] |= (uint64_t)n << 48;
  return w;
}

/* Both halves of the product: every bit of a word moves every bit of its place. */
static inline uint64_t fold(uint64_t a, uint64_t b) {
  unsigned __int128 m = (unsigned __int128)a * b;
  return (uint64_t)m ^ (uint64_t)(m >> 64);
}

static inline word_slot *set_of(const pu_encoder *enc, const word_key *w) {
  uint64_t h = fold(w->k[0] ^ 0x9E3779B97F4A7C15u, w->k[1] ^ 0xBF58476D1CE4E5B9u) ^
               fold(w->k[2] ^ 0x94D049BB133111EBu, w->k[3] ^ 0xD6E8FEB86659FD93u);
  return enc->cache + 2 * (h & (WORD_SETS - 1));
}

static inline const word_slot *find(const word_slot *set, const word_key *w) {
  for (int i = 0; i < 2; i++) {
    const uint64_t *k = set[i].key;
    uint64_t other = (k[0] ^ w->k[0]) | (k[1] ^ w->k[1]) | (k[2] ^ w->k[2]);
    if ((other | ((k[3] ^ w->k[3]) << (64 - COUNT_SHIFT))) == 0) return &set[i];
  }
  return NULL;
}

static void keep(word_slot *set, const word_key *w, const int32_t *ids, size_t n_ids) {
  if (n_ids > WORD_IDS) return;
  set[1] = set[0];
  memcpy(set[0].key, w->k, sizeof w->k);
  set[0].key[3] |= (uint64_t)n_ids << COUNT_SHIFT;
  memcpy(set[0].ids, ids, n_ids * sizeof *ids);
}

pu_err text_flush_words(pu_encoder *enc, pu_ids *out, pu_error *e) {
  size_t n = enc->n_waiting;
  enc->n_waiting = 0;
  for (size_t i = 0; i < n; i++) {
    waiting_word *w = &enc->waiting[i];
    const word_slot *hit = w->set ? find(w->set, &w->key) : NULL;
    if (hit) {
      if (!text_reserve_ids(out, WORD_IDS)) return text_no_memory(e, w->n);
      memcpy(out->v + out->n, hit->ids, sizeof hit->ids); /* all of them: a fixed size is one move */
      out->n += hit->key[3] >> COUNT_SHIFT;
      continue;
    }
    size_t before = out->n;
    PU_TRY(enc->merge(enc, w->p, w->n, out, e));
    if (w->set && out->n > before) keep(w->set, &w->key, out->v + before, out->n - before);
  }
  return PU_OK;
}

pu_err text_put_word(pu_encoder *enc, const uint8_t *p, size_t n, pu_ids *out, pu_error *e) {
  waiting_word *w = &enc->waiting[enc->n_waiting++];
  w->p = p;
  w->n = n;
  w->set = NULL;
  if (enc->cache && n <= WORD_MAX) {
    w->key = key_of(enc, p, n);
    w->set = set_of(enc, &w->key);
    __builtin_prefetch(w->set);
    __builtin_prefetch(w->set + 1);
  }
  return enc->n_waiting == WORDS_WAITING ? text_flush_words(enc, out, e) : PU_OK;
}
