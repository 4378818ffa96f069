/* Functions that any template can call: Jinja's own, and the two that transformers adds. */
#include <string.h>
#include <time.h>

#include "src/text/jinja/jinja.h"

#define GLOBAL(name) static jinja_value name(jinja *j, jinja_value v, const jinja_args *a)

GLOBAL(g_range) {
  (void)v;
  int64_t n[3] = {0, 0, 1};
  for (size_t i = 0; i < a->n; i++)
    if (jinja_given(a->v[i]) && !jinja_integer(a->v[i], &n[i]))
      return jinja_fail(j, "range: an integer is needed, not %s", jinja_type_name(a->v[i]));
  if (!jinja_given(a->v[1])) {
    n[1] = n[0];
    n[0] = 0;
  }
  if (n[2] == 0) return jinja_fail(j, "range() arg 3 must not be zero");
  jinja_list *list = jinja_list_new(j, 0);
  for (int64_t i = n[0]; (n[2] > 0 ? i < n[1] : i > n[1]) && jinja_step(j, 1);) {
    jinja_push(j, list, jinja_int(i));
    if (__builtin_add_overflow(i, n[2], &i)) break;
  }
  return jinja_seq(J_LIST, list);
}

static jinja_dict *dict_of(jinja *j, const jinja_args *a) {
  jinja_dict *d = jinja_dict_new(j, 0);
  if (a->n > 1 || (a->n == 1 && a->v[0].type != J_DICT)) jinja_fail(j, "a mapping or keyword arguments are needed");
  const jinja_dict *from = a->n == 1 && a->v[0].type == J_DICT ? a->v[0].dict : NULL;
  for (size_t i = 0; from && i < from->n && jinja_step(j, 1); i++) jinja_put(j, d, from->v[i].key, from->v[i].value);
  for (size_t i = 0; i < a->n_kw && jinja_step(j, 1); i++) jinja_put(j, d, a->kw[i].key, a->kw[i].value);
  return d;
}

GLOBAL(g_dict) {
  (void)v;
  return jinja_of_dict(dict_of(j, a));
}

GLOBAL(g_namespace) {
  (void)v;
  return (jinja_value){.type = J_SPACE, .dict = dict_of(j, a)};
}

GLOBAL(g_raise_exception) {
  const jinja_str *s = jinja_str_of(j, a->v[0]);
  if (j->err) return v;
  jinja_fail(j, "%.*s", (int)PU_MIN(s->n, (size_t)500), s->p);
  j->err = PU_ERR_USAGE;
  return jinja_none();
}

GLOBAL(g_strftime_now) {
  (void)v;
  char format[128], text[512];
  struct tm now;
  time_t t = time(NULL);
  const jinja_str *s = jinja_str_of(j, a->v[0]);
  if (s->n >= sizeof format) return jinja_fail(j, "strftime_now: the format is too long");
  memcpy(format, s->p, s->n);
  format[s->n] = 0;
  if (j->now)
    now = *j->now;
  else if (!localtime_r(&t, &now))
    return jinja_fail(j, "strftime_now: the clock cannot be read");
  uint8_t marks[sizeof text];
  memset(marks, 1, sizeof marks);
  jinja_build b = {.j = j};
  jinja_add(&b, text, strftime(text, sizeof text, format, &now), s->from ? marks : NULL);
  return jinja_built(&b);
}

const jinja_row jinja_globals[] = {
    {"dict", g_dict, NULL, 0, 0},
    {"namespace", g_namespace, NULL, 0, 0},
    {"raise_exception", g_raise_exception, "message", 1, 0},
    {"range", g_range, "start stop step", 1, 0},
    {"strftime_now", g_strftime_now, "format", 1, 0},
    {0},
};
