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

static size_t matrix_bytes(const pu_model *m, size_t all) {
  const pu_tensor *embed = m->outer[PU_SLOT_EMBED];
  return m->outer[PU_SLOT_OUTPUT] == embed ? all : all - pu_tensor_bytes(embed);
}

static pu_err open_all(const pu_bench_options *o, int64_t length, bool shares, pu_bench_engine *b, pu_error *e) {
  const pu_shape *shape;
  PU_TRY(pu_cli_shape(o->shape, &shape, e));
  PU_TRY(pu_backend_open("cpu", (int)o->threads, &b->be, e));
  pu_model_options mo = {.dtype = o->dtype ? PU_F32 : PU_BF16, .tile = true};
  pu_progress *bar = pu_progress_open("random weights", "%", 100);
  mo.progress = pu_cli_show_share;
  mo.progress_arg = bar;
  pu_hparams hp = shape->hp;
  hp.window = o->window;
  pu_err err = pu_model_random(pu_arch_find(shape->arch), &hp, 1, b->be, &mo, &b->m, e);
  pu_progress_close(bar);
  if (err) return err;
  pu_engine_options eo = {.context = length,
                          .max_batch = (int)o->batch,
                          .kv_type = (pu_kv_type)o->kv_dtype,
                          .no_prefix_cache = !shares}; /* rounds repeat */
  PU_TRY(pu_engine_over(b->m, NULL, &eo, &b->en, e));
  b->matrix_bytes = matrix_bytes(b->m, pu_engine_get_stats(b->en).weight_bytes);
  return open_sessions(b, e);
}

pu_err pu_bench_engine_open(const pu_bench_options *o, int64_t length, bool shares, pu_bench_engine *b, pu_error *e) {
  *b = (pu_bench_engine){.batch = o->batch};
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
  pu_sampling how = pu_sampling_default();
  how.max_tokens = tokens;
  how.ignore_eos = true;
  for (int64_t i = 0; i < b->batch; i++) {
    PU_TRY(pu_session_rewind(b->sessions[i], 0, e));
    for (int64_t j = 0; j < seq; j++) {
      int32_t id = (int32_t)(pu_random_at(1, (uint64_t)i, (uint64_t)j) % (uint64_t)b->m->hp.vocab);
      PU_TRY(pu_session_append(b->sessions[i], &id, 1, e));
    }
    PU_TRY(pu_session_start(b->sessions[i], &how, NULL, NULL, e));
  }
  return PU_OK;
}

/* The most memory this process has had resident; 0: unknown. */
static size_t peak_resident(void) {
  struct rusage r;
  return getrusage(RUSAGE_SELF, &r) == 0 ? (size_t)r.ru_maxrss * 1024 : 0;
}

static void print_mark(FILE *out, double got, double mark, double scale, const char *unit) {
  if (mark > 0) fprintf(out, "  (mark %.0f%s: %s)", mark * scale, unit, got >= mark ? "reached" : "missed");
  fputc('\n', out);
}

void pu_bench_engine_print(FILE *out, const pu_bench_options *o, const pu_bench_engine *b, const pu_bench_result *r) {
  pu_engine_stats s = pu_engine_get_stats(b->en);
  size_t planned = s.weight_bytes + s.cache_bytes + s.work_bytes, peak = peak_resident();
  double ratio = r->limit > 0 ? r->rate / r->limit : 0;
  double overhead = s.overhead_seconds / PU_MAX(s.prefill_seconds + s.decode_seconds, 1e-9);
  int threads = pu_pool_size(pu_cpu_pool(b->be));
  const char *isa = pu_isa_name(pu_cpu_isa(b->be)), *dtype = pu_dtype_name(b->m->dtype);
  if (o->json) {
    char limit[64] = "\"limit\": null, \"ratio\": null";
    if (r->limit > 0) snprintf(limit, sizeof limit, "\"limit\": %.6g, \"ratio\": %.4g", r->limit, ratio);
    fprintf(out,
            "{\"bench\": \"%s\", \"shape\": \"%s\", \"dtype\": \"%s\", \"isa\": \"%s\", \"threads\": %d, "
            "\"batch\": %lld, \"seq\": %lld, \"tok_per_s\": %.6g, \"rate\": %.6g, %s, \"overhead\": %.4g, "
            "\"planned_bytes\": %zu, \"peak_bytes\": %zu}\n",
            r->what, o->shape, dtype, isa, threads, (long long)o->batch, (long long)o->seq, r->tok_per_s, r->rate,
            limit, overhead, planned, peak);
    return;
  }
  fprintf(out, "model      %s, %s, %s, %d threads\n", o->shape, dtype, isa, threads);
  fprintf(out, "sequences  %lld of %lld tokens\n", (long long)o->batch, (long long)o->seq);
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
