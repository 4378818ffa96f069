/* Tasks and their questions: prompts to the letter, custom sets, mistakes. */
#include "src/eval/internal.h"
#include "tests/test.h"

#include <stdlib.h>

static char folder[] = "/tmp/puyu-eval-XXXXXX";
static pu_arena *arena;

static void put(const char *name, const char *text) {
  char path[200];
  pu_error e;
  snprintf(path, sizeof path, "%s/%s", folder, name);
  assert_ok(pu_file_write(path, text, strlen(text), &e), &e);
}

static pu_eval_task *parse(const char *yaml) {
  pu_error e;
  pu_eval_task *t;
  assert_ok(pu_eval_task_parse("t", pu_str_c(yaml), arena, &t, &e), &e);
  return t;
}

static eval_items read(const pu_eval_task *t, int64_t limit) {
  pu_error e;
  eval_items items;
  const pu_eval_options o = {.data = folder, .limit = limit, .shots = -1, .rule = -1};
  assert_ok(eval_items_read(t, &o, &items, &e), &e);
  return items;
}

static void is(pu_str s, const char *wanted) {
  if (!pu_str_eq(s, pu_str_c(wanted))) fail_msg("'%.*s', not '%s'", (int)s.len, s.ptr, wanted);
}

static const char two_subjects[] = "test: q/*_test.csv\ndev: q/*_dev.csv\ncolumns: [question, A, B, answer]\nshots: 2\n"
                                   "head: \"About {{ title }}.\\n\\n\"\n"
                                   "prompt: \"{{ question | trim }}\\nA. {{ A }}\\nB. {{ B }}\\nAnswer:\"\n"
                                   "choices: [\" A\", \" B\"]\nanswer: \"{{ answer }}\"\ntitles: [\"b_c=B and C\"]\n";

static void prompts_to_the_letter(void **state) {
  (void)state;
  put("q/a_test.csv", "\"one, \"\"two\"\"?\",x;y,z,A\n second?,x,z,B\nthird,x,z,1\n");
  put("q/a_dev.csv", "d1,p,q,B\nd2,p,q,A\nd3,p,q,A\n");
  put("q/b_c_test.csv", "last,x,z,A\n");
  put("q/b_c_dev.csv", "d1,p,q,B\n");
  eval_items items = read(parse(two_subjects), 2);
  assert_int_equal(items.n, 3);
  eval_item *it = &items.v[0];
  is(it->subject->head, "About a.\n\n");
  assert_int_equal(it->subject->n_shots, 2);
  is(it->subject->shots[0], "d1\nA. p\nB. q\nAnswer: B\n\n");
  is(it->question, "one, \"two\"?\nA. x;y\nB. z\nAnswer:");
  is(it->options[1], " B");
  assert_int_equal(it->right, 0);
  is(items.v[1].question, "second?\nA. x\nB. z\nAnswer:");
  assert_int_equal(items.v[1].right, 1);
  is(items.v[2].subject->head, "About B and C.\n\n");
  assert_int_equal(items.v[2].subject->n_shots, 1);
  assert_string_equal(items.v[2].subject->name, "b_c");
  eval_items_free(&items);
  items = read(parse(two_subjects), 0);
  assert_int_equal(items.n, 4);
  assert_int_equal(items.v[2].right, 1); /* by its number */
  eval_items_free(&items);
}

static void options_of_a_list(void **state) {
  (void)state;
  put("arc.jsonl",
      "{\"q\":{\"stem\":\"S\",\"choices\":[{\"text\":\"u\",\"label\":\"1\"},{\"text\":\"v\",\"label\":\"2\"},"
      "{\"text\":\"w\",\"label\":\"3\"}]},\"key\":\"2\"}\n");
  eval_items items = read(parse("test: arc.jsonl\nprompt: \"Question: {{ q.stem }}\"\nchoices_from: q.choices\n"
                                "choices: [\" {{ label }}) {{ choice.text }}\"]\nanswer: \"{{ key }}\"\n"),
                          0);
  assert_int_equal(items.v[0].n_options, 3);
  assert_int_equal(items.v[0].right, 1); /* by its label, which is not its place */
  is(items.v[0].options[2], " 3) w");
  eval_items_free(&items);
  put("lines.txt", "context\n1\nend a\nend b\n");
  items = read(
      parse("test: lines.txt\ncolumns: [c, right, a, b]\nprompt: \"{{ c }}\"\nchoices: [\" {{ a }}\", \" {{ b }}\"]\n"
            "answer: \"{{ right }}\"\n"),
      0);
  is(items.v[0].options[1], " end b");
  assert_int_equal(items.v[0].right, 1);
  eval_items_free(&items);
}

static pu_eval_task *open_set(const char *name, pu_err wanted, const char *says) {
  char path[200];
  pu_error e;
  pu_eval_task *t = NULL;
  snprintf(path, sizeof path, "%s/%s", folder, name);
  pu_err err = pu_eval_task_open(path, arena, &t, &e);
  if (err != wanted) fail_msg("%s: error %d: %s", name, err, err ? e.msg : "");
  if (says && !strstr(e.msg, says)) fail_msg("no '%s' in: %s", says, e.msg);
  return t;
}

static void custom_sets(void **state) {
  (void)state;
  put("m.jsonl", "{\"question\":\"1+1=\",\"A\":\"2\",\"B\":\"3\",\"C\":\"4\",\"answer\":\"A\"}\n");
  pu_eval_task *t = open_set("m.jsonl", PU_OK, NULL);
  assert_int_equal(t->kind, PU_EVAL_GENERATE); /* gen, unless .meta.json says ppl */
  assert_string_equal(t->name, "m");
  eval_items items = read(t, 0);
  is(items.v[0].question, "1+1=\nA. 2\nB. 3\nC. 4");
  is(items.v[0].answer, "A");
  eval_items_free(&items);
  put("m.jsonl.meta.json", "{\"abbr\":\"my set\",\"infer_method\":\"ppl\",\"human_prompt\":\"Q: {question} {no\","
                           "\"bot_prompt\":\"A: {answer}\"}");
  t = open_set("m.jsonl", PU_OK, NULL);
  assert_string_equal(t->name, "my_set");
  assert_int_equal(t->kind, PU_EVAL_CHOICE);
  assert_int_equal(t->rule, PU_EVAL_SEQUENCE);
  items = read(t, 0);
  is(items.v[0].question, "Q: 1+1= {no\n");
  is(items.v[0].options[2], "A: C");
  eval_items_free(&items);
  put("q.csv", "question,answer\n2+2=,4\n");
  t = open_set("q.csv", PU_OK, NULL);
  assert_string_equal(t->extract.v[0], "text");
  put("q.csv.meta.json", "{\"infer_method\":\"ppl\"}");
  (void)open_set("q.csv", PU_ERR_FORMAT, "qa");
  put("n.csv", "question,right\n2+2=,4\n");
  (void)open_set("n.csv", PU_ERR_FORMAT, "'answer'");
  put("e.jsonl", "");
  (void)open_set("e.jsonl", PU_ERR_FORMAT, "no records");
}

static void mistakes_are_told(void **state) {
  (void)state;
  static const struct {
    const char *yaml, *says;
  } rows[] = {{"prompt: x\n", "test"},
              {"test:\nprompt: x\n", "test"},
              {"test: x\nprompt:\nchoices: [a, b]\nanswer: a\n", "prompt"},
              {"test: x\nprompt: p\nanswer: a\n", "choices"},
              {"test: x\nprompt: p\nchoices: [a, b]\n", "answer"},
              {"test: x\nkind: generate\nprompt: p\nanswer: a\n", "extract"},
              {"test: x\nprompt: p\nchoices: [a, b]\nanswer: a\nshots: 3\n", "dev"},
              {"test: x\nkind: gues\n", "gues"},
              {"tets: x\n", "test"}};
  pu_error e;
  pu_eval_task *t;
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    assert_int_not_equal(pu_eval_task_parse("t.yaml", pu_str_c(rows[i].yaml), arena, &t, &e), PU_OK);
    if (!strstr(e.msg, rows[i].says)) fail_msg("no '%s' in: %s", rows[i].says, e.msg);
  }
  assert_int_equal(pu_eval_task_open("mmul", arena, &t, &e), PU_ERR_USAGE);
  assert_non_null(strstr(e.msg, "mmlu"));
  assert_int_equal(pu_eval_task_open("nothing-like-it", arena, &t, &e), PU_ERR_USAGE);
  assert_non_null(strstr(e.msg, "gsm8k"));
  for (size_t i = 0; pu_eval_task_at(i); i++) assert_ok(pu_eval_task_open(pu_eval_task_at(i), arena, &t, &e), &e);
}

/* Bad data names its file and place. */
static void bad_data(void **state) {
  (void)state;
  static const char choice[] = "test: bad.%s\nprompt: \"{{ q }}\"\nchoices: [\" a\", \" b\"]\nanswer: \"{{ r }}\"\n";
  static const struct {
    const char *ending, *text, *says;
  } rows[] = {{"jsonl", "{\"q\":\"x\",\"r\":\"A\"}\n{\"q\":\"x\",\n", "line 2"},
              {"jsonl", "{\"q\":\"x\",\"r\":\"A\"}\n[1]\n", ":2"},
              {"jsonl", "{\"q\":\"x\",\"r\":\"C\"}\n", "'C'"},
              {"jsonl", "{\"q\":\"x\"}\n", "r"},
              {"jsonl", "", "no records"},
              {"csv", "q,r\nx,A\nx,A,more\n", "row 3"},
              {"csv", "q,r\n\"x,A\n", "quotation"},
              {"json", "{\"a\":1}", "list"}};
  pu_error e;
  const pu_eval_options o = {.data = folder, .shots = -1};
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    char yaml[300], name[20];
    snprintf(name, sizeof name, "bad.%s", rows[i].ending);
    snprintf(yaml, sizeof yaml, choice, rows[i].ending);
    put(name, rows[i].text);
    eval_items items;
    pu_err err = eval_items_read(parse(yaml), &o, &items, &e);
    eval_items_free(&items);
    assert_int_not_equal(err, PU_OK);
    if (!strstr(e.msg, rows[i].says) || !strstr(e.msg, name)) fail_msg("no '%s' in: %s", rows[i].says, e.msg);
  }
  eval_items items;
  assert_int_equal(eval_items_read(parse("test: no/such.csv\nprompt: p\nchoices: [a, b]\nanswer: a\n"), &o, &items, &e),
                   PU_ERR_IO);
  eval_items_free(&items);
}

static int set_up(void **state) {
  char path[100];
  pu_error e;
  (void)state;
  if (!mkdtemp(folder)) return -1;
  snprintf(path, sizeof path, "%s/q", folder);
  return pu_mkdirs(path, &e) || pu_arena_create((size_t)64 << 20, &arena, &e) ? -1 : 0;
}

static int tear_down(void **state) {
  pu_error e;
  (void)state;
  pu_arena_free(arena);
  return pu_remove_tree(folder, &e) ? -1 : 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(prompts_to_the_letter), cmocka_unit_test(options_of_a_list),
                                     cmocka_unit_test(custom_sets), cmocka_unit_test(mistakes_are_told),
                                     cmocka_unit_test(bad_data)};
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
