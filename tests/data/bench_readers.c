/* How fast files become documents, on one core, from the page cache.
 *
 *   bench_readers FILE...
 *
 * Each file is read five times; the best is told: of the file's bytes, and of documents. */
#include <stdlib.h>

#include "src/data/reader.h"
#include "tests/data/bench_time.h"

typedef struct sums {
  size_t documents, skips;
  uint64_t text, raw;
  double seconds;
} sums;

static void on_skip(void *arg, const char *path, uint64_t offset, const char *why) {
  sums *s = arg;
  (void)path, (void)offset, (void)why;
  s->skips++;
}

static pu_err read_all(const char *path, pu_doc *d, sums *s, pu_error *e) {
  const pu_read_options o = {.source = "bench", .skips = {.skip = on_skip, .arg = s}};
  pu_input *in;
  pu_reading *r;
  double began = used();
  PU_TRY(pu_input_open(path, 0, 0, &o, &in, e));
  PU_TRY(pu_reading_open(in, &r, e));
  pu_err err = PU_OK;
  for (bool found = true; err == PU_OK && found;) {
    err = pu_reading_next(r, d, &found, e);
    s->documents += found;
    s->text += found ? d->text.len : 0;
  }
  s->raw = pu_input_raw(in);
  pu_reading_close(r);
  s->seconds = used() - began;
  return err;
}

int main(int n, char **args) {
  pu_doc d = {0};
  pu_error e;
  pu_err err = pu_doc_init(&d, &e);
  for (int i = 1; err == PU_OK && i < n; i++) {
    sums best = {0};
    for (int k = 0; err == PU_OK && k < 5; k++) {
      sums s = {0};
      err = read_all(args[i], &d, &s, &e);
      if (k == 0 || s.seconds < best.seconds) best = s;
    }
    printf("%-40s %8.1f MB/s %10.0f documents/s; %zu documents, %.1f MB of text, %zu skipped\n", args[i],
           (double)best.raw / best.seconds / 1e6, (double)best.documents / best.seconds, best.documents,
           (double)best.text / 1e6, best.skips);
  }
  pu_doc_deinit(&d);
  if (err != PU_OK) fprintf(stderr, "bench_readers: %s\n", e.msg);
  return err != PU_OK;
}
