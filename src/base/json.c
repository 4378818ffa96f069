#include "puyu/base.h"
#include "src/base/utf8.h"

#include <string.h>

/* ---- reading ---- */

pu_err pu_json_parse(const char *what, pu_str text, json_t **out, pu_error *e) {
  json_error_t je;
  *out = json_loadb(text.ptr ? text.ptr : "", text.len, JSON_ALLOW_NUL | JSON_DECODE_ANY, &je);
  if (*out) return PU_OK;
  if (json_error_code(&je) == json_error_out_of_memory) return pu_fail(e, PU_ERR_NOMEM, "%s: out of memory", what);
  return pu_fail(e, PU_ERR_FORMAT, "%s:%d:%d: %s", what, PU_MAX(je.line, 1), PU_MAX(je.column, 0), je.text);
}

pu_err pu_json_read(const char *path, size_t max, json_t **out, pu_error *e) {
  *out = NULL;
  pu_buf text;
  pu_buf_init(&text, max < SIZE_MAX - 1 ? max + 1 : max);
  pu_err err = pu_file_read(path, max, &text, e);
  if (err == PU_OK) err = pu_json_parse(path, pu_str_of(text.data, text.len), out, e);
  pu_buf_deinit(&text);
  return err;
}

/* ---- typed access ---- */

static const char *type_name(const json_t *v) {
  switch (json_typeof(v)) {
  case JSON_OBJECT:
    return "an object";
  case JSON_ARRAY:
    return "an array";
  case JSON_STRING:
    return "a string";
  case JSON_INTEGER:
    return "an integer";
  case JSON_REAL:
    return "a number with a fraction";
  case JSON_TRUE:
  case JSON_FALSE:
    return "a boolean";
  case JSON_NULL:
    return "null";
  }
  return "something else";
}

static pu_err wrong_type(pu_error *e, const char *where, const char *key, const char *want, const json_t *got) {
  return pu_fail(e, PU_ERR_FORMAT, "%s: '%s' should be %s, but is %s", where, key, want, type_name(got));
}

/* The value of a key, or NULL when it is missing or null. */
static pu_err member(const json_t *o, const char *key, const json_t **v, const char *where, pu_error *e) {
  *v = NULL;
  if (!json_is_object(o)) return pu_fail(e, PU_ERR_FORMAT, "%s: not an object, so it has no '%s'", where, key);
  *v = json_object_get(o, key);
  if (json_is_null(*v)) *v = NULL;
  return PU_OK;
}

static pu_err int_in_range(const json_t *v, const char *key, int64_t min, int64_t max, int64_t *out, const char *where,
                           pu_error *e) {
  if (!json_is_integer(v)) return wrong_type(e, where, key, "an integer", v);
  int64_t i = json_integer_value(v);
  if (i < min || i > max)
    return pu_fail(e, PU_ERR_FORMAT, "%s: '%s' is %lld, outside %lld..%lld", where, key, (long long)i, (long long)min,
                   (long long)max);
  *out = i;
  return PU_OK;
}

pu_err pu_json_int(const json_t *o, const char *key, int64_t min, int64_t max, int64_t *out, const char *where,
                   pu_error *e) {
  const json_t *v;
  PU_TRY(member(o, key, &v, where, e));
  if (!v) return pu_fail(e, PU_ERR_FORMAT, "%s: '%s' is missing", where, key);
  return int_in_range(v, key, min, max, out, where, e);
}

pu_err pu_json_int_or(const json_t *o, const char *key, int64_t min, int64_t max, int64_t dflt, int64_t *out,
                      const char *where, pu_error *e) {
  const json_t *v;
  PU_TRY(member(o, key, &v, where, e));
  if (v) return int_in_range(v, key, min, max, out, where, e);
  *out = dflt;
  return PU_OK;
}

pu_err pu_json_num_or(const json_t *o, const char *key, double dflt, double *out, const char *where, pu_error *e) {
  const json_t *v;
  PU_TRY(member(o, key, &v, where, e));
  if (v && !json_is_number(v)) return wrong_type(e, where, key, "a number", v);
  *out = v ? json_number_value(v) : dflt;
  return PU_OK;
}

pu_err pu_json_bool_or(const json_t *o, const char *key, bool dflt, bool *out, const char *where, pu_error *e) {
  const json_t *v;
  PU_TRY(member(o, key, &v, where, e));
  if (v && !json_is_boolean(v)) return wrong_type(e, where, key, "true or false", v);
  *out = v ? json_is_true(v) : dflt;
  return PU_OK;
}

pu_err pu_json_str_or(const json_t *o, const char *key, const char *dflt, const char **out, const char *where,
                      pu_error *e) {
  const json_t *v;
  PU_TRY(member(o, key, &v, where, e));
  if (v && !json_is_string(v)) return wrong_type(e, where, key, "a string", v);
  *out = v ? json_string_value(v) : dflt;
  return PU_OK;
}

/* ---- writing ---- */

static void put_escaped(pu_buf *b, uint8_t c) {
  static const char letters[] = "\bb\tt\nn\ff\rr\"\"\\\\"; /* the byte, then what follows the backslash */
  for (const char *p = letters; *p; p += 2)
    if ((uint8_t)*p == c) {
      pu_buf_putc(b, '\\');
      pu_buf_putc(b, p[1]);
      return;
    }
  pu_buf_printf(b, "\\u%04x", c);
}

bool pu_buf_json_str(pu_buf *b, pu_str s) {
  size_t start = b->len, plain = 0;
  const uint8_t *p = (const uint8_t *)s.ptr;
  pu_buf_putc(b, '"');
  for (size_t i = 0; i < s.len;) {
    uint32_t cp;
    int n = pu_utf8_step(p + i, s.len - i, &cp);
    if (n > 0 && p[i] >= 0x20 && p[i] != '"' && p[i] != '\\') {
      i += (size_t)n;
      continue;
    }
    pu_buf_append(b, s.ptr + plain, i - plain); /* the stretch before that needs nothing */
    if (n < 0)
      pu_buf_puts(b, "\xEF\xBF\xBD");
    else
      put_escaped(b, p[i]);
    i += (size_t)(n < 0 ? -n : n);
    plain = i;
  }
  if (plain < s.len) pu_buf_append(b, s.ptr + plain, s.len - plain);
  pu_buf_putc(b, '"');
  if (b->failed && b->data) {
    b->len = PU_MIN(b->len, start);
    b->data[b->len] = 0;
  }
  return !b->failed;
}
