/* Tokens to a tree, by recursive descent over Jinja's grammar. The first error is kept and moves the parser to the end
 * of the tokens, so that every loop ends; nodes never come back as NULL. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "src/text/jinja/jinja.h"

enum { DEEPEST_TREE = 200 };

typedef struct parser {
  pu_jinja *t;
  const jinja_token *at;
  jinja_node none; /* what a failed call gives */
  int depth;
  int loops;     /* how many loops we are inside: break and continue need one */
  uint16_t uses; /* which of varargs and kwargs the macro being read speaks of */
  pu_err err;
  pu_error *e;
} parser;

static const jinja_token END = {.kind = T_END};

static jinja_node *fail(parser *p, const char *what, pu_str detail) {
  if (p->err == PU_OK) {
    int n = (int)PU_MIN(detail.len, 60);
    p->err = pu_fail(p->e, PU_ERR_FORMAT, "%s:%d: %s%s%.*s%s", p->t->name, p->at->line, what, n ? " '" : "", n,
                     n ? detail.ptr : "", n ? "'" : "");
  }
  p->at = &END;
  return &p->none;
}

static jinja_node *node(parser *p, jinja_kind kind) {
  jinja_node *n = jinja_take(&p->t->mem, sizeof *n);
  if (!n) return fail(p, "the template is too large", (pu_str){0});
  *n = (jinja_node){.kind = kind, .line = p->at->line};
  return n;
}

static bool enter(parser *p) {
  if (++p->depth <= DEEPEST_TREE) return true;
  fail(p, "the template is nested too deeply", (pu_str){0});
  return false;
}

static void take(parser *p) {
  if (p->at->kind != T_END) p->at++;
}

static const jinja_token *ahead(const parser *p) {
  return p->at->kind == T_END ? p->at : p->at + 1;
}

static bool token_is(const jinja_token *t, const char *word) {
  return t->kind == T_NAME && pu_str_eq(t->text, pu_str_c(word));
}
static bool is_word(const parser *p, const char *word) {
  return token_is(p->at, word);
}
static bool is_op(const parser *p, char c) {
  return p->at->kind == T_OP && p->at->op == JINJA_OP(c, 0);
}

static bool skip_word(parser *p, const char *word) {
  bool there = is_word(p, word);
  if (there) take(p);
  return there;
}
static bool skip_op(parser *p, char c) {
  bool there = is_op(p, c);
  if (there) take(p);
  return there;
}

static pu_str seen(const parser *p) {
  static const char *const names[] = {"the end", NULL, "{{", "}}", "{%", "%}"};
  if (p->at->kind >= PU_COUNT(names)) return p->at->text;
  return pu_str_c(names[p->at->kind] ? names[p->at->kind] : "text");
}

static void want_op(parser *p, char c) {
  const char what[] = {'e', 'x', 'p', 'e', 'c', 't', 'e', 'd', ' ', c, ' ', 'b', 'e', 'f', 'o', 'r', 'e', 0};
  if (!skip_op(p, c)) fail(p, what, seen(p));
}

static void want(parser *p, jinja_token_kind kind, const char *what) {
  if (p->at->kind != kind)
    fail(p, what, seen(p));
  else
    take(p);
}

static pu_str want_name(parser *p) {
  pu_str name = p->at->text;
  if (p->at->kind != T_NAME) {
    fail(p, "expected a name before", seen(p));
    return (pu_str){"", 0};
  }
  take(p);
  return name;
}

/* ---- expressions ---- */

static jinja_node *expression(parser *p);
static jinja_node *unary(parser *p, bool filters);
static jinja_node *primary(parser *p);
static jinja_node *postfix(parser *p, jinja_node *n);

static jinja_node *of_two(parser *p, jinja_kind kind, jinja_node *a, jinja_node *b) {
  jinja_node *n = node(p, kind);
  n->line = a->line;
  n->a = a;
  n->b = b;
  return n;
}

/* A list of children under construction. */
typedef struct kids {
  jinja_node *first, **last;
} kids;
static void add_kid(kids *k, jinja_node *n) {
  if (!k->first) k->last = &k->first;
  *k->last = n;
  k->last = &n->next;
}
/* The same where nothing may be linked: the shared node of a failure. */
static void add(parser *p, kids *k, jinja_node *n) {
  if (p->err == PU_OK) add_kid(k, n);
}

static jinja_node *list_of(parser *p, jinja_kind kind, char close) {
  jinja_node *n = node(p, kind);
  kids k = {0};
  for (take(p); p->at->kind != T_END && !is_op(p, close);) {
    add(p, &k, expression(p));
    if (kind == N_DICT) {
      want_op(p, ':');
      add(p, &k, expression(p));
    }
    if (!skip_op(p, ',')) break;
  }
  want_op(p, close);
  n->kids = k.first;
  return n;
}

/* The arguments of a call, after its opening bracket. */
static jinja_node *arguments(parser *p) {
  kids k = {0};
  while (p->at->kind != T_END && !is_op(p, ')')) {
    jinja_node *arg = node(p, N_ARG);
    if (p->at->kind == T_OP && (is_op(p, '*') || p->at->op == JINJA_OP('*', '*'))) {
      arg->op = p->at->op;
      take(p);
    } else if (p->at->kind == T_NAME && ahead(p)->kind == T_OP && ahead(p)->op == JINJA_OP('=', 0)) {
      arg->name = want_name(p);
      take(p);
    }
    arg->a = expression(p);
    add(p, &k, arg);
    if (!skip_op(p, ',')) break;
  }
  want_op(p, ')');
  return k.first;
}

static jinja_node *slice(parser *p) {
  jinja_node *parts[3] = {0};
  bool cut = false;
  for (int i = 0; i < 3; i++) {
    if (!is_op(p, ':') && !is_op(p, ']') && !is_op(p, ',')) parts[i] = expression(p);
    if (i == 2 || !skip_op(p, ':')) break;
    cut = true;
  }
  if (!cut) return parts[0] ? parts[0] : fail(p, "expected an index before", seen(p));
  jinja_node *n = node(p, N_SLICE);
  n->a = parts[0];
  n->b = parts[1];
  n->c = parts[2];
  return n;
}

static jinja_node *dotted(parser *p, jinja_node *of) {
  if (p->at->kind == T_INT) {
    jinja_node *index = primary(p);
    return of_two(p, N_ITEM, of, index);
  }
  jinja_node *n = of_two(p, N_ATTR, of, NULL);
  n->line = p->at->line;
  n->name = want_name(p);
  return n;
}

static jinja_node *call(parser *p, jinja_node *callee) {
  jinja_node *n = of_two(p, N_CALL, callee, NULL);
  n->line = p->at->line;
  take(p);
  n->kids = arguments(p);
  return n;
}

static jinja_node *postfix(parser *p, jinja_node *n) {
  for (;;) {
    if (skip_op(p, '.')) {
      n = dotted(p, n);
    } else if (is_op(p, '[')) {
      take(p);
      n = of_two(p, N_ITEM, n, NULL);
      n->line = p->at->line;
      n->b = slice(p);
      want_op(p, ']');
    } else if (is_op(p, '(')) {
      n = call(p, n);
    } else {
      return n;
    }
  }
}

/* The name of a filter or test; it may have dots. */
static pu_str dotted_name(parser *p) {
  pu_str name = want_name(p);
  while (skip_op(p, '.')) {
    pu_str more = want_name(p);
    name.len = (size_t)(more.ptr - name.ptr) + more.len;
  }
  return name;
}

static jinja_node *filter(parser *p, jinja_node *of) {
  jinja_node *n = node(p, N_FILTER);
  n->a = of;
  n->name = dotted_name(p);
  if (skip_op(p, '(')) n->kids = arguments(p);
  return n;
}

/* Does a test's argument without brackets follow: `is divisibleby 3`? */
static bool bare_argument(const parser *p) {
  static const char *const no[] = {"else", "or", "and", "if", "is"};
  for (size_t i = 0; i < PU_COUNT(no); i++)
    if (is_word(p, no[i])) return false;
  jinja_token_kind k = p->at->kind;
  return k == T_NAME || k == T_STR || k == T_INT || k == T_FLOAT || is_op(p, '[') || is_op(p, '{');
}

static jinja_node *test(parser *p, jinja_node *of) {
  take(p);
  bool negated = skip_word(p, "not");
  jinja_node *n = node(p, N_TEST);
  n->a = of;
  n->name = dotted_name(p);
  if (skip_op(p, '(')) {
    n->kids = arguments(p);
  } else if (bare_argument(p)) {
    jinja_node *arg = node(p, N_ARG);
    arg->a = postfix(p, primary(p));
    n->kids = arg;
  }
  return negated ? of_two(p, N_NOT, n, NULL) : n;
}

static jinja_node *filters_and_tests(parser *p, jinja_node *n) {
  for (;;) {
    if (skip_op(p, '|'))
      n = filter(p, n);
    else if (is_word(p, "is"))
      n = test(p, n);
    else if (is_op(p, '('))
      n = call(p, n);
    else
      return n;
  }
}

static jinja_value number(parser *p) {
  char text[304];
  size_t n = 0;
  for (size_t i = 0; i < p->at->text.len; i++)
    if (p->at->text.ptr[i] != '_') text[n++] = p->at->text.ptr[i];
  text[n] = 0;
  if (p->at->kind == T_FLOAT) return jinja_float(strtod(text, NULL));
  static const char letters[] = "xXoObB";
  static const int bases[] = {16, 16, 8, 8, 2, 2};
  const char *letter = n > 2 ? strchr(letters, text[1]) : NULL;
  char *end;
  errno = 0;
  int64_t i = letter ? strtoll(text + 2, &end, bases[letter - letters]) : strtoll(text, &end, 10);
  if (errno || *end) fail(p, errno ? "an integer is too large:" : "this is no number:", p->at->text);
  return jinja_int(i);
}

/* Strings side by side are one. */
static jinja_value strings(parser *p) {
  size_t len = 0, n = 0;
  for (const jinja_token *t = p->at; t->kind == T_STR; t++) len += t->text.len;
  jinja_str *s = jinja_take(&p->t->mem, sizeof *s);
  char *to = jinja_take(&p->t->mem, len + 1);
  if (!s || !to) {
    fail(p, "the template is too large", (pu_str){0});
    return jinja_none();
  }
  for (; p->at->kind == T_STR; take(p)) {
    if (p->at->text.len) memcpy(to + n, p->at->text.ptr, p->at->text.len);
    n += p->at->text.len;
  }
  *s = (jinja_str){.p = to, .n = len};
  return (jinja_value){.type = J_STR, .s = s};
}

static jinja_node *name_or_constant(parser *p) {
  static const struct {
    const char *word;
    jinja_value v;
  } constants[] = {{"true", {.type = J_BOOL, .b = true}},
                   {"True", {.type = J_BOOL, .b = true}},
                   {"false", {.type = J_BOOL, .b = false}},
                   {"False", {.type = J_BOOL, .b = false}},
                   {"none", {.type = J_NONE}},
                   {"None", {.type = J_NONE}}};
  jinja_node *n = node(p, N_NAME);
  n->name = want_name(p);
  if (pu_str_eq(n->name, pu_str_c("varargs"))) p->uses |= JINJA_USES_VARARGS;
  if (pu_str_eq(n->name, pu_str_c("kwargs"))) p->uses |= JINJA_USES_KWARGS;
  for (size_t i = 0; i < PU_COUNT(constants); i++) {
    if (!pu_str_eq(n->name, pu_str_c(constants[i].word))) continue;
    n->kind = N_CONST;
    n->value = constants[i].v;
  }
  return n;
}

static bool tuple_ends(const parser *p, const char *end_word) {
  if (p->at->kind == T_END || p->at->kind == T_VAR_END || p->at->kind == T_BLOCK_END) return true;
  return is_op(p, ')') || (end_word && is_word(p, end_word));
}

/* One expression, or several with commas as a tuple. `item` reads one. */
static jinja_node *tuple(parser *p, jinja_node *(*item)(parser *), const char *end_word, bool in_brackets) {
  jinja_node *n = node(p, N_TUPLE);
  kids k = {0};
  size_t count = 0;
  bool comma = false;
  while (!tuple_ends(p, end_word)) {
    add(p, &k, item(p));
    count++;
    if (!skip_op(p, ',')) break;
    comma = true;
  }
  if (count == 0 && !in_brackets) return fail(p, "expected an expression before", seen(p));
  n->kids = k.first;
  return count == 1 && !comma && k.first ? k.first : n;
}

static jinja_node *bracketed(parser *p) {
  take(p);
  jinja_node *n = tuple(p, expression, NULL, true);
  want_op(p, ')');
  return n;
}

static jinja_node *primary(parser *p) {
  if (p->at->kind == T_NAME) return name_or_constant(p);
  if (is_op(p, '(')) return bracketed(p);
  if (is_op(p, '[')) return list_of(p, N_LIST, ']');
  if (is_op(p, '{')) return list_of(p, N_DICT, '}');
  if (p->at->kind != T_STR && p->at->kind != T_INT && p->at->kind != T_FLOAT) return fail(p, "unexpected", seen(p));
  jinja_node *n = node(p, N_CONST);
  if (p->at->kind == T_STR) {
    n->value = strings(p);
  } else {
    n->value = number(p);
    take(p);
  }
  return n;
}

static jinja_node *unary(parser *p, bool filters) {
  if (!enter(p)) return &p->none;
  jinja_node *n;
  if (is_op(p, '-') || is_op(p, '+')) {
    n = node(p, is_op(p, '-') ? N_NEG : N_POS);
    take(p);
    n->a = unary(p, false);
  } else {
    n = primary(p);
  }
  n = postfix(p, n);
  if (filters) n = filters_and_tests(p, n);
  p->depth--;
  return n;
}

/* The operators between two operands, loosest first; all associate to the left. */
static const uint16_t sums[] = {JINJA_OP('+', 0), JINJA_OP('-', 0), 0};
static const uint16_t products[] = {JINJA_OP('*', 0), JINJA_OP('/', 0), JINJA_OP('/', '/'), JINJA_OP('%', 0), 0};
static const uint16_t powers[] = {JINJA_OP('*', '*'), 0};
static const uint16_t orders[] = {JINJA_OP('=', '='),
                                  JINJA_OP('!', '='),
                                  JINJA_OP('<', 0),
                                  JINJA_OP('>', 0),
                                  JINJA_OP('<', '='),
                                  JINJA_OP('>', '='),
                                  0};

static bool is_one_of(const parser *p, const uint16_t *ops) {
  for (; p->at->kind == T_OP && *ops; ops++)
    if (p->at->op == *ops) return true;
  return false;
}

static jinja_node *left_to_right(parser *p, const uint16_t *ops, jinja_node *(*operand)(parser *)) {
  jinja_node *left = operand(p);
  while (is_one_of(p, ops)) {
    uint16_t op = p->at->op;
    take(p);
    left = of_two(p, N_BINARY, left, operand(p));
    left->op = op;
  }
  return left;
}

static jinja_node *plain_unary(parser *p) {
  return unary(p, true);
}
static jinja_node *power(parser *p) {
  return left_to_right(p, powers, plain_unary);
}
static jinja_node *product(parser *p) {
  return left_to_right(p, products, power);
}

static jinja_node *concat(parser *p) {
  jinja_node *first = product(p);
  if (!is_op(p, '~')) return first;
  kids k = {0};
  add(p, &k, first);
  while (skip_op(p, '~')) add(p, &k, product(p));
  jinja_node *n = node(p, N_CONCAT);
  n->kids = k.first;
  return n;
}

static jinja_node *sum(parser *p) {
  return left_to_right(p, sums, concat);
}

/* The comparison that comes next, taken; 0: none. */
static uint16_t comparison(parser *p) {
  uint16_t op = p->at->op;
  if (is_one_of(p, orders)) {
    take(p);
    return op;
  }
  if (skip_word(p, "in")) return JINJA_IN;
  if (!is_word(p, "not") || !token_is(ahead(p), "in")) return 0;
  take(p);
  take(p);
  return JINJA_NOT_IN;
}

static jinja_node *compare(parser *p) {
  jinja_node *first = sum(p);
  kids k = {0};
  for (uint16_t op; (op = comparison(p)) != 0;) {
    jinja_node *operand = node(p, N_ARG);
    operand->op = op;
    operand->a = sum(p);
    add(p, &k, operand);
  }
  if (!k.first) return first;
  jinja_node *n = of_two(p, N_COMPARE, first, NULL);
  n->kids = k.first;
  return n;
}

static jinja_node *negation(parser *p) {
  if (!is_word(p, "not")) return compare(p);
  if (!enter(p)) return &p->none;
  take(p);
  jinja_node *n = node(p, N_NOT);
  n->a = negation(p);
  p->depth--;
  return n;
}

static jinja_node *conjunction(parser *p) {
  jinja_node *left = negation(p);
  while (skip_word(p, "and")) left = of_two(p, N_AND, left, negation(p));
  return left;
}

static jinja_node *disjunction(parser *p) {
  jinja_node *left = conjunction(p);
  while (skip_word(p, "or")) left = of_two(p, N_OR, left, conjunction(p));
  return left;
}

static jinja_node *expression(parser *p) {
  if (!enter(p)) return &p->none;
  jinja_node *n = disjunction(p);
  while (skip_word(p, "if")) {
    jinja_node *cond = node(p, N_COND);
    cond->b = n;
    cond->a = disjunction(p);
    if (skip_word(p, "else")) cond->c = expression(p);
    n = cond;
  }
  p->depth--;
  return n;
}

static jinja_node *no_condition(parser *p) {
  return disjunction(p);
}

/* ---- statements ---- */

static jinja_node *body(parser *p, const char *const *ends);

/* {% … %} text {% end %}: reads from the tag's end to the word that closes, and takes it. Which one it was: *which. */
static jinja_node *block(parser *p, const char *const *ends, size_t *which) {
  skip_op(p, ':');
  want(p, T_BLOCK_END, "expected %} before");
  jinja_node *first = body(p, ends);
  size_t i = 0;
  while (ends[i] && !is_word(p, ends[i])) i++;
  if (!ends[i]) fail(p, "the template ends inside a block; missing", pu_str_c(ends[i ? i - 1 : 0]));
  take(p);
  if (which) *which = i;
  return first;
}

static jinja_node *block_to(parser *p, const char *end) {
  const char *const ends[] = {end, NULL};
  return block(p, ends, NULL);
}

/* A name, or ns.attr where it is assigned to. */
static jinja_node *target_item(parser *p) {
  jinja_node *n = primary(p);
  if (n->kind == N_NAME && skip_op(p, '.')) n = dotted(p, n);
  bool good = n->kind == N_NAME || n->kind == N_TUPLE || (n->kind == N_ATTR && n->a->kind == N_NAME);
  return good || p->err ? n : fail(p, "this cannot be assigned to", seen(p));
}

static jinja_node *set(parser *p, jinja_node *n) {
  n->a = tuple(p, target_item, NULL, false);
  if (skip_op(p, '=')) {
    n->b = tuple(p, expression, NULL, false);
    return n;
  }
  n->kind = N_CAPTURE;
  while (skip_op(p, '|')) n->b = filter(p, n->b);
  n->kids = block_to(p, "endset");
  return n;
}

static jinja_node *loop(parser *p, jinja_node *n) {
  static const char *const ends[] = {"endfor", "else", NULL};
  n->a = tuple(p, target_item, "in", false);
  if (!skip_word(p, "in")) return fail(p, "expected 'in' before", seen(p));
  n->b = tuple(p, no_condition, "recursive", false);
  if (skip_word(p, "if")) n->c = expression(p);
  n->recursive = skip_word(p, "recursive");
  size_t which;
  p->loops++;
  n->kids = block(p, ends, &which);
  p->loops--;
  if (which == 1) n->more = block_to(p, "endfor");
  return n;
}

static jinja_node *condition(parser *p, jinja_node *n) {
  static const char *const ends[] = {"elif", "else", "endif", NULL};
  enum { ELIF, ELSE, ENDIF };
  kids k = {0};
  for (size_t which = ELIF; which != ENDIF && p->err == PU_OK;) {
    jinja_node *branch = node(p, N_BRANCH);
    if (which == ELIF) branch->a = tuple(p, no_condition, NULL, false);
    branch->kids = block(p, which == ELIF ? ends : ends + ENDIF, which == ELIF ? &which : NULL);
    if (!branch->a) which = ENDIF;
    add(p, &k, branch);
  }
  n->kids = k.first;
  return n;
}

/* (a, b=1) */
static jinja_node *parameters(parser *p) {
  kids k = {0};
  want_op(p, '(');
  while (p->at->kind != T_END && !is_op(p, ')')) {
    jinja_node *param = node(p, N_PARAM);
    param->name = want_name(p);
    if (skip_op(p, '=')) param->a = expression(p);
    add(p, &k, param);
    if (!skip_op(p, ',')) break;
  }
  want_op(p, ')');
  return k.first;
}

static void macro_body(parser *p, jinja_node *n, const char *end) {
  int loops = p->loops;
  uint16_t uses = p->uses;
  p->loops = p->uses = 0;
  n->kids = block_to(p, end);
  n->op = p->uses;
  p->loops = loops;
  p->uses = uses;
}

static jinja_node *macro(parser *p, jinja_node *n) {
  n->name = want_name(p);
  n->more = parameters(p);
  macro_body(p, n, "endmacro");
  return n;
}

static jinja_node *call_block(parser *p, jinja_node *n) {
  if (is_op(p, '(')) n->more = parameters(p);
  n->a = unary(p, true);
  if (n->a->kind != N_CALL) fail(p, "expected a call before", seen(p));
  n->name = pu_str_c("caller");
  macro_body(p, n, "endcall");
  return n;
}

static jinja_node *filter_block(parser *p, jinja_node *n) {
  n->a = filter(p, NULL);
  while (skip_op(p, '|')) n->a = filter(p, n->a);
  n->kids = block_to(p, "endfilter");
  return n;
}

static jinja_node *with(parser *p, jinja_node *n) {
  kids k = {0};
  while (p->at->kind == T_NAME || is_op(p, '(')) {
    jinja_node *one = node(p, N_SET);
    one->a = target_item(p);
    want_op(p, '=');
    one->b = expression(p);
    add(p, &k, one);
    if (!skip_op(p, ',')) break;
  }
  n->more = k.first;
  n->kids = block_to(p, "endwith");
  return n;
}

/* What the assistant says, for those who train on it; here it is text like any other. */
static jinja_node *generation(parser *p, jinja_node *n) {
  n->kids = block_to(p, "endgeneration");
  return n;
}

static jinja_node *jump(parser *p, jinja_node *n) {
  return p->loops > 0 ? n : fail(p, "break and continue belong inside a loop", (pu_str){0});
}

static const struct statement {
  const char *word;
  jinja_kind kind;
  jinja_node *(*parse)(parser *p, jinja_node *n);
} statements[] = {
    {"set", N_SET, set},
    {"for", N_FOR, loop},
    {"if", N_IF, condition},
    {"macro", N_MACRO, macro},
    {"call", N_CALL_BLOCK, call_block},
    {"filter", N_FILTER_BLOCK, filter_block},
    {"with", N_WITH, with},
    {"generation", N_SCOPE, generation},
    {"break", N_BREAK, jump},
    {"continue", N_CONTINUE, jump},
};

static jinja_node *statement(parser *p) {
  for (size_t i = 0; i < PU_COUNT(statements); i++) {
    if (!is_word(p, statements[i].word)) continue;
    jinja_node *n = node(p, statements[i].kind);
    take(p);
    return statements[i].parse(p, n);
  }
  return fail(p, "no chat template has the tag", seen(p));
}

static jinja_node *output(parser *p) {
  jinja_node *n = node(p, N_OUT);
  take(p);
  n->a = tuple(p, expression, NULL, false);
  want(p, T_VAR_END, "expected }} before");
  return n;
}

static jinja_node *text(parser *p) {
  jinja_node *n = node(p, N_TEXT);
  jinja_str *s = jinja_take(&p->t->mem, sizeof *s);
  if (!s) return fail(p, "the template is too large", (pu_str){0});
  *s = (jinja_str){.p = p->at->text.ptr, .n = p->at->text.len};
  n->value = (jinja_value){.type = J_STR, .s = s};
  take(p);
  return n;
}

/* Up to a tag that begins with one of the words, at which it stops (after the {%), or to the end. */
static jinja_node *body(parser *p, const char *const *ends) {
  kids k = {0};
  if (!enter(p)) return NULL;
  while (p->at->kind != T_END) {
    if (p->at->kind == T_DATA) {
      add(p, &k, text(p));
    } else if (p->at->kind == T_VAR_BEGIN) {
      add(p, &k, output(p));
    } else {
      want(p, T_BLOCK_BEGIN, "unexpected");
      size_t i = 0;
      while (ends && ends[i] && !is_word(p, ends[i])) i++;
      if (ends && ends[i]) break;
      add(p, &k, statement(p));
      want(p, T_BLOCK_END, "expected %} before");
    }
  }
  p->depth--;
  return k.first;
}

pu_err jinja_parse_tokens(pu_jinja *t, const jinja_token *tokens, pu_error *e) {
  parser p = {.t = t, .at = tokens, .e = e, .none = {.kind = N_CONST, .value = {.type = J_NONE}}};
  t->body = body(&p, NULL);
  return p.err;
}
