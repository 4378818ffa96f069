/* Many sessions over a small cache: whatever is opened, forked, cancelled, taken back and closed around it, and however
 * often its blocks are taken from it, a session's answer is the one it gives alone; and no block is lost. */
#include "src/engine/internal.h"
#include "tests/device.h"
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>

enum { VOCAB = 120, CONTEXT = 96 };

typedef struct bench {
  pu_backend *be;
  pu_model *m;
  pu_error e;
} bench;

static bench open_model(pu_rope_params rope, int64_t max_position) {
  bench b;
  const pu_hparams hp = {.vocab = VOCAB,
                         .hidden = 32,
                         .ffn = 48,
                         .layers = 2,
                         .heads = 2,
                         .kv_heads = 1,
                         .head_dim = 16,
                         .max_position = max_position,
                         .norm_eps = 1e-5,
                         .bos = 1,
                         .eos = {2},
                         .n_eos = 1,
                         .rope = rope};
  assert_ok(pu_test_open(1, pu_isa_best(), &b.be, &b.e), &b.e);
  pu_model_options o = {.dtype = PU_F32, .tile = true};
  assert_ok(pu_model_random(pu_arch_find("internlm2"), &hp, 4, b.be, &o, &b.m, &b.e), &b.e);
  return b;
}

static void close_model(bench *b) {
  pu_model_free(b->m);
  b->be->close(b->be);
}

static const pu_rope_params plain_rope = {.base = 1e4, .factor = 1};

static pu_engine *engine(bench *b, pu_engine_options o) {
  pu_engine *en;
  if (!o.context) o.context = CONTEXT;
  assert_ok(pu_engine_over(b->m, NULL, &o, &en, &b->e), &b->e);
  return en;
}

/* Bytes for a cache of so many blocks, and all else. */
static size_t memory_for(bench *b, pu_engine_options o, int32_t blocks) {
  pu_engine_plan small;
  assert_ok(pu_plan_options(b->be, &b->m->hp, &o, &b->e), &b->e);
  size_t block = (size_t)o.kv_block * (size_t)(b->m->hp.layers + 1) *
                 pu_kv_token_bytes(pu_kv_format_of(o.kv_type, b->m->dtype, b->m->hp.head_dim), b->m->hp.kv_heads,
                                   b->m->hp.head_dim);
  o.memory = SIZE_MAX / 2;
  assert_ok(pu_plan_make(b->m, &o, 1000, true, &small, &b->e), &b->e);
  size_t all = 0;
  for (size_t i = 0; i < b->m->n_params; i++) {
    const pu_tensor *w = b->m->params[i].w;
    all += w->layout == PU_LAYOUT_TILED ? pu_tiled_bytes(w->dtype, w->shape[0], w->shape[1]) : pu_tensor_bytes(w);
  }
  return small.work - (size_t)small.kv_blocks * block / (size_t)(b->m->hp.layers + 1) + all + (size_t)blocks * block;
}

/* And for so many of the second tier. */
static size_t host_bytes(bench *b, pu_engine_options o, int32_t blocks) {
  pu_kv_format f = pu_kv_format_of(o.kv_type, b->m->dtype, b->m->hp.head_dim);
  assert_ok(pu_plan_options(b->be, &b->m->hp, &o, &b->e), &b->e);
  size_t layer = (size_t)o.kv_block * pu_kv_token_bytes(f, b->m->hp.kv_heads, b->m->hp.head_dim);
  return (size_t)blocks * pu_host_block_bytes(layer * (size_t)b->m->hp.layers, o.kv_block);
}

/* ---- what a session is to give ---- */

typedef struct task {
  pu_ids prompt;
  pu_sampling how;
  pu_session *s;
  bool started, cancelled;
  int64_t appended; /* prompt tokens given so far */
} task;

/* Prompts are beginnings of a few texts, with endings of their own: so there is much to share. */
static void make_prompt(pu_ids *ids, pu_rng *r) {
  uint64_t text = pu_rng_below(r, 3);
  size_t n = 1 + pu_rng_below(r, 36), own = pu_rng_below(r, 14);
  ids->n = 0;
  for (size_t i = 0; i < n; i++) pu_ids_push(ids, (int32_t)(3 + pu_random_at(1, text, i) % (VOCAB - 3)));
  for (size_t i = 0; i < own; i++) pu_ids_push(ids, (int32_t)(3 + pu_rng_below(r, VOCAB - 3)));
}

static pu_sampling make_sampling(pu_rng *r) {
  pu_sampling how = pu_sampling_default();
  how.max_tokens = 1 + (int64_t)pu_rng_below(r, 50);
  how.temperature = pu_rng_below(r, 2) ? 1 : 0;
  how.seed = pu_rng_next(r);
  if (pu_rng_below(r, 4) == 0) how.repetition_penalty = 1.3;
  if (pu_rng_below(r, 4) == 0) how.frequency_penalty = 0.01;
  if (pu_rng_below(r, 4) == 0) how.min_tokens = 5;
  if (pu_rng_below(r, 4) == 0) how.top_logprobs = 3;
  return how;
}

/* The answer alone, in an engine of its own that shares nothing. */
static void check_task(pu_engine *alone, const task *t, bool whole) {
  pu_session *s;
  pu_error e;
  size_t n, want_n;
  assert_ok(pu_session_open(alone, &s, &e), &e);
  assert_ok(pu_session_append(s, t->prompt.v, t->prompt.n, &e), &e);
  assert_ok(pu_session_generate(s, &t->how, NULL, NULL, &e), &e);
  const int32_t *got = pu_session_answer(t->s, &n), *want = pu_session_answer(s, &want_n);
  if (whole) {
    assert_int_equal(pu_session_finish(t->s), pu_session_finish(s));
    assert_int_equal(n, want_n);
  }
  assert_true(n <= want_n);
  for (size_t i = 0; i < n; i++)
    if (got[i] != want[i]) fail_msg("token %zu of an answer is %d, not %d", i, (int)got[i], (int)want[i]);
  const pu_token_info *a = pu_session_tokens(t->s, &n), *b = pu_session_tokens(s, &want_n);
  assert_int_equal(a != NULL, t->how.top_logprobs >= 0);
  for (size_t i = 0; a && i < n; i++) {
    assert_int_equal(a[i].id, got[i]);
    assert_int_equal(a[i].n_top, 3);
    assert_true(fabsf(a[i].logprob - b[i].logprob) < 1e-4f);
    for (int k = 0; k < 3; k++) assert_true(fabsf(a[i].top_logprobs[k] - b[i].top_logprobs[k]) < 1e-4f);
  }
  pu_session_close(s);
}

/* ---- the random schedule ---- */

enum { TASKS = 12 };

typedef struct play {
  pu_engine *en, *alone;
  pu_rng r;
  task t[TASKS];
  int checked, forks;
} play;

static void let_go(task *t) {
  pu_session_close(t->s);
  pu_ids_deinit(&t->prompt);
  *t = (task){0};
}

static void open_one(play *p, task *t) {
  pu_error e;
  assert_ok(pu_session_open(p->en, &t->s, &e), &e);
  make_prompt(&t->prompt, &p->r);
}

/* A copy of another session, as far as that has come; an answer it is in the middle of becomes prompt. */
static void fork_one(play *p, task *t, const task *from) {
  pu_error e;
  assert_ok(pu_session_fork(from->s, &t->s, &e), &e);
  for (size_t i = 0; i < from->s->ids.n; i++) pu_ids_push(&t->prompt, from->s->ids.v[i]);
  t->appended = (int64_t)t->prompt.n;
  size_t own = 1 + pu_rng_below(&p->r, 3);
  for (size_t i = 0; i < own && t->prompt.n < CONTEXT - 26; i++)
    pu_ids_push(&t->prompt, (int32_t)(3 + pu_rng_below(&p->r, VOCAB - 3)));
  p->forks++;
}

static void begin_one(play *p, task *t) {
  pu_error e;
  int64_t left = (int64_t)t->prompt.n - t->appended;
  int64_t n = pu_rng_below(&p->r, 3) ? left : (int64_t)pu_rng_below(&p->r, (uint64_t)left + 1);
  assert_ok(pu_session_append(t->s, t->prompt.v + t->appended, (size_t)n, &e), &e);
  t->appended += n;
  if (n < left || !t->prompt.n) return;
  t->how = make_sampling(&p->r);
  assert_ok(pu_session_start(t->s, &t->how, NULL, NULL, &e), &e);
  t->started = true;
}

/* Back to somewhere, and on from there with another ending. */
static void rewind_one(play *p, task *t) {
  pu_error e;
  size_t n = pu_rng_below(&p->r, t->s->ids.n + 1);
  pu_ids ids = {0};
  for (size_t i = 0; i < n; i++) pu_ids_push(&ids, t->s->ids.v[i]);
  assert_ok(pu_session_rewind(t->s, (int64_t)n, &e), &e);
  for (size_t i = 0, own = 1 + pu_rng_below(&p->r, 12); i < own && ids.n < CONTEXT - 26; i++)
    pu_ids_push(&ids, (int32_t)(3 + pu_rng_below(&p->r, VOCAB - 3)));
  pu_ids_deinit(&t->prompt);
  t->prompt = ids;
  t->appended = (int64_t)n;
  t->started = t->cancelled = false;
}

static void act(play *p) {
  task *t = &p->t[pu_rng_below(&p->r, TASKS)], *other = &p->t[pu_rng_below(&p->r, TASKS)];
  if (!t->s) {
    if (other->s && other->s->ids.n && pu_rng_below(&p->r, 3) == 0)
      fork_one(p, t, other);
    else
      open_one(p, t);
  } else if (!t->started) {
    begin_one(p, t);
  } else if (pu_session_finish(t->s) != PU_FINISH_NONE) {
    check_task(p->alone, t, !t->cancelled);
    p->checked++;
    if (pu_rng_below(&p->r, 2))
      rewind_one(p, t);
    else
      let_go(t);
  } else if (pu_rng_below(&p->r, 12) == 0) {
    pu_session_cancel(t->s);
    t->cancelled = true;
  } else if (pu_rng_below(&p->r, 40) == 0) {
    let_go(t); /* in the middle */
  }
}

/* Holders of every block, counted from the sessions; the tree's links; the list of those that only the tree holds. */
static void check_blocks(pu_engine *en) {
  pu_cache *c = &en->cache;
  int32_t *holders = calloc((size_t)c->n, sizeof *holders), held = 0, kept = 0, host = 0;
  for (const pu_session *s = en->first; s; s = s->next)
    for (int32_t i = 0; i < s->n_blocks; i++) holders[s->blocks[i]]++;
  for (int32_t b = 0; b < c->n; b++) {
    assert_int_equal(holders[b], c->b[b].holders);
    held += holders[b] > 0;
    kept += !holders[b] && c->b[b].tokens;
    if (c->b[b].tokens && c->b[b].parent != c->n) assert_int_equal(c->b[c->b[b].parent].tokens, c->size);
    if (!c->b[b].tokens) assert_int_equal(c->b[b].child, -1);
  }
  for (int32_t h = c->n + 1; h <= c->n + c->host_begun; h++) {
    host += c->b[h].tokens > 0;
    assert_int_equal(c->b[h].holders, 0);
    if (!c->b[h].tokens || c->b[h].parent == c->n) continue;
    assert_int_equal(c->b[c->b[h].parent].tokens, c->size);
    for (int32_t k = c->b[h].child; k >= 0; k = c->b[k].after) assert_true(k > c->n); /* nothing is behind it here */
  }
  assert_int_equal(c->host.n, host);
  assert_int_equal(c->kept.n, kept);
  assert_int_equal(c->n_free, c->n - held - kept);
  if (c->kept.oldest >= 0) /* what would be taken next is a leaf, or has children at the host alone */
    for (int32_t k = c->b[c->kept.oldest].child; k >= 0; k = c->b[k].after) assert_true(k > c->n);
  if (c->host.oldest >= 0) assert_int_equal(c->b[c->host.oldest].child, -1);
  free(holders);
}

/* host: blocks of the second tier; -1: as many as there are by default. */
static void play_on(bench *b, pu_engine_options o, int32_t blocks, int32_t host, uint64_t seed, pu_engine_stats *sum) {
  play p = {.alone = engine(b, (pu_engine_options){.max_batch = 1, .no_prefix_cache = true})};
  pu_error e;
  o.context = CONTEXT;
  o.memory = memory_for(b, o, blocks);
  if (host >= 0) o.host_cache = host ? (int64_t)host_bytes(b, o, host) : PU_NO_HOST_CACHE;
  if (host > 0 && !b->be->memory && !o.no_prefix_cache) o.memory += (size_t)o.host_cache;
  p.en = engine(b, o);
  assert_int_equal(p.en->plan.kv_blocks, blocks);
  if (host >= 0 && !o.no_prefix_cache) assert_int_equal(p.en->plan.host_blocks, host);
  pu_rng_seed(&p.r, seed);
  for (int i = 0; i < 2500; i++) {
    bool more;
    act(&p);
    if (pu_rng_below(&p.r, 2)) assert_ok(pu_engine_step(p.en, &more, &e), &e);
    if (i % 16 == 0) check_blocks(p.en);
  }
  for (bool more = true; more;) assert_ok(pu_engine_step(p.en, &more, &e), &e);
  for (int i = 0; i < TASKS; i++) {
    if (p.t[i].started) check_task(p.alone, &p.t[i], !p.t[i].cancelled); /* all have come to their end */
    let_go(&p.t[i]);
  }
  check_blocks(p.en);
  pu_engine_stats st = pu_engine_get_stats(p.en);
  assert_int_equal(st.kv_blocks_used, 0);
  assert_int_equal(st.running + st.waiting, 0);
  assert_true(p.checked > 100 && p.forks > 3);
  sum->preemptions += st.preemptions;
  sum->prefix_tokens_hit += st.prefix_tokens_hit;
  sum->prefix_tokens_asked += st.prefix_tokens_asked;
  sum->prefix_tokens_host += st.prefix_tokens_host;
  sum->host_blocks_out += st.host_blocks_out;
  sum->host_blocks_in += st.host_blocks_in;
  pu_engine_free(p.en);
  pu_engine_free(p.alone);
}

static void answers_survive_any_schedule(void **state) {
  (void)state;
  static const struct {
    pu_engine_options o;
    int32_t blocks, host;
  } cases[] = {{{.max_batch = 6, .kv_block = 8}, 12, -1}, /* one context */
               {{.max_batch = 4, .kv_block = 16, .prefill_chunk = 16}, 9, 0},
               {{.max_batch = 8, .kv_block = 5, .prefill_chunk = 7}, 30, 0},
               {{.max_batch = 3, .kv_block = 32}, 6, 1},
               {{.max_batch = 6, .kv_block = 8, .no_prefix_cache = true}, 14, 20},
               {{.max_batch = 5, .kv_block = 8, .guess = 3}, 16, 9},
               {{.max_batch = 12, .kv_block = 16}, 60, 0},
               {{.max_batch = 6, .kv_block = 8}, 12, 100},
               {{.max_batch = 8, .kv_block = 5, .prefill_chunk = 7}, 20, 13},
               {{.max_batch = 4, .kv_block = 16, .prefill_chunk = 16}, 9, 7}};
  bench b = open_model(plain_rope, CONTEXT);
  pu_engine_stats sum = {0};
  for (size_t i = 0; i < PU_COUNT(cases); i++) play_on(&b, cases[i].o, cases[i].blocks, cases[i].host, i, &sum);
  assert_true(sum.preemptions > 40 && sum.prefix_tokens_hit > 500); /* it was not an idle play */
  assert_true(sum.host_blocks_out > 200 && sum.host_blocks_in > 100 && sum.prefix_tokens_host > 500);
  close_model(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(answers_survive_any_schedule)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
