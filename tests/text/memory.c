/* Every allocation of loading and encoding fails once: the answer is an error, nothing leaks (ASan), nothing crashes,
 * and a failed call appends nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
// cmocka wants the four above
#include <cmocka.h>

#include "tests/text/build.h"

static long left = -1; /* allocations until one fails; below 0: none does */

static bool fails(void) {
  return left >= 0 && left-- == 0;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);

void *__wrap_malloc(size_t n) {
  return fails() ? NULL : __real_malloc(n);
}
void *__wrap_calloc(size_t n, size_t size) {
  return fails() ? NULL : __real_calloc(n, size);
}
void *__wrap_realloc(void *p, size_t n) {
  return fails() ? NULL : __real_realloc(p, n);
}
void *__wrap_aligned_alloc(size_t align, size_t n) {
  return fails() ? NULL : __real_aligned_alloc(align, n);
}

/* The same chat by a template of Jinja's. */
static pu_err use_jinja(const pu_tokenizer *t, const pu_message *m, pu_ids *ids, pu_error *e) {
  static const char source[] =
      "{% for m in messages %}<|im_start|>{{ m.role ~ m|tojson }}{{ '%s' % m.content|upper }}<|im_end|>{% endfor %}";
  pu_chat_template *c;
  pu_err err = pu_chat_parse("test", pu_str_c(source), NULL, &c, e);
  if (err == PU_OK) err = pu_chat_ids(c, t, m, 1, true, ids, e);
  pu_chat_free(c);
  return err;
}

typedef pu_err (*parse_fn)(pu_str bytes, pu_tokenizer **out, pu_error *e);

/* Loads, encodes plainly and with a cache, renders a chat, decodes. */
static pu_err use(parse_fn parse, pu_str model, pu_error *e) {
  pu_tokenizer *t = NULL;
  pu_encoder *enc = NULL;
  pu_ids ids = {0};
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  static char text[600]; /* long enough for the heap */
  for (size_t i = 0; i + 1 < sizeof text; i++) text[i] = "ab ab\xC3\xA9"[i % 7];
  pu_err err = parse(model, &t, e);
  if (err == PU_OK) err = pu_encode(t, pu_str_c(text), PU_ENCODE_BOS | PU_ENCODE_SPECIAL, &ids, e);
  if (err != PU_OK) assert_int_equal(ids.n, 0);
  if (err == PU_OK) err = pu_encoder_create(t, &enc, e);
  size_t before = ids.n;
  if (enc) {
    err = pu_encoder_encode(enc, pu_str_c(text), 0, &ids, e);
    if (err != PU_OK) assert_int_equal(ids.n, before);
  }
  const pu_message m = {"user", NULL, pu_str_c("ab")};
  if (err == PU_OK) err = pu_chat_ids(pu_chat_find("chatml"), t, &m, 1, true, &ids, e);
  if (err == PU_OK) err = use_jinja(t, &m, &ids, e);
  if (err == PU_OK) err = pu_decode(t, ids.v, ids.n, 0, &b, e);
  pu_buf_deinit(&b);
  pu_ids_deinit(&ids);
  pu_encoder_free(enc);
  pu_tokenizer_free(t);
  return err;
}

static void check(parse_fn parse, pu_str model) {
  pu_error e = {0};
  left = -1;
  if (use(parse, model, &e) != PU_OK) fail_msg("%s", e.msg);
  long n = 0;
  for (bool ended = false; !ended; n++) {
    left = n;
    e.msg[0] = 0;
    pu_err err = use(parse, model, &e);
    ended = left >= 0; /* there was no n-th allocation */
    left = -1;
    if (err != (ended ? PU_OK : PU_ERR_NOMEM)) fail_msg("allocation %ld: error %d: %s", n, err, e.msg);
    if (!ended) assert_true(e.msg[0] != 0);
  }
  assert_true(n > 10);
}

static void put_spm(pu_buf *b, bool unigram, int type) {
  pu_buf_init(b, 1 << 20);
  spm_begin(b, true);
  static const char *const pieces[] = {"a",
                                       "b",
                                       "ab",
                                       "\xE2\x96\x81",
                                       ("\xE2\x96\x81"
                                        "ab"),
                                       "aba"};
  for (size_t i = 0; i < PU_COUNT(pieces); i++) spm_piece(b, pu_str_c(pieces[i]), -(float)i, i == 2 ? type : NORMAL);
  spm_piece(b, pu_str_c("<|im_start|>"), 0, USER);
  spm_piece(b, pu_str_c("<|im_end|>"), 0, USER);
  spm_end(b, (spm_settings){.unigram = unigram, .byte_fallback = true});
}

static void test_spm(void **state) {
  (void)state;
  for (int i = 0; i < 3; i++) {
    pu_buf b;
    put_spm(&b, i == 2, i == 1 ? UNUSED : NORMAL);
    check(pu_tokenizer_parse_spm, pu_str_of(b.data, b.len));
    pu_buf_deinit(&b);
  }
}

static void test_json(void **state) {
  (void)state;
  static const char model[] =
      "{\"normalizer\": {\"type\": \"NFC\"}, \"added_tokens\": [{\"id\": 5, \"content\": \"<|im_start|>\", "
      "\"special\": "
      "true}, {\"id\": 6, \"content\": \"<|im_end|>\", \"special\": true}, {\"id\": 7, \"content\": \"no\"}], "
      "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\"}, {\"type\": "
      "\"ByteLevel\", "
      "\"add_prefix_space\": false, \"use_regex\": false}]}, \"model\": {\"type\": \"BPE\", \"ignore_merges\": true, "
      "\"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, \"\xC4\xA0\": 3, \"\xC4\x80\": 4}, \"merges\": [\"a b\"]}}";
  check(pu_tokenizer_parse_json, pu_str_c(model));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_spm), cmocka_unit_test(test_json)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
