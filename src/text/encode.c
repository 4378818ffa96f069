/* Encoding: what is common to all tokenizers. Added tokens are taken out first, then each stretch between them is cut
 * into words, and words into pieces (spm_encode.c, byte_encode.c). */
#include <stdlib.h>

#include "src/text/encoder.h"
#include "src/text/unicode.h"

/* Whatever a text says, it gives at most three ids a byte (U+FFFD by bytes); this leaves room in 32-bit places. */
#define TEXT_BYTES_MAX ((size_t)1 << 30)

static bool make_room(pu_encoder *enc, bool cache) {
  const spm_model *m = &enc->t->spm;
  if (m->has_unused) {
    enc->halves = calloc((size_t)enc->t->n, sizeof *enc->halves);
    enc->stack = malloc(TEXT_PIECE_MAX * sizeof *enc->stack);
    return enc->halves && enc->stack;
  }
  /* Without byte fallback the ids of a word depend on whether an unknown one came before. */
  if (!cache || m->unigram || (!enc->t->byte_level && !m->byte_fallback)) return true;
  size_t bytes = (size_t)WORD_SETS * 2 * sizeof(word_slot);
  enc->cache = aligned_alloc(sizeof(word_slot), bytes);
  if (enc->cache) memset(enc->cache, 0, bytes);
  return enc->cache;
}

static pu_err encoder_new(const pu_tokenizer *t, bool cache, pu_encoder **out, pu_error *e) {
  pu_encoder *enc = calloc(1, sizeof *enc);
  if (enc) {
    enc->t = t;
    enc->merge = t->byte_level ? byte_merge_word : spm_merge_word;
    pu_buf_init(&enc->norm, PU_BUF_MAX);
  }
  if (!enc || !make_room(enc, cache)) {
    pu_encoder_free(enc);
    return pu_fail(e, PU_ERR_NOMEM, "no memory for an encoder");
  }
  *out = enc;
  return PU_OK;
}

pu_err pu_encoder_create(const pu_tokenizer *t, pu_encoder **out, pu_error *e) {
  return encoder_new(t, true, out, e);
}

pu_err text_encoder_bare(const pu_tokenizer *t, pu_encoder **out, pu_error *e) {
  return encoder_new(t, false, out, e);
}

void pu_encoder_free(pu_encoder *enc) {
  if (!enc) return;
  free(enc->cache);
  bpe_work_deinit(&enc->work);
  free(enc->syms);
  pu_buf_deinit(&enc->norm);
  free(enc->lattice);
  free(enc->halves);
  free(enc->stack);
  free(enc);
}

pu_err text_no_memory(pu_error *e, size_t n) {
  return pu_fail(e, PU_ERR_NOMEM, "no memory to encode a text of %zu bytes: split it", n);
}

bool text_reserve_syms(pu_encoder *enc, size_t n) {
  if (n <= enc->cap_syms) return true;
  size_t cap = PU_MAX(n, enc->cap_syms * 2);
  int32_t *syms = realloc(enc->syms, cap * sizeof *syms);
  if (!syms) return false;
  enc->syms = syms;
  enc->cap_syms = cap;
  return true;
}

bool text_reserve_ids(pu_ids *out, size_t more) {
  if (more <= out->cap - out->n) return true;
  size_t cap, bytes;
  if (pu_add_overflows(out->n, more, &cap) || pu_mul_overflows(PU_MAX(cap, out->cap * 2), sizeof *out->v, &bytes)) {
    return false;
  }
  int32_t *v = realloc(out->v, bytes);
  if (!v) return false;
  out->v = v;
  out->cap = bytes / sizeof *out->v;
  return true;
}

/* ---- added tokens, as Hugging Face's tokenizers find them -------------------------------------------------------- */

static bool stands_alone(const uint8_t *p, size_t n, size_t begin, size_t end) {
  uint32_t cp;
  if (text_utf8_before(p, begin, &cp) > 0 && text_is_word(cp)) return false;
  return !(pu_utf8_next(pu_str_of((const char *)p + end, n - end), &cp) > 0 && text_is_word(cp));
}

static size_t spaces_before(const uint8_t *p, size_t i, size_t least) {
  uint32_t cp;
  for (size_t len; i > least && (len = text_utf8_before(p, i, &cp)) > 0 && text_is_space(cp);) i -= len;
  return PU_MAX(i, least);
}

static size_t spaces_after(const uint8_t *p, size_t n, size_t i) {
  uint32_t cp;
  for (size_t len; (len = pu_utf8_next(pu_str_of((const char *)p + i, n - i), &cp)) > 0 && text_is_space(cp);) i += len;
  return i;
}

/* Did the template write all of p[0..len)? Text that was changed on its way here has no marks, and counts as input. */
static bool unmarked(const pu_encoder *enc, const uint8_t *p, size_t len) {
  uintptr_t at = (uintptr_t)p, begin = (uintptr_t)enc->marked_text;
  return at >= begin && at - begin <= enc->n_marks && len <= enc->n_marks - (at - begin) &&
         !memchr(enc->marks + (at - begin), 1, len);
}

static bool may_match(const pu_encoder *enc, const text_added *a, const uint8_t *p, size_t len) {
  bool guarded = (enc->flags & TEXT_ENCODE_GUARD) && enc->t->pieces[a->id].guarded;
  if (enc->marks && (a->special || guarded)) return unmarked(enc, p, len);
  return !guarded && (!a->special || (enc->flags & PU_ENCODE_SPECIAL));
}

pu_err text_split_added(pu_encoder *enc, const text_trie *trie, const uint8_t *p, size_t n, bool first,
                        encode_part_fn fn, pu_ids *out, pu_error *e) {
  const pu_tokenizer *t = enc->t;
  bool specials = enc->flags & PU_ENCODE_SPECIAL;
  if (trie->n_nodes == 0 || (!specials && !t->has_plain_added)) return n > 0 ? fn(enc, p, n, first, out, e) : PU_OK;
  size_t done = 0;
  for (size_t i = 0, len; i < n;) {
    int32_t k = -1;
    len = text_trie_longest(trie, p + i, n - i, &k);
    const text_added *a = len > 0 ? &t->added[k] : NULL;
    if (!a || !may_match(enc, a, p + i, len) || (a->single_word && !stands_alone(p, n, i, i + len))) {
      i += a && !enc->marks ? len : 1; /* what input begins may end where a marker of the template's begins */
      continue;
    }
    size_t begin = a->lstrip ? spaces_before(p, i, done) : i;
    if (begin > done) PU_TRY(fn(enc, p + done, begin - done, first && done == 0, out, e));
    if (!pu_ids_push(out, a->id)) return text_no_memory(e, n);
    enc->after_unk = false;
    done = i = a->rstrip ? spaces_after(p, n, i + len) : i + len;
  }
  return done < n ? fn(enc, p + done, n - done, first && done == 0, out, e) : PU_OK;
}

/* ---- the calls --------------------------------------------------------------------------------------------------- */

static pu_err encode(pu_encoder *enc, pu_str text, pu_ids *out, pu_error *e) {
  const pu_tokenizer *t = enc->t;
  if (text.len > TEXT_BYTES_MAX) {
    return pu_fail(e, PU_ERR_USAGE, "a text of %zu bytes is too long to encode at once: split it", text.len);
  }
  if ((enc->flags & PU_ENCODE_BOS) && t->bos >= 0 && !pu_ids_push(out, t->bos)) return text_no_memory(e, text.len);
  enc->after_unk = false;
  PU_TRY(text_split_added(enc, &t->added_raw, (const uint8_t *)text.ptr, text.len, true,
                          t->byte_level ? byte_encode_part : spm_encode_part, out, e));
  if ((enc->flags & PU_ENCODE_EOS) && t->eos >= 0 && !pu_ids_push(out, t->eos)) return text_no_memory(e, text.len);
  return PU_OK;
}

pu_err pu_encoder_encode(pu_encoder *enc, pu_str text, unsigned flags, pu_ids *out, pu_error *e) {
  return text_encode_marked(enc, text, NULL, flags, out, e);
}

pu_err text_encode_marked(pu_encoder *enc, pu_str text, const uint8_t *marks, unsigned flags, pu_ids *out,
                          pu_error *e) {
  size_t before = out->n;
  enc->flags = marks ? flags | PU_ENCODE_SPECIAL | TEXT_ENCODE_GUARD : flags;
  enc->marks = marks;
  enc->marked_text = (const uint8_t *)text.ptr;
  enc->n_marks = text.len;
  enc->n_waiting = 0;
  pu_err err = encode(enc, text, out, e);
  if (err != PU_OK) out->n = before;
  return err;
}

pu_err pu_encode(const pu_tokenizer *t, pu_str text, unsigned flags, pu_ids *out, pu_error *e) {
  pu_encoder *enc = NULL;
  PU_TRY(text_encoder_bare(t, &enc, e));
  pu_err err = pu_encoder_encode(enc, text, flags, out, e);
  pu_encoder_free(enc);
  return err;
}
