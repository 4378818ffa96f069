/* The log of a model on a task: JSON Lines that are only appended to. A line is a head (who is asked what, with "run"),
 * a text that stands before questions ("before"), or a sample ("key"). The last head counts, and the samples of its
 * run. A line that a killed run left half is passed over. */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "src/eval/internal.h"

enum { MOST_LINE = 64 << 20 };

struct eval_log {
  FILE *file; /* NULL: nothing is kept */
  char *path;
  pu_claim *claim;
  json_t *samples, *before; /* by key */
};

/* ---- reading ---- */

pu_err eval_log_each(const char *path, pu_err (*each)(void *arg, json_t *record, pu_error *e), void *arg, pu_error *e) {
  char *line = NULL;
  size_t cap = 0;
  ssize_t n;
  FILE *f = fopen(path, "r");
  if (!f) return pu_fail(e, PU_ERR_IO, "%s: %s", path, strerror(errno));
  pu_err err = PU_OK;
  while (!err && (n = getline(&line, &cap, f)) > 0) {
    json_t *v = n <= MOST_LINE ? json_loadb(line, (size_t)n, JSON_ALLOW_NUL, NULL) : NULL;
    if (json_is_object(v)) err = each(arg, v, e);
    json_decref(v);
  }
  free(line);
  fclose(f);
  return err;
}

static pu_err remember(void *arg, json_t *record, pu_error *e) {
  eval_log *log = arg;
  const char *key = json_string_value(json_object_get(record, "key")),
             *before = json_string_value(json_object_get(record, "before"));
  int bad = 0;
  if (key)
    bad = json_object_set(log->samples, key, record);
  else if (before)
    bad = json_object_set_new(log->before, before, json_true());
  else if (json_object_get(record, "run"))
    bad = json_object_set(log->before, "head", record);
  return bad ? pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the log", log->path) : PU_OK;
}

const json_t *eval_log_find(const eval_log *log, const char *key) {
  return json_object_get(log->samples, key);
}

/* ---- writing ---- */

static pu_err write_line(eval_log *log, const json_t *record, pu_error *e) {
  if (!log->file) return PU_OK;
  char *text = json_dumps(record, JSON_COMPACT);
  if (!text) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for a line", log->path);
  bool bad = fputs(text, log->file) < 0 || fputc('\n', log->file) == EOF || fflush(log->file);
  free(text);
  return bad ? pu_fail(e, PU_ERR_IO, "%s: %s", log->path, strerror(errno)) : PU_OK;
}

pu_err eval_log_put(eval_log *log, json_t *record, pu_error *e) {
  pu_err err = record ? write_line(log, record, e) : pu_fail(e, PU_ERR_NOMEM, "no memory for a line of the log");
  json_decref(record);
  return err;
}

pu_err eval_log_before(eval_log *log, const char *hash, const eval_ask *ask, int64_t shots, pu_error *e) {
  pu_buf text;
  if (!log->file || json_object_get(log->before, hash)) return PU_OK;
  eval_ask alone = *ask;
  alone.question.len = 0;
  pu_buf_init(&text, MOST_LINE);
  bool put = eval_put_prompt(&alone, shots, &text);
  json_t *record = put ? json_pack("{s:s,s:s%}", "before", hash, "text", text.data ? text.data : "", text.len) : NULL;
  pu_buf_deinit(&text);
  if (record) json_object_set_new(log->before, hash, json_true());
  return eval_log_put(log, record, e);
}

/* A killed run may have left half a line. */
static pu_err end_last_line(eval_log *log, pu_error *e) {
  if (fseek(log->file, -1, SEEK_END)) return PU_OK; /* it is empty */
  if (fgetc(log->file) != '\n' && (fseek(log->file, 0, SEEK_END) || fputc('\n', log->file) == EOF))
    return pu_fail(e, PU_ERR_IO, "%s: %s", log->path, strerror(errno));
  return PU_OK;
}

static char *safe(char *name) {
  for (char *p = name; *p; p++)
    if (!isalnum((unsigned char)*p) && !strchr("-_.", *p)) *p = '_';
  return name;
}

static pu_err open_file(eval_log *log, const char *out, const char *model, const char *task, const json_t *head,
                        pu_error *e) {
  char name[200];
  pu_arena *a;
  snprintf(name, sizeof name, "%s", model);
  PU_TRY(pu_arena_create(1 << 20, &a, e));
  const char *dir = pu_path_join(a, out, safe(name)), *path = dir ? pu_arena_printf(a, "%s/%s.jsonl", dir, task) : NULL;
  log->path = path ? strdup(path) : NULL;
  pu_err err = log->path ? pu_claim_open(dir, "lock", &log->claim, e) : pu_fail(e, PU_ERR_NOMEM, "%s: no memory", out);
  pu_arena_free(a);
  PU_TRY(err);
  if (pu_path_exists(log->path)) PU_TRY(eval_log_each(log->path, remember, log, e));
  log->file = fopen(log->path, "a+");
  if (!log->file) return pu_fail(e, PU_ERR_IO, "%s: %s", log->path, strerror(errno));
  PU_TRY(end_last_line(log, e));
  return json_equal(json_object_get(log->before, "head"), head) ? PU_OK : write_line(log, head, e);
}

pu_err eval_log_open(const char *out, const char *model, const char *task, json_t *head, eval_log **result,
                     pu_error *e) {
  eval_log *log = *result = calloc(1, sizeof *log);
  if (log) {
    log->samples = json_object();
    log->before = json_object();
  }
  pu_err err = log && log->samples && log->before && head ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory for a log");
  if (!err && out) err = open_file(log, out, model, task, head, e);
  json_decref(head);
  return err;
}

void eval_log_close(eval_log *log) {
  if (!log) return;
  if (log->file) fclose(log->file);
  pu_claim_close(log->claim);
  json_decref(log->samples);
  json_decref(log->before);
  free(log->path);
  free(log);
}

/* ---- samples ---- */

void eval_sample_read(const json_t *r, eval_sample *out) {
  *out = (eval_sample){.score = json_number_value(json_object_get(r, "score")),
                       .nats = json_number_value(json_object_get(r, "nats")),
                       .tokens = json_integer_value(json_object_get(r, "tokens")),
                       .words = json_integer_value(json_object_get(r, "words")),
                       .bytes = json_integer_value(json_object_get(r, "bytes")),
                       .unread = json_is_true(json_object_get(r, "unread")),
                       .cut = json_is_true(json_object_get(r, "cut")),
                       .too_long = json_is_true(json_object_get(r, "too_long"))};
  const json_t *picks = json_object_get(r, "picks"), *right = json_object_get(r, "right");
  for (int i = 0; i < PU_EVAL_RULES; i++) {
    const json_t *pick = json_object_get(picks, pu_eval_rule_names[i]);
    out->picks[i] = pick ? json_integer_value(pick) == json_integer_value(right) : -1;
  }
}
