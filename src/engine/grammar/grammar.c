/* Compiling, and the states that sessions hold. */
#include <stdlib.h>
#include <string.h>

#include "src/engine/grammar/grammar.h"

enum { FRAMES_KEPT = 4096 }; /* more are looked through for those that are no longer stood on */

static pu_err read_source(g_rules *g, pu_grammar_kind kind, pu_str source, pu_error *e) {
  if (source.len > G_SOURCE_MAX)
    return pu_fail(e, PU_ERR_USAGE, "the grammar has %zu bytes; at most %d are read", source.len, G_SOURCE_MAX);
  if (!pu_utf8_valid(source)) return pu_fail(e, PU_ERR_FORMAT, "the grammar is not valid UTF-8");
  switch (kind) {
  case PU_GRAMMAR_JSON:
    return g_any_object(g, e);
  case PU_GRAMMAR_JSON_SCHEMA:
    return g_schema(g, source, e);
  case PU_GRAMMAR_GBNF:
    return g_gbnf(g, source, e);
  case PU_GRAMMAR_REGEX:
    break;
  }
  int32_t root = g_rule_new(g);
  return g_regex(g, source, false, &g->v[root], e);
}

static pu_err compile(pu_grammar *x, pu_grammar_kind kind, pu_str source, pu_error *e) {
  g_rules g;
  PU_TRY(g_rules_init(&g, e));
  pu_err err = read_source(&g, kind, source, e);
  if (!err && g.failed)
    err =
        pu_fail(e, PU_ERR_UNSUPPORTED, "the grammar is too large: more than %d rules, or too many parts", G_RULES_MAX);
  if (!err) err = g_automaton_build(&x->m, &g, e);
  g_rules_deinit(&g);
  return err ? err : g_cache_create(&x->m, x->vocab, &x->cache, e);
}

pu_err pu_grammar_compile(pu_grammar_kind kind, pu_str source, const pu_grammar_vocab *v, pu_grammar **out,
                          pu_error *e) {
  *out = NULL;
  pu_grammar *x = calloc(1, sizeof *x);
  if (!x) return pu_fail(e, PU_ERR_NOMEM, "no memory for a grammar");
  x->vocab = v;
  pu_err err = compile(x, kind, source, e);
  if (err)
    pu_grammar_free(x);
  else
    *out = x;
  return err;
}

void pu_grammar_free(pu_grammar *g) {
  if (!g) return;
  g_cache_free(g->cache);
  g_automaton_free(&g->m);
  free(g);
}

int32_t pu_grammar_vocabulary(const pu_grammar *g) {
  return g->vocab->size;
}

/* ---- states ---- */

static pu_grammar_state *new_state(const pu_grammar *g) {
  pu_grammar_state *s = calloc(1, sizeof *s);
  if (!s) return NULL;
  s->g = g;
  if (g_work_init(&s->work)) return s;
  free(s);
  return NULL;
}

pu_err pu_grammar_start(const pu_grammar *g, pu_grammar_state **out, pu_error *e) {
  *out = new_state(g);
  if (*out) {
    pu_grammar_state *s = *out;
    g_enter(&g->m, &s->frames, (g_config){g->m.starts[0], -1}, G_DEPTH_MAX, &s->work, &s->now);
    s->now.ends |= g->m.empty_too;
    if (!s->work.no_memory) return PU_OK;
    pu_grammar_state_free(s);
    *out = NULL;
  }
  return pu_fail(e, PU_ERR_NOMEM, "no memory for the state of a grammar");
}

pu_err pu_grammar_state_copy(const pu_grammar_state *s, pu_grammar_state **out, pu_error *e) {
  *out = new_state(s->g);
  if (*out && g_frames_copy(&(*out)->frames, &s->frames) && g_configs_copy(&(*out)->now, &s->now)) return PU_OK;
  pu_grammar_state_free(*out);
  *out = NULL;
  return pu_fail(e, PU_ERR_NOMEM, "no memory for the state of a grammar");
}

void pu_grammar_state_free(pu_grammar_state *s) {
  if (!s) return;
  g_frames_free(&s->frames);
  g_configs_free(&s->now);
  g_configs_free(&s->next);
  g_work_deinit(&s->work);
  free(s);
}

/* Two sets take turns; the one to come back to where a byte does not fit is a third. */
static bool advance(pu_grammar_state *s, const uint8_t *bytes, size_t n) {
  g_configs before = {0};
  if (!n || !g_configs_copy(&before, &s->now)) return false;
  bool ok = true;
  s->work.too_many = s->work.no_memory = false;
  for (size_t i = 0; ok && i < n; i++) {
    ok = g_advance(&s->g->m, &s->frames, &s->now, bytes[i], G_DEPTH_MAX, &s->work, &s->next);
    g_configs t = s->now;
    s->now = s->next;
    s->next = t;
  }
  if (!ok) {
    g_configs t = s->now;
    s->now = before;
    before = t;
  }
  g_configs_free(&before);
  if (s->frames.n > FRAMES_KEPT) g_frames_compact(&s->frames, &s->now);
  return ok;
}

bool pu_grammar_accept(pu_grammar_state *s, int32_t id) {
  const pu_grammar_vocab *v = s->g->vocab;
  if (id < 0 || id >= v->size) return false;
  return advance(s, v->bytes + v->at[id], v->at[id + 1] - v->at[id]);
}

bool pu_grammar_accept_text(pu_grammar_state *s, pu_str text) {
  return advance(s, (const uint8_t *)text.ptr, text.len);
}

bool pu_grammar_gave_up(const pu_grammar_state *s) {
  return s->work.too_many || s->work.no_memory;
}

bool pu_grammar_may_end(const pu_grammar_state *s) {
  return s->now.ends;
}

bool pu_grammar_must_end(const pu_grammar_state *s) {
  return s->now.n == 0;
}

pu_err pu_grammar_mask(pu_grammar_state *s, uint64_t *bits, pu_error *e) {
  return g_cache_mask(s->g->cache, s, bits, e);
}
