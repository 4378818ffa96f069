/* Templates: parsing once, rendering within bounds. */
#include <stdlib.h>
#include <string.h>

#include "src/text/jinja/jinja.h"

#define SOURCE_MAX ((size_t)1 << 20)

enum { BLOCK = 64 << 10, LARGE = BLOCK / 4, ALIGN = 16, INPUT_DEPTH = 100 };

void *jinja_take(jinja_mem *m, size_t n) {
  size_t bytes = (n + ALIGN - 1) & ~(size_t)(ALIGN - 1);
  if (bytes < n) return NULL;
  if (bytes > (size_t)(m->end - m->at)) {
    if (bytes > LARGE) return pu_arena_alloc(m->arena, bytes);
    char *block = pu_arena_alloc(m->arena, BLOCK);
    if (!block) return NULL;
    m->at = block;
    m->end = block + BLOCK;
  }
  void *p = m->at;
  m->at += bytes;
  return p;
}

/* ---- parsing ---- */

pu_err pu_jinja_parse(const char *name, pu_str source, pu_jinja **out, pu_error *e) {
  jinja_token *tokens = NULL;
  *out = NULL;
  if (source.len > SOURCE_MAX)
    return pu_fail(e, PU_ERR_FORMAT, "%s: a template of %zu bytes; at most %zu are read", name, source.len, SOURCE_MAX);
  pu_jinja *t = calloc(1, sizeof *t);
  if (!t) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for a template", name);
  /* Tokens and nodes together take at most some 250 bytes for a byte of source; address space costs nothing. */
  pu_err err = pu_arena_create(((size_t)1 << 20) + 300 * source.len, &t->mem.arena, e);
  if (!err && !(t->name = pu_arena_strdup(t->mem.arena, name))) err = pu_fail(e, PU_ERR_NOMEM, "%s: no memory", name);
  if (!err) err = jinja_lex(&t->mem, t->name, source, &tokens, e);
  if (!err) err = jinja_parse_tokens(t, tokens, e);
  if (err)
    pu_jinja_free(t);
  else
    *out = t;
  return err;
}

void pu_jinja_free(pu_jinja *t) {
  if (!t) return;
  pu_arena_free(t->mem.arena);
  free(t);
}

/* ---- errors and bounds ---- */

jinja_value jinja_fail(jinja *j, const char *fmt, ...) {
  jinja_value v = {.type = J_NONE};
  char text[520];
  if (j->err) return v;
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  j->err = pu_fail(j->e, PU_ERR_FORMAT, "%s:%d: %s", j->name, j->line, text);
  return v;
}

void jinja_spent(jinja *j, const char *what) {
  if (j->err) return;
  jinja_fail(j, "%s", what);
  j->err = PU_ERR_NOMEM;
}

bool jinja_step(jinja *j, size_t work) {
  if (j->err) return false;
  if (work >= j->steps_left) {
    jinja_spent(j, "the template takes too many steps");
    return false;
  }
  j->steps_left -= work;
  return true;
}

bool jinja_enter(jinja *j) {
  if (j->err) return false;
  if (j->depth >= j->max_depth) {
    jinja_spent(j, "the template nests too deeply");
    return false;
  }
  j->depth++;
  return true;
}

void jinja_leave(jinja *j) {
  j->depth--;
}

void *jinja_alloc(jinja *j, size_t n) {
  if (j->err) return NULL;
  void *p = jinja_take(&j->mem, n);
  if (!p) jinja_spent(j, "the template needs too much memory");
  return p;
}

/* ---- rendering ---- */

/* The longest string in v, for the marks that all input strings share. */
static size_t longest(const json_t *v, int depth) {
  size_t most = 0, i;
  const char *key;
  json_t *value, *o = (json_t *)(uintptr_t)v; /* jansson's iterators are not const */
  if (depth > INPUT_DEPTH) return 0;          /* refused later */
  if (json_is_string(v)) return json_string_length(v);
  if (json_is_array(v)) json_array_foreach(o, i, value) most = PU_MAX(most, longest(value, depth + 1));
  if (json_is_object(v)) {
    json_object_foreach(o, key, value) {
      most = PU_MAX(most, strlen(key));
      most = PU_MAX(most, longest(value, depth + 1));
    }
  }
  return most;
}

static void set_vars(jinja *j, const json_t *vars, bool input) {
  const char *key;
  json_t *value, *o = (json_t *)(uintptr_t)vars;
  json_object_foreach(o, key, value) jinja_set_var(j, pu_str_c(key), jinja_from_json(j, value, input));
}

static void prepare(jinja *j, const pu_jinja_input *in) {
  size_t n = longest(in->input, 0);
  j->ones = jinja_alloc(j, n + 1);
  j->scope = jinja_alloc(j, sizeof *j->scope);
  if (j->err) return;
  memset(j->ones, 1, n + 1);
  *j->scope = (jinja_scope){0};
  int depth = j->max_depth;
  j->max_depth = PU_MIN(depth, INPUT_DEPTH);
  set_vars(j, in->input, true);
  set_vars(j, in->trusted, false);
  j->max_depth = depth;
}

static size_t or_default(size_t v, size_t dflt) {
  return v ? v : dflt;
}

pu_err pu_jinja_render(const pu_jinja *t, const pu_jinja_input *in, pu_buf *text, pu_buf *origin, pu_error *e) {
  jinja j = {.name = t->name,
             .e = e,
             .line = 1,
             .steps_left = or_default(in->max_steps, (size_t)1 << 27),
             .max_depth = in->max_depth ? in->max_depth : 400,
             .now = in->now};
  PU_TRY(pu_arena_create(or_default(in->max_memory, (size_t)512 << 20), &j.mem.arena, e));
  size_t max = or_default(in->max_output, (size_t)64 << 20);
  pu_buf_init(&j.out, max);
  pu_buf_init(&j.from, max);
  prepare(&j, in);
  if (!j.err) jinja_run(&j, t->body);
  pu_err err = j.err;
  if (!err && (!pu_buf_reserve(text, j.out.len) || (origin && !pu_buf_reserve(origin, j.out.len))))
    err = pu_fail(e, PU_ERR_NOMEM, "%s: no memory for a text of %zu bytes", t->name, j.out.len);
  if (!err && j.out.len > 0) {
    pu_buf_append(text, j.out.data, j.out.len);
    if (origin) pu_buf_append(origin, j.from.data, j.out.len);
  }
  pu_buf_deinit(&j.out);
  pu_buf_deinit(&j.from);
  pu_arena_free(j.mem.arena);
  return err;
}
