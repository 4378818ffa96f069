#include "src/cli/cli.h"
#include "src/cli/conversation.h"
#include "src/cli/rows.h"
#include "src/cli/safe.h"
#include "src/cli/sample.h"
#include "src/cli/sampling.h"
#include "src/cli/turns.h"

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
  pu_turns turns;
  bool quit;
  pu_sampling how;
  pu_conversation talk;
} chat;

/* ---- answering ---- */

static bool print_text(void *arg, pu_str text) {
  chat *c = arg;
  pu_cli_put_text(c->turns.out, text);
  return fflush(c->turns.out) == 0;
}

static pu_err answer(chat *c, pu_error *e) {
  size_t dropped;
  pu_signals_clear();
  pu_err err = pu_conversation_ask(&c->talk, pu_str_of(c->turns.turn.data, c->turns.turn.len), &c->how, print_text, c,
                                   pu_signals_stop, &dropped, e);
  if (!err) {
    fputc('\n', c->turns.out);
    fflush(c->turns.out);
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

static pu_err do_reset(void *arg, const char *argument, pu_error *e) {
  chat *c = arg;
  (void)argument, (void)e;
  pu_conversation_reset(&c->talk);
  return PU_OK;
}

static pu_err do_system(void *arg, const char *argument, pu_error *e) {
  chat *c = arg;
  return pu_conversation_system(&c->talk, argument, e);
}

static pu_err do_undo(void *arg, const char *argument, pu_error *e) {
  chat *c = arg;
  (void)argument, (void)e;
  if (!pu_conversation_undo(&c->talk)) pu_log(PU_LOG_WARN, "there is nothing to take back");
  return PU_OK;
}

static pu_err do_save(void *arg, const char *argument, pu_error *e) {
  const chat *c = arg;
  if (!*argument) return pu_fail(e, PU_ERR_USAGE, "/save needs the name of a file");
  pu_buf json;
  pu_buf_init(&json, PU_BUF_MAX);
  pu_err err = pu_conversation_json(&c->talk, &json) ? pu_file_write(argument, json.data, json.len, e)
                                                     : pu_fail(e, PU_ERR_NOMEM, "no memory to save the conversation");
  if (!err) pu_log(PU_LOG_INFO, "saved: %s", argument);
  pu_buf_deinit(&json);
  return err;
}

static pu_err do_quit(void *arg, const char *argument, pu_error *e) {
  (void)argument, (void)e;
  ((chat *)arg)->quit = true;
  return PU_OK;
}

static pu_err do_help(void *arg, const char *argument, pu_error *e);

static const pu_turn_command commands[] = {
    {"/reset", "", "forget all turns; the system text stays", do_reset},
    {"/system", " TEXT", "tell the model this before the first turn; nothing: no system text", do_system},
    {"/undo", "", "take back the last question and its answer", do_undo},
    {"/save", " FILE", "write the conversation as JSON messages", do_save},
    {"/help", "", "show this", do_help},
    {"/quit", "", "end; so does Ctrl-D", do_quit},
    {0},
};

static pu_err do_help(void *arg, const char *argument, pu_error *e) {
  (void)argument, (void)e;
  pu_turns_help(&((chat *)arg)->turns, commands);
  return PU_OK;
}

/* ---- the talk ---- */

static pu_err talk(chat *c, pu_error *e) {
  if (c->turns.asks) fprintf(c->turns.out, "%s; /help lists the commands\n", pu_engine_model(c->talk.en)->arch->name);
  while (!c->quit && !ferror(c->turns.out)) {
    if (!pu_turns_read(&c->turns)) break;
    if (c->turns.turn.len == 0) continue;
    if (c->turns.turn.data[0] == '/')
      pu_turns_run(&c->turns, commands, c);
    else
      PU_TRY(answer(c, e));
  }
  PU_TRY(pu_turns_end(&c->turns, e));
  if (c->turns.asks && !c->quit) fputc('\n', c->turns.out);
  return PU_OK;
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  (void)n_args;
  const options *o = opts;
  chat c = {.how = pu_cli_sampling_get(&o->sampling)};
  pu_engine *en;
  PU_TRY(pu_cli_check_talker(args[0], e));
  pu_cli_engine_options eo = {.model = o->model, .threads = o->threads, .batch = 1, .adapter = o->adapter};
  PU_TRY(pu_cli_open_engine(args[0], &eo, &en, e));
  pu_turns_init(&c.turns, cli->in, cli->out);
  pu_err err = pu_conversation_open(en, &c.talk, e);
  if (!err) err = pu_conversation_system(&c.talk, o->system, e);
  if (!err) {
    pu_turns_catch(&c.turns);
    err = talk(&c, e);
  }
  pu_conversation_close(&c.talk);
  pu_turns_deinit(&c.turns);
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
