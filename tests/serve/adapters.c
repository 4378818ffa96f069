/* Adapters as models: listed, chosen by name, answering as the engine does. */
#include <stdlib.h>
#include <unistd.h>

#include "tests/test.h"

#include "tests/serve/tiny.h"

static char folder[] = "/tmp/puyu-serve-lora-XXXXXX";
static const char *const names[] = {"poet", "clerk"};

static void make_adapter(tiny *b, const char *name, uint64_t seed) {
  const char *targets[] = {"wqkv", "w2"};
  pu_adapter_shape shape = {.rank = 4, .alpha = 8, .targets = {targets, PU_COUNT(targets)}};
  char dir[200];
  pu_adapter *a;
  size_t n;
  snprintf(dir, sizeof dir, "%s/%s", folder, name);
  assert_ok(pu_adapter_create(b->m, &shape, seed, &a, &b->e), &b->e);
  pu_param *p = pu_adapter_params(a, &n);
  for (size_t i = 1; i < n; i += 2) {
    float *values = pu_test_download(b->be, p[i].w);
    for (int64_t k = 0; k < pu_tensor_count(p[i].w); k++)
      values[k] = (float)(pu_random_at(seed, i, (uint64_t)k) % 2001) / 2000 - 0.5f;
    pu_test_upload(b->be, p[i].w, values);
    free(values);
  }
  assert_ok(pu_adapter_save(a, dir, PU_F32, &b->e), &b->e);
  pu_adapter_free(a);
  assert_ok(pu_engine_add_adapter(b->en, name, dir, &b->e), &b->e);
}

static void say(tiny *b, const char *adapter, char *dst, size_t size) {
  pu_session *s;
  pu_ids ids = {0};
  pu_sampling how = pu_sampling_default();
  how.max_tokens = 12;
  assert_ok(pu_session_open(b->en, &s, &b->e), &b->e);
  assert_ok(pu_session_adapter(s, adapter, &b->e), &b->e);
  assert_ok(pu_encode(b->t, pu_str_c("the quick"), pu_tokenizer_adds_bos(b->t) ? PU_ENCODE_BOS : 0, &ids, &b->e),
            &b->e);
  assert_ok(pu_session_append(s, ids.v, ids.n, &b->e), &b->e);
  assert_ok(pu_session_generate(s, &how, NULL, NULL, &b->e), &b->e);
  pu_str text = pu_session_text(s);
  snprintf(dst, size, "%.*s", (int)text.len, text.ptr);
  pu_ids_deinit(&ids);
  pu_session_close(s);
}

static json_t *ask(const tiny *b, const char *model, const char *more) {
  char body[300];
  snprintf(body, sizeof body, "{\"model\":\"%s\",\"prompt\":\"the quick\",\"temperature\":0,\"max_tokens\":12%s}",
           model, more);
  return tiny_post(b, "/v1/completions", 200, body);
}

static void chosen_by_name(tiny *b, const char *model, const char *text) {
  json_t *v = ask(b, model, ",\"n\":2,\"logprobs\":1,\"echo\":true"), *plain = ask(b, model, "");
  assert_string_equal(tiny_str(v, "model"), model);
  assert_string_equal(tiny_str(plain, "choices/0/text"), text);
  assert_string_equal(tiny_str(v, "choices/0/text") + strlen("the quick"), text);
  assert_string_equal(tiny_str(v, "choices/1/text") + strlen("the quick"), text);
  json_decref(v);
  json_decref(plain);
}

static void adapters_are_models(void **state) {
  tiny b;
  char base[400], of[2][400];
  (void)state;
  assert_non_null(mkdtemp(folder));
  tiny_make_engine(&b);
  for (int i = 0; i < 2; i++) make_adapter(&b, names[i], (uint64_t)i + 1);
  say(&b, NULL, base, sizeof base);
  for (int i = 0; i < 2; i++) say(&b, names[i], of[i], sizeof of[i]);
  assert_string_not_equal(base, of[0]);
  assert_string_not_equal(of[0], of[1]);
  pu_server *none;
  assert_int_equal(pu_server_open(b.en, &(pu_server_options){.model_name = "clerk"}, &none, &b.e), PU_ERR_USAGE);
  tiny_serve(&b, (pu_server_options){.model_name = "tiny"});
  json_t *v = tiny_get(&b, "/v1/models");
  assert_int_equal(json_array_size(tiny_at(v, "data")), 3);
  assert_string_equal(tiny_str(v, "data/0/id"), "tiny");
  assert_null(json_object_get(tiny_at(v, "data/0"), "parent"));
  assert_string_equal(tiny_str(v, "data/2/id"), "clerk");
  assert_string_equal(tiny_str(v, "data/2/parent"), "tiny");
  json_decref(v);
  v = tiny_get(&b, "/v1/models/poet");
  assert_string_equal(tiny_str(v, "parent"), "tiny");
  json_decref(v);
  chosen_by_name(&b, "tiny", base);
  for (int i = 0; i < 2; i++) chosen_by_name(&b, names[i], of[i]);
  v = tiny_post(&b, "/v1/completions", 404, "{\"model\":\"painter\",\"prompt\":\"the\"}");
  assert_string_equal(tiny_str(v, "error/code"), "model_not_found");
  json_decref(v);
  tiny_close(&b);
  assert_ok(pu_remove_tree(folder, &b.e), &b.e);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(adapters_are_models)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
