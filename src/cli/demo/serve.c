/* The model behind HTTP: `puyu serve` as a process of its own, asked with curl, as a user would. */
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/cli/demo/demo.h"

enum { MOST_REPLY = 1 << 20, SHORT_ANSWER = 12, LONG_ANSWER = 128 };

extern char **environ;

/* A program with its standard output on a pipe. */
typedef struct child {
  pid_t pid;
  FILE *out;
} child;

static pu_err start(const char *const *argv, child *c, pu_error *e) {
  int ends[2];
  if (pipe(ends)) return pu_fail(e, PU_ERR_IO, "%s: cannot make a pipe: %s", argv[0], strerror(errno));
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addclose(&files, ends[0]);
  posix_spawn_file_actions_addclose(&files, ends[1]);
  int failed = posix_spawnp(&c->pid, argv[0], &files, NULL, (char *const *)(uintptr_t)argv, environ);
  posix_spawn_file_actions_destroy(&files);
  close(ends[1]);
  c->out = failed ? NULL : fdopen(ends[0], "r");
  if (c->out) return PU_OK;
  close(ends[0]);
  return pu_fail(e, PU_ERR_IO, "%s: cannot be started: %s", argv[0], strerror(failed ? failed : errno));
}

static pu_err finish(child *c, const char *name, pu_error *e) {
  int status = 0;
  fclose(c->out);
  while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR) {}
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return PU_OK;
  return pu_fail(e, PU_ERR_INTERNAL, "%s ended with %s %d", name, WIFSIGNALED(status) ? "signal" : "status",
                 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

/* POST /v1/completions; *reply is the caller's. */
static pu_err ask(pu_demo *d, const char *url, const char *prompt, int tokens, json_t **reply, pu_error *e) {
  pu_buf body, answer;
  pu_buf_init(&body, MOST_REPLY);
  pu_buf_init(&answer, MOST_REPLY);
  pu_buf_puts(&body, "{\"prompt\": ");
  pu_buf_json_str(&body, pu_str_c(prompt));
  pu_buf_printf(&body, ", \"max_tokens\": %d, \"temperature\": 0}", tokens);
  const char *to = pu_arena_printf(d->a, "%s/v1/completions", url);
  const char *argv[] = {"curl", "--silent", "--show-error", "--fail-with-body", "--noproxy",
                        "*",    to,         "--data",       body.data,          NULL};
  child c;
  pu_err err = to && !body.failed ? start(argv, &c, e) : pu_fail(e, PU_ERR_NOMEM, "no memory for a request");
  if (!err) {
    char part[4096];
    for (size_t n; (n = fread(part, 1, sizeof part, c.out)) > 0;) pu_buf_append(&answer, part, n);
    err = finish(&c, "curl", e);
    if (!err)
      err = pu_json_parse("the server's answer", pu_str_of(answer.data ? answer.data : "", answer.len), reply, e);
  }
  pu_buf_deinit(&body);
  pu_buf_deinit(&answer);
  return err;
}

static pu_str text_of(const json_t *reply) {
  const json_t *text = json_object_get(json_array_get(json_object_get(reply, "choices"), 0), "text");
  return json_is_string(text) ? pu_str_of(json_string_value(text), json_string_length(text)) : pu_str_c("");
}

static pu_err ask_both(pu_demo *d, const char *url, pu_error *e) {
  const char *prompt = d->o->text ? "The " : "Q: What is 58 - 23? A:";
  pu_log(PU_LOG_INFO, "  curl %s/v1/completions --data '{\"prompt\": \"%s\", \"max_tokens\": %d, …}'", url, prompt,
         SHORT_ANSWER);
  json_t *reply;
  PU_TRY(ask(d, url, prompt, SHORT_ANSWER, &reply, e));
  pu_demo_sample(d, prompt, text_of(reply));
  json_decref(reply);
  double began = pu_now();
  PU_TRY(ask(d, url, d->o->text ? "The " : "Once there", LONG_ANSWER, &reply, e));
  int64_t made;
  pu_err err =
      pu_json_int(json_object_get(reply, "usage"), "completion_tokens", 0, LONG_ANSWER, &made, "the server's usage", e);
  json_decref(reply);
  d->served_rate = (double)made / (pu_now() - began);
  return err;
}

static pu_err serve(pu_demo *d, pu_error *e) {
  const char *threads = pu_arena_printf(d->a, "%lld", (long long)d->o->threads);
  const char *argv[] = {"/proc/self/exe", "serve", d->served,   "--port", "0", "--quiet",
                        "--threads",      threads, "--context", "256",    NULL};
  child server;
  char url[128] = "";
  if (!threads) return pu_fail(e, PU_ERR_NOMEM, "no memory for the server's options");
  PU_TRY(start(argv, &server, e));
  bool ready = fgets(url, sizeof url, server.out) != NULL;
  url[strcspn(url, "\n")] = 0;
  pu_err err = ready ? ask_both(d, url, e) : PU_OK;
  if (ready) kill(server.pid, SIGTERM);
  pu_error why;
  pu_err ended = finish(&server, "puyu serve", err ? &why : e);
  return err ? err : ended;
}

static void tell(const pu_demo *d, pu_demo_table *t) {
  pu_demo_row(t, "served, one curl at a time", "%.0f tokens/s", d->served_rate);
}

const pu_demo_stage pu_demo_serve = {"serving it, and asking through HTTP", serve, tell};
