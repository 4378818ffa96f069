/* The data pipeline through the program: raw files to a stage, other bounds, samples and a report; the same bytes on
 * any number of threads and processes, and after a kill. */
#include <unistd.h>

#include "tests/shell.h"

static char folder[64];

static void make_text(void) {
  /* Five sources of pages, text and JSON Lines; one line that is none. */
  assert_int_equal(
      shell(
          "mkdir -p a b c d e && "
          "for i in $(seq 60); do echo \"<html><title>Page $i</title><body><nav><a href=/>home</a></nav><article>"
          "<h1>Page $i</h1><p>This is the text of page $i, which is of some length and has the words that a text has, "
          "with commas and an end.</p><p>And there is a second paragraph that goes on with number $((i * 7919)) and "
          "ends here, to be a text with more than one.</p></article></body></html>\" >a/$i.html; done && "
          "for i in $(seq 300); do echo \"{\\\"id\\\": \\\"b-$i\\\", \\\"content\\\": \\\"The document $i of the set, "
          "and what it says of $((i * i)) is not what that one says.\\\"}\"; done >b/b.jsonl && echo '{\"id\": 7' "
          ">>b/b.jsonl && "
          "for i in $(seq 200); do echo \"第$i篇文章的内容是关于数字$((i * 31))的，它不长，但是一句完整的话。\"; echo; "
          "done >c/c.txt && "
          "head -c 3000 b/b.jsonl | head -n 10 | gzip >d/d.jsonl.gz && "
          "for i in $(seq 50); do echo \"line $i\"; done >e/e.txt"),
      0);
  assert_int_equal(shell("printf 'out: %%s\\nsources:\\n' x >run.yaml; for s in a b c d e; do printf '  - "
                         "{name: %%s, paths: [%%s], split: blank}\\n' $s $s >>run.yaml; done; "
                         "printf 'filters: [normalise, gopher_quality, wanjuan]\\n' >>run.yaml"),
                   0);
}

/* Everything that a stage holds but locks. */
static int same(const char *x, const char *y) {
  return shell("diff -r -x 'lock-*' %s %s", x, y);
}

static void whole_run(void **state) {
  (void)state;
  assert_int_equal(puyu("data run run.yaml out=one --threads 1"), 0);
  says("1 broken records skipped");
  says("one/report.html");
  assert_int_equal(shell("test -s one/report.html && grep -q gopher_quality.words one/report.html"), 0);
  assert_int_equal(shell("zstdcat one/1-clean/b-00000.skips.jsonl.zst"), 0);
  says("b/b.jsonl");
  assert_int_equal(shell("zstdcat one/1-clean/a-00000.docs.jsonl.zst | head -n 1"), 0);
  says("second paragraph");
  assert_null(strstr(out, "home"));
  assert_int_equal(shell("zstdcat one/1-clean/a-00000.drops.jsonl.zst one/1-clean/b-00000.drops.jsonl.zst"), 0);
  says("\"rule\": \"gopher_quality.words\"");
  says("\"min\": 50");
}

static void threads_and_processes(void **state) {
  (void)state;
  assert_int_equal(puyu("data run run.yaml out=three --threads 3"), 0);
  assert_int_equal(same("one/1-clean", "three/1-clean"), 0);
  for (int ranks = 2; ranks <= 4; ranks += 2) {
    assert_int_equal(shell("for r in $(seq 0 %d); do OMPI_COMM_WORLD_RANK=$r OMPI_COMM_WORLD_SIZE=%d puyu data run "
                           "run.yaml out=ranks%d --threads 1 & done; wait",
                           ranks - 1, ranks, ranks),
                     0);
    char name[32];
    snprintf(name, sizeof name, "ranks%d/1-clean", ranks);
    assert_int_equal(same("one/1-clean", name), 0);
  }
}

static void kill_and_go_on(void **state) {
  (void)state;
  for (int i = 1; i <= 4; i++) /* whenever it comes, what is there is whole */
    assert_int_equal(shell("timeout -s KILL 0.0%d " PU_PROGRAM " data run run.yaml out=killed; true", 2 * i), 0);
  assert_int_equal(puyu("data run run.yaml out=killed"), 0);
  assert_int_equal(same("one/1-clean", "killed/1-clean"), 0);
  /* Another run does not go into its folder. */
  assert_int_equal(puyu("data run run.yaml out=killed bounds='[gopher_quality.words.min=5]'"), 2);
  says("--force");
  assert_int_equal(puyu("data run run.yaml out=killed bounds='[gopher_quality.words.min=5]' --force"), 0);
}

static void other_bounds(void **state) {
  (void)state;
  assert_int_equal(puyu("data filter one/1-clean --again --bound gopher_quality.words.min=5 --out again"), 0);
  assert_int_equal(puyu("data run run.yaml out=five bounds='[gopher_quality.words.min=5]'"), 0);
  /* The same drops as if it had been so from the start. */
  assert_int_equal(shell("for f in again/*.drops.jsonl.zst; do zstdcat $f >x; zstdcat five/1-clean/$(basename $f) >y; "
                         "cmp x y || exit 1; done"),
                   0);
  assert_int_equal(puyu("data sample again --all --json"), 0);
  assert_non_null(strstr(out, "\"b-300\""));
  assert_int_equal(puyu("data sample one/1-clean --all"), 0);
  assert_null(strstr(out, "\"b-300\""));
  assert_int_equal(puyu("data sample one/1-clean --dropped gopher_quality.words -n 2"), 0);
  says("gopher_quality.words =");
  assert_int_equal(puyu("data report --out r.html one/1-clean again"), 0);
}

/* A source with filters or bounds of its own, at once and once more. */
static void sources_of_their_own(void **state) {
  (void)state;
  assert_int_equal(
      shell("sed -e 's/name: b,/name: b, filters: [gopher_quality], bounds: [gopher_quality.words.min=3],/' "
            "-e 's/name: e,/name: e, bounds: [wanjuan.line_length.min=5, gopher_quality.words.min=4],/' "
            "run.yaml >own.yaml && puyu data run own.yaml out=own"),
      0);
  assert_int_equal(shell("for s in b e; do zstdcat own/1-clean/$s-*.drops.jsonl.zst | sed 's/.*rule\": \"\\([^\"]*\\)"
                         ".*/\\1/' | sort | uniq -c; done; zstdcat own/1-clean/b-*.attrs.jsonl.zst | grep -c wanjuan"),
                   1); /* grep's: b is not measured by what others are */
  assert_string_equal(out, "      1 gopher_quality.mean_word_length\n0\n");
  assert_int_equal(puyu("data filter own/1-clean --again --bound gopher_quality.words.min=3 --out own2"), 0);
  assert_int_equal(shell("zstdcat own/1-clean/b-*.drops.jsonl.zst >x; zstdcat own2/b-*.drops.jsonl.zst >y; cmp x y"),
                   0);
  assert_int_equal(puyu("data filter own/1-clean --again --bound wanjuan.line_length.min=500 --bound "
                        "gopher_quality.mean_word_length.min=0 --bound gopher_quality.alphabetic_words.min=0 --bound "
                        "gopher_quality.stop_words.min=0 --out own3"),
                   0);
  assert_int_equal(shell("zstdcat own3/b-*.drops.jsonl.zst own3/e-*.drops.jsonl.zst | grep -c line_length"), 0);
  assert_int_equal(puyu("data filter own/1-clean --again --bound fineweb.short_lines.max=1 --out own4"), 2);
  says("not among those that run");
  assert_int_equal(
      shell("sed 's/name: b,/name: b, bounds: [c4.sentences.min=1],/' run.yaml >wrong.yaml && puyu data run "
            "wrong.yaml out=own5"),
      2);
  says("source 'b'");
}

static void what_occurs_again(void **state) {
  (void)state;
  assert_int_equal(puyu("data extract b d --out raw"), 0);
  assert_int_equal(puyu("data dedup raw --mode exact --out unique"), 0);
  says("10 dropped, 300 left");
  assert_int_equal(shell("zstdcat unique/*.drops.jsonl.zst"), 0);
  says("\"rule\": \"dedup.exact\"");
  says("\"of\": \"b-1\"");
  assert_int_equal(puyu("data run run.yaml out=deduped filters='[normalise]' dedup.modes='[exact, line]'"), 0);
  assert_int_equal(puyu("data sample deduped/3-line --all"), 0);
  assert_non_null(strstr(out, "\"b-1\""));
  assert_int_equal(puyu("data run run.yaml out=deduped dedup.modes=[nearly]"), 2);
  says("minhash");
}

#define QUESTION                                                                                                       \
  "how many of the %d red apples in basket %d does a boy of %d years still have after he gave away %d of them?"

static void put_file(const char *name, const pu_buf *b) {
  char path[128];
  pu_error e;
  snprintf(path, sizeof path, "%s/%s", folder, name);
  assert_ok(pu_file_write(path, b->data, b->len, &e), &e);
}

/* Two sets, and three files of texts, each with one of their questions in one of them. */
static void make_sets(void) {
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  assert_int_equal(shell("mkdir -p sets texts"), 0);
  for (int i = 1; i <= 20; i++)
    pu_buf_printf(&b, "{\"question\": \"Number %d: " QUESTION "\"}\n", i, 7 * i, 13 * i, i, i);
  put_file("sets/q.jsonl", &b);
  pu_buf_clear(&b);
  pu_buf_puts(&b, "id,question\n7,我国第一部宪法是在哪一年由全国人民代表大会通过并颁布的\n");
  put_file("sets/zh.csv", &b);
  for (int u = 1; u <= 3; u++) {
    char name[32];
    pu_buf_clear(&b);
    for (int i = 1; i <= 9; i++) {
      pu_buf_printf(&b, "{\"id\": \"t-%d-%d\", \"content\": \"Some text of number %d.%d.\\n\\n", u, i, u, i);
      if (i == 2 * u) pu_buf_printf(&b, "NUMBER %d - " QUESTION "\\n\\n", i, 7 * i, 13 * i, i, i);
      pu_buf_puts(&b, "And more text.\"}\n");
    }
    if (u == 3)
      pu_buf_puts(&b,
                  "{\"id\": \"zh\", \"content\": \"题：我国第一部宪法,是在哪一年由全国人民代表大会通过并颁布的？\"}");
    snprintf(name, sizeof name, "texts/%d.jsonl", u);
    put_file(name, &b);
  }
  pu_buf_deinit(&b);
}

/* Evaluation sets are found, dropped or cut out, and told; the same on any number of threads and processes. */
static void evaluation_sets(void **state) {
  (void)state;
  static const char *const step = "data decontaminate raw-e --against sets --out";
  make_sets();
  assert_int_equal(puyu("data extract texts --out raw-e"), 0);
  says("28 documents");
  assert_int_equal(puyu("%s clean-e --threads 1", step), 0);
  says("index: 21 items of 21 records in 2 files");
  says("28 documents, 4 dropped, 24 left");
  assert_int_equal(shell("zstdcat clean-e/*.drops.jsonl.zst"), 0);
  says("\"rule\": \"contam\", \"value\": 1, \"max\": 0.2, \"of\": \"sets/q.jsonl:4\"");
  says("\"of\": \"sets/zh.csv:1\", \"field\": \"question\", \"by\": \"ngram\"");
  assert_int_equal(shell("cat clean-e/contam.jsonl"), 0);
  says("\"file\":\"sets/q.jsonl\"");
  says("\"id\":\"t-2-4\"");
  assert_int_equal(shell("wc -l <clean-e/contam.jsonl"), 0);
  says("4");
  assert_int_equal(puyu("data sample clean-e --dropped contam -n 9"), 0);
  says("contam = 1");
  assert_int_equal(puyu("data report --out e.html raw-e clean-e"), 0);
  assert_int_equal(shell("grep -q 'Evaluation sets' e.html && grep -q 'sets/q.jsonl</td><td>20</td><td>3</td>' e.html"),
                   0);
  /* Passages: the documents stay. */
  assert_int_equal(puyu("%s cut-e --mode passage", step), 0);
  says("28 documents, 1 dropped, 27 left");
  assert_int_equal(puyu("data sample cut-e --all"), 0);
  says("\"content\": \"Some text of number 2.4.\\n\\nAnd more text.\"");
  assert_null(strstr(out, "apples"));
  /* Threads, processes, and what a kill left. */
  assert_int_equal(puyu("%s three-e --threads 3", step), 0);
  assert_int_equal(same("clean-e", "three-e"), 0);
  assert_int_equal(shell("for r in 0 1 2; do OMPI_COMM_WORLD_RANK=$r OMPI_COMM_WORLD_SIZE=3 puyu %s ranks-e "
                         "--threads 1 & done; wait",
                         step),
                   0);
  assert_int_equal(same("clean-e", "ranks-e"), 0);
  assert_int_equal(shell("cp -r clean-e part-e && rm part-e/stage.json part-e/contam.jsonl && rm $(ls "
                         "part-e/*.done.json | head -n 1) && puyu %s part-e",
                         step),
                   0);
  assert_int_equal(same("clean-e", "part-e"), 0);
  /* Other sets, or options, are another run. */
  assert_int_equal(shell("gzip sets/q.jsonl"), 0);
  assert_int_equal(puyu("%s part-e", step), 2);
  says("--force");
  assert_int_equal(puyu("%s part-e --force", step), 0);
  says("28 documents, 4 dropped, 24 left");
  assert_int_equal(puyu("%s part-e --share 0.5", step), 2);
  says("--force");
  /* As a step of a run. */
  assert_int_equal(shell("printf 'out: run-e\nsources: [{name: t, paths: [texts]}]\ndedup: {modes: [exact]}\n"
                         "decontaminate: {against: [sets], mode: passage}\n' >e.yaml"),
                   0);
  assert_int_equal(puyu("data run e.yaml"), 0);
  assert_int_equal(shell("grep -q 'Evaluation sets' run-e/report.html && test -s run-e/3-decontaminate/contam.jsonl"),
                   0);
  assert_int_equal(puyu("data run e.yaml out=none-e decontaminate.against='[nowhere]'"), 2);
  says("nowhere");
  assert_int_equal(puyu("data decontaminate raw-e --out x"), 2);
  assert_int_equal(shell("rm -r sets texts *-e e.*"), 0);
}

/* What a page says of itself lands in its document. */
static void pages_say(void **state) {
  (void)state;
  assert_int_equal(
      shell("mkdir -p page && echo '<html lang=en><head><title>The flood | The Paper</title><meta name=author "
            "content=\"A. Writer\"><meta property=article:published_time content=\"2019-04-03T10:20:30+02:00\"></head>"
            "<body><nav><a href=/>home</a></nav><article><p>The river had been rising since the morning, and nobody "
            "believed that the old bridge would see the evening.</p></article></body></html>' >page/x.html"),
      0);
  assert_int_equal(puyu("data extract page --out paged"), 0);
  says("1 documents");
  assert_int_equal(shell("zstdcat paged/*.docs.jsonl.zst"), 0);
  says("\"title\": \"The flood\"");
  says("\"author\": \"A. Writer\"");
  says("\"time\": \"2019-04-03T10:20:30+02:00\"");
  says("\"lang\": \"en\"");
  assert_null(strstr(out, "home"));
  assert_int_equal(shell("rm -r page paged"), 0);
}

/* The ids that the lines of a shell, `puyu data extract` on paths, give: one after the other. */
static void assert_ids(const char *paths, const char *want) {
  assert_int_equal(
      shell("rm -rf ids && puyu data extract %s --name s --out ids >made && zstdcat ids/*.docs.jsonl.zst | "
            "sed 's/.*\"id\": \"\\([^\"]*\\).*\"source\": \"s\"\\(, \"repository\": "
            "\"\\([^\"]*\\)\\)\\{0,1\\}.*/\\1 \\3/' | tr '\\n' '|'",
            paths),
      0);
  assert_string_equal(out, want);
}

/* Ids hold no more of a path than tells a source's files apart, and a repository is known by its own folder. */
static void ids_are_short(void **state) {
  (void)state;
  assert_int_equal(shell("mkdir -p t/raw/one/r/src t/raw/one/org/q/.git t/raw/two/r && for f in one/r/src/x.c one/y.c "
                         "one/org/q/z.c two/r/x.c; do echo \"int $f;\" >t/raw/$f; done"),
                   0);
  assert_ids("t/raw/one", "s/org/q/z.c:1 org/q|s/r/src/x.c:1 |s/y.c:1 |");
  assert_ids("\"$PWD/t/\"/raw//one/", "s/org/q/z.c:1 org/q|s/r/src/x.c:1 |s/y.c:1 |");
  assert_ids("./t/raw/one t/raw/two",
             "s/one/org/q/z.c:1 one/org/q|s/one/r/src/x.c:1 one/r|s/one/y.c:1 |s/two/r/x.c:1 two/r|");
  assert_ids("t/raw/one/r/src/x.c t/raw/two/r/x.c", "s/one/r/src/x.c:1 |s/two/r/x.c:1 |");
  assert_ids("t/raw/one/r/src/x.c", "s/x.c:1 |");
  assert_ids("t/raw/one/org/q", "s/q/z.c:1 |");
  assert_int_equal(shell("tar cf t/raw/two/a.tar -C t/raw one/r/src/x.c && rm -r t/raw/two/r"), 0);
  assert_ids("t/raw/two", "s/a.tar/one/r/src/x.c:1 |");
  /* A number is an id within its file alone. */
  assert_int_equal(shell("mkdir t/n && printf '{\"id\": 7, \"text\": \"x\"}\n{\"id\": \"a7\", \"text\": "
                         "\"y\"}\n' >t/n/1.jsonl && printf 'id,text\n007,z\n' >t/n/2.csv"),
                   0);
  assert_ids("t/n", "s/1.jsonl#7 |a7 |s/2.csv#007 |");
  assert_int_equal(shell("rm -r t ids"), 0);
}

/* Files of lines are read in ranges; where a document may cross lines, they are not. */
static void large_files(void **state) {
  (void)state;
  assert_int_equal(
      shell("mkdir -p big && said=$(yes 'a line that says nothing, many times' | head -n 14 | tr -d '\n') && "
            "yes \"{\\\"content\\\": \\\"$said\\\"}\" | head -n 150000 >big/x.jsonl && ls -l big | grep -q ' [67]' "),
      0);
  assert_int_equal(puyu("data extract big --out ranges --threads 2"), 0);
  says("150000 documents");
  /* Each document goes its own way, not a range as a whole. */
  assert_int_equal(
      shell("puyu tokenizer train --vocab-size 300 --out tk e/e.txt >made 2>&1 && puyu data tokenize -t tk "
            "--valid-fraction 0.25 --out split ranges >made 2>&1 && grep -h valid_doc split/*.done.json | "
            "grep -o '[0-9]*'"),
      0);
  int valid[2];
  assert_int_equal(sscanf(out, "%d %d", &valid[0], &valid[1]), 2);
  assert_in_range(valid[0], 30000, 33000);
  assert_in_range(valid[1], 5000, 6000);
  assert_int_equal(shell("ls ranges/*.docs.jsonl.zst | wc -l"), 0);
  says("2");
  assert_int_equal(shell("mv big/x.jsonl big/x.txt"), 0);
  assert_int_equal(puyu("data extract big --split blank --out whole"), 0);
  assert_int_equal(shell("ls whole/*.docs.jsonl.zst | wc -l"), 0);
  says("1");
  assert_int_equal(shell("rm -r big ranges whole tk split"), 0);
}

/* What lies in a folder and cannot be read is recorded, and the rest is read. Only what is named has to be there. */
static void not_to_be_read(void **state) {
  (void)state;
  assert_int_equal(
      shell("mkdir -p odd/below && echo 'A line of text.' >odd/below/x.txt && ln -s nowhere odd/link.txt && "
            "ln -s .. odd/below/up && echo text >odd/shut.txt && chmod 0 odd/shut.txt"),
      0);
  assert_int_equal(puyu("data extract odd --out odd-1"), 0);
  says(geteuid() == 0 ? "2 documents, 0 dropped, 2 left; 2 broken" : "1 documents, 0 dropped, 1 left; 3 broken");
  says("(puyu data stats odd-1 says why)");
  assert_int_equal(puyu("data stats odd-1"), 0);
  says("skipped   No such file or directory               1 records");
  assert_int_equal(shell("puyu data report --out odd.html odd-1 && grep -q 'a link to a folder that it lies "
                         "in</td><td>1<' odd.html && ! grep -q Measures odd.html"),
                   0);
  assert_int_equal(shell("zstdcat odd-1/*.skips.jsonl.zst"), 0);
  says("{\"file\": \"odd/below/up\", \"offset\": 0, \"why\": \"a link to a folder that it lies in\"}");
  says("{\"file\": \"odd/link.txt\", \"offset\": 0, \"why\": \"No such file or directory\"}");
  assert_int_equal(puyu("data extract odd/link.txt --out odd-2"), 1);
  says("odd/link.txt: No such file");
  assert_int_equal(shell("rm -r odd odd-1 odd.html"), 0);
}

/* Numbers and quoted pieces of a reason do not make it another one; of an unfinished stage nothing is read as raw. */
static void reasons_and_unfinished(void **state) {
  (void)state;
  assert_int_equal(shell("mkdir r && printf '{broken\n   {wrong\n[1]\n{\"content\": \"text\"}\n' >r/x.jsonl"), 0);
  assert_int_equal(puyu("data clean r --out r-1 --width half"), 0);
  says("1 documents, 0 dropped, 1 left; 3 broken");
  assert_int_equal(puyu("data stats r-1"), 0);
  says("column N: string or '}' expected            2 records");
  assert_int_equal(shell("rm r-1/stage.json"), 0);
  assert_int_equal(puyu("data clean r-1 --out r-2"), 2);
  says("not finished");
  assert_int_equal(puyu("data stats r-1"), 2);
  says("not finished");
  assert_int_equal(shell("rm -r r r-1"), 0);
}

/* What a step wrote the next one reads, also a document of the greatest size in which JSON makes two bytes of each, and
 * zstd a thousandth. */
static void packed_well(void **state) {
  (void)state;
  assert_int_equal(shell("mkdir q && yes '\"\"\"\"\"\"\"' | head -c 67108864 >q/q.txt"), 0);
  assert_int_equal(puyu("data extract q --out q-1 && puyu data dedup q-1 --mode exact --out q-2"), 0);
  assert_int_equal(shell("puyu data sample q-2 --all | wc -c"), 0);
  assert_true(atol(out) > 120000000);
  assert_int_equal(shell("rm -r q q-1 q-2"), 0);
}

static void wrong_words(void **state) {
  (void)state;
  assert_int_equal(puyu("data filter a --out f --filter nonesuch"), 2);
  assert_int_equal(puyu("data filter a --out f"), 2);
  assert_int_equal(puyu("data sample a"), 2);
  says("no stage");
  assert_int_equal(puyu("data extract nothing --out f"), 1);
  assert_int_equal(puyu("data filter --list"), 0);
  says("gopher_repetition");
}

static int begin(void **state) {
  (void)state;
  snprintf(folder, sizeof folder, "/tmp/puyu-data-XXXXXX");
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
      cmocka_unit_test(whole_run),
      cmocka_unit_test(threads_and_processes),
      cmocka_unit_test(kill_and_go_on),
      cmocka_unit_test(other_bounds),
      cmocka_unit_test(what_occurs_again),
      cmocka_unit_test(pages_say),
      cmocka_unit_test(large_files),
      cmocka_unit_test(wrong_words),
      cmocka_unit_test(evaluation_sets),
      cmocka_unit_test(ids_are_short),
      cmocka_unit_test(sources_of_their_own),
      cmocka_unit_test(not_to_be_read),
      cmocka_unit_test(packed_well),
      cmocka_unit_test(reasons_and_unfinished),
  };
  return cmocka_run_group_tests(tests, begin, end);
}
