/* JSON Schema (draft 2020-12, and what of older ones reads the same) to rules. Every subschema is a rule of its own, so
 * that references, recursive ones too, are calls. What is made always fits the schema; where a schema leaves a freedom
 * that no answer needs (the order of properties, blanks), one way is chosen. Keywords that this cannot express are
 * refused by name. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/grammar/grammar.h"

enum { BLANKS_MAX = 32, REFS_MAX = 64, KEY_CHARS_MAX = 128, PROPERTIES_MAX = 4096 };

typedef struct job {
  json_t *schema, *base; /* base: what #/… means in it */
  const char *path;
  int32_t rule;
} job;

typedef struct compiler {
  g_rules *g;
  json_t *root;
  json_t *made;  /* an array that owns the schemas made here */
  json_t *rules; /* addresses of schemas to rules */
  job jobs[G_RULES_MAX];
  int32_t n_jobs;
  int32_t blank, escape, string, value, object, array; /* rules that all share */
  const char *path;                                    /* of the schema being compiled */
  json_t *base;                                        /* of it: the root, or the nearest schema with an $id */
  pu_error *e;
} compiler;

static pu_err refuse(const compiler *c, pu_err code, const char *fmt, ...) PU_PRINTF(3, 4);
static pu_err refuse(const compiler *c, pu_err code, const char *fmt, ...) {
  char what[400];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(what, sizeof what, fmt, ap);
  va_end(ap);
  return pu_fail(c->e, code, "schema, %.120s: %s", c->path, what);
}

/* ---- JSON itself ---- */

/* White space between tokens, decided here for all: none, one space, or a line's end with some indentation. More would
 * let a model go on with blanks for ever. */
static g_expr *make_blank(g_rules *g) {
  g_expr *indent = g_repeat(g, g_one_of(g, {' ', ' '}, {'\t', '\t'}), 0, BLANKS_MAX);
  return g_alt(g, g_textc(g, ""), g_textc(g, " "), g_seq(g, g_textc(g, "\n"), indent));
}

/* What stands behind a backslash; the halves of a surrogate pair only together. */
static g_expr *make_escape(g_rules *g) {
  g_expr *x = g_one_of(g, {'0', '9'}, {'A', 'F'}, {'a', 'f'}), *d = g_one_of(g, {'D', 'D'}, {'d', 'd'});
  g_expr *not_d = g_one_of(g, {'0', '9'}, {'A', 'C'}, {'E', 'F'}, {'a', 'c'}, {'e', 'f'});
  g_expr *high = g_one_of(g, {'8', '9'}, {'A', 'B'}, {'a', 'b'}), *low = g_one_of(g, {'C', 'F'}, {'c', 'f'});
  g_expr *u = g_textc(g, "u");
  g_expr *letter =
      g_one_of(g, {'"', '"'}, {'\\', '\\'}, {'/', '/'}, {'b', 'b'}, {'f', 'f'}, {'n', 'n'}, {'r', 'r'}, {'t', 't'});
  g_expr *one = g_seq(g, u, g_alt(g, g_seq(g, not_d, x), g_seq(g, d, g_one_of(g, {'0', '7'}))), x, x);
  g_expr *pair = g_seq(g, u, d, high, x, x, g_textc(g, "\\u"), d, low, x, x);
  return g_alt(g, letter, one, pair);
}

/* A character of a string, or its escape. */
static g_expr *character(compiler *c) {
  g_expr *plain = g_chars(c->g, (g_range[]){{0, 0x1F}, {'"', '"'}, {'\\', '\\'}}, 3, true);
  return g_alt(c->g, plain, g_seq(c->g, g_textc(c->g, "\\"), g_call(c->g, c->escape)));
}

static g_expr *blank(compiler *c) {
  return g_call(c->g, c->blank);
}

static g_expr *quoted(g_rules *g, g_expr *x) {
  return g_seq(g, g_textc(g, "\""), x, g_textc(g, "\""));
}

/* "key": value */
static g_expr *member(compiler *c, g_expr *key, int32_t value) {
  return g_seq(c->g, key, g_textc(c->g, ":"), blank(c), g_call(c->g, value));
}

static g_expr *after_comma(compiler *c, g_expr *x) {
  return g_seq(c->g, g_textc(c->g, ","), blank(c), x);
}

static g_expr *bracketed(compiler *c, const char *open, g_expr *inside, const char *close) {
  return g_seq(c->g, g_textc(c->g, open), blank(c), inside, blank(c), g_textc(c->g, close));
}

/* x, x, …: from min to max times (-1: no end). */
static g_expr *separated(compiler *c, g_expr *x, int32_t min, int32_t max) {
  g_rules *g = c->g;
  if (max == 0) return g_textc(g, "");
  g_expr *more = g_repeat(g, after_comma(c, x), PU_MAX(min - 1, 0), max < 0 ? -1 : max - 1);
  g_expr *all = g_seq(g, x, more);
  return min > 0 ? all : g_optional(g, all);
}

/* ---- schemas and their rules ---- */

static int32_t rule_for(compiler *c, json_t *schema, const char *fmt, ...) PU_PRINTF(3, 4);
static int32_t rule_for(compiler *c, json_t *schema, const char *fmt, ...) {
  char key[24], path[200];
  snprintf(key, sizeof key, "%p", (void *)schema);
  json_t *known = json_object_get(c->rules, key);
  if (known) return (int32_t)json_integer_value(known);
  int32_t r = g_rule_new(c->g);
  if (c->g->failed) return 0;
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(path, sizeof path, fmt, ap);
  va_end(ap);
  char *copy = pu_arena_strdup(c->g->a, path);
  if (!copy || json_object_set_new(c->rules, key, json_integer(r))) c->g->failed = true;
  json_t *base = json_object_get(schema, "$id") ? schema : c->base;
  c->jobs[c->n_jobs++] = (job){schema, base, copy, r};
  return r;
}

/* A schema made here; lives as long as the compiler. NULL: no memory. */
static json_t *keep(compiler *c, json_t *schema) {
  if (!schema || json_array_append_new(c->made, schema)) {
    c->g->failed = true;
    return NULL;
  }
  return schema;
}

static int hex_of(char c) {
  return c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1;
}

/* One step of a JSON pointer (RFC 6901) in a URI's fragment, without what is written as ~ or %. */
static void unescape(const char *from, size_t n, char *to) {
  for (size_t i = 0; i < n; i++) {
    if (from[i] == '%' && i + 2 < n && hex_of(from[i + 1]) >= 0 && hex_of(from[i + 2]) >= 0) {
      *to++ = (char)(hex_of(from[i + 1]) * 16 + hex_of(from[i + 2]));
      i += 2;
    } else if (from[i] == '~' && i + 1 < n && (from[i + 1] == '0' || from[i + 1] == '1')) {
      *to++ = from[++i] == '0' ? '~' : '/';
    } else {
      *to++ = from[i];
    }
  }
  *to = 0;
}

static pu_err resolve(compiler *c, const json_t *ref, json_t **out) {
  const char *text = json_string_value(ref);
  if (!text || text[0] != '#' || (text[1] && text[1] != '/'))
    return refuse(c, PU_ERR_UNSUPPORTED, "'$ref': only references inside the schema (#/…) are followed, not '%.80s'",
                  text ? text : "");
  json_t *at = c->base;
  char step[256];
  for (const char *p = text + 1; *p && at;) {
    size_t n = strcspn(++p, "/");
    if (n >= sizeof step) return refuse(c, PU_ERR_UNSUPPORTED, "'$ref': a name of more than 255 bytes");
    unescape(p, n, step);
    if (json_is_array(at))
      at = step[0] && !step[strspn(step, "0123456789")] ? json_array_get(at, strtoul(step, NULL, 10)) : NULL;
    else
      at = json_object_get(at, step);
    p += n;
  }
  if (!at) return refuse(c, PU_ERR_FORMAT, "'$ref': there is no '%.80s' in the schema", text);
  *out = at;
  return PU_OK;
}

/* ---- keywords ---- */

typedef enum use { CHANGES_NOTHING, HANDLED, REFUSED } use;

/* What is not here is an annotation, as the standard says of unknown keywords. */
static use use_of(const char *key, const json_t *value) {
  static const char handled[] =
      " $ref allOf anyOf oneOf type enum const properties required additionalProperties minProperties maxProperties "
      "items prefixItems additionalItems minItems maxItems pattern format minLength maxLength minimum maximum "
      "exclusiveMinimum exclusiveMaximum ";
  static const char refused[] =
      " not if then else dependentRequired dependentSchemas dependencies patternProperties propertyNames contains "
      "minContains maxContains uniqueItems multipleOf unevaluatedProperties unevaluatedItems $dynamicRef "
      "$recursiveRef ";
  char word[64];
  if (snprintf(word, sizeof word, " %s ", key) >= (int)sizeof word) return CHANGES_NOTHING;
  if (strstr(handled, word)) return HANDLED;
  if (!strstr(refused, word)) return CHANGES_NOTHING;
  bool nothing = json_is_true(value) || (json_is_object(value) && !json_object_size(value));
  if (strncmp(key, "unevaluated", 11) == 0) return nothing ? CHANGES_NOTHING : REFUSED;
  if (strcmp(key, "uniqueItems") == 0) return json_is_false(value) ? CHANGES_NOTHING : REFUSED;
  bool no_entries = json_is_object(value) && !json_object_size(value);
  bool is_map = strncmp(key, "depend", 6) == 0 || strcmp(key, "patternProperties") == 0;
  return is_map && no_entries ? CHANGES_NOTHING : REFUSED;
}

static size_t handled_keys(json_t *schema) {
  size_t n = 0;
  const char *key;
  json_t *v;
  json_object_foreach(schema, key, v) n += use_of(key, v) == HANDLED;
  return n;
}

static pu_err check_keys(const compiler *c, json_t *schema) {
  const char *key;
  json_t *v;
  json_object_foreach(schema, key, v) if (use_of(key, v) == REFUSED) return refuse(
      c, PU_ERR_UNSUPPORTED, "'%s' is not supported: it cannot be enforced while a text is made", key);
  return PU_OK;
}

/* ---- allOf: schemas that all hold ---- */

static double number_of(const json_t *v) {
  return json_number_value(v);
}

/* type: what both allow. */
static json_t *common_types(const json_t *a, const json_t *b) {
  json_t *out = json_array();
  size_t n = json_is_array(a) ? json_array_size(a) : 1, m = json_is_array(b) ? json_array_size(b) : 1;
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < m; j++) {
      const char *x = json_string_value(json_is_array(a) ? json_array_get(a, i) : a);
      const char *y = json_string_value(json_is_array(b) ? json_array_get(b, j) : b);
      if (!x || !y) continue;
      bool narrower = strcmp(x, "integer") == 0 && strcmp(y, "number") == 0;
      bool wider = strcmp(y, "integer") == 0 && strcmp(x, "number") == 0;
      if (strcmp(x, y) == 0 || narrower) json_array_append_new(out, json_string(x));
      if (wider) json_array_append_new(out, json_string(y));
    }
  return out;
}

/* enum: what is in both. */
static json_t *common_values(json_t *a, json_t *b) {
  json_t *out = json_array();
  for (size_t i = 0; i < json_array_size(a); i++)
    for (size_t j = 0; j < json_array_size(b); j++)
      if (json_equal(json_array_get(a, i), json_array_get(b, j))) json_array_append(out, json_array_get(a, i));
  return out;
}

/* Both schemas: each is looked at when its turn comes. */
static json_t *both(json_t *a, json_t *b) {
  return json_pack("{s:[O,O]}", "allOf", a, b);
}

static json_t *union_of_properties(json_t *a, json_t *b) {
  json_t *out = json_copy(a), *v;
  const char *key;
  json_object_foreach(b, key, v) {
    json_t *mine = json_object_get(out, key);
    if (mine)
      json_object_set_new(out, key, both(mine, v));
    else
      json_object_set(out, key, v);
  }
  return out;
}

static json_t *concatenated(json_t *a, json_t *b) {
  json_t *out = json_copy(a);
  json_array_extend(out, b);
  return out;
}

static bool in(const char *key, const char *list) {
  char word[64];
  return snprintf(word, sizeof word, " %s ", key) < (int)sizeof word && strstr(list, word);
}

/* What a keyword is when both values hold; NULL: puyu cannot say. */
static json_t *merged_value(const char *key, json_t *a, json_t *b) {
  if (json_equal(a, b)) return json_incref(a);
  if (strcmp(key, "type") == 0) return common_types(a, b);
  if (strcmp(key, "enum") == 0) return common_values(a, b);
  if (strcmp(key, "properties") == 0) return union_of_properties(a, b);
  if (in(key, " required allOf ")) return concatenated(a, b);
  bool numbers = json_is_number(a) && json_is_number(b);
  if (numbers && in(key, " minimum exclusiveMinimum minLength minItems minProperties "))
    return json_incref(number_of(a) > number_of(b) ? a : b);
  if (numbers && in(key, " maximum exclusiveMaximum maxLength maxItems maxProperties "))
    return json_incref(number_of(a) < number_of(b) ? a : b);
  bool schemas = (json_is_object(a) || json_is_boolean(a)) && (json_is_object(b) || json_is_boolean(b));
  if (schemas && in(key, " items additionalProperties ")) return both(a, b);
  return NULL;
}

/* additionalProperties of one part says nothing of the other's properties; here it would. */
static bool closes_the_other(json_t *a, json_t *b) {
  json_t *more = json_object_get(a, "additionalProperties"), *v;
  const char *key;
  if (!more || json_is_true(more)) return false;
  json_object_foreach(json_object_get(b, "properties"), key, v) {
    if (!json_object_get(json_object_get(a, "properties"), key)) return true;
  }
  return false;
}

static pu_err merge(compiler *c, json_t *into, json_t *from) {
  if (closes_the_other(into, from) || closes_the_other(from, into))
    return refuse(c, PU_ERR_UNSUPPORTED,
                  "'additionalProperties' beside properties that another part of 'allOf' names is not supported");
  const char *key;
  json_t *v;
  json_object_foreach(from, key, v) {
    json_t *mine = json_object_get(into, key);
    json_t *now = !mine ? json_incref(v) : merged_value(key, mine, v);
    if (!now && use_of(key, v) == CHANGES_NOTHING) continue;
    if (!now) return refuse(c, PU_ERR_UNSUPPORTED, "'%.60s' twice, in parts of 'allOf', is not supported", key);
    if (json_object_set_new(into, key, now)) c->g->failed = true;
  }
  return PU_OK;
}

static pu_err flatten(compiler *c, json_t *schema, json_t *into, int depth) {
  if (depth > REFS_MAX) return refuse(c, PU_ERR_UNSUPPORTED, "'$ref' and 'allOf' lead in a circle, or too far");
  if (json_is_true(schema)) return PU_OK;
  if (json_is_false(schema)) {
    json_object_set_new(into, "enum", json_array());
    return PU_OK;
  }
  if (!json_is_object(schema)) return refuse(c, PU_ERR_FORMAT, "a schema is an object, true or false");
  json_t *own = keep(c, json_copy(schema)), *target;
  if (!own) return PU_OK;
  json_object_del(own, "$ref");
  json_object_del(own, "allOf");
  PU_TRY(merge(c, into, own));
  if (json_object_get(schema, "$ref")) {
    PU_TRY(resolve(c, json_object_get(schema, "$ref"), &target));
    PU_TRY(flatten(c, target, into, depth + 1));
  }
  json_t *parts = json_object_get(schema, "allOf");
  if (parts && !json_is_array(parts)) return refuse(c, PU_ERR_FORMAT, "'allOf' should be an array");
  for (size_t i = 0; i < json_array_size(parts); i++) PU_TRY(flatten(c, json_array_get(parts, i), into, depth + 1));
  return PU_OK;
}

/* ---- values that are written out ---- */

static g_expr *literal(compiler *c, const json_t *v, int depth);

static g_expr *literal_list(compiler *c, const json_t *v, int depth) {
  g_rules *g = c->g;
  g_list l = {0};
  bool is_object = json_is_object(v);
  void *it = is_object ? json_object_iter((json_t *)v) : NULL;
  size_t n = is_object ? json_object_size(v) : json_array_size(v);
  for (size_t i = 0; i < n; i++) {
    g_expr *x;
    if (is_object) {
      json_t *key = json_string(json_object_iter_key(it));
      x = g_seq(g, literal(c, key, depth), g_textc(g, ":"), blank(c), literal(c, json_object_iter_value(it), depth));
      json_decref(key);
      it = json_object_iter_next((json_t *)v, it);
    } else {
      x = literal(c, json_array_get(v, i), depth);
    }
    g_list_add(g, &l, i ? after_comma(c, x) : x);
  }
  return bracketed(c, is_object ? "{" : "[", g_join(g, G_SEQ, l.v, l.n), is_object ? "}" : "]");
}

static g_expr *literal(compiler *c, const json_t *v, int depth) {
  char number[64];
  if (depth > G_NESTING_MAX) c->g->failed = true;
  if (c->g->failed) return NULL;
  if (json_is_object(v) || json_is_array(v)) return literal_list(c, v, depth + 1);
  if (json_is_real(v)) {
    pu_format_double(number, json_real_value(v));
    return g_textc(c->g, number);
  }
  pu_buf b;
  pu_buf_init(&b, G_SOURCE_MAX * 8);
  if (json_is_string(v)) {
    pu_buf_json_str(&b, pu_str_of(json_string_value(v), json_string_length(v)));
  } else if (json_is_integer(v)) {
    pu_buf_printf(&b, "%lld", (long long)json_integer_value(v));
  } else {
    pu_buf_puts(&b, json_is_null(v) ? "null" : json_is_true(v) ? "true" : "false");
  }
  g_expr *x = b.failed ? NULL : g_text(c->g, pu_str_of(b.data, b.len));
  c->g->failed |= b.failed;
  pu_buf_deinit(&b);
  return x;
}

/* ---- types ---- */

enum { T_NULL = 1, T_BOOLEAN = 2, T_OBJECT = 4, T_ARRAY = 8, T_STRING = 16, T_NUMBER = 32, T_INTEGER = 64, T_ALL = 63 };

static const struct {
  const char *name;
  unsigned bit;
} type_names[] = {{"null", T_NULL},     {"boolean", T_BOOLEAN}, {"object", T_OBJECT},  {"array", T_ARRAY},
                  {"string", T_STRING}, {"number", T_NUMBER},   {"integer", T_INTEGER}};

static pu_err one_type(const compiler *c, const json_t *v, unsigned *out) {
  const char *s = json_string_value(v);
  for (size_t i = 0; s && i < PU_COUNT(type_names); i++)
    if (strcmp(type_names[i].name, s) == 0) {
      *out |= type_names[i].bit;
      return PU_OK;
    }
  return refuse(c, PU_ERR_FORMAT, "'type': '%.40s' is no type", s ? s : "(no string)");
}

/* Keywords that speak of one type, where 'type' is missing: then that type is meant. */
static unsigned types_meant(json_t *schema) {
  static const struct {
    const char *keys;
    unsigned bits;
  } speak[] = {{" properties required additionalProperties minProperties maxProperties ", T_OBJECT},
               {" items prefixItems minItems maxItems ", T_ARRAY},
               {" pattern format minLength maxLength ", T_STRING},
               {" minimum maximum exclusiveMinimum exclusiveMaximum ", T_NUMBER}};
  unsigned bits = 0;
  const char *key;
  json_t *v;
  json_object_foreach(schema, key, v) {
    for (size_t i = 0; i < PU_COUNT(speak); i++)
      if (in(key, speak[i].keys)) bits |= speak[i].bits;
  }
  return bits ? bits : T_ALL;
}

static pu_err types_of(const compiler *c, json_t *schema, unsigned *out) {
  json_t *type = json_object_get(schema, "type");
  *out = 0;
  if (!type) {
    *out = json_object_get(schema, "enum") || json_object_get(schema, "const") ? T_ALL : types_meant(schema);
    return PU_OK;
  }
  if (!json_is_array(type)) return one_type(c, type, out);
  for (size_t i = 0; i < json_array_size(type); i++) PU_TRY(one_type(c, json_array_get(type, i), out));
  return PU_OK;
}

static unsigned type_of(const json_t *v) {
  static const unsigned bits[] = {[JSON_OBJECT] = T_OBJECT,
                                  [JSON_ARRAY] = T_ARRAY,
                                  [JSON_STRING] = T_STRING,
                                  [JSON_REAL] = T_NUMBER,
                                  [JSON_TRUE] = T_BOOLEAN,
                                  [JSON_FALSE] = T_BOOLEAN,
                                  [JSON_INTEGER] = T_NUMBER | T_INTEGER,
                                  [JSON_NULL] = T_NULL};
  return bits[json_typeof(v)];
}

/* enum and const. What else the schema says of the values was said in vain, or is not looked at. */
static pu_err given_values(compiler *c, json_t *schema, unsigned types, g_expr **out) {
  json_t *all = json_object_get(schema, "enum"), *constant = json_object_get(schema, "const"), *v;
  const char *key;
  if (all && !json_is_array(all)) return refuse(c, PU_ERR_FORMAT, "'enum' should be an array");
  json_object_foreach(schema, key, v) {
    if (use_of(key, v) == HANDLED && !in(key, " enum const type "))
      return refuse(c, PU_ERR_UNSUPPORTED, "'%s' beside 'enum' or 'const' is not supported: list what fits both", key);
  }
  g_list l = {0};
  size_t n = all ? json_array_size(all) : 1;
  for (size_t i = 0; i < n; i++) {
    json_t *x = all ? json_array_get(all, i) : constant;
    if (!(type_of(x) & types) || (all && constant && !json_equal(x, constant))) continue;
    g_list_add(c->g, &l, literal(c, x, 0));
  }
  *out = g_join(c->g, G_ALT, l.v, l.n);
  return PU_OK;
}

/* A count such as maxLength; missing: dflt. */
static pu_err count(const compiler *c, json_t *schema, const char *key, int32_t dflt, int32_t *out) {
  json_t *v = json_object_get(schema, key);
  double x = json_number_value(v);
  *out = dflt;
  if (!v) return PU_OK;
  if (!json_is_number(v) || x < 0 || x != floor(x)) return refuse(c, PU_ERR_FORMAT, "'%s' should be a count", key);
  if (x > G_REPEAT_MAX) return refuse(c, PU_ERR_UNSUPPORTED, "'%s' is more than %d", key, G_REPEAT_MAX);
  *out = (int32_t)x;
  return PU_OK;
}

/* ---- strings ---- */

static pu_err strings(compiler *c, json_t *schema, g_expr **out) {
  g_rules *g = c->g;
  json_t *pattern = json_object_get(schema, "pattern"), *format = json_object_get(schema, "format");
  int32_t min, max;
  PU_TRY(count(c, schema, "minLength", 0, &min));
  PU_TRY(count(c, schema, "maxLength", -1, &max));
  bool has_length = min > 0 || max >= 0;
  if (!!pattern + !!format + has_length > 1)
    return refuse(
        c, PU_ERR_UNSUPPORTED,
        "only one of 'pattern', 'format' and a length is supported; write the length into the pattern, as {1,9}");
  if ((pattern && !json_is_string(pattern)) || (format && !json_is_string(format)))
    return refuse(c, PU_ERR_FORMAT, "'%s' should be a string", pattern ? "pattern" : "format");
  g_expr *x = NULL;
  if (pattern) {
    pu_str source = pu_str_of(json_string_value(pattern), json_string_length(pattern));
    pu_err err = g_regex(g, source, true, &x, c->e);
    if (err) return pu_fail_in(c->e, err, "schema, %.120s: 'pattern'", c->path);
  } else if (format) {
    PU_TRY(g_format(g, json_string_value(format), &x, c->e));
    if (!x && !g->failed)
      return refuse(c, PU_ERR_UNSUPPORTED, "'format': '%.40s' is not known; give a 'pattern'",
                    json_string_value(format));
  } else if (!has_length) {
    *out = g_call(g, c->string);
    return PU_OK;
  } else {
    if (max >= 0 && max < min) *out = g_join(g, G_ALT, NULL, 0);
    if (max < 0 || max >= min) *out = quoted(g, g_repeat(g, character(c), min, max));
    return PU_OK;
  }
  *out = quoted(g, g_json_escaped(g, x));
  return PU_OK;
}

/* ---- numbers ---- */

enum { EXACT_MAX = 53 }; /* bits of whole numbers that a double holds */

typedef struct limit {
  int64_t value;
  bool given, exclusive;
} limit;

/* The stronger of minimum and exclusiveMinimum (side 1), or of the maxima (side -1). exclusive… was a boolean once. */
static pu_err read_limit(const compiler *c, json_t *schema, const char *key, const char *exclusive_key, int side,
                         bool integers, limit *out) {
  json_t *v = json_object_get(schema, key), *x = json_object_get(schema, exclusive_key);
  *out = (limit){0};
  if ((v && !json_is_number(v)) || (x && !json_is_number(x) && !json_is_boolean(x)))
    return refuse(c, PU_ERR_FORMAT, "'%s' should be a number", v && !json_is_number(v) ? key : exclusive_key);
  bool exclusive = json_is_true(x);
  if (json_is_number(x) && (!v || side * number_of(x) >= side * number_of(v))) {
    v = x;
    key = exclusive_key;
    exclusive = true;
  }
  if (!v) return PU_OK;
  double d = number_of(v);
  if (d != floor(d)) {
    if (!integers) return refuse(c, PU_ERR_UNSUPPORTED, "'%s' of numbers must be a whole number, not %g", key, d);
    d = side > 0 ? ceil(d) : floor(d);
    exclusive = false;
  }
  if (!json_is_integer(v) && fabs(d) > (double)((int64_t)1 << EXACT_MAX))
    return refuse(c, PU_ERR_UNSUPPORTED, "'%s' is too large: %g", key, d);
  int64_t i = json_is_integer(v) ? json_integer_value(v) : (int64_t)d;
  if (llabs(i / 2) > (int64_t)1 << 61) return refuse(c, PU_ERR_UNSUPPORTED, "'%s' is too large: %g", key, d);
  *out = (limit){.value = integers && exclusive ? i + side : i, .given = true, .exclusive = exclusive};
  return PU_OK;
}

static pu_err numbers(compiler *c, json_t *schema, bool integers, g_expr **out) {
  limit min, max;
  PU_TRY(read_limit(c, schema, "minimum", "exclusiveMinimum", 1, integers, &min));
  PU_TRY(read_limit(c, schema, "maximum", "exclusiveMaximum", -1, integers, &max));
  const int64_t *lo = min.given ? &min.value : NULL, *hi = max.given ? &max.value : NULL;
  *out = integers ? g_integers(c->g, lo, hi) : g_numbers(c->g, lo, hi, min.exclusive, max.exclusive);
  return PU_OK;
}

/* ---- arrays ---- */

static pu_err arrays(compiler *c, json_t *schema, g_expr **out) {
  g_rules *g = c->g;
  json_t *items = json_object_get(schema, "items"), *first = json_object_get(schema, "prefixItems");
  int32_t min, max;
  PU_TRY(count(c, schema, "minItems", 0, &min));
  PU_TRY(count(c, schema, "maxItems", -1, &max));
  if (json_is_array(items)) { /* as it was before 2020-12 */
    first = items;
    items = json_object_get(schema, "additionalItems");
  }
  if (first && !json_is_array(first)) return refuse(c, PU_ERR_FORMAT, "'prefixItems' should be an array");
  int32_t n = (int32_t)json_array_size(first);
  bool more = !json_is_false(items) && (max < 0 || max > n) && (items || !n || min > n);
  int32_t rest = !items ? c->value : more ? rule_for(c, items, "%.150s/items", c->path) : 0;
  g_expr *tail = g_textc(g, "");
  if ((max >= 0 && max < min) || (!more && min > n)) {
    *out = g_join(g, G_ALT, NULL, 0);
    return PU_OK;
  }
  if (n == 0) {
    if (more) tail = separated(c, g_call(g, rest), min, max);
    *out = bracketed(c, "[", tail, "]");
    return PU_OK;
  }
  if (more) tail = g_repeat(g, after_comma(c, g_call(g, rest)), PU_MAX(min - n, 0), max < 0 ? -1 : max - n);
  for (int32_t i = n; i-- > 0;) { /* from the last one: each may be missing together with those behind it */
    g_expr *x = g_call(g, rule_for(c, json_array_get(first, (size_t)i), "%.150s/prefixItems/%d", c->path, i));
    x = i ? after_comma(c, x) : x;
    if (max < 0 || i < max) tail = g_seq(g, x, tail);
    if (max >= 0 && i >= max) tail = g_textc(g, "");
    if (i >= min) tail = g_optional(g, tail);
  }
  *out = bracketed(c, "[", tail, "]");
  return PU_OK;
}

/* ---- objects ---- */

typedef struct property {
  const char *key;
  g_expr *member;
  bool required;
} property;

typedef struct properties {
  property *v;
  int32_t n, n_required;
  g_expr *extra; /* a member that is not named; NULL: there are none */
} properties;

static int by_key(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Texts of strings that are none of the keys [lo, hi), sorted, of which the first `at` bytes were read. The character
 * with which a name leaves all keys stands for itself, as an escape could spell what it should not. */
static g_expr *other_names(compiler *c, const char **keys, size_t lo, size_t hi, size_t at, int depth) {
  g_rules *g = c->g;
  g_list l = {0};
  g_ranges known = {0};
  g_ranges_add(g, &known, 0, 0x1F);
  g_ranges_add(g, &known, '"', '"');
  g_ranges_add(g, &known, '\\', '\\');
  bool is_key = !keys[lo][at];
  for (size_t i = lo + is_key, next; i < hi; i = next) {
    uint32_t ch = 0;
    size_t n = pu_utf8_next(pu_str_c(keys[i] + at), &ch);
    for (next = i + 1; next < hi && strncmp(keys[next] + at, keys[i] + at, n) == 0;) next++;
    g_ranges_add(g, &known, ch, ch);
    if (!n || depth == KEY_CHARS_MAX) continue;
    g_expr *same = g_json_escaped(g, g_text(g, pu_str_of(keys[i] + at, n)));
    g_list_add(g, &l, g_seq(g, same, other_names(c, keys, i, next, at + n, depth + 1)));
  }
  g_expr *differs = g_chars(g, known.v, known.n, true);
  g_list_add(g, &l, g_seq(g, differs, g_repeat(g, character(c), 0, -1)));
  if (!is_key) g_list_add(g, &l, g_textc(g, ""));
  return g_join(g, G_ALT, l.v, l.n);
}

static g_expr *other_name(compiler *c, const properties *p) {
  if (!p->n) return g_call(c->g, c->string);
  const char **keys = pu_arena_alloc(c->g->a, (size_t)p->n * sizeof *keys);
  if (!keys) {
    c->g->failed = true;
    return NULL;
  }
  for (int32_t i = 0; i < p->n; i++) keys[i] = p->v[i].key;
  qsort(keys, (size_t)p->n, sizeof *keys, by_key);
  return quoted(c->g, other_names(c, keys, 0, (size_t)p->n, 0, 0));
}

static bool is_required(const json_t *required, const char *key) {
  for (size_t i = 0; i < json_array_size(required); i++) {
    const char *s = json_string_value(json_array_get(required, i));
    if (s && strcmp(s, key) == 0) return true;
  }
  return false;
}

static void add_property(compiler *c, properties *p, const char *key, int32_t rule, bool required) {
  json_t *name = json_string(key);
  p->v[p->n++] = (property){key, member(c, literal(c, name, 0), rule), required};
  p->n_required += required;
  json_decref(name);
}

/* Properties in their order; then what is required without being one of them; then what else may come. */
static pu_err read_properties(compiler *c, json_t *schema, properties *p) {
  json_t *named = json_object_get(schema, "properties"), *required = json_object_get(schema, "required"), *v;
  json_t *more = json_object_get(schema, "additionalProperties");
  const char *key;
  if ((named && !json_is_object(named)) || (required && !json_is_array(required)))
    return refuse(c, PU_ERR_FORMAT, "'properties' should be an object, 'required' an array");
  size_t most = json_object_size(named) + json_array_size(required);
  if (most > PROPERTIES_MAX) return refuse(c, PU_ERR_UNSUPPORTED, "more than %d properties", PROPERTIES_MAX);
  *p = (properties){.v = pu_arena_alloc(c->g->a, (most + 1) * sizeof *p->v)};
  if (!p->v) c->g->failed = true;
  if (c->g->failed) return PU_OK;
  json_object_foreach(named, key, v) {
    add_property(c, p, key, rule_for(c, v, "%.120s/properties/%.60s", c->path, key), is_required(required, key));
    if (c->g->failed) return PU_OK;
  }
  bool open = more ? !json_is_false(more) : !named;
  int32_t rest = more && open ? rule_for(c, more, "%.150s/additionalProperties", c->path) : c->value;
  for (size_t i = 0; i < json_array_size(required); i++) {
    const char *s = json_string_value(json_array_get(required, i));
    if (!s) return refuse(c, PU_ERR_FORMAT, "'required' should name properties");
    bool known = false;
    for (int32_t k = 0; k < p->n && !known; k++) known = strcmp(p->v[k].key, s) == 0;
    if (known) continue;
    if (json_is_false(more))
      return refuse(c, PU_ERR_USAGE, "no finite text fits: '%.60s' is required, but no property may have this name", s);
    add_property(c, p, s, rest, true);
  }
  if (open) p->extra = member(c, other_name(c, p), rest);
  return PU_OK;
}

/* The first member is one up to the first that is required; what follows it has commas. */
static g_expr *members(compiler *c, const properties *p) {
  g_rules *g = c->g;
  g_expr *tail = p->extra ? g_repeat(g, after_comma(c, p->extra), 0, -1) : g_textc(g, "");
  g_list l = {0};
  int32_t first_required = 0;
  while (first_required < p->n && !p->v[first_required].required) first_required++;
  int32_t last = PU_MIN(first_required, p->n - 1);
  g_expr *after = tail; /* what may stand behind member i */
  for (int32_t i = p->n - 1; i >= 0; i--) {
    if (i <= last && last > 0) { /* where several ways lead: a rule */
      int32_t r = g_rule_new(g);
      if (g->failed) return NULL;
      g->v[r] = after;
      after = g_call(g, r);
    }
    if (i <= last) g_list_add(g, &l, g_seq(g, p->v[i].member, after));
    g_expr *one = after_comma(c, p->v[i].member);
    after = g_seq(g, p->v[i].required ? one : g_optional(g, one), after);
  }
  if (!p->n_required && p->extra) g_list_add(g, &l, g_seq(g, p->extra, tail));
  if (!p->n_required) g_list_add(g, &l, g_textc(g, ""));
  return g_join(g, G_ALT, l.v, l.n);
}

static pu_err objects(compiler *c, json_t *schema, g_expr **out) {
  properties p;
  int32_t min, max;
  PU_TRY(count(c, schema, "minProperties", 0, &min));
  PU_TRY(count(c, schema, "maxProperties", -1, &max));
  PU_TRY(read_properties(c, schema, &p));
  if (c->g->failed) return PU_OK;
  if (!p.n && p.extra && (max < 0 || max >= min)) {
    *out = bracketed(c, "{", separated(c, p.extra, min, max), "}");
    return PU_OK;
  }
  if (min > p.n_required || (max >= 0 && (p.extra || max < p.n)))
    return refuse(c, PU_ERR_UNSUPPORTED, "'%s' beside 'properties' is supported only where it says nothing new",
                  min > p.n_required ? "minProperties" : "maxProperties");
  *out = bracketed(c, "{", members(c, &p), "}");
  return PU_OK;
}

/* ---- a schema ---- */

static pu_err by_types(compiler *c, json_t *schema, g_expr **out) {
  unsigned types;
  g_list l = {0};
  PU_TRY(types_of(c, schema, &types));
  if (json_object_get(schema, "enum") || json_object_get(schema, "const")) return given_values(c, schema, types, out);
  const struct {
    unsigned bit;
    pu_err (*make)(compiler *, json_t *, g_expr **);
  } makers[] = {{T_OBJECT, objects}, {T_ARRAY, arrays}, {T_STRING, strings}};
  for (size_t i = 0; i < PU_COUNT(makers); i++) {
    g_expr *x = NULL;
    if (!(types & makers[i].bit)) continue;
    PU_TRY(makers[i].make(c, schema, &x));
    g_list_add(c->g, &l, x);
  }
  if (types & (T_NUMBER | T_INTEGER)) {
    g_expr *x = NULL;
    PU_TRY(numbers(c, schema, !(types & T_NUMBER), &x));
    g_list_add(c->g, &l, x);
  }
  if (types & T_BOOLEAN) g_list_add(c->g, &l, g_alt(c->g, g_textc(c->g, "true"), g_textc(c->g, "false")));
  if (types & T_NULL) g_list_add(c->g, &l, g_textc(c->g, "null"));
  *out = g_join(c->g, G_ALT, l.v, l.n);
  return PU_OK;
}

/* anyOf, oneOf: each branch together with what stands beside it. */
static pu_err branches(compiler *c, json_t *schema, const char *key, g_expr **out) {
  json_t *all = json_object_get(schema, key);
  if (!json_is_array(all)) return refuse(c, PU_ERR_FORMAT, "'%s' should be an array", key);
  json_t *rest = keep(c, json_copy(schema));
  if (!rest) return PU_OK;
  json_object_del(rest, key);
  bool alone = handled_keys(rest) == 0;
  g_list l = {0};
  for (size_t i = 0; i < json_array_size(all); i++) {
    json_t *one = json_array_get(all, i);
    if (!alone) one = keep(c, both(rest, one));
    if (!one) return PU_OK;
    g_list_add(c->g, &l, g_call(c->g, rule_for(c, one, "%.150s/%s/%zu", c->path, key, i)));
  }
  *out = g_join(c->g, G_ALT, l.v, l.n);
  return PU_OK;
}

static pu_err compile(compiler *c, json_t *schema, g_expr **out) {
  if (json_is_boolean(schema)) {
    *out = json_is_true(schema) ? g_call(c->g, c->value) : g_join(c->g, G_ALT, NULL, 0);
    return PU_OK;
  }
  if (!json_is_object(schema)) return refuse(c, PU_ERR_FORMAT, "a schema is an object, true or false");
  PU_TRY(check_keys(c, schema));
  json_t *ref = json_object_get(schema, "$ref"), *target;
  size_t handled = handled_keys(schema);
  if (ref && handled == 1) {
    PU_TRY(resolve(c, ref, &target));
    *out = g_call(c->g, rule_for(c, target, "%.150s", json_string_value(ref)));
    return PU_OK;
  }
  if (ref || json_object_get(schema, "allOf")) {
    json_t *flat = keep(c, json_object());
    if (!flat) return PU_OK;
    PU_TRY(flatten(c, schema, flat, 0));
    PU_TRY(check_keys(c, flat));
    schema = flat;
    handled = handled_keys(flat);
  }
  if (!handled) {
    *out = g_call(c->g, c->value);
    return PU_OK;
  }
  if (json_object_get(schema, "anyOf")) return branches(c, schema, "anyOf", out);
  if (json_object_get(schema, "oneOf")) return branches(c, schema, "oneOf", out);
  return by_types(c, schema, out);
}

/* The rules of JSON itself, which every schema may use. */
static void make_json(compiler *c) {
  g_rules *g = c->g;
  int32_t *const rules[] = {&c->blank, &c->escape, &c->string, &c->value, &c->object, &c->array};
  for (size_t i = 0; i < PU_COUNT(rules); i++) *rules[i] = g_rule_new(g);
  g->v[c->blank] = make_blank(g);
  g->v[c->escape] = make_escape(g);
  g->v[c->string] = quoted(g, g_repeat(g, character(c), 0, -1));
  g_expr *pair = member(c, g_call(g, c->string), c->value);
  g->v[c->object] = bracketed(c, "{", separated(c, pair, 0, -1), "}");
  g->v[c->array] = bracketed(c, "[", separated(c, g_call(g, c->value), 0, -1), "]");
  g->v[c->value] =
      g_alt(g, g_call(g, c->object), g_call(g, c->array), g_call(g, c->string), g_numbers(g, NULL, NULL, false, false),
            g_textc(g, "true"), g_textc(g, "false"), g_textc(g, "null"));
}

static pu_err compile_all(compiler *c) {
  c->base = c->root;
  rule_for(c, c->root, "#");
  make_json(c);
  for (int32_t i = 0; i < c->n_jobs && !c->g->failed; i++) {
    c->path = c->jobs[i].path;
    c->base = c->jobs[i].base;
    PU_TRY(compile(c, c->jobs[i].schema, &c->g->v[c->jobs[i].rule]));
  }
  return PU_OK;
}

pu_err g_schema(g_rules *g, pu_str source, pu_error *e) {
  compiler *c = calloc(1, sizeof *c);
  if (!c) return pu_fail(e, PU_ERR_NOMEM, "no memory for a schema");
  c->g = g;
  c->e = e;
  c->path = "#";
  pu_err err = pu_json_parse("schema", source, &c->root, e);
  c->made = json_array();
  c->rules = json_object();
  if (!err && (!c->made || !c->rules)) err = pu_fail(e, PU_ERR_NOMEM, "no memory for a schema");
  if (!err) err = compile_all(c);
  json_decref(c->root);
  json_decref(c->made);
  json_decref(c->rules);
  free(c);
  return err;
}

pu_err g_any_object(g_rules *g, pu_error *e) {
  return g_schema(g, pu_str_c("{\"type\": \"object\"}"), e);
}
