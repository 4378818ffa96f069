/* Values: making them, and asking what Python would say of them. */
#include <math.h>
#include <string.h>

#include "src/text/jinja/jinja.h"

static const jinja_str EMPTY = {.p = ""};

jinja_value jinja_text(jinja *j, pu_str s, const uint8_t *from) {
  jinja_str *to = s.len ? jinja_alloc(j, sizeof *to) : NULL;
  if (to) *to = (jinja_str){.p = s.ptr, .n = s.len, .from = from};
  return (jinja_value){.type = J_STR, .s = to ? to : &EMPTY};
}

jinja_value jinja_copy(jinja *j, pu_str s) {
  char *to = s.len ? jinja_alloc(j, s.len) : NULL;
  if (!to) return (jinja_value){.type = J_STR, .s = &EMPTY};
  memcpy(to, s.ptr, s.len);
  return jinja_text(j, pu_str_of(to, s.len), NULL);
}

jinja_value jinja_sub(jinja *j, const jinja_str *s, size_t begin, size_t end) {
  jinja_str *to = begin < end ? jinja_alloc(j, sizeof *to) : NULL;
  if (to) *to = (jinja_str){s->p + begin, s->from ? s->from + begin : NULL, end - begin, s->markup};
  return (jinja_value){.type = J_STR, .s = to ? to : &EMPTY};
}

jinja_value jinja_undefined(jinja *j, const char *fmt, ...) {
  char text[200];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  jinja_value v = jinja_copy(j, pu_str_c(text));
  v.type = J_UNDEFINED;
  return v;
}

/* ---- lists and dictionaries ---- */

jinja_list *jinja_list_new(jinja *j, size_t room) {
  size_t bytes;
  jinja_list *list = jinja_alloc(j, sizeof *list);
  if (!list) return &j->no_list;
  *list = (jinja_list){0};
  if (pu_mul_overflows(room, sizeof *list->v, &bytes)) bytes = SIZE_MAX;
  list->v = room ? jinja_alloc(j, bytes) : NULL;
  list->cap = list->v ? room : 0;
  return list;
}

void jinja_push(jinja *j, jinja_list *list, jinja_value v) {
  if (list->n == list->cap) {
    size_t cap = list->cap ? 2 * list->cap : 8;
    jinja_value *to = jinja_alloc(j, cap * sizeof *to);
    if (!to) return;
    if (list->n) memcpy(to, list->v, list->n * sizeof *to);
    list->v = to;
    list->cap = cap;
  }
  list->v[list->n++] = v;
}

jinja_dict *jinja_dict_new(jinja *j, size_t room) {
  jinja_dict *d = jinja_alloc(j, sizeof *d);
  if (!d) return &j->no_dict;
  *d = (jinja_dict){0};
  d->v = room ? jinja_alloc(j, room * sizeof *d->v) : NULL;
  d->cap = d->v ? room : 0;
  return d;
}

static jinja_value *find(jinja *j, const jinja_dict *d, jinja_value key) {
  if (!jinja_step(j, d->n / 8)) return NULL;
  for (size_t i = 0; i < d->n; i++)
    if (jinja_equal(j, d->v[i].key, key)) return &d->v[i].value;
  return NULL;
}

const jinja_value *jinja_get(jinja *j, const jinja_dict *d, jinja_value key) {
  return find(j, d, key);
}

const jinja_value *jinja_get_c(jinja *j, const jinja_dict *d, const char *key) {
  const jinja_str s = {.p = key, .n = strlen(key)};
  return find(j, d, (jinja_value){.type = J_STR, .s = &s});
}

static void append_pair(jinja *j, jinja_dict *d, jinja_value key, jinja_value value) {
  if (d->n == d->cap) {
    size_t cap = d->cap ? 2 * d->cap : 8;
    jinja_pair *to = jinja_alloc(j, cap * sizeof *to);
    if (!to) return;
    if (d->n) memcpy(to, d->v, d->n * sizeof *to);
    d->v = to;
    d->cap = cap;
  }
  d->v[d->n++] = (jinja_pair){key, value};
}

void jinja_put(jinja *j, jinja_dict *d, jinja_value key, jinja_value value) {
  if (key.type == J_LIST || key.type == J_DICT) {
    jinja_fail(j, "unhashable type: '%s'", jinja_type_name(key));
    return;
  }
  jinja_value *there = find(j, d, key);
  if (there)
    *there = value;
  else
    append_pair(j, d, key, value);
}

/* ---- from JSON ---- */

static jinja_value text_from_json(jinja *j, const char *s, size_t n, bool input) {
  pu_str view = pu_str_of(s, n);
  return jinja_text(j, view, input ? j->ones : NULL);
}

static jinja_value list_from_json(jinja *j, const json_t *v, bool input) {
  size_t n = json_array_size(v);
  jinja_list *list = jinja_list_new(j, n);
  for (size_t i = 0; i < n && jinja_step(j, 1); i++)
    jinja_push(j, list, jinja_from_json(j, json_array_get(v, i), input));
  return jinja_seq(J_LIST, list);
}

static jinja_value dict_from_json(jinja *j, const json_t *v, bool input) {
  jinja_dict *d = jinja_dict_new(j, json_object_size(v));
  json_t *o = (json_t *)(uintptr_t)v; /* jansson's iterators are not const */
  for (void *it = json_object_iter(o); it && jinja_step(j, 1); it = json_object_iter_next(o, it)) {
    const char *key = json_object_iter_key(it);
    append_pair(j, d, text_from_json(j, key, strlen(key), input),
                jinja_from_json(j, json_object_iter_value(it), input));
  }
  return jinja_of_dict(d);
}

/* Strings stay where jansson has them: the input outlives the rendering. */
jinja_value jinja_from_json(jinja *j, const json_t *v, bool input) {
  jinja_value to = jinja_none();
  if (!jinja_enter(j)) return to;
  if (json_is_object(v)) to = dict_from_json(j, v, input);
  if (json_is_array(v)) to = list_from_json(j, v, input);
  if (json_is_string(v)) to = text_from_json(j, json_string_value(v), json_string_length(v), input);
  if (json_is_boolean(v)) to = jinja_bool(json_is_true(v));
  if (json_is_integer(v)) to = jinja_int(json_integer_value(v));
  if (json_is_real(v)) to = jinja_float(json_real_value(v));
  jinja_leave(j);
  return to;
}

/* ---- what Python says ---- */

const char *jinja_type_name(jinja_value v) {
  static const char *const names[] = {
      [J_MISSING] = "nothing",  [J_UNDEFINED] = "Undefined", [J_NONE] = "NoneType", [J_BOOL] = "bool",
      [J_INT] = "int",          [J_FLOAT] = "float",         [J_STR] = "str",       [J_LIST] = "list",
      [J_TUPLE] = "tuple",      [J_ITER] = "generator",      [J_DICT] = "dict",     [J_SPACE] = "Namespace",
      [J_LOOP] = "LoopContext", [J_FN] = "function"};
  return names[v.type];
}

bool jinja_truth(jinja_value v) {
  switch (v.type) {
  case J_MISSING:
  case J_UNDEFINED:
  case J_NONE:
    return false;
  case J_BOOL:
    return v.b;
  case J_INT:
    return v.i != 0;
  case J_FLOAT:
    return v.f != 0;
  case J_STR:
    return v.s->n > 0;
  case J_LIST:
  case J_TUPLE:
    return v.list->n > 0;
  case J_DICT:
    return v.dict->n > 0;
  default:
    return true;
  }
}

bool jinja_integer(jinja_value v, int64_t *out) {
  if (v.type != J_BOOL && v.type != J_INT) return false;
  *out = v.type == J_BOOL ? v.b : v.i;
  return true;
}

bool jinja_number(jinja_value v, double *out) {
  int64_t i;
  if (jinja_integer(v, &i))
    *out = (double)i;
  else if (v.type == J_FLOAT)
    *out = v.f;
  else
    return false;
  return true;
}

static bool equal_lists(jinja *j, const jinja_list *a, const jinja_list *b) {
  if (a->n != b->n) return false;
  for (size_t i = 0; i < a->n; i++)
    if (!jinja_step(j, 1) || !jinja_equal(j, a->v[i], b->v[i])) return false;
  return true;
}

static bool equal_dicts(jinja *j, const jinja_dict *a, const jinja_dict *b) {
  if (a->n != b->n) return false;
  for (size_t i = 0; i < a->n; i++) {
    const jinja_value *other = jinja_get(j, b, a->v[i].key);
    if (!other || !jinja_step(j, 1) || !jinja_equal(j, a->v[i].value, *other)) return false;
  }
  return true;
}

static bool equal_deep(jinja *j, jinja_value a, jinja_value b) {
  if (!jinja_enter(j)) return false;
  bool equal = a.type == J_DICT ? equal_dicts(j, a.dict, b.dict) : equal_lists(j, a.list, b.list);
  jinja_leave(j);
  return equal;
}

bool jinja_equal(jinja *j, jinja_value a, jinja_value b) {
  int64_t i, k;
  double f, g;
  if (jinja_integer(a, &i) && jinja_integer(b, &k)) return i == k;
  if (jinja_number(a, &f) && jinja_number(b, &g)) return f == g;
  if (a.type != b.type) return false;
  switch (a.type) {
  case J_STR:
    jinja_step(j, a.s->n == b.s->n ? a.s->n / 64 : 0);
    return pu_str_eq(pu_str_of(a.s->p, a.s->n), pu_str_of(b.s->p, b.s->n));
  case J_LIST:
  case J_TUPLE:
  case J_DICT:
    return equal_deep(j, a, b);
  case J_ITER:
    return a.list == b.list;
  case J_SPACE:
    return a.dict == b.dict;
  case J_LOOP:
    return a.loop == b.loop;
  case J_FN:
    return a.fn == b.fn;
  default: /* nothing more to compare */
    return true;
  }
}

static int order_lists(jinja *j, const jinja_list *a, const jinja_list *b) {
  for (size_t i = 0; i < a->n && i < b->n && jinja_step(j, 1); i++) {
    if (!jinja_equal(j, a->v[i], b->v[i])) return jinja_order(j, a->v[i], b->v[i]);
  }
  return (a->n > b->n) - (a->n < b->n);
}

int jinja_order(jinja *j, jinja_value a, jinja_value b) {
  double f, g;
  int order = 0;
  if (a.type == J_INT && b.type == J_INT) return (a.i > b.i) - (a.i < b.i);
  if (jinja_number(a, &f) && jinja_number(b, &g)) return (f > g) - (f < g);
  if (a.type == J_STR && b.type == J_STR) { /* UTF-8 sorts as its code points do */
    jinja_step(j, PU_MIN(a.s->n, b.s->n) / 64);
    int c = memcmp(a.s->p, b.s->p, PU_MIN(a.s->n, b.s->n));
    return c ? c : (a.s->n > b.s->n) - (a.s->n < b.s->n);
  }
  if (a.type != b.type || (a.type != J_LIST && a.type != J_TUPLE)) {
    jinja_value undefined = a.type == J_UNDEFINED ? a : b;
    if (undefined.type == J_UNDEFINED)
      jinja_fail(j, "%.*s", (int)undefined.s->n, undefined.s->p);
    else
      jinja_fail(j, "'%s' and '%s' have no order", jinja_type_name(a), jinja_type_name(b));
  } else if (jinja_enter(j)) {
    order = order_lists(j, a.list, b.list);
    jinja_leave(j);
  }
  return order;
}

static bool in_list(jinja *j, const jinja_list *list, jinja_value what) {
  for (size_t i = 0; i < list->n && jinja_step(j, 1); i++)
    if (jinja_equal(j, list->v[i], what)) return true;
  return false;
}

bool jinja_contains(jinja *j, jinja_value where, jinja_value what) {
  if (where.type == J_DICT) return jinja_get(j, where.dict, what) != NULL;
  if (where.type != J_STR) return in_list(j, jinja_items(j, where), what);
  if (what.type == J_STR) {
    jinja_step(j, where.s->n);
    return jinja_find(where.s, what.s, 0) != SIZE_MAX;
  }
  jinja_fail(j, "'in <string>' requires string as left operand, not %s", jinja_type_name(what));
  return false;
}

static jinja_list *characters(jinja *j, const jinja_str *s) {
  jinja_list *list = jinja_list_new(j, jinja_count_chars(j, s));
  uint32_t cp;
  for (size_t i = 0, n; i < s->n && jinja_step(j, 1); i += n) {
    n = PU_MAX(pu_utf8_next(pu_str_of(s->p + i, s->n - i), &cp), (size_t)1);
    jinja_push(j, list, jinja_sub(j, s, i, i + n));
  }
  return list;
}

jinja_list *jinja_items(jinja *j, jinja_value v) {
  jinja_list *list;
  switch (v.type) {
  case J_LIST:
  case J_TUPLE:
    return v.list;
  case J_ITER: /* a generator runs once */
    list = jinja_list_new(j, 0);
    if (list != &j->no_list) {
      *list = *v.list;
      *v.list = (jinja_list){0};
    }
    return list;
  case J_DICT:
    list = jinja_list_new(j, v.dict->n);
    for (size_t i = 0; i < v.dict->n && jinja_step(j, 1); i++) jinja_push(j, list, v.dict->v[i].key);
    return list;
  case J_STR:
    return characters(j, v.s);
  case J_UNDEFINED:
    return jinja_list_new(j, 0);
  default:
    jinja_fail(j, "'%s' object is not iterable", jinja_type_name(v));
    return jinja_list_new(j, 0);
  }
}

/* ---- sorting: merges, so that what is equal keeps its order ---- */

static void merge(jinja *j, const jinja_list *keys, size_t *at, size_t *to, size_t begin, size_t middle, size_t end,
                  bool reverse) {
  size_t a = begin, b = middle;
  for (size_t i = begin; i < end; i++) {
    bool second = a == middle;
    if (!second && b < end && jinja_step(j, 1)) {
      int order = jinja_order(j, keys->v[at[b]], keys->v[at[a]]);
      second = reverse ? order > 0 : order < 0;
    }
    to[i] = at[second ? b++ : a++];
  }
  memcpy(at + begin, to + begin, (end - begin) * sizeof *at);
}

jinja_value jinja_sorted(jinja *j, const jinja_list *list, const jinja_list *keys, bool reverse) {
  size_t n = PU_MIN(list->n, keys->n);
  jinja_list *sorted = jinja_list_new(j, n);
  size_t *at = jinja_alloc(j, 2 * n * sizeof *at + 1);
  if (!at) return jinja_seq(J_LIST, sorted);
  for (size_t i = 0; i < n; i++) at[i] = i;
  for (size_t width = 1; width < n; width *= 2)
    for (size_t i = 0; i + width < n && jinja_step(j, 1); i += 2 * width)
      merge(j, keys, at, at + n, i, i + width, PU_MIN(i + 2 * width, n), reverse);
  for (size_t i = 0; i < n; i++) jinja_push(j, sorted, list->v[at[i]]);
  return jinja_seq(J_LIST, sorted);
}
