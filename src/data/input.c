/* Bytes of files, of ranges of files and of members of archives: decompressed, made UTF-8 where asked, buffered.
 *
 * Three layers, each pulled by the next: where the bytes lie (source_read), compression (unpacked_read), charset
 * (text_read). What is broken in the compressed bytes ends a gzip member or zstd frame; the next one is looked for. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "src/data/reader.h"

enum { CHUNK = 1 << 18, HEADER = 10, LOOK = 64 << 10 };

typedef enum pack { UNKNOWN, PLAIN, GZIP, ZSTD } pack;

struct pu_input {
  pu_read_options o;
  char *name;
  pu_input *root; /* the file; itself where it is one */
  int depth;
  int fd; /* -1: a member */
  pu_member_read read;
  void *arg;
  uint64_t pos, end; /* of the file: the next byte, and where to stop */
  uint64_t size;     /* of the file on disk */
  uint64_t base;     /* where the range begins */
  uint64_t unpacked; /* root: bytes that came out of compression and archives */
  bool range, full;  /* full: more than the ratio allows came out */
  pack pack;
  z_stream z;
  ZSTD_DStream *zstd;
  uint8_t *in; /* [CHUNK] of the source: [in_at, in_len) is to be unpacked */
  size_t in_at, in_len;
  bool in_ended, member_open; /* member_open: a gzip member or zstd frame has begun and not ended */
  uint64_t member_at;         /* where it begins in the file */
  uint64_t went_back;         /* bytes read a second time to find members */
  pu_recoder *recoder;
  char *coded; /* what is to be recoded: [coded_at, coded_len) */
  size_t coded_at, coded_len, coded_cap;
  bool coded_ended;
  bool is_utf8; /* the charset is known, and what comes out is UTF-8 */
  char *buf;    /* [begin, len) is not yet taken */
  size_t begin, len, cap;
  uint64_t at, number;
  bool ended;
};

static pu_err nomem(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "reading: no memory");
}

const char *pu_input_name(const pu_input *in) {
  return in->name;
}

bool pu_input_packed(const pu_input *in) {
  return in->pack > PLAIN;
}

uint64_t pu_input_at(const pu_input *in) {
  return in->at;
}

uint64_t pu_input_raw(const pu_input *in) {
  return in->root->pos - in->root->base;
}

const pu_read_options *pu_input_options(const pu_input *in) {
  return &in->o;
}

int pu_input_depth(const pu_input *in) {
  return in->depth;
}

uint64_t pu_input_number(const pu_input *in) {
  return in->number;
}

void pu_input_set_number(pu_input *in, uint64_t number) {
  in->number = number;
}

void pu_input_skip(pu_input *in, uint64_t offset, const char *why) {
  if (in->o.skips.skip) in->o.skips.skip(in->o.skips.arg, in->name, offset, why);
}

void pu_input_pass(pu_input *in, uint64_t offset, const char *why) {
  if (!in->o.skips.pass)
    pu_input_skip(in, offset, why);
  else
    in->o.skips.pass(in->o.skips.arg, in->name, offset, why);
}

/* ---- what bytes are ------------------------------------------------------------------------------------------------
 */

static const uint8_t zstd_magic[4] = {0x28, 0xB5, 0x2F, 0xFD};

/* The fields behind the magic number hold few values, so that chance seldom makes a header. */
static bool is_gzip(const uint8_t *p, size_t n) {
  return n >= HEADER && p[0] == 0x1F && p[1] == 0x8B && p[2] == 8 && (p[3] & 0xE0) == 0;
}

static bool is_gzip_for_sure(const uint8_t *p, size_t n) {
  return is_gzip(p, n) && (p[8] == 0 || p[8] == 2 || p[8] == 4) && (p[9] <= 13 || p[9] == 255);
}

static bool is_zstd(const uint8_t *p, size_t n) {
  if (n < 4) return false;
  return memcmp(p, zstd_magic, 4) == 0 || ((p[0] & 0xF0) == 0x50 && memcmp(p + 1, "\x2A\x4D\x18", 3) == 0);
}

/* What the user says is so; what a header says is a hint. */
static const char *charset_of(const pu_input *in, pu_str bytes, const char *hint) {
  const char *told = pu_charset_known(in->o.charset);
  return told ? told : pu_charset_find(bytes, hint);
}

/* ---- where the bytes lie ----------------------------------------------------------------------------------------- */

static pu_err file_read(pu_input *in, uint64_t pos, void *data, size_t len, size_t *got, pu_error *e) {
  *got = 0;
  for (;;) {
    ssize_t n = pread(in->fd, data, len, (off_t)pos);
    if (n < 0 && errno == ESPIPE) n = read(in->fd, data, len);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return pu_fail(e, PU_ERR_IO, "%s: %s", in->name, strerror(errno));
    *got = (size_t)n;
    return PU_OK;
  }
}

/* Counts what came out of compression or an archive; says how much of it may be had. */
static size_t allowed(pu_input *in, size_t n) {
  pu_input *root = in->root;
  if (in->o.own) return n;
  uint64_t base = PU_MAX(root->size, root->pos), most = PU_MAX(base * PU_INPUT_RATIO, PU_INPUT_LEAST);
  if (n <= most - root->unpacked) {
    root->unpacked += n;
    return n;
  }
  n = (size_t)(most - root->unpacked);
  root->unpacked = most;
  if (!root->full)
    pu_input_skip(in, in->at + in->len - in->begin + n, "unpacks to more than 200 times its size: the rest");
  root->full = true;
  return n;
}

static pu_err source_read(pu_input *in, void *data, size_t len, size_t *got, pu_error *e) {
  *got = 0;
  if (in->fd < 0) {
    if (in->root->full) return PU_OK;
    PU_TRY(in->read(in->arg, data, len, got, e));
    *got = allowed(in, *got);
    return PU_OK;
  }
  len = (size_t)PU_MIN((uint64_t)len, in->end - in->pos);
  if (len == 0) return PU_OK;
  PU_TRY(file_read(in, in->pos, data, len, got, e));
  in->pos += *got;
  return PU_OK;
}

/* The first byte behind a line end that is not before from; limit where there is none before it. */
static pu_err line_after(pu_input *in, uint64_t from, uint64_t limit, uint64_t *out, pu_error *e) {
  *out = limit;
  while (from < limit) {
    size_t got;
    PU_TRY(file_read(in, from, in->in, (size_t)PU_MIN((uint64_t)CHUNK, limit - from), &got, e));
    const uint8_t *end = got > 0 ? memchr(in->in, '\n', got) : NULL;
    if (end) *out = from + (uint64_t)(end - in->in) + 1;
    if (end || got == 0) return PU_OK;
    from += got;
  }
  return PU_OK;
}

/* Compressed bytes and UTF-16 have no lines to cut at: the first range gets all of them. Elsewhere the charset is that
 * of the file's first bytes, whatever the range. */
static pu_err is_uncut(pu_input *in, bool *whole, pu_error *e) {
  size_t n;
  PU_TRY(file_read(in, 0, in->in, LOOK, &n, e));
  *whole = is_gzip(in->in, n) || is_zstd(in->in, n);
  pu_str head = pu_str_of((const char *)in->in, n);
  const char *charset = *whole ? "" : charset_of(in, head, NULL);
  *whole = *whole || strncmp(charset, "UTF-16", 6) == 0;
  if (!*whole && !pu_charset_ascii(head)) in->o.charset = charset;
  return PU_OK;
}

/* [begin, end) becomes the lines that begin in it. */
static pu_err range_set(pu_input *in, uint64_t begin, uint64_t end, pu_error *e) {
  end = end == 0 ? in->size : PU_MIN(end, in->size);
  begin = PU_MIN(begin, end);
  bool whole;
  PU_TRY(is_uncut(in, &whole, e));
  if (whole) {
    in->end = begin == 0 ? in->size : 0;
    return PU_OK;
  }
  in->range = true;
  in->base = begin;
  if (begin > 0) PU_TRY(line_after(in, begin - 1, end, &in->pos, e));
  in->end = end;
  /* A line that is longer than any may be is cut, and skipped for its length. */
  uint64_t limit = PU_MIN(in->size, end + PU_DOC_MAX + 2);
  if (end > in->pos && end < in->size) PU_TRY(line_after(in, end - 1, limit, &in->end, e));
  in->at = in->pos;
  in->pack = PLAIN;
  return PU_OK;
}

/* ---- compression ------------------------------------------------------------------------------------------------- */

/* At least `want` bytes to unpack, where there are as many. */
static pu_err in_fill(pu_input *in, size_t want, pu_error *e) {
  while (in->in_len - in->in_at < want && !in->in_ended) {
    memmove(in->in, in->in + in->in_at, in->in_len - in->in_at);
    in->in_len -= in->in_at;
    in->in_at = 0;
    size_t got;
    PU_TRY(source_read(in, in->in + in->in_len, CHUNK - in->in_len, &got, e));
    in->in_len += got;
    in->in_ended = got == 0;
  }
  return PU_OK;
}

static pu_err pack_find(pu_input *in, pu_error *e) {
  PU_TRY(in_fill(in, HEADER, e));
  const uint8_t *p = in->in + in->in_at;
  size_t n = in->in_len - in->in_at;
  in->pack = is_gzip(p, n) ? GZIP : is_zstd(p, n) ? ZSTD : PLAIN;
  if (in->pack == GZIP && inflateInit2(&in->z, 15 + 16) != Z_OK) return nomem(e);
  if (in->pack == ZSTD && !(in->zstd = ZSTD_createDStream())) return nomem(e);
  return PU_OK;
}

static uint64_t in_offset(const pu_input *in) {
  return in->fd < 0 ? 0 : in->pos - (in->in_len - in->in_at);
}

/* Something is broken or no compressed data: recorded, then on to the next header. A member whose end is missing may
 * have swallowed the next one's beginning, so the search starts behind its own; all these searches together read no
 * more than the file once again. */
static pu_err resync(pu_input *in, const char *why, pu_error *e) {
  pu_input_skip(in, in->at + in->len - in->begin, why);
  uint64_t back = in->member_open && in->fd >= 0 ? in_offset(in) - in->member_at : 0;
  if (back > 1 && in->went_back + back <= in->size) {
    in->went_back += back;
    in->pos = in->member_at + 1;
    in->in_at = in->in_len = 0;
    in->in_ended = false;
  }
  in->member_open = false;
  for (;;) {
    PU_TRY(in_fill(in, HEADER, e));
    size_t n = in->in_len - in->in_at;
    if (n < (in->pack == GZIP ? HEADER : 4)) break;
    const uint8_t *p = in->in + in->in_at, first = in->pack == GZIP ? 0x1F : zstd_magic[0];
    if (in->pack == GZIP ? is_gzip_for_sure(p, n) : memcmp(p, zstd_magic, 4) == 0) return PU_OK;
    const uint8_t *next = memchr(p + 1, first, n - 1);
    in->in_at += next ? (size_t)(next - p) : n;
  }
  in->in_at = in->in_len;
  return PU_OK;
}

/* Stands the input before a member's header? Zeros behind the last one are padding. *more false: the end. */
static pu_err member_begin(pu_input *in, bool *more, pu_error *e) {
  *more = false;
  for (;;) {
    PU_TRY(in_fill(in, HEADER, e));
    while (in->pack == GZIP && in->in_at < in->in_len && in->in[in->in_at] == 0) in->in_at++;
    size_t n = in->in_len - in->in_at;
    if (n >= HEADER || in->in_ended) break;
  }
  const uint8_t *p = in->in + in->in_at;
  size_t n = in->in_len - in->in_at;
  if (n == 0) return PU_OK;
  if (!(in->pack == GZIP ? is_gzip(p, n) : is_zstd(p, n))) {
    PU_TRY(resync(in, in->pack == GZIP ? "bytes that are no gzip data" : "bytes that are no zstd data", e));
    if (in->in_at == in->in_len) return PU_OK;
  }
  *more = true;
  in->member_open = true;
  in->member_at = in_offset(in);
  if (in->pack == GZIP)
    inflateReset(&in->z);
  else
    ZSTD_DCtx_reset(in->zstd, ZSTD_reset_session_only);
  return PU_OK;
}

/* One step of decompression. *why NULL: well. */
static void gzip_step(pu_input *in, void *data, size_t len, size_t *got, const char **why) {
  in->z.next_in = in->in + in->in_at;
  in->z.avail_in = (unsigned)(in->in_len - in->in_at);
  in->z.next_out = data;
  in->z.avail_out = (unsigned)PU_MIN(len, (size_t)1 << 30);
  size_t room = in->z.avail_out;
  int code = inflate(&in->z, Z_NO_FLUSH);
  *got = room - in->z.avail_out;
  in->in_at = in->in_len - in->z.avail_in;
  if (code == Z_STREAM_END) in->member_open = false;
  *why = code == Z_OK || code == Z_STREAM_END || code == Z_BUF_ERROR ? NULL : "broken gzip data";
}

static void zstd_step(pu_input *in, void *data, size_t len, size_t *got, const char **why) {
  ZSTD_inBuffer from = {in->in, in->in_len, in->in_at};
  ZSTD_outBuffer to = {data, len, 0};
  size_t left = ZSTD_decompressStream(in->zstd, &to, &from);
  *got = to.pos;
  /* A header may be refused with nothing taken: the search for the next one must not find it again. */
  if (ZSTD_isError(left) && from.pos == in->in_at && from.pos < from.size) from.pos++;
  in->in_at = from.pos;
  if (left == 0) in->member_open = false;
  *why = ZSTD_isError(left) ? ZSTD_getErrorName(left) : NULL;
}

static pu_err unpack(pu_input *in, void *data, size_t len, size_t *got, pu_error *e) {
  *got = 0;
  while (*got == 0 && !in->root->full) {
    bool more = true;
    if (!in->member_open) PU_TRY(member_begin(in, &more, e));
    if (!more) return PU_OK;
    PU_TRY(in_fill(in, 1, e));
    bool starved = in->in_at == in->in_len;
    const char *why;
    if (in->pack == GZIP)
      gzip_step(in, data, len, got, &why);
    else
      zstd_step(in, data, len, got, &why);
    *got = allowed(in, *got);
    if (!why && starved && *got == 0 && in->member_open)
      why = in->pack == GZIP ? "the gzip data is cut short" : "the zstd data is cut short";
    if (why) {
      /* What it gave comes before the gap. */
      PU_TRY(resync(in, why, e));
    }
  }
  return PU_OK;
}

static pu_err unpacked_read(pu_input *in, void *data, size_t len, size_t *got, pu_error *e) {
  if (in->pack == UNKNOWN) PU_TRY(pack_find(in, e));
  if (in->pack != PLAIN) return unpack(in, data, len, got, e);
  size_t held = in->in_len - in->in_at;
  if (held == 0) return source_read(in, data, len, got, e);
  *got = PU_MIN(held, len);
  memcpy(data, in->in + in->in_at, *got);
  in->in_at += *got;
  return PU_OK;
}

/* ---- charset ----------------------------------------------------------------------------------------------------- */

static pu_err text_read(pu_input *in, void *data, size_t len, size_t *got, pu_error *e) {
  if (!in->recoder) return unpacked_read(in, data, len, got, e);
  for (*got = 0; *got == 0;) {
    if (in->coded_len - in->coded_at < 16 && !in->coded_ended) {
      size_t n;
      memmove(in->coded, in->coded + in->coded_at, in->coded_len - in->coded_at);
      in->coded_len -= in->coded_at;
      in->coded_at = 0;
      PU_TRY(unpacked_read(in, in->coded + in->coded_len, in->coded_cap - in->coded_len, &n, e));
      in->coded_len += n;
      in->coded_ended = n == 0;
    }
    size_t n = in->coded_len - in->coded_at;
    if (n == 0 && in->coded_ended) return PU_OK;
    pu_recoder_run(in->recoder, in->coded + in->coded_at, &n, in->coded_ended, data, len, got);
    in->coded_at += n;
  }
  return PU_OK;
}

/* What was read ahead is recoded first. */
static pu_err recode(pu_input *in, const char *charset, pu_error *e) {
  size_t held = in->len - in->begin;
  in->coded_cap = PU_MAX(held, (size_t)CHUNK);
  in->coded = malloc(in->coded_cap);
  if (!in->coded) return nomem(e);
  memcpy(in->coded, in->buf + in->begin, held);
  in->coded_len = held;
  in->begin = in->len = 0;
  in->ended = false;
  return pu_recoder_open(charset, &in->recoder, e);
}

pu_err pu_input_as_text(pu_input *in, pu_error *e) {
  pu_str head;
  PU_TRY(pu_input_peek(in, LOOK, &head, e));
  const char *charset = charset_of(in, head, NULL);
  if (strcmp(charset, "UTF-8") != 0) PU_TRY(recode(in, charset, e));
  in->is_utf8 = in->recoder || !pu_charset_ascii(head);
  PU_TRY(pu_input_peek(in, 3, &head, e));
  if (in->at == 0) pu_input_take(in, pu_str_mark(head));
  return PU_OK;
}

/* ---- what is given out ------------------------------------------------------------------------------------------- */

/* Room for a chunk behind what is there. Bytes are moved no more often than as many are taken. */
static pu_err make_room(pu_input *in, pu_error *e) {
  size_t held = in->len - in->begin, need = held + CHUNK;
  if (in->cap - in->begin >= need) return PU_OK;
  if (in->begin > 0 && in->begin >= held) {
    memcpy(in->buf, in->buf + in->begin, held);
    in->begin = 0;
    in->len = held;
    if (in->cap >= need) return PU_OK;
  }
  size_t cap = PU_MAX(in->begin + need, in->cap + in->cap / 2);
  char *grown = realloc(in->buf, cap);
  if (!grown) return nomem(e);
  in->buf = grown;
  in->cap = cap;
  return PU_OK;
}

static pu_err fill(pu_input *in, pu_error *e) {
  size_t got;
  PU_TRY(make_room(in, e));
  PU_TRY(text_read(in, in->buf + in->len, in->cap - in->len, &got, e));
  in->len += got;
  in->ended = got == 0;
  return PU_OK;
}

pu_err pu_input_peek(pu_input *in, size_t want, pu_str *out, pu_error *e) {
  want = PU_MIN(want, PU_INPUT_PEEK);
  while (in->len - in->begin < want && !in->ended) PU_TRY(fill(in, e));
  *out = pu_str_of(in->buf ? in->buf + in->begin : "", in->len - in->begin);
  return PU_OK;
}

void pu_input_take(pu_input *in, size_t n) {
  n = PU_MIN(n, in->len - in->begin);
  in->begin += n;
  in->at += n;
}

pu_err pu_input_read(pu_input *in, void *data, size_t len, size_t *got, pu_error *e) {
  pu_str s;
  *got = 0;
  PU_TRY(pu_input_peek(in, 1, &s, e));
  *got = PU_MIN(s.len, len);
  memcpy(data, s.ptr, *got);
  pu_input_take(in, *got);
  return PU_OK;
}

/* The rest of a line that is too long. */
static pu_err line_pass(pu_input *in, pu_error *e) {
  pu_input_skip(in, in->at, "a line of more than 64 MiB");
  for (;;) {
    pu_str s;
    PU_TRY(pu_input_peek(in, 1, &s, e));
    const char *end = s.len > 0 ? memchr(s.ptr, '\n', s.len) : NULL;
    pu_input_take(in, end ? (size_t)(end - s.ptr) + 1 : s.len);
    if (end || s.len == 0) return PU_OK;
  }
}

pu_err pu_input_line(pu_input *in, pu_str *line, bool *found, pu_error *e) {
  for (size_t looked = 0;;) {
    char *base = in->buf + in->begin;
    size_t there = in->len - in->begin;
    char *end = there > looked ? memchr(base + looked, '\n', there - looked) : NULL;
    size_t len = end ? (size_t)(end - base) : there;
    if (len > (in->o.own ? PU_OWN_LINE_MAX : PU_DOC_MAX)) {
      in->number++;
      PU_TRY(line_pass(in, e));
      looked = 0;
      continue;
    }
    *found = end || (in->ended && there > 0);
    if (*found) {
      *line = pu_str_of(base, len);
      if (len > 0 && base[len - 1] == '\r') line->len--;
      pu_input_take(in, len + (end != NULL));
      in->number++;
      return PU_OK;
    }
    if (in->ended) return PU_OK;
    looked = there;
    PU_TRY(fill(in, e));
  }
}

pu_err pu_input_rest(pu_input *in, size_t max, pu_str *out, bool *cut, pu_error *e) {
  pu_str s;
  PU_TRY(pu_input_peek(in, max + 1, &s, e));
  *cut = s.len > max;
  *out = pu_str_of(s.ptr, PU_MIN(s.len, max));
  in->at += s.len;
  in->begin += s.len;
  in->ended = true; /* the rest stays where it is */
  return PU_OK;
}

/* ---- opening and closing ----------------------------------------------------------------------------------------- */

static pu_err input_new(const pu_read_options *o, pu_input **out, pu_error *e) {
  pu_input *in = calloc(1, sizeof *in);
  if (!in) return nomem(e);
  *in = (pu_input){.o = *o, .fd = -1, .root = in};
  in->in = malloc(CHUNK);
  *out = in;
  return in->in ? PU_OK : nomem(e);
}

static pu_err file_open(pu_input *in, const char *path, uint64_t begin, uint64_t end, pu_error *e) {
  struct stat st;
  in->name = strdup(in->o.name ? in->o.name : path);
  if (!in->name) return nomem(e);
  in->fd = open(path, O_RDONLY | O_CLOEXEC);
  if (in->fd < 0 || fstat(in->fd, &st) != 0) return pu_fail(e, PU_ERR_IO, "%s: %s", path, strerror(errno));
  if (S_ISDIR(st.st_mode)) return pu_fail(e, PU_ERR_IO, "%s: a folder, where a file is needed", path);
  in->size = (uint64_t)st.st_size;
  in->end = S_ISREG(st.st_mode) ? in->size : INT64_MAX; /* a pipe ends where it ends */
  return begin > 0 || end > 0 ? range_set(in, begin, end, e) : PU_OK;
}

pu_err pu_input_open(const char *path, uint64_t begin, uint64_t end, const pu_read_options *o, pu_input **out,
                     pu_error *e) {
  pu_input *in = NULL;
  *out = NULL;
  pu_err err = input_new(o, &in, e);
  if (err == PU_OK) err = file_open(in, path, begin, end, e);
  if (err != PU_OK) {
    pu_input_close(in);
    return err;
  }
  *out = in;
  return PU_OK;
}

pu_err pu_input_member(pu_input *parent, const char *name, pu_member_read read, void *arg, pu_input **out,
                       pu_error *e) {
  pu_input *in = NULL;
  *out = NULL;
  pu_err err = input_new(&parent->o, &in, e);
  size_t len = strlen(parent->name) + strlen(name) + 2;
  if (err == PU_OK && !(in->name = malloc(len))) err = nomem(e);
  if (err != PU_OK) {
    pu_input_close(in);
    return err;
  }
  snprintf(in->name, len, "%s/%s", parent->name, name);
  in->root = parent->root;
  in->depth = parent->depth + 1;
  in->read = read;
  in->arg = arg;
  *out = in;
  return PU_OK;
}

void pu_input_close(pu_input *in) {
  if (!in) return;
  if (in->fd >= 0) close(in->fd);
  if (in->pack == GZIP) inflateEnd(&in->z);
  ZSTD_freeDStream(in->zstd);
  pu_recoder_close(in->recoder);
  free(in->coded);
  free(in->in);
  free(in->buf);
  free(in->name);
  free(in);
}

bool pu_input_seekable(const pu_input *in, uint64_t *size) {
  *size = in->size;
  return in->fd >= 0 && in->pack == PLAIN && !in->range && !in->recoder && in->end == in->size;
}

size_t pu_input_unpacked(pu_input *in, size_t n) {
  return allowed(in, n);
}

bool pu_input_full(const pu_input *in) {
  return in->root->full;
}

void pu_input_seek(pu_input *in, uint64_t offset) {
  if (offset >= in->at && offset - in->at <= in->len - in->begin) {
    pu_input_take(in, (size_t)(offset - in->at));
    return;
  }
  in->pos = in->at = PU_MIN(offset, in->size);
  in->in_at = in->in_len = 0;
  in->begin = in->len = 0;
  in->in_ended = in->ended = false;
}

/* ---- documents out of bytes -------------------------------------------------------------------------------------- */

static bool is_number(pu_str s) {
  size_t sign = s.len > 0 && s.ptr[0] == '-';
  for (size_t i = sign; i < s.len; i++)
    if (s.ptr[i] < '0' || s.ptr[i] > '9') return false;
  return s.len > sign && s.len <= 20;
}

/* What follows FILE in an id. A number of its own ("#153") is one of its file, as every file of a set may have it. In a
 * range of a file records are counted from the byte that it begins with: not by '+', which joined documents have. */
static void id_number(const pu_input *in, pu_str own, char text[64]) {
  unsigned long long base = in->base, number = PU_MAX(in->number, (uint64_t)1);
  if (own.len > 0)
    snprintf(text, 64, "#%.*s", (int)own.len, own.ptr);
  else if (base > 0)
    snprintf(text, 64, ":%llu.%llu", base, number);
  else
    snprintf(text, 64, ":%llu", number);
}

pu_err pu_doc_place(pu_input *in, pu_doc *out, pu_error *e) {
  if (in->o.source) out->source = pu_str_c(in->o.source);
  if (in->o.repository) out->repository = pu_str_c(in->o.repository);
  if (out->id.len > 0 && !is_number(out->id)) return PU_OK;
  char number[64];
  id_number(in, out->id, number);
  const char *source = in->o.source ? in->o.source : "", *slash = in->o.source ? "/" : "";
  const char *name = in->o.id ? in->o.id : "", *below = in->o.id ? in->name + strlen(in->root->name) : in->name;
  size_t size = strlen(source) + strlen(name) + strlen(below) + sizeof number + 2;
  char *id = pu_arena_alloc(out->arena, size);
  if (!id) return nomem(e);
  snprintf(id, size, "%s%s%s%s%s", source, slash, name, below, number);
  out->id = pu_doc_keep(out, pu_str_c(id));
  return PU_OK;
}

pu_err pu_read_text(pu_input *in, pu_doc *out, pu_str bytes, const char *charset, pu_error *e) {
  PU_TRY(pu_doc_place(in, out, e));
  if (!in->is_utf8) {
    const char *found = charset_of(in, bytes, charset);
    if (strcmp(found, "UTF-8") != 0) {
      pu_buf_clear(&out->spare);
      PU_TRY(pu_charset_convert(bytes, found, &out->spare, NULL, e));
      bytes = pu_str_of(out->spare.data, out->spare.len);
    }
  }
  size_t mark = pu_str_mark(bytes);
  if (mark) bytes = pu_str_of(bytes.ptr + mark, bytes.len - mark);
  PU_TRY(pu_text_append(bytes, &out->text, e));
  pu_buf_clear(&out->spare);
  return PU_OK;
}

pu_err pu_read_rest(pu_input *in, pu_doc *out, bool *found, pu_error *e) {
  pu_str s;
  bool cut;
  PU_TRY(pu_input_rest(in, PU_DOC_MAX, &s, &cut, e));
  *found = s.len > 0;
  if (cut) pu_input_skip(in, PU_DOC_MAX, "more than 64 MiB: the rest");
  return *found ? pu_read_text(in, out, s, NULL, e) : PU_OK;
}
