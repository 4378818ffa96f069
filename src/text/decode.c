/* From ids back to bytes. */
#include <string.h>

#include "src/text/tokenizer.h"

typedef bool (*put_fn)(void *arg, const char *p, size_t n);

static bool put_buf(void *arg, const char *p, size_t n) {
  return pu_buf_append(arg, p, n);
}

/* SentencePiece writes a space as U+2581. At the beginning of a text the one that add_dummy_prefix put there goes
 * again, or all of them where remove_extra_whitespaces says that no text begins with a space. */
static bool put_spm_piece(const spm_norm *m, pu_str s, bool *started, put_fn put, void *arg) {
  bool ok = true;
  if (!*started && (m->add_dummy_prefix || m->remove_extra_whitespaces) && s.len >= 3 &&
      memcmp(s.ptr, TEXT_WS, 3) == 0) {
    s = pu_str_of(s.ptr + 3, s.len - 3);
    *started = !m->remove_extra_whitespaces;
  }
  *started |= s.len > 0;
  for (size_t i = 0, begin = 0; i <= s.len; i++) {
    bool space = i + 3 <= s.len && memcmp(s.ptr + i, TEXT_WS, 3) == 0;
    if (i < s.len && !space) continue;
    if (i > begin) ok = ok && put(arg, s.ptr + begin, i - begin);
    if (space) ok = ok && put(arg, " ", 1);
    begin = space ? i + 3 : i;
    i += space ? 2 : 0;
  }
  return ok;
}

static int byte_of(pu_str piece) {
  int value = 0;
  for (size_t i = 3; i < 5; i++)
    value = value * 16 + (piece.ptr[i] <= '9' ? piece.ptr[i] - '0' : piece.ptr[i] - 'A' + 10);
  return value;
}

static pu_err put_piece(const pu_tokenizer *t, int32_t id, unsigned flags, bool *started, put_fn put, void *arg,
                        pu_error *e) {
  if (id < 0 || id >= t->n) {
    return pu_fail(e, PU_ERR_USAGE, "id %d is not one of the tokenizer's %d; is this its own model?", id, t->n);
  }
  const text_piece *p = &t->pieces[id];
  bool ok = true;
  if (p->special && (flags & PU_DECODE_SKIP_SPECIAL)) return PU_OK;
  if (t->byte_level) {
    ok = put(arg, p->raw.ptr, p->raw.len);
  } else if (p->type == PIECE_UNKNOWN) {
    ok = put(arg, t->spm.unk_surface.ptr, t->spm.unk_surface.len);
    *started = true;
  } else if (p->type == PIECE_BYTE) {
    char byte = (char)byte_of(p->raw);
    ok = put(arg, &byte, 1);
    *started = true;
  } else if (p->special) {
    ok = put(arg, p->text.ptr, p->text.len);
  } else {
    ok = put_spm_piece(&t->spm.norm, p->text, started, put, arg);
  }
  return ok ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory for the text of a token");
}

pu_err pu_decode(const pu_tokenizer *t, const int32_t *ids, size_t n, unsigned flags, pu_buf *out, pu_error *e) {
  bool started = false;
  for (size_t i = 0; i < n; i++) PU_TRY(put_piece(t, ids[i], flags, &started, put_buf, out, e));
  return PU_OK;
}

pu_err pu_tokenizer_bytes(const pu_tokenizer *t, int32_t id, pu_buf *out, pu_error *e) {
  bool started = true;
  return put_piece(t, id, PU_DECODE_SKIP_SPECIAL, &started, put_buf, out, e);
}

/* ---- streaming --------------------------------------------------------------------------------------------------- */

/* Could these bytes become a character with more of them? */
static bool is_beginning(const uint8_t *p, size_t n) {
  static const char ends[4] = {(char)0x80, (char)0x80, (char)0x80, 0};
  size_t want = p[0] < 0xC2 || p[0] > 0xF4 ? 1 : p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
  if (n >= want) return false;
  /* Some continuation makes it valid: the lowest, or (after E0 and F0, which ask for more) the highest one. */
  uint8_t low[4] = {0}, high[4];
  uint32_t cp;
  memcpy(low, p, n);
  memcpy(high, p, n);
  memcpy(low + n, ends, want - n);
  memset(high + n, 0xBF, want - n);
  return pu_utf8_next(pu_str_of((char *)low, want), &cp) > 0 || pu_utf8_next(pu_str_of((char *)high, want), &cp) > 0;
}

typedef struct stream {
  pu_decoder *d;
  pu_buf *out;
} stream;

/* Takes a byte; what it completes is written, and bytes that cannot begin a character become U+FFFD one by one. */
static bool stream_byte(stream *s, uint8_t byte) {
  pu_decoder *d = s->d;
  d->held[d->n_held++] = byte;
  while (d->n_held > 0) {
    uint32_t cp;
    size_t len = pu_utf8_next(pu_str_of((const char *)d->held, d->n_held), &cp);
    if (len == 0 && is_beginning(d->held, d->n_held)) return true;
    bool ok = len > 0 ? pu_buf_append(s->out, d->held, len) : pu_buf_append(s->out, "\xEF\xBF\xBD", 3);
    if (!ok) return false;
    len = PU_MAX(len, 1);
    d->n_held = (uint8_t)(d->n_held - len);
    memmove(d->held, d->held + len, d->n_held);
  }
  return true;
}

static bool put_stream(void *arg, const char *p, size_t n) {
  bool ok = true;
  for (size_t i = 0; i < n; i++) ok = ok && stream_byte(arg, (uint8_t)p[i]);
  return ok;
}

pu_err pu_decoder_push(pu_decoder *d, int32_t id, pu_buf *out, pu_error *e) {
  stream s = {d, out};
  return put_piece(d->t, id, d->flags, &d->started, put_stream, &s, e);
}

bool pu_decoder_finish(pu_decoder *d, pu_buf *out) {
  bool ok = true;
  for (; d->n_held > 0; d->n_held--) ok = ok && pu_buf_append(out, "\xEF\xBF\xBD", 3);
  d->started = false;
  return ok;
}
