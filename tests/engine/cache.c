/* Blocks and the prefix tree against a model of them that keeps whole paths and searches them all; the planner against
 * what is taken. */
#include "src/engine/internal.h"
#include "tests/test.h"

#include <stdlib.h>

/* ---- the tree ---- */

enum { BLOCKS = 24, MOST_HOST = 60, ALL = BLOCKS + 1 + MOST_HOST, MOST_PATH = 64, HANDS = 6 };

/* What the model knows of a block: all ids from the root to its end. */
typedef struct entry {
  bool in_tree;
  int holders, given; /* given: when the last holder gave it back, or it came to the host */
  uint64_t salt;
  int32_t path[MOST_PATH];
  int64_t begin, end; /* of its own ids in path */
} entry;

typedef struct world {
  pu_cache c;
  entry e[ALL];
  uint64_t data[ALL]; /* what was computed into a block: a hash of its path */
  int clock, dropped; /* dropped: blocks that the host had no room for any more */
  pu_rng r;
} world;

/* One who holds a path of blocks, as a session does. */
typedef struct hand {
  int32_t blocks[MOST_PATH], n;
} hand;

static uint64_t hash_of(const entry *x) {
  return pu_hash64(x->path, (size_t)x->end * sizeof *x->path, x->salt);
}

static pu_err copy_data(void *arg, int32_t from, int32_t to, pu_error *e) {
  world *w = arg;
  if (pu_rng_below(&w->r, 50) == 0) return pu_fail(e, PU_ERR_IO, "a copy fails now and then");
  w->data[to] = w->data[from];
  return PU_OK;
}

static void give_last(world *w, hand *h) {
  int32_t b = h->blocks[--h->n];
  pu_cache_give(&w->c, b);
  if (--w->e[b].holders == 0) w->e[b].given = ++w->clock;
}

static void give_all(world *w, hand *h) {
  while (h->n) give_last(w, h);
}

/* By the model, in both tiers. */
static int64_t naive_match(const world *w, uint64_t salt, const int32_t *ids, int64_t n) {
  int64_t best = 0, least = PU_MIN(8, w->c.size);
  for (int i = 0; i < ALL; i++) {
    const entry *x = &w->e[i];
    int64_t same = 0;
    if (!x->in_tree || x->salt != salt) continue;
    while (same < n && same < x->end && x->path[same] == ids[same]) same++;
    if (same - x->begin >= least) best = PU_MAX(best, same);
  }
  return best;
}

/* The longest unused of some blocks' places in the tree that nobody holds. */
static int oldest_of(const world *w, int from, int to, int but) {
  int oldest = -1;
  for (int i = from; i < to; i++)
    if (i != but && w->e[i].in_tree && !w->e[i].holders && (oldest < 0 || w->e[i].given < w->e[oldest].given))
      oldest = i;
  return oldest;
}

static int host_count(const world *w) {
  int n = 0;
  for (int i = BLOCKS + 1; i < ALL; i++) n += w->e[i].in_tree;
  return n;
}

/* The model's block b has lost its place here: it is the host's, where that has room, or had some that was older. */
static void goes_to_host(world *w, int b, int victim) {
  int h = victim;
  entry x = w->e[b];
  w->e[b].in_tree = false;
  if (x.end - x.begin < PU_MIN(8, w->c.size)) return;
  bool room = host_count(w) < w->c.n_host;
  if (!room && victim < 0) return;
  for (int i = BLOCKS + 1; i < ALL && room; i++)
    if (w->c.b[i].tokens && !w->e[i].in_tree) h = i;
  assert_true(h > BLOCKS);
  w->dropped += !room;
  x.given = ++w->clock;
  w->e[h] = x;
}

/* Takes a block; where that one was in the tree, it must be the one that nobody has held for longest. in_hand: of the
 * host, and not to be touched. */
static int32_t take_but(world *w, int in_hand) {
  int none_free = 1;
  pu_error e;
  for (int i = 0; i < BLOCKS; i++) none_free &= w->e[i].holders || w->e[i].in_tree;
  int oldest = oldest_of(w, 0, BLOCKS, -1), victim = oldest_of(w, BLOCKS + 1, ALL, in_hand);
  int32_t b;
  pu_err err = pu_cache_take(&w->c, &b, &e);
  if (err == PU_ERR_IO) { /* all is as it was, but for what was in the way at the host */
    if (host_count(w) == w->c.n_host) w->e[victim].in_tree = false;
    return take_but(w, in_hand);
  }
  assert_int_equal(err != PU_OK, none_free && oldest < 0);
  if (err) return -1;
  if (none_free) {
    assert_int_equal(b, oldest);
    goes_to_host(w, b, victim);
  }
  assert_false(w->e[b].in_tree);
  w->e[b] = (entry){.holders = 1};
  return b;
}

static int32_t take(world *w) {
  return take_but(w, -1);
}

static int64_t random_path(world *w, int32_t *ids) {
  int64_t n = 1 + (int64_t)pu_rng_below(&w->r, MOST_PATH);
  for (int64_t i = 0; i < n; i++) ids[i] = (int32_t)pu_rng_below(&w->r, i % 9 == 8 ? 3 : 1);
  return n;
}

/* Blocks that the tree gave for a path hold what belongs there. */
static void check_matched(world *w, const hand *h, const int32_t *ids, int64_t got) {
  for (int32_t i = 0; i < h->n; i++) {
    entry *x = &w->e[h->blocks[i]];
    assert_true(x->in_tree && x->begin == (int64_t)i * w->c.size);
    assert_memory_equal(x->path, ids, (size_t)PU_MIN(x->end, got) * sizeof *ids);
    assert_true(w->data[h->blocks[i]] == hash_of(x));
    x->holders++;
  }
}

/* Brings in what follows at the host; the model finds out what came by its contents. Returns how many ids are there
 * now. */
static int64_t bring(world *w, hand *h, uint64_t salt, const int32_t *ids, int64_t n, int64_t got) {
  int64_t size = w->c.size, common;
  while (got < n && got % size == 0) {
    int32_t from = pu_prefix_next_host(&w->c, salt, h->n ? h->blocks[h->n - 1] : -1, ids + got, n - got, &common), b;
    pu_error e;
    if (from < 0 || !pu_cache_available(&w->c)) break;
    entry x = w->e[from];
    assert_true(x.in_tree && x.begin == got && common <= x.end - x.begin);
    assert_memory_equal(x.path, ids, (size_t)(got + common) * sizeof *ids);
    int oldest = oldest_of(w, 0, BLOCKS, -1), victim = oldest_of(w, BLOCKS + 1, ALL, from),
        full = host_count(w) == w->c.n_host;
    int32_t none_free = w->c.n_free == 0;
    int64_t out = w->c.n_out, in = w->c.n_in;
    pu_err err = pu_cache_bring(&w->c, from, (int32_t)common, &b, &e);
    if (none_free && w->c.n_out > out)
      goes_to_host(w, oldest, full ? victim : -1);
    else if (none_free && !err)
      w->e[oldest].in_tree = false;
    else if (none_free && full && victim >= 0 && !w->c.b[victim].tokens)
      w->e[victim].in_tree = false;
    assert_int_equal(w->c.n_in - in, !err);
    if (err) {
      if (none_free && w->c.n_out == out && !w->c.b[oldest].tokens) w->e[oldest].in_tree = false;
      w->e[from].given = ++w->clock;
      break;
    }
    assert_true(w->data[b] == hash_of(&x));
    bool all = common == x.end - x.begin, whole = common == size;
    w->e[from].in_tree = !all;
    w->e[from].given = ++w->clock;
    x.holders = 1;
    x.in_tree = whole;
    w->e[b] = x;
    h->blocks[h->n++] = b;
    got += common;
  }
  return got;
}

/* What a session does with a full block that the tree has already; a part is left as it is. */
static void take_theirs(world *w, hand *h, int32_t in) {
  int32_t *mine = &h->blocks[h->n - 1];
  pu_cache_hold(&w->c, in);
  w->e[in].holders++;
  pu_cache_give(&w->c, *mine);
  w->e[*mine].holders = 0;
  *mine = in;
}

/* Goes on along a path with blocks of its own, and puts them into the tree. */
static void compute(world *w, hand *h, uint64_t salt, const int32_t *ids, int64_t n) {
  int32_t size = w->c.size;
  for (int64_t at = (int64_t)h->n * size; at < n; at += size) {
    int32_t b = take(w), len = (int32_t)PU_MIN(size, n - at);
    if (b < 0) return;
    entry x = {.in_tree = true, .holders = 1, .salt = salt, .begin = at, .end = at + len};
    memcpy(x.path, ids, (size_t)x.end * sizeof *ids);
    w->data[b] = hash_of(&x);
    int32_t in = pu_prefix_insert(&w->c, salt, h->n ? h->blocks[h->n - 1] : -1, b, ids + at, len);
    h->blocks[h->n++] = b;
    if (in != b) { /* one that begins so is there */
      assert_true(w->e[in].in_tree && w->e[in].begin == at && w->e[in].end >= at + len);
      if (len == size) take_theirs(w, h, in);
      continue;
    }
    for (int i = BLOCKS + 1; i < ALL; i++) /* the host's gives up its place */
      if (w->e[i].in_tree && hash_of(&w->e[i]) == w->data[b]) w->e[i].in_tree = false;
    w->e[b] = x;
  }
}

/* Matches a random path, or computes it without asking, as sessions do that are scored. */
static void walk(world *w, hand *h, int *matched) {
  int32_t ids[MOST_PATH], size = w->c.size;
  int64_t n = random_path(w, ids), got = 0;
  uint64_t salt = pu_rng_below(&w->r, 4) == 0;
  if (pu_rng_below(&w->r, 5)) {
    int64_t want = naive_match(w, salt, ids, n);
    int dropped = w->dropped;
    got = pu_prefix_match(&w->c, salt, ids, n, h->blocks, &h->n);
    check_matched(w, h, ids, got);
    int64_t in = w->c.n_in, here = got;
    got = bring(w, h, salt, ids, n, got);
    assert_true(got <= want);
    if (w->dropped == dropped && w->c.n_in - in == (want - here + size - 1) / size) assert_int_equal(got, want);
    if (w->c.n_host == 0) assert_int_equal(got, want);
    *matched += got > 0;
  }
  if (got % size) give_last(w, h); /* it is written from here on: a block of its own instead */
  compute(w, h, salt, ids, n);
}

static void check_world(const world *w) {
  int held = 0;
  for (int b = 0; b < ALL; b++) {
    if (b == BLOCKS) continue;
    if (b < BLOCKS) assert_int_equal(w->c.b[b].holders, w->e[b].holders);
    assert_int_equal(w->c.b[b].tokens, w->e[b].in_tree ? w->e[b].end - w->e[b].begin : 0);
    if (w->e[b].in_tree) assert_true(w->data[b] == hash_of(&w->e[b]));
    held += b < BLOCKS && w->e[b].holders > 0;
  }
  assert_int_equal(pu_cache_available(&w->c), BLOCKS - held);
  assert_int_equal(w->c.host.n, host_count(w));
}

/* A tier of none, of one, of less and of more than there are here. */
static void tree_is_as_the_model(void **state) {
  (void)state;
  static const int32_t sizes[] = {1, 4, 8, 16, 32}, hosts[] = {0, 1, 9, MOST_HOST};
  for (size_t k = 0; k < PU_COUNT(sizes) * PU_COUNT(hosts); k++) {
    int32_t n_host = hosts[k / PU_COUNT(sizes)];
    world w = {0};
    hand hands[HANDS] = {0};
    int matched = 0;
    pu_rng_seed(&w.r, k);
    assert_true(pu_cache_init(&w.c, BLOCKS, MOST_HOST, sizes[k % PU_COUNT(sizes)]));
    w.c.n_host = n_host; /* of the tables that many are used */
    w.c.copy = copy_data;
    w.c.copy_arg = &w;
    for (int i = 0; i < 5000; i++) {
      hand *h = &hands[pu_rng_below(&w.r, HANDS)];
      give_all(&w, h);
      if (pu_rng_below(&w.r, 4)) walk(&w, h, &matched);
      check_world(&w);
    }
    assert_true(matched > 500);
    if (n_host > 1) assert_true(w.c.n_in > 100 && w.c.n_out > 100);
    for (int i = 0; i < HANDS; i++) give_all(&w, &hands[i]);
    assert_int_equal(pu_cache_available(&w.c), BLOCKS);
    for (int i = 0; i < BLOCKS; i++) assert_true(take(&w) >= 0); /* all can be taken, each a leaf when it is its turn */
    assert_int_equal(take(&w), -1);
    check_world(&w);
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
