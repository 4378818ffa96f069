/* Turns that a person types or a pipe brings, and commands among them that begin with a slash: what `chat` and `agent`
 * share. */
#ifndef PUYU_TURNS_H
#define PUYU_TURNS_H

#include "src/cli/cli.h"

typedef struct pu_turns {
  FILE *in, *out;
  bool typed; /* by a person, at a terminal */
  bool asks;  /* who also sees the output there: prompts are shown */
  pu_buf line, turn;
} pu_turns;

void pu_turns_init(pu_turns *t, FILE *in, FILE *out);
void pu_turns_deinit(pu_turns *t);
/* For a person: Ctrl-C is caught, so that it stops an answer (SIGTERM still ends the program). */
void pu_turns_catch(pu_turns *t);
/* A turn into t->turn: a line; several lines where each but the last ends with a backslash, or between triple quotes.
 * False: the input is over, or (see pu_turns_end) too long. */
bool pu_turns_read(pu_turns *t);
/* After that: an error where a turn was too long. */
pu_err pu_turns_end(const pu_turns *t, pu_error *e) PU_MUST_USE;

typedef struct pu_turn_command {
  const char *name, *argument, *help; /* "/save", " FILE" or "" */
  pu_err (*run)(void *arg, const char *argument, pu_error *e);
} pu_turn_command;
/* Runs the command that t->turn is; one that fails says why, and the talk goes on. The table ends with a row of zeros.
 */
void pu_turns_run(const pu_turns *t, const pu_turn_command *table, void *arg);
/* A line each, and how several lines are typed. */
void pu_turns_help(const pu_turns *t, const pu_turn_command *table);

#endif
