/* Inside structured output. The way of a grammar:
 *
 *   source text --(regex.c, gbnf.c, schema.c)--> rules of expressions --(automaton.c)--> one byte automaton a rule
 *   --(matcher.c)--> configurations of a pushdown machine --(mask.c)--> the tokens that may come next.
 *
 * An automaton's node has edges for bytes and calls of other rules. A configuration is a node and the frames to return
 * to; nondeterminism is a set of them. Frames are shared and never change, so copying a set is cheap. */
#ifndef PUYU_ENGINE_GRAMMAR_H
#define PUYU_ENGINE_GRAMMAR_H

#include <pthread.h>

#include "puyu/engine.h"

enum { /* what a grammar may be at most */
       G_SOURCE_MAX = 1 << 20,
       G_NESTING_MAX = 200,    /* of groups in a source, and of subschemas */
       G_REPEAT_MAX = 1 << 16, /* a count in {m,n}, maxLength and their like */
       G_RULES_MAX = 1 << 14,
       G_STATES_MAX = 1 << 20, /* before determinisation */
       G_NODES_MAX = 1 << 18,  /* after it */
       G_DEPTH_MAX = 1024,     /* frames of a configuration: how deep an answer may nest */
       G_CONFIGS_MAX = 1 << 9, /* configurations that are looked at for one byte */
       G_TOKEN_MAX = 255,      /* bytes of a token; longer ones are never allowed */
       G_CHAR_MAX = 0x10FFFF
};

/* ---- expr.c: expressions, made by the compilers of sources ---------------------------------------------------------
 */

typedef enum g_kind { G_TEXT, G_CHARS, G_SEQ, G_ALT, G_REPEAT, G_RULE } g_kind;

typedef struct g_range {
  uint32_t lo, hi; /* code points, both included */
} g_range;

/* G_SEQ of nothing is the empty string, G_ALT of nothing is no string at all. An expression may be part of several. */
typedef struct g_expr {
  g_kind kind;
  int32_t min, max;      /* G_REPEAT; max -1: no end */
  int32_t rule;          /* G_RULE */
  size_t n;              /* ranges, or parts */
  pu_str text;           /* G_TEXT: UTF-8 */
  const g_range *ranges; /* G_CHARS: sorted, apart from each other */
  struct g_expr **parts;
} g_expr;

/* Rules being made; rule 0 is the root. Expressions live in the arena. A builder that finds no memory (or too many
 * rules) sets `failed` and returns NULL, which every builder accepts: look once, at the end. */
typedef struct g_rules {
  pu_arena *a;
  g_expr **v; /* NULL: not defined yet */
  int32_t n;
  bool failed;
} g_rules;

pu_err g_rules_init(g_rules *g, pu_error *e) PU_MUST_USE;
void g_rules_deinit(g_rules *g);
int32_t g_rule_new(g_rules *g);
g_expr *g_text(g_rules *g, pu_str text);
/* Any order, overlaps allowed; surrogates are left out. */
g_expr *g_chars(g_rules *g, const g_range *ranges, size_t n, bool negated);
g_expr *g_join(g_rules *g, g_kind kind, g_expr *const *parts, size_t n);
g_expr *g_repeat(g_rules *g, g_expr *x, int32_t min, int32_t max);
g_expr *g_call(g_rules *g, int32_t rule);
/* What stands in a JSON string for the text that x matches: quotes, backslashes and control characters escaped. */
g_expr *g_json_escaped(g_rules *g, const g_expr *x);
#define G_PARTS(...)     (g_expr *[]){__VA_ARGS__}, sizeof((g_expr *[]){__VA_ARGS__}) / sizeof(g_expr *)
#define g_seq(g, ...)    g_join(g, G_SEQ, G_PARTS(__VA_ARGS__))
#define g_alt(g, ...)    g_join(g, G_ALT, G_PARTS(__VA_ARGS__))
#define g_one_of(g, ...) g_chars(g, (g_range[]){__VA_ARGS__}, sizeof((g_range[]){__VA_ARGS__}) / sizeof(g_range), false)
#define g_optional(g, x) g_repeat(g, x, 0, 1)
static inline g_expr *g_textc(g_rules *g, const char *s) {
  return g_text(g, pu_str_c(s));
}

/* A list that grows, for parts and ranges. */
typedef struct g_list {
  g_expr **v;
  size_t n, cap;
} g_list;
void g_list_add(g_rules *g, g_list *l, g_expr *x);
typedef struct g_ranges {
  g_range *v;
  size_t n, cap;
} g_ranges;
void g_ranges_add(g_rules *g, g_ranges *r, uint32_t lo, uint32_t hi);

/* ---- regex.c, gbnf.c, schema.c: from sources to expressions --------------------------------------------------------
 */

/* search: as JSON Schema's "pattern", which may match anywhere unless it says ^ and $; else the whole text. */
pu_err g_regex(g_rules *g, pu_str source, bool search, g_expr **out, pu_error *e) PU_MUST_USE;
pu_err g_gbnf(g_rules *g, pu_str source, pu_error *e) PU_MUST_USE;
pu_err g_schema(g_rules *g, pu_str source, pu_error *e) PU_MUST_USE;
pu_err g_any_object(g_rules *g, pu_error *e) PU_MUST_USE;
/* scalars.c: integers from min to max (NULL: no bound); numbers likewise; text of a known format, NULL when unknown. */
g_expr *g_integers(g_rules *g, const int64_t *min, const int64_t *max);
g_expr *g_numbers(g_rules *g, const int64_t *min, const int64_t *max, bool above_min, bool below_max);
pu_err g_format(g_rules *g, const char *name, g_expr **out, pu_error *e) PU_MUST_USE;

/* ---- automaton.c ----------------------------------------------------------------------------------------------------
 */

typedef struct g_edge {
  uint8_t lo, hi;
  int32_t to;
} g_edge;
typedef struct g_invoke {
  int32_t rule, to;
} g_invoke;

typedef struct g_node {
  int32_t edges, n_edges; /* of the automaton's edges */
  int32_t calls, n_calls;
  int32_t need;             /* frames it takes at least to come to the rule's end from here */
  int32_t like, like_bytes; /* a node that behaves the same for so many bytes; -1: none is known */
  bool accepts;             /* the rule may end here */
} g_node;

/* No rule matches the empty string (calls of those that did have a way round), none calls itself before a byte was
 * read, and from every node the rule's end can be reached. */
typedef struct g_automaton {
  g_node *nodes;
  int32_t n_nodes;
  g_edge *edges;
  g_invoke *calls;
  int32_t *starts; /* of the rules */
  int32_t n_rules;
  bool empty_too;        /* the empty string matches the root */
  int32_t chain;         /* calls that can follow each other without a byte between them, at most */
  int32_t need;          /* the largest of the nodes */
  uint8_t class_of[256]; /* bytes that no edge tells apart have one class */
  int32_t n_classes;
} g_automaton;

pu_err g_automaton_build(g_automaton *m, const g_rules *g, pu_error *e) PU_MUST_USE;
void g_automaton_free(g_automaton *m);

/* The rule can end here and cannot go on: a call that returns here needs no frame. */
static inline bool g_is_last(const g_node *n) {
  return n->accepts && !n->n_edges && !n->n_calls;
}

/* ---- matcher.c
 * ------------------------------------------------------------------------------------------------------- */

typedef struct g_frame {
  int32_t node, parent, depth; /* where to go on, and the frame below; parent -1: the bottom */
} g_frame;
/* Equal frames have equal numbers. */
typedef struct g_frames {
  g_frame *v;
  int32_t n, cap;
  int32_t *slots; /* hash table of 2 * cap, -1 is free */
} g_frames;
typedef struct g_config {
  int32_t node, frame;
} g_config;
typedef struct g_configs {
  g_config *v;
  int32_t n, cap;
  bool ends; /* the bottom can be reached without a byte more */
} g_configs;

/* Work space of one thread. */
typedef struct g_work {
  g_config *todo;
  int32_t n_todo;
  struct g_seen *seen; /* hash set of the configurations met for this byte */
  uint32_t stamp;
  int32_t n_seen;
  bool no_memory;
  bool too_many; /* more than G_CONFIGS_MAX for one byte */
} g_work;
bool g_work_init(g_work *w);
void g_work_deinit(g_work *w);
void g_frames_free(g_frames *f);
void g_configs_free(g_configs *c);
bool g_configs_copy(g_configs *to, const g_configs *from);
bool g_frames_copy(g_frames *to, const g_frames *from);
/* Where a rule's node leads without a byte. limit: frames at most. */
void g_enter(const g_automaton *m, g_frames *f, g_config at, int32_t limit, g_work *w, g_configs *out);
/* Where one byte leads. False: nowhere (or no memory, or too many places, which w says). */
bool g_advance(const g_automaton *m, g_frames *f, const g_configs *from, uint8_t byte, int32_t limit, g_work *w,
               g_configs *out);
/* Drops the frames that no configuration stands on. */
void g_frames_compact(g_frames *f, g_configs *c);

/* ---- vocab.c: the vocabulary as a trie of bytes
 * ---------------------------------------------------------------------- */

typedef struct g_trie_node {
  int32_t end;                  /* the first node after this one's subtree: nodes are in preorder */
  int32_t tokens;               /* where its tokens begin in `ids`; they end where the next node's begin */
  uint8_t byte, depth, deepest; /* deepest: of the tokens in the subtree */
} g_trie_node;

struct pu_grammar_vocab {
  int32_t size;       /* ids are [0, size) */
  g_trie_node *nodes; /* [n_nodes + 1]; node 0 is the root */
  int32_t n_nodes;
  int32_t *ids;
  uint8_t *bytes; /* of all tokens */
  uint32_t *at;   /* [size + 1]: where a token's bytes begin */
  int32_t longest;
};

/* ---- mask.c
 * ---------------------------------------------------------------------------------------------------------- */

typedef struct g_cache g_cache;
pu_err g_cache_create(const g_automaton *m, const pu_grammar_vocab *v, g_cache **out, pu_error *e) PU_MUST_USE;
void g_cache_free(g_cache *c);

struct pu_grammar {
  g_automaton m;
  const pu_grammar_vocab *vocab;
  g_cache *cache; /* with its own lock: the only part that changes */
};

struct pu_grammar_state {
  const pu_grammar *g;
  g_frames frames;
  g_configs now, next;
  g_work work;
};

/* Sets the bits of the tokens that may come next; bits [ceil(size / 64)] are cleared first. */
pu_err g_cache_mask(g_cache *c, pu_grammar_state *s, uint64_t *bits, pu_error *e) PU_MUST_USE;

#endif
