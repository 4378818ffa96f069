/* Any text through every filter: values are numbers or unknown, a rewritten text is valid UTF-8 that ends with a NUL.
 */
#include <stdlib.h>

#include "src/data/filter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static pu_doc d;
  static void *shared[64];
  static const pu_filter_options o = {.nfkc = true, .mask = true, .width = PU_WIDTH_HALF, .han = PU_HAN_SIMPLIFIED};
  pu_error e;
  if (!d.arena) {
    if (pu_doc_init(&d, &e) != PU_OK) abort();
    for (size_t f = 0; pu_filter_all[f]; f++)
      if (pu_filter_all[f]->open && pu_filter_all[f]->open(&o, &shared[f], &e) != PU_OK) abort();
  }
  if (!pu_utf8_valid(pu_str_of((const char *)data, size))) return 0;
  pu_doc_clear(&d);
  pu_buf_append(&d.text, data, size);
  for (size_t f = 0; pu_filter_all[f]; f++) {
    double values[PU_FILTER_MEASURES];
    for (int i = 0; i < PU_FILTER_MEASURES; i++) values[i] = NAN;
    if (pu_filter_all[f]->apply(shared[f], &d, values, &e) != PU_OK) abort();
    if (!pu_utf8_valid(pu_str_of(d.text.data ? d.text.data : "", d.text.len))) abort();
    if (d.text.data && d.text.data[d.text.len] != '\0') abort();
  }
  return 0;
}
