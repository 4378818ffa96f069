/* SentencePiece models: the fast encoder against a plain one written from the algorithm's description, over random
 * models and texts; then each setting by itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
// cmocka wants the four above
#include <cmocka.h>
#include <math.h>

#include "tests/text/build.h"

static pu_error err;

static void must(pu_err code) {
  if (code != PU_OK) fail_msg("%s", err.msg);
}

/* ---- the plain encoder ------------------------------------------------------------------------------------------- */

typedef struct row {
  char text[16];
  float score;
  int type;
} row;

typedef struct model {
  row rows[600];
  int n;
  bool byte_fallback, unigram;
} model;

typedef struct sym {
  size_t at, len;
  bool frozen;
} sym;

static int find(const model *m, const char *s, size_t n) {
  for (int i = 3; i < m->n; i++) {
    bool ordinary = m->rows[i].type == NORMAL || m->rows[i].type == USER || m->rows[i].type == UNUSED;
    if (ordinary && strlen(m->rows[i].text) == n && memcmp(m->rows[i].text, s, n) == 0) return i;
  }
  return -1;
}

static size_t char_len(const char *s) {
  return (uint8_t)s[0] < 0x80 ? 1 : (uint8_t)s[0] < 0xE0 ? 2 : (uint8_t)s[0] < 0xF0 ? 3 : 4;
}

static size_t user_len(const model *m, const char *s) {
  size_t best = 0;
  for (int i = 3; i < m->n; i++) {
    size_t len = strlen(m->rows[i].text);
    if (m->rows[i].type == USER && len > best && strncmp(s, m->rows[i].text, len) == 0) best = len;
  }
  return best;
}

/* What an unused piece was last seen to be made of: the place where it is cut. */
typedef struct halves {
  size_t left[600];
} halves;

typedef struct plain {
  const model *m;
  const char *text;
  sym syms[400];
  size_t n;
  halves h;
  pu_ids *out;
} plain;

static void put(plain *p, int id, size_t at, size_t len) {
  pu_ids *out = p->out;
  bool unknown = id <= 0;
  if (unknown && p->m->byte_fallback) {
    for (size_t i = 0; i < len; i++) pu_ids_push(out, 3 + (uint8_t)p->text[at + i]);
  } else if (!unknown || out->n == 0 || out->v[out->n - 1] != 0) {
    pu_ids_push(out, unknown ? 0 : id);
  }
}

static void see(plain *p, size_t left) {
  if (left + 1 >= p->n || p->syms[left].frozen || p->syms[left + 1].frozen) return;
  int id = find(p->m, p->text + p->syms[left].at, p->syms[left].len + p->syms[left + 1].len);
  if (id >= 0 && p->m->rows[id].type == UNUSED) p->h.left[id] = p->syms[left].len;
}

static void take_apart(plain *p, size_t at, size_t len) {
  int id = find(p->m, p->text + at, len);
  if (id >= 0 && p->m->rows[id].type == UNUSED && p->h.left[id] > 0) {
    size_t left = p->h.left[id];
    take_apart(p, at, left);
    take_apart(p, at + left, len - left);
  } else {
    put(p, id, at, len);
  }
}

static void plain_bpe(const model *m, const char *text, pu_ids *out) {
  static plain p;
  p = (plain){.m = m, .text = text, .out = out};
  for (size_t i = 0; text[i];) {
    size_t user = user_len(m, text + i);
    p.syms[p.n++] = (sym){i, user ? user : char_len(text + i), user > 0};
    i += p.syms[p.n - 1].len;
  }
  for (size_t i = 0; i < p.n; i++) see(&p, i);
  for (;;) {
    size_t best = SIZE_MAX;
    float score = -HUGE_VALF;
    for (size_t i = 0; i + 1 < p.n; i++) {
      if (p.syms[i].frozen || p.syms[i + 1].frozen) continue;
      int id = find(m, text + p.syms[i].at, p.syms[i].len + p.syms[i + 1].len);
      if (id < 0 || m->rows[id].score <= score) continue;
      score = m->rows[id].score;
      best = i;
    }
    if (best == SIZE_MAX) break;
    p.syms[best].len += p.syms[best + 1].len;
    for (size_t i = best + 1; i + 1 < p.n; i++) p.syms[i] = p.syms[i + 1];
    p.n--;
    if (best > 0) see(&p, best - 1);
    see(&p, best);
  }
  for (size_t i = 0; i < p.n; i++) take_apart(&p, p.syms[i].at, p.syms[i].len);
}

/* Viterbi from the recurrence, ending by ending. */
static void plain_unigram(const model *m, const char *text, pu_ids *out) {
  enum { MAX = 1200 };
  static float best[MAX + 1];
  static size_t from[MAX + 1];
  static int by[MAX + 1];
  size_t n = strlen(text);
  float low = HUGE_VALF, high = 1.17549435e-38f;
  for (int i = 0; i < m->n; i++) {
    if (m->rows[i].type != NORMAL) continue;
    low = fminf(low, m->rows[i].score);
    high = fmaxf(high, m->rows[i].score);
  }
  for (size_t i = 1; i <= n; i++) by[i] = -2;
  best[0] = 0;
  for (size_t i = 0; i < n; i += char_len(text + i)) {
    bool single = false;
    for (size_t len = 1; i + len <= n && len < 16; len++) {
      int id = find(m, text + i, len);
      if (id < 0 || m->rows[id].type == UNUSED) continue;
      double score = m->rows[id].type == USER ? (float)len * high - 0.1 : (double)m->rows[id].score;
      single |= len == char_len(text + i);
      if (by[i + len] != -2 && score + best[i] <= best[i + len]) continue;
      best[i + len] = (float)(score + best[i]);
      from[i + len] = i;
      by[i + len] = id;
    }
    size_t end = i + char_len(text + i);
    if (single || (by[end] != -2 && low - 10 + best[i] <= best[end])) continue;
    best[end] = low - 10 + best[i];
    from[end] = i;
    by[end] = 0;
  }
  size_t path[MAX], k = 0;
  for (size_t i = n; i > 0; i = from[i]) path[k++] = i;
  plain p = {.m = m, .text = text, .out = out};
  while (k-- > 0) put(&p, by[path[k]], from[path[k]], path[k] - from[path[k]]);
}

/* ---- random models and texts ------------------------------------------------------------------------------------- */

/* Few characters, so that pieces overlap in every way. é and 中 have no piece of their own in some models. */
static const char *const alphabet[] = {"a", "b", "c", "\xE2\x96\x81", "\xC3\xA9", "\xE4\xB8\xAD", "\xF0\x9F\x98\x80"};

static void random_string(pu_rng *r, char *dst, size_t chars, size_t kinds) {
  *dst = 0;
  for (size_t i = 0; i < chars; i++) strcat(dst, alphabet[pu_rng_below(r, kinds)]);
}

static void random_model(pu_rng *r, model *m, pu_buf *b) {
  m->unigram = pu_rng_below(r, 3) == 0;
  m->byte_fallback = pu_rng_below(r, 2);
  bool unused = pu_rng_below(r, 2), users = pu_rng_below(r, 2);
  m->n = m->byte_fallback ? 259 : 3;
  pu_buf_clear(b);
  spm_begin(b, m->byte_fallback);
  for (int i = 0; i < m->n; i++) m->rows[i] = (row){"", 0, CONTROL};
  int pieces = 5 + (int)pu_rng_below(r, 60);
  for (int i = 0; i < pieces; i++) {
    row *w = &m->rows[m->n];
    random_string(r, w->text, 1 + pu_rng_below(r, i < 6 ? 1 : 3), 6);
    if (find(m, w->text, strlen(w->text)) >= 0) continue;
    w->type = unused && pu_rng_below(r, 4) == 0 ? UNUSED : users && pu_rng_below(r, 8) == 0 ? USER : NORMAL;
    w->score = -(float)pu_rng_below(r, 20) / 4; /* many ties */
    spm_piece(b, pu_str_c(w->text), w->score, w->type);
    m->n++;
  }
  spm_piece(b, pu_str_c("zzz"), -9, NORMAL);
  m->rows[m->n++] = (row){"zzz", -9, NORMAL};
  spm_end(b, (spm_settings){.unigram = m->unigram, .byte_fallback = m->byte_fallback});
}

static void same(const pu_ids *got, const pu_ids *want, const char *text) {
  bool ok = got->n == want->n;
  for (size_t i = 0; ok && i < got->n; i++) ok = got->v[i] == want->v[i];
  if (ok) return;
  print_message("text: %s\ngot: ", text);
  for (size_t i = 0; i < got->n; i++) print_message(" %d", got->v[i]);
  print_message("\nwant:");
  for (size_t i = 0; i < want->n; i++) print_message(" %d", want->v[i]);
  fail_msg("other ids than the plain encoder's");
}

static void test_random_models(void **state) {
  (void)state;
  pu_rng r;
  pu_rng_seed(&r, 7);
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  static model m;
  for (int round = 0; round < 400; round++) {
    random_model(&r, &m, &b);
    pu_tokenizer *t = NULL;
    pu_encoder *enc = NULL;
    must(pu_tokenizer_parse_spm(pu_str_of(b.data, b.len), &t, &err));
    must(pu_encoder_create(t, &enc, &err));
    pu_ids want = {0}, got = {0};
    for (int k = 0; k < 20; k++) {
      char text[1024];
      random_string(&r, text, pu_rng_below(&r, k < 15 ? 20 : 120), 7);
      want.n = got.n = 0;
      (m.unigram ? plain_unigram : plain_bpe)(&m, text, &want);
      must(pu_encode(t, pu_str_c(text), 0, &got, &err));
      same(&got, &want, text);
      got.n = 0;
      must(pu_encoder_encode(enc, pu_str_c(text), 0, &got, &err)); /* with the cache of earlier texts */
      same(&got, &want, text);
    }
    pu_ids_deinit(&want);
    pu_ids_deinit(&got);
    pu_encoder_free(enc);
    pu_tokenizer_free(t);
  }
  pu_buf_deinit(&b);
}

/* ---- one thing at a time ----------------------------------------------------------------------------------------- */

static pu_tokenizer *make(pu_buf *b, spm_settings s) {
  pu_tokenizer *t = NULL;
  spm_end(b, s);
  must(pu_tokenizer_parse_spm(pu_str_of(b->data, b->len), &t, &err));
  pu_buf_deinit(b);
  return t;
}

/* The pieces of a text, with | between them. */
static const char *cut(const pu_tokenizer *t, pu_str text, unsigned flags) {
  static char out[512];
  pu_ids ids = {0};
  must(pu_encode(t, text, flags, &ids, &err));
  *out = 0;
  for (size_t i = 0; i < ids.n; i++) {
    pu_str p = pu_tokenizer_piece(t, ids.v[i]);
    sprintf(out + strlen(out), "%s%.*s", i ? "|" : "", (int)p.len, p.ptr);
  }
  pu_ids_deinit(&ids);
  return out;
}

static const char *join(const pu_tokenizer *t, const int32_t *ids, size_t n, unsigned flags) {
  static char out[512];
  pu_buf b;
  pu_buf_init(&b, sizeof out - 1);
  must(pu_decode(t, ids, n, flags, &b, &err));
  memcpy(out, b.data ? b.data : "", b.len);
  out[b.len] = 0;
  pu_buf_deinit(&b);
  return out;
}

#define WS "\xE2\x96\x81"

static void add_words(pu_buf *b) {
  pu_buf_init(b, 1 << 20);
  spm_begin(b, true);
  static const char *const words[] = {WS, "a", "b", WS "a", "ab", WS "ab", WS WS};
  for (size_t i = 0; i < PU_COUNT(words); i++) spm_piece(b, pu_str_c(words[i]), -(float)i, NORMAL);
}

static void test_spaces(void **state) {
  (void)state;
  pu_buf b;
  add_words(&b);
  pu_tokenizer *t = make(&b, (spm_settings){.byte_fallback = true});
  assert_string_equal(cut(t, pu_str_c(" a  b "), 0), WS "a|" WS WS "|b|" WS);
  assert_string_equal(cut(t, pu_str_c("   "), 0), WS WS "|" WS);
  assert_string_equal(cut(t, pu_str_c(""), 0), "");
  assert_string_equal(join(t, (int32_t[]){259, 260}, 2, 0), " a");
  pu_tokenizer_free(t);

  add_words(&b);
  t = make(&b, (spm_settings){.byte_fallback = true, .dummy_prefix = true});
  assert_string_equal(cut(t, pu_str_c("a b"), 0), WS "a|" WS "|b");
  assert_string_equal(cut(t, pu_str_c("a b"), PU_ENCODE_NO_PREFIX), "a|" WS "|b");
  assert_string_equal(cut(t, pu_str_c(""), 0), "");
  assert_string_equal(join(t, (int32_t[]){262, 259, 261}, 3, 0), "a b"); /* only the first space goes */
  assert_string_equal(join(t, (int32_t[]){259, 259, 261}, 3, 0), " b");
  assert_string_equal(join(t, (int32_t[]){1, 262}, 2, 0), "<s>a");
  assert_string_equal(join(t, (int32_t[]){1, 262}, 2, PU_DECODE_SKIP_SPECIAL), "a");
  pu_tokenizer_free(t);

  add_words(&b);
  t = make(&b, (spm_settings){.byte_fallback = true, .dummy_prefix = true, .remove_extra = true});
  assert_string_equal(cut(t, pu_str_c("  a   b  "), 0), WS "a|" WS "|b");
  assert_string_equal(cut(t, pu_str_c("   "), 0), "");
  assert_string_equal(join(t, (int32_t[]){259, 259, 261}, 3, 0), "b"); /* all spaces in front go */
  pu_tokenizer_free(t);

  add_words(&b);
  t = make(&b, (spm_settings){.byte_fallback = true, .dummy_prefix = true, .suffix = true});
  assert_string_equal(cut(t, pu_str_c("a"), 0), "a|" WS);
  pu_tokenizer_free(t);

  add_words(&b);
  t = make(&b, (spm_settings){.byte_fallback = true, .keep_spaces = true});
  assert_string_equal(cut(t, pu_str_c("a b"), 0), "a|<0x20>|b");
  pu_tokenizer_free(t);
}

static void test_unknown_and_bytes(void **state) {
  (void)state;
  pu_buf b;
  add_words(&b);
  spm_piece(&b, pu_str_of("\0", 1), -50, NORMAL);
  spm_piece(&b, pu_str_of("a\0", 2), -51, NORMAL);
  pu_tokenizer *t = make(&b, (spm_settings){.byte_fallback = true});
  assert_string_equal(cut(t,
                          pu_str_c("\xC3\xA9"
                                   "b"),
                          0),
                      "<0xC3>|<0xA9>|b");
  assert_string_equal(cut(t,
                          pu_str_c("\xFF"
                                   "b"),
                          0),
                      "<0xEF>|<0xBF>|<0xBD>|b"); /* not UTF-8: U+FFFD */
  pu_ids ids = {0};
  must(pu_encode(t, pu_str_of("b\0a\0", 4), 0, &ids, &err));
  assert_int_equal(ids.n, 3);
  assert_int_equal(ids.v[1], 266);
  assert_int_equal(ids.v[2], 267);
  pu_buf back;
  pu_buf_init(&back, 100);
  must(pu_decode(t, ids.v, ids.n, 0, &back, &err));
  assert_int_equal(back.len, 4);
  assert_memory_equal(back.data, "b\0a\0", 4);
  pu_buf_deinit(&back);
  pu_ids_deinit(&ids);
  assert_int_equal(pu_decode(t, (int32_t[]){268}, 1, 0, &back, &err), PU_ERR_USAGE);
  assert_int_equal(pu_decode(t, (int32_t[]){-1}, 1, 0, &back, &err), PU_ERR_USAGE);
  pu_tokenizer_free(t);

  pu_buf_init(&b, 1 << 16);
  spm_begin(&b, false);
  spm_piece(&b, pu_str_c("a"), 0, NORMAL);
  t = make(&b, (spm_settings){0});
  assert_string_equal(cut(t, pu_str_c("a??a?"), 0), "a|<unk>|a|<unk>"); /* unknown ones in a row are one */
  assert_string_equal(join(t, (int32_t[]){3, 0, 3}, 3, 0), "a \xE2\x81\x87 a");
  pu_tokenizer_free(t);
}

static void test_control_and_user(void **state) {
  (void)state;
  pu_buf b;
  add_words(&b);
  spm_piece(&b, pu_str_c("[ab]"), 0, USER);
  spm_piece(&b, pu_str_c("[ab"), 0, USER);
  pu_tokenizer *t = make(&b, (spm_settings){.byte_fallback = true});
  assert_string_equal(cut(t, pu_str_c("ab[ab]ab[aba"), 0), "ab|[ab]|ab|[ab|a");
  assert_string_equal(cut(t, pu_str_c("<s>"), 0), "<0x3C>|<0x73>|<0x3E>");
  assert_string_equal(cut(t, pu_str_c("ab<s>b</s>"), PU_ENCODE_SPECIAL), "ab|<s>|b|</s>");
  assert_string_equal(cut(t, pu_str_c("a"), PU_ENCODE_BOS | PU_ENCODE_EOS), "<s>|a|</s>");
  assert_int_equal(pu_tokenizer_find(t, pu_str_c("[ab]")), 266);
  assert_int_equal(pu_tokenizer_find(t, pu_str_c("nothing")), -1);
  assert_true(pu_tokenizer_is_special(t, 1));
  assert_false(pu_tokenizer_is_special(t, 266));
  pu_tokenizer_free(t);
}

/* A double array for the rules, the slow and simple way: each node takes the first base of its own where its edges fit.
 * A node is a unit; its children stand at base ^ label; label 0 holds the value. */
typedef struct rule {
  const char *from, *to;
} rule;

static void build_node(const rule *rules, size_t n, size_t depth, uint32_t place, uint32_t *units, bool *taken,
                       bool *used, const uint32_t *values) {
  uint32_t base = 0;
  for (bool fits = false; !fits;) {
    base++;
    fits = !used[base];
    for (size_t i = 0; i < n; i++) fits = fits && !taken[base ^ (uint8_t)rules[i].from[depth]];
  }
  used[base] = true;
  for (size_t i = 0; i < n; i++) taken[base ^ (uint8_t)rules[i].from[depth]] = true;
  units[place] |= (base ^ place) << 10;
  for (size_t i = 0; i < n;) {
    uint8_t label = (uint8_t)rules[i].from[depth];
    size_t end = i;
    while (end < n && (uint8_t)rules[end].from[depth] == label) end++;
    if (label == 0) {
      units[place] |= 256;
      units[base] = values[i] | 1u << 31;
    } else {
      units[base ^ label] = label;
      build_node(rules + i, end - i, depth + 1, base ^ label, units, taken, used, values + i);
    }
    i = end;
  }
}

static void build_charsmap(const rule *rules, size_t n, pu_buf *out) {
  enum { UNITS = 2048 };
  static uint32_t units[UNITS], values[16];
  static bool taken[UNITS], used[UNITS];
  pu_buf strings;
  pu_buf_init(&strings, 1 << 16);
  memset(units, 0, sizeof units);
  memset(taken, 0, sizeof taken);
  memset(used, 0, sizeof used);
  taken[0] = true;
  for (size_t i = 0; i < n; i++) {
    values[i] = (uint32_t)strings.len;
    pu_buf_append(&strings, rules[i].to, strlen(rules[i].to) + 1);
  }
  build_node(rules, n, 0, 0, units, taken, used, values);
  uint32_t bytes = sizeof units;
  pu_buf_append(out, &bytes, 4);
  pu_buf_append(out, units, sizeof units);
  pu_buf_append(out, strings.data, strings.len);
  pu_buf_deinit(&strings);
}

static void test_charsmap(void **state) {
  (void)state;
  /* Sorted. The longest rule wins; a replacement may be empty, or hold a space. */
  static const rule rules[] = {
      {"A", "a"}, {"AB", "b"}, {"\xC2\xA0", " "}, {"\xE2\x80\x8B", ""}, {"\xEF\xBC\xA1", "a b"}};
  pu_buf map, b;
  pu_buf_init(&map, 1 << 20);
  build_charsmap(rules, PU_COUNT(rules), &map);
  add_words(&b);
  spm_piece(&b, pu_str_c("[A]"), 0, USER);
  pu_tokenizer *t = make(&b, (spm_settings){.byte_fallback = true,
                                            .dummy_prefix = true,
                                            .remove_extra = true,
                                            .charsmap = pu_str_of(map.data, map.len)});
  assert_string_equal(cut(t, pu_str_c("A"), 0), WS "a");
  assert_string_equal(cut(t, pu_str_c("AAB"), 0), WS "ab");
  assert_string_equal(cut(t,
                          pu_str_c("\xC2\xA0"
                                   "A\xC2\xA0 b\xE2\x80\x8B\xC2\xA0"),
                          0),
                      WS "a|" WS "|b");
  assert_string_equal(cut(t, pu_str_c("\xEF\xBC\xA1\xEF\xBC\xA1"), 0), WS "a|" WS "|b|a|" WS "|b");
  assert_string_equal(cut(t, pu_str_c("b[A]A"), 0), WS "|b|[A]|a"); /* a user-defined piece stays as written */
  pu_tokenizer_free(t);
  pu_buf_deinit(&map);
}

/* A text that is one word for the merger: quadratic work would take hours. */
static void test_long_runs(void **state) {
  (void)state;
  enum { N = 1 << 20 };
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  spm_begin(&b, true);
  char run[64];
  memset(run, 'a', sizeof run);
  for (size_t len = 1; len <= 64; len *= 2) spm_piece(&b, pu_str_of(run, len), -(float)len, NORMAL);
  pu_tokenizer *t = make(&b, (spm_settings){.byte_fallback = true});
  char *text = malloc(N);
  memset(text, 'a', N);
  pu_ids ids = {0};
  must(pu_encode(t, pu_str_of(text, N - 1), 0, &ids, &err));
  assert_int_equal(ids.n, N / 64 - 1 + 6); /* the last 63 are 32 + 16 + 8 + 4 + 2 + 1 */
  assert_int_equal(ids.v[0], 259 + 6);
  assert_int_equal(ids.v[ids.n - 1], 259);
  pu_ids_deinit(&ids);
  free(text);
  pu_tokenizer_free(t);
}

static void test_broken_models(void **state) {
  (void)state;
  pu_buf b;
  add_words(&b);
  spm_end(&b, (spm_settings){.byte_fallback = true});
  pu_tokenizer *t = NULL;
  int refused = 0;
  for (size_t len = 0; len < b.len; len++) { /* cut short anywhere: an error or a smaller model, never a crash */
    if (pu_tokenizer_parse_spm(pu_str_of(b.data, len), &t, &err) != PU_OK) {
      refused++;
    } else {
      pu_tokenizer_free(t);
    }
  }
  assert_true(refused > (int)b.len / 2);
  spm_piece(&b, pu_str_c("ab"), -1, NORMAL);
  assert_int_equal(pu_tokenizer_parse_spm(pu_str_of(b.data, b.len), &t, &err), PU_ERR_FORMAT);
  assert_non_null(strstr(err.msg, "earlier"));
  pu_buf_clear(&b);
  spm_piece(&b, pu_str_c("a"), -1, NORMAL);
  spm_end(&b, (spm_settings){0});
  assert_int_equal(pu_tokenizer_parse_spm(pu_str_of(b.data, b.len), &t, &err), PU_ERR_FORMAT);
  pu_buf_clear(&b);
  spm_begin(&b, false);
  spm_end(&b, (spm_settings){.byte_fallback = true});
  assert_int_equal(pu_tokenizer_parse_spm(pu_str_of(b.data, b.len), &t, &err), PU_ERR_FORMAT);
  assert_non_null(strstr(err.msg, "0x00"));
  pu_buf_deinit(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_random_models),     cmocka_unit_test(test_spaces),
      cmocka_unit_test(test_unknown_and_bytes), cmocka_unit_test(test_control_and_user),
      cmocka_unit_test(test_charsmap),          cmocka_unit_test(test_long_runs),
      cmocka_unit_test(test_broken_models),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
