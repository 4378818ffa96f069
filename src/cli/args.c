/* From words to options and arguments. */
#include "src/cli/cli.h"

#include <string.h>

static const pu_option no_options[] = {{0}};

/* Flags every command has. */
typedef struct common {
  bool help, quiet, verbose;
} common;
static const pu_option common_rows[] = {
    {.key = "help", .letter = 'h', .type = PU_OPT_BOOL, .offset = offsetof(common, help)},
    {.key = "quiet", .type = PU_OPT_BOOL, .offset = offsetof(common, quiet)},
    {.key = "verbose", .type = PU_OPT_BOOL, .offset = offsetof(common, verbose)},
    {0},
};

typedef struct parser {
  const pu_option *table, *config;
  void *out;
  common common;
  bool *given; /* by row: the first flag of a list replaces its default, later ones are appended */
  int n, at;
  char **words;
  pu_arena *arena;
  pu_error *e;
} parser;

/* A word taken apart: "--key=value", "--no-key", "-n", "-n5". */
typedef struct flag {
  const pu_option *row;
  void *out;         /* the struct the row belongs to */
  const char *value; /* NULL: none in the word */
  bool negated;
  char shown[80]; /* "--max-tokens", as the user wrote it */
} flag;

static const pu_option *find_row(const pu_option *table, const char *key, char letter) {
  for (const pu_option *row = table; row->key; row++) {
    if (row->type == PU_OPT_GROUP || row->type == PU_OPT_LIST) continue;
    if (key ? strcmp(row->key, key) == 0 : row->letter == letter) return row;
  }
  return NULL;
}

static void look_up(parser *p, flag *f, const char *key, char letter) {
  f->row = find_row(p->table, key, letter);
  f->out = p->out;
  if (f->row) return;
  f->row = find_row(common_rows, key, letter);
  f->out = &p->common;
}

static pu_err unknown_flag(parser *p, const flag *f, const char *key) {
  const char *near = key ? pu_options_nearest(p->table, key) : NULL;
  if (near) return pu_fail(p->e, PU_ERR_USAGE, "unknown flag '%s'; did you mean '--%s'?", f->shown, near);
  near = key && p->config ? pu_options_nearest(p->config, key) : NULL;
  if (near)
    return pu_fail(p->e, PU_ERR_USAGE, "unknown flag '%s'; a key of the configuration is given as %s=VALUE", f->shown,
                   near);
  return pu_fail(p->e, PU_ERR_USAGE, "unknown flag '%s'; --help lists the flags", f->shown);
}

static pu_err take_apart(parser *p, const char *word, flag *f) {
  *f = (flag){0};
  if (word[1] != '-') {
    snprintf(f->shown, sizeof f->shown, "-%c", word[1]);
    look_up(p, f, NULL, word[1]);
    if (!f->row) return unknown_flag(p, f, NULL);
    if (word[2]) f->value = word + 2 + (word[2] == '=');
    return PU_OK;
  }
  char key[64];
  size_t len = strcspn(word + 2, "=");
  snprintf(key, sizeof key, "%.*s", (int)PU_MIN(len, sizeof key - 1), word + 2);
  snprintf(f->shown, sizeof f->shown, "--%s", key);
  if (word[2 + len] == '=') f->value = word + 3 + len;
  look_up(p, f, key, 0);
  if (!f->row && strncmp(key, "no-", 3) == 0) {
    look_up(p, f, key + 3, 0);
    f->negated = f->row && f->row->type == PU_OPT_BOOL;
    if (!f->negated) f->row = NULL;
  }
  return f->row ? PU_OK : unknown_flag(p, f, key);
}

static pu_err read_flag(parser *p) {
  flag f;
  PU_TRY(take_apart(p, p->words[p->at++], &f));
  const char *value = f.value;
  if (f.negated && value) return pu_fail(p->e, PU_ERR_USAGE, "%s takes no value", f.shown);
  if (f.negated) value = "false";
  if (!value && f.row->type == PU_OPT_BOOL) value = "true";
  if (!value && p->at == p->n)
    return pu_fail(p->e, PU_ERR_USAGE, "%s needs a value: %s %s", f.shown, f.shown, pu_cli_meta(f.row));
  if (!value) value = p->words[p->at++];
  if (f.out == p->out && f.row->type == PU_OPT_STRS && !p->given[f.row - p->table])
    *(pu_strs *)(void *)((char *)p->out + f.row->offset) = (pu_strs){0};
  if (f.out == p->out) p->given[f.row - p->table] = true;
  return pu_options_set_text(f.out == p->out ? p->table : common_rows, f.out, f.row->key, value, f.shown, p->arena,
                             p->e);
}

static pu_err read_words(parser *p, pu_cli_line *out) {
  bool flags_over = false;
  while (p->at < p->n) {
    const char *word = p->words[p->at];
    if (flags_over || word[0] != '-' || word[1] == 0) {
      out->args[out->n_args++] = word; /* "-" too: standard input, to those who read files */
      p->at++;
    } else if (strcmp(word, "--") == 0) {
      flags_over = true;
      p->at++;
    } else {
      PU_TRY(read_flag(p));
    }
  }
  return PU_OK;
}

static pu_err check_count(const pu_command *c, const pu_cli_line *line, pu_error *e) {
  const char *usage = c->usage ? c->usage : "", *space = *usage ? " " : "";
  if (line->n_args < c->min_args)
    return pu_fail(e, PU_ERR_USAGE, "%s; usage: puyu %s%s%s", line->n_args ? "too few arguments" : "arguments missing",
                   c->name, space, usage);
  if (c->max_args >= 0 && line->n_args > c->max_args)
    return pu_fail(e, PU_ERR_USAGE, "'%.80s' is one argument too many; usage: puyu %s%s%s", line->args[c->max_args],
                   c->name, space, usage);
  return PU_OK;
}

static pu_err check_required(const pu_option *table, const pu_cli_line *line, pu_error *e) {
  for (const pu_option *row = table; row->key; row++) {
    pu_option one[2] = {*row, {0}};
    if (pu_options_check(one, line->options, "", e) != PU_OK)
      return pu_fail(e, PU_ERR_USAGE, "--%s %s is required: %s", row->key, pu_cli_meta(row), row->help);
  }
  return PU_OK;
}

pu_err pu_cli_parse(const pu_command *c, int n, char **words, pu_arena *a, pu_cli_line *out, pu_error *e) {
  const pu_option *table = c->options ? c->options : no_options;
  size_t rows = 0;
  while (table[rows].key) rows++;
  *out = (pu_cli_line){.options = pu_arena_zalloc(a, PU_MAX(c->options_size, 1)),
                       .args = pu_arena_alloc(a, ((size_t)n + 1) * sizeof *out->args)};
  parser p = {.table = table, .config = c->config, .out = out->options, .n = n, .words = words, .arena = a, .e = e};
  p.given = pu_arena_zalloc(a, rows + 1);
  if (!out->options || !out->args || !p.given) return pu_fail(e, PU_ERR_NOMEM, "no memory for %d arguments", n);
  out->given = p.given;
  PU_TRY(pu_options_default(table, out->options, a, e));
  pu_err err = read_words(&p, out);
  out->args[out->n_args] = NULL;
  out->help = p.common.help;
  if (out->help) return PU_OK; /* whatever else is wrong, help is the answer */
  PU_TRY(err);
  if (p.common.quiet) pu_log_set_level(PU_LOG_WARN);
  if (p.common.verbose) pu_log_set_level(PU_LOG_DEBUG);
  PU_TRY(check_count(c, out, e));
  return check_required(table, out, e);
}

pu_err pu_cli_read_config(const pu_option *table, void *out, const char *path, int n, const char **overrides,
                          pu_arena *a, pu_error *e) {
  PU_TRY(pu_options_default(table, out, a, e));
  if (path) PU_TRY(pu_options_read_yaml(table, out, path, a, e));
  for (int i = 0; i < n; i++) {
    const char *equals = strchr(overrides[i], '=');
    if (!equals) return pu_fail(e, PU_ERR_USAGE, "'%.100s' is not an override: write key=value", overrides[i]);
    char *key = pu_arena_strndup(a, overrides[i], (size_t)(equals - overrides[i]));
    if (!key) return pu_fail(e, PU_ERR_NOMEM, "no memory for '%.100s'", overrides[i]);
    PU_TRY(pu_options_set(table, out, key, equals + 1, key, a, e));
  }
  return pu_options_check(table, out, path ? path : "configuration", e);
}
