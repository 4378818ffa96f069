/* lora: y += scale (x a^T) b^T, part by part. With u = x a^T: db = scale dy^T u; du = scale dy b; da = du^T x;
 * dx += du a. The products are the GEMM's. */
#include "src/compute/cpu/gemm.h"
#include "src/compute/cpu/ref/ref.h"
#include "src/compute/cpu/rows.h"

#include <string.h>

enum {
  FORWARD_ROWS = 64,   /* of an item of work: u of so many lies behind the products' scratch */
  BACKWARD_ROWS = 1024 /* of which u and du are kept at a time */
};
_Static_assert((size_t)FORWARD_ROWS *PU_LORA_MAX_RANK * 4 <= (size_t)16 << 20, "u has to fit into a worker's scratch");

static void *at(const pu_tensor *t, int64_t row, int64_t col) {
  return (char *)pu_row(t, row) + (size_t)col * pu_dtype_size(t->dtype);
}

/* c = alpha a b + beta c in f32 or bf16, by pointers and steps; what all the products here have in common. */
static pu_gemm product(const pu_lora_args *l, int64_t m, int64_t n, int64_t k) {
  return (pu_gemm){
      .m = m, .n = n, .k = k, .a_col = 1, .b_row = 1, .alpha = 1, .ab_type = l->x->dtype, .c_type = l->x->dtype};
}

/* u = x a^T of some rows. */
static pu_gemm inner(const pu_lora_args *l, const pu_lora_part *p, int64_t row, int64_t rows, void *u) {
  pu_gemm g = product(l, rows, p->a->shape[0], l->x->shape[1]);
  g.a = pu_row(l->x, row), g.a_row = l->x->stride[0];
  g.b = p->a->data, g.b_col = p->a->stride[0];
  g.c = u, g.c_row = p->a->shape[0];
  return g;
}

/* ---- forward ---- */

typedef struct forward {
  pu_cpu *cpu;
  const pu_lora_args *l;
} forward;

static int64_t items_of(const pu_lora_part *p) {
  return (p->rows + FORWARD_ROWS - 1) / FORWARD_ROWS;
}

static void run_item(const forward *f, const pu_lora_part *p, int64_t first, int worker) {
  const pu_lora_args *l = f->l;
  int64_t row = p->row + first, rows = PU_MIN(p->rows - first, (int64_t)FORWARD_ROWS);
  void *u = (char *)f->cpu->scratch[worker] + PU_GEMM_SCRATCH;
  pu_gemm down = inner(l, p, row, rows, u), up = product(l, rows, p->b->shape[0], p->b->shape[1]);
  up.a = u, up.a_row = p->b->shape[1];
  up.b = p->b->data, up.b_col = p->b->stride[0];
  up.c = at(l->y, row, p->from), up.c_row = l->y->stride[0];
  up.alpha = p->scale, up.beta = 1;
  pu_cpu_gemm_one(f->cpu, &down, worker);
  pu_cpu_gemm_one(f->cpu, &up, worker);
}

static void run_items(void *arg, int64_t begin, int64_t end, int worker) {
  const forward *f = arg;
  const pu_lora_part *p = f->l->parts;
  int64_t before = 0; /* items of the parts before p */
  for (int64_t i = begin; i < end; i++) {
    for (; i - before >= items_of(p); p++) before += items_of(p);
    run_item(f, p, (i - before) * FORWARD_ROWS, worker);
  }
}

pu_err pu_ref_lora(pu_backend *be, void *args, pu_error *e) {
  forward f = {(pu_cpu *)be, args};
  int64_t items = 0;
  (void)e;
  for (int i = 0; i < f.l->n; i++) items += items_of(&f.l->parts[i]);
  pu_pool_run(f.cpu->pool, items, 1, run_items, &f);
  return PU_OK;
}

/* ---- backward ---- */

size_t pu_ref_lora_work_bytes(const pu_work_shape *s) {
  return 2 * (size_t)PU_MIN(s->tokens, (int64_t)BACKWARD_ROWS) * (size_t)s->rank * pu_dtype_size(s->dtype);
}

/* Rows [row, row + rows) of one part; u, du: [rows, r]. Gradients are added to: they hold a value. */
static void rows_back(pu_cpu *cpu, const pu_lora_args *l, const pu_lora_part *p, int64_t row, int64_t rows, void *u,
                      void *du) {
  const pu_tensor *dy = l->y->grad;
  int64_t rank = p->a->shape[0], width = p->b->shape[0];
  if (p->b->grad) {
    pu_gemm again = inner(l, p, row, rows, u), g = product(l, width, rank, rows);
    pu_cpu_gemm(cpu, &again);
    g.a = at(dy, row, p->from), g.a_row = 1, g.a_col = dy->stride[0];
    g.b = u, g.b_row = rank, g.b_col = 1;
    g.c = p->b->grad->data, g.c_row = p->b->grad->stride[0], g.c_type = p->b->grad->dtype;
    g.alpha = p->scale, g.beta = pu_grad_beta(p->b);
    pu_cpu_gemm(cpu, &g);
  }
  pu_gemm g = product(l, rows, rank, width);
  g.a = at(dy, row, p->from), g.a_row = dy->stride[0];
  g.b = p->b->data, g.b_row = p->b->stride[0], g.b_col = 1;
  g.c = du, g.c_row = rank, g.alpha = p->scale;
  pu_cpu_gemm(cpu, &g);
  if (p->a->grad) {
    g = product(l, rank, l->x->shape[1], rows);
    g.a = du, g.a_row = 1, g.a_col = rank;
    g.b = pu_row(l->x, row), g.b_row = l->x->stride[0], g.b_col = 1;
    g.c = p->a->grad->data, g.c_row = p->a->grad->stride[0], g.c_type = p->a->grad->dtype;
    g.beta = pu_grad_beta(p->a);
    pu_cpu_gemm(cpu, &g);
  }
  if (l->x->grad) {
    g = product(l, rows, l->x->shape[1], rank);
    g.a = du, g.a_row = rank;
    g.b = p->a->data, g.b_row = p->a->stride[0], g.b_col = 1;
    g.c = pu_row(l->x->grad, row), g.c_row = l->x->grad->stride[0], g.c_type = l->x->grad->dtype;
    g.beta = 1;
    pu_cpu_gemm(cpu, &g);
  }
}

/* Rows of x that belong to no part have a gradient too: 0, where nothing else has given one. */
static void begin_grad(pu_tensor *x) {
  if (!x->grad || pu_grad_beta(x) != 0) return;
  for (int64_t n = 0; n < x->grad->shape[0]; n++)
    memset(pu_row(x->grad, n), 0, (size_t)x->grad->shape[1] * pu_dtype_size(x->grad->dtype));
}

pu_err pu_ref_lora_back(pu_backend *be, void *args, pu_error *e) {
  const pu_lora_args *l = args;
  begin_grad(l->x);
  for (int i = 0; i < l->n; i++) {
    const pu_lora_part *p = &l->parts[i];
    size_t one = (size_t)PU_MIN(p->rows, (int64_t)BACKWARD_ROWS) * (size_t)p->a->shape[0] * pu_dtype_size(l->x->dtype);
    void *work;
    PU_TRY(pu_cpu_work((pu_cpu *)be, 2 * one, &work, e));
    for (int64_t at_row = 0; at_row < p->rows; at_row += BACKWARD_ROWS)
      rows_back((pu_cpu *)be, l, p, p->row + at_row, PU_MIN(p->rows - at_row, (int64_t)BACKWARD_ROWS), work,
                (char *)work + one);
  }
  return PU_OK;
}
