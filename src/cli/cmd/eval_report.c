/* What the logs of `puyu eval` say. */
#include "puyu/eval.h"

#include "src/cli/cli.h"

typedef struct options {
  const char *out;
  int format;
} options;

/* Its number is a pu_eval_form behind AUTO. */
enum { AUTO };

static const pu_option rows[] = {
    PU_ROW(options, out, "out", STR, .letter = 'o', .meta = "FILE", .help = "write it there; else it is printed"),
    PU_ROW(options, format, "format", ENUM, .dflt = "auto", .choices = "auto|table|markdown|json|html",
           .help = "auto: by the ending of --out (.html, .md, .json), else a table"),
    {0},
};

static pu_eval_form form_of(const options *o) {
  if (o->format != AUTO) return (pu_eval_form)(o->format - 1);
  if (o->out && pu_ends_with(o->out, ".html")) return PU_EVAL_HTML;
  if (o->out && pu_ends_with(o->out, ".md")) return PU_EVAL_MARKDOWN;
  return o->out && pu_ends_with(o->out, ".json") ? PU_EVAL_JSON : PU_EVAL_TABLE;
}

static pu_err run(const pu_cli *cli, const void *given, int n_args, const char **args, pu_error *e) {
  enum { MOST = 512 << 20 };
  const options *o = given;
  pu_buf b;
  pu_buf_init(&b, MOST);
  pu_err err = pu_eval_report(args, (size_t)n_args, form_of(o), &b, e);
  if (!err && o->out)
    err = pu_file_write(o->out, b.data, b.len, e);
  else if (!err)
    fwrite(b.data, 1, b.len, cli->out);
  pu_buf_deinit(&b);
  return err;
}

const pu_command pu_command_eval_report = {
    .name = "eval report",
    .summary = "make a table or page of what puyu eval has kept",
    .usage = "DIR… [options]",
    .details =
        "DIR is what --out of puyu eval was, or a folder or log below it. The page (--out FILE.html) has scores of "
        "models side by side, of each subject and by each rule, and samples to look at: of those that were "
        "wrong, right, could not be read, or were cut.",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 1,
    .max_args = -1,
    .run = run,
};
