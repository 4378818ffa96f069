/* One deterministic automaton for each rule, over bytes and calls (subset construction, Rabin and Scott 1959). What can
 * never come to an end is taken out, so that a machine that is somewhere can always finish: an answer never gets
 * stuck. */
#include <stdlib.h>
#include <string.h>

#include "src/engine/grammar/nfa.h"

enum { POOL_MAX = 1 << 22, EDGES_MAX = 1 << 22, NEVER = INT32_MAX };
/* Looks at an edge or a state before a grammar is refused, some hundredths of a second: nodes of many states are dear
 * long before there are too many of them. */
static const int64_t LOOKS_MAX = 1 << 22;

typedef struct made {
  const nfa *a;
  g_automaton *m;
  int32_t *pool, *at; /* the states of node i are pool[at[i], at[i + 1]) */
  int32_t cap_pool, cap_at, cap_nodes, cap_edges, n_edges, cap_calls, n_calls;
  int32_t *slots; /* hash table of nodes by their states, 2 * G_NODES_MAX; -1 is free */
  nfa_set set;
  nfa_edge *here; /* the edges that leave a node's states, but the empty ones */
  int32_t n_here, cap_here;
  int32_t end; /* of the rule */
  int64_t looks;
  bool too_large, no_memory;
} made;

/* Room for `want` elements. */
static bool room(made *d, void *v, int32_t want, int32_t *cap, size_t size, int32_t most) {
  if (want <= *cap) return true;
  void *old, *bigger;
  if (want > most) {
    d->too_large = true;
    return false;
  }
  int32_t wanted = PU_MIN(most, PU_MAX(1024, PU_MAX(want, 2 * *cap)));
  memcpy(&old, v, sizeof old); /* v points at a pointer of any type */
  if (!(bigger = realloc(old, (size_t)wanted * size))) {
    d->no_memory = true;
    return false;
  }
  memcpy(v, &bigger, sizeof bigger);
  *cap = wanted;
  return true;
}

static int by_number(const void *a, const void *b) {
  int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
  return (x > y) - (x < y);
}

static bool has_edges(const nfa *a, int32_t state) {
  for (int32_t k = a->first[state]; k >= 0; k = a->edges[k].next)
    if (a->edges[k].rule != NFA_EMPTY) return true;
  return false;
}

/* The node of these states, sorted; -1: there is none yet, and slot is where it belongs. */
static int32_t find(const made *d, const int32_t *states, int32_t n, uint32_t *slot) {
  size_t bytes = (size_t)n * sizeof *states;
  for (*slot = (uint32_t)pu_hash64(states, bytes, 0);; ++*slot) {
    int32_t node = d->slots[ *slot %= 2 * G_NODES_MAX];
    if (node < 0) return -1;
    if (d->at[node + 1] - d->at[node] == n && memcmp(d->pool + d->at[node], states, bytes) == 0) return node;
  }
}

/* The node of the states in d->set; -1: there are none (or no room, see d). */
static int32_t node_of(made *d) {
  int32_t n = 0;
  bool accepts = false;
  d->too_large = (d->looks += d->set.n) > LOOKS_MAX;
  for (int32_t i = 0; i < d->set.n; i++) {
    int32_t s = d->set.v[i];
    accepts |= s == d->end;
    if (s == d->end || has_edges(d->a, s)) d->set.v[n++] = s;
  }
  if (!n) return -1;
  qsort(d->set.v, (size_t)n, sizeof *d->set.v, by_number);
  size_t bytes = (size_t)n * sizeof *d->set.v;
  uint32_t slot;
  int32_t known = find(d, d->set.v, n, &slot);
  if (known >= 0) return known;
  int32_t node = d->m->n_nodes, used = node ? d->at[node] : 0;
  if (!room(d, &d->pool, used + n, &d->cap_pool, sizeof *d->pool, POOL_MAX) ||
      !room(d, &d->m->nodes, node + 1, &d->cap_nodes, sizeof *d->m->nodes, G_NODES_MAX) ||
      !room(d, &d->at, node + 2, &d->cap_at, sizeof *d->at, G_NODES_MAX + 1))
    return -1;
  memcpy(d->pool + used, d->set.v, bytes);
  d->at[node] = used;
  d->at[node + 1] = used + n;
  d->m->nodes[node] = (g_node){.accepts = accepts, .need = NEVER, .like = -1};
  d->slots[slot] = node;
  return d->m->n_nodes++;
}

static void gather(made *d, int32_t node) {
  d->n_here = 0;
  for (int32_t i = d->at[node]; i < d->at[node + 1]; i++)
    for (int32_t k = d->a->first[d->pool[i]]; k >= 0; k = d->a->edges[k].next) {
      if (d->a->edges[k].rule == NFA_EMPTY) continue;
      if (!room(d, &d->here, d->n_here + 1, &d->cap_here, sizeof *d->here, 4 * G_STATES_MAX)) return;
      d->here[d->n_here++] = d->a->edges[k];
    }
}

static void add_edge(made *d, int32_t node, uint8_t lo, uint8_t hi, int32_t to) {
  g_node *x = &d->m->nodes[node];
  g_edge *last = x->n_edges ? &d->m->edges[d->n_edges - 1] : NULL;
  if (last && last->to == to && last->hi + 1 == lo) {
    last->hi = hi;
    return;
  }
  if (!room(d, &d->m->edges, d->n_edges + 1, &d->cap_edges, sizeof *d->m->edges, EDGES_MAX)) return;
  d->m->edges[d->n_edges++] = (g_edge){lo, hi, to};
  x->n_edges++;
}

/* Cuts 0..255 where some edge begins or ends; each piece leads to one set of states. */
static void byte_edges(made *d, int32_t node) {
  bool cut[257] = {false};
  for (int32_t i = 0; i < d->n_here; i++) {
    if (d->here[i].rule != NFA_BYTES) continue;
    cut[d->here[i].lo] = true;
    cut[d->here[i].hi + 1] = true;
  }
  cut[256] = true;
  for (int lo = 0, hi; lo < 256 && !d->too_large && !d->no_memory; lo = hi + 1) {
    for (hi = lo; !cut[hi + 1];) hi++;
    d->looks += d->n_here;
    nfa_set_clear(&d->set);
    for (int32_t i = 0; i < d->n_here; i++)
      if (d->here[i].rule == NFA_BYTES && d->here[i].lo <= lo && d->here[i].hi >= hi)
        nfa_set_add(&d->set, d->here[i].to);
    nfa_close(d->a, &d->set);
    int32_t to = node_of(d);
    if (to >= 0) add_edge(d, node, (uint8_t)lo, (uint8_t)hi, to);
  }
}

static int by_rule(const void *a, const void *b) {
  const nfa_edge *x = a, *y = b;
  return (x->rule > y->rule) - (x->rule < y->rule);
}

/* Calls of one rule become one. */
static void call_edges(made *d, int32_t node) {
  qsort(d->here, (size_t)d->n_here, sizeof *d->here, by_rule);
  for (int32_t i = 0, next; i < d->n_here && !d->too_large && !d->no_memory; i = next) {
    int32_t rule = d->here[i].rule;
    nfa_set_clear(&d->set);
    for (next = i; next < d->n_here && d->here[next].rule == rule; next++) nfa_set_add(&d->set, d->here[next].to);
    nfa_close(d->a, &d->set);
    int32_t to = rule >= 0 ? node_of(d) : -1;
    if (to < 0 || !room(d, &d->m->calls, d->n_calls + 1, &d->cap_calls, sizeof *d->m->calls, EDGES_MAX)) continue;
    d->m->calls[d->n_calls++] = (g_invoke){rule, to};
    d->m->nodes[node].n_calls++;
  }
}

static void determinise(made *d) {
  g_automaton *m = d->m;
  int32_t done = 0;
  for (int32_t r = 0; r < d->a->n_rules; r++) {
    d->end = d->a->ends[r];
    nfa_set_clear(&d->set);
    nfa_set_add(&d->set, d->a->starts[r]); /* has the edges of all that it reaches already, see nfa.c */
    m->starts[r] = node_of(d);
    for (; done < m->n_nodes && !d->too_large && !d->no_memory; done++) {
      m->nodes[done].edges = d->n_edges;
      m->nodes[done].calls = d->n_calls;
      gather(d, done);
      byte_edges(d, done);
      if (d->n_here) call_edges(d, done);
    }
  }
}

/* Nodes whose states are like those of another, see build_repeat in nfa.c. */
static void find_likes(made *d) {
  for (int32_t i = 0; i < d->m->n_nodes; i++) {
    int32_t bytes = INT32_MAX;
    nfa_set_clear(&d->set);
    for (int32_t k = d->at[i]; k < d->at[i + 1]; k++) {
      struct nfa_like like = d->a->like[d->pool[k]];
      nfa_set_add(&d->set, like.state < 0 ? d->pool[k] : like.state);
      if (like.state >= 0) bytes = PU_MIN(bytes, like.bytes);
    }
    if (bytes == INT32_MAX) continue;
    uint32_t slot;
    qsort(d->set.v, (size_t)d->set.n, sizeof *d->set.v, by_number);
    d->m->nodes[i].like = find(d, d->set.v, d->set.n, &slot);
    d->m->nodes[i].like_bytes = bytes;
  }
}

/* ---- what can come to an end, and how deep it has to go
 * --------------------------------------------------------------- */

/* For each node and each rule, who leads there. */
typedef struct user {
  int32_t node, to, rule; /* rule -1: by a byte */
  int32_t next_of_node, next_of_rule;
} user;
typedef struct users {
  user *v;
  int32_t *of_node, *of_rule;
  int32_t *queue;
  bool *queued;
  int32_t *rule_of; /* of a start node; else -1 */
} users;

static bool users_init(users *u, const g_automaton *m, size_t n_uses) {
  size_t n = (size_t)m->n_nodes, r = (size_t)m->n_rules;
  *u = (users){.v = malloc((n_uses + 1) * sizeof *u->v),
               .of_node = malloc((n + 1) * sizeof(int32_t)),
               .of_rule = malloc(r * sizeof(int32_t)),
               .queue = malloc((n + 1) * sizeof(int32_t)),
               .queued = calloc(n + 1, 1),
               .rule_of = malloc((n + 1) * sizeof(int32_t))};
  if (!u->v || !u->of_node || !u->of_rule || !u->queue || !u->queued || !u->rule_of) return false;
  for (size_t i = 0; i < n; i++) u->of_node[i] = u->rule_of[i] = -1;
  for (size_t i = 0; i < r; i++) {
    u->of_rule[i] = -1;
    if (m->starts[i] >= 0) u->rule_of[m->starts[i]] = (int32_t)i;
  }
  int32_t k = 0;
  for (int32_t i = 0; i < m->n_nodes; i++) {
    const g_node *x = &m->nodes[i];
    for (int32_t j = 0; j < x->n_edges + x->n_calls; j++, k++) {
      const g_invoke *call = j < x->n_edges ? NULL : &m->calls[x->calls + j - x->n_edges];
      int32_t to = call ? call->to : m->edges[x->edges + j].to, rule = call ? call->rule : -1;
      u->v[k] = (user){i, to, rule, u->of_node[to], rule < 0 ? -1 : u->of_rule[rule]};
      u->of_node[to] = k;
      if (rule >= 0) u->of_rule[rule] = k;
    }
  }
  return true;
}

static void users_deinit(users *u) {
  free(u->v);
  free(u->of_node);
  free(u->of_rule);
  free(u->queue);
  free(u->queued);
  free(u->rule_of);
}

/* Frames that this way to the end takes. */
static int32_t need_of(const g_automaton *m, const user *u) {
  int32_t after = m->nodes[u->to].need;
  if (u->rule < 0 || after == NEVER) return after;
  int32_t start = m->starts[u->rule], inside = start < 0 ? NEVER : m->nodes[start].need;
  if (inside == NEVER) return NEVER;
  return PU_MAX(inside + !g_is_last(&m->nodes[u->to]), after);
}

/* Least numbers, found from the ends backwards; a node is looked at again whenever one gets smaller. */
static void find_need(g_automaton *m, users *u) {
  int32_t head = 0, n = 0, size = m->n_nodes;
  for (int32_t i = 0; i < size; i++)
    if (m->nodes[i].accepts) {
      m->nodes[i].need = 0;
      u->queue[n++] = i;
      u->queued[i] = true;
    }
  while (n > 0) {
    int32_t x = u->queue[head];
    head = (head + 1) % size;
    n--;
    u->queued[x] = false;
    int32_t rule = u->rule_of[x];
    for (int pass = 0; pass < (rule < 0 ? 1 : 2); pass++)
      for (int32_t k = pass ? u->of_rule[rule] : u->of_node[x]; k >= 0;
           k = pass ? u->v[k].next_of_rule : u->v[k].next_of_node) {
        int32_t need = need_of(m, &u->v[k]), from = u->v[k].node;
        if (need > G_DEPTH_MAX || need >= m->nodes[from].need) continue;
        m->nodes[from].need = need;
        if (u->queued[from]) continue;
        u->queued[from] = true;
        u->queue[(head + n++) % size] = from;
      }
  }
}

static void drop_dead_ends(g_automaton *m) {
  for (int32_t i = 0; i < m->n_nodes; i++) {
    g_node *x = &m->nodes[i];
    int32_t n = 0;
    for (int32_t j = 0; j < x->n_edges; j++) {
      g_edge edge = m->edges[x->edges + j];
      if (m->nodes[edge.to].need != NEVER) m->edges[x->edges + n++] = edge;
    }
    x->n_edges = n;
    n = 0;
    for (int32_t j = 0; j < x->n_calls; j++) {
      g_invoke call = m->calls[x->calls + j];
      int32_t start = m->starts[call.rule];
      if (start >= 0 && m->nodes[start].need != NEVER && m->nodes[call.to].need != NEVER)
        m->calls[x->calls + n++] = call;
    }
    x->n_calls = n;
    if (x->need != NEVER) m->need = PU_MAX(m->need, x->need);
  }
}

/* Bytes that every edge has both or neither of. */
static void find_classes(g_automaton *m, int32_t n_edges) {
  bool cut[257] = {false};
  for (int32_t i = 0; i < n_edges; i++) cut[m->edges[i].lo] = cut[m->edges[i].hi + 1] = true;
  for (int b = 0; b < 256; b++) {
    if (b && cut[b]) m->n_classes++;
    m->class_of[b] = (uint8_t)m->n_classes;
  }
  m->n_classes++;
}

/* ---- all of it
 * ---------------------------------------------------------------------------------------------------------- */

static pu_err failure(const made *d, pu_error *e) {
  if (!d->too_large) return pu_fail(e, PU_ERR_NOMEM, "no memory for the automaton of a grammar");
  return pu_fail(
      e, PU_ERR_UNSUPPORTED,
      "the grammar is too tangled: its automaton would have more than %d states, or take more than %lld steps "
      "to build; repeat less, or let alternatives differ where they begin",
      G_NODES_MAX, (long long)LOOKS_MAX);
}

static pu_err make(made *d, pu_error *e) {
  g_automaton *m = d->m;
  m->n_rules = d->a->n_rules;
  m->chain = d->a->chain;
  m->empty_too = d->a->nullable[0];
  m->starts = malloc((size_t)m->n_rules * sizeof *m->starts);
  d->slots = malloc(2 * G_NODES_MAX * sizeof *d->slots);
  if (!nfa_set_init(&d->set, d->a) || !m->starts || !d->slots) return failure(d, e);
  memset(d->slots, 0xFF, 2 * G_NODES_MAX * sizeof *d->slots);
  determinise(d);
  if (d->too_large || d->no_memory) return failure(d, e);
  find_likes(d);
  users u;
  bool ok = users_init(&u, m, (size_t)d->n_edges + (size_t)d->n_calls);
  if (ok) find_need(m, &u);
  users_deinit(&u);
  if (!ok) return failure(d, e);
  drop_dead_ends(m);
  find_classes(m, d->n_edges);
  if (m->empty_too || (m->starts[0] >= 0 && m->nodes[m->starts[0]].need != NEVER)) return PU_OK;
  return pu_fail(e, PU_ERR_USAGE,
                 "no finite text fits the grammar: every way through it goes on for ever, or is "
                 "nested more than %d deep",
                 G_DEPTH_MAX);
}

pu_err g_automaton_build(g_automaton *m, const g_rules *g, pu_error *e) {
  *m = (g_automaton){0};
  nfa a;
  PU_TRY(nfa_build(&a, g, e));
  made d = {.a = &a, .m = m};
  pu_err err = make(&d, e);
  free(d.pool);
  free(d.at);
  free(d.slots);
  free(d.here);
  nfa_set_deinit(&d.set);
  nfa_free(&a);
  if (err) g_automaton_free(m);
  return err;
}

void g_automaton_free(g_automaton *m) {
  free(m->nodes);
  free(m->edges);
  free(m->calls);
  free(m->starts);
  *m = (g_automaton){0};
}
