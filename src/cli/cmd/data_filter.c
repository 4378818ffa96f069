/* Documents through filters. */
#include "src/cli/pipeline.h"

#include <math.h>

typedef struct options {
  const char *out;
  pu_strs filters, bounds;
  pu_filter_options filter;
  bool again, list;
  pu_cli_input input;
  pu_cli_step step;
} options;

static const pu_option rows[] = {
    PU_ROW(options, out, "out", STR, .meta = "DIR", .letter = 'o', .help = "where the stage goes"),
    PU_ROW(options, filters, "filter", STRS, .meta = "NAME",
           .help = "a filter or a preset of several; the flag repeats, they run in this order"),
    PU_ROW(options, bounds, "bound", STRS, .meta = "BOUND",
           .help = "a bound that differs from the published one: gopher_quality.words.min=20; the flag repeats"),
    PU_ROW(options, again, "again", BOOL,
           .help = "apply --bound to the values that an earlier filtering left, without reading text"),
    PU_ROW(options, list, "list", BOOL, .help = "show filters, what they measure, their bounds, and presets"),
    PU_ROW(options, filter.languages, "language", STRS, .meta = "CODE",
           .help = "a language that stays (filter language); the flag repeats; none given: all"),
    PU_ROW(options, filter.domains, "domains", STRS, .meta = "FILE",
           .help = "domains, one a line, whose documents go (filter domains)"),
    PU_ROW(options, filter.words, "words", STRS, .meta = "FILE",
           .help = "words and phrases, one a line, to count (filter words)"),
    PU_CLI_NORMALISE_ROWS(options, filter),
    PU_ROW(options, filter.mask, "mask", BOOL, .dflt = "true",
           .help = "replace personal data; else it is only counted (filter mask)"),
    PU_CLI_INPUT_ROWS(options, input),
    PU_CLI_STEP_ROWS(options, step),
    {0},
};

static void print_bound(FILE *out, double v, const char *none) {
  if (isfinite(v))
    fprintf(out, "%g", v);
  else
    fputs(none, out);
}

static void print_filters(FILE *out) {
  const char *name, *summary;
  const pu_measure *m;
  for (size_t i = 0; pu_filter_at(i, &name, &summary, &m); i++) {
    fprintf(out, "%s: %s\n", name, summary);
    for (; m->name; m++) {
      fprintf(out, "  %-28s ", m->name);
      print_bound(out, m->min, "any");
      fputs(" to ", out);
      print_bound(out, m->max, "any");
      fprintf(out, "  %s\n", m->help);
    }
  }
  fputs("\npresets\n", out);
  for (const pu_filter_preset *p = pu_filter_presets(); p->name; p++)
    fprintf(out, "  %-12s %s: %s%s%s\n", p->name, p->summary, p->filters, p->changes ? "; " : "",
            p->changes ? p->changes : "");
}

static pu_err again(const pu_cli *cli, const options *in, const char *of, pu_error *e) {
  pu_cli_running running;
  pu_data_result result;
  pu_err err = pu_cli_step_begin(&in->step, &running, e);
  if (err == PU_OK) err = pu_clean_apply(in->out, of, &in->bounds, &running.how, &result, e);
  pu_cli_step_end(&running);
  if (err == PU_OK) pu_cli_step_print(cli, &running, in->out, &result, in->step.json);
  return err;
}

static pu_err run(const pu_cli *cli, const void *given, int n_args, const char **args, pu_error *e) {
  const options *in = given;
  if (in->list) return print_filters(cli->out), PU_OK;
  if (!in->out || n_args == 0)
    return pu_fail(e, PU_ERR_USAGE, "give --out DIR and what to read; or --list to see the filters");
  if (in->again) return n_args == 1 ? again(cli, in, args[0], e) : pu_fail(e, PU_ERR_USAGE, "--again takes one stage");
  if (in->filters.n == 0) return pu_fail(e, PU_ERR_USAGE, "name a --filter, or several; --list shows them");
  const pu_clean_options o = {.filters = in->filters, .bounds = in->bounds, .filter = in->filter};
  return pu_cli_clean(cli, in->out, n_args, args, &in->input, &o, &in->step, e);
}

const pu_command pu_command_data_filter = {
    .name = "data filter",
    .summary = "clean, measure and drop documents by rules",
    .usage = "--out DIR --filter NAME... (STAGE | FILE...) [options]",
    .details = "Every value is kept beside the documents, and every drop is listed with its rule, value and bound. "
               "--again makes another stage from the same values with other bounds.\n\n"
               "A run that was stopped goes on where it was when the same command is given again.",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 0,
    .max_args = -1,
    .run = run,
};
