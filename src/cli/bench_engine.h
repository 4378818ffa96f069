/* What `bench prefill` and `bench decode` share: an engine over random weights of a named shape, and the report. */
#ifndef PUYU_BENCH_ENGINE_H
#define PUYU_BENCH_ENGINE_H

#include "puyu/engine.h"
#include "src/cli/cli.h"

typedef struct pu_bench_options {
  const char *shape;
  int64_t threads, batch, seq, tokens, rounds;
  int dtype;
  bool json;
} pu_bench_options;

#define PU_BENCH_ROWS(seq_default, seq_help)                                                                           \
  {.key = "shape",                                                                                                     \
   .type = PU_OPT_STR,                                                                                                 \
   .offset = offsetof(pu_bench_options, shape),                                                                        \
   .dflt = "internlm2-1.8b",                                                                                           \
   .meta = "NAME",                                                                                                     \
   .help = "named shape"},                                                                                             \
      {.key = "threads",                                                                                               \
       .type = PU_OPT_INT,                                                                                             \
       .offset = offsetof(pu_bench_options, threads),                                                                  \
       .max = 64,                                                                                                      \
       .meta = "N",                                                                                                    \
       .help = "threads; 0: all processors"},                                                                          \
      {.key = "batch",                                                                                                 \
       .type = PU_OPT_INT,                                                                                             \
       .offset = offsetof(pu_bench_options, batch),                                                                    \
       .dflt = "1",                                                                                                    \
       .min = 1,                                                                                                       \
       .max = 1024,                                                                                                    \
       .meta = "N",                                                                                                    \
       .help = "sequences at once"},                                                                                   \
      {.key = "seq",                                                                                                   \
       .type = PU_OPT_INT,                                                                                             \
       .offset = offsetof(pu_bench_options, seq),                                                                      \
       .dflt = (seq_default),                                                                                          \
       .min = 1,                                                                                                       \
       .max = 1 << 20,                                                                                                 \
       .meta = "N",                                                                                                    \
       .help = (seq_help)},                                                                                            \
      {.key = "dtype",                                                                                                 \
       .type = PU_OPT_ENUM,                                                                                            \
       .offset = offsetof(pu_bench_options, dtype),                                                                    \
       .dflt = "bf16",                                                                                                 \
       .choices = "bf16|f32",                                                                                          \
       .help = "type of weights and cache"},                                                                           \
      {.key = "rounds",                                                                                                \
       .type = PU_OPT_INT,                                                                                             \
       .offset = offsetof(pu_bench_options, rounds),                                                                   \
       .dflt = "3",                                                                                                    \
       .min = 1,                                                                                                       \
       .max = 1000,                                                                                                    \
       .meta = "N",                                                                                                    \
       .help = "how often it is measured; the best counts"},                                                           \
  {                                                                                                                    \
    .key = "json", .type = PU_OPT_BOOL, .offset = offsetof(pu_bench_options, json), .help = "one JSON object"          \
  }

typedef struct pu_bench_engine {
  pu_backend *be;
  pu_model *m;
  pu_engine *en;
  pu_session **sessions; /* [batch] */
  int64_t batch;
  size_t matrix_bytes; /* weights a step reads: all but the input embedding, of which it reads a few rows */
} pu_bench_engine;

/* length: tokens each session may hold. */
pu_err pu_bench_engine_open(const pu_bench_options *o, int64_t length, pu_bench_engine *b, pu_error *e) PU_MUST_USE;
void pu_bench_engine_close(pu_bench_engine *b);
/* Starts all sessions anew: a prompt of seq random ids each, and an answer of `tokens`. */
pu_err pu_bench_engine_start(pu_bench_engine *b, int64_t seq, int64_t tokens, pu_error *e) PU_MUST_USE;

/* The result: a figure, the limit it is held against, both in `unit`. limit 0: none on this machine. */
typedef struct pu_bench_result {
  const char *what;       /* "prefill" */
  double tok_per_s, mark; /* mark 0: none for these settings */
  double rate, limit;     /* what was reached, and what the machine can do */
  double ratio_mark;      /* share of the limit that is wanted; 0: none */
  const char *unit, *limit_is;
  double scale; /* of rate and limit for the table: 1e9 and "GB/s" */
} pu_bench_result;
void pu_bench_engine_print(FILE *out, const pu_bench_options *o, const pu_bench_engine *b, const pu_bench_result *r);

#endif
