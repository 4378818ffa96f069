/* Arguments checked against the schema of a tool. Schemas are the program's own: what of them is looked at is what they
 * use, and the rest of JSON Schema does not count. Order and spaces are free, unlike in the engine's grammars. */
#include <string.h>

#include "src/agent/internal.h"

enum { MOST_DEPTH = 16 };

typedef struct check {
  char *why;
  size_t room;
  char path[120]; /* "expression", "points[2].x" */
} check;

static bool wrong(check *c, const char *fmt, ...) PU_PRINTF(2, 3);
static bool wrong(check *c, const char *fmt, ...) {
  char what[200];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(what, sizeof what, fmt, ap);
  va_end(ap);
  snprintf(c->why, c->room, "%s%s%s", c->path[0] ? c->path : "the arguments", " ", what);
  return false;
}

static bool is_type(const json_t *v, const char *type) {
  static const struct {
    const char *name;
    json_type type;
  } rows[] = {{"object", JSON_OBJECT}, {"array", JSON_ARRAY},  {"string", JSON_STRING}, {"integer", JSON_INTEGER},
              {"number", JSON_REAL},   {"boolean", JSON_TRUE}, {"boolean", JSON_FALSE}, {"null", JSON_NULL}};
  if (strcmp(type, "number") == 0 && json_is_integer(v)) return true;
  if (strcmp(type, "integer") == 0 && json_is_real(v)) {
    double d = json_real_value(v);
    return d == (double)(int64_t)PU_MAX(-1e18, PU_MIN(1e18, d));
  }
  for (size_t i = 0; i < PU_COUNT(rows); i++)
    if (json_typeof(v) == rows[i].type && strcmp(type, rows[i].name) == 0) return true;
  return false;
}

static bool check_type(check *c, const json_t *type, const json_t *v) {
  size_t i;
  const json_t *one;
  if (!type) return true;
  if (json_is_string(type))
    return is_type(v, json_string_value(type)) ||
           wrong(c, "must be %s %s", strchr("aeiou", *json_string_value(type)) ? "an" : "a", json_string_value(type));
  json_array_foreach(type, i, one) {
    if (json_is_string(one) && is_type(v, json_string_value(one))) return true;
  }
  return wrong(c, "has a wrong type");
}

static bool check_enum(check *c, const json_t *values, const json_t *v) {
  size_t i;
  const json_t *one;
  char list[160] = "";
  if (!values) return true;
  json_array_foreach(values, i, one) {
    if (json_equal(one, v)) return true;
    size_t n = strlen(list);
    if (json_is_string(one)) snprintf(list + n, sizeof list - n, "%s%s", n ? ", " : "", json_string_value(one));
  }
  return wrong(c, "must be one of: %s", list);
}

static bool fits(check *c, const json_t *schema, const json_t *v, int depth);

/* A part of what is checked, under its own path. */
static bool part_fits(check *c, const json_t *schema, const json_t *v, const char *name, size_t index, int depth) {
  size_t n = strlen(c->path);
  if (name)
    snprintf(c->path + n, sizeof c->path - n, "%s%.40s", n ? "." : "", name);
  else
    snprintf(c->path + n, sizeof c->path - n, "[%zu]", index);
  bool good = fits(c, schema, v, depth + 1);
  if (good) c->path[n] = 0;
  return good;
}

static bool check_object(check *c, const json_t *schema, const json_t *v, int depth) {
  const json_t *properties = json_object_get(schema, "properties"), *name;
  const char *key;
  json_t *value;
  size_t i;
  json_array_foreach(json_object_get(schema, "required"), i, name) {
    if (!json_object_get(v, json_string_value(name))) return wrong(c, "lack \"%s\"", json_string_value(name));
  }
  json_object_foreach((json_t *)(uintptr_t)v, key, value) {
    const json_t *sub = json_object_get(properties, key);
    if (!sub && json_is_false(json_object_get(schema, "additionalProperties")))
      return wrong(c, "have \"%.40s\", which is not known", key);
    if (sub && !part_fits(c, sub, value, key, 0, depth)) return false;
  }
  return true;
}

static bool fits(check *c, const json_t *schema, const json_t *v, int depth) {
  const json_t *items = json_object_get(schema, "items"), *one;
  size_t i;
  if (depth > MOST_DEPTH) return wrong(c, "is nested too deeply");
  if (!check_type(c, json_object_get(schema, "type"), v) || !check_enum(c, json_object_get(schema, "enum"), v))
    return false;
  if (json_is_object(v)) return check_object(c, schema, v, depth);
  if (!json_is_array(v) || !items) return true;
  json_array_foreach(v, i, one) {
    if (!part_fits(c, items, one, NULL, i, depth)) return false;
  }
  return true;
}

bool agent_fits(const json_t *schema, const json_t *value, char *why, size_t room) {
  check c = {.why = why, .room = room};
  return fits(&c, schema, value, 0);
}
