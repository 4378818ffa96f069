/* Log lines, the live line and progress, as a terminal and as a pipe see them; signals. Each case runs in a child whose
 * standard error is read here. */
#include "tests/test.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

static char seen[8192];
static int status;

/* Runs fn in a child; what it writes to standard error is in `seen`. columns 0: a pipe instead of a terminal. */
static void watch(void (*fn)(void), int columns) {
  int from, to;
  if (columns) {
    from = posix_openpt(O_RDWR | O_NOCTTY);
    if (from < 0 || grantpt(from) != 0 || unlockpt(from) != 0) skip();
    to = open(ptsname(from), O_RDWR | O_NOCTTY);
    if (to < 0) skip();
    struct winsize w = {.ws_col = (unsigned short)columns, .ws_row = 24};
    assert_int_equal(ioctl(to, TIOCSWINSZ, &w), 0);
  } else {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    from = ends[0];
    to = ends[1];
  }
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    setenv("TERM", "xterm", 1);
    dup2(to, STDERR_FILENO);
    fn();
    _exit(0);
  }
  close(to);
  size_t len = 0;
  for (ssize_t n; (n = read(from, seen + len, sizeof seen - 1 - len)) > 0;) len += (size_t)n;
  seen[len] = 0;
  close(from);
  assert_int_equal(waitpid(child, &status, 0), child);
}

static void say(void) {
  pu_log(PU_LOG_DEBUG, "hidden");
  pu_log(PU_LOG_INFO, "step %d", 1);
  pu_log(PU_LOG_WARN, "careful");
  pu_log(PU_LOG_ERROR, "broken");
  pu_log_set_level(PU_LOG_DEBUG);
  pu_log(PU_LOG_DEBUG, "shown");
  pu_live_line("not on a pipe");
  pu_live_line(NULL);
}

static void a_pipe_gets_plain_lines(void **state) {
  (void)state;
  watch(say, 0);
  assert_string_equal(seen, "step 1\nwarning: careful\nerror: broken\ndebug: shown\n");
}

static void live(void) {
  pu_live_line("one two three four five");
  pu_log(PU_LOG_INFO, "a line");
  pu_live_line("too soon after the other to be drawn");
  usleep(150000);
  pu_live_line("\xE6\xB5\xA6\xE8\xAF\xAD\t\xE6\xB5\xA6\xE8\xAF\xAD\xE6\xB5\xA6");
  pu_live_line(NULL);
  pu_log(PU_LOG_INFO, "end");
}

#define ERASE "\r\033[K"

static void a_terminal_gets_a_live_line_that_never_wraps(void **state) {
  (void)state;
  watch(live, 11); /* ten columns: the last one stays free */
  assert_string_equal(seen, ERASE "one two th" ERASE "a line\r\n" ERASE "one two th"
                      /* two columns each, and a tab that must not move the cursor */
                      ERASE "\xE6\xB5\xA6\xE8\xAF\xAD \xE6\xB5\xA6\xE8\xAF\xAD" ERASE "end\r\n");
}

static void progress(void) {
  pu_progress *quick = pu_progress_open("quick", "docs", 10);
  pu_progress_set(quick, 5, NULL);
  pu_progress_close(quick);
  pu_progress *p = pu_progress_open("reading", "docs", 4000);
  pu_progress *share = pu_progress_open("weights", "%", 100);
  pu_progress_set(p, 1, NULL);
  usleep(2050000);
  pu_progress_set(p, 1000, "loss 2.31");
  pu_progress_set(p, 2000, NULL); /* too soon */
  pu_progress_close(p);
  pu_progress_set(share, 50, NULL);
  pu_progress_close(share);
  pu_progress_set(NULL, 1, NULL);
  pu_progress_close(NULL);
}

static void progress_is_quiet_for_two_seconds(void **state) {
  (void)state;
  watch(progress, 0);
  assert_memory_equal(seen, "reading:  25%, 1.00k of 4.00k docs, ", 36);
  assert_non_null(strstr(seen, " left, loss 2.31\nreading: 2.00k docs in 0:02 ("));
  assert_non_null(strstr(seen, "\nweights:  50%, 0:02 left\nweights: 50 % in 0:02\n"));
  assert_null(strstr(seen, "quick"));
}

static void signals(void) {
  pu_signals_catch();
  if (pu_signals_stop()) _exit(3);
  raise(SIGINT);
  if (!pu_signals_stop()) _exit(4);
  pu_signals_clear();
  if (pu_signals_stop()) _exit(5);
  raise(SIGTERM);
  if (!pu_signals_stop()) _exit(6);
  raise(SIGINT); /* the second one ends it */
}

static void the_second_signal_ends_the_process(void **state) {
  (void)state;
  watch(signals, 0);
  assert_true(WIFSIGNALED(status));
  assert_int_equal(WTERMSIG(status), SIGINT);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_pipe_gets_plain_lines),
      cmocka_unit_test(a_terminal_gets_a_live_line_that_never_wraps),
      cmocka_unit_test(progress_is_quiet_for_two_seconds),
      cmocka_unit_test(the_second_signal_ends_the_process),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
