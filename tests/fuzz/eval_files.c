/* Any bytes as a file: the first chooses whether they are records of JSON Lines, JSON, a table or text, or a log that a
 * report is made of. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "puyu/data.h"
#include "puyu/eval.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { KINDS = 6 };
static const char *const endings[KINDS] = {"jsonl", "json", "csv", "tsv", "txt", "log.jsonl"};
static char folder[] = "/tmp/puyu-fuzz-XXXXXX", paths[KINDS][60];

static void leave(void) {
  for (int i = 0; i < KINDS; i++) unlink(paths[i]);
  rmdir(folder);
}

/* Names with endings for a file in memory. */
static int open_file(void) {
  char target[60];
  int fd = memfd_create("input", MFD_CLOEXEC);
  if (fd < 0 || !mkdtemp(folder)) abort();
  snprintf(target, sizeof target, "/proc/self/fd/%d", fd);
  for (int i = 0; i < KINDS; i++) {
    snprintf(paths[i], sizeof paths[i], "%s/x.%s", folder, endings[i]);
    if (symlink(target, paths[i])) abort();
  }
  atexit(leave);
  return fd;
}

static pu_err take(void *arg, uint64_t number, const json_t *record, pu_error *e) {
  (void)e;
  if (!json_is_object(record) || number == 0) abort();
  ++*(size_t *)arg;
  return PU_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static int fd = -1;
  const char *columns[] = {"a", "b"};
  const pu_strs two = {columns, 2};
  pu_error e = {0};
  size_t n = 0;
  if (fd < 0) fd = open_file();
  if (size == 0) return 0;
  int kind = data[0] % KINDS;
  if (ftruncate(fd, 0) || pwrite(fd, data + 1, size - 1, 0) != (ssize_t)size - 1) abort();
  if (kind < KINDS - 1) {
    pu_err err = pu_records_each(paths[kind], data[0] & 128 ? &two : NULL, take, &n, &e);
    if (err && !e.msg[0]) abort();
    return 0;
  }
  const char *path = paths[kind];
  for (int form = PU_EVAL_TABLE; form <= PU_EVAL_HTML; form++) {
    pu_buf b;
    pu_buf_init(&b, 64 << 20);
    pu_err err = pu_eval_report(&path, 1, (pu_eval_form)form, &b, &e);
    if (err == PU_OK && b.len == 0) abort();
    pu_buf_deinit(&b);
  }
  return 0;
}
