#include "src/serve/ask.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- keys that hold one value ---- */

typedef enum field_kind { FIELD_BOOL, FIELD_INT, FIELD_NUM } field_kind;

/* null is as good as absent, as the API has it. */
typedef struct field {
  const char *key;
  field_kind kind;
  size_t offset;
  double min, max;
} field;

#define AT(member) offsetof(pu_ask, member)
static const field generation_fields[] = {
    {"stream", FIELD_BOOL, AT(stream), 0, 0},
    {"n", FIELD_INT, AT(n), 1, PU_ASK_MAX_CHOICES},
    {"max_tokens", FIELD_INT, AT(how.max_tokens), 1, INT32_MAX},
    {"max_completion_tokens", FIELD_INT, AT(how.max_tokens), 1, INT32_MAX},
    {"temperature", FIELD_NUM, AT(how.temperature), 0, 2},
    {"top_p", FIELD_NUM, AT(how.top_p), 1e-6, 1},
    {"top_k", FIELD_INT, AT(how.top_k), -1, INT32_MAX},
    {"typical_p", FIELD_NUM, AT(how.typical_p), 1e-6, 1},
    {"min_p", FIELD_NUM, AT(how.min_p), 0, 1},
    {"presence_penalty", FIELD_NUM, AT(how.presence_penalty), -2, 2},
    {"frequency_penalty", FIELD_NUM, AT(how.frequency_penalty), -2, 2},
    {"repetition_penalty", FIELD_NUM, AT(how.repetition_penalty), 0.01, 100},
    {"min_tokens", FIELD_INT, AT(how.min_tokens), 0, INT32_MAX},
    {"ignore_eos", FIELD_BOOL, AT(how.ignore_eos), 0, 0},
    {0},
};
static const field completion_fields[] = {
    {"echo", FIELD_BOOL, AT(echo), 0, 0}, {"logprobs_from", FIELD_INT, AT(logprobs_from), 0, INT32_MAX}, {0}};

static pu_err wrong(pu_ask *a, const char *key, pu_error *e, const char *what) {
  a->param = key;
  return pu_fail(e, PU_ERR_USAGE, "'%s' %s", key, what);
}

/* The value of a key; NULL: absent, or null. */
static const json_t *get(const pu_ask *a, const char *key) {
  const json_t *v = json_object_get(a->body, key);
  return json_is_null(v) ? NULL : v;
}

static pu_err outside(pu_ask *a, const field *f, pu_error *e) {
  a->param = f->key;
  return pu_fail(e, PU_ERR_USAGE, "'%s' must be from %.12g to %.12g", f->key, f->min, f->max);
}

static pu_err read_number(pu_ask *a, const field *f, const json_t *v, pu_error *e) {
  if (!json_is_number(v)) return wrong(a, f->key, e, "must be a number");
  double d = json_number_value(v);
  if (!(d >= f->min && d <= f->max)) return outside(a, f, e);
  *(double *)((char *)a + f->offset) = d;
  return PU_OK;
}

static pu_err read_integer(pu_ask *a, const field *f, const json_t *v, pu_error *e) {
  /* 16.0 is an integer to many who write JSON. */
  double d = json_is_number(v) ? json_number_value(v) : NAN;
  if (!json_is_number(v) || d != floor(d)) return wrong(a, f->key, e, "must be an integer");
  if (!(d >= f->min && d <= f->max)) return outside(a, f, e);
  *(int64_t *)((char *)a + f->offset) = (int64_t)d;
  return PU_OK;
}

static pu_err read_fields(pu_ask *a, const field *f, pu_error *e) {
  for (; f->key; f++) {
    const json_t *v = get(a, f->key);
    if (!v) continue;
    if (f->kind == FIELD_NUM) PU_TRY(read_number(a, f, v, e));
    if (f->kind == FIELD_INT) PU_TRY(read_integer(a, f, v, e));
    if (f->kind != FIELD_BOOL) continue;
    if (!json_is_boolean(v)) return wrong(a, f->key, e, "must be true or false");
    *(bool *)((char *)a + f->offset) = json_is_true(v);
  }
  return PU_OK;
}

/* ---- lists ---- */

static void *take(pu_ask *a, size_t n, size_t size, pu_error *e) {
  void *p = pu_arena_zalloc(a->arena, PU_MAX(n * size, 1));
  if (!p) (void)pu_fail(e, PU_ERR_NOMEM, "the request is too large");
  return p;
}

static pu_str string_of(const json_t *v) {
  return pu_str_of(json_string_value(v), json_string_length(v));
}

static pu_err read_stop(pu_ask *a, pu_error *e) {
  const json_t *v = get(a, "stop");
  size_t n = !v ? 0 : json_is_array(v) ? json_array_size(v) : 1;
  if (n > PU_ASK_MAX_STOP) return wrong(a, "stop", e, "has more than 64 strings");
  const char **stop = take(a, n, sizeof *stop, e);
  if (!stop) return PU_ERR_NOMEM;
  a->how.stop = stop;
  for (size_t i = 0; i < n; i++) {
    const json_t *one = json_is_array(v) ? json_array_get(v, i) : v;
    if (!json_is_string(one)) return wrong(a, "stop", e, "must be a string or an array of strings");
    pu_str s = string_of(one);
    if (strlen(s.ptr) != s.len) return wrong(a, "stop", e, "must not hold U+0000");
    if (s.len) stop[a->how.n_stop++] = s.ptr;
  }
  return PU_OK;
}

static pu_err read_bad_words(pu_ask *a, pu_error *e) {
  const json_t *v = get(a, "bad_words");
  size_t n = json_array_size(v);
  if (!v) return PU_OK;
  if (!json_is_array(v) || n > PU_ASK_MAX_STOP)
    return wrong(a, "bad_words", e, "must be an array of at most 64 strings");
  a->bad_words = take(a, n, sizeof *a->bad_words, e);
  if (!a->bad_words) return PU_ERR_NOMEM;
  for (size_t i = 0; i < n; i++) {
    const json_t *one = json_array_get(v, i);
    if (!json_is_string(one) || !json_string_length(one))
      return wrong(a, "bad_words", e, "must hold strings that are not empty");
    a->bad_words[a->n_bad_words++] = string_of(one);
  }
  return PU_OK;
}

static pu_err read_ids(pu_ask *a, const char *key, const json_t *v, pu_ids *out, pu_error *e) {
  size_t n = json_array_size(v);
  out->v = take(a, n, sizeof *out->v, e);
  if (!out->v) return PU_ERR_NOMEM;
  for (size_t i = 0; i < n; i++) {
    const json_t *one = json_array_get(v, i);
    json_int_t id = json_integer_value(one);
    if (!json_is_integer(one) || id < 0 || id > INT32_MAX) return wrong(a, key, e, "must hold token ids");
    out->v[out->n++] = (int32_t)id;
  }
  return PU_OK;
}

static pu_err read_stop_ids(pu_ask *a, pu_error *e) {
  const json_t *v = get(a, "stop_token_ids");
  if (!v) return PU_OK;
  if (!json_is_array(v) || json_array_size(v) > PU_ASK_MAX_STOP)
    return wrong(a, "stop_token_ids", e, "must be an array of at most 64 token ids");
  pu_ids ids = {0};
  PU_TRY(read_ids(a, "stop_token_ids", v, &ids, e));
  a->how.stop_ids = ids.v;
  a->how.n_stop_ids = ids.n;
  return PU_OK;
}

static pu_err read_seed(pu_ask *a, pu_error *e) {
  const json_t *v = get(a, "seed");
  if (!v) return PU_OK;
  if (!json_is_integer(v)) return wrong(a, "seed", e, "must be an integer");
  a->how.seed = (uint64_t)json_integer_value(v);
  a->has_seed = true;
  return PU_OK;
}

/* {"50256": -100}: biases by id, as text since JSON's keys are. */
static pu_err read_bias(pu_ask *a, pu_error *e) {
  json_t *v = json_object_get(a->body, "logit_bias"), *one;
  const char *key;
  if (!v || json_is_null(v)) return PU_OK;
  if (!json_is_object(v) || json_object_size(v) > PU_ASK_MAX_BIAS)
    return wrong(a, "logit_bias", e, "must be an object of at most 1024 token ids");
  pu_logit_bias *bias = take(a, json_object_size(v), sizeof *bias, e);
  if (!bias) return PU_ERR_NOMEM;
  a->how.logit_bias = bias;
  json_object_foreach(v, key, one) {
    char *end;
    errno = 0;
    long id = strtol(key, &end, 10);
    if (end == key || *end || errno || id < 0 || id > INT32_MAX)
      return wrong(a, "logit_bias", e, "must have token ids as its keys");
    double b = json_is_number(one) ? json_number_value(one) : NAN;
    if (!(b >= -100 && b <= 100)) return wrong(a, "logit_bias", e, "must have values from -100 to 100");
    bias[a->how.n_logit_bias++] = (pu_logit_bias){(int32_t)id, (float)b};
  }
  return PU_OK;
}

static pu_err read_stream_options(pu_ask *a, pu_error *e) {
  const json_t *v = get(a, "stream_options");
  if (!v) return PU_OK;
  if (!json_is_object(v)) return wrong(a, "stream_options", e, "must be an object");
  if (!a->stream) return wrong(a, "stream_options", e, "makes sense only with \"stream\": true");
  const json_t *usage = json_object_get(v, "include_usage");
  if (usage && !json_is_boolean(usage) && !json_is_null(usage))
    return wrong(a, "stream_options.include_usage", e, "must be true or false");
  a->include_usage = json_is_true(usage);
  return PU_OK;
}

/* Chat: "logprobs" says whether, "top_logprobs" how many beside. */
static pu_err read_chat_logprobs(pu_ask *a, pu_error *e) {
  static const field top[] = {{"top_logprobs", FIELD_INT, AT(top_logprobs), 0, 20}, {0}};
  const json_t *v = get(a, "logprobs");
  if (v && !json_is_boolean(v)) return wrong(a, "logprobs", e, "must be true or false");
  PU_TRY(read_fields(a, top, e));
  if (json_is_true(v))
    a->how.top_logprobs = (int)a->top_logprobs;
  else if (a->top_logprobs)
    return wrong(a, "top_logprobs", e, "needs \"logprobs\": true");
  return PU_OK;
}

/* Completions: "logprobs" says how many beside. */
static pu_err read_logprobs(pu_ask *a, pu_error *e) {
  static const field rows[] = {{"logprobs", FIELD_INT, AT(top_logprobs), 0, 20}, {0}};
  a->top_logprobs = -1;
  PU_TRY(read_fields(a, rows, e));
  a->how.top_logprobs = (int)a->top_logprobs;
  return PU_OK;
}

/* With echo an answer may be nothing but its prompt: its log-probabilities are what is asked for. The engine is asked
 * for one token, which is thrown away. */
static pu_err read_no_answer(pu_ask *a, pu_error *e) {
  const json_t *v = json_object_get(a->body, "max_tokens");
  if (!json_is_integer(v) || json_integer_value(v) != 0 || !a->echo) return PU_OK;
  if (a->n != 1) return wrong(a, "n", e, "must be 1 where max_tokens is 0");
  a->no_answer = true;
  return PU_OK;
}

/* ---- what would change the answer and is not there: said, not passed over ---- */

/* Values that ask for nothing. */
static bool is_nothing(const json_t *v) {
  bool empty_list = json_is_array(v) && json_array_size(v) == 0;
  bool empty_object = json_is_object(v) && json_object_size(v) == 0;
  bool zero = json_is_integer(v) && json_integer_value(v) == 0;
  bool none = json_is_string(v) && (strcmp(json_string_value(v), "none") == 0 || !json_string_length(v));
  return !v || json_is_false(v) || empty_list || empty_object || zero || none;
}

static pu_err refuse_unknown(pu_ask *a, pu_error *e) {
  static const char *const keys[] = {"functions",
                                     "function_call",
                                     "audio",
                                     "suffix",
                                     "prediction",
                                     "guided_choice",
                                     "structured_outputs",
                                     "allowed_token_ids",
                                     "bad_words_ids",
                                     "use_beam_search",
                                     "continue_final_message"};
  for (size_t i = 0; i < PU_COUNT(keys); i++)
    if (!is_nothing(get(a, keys[i]))) return wrong(a, keys[i], e, "is not supported by this server");
  const json_t *best = get(a, "best_of");
  if (best && !(json_is_integer(best) && json_integer_value(best) == a->n))
    return wrong(a, "best_of", e, "other than 'n' is not supported by this server");
  return PU_OK;
}

/* ---- keys that nobody knows ---- */

/* Clients of other servers send more keys than this one knows, and those are passed over. One that is a known key
 * misspelt would be passed over too, and its sender would not know. */
static pu_err refuse_misspelt(pu_ask *a, pu_error *e) {
  static const char *const others[] = {
      "model",
      "messages",
      "prompt",
      "tokens",
      "stop",
      "stop_token_ids",
      "seed",
      "logit_bias",
      "stream_options",
      "logprobs",
      "logprobs_from",
      "top_logprobs",
      "tools",
      "tool_choice",
      "parallel_tool_calls",
      "response_format",
      "guided_json",
      "guided_regex",
      "guided_grammar",
      "bad_words",
      "chat_template_kwargs",
      "echo",
      "best_of",
      "functions",
      "function_call",
      "audio",
      "suffix",
      "prediction",
  };
  enum { N_FIELDS = PU_COUNT(generation_fields) - 1, N = N_FIELDS + PU_COUNT(others), MOST_LOOKED_AT = 64 };
  const char *known[N];
  for (size_t i = 0; i < N; i++) known[i] = i < N_FIELDS ? generation_fields[i].key : others[i - N_FIELDS];
  const char *key;
  json_t *value;
  size_t looked_at = 0;
  json_object_foreach(a->body, key, value) {
    size_t n = strlen(key), near = n < 6 ? 0 : n < 9 ? 1 : 2, i = 0;
    while (i < N && strcmp(known[i], key) != 0) i++;
    if (i < N || looked_at++ == MOST_LOOKED_AT) continue;
    for (i = 0; near && i < N; i++) {
      if (pu_edit_distance(key, known[i]) > near) continue;
      a->param = key;
      return pu_fail(e, PU_ERR_USAGE, "'%s' is no key of a request: did you mean '%s'?", key, known[i]);
    }
  }
  return PU_OK;
}

/* ---- messages ---- */

static pu_err check_parts(pu_ask *a, const json_t *parts, pu_error *e) {
  for (size_t i = 0; i < json_array_size(parts); i++) {
    const json_t *part = json_array_get(parts, i), *type = json_object_get(part, "type");
    if (!json_is_string(type)) return wrong(a, "messages", e, "has a part of content without a type");
    if (strcmp(json_string_value(type), "text") != 0)
      return wrong(a, "messages", e, "has a part of content that is no text: this model reads only text");
    if (!json_is_string(json_object_get(part, "text")))
      return wrong(a, "messages", e, "has a part of type text without a text");
  }
  return PU_OK;
}

/* Calls that an assistant's message made before. */
static pu_err check_calls(pu_ask *a, const json_t *calls, pu_error *e) {
  if (!calls || json_is_null(calls)) return PU_OK;
  if (!json_is_array(calls)) return wrong(a, "messages", e, "has tool_calls that are no array");
  for (size_t i = 0; i < json_array_size(calls); i++) {
    const json_t *one = json_array_get(calls, i), *f = json_object_get(one, "function");
    if (json_object_get(one, "code_interpreter")) continue;
    if (!json_is_string(json_object_get(f, "name")) || !json_is_string(json_object_get(f, "arguments")))
      return wrong(a, "messages", e, "has a tool call without a function's name and arguments (a string)");
  }
  return PU_OK;
}

static bool is_text_or_nothing(const json_t *v) {
  return !v || json_is_null(v) || json_is_string(v);
}

static pu_err check_message(pu_ask *a, json_t *m, pu_error *e) {
  const json_t *role = json_object_get(m, "role"), *content = json_object_get(m, "content");
  if (!json_is_string(role)) return wrong(a, "messages", e, "has a message without a role");
  if (!is_text_or_nothing(json_object_get(m, "name"))) return wrong(a, "messages", e, "has a name that is no string");
  PU_TRY(check_calls(a, json_object_get(m, "tool_calls"), e));
  if (json_is_array(content))
    PU_TRY(check_parts(a, content, e));
  else if (!is_text_or_nothing(content))
    return wrong(a, "messages", e, "has a content that is neither a string nor an array of parts");
  /* A newer name of the same role, which templates do not know. */
  bool newer = strcmp(json_string_value(role), "developer") == 0;
  if (newer && json_object_set_new(m, "role", json_string("system")) != 0)
    return pu_fail(e, PU_ERR_NOMEM, "no memory for the request");
  return PU_OK;
}

static pu_err read_messages(pu_ask *a, pu_error *e) {
  json_t *v = json_object_get(a->body, "messages");
  size_t n = json_array_size(v);
  if (!json_is_array(v) || n == 0) return wrong(a, "messages", e, "must be an array of at least one message");
  if (n > PU_ASK_MAX_MESSAGES) return wrong(a, "messages", e, "has more than 16384 messages");
  for (size_t i = 0; i < n; i++) PU_TRY(check_message(a, json_array_get(v, i), e));
  a->messages = v;
  a->template_options = get(a, "chat_template_kwargs");
  if (a->template_options && !json_is_object(a->template_options))
    return wrong(a, "chat_template_kwargs", e, "must be an object");
  return PU_OK;
}

/* ---- tools ---- */

static pu_err check_tool(pu_ask *a, const json_t *tool, pu_error *e) {
  const json_t *type = json_object_get(tool, "type"), *f = json_object_get(tool, "function");
  if (!json_is_string(type)) return wrong(a, "tools", e, "has a tool without a type");
  if (strcmp(json_string_value(type), "code_interpreter") == 0) return PU_OK;
  if (strcmp(json_string_value(type), "function") != 0) return wrong(a, "tools", e, "has a tool that is no function");
  if (!json_is_string(json_object_get(f, "name"))) return wrong(a, "tools", e, "has a function without a name");
  const json_t *parameters = json_object_get(f, "parameters");
  if (parameters && !json_is_object(parameters) && !json_is_null(parameters))
    return wrong(a, "tools", e, "has parameters that are no object");
  return PU_OK;
}

static pu_err set_form(pu_ask *a, const char *key, pu_grammar_kind kind, pu_str source, pu_error *e) {
  if (a->has_form) return wrong(a, key, e, "asks for a form of the answer beside another that is asked for");
  a->has_form = true;
  a->form = kind;
  a->form_source = source;
  a->form_key = key;
  return PU_OK;
}

static pu_err set_schema(pu_ask *a, const char *key, const json_t *schema, pu_error *e) {
  char *text = json_dumps(schema, JSON_COMPACT | JSON_ENCODE_ANY);
  char *kept = text ? pu_arena_strdup(a->arena, text) : NULL;
  free(text);
  if (!kept) return pu_fail(e, PU_ERR_NOMEM, "no memory for a schema");
  return set_form(a, key, PU_GRAMMAR_JSON_SCHEMA, pu_str_c(kept), e);
}

/* A function's parameters as a part of another schema. In them #/… means the parameters themselves, as pydantic and zod
 * write it, and a schema with an $id says so. The caller owns it. */
static json_t *arguments_schema(const json_t *function) {
  json_t *parameters = json_object_get(function, "parameters");
  if (json_object_size(parameters) == 0) return json_pack("{ss}", "type", "object");
  json_t *own = json_copy(parameters);
  if (!json_object_get(own, "$id")) json_object_set_new(own, "$id", json_string("parameters"));
  return own;
}

/* The schema of a call to one of the tools, or to the one of that name: {"name", "arguments"}. The caller owns it. */
static json_t *call_schema(const json_t *tools, const char *only) {
  json_t *calls = json_array();
  for (size_t i = 0; i < json_array_size(tools); i++) {
    const json_t *f = json_object_get(json_array_get(tools, i), "function");
    const char *name = json_string_value(json_object_get(f, "name"));
    if (!name || (only && strcmp(only, name) != 0)) continue;
    json_array_append_new(calls, json_pack("{ss s{s{ss} so} s[ss] sb}", "type", "object", "properties", "name", "const",
                                           name, "arguments", arguments_schema(f), "required", "name", "arguments",
                                           "additionalProperties", 0));
  }
  return json_pack("{so}", "anyOf", calls);
}

/* "required", or {"type": "function", "function": {"name": …}}. */
static pu_err force_call(pu_ask *a, const char *name, pu_error *e) {
  if (!a->tools) return wrong(a, "tool_choice", e, "asks for a call, but there are no tools");
  json_t *schema = call_schema(a->tools, name);
  pu_err err = json_array_size(json_object_get(schema, "anyOf"))
                   ? set_schema(a, "tools", schema, e)
                   : wrong(a, "tool_choice", e, "names no function of 'tools'");
  json_decref(schema);
  a->must_call = !err;
  return err;
}

/* "auto" is what a model does by itself; "none" leaves the tools out. */
static pu_err read_tool_choice(pu_ask *a, pu_error *e) {
  const json_t *v = get(a, "tool_choice"), *name = json_object_get(json_object_get(v, "function"), "name");
  const char *word = json_string_value(v);
  if (!v || (word && strcmp(word, "auto") == 0)) return PU_OK;
  if (json_is_string(name)) return force_call(a, json_string_value(name), e);
  if (word && strcmp(word, "required") == 0) return force_call(a, NULL, e);
  if (!word || strcmp(word, "none") != 0)
    return wrong(a, "tool_choice", e, "must be \"auto\", \"none\", \"required\" or the name of a function");
  a->tools = NULL;
  return PU_OK;
}

/* response_format, and keys of other servers for the same and for what it cannot say. */
static pu_err read_form(pu_ask *a, pu_error *e) {
  static const struct {
    const char *key;
    pu_grammar_kind kind;
  } others[] = {{"guided_regex", PU_GRAMMAR_REGEX}, {"guided_grammar", PU_GRAMMAR_GBNF}};
  for (size_t i = 0; i < PU_COUNT(others); i++) {
    const json_t *v = get(a, others[i].key);
    if (v && !json_is_string(v)) return wrong(a, others[i].key, e, "must be a string");
    if (v) PU_TRY(set_form(a, others[i].key, others[i].kind, string_of(v), e));
  }
  const json_t *given = get(a, "guided_json");
  if (given && !json_is_object(given) && !json_is_string(given))
    return wrong(a, "guided_json", e, "must be a schema: an object, or its text");
  if (json_is_string(given)) PU_TRY(set_form(a, "guided_json", PU_GRAMMAR_JSON_SCHEMA, string_of(given), e));
  if (json_is_object(given)) PU_TRY(set_schema(a, "guided_json", given, e));
  const json_t *format = get(a, "response_format");
  const char *type = json_string_value(json_object_get(format, "type"));
  if (!format || (type && strcmp(type, "text") == 0)) return PU_OK;
  if (type && strcmp(type, "json_object") == 0) return set_form(a, "response_format", PU_GRAMMAR_JSON, pu_str_c(""), e);
  const json_t *schema = json_object_get(json_object_get(format, "json_schema"), "schema");
  if (!type || strcmp(type, "json_schema") != 0)
    return wrong(a, "response_format", e, "must have the type text, json_object or json_schema");
  if (!json_is_object(schema)) return wrong(a, "response_format", e, "needs an object json_schema.schema");
  return set_schema(a, "response_format", schema, e);
}

static pu_err read_tools(pu_ask *a, pu_error *e) {
  static const field parallel[] = {{"parallel_tool_calls", FIELD_BOOL, AT(one_call), 0, 0}, {0}};
  const json_t *v = get(a, "tools");
  if (v && !json_is_array(v)) return wrong(a, "tools", e, "must be an array");
  if (json_array_size(v) > PU_ASK_MAX_TOOLS) return wrong(a, "tools", e, "has more than 1024 tools");
  for (size_t i = 0; i < json_array_size(v); i++) PU_TRY(check_tool(a, json_array_get(v, i), e));
  if (json_array_size(v)) a->tools = v;
  a->one_call = true;
  PU_TRY(read_fields(a, parallel, e));
  a->one_call = get(a, "parallel_tool_calls") ? !a->one_call : false;
  return read_tool_choice(a, e);
}

/* ---- prompts ---- */

static pu_err read_prompt(pu_ask *a, const json_t *v, pu_ask_prompt *p, pu_error *e) {
  if (json_is_string(v)) {
    p->text = string_of(v);
    return PU_OK;
  }
  if (!json_is_array(v) || json_array_size(v) == 0)
    return wrong(a, "prompt", e,
                 "must be a string, an array of strings, token ids, or an array of arrays of token ids");
  return read_ids(a, "prompt", v, &p->ids, e);
}

static pu_err read_prompts(pu_ask *a, pu_error *e) {
  const json_t *v = get(a, "prompt");
  bool many = json_is_array(v) && !json_is_integer(json_array_get(v, 0));
  size_t n = many ? json_array_size(v) : 1;
  if (!v) return wrong(a, "prompt", e, "is missing");
  if (n == 0) return wrong(a, "prompt", e, "is empty");
  if (n > PU_ASK_MAX_CHOICES) return wrong(a, "prompt", e, "has more than 128 prompts");
  a->prompts = take(a, n, sizeof *a->prompts, e);
  if (!a->prompts) return PU_ERR_NOMEM;
  a->n_prompts = n;
  for (size_t i = 0; i < n; i++) PU_TRY(read_prompt(a, many ? json_array_get(v, i) : v, &a->prompts[i], e));
  return PU_OK;
}

/* ---- bodies ---- */

/* At least as many as there are values in it. */
static size_t count_values(pu_str s) {
  size_t n = 1;
  bool in_string = false;
  for (size_t i = 0; i < s.len; i++) {
    char c = s.ptr[i];
    if (c == '"') in_string = !in_string;
    if (in_string && c == '\\')
      i++;
    else if (!in_string)
      n += c == ',' || c == '[' || c == '{';
  }
  return n;
}

static pu_err begin(pu_str body, pu_ask *a, pu_error *e) {
  *a = (pu_ask){.n = 1, .how = pu_sampling_default()};
  a->how.temperature = 1;
  if (count_values(body) > PU_ASK_MAX_VALUES)
    return pu_fail(e, PU_ERR_NOMEM, "the request's body holds more than %d values", (int)PU_ASK_MAX_VALUES);
  if (pu_json_parse("the request's body", body, &a->body, e)) return PU_ERR_USAGE;
  if (!json_is_object(a->body)) return pu_fail(e, PU_ERR_USAGE, "the request's body must be a JSON object");
  /* Lists of ids and of messages take at most this from their bytes of JSON. */
  PU_TRY(pu_arena_create(body.len * 16 + (1 << 16), &a->arena, e));
  PU_TRY(refuse_misspelt(a, e));
  const json_t *model = get(a, "model");
  if (model && !json_is_string(model)) return wrong(a, "model", e, "must be a string");
  a->model = json_string_value(model);
  return PU_OK;
}

static pu_err read_generation(pu_ask *a, pu_error *e) {
  if (a->no_answer) json_object_del(a->body, "max_tokens");
  PU_TRY(read_fields(a, generation_fields, e));
  a->how.top_k = PU_MAX(a->how.top_k, 0); /* -1 is others' word for off */
  PU_TRY(read_stop(a, e));
  PU_TRY(read_stop_ids(a, e));
  PU_TRY(read_bad_words(a, e));
  PU_TRY(read_bias(a, e));
  PU_TRY(read_seed(a, e));
  PU_TRY(read_stream_options(a, e));
  PU_TRY(read_form(a, e));
  PU_TRY(refuse_unknown(a, e));
  size_t prompts = PU_MAX(a->n_prompts, 1);
  return (size_t)a->n * prompts > PU_ASK_MAX_CHOICES ? wrong(a, "n", e, "asks for more than 128 answers in all")
                                                     : PU_OK;
}

pu_err pu_ask_chat(pu_str body, pu_ask *out, pu_error *e) {
  PU_TRY(begin(body, out, e));
  PU_TRY(read_messages(out, e));
  PU_TRY(read_tools(out, e));
  PU_TRY(read_chat_logprobs(out, e));
  return read_generation(out, e);
}

pu_err pu_ask_completion(pu_str body, pu_ask *out, pu_error *e) {
  PU_TRY(begin(body, out, e));
  out->how.max_tokens = 16; /* the API's default */
  PU_TRY(read_prompts(out, e));
  PU_TRY(read_fields(out, completion_fields, e));
  PU_TRY(read_logprobs(out, e));
  PU_TRY(read_no_answer(out, e));
  PU_TRY(read_generation(out, e));
  if (out->no_answer) out->how.max_tokens = 1;
  return PU_OK;
}

pu_err pu_ask_text(pu_str body, pu_ask *out, pu_error *e) {
  PU_TRY(begin(body, out, e));
  if (get(out, "messages")) {
    PU_TRY(read_messages(out, e));
    return read_tools(out, e);
  }
  PU_TRY(read_prompts(out, e));
  if (out->n_prompts != 1 || !out->prompts[0].text.ptr) return wrong(out, "prompt", e, "must be one string");
  return PU_OK;
}

pu_err pu_ask_tokens(pu_str body, pu_ask *out, pu_error *e) {
  PU_TRY(begin(body, out, e));
  const json_t *v = get(out, "tokens");
  if (!json_is_array(v)) return wrong(out, "tokens", e, "must be an array of token ids");
  out->prompts = take(out, 1, sizeof *out->prompts, e);
  if (!out->prompts) return PU_ERR_NOMEM;
  out->n_prompts = 1;
  return read_ids(out, "tokens", v, &out->prompts[0].ids, e);
}

void pu_ask_deinit(pu_ask *a) {
  json_decref(a->body);
  pu_arena_free(a->arena);
  *a = (pu_ask){0};
}
