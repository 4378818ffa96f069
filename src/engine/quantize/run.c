/* The walk through a model, layer by layer: read, calibrate, quantise, write, and on to the next with what the
 * quantised layer makes of the calibration texts. */
#include <stdlib.h>
#include <string.h>

#include "src/engine/quantize/parts.h"

enum { BATCH_TOKENS = 4096 };

typedef struct walk {
  const char *src;
  const pu_quantizer *method;
  pu_quantize_options o; /* filled in */
  pu_hparams hp;
  pu_dtype dtype, file_type; /* computed in; of the matrices in the files */
  pu_backend *be;
  pu_arena *mem, *host;
  void *memory;
  float *hidden; /* [tokens, C] the residual state of all texts, before the next layer */
  int64_t tokens;
  pu_parts parts;
  pu_quantize_report *report;
  pu_quant_loss loss;
} walk;

static void tell(const walk *w, double done) {
  if (w->o.progress) w->o.progress(w->o.progress_arg, done, (double)w->hp.layers);
}

/* ---- passes over the texts ---- */

typedef struct batch {
  size_t first, n; /* texts */
  int64_t at;      /* their first token */
  pu_seqs seqs;
  int32_t *ids;
} batch;

/* The next texts, at least one, of BATCH_TOKENS together at most. */
static pu_err next_batch(const walk *w, batch *b, pu_error *e) {
  b->first += b->n;
  b->at += b->seqs.tokens;
  b->n = 0;
  b->seqs = (pu_seqs){0};
  size_t left = w->o.n_calib - b->first;
  for (; b->n < left; b->n++) {
    int64_t more = (int64_t)w->o.calib[b->first + b->n].n;
    if (b->n && b->seqs.tokens + more > BATCH_TOKENS) break;
    b->seqs.tokens += (int32_t)more;
  }
  int32_t *cu = pu_arena_zalloc(w->host, (b->n + 1) * sizeof *cu);
  int32_t *positions = pu_arena_alloc(w->host, (size_t)b->seqs.tokens * sizeof *positions);
  b->ids = pu_arena_alloc(w->host, (size_t)b->seqs.tokens * sizeof *b->ids);
  if (!cu || !positions || !b->ids) return pu_fail(e, PU_ERR_NOMEM, "no memory for a batch of texts");
  for (size_t i = 0; i < b->n; i++) {
    const pu_ids_view *text = &w->o.calib[b->first + i];
    memcpy(b->ids + cu[i], text->v, text->n * sizeof *b->ids);
    for (size_t t = 0; t < text->n; t++) positions[cu[i] + (int32_t)t] = (int32_t)t;
    cu[i + 1] = cu[i] + (int32_t)text->n;
    b->seqs.max_len = PU_MAX(b->seqs.max_len, (int32_t)text->n);
  }
  b->seqs.n = (int32_t)b->n;
  b->seqs.cu = cu;
  b->seqs.positions = positions;
  return PU_OK;
}

/* What one batch goes through. */
typedef pu_err (*batch_fn)(walk *w, pu_ctx *c, const batch *b, void *arg, pu_error *e);

static pu_err each_batch(walk *w, batch_fn fn, void *arg, pu_error *e) {
  batch b = {0};
  while (b.first + b.n < w->o.n_calib) {
    if (pu_signals_stop()) return pu_fail(e, PU_ERR_STOPPED, "stopped; nothing was written");
    pu_arena_reset(w->mem);
    pu_arena_reset(w->host);
    PU_TRY(next_batch(w, &b, e));
    pu_ctx c = {.be = w->be, .mem = w->mem, .host = w->host, .err = e};
    PU_TRY(fn(w, &c, &b, arg, e));
  }
  return PU_OK;
}

static pu_err embed(walk *w, pu_ctx *c, const batch *b, void *arg, pu_error *e) {
  pu_model *m = arg;
  (void)e;
  int64_t n = b->seqs.tokens, width = w->hp.hidden;
  pu_tensor *h = pu_embedding(c, pu_tensor_over(c, PU_I32, 1, &n, b->ids), m->outer[PU_SLOT_EMBED], PU_F32);
  if (h) memcpy(w->hidden + b->at * width, h->data, (size_t)(n * width) * sizeof *w->hidden);
  return c->status;
}

/* One layer; with an observer the hidden states stay as they were. */
typedef struct pass {
  pu_model *m;
  int64_t layer;
  const pu_observer *observer;
} pass;

static pu_err through_layer(walk *w, pu_ctx *c, const batch *b, void *arg, pu_error *e) {
  const pass *p = arg;
  const int64_t shape[] = {b->seqs.tokens, w->hp.hidden};
  float *hidden = w->hidden + b->at * w->hp.hidden;
  pu_forward f = {.seqs = &b->seqs, .observer = p->observer};
  pu_state in = {pu_tensor_over(c, PU_F32, 2, shape, hidden), NULL};
  pu_state out = pu_model_block(p->m, c, &f, p->layer, in);
  if (c->status || p->observer) return c->status;
  int64_t n = shape[0] * shape[1];
  float *more = pu_arena_alloc(w->mem, (size_t)n * sizeof *more);
  if (!more) return pu_fail(e, PU_ERR_NOMEM, "no memory for the results of %lld tokens", (long long)shape[0]);
  pu_convert(more, PU_F32, out.x->data, out.x->dtype, n);
  const float *h = out.h->data;
  for (int64_t i = 0; i < n; i++) hidden[i] = h[i] + more[i];
  return PU_OK;
}

/* ---- parts of the model ---- */

static pu_err load(const walk *w, pu_model_part part, pu_model **out, pu_error *e) {
  pu_model_options o = {.dtype = w->dtype, .part = &part};
  return pu_model_load(w->src, w->be, &o, out, e);
}

static pu_err outer_part(walk *w, pu_error *e) {
  pu_model *m;
  PU_TRY(load(w, (pu_model_part){0, 0, true}, &m, e));
  pu_err err = w->o.n_calib ? each_batch(w, embed, m, e) : PU_OK;
  if (!err) err = pu_parts_add(&w->parts, m, NULL, e);
  pu_model_free(m);
  return err;
}

static void count(walk *w, const pu_quant_matrix *m) {
  const pu_qmatrix *q = &m->q;
  double n = (double)(q->rows * q->cols), groups = (double)(q->rows * pu_qmatrix_groups(q));
  w->report->weights += q->rows * q->cols;
  w->report->bits += n * q->bits + groups * (16 + (q->zero ? q->bits : 0));
}

static pu_err quantise(walk *w, pu_quant_layer *l, pu_error *e) {
  if (w->method->fold) PU_TRY(w->method->fold(l, e));
  for (size_t i = 0; i < l->n; i++) {
    pu_quant_loss loss;
    if (pu_signals_stop()) return pu_fail(e, PU_ERR_STOPPED, "stopped; nothing was written");
    PU_TRY(w->method->quantise(l, &l->v[i], e));
    PU_TRY(pu_quant_measure(w->be, &l->v[i], &loss, e));
    w->loss.error += loss.error;
    w->loss.size += loss.size;
    count(w, &l->v[i]);
    tell(w, (double)l->layer + 0.4 + 0.3 * (double)(i + 1) / (double)l->n);
  }
  pu_quant_layer_put(l);
  return PU_OK;
}

static pu_err one_layer(walk *w, pu_model *m, int64_t layer, pu_quant_layer *l, pu_error *e) {
  const pu_observer see = {pu_quant_layer_see, l};
  pass watched = {m, layer, &see}, onward = {m, layer, NULL};
  bool calibrates = w->o.n_calib;
  PU_TRY(pu_quant_layer_open(m, layer, &w->o, calibrates ? w->method->needs | PU_NEEDS_INPUTS : 0, l, e));
  l->file_type = w->file_type;
  if (calibrates) PU_TRY(each_batch(w, through_layer, &watched, e));
  tell(w, (double)layer + 0.4);
  PU_TRY(quantise(w, l, e));
  PU_TRY(pu_parts_add(&w->parts, m, l->q, e));
  return calibrates && layer + 1 < w->hp.layers ? each_batch(w, through_layer, &onward, e) : PU_OK;
}

static pu_err layer_part(walk *w, int64_t layer, pu_error *e) {
  pu_model *m;
  pu_quant_layer l = {0};
  PU_TRY(load(w, (pu_model_part){layer, layer + 1, false}, &m, e));
  pu_err err = one_layer(w, m, layer, &l, e);
  pu_quant_layer_close(&l);
  pu_model_free(m);
  tell(w, (double)layer + 1);
  return err;
}

/* ---- beginning and end ---- */

/* The type of its matrices, and the bytes of all. */
static pu_err look_at_files(walk *w, pu_error *e) {
  pu_safetensors *s;
  PU_TRY(pu_model_widest(w->src, true, &w->file_type, e));
  PU_TRY(pu_safetensors_open(w->src, &s, e));
  for (size_t i = 0; i < pu_safetensors_count(s); i++) w->report->bytes_before += pu_safetensors_at(s, i)->bytes;
  pu_safetensors_close(s);
  w->dtype = w->file_type == PU_BF16 ? PU_BF16 : PU_F32; /* that nothing is lost on the way */
  return PU_OK;
}

/* Beside a layer's activations: inputs as f32, and what one expert makes of its tokens. */
static size_t watching_bytes(const pu_hparams *hp, int64_t tokens) {
  return (size_t)tokens * (size_t)(2 * hp->hidden + hp->heads * hp->head_dim + 5 * hp->ffn) * sizeof(float);
}

static pu_err make_room(walk *w, pu_error *e) {
  int64_t longest = BATCH_TOKENS;
  for (size_t i = 0; i < w->o.n_calib; i++) {
    w->tokens += (int64_t)w->o.calib[i].n;
    longest = PU_MAX(longest, (int64_t)w->o.calib[i].n);
  }
  pu_model shape = {.dtype = w->dtype, .hp = w->hp};
  size_t bytes = pu_model_activation_bytes(&shape, longest, longest, false, false) + watching_bytes(&w->hp, longest) +
                 ((size_t)1 << 20);
  PU_TRY(w->be->alloc(w->be, bytes, &w->memory, e));
  PU_TRY(pu_arena_wrap(w->memory, bytes, &w->mem, e));
  PU_TRY(pu_arena_create(((size_t)64 << 20) + (size_t)longest * 8192, &w->host, e));
  w->hidden = malloc((size_t)w->tokens * (size_t)w->hp.hidden * sizeof *w->hidden + 1);
  return w->hidden ? PU_OK
                   : pu_fail(e, PU_ERR_NOMEM, "no memory for the states of %lld tokens: calibrate with fewer",
                             (long long)w->tokens);
}

static pu_err check_texts(const walk *w, pu_error *e) {
  for (size_t i = 0; i < w->o.n_calib; i++) {
    const pu_ids_view *t = &w->o.calib[i];
    if (t->n < 1 || t->n > (size_t)1 << 20)
      return pu_fail(e, PU_ERR_USAGE, "calibration text %zu has %zu tokens", i, t->n);
    for (size_t k = 0; k < t->n; k++)
      if (t->v[k] < 0 || t->v[k] >= w->hp.vocab)
        return pu_fail(e, PU_ERR_FORMAT,
                       "the tokenizer gives token %d, the model has %lld: they do not belong together", (int)t->v[k],
                       (long long)w->hp.vocab);
  }
  return PU_OK;
}

static pu_err run(walk *w, const char *dir, pu_error *e) {
  const pu_arch *arch;
  PU_TRY(pu_model_describe(w->src, &arch, &w->hp, e));
  PU_TRY(check_texts(w, e));
  PU_TRY(look_at_files(w, e));
  PU_TRY(pu_cpu_open(w->o.threads, pu_isa_best(), &w->be, e));
  PU_TRY(make_room(w, e));
  PU_TRY(pu_parts_begin(&w->parts, dir, w->file_type, w->method->format, (size_t)w->hp.layers + 1, e));
  PU_TRY(outer_part(w, e));
  for (int64_t l = 0; l < w->hp.layers; l++) PU_TRY(layer_part(w, l, e));
  PU_TRY(pu_parts_end(&w->parts, &w->report->bytes_after, e));
  w->report->bits /= (double)w->report->weights;
  w->report->error = w->loss.size > 0 ? w->loss.error / w->loss.size : 0;
  return PU_OK;
}

pu_err pu_quantize(const char *src, const char *dir, const pu_quantize_options *o, pu_quantize_report *out,
                   pu_error *e) {
  *out = (pu_quantize_report){0};
  PU_TRY(pu_quantize_check(src, o, e));
  if (pu_path_exists(dir)) return pu_fail(e, PU_ERR_USAGE, "%s: is there already", dir);
  walk w = {.src = src, .method = pu_quantizer_find(o->method), .o = *o, .report = out};
  if (w.method->is.a_row) {
    w.o.group = 0;
    w.o.symmetric = true;
  }
  pu_err err = run(&w, dir, e);
  pu_parts_deinit(&w.parts);
  if (err && pu_remove_tree(dir, NULL) != PU_OK)
    pu_log(PU_LOG_WARN, "%s: what was written so far cannot be removed", dir);
  free(w.hidden);
  pu_arena_free(w.mem);
  pu_arena_free(w.host);
  if (w.memory) w.be->free(w.be, w.memory);
  if (w.be) w.be->close(w.be);
  return err;
}
