/* Bytes as a file that a reader of documents reads to its end. */
#ifndef PUYU_TESTS_FUZZ_READING_H
#define PUYU_TESTS_FUZZ_READING_H

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/data/reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_skip(void *arg, const char *path, uint64_t offset, const char *why) {
  (void)arg, (void)offset;
  if (!path || !why || !why[0]) abort();
}

static pu_err fuzz_read_all(const char *path, const pu_read_options *o, pu_doc *d, pu_error *e) {
  pu_input *in;
  pu_reading *r;
  PU_TRY(pu_input_open(path, 0, 0, o, &in, e));
  PU_TRY(pu_reading_open(in, &r, e));
  pu_err err = PU_OK;
  for (bool found = true; err == PU_OK && found;) {
    err = pu_reading_next(r, d, &found, e);
    pu_str text = pu_str_of(d->text.data ? d->text.data : "", d->text.len);
    if (err == PU_OK && found && (text.len == 0 || d->id.len == 0 || !pu_utf8_valid(text))) abort();
  }
  pu_reading_close(r);
  return err;
}

/* Broken bytes are skipped: they are never an error. format NULL: whatever they look like. */
static int fuzz_read(const char *format, const uint8_t *data, size_t size) {
  static int fd = -1;
  static char path[64];
  const pu_read_options o = {.source = "s", .name = "n", .format = format, .skips = {.skip = fuzz_skip}};
  pu_doc d = {0};
  pu_error e;
  if (fd < 0) fd = memfd_create("input", MFD_CLOEXEC);
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  if (fd < 0 || ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t)size) abort();
  pu_err err = pu_doc_init(&d, &e);
  if (err == PU_OK) err = fuzz_read_all(path, &o, &d, &e);
  pu_doc_deinit(&d);
  if (err != PU_OK && err != PU_ERR_NOMEM) abort();
  return 0;
}

#endif
