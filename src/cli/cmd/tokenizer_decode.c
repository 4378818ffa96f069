/* Ids to text, line by line. */
#include "puyu/text.h"
#include "src/cli/lines.h"
#include "src/cli/rows.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct options {
  const char *tokenizer;
  bool skip_special;
} options;

static const pu_option rows[] = {
    PU_ROW_TOKENIZER(options, "model", 'm', true, ""),
    PU_ROW(options, skip_special, "skip-special", BOOL, .help = "leave special tokens out of the text"),
    {0},
};

/* The beginning of a word as an error may show it: what is not printable becomes '?'. */
static void show_word(const char *s, size_t len, char out[24]) {
  size_t n = PU_MIN(len, 20);
  for (size_t i = 0; i < n; i++) out[i] = (char)(s[i] >= ' ' && s[i] <= '~' ? s[i] : '?');
  memcpy(out + n, len > n ? "..." : "", len > n ? 4 : 1);
}

static pu_err read_ids(const char *s, pu_ids *ids, pu_error *e) {
  for (;;) {
    s += strspn(s, " \t\r\n");
    if (*s == 0) return PU_OK;
    char *end;
    errno = 0;
    long v = strtol(s, &end, 10);
    if (end == s || errno != 0 || v < 0 || v > INT32_MAX || !strchr(" \t\r\n", *end)) {
      char word[24];
      show_word(s, strcspn(s, " \t\r\n"), word);
      return pu_fail(e, PU_ERR_FORMAT, "\"%s\" is not an id", word);
    }
    if (!pu_ids_push(ids, (int32_t)v)) return pu_fail(e, PU_ERR_NOMEM, "no memory for its ids");
    s = end;
  }
}

typedef struct job {
  FILE *out;
  pu_tokenizer *tokenizer;
  unsigned flags;
  pu_ids ids;
  pu_buf text;
} job;

static pu_err decode_line(void *arg, pu_str line, pu_error *e) {
  job *j = arg;
  j->ids.n = 0;
  pu_buf_clear(&j->text);
  PU_TRY(read_ids(line.ptr, &j->ids, e));
  pu_err err = pu_decode(j->tokenizer, j->ids.v, j->ids.n, j->flags, &j->text, e);
  if (err == PU_ERR_USAGE) return PU_ERR_FORMAT; /* what is wrong stands in a file, not on the command line */
  if (err == PU_OK && j->text.len > 0) fwrite(j->text.data, 1, j->text.len, j->out);
  if (err == PU_OK) fputc('\n', j->out);
  return err;
}

static pu_err run(const pu_cli *cli, const void *given, int n_args, const char **args, pu_error *e) {
  const options *o = given;
  job j = {.out = cli->out, .flags = o->skip_special ? PU_DECODE_SKIP_SPECIAL : 0};
  pu_buf_init(&j.text, PU_BUF_MAX);
  pu_err err = pu_cli_tokenizer(o->tokenizer, &j.tokenizer, e);
  if (err == PU_OK) err = pu_cli_each_line(cli, n_args > 0 ? args[0] : NULL, false, decode_line, &j, e);
  pu_tokenizer_free(j.tokenizer);
  pu_ids_deinit(&j.ids);
  pu_buf_deinit(&j.text);
  return err;
}

const pu_command pu_command_tokenizer_decode = {
    .name = "tokenizer decode",
    .summary = "turn lines of ids into text",
    .usage = "--model PATH [FILE] [options]",
    .details = "Each line of FILE (or of standard input) holds the ids of one text, with spaces between them, as puyu "
               "tokenizer encode prints them. A text that holds line breaks comes out with them.",
    .options = rows,
    .options_size = sizeof(options),
    .max_args = 1,
    .run = run,
};
