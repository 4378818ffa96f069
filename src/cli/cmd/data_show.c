/* What is learned of conversations: their tokens, with those that are marked. */
#include <string.h>
#include <unistd.h>

#include "puyu/tune.h"
#include "src/cli/cli.h"
#include "src/cli/rows.h"

typedef struct options {
  const char *tokenizer, *chat_template, *form;
  pu_strs columns;
  int64_t count, skip;
  int colour;
  bool ids;
} options;

enum { COLOUR_AUTO, COLOUR_ALWAYS };

static const pu_option rows[] = {
    PU_ROW_TOKENIZER(options, "model", 'm', true, "; of a model's folder its chat template, too"),
    PU_ROW(options, count, "count", INT, .dflt = "1", .min = 1, .max = 1e9, .meta = "N", .letter = 'n',
           .help = "how many conversations to show"),
    PU_ROW(options, skip, "skip", INT, .dflt = "0", .max = 1e12, .meta = "N", .help = "pass over the first N"),
    PU_ROW(options, form, "form", STR, .meta = "NAME", .help = "messages, alpaca, sharegpt or xtuner; none: found out"),
    PU_ROW(options, columns, "column", STRS, .meta = "KEY=NAME",
           .help = "what the file calls a key: instruction=question (data.sources' columns)"),
    PU_ROW(options, chat_template, "chat-template", STR, .meta = "NAME",
           .help = "internlm, internlm2, chatml or llama3; none: the model's own"),
    PU_ROW(options, ids, "ids", BOOL,
           .help = "a line for each token: its id, a + where it is learned, what it stands for"),
    PU_ROW(options, colour, "colour", ENUM, .dflt = "auto", .choices = "auto|always|never",
           .help = "colours, or marks (auto: colours on a terminal)"),
    {0},
};

typedef struct job {
  const options *o;
  FILE *out;
  bool colour;
  pu_tokenizer *t;
  const pu_chat_template *chat;
} job;

/* ---- one token ---- */

/* Text for people: line ends are seen, control characters and broken bytes do nothing. */
static void put_text(FILE *out, pu_str s) {
  uint32_t cp;
  for (size_t i = 0, len; i < s.len; i += len) {
    len = pu_utf8_next(pu_str_of(s.ptr + i, s.len - i), &cp);
    if (len == 0) {
      fprintf(out, "<0x%02X>", (unsigned)(uint8_t)s.ptr[i]);
      len = 1;
    } else if (cp == '\n') {
      fputs("↵\n", out);
    } else if (cp < ' ' || cp == 0x7F || (cp >= 0x80 && cp < 0xA0)) {
      fputs("·", out);
    } else {
      fwrite(s.ptr + i, 1, len, out);
    }
  }
}

static pu_err put_token(const job *j, int32_t id, pu_buf *text, pu_error *e) {
  pu_str piece = pu_tokenizer_piece(j->t, id);
  pu_buf_clear(text);
  if (!pu_tokenizer_is_special(j->t, id)) {
    PU_TRY(pu_tokenizer_bytes(j->t, id, text, e));
    piece = pu_str_of(text->len ? text->data : "", text->len);
  }
  put_text(j->out, piece);
  return PU_OK;
}

/* ---- one conversation ---- */

/* Learned: green, the rest grey, every other token brighter. */
static pu_err put_coloured(const job *j, const pu_ids *ids, pu_buf *text, pu_error *e) {
  static const char *const styles[2][2] = {{"\033[90m", "\033[37m"}, {"\033[32m", "\033[92m"}};
  for (size_t i = 0; i < ids->n; i++) {
    fputs(styles[ids->v[i] >= 0][i % 2], j->out);
    PU_TRY(put_token(j, pu_tune_id(ids->v[i]), text, e));
    fputs("\033[0m", j->out);
  }
  return PU_OK;
}

/* Stretches that are learned stand between marks. */
static pu_err put_marked(const job *j, const pu_ids *ids, pu_buf *text, pu_error *e) {
  bool learned = false;
  for (size_t i = 0; i <= ids->n; i++) {
    bool now = i < ids->n && ids->v[i] >= 0;
    if (now != learned) fputs(now ? "⟦" : "⟧", j->out);
    learned = now;
    if (i < ids->n) PU_TRY(put_token(j, pu_tune_id(ids->v[i]), text, e));
  }
  return PU_OK;
}

static pu_err put_ids(const job *j, const pu_ids *ids, pu_buf *text, pu_error *e) {
  for (size_t i = 0; i < ids->n; i++) {
    int32_t id = pu_tune_id(ids->v[i]);
    pu_str piece = pu_tokenizer_piece(j->t, id);
    pu_buf_clear(text);
    if (!pu_tokenizer_is_special(j->t, id)) {
      pu_buf bytes;
      pu_buf_init(&bytes, PU_BUF_MAX);
      pu_err err = pu_tokenizer_bytes(j->t, id, &bytes, e);
      if (!err) pu_buf_json_str(text, pu_str_of(bytes.len ? bytes.data : "", bytes.len));
      pu_buf_deinit(&bytes);
      PU_TRY(err);
    } else {
      pu_buf_json_str(text, piece);
    }
    fprintf(j->out, "%6d %c %s\n", id, ids->v[i] >= 0 ? '+' : ' ', text->data);
  }
  return PU_OK;
}

static pu_err show(const job *j, const pu_dialogue *d, const char *form, pu_error *e) {
  pu_ids ids = {0};
  pu_buf text;
  size_t learned = 0;
  pu_buf_init(&text, PU_BUF_MAX);
  pu_err err = pu_tune_encode(d, j->chat, j->t, &ids, e);
  for (size_t i = 0; i < ids.n; i++) learned += ids.v[i] >= 0;
  if (!err)
    fprintf(j->out, "%s: form %s, template %s, %zu tokens, %zu of them learned\n", d->where, form,
            pu_chat_name(j->chat), ids.n, learned);
  if (!err) err = (j->o->ids ? put_ids : j->colour ? put_coloured : put_marked)(j, &ids, &text, e);
  if (!err) fputs(j->o->ids ? "\n" : "\n\n", j->out);
  pu_buf_deinit(&text);
  pu_ids_deinit(&ids);
  return err;
}

static pu_err show_all(const job *j, const char *path, const pu_train_source *how, pu_error *e) {
  pu_dialogues *from;
  bool found = true;
  PU_TRY(pu_dialogues_open(path, how, &from, e));
  pu_err err = PU_OK;
  for (int64_t i = 0; !err && found && i < j->o->skip + j->o->count && !ferror(j->out); i++) {
    pu_dialogue d;
    err = pu_dialogues_next(from, &d, &found, e);
    if (!err && found && i >= j->o->skip) err = show(j, &d, pu_dialogues_form(from), e);
    pu_dialogue_deinit(&d);
  }
  pu_dialogues_close(from);
  return err;
}

/* ---- the command ---- */

/* The keys of data.sources, as a configuration has them. */
static pu_err read_columns(const options *o, pu_train_source *how, pu_arena *a, pu_error *e) {
  const pu_option *table = pu_train_options;
  while (strcmp(table->key, "data.sources") != 0) table++;
  how->form = o->form;
  for (size_t i = 0; i < o->columns.n; i++) {
    const char *text = o->columns.v[i], *equals = strchr(text, '=');
    if (!equals) return pu_fail(e, PU_ERR_USAGE, "--column %.60s: takes KEY=NAME, such as instruction=question", text);
    const char *key = pu_arena_printf(a, "columns.%.*s", (int)(equals - text), text);
    if (!key) return pu_fail(e, PU_ERR_NOMEM, "no memory for the columns");
    PU_TRY(pu_options_set(table->sub, how, key, equals + 1, "--column", a, e));
  }
  return PU_OK;
}

static pu_err open_template(job *j, pu_error *e) {
  const char *path = j->o->tokenizer;
  const pu_arch *arch = NULL;
  pu_hparams hp;
  pu_error none;
  if (pu_model_describe(path, &arch, &hp, &none) != PU_OK) arch = NULL; /* a tokenizer alone */
  const pu_train_config cfg = {.data = {.chat_template = j->o->chat_template}};
  return pu_tune_template(&cfg, path, j->t, arch ? arch->name : NULL, &j->chat, e);
}

static pu_err run(const pu_cli *cli, const void *given, int n_args, const char **args, pu_error *e) {
  const options *o = given;
  pu_train_source how = {0};
  job j = {.o = o, .out = cli->out, .colour = o->colour == COLOUR_ALWAYS};
  (void)n_args;
  if (o->colour == COLOUR_AUTO) j.colour = isatty(fileno(cli->out));
  PU_TRY(read_columns(o, &how, cli->arena, e));
  PU_TRY(pu_cli_tokenizer(o->tokenizer, &j.t, e));
  pu_err err = open_template(&j, e);
  if (!err) err = show_all(&j, args[0], &how, e);
  pu_chat_free(j.chat);
  pu_tokenizer_free(j.t);
  return err;
}

const pu_command pu_command_data_show = {
    .name = "data show",
    .summary = "show what a model would learn of conversations",
    .usage = "FILE --model PATH [options]",
    .details =
        "FILE holds conversations as `puyu train` reads them with task: sft (JSON Lines or a JSON array, also .gz and "
        ".zst; or a folder of them). Each is printed as the model sees it, special tokens and all. What is learned is "
        "green on a terminal, every other token brighter, and stands between ⟦ and ⟧ elsewhere.",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
