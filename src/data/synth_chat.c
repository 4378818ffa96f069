/* Rule-made conversations: what `synth` knows of sums, facts and stories as turns of a chat, and a calculator's calls.
 *
 * A small model has to copy digits into a call and out of its result. It learns that from operands that never come
 * twice, of any length, since then nothing but looking back at them helps. */
#include <string.h>

#include "src/data/synth.h"

const char *const pu_synth_talk_names[PU_TALKS] = {"sums", "facts", "stories", "small", "tool"};

enum { STREAM_TALK = 4, STREAM_TALK_VALID = 5, STREAM_TALK_QUESTION = 6, MOST_LINE = 1 << 20 };
#define FACT_SALT 0x6661637473u

static const char calculator[] =
    "{\"type\": \"function\", \"function\": {\"name\": \"calculator\", \"description\": \"Computes an expression.\", "
    "\"parameters\": {\"type\": \"object\", \"properties\": {\"expression\": {\"type\": \"string\"}}, \"required\": "
    "[\"expression\"]}}}";

pu_synth_chat_options pu_synth_chat_defaults(void) {
  return (pu_synth_chat_options){
      .dialogues = 20000, .weights = {45, 15, 10, 4, 26}, .valid_fraction = 0.01, .questions = 250};
}

/* ---- a conversation as JSON -------------------------------------------------------------------------------------- */

typedef struct talk {
  pu_rng r;
  int lang;
  pu_buf *out;
  pu_buf a, b; /* texts in the making */
  int calls;
} talk;

static void say(talk *t, const char *role, const char *content, size_t len) {
  pu_buf_printf(t->out, "%s{\"role\": \"%s\", \"content\": ", t->out->data[t->out->len - 1] == '[' ? "" : ", ", role);
  pu_buf_json_str(t->out, pu_str_of(content, len));
  pu_buf_putc(t->out, '}');
}

static void say_text(talk *t, const char *role, const char *content) {
  say(t, role, content, strlen(content));
}

/* What was put together in b; it is empty afterwards. */
static void say_made(talk *t, const char *role, pu_buf *b) {
  say(t, role, b->data ? b->data : "", b->len);
  pu_buf_clear(b);
}

/* A text of the form "Q: … A: …" or "问：…答：…" as question and answer. False: it is none. */
static bool cut_asked(pu_str text, int lang, pu_str *ask, pu_str *answer) {
  static const char *const marks[PU_LANGS][2] = {{"问：", "答："}, {"Q: ", " A: "}};
  size_t first = strlen(marks[lang][0]), second = strlen(marks[lang][1]);
  if (text.len < first || memcmp(text.ptr, marks[lang][0], first) != 0) return false;
  const char *at = memmem(text.ptr, text.len, marks[lang][1], second);
  if (!at) return false;
  *ask = pu_str_of(text.ptr + first, (size_t)(at - text.ptr) - first);
  *answer = pu_str_of(at + second, text.len - (size_t)(at - text.ptr) - second);
  return true;
}

/* ---- sums -------------------------------------------------------------------------------------------------------- */

/* Besides the scored phrasing. */
static const char *const asks[PU_LANGS][2][3] = {
    {{"{a}加{b}是多少？", "请算一下{a}加{b}。", "{a}+{b}=？"},
     {"{a}减{b}是多少？", "请算一下{a}减{b}。", "{a}-{b}=？"}},
    {{"How much is {a} plus {b}?", "Please add {a} and {b}.", "{a} + {b} = ?"},
     {"How much is {a} minus {b}?", "Please take {b} from {a}.", "{a} - {b} = ?"}}};

static void ask_sum(talk *t, char op, int a, int b) {
  if (pu_rng_below(&t->r, 2)) {
    pu_synth_ask(op, a, b, t->lang, &t->a);
  } else {
    char x[16], y[16];
    snprintf(x, sizeof x, "%d", a);
    snprintf(y, sizeof y, "%d", b);
    const pu_slot slots[] = {{"a", x}, {"b", y}};
    pu_synth_fill(PU_PICK(&t->r, asks[t->lang][op == '-']), slots, PU_COUNT(slots), &t->a);
  }
  say_made(t, "user", &t->a);
}

static char pick_op(talk *t) {
  return pu_rng_below(&t->r, 2) ? '+' : '-';
}

static void small_sum(talk *t, int within) {
  char op = pick_op(t);
  int a, b;
  pu_synth_pair(&t->r, op, within, &a, &b);
  ask_sum(t, op, a, b);
  pu_synth_reply(op == '+' ? a + b : a - b, t->lang, &t->b);
  say_made(t, "assistant", &t->b);
}

/* ---- the tool ---------------------------------------------------------------------------------------------------- */

/* A sum that is computed by a call: of large numbers, or within 1000. */
static void called_sum(talk *t, bool large) {
  char op = pick_op(t);
  int a, b;
  if (large) {
    do pu_synth_large_pair(&t->r, op, &a, &b);
    while (pu_synth_heldout(op, a, b));
  } else {
    pu_synth_pair(&t->r, op, 1000, &a, &b);
  }
  int result = op == '+' ? a + b : a - b;
  ask_sum(t, op, a, b);
  t->calls++;
  pu_buf_printf(t->out,
                ", {\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [{\"id\": \"call_%d\", \"type\": "
                "\"function\", \"function\": {\"name\": \"calculator\", \"arguments\": \"{\\\"expression\\\": "
                "\\\"%d%c%d\\\"}\"}}]}, {\"role\": \"tool\", \"tool_call_id\": \"call_%d\", \"content\": \"%d\"}",
                t->calls, a, op, b, t->calls, result);
  pu_synth_reply(result, t->lang, &t->b);
  say_made(t, "assistant", &t->b);
}

/* ---- facts, stories, small talk ---------------------------------------------------------------------------------- */

static bool fact_heldout(size_t number) {
  return pu_random_at(FACT_SALT, 0, number) % 5 == 0;
}

/* "What is the capital of Peru?" "The capital of Peru is Lima." */
static void fact(talk *t) {
  size_t number;
  pu_str ask, answer;
  do number = pu_rng_below(&t->r, pu_synth_fact_count());
  while (fact_heldout(number));
  pu_synth_fact(number, t->lang, &t->a, &t->b);
  if (cut_asked(pu_str_of(t->b.data, t->b.len), t->lang, &ask, &answer)) say(t, "user", ask.ptr, ask.len);
  pu_buf_clear(&t->b);
  say_made(t, "assistant", &t->a);
}

static void tell_story(talk *t) {
  static const char *const wishes[PU_LANGS][3] = {
      {"请讲一个关于{p}的故事。", "讲一个{p}的故事吧。", "我想听{p}的故事。"},
      {"Tell me a story about {p}.", "Please write a story about {p}.", "I want to hear a story about {p}."}};
  const pu_slot who = {"p", pu_synth_story(&t->r, t->lang, &t->a)};
  const char *end = t->a.failed ? NULL : memchr(t->a.data, '\n', t->a.len); /* without its questions */
  pu_synth_fill(PU_PICK(&t->r, wishes[t->lang]), &who, 1, &t->b);
  say_made(t, "user", &t->b);
  if (end) t->a.len = (size_t)(end - t->a.data);
  say_made(t, "assistant", &t->a);
}

/* The story with its first question, an answer, the next question, … */
static void ask_story(talk *t) {
  do {
    pu_buf_clear(&t->a);
    pu_synth_story(&t->r, t->lang, &t->a);
  } while (!t->a.failed && !memchr(t->a.data, '\n', t->a.len));
  pu_str ask, answer, rest = pu_str_of(t->a.data, t->a.len);
  for (bool first = true; rest.len;) {
    const char *nl = memchr(rest.ptr, '\n', rest.len);
    pu_str line = pu_str_of(rest.ptr, nl ? (size_t)(nl - rest.ptr) : rest.len);
    rest = pu_str_of(line.ptr + line.len + (nl != NULL), rest.len - line.len - (nl != NULL));
    if (first) {
      pu_buf_append(&t->b, line.ptr, line.len);
      pu_buf_putc(&t->b, '\n');
    }
    first = false;
    if (!cut_asked(line, t->lang, &ask, &answer)) continue;
    pu_buf_append(&t->b, ask.ptr, ask.len);
    say_made(t, "user", &t->b);
    say(t, "assistant", answer.ptr, answer.len);
  }
  pu_buf_clear(&t->a);
}

static void small_talk(talk *t) {
  static const char *const lines[PU_LANGS][6][2] = {
      {{"你好！", "你好！有什么可以帮你的？"},
       {"你是谁？", "我是浦语，一个小小的语言模型。"},
       {"你会做什么？", "我会算数、讲故事，也知道一些常识。"},
       {"早上好。", "早上好！今天想聊些什么？"},
       {"谢谢你！", "不客气！"},
       {"再见。", "再见，祝你愉快！"}},
      {{"Hello!", "Hello! How can I help you?"},
       {"Who are you?", "I am puyu, a small language model."},
       {"What can you do?", "I can do sums, tell stories, and I know some facts."},
       {"Good morning.", "Good morning! What shall we talk about?"},
       {"Thank you!", "You are welcome!"},
       {"Goodbye.", "Goodbye, and have a good day!"}}};
  const char *const *line = PU_PICK(&t->r, lines[t->lang]);
  say_text(t, "user", line[0]);
  say_text(t, "assistant", line[1]);
}

/* ---- conversations ----------------------------------------------------------------------------------------------- */

/* Of ten: eight calls, and what is to be answered without one. */
static void with_tool(talk *t) {
  uint64_t at = pu_rng_below(&t->r, 10);
  if (at < 8)
    called_sum(t, at < 6);
  else if (at < 9)
    fact(t);
  else
    small_talk(t);
}

/* Several turns behind one list of tools, and many short ones of sums: what has to be computed or copied is a larger
 * part of what is read. Few enough for a sequence of 512 tokens. */
static void turns(talk *t, pu_synth_talk kind) {
  int n = 1 + (int)pu_rng_below(&t->r, 3);
  switch (kind) {
  case PU_TALK_SUMS:
    for (int i = 0, sums = 2 + (int)pu_rng_below(&t->r, 7); i < sums; i++)
      small_sum(t, pu_rng_below(&t->r, 3) ? 100 : 1000);
    break;
  case PU_TALK_FACTS:
    for (int i = 0; i < n; i++) fact(t);
    break;
  case PU_TALK_STORIES:
    if (pu_rng_below(&t->r, 2))
      tell_story(t);
    else
      ask_story(t);
    break;
  case PU_TALK_SMALL:
    small_talk(t);
    break;
  default:
    for (int i = 0; i < n; i++) with_tool(t);
    break;
  }
}

static pu_synth_talk talk_pick(const pu_synth_chat_options *o, pu_rng *r) {
  double total = 0;
  for (int k = 0; k < PU_TALKS; k++) total += o->weights[k];
  double at = pu_rng_uniform(r) * total;
  int k = 0;
  while (k < PU_TALKS - 1 && (at -= o->weights[k]) >= 0) k++;
  while (k > 0 && o->weights[k] == 0) k--; /* rounding must not choose what was switched off */
  return (pu_synth_talk)k;
}

static pu_err dialogue_make(const pu_synth_chat_options *o, int64_t number, talk *t, const pu_synth_chat_sink *sink,
                            pu_error *e) {
  pu_rng_seed(&t->r, pu_random_at(o->seed, STREAM_TALK, (uint64_t)number));
  pu_synth_talk kind = talk_pick(o, &t->r);
  t->lang = (int)pu_rng_below(&t->r, PU_LANGS);
  t->calls = 0;
  pu_buf_clear(t->out);
  pu_buf_puts(t->out, "{\"messages\": [");
  turns(t, kind);
  pu_buf_putc(t->out, ']');
  if (kind == PU_TALK_TOOL) pu_buf_printf(t->out, ", \"tools\": [%s]", o->tool);
  pu_buf_putc(t->out, '}');
  if (t->out->failed || t->a.failed || t->b.failed)
    return pu_fail(e, PU_ERR_NOMEM, "synth: no memory for conversation %lld", (long long)number);
  double at = (double)(pu_random_at(o->seed, STREAM_TALK_VALID, (uint64_t)number) >> 11) * 0x1p-53;
  const pu_synth_dialogue d = {.json = pu_str_of(t->out->data, t->out->len),
                               .talk = kind,
                               .lang = t->lang == PU_ZH ? "zh" : "en",
                               .valid = at < o->valid_fraction};
  return sink->dialogue(sink->arg, &d, e);
}

static pu_err dialogues_run(const pu_synth_chat_options *o, const pu_synth_chat_sink *sink, pu_error *e) {
  pu_buf line;
  pu_buf_init(&line, MOST_LINE);
  talk t = {.out = &line};
  pu_buf_init(&t.a, MOST_LINE);
  pu_buf_init(&t.b, MOST_LINE);
  pu_err err = PU_OK;
  for (int64_t i = 0; i < o->dialogues && !err; i++) err = dialogue_make(o, i, &t, sink, e);
  pu_buf_deinit(&line);
  pu_buf_deinit(&t.a);
  pu_buf_deinit(&t.b);
  return err;
}

/* ---- questions --------------------------------------------------------------------------------------------------- */

static pu_err ask_large(int64_t n, char op, const pu_synth_chat_sink *sink, pu_error *e) {
  pu_rng r;
  pu_rng_seed(&r, pu_random_at(0, STREAM_TALK_QUESTION, (unsigned char)op));
  for (int64_t i = 0; i < n;) {
    int a, b;
    pu_synth_large_pair(&r, op, &a, &b);
    if (!pu_synth_heldout(op, a, b)) continue;
    PU_TRY(pu_synth_tell_sum(op, a, b, 0, i % 2 ? PU_EN : PU_ZH, sink->question, sink->arg, e));
    i++;
  }
  return PU_OK;
}

static pu_err ask_fact(size_t number, int lang, const pu_synth_chat_sink *sink, pu_error *e) {
  pu_buf says, asked, prompt;
  pu_buf_init(&says, MOST_LINE);
  pu_buf_init(&asked, MOST_LINE);
  pu_buf_init(&prompt, MOST_LINE);
  pu_synth_fact(number, lang, &says, &asked);
  pu_str ask, answer;
  pu_err err = PU_OK;
  if (!asked.failed && cut_asked(pu_str_of(asked.data, asked.len), lang, &ask, &answer)) {
    pu_buf_append(&prompt, asked.data, (size_t)(answer.ptr - asked.data) - (lang == PU_EN));
    pu_buf_putc(&prompt, 0);
    size_t at = prompt.len;
    pu_buf_append(&prompt, ask.ptr, ask.len);
    pu_buf_putc(&prompt, 0);
    const pu_synth_question q = {.prompt = prompt.data,
                                 .ask = prompt.data + at,
                                 .answer = answer.ptr,
                                 .reply = says.data,
                                 .lang = lang == PU_ZH ? "zh" : "en"};
    err =
        prompt.failed || says.failed ? pu_fail(e, PU_ERR_NOMEM, "synth: no memory") : sink->question(sink->arg, &q, e);
  }
  pu_buf_deinit(&says);
  pu_buf_deinit(&asked);
  pu_buf_deinit(&prompt);
  return err;
}

static pu_err ask_facts(int64_t most, const pu_synth_chat_sink *sink, pu_error *e) {
  for (size_t i = 0, n = 0; i < pu_synth_fact_count() && (int64_t)n < most; i++) {
    if (!fact_heldout(i)) continue;
    for (int lang = 0; lang < PU_LANGS && (int64_t)n < most; lang++, n++) PU_TRY(ask_fact(i, lang, sink, e));
  }
  return PU_OK;
}

/* ---- all ----------------------------------------------------------------------------------------------------------
 */

static pu_err options_check(pu_synth_chat_options *o, pu_error *e) {
  double total = 0;
  for (int k = 0; k < PU_TALKS; k++) {
    if (!(o->weights[k] >= 0) || o->weights[k] > 1e9)
      return pu_fail(e, PU_ERR_USAGE, "synth: the weight of %s must be 0 or more", pu_synth_talk_names[k]);
    total += o->weights[k];
  }
  if (total == 0) memcpy(o->weights, pu_synth_chat_defaults().weights, sizeof o->weights);
  if (o->dialogues < 0) return pu_fail(e, PU_ERR_USAGE, "synth: a number of conversations must be 0 or more");
  if (!(o->valid_fraction >= 0 && o->valid_fraction < 1))
    return pu_fail(e, PU_ERR_USAGE, "synth: valid_fraction must be in [0, 1)");
  if (!o->tool) o->tool = calculator;
  return PU_OK;
}

pu_err pu_synth_chat_run(const pu_synth_chat_options *options, const pu_synth_chat_sink *sink, pu_error *e) {
  pu_synth_chat_options o = *options;
  PU_TRY(options_check(&o, e));
  if (sink->dialogue) PU_TRY(dialogues_run(&o, sink, e));
  if (!sink->question) return PU_OK;
  PU_TRY(ask_large(o.questions, '+', sink, e));
  PU_TRY(ask_large(o.questions, '-', sink, e));
  return ask_facts(o.questions, sink, e);
}
