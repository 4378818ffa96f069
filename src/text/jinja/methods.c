/* Methods of strings, dictionaries and lists, by Python's names. To add one: a function and a row. What would change a
 * value is there by name, and refused: transformers renders in a sandbox that refuses it too. */
#include <string.h>
#include <utf8proc.h>

#include "src/text/jinja/jinja.h"

#define METHOD(name) static jinja_value name(jinja *j, jinja_value v, const jinja_args *a)

/* ---- strings ---- */

static const jinja_str *text_arg(jinja *j, jinja_value v) {
  static const jinja_str nothing = {.p = ""};
  if (v.type == J_STR) return v.s;
  jinja_fail(j, "a string is needed, not %s", jinja_type_name(v));
  return &nothing;
}

static int64_t count_arg(jinja *j, jinja_value v, int64_t dflt) {
  int64_t i = dflt;
  if (jinja_given(v) && !jinja_integer(v, &i)) jinja_fail(j, "an integer is needed, not %s", jinja_type_name(v));
  return i;
}

static bool absent(jinja_value v) {
  return !jinja_given(v) || v.type == J_NONE;
}

static jinja_value strip(jinja *j, jinja_value v, const jinja_args *a, int sides) {
  return jinja_strip(j, v.s, absent(a->v[0]) ? NULL : text_arg(j, a->v[0]), sides);
}
METHOD(s_strip) {
  return strip(j, v, a, JINJA_LEFT | JINJA_RIGHT);
}
METHOD(s_lstrip) {
  return strip(j, v, a, JINJA_LEFT);
}
METHOD(s_rstrip) {
  return strip(j, v, a, JINJA_RIGHT);
}
METHOD(s_lower) {
  (void)a;
  return jinja_lower(j, v.s);
}
METHOD(s_upper) {
  (void)a;
  return jinja_upper(j, v.s);
}
METHOD(s_capitalize) {
  (void)a;
  return jinja_capitalize(j, v.s);
}

static size_t char_len(const jinja_str *s, size_t i, utf8proc_int32_t *cp) {
  utf8proc_ssize_t n = utf8proc_iterate((const uint8_t *)s->p + i, (utf8proc_ssize_t)(s->n - i), cp);
  return n > 0 ? (size_t)n : 1;
}

static bool is_letter(utf8proc_int32_t cp) {
  utf8proc_category_t c = utf8proc_category(cp);
  return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

/* A word is a run of letters. */
METHOD(s_title) {
  (void)a;
  jinja_build b = {.j = j};
  bool inside = false;
  utf8proc_int32_t cp;
  for (size_t i = 0, n; i < v.s->n && jinja_step(j, 1); i += n) {
    n = char_len(v.s, i, &cp);
    jinja_add_char(&b, (uint32_t)(inside ? utf8proc_tolower(cp) : utf8proc_totitle(cp)), v.s->from && v.s->from[i]);
    inside = is_letter(cp);
  }
  return jinja_built(&b);
}

METHOD(s_replace) {
  return jinja_replace(j, v.s, text_arg(j, a->v[0]), text_arg(j, a->v[1]), count_arg(j, a->v[2], -1));
}

METHOD(s_join) {
  jinja_list *list = jinja_items(j, a->v[0]);
  for (size_t i = 0; i < list->n && !j->err; i++) text_arg(j, list->v[i]);
  return jinja_join(j, list, v.s);
}

static bool has_at(const jinja_str *s, const jinja_str *what, bool end) {
  return s->n >= what->n && (what->n == 0 || memcmp(s->p + (end ? s->n - what->n : 0), what->p, what->n) == 0);
}

static jinja_value has_affix(jinja *j, jinja_value v, jinja_value what, bool end) {
  if (what.type != J_TUPLE) return jinja_bool(has_at(v.s, text_arg(j, what), end));
  for (size_t i = 0; i < what.list->n && jinja_step(j, 1); i++)
    if (has_at(v.s, text_arg(j, what.list->v[i]), end)) return jinja_bool(true);
  return jinja_bool(false);
}
METHOD(s_startswith) {
  return has_affix(j, v, a->v[0], false);
}
METHOD(s_endswith) {
  return has_affix(j, v, a->v[0], true);
}
METHOD(s_removeprefix) {
  const jinja_str *what = text_arg(j, a->v[0]);
  return has_at(v.s, what, false) ? jinja_sub(j, v.s, what->n, v.s->n) : v;
}
METHOD(s_removesuffix) {
  const jinja_str *what = text_arg(j, a->v[0]);
  return has_at(v.s, what, true) ? jinja_sub(j, v.s, 0, v.s->n - what->n) : v;
}

/* The last place of `what` that ends at or before `end`; SIZE_MAX: none. */
static size_t find_last(jinja *j, const jinja_str *s, const jinja_str *what, size_t end) {
  if (end < what->n) return SIZE_MAX;
  for (size_t i = end - what->n + 1; i > 0 && jinja_step(j, what->n / 16); i--)
    if (memcmp(s->p + i - 1, what->p, what->n) == 0) return i - 1;
  return SIZE_MAX;
}

static int64_t chars_before(jinja *j, const jinja_str *s, size_t byte) {
  const jinja_str head = {.p = s->p, .n = byte};
  return (int64_t)jinja_count_chars(j, &head);
}

static jinja_value place(jinja *j, jinja_value v, const jinja_args *a, bool last, bool must) {
  const jinja_str *what = text_arg(j, a->v[0]);
  jinja_step(j, v.s->n);
  size_t at = last ? find_last(j, v.s, what, v.s->n) : jinja_find(v.s, what, 0);
  if (at == SIZE_MAX) return must ? jinja_fail(j, "substring not found") : jinja_int(-1);
  return jinja_int(chars_before(j, v.s, at));
}
METHOD(s_find) {
  return place(j, v, a, false, false);
}
METHOD(s_rfind) {
  return place(j, v, a, true, false);
}
METHOD(s_index) {
  return place(j, v, a, false, true);
}
METHOD(s_rindex) {
  return place(j, v, a, true, true);
}

METHOD(s_count) {
  const jinja_str *what = text_arg(j, a->v[0]);
  int64_t n = 0;
  if (what->n == 0) return jinja_int((int64_t)jinja_count_chars(j, v.s) + 1);
  for (size_t at = 0; jinja_step(j, 1) && (at = jinja_find(v.s, what, at)) != SIZE_MAX; at += what->n) n++;
  return jinja_int(n);
}

/* ---- splitting ---- */

static bool space_at(const jinja_str *s, size_t i, size_t *n) {
  utf8proc_int32_t cp;
  *n = char_len(s, i, &cp);
  return jinja_is_space((uint32_t)cp);
}

/* At runs of white space, from the left. */
static jinja_value split_spaces(jinja *j, const jinja_str *s, int64_t most) {
  jinja_list *to = jinja_list_new(j, 0);
  size_t n;
  for (size_t i = 0, begin; jinja_step(j, 1); most--) {
    while (i < s->n && space_at(s, i, &n)) i += n;
    if (i >= s->n) break;
    begin = i;
    while (i < s->n && (most == 0 || !space_at(s, i, &n))) i += most == 0 ? 1 : n;
    jinja_push(j, to, jinja_sub(j, s, begin, i));
  }
  return jinja_seq(J_LIST, to);
}

static jinja_value split_at(jinja *j, const jinja_str *s, const jinja_str *at, int64_t most) {
  jinja_list *to = jinja_list_new(j, 0);
  size_t begin = 0, end;
  for (; most != 0 && jinja_step(j, 1) && (end = jinja_find(s, at, begin)) != SIZE_MAX; most--) {
    jinja_push(j, to, jinja_sub(j, s, begin, end));
    begin = end + at->n;
  }
  jinja_push(j, to, jinja_sub(j, s, begin, s->n));
  return jinja_seq(J_LIST, to);
}

static jinja_value split_at_last(jinja *j, const jinja_str *s, const jinja_str *at, int64_t most) {
  jinja_list *back = jinja_list_new(j, 0), *to = jinja_list_new(j, 0);
  size_t end = s->n, begin;
  for (; most != 0 && jinja_step(j, 1) && (begin = find_last(j, s, at, end)) != SIZE_MAX; most--) {
    jinja_push(j, back, jinja_sub(j, s, begin + at->n, end));
    end = begin;
  }
  jinja_push(j, back, jinja_sub(j, s, 0, end));
  for (size_t i = back->n; i > 0; i--) jinja_push(j, to, back->v[i - 1]);
  return jinja_seq(J_LIST, to);
}

static jinja_value split(jinja *j, jinja_value v, const jinja_args *a, bool last) {
  int64_t most = count_arg(j, a->v[1], -1);
  jinja_step(j, v.s->n);
  if (absent(a->v[0])) {
    if (last && most >= 0) return jinja_fail(j, "rsplit at white space takes no maximum here");
    return split_spaces(j, v.s, most);
  }
  const jinja_str *at = text_arg(j, a->v[0]);
  if (at->n == 0) return jinja_fail(j, "empty separator");
  return last ? split_at_last(j, v.s, at, most) : split_at(j, v.s, at, most);
}
METHOD(s_split) {
  return split(j, v, a, false);
}
METHOD(s_rsplit) {
  return split(j, v, a, true);
}

METHOD(s_splitlines) {
  jinja_list *to = jinja_list_new(j, 0);
  const jinja_str *s = v.s;
  bool keep = jinja_truth(a->v[0]);
  for (size_t i = 0, end, next; i < s->n && jinja_step(j, 1); i = next) {
    for (end = i; end < s->n && s->p[end] != '\n' && s->p[end] != '\r';) end++;
    next = end < s->n ? end + 1 + (s->p[end] == '\r' && end + 1 < s->n && s->p[end + 1] == '\n') : end;
    jinja_push(j, to, jinja_sub(j, s, i, keep ? next : end));
  }
  return jinja_seq(J_LIST, to);
}

static jinja_value partition(jinja *j, jinja_value v, jinja_value at, bool last) {
  const jinja_str *what = text_arg(j, at), *s = v.s;
  jinja_list *to = jinja_list_new(j, 3);
  size_t i = last ? find_last(j, s, what, s->n) : jinja_find(s, what, 0), n = what->n;
  if (what->n == 0) return jinja_fail(j, "empty separator");
  if (i == SIZE_MAX) i = last ? 0 : s->n, n = 0;
  jinja_push(j, to, jinja_sub(j, s, 0, i));
  jinja_push(j, to, jinja_sub(j, s, i, i + n));
  jinja_push(j, to, jinja_sub(j, s, i + n, s->n));
  return jinja_seq(J_TUPLE, to);
}
METHOD(s_partition) {
  return partition(j, v, a->v[0], false);
}
METHOD(s_rpartition) {
  return partition(j, v, a->v[0], true);
}

/* ---- what a string is made of ---- */

typedef bool (*char_test)(utf8proc_int32_t cp);

static bool is_digit(utf8proc_int32_t cp) {
  return utf8proc_category(cp) == UTF8PROC_CATEGORY_ND;
}
static bool is_alnum(utf8proc_int32_t cp) {
  utf8proc_category_t c = utf8proc_category(cp);
  return is_letter(cp) || (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO);
}
static bool is_space(utf8proc_int32_t cp) {
  return jinja_is_space((uint32_t)cp);
}

static jinja_value all_are(jinja *j, const jinja_str *s, char_test test) {
  utf8proc_int32_t cp;
  for (size_t i = 0; i < s->n && jinja_step(j, 1);) {
    i += char_len(s, i, &cp);
    if (!test(cp)) return jinja_bool(false);
  }
  return jinja_bool(s->n > 0);
}
METHOD(s_isdigit) {
  (void)a;
  return all_are(j, v.s, is_digit);
}
METHOD(s_isalpha) {
  (void)a;
  return all_are(j, v.s, is_letter);
}
METHOD(s_isalnum) {
  (void)a;
  return all_are(j, v.s, is_alnum);
}
METHOD(s_isspace) {
  (void)a;
  return all_are(j, v.s, is_space);
}
METHOD(s_isupper) {
  (void)a;
  return jinja_bool(jinja_test_by_name(j, pu_str_c("upper"), v, &(jinja_args){0}));
}
METHOD(s_islower) {
  (void)a;
  return jinja_bool(jinja_test_by_name(j, pu_str_c("lower"), v, &(jinja_args){0}));
}

/* ---- padding ---- */

static jinja_value pad(jinja *j, jinja_value v, jinja_value width, jinja_value fill, bool left) {
  static const jinja_str space = {.p = " ", .n = 1};
  const jinja_str *with = jinja_given(fill) ? text_arg(j, fill) : &space;
  int64_t room = count_arg(j, width, 0) - (int64_t)jinja_count_chars(j, v.s);
  jinja_build b = {.j = j};
  if (jinja_count_chars(j, with) != 1) return jinja_fail(j, "the fill character must be exactly one character long");
  if (!left) jinja_add_str(&b, v.s);
  for (int64_t i = 0; i < room && jinja_step(j, 1); i++) jinja_add_str(&b, with);
  if (left) jinja_add_str(&b, v.s);
  return jinja_built(&b);
}
METHOD(s_ljust) {
  return pad(j, v, a->v[0], a->v[1], false);
}
METHOD(s_rjust) {
  return pad(j, v, a->v[0], a->v[1], true);
}

/* ---- "{} {0} {name}".format(…) ---- */

static const jinja_value *field(jinja *j, const jinja_args *a, const char *p, size_t n, size_t *next) {
  size_t digits = 0, index = 0;
  for (; digits < n && p[digits] >= '0' && p[digits] <= '9' && index < 100000; digits++)
    index = index * 10 + (size_t)(p[digits] - '0');
  if (n == 0) index = (*next)++;
  if (digits == n && index < a->n) return &a->v[index];
  for (size_t i = 0; i < a->n_kw; i++)
    if (pu_str_eq(pu_str_of(a->kw[i].key.s->p, a->kw[i].key.s->n), pu_str_of(p, n))) return &a->kw[i].value;
  jinja_fail(j, "format: no argument for {%.*s}", (int)PU_MIN(n, (size_t)60), p);
  return NULL;
}

METHOD(s_format) {
  jinja_build b = {.j = j};
  const jinja_str *s = v.s;
  for (size_t i = 0, next = 0; i < s->n && jinja_step(j, 1);) {
    bool twice = i + 1 < s->n && s->p[i] == s->p[i + 1];
    if (s->p[i] != '{' && s->p[i] != '}') {
      jinja_add(&b, s->p + i, 1, s->from ? s->from + i : NULL);
      i++;
    } else if (twice) {
      jinja_add(&b, s->p + i, 1, s->from ? s->from + i : NULL);
      i += 2;
    } else {
      const char *end = s->p[i] == '{' ? memchr(s->p + i, '}', s->n - i) : NULL;
      if (!end) return jinja_fail(j, "format: a single brace");
      const jinja_value *arg = field(j, a, s->p + i + 1, (size_t)(end - s->p) - i - 1, &next);
      if (arg) jinja_add_str(&b, jinja_str_of(j, *arg));
      i = (size_t)(end - s->p) + 1;
    }
  }
  return jinja_built(&b);
}

/* ---- dictionaries and lists ---- */

METHOD(d_get) {
  const jinja_value *there = jinja_get(j, v.dict, a->v[0]);
  if (there) return *there;
  return jinja_given(a->v[1]) ? a->v[1] : jinja_none();
}

/* The keys, the values, or both as pairs. */
static jinja_value view(jinja *j, jinja_value v, bool keys, bool values) {
  jinja_list *to = jinja_list_new(j, v.dict->n);
  for (size_t i = 0; i < v.dict->n && jinja_step(j, 1); i++) {
    jinja_list *pair = keys && values ? jinja_list_new(j, 2) : to;
    if (keys) jinja_push(j, pair, v.dict->v[i].key);
    if (values) jinja_push(j, pair, v.dict->v[i].value);
    if (keys && values) jinja_push(j, to, jinja_seq(J_TUPLE, pair));
  }
  return jinja_seq(J_LIST, to);
}
METHOD(d_items) {
  (void)a;
  return view(j, v, true, true);
}
METHOD(d_keys) {
  (void)a;
  return view(j, v, true, false);
}
METHOD(d_values) {
  (void)a;
  return view(j, v, false, true);
}
METHOD(same) { /* copy(): nothing can change, so it is its own copy */
  (void)j, (void)a;
  return v;
}

METHOD(l_index) {
  for (size_t i = 0; i < v.list->n && jinja_step(j, 1); i++)
    if (jinja_equal(j, v.list->v[i], a->v[0])) return jinja_int((int64_t)i);
  return jinja_fail(j, "the value is not in the list");
}
METHOD(l_count) {
  int64_t n = 0;
  for (size_t i = 0; i < v.list->n && jinja_step(j, 1); i++) n += jinja_equal(j, v.list->v[i], a->v[0]);
  return jinja_int(n);
}

METHOD(refused) {
  (void)a;
  return jinja_fail(j, "templates must not change a %s: build a new one, or use namespace()", jinja_type_name(v));
}

const jinja_row jinja_methods[] = {
    {"capitalize", s_capitalize, "", 0, J_STR},
    {"count", s_count, "sub", 1, J_STR},
    {"endswith", s_endswith, "suffix", 1, J_STR},
    {"find", s_find, "sub", 1, J_STR},
    {"format", s_format, NULL, 0, J_STR},
    {"index", s_index, "sub", 1, J_STR},
    {"isalnum", s_isalnum, "", 0, J_STR},
    {"isalpha", s_isalpha, "", 0, J_STR},
    {"isdecimal", s_isdigit, "", 0, J_STR},
    {"isdigit", s_isdigit, "", 0, J_STR},
    {"islower", s_islower, "", 0, J_STR},
    {"isnumeric", s_isdigit, "", 0, J_STR},
    {"isspace", s_isspace, "", 0, J_STR},
    {"isupper", s_isupper, "", 0, J_STR},
    {"join", s_join, "iterable", 1, J_STR},
    {"ljust", s_ljust, "width fillchar", 1, J_STR},
    {"lower", s_lower, "", 0, J_STR},
    {"lstrip", s_lstrip, "chars", 0, J_STR},
    {"partition", s_partition, "sep", 1, J_STR},
    {"removeprefix", s_removeprefix, "prefix", 1, J_STR},
    {"removesuffix", s_removesuffix, "suffix", 1, J_STR},
    {"replace", s_replace, "old new count", 2, J_STR},
    {"rfind", s_rfind, "sub", 1, J_STR},
    {"rindex", s_rindex, "sub", 1, J_STR},
    {"rjust", s_rjust, "width fillchar", 1, J_STR},
    {"rpartition", s_rpartition, "sep", 1, J_STR},
    {"rsplit", s_rsplit, "sep maxsplit", 0, J_STR},
    {"rstrip", s_rstrip, "chars", 0, J_STR},
    {"split", s_split, "sep maxsplit", 0, J_STR},
    {"splitlines", s_splitlines, "keepends", 0, J_STR},
    {"startswith", s_startswith, "prefix", 1, J_STR},
    {"strip", s_strip, "chars", 0, J_STR},
    {"title", s_title, "", 0, J_STR},
    {"upper", s_upper, "", 0, J_STR},
    {"clear", refused, NULL, 0, J_DICT},
    {"copy", same, "", 0, J_DICT},
    {"get", d_get, "key default", 1, J_DICT},
    {"items", d_items, "", 0, J_DICT},
    {"keys", d_keys, "", 0, J_DICT},
    {"pop", refused, NULL, 0, J_DICT},
    {"popitem", refused, NULL, 0, J_DICT},
    {"setdefault", refused, NULL, 0, J_DICT},
    {"update", refused, NULL, 0, J_DICT},
    {"values", d_values, "", 0, J_DICT},
    {"append", refused, NULL, 0, J_LIST},
    {"clear", refused, NULL, 0, J_LIST},
    {"copy", same, "", 0, J_LIST},
    {"count", l_count, "value", 1, J_LIST},
    {"extend", refused, NULL, 0, J_LIST},
    {"index", l_index, "value", 1, J_LIST},
    {"insert", refused, NULL, 0, J_LIST},
    {"pop", refused, NULL, 0, J_LIST},
    {"remove", refused, NULL, 0, J_LIST},
    {"reverse", refused, NULL, 0, J_LIST},
    {"sort", refused, NULL, 0, J_LIST},
    {"count", l_count, "value", 1, J_TUPLE},
    {"index", l_index, "value", 1, J_TUPLE},
    {0},
};
