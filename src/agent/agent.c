/* The loop: what a model is asked, what it calls, what the calls gave. */
#include <stdlib.h>
#include <string.h>

#include "src/agent/internal.h"

enum { USUAL_STEPS = 8, MOST_TOOLS = 64, MOST_SAME = 3, MOST_RESULT = 16 << 10 };
static const char CODE[] = "code_interpreter";

const char *const pu_agent_end_names[PU_AGENT_ENDS] = {"answered", "steps", "repeated", "cut", "full", "stopped"};

typedef struct opened {
  const pu_tool *tool;
  void *state;
  json_t *schema;
} opened;

struct pu_agent {
  pu_agent_options o;
  opened tools[MOST_TOOLS];
  size_t n_tools;
  json_t *messages, *offered;
  json_t *faulty;  /* places of messages that nobody should learn */
  json_t *seen;    /* calls of this question: how often */
  int64_t n_ids;   /* of calls, so far */
  int64_t n_drawn; /* answers so far: each draws from a seed of its own */
  pu_agent_count count;
};

static pu_err no_memory(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "no memory for a conversation");
}

static bool never(void) {
  return false;
}

/* ---- tools ---- */

bool pu_agent_tool_at(size_t i, pu_agent_tool *out) {
  for (size_t k = 0; k < i; k++)
    if (!pu_tool_all[k]) return false;
  if (!pu_tool_all[i]) return false;
  *out = pu_tool_all[i]->is;
  return true;
}

static const opened *find_tool(const pu_agent *a, const char *name) {
  for (size_t i = 0; i < a->n_tools; i++)
    if (strcmp(a->tools[i].tool->is.name, name) == 0) return &a->tools[i];
  return NULL;
}

static const opened *find_interpreter(const pu_agent *a) {
  for (size_t i = 0; i < a->n_tools; i++)
    if (a->tools[i].tool->is.is_code) return &a->tools[i];
  return NULL;
}

static void list_tools(const pu_agent *a, char *list, size_t room) {
  size_t n = 0;
  list[0] = 0;
  for (size_t i = 0; i < a->n_tools && n < room; i++)
    n += (size_t)snprintf(list + n, room - n, "%s%s", i ? ", " : "", a->tools[i].tool->is.name);
}

/* As the model is offered it. */
static json_t *offer(const pu_agent *a, const opened *t) {
  const pu_agent_tool *is = &t->tool->is;
  if (is->is_code && a->o.model->takes_code) return json_pack("{ss}", "type", CODE);
  return json_pack("{ss s{ss ss sO}}", "type", "function", "function", "name", is->name, "description", is->about,
                   "parameters", t->schema);
}

pu_err agent_add_tool(pu_agent *a, const pu_tool *t, const pu_agent_setup *setup, pu_error *e) {
  opened one = {.tool = t};
  if (find_tool(a, t->is.name)) return pu_fail(e, PU_ERR_USAGE, "the tool '%s' is named twice", t->is.name);
  if (a->n_tools == MOST_TOOLS) return pu_fail(e, PU_ERR_USAGE, "more than %d tools", MOST_TOOLS);
  PU_TRY(pu_json_parse(t->is.name, pu_str_c(t->is.parameters), &one.schema, e));
  pu_err err = t->open ? t->open(setup, &one.state, e) : PU_OK;
  if (err) {
    json_decref(one.schema);
    return pu_fail_in(e, err, "tool %s", t->is.name);
  }
  a->tools[a->n_tools++] = one;
  return a->o.model ? pu_agent_use(a, a->o.model, e) : PU_OK;
}

pu_err pu_agent_use(pu_agent *a, pu_agent_model *m, pu_error *e) {
  a->o.model = m;
  json_array_clear(a->offered);
  for (size_t i = 0; i < a->n_tools; i++)
    if (json_array_append_new(a->offered, offer(a, &a->tools[i])) != 0) return no_memory(e);
  return PU_OK;
}

static pu_err add_named(pu_agent *a, const char *name, pu_error *e) {
  char known[300];
  size_t n = 0;
  for (size_t i = 0; pu_tool_all[i]; i++) {
    if (strcmp(pu_tool_all[i]->is.name, name) == 0) return agent_add_tool(a, pu_tool_all[i], &a->o.setup, e);
    if (n < sizeof known)
      n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", pu_tool_all[i]->is.name);
  }
  return pu_fail(e, PU_ERR_USAGE, "there is no tool '%.40s'; known: %s", name, known);
}

/* ---- opening ---- */

pu_err pu_agent_reset(pu_agent *a, pu_error *e) {
  const char *system = a->o.system;
  for (size_t i = 0; i < a->n_tools; i++)
    if (a->tools[i].tool->reset) a->tools[i].tool->reset(a->tools[i].state);
  json_array_clear(a->messages);
  json_array_clear(a->faulty);
  if (!system || !*system) return PU_OK;
  json_t *text = agent_text(pu_str_c(system));
  json_t *m = text ? json_pack("{ss so}", "role", "system", "content", text) : NULL;
  return json_array_append_new(a->messages, m) == 0 ? PU_OK : no_memory(e);
}

static pu_err set_up(pu_agent *a, pu_error *e) {
  if (!a->messages || !a->offered || !a->faulty || !a->seen) return no_memory(e);
  for (size_t i = 0; i < a->o.n_tools; i++) PU_TRY(add_named(a, a->o.tools[i], e));
  return pu_agent_reset(a, e);
}

pu_err pu_agent_open(const pu_agent_options *o, pu_agent **out, pu_error *e) {
  pu_agent *a = calloc(1, sizeof *a);
  *out = NULL;
  if (!a) return no_memory(e);
  a->o = *o;
  if (!a->o.max_steps) a->o.max_steps = USUAL_STEPS;
  if (!a->o.stop) a->o.stop = never;
  a->messages = json_array();
  a->offered = json_array();
  a->faulty = json_array();
  a->seen = json_object();
  pu_err err = set_up(a, e);
  if (err)
    pu_agent_close(a);
  else
    *out = a;
  return err;
}

void pu_agent_close(pu_agent *a) {
  if (!a) return;
  for (size_t i = 0; i < a->n_tools; i++) {
    if (a->tools[i].tool->close) a->tools[i].tool->close(a->tools[i].state);
    json_decref(a->tools[i].schema);
  }
  json_decref(a->messages);
  json_decref(a->offered);
  json_decref(a->faulty);
  json_decref(a->seen);
  free(a);
}

const json_t *pu_agent_messages(const pu_agent *a) {
  return a->messages;
}

const json_t *pu_agent_tools(const pu_agent *a) {
  return a->offered;
}

pu_agent_count pu_agent_counted(const pu_agent *a) {
  return a->count;
}

pu_str pu_agent_said(const pu_agent *a) {
  for (size_t i = json_array_size(a->messages); i-- > 0;) {
    const json_t *m = json_array_get(a->messages, i), *text = json_object_get(m, "content");
    if (strcmp(json_string_value(json_object_get(m, "role")), "assistant") != 0) continue;
    return pu_str_of(json_string_value(text), json_string_length(text));
  }
  return pu_str_of("", 0);
}

/* ---- a question ---- */

typedef struct run {
  pu_agent *a;
  int step;
  pu_agent_end end;
  bool over;
} run;

static void tell(const run *r, pu_agent_event ev) {
  ev.step = r->step;
  if (r->a->o.on_event) r->a->o.on_event(r->a->o.arg, &ev);
}

static void end_with(run *r, pu_agent_end end) {
  r->end = end;
  r->over = true;
}

static void on_text(void *arg, pu_str text) {
  tell(arg, (pu_agent_event){.kind = PU_AGENT_TEXT, .text = text});
}

/* ---- calls ---- */

typedef struct call {
  json_t *said;       /* as it stands in the message */
  const char *name;   /* what it asks for */
  const opened *tool; /* NULL: there is none of that name */
  json_t *arguments;  /* owned; NULL: they are no object */
  pu_str shown;       /* arguments as they were said, or the code */
} call;

static pu_str str_of(const json_t *v) {
  return json_is_string(v) ? pu_str_of(json_string_value(v), json_string_length(v)) : pu_str_of("", 0);
}

static pu_err read_call(const pu_agent *a, json_t *said, call *out, pu_error *e) {
  const json_t *code = json_object_get(said, CODE), *function = json_object_get(said, "function");
  *out = (call){.said = said};
  if (code) {
    json_t *input = json_object_get(code, "input");
    out->tool = find_interpreter(a);
    out->name = out->tool ? out->tool->tool->is.name : CODE;
    out->shown = str_of(input);
    out->arguments = json_pack("{sO}", "code", input);
    return out->arguments ? PU_OK : no_memory(e);
  }
  out->name = json_string_value(json_object_get(function, "name"));
  if (!out->name) out->name = "";
  out->tool = find_tool(a, out->name);
  out->shown = str_of(json_object_get(function, "arguments"));
  json_t *v = json_loadb(out->shown.ptr, out->shown.len, JSON_ALLOW_NUL, NULL);
  if (json_is_object(v))
    out->arguments = v;
  else
    json_decref(v);
  return PU_OK;
}

static bool is_used(const pu_agent *a, const char *id) {
  size_t i;
  const json_t *m;
  json_array_foreach(a->messages, i, m) {
    const char *other = json_string_value(json_object_get(m, "tool_call_id"));
    if (other && strcmp(other, id) == 0) return true;
  }
  return false;
}

/* Results find their calls by it, so it is one of its own in the conversation. */
static pu_err give_id(pu_agent *a, const call *c, pu_error *e) {
  char own[40];
  const char *id = json_string_value(json_object_get(c->said, "id"));
  if (id && *id && !is_used(a, id)) return PU_OK;
  do snprintf(own, sizeof own, "call_%lld", (long long)++a->n_ids);
  while (is_used(a, own));
  return json_object_set_new(c->said, "id", json_string(own)) == 0 ? PU_OK : no_memory(e);
}

/* How often this call was made for this question, this time counted. */
static int64_t count_same(pu_agent *a, const call *c) {
  char *arguments = json_dumps(c->arguments, JSON_COMPACT | JSON_SORT_KEYS), *key = NULL;
  int64_t n = 0;
  if (arguments && asprintf(&key, "%s %s", c->name, arguments) >= 0) {
    n = json_integer_value(json_object_get(a->seen, key)) + 1;
    json_object_set_new(a->seen, key, json_integer(n));
    free(key);
  }
  free(arguments);
  return n;
}

/* Runs it; an error is what the model is told instead. fault: nobody should learn such a call. */
static pu_err call_tool(run *r, const call *c, pu_buf *out, bool *fault, pu_error *e) {
  pu_agent *a = r->a;
  char text[300];
  *fault = true;
  if (!c->tool) {
    a->count.unknown++;
    list_tools(a, text, sizeof text);
    return pu_fail(e, PU_ERR_USAGE, "there is no tool '%.60s'; there are: %s", c->name, text);
  }
  if (!c->arguments) {
    a->count.unreadable++;
    return pu_fail(e, PU_ERR_USAGE, "the arguments are no JSON object: %.*s", (int)PU_MIN(c->shown.len, (size_t)200),
                   c->shown.ptr);
  }
  if (!agent_fits(c->tool->schema, c->arguments, text, sizeof text)) {
    a->count.unreadable++;
    return pu_fail(e, PU_ERR_USAGE, "%s", text);
  }
  *fault = false;
  if (count_same(a, c) >= MOST_SAME) {
    end_with(r, PU_AGENT_REPEATED);
    return pu_fail(e, PU_ERR_USAGE, "this call was made before, more than once, and would give the same again");
  }
  pu_err err = c->tool->tool->call(c->tool->state, c->arguments, a->o.stop, out, e);
  a->count.failed += err != PU_OK;
  return err;
}

/* What the model reads of a result: its beginning, where it is long. */
static json_t *result_text(const pu_buf *b) {
  size_t n = PU_MIN(b->len, (size_t)MOST_RESULT);
  while (n < b->len && n > 0 && ((unsigned char)b->data[n] & 0xC0) == 0x80) n--;
  if (n == b->len) return agent_text(pu_str_of(b->data, b->len));
  pu_buf cut;
  pu_buf_init(&cut, PU_BUF_MAX);
  pu_buf_append(&cut, b->data, n);
  pu_buf_printf(&cut, "\n… (%zu more bytes are left out)", b->len - n);
  json_t *text = cut.failed ? NULL : agent_text(pu_str_of(cut.data, cut.len));
  pu_buf_deinit(&cut);
  return text;
}

/* The message that answers a call. */
static pu_err add_result(run *r, const call *c, const pu_buf *b, bool failed, pu_error *e) {
  json_t *text = result_text(b);
  if (!text) return no_memory(e);
  tell(r, (pu_agent_event){.kind = PU_AGENT_RESULT, .name = c->name, .text = str_of(text), .failed = failed});
  json_t *m = json_pack("{ss sO ss so}", "role", "tool", "tool_call_id", json_object_get(c->said, "id"), "name",
                        c->name, "content", text);
  return json_array_append_new(r->a->messages, m) == 0 ? PU_OK : no_memory(e);
}

/* Every call gets a result, so that the conversation can be gone on with: those that are not run any more, too. */
static pu_err answer_call(run *r, const call *c, bool *fault, pu_error *e) {
  pu_buf b;
  pu_error why = {0};
  pu_err err;
  pu_buf_init(&b, PU_BUF_MAX);
  r->a->count.calls++;
  tell(r, (pu_agent_event){.kind = PU_AGENT_CALL, .name = c->name, .text = c->shown});
  *fault = false;
  if (!r->over && r->a->o.stop()) end_with(r, PU_AGENT_STOPPED);
  if (r->over)
    err = pu_fail(&why, PU_ERR_STOPPED, "it was not run");
  else
    err = call_tool(r, c, &b, fault, &why);
  if (err == PU_ERR_NOMEM) {
    pu_buf_deinit(&b);
    return pu_fail(e, err, "%s: %s", c->name, why.msg);
  }
  if (err == PU_ERR_STOPPED && !r->over) end_with(r, PU_AGENT_STOPPED);
  if (err) pu_buf_printf(&b, "%sError: %s", b.len ? "\n" : "", why.msg);
  err = b.failed ? no_memory(e) : add_result(r, c, &b, err != PU_OK, e);
  pu_buf_deinit(&b);
  return err;
}

/* Templates have no words for arguments that are no object: the message keeps none of them, and its result says what
 * they were. */
static pu_err mend_call(const call *c, pu_error *e) {
  if (c->arguments) return PU_OK;
  json_t *function = json_object_get(c->said, "function");
  return json_object_set_new(function, "arguments", json_string("{}")) == 0 ? PU_OK : no_memory(e);
}

static pu_err answer_calls(run *r, json_t *calls, bool *faulty, pu_error *e) {
  size_t i;
  json_t *said;
  json_array_foreach(calls, i, said) {
    call c;
    bool fault = false;
    PU_TRY(read_call(r->a, said, &c, e));
    pu_err err = give_id(r->a, &c, e);
    if (!err) err = answer_call(r, &c, &fault, e);
    if (!err) err = mend_call(&c, e);
    json_decref(c.arguments);
    if (err) return err;
    *faulty |= fault;
  }
  return PU_OK;
}

/* ---- steps ---- */

static pu_err add_answer(run *r, json_t *message, pu_error *e) {
  return json_array_append(r->a->messages, message) == 0 ? PU_OK : no_memory(e);
}

static pu_err take_answer(run *r, json_t *message, agent_finish finish, pu_error *e) {
  json_t *calls = json_object_get(message, "tool_calls");
  size_t place = json_array_size(r->a->messages);
  bool faulty = false;
  if (finish != AGENT_DONE) {
    end_with(r, finish == AGENT_LENGTH ? PU_AGENT_CUT : PU_AGENT_STOPPED);
    json_object_del(message, "tool_calls"); /* the last of them is half of one */
    return add_answer(r, message, e);
  }
  PU_TRY(add_answer(r, message, e));
  if (json_array_size(calls) == 0) {
    end_with(r, PU_AGENT_ANSWERED);
    return PU_OK;
  }
  PU_TRY(answer_calls(r, calls, &faulty, e));
  if (faulty && json_array_append_new(r->a->faulty, json_integer((json_int_t)place)) != 0) return no_memory(e);
  return PU_OK;
}

static pu_err take_step(run *r, pu_error *e) {
  pu_agent *a = r->a;
  pu_sampling how = a->o.how;
  json_t *message;
  agent_finish finish;
  how.seed += (uint64_t)a->n_drawn++;
  const agent_ask ask = {.messages = a->messages,
                         .tools = a->n_tools ? a->offered : NULL,
                         .how = &how,
                         .stop = a->o.stop,
                         .on_text = on_text,
                         .arg = r};
  tell(r, (pu_agent_event){.kind = PU_AGENT_STEP});
  pu_err err = a->o.model->answer(a->o.model, &ask, &message, &finish, e);
  if (err == PU_ERR_USAGE && r->step > 1) { /* what the tools gave is too much; it can be seen, at least */
    end_with(r, PU_AGENT_FULL);
    return PU_OK;
  }
  if (err) return err;
  a->count.steps++;
  err = take_answer(r, message, finish, e);
  json_decref(message);
  return err;
}

static pu_err take_steps(run *r, pu_error *e) {
  while (!r->over) {
    r->step++;
    PU_TRY(take_step(r, e));
    if (!r->over && r->step == r->a->o.max_steps) end_with(r, PU_AGENT_STEPS);
  }
  return PU_OK;
}

static void go_back(pu_agent *a, size_t messages, size_t faulty) {
  while (json_array_size(a->messages) > messages) json_array_remove(a->messages, json_array_size(a->messages) - 1);
  while (json_array_size(a->faulty) > faulty) json_array_remove(a->faulty, json_array_size(a->faulty) - 1);
}

pu_err pu_agent_ask(pu_agent *a, pu_str question, pu_agent_end *end, pu_error *e) {
  size_t messages = json_array_size(a->messages), faulty = json_array_size(a->faulty);
  pu_agent_count count = a->count;
  run r = {.a = a};
  json_object_clear(a->seen);
  json_t *text = agent_text(question), *m = text ? json_pack("{ss so}", "role", "user", "content", text) : NULL;
  pu_err err = json_array_append_new(a->messages, m) == 0 ? take_steps(&r, e) : no_memory(e);
  if (err) {
    go_back(a, messages, faulty);
    a->count = count;
    return err;
  }
  *end = r.end;
  tell(&r, (pu_agent_event){.kind = PU_AGENT_END, .end = r.end});
  return PU_OK;
}

/* ---- transcripts ---- */

static bool mark_faulty(const pu_agent *a, json_t *messages) {
  size_t i;
  const json_t *place;
  json_array_foreach(a->faulty, i, place) {
    size_t at = (size_t)json_integer_value(place);
    json_t *m = json_copy(json_array_get(messages, at));
    if (json_object_set_new(m, "loss", json_false()) != 0 || json_array_set_new(messages, at, m) != 0) return false;
  }
  return true;
}

pu_err pu_agent_transcript(const pu_agent *a, pu_buf *out, pu_error *e) {
  size_t before = out->len;
  json_t *messages = json_copy(a->messages);
  bool said = false;
  for (size_t i = 0; i < json_array_size(messages); i++)
    said |= strcmp(json_string_value(json_object_get(json_array_get(messages, i), "role")), "assistant") == 0;
  json_t *line =
      messages && mark_faulty(a, messages) ? json_pack("{sO sO}", "messages", messages, "tools", a->offered) : NULL;
  char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;
  bool good = text && (!said || (pu_buf_puts(out, text) && pu_buf_putc(out, '\n')));
  free(text);
  json_decref(line);
  json_decref(messages);
  if (good) return PU_OK;
  out->len = before;
  return no_memory(e);
}
