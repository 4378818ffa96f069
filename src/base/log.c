/* Log lines and the one live line below them, all on standard error. The state is one of the program's few mutable
 * globals: there is one terminal. */
#include "puyu/base.h"
#include "src/base/utf8.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static const double QUIET_SECONDS = 2.0, REDRAW_SECONDS = 0.1, PLAIN_SECONDS = 10.0;

static struct {
  pthread_mutex_t lock;
  pu_log_level level;
  bool shown;      /* the live line is on the screen */
  double drawn_at; /* pu_now() of the last drawing */
  char live[512];
} term = {.lock = PTHREAD_MUTEX_INITIALIZER, .level = PU_LOG_INFO};

static const char ERASE[] = "\r\033[K"; /* to the first column, and clear what is right of it */

bool pu_is_terminal(void) {
  const char *name = getenv("TERM");
  return isatty(STDERR_FILENO) && !(name && strcmp(name, "dumb") == 0);
}

static int terminal_columns(void) {
  struct winsize w;
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0) return w.ws_col;
  const char *text = getenv("COLUMNS");
  int n = text ? atoi(text) : 0;
  return n > 0 ? n : 80;
}

/* Columns a character takes: two for East Asian wide ones (Unicode's EastAsianWidth, in coarse ranges: erring towards
 * two costs a column, erring towards one would wrap the line). */
static int columns_of(uint32_t cp) {
  static const struct {
    uint32_t first, last;
  } wide[] = {{0x1100, 0x115F}, {0x2E80, 0xA4CF}, {0xAC00, 0xD7A3},   {0xF900, 0xFAFF},  {0xFE30, 0xFE6F},
              {0xFF00, 0xFF60}, {0xFFE0, 0xFFE6}, {0x1F300, 0x1FAFF}, {0x20000, 0x3FFFD}};
  for (size_t i = 0; i < PU_COUNT(wide); i++)
    if (cp >= wide[i].first && cp <= wide[i].last) return 2;
  return 1;
}

/* Copies as much of the line as fits: into the columns, since a wrapped line cannot be erased, and into dst. */
static void fit_line(char *dst, size_t size, const char *line, int columns) {
  size_t len = strlen(line), used = 0;
  for (size_t i = 0; i < len;) {
    uint32_t cp;
    int n = pu_utf8_step((const uint8_t *)line + i, len - i, &cp);
    bool odd = n < 0 || cp < 0x20 || cp == 0x7F; /* bytes that would move the cursor, or nothing at all */
    size_t bytes = odd ? 1 : (size_t)n;
    columns -= odd ? 1 : columns_of(cp);
    if (columns < 0 || used + bytes >= size) break;
    if (odd)
      dst[used] = ' ';
    else
      memcpy(dst + used, line + i, bytes);
    used += bytes;
    i += (size_t)abs(n);
  }
  dst[used] = 0;
}

/* ---- with the lock held ---- */

static void erase_live(void) {
  if (term.shown) fputs(ERASE, stderr);
  term.shown = false;
}

static void draw_live(void) {
  char line[sizeof term.live];
  fit_line(line, sizeof line, term.live, terminal_columns() - 1);
  fprintf(stderr, "%s%s", ERASE, line);
  term.shown = true;
  term.drawn_at = pu_now();
}

/* ---- log ---- */

void pu_log_set_level(pu_log_level level) {
  pthread_mutex_lock(&term.lock);
  term.level = level;
  pthread_mutex_unlock(&term.lock);
}

void pu_log(pu_log_level level, const char *fmt, ...) {
  static const char *const prefix[] = {"debug: ", "", "warning: ", "error: "};
  pthread_mutex_lock(&term.lock);
  bool wanted = level >= term.level;
  pthread_mutex_unlock(&term.lock);
  if (!wanted) return;

  char text[4096]; /* one write a line keeps the lines of several processes apart */
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  pthread_mutex_lock(&term.lock);
  bool live = term.shown;
  erase_live();
  fprintf(stderr, "%s%s\n", prefix[level], text);
  if (live) draw_live();
  pthread_mutex_unlock(&term.lock);
}

/* ---- the live line ---- */

void pu_live_line(const char *line) {
  if (line && !pu_is_terminal()) return;
  pthread_mutex_lock(&term.lock);
  if (!line) {
    erase_live();
  } else {
    snprintf(term.live, sizeof term.live, "%s", line);
    if (!term.shown || pu_now() - term.drawn_at >= REDRAW_SECONDS) draw_live();
  }
  pthread_mutex_unlock(&term.lock);
}

struct pu_progress {
  char label[80], unit[24];
  double total, done;
  double started, said; /* pu_now() */
  bool terminal, spoke;
};

pu_progress *pu_progress_open(const char *label, const char *unit, double total) {
  pu_progress *p = term.level <= PU_LOG_INFO ? calloc(1, sizeof *p) : NULL;
  if (!p) return NULL;
  snprintf(p->label, sizeof p->label, "%s", label);
  snprintf(p->unit, sizeof p->unit, "%s", unit);
  p->total = total;
  p->started = pu_now();
  p->terminal = pu_is_terminal();
  return p;
}

static void describe(const pu_progress *p, const char *note, char *line, size_t size) {
  char done[16], total[16], rate[16], left[16];
  double elapsed = PU_MAX(pu_now() - p->started, 1e-9), per_second = p->done / elapsed;
  pu_short_number(done, p->done);
  pu_short_number(rate, per_second);
  const char *sep = note && *note ? ", " : "";
  if (!note) note = "";
  if (p->total <= 0) {
    snprintf(line, size, "%s: %s %s, %s/s%s%s", p->label, done, p->unit, rate, sep, note);
    return;
  }
  pu_short_number(total, p->total);
  pu_short_time(left, per_second > 0 ? PU_MAX(p->total - p->done, 0) / per_second : 3.6e8);
  char amount[80] = "";
  if (strcmp(p->unit, "%") != 0) snprintf(amount, sizeof amount, " %s of %s %s, %s/s,", done, total, p->unit, rate);
  snprintf(line, size, "%s: %3.0f%%,%s %s left%s%s", p->label, 100 * PU_MIN(p->done / p->total, 1.0), amount,
           per_second > 0 ? left : "?", sep, note);
}

void pu_progress_set(pu_progress *p, double done, const char *note) {
  if (!p) return;
  p->done = done;
  double now = pu_now();
  if (now - p->started < QUIET_SECONDS) return;
  if (p->spoke && now - p->said < (p->terminal ? REDRAW_SECONDS : PLAIN_SECONDS)) return;
  char line[512];
  describe(p, note, line, sizeof line);
  if (p->terminal)
    pu_live_line(line);
  else
    pu_log(PU_LOG_INFO, "%s", line);
  p->said = now;
  p->spoke = true;
}

void pu_progress_close(pu_progress *p) {
  if (!p) return;
  if (p->terminal) pu_live_line(NULL);
  if (p->spoke) {
    char done[16], rate[16], took[16];
    double elapsed = pu_now() - p->started;
    pu_short_number(done, p->done);
    pu_short_number(rate, p->done / elapsed);
    pu_short_time(took, elapsed);
    if (strcmp(p->unit, "%") == 0)
      pu_log(PU_LOG_INFO, "%s: %s %% in %s", p->label, done, took);
    else
      pu_log(PU_LOG_INFO, "%s: %s %s in %s (%s/s)", p->label, done, p->unit, took, rate);
  }
  free(p);
}
