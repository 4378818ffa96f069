/* Options that several commands have: one name, one meaning, one help line. A command's table is made of these and of
 * PU_ROWs of its own. `holder` is the struct that options fill; its member is called as the flag is. */
#ifndef PUYU_CLI_ROWS_H
#define PUYU_CLI_ROWS_H

#include "puyu/engine.h"

#define PU_ROW_OUT(holder, stands, says)                                                                               \
  PU_ROW(holder, out, "out", STR, .meta = (stands), .letter = 'o', .required = true, .help = (says))
#define PU_ROW_FORCE(holder, says) PU_ROW(holder, force, "force", BOOL, .help = (says))
#define PU_ROW_JSON(holder)        PU_ROW(holder, json, "json", BOOL, .help = "print one JSON object, for programs")
#define PU_ROW_SEED(holder, says)                                                                                      \
  PU_ROW(holder, seed, "seed", INT, .dflt = "1", .max = 1e15, .meta = "N", .help = (says))
#define PU_ROW_THREADS(holder, most)                                                                                   \
  PU_ROW(holder, threads, "threads", INT, .dflt = "0", .max = (most), .meta = "N",                                     \
         .help = "threads to use; 0: one for each processor")

#define PU_ROW_DEVICE(holder, member)                                                                                  \
  PU_ROW(holder, member, "device", STR, .dflt = "auto", .meta = "NAME",                                                \
         .help =                                                                                                       \
             "where to compute: cpu, or a plug-in such as cuda; auto: what the variable PUYU_DEVICE names, else a "    \
             "GPU where there is one, else the processor")

/* ---- models ---- */

#define PU_ROW_SHAPE(holder, usual)                                                                                    \
  PU_ROW(holder, shape, "shape", STR, .dflt = (usual), .meta = "NAME",                                                 \
         .help = "sizes of the model; `puyu init --help` lists the names")
#define PU_ROW_DTYPE(holder, list, usual, says)                                                                        \
  PU_ROW(holder, dtype, "dtype", ENUM, .dflt = (usual), .choices = (list), .help = (says))
/* Its number is a pu_quant. */
#define PU_ROW_QUANT(holder, member)                                                                                   \
  PU_ROW(holder, member, "quant", ENUM, .dflt = "file", .choices = "file|none|q8|q4|fp8|int8",                         \
         .help =                                                                                                       \
             "bits of the matrices: as the file has them (file), those of the compute type (none), or 8 or 4 for "     \
             "what the file does not have in few bits; fp8, int8: 8, and so what they are multiplied with (for GPUs)")
/* Its number is a pu_kv_type. */
#define PU_ROW_KV_DTYPE(holder, member)                                                                                \
  PU_ROW(holder, member, "kv-dtype", ENUM, .dflt = "auto", .choices = "auto|bf16|int8|int4",                           \
         .help = "type of keys and values in the cache; auto: the type to compute in. int8 takes half of what bf16 "   \
                 "does, int4 a quarter")
/* The shape of that name; an unknown one is an error that lists all. */
pu_err pu_cli_shape(const char *name, const pu_shape **out, pu_error *e) PU_MUST_USE;

/* The family of that name; an unknown one is an error that lists all. */
pu_err pu_cli_arch(const char *name, const pu_arch **out, pu_error *e) PU_MUST_USE;

/* ---- texts and tokenizers ---- */

/* name: "tokenizer", or "model" where a tokenizer is what the command works on. */
#define PU_ROW_TOKENIZER(holder, name, first, needed, otherwise)                                                       \
  PU_ROW(holder, tokenizer, name, STR, .meta = "PATH", .letter = (first), .required = (needed),                        \
         .help = "tokenizer.json, tokenizer.model, a folder that holds one, or a GGUF file" otherwise)
/* From any of these. */
pu_err pu_cli_tokenizer(const char *path, pu_tokenizer **out, pu_error *e) PU_MUST_USE;
#define PU_ROW_KEY(holder)                                                                                             \
  PU_ROW(holder, key, "key", STR, .meta = "NAME",                                                                      \
         .help = "where the text stands in an object of JSON Lines; without it, under content or text")
#define PU_ROW_VALID(holder, usual, most, says)                                                                        \
  PU_ROW(holder, valid_fraction, "valid-fraction", FLOAT, .dflt = (usual), .max = (most), .meta = "SHARE",             \
         .help = (says))

/* ---- benchmarks ---- */

#define PU_ROW_BATCH(holder, usual)                                                                                    \
  PU_ROW(holder, batch, "batch", INT, .dflt = (usual), .min = 1, .max = 4096, .meta = "N",                             \
         .help = "sequences computed at once")
#define PU_ROW_SEQ(holder, least, usual, says)                                                                         \
  PU_ROW(holder, seq, "seq", INT, .dflt = (usual), .min = (least), .max = 1 << 20, .meta = "N", .help = (says))
#define PU_ROW_ROUNDS(holder, usual)                                                                                   \
  PU_ROW(holder, rounds, "rounds", INT, .dflt = (usual), .min = 1, .max = 10000, .meta = "N",                          \
         .help = "how often it is measured; the fastest counts")

#endif
