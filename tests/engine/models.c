/* Checkpoints of every family through the cache: what Hugging Face transformers continued them with. A trained model's
 * story, where PU_SHARED has it, to the letter. */
#include "puyu/engine.h"
#include "tests/model/families.h"
#include "tests/test.h"

#include <stdlib.h>

enum { GIVEN = 8, MOST = 64 };

static size_t read_expected(const char *dir, int32_t *ids) {
  char path[600];
  pu_safetensors *st;
  pu_error e;
  snprintf(path, sizeof path, "%s/expected.safetensors", dir);
  assert_ok(pu_safetensors_open(path, &st, &e), &e);
  const pu_st_tensor *t = pu_safetensors_find(st, "greedy_ids");
  assert_non_null(t);
  assert_int_equal(t->dtype, PU_I32);
  size_t n = t->bytes / sizeof *ids;
  assert_in_range(n, GIVEN + 1, MOST);
  memcpy(ids, t->data, t->bytes);
  pu_safetensors_close(st);
  return n;
}

/* Continues the given ids greedily. want_n: how many ids, those given included, must be equal. */
static void check_greedy(const char *dir, const pu_engine_options *o, const int32_t *want, size_t want_n) {
  pu_engine *en;
  pu_session *s;
  pu_error e;
  pu_sampling how = pu_sampling_default();
  how.max_tokens = (int64_t)want_n - GIVEN;
  how.ignore_eos = true;
  assert_ok(pu_engine_open(dir, o, &en, &e), &e);
  assert_ok(pu_session_open(en, &s, &e), &e);
  assert_ok(pu_session_append(s, want, GIVEN, &e), &e);
  assert_ok(pu_session_generate(s, &how, NULL, NULL, &e), &e);
  size_t n;
  const int32_t *ids = pu_session_answer(s, &n);
  assert_int_equal(n, want_n - GIVEN);
  for (size_t i = 0; i < n; i++)
    if (ids[i] != want[GIVEN + i])
      fail_msg("%s, blocks of %d: token %zu is %d, not %d", dir, (int)o->kv_block, i, (int)ids[i],
               (int)want[GIVEN + i]);
  pu_engine_free(en);
}

static bool missing(const char *path) {
  if (pu_path_exists(path)) return false;
  print_message("skipped: there is no %s\n", path);
  return true;
}

static void check_folder(const char *folder) {
  static const int32_t blocks[] = {0, 1, 5, 16};
  for (size_t i = 0; i < PU_COUNT(families); i++) {
    char dir[500];
    int32_t want[MOST];
    snprintf(dir, sizeof dir, "%s/%s", folder, families[i]);
    if (missing(dir)) continue;
    size_t n = read_expected(dir, want);
    /* With a cache, keys keep the angles of the time they came in; expected are those without one. So only as far as
     * the scaling has not set in. */
    if (strcmp(families[i], "internlm2-dynamic-ntk") == 0) n = GIVEN + 24;
    for (size_t k = 0; k < PU_COUNT(blocks); k++) {
      pu_engine_options o = {.dtype = PU_F32, .threads = 2, .kv_block = blocks[k], .prefill_chunk = k % 2 ? 3 : 0};
      check_greedy(dir, &o, want, n);
    }
  }
}

static void small_checkpoints(void **state) {
  (void)state;
  check_folder(PU_FIXTURES "/hf-mini");
}

/* ---- in few bits ---- */

/* Is the answer what the whole of it, without a cache, gives? */
static void check_without_cache(const pu_engine *en, const int32_t *ids, int32_t n) {
  enum { ROOM = 64 << 20 };
  pu_model *m = (pu_model *)(uintptr_t)pu_engine_model(en);
  pu_error e;
  pu_arena *mem, *host;
  int32_t cu[2] = {0, n}, positions[MOST];
  for (int32_t i = 0; i < n; i++) positions[i] = i;
  assert_ok(pu_arena_create(ROOM, &mem, &e), &e);
  assert_ok(pu_arena_create(ROOM, &host, &e), &e);
  pu_ctx c = {.be = m->be, .mem = mem, .host = host, .err = &e};
  pu_seqs seqs = {.n = 1, .tokens = n, .max_len = n, .cu = cu, .positions = positions};
  pu_tensor t = {.dtype = PU_I32, .ndim = 1, .shape = {n}, .stride = {1}, .data = (void *)(uintptr_t)ids};
  pu_forward f = {.ids = &t, .seqs = &seqs};
  const pu_tensor *y = pu_model_logits(m, &c, pu_model_forward(m, &c, &f), NULL, 0);
  if (!y) fail_msg("%s", e.msg);
  for (int32_t i = GIVEN - 1; i + 1 < n; i++) {
    const float *row = (const float *)y->data + i * m->hp.vocab;
    int32_t best = 0;
    for (int32_t v = 1; v < m->hp.vocab; v++) best = row[v] > row[best] ? v : best;
    if (best != ids[i + 1]) fail_msg("token %d is %d, and without a cache %d", (int)i + 1, (int)ids[i + 1], (int)best);
  }
  pu_arena_free(mem);
  pu_arena_free(host);
}

/* Answers one after the other and together: the same ids, since no product depends on the batch. */
static void answer_in_few_bits(const char *dir, const int32_t *given, const pu_engine_options *o) {
  enum { SESSIONS = 3 };
  pu_engine *en;
  pu_session *s[SESSIONS];
  pu_error e;
  int32_t all[MOST];
  bool more = true;
  pu_sampling how = pu_sampling_default();
  how.max_tokens = 16;
  how.ignore_eos = true;
  assert_ok(pu_engine_open(dir, o, &en, &e), &e);
  for (int i = 0; i < SESSIONS; i++) {
    assert_ok(pu_session_open(en, &s[i], &e), &e);
    assert_ok(pu_session_append(s[i], given, (size_t)(GIVEN - i), &e), &e);
    if (i > 0) assert_ok(pu_session_start(s[i], &how, NULL, NULL, &e), &e);
  }
  assert_ok(pu_session_generate(s[0], &how, NULL, NULL, &e), &e);
  while (more) assert_ok(pu_engine_step(en, &more, &e), &e);
  size_t n;
  const int32_t *ids = pu_session_answer(s[0], &n);
  assert_int_equal(n, 16);
  memcpy(all, given, GIVEN * sizeof *all);
  memcpy(all + GIVEN, ids, n * sizeof *all);
  check_without_cache(en, all, GIVEN + 16);
  pu_engine_free(en);
}

static void checkpoints_in_few_bits(void **state) {
  (void)state;
  for (size_t i = 0; i < PU_COUNT(families); i++)
    for (pu_quant quant = PU_QUANT_Q8; quant <= PU_QUANT_Q4; quant++) {
      char dir[500];
      int32_t want[MOST];
      snprintf(dir, sizeof dir, PU_FIXTURES "/hf-mini/%s", families[i]);
      read_expected(dir, want);
      answer_in_few_bits(dir, want, &(pu_engine_options){.dtype = PU_F32, .quant = quant, .threads = 2});
    }
}

static void larger_checkpoints(void **state) {
  (void)state;
  if (!missing(PU_SHARED "/fixtures/hf")) check_folder(PU_SHARED "/fixtures/hf");
}

/* ---- the story ---- */

static bool hear(void *arg, pu_str text) {
  return pu_buf_append(arg, text.ptr, text.len);
}

static void tell(pu_engine *en, const pu_ids *prompt, const pu_sampling *how, pu_on_text on_text, void *arg,
                 pu_session **s) {
  pu_error e;
  assert_ok(pu_session_open(en, s, &e), &e);
  assert_ok(pu_session_append(*s, prompt->v, prompt->n, &e), &e);
  assert_ok(pu_session_generate(*s, how, on_text, arg, &e), &e);
}

static bool after_three(void *arg, pu_str text) {
  (void)text;
  return ++*(int *)arg < 3;
}

static void a_story_to_the_letter(void **state) {
  (void)state;
  const char *dir = PU_SHARED "/models/stories260K";
  if (missing(dir)) return;
  pu_error e;
  json_t *j;
  pu_engine *en;
  pu_session *s;
  pu_ids prompt = {0};
  pu_buf heard;
  pu_buf_init(&heard, 1 << 20);
  assert_ok(pu_json_read(PU_SHARED "/models/stories260K/expected.json", 1 << 20, &j, &e), &e);
  const char *begin = json_string_value(json_object_get(j, "prompt"));
  const char *story = json_string_value(json_object_get(j, "greedy_text"));
  size_t total = json_array_size(json_object_get(j, "greedy_ids"));
  assert_ok(pu_engine_open(dir, &(pu_engine_options){.dtype = PU_F32}, &en, &e), &e);
  assert_ok(pu_encode(pu_engine_tokenizer(en), pu_str_c(begin), PU_ENCODE_BOS, &prompt, &e), &e);
  pu_sampling how = pu_sampling_default();
  how.max_tokens = (int64_t)(total - prompt.n);
  tell(en, &prompt, &how, hear, &heard, &s);
  assert_int_equal(pu_session_finish(s), PU_FINISH_LENGTH);
  assert_string_equal(heard.data, story + strlen(begin));
  assert_string_equal(pu_session_text(s).ptr, heard.data);
  pu_session_close(s);
  /* The same, ended by a stop string over a token border, and by a listener who has heard enough. */
  const char *stop[] = {"Lily's m", "red bal"};
  how.stop = stop;
  how.n_stop = 2;
  pu_buf_clear(&heard);
  tell(en, &prompt, &how, hear, &heard, &s);
  assert_int_equal(pu_session_finish(s), PU_FINISH_STOP);
  assert_int_equal(heard.len, strstr(story, "red bal") - story - (ptrdiff_t)strlen(begin));
  assert_memory_equal(heard.data, story + strlen(begin), heard.len);
  pu_session_close(s);
  int calls = 0;
  tell(en, &prompt, &how, after_three, &calls, &s);
  assert_int_equal(pu_session_finish(s), PU_FINISH_CANCEL);
  assert_int_equal(calls, 3);
  pu_buf_deinit(&heard);
  pu_ids_deinit(&prompt);
  pu_engine_free(en);
  json_decref(j);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(small_checkpoints), cmocka_unit_test(checkpoints_in_few_bits),
                                     cmocka_unit_test(larger_checkpoints), cmocka_unit_test(a_story_to_the_letter)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
