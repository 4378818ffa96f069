/* Reads Hugging Face's tokenizer.json, BPE models only: byte-level ones (GPT-2, Llama 3, Qwen), and those converted
 * from SentencePiece ("byte_fallback", Llama 2), which become a SentencePiece model with rules given as a list. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "src/text/split.h"
#include "src/text/tokenizer.h"

#define WHERE "tokenizer.json"

static pu_err no_memory(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, WHERE ": no memory for its tables");
}

static pu_str view(const json_t *s) {
  return pu_str_of(json_string_value(s), json_string_length(s));
}

static const char *type_of(const json_t *o) {
  const char *s = json_string_value(json_object_get(o, "type"));
  return s ? s : "";
}

static bool is_type(const json_t *o, const char *type) {
  return strcmp(type_of(o), type) == 0;
}

/* `o` itself, or one of a Sequence's members, by type. */
static const json_t *find_type(const json_t *o, const char *members, const char *type) {
  if (is_type(o, type)) return o;
  const json_t *list = json_object_get(o, members), *item;
  size_t i;
  json_array_foreach(list, i, item) {
    if (is_type(item, type)) return item;
  }
  return NULL;
}

/* ---- vocabulary and rules ---------------------------------------------------------------------------------------- */

static pu_err read_vocab(pu_tokenizer *t, const json_t *vocab, pu_error *e) {
  if (!json_is_object(vocab)) return pu_fail(e, PU_ERR_FORMAT, WHERE ": model.vocab is not an object");
  for (void *it = json_object_iter((json_t *)vocab); it; it = json_object_iter_next((json_t *)vocab, it)) {
    pu_str key = pu_str_of(json_object_iter_key(it), json_object_iter_key_len(it));
    const json_t *id = json_object_iter_value(it);
    if (!json_is_integer(id) || key.len > TEXT_PIECE_MAX) {
      return pu_fail(e, PU_ERR_FORMAT, WHERE ": model.vocab: \"%.40s\" has no number or is too long", key.ptr);
    }
    PU_TRY(text_grow_pieces(t, json_integer_value(id), e));
    text_piece *p = &t->pieces[json_integer_value(id)];
    if (p->type != PIECE_NONE) {
      return pu_fail(e, PU_ERR_FORMAT, WHERE ": model.vocab: id %lld is given twice", json_integer_value(id));
    }
    p->type = PIECE_NORMAL;
    p->raw = p->text = text_keep(t, key);
    if (!p->text.ptr || !text_map_put(&t->ids, p->text, (int32_t)json_integer_value(id))) return no_memory(e);
  }
  return PU_OK;
}

/* "a b" or ["a", "b"] */
static bool merge_sides(const json_t *m, pu_str *left, pu_str *right) {
  if (json_is_array(m) && json_array_size(m) == 2) {
    *left = view(json_array_get(m, 0));
    *right = view(json_array_get(m, 1));
    return left->ptr && right->ptr;
  }
  pu_str s = view(m);
  const char *space = s.ptr ? memchr(s.ptr, ' ', s.len) : NULL;
  if (!space) return false;
  *left = pu_str_of(s.ptr, (size_t)(space - s.ptr));
  *right = pu_str_of(space + 1, s.len - left->len - 1);
  return true;
}

static pu_err read_merge(pu_tokenizer *t, const json_t *m, size_t rank, pu_buf *both, pu_error *e) {
  pu_str left, right;
  if (!merge_sides(m, &left, &right)) {
    return pu_fail(e, PU_ERR_FORMAT, WHERE ": model.merges[%zu] is not a pair", rank);
  }
  int32_t l = text_map_get(&t->ids, left), r = text_map_get(&t->ids, right), id = -1;
  if (l >= 0 && r >= 0) {
    pu_buf_clear(both);
    if (!pu_buf_append(both, left.ptr, left.len) || !pu_buf_append(both, right.ptr, right.len)) return no_memory(e);
    id = text_map_get(&t->ids, pu_str_of(both->data, both->len));
  }
  if (id < 0) {
    return pu_fail(e, PU_ERR_FORMAT, WHERE ": model.merges[%zu] names a piece that is not in model.vocab", rank);
  }
  return bpe_pairs_put(&t->pairs, l, r, (uint32_t)rank, id) ? PU_OK : no_memory(e);
}

static pu_err read_merges(pu_tokenizer *t, const json_t *merges, pu_error *e) {
  if (!json_is_array(merges)) return pu_fail(e, PU_ERR_FORMAT, WHERE ": model.merges is not a list");
  pu_buf both;
  pu_buf_init(&both, 2 * TEXT_PIECE_MAX + 2);
  pu_err err = PU_OK;
  for (size_t i = 0; i < json_array_size(merges) && err == PU_OK; i++) {
    err = read_merge(t, json_array_get(merges, i), i, &both, e);
  }
  pu_buf_deinit(&both);
  return err;
}

/* ---- byte-level pieces ------------------------------------------------------------------------------------------- */

/* GPT-2's alphabet: a printable byte of Latin-1 stands for itself, the others for U+0100 and on, in order. */
static void byte_alphabet(uint32_t cp_of[256], int16_t byte_of[324]) {
  uint32_t next = 256;
  memset(byte_of, 0xFF, 324 * sizeof *byte_of);
  for (uint32_t b = 0; b < 256; b++) {
    bool self = (b >= 33 && b <= 126) || (b >= 161 && b != 173);
    cp_of[b] = self ? b : next++;
    byte_of[cp_of[b]] = (int16_t)b;
  }
}

/* The bytes a piece stands for; a piece with another character in it stands for itself. */
static pu_err spell_out(pu_tokenizer *t, text_piece *p, const int16_t byte_of[324], pu_buf *b, pu_error *e) {
  pu_buf_clear(b);
  p->raw = p->text;
  for (size_t i = 0, len; i < p->text.len; i += len) {
    uint32_t cp = 0;
    len = pu_utf8_next(pu_str_of(p->text.ptr + i, p->text.len - i), &cp);
    if (len == 0 || cp >= 324 || byte_of[cp] < 0) return PU_OK;
    pu_buf_putc(b, (char)byte_of[cp]);
  }
  p->raw = text_keep(t, pu_str_of(b->data ? b->data : "", b->len));
  return b->failed || !p->raw.ptr ? no_memory(e) : PU_OK;
}

static pu_err prepare_bytes(pu_tokenizer *t, pu_error *e) {
  uint32_t cp_of[256];
  int16_t byte_of[324];
  byte_alphabet(cp_of, byte_of);
  pu_buf b;
  pu_buf_init(&b, TEXT_PIECE_MAX + 8);
  for (int i = 0; i < 256; i++) {
    pu_buf_clear(&b);
    if (!pu_utf8_put(&b, cp_of[i])) return no_memory(e); /* it holds nothing yet */
    t->bytes.byte_sym[i] = text_map_get(&t->ids, pu_str_of(b.data, b.len));
  }
  pu_err err = PU_OK;
  for (int32_t id = 0; id < t->n && err == PU_OK; id++) {
    text_piece *p = &t->pieces[id];
    if (p->type == PIECE_NONE) continue;
    err = spell_out(t, p, byte_of, &b, e);
    if (err == PU_OK && t->bytes.ignore_merges && !text_map_put(&t->bytes.raw, p->raw, id)) err = no_memory(e);
  }
  pu_buf_deinit(&b);
  return err;
}

/* ---- normalizers and pre-tokenizers ------------------------------------------------------------------------------ */

static pu_err read_norm(pu_tokenizer *t, const json_t *o, pu_error *e) {
  static const struct {
    const char *type;
    int options;
  } kinds[] = {{"NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE},
               {"NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
               {"NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
               {"NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT}};
  if (!o || json_is_null(o)) return PU_OK;
  if (is_type(o, "Sequence")) {
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(o, "normalizers"), i, item) PU_TRY(read_norm(t, item, e));
    return PU_OK;
  }
  for (size_t i = 0; i < PU_COUNT(kinds) && t->bytes.n_norms < TEXT_NORMS_MAX; i++) {
    if (!is_type(o, kinds[i].type)) continue;
    t->bytes.norms[t->bytes.n_norms++] = kinds[i].options;
    return PU_OK;
  }
  return pu_fail(e, PU_ERR_UNSUPPORTED, WHERE ": normalizer \"%.40s\" is not one puyu knows (NFC, NFD, NFKC, NFKD)",
                 type_of(o));
}

static pu_err add_regex(pu_tokenizer *t, pu_str pattern, split_behavior behavior, bool invert, pu_error *e) {
  byte_model *m = &t->bytes;
  if (m->n_splits == TEXT_SPLITS_MAX) return pu_fail(e, PU_ERR_UNSUPPORTED, WHERE ": too many pre-tokenizers");
  PU_TRY(text_splitter_regex(pattern, behavior, invert, false, &m->splits[m->n_splits], e));
  m->n_splits++;
  return PU_OK;
}

static pu_err add_literal(pu_tokenizer *t, pu_str s, split_behavior behavior, bool invert, pu_error *e) {
  pu_buf b;
  pu_buf_init(&b, 1 << 16);
  for (size_t i = 0; i < s.len; i++) {
    bool plain = (s.ptr[i] & 0x80) != 0 || (s.ptr[i] >= '0' && s.ptr[i] <= '9') ||
                 ((s.ptr[i] | 32) >= 'a' && (s.ptr[i] | 32) <= 'z') || s.ptr[i] < ' ';
    if (!plain) pu_buf_putc(&b, '\\');
    pu_buf_putc(&b, s.ptr[i]);
  }
  pu_err err = b.failed || b.len == 0 ? pu_fail(e, PU_ERR_FORMAT, WHERE ": a Split pattern is empty or too long")
                                      : add_regex(t, pu_str_of(b.data, b.len), behavior, invert, e);
  pu_buf_deinit(&b);
  return err;
}

static pu_err read_split(pu_tokenizer *t, const json_t *o, pu_error *e) {
  static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
  const char *behavior;
  bool invert;
  PU_TRY(pu_json_str_or(o, "behavior", "Isolated", &behavior, WHERE, e));
  PU_TRY(pu_json_bool_or(o, "invert", false, &invert, WHERE, e));
  const json_t *pattern = json_object_get(o, "pattern");
  const json_t *regex = json_object_get(pattern, "Regex"), *literal = json_object_get(pattern, "String");
  for (size_t i = 0; i < PU_COUNT(names); i++) {
    if (strcmp(behavior, names[i]) != 0) continue;
    if (json_is_string(regex)) return add_regex(t, view(regex), (split_behavior)i, invert, e);
    if (json_is_string(literal)) return add_literal(t, view(literal), (split_behavior)i, invert, e);
  }
  return pu_fail(e, PU_ERR_FORMAT, WHERE ": a Split pre-tokenizer has no pattern, or behavior \"%.40s\"", behavior);
}

static pu_err read_pre(pu_tokenizer *t, const json_t *o, pu_error *e) {
  byte_model *m = &t->bytes;
  bool flag;
  if (!o || json_is_null(o)) return PU_OK;
  if (is_type(o, "Split")) return read_split(t, o, e);
  if (is_type(o, "Sequence")) {
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(o, "pretokenizers"), i, item) PU_TRY(read_pre(t, item, e));
    return PU_OK;
  }
  if (is_type(o, "ByteLevel")) {
    PU_TRY(pu_json_bool_or(o, "add_prefix_space", true, &flag, WHERE, e));
    if (flag && m->n_splits > 0) {
      return pu_fail(e, PU_ERR_UNSUPPORTED, WHERE ": add_prefix_space after another pre-tokenizer");
    }
    m->add_prefix_space = flag;
    PU_TRY(pu_json_bool_or(o, "use_regex", true, &flag, WHERE, e));
    return flag ? add_regex(t, pu_str_c(split_pattern_gpt2), SPLIT_ISOLATED, false, e) : PU_OK;
  }
  if (is_type(o, "Digits") && m->n_splits < TEXT_SPLITS_MAX) {
    PU_TRY(pu_json_bool_or(o, "individual_digits", false, &flag, WHERE, e));
    PU_TRY(text_splitter_digits(flag, &m->splits[m->n_splits], e));
    m->n_splits++;
    return PU_OK;
  }
  return pu_fail(e, PU_ERR_UNSUPPORTED,
                 WHERE ": pre-tokenizer \"%.40s\" is not one puyu knows (ByteLevel, Split, Digits)", type_of(o));
}

static pu_err read_byte_level(pu_tokenizer *t, const json_t *root, pu_error *e) {
  const json_t *model = json_object_get(root, "model");
  t->byte_level = true;
  PU_TRY(pu_json_bool_or(model, "ignore_merges", false, &t->bytes.ignore_merges, "model", e));
  PU_TRY(read_norm(t, json_object_get(root, "normalizer"), e));
  PU_TRY(read_pre(t, json_object_get(root, "pre_tokenizer"), e));
  const json_t *unk = json_object_get(model, "unk_token");
  if (json_is_string(unk)) t->bytes.unk = text_map_get(&t->ids, view(unk));
  return prepare_bytes(t, e);
}

/* ---- models that were SentencePiece's ---------------------------------------------------------------------------- */

/* Prepend ▁ and Replace " " by ▁, which is what add_dummy_prefix and escape_whitespaces do. */
static pu_err read_spm_norm(pu_tokenizer *t, const json_t *o, pu_error *e) {
  spm_norm *m = &t->spm.norm;
  if (!o || json_is_null(o)) return PU_OK;
  if (is_type(o, "Sequence")) {
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(o, "normalizers"), i, item) PU_TRY(read_spm_norm(t, item, e));
    return PU_OK;
  }
  const json_t *prepend = json_object_get(o, "prepend"), *content = json_object_get(o, "content");
  const json_t *from = json_object_get(json_object_get(o, "pattern"), "String");
  if (is_type(o, "Prepend") && json_is_string(prepend) && pu_str_eq(view(prepend), pu_str_c(TEXT_WS))) {
    m->add_dummy_prefix = true;
  } else if (is_type(o, "Replace") && json_is_string(from) && json_is_string(content) &&
             pu_str_eq(view(from), pu_str_c(" ")) && pu_str_eq(view(content), pu_str_c(TEXT_WS))) {
    m->escape_whitespaces = true;
  } else {
    return pu_fail(e, PU_ERR_UNSUPPORTED,
                   WHERE ": normalizer \"%.40s\" beside byte_fallback; use tokenizer.model instead", type_of(o));
  }
  return PU_OK;
}

static pu_err read_metaspace(pu_tokenizer *t, const json_t *o, pu_error *e) {
  if (!o || json_is_null(o)) return PU_OK;
  const char *replacement, *scheme;
  bool split, prefix;
  if (!is_type(o, "Metaspace")) goto other;
  PU_TRY(pu_json_str_or(o, "replacement", TEXT_WS, &replacement, WHERE, e));
  PU_TRY(pu_json_str_or(o, "prepend_scheme", "", &scheme, WHERE, e));
  PU_TRY(pu_json_bool_or(o, "add_prefix_space", strcmp(scheme, "") == 0, &prefix, WHERE, e));
  PU_TRY(pu_json_bool_or(o, "split", true, &split, WHERE, e));
  if (split || strcmp(replacement, TEXT_WS) != 0) goto other;
  t->spm.norm.escape_whitespaces = true;
  if (prefix || (strcmp(scheme, "") != 0 && strcmp(scheme, "never") != 0)) t->spm.norm.add_dummy_prefix = true;
  return PU_OK;
other:
  return pu_fail(e, PU_ERR_UNSUPPORTED,
                 WHERE ": pre-tokenizer \"%.40s\" beside byte_fallback; use tokenizer.model instead", type_of(o));
}

static pu_err read_spm_like(pu_tokenizer *t, const json_t *root, pu_error *e) {
  spm_model *m = &t->spm;
  PU_TRY(read_spm_norm(t, json_object_get(root, "normalizer"), e));
  PU_TRY(read_metaspace(t, json_object_get(root, "pre_tokenizer"), e));
  m->byte_fallback = true;
  m->unk_surface = pu_str_c("<unk>");
  m->user_first = pu_arena_zalloc(t->arena, ((size_t)1 << SPM_FIRST_BITS) / 8);
  if (!m->user_first) return no_memory(e);
  for (int i = 0; i < 256; i++) {
    char name[8];
    int len = snprintf(name, sizeof name, "<0x%02X>", i);
    m->byte_id[i] = text_map_get(&t->ids, pu_str_of(name, (size_t)len));
    if (m->byte_id[i] < 0) return pu_fail(e, PU_ERR_FORMAT, WHERE ": byte_fallback, but no piece %s", name);
    t->pieces[m->byte_id[i]].type = PIECE_BYTE;
  }
  const json_t *unk = json_object_get(json_object_get(root, "model"), "unk_token");
  if (json_is_string(unk)) m->unk = text_map_get(&t->ids, view(unk));
  if (m->unk >= 0) t->pieces[m->unk].type = PIECE_UNKNOWN;
  return spm_prepare_chars(t, e);
}

/* ---- the rest --------------------------------------------------------------------------------------------------- */

static pu_err read_added(pu_tokenizer *t, const json_t *list, pu_error *e) {
  size_t i;
  json_t *o;
  json_array_foreach(list, i, o) {
    const json_t *content = json_object_get(o, "content");
    int64_t id;
    PU_TRY(pu_json_int(o, "id", 0, TEXT_PIECES_MAX - 1, &id, WHERE ": added_tokens", e));
    if (!json_is_string(content) || json_string_length(content) > TEXT_PIECE_MAX) {
      return pu_fail(e, PU_ERR_FORMAT, WHERE ": added_tokens[%zu] has no content", i);
    }
    text_added a = {.id = (int32_t)id};
    PU_TRY(pu_json_bool_or(o, "special", false, &a.special, WHERE, e));
    PU_TRY(pu_json_bool_or(o, "lstrip", false, &a.lstrip, WHERE, e));
    PU_TRY(pu_json_bool_or(o, "rstrip", false, &a.rstrip, WHERE, e));
    PU_TRY(pu_json_bool_or(o, "single_word", false, &a.single_word, WHERE, e));
    PU_TRY(pu_json_bool_or(o, "normalized", false, &a.normalized, WHERE, e));
    PU_TRY(text_add_token(t, a, view(content), e));
  }
  return PU_OK;
}

static int32_t special_named(const pu_tokenizer *t, const char *const *names) {
  for (; *names; names++) {
    int32_t id = pu_tokenizer_find(t, pu_str_c(*names));
    if (id >= 0 && t->pieces[id].special) return id;
  }
  return -1;
}

/* tokenizer.json does not say which token begins and which one ends a text; the template knows the first, the names
 * in use the rest. tokenizer_config.json, where it is there, overrules both. */
static void guess_ends(pu_tokenizer *t, const json_t *root) {
  static const char *const begins[] = {"<s>", "<|begin_of_text|>", "<|startoftext|>", NULL};
  static const char *const ends[] = {"</s>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>", NULL};
  t->bos = special_named(t, begins);
  t->eos = special_named(t, ends);
  const json_t *post = find_type(json_object_get(root, "post_processor"), "processors", "TemplateProcessing");
  const json_t *first = json_object_get(json_array_get(json_object_get(post, "single"), 0), "SpecialToken");
  const json_t *name = json_object_get(first, "id");
  if (!json_is_string(name)) return;
  int32_t id = pu_tokenizer_find(t, view(name));
  if (id < 0) return;
  t->bos = id;
  t->adds_bos = true;
}

static pu_err read_root(pu_tokenizer *t, const json_t *root, pu_error *e) {
  const json_t *model = json_object_get(root, "model");
  if (!json_is_object(model)) return pu_fail(e, PU_ERR_FORMAT, WHERE ": there is no model in it");
  const json_t *type = json_object_get(model, "type");
  if (type && !json_is_string(type)) return pu_fail(e, PU_ERR_FORMAT, WHERE ": the model's type is no string");
  if (type && !is_type(model, "BPE"))
    return pu_fail(e, PU_ERR_UNSUPPORTED,
                   WHERE ": a model of type '%.40s'; puyu reads BPE here, Unigram from tokenizer.model",
                   type_of(model));
  const char *inside, *after;
  bool byte_fallback;
  PU_TRY(pu_json_str_or(model, "continuing_subword_prefix", "", &inside, "model", e));
  PU_TRY(pu_json_str_or(model, "end_of_word_suffix", "", &after, "model", e));
  PU_TRY(pu_json_bool_or(model, "byte_fallback", false, &byte_fallback, "model", e));
  if (*inside || *after) return pu_fail(e, PU_ERR_UNSUPPORTED, WHERE ": pieces with a prefix or suffix for words");
  PU_TRY(read_vocab(t, json_object_get(model, "vocab"), e));
  PU_TRY(read_merges(t, json_object_get(model, "merges"), e));
  bool byte_level = find_type(json_object_get(root, "pre_tokenizer"), "pretokenizers", "ByteLevel") ||
                    find_type(json_object_get(root, "decoder"), "decoders", "ByteLevel");
  if (!byte_level && !byte_fallback) {
    return pu_fail(e, PU_ERR_UNSUPPORTED, WHERE ": neither byte-level nor with byte_fallback");
  }
  PU_TRY(byte_level ? read_byte_level(t, root, e) : read_spm_like(t, root, e));
  PU_TRY(read_added(t, json_object_get(root, "added_tokens"), e));
  guess_ends(t, root);
  return PU_OK;
}

pu_err hf_parse(pu_tokenizer *t, pu_str bytes, pu_error *e) {
  json_t *root;
  PU_TRY(pu_json_parse(WHERE, bytes, &root, e));
  pu_err err = json_is_object(root) ? read_root(t, root, e) : pu_fail(e, PU_ERR_FORMAT, WHERE ": not an object");
  json_decref(root);
  return err;
}
