/* Requests that make no sense, by table: every key with every kind of value it does not take, numbers out of any range,
 * bytes that are no UTF-8, bodies that are deep or large. All get a status of 4xx with the API's error object; the
 * connection lives on, and so does the server. */
#include "tests/serve/tiny.h"

#define CHAT   "/v1/chat/completions"
#define TEXT   "/v1/completions"
#define HELLO  "{\"messages\":[{\"role\":\"user\",\"content\":\"fox\"}],\"max_tokens\":1,"
#define PROMPT "{\"prompt\":\"fox\",\"max_tokens\":1,"

/* On the one connection of this test: a refusal must not cost it. */
static client talk;

static void expect_refusal(const char *path, const char *shown, const char *body, size_t len, const char *param) {
  pu_buf all;
  pu_buf_init(&all, 32 << 20);
  pu_buf_printf(&all, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n\r\n", path, len);
  if (len) pu_buf_append(&all, body, len);
  assert_true(client_send(&talk, all.data, all.len));
  pu_buf_deinit(&all);
  answer a = client_answer(&talk);
  if (a.status < 400 || a.status >= 500 || !a.whole)
    fail_msg("%s: %.200s: status %d: %s", path, shown, a.status, a.body.data ? a.body.data : "");
  json_t *v = json_loadb(a.body.data, a.body.len, 0, NULL);
  assert_string_equal(tiny_str(v, "error/type"), "invalid_request_error");
  assert_true(tiny_str(v, "error/message")[0]);
  (void)tiny_at(v, "error/code");
  const char *told = json_string_value(tiny_at(v, "error/param"));
  if (param && (!told || strncmp(told, param, strlen(param)) != 0))
    fail_msg("%s: %.200s: param is %s: %s", path, shown, told ? told : "null", a.body.data);
  json_decref(v);
  answer_free(&a);
}

/* Kinds of values: b true or false, i integer, n other number, s string, a array, o object; h a number beyond any
 * range; x what JSON does not know. */
static const struct {
  char kind;
  const char *text;
} values[] = {{'b', "true"},
              {'b', "false"},
              {'i', "1"},
              {'n', "0.7"},
              {'s', "\"x\""},
              {'s', "\"\""},
              {'a', "[]"},
              {'a', "[1]"},
              {'a', "[[\"x\"]]"},
              {'o', "{}"},
              {'o', "{\"x\":[1]}"},
              {'h', "-1e300"},
              {'h', "1e300"},
              {'m', "-1e-300"},
              {'h', "9223372036854775807"},
              {'h', "-9223372036854775808"},
              {'x', "9223372036854775808"},
              {'x', "-9223372036854775809"},
              {'x', "1e999"},
              {'x', "NaN"},
              {'x', "Infinity"},
              {'x', "-"},
              {'x', "0x10"},
              {'x', "'x'"},
              {'x', "\"\\ud800\""},
              {'x', "\"\xC0\x80\""},
              {'x', "\"\xED\xA0\x80\""},
              {'x', "\"\xF4\x90\x80\x80\""},
              {'x', "\"\xE4\xBD\""},
              {'x', "\"\x01\""}};

/* takes: kinds that make sense, or do not matter. */
typedef struct odd_key {
  const char *key, *takes;
} odd_key;

static const odd_key both[] = {{"model", ""},
                               {"stream", "b"},
                               {"n", "i"},
                               {"max_completion_tokens", "i"},
                               {"temperature", "in"},
                               {"top_p", "in"},
                               {"top_k", "i"},
                               {"typical_p", "in"},
                               {"min_p", "in"},
                               {"presence_penalty", "inm"},
                               {"frequency_penalty", "inm"},
                               {"repetition_penalty", "in"},
                               {"min_tokens", "i"},
                               {"ignore_eos", "b"},
                               {"stop", "sa"},
                               {"stop_token_ids", "a"},
                               {"seed", "ih"},
                               {"logit_bias", "o"},
                               {"stream_options", ""},
                               {"guided_regex", "s"},
                               {"guided_grammar", ""},
                               {"guided_json", "o"},
                               {"bad_words", "a"},
                               {"response_format", ""}};
static const odd_key of_chat[] = {
    {"messages", ""},  {"tools", "a"},       {"tool_choice", ""},          {"parallel_tool_calls", "b"},
    {"logprobs", "b"}, {"top_logprobs", ""}, {"chat_template_kwargs", "o"}};
static const odd_key of_text[] = {{"prompt", "sa"}, {"echo", "b"}, {"logprobs", "i"}, {"logprobs_from", "i"}};

static void try_keys(const char *path, const char *begin, const odd_key *keys, size_t n) {
  for (size_t k = 0; k < n; k++) {
    for (size_t i = 0; i < PU_COUNT(values); i++) {
      char body[500];
      if (strchr(keys[k].takes, values[i].kind)) continue;
      snprintf(body, sizeof body, "%s\"%s\":%s}", begin, keys[k].key, values[i].text);
      expect_refusal(path, body, body, strlen(body), values[i].kind == 'x' ? NULL : keys[k].key);
    }
  }
}

static void every_key_refuses_what_it_does_not_take(void **state) {
  (void)state;
  try_keys(CHAT, HELLO, both, PU_COUNT(both));
  try_keys(CHAT, HELLO, of_chat, PU_COUNT(of_chat));
  try_keys(TEXT, PROMPT, both, PU_COUNT(both));
  try_keys(TEXT, PROMPT, of_text, PU_COUNT(of_text));
  static const odd_key max_tokens[] = {{"max_tokens", "i"}};
  try_keys(CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"fox\"}],", max_tokens, 1);
  try_keys(TEXT, "{\"prompt\":\"fox\",", max_tokens, 1);
  static const odd_key prompt[] = {{"prompt", "s"}}, tokens[] = {{"tokens", "a"}}, messages[] = {{"messages", ""}};
  try_keys("/tokenize", "{", prompt, 1);
  try_keys("/tokenize", "{", messages, 1);
  try_keys("/detokenize", "{", tokens, 1);
  try_keys("/apply_template", "{", messages, 1);
}

/* Messages, tools and ids whose insides make no sense. */
static void insides_are_looked_at(void **state) {
  (void)state;
#define MESSAGE(m) CHAT, "{\"messages\":[" m "]}"
#define TOOL(t)    CHAT, HELLO "\"tools\":[" t "]}"
  static const struct {
    const char *path, *body;
  } rows[] = {
      {MESSAGE("1")},
      {MESSAGE("null")},
      {MESSAGE("[]")},
      {MESSAGE("{}")},
      {MESSAGE("{\"role\":1,\"content\":\"\"}")},
      {MESSAGE("{\"role\":\"\",\"content\":\"\"}")},
      {MESSAGE("{\"role\":\"user\",\"content\":true}")},
      {MESSAGE("{\"role\":\"user\",\"content\":[1]}")},
      {MESSAGE("{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}")},
      {MESSAGE("{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\"}]}")},
      {MESSAGE("{\"role\":\"user\",\"content\":\"\",\"name\":[]}")},
      {MESSAGE("{\"role\":\"assistant\",\"tool_calls\":1}")},
      {MESSAGE("{\"role\":\"assistant\",\"tool_calls\":[1]}")},
      {MESSAGE("{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{}}}]}")},
      {MESSAGE("{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"x\"}}]}")},
      {TOOL("1")},
      {TOOL("{}")},
      {TOOL("{\"type\":\"function\",\"function\":1}")},
      {TOOL("{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":[]}}")},
      {TOOL("{\"type\":\"retrieval\"}")},
      {TEXT, PROMPT "\"logit_bias\":{\"-1\":1}}"},
      {TEXT, PROMPT "\"logit_bias\":{\"99999999999999999999\":1}}"},
      {TEXT, PROMPT "\"logit_bias\":{\"1\":\"x\"}}"},
      {TEXT, "{\"prompt\":[9223372036854775807]}"},
      {TEXT, "{\"prompt\":[[]]}"},
      {TEXT, "{\"prompt\":[[1],\"x\",{}]}"},
      {"/detokenize", "{\"tokens\":[0.5]}"},
      {"/detokenize", "{\"tokens\":[2147483648]}"}};
#undef MESSAGE
#undef TOOL
  for (size_t i = 0; i < PU_COUNT(rows); i++)
    expect_refusal(rows[i].path, rows[i].body, rows[i].body, strlen(rows[i].body), NULL);
}

/* Bodies that are no JSON at all, or no object. */
static void bodies_are_objects(void **state) {
  (void)state;
  static const char *const paths[] = {CHAT, TEXT, "/tokenize", "/detokenize", "/apply_template"};
  static const char *const bodies[] = {
      "",     " ",   "null", "true",           "\"x\"",        "1",      "[]",     "{", "}",
      "{}{}", "{}x", "{'",   "\xEF\xBB\xBF{}", "\xff\xfe{\0}", "<xml/>", "a=b&c=d"};
  for (size_t p = 0; p < PU_COUNT(paths); p++) {
    for (size_t i = 0; i < PU_COUNT(bodies); i++)
      expect_refusal(paths[p], bodies[i], bodies[i], strlen(bodies[i]), NULL);
    expect_refusal(paths[p], "bytes of zero", "{\"a\":\"\0\"}", 9, NULL);
  }
}

enum { LARGE = 10 << 20 };

/* begin, then `piece` until there are ten megabytes of it, then end. */
static void try_large(const char *path, const char *begin, const char *piece, const char *end, const char *param) {
  pu_buf b;
  pu_buf_init(&b, 32 << 20);
  pu_buf_puts(&b, begin);
  while (b.len < LARGE) pu_buf_puts(&b, piece);
  pu_buf_puts(&b, end);
  expect_refusal(path, begin, b.data, b.len, param);
  pu_buf_deinit(&b);
}

static void ten_megabytes_are_looked_at(void **state) {
  (void)state;
  try_large(CHAT, "", "[", "", NULL);
  try_large(CHAT, "", "{\"a\":", "", NULL);
  try_large(CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"", "0123456789abcdef", "\"}]}", "messages");
  try_large(CHAT, "{\"messages\":[1", ",1", "]}", NULL);
  try_large(CHAT, "{\"messages\":[{}", ",{\"role\":\"user\",\"content\":\"0123456789\"}", "]}", "messages");
  try_large(CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[1", ",[]", "]}]}", NULL);
  try_large(CHAT, HELLO "\"stop\":[\"a\"", ",\"0123456789abcdef\"", "]}", "stop");
  try_large(CHAT, HELLO "\"stop\":\"", "stopstopstop", "\u00ff\\u0000\"}", "stop");
  try_large(CHAT, HELLO "\"tools\":[1", ",{\"type\":\"function of a kind\"}", "]}", "tools");
  try_large(CHAT, HELLO "\"guided_regex\":\"", "(a|b)", "\"}", "guided_regex");
  try_large(TEXT, "{\"prompt\":[1", ",1", "]}", NULL);
  try_large(TEXT, "{\"prompt\":[1", ",          1", "]}", "prompt");
  try_large(TEXT, "{\"prompt\":[\"a\"", ",\"0123456789abcdef\"", "]}", "prompt");
  try_large("/detokenize", "{\"tokens\":[999999", ",          1", "]}", "tokens");
}

/* More than is taken: the connection ends with the refusal. */
static void too_much_is_not_taken(void **state) {
  tiny *b = *state;
  static const char *const lengths[] = {"16777217", "9223372036854775807", "9223372036854775808", "-1", "1e3", "5, 6"};
  for (size_t i = 0; i < PU_COUNT(lengths); i++) {
    client c = client_open(b->port);
    char head[200];
    snprintf(head, sizeof head, "POST " CHAT " HTTP/1.1\r\nHost: localhost\r\nContent-Length: %s\r\n\r\n{", lengths[i]);
    client_puts(&c, head);
    answer a = client_answer(&c);
    assert_true(a.whole && (a.status == 413 || a.status == 400));
    assert_non_null(strstr(a.body.data, "\"invalid_request_error\""));
    answer_free(&a);
    client_close(&c);
  }
}

static int open_server(void **state) {
  static tiny b;
  tiny_open(&b, (pu_server_options){.model_name = "tiny"});
  talk = client_open(b.port);
  *state = &b;
  return 0;
}

/* Not one of them was the server's fault. */
static int close_server(void **state) {
  tiny *b = *state;
  double failures = tiny_metric(b, "puyu_responses_total{class=\"5xx\"}");
  client_close(&talk);
  tiny_close(b);
  return failures == 0 ? 0 : -1;
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_key_refuses_what_it_does_not_take),
                                     cmocka_unit_test(insides_are_looked_at), cmocka_unit_test(bodies_are_objects),
                                     cmocka_unit_test(ten_megabytes_are_looked_at),
                                     cmocka_unit_test(too_much_is_not_taken)};
  return cmocka_run_group_tests(tests, open_server, close_server);
}
