#include "src/train/history.h"

#include "src/train/metrics.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One line, as JSON, to whoever wants it. */
typedef bool (*line_fn)(pu_train_history *h, json_t *line);

static double number(const json_t *o, const char *key) {
  const json_t *v = json_object_get(o, key);
  return json_is_number(v) ? json_number_value(v) : NAN;
}

static bool add_source(pu_train_history *h, const char *name, double step, double loss) {
  size_t i = 0;
  while (i < h->n_sources && strcmp(h->source_name[i], name) != 0) i++;
  if (i == PU_TRAIN_SOURCES) return true;
  if (i == h->n_sources) {
    if (!(h->source_name[i] = strdup(name))) return false;
    h->n_sources++;
  }
  return pu_train_series_add(&h->source[i], step, loss);
}

static bool add_metrics(pu_train_history *h, json_t *line) {
  const struct {
    pu_train_series *s;
    const char *key;
    double unit;
  } curves[] = {{&h->loss, "loss", 1},      {&h->valid, "valid_loss", 1}, {&h->lr, "lr", 1},
                {&h->norm, "grad_norm", 1}, {&h->rate, "tok_per_s", 1},   {&h->mfu, "mfu", 100}};
  double step = number(line, "step");
  for (size_t i = 0; i < PU_COUNT(curves); i++)
    if (!pu_train_series_add(curves[i].s, step, curves[i].unit * number(line, curves[i].key))) return false;
  const char *name;
  json_t *loss;
  json_object_foreach(json_object_get(line, "source_loss"), name, loss) {
    if (!add_source(h, name, step, json_is_number(loss) ? json_number_value(loss) : NAN)) return false;
  }
  if (!json_object_get(line, "loss")) return true; /* a validation */
  h->steps = isfinite(step) ? (int64_t)step : h->steps;
  h->tokens = (int64_t)json_integer_value(json_object_get(line, "tokens"));
  h->skipped += json_object_get(line, "skipped") != NULL;
  double seconds = number(line, "seconds");
  if (isfinite(seconds)) h->seconds += seconds;
  return true;
}

static bool add_sample(pu_train_history *h, json_t *line) {
  return json_array_append(h->samples, line) == 0;
}

typedef struct reader {
  pu_train_history *h;
  line_fn fn;
  const char *path;
} reader;

static pu_err take_line(void *arg, json_t *line, size_t end, bool *stop, pu_error *e) {
  const reader *r = arg;
  (void)end, (void)stop;
  return r->fn(r->h, line) ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the curves", r->path);
}

static pu_err each_line(pu_train_history *h, const char *path, line_fn fn, pu_error *e) {
  reader r = {h, fn, path};
  pu_buf text;
  pu_buf_init(&text, PU_BUF_MAX);
  pu_err err = pu_file_read(path, PU_BUF_MAX, &text, e);
  if (err == PU_OK) err = pu_train_log_each(path, pu_str_of(text.data, text.len), take_line, &r, e);
  pu_buf_deinit(&text);
  return err;
}

pu_err pu_train_history_read(const char *run, pu_train_history *out, pu_error *e) {
  *out = (pu_train_history){.samples = json_array()};
  pu_buf_init(&out->config, 4 << 20);
  if (!out->samples) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory", run);
  char path[4][PATH_MAX];
  static const char *const names[] = {"metrics.jsonl", "samples.jsonl", "run.json", "config.yaml"};
  for (size_t i = 0; i < PU_COUNT(names); i++)
    if (snprintf(path[i], PATH_MAX, "%s/%s", run, names[i]) >= PATH_MAX)
      return pu_fail(e, PU_ERR_USAGE, "%.80s…: the name of the run is too long", run);
  if (!pu_path_exists(path[0]))
    return pu_fail(e, PU_ERR_IO, "%s: no metrics.jsonl in it: is this the directory of a run?", run);
  PU_TRY(each_line(out, path[0], add_metrics, e));
  if (pu_path_exists(path[1])) PU_TRY(each_line(out, path[1], add_sample, e));
  if (pu_path_exists(path[2])) PU_TRY(pu_json_read(path[2], 1 << 20, &out->facts, e));
  if (pu_path_exists(path[3])) PU_TRY(pu_file_read(path[3], 4 << 20, &out->config, e));
  return PU_OK;
}

void pu_train_history_close(pu_train_history *h) {
  pu_train_series *all[] = {&h->loss, &h->valid, &h->lr, &h->norm, &h->rate, &h->mfu};
  for (size_t i = 0; i < PU_COUNT(all); i++) pu_train_series_deinit(all[i]);
  for (size_t i = 0; i < h->n_sources; i++) {
    pu_train_series_deinit(&h->source[i]);
    free(h->source_name[i]);
  }
  json_decref(h->samples);
  json_decref(h->facts);
  pu_buf_deinit(&h->config);
}
