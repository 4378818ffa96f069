/* Hyper-parameters: what they may be, how they compare, what they cost. */
#include "src/model/arch.h"
#include "src/model/slots.h"

#include <math.h>

/* ---- limits ---- */

static bool positive(double v) {
  return v > 0 && isfinite(v);
}

static pu_err check_rope(const pu_rope_params *r, const char *where, pu_error *e) {
  if (!positive(r->base) || r->base <= 1)
    return pu_fail(e, PU_ERR_FORMAT, "%s: the RoPE base must be above 1, and is %g", where, r->base);
  if (!positive(r->factor)) return pu_fail(e, PU_ERR_FORMAT, "%s: the RoPE factor must be above 0", where);
  if (r->kind == PU_ROPE_LLAMA3 && !(positive(r->low_freq) && positive(r->high_freq) && r->high_freq > r->low_freq))
    return pu_fail(e, PU_ERR_FORMAT, "%s: llama3 RoPE needs 0 < low_freq_factor < high_freq_factor", where);
  if (r->kind == PU_ROPE_YARN && !(positive(r->beta_slow) && positive(r->beta_fast) && r->beta_fast > r->beta_slow))
    return pu_fail(e, PU_ERR_FORMAT, "%s: YaRN needs 0 < beta_slow < beta_fast", where);
  if (r->kind == PU_ROPE_YARN && !positive(r->attention_factor))
    return pu_fail(e, PU_ERR_FORMAT, "%s: YaRN's attention_factor must be above 0", where);
  return PU_OK;
}

static double count_roughly(const pu_hparams *hp) {
  double mlp = 3.0 * (double)hp->ffn * (double)hp->hidden * (double)PU_MAX(hp->experts, 1);
  double attention = 2.0 * (double)(hp->heads + hp->kv_heads) * (double)hp->head_dim * (double)hp->hidden;
  return 2.0 * (double)hp->vocab * (double)hp->hidden + (double)hp->layers * (mlp + attention);
}

pu_err pu_hparams_check(const pu_hparams *hp, const char *where, pu_error *e) {
  if (hp->vocab < 1 || hp->hidden < 1 || hp->ffn < 1 || hp->layers < 1 || hp->heads < 1 || hp->kv_heads < 1 ||
      hp->head_dim < 1 || hp->max_position < 1)
    return pu_fail(e, PU_ERR_FORMAT, "%s: a size of the model is below 1", where);
  if (hp->heads % hp->kv_heads)
    return pu_fail(e, PU_ERR_FORMAT, "%s: %lld attention heads cannot share %lld key/value heads evenly", where,
                   (long long)hp->heads, (long long)hp->kv_heads);
  if (hp->head_dim % 2)
    return pu_fail(e, PU_ERR_FORMAT, "%s: RoPE needs an even head_dim, not %lld", where, (long long)hp->head_dim);
  if (hp->experts && (hp->experts_used < 1 || hp->experts_used > hp->experts))
    return pu_fail(e, PU_ERR_FORMAT, "%s: %lld experts of %lld cannot be used", where, (long long)hp->experts_used,
                   (long long)hp->experts);
  if (!positive(hp->norm_eps) || hp->norm_eps > 1)
    return pu_fail(e, PU_ERR_FORMAT, "%s: rms_norm_eps %g is not a small positive number", where, hp->norm_eps);
  if (hp->norm_head && hp->tied)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: norm_head with tied embeddings is not supported", where);
  if (count_roughly(hp) > 0x1p46)
    return pu_fail(e, PU_ERR_FORMAT, "%s: a model of %.3g parameters: are the sizes right?", where, count_roughly(hp));
  return check_rope(&hp->rope, where, e);
}

/* ---- comparing ---- */

const char *pu_hparams_differ(const pu_hparams *a, const pu_hparams *b) {
#define DIFFER(member)                                                                                                 \
  if (a->member != b->member) return #member
  DIFFER(vocab);
  DIFFER(hidden);
  DIFFER(ffn);
  DIFFER(layers);
  DIFFER(heads);
  DIFFER(kv_heads);
  DIFFER(head_dim);
  DIFFER(max_position);
  DIFFER(experts);
  DIFFER(experts_used);
  DIFFER(window);
  DIFFER(norm_eps);
  DIFFER(qkv_bias);
  DIFFER(o_bias);
  DIFFER(mlp_bias);
  DIFFER(qk_norm);
  DIFFER(tied);
  DIFFER(norm_head);
  DIFFER(rope.kind);
  DIFFER(rope.base);
  DIFFER(rope.factor);
  DIFFER(rope.low_freq);
  DIFFER(rope.high_freq);
  DIFFER(rope.beta_fast);
  DIFFER(rope.beta_slow);
  DIFFER(rope.attention_factor);
  DIFFER(rope.exact_range);
  DIFFER(rope.original_max);
  DIFFER(bos);
  DIFFER(n_eos);
  for (int i = 0; i < a->n_eos; i++) DIFFER(eos[i]);
#undef DIFFER
  return NULL;
}

/* ---- counting ---- */

static int64_t slot_count(const pu_hparams *hp, pu_slot slot) {
  int64_t shape[PU_MAX_DIMS], n = 1;
  int ndim = pu_slot_shape(hp, slot, shape);
  for (int i = 0; i < ndim; i++) n *= shape[i];
  return ndim ? n : 0;
}

int64_t pu_hparams_count(const pu_hparams *hp, bool without_embedding) {
  int64_t n = 0;
  for (int s = 0; s < PU_SLOT_COUNT; s++)
    n += slot_count(hp, (pu_slot)s) * (pu_slot_is_outer((pu_slot)s) ? 1 : hp->layers);
  /* A tied embedding is the output matrix too, so it stays. */
  return without_embedding && !hp->tied ? n - slot_count(hp, PU_SLOT_EMBED) : n;
}

double pu_hparams_train_flops(const pu_hparams *hp, int64_t T) {
  double n = (double)pu_hparams_count(hp, true);
  if (hp->experts) {
    int64_t all = slot_count(hp, PU_SLOT_EXPERTS_GATE_UP) + slot_count(hp, PU_SLOT_EXPERTS_DOWN);
    n -= (double)(hp->layers * (all / hp->experts) * (hp->experts - hp->experts_used));
  }
  return 6.0 * n + 6.0 * (double)hp->layers * (double)T * (double)hp->hidden;
}
