/* How fast matrix products are, beside OpenBLAS, oneDNN and what the processor can do at most. */
#include "src/cli/cli.h"
#include "src/cli/rows.h"

#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct options {
  pu_strs shapes;
  int64_t threads, rounds, batch, seq;
  bool json;
} options;

static const pu_option rows[] = {
    PU_ROW(options, shapes, "shape", STRS, .meta = "NxMxK|NAME", .letter = 's',
           .help = "tokens x outputs x inputs, or the name of a model's sizes: each of its products; without it, "
                   "2048x2048x2048 and 8192x1536x512"),
    PU_ROW_BATCH(options, "1"),
    PU_ROW_SEQ(options, 1, "1024", "tokens of a sequence; with --batch, the rows of a named shape's products"),
    PU_ROW_ROUNDS(options, "10"),
    PU_ROW_THREADS(options, 64),
    PU_ROW_JSON(options),
    {0},
};

/* ---- other libraries, where they are installed ---- */

typedef void (*sgemm_fn)(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda,
                         const float *b, int ldb, float beta, float *c, int ldc);

/* oneDNN 2 by its C interface. Its descriptors are structs of up to some KiB that only it looks into. */
typedef struct descriptor {
  _Alignas(64) char bytes[16384];
} descriptor;

typedef struct dnnl {
  int (*engine_create)(void **engine, int kind, size_t index);
  int (*stream_create)(void **stream, void *engine, unsigned flags);
  int (*md_by_strides)(descriptor *md, int ndims, const int64_t *dims, int type, const int64_t *strides);
  int (*matmul_init)(descriptor *d, const descriptor *a, const descriptor *b, const descriptor *bias,
                     const descriptor *c);
  int (*pd_create)(void **pd, const descriptor *d, const void *attr, void *engine, const void *hint);
  int (*primitive_create)(void **p, const void *pd);
  int (*memory_create)(void **m, const descriptor *md, void *engine, void *data);
  int (*execute)(const void *p, void *stream, int n, const void *args);
  int (*wait)(void *stream);
  void *engine, *stream, *primitive;
  struct {
    int which;
    void *memory;
  } args[3];
} dnnl;

typedef struct others {
  void *blas_lib, *dnnl_lib;
  sgemm_fn sgemm;
  dnnl dnnl;
} others;

/* dlsym returns a data pointer; ISO C has no conversion to a function. */
static bool symbol(void *lib, const char *name, void *function) {
  void *address = lib ? dlsym(lib, name) : NULL;
  memcpy(function, &address, sizeof address);
  return address != NULL;
}

/* Debian's OpenBLAS does not know every processor that has AVX-512, and takes a kernel several times slower for those:
 * it is told, unless the user tells it otherwise. */
static void open_blas(others *o, int threads) {
  void (*set_threads)(int);
  if (pu_isa_best() >= PU_ISA_AVX512) setenv("OPENBLAS_CORETYPE", "SKYLAKEX", 0);
  o->blas_lib = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
  if (symbol(o->blas_lib, "openblas_set_num_threads", &set_threads)) set_threads(threads);
  symbol(o->blas_lib, "cblas_sgemm", &o->sgemm);
}

static void open_dnnl(others *o, int threads) {
  dnnl *d = &o->dnnl;
  void (*set_threads)(int);
  o->dnnl_lib = dlopen("libdnnl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (symbol(o->dnnl_lib, "omp_set_num_threads", &set_threads)) set_threads(threads);
  bool all = symbol(o->dnnl_lib, "dnnl_engine_create", &d->engine_create) &&
             symbol(o->dnnl_lib, "dnnl_stream_create", &d->stream_create) &&
             symbol(o->dnnl_lib, "dnnl_memory_desc_init_by_strides", &d->md_by_strides) &&
             symbol(o->dnnl_lib, "dnnl_matmul_desc_init", &d->matmul_init) &&
             symbol(o->dnnl_lib, "dnnl_primitive_desc_create", &d->pd_create) &&
             symbol(o->dnnl_lib, "dnnl_primitive_create", &d->primitive_create) &&
             symbol(o->dnnl_lib, "dnnl_memory_create", &d->memory_create) &&
             symbol(o->dnnl_lib, "dnnl_primitive_execute", &d->execute) &&
             symbol(o->dnnl_lib, "dnnl_stream_wait", &d->wait);
  enum { CPU = 1, IN_ORDER = 1 };
  if (all && !d->engine_create(&d->engine, CPU, 0) && !d->stream_create(&d->stream, d->engine, IN_ORDER)) return;
  d->stream = NULL;
}

/* The primitive for y = x w^T in bf16; false where oneDNN has none. */
static bool prepare_dnnl(dnnl *d, int64_t n, int64_t m, int64_t k, void *x, void *w, void *y, descriptor desc[4]) {
  enum { BF16 = 2, SRC = 1, WEIGHTS = 33, DST = 17 };
  const int64_t dims[3][2] = {{n, k}, {k, m}, {n, m}}, strides[3][2] = {{k, 1}, {1, k}, {m, 1}};
  static const int which[3] = {SRC, WEIGHTS, DST};
  void *data[3] = {x, w, y}, *pd = NULL;
  if (!d->stream) return false;
  for (int i = 0; i < 3; i++) {
    d->args[i].which = which[i];
    if (d->md_by_strides(&desc[i], 2, dims[i], BF16, strides[i])) return false;
    if (d->memory_create(&d->args[i].memory, &desc[i], d->engine, data[i])) return false;
  }
  return !d->matmul_init(&desc[3], &desc[0], &desc[1], NULL, &desc[2]) &&
         !d->pd_create(&pd, &desc[3], NULL, d->engine, NULL) && !d->primitive_create(&d->primitive, pd);
}

/* ---- one shape ---- */

typedef struct shape {
  int64_t n, m, k;
} shape;

/* Best seconds of each. */
typedef struct result {
  double bf16, dnnl, f32, blas;
  double decode, prefill; /* the same weight, tiled: 1 row, and n rows */
  pu_cpu_limits limits;
} result;

typedef struct operands {
  pu_tensor *x[2], *w[2], *tiled, *one; /* [0] bf16, [1] f32; one: a single row of x */
} operands;

static bool make_operands(pu_ctx *c, const shape *s, operands *o) {
  for (int t = 0; t < 2; t++) {
    pu_dtype type = t ? PU_F32 : PU_BF16;
    o->x[t] = pu_tensor_new(c, type, 2, (int64_t[]){s->n, s->k}, false);
    o->w[t] = pu_tensor_new(c, type, 2, (int64_t[]){s->m, s->k}, false);
    pu_rng r;
    pu_rng_seed(&r, 1);
    pu_tensor *both[2] = {o->x[t], o->w[t]};
    for (int i = 0; i < 2; i++)
      for (int64_t j = 0; both[i] && j < pu_tensor_count(both[i]); j++) {
        float v = (float)pu_rng_uniform(&r) - 0.5f;
        if (t)
          ((float *)both[i]->data)[j] = v;
        else
          ((uint16_t *)both[i]->data)[j] = pu_f32_to_bf16(v);
      }
  }
  if (c->status != PU_OK) return false;
  o->tiled = pu_tile_weight(c, o->w[0]);
  o->one = pu_tensor_over(c, PU_BF16, 2, (int64_t[]){1, s->k}, o->x[0]->data);
  return c->status == PU_OK;
}

static void time_linear(pu_ctx *c, pu_tensor *x, pu_tensor *w, double *best) {
  size_t mark = pu_arena_mark(c->mem), host = pu_arena_mark(c->host);
  double begin = pu_now();
  pu_linear(c, x, w, NULL, false);
  *best = fmin(*best, pu_now() - begin);
  pu_arena_release(c->mem, mark);
  pu_arena_release(c->host, host);
}

static void time_others(others *o, bool dnnl_ready, const shape *s, const operands *in, void *y, result *r) {
  if (dnnl_ready) {
    double begin = pu_now();
    bool ok = !o->dnnl.execute(o->dnnl.primitive, o->dnnl.stream, 3, o->dnnl.args) && !o->dnnl.wait(o->dnnl.stream);
    if (ok) r->dnnl = fmin(r->dnnl, pu_now() - begin);
  }
  if (o->sgemm) {
    enum { ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112 };
    int n = (int)s->n, m = (int)s->m, k = (int)s->k;
    double begin = pu_now();
    o->sgemm(ROW_MAJOR, PLAIN, TRANSPOSED, n, m, k, 1, in->x[1]->data, k, in->w[1]->data, k, 0, y, m);
    r->blas = fmin(r->blas, pu_now() - begin);
  }
}

static void keep_best(pu_cpu_limits *best, const pu_cpu_limits *l) {
  best->bf16_flops = fmax(best->bf16_flops, l->bf16_flops);
  best->f32_flops = fmax(best->f32_flops, l->f32_flops);
  best->read_bytes = fmax(best->read_bytes, l->read_bytes);
}

/* All in turn, run after run, so that whatever else the machine does strikes all alike. */
static pu_err measure(pu_ctx *c, others *o, const shape *s, int64_t runs, result *r) {
  operands in = {0};
  descriptor *desc = pu_arena_alloc(c->host, 4 * sizeof *desc);
  pu_tensor *y = pu_tensor_new(c, PU_F32, 2, (int64_t[]){s->n, s->m}, false);
  if (!desc) return pu_fail(c->err, PU_ERR_NOMEM, "bench gemm: no memory for descriptors");
  if (!make_operands(c, s, &in)) return c->status;
  bool dnnl_ready = prepare_dnnl(&o->dnnl, s->n, s->m, s->k, in.x[0]->data, in.w[0]->data, y->data, desc);
  *r = (result){
      .bf16 = INFINITY, .dnnl = INFINITY, .f32 = INFINITY, .blas = INFINITY, .decode = INFINITY, .prefill = INFINITY};
  for (int64_t i = 0; i < runs && c->status == PU_OK; i++) {
    pu_cpu_limits now;
    if (i % 4 == 0) {
      PU_TRY(pu_cpu_measure(c->be, &now, c->err));
      keep_best(&r->limits, &now);
    }
    r->limits.bf16_flops = fmax(r->limits.bf16_flops, pu_cpu_unit_flops(c->be, PU_BF16));
    time_linear(c, in.x[0], in.w[0], &r->bf16);
    time_linear(c, in.x[1], in.w[1], &r->f32);
    time_others(o, dnnl_ready, s, &in, y->data, r);
    time_linear(c, in.one, in.tiled, &r->decode);
    time_linear(c, in.x[0], in.tiled, &r->prefill);
  }
  return c->status;
}

/* ---- report ---- */

static void put_rate(FILE *out, const char *what, double rate, const char *unit, double limit, const char *beside) {
  if (!isfinite(rate) || rate == 0) {
    fprintf(out, "  %-22s not installed\n", what);
    return;
  }
  fprintf(out, "  %-22s %8.1f %s", what, rate / 1e9, unit);
  if (limit > 0) fprintf(out, "   %.2f of %s", rate / limit, beside);
  fprintf(out, "\n");
}

static void report_text(FILE *out, const shape *s, const result *r) {
  double flops = 2.0 * (double)s->n * (double)s->m * (double)s->k;
  fprintf(out, "[%lld x %lld] = [%lld x %lld] [%lld x %lld]^T\n", (long long)s->n, (long long)s->m, (long long)s->n,
          (long long)s->k, (long long)s->m, (long long)s->k);
  put_rate(out, "bf16", flops / r->bf16, "GFLOP/s", r->limits.bf16_flops, "the bare bf16 loop");
  put_rate(out, "bf16, weight tiled", flops / r->prefill, "GFLOP/s", r->limits.bf16_flops, "the bare bf16 loop");
  put_rate(out, "oneDNN bf16", flops / r->dnnl, "GFLOP/s", flops / r->bf16, "ours");
  if (r->limits.bf16_flops > 0) put_rate(out, "bare bf16 loop", r->limits.bf16_flops, "GFLOP/s", 0, "");
  put_rate(out, "f32", flops / r->f32, "GFLOP/s", r->limits.f32_flops, "the bare multiply-add loop");
  put_rate(out, "OpenBLAS f32", flops / r->blas, "GFLOP/s", flops / r->f32, "ours");
  put_rate(out, "bare multiply-adds", r->limits.f32_flops, "GFLOP/s", 0, "");
  put_rate(out, "1 row, weight bytes", 2.0 * (double)s->m * (double)s->k / r->decode, "GB/s   ", r->limits.read_bytes,
           "reading memory");
  put_rate(out, "reading memory", r->limits.read_bytes, "GB/s   ", 0, "");
}

static json_t *rate(double v) {
  return isfinite(v) && v > 0 ? json_real(v) : json_null();
}

static json_t *to_json(const shape *s, const result *r) {
  double flops = 2.0 * (double)s->n * (double)s->m * (double)s->k;
  return json_pack("{s:I,s:I,s:I,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "n", (json_int_t)s->n, "m", (json_int_t)s->m,
                   "k", (json_int_t)s->k, "bf16_flops", rate(flops / r->bf16), "bf16_tiled_flops",
                   rate(flops / r->prefill), "onednn_bf16_flops", rate(flops / r->dnnl), "bare_bf16_flops",
                   rate(r->limits.bf16_flops), "f32_flops", rate(flops / r->f32), "openblas_f32_flops",
                   rate(flops / r->blas), "bare_f32_flops", rate(r->limits.f32_flops), "decode_bytes",
                   rate(2.0 * (double)s->m * (double)s->k / r->decode), "read_bytes", rate(r->limits.read_bytes));
}

/* ---- the command ---- */

static pu_err parse_shape(const char *text, shape *s, pu_error *e) {
  long long v[3];
  int end = 0;
  bool ok = sscanf(text, "%lldx%lldx%lld%n", &v[0], &v[1], &v[2], &end) == 3 && text[end] == 0;
  for (int i = 0; i < 3; i++) ok = ok && v[i] > 0 && v[i] <= 1 << 20;
  if (!ok)
    return pu_fail(e, PU_ERR_USAGE,
                   "--shape: '%s' is neither NxMxK, three sizes from 1 to 1048576, nor a shape that puyu init --help "
                   "names",
                   text);
  *s = (shape){v[0], v[1], v[2]};
  return PU_OK;
}

static pu_err bench_shape(const pu_cli *cli, const options *o, pu_backend *be, others *other, shape s, json_t *list,
                          pu_error *e) {
  result r = {0};
  double elements = (double)s.n * (double)s.k + (double)s.m * (double)s.k + (double)s.n * (double)s.m;
  pu_ctx c = {.be = be, .err = e};
  pu_err err = pu_arena_create((size_t)(elements * 12) + (16 << 20), &c.mem, e);
  if (err == PU_OK) err = pu_arena_create(16 << 20, &c.host, e);
  if (err == PU_OK) err = measure(&c, other, &s, o->rounds, &r);
  if (err == PU_OK && o->json && json_array_append_new(list, to_json(&s, &r)))
    err = pu_fail(e, PU_ERR_NOMEM, "bench gemm: no memory for the report");
  if (err == PU_OK && !o->json) report_text(cli->out, &s, &r);
  pu_arena_free(c.mem);
  pu_arena_free(c.host);
  return err;
}

/* A shape, or all linear layers of a model's named shape. */
static pu_err bench_text(const pu_cli *cli, const options *o, pu_backend *be, others *other, const char *text,
                         json_t *list, pu_error *e) {
  const pu_shape *named = pu_shape_find(text);
  if (!named) {
    shape s = {0};
    PU_TRY(parse_shape(text, &s, e));
    return bench_shape(cli, o, be, other, s, list, e);
  }
  const pu_hparams *hp = &named->hp;
  int64_t n = o->batch * o->seq, q = hp->heads * hp->head_dim, kv = hp->kv_heads * hp->head_dim;
  const shape layers[] = {{n, q + 2 * kv, hp->hidden},
                          {n, hp->hidden, q},
                          {n, 2 * hp->ffn, hp->hidden},
                          {n, hp->hidden, hp->ffn},
                          {n, hp->vocab, hp->hidden}};
  for (size_t i = 0; i < PU_COUNT(layers); i++) PU_TRY(bench_shape(cli, o, be, other, layers[i], list, e));
  return PU_OK;
}

static pu_err run(const pu_cli *cli, const void *given, int n_args, const char **args, pu_error *e) {
  (void)n_args, (void)args;
  const options *o = given;
  static const char *usual[] = {"2048x2048x2048", "8192x1536x512"};
  pu_strs shapes = o->shapes.n ? o->shapes : (pu_strs){usual, PU_COUNT(usual)};
  shape unused;
  for (size_t i = 0; i < shapes.n; i++)
    if (!pu_shape_find(shapes.v[i])) PU_TRY(parse_shape(shapes.v[i], &unused, e));
  pu_backend *be;
  PU_TRY(pu_cpu_open((int)o->threads, pu_isa_best(), &be, e));
  int threads = pu_pool_size(be->pool);
  others other = {0};
  open_blas(&other, threads);
  open_dnnl(&other, threads);
  json_t *list = json_array();
  pu_err err = list ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "bench gemm: no memory for the report");
  if (err == PU_OK && !o->json)
    fprintf(cli->out, "%s, %d thread%s; the best of %d runs in turn\n", pu_isa_name(pu_cpu_isa(be)), threads,
            threads == 1 ? "" : "s", (int)o->rounds);
  for (size_t i = 0; err == PU_OK && i < shapes.n; i++) err = bench_text(cli, o, be, &other, shapes.v[i], list, e);
  if (err == PU_OK && o->json) {
    json_t *all = json_pack("{s:s,s:i,s:O}", "isa", pu_isa_name(pu_cpu_isa(be)), "threads", threads, "products", list);
    if (!all || json_dumpf(all, cli->out, JSON_COMPACT)) err = pu_fail(e, PU_ERR_IO, "bench gemm: the report failed");
    fputc('\n', cli->out);
    json_decref(all);
  }
  json_decref(list);
  be->close(be);
  return err;
}

const pu_command pu_command_bench_gemm = {
    .name = "bench gemm",
    .summary = "measure matrix products beside OpenBLAS and oneDNN",
    .usage = "[--shape NxMxK|NAME]... [options]",
    .details = "Runs y = x w^T in bf16 and f32, OpenBLAS's and oneDNN's where they are installed, decoding and "
               "prefill with a tiled weight, and the bare loops that show what the processor can do at most. All "
               "take turns on the same threads; of each the fastest run counts.",
    .options = rows,
    .options_size = sizeof(options),
    .run = run,
};
