/* puyu eval and its report, as a shell starts them. */
#include "tests/shell.h"

static char folder[] = "/tmp/puyu-cli-eval-XXXXXX";

static int set_up(void **state) {
  (void)state;
  if (!mkdtemp(folder)) return -1;
  shell_folder = folder;
  if (shell("printf 'one two three four, two one four three; question answer\\n' >t.txt &&"
            " puyu tokenizer train --out m --vocab-size 280 t.txt &&"
            " puyu init --shape puyu-2m --vocab-size 280 --out m --threads 1 &&"
            " { echo question,A,B,answer; for i in $(seq 40); do echo \"$i one two,three,four,A\"; done; } >set.csv &&"
            " echo '{\"infer_method\": \"ppl\"}' >set.csv.meta.json &&"
            " printf 'kind: perplexity\\ntest: t.txt\\nwindow: 8\\n' >ppl.yaml") == 0)
    return 0;
  print_message("%s", out);
  return -1;
}

static int tear_down(void **state) {
  pu_error e;
  (void)state;
  return pu_remove_tree(folder, &e) == PU_OK ? 0 : -1;
}

static void scores_are_printed(void **state) {
  (void)state;
  assert_int_equal(puyu("eval --model m --tasks set.csv,ppl.yaml --data . --limit 3 --threads 1 --json"), 0);
  says("\"task\":\"set\",\"measure\":\"acc (sequence)\"");
  says("\"n\":3,");
  says("\"measure\":\"word perplexity\"");
}

/* Both commands tell a text by the same windows; a byte order mark is no text to either. */
static void perplexity_is_that_of_ppl(void **state) {
  (void)state;
  assert_int_equal(
      shell("printf '\\357\\273\\277' | cat - t.txt >marked.txt && sed s/t.txt/marked.txt/ ppl.yaml >marked.yaml &&"
            " nats() { grep -o '\"bits_per_byte\": *[0-9.]*' | grep -o '[0-9.]*$' | cut -c1-6; } &&"
            " a=$(puyu ppl m marked.txt --context 9 --stride 8 --dtype f32 --threads 1 --json | nats) &&"
            " b=$(puyu ppl m t.txt --context 9 --stride 8 --dtype f32 --threads 1 --json | nats) &&"
            " c=$(puyu eval --model m --tasks marked.yaml --data . --dtype f32 --threads 1 --json --quiet | nats) &&"
            " echo \"<$a> <$b> <$c>\" && [ ${#a} = 6 ] && [ \"$a\" = \"$b\" ] && [ \"$a\" = \"$c\" ]"),
      0);
}

/* Killed in the middle, then asked again: nothing is asked twice, and the scores are those of an unbroken run. */
static void a_killed_run_goes_on(void **state) {
  (void)state;
  assert_int_equal(puyu("eval --model m --tasks set.csv --out whole --threads 1 --json >whole.txt"), 0);
  assert_int_equal(shell("puyu eval --model m --tasks set.csv --out parts --threads 1 --batch 1 --quiet & p=$!;"
                         " while [ \"$(cat parts/m/set.jsonl 2>/dev/null | wc -l)\" -lt 5 ] && kill -0 $p 2>/dev/null;"
                         " do sleep 0.01; done; kill -9 $p; wait $p; true"),
                   0);
  assert_int_equal(puyu("eval --model m --tasks set.csv --out parts --threads 1 --json >parts.txt"), 0);
  assert_int_equal(shell("cmp whole.txt parts.txt && grep -c '\"key\"' parts/m/set.jsonl"), 0);
  says("40");
  assert_int_equal(
      shell("puyu eval report whole parts --format json | uniq | wc -l && puyu eval report whole -o r.html &&"
            " grep -c '</html>' r.html && puyu eval report whole/m/set.jsonl"),
      0);
  says("acc (sequence)");
}

static void several_models_by_yaml(void **state) {
  (void)state;
  assert_int_equal(
      shell("printf 'models: [{model: m}, {model: m, name: again}]\\ntasks: [set.csv]\\nlimit: 2\\n' >c.yaml &&"
            " puyu eval c.yaml limit=4 threads=1 --json"),
      0);
  says("\"model\":\"again\"");
  says("\"n\":4,");
  assert_int_not_equal(shell("printf 'models: [{model: m}, {model: m}]\\ntasks: [set.csv]\\nlimit: 2\\n' >c.yaml &&"
                             " puyu eval c.yaml threads=1"),
                       0);
  says("two models are called 'm'");
}

static void mistakes_are_told(void **state) {
  (void)state;
  static const struct {
    const char *words, *says;
  } rows[] = {{"eval", "--model"},
              {"eval --model m", "--tasks"},
              {"eval --model m --tasks mmul", "mmlu"},
              {"eval --model m --tasks mmlu", "--data"},
              {"eval --model m --tasks mmlu --data nowhere", "nowhere/mmlu"},
              {"eval --model no --tasks set.csv", "no: "},
              {"eval --url http://127.0.0.1:1 --tasks set.csv", "http://127.0.0.1:1/v1/models"},
              {"eval --model m --tasks set.csv --chat --name x --url http://x", "--name"},
              {"eval none.yaml", "none.yaml"},
              {"eval none.yaml --model m", "none.yaml"},
              {"eval report none", "none"},
              {"eval report m", "no logs"}};
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    assert_int_not_equal(puyu("%s", rows[i].words), 0);
    says(rows[i].says);
    if (strchr(out, '\n') != strrchr(out, '\n')) fail_msg("more than a line: %s", out);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(scores_are_printed), cmocka_unit_test(perplexity_is_that_of_ppl),
                                     cmocka_unit_test(a_killed_run_goes_on), cmocka_unit_test(several_models_by_yaml),
                                     cmocka_unit_test(mistakes_are_told)};
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
