/* An engine: a model, its tokenizer, and a paged cache for all its sessions. */
#include <stdlib.h>
#include <string.h>

#include "src/engine/internal.h"

static int64_t blocks_per_session(const pu_engine *en) {
  return (en->context + en->kv_block - 1) / en->kv_block;
}

/* [blocks, G, block, D] for k and v of each layer, from one allocation. The cpu's is address space until it is used. */
static pu_err make_cache(pu_engine *en, pu_error *e) {
  const pu_hparams *hp = &en->m->hp;
  int64_t blocks = blocks_per_session(en) * en->max_batch;
  int64_t shape[] = {blocks, hp->kv_heads, en->kv_block, hp->head_dim};
  size_t one = (size_t)(shape[1] * shape[2] * shape[3]) * pu_dtype_size(en->m->dtype), total;
  if (pu_mul_overflows(one, (size_t)blocks, &one) || pu_mul_overflows(one, 2 * (size_t)hp->layers, &total))
    return pu_fail(e, PU_ERR_NOMEM, "a cache for %d sessions of %lld tokens is larger than memory can be",
                   en->max_batch, (long long)en->context);
  PU_TRY(en->be->alloc(en->be, total, &en->kv_memory, e));
  PU_TRY(pu_arena_create((size_t)hp->layers * (sizeof *en->kv + 4 * sizeof(pu_tensor)) + 4096, &en->kv_headers, e));
  en->free_blocks = malloc((size_t)blocks * sizeof *en->free_blocks);
  en->kv = pu_arena_zalloc(en->kv_headers, (size_t)hp->layers * sizeof *en->kv);
  if (!en->free_blocks || !en->kv) return pu_fail(e, PU_ERR_NOMEM, "no memory for the cache's tables");
  for (int64_t b = blocks; b-- > 0;) en->free_blocks[en->n_free++] = (int32_t)b;
  pu_ctx c = {.be = en->be, .host = en->kv_headers, .err = e};
  char *at = en->kv_memory;
  for (int64_t l = 0; l < hp->layers; l++, at += 2 * one) {
    en->kv[l] = (pu_kv){.k = pu_tensor_over(&c, en->m->dtype, 4, shape, at),
                        .v = pu_tensor_over(&c, en->m->dtype, 4, shape, at + one),
                        .block = en->kv_block};
    if (!en->kv[l].k || !en->kv[l].v) return c.status;
  }
  en->stats.cache_bytes = total;
  return PU_OK;
}

/* Work space of one step: the activations of as many tokens as a step takes, and a row of logits for each session. */
static pu_err make_work_space(pu_engine *en, pu_error *e) {
  int64_t tokens = en->chunk + en->max_batch;
  size_t activations = pu_model_activation_bytes(en->m, tokens, tokens, false, false);
  size_t logits = (size_t)en->max_batch * (size_t)en->m->hp.vocab * sizeof(float);
  size_t bytes = activations + 2 * logits + ((size_t)16 << 20);
  en->stats.work_bytes = bytes;
  PU_TRY(en->be->alloc(en->be, bytes, &en->work_memory, e));
  PU_TRY(pu_arena_wrap(en->work_memory, bytes, &en->mem, e));
  size_t table = (size_t)en->max_batch * (size_t)blocks_per_session(en) * sizeof(int32_t);
  return pu_arena_create(2 * logits + table + (size_t)tokens * 8192 + ((size_t)64 << 20), &en->host, e);
}

static size_t weight_bytes(const pu_model *m) {
  size_t sum = 0;
  for (size_t i = 0; i < m->n_params; i++) {
    const pu_tensor *w = m->params[i].w;
    bool tiled = w->layout == PU_LAYOUT_TILED;
    sum += tiled ? pu_tiled_bytes(w->dtype, w->shape[0], w->shape[1]) : pu_tensor_bytes(w);
  }
  return sum;
}

/* A choice, its default, and what it may be. */
static pu_err choose(const char *what, int64_t wanted, int64_t dflt, int64_t most, int64_t *out, pu_error *e) {
  *out = wanted ? wanted : dflt;
  if (*out >= 1 && *out <= most) return PU_OK;
  return pu_fail(e, PU_ERR_USAGE, "%s: %lld; it must be from 1 to %lld", what, (long long)*out, (long long)most);
}

/* As far as the model was trained, or as dynamic scaling of its positions stretches that. */
static int64_t default_context(const pu_hparams *hp) {
  double most = hp->max_position > 0 ? (double)hp->max_position : PU_DEFAULT_CONTEXT;
  if (hp->rope.kind == PU_ROPE_DYNAMIC && hp->rope.factor > 1) most *= hp->rope.factor;
  return (int64_t)PU_MIN(most, (double)PU_DEFAULT_CONTEXT);
}

static pu_err set_up(pu_engine *en, const pu_engine_options *o, pu_error *e) {
  const pu_hparams *hp = &en->m->hp;
  int64_t block, sessions;
  PU_TRY(choose("the context", o->context, default_context(hp), PU_MAX_CONTEXT, &en->context, e));
  PU_TRY(choose("sessions of an engine", o->max_batch, 1, PU_MAX_SESSIONS, &sessions, e));
  PU_TRY(choose("the prefill chunk", o->prefill_chunk, PU_PREFILL_CHUNK, PU_MAX_CHUNK, &en->chunk, e));
  PU_TRY(choose("tokens of a cache block", o->kv_block, PU_KV_BLOCK, PU_MAX_KV_BLOCK, &block, e));
  en->max_batch = (int)sessions;
  en->kv_block = (int32_t)block;
  en->be = en->m->be;
  en->chat = en->t ? pu_chat_guess(en->t, en->m->arch->name) : NULL;
  en->stats.weight_bytes = weight_bytes(en->m);
  if (!pu_sampler_init(&en->sampler, hp->vocab)) return pu_fail(e, PU_ERR_NOMEM, "no memory for the sampler");
  PU_TRY(make_cache(en, e));
  return make_work_space(en, e);
}

static pu_err engine_new(pu_engine **out, pu_error *e) {
  *out = calloc(1, sizeof **out);
  return *out ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory for an engine");
}

static pu_err ready(pu_engine *en, pu_err err, pu_engine **out) {
  if (err)
    pu_engine_free(en);
  else
    *out = en;
  return err;
}

static pu_err load_tokenizer(pu_engine *en, const char *dir, pu_error *e) {
  if (!pu_tokenizer_in(dir)) return PU_OK;
  PU_TRY(pu_tokenizer_load(dir, &en->own_tokenizer, e));
  en->t = en->own_tokenizer;
  if (pu_tokenizer_size(en->t) > en->m->hp.vocab)
    return pu_fail(e, PU_ERR_FORMAT,
                   "%s: the tokenizer has %d pieces, the model only %lld: they do not belong together", dir,
                   pu_tokenizer_size(en->t), (long long)en->m->hp.vocab);
  return PU_OK;
}

static pu_err open_all(pu_engine *en, const char *dir, const pu_engine_options *o, pu_error *e) {
  PU_TRY(pu_backend_open(o->device ? o->device : "cpu", o->threads, &en->be, e));
  pu_model_options mo = {.dtype = o->dtype, .tile = true, .progress = o->progress, .progress_arg = o->progress_arg};
  PU_TRY(pu_model_load(dir, en->be, &mo, &en->m, e));
  PU_TRY(load_tokenizer(en, dir, e));
  return set_up(en, o, e);
}

pu_err pu_engine_open(const char *model_dir, const pu_engine_options *o, pu_engine **out, pu_error *e) {
  *out = NULL;
  pu_engine *en;
  PU_TRY(engine_new(&en, e));
  en->owns_model = true;
  return ready(en, open_all(en, model_dir, o, e), out);
}

pu_err pu_engine_over(pu_model *m, const pu_tokenizer *t, const pu_engine_options *o, pu_engine **out, pu_error *e) {
  *out = NULL;
  pu_engine *en;
  PU_TRY(engine_new(&en, e));
  en->m = m;
  en->t = t;
  return ready(en, set_up(en, o, e), out);
}

void pu_engine_free(pu_engine *en) {
  if (!en) return;
  while (en->first) pu_session_close(en->first);
  pu_sampler_deinit(&en->sampler);
  pu_arena_free(en->mem);
  if (en->work_memory) en->be->free(en->be, en->work_memory);
  pu_arena_free(en->host);
  pu_arena_free(en->kv_headers);
  free(en->free_blocks);
  if (en->kv_memory) en->be->free(en->be, en->kv_memory);
  pu_tokenizer_free(en->own_tokenizer);
  if (en->owns_model) {
    pu_model_free(en->m);
    if (en->be) en->be->close(en->be);
  }
  free(en);
}

const pu_tokenizer *pu_engine_tokenizer(const pu_engine *en) {
  return en->t;
}

const pu_model *pu_engine_model(const pu_engine *en) {
  return en->m;
}

int64_t pu_engine_context(const pu_engine *en) {
  return en->context;
}

const pu_chat_template *pu_engine_chat(const pu_engine *en) {
  return en->chat;
}

pu_engine_stats pu_engine_get_stats(const pu_engine *en) {
  return en->stats;
}
