/* Text as it becomes certain: stop strings however the text falls into tokens, characters however their bytes do. */
#include "src/engine/internal.h"
#include "tests/test.h"

#include <stdlib.h>

/* ---- a tokenizer whose pieces are all substrings of a text (letters only) ---- */

static pu_tokenizer *substrings(const char *text) {
  pu_buf json;
  pu_tokenizer *t;
  pu_error e;
  size_t n = strlen(text);
  int id = 0;
  pu_buf_init(&json, 1 << 24);
  pu_buf_puts(&json, "{\"model\": {\"type\": \"BPE\", \"merges\": [], \"vocab\": {");
  for (size_t len = 1; len <= n; len++)
    for (size_t at = 0; at + len <= n; at++) {
      const char *before = memmem(text, n, text + at, len);
      if (before != text + at) continue; /* had it */
      pu_buf_printf(&json, "%s\"%.*s\": %d", id ? ", " : "", (int)len, text + at, id);
      id++;
    }
  pu_buf_puts(&json, "}}, \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, "
                     "\"decoder\": {\"type\": \"ByteLevel\"}}");
  assert_ok(pu_tokenizer_parse_json(pu_str_of(json.data, json.len), &t, &e), &e);
  pu_buf_deinit(&json);
  return t;
}

/* What came out, and whether it came in whole characters. */
typedef struct heard {
  char text[4096];
  size_t n;
  bool whole;
} heard;

static bool hear(void *arg, pu_str text) {
  heard *h = arg;
  assert_true(h->n + text.len < sizeof h->text && text.len > 0);
  memcpy(h->text + h->n, text.ptr, text.len);
  h->n += text.len;
  h->text[h->n] = 0;
  h->whole &= pu_utf8_valid(text);
  return true;
}

static heard stream_ids(const pu_tokenizer *t, const int32_t *ids, size_t n, const pu_sampling *how, char *text) {
  pu_stream s;
  pu_error e;
  heard h = {.whole = true};
  pu_stream_init(&s, t, true);
  for (size_t i = 0; i < n && !s.stopped; i++) {
    assert_ok(pu_stream_push(&s, ids[i], how, &e), &e);
    if (!s.stopped) assert_true(pu_stream_tell(&s, how, false, hear, &h));
  }
  assert_ok(pu_stream_finish(&s, how, &e), &e);
  assert_true(pu_stream_tell(&s, how, true, hear, &h));
  snprintf(text, 4096, "%s", s.text.data ? s.text.data : "");
  pu_stream_deinit(&s);
  return h;
}

/* The stop string that is complete first ends the text; of those that end together the longest. */
static void plain_stop(const char *text, const pu_sampling *how, char *out) {
  for (size_t end = 1; end <= strlen(text); end++) {
    size_t longest = 0;
    for (size_t i = 0; i < how->n_stop; i++) {
      size_t len = strlen(how->stop[i]);
      if (len <= end && memcmp(text + end - len, how->stop[i], len) == 0) longest = PU_MAX(longest, len);
    }
    if (!longest) continue;
    sprintf(out, "%.*s", (int)(end - longest), text);
    return;
  }
  strcpy(out, text);
}

static void check_splits(const pu_tokenizer *t, const char *text, const pu_sampling *how) {
  char want[64], got[4096];
  size_t n = strlen(text);
  plain_stop(text, how, want);
  for (size_t i = 1; i <= n; i++)
    for (size_t j = i; j <= n; j++)
      for (size_t k = j; k <= n; k++) {
        const size_t cuts[] = {0, i, j, k, n};
        int32_t ids[4];
        size_t pieces = 0;
        for (int c = 0; c < 4; c++) {
          if (cuts[c] == cuts[c + 1]) continue;
          ids[pieces++] = pu_tokenizer_find(t, pu_str_of(text + cuts[c], cuts[c + 1] - cuts[c]));
          assert_true(ids[pieces - 1] >= 0);
        }
        heard h = stream_ids(t, ids, pieces, how, got);
        assert_string_equal(got, want);
        assert_string_equal(h.text, want); /* no more was ever told */
      }
}

static void stop_strings_at_every_split(void **state) {
  (void)state;
  const char *text = "xaabaabcabdyyabcdz";
  static const char *const sets[][4] = {{"abc"},        {"aabc"},       {"z"},       {"x"},
                                        {"nothere"},    {"abcd", "bc"}, {"zz"},      {"abd", "b"},
                                        {"yab", "yya"}, {"aab", "b"},   {"d", "bd"}, {"", "cab"}};
  pu_tokenizer *t = substrings(text);
  for (size_t i = 0; i < PU_COUNT(sets); i++) {
    pu_sampling how = pu_sampling_default();
    how.stop = sets[i];
    while (how.n_stop < 4 && sets[i][how.n_stop]) how.n_stop++;
    check_splits(t, text, &how);
  }
  pu_tokenizer_free(t);
}

/* What cannot be part of a stop string is told at once; what can is held back. */
static void holds_back_no_more_than_it_must(void **state) {
  (void)state;
  pu_tokenizer *t = substrings("heyabcab");
  pu_error e;
  const char *stop[] = {"abcd"};
  pu_sampling how = pu_sampling_default();
  how.stop = stop;
  how.n_stop = 1;
  const struct {
    const char *piece, *told;
  } steps[] = {{"hey", "hey"}, {"ab", "hey"}, {"c", "hey"}, {"ab", "heyabc"}, {"hey", "heyabcabhey"}};
  pu_stream s;
  heard h = {.whole = true};
  pu_stream_init(&s, t, true);
  for (size_t i = 0; i < PU_COUNT(steps); i++) {
    assert_ok(pu_stream_push(&s, pu_tokenizer_find(t, pu_str_c(steps[i].piece)), &how, &e), &e);
    assert_true(pu_stream_tell(&s, &how, false, hear, &h));
    assert_string_equal(h.text, steps[i].told);
  }
  pu_stream_deinit(&s);
  pu_tokenizer_free(t);
}

/* ---- bytes ---- */

static pu_tokenizer *bytes_only(void) {
  pu_bpe_options o = {.vocab_size = 300, .min_count = 1 << 30};
  pu_bpe_trainer *trainer;
  pu_tokenizer *t;
  pu_buf json;
  pu_error e;
  pu_buf_init(&json, 1 << 24);
  assert_ok(pu_bpe_trainer_create(&o, &trainer, &e), &e);
  assert_ok(pu_bpe_trainer_add(trainer, pu_str_c("a b"), &e), &e);
  assert_ok(pu_bpe_trainer_finish(trainer, &json, &e), &e);
  assert_ok(pu_tokenizer_parse_json(pu_str_of(json.data, json.len), &t, &e), &e);
  pu_bpe_trainer_free(trainer);
  pu_buf_deinit(&json);
  return t;
}

static void whole_characters_only(void **state) {
  (void)state;
  static const struct {
    const char *text, *want;
  } cases[] = {{"naïve 你好, 🙂!", "naïve 你好, 🙂!"},
               {"ab\xe4\xbd", "ab\xef\xbf\xbd\xef\xbf\xbd"},  /* breaks off inside a character */
               {"\xff\xe4 x", "\xef\xbf\xbd\xef\xbf\xbd x"}}; /* no characters at all */
  pu_tokenizer *t = bytes_only();
  pu_sampling how = pu_sampling_default();
  pu_error e;
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    pu_ids ids = {0};
    char text[4096];
    assert_ok(pu_encode(t, pu_str_c(cases[i].text), 0, &ids, &e), &e);
    assert_int_equal(ids.n, strlen(cases[i].text)); /* a token a byte */
    heard h = stream_ids(t, ids.v, ids.n, &how, text);
    assert_string_equal(text, cases[i].want);
    assert_string_equal(h.text, cases[i].want);
    assert_true(h.whole);
    pu_ids_deinit(&ids);
  }
  pu_tokenizer_free(t);
}

static void a_stop_string_of_wide_characters(void **state) {
  (void)state;
  pu_tokenizer *t = bytes_only();
  const char *stop[] = {"。"};
  pu_sampling how = pu_sampling_default();
  how.stop = stop;
  how.n_stop = 1;
  pu_error e;
  pu_ids ids = {0};
  char text[4096];
  assert_ok(pu_encode(t, pu_str_c("他来了、他走了。再见"), 0, &ids, &e), &e);
  heard h = stream_ids(t, ids.v, ids.n, &how, text);
  assert_string_equal(text, "他来了、他走了"); /* 、 and 。 begin with the same two bytes */
  assert_string_equal(h.text, text);
  assert_true(h.whole);
  pu_ids_deinit(&ids);
  pu_tokenizer_free(t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(stop_strings_at_every_split), cmocka_unit_test(holds_back_no_more_than_it_must),
      cmocka_unit_test(whole_characters_only), cmocka_unit_test(a_stop_string_of_wide_characters)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
