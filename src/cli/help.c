/* --help, from the tables. */
#include "src/cli/cli.h"

#include <ctype.h>
#include <string.h>

enum { WIDTH = 80, NAME_COLUMN = 2, HELP_COLUMN = 28 };

const char *pu_cli_meta(const pu_option *row) {
  static const char *const by_type[] = {[PU_OPT_BOOL] = "",     [PU_OPT_INT] = "N",     [PU_OPT_FLOAT] = "X",
                                        [PU_OPT_STR] = "TEXT",  [PU_OPT_ENUM] = "",     [PU_OPT_FLOATS] = "X,X",
                                        [PU_OPT_STRS] = "TEXT", [PU_OPT_LIST] = "LIST", [PU_OPT_GROUP] = ""};
  if (row->meta) return row->meta;
  return row->type == PU_OPT_ENUM ? row->choices : by_type[row->type];
}

static bool on_by_default(const pu_option *row) {
  return row->type == PU_OPT_BOOL && row->dflt && strchr("ty", row->dflt[0]);
}

const char *pu_cli_dashes(const pu_option *row) {
  return on_by_default(row) ? "--[no-]" : "--";
}

void pu_cli_describe(const pu_option *row, char *dst, size_t size) {
  char extra[160] = "", min[32], max[32];
  size_t n = 0;
  bool number = row->type == PU_OPT_INT || row->type == PU_OPT_FLOAT || row->type == PU_OPT_FLOATS;
  pu_format_double(min, row->min);
  pu_format_double(max, row->max);
  bool at_least = row->max < row->min || row->max >= 1e9; /* such a maximum is no news to anybody */
  if (number && (row->min != 0 || row->max != 0))
    n = (size_t)(at_least ? snprintf(extra, sizeof extra, "at least %s", min)
                          : snprintf(extra, sizeof extra, "%s..%s", min, max));
  if (row->required) n += (size_t)snprintf(extra + n, sizeof extra - n, "%srequired", n ? ", " : "");
  if (on_by_default(row)) n += (size_t)snprintf(extra + n, sizeof extra - n, "default on");
  if (row->dflt && row->type != PU_OPT_BOOL)
    n += (size_t)snprintf(extra + n, sizeof extra - n, "%sdefault %.80s", n ? ", " : "", row->dflt);
  if (row->type == PU_OPT_STRS) snprintf(extra + n, sizeof extra - n, "%smay be repeated", n ? ", " : "");
  snprintf(dst, size, "%s%s%s%s", row->help ? row->help : "", extra[0] ? " (" : "", extra, extra[0] ? ")" : "");
}

/* Breaks text at spaces; the cursor stands at `column`, further lines begin at `indent`. */
static void put_wrapped(FILE *out, const char *text, int column, int indent) {
  for (const char *word = text; *word;) {
    int len = (int)strcspn(word, " ");
    if (column > indent && column + 1 + len > WIDTH) {
      fprintf(out, "\n%*s", indent, "");
      column = indent;
    } else if (word != text) {
      fputc(' ', out);
      column++;
    }
    fprintf(out, "%.*s", len, word);
    column += len;
    word += len + (word[len] == ' ');
  }
  fputc('\n', out);
}

/* "  name        text", with the text on its own line where the name is long. */
static void put_entry(FILE *out, const char *name, const char *text) {
  int used = fprintf(out, "%*s%s", NAME_COLUMN, "", name);
  if (used + 2 > HELP_COLUMN) {
    fputc('\n', out);
    used = 0;
  }
  fprintf(out, "%*s", HELP_COLUMN - used, "");
  put_wrapped(out, text, HELP_COLUMN, HELP_COLUMN);
}

static void put_option(FILE *out, const pu_option *row, bool flags) {
  char name[160], letter[8] = "", text[700];
  if (row->letter) snprintf(letter, sizeof letter, "-%c, ", row->letter);
  const char *meta = pu_cli_meta(row);
  if (flags)
    snprintf(name, sizeof name, "%s%s%s%s%s", letter, pu_cli_dashes(row), row->key, *meta ? " " : "", meta);
  else
    snprintf(name, sizeof name, "%s: %s", row->key, row->type == PU_OPT_BOOL ? "true|false" : meta);
  pu_cli_describe(row, text, sizeof text);
  put_entry(out, name, text);
}

static void put_table(FILE *out, const pu_option *table, const char *heading, bool flags) {
  if (table->key && table->type != PU_OPT_GROUP) fprintf(out, "\n%s:\n", heading);
  for (const pu_option *row = table; row->key; row++) {
    const char *title = row->help ? row->help : row->key;
    if (row->type == PU_OPT_GROUP)
      fprintf(out, "\n%c%s:\n", toupper((unsigned char)title[0]), title + 1);
    else if (!flags || row->type != PU_OPT_LIST)
      put_option(out, row, flags);
  }
}

/* The tables of a configuration's lists, after the table itself. */
static void put_lists(FILE *out, const pu_option *table) {
  for (const pu_option *row = table; row->key; row++) {
    if (row->type != PU_OPT_LIST) continue;
    char heading[160];
    snprintf(heading, sizeof heading, "Each item of %s", row->key);
    put_table(out, row->sub, heading, false);
    put_lists(out, row->sub);
  }
}

/* Paragraphs are filled; one with an indented line, an example, stays as it is. */
static void put_paragraphs(FILE *out, const char *text) {
  pu_buf line;
  pu_buf_init(&line, 1 << 16);
  for (const char *p = text; *p;) {
    const char *end = strstr(p, "\n\n");
    size_t len = end ? (size_t)(end - p) : strlen(p);
    pu_buf_clear(&line);
    pu_buf_append(&line, p, len);
    p += len;
    while (*p == '\n') p++;
    while (line.len > 0 && line.data[line.len - 1] == '\n') line.data[--line.len] = 0;
    if (line.len == 0) continue;
    fputc('\n', out);
    if (line.data[0] == ' ' || strstr(line.data, "\n ")) {
      fprintf(out, "%s\n", line.data);
      continue;
    }
    for (char *c = line.data; *c; c++)
      if (*c == '\n') *c = ' ';
    put_wrapped(out, line.data, 0, 0);
  }
  pu_buf_deinit(&line);
}

void pu_cli_details(const pu_command *c, pu_buf *b) {
  if (c->details) pu_buf_puts(b, c->details);
  if (c->details && c->more) pu_buf_puts(b, "\n\n");
  if (c->more) c->more(b);
}

void pu_cli_print_help(FILE *out, const pu_command *c) {
  fprintf(out, "usage: puyu %s%s%s\n\n%c%s.\n", c->name, c->usage && *c->usage ? " " : "", c->usage ? c->usage : "",
          toupper((unsigned char)c->summary[0]), c->summary + 1);
  pu_buf details;
  pu_buf_init(&details, 1 << 20);
  pu_cli_details(c, &details);
  if (details.len) put_paragraphs(out, details.data);
  pu_buf_deinit(&details);
  if (c->options) put_table(out, c->options, "Options", true);
  if (c->config) {
    fprintf(out, "\nKeys of the configuration file, also given as key=value:\n");
    put_table(out, c->config, "General", false);
    put_lists(out, c->config);
  }
  fprintf(out, "\nAlways: --help, --quiet (warnings only), --verbose.\n");
}

void pu_cli_print_overview(FILE *out, const char *group) {
  size_t n = group ? strlen(group) : 0;
  fprintf(out, "usage: puyu %s%s%s [arguments] [--flags]\n\n", group ? group : "", group ? " " : "", "COMMAND");
  if (!group) fprintf(out, "The whole chain of building with a large language model.\n\nCommands:\n");
  for (size_t i = 0; pu_command_all[i]; i++) {
    const pu_command *c = pu_command_all[i];
    if (group && (strncmp(c->name, group, n) != 0 || c->name[n] != ' ')) continue;
    char summary[200];
    snprintf(summary, sizeof summary, "%c%s", toupper((unsigned char)c->summary[0]), c->summary + 1);
    put_entry(out, c->name, summary);
  }
  fprintf(out, "\n`puyu COMMAND --help` tells more about one.%s\n", group ? "" : " `puyu demo` runs the whole chain.");
}
