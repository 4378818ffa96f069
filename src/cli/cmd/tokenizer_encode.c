/* Text to ids, line by line. */
#include "puyu/text.h"
#include "src/cli/cli.h"
#include "src/cli/rows.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct options {
  const char *tokenizer;
  bool bos, special;
} options;

static const pu_option rows[] = {
    PU_ROW_TOKENIZER(options, true, ""),
    PU_ROW(options, bos, "bos", BOOL, .help = "begin each line with the token that begins a text"),
    PU_ROW(options, special, "special", BOOL, .help = "special tokens written in the text become their ids"),
    {0},
};

static pu_err print_ids(FILE *out, const pu_ids *ids, pu_buf *line, pu_error *e) {
  pu_buf_clear(line);
  for (size_t i = 0; i < ids->n; i++) {
    /* By hand: printf would take longer than the tokenizer. */
    char digits[12];
    int n = 0;
    for (uint32_t v = (uint32_t)ids->v[i]; v > 0 || n == 0; v /= 10) digits[n++] = (char)('0' + v % 10);
    if (i > 0) pu_buf_putc(line, ' ');
    while (n > 0) pu_buf_putc(line, digits[--n]);
  }
  if (!pu_buf_putc(line, '\n') || line->failed) return pu_fail(e, PU_ERR_NOMEM, "no memory for a line of ids");
  fwrite(line->data, 1, line->len, out);
  return PU_OK;
}

static pu_err encode_lines(const pu_cli *cli, FILE *in, const char *name, pu_encoder *enc, unsigned flags,
                           pu_error *e) {
  char *text = NULL;
  size_t cap = 0;
  pu_ids ids = {0};
  pu_buf line;
  pu_buf_init(&line, PU_BUF_MAX);
  pu_err err = PU_OK;
  for (ssize_t n; err == PU_OK && !ferror(cli->out) && (n = getline(&text, &cap, in)) >= 0;) {
    if (n > 0 && text[n - 1] == '\n') n--;
    ids.n = 0;
    err = pu_encoder_encode(enc, pu_str_of(text, (size_t)n), flags, &ids, e);
    if (err == PU_OK) err = print_ids(cli->out, &ids, &line, e);
  }
  if (err == PU_OK && ferror(in)) err = pu_fail(e, PU_ERR_IO, "%s: cannot read: %s", name, strerror(errno));
  free(text);
  pu_ids_deinit(&ids);
  pu_buf_deinit(&line);
  return err;
}

static pu_err run(const pu_cli *cli, const void *given, int n_args, const char **args, pu_error *e) {
  const options *o = given;
  pu_tokenizer *t = NULL;
  pu_encoder *enc = NULL;
  FILE *in = n_args > 0 ? fopen(args[0], "rb") : cli->in;
  if (!in) return pu_fail(e, PU_ERR_IO, "%s: %s", args[0], strerror(errno));
  unsigned flags = (o->bos ? PU_ENCODE_BOS : 0) | (o->special ? PU_ENCODE_SPECIAL : 0);
  pu_err err = pu_tokenizer_load(o->tokenizer, &t, e);
  if (err == PU_OK) err = pu_encoder_create(t, &enc, e);
  if (err == PU_OK) err = encode_lines(cli, in, n_args > 0 ? args[0] : "standard input", enc, flags, e);
  pu_encoder_free(enc);
  pu_tokenizer_free(t);
  if (in != cli->in) fclose(in);
  return err;
}

const pu_command pu_command_tokenizer_encode = {
    .name = "tokenizer encode",
    .summary = "turn lines of text into ids",
    .usage = "--tokenizer PATH [FILE] [options]",
    .details = "Each line of FILE (or of standard input) is a text of its own; its ids are printed on one line, with "
               "spaces between them.\n\nWithout --special, text that looks like a special token is ordinary text.",
    .options = rows,
    .options_size = sizeof(options),
    .max_args = 1,
    .run = run,
};
