#include "src/data/zip.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "src/data/places.h"

enum {
  EOCD = 22,
  EOCD64 = 56,
  LOCATOR64 = 20,
  ENTRY = 46,
  LOCAL = 30,
  TAIL = EOCD + 65535,
  STEP = 64 << 10,
  SEARCHES = 4 << 20
};

struct pu_zip {
  pu_input *in;
  pu_places places;
  pu_buf entries;  /* the central directory */
  uint64_t shift;  /* how far the offsets in it are off (something stands before the archive) */
  size_t at, last; /* of the next entry, of the one before */
  size_t searched; /* entries that pu_zip_find has looked at */
  bool told_broken;
  char *name;
  /* the member */
  uint64_t pos, left; /* of its bytes in the archive */
  bool deflated, inflating, done;
  z_stream z;
  uint32_t crc, crc_told;
};

static uint32_t u16(const char *p) {
  const uint8_t *b = (const uint8_t *)p;
  return (uint32_t)b[0] | (uint32_t)b[1] << 8;
}

static uint32_t u32(const char *p) {
  return u16(p) | u16(p + 2) << 16;
}

static uint64_t u64(const char *p) {
  return u32(p) | (uint64_t)u32(p + 4) << 32;
}

bool pu_zip_looks(pu_str head) {
  return head.len >= 4 && (memcmp(head.ptr, "PK\3\4", 4) == 0 || memcmp(head.ptr, "PK\5\6", 4) == 0);
}

/* ---- the directory ----------------------------------------------------------------------------------------------- */

typedef struct directory {
  uint64_t at, len, end; /* end: where the record that tells of it begins */
} directory;

static pu_err directory64(pu_zip *z, uint64_t eocd, directory *d, pu_error *e) {
  pu_str s;
  if (eocd < LOCATOR64 + EOCD64) return PU_OK;
  PU_TRY(pu_places_bytes(&z->places, eocd - LOCATOR64, LOCATOR64, &s, e));
  if (s.len < LOCATOR64 || memcmp(s.ptr, "PK\6\7", 4) != 0) return PU_OK;
  uint64_t at = u64(s.ptr + 8);
  for (int i = 0; i < 2; i++, at = eocd - LOCATOR64 - EOCD64) { /* where it says, or right before */
    PU_TRY(pu_places_bytes(&z->places, at, EOCD64, &s, e));
    if (s.len < EOCD64 || memcmp(s.ptr, "PK\6\6", 4) != 0) continue;
    *d = (directory){u64(s.ptr + 48), u64(s.ptr + 40), PU_MIN(at, eocd)};
    return PU_OK;
  }
  return PU_OK;
}

/* The record at the end of the archive, behind which only a comment stands. */
static pu_err directory_find(pu_zip *z, directory *d, bool *found, pu_error *e) {
  pu_str tail;
  uint64_t from = z->places.size > TAIL ? z->places.size - TAIL : 0;
  *found = false;
  PU_TRY(pu_places_bytes(&z->places, from, TAIL, &tail, e));
  for (size_t i = tail.len; i >= EOCD && !*found; i--) {
    const char *p = tail.ptr + i - EOCD;
    if (*p != 'P' || memcmp(p, "PK\5\6", 4) != 0 || EOCD + u16(p + 20) > tail.len - (i - EOCD)) continue;
    *found = true;
    uint64_t at = from + i - EOCD;
    *d = (directory){u32(p + 16), u32(p + 12), at};
    if (d->at == UINT32_MAX || d->len == UINT32_MAX || u16(p + 10) == UINT16_MAX) PU_TRY(directory64(z, at, d, e));
  }
  return PU_OK;
}

static pu_err entries_read(pu_zip *z, pu_error *e) {
  directory d = {0};
  bool found;
  PU_TRY(directory_find(z, &d, &found, e));
  if (!found) {
    pu_input_skip(z->in, z->places.size, "a zip archive without its directory: it is cut short");
    return PU_OK;
  }
  if (d.len > d.end || d.at > d.end - d.len) {
    pu_input_skip(z->in, d.end, "a zip archive whose directory is not where it says");
    return PU_OK;
  }
  z->shift = d.end - d.len - d.at;
  if (d.len > PU_DOC_MAX) pu_input_skip(z->in, d.at, "a zip archive with a directory of more than 64 MiB: the rest");
  pu_str s;
  PU_TRY(pu_places_bytes(&z->places, d.at + z->shift, (size_t)PU_MIN(d.len, PU_DOC_MAX), &s, e));
  return pu_buf_append(&z->entries, s.ptr, s.len) ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "zip: no memory");
}

pu_err pu_zip_open(pu_input *in, pu_zip **out, pu_error *e) {
  *out = NULL;
  pu_zip *z = calloc(1, sizeof *z);
  if (!z) return pu_fail(e, PU_ERR_NOMEM, "zip: no memory");
  z->in = in;
  pu_buf_init(&z->entries, PU_DOC_MAX);
  *out = z;
  PU_TRY(pu_places_open(&z->places, in, e));
  return entries_read(z, e);
}

static void member_end(pu_zip *z) {
  if (z->inflating) inflateEnd(&z->z);
  z->inflating = false;
  z->done = true;
}

void pu_zip_close(pu_zip *z) {
  if (!z) return;
  member_end(z);
  pu_places_close(&z->places);
  pu_buf_deinit(&z->entries);
  free(z->name);
  free(z);
}

/* ---- members ----------------------------------------------------------------------------------------------------- */

typedef struct entry {
  uint32_t flags, method;
  uint64_t len, unpacked, at;
  pu_str name;
} entry;

/* Sizes and places that need more than 32 bits stand in an extra field, those that do, in this order. */
static void wide_fields(pu_str extra, entry *t) {
  while (extra.len >= 4) {
    size_t n = u16(extra.ptr + 2);
    if (n > extra.len - 4) return;
    const char *p = extra.ptr + 4, *end = p + n;
    if (u16(extra.ptr) == 1) {
      uint64_t *const to[] = {&t->unpacked, &t->len, &t->at};
      for (size_t i = 0; i < PU_COUNT(to); i++) {
        if (*to[i] != UINT32_MAX || end - p < 8) continue;
        *to[i] = u64(p);
        p += 8;
      }
      return;
    }
    extra = pu_str_of(end, extra.len - 4 - n);
  }
}

/* How long is the entry that begins at a place of the directory? 0: none does. */
static size_t entry_len(const pu_zip *z, size_t at) {
  const char *p = z->entries.data + at;
  size_t there = z->entries.len - at;
  if (there < ENTRY || memcmp(p, "PK\1\2", 4) != 0) return 0;
  size_t len = ENTRY + u16(p + 28) + u16(p + 30) + u16(p + 32);
  return len <= there ? len : 0;
}

/* The next entry of the directory. Where none begins, the one before may have told a wrong length: the search for the
 * next one starts within it. */
static bool entry_next(pu_zip *z, entry *t) {
  if (z->at == z->entries.len) return false;
  size_t len = entry_len(z, z->at);
  if (len == 0 && !z->told_broken) pu_input_skip(z->in, z->places.size, "broken entries in a zip archive's directory");
  z->told_broken = z->told_broken || len == 0;
  for (size_t from = z->last + 1; len == 0; from = z->at + 1) {
    const char *p = from < z->entries.len ? memmem(z->entries.data + from, z->entries.len - from, "PK\1\2", 4) : NULL;
    z->at = p ? (size_t)(p - z->entries.data) : z->entries.len;
    if (!p) return false;
    len = entry_len(z, z->at);
  }
  const char *p = z->entries.data + z->at;
  *t = (entry){u16(p + 8), u16(p + 10), u32(p + 20), u32(p + 24), u32(p + 42), pu_str_of(p + ENTRY, u16(p + 28))};
  z->crc_told = u32(p + 16);
  wide_fields(pu_str_of(p + ENTRY + t->name.len, u16(p + 30)), t);
  z->last = z->at;
  z->at += len;
  return true;
}

/* Names are UTF-8 by a flag, else in whatever the archive's maker had. */
static pu_err name_set(pu_zip *z, const entry *t, pu_error *e) {
  pu_buf text;
  pu_buf_init(&text, (size_t)1 << 20);
  const char *charset = t->flags & 0x800 ? "UTF-8" : pu_charset_find(t->name, NULL);
  pu_err err = pu_charset_convert(t->name, charset, &text, NULL, e);
  for (size_t i = 0; i < text.len; i++)
    if (text.data[i] == '\\' || (uint8_t)text.data[i] < ' ') text.data[i] = text.data[i] == '\\' ? '/' : ' ';
  free(z->name);
  z->name = err == PU_OK ? strdup(text.data ? text.data : "") : NULL;
  pu_buf_deinit(&text);
  return err != PU_OK || z->name ? err : pu_fail(e, PU_ERR_NOMEM, "zip: no memory");
}

static void member_skip(pu_zip *z, uint64_t at, const char *why) {
  char line[400];
  snprintf(line, sizeof line, "%.300s: %s", z->name, why);
  pu_input_skip(z->in, at, line);
}

static pu_err member_begin(pu_zip *z, const entry *t, bool *fine, pu_error *e) {
  pu_str local;
  const char *why = NULL;
  uint64_t at = t->at + z->shift;
  PU_TRY(pu_places_bytes(&z->places, at, LOCAL, &local, e));
  if (local.len < LOCAL || memcmp(local.ptr, "PK\3\4", 4) != 0) why = "not where the archive's directory says";
  if (t->flags & 1) why = "encrypted";
  if (!why && t->method != 0 && t->method != 8) why = "compressed in a way that is not read";
  *fine = !why;
  if (why) {
    member_skip(z, at, why);
    return PU_OK;
  }
  z->pos = at + LOCAL + u16(local.ptr + 26) + u16(local.ptr + 28);
  z->left = t->len;
  z->deflated = t->method == 8;
  z->crc = 0;
  z->done = false;
  if (!z->deflated) return PU_OK;
  z->z = (z_stream){0};
  if (inflateInit2(&z->z, -15) != Z_OK) return pu_fail(e, PU_ERR_NOMEM, "zip: no memory");
  z->inflating = true;
  return PU_OK;
}

void pu_zip_rewind(pu_zip *z) {
  member_end(z);
  z->at = z->last = 0;
}

pu_err pu_zip_find(pu_zip *z, pu_str name, bool *found, pu_error *e) {
  *found = false;
  member_end(z);
  entry t;
  for (size_t from = z->at, rounds = 0; rounds < 2 && z->searched < SEARCHES; z->searched++) {
    bool more = entry_next(z, &t);
    if (more && pu_str_eq(t.name, name)) {
      PU_TRY(name_set(z, &t, e));
      return member_begin(z, &t, found, e);
    }
    if (!more) {
      z->at = z->last = 0;
      rounds++;
    }
    if (rounds == 1 && z->at >= from) return PU_OK; /* once around */
  }
  return PU_OK;
}

pu_err pu_zip_next(void *zip, char **name, bool *more, pu_error *e) {
  pu_zip *z = zip;
  entry t;
  member_end(z);
  for (*more = false; !*more && entry_next(z, &t);) {
    PU_TRY(name_set(z, &t, e));
    *name = z->name;
    if (!pu_member_ignored(z->name)) PU_TRY(member_begin(z, &t, more, e));
  }
  return PU_OK;
}

/* The member is over: well, or for this reason. */
static void member_stop(pu_zip *z, const char *why) {
  if (!why && z->crc != z->crc_told) why = "its checksum is another one";
  if (why) member_skip(z, z->pos, why);
  member_end(z);
}

static pu_err stored_read(pu_zip *z, void *data, size_t len, size_t *got, pu_error *e) {
  pu_str s;
  PU_TRY(pu_places_bytes(&z->places, z->pos, (size_t)PU_MIN(PU_MIN((uint64_t)len, z->left), (uint64_t)STEP), &s, e));
  memcpy(data, s.ptr, s.len);
  *got = s.len;
  z->pos += s.len;
  z->left -= s.len;
  if (s.len == 0) member_stop(z, z->left > 0 ? "cut short" : NULL);
  return PU_OK;
}

static pu_err deflated_read(pu_zip *z, void *data, size_t len, size_t *got, pu_error *e) {
  while (*got == 0 && !z->done) {
    pu_str s;
    PU_TRY(pu_places_bytes(&z->places, z->pos, (size_t)PU_MIN(z->left, (uint64_t)STEP), &s, e));
    z->z.next_in = (uint8_t *)(uintptr_t)s.ptr;
    z->z.avail_in = (unsigned)s.len;
    z->z.next_out = data;
    z->z.avail_out = (unsigned)PU_MIN(len, (size_t)1 << 30);
    unsigned room = z->z.avail_out;
    int code = inflate(&z->z, Z_NO_FLUSH);
    *got = room - z->z.avail_out;
    z->pos += s.len - z->z.avail_in;
    z->left -= s.len - z->z.avail_in;
    z->crc = (uint32_t)crc32(z->crc, data, (unsigned)*got);
    if (code == Z_STREAM_END)
      member_stop(z, NULL);
    else if (code != Z_OK && code != Z_BUF_ERROR)
      member_stop(z, "broken");
    else if (s.len == 0 && *got == 0)
      member_stop(z, "cut short");
  }
  return PU_OK;
}

pu_err pu_zip_read(void *zip, void *data, size_t len, size_t *got, pu_error *e) {
  pu_zip *z = zip;
  *got = 0;
  if (z->done) return PU_OK;
  if (z->deflated) return deflated_read(z, data, len, got, e);
  PU_TRY(stored_read(z, data, len, got, e));
  z->crc = (uint32_t)crc32(z->crc, data, (unsigned)*got);
  return PU_OK;
}
