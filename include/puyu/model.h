/* model: architectures as data, weights in and out, the one forward pass.
 *
 * A family (src/model/arch/NAME.c) is a description: which config keys give which hyper-parameter, which tensors exist
 * under which names and in which row order, which kinds of norm, attention, MLP and RoPE it has. There is no forward
 * function per family: pu_model_forward reads the description.
 *
 * In memory every family looks the same, whatever its files look like: q, k, v in one matrix [q heads, k heads, v
 * heads], gate and up in one [gate, up]. The description says how the file's tensors map to those rows.
 *
 * Threads: one thread at a time on a model; pu_ctx as in compute.h. */
#ifndef PUYU_MODEL_H
#define PUYU_MODEL_H

#include "puyu/compute.h"

/* ---- safetensors ---------------------------------------------------------------------------------------------------- */

/* A type that files may hold and no operation takes (BOOL, F64, F8_E4M3, …): such tensors are listed, with sizes that
 * were checked, and refused by whoever needs their values. Matrices in F8_E4M3 are loaded where config.json says how. */
#define PU_ST_OTHER PU_DTYPE_COUNT

typedef struct pu_st_tensor {
  const char *name;
  pu_dtype dtype;   /* or PU_ST_OTHER */
  const char *type; /* as the file calls it: "BF16" */
  int ndim; /* 0..4 */
  int64_t shape[PU_MAX_DIMS];
  const void *data; /* inside the mapped file, unaligned perhaps */
  size_t bytes;
} pu_st_tensor;

/* One file, or all shards of a directory (model.safetensors, or model.safetensors.index.json), mapped. Checked before
 * anything is read: header at most 64 MiB, offsets inside the file, in order, without gaps or overlap, sizes that fit
 * shape and type. Tensors are sorted by name; views live until close. */
typedef struct pu_safetensors pu_safetensors;
pu_err pu_safetensors_open(const char *file_or_dir, pu_safetensors **out, pu_error *e) PU_MUST_USE;
pu_err pu_safetensors_parse(pu_str bytes, pu_safetensors **out, pu_error *e) PU_MUST_USE; /* bytes outlive it */
void pu_safetensors_close(pu_safetensors *s);
size_t pu_safetensors_count(const pu_safetensors *s);
const pu_st_tensor *pu_safetensors_at(const pu_safetensors *s, size_t i);
const pu_st_tensor *pu_safetensors_find(const pu_safetensors *s, const char *name); /* NULL: none */
const char *pu_safetensors_meta(const pu_safetensors *s, const char *key);          /* __metadata__; NULL: none */

/* Writes one file, atomically. `read` fills buf with the tensor's bytes (so that nothing is copied whole). */
typedef struct pu_st_source {
  const char *name;
  pu_dtype dtype;
  int ndim;
  int64_t shape[PU_MAX_DIMS];
  const void *data; /* contiguous, or NULL: then read is called for pieces in order */
  pu_err (*read)(void *arg, size_t offset, void *buf, size_t len, pu_error *e);
  void *arg;
} pu_st_source;
pu_err pu_safetensors_write(const char *path, const pu_st_source *tensors, size_t n, const char *const *meta_pairs,
                            pu_error *e) PU_MUST_USE;

/* ---- GGUF --------------------------------------------------------------------------------------------------------------- */

/* llama.cpp's one-file format: metadata, then tensors, many of them quantised in blocks
 * (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Versions 2 and 3, little-endian. Checked before anything
 * is read: counts, lengths, offsets; nothing is handed out that is not inside the file. Views live until close. */
typedef struct pu_gguf pu_gguf;

/* How the values of a key are stored: the format's own numbers. */
typedef enum pu_gguf_kind {
  PU_GGUF_U8, PU_GGUF_I8, PU_GGUF_U16, PU_GGUF_I16, PU_GGUF_U32, PU_GGUF_I32, PU_GGUF_F32, PU_GGUF_BOOL, PU_GGUF_STR,
  PU_GGUF_ARRAY, PU_GGUF_U64, PU_GGUF_I64, PU_GGUF_F64, PU_GGUF_KIND_COUNT
} pu_gguf_kind;

typedef struct pu_gguf_meta {
  const char *key;
  pu_gguf_kind kind; /* of the values: never PU_GGUF_ARRAY */
  bool array;
  size_t count; /* 1, or the length of the array */
  pu_str bytes; /* in the file, unaligned: numbers one after the other; a string's text; strings with their lengths */
} pu_gguf_meta;

typedef struct pu_gguf_type pu_gguf_type; /* of a tensor's blocks */
const pu_gguf_type *pu_gguf_type_named(const char *name); /* "q4_0", "bf16"; NULL: unknown */
const char *pu_gguf_type_name(const pu_gguf_type *t);
bool pu_gguf_writable(const pu_gguf_type *t);

typedef struct pu_gguf_tensor {
  const char *name;
  const pu_gguf_type *type;
  int ndim;
  int64_t shape[PU_MAX_DIMS]; /* rows first, as everywhere here: the reverse of the file's order */
  const void *data;
  size_t bytes;
} pu_gguf_tensor;

bool pu_gguf_is(const char *path); /* a file that begins like one, or is named FILE.gguf */
pu_err pu_gguf_open(const char *path, pu_gguf **out, pu_error *e) PU_MUST_USE;
pu_err pu_gguf_parse(pu_str bytes, pu_gguf **out, pu_error *e) PU_MUST_USE; /* bytes outlive it */
void pu_gguf_close(pu_gguf *g);
size_t pu_gguf_count(const pu_gguf *g);
const pu_gguf_tensor *pu_gguf_at(const pu_gguf *g, size_t i); /* sorted by name */
const pu_gguf_tensor *pu_gguf_find(const pu_gguf *g, const char *name);
size_t pu_gguf_meta_count(const pu_gguf *g);
const pu_gguf_meta *pu_gguf_meta_at(const pu_gguf *g, size_t i); /* in the file's order */
const pu_gguf_meta *pu_gguf_meta_find(const pu_gguf *g, const char *key);
/* Value i as a number; false where the key has none such (m NULL, another kind, no item i). */
bool pu_gguf_int(const pu_gguf_meta *m, size_t i, int64_t *out); /* integers and booleans */
bool pu_gguf_num(const pu_gguf_meta *m, size_t i, double *out);  /* these and floats */
/* The text, or the first text of an array; `*at` 0 at first: a string lies behind the one before. False: no more. */
bool pu_gguf_str(const pu_gguf_meta *m, size_t *at, pu_str *out);

/* Keys on their way into a file. */
typedef struct pu_gguf_keys {
  pu_buf bytes;
  uint64_t n;
} pu_gguf_keys;
void pu_gguf_keys_init(pu_gguf_keys *k);
void pu_gguf_keys_deinit(pu_gguf_keys *k);
void pu_gguf_put_str(pu_gguf_keys *k, const char *key, pu_str value);
void pu_gguf_put_u32(pu_gguf_keys *k, const char *key, uint32_t value);
void pu_gguf_put_f32(pu_gguf_keys *k, const char *key, float value);
void pu_gguf_put_bool(pu_gguf_keys *k, const char *key, bool value);
void pu_gguf_put_strs(pu_gguf_keys *k, const char *key, const pu_str *v, size_t n);
void pu_gguf_put_f32s(pu_gguf_keys *k, const char *key, const float *v, size_t n);
void pu_gguf_put_u8s(pu_gguf_keys *k, const char *key, pu_str bytes);
void pu_gguf_put_i32s(pu_gguf_keys *k, const char *key, const int32_t *v, size_t n);

/* ---- hyper-parameters -------------------------------------------------------------------------------------------------- */

typedef enum pu_rope_kind { PU_ROPE_NONE, PU_ROPE_LINEAR, PU_ROPE_DYNAMIC, PU_ROPE_LLAMA3, PU_ROPE_YARN } pu_rope_kind;

/* Rotary position embedding with its scaling for long sequences. */
typedef struct pu_rope_params {
  pu_rope_kind kind;
  double base, factor;
  double low_freq, high_freq;  /* llama3 */
  double beta_fast, beta_slow; /* yarn: turns within original_max; above the one a frequency stays, below the other it is
                                  divided */
  double attention_factor;     /* yarn: of cosines and sines; of scores, so, its square */
  bool exact_range;            /* yarn: the frequencies between are not counted in whole numbers (truncate: false) */
  int64_t original_max;        /* llama3, yarn: original_max_position_embeddings; dynamic: max_position */
} pu_rope_params;

typedef struct pu_hparams {
  int64_t vocab, hidden, ffn, layers, heads, kv_heads, head_dim, max_position;
  int64_t experts, experts_used; /* 0: a dense MLP */
  int64_t window;                /* sliding window; 0: none */
  double norm_eps;
  bool qkv_bias, o_bias, mlp_bias, qk_norm, tied;
  bool norm_head;                /* rows of the output matrix are normalised (older InternLM2) */
  pu_rope_params rope;
  int32_t bos, eos[8];
  int n_eos;
} pu_hparams;

/* ---- families ---------------------------------------------------------------------------------------------------------- */

/* Which matrix in memory a file's tensor fills, wholly or in part. */
typedef enum pu_slot {
  PU_SLOT_EMBED, PU_SLOT_OUT_NORM, PU_SLOT_OUTPUT,             /* outer */
  PU_SLOT_ATTN_NORM, PU_SLOT_QKV, PU_SLOT_QKV_BIAS, PU_SLOT_Q_NORM, PU_SLOT_K_NORM, PU_SLOT_WO, PU_SLOT_WO_BIAS,
  PU_SLOT_MLP_NORM, PU_SLOT_GATE_UP, PU_SLOT_GATE_UP_BIAS, PU_SLOT_DOWN, PU_SLOT_DOWN_BIAS, PU_SLOT_ROUTER,
  PU_SLOT_EXPERTS_GATE_UP, PU_SLOT_EXPERTS_DOWN,
  PU_SLOT_COUNT
} pu_slot;

/* Which rows: all, one of q/k/v, gate or up, or InternLM2's interleaving of the three by KV group. PAIRS: the rows of
 * each head go 0, D/2, 1, D/2 + 1, …, so that those which RoPE turns together are neighbours (Meta's own Llama files,
 * and llama.cpp's). */
typedef enum pu_part {
  PU_PART_ALL, PU_PART_Q, PU_PART_K, PU_PART_V, PU_PART_Q_PAIRS, PU_PART_K_PAIRS, PU_PART_QKV_GROUPED, PU_PART_GATE,
  PU_PART_UP
} pu_part;

/* One row of a family's tensor list. %d in the name is the layer; a second %d the expert. */
typedef struct pu_tensor_rule {
  const char *name;
  pu_slot slot;
  pu_part part;
} pu_tensor_rule;

typedef struct pu_arch {
  const char *name;                  /* "internlm2" */
  const char *const *model_types;    /* config.json's model_type values it reads; NULL-ended */
  const char *class_name;            /* "InternLM2ForCausalLM", written into `architectures` */
  const pu_tensor_rule *tensors;     /* ends with a NULL name; a rule for a slot the hyper-parameters lack is skipped */
  const pu_tensor_rule *also_read;   /* other names a slot may have in files, never written; NULL: none */
  /* What the common keys (hidden_size, …, rope_theta, rope_scaling, rope_parameters) do not say; called after them, so it
   * may also correct their defaults. where: the file's name, for errors. Either may be NULL. */
  pu_err (*read_config)(const json_t *config, const char *where, pu_hparams *hp, pu_error *e);
  /* The other way. What cannot be said in the family's keys is found by reading the result back (pu_config_write). */
  pu_err (*write_config)(const pu_hparams *hp, json_t *config, pu_error *e);
} pu_arch;

extern const pu_arch *const pu_arch_all[];       /* made by CMake from src/model/arch, NULL-ended */
const pu_arch *pu_arch_find(const char *name);   /* by name or model_type; NULL: unknown */

/* Named shapes for random initialisation: "internlm2-1.8b", "puyu-25m", … */
typedef struct pu_shape {
  const char *name, *arch;
  pu_hparams hp;
} pu_shape;
const pu_shape *pu_shape_find(const char *name);
const pu_shape *pu_shape_at(size_t i); /* NULL past the last */

/* config.json, in either direction. */
pu_err pu_config_read(const char *path, const pu_arch **arch, pu_hparams *hp, pu_error *e) PU_MUST_USE;
pu_err pu_config_parse(pu_str text, const char *where, const pu_arch **arch, pu_hparams *hp, pu_error *e) PU_MUST_USE;
/* Has the family a place for all that the model has, and the model all that the family needs? If not: PU_ERR_UNSUPPORTED
 * that says which. `where` names the model. pu_config_write and pu_model_save ask this too, before they write. */
pu_err pu_config_check(const char *where, const pu_arch *arch, const pu_hparams *hp, pu_error *e) PU_MUST_USE;
pu_err pu_config_write(const char *path, const pu_arch *arch, const pu_hparams *hp, pu_dtype dtype, pu_error *e)
    PU_MUST_USE;

/* Of whatever pu_model_load reads: config.json of a directory (its weights may be missing), or a GGUF file's metadata. */
pu_err pu_model_describe(const char *path, const pu_arch **arch, pu_hparams *hp, pu_error *e) PU_MUST_USE;

/* Are all tensors that the family needs in the files, of the right shapes, and no others? What loading the whole model
 * asks, for work that reads it part by part. */
pu_err pu_model_check(const char *path, pu_error *e) PU_MUST_USE;

/* The type that holds all of its weights without loss: f32, bf16 or f16; PU_DTYPE_COUNT: some are quantised. Those in FP8
 * are not, and do not count: bf16, which alone they are, rounds them by a sixteenth of what FP8 did, f16 by less.
 * matrices: vectors do not count, as they never do in GGUF files, where all of them are f32. */
pu_err pu_model_widest(const char *path, bool matrices, pu_dtype *out, pu_error *e) PU_MUST_USE;
/* Are most of its weights f32, so that computing in less would lose some of them? */
pu_err pu_model_mostly_f32(const char *path, bool *out, pu_error *e) PU_MUST_USE;

int64_t pu_hparams_count(const pu_hparams *hp, bool without_embedding); /* parameters */
/* Training FLOPs of one token at sequence length T: 6 (parameters without the input embedding; of experts only those
 * used) + 6 layers T hidden for causal attention. Recomputation is never counted. */
double pu_hparams_train_flops(const pu_hparams *hp, int64_t T);

/* ---- models ------------------------------------------------------------------------------------------------------------ */

/* A parameter under its name in memory ("layers.3.qkv", "embed", "out_norm"). */
typedef struct pu_param {
  const char *name;
  pu_slot slot;
  int layer;         /* -1: outer */
  pu_tensor *w;      /* what the operations read: compute type; norms, biases and the router of experts stay f32 */
  /* Training with f32 masters beside a bf16 w: u16, the lower halves of the f32 values that are trained, of which w is the
   * upper ones (pu_split_f32). NULL: there are no values but w's. */
  pu_tensor *low;
  bool decay;        /* weight decay by default: matrices; not norms, biases, the embedding */
} pu_param;

typedef struct pu_layer {
  pu_tensor *slot[PU_SLOT_COUNT]; /* NULL where the family has none */
} pu_layer;

/* Rows of angles, of positions from 0 on (2^17 at most; host memory that no plan counts): worked out once. */
typedef struct pu_rope_rows {
  float *v; /* [n, head_dim] */
  int64_t n;
} pu_rope_rows;

typedef struct pu_model {
  const pu_arch *arch;
  pu_hparams hp;
  pu_dtype dtype;    /* compute type: PU_F32 or PU_BF16 */
  pu_dtype grads;    /* these two: of one that is trained, as in pu_model_options */
  bool late_grads;
  bool fp8;          /* pu_model_options.fp8 */
  pu_backend *be;
  pu_arena *host;    /* headers, names */
  pu_arena *weights; /* tensor data, in the backend's memory: wraps weights_memory */
  void *weights_memory;
  pu_map weights_map; /* where they are a file's (pu_model_options.cache); data NULL: none */
  pu_tensor *outer[PU_SLOT_COUNT]; /* embed, out_norm, output (== embed when tied) */
  pu_layer *layers;
  pu_param *params;
  size_t n_params;
  pu_rope_rows rope_rows;
} pu_model;

/* Layers [from, to), and what belongs to no layer where `outer` says so. */
typedef struct pu_model_part {
  int64_t from, to;
  bool outer;
} pu_model_part;

/* How matrices are kept for inference; vectors, routers and the input embedding stay as they are. */
typedef enum pu_quant {
  /* In few bits where the file has them so (GPTQ, AWQ, int8; GGUF's q8_0, q4_0, q4_1); where it has them in FP8, and the
   * backend says that this pays (pu_backend.fp8_files) and computes in bf16, as FP8 below keeps them; else not. */
  PU_QUANT_FILE,
  PU_QUANT_NONE, /* in the compute type, whatever the file has */
  PU_QUANT_Q8,   /* as the file has them in few bits, the others rounded: to 8 bits, symmetric, in groups of 128 */
  PU_QUANT_Q4,   /* likewise to 4 bits with zeros, in groups of 64; the output matrix to 8 */
  /* Attention and dense MLPs in PU_LAYOUT_FP8, the rest in the compute type, bf16, whatever the file has. A matrix whose
   * parts the file has in E4M3, all with a scale a row or a tensor, or a block of PU_FP8_BLOCK x PU_FP8_BLOCK whose rows
   * stay together in memory, is taken as it is; the others are rounded. */
  PU_QUANT_FP8,
  PU_QUANT_I8    /* the same in PU_LAYOUT_INT8 */
} pu_quant;
const char *pu_quant_name(pu_quant q); /* "file", "none", "q8", "q4", "fp8", "int8" */

typedef struct pu_model_options {
  pu_dtype dtype;   /* compute type */
  bool train;       /* f32 masters (pu_param.low), and gradients (w->grad) with their memory */
  pu_dtype grads;   /* with `train`: type of the gradients of what has the compute type; of all else f32 */
  bool late_grads;  /* with `train`: gradients have no memory of their own: see pu_tensor.grad_late */
  bool rough;       /* with `train`: no masters: what is trained are the weights in the compute type */
  bool fp8;         /* with `train`: while a tape records, attention's matrices and dense MLPs multiply in FP8 (pu_linear_fp8) */
  bool nf4;         /* beside an adapter in training: the matrices of attention and dense MLPs in PU_LAYOUT_NF4 (QLoRA) */
  bool tile;        /* inference: matrices in PU_LAYOUT_TILED, or PU_LAYOUT_PACKED as `quant` says */
  bool plain;       /* with `tile`: PU_LAYOUT_PLAIN for those not packed; set for backends that have no tiles */
  bool fp8_files;   /* set from the backend's, for bf16 */
  pu_quant quant;
  /* A folder, or NULL: with `tile`, on the CPU, weights are kept there in a file as they lie in memory, and mapped from it
   * when the same model is loaded again. A file that is damaged, or cannot be written, is logged. */
  const char *cache;
  const pu_model_part *part; /* NULL: the whole model; else the rest has no memory: for work that goes layer by layer */
  /* May be NULL; called while weights are read. */
  void (*progress)(void *arg, double done, double total);
  void *progress_arg;
} pu_model_options;

/* The options as they are on this backend (`plain`, `fp8_files`): what to ask for sizes with. Loading does it too.
 */
pu_model_options pu_model_options_on(const pu_backend *be, const pu_model_options *o);
/* Whether this backend can have a model so: what loading refuses, asked before anything is read. */
pu_err pu_model_options_check(const pu_backend *be, const pu_model_options *o, pu_error *e) PU_MUST_USE;

/* From a Hugging Face directory or a GGUF file. Weights in few bits become the compute type where `quant` does not keep
 * them: of FP8, code times scale in f32, then rounded. Missing, surplus or misshapen tensors are named. */
pu_err pu_model_load(const char *path, pu_backend *be, const pu_model_options *o, pu_model **out, pu_error *e)
    PU_MUST_USE;
/* Random weights: normal, deviation 0.02 (and 0.02 / sqrt(2 layers) for wo and down), norms 1; each value a function
 * of (seed, parameter name, index). */
pu_err pu_model_random(const pu_arch *arch, const pu_hparams *hp, uint64_t seed, pu_backend *be,
                       const pu_model_options *o, pu_model **out, pu_error *e) PU_MUST_USE;
void pu_model_free(pu_model *m);
/* Writes config.json and safetensors (sharded above shard_bytes; 0: 5 GB) in the family's own names and layout, from the
 * masters where there are some. Other files (tokenizer, generation_config.json) are the caller's to copy. */
pu_err pu_model_save(const pu_model *m, const char *dir, pu_dtype dtype, size_t shard_bytes, pu_error *e) PU_MUST_USE;
/* Writes one GGUF file, atomically, under llama.cpp's names: matrices in the given type (a row that is no multiple of its
 * block: f16), in a q4_0 file the output matrix as q8_0, vectors and routers in f32. `more`: keys besides the
 * model's own (a tokenizer's), or NULL. bar: is set to the share that is written, in %; NULL is fine. */
pu_err pu_model_save_gguf(const pu_model *m, const char *path, const pu_gguf_type *type, const pu_gguf_keys *more,
                          pu_progress *bar, pu_error *e) PU_MUST_USE;
/* The family's file tensors of one parameter, gathered from data laid out like that parameter in memory (weights,
 * gradients, optimiser moments): how checkpoints and tests get values under the file's names. Calls fn for each. */
typedef pu_err (*pu_param_part_fn)(void *arg, const char *file_name, int ndim, const int64_t *shape, const float *data,
                                   pu_error *e);
pu_err pu_param_parts(const pu_model *m, const pu_param *p, const float *host_data, pu_param_part_fn fn, void *arg,
                      pu_error *e) PU_MUST_USE;
/* What the weights take: of a model made with pu_model_random (from a file none of whose matrices is in few bits, too),
 * or loaded from this path, whose tensors must all be there. */
size_t pu_model_weight_bytes(const pu_arch *arch, const pu_hparams *hp, const pu_model_options *o);
pu_err pu_model_load_bytes(const char *path, const pu_model_options *o, size_t *out, pu_error *e) PU_MUST_USE;

/* ---- weights in few bits ----------------------------------------------------------------------------------------------- */

/* A matrix in few bits on the host: w[m][k] = (q[m][k] - zero[m][g]) * scale[m][g] with g = g_idx ? g_idx[k] : k / group.
 * Scales are values that f16 holds, since that is what files and kernels keep. */
typedef struct pu_qmatrix {
  int bits;           /* 4 or 8 */
  int64_t rows, cols; /* M outputs, K inputs */
  int64_t group;      /* inputs that share a scale; cols: one for a row */
  uint8_t *q;         /* [rows, cols], one value a byte */
  float *scale;       /* [rows, groups] */
  uint8_t *zero;      /* [rows, groups]; NULL: symmetric, 2^(bits-1) everywhere */
  int32_t *g_idx;     /* [cols] group of each input (act-order); NULL: k / group */
} pu_qmatrix;

static inline int64_t pu_qmatrix_groups(const pu_qmatrix *q) {
  return (q->cols + q->group - 1) / q->group;
}

/* Makes room for the given sizes, cleared; group 0: cols. The caller frees it, also after an error. A g_idx is the caller's
 * to fill in (from malloc; freed with the rest). */
pu_err pu_qmatrix_init(pu_qmatrix *q, int bits, int64_t rows, int64_t cols, int64_t group, bool symmetric,
                       pu_error *e) PU_MUST_USE;
void pu_qmatrix_deinit(pu_qmatrix *q); /* of all zeros: fine */
/* Scale and zero of one group that cover all of w[0 .. n): from the least to the greatest value (0 between them), or,
 * symmetric, as far below 0 as above. The scale is rounded to f16. */
void pu_quant_range(const float *w, int64_t n, int bits, bool symmetric, float *scale, uint8_t *zero);
/* w to the nearest value of its group: clamp(round(w / scale) + zero, 0, 2^bits - 1). */
static inline uint8_t pu_quant_round(float w, float scale, int zero, int bits) {
  const float whole = 0x1.8p23f; /* what is added to it loses its fraction; what is too large for that is clamped anyway */
  float v = (scale != 0 ? (w / scale + whole) - whole : 0) + (float)zero, most = (float)((1 << bits) - 1);
  return (uint8_t)(!(v > 0) ? 0 : v > most ? most : v);
}
/* Row m from f32 by rounding to nearest: ranges, then values. */
void pu_qmatrix_round(pu_qmatrix *q, int64_t m, const float *w);
/* Row m as f32 [cols]. */
void pu_qmatrix_to_f32(const pu_qmatrix *q, int64_t m, float *w);

/* What such weights are called in a Hugging Face directory (docs/quantisation.md says how they lie there). */
typedef enum pu_quant_format {
  PU_QUANT_AWQ,  /* AWQ's `gemm` layout: 4 bits, no g_idx */
  PU_QUANT_GPTQ, /* GPTQ's: 4 or 8 bits, with or without g_idx */
  PU_QUANT_INT8  /* compressed-tensors' int8: 8 bits, symmetric, one scale a row; activations are rounded as they come */
} pu_quant_format;

/* pu_model_save, with some matrices in few bits and a quantization_config beside. q: [m->n_params]; q[i] stands for
 * m->params[i], its rows in memory's order (those of all experts one after the other), or has bits 0: that parameter is
 * written as it is. All have the same bits, group and symmetry. */
pu_err pu_model_save_quantised(const pu_model *m, const char *dir, pu_dtype dtype, pu_quant_format format,
                               const pu_qmatrix *q, size_t shard_bytes, pu_error *e) PU_MUST_USE;

/* ---- adapters --------------------------------------------------------------------------------------------------------- */

/* A LoRA adapter (Hu et al. 2021) of one model: for some of its matrices W, in attention and in dense MLPs, two small
 * ones, so that W acts as W + scale B A. The model's weights stay as they are: any number of adapters may lie beside
 * them, and pu_model_forward takes for each row the one that is asked for.
 *
 * Files are PEFT's: a directory with adapter_config.json (peft_type LORA; r, lora_alpha, target_modules, exclude_modules,
 * layers_to_transform, rank_pattern, alpha_pattern, use_rslora) and adapter_model.safetensors (f32, bf16, f16), under
 * the family's own names of matrices. What changes the sum above (DoRA, biases, modules_to_save, starts that change the
 * base such as PiSSA) is refused, by name. Checked: each matrix that is targeted has both halves, of the shapes that the
 * model and the rank give, and no tensor is left over.
 *
 * Lifetimes: the model outlives its adapters. Threads: as the model. */
typedef struct pu_adapter pu_adapter;

/* Values have the model's compute type. train: with f32 masters and gradients, as pu_model_options.train. */
pu_err pu_adapter_load(const char *dir, const pu_model *m, bool train, pu_adapter **out, pu_error *e) PU_MUST_USE;
/* What loading it (train: false) takes of the backend's memory, from adapter_config.json alone. */
pu_err pu_adapter_measure(const char *dir, const pu_arch *arch, const pu_hparams *hp, pu_dtype dtype, size_t *bytes,
                          pu_error *e) PU_MUST_USE;

typedef struct pu_adapter_shape {
  int64_t rank;  /* 1..PU_LORA_MAX_RANK */
  double alpha;  /* the factor is alpha / rank; rslora: alpha / sqrt(rank) */
  bool rslora;
  pu_strs targets; /* matrices by the ends of their names in the family's files: "q_proj", "wqkv"; none: all that there are */
  const char *base; /* what adapter_config.json calls the base; NULL: nothing */
} pu_adapter_shape;
/* A new one to train: A uniform in +-1 / sqrt(columns), each value a function of (seed, name, index); B 0, so that it
 * changes nothing yet. */
pu_err pu_adapter_create(const pu_model *m, const pu_adapter_shape *s, uint64_t seed, pu_adapter **out,
                         pu_error *e) PU_MUST_USE;
void pu_adapter_free(pu_adapter *a);
size_t pu_adapter_bytes(const pu_adapter *a); /* of the backend's memory */
/* Its parameters, for an optimiser: named as in the file ("model.layers.0.self_attn.q_proj.lora_A.weight"); B's rows lie
 * as the model has them in memory. */
pu_param *pu_adapter_params(pu_adapter *a, size_t *n);
/* Writes the directory, from the masters where there are some; the configuration last. dtype: f32, bf16 or f16. */
pu_err pu_adapter_save(const pu_adapter *a, const char *dir, pu_dtype dtype, pu_error *e) PU_MUST_USE;
/* The same with the values of other params, as many as pu_adapter_params gives and like them, which lie in the
 * host's memory: a copy, written while the adapter is trained. Another thread may call it. */
pu_err pu_adapter_save_params(const pu_adapter *a, const pu_param *params, const char *dir, pu_dtype dtype,
                              pu_error *e) PU_MUST_USE;
/* Adds scale B A to the model's matrices, in f32, rounded once to their type. Of a model without tiles and masters. */
pu_err pu_model_merge(pu_model *m, const char *adapter_dir, pu_error *e) PU_MUST_USE;

/* Rows of a forward pass that one adapter changes. */
typedef struct pu_adapter_rows {
  const pu_adapter *adapter;
  int32_t row, rows;
} pu_adapter_rows;

/* ---- forward ----------------------------------------------------------------------------------------------------------- */

/* Told of what goes into a block's matrices, before each of them is applied: how weights in few bits are calibrated. x: their
 * input [N, K]. idx: i32 [N, k], the experts of each token, with PU_SLOT_EXPERTS_GATE_UP; of their `down` nothing is told.
 * An observer that fails leaves its error in c->status. */
typedef struct pu_observer {
  void (*see)(void *arg, pu_ctx *c, int64_t layer, pu_slot slot, const pu_tensor *x, const pu_tensor *idx);
  void *arg;
} pu_observer;

typedef struct pu_forward {
  const pu_tensor *ids;   /* i32 [N] */
  const pu_seqs *seqs;
  const pu_kv *kv;        /* [layers] paged caches, or NULL: attention inside each sequence (training, scoring) */
  /* Which length decides dynamic RoPE scaling, per sequence; NULL: each sequence's own (kv: its length in the cache). */
  const int32_t *rope_len;
  pu_recompute recompute; /* with a tape: what each block computes again in backward */
  const pu_adapter_rows *adapters; /* no row twice; the others use the plain weights. Must live until backward */
  int n_adapters;
  const pu_observer *observer; /* NULL: none */
} pu_forward;

/* The last norm's output [N, C], from which logits or loss are taken. NULL: c->status says why. */
pu_tensor *pu_model_forward(pu_model *m, pu_ctx *c, const pu_forward *f);
/* One block alone, from a residual state to the next, which is in c->mem; `in` stays as it is. f->ids does not count. For
 * models of which a part is there. */
pu_state pu_model_block(pu_model *m, pu_ctx *c, const pu_forward *f, int64_t layer, pu_state in);
/* Logits f32 [n, V] of the given rows of hidden (rows NULL: all). */
pu_tensor *pu_model_logits(pu_model *m, pu_ctx *c, pu_tensor *hidden, const int32_t *rows, int64_t n);
/* Next-token losses f32 [N]; with a tape ready for pu_backward. targets: i32 [N], -1: not counted. */
pu_tensor *pu_model_loss(pu_model *m, pu_ctx *c, pu_tensor *hidden, const pu_tensor *targets, float grad_scale);

/* Activation memory one step of N tokens in sequences of length T takes, as the tape lays it out: the plan that is
 * printed before training. */
size_t pu_model_activation_bytes(const pu_model *m, int64_t tokens, int64_t seq_len, bool train, pu_recompute recompute);

#endif
