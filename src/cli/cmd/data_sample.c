/* Documents of a stage, to look at, or all of them, as a file. */
#include "src/cli/pipeline.h"

#include <math.h>

typedef struct options {
  const char *dropped;
  int64_t n, seed, width;
  bool all, json;
} options;

static const pu_option rows[] = {
    PU_ROW(options, n, "n", INT, .letter = 'n', .dflt = "5", .min = 1, .max = 10000, .meta = "N",
           .help = "how many, spread over the whole"),
    PU_ROW(options, all, "all", BOOL, .help = "all of them, in their order, as JSON Lines"),
    PU_ROW(options, dropped, "dropped", STR, .meta = "RULE",
           .help =
               "those that this rule dropped in this stage (its name or the beginning of one; \"\" for any), not those "
               "that are in"),
    PU_ROW_SEED(options, "another seed, other documents"),
    PU_ROW(options, width, "bytes", INT, .dflt = "600", .min = 1, .max = 1e9, .meta = "N",
           .help = "how much of each is shown"),
    PU_ROW(options, json, "json", BOOL, .help = "print JSON Lines, with the whole text"),
    {0},
};

typedef struct printing {
  const options *in;
  FILE *out;
  pu_buf line;
} printing;

static void put(pu_buf *b, const char *key, pu_str value) {
  if (value.len == 0) return;
  pu_buf_printf(b, ", \"%s\": ", key);
  pu_buf_json_str(b, value);
}

static void as_json(printing *p, const pu_kept *d) {
  pu_buf *b = &p->line;
  pu_buf_clear(b);
  pu_buf_puts(b, "{\"id\": ");
  pu_buf_json_str(b, d->id);
  pu_buf_puts(b, ", \"content\": ");
  pu_buf_json_str(b, d->text);
  put(b, "source", d->source);
  put(b, "lang", d->lang);
  put(b, "url", d->url);
  put(b, "title", d->title);
  if (d->rule) put(b, "dropped", pu_str_c(d->rule));
  if (d->rule && isfinite(d->value)) pu_buf_printf(b, ", \"value\": %g", d->value);
  pu_buf_puts(b, "}\n");
}

static void as_text(printing *p, const pu_kept *d) {
  pu_buf *b = &p->line;
  size_t len = PU_MIN(d->text.len, (size_t)p->in->width);
  while (len < d->text.len && len > 0 && ((unsigned char)d->text.ptr[len] & 0xC0) == 0x80) len--;
  pu_buf_clear(b);
  pu_buf_puts(b, "--- ");
  pu_buf_append(b, d->id.ptr, d->id.len);
  if (d->lang.len) pu_buf_printf(b, " [%.*s]", (int)d->lang.len, d->lang.ptr);
  if (d->rule) pu_buf_printf(b, " %s", d->rule);
  if (d->rule && isfinite(d->value)) pu_buf_printf(b, " = %g", d->value);
  pu_buf_putc(b, '\n');
  pu_buf_append(b, d->text.ptr, len);
  pu_buf_puts(b, len < d->text.len ? "…\n\n" : "\n\n");
}

static pu_err print_one(void *arg, const pu_kept *d, pu_error *e) {
  printing *p = arg;
  if (p->in->all || p->in->json)
    as_json(p, d);
  else
    as_text(p, d);
  if (p->line.failed) return pu_fail(e, PU_ERR_NOMEM, "no memory for a document");
  if (fwrite(p->line.data, 1, p->line.len, p->out) != p->line.len) return pu_fail(e, PU_ERR_IO, "standard output: %m");
  return PU_OK;
}

static pu_err run(const pu_cli *cli, const void *given, int n_args, const char **args, pu_error *e) {
  (void)n_args;
  const options *in = given;
  printing p = {.in = in, .out = cli->out};
  pu_buf_init(&p.line, PU_BUF_MAX);
  pu_err err = pu_data_each(args[0], in->dropped, in->all ? 0 : in->n, (uint64_t)in->seed, print_one, &p, e);
  pu_buf_deinit(&p.line);
  return err;
}

const pu_command pu_command_data_sample = {
    .name = "data sample",
    .summary = "show documents of a stage, or what a rule dropped",
    .usage = "STAGE [options]",
    .details = "With --all it writes what is left in the stage, as JSON Lines:\n"
               "  puyu data sample STAGE --all | zstd > corpus.jsonl.zst\n",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
