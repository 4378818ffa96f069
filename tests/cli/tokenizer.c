/* puyu tokenizer encode, decode and bench tokenizer, as programs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
// cmocka wants the four above
#include <cmocka.h>

#include "puyu/base.h"

static char dir[] = "/tmp/puyu-cli-tokenizer-XXXXXX";
static pu_error err;

static void write_file(const char *name, const char *text) {
  char path[100];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  if (pu_file_write(path, text, strlen(text), &err) != PU_OK) fail_msg("%s", err.msg);
}

static int make_dir(void **state) {
  (void)state;
  if (!mkdtemp(dir)) return -1;
  write_file(
      "tokenizer.json",
      "{\"added_tokens\": [{\"id\": 6, \"content\": \"</s>\", \"special\": true}, {\"id\": 7, \"content\": \"<s>\", "
      "\"special\": true}], \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, \"model\": "
      "{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, \"\xC4\xA0\": 3, \"<\": 4, \"s\": 5}, "
      "\"merges\": [\"a b\"]}}");
  write_file("text", "ab a\n\nb<s>\nba");
  write_file("ids", "7 2 3 0\n\n1\n");
  write_file("wrong", "0\n1 x\033\xFF\a 2\n");
  write_file("broken.json", "{\n\"model\" 3}");
  write_file("empty.txt", "");
  write_file("ab.txt", "ab\nba\na\nb\naab\nabb\nbab\naa\nbb\naba\n");
  write_file("large", "0\n99\n");
  return 0;
}

static int remove_dir(void **state) {
  (void)state;
  return pu_remove_tree(dir, &err) == PU_OK ? 0 : -1;
}

/* Runs `puyu ARGS`, with %s in args for the folder; what it writes goes to out. The exit status. */
static int run(const char *args, char *out, size_t size) {
  char command[1000], filled[600];
  snprintf(filled, sizeof filled, args, dir, dir, dir);
  snprintf(command, sizeof command, "%s %s 2>&1", PU_PROGRAM, filled);
  FILE *f = popen(command, "r");
  assert_non_null(f);
  size_t n = fread(out, 1, size - 1, f);
  out[n] = 0;
  return pclose(f) >> 8;
}

static void expect(const char *args, int status, const char *want) {
  char out[2000];
  int got = run(args, out, sizeof out);
  if (got != status || strcmp(out, want) != 0) fail_msg("puyu %s: status %d, printed: %s", args, got, out);
}

/* What is printed holds word. */
static void expect_word(const char *args, int status, const char *word) {
  char out[2000];
  int got = run(args, out, sizeof out);
  if (got != status || !strstr(out, word)) fail_msg("puyu %s: status %d, printed: %s", args, got, out);
}

static void test_encode(void **state) {
  (void)state;
  expect("tokenizer encode --model %s %s/text", 0, "2 3 0\n\n1 4 5\n1 0\n");
  expect("tokenizer encode --model %s/tokenizer.json --bos --special < %s/text", 0, "7 2 3 0\n7\n7 1 7\n7 1 0\n");
  expect_word("tokenizer encode --model %s/missing %s/text", 1, "missing");
  expect_word("tokenizer encode --model %s %s/missing", 1, "missing");
  char want[200];
  snprintf(want, sizeof want, "puyu tokenizer encode: %s: cannot read: Is a directory\n", dir);
  expect("tokenizer encode --model %s %s", 1, want);
  expect_word("tokenizer encode %s/text", 2, "model");
}

static void test_decode(void **state) {
  (void)state;
  expect("tokenizer decode --model %s %s/ids", 0, "<s>ab a\n\nb\n");
  expect("tokenizer decode --model %s --skip-special < %s/ids", 0, "ab a\n\nb\n");
  char want[200];
  snprintf(want, sizeof want, "puyu tokenizer decode: %s/wrong: line 2: \"x???\" is not an id\na\n", dir);
  expect("tokenizer decode --model %s %s/wrong", 1, want); /* no bytes that a terminal would obey, no second line */
  expect_word("tokenizer decode --model %s < %s/wrong", 1, "standard input: line 2: ");
  expect_word("tokenizer decode --model %s %s/large", 1, "/large: line 2: id 99 ");
  expect_word("tokenizer decode --model %s %s", 1, ": cannot read: Is a directory");
}

/* A conversation as the model's own template renders it: to text, and to ids, where only the template writes <s>. */
static void test_chat_template(void **state) {
  (void)state;
  write_file("chat_template.jinja", "<s>{% for m in messages %}{{ m.content }}</s>{% endfor %}{{ mood }}\n"
                                    "{% if add_generation_prompt %}a{% endif %}");
  write_file("talk.json", "{\"messages\": [{\"role\": \"user\", \"content\": \"ab<s\"}], \"mood\": \"b\"}");
  write_file("list.json", "[{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"ab a\"}]}]");
  expect("chat-template %s %s/talk.json", 0, "<s>ab<s</s>b\na");
  expect("chat-template %s --no-prompt < %s/list.json", 0, "<s>ab a</s>\n");
  write_file("chat_template.jinja", "<s>{{ messages[0].content }}</s>");
  expect("chat-template %s --ids %s/list.json", 0,
         "     7 \"<s>\"\n     2 \"ab\"\n     3 \"\xC4\xA0\"\n     0 \"a\"\n     6 \"</s>\"\n");
  write_file("chat_template.jinja", "\n{{ raise_exception('not ' ~ messages[0].role) }}");
  expect_word("chat-template %s %s/talk.json", 2, "/chat_template.jinja:2: not user");
  expect_word("chat-template %s %s/broken.json", 1, "/broken.json:2:");
  write_file("chat_template.jinja", "{% if %}");
  expect_word("chat-template %s %s/talk.json", 1, "/chat_template.jinja:1: expected an expression");
  char path[100];
  snprintf(path, sizeof path, "%s/chat_template.jinja", dir);
  assert_int_equal(pu_remove_tree(path, &err), PU_OK);
  expect_word("chat-template %s %s/talk.json", 1, "no chat_template");
}

/* A file's name stands once in an error, before the place in it. */
static void test_broken(void **state) {
  (void)state;
  expect_word("tokenizer encode --model %s/broken.json %s/text", 1, "/broken.json:2:");
  char out[2000];
  run("tokenizer encode --model %s/broken.json %s/text", out, sizeof out);
  assert_null(strstr(out, "tokenizer.json"));
}

/* What was made before is not overwritten unless that is asked for; tokens asked for and not found are said. */
static void test_made_before(void **state) {
  (void)state;
  char out[4000];
  const char *synth = "data synth --out %s/made --documents 50 --questions 1";
  const char *tokenize = "data tokenize --tokenizer %s --bos=false --eos=false --out %s/shards";
  expect_word(synth, 0, "documents");
  expect_word(synth, 2, "/made/train.jsonl: is there already; take another folder, or replace it with --force");
  expect_word("data synth --out %s/made --documents 50 --questions 1 --force", 0, "documents");
  char words[300];
  snprintf(words, sizeof words, "%s --valid-fraction 0.5 %s/ab.txt --split line", tokenize, dir);
  expect_word(words, 0, "documents");
  expect_word(words, 2, "/shards/train: shards are there already; take another folder, or go on with --force");
  strcat(words, " --force");
  expect_word(words, 0, "documents");
  assert_int_equal(run("tokenizer train --vocab-size 4096 --out %s/tok %s/ab.txt", out, sizeof out), 0);
  assert_non_null(strstr(out, " pieces, not 4096: "));
  expect_word("tokenizer train --out %s/tok %s/ab.txt", 2, "/tok: there is a tokenizer already: take another folder");
  expect_word("tokenizer train --force --out %s/tok %s/empty.txt", 1, "/empty.txt: no text in it");
}

/* A folder that synth made is a corpus: its questions lie beside it. */
static void test_synth_is_a_corpus(void **state) {
  (void)state;
  char path[100];
  expect_word("data synth --out %s/whole/ --documents 50 --questions 1", 0, "/whole-heldout.jsonl");
  snprintf(path, sizeof path, "%s/whole-heldout.jsonl", dir);
  assert_true(pu_path_exists(path));
  expect_word("data tokenize --tokenizer %s --bos=false --eos=false --out %s/whole-shards --valid-fraction 0"
              " %s/whole",
              0, "50 documents");
}

/* Any bytes have ids; those of a file that are no text are said, once. */
static void test_bytes(void **state) {
  (void)state;
  char want[200];
  write_file("bytes", "ab\na\xFF\nb\xFE\n");
  snprintf(want, sizeof want, "warning: %s/bytes:2: no UTF-8; its bytes are taken as they are\n", dir);
  expect_word("tokenizer encode --model %s %s/bytes", 0, want);
  char out[2000];
  run("tokenizer encode --model %s %s/bytes", out, sizeof out);
  assert_null(strstr(out, "bytes:3"));
  write_file("type.json", "{\"model\": {\"type\": 5}}");
  expect_word("tokenizer encode --model %s/type.json %s/text", 1, "the model's type is no string");
}

static void test_bench(void **state) {
  (void)state;
  char out[2000];
  assert_int_equal(run("bench tokenizer --model %s --file %s/text --threads 2 --rounds 1 --json", out, sizeof out), 0);
  json_t *o = NULL;
  if (pu_json_parse("bench", pu_str_c(out), &o, &err) != PU_OK) fail_msg("%s", out);
  assert_int_equal(json_integer_value(json_object_get(o, "bytes")), 13);
  assert_int_equal(json_integer_value(json_object_get(o, "threads")), 2);
  assert_true(json_integer_value(json_object_get(o, "tokens")) > 0);
  assert_true(json_number_value(json_object_get(o, "mib_per_s")) > 0);
  assert_true(json_number_value(json_object_get(o, "limit")) > 0);
  assert_true(json_number_value(json_object_get(o, "ratio")) > 0);
  json_decref(o);
  expect_word("bench tokenizer --file %s/text --rounds 1", 0, "MiB/s"); /* with a tokenizer of its own */
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_encode),
                                     cmocka_unit_test(test_decode),
                                     cmocka_unit_test(test_broken),
                                     cmocka_unit_test(test_made_before),
                                     cmocka_unit_test(test_synth_is_a_corpus),
                                     cmocka_unit_test(test_bytes),
                                     cmocka_unit_test(test_bench),
                                     cmocka_unit_test(test_chat_template)};
  return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
