/* Segments of the tape: recomputation changes nothing to the bit, nor does where gradients lie, and memory comes back.
 * The model here is a stack of blocks, each a norm and a SwiGLU between linear maps, every second one two of these,
 * with an embedding before and a loss after. One block also maps its input x straight to its output x, so that the
 * two's gradients must not share memory. PUYU_TEST_DEVICE names another device than the CPU to run all of it on. */
#include "tests/device.h"

#include <math.h>

enum { ROOM = 64 << 20, BLOCKS = 5, TOKENS = 37, WIDTH = 24, INNER = 12, CROSSED = 3, VOCAB = 50 };
enum { PARAMS = 3 * BLOCKS + 2, LARGEST = VOCAB * WIDTH };

typedef struct net {
  pu_ctx c;
  pu_error error;
  pu_arena *params, *headers; /* weights and their gradients: they outlive the steps */
  void *step_memory, *param_memory;
  pu_tensor *p[PARAMS];
  pu_tensor *ids, *targets;
  pu_dtype type;
  size_t forward_bytes;
  bool late; /* parameters' gradients have no memory of their own */
} net;

typedef struct block {
  net *n;
  int index;
} block;

static void *must(net *n, void *p) {
  if (!p) fail_msg("%s", n->error.msg);
  return p;
}

/* Where what outlives the steps is made. */
static pu_ctx outside(const net *n) {
  pu_ctx c = n->c;
  c.mem = n->params;
  c.host = n->headers;
  c.tape = NULL;
  return c;
}

static pu_tensor *param(net *n, pu_rng *rng, int64_t rows, int64_t cols) {
  pu_ctx c = outside(n);
  bool vector = rows == 1;
  int64_t shape[] = {vector ? cols : rows, cols};
  float values[LARGEST], held[LARGEST];
  pu_tensor *t = must(n, pu_tensor_new(&c, n->type, vector ? 1 : 2, shape, false));
  t->grad = must(n, pu_tensor_new(&c, PU_F32, vector ? 1 : 2, shape, false));
  for (int64_t i = 0; i < rows * cols; i++) values[i] = (vector ? 1.0f : 0.0f) + 0.3f * (float)pu_rng_normal(rng);
  pu_convert(held, n->type, values, PU_F32, rows * cols);
  pu_test_upload(c.be, t, held);
  memset(held, 0xff, sizeof held);
  pu_test_upload(c.be, t->grad, held);
  return t;
}

static void net_open(net *n, pu_dtype type) {
  pu_rng rng;
  memset(n, 0, sizeof *n);
  pu_rng_seed(&rng, 7);
  n->type = type;
  n->c.err = &n->error;
  assert_ok(pu_test_open(2, pu_isa_best(), &n->c.be, &n->error), &n->error);
  n->step_memory = pu_test_memory(n->c.be, ROOM, &n->c.mem);
  n->param_memory = pu_test_memory(n->c.be, ROOM, &n->params);
  assert_ok(pu_arena_create(ROOM, &n->c.host, &n->error), &n->error);
  assert_ok(pu_arena_create(ROOM, &n->headers, &n->error), &n->error);
  for (int b = 0; b < BLOCKS; b++) {
    n->p[3 * b] = param(n, &rng, 1, WIDTH);
    n->p[3 * b + 1] = param(n, &rng, 2 * INNER, WIDTH);
    n->p[3 * b + 2] = param(n, &rng, WIDTH, INNER);
  }
  n->p[PARAMS - 2] = param(n, &rng, 1, WIDTH);
  n->p[PARAMS - 1] = param(n, &rng, VOCAB, WIDTH); /* tied: embedding and loss */
  pu_ctx c = outside(n);
  int32_t ids[TOKENS], targets[TOKENS];
  n->ids = must(n, pu_tensor_new(&c, PU_I32, 1, (int64_t[]){TOKENS}, false));
  n->targets = must(n, pu_tensor_new(&c, PU_I32, 1, (int64_t[]){TOKENS}, false));
  for (int i = 0; i < TOKENS; i++) {
    ids[i] = (int32_t)pu_rng_below(&rng, VOCAB);
    targets[i] = (int32_t)pu_rng_below(&rng, VOCAB + 1) - 1;
  }
  pu_test_upload(c.be, n->ids, ids);
  pu_test_upload(c.be, n->targets, targets);
}

static void net_close(net *n) {
  pu_arena_free(n->c.mem);
  pu_arena_free(n->c.host);
  pu_arena_free(n->params);
  pu_arena_free(n->headers);
  n->c.be->free(n->c.be, n->step_memory);
  n->c.be->free(n->c.be, n->param_memory);
  n->c.be->close(n->c.be);
}

static pu_state half_block(pu_ctx *c, const block *b, pu_state in, bool passing) {
  pu_tensor **p = b->n->p + (ptrdiff_t)3 * b->index;
  pu_state out;
  pu_tensor *y = pu_rmsnorm_add(c, in.h, in.x, p[0], 1e-5f, b->n->type, &out.h);
  y = pu_swiglu(c, pu_linear(c, y, p[1], NULL, false));
  pu_passing(c, passing);
  pu_leaving(c, !passing && b->index != CROSSED); /* whose in.x is read once more */
  out.x = pu_linear(c, y, p[2], NULL, false);
  pu_leaving(c, false);
  pu_passing(c, false);
  return out;
}

static pu_state run_block(pu_ctx *c, void *arg, pu_state in) {
  block *b = arg;
  pu_tensor **p = b->n->p + (ptrdiff_t)3 * b->index;
  bool two = b->index % 2;
  pu_state out = half_block(c, b, in, two);
  if (two) out = half_block(c, b, out, false);
  if (b->index == CROSSED) {
    pu_rmsnorm_add(c, out.h, out.x, p[0], 1e-5f, b->n->type, &out.h);
    out.x = pu_linear(c, in.x, p[1], NULL, false);
  }
  return out;
}

/* Blocks from this one on compute something again. */
typedef struct again {
  int from;
  pu_recompute what;
} again;
static const again never = {BLOCKS, PU_RECOMPUTE_NONE};

static pu_tensor *forward(net *n, block *blocks, again a) {
  pu_tensor *h;
  pu_state s = {pu_embedding(&n->c, n->ids, n->p[PARAMS - 1], PU_F32), NULL};
  for (int b = 0; b < BLOCKS; b++) {
    blocks[b] = (block){n, b};
    s = pu_segment(&n->c, run_block, &blocks[b], s, b >= a.from ? a.what : PU_RECOMPUTE_NONE);
  }
  pu_tensor *y = pu_rmsnorm_add(&n->c, s.h, s.x, n->p[PARAMS - 2], 1e-5f, n->type, &h);
  n->forward_bytes = pu_arena_mark(n->c.mem);
  return must(n, pu_linear_cross_entropy(&n->c, y, n->p[PARAMS - 1], n->targets, 0.01f));
}

static size_t read_out(net *n, const pu_tensor *t, char *out) {
  assert_ok(n->c.be->download(n->c.be, out, t->data, pu_tensor_bytes(t), &n->error), &n->error);
  return pu_tensor_bytes(t);
}

/* One step; losses and all gradients, end to end, in `out`. Returns how many bytes of it. */
static size_t step(net *n, again a, bool first, char *out) {
  block blocks[BLOCKS];
  size_t at = 0;
  pu_arena_reset(n->c.mem);
  pu_arena_reset(n->c.host);
  assert_int_equal(pu_tape_create(n->c.host, &n->c.tape, &n->error), PU_OK);
  for (int i = 0; i < PARAMS && first; i++) n->p[i]->grad_set = false;
  for (int i = 0; i < PARAMS && n->late; i++) {
    n->p[i]->grad_late = true;
    n->p[i]->grad->data = NULL;
  }
  pu_tensor *loss = forward(n, blocks, a);
  size_t before = pu_arena_mark(n->c.mem);
  if (pu_backward(&n->c) != PU_OK) fail_msg("%s", n->error.msg);
  if (!n->late) assert_int_equal(pu_arena_mark(n->c.mem), before); /* what backward took is back, segment by segment */
  if (!n->late) assert_int_equal(pu_arena_mark_end(n->c.mem), 0);
  if (n->late) assert_true(pu_arena_mark(n->c.mem) < before / 2); /* and what blocks kept */
  assert_true(pu_arena_peak(n->c.mem) - before < n->forward_bytes / 2 || a.from < BLOCKS);
  at += read_out(n, loss, out);
  for (int i = 0; i < PARAMS; i++) {
    assert_true(n->p[i]->grad_set);
    at += read_out(n, n->p[i]->grad, out + at);
  }
  n->c.tape = NULL;
  return at;
}

static char plain[1 << 18], other[1 << 18];

static void recompute_changes_nothing(void **state) {
  (void)state;
  for (int type = PU_F32; type <= PU_BF16; type++) {
    net n;
    net_open(&n, (pu_dtype)type);
    size_t bytes = step(&n, never, true, plain), most = n.forward_bytes;
    for (int i = 0; i < PU_RECOMPUTE_ALL * BLOCKS; i++) {
      again a = {i / PU_RECOMPUTE_ALL, (pu_recompute)(1 + i % PU_RECOMPUTE_ALL)};
      assert_int_equal(step(&n, a, true, other), bytes);
      assert_memory_equal(plain, other, bytes);
      assert_true(n.forward_bytes < most);
    }
    net_close(&n);
  }
}

/* Gradients that come where activations were are those that have memory of their own, to the bit, whatever is computed
 * again; and they take less than they would beside the activations. */
static void late_gradients(void **state) {
  (void)state;
  for (int type = PU_F32; type <= PU_BF16; type++)
    for (int what = PU_RECOMPUTE_NONE; what <= PU_RECOMPUTE_ALL; what++) {
      net n;
      again a = {1, (pu_recompute)what};
      net_open(&n, (pu_dtype)type);
      size_t bytes = step(&n, a, true, plain), peak = pu_arena_peak(n.c.mem), gradients = bytes;
      n.late = true;
      for (int i = 0; i < 2; i++) {
        assert_int_equal(step(&n, a, true, other), bytes);
        assert_memory_equal(plain, other, bytes);
      }
      if (what != PU_RECOMPUTE_ALL) assert_true(pu_arena_peak(n.c.mem) < peak + gradients);
      net_close(&n);
    }
}

/* The gradients of every parameter, and of the chain across the segments, against differences of the loss. */
static void gradients_cross_segments(void **state) {
  (void)state;
  net n;
  block blocks[BLOCKS];
  net_open(&n, PU_F32);
  step(&n, (again){2, PU_RECOMPUTE_SOME}, true, plain);
  for (int i = 0; i < PARAMS; i++) {
    float *w = pu_test_download(n.c.be, n.p[i]), *g = pu_test_download(n.c.be, n.p[i]->grad), keep = w[3], grad = g[3];
    double sum[2] = {0, 0};
    for (int side = 0; side < 2; side++) {
      w[3] = keep + (side ? 0.004f : -0.004f);
      pu_test_upload(n.c.be, n.p[i], w);
      pu_arena_reset(n.c.mem);
      pu_arena_reset(n.c.host);
      float *loss = pu_test_download(n.c.be, forward(&n, blocks, never));
      for (int t = 0; t < TOKENS; t++) sum[side] += (double)loss[t] * 0.01;
      free(loss);
    }
    w[3] = keep;
    pu_test_upload(n.c.be, n.p[i], w);
    free(w);
    free(g);
    assert_float_equal(grad, (sum[1] - sum[0]) / 0.008, 2e-3 * (1 + (double)(grad < 0 ? -grad : grad)));
  }
  net_close(&n);
}

enum { LINKS = 12 };

static pu_state run_chain(pu_ctx *c, void *arg, pu_state in) {
  pu_tensor **p = arg;
  pu_state out;
  out.x = pu_rmsnorm_add(c, in.h, in.x, p[0], 1e-5f, p[1]->dtype, &out.h);
  for (int i = 0; i < LINKS; i++) out.x = pu_linear(c, out.x, p[1], NULL, false);
  return out;
}

/* In a chain of products the gradient of a link lies where the link's input did. */
static void gradients_give_way(void **state) {
  (void)state;
  net n;
  pu_tensor *h;
  net_open(&n, PU_F32);
  assert_int_equal(pu_tape_create(n.c.host, &n.c.tape, &n.error), PU_OK);
  for (int i = 0; i < PARAMS; i++) n.p[i]->grad_set = false;
  pu_state s = {pu_embedding(&n.c, n.ids, n.p[PARAMS - 1], PU_F32), NULL};
  s = pu_segment(&n.c, run_chain, n.p, s, PU_RECOMPUTE_NONE);
  pu_tensor *y = pu_rmsnorm_add(&n.c, s.h, s.x, n.p[PARAMS - 2], 1e-5f, n.type, &h);
  must(&n, pu_linear_cross_entropy(&n.c, y, n.p[PARAMS - 1], n.targets, 0.01f));
  size_t before = pu_arena_mark(n.c.mem), link = (pu_tensor_bytes(y) + 63) / 64 * 64;
  if (pu_backward(&n.c) != PU_OK) fail_msg("%s", n.error.msg);
  assert_in_range(pu_arena_peak(n.c.mem) - before, 2 * link, 4 * link + 256); /* the state's, in turn */
  net_close(&n);
}

static void micro_batches_add_up(void **state) {
  (void)state;
  net n;
  net_open(&n, PU_F32);
  size_t bytes = step(&n, never, true, plain);
  step(&n, never, false, other);
  for (size_t i = TOKENS; i < bytes / sizeof(float); i++) {
    float once = ((float *)plain)[i], twice = ((float *)other)[i];
    assert_float_equal(twice, 2 * once, 1e-6 * (1 + (double)(once < 0 ? -once : once)));
  }
  net_close(&n);
}

static int copies;
static pu_err (*copy_of_device)(pu_backend *be, void *to, const void *from, size_t bytes, pu_error *e);

static pu_err count_copy(pu_backend *be, void *to, const void *from, size_t bytes, pu_error *e) {
  copies++;
  return copy_of_device(be, to, from, bytes, e);
}

/* Without a tape: the same losses as with one, in the memory of one block however many there are. A device may have
 * other kernels for inference; the CPU has not. Nothing is copied where a block says what leaves it. */
static void inference_takes_one_block(void **state) {
  (void)state;
  for (int type = PU_F32; type <= PU_BF16; type++) {
    net n;
    block blocks[BLOCKS];
    net_open(&n, (pu_dtype)type);
    step(&n, never, true, plain);
    size_t with_tape = n.forward_bytes;
    pu_arena_reset(n.c.mem);
    pu_arena_reset(n.c.host);
    copies = 0;
    copy_of_device = n.c.be->copy;
    n.c.be->copy = count_copy;
    pu_tensor *loss = forward(&n, blocks, never);
    float *y = pu_test_download(n.c.be, loss);
    assert_int_equal(copies, 1); /* x of the block that does not say what leaves it */
    if (!pu_test_elsewhere()) assert_memory_equal(y, plain, pu_tensor_bytes(loss));
    for (int i = 0; i < TOKENS; i++)
      assert_float_equal(y[i], ((float *)plain)[i], (type == PU_F32 ? 1e-5 : 1e-2) * (1 + fabs((double)y[i])));
    free(y);
    assert_true(n.forward_bytes < with_tape / 2);
    net_close(&n);
  }
}

static pu_state fails(pu_ctx *c, void *arg, pu_state in) {
  pu_state out = {in.h, pu_swiglu(c, arg)};
  return out;
}

static pu_state nests(pu_ctx *c, void *arg, pu_state in) {
  return pu_segment(c, fails, arg, in, PU_RECOMPUTE_NONE);
}

static void failures_stop_the_step(void **state) {
  (void)state;
  net n;
  net_open(&n, PU_F32);
  assert_int_equal(pu_tape_create(n.c.host, &n.c.tape, &n.error), PU_OK);
  pu_state s = {pu_embedding(&n.c, n.ids, n.p[PARAMS - 1], PU_F32), NULL};
  pu_state out = pu_segment(&n.c, nests, n.ids, s, PU_RECOMPUTE_NONE);
  assert_null(out.x);
  assert_int_equal(n.c.status, PU_ERR_INTERNAL);
  for (int what = PU_RECOMPUTE_GATES; what <= PU_RECOMPUTE_ALL; what++) {
    n.c.status = PU_OK;
    out = pu_segment(&n.c, fails, n.ids, s, (pu_recompute)what);
    assert_null(out.h);
    assert_int_equal(n.c.status, PU_ERR_SHAPE);
    assert_int_equal(pu_backward(&n.c), PU_ERR_SHAPE);
  }
  net_close(&n);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(recompute_changes_nothing),
      cmocka_unit_test(gradients_cross_segments),
      cmocka_unit_test(late_gradients),
      cmocka_unit_test(gradients_give_way),
      cmocka_unit_test(micro_batches_add_up),
      cmocka_unit_test(inference_takes_one_block),
      cmocka_unit_test(failures_stop_the_step),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
