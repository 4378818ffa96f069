/* The flags that say what an answer must fit, for the commands that generate. */
#ifndef PUYU_CLI_STRUCTURE_H
#define PUYU_CLI_STRUCTURE_H

#include "puyu/engine.h"

typedef struct pu_cli_structure {
  const char *json_schema, *regex, *grammar;
} pu_cli_structure;

/* Rows of an option table; `in` is the pu_cli_structure inside the command's struct `holder`. */
#define PU_STRUCTURE_ROWS(holder, in)                                                                                  \
  PU_STRUCTURE_ROW(holder, in.json_schema, "json-schema", "FILE", "the answer is JSON that fits this JSON Schema"),    \
      PU_STRUCTURE_ROW(holder, in.regex, "regex", "RE", "the whole answer fits this regular expression"),              \
      PU_STRUCTURE_ROW(holder, in.grammar, "grammar", "FILE", "the answer fits this GBNF grammar")
#define PU_STRUCTURE_ROW(of, field, name, stands, says)                                                                \
  { .key = (name), .type = PU_OPT_STR, .offset = offsetof(of, field), .meta = (stands), .help = (says) }

/* *out NULL: none of the flags was given. */
pu_err pu_cli_structure_compile(const pu_cli_structure *o, pu_engine *en, pu_grammar **out, pu_error *e) PU_MUST_USE;

#endif
