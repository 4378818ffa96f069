#include "src/cli/turns.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

enum { MOST_TURN_BYTES = 16 << 20 };
static const char QUOTES[] = "\"\"\"";

void pu_turns_init(pu_turns *t, FILE *in, FILE *out) {
  *t = (pu_turns){.in = in, .out = out, .typed = isatty(fileno(in))};
  t->asks = t->typed && isatty(fileno(out));
  pu_buf_init(&t->line, MOST_TURN_BYTES);
  pu_buf_init(&t->turn, MOST_TURN_BYTES);
}

void pu_turns_deinit(pu_turns *t) {
  pu_buf_deinit(&t->line);
  pu_buf_deinit(&t->turn);
}

/* What is typed is not read ahead, so that poll knows whether there is more. */
void pu_turns_catch(pu_turns *t) {
  if (!t->typed) return;
  pu_signals_catch();
  signal(SIGTERM, SIG_DFL);
  setvbuf(t->in, NULL, _IONBF, 0);
}

static void show_prompt(const pu_turns *t, const char *prompt) {
  if (!t->asks) return;
  fputs(prompt, t->out);
  fflush(t->out);
}

/* Until something was typed. Ctrl-C here gives a new prompt; poll, unlike read, comes back from a signal. */
static void wait_for_typing(const pu_turns *t, const char *prompt) {
  struct pollfd in = {.fd = fileno(t->in), .events = POLLIN};
  while (t->typed && poll(&in, 1, -1) < 0 && errno == EINTR) {
    if (!pu_signals_stop()) continue;
    pu_signals_clear();
    if (t->asks) fputs("\n(Ctrl-D ends the talk)\n", t->out);
    show_prompt(t, prompt);
  }
}

/* One line without its newline. False: the input is over, or too long to go on. */
static bool read_line(pu_turns *t, const char *prompt) {
  show_prompt(t, prompt);
  wait_for_typing(t, prompt);
  pu_buf_clear(&t->line);
  for (int ch; (ch = getc(t->in)) != EOF;) {
    if (ch == '\n') return true;
    if (!pu_buf_putc(&t->line, (char)ch)) return false;
  }
  return t->line.len > 0;
}

static bool ends_with(const pu_buf *b, const char *end) {
  return pu_str_ends(pu_str_of(b->data, b->len), end);
}

static void cut(pu_buf *b, size_t n) {
  b->len -= n;
  b->data[b->len] = 0;
}

/* The rest of a turn between two triple quotes. */
static bool read_quoted(pu_turns *t) {
  for (;;) {
    if (ends_with(&t->turn, QUOTES)) {
      cut(&t->turn, strlen(QUOTES));
      return true;
    }
    if (!read_line(t, "… ")) return !t->line.failed; /* the input ended first: what there is counts */
    pu_buf_putc(&t->turn, '\n');
    if (!pu_buf_append(&t->turn, t->line.data ? t->line.data : "", t->line.len)) return false;
  }
}

bool pu_turns_read(pu_turns *t) {
  pu_buf_clear(&t->turn);
  if (!read_line(t, "> ")) return false;
  if (t->line.len >= strlen(QUOTES) && memcmp(t->line.data, QUOTES, strlen(QUOTES)) == 0) {
    pu_buf_puts(&t->turn, t->line.data + strlen(QUOTES));
    return read_quoted(t);
  }
  for (;;) {
    pu_buf_append(&t->turn, t->line.data ? t->line.data : "", t->line.len);
    if (t->turn.failed || !ends_with(&t->turn, "\\")) return !t->turn.failed;
    cut(&t->turn, 1);
    if (!read_line(t, "… ")) return !t->line.failed; /* as above */
    pu_buf_putc(&t->turn, '\n');
  }
}

pu_err pu_turns_end(const pu_turns *t, pu_error *e) {
  if (!t->line.failed && !t->turn.failed) return PU_OK;
  return pu_fail(e, PU_ERR_USAGE, "a turn of more than %d MiB", MOST_TURN_BYTES >> 20);
}

void pu_turns_run(const pu_turns *t, const pu_turn_command *table, void *arg) {
  pu_error e = {0};
  const char *line = t->turn.data;
  size_t word = strcspn(line, " \n");
  for (const pu_turn_command *c = table; c->name; c++) {
    if (strlen(c->name) != word || memcmp(line, c->name, word) != 0) continue;
    if (c->run(arg, line + word + strspn(line + word, " "), &e) != PU_OK) pu_log(PU_LOG_ERROR, "%s", e.msg);
    return;
  }
  pu_log(PU_LOG_ERROR, "there is no command %.*s; /help lists them", (int)PU_MIN(word, 40), line);
}

void pu_turns_help(const pu_turns *t, const pu_turn_command *table) {
  for (const pu_turn_command *c = table; c->name; c++) {
    int shown = fprintf(t->out, "%s%s", c->name, c->argument);
    fprintf(t->out, "%*s %s\n", 14 - shown, "", c->help);
  }
  fprintf(t->out, "Several lines: end each but the last with \\, or put \"\"\" around them. Ctrl-C stops an answer.\n");
}
