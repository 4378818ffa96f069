/* The automaton of a grammar while it is made: nondeterministic, with empty edges, one part for each rule. */
#ifndef PUYU_ENGINE_GRAMMAR_NFA_H
#define PUYU_ENGINE_GRAMMAR_NFA_H

#include "src/engine/grammar/grammar.h"

enum { NFA_EMPTY = -1, NFA_BYTES = -2 };

typedef struct nfa_edge {
  int32_t to, next; /* next: of the same state; -1: none */
  int32_t rule;     /* a call of it, or NFA_EMPTY, NFA_BYTES */
  uint8_t lo, hi;
} nfa_edge;

/* A set of states with its members in the order they came. */
typedef struct nfa_set {
  int32_t *v;
  int32_t n;
  uint32_t *mark, stamp; /* [states]: mark == stamp: a member */
} nfa_set;

typedef struct nfa {
  int32_t *first; /* [states]: the first edge; -1: none */
  struct nfa_like {
    int32_t state, bytes; /* what state behaves the same for so many bytes; -1: none is known. See build_repeat */
  } * like;               /* [states] */
  int32_t n_states, cap_states;
  nfa_edge *edges;
  int32_t n_edges, cap_edges;
  int32_t *starts, *ends; /* [rules] */
  bool *nullable;         /* [rules]: did it match the empty string? It no longer does: its calls may be skipped */
  int32_t n_rules;
  int32_t chain;          /* rules that can begin inside each other, at most */
  bool failed, no_memory; /* too many states; no memory */
} nfa;

/* After it no rule matches the empty string, and none begins with itself. */
pu_err nfa_build(nfa *a, const g_rules *g, pu_error *e) PU_MUST_USE;
void nfa_free(nfa *a);

bool nfa_set_init(nfa_set *s, const nfa *a);
void nfa_set_deinit(nfa_set *s);
void nfa_set_clear(nfa_set *s);
void nfa_set_add(nfa_set *s, int32_t state);
/* Adds what the members reach without a byte, round nullable calls too. */
void nfa_close(const nfa *a, nfa_set *s);

#endif
