/* Rule-made text. */
#include <stdlib.h>
#include <string.h>

#include "puyu/data.h"
#include "src/cli/cli.h"
#include "src/cli/rows.h"
#include "src/cli/tools.h"

typedef struct options {
  const char *out;
  int64_t seed, documents, questions, dialogues;
  double megabytes, valid_fraction;
  const char *kinds;
  pu_floats within;
  bool force;
} options;

static const pu_option rows[] = {
    PU_ROW_OUT(options, "DIR", "where the files go"),
    PU_ROW_SEED(options, "another seed, other documents"),
    PU_ROW(options, megabytes, "megabytes", FLOAT, .dflt = "16", .min = 0.001, .max = 1e6, .meta = "N",
           .help = "size of the text, where --documents does not say how many"),
    PU_ROW(options, documents, "documents", INT, .dflt = "0", .max = 1e12, .meta = "N",
           .help = "how many documents; 0: as many as --megabytes asks for"),
    PU_ROW(options, kinds, "kinds", STR, .dflt = "stories:1,arithmetic:3,facts:1", .meta = "LIST",
           .help = "kinds of documents, each with its share of the text after a colon; no number: 1"),
    PU_ROW(options, dialogues, "dialogues", INT, .dflt = "0", .max = 1e9, .meta = "N",
           .help = "how many conversations to make besides, for fine-tuning: about sums, facts and stories, some "
                   "with a calculator to call"),
    PU_ROW(options, within, "within", FLOATS, .dflt = "100,1000", .meta = "LIST",
           .help = "sums whose numbers and results are at most 100, at most 1000, or some of both"),
    PU_ROW(options, questions, "questions", INT, .dflt = "250", .max = 20000, .meta = "N",
           .help = "held-out questions, for each range and operation"),
    PU_ROW_VALID(options, "0.01", 0.5, "share of the documents that goes to valid.jsonl"),
    PU_ROW_FORCE(options, "replace files that are there already"),
    {0},
};

enum { TRAIN, VALID, HELDOUT, CHAT_TRAIN, CHAT_VALID, FILES };
/* Questions and conversations lie beside the folder, which is a corpus: they are no text to train on. */
static const char *const ends[FILES] = {"/train.jsonl", "/valid.jsonl", "-heldout.jsonl", "-chat/train.jsonl",
                                        "-chat/valid.jsonl"};

typedef struct job {
  const char *path[FILES];
  char *tmp[FILES];
  FILE *file[FILES];
  pu_buf line;
  pu_progress *bar;
  double bytes;
  int64_t count[FILES];
  bool by_documents;
  int files; /* without conversations the last two are not made */
} job;

static pu_err put_line(job *j, int file, pu_error *e) {
  if (j->line.failed) return pu_fail(e, PU_ERR_NOMEM, "no memory for a line");
  if (fwrite(j->line.data, 1, j->line.len, j->file[file]) != j->line.len)
    return pu_fail(e, PU_ERR_IO, "%s: %m", j->path[file]);
  j->count[file]++;
  return PU_OK;
}

static pu_err put_document(void *arg, const pu_synth_document *d, pu_error *e) {
  job *j = arg;
  if (pu_signals_stop()) return pu_fail(e, PU_ERR_STOPPED, "stopped; nothing was written");
  pu_buf_clear(&j->line);
  pu_buf_printf(&j->line, "{\"id\": \"%s\", \"content\": ", d->id);
  pu_buf_json_str(&j->line, d->content);
  pu_buf_printf(&j->line, ", \"kind\": \"%s\", \"lang\": \"%s\"}\n", pu_synth_kind_names[d->kind], d->lang);
  PU_TRY(put_line(j, d->valid ? VALID : TRAIN, e));
  j->bytes += (double)d->content.len;
  pu_progress_set(j->bar, j->by_documents ? (double)(j->count[TRAIN] + j->count[VALID]) : j->bytes / 1e6, NULL);
  return PU_OK;
}

static pu_err put_question(void *arg, const pu_synth_question *q, pu_error *e) {
  job *j = arg;
  pu_buf_clear(&j->line);
  pu_synth_question_json(q, &j->line);
  pu_buf_putc(&j->line, '\n');
  return put_line(j, HELDOUT, e);
}

static pu_err put_dialogue(void *arg, const pu_synth_dialogue *d, pu_error *e) {
  job *j = arg;
  if (pu_signals_stop()) return pu_fail(e, PU_ERR_STOPPED, "stopped; nothing was written");
  pu_buf_clear(&j->line);
  pu_buf_append(&j->line, d->json.ptr, d->json.len);
  pu_buf_putc(&j->line, '\n');
  PU_TRY(put_line(j, d->valid ? CHAT_VALID : CHAT_TRAIN, e));
  pu_progress_set(j->bar, (double)(j->count[CHAT_TRAIN] + j->count[CHAT_VALID]), NULL);
  return PU_OK;
}

/* "stories:1,facts" */
static pu_err kinds_read(const char *text, double *weights, pu_error *e) {
  for (const char *p = text; *p;) {
    size_t len = strcspn(p, ",:");
    int k = 0;
    while (k < PU_SYNTH_KINDS &&
           (strlen(pu_synth_kind_names[k]) != len || strncmp(pu_synth_kind_names[k], p, len) != 0))
      k++;
    if (k == PU_SYNTH_KINDS)
      return pu_fail(e, PU_ERR_USAGE, "--kinds: '%.*s' is not stories, arithmetic or facts", (int)PU_MIN(len, 40), p);
    p += len;
    weights[k] = 1;
    if (*p == ':') {
      char *end;
      weights[k] = strtod(p + 1, &end);
      if (end == p + 1 || !(weights[k] >= 0)) return pu_fail(e, PU_ERR_USAGE, "--kinds: a share must be 0 or more");
      p = end;
    }
    if (*p == ',')
      p++;
    else if (*p)
      return pu_fail(e, PU_ERR_USAGE, "--kinds: '%.20s': a comma belongs between kinds", p);
  }
  return PU_OK;
}

static pu_err options_read(const options *in, pu_synth_options *o, pu_error *e) {
  *o = (pu_synth_options){.seed = (uint64_t)in->seed,
                          .documents = in->documents,
                          .bytes = (int64_t)(in->megabytes * 1e6),
                          .questions = in->questions,
                          .valid_fraction = in->valid_fraction};
  for (size_t i = 0; i < in->within.n; i++) {
    if (in->within.v[i] != 100 && in->within.v[i] != 1000)
      return pu_fail(e, PU_ERR_USAGE, "--within: 100, 1000 or 100,1000");
    o->within[in->within.v[i] == 1000] = true;
  }
  return kinds_read(in->kinds, o->weights, e);
}

static pu_err files_open(job *j, const pu_cli *cli, const options *in, pu_error *e) {
  PU_TRY(pu_mkdirs(in->out, e));
  size_t len = strlen(in->out);
  while (len > 1 && in->out[len - 1] == '/') len--;
  char *whole = in->out[len - 1] == '.' ? realpath(in->out, NULL) : NULL; /* "." has no name to put more behind */
  char *dir = whole ? pu_arena_strdup(cli->arena, whole) : pu_arena_strndup(cli->arena, in->out, len);
  free(whole);
  for (int i = 0; i < j->files; i++) {
    j->path[i] = dir ? pu_arena_printf(cli->arena, "%s%s", dir, ends[i]) : NULL;
    if (!j->path[i]) return pu_fail(e, PU_ERR_NOMEM, "no memory");
    if (!in->force && pu_path_exists(j->path[i]))
      return pu_fail(e, PU_ERR_USAGE, "%s: is there already; take another folder, or replace it with --force",
                     j->path[i]);
  }
  const char *chat = pu_arena_printf(cli->arena, "%s-chat", dir);
  if (!chat) return pu_fail(e, PU_ERR_NOMEM, "no memory");
  if (j->files > CHAT_TRAIN) PU_TRY(pu_mkdirs(chat, e));
  for (int i = 0; i < j->files; i++) {
    j->tmp[i] = pu_arena_printf(cli->arena, "%s.tmp", j->path[i]);
    if (!j->tmp[i]) return pu_fail(e, PU_ERR_NOMEM, "no memory");
    j->file[i] = fopen(j->tmp[i], "wbe");
    if (!j->file[i]) return pu_fail(e, PU_ERR_IO, "%s: %m", j->path[i]);
  }
  return PU_OK;
}

/* All files get their names, or none does. */
static pu_err files_close(job *j, pu_err err, pu_error *e) {
  for (int i = 0; i < j->files; i++)
    if (j->file[i] && fclose(j->file[i]) != 0 && err == PU_OK) err = pu_fail(e, PU_ERR_IO, "%s: %m", j->path[i]);
  for (int i = 0; i < j->files; i++) {
    if (err == PU_OK && rename(j->tmp[i], j->path[i]) != 0) err = pu_fail(e, PU_ERR_IO, "%s: %m", j->path[i]);
    if (err != PU_OK && j->tmp[i]) remove(j->tmp[i]);
  }
  return err;
}

static pu_err make_text(const pu_synth_options *o, job *j, double megabytes, pu_error *e) {
  const pu_synth_sink sink = {put_document, put_question, j};
  j->bar = j->by_documents ? pu_progress_open("synth", "documents", (double)o->documents)
                           : pu_progress_open("synth", "MB", megabytes);
  pu_err err = pu_synth_run(o, &sink, e);
  pu_progress_close(j->bar);
  return err;
}

static pu_err make_dialogues(const options *in, job *j, pu_arena *a, pu_error *e) {
  const pu_synth_chat_sink sink = {put_dialogue, put_question, j};
  pu_synth_chat_options o = pu_synth_chat_defaults();
  o.seed = (uint64_t)in->seed;
  o.dialogues = in->dialogues;
  o.valid_fraction = in->valid_fraction;
  o.questions = in->questions;
  PU_TRY(pu_cli_tool_json("calculator", a, &o.tool, e)); /* as `puyu agent` will offer it */
  j->bar = pu_progress_open("conversations", "", (double)o.dialogues);
  pu_err err = pu_synth_chat_run(&o, &sink, e);
  pu_progress_close(j->bar);
  return err;
}

static pu_err run(const pu_cli *cli, const void *given, int n_args, const char **args, pu_error *e) {
  (void)n_args;
  (void)args;
  const options *in = given;
  pu_synth_options o;
  PU_TRY(options_read(in, &o, e));
  job j = {.by_documents = o.documents > 0, .files = in->dialogues ? FILES : CHAT_TRAIN};
  pu_signals_catch(); /* so that nothing half-made stays */
  pu_buf_init(&j.line, (size_t)1 << 24);
  pu_err err = files_open(&j, cli, in, e);
  if (err == PU_OK) err = make_text(&o, &j, in->megabytes, e);
  if (err == PU_OK && in->dialogues) err = make_dialogues(in, &j, cli->arena, e);
  err = files_close(&j, err, e);
  pu_buf_deinit(&j.line);
  if (err != PU_OK) return err;
  fprintf(cli->out, "%lld documents for training, %lld for validation, %.1f MB: %s; %lld held-out questions: %s\n",
          (long long)j.count[TRAIN], (long long)j.count[VALID], j.bytes / 1e6, in->out, (long long)j.count[HELDOUT],
          j.path[HELDOUT]);
  if (in->dialogues)
    fprintf(cli->out, "%lld conversations for training: %s; %lld for validation: %s\n", (long long)j.count[CHAT_TRAIN],
            j.path[CHAT_TRAIN], (long long)j.count[CHAT_VALID], j.path[CHAT_VALID]);
  return PU_OK;
}

const pu_command pu_command_data_synth = {
    .name = "data synth",
    .summary = "make bilingual text from rules: stories, sums, facts, conversations",
    .usage = "--out DIR [options]",
    .details = "Writes DIR/train.jsonl and DIR/valid.jsonl, {\"id\", \"content\", \"kind\", \"lang\"} a line, and\n"
               "beside the folder, which is a corpus, DIR-heldout.jsonl, {\"prompt\", \"answer\", \"within\",\n"
               "...}: sums whose operands never appear in the other two, in any phrasing. A tenth of all\n"
               "pairs is held out, the same tenth whatever the seed. With --dialogues also conversations in\n"
               "OpenAI's form, DIR-chat/train.jsonl and DIR-chat/valid.jsonl, and their held-out questions.\n",
    .options = rows,
    .options_size = sizeof(options),
    .max_args = 0,
    .run = run,
};
