/* The same ids and texts as the reference libraries, where the shared material is there: sentencepiece for the
 * InternLM tokenizers, Hugging Face tokenizers for the byte-level ones. */
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

static bool same_ids(const pu_ids *ids, const json_t *want) {
  if (ids->n != json_array_size(want)) return false;
  for (size_t i = 0; i < ids->n; i++) {
    if (ids->v[i] != json_integer_value(json_array_get(want, i))) return false;
  }
  return true;
}

/* Ids as a stream of single tokens give the same text. */
static bool same_stream(const pu_tokenizer *t, const pu_ids *ids, pu_str want) {
  pu_decoder d = {.t = t};
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  for (size_t i = 0; i < ids->n; i++) must(pu_decoder_push(&d, ids->v[i], &b, &err));
  assert_true(pu_decoder_finish(&d, &b));
  bool same = pu_str_eq(pu_str_of(b.data ? b.data : "", b.len), want);
  pu_buf_deinit(&b);
  return same;
}

typedef struct reference {
  const char *path, *cases;
  unsigned flags; /* Hugging Face's tokenizers find special tokens in any text */
  int32_t size, bos, eos;
} reference;

static void check_case(const pu_tokenizer *t, pu_encoder *enc, const reference *r, const json_t *c, int *wrong) {
  const json_t *text = json_object_get(c, "text"), *decoded = json_object_get(c, "decoded");
  pu_str s = pu_str_of(json_string_value(text), json_string_length(text));
  pu_str want = pu_str_of(json_string_value(decoded), json_string_length(decoded));
  pu_ids ids = {0}, again = {0};
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  must(pu_encode(t, s, r->flags, &ids, &err));
  /* The cached way twice: once to fill the cache, once to use it. */
  must(pu_encoder_encode(enc, s, r->flags, &again, &err));
  again.n = 0;
  must(pu_encoder_encode(enc, s, r->flags, &again, &err));
  must(pu_decode(t, ids.v, ids.n, 0, &b, &err));
  const json_t *want_ids = json_object_get(c, "ids");
  bool ok = same_ids(&ids, want_ids) && same_ids(&again, want_ids) &&
            pu_str_eq(pu_str_of(b.data ? b.data : "", b.len), want) && same_stream(t, &ids, want);
  if (!ok) {
    print_message("  differs: %.*s\n", (int)s.len, s.ptr);
    (*wrong)++;
  }
  pu_buf_deinit(&b);
  pu_ids_deinit(&ids);
  pu_ids_deinit(&again);
}

static void check_reference(void **state) {
  const reference *r = *state;
  if (!pu_path_exists(r->path)) {
    print_message("skipped: there is no %s\n", r->path);
    skip();
  }
  pu_tokenizer *t = NULL;
  pu_encoder *enc = NULL;
  json_t *root = NULL, *c;
  must(pu_tokenizer_load(r->path, &t, &err));
  must(pu_encoder_create(t, &enc, &err));
  must(pu_json_read(r->cases, 1 << 24, &root, &err));
  assert_int_equal(pu_tokenizer_size(t), r->size);
  assert_int_equal(pu_tokenizer_bos(t), r->bos);
  assert_int_equal(pu_tokenizer_eos(t), r->eos);
  size_t i;
  int wrong = 0;
  const json_t *cases = json_object_get(root, "cases");
  json_array_foreach(cases, i, c) check_case(t, enc, r, c, &wrong);
  print_message("%s: %d of %zu\n", r->path, (int)json_array_size(cases) - wrong, json_array_size(cases));
  assert_true(json_array_size(cases) >= 60);
  assert_int_equal(wrong, 0);
  json_decref(root);
  pu_encoder_free(enc);
  pu_tokenizer_free(t);
}

#define DIR  PU_SHARED "/tokenizers/"
#define JSON "/tokenizer.json"

int main(void) {
  static reference rows[] = {
      {DIR "internlm/tokenizer.model", DIR "internlm/expected.json", 0, 103168, 1, 2},
      {DIR "internlm2/tokenizer.model", DIR "internlm2/expected.json", 0, 92544, 1, 2},
      {DIR "bpe-gpt2" JSON, DIR "bpe-gpt2/expected.json", PU_ENCODE_SPECIAL, 6000, -1, 0},
      {DIR "bpe-llama3" JSON, DIR "bpe-llama3/expected.json", PU_ENCODE_SPECIAL, 6000, -1, 0},
      {DIR "bpe-qwen2" JSON, DIR "bpe-qwen2/expected.json", PU_ENCODE_SPECIAL, 6000, -1, 0},
  };
  const struct CMUnitTest tests[] = {
      {"internlm", check_reference, NULL, NULL, &rows[0]},  {"internlm2", check_reference, NULL, NULL, &rows[1]},
      {"bpe-gpt2", check_reference, NULL, NULL, &rows[2]},  {"bpe-llama3", check_reference, NULL, NULL, &rows[3]},
      {"bpe-qwen2", check_reference, NULL, NULL, &rows[4]},
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
