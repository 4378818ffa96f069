/* A GGUF file as a model: its metadata become hyper-parameters, its tensors a source of weights. */
#include "src/model/arch.h"
#include "src/model/gguf.h"
#include "src/model/gguf_names.h"
#include "src/model/rope.h"
#include "src/model/source.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct reader {
  const pu_gguf *g;
  const char *where;
  const pu_gguf_arch *arch;
} reader;

/* ---- keys: most begin with the architecture's name ---- */

enum { KEY = 200 };

static const pu_gguf_meta *find(const reader *r, const char *key, char name[KEY]) {
  snprintf(name, KEY, "%s.%s", r->arch->name, key);
  return pu_gguf_meta_find(r->g, name);
}

/* dflt below min: the key must be there. */
static pu_err read_int(const reader *r, const char *key, int64_t min, int64_t max, int64_t dflt, int64_t *out,
                       pu_error *e) {
  char name[KEY];
  const pu_gguf_meta *m = find(r, key, name);
  *out = dflt;
  if (!m && dflt >= min) return PU_OK;
  if (!m) return pu_fail(e, PU_ERR_FORMAT, "%s: key '%s' is missing", r->where, name);
  if (m->array)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: '%s' differs from layer to layer, which is not supported", r->where,
                   name);
  if (!pu_gguf_int(m, 0, out) || *out < min || *out > max)
    return pu_fail(e, PU_ERR_FORMAT, "%s: '%s' is no whole number from %lld to %lld", r->where, name, (long long)min,
                   (long long)max);
  return PU_OK;
}

/* An f32 is what was left of a decimal number: the shortest one that it can have been (1e-05, not 9.9999997e-06). */
static pu_err number_of(const reader *r, const pu_gguf_meta *m, double *out, pu_error *e) {
  char text[40];
  if (m->array || !pu_gguf_num(m, 0, out)) return pu_fail(e, PU_ERR_FORMAT, "%s: '%s' is no number", r->where, m->key);
  if (m->kind == PU_GGUF_F32 && isfinite(*out)) {
    pu_format_float(text, (float)*out);
    *out = strtod(text, NULL);
  }
  return PU_OK;
}

static pu_err read_num(const reader *r, const char *key, double dflt, double *out, pu_error *e) {
  char name[KEY];
  const pu_gguf_meta *m = find(r, key, name);
  *out = dflt;
  return m ? number_of(r, m, out, e) : PU_OK;
}

static bool has_text(const pu_gguf *g, const char *key, pu_str *out) {
  size_t at = 0;
  const pu_gguf_meta *m = pu_gguf_meta_find(g, key);
  return m && !m->array && pu_gguf_str(m, &at, out);
}

/* ---- sizes ---- */

static pu_err read_heads(const reader *r, pu_hparams *hp, pu_error *e) {
  int64_t value, turned;
  PU_TRY(read_int(r, "attention.head_count_kv", 1, hp->heads, hp->heads, &hp->kv_heads, e));
  int64_t even = PU_MAX(hp->hidden / hp->heads, 1);
  PU_TRY(read_int(r, "attention.key_length", 1, 1 << 16, even, &hp->head_dim, e));
  PU_TRY(read_int(r, "attention.value_length", 1, 1 << 16, hp->head_dim, &value, e));
  PU_TRY(read_int(r, "rope.dimension_count", 1, 1 << 16, hp->head_dim, &turned, e));
  if (value != hp->head_dim || turned != hp->head_dim)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: heads of %lld for keys, %lld for values, %lld turned: not supported",
                   r->where, (long long)hp->head_dim, (long long)value, (long long)turned);
  return PU_OK;
}

static pu_err read_sizes(const reader *r, pu_hparams *hp, pu_error *e) {
  const pu_gguf_tensor *embed = pu_gguf_find(r->g, "token_embd.weight");
  if (!embed || embed->ndim != 2)
    return pu_fail(e, PU_ERR_FORMAT, "%s: tensor 'token_embd.weight' is missing, or no matrix", r->where);
  hp->vocab = embed->shape[0];
  if (hp->vocab > 1 << 24) return pu_fail(e, PU_ERR_FORMAT, "%s: the vocabulary is too large", r->where);
  PU_TRY(read_int(r, "embedding_length", 1, 1 << 20, 0, &hp->hidden, e));
  PU_TRY(read_int(r, "feed_forward_length", 1, 1 << 24, 0, &hp->ffn, e));
  PU_TRY(read_int(r, "block_count", 1, 4096, 0, &hp->layers, e));
  PU_TRY(read_int(r, "attention.head_count", 1, 1 << 16, 0, &hp->heads, e));
  PU_TRY(read_int(r, "context_length", 1, (int64_t)1 << 40, 2048, &hp->max_position, e));
  PU_TRY(read_int(r, "expert_count", 0, 4096, 0, &hp->experts, e));
  PU_TRY(read_int(r, "expert_used_count", 0, 4096, 0, &hp->experts_used, e));
  if (!hp->experts) hp->experts_used = 0;
  PU_TRY(read_int(r, "attention.sliding_window", 0, 1 << 30, 0, &hp->window, e));
  PU_TRY(read_num(r, "attention.layer_norm_rms_epsilon", 1e-6, &hp->norm_eps, e));
  return read_heads(r, hp, e);
}

/* What there is, the tensors tell. */
static void read_parts(const pu_gguf *g, pu_hparams *hp) {
  const struct {
    const char *name;
    bool *there;
  } parts[] = {{"blk.0.attn_q.bias", &hp->qkv_bias},
               {"blk.0.attn_output.bias", &hp->o_bias},
               {"blk.0.ffn_down.bias", &hp->mlp_bias},
               {"blk.0.attn_q_norm.weight", &hp->qk_norm}};
  for (size_t i = 0; i < PU_COUNT(parts); i++) *parts[i].there = pu_gguf_find(g, parts[i].name) != NULL;
  hp->tied = !pu_gguf_find(g, "output.weight");
}

/* ---- RoPE ---- */

/* Does llama3 scaling from this many positions on give these divisors? */
static bool divisors_fit(const pu_rope_params *r, int64_t head_dim, const float *divisors) {
  for (int64_t i = 0; i < head_dim / 2; i++) {
    double want = pu_rope_llama3_divisor(r, head_dim, i);
    if (!(fabs((double)divisors[i] - want) <= 1e-5 * want)) return false;
  }
  return true;
}

/* llama3 scaling is kept as the divisors that it comes to. All models in use have the bounds 1 and 4; the factor is the
 * slowest frequency's, and the length is tried. */
static pu_err read_divisors(const reader *r, const pu_gguf_tensor *t, pu_hparams *hp, pu_error *e) {
  float divisors[1 << 12];
  int64_t n = hp->head_dim / 2, keyed;
  PU_TRY(read_int(r, "rope.scaling.original_context_length", 0, (int64_t)1 << 40, 0, &keyed, e));
  if (t->ndim != 1 || t->shape[0] != n || n < 1 || n > (int64_t)PU_COUNT(divisors) || t->type->plain != PU_F32)
    return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%s' is not f32 [%lld]", r->where, t->name, (long long)n);
  pu_gguf_to_f32(t->type, t->data, n, divisors);
  pu_rope_params p = {.kind = PU_ROPE_LLAMA3, .base = hp->rope.base, .low_freq = 1, .high_freq = 4};
  double factor = (double)divisors[n - 1];
  for (int64_t len = 1; len <= 1 << 20; len *= 2) {
    p.factor = factor;
    p.original_max = len == 1 && keyed ? keyed : len == 1 ? 8192 : len;
    if (!(factor >= 1) || !divisors_fit(&p, hp->head_dim, divisors)) continue;
    if (factor > 1) hp->rope = p; /* else nothing is divided */
    return PU_OK;
  }
  return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: '%s' holds RoPE divisors that are not those of llama3 scaling", r->where,
                 t->name);
}

/* Our own keys: llama.cpp has no dynamic scaling, and computes such a model without, which is the same up to the length
 * it was trained for. */
static pu_err read_dynamic(const reader *r, pu_hparams *hp, pu_error *e) {
  const pu_gguf_meta *factor = pu_gguf_meta_find(r->g, PU_GGUF_DYNAMIC_FACTOR);
  if (!factor) return PU_OK;
  hp->rope.kind = PU_ROPE_DYNAMIC;
  hp->rope.original_max = hp->max_position;
  const pu_gguf_meta *max = pu_gguf_meta_find(r->g, PU_GGUF_DYNAMIC_MAX);
  if (max && (!pu_gguf_int(max, 0, &hp->rope.original_max) || hp->rope.original_max < 1))
    return pu_fail(e, PU_ERR_FORMAT, "%s: '" PU_GGUF_DYNAMIC_MAX "' is no length", r->where);
  return number_of(r, factor, &hp->rope.factor, e);
}

/* llama.cpp multiplies attn_factor with the paper's own factor; the last key is ours. */
static pu_err read_yarn(const reader *r, pu_hparams *hp, pu_error *e) {
  pu_rope_params *p = &hp->rope;
  double attention, more;
  p->kind = PU_ROPE_YARN;
  PU_TRY(
      read_int(r, "rope.scaling.original_context_length", 1, (int64_t)1 << 40, hp->max_position, &p->original_max, e));
  PU_TRY(read_num(r, "rope.scaling.yarn_beta_fast", 32, &p->beta_fast, e));
  PU_TRY(read_num(r, "rope.scaling.yarn_beta_slow", 1, &p->beta_slow, e));
  PU_TRY(read_num(r, "rope.scaling.attn_factor", 1, &attention, e));
  PU_TRY(read_num(r, "rope.scaling.yarn_attn_factor", 1, &more, e));
  p->attention_factor = attention * more * pu_rope_yarn_attention(p->factor, 1);
  p->exact_range = pu_gguf_meta_find(r->g, PU_GGUF_YARN_EXACT) != NULL;
  return PU_OK;
}

static pu_err read_rope(const reader *r, pu_hparams *hp, pu_error *e) {
  char name[KEY];
  pu_str type = pu_str_c("none");
  const pu_gguf_tensor *divisors = pu_gguf_find(r->g, PU_GGUF_ROPE_FREQS);
  hp->rope = (pu_rope_params){.factor = 1};
  PU_TRY(read_num(r, "rope.freq_base", 10000, &hp->rope.base, e));
  PU_TRY(read_num(r, "rope.scale_linear", 1, &hp->rope.factor, e)); /* an older name */
  PU_TRY(read_num(r, "rope.scaling.factor", hp->rope.factor, &hp->rope.factor, e));
  if (find(r, "rope.scaling.type", name)) (void)has_text(r->g, name, &type);
  bool linear = pu_str_eq(type, pu_str_c("linear")), none = pu_str_eq(type, pu_str_c("none"));
  if (pu_str_eq(type, pu_str_c("yarn"))) return read_yarn(r, hp, e);
  if (!linear && !none)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: '%s' is '%.*s'; linear and yarn are supported, and llama3 by its tensor",
                   r->where, name, (int)PU_MIN(type.len, 40), type.ptr);
  hp->rope.kind = hp->rope.factor != 1 ? PU_ROPE_LINEAR : PU_ROPE_NONE; /* llama.cpp takes a bare factor for linear */
  if (divisors) return read_divisors(r, divisors, hp, e);
  return read_dynamic(r, hp, e);
}

/* ---- special ids ---- */

/* Several tokens may end an answer: of a text, of a turn, of a message. */
static pu_err read_special(const reader *r, pu_hparams *hp, pu_error *e) {
  static const char *const keys[] = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                     "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
  hp->bos = -1;
  for (size_t i = 0; i < PU_COUNT(keys); i++) {
    const pu_gguf_meta *m = pu_gguf_meta_find(r->g, keys[i]);
    int64_t id;
    if (!m) continue;
    if (!pu_gguf_int(m, 0, &id) || id < 0 || id >= hp->vocab)
      return pu_fail(e, PU_ERR_FORMAT, "%s: '%s' is outside the vocabulary of %lld", r->where, keys[i],
                     (long long)hp->vocab);
    bool known = false;
    for (int k = 0; k < hp->n_eos; k++) known |= hp->eos[k] == id;
    if (i == 0)
      hp->bos = (int32_t)id;
    else if (!known)
      hp->eos[hp->n_eos++] = (int32_t)id;
  }
  return PU_OK;
}

/* ---- the family ---- */

/* The one the file names, where puyu wrote it; else the first that has a place for all that the model has. */
static pu_err choose_family(const reader *r, const pu_hparams *hp, const pu_arch **out, pu_error *e) {
  pu_str named = {0};
  (void)has_text(r->g, PU_GGUF_FAMILY, &named);
  pu_err err = PU_OK;
  for (int pass = 0; pass < 2; pass++)
    for (const char *const *f = r->arch->families; *f; f++) {
      *out = pu_arch_find(*f);
      if (pass == 0 && !pu_str_eq(named, pu_str_c(*f))) continue;
      err = pu_config_check(r->where, *out, hp, e);
      if (err == PU_OK) return PU_OK;
    }
  return err;
}

static pu_err describe(const pu_gguf *g, const char *where, const pu_gguf_arch **kind, const pu_arch **arch,
                       pu_hparams *hp, pu_error *e) {
  pu_str name;
  int64_t parts;
  *hp = (pu_hparams){0};
  if (!has_text(g, "general.architecture", &name))
    return pu_fail(e, PU_ERR_FORMAT, "%s: key 'general.architecture' is missing: not a model", where);
  reader r = {g, where, *kind = pu_gguf_arch_named(name)};
  if (!r.arch)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: architecture '%.*s' is not one that puyu reads from GGUF", where,
                   (int)PU_MIN(name.len, 40), name.ptr);
  if (pu_gguf_int(pu_gguf_meta_find(g, "split.count"), 0, &parts) && parts > 1)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: one of %lld parts; join them with llama-gguf-split --merge", where,
                   (long long)parts);
  PU_TRY(read_sizes(&r, hp, e));
  read_parts(g, hp);
  PU_TRY(read_rope(&r, hp, e));
  PU_TRY(read_special(&r, hp, e));
  PU_TRY(pu_hparams_check(hp, where, e));
  return choose_family(&r, hp, arch, e);
}

pu_err pu_gguf_describe(const pu_gguf *g, const char *where, const pu_arch **arch, pu_hparams *hp, pu_error *e) {
  const pu_gguf_arch *kind;
  return describe(g, where, &kind, arch, hp, e);
}

pu_err pu_describe_gguf(const char *path, const pu_arch **arch, pu_hparams *hp, pu_error *e) {
  pu_gguf *g;
  PU_TRY(pu_gguf_open(path, &g, e));
  pu_err err = pu_gguf_describe(g, path, arch, hp, e);
  pu_gguf_close(g);
  return err;
}

/* ---- the source ---- */

static void values(const pu_source_tensor *t, int64_t at, int64_t n, void *out) {
  const pu_gguf_type *type = t->coding;
  pu_gguf_to_f32(type, (const char *)t->data + (size_t)(at / type->block) * type->bytes, n, out);
}

static void codes(const pu_source_tensor *t, int64_t row, int64_t n, uint8_t *q, float *scale, float *zero) {
  const pu_gguf_type *type = t->coding;
  int64_t blocks = t->shape[t->ndim - 1] / type->block;
  const uint8_t *from = (const uint8_t *)t->data + (size_t)(row * blocks) * type->bytes;
  for (int64_t i = 0; i < n * blocks; i++, from += type->bytes)
    type->codes(from, q + i * type->block, scale + i, zero ? zero + i : NULL);
}

static void close_file(pu_source *s) {
  pu_gguf_close(s->own);
}

/* Frequencies are hyper-parameters here; older files hold a copy of them for each layer. */
static const char *const ignored[] = {PU_GGUF_ROPE_FREQS, ".attn_rot_embd", NULL};

pu_err pu_source_open_gguf(const char *path, pu_source *s, pu_error *e) {
  pu_gguf *g;
  const pu_gguf_arch *kind;
  PU_TRY(pu_gguf_open(path, &g, e));
  s->own = g;
  s->close = close_file;
  s->values = values;
  s->codes = codes;
  s->ignored = ignored;
  s->config = "the file's metadata";
  s->types = "f32, bf16, f16, q4_0, q4_1, q5_0, q5_1, q8_0, q4_K, q5_K and q6_K";
  PU_TRY(describe(g, path, &kind, &s->arch, &s->hp, e));
  s->rules = kind->rules;
  s->also_read = kind->also_read;
  s->tensors = calloc(pu_gguf_count(g) + 1, sizeof *s->tensors);
  if (!s->tensors) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the list of its tensors", path);
  for (; s->n < pu_gguf_count(g); s->n++) {
    const pu_gguf_tensor *t = pu_gguf_at(g, s->n);
    pu_source_tensor *out = &s->tensors[s->n];
    *out = (pu_source_tensor){.name = t->name,
                              .type = t->type->name,
                              .dtype = !pu_gguf_readable(t->type) ? PU_DTYPE_COUNT
                                       : t->type->to_f32          ? PU_F32
                                                                  : t->type->plain,
                              .ndim = t->ndim,
                              .block = t->type->block,
                              .data = t->data,
                              .coding = t->type->to_f32 ? t->type : NULL};
    if (t->ndim > 1 && t->shape[t->ndim - 1] % t->type->block == 0) out->few = t->type->few;
    memcpy(out->shape, t->shape, sizeof out->shape);
  }
  return PU_OK;
}
