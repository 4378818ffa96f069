/* What a backend says it will take for itself, against what it takes: the CPU, and the device that PUYU_TEST_DEVICE
 * names. */
#include "src/compute/cpu/cpu.h"
#include "tests/device.h"

enum { MEMORY = 96 << 20, MAX_SEQS = 64 };

typedef struct run {
  pu_ctx c;
  pu_error e;
  void *memory;
} run;

static void open_run(run *r, pu_backend *be) {
  *r = (run){.c.be = be};
  assert_ok(r->c.be->alloc(r->c.be, MEMORY, &r->memory, &r->e), &r->e);
  assert_ok(pu_arena_wrap(r->memory, MEMORY, &r->c.mem, &r->e), &r->e);
  assert_ok(pu_arena_create(1 << 20, &r->c.host, &r->e), &r->e);
  assert_ok(pu_tape_create(r->c.host, &r->c.tape, &r->e), &r->e);
  r->c.err = &r->e;
}

static void close_run(run *r) {
  pu_arena_free(r->c.mem);
  pu_arena_free(r->c.host);
  r->c.be->free(r->c.be, r->memory);
}

static void clear(run *r, const pu_tensor *t) {
  assert_ok(r->c.be->clear(r->c.be, t->data, pu_tensor_bytes(t), &r->e), &r->e);
}

/* A parameter or an input that wants a gradient, all of it zero. */
static pu_tensor *zeros(run *r, pu_dtype dtype, pu_dtype grad, int ndim, const int64_t *shape) {
  pu_tensor *t = pu_tensor_new(&r->c, dtype, ndim, shape, true);
  if (!t) fail_msg("%s", r->e.msg);
  t->grad = pu_tensor_new(&r->c, grad, ndim, shape, false);
  assert_non_null(t->grad);
  clear(r, t);
  return t;
}

static pu_tensor *ints(run *r, int64_t n, int64_t k) {
  pu_tensor *t = pu_tensor_new(&r->c, PU_I32, k ? 2 : 1, (int64_t[]){n, k}, false);
  assert_non_null(t);
  clear(r, t);
  return t;
}

static void back(run *r) {
  assert_ok(pu_backward(&r->c), &r->e);
  pu_tape_reset(r->c.tape);
}

/* One operation after another, each alone: what matters is the memory that each asks for. */
static void run_attention(run *r, const pu_work_shape *s, int docs) {
  int32_t cu[MAX_SEQS + 1] = {0};
  pu_seqs seqs = {.n = docs, .tokens = (int32_t)s->tokens, .cu = cu};
  for (int i = 1; i <= docs; i++) {
    cu[i] = i == docs ? (int32_t)s->tokens : PU_MIN(cu[i - 1] + (int32_t)s->max_len, (int32_t)s->tokens - docs + i);
    seqs.max_len = PU_MAX(seqs.max_len, cu[i] - cu[i - 1]);
  }
  assert_true(seqs.max_len <= s->max_len);
  int64_t width = (int64_t)(s->heads + 2 * s->kv_heads) * s->head_dim;
  pu_tensor *qkv = zeros(r, s->dtype, s->dtype, 2, (int64_t[]){s->tokens, width});
  pu_tensor *out = pu_attention(&r->c, qkv, &seqs, s->heads, s->kv_heads, s->head_dim, 0, 1);
  assert_non_null(out);
  out->grad = pu_tensor_new(&r->c, s->dtype, 2, out->shape, false);
  clear(r, out->grad);
  out->grad_set = true;
  back(r);
}

static void run_loss(run *r, const pu_work_shape *s) {
  pu_tensor *x = zeros(r, s->dtype, s->dtype, 2, (int64_t[]){s->tokens, s->hidden});
  pu_tensor *w = zeros(r, s->dtype, PU_F32, 2, (int64_t[]){s->vocab, s->hidden});
  assert_non_null(pu_linear_cross_entropy(&r->c, x, w, ints(r, s->tokens, 0), 1));
  back(r);
}

static void run_experts(run *r, const pu_work_shape *s) {
  if (!s->experts_used) return;
  pu_tensor *x = zeros(r, s->dtype, s->dtype, 2, (int64_t[]){s->tokens, s->hidden});
  pu_tensor *weight = zeros(r, PU_F32, PU_F32, 2, (int64_t[]){s->tokens, s->experts_used});
  pu_tensor *gate_up = zeros(r, s->dtype, PU_F32, 3, (int64_t[]){2, 2 * s->ffn, s->hidden});
  pu_tensor *down = zeros(r, s->dtype, PU_F32, 3, (int64_t[]){2, s->hidden, s->ffn});
  pu_tensor *y = pu_moe_mlp(&r->c, x, ints(r, s->tokens, s->experts_used), weight, gate_up, down);
  if (!y) fail_msg("%s", r->e.msg);
  y->grad = pu_tensor_new(&r->c, s->dtype, 2, y->shape, false);
  clear(r, y->grad);
  y->grad_set = true;
  back(r);
}

static void run_lora(run *r, const pu_work_shape *s) {
  if (!s->rank) return;
  pu_tensor *x = zeros(r, s->dtype, s->dtype, 2, (int64_t[]){s->tokens, s->hidden});
  pu_tensor *a = zeros(r, s->dtype, PU_F32, 2, (int64_t[]){s->rank, s->hidden});
  pu_tensor *b = zeros(r, s->dtype, PU_F32, 2, (int64_t[]){s->hidden, s->rank});
  pu_tensor *y = zeros(r, s->dtype, s->dtype, 2, (int64_t[]){s->tokens, s->hidden});
  if (!pu_lora(&r->c, x, y, &(pu_lora_part){a, b, 0, s->tokens, 0, 1}, 1)) fail_msg("%s", r->e.msg);
  clear(r, y->grad);
  y->grad_set = true;
  back(r);
}

static void given(run *r, pu_tensor *y) {
  if (!y) fail_msg("%s", r->e.msg);
  y->grad = pu_tensor_new(&r->c, y->dtype, 2, y->shape, false);
  clear(r, y->grad);
  y->grad_set = true;
}

static void run_fp8(run *r, const pu_work_shape *s) {
  if (!s->fp8) return;
  int64_t q = s->heads * s->head_dim, qkv = q + 2 * (int64_t)s->kv_heads * s->head_dim;
  pu_tensor *x = zeros(r, s->dtype, s->dtype, 2, (int64_t[]){s->tokens, s->hidden});
  given(r, pu_linear_fp8(&r->c, x, zeros(r, s->dtype, PU_F32, 2, (int64_t[]){qkv, s->hidden}), NULL));
  pu_tensor *out = zeros(r, s->dtype, s->dtype, 2, (int64_t[]){s->tokens, q});
  given(r, pu_linear_fp8(&r->c, out, zeros(r, s->dtype, PU_F32, 2, (int64_t[]){s->hidden, q}), NULL));
  pu_tensor *gate_up = zeros(r, s->dtype, PU_F32, 2, (int64_t[]){2 * s->ffn, s->hidden});
  given(r, pu_mlp_fp8(&r->c, x, gate_up, zeros(r, s->dtype, PU_F32, 2, (int64_t[]){s->hidden, s->ffn})));
  back(r);
}

static void run_all(run *r, const pu_work_shape *s, int docs) {
  run_attention(r, s, docs);
  run_loss(r, s);
  run_experts(r, s);
  run_lora(r, s);
  run_fp8(r, s);
}

/* slack: how many times too much may be said; the references take no parts, so for them it is only a bound. */
static void check(const pu_work_shape *s, int docs, double slack) {
  for (pu_isa isa = PU_ISA_REF; isa <= pu_isa_best(); isa++)
    for (int threads = 1; threads <= 2; threads++) {
      run r;
      pu_error e;
      pu_backend *be;
      assert_ok(pu_cpu_open(threads, isa, &be, &e), &e);
      const pu_cpu *cpu = (const pu_cpu *)be;
      open_run(&r, be);
      run_all(&r, s, docs);
      size_t own = (size_t)threads * cpu->scratch_bytes, said = r.c.be->work_bytes(r.c.be, s);
      assert_true(said > own);
      if (cpu->work_bytes > said - own || (isa > PU_ISA_REF && (double)(said - own) > slack * (double)cpu->work_bytes))
        fail_msg("%s, %d threads, %d documents: %zu bytes taken, %zu said", pu_isa_name(isa), threads, docs,
                 cpu->work_bytes, said - own);
      close_run(&r);
      be->close(be);
    }
}

#define SIZES(T, len, C, F, V, K, H, G, D)                                                                             \
  .tokens = T, .max_len = len, .hidden = C, .ffn = F, .vocab = V, .experts_used = K, .heads = H, .kv_heads = G,        \
  .head_dim = D

static void said_is_taken(void **state) {
  static const pu_work_shape loss = {.dtype = PU_BF16, SIZES(32, 32, 32, 64, 20000, 0, 2, 1, 8)};
  static const pu_work_shape rows = {.dtype = PU_F32, SIZES(256, 64, 16, 16, 7, 0, 16, 16, 8)};
  static const pu_work_shape parts = {.dtype = PU_BF16, SIZES(300, 300, 16, 16, 50, 0, 2, 1, 8)};
  static const pu_work_shape experts = {.dtype = PU_F32, SIZES(96, 32, 32, 256, 50, 2, 2, 2, 8)};
  static const pu_work_shape adapter = {.dtype = PU_F32, .rank = 1000, SIZES(1500, 25, 16, 16, 7, 0, 2, 2, 8)};
  (void)state;
  static const pu_work_shape fp8 = {.dtype = PU_BF16, .fp8 = true, SIZES(256, 64, 128, 384, 7, 0, 4, 2, 32)};
  static const pu_work_shape wide = {.dtype = PU_BF16, .fp8 = true, SIZES(128, 64, 128, 128, 7, 0, 24, 4, 32)};
  check(&fp8, 4, 1.1);
  check(&wide, 4, 1.1);
  check(&adapter, 60, 1.1);
  check(&loss, 1, 1.1);
  check(&experts, 3, 1.1);
  check(&rows, 4, 8);
  check(&rows, 8, 8); /* documents of 32 tokens */
  for (int docs = 1; docs <= 9; docs += 4) check(&parts, docs, 8);
}

static size_t free_memory(pu_backend *be) {
  size_t available, total;
  pu_error e;
  assert_ok(be->memory(be, &available, &total, &e), &e);
  return available;
}

/* The device's memory that is gone after a step, beside the callers'. */
static size_t taken(const pu_work_shape *s, size_t *said) {
  run r;
  pu_error e;
  pu_backend *be;
  assert_ok(pu_test_open(2, pu_isa_best(), &be, &e), &e);
  open_run(&r, be);
  size_t before = free_memory(be);
  run_all(&r, s, 3);
  assert_ok(be->sync(be, &e), &e);
  size_t after = free_memory(be);
  *said = be->work_bytes(be, s);
  close_run(&r);
  be->close(be);
  return before > after ? before - after : 0;
}

/* The first time its kernels come too, which stay; then only what libraries take for their handles is not said. */
static void device_says_enough(void **state) {
  enum { HANDLES = 32 << 20 };
  static const pu_work_shape shapes[] = {
      {.dtype = PU_BF16, SIZES(512, 256, 256, 512, 20000, 0, 8, 4, 64)},
      {.dtype = PU_F32, SIZES(600, 300, 128, 256, 5000, 2, 4, 4, 32)},
      {.dtype = PU_BF16, .fp8 = true, SIZES(1024, 512, 512, 1024, 300, 0, 8, 4, 64)},
      {.dtype = PU_BF16, .rank = 64, SIZES(1500, 1500, 64, 128, 300, 0, 2, 1, 128)},
  };
  (void)state;
  if (!pu_test_elsewhere()) skip();
  for (size_t i = 0; i < PU_COUNT(shapes); i++) {
    size_t said;
    taken(&shapes[i], &said);
    size_t bytes = taken(&shapes[i], &said);
    if (bytes > said + HANDLES) fail_msg("%s, shape %zu: %zu bytes taken, %zu said", pu_test_device(), i, bytes, said);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(said_is_taken), cmocka_unit_test(device_says_enough)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
