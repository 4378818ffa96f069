/* Reads a SentencePiece model: a protocol-buffers message (ModelProto) of pieces, a trainer's and a normaliser's
 * settings. Only the few fields that change results are looked at. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/text/tokenizer.h"

/* ---- protocol buffers: fields of a message, in order ---- */

typedef struct pb_field {
  uint32_t number;
  uint32_t wire; /* 0 varint, 1 eight bytes, 2 bytes, 5 four bytes */
  uint64_t value;
  pu_str bytes;
} pb_field;

static bool pb_varint(pu_str *s, uint64_t *value) {
  *value = 0;
  for (unsigned shift = 0; shift < 64 && s->len > 0; shift += 7) {
    uint8_t byte = (uint8_t)s->ptr[0];
    *s = pu_str_of(s->ptr + 1, s->len - 1);
    *value |= (uint64_t)(byte & 0x7F) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

/* Takes the next field off s; false at a malformed one. */
static bool pb_next(pu_str *s, pb_field *f) {
  uint64_t key, len;
  if (!pb_varint(s, &key) || key >> 3 == 0 || key >> 3 > UINT32_MAX) return false;
  *f = (pb_field){.number = (uint32_t)(key >> 3), .wire = key & 7};
  switch (f->wire) {
  case 0:
    return pb_varint(s, &f->value);
  case 1:
    len = 8;
    break;
  case 2:
    if (!pb_varint(s, &len)) return false;
    break;
  case 5:
    len = 4;
    break;
  default:
    return false;
  }
  if (len > s->len) return false;
  f->bytes = pu_str_of(s->ptr, (size_t)len);
  *s = pu_str_of(s->ptr + len, s->len - (size_t)len);
  return true;
}

static pu_err broken(pu_error *e, const char *where) {
  return pu_fail(e, PU_ERR_FORMAT, "tokenizer.model: %s is malformed or cut short: is this a whole tokenizer.model?",
                 where);
}

/* ---- the messages ------------------------------------------------------------------------------------------------ */

static pu_err parse_piece(pu_tokenizer *t, pu_str s, pu_error *e) {
  int32_t id = t->n;
  PU_TRY(text_grow_pieces(t, id, e));
  text_piece *p = &t->pieces[id];
  p->type = PIECE_NORMAL;
  for (pb_field f; s.len > 0;) {
    if (!pb_next(&s, &f)) return broken(e, "a piece");
    if (f.number == 1 && f.wire == 2) {
      p->text = f.bytes;
    } else if (f.number == 2 && f.wire == 5) {
      memcpy(&p->score, f.bytes.ptr, 4);
    } else if (f.number == 3 && f.wire == 0) {
      if (f.value < PIECE_NORMAL || f.value > PIECE_BYTE) return broken(e, "a piece's type");
      p->type = (uint8_t)f.value;
    }
  }
  if (p->text.len == 0 || p->text.len > TEXT_PIECE_MAX || isnan(p->score)) {
    return pu_fail(e, PU_ERR_FORMAT, "tokenizer.model: piece %d is empty, longer than %zu bytes or has no score", id,
                   TEXT_PIECE_MAX);
  }
  p->raw = p->text = text_keep(t, p->text);
  if (!p->text.ptr) return pu_fail(e, PU_ERR_NOMEM, "tokenizer.model: no memory for its pieces");
  return PU_OK;
}

typedef struct trainer_spec {
  uint64_t model_type;
  bool byte_fallback, whitespace_as_suffix;
  pu_str bos, eos, unk_surface;
} trainer_spec;

static pu_err parse_trainer(pu_str s, trainer_spec *spec, pu_error *e) {
  for (pb_field f; s.len > 0;) {
    if (!pb_next(&s, &f)) return broken(e, "trainer_spec");
    if (f.wire == 0) {
      if (f.number == 3) spec->model_type = f.value;
      if (f.number == 24) spec->whitespace_as_suffix = f.value != 0;
      if (f.number == 35) spec->byte_fallback = f.value != 0;
    } else if (f.wire == 2) {
      if (f.number == 44) spec->unk_surface = f.bytes;
      if (f.number == 46) spec->bos = f.bytes;
      if (f.number == 47) spec->eos = f.bytes;
    }
  }
  return PU_OK;
}

/* The table of replacements: u32 size of the double array, the array, the strings. */
static pu_err parse_charsmap(pu_tokenizer *t, pu_str blob, pu_error *e) {
  if (blob.len == 0) return PU_OK;
  blob = text_keep(t, blob);
  if (!blob.ptr) return pu_fail(e, PU_ERR_NOMEM, "tokenizer.model: no memory for its normaliser");
  uint32_t size;
  if (blob.len < 8) return broken(e, "precompiled_charsmap");
  memcpy(&size, blob.ptr, 4);
  if (size < 4 || size % 4 != 0 || size > blob.len - 4) return broken(e, "precompiled_charsmap");
  spm_norm *m = &t->spm.norm;
  m->units = (const uint8_t *)blob.ptr + 4;
  m->n_units = size / 4;
  m->strings = blob.ptr + 4 + size;
  m->n_strings = blob.len - 4 - size;
  return PU_OK;
}

static pu_err parse_normalizer(pu_tokenizer *t, pu_str s, pu_error *e) {
  spm_norm *m = &t->spm.norm;
  for (pb_field f; s.len > 0;) {
    if (!pb_next(&s, &f)) return broken(e, "normalizer_spec");
    if (f.number == 2 && f.wire == 2) PU_TRY(parse_charsmap(t, f.bytes, e));
    if (f.wire != 0) continue;
    if (f.number == 3) m->add_dummy_prefix = f.value != 0;
    if (f.number == 4) m->remove_extra_whitespaces = f.value != 0;
    if (f.number == 5) m->escape_whitespaces = f.value != 0;
  }
  return PU_OK;
}

static pu_err check_denormalizer(pu_str s, pu_error *e) {
  for (pb_field f; s.len > 0;) {
    if (!pb_next(&s, &f)) return broken(e, "denormalizer_spec");
    if (f.number == 2 && f.wire == 2 && f.bytes.len > 0) {
      return pu_fail(e, PU_ERR_UNSUPPORTED, "tokenizer.model: it has a denormaliser, which puyu does not apply");
    }
  }
  return PU_OK;
}

/* ---- tables ------------------------------------------------------------------------------------------------------ */

/* Shares one name space, and may be the text of a symbol. */
static bool ordinary(uint8_t type) {
  return type == PIECE_NORMAL || type == PIECE_USER || type == PIECE_UNUSED;
}

/* User-defined pieces are taken out of a text before merging, so no merge can make one: they need no rules. */
static bool mergeable(uint8_t type) {
  return type == PIECE_NORMAL || type == PIECE_UNUSED;
}

static pu_err no_memory(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "no memory for the tokenizer's tables");
}

static int hex_digit(char c) {
  return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* <0x0A> */
static pu_err note_byte_piece(pu_tokenizer *t, int32_t id, pu_error *e) {
  pu_str s = t->pieces[id].text;
  bool shaped = s.len == 6 && memcmp(s.ptr, "<0x", 3) == 0 && s.ptr[5] == '>';
  int high = shaped ? hex_digit(s.ptr[3]) : -1, low = shaped ? hex_digit(s.ptr[4]) : -1;
  if (high < 0 || low < 0) return pu_fail(e, PU_ERR_FORMAT, "tokenizer.model: byte piece %d is not <0xHH>", id);
  t->spm.byte_id[high * 16 + low] = id;
  return PU_OK;
}

static pu_err note_user_piece(pu_tokenizer *t, int32_t id, pu_error *e) {
  pu_str s = t->pieces[id].text;
  uint32_t first;
  if (!text_trie_put(&t->spm.user, s, id)) return no_memory(e);
  spm_char((const uint8_t *)s.ptr, s.len, &first);
  text_set_bit(t->spm.user_first, spm_first_hash(first));
  return PU_OK;
}

/* Sorts pieces by what they are. Control and byte pieces live in a name space of their own, as in SentencePiece. */
static pu_err index_pieces(pu_tokenizer *t, text_map *ordinaries, pu_error *e) {
  spm_model *m = &t->spm;
  m->unk = -1;
  m->min_score = HUGE_VALF;
  m->max_score = 1.17549435e-38f; /* FLT_MIN, the library's own starting value: it shows where all scores are below */
  for (int i = 0; i < 256; i++) m->byte_id[i] = -1;
  for (int32_t id = 0; id < t->n; id++) {
    const text_piece *p = &t->pieces[id];
    if (p->type == PIECE_NONE) continue;
    if (ordinary(p->type)) {
      if (text_map_get(ordinaries, p->text) >= 0) {
        return pu_fail(e, PU_ERR_FORMAT, "tokenizer.model: piece %d has the text of an earlier one", id);
      }
      if (!text_map_put(ordinaries, p->text, id)) return no_memory(e);
    }
    if (!text_map_put(&t->ids, p->text, id)) return no_memory(e);
    if (p->type == PIECE_USER) PU_TRY(note_user_piece(t, id, e));
    if (p->type == PIECE_BYTE) PU_TRY(note_byte_piece(t, id, e));
    if (p->type == PIECE_UNUSED) m->has_unused = true;
    if (p->type == PIECE_UNKNOWN) m->unk = id;
    t->pieces[id].special = p->type == PIECE_CONTROL || p->type == PIECE_UNKNOWN;
    if (p->type != PIECE_NORMAL) continue;
    m->min_score = PU_MIN(m->min_score, p->score);
    m->max_score = PU_MAX(m->max_score, p->score);
  }
  if (m->unk < 0) return pu_fail(e, PU_ERR_FORMAT, "tokenizer.model: no piece is the unknown one");
  for (int i = 0; i < 256 && m->byte_fallback; i++) {
    if (m->byte_id[i] < 0) return pu_fail(e, PU_ERR_FORMAT, "tokenizer.model: byte piece <0x%02X> is missing", i);
  }
  return PU_OK;
}

/* A symbol for every character that occurs in a piece, and the relation "stands before, inside some piece". */
pu_err spm_prepare_chars(pu_tokenizer *t, pu_error *e) {
  spm_model *m = &t->spm;
  int32_t next = t->n;
  m->joins = pu_arena_zalloc(t->arena, ((size_t)1 << SPM_JOIN_BITS) / 8);
  if (!m->joins) return no_memory(e);
  for (int pass = 0; pass < 2; pass++) { /* first the pieces that are characters, then what is inside the others */
    for (int32_t id = 0; id < t->n; id++) {
      pu_str s = t->pieces[id].text;
      const uint8_t *p = (const uint8_t *)s.ptr;
      if (!mergeable(t->pieces[id].type)) continue;
      uint32_t code, before = 0;
      size_t len = spm_char(p, s.len, &code);
      if (pass == 0 && len == s.len && !text_map_put(&m->chars, s, id)) return no_memory(e);
      for (size_t i = 0; pass == 1 && i < s.len; i += len, before = code) {
        len = spm_char(p + i, s.len - i, &code);
        if (i > 0) text_set_bit(m->joins, spm_join_hash(before, code));
        pu_str c = pu_str_of(s.ptr + i, len);
        if (text_map_get(&m->chars, c) < 0 && !text_map_put(&m->chars, c, next++)) return no_memory(e);
      }
    }
  }
  for (int i = 0; i < 128; i++) {
    char c = (char)i;
    m->ascii[i] = text_map_get(&m->chars, pu_str_of(&c, 1));
  }
  return PU_OK;
}

typedef struct by_score {
  float score;
  int32_t id;
} by_score;

static int compare_scores(const void *a, const void *b) {
  const by_score *x = a, *y = b;
  if (x->score != y->score) return x->score > y->score ? -1 : 1;
  return x->id < y->id ? -1 : x->id > y->id;
}

/* Every way to cut piece `id` into two symbols is a rule. */
static pu_err add_rules(pu_tokenizer *t, const text_map *ordinaries, int32_t id, uint32_t rank, size_t *work,
                        pu_error *e) {
  pu_str s = t->pieces[id].text;
  uint32_t code;
  if (pu_add_overflows(*work, s.len * s.len, work) || *work > (size_t)1 << 34) {
    return pu_fail(e, PU_ERR_UNSUPPORTED, "tokenizer.model: its pieces are too long for byte-pair merging");
  }
  for (size_t i = spm_char((const uint8_t *)s.ptr, s.len, &code), len; i < s.len; i += len) {
    len = spm_char((const uint8_t *)s.ptr + i, s.len - i, &code);
    pu_str left = pu_str_of(s.ptr, i), right = pu_str_of(s.ptr + i, s.len - i);
    int32_t l = text_map_get(ordinaries, left), r = text_map_get(ordinaries, right);
    if (l < 0) l = text_map_get(&t->spm.chars, left); /* a character without a piece */
    if (r < 0) r = text_map_get(&t->spm.chars, right);
    if (l >= 0 && r >= 0 && !bpe_pairs_put(&t->pairs, l, r, rank, id)) return no_memory(e);
  }
  return PU_OK;
}

/* Scores become ranks: equal scores share one, so that ties go to the leftmost pair. */
static pu_err make_rules(pu_tokenizer *t, const text_map *ordinaries, pu_error *e) {
  by_score *order = malloc((size_t)t->n * sizeof *order);
  if (!order) return no_memory(e);
  int32_t n = 0;
  for (int32_t id = 0; id < t->n; id++) {
    if (mergeable(t->pieces[id].type)) order[n++] = (by_score){t->pieces[id].score, id};
  }
  qsort(order, (size_t)n, sizeof *order, compare_scores);
  uint32_t rank = 0;
  size_t work = 0;
  pu_err err = PU_OK;
  for (int32_t i = 0; i < n && err == PU_OK; i++) {
    if (i > 0 && order[i].score != order[i - 1].score) rank++;
    err = add_rules(t, ordinaries, order[i].id, rank, &work, e);
  }
  free(order);
  return err;
}

static pu_err make_trie(pu_tokenizer *t, pu_error *e) {
  for (int32_t id = 0; id < t->n; id++) {
    const text_piece *p = &t->pieces[id];
    if (ordinary(p->type) && !text_trie_put(&t->spm.pieces, p->text, id)) return no_memory(e);
  }
  return PU_OK;
}

static pu_err prepare(pu_tokenizer *t, pu_error *e) {
  spm_model *m = &t->spm;
  text_map ordinaries = {0};
  m->user_first = pu_arena_zalloc(t->arena, ((size_t)1 << SPM_FIRST_BITS) / 8);
  pu_err err = m->user_first ? index_pieces(t, &ordinaries, e) : no_memory(e);
  if (err == PU_OK && m->unigram) {
    err = make_trie(t, e);
  } else if (err == PU_OK) {
    err = spm_prepare_chars(t, e);
    if (err == PU_OK) err = make_rules(t, &ordinaries, e);
  }
  text_map_deinit(&ordinaries);
  return err;
}

static int32_t control_named(const pu_tokenizer *t, pu_str name) {
  int32_t id = text_map_get(&t->ids, name);
  return id >= 0 && t->pieces[id].type == PIECE_CONTROL ? id : -1;
}

pu_err spm_parse(pu_tokenizer *t, pu_str bytes, pu_error *e) {
  spm_model *m = &t->spm;
  trainer_spec spec = {
      .model_type = 1, .bos = pu_str_c("<s>"), .eos = pu_str_c("</s>"), .unk_surface = pu_str_c(" \xE2\x81\x87 ")};
  m->norm = (spm_norm){.add_dummy_prefix = true, .remove_extra_whitespaces = true, .escape_whitespaces = true};
  pu_str rest = bytes;
  for (pb_field f; rest.len > 0;) {
    if (!pb_next(&rest, &f)) return broken(e, "the message");
    if (f.wire != 2) continue;
    if (f.number == 1) PU_TRY(parse_piece(t, f.bytes, e));
    if (f.number == 2) PU_TRY(parse_trainer(f.bytes, &spec, e));
    if (f.number == 3) PU_TRY(parse_normalizer(t, f.bytes, e));
    if (f.number == 5) PU_TRY(check_denormalizer(f.bytes, e));
  }
  if (t->n == 0) return pu_fail(e, PU_ERR_FORMAT, "tokenizer.model: it holds no pieces");
  if (spec.model_type != 1 && spec.model_type != 2) {
    return pu_fail(e, PU_ERR_UNSUPPORTED, "tokenizer.model: only BPE and Unigram models are read, not word or char");
  }
  m->unigram = spec.model_type == 1;
  m->byte_fallback = spec.byte_fallback;
  m->norm.whitespace_as_suffix = spec.whitespace_as_suffix;
  m->unk_surface = text_keep(t, spec.unk_surface);
  if (!m->unk_surface.ptr) return no_memory(e);
  PU_TRY(prepare(t, e));
  t->bos = control_named(t, spec.bos);
  t->eos = control_named(t, spec.eos);
  t->adds_bos = t->bos >= 0;
  for (int32_t id = 0; id < t->n; id++) {
    text_added a = {.id = id, .special = true};
    if (t->pieces[id].type == PIECE_CONTROL) PU_TRY(text_add_token(t, a, t->pieces[id].text, e));
  }
  return PU_OK;
}

void spm_deinit(spm_model *m) {
  text_trie_deinit(&m->user);
  text_trie_deinit(&m->pieces);
  text_map_deinit(&m->chars);
}
