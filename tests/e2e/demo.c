/* The demo on a folder of one's own, and on rule-made text: what goes through each stage, what it says of that, and
 * that a text of nothing leaves an earlier demo's model alone. Seconds of training, so nothing right is asked of the
 * model.
 */
#include <unistd.h>

#include "tests/shell.h"

static char folder[64];

/* Pages, a table, JSON Lines with a broken line, text: of each page one twice. */
static void make_text(void) {
  assert_int_equal(
      shell("mkdir -p own/pages empty && for i in $(seq 40); do echo \"<html><title>Page $i</title><body><nav><a "
            "href=/>home</a></nav><article><p>The page $i says what it has to say in a sentence of some length, and "
            "its number squared is $((i * i)).</p></article></body></html>\" >own/pages/$i.html; done && cp "
            "own/pages/7.html own/pages/twice.html && (echo id,text; for i in $(seq 50); do echo \"$i,Row $i of the "
            "table says that $i and $i are $((i + i)).\"; done) | gzip >own/t.csv.gz && (echo '{\"id\": 7'; for i in "
            "$(seq "
            "50); do echo \"{\\\"text\\\": \\\"第$i行的文字说的是数字$((i * 31))，它是一句完整的话。\\\"}\"; done) "
            ">own/l.jsonl && for i in $(seq 60); do echo \"A paragraph with the number $i, and no more.\"; echo; done "
            ">own/p.txt"),
      0);
}

static int demo(const char *more) {
  return puyu("demo --out made --minutes 0.06 --vocab-size 400 --threads 1 --dialogues 300 --questions 3 %s", more);
}

static void of_files(void **state) {
  (void)state;
  assert_int_equal(demo("--text own"), 0);
  says("data pipeline");
  says("201 documents, of which 1 were dropped, 1 broken records skipped");
  says("200 documents\n");
  assert_int_equal(shell("grep -q 'href=\"data/report.html\"' made/report.html && grep -q dedup.exact "
                         "made/data/report.html && grep -c Tokenize made/data/report.html; test $(wc -l "
                         "<made/corpus.jsonl) = 200 && ! grep -q home made/corpus.jsonl"),
                   0);
  /* A model that is there stays until there is text for another one. */
  assert_int_equal(demo("--text empty"), 2);
  says("0 bytes of text are too few to learn from");
  assert_int_equal(demo("--text nowhere"), 1);
  says("no such file or folder");
  assert_int_equal(shell("ls made/run/step-*/config.json made/chat/step-*/config.json made/model-4bit/config.json"), 0);
  /* What is of the rule-made text was not asked. */
  assert_int_equal(shell("ls made/questions/*.yaml | wc -l"), 0);
  assert_string_equal(out, "3\n");
}

static void of_rules(void **state) {
  (void)state;
  assert_int_equal(demo("--megabytes 1"), 0);
  says("[12/12] ");
  says("pretrained  fine-tuned       4-bit      served");
  says("sums within 100, as text that goes on");
  says("of 6 sums beyond 1000 right: ");
  /* One page with all of it: curves of both trainings, scores of four models, a conversation with the tool. */
  assert_int_equal(
      shell("for x in 'id=pretraining-loss' 'id=fine-tuning-loss' 'id=fine-tuning-speed' '<th>served</th>' "
            "'Calls, turn by turn' 'run/report.html' 'chat/report.html'; do grep -q \"$x\" "
            "made/report.html || { echo \"$x\"; exit 1; }; done; test -s made/run/report.html && test -s "
            "made/chat/report.html && ! grep -q '<script' made/report.html"),
      0);
  /* In 4 bits and through the server it says the same. */
  assert_int_equal(shell("cd made/questions/log && for t in 4-bit/*; do f=$(basename $t); test $(wc -l <4-bit/$f) = "
                         "$(wc -l <served/$f) || exit 1; done; ls 4-bit/*.jsonl | wc -l"),
                   0);
  assert_string_equal(out, "8\n");
  /* Its files are what the commands take. */
  assert_int_equal(
      puyu("eval --model made/model-4bit --chat --data made/questions --tasks made/questions/chat-facts.yaml "
           "--limit 2 --threads 1"),
      0);
  assert_int_equal(puyu("data show made/conversations/valid.jsonl --model made/tokenizer -n 3"), 0);
  says("form messages, template internlm2");
  assert_int_equal(shell("zstdcat made/data/1-clean/*.drops.jsonl.zst | wc -c; ls made/raw"), 0);
  assert_string_equal(out, "0\narithmetic.jsonl\nfacts.jsonl\nstories.jsonl\n"); /* rules drop nothing of it */
  assert_int_equal(puyu("data stats made/shards made/shards/valid"), 0);
  says("domain 2");
}

static int begin(void **state) {
  (void)state;
  snprintf(folder, sizeof folder, "/tmp/puyu-demo-XXXXXX");
  if (!mkdtemp(folder)) return -1;
  shell_folder = folder;
  make_text();
  return 0;
}

static int end(void **state) {
  (void)state;
  pu_error e;
  return pu_remove_tree(folder, &e);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(of_files),
      cmocka_unit_test(of_rules),
  };
  return cmocka_run_group_tests(tests, begin, end);
}
