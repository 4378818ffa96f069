/* Logits of given tokens: for comparing with other programs. */
#include <stdlib.h>
#include <string.h>

#include "src/cli/cli.h"
#include "src/cli/rows.h"
#include "src/cli/sample.h"

typedef struct options {
  const char *ids, *out, *key, *device, *adapter;
  int dtype;
  int64_t threads;
} options;

static const pu_option rows[] = {
    PU_ROW(options, ids, "ids", STR, .meta = "FILE", .required = true,
           .help = "safetensors file that holds the tokens, integers [B, T]"),
    PU_ROW_OUT(options, "FILE", "safetensors file for `logits`, f32 [B, T, V]"),
    PU_ROW(options, key, "key", STR, .dflt = "input_ids", .meta = "NAME",
           .help = "name of the tokens' tensor in the --ids file"),
    PU_CLI_ADAPTER_ROW(options),
    PU_ROW_DTYPE(options, "f32|bf16", "f32", "type to compute in"),
    PU_ROW_DEVICE(options, device),
    PU_ROW_THREADS(options, 64),
    {0},
};

/* ---- the tokens ---- */

typedef struct tokens {
  int64_t rows, len;
  int32_t *ids;
} tokens;

static pu_err read_id(const pu_st_tensor *t, int64_t i, int64_t vocab, int32_t *out, pu_error *e) {
  int64_t id = 0;
  int32_t narrow;
  if (t->dtype == PU_I32) {
    memcpy(&narrow, (const char *)t->data + i * 4, 4);
    id = narrow;
  } else {
    memcpy(&id, (const char *)t->data + i * 8, 8);
  }
  if (id < 0 || id >= vocab)
    return pu_fail(e, PU_ERR_FORMAT, "token %lld of '%s' is %lld, outside the vocabulary of %lld", (long long)i,
                   t->name, (long long)id, (long long)vocab);
  *out = (int32_t)id;
  return PU_OK;
}

static pu_err read_tokens(const options *o, const pu_safetensors *file, int64_t vocab, pu_arena *a, tokens *out,
                          pu_error *e) {
  const pu_st_tensor *t = pu_safetensors_find(file, o->key);
  if (!t) return pu_fail(e, PU_ERR_FORMAT, "%s: holds no tensor '%s': name it with --key", o->ids, o->key);
  if (t->ndim != 2 || (t->dtype != PU_I32 && t->dtype != PU_I64) || !t->bytes || t->shape[1] > INT32_MAX)
    return pu_fail(e, PU_ERR_FORMAT, "%s: '%s' should be integers (I32, I64) of shape [B, T]", o->ids, o->key);
  *out = (tokens){.rows = t->shape[0], .len = t->shape[1]};
  int64_t n = out->rows * out->len;
  out->ids = pu_arena_alloc(a, (size_t)n * sizeof *out->ids);
  if (!out->ids) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for %lld tokens", o->ids, (long long)n);
  for (int64_t i = 0; i < n; i++) PU_TRY(read_id(t, i, vocab, &out->ids[i], e));
  return PU_OK;
}

/* ---- the logits, in order, as the file is written ---- */

typedef struct stream {
  pu_model *m;
  pu_adapter_rows adapter; /* of all rows of a sequence; none: its adapter is NULL */
  tokens t;
  pu_ctx c;
  pu_seqs seqs;
  pu_tensor *hidden; /* of sequence `row` */
  int64_t row;
  size_t mark;  /* of c.mem, above hidden */
  float *chunk; /* logits of `chunk_n` tokens from `chunk_at` on, counted over all sequences */
  int64_t chunk_at, chunk_n, chunk_max;
  pu_progress *bar;
} stream;

static pu_err run_sequence(stream *s, int64_t row, pu_error *e) {
  pu_arena_reset(s->c.mem);
  pu_arena_reset(s->c.host);
  s->c.err = e;
  pu_tensor *ids = pu_tensor_new(&s->c, PU_I32, 1, &s->t.len, false);
  if (!ids) return s->c.status;
  PU_TRY(s->m->be->upload(s->m->be, ids->data, s->t.ids + row * s->t.len, pu_tensor_bytes(ids), e));
  pu_forward f = {.ids = ids, .seqs = &s->seqs, .adapters = &s->adapter, .n_adapters = s->adapter.adapter ? 1 : 0};
  s->hidden = pu_model_forward(s->m, &s->c, &f);
  s->row = row;
  s->mark = pu_arena_mark(s->c.mem);
  pu_progress_set(s->bar, (double)row, NULL);
  return s->c.status;
}

/* The chunk that begins with this token. */
static pu_err run_chunk(stream *s, int64_t token, pu_error *e) {
  int64_t row = token / s->t.len, in_row = token % s->t.len;
  if (row != s->row) PU_TRY(run_sequence(s, row, e));
  s->chunk_at = token;
  s->chunk_n = PU_MIN(s->chunk_max, s->t.len - in_row);
  int32_t rows_of[4096];
  for (int64_t i = 0; i < s->chunk_n; i++) rows_of[i] = (int32_t)(in_row + i);
  s->c.err = e;
  pu_arena_release(s->c.mem, s->mark);
  pu_tensor *y = pu_model_logits(s->m, &s->c, s->hidden, rows_of, s->chunk_n);
  return y ? s->m->be->download(s->m->be, s->chunk, y->data, pu_tensor_bytes(y), e) : s->c.status;
}

static pu_err read_logits(void *arg, size_t offset, void *buf, size_t len, pu_error *e) {
  stream *s = arg;
  int64_t vocab = s->m->hp.vocab, at = (int64_t)(offset / 4), end = (int64_t)((offset + len) / 4);
  for (float *out = buf; at < end;) {
    int64_t token = at / vocab;
    if (token < s->chunk_at || token >= s->chunk_at + s->chunk_n) PU_TRY(run_chunk(s, token, e));
    int64_t n = PU_MIN(end, (s->chunk_at + s->chunk_n) * vocab) - at;
    memcpy(out, s->chunk + (at - s->chunk_at * vocab), (size_t)n * sizeof *out);
    out += n;
    at += n;
  }
  return PU_OK;
}

static pu_err stream_seqs(stream *s, pu_arena *a, pu_error *e) {
  int32_t *cu = pu_arena_alloc(a, 2 * sizeof *cu), *positions = pu_arena_alloc(a, (size_t)s->t.len * sizeof *positions);
  if (!cu || !positions) return pu_fail(e, PU_ERR_NOMEM, "no memory for sequences of %lld tokens", (long long)s->t.len);
  cu[0] = 0;
  cu[1] = (int32_t)s->t.len;
  for (int32_t i = 0; i < cu[1]; i++) positions[i] = i;
  s->seqs = (pu_seqs){.n = 1, .tokens = cu[1], .max_len = cu[1], .cu = cu, .positions = positions};
  return PU_OK;
}

static pu_err write_logits(const pu_cli *cli, const options *o, pu_model *m, const pu_adapter *adapter, const tokens *t,
                           pu_error *e) {
  enum { CHUNK_BYTES = 64 << 20, MOST_ROWS = 4096 };
  stream s = {.m = m, .adapter = {adapter, 0, (int32_t)t->len}, .t = *t, .row = -1, .c = {.be = m->be, .err = e}};
  int64_t rows_max = CHUNK_BYTES / (m->hp.vocab * 4);
  s.chunk_max = PU_MAX(1, PU_MIN(PU_MIN(rows_max, MOST_ROWS), t->len));
  size_t chunk_bytes = (size_t)(s.chunk_max * m->hp.vocab) * 4;
  size_t bytes = pu_model_activation_bytes(m, t->len, t->len, false, false) + chunk_bytes +
                 (size_t)(s.chunk_max * m->hp.hidden) * 4 + ((size_t)1 << 20);
  void *memory = NULL;
  pu_err err = stream_seqs(&s, cli->arena, e);
  if (err == PU_OK) err = m->be->alloc(m->be, bytes, &memory, e);
  if (err == PU_OK) err = pu_arena_wrap(memory, bytes, &s.c.mem, e);
  if (err == PU_OK) err = pu_arena_create((size_t)1 << 32, &s.c.host, e);
  s.chunk = malloc(chunk_bytes);
  if (err == PU_OK && !s.chunk) err = pu_fail(e, PU_ERR_NOMEM, "no memory for %zu bytes of logits", chunk_bytes);
  s.bar = pu_progress_open("logits", "sequences", (double)t->rows);
  pu_st_source out = {.name = "logits",
                      .dtype = PU_F32,
                      .ndim = 3,
                      .shape = {t->rows, t->len, m->hp.vocab},
                      .read = read_logits,
                      .arg = &s};
  pu_signals_catch_writing();
  if (err == PU_OK) err = pu_safetensors_write(o->out, &out, 1, NULL, e);
  pu_progress_close(s.bar);
  free(s.chunk);
  pu_arena_free(s.c.mem);
  pu_arena_free(s.c.host);
  if (memory) m->be->free(m->be, memory);
  return err;
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  const options *o = opts;
  pu_backend *be = NULL;
  pu_model *m = NULL;
  pu_adapter *adapter = NULL;
  pu_safetensors *file = NULL;
  tokens t;
  (void)n_args;
  pu_model_options mo = {.dtype = o->dtype ? PU_BF16 : PU_F32};
  pu_err err = pu_safetensors_open(o->ids, &file, e);
  if (err == PU_OK) err = pu_backend_open(o->device, (int)o->threads, &be, e);
  if (err == PU_OK) err = pu_model_load(args[0], be, &mo, &m, e);
  if (err == PU_OK && o->adapter) err = pu_adapter_load(o->adapter, m, false, &adapter, e);
  if (err == PU_OK) err = read_tokens(o, file, m->hp.vocab, cli->arena, &t, e);
  if (err == PU_OK) err = write_logits(cli, o, m, adapter, &t, e);
  pu_safetensors_close(file);
  pu_adapter_free(adapter);
  pu_model_free(m);
  if (be) be->close(be);
  return err;
}

const pu_command pu_command_logits = {
    .name = "logits",
    .summary = "write the logits a model gives for tokens",
    .usage = "MODEL --ids FILE --out FILE [options]",
    .details = "Each row of the tokens is a sequence of its own. All of its logits are written, in f32 whatever the "
               "compute type.",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
