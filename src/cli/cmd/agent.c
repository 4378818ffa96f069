/* A model with tools. */
#include "puyu/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/cli/cli.h"
#include "src/cli/rows.h"
#include "src/cli/safe.h"
#include "src/cli/sample.h"
#include "src/cli/sampling.h"
#include "src/cli/turns.h"

typedef struct options {
  const char *url, *served, *ca_file, *system, *docs, *transcript, *adapter;
  pu_strs tools;
  int64_t max_steps, threads;
  double timeout;
  bool json, list;
  pu_cli_sampling sampling;
  pu_cli_model model;
} options;

static const pu_option rows[] = {
    PU_ROW(options, tools, "tools", STRS, .letter = 't', .meta = "A,B",
           .help = "tools that the model may call, or none; without it calculator, and with --docs search"),
    PU_ROW(options, docs, "docs", STR, .meta = "DIR", .help = "the folder of documents that search looks in"),
    PU_ROW(options, max_steps, "max-steps", INT, .dflt = "8", .min = 1, .max = 1000, .meta = "N",
           .help = "answers of the model to one question at most"),
    PU_ROW(options, transcript, "transcript", STR, .meta = "FILE",
           .help = "append each conversation to it as a line that puyu train can learn"),
    PU_ROW(options, list, "list", BOOL,
           .help = "print all tools, or those of --tools, with the schemas of their arguments"),
    PU_ROW_JSON(options),
    PU_ROW(options, url, "url", STR, .meta = "URL", .help = "a server that speaks OpenAI's API, instead of MODEL"),
    PU_ROW(options, served, "served", STR, .meta = "NAME",
           .help = "the model to ask for at the server; else its first"),
    PU_ROW(options, timeout, "timeout", FLOAT, .dflt = "600", .max = 1e6, .meta = "SECONDS",
           .help = "of one answer of a server; 0: none"),
    PU_ROW(options, ca_file, "ca-file", STR, .meta = "FILE", .help = "certificates (PEM) to trust with https"),
    PU_ROW(options, system, "system", STR, .meta = "TEXT", .help = "what the model is told before the first turn"),
    PU_SAMPLING_ROWS(options, sampling, "0", "1", "0"),
    PU_CLI_ADAPTER_ROW(options),
    PU_CLI_MODEL_ROWS(options, model),
    PU_ROW_THREADS(options, 64),
    {0},
};

typedef struct talk {
  const pu_cli *cli;
  const options *o;
  pu_turns turns;
  bool shows; /* somebody sees the steps as they are made */
  bool quit;
  char last; /* what was shown last; '\n' at the beginning of a line */
  int file;  /* of transcripts; -1: none */
  pu_agent *agent;
} talk;

/* ---- tools ---- */

/* The names of --tools, "a,b" being two, or the usual ones. */
static pu_err choose_tools(const options *o, pu_arena *a, pu_strs *out, pu_error *e) {
  size_t most = 2;
  for (size_t i = 0; i < o->tools.n; i++) most += strlen(o->tools.v[i]);
  *out = (pu_strs){pu_arena_alloc(a, most * sizeof(char *)), 0};
  if (!out->v) return pu_fail(e, PU_ERR_NOMEM, "no memory for the tools");
  if (o->tools.n == 0) {
    out->v[out->n++] = "calculator";
    if (o->docs) out->v[out->n++] = "search";
    return PU_OK;
  }
  for (size_t i = 0; i < o->tools.n; i++) {
    for (const char *p = o->tools.v[i]; *p;) {
      size_t n = strcspn(p, ",");
      const char *name = pu_arena_strndup(a, p, n);
      if (!name) return pu_fail(e, PU_ERR_NOMEM, "no memory for the tools");
      if (n > 0 && strcmp(name, "none") != 0) out->v[out->n++] = name;
      p += n + (p[n] == ',');
    }
  }
  return PU_OK;
}

static bool is_among(const pu_strs *names, const char *name) {
  for (size_t i = 0; i < names->n; i++)
    if (strcmp(names->v[i], name) == 0) return true;
  return false;
}

static pu_err check_known(const pu_strs *names, pu_error *e) {
  for (size_t i = 0; i < names->n; i++) {
    pu_agent_tool t;
    size_t at = 0;
    while (pu_agent_tool_at(at, &t) && strcmp(t.name, names->v[i]) != 0) at++;
    if (!pu_agent_tool_at(at, &t)) return pu_fail(e, PU_ERR_USAGE, "there is no tool '%.60s'", names->v[i]);
  }
  return PU_OK;
}

/* All, or those of --tools: for people, or as a server and a line of a transcript have them. */
static pu_err list_tools(const pu_cli *cli, const options *o, pu_error *e) {
  pu_strs names;
  pu_agent_tool t;
  PU_TRY(choose_tools(o, cli->arena, &names, e));
  PU_TRY(check_known(&names, e));
  json_t *all = json_array();
  pu_err err = PU_OK;
  for (size_t i = 0; !err && pu_agent_tool_at(i, &t); i++) {
    json_t *schema = NULL;
    if (o->tools.n && !is_among(&names, t.name)) continue;
    err = pu_json_parse(t.name, pu_str_c(t.parameters), &schema, e);
    json_array_append_new(all, json_pack("{ss s{ss ss so*}}", "type", "function", "function", "name", t.name,
                                         "description", t.about, "parameters", schema));
    char *text = json_dumps(schema, JSON_INDENT(2));
    if (!err && !o->json) fprintf(cli->out, "%s\n  %s\n%s\n\n", t.name, t.about, text ? text : "");
    free(text);
  }
  char *text = json_dumps(all, JSON_COMPACT);
  if (!err && o->json && text) fprintf(cli->out, "%s\n", text);
  free(text);
  json_decref(all);
  return err;
}

/* ---- showing ---- */

/* A model may say again what stood in a document. */
static void put(talk *t, pu_str s) {
  if (s.len == 0) return;
  pu_cli_put_safe(t->turns.out, s);
  t->last = s.ptr[s.len - 1];
}

/* Dimmed and indented. */
static void put_aside(talk *t, const char *mark, const char *name, pu_str text) {
  enum { MOST = 2000 };
  FILE *out = t->turns.out;
  size_t n = PU_MIN(text.len, (size_t)MOST);
  while (n < text.len && n > 0 && ((unsigned char)text.ptr[n] & 0xC0) == 0x80) n--;
  bool cut = n < text.len;
  if (t->last != '\n') fputc('\n', out);
  fprintf(out, "\x1b[2m  %s %s%s", mark, name, *name ? " " : "");
  while (n > 0 && text.ptr[n - 1] == '\n') n--;
  for (size_t i = 0, len; i < n; i += len + 1) {
    const char *end = memchr(text.ptr + i, '\n', n - i);
    len = end ? (size_t)(end - (text.ptr + i)) : n - i;
    if (i > 0) fputs("\n    ", out);
    pu_cli_put_safe(out, pu_str_of(text.ptr + i, len));
  }
  fprintf(out, "%s\x1b[0m\n", cut ? " …" : "");
  t->last = '\n';
}

static void on_event(void *arg, const pu_agent_event *ev) {
  talk *t = arg;
  if (!t->shows) return;
  if (ev->kind == PU_AGENT_TEXT) put(t, ev->text);
  if (ev->kind == PU_AGENT_CALL) put_aside(t, "→", ev->name, ev->text);
  if (ev->kind == PU_AGENT_RESULT) put_aside(t, "←", "", ev->text);
  if (ev->kind == PU_AGENT_END && t->last != '\n') put(t, pu_str_c("\n"));
  fflush(t->turns.out);
}

static const char *const end_words[PU_AGENT_ENDS] = {
    [PU_AGENT_STEPS] = "the model still calls tools after all steps; --max-steps allows more",
    [PU_AGENT_REPEATED] = "the model makes the same call again and again",
    [PU_AGENT_CUT] = "the answer was cut: --max-tokens, or the context, allows no more",
    [PU_AGENT_FULL] = "the conversation no longer fits the context",
    [PU_AGENT_STOPPED] = "stopped"};

static pu_err print_json(const talk *t, pu_agent_end end, pu_error *e) {
  pu_agent_count n = pu_agent_counted(t->agent);
  pu_str said = pu_agent_said(t->agent);
  json_t *v = json_pack("{ss% ss sI sI sI sI sI sO sO}", "answer", said.ptr, said.len, "end", pu_agent_end_names[end],
                        "steps", n.steps, "calls", n.calls, "unknown", n.unknown, "unreadable", n.unreadable, "failed",
                        n.failed, "messages", pu_agent_messages(t->agent), "tools", pu_agent_tools(t->agent));
  char *text = v ? json_dumps(v, JSON_COMPACT) : NULL;
  if (text) fprintf(t->turns.out, "%s\n", text);
  json_decref(v);
  pu_err err = text ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory for an answer");
  free(text);
  return err;
}

/* ---- transcripts ---- */

static pu_err open_transcript(talk *t, pu_error *e) {
  const char *path = t->o->transcript;
  t->file = path ? open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0644) : -1;
  if (path && t->file < 0) return pu_fail(e, PU_ERR_IO, "%s: %s", path, strerror(errno));
  return PU_OK;
}

/* One line more; a line that an earlier run left unfinished is ended first. */
static pu_err add_transcript(const talk *t, pu_error *e) {
  pu_buf b;
  char last = '\n';
  if (t->file < 0) return PU_OK;
  pu_buf_init(&b, PU_BUF_MAX);
  off_t end = lseek(t->file, 0, SEEK_END);
  if (end > 0 && pread(t->file, &last, 1, end - 1) == 1 && last != '\n') pu_buf_putc(&b, '\n');
  size_t before = b.len;
  pu_err err = pu_agent_transcript(t->agent, &b, e);
  for (size_t at = 0; !err && b.len > before && at < b.len;) {
    ssize_t n = write(t->file, b.data + at, b.len - at);
    if (n < 0 && errno != EINTR) err = pu_fail(e, PU_ERR_IO, "%s: %s", t->o->transcript, strerror(errno));
    if (n > 0) at += (size_t)n;
  }
  pu_buf_deinit(&b);
  return err;
}

/* ---- one question ---- */

static pu_err ask_once(talk *t, const char *question, pu_error *e) {
  pu_agent_end end;
  PU_TRY(pu_agent_ask(t->agent, pu_str_c(question), &end, e));
  if (t->o->json) {
    PU_TRY(print_json(t, end, e));
  } else if (!t->shows) {
    pu_str said = pu_agent_said(t->agent);
    fwrite(said.ptr, 1, said.len, t->turns.out);
    fputc('\n', t->turns.out);
  }
  if (end == PU_AGENT_CUT) pu_log(PU_LOG_WARN, "%s", end_words[end]);
  bool answered = end == PU_AGENT_ANSWERED || end == PU_AGENT_CUT;
  return answered ? PU_OK : pu_fail(e, PU_ERR_STOPPED, "%s", end_words[end]);
}

/* ---- many ---- */

/* Where nobody types, Ctrl-C ends the talk and not only an answer. */
static bool was_stopped(const talk *t) {
  return !t->turns.typed && pu_signals_stop();
}

static pu_err answer(talk *t, pu_error *e) {
  pu_agent_end end;
  if (t->turns.typed) pu_signals_clear();
  pu_err err = pu_agent_ask(t->agent, pu_str_of(t->turns.turn.data, t->turns.turn.len), &end, e);
  if (!err) {
    pu_str said = pu_agent_said(t->agent);
    if (!t->shows) {
      fwrite(said.ptr, 1, said.len, t->turns.out);
      fputc('\n', t->turns.out);
      fflush(t->turns.out);
    }
    if (end_words[end] && !was_stopped(t))
      pu_log(end == PU_AGENT_STOPPED ? PU_LOG_INFO : PU_LOG_WARN, "%s", end_words[end]);
  } else if (t->turns.typed &&
             err != PU_ERR_NOMEM) { /* the server is away, or the question too long: the talk goes on */
    pu_log(PU_LOG_ERROR, "%s", e->msg);
    err = PU_OK;
  }
  if (t->turns.typed) pu_signals_clear();
  return err;
}

static pu_err do_reset(void *arg, const char *argument, pu_error *e) {
  talk *t = arg;
  (void)argument;
  PU_TRY(add_transcript(t, e));
  return pu_agent_reset(t->agent, e);
}

static pu_err do_quit(void *arg, const char *argument, pu_error *e) {
  (void)argument, (void)e;
  ((talk *)arg)->quit = true;
  return PU_OK;
}

static pu_err do_help(void *arg, const char *argument, pu_error *e);

static const pu_turn_command commands[] = {
    {"/reset", "", "forget all turns; the system text stays", do_reset},
    {"/help", "", "show this", do_help},
    {"/quit", "", "end; so does Ctrl-D", do_quit},
    {0},
};

static pu_err do_help(void *arg, const char *argument, pu_error *e) {
  (void)argument, (void)e;
  pu_turns_help(&((talk *)arg)->turns, commands);
  return PU_OK;
}

static pu_err ask_many(talk *t, pu_error *e) {
  if (t->turns.asks) fputs("/help lists the commands\n", t->turns.out);
  while (!t->quit && !ferror(t->turns.out) && !was_stopped(t)) {
    if (!pu_turns_read(&t->turns)) break;
    if (t->turns.turn.len == 0) continue;
    if (t->turns.turn.data[0] == '/')
      pu_turns_run(&t->turns, commands, t);
    else
      PU_TRY(answer(t, e));
  }
  PU_TRY(pu_turns_end(&t->turns, e));
  if (t->turns.asks && !t->quit) fputc('\n', t->turns.out);
  return was_stopped(t) ? pu_fail(e, PU_ERR_STOPPED, "%s", end_words[PU_AGENT_STOPPED]) : PU_OK;
}

/* ---- the command ---- */

static void show_progress(void *arg, double done, double total) {
  pu_progress **bar = arg;
  if (!*bar) *bar = pu_progress_open("index", "MB", total / 1e6);
  pu_progress_set(*bar, done / 1e6, NULL);
}

/* Tools and file of transcripts, before anything takes long. */
static pu_err open_agent(talk *t, pu_error *e) {
  const options *o = t->o;
  pu_strs tools;
  pu_progress *bar = NULL;
  PU_TRY(choose_tools(o, t->cli->arena, &tools, e));
  PU_TRY(open_transcript(t, e));
  const pu_agent_options ao = {.tools = tools.v,
                               .n_tools = tools.n,
                               .setup = {.docs = o->docs, .progress = show_progress, .progress_arg = &bar},
                               .system = o->system,
                               .max_steps = (int)o->max_steps,
                               .how = pu_cli_sampling_get(&o->sampling),
                               .on_event = on_event,
                               .arg = t,
                               .stop = pu_signals_stop};
  pu_err err = pu_agent_open(&ao, &t->agent, e);
  pu_progress_close(bar);
  return err;
}

static pu_err run_agent(talk *t, pu_agent_model *m, const char *question, pu_error *e) {
  pu_error ignored;
  PU_TRY(pu_agent_use(t->agent, m, e));
  if (question || !t->turns.typed)
    pu_signals_catch();
  else
    pu_turns_catch(&t->turns);
  pu_err err = question ? ask_once(t, question, e) : ask_many(t, e);
  pu_err kept = add_transcript(t, err ? &ignored : e); /* what was answered, also after a failure */
  return err ? err : kept;
}

static pu_err run_model(talk *t, const char *path, const char *question, pu_error *e) {
  const options *o = t->o;
  const pu_cli_engine_options eo = {.model = o->model, .threads = o->threads, .batch = 1, .adapter = o->adapter};
  pu_engine *en;
  pu_agent_model *m = NULL;
  PU_TRY(pu_cli_open_engine(path, &eo, &en, e));
  pu_err err = pu_agent_engine(en, &m, e);
  if (!err) err = run_agent(t, m, question, e);
  pu_agent_model_close(m);
  pu_engine_free(en);
  return err;
}

static pu_err run_server(talk *t, const char *question, pu_error *e) {
  const options *o = t->o;
  const pu_agent_server so = {
      .url = o->url, .model = o->served, .key = getenv("PUYU_API_KEY"), .ca_file = o->ca_file, .seconds = o->timeout};
  pu_agent_model *m;
  PU_TRY(pu_agent_remote(&so, &m, e));
  pu_err err = run_agent(t, m, question, e);
  pu_agent_model_close(m);
  return err;
}

static pu_err check(const options *o, int n_args, const char **args, const char *question, pu_error *e) {
  if (o->url && n_args > 1) return pu_fail(e, PU_ERR_USAGE, "give either --url or MODEL");
  if (!o->url && n_args == 0) return pu_fail(e, PU_ERR_USAGE, "who is to be asked? Give MODEL or --url");
  if (o->json && !question) return pu_fail(e, PU_ERR_USAGE, "--json needs a QUESTION");
  if (o->url && o->adapter) return pu_fail(e, PU_ERR_USAGE, "%s: adapters of a server are names of --served", o->url);
  return o->url ? PU_OK : pu_cli_check_talker(args[0], e);
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  const options *o = opts;
  int n = o->url ? 0 : 1;
  const char *question = n_args > n ? args[n] : NULL;
  talk t = {.cli = cli, .o = o, .last = '\n', .file = -1};
  if (o->list) return list_tools(cli, o, e);
  PU_TRY(check(o, n_args, args, question, e));
  pu_turns_init(&t.turns, cli->in, cli->out);
  t.shows = !o->json && isatty(fileno(cli->out));
  pu_err err = open_agent(&t, e);
  if (!err) err = o->url ? run_server(&t, question, e) : run_model(&t, args[0], question, e);
  pu_agent_close(t.agent);
  if (t.file >= 0) close(t.file);
  pu_turns_deinit(&t.turns);
  return err;
}

static void name_tools(pu_buf *b) {
  pu_agent_tool t;
  pu_buf_puts(b, "Tools that are built in:");
  for (size_t i = 0; pu_agent_tool_at(i, &t); i++) pu_buf_printf(b, "%s %s", i ? "," : "", t.name);
  pu_buf_puts(b, ".");
}

const pu_command pu_command_agent = {
    .name = "agent",
    .summary = "ask a model that may call tools",
    .usage = "MODEL|--url URL [QUESTION] [--tools A,B] [options]",
    .details =
        "The model (MODEL in this process, or behind --url) answers, or calls tools, reads what they give, and goes "
        "on, "
        "--max-steps times at most. At a terminal its calls and their results are shown dimmed; elsewhere only the "
        "answer is "
        "printed. Without a QUESTION each line that is read is one, as in puyu chat. A server's key is taken from "
        "PUYU_API_KEY.",
    .more = name_tools,
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 0,
    .max_args = 2,
    .run = run,
};
