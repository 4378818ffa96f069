/* linear: y = x w^T + b. dx = dy w; dw = dy^T x; db = column sums of dy. The products are the GEMM's. */
#include "src/compute/cpu/gemm.h"
#include "src/compute/cpu/packed.h"
#include "src/compute/cpu/ref/ref.h"
#include "src/compute/cpu/rows.h"

static void unpack_blocks(void *arg, int64_t begin, int64_t end, int worker) {
  const pu_tensor *const *w = arg; /* packed, plain */
  (void)worker;
  pu_nf4_unpack(w[1]->data, w[1]->dtype, w[0]->data, pu_tensor_count(w[0]), begin, end);
}

static size_t unpacked_bytes(const pu_tensor *w) {
  return w->layout == PU_LAYOUT_NF4 ? (pu_tensor_bytes(w) + 63) / 64 * 64 : 0;
}

/* A weight in NF4 as it is computed with, in `memory`; any other is itself. */
static const pu_tensor *unpacked(pu_cpu *cpu, const pu_tensor *w, void *memory, pu_tensor *plain) {
  if (w->layout != PU_LAYOUT_NF4) return w;
  *plain = *w;
  plain->layout = PU_LAYOUT_PLAIN;
  plain->data = memory;
  const pu_tensor *both[2] = {w, plain};
  pu_pool_run(cpu->pool, (pu_tensor_count(w) + PU_NF4_BLOCK - 1) / PU_NF4_BLOCK, 256, unpack_blocks, both);
  return plain;
}

pu_err pu_ref_linear(pu_backend *be, void *args, pu_error *e) {
  const pu_linear_args *a = args;
  pu_cpu *cpu = (pu_cpu *)be;
  pu_tensor plain;
  void *memory = NULL;
  if (a->w->layout == PU_LAYOUT_PACKED) {
    void *work;
    PU_TRY(pu_cpu_work(cpu, pu_packed_work_bytes(a->x->shape[0], a->x->shape[1], a->x->dtype), &work, e));
    pu_cpu_linear_packed(cpu, a->x, a->w, a->b, a->y, work);
    return PU_OK;
  }
  if (a->w->layout == PU_LAYOUT_FP8) return pu_ref_linear_of_fp8(cpu, a, e);
  if (a->w->layout == PU_LAYOUT_INT8) return pu_ref_linear_of_int8(cpu, a, e);
  if (a->w->layout == PU_LAYOUT_TILED) {
    pu_cpu_linear_tiled(cpu, a->x, a->w, a->b, a->y);
    return PU_OK;
  }
  PU_TRY(pu_cpu_work(cpu, unpacked_bytes(a->w), &memory, e));
  const pu_tensor *w = unpacked(cpu, a->w, memory, &plain);
  pu_gemm g = {.m = a->x->shape[0],
               .n = a->w->shape[0],
               .k = a->x->shape[1],
               .a = a->x->data,
               .b = w->data,
               .c = a->y->data,
               .a_row = a->x->stride[0],
               .a_col = 1,
               .b_row = 1,
               .b_col = a->w->stride[0],
               .c_row = a->y->stride[0],
               .ab_type = a->x->dtype,
               .c_type = a->y->dtype,
               .alpha = 1,
               .bias = a->b ? a->b->data : NULL,
               .bias_type = a->b ? a->b->dtype : PU_F32};
  pu_cpu_gemm(cpu, &g);
  return PU_OK;
}

typedef struct bias_back {
  const pu_tensor *dy;
  pu_tensor *db;
  float beta;
} bias_back;

static void sum_columns(void *arg, int64_t begin, int64_t end, int worker) {
  const bias_back *b = arg;
  float sum[PU_PIECE] = {0}, dy[PU_PIECE];
  (void)worker;
  for (int64_t n = 0; n < b->dy->shape[0]; n++) {
    pu_read_piece(b->dy, n, begin, end - begin, dy);
    for (int64_t m = 0; m < end - begin; m++) sum[m] += dy[m];
  }
  for (int64_t m = begin; m < end; m++) pu_acc(b->db, 0, m, sum[m - begin], b->beta);
}

void pu_ref_bias_back(pu_cpu *cpu, const pu_tensor *dy, pu_tensor *b) {
  bias_back job = {dy, b->grad, pu_grad_beta(b)};
  pu_pool_run(cpu->pool, dy->shape[1], PU_PIECE, sum_columns, &job);
}

typedef struct narrow_job {
  const pu_tensor *from, *to;
} narrow_job;

static void narrow_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const narrow_job *job = arg;
  (void)worker;
  for (int64_t n = begin; n < end; n++)
    pu_convert(pu_row(job->to, n), job->to->dtype, pu_row(job->from, n), job->from->dtype, job->from->shape[1]);
}

/* dy in the type of the weights, as the products want it (it differs where y was asked for in f32), behind the first
 * `before` bytes of work memory, which are the caller's. */
static pu_err like_weights(pu_cpu *cpu, const pu_tensor *dy, pu_dtype type, size_t before, void **memory,
                           pu_tensor *out, pu_error *e) {
  *out = *dy;
  out->dtype = type;
  PU_TRY(pu_cpu_work(cpu, before + (dy->dtype == type ? 0 : pu_tensor_bytes(out)), memory, e));
  if (dy->dtype == type) return PU_OK;
  out->stride[0] = dy->shape[1];
  out->data = (char *)*memory + before;
  narrow_job job = {dy, out};
  pu_pool_run(cpu->pool, dy->shape[0], 64, narrow_rows, &job);
  return PU_OK;
}

pu_err pu_ref_linear_back(pu_backend *be, void *args, pu_error *e) {
  const pu_linear_args *a = args;
  pu_cpu *cpu = (pu_cpu *)be;
  pu_tensor dy, plain;
  void *memory;
  PU_TRY(like_weights(cpu, a->y->grad, a->w->dtype, unpacked_bytes(a->w), &memory, &dy, e));
  int64_t n = a->x->shape[0], k = a->x->shape[1], m = a->w->shape[0];
  if (a->w->grad && !a->no_dw) {
    pu_gemm g = {.m = m,
                 .n = k,
                 .k = n,
                 .a = dy.data,
                 .b = a->x->data,
                 .c = a->w->grad->data,
                 .a_row = 1,
                 .a_col = dy.stride[0],
                 .b_row = a->x->stride[0],
                 .b_col = 1,
                 .c_row = a->w->grad->stride[0],
                 .ab_type = dy.dtype,
                 .c_type = a->w->grad->dtype,
                 .alpha = 1,
                 .beta = pu_grad_beta(a->w)};
    pu_cpu_gemm(cpu, &g);
  }
  if (a->b && a->b->grad && !a->no_dw) pu_ref_bias_back(cpu, a->y->grad, a->b);
  if (a->x->grad && !a->no_dx) {
    const pu_tensor *w = unpacked(cpu, a->w, memory, &plain);
    pu_gemm g = {.m = n,
                 .n = k,
                 .k = m,
                 .a = dy.data,
                 .b = w->data,
                 .c = a->x->grad->data,
                 .a_row = dy.stride[0],
                 .a_col = 1,
                 .b_row = a->w->stride[0],
                 .b_col = 1,
                 .c_row = a->x->grad->stride[0],
                 .ab_type = dy.dtype,
                 .c_type = a->x->grad->dtype,
                 .alpha = 1,
                 .beta = pu_grad_beta(a->x)};
    pu_cpu_gemm(cpu, &g);
  }
  return PU_OK;
}

pu_err pu_ref_tile_weight(pu_backend *be, void *args, pu_error *e) {
  const pu_tile_weight_args *a = args;
  (void)e;
  if (a->out->layout == PU_LAYOUT_FP8)
    pu_ref_fp8_weight(a->w, a->out);
  else if (a->out->layout == PU_LAYOUT_INT8)
    pu_ref_int8_weight((pu_cpu *)be, a->w, a->out);
  else
    pu_cpu_tile_weight((pu_cpu *)be, a->w, a->out);
  return PU_OK;
}
