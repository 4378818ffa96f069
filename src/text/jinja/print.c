/* Values as text: str(), repr() and json.dumps() as Python has them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "src/text/jinja/jinja.h"

/* The shortest digits that read back to v; an exponent below 1e-4 and from 1e16 on. */
int jinja_float_text(char *dst, double v) {
  char digits[40];
  if (isnan(v)) return sprintf(dst, "nan");
  if (isinf(v)) return sprintf(dst, "%s", v < 0 ? "-inf" : "inf");
  int precision = 0;
  do snprintf(digits, sizeof digits, "%.*e", precision, v);
  while (strtod(digits, NULL) != v && ++precision < 17);
  int exponent = atoi(strchr(digits, 'e') + 1);
  if (exponent < -4 || exponent >= 16) return snprintf(dst, 40, "%s", digits);
  return snprintf(dst, 40, "%.*f", PU_MAX(precision - exponent, 1), v);
}

/* ---- repr ---- */

static bool printable(uint32_t cp) {
  if (cp < 0x7F) return cp >= 0x20;
  utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
  return c != UTF8PROC_CATEGORY_CN && (c < UTF8PROC_CATEGORY_ZS || c > UTF8PROC_CATEGORY_CO);
}

static void add_code(jinja_build *b, uint32_t cp) {
  char text[16];
  snprintf(text, sizeof text, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
  jinja_add_c(b, text);
}

static void repr_char(jinja_build *b, uint32_t cp, char quote, bool from) {
  static const char letters[] = "\nn\rr\tt\\\\";
  for (const char *l = letters; *l; l += 2) {
    if ((uint32_t)*l != cp) continue;
    const char escaped[] = {'\\', l[1], 0};
    jinja_add_c(b, escaped);
    return;
  }
  if (cp == (uint32_t)quote) jinja_add_c(b, "\\");
  if (printable(cp))
    jinja_add_char(b, cp, from);
  else
    add_code(b, cp);
}

static void repr_str(jinja_build *b, const jinja_str *s) {
  bool single = s->n && memchr(s->p, '\'', s->n), both = single && memchr(s->p, '"', s->n);
  const char quote[] = {single && !both ? '"' : '\'', 0};
  uint32_t cp;
  jinja_add_c(b, quote);
  for (size_t i = 0, n; i < s->n && jinja_step(b->j, 1); i += n) {
    n = PU_MAX(pu_utf8_next(pu_str_of(s->p + i, s->n - i), &cp), (size_t)1);
    repr_char(b, cp, *quote, s->from && s->from[i]);
  }
  jinja_add_c(b, quote);
}

static void repr_list(jinja_build *b, jinja_value v) {
  bool tuple = v.type == J_TUPLE;
  jinja_add_c(b, tuple ? "(" : "[");
  for (size_t i = 0; i < v.list->n && jinja_step(b->j, 1); i++) {
    if (i > 0) jinja_add_c(b, ", ");
    jinja_repr(b, v.list->v[i]);
  }
  jinja_add_c(b, !tuple ? "]" : v.list->n == 1 ? ",)" : ")");
}

static void repr_dict(jinja_build *b, const jinja_dict *d) {
  jinja_add_c(b, "{");
  for (size_t i = 0; i < d->n && jinja_step(b->j, 1); i++) {
    if (i > 0) jinja_add_c(b, ", ");
    jinja_repr(b, d->v[i].key);
    jinja_add_c(b, ": ");
    jinja_repr(b, d->v[i].value);
  }
  jinja_add_c(b, "}");
}

static void add_scalar(jinja_build *b, jinja_value v) {
  char text[40];
  if (v.type == J_INT)
    snprintf(text, sizeof text, "%lld", (long long)v.i);
  else if (v.type == J_FLOAT)
    jinja_float_text(text, v.f);
  else if (v.type == J_BOOL)
    snprintf(text, sizeof text, "%s", v.b ? "True" : "False");
  else
    snprintf(text, sizeof text, v.type == J_NONE ? "None" : "<%s>", jinja_type_name(v));
  jinja_add_c(b, text);
}

void jinja_repr(jinja_build *b, jinja_value v) {
  if (!jinja_enter(b->j)) return;
  if (v.type == J_STR) {
    repr_str(b, v.s);
  } else if (v.type == J_LIST || v.type == J_TUPLE) {
    repr_list(b, v);
  } else if (v.type == J_DICT) {
    repr_dict(b, v.dict);
  } else if (v.type == J_UNDEFINED) {
    jinja_add_c(b, "Undefined");
  } else {
    add_scalar(b, v);
  }
  jinja_leave(b->j);
}

const jinja_str *jinja_str_of(jinja *j, jinja_value v) {
  jinja_build b = {.j = j};
  if (v.type == J_STR) return v.s;
  if (v.type != J_UNDEFINED) jinja_repr(&b, v);
  return jinja_built(&b).s;
}

/* ---- JSON, as json.dumps writes it ---- */

static void json_escape(jinja_build *b, uint32_t cp) {
  static const char letters[] = "\"\"\\\\\nn\rr\tt\bb\ff";
  char text[16];
  for (const char *l = letters; *l; l += 2) {
    if ((uint32_t)*l != cp) continue;
    snprintf(text, sizeof text, "\\%c", l[1]);
    jinja_add_c(b, text);
    return;
  }
  if (cp >= 0x10000)
    snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xD800 + ((cp - 0x10000) >> 10), 0xDC00 + (cp & 0x3FF));
  else
    snprintf(text, sizeof text, "\\u%04x", cp);
  jinja_add_c(b, text);
}

static void json_str(jinja_build *b, const jinja_str *s, const jinja_json *how) {
  size_t plain = 0;
  uint32_t cp;
  jinja_add_c(b, "\"");
  for (size_t i = 0, n; i < s->n && jinja_step(b->j, 1); i += n) {
    n = PU_MAX(pu_utf8_next(pu_str_of(s->p + i, s->n - i), &cp), (size_t)1);
    if (cp >= 0x20 && cp != '"' && cp != '\\' && (cp < 0x7F || !how->ascii)) continue;
    jinja_add(b, s->p + plain, i - plain, s->from ? s->from + plain : NULL);
    json_escape(b, cp);
    plain = i + n;
  }
  jinja_add(b, s->p + plain, s->n - plain, s->from ? s->from + plain : NULL);
  jinja_add_c(b, "\"");
}

static void json_scalar(jinja_build *b, jinja_value v) {
  if (v.type == J_FLOAT && !isfinite(v.f))
    jinja_add_c(b, isnan(v.f) ? "NaN" : v.f < 0 ? "-Infinity" : "Infinity");
  else if (v.type == J_BOOL)
    jinja_add_c(b, v.b ? "true" : "false");
  else if (v.type == J_NONE)
    jinja_add_c(b, "null");
  else
    add_scalar(b, v);
}

static void json_line(jinja_build *b, const jinja_json *how, int level) {
  if (!how->indent) return;
  jinja_add_c(b, "\n");
  for (int i = 0; i < level && !b->j->err; i++) jinja_add_str(b, how->indent);
}

static void json_value(jinja_build *b, jinja_value v, const jinja_json *how, int level);

static void json_list(jinja_build *b, const jinja_list *list, const jinja_json *how, int level) {
  jinja_add_c(b, "[");
  for (size_t i = 0; i < list->n && jinja_step(b->j, 1); i++) {
    if (i > 0) jinja_add_str(b, how->item);
    json_line(b, how, level + 1);
    json_value(b, list->v[i], how, level + 1);
  }
  if (list->n > 0) json_line(b, how, level);
  jinja_add_c(b, "]");
}

static jinja_dict *by_key(jinja *j, const jinja_dict *d) {
  jinja_list *keys = jinja_list_new(j, d->n), *places = jinja_list_new(j, d->n);
  for (size_t i = 0; i < d->n; i++) {
    jinja_push(j, keys, d->v[i].key);
    jinja_push(j, places, jinja_int((int64_t)i));
  }
  jinja_list *order = jinja_sorted(j, places, keys, false).list;
  jinja_dict *sorted = jinja_dict_new(j, d->n);
  for (size_t i = 0; i < order->n && sorted->cap == d->n; i++) sorted->v[sorted->n++] = d->v[order->v[i].i];
  return sorted;
}

static void json_key(jinja_build *b, jinja_value key, const jinja_json *how) {
  if (key.type == J_STR) {
    json_str(b, key.s, how);
  } else if (key.type == J_TUPLE) {
    jinja_fail(b->j, "keys must be str, int, float, bool or None, not tuple");
  } else {
    jinja_add_c(b, "\"");
    json_scalar(b, key);
    jinja_add_c(b, "\"");
  }
}

static void json_dict(jinja_build *b, const jinja_dict *d, const jinja_json *how, int level) {
  if (how->sort) d = by_key(b->j, d);
  jinja_add_c(b, "{");
  for (size_t i = 0; i < d->n && jinja_step(b->j, 1); i++) {
    if (i > 0) jinja_add_str(b, how->item);
    json_line(b, how, level + 1);
    json_key(b, d->v[i].key, how);
    jinja_add_str(b, how->key);
    json_value(b, d->v[i].value, how, level + 1);
  }
  if (d->n > 0) json_line(b, how, level);
  jinja_add_c(b, "}");
}

static void json_value(jinja_build *b, jinja_value v, const jinja_json *how, int level) {
  if (!jinja_enter(b->j)) return;
  switch (v.type) {
  case J_STR:
    json_str(b, v.s, how);
    break;
  case J_LIST:
  case J_TUPLE:
    json_list(b, v.list, how, level);
    break;
  case J_DICT:
    json_dict(b, v.dict, how, level);
    break;
  case J_NONE:
  case J_BOOL:
  case J_INT:
  case J_FLOAT:
    json_scalar(b, v);
    break;
  default:
    jinja_fail(b->j, "Object of type %s is not JSON serializable", jinja_type_name(v));
  }
  jinja_leave(b->j);
}

jinja_value jinja_to_json(jinja *j, jinja_value v, const jinja_json *how) {
  jinja_build b = {.j = j};
  json_value(&b, v, how, 0);
  return jinja_built(&b);
}
