/* From a configuration to a run that is ready for its first step, and back. */
#include "src/train/config.h"
#include "src/train/loop.h"
#include "src/train/peak.h"
#include "src/train/run_dir.h"
#include "src/train/text_cache.h"

#include <math.h>
#include <string.h>
#include <time.h>

static const size_t HOST_MAX = (size_t)16 << 30; /* address space, touched only where used */
enum { CONFIG_MAX = 1 << 20 };

/* ---- where the run stands ---- */

/* Keys whose change since the checkpoint bends the curve are named, not refused: people do change their minds. */
static pu_err compare_config(pu_train_loop *l, const char *was_yaml, pu_error *e) {
  pu_train_config was = {0};
  PU_TRY(pu_options_default(pu_train_options, &was, l->host, e));
  PU_TRY(
      pu_options_parse_yaml(pu_train_options, &was, "the checkpoint's configuration", pu_str_c(was_yaml), l->host, e));
  PU_TRY(pu_train_config_same_model(&was, &l->cfg, e));
  pu_buf keys;
  pu_buf_init(&keys, 4096);
  pu_train_config_changes(&was, &l->cfg, &keys);
  if (keys.len > 0)
    pu_log(PU_LOG_WARN, "changed since step %lld: %s; losses will not be those of an unbroken run",
           (long long)l->state.step, keys.data);
  pu_buf_deinit(&keys);
  return PU_OK;
}

/* Names the mend where a file of the checkpoint that the run goes on from cannot be read. dir: whose file it was. */
static pu_err damaged(const pu_train_loop *l, const char *dir, pu_err err, pu_error *e) {
  if (!l->resume || dir != l->resume || (err != PU_ERR_FORMAT && err != PU_ERR_IO)) return err;
  int64_t older = -1;
  char path[PATH_MAX];
  if (pu_train_dir_before(l->cfg.run, l->saved_step, &older, NULL) != PU_OK ||
      pu_train_dir_step(l->cfg.run, l->saved_step, false, path, NULL) != PU_OK)
    return err;
  if (older < 0) return pu_fail_in(e, err, "the only checkpoint is damaged (remove %s to begin anew)", path);
  return pu_fail_in(e, err, "the newest checkpoint is damaged (remove %s to go on from step-%06lld)", path,
                    (long long)older);
}

static pu_err open_run(pu_train_loop *l, const char **was_yaml, pu_error *e) {
  char path[PATH_MAX];
  PU_TRY(pu_train_dir_open(l->cfg.run, &l->claim, e));
  PU_TRY(pu_train_dir_newest(l->cfg.run, &l->saved_step, e));
  l->state.valid_loss = NAN;
  l->from = l->cfg.model.path;
  if (l->saved_step < 0) return PU_OK;
  PU_TRY(pu_train_dir_step(l->cfg.run, l->saved_step, false, path, e));
  l->resume = pu_arena_strdup(l->host, path);
  if (!l->resume) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its name", path);
  if (!pu_train_config_adapts(&l->cfg)) l->from = l->resume;
  return damaged(l, l->resume, pu_train_state_read(l->resume, &l->state, was_yaml, l->host, e), e);
}

/* The configuration as it is now, checked. */
static pu_err resolve(pu_train_loop *l, pu_error *e) {
  const pu_train_source *s = l->cfg.data.sources.items;
  bool ids = l->cfg.data.sources.n == 1 && s->type == PU_SOURCE_IDS;
  if (ids) {
    PU_TRY(pu_train_data_open_ids(s, l->host, &l->data, e));
    l->cfg.data.seq_len = l->data.seq_len;
  }
  return pu_train_config_resolve(&l->cfg, l->data.rows, e);
}

/* As text, for config.yaml and every checkpoint. */
static pu_err keep_config(pu_train_loop *l, pu_error *e) {
  pu_buf yaml;
  pu_buf_init(&yaml, CONFIG_MAX);
  pu_err err = pu_options_write_yaml(pu_train_options, &l->cfg, &yaml, e);
  if (err == PU_OK && !(l->config = pu_arena_strndup(l->host, yaml.data, yaml.len)))
    err = pu_fail(e, PU_ERR_NOMEM, "no memory for the configuration");
  pu_buf_deinit(&yaml);
  return err;
}

/* ---- tokenizer and data ---- */

/* The checkpoint's tokenizer is the run's. The configuration's may be gone by now, but not be another one. */
static pu_err check_tokenizer(const pu_train_loop *l, pu_error *e) {
  const char *dir = l->cfg.model.tokenizer;
  if (!dir || !pu_tokenizer_in(dir)) return PU_OK;
  pu_tokenizer *given;
  PU_TRY(pu_tokenizer_load(dir, &given, e));
  bool same = pu_tokenizer_hash(given) == pu_tokenizer_hash(l->tokenizer);
  pu_tokenizer_free(given);
  if (same) return PU_OK;
  return pu_fail(e, PU_ERR_USAGE,
                 "model.tokenizer: the run %s was begun with another tokenizer than %s: take another "
                 "run directory",
                 l->cfg.run, dir);
}

static pu_err open_tokenizer(pu_train_loop *l, pu_error *e) {
  if (l->resume && pu_tokenizer_in(l->resume)) {
    PU_TRY(damaged(l, l->resume, pu_tokenizer_load(l->resume, &l->tokenizer, e), e));
    return check_tokenizer(l, e);
  }
  const char *dir = l->cfg.model.tokenizer;
  if (!dir && l->from && pu_tokenizer_in(l->from)) dir = l->from;
  if (dir) return pu_tokenizer_load(dir, &l->tokenizer, e);
  if (l->cfg.sample.every > 0)
    return pu_fail(e, PU_ERR_USAGE, "sample.every needs a tokenizer, and the model has none: set model.tokenizer");
  return PU_OK;
}

/* Not worth stopping for. */
static void prune_cache(const pu_train_loop *l, const char *const *keep, size_t n) {
  pu_error e;
  if (pu_train_text_cache_prune(l->cfg.run, keep, n, &e) != PU_OK)
    pu_log(PU_LOG_WARN, "tokenised text that is no longer read stays in %s/cache: %s", l->cfg.run, e.msg);
}

/* What other sources than today's, or another tokenizer, left in the run's cache. */
static pu_err forget_old_text(const pu_train_loop *l, pu_error *e) {
  const pu_train_data *const both[] = {&l->data, &l->valid};
  const char **keep = pu_arena_alloc(l->host, (l->data.n + l->valid.n) * sizeof *keep);
  size_t n = 0;
  if (!keep) return pu_fail(e, PU_ERR_NOMEM, "data.sources: no memory");
  for (size_t d = 0; d < 2; d++)
    for (size_t i = 0; both[d]->cache && i < both[d]->n; i++) keep[n++] = both[d]->cache[i];
  prune_cache(l, keep, n);
  return PU_OK;
}

void pu_train_loop_forget_text(const pu_train_loop *l) {
  prune_cache(l, NULL, 0);
}

/* Is all there, before some of it is tokenised? */
static pu_err check_paths(const pu_train_config *cfg, pu_error *e) {
  const pu_train_source *s = cfg->data.sources.items;
  for (size_t i = 0; i < cfg->data.sources.n; i++)
    if (!pu_path_exists(s[i].path)) return pu_fail(e, PU_ERR_IO, "data.sources: %s: no such file or folder", s[i].path);
  if (cfg->validate.path && !pu_path_exists(cfg->validate.path))
    return pu_fail(e, PU_ERR_IO, "validate.path: %s: no such file or folder", cfg->validate.path);
  return PU_OK;
}

static int64_t round_up(double v) {
  return PU_MAX((int64_t)ceil(v - 1e-9), 1);
}

/* Conversations, as a higher floor reads them. What validation reads is called as the first source calls it. */
static pu_err open_feeds(pu_train_loop *l, const pu_arch *arch, int64_t vocab, pu_error *e) {
  pu_train_feed_options o = {.cfg = &l->cfg,
                             .sources = l->cfg.data.sources.items,
                             .n = l->cfg.data.sources.n,
                             .tokenizer = l->tokenizer,
                             .model = l->from,
                             .arch = arch,
                             .vocab = vocab};
  PU_TRY(pu_train_data_open_feed(l->hooks, &o, &l->data, e));
  if (l->cfg.train.epochs > 0) {
    l->cfg.train.steps = round_up(l->cfg.train.epochs * (double)l->data.feed.rows / (double)l->cfg.train.global_batch);
    PU_TRY(pu_train_config_check_steps(&l->cfg, e));
  }
  if (!l->cfg.validate.path) return PU_OK;
  pu_train_source valid = *(const pu_train_source *)l->cfg.data.sources.items;
  valid.path = l->cfg.validate.path;
  o.sources = &valid;
  o.n = 1;
  o.valid = true;
  pu_err err = pu_train_data_open_feed(l->hooks, &o, &l->valid, e);
  return err == PU_OK ? err : pu_fail_in(e, err, "validate.path");
}

static pu_err open_data(pu_train_loop *l, const pu_arch *arch, const pu_hparams *hp, pu_error *e) {
  pu_train_data_options o = {.seq_len = l->cfg.data.seq_len,
                             .seed = (uint64_t)l->cfg.train.seed,
                             .tokenizer = l->tokenizer,
                             .run = l->cfg.run};
  PU_TRY(check_paths(&l->cfg, e));
  if (l->cfg.task == PU_TASK_SFT) return open_feeds(l, arch, hp->vocab, e);
  if (!l->data.fixed)
    PU_TRY(pu_train_data_open(l->cfg.data.sources.items, l->cfg.data.sources.n, &o, l->host, &l->data, e));
  if (l->cfg.validate.path) {
    pu_train_source valid = pu_train_data_guess(l->cfg.validate.path);
    pu_err err = pu_train_data_open(&valid, 1, &o, l->host, &l->valid, e);
    if (err != PU_OK) return pu_fail_in(e, err, "validate.path");
  }
  return forget_old_text(l, e);
}

/* ---- model and memory ---- */

/* The hyper-parameters before a byte of weights is read. A shape takes its vocabulary from the tokenizer. */
static pu_err describe(pu_train_loop *l, const pu_arch **arch, pu_hparams *hp, pu_error *e) {
  if (l->from) {
    const char *path = pu_path_join(l->host, l->from, "config.json");
    if (!path) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for a name", l->from);
    return damaged(l, l->from, pu_config_read(path, arch, hp, e), e);
  }
  const pu_shape *shape = pu_shape_find(l->cfg.model.shape);
  *arch = pu_arch_find(shape->arch);
  *hp = shape->hp;
  hp->max_position = PU_MAX(hp->max_position, l->cfg.data.seq_len);
  if (!l->tokenizer) return PU_OK;
  hp->vocab = pu_tokenizer_size(l->tokenizer);
  if (pu_tokenizer_bos(l->tokenizer) >= 0) hp->bos = pu_tokenizer_bos(l->tokenizer);
  if (pu_tokenizer_eos(l->tokenizer) >= 0) {
    hp->eos[0] = pu_tokenizer_eos(l->tokenizer);
    hp->n_eos = 1;
  }
  return PU_OK;
}

static pu_err check_fit(const pu_train_loop *l, const pu_hparams *hp, pu_error *e) {
  if (l->tokenizer && pu_tokenizer_size(l->tokenizer) > hp->vocab)
    return pu_fail(e, PU_ERR_FORMAT,
                   "the tokenizer has %d pieces, but the model's vocabulary is %lld: take the model's own tokenizer",
                   pu_tokenizer_size(l->tokenizer), (long long)hp->vocab);
  PU_TRY(pu_train_data_check(&l->data, hp->vocab, l->tokenizer, e));
  if (l->cfg.validate.path) PU_TRY(pu_train_data_check(&l->valid, hp->vocab, l->tokenizer, e));
  if (l->cfg.data.seq_len > hp->max_position)
    pu_log(PU_LOG_WARN, "data.seq_len %lld is above the model's max_position %lld", (long long)l->cfg.data.seq_len,
           (long long)hp->max_position);
  return PU_OK;
}

/* Before the data, which may be hours of tokenising: can the run be there at all? */
static pu_err open_device(pu_train_loop *l, const pu_arch *arch, const pu_hparams *hp, pu_error *e) {
  PU_TRY(pu_backend_open(l->cfg.train.device, (int)l->cfg.train.threads, &l->be, e));
  l->be->any_order = !l->cfg.train.deterministic;
  if (l->be->memory) l->base_bytes = pu_train_memory_used(l->be);
  PU_TRY(pu_train_plan_make(l->be, arch, hp, &l->cfg, &l->plan, e));
  pu_train_plan_print(l->be, &l->plan);
  if (l->cfg.train.force) return PU_OK;
  char mend[sizeof l->plan.mend + 40];
  snprintf(mend, sizeof mend, "%s, or train.force=true to try anyway", l->plan.mend);
  return pu_train_plan_check(l->be, l->plan.total, mend, e);
}

/* What is trained beside the model, or nothing. */
static pu_err open_adapter(pu_train_loop *l, pu_error *e) {
  const char *dir = l->resume ? l->resume : l->cfg.lora.path;
  if (!pu_train_config_adapts(&l->cfg)) return PU_OK;
  if (dir) return damaged(l, dir, pu_adapter_load(dir, l->model, true, &l->adapter, e), e);
  const pu_adapter_shape s = {.rank = l->cfg.lora.rank,
                              .alpha = l->cfg.lora.alpha,
                              .rslora = l->cfg.lora.rslora,
                              .targets = l->cfg.lora.targets,
                              .base = l->cfg.model.path};
  return pu_adapter_create(l->model, &s, (uint64_t)l->cfg.model.seed, &l->adapter, e);
}

static pu_err open_model(pu_train_loop *l, const pu_arch *arch, const pu_hparams *hp, pu_error *e) {
  const pu_model_options o = pu_train_model_options(&l->cfg);
  PU_TRY(check_fit(l, hp, e));
  if (!l->from) return pu_model_random(arch, hp, (uint64_t)l->cfg.model.seed, l->be, &o, &l->model, e);
  PU_TRY(damaged(l, l->from, pu_model_load(l->from, l->be, &o, &l->model, e), e));
  return open_adapter(l, e);
}

/* There is nothing to do for a run that has all its steps, but its last checkpoint is what it was made for: its files
 * must have what their headers say, and the model all its tensors. Not a value is read. */
static pu_err check_finished(const pu_train_loop *l, pu_error *e) {
  const pu_model_options o = pu_train_model_options(&l->cfg);
  static const char *const names[] = {"optimizer.safetensors", "adapter_model.safetensors"};
  bool adapts = pu_train_config_adapts(&l->cfg);
  size_t bytes;
  if (!l->resume) return PU_OK;
  if (!adapts) PU_TRY(damaged(l, l->resume, pu_model_load_bytes(l->resume, &o, &bytes, e), e));
  for (size_t i = 0; i < (adapts ? 2 : 1); i++) {
    pu_safetensors *f;
    const char *path = pu_path_join(l->host, l->resume, names[i]);
    if (!path) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for a name", l->resume);
    PU_TRY(damaged(l, l->resume, pu_safetensors_open(path, &f, e), e));
    pu_safetensors_close(f);
  }
  return PU_OK;
}

/* The work space of a step. */
static pu_err open_step(pu_train_loop *l, pu_error *e) {
  int64_t micro = l->cfg.train.micro_batch, T = l->data.seq_len;
  size_t room = pu_train_activation_room(l->be, l->plan.activations);
  PU_TRY(l->be->alloc(l->be, room, &l->activation_memory, e));
  PU_TRY(pu_arena_wrap(l->activation_memory, room, &l->ctx.mem, e));
  PU_TRY(pu_arena_create((size_t)1 << 30, &l->step_host, e));
  l->ctx.be = l->be;
  l->ctx.host = l->step_host;
  l->ctx.err = e;
  PU_TRY(pu_tape_create(l->step_host, &l->tape, e));
  PU_TRY(pu_train_rows_create(l->cfg.train.global_batch, T, l->host, &l->rows, e));
  PU_TRY(pu_train_rows_create(micro, T, l->host, &l->valid_rows, e));
  PU_TRY(pu_train_pack_create(micro * T, l->host, &l->pack, e));
  PU_TRY(pu_train_news_open(l->be, PU_MAX(l->cfg.train.global_batch, micro) * T, &l->news, e));
  l->most_sources = PU_MAX(l->data.n, l->valid.n);
  l->source_loss = pu_arena_alloc(l->host, l->most_sources * sizeof *l->source_loss);
  l->source_tokens = pu_arena_alloc(l->host, l->most_sources * sizeof *l->source_tokens);
  if (!l->source_loss || !l->source_tokens) return pu_fail(e, PU_ERR_NOMEM, "no memory for a step");
  return PU_OK;
}

static pu_err open_memory(pu_train_loop *l, pu_error *e) {
  size_t n = l->model->n_params;
  pu_param *params = l->adapter ? pu_adapter_params(l->adapter, &n) : l->model->params;
  size_t held = l->data.feed.read ? (size_t)(l->data.tokens + l->valid.tokens) * sizeof(int32_t) : 0;
  l->plan.data += held; /* a feed's samples */
  *(l->be->memory ? &l->plan.host : &l->plan.total) += held;
  PU_TRY(pu_train_optim_create(l->be, params, n, pu_train_moment_type(&l->cfg), l->host, &l->optim, e));
  if (l->resume) PU_TRY(damaged(l, l->resume, pu_train_optim_restore(l->resume, &l->optim, e), e));
  PU_TRY(open_step(l, e));
  pu_train_saver_options o = {.run = l->cfg.run,
                              .model = l->model,
                              .adapter = l->adapter,
                              .keep = l->cfg.checkpoint.keep,
                              .tokenizer = l->tokenizer,
                              .copy_from = l->from,
                              .config = l->config};
  return pu_train_saver_create(&l->optim, &o, &l->saver, e);
}

/* ---- what the run writes ---- */

static pu_err cut_logs(const pu_train_loop *l, pu_error *e) {
  PU_TRY(pu_train_dir_cut(l->cfg.run, "metrics.jsonl", l->state.step, e));
  return pu_train_dir_cut(l->cfg.run, "samples.jsonl", l->state.step, e);
}

static pu_err open_logs(pu_train_loop *l, pu_error *e) {
  PU_TRY(cut_logs(l, e));
  const char *path = pu_path_join(l->host, l->cfg.run, "config.yaml");
  if (!path) return pu_fail(e, PU_ERR_NOMEM, "no memory for a name");
  PU_TRY(pu_file_write(path, l->config, strlen(l->config), e));
  PU_TRY(pu_train_write_facts(l, e));
  PU_TRY(pu_train_log_open(&l->metrics, l->cfg.run, "metrics.jsonl", e));
  if (l->cfg.sample.every > 0) return pu_train_log_open(&l->samples, l->cfg.run, "samples.jsonl", e);
  return PU_OK;
}

/* Passes over the data that the steps make. */
static double passes(const pu_train_loop *l) {
  double rows = 0;
  int64_t steps = l->cfg.train.steps, ramp = PU_MIN(l->cfg.train.ramp_steps, steps);
  for (int64_t s = 1; s <= ramp; s++) rows += (double)pu_train_batch(&l->cfg, s);
  rows += (double)l->cfg.train.global_batch * (double)(steps - ramp);
  if (l->data.feed.read) return rows / (double)l->data.feed.rows;
  return rows * (double)l->data.seq_len / (double)l->data.tokens;
}

static void announce(const pu_train_loop *l) {
  char steps[64] = "as many steps", end[64];
  double minutes = l->cfg.train.minutes;
  if (minutes > 0) {
    snprintf(end, sizeof end, " as fit in %g min", minutes);
  } else {
    snprintf(steps, sizeof steps, "%lld steps", (long long)l->cfg.train.steps);
    snprintf(end, sizeof end, ": %.2f passes", passes(l));
  }
  pu_log(PU_LOG_INFO, "%s, %.2fM parameters; %.2fM tokens of data; %s of %lld sequences of %lld%s",
         l->model->arch->name, (double)pu_hparams_count(&l->model->hp, false) / 1e6, (double)l->data.tokens / 1e6,
         steps, (long long)l->cfg.train.global_batch, (long long)l->data.seq_len, end);
  if (l->adapter) {
    double trained = 0;
    for (size_t i = 0; i < l->optim.n_params; i++) trained += (double)pu_tensor_count(l->optim.params[i].w);
    pu_log(PU_LOG_INFO, "an adapter of %.2fM parameters is trained; the model stays as it is", trained / 1e6);
  }
  if (l->resume) pu_log(PU_LOG_INFO, "resuming after step %lld (%s)", (long long)l->saved_step, l->resume);
}

pu_err pu_train_loop_open(pu_train_loop *l, const pu_train_config *cfg, const pu_train_hooks *hooks, pu_error *e) {
  *l = (pu_train_loop){.cfg = *cfg, .hooks = hooks, .metrics = {.fd = -1}, .samples = {.fd = -1}};
  l->loss = NAN;
  const char *was_yaml = NULL;
  l->base_bytes = pu_memory_used();
  l->started = time(NULL);
  PU_TRY(pu_arena_create(HOST_MAX, &l->host, e));
  PU_TRY(resolve(l, e)); /* before the directory is made: what makes no sense leaves nothing behind */
  PU_TRY(open_run(l, &was_yaml, e));
  if (was_yaml) PU_TRY(compare_config(l, was_yaml, e));
  PU_TRY(keep_config(l, e));
  pu_train_loop_follow_clock(l); /* resumed: by the time it took so far */
  if (pu_train_loop_done(l) && l->cfg.train.epochs <= 0) {
    PU_TRY(check_finished(l, e));
    return cut_logs(l, e); /* the rest tells of steps that were made, and stays */
  }
  const pu_arch *arch;
  pu_hparams hp;
  PU_TRY(open_tokenizer(l, e));
  PU_TRY(describe(l, &arch, &hp, e));
  PU_TRY(open_device(l, arch, &hp, e));
  PU_TRY(open_data(l, arch, &hp, e));
  PU_TRY(open_model(l, arch, &hp, e));
  PU_TRY(open_memory(l, e));
  PU_TRY(pu_train_peak_raise(&l->ctx, l->model->dtype, &l->peak_flops));
  PU_TRY(open_logs(l, e));
  announce(l);
  return PU_OK;
}

pu_err pu_train_make_plan(const pu_train_config *cfg, pu_train_plan *out, pu_error *e) {
  pu_train_loop l = {.cfg = *cfg, .metrics = {.fd = -1}, .samples = {.fd = -1}};
  const pu_arch *arch;
  pu_hparams hp;
  *out = (pu_train_plan){0};
  PU_TRY(pu_arena_create(HOST_MAX, &l.host, e));
  pu_err err = resolve(&l, e);
  l.from = l.cfg.model.path;
  if (!err) err = open_tokenizer(&l, e);
  if (!err) err = describe(&l, &arch, &hp, e);
  if (!err) err = pu_backend_open(l.cfg.train.device, (int)l.cfg.train.threads, &l.be, e);
  if (!err) l.be->any_order = !l.cfg.train.deterministic;
  if (!err) err = pu_train_plan_make(l.be, arch, &hp, &l.cfg, out, e);
  pu_train_loop_close(&l);
  return err;
}

void pu_train_loop_close(pu_train_loop *l) {
  pu_train_live_end();
  pu_train_saver_free(l->saver);
  pu_train_log_close(&l->metrics);
  pu_train_log_close(&l->samples);
  pu_train_optim_free(&l->optim);
  pu_train_news_close(&l->news);
  pu_arena_free(l->ctx.mem);
  if (l->activation_memory) l->be->free(l->be, l->activation_memory);
  pu_arena_free(l->step_host);
  pu_adapter_free(l->adapter);
  pu_model_free(l->model);
  if (l->be) l->be->close(l->be);
  pu_train_data_close(&l->valid);
  pu_train_data_close(&l->data);
  pu_tokenizer_free(l->tokenizer);
  pu_claim_close(l->claim);
  pu_arena_free(l->host);
}
