#include "src/train/checkpoint.h"

#include "src/train/run_dir.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* What stands beside a model's weights; an adapter is beside its base, which has the first. */
static const char *const BESIDE[] = {"generation_config.json", "chat_template.jinja", "chat_template.json"};
enum { N_BESIDE = PU_COUNT(BESIDE), BESIDE_MAX = 4 << 20 };

struct pu_train_saver {
  const pu_train_optim *optim;
  pu_train_saver_options o;
  pu_buf beside[N_BESIDE]; /* those files; empty: not there */
  pu_arena *memory;        /* the copy */
  pu_backend host;         /* the copy's backend: the real one's threads are at work on the next step */
  pu_model model;          /* the real one's description over the copy; of an adapter only the backend */
  pu_param *params;        /* [n_params] over the copy */
  size_t n_params;
  pu_tensor *m, *v; /* [n_params] headers over the copy */
  pu_train_state state;

  pthread_t thread;
  bool started;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool busy, quit; /* under lock, like the two below */
  pu_err failed;
  pu_error error;
};

/* ---- the files of a checkpoint ---- */

static pu_err path_in(const char *dir, const char *name, char path[PATH_MAX], pu_error *e) {
  if (snprintf(path, PATH_MAX, "%s/%s", dir, name) < PATH_MAX) return PU_OK;
  return pu_fail(e, PU_ERR_USAGE, "%.80s…: the name is too long", dir);
}

static void put_num(pu_buf *b, const char *key, double v) {
  char text[32];
  pu_format_double(text, v);
  pu_buf_printf(b, "  \"%s\": %s,\n", key, text);
}

static pu_err write_state(const char *dir, const pu_train_state *s, const char *config, pu_error *e) {
  const struct {
    const char *key;
    int64_t v;
  } ints[] = {{"step", s->step},     {"updates", s->updates},           {"samples", s->samples},
              {"tokens", s->tokens}, {"skips_in_row", s->skips_in_row}, {"skips", s->skips},
              {"norms", s->norms}};
  char path[PATH_MAX];
  PU_TRY(path_in(dir, "state.json", path, e));
  pu_buf b;
  pu_buf_init(&b, 4 << 20);
  pu_buf_puts(&b, "{\n  \"version\": 1,\n");
  for (size_t i = 0; i < PU_COUNT(ints); i++) pu_buf_printf(&b, "  \"%s\": %lld,\n", ints[i].key, (long long)ints[i].v);
  put_num(&b, "norm_mean", s->norm_mean);
  put_num(&b, "seconds", s->seconds);
  put_num(&b, "valid_loss", s->valid_loss);
  pu_buf_puts(&b, "  \"config\": ");
  pu_buf_json_str(&b, pu_str_c(config));
  pu_buf_puts(&b, "\n}\n");
  pu_err err =
      b.failed ? pu_fail(e, PU_ERR_NOMEM, "%s: no memory to write it", path) : pu_file_write(path, b.data, b.len, e);
  pu_buf_deinit(&b);
  return err;
}

static pu_st_source moment_source(const char *name, const pu_tensor *t) {
  pu_st_source s = {.name = name, .dtype = t->dtype, .ndim = t->ndim, .data = t->data};
  memcpy(s.shape, t->shape, sizeof s.shape);
  return s;
}

/* exp_avg.NAME and exp_avg_sq.NAME (PyTorch's words) by the parameter's name in memory: no layout of files or ranks in
 * it. */
static pu_err write_moments(const pu_train_saver *s, const char *dir, pu_error *e) {
  size_t n = s->n_params;
  pu_arena *a;
  PU_TRY(pu_arena_create(n * 1024 + (1 << 20), &a, e));
  pu_st_source *tensors = pu_arena_alloc(a, 2 * n * sizeof *tensors);
  const char *path = pu_path_join(a, dir, "optimizer.safetensors");
  bool ok = tensors && path;
  for (size_t i = 0; ok && i < n; i++) {
    const char *first = pu_arena_printf(a, "exp_avg.%s", s->params[i].name);
    const char *second = pu_arena_printf(a, "exp_avg_sq.%s", s->params[i].name);
    ok = first && second;
    tensors[2 * i] = moment_source(first, &s->m[i]);
    tensors[2 * i + 1] = moment_source(second, &s->v[i]);
  }
  pu_err err = ok ? pu_safetensors_write(path, tensors, 2 * n, NULL, e)
                  : pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the optimiser's names", dir);
  pu_arena_free(a);
  return err;
}

/* They are read once: the checkpoint they stand in may be removed while the run goes on. */
static pu_err keep_beside(pu_train_saver *s, pu_error *e) {
  char path[PATH_MAX];
  for (size_t i = 0; i < N_BESIDE; i++) pu_buf_init(&s->beside[i], BESIDE_MAX);
  for (size_t i = s->o.adapter ? 1 : 0; s->o.copy_from && i < N_BESIDE; i++) {
    PU_TRY(path_in(s->o.copy_from, BESIDE[i], path, e));
    if (pu_path_exists(path)) PU_TRY(pu_file_read(path, BESIDE_MAX, &s->beside[i], e));
  }
  return PU_OK;
}

static pu_err write_beside(const pu_train_saver *s, const char *dir, pu_error *e) {
  char path[PATH_MAX];
  for (size_t i = 0; i < N_BESIDE; i++) {
    if (s->beside[i].len == 0) continue;
    PU_TRY(path_in(dir, BESIDE[i], path, e));
    PU_TRY(pu_file_write(path, s->beside[i].data, s->beside[i].len, e));
  }
  return PU_OK;
}

static pu_err write_weights(const pu_train_saver *s, const char *dir, pu_error *e) {
  if (s->o.adapter) return pu_adapter_save_params(s->o.adapter, s->params, dir, PU_F32, e);
  return pu_model_save(&s->model, dir, PU_F32, 0, e);
}

static pu_err write_files(const pu_train_saver *s, const char *dir, pu_error *e) {
  PU_TRY(pu_mkdirs(dir, e));
  PU_TRY(write_weights(s, dir, e));
  if (s->o.tokenizer) PU_TRY(pu_tokenizer_save(s->o.tokenizer, dir, e));
  PU_TRY(write_beside(s, dir, e));
  PU_TRY(write_moments(s, dir, e));
  PU_TRY(write_state(dir, &s->state, s->o.config, e));
  return pu_fsync_dir(dir, e);
}

/* Old checkpoints go only after the new one stands. */
static pu_err write_checkpoint(const pu_train_saver *s, pu_error *e) {
  char temporary[PATH_MAX], final[PATH_MAX];
  PU_TRY(pu_train_dir_step(s->o.run, s->state.step, true, temporary, e));
  PU_TRY(pu_train_dir_step(s->o.run, s->state.step, false, final, e));
  if (pu_path_is_dir(final)) return PU_OK;
  PU_TRY(pu_remove_tree(temporary, e));
  pu_err err = write_files(s, temporary, e);
  if (err == PU_OK && rename(temporary, final) != 0)
    err = pu_fail(e, PU_ERR_IO, "%s: cannot rename the checkpoint into place: %s", final, strerror(errno));
  if (err == PU_OK) err = pu_fsync_dir(s->o.run, e);
  if (err != PU_OK) {
    (void)!pu_remove_tree(temporary, NULL);
    int64_t older = -1;
    (void)!pu_train_dir_newest(s->o.run, &older, NULL);
    return pu_fail_in(e, err, "the checkpoint of step %lld was not saved%s", (long long)s->state.step,
                      older >= 0 ? " (older ones are untouched)" : "");
  }
  return pu_train_dir_prune(s->o.run, s->o.keep, e);
}

/* ---- the thread ---- */

static void *saver_main(void *arg) {
  pu_train_saver *s = arg;
  pthread_mutex_lock(&s->lock);
  for (;;) {
    while (!s->busy && !s->quit) pthread_cond_wait(&s->changed, &s->lock);
    if (!s->busy) break;
    pthread_mutex_unlock(&s->lock);
    pu_error error = {0};
    pu_err err = write_checkpoint(s, &error);
    pthread_mutex_lock(&s->lock);
    if (err != PU_OK && s->failed == PU_OK) {
      s->failed = err;
      s->error = error;
    }
    s->busy = false;
    pthread_cond_broadcast(&s->changed);
  }
  pthread_mutex_unlock(&s->lock);
  return NULL;
}

static pu_err take_failure(pu_train_saver *s, pu_error *e) {
  pu_err err = s->failed;
  if (err != PU_OK) pu_fail(e, err, "%s", s->error.msg);
  s->failed = PU_OK;
  return err;
}

pu_err pu_train_saver_poll(pu_train_saver *s, pu_error *e) {
  pthread_mutex_lock(&s->lock);
  pu_err err = s->busy ? PU_OK : take_failure(s, e);
  pthread_mutex_unlock(&s->lock);
  return err;
}

pu_err pu_train_saver_wait(pu_train_saver *s, pu_error *e) {
  pthread_mutex_lock(&s->lock);
  while (s->busy) pthread_cond_wait(&s->changed, &s->lock);
  pu_err err = take_failure(s, e);
  pthread_mutex_unlock(&s->lock);
  return err;
}

/* ---- the copy ---- */

static pu_err host_download(pu_backend *be, void *to, const void *from, size_t bytes, pu_error *e) {
  (void)be, (void)e;
  memcpy(to, from, bytes);
  return PU_OK;
}

enum { PARTS = 4 };

/* What is copied of a parameter: its values, their lower halves or NULL, both moments. */
static void parts_of(const pu_train_optim *o, size_t i, const pu_tensor *parts[PARTS]) {
  const pu_tensor *all[PARTS] = {o->params[i].w, o->params[i].low, &o->m[i], &o->v[i]};
  memcpy(parts, all, sizeof all);
}

size_t pu_train_saver_bytes(const pu_train_optim *optim) {
  size_t bytes = 0;
  for (size_t i = 0; i < optim->n_params; i++) {
    const pu_tensor *parts[PARTS];
    parts_of(optim, i, parts);
    for (int k = 0; k < PARTS; k++)
      if (parts[k]) bytes += (pu_tensor_bytes(parts[k]) + 63) / 64 * 64;
  }
  return bytes;
}

static bool over_copy(pu_train_saver *s, const pu_tensor *like, pu_tensor *out) {
  *out = *like;
  out->data = pu_arena_alloc(s->memory, pu_tensor_bytes(like));
  out->grad = NULL;
  out->grad_set = out->grad_late = false;
  return out->data != NULL;
}

/* The copy's headers: params, their values and both moments, each over its own part of the memory. */
static bool lay_out(pu_train_saver *s) {
  size_t n = s->optim->n_params;
  pu_tensor *values = pu_arena_alloc(s->memory, 2 * n * sizeof *values);
  s->host = (pu_backend){.name = "cpu", .download = host_download};
  s->params = pu_arena_alloc(s->memory, n * sizeof *s->params);
  s->n_params = n;
  s->model = *s->o.model;
  s->model.be = &s->host;
  s->model.params = s->params;
  s->model.n_params = n;
  s->m = pu_arena_alloc(s->memory, n * sizeof *s->m);
  s->v = pu_arena_alloc(s->memory, n * sizeof *s->v);
  if (!values || !s->params || !s->m || !s->v) return false;
  for (size_t i = 0; i < n; i++) {
    pu_tensor *to[PARTS] = {&values[2 * i], &values[2 * i + 1], &s->m[i], &s->v[i]};
    const pu_tensor *parts[PARTS];
    parts_of(s->optim, i, parts);
    for (int k = 0; k < PARTS; k++)
      if (parts[k] && !over_copy(s, parts[k], to[k])) return false;
    s->params[i] = s->optim->params[i];
    s->params[i].w = to[0];
    if (parts[1]) s->params[i].low = to[1];
  }
  return true;
}

pu_err pu_train_saver_create(const pu_train_optim *optim, const pu_train_saver_options *o, pu_train_saver **out,
                             pu_error *e) {
  *out = NULL;
  pu_train_saver *s = calloc(1, sizeof *s);
  if (!s) return pu_fail(e, PU_ERR_NOMEM, "no memory for the checkpoint writer");
  s->optim = optim;
  s->o = *o;
  pthread_mutex_init(&s->lock, NULL);
  pthread_cond_init(&s->changed, NULL);
  pu_err err = keep_beside(s, e);
  size_t headers = optim->n_params * (sizeof(pu_param) + PARTS * sizeof(pu_tensor)) + (1 << 16);
  if (err == PU_OK) err = pu_arena_create(pu_train_saver_bytes(optim) + headers, &s->memory, e);
  if (err == PU_OK && !lay_out(s))
    err = pu_fail(e, PU_ERR_NOMEM, "no memory for the copy that checkpoints are made of");
  if (err == PU_OK) {
    s->started = pthread_create(&s->thread, NULL, saver_main, s) == 0;
    if (!s->started) err = pu_fail(e, PU_ERR_NOMEM, "cannot start the thread that writes checkpoints");
  }
  if (err != PU_OK)
    pu_train_saver_free(s);
  else
    *out = s;
  return err;
}

void pu_train_saver_free(pu_train_saver *s) {
  if (!s) return;
  if (s->started) {
    pthread_mutex_lock(&s->lock);
    s->quit = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
  }
  pu_arena_free(s->memory);
  for (size_t i = 0; i < N_BESIDE; i++) pu_buf_deinit(&s->beside[i]);
  pthread_cond_destroy(&s->changed);
  pthread_mutex_destroy(&s->lock);
  free(s);
}

pu_err pu_train_saver_submit(pu_train_saver *s, const pu_train_state *state, pu_error *e) {
  PU_TRY(pu_train_saver_wait(s, e));
  const pu_train_optim *o = s->optim;
  for (size_t i = 0; i < s->n_params; i++) {
    const pu_tensor *to[PARTS] = {s->params[i].w, s->params[i].low, &s->m[i], &s->v[i]}, *parts[PARTS];
    parts_of(o, i, parts);
    for (int k = 0; k < PARTS; k++)
      if (parts[k]) PU_TRY(o->be->download(o->be, to[k]->data, parts[k]->data, pu_tensor_bytes(parts[k]), e));
  }
  pthread_mutex_lock(&s->lock);
  s->state = *state;
  s->busy = true;
  pthread_cond_broadcast(&s->changed);
  pthread_mutex_unlock(&s->lock);
  return PU_OK;
}

/* ---- reading back ---- */

static pu_err parse_state(const json_t *o, const char *path, pu_train_state *s, const char **config, pu_error *e) {
  const struct {
    const char *key;
    int64_t *v;
  } ints[] = {{"step", &s->step},     {"updates", &s->updates},           {"samples", &s->samples},
              {"tokens", &s->tokens}, {"skips_in_row", &s->skips_in_row}, {"skips", &s->skips},
              {"norms", &s->norms}};
  for (size_t i = 0; i < PU_COUNT(ints); i++) PU_TRY(pu_json_int(o, ints[i].key, 0, INT64_MAX, ints[i].v, path, e));
  PU_TRY(pu_json_num_or(o, "norm_mean", 0, &s->norm_mean, path, e));
  PU_TRY(pu_json_num_or(o, "seconds", 0, &s->seconds, path, e));
  PU_TRY(pu_json_num_or(o, "valid_loss", NAN, &s->valid_loss, path, e));
  return pu_json_str_or(o, "config", "", config, path, e);
}

pu_err pu_train_state_read(const char *dir, pu_train_state *state, const char **config, pu_arena *a, pu_error *e) {
  const char *path = pu_path_join(a, dir, "state.json");
  if (!path) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for a name", dir);
  json_t *o;
  *state = (pu_train_state){0};
  PU_TRY(pu_json_read(path, 4 << 20, &o, e));
  pu_err err = parse_state(o, path, state, config, e);
  if (err == PU_OK && !(*config = pu_arena_strdup(a, *config))) err = pu_fail(e, PU_ERR_NOMEM, "%s: no memory", path);
  json_decref(o);
  return err;
}

static pu_err restore_one(const pu_safetensors *f, const char *path, const char *kind, const pu_param *p,
                          const pu_tensor *to, pu_backend *be, pu_error *e) {
  char name[400];
  snprintf(name, sizeof name, "%s.%s", kind, p->name);
  const pu_st_tensor *t = pu_safetensors_find(f, name);
  int64_t n = pu_tensor_count(to);
  if (!t || (t->dtype != PU_F32 && t->dtype != PU_BF16) || t->bytes != (size_t)n * pu_dtype_size(t->dtype) ||
      t->ndim != to->ndim || memcmp(t->shape, to->shape, (size_t)to->ndim * sizeof *t->shape) != 0)
    return pu_fail(e, PU_ERR_FORMAT, "%s: '%s' is %s", path, name, t ? "misshapen" : "missing");
  if (t->dtype == to->dtype) return be->upload(be, to->data, t->data, t->bytes, e);
  /* optim.state has changed since. */
  void *raw = malloc(t->bytes + 1), *typed = malloc(pu_tensor_bytes(to) + 1);
  pu_err err = raw && typed ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "%s: no memory to read '%s'", path, name);
  if (err == PU_OK) {
    memcpy(raw, t->data, t->bytes); /* the file's may be unaligned */
    pu_convert(typed, to->dtype, raw, t->dtype, n);
    err = be->upload(be, to->data, typed, pu_tensor_bytes(to), e);
  }
  free(raw);
  free(typed);
  return err;
}

pu_err pu_train_optim_restore(const char *dir, pu_train_optim *o, pu_error *e) {
  char path[PATH_MAX];
  PU_TRY(path_in(dir, "optimizer.safetensors", path, e));
  pu_safetensors *f;
  PU_TRY(pu_safetensors_open(path, &f, e));
  pu_err err = PU_OK;
  for (size_t i = 0; err == PU_OK && i < o->n_params; i++) {
    const pu_param *p = &o->params[i];
    err = restore_one(f, path, "exp_avg", p, &o->m[i], o->be, e);
    if (err == PU_OK) err = restore_one(f, path, "exp_avg_sq", p, &o->v[i], o->be, e);
  }
  pu_safetensors_close(f);
  return err;
}
