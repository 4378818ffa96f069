#include "src/train/data.h"

#include "src/train/text_cache.h"

#include <string.h>

/* ---- the fixed batch ---- */

static int32_t ids_at(const pu_st_tensor *t, int64_t i) {
  int32_t id32;
  int64_t id64;
  if (t->dtype == PU_I32) {
    memcpy(&id32, (const char *)t->data + i * 4, sizeof id32);
    return id32;
  }
  memcpy(&id64, (const char *)t->data + i * 8, sizeof id64);
  return id64 >= 0 && id64 <= INT32_MAX ? (int32_t)id64 : -1; /* -1 is refused later, with its place */
}

static pu_err take_ids(const pu_st_tensor *t, const char *path, pu_arena *a, pu_train_data *out, pu_error *e) {
  if ((t->dtype != PU_I32 && t->dtype != PU_I64) || t->ndim != 2 || t->shape[0] < 1 || t->shape[1] < 2)
    return pu_fail(e, PU_ERR_FORMAT, "%s: '%s' must be i32 or i64 [B, T] with T at least 2", path, t->name);
  int64_t count = t->shape[0] * t->shape[1];
  *out = (pu_train_data){.seq_len = t->shape[1], .rows = t->shape[0], .n = 1, .tokens = (uint64_t)count};
  out->fixed = pu_arena_alloc(a, (size_t)count * sizeof *out->fixed);
  const char **names = pu_arena_alloc(a, sizeof *names);
  if (!out->fixed || !names || !(names[0] = pu_arena_strdup(a, path)))
    return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for %lld ids", path, (long long)count);
  out->names = names;
  for (int64_t i = 0; i < count; i++) out->fixed[i] = ids_at(t, i);
  return PU_OK;
}

pu_err pu_train_data_open_ids(const pu_train_source *s, pu_arena *a, pu_train_data *out, pu_error *e) {
  *out = (pu_train_data){0};
  const char *key = s->key ? s->key : "input_ids";
  pu_safetensors *file;
  PU_TRY(pu_safetensors_open(s->path, &file, e));
  const pu_st_tensor *t = pu_safetensors_find(file, key);
  pu_err err = t ? take_ids(t, s->path, a, out, e)
                 : pu_fail(e, PU_ERR_FORMAT, "%s: no tensor '%s': set the source's `key`", s->path, key);
  pu_safetensors_close(file);
  return err;
}

/* ---- shards and text ---- */

pu_train_source pu_train_data_guess(const char *path) {
  static const struct {
    const char *ending;
    pu_source_type type;
  } endings[] = {{".txt", PU_SOURCE_TEXT}, {".md", PU_SOURCE_TEXT}, {".jsonl", PU_SOURCE_JSONL}};
  for (size_t i = 0; i < PU_COUNT(endings); i++)
    if (pu_ends_with(path, endings[i].ending)) return (pu_train_source){.type = endings[i].type, .path = path};
  return (pu_train_source){.type = PU_SOURCE_SHARDS, .path = path};
}

static pu_err open_source(const pu_train_source *s, const pu_train_data_options *o, pu_arena *a, pu_shards **out,
                          const char **cache, pu_error *e) {
  *cache = NULL;
  if (s->type == PU_SOURCE_SHARDS) return pu_shards_open(s->path, false, out, e);
  if (!o->tokenizer)
    return pu_fail(e, PU_ERR_USAGE, "%s: text needs a tokenizer, and the model has none: set model.tokenizer", s->path);
  PU_TRY(pu_train_text_cache(s, o->tokenizer, o->run, a, cache, e));
  return pu_shards_open(*cache, false, out, e);
}

pu_err pu_train_data_open(const pu_train_source *s, size_t n, const pu_train_data_options *o, pu_arena *a,
                          pu_train_data *out, pu_error *e) {
  *out = (pu_train_data){.seq_len = o->seq_len};
  out->shards = pu_arena_zalloc(a, n * sizeof *out->shards);
  const char **names = pu_arena_alloc(a, n * sizeof *names);
  out->cache = pu_arena_alloc(a, n * sizeof *out->cache);
  pu_mix_source *mixed = pu_arena_alloc(a, n * sizeof *mixed);
  out->names = names;
  if (!out->shards || !names || !out->cache || !mixed) return pu_fail(e, PU_ERR_NOMEM, "data.sources: no memory");
  for (; out->n < n; out->n++) {
    size_t i = out->n;
    PU_TRY(open_source(&s[i], o, a, &out->shards[i], &out->cache[i], e));
    if (!(names[i] = pu_arena_strdup(a, s[i].path))) return pu_fail(e, PU_ERR_NOMEM, "data.sources: no memory");
    if (pu_shards_tokens(out->shards[i]) == 0)
      return pu_fail(e, PU_ERR_FORMAT, "%s: holds no tokens: leave it out of data.sources", s[i].path);
    mixed[i] = (pu_mix_source){.shards = out->shards[i], .weight = s[i].weight};
    out->tokens += pu_shards_tokens(out->shards[i]);
  }
  return pu_mix_create(mixed, n, o->seq_len, o->seed, &out->mix, e);
}

pu_err pu_train_data_open_feed(const pu_train_hooks *hooks, const pu_train_feed_options *o, pu_train_data *out,
                               pu_error *e) {
  *out = (pu_train_data){.seq_len = o->cfg->data.seq_len};
  if (!hooks || !hooks->feed)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "this program has nothing that reads conversations");
  PU_TRY(hooks->feed(hooks->arg, o, &out->feed, e));
  out->n = out->feed.n;
  out->names = out->feed.names;
  out->tokens = out->feed.tokens;
  return PU_OK;
}

uint64_t pu_train_data_pass(const pu_train_data *d) {
  return d->fixed ? (uint64_t)d->rows : d->feed.read ? d->feed.rows : pu_mix_epoch_samples(d->mix, 0);
}

void pu_train_data_close(pu_train_data *d) {
  if (d->feed.close) d->feed.close(d->feed.arg);
  if (d->mix) pu_mix_free(d->mix);
  for (size_t i = 0; d->shards && i < d->n; i++) pu_shards_close(d->shards[i]);
  *d = (pu_train_data){0};
}

/* ---- does it fit the model? ---- */

static pu_err check_fixed(const pu_train_data *d, int64_t vocab, pu_error *e) {
  for (int64_t i = 0; i < d->rows * d->seq_len; i++)
    if (d->fixed[i] < 0 || d->fixed[i] >= vocab)
      return pu_fail(e, PU_ERR_FORMAT, "%s: id %d at [%lld, %lld] is outside the model's vocabulary of %lld",
                     d->names[0], d->fixed[i], (long long)(i / d->seq_len), (long long)(i % d->seq_len),
                     (long long)vocab);
  return PU_OK;
}

pu_err pu_train_data_check(const pu_train_data *d, int64_t vocab, const pu_tokenizer *t, pu_error *e) {
  if (d->fixed) return check_fixed(d, vocab, e);
  if (d->feed.read) return PU_OK; /* made with the model's tokenizer */
  for (size_t i = 0; i < d->n; i++) {
    int32_t id = pu_shards_max_id(d->shards[i]);
    uint64_t made_with = pu_shards_tokenizer(d->shards[i]);
    if (id >= vocab)
      return pu_fail(e, PU_ERR_FORMAT,
                     "%s: holds id %d, but the model's vocabulary is %lld: tokenise with the model's tokenizer",
                     d->names[i], id, (long long)vocab);
    if (t && made_with && made_with != pu_tokenizer_hash(t))
      return pu_fail(e, PU_ERR_FORMAT,
                     "%s: was made with another tokenizer than the model's: tokenise it again with the model's",
                     d->names[i]);
  }
  return PU_OK;
}

/* ---- rows ---- */

pu_err pu_train_rows_create(int64_t room, int64_t seq_len, pu_arena *a, pu_train_rows *out, pu_error *e) {
  size_t bytes = (size_t)(room * seq_len) * sizeof(int32_t);
  *out = (pu_train_rows){.room = room, .seq_len = seq_len};
  out->ids = pu_arena_alloc(a, bytes);
  out->targets = pu_arena_alloc(a, bytes);
  out->starts = pu_arena_alloc(a, bytes);
  out->len = pu_arena_alloc(a, (size_t)room * sizeof *out->len);
  out->n_starts = pu_arena_alloc(a, (size_t)room * sizeof *out->n_starts);
  out->source = pu_arena_alloc(a, (size_t)room * sizeof *out->source);
  if (out->ids && out->targets && out->starts && out->len && out->n_starts && out->source) return PU_OK;
  return pu_fail(e, PU_ERR_NOMEM, "no memory for a batch of %lld sequences of %lld tokens", (long long)room,
                 (long long)seq_len);
}

static void read_fixed(const pu_train_data *d, int64_t row, pu_train_rows *out, int64_t at) {
  int64_t T = d->seq_len;
  const int32_t *from = d->fixed + row * T;
  memcpy(out->ids + at * T, from, (size_t)T * sizeof *from);
  memcpy(out->targets + at * T, from + 1, (size_t)(T - 1) * sizeof *from);
  out->targets[at * T + T - 1] = -1;
  out->starts[at * T] = 0;
  out->n_starts[at] = 1;
  out->source[at] = 0;
}

static void read_feed(const pu_train_data *d, uint64_t index, pu_train_rows *out, int64_t at) {
  int64_t T = d->seq_len;
  pu_train_row row = {.ids = out->ids + at * T, .targets = out->targets + at * T, .starts = out->starts + at * T};
  d->feed.read(d->feed.arg, index, &row);
  out->len[at] = row.n;
  out->n_starts[at] = row.n_starts;
  out->source[at] = row.source;
}

void pu_train_data_read(const pu_train_data *d, uint64_t first, int64_t rows, bool cross_document, pu_train_rows *out) {
  int64_t T = d->seq_len;
  out->rows = rows;
  for (int64_t i = 0; i < rows; i++) {
    out->len[i] = T;
    if (d->feed.read) {
      read_feed(d, first + (uint64_t)i, out, i);
      continue;
    }
    if (d->fixed) {
      read_fixed(d, (int64_t)((first + (uint64_t)i) % (uint64_t)d->rows), out, i);
      continue;
    }
    pu_sample s = {.ids = out->ids + i * T, .targets = out->targets + i * T, .starts = out->starts + i * T};
    pu_mix_read(d->mix, first + (uint64_t)i, cross_document, &s);
    out->n_starts[i] = s.n_starts;
    out->source[i] = s.source;
  }
}

int64_t pu_train_rows_tokens(const pu_train_rows *r) {
  int64_t count = 0;
  for (int64_t i = 0; i < r->rows; i++) count += r->len[i];
  return count;
}

int64_t pu_train_rows_targets(const pu_train_rows *r) {
  int64_t count = 0;
  for (int64_t i = 0; i < r->rows; i++)
    for (int64_t t = 0; t < r->len[i]; t++) count += r->targets[i * r->seq_len + t] >= 0;
  return count;
}

/* ---- packing ---- */

pu_err pu_train_pack_create(int64_t tokens, pu_arena *a, pu_train_pack *out, pu_error *e) {
  out->cu = pu_arena_alloc(a, (size_t)(tokens + 1) * sizeof *out->cu);
  out->positions = pu_arena_alloc(a, (size_t)tokens * sizeof *out->positions);
  out->ids = pu_arena_alloc(a, (size_t)tokens * sizeof *out->ids);
  out->targets = pu_arena_alloc(a, (size_t)tokens * sizeof *out->targets);
  if (out->cu && out->positions && out->ids && out->targets) return PU_OK;
  return pu_fail(e, PU_ERR_NOMEM, "no memory to pack %lld tokens", (long long)tokens);
}

static void add_sequence(pu_train_pack *p, int32_t len) {
  int32_t begin = p->cu[p->seqs.n];
  for (int32_t t = 0; t < len; t++) p->positions[begin + t] = t;
  p->cu[++p->seqs.n] = begin + len;
  p->seqs.max_len = PU_MAX(p->seqs.max_len, len);
  p->squares += (double)len * len;
}

void pu_train_pack_rows(pu_train_pack *p, const pu_train_rows *r, int64_t from, int64_t n) {
  p->seqs = (pu_seqs){.cu = p->cu, .positions = p->positions};
  p->squares = 0;
  p->cu[0] = 0;
  for (int64_t row = from; row < from + n; row++) {
    const int32_t *starts = r->starts + row * r->seq_len;
    size_t bytes = (size_t)r->len[row] * sizeof(int32_t), at = (size_t)p->cu[p->seqs.n];
    memcpy(p->ids + at, r->ids + row * r->seq_len, bytes);
    memcpy(p->targets + at, r->targets + row * r->seq_len, bytes);
    for (int i = 0; i < r->n_starts[row]; i++) {
      int32_t end = i + 1 < r->n_starts[row] ? starts[i + 1] : (int32_t)r->len[row];
      if (end > starts[i]) add_sequence(p, end - starts[i]);
    }
  }
  p->seqs.tokens = p->cu[p->seqs.n];
}
