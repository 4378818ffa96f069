/* Evaluation sets out of training text. */
#include "src/cli/pipeline.h"

typedef struct options {
  const char *out;
  pu_contam_options contam;
  pu_cli_step step;
} options;

static const pu_option rows[] = {
    PU_ROW_OUT(options, "DIR", "where the stage goes"),
    PU_ROW(options, contam.against, "against", STRS, .meta = "PATH",
           .help =
               "evaluation sets: a file (JSON, JSON Lines, CSV, TSV; others: an item a line), or a folder; the flag "
               "repeats"),
    PU_ROW(options, contam.mode, "mode", ENUM, .dflt = "document", .choices = PU_CONTAM_MODES_TEXT,
           .help = "drop documents that touch an item, or cut passages out"),
    PU_ROW(options, contam.ngram, "ngram", INT, .dflt = "13", .min = 5, .max = 32, .meta = "N",
           .help = "words, or characters of Chinese, of an n-gram"),
    PU_ROW(options, contam.share, "share", FLOAT, .dflt = "0.2", .max = 1, .meta = "SHARE",
           .help = "of an item's n-grams from which a text touches it; 0: one is enough"),
    PU_ROW(options, contam.near, "near", BOOL, .help = "also what is nearly an item, by MinHash"),
    PU_ROW(options, contam.similarity, "similarity", FLOAT, .dflt = "0.5", .min = 0.3, .max = 1, .meta = "SHARE",
           .help = "--near: similarity (Jaccard) from which it is"),
    PU_ROW(options, contam.common, "common", INT, .dflt = "10", .min = 1, .max = 1e9, .meta = "N",
           .help = "n-grams of more items than this are nobody's"),
    PU_ROW(options, step.memory, "memory", FLOAT, .dflt = "0", .max = 1e6, .meta = "GIB",
           .help = "most memory that the index may take; 0: half of what is free"),
    PU_CLI_STEP_ROWS(options, step),
    {0},
};

static void print_index(FILE *out, const pu_contam *c, double seconds) {
  pu_contam_about a = pu_contam_about_of(c);
  char bytes[24];
  fprintf(out, "index: %llu items of %llu records in %llu files, %llu n-grams, %s, %.1f s", (unsigned long long)a.items,
          (unsigned long long)a.records, (unsigned long long)a.files, (unsigned long long)a.ngrams,
          pu_bytes_text((size_t)a.bytes, bytes), seconds);
  if (a.templates) fprintf(out, "; %llu templates", (unsigned long long)a.templates);
  if (a.broken) fprintf(out, "; %llu broken records", (unsigned long long)a.broken);
  fputc('\n', out);
}

static pu_err make(const pu_cli *cli, const options *in, const char *stage, const pu_cli_running *running,
                   pu_data_result *result, pu_error *e) {
  pu_contam *c;
  double from = pu_now();
  PU_TRY(pu_contam_open(&in->contam, running->how.memory, &c, e));
  if (running->how.rank == 0 && !in->step.json) print_index(cli->out, c, pu_now() - from);
  pu_err err = pu_contam_run(in->out, stage, c, &running->how, result, e);
  pu_contam_close(c);
  return err;
}

static pu_err run(const pu_cli *cli, const void *given, int n_args, const char **args, pu_error *e) {
  (void)n_args;
  const options *in = given;
  pu_cli_running running;
  pu_data_result result;
  pu_err err = pu_cli_step_begin(&in->step, &running, e);
  if (err == PU_OK) err = make(cli, in, args[0], &running, &result, e);
  pu_cli_step_end(&running);
  if (err != PU_OK) return err;
  pu_cli_step_print(cli, &running, in->out, &result, in->step.json);
  if (running.how.rank == 0 && !in->step.json) fprintf(cli->out, "report: %s/contam.jsonl\n", in->out);
  return PU_OK;
}

const pu_command pu_command_data_decontaminate = {
    .name = "data decontaminate",
    .summary = "find what evaluation sets hold, and drop or cut it",
    .usage = "--out DIR --against PATH... STAGE [options]",
    .details =
        "Every string of a record is an item, looked for by its n-grams after folding of case, width, accents and "
        "punctuation. Every drop names file and number of the item, the n-gram and the share.\n\n"
        "A run that was stopped goes on where it was when the same command is given again.",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
