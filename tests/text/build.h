/* Builds SentencePiece models byte by byte, for the tests. */
#ifndef PUYU_TESTS_TEXT_BUILD_H
#define PUYU_TESTS_TEXT_BUILD_H

#include <string.h>

#include "puyu/text.h"

enum { NORMAL = 1, UNKNOWN, CONTROL, USER, UNUSED, BYTE };

static inline void pb_varint(pu_buf *b, uint64_t v) {
  for (; v >= 128; v >>= 7) pu_buf_putc(b, (char)(v | 128));
  pu_buf_putc(b, (char)v);
}

static inline void pb_number(pu_buf *b, uint32_t field, uint64_t v) {
  pb_varint(b, field << 3);
  pb_varint(b, v);
}

static inline void pb_bytes(pu_buf *b, uint32_t field, pu_str s) {
  pb_varint(b, field << 3 | 2);
  pb_varint(b, s.len);
  pu_buf_append(b, s.ptr, s.len);
}

static inline void spm_piece(pu_buf *b, pu_str text, float score, int type) {
  pu_buf p;
  pu_buf_init(&p, 1 << 20);
  pb_bytes(&p, 1, text);
  pb_varint(&p, 2 << 3 | 5);
  pu_buf_append(&p, &score, 4);
  if (type != NORMAL) pb_number(&p, 3, (uint64_t)type);
  pb_bytes(b, 1, pu_str_of(p.data, p.len));
  pu_buf_deinit(&p);
}

/* <unk> <s> </s>, and the 256 bytes when asked for. */
static inline void spm_begin(pu_buf *b, bool bytes) {
  spm_piece(b, pu_str_c("<unk>"), 0, UNKNOWN);
  spm_piece(b, pu_str_c("<s>"), 0, CONTROL);
  spm_piece(b, pu_str_c("</s>"), 0, CONTROL);
  for (int i = 0; i < 256 && bytes; i++) {
    char name[8];
    spm_piece(b, pu_str_of(name, (size_t)snprintf(name, sizeof name, "<0x%02X>", i)), 0, BYTE);
  }
}

typedef struct spm_settings {
  bool unigram, byte_fallback, dummy_prefix, remove_extra, keep_spaces, suffix;
  pu_str charsmap;
} spm_settings;

static inline void spm_end(pu_buf *b, spm_settings s) {
  pu_buf p;
  pu_buf_init(&p, 1 << 20);
  pb_number(&p, 3, s.unigram ? 1 : 2);
  pb_number(&p, 24, s.suffix);
  pb_number(&p, 35, s.byte_fallback);
  pb_bytes(b, 2, pu_str_of(p.data, p.len));
  pu_buf_clear(&p);
  pb_bytes(&p, 1, pu_str_c("test"));
  if (s.charsmap.len > 0) pb_bytes(&p, 2, s.charsmap);
  pb_number(&p, 3, s.dummy_prefix);
  pb_number(&p, 4, s.remove_extra);
  pb_number(&p, 5, !s.keep_spaces);
  pb_bytes(b, 3, pu_str_of(p.data, p.len));
  pu_buf_deinit(&p);
}

#endif
