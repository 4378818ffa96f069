/* The loop over a scripted model: what is called, what goes back, and how it ends. */
#include "puyu/tune.h"
#include "tests/agent/fake.h"

#define CALL(id, name, arguments)                                                                                      \
  "{\"id\": \"" id "\", \"type\": \"function\", \"function\": {\"name\": \"" name "\", \"arguments\": \"" arguments    \
  "\"}}"
#define SAYS(text)  "{\"content\": \"" text "\"}"
#define CALLS(list) "{\"content\": \"\", \"tool_calls\": [" list "]}"

typedef struct heard {
  pu_buf log; /* a line an event */
} heard;

static void on_event(void *arg, const pu_agent_event *ev) {
  static const char *const kinds[] = {"step", "text", "call", "result", "end"};
  heard *h = arg;
  pu_buf_printf(&h->log, "%s", kinds[ev->kind]);
  if (ev->kind == PU_AGENT_STEP) pu_buf_printf(&h->log, " %d", ev->step);
  if (ev->kind == PU_AGENT_END) pu_buf_printf(&h->log, " %s", pu_agent_end_names[ev->end]);
  if (ev->name) pu_buf_printf(&h->log, " %s", ev->name);
  if (ev->failed) pu_buf_puts(&h->log, " failed");
  if (ev->text.len && ev->kind != PU_AGENT_STEP)
    pu_buf_printf(&h->log, " %.*s", (int)PU_MIN(ev->text.len, (size_t)60), ev->text.ptr);
  pu_buf_putc(&h->log, '\n');
}

typedef struct bench {
  fake *f;
  pu_agent *a;
  heard h;
  pu_error e;
} bench;

static void open_bench(bench *b, const char *const *script, pu_agent_options o) {
  b->f = fake_open(script, false);
  pu_buf_init(&b->h.log, 1 << 20);
  o.model = &b->f->m;
  o.on_event = on_event;
  o.arg = &b->h;
  b->a = fake_agent(o);
}

static void close_bench(bench *b) {
  pu_agent_close(b->a);
  pu_agent_model_close(&b->f->m);
  pu_buf_deinit(&b->h.log);
  assert_int_equal(counters_open, 0);
}

static pu_agent_end ask(bench *b, const char *question) {
  pu_agent_end end = PU_AGENT_ENDS;
  assert_ok(pu_agent_ask(b->a, pu_str_c(question), &end, &b->e), &b->e);
  return end;
}

static void said(const bench *b, const char *path, const char *want) {
  const char *got = at(pu_agent_messages(b->a), path);
  if (strcmp(got, want) != 0) fail_msg("%s: \"%s\" is not \"%s\"", path, got, want);
}

static void begins(const bench *b, const char *path, const char *want) {
  const char *got = at(pu_agent_messages(b->a), path);
  if (strncmp(got, want, strlen(want)) != 0) fail_msg("%s: \"%s\" does not begin with \"%s\"", path, got, want);
}

static void an_answer_without_calls(void **state) {
  (void)state;
  static const char *const script[] = {SAYS("hello"), SAYS("again"), NULL};
  bench b;
  open_bench(&b, script, (pu_agent_options){.system = "be brief", .how = {.seed = 7}});
  assert_int_equal(ask(&b, "who?"), PU_AGENT_ANSWERED);
  assert_string_equal(b.h.log.data, "step 1\ntext hello\nend answered\n");
  said(&b, "0/role", "system");
  said(&b, "1/content", "who?");
  said(&b, "2/content", "hello");
  assert_int_equal(b.f->seed, 7);
  assert_int_equal(ask(&b, "and?"), PU_AGENT_ANSWERED);
  assert_int_equal(b.f->seed, 8);
  assert_int_equal(pu_agent_said(b.a).len, 5);
  assert_memory_equal(pu_agent_said(b.a).ptr, "again", 5);
  assert_int_equal(json_array_size(pu_agent_messages(b.a)), 5);
  assert_ok(pu_agent_reset(b.a, &b.e), &b.e);
  assert_int_equal(json_array_size(pu_agent_messages(b.a)), 1);
  assert_int_equal(pu_agent_said(b.a).len, 0);
  close_bench(&b);
}

static void calls_are_run_in_their_order(void **state) {
  (void)state;
  static const char *const script[] = {
      "{\"content\": \"let me see\", \"tool_calls\": [" CALL(
          "c1", "calculator", "{\\\"expression\\\": \\\"17 * 3\\\"}") ", " CALL("c2", "counter",
                                                                                "{}") ", " CALL("c3", "counter",
                                                                                                "{ }") "]}",
      SAYS("51"), NULL};
  bench b;
  open_bench(&b, script, (pu_agent_options){0});
  assert_int_equal(ask(&b, "17 * 3?"), PU_AGENT_ANSWERED);
  assert_string_equal(b.h.log.data, "step 1\ntext let me see\ncall calculator {\"expression\": \"17 * 3\"}\n"
                                    "result calculator 51\ncall counter {}\nresult counter 1\ncall counter { }\n"
                                    "result counter 2\nstep 2\ntext 51\nend answered\n");
  said(&b, "1/tool_calls/0/id", "c1");
  said(&b, "2/role", "tool");
  said(&b, "2/tool_call_id", "c1");
  said(&b, "2/name", "calculator");
  said(&b, "2/content", "51");
  said(&b, "4/tool_call_id", "c3");
  said(&b, "5/content", "51");
  /* The second time the model is asked with all of that, and the tools. */
  assert_string_equal(at(b.f->heard, "1/messages/2/content"), "51");
  assert_string_equal(at(b.f->heard, "1/tools/0/function/name"), "calculator");
  assert_string_equal(at(b.f->heard, "1/tools/0/function/parameters/required/0"), "expression");
  pu_agent_count n = pu_agent_counted(b.a);
  assert_int_equal(n.steps, 2);
  assert_int_equal(n.calls, 3);
  assert_int_equal(n.failed + n.unknown + n.unreadable, 0);
  close_bench(&b);
}

/* What a model does wrong it is told, and may do better. */
static void mistakes_are_told(void **state) {
  (void)state;
  static const struct {
    const char *call, *says;
    int unknown, unreadable, failed;
    bool unlearned;
  } rows[] = {
      {CALL("c", "nosuch", "{}"), "Error: there is no tool 'nosuch'; there are: calculator, echo", 1, 0, 0, true},
      {"{\"type\": \"function\", \"function\": {}}", "Error: there is no tool ''", 1, 0, 0, true},
      {CALL("c", "echo", "{\\\"a\\\": 1"), "Error: the arguments are no JSON object: {\"a\": 1", 0, 1, 0, true},
      {CALL("c", "echo", "[1]"), "Error: the arguments are no JSON object: [1]", 0, 1, 0, true},
      {CALL("c", "echo", ""), "Error: the arguments are no JSON object: ", 0, 1, 0, true},
      {CALL("c", "echo", "{}"), "Error: the arguments lack \"a\"", 0, 1, 0, true},
      {CALL("c", "echo", "{\\\"a\\\": \\\"1\\\"}"), "Error: a must be an integer", 0, 1, 0, true},
      {CALL("c", "echo", "{\\\"a\\\": 1.5}"), "Error: a must be an integer", 0, 1, 0, true},
      {CALL("c", "echo", "{\\\"a\\\": 1.0}"), "{\"a\":1.0}", 0, 0, 0, false},
      {CALL("c", "echo", "{\\\"a\\\": 1, \\\"b\\\": \\\"z\\\"}"), "Error: b must be one of: x, y", 0, 1, 0, true},
      {CALL("c", "echo", "{\\\"b\\\": \\\"y\\\", \\\"a\\\": 1}"), "{\"b\":\"y\",\"a\":1}", 0, 0, 0, false},
      {CALL("c", "echo", "{\\\"a\\\": 1, \\\"c\\\": [null, \\\"s\\\", 3]}"), "Error: c[2] has a wrong type", 0, 1, 0,
       true},
      {CALL("c", "echo", "{\\\"a\\\": 1, \\\"d\\\": 1}"), "Error: the arguments have \"d\", which is not known", 0, 1,
       0, true},
      {CALL("c", "calculator", "{\\\"expression\\\": \\\"1/0\\\"}"), "Error: at character 2: division by zero", 0, 0, 1,
       false},
      {CALL("c", "broken", "{}"), "half of a result\nError: the disk is on fire", 0, 0, 1, false},
      {CALL("c", "bytes", "{}"), "a", 0, 0, 0, false},
  };
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    char first[1000];
    const char *const script[] = {first, SAYS("sorry"), NULL};
    snprintf(first, sizeof first, CALLS("%s"), rows[i].call);
    bench b;
    open_bench(&b, script, (pu_agent_options){0});
    assert_int_equal(ask(&b, "?"), PU_AGENT_ANSWERED);
    begins(&b, "2/content", rows[i].says);
    pu_agent_count n = pu_agent_counted(b.a);
    assert_int_equal(n.unknown, rows[i].unknown);
    assert_int_equal(n.unreadable, rows[i].unreadable);
    assert_int_equal(n.failed, rows[i].failed);
    /* No template has words for arguments that are no object. */
    if (strstr(rows[i].says, "no JSON object")) said(&b, "1/tool_calls/0/function/arguments", "{}");
    pu_buf line;
    pu_buf_init(&line, 1 << 20);
    assert_ok(pu_agent_transcript(b.a, &line, &b.e), &b.e);
    json_t *v = json_loads(line.data, 0, NULL);
    assert_string_equal(at(v, "messages/1/loss"), rows[i].unlearned ? "false" : "nothing");
    assert_string_equal(at(v, "messages/3/loss"), "nothing");
    assert_string_equal(at(pu_agent_messages(b.a), "1/loss"), "nothing");
    json_decref(v);
    pu_buf_deinit(&line);
    close_bench(&b);
  }
}

static void results_are_bounded(void **state) {
  (void)state;
  static const char *const script[] = {CALLS(CALL("c", "long", "{}")), SAYS("much"), NULL};
  bench b;
  open_bench(&b, script, (pu_agent_options){0});
  assert_int_equal(ask(&b, "?"), PU_AGENT_ANSWERED);
  const json_t *text = json_object_get(json_array_get(pu_agent_messages(b.a), 2), "content");
  assert_true(json_string_length(text) < (16 << 10) + 100);
  assert_non_null(strstr(json_string_value(text), "more bytes are left out)"));
  assert_true(pu_utf8_valid(pu_str_of(json_string_value(text), json_string_length(text))));
  close_bench(&b);
}

static void ids_are_unique(void **state) {
  (void)state;
  static const char *const script[] = {
      CALLS(CALL("same", "counter", "{}") ", " CALL("same", "counter", "{}") ", " CALL("", "echo", "{\\\"a\\\": 1}")),
      CALLS(CALL("same", "echo", "{\\\"a\\\": 2}") ", " CALL("call_1", "echo", "{\\\"a\\\": 3}")), SAYS("."), NULL};
  static const char *const want[] = {"same", "call_1", "call_2", "call_3", "call_4"};
  bench b;
  open_bench(&b, script, (pu_agent_options){0});
  assert_int_equal(ask(&b, "?"), PU_AGENT_ANSWERED);
  for (int i = 0; i < 5; i++) {
    char call[60], result[60];
    snprintf(call, sizeof call, "%d/tool_calls/%d/id", i < 3 ? 1 : 5, i % 3);
    snprintf(result, sizeof result, "%d/tool_call_id", i < 3 ? 2 + i : 3 + i);
    said(&b, call, want[i]);
    said(&b, result, want[i]);
  }
  close_bench(&b);
}

static void steps_are_bounded(void **state) {
  (void)state;
  static const char *const script[] = {CALLS(CALL("", "counter", "{\\\"i\\\": 1}")),
                                       CALLS(CALL("", "counter", "{\\\"i\\\": 2}")),
                                       CALLS(CALL("", "counter", "{\\\"i\\\": 3}")), SAYS("done"), NULL};
  bench b;
  open_bench(&b, script, (pu_agent_options){.max_steps = 2});
  assert_int_equal(ask(&b, "?"), PU_AGENT_STEPS);
  assert_int_equal(pu_agent_counted(b.a).steps, 2);
  said(&b, "4/content", "2"); /* the last call was run: the next question goes on from there */
  assert_int_equal(ask(&b, "go on"), PU_AGENT_ANSWERED);
  close_bench(&b);
  static const char *const many[] = {
      CALLS(CALL("", "calculator", "{\\\"expression\\\": \\\"1\\\"}") ", " CALL("", "nosuch", "{}")), NULL};
  open_bench(&b, many, (pu_agent_options){0});
  assert_int_equal(ask(&b, "?"), PU_AGENT_REPEATED);
  assert_int_equal(pu_agent_counted(b.a).steps, 3);
  begins(&b, "8/content", "Error: this call was made before");
  said(&b, "9/content", "Error: it was not run");
  /* The next question may ask it again. */
  assert_int_equal(ask(&b, "?"), PU_AGENT_REPEATED);
  said(&b, "12/content", "1");
  close_bench(&b);
}

static void a_call_cut_off_is_not_run(void **state) {
  (void)state;
  static const char *const script[] = {
      "{\"content\": \"hm\", \"finish\": \"length\", \"tool_calls\": [" CALL("c", "echo", "{\\\"a\\\": 1}") "]}",
      "{\"content\": \"no\", \"finish\": \"cancel\", \"tool_calls\": [" CALL("c", "echo", "{\\\"a\\\": 1}") "]}", NULL};
  bench b;
  open_bench(&b, script, (pu_agent_options){0});
  assert_int_equal(ask(&b, "?"), PU_AGENT_CUT);
  assert_int_equal(ask(&b, "?"), PU_AGENT_STOPPED);
  assert_int_equal(pu_agent_counted(b.a).calls, 0);
  said(&b, "1/content", "hm");
  said(&b, "1/tool_calls", "nothing");
  said(&b, "3/content", "no");
  close_bench(&b);
}

static int stops_after;
static bool stop_soon(void) {
  return stops_after-- <= 0;
}

static void a_stop_between_calls(void **state) {
  (void)state;
  static const char *const script[] = {CALLS(CALL("", "counter", "{}") ", " CALL("", "counter", "{}")), SAYS("never"),
                                       NULL};
  bench b;
  stops_after = 1;
  open_bench(&b, script, (pu_agent_options){.stop = stop_soon});
  assert_int_equal(ask(&b, "?"), PU_AGENT_STOPPED);
  said(&b, "2/content", "1");
  said(&b, "3/content", "Error: it was not run");
  close_bench(&b);
}

/* An error leaves the conversation as it was. */
static void errors_undo_the_question(void **state) {
  (void)state;
  static const char *const script[] = {SAYS("one"),
                                       CALLS(CALL("", "nosuch", "{}")),
                                       "{\"error\": \"the server is gone\", \"code\": 2}",
                                       CALLS(CALL("", "spent", "{}")),
                                       "{\"error\": \"too long\", \"code\": 1}",
                                       CALLS(CALL("", "counter", "{}")),
                                       "{\"error\": \"too long\", \"code\": 1}",
                                       NULL};
  bench b;
  pu_agent_end end;
  open_bench(&b, script, (pu_agent_options){0});
  assert_int_equal(ask(&b, "?"), PU_AGENT_ANSWERED);
  assert_int_equal(pu_agent_ask(b.a, pu_str_c("two"), &end, &b.e), PU_ERR_IO);
  assert_string_equal(b.e.msg, "the server is gone");
  assert_int_equal(json_array_size(pu_agent_messages(b.a)), 2);
  assert_int_equal(pu_agent_counted(b.a).unknown, 0);
  assert_int_equal(pu_agent_ask(b.a, pu_str_c("three"), &end, &b.e), PU_ERR_NOMEM);
  assert_int_equal(pu_agent_ask(b.a, pu_str_c("too long at once"), &end, &b.e), PU_ERR_USAGE);
  assert_int_equal(json_array_size(pu_agent_messages(b.a)), 2);
  /* But what no longer fits after tools were run can be looked at. */
  assert_int_equal(ask(&b, "?"), PU_AGENT_FULL);
  said(&b, "4/content", "1");
  close_bench(&b);
}

static void opening_fails_clearly(void **state) {
  (void)state;
  static const char *const script[] = {SAYS("."), NULL};
  static const char *const unknown[] = {"calculator", "calcolator"}, *const twice[] = {"calculator", "calculator"};
  fake *f = fake_open(script, false);
  pu_agent *a;
  pu_error e;
  pu_agent_options o = {.model = &f->m, .tools = unknown, .n_tools = 2};
  assert_int_equal(pu_agent_open(&o, &a, &e), PU_ERR_USAGE);
  assert_null(a);
  if (!strstr(e.msg, "there is no tool 'calcolator'; known: calculator")) fail_msg("%s", e.msg);
  o.tools = twice;
  assert_int_equal(pu_agent_open(&o, &a, &e), PU_ERR_USAGE);
  o.n_tools = 0;
  assert_ok(pu_agent_open(&o, &a, &e), &e);
  assert_int_equal(agent_add_tool(a, &fake_tools[5], &(pu_agent_setup){0}, &e), PU_ERR_USAGE);
  assert_string_equal(e.msg, "tool counter: it needs a folder");
  pu_agent_end end;
  assert_ok(pu_agent_ask(a, pu_str_c("?"), &end, &e), &e);
  assert_string_equal(at(f->heard, "0/tools"), "nothing"); /* none are offered */
  pu_agent_close(a);
  pu_agent_close(NULL);
  pu_agent_model_close(&f->m);
}

/* Both forms that a model may be offered tools in. */
static void forms(void **state) {
  (void)state;
  static const char *const script[] = {
      CALLS("{\"type\": \"code_interpreter\", \"code_interpreter\": {\"input\": \"1 + 1\"}}"), SAYS("."), NULL};
  for (int code = 0; code < 2; code++) {
    fake *f = fake_open(script, code);
    pu_error e;
    pu_agent_end end;
    pu_agent *a = fake_agent((pu_agent_options){.model = &f->m});
    assert_string_equal(at(pu_agent_tools(a), "0/type"), "function");
    assert_string_equal(at(pu_agent_tools(a), "7/type"), code ? "code_interpreter" : "function");
    assert_string_equal(at(pu_agent_tools(a), "7/function/name"), code ? "nothing" : "python");
    assert_ok(pu_agent_ask(a, pu_str_c("?"), &end, &e), &e);
    assert_string_equal(at(pu_agent_messages(a), "2/content"), "ran: 1 + 1");
    assert_string_equal(at(pu_agent_messages(a), "2/name"), "python");
    pu_agent_close(a);
    pu_agent_model_close(&f->m);
  }
  /* Every tool's schema is one of an object, and reads. */
  pu_agent_tool t;
  for (size_t i = 0; pu_agent_tool_at(i, &t); i++) {
    json_t *v = json_loads(t.parameters, 0, NULL);
    assert_string_equal(at(v, "type"), "object");
    assert_true(strlen(t.about) > 10);
    json_decref(v);
  }
}

/* ---- transcripts ---- */

static void transcripts_are_conversations(void **state) {
  (void)state;
  static const char *const script[] = {CALLS(CALL("c", "nosuch", "{}")), CALLS(CALL("", "echo", "{\\\"a\\\": 5}")),
                                       SAYS("a \\\"word\\\"\\n \\u4f60"), NULL};
  static const pu_train_source plain;
  bench b;
  pu_buf lines;
  pu_dialogues *d;
  pu_dialogue one;
  bool found;
  pu_buf_init(&lines, 1 << 20);
  open_bench(&b, script, (pu_agent_options){.system = "s"});
  assert_ok(pu_agent_transcript(b.a, &lines, &b.e), &b.e);
  assert_int_equal(lines.len, 0); /* nothing was said */
  assert_int_equal(ask(&b, "\xFF?"), PU_AGENT_ANSWERED);
  for (int i = 0; i < 2; i++) assert_ok(pu_agent_transcript(b.a, &lines, &b.e), &b.e);
  assert_ok(pu_dialogues_parse("t", pu_str_of(lines.data, lines.len), &plain, &d, &b.e), &b.e);
  for (int i = 0; i < 2; i++) {
    assert_ok(pu_dialogues_next(d, &one, &found, &b.e), &b.e);
    assert_true(found);
    assert_true(json_equal(one.messages, pu_agent_messages(b.a)));
    assert_true(json_equal(one.tools, pu_agent_tools(b.a)));
    assert_string_equal(at(one.learn, "2"), "false"); /* nobody is to learn that call */
    assert_string_equal(at(one.learn, "4"), "true");
    pu_dialogue_deinit(&one);
  }
  assert_ok(pu_dialogues_next(d, &one, &found, &b.e), &b.e);
  assert_false(found);
  pu_dialogues_close(d);
  pu_buf_deinit(&lines);
  close_bench(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(an_answer_without_calls),
      cmocka_unit_test(calls_are_run_in_their_order),
      cmocka_unit_test(mistakes_are_told),
      cmocka_unit_test(results_are_bounded),
      cmocka_unit_test(ids_are_unique),
      cmocka_unit_test(steps_are_bounded),
      cmocka_unit_test(a_call_cut_off_is_not_run),
      cmocka_unit_test(a_stop_between_calls),
      cmocka_unit_test(errors_undo_the_question),
      cmocka_unit_test(opening_fails_clearly),
      cmocka_unit_test(forms),
      cmocka_unit_test(transcripts_are_conversations),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
