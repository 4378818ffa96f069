#include "puyu/base.h"

#include <signal.h>

/* A signal handler has no other place to speak to. */
static volatile sig_atomic_t stop_asked;
static bool writers_stop;

static void on_signal(int sig) {
  if (stop_asked) { /* the second one means it: die of it, so that the shell sees why */
    signal(sig, SIG_DFL);
    raise(sig);
  }
  stop_asked = 1;
}

void pu_signals_catch(void) {
  /* SA_RESTART: a half-done read or write must not look like a failing disk. Loops ask pu_signals_stop. */
  struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  sigemptyset(&sa.sa_mask);
  sigaction(SIGINT, &sa, NULL);
  sigaction(SIGTERM, &sa, NULL);
}

bool pu_signals_stop(void) {
  return stop_asked != 0;
}

void pu_signals_catch_writing(void) {
  writers_stop = true;
  pu_signals_catch();
}

bool pu_signals_stop_writing(void) {
  return writers_stop && pu_signals_stop();
}

void pu_signals_clear(void) {
  stop_asked = 0;
}
