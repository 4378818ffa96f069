/* What an engine takes, before it takes it: weights, work space of a step, and the cache, which gets the rest. */
#include "src/engine/internal.h"

/* ---- options ---- */

/* As far as the model was trained, or as scaling of its positions stretches that; yarn's max_position may count it. */
static int64_t default_context(const pu_hparams *hp) {
  double most = hp->max_position > 0 ? (double)hp->max_position : PU_DEFAULT_CONTEXT;
  if (hp->rope.kind == PU_ROPE_DYNAMIC && hp->rope.factor > 1) most *= hp->rope.factor;
  if (hp->rope.kind == PU_ROPE_YARN) most = PU_MAX(most, hp->rope.factor * (double)hp->rope.original_max);
  return (int64_t)PU_MIN(most, (double)PU_DEFAULT_CONTEXT);
}

/* A choice, its default, and what it may be. */
static pu_err choose(const char *what, int64_t dflt, int64_t most, int64_t *value, pu_error *e) {
  if (*value == 0) *value = dflt;
  if (*value >= 1 && *value <= most) return PU_OK;
  return pu_fail(e, PU_ERR_USAGE, "%s: %lld; it must be from 1 to %lld", what, (long long)*value, (long long)most);
}

pu_err pu_plan_options(const pu_backend *be, const pu_hparams *hp, pu_engine_options *o, pu_error *e) {
  int64_t batch = o->max_batch, block = o->kv_block;
  PU_TRY(choose("the context", default_context(hp), PU_MAX_CONTEXT, &o->context, e));
  PU_TRY(choose("sessions of a batch", PU_MAX_BATCH, PU_MOST_BATCH, &batch, e));
  PU_TRY(
      choose("the prefill chunk", be->memory ? PU_DEVICE_CHUNK : PU_PREFILL_CHUNK, PU_MAX_CHUNK, &o->prefill_chunk, e));
  PU_TRY(choose("tokens of a cache block", PU_KV_BLOCK, PU_MAX_KV_BLOCK, &block, e));
  if (o->guess < 0 || o->guess > PU_MOST_GUESS)
    return pu_fail(e, PU_ERR_USAGE, "tokens guessed ahead: %d; it must be from 0 to %d", o->guess, PU_MOST_GUESS);
  o->max_batch = (int)batch;
  o->kv_block = (int32_t)block;
  if (o->host_cache < PU_NO_HOST_CACHE)
    return pu_fail(e, PU_ERR_USAGE, "the host's part of the cache: %lld bytes", (long long)o->host_cache);
  if (o->kv_type >= PU_KV_SAME && o->kv_type <= PU_KV_INT4) return PU_OK;
  return pu_fail(e, PU_ERR_USAGE, "the cache's type: there is no type %d", (int)o->kv_type);
}

/* ---- sizes ---- */

static pu_kv_format in_bits(int k_bits, int v_bits) {
  return (pu_kv_format){.k_type = PU_U8, .v_type = PU_U8, .k_bits = k_bits, .v_bits = v_bits};
}

const char *pu_kv_type_name(pu_kv_type t) {
  static const char *const names[] = {
      [PU_KV_SAME] = "auto", [PU_KV_BF16] = "bf16", [PU_KV_INT8] = "int8", [PU_KV_INT4] = "int4"};
  return names[t];
}

pu_kv_format pu_kv_format_of(pu_kv_type type, pu_dtype compute, int64_t head_dim) {
  const bool small = head_dim < PU_KV_SMALL_HEAD;
  switch (type) {
  case PU_KV_BF16:
    return (pu_kv_format){.k_type = PU_BF16, .v_type = PU_BF16};
  case PU_KV_INT8:
    return small ? (pu_kv_format){.k_type = PU_BF16, .v_type = PU_U8, .v_bits = 8} : in_bits(8, 8);
  case PU_KV_INT4:
    return in_bits(small ? 8 : 4, 4);
  default:
    return (pu_kv_format){.k_type = compute, .v_type = compute};
  }
}

size_t pu_kv_token_bytes(pu_kv_format f, int64_t kv_heads, int64_t head_dim) {
  size_t k = (size_t)pu_kv_row(f.k_bits, head_dim) * pu_dtype_size(f.k_type);
  size_t v = (size_t)pu_kv_row(f.v_bits, head_dim) * pu_dtype_size(f.v_type);
  return (size_t)kv_heads * (k + v);
}

/* Of one layer. */
static size_t block_bytes(const pu_hparams *hp, const pu_engine_options *o, pu_kv_type type, pu_dtype compute) {
  pu_kv_format f = pu_kv_format_of(type, compute, hp->head_dim);
  return (size_t)o->kv_block * pu_kv_token_bytes(f, hp->kv_heads, hp->head_dim);
}

static int64_t most_rows(const pu_engine_options *o) {
  return (int64_t)o->max_batch * (1 + o->guess);
}

static size_t logits_bytes(const pu_hparams *hp, const pu_engine_options *o) {
  return (size_t)most_rows(o) * (size_t)hp->vocab * sizeof(float);
}

/* What a device is told of its rows of logits, to change them (short.c). */
static size_t changes_bytes(const pu_model *m, const pu_engine_options *o) {
  const int64_t rows = most_rows(o), most = pu_short_most_changes(rows, m->hp.vocab);
  return m->be->memory ? (size_t)(5 * rows + 1 + 2 * most) * sizeof(int32_t) : 0;
}

size_t pu_plan_step_bytes(const pu_model *m, const pu_engine_options *o) {
  int64_t tokens = o->prefill_chunk + most_rows(o);
  int64_t widest = PU_MAX(PU_MAX(m->hp.hidden, m->hp.ffn), m->hp.heads * m->hp.head_dim);
  size_t packed =
      o->quant == PU_QUANT_NONE || o->quant >= PU_QUANT_FP8 ? 0 : pu_packed_work_bytes(tokens, widest, m->dtype);
  return pu_model_activation_bytes(m, tokens, tokens, false, false) + 2 * logits_bytes(&m->hp, o) + packed +
         changes_bytes(m, o) + ((size_t)1 << 20);
}

/* ---- the plan ---- */

static pu_err find_budget(const pu_backend *be, const pu_engine_options *o, size_t *out, pu_error *e) {
  size_t there = 0, all;
  *out = o->memory;
  if (o->memory) return PU_OK;
  if (be->memory) PU_TRY(be->memory(be, &there, &all, e));
  if (!be->memory) there = pu_memory_free();
  *out = there || be->memory ? there / 10 * 9 : SIZE_MAX;
  return PU_OK;
}

/* Blocks of the second tier, each of so many bytes. A quarter: the rest is for the files that weights are read from,
 * for whoever else is on this machine, and for what the tier's user does. */
static void plan_host(const pu_backend *be, const pu_engine_options *o, size_t block, pu_engine_plan *out) {
  size_t bytes = o->host_cache > 0 ? (size_t)o->host_cache : 0, one = pu_host_block_bytes(block, o->kv_block);
  if (o->host_cache == 0 && be->memory) bytes = pu_memory_free() / 4;
  if (o->no_prefix_cache) bytes = 0;
  out->host_blocks = (int32_t)PU_MIN(bytes / one, (size_t)PU_MOST_HOST_BLOCKS);
  out->host_cache = (size_t)out->host_blocks * one;
}

static pu_err too_little(const pu_backend *be, const pu_engine_plan *p, size_t least, bool counted, pu_error *e) {
  char have[24], need[24], weights[24];
  return pu_fail(e, PU_ERR_NOMEM,
                 "%s of %s's memory are too little: the model's weights take %s%s, and a step's work and the smallest "
                 "cache %s: give it more, keep the weights in fewer bits, or lower the batch, the prefill chunk or the "
                 "context",
                 pu_bytes_text(p->budget, have), be->name, pu_bytes_text(p->weights, weights),
                 counted ? "" : " (not counted)", pu_bytes_text(least, need));
}

/* Attention lays the keys and values of prompts out anew, a layer at a time: as much as a layer's share of the cache,
 * at most. So each block counts for a layer more than there are. */
pu_err pu_plan_make(const pu_model *m, const pu_engine_options *o, size_t weights, bool counted, pu_engine_plan *out,
                    pu_error *e) {
  const pu_hparams *hp = &m->hp;
  size_t layer = block_bytes(hp, o, o->kv_type, m->dtype);
  size_t anew = block_bytes(hp, o, PU_KV_SAME, m->dtype);
  size_t block = layer * (size_t)hp->layers, step = pu_plan_step_bytes(m, o) + logits_bytes(hp, o);
  size_t whole = (size_t)((o->context + o->kv_block - 1) / o->kv_block), blocks = whole * (size_t)o->max_batch;
  size_t adapters;
  PU_TRY(pu_adapters_measure(m->arch, hp, m->dtype, o, &adapters, e));
  *out = (pu_engine_plan){.weights = weights + adapters, .kv_block = o->kv_block};
  snprintf(out->device, sizeof out->device, "%s%s%s", m->be->name, m->be->describe ? ": " : "",
           m->be->describe ? m->be->describe(m->be) : "");
  PU_TRY(find_budget(m->be, o, &out->budget, e));
  if (m->be->memory) {
    step -= logits_bytes(hp, o); /* the sampler's copy */
    out->host = 2 * logits_bytes(hp, o);
  }
  plan_host(m->be, o, block, out);
  size_t fixed = step + adapters + (counted ? weights : 0) + (m->be->memory ? 0 : out->host_cache),
         room = out->budget > fixed ? out->budget - fixed : 0;
  blocks = PU_MIN(PU_MIN(blocks, room / (block + anew)), (size_t)INT32_MAX / (size_t)o->kv_block);
  size_t least = PU_MIN(whole, (size_t)(64 / o->kv_block + 1));
  if (blocks < least) return too_little(m->be, out, step + least * (block + anew), counted, e);
  out->kv_blocks = (int32_t)blocks;
  out->cache = blocks * block;
  out->work = step + blocks * anew;
  out->context = PU_MIN(o->context, (int64_t)blocks * o->kv_block);
  return PU_OK;
}

pu_err pu_plan_before(const char *model, pu_backend *be, const pu_engine_options *o, pu_engine_plan *out, pu_error *e) {
  pu_model shape = {.dtype = o->dtype, .be = be};
  pu_engine_options filled = *o;
  PU_TRY(pu_model_describe(model, &shape.arch, &shape.hp, e));
  PU_TRY(pu_plan_options(be, &shape.hp, &filled, e));
  const pu_model_options mo =
      pu_model_options_on(be, &(pu_model_options){.dtype = o->dtype, .tile = true, .quant = o->quant});
  size_t weights;
  PU_TRY(pu_model_options_check(be, &mo, e));
  PU_TRY(pu_model_load_bytes(model, &mo, &weights, e));
  return pu_plan_make(&shape, &filled, weights, true, out, e);
}

pu_err pu_engine_make_plan(const char *model, const pu_engine_options *o, pu_engine_plan *out, pu_error *e) {
  pu_backend *be;
  PU_TRY(pu_backend_open(o->device ? o->device : "cpu", 1, &be, e));
  pu_err err = pu_plan_before(model, be, o, out, e);
  be->close(be);
  return err;
}

void pu_plan_say(const pu_backend *be, const pu_engine_plan *p) {
  char weights[24], work[24], cache[24], budget[24];
  pu_log(PU_LOG_INFO, "memory of %s: %s weights, %s work, %s cache of %lld tokens; %s may be taken", be->name,
         pu_bytes_text(p->weights, weights), pu_bytes_text(p->work, work), pu_bytes_text(p->cache, cache),
         (long long)p->kv_block * p->kv_blocks, pu_bytes_text(p->budget, budget));
  if (p->host_blocks)
    pu_log(PU_LOG_INFO, "memory of this machine: at most %s for prefixes of %lld tokens that the cache has no room for",
           pu_bytes_text(p->host_cache, cache), (long long)p->kv_block * p->host_blocks);
}
