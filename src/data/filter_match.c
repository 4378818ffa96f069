/* Many phrases at once (Aho and Corasick 1975, "Efficient string matching: an aid to bibliographic search"), with a
 * table of [states, classes]: bytes that no pattern holds are one class, so a table of Chinese words stays small. */
#include <stdlib.h>
#include <string.h>

#include "src/data/filter_kit.h"

#define TABLE_MAX ((size_t)512 << 20)

enum { HIT = 1u << 31 }; /* of a state in `next`: one or more patterns end there */
#define STATE 0x7FFFFFFFu

struct pu_match {
  uint8_t begins[8192]; /* a bit for two bytes with which a pattern may begin, both | 0x20: where none does, no state is
                           asked */
  uint8_t classes[256];
  size_t n_classes;
  uint32_t *next;    /* [states, n_classes] */
  uint32_t *pattern; /* [states]: 1 + the pattern that ends there; 0: none */
  uint32_t *suffix;  /* [states]: the longest proper suffix's state at which a pattern ends; 0: none */
  uint32_t *lengths; /* [patterns] */
  size_t n_states;
};

static unsigned pair_of(uint8_t a, uint8_t b) {
  return (a | 0x20u) << 8 | b | 0x20u;
}

static uint8_t folded(char c) {
  return c >= 'A' && c <= 'Z' ? (uint8_t)(c + 32) : (uint8_t)c;
}

void pu_match_free(pu_match *m) {
  if (!m) return;
  free(m->next);
  free(m->pattern);
  free(m->suffix);
  free(m->lengths);
  free(m);
}

static void make_classes(pu_match *m, const pu_str *patterns, size_t n) {
  m->n_classes = 1; /* 0: bytes of no pattern */
  for (size_t i = 0; i < n; i++)
    for (size_t k = 0; k < patterns[i].len; k++) {
      uint8_t *class = &m->classes[folded(patterns[i].ptr[k])];
      if (*class == 0 && m->n_classes < 256) *class = (uint8_t)m->n_classes++;
    }
  for (int c = 'A'; c <= 'Z'; c++) m->classes[c] = m->classes[c + 32];
}

static void add_pattern(pu_match *m, pu_str p, size_t index) {
  uint32_t at = 0;
  for (size_t k = 0; k < p.len; k++) {
    uint32_t *to = &m->next[at * m->n_classes + m->classes[folded(p.ptr[k])]];
    if (*to == 0) *to = (uint32_t)m->n_states++;
    at = *to;
  }
  if (at != 0 && m->pattern[at] == 0) m->pattern[at] = (uint32_t)index + 1;
}

static void mark_begin(pu_match *m, pu_str p) {
  for (int b = 0; b < 256 && p.len > 0; b++) {
    unsigned pair = pair_of((uint8_t)p.ptr[0], p.len > 1 ? (uint8_t)p.ptr[1] : (uint8_t)b);
    m->begins[pair >> 3] |= (uint8_t)(1 << (pair & 7));
    if (p.len > 1) break;
  }
}

/* Breadth first: what a state lacks it takes from its longest proper suffix, whose row is whole by then. */
static bool link_states(pu_match *m) {
  uint32_t *queue = malloc(2 * m->n_states * sizeof *queue);
  if (!queue) return false;
  uint32_t *fail = queue + m->n_states;
  size_t head = 0, tail = 0, w = m->n_classes;
  queue[tail++] = 0;
  fail[0] = 0;
  while (head < tail) {
    uint32_t at = queue[head++];
    m->suffix[at] = at == 0 ? 0 : m->pattern[fail[at]] ? fail[at] : m->suffix[fail[at]];
    for (size_t c = 0; c < w; c++) {
      uint32_t *to = &m->next[at * w + c], back = at == 0 ? 0 : m->next[fail[at] * w + c];
      if (*to == 0) {
        *to = back;
        continue;
      }
      fail[*to] = back;
      queue[tail++] = *to;
    }
  }
  free(queue);
  for (size_t i = 0; i < m->n_states * w; i++)
    if (m->pattern[m->next[i]] || m->suffix[m->next[i]]) m->next[i] |= HIT;
  return true;
}

pu_err pu_match_make(const pu_str *patterns, size_t n, pu_match **out, pu_error *e) {
  size_t states = 1, bytes;
  *out = NULL;
  for (size_t i = 0; i < n; i++) states += patterns[i].len;
  pu_match *m = calloc(1, sizeof *m);
  if (!m) return pu_fail(e, PU_ERR_NOMEM, "no memory for a list of words");
  make_classes(m, patterns, n);
  if (n >= HIT || pu_mul_overflows(states, (m->n_classes + 2) * sizeof(uint32_t), &bytes) || bytes > TABLE_MAX) {
    pu_match_free(m);
    return pu_fail(e, PU_ERR_UNSUPPORTED, "a list of words of %zu bytes needs a table of more than %zu MiB: shorten it",
                   states - 1, TABLE_MAX >> 20);
  }
  m->next = calloc(states * m->n_classes, sizeof *m->next);
  m->pattern = calloc(states, sizeof *m->pattern);
  m->suffix = calloc(states, sizeof *m->suffix);
  m->lengths = calloc(n + 1, sizeof *m->lengths);
  bool good = m->next && m->pattern && m->suffix && m->lengths;
  m->n_states = 1;
  for (size_t i = 0; i < n && good; i++) {
    m->lengths[i] = (uint32_t)patterns[i].len;
    add_pattern(m, patterns[i], i);
    mark_begin(m, patterns[i]);
  }
  if (!good || !link_states(m)) {
    pu_match_free(m);
    return pu_fail(e, PU_ERR_NOMEM, "no memory for a list of words");
  }
  *out = m;
  return PU_OK;
}

static bool begins_at(const pu_match *m, const uint8_t *p) {
  unsigned pair = pair_of(p[0], p[1]);
  return m->begins[pair >> 3] >> (pair & 7) & 1;
}

static bool found(const pu_match *m, uint32_t state, pu_match_at *at) {
  at->pattern = m->pattern[state] - 1;
  at->end = at->i;
  at->begin = at->i - m->lengths[at->pattern];
  at->pending = m->suffix[state];
  return true;
}

bool pu_match_next(const pu_match *m, pu_str text, pu_match_at *at) {
  if (at->pending) return found(m, at->pending, at);
  const uint8_t *s = (const uint8_t *)text.ptr;
  uint32_t state = at->state;
  size_t w = m->n_classes;
  for (size_t i = at->i; i < text.len;) {
    if (state == 0) {
      while (i + 1 < text.len && !begins_at(m, s + i)) i++;
    }
    uint32_t to = m->next[state * w + m->classes[s[i++]]];
    state = to & STATE;
    if (!(to & HIT)) continue;
    at->i = i;
    at->state = state;
    return found(m, m->pattern[state] ? state : m->suffix[state], at);
  }
  at->i = text.len;
  at->state = state;
  return false;
}
