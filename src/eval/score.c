/* From what a model said to scores, and from those to results. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/eval/internal.h"

/* ---- one question ---- */

static int64_t characters(pu_str s) {
  int64_t n = 0;
  for (size_t i = 0; i < s.len; i++) n += ((unsigned char)s.ptr[i] & 0xC0) != 0x80;
  return n;
}

/* What counts as the option's length is the option, not the space that stands before it. */
static double length_of(pu_eval_rule rule, const eval_told *told, pu_str option) {
  while (option.len && isspace((unsigned char)*option.ptr)) option = pu_str_of(option.ptr + 1, option.len - 1);
  int64_t n = 1;
  if (rule == PU_EVAL_CHAR) n = characters(option);
  if (rule == PU_EVAL_BYTE) n = (int64_t)option.len;
  if (rule == PU_EVAL_TOKEN) n = told->tokens;
  if (rule == PU_EVAL_SEQUENCE) n = told->whole_tokens;
  return (double)PU_MAX(n, 1);
}

int64_t eval_pick(pu_eval_rule rule, const eval_told *told, const pu_str *options, size_t n) {
  int64_t best = 0;
  double least = INFINITY;
  for (size_t i = 0; i < n; i++) {
    double nats = rule == PU_EVAL_SEQUENCE ? told[i].whole_nats : told[i].nats;
    nats /= length_of(rule, &told[i], options[i]);
    if (nats >= least) continue;
    least = nats;
    best = (int64_t)i;
  }
  return best;
}

/* ---- many ---- */

typedef struct counts {
  char *name;
  int64_t n, unread, cut, too_long;
  double right[PU_EVAL_RULES + 1]; /* by each rule, and by the samples' own score */
  int64_t told[PU_EVAL_RULES];     /* samples that have the rule */
  /* Perplexity: sums over windows. */
  double nats, tokens, words, bytes, nats2, tokens2, both;
} counts;

struct eval_tally {
  counts *v;
  size_t n, cap, last;
};

eval_tally *eval_tally_new(void) {
  return calloc(1, sizeof(eval_tally));
}

void eval_tally_free(eval_tally *t) {
  for (size_t i = 0; t && i < t->n; i++) free(t->v[i].name);
  if (t) free(t->v);
  free(t);
}

static counts *counts_of(eval_tally *t, const char *subject) {
  if (t->n && strcmp(t->v[t->last].name, subject) == 0) return &t->v[t->last];
  for (t->last = 0; t->last < t->n; t->last++)
    if (strcmp(t->v[t->last].name, subject) == 0) return &t->v[t->last];
  if (t->n == t->cap) {
    size_t cap = t->cap ? 2 * t->cap : 64;
    counts *v = realloc(t->v, cap * sizeof *v);
    if (!v) return NULL;
    t->v = v;
    t->cap = cap;
  }
  t->v[t->n] = (counts){.name = strdup(subject)};
  return t->v[t->n].name ? &t->v[t->n++] : NULL;
}

bool eval_tally_add(eval_tally *t, const char *subject, const eval_sample *s) {
  counts *c = counts_of(t, subject);
  if (!c) return false;
  c->n++;
  c->unread += s->unread;
  c->cut += s->cut;
  c->too_long += s->too_long;
  c->right[PU_EVAL_RULES] += s->score;
  for (int r = 0; r < PU_EVAL_RULES; r++)
    if (s->picks[r] >= 0) {
      c->right[r] += s->picks[r];
      c->told[r]++;
    }
  double tokens = (double)s->tokens;
  c->nats += s->nats;
  c->tokens += tokens;
  c->words += (double)s->words;
  c->bytes += (double)s->bytes;
  c->nats2 += s->nats * s->nats;
  c->tokens2 += tokens * tokens;
  c->both += s->nats * tokens;
  return true;
}

static pu_eval_score share(double right, int64_t n) {
  if (n == 0) return (pu_eval_score){NAN, NAN};
  double p = right / (double)n;
  return (pu_eval_score){p, n > 1 ? sqrt(p * (1 - p) / (double)(n - 1)) : NAN};
}

/* exp(nats / units), whose error comes from how much windows differ (a ratio of sums over windows). */
static pu_eval_score perplexity(const counts *c, double units) {
  if (!(units > 0) || !(c->tokens > 0)) return (pu_eval_score){NAN, NAN};
  double mean = c->nats / c->tokens, n = (double)c->n, value = exp(c->nats / units);
  double squares = c->nats2 - 2 * mean * c->both + mean * mean * c->tokens2;
  double error = n > 1 ? sqrt(PU_MAX(squares, 0) * n / (n - 1)) / c->tokens : NAN;
  return (pu_eval_score){value, value * error * c->tokens / units};
}

static void add(counts *to, const counts *c) {
  to->n += c->n;
  to->unread += c->unread;
  to->cut += c->cut;
  to->too_long += c->too_long;
  for (int r = 0; r <= PU_EVAL_RULES; r++) to->right[r] += c->right[r];
  for (int r = 0; r < PU_EVAL_RULES; r++) to->told[r] += c->told[r];
  to->nats += c->nats;
  to->tokens += c->tokens;
  to->words += c->words;
  to->bytes += c->bytes;
  to->nats2 += c->nats2;
  to->tokens2 += c->tokens2;
  to->both += c->both;
}

static pu_eval_score score_of(const counts *c, pu_eval_kind kind, int rule) {
  if (kind == PU_EVAL_PERPLEXITY) return perplexity(c, c->words);
  return rule < 0 ? share(c->right[PU_EVAL_RULES], c->n) : share(c->right[rule], c->told[rule]);
}

static void fill(const counts *c, pu_eval_kind kind, int rule, pu_eval_result *out) {
  out->micro = out->macro = score_of(c, kind, rule);
  out->n = c->n;
  out->unread = c->unread;
  out->cut = c->cut;
  out->too_long = c->too_long;
  out->kind = kind;
  out->measure = eval_measure(kind, rule);
  if (kind != PU_EVAL_PERPLEXITY) return;
  out->token_perplexity = perplexity(c, c->tokens).value;
  out->byte_perplexity = perplexity(c, c->bytes).value;
  out->bits_per_byte = c->bytes > 0 ? c->nats / c->bytes / log(2) : NAN;
}

void eval_tally_result(const eval_tally *t, pu_eval_kind kind, int rule, pu_eval_result *out) {
  counts all = {0};
  double sum = 0, squares = 0;
  for (size_t i = 0; i < t->n; i++) {
    pu_eval_score s = score_of(&t->v[i], kind, rule);
    add(&all, &t->v[i]);
    sum += s.value;
    squares += s.error * s.error;
  }
  fill(&all, kind, rule, out);
  out->subjects = (int64_t)t->n;
  if (kind == PU_EVAL_PERPLEXITY || t->n == 0) return;
  out->macro = (pu_eval_score){sum / (double)t->n, sqrt(squares) / (double)t->n};
}

const char *eval_tally_subject(const eval_tally *t, size_t i, pu_eval_kind kind, int rule, pu_eval_result *out) {
  if (i >= t->n) return NULL;
  *out = (pu_eval_result){.subjects = 1};
  fill(&t->v[i], kind, rule, out);
  return t->v[i].name;
}

const char *eval_measure(pu_eval_kind kind, int rule) {
  static const char *const choice[PU_EVAL_RULES] = {"acc (sum)", "acc (char)", "acc (byte)", "acc (token)",
                                                    "acc (sequence)"};
  if (kind == PU_EVAL_PERPLEXITY) return "word perplexity";
  return kind == PU_EVAL_GENERATE || rule < 0 ? "right" : choice[rule];
}
