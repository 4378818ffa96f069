/* Grammars at work: a session's place in its grammar, and the logits that the grammar leaves. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/internal.h"

typedef struct pu_constraint {
  pu_grammar_state *state;
  bool prepared;      /* allowed is of the state as it is now */
  bool lost;          /* there was no memory for that, or too much to do */
  uint64_t allowed[]; /* [ceil(vocabulary / 64)] */
} constraint;

pu_err pu_engine_grammar(pu_engine *en, pu_grammar_kind kind, pu_str source, pu_grammar **out, pu_error *e) {
  *out = NULL;
  if (!en->t) return pu_fail(e, PU_ERR_USAGE, "a grammar needs a tokenizer, and the model has none");
  if (!en->vocab) PU_TRY(pu_grammar_vocab_create(en->t, &en->vocab, e));
  return pu_grammar_compile(kind, source, en->vocab, out, e);
}

void pu_constrain_end(pu_session *s) {
  if (s->constraint) pu_grammar_state_free(s->constraint->state);
  free(s->constraint);
  s->constraint = NULL;
}

pu_err pu_constrain_begin(pu_session *s, pu_error *e) {
  pu_constrain_end(s);
  if (!s->how.grammar) return PU_OK;
  if (!s->en->t || pu_tokenizer_size(s->en->t) != pu_grammar_vocabulary(s->how.grammar))
    return pu_fail(e, PU_ERR_USAGE, "the grammar was compiled for another tokenizer than the model's");
  size_t words = ((size_t)pu_tokenizer_size(s->en->t) + 63) / 64;
  s->constraint = calloc(1, sizeof *s->constraint + words * sizeof *s->constraint->allowed);
  if (!s->constraint) return pu_fail(e, PU_ERR_NOMEM, "no memory for the state of a grammar");
  return pu_grammar_start(s->how.grammar, &s->constraint->state, e);
}

/* What goes wrong here ends this answer and no other: see pu_constrain_logits. */
void pu_constrain_prepare(pu_session *s) {
  constraint *c = s->constraint;
  pu_error e;
  if (!c || c->prepared) return;
  c->prepared = true;
  c->lost = pu_grammar_mask(c->state, c->allowed, &e) != PU_OK;
  if (c->lost) pu_log(PU_LOG_WARN, "an answer ends early: %s", e.msg);
}

/* An ending may have text of its own (a stop id of the caller's): it is an ending here, and nothing else. */
static void allow_endings(pu_session *s, bool may_end) {
  uint64_t *allowed = s->constraint->allowed;
  for (size_t i = 0; i < s->n_endings; i++) {
    int32_t id = s->endings[i];
    if (id < 0 || id >= pu_tokenizer_size(s->en->t)) continue;
    uint64_t bit = (uint64_t)1 << (id % 64);
    if (may_end)
      allowed[id / 64] |= bit;
    else
      allowed[id / 64] &= ~bit;
  }
}

bool pu_constrain_logits(pu_session *s, float *logits) {
  constraint *c = s->constraint;
  if (!c) return true;
  pu_constrain_prepare(s);
  if (c->lost) return false;
  allow_endings(s, pu_grammar_may_end(c->state));
  int32_t n = pu_tokenizer_size(s->en->t);
  bool any = false;
  for (int32_t at = 0; at < n; at += 64) {
    uint64_t bits = c->allowed[at / 64];
    if (any && !~bits) continue; /* as most are, inside strings */
    for (int32_t i = at; i < PU_MIN(at + 64, n); i++, bits >>= 1) {
      if (!(bits & 1)) logits[i] = -INFINITY;
      any |= logits[i] > -INFINITY;
    }
  }
  return any;
}

bool pu_constrain_take(pu_session *s, int32_t id, bool *whole) {
  constraint *c = s->constraint;
  *whole = false;
  if (!c) return true;
  c->prepared = false;
  if (!pu_grammar_accept(c->state, id)) {
    if (pu_grammar_gave_up(c->state))
      pu_log(PU_LOG_WARN, "an answer ends early: the grammar leaves too many ways open at once");
    return false;
  }
  *whole = pu_grammar_must_end(c->state);
  return true;
}
