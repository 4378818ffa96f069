/* SentencePiece's normaliser (Kudo & Richardson 2018, section 3.2): longest match against a table of replacements,
 * then spaces. The table is a double array (Aoe 1989) in Darts-clone's layout. */
#include <string.h>

#include "src/text/tokenizer.h"

static uint32_t unit_at(const spm_norm *m, size_t i) {
  const uint8_t *u = m->units + 4 * i;
  return (uint32_t)u[0] | (uint32_t)u[1] << 8 | (uint32_t)u[2] << 16 | (uint32_t)u[3] << 24;
}

/* A unit of the array: bits 0-7 label, 8 "a value follows", 9 wide offset, 10-30 offset; a value has bit 31 set. */
static size_t unit_offset(uint32_t unit) {
  return (size_t)(unit >> 10) << ((unit & 512) >> 6);
}

/* The longest rule that p begins with: its length, its replacement in *to. */
static size_t longest_rule(const spm_norm *m, const uint8_t *p, size_t n, pu_str *to) {
  size_t best = 0, node = unit_offset(unit_at(m, 0));
  for (size_t i = 0; i < n; i++) {
    node ^= p[i];
    if (node >= m->n_units) break;
    uint32_t unit = unit_at(m, node);
    if ((unit & 0x800000FFu) != p[i]) break;
    node ^= unit_offset(unit);
    if (!(unit & 256)) continue;
    if (node >= m->n_units) break;
    size_t at = unit_at(m, node) & 0x7FFFFFFFu;
    if (at >= m->n_strings) break;
    best = i + 1;
    *to = pu_str_of(m->strings + at, strnlen(m->strings + at, m->n_strings - at));
  }
  return best;
}

/* What the text at p becomes, and how many bytes of it that took. */
static size_t next_part(const spm_model *m, const uint8_t *p, size_t n, pu_str *part) {
  int32_t id;
  size_t len = 0;
  if (m->norm.n_units > 0) {
    len = text_trie_longest(&m->user, p, n, &id);
    if (len == 0 && (len = longest_rule(&m->norm, p, n, part)) > 0) return len;
  }
  uint32_t cp;
  if (len == 0) len = pu_utf8_next(pu_str_of((const char *)p, n), &cp);
  if (len == 0) {
    *part = pu_str_of("\xEF\xBF\xBD", 3);
    return 1;
  }
  *part = pu_str_of((const char *)p, len);
  return len;
}

static void put_part(const spm_norm *m, pu_str part, pu_buf *out) {
  for (size_t i = 0; i < part.len; i++) {
    if (part.ptr[i] == ' ' && m->escape_whitespaces) {
      pu_buf_append(out, TEXT_WS, 3);
    } else {
      pu_buf_putc(out, part.ptr[i]);
    }
  }
}

/* The common case: no table, every space stays. Room for three bytes per byte was made by the caller. */
static void copy_plain(const spm_norm *m, const uint8_t *p, size_t n, pu_buf *out) {
  char *to = out->data + out->len;
  for (size_t i = 0; i < n;) {
    uint32_t cp;
    size_t len = 1;
    if (p[i] == ' ' && m->escape_whitespaces) {
      memcpy(to, TEXT_WS, 3);
      to += 3;
    } else if (p[i] < 0x80) {
      *to++ = (char)p[i];
    } else if ((len = pu_utf8_next(pu_str_of((const char *)p + i, n - i), &cp)) == 0) {
      memcpy(to, "\xEF\xBF\xBD", 3);
      to += 3;
      len = 1;
    } else {
      for (size_t k = 0; k < len; k++) *to++ = (char)p[i + k];
    }
    i += len;
  }
  out->len = (size_t)(to - out->data);
  *to = 0;
}

static void put_parts(const spm_model *m, const uint8_t *p, size_t n, pu_buf *out) {
  bool after_space = m->norm.remove_extra_whitespaces;
  pu_str part;
  for (size_t i = 0; i < n;) {
    i += next_part(m, p + i, n - i, &part);
    while (after_space && part.len > 0 && part.ptr[0] == ' ') part = pu_str_of(part.ptr + 1, part.len - 1);
    if (part.len == 0) continue;
    put_part(&m->norm, part, out);
    after_space = m->norm.remove_extra_whitespaces && part.ptr[part.len - 1] == ' ';
  }
}

pu_err spm_normalize(const spm_model *m, pu_str text, bool prefix, pu_buf *out, pu_error *e) {
  const spm_norm *norm = &m->norm;
  const uint8_t *p = (const uint8_t *)text.ptr;
  size_t n = text.len, worst;
  pu_str part, ws = norm->escape_whitespaces ? pu_str_of(TEXT_WS, 3) : pu_str_of(" ", 1);
  prefix = prefix && norm->add_dummy_prefix;
  while (norm->remove_extra_whitespaces && n > 0) {
    size_t len = next_part(m, p, n, &part);
    if (!pu_str_eq(part, pu_str_of(" ", 1))) break;
    p += len;
    n -= len;
  }
  if (n == 0) return PU_OK;
  if (pu_mul_overflows(n, 3, &worst) || !pu_buf_reserve(out, worst + 8)) {
    return pu_fail(e, PU_ERR_NOMEM, "no memory to encode a text of %zu bytes: split it", n);
  }
  size_t begin = out->len;
  if (prefix && !norm->whitespace_as_suffix) pu_buf_append(out, ws.ptr, ws.len);
  if (norm->n_units == 0 && !norm->remove_extra_whitespaces) {
    copy_plain(norm, p, n, out);
  } else {
    put_parts(m, p, n, out);
  }
  while (norm->remove_extra_whitespaces && out->len - begin >= ws.len &&
         memcmp(out->data + out->len - ws.len, ws.ptr, ws.len) == 0) {
    out->len -= ws.len;
  }
  if (prefix && norm->whitespace_as_suffix) pu_buf_append(out, ws.ptr, ws.len);
  return out->failed ? pu_fail(e, PU_ERR_NOMEM, "no memory to encode a text of %zu bytes: split it", n) : PU_OK;
}
