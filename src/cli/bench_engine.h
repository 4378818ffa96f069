/* What `bench prefill` and `bench decode` share: an engine over random weights of a named shape, or
 * over a file, and the report. */
#ifndef PUYU_BENCH_ENGINE_H
#define PUYU_BENCH_ENGINE_H

#include "puyu/engine.h"
#include "src/cli/cli.h"
#include "src/cli/rows.h"

typedef struct pu_bench_options {
  const char *shape, *gguf, *device;
  int64_t layers, threads, batch, seq, tokens, rounds, window, chunk;
  double repetition; /* penalty; 0: the command has none */
  int dtype, quant, kv_dtype;
  bool json;
} pu_bench_options;

#define PU_BENCH_MODEL_ROWS                                                                                            \
  PU_ROW(pu_bench_options, layers, "layers", INT, .dflt = "0", .max = 1 << 10, .meta = "N",                            \
         .help = "layers of the model of random weights; 0: as many as the shape has"),                                \
      PU_ROW(pu_bench_options, quant, "quant", ENUM, .dflt = "none", .choices = "none|q8|q4|bf16|f32|fp8|int8",        \
             .help = "bits of the matrices: 8 or 4; fp8, int8: 8, and so their inputs; bf16 and f32 set --dtype"),     \
      PU_ROW(pu_bench_options, gguf, "gguf", STR, .meta = "FILE",                                                      \
             .help = "a model instead of random weights: a GGUF file, or a directory; its matrices stay in few bits, " \
                     "and with --quant q8 or q4 the others become so"),                                                \
      PU_ROW(pu_bench_options, window, "window", INT, .dflt = "0", .max = 1 << 24, .meta = "N",                        \
             .help = "tokens that attention sees, as in models with a sliding window; 0: all"),                        \
      PU_ROW(pu_bench_options, chunk, "prefill-chunk", INT, .dflt = "0", .max = 1 << 20, .meta = "N",                  \
             .help = "prompt tokens read in a step at most; 0: 512, on a device 2048")
#define PU_BENCH_ROWS(usual_seq)                                                                                       \
  PU_ROW_SHAPE(pu_bench_options, "internlm2-1.8b"), PU_ROW_BATCH(pu_bench_options, "1"),                               \
      PU_ROW_SEQ(pu_bench_options, 1, usual_seq, "tokens of each prompt"),                                             \
      PU_ROW_DTYPE(pu_bench_options, "bf16|f32", "bf16", "type to compute in"),                                        \
      PU_ROW_KV_DTYPE(pu_bench_options, kv_dtype), PU_BENCH_MODEL_ROWS, PU_ROW_ROUNDS(pu_bench_options, "3"),          \
      PU_ROW_DEVICE(pu_bench_options, device), PU_ROW_THREADS(pu_bench_options, 64), PU_ROW_JSON(pu_bench_options)

typedef struct pu_bench_engine {
  pu_backend *be;
  pu_model *m;
  pu_engine *en;
  pu_session **sessions; /* [batch] */
  int64_t batch;
  pu_sampling how; /* of all sessions */
  pu_dtype dtype;
  pu_quant quant;
  size_t matrix_bytes; /* weights a step reads: all but the input embedding, of which it reads a few rows */
  size_t free_before;  /* of a device that has memory of its own */
} pu_bench_engine;

/* length: tokens each session may hold; shares: with a prefix cache. */
pu_err pu_bench_engine_open(const pu_bench_options *o, int64_t length, bool shares, pu_bench_engine *b,
                            pu_error *e) PU_MUST_USE;
void pu_bench_engine_close(pu_bench_engine *b);
/* Raises *limits to what a device that is no processor does now (for those pu_cpu_… are nearer to the truth: nothing
 * is done). */
pu_err pu_bench_device_limits(const pu_bench_engine *b, pu_limits *limits, pu_error *e) PU_MUST_USE;
/* The type of keys and values in the cache. */
const char *pu_bench_cache(const pu_bench_engine *b, const pu_bench_options *o);
/* "avx512, 4 threads", or what a device says of itself. */
const char *pu_bench_where(const pu_backend *be, char text[200]);
/* Two keys and their values, for an object: "device" and "isa" (null on a device), "threads". */
void pu_bench_where_json(const pu_backend *be, pu_buf *out);
/* Keys and values, for an object: "shape" or "file", what it is kept in, and where. */
void pu_bench_model_json(const pu_bench_options *o, const pu_bench_engine *b, pu_buf *out);
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
