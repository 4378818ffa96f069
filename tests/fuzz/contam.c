/* Any bytes as an evaluation set, in the form that the first byte says, up to a line of "====", and any bytes behind it
 * as a text that is held against it: what is found lies in the text, in order, and a valid text stays valid when it is
 * cut. The set itself is a text, too. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "puyu/text.h"
#include "src/data/contam.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const pu_contam *c, pu_str text) {
  pu_error e;
  pu_contam_found f = {0};
  pu_buf b;
  pu_buf_init(&b, 1 << 26);
  if (pu_contam_check(c, text, &f, &e) != PU_OK) abort();
  for (size_t i = 0; i < f.n; i++) {
    const pu_contam_hit *h = &f.hits[i];
    if (!(h->share > 0 && h->share <= 1) || h->over != (i < f.n_over) || h->at.len == 0) abort();
    if (h->at.ptr < text.ptr || h->at.ptr + h->at.len > text.ptr + text.len) abort();
    if (i > 0 && h[-1].over == h->over && h[-1].share < h->share) abort();
    if (pu_contam_item_of(c, h->item).number == 0) abort();
  }
  if (pu_contam_cut(&f, text, &b, &e) != PU_OK || b.len > text.len || (f.n_over == 0 && b.len < text.len)) abort();
  if (pu_utf8_valid(text) && !pu_utf8_valid(pu_str_of(b.data ? b.data : "", b.len))) abort();
  pu_buf_deinit(&b);
  pu_contam_found_free(&f);
}

static pu_err add(pu_contam *c, const char *form, pu_str bytes, pu_error *e) {
  static int fd = -1;
  static char path[64];
  char name[32];
  if (fd < 0) fd = memfd_create("set", MFD_CLOEXEC);
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  snprintf(name, sizeof name, "set%s", form);
  if (fd < 0 || ftruncate(fd, 0) != 0 || pwrite(fd, bytes.ptr, bytes.len, 0) != (ssize_t)bytes.len) abort();
  return contam_add_as(c, path, name, e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char *const forms[] = {".json", ".jsonl", ".csv", ".tsv", ".txt"};
  pu_error e;
  pu_contam *c;
  if (size == 0) return 0;
  pu_contam_options o = pu_contam_defaults();
  o.ngram = 5 + data[0] / 16;
  o.near = data[0] & 8;
  o.similarity = 0.3;
  o.share = data[0] & 1 ? 0.2 : 0;
  pu_str set = pu_str_of((const char *)data + 1, size - 1), text = {"", 0};
  const char *line = memmem(set.ptr, set.len, "\n====\n", 6);
  if (line) {
    text = pu_str_of(line + 6, set.len - (size_t)(line + 6 - set.ptr));
    set.len = (size_t)(line - set.ptr);
  }
  if (contam_create(&o, (size_t)1 << 28, &c, &e) != PU_OK) abort();
  pu_err err = add(c, forms[data[0] % PU_COUNT(forms)], set, &e);
  if (err == PU_OK) err = contam_build(c, &e);
  if (err == PU_OK) {
    check(c, text);
    check(c, set);
  }
  if (err != PU_OK && err != PU_ERR_FORMAT && err != PU_ERR_USAGE) abort();
  pu_contam_close(c);
  return 0;
}
