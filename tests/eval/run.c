/* Tasks on a tiny random model: options that branch off their question are told what they are told whole; results are
 * the same for any batch, after a run that was ended, and through a server. */
#include "puyu/eval.h"
#include "tests/serve/tiny.h"

#include <math.h>
#include <stdlib.h>

static char folder[] = "/tmp/puyu-eval-run-XXXXXX";
static pu_arena *arena;
static tiny bench;

enum { QUESTIONS = 12 };

static const char *const yamls[] = {
    "name: choice\ntest: q/*.csv\ndev: q/one.csv\ncolumns: [question, A, B, C, answer]\nshots: 3\n"
    "head: \"the quick brown fox\\n\"\nprompt: \"{{ question }}\\nAnswer:\"\n"
    "choices: [\" {{ A }}\", \" {{ B }}\", \" {{ C }}\"]\nanswer: \"{{ answer }}\"\n",
    "name: whole\ntest: q/*.csv\ndev: q/one.csv\ncolumns: [question, A, B, C, answer]\nshots: 2\nrule: sequence\n"
    "prompt: \"{{ question }}\\nAnswer:\"\n"
    "choices: [\" {{ A }}\", \" {{ B }}\", \" {{ C }}\"]\nanswer: \"{{ answer }}\"\n",
    "name: said\nkind: generate\ntest: q/*.csv\ncolumns: [question, A, B, C, answer]\nmax_tokens: 6\nextract: "
    "[letter]\n"
    "prompt: \"{{ question }}\\nAnswer:\"\nanswer: \"{{ answer }}\"\nstop: [\"zz\"]\n",
    "name: text\nkind: perplexity\ntest: text.txt\nwindow: 20\n"};
enum { CHOICE, WHOLE, SAID, TEXT, TASKS };

static const char *const words[] = {"fox", "dog", "the lazy dog", "one two", "seven", "jumps over", "quick", "ten"};

static const char *word(uint64_t of, uint64_t i) {
  return words[pu_random_at(7, of, i) % PU_COUNT(words)];
}

static void put(const char *name, const pu_buf *b) {
  char path[200];
  pu_error e;
  snprintf(path, sizeof path, "%s/%s", folder, name);
  assert_ok(pu_file_write(path, b->data, b->len, &e), &e);
}

static void write_sets(void) {
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  for (int file = 0; file < 2; file++) {
    pu_buf_clear(&b);
    for (uint64_t i = 0; i < QUESTIONS / 2; i++) {
      uint64_t of = (uint64_t)file * 100 + i;
      pu_buf_printf(&b, "%s %s %s,%s,%s %s,%s,%c\n", word(of, 0), word(of, 1), word(of, 2), word(of, 3), word(of, 4),
                    word(of, 5), word(of, 6), (char)('A' + of % 3));
    }
    put(file ? "q/two.csv" : "q/one.csv", &b);
  }
  pu_buf_clear(&b);
  for (uint64_t i = 0; i < 60; i++) pu_buf_printf(&b, "%s ", word(999, i));
  put("text.txt", &b);
  pu_buf_deinit(&b);
}

static const pu_eval_task *task(int i) {
  pu_error e;
  pu_eval_task *t;
  assert_ok(pu_eval_task_parse("t", pu_str_c(yamls[i]), arena, &t, &e), &e);
  return t;
}

typedef struct how {
  const char *out;
  int64_t limit;
  int batch;
  bool naive, chat;
} how;

static pu_eval_result run(const pu_eval_task *t, pu_eval_model *m, const how *h) {
  char out[200];
  pu_error e;
  pu_eval_result r;
  snprintf(out, sizeof out, "%s/%s", folder, h->out);
  pu_eval_options o = {.data = folder, .out = h->out ? out : NULL, .limit = h->limit, .shots = -1, .rule = -1};
  assert_ok(pu_eval_run(t, m, &o, &r, &e), &e);
  r.model = NULL;
  return r;
}

/* Over an engine of its own, so that nothing is shared but within the run. */
static pu_eval_result run_local(const pu_eval_task *t, how h) {
  pu_error e;
  pu_engine *en;
  pu_eval_model *m;
  pu_engine_options eo = {.max_batch = 4, .kv_block = 8, .no_prefix_cache = h.naive};
  assert_ok(pu_engine_over(bench.m, bench.t, &eo, &en, &e), &e);
  const pu_eval_local o = {
      .engine = en, .name = "tiny", .identity = "the same", .batch = h.batch, .naive = h.naive, .chat = h.chat};
  assert_ok(pu_eval_local_open(&o, &m, &e), &e);
  pu_eval_result r = run(t, m, &h);
  pu_eval_model_close(m);
  assert_int_equal(pu_engine_get_stats(en).kv_blocks_used, 0); /* no session is left */
  pu_engine_free(en);
  return r;
}

/* ---- logs ---- */

typedef struct samples {
  json_t *by_place; /* "subject 3": the sample */
  int64_t lines;
} samples;

static samples read_log(const char *out, const char *task_name) {
  char path[300], place[100], *line = NULL;
  size_t cap = 0;
  samples s = {.by_place = json_object()};
  snprintf(path, sizeof path, "%s/%s/tiny/%s.jsonl", folder, out, task_name);
  FILE *f = fopen(path, "r");
  assert_non_null(f);
  while (getline(&line, &cap, f) > 0) {
    json_t *v = json_loads(line, 0, NULL);
    if (json_object_get(v, "key")) {
      snprintf(place, sizeof place, "%s %d", json_string_value(json_object_get(v, "subject")),
               (int)json_integer_value(json_object_get(v, "index")));
      json_object_set(s.by_place, place, v);
      s.lines++;
    }
    json_decref(v);
  }
  free(line);
  fclose(f);
  return s;
}

static void near(const json_t *a, const json_t *b, const char *key) {
  double x = json_number_value(json_object_get(a, key)), y = json_number_value(json_object_get(b, key));
  if (fabs(x - y) > 1e-4 * (1 + fabs(x))) fail_msg("%s: %.9g and %.9g", key, x, y);
}

/* Numbers to rounding; texts, tokens and picks exactly. */
static void same_samples(const char *a, const char *b, const char *task_name) {
  samples x = read_log(a, task_name), y = read_log(b, task_name);
  const char *place;
  json_t *s;
  assert_int_equal(json_object_size(x.by_place), json_object_size(y.by_place));
  json_object_foreach(x.by_place, place, s) {
    const json_t *t = json_object_get(y.by_place, place), *told = json_object_get(s, "told");
    assert_non_null(t);
    static const char *const exact[] = {"question", "answer", "score", "text", "found", "picks", "tokens", "cut"};
    for (size_t i = 0; i < PU_COUNT(exact); i++) {
      json_t *p = json_object_get(s, exact[i]), *q = json_object_get(t, exact[i]);
      if (p != q && !json_equal(p, q)) fail_msg("%s: other %s", place, exact[i]);
    }
    near(s, t, "nats");
    for (size_t i = 0; i < json_array_size(told); i++) {
      const json_t *p = json_array_get(told, i), *q = json_array_get(json_object_get(t, "told"), i);
      assert_true(json_equal(json_object_get(p, "tokens"), json_object_get(q, "tokens")));
      near(p, q, "nats");
      near(p, q, "whole_nats");
      near(p, q, "whole_tokens");
    }
  }
  json_decref(x.by_place);
  json_decref(y.by_place);
}

static void same_result(const pu_eval_result *a, const pu_eval_result *b) {
  assert_int_equal(a->n, b->n);
  assert_int_equal(a->cut, b->cut);
  assert_int_equal(a->unread, b->unread);
  assert_true(fabs(a->micro.value - b->micro.value) <= 1e-4 * (1 + fabs(a->micro.value)));
}

/* ---- tests ---- */

static void branching_tells_what_computing_whole_tells(void **state) {
  (void)state;
  for (int t = 0; t <= WHOLE; t++) {
    pu_eval_result a = run_local(task(t), (how){.out = "shared"}),
                   b = run_local(task(t), (how){.out = "naive", .naive = true});
    assert_int_equal(a.n, QUESTIONS);
    assert_int_equal(a.subjects, 2);
    same_result(&a, &b);
    same_samples("shared", "naive", t == CHOICE ? "choice" : "whole");
  }
}

static void any_batch_gives_the_same(void **state) {
  (void)state;
  static const char *const names[TASKS] = {"choice", "whole", "said", "text"};
  for (int t = 0; t < TASKS; t++) {
    pu_eval_result a = run_local(task(t), (how){.out = "b1", .batch = 1});
    for (int batch = 3; batch <= 16; batch += 13) {
      pu_eval_result b = run_local(task(t), (how){.out = batch == 3 ? "b3" : "b16", .batch = batch});
      same_result(&a, &b);
      same_samples("b1", batch == 3 ? "b3" : "b16", names[t]);
    }
  }
}

/* Against the engine asked one thing at a time. */
static void options_and_windows_by_hand(void **state) {
  (void)state;
  pu_ids ids = {0}, context = {0};
  pu_error e;
  pu_session *s;
  size_t n;
  (void)run_local(task(WHOLE), (how){.out = "hand"});
  samples log = read_log("hand", "whole");
  const json_t *x = json_object_get(log.by_place, "one 0"), *told = json_array_get(json_object_get(x, "told"), 0);
  char prompt[1000], path[200];
  pu_buf csv;
  pu_buf_init(&csv, 1 << 16);
  snprintf(path, sizeof path, "%s/q/one.csv", folder);
  assert_ok(pu_file_read(path, 1 << 16, &csv, &e), &e);
  prompt[0] = 0;
  char *line = csv.data;
  for (int i = 0; i < 2; i++, line = strchr(line, '\n') + 1) { /* the examples are the first two lines */
    char cells[5][100];
    assert_int_equal(
        sscanf(line, "%99[^,],%99[^,],%99[^,],%99[^,],%99[^\n]", cells[0], cells[1], cells[2], cells[3], cells[4]), 5);
    size_t at = strlen(prompt);
    snprintf(prompt + at, sizeof prompt - at, "%s\nAnswer: %s\n\n", cells[0], cells[1 + cells[4][0] - 'A']);
  }
  strcat(prompt, json_string_value(json_object_get(x, "question")));
  unsigned bos = pu_tokenizer_adds_bos(bench.t) ? PU_ENCODE_BOS : 0;
  assert_ok(pu_encode(bench.t, pu_str_c(prompt), bos, &context, &e), &e);
  strcat(prompt, json_string_value(json_array_get(json_object_get(x, "options"), 0)));
  assert_ok(pu_encode(bench.t, pu_str_c(prompt), bos, &ids, &e), &e);
  assert_ok(pu_session_open(bench.en, &s, &e), &e);
  assert_ok(pu_session_score(s, 0, &e), &e);
  assert_ok(pu_session_append(s, ids.v, ids.n, &e), &e);
  for (bool more = true; more;) assert_ok(pu_engine_step(bench.en, &more, &e), &e);
  const pu_token_info *info = pu_session_prompt(s, &n);
  double whole = 0, option = 0;
  for (size_t i = 1; i < n; i++) {
    whole -= (double)info[i].logprob;
    if (i >= context.n) option -= (double)info[i].logprob;
  }
  json_t *wanted = json_pack("{s:f,s:f,s:I,s:I}", "nats", option, "whole_nats", whole, "tokens",
                             (json_int_t)(ids.n - context.n), "whole_tokens", (json_int_t)ids.n);
  near(told, wanted, "nats");
  near(told, wanted, "whole_nats");
  near(told, wanted, "tokens");
  near(told, wanted, "whole_tokens");
  json_decref(wanted);
  json_decref(log.by_place);
  pu_session_close(s);
  pu_ids_deinit(&ids);
  pu_ids_deinit(&context);
  pu_buf_deinit(&csv);
}

/* What the log knows is not asked again; half a line of a killed run does not count; other weights ask anew. */
static void a_run_goes_on(void **state) {
  (void)state;
  char path[300];
  pu_eval_result whole = run_local(task(CHOICE), (how){.out = "whole"});
  pu_eval_result r = run_local(task(CHOICE), (how){.out = "parts", .limit = 2});
  assert_int_equal(r.n, 4);
  assert_int_equal(r.reused, 0);
  snprintf(path, sizeof path, "%s/parts/tiny/choice.jsonl", folder);
  FILE *f = fopen(path, "a");
  fputs("{\"key\":\"half a li", f);
  fclose(f);
  r = run_local(task(CHOICE), (how){.out = "parts"});
  assert_int_equal(r.reused, 4);
  same_result(&whole, &r);
  same_samples("whole", "parts", "choice");
  samples s = read_log("parts", "choice");
  assert_int_equal(s.lines, QUESTIONS);
  json_decref(s.by_place);
  r = run_local(task(CHOICE), (how){.out = "parts"});
  assert_int_equal(r.reused, QUESTIONS);
  same_result(&whole, &r);
  pu_eval_task other = *task(CHOICE);
  other.hash++; /* the task is another one */
  assert_int_equal(run_local(&other, (how){.out = "parts"}).reused, 0);
}

/* Prompts that do not fit lose examples, then count as wrong. */
static pu_eval_task long_task(void) {
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  pu_buf_puts(&b, "short,fox,dog,ten,A\n");
  for (int i = 0; i < 700; i++) pu_buf_puts(&b, "lazy zq ");
  pu_buf_puts(&b, ",fox,dog,ten,A\n");
  put("long.csv", &b);
  pu_buf_deinit(&b);
  pu_eval_task t = *task(CHOICE);
  t.test = "long.csv";
  t.dev = "long.csv";
  t.shots = 2;
  return t;
}

static void long_prompts(void **state) {
  (void)state;
  pu_eval_task t = long_task();
  pu_eval_result r = run_local(&t, (how){.out = "long"});
  assert_int_equal(r.n, 2);
  assert_int_equal(r.too_long, 1);
  samples s = read_log("long", "choice");
  assert_int_equal(json_integer_value(tiny_at(s.by_place, " 0/shots")), 1);
  json_decref(s.by_place);
}

static void reports(void **state) {
  (void)state;
  char path[200];
  pu_error e;
  pu_buf b;
  pu_buf_init(&b, 1 << 24);
  for (int t = 0; t < TASKS; t++) (void)run_local(task(t), (how){.out = "report"});
  (void)run_local(task(CHOICE), (how){.out = "report", .limit = 1}); /* the last head counts */
  snprintf(path, sizeof path, "%s/report", folder);
  const char *dirs[] = {path};
  static const char *const says[] = {"acc (sum)", "| ---", "\"task\":\"whole\"", "</main></html>"};
  for (int form = PU_EVAL_TABLE; form <= PU_EVAL_HTML; form++) {
    pu_buf_clear(&b);
    assert_ok(pu_eval_report(dirs, 1, (pu_eval_form)form, &b, &e), &e);
    if (!strstr(b.data, says[form])) fail_msg("no '%s' in: %s", says[form], b.data);
    assert_non_null(strstr(b.data, "said"));
    if (form == PU_EVAL_JSON) assert_non_null(strstr(b.data, "\"n\":2,"));
    if (form == PU_EVAL_HTML) assert_null(strstr(b.data, "<script"));
  }
  snprintf(path, sizeof path, "%s/q", folder);
  assert_int_equal(pu_eval_report(dirs, 1, PU_EVAL_TABLE, &b, &e), PU_ERR_IO);
  pu_buf_deinit(&b);
}

/* Last: the engine is the server's from here on. */
static void a_server_gives_the_same(void **state) {
  (void)state;
  static const char *const names[TASKS] = {"choice", "whole", "said", "text"};
  char url[64];
  pu_error e;
  pu_eval_model *m;
  tiny_serve(&bench, (pu_server_options){0});
  snprintf(url, sizeof url, "http://127.0.0.1:%d/v1/", bench.port);
  for (int chat = 0; chat < 2; chat++) {
    pu_eval_remote o = {.url = url, .name = "tiny", .concurrency = 3, .seconds = 60, .chat = chat};
    assert_ok(pu_eval_remote_open(&o, &m, &e), &e);
    for (int t = chat ? SAID : 0; t < (chat ? SAID + 1 : TASKS); t++) {
      pu_eval_result a = run_local(task(t), (how){.out = chat ? "here2" : "here", .chat = chat}),
                     b = run(task(t), m, &(how){.out = chat ? "there2" : "there"});
      same_result(&a, &b);
      same_samples(chat ? "here2" : "here", chat ? "there2" : "there", names[t]);
    }
    pu_eval_model_close(m);
  }
  pu_eval_task t = long_task();
  const pu_eval_remote right = {.url = url, .name = "tiny", .concurrency = 2, .seconds = 60};
  assert_ok(pu_eval_remote_open(&right, &m, &e), &e);
  pu_eval_result a = run(&t, m, &(how){.out = "long there"});
  assert_int_equal(a.too_long, 1);
  same_samples("long", "long there", "choice");
  pu_eval_model_close(m);
  const pu_eval_remote wrong = {.url = url, .model = "another", .concurrency = 1, .seconds = 60};
  const pu_eval_options eo = {.data = folder, .shots = -1, .rule = -1};
  pu_eval_result r;
  assert_ok(pu_eval_remote_open(&wrong, &m, &e), &e);
  assert_int_equal(pu_eval_run(task(CHOICE), m, &eo, &r, &e), PU_ERR_IO);
  assert_non_null(strstr(e.msg, "another"));
  pu_eval_model_close(m);
}

static void dead_servers_are_told(void **state) {
  (void)state;
  static const char *const urls[] = {"http://127.0.0.1:1", "ftp://x", "http://no.such.host.invalid"};
  pu_error e;
  pu_eval_model *m;
  for (size_t i = 0; i < PU_COUNT(urls); i++) {
    const pu_eval_remote o = {.url = urls[i], .seconds = 30};
    assert_int_not_equal(pu_eval_remote_open(&o, &m, &e), PU_OK);
    assert_non_null(strstr(e.msg, urls[i]));
  }
}

static int set_up(void **state) {
  char path[100];
  pu_error e;
  (void)state;
  if (!mkdtemp(folder)) return -1;
  snprintf(path, sizeof path, "%s/q", folder);
  if (pu_mkdirs(path, &e) || pu_arena_create((size_t)64 << 20, &arena, &e)) return -1;
  pu_log_set_level(PU_LOG_WARN);
  tiny_make_engine(&bench);
  write_sets();
  return 0;
}

static int tear_down(void **state) {
  pu_error e;
  (void)state;
  if (bench.sv) tiny_close(&bench);
  pu_arena_free(arena);
  return pu_remove_tree(folder, &e) ? -1 : 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(branching_tells_what_computing_whole_tells),
                                     cmocka_unit_test(any_batch_gives_the_same),
                                     cmocka_unit_test(options_and_windows_by_hand),
                                     cmocka_unit_test(a_run_goes_on),
                                     cmocka_unit_test(long_prompts),
                                     cmocka_unit_test(reports),
                                     cmocka_unit_test(dead_servers_are_told),
                                     cmocka_unit_test(a_server_gives_the_same)};
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
