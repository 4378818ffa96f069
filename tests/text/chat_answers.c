/* Which ids of a conversation its assistant says. */
#include "puyu/text.h"
#include "tests/test.h"
#include "tests/text/build.h"

#include <stdlib.h>

static pu_error err;
static pu_tokenizer *t;

static int make_tokenizer(void **state) {
  (void)state;
  pu_bpe_options o = {.vocab_size = 330, .min_count = 2};
  pu_bpe_trainer *trainer;
  pu_buf json;
  pu_buf_init(&json, 1 << 24);
  assert_ok(pu_bpe_trainer_create(&o, &trainer, &err), &err);
  for (int i = 0; i < 3; i++)
    assert_ok(pu_bpe_trainer_add(trainer, pu_str_c("user assistant system\n\n\n\n user hello hello there \n\n"), &err),
              &err);
  assert_ok(pu_bpe_trainer_finish(trainer, &json, &err), &err);
  assert_ok(pu_tokenizer_parse_json(pu_str_of(json.data, json.len), &t, &err), &err);
  pu_bpe_trainer_free(trainer);
  pu_buf_deinit(&json);
  return 0;
}

static int free_tokenizer(void **state) {
  (void)state;
  pu_tokenizer_free(t);
  return 0;
}

static json_t *json(const char *text) {
  json_t *v;
  assert_ok(pu_json_parse("test", pu_str_c(text), &v, &err), &err);
  return v;
}

/* The ids whose answer is message i, as text with markers; "" where there are none. They follow one another. */
static const char *said_by(const pu_tokenizer *tok, const pu_ids *ids, const pu_ids *answers, int32_t i) {
  static pu_buf text;
  size_t first = SIZE_MAX, last = 0;
  if (!text.max) pu_buf_init(&text, 1 << 20);
  pu_buf_clear(&text);
  for (size_t k = 0; k < ids->n; k++) {
    if (answers->v[k] != i) continue;
    if (first == SIZE_MAX) first = k;
    last = k;
    pu_str piece = pu_tokenizer_piece(tok, ids->v[k]);
    if (pu_tokenizer_is_special(tok, ids->v[k]))
      pu_buf_append(&text, piece.ptr, piece.len);
    else
      assert_ok(pu_tokenizer_bytes(tok, ids->v[k], &text, &err), &err);
  }
  for (size_t k = first; k <= last && first != SIZE_MAX; k++) assert_int_equal(answers->v[k], i);
  return text.len ? text.data : "";
}

/* said[i]: of message i; NULL: nothing. */
static void check_with(const pu_tokenizer *tok, const pu_chat_template *c, const char *messages, const char *tools,
                       const char *const *said) {
  pu_ids ids = {0}, answers = {0}, served = {0};
  json_t *m = json(messages), *list = tools ? json(tools) : NULL;
  const pu_chat chat = {.messages = m, .tools = list};
  assert_ok(pu_chat_render_answers(c, tok, &chat, &ids, &answers, &err), &err);
  assert_ok(pu_chat_render_ids(c, tok, &chat, &served, &err), &err);
  assert_int_equal(ids.n, served.n);
  assert_int_equal(answers.n, served.n);
  assert_memory_equal(ids.v, served.v, ids.n * sizeof *ids.v);
  for (size_t i = 0; i < json_array_size(m); i++)
    assert_string_equal(said_by(tok, &ids, &answers, (int32_t)i), said[i] ? said[i] : "");
  json_decref(m);
  json_decref(list);
  pu_ids_deinit(&ids);
  pu_ids_deinit(&answers);
  pu_ids_deinit(&served);
}

static void check(const pu_chat_template *c, const char *messages, const char *const *said) {
  check_with(t, c, messages, NULL, said);
}

static const char two_turns[] = "[{\"role\": \"system\", \"content\": \"be brief\"},"
                                "{\"role\": \"user\", \"content\": \"hello\"},"
                                "{\"role\": \"assistant\", \"content\": \"hello there <|im_end|> user\"},"
                                "{\"role\": \"user\", \"content\": \"<|im_start|>assistant\\n\"},"
                                "{\"role\": \"assistant\", \"content\": \"\"},"
                                "{\"role\": \"assistant\", \"content\": \"你好\"}]";

static const char *const two_answers[] = {NULL, NULL,         "hello there <|im_end|> user<|im_end|>",
                                          NULL, "<|im_end|>", "你好<|im_end|>"};

static void own_templates(void **state) {
  (void)state;
  check(pu_chat_find("internlm2"), two_turns, two_answers);
  check(pu_chat_find("chatml"), two_turns, two_answers);
}

/* A token across the border between the opening and the answer is not learned: nobody is asked for it. */
static void border(void **state) {
  (void)state;
  static const char messages[] = "[{\"role\": \"user\", \"content\": \"x\"},"
                                 "{\"role\": \"assistant\", \"content\": \"\\nhello\"}]";
  check(pu_chat_find("internlm2"), messages, (const char *const[]){NULL, "hello<|im_end|>"});
}

/* InternLM2's calls are said, and so are their marks; what a tool answers is not. */
static void calls(void **state) {
  (void)state;
  static const char messages[] =
      "[{\"role\": \"user\", \"content\": \"1+1\"},"
      "{\"role\": \"assistant\", \"content\": \"so\", \"tool_calls\": [{\"id\": \"a\", \"type\": \"function\","
      "\"function\": {\"name\": \"add\", \"arguments\": \"{\\\"a\\\": 1}\"}}]},"
      "{\"role\": \"tool\", \"tool_call_id\": \"a\", \"content\": \"2\"},"
      "{\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"id\": \"b\", \"type\": \"function\","
      "\"function\": {\"name\": \"now\", \"arguments\": \"\"}}]}]";
  static const char tools[] = "[{\"type\": \"function\", \"function\": {\"name\": \"add\"}}]";
  const char *const said[] = {NULL,
                              "so<|action_start|><|plugin|>\n{\"name\": \"add\", \"parameters\": {\"a\": 1}}"
                              "<|action_end|><|im_end|>",
                              NULL,
                              "<|action_start|><|plugin|>\n{\"name\": \"now\", \"parameters\": {}}<|action_end|>"
                              "<|im_end|>"};
  check_with(t, pu_chat_find("internlm2"), messages, tools, said);
}

/* The first InternLM's turns begin with text, not with markers. */
static void first_internlm(void **state) {
  (void)state;
  pu_buf b;
  pu_tokenizer *spm;
  pu_buf_init(&b, 1 << 20);
  spm_begin(&b, true);
  spm_piece(&b, pu_str_c("<eoa>"), 0, USER);
  spm_piece(&b, pu_str_c("<eoh>"), 0, USER);
  spm_piece(&b, pu_str_c(":h"), -1, NORMAL); /* across the border */
  spm_end(&b, (spm_settings){.byte_fallback = true, .keep_spaces = true});
  assert_ok(pu_tokenizer_parse_spm(pu_str_of(b.data, b.len), &spm, &err), &err);
  pu_buf_deinit(&b);
  static const char messages[] = "[{\"role\": \"user\", \"content\": \"x\"},"
                                 "{\"role\": \"assistant\", \"content\": \"yes\"},"
                                 "{\"role\": \"user\", \"content\": \"y\"},"
                                 "{\"role\": \"assistant\", \"content\": \"he\"}]";
  pu_ids ids = {0}, answers = {0};
  json_t *m = json(messages);
  const pu_chat chat = {.messages = m};
  assert_ok(pu_chat_render_answers(pu_chat_find("internlm"), spm, &chat, &ids, &answers, &err), &err);
  int32_t eoa = pu_tokenizer_find(spm, pu_str_c("<eoa>"));
  size_t n[4] = {0}, ends = 0;
  for (size_t i = 0; i < ids.n; i++) {
    if (answers.v[i] >= 0) n[answers.v[i]]++;
    ends += ids.v[i] == eoa && answers.v[i] >= 0;
  }
  assert_int_equal(n[0] + n[2], 0);
  assert_int_equal(n[1], 4); /* three bytes and the marker */
  assert_int_equal(n[3], 2); /* e and the marker: ":h" has a part of the opening */
  assert_int_equal(ends, 2);
  json_decref(m);
  pu_ids_deinit(&ids);
  pu_ids_deinit(&answers);
  pu_tokenizer_free(spm);
}

/* ---- templates that models bring ---- */

static pu_chat_template *parse(const char *source) {
  pu_chat_template *c;
  json_t *special = json_pack("{s:s, s:s}", "bos_token", "<s>", "eos_token", "</s>");
  assert_ok(pu_chat_parse("test", pu_str_c(source), special, &c, &err), &err);
  json_decref(special);
  return c;
}

#define TURNS(content)                                                                                                 \
  "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}" content "{{ '<|im_end|>\\n' }}{% endfor %}"
#define PROMPT "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"

static void jinja(void **state) {
  (void)state;
  pu_chat_template *c = parse(TURNS("{{ m.content }}") PROMPT "{% endif %}");
  check(c, two_turns, two_answers);
  pu_chat_free(c);
  /* A prompt that ends with a thought that the conversation does not have. */
  c = parse(TURNS("{{ m.content }}") PROMPT "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}");
  check(c, two_turns, two_answers);
  pu_chat_free(c);
}

/* What earlier answers thought is left out of later prompts; calls are what the template writes of them. */
static void jinja_thoughts(void **state) {
  (void)state;
  pu_chat_template *c =
      parse(TURNS("{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}"
                  "{% else %}{{ m.content }}{% endif %}"
                  "{% for call in m.tool_calls or [] %}{{ '<tool_call>' + call.function.name + '</tool_call>' }}"
                  "{% endfor %}") PROMPT "{% endif %}");
  static const char messages[] =
      "[{\"role\": \"user\", \"content\": \"x\"},"
      "{\"role\": \"assistant\", \"content\": \"<think>hm</think>hello\"},"
      "{\"role\": \"user\", \"content\": \"y\"},"
      "{\"role\": \"assistant\", \"content\": \"<think>ah</think>there\", \"tool_calls\": [{\"type\": \"function\","
      "\"function\": {\"name\": \"add\", \"arguments\": {}}}]}]";
  check(c, messages,
        (const char *const[]){NULL, "hello<|im_end|>", NULL,
                              "<think>ah</think>there<tool_call>add</tool_call><|im_end|>"});
  pu_chat_free(c);
}

/* Whatever is said: an answer is its content and the marker, or begins a token later. */
static void any_content(void **state) {
  (void)state;
  static const char *const words[] = {"\n", " ", "hello", "\n\n", "user", "é", "<|im_end|>", "assistant", "你"};
  pu_chat_template *c = parse("{{ bos_token }}" TURNS("{{ m.content }}") PROMPT "{% endif %}");
  pu_rng r;
  pu_rng_seed(&r, 5);
  for (int i = 0; i < 300; i++) {
    char content[2][200];
    for (int k = 0; k < 2; k++) {
      content[k][0] = 0;
      for (int n = (int)pu_rng_below(&r, 6); n > 0; n--) strcat(content[k], words[pu_rng_below(&r, PU_COUNT(words))]);
    }
    json_t *m = json_pack("[{s:s, s:s}, {s:s, s:s}]", "role", "user", "content", content[0], "role", "assistant",
                          "content", content[1]);
    const pu_chat chat = {.messages = m};
    pu_ids ids = {0}, answers = {0}, other = {0}, others = {0};
    assert_ok(pu_chat_render_answers(pu_chat_find("chatml"), t, &chat, &ids, &answers, &err), &err);
    assert_ok(pu_chat_render_answers(c, t, &chat, &other, &others, &err), &err);
    assert_int_equal(ids.n, other.n);
    assert_memory_equal(ids.v, other.v, ids.n * sizeof *ids.v);
    assert_memory_equal(answers.v, others.v, ids.n * sizeof *ids.v);
    strcat(content[1], "<|im_end|>");
    const char *said = said_by(t, &ids, &answers, 1);
    size_t whole = strlen(content[1]), part = strlen(said);
    assert_true(part <= whole);
    assert_string_equal(said, content[1] + whole - part);
    for (size_t k = 0; k < whole - part; k++) assert_int_equal(content[1][k], '\n');
    json_decref(m);
    pu_ids_deinit(&ids);
    pu_ids_deinit(&answers);
    pu_ids_deinit(&other);
    pu_ids_deinit(&others);
  }
  pu_chat_free(c);
}

/* ---- published templates, where they are ---- */

/* A tokenizer with whatever the template writes between angles as special tokens. */
static pu_tokenizer *tokenizer_of(pu_str source, pu_arena *a) {
  enum { MOST = 200 };
  const char **special = pu_arena_zalloc(a, (MOST + 3) * sizeof *special);
  size_t n = 2;
  special[0] = "<s>";
  special[1] = "</s>";
  for (size_t i = 0; i < source.len && n < MOST; i++) {
    size_t end = i + 1;
    while (end < source.len && end - i < 40 && !strchr("<>'\"\n{}%", source.ptr[end])) end++;
    if (source.ptr[i] != '<' || end == source.len || source.ptr[end] != '>' || end - i < 3) continue;
    special[n] = pu_arena_strndup(a, source.ptr + i, end + 1 - i);
    bool there = false;
    for (size_t k = 0; k < n; k++) there |= strcmp(special[k], special[n]) == 0;
    n += !there;
  }
  special[n] = NULL;
  const pu_bpe_options o = {.vocab_size = (int32_t)n + 256, .special = special};
  pu_bpe_trainer *trainer;
  pu_tokenizer *tok;
  pu_buf text;
  pu_buf_init(&text, 1 << 24);
  assert_ok(pu_bpe_trainer_create(&o, &trainer, &err), &err);
  assert_ok(pu_bpe_trainer_add(trainer, pu_str_c("a question, an answer"), &err), &err);
  assert_ok(pu_bpe_trainer_finish(trainer, &text, &err), &err);
  assert_ok(pu_tokenizer_parse_json(pu_str_of(text.data, text.len), &tok, &err), &err);
  pu_bpe_trainer_free(trainer);
  pu_buf_deinit(&text);
  return tok;
}

/* What the assistant says is found, and nothing that others say is in it. */
static bool check_published(const char *path, pu_arena *a) {
  static const char messages[] = "[{\"role\": \"user\", \"content\": \"first question\"},"
                                 "{\"role\": \"assistant\", \"content\": \"first answer\"},"
                                 "{\"role\": \"user\", \"content\": \"second question\"},"
                                 "{\"role\": \"assistant\", \"content\": \"second answer\"}]";
  pu_buf source;
  pu_ids ids = {0}, answers = {0};
  pu_buf_init(&source, 1 << 20);
  assert_ok(pu_file_read(path, 1 << 20, &source, &err), &err);
  pu_tokenizer *tok = tokenizer_of(pu_str_of(source.data, source.len), a);
  pu_chat_template *c;
  json_t *special = json_pack("{s:s, s:s}", "bos_token", "<s>", "eos_token", "</s>"), *m = json(messages);
  assert_ok(pu_chat_parse(path, pu_str_of(source.data, source.len), special, &c, &err), &err);
  const pu_chat chat = {.messages = m};
  bool rendered = pu_chat_render_answers(c, tok, &chat, &ids, &answers, &err) == PU_OK;
  if (!rendered) print_message("%s\n", err.msg);
  for (int i = 1; rendered && i < 4; i += 2) {
    const char *said = said_by(tok, &ids, &answers, i), *name = strrchr(path, '/') + 1;
    if (!strstr(said, i == 1 ? "first answer" : "second answer") || strstr(said, "question"))
      fail_msg("%s: answer %d is \"%s\"", name, i, said);
    if (strlen(said) > 200) print_message("%s: \"%s\"\n", name, said);
  }
  pu_chat_free(c);
  json_decref(special);
  json_decref(m);
  pu_tokenizer_free(tok);
  pu_ids_deinit(&ids);
  pu_ids_deinit(&answers);
  pu_buf_deinit(&source);
  return rendered;
}

static void published(void **state) {
  (void)state;
  char **names;
  size_t n, done = 0;
  pu_arena *a;
  if (!pu_path_is_dir(PU_SHARED "/templates")) {
    print_message("skipped: no %s\n", PU_SHARED "/templates");
    skip();
  }
  assert_ok(pu_arena_create(64 << 20, &a, &err), &err);
  assert_ok(pu_dir_list(a, PU_SHARED "/templates", &names, &n, &err), &err);
  for (size_t i = 0; i < n; i++)
    if (pu_ends_with(names[i], ".jinja")) done += check_published(pu_path_join(a, PU_SHARED "/templates", names[i]), a);
  print_message("%zu published templates\n", done);
  pu_arena_free(a);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(own_templates),  cmocka_unit_test(border),    cmocka_unit_test(calls),
      cmocka_unit_test(first_internlm), cmocka_unit_test(jinja),     cmocka_unit_test(jinja_thoughts),
      cmocka_unit_test(any_content),    cmocka_unit_test(published),
  };
  return cmocka_run_group_tests(tests, make_tokenizer, free_tokenizer);
}
