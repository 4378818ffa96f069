/* From memory into a GGUF file: the rules of llama.cpp's names, walked the other way. */
#include "src/model/gguf.h"
#include "src/model/gguf_names.h"
#include "src/model/rope.h"
#include "src/model/weights.h"

#include <stdlib.h>
#include <string.h>

/* ---- keys ---- */

typedef struct keys {
  pu_gguf_keys all;
  const char *arch;
} keys;

static const char *full(const keys *k, const char *key, char name[200]) {
  snprintf(name, 200, "%s.%s", k->arch, key);
  return name;
}

static void put_u32(keys *k, const char *key, int64_t v) {
  char name[200];
  pu_gguf_put_u32(&k->all, full(k, key, name), (uint32_t)PU_MIN(v, (int64_t)UINT32_MAX));
}

static void put_f32(keys *k, const char *key, double v) {
  char name[200];
  pu_gguf_put_f32(&k->all, full(k, key, name), (float)v);
}

static void put_yarn(keys *k, const pu_rope_params *r) {
  char name[200];
  pu_gguf_put_str(&k->all, full(k, "rope.scaling.type", name), pu_str_c("yarn"));
  put_f32(k, "rope.scaling.factor", r->factor);
  put_u32(k, "rope.scaling.original_context_length", r->original_max);
  put_f32(k, "rope.scaling.yarn_beta_fast", r->beta_fast);
  put_f32(k, "rope.scaling.yarn_beta_slow", r->beta_slow);
  put_f32(k, "rope.scaling.attn_factor", r->attention_factor / pu_rope_yarn_attention(r->factor, 1));
  if (r->exact_range) pu_gguf_put_u32(&k->all, PU_GGUF_YARN_EXACT, 1);
}

static void put_rope(keys *k, const pu_hparams *hp) {
  char name[200];
  const pu_rope_params *r = &hp->rope;
  put_u32(k, "rope.dimension_count", hp->head_dim);
  put_f32(k, "rope.freq_base", r->base);
  if (r->kind == PU_ROPE_LINEAR) {
    pu_gguf_put_str(&k->all, full(k, "rope.scaling.type", name), pu_str_c("linear"));
    put_f32(k, "rope.scaling.factor", r->factor);
  }
  if (r->kind == PU_ROPE_YARN) put_yarn(k, r);
  if (r->kind == PU_ROPE_LLAMA3) put_u32(k, "rope.scaling.original_context_length", r->original_max);
  if (r->kind == PU_ROPE_DYNAMIC) {
    pu_gguf_put_f32(&k->all, PU_GGUF_DYNAMIC_FACTOR, (float)r->factor);
    pu_gguf_put_u32(&k->all, PU_GGUF_DYNAMIC_MAX, (uint32_t)r->original_max);
  }
}

static void put_special(keys *k, const pu_hparams *hp) {
  static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                     "tokenizer.ggml.eom_token_id"};
  if (hp->bos >= 0) pu_gguf_put_u32(&k->all, "tokenizer.ggml.bos_token_id", (uint32_t)hp->bos);
  for (int i = 0; i < PU_MIN(hp->n_eos, (int)PU_COUNT(ends)); i++)
    pu_gguf_put_u32(&k->all, ends[i], (uint32_t)hp->eos[i]);
  if (hp->n_eos > (int)PU_COUNT(ends))
    pu_log(PU_LOG_WARN, "GGUF has keys for %zu tokens that end an answer; the model's other %d are left out",
           PU_COUNT(ends), hp->n_eos - (int)PU_COUNT(ends));
}

static void put_model(keys *k, const pu_model *m, const pu_gguf_type *type) {
  const pu_hparams *hp = &m->hp;
  pu_gguf_put_str(&k->all, "general.architecture", pu_str_c(k->arch));
  pu_gguf_put_str(&k->all, "general.type", pu_str_c("model"));
  pu_gguf_put_u32(&k->all, "general.file_type", type->file_type);
  if (type->block > 1) pu_gguf_put_u32(&k->all, "general.quantization_version", 2);
  pu_gguf_put_str(&k->all, PU_GGUF_FAMILY, pu_str_c(m->arch->name));
  put_u32(k, "vocab_size", hp->vocab);
  put_u32(k, "context_length", hp->max_position);
  put_u32(k, "embedding_length", hp->hidden);
  put_u32(k, "block_count", hp->layers);
  put_u32(k, "feed_forward_length", hp->ffn);
  put_u32(k, "attention.head_count", hp->heads);
  put_u32(k, "attention.head_count_kv", hp->kv_heads);
  put_u32(k, "attention.key_length", hp->head_dim);
  put_u32(k, "attention.value_length", hp->head_dim);
  put_f32(k, "attention.layer_norm_rms_epsilon", hp->norm_eps);
  if (hp->window) put_u32(k, "attention.sliding_window", hp->window);
  if (hp->experts) put_u32(k, "expert_count", hp->experts);
  if (hp->experts) put_u32(k, "expert_used_count", hp->experts_used);
  put_rope(k, hp);
  put_special(k, hp);
}

/* ---- tensors ---- */

typedef struct saver {
  const pu_model *m;
  const char *path;
  const pu_gguf_type *type;
  pu_arena *a;
  pu_gguf_out *tensors;
  size_t n;
  pu_progress *bar;
  double done, total; /* values */
} saver;

typedef struct outgoing {
  saver *s;
  const pu_outgoing *o;
} outgoing;

static pu_err read_outgoing(const void *arg, int64_t at, int64_t n, float *out, pu_error *e) {
  const outgoing *t = arg;
  t->s->done += (double)n;
  pu_progress_set(t->s->bar, 100 * t->s->done / t->s->total, NULL);
  return pu_outgoing_read(t->o, at, n, PU_F32, out, e);
}

/* Rounding the output matrix is felt most in the answers, so four bits are too few there; llama.cpp reads vectors and
 * routers as f32 only. */
static const pu_gguf_type *type_for(const saver *s, const pu_outgoing *o) {
  bool makes_logits = o->slot == PU_SLOT_OUTPUT || (o->slot == PU_SLOT_EMBED && s->m->hp.tied);
  const pu_gguf_type *type = s->type;
  if (o->map.ndim == 1 || o->slot == PU_SLOT_ROUTER) return pu_gguf_type_of_plain(PU_F32);
  if (makes_logits && type->block > 1) type = pu_gguf_type_named("q8_0");
  return o->map.shape[o->map.ndim - 1] % type->block ? pu_gguf_type_of_plain(PU_F16) : type;
}

static pu_err read_divisors(const void *arg, int64_t at, int64_t n, float *out, pu_error *e) {
  const pu_hparams *hp = arg;
  (void)e;
  for (int64_t i = 0; i < n; i++) out[i] = (float)pu_rope_llama3_divisor(&hp->rope, hp->head_dim, at + i);
  return PU_OK;
}

static pu_err list_tensors(saver *s, const pu_tensor_rule *rules, pu_error *e) {
  pu_outgoing *o;
  size_t n = pu_outgoing_count(s->m, rules);
  PU_TRY(pu_outgoing_list(s->m, rules, s->path, s->a, &o, e));
  s->tensors = pu_arena_alloc(s->a, (n + 1) * sizeof *s->tensors);
  outgoing *args = pu_arena_alloc(s->a, (n + 1) * sizeof *args);
  if (!s->tensors || !args) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the list of tensors", s->path);
  for (size_t i = 0; i < n; i++, o++) {
    pu_gguf_out *t = &s->tensors[s->n++];
    *t = (pu_gguf_out){
        .name = o->name, .type = type_for(s, o), .ndim = o->map.ndim, .read = read_outgoing, .arg = &args[i]};
    memcpy(t->shape, o->map.shape, sizeof t->shape);
    args[i] = (outgoing){s, o};
    double values = 1;
    for (int d = 0; d < t->ndim; d++) values *= (double)t->shape[d];
    s->total += values;
  }
  if (s->m->hp.rope.kind == PU_ROPE_LLAMA3)
    s->tensors[s->n++] = (pu_gguf_out){.name = PU_GGUF_ROPE_FREQS,
                                       .type = pu_gguf_type_of_plain(PU_F32),
                                       .ndim = 1,
                                       .shape = {s->m->hp.head_dim / 2},
                                       .read = read_divisors,
                                       .arg = &s->m->hp};
  return PU_OK;
}

static pu_err write(saver *s, const pu_gguf_arch *arch, const pu_gguf_keys *more, pu_error *e) {
  keys k = {.arch = arch->name};
  PU_TRY(list_tensors(s, arch->rules, e));
  pu_gguf_keys_init(&k.all);
  put_model(&k, s->m, s->type);
  if (more) {
    pu_buf_append(&k.all.bytes, more->bytes.data, more->bytes.len);
    k.all.n += more->n;
    k.all.bytes.failed |= more->bytes.failed;
  }
  pu_err err = pu_gguf_write(s->path, &k.all, s->tensors, s->n, e);
  pu_gguf_keys_deinit(&k.all);
  return err;
}

pu_err pu_model_save_gguf(const pu_model *m, const char *path, const pu_gguf_type *type, const pu_gguf_keys *more,
                          pu_progress *bar, pu_error *e) {
  const pu_gguf_arch *arch = pu_gguf_arch_for(m->arch, &m->hp);
  if (!pu_gguf_writable(type))
    return pu_fail(e, PU_ERR_USAGE, "GGUF is written with f32, f16, bf16, q8_0 or q4_0, not %s", type->name);
  if (!arch)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: GGUF has no architecture for the family %s", path, m->arch->name);
  saver s = {.m = m, .path = path, .type = type, .bar = bar};
  size_t list = (pu_outgoing_count(m, arch->rules) + 1) * (sizeof *s.tensors + sizeof(outgoing));
  PU_TRY(pu_arena_create((1 << 16) + list + pu_outgoing_list_bytes(m, arch->rules), &s.a, e));
  pu_err err = write(&s, arch, more, e);
  pu_arena_free(s.a);
  return err;
}
