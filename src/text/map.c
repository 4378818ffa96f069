#include "src/text/map.h"

#include <stdlib.h>
#include <string.h>

typedef struct text_map_slot {
  uint64_t hash;
  const char *ptr;
  uint32_t len;
  int32_t value; /* -1: free */
} text_map_slot;

void text_map_deinit(text_map *m) {
  free(m->slots);
  *m = (text_map){0};
}

static text_map_slot *map_slot(const text_map *m, pu_str key, uint64_t hash) {
  for (size_t i = hash & m->mask;; i = (i + 1) & m->mask) {
    text_map_slot *s = &m->slots[i];
    if (s->value < 0) return s;
    if (s->hash == hash && s->len == key.len && memcmp(s->ptr, key.ptr, key.len) == 0) return s;
  }
}

static bool map_grow(text_map *m) {
  size_t cap = m->slots ? (m->mask + 1) * 2 : 256;
  text_map bigger = {malloc(cap * sizeof(text_map_slot)), cap - 1, m->n};
  if (!bigger.slots) return false;
  for (size_t i = 0; i < cap; i++) bigger.slots[i].value = -1;
  for (size_t i = 0; m->slots && i <= m->mask; i++) {
    const text_map_slot *s = &m->slots[i];
    if (s->value >= 0) *map_slot(&bigger, pu_str_of(s->ptr, s->len), s->hash) = *s;
  }
  free(m->slots);
  *m = bigger;
  return true;
}

bool text_map_put(text_map *m, pu_str key, int32_t value) {
  if ((!m->slots || m->n * 2 > m->mask) && !map_grow(m)) return false;
  uint64_t hash = pu_hash64(key.ptr, key.len, 0);
  text_map_slot *s = map_slot(m, key, hash);
  if (s->value >= 0) return true;
  *s = (text_map_slot){hash, key.ptr, (uint32_t)key.len, value};
  m->n++;
  return true;
}

int32_t text_map_get(const text_map *m, pu_str key) {
  if (!m->slots) return -1;
  return map_slot(m, key, pu_hash64(key.ptr, key.len, 0))->value;
}

void text_trie_deinit(text_trie *t) {
  free(t->edges);
  free(t->value);
  *t = (text_trie){0};
}

static void trie_place(text_trie *t, text_trie_edge edge) {
  size_t i = text_mix(edge.key) & t->mask;
  while (t->edges[i].key != 0) i = (i + 1) & t->mask;
  t->edges[i] = edge;
}

static bool trie_grow_edges(text_trie *t) {
  size_t cap = t->edges ? (t->mask + 1) * 2 : 256;
  text_trie old = *t;
  t->edges = calloc(cap, sizeof(text_trie_edge));
  if (!t->edges) {
    t->edges = old.edges;
    return false;
  }
  t->mask = cap - 1;
  for (size_t i = 0; old.edges && i <= old.mask; i++) {
    if (old.edges[i].key != 0) trie_place(t, old.edges[i]);
  }
  free(old.edges);
  return true;
}

static bool trie_node(text_trie *t, uint32_t *node) {
  if (t->n_nodes == t->cap_nodes) {
    uint32_t cap = t->cap_nodes ? t->cap_nodes * 2 : 256;
    int32_t *value = realloc(t->value, cap * sizeof *value);
    if (!value) return false;
    t->value = value;
    t->cap_nodes = cap;
  }
  *node = t->n_nodes++;
  t->value[*node] = -1;
  return true;
}

bool text_trie_put(text_trie *t, pu_str key, int32_t value) {
  uint32_t node = 0, next;
  if (t->n_nodes == 0 && !trie_node(t, &node)) return false;
  for (size_t i = 0; i < key.len; i++, node = next) {
    next = text_trie_step(t, node, (uint8_t)key.ptr[i]);
    if (next != 0) continue;
    if ((!t->edges || t->n_edges * 2 > t->mask) && !trie_grow_edges(t)) return false;
    if (!trie_node(t, &next)) return false;
    trie_place(t, (text_trie_edge){((uint64_t)node << 8 | (uint8_t)key.ptr[i]) + 1, next});
    t->n_edges++;
  }
  t->value[node] = value;
  return true;
}

size_t text_trie_longest(const text_trie *t, const uint8_t *p, size_t n, int32_t *value) {
  size_t best = 0;
  uint32_t node = 0;
  for (size_t i = 0; i < n; i++) {
    node = text_trie_step(t, node, p[i]);
    if (node == 0) break;
    if (t->value[node] < 0) continue;
    best = i + 1;
    *value = t->value[node];
  }
  return best;
}
