/* data, inside: the parts of the rule-made text. Each writes one document and draws from r only. */
#ifndef PUYU_SRC_DATA_SYNTH_H
#define PUYU_SRC_DATA_SYNTH_H

#include "puyu/data.h"

enum { PU_ZH, PU_EN, PU_LANGS };

void pu_synth_story(pu_rng *r, int lang, pu_buf *out);
void pu_synth_facts(pu_rng *r, int lang, uint64_t seed, pu_buf *out);
void pu_synth_sums(pu_rng *r, int lang, int within, pu_buf *out);

/* The scored phrasing of a op b: where `answer` is false, it ends where the answer begins. */
void pu_synth_plain(char op, int a, int b, int lang, bool answer, pu_buf *out);

/* A uniform choice of a table's rows. */
#define PU_PICK(r, table) ((table)[pu_rng_below((r), PU_COUNT(table))])

/* A template's text with each {name} replaced; a name without a slot stays as it is. {Name} begins with a capital. */
typedef struct pu_slot {
  const char *name, *value;
} pu_slot;
void pu_synth_fill(const char *template, const pu_slot *slots, size_t n, pu_buf *out);

#endif
