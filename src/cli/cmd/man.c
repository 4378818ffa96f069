/* Man pages from the commands' tables. */
#include "src/cli/cli.h"

#include <string.h>

typedef struct options {
  const char *into;
} options;

static const pu_option rows[] = {
    PU_ROW(options, into, "into", STR, .meta = "DIR",
           .help = "write every page into that folder, as puyu.1, puyu-train.1 and so on"),
    {0},
};

/* Text as roff: hyphens that can be copied, backslashes, and no line that begins like a request. */
static void put_bytes(pu_buf *b, const char *s, size_t len) {
  for (const char *end = s + len; s < end; s++) {
    bool line_start = b->len == 0 || b->data[b->len - 1] == '\n';
    if (line_start && (*s == '.' || *s == '\'')) pu_buf_puts(b, "\\&");
    if (*s == '\\')
      pu_buf_puts(b, "\\e");
    else if (*s == '-')
      pu_buf_puts(b, "\\-");
    else
      pu_buf_putc(b, *s);
  }
}

static void put(pu_buf *b, const char *s) {
  put_bytes(b, s, strlen(s));
}

static void put_request(pu_buf *b, const char *request, const char *text) {
  pu_buf_printf(b, ".%s ", request);
  put(b, text);
  pu_buf_putc(b, '\n');
}

/* Paragraphs; indented lines stay as they are. */
static void put_details(pu_buf *b, const char *text) {
  bool verbatim = false;
  for (const char *p = text; *p;) {
    size_t len = strcspn(p, "\n");
    bool indented = *p == ' ' && len > 0;
    if (indented != verbatim && len > 0) {
      pu_buf_puts(b, indented ? ".nf\n" : ".fi\n");
      verbatim = indented;
    }
    if (len == 0) pu_buf_puts(b, ".PP");
    put_bytes(b, p, len);
    pu_buf_putc(b, '\n');
    p += len + (p[len] == '\n');
  }
  if (verbatim) pu_buf_puts(b, ".fi\n");
}

static void put_row(pu_buf *b, const pu_option *row, bool flags) {
  char text[700];
  const char *meta = pu_cli_meta(row);
  pu_buf_puts(b, ".TP\n");
  if (flags && row->letter) pu_buf_printf(b, "\\fB\\-%c\\fR, ", row->letter);
  pu_buf_puts(b, "\\fB");
  if (flags) put(b, pu_cli_dashes(row));
  put(b, row->key);
  pu_buf_puts(b, "\\fR");
  if (*meta) {
    pu_buf_puts(b, " \\fI");
    put(b, meta);
    pu_buf_puts(b, "\\fR");
  }
  pu_buf_putc(b, '\n');
  pu_cli_describe(row, text, sizeof text);
  put(b, text);
  pu_buf_putc(b, '\n');
}

static void put_table(pu_buf *b, const pu_option *table, bool flags) {
  for (const pu_option *row = table; row->key; row++) {
    if (row->type == PU_OPT_GROUP)
      put_request(b, "SS", row->help ? row->help : row->key);
    else if (!flags || row->type != PU_OPT_LIST)
      put_row(b, row, flags);
  }
  for (const pu_option *row = table; row->key && !flags; row++) {
    if (row->type != PU_OPT_LIST) continue;
    pu_buf_puts(b, ".SS Each item of ");
    put(b, row->key);
    pu_buf_putc(b, '\n');
    put_table(b, row->sub, false);
  }
}

static void put_title(pu_buf *b, const char *name, const char *summary) {
  pu_buf_puts(b, ".TH \"");
  for (const char *p = name; *p; p++) pu_buf_putc(b, (char)(*p >= 'a' && *p <= 'z' ? *p - 32 : *p));
  pu_buf_printf(b, "\" 1 \"\" \"puyu %s\"\n.SH NAME\n", PU_VERSION);
  put(b, name);
  pu_buf_puts(b, " \\- ");
  put(b, summary);
  pu_buf_putc(b, '\n');
}

/* "data synth" -> puyu-data-synth */
static void page_name(char dst[160], const pu_command *c) {
  snprintf(dst, 160, "puyu-%.150s", c->name);
  for (char *p = dst; *p; p++)
    if (*p == ' ') *p = '-';
}

static void command_page(pu_buf *b, const pu_command *c) {
  char name[160];
  page_name(name, c);
  put_title(b, name, c->summary);
  pu_buf_puts(b, ".SH SYNOPSIS\n.B puyu ");
  put(b, c->name);
  pu_buf_putc(b, '\n');
  put(b, c->usage ? c->usage : "");
  pu_buf_putc(b, '\n');
  pu_buf details;
  pu_buf_init(&details, 1 << 20);
  pu_cli_details(c, &details);
  if (details.len) pu_buf_puts(b, ".SH DESCRIPTION\n");
  if (details.len) put_details(b, details.data);
  pu_buf_deinit(&details);
  if (c->options) {
    pu_buf_puts(b, ".SH OPTIONS\n");
    put_table(b, c->options, true);
  }
  if (c->config) {
    pu_buf_puts(b, ".SH CONFIGURATION\nKeys of the YAML file, also given as key=value.\n");
    put_table(b, c->config, false);
  }
  pu_buf_puts(b, ".SH EXIT STATUS\n0 on success, 1 on failure, 2 when the command line or the configuration is wrong.\n"
                 ".SH SEE ALSO\n.BR puyu (1)\n");
}

static void main_page(pu_buf *b) {
  put_title(b, "puyu", "the whole chain of building with a large language model");
  pu_buf_puts(b, ".SH SYNOPSIS\n.B puyu\nCOMMAND [arguments] [\\-\\-flags]\n.SH COMMANDS\n");
  for (size_t i = 0; pu_command_all[i]; i++) {
    pu_buf_puts(b, ".TP\n.B puyu ");
    put(b, pu_command_all[i]->name);
    pu_buf_putc(b, '\n');
    put(b, pu_command_all[i]->summary);
    pu_buf_putc(b, '\n');
  }
}

static pu_err write_page(const pu_cli *cli, const char *dir, const char *name, const pu_buf *page, pu_error *e) {
  char *path = pu_arena_printf(cli->arena, "%s/%s.1", dir, name);
  if (!path || page->failed) return pu_fail(e, PU_ERR_NOMEM, "no memory for the page %s", name);
  return pu_file_write(path, page->data, page->len, e);
}

static pu_err write_all(const pu_cli *cli, const char *dir, pu_buf *page, pu_error *e) {
  PU_TRY(pu_mkdirs(dir, e));
  main_page(page);
  PU_TRY(write_page(cli, dir, "puyu", page, e));
  for (size_t i = 0; pu_command_all[i]; i++) {
    char name[160];
    pu_buf_clear(page);
    command_page(page, pu_command_all[i]);
    page_name(name, pu_command_all[i]);
    PU_TRY(write_page(cli, dir, name, page, e));
  }
  return PU_OK;
}

static pu_err print_page(const pu_cli *cli, int n, const char **words, pu_buf *page, pu_error *e) {
  char name[128];
  snprintf(name, sizeof name, "%.60s%s%.60s", n > 0 ? words[0] : "", n > 1 ? " " : "", n > 1 ? words[1] : "");
  const pu_command *c = pu_cli_find(name);
  if (n > 0 && !c) return pu_fail(e, PU_ERR_USAGE, "no command '%s'; `puyu --help` lists them", name);
  if (c)
    command_page(page, c);
  else
    main_page(page);
  if (page->failed) return pu_fail(e, PU_ERR_NOMEM, "no memory for the page");
  fwrite(page->data, 1, page->len, cli->out);
  return PU_OK;
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  const options *o = opts;
  pu_buf page;
  pu_buf_init(&page, 16 << 20);
  pu_err err = o->into ? write_all(cli, o->into, &page, e) : print_page(cli, n_args, args, &page, e);
  pu_buf_deinit(&page);
  return err;
}

const pu_command pu_command_man = {
    .name = "man",
    .summary = "print a man page",
    .usage = "[COMMAND]",
    .details = "Without a command: the page of puyu itself.\n\n    puyu man train | man -l -\n",
    .options = rows,
    .options_size = sizeof(options),
    .max_args = 2,
    .run = run,
};
