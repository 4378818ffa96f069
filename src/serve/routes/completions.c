/* POST /v1/completions: a text goes on. */
#include "src/serve/internal.h"

static void put_text(pu_buf *b, pu_str text) {
  pu_buf_puts(b, "\"text\":");
  pu_buf_json_str(b, text);
}

static const pu_answer_style style = {.id_prefix = "cmpl",
                                      .object = "text_completion",
                                      .chunk_object = "text_completion",
                                      .piece = put_text,
                                      .whole = put_text,
                                      .logprobs = pu_put_text_logprobs};

static void handle(pu_server *sv, pu_http_request *r) {
  pu_ask ask;
  pu_error e = {0};
  if (pu_ask_completion(pu_http_body(r), &ask, &e) == PU_OK) {
    pu_job_submit(sv, r, &ask, &style);
    return;
  }
  pu_reply_failure(sv, r, &e, ask.param);
  pu_ask_deinit(&ask);
}

const pu_route pu_route_completions = {.method = "POST", .path = "/v1/completions", .handle = handle};
