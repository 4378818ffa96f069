#include "src/cli/sample.h"

#include "puyu/tune.h"

void pu_cli_show_share(void *bar, double done, double total) {
  pu_progress_set(bar, total > 0 ? 100 * done / total : 0, NULL);
}

static pu_err choose_dtype(const char *model, pu_cli_dtype wanted, pu_dtype *out, pu_error *e) {
  *out = wanted == PU_CLI_F32 ? PU_F32 : PU_BF16;
  if (wanted != PU_CLI_AUTO) return PU_OK;
  bool f32;
  PU_TRY(pu_model_mostly_f32(model, &f32, e));
  if (f32) *out = PU_F32;
  return PU_OK;
}

static void log_plan(const pu_engine *en) {
  pu_engine_plan p = pu_engine_get_plan(en);
  char weights[24], work[24], cache[24];
  pu_log(PU_LOG_DEBUG, "memory plan: weights %s, work %s, cache %s: %d blocks of %d tokens, contexts of %lld",
         pu_bytes_text(p.weights, weights), pu_bytes_text(p.work, work), pu_bytes_text(p.cache, cache),
         (int)p.kv_blocks, (int)p.kv_block, (long long)p.context);
}

/* A context that was asked for and is not to be had is no error: shorter answers may do. */
static void warn_of_context(int64_t asked, int64_t fits) {
  if (asked <= fits) return;
  pu_log(PU_LOG_WARN,
         "a context of %lld tokens was asked for, and the memory holds a cache of %lld, which a prompt and its answer "
         "share: keep the cache or the weights in fewer bits (--kv-dtype, --quant), or give it more memory",
         (long long)asked, (long long)fits);
}

static pu_err open_one(const char *model, pu_engine_options *eo, pu_cli_dtype dtype, const char *what, pu_engine **out,
                       pu_error *e) {
  PU_TRY(choose_dtype(model, dtype, &eo->dtype, e));
  pu_progress *bar = pu_progress_open(what, "%", 100);
  eo->progress = pu_cli_show_share;
  eo->progress_arg = bar;
  pu_err err = pu_engine_open(model, eo, out, e);
  pu_progress_close(bar);
  if (!err) log_plan(*out);
  return err;
}

/* What the engine calls it. */
static int64_t host_cache(double gib) {
  return gib > 0 ? PU_MAX((int64_t)(gib * 0x1p30), 1) : gib < 0 ? 0 : PU_NO_HOST_CACHE;
}

/* one: where the adapter's name and folder lie. */
static pu_engine_options engine_options(const pu_cli_engine_options *o, const pu_engine_adapter *one) {
  return (pu_engine_options){.device = o->model.device,
                             .quant = (pu_quant)o->model.quant,
                             .cache = o->model.weights_cache,
                             .threads = (int)o->threads,
                             .max_batch = (int)o->batch,
                             .guess = (int)o->model.guess,
                             .kv_type = (pu_kv_type)o->model.kv_dtype,
                             .context = o->model.context,
                             .prefill_chunk = o->prefill_chunk,
                             .memory = o->memory,
                             .host_cache = host_cache(o->model.host_cache),
                             .adapters = o->adapter ? one : o->adapters,
                             .n_adapters = o->adapter ? 1 : o->n_adapters,
                             .no_prefix_cache = o->no_prefix_cache,
                             .says_plan = o->says_plan};
}

pu_err pu_cli_plan_engine(const char *model, const pu_cli_engine_options *o, pu_engine_plan *out, pu_error *e) {
  const pu_engine_adapter one = {"adapter", o->adapter};
  pu_engine_options eo = engine_options(o, &one);
  PU_TRY(choose_dtype(model, (pu_cli_dtype)o->model.dtype, &eo.dtype, e));
  PU_TRY(pu_engine_make_plan(model, &eo, out, e));
  warn_of_context(o->model.context, out->context);
  return PU_OK;
}

static size_t plan_bytes(const pu_engine_plan *p) {
  return p->weights + p->work + p->cache;
}

static double token_bytes(const pu_engine_plan *p) {
  return (double)p->cache / ((double)p->kv_blocks * p->kv_block);
}

/* What is taken whatever the context. */
static pu_err make_least_plan(const char *model, pu_engine_options eo, pu_engine_plan *out, pu_error *e) {
  eo.context = 1;
  return pu_engine_make_plan(model, &eo, out, e);
}

/* One budget for both: what is left of it beside weights and work is divided so that the draft's cache holds as many
 * tokens as the model's. */
static pu_err share_memory(const char *model, pu_engine_options *eo, const char *draft, pu_engine_options *small,
                           pu_error *e) {
  pu_engine_plan m, d, whole;
  char needed[24], there[24];
  PU_TRY(make_least_plan(model, *eo, &m, e));
  PU_TRY(make_least_plan(draft, *small, &d, e));
  PU_TRY(pu_engine_make_plan(draft, small, &whole, e));
  size_t least = plan_bytes(&m) + plan_bytes(&d);
  if (m.budget <= least)
    return pu_fail(e, PU_ERR_NOMEM, "the model and its draft %s take %s beside their caches: %s are too little", draft,
                   pu_bytes_text(least, needed), pu_bytes_text(m.budget, there));
  size_t share = (size_t)((double)(m.budget - least) * token_bytes(&d) / (token_bytes(&m) + token_bytes(&d)));
  small->memory = plan_bytes(&d) + PU_MIN(share, plan_bytes(&whole) - plan_bytes(&d));
  eo->memory = m.budget - small->memory;
  if (small->says_plan) pu_log(PU_LOG_INFO, "two models: the draft's memory, then that of the one it guesses for");
  return PU_OK;
}

/* Another tokenizer's ids are other text: the answers stay what they are, but no guess holds. */
static void compare_tokenizers(const pu_engine *en, const pu_engine *draft) {
  const pu_tokenizer *t = pu_engine_tokenizer(en), *u = pu_engine_tokenizer(draft);
  int32_t n = t && u ? PU_MIN(pu_tokenizer_size(t), pu_tokenizer_size(u)) : 0, same = 0;
  for (int32_t i = 0; i < n; i++) {
    same += pu_str_eq(pu_tokenizer_piece(t, i), pu_tokenizer_piece(u, i));
  }
  if (same < n / 2 + n % 2)
    pu_log(PU_LOG_WARN,
           "the draft's tokenizer has other pieces than the model's (%d of %d are the same): guesses will fail",
           (int)same, (int)n);
}

pu_err pu_cli_open_engine(const char *model, const pu_cli_engine_options *o, pu_engine **out, pu_error *e) {
  enum { GUESS = 3 }; /* with a draft */
  const pu_cli_dtype dtype = (pu_cli_dtype)o->model.dtype;
  const pu_engine_adapter one = {"adapter", o->adapter};
  pu_engine_options eo = engine_options(o, &one);
  if (o->model.draft) {
    pu_engine_options draft = {.device = eo.device,
                               .quant = eo.quant,
                               .cache = eo.cache,
                               .threads = eo.threads,
                               .max_batch = eo.max_batch,
                               .context = eo.context,
                               .prefill_chunk = eo.prefill_chunk,
                               .no_prefix_cache = true,
                               .says_plan = eo.says_plan};
    if (!eo.guess) eo.guess = GUESS;
    PU_TRY(choose_dtype(model, dtype, &eo.dtype, e));
    PU_TRY(choose_dtype(o->model.draft, dtype, &draft.dtype, e));
    PU_TRY(share_memory(model, &eo, o->model.draft, &draft, e));
    PU_TRY(open_one(o->model.draft, &draft, dtype, "reading the draft", &eo.draft, e));
  }
  pu_err err = open_one(model, &eo, dtype, "reading weights", out, e);
  if (err) pu_engine_free(eo.draft);
  if (!err) warn_of_context(o->model.context, pu_engine_context(*out));
  if (!err && eo.draft) compare_tokenizers(*out, eo.draft);
  return err;
}

pu_err pu_cli_check_talker(const char *model, pu_error *e) {
  const pu_arch *arch;
  pu_hparams hp;
  PU_TRY(pu_model_describe(model, &arch, &hp, e));
  if (!pu_path_is_dir(model) || pu_tokenizer_in(model)) return PU_OK;
  return pu_fail(e, PU_ERR_UNSUPPORTED,
                 "%s: no tokenizer (tokenizer.json or tokenizer.model) in this folder: copy the model's own into it",
                 model);
}

pu_err pu_cli_open_session(pu_engine *en, pu_session **out, pu_error *e) {
  PU_TRY(pu_session_open(en, out, e));
  return pu_session_adapter(*out, pu_engine_adapter_at(en, 0), e);
}

pu_err pu_cli_encode_prompt(const pu_tokenizer *t, pu_str text, pu_ids *out, pu_error *e) {
  return pu_encode(t, text, pu_tokenizer_adds_bos(t) ? PU_ENCODE_BOS : 0, out, e);
}

/* The whole of an answer to ids, appended to out. */
static pu_err answer_ids(pu_engine *en, const pu_ids *ids, const pu_sampling *how, pu_buf *out, pu_error *e) {
  pu_session *s = NULL;
  pu_err err = pu_cli_open_session(en, &s, e);
  if (!err) err = pu_session_append(s, ids->v, ids->n, e);
  if (!err) err = pu_session_generate(s, how, NULL, NULL, e);
  if (!err) {
    pu_str text = pu_session_text(s);
    if (!pu_buf_append(out, text.ptr, text.len)) err = pu_fail(e, PU_ERR_NOMEM, "no memory for the generated text");
  }
  pu_session_close(s);
  return err;
}

pu_err pu_cli_continue(pu_engine *en, const char *prompt, const pu_sampling *how, pu_buf *out, pu_error *e) {
  pu_ids ids = {0};
  pu_err err = pu_cli_encode_prompt(pu_engine_tokenizer(en), pu_str_c(prompt), &ids, e);
  if (!err) err = answer_ids(en, &ids, how, out, e);
  pu_ids_deinit(&ids);
  return err;
}

/* What a model says to a user, in its chat template. */
static pu_err reply(pu_engine *en, const pu_train_sample *s, pu_sampling *how, pu_buf *out, pu_error *e) {
  const pu_chat_template *c;
  const pu_message m = {"user", NULL, pu_str_c(s->prompt)};
  int32_t stops[8];
  pu_ids ids = {0};
  PU_TRY(pu_tune_template(s->cfg, s->path, s->tokenizer, s->model->arch->name, &c, e));
  how->stop_ids = stops;
  how->n_stop_ids = pu_chat_stop_ids(c, s->tokenizer, stops, PU_COUNT(stops));
  pu_err err = pu_chat_ids(c, s->tokenizer, &m, 1, true, &ids, e);
  if (!err) err = answer_ids(en, &ids, how, out, e);
  pu_ids_deinit(&ids);
  pu_chat_free(c);
  return err;
}

static pu_err sample_over(const pu_train_sample *s, const char *dir, pu_buf *out, pu_error *e) {
  pu_engine *en;
  const pu_engine_adapter beside = {"trained", dir};
  pu_engine_options o = {.context = PU_MIN(s->model->hp.max_position, 4096),
                         .max_batch = 1,
                         .adapters = &beside,
                         .n_adapters = dir ? 1 : 0};
  if (dir) PU_TRY(pu_adapter_save(s->adapter, dir, PU_F32, e));
  PU_TRY(pu_engine_over(s->model, s->tokenizer, &o, &en, e));
  pu_sampling how = pu_sampling_default();
  how.temperature = s->cfg->sample.temperature;
  how.max_tokens = s->cfg->sample.max_tokens;
  how.seed = 1;
  pu_err err = s->cfg->task == PU_TASK_SFT ? reply(en, s, &how, out, e) : pu_cli_continue(en, s->prompt, &how, out, e);
  pu_engine_free(en);
  return err;
}

pu_err pu_cli_sample_hook(void *arg, const pu_train_sample *s, pu_buf *out, pu_error *e) {
  char dir[4096];
  (void)arg;
  if (!s->adapter) return sample_over(s, NULL, out, e);
  if (snprintf(dir, sizeof dir, "%s/sample.tmp", s->cfg->run) >= (int)sizeof dir)
    return pu_fail(e, PU_ERR_USAGE, "%.80s…: the name of the run is too long", s->cfg->run);
  pu_err err = sample_over(s, dir, out, e), gone = pu_remove_tree(dir, err ? NULL : e);
  return err ? err : gone;
}
