/* Matrix products: cuBLASLt, own kernels where it has none, and the choice between them.
 *
 * cuBLASLt thinks in columns: a row-major y [rows, cols] is a column-major [cols, rows], so b comes first there.
 *
 * No sum is ever split. Then each element of y is summed in one sequence: on tensor cores in steps of 16, in every
 * kernel that cuBLASLt has for this and in skinny.cu and grouped_tensor.cuh; of E4M3 with a scale for each row, 128
 * values by themselves, then these sums. So the bits of a row do not depend on the number of rows, and it does not
 * matter to them which algorithm is taken: candidates are timed when a shape is first seen, and the fastest is kept. A
 * candidate whose bits are not those of the reference is left out: of the skinny kernel, for steady products, else of
 * the first candidate, which is the heuristic's and so the same in each run. Where nothing can be timed (a graph is
 * being captured, y is added to, f32), the first candidate is taken. Steady products of few rows are the skinny
 * kernel's without a choice, where there is one. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/compute/cuda/graphs.h"
#include "src/compute/cuda/grouped.h"
#include "src/compute/cuda/product.h"
#include "src/compute/cuda/use.h"

static float scale_of(const pu_cuda_product *p) {
  return p->scaled ? p->alpha : 1;
}

/* ---- plain: f32 sums in order, any steps, any alignment ---------------------------------------------------------- */

static pu_err plain_multiply(pu_cuda *d, const pu_cuda_product *p, pu_error *e) {
  pu_cuda_groups common = {p->type, p->y_type, p->cols, PU_STRIP_PLAIN};
  pu_cuda_group g = {p->a, p->b, p->y, p->bias};
  g.a_row = p->a_turned ? 1 : p->a_step, g.a_inner = p->a_turned ? p->a_step : 1;
  g.b_col = p->b_turned ? 1 : p->b_step, g.b_inner = p->b_turned ? p->b_step : 1;
  g.y_step = p->y_step;
  g.rows = (int32_t)p->rows, g.cols = (int32_t)p->cols, g.inner = (int32_t)p->inner;
  g.alpha = scale_of(p), g.beta = p->beta, g.bias_f32 = p->bias_type == PU_F32;
  return pu_cuda_grouped(d, &common, &g, 1, e);
}

/* ---- cuBLASLt: how a product is described -------------------------------------------------------------------- */

/* At the end of cuBLASLt's own work memory: a bias in y's type, as its algorithms want it. */
enum { BIAS_BYTES = 1 << 20, LT_BYTES = PU_CUDA_LT_BYTES - BIAS_BYTES };

typedef struct lt_problem {
  cublasLtMatmulDescOpaque_t op;
  cublasLtMatrixLayoutOpaque_t b, a, y; /* its first operand is our b */
} lt_problem;

static cudaDataType lt_type(pu_dtype t) {
  return t == PU_F32 ? CUDA_R_32F : t == PU_I32 ? CUDA_R_32I : CUDA_R_16BF;
}

static bool lt_set(cublasLtMatmulDescOpaque_t *op, cublasLtMatmulDescAttributes_t what, const void *value,
                   size_t size) {
  return cublasLtMatmulDescSetAttribute(op, what, value, size) == CUBLAS_STATUS_SUCCESS;
}

static cudaDataType lt_operand(const pu_cuda_product *p, bool gradient) {
  if (p->int8) return CUDA_R_8I;
  return !p->fp8 ? lt_type(p->type) : gradient ? CUDA_R_8F_E5M2 : CUDA_R_8F_E4M3;
}

static bool lt_scales(lt_problem *lt, const pu_cuda_product *p) {
  int8_t rough = p->rough;
  int32_t mode = p->by_rows ? CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F : CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F;
  return lt_set(&lt->op, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode, sizeof mode) &&
         lt_set(&lt->op, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &mode, sizeof mode) &&
         lt_set(&lt->op, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &p->b_scale, sizeof p->b_scale) &&
         lt_set(&lt->op, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &p->a_scale, sizeof p->a_scale) &&
         lt_set(&lt->op, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &rough, sizeof rough);
}

static bool lt_bias(lt_problem *lt, const pu_cuda_product *p) {
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
  int32_t type = lt_type(p->bias_type);
  return lt_set(&lt->op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue) &&
         lt_set(&lt->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p->bias, sizeof p->bias) &&
         lt_set(&lt->op, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof type);
}

static bool lt_describe(lt_problem *lt, const pu_cuda_product *p) {
  cublasOperation_t first = p->b_turned ? CUBLAS_OP_N : CUBLAS_OP_T, second = p->a_turned ? CUBLAS_OP_T : CUBLAS_OP_N;
  uint64_t b0 = (uint64_t)(p->b_turned ? p->cols : p->inner), b1 = (uint64_t)(p->b_turned ? p->inner : p->cols);
  uint64_t a0 = (uint64_t)(p->a_turned ? p->rows : p->inner), a1 = (uint64_t)(p->a_turned ? p->inner : p->rows);
  cublasComputeType_t sums = p->int8 ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F;
  bool ok =
      cublasLtMatmulDescInit(&lt->op, sums, p->int8 ? CUDA_R_32I : CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
      lt_set(&lt->op, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first) &&
      lt_set(&lt->op, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second) &&
      cublasLtMatrixLayoutInit(&lt->b, lt_operand(p, false), b0, b1, p->b_step) == CUBLAS_STATUS_SUCCESS &&
      cublasLtMatrixLayoutInit(&lt->a, lt_operand(p, p->a_gradient), a0, a1, p->a_step) == CUBLAS_STATUS_SUCCESS &&
      cublasLtMatrixLayoutInit(&lt->y, lt_type(p->y_type), (uint64_t)p->cols, (uint64_t)p->rows, p->y_step) ==
          CUBLAS_STATUS_SUCCESS;
  if (ok && p->fp8) ok = lt_scales(lt, p);
  return ok && p->bias ? lt_bias(lt, p) : ok;
}

static cublasStatus_t lt_run(pu_cuda *d, const pu_cuda_product *p, const cublasLtMatmulAlgo_t *algo) {
  lt_problem lt;
  float alpha = scale_of(p);
  int32_t one = 1, zero = 0;
  const void *by = p->int8 ? (const void *)&one : &alpha, *beta = p->int8 ? (const void *)&zero : &p->beta;
  if (!lt_describe(&lt, p)) return CUBLAS_STATUS_INVALID_VALUE;
  return cublasLtMatmul(d->lt, &lt.op, by, p->b, &lt.b, p->a, &lt.a, beta, p->y, &lt.y, p->y, &lt.y, algo, d->lt_work,
                        LT_BYTES, d->stream);
}

/* ---- cuBLASLt: which of its algorithms ------------------------------------------------------------------------ */

/* What an algorithm is chosen by. Rows that are tokens count by classes, so that a server does not choose anew for each
 * length of a prompt. Alignment counts up to 16 bytes, so that the choice does not depend on where memory happens to
 * lie. Cleared before it is filled: it is compared byte by byte. */
typedef struct product_key {
  int64_t rows, cols, inner, a_step, b_step, y_step;
  int32_t a_align, b_align, y_align;
  uint8_t a_turned, b_turned, type, y_type, bias, steady, fp8, int8, a_gradient, rough, by_rows, used;
} product_key;

typedef struct choice {
  product_key key;
  cublasLtMatmulAlgo_t algo;
  bool found, settled; /* settled: timed, or not to be timed */
  int tries;
} choice;

enum { CHOICES = 1 << 12 }; /* a power of two; all are forgotten when three quarters are taken */

struct pu_cuda_linear {
  choice choices[CHOICES];
  int used;
};

void pu_cuda_linear_close(pu_cuda *d) {
  free(d->linear);
}

static int32_t alignment(const void *p) {
  uintptr_t at = (uintptr_t)p | 16;
  return (int32_t)(at & (0 - at));
}

/* Up to 8, 16, 32…; later to the next of four steps between powers of two. */
static int64_t class_of(int64_t n) {
  int64_t step = n <= 8 ? 8 : 16;
  while (step * 8 < n) step *= 2;
  return ceil_div(n, step) * step;
}

static product_key key_of(const pu_cuda_product *p) {
  product_key k;
  memset(&k, 0, sizeof k);
  k.rows = p->a_turned ? p->rows : class_of(p->rows), k.cols = p->cols;
  k.inner = p->a_turned ? class_of(p->inner) : p->inner;
  k.a_step = p->a_step, k.b_step = p->b_step, k.y_step = p->y_step;
  k.a_align = alignment(p->a), k.b_align = alignment(p->b), k.y_align = alignment(p->y);
  k.a_turned = p->a_turned, k.b_turned = p->b_turned;
  k.type = (uint8_t)p->type, k.y_type = (uint8_t)p->y_type;
  k.bias = p->bias != NULL;
  k.fp8 = p->fp8, k.int8 = p->int8, k.a_gradient = p->a_gradient, k.rough = p->rough, k.by_rows = p->by_rows;
  k.steady = p->steady, k.used = 1;
  return k;
}

static bool lt_prefer(cublasLtMatmulPreferenceOpaque_t *pref, cublasLtMatmulPreferenceAttributes_t what,
                      const void *value, size_t size) {
  return cublasLtMatmulPreferenceSetAttribute(pref, what, value, size) == CUBLAS_STATUS_SUCCESS;
}

enum { CANDIDATES = 8, MOST_CANDIDATES = 4 * CANDIDATES, MOST_TRIES = 4 };

/* The heuristic's candidates, best first; how many. */
static int lt_candidates(pu_cuda *d, const pu_cuda_product *p, cublasLtMatmulHeuristicResult_t *out) {
  cublasLtMatmulPreferenceOpaque_t pref;
  lt_problem lt;
  size_t work = LT_BYTES;
  uint32_t split = CUBLASLT_REDUCTION_SCHEME_NONE;
  uint32_t a = (uint32_t)alignment(p->a), b = (uint32_t)alignment(p->b), y = (uint32_t)alignment(p->y);
  int n = 0;
  bool ok = lt_describe(&lt, p) && cublasLtMatmulPreferenceInit(&pref) == CUBLAS_STATUS_SUCCESS &&
            lt_prefer(&pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &work, sizeof work) &&
            lt_prefer(&pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &split, sizeof split) &&
            lt_prefer(&pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &b, sizeof b) &&
            lt_prefer(&pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &a, sizeof a) &&
            lt_prefer(&pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &y, sizeof y) &&
            lt_prefer(&pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &y, sizeof y) &&
            cublasLtMatmulAlgoGetHeuristic(d->lt, &lt.op, &lt.b, &lt.a, &lt.y, &lt.y, &pref, CANDIDATES, out, &n) ==
                CUBLAS_STATUS_SUCCESS;
  return ok ? n : 0;
}

static bool aligned(const void *data, int64_t step, pu_dtype type) {
  return ((uintptr_t)data | (size_t)step * pu_dtype_size(type)) % 16 == 0;
}

/* Steady f32 products, and steady ones whose rows do not lie well, are the plain kernel's for any number of rows. */
static bool steady_is_plain(const pu_cuda_product *p) {
  return p->type == PU_F32 || p->inner % 8 != 0 || !aligned(p->a, p->a_step, p->type) ||
         !aligned(p->b, p->b_step, p->type) || !aligned(p->y, p->y_step, p->y_type);
}

static bool skinny_can(const pu_cuda *d, const pu_cuda_product *p) {
  return pu_cuda_has_skinny(d) && p->steady && !p->int8 && (!p->fp8 || p->by_rows) && !p->a_turned && !p->b_turned &&
         p->beta == 0 && !p->scaled;
}

/* Few rows: nothing is chosen then, as timing candidates would cost the first tokens half a second. */
bool pu_cuda_few_rows(const pu_cuda *d, const pu_cuda_product *p) {
  return p->rows <= PU_SKINNY_ROWS && p->inner > 0 && skinny_can(d, p) && !steady_is_plain(p);
}

/* ---- timing candidates ---- */

/* A sum over all bits of y, each with its place, and how many values are not 0. */
typedef struct digest {
  unsigned long long sum, live;
} digest;

enum { DIGEST_THREADS = 256, DIGEST_BLOCKS = 1024 };

template <typename B>
__global__ void digest_kernel(const B *y, int64_t step, int64_t cols, int64_t count, digest *out) {
  unsigned long long sum = 0, live = 0;
  for (int64_t i = (int64_t)blockIdx.x * DIGEST_THREADS + threadIdx.x; i < count; i += DIGEST_THREADS * DIGEST_BLOCKS) {
    unsigned long long v = y[i / cols * step + i % cols];
    unsigned long long h = (v + 1) * 0x9e3779b97f4a7c15ull ^ (unsigned long long)i * 0xbf58476d1ce4e5b9ull;
    sum += (h ^ h >> 29) * 0x94d049bb133111ebull;
    live += v != 0;
  }
  atomicAdd(&out->sum, sum); /* of integers: any order gives the same */
  atomicAdd(&out->live, live);
}

static pu_err digest_rows(pu_cuda *d, const pu_cuda_product *p, const void *y, int64_t step, int64_t rows, digest *out,
                          pu_error *e) {
  digest *device = (digest *)((char *)d->lt_work + LT_BYTES - 256);
  PU_CUDA_TRY(cudaMemsetAsync(device, 0, sizeof *device, d->stream), "comparing products", e);
  if (p->y_type != PU_BF16)
    digest_kernel<<<DIGEST_BLOCKS, DIGEST_THREADS, 0, d->stream>>>((const uint32_t *)y, step, p->cols, rows * p->cols,
                                                                   device);
  else
    digest_kernel<<<DIGEST_BLOCKS, DIGEST_THREADS, 0, d->stream>>>((const uint16_t *)y, step, p->cols, rows * p->cols,
                                                                   device);
  PU_TRY(pu_cuda_launched("comparing products", e));
  PU_CUDA_TRY(cudaMemcpyAsync(out, device, sizeof *out, cudaMemcpyDeviceToHost, d->stream), "comparing products", e);
  PU_CUDA_TRY(cudaStreamSynchronize(d->stream), "comparing products", e);
  return PU_OK;
}

typedef struct timing {
  cudaEvent_t begin, end;
  int64_t steady_rows; /* the first rows, as the skinny kernel gives them; 0: it does not */
  digest want_few;     /* of those */
  digest want;         /* of all, by the first candidate that was taken */
  float best;          /* milliseconds */
} timing;

static bool same(const digest *a, const digest *b) {
  return a->sum == b->sum && a->live == b->live;
}

/* The first rows by the skinny kernel, into cuBLASLt's work memory: as many as half of it holds. */
static pu_err steady_reference(pu_cuda *d, const pu_cuda_product *p, timing *t, pu_error *e) {
  pu_cuda_product few = *p;
  few.y = d->lt_work, few.y_step = ceil_div(p->cols, 8) * 8;
  few.rows = PU_MIN(PU_MIN(p->rows, (int64_t)PU_SKINNY_ROWS), LT_BYTES / 2 / (few.y_step * (int64_t)sizeof(float)));
  t->steady_rows = skinny_can(d, p) ? few.rows : 0;
  if (!t->steady_rows) return PU_OK;
  PU_TRY(pu_cuda_skinny(d, &few, e));
  return digest_rows(d, p, few.y, few.y_step, few.rows, &t->want_few, e);
}

/* Twice, each time with cuBLASLt's work memory written over before, so that nothing of b is left in the cache. */
static pu_err time_one(pu_cuda *d, const pu_cuda_product *p, const cublasLtMatmulAlgo_t *algo, timing *t, float *ms,
                       pu_error *e) {
  *ms = INFINITY;
  for (int i = 0; i < 2; i++) {
    float now;
    PU_CUDA_TRY(cudaMemsetAsync(d->lt_work, i, LT_BYTES - 256, d->stream), "timing products", e);
    PU_CUDA_TRY(cudaEventRecord(t->begin, d->stream), "timing products", e);
    if (lt_run(d, p, algo) != CUBLAS_STATUS_SUCCESS) return PU_OK;
    PU_CUDA_TRY(cudaEventRecord(t->end, d->stream), "timing products", e);
    PU_CUDA_TRY(cudaEventSynchronize(t->end), "timing products", e);
    PU_CUDA_TRY(cudaEventElapsedTime(&now, t->begin, t->end), "timing products", e);
    *ms = PU_MIN(*ms, now);
  }
  return PU_OK;
}

/* Runs a candidate; right: it has the bits that it must have. */
static pu_err try_one(pu_cuda *d, const pu_cuda_product *p, const cublasLtMatmulAlgo_t *algo, timing *t, bool *right,
                      pu_error *e) {
  digest few, all;
  *right = lt_run(d, p, algo) == CUBLAS_STATUS_SUCCESS;
  if (!*right) return PU_OK;
  if (t->steady_rows) {
    PU_TRY(digest_rows(d, p, p->y, p->y_step, t->steady_rows, &few, e));
    *right = same(&few, &t->want_few);
  }
  if (!*right) return PU_OK;
  PU_TRY(digest_rows(d, p, p->y, p->y_step, p->rows, &all, e));
  if (t->best == INFINITY) t->want = all;
  *right = same(&all, &t->want);
  return PU_OK;
}

/* Candidates for p; and where it has not many rows those for fewer, whose tiles waste less and take any number: the
 * heuristic does not think of them. */
static int all_candidates(pu_cuda *d, const pu_cuda_product *p, cublasLtMatmulHeuristicResult_t *out) {
  pu_cuda_product fewer = *p;
  int n = lt_candidates(d, p, out);
  if (p->a_turned || p->rows > 512) return n;
  for (fewer.rows = 16; fewer.rows <= 64 && fewer.rows < p->rows; fewer.rows *= 2)
    n += lt_candidates(d, &fewer, out + n);
  return n;
}

static pu_err time_candidates(pu_cuda *d, const pu_cuda_product *p, choice *c, timing *t, pu_error *e) {
  cublasLtMatmulHeuristicResult_t results[MOST_CANDIDATES];
  int n = all_candidates(d, p, results);
  PU_TRY(steady_reference(d, p, t, e));
  t->best = INFINITY;
  c->found = false;
  for (int i = 0; i < n; i++) {
    bool right = false;
    float ms = INFINITY;
    if (results[i].state != CUBLAS_STATUS_SUCCESS) continue;
    PU_TRY(try_one(d, p, &results[i].algo, t, &right, e));
    if (right) PU_TRY(time_one(d, p, &results[i].algo, t, &ms, e));
    if (ms >= t->best) continue;
    t->best = ms;
    c->algo = results[i].algo;
    c->found = true;
  }
  /* Where half of y is zeros, bits say little: again, with other values. */
  bool telling = t->want.live > (unsigned long long)(p->rows * p->cols) / 2;
  c->settled = !c->found || telling || ++c->tries == MOST_TRIES;
  return PU_OK;
}

static pu_err settle(pu_cuda *d, const pu_cuda_product *p, choice *c, pu_error *e) {
  timing t = {};
  PU_CUDA_TRY(cudaEventCreate(&t.begin), "timing products", e);
  cudaError_t err = cudaEventCreate(&t.end);
  pu_err result = err == cudaSuccess ? time_candidates(d, p, c, &t, e) : pu_cuda_fail(err, "timing products", e);
  cudaEventDestroy(t.begin);
  if (err == cudaSuccess) cudaEventDestroy(t.end);
  return result;
}

static bool may_time(pu_cuda *d, const pu_cuda_product *p) {
  pu_cuda_not_settled(d);
  cudaStreamCaptureStatus capture;
  return p->beta == 0 && cudaStreamIsCapturing(d->stream, &capture) == cudaSuccess &&
         capture == cudaStreamCaptureStatusNone;
}

/* Products that tensor cores do, and that take long enough to matter. */
static bool worth_timing(const pu_cuda_product *p) {
  return p->fp8 || p->int8 ||
         (p->type == PU_BF16 && aligned(p->a, p->a_step, p->type) && aligned(p->b, p->b_step, p->type) &&
          aligned(p->y, p->y_step, p->y_type) &&
          (double)PU_MAX(p->rows, (int64_t)PU_SKINNY_ROWS) * (double)p->cols * (double)p->inner > 0x1p24);
}

/* The first candidate; those that are not worth timing are settled with it. */
static void first_choice(pu_cuda *d, const pu_cuda_product *p, choice *c) {
  cublasLtMatmulHeuristicResult_t results[CANDIDATES];
  int n = lt_candidates(d, p, results);
  c->found = n > 0 && results[0].state == CUBLAS_STATUS_SUCCESS;
  if (c->found) c->algo = results[0].algo;
  c->settled = !worth_timing(p);
}

static choice *slot_of(pu_cuda *d, const product_key *key) {
  uint64_t at = pu_hash64(key, sizeof *key, 0) % CHOICES;
  while (d->linear->choices[at].key.used && memcmp(&d->linear->choices[at].key, key, sizeof *key) != 0)
    at = (at + 1) % CHOICES;
  return &d->linear->choices[at];
}

static pu_err find_choice(pu_cuda *d, const pu_cuda_product *p, choice **out, pu_error *e) {
  product_key key = key_of(p);
  if (!d->linear) d->linear = (pu_cuda_linear *)calloc(1, sizeof *d->linear);
  if (!d->linear) return pu_fail(e, PU_ERR_NOMEM, "cuda: no memory");
  choice *c = slot_of(d, &key);
  if (!c->key.used && d->linear->used >= CHOICES / 4 * 3) {
    memset(d->linear, 0, sizeof *d->linear);
    c = slot_of(d, &key);
  }
  if (!c->key.used) {
    d->linear->used++;
    c->key = key;
    first_choice(d, p, c);
  }
  *out = c;
  return c->settled || !may_time(d, p) ? PU_OK : settle(d, p, c, e);
}

/* ---- bias ---- */

template <typename Y> __global__ void narrow_bias_kernel(const void *from, bool f32, int64_t cols, Y *to) {
  int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < cols) to[i] = from_f32<Y>(f32 ? ((const float *)from)[i] : to_f32(((const bf16 *)from)[i]));
}

/* cuBLASLt adds a bias of y's type, so it is rounded to that (the skinny kernel does the same). */
static pu_err like_y(pu_cuda *d, pu_cuda_product *p, pu_error *e) {
  if (p->bias_type == p->y_type) return PU_OK;
  if ((size_t)p->cols * sizeof(float) > BIAS_BYTES)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "cuda: a bias of %lld values of another type", (long long)p->cols);
  void *to = (char *)d->lt_work + LT_BYTES;
  unsigned blocks = (unsigned)ceil_div(p->cols, 256);
  if (p->y_type == PU_F32)
    narrow_bias_kernel<<<blocks, 256, 0, d->stream>>>(p->bias, p->bias_type == PU_F32, p->cols, (float *)to);
  else
    narrow_bias_kernel<<<blocks, 256, 0, d->stream>>>(p->bias, p->bias_type == PU_F32, p->cols, (bf16 *)to);
  p->bias = to;
  p->bias_type = p->y_type;
  return pu_cuda_launched("a bias", e);
}

/* ---- which ---- */

/* No algorithm of cuBLASLt's is steady: strip by strip. */
static pu_err skinny_strips(pu_cuda *d, const pu_cuda_product *p, pu_error *e) {
  const size_t size = p->fp8 ? 1 : sizeof(bf16);
  pu_cuda_product strip = *p;
  for (int64_t row = 0; row < p->rows; row += PU_SKINNY_ROWS) {
    strip.rows = PU_MIN(p->rows - row, (int64_t)PU_SKINNY_ROWS);
    strip.a = (const char *)p->a + (size_t)(row * p->a_step) * size;
    if (p->fp8) strip.a_scale = p->a_scale + row;
    strip.y = (char *)p->y + (size_t)(row * p->y_step) * pu_dtype_size(p->y_type);
    PU_TRY(pu_cuda_skinny(d, &strip, e));
  }
  return PU_OK;
}

template <typename Y>
__global__ void add_bias_kernel(const void *bias, bool f32, int64_t cols, int64_t count, Y *y, int64_t step) {
  int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, col = i % cols;
  if (i >= count) return;
  Y *to = y + i / cols * step + col;
  *to = from_f32<Y>(to_f32(*to) + (f32 ? ((const float *)bias)[col] : to_f32(((const bf16 *)bias)[col])));
}

static pu_err add_bias(pu_cuda *d, const pu_cuda_product *p, pu_error *e) {
  int64_t count = p->rows * p->cols;
  unsigned blocks = (unsigned)ceil_div(count, 256);
  bool f32 = p->bias_type == PU_F32;
  if (p->y_type == PU_F32)
    add_bias_kernel<<<blocks, 256, 0, d->stream>>>(p->bias, f32, p->cols, count, (float *)p->y, p->y_step);
  else
    add_bias_kernel<<<blocks, 256, 0, d->stream>>>(p->bias, f32, p->cols, count, (bf16 *)p->y, p->y_step);
  return pu_cuda_launched("a bias", e);
}

/* FP8 and int8: but for few rows in FP8, with a scale each, there is no other way than cuBLASLt's. A bias is added
 * apart: not all of its algorithms in FP8 do that. */
static pu_err multiply_codes(pu_cuda *d, const pu_cuda_product *product, pu_error *e) {
  pu_cuda_product p = *product;
  choice *c;
  if (pu_cuda_few_rows(d, &p)) return pu_cuda_skinny(d, &p, e);
  p.bias = NULL;
  PU_TRY(find_choice(d, &p, &c, e));
  if (c->found && lt_run(d, &p, &c->algo) == CUBLAS_STATUS_SUCCESS)
    return product->bias ? add_bias(d, product, e) : PU_OK;
  if (skinny_can(d, product)) return skinny_strips(d, product, e);
  return pu_fail(e, PU_ERR_UNSUPPORTED, "cuda: cuBLASLt has no product of %lld x %lld x %lld in %s", (long long)p.rows,
                 (long long)p.cols, (long long)p.inner, p.fp8 ? "FP8" : "int8");
}

pu_err pu_cuda_multiply(pu_cuda *d, const pu_cuda_product *product, pu_error *e) {
  pu_cuda_product p = *product;
  choice *c;
  if (p.rows == 0 || p.cols == 0) return PU_OK;
  if (p.fp8 || p.int8) return multiply_codes(d, &p, e);
  if (p.inner == 0 || (p.steady && steady_is_plain(&p))) return plain_multiply(d, &p, e);
  if (pu_cuda_few_rows(d, &p)) return pu_cuda_skinny(d, &p, e);
  if (p.bias) PU_TRY(like_y(d, &p, e));
  PU_TRY(find_choice(d, &p, &c, e));
  if (c->found && lt_run(d, &p, &c->algo) == CUBLAS_STATUS_SUCCESS) return PU_OK;
  if (skinny_can(d, &p)) return skinny_strips(d, &p, e);
  /* The class's algorithm is perhaps not for this number of rows: the first one that is. */
  cublasLtMatmulHeuristicResult_t results[CANDIDATES];
  if (c->found && lt_candidates(d, &p, results) > 0 && lt_run(d, &p, &results[0].algo) == CUBLAS_STATUS_SUCCESS)
    return PU_OK;
  return plain_multiply(d, &p, e);
}
