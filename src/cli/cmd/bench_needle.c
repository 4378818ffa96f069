/* Needles in a haystack, for a model whose weights are set by hand so that it can do nothing but find them: what is
 * tried is the engine's long context, not what some training came to.
 *
 * Two layers make an induction head (Olsson et al. 2022). The residual stream holds a constant and, E values each, the
 * codes of the token, of the one before it, and of the answer; codes are rows of +-1. Layer 1 looks at the token
 * before: its queries are the same everywhere, its keys the same turned on by one position, and both only in the pairs
 * that RoPE turns fast, where the score is highest one position back. It copies that token's code. Layer 2 looks for
 * places where the token before was the present one, in pairs that hardly turn, and copies the code of the token there.
 */
#include <math.h>
#include <stdlib.h>

#include "src/cli/cli.h"
#include "src/cli/rows.h"

typedef struct options {
  int64_t seq, needles, chunk, threads;
  int dtype, kv_dtype;
  bool json;
  const char *device;
} options;

static const pu_option rows[] = {
    PU_ROW_SEQ(options, 64, "32768", "tokens of the haystack"),
    PU_ROW(options, needles, "needles", INT, .dflt = "9", .min = 1, .max = 32, .meta = "N",
           .help = "pairs hidden in it, from its beginning to its end"),
    PU_ROW(options, chunk, "prefill-chunk", INT, .dflt = "0", .max = 1 << 20, .meta = "N",
           .help = "tokens read in a step at most; 0: 512"),
    PU_ROW_DTYPE(options, "bf16|f32", "bf16", "type to compute in"),
    PU_ROW_KV_DTYPE(options, kv_dtype),
    PU_ROW_DEVICE(options, device),
    PU_ROW_THREADS(options, 64),
    PU_ROW_JSON(options),
    {0},
};

enum {
  E = 32, /* values of a code */
  CONSTANT = 0,
  TOKEN = 32,
  BEFORE = 64,
  ANSWER = 96, /* where they lie in the residual stream */
  HIDDEN = 128,
  DIM = 128, /* of the one head */
  FAST = 13, /* pairs of layer 1 */
  SLOW = 48, /* the first pair of layer 2; E / 2 pairs */
  VOCAB = 256,
  MOST_ALIKE = 16 /* of two codes: their product, which is E for a code with itself */
};
static const double STEADY = 4; /* the constant */

/* ---- the model ---- */

/* A matrix on its way to the device: on the host, all zeros but what is set. */
typedef struct sketch {
  const pu_tensor *t;
  char *v;
} sketch;

static pu_err begin(sketch *s, const pu_tensor *t, pu_error *e) {
  *s = (sketch){t, calloc(1, pu_tensor_bytes(t))};
  return s->v ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory for a matrix");
}

static void set(sketch *s, int64_t row, int64_t col, double value) {
  float x = (float)value;
  pu_convert(s->v + (size_t)(row * s->t->stride[0] + col) * pu_dtype_size(s->t->dtype), s->t->dtype, &x, PU_F32, 1);
}

static pu_err end(sketch *s, pu_backend *be, pu_err err, pu_error *e) {
  if (!err) err = be->upload(be, s->t->data, s->v, pu_tensor_bytes(s->t), e);
  free(s->v);
  return err;
}

static int alike(const int8_t *a, const int8_t *b) {
  int sum = 0;
  for (int i = 0; i < E; i++) sum += a[i] * b[i];
  return sum;
}

/* Random ones, each unlike all before it. */
static void make_codes(int8_t code[VOCAB][E]) {
  pu_rng r;
  pu_rng_seed(&r, 1);
  for (int n = 0; n < VOCAB;) {
    bool apart = true;
    for (int i = 0; i < E; i++) code[n][i] = pu_rng_below(&r, 2) ? 1 : -1;
    for (int i = 0; i < n && apart; i++) apart = alike(code[n], code[i]) <= MOST_ALIKE;
    n += apart;
  }
}

/* The dimension of the head that holds value i of a code. */
static int slow_dim(int i) {
  return SLOW + i % (E / 2) + (i < E / 2 ? 0 : DIM / 2);
}

static void draw_attention(const pu_model *m, int layer, sketch *qkv, sketch *out) {
  const double norm = sqrt((STEADY * STEADY + (layer ? 2 : 1) * E) / HIDDEN); /* of what comes in: taken out again */
  const double fast = sqrt(40 * sqrt(DIM)), slow = sqrt(4 * sqrt(DIM));       /* scores of 40 a pair; of 4 a value */
  for (int i = 0; layer == 0 && i < FAST; i++) {
    const double turn = pow(m->hp.rope.base, -2.0 * i / DIM), size = fast * norm / STEADY;
    set(qkv, i, CONSTANT, size);
    set(qkv, DIM + i, CONSTANT, size * cos(turn));
    set(qkv, DIM + DIM / 2 + i, CONSTANT, size * sin(turn));
  }
  for (int i = 0; i < E; i++) {
    if (layer) {
      set(qkv, slow_dim(i), TOKEN + i, slow * norm);
      set(qkv, DIM + slow_dim(i), BEFORE + i, slow * norm);
    }
    set(qkv, 2 * DIM + i, TOKEN + i, norm);
    set(out, (layer ? ANSWER : BEFORE) + i, i, 1);
  }
}

static pu_err set_attention(pu_model *m, int layer, pu_error *e) {
  sketch qkv, out = {0};
  PU_TRY(begin(&qkv, m->layers[layer].slot[PU_SLOT_QKV], e));
  pu_err err = begin(&out, m->layers[layer].slot[PU_SLOT_WO], e);
  if (!err) draw_attention(m, layer, &qkv, &out);
  err = end(&qkv, m->be, err, e);
  return end(&out, m->be, err, e);
}

static pu_err set_codes(pu_model *m, pu_error *e) {
  int8_t code[VOCAB][E];
  sketch embed, output = {0};
  make_codes(code);
  PU_TRY(begin(&embed, m->outer[PU_SLOT_EMBED], e));
  pu_err err = begin(&output, m->outer[PU_SLOT_OUTPUT], e);
  for (int id = 0; id < VOCAB && !err; id++) {
    set(&embed, id, CONSTANT, STEADY);
    for (int i = 0; i < E; i++) {
      set(&embed, id, TOKEN + i, code[id][i]);
      set(&output, id, ANSWER + i, code[id][i]);
    }
  }
  err = end(&embed, m->be, err, e);
  return end(&output, m->be, err, e);
}

static pu_err make_model(pu_backend *be, const options *o, pu_model **out, pu_error *e) {
  const pu_hparams hp = {.vocab = VOCAB,
                         .hidden = HIDDEN,
                         .ffn = 32,
                         .layers = 2,
                         .heads = 1,
                         .kv_heads = 1,
                         .head_dim = DIM,
                         .max_position = 1 << 20,
                         .norm_eps = 1e-6,
                         .rope = {.base = 2e9, .factor = 1},
                         .bos = -1};
  const pu_model_options mo = {.dtype = o->dtype ? PU_F32 : PU_BF16};
  PU_TRY(pu_model_random(pu_arch_find("llama"), &hp, 1, be, &mo, out, e));
  pu_model *m = *out;
  PU_TRY(set_codes(m, e));
  for (int l = 0; l < 2; l++) {
    for (int s = 0; s < PU_SLOT_COUNT; s++) {
      const pu_tensor *t = s == PU_SLOT_ATTN_NORM || s == PU_SLOT_MLP_NORM ? NULL : m->layers[l].slot[s];
      if (t) PU_TRY(be->clear(be, t->data, pu_tensor_bytes(t), e));
    }
    PU_TRY(set_attention(m, l, e));
  }
  return PU_OK;
}

/* ---- the haystack ---- */

/* Needle i is the ids 2 i and 2 i + 1; hay is of ids above all of them. */
static pu_err fill(pu_session *s, const options *o, pu_error *e) {
  const int64_t first = 2 * o->needles;
  for (int64_t at = 0; at < o->seq; at++) {
    int32_t id = (int32_t)(first + (int64_t)(pu_random_at(1, 2, (uint64_t)at) % (uint64_t)(VOCAB - first)));
    for (int64_t i = 0; i < o->needles; i++) {
      int64_t place = (2 * i + 1) * o->seq / (2 * o->needles);
      if (at == place || at == place + 1) id = (int32_t)(2 * i + at - place);
    }
    PU_TRY(pu_session_append(s, &id, 1, e));
  }
  return PU_OK;
}

static pu_err ask(const pu_session *hay, int64_t needle, int64_t *found, pu_error *e) {
  pu_session *s;
  pu_sampling how = pu_sampling_default();
  const int32_t question = (int32_t)(2 * needle);
  size_t n = 0;
  how.max_tokens = 1;
  how.ignore_eos = true;
  PU_TRY(pu_session_fork(hay, &s, e));
  pu_err err = pu_session_append(s, &question, 1, e);
  if (!err) err = pu_session_generate(s, &how, NULL, NULL, e);
  const int32_t *answer = pu_session_answer(s, &n);
  if (!err && n == 1 && answer[0] == question + 1) ++*found;
  pu_session_close(s);
  return err;
}

typedef struct result {
  int64_t found;
  double reading, asking; /* seconds */
} result;

static pu_err measure(pu_engine *en, const options *o, result *r, pu_error *e) {
  pu_session *s;
  PU_TRY(pu_session_open(en, &s, e));
  PU_TRY(fill(s, o, e));
  pu_progress *bar = pu_progress_open("haystack", "tokens", (double)o->seq);
  double begin = pu_now();
  pu_err err = PU_OK;
  for (bool more = true; more && !err;) {
    err = pu_engine_step(en, &more, e);
    pu_progress_set(bar, (double)pu_engine_get_stats(en).prefill_tokens, NULL);
  }
  pu_progress_close(bar);
  r->reading = pu_now() - begin;
  begin = pu_now();
  for (int64_t i = 0; i < o->needles && !err; i++) err = ask(s, i, &r->found, e);
  r->asking = (pu_now() - begin) / (double)o->needles;
  return err;
}

static void print(FILE *out, const options *o, const pu_engine *en, const result *r) {
  const double cache = (double)pu_engine_get_stats(en).cache_bytes / 0x1p20;
  const double rate = (double)o->seq / r->reading;
  if (o->json)
    fprintf(out,
            "{\"bench\": \"needle\", \"seq\": %lld, \"needles\": %lld, \"found\": %lld, \"prefill_tok_per_s\": %.6g, "
            "\"question_s\": %.6g, \"cache_mib\": %.1f}\n",
            (long long)o->seq, (long long)o->needles, (long long)r->found, rate, r->asking, cache);
  else
    fprintf(out,
            "haystack   %lld tokens, %.0f a second\nneedles    %lld of %lld found, %.1f ms each\ncache      %.0f MiB\n",
            (long long)o->seq, rate, (long long)r->found, (long long)o->needles, 1e3 * r->asking, cache);
}

static pu_err run_with(const pu_cli *cli, const options *o, pu_model *m, pu_error *e) {
  pu_engine *en;
  pu_engine_options eo = {
      .context = o->seq + 2, .max_batch = 2, .prefill_chunk = o->chunk, .kv_type = (pu_kv_type)o->kv_dtype};
  result r = {0};
  PU_TRY(pu_engine_over(m, NULL, &eo, &en, e));
  pu_err err = pu_engine_context(en) < eo.context ? pu_fail(e, PU_ERR_NOMEM, "no memory for so long a context")
                                                  : measure(en, o, &r, e);
  if (!err) print(cli->out, o, en, &r);
  pu_engine_free(en);
  return err;
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  (void)n_args, (void)args;
  const options *o = opts;
  pu_backend *be;
  pu_model *m = NULL;
  PU_TRY(pu_backend_open(o->device, (int)o->threads, &be, e));
  pu_err err = make_model(be, o, &m, e);
  if (!err) err = run_with(cli, o, m, e);
  pu_model_free(m);
  be->close(be);
  return err;
}

const pu_command pu_command_bench_needle = {
    .name = "bench needle",
    .summary = "find needles in a haystack of tokens",
    .usage = "[options]",
    .details =
        "A model of two layers whose weights are set by hand so that it finds what followed a token when it stood "
        "there before; no files are needed. Pairs of tokens are hidden in a long prompt, and the second of each "
        "is asked for by the first. What is tried is the long context and the type of its cache: a trained "
        "model's skill is another thing.",
    .options = rows,
    .options_size = sizeof(options),
    .run = run,
};
