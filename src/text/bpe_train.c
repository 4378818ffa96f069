/* Training a byte-level BPE (Sennrich et al. 2016).
 *
 * Counting: documents are cut into words by Qwen 2's pattern (digits stand alone, which helps small models with sums),
 * and each distinct word is counted once. When the distinct words outgrow their room, the rare ones are forgotten,
 * rarest first, until half is free: what is left out is what no merge would have been made of.
 *
 * Merging: every word is a run of symbols in one array; every pair of neighbours has its count and the words it was
 * seen in. The commonest pair (ties: the lower ids) leaves a heap, becomes a new symbol, and only the words that hold
 * it are touched. Heap entries are not updated in place: an entry whose count is no longer true is put back with the
 * true one. */
#include <stdlib.h>
#include <string.h>

#include "puyu/text.h"
#include "src/text/split.h"

enum {
  BYTES = 256,
  MAX_VOCAB = 1 << 20,
  MAX_WORD = 512,  /* bytes; longer words are counted in parts */
  MAX_PIECE = 256, /* bytes a merged piece may have */
  MAX_HAN = 4      /* Han characters a piece may have, where split_cjk asks for it */
};
#define MAX_TEXT ((size_t)128 << 20) /* bytes of distinct words */
#define NONE     UINT32_MAX

typedef struct word {
  uint64_t hash;
  uint64_t at; /* into text; later: into symbols */
  int64_t count;
  uint32_t len;
} word;

typedef struct pair {
  int32_t a, b;
  int64_t count;
  uint32_t *words; /* those it was seen in; some may have lost it since */
  uint32_t n, cap;
  bool merged; /* has a rule */
} pair;

typedef struct entry { /* of the heap */
  int64_t count;
  uint32_t pair;
} entry;

typedef struct piece {
  uint32_t at, len; /* its bytes, in spelling */
} piece;

struct pu_bpe_trainer {
  pu_bpe_options o;
  int32_t n_special;
  text_splitter *splitter;
  /* counting */
  pu_buf text;
  word *words;
  size_t n_words, cap_words;
  uint32_t *table; /* word index, NONE: empty; power of two */
  size_t table_size;
  /* merging */
  int32_t *symbols;
  pair *pairs;
  size_t n_pairs, cap_pairs;
  uint32_t *pair_table;
  size_t pair_table_size;
  entry *heap;
  size_t n_heap, cap_heap;
  pu_buf spelling;
  piece *pieces; /* [vocab]: without the special tokens */
  int32_t n_pieces;
  int32_t (*rules)[2];
  size_t n_rules, cap_rules;
  uint32_t *grown; /* pairs whose count rose in this merge */
  size_t n_grown, cap_grown;
};

/* What puyu's own models use: InternLM2's markers, so that its chat template renders (see pu_chat). */
static const char *const special_default[] = {
    "<s>",        "</s>", "<|im_start|>", "<|im_end|>", "<|action_start|>", "<|action_end|>", "<|interpreter|>",
    "<|plugin|>", NULL};

static pu_err nomem(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "tokenizer training: no memory");
}

/* Room for one more in a growing array. */
static bool more(void *array, size_t n, size_t *cap, size_t each) {
  if (n < *cap) return true;
  size_t wanted = *cap ? *cap * 2 : 256;
  void *old, *grown;
  memcpy(&old, array, sizeof old);
  grown = realloc(old, wanted * each);
  if (!grown) return false;
  memcpy(array, &grown, sizeof grown);
  *cap = wanted;
  return true;
}

/* ---- counting words ---------------------------------------------------------------------------------------------- */

pu_err pu_bpe_trainer_create(const pu_bpe_options *o, pu_bpe_trainer **out, pu_error *e) {
  *out = NULL;
  const char *const *special = o->special ? o->special : special_default;
  int32_t n = 0;
  while (special[n]) n++;
  if (o->vocab_size < n + BYTES || o->vocab_size > MAX_VOCAB)
    return pu_fail(e, PU_ERR_USAGE, "vocabulary size %d: it must be from %d (bytes and special tokens) to %d",
                   o->vocab_size, n + BYTES, MAX_VOCAB);
  pu_bpe_trainer *t = calloc(1, sizeof *t);
  if (!t) return nomem(e);
  t->o = *o;
  t->o.special = special;
  if (t->o.min_count <= 0) t->o.min_count = 2;
  t->n_special = n;
  pu_err err = text_splitter_regex(pu_str_c(split_pattern_qwen2), SPLIT_ISOLATED, false, false, &t->splitter, e);
  if (err != PU_OK) {
    free(t);
    return err;
  }
  pu_buf_init(&t->text, MAX_TEXT + MAX_WORD);
  pu_buf_init(&t->spelling, (size_t)1 << 30);
  *out = t;
  return PU_OK;
}

void pu_bpe_trainer_free(pu_bpe_trainer *t) {
  if (!t) return;
  text_splitter_free(t->splitter);
  for (size_t i = 0; i < t->n_pairs; i++) free(t->pairs[i].words);
  free(t->pairs);
  free(t->pair_table);
  free(t->heap);
  free(t->words);
  free(t->table);
  free(t->symbols);
  free(t->pieces);
  free(t->rules);
  free(t->grown);
  pu_buf_deinit(&t->text);
  pu_buf_deinit(&t->spelling);
  free(t);
}

static bool table_rebuild(pu_bpe_trainer *t, size_t size) {
  uint32_t *table = malloc(size * sizeof *table);
  if (!table) return false;
  memset(table, 0xff, size * sizeof *table);
  for (size_t i = 0; i < t->n_words; i++) {
    size_t at = t->words[i].hash & (size - 1);
    while (table[at] != NONE) at = (at + 1) & (size - 1);
    table[at] = (uint32_t)i;
  }
  free(t->table);
  t->table = table;
  t->table_size = size;
  return true;
}

/* Forgets words seen at most `least` times, least rising, until half the room is free. The order of words stays. */
static bool forget_rare(pu_bpe_trainer *t) {
  for (int64_t least = 1; t->text.len > MAX_TEXT / 2; least++) {
    size_t kept = 0, bytes = 0;
    for (size_t i = 0; i < t->n_words; i++) {
      word w = t->words[i];
      if (w.count <= least) continue;
      memmove(t->text.data + bytes, t->text.data + w.at, w.len);
      w.at = bytes;
      bytes += w.len;
      t->words[kept++] = w;
    }
    t->n_words = kept;
    t->text.len = bytes;
  }
  return table_rebuild(t, t->table_size);
}

static bool count_word(pu_bpe_trainer *t, pu_str s) {
  if (t->n_words * 2 >= t->table_size && !table_rebuild(t, t->table_size ? t->table_size * 2 : 4096)) return false;
  uint64_t hash = pu_hash64(s.ptr, s.len, 0);
  size_t at = hash & (t->table_size - 1);
  for (; t->table[at] != NONE; at = (at + 1) & (t->table_size - 1)) {
    word *w = &t->words[t->table[at]];
    if (w->hash == hash && w->len == s.len && memcmp(t->text.data + w->at, s.ptr, s.len) == 0) {
      w->count++;
      return true;
    }
  }
  if (!more(&t->words, t->n_words, &t->cap_words, sizeof *t->words)) return false;
  t->table[at] = (uint32_t)t->n_words;
  t->words[t->n_words++] = (word){.hash = hash, .at = t->text.len, .count = 1, .len = (uint32_t)s.len};
  if (!pu_buf_append(&t->text, s.ptr, s.len)) return false;
  return t->text.len < MAX_TEXT || forget_rare(t);
}

static pu_err count_words(void *arg, const uint8_t *p, size_t n, pu_error *e) {
  for (size_t done = 0; done < n; done += MAX_WORD)
    if (!count_word(arg, pu_str_of((const char *)p + done, PU_MIN(n - done, (size_t)MAX_WORD)))) return nomem(e);
  return PU_OK;
}

pu_err pu_bpe_trainer_add(pu_bpe_trainer *t, pu_str document, pu_error *e) {
  return text_split(&t->splitter, 1, (const uint8_t *)document.ptr, document.len, count_words, t, e);
}

/* ---- pairs ------------------------------------------------------------------------------------------------------- */

static uint64_t pair_hash(int32_t a, int32_t b) {
  uint64_t x = ((uint64_t)(uint32_t)a << 32 | (uint32_t)b) * 0x9E3779B97F4A7C15u;
  return x ^ x >> 29;
}

static bool pair_table_grow(pu_bpe_trainer *t) {
  size_t size = t->pair_table_size ? t->pair_table_size * 2 : (size_t)1 << 16;
  uint32_t *table = malloc(size * sizeof *table);
  if (!table) return false;
  memset(table, 0xff, size * sizeof *table);
  for (size_t i = 0; i < t->n_pairs; i++) {
    size_t at = pair_hash(t->pairs[i].a, t->pairs[i].b) & (size - 1);
    while (table[at] != NONE) at = (at + 1) & (size - 1);
    table[at] = (uint32_t)i;
  }
  free(t->pair_table);
  t->pair_table = table;
  t->pair_table_size = size;
  return true;
}

/* The pair (a, b), made where it is new; NULL: no memory. */
static pair *pair_get(pu_bpe_trainer *t, int32_t a, int32_t b) {
  if (t->n_pairs * 2 >= t->pair_table_size && !pair_table_grow(t)) return NULL;
  size_t at = pair_hash(a, b) & (t->pair_table_size - 1);
  for (; t->pair_table[at] != NONE; at = (at + 1) & (t->pair_table_size - 1)) {
    pair *p = &t->pairs[t->pair_table[at]];
    if (p->a == a && p->b == b) return p;
  }
  if (!more(&t->pairs, t->n_pairs, &t->cap_pairs, sizeof *t->pairs)) return NULL;
  t->pair_table[at] = (uint32_t)t->n_pairs;
  t->pairs[t->n_pairs] = (pair){.a = a, .b = b};
  return &t->pairs[t->n_pairs++];
}

static bool pair_add(pu_bpe_trainer *t, int32_t a, int32_t b, int64_t count, uint32_t in_word) {
  pair *p = pair_get(t, a, b);
  if (!p) return false;
  p->count += count;
  if (p->n > 0 && p->words[p->n - 1] == in_word) return true;
  if (p->n == p->cap) {
    uint32_t cap = p->cap ? p->cap * 2 : 4;
    uint32_t *grown = realloc(p->words, cap * sizeof *grown);
    if (!grown) return false;
    p->words = grown;
    p->cap = cap;
  }
  p->words[p->n++] = in_word;
  return true;
}

/* ---- the heap ---------------------------------------------------------------------------------------------------- */

static bool before(const pu_bpe_trainer *t, entry x, entry y) {
  if (x.count != y.count) return x.count > y.count;
  const pair *p = &t->pairs[x.pair], *q = &t->pairs[y.pair];
  return p->a != q->a ? p->a < q->a : p->b < q->b;
}

static bool heap_push(pu_bpe_trainer *t, uint32_t pair_index) {
  if (t->pairs[pair_index].count < t->o.min_count) return true;
  if (!more(&t->heap, t->n_heap, &t->cap_heap, sizeof *t->heap)) return false;
  entry new = {t->pairs[pair_index].count, pair_index};
  size_t at = t->n_heap++;
  for (; at > 0 && before(t, new, t->heap[(at - 1) / 2]); at = (at - 1) / 2) t->heap[at] = t->heap[(at - 1) / 2];
  t->heap[at] = new;
  return true;
}

static entry heap_pop(pu_bpe_trainer *t) {
  entry top = t->heap[0], last = t->heap[--t->n_heap];
  size_t at = 0;
  for (size_t child; (child = 2 * at + 1) < t->n_heap; at = child) {
    if (child + 1 < t->n_heap && before(t, t->heap[child + 1], t->heap[child])) child++;
    if (!before(t, t->heap[child], last)) break;
    t->heap[at] = t->heap[child];
  }
  t->heap[at] = last;
  return top;
}

/* The commonest pair whose count still holds. A pair whose count rose has a newer, higher entry. */
static bool heap_next(pu_bpe_trainer *t, uint32_t *out, bool *failed) {
  while (t->n_heap > 0) {
    entry top = heap_pop(t);
    int64_t now = t->pairs[top.pair].count;
    *out = top.pair;
    if (top.count == now) return true;
    if (top.count > now && !heap_push(t, top.pair)) {
      *failed = true;
      return false;
    }
  }
  return false;
}

/* ---- pieces ------------------------------------------------------------------------------------------------------ */

static bool is_han(uint32_t cp) {
  return (cp >= 0x3400 && cp <= 0x9FFF) || (cp >= 0xF900 && cp <= 0xFAFF) || (cp >= 0x20000 && cp <= 0x3FFFF);
}

static int han_count(pu_str s) {
  int n = 0;
  for (size_t at = 0, len; at < s.len; at += len) {
    uint32_t cp = 0;
    len = pu_utf8_next(pu_str_of(s.ptr + at, s.len - at), &cp);
    if (len == 0)
      len = 1;
    else
      n += is_han(cp);
  }
  return n;
}

static pu_str spelling(const pu_bpe_trainer *t, int32_t id) {
  return pu_str_of(t->spelling.data + t->pieces[id].at, t->pieces[id].len);
}

typedef struct lookup { /* pieces by spelling */
  uint32_t *v;          /* id, NONE: empty */
  size_t size;          /* power of two */
} lookup;

/* Two ways can lead to one spelling; the second way leads to the first one's id. */
static int32_t piece_find(const pu_bpe_trainer *t, pu_str s, const lookup *l) {
  for (size_t at = pu_hash64(s.ptr, s.len, 1) & (l->size - 1); l->v[at] != NONE; at = (at + 1) & (l->size - 1))
    if (pu_str_eq(spelling(t, (int32_t)l->v[at]), s)) return (int32_t)l->v[at];
  return -1;
}

static void piece_index(const pu_bpe_trainer *t, int32_t id, const lookup *l) {
  pu_str s = spelling(t, id);
  size_t at = pu_hash64(s.ptr, s.len, 1) & (l->size - 1);
  while (l->v[at] != NONE) at = (at + 1) & (l->size - 1);
  l->v[at] = (uint32_t)id;
}

static bool piece_add(pu_bpe_trainer *t, pu_str s) {
  t->pieces[t->n_pieces] = (piece){(uint32_t)t->spelling.len, (uint32_t)s.len};
  if (!pu_buf_append(&t->spelling, s.ptr, s.len)) return false;
  t->n_pieces++;
  return true;
}

/* ---- merging ----------------------------------------------------------------------------------------------------- */

/* Symbols of all words, and their pairs. The text is no longer needed then. */
static bool pairs_first(pu_bpe_trainer *t) {
  t->symbols = malloc((t->text.len + 1) * sizeof *t->symbols);
  if (!t->symbols) return false;
  for (size_t i = 0; i < t->text.len; i++) t->symbols[i] = (unsigned char)t->text.data[i];
  pu_buf_deinit(&t->text);
  for (size_t i = 0; i < t->n_words; i++) {
    const word *w = &t->words[i];
    for (uint32_t k = 0; k + 1 < w->len; k++)
      if (!pair_add(t, t->symbols[w->at + k], t->symbols[w->at + k + 1], w->count, (uint32_t)i)) return false;
  }
  for (size_t i = 0; i < t->n_pairs; i++)
    if (!heap_push(t, (uint32_t)i)) return false;
  return true;
}

static bool rose(pu_bpe_trainer *t, int32_t a, int32_t b, int64_t count, uint32_t in_word) {
  if (!pair_add(t, a, b, count, in_word)) return false;
  if (!more(&t->grown, t->n_grown, &t->cap_grown, sizeof *t->grown)) return false;
  t->grown[t->n_grown++] = (uint32_t)(pair_get(t, a, b) - t->pairs);
  return true;
}

static bool fell(pu_bpe_trainer *t, int32_t a, int32_t b, int64_t count) {
  pair *p = pair_get(t, a, b);
  if (p) p->count -= count;
  return p != NULL;
}

/* Replaces (a, b) by id in one word, left to right, and keeps the counts of the neighbours' pairs. */
static bool merge_word(pu_bpe_trainer *t, uint32_t index, int32_t a, int32_t b, int32_t id) {
  word *w = &t->words[index];
  int32_t *s = t->symbols + w->at;
  uint32_t to = 0;
  bool ok = true;
  for (uint32_t from = 0; from < w->len;) {
    if (s[from] != a || from + 1 >= w->len || s[from + 1] != b) {
      s[to++] = s[from++];
      continue;
    }
    ok &= fell(t, a, b, w->count);
    if (to > 0) ok &= fell(t, s[to - 1], a, w->count) && rose(t, s[to - 1], id, w->count, index);
    if (from + 2 < w->len) ok &= fell(t, b, s[from + 2], w->count) && rose(t, id, s[from + 2], w->count, index);
    s[to++] = id;
    from += 2;
  }
  w->len = to;
  return ok;
}

static int by_number(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

static bool merge_pair(pu_bpe_trainer *t, uint32_t index, int32_t id) {
  pair p = t->pairs[index];
  /* The list is taken away: merging may add to the pair's list anew where id is an older piece. */
  t->pairs[index].words = NULL;
  t->pairs[index].n = t->pairs[index].cap = 0;
  t->n_grown = 0;
  bool ok = true;
  for (uint32_t i = 0; ok && i < p.n; i++) ok = merge_word(t, p.words[i], p.a, p.b, id);
  free(p.words);
  if (t->n_grown > 0) qsort(t->grown, t->n_grown, sizeof *t->grown, by_number);
  for (size_t i = 0; ok && i < t->n_grown; i++)
    if (i == 0 || t->grown[i] != t->grown[i - 1]) ok = heap_push(t, t->grown[i]);
  return ok;
}

static bool may_merge(const pu_bpe_trainer *t, pu_str joined) {
  return joined.len <= MAX_PIECE && !(t->o.split_cjk && han_count(joined) > MAX_HAN);
}

/* One rule: pair -> the piece its spelling makes. */
static bool rule_add(pu_bpe_trainer *t, uint32_t pair_index, pu_str joined, const lookup *spellings) {
  int32_t id = piece_find(t, joined, spellings);
  if (id < 0) {
    id = t->n_pieces;
    if (!piece_add(t, joined)) return false;
    piece_index(t, id, spellings);
  }
  pair *p = &t->pairs[pair_index];
  if (!p->merged) {
    if (!more(&t->rules, t->n_rules, &t->cap_rules, sizeof *t->rules)) return false;
    t->rules[t->n_rules][0] = p->a;
    t->rules[t->n_rules][1] = p->b;
    t->n_rules++;
    p->merged = true;
  }
  return merge_pair(t, pair_index, id);
}

static bool merges_learn(pu_bpe_trainer *t, const lookup *spellings) {
  const int32_t target = t->o.vocab_size - t->n_special;
  bool failed = false;
  uint32_t best;
  while (t->n_pieces < target && heap_next(t, &best, &failed)) {
    char bytes[2 * MAX_PIECE];
    pu_str a = spelling(t, t->pairs[best].a), b = spelling(t, t->pairs[best].b);
    memcpy(bytes, a.ptr, a.len);
    memcpy(bytes + a.len, b.ptr, b.len);
    pu_str joined = pu_str_of(bytes, a.len + b.len);
    if (!may_merge(t, joined)) continue;
    if (!rule_add(t, best, joined, spellings)) return false;
    if (t->o.progress && t->n_pieces % 64 == 0) t->o.progress(t->o.progress_arg, t->n_pieces, target, "merging");
  }
  return !failed;
}

static bool train(pu_bpe_trainer *t) {
  size_t size = 1024;
  while (size < (size_t)t->o.vocab_size * 2) size *= 2;
  lookup spellings = {malloc(size * sizeof(uint32_t)), size};
  t->pieces = malloc((size_t)t->o.vocab_size * sizeof *t->pieces);
  bool ok = spellings.v && t->pieces;
  if (ok) memset(spellings.v, 0xff, size * sizeof(uint32_t));
  for (int i = 0; ok && i < BYTES; i++) {
    char byte = (char)i;
    ok = piece_add(t, pu_str_of(&byte, 1));
    if (ok) piece_index(t, i, &spellings);
  }
  ok = ok && pairs_first(t) && merges_learn(t, &spellings);
  free(spellings.v);
  return ok;
}

/* ---- tokenizer.json ---------------------------------------------------------------------------------------------- */

/* GPT-2's byte alphabet: printable Latin-1 stands for itself, the other bytes take the code points from 256 on. */
static uint32_t byte_code(unsigned byte) {
  if ((byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174) return byte;
  return byte <= 32 ? 256 + byte : byte <= 160 ? 256 + 33 + byte - 127 : 256 + 33 + 34;
}

static void put_spelling(pu_buf *out, pu_str s) {
  for (size_t i = 0; i < s.len; i++) {
    uint32_t cp = byte_code((unsigned char)s.ptr[i]);
    if (cp == '"' || cp == '\\') pu_buf_putc(out, '\\');
    pu_utf8_put(out, cp);
  }
}

static void put_special(const pu_bpe_trainer *t, pu_buf *out) {
  pu_buf_puts(out, "  \"added_tokens\": [");
  for (int32_t i = 0; i < t->n_special; i++) {
    pu_buf_printf(out, "%s\n    {\"id\": %d, \"content\": ", i ? "," : "", i);
    pu_buf_json_str(out, pu_str_c(t->o.special[i]));
    pu_buf_puts(out, ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, "
                     "\"special\": true}");
  }
  pu_buf_puts(out, "\n  ],\n");
}

/* Whoever encodes with this file gets <s> in front, as training did. */
static void put_post_processor(const pu_bpe_trainer *t, pu_buf *out) {
  if (t->n_special == 0 || strcmp(t->o.special[0], "<s>") != 0) {
    pu_buf_puts(out, "  \"post_processor\": null,\n");
    return;
  }
  pu_buf_puts(out,
              "  \"post_processor\": {\"type\": \"TemplateProcessing\",\n"
              "    \"single\": [{\"SpecialToken\": {\"id\": \"<s>\", \"type_id\": 0}}, "
              "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}],\n"
              "    \"pair\": [{\"SpecialToken\": {\"id\": \"<s>\", \"type_id\": 0}}, "
              "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, {\"SpecialToken\": {\"id\": \"<s>\", \"type_id\": 1}}, "
              "{\"Sequence\": {\"id\": \"B\", \"type_id\": 1}}],\n"
              "    \"special_tokens\": {\"<s>\": {\"id\": \"<s>\", \"ids\": [0], \"tokens\": [\"<s>\"]}}},\n");
}

static void put_model(const pu_bpe_trainer *t, pu_buf *out) {
  pu_buf_puts(out, "  \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, "
                   "\"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, \"fuse_unk\": false, "
                   "\"byte_fallback\": false, \"ignore_merges\": false,\n    \"vocab\": {");
  for (int32_t i = 0; i < t->n_special; i++) {
    pu_buf_puts(out, i ? ",\n      " : "\n      ");
    pu_buf_json_str(out, pu_str_c(t->o.special[i]));
    pu_buf_printf(out, ": %d", i);
  }
  for (int32_t i = 0; i < t->n_pieces; i++) {
    pu_buf_puts(out, i + t->n_special ? ",\n      \"" : "\n      \"");
    put_spelling(out, spelling(t, i));
    pu_buf_printf(out, "\": %d", i + t->n_special);
  }
  pu_buf_puts(out, "\n    },\n    \"merges\": [");
  for (size_t i = 0; i < t->n_rules; i++) {
    pu_buf_puts(out, i ? ",\n      [\"" : "\n      [\"");
    put_spelling(out, spelling(t, t->rules[i][0]));
    pu_buf_puts(out, "\", \"");
    put_spelling(out, spelling(t, t->rules[i][1]));
    pu_buf_puts(out, "\"]");
  }
  pu_buf_puts(out, "\n    ]\n  }\n}\n");
}

pu_err pu_bpe_trainer_finish(pu_bpe_trainer *t, pu_buf *json, pu_error *e) {
  if (t->pieces) return pu_fail(e, PU_ERR_USAGE, "tokenizer training: already finished");
  if (t->n_words == 0) return pu_fail(e, PU_ERR_USAGE, "tokenizer training: no text was given");
  if (!train(t)) return nomem(e);
  pu_buf_puts(json, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n");
  put_special(t, json);
  pu_buf_puts(json, "  \"normalizer\": null,\n  \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [\n"
                    "    {\"type\": \"Split\", \"pattern\": {\"Regex\": ");
  pu_buf_json_str(json, pu_str_c(split_pattern_qwen2));
  pu_buf_puts(json, "}, \"behavior\": \"Isolated\", \"invert\": false},\n"
                    "    {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": false, "
                    "\"use_regex\": false}]},\n");
  put_post_processor(t, json);
  pu_buf_puts(json, "  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": false, "
                    "\"use_regex\": false},\n");
  put_model(t, json);
  return json->failed ? nomem(e) : PU_OK;
}

static bool has_special(const pu_bpe_trainer *t, const char *name) {
  for (int32_t i = 0; i < t->n_special; i++)
    if (strcmp(t->o.special[i], name) == 0) return true;
  return false;
}

/* tokenizer_config.json: which tokens begin and end, and the chat template for programs that render Jinja. */
static void put_config(const pu_bpe_trainer *t, pu_buf *out) {
  bool bos = has_special(t, "<s>");
  pu_buf_puts(out, "{\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n");
  pu_buf_printf(out, "  \"add_bos_token\": %s,\n  \"add_eos_token\": false,\n", bos ? "true" : "false");
  if (bos) pu_buf_puts(out, "  \"bos_token\": \"<s>\",\n");
  if (has_special(t, "</s>")) pu_buf_puts(out, "  \"eos_token\": \"</s>\",\n  \"pad_token\": \"</s>\",\n");
  if (has_special(t, "<|im_start|>") && has_special(t, "<|im_end|>"))
    pu_buf_printf(out,
                  "  \"chat_template\": \"%s{%% for m in messages %%}{{ '<|im_start|>' + m['role'] + '\\\\n' + "
                  "m['content'] + '<|im_end|>\\\\n' }}{%% endfor %%}{%% if add_generation_prompt %%}"
                  "{{ '<|im_start|>assistant\\\\n' }}{%% endif %%}\",\n",
                  bos ? "{{ bos_token }}" : "");
  pu_buf_puts(out, "  \"clean_up_tokenization_spaces\": false,\n  \"model_max_length\": 1000000\n}\n");
}

pu_err pu_bpe_trainer_save(pu_bpe_trainer *t, const char *dir, pu_error *e) {
  PU_TRY(pu_mkdirs(dir, e));
  pu_buf json, config;
  pu_buf_init(&json, PU_BUF_MAX);
  pu_buf_init(&config, PU_BUF_MAX);
  char path[4096];
  pu_err err = pu_bpe_trainer_finish(t, &json, e);
  put_config(t, &config);
  if (err == PU_OK && config.failed) err = nomem(e);
  if (err == PU_OK && (size_t)snprintf(path, sizeof path, "%s/tokenizer_config.json", dir) >= sizeof path)
    err = pu_fail(e, PU_ERR_USAGE, "%s: the path is too long", dir);
  if (err == PU_OK) err = pu_file_write(path, config.data, config.len, e);
  if (err == PU_OK) {
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    err = pu_file_write(path, json.data, json.len, e);
  }
  pu_buf_deinit(&json);
  pu_buf_deinit(&config);
  return err;
}

int32_t pu_bpe_trainer_size(const pu_bpe_trainer *t) {
  return t->n_special + t->n_pieces;
}
