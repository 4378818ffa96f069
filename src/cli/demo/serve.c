/* The model behind HTTP: `puyu serve` as a process of its own, asked with curl, as a user would. */
#include <signal.h>
#include <string.h>

#include "src/cli/demo/child.h"
#include "src/cli/demo/demo.h"

enum { MOST_BODY = 1 << 16, SHORT_ANSWER = 24, LONG_ANSWER = 160 };

/* POST /v1/chat/completions; *reply is the caller's. */
static pu_err ask(pu_demo *d, const char *url, const char *question, int tokens, json_t **reply, pu_error *e) {
  pu_buf body;
  pu_buf_init(&body, MOST_BODY);
  pu_buf_puts(&body, "{\"messages\": [{\"role\": \"user\", \"content\": ");
  pu_buf_json_str(&body, pu_str_c(question));
  pu_buf_printf(&body, "}], \"max_tokens\": %d, \"temperature\": 0}", tokens);
  const char *to = pu_arena_printf(d->a, "%s/v1/chat/completions", url);
  const char *argv[] = {"curl", "--silent", "--show-error", "--fail-with-body", "--noproxy",
                        "*",    to,         "--data",       body.data,          NULL};
  pu_err err =
      to && !body.failed ? pu_child_json(argv, "curl", reply, e) : pu_fail(e, PU_ERR_NOMEM, "no memory for a request");
  pu_buf_deinit(&body);
  return err;
}

static pu_str text_of(const json_t *reply) {
  const json_t *choice = json_array_get(json_object_get(reply, "choices"), 0);
  const json_t *text = json_object_get(json_object_get(choice, "message"), "content");
  return json_is_string(text) ? pu_str_of(json_string_value(text), json_string_length(text)) : pu_str_c("");
}

static pu_err ask_both(pu_demo *d, const char *url, pu_error *e) {
  static const char question[] = "What is 58 - 23?", wish[] = "Tell me a story about Tom.";
  pu_log(PU_LOG_INFO,
         "  curl %s/v1/chat/completions --data '{\"messages\": [{\"role\": \"user\", \"content\": \"%s\"}], …}'", url,
         question);
  json_t *reply;
  PU_TRY(ask(d, url, question, SHORT_ANSWER, &reply, e));
  pu_demo_sample(&d->curl, question, text_of(reply));
  json_decref(reply);
  double began = pu_now();
  PU_TRY(ask(d, url, wish, LONG_ANSWER, &reply, e));
  int64_t made;
  pu_err err =
      pu_json_int(json_object_get(reply, "usage"), "completion_tokens", 0, LONG_ANSWER, &made, "the server's usage", e);
  if (!err) pu_demo_sample(&d->curl, wish, text_of(reply));
  json_decref(reply);
  d->served_rate = (double)made / (pu_now() - began);
  return err ? err : pu_demo_evaluate(d, PU_DEMO_SERVED, NULL, url, e);
}

static pu_err serve(pu_demo *d, pu_error *e) {
  const char *threads = pu_arena_printf(d->a, "%lld", (long long)d->o->threads);
  const char *context = pu_arena_printf(d->a, "%d", PU_DEMO_CONTEXT);
  const char *argv[] = {PU_CHILD_PUYU, "serve",     d->quantised, "--port",   "0",          "--quiet", "--threads",
                        threads,       "--context", context,      "--device", d->o->device, NULL};
  pu_child server;
  char url[128] = "";
  if (!threads || !context) return pu_fail(e, PU_ERR_NOMEM, "no memory for the server's options");
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

static pu_err part(const pu_demo *d, pu_buf *html, pu_error *e) {
  (void)e;
  pu_buf_puts(html, "<h3>Asked with curl</h3>\n");
  pu_buf_append(html, d->curl.data, d->curl.len);
  return PU_OK;
}

const pu_demo_stage pu_demo_serve = {"serving it, and asking through HTTP", NULL, NULL, serve, tell, part};
