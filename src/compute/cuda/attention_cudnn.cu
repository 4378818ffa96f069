/* Attention of equally long sequences in bf16 through cuDNN's graph interface (cudnn_backend.h, cuDNN 9). cuDNN
 * compiles a graph of small operations into one kernel when it has the shape that its attention engines know: the
 * products, the softmax step by step, the causal mask as a comparison of generated indices (NVIDIA's cuDNN
 * documentation, "Graph API: fused flash attention fprop and bprop"). Here that shape is described, once for each size
 * of batch, and kept.
 *
 * The backward is the deterministic one, unless sums may be added in any order: dq is a product of its own with dS in
 * memory, not a sum in f32 by atomic additions. dS takes heads * len^2 values a sequence, so as many sequences run at a
 * time as PU_CUDNN_SCORES bytes hold.
 *
 * The library is looked for when the first such attention runs. */
#include <cudnn_graph.h>
#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/compute/cuda/attention.h"

namespace {

enum uid { NONE, Q, K, V, O, STATS, SCALE, LOWEST, ONE, DO, DQ, DK, DV, DELTA, DQ_SUM, FIRST_VIRTUAL };
enum { MAX_DESCRIPTORS = 128, MAX_OPS = 40, MAX_PLANS = 16, DIMS = 4 };
enum { CLEARS_ITSELF = 90600 }; /* from this version on cuDNN clears what it adds dq into */

typedef cudnnBackendDescriptor_t descriptor;

/* What decides how a graph is built. */
typedef struct key {
  int64_t batch, len, lse_stride, q_row, out_row, dout_row, dqkv_row; /* rows in elements */
  int heads, share, dim, backward, any_order;
} key;

typedef struct plan {
  key of;
  descriptor all[MAX_DESCRIPTORS], plan; /* plan is one of all */
  int n;
  int64_t bytes; /* that cuDNN wants for itself */
  uint64_t used;
} plan;

typedef struct functions {
  cudnnStatus_t (*create)(cudnnHandle_t *);
  cudnnStatus_t (*destroy)(cudnnHandle_t);
  size_t (*version)(void);
  cudnnStatus_t (*set_stream)(cudnnHandle_t, cudaStream_t);
  cudnnStatus_t (*create_descriptor)(cudnnBackendDescriptorType_t, descriptor *);
  cudnnStatus_t (*destroy_descriptor)(descriptor);
  cudnnStatus_t (*finalize)(descriptor);
  cudnnStatus_t (*set)(descriptor, cudnnBackendAttributeName_t, cudnnBackendAttributeType_t, int64_t, const void *);
  cudnnStatus_t (*get)(descriptor, cudnnBackendAttributeName_t, cudnnBackendAttributeType_t, int64_t, int64_t *,
                       void *);
  cudnnStatus_t (*execute)(cudnnHandle_t, descriptor, descriptor);
  const char *(*error_text)(cudnnStatus_t);
} functions;

} // namespace

struct pu_cudnn {
  void *library; /* NULL: not there, or of no use */
  functions f;
  cudnnHandle_t handle;
  descriptor device; /* NULL: the handle's */
  plan plans[MAX_PLANS];
  uint64_t clock;
};

namespace {

/* ---- graphs ---- */

/* Being built; the first failure stays, and later steps do nothing. */
typedef struct graph {
  pu_cudnn *c;
  plan *p;
  cudnnStatus_t status;
  descriptor ops[MAX_OPS];
  int n_ops;
  int64_t next; /* uid of the next virtual tensor */
  int64_t batch, heads, groups, len, dim;
} graph;

typedef struct tensor {
  descriptor d;
  int64_t shape[DIMS], stride[DIMS];
} tensor;

bool failed(graph *g, cudnnStatus_t status) {
  if (g->status == CUDNN_STATUS_SUCCESS) g->status = status;
  return g->status != CUDNN_STATUS_SUCCESS;
}

descriptor make(graph *g, cudnnBackendDescriptorType_t type) {
  descriptor d = NULL;
  if (g->p->n == MAX_DESCRIPTORS) failed(g, CUDNN_STATUS_INTERNAL_ERROR);
  if (failed(g, CUDNN_STATUS_SUCCESS) || failed(g, g->c->f.create_descriptor(type, &d))) return NULL;
  g->p->all[g->p->n++] = d;
  return d;
}

void set(graph *g, descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t n,
         const void *values) {
  if (g->status == CUDNN_STATUS_SUCCESS) failed(g, g->c->f.set(d, name, type, n, values));
}

void set_int(graph *g, descriptor d, cudnnBackendAttributeName_t name, int64_t value) {
  set(g, d, name, CUDNN_TYPE_INT64, 1, &value);
}

void set_type(graph *g, descriptor d, cudnnBackendAttributeName_t name, cudnnDataType_t type) {
  set(g, d, name, CUDNN_TYPE_DATA_TYPE, 1, &type);
}

void set_part(graph *g, descriptor d, cudnnBackendAttributeName_t name, descriptor part) {
  set(g, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &part);
}

void finish(graph *g, descriptor d) {
  if (g->status == CUDNN_STATUS_SUCCESS) failed(g, g->c->f.finalize(d));
}

enum kind { MEMORY, VIRTUAL, VALUE };

tensor make_tensor(graph *g, int64_t uid, cudnnDataType_t type, kind k, const int64_t shape[DIMS],
                   const int64_t stride[DIMS]) {
  tensor t;
  const bool is_virtual = k == VIRTUAL, by_value = k == VALUE;
  t.d = make(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  memcpy(t.shape, shape, sizeof t.shape);
  memcpy(t.stride, stride, sizeof t.stride);
  set_int(g, t.d, CUDNN_ATTR_TENSOR_UNIQUE_ID, uid);
  set_type(g, t.d, CUDNN_ATTR_TENSOR_DATA_TYPE, type);
  set(g, t.d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, DIMS, shape);
  set(g, t.d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, DIMS, stride);
  set_int(g, t.d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 16);
  set(g, t.d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
  set(g, t.d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &by_value);
  finish(g, t.d);
  return t;
}

/* [batch, heads, len, dim] in rows of so many elements; turned: [batch, heads, dim, len] of the same memory. */
tensor of_rows(graph *g, int64_t uid, int64_t heads, int64_t row, bool turned) {
  int64_t shape[] = {g->batch, heads, g->len, g->dim}, stride[] = {g->len * row, g->dim, row, 1};
  if (turned) {
    const int64_t len = shape[2], step = stride[2];
    shape[2] = shape[3], shape[3] = len;
    stride[2] = stride[3], stride[3] = step;
  }
  return make_tensor(g, uid, CUDNN_DATA_BFLOAT16, MEMORY, shape, stride);
}

/* [batch, heads, len, 1] f32: a number a row, batch_step and head_step apart. */
tensor of_numbers(graph *g, int64_t uid, kind k, int64_t batch_step, int64_t head_step) {
  const int64_t shape[] = {g->batch, g->heads, g->len, 1}, stride[] = {batch_step, head_step, 1, 1};
  return make_tensor(g, uid ? uid : g->next++, CUDNN_DATA_FLOAT, k, shape, stride);
}

tensor virtual_numbers(graph *g) {
  return of_numbers(g, NONE, VIRTUAL, g->heads * g->len, g->len);
}

tensor of_scores(graph *g, cudnnDataType_t type) {
  const int64_t s = g->len, shape[] = {g->batch, g->heads, s, s}, stride[] = {g->heads * s * s, s * s, s, 1};
  return make_tensor(g, g->next++, type, VIRTUAL, shape, stride);
}

tensor of_value(graph *g, int64_t uid) {
  const int64_t ones[] = {1, 1, 1, 1};
  return make_tensor(g, uid, CUDNN_DATA_FLOAT, VALUE, ones, ones);
}

void add_op(graph *g, descriptor op) {
  finish(g, op);
  if (g->n_ops < MAX_OPS) g->ops[g->n_ops++] = op;
}

typedef struct pointwise_step {
  cudnnPointwiseMode_t mode;
  cudnnDataType_t type; /* that it computes in */
  int64_t axis;         /* of a generated index */
  const tensor *b, *t;  /* second and third operand, NULL: none */
} pointwise_step;

void pointwise(graph *g, pointwise_step s, const tensor *x, const tensor *y) {
  descriptor how = make(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  set(g, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &s.mode);
  set_type(g, how, CUDNN_ATTR_POINTWISE_MATH_PREC, s.type);
  if (s.mode == CUDNN_POINTWISE_GEN_INDEX) set_int(g, how, CUDNN_ATTR_POINTWISE_AXIS, s.axis);
  finish(g, how);
  descriptor op = make(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  set_part(g, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
  set_part(g, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x->d);
  if (s.b) set_part(g, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, s.b->d);
  if (s.t) set_part(g, op, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, s.t->d);
  set_part(g, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y->d);
  add_op(g, op);
}

void in_f32(graph *g, cudnnPointwiseMode_t mode, const tensor *x, const tensor *b, const tensor *y) {
  const pointwise_step s = {mode, CUDNN_DATA_FLOAT, 0, b, NULL};
  pointwise(g, s, x, y);
}

tensor on_scores(graph *g, cudnnPointwiseMode_t mode, const tensor *x, const tensor *b) {
  const tensor y = of_scores(g, CUDNN_DATA_FLOAT);
  in_f32(g, mode, x, b, &y);
  return y;
}

void multiply(graph *g, const tensor *a, const tensor *b, const tensor *y) {
  descriptor how = make(g, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  set_type(g, how, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
  finish(g, how);
  descriptor op = make(g, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  set_part(g, op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a->d);
  set_part(g, op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b->d);
  set_part(g, op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, y->d);
  set_part(g, op, CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
  add_op(g, op);
}

void reduce(graph *g, cudnnReduceTensorOp_t what, const tensor *x, const tensor *y) {
  descriptor how = make(g, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  set_type(g, how, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT);
  set(g, how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &what);
  finish(g, how);
  descriptor op = make(g, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  set_part(g, op, CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
  set_part(g, op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x->d);
  set_part(g, op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y->d);
  add_op(g, op);
}

/* The last two dimensions exchanged, as a virtual tensor. */
tensor turn(graph *g, const tensor *x) {
  const int64_t shape[] = {x->shape[0], x->shape[1], x->shape[3], x->shape[2]};
  const int64_t stride[] = {x->stride[0], x->stride[1], x->stride[3], x->stride[2]};
  const tensor y = make_tensor(g, g->next++, CUDNN_DATA_BFLOAT16, VIRTUAL, shape, stride);
  descriptor op = make(g, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  set_part(g, op, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x->d);
  set_part(g, op, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y.d);
  add_op(g, op);
  return y;
}

/* Where the query's position is not before the key's; else minus infinity. */
tensor mask(graph *g, const tensor *scores) {
  const tensor row = of_scores(g, CUDNN_DATA_INT32), col = of_scores(g, CUDNN_DATA_INT32);
  const tensor seen = of_scores(g, CUDNN_DATA_BOOLEAN), y = of_scores(g, CUDNN_DATA_FLOAT),
               lowest = of_value(g, LOWEST);
  const pointwise_step rows = {CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_FLOAT, 2, NULL, NULL};
  const pointwise_step cols = {CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_FLOAT, 3, NULL, NULL};
  const pointwise_step compare = {CUDNN_POINTWISE_CMP_GE, CUDNN_DATA_BOOLEAN, 0, &col, NULL};
  const pointwise_step choose = {CUDNN_POINTWISE_BINARY_SELECT, CUDNN_DATA_FLOAT, 0, &lowest, &seen};
  pointwise(g, rows, scores, &row);
  pointwise(g, cols, scores, &col);
  pointwise(g, compare, &row, &seen);
  pointwise(g, choose, scores, &y);
  return y;
}

/* scale q k^T, masked in the forward; the backward masks after it has this too. */
tensor scores_of(graph *g, const tensor *q, const tensor *k_turned, const tensor *scale) {
  const tensor s = of_scores(g, CUDNN_DATA_FLOAT);
  multiply(g, q, k_turned, &s);
  return on_scores(g, CUDNN_POINTWISE_MUL, &s, scale);
}

void describe_forward(graph *g, const key *of) {
  const tensor q = of_rows(g, Q, g->heads, of->q_row, false), k = of_rows(g, K, g->groups, of->q_row, true);
  const tensor v = of_rows(g, V, g->groups, of->q_row, false), out = of_rows(g, O, g->heads, of->out_row, false);
  const tensor stats = of_numbers(g, STATS, MEMORY, g->len, of->lse_stride), scale = of_value(g, SCALE);
  const tensor most = virtual_numbers(g), sum = virtual_numbers(g), log = virtual_numbers(g);
  const tensor all = scores_of(g, &q, &k, &scale), s = mask(g, &all), p = of_scores(g, CUDNN_DATA_BFLOAT16);
  reduce(g, CUDNN_REDUCE_TENSOR_MAX, &s, &most);
  const tensor below = on_scores(g, CUDNN_POINTWISE_SUB, &s, &most),
               e = on_scores(g, CUDNN_POINTWISE_EXP, &below, NULL);
  reduce(g, CUDNN_REDUCE_TENSOR_ADD, &e, &sum);
  in_f32(g, CUDNN_POINTWISE_LOG, &sum, NULL, &log);
  in_f32(g, CUDNN_POINTWISE_ADD, &most, &log, &stats);
  in_f32(g, CUDNN_POINTWISE_DIV, &e, &sum, &p);
  multiply(g, &p, &v, &out);
}

/* Gradients of one key head's rows: the query heads' sum, where they share. x^T dy -> y */
void sum_heads(graph *g, const tensor *x, const tensor *dy, int64_t uid, int64_t row) {
  const tensor turned = turn(g, x), y = of_rows(g, uid, g->groups, row, false);
  if (g->heads == g->groups) {
    multiply(g, &turned, dy, &y);
    return;
  }
  const int64_t h = g->heads, s = g->len, d = g->dim;
  const int64_t shape[] = {g->batch, h, s, d}, stride[] = {h * s * d, s * d, d, 1};
  const tensor each = make_tensor(g, g->next++, CUDNN_DATA_BFLOAT16, VIRTUAL, shape, stride);
  multiply(g, &turned, dy, &each);
  reduce(g, CUDNN_REDUCE_TENSOR_ADD, &each, &y);
}

/* A number a row: dout . out */
tensor describe_delta(graph *g, const tensor *dout, const tensor *out) {
  const int64_t h = g->heads, s = g->len, d = g->dim;
  const int64_t shape[] = {g->batch, h, s, d}, stride[] = {h * s * d, s * d, h * d, 1};
  const tensor product = make_tensor(g, g->next++, CUDNN_DATA_FLOAT, VIRTUAL, shape, stride), one = of_value(g, ONE);
  const tensor sum = virtual_numbers(g), delta = of_numbers(g, DELTA, MEMORY, h * s, s);
  in_f32(g, CUDNN_POINTWISE_MUL, dout, out, &product);
  reduce(g, CUDNN_REDUCE_TENSOR_ADD, &product, &sum);
  in_f32(g, CUDNN_POINTWISE_MUL, &sum, &one, &delta);
  return delta;
}

void describe_backward(graph *g, const key *of) {
  const tensor q = of_rows(g, Q, g->heads, of->q_row, false), k = of_rows(g, K, g->groups, of->q_row, true);
  const tensor v = of_rows(g, V, g->groups, of->q_row, true), out = of_rows(g, O, g->heads, of->out_row, false);
  const tensor dout = of_rows(g, DO, g->heads, of->dout_row, false), dq = of_rows(g, DQ, g->heads, of->dqkv_row, false);
  const tensor stats = of_numbers(g, STATS, MEMORY, g->len, of->lse_stride), scale = of_value(g, SCALE);
  const tensor delta = describe_delta(g, &dout, &out), all = scores_of(g, &q, &k, &scale);
  const tensor below = on_scores(g, CUDNN_POINTWISE_SUB, &all, &stats), s = mask(g, &below);
  const tensor p = on_scores(g, CUDNN_POINTWISE_EXP, &s, NULL);
  sum_heads(g, &p, &dout, DV, of->dqkv_row);
  const tensor dp = of_scores(g, CUDNN_DATA_FLOAT);
  multiply(g, &dout, &v, &dp);
  const tensor less = on_scores(g, CUDNN_POINTWISE_SUB, &dp, &delta), ds = on_scores(g, CUDNN_POINTWISE_MUL, &less, &p);
  const tensor scaled = of_scores(g, CUDNN_DATA_BFLOAT16);
  in_f32(g, CUDNN_POINTWISE_MUL, &ds, &scale, &scaled);
  sum_heads(g, &scaled, &q, DK, of->dqkv_row);
  const tensor k_plain = turn(g, &k);
  if (!of->any_order) {
    multiply(g, &scaled, &k_plain, &dq);
    return;
  }
  const int64_t shape[] = {g->batch, g->heads, g->len, g->dim};
  const int64_t stride[] = {g->heads * g->len * g->dim, g->len * g->dim, g->dim, 1};
  const tensor sum = make_tensor(g, DQ_SUM, CUDNN_DATA_FLOAT, MEMORY, shape, stride);
  multiply(g, &scaled, &k_plain, &sum);
  in_f32(g, CUDNN_POINTWISE_IDENTITY, &sum, NULL, &dq);
}

/* The best engine that cuDNN's own judgement names and that accepts the graph. */
void choose_engine(graph *g, descriptor ops) {
  const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
  descriptor judge = make(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR), config[4];
  int64_t n = 0;
  set_part(g, judge, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, ops);
  set(g, judge, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
  if (g->c->device) set_part(g, judge, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, g->c->device);
  finish(g, judge);
  for (size_t i = 0; i < PU_COUNT(config); i++) config[i] = make(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
  if (g->status != CUDNN_STATUS_SUCCESS ||
      failed(g, g->c->f.get(judge, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, PU_COUNT(config), &n,
                            config)))
    return;
  cudnnStatus_t last = CUDNN_STATUS_NOT_SUPPORTED;
  for (int64_t i = 0; i < PU_MIN(n, (int64_t)PU_COUNT(config)); i++) {
    descriptor p = make(g, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    set_part(g, p, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config[i]);
    if (g->c->device)
      set_part(g, p, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, g->c->device);
    else
      set(g, p, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &g->c->handle);
    if (g->status != CUDNN_STATUS_SUCCESS) return;
    last = g->c->f.finalize(p);
    if (last != CUDNN_STATUS_SUCCESS) continue;
    g->p->plan = p;
    failed(g, g->c->f.get(p, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &n, &g->p->bytes));
    return;
  }
  failed(g, last);
}

void forget(pu_cudnn *c, plan *p) {
  for (int i = p->n; i-- > 0;) c->f.destroy_descriptor(p->all[i]);
  memset(p, 0, sizeof *p);
}

cudnnStatus_t build(pu_cudnn *c, const key *of, plan *p) {
  graph g = {};
  g.c = c;
  g.p = p;
  g.next = FIRST_VIRTUAL;
  g.batch = of->batch;
  g.heads = of->heads;
  g.groups = of->heads / of->share;
  g.len = of->len;
  g.dim = of->dim;
  p->of = *of;
  if (of->backward)
    describe_backward(&g, of);
  else
    describe_forward(&g, of);
  descriptor ops = make(&g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  set(&g, ops, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g.n_ops, g.ops);
  if (!c->device) set(&g, ops, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &c->handle);
  finish(&g, ops);
  choose_engine(&g, ops);
  return g.status;
}

} // namespace

/* ---- the library ---- */

template <typename F> static bool find(void *library, const char *name, F *out) {
  *out = (F)dlsym(library, name);
  return *out != NULL;
}

static bool find_all(void *l, functions *f) {
  return find(l, "cudnnCreate", &f->create) && find(l, "cudnnDestroy", &f->destroy) &&
         find(l, "cudnnGetVersion", &f->version) && find(l, "cudnnSetStream", &f->set_stream) &&
         find(l, "cudnnBackendCreateDescriptor", &f->create_descriptor) &&
         find(l, "cudnnBackendDestroyDescriptor", &f->destroy_descriptor) &&
         find(l, "cudnnBackendFinalize", &f->finalize) && find(l, "cudnnBackendSetAttribute", &f->set) &&
         find(l, "cudnnBackendGetAttribute", &f->get) && find(l, "cudnnBackendExecute", &f->execute) &&
         find(l, "cudnnGetErrorString", &f->error_text);
}

static const char *open_library(pu_cuda *d, pu_cudnn *c) {
  void *library = dlopen("libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);
  if (!library) return "it is not installed, or not where the dynamic linker looks";
  cudnnStatus_t status = CUDNN_STATUS_SUCCESS;
  if (find_all(library, &c->f) && (status = c->f.create(&c->handle)) == CUDNN_STATUS_SUCCESS &&
      (status = c->f.set_stream(c->handle, d->stream)) == CUDNN_STATUS_SUCCESS) {
    c->library = library;
    return NULL;
  }
  const char *why = status == CUDNN_STATUS_SUCCESS ? "functions are missing in it" : c->f.error_text(status);
  if (c->handle) c->f.destroy(c->handle);
  dlclose(library);
  return why;
}

size_t pu_cuda_cudnn_version(void) {
  size_t (*version)(void);
  void *library = dlopen("libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);
  size_t out = library && find(library, "cudnnGetVersion", &version) ? version() : 0;
  if (library) dlclose(library);
  return out;
}

/* NULL: without cuDNN, which is told once. */
static pu_cudnn *library_of(pu_cuda *d) {
  pu_cuda_attention *own = d->attention;
  if (!own->cudnn && (own->cudnn = (pu_cudnn *)calloc(1, sizeof *own->cudnn))) {
    const char *why = open_library(d, own->cudnn);
    if (why) pu_log(PU_LOG_WARN, "cuda: libcudnn.so.9 cannot be used, attention trains slower: %s", why);
  }
  return own->cudnn && own->cudnn->library ? own->cudnn : NULL;
}

void pu_cuda_cudnn_close(pu_cudnn *c) {
  if (!c) return;
  for (int i = 0; i < MAX_PLANS; i++) forget(c, &c->plans[i]);
  if (c->library) {
    c->f.destroy(c->handle);
    dlclose(c->library);
  }
  free(c);
}

/* ---- running ---- */

/* A plan that cannot be had is kept too, without `plan`: own kernels take its cases. */
static plan *plan_for(pu_cudnn *c, const key *of) {
  plan *oldest = &c->plans[0];
  for (int i = 0; i < MAX_PLANS; i++) {
    plan *p = &c->plans[i];
    if (p->used && memcmp(&p->of, of, sizeof *of) == 0) {
      p->used = ++c->clock;
      return p;
    }
    if (p->used < oldest->used) oldest = p;
  }
  forget(c, oldest);
  cudnnStatus_t status = build(c, of, oldest);
  if (status != CUDNN_STATUS_SUCCESS) oldest->plan = NULL;
  if (!oldest->plan)
    pu_log(PU_LOG_DEBUG, "cuda: cuDNN has no attention for %d heads of %d, %lld tokens: %s", of->heads, of->dim,
           (long long)of->len, c->f.error_text(status));
  oldest->used = ++c->clock;
  return oldest;
}

typedef struct binding {
  int64_t uid[FIRST_VIRTUAL];
  void *at[FIRST_VIRTUAL];
  int64_t n;
} binding;

static void bind(binding *b, int64_t uid, const void *at) {
  b->uid[b->n] = uid;
  b->at[b->n++] = (void *)at;
}

static cudnnStatus_t execute(pu_cudnn *c, const plan *p, const binding *b, void *work) {
  descriptor pack;
  cudnnStatus_t status = c->f.create_descriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
  if (status != CUDNN_STATUS_SUCCESS) return status;
  if ((status = c->f.set(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, b->n, b->uid)) ==
          CUDNN_STATUS_SUCCESS &&
      (status = c->f.set(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, b->n, b->at)) ==
          CUDNN_STATUS_SUCCESS &&
      (status = c->f.set(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &work)) ==
          CUDNN_STATUS_SUCCESS &&
      (status = c->f.finalize(pack)) == CUDNN_STATUS_SUCCESS)
    status = c->f.execute(c->handle, p->plan, pack);
  c->f.destroy_descriptor(pack);
  return status;
}

static int64_t whole(int64_t bytes) {
  return (bytes + 255) / 256 * 256;
}

/* dq in f32, where it is added to in any order. */
static int64_t sum_bytes(const key *of) {
  return of->any_order ? whole(of->batch * of->len * of->heads * of->dim * (int64_t)sizeof(float)) : 0;
}

/* Sequences [first, first + p->of.batch). */
static cudnnStatus_t run_part(pu_cudnn *c, const pu_cuda_attend *a, const plan *p, int64_t first, char *work) {
  const int64_t rows = first * p->of.len, delta = (int64_t)a->heads * p->of.batch * p->of.len * (int64_t)sizeof(float);
  const float lowest = -INFINITY, one = 1;
  binding b = {};
  bind(&b, Q, a->q + rows * a->q_row);
  bind(&b, K, a->k.base + rows * a->k.row);
  bind(&b, V, a->v.base + rows * a->v.row);
  bind(&b, O, a->out + rows * a->out_row);
  bind(&b, STATS, a->lse + rows);
  bind(&b, SCALE, &a->scale);
  bind(&b, LOWEST, &lowest);
  if (!p->of.backward) return execute(c, p, &b, work);
  bind(&b, ONE, &one);
  bind(&b, DO, a->dout + rows * a->dout_row);
  bind(&b, DQ, a->dq + rows * a->dqkv_row);
  bind(&b, DK, a->dk + rows * a->dqkv_row);
  bind(&b, DV, a->dv + rows * a->dqkv_row);
  bind(&b, DELTA, work);
  work += whole(delta);
  if (p->of.any_order) bind(&b, DQ_SUM, work);
  return execute(c, p, &b, work + sum_bytes(&p->of));
}

int64_t pu_cuda_cudnn_part(int64_t n, int64_t len, int heads) {
  const int64_t padded = (len + 63) / 64 * 64, each = padded * padded * heads * 2;
  if (each > PU_CUDNN_MOST) return 0;
  int64_t part = PU_MAX(PU_MIN(n, PU_CUDNN_SCORES / each), (int64_t)1);
  while (n % part) part--;
  return part;
}

static bool fits(const pu_cuda_attend *a, int64_t len) {
  const int64_t bytes = a->q_row | a->out_row | a->dout_row | a->dqkv_row | (int64_t)a->q | (int64_t)a->k.base |
                        (int64_t)a->v.base | (int64_t)a->out | (int64_t)a->dout | (int64_t)a->dq;
  return a->q_bits == 16 && a->window >= len && len >= PU_CUDNN_LEAST && a->dim % 8 == 0 && bytes % 16 == 0 && !a->add;
}

/* What n sequences of len tokens want; batch 0: nothing. */
static key key_of(const pu_cudnn *c, const pu_cuda_attend *a, bool any_order, int64_t n, int64_t len) {
  key of;
  memset(&of, 0, sizeof of); /* compared as bytes */
  of.backward = a->dq != NULL;
  of.any_order = of.backward && any_order && c->f.version() >= CLEARS_ITSELF;
  of.batch = of.backward && !of.any_order ? pu_cuda_cudnn_part(n, len, a->heads) : n;
  of.len = len;
  of.lse_stride = a->lse_stride;
  of.q_row = a->q_row / 2;
  of.out_row = a->out_row / 2;
  of.dout_row = a->dout_row / 2;
  of.dqkv_row = a->dqkv_row / 2;
  of.heads = a->heads;
  of.share = a->share;
  of.dim = a->dim;
  return of;
}

pu_err pu_cuda_cudnn_attention(pu_cuda *d, const pu_cuda_attend *a, int64_t n, int64_t len, bool *done, pu_error *e) {
  pu_cudnn *c = fits(a, len) ? library_of(d) : NULL;
  void *work;
  *done = false;
  if (!c) return PU_OK;
  const key of = key_of(c, a, d->base.any_order, n, len);
  const plan *p = of.batch ? plan_for(c, &of) : NULL;
  if (!p || !p->plan) return PU_OK;
  const int64_t delta = of.backward ? whole(a->heads * of.batch * len * (int64_t)sizeof(float)) : 0;
  PU_TRY(pu_cuda_work(d, (size_t)(p->bytes + delta + sum_bytes(&of)), &work, e));
  for (int64_t first = 0; first < n; first += of.batch) {
    const cudnnStatus_t status = run_part(c, a, p, first, (char *)work);
    if (status != CUDNN_STATUS_SUCCESS)
      return pu_fail(e, PU_ERR_IO, "cuda: attention through cuDNN: %s", c->f.error_text(status));
  }
  *done = true;
  return PU_OK;
}
