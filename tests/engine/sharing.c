/* What sessions share and what they leave each other: prompts computed once, forks, turns in the batch, endings. */
#include "src/engine/internal.h"
#include "tests/device.h"
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>

enum { VOCAB = 120, CONTEXT = 512 };

typedef struct bench {
  pu_backend *be;
  pu_model *m;
  pu_error e;
} bench;

/* All of it is done with each type of the cache; in few bits with the plain references, which add in one order however
 * tokens are divided: elsewhere a value between two steps may go to the one or the other. */
static pu_kv_type cache_type;

static bench open_sized(const pu_hparams *hp) {
  bench b;
  assert_ok(pu_test_open(1, cache_type ? PU_ISA_REF : pu_isa_best(), &b.be, &b.e), &b.e);
  pu_model_options o = {.dtype = PU_F32, .tile = true};
  assert_ok(pu_model_random(pu_arch_find("internlm2"), hp, 4, b.be, &o, &b.m, &b.e), &b.e);
  return b;
}

static bench open_model(pu_rope_params rope, int64_t max_position) {
  const pu_hparams hp = {.vocab = VOCAB,
                         .hidden = 32,
                         .ffn = 48,
                         .layers = 2,
                         .heads = 2,
                         .kv_heads = 1,
                         .head_dim = 32,
                         .max_position = max_position,
                         .norm_eps = 1e-5,
                         .rope = rope};
  return open_sized(&hp);
}

static void close_model(bench *b) {
  pu_model_free(b->m);
  b->be->close(b->be);
}

static const pu_rope_params plain_rope = {.base = 1e4, .factor = 1};

static pu_engine *engine(bench *b, pu_engine_options o) {
  pu_engine *en;
  if (!o.context) o.context = CONTEXT;
  o.kv_type = cache_type;
  assert_ok(pu_engine_over(b->m, NULL, &o, &en, &b->e), &b->e);
  return en;
}

static pu_session *open_with(pu_engine *en, int text, int n) {
  pu_session *s;
  pu_error e;
  assert_ok(pu_session_open(en, &s, &e), &e);
  for (int at = 0; at < n; at++) {
    int32_t id = (int32_t)(3 + pu_random_at(2, (uint64_t)text, (uint64_t)at) % (VOCAB - 3));
    assert_ok(pu_session_append(s, &id, 1, &e), &e);
  }
  return s;
}

static void start(pu_session *s, uint64_t seed, int64_t tokens) {
  pu_error e;
  pu_sampling how = pu_sampling_default();
  how.temperature = 1;
  how.seed = seed;
  how.max_tokens = tokens;
  assert_ok(pu_session_start(s, &how, NULL, NULL, &e), &e);
}

static void step(pu_engine *en) {
  bool more;
  pu_error e;
  assert_ok(pu_engine_step(en, &more, &e), &e);
}

static void run(pu_engine *en) {
  pu_error e;
  for (bool more = true; more;) assert_ok(pu_engine_step(en, &more, &e), &e);
}

static void same_answer(const pu_session *a, const pu_session *b) {
  size_t n, m;
  const int32_t *x = pu_session_answer(a, &n), *y = pu_session_answer(b, &m);
  assert_int_equal(n, m);
  assert_memory_equal(x, y, n * sizeof *x);
}

/* The answer that this prompt and seed give in an engine that shares nothing. */
static void check_alone(bench *b, const pu_session *s, int text, int prompt, uint64_t seed, int64_t tokens) {
  pu_engine *en = engine(b, (pu_engine_options){.no_prefix_cache = true, .max_batch = 1});
  pu_session *alone = open_with(en, text, prompt);
  start(alone, seed, tokens);
  run(en);
  same_answer(s, alone);
  pu_engine_free(en);
}

/* Eight that ask the same at once compute the prompt once; so does one that comes when they are gone. */
static void a_prompt_is_computed_once(void **state) {
  (void)state;
  bench b = open_model(plain_rope, CONTEXT);
  pu_engine *en = engine(&b, (pu_engine_options){.kv_block = 16, .prefill_chunk = 64});
  pu_session *s[8];
  for (int i = 0; i < 8; i++) s[i] = open_with(en, 1, 200);
  for (int i = 0; i < 8; i++) start(s[i], (uint64_t)i, 10);
  run(en);
  pu_engine_stats st = pu_engine_get_stats(en);
  assert_true(st.prefill_tokens < 200 + 7 * 16 + 8 * 10); /* the others: no more than what a block may hold */
  assert_true(st.prefix_tokens_hit >= 7 * 192);
  for (int i = 0; i < 8; i++) check_alone(&b, s[i], 1, 200, (uint64_t)i, 10);
  for (int i = 0; i < 8; i++) pu_session_close(s[i]);
  assert_int_equal(pu_engine_get_stats(en).kv_blocks_used, 0);
  s[0] = open_with(en, 1, 200);
  start(s[0], 3, 10);
  run(en);
  assert_true(pu_engine_get_stats(en).prefix_tokens_hit >= st.prefix_tokens_hit + 192);
  check_alone(&b, s[0], 1, 200, 3, 10);
  pu_engine_free(en);
  close_model(&b);
}

/* A prompt that waits for its answer to be asked for, and is there as a whole, takes no step. */
static void a_prompt_that_is_there_takes_no_step(void **state) {
  (void)state;
  bench b = open_model(plain_rope, CONTEXT);
  pu_engine *en = engine(&b, (pu_engine_options){.kv_block = 16});
  pu_session *s = open_with(en, 1, 65);
  run(en);
  pu_session_close(s);
  int64_t before = pu_engine_get_stats(en).prefill_tokens;
  s = open_with(en, 1, 65);
  run(en);
  assert_int_equal(pu_session_get_state(s), PU_SESSION_IDLE);
  assert_int_equal(pu_engine_get_stats(en).prefill_tokens, before);
  start(s, 3, 10);
  run(en);
  check_alone(&b, s, 1, 65, 3, 10);
  pu_engine_free(en);
  close_model(&b);
}

enum { CYCLED = 8, PROMPT = 158, ROUNDS = 4 };

/* One prompt after the other, over and over, through a cache of one context. The last two are the same but for the
 * salt. */
static pu_engine_stats cycle(bench *b, int64_t host_bytes) {
  pu_engine *en =
      engine(b, (pu_engine_options){.context = 256, .max_batch = 1, .kv_block = 16, .host_cache = host_bytes});
  for (int i = 0; i < CYCLED * ROUNDS; i++) {
    int k = i % CYCLED, text = PU_MIN(k, CYCLED - 2);
    pu_session *from = open_with(en, text, PROMPT), *s;
    assert_ok(pu_session_open(en, &s, &b->e), &b->e);
    assert_ok(pu_session_salt(s, k == CYCLED - 1, &b->e), &b->e);
    assert_ok(pu_session_append(s, from->ids.v, from->ids.n, &b->e), &b->e);
    pu_session_close(from);
    start(s, (uint64_t)k, 20);
    if (k % 2) s->how.temperature = 0;
    run(en);
    if (i < CYCLED || i % 3 == 0) {
      pu_engine *plain = engine(b, (pu_engine_options){.no_prefix_cache = true, .max_batch = 1});
      pu_session *alone = open_with(plain, text, PROMPT);
      start(alone, (uint64_t)k, 20);
      if (k % 2) alone->how.temperature = 0;
      run(plain);
      same_answer(s, alone);
      pu_engine_free(plain);
    }
    pu_session_close(s);
  }
  pu_engine_stats st = pu_engine_get_stats(en);
  pu_engine_free(en);
  return st;
}

/* What the cache has no room for comes back from host memory, where there is room; where there is too little for a
 * round nothing does, and it does no harm. */
static void prompts_come_back_from_the_host(void **state) {
  (void)state;
  bench b = open_model(plain_rope, CONTEXT);
  pu_engine_stats st = cycle(&b, 64 << 20);
  const int64_t asked = (int64_t)CYCLED * ROUNDS * (PROMPT - 1);
  assert_int_equal(st.prefix_tokens_asked, asked);
  assert_int_equal(st.prefix_tokens_hit,
                   (int64_t)CYCLED * (ROUNDS - 1) * (PROMPT - 1)); /* also of blocks that end otherwise */
  assert_true(st.prefix_tokens_host > st.prefix_tokens_hit / 2);
  assert_true(st.host_blocks_in >= 100 && st.host_blocks_out >= st.host_blocks_in);
  assert_true(st.host_blocks_used <= CYCLED * 12);
  st = cycle(&b, 20 * (st.cache_bytes / 16));
  assert_true(st.host_blocks >= 15 && st.host_blocks <= 20 && st.host_blocks_used == st.host_blocks);
  assert_true(st.prefix_tokens_host < asked / 10);
  st = cycle(&b, PU_NO_HOST_CACHE);
  assert_int_equal(st.host_blocks + st.host_blocks_out + st.prefix_tokens_host, 0);
  close_model(&b);
}

/* Blocks of 16 MiB, of which four lie in what is pinned at a time: the host has more than these. */
static void the_host_has_more_than_one_area(void **state) {
  (void)state;
  enum { LONG = 1100, TEXTS = 3, ROUNDS_HERE = 2 };
  if (cache_type) return;
  const pu_hparams hp = {.vocab = VOCAB,
                         .hidden = 32,
                         .ffn = 48,
                         .layers = 2,
                         .heads = 8,
                         .kv_heads = 8,
                         .head_dim = 128,
                         .max_position = 2048,
                         .norm_eps = 1e-5,
                         .rope = plain_rope};
  bench b = open_sized(&hp);
  pu_engine *en = engine(
      &b, (pu_engine_options){.context = 2048, .max_batch = 1, .kv_block = 1024, .host_cache = (int64_t)170 << 20});
  pu_session *s[TEXTS * ROUNDS_HERE];
  for (int i = 0; i < TEXTS * ROUNDS_HERE; i++) {
    s[i] = open_with(en, i % TEXTS, LONG);
    start(s[i], 1, 8);
    run(en);
    if (i >= TEXTS) same_answer(s[i], s[i - TEXTS]);
  }
  pu_engine_stats st = pu_engine_get_stats(en);
  assert_true(st.prefix_tokens_host >= TEXTS * (LONG - 1) && st.host_blocks_used > 4);
  pu_engine_free(en);
  close_model(&b);
}

/* Other salts, and engines without a prefix cache, share nothing. */
static void walls_hold(void **state) {
  (void)state;
  bench b = open_model(plain_rope, CONTEXT);
  for (int no_cache = 0; no_cache < 2; no_cache++) {
    pu_engine *en = engine(&b, (pu_engine_options){.no_prefix_cache = no_cache});
    for (uint64_t salt = 0; salt < 3; salt++) {
      pu_session *s;
      assert_ok(pu_session_open(en, &s, &b.e), &b.e);
      assert_ok(pu_session_salt(s, no_cache ? 0 : salt, &b.e), &b.e);
      pu_session *from = open_with(en, 1, 100);
      assert_ok(pu_session_append(s, from->ids.v, from->ids.n, &b.e), &b.e);
      pu_session_close(from);
      assert_int_equal(pu_session_salt(s, 1, &b.e), PU_ERR_USAGE);
      assert_int_equal(pu_session_score(s, 1, &b.e), PU_ERR_USAGE);
      start(s, 1, 5);
      run(en);
      pu_session_close(s);
    }
    assert_int_equal(pu_engine_get_stats(en).prefix_tokens_hit, 0);
    pu_engine_free(en);
  }
  close_model(&b);
}

/* Forks of a processed prompt take its blocks, also the last one, of which each makes its own when it writes. */
static void forks_share_until_they_write(void **state) {
  (void)state;
  bench b = open_model(plain_rope, CONTEXT);
  for (int no_cache = 0; no_cache < 2; no_cache++) {
    pu_engine *en = engine(&b, (pu_engine_options){.kv_block = 16, .no_prefix_cache = no_cache});
    pu_session *s[6] = {open_with(en, 2, 100)};
    run(en); /* all but the last token */
    int32_t used = pu_engine_get_stats(en).kv_blocks_used;
    int64_t before = pu_engine_get_stats(en).prefill_tokens;
    for (int i = 1; i < 6; i++) assert_ok(pu_session_fork(s[0], &s[i], &b.e), &b.e);
    assert_int_equal(pu_engine_get_stats(en).kv_blocks_used, used);
    assert_int_equal(pu_session_get_state(s[5]), PU_SESSION_IDLE);
    for (int i = 0; i < 6; i++) start(s[i], (uint64_t)i, 6);
    run(en);
    pu_engine_stats st = pu_engine_get_stats(en);
    assert_int_equal(st.prefill_tokens, before); /* the prompt was not computed again */
    assert_int_equal(st.kv_blocks_used, used + 5);
    for (int i = 0; i < 6; i++) check_alone(&b, s[i], 2, 100, (uint64_t)i, 6);
    for (int i = 0; i < 6; i++) pu_session_close(s[i]);
    assert_int_equal(pu_engine_get_stats(en).kv_blocks_used, 0);
    pu_engine_free(en);
  }
  close_model(&b);
}

/* While a long prompt is read, in chunks, those who answer get a token in every step. */
static void a_long_prompt_holds_nobody_up(void **state) {
  (void)state;
  bench b = open_model(plain_rope, CONTEXT);
  pu_engine *en = engine(&b, (pu_engine_options){.prefill_chunk = 32, .max_batch = 4});
  pu_session *talks = open_with(en, 3, 5), *reads = open_with(en, 4, 400), *waits = open_with(en, 5, 300);
  start(talks, 1, 100);
  start(reads, 2, 5);
  start(waits, 3, 5);
  size_t n;
  int64_t tokens = 0;
  for (size_t i = 1; i <= 20; i++) {
    step(en);
    pu_engine_stats st = pu_engine_get_stats(en);
    assert_true(st.prefill_tokens + st.decode_tokens - tokens <= 32 + 4);
    tokens = st.prefill_tokens + st.decode_tokens;
    (void)pu_session_answer(talks, &n);
    assert_int_equal(n, i);
  }
  (void)pu_session_answer(reads, &n);
  assert_true(n > 0); /* the first to come is read first */
  run(en);
  check_alone(&b, talks, 3, 5, 1, 100);
  check_alone(&b, waits, 5, 300, 3, 5);
  pu_engine_free(en);
  close_model(&b);
}

/* More sessions than places: in order of their coming, each its turn. */
static void turns_are_taken(void **state) {
  (void)state;
  bench b = open_model(plain_rope, CONTEXT);
  pu_engine *en = engine(&b, (pu_engine_options){.max_batch = 2});
  pu_session *s[5];
  size_t n;
  for (int i = 0; i < 5; i++) start(s[i] = open_with(en, 10 + i, 9), 1, 8);
  step(en);
  assert_int_equal(pu_session_get_state(s[1]), PU_SESSION_RUNNING);
  assert_int_equal(pu_session_get_state(s[2]), PU_SESSION_WAITING);
  pu_engine_stats st = pu_engine_get_stats(en);
  assert_int_equal(st.running, 2);
  assert_int_equal(st.waiting, 3);
  pu_session_cancel(s[0]); /* makes room */
  pu_session_cancel(s[4]); /* before its turn */
  assert_int_equal(pu_session_get_state(s[0]), PU_SESSION_IDLE);
  step(en);
  assert_int_equal(pu_session_get_state(s[2]), PU_SESSION_RUNNING);
  run(en);
  for (int i = 0; i < 5; i++) {
    bool cancelled = i == 0 || i == 4;
    assert_int_equal(pu_session_finish(s[i]), cancelled ? PU_FINISH_CANCEL : PU_FINISH_LENGTH);
    (void)pu_session_answer(s[i], &n);
    assert_int_equal(n, i == 0 ? 1 : i == 4 ? 0 : 8);
    if (!cancelled) check_alone(&b, s[i], 10 + i, 9, 1, 8);
  }
  pu_engine_free(en);
  close_model(&b);
}

/* With dynamic RoPE, keys of a long answer have the angles of the time they were made. Blocks that are taken away and
 * computed anew get the same; and what is scaled is not shared with those for whom it is not. */
static void angles_survive(void **state) {
  (void)state;
  enum { TRAINED = 48 };
  bench b =
      open_model((pu_rope_params){.kind = PU_ROPE_DYNAMIC, .base = 1e4, .factor = 2, .original_max = TRAINED}, TRAINED);
  static const int prompts[] = {20, 44, 60, 70};
  for (size_t i = 0; i < PU_COUNT(prompts); i++) {
    pu_engine *en = engine(&b, (pu_engine_options){.context = 96, .kv_block = 8});
    pu_session *s = open_with(en, 1, prompts[i]);
    start(s, 1, 25);
    for (int k = 0; k < 18; k++) {
      step(en);
      if (k == 4 || k == 13) pu_session_drop(s);
    }
    run(en);
    check_alone(&b, s, 1, prompts[i], 1, 25);
    pu_session *other = open_with(en, 1, prompts[PU_COUNT(prompts) - 1 - i]);
    start(other, 2, 20);
    run(en);
    check_alone(&b, other, 1, prompts[PU_COUNT(prompts) - 1 - i], 2, 20);
    pu_engine_free(en);
  }
  close_model(&b);
}

/* ---- what may not come ---- */

static void endings_wait_and_bad_words_never_come(void **state) {
  (void)state;
  bench b = open_model(plain_rope, CONTEXT);
  pu_engine *en = engine(&b, (pu_engine_options){.max_batch = 2});
  int32_t all[VOCAB];
  for (int i = 0; i < VOCAB; i++) all[i] = i;
  pu_sampling how = pu_sampling_default();
  how.temperature = 1;
  how.max_tokens = 40;
  how.min_tokens = 7;
  how.stop_ids = all + 1; /* all but id 0 end the answer */
  how.n_stop_ids = VOCAB - 1;
  pu_session *s = open_with(en, 6, 10);
  assert_ok(pu_session_generate(s, &how, NULL, NULL, &b.e), &b.e);
  size_t n;
  const int32_t *ids = pu_session_answer(s, &n);
  assert_int_equal(pu_session_finish(s), PU_FINISH_STOP);
  assert_true(n >= 7);
  for (size_t i = 0; i < n; i++) assert_int_equal(ids[i], 0);
  /* Greedy answers, the second of whose tokens is forbidden after the first, then the first altogether. */
  how = pu_sampling_default();
  how.max_tokens = 12;
  int32_t bad[3] = {0};
  pu_ids_view words[2];
  for (int round = 0; round < 3; round++) {
    assert_ok(pu_session_rewind(s, 10, &b.e), &b.e);
    assert_ok(pu_session_generate(s, &how, NULL, NULL, &b.e), &b.e);
    ids = pu_session_answer(s, &n);
    for (size_t i = 0; i < n && round; i++) {
      if (i) assert_false(ids[i - 1] == bad[0] && ids[i] == bad[1]);
      if (round > 1) assert_int_not_equal(ids[i], bad[2]);
    }
    if (round == 0) memcpy(bad, ids, 2 * sizeof *bad);
    if (round == 1) bad[2] = ids[0];
    words[0] = (pu_ids_view){bad, 2};
    words[1] = (pu_ids_view){bad + 2, 1};
    how.bad_words = words;
    how.n_bad_words = (size_t)round + 1;
  }
  const pu_logit_bias bias = {77, 1000};
  how = pu_sampling_default();
  how.max_tokens = 3;
  how.logit_bias = &bias;
  how.n_logit_bias = 1;
  how.top_logprobs = 1;
  assert_ok(pu_session_rewind(s, 10, &b.e), &b.e);
  assert_ok(pu_session_generate(s, &how, NULL, NULL, &b.e), &b.e);
  const pu_token_info *t = pu_session_tokens(s, &n);
  assert_int_equal(n, 3);
  for (size_t i = 0; i < n; i++) {
    assert_int_equal(t[i].id, 77);
    assert_true(t[i].logprob > -1e-3f && t[i].top_ids[0] == 77);
  }
  const pu_logit_bias wrong[] = {{VOCAB, 1}, {1, NAN}, {1, INFINITY}};
  for (size_t i = 0; i < PU_COUNT(wrong); i++) {
    how.logit_bias = &wrong[i];
    assert_int_equal(pu_session_generate(s, &how, NULL, NULL, &b.e), PU_ERR_USAGE);
  }
  pu_engine_free(en);
  close_model(&b);
}

static void prompts_are_scored_whatever_happens(void **state) {
  (void)state;
  bench b = open_model(plain_rope, CONTEXT);
  pu_engine *en = engine(&b, (pu_engine_options){.prefill_chunk = 16, .kv_block = 8});
  pu_session *s[3], *plain = open_with(en, 8, 60);
  size_t n, m;
  run(en); /* the prefix cache knows the text, and must not be asked */
  for (int i = 0; i < 3; i++) {
    assert_ok(pu_session_open(en, &s[i], &b.e), &b.e);
    assert_ok(pu_session_score(s[i], 2, &b.e), &b.e);
    assert_ok(pu_session_append(s[i], plain->ids.v, plain->ids.n, &b.e), &b.e);
  }
  step(en);
  pu_session_drop(s[1]); /* computed anew in the middle */
  start(s[2], 1, 4);
  run(en);
  const pu_token_info *x = pu_session_prompt(s[0], &n);
  for (int i = 1; i < 3; i++) {
    const pu_token_info *y = pu_session_prompt(s[i], &m);
    assert_int_equal(n, 60);
    assert_int_equal(m, 60); /* not the answer's */
    for (size_t k = 1; k < n; k++) assert_true(fabsf(x[k].logprob - y[k].logprob) < 1e-4f && y[k].n_top == 2);
  }
  assert_null(pu_session_prompt(plain, &n));
  pu_engine_free(en);
  close_model(&b);
}

/* Options of a question branch off it: what each is told with is what it is told with when all is computed for it. */
static void options_are_told_from_where_they_branch(void **state) {
  (void)state;
  bench b = open_model(plain_rope, CONTEXT);
  pu_engine *en = engine(&b, (pu_engine_options){.prefill_chunk = 16, .kv_block = 8});
  enum { QUESTION = 45 };
  pu_session *question = open_with(en, 8, QUESTION), *s[4];
  size_t n, m;
  run(en);
  assert_int_equal(pu_session_score_from(question, QUESTION - 1, 0, &b.e), PU_ERR_USAGE); /* it is processed */
  int64_t before = pu_engine_get_stats(en).prefill_tokens;
  for (int i = 0; i < 4; i++) { /* forks, and one that finds it in the prefix cache */
    if (i < 3)
      assert_ok(pu_session_fork(question, &s[i], &b.e), &b.e);
    else
      s[i] = open_with(en, 8, QUESTION);
    assert_ok(pu_session_score_from(s[i], QUESTION, 1, &b.e), &b.e);
    for (int32_t k = 0; k <= 2 * i; k++)
      assert_ok(pu_session_append(s[i], &(int32_t){(k * 7 + i) % VOCAB}, 1, &b.e), &b.e);
  }
  step(en);
  pu_session_drop(s[1]); /* computed anew in the middle */
  run(en);
  assert_true(pu_engine_get_stats(en).prefill_tokens - before < 3 * QUESTION);
  for (int i = 0; i < 4; i++) {
    pu_session *whole;
    assert_ok(pu_session_open(en, &whole, &b.e), &b.e);
    assert_ok(pu_session_score(whole, 1, &b.e), &b.e);
    assert_ok(pu_session_append(whole, s[i]->ids.v, s[i]->ids.n, &b.e), &b.e);
    run(en);
    const pu_token_info *x = pu_session_prompt(s[i], &n), *y = pu_session_prompt(whole, &m);
    assert_int_equal(n, 2 * i + 1);
    assert_int_equal(m, QUESTION + n);
    for (size_t k = 0; k < n; k++) {
      assert_int_equal(x[k].id, y[QUESTION + k].id);
      assert_true(fabsf(x[k].logprob - y[QUESTION + k].logprob) < 1e-4f && x[k].n_top == 1);
    }
    assert_ok(pu_session_rewind(s[i], QUESTION + 1, &b.e), &b.e);
    (void)pu_session_prompt(s[i], &n);
    assert_int_equal(n, 1);
  }
  pu_engine_free(en);
  close_model(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(a_prompt_is_computed_once),
                                     cmocka_unit_test(a_prompt_that_is_there_takes_no_step),
                                     cmocka_unit_test(prompts_come_back_from_the_host),
                                     cmocka_unit_test(the_host_has_more_than_one_area),
                                     cmocka_unit_test(walls_hold),
                                     cmocka_unit_test(forks_share_until_they_write),
                                     cmocka_unit_test(a_long_prompt_holds_nobody_up),
                                     cmocka_unit_test(turns_are_taken),
                                     cmocka_unit_test(angles_survive),
                                     cmocka_unit_test(endings_wait_and_bad_words_never_come),
                                     cmocka_unit_test(prompts_are_scored_whatever_happens),
                                     cmocka_unit_test(options_are_told_from_where_they_branch)};
  int failed = 0;
  for (cache_type = PU_KV_SAME; cache_type <= PU_KV_INT4; cache_type += cache_type ? 1 : PU_KV_INT8)
    failed += cmocka_run_group_tests(tests, NULL, NULL);
  return failed;
}
