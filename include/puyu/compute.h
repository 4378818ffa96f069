/* compute: tensors, coarse operations, automatic differentiation, and the CPU backend.
 *
 * An operation is the size of a fused kernel. Each is one row of include/puyu/ops.def with one argument struct below,
 * a forward and (where it has one) a backward, in every backend. The same operation serves training and inference: it
 * records itself when the context holds a tape.
 *
 * Shapes    are written [N, C]; N is tokens of all packed sequences together, C the hidden size, H query heads, G
 *           key/value heads, D the head's size, F the MLP's inner size, V the vocabulary, E experts.
 * Types     Weights and what goes in and out of matrix products have the compute type (f32 or bf16). The residual
 *           stream, norms' statistics and losses are always f32. Products accumulate in f32.
 * Gradients A tensor that takes part in backward has `grad`, of the same shape: f32 for the residual stream and for
 *           parameters, of which matrices and the embedding's table may have the compute type instead; the compute type
 *           for other activations. Backward writes the first contribution and adds the later ones (pu_grad_beta); what
 *           one operation contributes is summed in f32 and rounded once (the loss: once a chunk of rows).
 * Determinism. A result is the same to the bit for the same inputs, whatever the number of threads; it may differ
 *           between instruction sets.
 * Errors    The first failure stays in the context; every later call given a NULL tensor returns NULL, so a model reads
 *           as straight code and checks once.
 * Threads   A backend runs one operation at a time (and inside it all its threads). */
#ifndef PUYU_COMPUTE_H
#define PUYU_COMPUTE_H

#include "puyu/base.h"

/* ---- types and tensors ----------------------------------------------------------------------------------------- */

typedef enum pu_dtype { PU_F32, PU_BF16, PU_F16, PU_I8, PU_U8, PU_U16, PU_I32, PU_I64, PU_DTYPE_COUNT } pu_dtype;

size_t pu_dtype_size(pu_dtype t);
const char *pu_dtype_name(pu_dtype t);                  /* "f32", "bf16", … */
bool pu_dtype_parse(const char *name, pu_dtype *out);   /* also "float32", "bfloat16", "float16" */

/* bf16 is the upper half of an f32, rounded to nearest even. */
static inline float pu_bf16_to_f32(uint16_t h) {
  union { uint32_t u; float f; } v = {(uint32_t)h << 16};
  return v.f;
}
static inline uint16_t pu_f32_to_bf16(float f) {
  union { float f; uint32_t u; } v = {f};
  if ((v.u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((v.u >> 16) | 0x40u); /* NaN stays NaN */
  return (uint16_t)((v.u + 0x7fffu + ((v.u >> 16) & 1u)) >> 16);
}
/* An f32 in two halves, nothing of it lost: the nearest bf16 (halfway: away from zero), and the lower 16 bits, which as
 * an int16 are what is to be added to the upper half's. A NaN is quiet and has no lower half. */
static inline uint16_t pu_split_f32(float f, uint16_t *low) {
  union { float f; uint32_t u; } v = {f};
  bool nan = (v.u & 0x7fffffffu) > 0x7f800000u;
  *low = nan ? 0 : (uint16_t)v.u;
  return (uint16_t)((nan ? v.u | 0x400000u : v.u + 0x8000u) >> 16);
}
static inline float pu_join_f32(uint16_t high, uint16_t low) {
  union { uint32_t u; float f; } v = {((uint32_t)high << 16) - (low >= 0x8000u ? 0x10000u : 0) + low};
  return v.f;
}
float pu_f16_to_f32(uint16_t h);
uint16_t pu_f32_to_f16(float f);
/* FP8 for products (Micikevicius et al. 2022). E4M3: sign, 4 bits of exponent (bias 7), 3 of fraction; no infinity, 0x7f
 * is NaN. E5M2: the upper half of an f16. Rounded to nearest even; what is above the largest finite value, 448 and 57344,
 * becomes that. */
float pu_e4m3_to_f32(uint8_t v);
uint8_t pu_f32_to_e4m3(float f);
float pu_e5m2_to_f32(uint8_t v);
uint8_t pu_f32_to_e5m2(float f);
/* n values from one type to another (f32, bf16, f16 among each other), row-major. */
void pu_convert(void *dst, pu_dtype to, const void *src, pu_dtype from, int64_t n);
void pu_split_halves(uint16_t *high, uint16_t *low, const float *src, int64_t n);
void pu_join_halves(float *dst, const uint16_t *high, const uint16_t *low, int64_t n);

enum { PU_MAX_DIMS = 4 };

/* How a weight lies in memory. PLAIN is by strides. TILED is what the CPU's inference kernels read: tiles of 16 rows by
 * 64 bytes, one after the other (see src/compute/cpu/gemm.h); only `linear`, `linear_swiglu` and `linear_cross_entropy`
 * without a tape take it; on a device without such kernels it is a plain copy. PACKED is a weight in few bits, for these
 * and `moe_mlp`, without a tape; dtype is the compute type that it stands for. NF4 is a weight in 4 bits beside which
 * something is trained: `linear` takes it, with a tape too if it wants no gradient, and computes with the values of its
 * compute type (see pu_nf4_pack). FP8 and INT8 are weights in E4M3 and in whole numbers from -127 to 127 (of a file, from
 * -128) for inference in bf16, which `linear` and `linear_swiglu` take: the codes [M, K], and from the next multiple of 64
 * bytes on their scales, f32 [M], one for each row; both sizes are multiples of 16, and INT8's second one is at most
 * PU_INT8_MOST_COLS. An FP8 one with packing.group PU_FP8_BLOCK has a scale for each block of so many rows and as many
 * columns instead, f32 [ceil(M / 128), ceil(K / 128)]. */
typedef enum pu_layout {
  PU_LAYOUT_PLAIN, PU_LAYOUT_TILED, PU_LAYOUT_PACKED, PU_LAYOUT_NF4, PU_LAYOUT_FP8, PU_LAYOUT_INT8
} pu_layout;
enum { PU_INT8_MOST_COLS = 1 << 17 }; /* so that no sum of products overflows an int32 */
enum { PU_FP8_BLOCK = 128 };

/* What a PACKED matrix [M, K] holds: w[m][k] = (q - zero) * scale, with a scale (and a zero) for each row and group of
 * inputs. With M' = M rounded up to 16, K' = K rounded up to the group, G = K' / group, there follow one another, each
 * from a multiple of 64 bytes:
 *   q      u8 [M'/16, K'/4, 16, 4]: sixteen rows side by side, four inputs of each; of 4 bits [M'/16, K'/8, 16, 4]:
 *          the low halves of a line of 64 bytes are one such line and the high halves the next;
 *   scale  f16 [M'/16, G, 16];
 *   zero   f16 [M'/16, G, 16], where there are zeros; else it is 2^(bits-1) everywhere;
 *   order  i32 [K'], where there is an order: the input that stands at each place, -1: none.
 * An [E, M, K] tensor is E of these. That is how it lies on the CPU; a device may have another order inside the sections,
 * in as many bytes: it is made by pack_weight and read by the backend's products alone. */
typedef struct pu_packing {
  int bits;     /* 4 or 8; 0: not packed */
  int group;    /* inputs that share a scale: 32, 64 or 128; of FP8: PU_FP8_BLOCK: blocks; 0: rows */
  bool zeros;   /* each group has its own zero */
  bool ordered; /* the inputs of a group do not lie side by side (act-order) */
} pu_packing;

typedef struct pu_tensor {
  pu_dtype dtype;
  pu_layout layout;
  pu_packing packing; /* of a PACKED one; of an FP8 one, its group */
  int ndim;
  int64_t shape[PU_MAX_DIMS];
  int64_t stride[PU_MAX_DIMS]; /* in elements; the last is 1 in every tensor the operations take */
  void *data;                  /* memory of the backend; owned by whoever made it (an arena, mostly) */
  struct pu_tensor *grad;      /* NULL: none wanted */
  bool grad_set;               /* on the tensor that has grad: grad holds a value already, so add to it */
  bool grad_late;              /* likewise, a parameter: grad->data is NULL, and taken when it is first written */
} pu_tensor;

int64_t pu_tensor_count(const pu_tensor *t); /* elements */
size_t pu_tensor_bytes(const pu_tensor *t);  /* of a contiguous one */
bool pu_tensor_contiguous(const pu_tensor *t);
/* 0 when the caller is the first to write t->grad (overwrite it), 1 afterwards (add to it). */
float pu_grad_beta(pu_tensor *t);

/* ---- backends ------------------------------------------------------------------------------------------------------- */

typedef enum pu_op {
#define PU_OP(name, has_backward) PU_OP_##name,
#include "puyu/ops.def"
#undef PU_OP
  PU_OP_COUNT
} pu_op;

/* What the memory that a backend takes for itself depends on: a model's sizes, and how much of it runs at a time. */
typedef struct pu_work_shape {
  pu_dtype dtype;          /* the compute type */
  int64_t tokens, max_len; /* of one forward and backward: N, and the longest sequence in it */
  int64_t hidden, ffn, vocab;
  int64_t experts_used; /* of a token; 0: the model has no experts */
  int heads, kv_heads, head_dim;
  int64_t rank; /* the largest of the adapters that are trained; 0: none are */
  int64_t nf4;  /* values of the largest weight in NF4; 0: there is none */
  bool fp8;     /* linear_fp8 and mlp_fp8 are used */
} pu_work_shape;

typedef struct pu_backend pu_backend;
/* args points to the pu_NAME_args of the operation. */
typedef pu_err (*pu_op_fn)(pu_backend *be, void *args, pu_error *e);

struct pu_backend {
  const char *name; /* "cpu", "cuda" */
  /* Memory of the device, 64-byte aligned. */
  pu_err (*alloc)(pu_backend *be, size_t bytes, void **out, pu_error *e);
  void (*free)(pu_backend *be, void *memory);
  pu_err (*upload)(pu_backend *be, void *device, const void *host, size_t bytes, pu_error *e);
  pu_err (*download)(pu_backend *be, void *host, const void *device, size_t bytes, pu_error *e);
  pu_err (*clear)(pu_backend *be, void *device, size_t bytes, pu_error *e);
  pu_err (*copy)(pu_backend *be, void *to, const void *from, size_t bytes, pu_error *e); /* inside the device, apart */
  /* `rows` pieces of so many bytes, their beginnings to_stride and from_stride apart. Either side may be memory of this
   * machine. In order with operations, but the caller does not wait: what lies on this machine is read or written until
   * the next sync, or until a mark that was made behind it is reached. */
  pu_err (*copy_rows)(pu_backend *be, void *to, size_t to_stride, const void *from, size_t from_stride, size_t bytes,
                      int64_t rows, pu_error *e);
  /* Makes copy_rows from and to this memory of the machine fast, until unpin (after a sync). Whole pages; takes them. A
   * copy stays within one such area. NULL, both: nothing would be gained. */
  pu_err (*pin)(pu_backend *be, void *host, size_t bytes, pu_error *e);
  void (*unpin)(pu_backend *be, void *host);
  pu_err (*sync)(pu_backend *be, pu_error *e);
  /* mark: *at becomes the number, from 1, of a place in line: behind all that was asked for so far, not between record
   * and play. reach: waits until
   * the device is there, but not for what was asked for since; what went wrong before it is told. NULL, both: what was
   * asked for is done when the call returns. */
  pu_err (*mark)(pu_backend *be, uint64_t *at, pu_error *e);
  pu_err (*reach)(pu_backend *be, uint64_t at, pu_error *e);
  /* What is asked for between record and play may be kept under `key` and, when that comes again, run as one. For the
   * same key the caller promises the same calls in the same order, with tensors at the same places and of the same
   * sizes; only what uploads bring (it may be overwritten at once) and host arrays that operations are given (sequences,
   * tables, lengths: they stay as they are until play) may differ. In between are operations of a forward pass without
   * a tape, uploads, clear and copy; nothing that waits.
   * Until play nothing need have run. `again`: nothing has, and the same calls are to be made once more between another
   * record and play. What is kept is forgotten with the next `free` of memory that was there while it was recorded. NULL,
   * both: nothing would be gained.
   *
   * ready (NULL: as said so far) is for making the calls before all that is uploaded is known, while the device is at
   * something else. With *ready 0: play launches nothing, and *ready becomes a number for what was made ready; 0: nothing
   * is kept under the key, and there is no play to this record. With that number, later: goes on with it; now come only
   * uploads, for what is not as it was uploaded then, and play, which launches; *ready 0: that is gone, by another record
   * or a free, and there is no play. The host arrays of then stay as they are until that second play. */
  pu_err (*record)(pu_backend *be, uint64_t key, uint64_t *ready, pu_error *e);
  pu_err (*play)(pu_backend *be, bool *again, pu_error *e);
  void (*close)(pu_backend *be);
  /* Set by callers: sums may be added in any order where that is faster, so that the same inputs give other last bits
   * from run to run. */
  bool any_order;
  /* Products with a weight in PU_LAYOUT_FP8, a scale a block too, are faster here than with its values: what is loaded
   * from files in FP8 may stay so. */
  bool fp8_files;
  /* Threads of this machine, for work between operations: the backend's own. NULL: none (pu_pool_run runs inline). */
  pu_pool *pool;
  /* At most so many bytes are its own, beside its callers' tensors, while a step of such a model runs. NULL: none. */
  size_t (*work_bytes)(const pu_backend *be, const pu_work_shape *s);
  /* The memory that linear_cross_entropy wants for logits: it is taken of c->mem while that runs, where there is as much
   * left, else of the backend's own. NULL: always of its own. */
  size_t (*loss_bytes)(int64_t tokens, int64_t vocab);
  /* Bytes of its memory that are free, and all of them. NULL: it computes in the machine's own memory. */
  pu_err (*memory)(const pu_backend *be, size_t *available, size_t *total, pu_error *e);
  const char *(*describe)(const pu_backend *be); /* one line, for people: which device. NULL: the processor */
  /* "key: value" lines: driver, libraries and versions, links to other devices. NULL: none. */
  pu_err (*facts)(const pu_backend *be, pu_buf *out, pu_error *e);
  pu_op_fn forward[PU_OP_COUNT];
  pu_op_fn backward[PU_OP_COUNT]; /* NULL where the operation has none */
};

/* Instruction sets of the CPU backend, each including the ones before it. */
typedef enum pu_isa { PU_ISA_REF, PU_ISA_AVX2, PU_ISA_AVX512, PU_ISA_AMX, PU_ISA_COUNT } pu_isa;
const char *pu_isa_name(pu_isa isa);
pu_isa pu_isa_best(void); /* what processor and kernel allow (AMX: permission asked of Linux); PUYU_ISA lowers it */

/* The CPU backend with its own threads (0: all processors). isa above pu_isa_best() is refused. PU_ISA_REF runs the
 * plain references only. */
pu_err pu_cpu_open(int threads, pu_isa isa, pu_backend **out, pu_error *e) PU_MUST_USE;
pu_isa pu_cpu_isa(const pu_backend *cpu);

/* What the processor can do at most, measured now on all of the backend's threads: what benchmarks set their figures
 * beside.
 * unit_flops: operations a second of the unit for products of this type: a bare loop of bf16 products, or of fused
 * multiply-adds (PU_F32), on registers; some 20 ms. 0 where the instruction set has no such unit.
 * read_rate: bytes a second of reading this memory, 64-byte aligned, from end to end, `passes` times. */
double pu_cpu_unit_flops(pu_backend *cpu, pu_dtype dtype);
double pu_cpu_read_rate(pu_backend *cpu, const void *memory, size_t bytes, int passes);
/* All of it in about 0.1 s. */
typedef struct pu_cpu_limits {
  double bf16_flops, f32_flops; /* pu_cpu_unit_flops */
  double read_bytes;            /* pu_cpu_read_rate, of 256 MiB */
} pu_cpu_limits;
pu_err pu_cpu_measure(pu_backend *cpu, pu_cpu_limits *out, pu_error *e) PU_MUST_USE;
/* What any backend does at most, measured now through its own operations: products of ever larger square matrices, and a
 * copy inside its memory, bytes read and written together; 0: no memory for it. A device takes some 0.1 s; for a processor
 * pu_cpu_measure is nearer to the truth. */
typedef struct pu_limits {
  double bf16_flops, f32_flops, copy_bytes; /* a second */
} pu_limits;
pu_err pu_backend_measure(pu_backend *be, pu_limits *out, pu_error *e) PU_MUST_USE;
pu_err pu_backend_flops(pu_backend *be, pu_dtype dtype, double *out, pu_error *e) PU_MUST_USE; /* the products alone */

/* "cpu"; a plug-in found beside the executable ("cuda" -> libpuyu-cuda.so); or "auto": what the variable PUYU_DEVICE
 * names, without it cuda where its plug-in and a device are there, else cpu. threads: of this machine; 0: all processors.
 * Close with be->close(be). */
pu_err pu_backend_open(const char *device, int threads, pu_backend **out, pu_error *e) PU_MUST_USE;

/* A plug-in exports `pu_plugin_open`, of pu_backend_open's arguments but the name, and `pu_plugin_interface`, which returns
 * the pu_interface that it holds: a digest of this header and of what else says how it lies in memory. With another than the program's it is
 * not opened. */
extern const char pu_interface[];

/* Names of the plug-ins that are there, whether or not they find a device; returns how many, at most `room`. */
enum { PU_DEVICE_NAME = 33 };
size_t pu_backend_list(char (*names)[PU_DEVICE_NAME], size_t room);

/* ---- context, tape -------------------------------------------------------------------------------------------------- */

typedef struct pu_tape pu_tape;

/* What operations are run with. Plain data, made by the caller; arenas and backend outlive it. */
typedef struct pu_ctx {
  pu_backend *be;
  pu_arena *mem;  /* tensor data, in the backend's memory */
  pu_arena *host; /* tensor headers and records, host memory */
  pu_tape *tape;  /* NULL: inference, nothing is recorded */
  pu_error *err;  /* where the first failure is told */
  pu_err status;  /* PU_OK, or that failure: check after a forward or backward */
  struct pu_room *room; /* pu_segment's own; NULL outside */
} pu_ctx;

/* A new contiguous tensor in c->mem, not cleared. NULL (and c->status) when memory is spent. With a tape it is given a
 * grad header when `wants_grad`; the gradient's memory is taken during backward. */
pu_tensor *pu_tensor_new(pu_ctx *c, pu_dtype dtype, int ndim, const int64_t *shape, bool wants_grad);
/* A header over memory that exists; contiguous. */
pu_tensor *pu_tensor_over(pu_ctx *c, pu_dtype dtype, int ndim, const int64_t *shape, void *data);

/* The tape is a list of segments; a segment is a list of records. Backward walks segments from last to first, and in
 * each the records from last to first; memory taken inside a segment's backward (gradients of its activations) is given
 * back when the segment is done. The gradient of the residual stream between segments alternates between two buffers. */
pu_err pu_tape_create(pu_arena *host, pu_tape **out, pu_error *e) PU_MUST_USE;
/* The tape lives in the arena: nothing to free. Forget all records (a new step). */
void pu_tape_reset(pu_tape *t);

/* One segment: a function from the residual state to the next, typically one block of a model. */
typedef struct pu_state {
  pu_tensor *h; /* f32 [N, C]: the residual stream */
  pu_tensor *x; /* [N, C] what is still to be added to it (the last block's output), or NULL */
} pu_state;
typedef pu_state (*pu_segment_fn)(pu_ctx *c, void *arg, pu_state in);
/* What a segment computes again in backward, instead of keeping it until then. The results are the same to the bit. */
typedef enum pu_recompute {
  PU_RECOMPUTE_NONE,
  PU_RECOMPUTE_GATES, /* swiglu, whose backward has read all of its input anyway */
  PU_RECOMPUTE_SOME, /* norms too, and what is done in place to their outputs: passes over memory, no products */
  PU_RECOMPUTE_ALL   /* everything: only `in` is kept */
} pu_recompute;

/* Runs fn. With a tape: records it as a segment. What pu_passing marked, and with GATES or SOME what is computed again,
 * lies at the end of c->mem, in memory that the segments take in turn. ALL: keeps only `in` and `arg` (which must live until
 * backward), gives back what fn used but for its result, and runs fn again in backward. Without a tape: calls it, puts
 * the result where `in` was (whose values are gone then) and gives back the rest, so inference needs the memory of one
 * block. Nothing is copied for that where h comes from norms and pu_leaving marks what makes x. Only the state and
 * parameters may have gradients across a segment's border; segments do not nest. */
pu_state pu_segment(pu_ctx *c, pu_segment_fn fn, void *arg, pu_state in, pu_recompute recompute);
/* From here on (until `on` is false again) outputs are passing: in the segment their values are read by what follows at
 * once, and no backward reads them. Of use for what a norm adds to the residual stream. */
void pu_passing(pu_ctx *c, bool on);
/* From here on (until `on` is false again) what linear layers and experts put out is what the segment returns as x, and
 * `in.x` is not read any more. */
void pu_leaving(pu_ctx *c, bool on);

/* From the recorded losses back to every parameter's grad.
 *
 * Parameters whose gradients are `grad_late` are for steps of one pass: the gradients' memory is c->mem's and theirs until
 * it is reset, and each segment's goes back once its backward is done, so that gradients come where activations were. Of
 * what lies in c->mem only the losses and what was there before the first segment have values then. */
pu_err pu_backward(pu_ctx *c) PU_MUST_USE;
/* Memory for a late gradient that has none yet. */
void pu_late_grad(pu_ctx *c, pu_tensor *w);

/* ---- sequences in a batch --------------------------------------------------------------------------------------------- */

/* N tokens are n sequences end to end. Host memory; copied to the device by whoever makes it, where that differs. */
typedef struct pu_seqs {
  int32_t n;               /* sequences (documents in training, requests in inference) */
  int32_t tokens;          /* N = cu[n] */
  int32_t max_len;         /* the longest */
  const int32_t *cu;       /* [n + 1] cumulative lengths; cu[0] = 0 */
  const int32_t *positions; /* [N] position of each token in its sequence, for RoPE */
} pu_seqs;

/* A paged key/value cache of one layer: blocks of `block` tokens, [blocks, G, block, pu_kv_row(bits, D)]. Sequence s's
 * token t lies in block table[s * table_stride + t / block], slot t % block.
 *
 * bits 0: bf16 or f32 as they are. bits 8 or 4: u8, asymmetric, each head of each token for itself: a row is its D values
 * q (of 4 bits: value 2i in the low half of byte i, 2i + 1 in the high one; D even), then scale and low as f16, and
 * stands for q scale + low, low being the row's minimum and scale its range over 2^bits - 1. */
typedef struct pu_kv {
  pu_tensor *k, *v;
  int k_bits, v_bits;
  int32_t block;
  const int32_t *table;
  int32_t table_stride;
  const int32_t *len; /* [n] tokens of each sequence in the cache, the new ones (of this call) included */
} pu_kv;
enum { PU_KV_PAIR_BYTES = 4 };                 /* scale and low, at the end of a row in few bits */
int64_t pu_kv_row(int bits, int64_t head_dim); /* elements of a row: bytes, where bits are not 0 */
/* A row in few bits from n values, and back. What f16 cannot hold is cut to what it can; a NaN counts as the minimum. */
void pu_kv_pack(void *row, int bits, const float *x, int64_t n);
void pu_kv_unpack(float *x, const void *row, int bits, int64_t n);

/* ---- operations ---------------------------------------------------------------------------------------------------------
 * Each pu_NAME() takes its outputs' memory from c->mem, runs, and records. The _args structs are what backends see; rows
 * of x may be strided (stride[0] >= shape[1]). */

/* y[n] = w[ids[n]]. ids: i32 [N]; w: [V, C]; y: [N, C] of dtype `out` (f32: the start of the residual stream).
 * An id outside [0, V) is PU_ERR_SHAPE: from the operation itself on the CPU, whose y is undefined then; a device makes
 * its row zeros and tells with the next download, sync or reach. Backward: deterministic sum into w->grad. */
typedef struct pu_embedding_args {
  const pu_tensor *ids;
  pu_tensor *w, *y;
} pu_embedding_args;
pu_tensor *pu_embedding(pu_ctx *c, const pu_tensor *ids, pu_tensor *w, pu_dtype out);

/* h = res + x (x may be NULL: h is res itself); y = h / sqrt(mean(h^2) + eps) * w (Zhang & Sennrich 2019).
 * res, h: f32 [N, C]; x, y: compute type [N, C]; w: f32 [C]; rstd: f32 [N], kept for backward. res's gradient may lie
 * where h's does. Inside a segment without a tape h is res, overwritten. */
typedef struct pu_rmsnorm_add_args {
  pu_tensor *res, *x, *w, *h, *y, *rstd;
  float eps;
} pu_rmsnorm_add_args;
pu_tensor *pu_rmsnorm_add(pu_ctx *c, pu_tensor *res, pu_tensor *x, pu_tensor *w, float eps, pu_dtype out,
                          pu_tensor **h);

/* y = x w^T + b. x: [N, K]; w: [M, K]; b: [M] or NULL; y: [N, M], dtype as x, or f32 when y_f32.
 * With a PACKED w of type f32 the products are those of the weights that the few bits stand for, in f32. Of type bf16, x
 * is rounded to int8 by token and group, x[k] = sx q[k] with sx = max|x| / 127 over the group, products are summed in
 * int32 within the group, and the groups' sums, times both scales, in f32: y differs from the product with x itself by
 * sum over g of sx/2 * sum over k in g of |w[k]| at most. Both give the same to the bit on every instruction set, and for
 * a token whichever others there are.
 * With an FP8 w each row of w and of x is codes times a scale, that row's largest magnitude / 448; a row of y is the same
 * to the bit whichever other rows there are. Where w has a scale for each block (PU_FP8_BLOCK), x's are as before, and
 * y = (sum over the blocks of k, in order, of w's scale * s) * sx + b, s being the sum of the products of a block's codes;
 * the outer sum is of fused multiply-adds in f32, its product with sx and the addition of b are rounded to f32.
 * With an INT8 w each row of w and of x is codes times a scale, s = m / 127 of that row's largest magnitude m (2^-100 at
 * least); the code of v is v * (1 / s), rounded to nearest even. y = ((f32)sum * sx) * sw + b, where sum, of the codes'
 * products, is exact in int32, and each of the other steps is rounded to f32. So y is the same to the bit on every backend,
 * in whichever order it is summed and whichever other rows there are. A row of x in which one value is not finite becomes
 * NaN.
 * Beside a PACKED w a device has bounds of its own, besides the rounding of sums, which the bound above covers. With up to
 * 4 tokens of bf16 (16 without warpgroup products), and any number of f32, it takes w as it is, and rounds x to whole
 * numbers, 128 inputs of a token at a time: by 2^-14 of the largest magnitude among them at most, of f32 by 2^-30; where one
 * of them is no number, or infinite, all of the token's y are no numbers. With more tokens of bf16 it takes x as it is, and
 * rounds w to bf16 at most: y differs from the product with x and w by 2^-9 * sum over k of |w[k] x[k]| at most. A token's
 * bits on a device are the same whichever the others are among up to 16 tokens of f32, among up to 4 of bf16, and among 5 to
 * 16. */
typedef struct pu_linear_args {
  pu_tensor *x, *w, *b, *y;
  bool no_dx, no_dw; /* what backward leaves out: x's gradient; w's and b's. x's comes last, and may lie where x does */
} pu_linear_args;
pu_tensor *pu_linear(pu_ctx *c, pu_tensor *x, pu_tensor *w, pu_tensor *b, bool y_f32);

/* The same products in FP8, for training in bf16: x and w are rounded to E4M3, y's gradient to E5M2, each times a power of
 * two of its own (the gradient: of 64), the largest that leaves its largest magnitude in range. So there is no state,
 * whatever a backend guesses beforehand. Sums may be kept in fewer bits than f32 has; y, the gradients and b are as
 * linear's. Infinity becomes NaN. Sizes that are not multiples of PU_FP8_TILE, other types and layouts are linear itself. */
enum { PU_FP8_TILE = 128 };
typedef pu_linear_args pu_linear_fp8_args;
pu_tensor *pu_linear_fp8(pu_ctx *c, pu_tensor *x, pu_tensor *w, pu_tensor *b);

/* What one adapter adds to some rows of one product (LoRA, Hu et al. 2021): of rows [row, row + rows) and columns
 * [from, from + M) of y. a: [r, K]; b: [M, r]; both of x's type. Where a or b has grad, it has its memory too, as a
 * model's parameters do. */
typedef struct pu_lora_part {
  pu_tensor *a, *b;
  int64_t row, rows, from;
  float scale;
} pu_lora_part;

enum { PU_LORA_MAX_RANK = 1 << 12 };

/* In place, for each part: y += scale (x a^T) b^T. x: [N, K]; y: [N, *], of x's type. Parts do not overlap in y; what
 * belongs to none stays as it is. A row's result depends on its own part alone. x a^T is rounded to x's type; what is
 * added to y may be, too.
 * Backward hands y's gradient on as it is. */
typedef struct pu_lora_args {
  pu_tensor *x, *y;
  const pu_lora_part *parts;
  int n;
} pu_lora_args;
pu_tensor *pu_lora(pu_ctx *c, pu_tensor *x, pu_tensor *y, const pu_lora_part *parts, int n); /* = y */

/* RMS norm of each head of q and k (Qwen3). qkv: [N, (H + 2G) D], rows [q heads, k heads, v heads]; wq, wk: f32 [D].
 * out: same shape, v copied; rstd: f32 [N, H + G], kept for backward. Without a backward rstd may be NULL, and out qkv. */
typedef struct pu_qk_norm_args {
  pu_tensor *qkv, *wq, *wk, *out, *rstd;
  int heads, kv_heads, head_dim;
  float eps;
} pu_qk_norm_args;
pu_tensor *pu_qk_norm(pu_ctx *c, pu_tensor *qkv, pu_tensor *wq, pu_tensor *wk, int heads, int kv_heads, int head_dim,
                      float eps);

/* Rotates q and k of qkv in place, halves convention (Su et al. 2021; x1' = x1 cos - x2 sin, x2' = x2 cos + x1 sin with
 * x1, x2 the first and second half of a head). cs: f32 [N, D], the cosines [D/2] then the sines [D/2] of each token's
 * angles, any attention factor multiplied in. Backward rotates the gradient back, in place. */
typedef struct pu_rope_args {
  pu_tensor *qkv;
  const pu_tensor *cs;
  int heads, kv_heads, head_dim;
} pu_rope_args;
pu_tensor *pu_rope(pu_ctx *c, pu_tensor *qkv, const pu_tensor *cs, int heads, int kv_heads, int head_dim); /* = qkv */

/* Causal attention inside each sequence of seqs, grouped heads: out[N, H D] from qkv [N, (H + 2G) D].
 * softmax(scale q k^T + mask) v, computed in tiles with a running maximum (Dao et al. 2022), f32 inside; lse: f32
 * [H, N], kept for backward. window > 0: a token sees only the last `window` positions, itself included (Mistral). */
typedef struct pu_attention_args {
  pu_tensor *qkv, *out, *lse;
  const pu_seqs *seqs;
  int heads, kv_heads, head_dim, window;
  float scale;
} pu_attention_args;
pu_tensor *pu_attention(pu_ctx *c, pu_tensor *qkv, const pu_seqs *seqs, int heads, int kv_heads, int head_dim,
                        int window, float scale);

/* What is done with new rows of q and k before they are attended with: the norm of their heads as pu_qk_norm has it (wq,
 * wk: f32 [D]; NULL, both: none), then the turn as pu_rope has it (cs; NULL: none); to the same bits as these two. */
typedef struct pu_qk_ready {
  const pu_tensor *cs;
  pu_tensor *wq, *wk;
  float eps;
} pu_qk_ready;

/* Inference: makes the new q and k rows of qkv ready, puts the k, v rows into the cache, then attends from the q rows to
 * all of their sequence's cache. seqs gives the new tokens; token j of sequence s stands at position
 * len[s] - (cu[s+1] - cu[s]) + j and sees the cache up to and with itself. Unless there was nothing to make ready, nobody
 * may read qkv after it: backends may do that in place, or not. No backward. */
typedef struct pu_attention_paged_args {
  pu_tensor *qkv, *out;
  pu_qk_ready ready;
  const pu_seqs *seqs;
  const pu_kv *kv;
  int heads, kv_heads, head_dim, window;
  float scale;
} pu_attention_paged_args;
pu_tensor *pu_attention_paged(pu_ctx *c, pu_tensor *qkv, const pu_qk_ready *ready, const pu_seqs *seqs, const pu_kv *kv,
                              int heads, int kv_heads, int head_dim, int window, float scale);

/* y = silu(a) * b with gu = [a, b]: [N, 2F] -> [N, F] (Shazeer 2020). gu's gradient may lie where gu does. */
typedef struct pu_swiglu_args {
  pu_tensor *gu, *y;
  bool again; /* backward makes y once more, which lies where its gradient does */
} pu_swiglu_args;
pu_tensor *pu_swiglu(pu_ctx *c, pu_tensor *gu);

/* The same of gu = x w^T, to the bit what linear and swiglu one after the other give: y[N, F] from x [N, K] and w [2F, K],
 * the gates' rows, then the others; of any layout that linear takes. With a tape it is these two. gu: [N, 2F] of work
 * memory for a backend that has nothing better than these two; undefined afterwards. */
typedef struct pu_linear_swiglu_args {
  pu_tensor *x, *w, *gu, *y;
} pu_linear_swiglu_args;
pu_tensor *pu_linear_swiglu(pu_ctx *c, pu_tensor *x, pu_tensor *w);

/* y = swiglu(x gate_up^T) down^T, both products and all of backward's as linear_fp8's; swiglu and its gradient go to FP8
 * as they are made. x: [N, C]; gate_up: [2F, C]; down: [C', F]; gu: [N, 2F], kept for backward. */
typedef struct pu_mlp_fp8_args {
  pu_tensor *x, *gate_up, *down, *gu, *y;
} pu_mlp_fp8_args;
pu_tensor *pu_mlp_fp8(pu_ctx *c, pu_tensor *x, pu_tensor *gate_up, pu_tensor *down);

/* Mixture of experts: of each row of logits f32 [N, E] the k largest (ties: lower index), softmax over those (Mixtral).
 * idx: i32 [N, k]; weight: f32 [N, k]. Backward: into logits->grad through weight->grad. */
typedef struct pu_moe_route_args {
  pu_tensor *logits, *idx, *weight;
  int k;
} pu_moe_route_args;
pu_tensor *pu_moe_route(pu_ctx *c, pu_tensor *logits, int k, pu_tensor **weight); /* = idx */

/* y[n] = sum over the row's experts e of weight * down_e(swiglu(gate_up_e(x[n]))). gate_up: [E, 2F, C];
 * down: [E, C, F]; rows are gathered by expert, so each expert is one product. act, order: kept for backward. */
typedef struct pu_moe_mlp_args {
  pu_tensor *x, *idx, *weight, *gate_up, *down, *y;
  pu_tensor *order;   /* i32 [N k]: slots (n * k + j) sorted by expert, then by slot */
  pu_tensor *offsets; /* i32 [E + 1]: where each expert's slots begin in order */
  pu_tensor *gu;      /* [N k, 2F] in that order */
  pu_tensor *act;     /* [N k, F] */
  pu_tensor *out;     /* [N k, C] each slot's expert output before weighting */
} pu_moe_mlp_args;
pu_tensor *pu_moe_mlp(pu_ctx *c, pu_tensor *x, pu_tensor *idx, pu_tensor *weight, pu_tensor *gate_up, pu_tensor *down);

/* Next-token cross-entropy without the batch's logits: in chunks of rows, logits = x w^T; loss[n] = logsumexp -
 * logits[target] (0 where target < 0). x: [N, C]; w: [V, C], without a tape also TILED or PACKED; targets: i32 [N];
 * loss: f32 [N].
 * With a tape the forward also leaves dx = grad_scale * d(sum of loss)/dx in `dx` and adds to w->grad at once;
 * backward only hands dx on. */
typedef struct pu_linear_cross_entropy_args {
  pu_tensor *x, *w;
  const pu_tensor *targets;
  pu_tensor *loss, *dx; /* dx: NULL without a tape */
  void *room;           /* pu_backend.loss_bytes of memory; NULL: the backend takes its own */
  float grad_scale;
} pu_linear_cross_entropy_args;
pu_tensor *pu_linear_cross_entropy(pu_ctx *c, pu_tensor *x, pu_tensor *w, const pu_tensor *targets, float grad_scale);

/* Changes single logits f32 [N, V], in place, as settings of sampling ask for it. Each row has three lists of ids, one
 * behind the other: list j of row n is [offsets[3 n + j], offsets[3 n + j + 1]) of ids and values. In this order: for each
 * id of the first x += value (a bias); of the second, the ids seen before, x = pu_penalised(x, penalty[n], value); of the
 * third x = -infinity. A list names an id once, the third may do so again; ids outside [0, V) are left out. All in f32,
 * each step rounded: the same to the bit on every backend, but for which NaN it is. Rows may lie apart.
 * penalty: f32 [N]; offsets: i32 [3 N + 1], ascending, at most M; ids: i32 [M]; values: f32 [M]. What the third list has
 * in values is not read, nor is anything behind the last offset. No backward. */
typedef struct pu_adjust_logits_args {
  pu_tensor *logits;
  const pu_tensor *penalty, *offsets, *ids, *values;
} pu_adjust_logits_args;
pu_tensor *pu_adjust_logits(pu_ctx *c, pu_tensor *logits, const pu_tensor *penalty, const pu_tensor *offsets,
                            const pu_tensor *ids, const pu_tensor *values); /* = logits */
/* The logit x of an id seen before: divided by the repetition penalty r where it is positive, else multiplied (Keskar et
 * al. 2019), less `minus`: the frequency penalty times how often it was generated, and once the presence penalty if it
 * was (OpenAI's API reference); the sum in double, then rounded. */
static inline float pu_penalised(float x, float r, float minus) {
  x *= x > 0 ? 1 / r : r;
  return x - minus;
}

/* Of each row of logits f32 [N, V], looking at its first `vocab` values only: the k largest, in order (ties: lower id; NaN
 * counts as -infinity), and sums over all of these values of e^((x - largest) scale[n]) and of e^(x - largest), both 0
 * where the largest is not finite. What a sampler needs, without the row. k: 1 to PU_TOP_MOST, at most vocab.
 * scale: f32 [N]; values: f32 [N, k]; ids: i32 [N, k]; sums: f32 [N, 2]. No backward. */
enum { PU_TOP_MOST = 256 };
typedef struct pu_top_logits_args {
  const pu_tensor *logits, *scale;
  pu_tensor *values, *ids, *sums;
  int64_t vocab;
  int k;
} pu_top_logits_args;
pu_tensor *pu_top_logits(pu_ctx *c, const pu_tensor *logits, int64_t vocab, int k, const pu_tensor *scale,
                         pu_tensor **values, pu_tensor **sums); /* = ids */

/* Sum of squares of all elements of n tensors (f32 or bf16, contiguous), in double, in an order that does not depend on threads:
 * tensor by tensor in the order of the list. out: [1] in the backend's memory, so that nobody has to wait for it. */
typedef struct pu_sum_squares_args {
  const pu_tensor *const *t;
  int n;
  double *out;
} pu_sum_squares_args;
pu_err pu_sum_squares(pu_ctx *c, const pu_tensor *const *t, int n, double *out) PU_MUST_USE;

/* Whether a step is taken whose gradients have this norm, and then what they are multiplied with: all that is decided
 * from the norm, so that a device and the host, which learns of it later, say the same. Not taken: a norm that is not
 * finite, or above `most`. *scale: as PyTorch's clip_grad_norm_ has it; clip 0: 1. */
#ifdef __CUDACC__
__host__ __device__
#endif
static inline bool pu_adamw_takes(double norm, double clip, double most, float *scale) {
  if (!(norm <= most) || norm - norm != 0) return false;
  *scale = (float)(clip > 0 && norm > clip ? clip / (norm + 1e-6) : 1);
  return true;
}

/* One AdamW step (Loshchilov & Hutter 2019) of n parameters, as PyTorch's: p *= 1 - lr wd; m = b1 m + (1 - b1) g;
 * v = b2 v + (1 - b2) g^2; p -= lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps).
 *
 * The gate, if it has squares, is asked where the gradients are: pu_adamw_takes says of sqrt(*squares) whether the step is taken, and what g
 * is first multiplied with. Nor is it taken where a value of `finite` is not finite. A step that is not taken leaves p,
 * low, m and v as they are, to the bit.
 *
 * g: f32 or bf16; m, v: both f32 or both bf16; p: f32; or bf16 with the lower halves of the f32 values in low (u16;
 * pu_split_f32); or bf16 alone. All of the same count. Computed in f32. What is bf16 (but for a p that has low) is rounded
 * stochastically: up with the probability that its distance from the lower of its neighbours is of theirs, so that what
 * is too small to be seen in one step is there on average; which way is a function of (seed, step, element). */
typedef struct pu_adamw_param {
  pu_tensor *p, *low, *g, *m, *v; /* low: NULL: none */
  float weight_decay;
  uint64_t seed;
} pu_adamw_param;
typedef struct pu_adamw_gate {
  const double *squares;   /* [1] in the backend's memory (pu_sum_squares); NULL: no gate, g is taken as it is */
  const pu_tensor *finite; /* f32, contiguous: the losses; NULL: none */
  double clip, most;       /* 0: no clipping; INFINITY: no norm is too large */
} pu_adamw_gate;
typedef struct pu_adamw_args {
  const pu_adamw_param *of;
  int n;
  float lr, beta1, beta2, eps;
  int64_t step; /* from 1 */
  pu_adamw_gate gate;
} pu_adamw_args;
pu_err pu_adamw(pu_ctx *c, const pu_adamw_args *a) PU_MUST_USE;

/* Lays a plain [M, K] weight (f32 or bf16; M, K any) out for inference (PU_LAYOUT_TILED) into memory from c->mem.
 * shape stays [M, K]. */
typedef struct pu_tile_weight_args {
  const pu_tensor *w;
  pu_tensor *out;
} pu_tile_weight_args;
pu_tensor *pu_tile_weight(pu_ctx *c, const pu_tensor *w);
size_t pu_tiled_bytes(pu_dtype dtype, int64_t rows, int64_t cols);
/* A plain bf16 [M, K] to PU_LAYOUT_FP8, a scale a row. out: of that layout and shape, with memory. Both by the operation
 * tile_weight. */
pu_err pu_fp8_weight(pu_ctx *c, const pu_tensor *w, pu_tensor *out) PU_MUST_USE;
/* The same to PU_LAYOUT_INT8, which lies likewise. */
pu_err pu_int8_weight(pu_ctx *c, const pu_tensor *w, pu_tensor *out) PU_MUST_USE;
static inline size_t pu_fp8_codes_bytes(int64_t rows, int64_t cols) {
  return (size_t)(rows * cols + 63) / 64 * 64;
}
/* Scales of a matrix in FP8 or INT8; group: its packing's. */
static inline int64_t pu_fp8_scales(int group, int64_t rows, int64_t cols) {
  return group ? ((rows + group - 1) / group) * ((cols + group - 1) / group) : rows;
}

/* Packs a matrix [M, K], or matrices [E, M, K], in few bits into out, whose shape, packing and memory (E times
 * pu_packed_bytes) are set. The rest is host memory. q: [E, M, K], a value a byte; scale, zero: [E, M, G] (zero NULL where
 * the packing has none), rounded to f16; order: [K'] the inputs that lie in place 0, 1, … (as in the packing), NULL: as
 * they come. */
typedef struct pu_pack_weight_args {
  const uint8_t *q;
  const float *scale, *zero;
  const int32_t *order;
  pu_tensor *out;
} pu_pack_weight_args;
pu_err pu_pack_weight(pu_ctx *c, const pu_pack_weight_args *a) PU_MUST_USE;
size_t pu_packed_bytes(const pu_packing *p, int64_t rows, int64_t cols);
size_t pu_weight_bytes(const pu_tensor *w); /* whatever its layout */
/* What `linear` with a PACKED weight of so many columns takes for itself. */
size_t pu_packed_work_bytes(int64_t tokens, int64_t cols, pu_dtype dtype);
/* n values in NF4 (Dettmers et al. 2023), on the host: 4 bits each by blocks of 64 values, whose largest magnitude is a block's
 * scale; and the scales, less their mean, in 8 bits by blocks of 256: 4.127 bits a value in all. There follow one another, each
 * from a multiple of 64 bytes: codes (two a byte, the first in its high half), scales' codes (a byte each), their steps (f32, one
 * for 256), their mean (f32). Codes and scales are those of bitsandbytes. */
enum { PU_NF4_BLOCK = 64, PU_NF4_SCALES = 256 };
size_t pu_nf4_bytes(int64_t n);
/* Where the parts begin, and what the codes stand for, for a device that unpacks them itself. */
typedef struct pu_nf4_parts {
  int64_t blocks, groups;          /* of values; of scales */
  size_t scale, step, mean, bytes; /* the values' codes at 0 */
} pu_nf4_parts;
pu_nf4_parts pu_nf4_parts_of(int64_t n);
typedef struct pu_nf4_values {
  float code[16], scale[256];
} pu_nf4_values;
void pu_nf4_get_values(pu_nf4_values *out);
/* By the pool's threads; NULL: the caller alone. */
pu_err pu_nf4_pack(pu_pool *pool, void *out, const float *w, int64_t n, pu_error *e) PU_MUST_USE;
/* Blocks [begin, end) of them as f32 or bf16, into their places of out [n]. */
void pu_nf4_unpack(void *out, pu_dtype type, const void *packed, int64_t n, int64_t begin, int64_t end);
static inline int64_t pu_packed_groups(const pu_packing *p, int64_t cols) {
  return (cols + p->group - 1) / p->group;
}

#endif
