#include "src/cli/bench_engine.h"

#include <stdlib.h>
#include <sys/resource.h>

#include "src/cli/sample.h"

static pu_err open_sessions(pu_bench_engine *b, pu_error *e) {
  b->sessions = calloc((size_t)b->batch, sizeof *b->sessions);
  if (!b->sessions) return pu_fail(e, PU_ERR_NOMEM, "no memory for %lld sessions", (long long)b->batch);
  for (int64_t i = 0; i < b->batch; i++) PU_TRY(pu_session_open(b->en, &b->sessions[i], e));
  return PU_OK;
}

/* A tied output matrix in another layout is a copy, and no parameter of its own. */
static size_t matrix_bytes(const pu_model *m) {
  const pu_tensor *embed = m->outer[PU_SLOT_EMBED], *output = m->outer[PU_SLOT_OUTPUT];
  size_t bytes = m->hp.tied ? pu_weight_bytes(output) : 0;
  for (size_t i = 0; i < m->n_params; i++) bytes += m->params[i].w == embed ? 0 : pu_weight_bytes(m->params[i].w);
  return bytes;
}

/* --quant says all of it in one word; --dtype is the type of activations where matrices are in few bits. */
static void choose_types(const pu_bench_options *o, pu_bench_engine *b) {
  enum { NONE, Q8, Q4, BF16, F32, FP8, INT8 };
  bool f32 = o->quant == F32 || (o->quant != BF16 && o->dtype);
  b->dtype = f32 ? PU_F32 : PU_BF16;
  b->quant = o->quant == Q8                ? PU_QUANT_Q8
             : o->quant == Q4              ? PU_QUANT_Q4
             : o->quant == FP8             ? PU_QUANT_FP8
             : o->quant == INT8            ? PU_QUANT_I8
             : o->quant == NONE && o->gguf ? PU_QUANT_FILE
                                           : PU_QUANT_NONE;
}

static pu_err make_model(const pu_bench_options *o, const pu_model_options *mo, pu_bench_engine *b, pu_error *e) {
  const pu_shape *shape;
  if (o->gguf && o->layers)
    return pu_fail(e, PU_ERR_USAGE, "--layers is for a model of random weights: leave it or --gguf out");
  if (o->gguf) return pu_model_load(o->gguf, b->be, mo, &b->m, e);
  PU_TRY(pu_cli_shape(o->shape, &shape, e));
  pu_hparams hp = shape->hp;
  hp.window = o->window;
  if (o->layers) hp.layers = o->layers;
  return pu_model_random(pu_arch_find(shape->arch), &hp, 1, b->be, mo, &b->m, e);
}

static pu_err open_all(const pu_bench_options *o, int64_t length, bool shares, pu_bench_engine *b, pu_error *e) {
  choose_types(o, b);
  size_t all;
  PU_TRY(pu_backend_open(o->device, (int)o->threads, &b->be, e));
  if (b->be->memory) PU_TRY(b->be->memory(b->be, &b->free_before, &all, e));
  pu_model_options mo = {.dtype = b->dtype, .tile = true, .quant = b->quant};
  pu_progress *bar = pu_progress_open(o->gguf ? "reading weights" : "random weights", "%", 100);
  mo.progress = pu_cli_show_share;
  mo.progress_arg = bar;
  pu_err err = make_model(o, &mo, b, e);
  pu_progress_close(bar);
  if (err) return err;
  pu_engine_options eo = {.context = length,
                          .max_batch = (int)o->batch,
                          .prefill_chunk = o->chunk,
                          .kv_type = (pu_kv_type)o->kv_dtype,
                          .no_prefix_cache = !shares}; /* rounds repeat */
  PU_TRY(pu_engine_over(b->m, NULL, &eo, &b->en, e));
  b->matrix_bytes = matrix_bytes(b->m);
  return open_sessions(b, e);
}

pu_err pu_bench_engine_open(const pu_bench_options *o, int64_t length, bool shares, pu_bench_engine *b, pu_error *e) {
  *b = (pu_bench_engine){.batch = o->batch, .how = pu_sampling_default()};
  b->how.ignore_eos = true;
  if (o->repetition > 0) b->how.repetition_penalty = o->repetition;
  pu_err err = open_all(o, length, shares, b, e);
  if (err) pu_bench_engine_close(b);
  return err;
}

void pu_bench_engine_close(pu_bench_engine *b) {
  pu_engine_free(b->en);
  pu_model_free(b->m);
  if (b->be) b->be->close(b->be);
  free(b->sessions);
  *b = (pu_bench_engine){0};
}

pu_err pu_bench_engine_start(pu_bench_engine *b, int64_t seq, int64_t tokens, pu_error *e) {
  b->how.max_tokens = tokens;
  for (int64_t i = 0; i < b->batch; i++) {
    PU_TRY(pu_session_rewind(b->sessions[i], 0, e));
    for (int64_t j = 0; j < seq; j++) {
      int32_t id = (int32_t)(pu_random_at(1, (uint64_t)i, (uint64_t)j) % (uint64_t)b->m->hp.vocab);
      PU_TRY(pu_session_append(b->sessions[i], &id, 1, e));
    }
    PU_TRY(pu_session_start(b->sessions[i], &b->how, NULL, NULL, e));
  }
  return PU_OK;
}

pu_err pu_bench_device_limits(const pu_bench_engine *b, pu_limits *limits, pu_error *e) {
  pu_limits now;
  if (!b->be->memory) return PU_OK;
  PU_TRY(pu_backend_measure(b->be, &now, e));
  limits->bf16_flops = PU_MAX(limits->bf16_flops, now.bf16_flops);
  limits->f32_flops = PU_MAX(limits->f32_flops, now.f32_flops);
  limits->copy_bytes = PU_MAX(limits->copy_bytes, now.copy_bytes);
  return PU_OK;
}

const char *pu_bench_where(const pu_backend *be, char text[200]) {
  int threads = pu_pool_size(be->pool);
  if (be->describe)
    snprintf(text, 200, "%s: %s", be->name, be->describe(be));
  else
    snprintf(text, 200, "%s, %d thread%s", pu_isa_name(pu_cpu_isa(be)), threads, threads == 1 ? "" : "s");
  return text;
}

void pu_bench_where_json(const pu_backend *be, pu_buf *out) {
  pu_buf_puts(out, "\"device\": ");
  pu_buf_json_str(out, pu_str_c(be->describe ? be->describe(be) : be->name));
  if (be->describe)
    pu_buf_puts(out, ", \"isa\": null");
  else
    pu_buf_printf(out, ", \"isa\": \"%s\"", pu_isa_name(pu_cpu_isa(be)));
  pu_buf_printf(out, ", \"threads\": %d", pu_pool_size(be->pool));
}

/* The most memory this process has had resident, or what of a device's is taken now that was not at the beginning (a
 * bench gives nothing back before its end); 0: unknown. */
static size_t peak_memory(const pu_bench_engine *b) {
  size_t left, all;
  pu_error e;
  if (b->be->memory) /* other programs on the device may have given some back */
    return b->be->memory(b->be, &left, &all, &e) == PU_OK && left < b->free_before ? b->free_before - left : 0;
  struct rusage r;
  return getrusage(RUSAGE_SELF, &r) == 0 ? (size_t)r.ru_maxrss * 1024 : 0;
}

const char *pu_bench_cache(const pu_bench_engine *b, const pu_bench_options *o) {
  return o->kv_dtype == PU_KV_SAME ? pu_dtype_name(b->dtype) : pu_kv_type_name((pu_kv_type)o->kv_dtype);
}

static void print_mark(FILE *out, double got, double mark, double scale, const char *unit) {
  if (mark > 0) fprintf(out, "  (mark %.0f%s: %s)", mark * scale, unit, got >= mark ? "reached" : "missed");
  fputc('\n', out);
}

void pu_bench_model_json(const pu_bench_options *o, const pu_bench_engine *b, pu_buf *out) {
  pu_buf_puts(out, o->gguf ? "\"file\": " : "\"shape\": ");
  pu_buf_json_str(out, pu_str_c(o->gguf ? o->gguf : o->shape));
  pu_buf_printf(out, ", \"dtype\": \"%s\", \"quant\": \"%s\", \"cache\": \"%s\", ", pu_dtype_name(b->dtype),
                pu_quant_name(b->quant), pu_bench_cache(b, o));
  pu_bench_where_json(b->be, out);
}

static void print_json(FILE *out, const pu_bench_options *o, const pu_bench_engine *b, const pu_bench_result *r,
                       size_t planned, size_t peak) {
  pu_engine_stats s = pu_engine_get_stats(b->en);
  pu_buf text;
  pu_buf_init(&text, 1 << 16);
  pu_buf_printf(&text, "{\"bench\": \"%s\", ", r->what);
  pu_bench_model_json(o, b, &text);
  pu_buf_printf(&text, ", \"layers\": %lld, \"batch\": %lld, \"seq\": %lld, \"tok_per_s\": %.6g, \"rate\": %.6g",
                (long long)b->m->hp.layers, (long long)o->batch, (long long)o->seq, r->tok_per_s, r->rate);
  if (r->limit > 0)
    pu_buf_printf(&text, ", \"limit\": %.6g, \"ratio\": %.4g", r->limit, r->rate / r->limit);
  else
    pu_buf_puts(&text, ", \"limit\": null, \"ratio\": null");
  if (o->repetition > 0) pu_buf_printf(&text, ", \"repetition_penalty\": %.6g", b->how.repetition_penalty);
  pu_buf_printf(&text, ", \"overhead\": %.4g, \"planned_bytes\": %zu, \"peak_bytes\": %zu}\n",
                s.overhead_seconds / PU_MAX(s.prefill_seconds + s.decode_seconds, 1e-9), planned, peak);
  if (!text.failed) fputs(text.data, out);
  pu_buf_deinit(&text);
}

void pu_bench_engine_print(FILE *out, const pu_bench_options *o, const pu_bench_engine *b, const pu_bench_result *r) {
  pu_engine_stats s = pu_engine_get_stats(b->en);
  size_t planned = s.weight_bytes + s.cache_bytes + s.work_bytes, peak = peak_memory(b);
  double ratio = r->limit > 0 ? r->rate / r->limit : 0;
  double overhead = s.overhead_seconds / PU_MAX(s.prefill_seconds + s.decode_seconds, 1e-9);
  const char *dtype = pu_dtype_name(b->dtype), *quant = pu_quant_name(b->quant), *model = o->gguf ? o->gguf : o->shape;
  char where[200];
  if (o->json) {
    print_json(out, o, b, r, planned, peak);
    return;
  }
  fprintf(out, "model      %s, %s, weights %s, %s\n", model, dtype, quant, pu_bench_where(b->be, where));
  if (o->layers) fprintf(out, "layers     %lld\n", (long long)o->layers);
  fprintf(out, "sequences  %lld of %lld tokens, cache %s\n", (long long)o->batch, (long long)o->seq,
          pu_bench_cache(b, o));
  if (b->how.repetition_penalty != 1) fprintf(out, "penalty    %g, of tokens seen before\n", b->how.repetition_penalty);
  fprintf(out, "%-9s  %.1f tokens/s", r->what, r->tok_per_s);
  print_mark(out, r->tok_per_s, r->mark, 1, " tokens/s");
  fprintf(out, "rate       %.1f %s\n", r->rate / r->scale, r->unit);
  if (r->limit > 0) {
    fprintf(out, "limit      %.1f %s (%s)\n", r->limit / r->scale, r->unit, r->limit_is);
    fprintf(out, "ratio      %.1f %%", 100 * ratio);
    print_mark(out, ratio, r->ratio_mark, 100, " %");
  }
  fprintf(out, "scheduler  %.2f %% of the time\n", 100 * overhead);
  fprintf(out, "memory     %.0f MiB at most, %.0f MiB planned (%.0f weights, %.0f cache, %.0f work)\n",
          (double)peak / 0x1p20, (double)planned / 0x1p20, (double)s.weight_bytes / 0x1p20,
          (double)s.cache_bytes / 0x1p20, (double)s.work_bytes / 0x1p20);
}
