/* The model behind HTTP: `puyu serve` as a process of its own, asked with curl, as a user would. */
#include <signal.h>
#include <string.h>

#include "src/cli/demo/child.h"
#include "src/cli/demo/demo.h"

enum { MOST_BODY = 1 << 16, SHORT_ANSWER = 12, LONG_ANSWER = 128 };

/* POST /v1/completions; *reply is the caller's. */
static pu_err ask(pu_demo *d, const char *url, const char *prompt, int tokens, json_t **reply, pu_error *e) {
  pu_buf body;
  pu_buf_init(&body, MOST_BODY);
  pu_buf_puts(&body, "{\"prompt\": ");
  pu_buf_json_str(&body, pu_str_c(prompt));
  pu_buf_printf(&body, ", \"max_tokens\": %d, \"temperature\": 0}", tokens);
  const char *to = pu_arena_printf(d->a, "%s/v1/completions", url);
  const char *argv[] = {"curl", "--silent", "--show-error", "--fail-with-body", "--noproxy",
                        "*",    to,         "--data",       body.data,          NULL};
  pu_err err =
      to && !body.failed ? pu_child_json(argv, "curl", reply, e) : pu_fail(e, PU_ERR_NOMEM, "no memory for a request");
  pu_buf_deinit(&body);
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
  const char *argv[] = {PU_CHILD_PUYU, "serve",     d->served, "--port",   "0",          "--quiet", "--threads",
                        threads,       "--context", "256",     "--device", d->o->device, NULL};
  pu_child server;
  char url[128] = "";
  if (!threads) return pu_fail(e, PU_ERR_NOMEM, "no memory for the server's options");
  PU_TRY(pu_child_start(argv, &server, e));
  bool ready = fgets(url, sizeof url, server.out) != NULL;
  url[strcspn(url, "\n")] = 0;
  pu_err err = ready ? ask_both(d, url, e) : PU_OK;
  if (ready) kill(server.pid, SIGTERM);
  pu_error why;
  pu_err ended = pu_child_finish(&server, "puyu serve", err ? &why : e);
  return err ? err : ended;
}

static void tell(const pu_demo *d, pu_demo_table *t) {
  pu_demo_row(t, "served, one curl at a time", "%.0f tokens/s", d->served_rate);
}

const pu_demo_stage pu_demo_serve = {"serving it, and asking through HTTP", serve, tell};
