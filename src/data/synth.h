/* data, inside: the parts of the rule-made text. Each writes one document and draws from r only. */
#ifndef PUYU_SRC_DATA_SYNTH_H
#define PUYU_SRC_DATA_SYNTH_H

#include "puyu/data.h"

enum { PU_ZH, PU_EN, PU_LANGS };

const char *pu_synth_story(pu_rng *r, int lang, pu_buf *out); /* who it is about */
void pu_synth_facts(pu_rng *r, int lang, uint64_t seed, pu_buf *out);
void pu_synth_sums(pu_rng *r, int lang, int within, pu_buf *out);

/* Facts of the tables, by number: stated, and asked and answered ("Q: … A: …"). */
size_t pu_synth_fact_count(void);
void pu_synth_fact(size_t number, int lang, pu_buf *says, pu_buf *asks);

/* The question of the scored phrasing, without the marks of question and answer. */
void pu_synth_ask(char op, int a, int b, int lang, pu_buf *out);
void pu_synth_reply(int value, int lang, pu_buf *out);
/* Uniform over the pairs of the range that training may see. */
void pu_synth_pair(pu_rng *r, char op, int within, int *a, int *b);
/* Up to seven digits each; one number, or the result, has four or more. Held-out ones among them. */
void pu_synth_large_pair(pu_rng *r, char op, int *a, int *b);

/* The scored phrasing of a op b: where `answer` is false, it ends where the answer begins. */
void pu_synth_plain(char op, int a, int b, int lang, bool answer, pu_buf *out);

/* Held-out question: a op b in the range `within`. */
pu_err pu_synth_tell_sum(char op, int a, int b, int within, int lang,
                         pu_err (*question)(void *arg, const pu_synth_question *q, pu_error *e), void *arg,
                         pu_error *e) PU_MUST_USE;

/* A uniform choice of a table's rows. */
#define PU_PICK(r, table) ((table)[pu_rng_below((r), PU_COUNT(table))])

/* A template's text with each {name} replaced; a name without a slot stays as it is. {Name} begins with a capital. */
typedef struct pu_slot {
  const char *name, *value;
} pu_slot;
void pu_synth_fill(const char *template, const pu_slot *slots, size_t n, pu_buf *out);

#endif
