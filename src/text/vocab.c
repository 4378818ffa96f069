/* Tokenizers as lists, which is how GGUF files hold them. From lists the files are written that other programs would
 * read (tokenizer.json, or tokenizer.model), and the readers of those do the rest: so a tokenizer from a GGUF file is
 * like any other, and can be saved. */
#include <stdlib.h>
#include <string.h>

#include "src/text/split.h"
#include "src/text/tokenizer.h"

#define WHERE "the tokenizer's lists"

/* ---- how words are cut, by llama.cpp's names ---- */

static const char *const gpt2_patterns[] = {split_pattern_gpt2, NULL};
static const char *const llama3_patterns[] = {split_pattern_llama3, NULL};
static const char *const qwen2_patterns[] = {split_pattern_qwen2, NULL};
/* What llama.cpp does where a file does not say. */
static const char *const unnamed_patterns[] = {"[\\p{P}\\$\\+<=>\\^~\\|]+", split_pattern_gpt2, "\\p{N}+",
                                               "[0-9][0-9][0-9]", NULL};

/* Of rows alike, the first is written. */
static const struct pre {
  const char *name;
  const char *const *patterns;
  bool ignore_merges, nfc;
} pres[] = {
    {"gpt-2", gpt2_patterns, false, false},      {"llama-bpe", llama3_patterns, true, false},
    {"qwen2", qwen2_patterns, false, true},      {"llama3", llama3_patterns, true, false},
    {"llama-v3", llama3_patterns, true, false},  {"smaug-bpe", llama3_patterns, false, false},
    {"stablelm2", qwen2_patterns, false, false}, {"deepseek-r1-qwen", qwen2_patterns, false, false},
    {"phi-2", gpt2_patterns, false, false},      {"default", unnamed_patterns, false, false},
};

static pu_err find_pre(const char *name, const struct pre **out, pu_error *e) {
  char known[300] = "";
  for (size_t i = 0; i < PU_COUNT(pres); i++) {
    *out = &pres[i];
    if (strcmp(pres[i].name, name ? name : "default") == 0) return PU_OK;
    size_t at = strlen(known);
    snprintf(known + at, sizeof known - at, "%s%s", i ? ", " : "", pres[i].name);
  }
  return pu_fail(e, PU_ERR_UNSUPPORTED, WHERE ": pre-tokenizer '%.40s' is not one that puyu knows (%s)", name, known);
}

/* ---- tokenizer.json ---- */

static int32_t type_at(const pu_vocab *v, size_t i) {
  return v->types ? v->types[i] : PIECE_NORMAL;
}

static bool is_added(const pu_vocab *v, size_t i) {
  return type_at(v, i) == PIECE_CONTROL || type_at(v, i) == PIECE_USER;
}

static void put_added(const pu_vocab *v, pu_buf *out) {
  bool comma = false;
  pu_buf_puts(out, "  \"added_tokens\": [");
  for (size_t i = 0; i < v->n; i++) {
    if (!is_added(v, i)) continue;
    pu_buf_printf(out, "%s\n    {\"id\": %zu, \"content\": ", comma ? "," : "", i);
    pu_buf_json_str(out, v->pieces[i]);
    pu_buf_printf(out,
                  ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, "
                  "\"special\": %s}",
                  type_at(v, i) == PIECE_CONTROL ? "true" : "false");
    comma = true;
  }
  pu_buf_puts(out, "\n  ],\n");
}

static void put_words(const struct pre *pre, pu_buf *out) {
  pu_buf_printf(out, "  \"normalizer\": %s,\n", pre->nfc ? "{\"type\": \"NFC\"}" : "null");
  pu_buf_puts(out, "  \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [\n");
  for (const char *const *p = pre->patterns; *p; p++) {
    pu_buf_puts(out, "    {\"type\": \"Split\", \"pattern\": {\"Regex\": ");
    pu_buf_json_str(out, pu_str_c(*p));
    pu_buf_puts(out, "}, \"behavior\": \"Isolated\", \"invert\": false},\n");
  }
  pu_buf_puts(out, "    {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": false, "
                   "\"use_regex\": false}]},\n  \"post_processor\": null,\n"
                   "  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": false, "
                   "\"use_regex\": false},\n");
}

static void put_model(const pu_vocab *v, const struct pre *pre, pu_buf *out) {
  bool comma = false;
  pu_buf_printf(out,
                "  \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, "
                "\"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, \"fuse_unk\": false, "
                "\"byte_fallback\": false, \"ignore_merges\": %s,\n    \"vocab\": {",
                pre->ignore_merges ? "true" : "false");
  for (size_t i = 0; i < v->n; i++) {
    if (is_added(v, i) || type_at(v, i) == PIECE_UNUSED) continue; /* unused: rows that only fill up the matrix */
    pu_buf_puts(out, comma ? ",\n      " : "\n      ");
    pu_buf_json_str(out, v->pieces[i]);
    pu_buf_printf(out, ": %zu", i);
    comma = true;
  }
  pu_buf_puts(out, "\n    },\n    \"merges\": [");
  for (size_t i = 0; i < v->n_merges; i++) {
    pu_buf_puts(out, i ? ",\n      " : "\n      ");
    pu_buf_json_str(out, v->merges[i]);
  }
  pu_buf_puts(out, "\n    ]\n  }\n}\n");
}

static pu_err write_json(const pu_vocab *v, pu_buf *out, pu_error *e) {
  const struct pre *pre;
  PU_TRY(find_pre(v->pre, &pre, e));
  pu_buf_puts(out, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n");
  put_added(v, out);
  put_words(pre, out);
  put_model(v, pre, out);
  return PU_OK;
}

/* ---- tokenizer.model: protocol buffers, see spm_model.c ---- */

static void put_varint(pu_buf *b, uint64_t v) {
  for (; v >= 0x80; v >>= 7) pu_buf_putc(b, (char)(v | 0x80));
  pu_buf_putc(b, (char)v);
}

static void put_number(pu_buf *b, unsigned field, uint64_t v) {
  put_varint(b, field << 3);
  put_varint(b, v);
}

static void put_bytes(pu_buf *b, unsigned field, pu_str s) {
  put_varint(b, field << 3 | 2);
  put_varint(b, s.len);
  if (s.len) pu_buf_append(b, s.ptr, s.len);
}

static void put_piece(const pu_vocab *v, size_t i, pu_buf *part, pu_buf *out) {
  float score = v->scores ? v->scores[i] : 0;
  pu_buf_clear(part);
  put_bytes(part, 1, v->pieces[i]);
  put_varint(part, 2 << 3 | 5);
  pu_buf_append(part, &score, 4);
  put_number(part, 3, (uint64_t)type_at(v, i));
  put_bytes(out, 1, pu_str_of(part->data, part->len));
}

static bool has_bytes(const pu_vocab *v) {
  for (size_t i = 0; i < v->n; i++)
    if (type_at(v, i) == PIECE_BYTE) return true;
  return false;
}

static void put_settings(const pu_vocab *v, pu_buf *part, pu_buf *out) {
  const struct {
    unsigned field;
    int32_t id;
  } ids[] = {{46, v->bos}, {47, v->eos}};
  pu_buf_clear(part);
  put_number(part, 3, 2); /* trainer_spec.model_type: BPE */
  put_number(part, 35, has_bytes(v));
  for (size_t i = 0; i < PU_COUNT(ids); i++) /* their texts */
    put_bytes(part, ids[i].field, ids[i].id >= 0 ? v->pieces[ids[i].id] : pu_str_of("", 0));
  put_bytes(out, 2, pu_str_of(part->data, part->len));
  pu_buf_clear(part);
  if (v->charsmap.len) put_bytes(part, 2, v->charsmap);
  put_number(part, 3, v->dummy_prefix);
  put_number(part, 4, v->remove_extra_spaces);
  put_number(part, 5, 1); /* spaces become U+2581 */
  put_bytes(out, 3, pu_str_of(part->data, part->len));
}

static pu_err write_spm(const pu_vocab *v, pu_buf *out, pu_error *e) {
  pu_buf part;
  pu_buf_init(&part, TEXT_FILE_MAX);
  for (size_t i = 0; i < v->n; i++) put_piece(v, i, &part, out);
  put_settings(v, &part, out);
  bool failed = part.failed;
  pu_buf_deinit(&part);
  return failed ? pu_fail(e, PU_ERR_NOMEM, WHERE ": no memory for them") : PU_OK;
}

/* ---- tokenizer_config.json ---- */

static pu_err name_id(const pu_vocab *v, json_t *config, const char *key, int32_t id, pu_error *e) {
  json_t *s = id >= 0 ? json_stringn(v->pieces[id].ptr, v->pieces[id].len) : json_null();
  return s && json_object_set_new(config, key, s) == 0
             ? PU_OK
             : pu_fail(e, PU_ERR_FORMAT, WHERE ": the text of '%s' is not UTF-8", key);
}

static pu_err fill_config(const pu_vocab *v, json_t *config, pu_error *e) {
  PU_TRY(name_id(v, config, "bos_token", v->bos, e));
  PU_TRY(name_id(v, config, "eos_token", v->eos, e));
  json_object_set_new(config, "add_bos_token", json_boolean(v->adds_bos));
  json_object_set_new(config, "add_eos_token", json_false());
  json_object_set_new(config, "clean_up_tokenization_spaces", json_false());
  json_object_set_new(config, "tokenizer_class", json_string(v->scores ? "LlamaTokenizer" : "PreTrainedTokenizerFast"));
  if (v->chat_template.len)
    json_object_set_new(config, "chat_template", json_stringn_nocheck(v->chat_template.ptr, v->chat_template.len));
  return PU_OK;
}

static pu_err apply_config(const pu_vocab *v, pu_tokenizer *t, pu_error *e) {
  json_t *config = json_object();
  pu_err err = fill_config(v, config, e);
  char *text = err == PU_OK ? json_dumps(config, JSON_INDENT(2)) : NULL;
  if (err == PU_OK && !text) err = pu_fail(e, PU_ERR_FORMAT, WHERE ": the chat template is not UTF-8");
  if (err == PU_OK) err = text_apply_config(t, config, e);
  if (err == PU_OK) err = text_keep_file(t, "tokenizer_config.json", pu_str_c(text), e);
  free(text);
  json_decref(config);
  return err;
}

/* ---- from lists ---- */

static pu_err check_lists(const pu_vocab *v, pu_error *e) {
  if (v->n == 0 || v->n > TEXT_PIECES_MAX)
    return pu_fail(e, PU_ERR_FORMAT, WHERE ": %zu pieces, not 1 to %d", v->n, TEXT_PIECES_MAX);
  if (v->bos >= (int64_t)v->n || v->eos >= (int64_t)v->n)
    return pu_fail(e, PU_ERR_FORMAT, WHERE ": bos or eos is outside the vocabulary of %zu", v->n);
  for (size_t i = 0; i < v->n; i++)
    if (type_at(v, i) < PIECE_NORMAL || type_at(v, i) > PIECE_BYTE)
      return pu_fail(e, PU_ERR_FORMAT, WHERE ": piece %zu is of the unknown type %d", i, type_at(v, i));
  return PU_OK;
}

pu_err pu_tokenizer_from_vocab(const pu_vocab *v, pu_tokenizer **out, pu_error *e) {
  *out = NULL;
  PU_TRY(check_lists(v, e));
  pu_buf file;
  pu_buf_init(&file, TEXT_FILE_MAX);
  pu_err err = PU_OK;
  if (!v->byte_level)
    err = write_spm(v, &file, e);
  else if (v->json.len)
    pu_buf_append(&file, v->json.ptr, v->json.len);
  else
    err = write_json(v, &file, e);
  if (err == PU_OK && file.failed) err = pu_fail(e, PU_ERR_NOMEM, WHERE ": too large");
  pu_str bytes = pu_str_of(file.data, file.len);
  if (err == PU_OK)
    err = v->byte_level ? pu_tokenizer_parse_json(bytes, out, e) : pu_tokenizer_parse_spm(bytes, out, e);
  pu_buf_deinit(&file);
  if (err == PU_OK) err = apply_config(v, *out, e);
  if (err == PU_OK) {
    text_finish(*out);
    return PU_OK;
  }
  pu_tokenizer_free(*out);
  *out = NULL;
  return err;
}

/* ---- to lists ---- */

static const char *pre_of(const pu_tokenizer *t) {
  const byte_model *m = &t->bytes;
  const char *pattern = m->n_splits == 1 ? text_splitter_pattern(m->splits[0]) : NULL;
  for (size_t i = 0; pattern && !m->add_prefix_space && i < PU_COUNT(pres); i++)
    if (pres[i].patterns[0] == pattern && pres[i].ignore_merges == m->ignore_merges) return pres[i].name;
  return NULL;
}

static pu_err no_memory(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "no memory for the lists of the tokenizer");
}

/* The rules by rank. */
static pu_err list_merges(const pu_tokenizer *t, pu_arena *a, pu_vocab *v, pu_error *e) {
  const bpe_pairs *p = &t->pairs;
  size_t ranks = 0;
  for (size_t i = 0; p->slots && i <= p->mask; i++)
    if (p->slots[i].key != UINT64_MAX) ranks = PU_MAX(ranks, (size_t)p->slots[i].rank + 1);
  pu_str *merges = pu_arena_zalloc(a, (ranks + 1) * sizeof *merges);
  if (!merges) return no_memory(e);
  for (size_t i = 0; p->slots && i <= p->mask; i++) {
    const bpe_pair *pair = &p->slots[i];
    if (pair->key == UINT64_MAX) continue;
    pu_str left = t->pieces[pair->key >> 32].text, right = t->pieces[(uint32_t)pair->key].text;
    char *s = pu_arena_printf(a, "%.*s %.*s", (int)left.len, left.ptr, (int)right.len, right.ptr);
    if (!s) return no_memory(e);
    merges[pair->rank] = pu_str_of(s, left.len + right.len + 1);
  }
  /* A rule that stood there twice left its second rank empty. */
  for (size_t i = 0; i < ranks; i++)
    if (merges[i].ptr) merges[v->n_merges++] = merges[i];
  v->merges = merges;
  return PU_OK;
}

/* Of a model that has ranks only: the higher the earlier. */
static void score_by_rank(const pu_tokenizer *t, float *scores) {
  for (size_t i = 0; t->pairs.slots && i <= t->pairs.mask; i++) {
    const bpe_pair *pair = &t->pairs.slots[i];
    if (pair->key == UINT64_MAX) continue;
    float score = -(float)pair->rank - 1;
    if (scores[pair->id] == 0 || score > scores[pair->id]) scores[pair->id] = score;
  }
}

static bool has_scores(const pu_tokenizer *t) {
  for (int32_t i = 0; i < t->n; i++)
    if (t->pieces[i].score != 0) return true;
  return false;
}

static pu_err list_scores(const pu_tokenizer *t, pu_arena *a, pu_vocab *v, pu_error *e) {
  float *scores = pu_arena_zalloc(a, v->n * sizeof *scores);
  if (!scores) return no_memory(e);
  for (int32_t i = 0; i < t->n; i++) scores[i] = t->pieces[i].score;
  if (!has_scores(t)) score_by_rank(t, scores);
  v->scores = scores;
  v->dummy_prefix = t->spm.norm.add_dummy_prefix;
  v->remove_extra_spaces = t->spm.norm.remove_extra_whitespaces;
  if (t->spm.norm.n_units) /* the size, the array, the strings lie together: see parse_charsmap */
    v->charsmap = pu_str_of((const char *)t->spm.norm.units - 4, 4 + t->spm.norm.n_units * 4 + t->spm.norm.n_strings);
  return PU_OK;
}

static pu_err list_pieces(const pu_tokenizer *t, size_t size, pu_arena *a, pu_vocab *v, pu_error *e) {
  pu_str *pieces = pu_arena_alloc(a, size * sizeof *pieces);
  int32_t *types = pu_arena_alloc(a, size * sizeof *types);
  if (!pieces || !types) return no_memory(e);
  for (size_t i = 0; i < size; i++) {
    const text_piece *p = i < (size_t)t->n && t->pieces[i].type != PIECE_NONE ? &t->pieces[i] : NULL;
    char *filler = p ? NULL : pu_arena_printf(a, "[PAD%zu]", i);
    if (!p && !filler) return no_memory(e);
    pieces[i] = p ? p->text : pu_str_c(filler);
    types[i] = !p ? PIECE_UNUSED : p->special && p->type != PIECE_UNKNOWN ? PIECE_CONTROL : p->type;
  }
  for (size_t i = 0; i < t->n_added; i++) /* in tokenizer.json, added tokens are mostly in the vocabulary too */
    if (!t->added[i].special && types[t->added[i].id] == PIECE_NORMAL) types[t->added[i].id] = PIECE_USER;
  v->pieces = pieces;
  v->types = types;
  v->n = size;
  return PU_OK;
}

pu_str pu_tokenizer_file(const pu_tokenizer *t, const char *name) {
  for (const text_file *f = t->files; f; f = f->next)
    if (strcmp(f->name, name) == 0) return f->bytes;
  return (pu_str){0};
}

/* In a file of its own, or in tokenizer_config.json. */
static pu_err find_template(const pu_tokenizer *t, pu_arena *a, pu_vocab *v, pu_error *e) {
  v->chat_template = pu_tokenizer_file(t, "chat_template.jinja");
  if (v->chat_template.len) return PU_OK;
  pu_str text = pu_tokenizer_file(t, "tokenizer_config.json");
  json_error_t why;
  json_t *config = text.len ? json_loadb(text.ptr, text.len, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &why) : NULL;
  const json_t *value = json_object_get(config, "chat_template");
  bool failed = false;
  if (json_is_string(value)) {
    size_t len = json_string_length(value);
    v->chat_template = pu_str_of(pu_arena_strndup(a, json_string_value(value), len), len);
    failed = !v->chat_template.ptr;
  }
  json_decref(config);
  return failed ? no_memory(e) : PU_OK;
}

pu_err pu_tokenizer_to_vocab(const pu_tokenizer *t, size_t size, pu_arena *a, pu_vocab *out, pu_error *e) {
  *out = (pu_vocab){.byte_level = t->byte_level, .bos = t->bos, .eos = t->eos, .adds_bos = t->adds_bos};
  if (!t->byte_level && t->spm.unigram)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "a Unigram tokenizer cannot be given as lists");
  PU_TRY(list_pieces(t, PU_MAX(size, (size_t)t->n), a, out, e));
  PU_TRY(find_template(t, a, out, e));
  if (!t->byte_level) return list_scores(t, a, out, e);
  out->pre = pre_of(t);
  out->json = pu_tokenizer_file(t, "tokenizer.json");
  return list_merges(t, a, out, e);
}
