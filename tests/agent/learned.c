/* The whole circle: conversations of a scripted model are kept as transcripts, a model is trained on them, and asked
 * the same it makes the same conversations, in the same ids. InternLM2's own forms: plugins, and the code interpreter.
 */
#include "tests/agent/fake.h"
#include "tests/tune/tiny.h"

enum { CONTEXT = 1024, TALKS = 4 };

#define CALL(name, arguments)                                                                                          \
  "{\"type\": \"function\", \"function\": {\"name\": \"" name "\", \"arguments\": \"" arguments "\"}}"
#define SUM(text)  CALL("calculator", "{\\\"expression\\\": \\\"" text "\\\"}")
#define CODE(text) "{\"type\": \"code_interpreter\", \"code_interpreter\": {\"input\": \"" text "\"}}"

/* Questions of each conversation, and what the scripted model says to them. */
typedef struct talk {
  const char *questions[3];
  const char *script[8];
} talk;
static const talk native[TALKS] = {
    {{"how much is 17 * 3?"}, {"{\"tool_calls\": [" SUM("17 * 3") "]}", "{\"content\": \"it is 51.\"}"}},
    {{"run it"},
     {"{\"content\": \"so:\", \"tool_calls\": [" CODE("x = 1\\n\\nprint(x)") "]}", "{\"content\": \"done\"}"}},
    {{"hello", "two sums!"},
     {"{\"content\": \"hello you\"}", "{\"content\": \"both.\", \"tool_calls\": [" SUM("1 / 3") ", " SUM("-2 ^ 2") "]}",
      "{\"content\": \"a third\\n\\nand minus four\"}"}},
    {{"one after the other"},
     {"{\"tool_calls\": [" SUM("1/0") "]}", "{\"tool_calls\": [" CODE("two") "]}", "{\"content\": \"it is two.\"}"}},
};

static const talk functions[TALKS] = {
    {{"how much is 17 * 3?"}, {"{\"tool_calls\": [" SUM("17 * 3") "]}", "{\"content\": \"it is 51.\"}"}},
    {{"run it"},
     {"{\"content\": \"so:\", \"tool_calls\": [" CALL("python", "{\\\"code\\\": \\\"x = 1\\\\n\\\"}") "]}",
      "{\"content\": \"done\"}"}},
    {{"hello", "two sums!"},
     {"{\"content\": \"hello you\"}", "{\"content\": \"both.\", \"tool_calls\": [" SUM("1 / 3") ", " SUM("-2 ^ 2") "]}",
      "{\"content\": \"a third\\n\\nand minus four\"}"}},
    {{"one after the other"},
     {"{\"tool_calls\": [" SUM("1/0") "]}", "{\"tool_calls\": [" SUM("2") "]}", "{\"content\": \"it is two.\"}"}},
};

/* How several families write tools and calls. */
static const char template[] =
    "{%- if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}\n"
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}\n"
    "{%- for c in m.tool_calls or [] %}{{ '\n' if m.content or not loop.first }}<tool_call>\n"
    "{{ {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}\n"
    "</tool_call>{% endfor %}<|im_end|>\n{% endfor %}\n"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

static pu_agent *agent_over(pu_agent_model *m, void (*on_event)(void *, const pu_agent_event *), void *arg) {
  static const char *const names[] = {"calculator"};
  static const pu_agent_setup none;
  pu_agent *a;
  pu_error e;
  const pu_agent_options o = {
      .model = m, .tools = names, .n_tools = 1, .how = pu_sampling_default(), .on_event = on_event, .arg = arg};
  assert_ok(pu_agent_open(&o, &a, &e), &e);
  assert_ok(agent_add_tool(a, &fake_tools[6], &none, &e), &e);
  return a;
}

static void ask_all(pu_agent *a, const talk *t) {
  pu_error e;
  pu_agent_end end;
  for (int i = 0; t->questions[i]; i++) {
    assert_ok(pu_agent_ask(a, pu_str_c(t->questions[i]), &end, &e), &e);
    if (end != PU_AGENT_ANSWERED) {
      char *text = json_dumps(pu_agent_messages(a), JSON_INDENT(1));
      fail_msg("%s: %s", pu_agent_end_names[end], text);
    }
  }
}

/* The transcripts of the scripted conversations: a line each. */
static void scripted(const talk *talks, bool takes_code, pu_buf *lines) {
  for (int i = 0; i < TALKS; i++) {
    pu_error e;
    fake *f = fake_open(talks[i].script, takes_code);
    pu_agent *a = agent_over(&f->m, NULL, NULL);
    ask_all(a, &talks[i]);
    assert_ok(pu_agent_transcript(a, lines, &e), &e);
    pu_agent_close(a);
    pu_agent_model_close(&f->m);
  }
}

/* A tokenizer that was learned from them, and a random model. */
static void write_base(state *s, const char *family, bool own, pu_str lines) {
  static const char *const special[] = {"<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", NULL}; /* no plugins */
  pu_bpe_trainer *trainer;
  pu_tokenizer *t;
  pu_backend *be;
  pu_model *m;
  const pu_bpe_options o = {.vocab_size = 420, .special = own ? NULL : special};
  const pu_model_options mo = {.dtype = PU_F32};
  assert_ok(pu_bpe_trainer_create(&o, &trainer, &s->e), &s->e);
  assert_ok(pu_bpe_trainer_add(trainer, lines, &s->e), &s->e);
  assert_ok(pu_mkdirs(path_in(s, "m"), &s->e), &s->e);
  assert_ok(pu_bpe_trainer_save(trainer, path_in(s, "m"), &s->e), &s->e);
  pu_bpe_trainer_free(trainer);
  assert_ok(pu_tokenizer_load(path_in(s, "m"), &t, &s->e), &s->e);
  const pu_hparams hp = {.vocab = pu_tokenizer_size(t),
                         .hidden = 64,
                         .ffn = 128,
                         .layers = 2,
                         .heads = 4,
                         .kv_heads = 2,
                         .head_dim = 16,
                         .max_position = CONTEXT,
                         .norm_eps = 1e-5,
                         .bos = pu_tokenizer_bos(t),
                         .eos = {pu_tokenizer_eos(t)},
                         .n_eos = 1,
                         .rope = {.base = 1e4, .factor = 1}};
  assert_ok(pu_backend_open("cpu", 1, &be, &s->e), &s->e);
  assert_ok(pu_model_random(pu_arch_find(family), &hp, 3, be, &mo, &m, &s->e), &s->e);
  assert_ok(pu_model_save(m, path_in(s, "m"), PU_F32, 0, &s->e), &s->e);
  pu_model_free(m);
  be->close(be);
  pu_tokenizer_free(t);
}

/* ---- ids ---- */

typedef struct made {
  pu_agent_model *m;
  pu_ids v[8]; /* prompt and answer of each step */
  size_t n;
} made;

static void keep_ids(void *arg, const pu_agent_event *ev) {
  made *k = arg;
  if ((ev->kind != PU_AGENT_STEP || ev->step == 1) && ev->kind != PU_AGENT_END) return;
  pu_ids_view prompt, answer;
  agent_local_ids(k->m, &prompt, &answer);
  pu_ids *to = &k->v[k->n++];
  for (size_t i = 0; i < prompt.n; i++) pu_ids_push(to, prompt.v[i]);
  for (size_t i = 0; i < answer.n; i++) pu_ids_push(to, answer.v[i]);
}

/* What the transcript is rendered to begins with everything that the model read and wrote, step by step. */
static void check_ids(const made *k, const pu_engine *en, pu_str line) {
  static const pu_train_source plain;
  pu_dialogues *d;
  pu_dialogue one;
  pu_error e;
  bool found;
  pu_ids ids = {0}, coded = {0};
  assert_ok(pu_dialogues_parse("t", line, &plain, &d, &e), &e);
  assert_ok(pu_dialogues_next(d, &one, &found, &e), &e);
  assert_true(found);
  const pu_chat chat = {.messages = one.messages, .tools = one.tools};
  assert_ok(pu_chat_render_ids(pu_engine_chat(en), pu_engine_tokenizer(en), &chat, &ids, &e), &e);
  assert_ok(pu_tune_encode(&one, pu_engine_chat(en), pu_engine_tokenizer(en), &coded, &e), &e);
  assert_int_equal(ids.n, coded.n);
  for (size_t i = 0; i < ids.n; i++) assert_int_equal(ids.v[i], pu_tune_id(coded.v[i]));
  for (size_t i = 0; i < k->n; i++) {
    assert_true(k->v[i].n < ids.n);
    assert_memory_equal(k->v[i].v, ids.v, k->v[i].n * sizeof *ids.v);
    assert_true(coded.v[k->v[i].n - 1] >= 0); /* the last of an answer is learned, and so is what ends it */
    assert_true(coded.v[k->v[i].n] >= 0);
  }
  pu_ids_deinit(&ids);
  pu_ids_deinit(&coded);
  pu_dialogue_deinit(&one);
  pu_dialogues_close(d);
}

static void same_lines(char *a, char *b) {
  char *save_a, *save_b, *x = strtok_r(a, "\n", &save_a), *y = strtok_r(b, "\n", &save_b);
  for (; x && y; x = strtok_r(NULL, "\n", &save_a), y = strtok_r(NULL, "\n", &save_b)) {
    json_t *v = json_loads(x, 0, NULL), *w = json_loads(y, 0, NULL);
    if (!json_equal(v, w)) fail_msg("%s\nis not %s", y, x);
    json_decref(v);
    json_decref(w);
  }
  assert_true(!x && !y);
}

static void close_circle(state *s, const talk *talks, const char *family, const char *jinja) {
  pu_buf lines, again;
  pu_engine *en;
  pu_agent_model *m;
  pu_buf_init(&lines, 1 << 20);
  pu_buf_init(&again, 1 << 20);
  scripted(talks, !jinja, &lines);
  assert_ok(pu_file_write(path_in(s, "talks.jsonl"), lines.data, lines.len, &s->e), &s->e);
  write_base(s, family, !jinja, pu_str_of(lines.data, lines.len));
  if (jinja) assert_ok(pu_file_write(path_in(s, "m/chat_template.jinja"), jinja, strlen(jinja), &s->e), &s->e);
  assert_ok(run_yaml(s,
                     sft_yaml(s, "r", "steps: 160, global_batch: 4, micro_batch: 4, seed: 1",
                              "data: {seq_len: 1024, pack: false, sources: [{path: $D/talks.jsonl}]}\n"
                              "optim: {lr: 4.0e-3, betas: [0.9, 0.95], weight_decay: 0.0}\n"
                              "schedule: {type: cosine, warmup: 10, min_lr: 1.0e-4}\n"),
                     &tune_hooks),
            &s->e);
  const pu_engine_options eo = {.dtype = PU_F32, .threads = 1, .max_batch = 1, .kv_block = 8};
  assert_ok(pu_engine_open(step_of(s, "r", 160), &eo, &en, &s->e), &s->e);
  assert_ok(pu_agent_engine(en, &m, &s->e), &s->e);
  assert_int_equal(m->takes_code, !jinja);
  for (int i = 0; i < TALKS; i++) {
    made k = {.m = m};
    pu_agent *a = agent_over(m, keep_ids, &k);
    size_t from = again.len;
    ask_all(a, &talks[i]);
    assert_ok(pu_agent_transcript(a, &again, &s->e), &s->e);
    check_ids(&k, en, pu_str_of(again.data + from, again.len - from));
    for (size_t j = 0; j < k.n; j++) pu_ids_deinit(&k.v[j]);
    pu_agent_close(a);
  }
  same_lines(lines.data, again.data);
  pu_agent_model_close(m);
  pu_engine_free(en);
  pu_buf_deinit(&lines);
  pu_buf_deinit(&again);
}

static void the_circle_closes(void **arg) {
  close_circle(*arg, native, "internlm2", NULL);
}

static void so_it_does_with_a_template(void **arg) {
  close_circle(*arg, functions, "llama", template);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(the_circle_closes, setup, teardown),
                                     cmocka_unit_test_setup_teardown(so_it_does_with_a_template, setup, teardown)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
