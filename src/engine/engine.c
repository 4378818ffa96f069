/* An engine: a model, its tokenizer, and a paged cache for all its sessions. */
#include <stdlib.h>
#include <string.h>

#include "src/engine/internal.h"

static int64_t blocks_per_session(const pu_engine *en) {
  return (en->context + PU_KV_BLOCK - 1) / PU_KV_BLOCK;
}

/* [blocks, G, block, D] for k and v of each layer, from one allocation. The cpu's is address space until it is used. */
static pu_err make_cache(pu_engine *en, pu_error *e) {
  const pu_hparams *hp = &en->m->hp;
  int64_t blocks = blocks_per_session(en) * en->max_sessions;
  int64_t shape[] = {blocks, hp->kv_heads, PU_KV_BLOCK, hp->head_dim};
  size_t one = (size_t)(shape[1] * shape[2] * shape[3]) * pu_dtype_size(en->m->dtype), total;
  if (pu_mul_overflows(one, (size_t)blocks, &one) || pu_mul_overflows(one, 2 * (size_t)hp->layers, &total))
    return pu_fail(e, PU_ERR_NOMEM, "a cache for %d sessions of %lld tokens is larger than memory can be",
                   en->max_sessions, (long long)en->context);
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
                        .block = PU_KV_BLOCK};
    if (!en->kv[l].k || !en->kv[l].v) return c.status;
  }
  en->stats.cache_bytes = total;
  return PU_OK;
}

/* Work space of one step: the activations of as many tokens as a step takes, and a row of logits for each session. */
static pu_err make_work_space(pu_engine *en, pu_error *e) {
  int64_t tokens = en->chunk + en->max_sessions;
  size_t activations = pu_model_activation_bytes(en->m, tokens, tokens, false, false);
  size_t logits = (size_t)en->max_sessions * (size_t)en->m->hp.vocab * sizeof(float);
  size_t bytes = activations + 2 * logits + ((size_t)16 << 20);
  PU_TRY(en->be->alloc(en->be, bytes, &en->work_memory, e));
  PU_TRY(pu_arena_wrap(en->work_memory, bytes, &en->mem, e));
  size_t table = (size_t)en->max_sessions * (size_t)blocks_per_session(en) * sizeof(int32_t);
  return pu_arena_create(2 * logits + table + (size_t)tokens * 8192 + ((size_t)64 << 20), &en->host, e);
}

static pu_err set_up(pu_engine *en, const pu_engine_options *o, pu_error *e) {
  en->be = en->m->be;
  int64_t most = PU_MIN(en->m->hp.max_position > 0 ? en->m->hp.max_position : PU_MAX_CONTEXT, PU_MAX_CONTEXT);
  en->context = o->context ? o->context : most;
  en->max_sessions = o->max_sessions ? o->max_sessions : 1;
  en->chunk = o->prefill_chunk ? o->prefill_chunk : PU_PREFILL_CHUNK;
  if (en->context < 1 || en->context > (1 << 24))
    return pu_fail(e, PU_ERR_USAGE, "a context of %lld tokens; it must be from 1 to %d", (long long)en->context,
                   1 << 24);
  if (en->max_sessions < 1 || en->max_sessions > PU_MAX_SESSIONS)
    return pu_fail(e, PU_ERR_USAGE, "%d sessions; there can be 1 to %d", en->max_sessions, PU_MAX_SESSIONS);
  if (en->chunk < 1 || en->chunk > (1 << 20))
    return pu_fail(e, PU_ERR_USAGE, "a prefill chunk of %lld tokens; it must be from 1 to %d", (long long)en->chunk,
                   1 << 20);
  en->chat = en->t ? pu_chat_guess(en->t, en->m->arch->name) : NULL;
  pu_model_options weights = {.dtype = en->m->dtype};
  en->stats.weight_bytes = pu_model_weight_bytes(en->m->arch, &en->m->hp, &weights);
  PU_TRY(make_cache(en, e));
  return make_work_space(en, e);
}

static pu_err engine_new(pu_engine **out, pu_error *e) {
  *out = calloc(1, sizeof **out);
  return *out ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory for an engine");
}

static bool has_tokenizer(const char *dir, pu_arena *a) {
  const char *const names[] = {"tokenizer.json", "tokenizer.model"};
  for (size_t i = 0; i < PU_COUNT(names); i++) {
    char *path = pu_path_join(a, dir, names[i]);
    if (path && pu_path_exists(path)) return true;
  }
  return false;
}

static pu_err load_tokenizer(pu_engine *en, const char *dir, pu_error *e) {
  pu_arena *a;
  PU_TRY(pu_arena_create(1 << 16, &a, e));
  pu_err err = PU_OK;
  if (has_tokenizer(dir, a)) err = pu_tokenizer_load(dir, &en->own_tokenizer, e);
  pu_arena_free(a);
  if (err || !en->own_tokenizer) return err;
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
  pu_err err = open_all(en, model_dir, o, e);
  if (err)
    pu_engine_free(en);
  else
    *out = en;
  return err;
}

pu_err pu_engine_over(pu_model *m, const pu_tokenizer *t, const pu_engine_options *o, pu_engine **out, pu_error *e) {
  *out = NULL;
  pu_engine *en;
  PU_TRY(engine_new(&en, e));
  en->m = m;
  en->t = t;
  pu_err err = set_up(en, o, e);
  if (err)
    pu_engine_free(en);
  else
    *out = en;
  return err;
}

void pu_engine_free(pu_engine *en) {
  if (!en) return;
  while (en->first) pu_session_close(en->first);
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

const pu_chat_template *pu_engine_chat(const pu_engine *en) {
  return en->chat;
}

pu_engine_stats pu_engine_get_stats(const pu_engine *en) {
  return en->stats;
}
