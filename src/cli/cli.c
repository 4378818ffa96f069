/* Finds the command, runs it, and turns what comes back into an exit status. */
#include "src/cli/cli.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

extern const pu_command pu_command_version; /* also reached as --version */

static const size_t PROCESS_BYTES = (size_t)256 << 20; /* of address space, for what lives as long as the process */

const pu_command *pu_cli_find(const char *name) {
  for (size_t i = 0; pu_command_all[i]; i++)
    if (strcmp(pu_command_all[i]->name, name) == 0) return pu_command_all[i];
  return NULL;
}

bool pu_cli_is_group(const char *word) {
  size_t n = strlen(word);
  for (size_t i = 0; pu_command_all[i]; i++)
    if (strncmp(pu_command_all[i]->name, word, n) == 0 && pu_command_all[i]->name[n] == ' ') return true;
  return false;
}

/* The command that the first one or two words name, and how many. */
static const pu_command *match(int n, char **words, int *used) {
  char two[128];
  if (n > 1) {
    snprintf(two, sizeof two, "%.60s %.60s", words[0], words[1]);
    const pu_command *c = pu_cli_find(two);
    *used = 2;
    if (c) return c;
  }
  *used = 1;
  return n > 0 ? pu_cli_find(words[0]) : NULL;
}

/* The command, or the first word of some, that begins with these words or is nearest to them; false: none is near. */
static bool nearest_command(const char *words, char found[64]) {
  size_t n = strlen(words), best = PU_MAX((size_t)2, n / 3) + 1, worst = best;
  for (size_t i = 0; pu_command_all[i]; i++) {
    const char *name = pu_command_all[i]->name;
    size_t lengths[] = {strcspn(name, " "), strlen(name)};
    for (size_t k = 0; k < PU_COUNT(lengths); k++) {
      char known[64];
      snprintf(known, sizeof known, "%.*s", (int)lengths[k], name);
      size_t d = strncmp(words, known, n) == 0 ? 1 : pu_edit_distance(words, known);
      if (d >= best || d >= lengths[k]) continue;
      best = d;
      memcpy(found, known, sizeof known);
    }
  }
  return best < worst;
}

static int unknown_command(int n, char **words) {
  char name[128], both[128], near[64];
  bool group = pu_cli_is_group(words[0]);
  bool two = n > 1 && words[1][0] != '-';
  snprintf(both, sizeof both, "%.60s%s%.60s", words[0], two ? " " : "", two ? words[1] : "");
  snprintf(name, sizeof name, "%.120s", group ? both : words[0]);
  bool alone = group && !two;                                                        /* flags at most follow */
  bool known = !alone && nearest_command(both, near) && (!two || strchr(near, ' ')); /* "dta synth" */
  if (known || (!group && nearest_command(name, near)))
    fprintf(stderr, "puyu: unknown command '%s'; did you mean '%s'?\n", known ? both : name, near);
  else
    fprintf(stderr, "puyu: unknown command '%s'; `puyu %s%s--help` lists them\n", name, group ? words[0] : "",
            group ? " " : "");
  return 2;
}

static bool is_help(const char *word) {
  return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

static int report(const pu_command *c, pu_err err, const pu_error *e) {
  pu_live_line(NULL);
  if (err == PU_OK) return 0;
  if (err == PU_ERR_STOPPED && !e->msg[0])
    fprintf(stderr, "puyu %s: stopped\n", c->name);
  else
    fprintf(stderr, "puyu %s: %s\n", c->name, e->msg[0] ? e->msg : "failed, and nothing said why");
  return err == PU_ERR_USAGE ? 2 : 1;
}

static int run_command(const pu_command *c, int n, char **words) {
  pu_error e = {0};
  pu_cli cli = {.in = stdin, .out = stdout, .command = c};
  pu_cli_line line;
  pu_err err = pu_arena_create(PROCESS_BYTES, &cli.arena, &e);
  if (err == PU_OK) err = pu_cli_parse(c, n, words, cli.arena, &line, &e);
  if (err == PU_OK) cli.given = line.given;
  if (err == PU_OK && line.help)
    pu_cli_print_help(stdout, c);
  else if (err == PU_OK)
    err = c->run(&cli, line.options, line.n_args, line.args, &e);
  int status = report(c, err, &e);
  pu_arena_free(cli.arena);
  return status;
}

static int dispatch(int n, char **words) {
  if (n == 0 || is_help(words[0]) || (n == 1 && strcmp(words[0], "help") == 0)) {
    pu_cli_print_overview(stdout, NULL);
    return 0;
  }
  if (strcmp(words[0], "--version") == 0) return run_command(&pu_command_version, n - 1, words + 1);
  bool help = strcmp(words[0], "help") == 0; /* puyu help CMD */
  if (help) {
    words++;
    n--;
  }
  int used;
  const pu_command *c = match(n, words, &used);
  if (c && help) pu_cli_print_help(stdout, c);
  if (c) return help ? 0 : run_command(c, n - used, words + used);
  if (!pu_cli_is_group(words[0]) || (n > 1 && !is_help(words[1]))) return unknown_command(n, words);
  pu_cli_print_overview(stdout, words[0]);
  return 0;
}

/* A full disk shows when the last bytes are written. A reader that went away (head) is no reason for a message. */
static int close_output(int status) {
  bool bad = ferror(stdout) != 0;
  int why = 0;
  /* A stream keeps no reason. What was printed is broken anyway, so that one more line end is no loss. */
  if (bad && (fputc('\n', stdout) == EOF || fflush(stdout) != 0)) why = errno;
  if (fclose(stdout) != 0) {
    why = errno;
    bad = true;
  }
  if (!bad) return status;
  if (why != EPIPE)
    fprintf(stderr, "puyu: cannot write standard output%s%s\n", why ? ": " : "", why ? strerror(why) : "");
  return status ? status : 1;
}

int pu_cli_main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  return close_output(dispatch(argc - 1, argv + 1));
}
