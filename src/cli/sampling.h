/* The flags that say how tokens are chosen, for the commands that generate. */
#ifndef PUYU_CLI_SAMPLING_H
#define PUYU_CLI_SAMPLING_H

#include "puyu/engine.h"

typedef struct pu_cli_sampling {
  double temperature, top_p, min_p, repetition, presence, frequency;
  int64_t top_k, seed, max_tokens;
  pu_strs stop;
} pu_cli_sampling;

/* Rows of an option table; `in` is the pu_cli_sampling inside the command's struct `holder`. */
#define PU_SAMPLING_ROWS(holder, in, default_temperature, default_top_p, default_tokens)                               \
  PU_SAMPLING_ROW(holder, in.max_tokens, "max-tokens", PU_OPT_INT, default_tokens, 0, 1e9, "N",                        \
                  "tokens of an answer at most; 0: to the end of the context"),                                        \
      PU_SAMPLING_ROW(holder, in.temperature, "temperature", PU_OPT_FLOAT, default_temperature, 0, 100, "T",           \
                      "0: always the likeliest token; above 1: more varied"),                                          \
      PU_SAMPLING_ROW(holder, in.top_k, "top-k", PU_OPT_INT, "0", 0, 1e9, "N",                                         \
                      "only among the N likeliest tokens; 0: all"),                                                    \
      PU_SAMPLING_ROW(holder, in.top_p, "top-p", PU_OPT_FLOAT, default_top_p, 1e-6, 1, "P",                            \
                      "only among the likeliest tokens that have this share of the probability"),                      \
      PU_SAMPLING_ROW(holder, in.min_p, "min-p", PU_OPT_FLOAT, "0", 0, 1, "P",                                         \
                      "only tokens at least P times as likely as the likeliest"),                                      \
      PU_SAMPLING_ROW(holder, in.repetition, "repetition-penalty", PU_OPT_FLOAT, "1", 0.01, 100, "R",                  \
                      "above 1: tokens seen before are less likely"),                                                  \
      PU_SAMPLING_ROW(holder, in.presence, "presence-penalty", PU_OPT_FLOAT, "0", -100, 100, "X",                      \
                      "taken from the logit of a token generated before"),                                             \
      PU_SAMPLING_ROW(holder, in.frequency, "frequency-penalty", PU_OPT_FLOAT, "0", -100, 100, "X",                    \
                      "the same for each time it was generated"),                                                      \
      PU_SAMPLING_ROW(holder, in.seed, "seed", PU_OPT_INT, "1", 0, 9e15, "N", "the same seed draws the same tokens"),  \
  {                                                                                                                    \
    .key = "stop", .type = PU_OPT_STRS, .offset = offsetof(holder, in.stop), .meta = "TEXT",                           \
    .help = "end the answer before this text"                                                                          \
  }
#define PU_SAMPLING_ROW(of, field, name, kind, text, least, most, stands, says)                                        \
  {                                                                                                                    \
    .key = (name), .type = (kind), .offset = offsetof(of, field), .dflt = (text), .min = (least), .max = (most),       \
    .meta = (stands), .help = (says)                                                                                   \
  }

/* As the engine wants it; the strings stay the options'. */
pu_sampling pu_cli_sampling_get(const pu_cli_sampling *o);

#endif
