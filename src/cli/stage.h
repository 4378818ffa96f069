/* A model directory that is written as a whole, by one run at a time. */
#ifndef PUYU_CLI_STAGE_H
#define PUYU_CLI_STAGE_H

#include "puyu/base.h"

/* The folder that a path without slashes at its end is in, "." for a bare name; NULL: the arena is spent. */
const char *pu_cli_parent(const char *path, pu_arena *a);

/* A folder beside what is written, DST.making, held by the run that writes it. */
typedef struct pu_cli_place {
  const char *dir, *lock;
  pu_claim *claim;
  bool stale; /* it is of a run that was killed */
} pu_cli_place;
/* PU_ERR_IO names the process that writes dst already. */
pu_err pu_cli_place_open(pu_cli_place *p, const char *dst, pu_arena *a, pu_error *e) PU_MUST_USE;
/* Removes the folder where nothing else was left in it. */
void pu_cli_place_close(pu_cli_place *p);

/* The directory is made in there, and changes places with dst when it is whole: so dst is at any time, a kill included,
 * what it was or what it becomes. What else lies in dst, and is no model's, is in both. */
typedef struct pu_cli_stage {
  const char *dst, *made; /* made: to be written, and not there yet */
  const char *old;        /* where dst waits on a file system that cannot exchange two folders at once */
  bool was_there, replaces;
  pu_cli_place place;
  pu_arena *a;
} pu_cli_stage;
/* replaces: a model that lies there goes, with tokenizer and all; else only its weights do, and what is made anew. From
 * here on signals are caught. */
pu_err pu_cli_stage_begin(pu_cli_stage *s, const char *dst, bool replaces, pu_arena *a, pu_error *e) PU_MUST_USE;
/* err: of what was written in between; given back. */
pu_err pu_cli_stage_end(pu_cli_stage *s, pu_err err, pu_error *e) PU_MUST_USE;

/* Names of what belongs to a model besides config.json and weights: tokenizer, chat template, settings. NULL-ended. */
extern const char *const pu_cli_companions[];

#endif
