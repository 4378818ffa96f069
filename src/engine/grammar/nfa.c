/* Expressions to a nondeterministic automaton (Thompson 1968), and the two things a machine that reads left to right
 * cannot have: rules that match nothing at all, and rules that begin with themselves (Paull's elimination, as in
 * Hopcroft and Ullman 1979, done on automata: A = A x | y is y followed by any number of x). */
#include "src/engine/grammar/nfa.h"

#include <stdlib.h>
#include <string.h>

/* The array with room for twice as many; as it was, and the automaton failed, where there is no memory. */
static void *bigger(nfa *a, void *v, int32_t cap, size_t size) {
  void *more = realloc(v, 2 * (size_t)cap * size);
  if (more) return more;
  a->failed = a->no_memory = true;
  return v;
}

static int32_t state(nfa *a) {
  if (a->n_states >= G_STATES_MAX) a->failed = true;
  if (a->n_states == a->cap_states && !a->failed) {
    int32_t cap = PU_MAX(512, a->cap_states);
    a->first = bigger(a, a->first, cap, sizeof *a->first);
    a->like = bigger(a, a->like, cap, sizeof *a->like);
    if (!a->failed) a->cap_states = 2 * cap;
  }
  if (a->failed) return 0;
  a->first[a->n_states] = -1;
  a->like[a->n_states] = (struct nfa_like){-1, 0};
  return a->n_states++;
}

static void edge(nfa *a, int32_t from, nfa_edge like) {
  if (a->n_edges >= 4 * G_STATES_MAX) a->failed = true;
  if (a->n_edges == a->cap_edges && !a->failed) {
    int32_t cap = PU_MAX(512, a->cap_edges);
    a->edges = bigger(a, a->edges, cap, sizeof *a->edges);
    if (!a->failed) a->cap_edges = 2 * cap;
  }
  if (a->failed) return;
  like.next = a->first[from];
  a->edges[a->n_edges] = like;
  a->first[from] = a->n_edges++;
}

static void empty_edge(nfa *a, int32_t from, int32_t to) {
  edge(a, from, (nfa_edge){.to = to, .rule = NFA_EMPTY});
}

/* ---- characters as bytes ---- */

enum { TAILS_MAX = 64 };

/* Ends of UTF-8 sequences that several ranges share: without them a class would have a state for each. */
typedef struct tails {
  struct {
    uint8_t lo, hi;
    int32_t to, state;
  } v[TAILS_MAX];
  int n;
} tails;

static int32_t tail(nfa *a, tails *t, uint8_t lo, uint8_t hi, int32_t to) {
  for (int i = 0; i < t->n; i++)
    if (t->v[i].lo == lo && t->v[i].hi == hi && t->v[i].to == to) return t->v[i].state;
  int32_t s = state(a);
  edge(a, s, (nfa_edge){.to = to, .rule = NFA_BYTES, .lo = lo, .hi = hi});
  if (t->n < TAILS_MAX) {
    t->v[t->n].lo = lo;
    t->v[t->n].hi = hi;
    t->v[t->n].to = to;
    t->v[t->n++].state = s;
  }
  return s;
}

static int utf8_put(uint32_t c, uint8_t *b) {
  static const uint8_t first[] = {0, 0, 0xC0, 0xE0, 0xF0};
  int n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
  for (int i = n - 1; i > 0; i--, c >>= 6) b[i] = (uint8_t)(0x80 | (c & 0x3F));
  b[0] = (uint8_t)(first[n] | c);
  return n;
}

/* lo and hi have n bytes each and differ, from the first byte on that does, in a full range of what follows. */
static void byte_sequence(nfa *a, tails *t, const uint8_t *lo, const uint8_t *hi, int n, int32_t from, int32_t to) {
  for (int i = n - 1; i > 0; i--) to = tail(a, t, lo[i], hi[i], to);
  edge(a, from, (nfa_edge){.to = to, .rule = NFA_BYTES, .lo = lo[0], .hi = hi[0]});
}

/* Divides a range where its UTF-8 gets longer, and where its continuation bytes are not all of 80..BF. */
static void range(nfa *a, tails *t, uint32_t lo, uint32_t hi, int32_t from, int32_t to) {
  static const uint32_t last_of_length[] = {0x7F, 0x7FF, 0xFFFF, G_CHAR_MAX};
  while (lo <= hi && !a->failed) {
    uint32_t stop = hi;
    for (size_t i = 0; i < PU_COUNT(last_of_length); i++)
      if (lo <= last_of_length[i]) {
        stop = PU_MIN(stop, last_of_length[i]);
        break;
      }
    for (int shift = 6; shift <= 18 && lo >= 0x80; shift += 6) {
      uint32_t low_bits = (1u << shift) - 1;
      if ((lo & ~low_bits) == (stop & ~low_bits)) break;
      if (lo & low_bits) {
        stop = lo | low_bits;
      } else if ((stop & low_bits) != low_bits) {
        stop = (stop & ~low_bits) - 1;
      }
    }
    uint8_t first[4], last[4];
    int n = utf8_put(lo, first);
    utf8_put(stop, last);
    byte_sequence(a, t, first, last, n, from, to);
    lo = stop + 1;
  }
}

/* ---- expressions ---- */

static int32_t build(nfa *a, const g_expr *x, int32_t from);

static int32_t build_chars(nfa *a, const g_expr *x, int32_t from) {
  tails t = {.n = 0};
  int32_t to = state(a);
  for (size_t i = 0; i < x->n; i++) range(a, &t, x->ranges[i].lo, x->ranges[i].hi, from, to);
  return to;
}

static int32_t build_text(nfa *a, pu_str text, int32_t from) {
  for (size_t i = 0; i < text.len && !a->failed; i++) {
    uint8_t byte = (uint8_t)text.ptr[i];
    int32_t to = state(a);
    edge(a, from, (nfa_edge){.to = to, .rule = NFA_BYTES, .lo = byte, .hi = byte});
    from = to;
  }
  return from;
}

static int32_t build_alternatives(nfa *a, const g_expr *x, int32_t from) {
  int32_t to = state(a);
  for (size_t i = 0; i < x->n && !a->failed; i++) {
    int32_t begin = state(a); /* its own: what loops in one alternative is no part of another */
    empty_edge(a, from, begin);
    empty_edge(a, build(a, x->parts[i], begin), to);
  }
  return to;
}

/* Does it match nothing of no bytes? Calls are not looked into. */
static bool takes_bytes(const g_expr *x) {
  bool any = false, all = x->n > 0;
  for (size_t i = 0; x->parts && i < x->n; i++) {
    bool part = takes_bytes(x->parts[i]);
    any |= part;
    all &= part;
  }
  if (x->kind == G_TEXT) return x->text.len > 0;
  if (x->kind == G_REPEAT) return x->min > 0 && any;
  return x->kind == G_CHARS || (x->kind == G_SEQ && any) || (x->kind == G_ALT && all);
}

/* One more copy of what is repeated; its states are [first, a->n_states). Whoever stands in a copy cannot tell it from
 * the copy that begins at `base` for as many bytes as there are copies between it and the last one: that is what keeps
 * the masks of "at most 200 characters" from being 200 times the work (mask.c). */
static int32_t build_copy(nfa *a, const g_expr *x, int32_t from, int32_t base, int32_t bytes) {
  int32_t first = a->n_states, to = build(a, x, from);
  for (int32_t s = first; s < a->n_states && base < first && bytes > 0; s++)
    a->like[s] = (struct nfa_like){base + s - first, bytes};
  return to;
}

static int32_t build_repeat(nfa *a, const g_expr *x, int32_t from) {
  const g_expr *part = x->parts[0];
  bool counts = takes_bytes(part);
  int32_t base = a->n_states;
  for (int32_t i = 0; i < x->min && !a->failed; i++)
    from = build_copy(a, part, from, base, counts ? x->min - i - 2 : 0);
  int32_t to = state(a);
  if (x->max < 0) {
    empty_edge(a, from, to);
    empty_edge(a, build(a, part, to), to);
    return to;
  }
  base = a->n_states;
  for (int32_t i = x->min; i < x->max && !a->failed; i++) {
    empty_edge(a, from, to);
    from = build_copy(a, part, from, base, counts ? x->max - i - 1 : 0);
  }
  empty_edge(a, from, to);
  return to;
}

/* Makes what x matches lead from `from` to the state it returns. */
static int32_t build(nfa *a, const g_expr *x, int32_t from) {
  if (a->failed) return from;
  switch (x->kind) {
  case G_TEXT:
    return build_text(a, x->text, from);
  case G_CHARS:
    return build_chars(a, x, from);
  case G_SEQ:
    for (size_t i = 0; i < x->n; i++) from = build(a, x->parts[i], from);
    return from;
  case G_ALT:
    return build_alternatives(a, x, from);
  case G_REPEAT:
    return build_repeat(a, x, from);
  case G_RULE:
    break;
  }
  int32_t to = state(a);
  edge(a, from, (nfa_edge){.to = to, .rule = x->rule});
  return to;
}

/* ---- sets of states ---- */

bool nfa_set_init(nfa_set *s, const nfa *a) {
  *s = (nfa_set){.v = malloc((size_t)a->n_states * sizeof *s->v),
                 .mark = calloc((size_t)a->n_states, sizeof *s->mark),
                 .stamp = 1};
  if (s->v && s->mark) return true;
  nfa_set_deinit(s);
  return false;
}

void nfa_set_deinit(nfa_set *s) {
  free(s->v);
  free(s->mark);
  *s = (nfa_set){0};
}

void nfa_set_clear(nfa_set *s) {
  s->n = 0;
  s->stamp++;
}

void nfa_set_add(nfa_set *s, int32_t member) {
  if (s->mark[member] == s->stamp) return;
  s->mark[member] = s->stamp;
  s->v[s->n++] = member;
}

static bool is_free(const nfa *a, const nfa_edge *x) {
  return x->rule == NFA_EMPTY || (x->rule >= 0 && a->nullable[x->rule]);
}

void nfa_close(const nfa *a, nfa_set *s) {
  for (int32_t i = 0; i < s->n; i++)
    for (int32_t k = a->first[s->v[i]]; k >= 0; k = a->edges[k].next)
      if (is_free(a, &a->edges[k])) nfa_set_add(s, a->edges[k].to);
}

/* ---- rules that match the empty string ---- */

/* States that are reached from their rule's start without a byte, each looked at once. A call waits until its rule is
 * found to match nothing. */
typedef struct reached {
  nfa_set set;
  int32_t *ends;    /* [states]: the rule that ends here; -1 */
  int32_t *waiting; /* [rules]: the last of the calls that wait for it, an edge; -1 */
  int32_t *before;  /* [edges]: the one before it */
} reached;

static void reach(nfa *a, reached *r, int32_t member) {
  int32_t ended = r->ends[member];
  if (ended >= 0) {
    a->nullable[ended] = true;
    for (int32_t k = r->waiting[ended]; k >= 0; k = r->before[k]) nfa_set_add(&r->set, a->edges[k].to);
  }
  for (int32_t k = a->first[member]; k >= 0; k = a->edges[k].next) {
    int32_t rule = a->edges[k].rule;
    if (is_free(a, &a->edges[k])) nfa_set_add(&r->set, a->edges[k].to);
    if (rule < 0 || a->nullable[rule]) continue;
    r->before[k] = r->waiting[rule];
    r->waiting[rule] = k;
  }
}

static bool find_nullable(nfa *a) {
  reached r = {.ends = malloc((size_t)a->n_states * sizeof(int32_t)),
               .waiting = malloc((size_t)a->n_rules * sizeof(int32_t)),
               .before = malloc(((size_t)a->n_edges + 1) * sizeof(int32_t))};
  bool ok = nfa_set_init(&r.set, a) && r.ends && r.waiting && r.before;
  if (ok) {
    memset(r.ends, 0xFF, (size_t)a->n_states * sizeof *r.ends);
    memset(r.waiting, 0xFF, (size_t)a->n_rules * sizeof *r.waiting);
    for (int32_t i = 0; i < a->n_rules; i++) {
      r.ends[a->ends[i]] = i;
      nfa_set_add(&r.set, a->starts[i]);
    }
    for (int32_t i = 0; i < r.set.n; i++) reach(a, &r, r.set.v[i]);
  }
  nfa_set_deinit(&r.set);
  free(r.ends);
  free(r.waiting);
  free(r.before);
  return ok;
}

/* A start that nothing leads back to and that is not an end: it has the edges of all that the old one reached. */
static void new_start(nfa *a, int32_t r, nfa_set *s) {
  nfa_set_clear(s);
  nfa_set_add(s, a->starts[r]);
  nfa_close(a, s);
  int32_t start = state(a);
  for (int32_t i = 0; i < s->n && !a->failed; i++)
    for (int32_t k = a->first[s->v[i]]; k >= 0; k = a->edges[k].next)
      if (a->edges[k].rule != NFA_EMPTY) edge(a, start, a->edges[k]);
  a->starts[r] = start;
}

/* ---- rules that begin with themselves ---- */

/* Strongly connected components of "begins with a call of" (Tarjan 1972); part[r] is the number of r's. */
typedef struct components {
  const nfa *a;
  int32_t *order, *low, *part, *stack, *chain;
  int32_t n_seen, n_stack, n_parts;
} components;

static void visit(components *c, int32_t r) {
  c->order[r] = c->low[r] = ++c->n_seen;
  c->stack[c->n_stack++] = r;
  const nfa *a = c->a;
  for (int32_t k = a->first[a->starts[r]]; k >= 0; k = a->edges[k].next) {
    int32_t callee = a->edges[k].rule;
    if (callee < 0) continue;
    if (!c->order[callee]) visit(c, callee);
    if (c->part[callee] < 0) c->low[r] = PU_MIN(c->low[r], c->low[callee]);
    c->chain[r] = PU_MAX(c->chain[r], c->chain[callee] + 1);
  }
  if (c->low[r] != c->order[r]) return;
  for (int32_t member = -1; member != r;) {
    member = c->stack[--c->n_stack];
    c->part[member] = c->n_parts;
  }
  c->n_parts++;
}

/* A copy of everything that rule `from` is, but its start; copies[state] is set. The start's edges are given to `to`.
 */
static void inline_rule(nfa *a, int32_t from, int32_t to, nfa_set *s, int32_t *copies) {
  nfa_set_clear(s);
  int32_t start = a->starts[from];
  copies[a->ends[from]] = -1;
  nfa_set_add(s, start);
  for (int32_t i = 0; i < s->n; i++)
    for (int32_t k = a->first[s->v[i]]; k >= 0; k = a->edges[k].next) nfa_set_add(s, a->edges[k].to);
  for (int32_t i = 0; i < s->n; i++) copies[s->v[i]] = s->v[i] == start ? to : state(a);
  for (int32_t i = 0; i < s->n && !a->failed; i++)
    for (int32_t k = a->first[s->v[i]]; k >= 0; k = a->edges[k].next) {
      nfa_edge copy = a->edges[k];
      copy.to = copies[copy.to];
      edge(a, copies[s->v[i]], copy);
    }
}

/* Takes a call of `rule` off the state; where it led is returned, -1: there was none. */
static int32_t take_call(nfa *a, int32_t from, int32_t rule) {
  for (int32_t *k = &a->first[from]; *k >= 0; k = &a->edges[*k].next)
    if (a->edges[*k].rule == rule) {
      int32_t to = a->edges[*k].to;
      *k = a->edges[*k].next;
      return to;
    }
  return -1;
}

/* Members of a component in the order of their numbers: each in turn is rid of calls of those before it, and then of
 * itself. The sets must be made anew where states were added. */
static bool untangle(nfa *a, const components *c, int32_t r) {
  for (int32_t before = 0; before < r && !a->failed;) {
    int32_t to = c->part[before] == c->part[r] ? take_call(a, a->starts[r], before) : -1;
    if (to < 0) {
      before++;
      continue;
    }
    nfa_set s;
    int32_t *copies = malloc((size_t)a->n_states * sizeof *copies);
    bool ok = nfa_set_init(&s, a) && copies;
    if (ok) {
      inline_rule(a, before, a->starts[r], &s, copies);
      for (int32_t end = copies[a->ends[before]]; to >= 0 && end >= 0; to = take_call(a, a->starts[r], before))
        empty_edge(a, end, to);
    }
    nfa_set_deinit(&s);
    free(copies);
    if (!ok) return false;
  }
  for (int32_t to; (to = take_call(a, a->starts[r], r)) >= 0;) empty_edge(a, a->ends[r], to);
  return true;
}

static bool find_components(components *c, const nfa *a) {
  size_t n = (size_t)a->n_rules;
  int32_t *space = calloc(5 * n, sizeof *space);
  *c = (components){.a = a, .order = space};
  if (!space) return false;
  c->low = space + n;
  c->part = space + 2 * n;
  c->stack = space + 3 * n;
  c->chain = space + 4 * n;
  for (size_t r = 0; r < n; r++) c->part[r] = -1;
  for (int32_t r = 0; r < a->n_rules; r++)
    if (!c->order[r]) visit(c, r);
  return true;
}

static bool remove_left_recursion(nfa *a) {
  components c;
  bool ok = find_components(&c, a);
  for (int32_t r = 0; ok && r < a->n_rules; r++) ok = untangle(a, &c, r);
  free(c.order);
  if (!ok || a->failed) return ok;
  ok = find_components(&c, a); /* again, for the chains, which are finite now */
  for (int32_t r = 0; ok && r < a->n_rules; r++) a->chain = PU_MAX(a->chain, c.chain[r]);
  free(c.order);
  return ok;
}

static bool build_all(nfa *a, const g_rules *g) {
  a->starts = malloc((size_t)g->n * sizeof *a->starts);
  a->ends = malloc((size_t)g->n * sizeof *a->ends);
  a->nullable = calloc((size_t)g->n, sizeof *a->nullable);
  if (!a->starts || !a->ends || !a->nullable) return false;
  a->n_rules = g->n;
  for (int32_t r = 0; r < g->n && !a->failed; r++) {
    a->starts[r] = state(a);
    a->ends[r] = state(a);
    empty_edge(a, build(a, g->v[r], a->starts[r]), a->ends[r]);
  }
  nfa_set s;
  if (a->failed) return true;
  if (!find_nullable(a) || !nfa_set_init(&s, a)) return false;
  for (int32_t r = 0; r < g->n; r++) new_start(a, r, &s);
  nfa_set_deinit(&s);
  return a->failed || remove_left_recursion(a);
}

pu_err nfa_build(nfa *a, const g_rules *g, pu_error *e) {
  *a = (nfa){0};
  bool ok = build_all(a, g);
  if (ok && !a->failed) return PU_OK;
  bool too_large = ok && !a->no_memory;
  nfa_free(a);
  if (!too_large) return pu_fail(e, PU_ERR_NOMEM, "no memory for the automaton of a grammar");
  return pu_fail(e, PU_ERR_UNSUPPORTED,
                 "the grammar is too large: its automaton has more than %d states; "
                 "repeat less, or nest fewer repetitions",
                 G_STATES_MAX);
}

void nfa_free(nfa *a) {
  free(a->first);
  free(a->like);
  free(a->edges);
  free(a->starts);
  free(a->ends);
  free(a->nullable);
  *a = (nfa){0};
}
