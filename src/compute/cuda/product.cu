/* Matrix products: cuBLASLt, own kernels where it has none, and the choice between them.
 *
 * cuBLASLt thinks in columns: a row-major y [rows, cols] is a column-major [cols, rows], so b comes first there.
 *
 * Which algorithm: the first that cuBLASLt's heuristic names, kept by sizes, steps, types and alignment. Timing
 * candidates would choose differently from run to run, and a run that is killed and resumed has to give the same bits.
 *
 * Steady products: each element of y is summed over `inner` in one sequence, whatever the number of rows: algorithms
 * that split the sum are left out. On tensor cores the sequence is in steps of 16, in every kernel; see skinny.cu. */
#include <stdlib.h>
#include <string.h>

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

/* ---- bias, where cuBLASLt does not add it -------------------------------------------------------------------------
 */

enum { MAX_GRID_Y = 65535 };

template <typename Y> __global__ void bias_kernel(Y *y, int64_t step, int64_t cols, const void *bias, bool bias_f32) {
  int64_t col = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (col >= cols) return;
  float b = bias_f32 ? ((const float *)bias)[col] : to_f32(((const bf16 *)bias)[col]);
  Y *at = y + (int64_t)blockIdx.y * step + col;
  *at = from_f32<Y>(to_f32(*at) + b);
}

static pu_err add_bias(pu_cuda *d, const pu_cuda_product *p, pu_error *e) {
  size_t size = pu_dtype_size(p->y_type);
  for (int64_t row = 0; row < p->rows; row += MAX_GRID_Y) {
    void *y = (char *)p->y + (size_t)(row * p->y_step) * size;
    dim3 grid((unsigned)ceil_div(p->cols, 256), (unsigned)PU_MIN(p->rows - row, (int64_t)MAX_GRID_Y));
    if (p->y_type == PU_F32)
      bias_kernel<<<grid, 256, 0, d->stream>>>((float *)y, p->y_step, p->cols, p->bias, p->bias_type == PU_F32);
    else
      bias_kernel<<<grid, 256, 0, d->stream>>>((bf16 *)y, p->y_step, p->cols, p->bias, p->bias_type == PU_F32);
  }
  return pu_cuda_launched("adding a bias", e);
}

/* ---- cuBLASLt -------------------------------------------------------------------------------------------------------
 */

/* What an algorithm is chosen by. Alignment counts up to 16 bytes, so that the choice does not depend on where memory
 * happens to lie. Cleared before it is filled: it is compared byte by byte. */
typedef struct product_key {
  int64_t rows, cols, inner, a_step, b_step, y_step;
  int32_t a_align, b_align, y_align;
  uint8_t a_turned, b_turned, type, y_type, bias, bias_type, steady, used;
} product_key;

typedef struct choice {
  product_key key;
  cublasLtMatmulAlgo_t algo;
  bool found, bias_inside;
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

static product_key key_of(const pu_cuda_product *p) {
  product_key k;
  memset(&k, 0, sizeof k);
  k.rows = p->rows, k.cols = p->cols, k.inner = p->inner;
  k.a_step = p->a_step, k.b_step = p->b_step, k.y_step = p->y_step;
  k.a_align = alignment(p->a), k.b_align = alignment(p->b), k.y_align = alignment(p->y);
  k.a_turned = p->a_turned, k.b_turned = p->b_turned;
  k.type = (uint8_t)p->type, k.y_type = (uint8_t)p->y_type;
  k.bias = p->bias != NULL, k.bias_type = p->bias ? (uint8_t)p->bias_type : 0;
  k.steady = p->steady, k.used = 1;
  return k;
}

/* A product as cuBLASLt describes it: its first operand is our b. */
typedef struct lt_problem {
  cublasLtMatmulDescOpaque_t op;
  cublasLtMatrixLayoutOpaque_t b, a, y;
} lt_problem;

static cudaDataType lt_type(pu_dtype t) {
  return t == PU_F32 ? CUDA_R_32F : CUDA_R_16BF;
}

static bool lt_set(cublasLtMatmulDescOpaque_t *op, cublasLtMatmulDescAttributes_t what, const void *value,
                   size_t size) {
  return cublasLtMatmulDescSetAttribute(op, what, value, size) == CUBLAS_STATUS_SUCCESS;
}

static bool lt_describe(lt_problem *lt, const pu_cuda_product *p, bool bias) {
  cublasOperation_t first = p->b_turned ? CUBLAS_OP_N : CUBLAS_OP_T, second = p->a_turned ? CUBLAS_OP_T : CUBLAS_OP_N;
  uint64_t b0 = (uint64_t)(p->b_turned ? p->cols : p->inner), b1 = (uint64_t)(p->b_turned ? p->inner : p->cols);
  uint64_t a0 = (uint64_t)(p->a_turned ? p->rows : p->inner), a1 = (uint64_t)(p->a_turned ? p->inner : p->rows);
  bool ok = cublasLtMatmulDescInit(&lt->op, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
            lt_set(&lt->op, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first) &&
            lt_set(&lt->op, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second) &&
            cublasLtMatrixLayoutInit(&lt->b, lt_type(p->type), b0, b1, p->b_step) == CUBLAS_STATUS_SUCCESS &&
            cublasLtMatrixLayoutInit(&lt->a, lt_type(p->type), a0, a1, p->a_step) == CUBLAS_STATUS_SUCCESS &&
            cublasLtMatrixLayoutInit(&lt->y, lt_type(p->y_type), (uint64_t)p->cols, (uint64_t)p->rows, p->y_step) ==
                CUBLAS_STATUS_SUCCESS;
  if (!ok || !bias) return ok;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
  int32_t type = lt_type(p->bias_type);
  return lt_set(&lt->op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue) &&
         lt_set(&lt->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p->bias, sizeof p->bias) &&
         lt_set(&lt->op, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof type);
}

static bool lt_prefer(cublasLtMatmulPreferenceOpaque_t *pref, cublasLtMatmulPreferenceAttributes_t what,
                      const void *value, size_t size) {
  return cublasLtMatmulPreferenceSetAttribute(pref, what, value, size) == CUBLAS_STATUS_SUCCESS;
}

/* Sums may be split only where the parts are kept in f32 and added in order afterwards. */
static bool lt_choose(pu_cuda *d, const lt_problem *lt, const product_key *k, cublasLtMatmulAlgo_t *out) {
  cublasLtMatmulPreferenceOpaque_t pref;
  cublasLtMatmulHeuristicResult_t result;
  size_t work = PU_CUDA_LT_BYTES;
  uint32_t split = k->steady ? CUBLASLT_REDUCTION_SCHEME_NONE : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  uint32_t a = (uint32_t)k->a_align, b = (uint32_t)k->b_align, y = (uint32_t)k->y_align;
  int n = 0;
  bool ok =
      cublasLtMatmulPreferenceInit(&pref) == CUBLAS_STATUS_SUCCESS &&
      lt_prefer(&pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &work, sizeof work) &&
      lt_prefer(&pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &split, sizeof split) &&
      lt_prefer(&pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &b, sizeof b) &&
      lt_prefer(&pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &a, sizeof a) &&
      lt_prefer(&pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &y, sizeof y) &&
      lt_prefer(&pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &y, sizeof y) &&
      cublasLtMatmulAlgoGetHeuristic(d->lt, (cublasLtMatmulDesc_t)&lt->op, (cublasLtMatrixLayout_t)&lt->b,
                                     (cublasLtMatrixLayout_t)&lt->a, (cublasLtMatrixLayout_t)&lt->y,
                                     (cublasLtMatrixLayout_t)&lt->y, &pref, 1, &result, &n) == CUBLAS_STATUS_SUCCESS;
  if (!ok || n == 0 || result.state != CUBLAS_STATUS_SUCCESS) return false;
  *out = result.algo;
  return true;
}

/* The bias inside the product where there is such an algorithm, else after it. */
static void fill_choice(pu_cuda *d, choice *c, const pu_cuda_product *p) {
  lt_problem lt;
  c->bias_inside = p->bias && lt_describe(&lt, p, true) && lt_choose(d, &lt, &c->key, &c->algo);
  c->found = c->bias_inside || (lt_describe(&lt, p, false) && lt_choose(d, &lt, &c->key, &c->algo));
}

static pu_err find_choice(pu_cuda *d, const pu_cuda_product *p, const choice **out, pu_error *e) {
  product_key key = key_of(p);
  if (!d->linear) d->linear = (pu_cuda_linear *)calloc(1, sizeof *d->linear);
  if (!d->linear) return pu_fail(e, PU_ERR_NOMEM, "cuda: no memory");
  uint64_t at = pu_hash64(&key, sizeof key, 0) % CHOICES;
  while (d->linear->choices[at].key.used && memcmp(&d->linear->choices[at].key, &key, sizeof key) != 0)
    at = (at + 1) % CHOICES;
  choice *c = &d->linear->choices[at];
  *out = c;
  if (c->key.used) return PU_OK;
  if (d->linear->used >= CHOICES / 4 * 3) {
    memset(d->linear, 0, sizeof *d->linear);
    c = &d->linear->choices[pu_hash64(&key, sizeof key, 0) % CHOICES];
    *out = c;
  }
  d->linear->used++;
  c->key = key;
  fill_choice(d, c, p);
  return PU_OK;
}

static pu_err lt_multiply(pu_cuda *d, const pu_cuda_product *p, const choice *c, pu_error *e) {
  lt_problem lt;
  float alpha = scale_of(p);
  cublasStatus_t status = CUBLAS_STATUS_INVALID_VALUE;
  if (lt_describe(&lt, p, c->bias_inside))
    status = cublasLtMatmul(d->lt, &lt.op, &alpha, p->b, &lt.b, p->a, &lt.a, &p->beta, p->y, &lt.y, p->y, &lt.y,
                            &c->algo, d->lt_work, PU_CUDA_LT_BYTES, d->stream);
  if (status != CUBLAS_STATUS_SUCCESS)
    return pu_fail(e, PU_ERR_IO, "cuda: a product of %lld x %lld x %lld: %s", (long long)p->rows, (long long)p->cols,
                   (long long)p->inner, cublasLtGetStatusString(status));
  return p->bias && !c->bias_inside ? add_bias(d, p, e) : PU_OK;
}

/* ---- which ----------------------------------------------------------------------------------------------------------
 */

static bool aligned(const void *data, int64_t step, pu_dtype type) {
  return ((uintptr_t)data | (size_t)step * pu_dtype_size(type)) % 16 == 0;
}

/* Steady f32 products, and steady ones whose rows do not lie well, are the plain kernel's for any number of rows. */
static bool steady_is_plain(const pu_cuda_product *p) {
  return p->type == PU_F32 || !aligned(p->a, p->a_step, p->type) || !aligned(p->b, p->b_step, p->type) ||
         !aligned(p->y, p->y_step, p->y_type);
}

pu_err pu_cuda_multiply(pu_cuda *d, const pu_cuda_product *p, pu_error *e) {
  const choice *c;
  if (p->rows == 0 || p->cols == 0) return PU_OK;
  if (p->inner == 0 || (p->steady && steady_is_plain(p))) return plain_multiply(d, p, e);
  if (p->steady && p->rows <= PU_SKINNY_ROWS && !p->a_turned && !p->b_turned && p->beta == 0 && !p->scaled)
    return pu_cuda_skinny(d, p, e);
  PU_TRY(find_choice(d, p, &c, e));
  return c->found ? lt_multiply(d, p, c, e) : plain_multiply(d, p, e);
}
