/* What the commands of the data pipeline share: how a step runs, where its input is, what it did. */
#ifndef PUYU_CLI_PIPELINE_H
#define PUYU_CLI_PIPELINE_H

#include "puyu/data.h"
#include "src/cli/cli.h"
#include "src/cli/rows.h"

typedef struct pu_cli_step {
  int64_t threads;
  double memory; /* GiB */
  bool force, json;
} pu_cli_step;
#define PU_CLI_STEP_ROWS(holder, in)                                                                                   \
  PU_ROW(holder, in.threads, "threads", INT, .dflt = "0", .max = 1024, .meta = "N",                                    \
         .help = "threads to use; 0: one for each processor"),                                                         \
      PU_ROW(holder, in.force, "force", BOOL,                                                                          \
             .help = "begin anew where a run with other options or input began; without it such a folder is refused"), \
      PU_ROW(holder, in.json, "json", BOOL, .help = "print one JSON object, for programs")
/* For steps that sort. */
#define PU_CLI_MEMORY_ROW(holder, in)                                                                                  \
  PU_ROW(holder, in.memory, "memory", FLOAT, .dflt = "0", .max = 1e6, .meta = "GIB",                                   \
         .help = "most memory that sorting may take; 0: half of what is free")

/* The filter normalise. */
#define PU_CLI_NORMALISE_ROWS(holder, in)                                                                              \
  PU_ROW(holder, in.width, "width", ENUM, .dflt = "keep", .choices = "keep|half",                                      \
         .help = "full-width letters and digits (filter normalise)"),                                                  \
      PU_ROW(holder, in.han, "han", ENUM, .dflt = "keep", .choices = "keep|simplified|traditional",                    \
             .help = "Chinese characters: as they are, or folded to one script (filter normalise)"),                   \
      PU_ROW(holder, in.nfkc, "nfkc", BOOL, .dflt = "true",                                                            \
             .help = "compose characters where nothing is lost (filter normalise)")

/* Files and folders as one source, or a stage. */
typedef struct pu_cli_input {
  const char *name, *format, *key, *charset;
  int split, html;
} pu_cli_input;
#define PU_CLI_INPUT_ROWS(holder, in)                                                                                  \
  PU_ROW(holder, in.name, "name", STR, .dflt = "text", .meta = "NAME",                                                 \
         .help = "the source's name, in ids and shares (files only, as the next five)"),                               \
      PU_ROW(holder, in.format, "format", STR, .dflt = "auto", .meta = "NAME",                                         \
             .help = "how to read the files; auto: by each file's name and first bytes"),                              \
      PU_ROW(holder, in.key, "key", STR, .meta = "NAME", .help = "where the text stands in JSON objects"),             \
      PU_ROW(holder, in.charset, "charset", STR, .meta = "NAME",                                                       \
             .help = "what the bytes of the text are in; found out unless given"),                                     \
      PU_ROW(holder, in.split, "split", ENUM, .dflt = "file", .choices = "file|blank|line",                            \
             .help = "what a document is in plain text: the file, the lines up to a blank one, or each line"),         \
      PU_ROW(holder, in.html, "html", ENUM, .dflt = "auto", .choices = "auto|article|forum|all",                       \
             .help = "what is taken of web pages: the main text, the posts, or all that is shown")

/* How shards are made: members of the holder, for pu_cli_tokenize_options. */
typedef struct pu_cli_shards {
  int64_t tokens;
  bool bos, eos, internevo;
} pu_cli_shards;
#define PU_CLI_SHARDS_ROWS(holder, in)                                                                                 \
  PU_ROW(holder, in.tokens, "shard-tokens", INT, .dflt = "268435456", .min = 1, .max = 1e15, .meta = "N",              \
         .help = "tokens in one file at most"),                                                                        \
      PU_ROW(holder, in.bos, "bos", BOOL, .dflt = "true",                                                              \
             .help = "begin each document with the token that begins a text"),                                         \
      PU_ROW(holder, in.eos, "eos", BOOL, .dflt = "true",                                                              \
             .help = "end each document with the token that ends a text"),                                             \
      PU_ROW(holder, in.internevo, "internevo", BOOL, .help = "write InternEvo's .bin and .bin.meta instead of .pub")
pu_tokenize_options pu_cli_tokenize_options(const pu_cli_shards *in, const pu_tokenizer *t, double valid_fraction);
void pu_cli_print_shards(FILE *out, const pu_tokenize_result *r, bool json);

/* Threads, rank (from mpirun's or srun's environment) and a progress bar, for as long as a step runs. */
typedef struct pu_cli_running {
  pu_data_how how;
  pu_progress *bar;
  const char *step; /* what the bar is of */
} pu_cli_running;
pu_err pu_cli_step_begin(const pu_cli_step *in, pu_cli_running *r, pu_error *e) PU_MUST_USE;
void pu_cli_step_end(pu_cli_running *r);
/* One line, or JSON, on what a step left in DIR. Rank 0 only. */
void pu_cli_step_print(const pu_cli *cli, const pu_cli_running *r, const char *dir, const pu_data_result *result,
                       bool json);

/* Passes files, or the one stage that args name, through filters into DIR. */
pu_err pu_cli_clean(const pu_cli *cli, const char *dir, int n_args, const char **args, const pu_cli_input *input,
                    const pu_clean_options *o, const pu_cli_step *step, pu_error *e) PU_MUST_USE;

#endif
