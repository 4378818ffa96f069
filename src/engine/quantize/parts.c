#include "src/engine/quantize/parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PART "part" /* a folder inside: a part is written as a model of its own, and its file moved out */

static const char *join(const pu_parts *p, const char *name) {
  return pu_path_join(p->a, p->dir, name);
}

static pu_err no_memory(const pu_parts *p, pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its index, or too long a name", p->dir);
}

static pu_err move(const pu_parts *p, const char *from, const char *to, pu_error *e) {
  const char *a = join(p, from), *b = join(p, to);
  if (!a || !b) return no_memory(p, e);
  return rename(a, b) == 0 ? PU_OK : pu_fail(e, PU_ERR_IO, "%s: cannot become %s: %s", a, b, strerror(errno));
}

pu_err pu_parts_begin(pu_parts *p, const char *dir, pu_dtype dtype, pu_quant_format format, size_t n, pu_error *e) {
  *p = (pu_parts){.dir = dir, .dtype = dtype, .format = format, .n = n};
  pu_buf_init(&p->map, PU_BUF_MAX);
  p->plain = json_array();
  PU_TRY(pu_arena_create(((size_t)1 << 20) + n * 4096, &p->a, e));
  return pu_mkdirs(dir, e);
}

/* A matrix that is not in few bits is listed in the configuration, whichever part it is in. */
static bool list_plain(pu_parts *p, const pu_st_tensor *t) {
  const char *end = strrchr(t->name, '.');
  if (t->ndim != 2 || t->dtype == PU_I8 || !end || strcmp(end, ".weight") != 0) return true;
  return json_array_append_new(p->plain, json_stringn(t->name, (size_t)(end - t->name))) == 0;
}

/* Adds the tensors of a file to the index. */
static pu_err list_tensors(pu_parts *p, const char *name, pu_error *e) {
  pu_safetensors *s;
  bool listed = true;
  const char *path = join(p, name);
  if (!path) return no_memory(p, e);
  PU_TRY(pu_safetensors_open(path, &s, e));
  for (size_t i = 0; i < pu_safetensors_count(s); i++) {
    const pu_st_tensor *t = pu_safetensors_at(s, i);
    pu_buf_printf(&p->map, "%s    \"%s\": \"%s\"", p->map.len ? ",\n" : "", t->name, name);
    p->bytes += t->bytes;
    listed &= list_plain(p, t);
  }
  pu_safetensors_close(s);
  return p->map.failed || !listed ? no_memory(p, e) : PU_OK;
}

pu_err pu_parts_add(pu_parts *p, const pu_model *m, const pu_qmatrix *q, pu_error *e) {
  const size_t one_file = SIZE_MAX / 2;
  const char *folder = join(p, PART);
  char name[64];
  if (!folder) return no_memory(p, e);
  snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", ++p->done, p->n);
  PU_TRY(q ? pu_model_save_quantised(m, folder, p->dtype, p->format, q, one_file, e)
           : pu_model_save(m, folder, p->dtype, one_file, e));
  PU_TRY(move(p, PART "/model.safetensors", name, e));
  return list_tensors(p, name, e);
}

/* The last part's configuration knows only that part's plain matrices: it gets the list of all. */
static pu_err write_config(pu_parts *p, pu_error *e) {
  enum { MOST = 1 << 24 };
  const char *from = join(p, PART "/config.json"), *to = join(p, "config.json");
  json_t *config;
  if (!from || !to) return no_memory(p, e);
  PU_TRY(pu_json_read(from, MOST, &config, e));
  json_t *quant = json_object_get(config, "quantization_config");
  static const char *const keys[] = {"ignore", "modules_to_not_convert"};
  for (size_t i = 0; i < PU_COUNT(keys); i++)
    if (json_object_get(quant, keys[i])) json_object_set(quant, keys[i], p->plain);
  char *text = json_dumps(config, JSON_INDENT(2));
  json_decref(config);
  pu_err err = text ? pu_file_write(to, text, strlen(text), e) : no_memory(p, e);
  free(text);
  return err;
}

pu_err pu_parts_end(pu_parts *p, size_t *bytes, pu_error *e) {
  pu_buf b;
  const char *index = join(p, "model.safetensors.index.json"), *folder = join(p, PART);
  if (!index || !folder) return no_memory(p, e);
  pu_buf_init(&b, PU_BUF_MAX);
  pu_buf_printf(&b, "{\n  \"metadata\": {\"total_size\": %zu},\n  \"weight_map\": {\n", p->bytes);
  pu_buf_append(&b, p->map.data, p->map.len);
  pu_buf_puts(&b, "\n  }\n}\n");
  pu_err err = b.failed ? no_memory(p, e) : pu_file_write(index, b.data, b.len, e);
  pu_buf_deinit(&b);
  if (!err) err = write_config(p, e);
  if (!err) err = pu_remove_tree(folder, e);
  if (!err) err = pu_fsync_dir(p->dir, e);
  *bytes = p->bytes;
  return err;
}

void pu_parts_deinit(pu_parts *p) {
  pu_buf_deinit(&p->map);
  json_decref(p->plain);
  pu_arena_free(p->a);
}
