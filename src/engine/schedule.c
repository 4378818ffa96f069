/* Who takes part in a step.
 *
 * Sessions with work are a queue in the order they came. Those that run have their blocks; the others wait, and are let
 * in in order, when all blocks that their tokens need can be had without disturbing one that runs. So only growth can
 * run out of room. Then the session that came last gives way: it drops its blocks and waits at its old place, and as
 * every session fits alone, the oldest always gets on.
 *
 * All prompts of a step together take a chunk at most, so they never hold up answers for longer; one whose chunk does
 * not fit beside the others' waits for the next step. Chunks end at multiples of their size: where a prompt is divided,
 * and so the rounding of what comes out, depends on itself (and on what the prefix cache spared it) alone. */
#include "src/engine/internal.h"

/* ---- the queue ---- */

int64_t pu_session_pending(const pu_session *s) {
  if (!s->ids.n || (s->started && s->finish != PU_FINISH_NONE)) return 0;
  /* Before an answer is started the last token waits: its logits are not yet wanted. */
  return (int64_t)s->ids.n - s->cached - (s->started ? 0 : 1);
}

static void set_state(pu_session *s, pu_session_state state) {
  s->en->n_running += (state == PU_SESSION_RUNNING) - (s->state == PU_SESSION_RUNNING);
  s->state = state;
}

void pu_schedule_update(pu_session *s) {
  pu_engine *en = s->en;
  bool work = pu_session_pending(s) > 0;
  if (work == (s->state != PU_SESSION_IDLE)) return;
  if (work) {
    s->q_before = en->q_last;
    s->q_next = NULL;
    *(en->q_last ? &en->q_last->q_next : &en->q_first) = s;
    en->q_last = s;
  } else {
    *(s->q_before ? &s->q_before->q_next : &en->q_first) = s->q_next;
    *(s->q_next ? &s->q_next->q_before : &en->q_last) = s->q_before;
  }
  set_state(s, work ? PU_SESSION_WAITING : PU_SESSION_IDLE);
}

/* ---- room in the cache ---- */

/* Of the sessions that hold blocks and do not run, the one that rests longest. */
static pu_session *at_rest(const pu_engine *en, const pu_session *but) {
  pu_session *found = NULL;
  for (pu_session *s = en->first; s; s = s->next)
    if (s != but && s->n_blocks && s->state != PU_SESSION_RUNNING && (!found || s->last_step < found->last_step))
      found = s;
  return found;
}

static pu_session *last_running(const pu_engine *en, const pu_session *after) {
  for (pu_session *s = en->q_last; s != after; s = s->q_before)
    if (s->state == PU_SESSION_RUNNING) return s;
  return NULL;
}

static void preempt(pu_session *s) {
  pu_session_drop(s);
  set_state(s, PU_SESSION_WAITING);
  s->en->stats.preemptions++;
}

/* Until `want` blocks can be taken for s; at the cost of running sessions that came after it, if `push`. */
static bool make_room(pu_session *s, int32_t want, bool push) {
  pu_engine *en = s->en;
  while (pu_cache_available(&en->cache) < want) {
    pu_session *rests = at_rest(en, s), *gives_way = push && !rests ? last_running(en, s) : NULL;
    if (rests)
      pu_session_drop(rests);
    else if (gives_way)
      preempt(gives_way);
    else
      return false;
  }
  return true;
}

/* ---- a session's own blocks ---- */

/* The block that the next token goes into, where it holds tokens already; -1: there is none. */
static int32_t half_full(const pu_session *s) {
  int32_t size = s->en->plan.kv_block;
  return s->cached % size ? s->blocks[s->cached / size] : -1;
}

/* Others read that block, so it must be copied before it is written. Where it is only the tree, and what it knows stays
 * as it is, the block may be taken out of the tree instead. */
static bool must_copy(const pu_session *s, int32_t b) {
  const pu_block *x = &s->en->cache.b[b];
  return x->holders > 1 || x->child >= 0 || x->tokens > s->cached % s->en->plan.kv_block;
}

static pu_err own_half_full(pu_session *s, pu_error *e) {
  pu_cache *c = &s->en->cache;
  int32_t b = half_full(s), to;
  if (b < 0 || (c->b[b].holders == 1 && !c->b[b].tokens)) return PU_OK;
  if (must_copy(s, b) && pu_cache_available(c)) {
    PU_TRY(pu_cache_take(c, &to, e));
    pu_err err = pu_host_copy(s->en, b, to, e);
    pu_cache_give(c, err ? to : b);
    if (!err) s->blocks[s->cached / c->size] = to;
    return err;
  }
  if (c->b[b].holders > 1 || c->b[b].child >= 0) return pu_fail(e, PU_ERR_INTERNAL, "the cache has no free block");
  pu_prefix_remove(c, b);
  return PU_OK;
}

/* Blocks to be taken for the first n tokens. */
static int32_t lacking(const pu_session *s, int64_t n) {
  int32_t b = half_full(s), more = pu_blocks_for(s->en, n) - s->n_blocks;
  return PU_MAX(more, 0) + (b >= 0 && must_copy(s, b));
}

static pu_err take_blocks(pu_session *s, int64_t n, pu_error *e) {
  PU_TRY(own_half_full(s, e));
  for (int32_t want = pu_blocks_for(s->en, n); s->n_blocks < want; s->n_blocks++)
    PU_TRY(pu_cache_take(&s->en->cache, &s->blocks[s->n_blocks], e));
  return PU_OK;
}

pu_err pu_schedule_ahead(pu_session *s, bool *there, pu_error *e) {
  pu_cache *c = &s->en->cache;
  int32_t want = pu_blocks_for(s->en, s->cached + 2);
  *there = make_room(s, PU_MAX(want - s->n_blocks, 0), false);
  for (; *there && s->n_blocks < want; s->n_blocks++) PU_TRY(pu_cache_take(c, &s->blocks[s->n_blocks], e));
  return PU_OK;
}

/* ---- letting in ---- */

/* With dynamic RoPE the angles depend on a sequence's length, once it is longer than the model was trained for. */
bool pu_schedule_scaled(const pu_engine *en, int64_t len) {
  const pu_rope_params *r = &en->m->hp.rope;
  return r->kind == PU_ROPE_DYNAMIC && len > r->original_max;
}

int64_t pu_session_shareable(const pu_session *s) {
  int64_t last = (int64_t)s->ids.n - 1;
  if (!s->en->shares_prefixes || pu_schedule_scaled(s->en, (int64_t)s->ids.n)) return 0;
  return s->prompt.top < 0 ? last : PU_MIN(last, PU_MAX(s->score_from - 1, 0));
}

/* A running prompt is about to compute more of what this one begins with than the tree has now. */
static bool worth_waiting(const pu_session *s) {
  int64_t size = s->en->plan.kv_block, last = pu_session_shareable(s);
  if (last == 0) return false;
  for (const pu_session *r = s->en->q_first; r != s; r = r->q_next) {
    if (r->state != PU_SESSION_RUNNING || r->salt != s->salt || pu_session_pending(r) <= 1) continue;
    if (pu_schedule_scaled(s->en, (int64_t)r->ids.n)) continue;
    int64_t n = PU_MIN(last, (int64_t)r->ids.n - 1), begin = PU_MAX((int64_t)r->n_known * size, s->cached), at = 0;
    if (begin + size > n) continue;
    while (at < n && r->ids.v[at] == s->ids.v[at]) at++;
    if (at >= begin + size) return true;
  }
  return false;
}

/* Room for all its tokens and the next, and one more block for each that runs, which will soon want it. */
static bool make_room_for_all(pu_session *s) {
  pu_engine *en = s->en;
  int64_t n = PU_MIN((int64_t)s->ids.n + 1, en->plan.context);
  if (make_room(s, lacking(s, n) + en->n_running, false)) return true;
  if (en->n_running) return false;
  pu_session_drop(s); /* alone, and what it shares is in the way of a copy */
  return make_room(s, lacking(s, n), false);
}

/* What of the first n tokens follows in the second tier. There is room: these blocks are wanted anyway. */
static pu_err bring_in(pu_session *s, int64_t n, pu_error *e) {
  pu_cache *c = &s->en->cache;
  while (s->cached < n && s->cached % c->size == 0) {
    int64_t common;
    int32_t last = s->n_blocks ? s->blocks[s->n_blocks - 1] : -1;
    int32_t h = pu_prefix_next_host(c, s->salt, last, s->ids.v + s->cached, n - s->cached, &common);
    if (h < 0) break;
    PU_TRY(pu_cache_bring(c, h, (int32_t)common, &s->blocks[s->n_blocks], e));
    s->n_blocks++;
    s->cached += common;
    s->plain = s->cached;
    s->n_known = (int32_t)(s->cached / c->size);
    s->en->stats.prefix_tokens_host += common;
  }
  return PU_OK;
}

static pu_err let_in(pu_session *s, bool *in, pu_error *e) {
  pu_engine *en = s->en;
  int64_t asked = s->n_blocks ? 0 : pu_session_shareable(s);
  if (asked) {
    s->cached = pu_prefix_match(&en->cache, s->salt, s->ids.v, asked, s->blocks, &s->n_blocks);
    s->plain = s->cached;
    s->n_known = (int32_t)(s->cached / en->plan.kv_block);
  }
  *in = make_room_for_all(s);
  if (!*in) {
    if (asked) pu_session_drop(s);
    return PU_OK;
  }
  if (asked) PU_TRY(bring_in(s, asked, e));
  en->stats.prefix_tokens_asked += asked;
  en->stats.prefix_tokens_hit += asked ? s->cached : 0;
  set_state(s, PU_SESSION_RUNNING);
  return PU_OK;
}

static pu_err let_all_in(pu_engine *en, pu_error *e) {
  for (pu_session *s = en->q_first, *next; s && en->n_running < en->max_batch; s = next) {
    bool in;
    next = s->q_next;
    if (s->state != PU_SESSION_WAITING || worth_waiting(s)) continue;
    PU_TRY(let_in(s, &in, e));
    if (!in) break; /* nobody overtakes it */
    PU_TRY(take_blocks(s, PU_MIN((int64_t)s->ids.n + 1, en->plan.context), e));
    pu_schedule_update(s); /* all of a prompt may have been there */
  }
  return PU_OK;
}

/* ---- shares ---- */

/* How many tokens, and the length that decides their angles: a prompt's whole length also for its first chunk; for
 * those of an answer what it was when they were made, also when they are computed anew. */
static void size_share(pu_session *s, pu_share *to) {
  const pu_engine *en = s->en;
  int64_t want = pu_session_pending(s), n = PU_MIN(want, en->chunk - s->cached % en->chunk);
  int64_t prompt = s->started ? (int64_t)s->answer_at : (int64_t)s->ids.n;
  bool made = s->cached >= prompt;
  if (pu_schedule_scaled(en, (int64_t)s->ids.n)) n = made ? 1 : PU_MIN(n, prompt - s->cached);
  *to = (pu_share){.s = s,
                   .tokens = (int32_t)n,
                   .rope_len = (int32_t)(made ? s->cached + n : prompt),
                   .makes = s->started && n == want};
}

pu_err pu_schedule(pu_engine *en, int32_t *n, pu_error *e) {
  int64_t budget = en->chunk;
  *n = 0;
  PU_TRY(let_all_in(en, e));
  PU_TRY(pu_guess(en, e));
  for (pu_session *s = en->q_first; s; s = s->q_next) {
    if (s->state != PU_SESSION_RUNNING) continue;
    pu_share share;
    size_share(s, &share);
    bool answering = s->started && pu_session_pending(s) == 1;
    if (!answering && share.tokens > budget) continue;                              /* not less of it: see above */
    if (answering && make_room(s, lacking(s, s->cached + 1 + s->n_guess), false)) { /* nobody gives way to guesses */
      share.guesses = s->n_guess;
      share.tokens += s->n_guess;
    }
    if (!make_room(s, lacking(s, s->cached + share.tokens), true)) {
      preempt(s);
      continue;
    }
    PU_TRY(take_blocks(s, s->cached + share.tokens, e));
    if (!answering) budget -= share.tokens;
    en->shares[(*n)++] = share;
  }
  return PU_OK;
}
