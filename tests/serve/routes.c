/* Every route: its answer's shape, what it refuses, who may ask. */
#include "tests/serve/tiny.h"

#define CHAT   "/v1/chat/completions"
#define HELLO  "\"messages\":[{\"role\":\"user\",\"content\":\"the quick fox\"}]"
#define GREEDY ",\"temperature\":0,\"max_tokens\":12"

static void a_chat_is_answered(void **state) {
  tiny *b = *state;
  json_t *v = tiny_post(b, CHAT, 200, "{" HELLO GREEDY "}");
  assert_string_equal(tiny_str(v, "object"), "chat.completion");
  assert_string_equal(tiny_str(v, "model"), "tiny");
  assert_string_equal(tiny_str(v, "choices/0/message/role"), "assistant");
  assert_string_equal(tiny_str(v, "choices/0/finish_reason"), "length");
  assert_int_equal(tiny_int(v, "usage/completion_tokens"), 12);
  json_t *ids = tiny_post(b, "/tokenize", 200, "{" HELLO "}");
  assert_int_equal(tiny_int(v, "usage/prompt_tokens"), tiny_int(ids, "count"));
  assert_int_equal(tiny_int(v, "usage/total_tokens"), 12 + tiny_int(ids, "count"));
  json_decref(ids);
  /* Parts of content are as their text; a newer name of the same role. */
  json_t *parts = tiny_post(b, CHAT, 200,
                            "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"the quick\"},"
                            "{\"type\":\"text\",\"text\":\" fox\"}]}],\"model\":\"tiny\",\"n\":null,"
                            "\"temperature\":0.0,\"max_completion_tokens\":12}");
  assert_string_equal(tiny_str(v, "choices/0/message/content"), tiny_str(parts, "choices/0/message/content"));
  json_decref(parts);
  json_decref(v);
}

/* The pieces of a stream make the answer; n answers come between each other. */
static void a_stream_says_the_same(void **state) {
  tiny *b = *state;
  enum { N = 3 };
  json_t *whole = tiny_post(b, CHAT, 200, "{" HELLO ",\"seed\":5,\"n\":3,\"max_tokens\":30}");
  client c = client_open(b->port);
  client_ask(&c, "POST", CHAT, "",
             "{" HELLO ",\"seed\":5,\"n\":3,\"max_tokens\":30,\"stream\":true,"
             "\"stream_options\":{\"include_usage\":true}}");
  answer a;
  assert_true(client_head(&c, &a));
  assert_int_equal(a.status, 200);
  assert_non_null(strcasestr(a.head.data, "content-type: text/event-stream\r\n"));
  pu_buf text[N], data;
  bool opened[N] = {0}, ended[N] = {0}, usage = false;
  for (int i = 0; i < N; i++) pu_buf_init(&text[i], 1 << 16);
  pu_buf_init(&data, 1 << 20);
  while (tiny_event(&c, &data) && strcmp(data.data, "[DONE]") != 0) {
    json_t *v = json_loads(data.data, JSON_ALLOW_NUL, NULL);
    assert_string_equal(tiny_str(v, "object"), "chat.completion.chunk");
    if (json_array_size(tiny_at(v, "choices")) == 0) {
      assert_int_equal(tiny_int(v, "usage/completion_tokens"), tiny_int(whole, "usage/completion_tokens"));
      usage = true;
    } else {
      long long i = tiny_int(v, "choices/0/index");
      const json_t *delta = tiny_at(v, "choices/0/delta"), *content = json_object_get(delta, "content");
      assert_false(ended[i] || usage);
      if (!opened[i]) assert_string_equal(tiny_str(delta, "role"), "assistant");
      opened[i] = true;
      if (content) tiny_put_text(&text[i], content);
      ended[i] = !json_is_null(tiny_at(v, "choices/0/finish_reason"));
    }
    json_decref(v);
  }
  assert_string_equal(data.data, "[DONE]");
  assert_false(tiny_event(&c, &data));
  assert_true(usage);
  for (int i = 0; i < N; i++) {
    char path[64];
    snprintf(path, sizeof path, "choices/%d/message/content", i);
    assert_true(ended[i]);
    pu_buf all;
    pu_buf_init(&all, 1 << 16);
    tiny_put_text(&all, tiny_at(whole, path));
    assert_string_equal(text[i].data, all.data);
    pu_buf_deinit(&all);
    pu_buf_deinit(&text[i]);
  }
  /* Different draws, or the three would prove nothing. */
  assert_string_not_equal(tiny_str(whole, "choices/0/message/content"), tiny_str(whole, "choices/1/message/content"));
  pu_buf_deinit(&data);
  answer_free(&a);
  client_close(&c);
  json_decref(whole);
}

static void a_text_goes_on(void **state) {
  tiny *b = *state;
  json_t *v = tiny_post(b, "/v1/completions", 200, "{\"prompt\":\"one two\",\"temperature\":0}");
  assert_string_equal(tiny_str(v, "object"), "text_completion");
  assert_int_equal(tiny_int(v, "usage/completion_tokens"), 16);
  const char *text = tiny_str(v, "choices/0/text");
  json_t *ids = tiny_post(b, "/tokenize", 200, "{\"prompt\":\"one two\"}");
  char *tokens = json_dumps(tiny_at(ids, "tokens"), JSON_COMPACT), body[2000];
  snprintf(body, sizeof body, "{\"prompt\":[%s,%s],\"temperature\":0,\"echo\":true}", tokens, tokens);
  json_t *same = tiny_post(b, "/v1/completions", 200, body); /* as ids, twice, with the prompt in front */
  for (int i = 0; i < 2; i++) {
    char path[64];
    snprintf(path, sizeof path, "choices/%d/text", i);
    assert_non_null(strstr(tiny_str(same, path), "one two"));
    assert_string_equal(strstr(tiny_str(same, path), "one two") + 7, text);
  }
  json_decref(same);
  /* A stop string ends it, and is left out. */
  char cut[8];
  const char *middle = text + strlen(text) / 2;
  while ((*middle & 0xC0) == 0x80) middle++; /* at a character's beginning */
  snprintf(cut, sizeof cut, "%.1s", middle);
  if (cut[0] > 0x20 && cut[0] != '"' && cut[0] != '\\') {
    snprintf(body, sizeof body, "{\"prompt\":\"one two\",\"temperature\":0,\"stop\":[\"%s\"]}", cut);
    json_t *stopped = tiny_post(b, "/v1/completions", 200, body);
    assert_string_equal(tiny_str(stopped, "choices/0/finish_reason"), "stop");
    assert_null(strstr(tiny_str(stopped, "choices/0/text"), cut));
    json_decref(stopped);
  }
  free(tokens);
  json_decref(ids);
  json_decref(v);
}

/* Each token is found where its offset, in characters, says; but for the first one where the text begins without it (a
 * beginning that was put in front of the prompt), and for parts of characters. */
static void tokens_stand_in_the_text(const json_t *choice) {
  const json_t *tokens = tiny_at(choice, "logprobs/tokens"), *offsets = tiny_at(choice, "logprobs/text_offset");
  const char *text = tiny_str(choice, "text"), *at = text;
  long long here = 0;
  bool whole = true;
  for (size_t i = 0; i < json_array_size(tokens); i++) {
    const char *token = json_string_value(json_array_get(tokens, i));
    long long offset = json_integer_value(json_array_get(offsets, i));
    assert_true(offset >= here);
    for (; here < offset; here++) {
      assert_true(*at);
      for (at++; (*at & 0xC0) == 0x80;) at++;
    }
    bool partial = strstr(token, "\xEF\xBF\xBD") != NULL, in_front = i == 0 && token[0] == '<';
    if (whole && !partial && !in_front && strncmp(at, token, strlen(token)) != 0)
      fail_msg("'%s' is said to stand at %lld of '%s'", token, offset, text);
    whole = !partial;
  }
}

/* The chosen token of a greedy answer is the likeliest; both ways of asking tell the same numbers. */
static void log_probabilities_are_told(void **state) {
  tiny *b = *state;
  json_t *v = tiny_post(b, CHAT, 200, "{" HELLO GREEDY ",\"logprobs\":true,\"top_logprobs\":3}");
  const json_t *list = tiny_at(v, "choices/0/logprobs/content");
  assert_int_equal(json_array_size(list), 12);
  for (size_t i = 0; i < 12; i++) {
    const json_t *one = json_array_get(list, i);
    double p = json_number_value(tiny_at(one, "logprob"));
    assert_int_equal(json_array_size(tiny_at(one, "top_logprobs")), 3);
    assert_true(p <= 0 && p == json_number_value(tiny_at(one, "top_logprobs/0/logprob")));
    assert_true(p >= json_number_value(tiny_at(one, "top_logprobs/1/logprob")));
    assert_true(json_equal(tiny_at(one, "bytes"), tiny_at(one, "top_logprobs/0/bytes")));
  }
  json_decref(v);
  json_t *bare = tiny_post(b, CHAT, 200, "{" HELLO GREEDY ",\"logprobs\":false}");
  assert_true(json_is_null(tiny_at(bare, "choices/0/logprobs")));
  json_decref(bare);
  /* A text scored by echo: its tokens have what a step by step answer was given. */
  v = tiny_post(b, "/v1/completions", 200,
                "{\"prompt\":\"one two\",\"temperature\":0,\"max_tokens\":8,\"logprobs\":2,\"echo\":true}");
  const json_t *tokens = tiny_at(v, "choices/0/logprobs/tokens"),
               *given = tiny_at(v, "choices/0/logprobs/token_logprobs");
  size_t n = json_array_size(tokens);
  long long n_prompt = tiny_int(v, "usage/prompt_tokens");
  assert_int_equal(n, n_prompt + 8);
  assert_int_equal(json_array_size(given), n);
  assert_int_equal(json_array_size(tiny_at(v, "choices/0/logprobs/top_logprobs")), n);
  assert_int_equal(json_array_size(tiny_at(v, "choices/0/logprobs/text_offset")), n);
  assert_true(json_is_null(json_array_get(given, 0)));
  assert_true(json_is_null(tiny_at(v, "choices/0/logprobs/top_logprobs/0")));
  assert_int_equal(tiny_int(v, "choices/0/logprobs/text_offset/0"), 0);
  tokens_stand_in_the_text(tiny_at(v, "choices/0"));
  json_t *only =
      tiny_post(b, "/v1/completions", 200, "{\"prompt\":\"one two\",\"max_tokens\":0,\"logprobs\":2,\"echo\":true}");
  assert_non_null(strstr(tiny_str(only, "choices/0/text"), "one two"));
  assert_int_equal(tiny_int(only, "usage/completion_tokens"), 0);
  assert_int_equal(json_array_size(tiny_at(only, "choices/0/logprobs/tokens")), n_prompt);
  for (long long i = 1; i < n_prompt; i++) {
    double a = json_number_value(json_array_get(given, (size_t)i));
    double c = json_number_value(json_array_get(tiny_at(only, "choices/0/logprobs/token_logprobs"), (size_t)i));
    assert_true(a < 0 && a - c < 1e-4 && c - a < 1e-4);
  }
  json_decref(only);
  json_decref(v);
}

#define LONG_TEXT                                                                                                      \
  "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "        \
  "eighteen"

/* Of a text that is scored from a character on, the tokens before have no figures, the others those that they have
 * anyway. */
static void a_text_is_scored_from_where_it_is_asked(void **state) {
  tiny *b = *state;
  char body[1000];
  json_t *whole = tiny_post(b, "/v1/completions", 200,
                            "{\"prompt\":\"" LONG_TEXT "\",\"max_tokens\":0,\"logprobs\":1,\"echo\":true}");
  const json_t *want = tiny_at(whole, "choices/0/logprobs/token_logprobs"),
               *offsets = tiny_at(whole, "choices/0/logprobs/text_offset");
  size_t n = json_array_size(want);
  const int characters = (int)sizeof LONG_TEXT - 1;
  /* The tokenizer may put a space before the text, which offsets count. */
  const char *last = json_string_value(json_array_get(tiny_at(whole, "choices/0/logprobs/tokens"), n - 1));
  const json_int_t before = json_integer_value(json_array_get(offsets, n - 1)) + (json_int_t)strlen(last) - characters;
  for (int from = 0; from < characters + 9; from += 7) {
    snprintf(body, sizeof body,
             "{\"prompt\":\"" LONG_TEXT "\",\"max_tokens\":0,\"logprobs\":1,\"echo\":true,\"logprobs_from\":%d}", from);
    json_t *part = tiny_post(b, "/v1/completions", 200, body);
    const json_t *got = tiny_at(part, "choices/0/logprobs/token_logprobs");
    assert_int_equal(json_array_size(got), n);
    assert_true(json_equal(offsets, tiny_at(part, "choices/0/logprobs/text_offset")));
    for (size_t i = 1; i < n; i++) {
      json_int_t end = i + 1 < n ? json_integer_value(json_array_get(offsets, i + 1)) - before : INT32_MAX;
      const json_t *value = json_array_get(got, i);
      double a = json_number_value(value), c = json_number_value(json_array_get(want, i));
      if (end <= from)
        assert_true(json_is_null(value));
      else
        assert_true(a < 0 && a - c < 1e-4 && c - a < 1e-4);
    }
    json_decref(part);
  }
  json_decref(whole);
}

#define WEATHER                                                                                                        \
  "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"weather\",\"parameters\":{\"type\":\"object\","          \
  "\"properties\":{\"days\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":9}},\"required\":[\"days\"]}}},"           \
  "{\"type\":\"function\",\"function\":{\"name\":\"clock\"}}]"

/* A random model has nothing to say, so that what fits was made to fit. */
static void answers_keep_to_their_form(void **state) {
  tiny *b = *state;
  static const char schema[] =
      "{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"x\",\"schema\":{\"type\":\"object\","
      "\"properties\":{\"fox\":{\"enum\":[\"red\",\"grey\"]},\"n\":{\"type\":\"integer\","
      "\"minimum\":10,\"maximum\":99}},\"required\":[\"fox\",\"n\"]}}}";
  char body[2000];
  for (int seed = 0; seed < 3; seed++) {
    snprintf(body, sizeof body, "{" HELLO ",\"seed\":%d,\"response_format\":%s}", seed, schema);
    json_t *v = tiny_post(b, CHAT, 200, body);
    json_t *said = json_loads(tiny_str(v, "choices/0/message/content"), 0, NULL);
    assert_string_equal(tiny_str(v, "choices/0/finish_reason"), "stop");
    assert_true(tiny_int(said, "n") >= 10 && tiny_int(said, "n") <= 99);
    const char *fox = tiny_str(said, "fox");
    assert_true(strcmp(fox, "red") == 0 || strcmp(fox, "grey") == 0);
    json_decref(said);
    json_decref(v);
  }
  json_t *v = tiny_post(b, "/v1/completions", 200, "{\"prompt\":\"one\",\"guided_regex\":\"(fox|dog){3}\"}");
  assert_int_equal(strlen(tiny_str(v, "choices/0/text")), 9);
  json_decref(v);
  v = tiny_post(b, "/v1/completions", 200, "{\"prompt\":\"one\",\"guided_grammar\":\"root ::= \\\"a\\\"+ \\\"!\\\"\"}");
  assert_string_equal(tiny_str(v, "object"), "text_completion");
  json_decref(v);
  static const char *const schemas[] = {"{\"enum\":[\"fox\"]}", "\"{\\\"enum\\\":[\\\"fox\\\"]}\""};
  for (size_t i = 0; i < PU_COUNT(schemas); i++) { /* as an object, and as its text */
    snprintf(body, sizeof body, "{\"prompt\":\"one\",\"guided_json\":%s}", schemas[i]);
    v = tiny_post(b, "/v1/completions", 200, body);
    assert_string_equal(tiny_str(v, "choices/0/text"), "\"fox\"");
    json_decref(v);
  }
}

enum { MOST_CALLS = 4 };

/* What a stream's pieces make together. */
typedef struct streamed {
  pu_buf content, arguments[MOST_CALLS];
  char names[MOST_CALLS][40], ids[MOST_CALLS][60], finish[20];
  size_t n_calls;
} streamed;

static void take_call(streamed *s, const json_t *call) {
  size_t i = (size_t)tiny_int(call, "index");
  const json_t *function = tiny_at(call, "function");
  const char *name = json_string_value(json_object_get(function, "name"));
  assert_true(i < MOST_CALLS && i <= s->n_calls);
  assert_true((i == s->n_calls) == (name != NULL)); /* its beginning names it, and nothing after */
  if (name) {
    s->n_calls++;
    snprintf(s->names[i], sizeof s->names[i], "%s", name);
    snprintf(s->ids[i], sizeof s->ids[i], "%s", tiny_str(call, "id"));
    assert_string_equal(tiny_str(call, "type"), "function");
    pu_buf_init(&s->arguments[i], 1 << 16);
  }
  pu_buf_puts(&s->arguments[i], tiny_str(function, "arguments"));
}

static streamed stream_of(const tiny *b, const char *body) {
  client c = client_open(b->port);
  streamed s = {0};
  answer a;
  pu_buf data;
  pu_buf_init(&data, 1 << 20);
  pu_buf_init(&s.content, 1 << 20);
  pu_buf_puts(&s.content, "");
  client_ask(&c, "POST", CHAT, "", body);
  assert_true(client_head(&c, &a));
  assert_int_equal(a.status, 200);
  while (tiny_event(&c, &data) && strcmp(data.data, "[DONE]") != 0) {
    json_t *event = json_loads(data.data, JSON_ALLOW_NUL, NULL);
    const json_t *delta = tiny_at(event, "choices/0/delta");
    const char *text = json_string_value(json_object_get(delta, "content"));
    const char *finish = json_string_value(tiny_at(event, "choices/0/finish_reason"));
    assert_string_equal(s.finish, "");
    if (text) pu_buf_puts(&s.content, text);
    for (size_t i = 0; i < json_array_size(json_object_get(delta, "tool_calls")); i++)
      take_call(&s, json_array_get(json_object_get(delta, "tool_calls"), i));
    if (finish) snprintf(s.finish, sizeof s.finish, "%s", finish);
    json_decref(event);
  }
  assert_string_equal(data.data, "[DONE]");
  answer_free(&a);
  pu_buf_deinit(&data);
  client_close(&c);
  return s;
}

static void streamed_free(streamed *s) {
  pu_buf_deinit(&s->content);
  for (size_t i = 0; i < s->n_calls; i++) pu_buf_deinit(&s->arguments[i]);
}

/* What a trained model writes by itself, a random one is held to: two calls between words. */
static void calls_are_streamed(void **state) {
  tiny *b = *state;
#define ONE_CALL(name)                                                                                                 \
  "<\\\\|action_start\\\\|><\\\\|plugin\\\\|>\\n\\\\{\\\"name\\\": \\\"" name "\\\", \\\"parameters\\\": "             \
  "\\\\{\\\"days\\\": [1-9]{9}\\\\}\\\\}<\\\\|action_end\\\\|>"
#define BODY                                                                                                           \
  "{" HELLO "," WEATHER                                                                                                \
  ",\"seed\":4,\"guided_regex\":\"Let me see\\\\. " ONE_CALL("weather") "\\n" ONE_CALL("clock") "\""
  json_t *v = tiny_post(b, CHAT, 200, BODY "}");
  assert_string_equal(tiny_str(v, "choices/0/finish_reason"), "tool_calls");
  assert_string_equal(tiny_str(v, "choices/0/message/content"), "Let me see.");
  assert_int_equal(json_array_size(tiny_at(v, "choices/0/message/tool_calls")), 2);
  streamed said = stream_of(b, BODY ",\"stream\":true}");
  assert_string_equal(said.content.data, "Let me see.");
  assert_int_equal(said.n_calls, 2);
  assert_string_equal(said.finish, "tool_calls");
  assert_string_not_equal(said.ids[0], said.ids[1]);
  for (int i = 0; i < 2; i++) {
    char path[100];
    snprintf(path, sizeof path, "choices/0/message/tool_calls/%d/function", i);
    assert_string_equal(said.names[i], tiny_str(tiny_at(v, path), "name"));
    assert_string_equal(said.arguments[i].data, tiny_str(tiny_at(v, path), "arguments"));
    assert_string_equal(said.names[i], i ? "clock" : "weather");
  }
  streamed_free(&said);
  json_decref(v);
  /* One call only; and one that is cut off in the middle of its arguments. */
  said = stream_of(b, BODY ",\"stream\":true,\"parallel_tool_calls\":false}");
  assert_int_equal(said.n_calls, 1);
  streamed_free(&said);
  v = tiny_post(b, CHAT, 200, BODY ",\"parallel_tool_calls\":false}");
  assert_int_equal(json_array_size(tiny_at(v, "choices/0/message/tool_calls")), 1);
  json_decref(v);
  said = stream_of(b, BODY ",\"stream\":true,\"max_tokens\":60}");
  assert_string_equal(said.finish, "length");
  streamed_free(&said);
#undef BODY
#undef ONE_CALL
  /* Marks that have a token of their own are said where there are tools, and only there. */
  int32_t mark = pu_tokenizer_find(b->t, pu_str_c("<|action_start|>"));
  for (int tools = 0; tools < 2; tools++) {
    char body[2000];
    snprintf(body, sizeof body, "{" HELLO "%s" GREEDY ",\"logit_bias\":{\"%d\":100},\"stream\":true}",
             tools ? "," WEATHER : "", (int)mark);
    said = stream_of(b, body);
    assert_string_equal(said.finish, "length");
    assert_int_equal(said.content.len, tools ? 12 * strlen("<|action_start|>") : 0);
    streamed_free(&said);
  }
}

static void calls_are_made(void **state) {
  tiny *b = *state;
  /* What the model is told of the tools. */
  json_t *v = tiny_post(b, "/apply_template", 200, "{" HELLO "," WEATHER "}");
  assert_non_null(strstr(tiny_str(v, "prompt"), "weather"));
  json_decref(v);
  v = tiny_post(b, "/apply_template", 200, "{" HELLO "," WEATHER ",\"tool_choice\":\"none\"}");
  assert_null(strstr(tiny_str(v, "prompt"), "weather"));
  json_decref(v);
  /* One that it has to make. */
#define CALL                                                                                                           \
  "{" HELLO "," WEATHER ",\"seed\":1,\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"weather\"}}"
  v = tiny_post(b, CHAT, 200, CALL "}");
  assert_string_equal(tiny_str(v, "choices/0/finish_reason"), "tool_calls");
  assert_string_equal(tiny_str(v, "choices/0/message/tool_calls/0/function/name"), "weather");
  json_t *arguments = json_loads(tiny_str(v, "choices/0/message/tool_calls/0/function/arguments"), 0, NULL);
  assert_true(tiny_int(arguments, "days") >= 1 && tiny_int(arguments, "days") <= 9);
  json_decref(arguments);
  json_decref(tiny_post(b, CHAT, 200, "{" HELLO "," WEATHER ",\"max_tokens\":40,\"tool_choice\":\"required\"}"));
  /* Parameters that refer to definitions of their own, as pydantic writes them. */
  json_t *other =
      tiny_post(b, CHAT, 200,
                "{" HELLO ",\"tool_choice\":\"required\",\"tools\":[{\"type\":\"function\",\"function\":{"
                "\"name\":\"paint\",\"parameters\":{\"type\":\"object\",\"properties\":{\"what\":{\"$ref\":"
                "\"#/$defs/What\"}},\"required\":[\"what\"],\"$defs\":{\"What\":{\"enum\":[\"fox\"]}}}}}]}");
  const char *fox = tiny_str(other, "choices/0/message/tool_calls/0/function/arguments");
  arguments = json_loads(fox, 0, NULL);
  assert_string_equal(tiny_str(arguments, "what"), "fox");
  json_decref(arguments);
  json_decref(other);
  streamed said = stream_of(b, CALL ",\"stream\":true}");
  assert_int_equal(said.n_calls, 1);
  assert_string_equal(said.names[0], "weather");
  assert_string_equal(said.arguments[0].data, tiny_str(v, "choices/0/message/tool_calls/0/function/arguments"));
  assert_string_equal(said.finish, "tool_calls");
  streamed_free(&said);
  json_decref(v);
  /* The call and its result go back into the conversation. */
  v = tiny_post(b, CHAT, 200,
                "{\"messages\":[{\"role\":\"user\",\"content\":\"fox\"},{\"role\":\"assistant\",\"content\":null,"
                "\"tool_calls\":[{\"id\":\"call_1\",\"type\":\"function\",\"function\":{\"name\":\"weather\","
                "\"arguments\":\"{\\\"days\\\":1}\"}}]},{\"role\":\"tool\",\"tool_call_id\":\"call_1\",\"content\":"
                "\"sun\"}]," WEATHER GREEDY "}");
  assert_int_equal(tiny_int(v, "usage/completion_tokens"), 12);
  json_decref(v);
}

static void a_bias_decides(void **state) {
  tiny *b = *state;
  json_t *v = tiny_post(b, "/v1/completions", 200,
                        "{\"prompt\":\"one\",\"temperature\":0,\"max_tokens\":3,\"logit_bias\":{\"65\":100}}");
  json_t *ids = tiny_post(b, "/detokenize", 200, "{\"tokens\":[65,65,65]}");
  assert_string_equal(tiny_str(v, "choices/0/text"), tiny_str(ids, "prompt"));
  json_decref(ids);
  json_decref(v);
}

/* What a bias asks for does not come where it is a bad word; a key that asks for nothing is no reason to refuse. */
static void bad_words_stay_away(void **state) {
  tiny *b = *state;
  json_t *id = tiny_post(b, "/tokenize", 200, "{\"prompt\":\"z\"}");
  const json_t *tokens = tiny_at(id, "tokens");
  long long z = json_integer_value(json_array_get(tokens, json_array_size(tokens) - 1));
  for (int bad = 0; bad < 2; bad++) {
    char body[300];
    snprintf(body, sizeof body,
             "{\"prompt\":\"one\",\"temperature\":0,\"max_tokens\":3,\"suffix\":\"\",\"logit_bias\":{\"%lld\":100}%s}",
             z, bad ? ",\"bad_words\":[\"fox\",\"z\"]" : "");
    json_t *v = tiny_post(b, "/v1/completions", 200, body);
    if (bad) assert_null(strchr(tiny_str(v, "choices/0/text"), 'z'));
    if (!bad) assert_string_equal(tiny_str(v, "choices/0/text"), "zzz");
    json_decref(v);
  }
  json_decref(id);
}

static void the_small_routes(void **state) {
  tiny *b = *state;
  json_t *v = tiny_get(b, "/v1/models");
  assert_string_equal(tiny_str(v, "data/0/id"), "tiny");
  assert_int_equal(tiny_int(v, "data/0/max_model_len"), TINY_CONTEXT);
  json_decref(v);
  v = tiny_get(b, "/v1/models/tiny");
  assert_string_equal(tiny_str(v, "object"), "model");
  json_decref(v);
  json_decref(tiny_json(ask_once(b->port, "GET", "/v1/models/other", "", NULL), 404));
  v = tiny_get(b, "/health");
  assert_string_equal(tiny_str(v, "status"), "ok");
  json_decref(v);
  v = tiny_post(b, "/tokenize", 200, "{\"prompt\":\"one \\u0000 two\"}");
  char *tokens = json_dumps(tiny_at(v, "tokens"), JSON_COMPACT), body[2000];
  json_decref(v);
  snprintf(body, sizeof body, "{\"tokens\":%s}", tokens);
  free(tokens);
  v = tiny_post(b, "/detokenize", 200, body);
  const json_t *text = tiny_at(v, "prompt");
  const char *end = json_string_value(text) + json_string_length(text);
  assert_memory_equal(end - 9, "one \0 two", 9);
  json_decref(v);
  v = tiny_post(b, "/apply_template", 200, "{" HELLO "}");
  assert_non_null(strstr(tiny_str(v, "prompt"), "<|im_start|>user\nthe quick fox<|im_end|>\n<|im_start|>assistant\n"));
  json_decref(v);
  assert_true(tiny_metric(b, "puyu_time_to_first_token_seconds_count") > 0);
  assert_true(tiny_metric(b, "puyu_answer_tokens_total") > 0);
  answer a;
  client c = client_open(b->port);
  client_ask(&c, "HEAD", "/nothing", "", NULL);
  assert_true(client_head(&c, &a)); /* no body follows, whatever its length says */
  assert_int_equal(a.status, 404);
  answer_free(&a);
  client_close(&c);
  json_decref(tiny_json(ask_once(b->port, "GET", "/web", "", NULL), 404));
  json_decref(tiny_json(ask_once(b->port, "GET", "/web/../keys", "", NULL), 404));
  json_decref(tiny_json(ask_once(b->port, "POST", "/", "", "{}"), 405));
  a = ask_once(b->port, "GET", CHAT, "", NULL);
  assert_non_null(strcasestr(a.head.data, "allow: POST\r\n"));
  json_t *refused = tiny_json(a, 405);
  assert_non_null(strstr(tiny_str(refused, "error/message"), "no GET; it knows POST"));
  json_decref(refused);
}

/* The value of a header of an answer, cut off at its line's end. */
static const char *header_of(const answer *a, const char *name, char *out, size_t size) {
  char wanted[100];
  snprintf(wanted, sizeof wanted, "\r\n%s: ", name);
  const char *at = strcasestr(a->head.data, wanted);
  if (!at) return NULL;
  at += strlen(wanted);
  snprintf(out, size, "%.*s", (int)strcspn(at, "\r"), at);
  return out;
}

/* The head of an answer to GET /web/style.css, on a connection that goes on. */
static int head_with(client *c, const char *method, const char *more, char *encoding, size_t size) {
  answer a;
  client_ask(c, method, "/web/style.css", more, NULL);
  assert_true(client_head(c, &a));
  if (!header_of(&a, "Content-Encoding", encoding, size)) *encoding = 0;
  int status = a.status;
  answer_free(&a);
  return status;
}

/* The page: the same bytes with gzip and without, and none for a browser that has them. */
static void the_page_is_handed_out(void **state) {
  tiny *b = *state;
  char type[100], policy[500], etag[100], more[300], encoding[100];
  answer a = ask_once(b->port, "GET", "/", "", NULL);
  assert_int_equal(a.status, 200);
  assert_string_equal(header_of(&a, "Content-Type", type, sizeof type), "text/html; charset=utf-8");
  assert_non_null(header_of(&a, "Content-Security-Policy", policy, sizeof policy));
  assert_non_null(strstr(policy, "default-src 'none'; script-src 'self'; style-src 'self';"));
  assert_null(strstr(policy, "unsafe"));
  assert_non_null(strstr(a.head.data, "X-Content-Type-Options: nosniff\r\n"));
  assert_non_null(strstr(a.body.data, "src=\"web/app.js\""));
  answer_free(&a);
  a = ask_once(b->port, "GET", "/web/style.css", "", NULL);
  answer packed = ask_once(b->port, "GET", "/web/style.css", "Accept-Encoding: br, GZIP;q=0.5\r\n", NULL);
  assert_true(a.whole && packed.whole && packed.body.len < a.body.len);
  assert_memory_equal(packed.body.data, "\x1f\x8b", 2);
  assert_non_null(strstr(a.body.data, "color-scheme"));
  assert_non_null(header_of(&a, "ETag", etag, sizeof etag));
  assert_memory_equal(etag, "W/\"", 3); /* one for packed bytes and plain ones */
  answer_free(&packed);
  answer_free(&a);
  client c = client_open(b->port); /* an answer without a body says so by its status: the next one begins after it */
  static const char *const lists[] = {"%s", "\"other\", %s", "*"};
  for (size_t i = 0; i < PU_COUNT(lists); i++) {
    char list[150];
    snprintf(list, sizeof list, lists[i], etag);
    snprintf(more, sizeof more, "If-None-Match: %s\r\n", list);
    assert_int_equal(head_with(&c, "GET", more, encoding, sizeof encoding), 304);
  }
  assert_int_equal(head_with(&c, "HEAD", "Accept-Encoding: gzip\r\n", encoding, sizeof encoding), 200);
  assert_string_equal(encoding, "gzip");
  assert_int_equal(head_with(&c, "HEAD", "Accept-Encoding: br, gzip;q=0\r\n", encoding, sizeof encoding), 200);
  assert_string_equal(encoding, "");
  assert_int_equal(head_with(&c, "HEAD", "If-None-Match: \"other\"\r\n", encoding, sizeof encoding), 200);
  client_close(&c);
}

static void mistakes_are_told(void **state) {
  tiny *b = *state;
#define C CHAT, "{" HELLO ","
  static const struct {
    const char *path, *begin, *rest, *param; /* param NULL: none is named */
    int status;
  } rows[] = {
      {CHAT, "", "", NULL, 400},
      {CHAT, "", "{", NULL, 400},
      {CHAT, "", "[]", NULL, 400},
      {CHAT, "", "{\"messages\":[]}", "messages", 400},
      {CHAT, "", "{\"messages\":{}}", "messages", 400},
      {CHAT, "", "{\"messages\":[1]}", "messages", 400},
      {CHAT, "", "{\"messages\":[{\"role\":\"user\",\"content\":1}]}", "messages", 400},
      {CHAT, "", "{\"messages\":[{\"role\":\"pope\",\"content\":\"\"}]}", "messages", 400},
      {CHAT, "", "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}", "messages", 400},
      {CHAT, "", "{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}", NULL, 400},
      {CHAT, "", "{\"messages\":[{\"role\":\"user\",\"content\":\"\\ud800\"}]}", NULL, 400},
      {C, "\"temperature\":-1}", "temperature", 400},
      {C, "\"temprature\":1}", "temprature", 400},
      {C, "\"max_token\":1}", "max_token", 400},
      {C, "\"temperature\":1e300}", "temperature", 400},
      {C, "\"temperature\":1e999}", NULL, 400},
      {C, "\"temperature\":NaN}", NULL, 400},
      {C, "\"temperature\":\"hot\"}", "temperature", 400},
      {C, "\"top_p\":0}", "top_p", 400},
      {C, "\"top_p\":1.5}", "top_p", 400},
      {C, "\"top_k\":-2}", "top_k", 400},
      {C, "\"max_tokens\":0}", "max_tokens", 400},
      {C, "\"max_tokens\":-5}", "max_tokens", 400},
      {C, "\"max_tokens\":1.5}", "max_tokens", 400},
      {C, "\"max_tokens\":9223372036854775807}", "max_tokens", 400},
      {C, "\"max_tokens\":9223372036854775808}", NULL, 400},
      {C, "\"max_completion_tokens\":1e300}", "max_completion_tokens", 400},
      {C, "\"n\":0}", "n", 400},
      {C, "\"n\":1000}", "n", 400},
      {C, "\"presence_penalty\":3}", "presence_penalty", 400},
      {C, "\"stop\":5}", "stop", 400},
      {C, "\"stop\":[\"a\",5]}", "stop", 400},
      {C, "\"stop\":\"a\\u0000b\"}", "stop", 400},
      {C, "\"stop_token_ids\":[-1]}", "stop_token_ids", 400},
      {C, "\"seed\":0.5}", "seed", 400},
      {C, "\"logprobs\":2}", "logprobs", 400},
      {C, "\"top_logprobs\":2}", "top_logprobs", 400},
      {C, "\"logprobs\":true,\"top_logprobs\":21}", "top_logprobs", 400},
      {C, "\"logit_bias\":[1]}", "logit_bias", 400},
      {C, "\"logit_bias\":{\"x\":1}}", "logit_bias", 400},
      {C, "\"logit_bias\":{\"1\":1e300}}", "logit_bias", 400},
      {C, "\"logit_bias\":{\"100000\":1}}", "logit_bias", 400},
      {C, "\"stream\":1}", "stream", 400},
      {C, "\"stream_options\":{\"include_usage\":true}}", "stream_options", 400},
      {C, "\"model\":\"gpt\"}", "model", 404},
      {C, "\"tools\":[{\"type\":\"function\"}]}", "tools", 400},
      {C, "\"tool_choice\":\"required\"}", "tool_choice", 400},
      {C, "\"tool_choice\":5}", "tool_choice", 400},
      {C, WEATHER ",\"tool_choice\":{\"function\":{\"name\":\"other\"}}}", "tool_choice", 400},
      {C, WEATHER ",\"tool_choice\":\"required\",\"response_format\":{\"type\":\"json_object\"}}", "response_format",
       400},
      {C, "\"response_format\":{\"type\":\"xml\"}}", "response_format", 400},
      {C, "\"response_format\":{\"type\":\"json_schema\"}}", "response_format", 400},
      {C, "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"schema\":{\"type\":\"cow\"}}}}",
       "response_format", 400},
      {C, "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"schema\":{\"enum\":[]}}}}",
       "response_format", 400},
      {C, "\"guided_regex\":\"(\"}", "guided_regex", 400},
      {C, "\"guided_grammar\":\"x\"}", "guided_grammar", 400},
      {C, "\"guided_json\":\"{\"}", "guided_json", 400},
      {C, "\"guided_json\":{\"type\":\"cow\"}}", "guided_json", 400},
      {C, "\"guided_json\":{},\"guided_regex\":\"a\"}", "guided_json", 400},
      {C, "\"guided_choice\":[\"a\"]}", "guided_choice", 400},
      {C, "\"bad_words_ids\":[[5]]}", "bad_words_ids", 400},
      {C, "\"bad_words\":[\"\"]}", "bad_words", 400},
      {"/v1/completions", "", "{}", "prompt", 400},
      {"/v1/completions", "", "{\"prompt\":[]}", "prompt", 400},
      {"/v1/completions", "", "{\"prompt\":[\"a\",[1]],\"n\":70}", "n", 400},
      {"/v1/completions", "", "{\"prompt\":[\"a\",1]}", "prompt", 400},
      {"/v1/completions", "", "{\"prompt\":[1,-1]}", "prompt", 400},
      {"/v1/completions", "", "{\"prompt\":[1,100000]}", "prompt", 400},
      {"/v1/completions", "", "{\"prompt\":5}", "prompt", 400},
      {"/v1/completions", "", "{\"prompt\":\"a\",\"suffix\":\"b\"}", "suffix", 400},
      {"/v1/completions", "", "{\"prompt\":\"a\",\"best_of\":3}", "best_of", 400},
      {"/tokenize", "", "{}", "prompt", 400},
      {"/tokenize", "", "{\"prompt\":[\"a\",\"b\"]}", "prompt", 400},
      {"/detokenize", "", "{\"tokens\":\"a\"}", "tokens", 400},
      {"/detokenize", "", "{\"tokens\":[1,999999]}", "tokens", 400},
      {"/apply_template", "", "{\"prompt\":\"a\"}", "messages", 400},
      {"/apply_template", "", "{\"messages\":[{\"role\":\"pope\",\"content\":\"\"}]}", "messages", 400},
      {"/tokenize", "", "{\"messages\":[{\"role\":\"pope\",\"content\":\"\"}]}", "messages", 400},
  };
#undef C
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    char body[1000];
    snprintf(body, sizeof body, "%s%s", rows[i].begin, rows[i].rest);
    answer a = ask_once(b->port, "POST", rows[i].path, "", body);
    if (a.status != rows[i].status) fail_msg("%s: status %d: %s", body, a.status, a.body.data);
    json_t *v = tiny_json(a, rows[i].status);
    assert_string_equal(tiny_str(v, "error/type"), "invalid_request_error");
    assert_true(tiny_str(v, "error/message")[0]);
    const char *param = json_string_value(tiny_at(v, "error/param"));
    if (rows[i].param && (!param || strcmp(param, rows[i].param) != 0))
      fail_msg("%s: param is %s", body, param ? param : "null");
    json_decref(v);
  }
}

/* Deep, long, and longer than the context. */
static void large_bodies_are_refused(void **state) {
  tiny *b = *state;
  enum { N = 2 << 20 };
  char *body = malloc(N + 100);
  memset(body, '[', N);
  body[N] = 0;
  json_decref(tiny_post(b, CHAT, 413, body));
  body[N / 4] = 0;
  json_decref(tiny_post(b, CHAT, 400, body));
  /* What no context holds, whatever its tokens, is not made into tokens; what might fit is, and these are counted. */
  static const char *const begin[] = {"{\"prompt\":\"", "{\"messages\":[{\"role\":\"user\",\"content\":\""};
  static const char *const end[] = {"\"}", "\"}]}"}, *const key[] = {"prompt", "messages"};
  for (int chat = 0; chat < 2; chat++)
    for (int huge = 0; huge < 2; huge++) {
      size_t n = huge ? N : 2 * TINY_CONTEXT, at = (size_t)sprintf(body, "%s", begin[chat]);
      for (size_t i = 0; i < n; i++) body[at + i] = (char)('0' + i * i % 7);
      strcpy(body + at + n, end[chat]);
      json_t *v = tiny_post(b, chat ? CHAT : "/v1/completions", 400, body);
      assert_string_equal(tiny_str(v, "error/param"), key[chat]);
      assert_string_equal(tiny_str(v, "error/code"), "context_length_exceeded");
      assert_non_null(strstr(tiny_str(v, "error/message"), huge ? "bytes;" : "tokens;"));
      json_decref(v);
    }
  free(body);
}

static void pages_of_others_are_kept_out(void **state) {
  tiny *b = *state;
  json_decref(tiny_json(ask_once(b->port, "GET", "/v1/models", "Origin: http://evil.example\r\n", NULL), 403));
  json_decref(tiny_json(ask_once(b->port, "GET", "/v1/models", "Origin: null\r\n", NULL), 403));
  json_decref(
      tiny_json(ask_once(b->port, "GET", "/v1/models", "Origin: http://localhost\r\n", NULL), 200)); /* its own */
  json_decref(tiny_json(ask_once(b->port, "OPTIONS", CHAT, "", NULL), 405));
}

static int asked_by_the_name(const tiny *b, const char *name) {
  client c = client_open(b->port);
  answer a;
  pu_buf text;
  pu_buf_init(&text, 1 << 12);
  pu_buf_printf(&text, "GET /health HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", name);
  client_puts(&c, text.data);
  pu_buf_deinit(&text);
  assert_true(client_head(&c, &a));
  int status = a.status;
  answer_free(&a);
  client_close(&c);
  return status;
}

static void names_of_others_are_not_its_own(void **state) {
  tiny *b = *state;
  static const char *const own[] = {"localhost", "LOCALHOST:1", "127.0.0.1:80", "10.0.0.7", "[::1]", "[::1]:8"};
  static const char *const foreign[] = {"evil.example", "evil.example:23333", "localhost.evil.example", "[evil]", "x"};
  for (size_t i = 0; i < PU_COUNT(own); i++) assert_int_equal(asked_by_the_name(b, own[i]), 200);
  for (size_t i = 0; i < PU_COUNT(foreign); i++) assert_int_equal(asked_by_the_name(b, foreign[i]), 403);
}

static int open_server(void **state) {
  static tiny b;
  tiny_open(&b, (pu_server_options){.model_name = "tiny"});
  *state = &b;
  return 0;
}

static int close_server(void **state) {
  tiny_close(*state);
  return 0;
}

static void keys_open(void **state) {
  (void)state;
  const char *keys[] = {"first-key", "second"};
  tiny b;
  tiny_open(&b, (pu_server_options){.api_keys = keys, .n_api_keys = 2, .cors_origin = "https://page.example"});
  static const char *const wrong[] = {"",
                                      "Authorization: Bearer \r\n",
                                      "Authorization: Bearer first-ke\r\n",
                                      "Authorization: Bearer first-keyy\r\n",
                                      "Authorization: Bearer secondsecond\r\n",
                                      "Authorization: Basic second\r\n"};
  for (size_t i = 0; i < PU_COUNT(wrong); i++) {
    json_t *v = tiny_json(ask_once(b.port, "GET", "/v1/models", wrong[i], NULL), 401);
    assert_string_equal(tiny_str(v, "error/code"), "invalid_api_key");
    json_decref(v);
  }
  json_decref(tiny_json(ask_once(b.port, "GET", "/v1/models", "Authorization: Bearer first-key\r\n", NULL), 200));
  json_decref(tiny_json(ask_once(b.port, "GET", "/v1/models", "authorization: bearer second\r\n", NULL), 200));
  json_decref(tiny_get(&b, "/health"));
  answer page = ask_once(b.port, "GET", "/", "", NULL); /* it asks for the key itself */
  assert_int_equal(page.status, 200);
  answer_free(&page);
  answer a = ask_once(b.port, "OPTIONS", CHAT, "Origin: https://page.example\r\n", NULL);
  assert_int_equal(a.status, 204);
  assert_non_null(strstr(a.head.data, "Access-Control-Allow-Origin: https://page.example\r\n"));
  assert_non_null(strstr(a.head.data, "Access-Control-Allow-Headers: Authorization, Content-Type\r\n"));
  answer_free(&a);
  a = ask_once(b.port, "OPTIONS", CHAT,
               "Origin: https://page.example\r\nAccess-Control-Request-Headers: authorization,x-stainless-os\r\n",
               NULL);
  assert_non_null(strstr(a.head.data, "Access-Control-Allow-Headers: authorization,x-stainless-os\r\n"));
  answer_free(&a);
  json_decref(tiny_json(ask_once(b.port, "GET", "/health", "Origin: https://other.example\r\n", NULL), 403));
  tiny_close(&b);
}

/* The engine's thread shows itself once a second at the least: to one that wants to see it sooner it looks stuck. */
static void the_watchdog_barks(void **state) {
  (void)state;
  tiny b;
  tiny_open(&b, (pu_server_options){.stuck_seconds = 1e-6});
  usleep(10000);
  json_t *v = tiny_json(ask_once(b.port, "GET", "/health", "", NULL), 503);
  assert_string_equal(tiny_str(v, "status"), "stuck");
  json_decref(v);
  tiny_close(&b);
}

static void key_files_are_read(void **state) {
  (void)state;
  char path[64];
  pu_arena *arena;
  pu_error e;
  pu_strs keys = {0};
  snprintf(path, sizeof path, "/tmp/puyu-test-keys-%d", (int)getpid());
  assert_ok(pu_arena_create(1 << 20, &arena, &e), &e);
  static const char text[] = "# ours\n\n  alpha \r\nbeta";
  assert_ok(pu_file_write(path, text, strlen(text), &e), &e);
  assert_ok(pu_server_read_keys(path, arena, &keys, &e), &e);
  assert_int_equal(keys.n, 2);
  assert_string_equal(keys.v[0], "alpha");
  assert_string_equal(keys.v[1], "beta");
  assert_ok(pu_file_write(path, "# none\n", 7, &e), &e);
  assert_int_equal(pu_server_read_keys(path, arena, &keys, &e), PU_ERR_FORMAT);
  unlink(path);
  assert_int_equal(pu_server_read_keys(path, arena, &keys, &e), PU_ERR_IO);
  pu_arena_free(arena);
}

static void open_doors_are_refused(void **state) {
  (void)state;
  const char *key[] = {"k"}, *empty[] = {""};
  const struct {
    pu_server_options o;
    pu_err err;
  } rows[] = {{{.host = "0.0.0.0"}, PU_ERR_USAGE},
              {{.host = "::"}, PU_ERR_USAGE},
              {{.host = "example.org"}, PU_ERR_USAGE},
              {{.host = "0.0.0.0", .api_keys = empty, .n_api_keys = 1}, PU_ERR_USAGE},
              {{.host = "0.0.0.0", .api_keys = key, .n_api_keys = 1}, PU_OK},
              {{.host = "0.0.0.0", .insecure = true}, PU_OK},
              {{.host = "127.1.2.3"}, PU_OK},
              {{.host = "::1"}, PU_OK},
              {{.host = "localhost"}, PU_OK}};
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    pu_error e;
    if (pu_server_check(&rows[i].o, &e) != rows[i].err) fail_msg("row %zu", i);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(a_chat_is_answered),
                                     cmocka_unit_test(a_stream_says_the_same),
                                     cmocka_unit_test(a_text_goes_on),
                                     cmocka_unit_test(log_probabilities_are_told),
                                     cmocka_unit_test(a_text_is_scored_from_where_it_is_asked),
                                     cmocka_unit_test(a_bias_decides),
                                     cmocka_unit_test(bad_words_stay_away),
                                     cmocka_unit_test(answers_keep_to_their_form),
                                     cmocka_unit_test(calls_are_made),
                                     cmocka_unit_test(calls_are_streamed),
                                     cmocka_unit_test(the_small_routes),
                                     cmocka_unit_test(the_page_is_handed_out),
                                     cmocka_unit_test(mistakes_are_told),
                                     cmocka_unit_test(large_bodies_are_refused),
                                     cmocka_unit_test(pages_of_others_are_kept_out),
                                     cmocka_unit_test(names_of_others_are_not_its_own)};
  const struct CMUnitTest others[] = {cmocka_unit_test(keys_open), cmocka_unit_test(the_watchdog_barks),
                                      cmocka_unit_test(key_files_are_read), cmocka_unit_test(open_doors_are_refused)};
  int failed = cmocka_run_group_tests(tests, open_server, close_server);
  return failed + cmocka_run_group_tests(others, NULL, NULL);
}
