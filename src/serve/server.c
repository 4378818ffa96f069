/* The server: options, who may ask, which route answers, errors in the API's words. */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "src/serve/internal.h"

static const size_t MOST_KEY_FILE = 1 << 20;

/* ---- replies ---- */

void pu_put_error(pu_buf *b, int status, const char *message, const char *param, const char *code) {
  const char *type = status == 401 || status == 403 ? "authentication_error"
                     : status == 429                ? "rate_limit_error"
                     : status >= 500                ? "server_error"
                                                    : "invalid_request_error";
  pu_buf_puts(b, "{\"error\":{\"message\":");
  pu_buf_json_str(b, pu_str_c(message));
  pu_buf_printf(b, ",\"type\":\"%s\",\"param\":", type);
  if (param)
    pu_buf_json_str(b, pu_str_c(param));
  else
    pu_buf_puts(b, "null");
  pu_buf_printf(b, code ? ",\"code\":\"%s\"}}" : ",\"code\":null}}", code);
}

/* Browsers let a page of another origin read an answer only where it says so. */
static void add_cors(const pu_server *sv, pu_http_request *r) {
  if (!sv->o.cors_origin) return;
  pu_http_add_header(r, "Access-Control-Allow-Origin", sv->o.cors_origin);
  if (strcmp(sv->o.cors_origin, "*") != 0) pu_http_add_header(r, "Vary", "Origin");
}

void pu_reply(pu_server *sv, pu_http_request *r, int status, const char *type, pu_str body) {
  pu_metrics_status(&sv->metrics, status);
  add_cors(sv, r);
  pu_http_reply(r, status, type, body);
}

void pu_reply_error(pu_server *sv, pu_http_request *r, int status, const char *message, const char *param,
                    const char *code) {
  pu_buf b;
  pu_buf_init(&b, 1 << 14);
  pu_put_error(&b, status, message, param, code);
  pu_reply(sv, r, status, "application/json", pu_str_of(b.data ? b.data : "", b.len));
  pu_buf_deinit(&b);
}

void pu_reply_json(pu_server *sv, pu_http_request *r, int status, pu_buf *body) {
  if (body->failed)
    pu_reply_error(sv, r, 500, "no memory for the answer", NULL, NULL);
  else
    pu_reply(sv, r, status, "application/json", pu_str_of(body->data, body->len));
  pu_buf_deinit(body);
}

void pu_reply_text(pu_server *sv, pu_http_request *r, const char *type, pu_buf *body) {
  pu_reply(sv, r, 200, type, pu_str_of(body->data ? body->data : "", body->len));
  pu_buf_deinit(body);
}

void pu_reply_failure(pu_server *sv, pu_http_request *r, const pu_error *e, const char *param) {
  static const int status[] = {[PU_ERR_USAGE] = 400, [PU_ERR_FORMAT] = 400,  [PU_ERR_UNSUPPORTED] = 400,
                               [PU_ERR_NOMEM] = 413, [PU_ERR_STOPPED] = 503, [PU_ERR_INTERNAL] = 500};
  int s = (size_t)e->code < PU_COUNT(status) && status[e->code] ? status[e->code] : 500;
  pu_reply_error(sv, r, s, e->msg, s < 500 ? param : NULL, NULL);
}

bool pu_find_model(const pu_server *sv, const char *name, const char **adapter) {
  *adapter = NULL;
  if (strcmp(name, sv->o.model_name) == 0) return true;
  for (size_t i = 0; i < sv->adapters.n && !*adapter; i++)
    if (strcmp(name, sv->adapters.v[i]) == 0) *adapter = sv->adapters.v[i];
  return *adapter != NULL;
}

void pu_put_model(pu_buf *b, const pu_server *sv, const char *adapter) {
  pu_buf_puts(b, "{\"id\":");
  pu_buf_json_str(b, pu_str_c(adapter ? adapter : sv->o.model_name));
  pu_buf_printf(b, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"puyu\",\"max_model_len\":%lld",
                (long long)sv->started, (long long)sv->context);
  if (adapter) pu_buf_puts(b, ",\"parent\":");
  if (adapter) pu_buf_json_str(b, pu_str_c(sv->o.model_name));
  pu_buf_putc(b, '}');
}

void pu_begin_events(pu_server *sv, pu_http_request *r) {
  pu_metrics_status(&sv->metrics, 200);
  add_cors(sv, r);
  pu_http_begin(r, 200, "text/event-stream");
}

/* ---- who may ask ---- */

/* In a time that does not tell where two keys differ. */
static bool same_key(const char *a, const char *b) {
  size_t n = strlen(a), m = strlen(b);
  volatile unsigned char differ = n != m;
  for (size_t i = 0; i < n; i++) differ |= (unsigned char)(a[i] ^ b[m ? i % m : 0]);
  return differ == 0;
}

static bool has_key(const pu_server *sv, const pu_http_request *r) {
  const char *auth = pu_http_header(r, "authorization");
  if (sv->o.n_api_keys == 0) return true;
  if (!auth || strncasecmp(auth, "bearer ", 7) != 0) return false;
  bool found = false;
  for (size_t i = 0; i < sv->o.n_api_keys; i++) found |= same_key(auth + 7, sv->o.api_keys[i]);
  return found;
}

/* A page of another site must not make its visitor's browser ask this server. Programs send no Origin. */
static bool foreign_page(const pu_server *sv, const pu_http_request *r) {
  const char *origin = pu_http_header(r, "origin"), *host = pu_http_header(r, "host");
  const char *allowed = sv->o.cors_origin;
  if (!origin || (allowed && (strcmp(allowed, "*") == 0 || strcmp(allowed, origin) == 0))) return false;
  const char *name = strstr(origin, "://");
  return !name || !host || strcasecmp(name + 3, host) != 0;
}

/* A name without its port and brackets, if it is no longer than a name may be. */
static bool bare_name(const char *host, char name[256]) {
  const char *end = host[0] == '[' ? strchr(++host, ']') : strchr(host, ':');
  size_t n = end ? (size_t)(end - host) : strlen(host);
  if (n > 255) return false;
  memcpy(name, host, n);
  name[n] = 0;
  return true;
}

/* Whoever owns a name can let it mean this machine, and its page then asks here as if at home (DNS rebinding). So where
 * no key is needed, only what nobody else can own is answered to: addresses, localhost, and the name it listens on. */
static bool foreign_name(const pu_server *sv, const pu_http_request *r) {
  const char *host = pu_http_header(r, "host");
  char name[256];
  struct in6_addr any;
  if (!host || sv->o.unix_path || sv->o.insecure || sv->o.n_api_keys) return false;
  if (!bare_name(host, name)) return true;
  bool address = inet_pton(AF_INET, name, &any) == 1 || inet_pton(AF_INET6, name, &any) == 1;
  return !address && strcasecmp(name, "localhost") != 0 && !(sv->o.host && strcasecmp(name, sv->o.host) == 0);
}

/* Clients send headers of their own (OpenAI's a dozen), none of which means anything here: all may come. */
static void preflight(pu_server *sv, pu_http_request *r) {
  const char *asked = pu_http_header(r, "access-control-request-headers");
  pu_http_add_header(r, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
  pu_http_add_header(r, "Access-Control-Allow-Headers", asked && *asked ? asked : "Authorization, Content-Type");
  pu_http_add_header(r, "Access-Control-Max-Age", "86400");
  pu_reply(sv, r, 204, NULL, pu_str_c(""));
}

/* ---- routes ---- */

static bool matches(const char *pattern, const char *path) {
  size_t n = strlen(pattern);
  if (n && pattern[n - 1] == '*') return strncmp(pattern, path, n - 1) == 0 && path[n - 1];
  return strcmp(pattern, path) == 0;
}

static const pu_route *find_route(const char *method, const char *path, bool *path_known) {
  const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method;
  *path_known = false;
  for (size_t i = 0; pu_route_all[i]; i++) {
    if (!matches(pu_route_all[i]->path, path)) continue;
    *path_known = true;
    if (strcmp(pu_route_all[i]->method, wanted) == 0) return pu_route_all[i];
  }
  return NULL;
}

/* RFC 9110, section 15.5.6: the answer says which methods there are. */
static void refuse_method(pu_server *sv, pu_http_request *r) {
  char allowed[64] = "", text[160];
  size_t at = 0;
  for (size_t i = 0; pu_route_all[i] && at < sizeof allowed; i++) {
    const pu_route *known = pu_route_all[i];
    if (!matches(known->path, pu_http_path(r))) continue;
    at += (size_t)snprintf(allowed + at, sizeof allowed - at, "%s%s%s", at ? ", " : "", known->method,
                           strcmp(known->method, "GET") == 0 ? ", HEAD" : "");
  }
  snprintf(text, sizeof text, "this path knows no %.20s; it knows %s", pu_http_method(r), allowed);
  pu_http_add_header(r, "Allow", allowed);
  pu_reply_error(sv, r, 405, text, NULL, NULL);
}

static void handle(void *arg, pu_http_request *r) {
  pu_server *sv = arg;
  bool path_known;
  const char *method = pu_http_method(r);
  const pu_route *route = find_route(method, pu_http_path(r), &path_known);
  if (foreign_page(sv, r)) {
    pu_reply_error(sv, r, 403, "this page's origin may not ask here; the server's --cors names one that may", NULL,
                   NULL);
  } else if (foreign_name(sv, r)) {
    pu_reply_error(sv, r, 403,
                   "this server answers to its address or to localhost, not to another name, unless it has keys", NULL,
                   NULL);
  } else if (sv->o.cors_origin && strcmp(method, "OPTIONS") == 0) {
    preflight(sv, r);
  } else if (!(route && route->open) && !has_key(sv, r)) {
    pu_http_add_header(r, "WWW-Authenticate", "Bearer");
    pu_reply_error(sv, r, 401, "a valid key is needed: Authorization: Bearer KEY", NULL, "invalid_api_key");
  } else if (!route && path_known) {
    refuse_method(sv, r);
  } else if (!route) {
    pu_reply_error(sv, r, 404, "there is nothing at this path", NULL, NULL);
  } else {
    route->handle(sv, r);
  }
}

/* Answers that did not end in time are told so, and get a little more for that to arrive. */
static void begin_drain(pu_server *sv) {
  static const double FAREWELL_SECONDS = 5;
  if (pu_http_draining(sv->http)) return;
  sv->give_up_at = pu_now() + sv->o.drain_seconds;
  pu_http_drain(sv->http, sv->o.drain_seconds + FAREWELL_SECONDS);
}

static void tick(void *arg) {
  pu_server *sv = arg;
  if (sv->give_up_at > 0 && pu_now() >= sv->give_up_at) pu_worker_give_up(sv);
  if (!pu_signals_stop() || pu_http_draining(sv->http)) return;
  pu_log(PU_LOG_INFO, "stopping: running answers get %g seconds to end", sv->o.drain_seconds);
  begin_drain(sv);
}

/* ---- opening ---- */

static bool is_loopback(const char *host) {
  struct in_addr v4;
  struct in6_addr v6;
  if (inet_pton(AF_INET, host, &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
  if (inet_pton(AF_INET6, host, &v6) == 1) return IN6_IS_ADDR_LOOPBACK(&v6);
  return strcmp(host, "localhost") == 0;
}

pu_err pu_server_check(const pu_server_options *o, pu_error *e) {
  const char *host = o->host ? o->host : "127.0.0.1";
  for (size_t i = 0; i < o->n_api_keys; i++)
    if (!o->api_keys[i][0]) return pu_fail(e, PU_ERR_USAGE, "an empty API key would let everybody in");
  if (o->unix_path || o->insecure || o->n_api_keys || is_loopback(host)) return PU_OK;
  return pu_fail(
      e, PU_ERR_USAGE,
      "%s can be reached from outside: give --api-key-file (or PUYU_API_KEYS), or --insecure to let anybody in", host);
}

static pu_err copy_options(pu_server *sv, const pu_server_options *o, pu_error *e) {
  sv->o = *o;
  pu_server_options *c = &sv->o;
  c->model_name = pu_arena_strdup(sv->arena, o->model_name ? o->model_name : "puyu");
  c->cors_origin = o->cors_origin ? pu_arena_strdup(sv->arena, o->cors_origin) : NULL;
  const char **keys = pu_arena_zalloc(sv->arena, (o->n_api_keys + 1) * sizeof *keys);
  bool good = c->model_name && keys && (!o->cors_origin || c->cors_origin);
  for (size_t i = 0; good && i < o->n_api_keys; i++)
    good = (keys[i] = pu_arena_strdup(sv->arena, o->api_keys[i])) != NULL;
  c->api_keys = keys;
  c->host = c->unix_path = c->tls_cert = c->tls_key = NULL;
  if (c->max_sessions <= 0) c->max_sessions = 1;
  if (c->max_queue <= 0) c->max_queue = 256;
  if (!(c->stuck_seconds > 0)) c->stuck_seconds = 120;
  if (!(c->drain_seconds > 0)) c->drain_seconds = 30;
  return good ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory for the server's options");
}

static pu_err name_adapters(pu_server *sv, pu_error *e) {
  size_t n = 0;
  while (pu_engine_adapter_at(sv->en, n)) n++;
  sv->adapters.v = pu_arena_zalloc(sv->arena, (n + 1) * sizeof *sv->adapters.v);
  for (size_t i = 0; i < n && sv->adapters.v; i++) {
    const char *name = pu_engine_adapter_at(sv->en, i);
    if (strcmp(name, sv->o.model_name) == 0)
      return pu_fail(e, PU_ERR_USAGE, "the model and an adapter are both called '%s': requests could not choose", name);
    sv->adapters.v[i] = pu_arena_strdup(sv->arena, name);
    if (!sv->adapters.v[i]) sv->adapters.v = NULL;
  }
  if (!sv->adapters.v) return pu_fail(e, PU_ERR_NOMEM, "no memory for the names of %zu adapters", n);
  sv->adapters.n = n;
  return PU_OK;
}

static size_t longest_piece(const pu_tokenizer *t) {
  size_t most = 1;
  pu_buf b;
  pu_buf_init(&b, PU_BUF_MAX);
  for (int32_t i = 0, n = t ? pu_tokenizer_size(t) : 0; i < n; i++) {
    pu_buf_clear(&b);
    if (pu_tokenizer_bytes(t, i, &b, NULL) == PU_OK) most = PU_MAX(most, b.len);
  }
  pu_buf_deinit(&b);
  return most;
}

pu_err pu_server_lend(pu_server *sv, pu_engine *en, pu_error *e) {
  sv->en = en;
  PU_TRY(name_adapters(sv, e));
  sv->t = pu_engine_tokenizer(en);
  sv->longest_piece = longest_piece(sv->t);
  sv->chat = pu_engine_chat(en);
  sv->context = pu_engine_context(en);
  sv->vocab = pu_engine_model(en)->hp.vocab;
  sv->started = (int64_t)time(NULL);
  sv->metrics.engine = pu_engine_get_stats(en);
  return PU_OK;
}

static pu_err set_up(pu_server *sv, pu_engine *en, const pu_server_options *o, pu_error *e) {
  PU_TRY(pu_server_check(o, e));
  PU_TRY(pu_arena_create((size_t)4 << 20, &sv->arena, e));
  PU_TRY(copy_options(sv, o, e));
  if (en) PU_TRY(pu_server_lend(sv, en, e));
  pu_http_options h = {.host = o->host,
                       .port = o->port,
                       .unix_path = o->unix_path,
                       .tls_cert = o->tls_cert,
                       .tls_key = o->tls_key,
                       .max_body = o->max_body,
                       .handler = handle,
                       .tick = tick,
                       .arg = sv};
  return pu_http_open(&h, &sv->http, e);
}

pu_err pu_server_open(pu_engine *en, const pu_server_options *o, pu_server **out, pu_error *e) {
  *out = NULL;
  pu_server *sv = calloc(1, sizeof *sv);
  if (!sv) return pu_fail(e, PU_ERR_NOMEM, "no memory for a server");
  pthread_mutex_init(&sv->metrics.lock, NULL);
  pu_worker_init(sv);
  pu_err err = set_up(sv, en, o, e);
  if (err)
    pu_server_free(sv);
  else
    *out = sv;
  return err;
}

void pu_server_free(pu_server *sv) {
  if (!sv) return;
  pu_worker_stop(sv);
  pu_http_free(sv->http);
  pu_worker_deinit(sv);
  pthread_mutex_destroy(&sv->metrics.lock);
  pu_grammar_vocab_free(sv->pieces);
  pu_arena_free(sv->arena);
  free(sv);
}

const char *pu_server_url(const pu_server *sv) {
  return pu_http_url(sv->http);
}

int pu_server_port(const pu_server *sv) {
  return pu_http_port(sv->http);
}

pu_err pu_server_run(pu_server *sv, pu_error *e) {
  if (!sv->en) return pu_fail(e, PU_ERR_INTERNAL, "%s: a server without an engine", pu_server_url(sv));
  PU_TRY(pu_worker_start(sv, e));
  pu_err err = pu_http_run(sv->http, e);
  pu_worker_stop(sv);
  return err;
}

static void drain(void *arg) {
  begin_drain(arg);
}

void pu_server_stop(pu_server *sv) {
  if (!pu_http_post(sv->http, drain, sv)) pu_log(PU_LOG_ERROR, "no memory to stop the server");
}

pu_err pu_server_read_keys(const char *path, pu_arena *a, pu_strs *keys, pu_error *e) {
  pu_buf text;
  pu_buf_init(&text, MOST_KEY_FILE);
  pu_err err = pu_file_read(path, MOST_KEY_FILE - 1, &text, e);
  size_t lines = 1;
  for (size_t i = 0; i < text.len; i++) lines += text.data[i] == '\n';
  const char **all = err ? NULL : pu_arena_zalloc(a, (keys->n + lines) * sizeof *all);
  if (!err && !all) err = pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its keys", path);
  if (all && keys->n) memcpy(all, keys->v, keys->n * sizeof *all);
  size_t before = keys->n;
  char *rest = text.data;
  for (char *line; !err && (line = strsep(&rest, "\n"));) {
    line += strspn(line, " \t\r");
    size_t len = strlen(line);
    while (len && strchr(" \t\r", line[len - 1])) len--;
    if (!len || *line == '#') continue;
    all[keys->n] = pu_arena_strndup(a, line, len);
    if (!all[keys->n++]) err = pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its keys", path);
  }
  if (!err) keys->v = all;
  if (!err && keys->n == before) err = pu_fail(e, PU_ERR_FORMAT, "%s: holds no key; write one a line", path);
  pu_buf_deinit(&text);
  return err;
}
