/* An engine: a model, its tokenizer, and a paged cache for all its sessions. */
#include <stdlib.h>
#include <string.h>

#include "src/engine/internal.h"

pu_err pu_kv_over(pu_ctx *c, pu_kv_format f, const pu_hparams *hp, int64_t blocks, int32_t block, void *memory,
                  pu_kv *out) {
  const int64_t k[] = {blocks, hp->kv_heads, block, pu_kv_row(f.k_bits, hp->head_dim)};
  const int64_t v[] = {blocks, hp->kv_heads, block, pu_kv_row(f.v_bits, hp->head_dim)};
  *out = (pu_kv){.k_bits = f.k_bits, .v_bits = f.v_bits, .block = block};
  out->k = pu_tensor_over(c, f.k_type, 4, k, memory);
  if (out->k) out->v = pu_tensor_over(c, f.v_type, 4, v, (char *)memory + pu_tensor_bytes(out->k));
  return c->status;
}

/* All layers' from one allocation. The cpu's is address space until it is used. */
static pu_err make_cache(pu_engine *en, pu_kv_format f, pu_error *e) {
  const pu_hparams *hp = &en->m->hp;
  const pu_engine_plan *p = &en->plan;
  size_t layer = p->cache / (size_t)hp->layers;
  PU_TRY(en->be->alloc(en->be, p->cache, &en->kv_memory, e));
  PU_TRY(pu_arena_create((size_t)hp->layers * (sizeof *en->kv + 4 * sizeof(pu_tensor)) + 4096, &en->kv_headers, e));
  en->kv = pu_arena_zalloc(en->kv_headers, (size_t)hp->layers * sizeof *en->kv);
  if (!en->kv || !pu_cache_init(&en->cache, p->kv_blocks, p->host_blocks, p->kv_block))
    return pu_fail(e, PU_ERR_NOMEM, "no memory for the cache's tables");
  pu_ctx c = {.be = en->be, .host = en->kv_headers, .err = e};
  for (int64_t l = 0; l < hp->layers; l++)
    PU_TRY(pu_kv_over(&c, f, hp, p->kv_blocks, p->kv_block, (char *)en->kv_memory + (size_t)l * layer, &en->kv[l]));
  return pu_host_open(en, e);
}

/* Work space of one step: the activations of as many tokens as a step takes, and a row of logits for each session. */
static pu_err make_work_space(pu_engine *en, const pu_engine_options *o, pu_error *e) {
  size_t bytes = pu_plan_step_bytes(en->m, o), batch = (size_t)o->max_batch, rows = batch * (1 + (size_t)o->guess);
  PU_TRY(en->be->alloc(en->be, bytes, &en->work_memory, e));
  PU_TRY(pu_arena_wrap(en->work_memory, bytes, &en->mem, e));
  size_t logits = rows * (size_t)en->m->hp.vocab * sizeof(float);
  size_t table =
      batch * 2 * ((size_t)pu_blocks_for(en, en->plan.context) + 16) * sizeof(int32_t); /* as step.c rounds */
  size_t tokens = ((size_t)o->prefill_chunk + rows) * 8192;
  size_t host = 2 * logits + table + tokens + ((size_t)64 << 20);
  PU_TRY(pu_arena_create(host, &en->host, e));
  PU_TRY(pu_ahead_open(en, host, e));
  en->shares = calloc(batch, sizeof *en->shares);
  return en->shares ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory for a batch of %d", o->max_batch);
}

static size_t weight_bytes(const pu_model *m) {
  size_t sum = 0;
  for (size_t i = 0; i < m->n_params; i++) sum += pu_weight_bytes(m->params[i].w);
  return sum;
}

/* A template that cannot be read keeps nobody from continuing plain text. */
static void choose_chat(pu_engine *en, const char *path) {
  pu_error why;
  const char *type = en->m->arch->name;
  if (!en->t || pu_chat_open(path, en->t, type, &en->chat, &why) == PU_OK) return;
  en->chat = pu_chat_guess(en->t, type);
  pu_log(PU_LOG_WARN, "%s; %s%s", why.msg, en->chat ? "chats go by puyu's own template " : "there is no other template",
         en->chat ? pu_chat_name(en->chat) : "");
}

/* path: where the model came from, or NULL; o: filled in; the plan is made, with the weights counted or not. */
static pu_err set_up(pu_engine *en, const char *path, bool counted, const pu_engine_options *o, pu_error *e) {
  en->be = en->m->be;
  en->chunk = o->prefill_chunk;
  en->max_batch = o->max_batch;
  en->guess = o->guess;
  if (o->draft && o->draft->m->hp.vocab != en->m->hp.vocab)
    return pu_fail(e, PU_ERR_USAGE, "the draft model has %lld tokens, the model %lld: they need the same vocabulary",
                   (long long)o->draft->m->hp.vocab, (long long)en->m->hp.vocab);
  en->shares_prefixes = !o->no_prefix_cache;
  en->memory_bound = en->plan.context < o->context;
  size_t taken = en->plan.work + en->plan.cache + en->plan.weights - (counted ? 0 : weight_bytes(en->m));
  if (!en->be->memory) taken += en->plan.host_cache;
  en->spare = en->plan.budget > taken ? en->plan.budget - taken : 0;
  choose_chat(en, path);
  if (!pu_sampler_init(&en->sampler, en->m->hp.vocab)) return pu_fail(e, PU_ERR_NOMEM, "no memory for the sampler");
  PU_TRY(make_cache(en, pu_kv_format_of(o->kv_type, en->m->dtype, en->m->hp.head_dim), e));
  PU_TRY(make_work_space(en, o, e));
  PU_TRY(pu_adapters_load(en, o, e));
  en->draft = o->draft;
  return PU_OK;
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

static pu_err open_all(pu_engine *en, const char *model, pu_engine_options *o, pu_error *e) {
  PU_TRY(pu_backend_open(o->device ? o->device : "cpu", o->threads, &en->be, e));
  PU_TRY(pu_plan_before(model, en->be, o, &en->plan, e)); /* before anything is taken */
  if (o->says_plan) pu_plan_say(en->be, &en->plan);
  PU_TRY(pu_engine_tokenizer_of(model, &en->own_tokenizer, e));
  en->t = en->own_tokenizer;
  pu_model_options mo = {.dtype = o->dtype,
                         .tile = true,
                         .quant = o->quant,
                         .cache = o->cache,
                         .progress = o->progress,
                         .progress_arg = o->progress_arg};
  PU_TRY(pu_model_load(model, en->be, &mo, &en->m, e));
  PU_TRY(pu_plan_options(en->m->be, &en->m->hp, o, e));
  return set_up(en, model, true, o, e);
}

pu_err pu_engine_open(const char *model, const pu_engine_options *o, pu_engine **out, pu_error *e) {
  *out = NULL;
  pu_engine *en;
  pu_engine_options filled = *o;
  PU_TRY(engine_new(&en, e));
  en->owns_model = true;
  return ready(en, open_all(en, model, &filled, e), out);
}

static pu_err set_up_over(pu_engine *en, pu_engine_options *o, pu_error *e) {
  PU_TRY(pu_plan_options(en->m->be, &en->m->hp, o, e));
  PU_TRY(pu_plan_make(en->m, o, weight_bytes(en->m), o->memory > 0, &en->plan, e));
  return set_up(en, NULL, o->memory > 0, o, e);
}

pu_err pu_engine_over(pu_model *m, const pu_tokenizer *t, const pu_engine_options *o, pu_engine **out, pu_error *e) {
  *out = NULL;
  pu_engine *en;
  pu_engine_options filled = *o;
  PU_TRY(engine_new(&en, e));
  en->m = m;
  en->t = t;
  return ready(en, set_up_over(en, &filled, e), out);
}

void pu_engine_free(pu_engine *en) {
  if (!en) return;
  while (en->first) pu_session_close(en->first);
  pu_adapters_free(en);
  pu_engine_free(en->draft);
  pu_sampler_deinit(&en->sampler);
  pu_arena_free(en->mem);
  if (en->work_memory) en->be->free(en->be, en->work_memory);
  pu_arena_free(en->host);
  pu_ahead_close(en);
  pu_host_close(en);
  pu_arena_free(en->kv_headers);
  pu_cache_deinit(&en->cache);
  free(en->shares);
  if (en->kv_memory) en->be->free(en->be, en->kv_memory);
  pu_chat_free(en->chat);
  pu_grammar_vocab_free(en->vocab);
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
  return en->plan.context;
}

const pu_chat_template *pu_engine_chat(const pu_engine *en) {
  return en->chat;
}

pu_engine_plan pu_engine_get_plan(const pu_engine *en) {
  return en->plan;
}

pu_engine_stats pu_engine_get_stats(const pu_engine *en) {
  pu_engine_stats st = en->stats;
  for (const pu_session *s = en->q_first; s; s = s->q_next) st.waiting += s->state == PU_SESSION_WAITING;
  st.running = en->n_running;
  st.kv_blocks = en->plan.kv_blocks;
  st.kv_blocks_cached = en->cache.kept.n;
  st.host_blocks = en->plan.host_blocks;
  st.host_blocks_used = en->cache.host.n;
  st.host_blocks_out = en->cache.n_out;
  st.host_blocks_in = en->cache.n_in;
  st.kv_blocks_used = en->plan.kv_blocks - pu_cache_available(&en->cache);
  st.weight_bytes = en->plan.weights;
  st.cache_bytes = en->plan.cache;
  st.work_bytes = en->plan.work;
  return st;
}
