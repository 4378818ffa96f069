/* Statements: what they write, and which names they set. A loop's turn, a macro's call and a few blocks open a scope of
 * their own; names set in it are gone after it. */
#include <string.h>

#include "src/text/jinja/jinja.h"

static bool open_scope(jinja *j, jinja_scope *up) {
  jinja_scope *scope = jinja_alloc(j, sizeof *scope);
  if (!scope) return false;
  *scope = (jinja_scope){.up = up};
  j->scope = scope;
  return true;
}

void jinja_set_var(jinja *j, pu_str name, jinja_value value) {
  struct jinja_var *v = j->scope->vars;
  while (v && !pu_str_eq(v->name, name)) v = v->next;
  if (!v) {
    v = jinja_alloc(j, sizeof *v);
    if (!v) return;
    *v = (struct jinja_var){.name = name, .next = j->scope->vars};
    j->scope->vars = v;
  }
  v->value = value;
}

static void write(jinja *j, const jinja_str *s) {
  if (!jinja_step(j, s->n)) return;
  pu_buf_append(&j->out, s->p, s->n);
  if (pu_buf_reserve(&j->from, s->n) && !j->out.failed) {
    if (s->from)
      memcpy(j->from.data + j->from.len, s->from, s->n);
    else
      memset(j->from.data + j->from.len, 0, s->n);
    j->from.len += s->n;
  }
  if (j->out.failed || j->from.failed) jinja_spent(j, "the text grows too long");
}

/* What was written since `mark` becomes a value instead. */
static jinja_value cut_output(jinja *j, size_t mark) {
  jinja_build b = {.j = j};
  if (!j->err && j->out.len > mark) {
    size_t n = j->out.len - mark;
    const uint8_t *from = (const uint8_t *)j->from.data + mark;
    jinja_add(&b, j->out.data + mark, n, memchr(from, 1, n) ? from : NULL);
  }
  j->out.len = j->from.len = mark;
  return jinja_built(&b);
}

static jinja_value captured(jinja *j, const jinja_node *body) {
  size_t mark = j->out.len;
  jinja_scope *scope = j->scope;
  if (open_scope(j, scope)) jinja_run(j, body);
  j->scope = scope;
  return cut_output(j, mark);
}

/* ---- set ---- */

static void assign(jinja *j, const jinja_node *target, jinja_value v);

static void assign_all(jinja *j, const jinja_node *targets, jinja_value v) {
  size_t n = 0, i = 0;
  for (const jinja_node *k = targets; k; k = k->next) n++;
  const jinja_list *list = jinja_items(j, v);
  if (!j->err && list->n != n)
    jinja_fail(j,
               list->n < n ? "not enough values to unpack (expected %zu, got %zu)"
                           : "too many values to unpack (expected %zu, got %zu)",
               n, list->n);
  for (const jinja_node *k = targets; k && !j->err; k = k->next) assign(j, k, list->v[i++]);
}

static void assign(jinja *j, const jinja_node *target, jinja_value v) {
  if (target->kind == N_TUPLE) {
    assign_all(j, target->kids, v);
  } else if (target->kind == N_NAME) {
    jinja_set_var(j, target->name, v);
  } else {
    jinja_value space = jinja_eval(j, target->a);
    if (space.type == J_SPACE)
      jinja_put(j, space.dict, jinja_text(j, target->name, NULL), v);
    else
      jinja_fail(j, "cannot assign attribute on non-namespace object");
  }
}

/* ---- loops ---- */

static jinja_value changed(jinja *j, jinja_value self, const jinja_args *a) {
  jinja_list *now = jinja_list_new(j, a->n);
  for (size_t i = 0; i < a->n; i++) jinja_push(j, now, a->v[i]);
  jinja_value v = jinja_seq(J_TUPLE, now);
  bool same = jinja_given(self.loop->changed) && jinja_equal(j, self.loop->changed, v);
  self.loop->changed = v;
  return jinja_bool(!same);
}

static jinja_value cycle(jinja *j, jinja_value self, const jinja_args *a) {
  return a->n ? a->v[self.loop->i % a->n] : jinja_fail(j, "loop.cycle needs something to cycle through");
}

static const jinja_row loop_functions[] = {{.name = "changed", .fn = changed}, {.name = "cycle", .fn = cycle}};

jinja_value jinja_loop_attr(jinja *j, jinja_loop *l, pu_str name) {
  const struct {
    const char *name;
    jinja_value v;
  } numbers[] = {{"index0", jinja_int((int64_t)l->i)},
                 {"index", jinja_int((int64_t)l->i + 1)},
                 {"first", jinja_bool(l->i == 0)},
                 {"last", jinja_bool(l->i + 1 == l->n)},
                 {"length", jinja_int((int64_t)l->n)},
                 {"revindex", jinja_int((int64_t)(l->n - l->i))},
                 {"revindex0", jinja_int((int64_t)(l->n - l->i) - 1)},
                 {"depth", jinja_int(l->depth0 + 1)},
                 {"depth0", jinja_int(l->depth0)}};
  for (size_t i = 0; i < PU_COUNT(numbers); i++)
    if (pu_str_eq(name, pu_str_c(numbers[i].name))) return numbers[i].v;
  if (pu_str_eq(name, pu_str_c("previtem")))
    return l->i > 0 ? l->v[l->i - 1] : jinja_undefined(j, "there is no previous item");
  if (pu_str_eq(name, pu_str_c("nextitem")))
    return l->i + 1 < l->n ? l->v[l->i + 1] : jinja_undefined(j, "there is no next item");
  for (size_t i = 0; i < PU_COUNT(loop_functions); i++) {
    jinja_callee *fn = pu_str_eq(name, pu_str_c(loop_functions[i].name)) ? jinja_alloc(j, sizeof *fn) : NULL;
    if (!fn) continue;
    *fn = (jinja_callee){.row = &loop_functions[i], .self = {.type = J_LOOP, .loop = l}};
    return (jinja_value){.type = J_FN, .fn = fn};
  }
  return jinja_undefined(j, "'loop' has no attribute '%.*s'", (int)PU_MIN(name.len, (size_t)60), name.ptr);
}

/* The items that the loop's own condition lets through. */
static const jinja_list *chosen(jinja *j, const jinja_node *n, const jinja_list *all) {
  if (!n->c) return all;
  jinja_scope *scope = j->scope;
  jinja_list *to = jinja_list_new(j, 0);
  for (size_t i = 0; i < all->n && jinja_step(j, 1) && open_scope(j, scope); i++) {
    assign(j, n->a, all->v[i]);
    if (jinja_truth(jinja_eval(j, n->c))) jinja_push(j, to, all->v[i]);
  }
  j->scope = scope;
  return to;
}

static void run_loop(jinja *j, const jinja_node *n, jinja_value over, int depth0) {
  jinja_scope *scope = j->scope;
  const jinja_list *list = chosen(j, n, jinja_items(j, over));
  jinja_loop *l = jinja_alloc(j, sizeof *l);
  if (!l) return;
  *l = (jinja_loop){.v = list->v, .n = list->n, .depth0 = depth0, .node = n->recursive ? n : NULL, .scope = scope};
  for (; l->i < l->n && jinja_step(j, 1) && open_scope(j, scope); l->i++) {
    jinja_set_var(j, pu_str_c("loop"), (jinja_value){.type = J_LOOP, .loop = l});
    assign(j, n->a, l->v[l->i]);
    jinja_run(j, n->kids);
    bool stop = j->flow == FLOW_BREAK;
    j->flow = FLOW_ON;
    if (stop) break;
  }
  j->scope = scope;
  if (l->n == 0) jinja_run(j, n->more);
}

/* loop(items), in a recursive loop: its text. */
jinja_value jinja_call_loop(jinja *j, const jinja_callee *fn, const jinja_args *a) {
  if (!fn->loop->node) return jinja_fail(j, "this loop is not recursive: say {%% for … recursive %%}");
  if (a->n != 1) return jinja_fail(j, "loop() takes what to loop over");
  if (!jinja_enter(j)) return jinja_none();
  size_t mark = j->out.len;
  jinja_scope *scope = j->scope;
  j->scope = fn->loop->scope;
  run_loop(j, fn->loop->node, a->v[0], fn->loop->depth0 + 1);
  j->scope = scope;
  jinja_leave(j);
  return cut_output(j, mark);
}

/* ---- macros ---- */

static jinja_value macro_value(jinja *j, const jinja_node *n) {
  jinja_callee *fn = jinja_alloc(j, sizeof *fn);
  if (!fn) return jinja_none();
  *fn = (jinja_callee){.macro = n, .scope = j->scope};
  return (jinja_value){.type = J_FN, .fn = fn};
}

/* What was given by name beyond the parameters: `caller`, or all of it where the macro speaks of kwargs. */
static void bind_rest(jinja *j, const jinja_node *n, const jinja_args *a) {
  jinja_dict *rest = jinja_dict_new(j, 0);
  for (size_t i = 0; i < a->n_kw && !j->err; i++) {
    const jinja_str *name = a->kw[i].key.s;
    pu_str s = pu_str_of(name->p, name->n);
    bool known = false;
    for (const jinja_node *p = n->more; p; p = p->next) known |= pu_str_eq(p->name, s);
    if (known) continue;
    if (pu_str_eq(s, pu_str_c("caller")))
      jinja_set_var(j, s, a->kw[i].value);
    else if (n->op & JINJA_USES_KWARGS)
      jinja_put(j, rest, a->kw[i].key, a->kw[i].value);
    else
      jinja_fail(j, "macro '%.*s' takes no keyword argument '%.*s'", (int)PU_MIN(n->name.len, (size_t)60), n->name.ptr,
                 (int)PU_MIN(name->n, (size_t)60), name->p);
  }
  if (n->op & JINJA_USES_KWARGS) jinja_set_var(j, pu_str_c("kwargs"), jinja_of_dict(rest));
}

static void bind(jinja *j, const jinja_node *n, const jinja_args *a) {
  size_t i = 0;
  for (const jinja_node *p = n->more; p && !j->err; p = p->next, i++) {
    const jinja_str key = {.p = p->name.ptr, .n = p->name.len};
    const jinja_value *named = NULL;
    for (size_t k = 0; k < a->n_kw; k++)
      if (jinja_equal(j, a->kw[k].key, (jinja_value){.type = J_STR, .s = &key})) named = &a->kw[k].value;
    jinja_value v = named ? *named : i < a->n ? a->v[i] : (jinja_value){0};
    if (!jinja_given(v))
      v = p->a ? jinja_eval(j, p->a)
               : jinja_undefined(j, "parameter '%.*s' was not provided", (int)PU_MIN(p->name.len, (size_t)60),
                                 p->name.ptr);
    jinja_set_var(j, p->name, v);
  }
  if (n->op & JINJA_USES_VARARGS) {
    jinja_list *rest = jinja_list_new(j, 0);
    for (; i < a->n && !j->err; i++) jinja_push(j, rest, a->v[i]);
    jinja_set_var(j, pu_str_c("varargs"), jinja_seq(J_TUPLE, rest));
  } else if (a->n > i) {
    jinja_fail(j, "macro '%.*s' takes not more than %zu argument(s)", (int)PU_MIN(n->name.len, (size_t)60), n->name.ptr,
               i);
  }
  bind_rest(j, n, a);
}

jinja_value jinja_call_macro(jinja *j, const jinja_callee *fn, const jinja_args *a) {
  size_t mark = j->out.len;
  jinja_scope *scope = j->scope;
  if (open_scope(j, fn->scope)) {
    bind(j, fn->macro, a);
    jinja_run(j, fn->macro->kids);
  }
  j->scope = scope;
  return cut_output(j, mark);
}

/* {% call macro(…) %}: the block is what the macro knows as caller(). */
static void call_block(jinja *j, const jinja_node *n) {
  const jinja_node *call = n->a;
  jinja_value fn = jinja_eval(j, call->a);
  jinja_node caller = {.kind = N_ARG, .line = n->line, .name = pu_str_c("caller")}, value = {.kind = N_CONST};
  jinja_node with_caller = *call;
  value.value = macro_value(j, n);
  value.line = n->line;
  caller.a = &value;
  caller.next = call->kids;
  with_caller.kids = &caller;
  jinja_node callee = {.kind = N_CONST, .line = n->line, .value = fn};
  with_caller.a = &callee;
  write(j, jinja_str_of(j, jinja_eval(j, &with_caller)));
}

/* ---- the rest ---- */

static void run_if(jinja *j, const jinja_node *n) {
  for (const jinja_node *k = n->kids; k && !j->err; k = k->next) {
    if (k->a && !jinja_truth(jinja_eval(j, k->a))) continue;
    jinja_run(j, k->kids);
    return;
  }
}

static void run_scope(jinja *j, const jinja_node *n) {
  jinja_scope *scope = j->scope;
  jinja_list *values = jinja_list_new(j, 0);
  for (const jinja_node *k = n->more; k && !j->err; k = k->next) jinja_push(j, values, jinja_eval(j, k->b));
  if (!j->err && open_scope(j, scope)) {
    size_t i = 0;
    for (const jinja_node *k = n->more; k && !j->err; k = k->next) assign(j, k->a, values->v[i++]);
    jinja_run(j, n->kids);
  }
  j->scope = scope;
}

static void run_capture(jinja *j, const jinja_node *n) {
  jinja_value v = captured(j, n->kids);
  assign(j, n->a, n->b ? jinja_apply_filters(j, n->b, v) : v);
}

static void run(jinja *j, const jinja_node *n) {
  switch (n->kind) {
  case N_TEXT:
    write(j, n->value.s);
    break;
  case N_OUT:
    write(j, jinja_str_of(j, jinja_eval(j, n->a)));
    break;
  case N_IF:
    run_if(j, n);
    break;
  case N_FOR:
    run_loop(j, n, jinja_eval(j, n->b), 0);
    break;
  case N_SET:
    assign(j, n->a, jinja_eval(j, n->b));
    break;
  case N_CAPTURE:
    run_capture(j, n);
    break;
  case N_MACRO:
    jinja_set_var(j, n->name, macro_value(j, n));
    break;
  case N_CALL_BLOCK:
    call_block(j, n);
    break;
  case N_FILTER_BLOCK:
    write(j, jinja_str_of(j, jinja_apply_filters(j, n->a, captured(j, n->kids))));
    break;
  case N_WITH:
  case N_SCOPE:
    run_scope(j, n);
    break;
  case N_BREAK:
    j->flow = FLOW_BREAK;
    break;
  case N_CONTINUE:
    j->flow = FLOW_CONTINUE;
    break;
  default:
    jinja_fail(j, "not a statement");
  }
}

void jinja_run(jinja *j, const jinja_node *body) {
  if (!jinja_enter(j)) return;
  for (; body && j->flow == FLOW_ON && jinja_step(j, 1); body = body->next) {
    j->line = body->line;
    run(j, body);
  }
  jinja_leave(j);
}
