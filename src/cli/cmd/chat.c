#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "src/cli/cli.h"
#include "src/cli/conversation.h"
#include "src/cli/rows.h"
#include "src/cli/sample.h"
#include "src/cli/sampling.h"

typedef struct options {
  const char *system;
  pu_cli_sampling sampling;
  pu_cli_model model;
  int64_t threads;
  const char *adapter;
} options;

static const pu_option rows[] = {
    PU_ROW(options, system, "system", STR, .meta = "TEXT", .help = "what the model is told before the first turn"),
    PU_SAMPLING_ROWS(options, sampling, "0.8", "0.9", "0"),
    PU_CLI_ADAPTER_ROW(options),
    PU_CLI_MODEL_ROWS(options, model),
    PU_ROW_THREADS(options, 64),
    {0},
};

typedef struct chat {
  FILE *in, *out;
  bool typed; /* by a person, at a terminal */
  bool asks;  /* who also sees the output there: show prompts */
  bool quit;
  pu_sampling how;
  pu_conversation talk;
  pu_buf line, turn;
} chat;

/* ---- reading a turn ---- */

enum { MOST_TURN_BYTES = 16 << 20 };
static const char QUOTES[] = "\"\"\"";

static void show_prompt(const chat *c, const char *prompt) {
  if (!c->asks) return;
  fputs(prompt, c->out);
  fflush(c->out);
}

/* Until something was typed. Ctrl-C here gives a new prompt; poll, unlike read, comes back from a signal. */
static void wait_for_typing(const chat *c, const char *prompt) {
  struct pollfd in = {.fd = fileno(c->in), .events = POLLIN};
  while (c->typed && poll(&in, 1, -1) < 0 && errno == EINTR) {
    if (!pu_signals_stop()) continue;
    pu_signals_clear();
    if (c->asks) fputs("\n(Ctrl-D ends the talk)\n", c->out);
    show_prompt(c, prompt);
  }
}

/* One line without its newline. False: the input is over, or too long to go on. */
static bool read_line(chat *c, const char *prompt) {
  show_prompt(c, prompt);
  wait_for_typing(c, prompt);
  pu_buf_clear(&c->line);
  for (int ch; (ch = getc(c->in)) != EOF;) {
    if (ch == '\n') return true;
    if (!pu_buf_putc(&c->line, (char)ch)) return false;
  }
  return c->line.len > 0;
}

static bool ends_with(const pu_buf *b, const char *end) {
  return pu_str_ends(pu_str_of(b->data, b->len), end);
}

static void cut(pu_buf *b, size_t n) {
  b->len -= n;
  b->data[b->len] = 0;
}

/* The rest of a turn between two triple quotes. */
static bool read_quoted(chat *c) {
  for (;;) {
    if (ends_with(&c->turn, QUOTES)) {
      cut(&c->turn, strlen(QUOTES));
      return true;
    }
    if (!read_line(c, "… ")) return !c->line.failed; /* the input ended first: what there is counts */
    pu_buf_putc(&c->turn, '\n');
    if (!pu_buf_append(&c->turn, c->line.data ? c->line.data : "", c->line.len)) return false;
  }
}

/* A turn is a line; several lines where each but the last ends with a backslash, or between triple quotes. */
static bool read_turn(chat *c) {
  pu_buf_clear(&c->turn);
  if (!read_line(c, "> ")) return false;
  if (c->line.len >= strlen(QUOTES) && memcmp(c->line.data, QUOTES, strlen(QUOTES)) == 0) {
    pu_buf_puts(&c->turn, c->line.data + strlen(QUOTES));
    return read_quoted(c);
  }
  for (;;) {
    pu_buf_append(&c->turn, c->line.data ? c->line.data : "", c->line.len);
    if (c->turn.failed || !ends_with(&c->turn, "\\")) return !c->turn.failed;
    cut(&c->turn, 1);
    if (!read_line(c, "… ")) return !c->line.failed; /* as above */
    pu_buf_putc(&c->turn, '\n');
  }
}

/* ---- answering ---- */

static bool print_text(void *arg, pu_str text) {
  chat *c = arg;
  fwrite(text.ptr, 1, text.len, c->out);
  return fflush(c->out) == 0;
}

static pu_err answer(chat *c, pu_error *e) {
  size_t dropped;
  pu_signals_clear();
  pu_err err = pu_conversation_ask(&c->talk, pu_str_of(c->turn.data, c->turn.len), &c->how, print_text, c,
                                   pu_signals_stop, &dropped, e);
  if (!err) {
    fputc('\n', c->out);
    fflush(c->out);
    if (dropped) pu_log(PU_LOG_WARN, "the context is full: %zu of the oldest turns were left out", dropped);
    if (pu_signals_stop()) pu_log(PU_LOG_INFO, "stopped");
  } else if (err == PU_ERR_USAGE) { /* too long, say: the talk goes on */
    pu_log(PU_LOG_ERROR, "%s", e->msg);
    err = PU_OK;
  }
  pu_signals_clear();
  return err;
}

/* ---- commands ---- */

typedef struct command {
  const char *name, *argument, *help;
  pu_err (*run)(chat *c, const char *argument, pu_error *e);
} command;

static pu_err do_reset(chat *c, const char *argument, pu_error *e) {
  (void)argument, (void)e;
  pu_conversation_reset(&c->talk);
  return PU_OK;
}

static pu_err do_system(chat *c, const char *argument, pu_error *e) {
  return pu_conversation_system(&c->talk, argument, e);
}

static pu_err do_undo(chat *c, const char *argument, pu_error *e) {
  (void)argument, (void)e;
  if (!pu_conversation_undo(&c->talk)) pu_log(PU_LOG_WARN, "there is nothing to take back");
  return PU_OK;
}

static pu_err do_save(chat *c, const char *argument, pu_error *e) {
  if (!*argument) return pu_fail(e, PU_ERR_USAGE, "/save needs the name of a file");
  pu_buf json;
  pu_buf_init(&json, PU_BUF_MAX);
  pu_err err = pu_conversation_json(&c->talk, &json) ? pu_file_write(argument, json.data, json.len, e)
                                                     : pu_fail(e, PU_ERR_NOMEM, "no memory to save the conversation");
  if (!err) pu_log(PU_LOG_INFO, "saved: %s", argument);
  pu_buf_deinit(&json);
  return err;
}

static pu_err do_quit(chat *c, const char *argument, pu_error *e) {
  (void)argument, (void)e;
  c->quit = true;
  return PU_OK;
}

static pu_err do_help(chat *c, const char *argument, pu_error *e);

static const command commands[] = {
    {"/reset", "", "forget all turns; the system text stays", do_reset},
    {"/system", " TEXT", "tell the model this before the first turn; nothing: no system text", do_system},
    {"/undo", "", "take back the last question and its answer", do_undo},
    {"/save", " FILE", "write the conversation as JSON messages", do_save},
    {"/help", "", "show this", do_help},
    {"/quit", "", "end; so does Ctrl-D", do_quit},
};

static pu_err do_help(chat *c, const char *argument, pu_error *e) {
  (void)argument, (void)e;
  for (size_t i = 0; i < PU_COUNT(commands); i++) {
    int shown = fprintf(c->out, "%s%s", commands[i].name, commands[i].argument);
    fprintf(c->out, "%*s %s\n", 14 - shown, "", commands[i].help);
  }
  fprintf(c->out, "Several lines: end each but the last with \\, or put \"\"\" around them. Ctrl-C stops an answer.\n");
  return PU_OK;
}

/* A command that fails says why, and the talk goes on. */
static void run_command(chat *c) {
  pu_error e = {0};
  const char *line = c->turn.data;
  size_t word = strcspn(line, " \n");
  for (size_t i = 0; i < PU_COUNT(commands); i++) {
    if (strlen(commands[i].name) != word || memcmp(line, commands[i].name, word) != 0) continue;
    if (commands[i].run(c, line + word + strspn(line + word, " "), &e) != PU_OK) pu_log(PU_LOG_ERROR, "%s", e.msg);
    return;
  }
  pu_log(PU_LOG_ERROR, "there is no command %.*s; /help lists them", (int)PU_MIN(word, 40), line);
}

/* ---- the talk ---- */

static pu_err talk(chat *c, pu_error *e) {
  if (c->asks) fprintf(c->out, "%s; /help lists the commands\n", pu_engine_model(c->talk.en)->arch->name);
  while (!c->quit && !ferror(c->out)) {
    if (!read_turn(c)) break;
    if (c->turn.len == 0) continue;
    if (c->turn.data[0] == '/')
      run_command(c);
    else
      PU_TRY(answer(c, e));
  }
  if (c->line.failed || c->turn.failed)
    return pu_fail(e, PU_ERR_USAGE, "a turn of more than %d MiB", MOST_TURN_BYTES >> 20);
  if (c->asks && !c->quit) fputc('\n', c->out);
  return PU_OK;
}

/* SIGTERM still ends the program. What is typed is not read ahead, so that poll knows whether there is more. */
static void catch_ctrl_c(chat *c) {
  pu_signals_catch();
  signal(SIGTERM, SIG_DFL);
  setvbuf(c->in, NULL, _IONBF, 0);
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  (void)n_args;
  const options *o = opts;
  chat c = {.in = cli->in, .out = cli->out, .how = pu_cli_sampling_get(&o->sampling)};
  c.typed = isatty(fileno(cli->in));
  c.asks = c.typed && isatty(fileno(cli->out));
  pu_engine *en;
  const pu_arch *arch;
  pu_hparams hp;
  PU_TRY(pu_model_describe(args[0], &arch, &hp, e));
  if (pu_path_is_dir(args[0]) && !pu_tokenizer_in(args[0])) /* before the weights are read */
    return pu_fail(e, PU_ERR_UNSUPPORTED,
                   "%s: no tokenizer (tokenizer.json or tokenizer.model) in this folder: copy the model's own into it",
                   args[0]);
  pu_cli_engine_options eo = {.model = o->model, .threads = o->threads, .batch = 1, .adapter = o->adapter};
  PU_TRY(pu_cli_open_engine(args[0], &eo, &en, e));
  pu_buf_init(&c.line, MOST_TURN_BYTES);
  pu_buf_init(&c.turn, MOST_TURN_BYTES);
  pu_err err = pu_conversation_open(en, &c.talk, e);
  if (!err) err = pu_conversation_system(&c.talk, o->system, e);
  if (!err) {
    if (c.typed) catch_ctrl_c(&c);
    err = talk(&c, e);
  }
  pu_conversation_close(&c.talk);
  pu_buf_deinit(&c.line);
  pu_buf_deinit(&c.turn);
  pu_engine_free(en);
  return err;
}

const pu_command pu_command_chat = {
    .name = "chat",
    .summary = "talk to a model",
    .usage = "MODEL [--system TEXT] [options]",
    .details = "MODEL is a Hugging Face directory with a chat template, or whose tokenizer has the markers of one that "
               "puyu knows "
               "(puyu chat-template shows what the model reads). Each line is a turn; "
               "several lines make one where each but the last ends with a backslash, or between triple quotes. /help "
               "lists the commands: reset, system, undo, save, quit. Ctrl-C stops an answer, Ctrl-D ends the talk. "
               "Standard input may be a pipe: then nothing but the answers is printed.",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
