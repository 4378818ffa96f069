#include "src/data/parquet/column.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "src/data/parquet/snappy.h"

enum { SLACK = 128 }; /* old writers left the header of the dictionary's page out of a chunk's length */
enum { HEADER_MAX = 64 << 10, DATA_PAGE = 0, DICTIONARY_PAGE = 2, DATA_PAGE_2 = 3 };
enum { PLAIN = 0, PLAIN_DICTIONARY = 2, RLE = 3, RLE_DICTIONARY = 8 };
enum { UNCOMPRESSED = 0, SNAPPY = 1, GZIP = 2, ZSTD = 6 };

typedef struct page_header {
  int type, encoding, level_encoding;
  int64_t unpacked, packed, values;
  int64_t def_len, rep_len; /* of version 2 */
  bool is_packed;
} page_header;

static const char too_much[] = "more than may come out of the file";

static pu_err nomem(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "parquet: no memory");
}

void pu_parquet_column_open(pu_parquet_column *c, const pu_parquet_leaf *leaf, pu_places *file) {
  *c = (pu_parquet_column){.leaf = leaf, .file = file};
  pu_buf_init(&c->page, PU_DOC_MAX + 1);
  pu_buf_init(&c->dictionary, PU_DOC_MAX + 1);
}

void pu_parquet_column_close(pu_parquet_column *c) {
  pu_buf_deinit(&c->page);
  pu_buf_deinit(&c->dictionary);
  free(c->words);
}

void pu_parquet_column_begin(pu_parquet_column *c, const pu_parquet_chunk *chunk) {
  c->codec = chunk->codec;
  c->at = chunk->at;
  c->left = chunk->len + SLACK;
  c->values = chunk->values;
  c->page_values = 0;
  c->n_words = 0;
  c->why = NULL;
}

/* ---- numbers of few bits ----------------------------------------------------------------------------------------- */

static pu_parquet_runs runs_of(pu_str s, int bits) {
  const uint8_t *p = (const uint8_t *)s.ptr;
  return (pu_parquet_runs){.at = p, .end = p + s.len, .bits = bits};
}

static bool run_begin(pu_parquet_runs *r) {
  pu_thrift t = {r->at, r->end, false};
  uint64_t head = pu_thrift_varint(&t);
  size_t bytes = (size_t)(r->bits + 7) / 8;
  if (t.bad) return false;
  r->at = t.at;
  r->packed = head & 1;
  r->left = r->packed ? (head >> 1) * 8 : head >> 1;
  r->window = 0;
  r->held = 0;
  r->value = 0;
  if (r->packed) return head >> 1 <= UINT32_MAX;
  if ((size_t)(r->end - r->at) < bytes) return false;
  for (size_t i = 0; i < bytes; i++) r->value |= (uint32_t)r->at[i] << (8 * i);
  r->at += bytes;
  return true;
}

/* False: there are no more. */
static bool runs_next(pu_parquet_runs *r, uint32_t *out) {
  while (r->left == 0)
    if (!run_begin(r)) return false;
  r->left--;
  if (!r->packed) {
    *out = r->value;
    return true;
  }
  while (r->held < r->bits) {
    if (r->at == r->end) return false;
    r->window |= (uint64_t)*r->at++ << r->held;
    r->held += 8;
  }
  *out = (uint32_t)(r->window & (((uint64_t)1 << r->bits) - 1));
  r->window >>= r->bits;
  r->held -= r->bits;
  return true;
}

static int bits_for(int most) {
  int bits = 0;
  for (; most > 0; most >>= 1) bits++;
  return bits;
}

/* ---- packed bytes ------------------------------------------------------------------------------------------------ */

/* One gzip member or several. */
static bool gzip_unpack(pu_str s, char *out, size_t len) {
  z_stream z = {.next_in = (uint8_t *)(uintptr_t)s.ptr, .avail_in = (unsigned)s.len};
  if (inflateInit2(&z, 47) != Z_OK) return false;
  z.next_out = (uint8_t *)out;
  z.avail_out = (unsigned)len;
  int code = Z_OK;
  while (code == Z_OK) {
    code = inflate(&z, Z_NO_FLUSH);
    if (code == Z_STREAM_END && z.avail_in > 0 && z.avail_out > 0) code = inflateReset(&z);
  }
  bool fine = code == Z_STREAM_END && z.avail_out == 0;
  inflateEnd(&z);
  return fine;
}

/* Appends `want` bytes that s is packed of. */
static pu_err unpack(pu_parquet_column *c, int codec, pu_str s, size_t want, pu_buf *out, pu_error *e) {
  bool fine = false;
  if (pu_input_unpacked(c->file->in, want) < want) {
    c->why = too_much;
    return PU_OK;
  }
  if (!pu_buf_reserve(out, want + 1)) return nomem(e);
  char *to = out->data + out->len;
  switch (codec) {
  case UNCOMPRESSED:
    fine = s.len == want;
    if (fine) memcpy(to, s.ptr, want);
    break;
  case SNAPPY:
    fine = pu_snappy_unpack(s, to, want);
    break;
  case GZIP:
    fine = gzip_unpack(s, to, want);
    break;
  case ZSTD:
    fine = ZSTD_decompress(to, want, s.ptr, s.len) == want;
    break;
  default:
    c->why = "packed in a way that is not read (LZO, Brotli or LZ4)";
    return PU_OK;
  }
  if (fine)
    out->len += want;
  else
    c->why = "a page that does not unpack";
  return PU_OK;
}

/* ---- pages ------------------------------------------------------------------------------------------------------- */

/* Of a page with data, version 1 or 2, or of a dictionary: they share their first two fields' places, not the rest. */
static void data_header_read(pu_thrift *t, page_header *h, int version) {
  for (pu_thrift_field f = {0}; pu_thrift_next(t, &f);) {
    if (f.id == 1)
      h->values = pu_thrift_int(t, &f);
    else if (f.id == (version == 2 ? 4 : 2))
      h->encoding = (int)pu_thrift_int(t, &f);
    else if (f.id == 3 && version == 1)
      h->level_encoding = (int)pu_thrift_int(t, &f);
    else if (f.id == 5 && version == 2)
      h->def_len = pu_thrift_int(t, &f);
    else if (f.id == 6 && version == 2)
      h->rep_len = pu_thrift_int(t, &f);
    else if (f.id == 7 && version == 2)
      h->is_packed = pu_thrift_bool(&f);
    else
      pu_thrift_skip(t, &f);
  }
}

static bool header_read(pu_thrift *t, page_header *h) {
  *h = (page_header){.type = -1, .is_packed = true, .level_encoding = RLE};
  for (pu_thrift_field f = {0}; pu_thrift_next(t, &f);) {
    if (f.id == 1)
      h->type = (int)pu_thrift_int(t, &f);
    else if (f.id == 2)
      h->unpacked = pu_thrift_int(t, &f);
    else if (f.id == 3)
      h->packed = pu_thrift_int(t, &f);
    else if ((f.id == 5 || f.id == 7 || f.id == 8) && pu_thrift_is_struct(t, &f))
      data_header_read(t, h, f.id == 8 ? 2 : f.id == 7 ? 0 : 1);
    else
      pu_thrift_skip(t, &f);
  }
  int64_t most = (int64_t)PU_DOC_MAX;
  return !t->bad && h->unpacked >= 0 && h->packed >= 0 && h->values >= 0 && h->def_len >= 0 && h->rep_len >= 0 &&
         h->unpacked <= most && h->packed <= most && h->def_len <= most && h->rep_len <= most;
}

/* Takes the next value off plain bytes. */
static bool plain_next(pu_parquet_column *c, pu_str *s, pu_str *value) {
  size_t n = c->leaf->type == PU_PARQUET_INT32 ? 4 : 8, head = 0;
  const uint8_t *p = (const uint8_t *)s->ptr;
  if (c->leaf->type == PU_PARQUET_BYTES) {
    if (s->len < 4) return false;
    n = (size_t)p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24;
    head = 4;
  }
  if (s->len - head < n || s->len < head) return false;
  *value = pu_str_of(s->ptr + head, n);
  *s = pu_str_of(s->ptr + head + n, s->len - head - n);
  return true;
}

static pu_err dictionary_read(pu_parquet_column *c, const page_header *h, pu_str s, pu_error *e) {
  pu_buf_clear(&c->dictionary);
  c->n_words = 0;
  PU_TRY(unpack(c, c->codec, s, (size_t)h->unpacked, &c->dictionary, e));
  if (c->why) return PU_OK;
  pu_str left = pu_str_of(c->dictionary.data, c->dictionary.len), word;
  for (int64_t i = 0; i < h->values && plain_next(c, &left, &word); i++) {
    if (c->n_words == c->cap_words) {
      size_t cap = PU_MAX((size_t)256, 2 * c->cap_words);
      pu_str *grown = realloc(c->words, cap * sizeof *grown);
      if (!grown) return nomem(e);
      c->words = grown;
      c->cap_words = cap;
    }
    c->words[c->n_words++] = word;
  }
  return PU_OK;
}

/* Splits levels and values; *values is what is behind the levels. */
static bool levels_split(pu_parquet_column *c, const page_header *h, pu_str page, pu_str *values) {
  int bits = bits_for(c->leaf->max_def);
  size_t at = 0, len = (size_t)h->def_len;
  if (h->type == DATA_PAGE && bits > 0) {
    const uint8_t *p = (const uint8_t *)page.ptr;
    if (page.len < 4) return false;
    len = (size_t)p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24;
    at = 4;
  } else if (h->type == DATA_PAGE_2) {
    at = (size_t)h->rep_len;
  } else {
    len = 0;
  }
  if (at > page.len || len > page.len - at) return false;
  c->levels = runs_of(pu_str_of(page.ptr + at, len), bits);
  *values = pu_str_of(page.ptr + at + len, page.len - at - len);
  return true;
}

static pu_err data_unpack(pu_parquet_column *c, const page_header *h, pu_str s, pu_error *e) {
  size_t levels = h->type == DATA_PAGE_2 ? (size_t)(h->def_len + h->rep_len) : 0;
  pu_buf_clear(&c->page);
  if (levels > s.len || levels > (size_t)h->unpacked) {
    c->why = "a page whose levels are longer than it is";
    return PU_OK;
  }
  PU_TRY(unpack(c, UNCOMPRESSED, pu_str_of(s.ptr, levels), levels, &c->page, e));
  if (c->why || (size_t)h->unpacked == levels) return PU_OK;
  int codec = h->is_packed ? c->codec : UNCOMPRESSED;
  return unpack(c, codec, pu_str_of(s.ptr + levels, s.len - levels), (size_t)h->unpacked - levels, &c->page, e);
}

static pu_err data_read(pu_parquet_column *c, const page_header *h, pu_str s, pu_error *e) {
  pu_str values;
  c->coded = h->encoding == PLAIN_DICTIONARY || h->encoding == RLE_DICTIONARY;
  if (!c->coded && h->encoding != PLAIN) {
    c->why = "values in an encoding that is not read (only plain ones and dictionaries are)";
    return PU_OK;
  }
  if (h->level_encoding != RLE && c->leaf->max_def > 0) {
    c->why = "levels in an encoding that is not read";
    return PU_OK;
  }
  PU_TRY(data_unpack(c, h, s, e));
  if (c->why) return PU_OK;
  if (!levels_split(c, h, pu_str_of(c->page.data ? c->page.data : "", c->page.len), &values)) {
    c->why = "a page whose levels are longer than it is";
    return PU_OK;
  }
  c->plain = values;
  c->page_values = (uint64_t)h->values;
  if (!c->coded || values.len == 0) return PU_OK; /* no value is there: all are null */
  int bits = (uint8_t)values.ptr[0];
  if (bits > 32) c->why = "a page of the dictionary's numbers that is broken";
  c->indexes = runs_of(pu_str_of(values.ptr + 1, values.len - 1), PU_MIN(bits, 32));
  return PU_OK;
}

/* The next page; where there is none left, the chunk is over though it promised values. */
static pu_err page_next(pu_parquet_column *c, pu_error *e) {
  pu_str s;
  page_header h;
  PU_TRY(pu_places_bytes(c->file, c->at, (size_t)PU_MIN(c->left, (uint64_t)HEADER_MAX), &s, e));
  pu_thrift t = pu_thrift_of(s);
  bool whole = header_read(&t, &h);
  size_t used = s.len - (size_t)(t.end - t.at);
  if (pu_input_unpacked(c->file->in, used) < used) { /* row groups may tell of the same pages again and again */
    c->why = too_much;
    return PU_OK;
  }
  if (!whole) {
    c->why =
        s.len == 0 ? "a column that is cut short" : "a page's header that is broken, or a page of more than 64 MiB";
    return PU_OK;
  }
  c->at += used;
  c->left -= used;
  if ((uint64_t)h.packed > c->left) {
    c->why = "a page that is longer than its column";
    return PU_OK;
  }
  PU_TRY(pu_places_bytes(c->file, c->at, (size_t)h.packed, &s, e));
  c->at += (uint64_t)h.packed;
  c->left -= (uint64_t)h.packed;
  if (s.len < (size_t)h.packed)
    c->why = "a file that is cut short";
  else if (h.type == DICTIONARY_PAGE)
    return dictionary_read(c, &h, s, e);
  else if (h.type == DATA_PAGE || h.type == DATA_PAGE_2)
    return data_read(c, &h, s, e);
  return PU_OK;
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

static bool value_next(pu_parquet_column *c, pu_str *value) {
  uint32_t index;
  if (!c->coded) return plain_next(c, &c->plain, value);
  if (!runs_next(&c->indexes, &index) || index >= c->n_words) return false;
  *value = c->words[index];
  return true;
}

static pu_str in_digits(pu_parquet_column *c, pu_str v) {
  uint64_t bits = 0;
  for (size_t i = 0; i < v.len; i++) bits |= (uint64_t)(uint8_t)v.ptr[i] << (8 * i);
  int64_t number = v.len == 4 ? (int64_t)(int32_t)bits : (int64_t)bits;
  int n = snprintf(c->number, sizeof c->number, "%lld", (long long)number);
  return pu_str_of(c->number, (size_t)n);
}

pu_err pu_parquet_column_next(pu_parquet_column *c, pu_str *value, bool *null, bool *found, pu_error *e) {
  *found = false;
  *null = false;
  *value = pu_str_c("");
  while (c->page_values == 0 && c->values > 0 && !c->why) PU_TRY(page_next(c, e));
  if (c->values == 0 || c->why) return PU_OK;
  uint32_t level = (uint32_t)c->leaf->max_def;
  if (level > 0 && !runs_next(&c->levels, &level)) c->why = "a page with fewer values than it says";
  *null = level < (uint32_t)c->leaf->max_def;
  if (!c->why && !*null && !value_next(c, value)) c->why = "a page with fewer values than it says, or broken ones";
  if (c->why) return PU_OK;
  if (!*null && c->leaf->type != PU_PARQUET_BYTES) *value = in_digits(c, *value);
  c->page_values--;
  c->values--;
  *found = true;
  return PU_OK;
}
