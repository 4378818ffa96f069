/* The insides of the template interpreter: source → tokens (lex.c) → tree (parse.c) → text (expr.c, stmt.c), over
 * values (value.c, print.c, string.c) and four tables of functions: filters, tests, methods, globals.
 *
 * Errors are sticky: the first one is kept in jinja.err, and from then on every function returns something harmless, so
 * only loops have to look (jinja_step). Memory never comes back as NULL for the same reason: see jinja_list_new.
 *
 * Origin. Every string knows for each byte whether it came from the input (messages, tools) or from the template. The
 * marks travel with the bytes through every operation, so the chat code can let special tokens in where the template
 * wrote them and nowhere else. */
#ifndef PUYU_TEXT_JINJA_H
#define PUYU_TEXT_JINJA_H

#include "puyu/text.h"

/* ---- memory: small blocks out of an arena ---- */

typedef struct jinja_mem {
  pu_arena *arena;
  char *at, *end;
} jinja_mem;
void *jinja_take(jinja_mem *m, size_t n); /* 16-byte aligned, not cleared; NULL: spent */

/* ---- values ---- */

typedef enum jinja_type {
  J_MISSING, /* an argument that was not given; never a template's value */
  J_UNDEFINED,
  J_NONE,
  J_BOOL,
  J_INT,
  J_FLOAT,
  J_STR,
  J_LIST,
  J_TUPLE,
  J_ITER, /* a generator: true, without a length, empty once walked */
  J_DICT,
  J_SPACE, /* namespace() */
  J_LOOP,
  J_FN
} jinja_type;

typedef struct jinja_str {
  const char *p;
  const uint8_t *from; /* NULL: all of it is the template's; else a byte each, 1: from the input */
  size_t n;
  bool markup; /* |safe: what is added to it gets escaped */
} jinja_str;

typedef struct jinja_value {
  jinja_type type;
  union {
    bool b;
    int64_t i;
    double f;
    const jinja_str *s; /* J_UNDEFINED: what to say when it is used */
    struct jinja_list *list;
    struct jinja_dict *dict; /* J_SPACE too */
    struct jinja_loop *loop;
    const struct jinja_callee *fn;
  };
} jinja_value;

typedef struct jinja_list {
  jinja_value *v;
  size_t n, cap;
} jinja_list;

typedef struct jinja_pair {
  jinja_value key, value;
} jinja_pair;

typedef struct jinja_dict { /* in order of insertion */
  jinja_pair *v;
  size_t n, cap;
} jinja_dict;

typedef struct jinja_args {
  const jinja_value *v;
  size_t n;
  const jinja_pair *kw; /* keys: J_STR */
  size_t n_kw;
} jinja_args;

/* ---- the tree ---- */

typedef enum jinja_kind {
  /* expressions */
  N_CONST,
  N_NAME,
  N_LIST,
  N_TUPLE,
  N_DICT,   /* kids: key, value, key, … */
  N_ATTR,   /* a.name */
  N_ITEM,   /* a[b] */
  N_SLICE,  /* as b of N_ITEM: a:b:c, each may be NULL */
  N_CALL,   /* a(kids) */
  N_FILTER, /* a|name(kids); a NULL: of a block's text */
  N_TEST,   /* a is name(kids) */
  N_NOT,
  N_NEG,
  N_POS,
  N_AND,
  N_OR,
  N_BINARY,  /* a op b */
  N_COMPARE, /* a, kids: N_ARG with op */
  N_CONCAT,  /* kids */
  N_COND,    /* b if a else c */
  N_ARG,     /* name=a, *a or **a by op, or plain */
  /* statements */
  N_TEXT,
  N_OUT,          /* {{ a }} */
  N_IF,           /* kids: N_BRANCH */
  N_BRANCH,       /* a: NULL for else; kids */
  N_FOR,          /* for a in b if c: kids; more: else */
  N_SET,          /* a = b */
  N_CAPTURE,      /* set a: kids, through the filters b */
  N_MACRO,        /* name(more: N_PARAM): kids */
  N_PARAM,        /* name=a */
  N_CALL_BLOCK,   /* call(more) a: kids */
  N_FILTER_BLOCK, /* a: the filters */
  N_WITH,         /* more: N_SET; kids */
  N_SCOPE,        /* generation */
  N_BREAK,
  N_CONTINUE
} jinja_kind;

typedef struct jinja_node {
  jinja_kind kind;
  uint16_t op;    /* JINJA_OP of the operator */
  bool recursive; /* N_FOR */
  int line;
  pu_str name;
  jinja_value value; /* N_CONST, N_TEXT */
  struct jinja_node *a, *b, *c, *kids, *more, *next;
} jinja_node;

#define JINJA_OP(a, b) ((uint16_t)((uint8_t)(a) << 8 | (uint8_t)(b)))
/* op of N_MACRO, N_CALL_BLOCK: does the body speak of these? */
enum { JINJA_USES_VARARGS = 1, JINJA_USES_KWARGS = 2 };
enum { JINJA_IN = JINJA_OP('i', 'n'), JINJA_NOT_IN = JINJA_OP('n', 'i') };

struct pu_jinja {
  jinja_mem mem;
  char *name;
  jinja_node *body;
};

/* ---- tokens ---- */

typedef enum jinja_token_kind {
  T_END,
  T_DATA,
  T_VAR_BEGIN,
  T_VAR_END,
  T_BLOCK_BEGIN,
  T_BLOCK_END,
  T_NAME,
  T_STR,
  T_INT,
  T_FLOAT,
  T_OP
} jinja_token_kind;

typedef struct jinja_token {
  jinja_token_kind kind;
  uint16_t op; /* T_OP: JINJA_OP(first, second or 0) */
  int line;
  pu_str text; /* T_STR: escapes already read */
} jinja_token;

/* Appends to *out, which lives in mem; ended by T_END. */
pu_err jinja_lex(jinja_mem *mem, const char *name, pu_str source, jinja_token **out, pu_error *e) PU_MUST_USE;
pu_err jinja_parse_tokens(pu_jinja *t, const jinja_token *tokens, pu_error *e) PU_MUST_USE;

/* ---- a rendering ---- */

typedef struct jinja_scope {
  struct jinja_scope *up;
  struct jinja_var {
    pu_str name;
    jinja_value value;
    struct jinja_var *next;
  } * vars;
} jinja_scope;

typedef struct jinja_loop {
  const jinja_value *v;
  size_t i, n;
  int depth0;
  const jinja_node *node; /* recursive loops: what loop(…) runs again */
  jinja_scope *scope;
  jinja_value changed; /* what loop.changed saw last */
} jinja_loop;

typedef struct jinja {
  jinja_mem mem;
  const char *name;
  pu_error *e;
  pu_err err;
  int line;
  size_t steps_left;
  int depth, max_depth;
  pu_buf out, from; /* what is written, a mark each; inner captures lie on top of outer ones */
  jinja_scope *scope;
  enum { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } flow;
  const struct tm *now; /* NULL: the clock */
  uint8_t *ones;        /* the marks of every input string */
  jinja_list no_list;   /* what is handed out when memory is spent */
  jinja_dict no_dict;
} jinja;

typedef jinja_value (*jinja_fn)(jinja *j, jinja_value self, const jinja_args *a);

/* A row of a table. params: names, in order, which arguments are bound to: then a->n is their number and what was not
 * given is J_MISSING. NULL: the function takes the arguments as they come. */
typedef struct jinja_row {
  const char *name;
  jinja_fn fn;
  const char *params;
  uint8_t need; /* how many of them must be given */
  uint8_t type; /* methods: of what (jinja_type) */
} jinja_row;

typedef struct jinja_callee {
  const jinja_row *row; /* NULL: a macro, or a recursive loop */
  jinja_value self;
  const jinja_node *macro;
  jinja_scope *scope;
  jinja_loop *loop;
} jinja_callee;

extern const jinja_row jinja_filters[], jinja_tests[], jinja_methods[], jinja_globals[]; /* ended by an empty row */

/* ---- jinja.c ---- */

jinja_value jinja_fail(jinja *j, const char *fmt, ...) PU_PRINTF(2, 3); /* undefined */
void jinja_spent(jinja *j, const char *what);                           /* a bound was reached */
bool jinja_step(jinja *j,
                size_t work); /* counts bytes or items of work; false: there was an error, or no steps are left */
bool jinja_enter(jinja *j);   /* one level deeper; false: too deep. Always followed by jinja_leave. */
void jinja_leave(jinja *j);
void *jinja_alloc(jinja *j, size_t n); /* NULL only after an error */

/* ---- value.c ---- */

static inline jinja_value jinja_bool(bool b) {
  return (jinja_value){.type = J_BOOL, .b = b};
}
static inline jinja_value jinja_int(int64_t i) {
  return (jinja_value){.type = J_INT, .i = i};
}
static inline jinja_value jinja_float(double f) {
  return (jinja_value){.type = J_FLOAT, .f = f};
}
static inline jinja_value jinja_none(void) {
  return (jinja_value){.type = J_NONE};
}
static inline bool jinja_given(jinja_value v) {
  return v.type != J_MISSING;
}
static inline bool jinja_is_seq(jinja_value v) {
  return v.type == J_LIST || v.type == J_TUPLE || v.type == J_ITER;
}
static inline jinja_value jinja_seq(jinja_type type, jinja_list *list) {
  return (jinja_value){.type = type, .list = list};
}
static inline jinja_value jinja_of_dict(jinja_dict *dict) {
  return (jinja_value){.type = J_DICT, .dict = dict};
}
jinja_value jinja_undefined(jinja *j, const char *fmt, ...) PU_PRINTF(2, 3);
jinja_value jinja_text(jinja *j, pu_str s, const uint8_t *from); /* s and from must stay */
jinja_value jinja_copy(jinja *j, pu_str s);                      /* a copy, the template's */
jinja_value jinja_sub(jinja *j, const jinja_str *s, size_t begin, size_t end);
jinja_list *jinja_list_new(jinja *j, size_t room);
void jinja_push(jinja *j, jinja_list *list, jinja_value v);
jinja_dict *jinja_dict_new(jinja *j, size_t room);
void jinja_put(jinja *j, jinja_dict *d, jinja_value key, jinja_value value);  /* replaces */
const jinja_value *jinja_get(jinja *j, const jinja_dict *d, jinja_value key); /* NULL: not there */
const jinja_value *jinja_get_c(jinja *j, const jinja_dict *d, const char *key);
jinja_value jinja_from_json(jinja *j, const json_t *v, bool input);

const char *jinja_type_name(jinja_value v); /* Python's */
bool jinja_truth(jinja_value v);
bool jinja_number(jinja_value v, double *out);   /* bool, int, float */
bool jinja_integer(jinja_value v, int64_t *out); /* bool, int */
bool jinja_equal(jinja *j, jinja_value a, jinja_value b);
int jinja_order(jinja *j, jinja_value a, jinja_value b); /* -1, 0, 1; fails where Python cannot compare */
bool jinja_contains(jinja *j, jinja_value where, jinja_value what);
/* The items of anything that can be walked: a list's own, a dict's keys, a string's characters. Fails otherwise. */
jinja_list *jinja_items(jinja *j, jinja_value v);
jinja_value jinja_sorted(jinja *j, const jinja_list *list, const jinja_list *keys, bool reverse);

/* ---- string.c: pieces of text put together, marks and all ---- */

typedef struct jinja_build {
  jinja *j;
  char *p;
  uint8_t *from;
  size_t n, cap;
  bool marked;
} jinja_build;
void jinja_add(jinja_build *b, const char *p, size_t n, const uint8_t *from);
void jinja_add_c(jinja_build *b, const char *s);
void jinja_add_str(jinja_build *b, const jinja_str *s);
void jinja_add_char(jinja_build *b, uint32_t cp, bool from);
jinja_value jinja_built(jinja_build *b);

size_t jinja_count_chars(jinja *j, const jinja_str *s);
size_t jinja_char_at(const jinja_str *s, size_t index); /* byte offset of character `index`, n past the end */
size_t jinja_find(const jinja_str *s, const jinja_str *what, size_t begin); /* SIZE_MAX: not there */
enum { JINJA_LEFT = 1, JINJA_RIGHT = 2 };
jinja_value jinja_strip(jinja *j, const jinja_str *s, const jinja_str *chars, int sides); /* chars NULL: white space */
jinja_value jinja_replace(jinja *j, const jinja_str *s, const jinja_str *old, const jinja_str *with, int64_t count);
jinja_value jinja_lower(jinja *j, const jinja_str *s);
jinja_value jinja_upper(jinja *j, const jinja_str *s);
jinja_value jinja_capitalize(jinja *j, const jinja_str *s);
jinja_value jinja_join(jinja *j, const jinja_list *items, const jinja_str *between);
jinja_value jinja_escape(jinja *j, const jinja_str *s);
jinja_value jinja_percent(jinja *j, const jinja_str *format, jinja_value args); /* format % args */
bool jinja_is_space(uint32_t cp);

/* ---- print.c ---- */

const jinja_str *jinja_str_of(jinja *j, jinja_value v); /* str(v) */
void jinja_repr(jinja_build *b, jinja_value v);
int jinja_float_text(char *dst, double v); /* as Python prints it; dst holds 40 bytes */
typedef struct jinja_json {
  bool ascii, sort;
  const jinja_str *indent, *item, *key; /* indent NULL: one line */
} jinja_json;
jinja_value jinja_to_json(jinja *j, jinja_value v, const jinja_json *how);

/* ---- expr.c ---- */

jinja_value jinja_eval(jinja *j, const jinja_node *n);
jinja_value jinja_call_row(jinja *j, const jinja_row *row, const char *kind, jinja_value self, const jinja_args *a);
jinja_value jinja_call(jinja *j, jinja_value fn, const jinja_args *a);
jinja_value jinja_apply_filters(jinja *j, const jinja_node *filters, jinja_value v);
jinja_value jinja_filter_by_name(jinja *j, pu_str name, jinja_value v, const jinja_args *a);
bool jinja_test_by_name(jinja *j, pu_str name, jinja_value v, const jinja_args *a);
jinja_value jinja_attr(jinja *j, jinja_value v, pu_str name);      /* v.name: a method before a key */
jinja_value jinja_item(jinja *j, jinja_value v, jinja_value key);  /* v[key]: a key before a method */
jinja_value jinja_path(jinja *j, jinja_value v, jinja_value path); /* "a.b.0", as filters' attribute= takes it */
jinja_value jinja_binary(jinja *j, uint16_t op, jinja_value a, jinja_value b);
const jinja_row *jinja_find_row(const jinja_row *rows, pu_str name);

/* ---- stmt.c ---- */

void jinja_run(jinja *j, const jinja_node *body);
jinja_value jinja_call_macro(jinja *j, const jinja_callee *fn, const jinja_args *a);
jinja_value jinja_call_loop(jinja *j, const jinja_callee *fn, const jinja_args *a);
jinja_value jinja_loop_attr(jinja *j, jinja_loop *loop, pu_str name);
void jinja_set_var(jinja *j, pu_str name, jinja_value v);

#endif
