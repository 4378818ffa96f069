/* The flags that say how tokens are chosen, for the commands that generate. */
#ifndef PUYU_CLI_SAMPLING_H
#define PUYU_CLI_SAMPLING_H

#include "puyu/engine.h"

typedef struct pu_cli_sampling {
  double temperature, top_p, min_p, typical_p, repetition, presence, frequency;
  int64_t top_k, seed, min_tokens, max_tokens;
  pu_strs stop;
} pu_cli_sampling;

/* Rows of an option table; `in` is the pu_cli_sampling inside the command's struct `holder`. */
#define PU_SAMPLING_ROWS(holder, in, default_temperature, default_top_p, default_tokens)                               \
  PU_ROW(holder, in.max_tokens, "max-tokens", INT, .dflt = (default_tokens), .max = 1e9, .meta = "N",                  \
         .help = "tokens of an answer at most; 0: to the end of the context"),                                         \
      PU_ROW(holder, in.min_tokens, "min-tokens", INT, .dflt = "0", .max = 1e9, .meta = "N",                           \
             .help = "tokens of an answer at least"),                                                                  \
      PU_ROW(holder, in.temperature, "temperature", FLOAT, .dflt = (default_temperature), .max = 100, .meta = "T",     \
             .help = "0: always the likeliest token; above 1: more varied"),                                           \
      PU_ROW(holder, in.top_k, "top-k", INT, .dflt = "0", .max = 1e9, .meta = "N",                                     \
             .help = "only among the N likeliest tokens; 0: all"),                                                     \
      PU_ROW(holder, in.top_p, "top-p", FLOAT, .dflt = (default_top_p), .min = 1e-6, .max = 1, .meta = "P",            \
             .help = "only among the likeliest tokens that have this share of the probability"),                       \
      PU_ROW(holder, in.min_p, "min-p", FLOAT, .dflt = "0", .max = 1, .meta = "P",                                     \
             .help = "only tokens at least P times as likely as the likeliest"),                                       \
      PU_ROW(holder, in.typical_p, "typical-p", FLOAT, .dflt = "1", .min = 1e-6, .max = 1, .meta = "P",                \
             .help = "only the tokens of most ordinary surprise that have this share of the probability"),             \
      PU_ROW(holder, in.repetition, "repetition-penalty", FLOAT, .dflt = "1", .min = 0.01, .max = 100, .meta = "R",    \
             .help = "above 1: tokens seen before are less likely"),                                                   \
      PU_ROW(holder, in.presence, "presence-penalty", FLOAT, .dflt = "0", .min = -100, .max = 100, .meta = "X",        \
             .help = "taken from the logit of a token generated before"),                                              \
      PU_ROW(holder, in.frequency, "frequency-penalty", FLOAT, .dflt = "0", .min = -100, .max = 100, .meta = "X",      \
             .help = "taken from it once more for each time it was generated"),                                        \
      PU_ROW(holder, in.seed, "seed", INT, .dflt = "1", .max = 9e15, .meta = "N",                                      \
             .help = "the same seed draws the same tokens"),                                                           \
      PU_ROW(holder, in.stop, "stop", STRS, .meta = "TEXT", .help = "end the answer before this text")

/* As the engine wants it; the strings stay the options'. */
pu_sampling pu_cli_sampling_get(const pu_cli_sampling *o);

#endif
