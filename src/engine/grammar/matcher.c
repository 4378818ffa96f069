/* The pushdown machine: which configurations a byte leads to. */
#include <stdlib.h>
#include <string.h>

#include "src/engine/grammar/grammar.h"

typedef struct g_seen {
  g_config c;
  uint32_t stamp;
} seen;

bool g_work_init(g_work *w) {
  *w = (g_work){.todo = malloc(G_CONFIGS_MAX * sizeof *w->todo), .seen = calloc(2 * G_CONFIGS_MAX, sizeof *w->seen)};
  if (w->todo && w->seen) return true;
  g_work_deinit(w);
  return false;
}

void g_work_deinit(g_work *w) {
  free(w->todo);
  free(w->seen);
  *w = (g_work){0};
}

/* ---- frames ---- */

static uint32_t mix(int32_t a, int32_t b) {
  uint64_t x = ((uint64_t)(uint32_t)a << 32 | (uint32_t)b) * 0x9E3779B97F4A7C15u;
  return (uint32_t)(x >> 32);
}

static bool frames_grow(g_frames *f) {
  int32_t cap = PU_MAX(64, 2 * f->cap);
  g_frame *v = realloc(f->v, (size_t)cap * sizeof *v);
  if (!v) return false;
  f->v = v;
  int32_t *slots = realloc(f->slots, 2 * (size_t)cap * sizeof *slots);
  if (!slots) return false;
  f->slots = slots;
  f->cap = cap;
  memset(slots, 0xFF, 2 * (size_t)cap * sizeof *slots);
  for (int32_t i = 0; i < f->n; i++) {
    uint32_t at = mix(v[i].node, v[i].parent) & (uint32_t)(2 * cap - 1);
    while (slots[at] >= 0) at = (at + 1) & (uint32_t)(2 * cap - 1);
    slots[at] = i;
  }
  return true;
}

/* The number of this frame; -2: no memory. */
static int32_t push(g_frames *f, int32_t node, int32_t parent) {
  if (f->n == f->cap && !frames_grow(f)) return -2;
  uint32_t mask = (uint32_t)(2 * f->cap - 1), at = mix(node, parent) & mask;
  for (; f->slots[at] >= 0; at = (at + 1) & mask) {
    const g_frame *x = &f->v[f->slots[at]];
    if (x->node == node && x->parent == parent) return f->slots[at];
  }
  f->v[f->n] = (g_frame){node, parent, parent < 0 ? 1 : f->v[parent].depth + 1};
  f->slots[at] = f->n;
  return f->n++;
}

void g_frames_free(g_frames *f) {
  free(f->v);
  free(f->slots);
  *f = (g_frames){0};
}

void g_configs_free(g_configs *c) {
  free(c->v);
  *c = (g_configs){0};
}

static bool configs_add(g_configs *c, g_config x) {
  if (c->n == c->cap) {
    int32_t cap = PU_MAX(16, 2 * c->cap);
    g_config *v = realloc(c->v, (size_t)cap * sizeof *v);
    if (!v) return false;
    c->v = v;
    c->cap = cap;
  }
  c->v[c->n++] = x;
  return true;
}

bool g_configs_copy(g_configs *to, const g_configs *from) {
  to->n = 0;
  to->ends = from->ends;
  for (int32_t i = 0; i < from->n; i++)
    if (!configs_add(to, from->v[i])) return false;
  return true;
}

bool g_frames_copy(g_frames *to, const g_frames *from) {
  *to = (g_frames){0};
  for (int32_t i = 0; i < from->n; i++)
    if (push(to, from->v[i].node, from->v[i].parent) != i) return false;
  return true;
}

void g_frames_compact(g_frames *f, g_configs *c) {
  int32_t *number = calloc((size_t)f->n + 1, sizeof *number);
  g_frames kept = {0};
  bool ok = number != NULL;
  for (int32_t i = 0; ok && i < c->n; i++)
    if (c->v[i].frame >= 0) number[c->v[i].frame] = 1;
  for (int32_t i = f->n; ok && i-- > 0;) /* a parent is older than its children */
    if (number[i] && f->v[i].parent >= 0) number[f->v[i].parent] = 1;
  for (int32_t i = 0; ok && i < f->n; i++) {
    int32_t parent = f->v[i].parent;
    if (number[i]) ok = (number[i] = push(&kept, f->v[i].node, parent < 0 ? -1 : number[parent])) >= 0;
  }
  if (ok) {
    for (int32_t i = 0; i < c->n; i++)
      if (c->v[i].frame >= 0) c->v[i].frame = number[c->v[i].frame];
    g_frames old = *f;
    *f = kept;
    kept = old;
  }
  g_frames_free(&kept); /* without memory nothing is dropped: no harm */
  free(number);
}

/* ---- steps ---- */

/* Remembers a configuration that was not met yet. False: there are too many for one byte. */
static bool meet(g_work *w, g_config c) {
  uint32_t mask = 2 * G_CONFIGS_MAX - 1, at = mix(c.node, c.frame) & mask;
  for (; w->seen[at].stamp == w->stamp; at = (at + 1) & mask)
    if (w->seen[at].c.node == c.node && w->seen[at].c.frame == c.frame) return true;
  if (w->n_seen == G_CONFIGS_MAX) {
    w->too_many = true;
    return false;
  }
  w->seen[at] = (seen){c, w->stamp};
  w->todo[w->n_todo++] = c;
  w->n_seen++;
  return true;
}

static void begin(g_work *w) {
  w->n_todo = w->n_seen = 0;
  if (!++w->stamp) { /* once in 2^32 bytes */
    memset(w->seen, 0, 2 * G_CONFIGS_MAX * sizeof *w->seen);
    w->stamp = 1;
  }
}

static int32_t depth_of(const g_frames *f, int32_t frame) {
  return frame < 0 ? 0 : f->v[frame].depth;
}

/* Follows a call: the frame to return to, but none where nothing would be left to do there (so that lists written as
 * right recursion take no depth). */
static bool follow_call(const g_automaton *m, g_frames *f, g_config c, const g_invoke *call, int32_t limit, g_work *w) {
  const g_node *back = &m->nodes[call->to];
  int32_t frame = c.frame, start = m->starts[call->rule];
  if (!g_is_last(back)) {
    if (depth_of(f, frame) + back->need > limit) return true;
    frame = push(f, call->to, frame);
    if (frame < -1) {
      w->no_memory = true;
      return false;
    }
  }
  if (depth_of(f, frame) + m->nodes[start].need > limit) return true;
  return meet(w, (g_config){start, frame});
}

/* Replaces what is to do by the configurations that wait for a byte. False: too many of them, or no memory. */
static bool settle(const g_automaton *m, g_frames *f, int32_t limit, g_work *w, g_configs *out) {
  while (w->n_todo > 0) {
    g_config c = w->todo[--w->n_todo];
    const g_node *x = &m->nodes[c.node];
    if (x->n_edges && !configs_add(out, c)) {
      w->no_memory = true;
      return false;
    }
    for (int32_t i = 0; i < x->n_calls; i++)
      if (!follow_call(m, f, c, &m->calls[x->calls + i], limit, w)) return false;
    if (!x->accepts) continue;
    out->ends |= c.frame < 0;
    if (c.frame >= 0 && !meet(w, (g_config){f->v[c.frame].node, f->v[c.frame].parent})) return false;
  }
  return true;
}

void g_enter(const g_automaton *m, g_frames *f, g_config at, int32_t limit, g_work *w, g_configs *out) {
  out->n = 0;
  out->ends = false;
  begin(w);
  if (at.node >= 0 && meet(w, at)) (void)settle(m, f, limit, w, out);
}

/* -1: no edge for this byte. */
static int32_t edge_to(const g_automaton *m, int32_t node, uint8_t byte) {
  const g_node *x = &m->nodes[node];
  const g_edge *edges = m->edges + x->edges;
  int32_t lo = 0, hi = x->n_edges;
  while (lo < hi) {
    int32_t mid = (lo + hi) / 2;
    if (edges[mid].hi < byte)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo < x->n_edges && edges[lo].lo <= byte ? edges[lo].to : -1;
}

bool g_advance(const g_automaton *m, g_frames *f, const g_configs *from, uint8_t byte, int32_t limit, g_work *w,
               g_configs *out) {
  out->n = 0;
  out->ends = false;
  begin(w);
  for (int32_t i = 0; i < from->n; i++) {
    g_config c = from->v[i];
    int32_t to = edge_to(m, c.node, byte);
    if (to < 0 || depth_of(f, c.frame) + m->nodes[to].need > limit) continue;
    if (!meet(w, (g_config){to, c.frame})) return false;
  }
  return settle(m, f, limit, w, out) && (out->n > 0 || out->ends);
}
