/* The sources of weights, and the first of them: a Hugging Face directory. */
#include "src/model/source.h"

#include <stdlib.h>
#include <string.h>

/* ---- a Hugging Face directory ---- */

/* "step-000061" before "step-1000000"; anything else before both. */
static bool is_later_step(const char *name, const char *than) {
  size_t n = strlen(name);
  if (strncmp(name, "step-", 5) != 0 || n < 11 || strspn(name + 5, "0123456789") != n - 5) return false;
  return !than || n > strlen(than) || (n == strlen(than) && strcmp(name, than) > 0);
}

/* Whoever names a run means its newest checkpoint. */
static pu_err check_no_run(const char *dir, pu_arena *a, pu_error *e) {
  char **names;
  size_t n;
  const char *newest = NULL;
  PU_TRY(pu_dir_list(a, dir, &names, &n, e));
  for (size_t i = 0; i < n; i++)
    if (is_later_step(names[i], newest)) newest = names[i];
  if (!newest) return PU_OK;
  return pu_fail(e, PU_ERR_FORMAT, "%s: the folder of a training run, no model: did you mean %s?", dir,
                 pu_path_join(a, dir, newest));
}

static pu_err check_is_model(const char *dir, const char *config, pu_arena *a, pu_error *e) {
  if (!pu_path_exists(dir)) return pu_fail(e, PU_ERR_IO, "%s: there is no such file or folder", dir);
  if (!pu_path_is_dir(dir)) return pu_fail(e, PU_ERR_FORMAT, "%s: neither a model directory nor a GGUF file", dir);
  return pu_path_exists(config) ? PU_OK : check_no_run(dir, a, e);
}

static pu_err read_config(const char *dir, const pu_arch **arch, pu_hparams *hp, pu_error *e) {
  pu_arena *a;
  PU_TRY(pu_arena_create((size_t)64 << 20, &a, e)); /* of address space: folders may hold many names */
  const char *config = pu_path_join(a, dir, "config.json");
  pu_err err = config ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "%s: the name is too long", dir);
  if (err == PU_OK) err = check_is_model(dir, config, a, e);
  if (err == PU_OK) err = pu_config_read(config, arch, hp, e);
  pu_arena_free(a);
  return err;
}

typedef struct dir_files {
  pu_safetensors *files;
  pu_quant_files *quant;
} dir_files;

static void close_dir(pu_source *s) {
  dir_files *own = s->own;
  pu_quant_files_close(own->quant);
  pu_safetensors_close(own->files);
  free(own);
}

/* Tables that older files hold though they follow from config.json. */
static const char *const ignored_in_dirs[] = {".inv_freq", ".masked_bias", NULL};

pu_err pu_source_open_dir(const char *path, pu_source *s, pu_error *e) {
  const pu_safetensors *files;
  s->config = "config.json";
  s->types = "f32, bf16, f16, and F8_E4M3 where quantization_config in config.json says how";
  PU_TRY(read_config(path, &s->arch, &s->hp, e));
  dir_files *own = s->own = calloc(1, sizeof *own);
  if (!own) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory to open it", path);
  s->close = close_dir;
  PU_TRY(pu_safetensors_open(path, &own->files, e));
  files = own->files;
  s->rules = s->arch->tensors;
  s->also_read = s->arch->also_read;
  s->ignored = ignored_in_dirs;
  s->tensors = calloc(pu_safetensors_count(files) + 1, sizeof *s->tensors);
  if (!s->tensors) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the list of its tensors", path);
  for (; s->n < pu_safetensors_count(files); s->n++) {
    const pu_st_tensor *t = pu_safetensors_at(files, s->n);
    bool is_float = t->dtype == PU_F32 || t->dtype == PU_BF16 || t->dtype == PU_F16;
    pu_source_tensor *out = &s->tensors[s->n];
    *out = (pu_source_tensor){.name = t->name,
                              .type = is_float ? pu_dtype_name(t->dtype) : t->type,
                              .dtype = is_float ? t->dtype : PU_DTYPE_COUNT,
                              .ndim = t->ndim,
                              .block = 1,
                              .data = t->data};
    memcpy(out->shape, t->shape, sizeof out->shape);
  }
  return pu_quant_files_open(path, files, s, &own->quant, e);
}

/* ---- all of them ---- */

static bool any(const char *path) {
  (void)path;
  return true;
}

/* The first that fits. */
static const struct {
  bool (*fits)(const char *path);
  pu_err (*open)(const char *path, pu_source *s, pu_error *e);
  pu_err (*describe)(const char *path, const pu_arch **arch, pu_hparams *hp, pu_error *e);
} formats[] = {{pu_gguf_is, pu_source_open_gguf, pu_describe_gguf}, {any, pu_source_open_dir, read_config}};

static size_t format_of(const char *path) {
  size_t i = 0;
  while (!formats[i].fits(path)) i++;
  return i;
}

pu_err pu_model_describe(const char *path, const pu_arch **arch, pu_hparams *hp, pu_error *e) {
  return formats[format_of(path)].describe(path, arch, hp, e);
}

pu_err pu_model_mostly_f32(const char *path, bool *out, pu_error *e) {
  pu_source s;
  double all = 0, f32 = 0;
  PU_TRY(pu_source_open(path, &s, e));
  for (size_t i = 0; i < s.n; i++) {
    const pu_source_tensor *t = &s.tensors[i];
    double values = 1;
    for (int d = 0; d < t->ndim; d++) values *= (double)t->shape[d];
    all += values;
    f32 += t->dtype == PU_F32 && !t->coding ? values : 0;
  }
  pu_source_close(&s);
  *out = f32 > all / 2;
  return PU_OK;
}

pu_err pu_model_widest(const char *path, bool matrices, pu_dtype *out, pu_error *e) {
  pu_source s;
  bool seen[PU_DTYPE_COUNT + 1] = {0}, quantised = false;
  PU_TRY(pu_source_open(path, &s, e));
  matrices = matrices || pu_gguf_is(path);
  for (size_t i = 0; i < s.n; i++) {
    const pu_source_tensor *t = &s.tensors[i];
    if (matrices && t->ndim < 2) continue;
    if (t->floats) continue; /* FP8 is in either of the short ones */
    seen[t->dtype] = true;
    quantised |= t->coding != NULL;
  }
  pu_source_close(&s);
  bool f32 = seen[PU_F32] || (seen[PU_BF16] && seen[PU_F16]);
  *out = quantised ? PU_DTYPE_COUNT : f32 ? PU_F32 : seen[PU_F16] ? PU_F16 : PU_BF16;
  return PU_OK;
}

pu_err pu_source_open(const char *path, pu_source *out, pu_error *e) {
  *out = (pu_source){.where = path};
  pu_err err = formats[format_of(path)].open(path, out, e);
  if (err != PU_OK) pu_source_close(out);
  return err;
}

void pu_source_close(pu_source *s) {
  if (s->close) s->close(s);
  free(s->tensors);
  *s = (pu_source){0};
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const pu_source_tensor *)a)->name, ((const pu_source_tensor *)b)->name);
}

const pu_source_tensor *pu_source_find(const pu_source *s, const char *name) {
  pu_source_tensor key = {.name = name};
  return s->n ? bsearch(&key, s->tensors, s->n, sizeof key, by_name) : NULL;
}

const void *pu_source_values(const pu_source *s, const pu_source_tensor *t, int64_t at, int64_t n, void *room) {
  if (!t->coding) return (const char *)t->data + (size_t)at * pu_dtype_size(t->dtype);
  s->values(t, at, n, room);
  return room;
}
