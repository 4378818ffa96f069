/* The command line. A command is one file in src/cli/cmd/ that defines one descriptor; its option table makes the
 * flags, --help, the man page and the completion. Commands print results to cli->out and return errors: only
 * pu_cli_main turns those into messages and exit statuses (0; 1 failure; 2 PU_ERR_USAGE).
 *
 * A file cmd/data_synth.c defines `const pu_command pu_command_data_synth` with the name "data synth"; `puyu data`
 * then lists every command whose name begins with "data ". */
#ifndef PUYU_CLI_H
#define PUYU_CLI_H

#include "puyu/base.h"

typedef struct pu_cli {
  pu_arena *arena; /* lives as long as the process: strings of options, whatever a command wants to keep */
  FILE *in;        /* standard input */
  FILE *out;       /* standard output: results only. Messages go through pu_log to standard error */
  const struct pu_command *command;
} pu_cli;

typedef struct pu_command {
  const char *name;    /* "train", "data synth" */
  const char *summary; /* one line, no full stop */
  const char *usage;   /* what follows the name: "MODEL [PROMPT] [options]" */
  const char *details; /* paragraphs for --help and the man page, with \n at 78 columns; NULL for none */
  const pu_option *options; /* ends with a row without a key; NULL for none. Keys are flags: "max-tokens" */
  size_t options_size;      /* of the struct that options fill */
  int min_args, max_args;   /* positional arguments; max -1: any number */
  /* options: the filled struct. args: the positional arguments (key=value overrides are among them). */
  pu_err (*run)(const pu_cli *cli, const void *options, int n_args, const char **args, pu_error *e);
} pu_command;

extern const pu_command *const pu_command_all[]; /* generated from the folder; NULL at the end, sorted by file name */

int pu_cli_main(int argc, char **argv); /* the exit status */

#endif
