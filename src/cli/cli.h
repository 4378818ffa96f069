/* The command line. A command is one file in src/cli/cmd/ that defines one descriptor; its option table makes the
 * flags, --help, the man page and the completion. Commands print results to cli->out and return errors: only
 * pu_cli_main turns those into messages and exit statuses (0; 1 failure; 2 PU_ERR_USAGE: the command line itself is
 * wrong. A file that is missing, empty or not what it should be is a failure, also where the command line names it).
 *
 * A file cmd/data_synth.c defines `const pu_command pu_command_data_synth` with the name "data synth"; `puyu data`
 * then lists every command whose name begins with "data ".
 *
 * Signals. SIGPIPE is ignored: a long loop that prints ends when ferror(cli->out) says so. SIGINT and SIGTERM end the
 *          process as any program, silently (the shell shows 130 or 143), as long as nothing is lost with it: while
 *          weights are read, and in commands that only print. From where a command writes files, it catches them with
 *          pu_signals_catch_writing (or pu_signals_catch, and asks pu_signals_stop): it removes what is half-written,
 *          says "stopped; nothing was written" and ends with status 1. A second signal ends it at once. */
#ifndef PUYU_CLI_H
#define PUYU_CLI_H

#include "puyu/base.h"

typedef struct pu_cli {
  pu_arena *arena; /* lives as long as the process: strings of options, whatever a command wants to keep */
  FILE *in;        /* standard input */
  FILE *out;       /* standard output: results only. Messages go through pu_log to standard error */
  const struct pu_command *command;
  const bool *given; /* by row of the command's options: a flag set it */
} pu_cli;

typedef struct pu_command {
  const char *name;         /* "train", "data synth" */
  const char *summary;      /* one line that begins small, no full stop */
  const char *usage;        /* what follows the name: "MODEL [PROMPT] [options]" */
  const char *details;      /* for --help and the man page: paragraphs with an empty line between; NULL for none */
  void (*more)(pu_buf *b);  /* adds paragraphs to details: what only the program knows; NULL for none */
  const pu_option *options; /* ends with a row without a key; NULL for none. Keys are flags: "max-tokens" */
  size_t options_size;      /* of the struct that options fill */
  const pu_option *config;  /* the keys of the YAML file the command reads, for --help and the man page; or NULL */
  int min_args, max_args;   /* positional arguments; max -1: any number */
  /* options: the filled struct. args: the positional arguments (key=value overrides are among them). */
  pu_err (*run)(const pu_cli *cli, const void *options, int n_args, const char **args, pu_error *e);
} pu_command;

extern const pu_command *const pu_command_all[]; /* generated from the folder; NULL at the end, sorted by file name */

int pu_cli_main(int argc, char **argv); /* the exit status */

/* For commands that take FILE.yaml [key=value …]: defaults, the file (NULL: none), the overrides, then the check. */
pu_err pu_cli_read_config(const pu_option *table, void *out, const char *path, int n, const char **overrides,
                          pu_arena *a, pu_error *e) PU_MUST_USE;

/* ---- what the tables say: for --help, man and completion -------------------------------------------------------- */

/* The command of that name, or NULL. */
const pu_command *pu_cli_find(const char *name);
/* True where commands named "WORD …" exist. */
bool pu_cli_is_group(const char *word);
void pu_cli_print_overview(FILE *out, const char *group); /* group NULL: all commands */
void pu_cli_print_help(FILE *out, const pu_command *c);
void pu_cli_details(const pu_command *c, pu_buf *b); /* into an initialised buffer */
/* What stands for the value: "N", "FILE", "f32|bf16"; "" for a flag that takes none. */
const char *pu_cli_meta(const pu_option *row);
/* The help line with range and default, "the most tokens (1..4096, default 256)". */
void pu_cli_describe(const pu_option *row, char *dst, size_t size);
/* "--[no-]" for a flag that is on unless turned off, else "--". */
const char *pu_cli_dashes(const pu_option *row);

/* ---- inside ----------------------------------------------------------------------------------------------------- */

typedef struct pu_cli_line {
  void *options;
  const bool *given; /* by row of the table */
  const char **args;
  int n_args;
  bool help;
} pu_cli_line;

/* Reads the words after the command's name: flags anywhere, `--` ends them. */
pu_err pu_cli_parse(const pu_command *c, int n, char **words, pu_arena *a, pu_cli_line *out, pu_error *e) PU_MUST_USE;

#endif
