/* The model uses a tool: sums too large for it, with a calculator that it may call and without. */
#include <ctype.h>
#include <string.h>

#include "puyu/agent.h"
#include "src/cli/demo/demo.h"

enum { ASKED = 100, SHOWN = 8, TRANSCRIPTS = 2, ANSWER_TOKENS = 64 }; /* transcripts: one in each language */

static const char *const calculator[] = {"calculator"};

/* ---- asking ---- */

typedef struct asking {
  pu_demo *d;
  pu_agent *with, *without;
  int64_t step; /* every so many of the questions */
  pu_progress *bar;
} asking;

/* Is this number in the text, as a whole? */
static bool has_number(pu_str text, const char *number) {
  size_t n = strlen(number);
  for (size_t i = 0; i + n <= text.len; i++) {
    bool begins = i == 0 || (!isdigit((unsigned char)text.ptr[i - 1]) && text.ptr[i - 1] != '-');
    bool ends = i + n == text.len || !isdigit((unsigned char)text.ptr[i + n]);
    if (begins && ends && memcmp(text.ptr + i, number, n) == 0) return true;
  }
  return false;
}

static void put_cell(pu_buf *html, pu_str text, bool right) {
  pu_buf_puts(html, right ? "<td>✓ " : "<td>✗ ");
  pu_buf_html(html, text);
  pu_buf_puts(html, "</td>");
}

static void put_turn(pu_buf *html, const char *who, const char *text) {
  pu_buf_printf(html, "<div class=sample><small>%s</small>", who);
  pu_buf_html(html, pu_str_c(text ? text : ""));
  pu_buf_puts(html, "</div>\n");
}

/* A conversation as the model and its tool had it. */
static void put_transcript(pu_buf *html, const json_t *messages) {
  size_t i, k;
  const json_t *m, *call;
  json_array_foreach(messages, i, m) {
    const char *role = json_string_value(json_object_get(m, "role")),
               *text = json_string_value(json_object_get(m, "content"));
    json_array_foreach(json_object_get(m, "tool_calls"), k, call) {
      const json_t *function = json_object_get(call, "function");
      put_turn(html, "assistant calls calculator", json_string_value(json_object_get(function, "arguments")));
    }
    if (text && text[0]) put_turn(html, role ? role : "", text);
  }
}

static pu_err ask_one(asking *x, const char *question, const char *answer, pu_error *e) {
  pu_demo_tool *t = &x->d->use;
  pu_agent_end end;
  PU_TRY(pu_agent_reset(x->with, e));
  PU_TRY(pu_agent_reset(x->without, e));
  PU_TRY(pu_agent_ask(x->without, pu_str_c(question), &end, e));
  if (end == PU_AGENT_STOPPED) return pu_fail(e, PU_ERR_STOPPED, "stopped by a signal");
  PU_TRY(pu_agent_ask(x->with, pu_str_c(question), &end, e));
  if (end == PU_AGENT_STOPPED) return pu_fail(e, PU_ERR_STOPPED, "stopped by a signal");
  pu_str bare = pu_agent_said(x->without), told = pu_agent_said(x->with);
  bool alone = has_number(bare, answer), helped = has_number(told, answer);
  if (t->asked < TRANSCRIPTS) put_transcript(&t->transcript, pu_agent_messages(x->with));
  if (t->asked < SHOWN) {
    pu_buf_puts(&t->examples, "<tr><td>");
    pu_buf_html(&t->examples, pu_str_c(question));
    pu_buf_puts(&t->examples, "</td>");
    put_cell(&t->examples, bare, alone);
    put_cell(&t->examples, told, helped);
    pu_buf_puts(&t->examples, "</tr>\n");
  }
  t->asked++;
  t->alone += alone;
  t->helped += helped;
  pu_progress_set(x->bar, t->asked, NULL);
  return PU_OK;
}

static pu_err ask_record(void *arg, uint64_t number, const json_t *record, pu_error *e) {
  asking *x = arg;
  const char *question = json_string_value(json_object_get(record, "ask")),
             *answer = json_string_value(json_object_get(record, "answer"));
  if ((int64_t)number % x->step != 0 || !question || !answer) return PU_OK;
  return ask_one(x, question, answer, e);
}

static pu_err ask_all(pu_demo *d, pu_agent_model *m, pu_error *e) {
  pu_sampling how = pu_sampling_default();
  how.max_tokens = ANSWER_TOKENS;
  asking x = {.d = d, .step = PU_MAX(2 * d->o->questions / ASKED, 1)};
  pu_agent_options o = {.model = m, .how = how, .stop = pu_signals_stop};
  const char *path = pu_path_join(d->a, d->questions, "sums-large.jsonl");
  if (!path) return pu_fail(e, PU_ERR_NOMEM, "no memory for the paths");
  pu_err err = pu_agent_open(&o, &x.without, e);
  o.tools = calculator;
  o.n_tools = 1;
  if (!err) err = pu_agent_open(&o, &x.with, e);
  x.bar = pu_progress_open("sums beyond 1000", "questions", (double)(2 * d->o->questions / x.step));
  if (!err) err = pu_records_each(path, NULL, ask_record, &x, e);
  pu_progress_close(x.bar);
  if (!err) d->use.calls = pu_agent_counted(x.with).calls;
  pu_agent_close(x.with);
  pu_agent_close(x.without);
  return err;
}

static pu_err use_tool(pu_demo *d, pu_error *e) {
  pu_engine *en;
  pu_agent_model *m;
  PU_TRY(pu_demo_engine(d, d->quantised, &en, e));
  pu_err err = pu_agent_engine(en, &m, e);
  if (!err) {
    err = ask_all(d, m, e);
    pu_agent_model_close(m);
  }
  pu_engine_free(en);
  if (!err)
    pu_log(PU_LOG_INFO, "  of %d sums beyond 1000 right: %d with the calculator, %d without", d->use.asked,
           d->use.helped, d->use.alone);
  return err;
}

static void tell(const pu_demo *d, pu_demo_table *t) {
  const pu_demo_tool *u = &d->use;
  double all = PU_MAX(u->asked, 1);
  pu_demo_row(t, "sums beyond 1000", "%.1f %% right with the calculator, %.1f %% without (%d asked, %lld calls)",
              100 * u->helped / all, 100 * u->alone / all, u->asked, (long long)u->calls);
}

static pu_err part(const pu_demo *d, pu_buf *html, pu_error *e) {
  (void)e;
  pu_buf_puts(html, "<h3>Calls, turn by turn</h3>\n");
  pu_buf_append(html, d->use.transcript.data, d->use.transcript.len);
  pu_buf_puts(html,
              "<h3>The same questions, without the tool and with it</h3>\n<table class=scores><tr><th>question</th>"
              "<th>without</th><th>with</th></tr>\n");
  pu_buf_append(html, d->use.examples.data, d->use.examples.len);
  pu_buf_puts(html, "</table>\n");
  return PU_OK;
}

const pu_demo_stage pu_demo_use_tool = {
    "letting it use a calculator",
    "A tool",
    "The model in 4 bits is asked sums with numbers of up to seven digits, alone and "
    "with a calculator: it writes the call, the program computes, it reads the result "
    "and answers.",
    use_tool,
    tell,
    part};
