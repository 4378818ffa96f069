#include "src/train/config.h"

#include <string.h>

enum { SCHEDULE_CONSTANT = 0, SCHEDULE_WSD = 3, DEFAULT_BATCH = 64, DEFAULT_MICRO = 8 };

static int64_t largest_divisor(int64_t n, int64_t at_most) {
  for (int64_t d = PU_MIN(n, at_most); d > 1; d--)
    if (n % d == 0) return d;
  return 1;
}

static pu_err check_sources(const pu_train_config *cfg, pu_error *e) {
  const pu_train_source *s = cfg->data.sources.items;
  size_t n = cfg->data.sources.n, weighted = 0;
  if (n == 0)
    return pu_fail(e, PU_ERR_USAGE, "data.sources is empty: give at least one, e.g. {type: text, path: book.txt}");
  for (size_t i = 0; i < n; i++) {
    weighted += s[i].weight > 0;
    if ((s[i].type == PU_SOURCE_CHAT) != (cfg->task == PU_TASK_SFT))
      return pu_fail(e, PU_ERR_USAGE, "data.sources: a source of type chat goes with task: sft, and no other does: %s",
                     cfg->task == PU_TASK_SFT ? "leave its type out" : "set the task");
    if (s[i].type == PU_SOURCE_IDS && n > 1)
      return pu_fail(e, PU_ERR_USAGE, "data.sources: an ids source is the whole batch of every step: give it alone");
  }
  if (weighted != 0 && weighted != n)
    return pu_fail(e, PU_ERR_USAGE, "data.sources: %zu of %zu have a weight: give one to each, or to none", weighted,
                   n);
  return PU_OK;
}

/* All that a task of conversations can have is of that type: it need not be said. */
static void imply_types(pu_train_config *cfg) {
  pu_train_source *s = cfg->data.sources.items;
  for (size_t i = 0; cfg->task == PU_TASK_SFT && i < cfg->data.sources.n; i++)
    if (s[i].type == PU_SOURCE_SHARDS) s[i].type = PU_SOURCE_CHAT;
}

static pu_err check_sft(const pu_train_config *cfg, pu_error *e) {
  const pu_train_source *s = cfg->data.sources.items;
  if (cfg->task != PU_TASK_SFT && cfg->train.epochs > 0)
    return pu_fail(e, PU_ERR_USAGE, "train.epochs goes with task: sft: set train.steps instead");
  if (cfg->task != PU_TASK_SFT) return PU_OK;
  if (cfg->train.epochs > 0 && cfg->train.minutes > 0)
    return pu_fail(e, PU_ERR_USAGE, "train.epochs and train.minutes: give one of them");
  if (cfg->data.cross_document)
    return pu_fail(e, PU_ERR_USAGE, "data.cross_document: no conversation sees another: leave it out");
  for (size_t i = 0; i < cfg->data.sources.n; i++)
    if (s[i].weight > 0)
      return pu_fail(e, PU_ERR_USAGE,
                     "data.sources: %s has a weight, but each conversation comes once in a pass: leave it out",
                     s[i].path);
  return PU_OK;
}

static pu_err check_lora(const pu_train_config *cfg, pu_error *e) {
  if (cfg->lora.base && !pu_train_config_adapts(cfg))
    return pu_fail(e, PU_ERR_USAGE, "lora.base: nf4 keeps the model as it is: set lora.rank, for an adapter to train");
  if (!pu_train_config_adapts(cfg)) return PU_OK;
  if (cfg->lora.rank > 0 && cfg->lora.path)
    return pu_fail(e, PU_ERR_USAGE, "lora.path is an adapter with a rank of its own: leave lora.rank out");
  if (!cfg->model.path)
    return pu_fail(e, PU_ERR_USAGE, "lora: an adapter stands beside a model that is there: set model.path");
  return PU_OK;
}

static pu_err check_model(const pu_train_config *cfg, pu_error *e) {
  if (cfg->train.weights && (cfg->train.precision || pu_train_config_adapts(cfg)))
    return pu_fail(e, PU_ERR_USAGE,
                   "train.weights: bf16 goes with train.precision: bf16 and without an adapter (whose "
                   "values are few): leave it out");
  if (cfg->train.grads && (cfg->train.precision || pu_train_config_adapts(cfg)))
    return pu_fail(e, PU_ERR_USAGE,
                   "train.grads: bf16 goes with train.precision: bf16 and without an adapter (whose "
                   "values are few): leave it out");
  if (cfg->train.linear && (cfg->train.precision || pu_train_config_adapts(cfg)))
    return pu_fail(e, PU_ERR_USAGE,
                   "train.linear: fp8 goes with train.precision: bf16 and with training the model itself, not an "
                   "adapter: leave it out");
  if (!cfg->model.path == !cfg->model.shape)
    return pu_fail(e, PU_ERR_USAGE, "model: give either path (a model to start from) or shape (random weights)%s",
                   cfg->model.path ? ", not both" : "");
  if (cfg->model.shape && !pu_shape_find(cfg->model.shape)) {
    pu_buf names;
    pu_buf_init(&names, 4096);
    const pu_shape *shape;
    for (size_t i = 0; (shape = pu_shape_at(i)); i++) pu_buf_printf(&names, "%s%s", i ? ", " : "", shape->name);
    pu_fail(e, PU_ERR_USAGE, "model.shape: there is no '%s'; known: %s", cfg->model.shape,
            names.data ? names.data : "");
    pu_buf_deinit(&names);
    return PU_ERR_USAGE;
  }
  return PU_OK;
}

static pu_err check_batch(const pu_train_config *cfg, pu_error *e) {
  int64_t batch = cfg->train.global_batch, micro = cfg->train.micro_batch;
  if (batch % micro != 0)
    return pu_fail(e, PU_ERR_USAGE,
                   "train.global_batch %lld is not a multiple of train.micro_batch %lld: set one of them so that it is",
                   (long long)batch, (long long)micro);
  if (cfg->train.grads && batch > micro)
    return pu_fail(e, PU_ERR_USAGE,
                   "train.grads: bf16 would be rounded anew by each of a step's %lld micro-batches: set "
                   "train.micro_batch to train.global_batch, or leave it out",
                   (long long)(batch / micro));
  if (cfg->train.ramp_start > batch)
    return pu_fail(e, PU_ERR_USAGE, "train.ramp_start %lld is above train.global_batch %lld: lower it",
                   (long long)cfg->train.ramp_start, (long long)batch);
  if (!cfg->train.ramp_start != !cfg->train.ramp_steps)
    return pu_fail(e, PU_ERR_USAGE, "train.ramp_start and train.ramp_steps belong together: give both or none");
  return PU_OK;
}

pu_err pu_train_config_check_steps(const pu_train_config *cfg, pu_error *e) {
  long long steps = cfg->train.steps, warmup = cfg->schedule.warmup, decay = cfg->schedule.decay;
  if (warmup >= steps)
    return pu_fail(e, PU_ERR_USAGE, "schedule.warmup %lld leaves nothing of train.steps %lld: lower it", warmup, steps);
  if (cfg->schedule.type == SCHEDULE_WSD && warmup + decay > steps)
    return pu_fail(e, PU_ERR_USAGE, "schedule.warmup %lld and schedule.decay %lld do not fit into train.steps %lld",
                   warmup, decay, steps);
  return PU_OK;
}

static pu_err check_schedule(const pu_train_config *cfg, pu_error *e) {
  const pu_floats *b = &cfg->optim.betas;
  /* Where the clock or the data end the run, nobody knows yet how many steps there will be. */
  if (cfg->train.minutes <= 0 && cfg->train.epochs <= 0) PU_TRY(pu_train_config_check_steps(cfg, e));
  if (cfg->schedule.type != SCHEDULE_CONSTANT && cfg->schedule.min_lr > cfg->optim.lr)
    return pu_fail(e, PU_ERR_USAGE, "schedule.min_lr %g is above optim.lr %g: lower it", cfg->schedule.min_lr,
                   cfg->optim.lr);
  if (b->n != 2 || !(b->v[0] >= 0 && b->v[0] < 1 && b->v[1] >= 0 && b->v[1] < 1))
    return pu_fail(e, PU_ERR_USAGE, "optim.betas: two numbers in [0, 1), such as [0.9, 0.95]");
  return PU_OK;
}

static pu_err check_rest(const pu_train_config *cfg, pu_error *e) {
  if (!cfg->run || !cfg->run[0]) return pu_fail(e, PU_ERR_USAGE, "run is missing: name the directory of the run");
  if (cfg->sample.every > 0 && cfg->sample.prompts.n == 0)
    return pu_fail(e, PU_ERR_USAGE, "sample.every is set, but sample.prompts is empty: give something to continue");
  return PU_OK;
}

pu_err pu_train_config_resolve(pu_train_config *cfg, int64_t ids_rows, pu_error *e) {
  if (ids_rows > 0 && cfg->train.global_batch == 0) cfg->train.global_batch = ids_rows;
  if (ids_rows > 0 && cfg->train.global_batch != ids_rows)
    return pu_fail(e, PU_ERR_USAGE,
                   "train.global_batch is %lld, but the ids source holds %lld sequences: leave global_batch out",
                   (long long)cfg->train.global_batch, (long long)ids_rows);
  if (ids_rows > 0 && cfg->train.ramp_start > 0)
    return pu_fail(e, PU_ERR_USAGE, "train.ramp_start: an ids source is the same batch every step: leave the ramp out");
  if (cfg->train.global_batch == 0) cfg->train.global_batch = PU_MAX(cfg->train.micro_batch, DEFAULT_BATCH);
  if (cfg->train.micro_batch == 0) cfg->train.micro_batch = largest_divisor(cfg->train.global_batch, DEFAULT_MICRO);
  if (ids_rows > 0) cfg->train.micro_batch = PU_MIN(cfg->train.micro_batch, ids_rows);
  imply_types(cfg);
  PU_TRY(check_rest(cfg, e));
  PU_TRY(check_model(cfg, e));
  PU_TRY(check_sources(cfg, e));
  PU_TRY(check_sft(cfg, e));
  PU_TRY(check_lora(cfg, e));
  PU_TRY(check_batch(cfg, e));
  return check_schedule(cfg, e);
}

/* ---- what changed since the checkpoint ---- */

/* Keys that may change without changing a single loss. (Results do not depend on the number of threads; what of
 * model.* may change at all is checked apart.) */
static const char *const harmless[] = {"run",           "checkpoint.", "validate.",       "sample.",         "log.",
                                       "train.threads", "train.force", "train.max_skips", "train.recompute", "model."};

static bool is_harmless(const pu_train_config *is, const char *key) {
  for (size_t i = 0; i < PU_COUNT(harmless); i++)
    if (strncmp(key, harmless[i], strlen(harmless[i])) == 0) return true;
  if (strcmp(key, "train.steps") == 0 && is->train.epochs > 0) return true; /* they decide */
  /* A longer run bends every schedule but the constant one. */
  return strcmp(key, "train.steps") == 0 && is->schedule.type == SCHEDULE_CONSTANT;
}

static bool same_str(const char *a, const char *b) {
  return a == b || (a && b && strcmp(a, b) == 0);
}

static bool same_value(const pu_option *o, const char *a, const char *b);

static bool same_row(const pu_option *table, const char *a, const char *b) {
  for (const pu_option *o = table; o->key; o++)
    if (!same_value(o, a + o->offset, b + o->offset)) return false;
  return true;
}

static bool same_list(const pu_option *o, const pu_list *a, const pu_list *b) {
  if (a->n != b->n) return false;
  for (size_t i = 0; i < a->n; i++)
    if (!same_row(o->sub, (const char *)a->items + i * o->sub_size, (const char *)b->items + i * o->sub_size))
      return false;
  return true;
}

static bool same_strs(const pu_strs *a, const pu_strs *b) {
  if (a->n != b->n) return false;
  for (size_t i = 0; i < a->n; i++)
    if (!same_str(a->v[i], b->v[i])) return false;
  return true;
}

static bool same_value(const pu_option *o, const char *a, const char *b) {
  switch (o->type) {
  case PU_OPT_BOOL:
    return *(const bool *)a == *(const bool *)b;
  case PU_OPT_INT:
    return *(const int64_t *)a == *(const int64_t *)b;
  case PU_OPT_FLOAT:
    return memcmp(a, b, sizeof(double)) == 0;
  case PU_OPT_ENUM:
    return *(const int *)a == *(const int *)b;
  case PU_OPT_STR:
    return same_str(*(const char *const *)a, *(const char *const *)b);
  case PU_OPT_STRS:
    return same_strs((const pu_strs *)a, (const pu_strs *)b);
  case PU_OPT_LIST:
    return same_list(o, (const pu_list *)a, (const pu_list *)b);
  case PU_OPT_FLOATS: {
    const pu_floats *x = (const pu_floats *)a, *y = (const pu_floats *)b;
    return x->n == y->n && memcmp(x->v, y->v, x->n * sizeof *x->v) == 0;
  }
  default:
    return true;
  }
}

static const char *model_name(const pu_train_config *c) {
  return c->model.shape ? c->model.shape : c->model.path ? c->model.path : "none";
}

/* A run's adapter is what it was begun as. */
static pu_err same_adapter(const pu_train_config *was, const pu_train_config *is, pu_error *e) {
  bool same = was->lora.rank == is->lora.rank && was->lora.rslora == is->lora.rslora &&
              !(was->lora.alpha < is->lora.alpha) && !(was->lora.alpha > is->lora.alpha) &&
              same_strs(&was->lora.targets, &is->lora.targets) && same_str(was->lora.path, is->lora.path);
  if (same && was->task == is->task) return PU_OK;
  return pu_fail(e, PU_ERR_USAGE, "%s: the run %s was begun with another: take another run directory",
                 same ? "task" : "lora", is->run);
}

pu_err pu_train_config_same_model(const pu_train_config *was, pu_train_config *is, pu_error *e) {
  PU_TRY(same_adapter(was, is, e));
  if (!same_str(was->model.shape, is->model.shape))
    return pu_fail(e, PU_ERR_USAGE, "model: the run %s was begun with %s %s, not %s: take another run directory",
                   is->run, was->model.shape ? "shape" : "path", model_name(was), model_name(is));
  bool moved = !same_str(was->model.path, is->model.path);
  if (moved && pu_train_config_adapts(is)) {
    pu_log(PU_LOG_WARN,
           "model.path: the run was begun with %s; its adapter is worth something only beside the same weights",
           model_name(was));
    return PU_OK;
  }
  if (moved)
    pu_log(PU_LOG_WARN, "model.path: the run was begun with %s and goes on from its own checkpoint, not from %s",
           model_name(was), model_name(is));
  if (was->model.shape && was->model.seed != is->model.seed)
    pu_log(PU_LOG_WARN, "model.seed: the run was begun with %lld; %lld changes nothing any more",
           (long long)was->model.seed, (long long)is->model.seed);
  is->model.path = was->model.path;
  is->model.seed = was->model.seed;
  return PU_OK;
}

void pu_train_config_changes(const pu_train_config *was, const pu_train_config *is, pu_buf *keys) {
  for (const pu_option *o = pu_train_options; o->key; o++) {
    if (o->type == PU_OPT_GROUP || is_harmless(is, o->key)) continue;
    if (!same_value(o, (const char *)was + o->offset, (const char *)is + o->offset))
      pu_buf_printf(keys, "%s%s", keys->len ? ", " : "", o->key);
  }
}
