/* Reading safetensors: an 8-byte length, a JSON header of that many bytes, then the tensors' bytes end to end
 * (https://github.com/huggingface/safetensors). Files come from strangers: everything the header claims is checked
 * against the file before any view is handed out. */
#include "src/model/safetensors.h"

#include <stdlib.h>
#include <string.h>

#define INDEX_NAME "model.safetensors.index.json"

struct pu_safetensors {
  pu_map *maps;     /* one per shard; none when parsed from memory */
  json_t **headers; /* one per shard: names and metadata are views into them */
  size_t n_files;
  pu_st_tensor *tensors; /* sorted by name */
  size_t n, cap;
};

/* ---- types ---- */

/* All that the format has. */
typedef struct st_type {
  const char *name;
  pu_dtype dtype; /* or PU_ST_OTHER */
  size_t bits;
} st_type;
static const st_type st_types[] = {{"F32", PU_F32, 32},
                                   {"BF16", PU_BF16, 16},
                                   {"F16", PU_F16, 16},
                                   {"I8", PU_I8, 8},
                                   {"U8", PU_U8, 8},
                                   {"I32", PU_I32, 32},
                                   {"I64", PU_I64, 64},
                                   {"BOOL", PU_ST_OTHER, 8},
                                   {"I16", PU_ST_OTHER, 16},
                                   {"U16", PU_ST_OTHER, 16},
                                   {"U32", PU_ST_OTHER, 32},
                                   {"U64", PU_ST_OTHER, 64},
                                   {"F64", PU_ST_OTHER, 64},
                                   {"C64", PU_ST_OTHER, 64},
                                   {"F8_E4M3", PU_ST_OTHER, 8},
                                   {"F8_E5M2", PU_ST_OTHER, 8},
                                   {"F8_E8M0", PU_ST_OTHER, 8},
                                   {"F6_E2M3", PU_ST_OTHER, 6},
                                   {"F6_E3M2", PU_ST_OTHER, 6},
                                   {"F4", PU_ST_OTHER, 4}};

const char *pu_st_dtype_name(pu_dtype t) {
  for (size_t i = 0; i < PU_COUNT(st_types) && t < PU_DTYPE_COUNT; i++)
    if (st_types[i].dtype == t) return st_types[i].name;
  return NULL;
}

static const st_type *find_type(const char *name) {
  for (size_t i = 0; i < PU_COUNT(st_types); i++)
    if (strcmp(st_types[i].name, name) == 0) return &st_types[i];
  return NULL;
}

/* ---- one file's header ---- */

/* t->bytes: of so many elements. Types below a byte are packed, and end on one. */
static bool whole_bytes(pu_st_tensor *t, size_t bits) {
  return !pu_mul_overflows(t->bytes, bits, &t->bytes) && t->bytes % 8 == 0 && (t->bytes /= 8, true);
}

static pu_err parse_shape(const json_t *shape, const st_type *type, const char *where, pu_st_tensor *t, pu_error *e) {
  if (!json_is_array(shape))
    return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%.100s': 'shape' is not an array", where, t->name);
  if (json_array_size(shape) > PU_MAX_DIMS)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: tensor '%.100s' has %zu dimensions, more than %d", where, t->name,
                   json_array_size(shape), PU_MAX_DIMS);
  t->ndim = (int)json_array_size(shape);
  t->bytes = 1;
  for (int i = 0; i < t->ndim; i++) {
    const json_t *v = json_array_get(shape, (size_t)i);
    if (!json_is_integer(v) || json_integer_value(v) < 0)
      return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%.100s': dimension %d is not a size", where, t->name, i);
    t->shape[i] = json_integer_value(v);
    if (pu_mul_overflows(t->bytes, (size_t)t->shape[i], &t->bytes))
      return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%.100s': its size overflows", where, t->name);
  }
  if (!whole_bytes(t, type->bits))
    return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%.100s': its size overflows, or ends inside a byte", where, t->name);
  return PU_OK;
}

static bool parse_offsets(const json_t *pair, size_t *begin, size_t *end) {
  const json_t *b = json_array_get(pair, 0), *e = json_array_get(pair, 1);
  if (json_array_size(pair) != 2 || !json_is_integer(b) || !json_is_integer(e)) return false;
  if (json_integer_value(b) < 0 || json_integer_value(e) < json_integer_value(b)) return false;
  *begin = (size_t)json_integer_value(b);
  *end = (size_t)json_integer_value(e);
  return true;
}

static pu_err parse_tensor(const char *name, const json_t *o, const char *where, pu_str body, pu_st_tensor *t,
                           pu_error *e) {
  *t = (pu_st_tensor){.name = name};
  const char *dtype = json_string_value(json_object_get(o, "dtype"));
  if (!dtype) return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%.100s' has no 'dtype'", where, name);
  const st_type *type = find_type(dtype);
  if (!type)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: tensor '%.100s' is of type %.20s, whose size is not known here", where,
                   name, dtype);
  t->dtype = type->dtype;
  t->type = type->name;
  PU_TRY(parse_shape(json_object_get(o, "shape"), type, where, t, e));
  size_t begin, end;
  if (!parse_offsets(json_object_get(o, "data_offsets"), &begin, &end))
    return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%.100s': 'data_offsets' is not [begin, end]", where, name);
  if (end > body.len)
    return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%.100s' ends at byte %zu of %zu: the file is truncated or lies",
                   where, name, end, body.len);
  if (end - begin != t->bytes)
    return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%.100s' takes %zu bytes, but its shape needs %zu", where, name,
                   end - begin, t->bytes);
  t->data = body.ptr + begin;
  return PU_OK;
}

static int by_place(const void *a, const void *b) {
  const pu_st_tensor *x = a, *y = b;
  if (x->data != y->data) return (uintptr_t)x->data < (uintptr_t)y->data ? -1 : 1;
  return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* The tensors of one file tile its body: no gap, no overlap, nothing after the last. */
static pu_err check_tiling(pu_st_tensor *t, size_t n, const char *where, pu_str body, pu_error *e) {
  if (n) qsort(t, n, sizeof *t, by_place);
  size_t at = 0;
  for (size_t i = 0; i < n; i++) {
    size_t begin = (size_t)((const char *)t[i].data - body.ptr);
    if (begin != at)
      return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%.100s' begins at byte %zu, %s byte %zu", where, t[i].name, begin,
                     begin < at ? "inside another one that reaches to" : "leaving a gap from", at);
    at = begin + t[i].bytes;
  }
  if (at != body.len)
    return pu_fail(e, PU_ERR_FORMAT, "%s: %zu bytes after the last tensor belong to none", where, body.len - at);
  return PU_OK;
}

static bool reserve(pu_safetensors *s, size_t more) {
  if (s->n + more <= s->cap) return true;
  size_t cap = s->n + more, bytes;
  if (pu_mul_overflows(cap, sizeof *s->tensors, &bytes)) return false;
  pu_st_tensor *t = realloc(s->tensors, bytes);
  if (!t) return false;
  s->tensors = t;
  s->cap = cap;
  return true;
}

static pu_err parse_header(pu_safetensors *s, const json_t *header, const char *where, pu_str body, pu_error *e) {
  if (!json_is_object(header)) return pu_fail(e, PU_ERR_FORMAT, "%s: the header is not a JSON object", where);
  if (!reserve(s, json_object_size(header))) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its tensors", where);
  size_t first = s->n;
  const char *name;
  json_t *value;
  json_object_foreach((json_t *)(uintptr_t)header, name, value) {
    if (strcmp(name, "__metadata__") == 0) continue;
    PU_TRY(parse_tensor(name, value, where, body, &s->tensors[s->n], e));
    s->n++;
  }
  return check_tiling(s->tensors + first, s->n - first, where, body, e);
}

/* Adds the tensors of one file; headers[n_files] must be free for it. */
static pu_err add_file(pu_safetensors *s, const char *where, pu_str bytes, pu_error *e) {
  if (bytes.len < 8) return pu_fail(e, PU_ERR_FORMAT, "%s: %zu bytes are no safetensors file", where, bytes.len);
  uint64_t len = 0;
  for (int i = 7; i >= 0; i--) len = len << 8 | (uint8_t)bytes.ptr[i];
  if (len > PU_ST_MAX_HEADER)
    return pu_fail(e, PU_ERR_FORMAT, "%s: a header of %llu bytes is above the limit of %d: not a safetensors file?",
                   where, (unsigned long long)len, PU_ST_MAX_HEADER);
  if (len > bytes.len - 8)
    return pu_fail(e, PU_ERR_FORMAT, "%s: the header of %llu bytes does not fit in a file of %zu: truncated?", where,
                   (unsigned long long)len, bytes.len);
  pu_err err = pu_json_parse(where, pu_str_of(bytes.ptr + 8, (size_t)len), &s->headers[s->n_files], e);
  if (err != PU_OK) return pu_fail_in(e, err, "in the safetensors header");
  s->n_files++;
  return parse_header(s, s->headers[s->n_files - 1], where, pu_str_of(bytes.ptr + 8 + len, bytes.len - 8 - (size_t)len),
                      e);
}

/* ---- sorting, opening ---- */

static int by_name(const void *a, const void *b) {
  return strcmp(((const pu_st_tensor *)a)->name, ((const pu_st_tensor *)b)->name);
}

static pu_err finish(pu_safetensors *s, const char *where, pu_error *e) {
  if (s->n) qsort(s->tensors, s->n, sizeof *s->tensors, by_name);
  for (size_t i = 1; i < s->n; i++)
    if (strcmp(s->tensors[i - 1].name, s->tensors[i].name) == 0)
      return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%.100s' is there twice", where, s->tensors[i].name);
  return PU_OK;
}

static pu_safetensors *new_set(size_t files, pu_error *e) {
  pu_safetensors *s = calloc(1, sizeof *s);
  if (s) {
    s->maps = calloc(files, sizeof *s->maps);
    s->headers = calloc(files, sizeof(json_t *));
  }
  if (s && s->maps && s->headers) return s;
  (void)pu_fail(e, PU_ERR_NOMEM, "no memory to read %zu safetensors files", files);
  pu_safetensors_close(s);
  return NULL;
}

/* Ends an opening: hands the set over, or frees it. */
static pu_err done(pu_safetensors *s, pu_err err, pu_safetensors **out) {
  *out = err == PU_OK ? s : NULL;
  if (err != PU_OK) pu_safetensors_close(s);
  return err;
}

pu_err pu_safetensors_parse(pu_str bytes, pu_safetensors **out, pu_error *e) {
  *out = NULL;
  pu_safetensors *s = new_set(1, e);
  if (!s) return PU_ERR_NOMEM;
  pu_err err = add_file(s, "safetensors", bytes, e);
  if (err == PU_OK) err = finish(s, "safetensors", e);
  return done(s, err, out);
}

static pu_err add_path(pu_safetensors *s, const char *path, pu_error *e) {
  pu_map *map = &s->maps[s->n_files];
  PU_TRY(pu_map_open(path, map, e));
  pu_err err = add_file(s, path, pu_str_of((const char *)map->data, map->len), e);
  /* add_file counts the file once its header is kept; before that the map is only ours to close. */
  if (err != PU_OK && map == &s->maps[s->n_files]) pu_map_close(map);
  return err;
}

static pu_err open_file(const char *path, pu_safetensors **out, pu_error *e) {
  pu_safetensors *s = new_set(1, e);
  if (!s) return PU_ERR_NOMEM;
  pu_err err = add_path(s, path, e);
  if (err == PU_OK) err = finish(s, path, e);
  return done(s, err, out);
}

/* A shard is a plain name beside the index: an index must not lead out of its folder. */
static bool plain_name(const char *name) {
  return name && name[0] && name[0] != '.' && !strchr(name, '/');
}

/* weight_map's distinct shard names, in a JSON object used as a set. */
static pu_err shard_names(const json_t *index, const char *path, json_t *set, pu_error *e) {
  const json_t *map = json_object_get(index, "weight_map");
  if (!json_is_object(map)) return pu_fail(e, PU_ERR_FORMAT, "%s: 'weight_map' is missing", path);
  const char *tensor;
  json_t *file;
  json_object_foreach((json_t *)(uintptr_t)map, tensor, file) {
    if (!plain_name(json_string_value(file)))
      return pu_fail(e, PU_ERR_FORMAT, "%s: the shard of '%.100s' is not the name of a file beside it", path, tensor);
    if (json_object_set_new(set, json_string_value(file), json_true()) != 0)
      return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the list of shards", path);
  }
  return PU_OK;
}

static pu_err open_shards(pu_safetensors *s, const char *dir, json_t *names, pu_arena *a, pu_error *e) {
  const char *name;
  json_t *unused;
  json_object_foreach(names, name, unused) {
    const char *path = pu_path_join(a, dir, name);
    if (!path) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the names of its shards", dir);
    if (!pu_path_exists(path))
      return pu_fail(e, PU_ERR_FORMAT, "%s: this shard is named in " INDEX_NAME " but is missing: copy it here", path);
    PU_TRY(add_path(s, path, e));
  }
  return finish(s, dir, e);
}

static pu_err check_index(const pu_safetensors *s, const json_t *index, const char *path, pu_error *e) {
  const char *tensor;
  json_t *file;
  json_object_foreach(json_object_get(index, "weight_map"), tensor, file) {
    if (!pu_safetensors_find(s, tensor))
      return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%.100s' is not in shard %.100s", path, tensor,
                     json_string_value(file));
  }
  return PU_OK;
}

static pu_err open_index(const char *dir, const char *path, pu_arena *a, pu_safetensors **out, pu_error *e) {
  json_t *index = NULL, *names = json_object();
  pu_safetensors *s = NULL;
  pu_err err = pu_json_read(path, PU_ST_MAX_HEADER, &index, e);
  if (err == PU_OK) err = shard_names(index, path, names, e);
  if (err == PU_OK && !(s = new_set(PU_MAX(json_object_size(names), 1), e))) err = PU_ERR_NOMEM;
  if (err == PU_OK) err = open_shards(s, dir, names, a, e);
  if (err == PU_OK) err = check_index(s, index, path, e);
  json_decref(index);
  json_decref(names);
  return done(s, err, out);
}

pu_err pu_safetensors_open(const char *file_or_dir, pu_safetensors **out, pu_error *e) {
  *out = NULL;
  if (!pu_path_is_dir(file_or_dir)) return open_file(file_or_dir, out, e);
  pu_arena *a;
  PU_TRY(pu_arena_create((size_t)64 << 20, &a, e));
  const char *single = pu_path_join(a, file_or_dir, "model.safetensors");
  const char *index = pu_path_join(a, file_or_dir, INDEX_NAME);
  pu_err err;
  if (!single || !index)
    err = pu_fail(e, PU_ERR_NOMEM, "%s: the name is too long", file_or_dir);
  else if (pu_path_exists(single))
    err = open_file(single, out, e);
  else if (pu_path_exists(index))
    err = open_index(file_or_dir, index, a, out, e);
  else
    err = pu_fail(e, PU_ERR_IO, "%s: holds neither model.safetensors nor " INDEX_NAME, file_or_dir);
  pu_arena_free(a);
  return err;
}

void pu_safetensors_close(pu_safetensors *s) {
  if (!s) return;
  for (size_t i = 0; i < s->n_files; i++) {
    json_decref(s->headers[i]);
    pu_map_close(&s->maps[i]);
  }
  free(s->headers);
  free(s->maps);
  free(s->tensors);
  free(s);
}

/* ---- looking ---- */

size_t pu_safetensors_count(const pu_safetensors *s) {
  return s->n;
}

const pu_st_tensor *pu_safetensors_at(const pu_safetensors *s, size_t i) {
  return i < s->n ? &s->tensors[i] : NULL;
}

const pu_st_tensor *pu_safetensors_find(const pu_safetensors *s, const char *name) {
  if (!s->n) return NULL;
  pu_st_tensor key = {.name = name};
  return bsearch(&key, s->tensors, s->n, sizeof key, by_name);
}

const char *pu_safetensors_meta(const pu_safetensors *s, const char *key) {
  for (size_t i = 0; i < s->n_files; i++) {
    const json_t *meta = json_object_get(s->headers[i], "__metadata__");
    const char *value = json_string_value(json_object_get(meta, key));
    if (value) return value;
  }
  return NULL;
}
