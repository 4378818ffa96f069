/* Any text through every filter, as text, Markdown and code: values are numbers or unknown, a rewritten text is valid
 * UTF-8 that ends with a NUL. The words looked for have parts of each other and letters of all sizes. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/data/filter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void open_all(void **shared) {
  static const char lists[] = "he\nshe\nhers\nc++\n赌博\n博彩\nпривет\n";
  static char path[] = "/tmp/puyu-fuzz-XXXXXX";
  static const char *paths[] = {path};
  int fd = mkstemp(path);
  pu_error e;
  if (fd < 0 || write(fd, lists, sizeof lists - 1) != (ssize_t)sizeof lists - 1 || close(fd) != 0) abort();
  pu_filter_options o = {.words = {paths, 1},
                         .domains = {paths, 1},
                         .nfkc = true,
                         .mask = true,
                         .width = PU_WIDTH_HALF,
                         .han = PU_HAN_SIMPLIFIED};
  for (size_t f = 0; pu_filter_all[f]; f++)
    if (pu_filter_all[f]->open && pu_filter_all[f]->open(&o, &shared[f], &e) != PU_OK) abort();
  unlink(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char *const types[] = {"text", "markdown", "code"};
  static pu_doc d;
  static void *shared[64];
  pu_error e;
  if (!d.arena) {
    if (pu_doc_init(&d, &e) != PU_OK) abort();
    open_all(shared);
  }
  if (!pu_utf8_valid(pu_str_of((const char *)data, size))) return 0;
  pu_doc_clear(&d);
  pu_buf_append(&d.text, data, size);
  d.type = pu_str_c(types[size % PU_COUNT(types)]);
  d.url = pu_str_of((const char *)data, size);
  for (size_t f = 0; pu_filter_all[f]; f++) {
    double values[PU_FILTER_MEASURES];
    for (int i = 0; i < PU_FILTER_MEASURES; i++) values[i] = NAN;
    if (pu_filter_all[f]->apply(shared[f], &d, values, &e) != PU_OK) abort();
    if (!pu_utf8_valid(pu_str_of(d.text.data ? d.text.data : "", d.text.len))) abort();
    if (d.text.data && d.text.data[d.text.len] != '\0') abort();
    for (int i = 0; i < PU_FILTER_MEASURES; i++)
      if (isinf(values[i])) abort();
  }
  return 0;
}
