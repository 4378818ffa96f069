/* Blocks and the prefix tree against a model of them that keeps whole paths and searches them all; the planner against
 * what is taken. */
#include "src/engine/internal.h"
#include "tests/test.h"

#include <stdlib.h>

/* ---- the tree ---- */

enum { BLOCKS = 24, MOST_PATH = 64, HANDS = 6 };

/* What the model knows of a block: all ids from the root to its end. */
typedef struct entry {
  bool in_tree;
  int holders, given; /* given: when the last holder gave it back */
  uint64_t salt;
  int32_t path[MOST_PATH];
  int64_t begin, end; /* of its own ids in path */
} entry;

typedef struct world {
  pu_cache c;
  entry e[BLOCKS];
  int clock;
  pu_rng r;
} world;

/* One who holds a path of blocks, as a session does. */
typedef struct hand {
  int32_t blocks[MOST_PATH], n;
} hand;

static void give_all(world *w, hand *h) {
  while (h->n) {
    int32_t b = h->blocks[--h->n];
    pu_cache_give(&w->c, b);
    if (--w->e[b].holders == 0) w->e[b].given = ++w->clock;
  }
}

static int64_t naive_match(const world *w, uint64_t salt, const int32_t *ids, int64_t n) {
  int64_t best = 0, least = PU_MIN(8, w->c.size);
  for (int i = 0; i < BLOCKS; i++) {
    const entry *x = &w->e[i];
    int64_t same = 0;
    if (!x->in_tree || x->salt != salt) continue;
    while (same < n && same < x->end && x->path[same] == ids[same]) same++;
    if (same - x->begin >= least) best = PU_MAX(best, same);
  }
  return best;
}

/* Takes a block; where that one was in the tree, it must be the one that nobody has held for longest. */
static int32_t take(world *w) {
  int oldest = -1, none_free = 1;
  for (int i = 0; i < BLOCKS; i++) {
    if (w->e[i].holders) continue;
    none_free &= w->e[i].in_tree;
    if (w->e[i].in_tree && (oldest < 0 || w->e[i].given < w->e[oldest].given)) oldest = i;
  }
  int32_t b = pu_cache_take(&w->c);
  if (none_free) assert_int_equal(b, oldest); /* -1: all are held */
  if (b < 0) return b;
  if (!none_free) assert_false(w->e[b].in_tree);
  w->e[b] = (entry){.holders = 1};
  return b;
}

static int64_t random_path(world *w, int32_t *ids) {
  int64_t n = 1 + (int64_t)pu_rng_below(&w->r, MOST_PATH);
  for (int64_t i = 0; i < n; i++) ids[i] = (int32_t)pu_rng_below(&w->r, i % 9 == 8 ? 3 : 1);
  return n;
}

/* Matches a random path, goes on from there with blocks of its own, and puts them into the tree. */
static void walk(world *w, hand *h, int *matched) {
  int32_t ids[MOST_PATH], size = w->c.size;
  int64_t n = random_path(w, ids);
  uint64_t salt = pu_rng_below(&w->r, 4) == 0;
  int64_t got = pu_prefix_match(&w->c, salt, ids, n, h->blocks, &h->n), want = naive_match(w, salt, ids, n);
  assert_int_equal(got, want);
  *matched += got > 0;
  for (int32_t i = 0; i < h->n; i++) {
    const entry *x = &w->e[h->blocks[i]];
    assert_true(x->in_tree && x->begin == (int64_t)i * size);
    assert_memory_equal(x->path, ids, (size_t)PU_MIN(x->end, got) * sizeof *ids);
    w->e[h->blocks[i]].holders++;
  }
  if (got % size) { /* the last one is written from here on: a block of its own instead */
    int32_t last = h->blocks[--h->n];
    pu_cache_give(&w->c, last);
    if (--w->e[last].holders == 0) w->e[last].given = ++w->clock;
  }
  for (int64_t at = (int64_t)h->n * size; at < n; at += size) {
    int32_t b = take(w), len = (int32_t)PU_MIN(size, n - at);
    if (b < 0) return;
    int32_t in = pu_prefix_insert(&w->c, salt, h->n ? h->blocks[h->n - 1] : -1, b, ids + at, len);
    h->blocks[h->n++] = b;
    if (in != b) { /* a longer one that begins so is there: only a part can have been so */
      assert_true(naive_match(w, salt, ids, at + len) == at + len || len < PU_MIN(8, size));
      assert_true(len < size);
      continue;
    }
    entry *x = &w->e[b];
    x->in_tree = true;
    x->salt = salt;
    x->begin = at;
    x->end = at + len;
    memcpy(x->path, ids, (size_t)x->end * sizeof *ids);
  }
}

static void tree_is_as_the_model(void **state) {
  (void)state;
  static const int32_t sizes[] = {1, 4, 8, 16, 32};
  for (size_t k = 0; k < PU_COUNT(sizes); k++) {
    world w = {0};
    hand hands[HANDS] = {0};
    int matched = 0;
    pu_rng_seed(&w.r, k);
    assert_true(pu_cache_init(&w.c, BLOCKS, sizes[k]));
    for (int i = 0; i < 5000; i++) {
      hand *h = &hands[pu_rng_below(&w.r, HANDS)];
      give_all(&w, h);
      if (pu_rng_below(&w.r, 4)) walk(&w, h, &matched);
      int held = 0;
      for (int b = 0; b < BLOCKS; b++) {
        assert_int_equal(w.c.b[b].holders, w.e[b].holders);
        held += w.e[b].holders > 0;
      }
      assert_int_equal(pu_cache_available(&w.c), BLOCKS - held);
    }
    assert_true(matched > 500);
    for (int i = 0; i < HANDS; i++) give_all(&w, &hands[i]);
    assert_int_equal(pu_cache_available(&w.c), BLOCKS);
    for (int i = 0; i < BLOCKS; i++) assert_true(take(&w) >= 0); /* all can be taken, each a leaf when it is its turn */
    assert_int_equal(pu_cache_take(&w.c), -1);
    pu_cache_deinit(&w.c);
  }
}

/* ---- the planner ---- */

static const char model[] = PU_FIXTURES "/hf-mini/internlm2-d128";

static pu_engine *open_planned(pu_engine_options *o, pu_engine_plan *plan) {
  pu_engine *en;
  pu_error e;
  assert_ok(pu_engine_make_plan(model, o, plan, &e), &e);
  assert_ok(pu_engine_open(model, o, &en, &e), &e);
  pu_engine_plan got = pu_engine_get_plan(en);
  plan->budget = got.budget; /* what is free changes from one moment to the next */
  assert_memory_equal(&got, plan, sizeof got);
  return en;
}

/* A full batch of prompts and answers stays within the plan, and comes near it. */
static void a_plan_is_kept(void **state) {
  (void)state;
  static const pu_engine_options cases[] = {
      {.dtype = PU_F32, .threads = 1, .context = 64, .max_batch = 3, .prefill_chunk = 48},
      {.dtype = PU_BF16, .threads = 1, .context = 200, .prefill_chunk = 64},
      {.dtype = PU_F32, .threads = 1, .prefill_chunk = 64, .kv_type = PU_KV_BF16, .kv_block = 8},
      {.dtype = PU_F32, .threads = 1, .prefill_chunk = 64, .kv_type = PU_KV_INT8},
      {.dtype = PU_BF16, .threads = 1, .context = 70, .kv_type = PU_KV_INT4, .kv_block = 7}};
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    pu_engine_options o = cases[i];
    pu_engine_plan plan;
    pu_error e;
    pu_engine *en = open_planned(&o, &plan);
    assert_ok(pu_plan_options(en->be, &en->m->hp, &o, &e), &e);
    pu_sampling how = pu_sampling_default();
    how.max_tokens = 4;
    how.ignore_eos = true;
    for (int k = 0; k < o.max_batch + 2; k++) {
      pu_session *s;
      assert_ok(pu_session_open(en, &s, &e), &e);
      for (int64_t at = 0; at + 6 < plan.context; at++) {
        int32_t id = 3 + (int32_t)((at + k) % 50);
        assert_ok(pu_session_append(s, &id, 1, &e), &e);
      }
      assert_ok(pu_session_start(s, &how, NULL, NULL, &e), &e);
    }
    for (bool more = true; more;) assert_ok(pu_engine_step(en, &more, &e), &e);
    assert_true(pu_arena_peak(en->mem) <= pu_plan_step_bytes(en->m, &o));
    assert_true(pu_arena_peak(en->mem) > (pu_plan_step_bytes(en->m, &o) - ((size_t)1 << 20)) / 3);
    assert_true(pu_arena_peak(en->m->weights) <= plan.weights + 64);
    assert_true(pu_arena_peak(en->m->weights) > plan.weights / 10 * 9);
    size_t keys = pu_tensor_bytes(en->kv[0].k) + pu_tensor_bytes(en->kv[0].v);
    assert_int_equal(plan.cache, keys * (size_t)en->m->hp.layers);
    pu_kv_format f = pu_kv_format_of(o.kv_type, o.dtype, en->m->hp.head_dim);
    assert_int_equal(en->kv[0].k->dtype, f.k_type);
    assert_int_equal(en->kv[0].v->dtype, f.v_type);
    assert_int_equal(en->kv[0].k_bits, f.k_bits);
    assert_int_equal(en->kv[0].v_bits, f.v_bits);
    assert_int_equal(plan.kv_blocks, o.max_batch * ((plan.context + plan.kv_block - 1) / plan.kv_block));
    pu_engine_free(en);
  }
}

static void a_budget_is_kept(void **state) {
  (void)state;
  pu_engine_options o = {.dtype = PU_F32, .threads = 1, .max_batch = 4, .prefill_chunk = 32};
  pu_engine_plan whole, plan;
  pu_error e;
  pu_engine_free(open_planned(&o, &whole));
  size_t all = whole.weights + whole.work + whole.cache, last = 0;
  int fitted = 0, refused = 0;
  for (int percent = 2; percent <= 120; percent += 2) {
    o.memory = all / 100 * (size_t)percent;
    if (pu_engine_make_plan(model, &o, &plan, &e) != PU_OK) {
      assert_int_equal(e.code, PU_ERR_NOMEM);
      assert_non_null(strstr(e.msg, "weights take"));
      assert_int_equal(last, 0); /* more memory is never worse */
      refused++;
      continue;
    }
    assert_true(plan.weights + plan.work + plan.cache <= o.memory);
    assert_true(plan.context <= (int64_t)plan.kv_blocks * plan.kv_block && plan.cache >= last);
    fitted += plan.cache < whole.cache;
    last = plan.cache;
  }
  assert_int_equal(last, whole.cache);
  assert_true(fitted > 3 && refused > 3);
}

/* Where the cache holds less than the model could, a prompt that can never fit is refused at once, and says why. */
static void what_never_fits_is_refused(void **state) {
  (void)state;
  pu_engine_options o = {.dtype = PU_F32, .threads = 1, .max_batch = 2, .prefill_chunk = 32};
  pu_engine_plan plan, whole;
  pu_engine *en;
  pu_session *s;
  pu_error e;
  assert_ok(pu_engine_make_plan(model, &o, &whole, &e), &e);
  o.context = 256; /* a smaller plan tells what there is beside a cache */
  assert_ok(pu_engine_make_plan(model, &o, &plan, &e), &e);
  size_t blocks = (size_t)(whole.kv_blocks - plan.kv_blocks), more = whole.cache + whole.work - plan.cache - plan.work;
  o.context = 0;
  o.memory = whole.weights + whole.work + whole.cache - ((size_t)whole.kv_blocks - 5) * (more / blocks);
  en = open_planned(&o, &plan);
  assert_int_equal(plan.kv_blocks, 5);
  assert_int_equal(plan.context, 5 * plan.kv_block);
  assert_ok(pu_session_open(en, &s, &e), &e);
  for (int64_t i = 0; i < plan.context; i++) assert_ok(pu_session_append(s, &(int32_t){5}, 1, &e), &e);
  assert_int_equal(pu_session_append(s, &(int32_t){5}, 1, &e), PU_ERR_USAGE);
  assert_non_null(strstr(e.msg, "more memory"));
  pu_engine_free(en);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(tree_is_as_the_model), cmocka_unit_test(a_plan_is_kept),
                                     cmocka_unit_test(a_budget_is_kept), cmocka_unit_test(what_never_fits_is_refused)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
