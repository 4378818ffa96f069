/* Asking a server that speaks OpenAI's API: what is the same for all who ask one. */
#include <stdlib.h>
#include <string.h>

#include "puyu/net.h"

static const double LONGEST_WAIT = 0.1;

/* ---- the server ---- */

static bool copy(const char *s, char **out) {
  *out = s ? strdup(s) : NULL;
  return !s || *out;
}

pu_err pu_api_init(const pu_api_options *o, pu_api *out, pu_error *e) {
  size_t n = strlen(o->url);
  while (n && o->url[n - 1] == '/') n--;
  if (n >= 3 && memcmp(o->url + n - 3, "/v1", 3) == 0) n -= 3;
  *out = (pu_api){0};
  if (!o->any_scheme && strncmp(o->url, "http://", 7) != 0 && strncmp(o->url, "https://", 8) != 0)
    return pu_fail(e, PU_ERR_USAGE, "%s: an address begins with http:// or https://", o->url);
  out->base = strndup(o->url, n);
  bool good = out->base && copy(o->unix_path, &out->unix_path) && copy(o->ca_file, &out->ca_file);
  if (good && o->key && asprintf(&out->header, "Authorization: Bearer %s", o->key) < 0) {
    out->header = NULL;
    good = false;
  }
  if (good) return PU_OK;
  pu_api_deinit(out);
  return pu_fail(e, PU_ERR_NOMEM, "no memory for a server");
}

void pu_api_deinit(pu_api *api) {
  free(api->base);
  free(api->unix_path);
  free(api->ca_file);
  free(api->header);
  *api = (pu_api){0};
}

/* ---- exchanges ---- */

pu_err pu_api_start(const pu_api *api, pu_http_client *c, const char *path, pu_http_ask ask, pu_error *e) {
  const char *const headers[] = {api->header, NULL};
  char *url;
  if (asprintf(&url, "%s%s", api->base, path) < 0) return pu_fail(e, PU_ERR_NOMEM, "no memory for a request");
  ask.url = url;
  ask.unix_path = api->unix_path;
  ask.ca_file = api->ca_file;
  ask.headers = headers;
  pu_err err = pu_http_client_start(c, &ask, NULL, e);
  free(url);
  return err;
}

typedef struct exchange {
  const pu_http_ask *ask;
  pu_api_reply *r;
  bool ended;
} exchange;

static bool on_data(void *arg, int status, pu_str piece) {
  const exchange *x = arg;
  if (x->ask->on_data && status == 200) return x->ask->on_data(x->ask->arg, status, piece);
  return pu_buf_append(&x->r->body, piece.ptr, piece.len);
}

static void on_end(void *arg, int status, pu_err err, const char *why) {
  exchange *x = arg;
  x->r->status = status;
  x->r->err = err;
  x->ended = true;
  if (err) snprintf(x->r->why, sizeof x->r->why, "%s", why);
}

pu_err pu_api_call(const pu_api *api, const char *path, const pu_http_ask *ask, bool (*stop)(void), pu_api_reply *r,
                   pu_error *e) {
  exchange x = {.ask = ask, .r = r};
  pu_http_ask heard = *ask;
  pu_http_client *c;
  bool stopped = false;
  heard.on_data = on_data;
  heard.on_end = on_end;
  heard.arg = &x;
  if (!stop) stop = pu_signals_stop;
  PU_TRY(pu_http_client_open(&c, e));
  pu_err err = pu_api_start(api, c, path, heard, e);
  while (!err && !x.ended && !(stopped = stop())) err = pu_http_client_wait(c, LONGEST_WAIT, e);
  pu_http_client_free(c); /* drops it, if it still runs */
  return !err && stopped ? pu_fail(e, PU_ERR_STOPPED, "%s%s: it was stopped", api->base, path) : err;
}

/* ---- what it answers ---- */

void pu_api_error(int status, pu_str body, char *why, size_t room) {
  json_t *v = json_loadb(body.ptr ? body.ptr : "", body.len, JSON_ALLOW_NUL | JSON_DISABLE_EOF_CHECK, NULL);
  const json_t *m = json_object_get(json_object_get(v, "error"), "message");
  if (!m) m = json_object_get(v, "error");
  if (!json_is_string(m)) m = json_object_get(v, "message");
  if (!m) m = json_object_get(v, "detail");
  pu_str said = json_string_length(m) ? pu_str_of(json_string_value(m), json_string_length(m))
                                      : pu_str_of(body.ptr ? body.ptr : "", PU_MIN(body.len, (size_t)200));
  const char *hint = status == 401 ? " (a key is taken from PUYU_API_KEY)" : "";
  char head[24] = "";
  if (status) snprintf(head, sizeof head, "status %d: ", status);
  size_t around = strlen(head) + strlen(hint) + 1, most = room > around ? room - around : 0;
  snprintf(why, room, "%s%.*s%s", head, (int)PU_MIN(said.len, most), said.ptr, hint);
  for (char *c = why; *c; c++) /* it becomes a part of one line */
    if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = ' ';
  json_decref(v);
}

bool pu_api_is_too_long(int status, const char *why) {
  return status == 400 && (strstr(why, "context") || strstr(why, "too long") || strstr(why, "maximum"));
}

pu_err pu_api_check(const pu_api *api, const char *path, const pu_api_reply *r, pu_error *e) {
  char why[PU_API_WHY];
  if (r->err == PU_ERR_STOPPED) return pu_fail(e, PU_ERR_FORMAT, "%s%s: its answer is too large", api->base, path);
  if (r->err) return pu_fail(e, PU_ERR_IO, "%s%s: %s", api->base, path, r->why);
  if (r->status == 200) return PU_OK;
  pu_api_error(r->status, pu_str_of(r->body.data, r->body.len), why, sizeof why);
  return pu_fail(e, pu_api_is_too_long(r->status, why) ? PU_ERR_USAGE : PU_ERR_IO, "%s%s: %s", api->base, path, why);
}

pu_err pu_api_json(const pu_api *api, const char *path, const pu_api_reply *r, json_t **out, pu_error *e) {
  char url[1024];
  snprintf(url, sizeof url, "%s%s", api->base, path);
  PU_TRY(pu_api_check(api, path, r, e));
  return pu_json_parse(url, pu_str_of(r->body.data ? r->body.data : "", r->body.len), out, e);
}

/* ---- its models ---- */

static pu_err take_model(const json_t *list, const char *wanted, pu_api_model *out, pu_error *e) {
  const json_t *rows = json_object_get(list, "data"), *row = json_array_get(rows, 0);
  for (size_t i = 0; wanted && i < json_array_size(rows); i++) {
    const char *id = json_string_value(json_object_get(json_array_get(rows, i), "id"));
    if (id && strcmp(id, wanted) == 0) row = json_array_get(rows, i);
  }
  const char *owner = json_string_value(json_object_get(row, "owned_by"));
  out->is_puyu = owner && strcmp(owner, "puyu") == 0;
  out->context = PU_MAX(json_integer_value(json_object_get(row, "max_model_len")), 0);
  if (copy(wanted ? wanted : json_string_value(json_object_get(row, "id")), &out->name)) return PU_OK;
  return pu_fail(e, PU_ERR_NOMEM, "no memory for a model's name");
}

pu_err pu_api_find_model(const pu_api *api, const char *wanted, double seconds, pu_api_model *out, pu_error *e) {
  enum { MOST = 16 << 20 };
  static const char path[] = "/v1/models";
  pu_api_reply r = {0};
  json_t *list = NULL;
  *out = (pu_api_model){0};
  pu_buf_init(&r.body, MOST);
  pu_err err = pu_api_call(api, path, &(pu_http_ask){.seconds = seconds}, NULL, &r, e);
  bool no_list = wanted && !r.err && (r.status == 404 || r.status == 405);
  if (!err && !no_list) err = pu_api_json(api, path, &r, &list, e);
  if (!err) err = take_model(list, wanted, out, e);
  json_decref(list);
  pu_buf_deinit(&r.body);
  return err;
}
