/* The scheduler: which tokens of which sessions the next forward pass takes.
 *
 * A session has ids of which the first `cached` are in the cache. One that makes an answer has exactly one more: the
 * token made last. One with a prompt has many; it takes a chunk of them, and its first answer token is made in the step
 * that takes the last. All prompts of a step together take a chunk at most, so they never hold up answers for longer;
 * one whose chunk does not fit beside the others' waits. Where a prompt is divided thus depends on itself alone, and so
 * does the rounding of what comes out. */
#include <string.h>

#include "src/engine/internal.h"

/* One session's share of a step. */
typedef struct share {
  pu_session *s;
  int32_t tokens;
  bool makes; /* its next token comes out of this step */
} share;

typedef struct batch {
  share *shares;
  int32_t n, tokens, n_makes;
  pu_seqs seqs;
  int32_t *ids, *len, *rope_len, *table, *rows;
  int32_t table_stride;
} batch;

/* Tokens that session s could process now. Before an answer is started the last one waits: its logits are not yet
 * wanted. */
static int64_t waiting(const pu_session *s) {
  if (s->started && s->finish != PU_FINISH_NONE) return 0;
  return (int64_t)s->ids.n - s->cached - (s->started ? 0 : 1);
}

static void *take(pu_engine *en, size_t n, size_t size) {
  return pu_arena_alloc(en->host, n * size);
}

static pu_err choose_shares(pu_engine *en, batch *b, pu_error *e) {
  b->shares = take(en, (size_t)en->n_sessions, sizeof *b->shares);
  if (!b->shares && en->n_sessions) return pu_fail(e, PU_ERR_NOMEM, "no memory for a step");
  int64_t budget = en->chunk;
  for (pu_session *s = en->first; s; s = s->next) {
    int64_t want = waiting(s);
    if (want <= 0) continue;
    int64_t n = PU_MIN(want, en->chunk);
    bool answering = s->started && want == 1;
    if (!answering && n > budget) continue; /* not less of it: see above */
    if (!answering) budget -= n;
    PU_TRY(pu_session_reserve(s, s->cached + n, e));
    share *to = &b->shares[b->n++];
    *to = (share){s, (int32_t)n, s->started && n == want};
    b->tokens += to->tokens;
    b->n_makes += to->makes;
  }
  return PU_OK;
}

/* The arrays a forward pass reads. */
static pu_err lay_out(pu_engine *en, batch *b, pu_error *e) {
  size_t n = (size_t)b->n, tokens = (size_t)b->tokens;
  for (int32_t i = 0; i < b->n; i++) b->table_stride = PU_MAX(b->table_stride, b->shares[i].s->n_blocks);
  int32_t *cu = take(en, n + 1, sizeof *cu), *positions = take(en, tokens, sizeof *positions);
  b->ids = take(en, tokens, sizeof *b->ids);
  b->len = take(en, n, sizeof *b->len);
  b->rope_len = take(en, n, sizeof *b->rope_len);
  b->table = take(en, n * (size_t)b->table_stride, sizeof *b->table);
  b->rows = take(en, n, sizeof *b->rows);
  if (!cu || !positions || !b->ids || !b->len || !b->rope_len || !b->table || !b->rows)
    return pu_fail(e, PU_ERR_NOMEM, "no memory for a step of %d tokens", b->tokens);
  int32_t at = 0, makes = 0;
  cu[0] = 0;
  for (int32_t i = 0; i < b->n; i++) {
    const share *sh = &b->shares[i];
    const pu_session *s = sh->s;
    for (int32_t j = 0; j < sh->tokens; j++, at++) {
      b->ids[at] = s->ids.v[s->cached + j];
      positions[at] = (int32_t)s->cached + j;
    }
    cu[i + 1] = at;
    b->len[i] = (int32_t)s->cached + sh->tokens;
    b->rope_len[i] = (int32_t)s->ids.n; /* the whole prompt's length, also for its first chunk */
    memcpy(b->table + (size_t)i * (size_t)b->table_stride, s->blocks, (size_t)s->n_blocks * sizeof *s->blocks);
    if (sh->makes) b->rows[makes++] = at - 1;
    b->seqs.max_len = PU_MAX(b->seqs.max_len, sh->tokens);
  }
  b->seqs.n = b->n;
  b->seqs.tokens = b->tokens;
  b->seqs.cu = cu;
  b->seqs.positions = positions;
  return PU_OK;
}

/* Logits [n_makes, V] in host memory; NULL where no session makes a token. */
static pu_err forward(pu_engine *en, batch *b, float **logits, pu_error *e) {
  pu_ctx c = {.be = en->be, .mem = en->mem, .host = en->host, .err = e};
  for (int64_t l = 0; l < en->m->hp.layers; l++) {
    en->kv[l].table = b->table;
    en->kv[l].table_stride = b->table_stride;
    en->kv[l].len = b->len;
  }
  int64_t n = b->tokens;
  pu_tensor *ids = pu_tensor_new(&c, PU_I32, 1, &n, false);
  if (!ids) return c.status;
  PU_TRY(en->be->upload(en->be, ids->data, b->ids, (size_t)n * sizeof *b->ids, e));
  pu_forward f = {.ids = ids, .seqs = &b->seqs, .kv = en->kv, .rope_len = b->rope_len};
  pu_tensor *hidden = pu_model_forward(en->m, &c, &f);
  *logits = NULL;
  if (!b->n_makes) return c.status;
  pu_tensor *out = pu_model_logits(en->m, &c, hidden, b->rows, b->n_makes);
  if (c.status) return c.status;
  *logits = take(en, pu_tensor_bytes(out), 1);
  if (!*logits) return pu_fail(e, PU_ERR_NOMEM, "no memory for the logits of %d sessions", b->n_makes);
  return en->be->download(en->be, *logits, out->data, pu_tensor_bytes(out), e);
}

static pu_err sample(pu_engine *en, batch *b, float *logits, pu_error *e) {
  for (int32_t i = 0; i < b->n; i++) {
    pu_session *s = b->shares[i].s;
    s->cached += b->shares[i].tokens;
    if (!b->shares[i].makes) continue;
    pu_history h = {s->ids.v, s->ids.n, s->ids.n - s->answer_at};
    int32_t id = pu_sampler_next(&en->sampler, logits, &s->how, &h, &s->rng);
    logits += en->m->hp.vocab;
    PU_TRY(pu_session_take(s, id, e));
  }
  return PU_OK;
}

static void count(pu_engine *en, const batch *b, double seconds) {
  bool prompts = b->tokens > b->n_makes;
  *(prompts ? &en->stats.prefill_seconds : &en->stats.decode_seconds) += seconds;
  *(prompts ? &en->stats.prefill_tokens : &en->stats.decode_tokens) += b->tokens;
}

pu_err pu_engine_step(pu_engine *en, bool *more, pu_error *e) {
  *more = false;
  double begin = pu_now();
  pu_arena_reset(en->mem);
  pu_arena_reset(en->host);
  batch b = {0};
  PU_TRY(choose_shares(en, &b, e));
  if (b.n) {
    float *logits = NULL;
    PU_TRY(lay_out(en, &b, e));
    PU_TRY(forward(en, &b, &logits, e));
    PU_TRY(sample(en, &b, logits, e));
    count(en, &b, pu_now() - begin);
  }
  for (pu_session *s = en->first; s && !*more; s = s->next) *more = waiting(s) > 0;
  return PU_OK;
}

pu_err pu_session_generate(pu_session *s, const pu_sampling *o, pu_on_text on_text, void *arg, pu_error *e) {
  PU_TRY(pu_session_start(s, o, on_text, arg, e));
  for (bool more = true; more && s->finish == PU_FINISH_NONE;) PU_TRY(pu_engine_step(s->en, &more, e));
  return PU_OK;
}
