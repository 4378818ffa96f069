/* The repetition rules of MassiveText (Rae et al. 2021, appendix A.1.1, table A1): shares of duplicate lines and
 * paragraphs and of the characters in them, of the characters in the most frequent 2-, 3- and 4-gram of words, and of
 * those in duplicate 5- to 10-grams.
 *
 * As datatrove does it: a line is duplicate where it was there before; the most frequent n-gram counts its characters
 * times its occurrences (of equally frequent ones the longest is taken), at most all; duplicate n-grams are found from
 * left to right, and after one reading goes on behind it, so no character counts twice. Unlike there, characters are
 * those of words, in both parts of a share: spaces count in neither.
 *
 * Text without spaces: two characters are a word, so an n-gram of words is one of 2n characters.
 *
 * Only an n-gram whose first and last n-1 words both occur elsewhere can occur elsewhere itself, so each length looks
 * only at the places that the one before left: of most texts few. */
#include <string.h>

#include "src/data/filter_kit.h"

enum { LINES, LINE_CHARS, PARAGRAPHS, PARAGRAPH_CHARS, TOP_2, NGRAMS_5 = TOP_2 + 3 };
enum { FIRST = 2, LAST_TOP = 4, LAST = 10, AHEAD = 64, SLACK = PU_KIT_UNSPACED_PER_WORD };

static const pu_measure measures[] = {
    [LINES] = {"lines", -INFINITY, 0.30, "share of lines that were there before (Gopher)"},
    [LINE_CHARS] = {"line_characters", -INFINITY, 0.20, "share of characters in such lines (Gopher)"},
    [PARAGRAPHS] = {"paragraphs", -INFINITY, 0.30, "share of paragraphs that were there before (Gopher)"},
    [PARAGRAPH_CHARS] = {"paragraph_characters", -INFINITY, 0.20, "share of characters in such paragraphs (Gopher)"},
    [TOP_2] = {"top_2", -INFINITY, 0.20, "share of characters in the most frequent 2-gram of words (Gopher)"},
    [TOP_2 + 1] = {"top_3", -INFINITY, 0.18, "share of characters in the most frequent 3-gram (Gopher)"},
    [TOP_2 + 2] = {"top_4", -INFINITY, 0.16, "share of characters in the most frequent 4-gram (Gopher)"},
    [NGRAMS_5] = {"ngrams_5", -INFINITY, 0.15, "share of characters in duplicate 5-grams (Gopher)"},
    [NGRAMS_5 + 1] = {"ngrams_6", -INFINITY, 0.14, "share of characters in duplicate 6-grams (Gopher)"},
    [NGRAMS_5 + 2] = {"ngrams_7", -INFINITY, 0.13, "share of characters in duplicate 7-grams (Gopher)"},
    [NGRAMS_5 + 3] = {"ngrams_8", -INFINITY, 0.12, "share of characters in duplicate 8-grams (Gopher)"},
    [NGRAMS_5 + 4] = {"ngrams_9", -INFINITY, 0.11, "share of characters in duplicate 9-grams (Gopher)"},
    [NGRAMS_5 + 5] = {"ngrams_10", -INFINITY, 0.10, "share of characters in duplicate 10-grams (Gopher)"},
    {0},
};

/* An n-gram's hash is a difference of two prefixes: polynomials in BASE over the words' hashes, modulo 2^64. */
#define BASE 0x9E3779B97F4A7C15u

/* A slot of the table: 36 bits of the n-gram's hash (the slot's place is another part of it), a mark, how often it is
 * there; 0: free. */
#define SLOT_TAG   (~(uint64_t)0 << 28)
#define SLOT_MET   ((uint64_t)1 << 27) /* was met on the way from left to right */
#define SLOT_COUNT (SLOT_MET - 1)      /* more than a text has words */

typedef struct grams {
  size_t n_words;
  uint64_t *prefix; /* [n_words + 1] */
  uint32_t *chars;  /* [n_words + 1]: characters of the words before */
  uint32_t *at;     /* [n_at]: places, in order, where the n-gram may occur elsewhere */
  uint32_t *slot;   /* [n_at]: where it is in the table; then, whether it occurs elsewhere */
  uint64_t *table;
  size_t n_at;
} grams;
_Static_assert(PU_DOC_MAX <= SLOT_COUNT, "a text has fewer words than a slot counts");

static size_t times(const grams *g, size_t k) {
  return (size_t)(g->table[g->slot[k]] & SLOT_COUNT);
}

static bool begin(grams *g, pu_doc *d, const pu_view *v) {
  size_t n = g->n_words = v->n_words;
  g->prefix = pu_arena_alloc(d->arena, (n + 1) * sizeof *g->prefix);
  g->chars = pu_arena_alloc(d->arena, (n + 1) * sizeof *g->chars);
  g->at = pu_arena_alloc(d->arena, (n + SLACK) * sizeof *g->at);
  g->slot = pu_arena_alloc(d->arena, (n + SLACK) * sizeof *g->slot);
  if (!g->prefix || !g->chars || !g->at || !g->slot) return false;
  g->prefix[0] = 0;
  g->chars[0] = 0;
  for (size_t i = 0; i < n; i++) {
    g->prefix[i + 1] = g->prefix[i] * BASE + v->word_hashes[i];
    g->chars[i + 1] = g->chars[i] + (uint32_t)pu_kit_chars_of(d, v->words[i]);
  }
  return true;
}

static uint64_t gram_hash(const grams *g, size_t at, size_t len, uint64_t power) {
  uint64_t h = g->prefix[at + len] - g->prefix[at] * power;
  h = (h ^ h >> 32) * 0xD6E8FEB86659FD93u;
  return h ^ h >> 32;
}

static uint64_t power_of(size_t len) {
  uint64_t power = 1;
  for (size_t k = 0; k < len; k++) power *= BASE;
  return power;
}

/* Leaves out the places of most n-grams that are there once: four buckets of two bits and more a place ("once",
 * "again") tell which hashes came twice, in far less memory than the table of all. For the first length, at which all
 * are in. */
static bool sift(grams *g, pu_doc *d, size_t len) {
  size_t cap = 64, kept = 0;
  uint64_t power = power_of(len);
  while (cap < 4 * g->n_at) cap *= 2;
  uint64_t *bits = pu_arena_zalloc(d->arena, cap / 4);
  if (!bits) return false;
  for (size_t i = 0; i < g->n_at; i++) {
    uint64_t h = gram_hash(g, i, len, power) & (cap - 1), *word = &bits[h / 32], once = (uint64_t)1 << 2 * (h % 32);
    *word |= once | (*word & once) << 1;
  }
  for (size_t i = 0; i < g->n_at; i++) {
    uint64_t h = gram_hash(g, i, len, power) & (cap - 1);
    g->at[kept] = (uint32_t)i;
    kept += bits[h / 32] >> 2 * (h % 32) >> 1 & 1;
  }
  g->n_at = kept;
  return true;
}

/* Counts the n-grams of len words at the places. */
static bool count(grams *g, pu_doc *d, size_t len) {
  size_t cap = 64;
  uint64_t power = power_of(len), hashes[AHEAD];
  while (cap < g->n_at + g->n_at / 2) cap *= 2;
  if (!(g->table = pu_arena_zalloc(d->arena, cap * sizeof *g->table))) return false;
  for (size_t from = 0; from < g->n_at; from += AHEAD) {
    size_t n = PU_MIN((size_t)AHEAD, g->n_at - from);
    for (size_t k = 0; k < n; k++) { /* memory is asked for before it is needed */
      hashes[k] = gram_hash(g, g->at[from + k], len, power);
      __builtin_prefetch(&g->table[hashes[k] & (cap - 1)]);
    }
    for (size_t k = 0; k < n; k++) {
      size_t i = hashes[k] & (cap - 1);
      uint64_t tag = hashes[k] & SLOT_TAG;
      while (g->table[i] && (g->table[i] & SLOT_TAG) != tag) i = (i + 1) & (cap - 1);
      g->table[i] = (g->table[i] | tag) + 1;
      g->slot[from + k] = (uint32_t)i;
    }
  }
  return true;
}

static size_t chars_of(const grams *g, size_t at, size_t len) {
  return g->chars[at + len] - g->chars[at];
}

static double top(const grams *g, size_t len) {
  size_t most = 2, longest = 0;
  for (size_t k = 0; k < g->n_at; k++) {
    size_t n = times(g, k);
    g->slot[k] = n > 1;
    if (n < most) continue;
    size_t chars = chars_of(g, g->at[k], len);
    if (n == most && chars <= longest) continue;
    most = n;
    longest = chars;
  }
  return PU_MIN(1.0, (double)most * (double)longest / (double)g->chars[g->n_words]);
}

static double duplicates(const grams *g, size_t len) {
  size_t chars = 0, next = 0;
  for (size_t k = 0; k < g->n_at; k++) {
    uint64_t *slot = &g->table[g->slot[k]];
    bool elsewhere = times(g, k) > 1;
    g->slot[k] = elsewhere;
    if (g->at[k] < next || !elsewhere) continue;
    if (*slot & SLOT_MET) {
      chars += chars_of(g, g->at[k], len);
      next = g->at[k] + len;
    }
    *slot |= SLOT_MET;
  }
  return (double)chars / (double)g->chars[g->n_words];
}

/* Keeps the places at which the next length, longer by `step` words, may occur elsewhere: where the n-gram and that
 * which begins step words further on do. The latter's place, if it is among those left, is at most step entries on. */
static void narrow(grams *g, size_t step) {
  size_t kept = 0;
  for (size_t k = g->n_at; k < g->n_at + SLACK; k++) g->at[k] = g->slot[k] = 0;
  for (size_t k = 0; k < g->n_at; k++) {
    uint32_t at = g->at[k], further = at + (uint32_t)step, on = 0;
    for (size_t j = 1; j <= step; j++) on |= (g->at[k + j] == further) & g->slot[k + j];
    bool keep = g->slot[k] & on;
    g->at[kept] = at; /* kept <= k: those to come are not overwritten */
    kept += keep;
  }
  g->n_at = kept;
}

static pu_err measure_grams(pu_doc *d, const pu_view *v, double *values, pu_error *e) {
  size_t mark = pu_arena_mark(d->arena), step = v->unspaced ? PU_KIT_UNSPACED_PER_WORD : 1;
  grams g = {0};
  bool good = begin(&g, d, v);
  size_t inner = pu_arena_mark(d->arena);
  g.n_at = v->n_words >= FIRST * step ? v->n_words - FIRST * step + 1 : 0;
  for (size_t n = FIRST; n <= LAST && good; n++) {
    double *value = &values[n <= LAST_TOP ? TOP_2 + (n - FIRST) : NGRAMS_5 + (n - LAST_TOP - 1)];
    *value = 0;
    if (g.n_at == 0) continue;
    if (n == FIRST && !(good = sift(&g, d, n * step))) break;
    if (!(good = count(&g, d, n * step))) break;
    *value = n <= LAST_TOP ? top(&g, n * step) : duplicates(&g, n * step);
    if (n < LAST) narrow(&g, step);
    pu_arena_release(d->arena, inner);
  }
  pu_arena_release(d->arena, mark);
  return good ? PU_OK : pu_kit_no_memory("gopher_repetition", e);
}

static pu_err apply(const void *shared, pu_doc *d, double *values, pu_error *e) {
  (void)shared;
  pu_duplicates lines, paragraphs;
  const pu_view *v = pu_doc_view(d);
  if (!v) return pu_kit_no_memory("gopher_repetition", e);
  PU_TRY(pu_kit_duplicates(d, v->lines, v->n_lines, &lines, e));
  PU_TRY(pu_kit_duplicates(d, v->paragraphs, v->n_paragraphs, &paragraphs, e));
  values[LINES] = lines.share;
  values[LINE_CHARS] = lines.chars;
  values[PARAGRAPHS] = paragraphs.share;
  values[PARAGRAPH_CHARS] = paragraphs.chars;
  return measure_grams(d, v, values, e);
}

const pu_filter pu_filter_gopher_repetition = {
    .name = "gopher_repetition",
    .summary = "MassiveText's rules for repeated lines, paragraphs and n-grams",
    .measures = measures,
    .apply = apply,
};
