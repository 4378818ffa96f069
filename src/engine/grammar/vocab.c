/* The vocabulary as a trie of its tokens' bytes, so that what tokens begin with alike is looked at once. */
#include <stdlib.h>
#include <string.h>

#include "src/engine/grammar/grammar.h"

static pu_str bytes_of(const pu_grammar_vocab *v, int32_t id) {
  return pu_str_of((const char *)v->bytes + v->at[id], v->at[id + 1] - v->at[id]);
}

static int by_bytes(const void *a, const void *b, void *vocab) {
  int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
  pu_str x = bytes_of(vocab, i), y = bytes_of(vocab, j);
  int c = memcmp(x.ptr, y.ptr, PU_MIN(x.len, y.len));
  if (c) return c;
  if (x.len != y.len) return x.len < y.len ? -1 : 1;
  return (i > j) - (i < j);
}

/* Special tokens have no bytes, nor do those that are too long: no text is made of them. */
static pu_err read_bytes(pu_grammar_vocab *v, const pu_tokenizer *t, pu_buf *b, pu_error *e) {
  for (int32_t id = 0; id < v->size; id++) {
    size_t from = b->len;
    v->at[id] = (uint32_t)from;
    PU_TRY(pu_tokenizer_bytes(t, id, b, e));
    if (b->len - from > G_TOKEN_MAX) b->len = from;
    v->longest = PU_MAX(v->longest, (int32_t)(b->len - from));
  }
  v->at[v->size] = (uint32_t)b->len;
  return PU_OK;
}

static size_t shared(pu_str a, pu_str b) {
  size_t n = 0;
  while (n < a.len && n < b.len && a.ptr[n] == b.ptr[n]) n++;
  return n;
}

/* Ends the nodes of the path below `depth`. */
static void leave(pu_grammar_vocab *v, const int32_t *path, size_t *at, size_t depth) {
  for (; *at > depth; --*at) {
    g_trie_node *x = &v->nodes[path[*at]], *above = &v->nodes[path[*at - 1]];
    x->end = v->n_nodes;
    above->deepest = PU_MAX(above->deepest, x->deepest);
  }
}

/* Tokens come in the order of their bytes, nodes in preorder: every node that is left is ended by the one that comes.
 */
static void make_nodes(pu_grammar_vocab *v, int32_t n) {
  int32_t path[G_TOKEN_MAX + 1] = {0};
  size_t depth = 0;
  v->nodes[0] = (g_trie_node){0};
  v->n_nodes = 1;
  pu_str last = {"", 0};
  for (int32_t i = 0; i < n; i++) {
    pu_str s = bytes_of(v, v->ids[i]);
    size_t common = shared(last, s);
    leave(v, path, &depth, common);
    for (; depth < s.len; v->n_nodes++) {
      uint8_t here = (uint8_t)(depth + 1);
      v->nodes[v->n_nodes] = (g_trie_node){.tokens = i, .byte = (uint8_t)s.ptr[depth], .depth = here, .deepest = here};
      path[++depth] = v->n_nodes;
    }
    last = s;
  }
  leave(v, path, &depth, 0);
  v->nodes[0].end = v->n_nodes;
  v->nodes[v->n_nodes] = (g_trie_node){.tokens = n};
}

static pu_err fill(pu_grammar_vocab *v, const pu_tokenizer *t, pu_buf *b, pu_error *e) {
  v->at = malloc(((size_t)v->size + 1) * sizeof *v->at);
  v->ids = malloc(((size_t)v->size + 1) * sizeof *v->ids);
  if (!v->at || !v->ids) return pu_fail(e, PU_ERR_NOMEM, "no memory for the vocabulary of grammars");
  PU_TRY(read_bytes(v, t, b, e));
  v->bytes = (uint8_t *)b->data;
  b->data = NULL; /* the vocabulary's now */
  int32_t n = 0;
  for (int32_t id = 0; id < v->size; id++)
    if (v->at[id + 1] > v->at[id]) v->ids[n++] = id;
  qsort_r(v->ids, (size_t)n, sizeof *v->ids, by_bytes, v);
  size_t most = 2 + v->at[v->size];
  v->nodes = malloc(most * sizeof *v->nodes);
  if (!v->nodes) return pu_fail(e, PU_ERR_NOMEM, "no memory for the vocabulary of grammars");
  make_nodes(v, n);
  g_trie_node *fit = realloc(v->nodes, ((size_t)v->n_nodes + 1) * sizeof *fit);
  if (fit) v->nodes = fit;
  return PU_OK;
}

pu_err pu_grammar_vocab_create(const pu_tokenizer *t, pu_grammar_vocab **out, pu_error *e) {
  *out = NULL;
  pu_grammar_vocab *v = calloc(1, sizeof *v);
  if (!v) return pu_fail(e, PU_ERR_NOMEM, "no memory for the vocabulary of grammars");
  v->size = pu_tokenizer_size(t);
  pu_buf b;
  pu_buf_init(&b, (size_t)1 << 30);
  pu_err err = fill(v, t, &b, e);
  pu_buf_deinit(&b);
  if (err)
    pu_grammar_vocab_free(v);
  else
    *out = v;
  return err;
}

void pu_grammar_vocab_free(pu_grammar_vocab *v) {
  if (!v) return;
  free(v->nodes);
  free(v->ids);
  free(v->bytes);
  free(v->at);
  free(v);
}
