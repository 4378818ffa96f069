/* Guessing ahead: several tokens of an answer in one pass (Leviathan et al. 2023, Saxena 2023).
 *
 * A pass over the last token and some guesses of what follows takes hardly longer than over the last alone, since it
 * reads the weights once. Its logits say, guess by guess, what would have come: each token is drawn as always, and as
 * long as it is the one that was guessed, the next logits are right as well. So what comes out is the text that the
 * seed gives without guesses; a bad guess costs a little time and nothing else.
 *
 * Guesses come from the session's own ids, what followed the last few when they stood there before (code, quotes,
 * summaries), or from a smaller model that answers greedily. */
#include <string.h>

#include "src/engine/internal.h"

enum {
  LONGEST = 3, /* ids that must have stood there before */
  SHORTEST = 2,
  LOOK_BACK = 1 << 15 /* how far back: a step must not read a whole long context */
};

static bool may_guess(const pu_session *s) {
  return s->state == PU_SESSION_RUNNING && s->started && pu_session_pending(s) == 1 &&
         !pu_schedule_scaled(s->en, (int64_t)s->ids.n + s->en->guess);
}

/* As many as the answer and the context may still take beside the token that comes anyway. */
static int room_for(const pu_session *s) {
  int64_t left = s->en->plan.context - (int64_t)s->ids.n;
  if (s->how.max_tokens > 0) left = PU_MIN(left, s->how.max_tokens - (int64_t)(s->ids.n - s->answer_at));
  return (int)PU_MAX(PU_MIN(left - 1, s->en->guess), 0);
}

/* ---- from the session itself ---- */

static void look_up(pu_session *s) {
  const int32_t *ids = s->ids.v;
  int64_t n = (int64_t)s->ids.n;
  int most = room_for(s);
  for (int64_t len = LONGEST; len >= SHORTEST && !s->n_guess && most; len--)
    for (int64_t at = n - len - 1; at >= PU_MAX(n - LOOK_BACK, 0); at--) { /* the latest first */
      if (memcmp(ids + at, ids + n - len, (size_t)len * sizeof *ids) != 0) continue;
      for (int64_t i = at + len; i < n && s->n_guess < most; i++) s->guess[s->n_guess++] = ids[i];
      break;
    }
}

/* ---- from a smaller model ---- */

/* Brings the draft's session to this one's ids, and has it answer. */
static pu_err ask(pu_session *s, pu_error *e) {
  pu_sampling how = pu_sampling_default();
  how.max_tokens = room_for(s);
  how.ignore_eos = true;
  if (how.max_tokens < 1 || (int64_t)s->ids.n >= pu_engine_context(s->en->draft)) return PU_OK;
  if (!s->draft) PU_TRY(pu_session_open(s->en->draft, &s->draft, e));
  pu_session *d = s->draft;
  size_t n = PU_MIN(d->ids.n, s->ids.n), same = PU_MIN((size_t)s->draft_agrees, n);
  while (same < n && d->ids.v[same] == s->ids.v[same]) same++;
  PU_TRY(pu_session_rewind(d, (int64_t)same, e));
  PU_TRY(pu_session_append(d, s->ids.v + same, s->ids.n - same, e));
  s->draft_agrees = (int64_t)s->ids.n;
  return pu_session_start(d, &how, NULL, NULL, e);
}

static void hear(pu_session *s) {
  size_t n;
  const int32_t *ids = s->draft ? pu_session_answer(s->draft, &n) : NULL;
  if (!ids) return;
  s->n_guess = (int)PU_MIN(n, (size_t)room_for(s));
  memcpy(s->guess, ids, (size_t)s->n_guess * sizeof *ids);
  pu_session_cancel(s->draft); /* one that is still reading its prompt goes on in the next step */
}

/* No more passes than there are guesses: a long prompt does not hold up the others here either. */
static pu_err ask_draft(pu_engine *en, pu_error *e) {
  bool more = true;
  for (pu_session *s = en->q_first; s; s = s->q_next)
    if (may_guess(s)) PU_TRY(ask(s, e));
  for (int i = 0; i <= en->guess && more; i++) PU_TRY(pu_engine_step(en->draft, &more, e));
  for (pu_session *s = en->q_first; s; s = s->q_next)
    if (may_guess(s)) hear(s);
  return PU_OK;
}

pu_err pu_guess(pu_engine *en, pu_error *e) {
  for (pu_session *s = en->q_first; s; s = s->q_next) s->n_guess = 0;
  if (!en->guess) return PU_OK;
  if (en->draft) return ask_draft(en, e);
  for (pu_session *s = en->q_first; s; s = s->q_next)
    if (may_guess(s)) look_up(s);
  return PU_OK;
}
