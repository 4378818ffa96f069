/* Filters. To add one: a function and a row. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/text/jinja/jinja.h"

#define FILTER(name) static jinja_value name(jinja *j, jinja_value v, const jinja_args *a)

static const jinja_str *text_of(jinja *j, jinja_value v) {
  return jinja_str_of(j, v);
}

static bool flag(jinja_value v) {
  return jinja_truth(v); /* J_MISSING is false */
}

/* A whole number among the arguments, or what stands for it. */
static int64_t whole(jinja *j, jinja_value v, int64_t dflt) {
  int64_t i = dflt;
  if (jinja_given(v) && v.type != J_NONE && !jinja_integer(v, &i))
    jinja_fail(j, "an integer is needed, not %s", jinja_type_name(v));
  return i;
}

/* ---- text ---- */

FILTER(f_trim) {
  return jinja_strip(j, text_of(j, v), jinja_given(a->v[0]) && a->v[0].type != J_NONE ? text_of(j, a->v[0]) : NULL,
                     JINJA_LEFT | JINJA_RIGHT);
}
FILTER(f_lower) {
  (void)a;
  return jinja_lower(j, text_of(j, v));
}
FILTER(f_upper) {
  (void)a;
  return jinja_upper(j, text_of(j, v));
}
FILTER(f_capitalize) {
  (void)a;
  return jinja_capitalize(j, text_of(j, v));
}

/* A word begins after a space, a hyphen or an opening bracket. */
FILTER(f_title) {
  (void)a;
  const jinja_str *s = text_of(j, v);
  jinja_build b = {.j = j};
  for (size_t i = 0, end; i < s->n && jinja_step(j, 1); i = end) {
    for (end = i; end < s->n && !strchr("- \t\n\r\f\v({[<", s->p[end]);) end++;
    if (end > i) jinja_add_str(&b, jinja_capitalize(j, jinja_sub(j, s, i, end).s).s);
    if (end < s->n) jinja_add(&b, s->p + end, 1, s->from ? s->from + end : NULL), end++;
  }
  return jinja_built(&b);
}

FILTER(f_replace) {
  return jinja_replace(j, text_of(j, v), text_of(j, a->v[0]), text_of(j, a->v[1]), whole(j, a->v[2], -1));
}

FILTER(f_string) {
  (void)a;
  return (jinja_value){.type = J_STR, .s = text_of(j, v)};
}

FILTER(f_safe) {
  (void)a;
  const jinja_str *s = text_of(j, v);
  jinja_str *to = jinja_alloc(j, sizeof *to);
  if (!to) return v;
  *to = *s;
  to->markup = true;
  return (jinja_value){.type = J_STR, .s = to};
}

FILTER(f_escape) {
  (void)a;
  return jinja_escape(j, text_of(j, v));
}

FILTER(f_format) {
  jinja_list args = {.v = (jinja_value *)(uintptr_t)a->v, .n = a->n};
  return jinja_percent(j, text_of(j, v), jinja_seq(J_TUPLE, &args));
}

static void add_spaces(jinja_build *b, int64_t n) {
  for (int64_t i = 0; i < n && !b->j->err; i++) jinja_add_c(b, " ");
}

FILTER(f_center) {
  const jinja_str *s = text_of(j, v);
  jinja_build b = {.j = j};
  int64_t width = whole(j, a->v[0], 80), room = width - (int64_t)jinja_count_chars(j, s);
  int64_t left = room > 0 ? room / 2 + (room & width & 1) : 0; /* as str.center shares an odd space */
  add_spaces(&b, left);
  jinja_add_str(&b, s);
  add_spaces(&b, room - left);
  return jinja_built(&b);
}

/* Every line but the first (unless asked) and the empty ones (unless asked) moves in. */
FILTER(f_indent) {
  const jinja_str *s = text_of(j, v);
  jinja_build b = {.j = j};
  bool first = flag(a->v[1]), blank = flag(a->v[2]);
  for (size_t i = 0, end; jinja_step(j, 1); i = end + 1) {
    const char *line = i < s->n ? memchr(s->p + i, '\n', s->n - i) : NULL;
    end = line ? (size_t)(line - s->p) : s->n;
    if (i == 0 ? first : blank || end > i) {
      if (a->v[0].type == J_STR)
        jinja_add_str(&b, a->v[0].s);
      else
        add_spaces(&b, whole(j, a->v[0], 4));
    }
    jinja_add(&b, s->p + i, PU_MIN(end + 1, s->n) - i, s->from ? s->from + i : NULL);
    if (!line) break;
  }
  return jinja_built(&b);
}

FILTER(f_truncate) {
  static const jinja_str dots = {.p = "...", .n = 3};
  const jinja_str *s = text_of(j, v), *end = jinja_given(a->v[2]) ? text_of(j, a->v[2]) : &dots;
  int64_t length = whole(j, a->v[0], 255), leeway = whole(j, a->v[3], 5), tail = (int64_t)jinja_count_chars(j, end);
  if (length < tail)
    return jinja_fail(j, "truncate: expected length >= %lld, got %lld", (long long)tail, (long long)length);
  if ((int64_t)jinja_count_chars(j, s) <= length + leeway) return (jinja_value){.type = J_STR, .s = s};
  size_t cut = jinja_char_at(s, (size_t)(length - tail));
  if (!flag(a->v[1])) {
    size_t space = cut;
    while (space > 0 && s->p[space - 1] != ' ') space--;
    if (space > 0) cut = space - 1;
  }
  jinja_build b = {.j = j};
  jinja_add(&b, s->p, cut, s->from);
  jinja_add_str(&b, end);
  return jinja_built(&b);
}

FILTER(f_tojson) {
  static const jinja_str comma = {.p = ", ", .n = 2}, line_comma = {.p = ",", .n = 1}, colon = {.p = ": ", .n = 2};
  jinja_value indent = a->v[1], separators = a->v[2];
  jinja_json how = {.ascii = flag(a->v[0]), .sort = flag(a->v[3]), .item = &comma, .key = &colon};
  if (jinja_given(indent) && indent.type != J_NONE) {
    jinja_build spaces = {.j = j};
    if (indent.type != J_STR) add_spaces(&spaces, PU_MIN(whole(j, indent, 0), 1000));
    how.indent = indent.type == J_STR ? indent.s : jinja_built(&spaces).s;
    how.item = &line_comma;
  }
  if (jinja_given(separators) && separators.type != J_NONE) {
    jinja_list *two = jinja_items(j, separators);
    if (two->n != 2 || two->v[0].type != J_STR || two->v[1].type != J_STR)
      return jinja_fail(j, "tojson: separators are two strings");
    how.item = two->v[0].s;
    how.key = two->v[1].s;
  }
  return jinja_to_json(j, v, &how);
}

/* ---- numbers ---- */

static bool parse_number(const jinja_str *s, double *d, int64_t *i, bool *is_whole) {
  char text[64], *end;
  size_t n = 0;
  for (size_t k = 0; k < s->n && n + 1 < sizeof text; k++)
    if (!(s->p[k] == '_' && k > 0)) text[n++] = s->p[k];
  text[n] = 0;
  const char *from = text + strspn(text, " \t\n\r");
  if (strpbrk(from, "xXpP") || !*from) return false;
  *i = strtoll(from, &end, 10);
  *is_whole = end > from && end[strspn(end, " \t\n\r")] == 0;
  if (*is_whole) return true;
  *d = strtod(from, &end);
  return end > from && end[strspn(end, " \t\n\r")] == 0;
}

FILTER(f_int) {
  jinja_value dflt = jinja_given(a->v[0]) ? a->v[0] : jinja_int(0);
  int64_t base = whole(j, a->v[1], 10), i = 0;
  double d = 0;
  bool is_whole = true;
  if (v.type == J_STR && base != 10) {
    char text[72], *end;
    snprintf(text, sizeof text, "%.*s", (int)PU_MIN(v.s->n, (size_t)70), v.s->p);
    i = strtoll(text, &end, base >= 2 && base <= 36 ? (int)base : 0);
    return *end || end == text ? dflt : jinja_int(i);
  }
  if (v.type == J_STR ? !parse_number(v.s, &d, &i, &is_whole) : !jinja_number(v, &d)) return dflt;
  if (v.type != J_STR && !jinja_integer(v, &i)) is_whole = false;
  if (is_whole) return jinja_int(i);
  return isfinite(d) && fabs(d) < 9e18 ? jinja_int((int64_t)d) : dflt;
}

FILTER(f_float) {
  (void)j;
  double d = 0;
  int64_t i = 0;
  bool is_whole = false;
  if (v.type == J_STR ? parse_number(v.s, &d, &i, &is_whole) : jinja_number(v, &d))
    return jinja_float(is_whole ? (double)i : d);
  return jinja_given(a->v[0]) ? a->v[0] : jinja_float(0);
}

FILTER(f_abs) {
  (void)a;
  int64_t i;
  double d;
  if (jinja_integer(v, &i) && i > INT64_MIN) return jinja_int(i < 0 ? -i : i);
  return jinja_number(v, &d) ? jinja_float(fabs(d))
                             : jinja_fail(j, "bad operand type for abs(): '%s'", jinja_type_name(v));
}

FILTER(f_round) {
  double d, scale = pow(10, (double)whole(j, a->v[0], 0));
  const char *method = jinja_given(a->v[1]) && a->v[1].type == J_STR ? a->v[1].s->p : "common";
  if (!jinja_number(v, &d)) return jinja_fail(j, "round needs a number, not %s", jinja_type_name(v));
  if (*method == 'c' && method[1] == 'e') return jinja_float(ceil(d * scale) / scale);
  if (*method == 'f') return jinja_float(floor(d * scale) / scale);
  return jinja_float(nearbyint(d * scale) / scale); /* halves to even */
}

/* ---- one value of several ---- */

FILTER(f_default) {
  (void)j;
  static const jinja_str nothing = {.p = ""};
  if (v.type != J_UNDEFINED && !(flag(a->v[1]) && !jinja_truth(v))) return v;
  return jinja_given(a->v[0]) ? a->v[0] : (jinja_value){.type = J_STR, .s = &nothing};
}

FILTER(f_length) {
  (void)a;
  if (v.type == J_STR) return jinja_int((int64_t)jinja_count_chars(j, v.s));
  if (v.type == J_LIST || v.type == J_TUPLE) return jinja_int((int64_t)v.list->n);
  if (v.type == J_DICT) return jinja_int((int64_t)v.dict->n);
  if (v.type == J_LOOP) return jinja_int((int64_t)v.loop->n);
  if (v.type == J_UNDEFINED) return jinja_int(0);
  return jinja_fail(j, "object of type '%s' has no len()", jinja_type_name(v));
}

FILTER(f_first) {
  (void)a;
  jinja_list *list = jinja_items(j, v);
  return list->n ? list->v[0] : jinja_undefined(j, "no first item, sequence was empty");
}

FILTER(f_last) {
  (void)a;
  if (v.type == J_ITER) return jinja_fail(j, "'generator' object is not reversible");
  jinja_list *list = jinja_items(j, v);
  return list->n ? list->v[list->n - 1] : jinja_undefined(j, "no last item, sequence was empty");
}

/* What sorting and comparing look at: an attribute, with case set aside. */
static jinja_value key_of(jinja *j, jinja_value v, jinja_value attribute, bool cased) {
  if (jinja_given(attribute) && attribute.type != J_NONE) v = jinja_path(j, v, attribute);
  return v.type == J_STR && !cased ? jinja_lower(j, v.s) : v;
}

static jinja_value extreme(jinja *j, jinja_value v, const jinja_args *a, int sign) {
  jinja_list *list = jinja_items(j, v);
  bool cased = flag(a->v[0]);
  if (list->n == 0) return jinja_undefined(j, "no aggregated item, sequence was empty");
  jinja_value best = list->v[0], best_key = key_of(j, best, a->v[1], cased);
  for (size_t i = 1; i < list->n && jinja_step(j, 1); i++) {
    jinja_value key = key_of(j, list->v[i], a->v[1], cased);
    if (jinja_order(j, key, best_key) * sign <= 0) continue;
    best = list->v[i];
    best_key = key;
  }
  return best;
}
FILTER(f_max) {
  return extreme(j, v, a, 1);
}
FILTER(f_min) {
  return extreme(j, v, a, -1);
}

FILTER(f_sum) {
  jinja_list *list = jinja_items(j, v);
  jinja_value total = jinja_given(a->v[1]) ? a->v[1] : jinja_int(0);
  for (size_t i = 0; i < list->n && jinja_step(j, 1); i++) {
    jinja_value item = jinja_given(a->v[0]) && a->v[0].type != J_NONE ? jinja_path(j, list->v[i], a->v[0]) : list->v[i];
    total = jinja_binary(j, JINJA_OP('+', 0), total, item);
  }
  return total;
}

/* ---- lists ---- */

FILTER(f_list) {
  (void)a;
  jinja_list *from = jinja_items(j, v), *to = jinja_list_new(j, from->n);
  for (size_t i = 0; i < from->n && jinja_step(j, 1); i++) jinja_push(j, to, from->v[i]);
  return jinja_seq(J_LIST, to);
}

FILTER(f_join) {
  static const jinja_str nothing = {.p = ""};
  jinja_list *list = jinja_items(j, v);
  if (jinja_given(a->v[1]) && a->v[1].type != J_NONE) {
    jinja_list *to = jinja_list_new(j, list->n);
    for (size_t i = 0; i < list->n && jinja_step(j, 1); i++) jinja_push(j, to, jinja_path(j, list->v[i], a->v[1]));
    list = to;
  }
  return jinja_join(j, list, jinja_given(a->v[0]) ? text_of(j, a->v[0]) : &nothing);
}

FILTER(f_reverse) {
  (void)a;
  jinja_list *from = jinja_items(j, v), *to = jinja_list_new(j, from->n);
  static const jinja_str nothing = {.p = ""};
  for (size_t i = from->n; i > 0 && jinja_step(j, 1); i--) jinja_push(j, to, from->v[i - 1]);
  return v.type == J_STR ? jinja_join(j, to, &nothing) : jinja_seq(J_ITER, to);
}

static jinja_value pair(jinja *j, jinja_value key, jinja_value value) {
  jinja_list *list = jinja_list_new(j, 2);
  jinja_push(j, list, key);
  jinja_push(j, list, value);
  return jinja_seq(J_TUPLE, list);
}

static jinja_list *pairs(jinja *j, const jinja_dict *d) {
  jinja_list *to = jinja_list_new(j, d->n);
  for (size_t i = 0; i < d->n && jinja_step(j, 1); i++) jinja_push(j, to, pair(j, d->v[i].key, d->v[i].value));
  return to;
}

FILTER(f_items) {
  (void)a;
  if (v.type == J_UNDEFINED) return jinja_seq(J_ITER, jinja_list_new(j, 0));
  if (v.type != J_DICT) return jinja_fail(j, "can only get item pairs from a mapping, not %s", jinja_type_name(v));
  return jinja_seq(J_ITER, pairs(j, v.dict));
}

FILTER(f_dictsort) {
  bool by_value = a->v[1].type == J_STR && pu_str_eq(pu_str_of(a->v[1].s->p, a->v[1].s->n), pu_str_c("value"));
  if (v.type != J_DICT) return jinja_fail(j, "dictsort needs a mapping, not %s", jinja_type_name(v));
  jinja_list *list = pairs(j, v.dict), *keys = jinja_list_new(j, list->n);
  for (size_t i = 0; i < list->n && jinja_step(j, 1); i++)
    jinja_push(j, keys, key_of(j, by_value ? v.dict->v[i].value : v.dict->v[i].key, (jinja_value){0}, flag(a->v[0])));
  return jinja_sorted(j, list, keys, flag(a->v[2]));
}

/* One key for an item: of several attributes ("a,b"), a tuple. */
static jinja_value sort_key(jinja *j, jinja_value v, jinja_value attribute, bool cased) {
  jinja_list *parts = jinja_list_new(j, 1);
  if (attribute.type != J_STR) return key_of(j, v, attribute, cased);
  for (size_t i = 0, end; i <= attribute.s->n && jinja_step(j, 1); i = end + 1) {
    for (end = i; end < attribute.s->n && attribute.s->p[end] != ',';) end++;
    jinja_push(j, parts, key_of(j, v, jinja_sub(j, attribute.s, i, end), cased));
  }
  return jinja_seq(J_LIST, parts);
}

FILTER(f_sort) {
  jinja_list *list = jinja_items(j, v), *keys = jinja_list_new(j, list->n);
  for (size_t i = 0; i < list->n && jinja_step(j, 1); i++)
    jinja_push(j, keys, sort_key(j, list->v[i], a->v[2], flag(a->v[1])));
  return jinja_sorted(j, list, keys, flag(a->v[0]));
}

FILTER(f_unique) {
  jinja_list *list = jinja_items(j, v), *to = jinja_list_new(j, 0);
  jinja_dict *seen = jinja_dict_new(j, 0);
  for (size_t i = 0; i < list->n && jinja_step(j, 1); i++) {
    jinja_value key = key_of(j, list->v[i], a->v[1], flag(a->v[0]));
    if (jinja_get(j, seen, key)) continue;
    jinja_put(j, seen, key, jinja_none());
    jinja_push(j, to, list->v[i]);
  }
  return jinja_seq(J_ITER, to);
}

FILTER(f_batch) {
  jinja_list *list = jinja_items(j, v), *to = jinja_list_new(j, 0), *now = NULL;
  int64_t size = whole(j, a->v[0], 1);
  if (size < 1) return jinja_fail(j, "batch needs a size of at least 1");
  for (size_t i = 0; i < list->n && jinja_step(j, 1); i++) {
    if (i % (size_t)size == 0) {
      now = jinja_list_new(j, 0);
      jinja_push(j, to, jinja_seq(J_LIST, now));
    }
    jinja_push(j, now, list->v[i]);
  }
  while (now && jinja_given(a->v[1]) && a->v[1].type != J_NONE && now->n < (size_t)size && jinja_step(j, 1))
    jinja_push(j, now, a->v[1]);
  return jinja_seq(J_ITER, to);
}

/* ---- filters over filters and tests ---- */

static jinja_args after(const jinja_args *a, size_t n) {
  n = PU_MIN(n, a->n);
  return (jinja_args){a->v + n, a->n - n, a->kw, a->kw ? a->n_kw : 0};
}

static pu_str named(jinja *j, jinja_value v) {
  if (v.type == J_STR) return pu_str_of(v.s->p, v.s->n);
  jinja_fail(j, "the name of a filter or test is needed, not %s", jinja_type_name(v));
  return (pu_str){"", 0};
}

static jinja_value keyword(const jinja_args *a, const char *name) {
  for (size_t i = 0; i < a->n_kw; i++) {
    const jinja_str *key = a->kw[i].key.s;
    if (pu_str_eq(pu_str_of(key->p, key->n), pu_str_c(name))) return a->kw[i].value;
  }
  return (jinja_value){0};
}

/* What these filters walk: of what is false, none included, nothing. */
static jinja_list *items_if_any(jinja *j, jinja_value v) {
  return jinja_truth(v) ? jinja_items(j, v) : jinja_list_new(j, 0);
}

FILTER(f_map) {
  jinja_list *list = items_if_any(j, v), *to = jinja_list_new(j, list->n);
  jinja_value attribute = keyword(a, "attribute"), dflt = keyword(a, "default");
  if (!jinja_given(attribute) && a->n == 0) return jinja_fail(j, "map requires a filter argument");
  const jinja_args rest = after(a, 1);
  for (size_t i = 0; i < list->n && jinja_step(j, 1); i++) {
    jinja_value item = list->v[i];
    item = jinja_given(attribute) ? jinja_path(j, item, attribute)
                                  : jinja_filter_by_name(j, named(j, a->v[0]), item, &rest);
    if (jinja_given(attribute) && item.type == J_UNDEFINED && jinja_given(dflt)) item = dflt;
    jinja_push(j, to, item);
  }
  return jinja_seq(J_ITER, to);
}

/* Those items whose value (the item, or an attribute of it) is true, or passes a test; or all the others. */
static jinja_value choose(jinja *j, jinja_value v, const jinja_args *a, bool by_attribute, bool wanted) {
  jinja_list *list = items_if_any(j, v), *to = jinja_list_new(j, 0);
  size_t skip = by_attribute;
  if (a->n < skip) return jinja_fail(j, "the name of an attribute is missing");
  const jinja_args rest = after(a, skip + 1);
  for (size_t i = 0; i < list->n && jinja_step(j, 1); i++) {
    jinja_value item = by_attribute ? jinja_path(j, list->v[i], a->v[0]) : list->v[i];
    bool passes = a->n > skip ? jinja_test_by_name(j, named(j, a->v[skip]), item, &rest) : jinja_truth(item);
    if (passes == wanted) jinja_push(j, to, list->v[i]);
  }
  return jinja_seq(J_ITER, to);
}
FILTER(f_select) {
  return choose(j, v, a, false, true);
}
FILTER(f_reject) {
  return choose(j, v, a, false, false);
}
FILTER(f_selectattr) {
  return choose(j, v, a, true, true);
}
FILTER(f_rejectattr) {
  return choose(j, v, a, true, false);
}

const jinja_row jinja_filters[] = {
    {"abs", f_abs, "", 0, 0},
    {"batch", f_batch, "linecount fill_with", 1, 0},
    {"capitalize", f_capitalize, "", 0, 0},
    {"center", f_center, "width", 0, 0},
    {"count", f_length, "", 0, 0},
    {"d", f_default, "default_value boolean", 0, 0},
    {"default", f_default, "default_value boolean", 0, 0},
    {"dictsort", f_dictsort, "case_sensitive by reverse", 0, 0},
    {"e", f_escape, "", 0, 0},
    {"escape", f_escape, "", 0, 0},
    {"first", f_first, "", 0, 0},
    {"float", f_float, "default", 0, 0},
    {"format", f_format, NULL, 0, 0},
    {"indent", f_indent, "width first blank", 0, 0},
    {"int", f_int, "default base", 0, 0},
    {"items", f_items, "", 0, 0},
    {"join", f_join, "d attribute", 0, 0},
    {"last", f_last, "", 0, 0},
    {"length", f_length, "", 0, 0},
    {"list", f_list, "", 0, 0},
    {"lower", f_lower, "", 0, 0},
    {"map", f_map, NULL, 0, 0},
    {"max", f_max, "case_sensitive attribute", 0, 0},
    {"min", f_min, "case_sensitive attribute", 0, 0},
    {"reject", f_reject, NULL, 0, 0},
    {"rejectattr", f_rejectattr, NULL, 0, 0},
    {"replace", f_replace, "old new count", 2, 0},
    {"reverse", f_reverse, "", 0, 0},
    {"round", f_round, "precision method", 0, 0},
    {"safe", f_safe, "", 0, 0},
    {"select", f_select, NULL, 0, 0},
    {"selectattr", f_selectattr, NULL, 0, 0},
    {"sort", f_sort, "reverse case_sensitive attribute", 0, 0},
    {"string", f_string, "", 0, 0},
    {"sum", f_sum, "attribute start", 0, 0},
    {"title", f_title, "", 0, 0},
    {"tojson", f_tojson, "ensure_ascii indent separators sort_keys", 0, 0},
    {"trim", f_trim, "chars", 0, 0},
    {"truncate", f_truncate, "length killwords end leeway", 0, 0},
    {"unique", f_unique, "case_sensitive attribute", 0, 0},
    {"upper", f_upper, "", 0, 0},
    {0},
};
