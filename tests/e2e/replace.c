/* convert, merge, quantize and init write a directory as a whole: killed at any time, DST is what it was or what it was
 * to become; nothing of a model that was replaced stays, and all that was no model's does. */
#include "tests/e2e/program.h"
#include "tests/shell.h"

static char folder[] = "/tmp/puyu-replace-XXXXXX";

static int set_up(void **state) {
  (void)state;
  if (!mkdtemp(folder)) return -1;
  shell_folder = folder;
  return shell("puyu init --shape puyu-2m --vocab-size 300 --seed 1 --out a --threads 1 && "
               "puyu init --shape puyu-2m --vocab-size 300 --seed 2 --out b --threads 1 && "
               "echo {} >a/merges.txt && echo {} >b/generation_config.json");
}

static int tear_down(void **state) {
  pu_error e;
  (void)state;
  return pu_remove_tree(folder, &e) == PU_OK ? 0 : -1;
}

static void does(int status) {
  if (status) fail_msg("status %d: %s", status, out);
}

/* One line for all that a folder holds: names and contents. */
static void sum_of(const char *dir, char sum[200]) {
  does(shell("cd %s && find . -type f -o -type l -o -type d | LC_ALL=C sort | while read -r f; do echo \"$f\"; "
             "[ -f \"$f\" ] && cat \"$f\"; done | cksum",
             dir));
  snprintf(sum, 200, "%s", out);
}

/* a, and what is no model's. */
static void make_dst(void) {
  does(
      shell("rm -rf d && cp -r a d && mkdir d/notes d/notes/more && echo mine >d/notes/more/x && echo you >d/README.md "
            "&& ln -s nowhere d/link && echo {} >d/quantize_config.json && echo {} >d/quantize_report.json"));
}

enum { KILLS = 40 };

/* Kills puyu WORDS… after a while, a longer one each time; true: it was still there. */
static bool kill_it(const char *const *words, int turn, double whole) {
  char log[100];
  snprintf(log, sizeof log, "%s/log", folder);
  pid_t pid = program_start(words, log, log);
  usleep((useconds_t)(1e6 * whole * 1.2 * turn / KILLS));
  bool there = !program_ended(pid);
  kill(pid, SIGKILL);
  program_wait(pid);
  return there;
}

static void check_kills(const char *const *words) {
  char was[200], becomes[200], is[200];
  int old = 0, new = 0;
  make_dst();
  sum_of("d", was);
  double begin = pu_now();
  char log[100];
  snprintf(log, sizeof log, "%s/log", folder);
  assert_int_equal(program_wait(program_start(words, log, log)), 0);
  double whole = pu_now() - begin;
  sum_of("d", becomes);
  assert_string_not_equal(was, becomes);
  does(shell("[ ! -e d/merges.txt ] && [ ! -e d/quantize_config.json ] && [ -e d/generation_config.json ] && "
             "cmp a/config.json b/config.json && [ ! -e d.making ] && [ -L d/link ] && grep mine d/notes/more/x && "
             "grep you d/README.md"));
  for (int i = 0; i < KILLS; i++) {
    make_dst();
    (void)kill_it(words, i, whole);
    sum_of("d", is);
    old += strcmp(is, was) == 0;
    new += strcmp(is, becomes) == 0;
    if (old + new != i + 1) fail_msg("kill %d left another folder", i);
  }
  print_message("%s: %d kills left what was there, %d what came\n", words[0], old, new);
  make_dst();
  assert_int_equal(program_wait(program_start(words, log, log)), 0);
  sum_of("d", is);
  assert_string_equal(is, becomes);
  does(shell("[ ! -e d.making ]"));
}

/* quantize's report holds seconds, so that no two runs are alike: its kills are looked at by what loads. */
static void kills_leave_one_or_the_other(void **state) {
  char a[100], d[100];
  (void)state;
  snprintf(a, sizeof a, "%s/b", folder);
  snprintf(d, sizeof d, "%s/d", folder);
  check_kills((const char *const[]){"convert", a, d, "--force", "--dtype", "bf16", NULL});
}

static void kills_leave_a_model_to_quantize(void **state) {
  char b[100], d[100];
  (void)state;
  snprintf(b, sizeof b, "%s/b", folder);
  snprintf(d, sizeof d, "%s/d", folder);
  const char *const words[] = {"quantize", b, d, "--force", "--method", "rtn", "--group", "32", "--threads", "1", NULL};
  make_dst();
  double begin = pu_now();
  assert_int_equal(program_wait(program_start(words, "/dev/null", "/dev/null")), 0);
  double whole = pu_now() - begin;
  does(shell("[ ! -e d.making ] && [ ! -e d/quantize_config.json ] && [ ! -e d/merges.txt ] && grep rtn "
             "d/quantize_report.json"));
  for (int i = 0; i < KILLS; i += 4) {
    make_dst();
    (void)kill_it(words, i, whole);
    does(shell("puyu inspect d >was && if [ -e d/merges.txt ]; then cmp a/model.safetensors d/model.safetensors; else "
               "grep rtn d/quantize_report.json; fi"));
  }
}

/* Folders that are not there yet: nothing, or all. */
static void a_new_folder_is_there_whole_or_not(void **state) {
  char b[100], n[100];
  (void)state;
  snprintf(b, sizeof b, "%s/b", folder);
  snprintf(n, sizeof n, "%s/n", folder);
  const char *const words[] = {"convert", b, n, NULL};
  for (int i = 0; i < KILLS; i += 2) {
    does(shell("rm -rf n"));
    (void)kill_it(words, i, 0.05);
    does(shell("[ ! -e n ] || { diff -r b n && [ $(ls n | wc -l) = 3 ]; }"));
  }
  does(shell("rm -rf n && puyu convert b n && diff -r b n && [ ! -e n.making ]"));
}

static void two_runs_are_kept_apart(void **state) {
  static const char *const lines[] = {"convert b d --force", "quantize b d --force --method rtn --group 32",
                                      "init --shape puyu-2m --out d --force", "convert b d.gguf"};
  (void)state;
  does(shell("rm -rf *.making")); /* of runs that were killed */
  make_dst();
  for (size_t i = 0; i < PU_COUNT(lines); i++) {
    char dir[100], said[100], was[200], is[200];
    pu_claim *c;
    pu_error e;
    bool gguf = i == 3;
    snprintf(dir, sizeof dir, "%s/d%s.making", folder, gguf ? ".gguf" : "");
    snprintf(said, sizeof said, "%s.making/lock: locked by process %d: wait for it", gguf ? "d.gguf" : "/d",
             (int)getpid());
    assert_ok(pu_claim_open(dir, "lock", &c, &e), &e);
    sum_of("d", was);
    assert_int_equal(puyu("%s", lines[i]), 1);
    says(said);
    sum_of("d", is);
    assert_string_equal(is, was);
    pu_claim_close(c);
    does(shell("[ ! -e d.making ] && [ ! -e d.gguf ]"));
  }
}

/* On file systems that cannot exchange two folders, a kill may leave the old one aside. */
static void what_was_put_aside_comes_back(void **state) {
  (void)state;
  does(shell("rm -rf *.making")); /* of runs that were killed */
  make_dst();
  does(shell("mkdir d.making && mv d d.making/old && echo 1 >d.making/lock && mkdir d.making/model"));
  assert_int_equal(puyu("convert b d"), 2);
  says("d: is back from a run that was ended: take another folder, or --force");
  does(shell("[ ! -e d.making ] && grep you d/README.md && cmp a/config.json d/config.json"));
  does(shell("mkdir d.making && mv d d.making/old && puyu convert b d --force && grep you d/README.md && "
             "[ ! -e d/merges.txt ] && cmp b/model.safetensors d/model.safetensors && [ ! -e d.making ]"));
}

/* A link is what it leads to; a folder without a model keeps what it has; rights stay. */
static void folders_stay_what_they_are(void **state) {
  (void)state;
  does(shell("rm -rf *.making")); /* of runs that were killed */
  make_dst();
  does(shell("chmod 750 d && ln -s d l && puyu convert b l/ --force && [ -L l ] && cmp b/config.json d/config.json && "
             "[ \"$(stat -c %%a d)\" = 750 ] && [ ! -e d.making ] && [ ! -e l.making ]"));
  does(
      shell("mkdir t && echo tokens >t/merges.txt && puyu init --shape puyu-2m --vocab-size 300 --out t --threads 1 && "
            "grep tokens t/merges.txt && puyu init --shape puyu-2m --vocab-size 300 --out t --force --threads 1 && "
            "grep tokens t/merges.txt && puyu convert b t --force && [ ! -e t/merges.txt ]"));
  /* Who stands in the folder would be left in one that is gone. */
  does(shell(
      "mkdir -p w/below && cd w/below && for to in . .. ../../w; do ! puyu init --shape puyu-2m --vocab-size 300 "
      "--out $to --threads 1 2>said && grep 'the folder you are in' said || exit 1; done && rm said && cd ../.. && "
      "rmdir w/below w && mkdir w && cd w && puyu init --shape puyu-2m --vocab-size 300 --out ../w2 --threads 1"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(kills_leave_one_or_the_other),       cmocka_unit_test(kills_leave_a_model_to_quantize),
      cmocka_unit_test(a_new_folder_is_there_whole_or_not), cmocka_unit_test(two_runs_are_kept_apart),
      cmocka_unit_test(what_was_put_aside_comes_back),      cmocka_unit_test(folders_stay_what_they_are)};
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
