/* A model that says what a script says, and tools that do odd things. */
#ifndef PUYU_TEST_AGENT_FAKE_H
#define PUYU_TEST_AGENT_FAKE_H

#include "src/agent/internal.h"
#include "tests/test.h"

#include <stdlib.h>

/* A line of the script: an assistant's message, also {"finish": "length"|"cancel"}, or {"error": TEXT, "code": N}. The
 * last line is said again and again. */
typedef struct fake {
  pu_agent_model m;
  const char *const *script;
  size_t at;
  json_t *heard; /* for each answer what was asked: {"messages", "tools"} */
  uint64_t seed; /* of the last */
} fake;

static inline pu_err fake_answer(pu_agent_model *m, const agent_ask *ask, json_t **message, agent_finish *finish,
                                 pu_error *e) {
  fake *f = (fake *)(void *)m;
  json_t *v = json_loads(f->script[f->at], 0, NULL);
  assert_non_null(v);
  if (f->script[f->at + 1]) f->at++;
  f->seed = ask->how->seed;
  json_array_append_new(f->heard, json_pack("{s:o, s:o*}", "messages", json_deep_copy(ask->messages), "tools",
                                            ask->tools ? json_deep_copy(ask->tools) : NULL));
  const char *error = json_string_value(json_object_get(v, "error")),
             *word = json_string_value(json_object_get(v, "finish"));
  if (error) {
    pu_err err = pu_fail(e, (pu_err)json_integer_value(json_object_get(v, "code")), "%s", error);
    json_decref(v);
    *message = NULL;
    return err;
  }
  *finish = !word ? AGENT_DONE : strcmp(word, "length") == 0 ? AGENT_LENGTH : AGENT_CANCEL;
  json_object_del(v, "finish");
  json_object_set_new(v, "role", json_string("assistant"));
  const char *text = json_string_value(json_object_get(v, "content"));
  if (!text) json_object_set_new(v, "content", json_string(""));
  if (text) ask->on_text(ask->arg, pu_str_c(text));
  *message = v;
  return PU_OK;
}

static inline void fake_close(pu_agent_model *m) {
  fake *f = (fake *)(void *)m;
  json_decref(f->heard);
  free(f);
}

static inline fake *fake_open(const char *const *script, bool takes_code) {
  fake *f = calloc(1, sizeof *f);
  *f = (fake){.m = {.takes_code = takes_code, .answer = fake_answer, .close = fake_close},
              .script = script,
              .heard = json_array()};
  return f;
}

/* ---- tools ---- */

static inline pu_err echo_call(void *state, const json_t *arguments, bool (*stop)(void), pu_buf *out, pu_error *e) {
  char *text = json_dumps(arguments, JSON_COMPACT);
  (void)state, (void)stop, (void)e;
  pu_buf_puts(out, text);
  free(text);
  return PU_OK;
}

static inline pu_err code_call(void *state, const json_t *arguments, bool (*stop)(void), pu_buf *out, pu_error *e) {
  (void)state, (void)stop, (void)e;
  pu_buf_printf(out, "ran: %s", json_string_value(json_object_get(arguments, "code")));
  return PU_OK;
}

static inline pu_err broken_call(void *state, const json_t *arguments, bool (*stop)(void), pu_buf *out, pu_error *e) {
  (void)state, (void)arguments, (void)stop;
  pu_buf_puts(out, "half of a result");
  return pu_fail(e, PU_ERR_IO, "the disk is on fire");
}

static inline pu_err spent_call(void *state, const json_t *arguments, bool (*stop)(void), pu_buf *out, pu_error *e) {
  (void)state, (void)arguments, (void)stop, (void)out;
  return pu_fail(e, PU_ERR_NOMEM, "no memory");
}

static inline pu_err long_call(void *state, const json_t *arguments, bool (*stop)(void), pu_buf *out, pu_error *e) {
  (void)state, (void)arguments, (void)stop, (void)e;
  pu_buf_puts(out, "x");
  for (int i = 0; i < 10000; i++) pu_buf_puts(out, "\xE4\xBD\xA0");
  return PU_OK;
}

static inline pu_err bytes_call(void *state, const json_t *arguments, bool (*stop)(void), pu_buf *out, pu_error *e) {
  (void)state, (void)arguments, (void)stop, (void)e;
  pu_buf_append(out, "a\0\xFF z", 5);
  return PU_OK;
}

/* A state that says when it was closed. */
static int counters_open;
static inline pu_err counter_open(const pu_agent_setup *o, void **state, pu_error *e) {
  if (!o->docs) return pu_fail(e, PU_ERR_USAGE, "it needs a folder");
  *state = calloc(1, sizeof(int));
  counters_open++;
  return PU_OK;
}

static inline pu_err counter_call(void *state, const json_t *arguments, bool (*stop)(void), pu_buf *out, pu_error *e) {
  (void)arguments, (void)stop, (void)e;
  pu_buf_printf(out, "%d", ++*(int *)state);
  return PU_OK;
}

static inline void counter_close(void *state) {
  counters_open--;
  free(state);
}

#define FAKE_SCHEMA                                                                                                    \
  "{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"integer\"}, \"b\": {\"enum\": [\"x\", \"y\"]}, "        \
  "\"c\": {\"type\": \"array\", \"items\": {\"type\": [\"string\", \"null\"]}}}, \"required\": [\"a\"], "              \
  "\"additionalProperties\": false}"
static const pu_tool fake_tools[] = {
    {.is = {"echo", "says its arguments", FAKE_SCHEMA, false}, .call = echo_call},
    {.is = {"broken", "fails", "{}", false}, .call = broken_call},
    {.is = {"long", "says much", "{}", false}, .call = long_call},
    {.is = {"bytes", "says odd bytes", "{}", false}, .call = bytes_call},
    {.is = {"spent", "finds no memory", "{}", false}, .call = spent_call},
    {.is = {"counter", "counts", "{}", false}, .open = counter_open, .call = counter_call, .close = counter_close},
    {.is = {"python", "runs code",
            "{\"type\": \"object\", \"properties\": {\"code\": {\"type\": \"string\"}}, \"required\": [\"code\"]}",
            true},
     .call = code_call},
};

/* An agent over a script with all of these tools and the calculator. */
static inline pu_agent *fake_agent(pu_agent_options o) {
  static const char *const names[] = {"calculator"};
  static const pu_agent_setup setup = {.docs = "."};
  pu_agent *a;
  pu_error e;
  o.tools = names;
  o.n_tools = 1;
  assert_ok(pu_agent_open(&o, &a, &e), &e);
  for (size_t i = 0; i < PU_COUNT(fake_tools); i++) assert_ok(agent_add_tool(a, &fake_tools[i], &setup, &e), &e);
  return a;
}

/* "2/content": the value at a path of keys and indexes, as text. */
static inline const char *at(const json_t *v, const char *path) {
  static char text[70000];
  char copy[200], *save;
  snprintf(copy, sizeof copy, "%s", path);
  for (char *key = strtok_r(copy, "/", &save); key; key = strtok_r(NULL, "/", &save))
    v = json_is_array(v) ? json_array_get(v, (size_t)atoi(key)) : json_object_get(v, key);
  char *s = json_is_string(v) ? strdup(json_string_value(v)) : v ? json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
  snprintf(text, sizeof text, "%s", s ? s : "nothing");
  free(s);
  return text;
}

#endif
