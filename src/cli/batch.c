#include "src/cli/batch.h"

#include <stdlib.h>
#include <string.h>

#include "src/cli/sample.h"

/* A prompt in the window, and its answers. */
typedef struct request {
  int64_t line;
  pu_session **s; /* [samples] */
} request;

typedef struct run {
  const pu_cli_batch *b;
  pu_engine *en;
  FILE *out;
  request *ring; /* [window]: open ones are [first, first + n) */
  int64_t first, n, answers;
  size_t at; /* in the text */
  int64_t line;
  pu_progress *bar;
} run;

const char *pu_cli_finish_name(pu_finish f) {
  static const char *const names[] = {"none", "stop", "length", "cancel"};
  return names[f];
}

/* The next line that is not empty. */
static bool next_line(run *r, pu_str *out) {
  pu_str text = r->b->text;
  while (r->at < text.len) {
    const char *begin = text.ptr + r->at, *end = memchr(begin, '\n', text.len - r->at);
    size_t len = end ? (size_t)(end - begin) : text.len - r->at;
    r->at += len + 1;
    r->line++;
    if (len && begin[len - 1] == '\r') len--;
    *out = pu_str_of(begin, len);
    if (len) return true;
  }
  return false;
}

/* The first answer's session gets the prompt, the others are its forks and share its blocks. */
static pu_err begin(run *r, request *q, pu_str prompt, pu_error *e) {
  pu_ids ids = {0};
  pu_err err = pu_cli_open_session(r->en, &q->s[0], e);
  if (!err) err = r->b->encode(r->b->arg, prompt, &ids, e);
  if (!err) err = pu_session_append(q->s[0], ids.v, ids.n, e);
  for (int64_t i = 1; i < r->b->samples && !err; i++) err = pu_session_fork(q->s[0], &q->s[i], e);
  for (int64_t i = 0; i < r->b->samples && !err; i++) {
    pu_sampling how = r->b->how;
    how.seed += (uint64_t)r->answers++;
    err = pu_session_start(q->s[i], &how, NULL, NULL, e);
  }
  pu_ids_deinit(&ids);
  return err ? pu_fail_in(e, err, "%s:%lld", r->b->name, (long long)r->line) : PU_OK;
}

static void end(run *r, request *q) {
  for (int64_t i = 0; i < r->b->samples; i++) {
    pu_session_close(q->s[i]);
    q->s[i] = NULL;
  }
}

static pu_err fill(run *r, pu_error *e) {
  pu_str prompt;
  while (r->n < r->b->window && next_line(r, &prompt)) {
    request *q = &r->ring[(r->first + r->n) % r->b->window];
    r->n++;
    q->line = r->line;
    PU_TRY(begin(r, q, prompt, e));
  }
  return PU_OK;
}

static pu_err print(run *r, const request *q, pu_error *e) {
  for (int64_t i = 0; i < r->b->samples; i++) {
    pu_buf b;
    size_t n;
    const int32_t *ids = pu_session_answer(q->s[i], &n);
    pu_buf_init(&b, PU_BUF_MAX);
    pu_buf_printf(&b, "{\"line\": %lld, \"sample\": %lld, \"text\": ", (long long)q->line, (long long)i);
    pu_buf_json_str(&b, pu_session_text(q->s[i]));
    pu_buf_puts(&b, ", \"ids\": [");
    for (size_t k = 0; k < n; k++) pu_buf_printf(&b, "%s%d", k ? ", " : "", (int)ids[k]);
    pu_buf_printf(&b, "], \"finish\": \"%s\"}\n", pu_cli_finish_name(pu_session_finish(q->s[i])));
    bool ok = !b.failed;
    if (ok) fwrite(b.data, 1, b.len, r->out);
    pu_buf_deinit(&b);
    if (!ok) return pu_fail(e, PU_ERR_NOMEM, "no memory for an answer's text");
  }
  return ferror(r->out) ? pu_fail(e, PU_ERR_IO, "standard output: cannot be written") : PU_OK;
}

static bool is_done(const run *r, const request *q) {
  for (int64_t i = 0; i < r->b->samples; i++)
    if (pu_session_finish(q->s[i]) == PU_FINISH_NONE) return false;
  return true;
}

/* Those at the front that are done make room for others. */
static pu_err put_out(run *r, pu_error *e) {
  while (r->n && is_done(r, &r->ring[r->first])) {
    request *q = &r->ring[r->first];
    PU_TRY(print(r, q, e));
    end(r, q);
    r->first = (r->first + 1) % r->b->window;
    r->n--;
    pu_progress_set(r->bar, (double)r->at, NULL);
  }
  return PU_OK;
}

static pu_err run_all(run *r, pu_error *e) {
  PU_TRY(fill(r, e));
  while (r->n) {
    bool more;
    PU_TRY(pu_engine_step(r->en, &more, e));
    PU_TRY(put_out(r, e));
    PU_TRY(fill(r, e));
  }
  return fflush(r->out) ? pu_fail(e, PU_ERR_IO, "standard output: cannot be written") : PU_OK;
}

pu_err pu_cli_batch_run(const pu_cli_batch *b, pu_engine *en, FILE *out, pu_error *e) {
  run r = {.b = b, .en = en, .out = out, .ring = calloc((size_t)b->window, sizeof *r.ring)};
  pu_session **sessions = calloc((size_t)b->window * (size_t)b->samples, sizeof(pu_session *));
  pu_err err = PU_OK;
  if (!r.ring || !sessions) err = pu_fail(e, PU_ERR_NOMEM, "no memory for %d prompts", b->window);
  for (int i = 0; i < b->window && !err; i++) r.ring[i].s = sessions + (size_t)i * (size_t)b->samples;
  r.bar = pu_progress_open("prompts", "bytes", (double)b->text.len);
  if (!err) err = run_all(&r, e);
  pu_progress_close(r.bar);
  for (int i = 0; i < b->window && r.ring && sessions; i++) end(&r, &r.ring[i]);
  free(sessions);
  free(r.ring);
  return err;
}
