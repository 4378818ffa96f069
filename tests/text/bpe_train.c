/* The BPE trainer against the plainest trainer there is: it counts every pair anew for each merge, and cuts words with
 * the very pattern that the trained file names. */
#include "tests/test.h"

#include <stdlib.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "puyu/text.h"

enum { MAX_WORDS = 4096, MAX_LEN = 512, MAX_PIECES = 2048 };

typedef struct word {
  int len, symbols[MAX_LEN];
} word;

typedef struct naive {
  word *words; /* every occurrence by itself */
  int n;
  pu_str pieces[MAX_PIECES];
  int n_pieces;
  int rules[MAX_PIECES][2];
  int n_rules;
} naive;

/* ---- the plain trainer ------------------------------------------------------------------------------------------- */

static void naive_split(naive *t, const char *pattern, pu_str text) {
  int number;
  PCRE2_SIZE where;
  pcre2_code *code =
      pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &number, &where, NULL);
  assert_non_null(code);
  pcre2_match_data *match = pcre2_match_data_create_from_pattern(code, NULL);
  for (size_t at = 0; at < text.len;) {
    int found = pcre2_match(code, (PCRE2_SPTR)text.ptr, text.len, at, 0, match, NULL);
    assert_true(found > 0);
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(match);
    assert_int_equal(span[0], at); /* the pattern leaves no gaps */
    assert_true(span[1] > at && span[1] - at <= MAX_LEN && t->n < MAX_WORDS);
    word *w = &t->words[t->n++];
    w->len = (int)(span[1] - span[0]);
    for (int i = 0; i < w->len; i++) w->symbols[i] = (unsigned char)text.ptr[span[0] + (size_t)i];
    at = span[1];
  }
  pcre2_match_data_free(match);
  pcre2_code_free(code);
}

static int naive_count(const naive *t, int a, int b) {
  int n = 0;
  for (int w = 0; w < t->n; w++)
    for (int i = 0; i + 1 < t->words[w].len; i++) n += t->words[w].symbols[i] == a && t->words[w].symbols[i + 1] == b;
  return n;
}

/* The commonest pair; ties to the lower ids. Counts are kept in a square so that this stays affordable. */
static int naive_best(const naive *t, int *square, int *a, int *b) {
  int n = t->n_pieces, most = 0;
  memset(square, 0, (size_t)n * (size_t)n * sizeof *square);
  for (int w = 0; w < t->n; w++)
    for (int i = 0; i + 1 < t->words[w].len; i++) square[t->words[w].symbols[i] * n + t->words[w].symbols[i + 1]]++;
  for (int i = 0; i < n * n; i++)
    if (square[i] > most) {
      most = square[i];
      *a = i / n;
      *b = i % n;
    }
  return most;
}

static void naive_merge(naive *t, int a, int b, int id) {
  for (int w = 0; w < t->n; w++) {
    word *x = &t->words[w];
    int to = 0;
    for (int i = 0; i < x->len; i++) {
      bool here = i + 1 < x->len && x->symbols[i] == a && x->symbols[i + 1] == b;
      x->symbols[to++] = here ? id : x->symbols[i];
      i += here;
    }
    x->len = to;
  }
}

static int naive_piece(naive *t, int a, int b) {
  pu_str x = t->pieces[a], y = t->pieces[b];
  char *joined = malloc(x.len + y.len);
  memcpy(joined, x.ptr, x.len);
  memcpy(joined + x.len, y.ptr, y.len);
  for (int i = 0; i < t->n_pieces; i++)
    if (pu_str_eq(t->pieces[i], pu_str_of(joined, x.len + y.len))) {
      free(joined);
      return i;
    }
  t->pieces[t->n_pieces] = pu_str_of(joined, x.len + y.len);
  return t->n_pieces++;
}

static void naive_train(naive *t, int vocab, int min_count) {
  int *square = malloc(sizeof *square * MAX_PIECES * MAX_PIECES);
  while (t->n_pieces < vocab) {
    int a = 0, b = 0, most = naive_best(t, square, &a, &b);
    if (most < min_count || most == 0) break;
    assert_int_equal(most, naive_count(t, a, b));
    bool known = false;
    for (int i = 0; i < t->n_rules; i++) known |= t->rules[i][0] == a && t->rules[i][1] == b;
    if (!known) {
      t->rules[t->n_rules][0] = a;
      t->rules[t->n_rules++][1] = b;
    }
    naive_merge(t, a, b, naive_piece(t, a, b));
  }
  free(square);
}

/* ---- comparing --------------------------------------------------------------------------------------------------- */

static json_t *trained(const pu_bpe_options *o, pu_str text, pu_buf *file) {
  pu_error e;
  pu_bpe_trainer *t;
  pu_buf_init(file, PU_BUF_MAX);
  assert_ok(pu_bpe_trainer_create(o, &t, &e), &e);
  assert_ok(pu_bpe_trainer_add(t, text, &e), &e);
  assert_ok(pu_bpe_trainer_finish(t, file, &e), &e);
  pu_bpe_trainer_free(t);
  json_t *json;
  assert_ok(pu_json_parse("trained", pu_str_of(file->data, file->len), &json, &e), &e);
  return json;
}

static const char *pattern_of(const json_t *json) {
  const json_t *split = json_array_get(json_object_get(json_object_get(json, "pre_tokenizer"), "pretokenizers"), 0);
  return json_string_value(json_object_get(json_object_get(split, "pattern"), "Regex"));
}

/* A piece's bytes from the alphabet of GPT-2, built here in its own way: the bytes without a shape of their own, in
 * order, are U+0100 and on. */
static size_t plain_bytes(const char *shown, char *out) {
  int byte_of[512], next = 256;
  memset(byte_of, -1, sizeof byte_of);
  for (int b = 0; b < 256; b++) {
    bool shape = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
    byte_of[shape ? b : next++] = b;
  }
  size_t n = 0;
  for (const unsigned char *p = (const unsigned char *)shown; *p;) {
    int cp = *p < 128 ? *p : (*p & 31) << 6 | (p[1] & 63);
    p += *p < 128 ? 1 : 2;
    assert_true(cp < 512 && byte_of[cp] >= 0);
    out[n++] = (char)byte_of[cp];
  }
  return n;
}

static void compare(const json_t *json, const naive *t, int n_special) {
  const json_t *model = json_object_get(json, "model"), *merges = json_object_get(model, "merges");
  assert_int_equal(json_object_size(json_object_get(model, "vocab")), t->n_pieces + n_special);
  const char *shown;
  json_t *id;
  int ordinary = 0;
  json_object_foreach(json_object_get(model, "vocab"), shown, id) {
    int i = (int)json_integer_value(id) - n_special;
    if (i < 0) continue;
    char bytes[1024];
    pu_str piece = pu_str_of(bytes, plain_bytes(shown, bytes));
    assert_true(pu_str_eq(piece, t->pieces[i]));
    ordinary++;
  }
  assert_int_equal(ordinary, t->n_pieces);
  assert_int_equal(json_array_size(merges), t->n_rules);
  for (int i = 0; i < t->n_rules; i++)
    for (size_t side = 0; side < 2; side++) {
      char bytes[1024];
      const char *text = json_string_value(json_array_get(json_array_get(merges, (size_t)i), side));
      assert_true(pu_str_eq(pu_str_of(bytes, plain_bytes(text, bytes)), t->pieces[t->rules[i][side]]));
    }
}

static void check_text(pu_str text, int vocab, int min_count) {
  pu_buf file;
  const pu_bpe_options o = {.vocab_size = vocab + 8, .min_count = min_count};
  json_t *json = trained(&o, text, &file);
  naive t = {.words = malloc(sizeof(word) * MAX_WORDS), .n_pieces = 256};
  static char bytes[256];
  for (int i = 0; i < 256; i++) {
    bytes[i] = (char)i;
    t.pieces[i] = pu_str_of(&bytes[i], 1);
  }
  naive_split(&t, pattern_of(json), text);
  naive_train(&t, vocab, min_count);
  compare(json, &t, 8);
  for (int i = 256; i < t.n_pieces; i++) free((void *)(uintptr_t)t.pieces[i].ptr);
  free(t.words);
  json_decref(json);
  pu_buf_deinit(&file);
}

/* Words over few letters, so that pairs overlap, tie, and meet again. */
static void test_against_naive(void **state) {
  (void)state;
  pu_rng r;
  for (uint64_t seed = 0; seed < 24; seed++) {
    pu_rng_seed(&r, seed);
    pu_buf text;
    pu_buf_init(&text, 1 << 20);
    size_t letters = 1 + pu_rng_below(&r, 5), size = 200 + pu_rng_below(&r, 1500);
    while (text.len < size) {
      size_t n = 1 + pu_rng_below(&r, 12);
      for (size_t i = 0; i < n; i++) pu_buf_putc(&text, (char)('a' + pu_rng_below(&r, letters)));
      pu_buf_putc(&text, pu_rng_below(&r, 5) ? ' ' : '\n');
    }
    check_text(pu_str_of(text.data, text.len), 256 + (int)pu_rng_below(&r, 200), 1 + (int)pu_rng_below(&r, 3));
    pu_buf_deinit(&text);
  }
}

/* Characters of every kind the pattern tells apart, next to one another in all ways. */
static void test_pattern(void **state) {
  (void)state;
  static const char *const parts[] = {
      "a",   "B",      "é",    "中", "文",     "ß",      "１",      "7",        "42", "Ⅻ",  "½",  " ",  "  ",
      "\t",  "\n",     "\r\n", "\r", "\u00a0", "\u3000", "\u2028",  "\xC2\x85", "\v", "'",  "'s", "'S", "'ll",
      "'LL", "'Re",    "'ve",  "'m", "'D",     "'t",     "'\u017f", "'x",       "，", "。", "!",  "-",  "_",
      "😀",   "\u0301", "٣",    "ज",  "ि",      "\u200d", "$",       "+",        "ǅ",  "ʰ"};
  pu_rng r;
  for (uint64_t seed = 0; seed < 60; seed++) {
    pu_rng_seed(&r, 1000 + seed);
    pu_buf text;
    pu_buf_init(&text, 1 << 20);
    for (int i = 0; i < 400; i++) pu_buf_puts(&text, parts[pu_rng_below(&r, PU_COUNT(parts))]);
    check_text(pu_str_of(text.data, text.len), 300, 1);
    pu_buf_deinit(&text);
  }
}

static void test_limits(void **state) {
  (void)state;
  pu_error e;
  pu_bpe_trainer *t;
  pu_buf file;
  pu_buf_init(&file, 1 << 24);
  const pu_bpe_options small = {.vocab_size = 263};
  assert_int_equal(pu_bpe_trainer_create(&small, &t, &e), PU_ERR_USAGE);
  const pu_bpe_options fits = {.vocab_size = 264};
  assert_ok(pu_bpe_trainer_create(&fits, &t, &e), &e);
  assert_int_equal(pu_bpe_trainer_finish(t, &file, &e), PU_ERR_USAGE); /* no text */
  pu_bpe_trainer_free(t);
  /* A text with less to learn than was asked for ends early; any bytes are text; long words are fine. */
  const pu_bpe_options large = {.vocab_size = 5000};
  assert_ok(pu_bpe_trainer_create(&large, &t, &e), &e);
  char *long_word = malloc(100000);
  memset(long_word, 'a', 100000);
  assert_ok(pu_bpe_trainer_add(t, pu_str_of(long_word, 100000), &e), &e);
  assert_ok(pu_bpe_trainer_add(t, pu_str_of("\xff\xfe\xc0 \x80\x80 \0\0", 9), &e), &e);
  assert_ok(pu_bpe_trainer_finish(t, &file, &e), &e);
  assert_in_range(pu_bpe_trainer_size(t), 264 + 8, 300);
  free(long_word);
  pu_bpe_trainer_free(t);
  pu_buf_deinit(&file);
}

static size_t longest_han(const json_t *json) {
  size_t most = 0;
  const char *shown;
  json_t *id;
  json_object_foreach(json_object_get(json_object_get(json, "model"), "vocab"), shown, id) {
    if (json_integer_value(id) < 8) continue;
    char bytes[1024];
    size_t n = plain_bytes(shown, bytes), run = 0;
    for (size_t i = 0; i + 2 < n; i++) run += (unsigned char)bytes[i] >= 0xE4 && (unsigned char)bytes[i] <= 0xE9;
    most = PU_MAX(most, run);
  }
  return most;
}

static void test_split_cjk(void **state) {
  (void)state;
  static const char text[] = "春眠不觉晓处处闻啼鸟 春眠不觉晓处处闻啼鸟 春眠不觉晓 处处闻啼鸟";
  pu_buf file;
  pu_bpe_options o = {.vocab_size = 2000};
  json_t *json = trained(&o, pu_str_c(text), &file);
  assert_true(longest_han(json) > 4);
  json_decref(json);
  pu_buf_deinit(&file);
  o.split_cjk = true;
  json = trained(&o, pu_str_c(text), &file);
  assert_in_range(longest_han(json), 2, 4);
  json_decref(json);
  pu_buf_deinit(&file);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_against_naive),
      cmocka_unit_test(test_pattern),
      cmocka_unit_test(test_limits),
      cmocka_unit_test(test_split_cjk),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
