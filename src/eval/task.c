/* Tasks: YAML, built in or a user's; and the custom form of OpenCompass. */
#include <ctype.h>
#include <string.h>

#include "puyu/data.h"
#include "src/eval/internal.h"
#include "src/eval/texts.h"

const char *const pu_eval_rule_names[PU_EVAL_RULES] = {"sum", "char", "byte", "token", "sequence"};

const pu_option pu_eval_task_options[] = {
    PU_ROW(pu_eval_task, name, "name", STR, .help = "what it is called; else the file's name"),
    PU_ROW(pu_eval_task, about, "about", STR, .help = "one line"),
    PU_ROW(pu_eval_task, kind, "kind", ENUM, .dflt = "choice", .choices = "choice|generate|perplexity",
           .help = "options by likelihood, an answer that is generated, or the perplexity of a text"),
    PU_ROW(pu_eval_task, test, "test", STR, .meta = "FILE", .required = true,
           .help = "the questions, below the data folder; a * in the file's name is the subject"),
    PU_ROW(pu_eval_task, dev, "dev", STR, .meta = "FILE", .help = "the examples; a * is the same subject"),
    PU_ROW(pu_eval_task, columns, "columns", STRS, .meta = "NAME",
           .help = "names of columns of a table without any, or of the lines that make a record"),
    PU_ROW(pu_eval_task, titles, "titles", STRS, .meta = "SUBJECT=TITLE", .help = "what prompts call subjects"),
    PU_ROW(pu_eval_task, shots, "shots", INT, .dflt = "0", .max = 1000, .meta = "N",
           .help = "examples before each question"),
    PU_ROW(pu_eval_task, head, "head", STR, .dflt = "", .meta = "TEXT", .help = "before the examples, once"),
    PU_ROW(pu_eval_task, prompt, "prompt", STR, .dflt = "", .meta = "TEXT", .help = "the question"),
    PU_ROW(pu_eval_task, target, "target", STR, .meta = "TEXT",
           .help = "what follows an example's question; without it, the right option"),
    PU_ROW(pu_eval_task, between, "between", STR, .dflt = "\n\n", .meta = "TEXT", .help = "after an example"),
    PU_ROW(pu_eval_task, choices, "choices", STRS, .meta = "TEXT",
           .help = "options as they follow the prompt; one for all with choices_from"),
    PU_ROW(pu_eval_task, choices_from, "choices_from", STR, .meta = "FIELD",
           .help = "a field that is a list, such as question.choices: an option an entry"),
    PU_ROW(pu_eval_task, answer, "answer", STR, .meta = "TEXT",
           .help = "the right option's label (A, B, …) or number from 0; or the right answer"),
    PU_ROW(pu_eval_task, rule, "rule", ENUM, .dflt = "sum", .choices = "sum|char|byte|token|sequence",
           .help = "what options are compared by"),
    PU_ROW(pu_eval_task, extract, "extract", STRS, .meta = "RULE",
           .help = "letter, number, boxed, text, or a regular expression; the first that finds something counts"),
    PU_ROW(pu_eval_task, compare, "compare", ENUM, .dflt = "exact", .choices = "exact|number|math",
           .help = "when an answer is the right one"),
    PU_ROW(pu_eval_task, stop, "stop", STRS, .meta = "TEXT", .help = "texts that end an answer"),
    PU_ROW(pu_eval_task, max_tokens, "max_tokens", INT, .dflt = "256", .min = 1, .max = 1 << 20, .meta = "N",
           .help = "of an answer"),
    PU_ROW(pu_eval_task, window, "window", INT, .dflt = "2048", .min = 2, .max = 1 << 20, .meta = "N",
           .help = "perplexity: tokens told at a time, at most"),
    {0},
};

const char *pu_eval_task_at(size_t i) {
  return pu_eval_texts[i].name;
}

/* ---- checks ---- */

static pu_err check(const pu_eval_task *t, const char *name, pu_error *e) {
  PU_TRY(pu_options_check(pu_eval_task_options, t, name, e));
  if (!t->test || !t->test[0])
    return pu_fail(e, PU_ERR_USAGE, "%s: 'test' is missing: the file of the questions", name);
  if (t->kind != PU_EVAL_PERPLEXITY && !t->prompt[0])
    return pu_fail(e, PU_ERR_USAGE, "%s: 'prompt' is missing: how a question is put", name);
  if (t->kind != PU_EVAL_PERPLEXITY && !t->answer)
    return pu_fail(e, PU_ERR_USAGE, "%s: 'answer' is missing: where the right one stands", name);
  if (t->kind == PU_EVAL_CHOICE && t->choices.n < (t->choices_from ? 1 : 2))
    return pu_fail(e, PU_ERR_USAGE, "%s: 'choices' are missing: the options as they follow the prompt", name);
  if (t->kind == PU_EVAL_GENERATE && t->extract.n == 0)
    return pu_fail(e, PU_ERR_USAGE, "%s: 'extract' is missing: how a result is found in an answer", name);
  if (t->kind == PU_EVAL_GENERATE && t->shots > 0 && !t->target)
    return pu_fail(e, PU_ERR_USAGE, "%s: 'target' is missing: what follows an example's question", name);
  if (t->shots > 0 && !t->dev)
    return pu_fail(e, PU_ERR_USAGE, "%s: 'dev' is missing: where the %lld examples are", name, (long long)t->shots);
  return PU_OK;
}

/* Of the values as they are, not of how the file writes them. */
static pu_err finish(pu_eval_task *t, const char *name, pu_error *e) {
  pu_buf text;
  PU_TRY(check(t, name, e));
  pu_buf_init(&text, 1 << 22);
  pu_err err = pu_options_write_yaml(pu_eval_task_options, t, &text, e);
  if (!err) t->hash = pu_hash64(text.data, text.len, 0);
  pu_buf_deinit(&text);
  return err;
}

/* "tasks/my-set.yaml": "my-set". Of what may stand in a file's name. */
static const char *name_of(const char *path, pu_arena *a) {
  const char *slash = strrchr(path, '/'), *from = slash ? slash + 1 : path, *dot = strrchr(from, '.');
  char *name = pu_arena_strndup(a, from, dot && dot > from ? (size_t)(dot - from) : strlen(from));
  for (char *p = name; p && *p; p++)
    if (!isalnum((unsigned char)*p) && !strchr("-_.", *p)) *p = '_';
  return name;
}

pu_err pu_eval_task_parse(const char *name, pu_str text, pu_arena *a, pu_eval_task **out, pu_error *e) {
  pu_eval_task *t = pu_arena_zalloc(a, sizeof *t);
  if (!t) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for a task", name);
  PU_TRY(pu_options_default(pu_eval_task_options, t, a, e));
  PU_TRY(pu_options_parse_yaml(pu_eval_task_options, t, name, text, a, e));
  /* A key without a value. */
  if (!t->head) t->head = "";
  if (!t->prompt) t->prompt = "";
  if (!t->between) t->between = "";
  t->name = name_of(t->name ? t->name : name, a);
  if (!t->name) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for a task", name);
  *out = t;
  return finish(t, name, e);
}

static pu_err open_yaml(const char *path, pu_arena *a, pu_eval_task **out, pu_error *e) {
  enum { MOST = 1 << 20 };
  pu_buf text;
  pu_buf_init(&text, MOST);
  pu_err err = pu_file_read(path, MOST, &text, e);
  if (!err) err = pu_eval_task_parse(path, pu_str_of(text.data ? text.data : "", text.len), a, out, e);
  pu_buf_deinit(&text);
  return err;
}

/* ---- OpenCompass's custom sets ---- */

/* Its templates have {field}, ours {{ field }}. What is no field's name between braces stays as it is. */
static const char *braces_to_jinja(const char *s, pu_arena *a) {
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  while (*s) {
    size_t n = *s == '{' ? strspn(s + 1, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") : 0;
    if (n && s[n + 1] == '}') {
      pu_buf_printf(&b, "{{ %.*s }}", (int)n, s + 1);
      s += n + 2;
    } else {
      pu_buf_putc(&b, *s++);
    }
  }
  const char *text = pu_arena_strndup(a, b.data ? b.data : "", b.len);
  pu_buf_deinit(&b);
  return text;
}

typedef struct first_record {
  json_t *record;
} first_record;

static pu_err take_first(void *arg, uint64_t number, const json_t *record, pu_error *e) {
  first_record *f = arg;
  (void)number;
  f->record = json_deep_copy(record);
  return pu_fail(e, PU_ERR_STOPPED, "one is enough");
}

typedef struct custom {
  const char *path;
  const json_t *record, *meta; /* meta: may be NULL */
  size_t letters;              /* options are columns A, B, … */
  pu_arena *a;
} custom;

static const char *meta_text(const custom *c, const char *key, const char *otherwise) {
  const json_t *v = json_object_get(c->meta, key);
  return json_is_string(v) ? json_string_value(v) : otherwise;
}

static pu_err add_letters(const custom *c, pu_eval_task *t, const char *bot, pu_buf *prompt, pu_error *e) {
  char key[2] = "A";
  const char **v = pu_arena_alloc(c->a, c->letters * sizeof *v);
  if (!v) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory", c->path);
  const char *answer = strstr(bot, "{answer}");
  for (size_t i = 0; i < c->letters; i++) {
    key[0] = (char)('A' + i);
    pu_buf_printf(prompt, "\n%s. {%s}", key, key);
    v[i] = answer ? pu_arena_printf(c->a, "%.*s%s%s", (int)(answer - bot), bot, key, answer + strlen("{answer}"))
                  : pu_arena_strdup(c->a, key);
    if (v[i]) v[i] = braces_to_jinja(v[i], c->a);
    if (!v[i]) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory", c->path);
  }
  t->choices = (pu_strs){v, c->letters};
  return PU_OK;
}

static pu_err fill_custom(const custom *c, pu_eval_task *t, pu_error *e) {
  const char *type = meta_text(c, "data_type", c->letters >= 2 ? "mcq" : "qa"),
             *how = meta_text(c, "infer_method", "gen"), *output = meta_text(c, "output_column", "answer");
  bool mcq = strcmp(type, "mcq") == 0, ppl = strcmp(how, "ppl") == 0;
  static const char *extract_letter[] = {"letter"}, *extract_text[] = {"text"};
  if (!mcq && strcmp(type, "qa") != 0)
    return pu_fail(e, PU_ERR_FORMAT, "%s.meta.json: data_type '%.40s': it is mcq or qa", c->path, type);
  if (!ppl && strcmp(how, "gen") != 0)
    return pu_fail(e, PU_ERR_FORMAT, "%s.meta.json: infer_method '%.40s': it is gen or ppl", c->path, how);
  if (ppl && !mcq)
    return pu_fail(e, PU_ERR_FORMAT, "%s.meta.json: a qa set has no options to find the ppl of", c->path);
  if (mcq && c->letters < 2) return pu_fail(e, PU_ERR_FORMAT, "%s: an mcq set without columns A and B", c->path);
  if (!json_object_get(c->record, output))
    return pu_fail(e, PU_ERR_FORMAT, "%s: its records have no '%.60s'", c->path, output);
  pu_buf prompt;
  pu_buf_init(&prompt, 1 << 20);
  pu_buf_puts(&prompt, "{question}");
  pu_err err = mcq ? add_letters(c, t, meta_text(c, "bot_prompt", "{answer}"), &prompt, e) : PU_OK;
  t->prompt = braces_to_jinja(meta_text(c, "human_prompt", prompt.data), c->a);
  t->answer = pu_arena_printf(c->a, "{{ %s }}", output);
  pu_buf_deinit(&prompt);
  PU_TRY(err);
  if (ppl && t->prompt) t->prompt = pu_arena_printf(c->a, "%s\n", t->prompt);
  t->kind = ppl ? PU_EVAL_CHOICE : PU_EVAL_GENERATE;
  t->rule = PU_EVAL_SEQUENCE;
  t->extract = (pu_strs){mcq ? extract_letter : extract_text, 1};
  return t->prompt && t->answer ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "%s: no memory", c->path);
}

static pu_err read_meta(const char *path, pu_arena *a, json_t **out, pu_error *e) {
  const char *meta = pu_arena_printf(a, "%s.meta.json", path);
  *out = NULL;
  if (!meta) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory", path);
  if (!pu_path_exists(meta)) return PU_OK;
  PU_TRY(pu_json_read(meta, 1 << 20, out, e));
  if (json_is_object(*out)) return PU_OK;
  json_decref(*out);
  *out = NULL;
  return pu_fail(e, PU_ERR_FORMAT, "%s: not a JSON object", meta);
}

static pu_err open_custom(const char *path, pu_arena *a, pu_eval_task **out, pu_error *e) {
  first_record first = {0};
  json_t *meta;
  char key[2] = "A";
  pu_eval_task *t = pu_arena_zalloc(a, sizeof *t);
  if (!t) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for a task", path);
  PU_TRY(pu_options_default(pu_eval_task_options, t, a, e));
  pu_err err = pu_records_each(path, NULL, take_first, &first, e);
  if (err && err != PU_ERR_STOPPED) return err;
  if (!first.record) return pu_fail(e, PU_ERR_FORMAT, "%s: no records", path);
  custom c = {.path = path, .record = first.record, .a = a};
  for (; key[0] <= 'Z' && json_object_get(first.record, key); key[0]++) c.letters++;
  err = read_meta(path, a, &meta, e);
  c.meta = meta;
  if (!err) err = fill_custom(&c, t, e);
  const char *name = meta_text(&c, "abbr", path);
  t->name = name_of(name, a);
  t->test = pu_arena_strdup(a, path);
  json_decref(meta);
  json_decref(first.record);
  if (!err && (!t->name || !t->test)) err = pu_fail(e, PU_ERR_NOMEM, "%s: no memory", path);
  *out = t;
  return err ? err : finish(t, path, e);
}

/* ---- by name ---- */

static pu_err unknown(const char *what, pu_error *e) {
  char names[300] = "";
  const char *near = NULL;
  size_t best = PU_MAX((size_t)2, strlen(what) / 3) + 1, len = 0;
  for (size_t i = 0; pu_eval_texts[i].name; i++) {
    size_t d = pu_edit_distance(what, pu_eval_texts[i].name);
    len += (size_t)snprintf(names + len, sizeof names - len, "%s%s", i ? ", " : "", pu_eval_texts[i].name);
    len = PU_MIN(len, sizeof names - 1);
    if (d >= best) continue;
    best = d;
    near = pu_eval_texts[i].name;
  }
  if (near) return pu_fail(e, PU_ERR_USAGE, "unknown task '%.100s'; did you mean '%s'?", what, near);
  return pu_fail(e, PU_ERR_USAGE, "unknown task '%.100s'; there are %s, and your own as FILE.yaml, .jsonl or .csv",
                 what, names);
}

pu_err pu_eval_task_open(const char *what, pu_arena *a, pu_eval_task **out, pu_error *e) {
  static const char *const sets[] = {".jsonl", ".csv", ".tsv", ".json"};
  for (size_t i = 0; pu_eval_texts[i].name; i++)
    if (strcmp(what, pu_eval_texts[i].name) == 0)
      return pu_eval_task_parse(what, pu_str_of(pu_eval_texts[i].text, pu_eval_texts[i].len), a, out, e);
  if (pu_ends_with(what, ".yaml") || pu_ends_with(what, ".yml")) return open_yaml(what, a, out, e);
  for (size_t i = 0; i < PU_COUNT(sets); i++)
    if (pu_ends_with(what, sets[i])) return open_custom(what, a, out, e);
  return unknown(what, e);
}
