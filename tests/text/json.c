/* tokenizer.json: composed in the test, so that every piece is known. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
// cmocka wants the four above
#include <cmocka.h>

#include "puyu/text.h"

static pu_error err;

static void must(pu_err code) {
  if (code != PU_OK) fail_msg("%s", err.msg);
}

/* The character GPT-2's alphabet writes for a byte. */
static void put_byte_char(pu_buf *b, int byte) {
  static int next[256], made;
  for (int i = 0, k = 256; !made && i < 256; i++) {
    next[i] = (i >= 33 && i <= 126) || (i >= 161 && i != 173) ? i : k++;
  }
  made = 1;
  if (byte == '"' || byte == '\\') pu_buf_putc(b, '\\');
  pu_utf8_put(b, (uint32_t)next[byte]);
}

/* A model whose first 256 ids are the bytes; then `extra`, NULL-ended, of which "a b" is also a rule of merging. */
static void put_model(pu_buf *b, const char *const *extra, const char *more) {
  pu_buf_puts(b, "\"model\": {\"type\": \"BPE\", \"vocab\": {");
  for (int i = 0; i < 256; i++) {
    pu_buf_puts(b, i ? ", \"" : "\"");
    put_byte_char(b, i);
    pu_buf_printf(b, "\": %d", i);
  }
  for (int i = 0; extra[i]; i++) {
    const char *space = strchr(extra[i], ' ');
    int left = space ? (int)(space - extra[i]) : (int)strlen(extra[i]);
    pu_buf_printf(b, ", \"%.*s%s\": %d", left, extra[i], space ? space + 1 : "", 256 + i);
  }
  pu_buf_puts(b, "}, \"merges\": [");
  bool first = true;
  for (int i = 0; extra[i]; i++) {
    const char *space = strchr(extra[i], ' ');
    if (!space) continue;
    /* Both spellings of a rule. */
    if (i % 2) {
      pu_buf_printf(b, "%s\"%s\"", first ? "" : ", ", extra[i]);
    } else {
      pu_buf_printf(b, "%s[\"%.*s\", \"%s\"]", first ? "" : ", ", (int)(space - extra[i]), extra[i], space + 1);
    }
    first = false;
  }
  pu_buf_printf(b, "]%s}", more);
}

#define BYTE_LEVEL "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, "

static const char *const words[] = {"\xC4\xA0 a",        "a b", "b c", "ab c", "\xC4\xA0 \xC4\xA0", "whole",
                                    "\xC3\x83 \xC2\xA9", NULL};

static pu_tokenizer *make(const char *before, const char *more) {
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  pu_buf_printf(&b, "{%s", before);
  put_model(&b, words, more);
  pu_buf_puts(&b, "}");
  pu_tokenizer *t = NULL;
  must(pu_tokenizer_parse_json(pu_str_of(b.data, b.len), &t, &err));
  pu_buf_deinit(&b);
  return t;
}

static const char *cut_bytes(const pu_tokenizer *t, pu_str text, unsigned flags) {
  static char out[1024];
  pu_ids ids = {0}, again = {0};
  must(pu_encode(t, text, flags, &ids, &err));
  pu_encoder *enc = NULL;
  must(pu_encoder_create(t, &enc, &err));
  for (int i = 0; i < 2; i++) { /* filling the cache, using it */
    again.n = 0;
    must(pu_encoder_encode(enc, text, flags, &again, &err));
    assert_int_equal(again.n, ids.n);
    if (ids.n > 0) assert_memory_equal(again.v, ids.v, ids.n * sizeof *ids.v);
  }
  pu_encoder_free(enc);
  *out = 0;
  for (size_t i = 0; i < ids.n; i++) {
    pu_str p = pu_tokenizer_piece(t, ids.v[i]);
    sprintf(out + strlen(out), "%s%.*s", i ? "|" : "", (int)p.len, p.ptr);
  }
  pu_ids_deinit(&ids);
  pu_ids_deinit(&again);
  return out;
}

static const char *cut(const pu_tokenizer *t, const char *text, unsigned flags) {
  return cut_bytes(t, pu_str_c(text), flags);
}

static void round_trip(const pu_tokenizer *t, pu_str s) {
  pu_ids ids = {0};
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  must(pu_encode(t, s, 0, &ids, &err));
  must(pu_decode(t, ids.v, ids.n, 0, &b, &err));
  assert_int_equal(b.len, s.len);
  if (s.len > 0) assert_memory_equal(b.data, s.ptr, s.len);
  pu_ids_deinit(&ids);
  pu_buf_deinit(&b);
}

static void test_merges(void **state) {
  (void)state;
  pu_tokenizer *t = make(BYTE_LEVEL, "");
  assert_int_equal(pu_tokenizer_size(t), 263);
  /* "a b" comes before "b c" and before "ab c": rank, then place. */
  assert_string_equal(cut(t, "abc", 0), "abc");
  assert_string_equal(cut(t, "bcab", 0), "bc|ab");
  assert_string_equal(cut(t, " a   a", 0), "\xC4\xA0"
                                           "a|\xC4\xA0\xC4\xA0|\xC4\xA0"
                                           "a");
  assert_string_equal(cut(t, "whole", 0), "w|h|o|l|e");
  assert_string_equal(cut(t, "\xC3\xA9", 0), "\xC3\x83\xC2\xA9");
  assert_string_equal(cut_bytes(t, pu_str_of("\xFF\0", 2), 0), "\xC3\xBF|\xC4\x80");
  pu_rng r;
  pu_rng_seed(&r, 3);
  for (int i = 0; i < 500; i++) { /* any bytes come back as they were */
    char s[80];
    size_t n = pu_rng_below(&r, sizeof s);
    for (size_t k = 0; k < n; k++) s[k] = pu_rng_below(&r, 3) ? "ab c\n"[pu_rng_below(&r, 5)] : (char)pu_rng_next(&r);
    round_trip(t, pu_str_of(s, n));
  }
  pu_tokenizer_free(t);
  t = make(BYTE_LEVEL, ", \"ignore_merges\": true");
  assert_string_equal(cut(t, "whole wholes", 0), "whole|\xC4\xA0|w|h|o|l|e|s");
  pu_tokenizer_free(t);
}

static void test_prefix_space(void **state) {
  (void)state;
  pu_tokenizer *t = make("\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true}, ", "");
  assert_string_equal(cut(t, "a", 0), "\xC4\xA0"
                                      "a");
  assert_string_equal(cut(t, " a", 0), "\xC4\xA0"
                                       "a");
  assert_string_equal(cut(t, "a", PU_ENCODE_NO_PREFIX), "a");
  pu_tokenizer_free(t);
}

/* e + U+0301 composes; the ligature fi stays under NFC and goes under NFKC. */
static void test_normal_forms(void **state) {
  (void)state;
  pu_tokenizer *t = make("\"normalizer\": {\"type\": \"NFC\"}, " BYTE_LEVEL, "");
  assert_string_equal(cut(t, "e\xCC\x81", 0), "\xC3\x83\xC2\xA9");
  assert_string_equal(cut(t, "\xE4\xB8\xAD", 0), "\xC3\xA4|\xC2\xB8|\xC5\x83");
  assert_string_equal(cut(t,
                          "\xFF"
                          "e\xCC\x81",
                          0),
                      "\xC3\xBF|\xC3\x83\xC2\xA9");
  assert_string_equal(cut(t, "\xEF\xAC\x81", 0), "\xC3\xAF|\xC2\xAC|\xC4\xA3");
  pu_tokenizer_free(t);
  t = make("\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFKC\"}]}, " BYTE_LEVEL, "");
  assert_string_equal(cut(t, "\xEF\xAC\x81", 0), "f|i");
  pu_tokenizer_free(t);
}

#define TOKEN(id, content, special, more)                                                                              \
  "{\"id\": " #id ", \"content\": \"" content "\", \"special\": " #special ", \"normalized\": false" more "}"

static void test_added_tokens(void **state) {
  (void)state;
  pu_tokenizer *t = make(
      "\"added_tokens\": [" TOKEN(263, "<|end|>", true, "") ", " TOKEN(264, "<tool>", false, "") ", " TOKEN(265, "<l>", false, ", \"lstrip\": true") ", " TOKEN(
          266, "<r>", false,
          ", \"rstrip\": true") ", " TOKEN(267, "cat", false,
                                           ", \"single_word\": true") ", " TOKEN(268, "<tool>x", false,
                                                                                 "") ", " TOKEN(269, "</s>", true,
                                                                                                "") "], " BYTE_LEVEL,
      "");
  /* Specials never come from text, unless asked for; other added tokens always do. */
  assert_string_equal(cut(t, "a<|end|>", 0), "a|<|||e|n|d|||>");
  assert_string_equal(cut(t, "a<|end|>", PU_ENCODE_SPECIAL), "a|<|end|>");
  assert_string_equal(cut(t, "a<tool>b", 0), "a|<tool>|b");
  assert_string_equal(cut(t, "<tool>x<tool>", 0), "<tool>x|<tool>");
  assert_string_equal(cut(t, "a \n<l> b", 0), "a|<l>|\xC4\xA0|b");
  assert_string_equal(cut(t, "a <r> \tb", 0), "a|\xC4\xA0|<r>|b");
  assert_string_equal(cut(t, "cat cats-cat", 0), "cat|\xC4\xA0|c|a|t|s|-|cat");
  assert_true(pu_tokenizer_is_special(t, 263));
  assert_false(pu_tokenizer_is_special(t, 264));
  assert_int_equal(pu_tokenizer_eos(t), 269);
  assert_int_equal(pu_tokenizer_bos(t), -1);
  pu_buf b;
  pu_buf_init(&b, 100);
  must(pu_decode(t, (int32_t[]){'a' - 33, 263, 264}, 3, PU_DECODE_SKIP_SPECIAL, &b, &err));
  assert_non_null(strstr(b.data, "<tool>"));
  assert_null(strstr(b.data, "<|end|>"));
  pu_buf_clear(&b);
  must(pu_decode(t, (int32_t[]){263}, 1, 0, &b, &err));
  assert_string_equal(b.data, "<|end|>");
  pu_buf_deinit(&b);
  pu_tokenizer_free(t);
}

static void test_bos_template(void **state) {
  (void)state;
  pu_tokenizer *t = make(
      "\"added_tokens\": [" TOKEN(
          263, "<begin>", true,
          "") "], " BYTE_LEVEL
              "\"post_processor\": {\"type\": \"Sequence\", \"processors\": [{\"type\": \"ByteLevel\"}, {\"type\": "
              "\"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<begin>\", \"type_id\": 0}}, "
              "{\"Sequence\": "
              "{\"id\": \"A\", \"type_id\": 0}}]}]}, ",
      "");
  assert_int_equal(pu_tokenizer_bos(t), 263);
  assert_true(pu_tokenizer_adds_bos(t));
  assert_string_equal(cut(t, "a", PU_ENCODE_BOS), "<begin>|a");
  assert_string_equal(cut(t, "a", 0), "a");
  pu_tokenizer_free(t);
}

/* Any split: a pattern PCRE2 must read, then digits one by one. */
static void test_other_pretokenizers(void **state) {
  (void)state;
  pu_tokenizer *t =
      make("\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": "
           "{\"Regex\": \"b|c+\"}, \"behavior\": \"Isolated\"}, {\"type\": \"Digits\", \"individual_digits\": "
           "true}, {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": false}]}, ",
           "");
  assert_string_equal(cut(t, "abc", 0), "a|b|c"); /* the cuts keep the pieces apart */
  assert_string_equal(cut(t, " a", 0), "\xC4\xA0"
                                       "a");
  pu_tokenizer_free(t);
  t = make(
      "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"String\": "
      "\"b.\"}, \"behavior\": \"MergedWithNext\"}, {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
      "\"use_regex\": false}]}, ",
      "");
  assert_string_equal(cut(t, "abcab.c", 0), "abc|a|b|.|c");
  pu_tokenizer_free(t);
}

/* A tokenizer.json made from a SentencePiece model: rules as a list, bytes for what has no piece. */
static void test_spm_like(void **state) {
  (void)state;
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  pu_buf_puts(&b,
              "{\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", \"prepend\": "
              "\"\xE2\x96\x81\"}, {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": "
              "\"\xE2\x96\x81\"}]}, \"added_tokens\": [" TOKEN(0, "<unk>", true, "") ", " TOKEN(
                  1, "<s>", true,
                  "") "], \"model\": {\"type\": \"BPE\", \"byte_fallback\": true, \"unk_token\": \"<unk>\", \"vocab\": "
                      "{\"<unk>\": 0, \"<s>\": 1");
  for (int i = 0; i < 256; i++) pu_buf_printf(&b, ", \"<0x%02X>\": %d", i, 2 + i);
  pu_buf_puts(&b, ", \"\xE2\x96\x81\": 258, \"a\": 259, \"b\": 260, \"\xE2\x96\x81"
                  "a\": 261, \"ab\": 262}, \"merges\": "
                  "[\"\xE2\x96\x81 a\", \"a b\"]}}");
  pu_tokenizer *t = NULL;
  must(pu_tokenizer_parse_json(pu_str_of(b.data, b.len), &t, &err));
  pu_buf_deinit(&b);
  assert_string_equal(cut(t, "ab ab", 0), "\xE2\x96\x81"
                                          "a|b|\xE2\x96\x81"
                                          "a|b");
  assert_string_equal(cut(t, "ab", PU_ENCODE_NO_PREFIX), "ab");
  assert_string_equal(cut(t, "a\xC3\xA9", 0), "\xE2\x96\x81"
                                              "a|<0xC3>|<0xA9>");
  assert_int_equal(pu_tokenizer_bos(t), 1);
  pu_buf_init(&b, 100);
  must(pu_decode(t, (int32_t[]){261, 2 + 0xC3, 2 + 0xA9, 261}, 4, 0, &b, &err));
  assert_string_equal(b.data, "a\xC3\xA9 a");
  pu_buf_deinit(&b);
  pu_tokenizer_free(t);
}

/* Text comes out when its characters are complete; bytes that never become one come out as U+FFFD. */
static void test_streaming(void **state) {
  (void)state;
  pu_tokenizer *t = make(BYTE_LEVEL, "");
  pu_decoder d = {.t = t};
  pu_buf b;
  pu_buf_init(&b, 1 << 10);
  static const struct {
    int byte;
    const char *so_far;
  } steps[] = {{'a', "a"},
               {0xF0, "a"},
               {0x9F, "a"},
               {0x98, "a"},
               {0x80, "a\xF0\x9F\x98\x80"},
               {0xE4, "a\xF0\x9F\x98\x80"},
               {'b', "a\xF0\x9F\x98\x80\xEF\xBF\xBD"
                     "b"}};
  for (size_t i = 0; i < PU_COUNT(steps); i++) {
    must(pu_decoder_push(&d, steps[i].byte, &b, &err));
    assert_string_equal(b.data ? b.data : "", steps[i].so_far);
  }
  must(pu_decoder_push(&d, 0xC3, &b, &err));
  assert_true(pu_decoder_finish(&d, &b));
  assert_string_equal(b.data, "a\xF0\x9F\x98\x80\xEF\xBF\xBD"
                              "b\xEF\xBF\xBD");
  /* Over random bytes: what is valid is kept, and the result is always valid. */
  pu_rng r;
  pu_rng_seed(&r, 9);
  for (int i = 0; i < 2000; i++) {
    pu_buf_clear(&b);
    static const uint8_t some[] = {0xE0, 0xA0, 0x80, 0xED, 0x9F, 0xF4, 0x8F, 0xBF, 0xC2, 'x', 0xF0, 0x90};
    uint8_t s[12];
    for (size_t k = 0; k < sizeof s; k++) {
      s[k] = some[pu_rng_below(&r, sizeof some)];
      must(pu_decoder_push(&d, s[k], &b, &err));
    }
    assert_true(pu_decoder_finish(&d, &b));
    assert_true(pu_utf8_valid(pu_str_of(b.data, b.len)));
    if (pu_utf8_valid(pu_str_of((char *)s, sizeof s))) assert_memory_equal(b.data, s, sizeof s);
  }
  pu_buf_deinit(&b);
  pu_tokenizer_free(t);
}

static void test_long_words(void **state) {
  (void)state;
  enum { N = 1 << 20 };
  pu_tokenizer *t = make(BYTE_LEVEL, "");
  char *text = malloc(N);
  for (int i = 0; i < N; i++) text[i] = "abc"[i % 3];
  pu_ids ids = {0};
  must(pu_encode(t, pu_str_of(text, N), 0, &ids, &err));
  assert_int_equal(ids.n, N / 3 + 1); /* abc abc … a */
  pu_ids_deinit(&ids);
  free(text);
  pu_tokenizer_free(t);
}

static void refuse(const char *json, pu_err want, const char *word) {
  pu_tokenizer *t = NULL;
  pu_err got = pu_tokenizer_parse_json(pu_str_c(json), &t, &err);
  if (got != want || !strstr(err.msg, word)) fail_msg("%s\ngave %d: %s", json, got, err.msg);
}

static void test_refusals(void **state) {
  (void)state;
  refuse("{", PU_ERR_FORMAT, "tokenizer.json");
  refuse("[]", PU_ERR_FORMAT, "object");
  refuse("{\"model\": {\"type\": \"WordPiece\"}}", PU_ERR_UNSUPPORTED, "WordPiece");
  refuse("{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a b\"]}}", PU_ERR_FORMAT, "merges[0]");
  refuse("{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []}}", PU_ERR_FORMAT, "twice");
  refuse("{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 99999999}, \"merges\": []}}", PU_ERR_FORMAT, "id");
  refuse("{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}}", PU_ERR_UNSUPPORTED, "byte");
  refuse("{\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Punctuation\"}, {\"type\": "
         "\"ByteLevel\"}]}, \"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}}",
         PU_ERR_UNSUPPORTED, "Punctuation");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_merges),       cmocka_unit_test(test_prefix_space),
      cmocka_unit_test(test_normal_forms), cmocka_unit_test(test_added_tokens),
      cmocka_unit_test(test_bos_template), cmocka_unit_test(test_other_pretokenizers),
      cmocka_unit_test(test_spm_like),     cmocka_unit_test(test_streaming),
      cmocka_unit_test(test_long_words),   cmocka_unit_test(test_refusals),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
