/* What stands beside a tokenizer: tokenizer_config.json, special_tokens_map.json, added_tokens.json. They rename and
 * add pieces, mark them special, and say where a text begins and ends. */
#include <stdlib.h>
#include <string.h>

#include "src/text/tokenizer.h"

#define WHERE      "tokenizer_config.json"
#define CONFIG_MAX ((size_t)4 << 20)

static pu_str view(const json_t *s) {
  return pu_str_of(json_string_value(s), json_string_length(s));
}

/* "added_tokens_decoder": {"92543": {"content": "<|im_start|>", "special": true, …}} */
static pu_err read_decoder(pu_tokenizer *t, const json_t *o, pu_error *e) {
  for (void *it = json_object_iter((json_t *)o); it; it = json_object_iter_next((json_t *)o, it)) {
    const char *key = json_object_iter_key(it);
    const json_t *v = json_object_iter_value(it), *content = json_object_get(v, "content");
    char *end;
    long id = strtol(key, &end, 10);
    if (*key == 0 || *end != 0 || id < 0 || id >= TEXT_PIECES_MAX || !json_is_string(content) ||
        json_string_length(content) > TEXT_PIECE_MAX) {
      return pu_fail(e, PU_ERR_FORMAT, WHERE ": added_tokens_decoder: \"%.40s\" is no id with a content", key);
    }
    text_added a = {.id = (int32_t)id};
    PU_TRY(pu_json_bool_or(v, "special", false, &a.special, WHERE, e));
    PU_TRY(pu_json_bool_or(v, "lstrip", false, &a.lstrip, WHERE, e));
    PU_TRY(pu_json_bool_or(v, "rstrip", false, &a.rstrip, WHERE, e));
    PU_TRY(pu_json_bool_or(v, "single_word", false, &a.single_word, WHERE, e));
    if (t->byte_level) PU_TRY(pu_json_bool_or(v, "normalized", false, &a.normalized, WHERE, e));
    /* A user-defined piece under its own name is matched already. */
    bool known = id < t->n && pu_str_eq(t->pieces[id].text, view(content));
    if (!t->byte_level && known && !a.special) continue;
    PU_TRY(text_add_token(t, a, view(content), e));
  }
  return PU_OK;
}

/* A token is named by its text, or by an object with its content. -1 at null, -2 where the key is missing. */
static int32_t named(const pu_tokenizer *t, const json_t *config, const char *key) {
  const json_t *v = json_object_get(config, key);
  if (!v) return -2;
  if (json_is_object(v)) v = json_object_get(v, "content");
  return json_is_string(v) ? pu_tokenizer_find(t, view(v)) : -1;
}

pu_err text_apply_config(pu_tokenizer *t, const json_t *config, pu_error *e) {
  if (!json_is_object(config)) return pu_fail(e, PU_ERR_FORMAT, WHERE ": not an object");
  PU_TRY(read_decoder(t, json_object_get(config, "added_tokens_decoder"), e));
  int32_t bos = named(t, config, "bos_token"), eos = named(t, config, "eos_token");
  if (bos != -2) t->bos = bos;
  if (eos != -2) t->eos = eos;
  /* tokenizer.json says it by its template; only a word in favour is heard, as a fast tokenizer does. */
  bool adds = t->adds_bos;
  PU_TRY(pu_json_bool_or(config, "add_bos_token", adds, &adds, WHERE, e));
  t->adds_bos = t->bos >= 0 && (t->byte_level ? adds || t->adds_bos : adds);
  return PU_OK;
}

/* added_tokens.json, of older tokenizers: {"<|im_start|>": 92543} */
static pu_err apply_added(pu_tokenizer *t, const json_t *o, pu_error *e) {
  for (void *it = json_object_iter((json_t *)o); it; it = json_object_iter_next((json_t *)o, it)) {
    pu_str key = pu_str_of(json_object_iter_key(it), json_object_iter_key_len(it));
    const json_t *v = json_object_iter_value(it);
    double number = json_number_value(v);
    if (!json_is_number(v) || !(number >= 0 && number < TEXT_PIECES_MAX)) {
      return pu_fail(e, PU_ERR_FORMAT, "added_tokens.json: \"%.40s\" has no id", key.ptr);
    }
    text_added a = {.id = (int32_t)number, .special = true};
    if (a.id < t->n && t->pieces[a.id].type != PIECE_NONE) continue;
    PU_TRY(text_add_token(t, a, key, e));
  }
  return PU_OK;
}

static pu_err apply_map(pu_tokenizer *t, const json_t *o, pu_error *e) {
  (void)e;
  int32_t bos = named(t, o, "bos_token"), eos = named(t, o, "eos_token");
  if (t->bos < 0 && bos >= 0) t->bos = bos;
  if (t->eos < 0 && eos >= 0) t->eos = eos;
  return PU_OK;
}

pu_err text_keep_file(pu_tokenizer *t, const char *name, pu_str bytes, pu_error *e) {
  text_file *file = pu_arena_alloc(t->arena, sizeof *file);
  if (!file) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory to keep it", name);
  *file = (text_file){name, text_keep(t, bytes), t->files};
  if (!file->bytes.ptr) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory to keep it", name);
  t->files = file;
  return PU_OK;
}

/* Integers as reals: "model_max_length" is 10^30 in most of these files, and no number in them needs to be exact. */
static pu_err parse_lax(const char *path, pu_str bytes, json_t **out, pu_error *e) {
  json_error_t why;
  *out = json_loadb(bytes.ptr, bytes.len, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &why);
  if (*out) return PU_OK;
  return pu_fail(e, PU_ERR_FORMAT, "%s:%d:%d: %s", path, why.line, why.column, why.text);
}

static pu_err read_one(pu_tokenizer *t, const char *path, const char *name,
                       pu_err (*apply)(pu_tokenizer *, const json_t *, pu_error *), pu_error *e) {
  pu_buf b;
  json_t *o = NULL;
  pu_buf_init(&b, CONFIG_MAX + 1);
  pu_err err = pu_file_read(path, CONFIG_MAX, &b, e);
  pu_str bytes = pu_str_of(b.data ? b.data : "", b.len);
  if (err == PU_OK && apply) err = parse_lax(path, bytes, &o, e);
  if (err == PU_OK && apply) err = apply(t, o, e);
  if (err == PU_OK) err = text_keep_file(t, name, bytes, e);
  json_decref(o);
  pu_buf_deinit(&b);
  return err;
}

pu_err text_read_config(pu_tokenizer *t, const char *dir, pu_error *e) {
  static const struct {
    const char *name;
    pu_err (*apply)(pu_tokenizer *, const json_t *, pu_error *); /* NULL: only kept */
  } files[] = {{"added_tokens.json", apply_added},
               {"chat_template.jinja", NULL},
               {"tokenizer_config.json", text_apply_config},
               {"special_tokens_map.json", apply_map}};
  pu_arena *a;
  PU_TRY(pu_arena_create(1 << 16, &a, e));
  pu_err err = PU_OK;
  for (size_t i = 0; i < PU_COUNT(files) && err == PU_OK; i++) {
    const char *path = pu_path_join(a, dir, files[i].name);
    if (path && pu_path_exists(path)) err = read_one(t, path, files[i].name, files[i].apply, e);
  }
  pu_arena_free(a);
  return err;
}
