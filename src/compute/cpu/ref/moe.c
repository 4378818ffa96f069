/* Mixture of experts: routing, and the experts' MLPs over rows gathered by expert.
 *
 * A slot is one (row, choice): n * k + j. `order` lists the slots by expert, `place` is its inverse: the row of gu, act
 * and out in which a slot lies. */
#include <math.h>
#include <string.h>

#include "src/compute/cpu/gemm.h"
#include "src/compute/cpu/packed.h"
#include "src/compute/cpu/ref/ref.h"
#include "src/compute/cpu/rows.h"

/* ---- routing: the k largest logits, softmax over those --------------------------------------------------------- */

static bool taken(const int32_t *idx, int j, int32_t expert) {
  for (int i = 0; i < j; i++)
    if (idx[i] == expert) return true;
  return false;
}

static void route_row(const pu_moe_route_args *a, int64_t n) {
  int32_t *idx = (int32_t *)a->idx->data + n * a->k;
  double sum = 0;
  for (int j = 0; j < a->k; j++) {
    int32_t best = -1;
    for (int32_t x = 0; x < a->logits->shape[1]; x++)
      if (!taken(idx, j, x) && (best < 0 || pu_get(a->logits, n, x) > pu_get(a->logits, n, best))) best = x;
    idx[j] = best;
    sum += exp((double)pu_get(a->logits, n, best) - (double)pu_get(a->logits, n, idx[0]));
  }
  for (int j = 0; j < a->k; j++)
    pu_set(a->weight, n, j,
           (float)(exp((double)pu_get(a->logits, n, idx[j]) - (double)pu_get(a->logits, n, idx[0])) / sum));
}

static void route_rows(void *arg, int64_t begin, int64_t end, int worker) {
  (void)worker;
  for (int64_t n = begin; n < end; n++) route_row(arg, n);
}

pu_err pu_ref_moe_route(pu_backend *be, void *args, pu_error *e) {
  const pu_moe_route_args *a = args;
  (void)e;
  pu_pool_run(((pu_cpu *)be)->pool, a->logits->shape[0], 64, route_rows, args);
  return PU_OK;
}

pu_err pu_ref_moe_route_back(pu_backend *be, void *args, pu_error *e) {
  const pu_moe_route_args *a = args;
  const pu_tensor *dw = a->weight->grad, *dl = a->logits->grad;
  float beta = pu_grad_beta(a->logits);
  (void)be;
  (void)e;
  for (int64_t n = 0; n < a->logits->shape[0]; n++) {
    const int32_t *idx = (const int32_t *)a->idx->data + n * a->k;
    float mean = 0;
    for (int j = 0; j < a->k; j++) mean += pu_get(a->weight, n, j) * pu_get(dw, n, j);
    for (int64_t x = 0; x < a->logits->shape[1]; x++) pu_acc(dl, n, x, 0, beta);
    for (int j = 0; j < a->k; j++) pu_acc(dl, n, idx[j], pu_get(a->weight, n, j) * (pu_get(dw, n, j) - mean), 1);
  }
  return PU_OK;
}

/* ---- the experts ----------------------------------------------------------------------------------------------- */

/* Work memory: matrices of one row a slot, in the order of the experts. */
typedef struct moe_work {
  int32_t *place;
  pu_tensor x;    /* [S, C] the rows of x */
  pu_tensor dout; /* [S, C] gradient of out; later, that of x's rows */
  pu_tensor dact; /* [S, F] */
  pu_tensor dgu;  /* [S, 2F] */
  void *packed;   /* what products with packed weights take */
} moe_work;

typedef struct moe_job {
  const pu_moe_mlp_args *a;
  moe_work w;
  float beta_weight, beta_x;
} moe_job;

static pu_tensor matrix(pu_dtype type, int64_t rows, int64_t cols, char **memory) {
  pu_tensor t = {.dtype = type, .ndim = 2, .shape = {rows, cols}, .stride = {cols, 1}, .data = *memory};
  if (*memory) *memory += (pu_tensor_bytes(&t) + 63) / 64 * 64;
  return t;
}

static size_t work_bytes(int64_t slots, int64_t width, int64_t inner, pu_dtype dtype, bool backward) {
  size_t row = (size_t)(width + (backward ? width + 3 * inner : 0)) * pu_dtype_size(dtype) + sizeof(int32_t);
  return (size_t)slots * row + 5 * 64; /* each of the five ends on a cache line */
}

static size_t packed_bytes(const pu_moe_mlp_args *a) {
  if (a->gate_up->layout != PU_LAYOUT_PACKED && a->down->layout != PU_LAYOUT_PACKED) return 0;
  return pu_packed_work_bytes(a->order->shape[0], PU_MAX(a->x->shape[1], a->down->shape[2]), a->x->dtype);
}

size_t pu_ref_moe_work_bytes(const pu_work_shape *s) {
  return s->experts_used ? work_bytes(s->tokens * s->experts_used, s->hidden, s->ffn, s->dtype, true) : 0;
}

static pu_err take_work(pu_cpu *cpu, const pu_moe_mlp_args *a, bool backward, moe_work *w, pu_error *e) {
  int64_t slots = a->order->shape[0], width = a->x->shape[1], inner = a->down->shape[2];
  void *work;
  size_t bytes = work_bytes(slots, width, inner, a->x->dtype, backward);
  PU_TRY(pu_cpu_work(cpu, bytes + packed_bytes(a), &work, e));
  char *at = work;
  w->place = work;
  at += ((size_t)slots * 4 + 63) / 64 * 64;
  w->x = matrix(a->x->dtype, slots, width, &at);
  w->packed = at;
  if (!backward) return PU_OK;
  w->dout = matrix(a->x->dtype, slots, width, &at);
  w->dact = matrix(a->x->dtype, slots, inner, &at);
  w->dgu = matrix(a->x->dtype, slots, 2 * inner, &at);
  return PU_OK;
}

/* Counting sort of the slots by expert. */
static pu_err sort_slots(const pu_moe_mlp_args *a, pu_error *e) {
  const int32_t *idx = a->idx->data;
  int32_t *order = a->order->data, *offsets = a->offsets->data;
  int64_t slots = a->order->shape[0], experts = a->gate_up->shape[0];
  memset(offsets, 0, (size_t)(experts + 1) * sizeof *offsets);
  for (int64_t s = 0; s < slots; s++) {
    if (idx[s] < 0 || idx[s] >= experts)
      return pu_fail(e, PU_ERR_SHAPE, "moe_mlp: expert %d of %lld", (int)idx[s], (long long)experts);
    offsets[idx[s] + 1]++;
  }
  for (int64_t x = 0; x < experts; x++) offsets[x + 1] += offsets[x];
  for (int64_t s = 0; s < slots; s++) order[offsets[idx[s]]++] = (int32_t)s;
  for (int64_t x = experts; x > 0; x--) offsets[x] = offsets[x - 1]; /* filling moved each start to the next one's */
  offsets[0] = 0;
  return PU_OK;
}

static void gather_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const moe_job *job = arg;
  const pu_moe_mlp_args *a = job->a;
  const int32_t *order = a->order->data;
  int64_t k = a->idx->shape[1];
  (void)worker;
  for (int64_t i = begin; i < end; i++) {
    job->w.place[order[i]] = (int32_t)i;
    memcpy(pu_row(&job->w.x, i), pu_row(a->x, order[i] / k), (size_t)a->x->shape[1] * pu_dtype_size(a->x->dtype));
  }
}

/* sum += scale * columns [c, c + n) of the row. */
static void add_piece(float *sum, float scale, const pu_tensor *t, int64_t row, int64_t c, int64_t n) {
  float piece[PU_PIECE];
  pu_read_piece(t, row, c, n, piece);
  for (int64_t i = 0; i < n; i++) sum[i] += scale * piece[i];
}

static void combine_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const moe_job *job = arg;
  const pu_moe_mlp_args *a = job->a;
  int64_t k = a->idx->shape[1], width = a->y->shape[1];
  (void)worker;
  for (int64_t n = begin; n < end; n++)
    for (int64_t c = 0; c < width; c += PU_PIECE) {
      int64_t m = PU_MIN(PU_PIECE, width - c);
      float sum[PU_PIECE] = {0};
      for (int64_t j = 0; j < k; j++) add_piece(sum, pu_get(a->weight, n, j), a->out, job->w.place[n * k + j], c, m);
      pu_write_piece(a->y, n, c, m, sum);
    }
}

/* The plain matrix of expert x in a [E, rows, cols] tensor. */
static pu_tensor expert_of(const pu_tensor *t, int64_t x) {
  pu_tensor m = {.dtype = t->dtype, .ndim = 2, .shape = {t->shape[1], t->shape[2]}, .stride = {t->stride[1], 1}};
  m.data = (char *)t->data + (size_t)(x * t->stride[0]) * pu_dtype_size(t->dtype);
  return m;
}

/* C[i0..i1) = A[i0..i1) W^T, or A W where not transposed: rows of one expert. */
static void rows_product(pu_cpu *cpu, const pu_tensor *a, const pu_tensor *w, bool transposed, const pu_tensor *c,
                         int64_t i0, int64_t i1) {
  pu_gemm g = {.m = i1 - i0,
               .n = c->shape[1],
               .k = a->shape[1],
               .a = pu_row(a, i0),
               .b = w->data,
               .c = pu_row(c, i0),
               .a_row = a->stride[0],
               .a_col = 1,
               .b_row = transposed ? 1 : w->stride[0],
               .b_col = transposed ? w->stride[0] : 1,
               .c_row = c->stride[0],
               .ab_type = a->dtype,
               .c_type = c->dtype,
               .alpha = 1};
  pu_cpu_gemm(cpu, &g);
}

/* dW (+)= A[i0..i1)^T B[i0..i1). */
static void weight_product(pu_cpu *cpu, const pu_tensor *a, const pu_tensor *b, const pu_tensor *dw, float beta,
                           int64_t i0, int64_t i1) {
  pu_gemm g = {.m = a->shape[1],
               .n = b->shape[1],
               .k = i1 - i0,
               .a = pu_row(a, i0),
               .b = pu_row(b, i0),
               .c = dw->data,
               .a_row = 1,
               .a_col = a->stride[0],
               .b_row = b->stride[0],
               .b_col = 1,
               .c_row = dw->stride[0],
               .ab_type = a->dtype,
               .c_type = dw->dtype,
               .alpha = 1,
               .beta = beta};
  pu_cpu_gemm(cpu, &g);
}

static pu_tensor rows_of(const pu_tensor *t, int64_t i0, int64_t i1) {
  pu_tensor part = *t;
  part.data = pu_row(t, i0);
  part.shape[0] = i1 - i0;
  return part;
}

static void packed_product(pu_cpu *cpu, const pu_tensor *in, const pu_tensor *w, const pu_tensor *out, int64_t i0,
                           int64_t i1, void *work) {
  pu_tensor x = rows_of(in, i0, i1), y = rows_of(out, i0, i1);
  pu_cpu_linear_packed(cpu, &x, w, NULL, &y, work);
}

static void experts_product(pu_cpu *cpu, const moe_job *job, const pu_tensor *in, const pu_tensor *w, bool transposed,
                            const pu_tensor *out) {
  const int32_t *offsets = job->a->offsets->data;
  for (int64_t x = 0; x < w->shape[0]; x++) {
    if (w->layout == PU_LAYOUT_PACKED) {
      pu_tensor packed = pu_packed_matrix(w, x);
      packed_product(cpu, in, &packed, out, offsets[x], offsets[x + 1], job->w.packed);
      continue;
    }
    pu_tensor m = expert_of(w, x);
    rows_product(cpu, in, &m, transposed, out, offsets[x], offsets[x + 1]);
  }
}

static void experts_weights_back(pu_cpu *cpu, const pu_moe_mlp_args *a, const pu_tensor *dy, const pu_tensor *in,
                                 pu_tensor *w) {
  const int32_t *offsets = a->offsets->data;
  if (!w->grad) return;
  float beta = pu_grad_beta(w);
  for (int64_t x = 0; x < w->shape[0]; x++) {
    pu_tensor dw = expert_of(w->grad, x);
    weight_product(cpu, dy, in, &dw, beta, offsets[x], offsets[x + 1]);
  }
}

pu_err pu_ref_moe_mlp(pu_backend *be, void *args, pu_error *e) {
  const pu_moe_mlp_args *a = args;
  pu_cpu *cpu = (pu_cpu *)be;
  moe_job job = {.a = a};
  PU_TRY(sort_slots(a, e));
  PU_TRY(take_work(cpu, a, false, &job.w, e));
  pu_pool_run(cpu->pool, a->order->shape[0], 64, gather_rows, &job);
  experts_product(cpu, &job, &job.w.x, a->gate_up, true, a->gu);
  PU_TRY(be->forward[PU_OP_swiglu](be, &(pu_swiglu_args){a->gu, a->act, false}, e));
  experts_product(cpu, &job, a->act, a->down, true, a->out);
  pu_pool_run(cpu->pool, a->y->shape[0], 16, combine_rows, &job);
  return PU_OK;
}

/* dout = weight dy, dweight = out . dy. */
static void combine_rows_back(void *arg, int64_t begin, int64_t end, int worker) {
  const moe_job *job = arg;
  const pu_moe_mlp_args *a = job->a;
  int64_t k = a->idx->shape[1], width = a->y->shape[1];
  (void)worker;
  for (int64_t s = begin; s < end; s++) {
    int64_t n = s / k, j = s % k, place = job->w.place[s];
    float weight = pu_get(a->weight, n, j), dy[PU_PIECE], out[PU_PIECE];
    double dot = 0;
    for (int64_t c = 0; c < width; c += PU_PIECE) {
      int64_t m = PU_MIN(PU_PIECE, width - c);
      pu_read_piece(a->y->grad, n, c, m, dy);
      pu_read_piece(a->out, place, c, m, out);
      for (int64_t i = 0; i < m; i++) {
        dot += (double)dy[i] * out[i];
        dy[i] *= weight;
      }
      pu_write_piece(&job->w.dout, place, c, m, dy);
    }
    if (a->weight->grad) pu_acc(a->weight->grad, n, j, (float)dot, job->beta_weight);
  }
}

static void gather_rows_back(void *arg, int64_t begin, int64_t end, int worker) {
  const moe_job *job = arg;
  const pu_moe_mlp_args *a = job->a;
  int64_t k = a->idx->shape[1], width = a->x->shape[1];
  (void)worker;
  for (int64_t n = begin; n < end; n++)
    for (int64_t c = 0; c < width; c += PU_PIECE) {
      int64_t m = PU_MIN(PU_PIECE, width - c);
      float sum[PU_PIECE] = {0};
      if (job->beta_x != 0) pu_read_piece(a->x->grad, n, c, m, sum);
      for (int64_t j = 0; j < k; j++) add_piece(sum, 1, &job->w.dout, job->w.place[n * k + j], c, m);
      pu_write_piece(a->x->grad, n, c, m, sum);
    }
}

pu_err pu_ref_moe_mlp_back(pu_backend *be, void *args, pu_error *e) {
  const pu_moe_mlp_args *a = args;
  pu_cpu *cpu = (pu_cpu *)be;
  moe_job job = {.a = a};
  int64_t slots = a->order->shape[0];
  PU_TRY(take_work(cpu, a, true, &job.w, e));
  if (a->weight->grad) job.beta_weight = pu_grad_beta(a->weight);
  pu_pool_run(cpu->pool, slots, 64, gather_rows, &job);
  pu_pool_run(cpu->pool, slots, 16, combine_rows_back, &job);
  experts_product(cpu, &job, &job.w.dout, a->down, false, &job.w.dact);
  experts_weights_back(cpu, a, &job.w.dout, a->act, a->down);
  pu_tensor gu = *a->gu, act = *a->act;
  gu.grad = &job.w.dgu;
  act.grad = &job.w.dact;
  gu.grad_set = false;
  PU_TRY(be->backward[PU_OP_swiglu](be, &(pu_swiglu_args){&gu, &act, false}, e));
  experts_weights_back(cpu, a, &job.w.dgu, &job.w.x, a->gate_up);
  if (!a->x->grad) return PU_OK;
  job.beta_x = pu_grad_beta(a->x);
  experts_product(cpu, &job, &job.w.dgu, a->gate_up, false, &job.w.dout);
  pu_pool_run(cpu->pool, a->x->shape[0], 16, gather_rows_back, &job);
  return PU_OK;
}
