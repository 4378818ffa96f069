#include "src/data/parquet/snappy.h"

#include <string.h>

static bool length_read(const uint8_t **p, const uint8_t *end, uint64_t *out) {
  *out = 0;
  for (unsigned shift = 0; shift < 35 && *p < end; shift += 7) {
    uint8_t b = *(*p)++;
    *out |= (uint64_t)(b & 127) << shift;
    if (b < 128) return true;
  }
  return false;
}

static size_t little(const uint8_t *p, size_t n) {
  size_t v = 0;
  for (size_t i = 0; i < n; i++) v |= (size_t)p[i] << (8 * i);
  return v;
}

/* What was written before may be repeated while it is being written. */
static void copy_back(char *to, size_t offset, size_t n) {
  if (offset >= n) {
    memcpy(to, to - offset, n);
    return;
  }
  for (size_t i = 0; i < n; i++) to[i] = to[i - offset];
}

bool pu_snappy_unpack(pu_str packed, char *out, size_t len) {
  const uint8_t *p = (const uint8_t *)packed.ptr, *end = p + packed.len;
  uint64_t told;
  size_t made = 0;
  if (!length_read(&p, end, &told) || told != len) return false;
  while (p < end) {
    uint8_t tag = *p++;
    size_t kind = tag & 3, n = (tag >> 2) + 1, more = kind == 3 ? 4 : kind;
    if (kind == 0 && n > 60) more = n - 60;
    if ((size_t)(end - p) < more) return false;
    size_t number = little(p, more);
    p += more;
    if (kind == 0) {
      if (more > 0) n = number + 1;
      if (n > (size_t)(end - p) || n > len - made) return false;
      memcpy(out + made, p, n);
      p += n;
    } else {
      size_t offset = kind == 1 ? (size_t)(tag >> 5) << 8 | number : number;
      if (kind == 1) n = (tag >> 2 & 7) + 4;
      if (offset == 0 || offset > made || n > len - made) return false;
      copy_back(out + made, offset, n);
    }
    made += n;
  }
  return made == len;
}
