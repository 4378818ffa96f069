/* Encoding with byte-level BPE (GPT-2): normalise, take out added tokens, cut into words, merge the bytes of each. */
#include <stdlib.h>
#include <utf8proc.h>

#include "src/text/encoder.h"
#include "src/text/split.h"

/* ---- Unicode normal forms ---------------------------------------------------------------------------------------- */

/* Characters that no composition touches, whatever stands beside them within this set: Latin, the common CJK ranges. */
static bool inert(uint32_t c) {
  return c < 0x300 || (c >= 0x2010 && c <= 0x2027) || (c >= 0x3000 && c <= 0x3029) || (c >= 0x3041 && c <= 0x3096) ||
         (c >= 0x30A1 && c <= 0x30FA) || (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0xFF01 && c <= 0xFF5E);
}

static bool is_composed(const uint8_t *p, size_t n) {
  for (size_t i = 0; i < n;) {
    uint32_t cp;
    size_t len = pu_utf8_next(pu_str_of((const char *)p + i, n - i), &cp);
    if (len == 0 || !inert(cp)) return false;
    i += len;
  }
  return true;
}

/* Bytes up to the first that is not UTF-8. */
static size_t valid_run(const uint8_t *p, size_t n) {
  uint32_t cp;
  size_t i = 0;
  for (size_t len; i < n && (len = pu_utf8_next(pu_str_of((const char *)p + i, n - i), &cp)) > 0;) i += len;
  return i;
}

/* Appends p in a normal form; bytes that are not UTF-8 pass unchanged. */
static pu_err put_normal(const uint8_t *p, size_t n, int options, pu_buf *out, pu_error *e) {
  for (size_t i = 0; i < n;) {
    size_t len = valid_run(p + i, n - i);
    if (len == 0) {
      pu_buf_putc(out, (char)p[i++]);
      continue;
    }
    utf8proc_uint8_t *to = NULL;
    utf8proc_ssize_t got = utf8proc_map(p + i, (utf8proc_ssize_t)len, &to, (utf8proc_option_t)options);
    bool ok = got >= 0 && pu_buf_append(out, to, (size_t)got);
    free(to);
    if (!ok) return text_no_memory(e, n);
    i += len;
  }
  return out->failed ? text_no_memory(e, n) : PU_OK;
}

/* In place in enc->norm, when anything is to be done; *p and *n then point there. */
static pu_err normalize(pu_encoder *enc, const uint8_t **p, size_t *n, pu_error *e) {
  const byte_model *m = &enc->t->bytes;
  for (int i = 0; i < m->n_norms; i++) {
    bool composes = (m->norms[i] & UTF8PROC_COMPOSE) && !(m->norms[i] & UTF8PROC_COMPAT);
    if (composes && is_composed(*p, *n)) continue;
    pu_buf to;
    pu_buf_init(&to, PU_BUF_MAX);
    pu_err err = put_normal(*p, *n, m->norms[i], &to, e);
    pu_buf_deinit(&enc->norm);
    enc->norm = to;
    *p = (const uint8_t *)to.data;
    *n = to.len;
    PU_TRY(err);
  }
  return PU_OK;
}

/* ---- words ------------------------------------------------------------------------------------------------------ */

pu_err byte_merge_word(pu_encoder *enc, const uint8_t *p, size_t n, pu_ids *out, pu_error *e) {
  const byte_model *m = &enc->t->bytes;
  int32_t whole = m->ignore_merges ? text_map_get(&m->raw, pu_str_of((const char *)p, n)) : -1;
  if (whole >= 0 && !enc->t->pieces[whole].special) return pu_ids_push(out, whole) ? PU_OK : text_no_memory(e, n);
  if (!text_reserve_syms(enc, n)) return text_no_memory(e, n);
  size_t count = 0;
  for (size_t i = 0; i < n; i++) {
    int32_t s = m->byte_sym[p[i]] >= 0 ? m->byte_sym[p[i]] : m->unk;
    if (s >= 0) enc->syms[count++] = s;
  }
  PU_TRY(bpe_merge(&enc->t->pairs, &enc->work, enc->syms, &count, NULL, NULL, e));
  if (!text_reserve_ids(out, count)) return text_no_memory(e, n);
  if (count > 0) memcpy(out->v + out->n, enc->syms, count * sizeof *enc->syms);
  out->n += count;
  return PU_OK;
}

typedef struct words {
  pu_encoder *enc;
  pu_ids *out;
} words;

static pu_err put_word(void *arg, const uint8_t *p, size_t n, pu_error *e) {
  const words *w = arg;
  return text_put_word(w->enc, p, n, w->out, e);
}

static pu_err cut_words(pu_encoder *enc, const uint8_t *p, size_t n, pu_ids *out, pu_error *e) {
  const byte_model *m = &enc->t->bytes;
  words w = {enc, out};
  enc->readable = p + n;
  PU_TRY(text_split(m->splits, m->n_splits, p, n, put_word, &w, e));
  return text_flush_words(enc, out, e);
}

static pu_err put_words(pu_encoder *enc, const uint8_t *p, size_t n, bool first, pu_ids *out, pu_error *e) {
  (void)first;
  bool prefix = enc->t->bytes.add_prefix_space && !(enc->flags & PU_ENCODE_NO_PREFIX) && p[0] != ' ';
  if (!prefix) return cut_words(enc, p, n, out, e);
  pu_buf spaced;
  pu_buf_init(&spaced, PU_BUF_MAX);
  pu_buf_putc(&spaced, ' ');
  pu_err err = pu_buf_append(&spaced, p, n) ? cut_words(enc, (const uint8_t *)spaced.data, spaced.len, out, e)
                                            : text_no_memory(e, n);
  pu_buf_deinit(&spaced);
  return err;
}

pu_err byte_encode_part(pu_encoder *enc, const uint8_t *p, size_t n, bool first, pu_ids *out, pu_error *e) {
  PU_TRY(normalize(enc, &p, &n, e));
  if (n == 0) return PU_OK;
  return text_split_added(enc, &enc->t->added_normalized, p, n, first, put_words, out, e);
}
