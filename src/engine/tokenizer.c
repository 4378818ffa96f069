/* The tokenizer of a model, wherever the model lies. GGUF files keep it as lists under "tokenizer.ggml.…": model knows
 * the file, text knows tokenizers, and here the two meet. */
#include <string.h>

#include "puyu/engine.h"

enum { BPE, SPM };

/* `tokenizer.ggml.model` */
static const char *const kinds[] = {[BPE] = "gpt2", [SPM] = "llama"};

#define KEY(name) "tokenizer.ggml." name

static const size_t room = (size_t)4 << 30; /* of address space; lists are bounded by the file, and by its caps */

/* ---- reading ---- */

typedef struct reader {
  const pu_gguf *g;
  const char *where;
  pu_arena *a;
} reader;

static bool text_of(const reader *r, const char *key, pu_str *out) {
  const pu_gguf_meta *m = pu_gguf_meta_find(r->g, key);
  size_t at = 0;
  return m && !m->array && pu_gguf_str(m, &at, out);
}

static int64_t number_of(const reader *r, const char *key, int64_t dflt) {
  int64_t v;
  return pu_gguf_int(pu_gguf_meta_find(r->g, key), 0, &v) ? v : dflt;
}

static pu_err wrong(const reader *r, const char *key, pu_error *e) {
  return pu_fail(e, PU_ERR_FORMAT, "%s: '%s' is missing, of another kind, or does not fit the other lists", r->where,
                 key);
}

static pu_err no_memory(const reader *r, pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its tokenizer", r->where);
}

static pu_err read_texts(const reader *r, const char *key, const pu_str **out, size_t *n, pu_error *e) {
  const pu_gguf_meta *m = pu_gguf_meta_find(r->g, key);
  if (!m || !m->array || m->kind != PU_GGUF_STR) return wrong(r, key, e);
  pu_str *v = pu_arena_alloc(r->a, (m->count + 1) * sizeof *v);
  if (!v) return no_memory(r, e);
  *n = 0;
  for (size_t at = 0; *n < m->count && pu_gguf_str(m, &at, &v[*n]);) ++*n;
  *out = v;
  return PU_OK;
}

/* Some files call the unknown piece an ordinary one, and name it by its id alone. */
static void mark_unknown(const reader *r, int32_t *types, size_t n) {
  enum { UNKNOWN = 2 };
  int64_t id = number_of(r, KEY("unknown_token_id"), 0);
  for (size_t i = 0; i < n; i++)
    if (types[i] == UNKNOWN) return;
  if (id >= 0 && (uint64_t)id < n) types[id] = UNKNOWN;
}

/* One number for each piece; none where the key is missing. */
static pu_err read_types(const reader *r, bool spm, pu_vocab *v, pu_error *e) {
  const pu_gguf_meta *m = pu_gguf_meta_find(r->g, KEY("token_type"));
  if (!m) return PU_OK;
  int32_t *types = pu_arena_alloc(r->a, (v->n + 1) * sizeof *types);
  if (!types) return no_memory(r, e);
  for (size_t i = 0; i < v->n; i++) {
    int64_t type;
    if (!pu_gguf_int(m, i, &type) || type < INT32_MIN || type > INT32_MAX) return wrong(r, m->key, e);
    types[i] = (int32_t)type;
  }
  if (spm) mark_unknown(r, types, v->n);
  v->types = types;
  return PU_OK;
}

static pu_err read_scores(const reader *r, pu_vocab *v, pu_error *e) {
  const pu_gguf_meta *m = pu_gguf_meta_find(r->g, KEY("scores"));
  float *scores = pu_arena_alloc(r->a, (v->n + 1) * sizeof *scores);
  if (!scores) return no_memory(r, e);
  for (size_t i = 0; i < v->n; i++) {
    double score;
    if (!pu_gguf_num(m, i, &score)) return wrong(r, KEY("scores"), e);
    scores[i] = (float)score;
  }
  v->scores = scores;
  return PU_OK;
}

static pu_err read_spm(const reader *r, pu_vocab *v, pu_error *e) {
  const pu_gguf_meta *charsmap = pu_gguf_meta_find(r->g, KEY("precompiled_charsmap"));
  v->dummy_prefix = number_of(r, KEY("add_space_prefix"), 1) != 0;
  v->remove_extra_spaces = number_of(r, KEY("remove_extra_whitespaces"), 0) != 0;
  if (charsmap && (charsmap->kind == PU_GGUF_U8 || charsmap->kind == PU_GGUF_I8)) v->charsmap = charsmap->bytes;
  return read_scores(r, v, e);
}

static pu_err read_bpe(const reader *r, pu_vocab *v, pu_error *e) {
  pu_str pre;
  v->byte_level = true;
  if (text_of(r, KEY("pre"), &pre)) v->pre = pu_arena_strndup(r->a, pre.ptr, pre.len);
  (void)text_of(r, "tokenizer.huggingface.json", &v->json);
  return read_texts(r, KEY("merges"), &v->merges, &v->n_merges, e);
}

static int32_t id_of(const reader *r, const char *key, size_t n) {
  int64_t id = number_of(r, key, -1);
  return id >= 0 && (uint64_t)id < n ? (int32_t)id : -1;
}

static pu_err read_lists(const reader *r, pu_str kind, pu_vocab *v, pu_error *e) {
  bool spm = pu_str_eq(kind, pu_str_c(kinds[SPM]));
  if (!spm && !pu_str_eq(kind, pu_str_c(kinds[BPE])))
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: its tokenizer is of the kind '%.*s'; gpt2 and llama are read", r->where,
                   (int)PU_MIN(kind.len, 40), kind.ptr);
  PU_TRY(read_texts(r, KEY("tokens"), &v->pieces, &v->n, e));
  PU_TRY(read_types(r, spm, v, e));
  PU_TRY(spm ? read_spm(r, v, e) : read_bpe(r, v, e));
  v->bos = id_of(r, KEY("bos_token_id"), v->n);
  v->eos = id_of(r, KEY("eos_token_id"), v->n);
  /* Where the file does not say, as llama.cpp does: before a SentencePiece text, and a Llama 3 one. */
  bool llama3 = v->pre && strncmp(v->pre, "llama", 5) == 0;
  v->adds_bos = v->bos >= 0 && number_of(r, KEY("add_bos_token"), spm || llama3) != 0;
  (void)text_of(r, "tokenizer.chat_template", &v->chat_template);
  return PU_OK;
}

static pu_err read_gguf(const reader *r, pu_tokenizer **out, pu_error *e) {
  pu_str kind;
  pu_vocab v = {0};
  if (!text_of(r, KEY("model"), &kind) || pu_str_eq(kind, pu_str_c("none")) || pu_str_eq(kind, pu_str_c("no_vocab")))
    return PU_OK;
  PU_TRY(read_lists(r, kind, &v, e));
  pu_err err = pu_tokenizer_from_vocab(&v, out, e);
  return err == PU_OK ? PU_OK : pu_fail_in(e, err, "%s", r->where);
}

pu_err pu_engine_load_tokenizer(const char *path, pu_tokenizer **out, pu_error *e) {
  *out = NULL;
  if (!pu_gguf_is(path)) {
    if (pu_path_is_dir(path) && !pu_tokenizer_in(path)) return PU_OK;
    return pu_tokenizer_load(path, out, e);
  }
  pu_gguf *g;
  reader r = {.where = path};
  PU_TRY(pu_gguf_open(path, &g, e));
  r.g = g;
  pu_err err = pu_arena_create(room, &r.a, e);
  if (err == PU_OK) err = read_gguf(&r, out, e);
  pu_arena_free(r.a);
  pu_gguf_close(g);
  return err;
}

pu_err pu_engine_tokenizer_of(const char *model, pu_tokenizer **out, pu_error *e) {
  const pu_arch *arch;
  pu_hparams hp;
  *out = NULL;
  PU_TRY(pu_model_describe(model, &arch, &hp, e)); /* first: it knows what is no model */
  PU_TRY(pu_engine_load_tokenizer(model, out, e));
  int32_t pieces = *out ? pu_tokenizer_size(*out) : 0;
  if (pieces <= hp.vocab) return PU_OK;
  pu_tokenizer_free(*out);
  *out = NULL;
  return pu_fail(e, PU_ERR_FORMAT, "%s: the tokenizer has %d pieces, the model only %lld: they do not belong together",
                 model, (int)pieces, (long long)hp.vocab);
}

/* ---- writing ---- */

static void put_lists(pu_gguf_keys *k, const pu_vocab *v) {
  pu_gguf_put_str(k, KEY("model"), pu_str_c(kinds[v->byte_level ? BPE : SPM]));
  pu_gguf_put_strs(k, KEY("tokens"), v->pieces, v->n);
  pu_gguf_put_i32s(k, KEY("token_type"), v->types, v->n);
  pu_gguf_put_bool(k, KEY("add_bos_token"), v->adds_bos);
  if (v->chat_template.len) pu_gguf_put_str(k, "tokenizer.chat_template", v->chat_template);
  if (v->byte_level) {
    pu_gguf_put_str(k, KEY("pre"), pu_str_c(v->pre ? v->pre : "default"));
    pu_gguf_put_strs(k, KEY("merges"), v->merges, v->n_merges);
    if (v->json.len) pu_gguf_put_str(k, "tokenizer.huggingface.json", v->json);
    return;
  }
  pu_gguf_put_f32s(k, KEY("scores"), v->scores, v->n);
  pu_gguf_put_bool(k, KEY("add_space_prefix"), v->dummy_prefix);
  pu_gguf_put_bool(k, KEY("remove_extra_whitespaces"), v->remove_extra_spaces);
  if (v->charsmap.len) pu_gguf_put_u8s(k, KEY("precompiled_charsmap"), v->charsmap);
}

pu_err pu_engine_put_tokenizer(pu_gguf_keys *k, const pu_tokenizer *t, int64_t vocab, pu_error *e) {
  pu_arena *a;
  pu_vocab v;
  if (!t) {
    pu_gguf_put_str(k, KEY("model"), pu_str_c("none"));
    return PU_OK;
  }
  PU_TRY(pu_arena_create(room, &a, e));
  pu_err err = pu_tokenizer_to_vocab(t, (size_t)vocab, a, &v, e);
  if (err == PU_OK) put_lists(k, &v);
  if (err == PU_OK && v.byte_level && !v.pre)
    pu_log(PU_LOG_WARN, "GGUF has no name for how this tokenizer cuts words: llama.cpp will cut some otherwise");
  pu_arena_free(a);
  return err;
}
