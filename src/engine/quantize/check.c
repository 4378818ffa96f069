/* Can this model be quantised so? Asked before anything is read. */
#include <string.h>

#include "src/engine/quantize/quantize.h"

const pu_quantizer *pu_quantizer_find(const char *name) {
  for (const pu_quantizer *const *q = pu_quantizer_all; *q; q++)
    if (strcmp((*q)->is.name, name) == 0) return *q;
  return NULL;
}

const pu_quantize_method *pu_quantize_method_at(size_t i) {
  size_t n = 0;
  while (pu_quantizer_all[n]) n++;
  return i < n ? &pu_quantizer_all[i]->is : NULL;
}

static pu_err unknown_method(const char *name, pu_error *e) {
  char all[200];
  size_t at = 0;
  for (const pu_quantizer *const *q = pu_quantizer_all; *q && at < sizeof all; q++)
    at += (size_t)snprintf(all + at, sizeof all - at, "%s%s", at ? ", " : "", (*q)->is.name);
  return pu_fail(e, PU_ERR_USAGE, "%.40s: no such method; there are %s", name, all);
}

static pu_err check_numbers(const pu_quantizer *m, const pu_quantize_options *o, pu_error *e) {
  if (o->bits != 4 && o->bits != 8) return pu_fail(e, PU_ERR_USAGE, "%d bits: weights get 4 or 8", o->bits);
  if (m->is.bits && o->bits != m->is.bits)
    return pu_fail(e, PU_ERR_USAGE, "the method %s has %d bits, not %d", m->is.name, m->is.bits, o->bits);
  if (!m->is.a_row && o->group != 32 && o->group != 64 && o->group != PU_QUANT_MAX_GROUP)
    return pu_fail(e, PU_ERR_USAGE, "groups of %lld: they have 32, 64 or 128 weights", (long long)o->group);
  if (m->is.needs_texts && o->n_calib == 0)
    return pu_fail(e, PU_ERR_USAGE, "the method %s needs texts to calibrate on", m->is.name);
  return PU_OK;
}

/* Inputs in whole groups; of both sides as many as fill words of 32 bits, for those are what the files hold. */
static pu_err check_shapes(const char *src, const pu_hparams *hp, const pu_quantizer *m, const pu_quantize_options *o,
                           pu_error *e) {
  const struct {
    const char *what;
    int64_t n;
    bool inputs;
  } sizes[] = {{"hidden size", hp->hidden, true},
               {"size of all heads", hp->heads * hp->head_dim, true},
               {"MLP's inner size", hp->ffn, true},
               {"size of all key/value heads", hp->kv_heads * hp->head_dim, false}};
  int64_t word = m->is.a_row ? 1 : 32 / o->bits;
  for (size_t i = 0; i < PU_COUNT(sizes); i++) {
    if (sizes[i].inputs && !m->is.a_row && sizes[i].n % o->group)
      return pu_fail(
          e, PU_ERR_UNSUPPORTED,
          "%s: the %s, %lld, does not divide into groups of %lld: take %sa method that has a scale for each row", src,
          sizes[i].what, (long long)sizes[i].n, (long long)o->group,
          o->group > 32 ? "smaller ones (--group), or " : "");
    if (sizes[i].n % word)
      return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: the %s, %lld, is no multiple of %lld, as files of %d bits need it",
                     src, sizes[i].what, (long long)sizes[i].n, (long long)word, o->bits);
  }
  return PU_OK;
}

/* FP8 is wide enough to be rounded anew, and often all that was published. */
static pu_err check_source(const char *src, pu_error *e) {
  pu_dtype widest;
  if (pu_gguf_is(src))
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: a GGUF file; `puyu convert` makes a directory of it first", src);
  PU_TRY(pu_model_widest(src, true, &widest, e));
  if (widest != PU_DTYPE_COUNT) return PU_OK;
  return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: its weights are quantised already: take the model it was made from", src);
}

pu_err pu_quantize_check(const char *src, const pu_quantize_options *o, pu_error *e) {
  const pu_quantizer *m = pu_quantizer_find(o->method);
  const pu_arch *arch;
  pu_hparams hp;
  if (!m) return unknown_method(o->method, e);
  PU_TRY(check_numbers(m, o, e));
  PU_TRY(check_source(src, e));
  PU_TRY(pu_model_describe(src, &arch, &hp, e));
  PU_TRY(check_shapes(src, &hp, m, o, e));
  return pu_model_check(src, e);
}
