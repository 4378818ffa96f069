/* Mixtures and shards through the program: the same bytes on any number of threads and processes and after a kill;
 * where every document's tokens are. */
#include <unistd.h>

#include "tests/shell.h"

static char folder[64];

static void make_text(void) {
  assert_int_equal(
      shell(
          "mkdir -p a b && "
          "for i in $(seq 200); do echo \"Line $i of the first source, with number $((i * 7919)).\"; done >a/a.txt && "
          "for f in $(seq 40); do for i in $(seq 5); do echo \"第$f$i行是第二个来源的文字，数字是$((i * f))。\"; "
          "done >b/$f.txt; done && "
          "puyu tokenizer train --vocab-size 400 --out tok a/a.txt b/1.txt >/dev/null && "
          "puyu data extract a --name a --split line --out 1-a >/dev/null"),
      0);
  assert_int_equal(shell("printf 'out: x\\nsources:\\n  - {name: a, paths: [a], split: line}\\n  - {name: b, paths: "
                         "[b]}\\nmix:\\n  - {name: short, temperature: 2}\\n  - {name: long, weights: [b=1, a=0.5], "
                         "join: similar, join_bytes: 2000, seed: 9}\\nshards: {tokenizer: tok, valid: 0.1}\\n' "
                         ">run.yaml"),
                   0);
}

static int same(const char *x, const char *y) {
  return shell("diff -r -x 'lock-*' %s %s", x, y);
}

static void whole_run(void **state) {
  (void)state;
  assert_int_equal(puyu("data run run.yaml out=one --threads 1"), 0);
  says("shards: one/shards");
  assert_int_equal(puyu("data stats one/shards/short"), 0);
  says("tokenize, ");
  says("of them for validation");
  assert_int_equal(puyu("data stats one/shards/short/train"), 0);
  says("domain 0");
  says("domain 1");
  assert_int_equal(shell("grep -c 'Mixture' one/report.html"), 0);
  assert_int_equal(shell("zstdcat one/shards/long/*.attrs.jsonl.zst"), 0);
  says("\"parts\": [{\"id\": \"");
  assert_int_equal(puyu("data sample one/shards/short"), 2);
  says("went into shards at once");
  assert_int_equal(shell("test ! -e one/2-mix-short && test ! -e one/shards/long/work"), 0);
}

/* Shards that are made at once are those that the mixture's documents become, joined ones, too. */
static void both_ways(void **state) {
  (void)state;
  static const char *const mixes[] = {"--temperature 2",
                                      "--weight b=1 --weight a=0.5 --join similar --join-bytes 2000"};
  assert_int_equal(shell("sed '/^shards/d' run.yaml >texts.yaml && puyu data run texts.yaml out=texts"), 0);
  assert_int_equal(puyu("data stats texts/2-mix-short texts/3-mix-long"), 0);
  says("mix, ");
  for (size_t i = 0; i < PU_COUNT(mixes); i++) {
    assert_int_equal(shell("rm -rf m t u && puyu data mix texts/1-clean %s --valid-fraction 0.1 --out m && puyu data "
                           "tokenize m -t tok --valid-fraction 0.1 --out t && puyu data mix texts/1-clean %s "
                           "--valid-fraction 0.1 -t tok --out u",
                           mixes[i], mixes[i]),
                     0);
    assert_int_equal(shell("ls t/train t/valid | grep -c pub"), 0);
    assert_int_equal(atoi(out), 2);
    assert_int_equal(shell("diff -r t/train u/train && diff -r t/valid u/valid"), 0);
  }
}

static void threads_processes_and_kills(void **state) {
  (void)state;
  assert_int_equal(puyu("data run run.yaml out=three --threads 3"), 0);
  assert_int_equal(same("one/shards", "three/shards"), 0);
  for (int ranks = 2; ranks <= 4; ranks += 2) {
    char name[32];
    assert_int_equal(shell("for r in $(seq 0 %d); do OMPI_COMM_WORLD_RANK=$r OMPI_COMM_WORLD_SIZE=%d puyu data run "
                           "run.yaml out=ranks%d --threads 1 & done; wait",
                           ranks - 1, ranks, ranks),
                     0);
    snprintf(name, sizeof name, "ranks%d", ranks);
    assert_int_equal(shell("diff -r -x 'lock-*' -x report.html one %s", name), 0);
  }
  for (int i = 1; i <= 6; i++)
    assert_int_equal(shell("timeout -s KILL 0.0%d " PU_PROGRAM " data run run.yaml out=killed; true", i), 0);
  assert_int_equal(puyu("data run run.yaml out=killed"), 0);
  assert_int_equal(shell("diff -r -x 'lock-*' -x report.html one killed"), 0);
}

/* What the sidecar says of each document is so: decoding its span gives its text. */
static void spans_are_true(void **state) {
  (void)state;
  assert_int_equal(puyu("data tokenize -t tok --no-bos --no-eos --out whole 1-a"), 0);
  says("200 documents");
  assert_int_equal(shell("zstdcat whole/*.attrs.jsonl.zst | sed -n 42p"), 0);
  says("{\"file\": \"a-00000-00000.pub\", \"token\": ");
  assert_int_equal(puyu("data tokenize -t tok --out whole 1-a"), 2);
  says("--force");
  assert_int_equal(puyu("data tokenize -t tok --internevo --out evo 1-a"), 0);
  assert_int_equal(shell("test -s evo/a-00000-00000.bin && test -s evo/a-00000-00000.bin.meta"), 0);
}

/* Of no document is a copy for training in one mixture, or within a joined one, and another for validation. */
static void sides_are_apart(void **state) {
  (void)state;
  assert_int_equal(shell("zstdcat one/shards/*/*.attrs.jsonl.zst >both && for s in train valid; do grep \"\\\"$s/\" "
                         "both | grep -o '\"id\": \"[^\"]*\"' | sed 's/+[0-9]*\"$/\"/' | sort -u >$s; done; "
                         "wc -l <train; wc -l <valid; comm -12 train valid"),
                   0);
  int train, valid, used;
  assert_int_equal(sscanf(out, "%d %d %n", &train, &valid, &used), 2);
  assert_int_equal(train + valid, 240);
  assert_in_range(valid, 10, 40);
  assert_string_equal(out + used, "");
  assert_int_equal(puyu("data tokenize texts/3-mix-long -t tok --valid-fraction 0.2 --out other"), 2);
  says("--valid-fraction 0.2");
}

static void wrong_words(void **state) {
  (void)state;
  assert_int_equal(puyu("data mix 1-a --weight b=1 --out m"), 2);
  says("of 'b' there is no document");
  assert_int_equal(puyu("data mix a --out m"), 2);
  says("no stage");
  assert_int_equal(puyu("data run run.yaml out=w shards.tokenizer=nowhere"), 2);
  says("nowhere");
  assert_int_equal(shell("sed 's/b=1/c=1/' run.yaml >other.yaml && puyu data run other.yaml out=w"), 2);
  says("mix long: weights: 'c=1' is of none of the sources");
  assert_int_not_equal(shell("echo '{}' >broken.json && puyu data run run.yaml out=w shards.tokenizer=broken.json"), 0);
  says("broken.json");
  assert_int_equal(shell("test ! -e w"), 0);
  assert_int_equal(shell("sed 's/name: long/name: short/' run.yaml >twice.yaml && puyu data run twice.yaml out=w"), 2);
  says("two are called 'short'");
  assert_int_equal(shell("sed 's/name: long/name: ..\\/x/' run.yaml >up.yaml && puyu data run up.yaml out=w"), 2);
  says("it names a folder");
  assert_int_not_equal(puyu("data stats nowhere"), 0);
}

static int begin(void **state) {
  (void)state;
  snprintf(folder, sizeof folder, "/tmp/puyu-mix-XXXXXX");
  if (!mkdtemp(folder)) return 1;
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
      cmocka_unit_test(whole_run),       cmocka_unit_test(threads_processes_and_kills),
      cmocka_unit_test(both_ways),       cmocka_unit_test(spans_are_true),
      cmocka_unit_test(sides_are_apart), cmocka_unit_test(wrong_words),
  };
  return cmocka_run_group_tests(tests, begin, end);
}
