/* The program's generate and chat: what scripts rely on. */
#include "puyu/model.h"
#include "tests/device.h"
#include "tests/shell.h"

#include <stdlib.h>

/* With standard error left out. */
static int answer(const char *line) {
  return shell("{ %s\n} 2>/dev/null", line);
}

#define MODEL PU_FIXTURES "/hf-mini/internlm2-tiny"
enum { GIVEN = 8, TOTAL = 40 };

static void expected(int32_t ids[TOTAL]) {
  pu_safetensors *st;
  pu_error e;
  assert_ok(pu_safetensors_open(MODEL "/expected.safetensors", &st, &e), &e);
  const pu_st_tensor *t = pu_safetensors_find(st, "greedy_ids");
  assert_true(t && t->bytes == TOTAL * sizeof *ids);
  memcpy(ids, t->data, t->bytes);
  pu_safetensors_close(st);
}

static void prompt_line(char *line, size_t size, const int32_t *ids, const char *flags) {
  int n = snprintf(line, size, PU_PROGRAM " generate " MODEL " %s --ids ", flags);
  for (int i = 0; i < GIVEN; i++) n += snprintf(line + n, size - (size_t)n, "%s%d", i ? "," : "", (int)ids[i]);
}

static void ids_on_a_line(void **state) {
  (void)state;
  int32_t want[TOTAL];
  char line[1024];
  expected(want);
  prompt_line(line, sizeof line, want, "--ignore-eos --max-tokens 32 --output ids");
  assert_int_equal(answer(line), 0);
  char *at = out;
  for (int i = GIVEN; i < TOTAL; i++) assert_int_equal(strtol(at, &at, 10), want[i]);
  assert_string_equal(at, "\n");
}

/* As many ids whatever the bits; those of the exact weights only where none are rounded. */
static void in_few_bits(void **state) {
  (void)state;
  static const char *const quants[] = {"none", "file", "q8", "q4"};
  int32_t want[TOTAL];
  char line[1024], flags[100];
  expected(want);
  for (size_t i = 0; i < PU_COUNT(quants); i++) {
    snprintf(flags, sizeof flags, "--ignore-eos --max-tokens 32 --output ids --quant %s", quants[i]);
    prompt_line(line, sizeof line, want, flags);
    assert_int_equal(answer(line), 0);
    char *at = out;
    for (int k = GIVEN; k < TOTAL; k++) {
      long id = strtol(at, &at, 10);
      if (i < 2) assert_int_equal(id, want[k]);
    }
    assert_string_equal(at, "\n");
  }
  char first[sizeof out], kept[1400];
  snprintf(first, sizeof first, "%s", out); /* of q4 */
  snprintf(kept, sizeof kept,
           "d=$(mktemp -d); %s --weights-cache $d >/dev/null; %s --weights-cache $d; ls $d | wc -l; rm -r $d", line,
           line);
  assert_int_equal(answer(kept), 0);
  assert_memory_equal(out, first, strlen(first));
  assert_string_equal(out + strlen(first), pu_test_elsewhere() ? "0\n" : "1\n"); /* they can be mapped on a CPU only */
  assert_int_equal(answer(PU_PROGRAM " bench decode --shape puyu-2m --quant q4 --tokens 2 --rounds 1 --json"), 0);
  assert_non_null(strstr(out, "\"shape\": \"puyu-2m\", \"dtype\": \"bf16\", \"quant\": \"q4\""));
  assert_int_equal(answer("d=$(mktemp -d) && " PU_PROGRAM " convert " MODEL " $d/m.gguf --dtype q8_0 && " PU_PROGRAM
                          " bench prefill --gguf $d/m.gguf --seq 16 --rounds 1 --json; r=$?; rm -r $d; exit $r"),
                   0);
  assert_non_null(strstr(out, "\"quant\": \"file\""));
}

static void json_says_it_all(void **state) {
  (void)state;
  int32_t want[TOTAL];
  char line[1024];
  json_t *j;
  pu_error e;
  expected(want);
  prompt_line(line, sizeof line, want, "--ignore-eos --max-tokens 5 --output json");
  assert_int_equal(answer(line), 0);
  assert_ok(pu_json_parse("output", pu_str_c(out), &j, &e), &e);
  const json_t *ids = json_object_get(j, "ids"), *prompt = json_object_get(j, "prompt_ids");
  assert_int_equal(json_array_size(prompt), GIVEN);
  assert_int_equal(json_array_size(ids), 5);
  for (size_t i = 0; i < 5; i++) assert_int_equal(json_integer_value(json_array_get(ids, i)), want[GIVEN + i]);
  assert_string_equal(json_string_value(json_object_get(j, "finish")), "length");
  assert_true(json_number_value(json_object_get(j, "prefill_tok_per_s")) > 0);
  assert_true(json_number_value(json_object_get(j, "decode_tok_per_s")) > 0);
  json_decref(j);
}

static void mistakes_have_statuses(void **state) {
  (void)state;
  static const struct {
    const char *args;
    int status;
  } cases[] = {{"generate " MODEL, 2},
               {"generate " MODEL " --ids 1,2,three", 2},
               {"generate " MODEL " --ids 1 --prompt x", 2},
               {"generate " MODEL " --ids 1 --quant q3", 2},
               {"generate " MODEL " --prompt x", 2}, /* no tokenizer */
               {"generate " MODEL " --ids 1,2", 2},  /* no text without one */
               {"generate " MODEL " --ids 1,99999 --output ids", 2},
               {"generate " MODEL " --ids 1 --output ids --temperature -1", 2},
               {"generate /no/such/model --ids 1", 1},
               {"chat " MODEL " </dev/null", 1},
               {"bench decode --shape nothing", 2}};
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    char line[1024];
    snprintf(line, sizeof line, PU_PROGRAM " %s", cases[i].args);
    int status = answer(line);
    if (status != cases[i].status) fail_msg("puyu %s: status %d, not %d", cases[i].args, status, cases[i].status);
    assert_string_equal(out, "");
  }
}

/* A turn that the end of the input ends: its answer is that of one which is closed. */
static void an_open_turn_is_sent(void **state) {
  (void)state;
  static const char *const turns[] = {"\"\"\"one\\ntwo\"\"\"", "\"\"\"one\\ntwo", "one\\\\\\ntwo\\\\"};
  char dir[] = "/tmp/puyu-chat-XXXXXX", line[1024], want[sizeof out] = "";
  pu_error e;
  assert_non_null(mkdtemp(dir));
  snprintf(line, sizeof line,
           "cd %s && echo one two one two user assistant >t.txt && P=" PU_PROGRAM
           " && $P tokenizer train --out m --vocab-size 264 t.txt && $P init --shape puyu-2m --vocab-size 264 --out m",
           dir);
  assert_int_equal(answer(line), 0);
  for (size_t i = 0; i < PU_COUNT(turns); i++) {
    snprintf(line, sizeof line, "printf '%s' | " PU_PROGRAM " chat %s/m --max-tokens 9 --temperature 0 --threads 1",
             turns[i], dir);
    assert_int_equal(answer(line), 0);
    assert_true(strlen(out) > 1);
    if (i > 0) assert_string_equal(out, want);
    strcpy(want, out);
  }
  assert_ok(pu_remove_tree(dir, &e), &e);
}

/* A model with random weights says what it must. */
static void the_answer_fits(void **state) {
  (void)state;
  static const struct {
    const char *flags;
    int status;
    const char *says; /* NULL: one of the two colours, in an object */
  } cases[] = {{"--regex 'x{3}(one|two)?!'", 0, "xxx"},
               {"--grammar g.gbnf", 0, "two two one.\n"},
               {"--json-schema s.json", 0, NULL},
               {"--json-schema s.json --regex x", 2, ""},
               {"--regex '('", 2, ""},
               {"--grammar s.json", 1, ""},
               {"--json-schema none.json", 1, ""}};
  char dir[] = "/tmp/puyu-form-XXXXXX", line[1024];
  pu_error e;
  assert_non_null(mkdtemp(dir));
  snprintf(
      line, sizeof line,
      "cd %s && echo one two one two user assistant >t.txt && P=" PU_PROGRAM
      " && $P tokenizer train --out m --vocab-size 264 t.txt && $P init --shape puyu-2m --vocab-size 264 --out m && "
      "echo 'root ::= (w \" \"){2} \"one.\"\nw ::= \"two\"' >g.gbnf && "
      "echo '{\"type\":\"object\",\"properties\":{\"c\":{\"enum\":[\"red\",\"blue\"]}},\"required\":[\"c\"]}' "
      ">s.json",
      dir);
  assert_int_equal(answer(line), 0);
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    snprintf(line, sizeof line, "cd %s && " PU_PROGRAM " generate m --prompt one --temperature 1 --threads 1 %s", dir,
             cases[i].flags);
    assert_int_equal(answer(line), cases[i].status);
    if (cases[i].says && strncmp(out, cases[i].says, strlen(cases[i].says)) != 0)
      fail_msg("%s: %s", cases[i].flags, out);
    if (cases[i].says) continue;
    json_t *j;
    assert_ok(pu_json_parse("answer", pu_str_c(out), &j, &e), &e);
    const char *colour = json_string_value(json_object_get(j, "c"));
    assert_true(colour && (strcmp(colour, "red") == 0 || strcmp(colour, "blue") == 0));
    json_decref(j);
  }
  assert_ok(pu_remove_tree(dir, &e), &e);
}

static void the_benchmarks_run(void **state) {
  (void)state;
  static const char *const kinds[] = {"prefill", "decode"};
  for (size_t i = 0; i < PU_COUNT(kinds); i++) {
    char line[1024];
    json_t *j;
    pu_error e;
    snprintf(line, sizeof line, PU_PROGRAM " bench %s --shape puyu-2m --seq 40 --batch 2 --rounds 1 --json", kinds[i]);
    assert_int_equal(answer(line), 0);
    assert_ok(pu_json_parse("output", pu_str_c(out), &j, &e), &e);
    assert_string_equal(json_string_value(json_object_get(j, "bench")), kinds[i]);
    assert_true(json_number_value(json_object_get(j, "tok_per_s")) > 0);
    assert_true(json_number_value(json_object_get(j, "planned_bytes")) > 1e6);
    json_decref(j);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(ids_on_a_line),        cmocka_unit_test(in_few_bits),
                                     cmocka_unit_test(json_says_it_all),     cmocka_unit_test(mistakes_have_statuses),
                                     cmocka_unit_test(an_open_turn_is_sent), cmocka_unit_test(the_answer_fits),
                                     cmocka_unit_test(the_benchmarks_run)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
