/* Tests: {{ x is name }}. To add one: a function and a row. */
#include <string.h>
#include <utf8proc.h>

#include "src/text/jinja/jinja.h"

#define TEST(name) static jinja_value name(jinja *j, jinja_value v, const jinja_args *a)
#define UNUSED     (void)j, (void)a

TEST(t_defined) {
  UNUSED;
  return jinja_bool(v.type != J_UNDEFINED);
}
TEST(t_undefined) {
  UNUSED;
  return jinja_bool(v.type == J_UNDEFINED);
}
TEST(t_none) {
  UNUSED;
  return jinja_bool(v.type == J_NONE);
}
TEST(t_boolean) {
  UNUSED;
  return jinja_bool(v.type == J_BOOL);
}
TEST(t_true) {
  UNUSED;
  return jinja_bool(v.type == J_BOOL && v.b);
}
TEST(t_false) {
  UNUSED;
  return jinja_bool(v.type == J_BOOL && !v.b);
}
TEST(t_integer) {
  UNUSED;
  return jinja_bool(v.type == J_INT);
}
TEST(t_float) {
  UNUSED;
  return jinja_bool(v.type == J_FLOAT);
}
TEST(t_number) {
  UNUSED;
  double d;
  return jinja_bool(jinja_number(v, &d));
}
TEST(t_string) {
  UNUSED;
  return jinja_bool(v.type == J_STR);
}
TEST(t_mapping) {
  UNUSED;
  return jinja_bool(v.type == J_DICT);
}
TEST(t_sequence) {
  UNUSED;
  return jinja_bool(v.type == J_LIST || v.type == J_TUPLE || v.type == J_STR || v.type == J_DICT ||
                    v.type == J_UNDEFINED);
}
TEST(t_iterable) {
  UNUSED;
  return jinja_bool(jinja_is_seq(v) || v.type == J_STR || v.type == J_DICT || v.type == J_UNDEFINED ||
                    v.type == J_LOOP);
}
TEST(t_callable) {
  UNUSED;
  return jinja_bool(v.type == J_FN || v.type == J_LOOP || v.type == J_UNDEFINED); /* Undefined has a __call__ */
}
TEST(t_escaped) {
  UNUSED;
  return jinja_bool(v.type == J_STR && v.s->markup);
}

static jinja_value rest_is(jinja *j, jinja_value v, int64_t by, int64_t rest) {
  return jinja_bool(jinja_equal(j, jinja_binary(j, JINJA_OP('%', 0), v, jinja_int(by)), jinja_int(rest)));
}
TEST(t_even) {
  (void)a;
  return rest_is(j, v, 2, 0);
}
TEST(t_odd) {
  (void)a;
  return rest_is(j, v, 2, 1);
}
TEST(t_divisibleby) {
  return jinja_bool(jinja_equal(j, jinja_binary(j, JINJA_OP('%', 0), v, a->v[0]), jinja_int(0)));
}

/* Is there a letter with case, and none of the other case? */
static jinja_value all_cased(jinja *j, jinja_value v, bool upper) {
  const jinja_str *s = jinja_str_of(j, v);
  bool any = false;
  utf8proc_int32_t cp;
  for (size_t i = 0; i < s->n && jinja_step(j, 1);) {
    utf8proc_ssize_t n = utf8proc_iterate((const uint8_t *)s->p + i, (utf8proc_ssize_t)(s->n - i), &cp);
    i += n > 0 ? (size_t)n : 1;
    bool is_upper = n > 0 && utf8proc_isupper(cp), is_lower = n > 0 && utf8proc_islower(cp);
    if (upper ? is_lower : is_upper) return jinja_bool(false);
    any |= is_upper || is_lower;
  }
  return jinja_bool(any);
}
TEST(t_lower) {
  (void)a;
  return all_cased(j, v, false);
}
TEST(t_upper) {
  (void)a;
  return all_cased(j, v, true);
}

TEST(t_eq) {
  return jinja_bool(jinja_equal(j, v, a->v[0]));
}
TEST(t_ne) {
  return jinja_bool(!jinja_equal(j, v, a->v[0]));
}
TEST(t_lt) {
  return jinja_bool(jinja_order(j, v, a->v[0]) < 0);
}
TEST(t_le) {
  return jinja_bool(jinja_order(j, v, a->v[0]) <= 0);
}
TEST(t_gt) {
  return jinja_bool(jinja_order(j, v, a->v[0]) > 0);
}
TEST(t_ge) {
  return jinja_bool(jinja_order(j, v, a->v[0]) >= 0);
}
TEST(t_in) {
  return jinja_bool(jinja_contains(j, a->v[0], v));
}
TEST(t_sameas) {
  return jinja_bool(v.type == a->v[0].type && jinja_equal(j, v, a->v[0]));
}
TEST(t_filter) {
  (void)a;
  const jinja_str *s = jinja_str_of(j, v);
  return jinja_bool(jinja_find_row(jinja_filters, pu_str_of(s->p, s->n)) != NULL);
}
TEST(t_test) {
  (void)a;
  const jinja_str *s = jinja_str_of(j, v);
  return jinja_bool(jinja_find_row(jinja_tests, pu_str_of(s->p, s->n)) != NULL);
}

const jinja_row jinja_tests[] = {
    {"!=", t_ne, "other", 1, 0},
    {"<", t_lt, "other", 1, 0},
    {"<=", t_le, "other", 1, 0},
    {"==", t_eq, "other", 1, 0},
    {">", t_gt, "other", 1, 0},
    {">=", t_ge, "other", 1, 0},
    {"boolean", t_boolean, "", 0, 0},
    {"callable", t_callable, "", 0, 0},
    {"defined", t_defined, "", 0, 0},
    {"divisibleby", t_divisibleby, "num", 1, 0},
    {"eq", t_eq, "other", 1, 0},
    {"equalto", t_eq, "other", 1, 0},
    {"escaped", t_escaped, "", 0, 0},
    {"even", t_even, "", 0, 0},
    {"false", t_false, "", 0, 0},
    {"filter", t_filter, "", 0, 0},
    {"float", t_float, "", 0, 0},
    {"ge", t_ge, "other", 1, 0},
    {"greaterthan", t_gt, "other", 1, 0},
    {"gt", t_gt, "other", 1, 0},
    {"in", t_in, "seq", 1, 0},
    {"integer", t_integer, "", 0, 0},
    {"iterable", t_iterable, "", 0, 0},
    {"le", t_le, "other", 1, 0},
    {"lessthan", t_lt, "other", 1, 0},
    {"lower", t_lower, "", 0, 0},
    {"lt", t_lt, "other", 1, 0},
    {"mapping", t_mapping, "", 0, 0},
    {"ne", t_ne, "other", 1, 0},
    {"none", t_none, "", 0, 0},
    {"number", t_number, "", 0, 0},
    {"odd", t_odd, "", 0, 0},
    {"sameas", t_sameas, "other", 1, 0},
    {"sequence", t_sequence, "", 0, 0},
    {"string", t_string, "", 0, 0},
    {"test", t_test, "", 0, 0},
    {"true", t_true, "", 0, 0},
    {"undefined", t_undefined, "", 0, 0},
    {"upper", t_upper, "", 0, 0},
    {0},
};
