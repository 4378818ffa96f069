/* Exchanges of a client, by libcurl's multi interface. */
#include <curl/curl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "puyu/net.h"

struct pu_http_client {
  CURLM *multi;
  pu_http_call *calls; /* that run */
  size_t running;
};

struct pu_http_call {
  pu_http_client *c;
  CURL *easy;
  struct curl_slist *headers;
  pu_http_ask ask; /* its strings are the easy handle's, or dead */
  bool stopped;
  char why[CURL_ERROR_SIZE];
  pu_http_call *next, **self;
};

pu_err pu_http_client_open(pu_http_client **out, pu_error *e) {
  *out = NULL;
  if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) return pu_fail(e, PU_ERR_NOMEM, "libcurl does not start");
  pu_http_client *c = calloc(1, sizeof *c);
  if (c) c->multi = curl_multi_init();
  if (!c || !c->multi) {
    free(c);
    return pu_fail(e, PU_ERR_NOMEM, "no memory for an HTTP client");
  }
  *out = c;
  return PU_OK;
}

static void call_free(pu_http_call *call) {
  curl_easy_cleanup(call->easy);
  curl_slist_free_all(call->headers);
  free(call);
}

static int status_of(const pu_http_call *call) {
  long status = 0;
  curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
  return (int)status;
}

/* Takes the call off the list, tells of its end, frees it. */
static void finish(pu_http_call *call, pu_err err, const char *why) {
  pu_http_client *c = call->c;
  int status = status_of(call);
  curl_multi_remove_handle(c->multi, call->easy);
  *call->self = call->next;
  if (call->next) call->next->self = call->self;
  c->running--;
  if (call->ask.on_end) call->ask.on_end(call->ask.arg, status, err, why);
  call_free(call);
}

void pu_http_client_drop(pu_http_call *call) {
  finish(call, PU_ERR_STOPPED, "it was dropped");
}

void pu_http_client_free(pu_http_client *c) {
  if (!c) return;
  while (c->calls) pu_http_client_drop(c->calls);
  curl_multi_cleanup(c->multi);
  free(c);
}

size_t pu_http_client_running(const pu_http_client *c) {
  return c->running;
}

static size_t on_body(char *data, size_t one, size_t n, void *arg) {
  pu_http_call *call = arg;
  size_t len = one * n;
  if (call->ask.on_data && !call->ask.on_data(call->ask.arg, status_of(call), pu_str_of(data, len)))
    call->stopped = true;
  return call->stopped ? CURL_WRITEFUNC_ERROR : len;
}

static bool add_header(pu_http_call *call, const char *line) {
  struct curl_slist *longer = curl_slist_append(call->headers, line);
  if (longer) call->headers = longer;
  return longer != NULL;
}

static bool set_headers(pu_http_call *call) {
  const char *const *line = call->ask.headers;
  bool good =
      !call->ask.body.ptr || (add_header(call, "Content-Type: application/json") && add_header(call, "Expect:"));
  for (; good && line && *line; line++) good = add_header(call, *line);
  return good && (!call->headers || curl_easy_setopt(call->easy, CURLOPT_HTTPHEADER, call->headers) == CURLE_OK);
}

static bool set_up(pu_http_call *call) {
  const pu_http_ask *ask = &call->ask;
  CURL *h = call->easy;
  bool good = curl_easy_setopt(h, CURLOPT_URL, ask->url) == CURLE_OK &&
              curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
              curl_easy_setopt(h, CURLOPT_NOPROXY, "*") == CURLE_OK &&
              curl_easy_setopt(h, CURLOPT_UNIX_SOCKET_PATH, ask->unix_path) == CURLE_OK && set_headers(call);
  if (good && ask->ca_file) good = curl_easy_setopt(h, CURLOPT_CAINFO, ask->ca_file) == CURLE_OK;
  if (good && ask->body.ptr)
    good = curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)ask->body.len) == CURLE_OK &&
           curl_easy_setopt(h, CURLOPT_COPYPOSTFIELDS, ask->body.ptr) == CURLE_OK;
  curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)ceil(ask->seconds * 1000)); /* 0 is any time */
  curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_body);
  curl_easy_setopt(h, CURLOPT_WRITEDATA, call);
  curl_easy_setopt(h, CURLOPT_ERRORBUFFER, call->why);
  curl_easy_setopt(h, CURLOPT_PRIVATE, call);
  return good;
}

pu_err pu_http_client_start(pu_http_client *c, const pu_http_ask *ask, pu_http_call **out, pu_error *e) {
  pu_http_call *call = calloc(1, sizeof *call);
  if (call) call->easy = curl_easy_init();
  if (!call || !call->easy) {
    free(call);
    return pu_fail(e, PU_ERR_NOMEM, "no memory for a request");
  }
  call->c = c;
  call->ask = *ask;
  if (!set_up(call) || curl_multi_add_handle(c->multi, call->easy) != CURLM_OK) {
    call_free(call);
    return pu_fail(e, PU_ERR_USAGE, "%s: cannot be asked: is it an http or https address?", ask->url);
  }
  call->next = c->calls;
  call->self = &c->calls;
  if (call->next) call->next->self = &call->next;
  c->calls = call;
  c->running++;
  if (out) *out = call;
  return PU_OK;
}

pu_err pu_http_client_wait(pu_http_client *c, double seconds, pu_error *e) {
  int running, left;
  CURLMcode bad = curl_multi_poll(c->multi, NULL, 0, (int)(seconds * 1000), NULL);
  if (!bad) bad = curl_multi_perform(c->multi, &running);
  for (CURLMsg *m; !bad && (m = curl_multi_info_read(c->multi, &left));) {
    pu_http_call *call;
    CURLcode code = m->data.result;
    curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &call);
    const char *why = call->why[0] ? call->why : curl_easy_strerror(code);
    finish(call, code == CURLE_OK ? PU_OK : call->stopped ? PU_ERR_STOPPED : PU_ERR_IO, why);
  }
  return bad ? pu_fail(e, PU_ERR_IO, "the HTTP client: %s", curl_multi_strerror(bad)) : PU_OK;
}

/* ---- event streams ---- */

void pu_events_init(pu_events *ev, size_t max) {
  *ev = (pu_events){0};
  pu_buf_init(&ev->line, max);
  pu_buf_init(&ev->data, max);
}

void pu_events_deinit(pu_events *ev) {
  pu_buf_deinit(&ev->line);
  pu_buf_deinit(&ev->data);
}

/* A line is whole. */
static bool take_line(pu_events *ev, bool (*on_event)(void *arg, pu_str data), void *arg) {
  const char *s = ev->line.data ? ev->line.data : "";
  size_t n = ev->line.len;
  if (n == 0) { /* the event is */
    bool go_on = ev->data.len == 0 || on_event(arg, pu_str_of(ev->data.data, ev->data.len - 1));
    pu_buf_clear(&ev->data);
    return go_on;
  }
  if (n >= 4 && memcmp(s, "data", 4) == 0 && (n == 4 || s[4] == ':')) { /* a name alone has an empty value */
    size_t skip = n > 5 && s[5] == ' ' ? 6 : PU_MIN(n, (size_t)5);
    pu_buf_append(&ev->data, s + skip, n - skip);
    pu_buf_putc(&ev->data, '\n');
  }
  pu_buf_clear(&ev->line);
  return !ev->data.failed;
}

bool pu_events_feed(pu_events *ev, pu_str piece, bool (*on_event)(void *arg, pu_str data), void *arg) {
  for (size_t i = 0; i < piece.len; i++) {
    char c = piece.ptr[i];
    bool lf_of_cr = c == '\n' && ev->after_cr;
    ev->after_cr = c == '\r';
    if (lf_of_cr) continue;
    if (c != '\n' && c != '\r') {
      if (!pu_buf_putc(&ev->line, c)) return false;
    } else if (!take_line(ev, on_event, arg)) {
      return false;
    }
  }
  return true;
}
