/* Two lookups by bytes: text_map (whole strings) and text_trie (the longest stored string at a place). Both keep ids;
 * neither copies what it is given beyond what it needs, both own their tables. */
#ifndef PUYU_TEXT_MAP_H
#define PUYU_TEXT_MAP_H

#include "puyu/base.h"

/* Strings to ids. Keys are views: they must live as long as the map. */
typedef struct text_map {
  struct text_map_slot *slots;
  size_t mask, n;
} text_map;

void text_map_deinit(text_map *m);
bool text_map_put(text_map *m, pu_str key, int32_t value); /* the first value of a key stays; false: no memory */
int32_t text_map_get(const text_map *m, pu_str key);       /* -1: not there */

/* Nodes are numbers, 0 is the root; an edge is a slot in one hash table keyed by (node, byte). Slower per byte than a
 * double array, but built in one pass and small: the vocabulary of a Unigram model, user-defined and added tokens. */
typedef struct text_trie {
  struct text_trie_edge *edges;
  size_t mask, n_edges;
  int32_t *value; /* by node; -1: nothing ends here */
  uint32_t n_nodes, cap_nodes;
} text_trie;

typedef struct text_trie_edge {
  uint64_t key; /* (node << 8 | byte) + 1; 0: free */
  uint32_t to;
} text_trie_edge;

void text_trie_deinit(text_trie *t);
bool text_trie_put(text_trie *t, pu_str key, int32_t value); /* false: no memory */
/* Length of the longest stored string that p begins with, its id in *value; 0 where there is none. */
size_t text_trie_longest(const text_trie *t, const uint8_t *p, size_t n, int32_t *value);

static inline uint64_t text_mix(uint64_t x) {
  x *= 0x9E3779B97F4A7C15u;
  return x ^ x >> 32;
}

/* The node after `byte`, or 0. */
static inline uint32_t text_trie_step(const text_trie *t, uint32_t node, uint8_t byte) {
  if (!t->edges) return 0;
  uint64_t key = ((uint64_t)node << 8 | byte) + 1;
  for (size_t i = text_mix(key) & t->mask;; i = (i + 1) & t->mask) {
    if (t->edges[i].key == key) return t->edges[i].to;
    if (t->edges[i].key == 0) return 0;
  }
}

#endif
