/* Expressions to values. */
#include <math.h>
#include <string.h>

#include "src/text/jinja/jinja.h"

enum { MOST_PARAMS = 8 };

static jinja_value use_undefined(jinja *j, jinja_value v) {
  return jinja_fail(j, "%.*s", (int)PU_MIN(v.s->n, (size_t)200), v.s->p);
}

/* ---- calling rows of the tables ---- */

const jinja_row *jinja_find_row(const jinja_row *rows, pu_str name) {
  for (; rows->name; rows++)
    if (pu_str_eq(name, pu_str_c(rows->name))) return rows;
  return NULL;
}

/* The place of a name in "a b c"; -1: it is none of them. *n: how many there are. */
static int param_index(const char *params, pu_str name, size_t *n) {
  int found = -1;
  *n = 0;
  for (const char *p = params; *p; (*n)++) {
    size_t len = strcspn(p, " ");
    if (pu_str_eq(name, pu_str_of(p, len))) found = (int)*n;
    p += len + (p[len] == ' ');
  }
  return found;
}

jinja_value jinja_call_row(jinja *j, const jinja_row *row, const char *kind, jinja_value self, const jinja_args *a) {
  jinja_value bound[MOST_PARAMS] = {{0}};
  size_t n;
  if (j->err || !row->params) return j->err ? jinja_none() : row->fn(j, self, a);
  param_index(row->params, (pu_str){0}, &n);
  if (a->n > n) return jinja_fail(j, "%s %s takes at most %zu arguments (%zu given)", kind, row->name, n, a->n);
  for (size_t i = 0; i < a->n; i++) bound[i] = a->v[i];
  for (size_t i = 0; i < a->n_kw; i++) {
    const jinja_str *name = a->kw[i].key.s;
    int at = param_index(row->params, pu_str_of(name->p, name->n), &n);
    if (at < 0 || jinja_given(bound[at]))
      return jinja_fail(j, "%s %s has no use for the argument '%.*s'", kind, row->name,
                        (int)PU_MIN(name->n, (size_t)60), name->p);
    bound[at] = a->kw[i].value;
  }
  for (size_t i = 0; i < row->need; i++)
    if (!jinja_given(bound[i])) return jinja_fail(j, "%s %s lacks an argument", kind, row->name);
  const jinja_args full = {.v = bound, .n = n};
  return row->fn(j, self, &full);
}

jinja_value jinja_call(jinja *j, jinja_value fn, const jinja_args *a) {
  jinja_value v = jinja_none();
  if (fn.type == J_UNDEFINED) return use_undefined(j, fn);
  if (fn.type == J_LOOP) {
    const jinja_callee again = {.loop = fn.loop};
    return jinja_call_loop(j, &again, a);
  }
  if (fn.type != J_FN) return jinja_fail(j, "'%s' object is not callable", jinja_type_name(fn));
  if (!jinja_enter(j)) return v;
  v = fn.fn->row ? jinja_call_row(j, fn.fn->row, "function", fn.fn->self, a) : jinja_call_macro(j, fn.fn, a);
  jinja_leave(j);
  return v;
}

jinja_value jinja_filter_by_name(jinja *j, pu_str name, jinja_value v, const jinja_args *a) {
  const jinja_row *row = jinja_find_row(jinja_filters, name);
  if (!row) return jinja_fail(j, "no filter named '%.*s'", (int)PU_MIN(name.len, (size_t)60), name.ptr);
  return jinja_call_row(j, row, "filter", v, a);
}

bool jinja_test_by_name(jinja *j, pu_str name, jinja_value v, const jinja_args *a) {
  const jinja_row *row = jinja_find_row(jinja_tests, name);
  if (row) return jinja_truth(jinja_call_row(j, row, "test", v, a));
  jinja_fail(j, "no test named '%.*s'", (int)PU_MIN(name.len, (size_t)60), name.ptr);
  return false;
}

/* ---- names, attributes, items ---- */

static jinja_value function(jinja *j, const jinja_row *row, jinja_value self) {
  jinja_callee *fn = jinja_alloc(j, sizeof *fn);
  if (!fn) return jinja_none();
  *fn = (jinja_callee){.row = row, .self = self};
  return (jinja_value){.type = J_FN, .fn = fn};
}

static jinja_value name(jinja *j, pu_str s) {
  for (const jinja_scope *scope = j->scope; scope; scope = scope->up)
    for (const struct jinja_var *v = scope->vars; v; v = v->next)
      if (pu_str_eq(v->name, s)) return v->value;
  const jinja_row *row = jinja_find_row(jinja_globals, s);
  if (row) return function(j, row, jinja_none());
  return jinja_undefined(j, "'%.*s' is undefined", (int)PU_MIN(s.len, (size_t)100), s.ptr);
}

static const jinja_row *find_method(jinja_type type, pu_str s) {
  for (const jinja_row *row = jinja_methods; row->name; row++)
    if (row->type == type && pu_str_eq(s, pu_str_c(row->name))) return row;
  return NULL;
}

static jinja_value no_attr(jinja *j, jinja_value v, pu_str s) {
  int n = (int)PU_MIN(s.len, (size_t)100);
  if (v.type == J_NONE) return jinja_undefined(j, "'None' has no attribute '%.*s'", n, s.ptr);
  return jinja_undefined(j, "'%s object' has no attribute '%.*s'", jinja_type_name(v), n, s.ptr);
}

static const jinja_value *member(jinja *j, jinja_value v, pu_str s) {
  const jinja_str key = {.p = s.ptr, .n = s.len};
  if (v.type != J_DICT && v.type != J_SPACE) return NULL;
  return jinja_get(j, v.dict, (jinja_value){.type = J_STR, .s = &key});
}

jinja_value jinja_attr(jinja *j, jinja_value v, pu_str s) {
  if (v.type == J_UNDEFINED) return use_undefined(j, v);
  if (v.type == J_LOOP) return jinja_loop_attr(j, v.loop, s);
  const jinja_row *row = find_method(v.type, s);
  if (row) return function(j, row, v);
  const jinja_value *there = member(j, v, s);
  return there ? *there : no_attr(j, v, s);
}

static jinja_value at_index(jinja *j, jinja_value v, int64_t i) {
  int64_t n = v.type == J_STR ? (int64_t)jinja_count_chars(j, v.s) : (int64_t)v.list->n;
  if (v.type == J_STR) jinja_step(j, v.s->n);
  if (i < 0) i += n;
  if (i < 0 || i >= n) return jinja_undefined(j, "%s object has no element %lld", jinja_type_name(v), (long long)i);
  if (v.type != J_STR) return v.list->v[i];
  return jinja_sub(j, v.s, jinja_char_at(v.s, (size_t)i), jinja_char_at(v.s, (size_t)i + 1));
}

jinja_value jinja_item(jinja *j, jinja_value v, jinja_value key) {
  int64_t i;
  if (v.type == J_UNDEFINED) return use_undefined(j, v);
  if (v.type == J_DICT || v.type == J_SPACE) {
    const jinja_value *there = jinja_get(j, v.dict, key);
    if (there) return *there;
  }
  if ((v.type == J_LIST || v.type == J_TUPLE || v.type == J_STR) && jinja_integer(key, &i)) return at_index(j, v, i);
  if (key.type == J_STR) {
    pu_str s = pu_str_of(key.s->p, key.s->n);
    const jinja_row *row = v.type == J_LOOP ? NULL : find_method(v.type, s);
    if (v.type == J_LOOP) return jinja_loop_attr(j, v.loop, s);
    return row ? function(j, row, v) : no_attr(j, v, s);
  }
  const jinja_str *text = jinja_str_of(j, key);
  return no_attr(j, v, pu_str_of(text->p, text->n));
}

jinja_value jinja_path(jinja *j, jinja_value v, jinja_value path) {
  if (path.type != J_STR) return jinja_item(j, v, path);
  for (size_t i = 0, end; i <= path.s->n && jinja_step(j, 1); i = end + 1) {
    for (end = i; end < path.s->n && path.s->p[end] != '.';) end++;
    int64_t index = 0;
    size_t digits = i;
    for (; digits < end && path.s->p[digits] >= '0' && path.s->p[digits] <= '9' && index < 1000000; digits++)
      index = index * 10 + path.s->p[digits] - '0';
    v = jinja_item(j, v, digits == end && end > i ? jinja_int(index) : jinja_sub(j, path.s, i, end));
  }
  return v;
}

/* ---- slices ---- */

/* One end of a slice as Python clamps it into [low, high]. */
static int64_t clamp(jinja *j, const jinja_node *n, int64_t dflt, int64_t len, int64_t low, int64_t high) {
  jinja_value v = n ? jinja_eval(j, n) : jinja_none();
  int64_t i;
  if (v.type == J_NONE) return dflt;
  if (!jinja_integer(v, &i)) {
    jinja_fail(j, "slice indices must be integers or None");
    return 0;
  }
  if (i < 0) i = i < -len ? low : i + len;
  return PU_MAX(low, PU_MIN(i, high));
}

static jinja_value pick(jinja *j, jinja_value v, int64_t begin, int64_t end, int64_t step) {
  jinja_list *from = jinja_items(j, v), *to = jinja_list_new(j, 0);
  for (int64_t i = begin; (step > 0 ? i < end : i > end) && jinja_step(j, 1); i += step) jinja_push(j, to, from->v[i]);
  static const jinja_str nothing = {.p = ""};
  return v.type == J_STR ? jinja_join(j, to, &nothing) : jinja_seq(v.type, to);
}

static jinja_value slice(jinja *j, jinja_value v, const jinja_node *n) {
  int64_t step = 1;
  if (v.type == J_UNDEFINED) return use_undefined(j, v);
  if (v.type != J_LIST && v.type != J_TUPLE && v.type != J_STR)
    return jinja_undefined(j, "'%s object' cannot be sliced", jinja_type_name(v));
  jinja_value by = n->c ? jinja_eval(j, n->c) : jinja_none();
  if (by.type != J_NONE && (!jinja_integer(by, &step) || step == 0 || step < -INT32_MAX || step > INT32_MAX))
    return jinja_fail(j, "slice step must be an integer other than zero");
  int64_t len = v.type == J_STR ? (int64_t)jinja_count_chars(j, v.s) : (int64_t)v.list->n;
  int64_t low = step < 0 ? -1 : 0, high = step < 0 ? len - 1 : len;
  int64_t begin = clamp(j, n->a, step < 0 ? high : low, len, low, high);
  int64_t end = clamp(j, n->b, step < 0 ? low : high, len, low, high);
  if (j->err) return jinja_none();
  if (v.type == J_STR && step == 1) {
    jinja_step(j, v.s->n);
    return jinja_sub(j, v.s, jinja_char_at(v.s, (size_t)begin), jinja_char_at(v.s, (size_t)end));
  }
  return pick(j, v, begin, end, step);
}

/* ---- operators ---- */

static jinja_value bad_operands(jinja *j, uint16_t op, jinja_value a, jinja_value b) {
  const char text[] = {(char)(op >> 8), (char)(op & 0xFF), 0};
  if (a.type == J_UNDEFINED) return use_undefined(j, a);
  if (b.type == J_UNDEFINED) return use_undefined(j, b);
  return jinja_fail(j, "unsupported operand type(s) for %s: '%s' and '%s'", text, jinja_type_name(a),
                    jinja_type_name(b));
}

static jinja_value join_two(jinja *j, jinja_value a, jinja_value b) {
  jinja_build build = {.j = j};
  bool markup = a.s->markup || b.s->markup;
  if (markup && !a.s->markup) a = jinja_escape(j, a.s);
  if (markup && !b.s->markup) b = jinja_escape(j, b.s);
  jinja_add_str(&build, a.s);
  jinja_add_str(&build, b.s);
  jinja_value v = jinja_built(&build);
  const jinja_row *safe = markup ? jinja_find_row(jinja_filters, pu_str_c("safe")) : NULL;
  return safe ? safe->fn(j, v, NULL) : v;
}

static void extend(jinja *j, jinja_list *to, const jinja_list *from) {
  for (size_t i = 0; i < from->n && jinja_step(j, 1); i++) jinja_push(j, to, from->v[i]);
}

static jinja_value repeat(jinja *j, jinja_value v, int64_t times) {
  jinja_build b = {.j = j};
  jinja_list *list = jinja_list_new(j, 0);
  for (int64_t i = 0; i < times && jinja_step(j, 1); i++) {
    if (v.type == J_STR)
      jinja_add_str(&b, v.s);
    else
      extend(j, list, v.list);
  }
  return v.type == J_STR ? jinja_built(&b) : jinja_seq(v.type, list);
}

static jinja_value int_power(jinja *j, int64_t base, int64_t exponent) {
  int64_t result = 1;
  if (exponent < 0) return jinja_float(pow((double)base, (double)exponent));
  for (; exponent > 0 && jinja_step(j, 1); exponent--) {
    if (base == 0 || base == 1) return jinja_int(base);
    if (base == -1) return jinja_int(exponent % 2 ? -1 : 1);
    if (__builtin_mul_overflow(result, base, &result)) return jinja_fail(j, "an integer is too large");
  }
  return jinja_int(result);
}

/* Python rounds quotients down, so that the rest has the divisor's sign. */
static jinja_value int_divide(jinja *j, uint16_t op, int64_t a, int64_t b) {
  if (b == 0) return jinja_fail(j, "division by zero");
  if (b == -1) { /* the one division that can overflow */
    int64_t negated;
    if (op == JINJA_OP('%', 0)) return jinja_int(0);
    return __builtin_sub_overflow((int64_t)0, a, &negated) ? jinja_fail(j, "an integer is too large")
                                                           : jinja_int(negated);
  }
  int64_t rest = a % b, quotient = a / b;
  bool down = rest != 0 && (rest < 0) != (b < 0);
  return jinja_int(op == JINJA_OP('%', 0) ? rest + (down ? b : 0) : quotient - down);
}

static jinja_value of_ints(jinja *j, uint16_t op, int64_t a, int64_t b) {
  int64_t r = 0;
  bool over = false;
  switch (op) {
  case JINJA_OP('+', 0):
    over = __builtin_add_overflow(a, b, &r);
    break;
  case JINJA_OP('-', 0):
    over = __builtin_sub_overflow(a, b, &r);
    break;
  case JINJA_OP('*', 0):
    over = __builtin_mul_overflow(a, b, &r);
    break;
  case JINJA_OP('*', '*'):
    return int_power(j, a, b);
  case JINJA_OP('/', 0):
    return b == 0 ? jinja_fail(j, "division by zero") : jinja_float((double)a / (double)b);
  default:
    return int_divide(j, op, a, b);
  }
  return over ? jinja_fail(j, "an integer is too large") : jinja_int(r);
}

static jinja_value of_floats(jinja *j, uint16_t op, double a, double b) {
  double rest;
  switch (op) {
  case JINJA_OP('+', 0):
    return jinja_float(a + b);
  case JINJA_OP('-', 0):
    return jinja_float(a - b);
  case JINJA_OP('*', 0):
    return jinja_float(a * b);
  case JINJA_OP('*', '*'):
    return jinja_float(pow(a, b));
  default:
    if (b == 0) return jinja_fail(j, "float division by zero");
    if (op == JINJA_OP('/', 0)) return jinja_float(a / b);
    if (op == JINJA_OP('/', '/')) return jinja_float(floor(a / b));
    rest = fmod(a, b);
    return jinja_float(rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest);
  }
}

static jinja_value lists_joined(jinja *j, jinja_value a, jinja_value b) {
  jinja_list *list = jinja_list_new(j, a.list->n + b.list->n);
  extend(j, list, a.list);
  extend(j, list, b.list);
  return jinja_seq(a.type, list);
}

jinja_value jinja_binary(jinja *j, uint16_t op, jinja_value a, jinja_value b) {
  int64_t i, k;
  double f, g;
  bool seq_a = a.type == J_LIST || a.type == J_TUPLE;
  if (jinja_integer(a, &i) && jinja_integer(b, &k)) return of_ints(j, op, i, k);
  if (jinja_number(a, &f) && jinja_number(b, &g)) return of_floats(j, op, f, g);
  if (op == JINJA_OP('+', 0) && a.type == J_STR && b.type == J_STR) return join_two(j, a, b);
  if (op == JINJA_OP('+', 0) && seq_a && a.type == b.type) return lists_joined(j, a, b);
  if (op == JINJA_OP('%', 0) && a.type == J_STR) return jinja_percent(j, a.s, b);
  if (op == JINJA_OP('*', 0) && (a.type == J_STR || seq_a) && jinja_integer(b, &k)) return repeat(j, a, k);
  if (op == JINJA_OP('*', 0) && (b.type == J_STR || b.type == J_LIST || b.type == J_TUPLE) && jinja_integer(a, &i))
    return repeat(j, b, i);
  return bad_operands(j, op, a, b);
}

static jinja_value negative(jinja *j, jinja_kind kind, jinja_value v) {
  int64_t i;
  if (v.type == J_FLOAT) return kind == N_NEG ? jinja_float(-v.f) : v;
  if (v.type == J_UNDEFINED) return use_undefined(j, v);
  if (!jinja_integer(v, &i)) return jinja_fail(j, "bad operand type for a sign: '%s'", jinja_type_name(v));
  return kind == N_NEG ? of_ints(j, JINJA_OP('-', 0), 0, i) : jinja_int(i);
}

static bool compares(jinja *j, uint16_t op, jinja_value a, jinja_value b) {
  switch (op) {
  case JINJA_OP('=', '='):
    return jinja_equal(j, a, b);
  case JINJA_OP('!', '='):
    return !jinja_equal(j, a, b);
  case JINJA_OP('<', 0):
    return jinja_order(j, a, b) < 0;
  case JINJA_OP('>', 0):
    return jinja_order(j, a, b) > 0;
  case JINJA_OP('<', '='):
    return jinja_order(j, a, b) <= 0;
  case JINJA_OP('>', '='):
    return jinja_order(j, a, b) >= 0;
  default:
    return jinja_contains(j, b, a) == (op == JINJA_IN);
  }
}

static jinja_value compare(jinja *j, const jinja_node *n) {
  jinja_value left = jinja_eval(j, n->a);
  for (const jinja_node *k = n->kids; k && !j->err; k = k->next) {
    jinja_value right = jinja_eval(j, k->a);
    j->line = n->line;
    if (!compares(j, k->op, left, right)) return jinja_bool(false);
    left = right;
  }
  return jinja_bool(true);
}

/* ---- calls, filters, tests ---- */

typedef struct arguments {
  jinja_list *v;
  jinja_dict *kw;
} arguments;

static void add_argument(jinja *j, const jinja_node *arg, arguments *to) {
  jinja_value v = jinja_eval(j, arg->a);
  if (arg->op == JINJA_OP('*', 0)) {
    extend(j, to->v, jinja_items(j, v));
  } else if (arg->op) {
    if (v.type != J_DICT) jinja_fail(j, "argument after ** must be a mapping, not %s", jinja_type_name(v));
    for (size_t i = 0; v.type == J_DICT && i < v.dict->n && !j->err; i++) {
      if (v.dict->v[i].key.type != J_STR) jinja_fail(j, "keywords must be strings");
      jinja_put(j, to->kw, v.dict->v[i].key, v.dict->v[i].value);
    }
  } else if (arg->name.len) {
    jinja_put(j, to->kw, jinja_text(j, arg->name, NULL), v);
  } else {
    jinja_push(j, to->v, v);
  }
}

static jinja_args evaluate_arguments(jinja *j, const jinja_node *kids) {
  if (!kids) return (jinja_args){0};
  arguments to = {jinja_list_new(j, 4), jinja_dict_new(j, 0)};
  for (const jinja_node *k = kids; k && !j->err; k = k->next) add_argument(j, k, &to);
  if (j->err) return (jinja_args){0};
  return (jinja_args){to.v->v, to.v->n, to.kw->v, to.kw->n};
}

static jinja_value call(jinja *j, const jinja_node *n) {
  jinja_value fn = jinja_eval(j, n->a);
  const jinja_args a = evaluate_arguments(j, n->kids);
  j->line = n->line;
  return j->err ? jinja_none() : jinja_call(j, fn, &a);
}

jinja_value jinja_apply_filters(jinja *j, const jinja_node *n, jinja_value v) {
  if (!jinja_enter(j)) return jinja_none();
  if (n->a) v = n->a->kind == N_FILTER ? jinja_apply_filters(j, n->a, v) : jinja_eval(j, n->a);
  const jinja_args a = evaluate_arguments(j, n->kids);
  j->line = n->line;
  if (!j->err) v = jinja_filter_by_name(j, n->name, v, &a);
  jinja_leave(j);
  return v;
}

static jinja_value test(jinja *j, const jinja_node *n) {
  jinja_value v = jinja_eval(j, n->a);
  const jinja_args a = evaluate_arguments(j, n->kids);
  j->line = n->line;
  return jinja_bool(!j->err && jinja_test_by_name(j, n->name, v, &a));
}

/* ---- literals ---- */

static jinja_value list(jinja *j, const jinja_node *n) {
  jinja_list *to = jinja_list_new(j, 0);
  for (const jinja_node *k = n->kids; k && !j->err; k = k->next) jinja_push(j, to, jinja_eval(j, k));
  return jinja_seq(n->kind == N_TUPLE ? J_TUPLE : J_LIST, to);
}

static jinja_value dict(jinja *j, const jinja_node *n) {
  jinja_dict *to = jinja_dict_new(j, 0);
  for (const jinja_node *k = n->kids; k && !j->err; k = k->next->next) {
    jinja_value key = jinja_eval(j, k);
    jinja_put(j, to, key, jinja_eval(j, k->next));
  }
  return jinja_of_dict(to);
}

static jinja_value concat(jinja *j, const jinja_node *n) {
  jinja_build b = {.j = j};
  for (const jinja_node *k = n->kids; k && !j->err; k = k->next) jinja_add_str(&b, jinja_str_of(j, jinja_eval(j, k)));
  return jinja_built(&b);
}

static jinja_value choose(jinja *j, const jinja_node *n) {
  if (jinja_truth(jinja_eval(j, n->a))) return jinja_eval(j, n->b);
  if (n->c) return jinja_eval(j, n->c);
  return jinja_undefined(j, "the inline if-expression has no else, and its condition was false");
}

static jinja_value either(jinja *j, const jinja_node *n) {
  jinja_value v = jinja_eval(j, n->a);
  return jinja_truth(v) == (n->kind == N_OR) ? v : jinja_eval(j, n->b);
}

static jinja_value eval(jinja *j, const jinja_node *n) {
  jinja_value a, b;
  switch (n->kind) {
  case N_CONST:
    return n->value;
  case N_NAME:
    return name(j, n->name);
  case N_LIST:
  case N_TUPLE:
    return list(j, n);
  case N_DICT:
    return dict(j, n);
  case N_ATTR:
    return jinja_attr(j, jinja_eval(j, n->a), n->name);
  case N_ITEM:
    a = jinja_eval(j, n->a);
    return n->b->kind == N_SLICE ? slice(j, a, n->b) : jinja_item(j, a, jinja_eval(j, n->b));
  case N_CALL:
    return call(j, n);
  case N_FILTER:
    return jinja_apply_filters(j, n, jinja_none());
  case N_TEST:
    return test(j, n);
  case N_NOT:
    return jinja_bool(!jinja_truth(jinja_eval(j, n->a)));
  case N_NEG:
  case N_POS:
    return negative(j, n->kind, jinja_eval(j, n->a));
  case N_AND:
  case N_OR:
    return either(j, n);
  case N_BINARY:
    a = jinja_eval(j, n->a);
    b = jinja_eval(j, n->b);
    j->line = n->line;
    return j->err ? a : jinja_binary(j, n->op, a, b);
  case N_COMPARE:
    return compare(j, n);
  case N_CONCAT:
    return concat(j, n);
  case N_COND:
    return choose(j, n);
  default:
    return jinja_fail(j, "not an expression");
  }
}

jinja_value jinja_eval(jinja *j, const jinja_node *n) {
  jinja_value v = jinja_none();
  if (!jinja_step(j, 1) || !jinja_enter(j)) return v;
  j->line = n->line;
  v = eval(j, n);
  jinja_leave(j);
  return v;
}
