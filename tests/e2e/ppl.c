/* puyu ppl, generate --prompts and guesses, from outside, against the engine asked one thing at a time. */
#include "puyu/engine.h"
#include "tests/shell.h"

#include <math.h>
#include <stdlib.h>

static char folder[] = "/tmp/puyu-ppl-XXXXXX";
static const char text[] = "one two one two user assistant; two one assistant one\nuser two: one, one, two\nassistant!";

static pu_engine *engine(pu_kv_type type) {
  pu_engine *en;
  pu_error e;
  char model[100];
  snprintf(model, sizeof model, "%s/m", folder);
  pu_engine_options o = {.dtype = PU_F32, .threads = 1, .kv_type = type};
  assert_ok(pu_engine_open(model, &o, &en, &e), &e);
  return en;
}

static int set_up(void **state) {
  (void)state;
  if (!mkdtemp(folder)) return -1;
  shell_folder = folder;
  if (shell("printf '%s' >t.txt && " PU_PROGRAM " tokenizer train --out m --vocab-size 280 t.txt && " PU_PROGRAM
            " init --shape puyu-2m --vocab-size 280 --out m --threads 1",
            text) == 0)
    return 0;
  print_message("%s", out);
  return -1;
}

static int tear_down(void **state) {
  pu_error e;
  (void)state;
  return pu_remove_tree(folder, &e) == PU_OK ? 0 : -1;
}

/* Nats of ids[from, to), told by those from `begin` on. */
static double nats(pu_engine *en, const pu_ids *ids, size_t begin, size_t from, size_t to) {
  pu_session *s;
  pu_error e;
  size_t n;
  double sum = 0;
  assert_ok(pu_session_open(en, &s, &e), &e);
  assert_ok(pu_session_score(s, 2, &e), &e);
  assert_ok(pu_session_append(s, ids->v + begin, to - begin, &e), &e);
  for (bool more = true; more;) assert_ok(pu_engine_step(en, &more, &e), &e);
  const pu_token_info *t = pu_session_prompt(s, &n);
  assert_int_equal(n, to - begin);
  assert_true(isnan(t[0].logprob));
  for (size_t i = from; i < to; i++) {
    assert_int_equal(t[i - begin].id, ids->v[i]);
    assert_int_equal(t[i - begin].n_top, 2);
    assert_true(t[i - begin].top_logprobs[0] >= t[i - begin].logprob);
    sum -= (double)t[i - begin].logprob;
  }
  pu_session_close(s);
  return sum;
}

static double number(const json_t *j, const char *key) {
  return json_number_value(json_object_get(j, key));
}

/* Window by window, as the manual says it; where values lie between two steps of a cache in few bits, the two may round
 * them to different ones. */
static void check_ppl(const pu_ids *ids, pu_kv_type type, size_t context, size_t stride) {
  static const char *const names[] = {"auto", "bf16", "int8", "int4"};
  const double bound = type > PU_KV_BF16 ? 1e-3 : 1e-4;
  pu_engine *en = engine(type);
  json_t *j;
  pu_error e;
  assert_int_equal(shell(PU_PROGRAM " ppl m t.txt --dtype f32 --json --quiet --threads 1 --context %zu --stride %zu"
                                    " --kv-dtype %s",
                         context, stride, names[type]),
                   0);
  assert_ok(pu_json_parse("output", pu_str_c(out), &j, &e), &e);
  size_t width = PU_MIN(context, ids->n), step = (size_t)number(j, "stride"), done = 1;
  double sum = 0;
  for (size_t begin = 0; done < ids->n; begin += step) {
    size_t to = PU_MIN(begin + width, ids->n);
    sum += nats(en, ids, begin, done, to);
    done = to;
  }
  assert_int_equal(number(j, "tokens"), ids->n - 1);
  assert_int_equal(number(j, "bytes"), strlen(text));
  double mean = sum / (double)(ids->n - 1);
  assert_true(fabs(number(j, "nats") - mean) < bound);
  assert_true(fabs(number(j, "perplexity") - exp(mean)) < 10 * bound * exp(mean));
  assert_true(fabs(number(j, "bits_per_byte") - sum / log(2) / (double)strlen(text)) < bound);
  assert_true(number(j, "nats_error") > 0);
  json_decref(j);
  pu_engine_free(en);
}

static void ppl_is_what_the_engine_says(void **state) {
  (void)state;
  static const struct { size_t context, stride; } cases[] = {{1000, 0}, {20, 7}, {16, 15}, {16, 16}, {9, 1}};
  pu_engine *en = engine(PU_KV_SAME);
  pu_ids ids = {0};
  pu_error e;
  assert_ok(pu_encode(pu_engine_tokenizer(en), pu_str_c(text),
                      pu_tokenizer_adds_bos(pu_engine_tokenizer(en)) ? PU_ENCODE_BOS : 0, &ids, &e),
            &e);
  pu_engine_free(en);
  for (size_t i = 0; i < PU_COUNT(cases); i++) check_ppl(&ids, PU_KV_SAME, cases[i].context, cases[i].stride);
  for (pu_kv_type type = PU_KV_BF16; type <= PU_KV_INT4; type++) check_ppl(&ids, type, 20, 7);
  assert_int_equal(shell(PU_PROGRAM " ppl m t.txt --context 1"), 2);
  assert_int_equal(shell(PU_PROGRAM " ppl m nothing.txt"), 1);
  assert_int_equal(shell(": >empty.txt; " PU_PROGRAM " ppl m empty.txt"), 1);
  assert_non_null(strstr(out, "empty.txt: too short a text"));
  assert_int_equal(shell("printf 'one\\ntwo \\377 one\\n' >b.txt; " PU_PROGRAM " ppl m b.txt --threads 1"), 0);
  assert_non_null(strstr(out, "warning: b.txt:2: no UTF-8"));
  assert_int_equal(shell(PU_PROGRAM " init --shape puyu-2m --vocab-size 264 --out small --threads 1 && "
                                    "cp m/tokenizer* small && " PU_PROGRAM " ppl small t.txt"),
                   1);
  assert_non_null(strstr(out, "small: the tokenizer has 280 pieces, the model only 264"));
  assert_int_equal(shell(PU_PROGRAM " quantize small q --method rtn --group 64 --calib t.txt"), 1);
  assert_non_null(strstr(out, "the model only 264"));
  pu_ids_deinit(&ids);
}

/* With each type of the cache, and with chunks that end anywhere. */
static void needles_are_found(void **state) {
  (void)state;
  static const char *const flags[] = {"", "--dtype f32", "--kv-dtype int8 --prefill-chunk 100", "--kv-dtype int4",
                                      "--kv-dtype int4 --dtype f32 --prefill-chunk 33"};
  for (size_t i = 0; i < PU_COUNT(flags); i++) {
    json_t *j;
    pu_error e;
    assert_int_equal(shell(PU_PROGRAM " bench needle --seq 900 --json --threads 1 --quiet %s", flags[i]), 0);
    assert_ok(pu_json_parse("output", pu_str_c(out), &j, &e), &e);
    if (number(j, "found") != 9) fail_msg("%s: %s", flags[i], out);
    json_decref(j);
  }
}

static void a_prefix_is_taken_from_the_cache(void **state) {
  (void)state;
  json_t *j;
  pu_error e;
  assert_int_equal(shell(PU_PROGRAM " bench prefix --shape puyu-2m --seq 640 --rounds 1 --json --threads 1 --quiet"),
                   0);
  assert_ok(pu_json_parse("output", pu_str_c(out), &j, &e), &e);
  assert_int_equal(number(j, "taken"), 640);
  json_decref(j);
}

/* Every line's answers, in order, each the one that its prompt and seed give alone. */
static void many_prompts_are_answered_in_order(void **state) {
  (void)state;
  enum { SAMPLES = 3, PROMPTS = 9 };
  pu_error e;
  pu_engine *en = engine(PU_KV_SAME);
  char *line = out;
  char answers[sizeof out];
  assert_int_equal(shell("for i in 1 2 3 4 5 6 7 8 9; do echo one two $i; echo; done >p.txt; " PU_PROGRAM
                         " generate m --prompts p.txt -n 3 --batch 4 --threads 1 --dtype f32 --temperature 1 --seed 5"
                         " --max-tokens 20 2>/dev/null"),
                   0);
  strcpy(answers, out);
  line = answers;
  for (int i = 0; i < PROMPTS * SAMPLES; i++) {
    json_t *j;
    char *end = strchr(line, '\n'), prompt[40];
    assert_non_null(end);
    assert_ok(pu_json_parse("output", pu_str_of(line, (size_t)(end - line)), &j, &e), &e);
    assert_int_equal(number(j, "line"), i / SAMPLES * 2 + 1);
    assert_int_equal(number(j, "sample"), i % SAMPLES);
    snprintf(prompt, sizeof prompt, "one two %d", i / SAMPLES + 1);
    pu_session *s;
    pu_ids ids = {0};
    pu_sampling how = pu_sampling_default();
    how.temperature = 1;
    how.seed = 5 + (uint64_t)i;
    how.max_tokens = 20;
    assert_ok(pu_session_open(en, &s, &e), &e);
    assert_ok(pu_encode(pu_engine_tokenizer(en), pu_str_c(prompt),
                        pu_tokenizer_adds_bos(pu_engine_tokenizer(en)) ? PU_ENCODE_BOS : 0, &ids, &e),
              &e);
    assert_ok(pu_session_append(s, ids.v, ids.n, &e), &e);
    assert_ok(pu_session_generate(s, &how, NULL, NULL, &e), &e);
    size_t n;
    const int32_t *want = pu_session_answer(s, &n);
    const json_t *got = json_object_get(j, "ids");
    assert_int_equal(json_array_size(got), n);
    for (size_t k = 0; k < n; k++) assert_int_equal(json_integer_value(json_array_get(got, k)), want[k]);
    assert_string_equal(json_string_value(json_object_get(j, "text")), pu_session_text(s).ptr);
    pu_session_close(s);
    pu_ids_deinit(&ids);
    json_decref(j);
    line = end + 1;
  }
  assert_int_equal(*line, 0);
  assert_int_equal(shell(PU_PROGRAM " generate m --prompts p.txt --prompt x"), 2);
  assert_int_equal(shell(PU_PROGRAM " generate m --prompt x -n 2"), 2);
  pu_engine_free(en);
}

static void guesses_leave_the_text(void **state) {
  (void)state;
  char want[sizeof out];
  static const char line[] = PU_PROGRAM " generate m --prompt 'one two one' --max-tokens 40 --threads 1 --dtype f32"
                                        " --temperature 0.5 --output ids 2>/dev/null";
  assert_int_equal(shell("%s", line), 0);
  strcpy(want, out);
  assert_int_equal(shell("%s --guess 3", line), 0);
  assert_string_equal(out, want);
  assert_int_equal(shell("%s --draft m", line), 0);
  assert_string_equal(out, want);
  assert_int_equal(
      shell(PU_PROGRAM " init --shape puyu-2m --vocab-size 300 --out other --threads 1 && %s --draft other", line), 2);
  /* As many pieces, but others: the text stays, and a warning says why it gets no faster. */
  assert_int_equal(shell("rm -r other && printf 'qu ux zy xw vu wz jk kj qx zz %%.0s' 1 2 3 4 5 6 >o.txt && " PU_PROGRAM
                         " tokenizer train --out other --vocab-size 280 o.txt && " PU_PROGRAM
                         " init --shape puyu-2m --vocab-size 280 --out other --threads 1"),
                   0);
  assert_int_equal(shell("%s --draft other", line), 0);
  assert_string_equal(out, want);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(ppl_is_what_the_engine_says), cmocka_unit_test(needles_are_found),
                                     cmocka_unit_test(a_prefix_is_taken_from_the_cache),
                                     cmocka_unit_test(many_prompts_are_answered_in_order),
                                     cmocka_unit_test(guesses_leave_the_text)};
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
