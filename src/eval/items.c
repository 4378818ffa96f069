/* Questions of a task: records of its files, rendered. */
#include <stdlib.h>
#include <string.h>

#include "puyu/data.h"
#include "src/eval/internal.h"

enum { MOST_OPTIONS = 26, MOST_TEXT = 16 << 20 };
static const size_t MOST_MEMORY = (size_t)16 << 30; /* of address space */

typedef enum slot { HEAD, PROMPT, TARGET, ANSWER, SLOTS } slot;

typedef struct making {
  const pu_eval_task *t;
  const pu_eval_options *o;
  eval_items *items;
  pu_jinja *templates[SLOTS], **choices; /* NULL where the task has none */
  pu_buf text;
  const char *path;
  eval_subject *subject;
  const char *title;
  json_t *vars; /* of the record: lent */
  int64_t shots, count;
  bool of_dev;
} making;

/* ---- templates ---- */

/* Jinja drops a line end at the end of a template. */
static pu_err parse_one(const pu_eval_task *t, const char *key, const char *source, pu_jinja **out, pu_error *e) {
  char name[200];
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  snprintf(name, sizeof name, "%s: %s", t->name, key);
  pu_buf_puts(&b, source);
  if (pu_ends_with(source, "\n")) pu_buf_puts(&b, "{{ '' }}");
  pu_err err = pu_jinja_parse(name, pu_str_of(b.data ? b.data : "", b.len), out, e);
  pu_buf_deinit(&b);
  return err;
}

static pu_err parse_all(making *m, pu_error *e) {
  const pu_eval_task *t = m->t;
  const char *const sources[SLOTS] = {t->head, t->prompt[0] ? t->prompt : "{{ text }}", t->target, t->answer};
  static const char *const keys[SLOTS] = {"head", "prompt", "target", "answer"};
  for (int i = 0; i < SLOTS; i++)
    if (sources[i]) PU_TRY(parse_one(t, keys[i], sources[i], &m->templates[i], e));
  m->choices = calloc(t->choices.n + 1, sizeof *m->choices);
  if (!m->choices) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory", t->name);
  for (size_t i = 0; i < t->choices.n; i++) PU_TRY(parse_one(t, "choices", t->choices.v[i], &m->choices[i], e));
  return PU_OK;
}

static pu_err render(making *m, const pu_jinja *template, const json_t *vars, pu_str *out, pu_error *e) {
  pu_jinja_input in = {.input = vars, .max_output = MOST_TEXT, .max_steps = (size_t)1 << 26};
  pu_buf_clear(&m->text);
  PU_TRY(pu_jinja_render(template, &in, &m->text, NULL, e));
  char *copy = pu_arena_strndup(m->items->arena, m->text.data ? m->text.data : "", m->text.len);
  if (!copy) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the questions", m->t->name);
  *out = pu_str_of(copy, m->text.len);
  return PU_OK;
}

/* ---- options ---- */

static const json_t *field(const json_t *record, const char *path) {
  char key[100];
  for (const char *dot; record && path; path = dot ? dot + 1 : NULL) {
    dot = strchr(path, '.');
    snprintf(key, sizeof key, "%.*s", dot ? (int)(dot - path) : (int)strlen(path), path);
    record = json_object_get(record, key);
  }
  return record;
}

/* What the entry of a list says that it is called: ARC's "label". */
static void label_of(const json_t *entry, size_t i, char label[16]) {
  const char *own = json_string_value(json_object_get(entry, "label"));
  snprintf(label, 16, "%s", own ? own : (char[]){(char)('A' + i), 0});
}

static pu_err count_options(const making *m, const json_t *list, size_t *n, pu_error *e) {
  *n = m->t->choices_from ? json_array_size(list) : m->t->choices.n;
  if (*n >= 2 && *n <= MOST_OPTIONS) return PU_OK;
  if (m->t->choices_from && !json_is_array(list))
    return pu_fail(e, PU_ERR_FORMAT, "'%s' is no list of options", m->t->choices_from);
  return pu_fail(e, PU_ERR_FORMAT, "%zu options; there may be from 2 to %d", *n, MOST_OPTIONS);
}

static pu_err make_options(making *m, eval_item *it, char (*labels)[16], pu_error *e) {
  const json_t *list = m->t->choices_from ? field(m->vars, m->t->choices_from) : NULL;
  PU_TRY(count_options(m, list, &it->n_options, e));
  it->options = pu_arena_alloc(m->items->arena, it->n_options * sizeof *it->options);
  if (!it->options) return pu_fail(e, PU_ERR_NOMEM, "no memory for the questions");
  for (size_t i = 0; i < it->n_options; i++) {
    json_t *entry = json_array_get(list, i);
    label_of(entry, i, labels[i]);
    json_object_set_new(m->vars, "label", json_string(labels[i]));
    json_object_set_new(m->vars, "index", json_integer((json_int_t)i));
    if (entry) json_object_set(m->vars, "choice", entry);
    PU_TRY(render(m, m->choices[list ? 0 : i], m->vars, &it->options[i], e));
    if (it->options[i].len == 0) return pu_fail(e, PU_ERR_FORMAT, "option %s is empty", labels[i]);
  }
  return PU_OK;
}

/* By label, else as a number from 0. */
static pu_err find_right(eval_item *it, char (*labels)[16], pu_error *e) {
  char *end;
  for (size_t i = 0; i < it->n_options; i++)
    if (pu_str_eq(it->answer, pu_str_c(labels[i]))) it->right = (int64_t)i;
  if (it->right >= 0) return PU_OK;
  long n = strtol(it->answer.ptr, &end, 10); /* it ends with a NUL */
  if (it->answer.len && *end == 0 && n >= 0 && (size_t)n < it->n_options) it->right = n;
  if (it->right >= 0) return PU_OK;
  return pu_fail(e, PU_ERR_FORMAT, "the answer '%.40s' is none of the %zu options", it->answer.ptr, it->n_options);
}

/* ---- records ---- */

static pu_err make_item(making *m, eval_item *it, pu_error *e) {
  char labels[MOST_OPTIONS][16];
  PU_TRY(render(m, m->templates[PROMPT], m->vars, &it->question, e));
  if (m->t->kind == PU_EVAL_PERPLEXITY) return PU_OK;
  PU_TRY(render(m, m->templates[ANSWER], m->vars, &it->answer, e));
  pu_str bare = eval_trimmed(it->answer);
  char *copy = pu_arena_strndup(m->items->arena, bare.ptr, bare.len);
  if (!copy) return pu_fail(e, PU_ERR_NOMEM, "no memory for the questions");
  it->answer = pu_str_of(copy, bare.len);
  if (m->t->kind != PU_EVAL_CHOICE) return PU_OK;
  PU_TRY(make_options(m, it, labels, e));
  return find_right(it, labels, e);
}

/* An example as it stands before a question. */
static pu_err make_shot(making *m, eval_item *it, pu_error *e) {
  pu_str target = {0};
  if (m->templates[TARGET])
    PU_TRY(render(m, m->templates[TARGET], m->vars, &target, e));
  else
    target = it->options[it->right];
  size_t between = strlen(m->t->between), len = it->question.len + target.len + between;
  char *text = pu_arena_alloc(m->items->arena, len + 1);
  if (!text) return pu_fail(e, PU_ERR_NOMEM, "no memory for the examples");
  memcpy(text, it->question.ptr, it->question.len);
  if (target.len) memcpy(text + it->question.len, target.ptr, target.len);
  memcpy(text + len - between, m->t->between, between);
  m->subject->shots[m->subject->n_shots++] = pu_str_of(text, len);
  return PU_OK;
}

static pu_err keep_item(making *m, const eval_item *it, pu_error *e) {
  eval_items *items = m->items;
  if (items->n == items->cap) {
    size_t cap = items->cap ? 2 * items->cap : 256;
    eval_item *v = realloc(items->v, cap * sizeof *v);
    if (!v) return pu_fail(e, PU_ERR_NOMEM, "no memory for the questions");
    items->v = v;
    items->cap = cap;
  }
  items->v[items->n++] = *it;
  return PU_OK;
}

static pu_err set_subject(const making *m, json_t *vars) {
  return json_object_set_new(vars, "subject", json_string(m->subject->name)) ||
                 json_object_set_new(vars, "title", json_string(m->title))
             ? PU_ERR_NOMEM
             : PU_OK;
}

static pu_err take_record(void *arg, uint64_t number, const json_t *record, pu_error *e) {
  making *m = arg;
  int64_t most = m->of_dev ? m->shots : m->o->limit;
  if ((m->of_dev || most) && m->count >= most) return pu_fail(e, PU_ERR_STOPPED, "these are enough");
  eval_item it = {.subject = m->subject, .index = m->count++, .number = number, .right = -1};
  m->vars = json_copy((json_t *)record);
  pu_err err = m->vars ? set_subject(m, m->vars) : PU_ERR_NOMEM;
  if (err) err = pu_fail(e, err, "no memory for a record");
  if (!err) err = make_item(m, &it, e);
  if (!err) err = m->of_dev ? make_shot(m, &it, e) : keep_item(m, &it, e);
  json_decref(m->vars);
  return err ? pu_fail_in(e, err, "%s:%llu", m->path, (unsigned long long)number) : PU_OK;
}

static pu_err read_records(making *m, const char *path, bool of_dev, pu_error *e) {
  m->path = path;
  m->of_dev = of_dev;
  m->count = 0;
  pu_err err = pu_records_each(path, &m->t->columns, take_record, m, e);
  if (err && err != PU_ERR_STOPPED) return err;
  return m->count ? PU_OK : pu_fail(e, PU_ERR_FORMAT, "%s: no records", path);
}

/* ---- files ---- */

static const char *below(const making *m, const char *path, pu_error *e) {
  const char *full = path[0] == '/' || !m->o->data ? path : pu_path_join(m->items->arena, m->o->data, path);
  if (!full) (void)pu_fail(e, PU_ERR_NOMEM, "%s: no memory", m->t->name);
  return full;
}

static const char *with_star(pu_arena *a, const char *pattern, const char *stands) {
  const char *star = strchr(pattern, '*');
  return star ? pu_arena_printf(a, "%.*s%s%s", (int)(star - pattern), pattern, stands, star + 1) : pattern;
}

static const char *title_of(const making *m, const char *subject) {
  size_t n = strlen(subject);
  for (size_t i = 0; i < m->t->titles.n; i++)
    if (strncmp(m->t->titles.v[i], subject, n) == 0 && m->t->titles.v[i][n] == '=') return m->t->titles.v[i] + n + 1;
  char *title = pu_arena_strdup(m->items->arena, subject);
  for (char *p = title; p && *p; p++)
    if (*p == '_') *p = ' ';
  return title;
}

static pu_err make_head(making *m, pu_error *e) {
  json_t *vars = json_object();
  pu_err err = vars ? set_subject(m, vars) : PU_ERR_NOMEM;
  if (err) err = pu_fail(e, err, "%s: no memory", m->t->name);
  if (!err) err = render(m, m->templates[HEAD], vars, &m->subject->head, e);
  json_decref(vars);
  return err;
}

static pu_err read_subject(making *m, const char *name, const char *test, pu_error *e) {
  pu_arena *a = m->items->arena;
  eval_subject *s = m->subject = pu_arena_zalloc(a, sizeof *s);
  if (s) s->name = pu_arena_strdup(a, name);
  m->title = s && s->name ? title_of(m, s->name) : NULL;
  if (s) s->shots = pu_arena_zalloc(a, (size_t)(m->shots + 1) * sizeof *s->shots);
  if (!m->title || !s->shots) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory", m->t->name);
  PU_TRY(make_head(m, e));
  if (m->shots > 0) {
    const char *dev = below(m, m->t->dev, e);
    if (dev) dev = with_star(a, dev, name);
    if (!dev) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory", m->t->name);
    PU_TRY(read_records(m, dev, true, e));
  }
  s->before = pu_hash64(s->head.ptr, s->head.len, 1);
  for (int64_t i = 0; i < s->n_shots; i++) s->before = pu_hash64(s->shots[i].ptr, s->shots[i].len, s->before);
  return read_records(m, test, false, e);
}

/* A file for each name that fits the pattern, in the order of the names. */
static pu_err read_subjects(making *m, const char *pattern, pu_error *e) {
  const char *slash = strrchr(pattern, '/'), *name = slash ? slash + 1 : pattern, *star = strchr(name, '*');
  pu_arena *a = m->items->arena;
  const char *dir = slash ? pu_arena_strndup(a, pattern, (size_t)(slash - pattern)) : ".";
  char **names;
  size_t n, found = 0, before = star ? (size_t)(star - name) : 0;
  if (!star) return read_subject(m, "", pattern, e);
  if (!dir) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory", m->t->name);
  PU_TRY(pu_dir_list(a, dir, &names, &n, e));
  for (size_t i = 0; i < n; i++) {
    size_t len = strlen(names[i]), behind = strlen(star + 1);
    bool fits = len >= before + behind && memcmp(names[i], name, before) == 0 && pu_ends_with(names[i], star + 1);
    const char *path = fits ? pu_path_join(a, dir, names[i]) : NULL;
    const char *subject = fits ? pu_arena_strndup(a, names[i] + before, len - before - behind) : NULL;
    if (!fits) continue;
    if (!path || !subject) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory", m->t->name);
    PU_TRY(read_subject(m, subject, path, e));
    found++;
  }
  return found ? PU_OK : pu_fail(e, PU_ERR_IO, "%s: no such files", pattern);
}

/* Of a pattern, its folder has to be there. */
static pu_err need_data(const making *m, const char *test, pu_error *e) {
  const char *slash = strchr(test, '*') ? strrchr(test, '/') : test + strlen(test);
  const char *path = slash ? pu_arena_strndup(m->items->arena, test, (size_t)(slash - test)) : ".";
  if (!path) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory", m->t->name);
  if (pu_path_exists(path)) return PU_OK;
  if (!m->o->data && test[0] != '/')
    return pu_fail(e, PU_ERR_IO, "%s: %s is not here: --data says where the sets are", m->t->name, path);
  return pu_fail(e, PU_ERR_IO, "%s: %s is missing", m->t->name, path);
}

pu_err eval_items_read(const pu_eval_task *t, const pu_eval_options *o, eval_items *out, pu_error *e) {
  making m = {.t = t, .o = o, .items = out, .shots = o->shots >= 0 ? o->shots : t->shots};
  *out = (eval_items){0};
  if (m.shots > 0 && (!t->dev || (t->kind == PU_EVAL_GENERATE && !t->target)))
    return pu_fail(e, PU_ERR_USAGE, "%s: it has no examples to show before a question", t->name);
  PU_TRY(pu_arena_create(MOST_MEMORY, &out->arena, e));
  pu_buf_init(&m.text, MOST_TEXT);
  const char *test = below(&m, t->test, e);
  pu_err err = test ? need_data(&m, test, e) : PU_ERR_NOMEM;
  if (!err) err = parse_all(&m, e);
  if (!err) err = read_subjects(&m, test, e);
  for (int i = 0; i < SLOTS; i++) pu_jinja_free(m.templates[i]);
  for (size_t i = 0; m.choices && i < t->choices.n; i++) pu_jinja_free(m.choices[i]);
  free(m.choices);
  pu_buf_deinit(&m.text);
  return err;
}

void eval_items_free(eval_items *items) {
  free(items->v);
  pu_arena_free(items->arena);
  *items = (eval_items){0};
}
