/* Text to ids, line by line. */
#include "puyu/text.h"
#include "src/cli/lines.h"
#include "src/cli/rows.h"

typedef struct options {
  const char *tokenizer;
  bool bos, special;
} options;

static const pu_option rows[] = {
    PU_ROW_TOKENIZER(options, "model", 'm', true, ""),
    PU_ROW(options, bos, "bos", BOOL, .help = "begin each line with the token that begins a text"),
    PU_ROW(options, special, "special", BOOL, .help = "special tokens written in the text become their ids"),
    {0},
};

typedef struct job {
  FILE *out;
  pu_encoder *encoder;
  unsigned flags;
  pu_ids ids;
  pu_buf text;
} job;

static pu_err print_ids(job *j, pu_error *e) {
  pu_buf_clear(&j->text);
  for (size_t i = 0; i < j->ids.n; i++) {
    /* By hand: printf would take longer than the tokenizer. */
    char digits[12];
    int n = 0;
    for (uint32_t v = (uint32_t)j->ids.v[i]; v > 0 || n == 0; v /= 10) digits[n++] = (char)('0' + v % 10);
    if (i > 0) pu_buf_putc(&j->text, ' ');
    while (n > 0) pu_buf_putc(&j->text, digits[--n]);
  }
  if (!pu_buf_putc(&j->text, '\n') || j->text.failed) return pu_fail(e, PU_ERR_NOMEM, "no memory for its ids");
  fwrite(j->text.data, 1, j->text.len, j->out);
  return PU_OK;
}

static pu_err encode_line(void *arg, pu_str line, pu_error *e) {
  job *j = arg;
  j->ids.n = 0;
  PU_TRY(pu_encoder_encode(j->encoder, line, j->flags, &j->ids, e));
  return print_ids(j, e);
}

static pu_err run(const pu_cli *cli, const void *given, int n_args, const char **args, pu_error *e) {
  const options *o = given;
  pu_tokenizer *t = NULL;
  job j = {.out = cli->out, .flags = (o->bos ? PU_ENCODE_BOS : 0) | (o->special ? PU_ENCODE_SPECIAL : 0)};
  pu_buf_init(&j.text, PU_BUF_MAX);
  pu_err err = pu_cli_tokenizer(o->tokenizer, &t, e);
  if (err == PU_OK) err = pu_encoder_create(t, &j.encoder, e);
  if (err == PU_OK) err = pu_cli_each_line(cli, n_args > 0 ? args[0] : NULL, true, encode_line, &j, e);
  pu_encoder_free(j.encoder);
  pu_tokenizer_free(t);
  pu_ids_deinit(&j.ids);
  pu_buf_deinit(&j.text);
  return err;
}

const pu_command pu_command_tokenizer_encode = {
    .name = "tokenizer encode",
    .summary = "turn lines of text into ids",
    .usage = "--model PATH [FILE] [options]",
    .details = "Each line of FILE (or of standard input) is a text of its own; its ids are printed on one line, with "
               "spaces between them.\n\nWithout --special, text that looks like a special token is ordinary text.",
    .options = rows,
    .options_size = sizeof(options),
    .max_args = 1,
    .run = run,
};
