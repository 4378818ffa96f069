/* Encoding as SentencePiece does it, to the same ids.
 *
 * BPE. The library merges over the whole text, which is slow on long ones. Two neighbouring characters that stand side
 * by side in no piece can never be merged over, so the text may be cut between them and each part merged alone: the
 * result is the same, since merges in different parts do not see each other and ties are broken from left to right.
 * The parts ("words") are short, and frequent ones come from a cache. The relation is kept as a bitmap of hashes:
 * a collision only leaves out a cut.
 *
 * Unused pieces take part in merging, and are then taken apart again into what they were last seen to be made of
 * anywhere in the text; for models that have such pieces the text is therefore merged whole.
 *
 * Unigram (Kudo 2018): Viterbi over all pieces, whole, because rounding depends on the sum so far. */
#include <stdlib.h>

#include "src/text/encoder.h"

/* A symbol that is a user-defined piece: an id without rules. */
#define FROZEN (1 << 29)

static bool put_id(pu_encoder *enc, pu_ids *out, int32_t id) {
  if (id == enc->t->spm.unk) {
    if (enc->after_unk) return true;
    enc->after_unk = true;
  } else {
    enc->after_unk = false;
  }
  return pu_ids_push(out, id);
}

/* A character without a piece: by its bytes, or unknown. */
static bool put_unknown(pu_encoder *enc, const uint8_t *p, size_t n, pu_ids *out) {
  const spm_model *m = &enc->t->spm;
  if (!m->byte_fallback) return m->unk < 0 || put_id(enc, out, m->unk);
  bool ok = true;
  for (size_t i = 0; i < n; i++) ok = ok && put_id(enc, out, m->byte_id[p[i]]);
  return ok;
}

static int32_t char_symbol(const spm_model *m, const uint8_t *p, size_t len) {
  return p[0] < 0x80 ? m->ascii[p[0]] : text_map_get(&m->chars, pu_str_of((const char *)p, len));
}

/* ---- models with unused pieces ----------------------------------------------------------------------------------- */

static void note_halves(void *arg, int32_t left, int32_t right, int32_t id) {
  pu_encoder *enc = arg;
  if (enc->t->pieces[id].type != PIECE_UNUSED) return;
  enc->halves[id][0] = left;
  enc->halves[id][1] = right;
}

/* Writes symbol s, which stands at p, taking unused pieces apart. Returns how many bytes it covered. */
static size_t put_symbol(pu_encoder *enc, int32_t s, const uint8_t *p, size_t n, pu_ids *out, bool *ok) {
  const pu_tokenizer *t = enc->t;
  size_t top = 0, at = 0;
  for (;;) {
    uint32_t code;
    size_t len = spm_char(p + at, n - at, &code);
    if (s >= FROZEN) {
      s -= FROZEN;
      len = t->pieces[s].raw.len;
      *ok = *ok && put_id(enc, out, s);
    } else if (s < 0 || s >= t->n) {
      *ok = *ok && put_unknown(enc, p + at, len, out);
    } else if (t->pieces[s].type == PIECE_UNUSED && t->pieces[s].raw.len > len) {
      enc->stack[top++] = enc->halves[s][1];
      s = enc->halves[s][0];
      continue;
    } else {
      len = t->pieces[s].raw.len;
      *ok = *ok && put_id(enc, out, s);
    }
    at += len;
    if (top == 0) return at;
    s = enc->stack[--top];
  }
}

/* May piece id come from the text p[0..n)? A special piece may not under its own name (a configuration can declare a
 * user-defined piece special), nor a marker inside a chat's contents under any. */
static bool allowed(const pu_encoder *enc, int32_t id, const uint8_t *p, size_t n) {
  const text_piece *piece = &enc->t->pieces[id];
  if ((enc->flags & TEXT_ENCODE_GUARD) && piece->guarded) return false;
  return !piece->special || !pu_str_eq(piece->text, pu_str_of((const char *)p, n));
}

/* Length of the user-defined piece at p, or 0. */
static size_t user_piece(const pu_encoder *enc, const uint8_t *p, size_t n, uint32_t code, int32_t *id) {
  const spm_model *m = &enc->t->spm;
  if (!text_bit(m->user_first, spm_first_hash(code))) return 0;
  size_t len = text_trie_longest(&m->user, p, n, id);
  return len > 0 && allowed(enc, *id, p, len) ? len : 0;
}

static pu_err merge_whole(pu_encoder *enc, const uint8_t *p, size_t n, pu_ids *out, pu_error *e) {
  const pu_tokenizer *t = enc->t;
  if (!text_reserve_syms(enc, n)) return text_no_memory(e, n);
  size_t count = 0;
  for (size_t i = 0, len; i < n; i += len) {
    uint32_t code;
    int32_t id = 0;
    len = spm_char(p + i, n - i, &code);
    size_t user = user_piece(enc, p + i, n - i, code, &id);
    enc->syms[count++] = user > 0 ? id + FROZEN : char_symbol(&t->spm, p + i, len);
    if (user > 0) len = user;
  }
  PU_TRY(bpe_merge(&t->pairs, &enc->work, enc->syms, &count, note_halves, enc, e));
  bool ok = true;
  size_t at = 0;
  for (size_t i = 0; i < count; i++) at += put_symbol(enc, enc->syms[i], p + at, n - at, out, &ok);
  return ok ? PU_OK : text_no_memory(e, n);
}

/* ---- BPE by words ------------------------------------------------------------------------------------------------ */

pu_err spm_merge_word(pu_encoder *enc, const uint8_t *p, size_t n, pu_ids *out, pu_error *e) {
  const pu_tokenizer *t = enc->t;
  if (!text_reserve_syms(enc, n)) return text_no_memory(e, n);
  size_t count = 0, at = 0;
  uint32_t code;
  for (size_t i = 0, len; i < n; i += len) {
    len = spm_char(p + i, n - i, &code);
    enc->syms[count++] = char_symbol(&t->spm, p + i, len);
  }
  PU_TRY(bpe_merge(&t->pairs, &enc->work, enc->syms, &count, NULL, NULL, e));
  for (size_t i = 0; i < count; i++) {
    int32_t s = enc->syms[i];
    bool known = s >= 0 && s < t->n;
    size_t len = known ? t->pieces[s].raw.len : spm_char(p + at, n - at, &code);
    if (!(known ? put_id(enc, out, s) : put_unknown(enc, p + at, len, out))) return text_no_memory(e, n);
    at += len;
  }
  return PU_OK;
}

static pu_err merge_by_words(pu_encoder *enc, const uint8_t *p, size_t n, pu_ids *out, pu_error *e) {
  const spm_model *m = &enc->t->spm;
  size_t begin = 0;
  uint32_t before = 0, code;
  for (size_t i = 0, len; i < n; i += len, before = code) {
    int32_t id = 0;
    len = spm_char(p + i, n - i, &code);
    size_t user = user_piece(enc, p + i, n - i, code, &id);
    bool cut = user > 0 || !text_bit(m->joins, spm_join_hash(before, code));
    if (i > begin && cut) {
      PU_TRY(text_put_word(enc, p + begin, i - begin, out, e));
      begin = i;
    }
    if (user == 0) continue;
    PU_TRY(text_flush_words(enc, out, e));
    if (!put_id(enc, out, id)) return text_no_memory(e, n);
    len = user;
    begin = i + len;
  }
  if (n > begin) PU_TRY(text_put_word(enc, p + begin, n - begin, out, e));
  return text_flush_words(enc, out, e);
}

/* ---- Unigram ----------------------------------------------------------------------------------------------------- */

static void reach(lattice_node *node, double score, uint32_t from, int32_t id) {
  if (node->reached && !(score > node->score)) return;
  *node = (lattice_node){id, (float)score, from, true};
}

/* All pieces that begin at `at`. The library's arithmetic: sums in double, kept in float; a user-defined piece scores
 * better than anything; a character that is no piece costs ten more than the worst one. */
static void extend(pu_encoder *enc, const uint8_t *p, size_t n, size_t at) {
  const pu_tokenizer *t = enc->t;
  const spm_model *m = &t->spm;
  float here = enc->lattice[at].score;
  size_t char_len = PU_MIN(spm_char_len(p[at]), n - at);
  bool single = false;
  uint32_t node = 0;
  for (size_t i = at; i < n && (node = text_trie_step(&m->pieces, node, p[i])) != 0; i++) {
    int32_t id = m->pieces.value[node];
    if (id < 0 || t->pieces[id].type == PIECE_UNUSED) continue;
    size_t len = i + 1 - at;
    if (!allowed(enc, id, p + at, len)) continue;
    double score = t->pieces[id].type == PIECE_USER ? (float)len * m->max_score - 0.1 : (double)t->pieces[id].score;
    reach(&enc->lattice[at + len], score + here, (uint32_t)at, id);
    single |= len == char_len;
  }
  float unk_score = m->min_score - 10.0f;
  if (!single) reach(&enc->lattice[at + char_len], unk_score + here, (uint32_t)at, m->unk);
}

static pu_err viterbi(pu_encoder *enc, const uint8_t *p, size_t n, pu_ids *out, pu_error *e) {
  const pu_tokenizer *t = enc->t;
  if (n + 1 > enc->cap_lattice) {
    lattice_node *lattice = realloc(enc->lattice, (n + 1) * sizeof *lattice);
    if (!lattice) return text_no_memory(e, n);
    enc->lattice = lattice;
    enc->cap_lattice = n + 1;
  }
  memset(enc->lattice, 0, (n + 1) * sizeof *enc->lattice);
  for (size_t at = 0; at < n; at += PU_MIN(spm_char_len(p[at]), n - at)) extend(enc, p, n, at);
  /* Back along the best path, turning it round so that it can be walked forwards. */
  uint32_t to = 0;
  for (size_t at = n; at > 0;) {
    lattice_node *node = &enc->lattice[at];
    uint32_t from = node->from;
    node->from = to;
    to = (uint32_t)at;
    at = from;
  }
  bool ok = true;
  for (size_t at = 0; at < n && ok; at = to, to = enc->lattice[at].from) {
    int32_t id = enc->lattice[to].id;
    ok = id == t->spm.unk ? put_unknown(enc, p + at, to - at, out) : put_id(enc, out, id);
  }
  return ok ? PU_OK : text_no_memory(e, n);
}

pu_err spm_encode_part(pu_encoder *enc, const uint8_t *p, size_t n, bool first, pu_ids *out, pu_error *e) {
  const spm_model *m = &enc->t->spm;
  pu_buf_clear(&enc->norm);
  bool prefix = first && !(enc->flags & PU_ENCODE_NO_PREFIX);
  PU_TRY(spm_normalize(m, pu_str_of((const char *)p, n), prefix, &enc->norm, e));
  size_t len = enc->norm.len;
  if (len == 0) return PU_OK;
  if (len >= UINT32_MAX) return pu_fail(e, PU_ERR_USAGE, "a text of %zu bytes is too long to encode at once", n);
  if (!pu_buf_reserve(&enc->norm, WORD_PAD)) return text_no_memory(e, n);
  memset(enc->norm.data + len, 0, WORD_PAD);
  const uint8_t *text = (const uint8_t *)enc->norm.data;
  enc->readable = text + len + WORD_PAD;
  if (m->unigram) return viterbi(enc, text, len, out, e);
  return m->has_unused ? merge_whole(enc, text, len, out, e) : merge_by_words(enc, text, len, out, e);
}
