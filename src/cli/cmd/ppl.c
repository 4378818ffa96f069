/* Perplexity of a model over a text. */
#include <math.h>
#include <stdlib.h>

#include "puyu/engine.h"
#include "src/cli/cli.h"
#include "src/cli/lines.h"
#include "src/cli/rows.h"
#include "src/cli/sample.h"

typedef struct options {
  int64_t context, stride, batch, max_tokens, threads;
  int dtype, quant, kv_dtype;
  const char *adapter, *device;
  bool json;
} options;

enum { MOST_TEXT = 1 << 30, DEFAULT_CONTEXT = 2048 };

static const pu_option rows[] = {
    PU_ROW(options, context, "context", INT, .dflt = "0", .max = 1 << 20, .meta = "N",
           .help = "tokens of a window; 0: as many as the model was trained for, at most 2048"),
    PU_ROW(options, stride, "stride", INT, .dflt = "0", .max = 1 << 20, .meta = "N",
           .help = "tokens from one window to the next; 0: half a window"),
    PU_ROW(options, batch, "batch", INT, .dflt = "0", .max = 1024, .meta = "N",
           .help = "windows at a time; 0: as many as make 4096 tokens"),
    PU_ROW(options, max_tokens, "max-tokens", INT, .dflt = "0", .max = 1e12, .meta = "N",
           .help = "only the first N tokens of the text; 0: all"),
    PU_CLI_ADAPTER_ROW(options),
    PU_ROW_DTYPE(options, "bf16|f32", "bf16", "type to compute in"),
    PU_ROW_QUANT(options, quant),
    PU_ROW_KV_DTYPE(options, kv_dtype),
    PU_ROW_DEVICE(options, device),
    PU_ROW_THREADS(options, 64),
    PU_ROW_JSON(options),
    {0},
};

typedef struct measure {
  pu_model *m;
  pu_adapter *adapter; /* or NULL */
  int64_t context, stride, batch;
  pu_ids ids;
  size_t bytes; /* of the text that ids stand for */
  pu_arena *mem, *host;
  size_t host_mark; /* of host, what all windows use lies before it */
  void *memory;
  pu_kv_type kv_type;
  pu_kv *kv;           /* [layers]; NULL: attention without a cache */
  void *kv_memory;     /* a block of the cache for each window of a batch */
  double sum, squares; /* of nats */
  int64_t counted;
} measure;

/* ---- the text ---- */

static pu_err read_text(const options *o, const char *dir, const char *path, measure *x, pu_error *e) {
  pu_tokenizer *t;
  pu_buf text;
  PU_TRY(pu_engine_tokenizer_of(dir, &t, e));
  if (!t) return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: no tokenizer to read a text with", dir);
  pu_buf_init(&text, MOST_TEXT);
  pu_err err = pu_file_read(path, MOST_TEXT, &text, e);
  unsigned flags = pu_tokenizer_adds_bos(t) ? PU_ENCODE_BOS : 0;
  pu_str s = pu_str_of(text.data ? text.data : "", text.len);
  size_t mark = pu_str_mark(s); /* is no text */
  s = pu_str_of(s.ptr + mark, s.len - mark);
  if (!err) (void)pu_cli_warn_bytes(path, 1, s);
  if (!err) err = pu_encode(t, s, flags, &x->ids, e);
  x->bytes = s.len;
  pu_buf_clear(&text);
  if (!err && o->max_tokens && (size_t)o->max_tokens < x->ids.n) { /* bits a byte are of what is left */
    x->ids.n = (size_t)o->max_tokens;
    err = pu_decode(t, x->ids.v, x->ids.n, PU_DECODE_SKIP_SPECIAL, &text, e);
    x->bytes = text.len;
  }
  if (!err && x->ids.n < 2)
    err = pu_fail(e, PU_ERR_FORMAT, "%s: too short a text: one token of it has to be told by another", path);
  pu_buf_deinit(&text);
  pu_tokenizer_free(t);
  return err;
}

/* ---- windows ---- */

/* Window w predicts tokens (last, to) from those of [begin, to): each token is counted once, with at least context -
 * stride tokens before it, but for the first window's. */
typedef struct window {
  int64_t begin, last, to;
} window;

static window window_at(const measure *x, int64_t w) {
  int64_t n = (int64_t)x->ids.n, begin = w * x->stride, to = PU_MIN(begin + x->context, n);
  return (window){begin, w ? PU_MIN(begin - x->stride + x->context, n) - 1 : 0, to};
}

static int64_t windows(const measure *x) {
  int64_t rest = (int64_t)x->ids.n - x->context;
  return rest <= 0 ? 1 : 1 + (rest + x->stride - 1) / x->stride;
}

/* Ids and targets of windows [first, first + n), end to end. */
static pu_err lay_out(measure *x, int64_t first, int64_t n, pu_seqs *seqs, int32_t **ids, int32_t **targets,
                      pu_error *e) {
  size_t most = (size_t)(n * x->context);
  int32_t *cu = pu_arena_alloc(x->host, ((size_t)n + 1) * sizeof *cu);
  int32_t *positions = pu_arena_alloc(x->host, most * sizeof *positions);
  *ids = pu_arena_alloc(x->host, most * sizeof **ids);
  *targets = pu_arena_alloc(x->host, most * sizeof **targets);
  if (!cu || !positions || !*ids || !*targets) return pu_fail(e, PU_ERR_NOMEM, "no memory for %zu tokens", most);
  *seqs = (pu_seqs){.n = (int32_t)n, .cu = cu, .positions = positions};
  cu[0] = 0;
  for (int64_t i = 0; i < n; i++) {
    window w = window_at(x, first + i);
    for (int64_t at = w.begin; at + 1 < w.to; at++, seqs->tokens++) {
      positions[seqs->tokens] = (int32_t)(at - w.begin);
      (*ids)[seqs->tokens] = x->ids.v[at];
      (*targets)[seqs->tokens] = at >= w.last ? x->ids.v[at + 1] : -1;
    }
    cu[i + 1] = seqs->tokens;
    seqs->max_len = PU_MAX(seqs->max_len, cu[i + 1] - cu[i]);
  }
  return PU_OK;
}

static pu_tensor *to_device(pu_ctx *c, const int32_t *v, int64_t n) {
  pu_tensor *t = pu_tensor_new(c, PU_I32, 1, &n, false);
  if (t) c->status = c->be->upload(c->be, t->data, v, (size_t)n * sizeof *v, c->err);
  return t;
}

/* ---- the cache ---- */

/* One for all layers: each block holds a window, and each layer writes it before it reads it. */
static pu_err make_cache(measure *x, pu_error *e) {
  const pu_hparams *hp = &x->m->hp;
  const pu_kv_format f = pu_kv_format_of(x->kv_type, x->m->dtype, hp->head_dim);
  pu_ctx c = {.be = x->m->be, .host = x->host, .err = e};
  size_t tokens = (size_t)(x->batch * x->context);
  PU_TRY(c.be->alloc(c.be, tokens * pu_kv_token_bytes(f, hp->kv_heads, hp->head_dim), &x->kv_memory, e));
  x->kv = calloc((size_t)hp->layers, sizeof *x->kv);
  if (!x->kv) return pu_fail(e, PU_ERR_NOMEM, "no memory for the cache's tables");
  for (int64_t l = 0; l < hp->layers; l++) {
    PU_TRY(pu_kv_over(&c, f, hp, x->batch, (int32_t)x->context, x->kv_memory, &x->kv[l]));
    x->kv[l].table_stride = 1;
  }
  return PU_OK;
}

/* Window i lies in block i, all of it new. */
static pu_err use_cache(measure *x, const pu_seqs *seqs, pu_forward *f, pu_error *e) {
  int32_t *table = pu_arena_alloc(x->host, (size_t)seqs->n * sizeof *table);
  int32_t *len = pu_arena_alloc(x->host, (size_t)seqs->n * sizeof *len);
  if (!table || !len) return pu_fail(e, PU_ERR_NOMEM, "no memory for the cache's tables");
  for (int32_t i = 0; i < seqs->n; i++) {
    table[i] = i;
    len[i] = seqs->cu[i + 1] - seqs->cu[i];
  }
  for (int64_t l = 0; l < x->m->hp.layers; l++) {
    x->kv[l].table = table;
    x->kv[l].len = len;
  }
  f->kv = x->kv;
  return PU_OK;
}

static pu_err run_windows(measure *x, int64_t first, int64_t n, pu_error *e) {
  pu_seqs seqs;
  int32_t *ids, *targets;
  pu_arena_reset(x->mem);
  pu_arena_release(x->host, x->host_mark);
  PU_TRY(lay_out(x, first, n, &seqs, &ids, &targets, e));
  pu_ctx c = {.be = x->m->be, .mem = x->mem, .host = x->host, .err = e};
  pu_tensor *on_device = to_device(&c, ids, seqs.tokens),
            *wanted = c.status ? NULL : to_device(&c, targets, seqs.tokens);
  if (c.status) return c.status;
  pu_adapter_rows all = {x->adapter, 0, seqs.tokens};
  pu_forward f = {.ids = on_device, .seqs = &seqs, .adapters = &all, .n_adapters = x->adapter ? 1 : 0};
  if (x->kv) PU_TRY(use_cache(x, &seqs, &f, e));
  pu_tensor *loss = pu_model_loss(x->m, &c, pu_model_forward(x->m, &c, &f), wanted, 1);
  if (c.status) return c.status;
  float *nats = pu_arena_alloc(x->host, pu_tensor_bytes(loss));
  if (!nats) return pu_fail(e, PU_ERR_NOMEM, "no memory for the losses");
  PU_TRY(x->m->be->download(x->m->be, nats, loss->data, pu_tensor_bytes(loss), e));
  for (int32_t i = 0; i < seqs.tokens; i++) {
    if (targets[i] < 0) continue;
    x->sum += (double)nats[i];
    x->squares += (double)nats[i] * (double)nats[i];
    x->counted++;
  }
  return PU_OK;
}

static pu_err run_all(measure *x, pu_error *e) {
  int64_t n = windows(x), tokens = x->batch * x->context;
  size_t bytes = pu_model_activation_bytes(x->m, tokens, x->context, false, false) + (size_t)tokens * 64 + (1 << 20);
  PU_TRY(x->m->be->alloc(x->m->be, bytes, &x->memory, e));
  PU_TRY(pu_arena_wrap(x->memory, bytes, &x->mem, e));
  PU_TRY(pu_arena_create(((size_t)64 << 20) + (size_t)tokens * 8192, &x->host, e));
  if (x->kv_type != PU_KV_SAME) PU_TRY(make_cache(x, e));
  x->host_mark = pu_arena_mark(x->host);
  pu_progress *bar = pu_progress_open("perplexity", "windows", (double)n);
  pu_err err = PU_OK;
  for (int64_t w = 0; w < n && !err; w += x->batch) {
    err = run_windows(x, w, PU_MIN(x->batch, n - w), e);
    char note[60];
    snprintf(note, sizeof note, "%.4f nats", x->sum / (double)PU_MAX(x->counted, 1));
    pu_progress_set(bar, (double)PU_MIN(w + x->batch, n), note);
  }
  pu_progress_close(bar);
  return err;
}

/* ---- the result ---- */

/* The error takes tokens as independent, which they are not quite: it is a lower bound. */
static void print(FILE *out, const options *o, const measure *x) {
  double n = (double)x->counted, mean = x->sum / n, variance = n > 1 ? (x->squares - n * mean * mean) / (n - 1) : 0;
  double error = sqrt(PU_MAX(variance, 0) / n), ppl = exp(mean), bits = x->sum / log(2) / (double)PU_MAX(x->bytes, 1);
  if (o->json) {
    fprintf(out,
            "{\"tokens\": %lld, \"bytes\": %zu, \"context\": %lld, \"stride\": %lld, \"nats\": %.6f, "
            "\"nats_error\": %.6f, \"bits_per_byte\": %.6f, \"perplexity\": %.6g, \"perplexity_error\": %.3g}\n",
            (long long)x->counted, x->bytes, (long long)x->context, (long long)x->stride, mean, error, bits, ppl,
            ppl * error);
    return;
  }
  /* As many places as give the error two digits; of whole hundreds, all of them. */
  double digits = ppl * error > 0 ? 1 - floor(log10(ppl * error)) : 4;
  int places = (int)PU_MAX(0, PU_MIN(4, digits));
  fprintf(out, "tokens         %lld predicted, of %zu bytes, in windows of %lld, %lld apart\n", (long long)x->counted,
          x->bytes, (long long)x->context, (long long)x->stride);
  fprintf(out, "nats a token   %.4f +- %.4f\nbits a byte    %.4f\n", mean, error, bits);
  fprintf(out, "perplexity     %.*f +- %.*f\n", places, ppl, places, ppl * error);
}

static pu_err settle(const options *o, measure *x, pu_error *e) {
  int64_t most = x->m->hp.max_position > 0 ? x->m->hp.max_position : DEFAULT_CONTEXT;
  x->context = o->context ? o->context : PU_MIN(most, DEFAULT_CONTEXT);
  if (x->context < 2) return pu_fail(e, PU_ERR_USAGE, "--context 1: a window needs two tokens at least");
  x->context = PU_MIN(x->context, (int64_t)x->ids.n);
  x->stride = o->stride ? o->stride : PU_MAX(x->context / 2, 1);
  if (x->stride >= x->context) x->stride = x->context - 1; /* the last token of a window begins the next */
  x->batch = o->batch ? o->batch : PU_MAX(4096 / x->context, 1);
  x->batch = PU_MIN(x->batch, windows(x));
  return PU_OK;
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  (void)n_args;
  const options *o = opts;
  pu_backend *be = NULL;
  measure x = {.kv_type = (pu_kv_type)o->kv_dtype};
  pu_model_options mo = {.dtype = o->dtype ? PU_F32 : PU_BF16, .tile = true, .quant = (pu_quant)o->quant};
  pu_err err = read_text(o, args[0], args[1], &x, e);
  if (!err) err = pu_backend_open(o->device, (int)o->threads, &be, e);
  if (!err) err = pu_model_load(args[0], be, &mo, &x.m, e);
  if (!err && o->adapter) err = pu_adapter_load(o->adapter, x.m, false, &x.adapter, e);
  if (!err) err = settle(o, &x, e);
  if (!err) err = run_all(&x, e);
  if (!err) print(cli->out, o, &x);
  pu_arena_free(x.mem);
  pu_arena_free(x.host);
  if (x.memory) be->free(be, x.memory);
  pu_adapter_free(x.adapter);
  if (x.kv_memory) be->free(be, x.kv_memory);
  free(x.kv);
  pu_model_free(x.m);
  if (be) be->close(be);
  pu_ids_deinit(&x.ids);
  return err;
}

const pu_command pu_command_ppl = {
    .name = "ppl",
    .summary = "measure how well a model predicts a text",
    .usage = "MODEL FILE [options]",
    .details =
        "MODEL is a Hugging Face directory with a tokenizer, FILE a text. The text is read in windows that overlap; "
        "each of its tokens but the first is predicted once, from the window's tokens before it. Prints the mean "
        "negative log-probability of a token in nats, the bits a byte of text takes, and the perplexity. The standard "
        "errors take tokens as independent. With --kv-dtype, keys and values go through a cache of that type, as they "
        "do "
        "when text is generated.",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 2,
    .max_args = 2,
    .run = run,
};
