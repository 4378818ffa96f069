#include "src/cli/bench_engine.h"

#include <stdlib.h>

static const pu_option rows[] = {
    PU_ROW_SHAPE(pu_bench_options, "internlm2-1.8b"),
    PU_ROW_SEQ(pu_bench_options, 64, "2000", "tokens that prompts begin with alike"),
    PU_ROW(pu_bench_options, tokens, "tail", INT, .dflt = "16", .min = 1, .max = 1 << 16, .meta = "N",
           .help = "tokens of a prompt after those"),
    PU_ROW_DTYPE(pu_bench_options, "bf16|f32", "bf16", "type to compute in"),
    PU_ROW_KV_DTYPE(pu_bench_options, kv_dtype),
    PU_ROW_ROUNDS(pu_bench_options, "3"),
    PU_ROW_DEVICE(pu_bench_options, device),
    PU_ROW_THREADS(pu_bench_options, 64),
    PU_ROW_JSON(pu_bench_options),
    {0},
};

enum { WANTED_PERCENT = 5 };

/* Seconds to the first token of a prompt whose beginning and end are of these numbers. */
static pu_err first_token(pu_bench_engine *b, const pu_bench_options *o, uint64_t beginning, uint64_t end, double *out,
                          pu_error *e) {
  pu_session *s = b->sessions[0];
  pu_sampling how = pu_sampling_default();
  how.max_tokens = 1;
  how.ignore_eos = true;
  PU_TRY(pu_session_rewind(s, 0, e));
  double start = pu_now();
  for (int64_t i = 0; i < o->seq + o->tokens; i++) {
    uint64_t text = i < o->seq ? beginning : end;
    int32_t id = (int32_t)(pu_random_at(2, text, (uint64_t)i) % (uint64_t)b->m->hp.vocab);
    PU_TRY(pu_session_append(s, &id, 1, e));
  }
  PU_TRY(pu_session_generate(s, &how, NULL, NULL, e));
  *out = pu_now() - start;
  return PU_OK;
}

/* Each round has a beginning of its own: new, then there, with an end of its own each time. */
static pu_err measure(pu_bench_engine *b, const pu_bench_options *o, double *fresh, double *cached, pu_error *e) {
  for (int64_t round = 0; round <= o->rounds; round++) { /* the first one warms up */
    double first, second;
    uint64_t n = (uint64_t)round;
    PU_TRY(first_token(b, o, 3 * n, 3 * n + 1, &first, e));
    PU_TRY(first_token(b, o, 3 * n, 3 * n + 2, &second, e));
    *fresh = round <= 1 ? first : PU_MIN(*fresh, first);
    *cached = round <= 1 ? second : PU_MIN(*cached, second);
  }
  return PU_OK;
}

static void print(FILE *out, const pu_bench_options *o, const pu_bench_engine *b, double fresh, double cached) {
  const pu_engine_stats s = pu_engine_get_stats(b->en);
  char where[200];
  const double hit = (double)s.prefix_tokens_hit / (double)(o->rounds + 1), ratio = cached / fresh;
  if (o->json) {
    pu_buf place;
    pu_buf_init(&place, 1 << 12);
    pu_bench_model_json(o, b, &place);
    fprintf(out,
            "{\"bench\": \"prefix\", %s, \"prefix\": %lld, \"tail\": %lld, "
            "\"taken\": %.0f, \"uncached_s\": %.6g, \"cached_s\": %.6g, "
            "\"ratio\": %.4g}\n",
            place.failed ? "\"device\": null" : place.data, (long long)o->seq, (long long)o->tokens, hit, fresh, cached,
            ratio);
    pu_buf_deinit(&place);
    return;
  }
  fprintf(out, "model      %s, %s, weights %s, cache %s, %s\n", o->shape, pu_dtype_name(b->dtype),
          pu_quant_name(b->quant), pu_bench_cache(b, o), pu_bench_where(b->be, where));
  fprintf(out, "prompts    %lld tokens alike, then %lld of their own; %.0f were taken from the cache\n",
          (long long)o->seq, (long long)o->tokens, hit);
  fprintf(out, "uncached   %.1f ms to the first token\n", 1e3 * fresh);
  fprintf(out, "cached     %.1f ms\n", 1e3 * cached);
  fprintf(out, "ratio      %.2f %%  (mark %d %%: %s)\n", 100 * ratio, WANTED_PERCENT,
          100 * ratio <= WANTED_PERCENT ? "reached" : "missed");
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  (void)n_args, (void)args;
  pu_bench_options o = *(const pu_bench_options *)opts;
  pu_bench_engine b;
  double fresh = 0, cached = 0;
  o.batch = 2; /* room for the last round's beginning beside this one's */
  PU_TRY(pu_bench_engine_open(&o, o.seq + o.tokens + 1, true, &b, e));
  pu_err err = measure(&b, &o, &fresh, &cached, e);
  if (!err) print(cli->out, &o, &b, fresh, cached);
  pu_bench_engine_close(&b);
  return err;
}

const pu_command pu_command_bench_prefix = {
    .name = "bench prefix",
    .summary = "measure what the prefix cache spares",
    .usage = "[options]",
    .details =
        "Random weights of a named shape; no files are needed. Two prompts that begin alike are answered one after "
        "the other: printed is the time to the first token of each, and their ratio.",
    .options = rows,
    .options_size = sizeof(pu_bench_options),
    .run = run,
};
