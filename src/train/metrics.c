#include "src/train/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 16 << 20 };

pu_err pu_train_log_open(pu_train_log *l, const char *run, const char *name, pu_error *e) {
  *l = (pu_train_log){.fd = -1};
  pu_buf_init(&l->line, LINE_MAX_BYTES);
  int n = snprintf(l->path, sizeof l->path, "%s/%s", run, name);
  if (n < 0 || (size_t)n >= sizeof l->path)
    return pu_fail(e, PU_ERR_USAGE, "%.80s…: the name of the run is too long", run);
  l->fd = open(l->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (l->fd < 0) return pu_fail(e, PU_ERR_IO, "%s: cannot open: %s", l->path, strerror(errno));
  return PU_OK;
}

void pu_train_log_close(pu_train_log *l) {
  if (l->fd >= 0) close(l->fd);
  pu_buf_deinit(&l->line);
  l->fd = -1;
}

void pu_train_log_begin(pu_train_log *l) {
  pu_buf_clear(&l->line);
  pu_buf_putc(&l->line, '{');
}

static void key_of(pu_train_log *l, const char *key) {
  if (l->line.len > 1) pu_buf_putc(&l->line, ',');
  pu_buf_json_str(&l->line, pu_str_c(key));
  pu_buf_putc(&l->line, ':');
}

void pu_train_log_int(pu_train_log *l, const char *key, int64_t v) {
  key_of(l, key);
  pu_buf_printf(&l->line, "%lld", (long long)v);
}

void pu_train_log_num(pu_train_log *l, const char *key, double v) {
  char text[32];
  pu_format_double(text, v);
  pu_train_log_raw(l, key, text);
}

void pu_train_log_str(pu_train_log *l, const char *key, pu_str v) {
  key_of(l, key);
  pu_buf_json_str(&l->line, v);
}

void pu_train_log_raw(pu_train_log *l, const char *key, const char *json) {
  key_of(l, key);
  pu_buf_puts(&l->line, json);
}

pu_err pu_train_log_end(pu_train_log *l, pu_error *e) {
  pu_buf_puts(&l->line, "}\n");
  if (l->line.failed) return pu_fail(e, PU_ERR_NOMEM, "%s: a line above %d bytes", l->path, LINE_MAX_BYTES);
  for (size_t at = 0; at < l->line.len;) {
    ssize_t n = write(l->fd, l->line.data + at, l->line.len - at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return pu_fail(e, PU_ERR_IO, "%s: cannot write: %s", l->path, strerror(errno));
    at += (size_t)n;
  }
  return PU_OK;
}

pu_err pu_train_log_sync(pu_train_log *l, pu_error *e) {
  if (fdatasync(l->fd) != 0 && errno != EINVAL)
    return pu_fail(e, PU_ERR_IO, "%s: cannot sync: %s", l->path, strerror(errno));
  return PU_OK;
}

pu_err pu_train_log_each(const char *path, pu_str text, pu_train_line_fn fn, void *arg, pu_error *e) {
  bool stop = false;
  long long number = 0;
  for (size_t at = 0; at < text.len && !stop;) {
    const char *newline = memchr(text.ptr + at, '\n', text.len - at);
    if (!newline) break;
    size_t end = (size_t)(newline - text.ptr) + 1;
    json_t *line = NULL;
    number++;
    pu_err err = pu_json_parse(path, pu_str_of(text.ptr + at, end - 1 - at), &line, NULL);
    if (err == PU_ERR_FORMAT && end == text.len) break;
    if (err == PU_ERR_FORMAT)
      return pu_fail(e, err, "%s:%lld: not JSON, and other lines follow: mend or remove the line", path, number);
    if (err != PU_OK) return pu_fail(e, err, "%s:%lld: no memory to read the line", path, number);
    err = fn(arg, line, end, &stop, e);
    json_decref(line);
    PU_TRY(err);
    at = end;
  }
  return PU_OK;
}
