/* puyu agent, as a shell starts it. */
#include <fcntl.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include "src/cli/safe.h"
#include "tests/shell.h"

static char folder[] = "/tmp/puyu-cli-agent-XXXXXX";

static int set_up(void **state) {
  (void)state;
  if (!mkdtemp(folder)) return -1;
  shell_folder = folder;
  if (shell("printf 'one two three four, two one four three; question answer\\n' >t.txt && mkdir docs &&"
            " echo 'four is two and two' >docs/a.txt &&"
            " puyu tokenizer train --out m --vocab-size 280 t.txt &&"
            " puyu init --shape puyu-2m --vocab-size 280 --out m --threads 1") == 0)
    return 0;
  print_message("%s", out);
  return -1;
}

static int tear_down(void **state) {
  pu_error e;
  (void)state;
  return pu_remove_tree(folder, &e) == PU_OK ? 0 : -1;
}

static void tools_are_listed(void **state) {
  (void)state;
  assert_int_equal(puyu("agent --list"), 0);
  says("calculator\n  Computes ");
  says("\npython\n");
  says("\nsearch\n");
  says("\"expression\": {");
  assert_int_equal(puyu("agent --list --json"), 0);
  json_t *v = json_loads(out, 0, NULL);
  assert_true(json_array_size(v) >= 3);
  assert_string_equal(json_string_value(json_object_get(json_array_get(v, 0), "type")), "function");
  json_decref(v);
}

static void a_question_is_answered(void **state) {
  (void)state;
  assert_int_equal(shell("puyu agent m 'one two' --max-tokens 4 --threads 1 --json 2>log >a.json &&"
                         " cat log && puyu agent m 'one two' --max-tokens 4 --threads 1 2>/dev/null >a.txt"),
                   0);
  says("warning: the answer was cut");
  assert_int_equal(shell("cat a.json"), 0);
  json_t *v = json_loads(out, 0, NULL);
  assert_string_equal(json_string_value(json_object_get(v, "end")), "cut");
  assert_int_equal(json_integer_value(json_object_get(v, "steps")), 1);
  assert_int_equal(json_array_size(json_object_get(v, "messages")), 2);
  assert_int_equal(json_array_size(json_object_get(v, "tools")), 1);
  char answer[4000];
  snprintf(answer, sizeof answer, "%s\n", json_string_value(json_object_get(v, "answer")));
  json_decref(v);
  assert_int_equal(shell("cat a.txt"), 0); /* elsewhere than at a terminal nothing but the answer */
  assert_string_equal(out, answer);
}

/* A line a conversation, behind what is there; one that was left unfinished stays a line of its own. */
static void transcripts_grow(void **state) {
  (void)state;
  assert_int_equal(
      shell("printf 'x' >t.jsonl && puyu agent m hello --max-tokens 3 --threads 1 --transcript t.jsonl &&"
            " printf 'one\\ntwo\\n/reset\\nthree\\n' | XDG_CACHE_HOME=c puyu agent m --docs docs --max-tokens 3"
            " --system 'be brief' --threads 1 --transcript t.jsonl && printf '/reset\\n/quit\\n' |"
            " puyu agent m --tools none --threads 1 --transcript t.jsonl && wc -l <t.jsonl &&"
            " sed -n 3p t.jsonl | puyu data show /dev/stdin --model m 2>&1 | head -c 300; sed 1d t.jsonl >s.jsonl"),
      0);
  says("\n4\n");
  assert_int_equal(shell("sed -n 3p t.jsonl"), 0);
  json_t *v = json_loads(out, 0, NULL), *m = json_object_get(v, "messages");
  assert_int_equal(json_array_size(m), 5);
  assert_string_equal(json_string_value(json_object_get(json_array_get(m, 0), "content")), "be brief");
  assert_string_equal(json_string_value(json_object_get(json_array_get(m, 3), "content")), "two");
  assert_int_equal(json_array_size(json_object_get(v, "tools")), 2); /* --docs brings search */
  json_decref(v);
  assert_int_equal(shell("puyu data show s.jsonl --model m"), 0); /* and can be learned */
}

/* Ctrl-C while a pipe is read: what was answered is kept. The program by its path: it is sent a signal. */
static void a_stop_keeps_the_transcript(void **state) {
  (void)state;
  assert_int_equal(shell("mkfifo f; %s agent m --max-tokens 3 --threads 1 --transcript u.jsonl <f >o 2>log &"
                         " exec 3>f; echo one >&3 && until test -s o; do sleep 0.01; done;"
                         " kill -INT $!; exec 3>&-; wait $!; echo status $?; cat log; wc -l <u.jsonl",
                         PU_PROGRAM),
                   0);
  says("status 1\n");
  says("puyu agent: stopped\n1\n");
}

/* What a model says is a document's word, perhaps: a terminal does not obey it, a file gets it as it is. */
static void orders_to_terminals_are_dropped(void **state) {
  (void)state;
  static const char orders[] = "a\x1b]0;x\a\tb\n\xc2\x9b\xff\xc3\xa9\x7f";
  char got[64] = {0};
  FILE *f = tmpfile();
  pu_cli_put_text(f, pu_str_c(orders));
  rewind(f);
  assert_true(fread(got, 1, sizeof got - 1, f) > 0);
  fclose(f);
  assert_string_equal(got, orders);

  int far_end = posix_openpt(O_RDWR | O_NOCTTY);
  assert_true(far_end >= 0 && grantpt(far_end) == 0 && unlockpt(far_end) == 0);
  int near_end = open(ptsname(far_end), O_RDWR | O_NOCTTY);
  struct termios raw;
  assert_true(near_end >= 0 && tcgetattr(near_end, &raw) == 0);
  cfmakeraw(&raw);
  assert_int_equal(tcsetattr(near_end, TCSANOW, &raw), 0);
  f = fdopen(near_end, "w");
  pu_cli_put_text(f, pu_str_c(orders));
  fflush(f);
  fclose(f);
  memset(got, 0, sizeof got);
  size_t at = 0; /* it may come in parts; the end is an error here */
  for (ssize_t n; (n = read(far_end, got + at, sizeof got - 1 - at)) > 0;) at += (size_t)n;
  close(far_end);
  assert_string_equal(got, "a ]0;x \tb\n  \xc3\xa9 ");
}

static void mistakes_are_told(void **state) {
  (void)state;
  static const struct {
    const char *words;
    int status;
    const char *says;
  } rows[] = {{"agent", 2, "who is to be asked? Give MODEL or --url"},
              {"agent m x --url http://x", 2, "give either --url or MODEL"},
              {"agent m --json", 2, "--json needs a QUESTION"},
              {"agent no x", 1, "no: "},
              {"agent m x --tools calcolator", 2, "there is no tool 'calcolator'; known: calculator, python, search"},
              {"agent --list --tools calculator,calcolator", 2, "there is no tool 'calcolator'"},
              {"agent m x --tools calculator,calculator", 2, "'calculator' is named twice"},
              {"agent m x --tools search", 2, "tool search: which folder is it to look in? Give --docs"},
              {"agent m x --docs nowhere", 1, "tool search: nowhere"},
              {"agent m x --transcript no/where.jsonl", 1, "no/where.jsonl: No such file or directory"},
              {"agent m x --max-steps 0", 2, "--max-steps"},
              {"agent --url http://127.0.0.1:1 x", 1, "http://127.0.0.1:1/v1/models: "},
              {"agent --url 127.0.0.1 x", 2, "an address begins with http:// or https://"},
              {"agent --url http://127.0.0.1:1 x --adapter y", 2, "--served"}};
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    int status = shell("XDG_CACHE_HOME=c puyu %s", rows[i].words);
    if (status != rows[i].status) fail_msg("%s: status %d: %s", rows[i].words, status, out);
    says(rows[i].says);
    if (strchr(out, '\n') != strrchr(out, '\n')) fail_msg("more than a line: %s", out);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(tools_are_listed),
                                     cmocka_unit_test(a_question_is_answered),
                                     cmocka_unit_test(transcripts_grow),
                                     cmocka_unit_test(a_stop_keeps_the_transcript),
                                     cmocka_unit_test(orders_to_terminals_are_dropped),
                                     cmocka_unit_test(mistakes_are_told)};
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
