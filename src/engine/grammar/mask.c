/* Which tokens may come next.
 *
 * Most of the answer depends on the node alone, not on the frames below it (Dong et al. 2024): inside a JSON string all
 * tokens without a quote are possible whatever comes after the string. So the mask of a node is computed once, by a
 * walk over the vocabulary's trie, together with the places in the trie where the rule ended and bytes remain. A mask
 * is then the union of the masks of the configurations' nodes, and short walks from those places with what really
 * follows.
 *
 * The walks themselves run on a deterministic automaton that is made as it is needed: its states are sets of
 * configurations whose lowest frame is unknown. All of this is kept with the grammar, for all its sessions. */
#include <stdlib.h>
#include <string.h>

#include "src/engine/grammar/grammar.h"

enum {
  DEAD = 0,           /* a set: of nothing */
  UNKNOWN = -1,       /* a transition that was not yet needed */
  SETS_MAX = 1 << 16, /* sets that are kept; a walk that needs more goes without */
  POOL_MAX = 1 << 22, /* their configurations */
  MASK_BYTES_MAX = 256 << 20,
  WORK_MAX = 1 << 24 /* configurations that a mask may take without what is kept: seconds */
};

typedef struct set {
  int32_t at, n; /* in the pool */
  bool ends;     /* the unknown frame can be reached without a byte more */
} set;

/* What a node allows by itself: a bit for each token, or a list where they are few. */
typedef struct node_mask {
  uint64_t *bits;
  int32_t *ids;
  int32_t n_ids;
  int32_t *leaves; /* places in the trie where the rule ended and bytes remain */
  int32_t n_leaves;
} node_mask;

struct g_cache {
  const g_automaton *m;
  const pu_grammar_vocab *v;
  pthread_mutex_t lock;
  g_work work;
  g_frames frames;
  g_configs from, to;
  set *sets;
  g_config *pool;
  int32_t n_sets, n_pool, cap_sets, cap_pool;
  int32_t *next;     /* [cap_sets, n_classes] */
  int32_t *slots;    /* hash table of sets */
  int32_t *of_node;  /* [n_nodes]: the set of a node and nothing else */
  node_mask **masks; /* [n_nodes]; NULL: not yet made */
  size_t mask_bytes; /* of all of them */
  uint64_t *bits;    /* of the mask being made */
  size_t words;
  int32_t *leaves;
  int32_t n_leaves, cap_leaves;
  uint64_t *followed; /* hash set of (place, frame), see follow; 0 is free */
  size_t n_followed, cap_followed;
  bool no_memory, full;
};

static void forget_sets(g_cache *c) {
  c->n_sets = 1; /* DEAD */
  c->n_pool = c->frames.n = 0;
  g_frames_free(&c->frames);
  memset(c->slots, 0xFF, 2 * SETS_MAX * sizeof *c->slots);
  memset(c->of_node, 0xFF, (size_t)c->m->n_nodes * sizeof *c->of_node);
  c->full = false;
}

static bool grow(void **v, int32_t want, int32_t *cap, size_t size) {
  if (want <= *cap) return true;
  int32_t wanted = PU_MAX(256, PU_MAX(want, 2 * *cap));
  void *bigger = realloc(*v, (size_t)wanted * size);
  if (!bigger) return false;
  *v = bigger;
  *cap = wanted;
  return true;
}

static bool sets_grow(g_cache *c) {
  if (c->n_sets < c->cap_sets) return true;
  void *sets = c->sets, *next = c->next;
  int32_t cap = c->cap_sets, cap_next = c->cap_sets;
  bool ok = grow(&sets, c->n_sets + 1, &cap, sizeof *c->sets);
  c->sets = sets;
  ok = ok && grow(&next, c->n_sets + 1, &cap_next, (size_t)c->m->n_classes * sizeof *c->next);
  c->next = next;
  if (ok) c->cap_sets = cap;
  return ok;
}

static int by_place(const void *a, const void *b) {
  const g_config *x = a, *y = b;
  if (x->node != y->node) return x->node < y->node ? -1 : 1;
  return (x->frame > y->frame) - (x->frame < y->frame);
}

/* The number of the set that c->to holds. */
static int32_t number_of(g_cache *c) {
  g_configs *t = &c->to;
  if (!t->n && !t->ends) return DEAD;
  qsort(t->v, (size_t)t->n, sizeof *t->v, by_place);
  size_t bytes = (size_t)t->n * sizeof *t->v;
  uint32_t slot = (uint32_t)pu_hash64(t->v, bytes, t->ends) % (2 * SETS_MAX);
  for (; c->slots[slot] >= 0; slot = (slot + 1) % (2 * SETS_MAX)) {
    const set *s = &c->sets[c->slots[slot]];
    if (s->n == t->n && s->ends == t->ends && (!bytes || !memcmp(c->pool + s->at, t->v, bytes))) return c->slots[slot];
  }
  if (c->n_sets >= SETS_MAX || c->n_pool > POOL_MAX - t->n) {
    c->full = true;
    return DEAD;
  }
  void *pool = c->pool;
  if (!sets_grow(c) || !grow(&pool, c->n_pool + t->n, &c->cap_pool, sizeof *c->pool)) {
    c->no_memory = true;
    return DEAD;
  }
  c->pool = pool;
  if (bytes) memcpy(c->pool + c->n_pool, t->v, bytes);
  c->sets[c->n_sets] = (set){c->n_pool, t->n, t->ends};
  memset(c->next + (size_t)c->n_sets * (size_t)c->m->n_classes, 0xFF, (size_t)c->m->n_classes * sizeof *c->next);
  c->n_pool += t->n;
  c->slots[slot] = c->n_sets;
  return c->n_sets++;
}

static int32_t make_next(g_cache *c, int32_t from, uint8_t byte) {
  const set *s = &c->sets[from];
  g_configs f = {.v = c->pool + s->at, .n = s->n};
  int32_t to = DEAD;
  if (g_advance(c->m, &c->frames, &f, byte, INT32_MAX, &c->work, &c->to)) to = number_of(c);
  c->no_memory |= c->work.no_memory;
  if (!c->full && !c->no_memory) c->next[(size_t)from * (size_t)c->m->n_classes + c->m->class_of[byte]] = to;
  return to;
}

static inline int32_t next_set(g_cache *c, int32_t from, uint8_t byte) {
  int32_t to = c->next[(size_t)from * (size_t)c->m->n_classes + c->m->class_of[byte]];
  return to != UNKNOWN ? to : make_next(c, from, byte);
}

static int32_t set_of_node(g_cache *c, int32_t node) {
  if (c->of_node[node] < 0) {
    g_enter(c->m, &c->frames, (g_config){node, -1}, INT32_MAX, &c->work, &c->to);
    int32_t s = number_of(c);
    c->no_memory |= c->work.no_memory;
    if (c->full || c->no_memory) return DEAD;
    c->of_node[node] = s;
  }
  return c->of_node[node];
}

/* ---- walks ---- */

static void take_tokens(const pu_grammar_vocab *v, int32_t at, uint64_t *bits) {
  for (int32_t i = v->nodes[at].tokens; i < v->nodes[at + 1].tokens; i++)
    bits[v->ids[i] / 64] |= (uint64_t)1 << (v->ids[i] % 64);
}

/* What a walk meets: the rule ended at this place of the trie, where bytes remain. */
typedef void (*on_leave)(g_cache *c, int32_t at, void *arg);

/* Goes through the subtree below `root` from a set; only tokens of more than `over` bytes count. Nodes are in preorder,
 * so that the walk is one pass that skips. */
static void walk(g_cache *c, int32_t root, int32_t start, int32_t over, uint64_t *bits, on_leave leave, void *arg) {
  const pu_grammar_vocab *v = c->v;
  int32_t sets[G_TOKEN_MAX + 1];
  int32_t end = v->nodes[root].end;
  sets[v->nodes[root].depth] = start;
  for (int32_t i = root + 1; i < end;) {
    const g_trie_node *x = &v->nodes[i];
    int32_t to = x->deepest > over ? next_set(c, sets[x->depth - 1], x->byte) : DEAD;
    if (to == DEAD) {
      if (c->full || c->no_memory) return;
      i = x->end;
      continue;
    }
    sets[x->depth] = to;
    if (x->depth > over) {
      take_tokens(v, i, bits);
      if (c->sets[to].ends && x->end > i + 1) leave(c, i, arg);
    }
    i = c->sets[to].n ? i + 1 : x->end;
  }
}

static void note_place(g_cache *c, int32_t at, void *arg) {
  (void)arg;
  void *leaves = c->leaves;
  if (!grow(&leaves, c->n_leaves + 1, &c->cap_leaves, sizeof *c->leaves)) {
    c->no_memory = true;
    return;
  }
  c->leaves = leaves;
  c->leaves[c->n_leaves++] = at;
}

static void free_mask(node_mask *k) {
  if (!k) return;
  free(k->bits);
  free(k->ids);
  free(k->leaves);
  free(k);
}

static void *copy_of(const void *from, size_t bytes) {
  void *p = malloc(bytes + 1);
  if (p && bytes) memcpy(p, from, bytes);
  return p;
}

/* Few tokens are kept as a list: most nodes stand in the middle of a word that is fixed. */
static node_mask *keep_mask(const g_cache *c) {
  int32_t n = 0;
  for (size_t i = 0; i < c->words; i++) n += __builtin_popcountll(c->bits[i]);
  node_mask *k = calloc(1, sizeof *k);
  if (!k) return NULL;
  k->leaves = copy_of(c->leaves, (size_t)c->n_leaves * sizeof *c->leaves);
  k->n_leaves = c->n_leaves;
  bool few = (size_t)n * sizeof *k->ids < c->words * sizeof *c->bits;
  if (few) {
    k->ids = malloc(((size_t)n + 1) * sizeof *k->ids);
    for (size_t i = 0; k->ids && i < c->words; i++)
      for (uint64_t left = c->bits[i]; left; left &= left - 1)
        k->ids[k->n_ids++] = (int32_t)(i * 64 + (size_t)__builtin_ctzll(left));
  } else {
    k->bits = copy_of(c->bits, c->words * sizeof *c->bits);
  }
  if (k->leaves && (few ? k->ids != NULL : k->bits != NULL)) return k;
  free_mask(k);
  return NULL;
}

static void or_mask(const g_cache *c, const node_mask *k, uint64_t *bits) {
  for (size_t w = 0; k->bits && w < c->words; w++) bits[w] |= k->bits[w];
  for (int32_t j = 0; j < k->n_ids; j++) bits[k->ids[j] / 64] |= (uint64_t)1 << (k->ids[j] % 64);
}

/* Begins a mask with another's answers for tokens of up to so many bytes. */
static void begin_like(g_cache *c, const node_mask *k, int32_t bytes) {
  const pu_grammar_vocab *v = c->v;
  or_mask(c, k, c->bits);
  for (int32_t i = 1; i < v->n_nodes;) {
    const g_trie_node *x = &v->nodes[i];
    for (int32_t j = x->tokens; x->depth > bytes && j < v->nodes[i + 1].tokens; j++)
      c->bits[v->ids[j] / 64] &= ~((uint64_t)1 << (v->ids[j] % 64));
    i = x->deepest > bytes ? i + 1 : x->end;
  }
  for (int32_t i = 0; i < k->n_leaves; i++)
    if (v->nodes[k->leaves[i]].depth <= bytes) note_place(c, k->leaves[i], NULL);
}

/* NULL: no memory, or too many sets (see c). */
static const node_mask *mask_of(g_cache *c, int32_t node) {
  const g_node *x = &c->m->nodes[node];
  const node_mask *like = NULL;
  if (c->masks[node]) return c->masks[node];
  if (x->like >= 0 && !(like = mask_of(c, x->like))) return NULL;
  if (like && x->like_bytes >= c->v->longest) return like;
  int32_t start = set_of_node(c, node);
  if (start == DEAD) return NULL;
  memset(c->bits, 0, c->words * sizeof *c->bits);
  c->n_leaves = 0;
  if (like) begin_like(c, like, x->like_bytes);
  walk(c, 0, start, like ? x->like_bytes : 0, c->bits, note_place, NULL);
  if (c->full || c->no_memory) return NULL;
  node_mask *k = c->masks[node] = keep_mask(c);
  if (!k) c->no_memory = true;
  if (k) c->mask_bytes += sizeof *k + (k->bits ? c->words * 8 : 0) + (size_t)(k->n_ids + k->n_leaves) * 4;
  return k;
}

/* ---- what follows the rule ---- */

typedef struct below {
  const g_frames *frames; /* of the session */
  int32_t frame;
  uint64_t *bits;
} below;

static bool followed_grow(g_cache *c) {
  size_t cap = PU_MAX((size_t)1024, 2 * c->cap_followed);
  uint64_t *bigger = calloc(cap, sizeof *bigger);
  if (!bigger) return false;
  for (size_t i = 0; i < c->cap_followed; i++) {
    uint64_t key = c->followed[i];
    size_t at = (key * 0x9E3779B97F4A7C15u) >> 32 & (cap - 1);
    while (key && bigger[at]) at = (at + 1) & (cap - 1);
    if (key) bigger[at] = key;
  }
  free(c->followed);
  c->followed = bigger;
  c->cap_followed = cap;
  return true;
}

/* The first time for this place and frame in a mask? There may be very many ways there. */
static bool is_first_time(g_cache *c, int32_t at, int32_t frame) {
  if (2 * c->n_followed >= c->cap_followed && !followed_grow(c)) {
    c->no_memory = true;
    return false;
  }
  uint64_t key = (uint64_t)at << 32 | (uint32_t)frame; /* places begin with 1 */
  size_t i = (key * 0x9E3779B97F4A7C15u) >> 32 & (c->cap_followed - 1);
  for (; c->followed[i]; i = (i + 1) & (c->cap_followed - 1))
    if (c->followed[i] == key) return false;
  c->followed[i] = key;
  c->n_followed++;
  return true;
}

/* The rule ended: goes on where the frame says. At the bottom nothing may follow. */
static void follow(g_cache *c, int32_t at, void *arg);

static void go_on(g_cache *c, int32_t at, const below *b) {
  const g_frame *f = &b->frames->v[b->frame];
  below deeper = {b->frames, f->parent, b->bits};
  int32_t start = set_of_node(c, f->node);
  if (start == DEAD) return;
  if (c->sets[start].ends) follow(c, at, &deeper);
  walk(c, at, start, 0, b->bits, follow, &deeper);
}

static void follow(g_cache *c, int32_t at, void *arg) {
  const below *b = arg;
  if (b->frame >= 0 && is_first_time(c, at, b->frame)) go_on(c, at, b);
}

static void forget_masks(g_cache *c) {
  for (int32_t i = 0; c->masks && i < c->m->n_nodes; i++) {
    free_mask(c->masks[i]);
    c->masks[i] = NULL;
  }
  c->mask_bytes = 0;
}

static bool mask_by_nodes(g_cache *c, const pu_grammar_state *s, uint64_t *bits) {
  if (c->full || c->n_sets > SETS_MAX / 2) forget_sets(c);
  if (c->mask_bytes > MASK_BYTES_MAX) forget_masks(c);
  if (c->n_followed) memset(c->followed, 0, c->cap_followed * sizeof *c->followed);
  c->n_followed = 0;
  for (int32_t i = 0; i < s->now.n; i++) {
    g_config at = s->now.v[i];
    const node_mask *k = mask_of(c, at.node);
    if (!k) return false;
    or_mask(c, k, bits);
    below b = {&s->frames, at.frame, bits};
    for (int32_t j = 0; at.frame >= 0 && j < k->n_leaves; j++) go_on(c, k->leaves[j], &b);
    if (c->full || c->no_memory) return false;
  }
  return true;
}

/* ---- the plain way, for odd grammars and great depth ---- */

/* The same walk with the session's own configurations: slow, but with nothing to remember and every limit exact. */
static bool mask_plainly(const pu_grammar_vocab *v, pu_grammar_state *s, uint64_t *bits) {
  const g_automaton *m = &s->g->m;
  size_t depths = (size_t)v->longest + 1;
  g_configs *at = calloc(depths, sizeof *at);
  bool ok = at && g_configs_copy(&at[0], &s->now);
  int64_t work = 0;
  for (int32_t i = 1; ok && i < v->n_nodes;) {
    const g_trie_node *x = &v->nodes[i];
    bool alive = g_advance(m, &s->frames, &at[x->depth - 1], x->byte, G_DEPTH_MAX, &s->work, &at[x->depth]);
    if (alive) take_tokens(v, i, bits);
    work += s->work.n_seen;
    ok = !s->work.no_memory && work <= WORK_MAX && s->frames.n <= WORK_MAX / 16;
    i = alive ? i + 1 : x->end;
  }
  for (size_t i = 0; at && i < depths; i++) g_configs_free(&at[i]);
  free(at);
  g_frames_compact(&s->frames, &s->now);
  return ok;
}

/* Could the limit of depth matter for a token from here? The kept masks know nothing of it. */
static bool is_deep(const g_cache *c, const pu_grammar_state *s) {
  int32_t depth = 0;
  for (int32_t i = 0; i < s->now.n; i++)
    if (s->now.v[i].frame >= 0) depth = PU_MAX(depth, s->frames.v[s->now.v[i].frame].depth);
  int64_t more = (int64_t)c->v->longest * (c->m->chain + 1) + c->m->need;
  return depth + more > G_DEPTH_MAX;
}

pu_err g_cache_mask(g_cache *c, pu_grammar_state *s, uint64_t *bits, pu_error *e) {
  memset(bits, 0, c->words * sizeof *bits);
  bool ok = false;
  if (!is_deep(c, s)) {
    pthread_mutex_lock(&c->lock);
    c->no_memory = c->work.no_memory = false;
    ok = mask_by_nodes(c, s, bits) && !c->work.no_memory;
    pthread_mutex_unlock(&c->lock);
  }
  if (ok) return PU_OK;
  memset(bits, 0, c->words * sizeof *bits);
  s->work.no_memory = false;
  if (mask_plainly(c->v, s, bits)) return PU_OK;
  if (s->work.no_memory) return pu_fail(e, PU_ERR_NOMEM, "no memory for the tokens that the grammar allows");
  return pu_fail(e, PU_ERR_UNSUPPORTED, "the grammar leaves too many ways open at once");
}

pu_err g_cache_create(const g_automaton *m, const pu_grammar_vocab *v, g_cache **out, pu_error *e) {
  *out = NULL;
  g_cache *c = calloc(1, sizeof *c);
  if (!c) return pu_fail(e, PU_ERR_NOMEM, "no memory for the masks of a grammar");
  c->m = m;
  c->v = v;
  c->words = ((size_t)v->size + 63) / 64;
  pthread_mutex_init(&c->lock, NULL);
  c->slots = malloc(2 * SETS_MAX * sizeof *c->slots);
  c->of_node = malloc(((size_t)m->n_nodes + 1) * sizeof *c->of_node);
  c->masks = calloc((size_t)m->n_nodes + 1, sizeof *c->masks);
  c->bits = malloc((c->words + 1) * sizeof *c->bits);
  if (!c->slots || !c->of_node || !c->masks || !c->bits || !g_work_init(&c->work) || !sets_grow(c)) {
    g_cache_free(c);
    return pu_fail(e, PU_ERR_NOMEM, "no memory for the masks of a grammar");
  }
  forget_sets(c);
  *out = c;
  return PU_OK;
}

void g_cache_free(g_cache *c) {
  if (!c) return;
  forget_masks(c);
  pthread_mutex_destroy(&c->lock);
  g_work_deinit(&c->work);
  g_frames_free(&c->frames);
  g_configs_free(&c->from);
  g_configs_free(&c->to);
  free(c->sets);
  free(c->pool);
  free(c->next);
  free(c->slots);
  free(c->of_node);
  free(c->masks);
  free(c->bits);
  free(c->leaves);
  free(c->followed);
  free(c);
}
