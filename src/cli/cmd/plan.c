/* What a run or a model will take of which memory, before it takes any. */
#include <string.h>

#include "puyu/train.h"
#include "src/cli/cli.h"
#include "src/cli/sample.h"

typedef struct options {
  pu_cli_model model;
  int64_t max_batch;
  double memory;
  bool json;
} options;

static const pu_option rows[] = {
    {.key = "model", .type = PU_OPT_GROUP, .help = "for a model that is to answer"},
    PU_CLI_MODEL_ROWS(options, model),
    PU_ROW(options, max_batch, "max-batch", INT, .dflt = "16", .min = 1, .max = 4096, .meta = "N",
           .help = "answers that are computed together"),
    PU_ROW(options, memory, "memory", FLOAT, .dflt = "0", .max = 1e6, .meta = "GIB",
           .help = "GiB for weights, work and cache together; 0: nine tenths of what is free"),
    PU_ROW_JSON(options),
    {0},
};

/* A part of the plan: its key in JSON, what it is called, bytes. */
typedef struct part {
  const char *key, *name;
  size_t bytes;
} part;

static void print_parts(FILE *out, const part *p, size_t n) {
  char size[24];
  for (size_t i = 0; i < n; i++)
    if (p[i].bytes) fprintf(out, "  %-42s %10s\n", p[i].name, pu_bytes_text(p[i].bytes, size));
}

static void print_json_parts(FILE *out, const part *p, size_t n) {
  for (size_t i = 0; i < n; i++) fprintf(out, ", \"%s\": %zu", p[i].key, p[i].bytes);
}

static void print_device(FILE *out, const char *device) {
  pu_buf b;
  pu_buf_init(&b, 1 << 12);
  pu_buf_json_str(&b, pu_str_c(device));
  fprintf(out, "\"device\": %s", b.failed ? "null" : b.data);
  pu_buf_deinit(&b);
}

/* ---- training ---- */

static void print_training(FILE *out, bool json, const pu_train_plan *p) {
  const part device[] = {{"weights", "weights, and the lower halves of f32 ones", p->weights},
                         {"gradients", "gradients", p->gradients},
                         {"moments", "the optimiser's moments", p->moments},
                         {"activations",
                          p->gradients ? "activations of a micro-batch" : "activations, and gradients in their place",
                          p->activations},
                         {"work", "work space of operations", p->work}};
  const part host[] = {{"data", "token ids of a step", p->data},
                       {"copy", "the copy that checkpoints are written from", p->copy}};
  char total[24], there[24];
  if (json) {
    fprintf(out, "{\"plan\": \"training\", ");
    print_device(out, p->device);
    fprintf(out, ", \"parameters\": %lld, \"micro_batch\": %lld, \"seq_len\": %lld", (long long)p->parameters,
            (long long)p->micro_batch, (long long)p->seq_len);
    print_json_parts(out, device, PU_COUNT(device));
    print_json_parts(out, host, PU_COUNT(host));
    fprintf(out, ", \"total\": %zu, \"host\": %zu, \"available\": %zu}\n", p->total, p->host, p->available);
    return;
  }
  fprintf(out, "training %.1f M parameters, micro-batches of %lld x %lld tokens\n\n%s\n", (double)p->parameters / 1e6,
          (long long)p->micro_batch, (long long)p->seq_len, p->device);
  print_parts(out, device, PU_COUNT(device));
  if (p->host) {
    fprintf(out, "  %-42s %10s of %s that are free\n\nthis machine\n", "together", pu_bytes_text(p->total, total),
            pu_bytes_text(p->available, there));
    print_parts(out, host, PU_COUNT(host));
    fprintf(out, "  %-42s %10s of %s that are free\n", "together", pu_bytes_text(p->host, total),
            pu_bytes_text(pu_memory_free(), there));
    return;
  }
  print_parts(out, host, PU_COUNT(host));
  fprintf(out, "  %-42s %10s of %s that are free\n", "together", pu_bytes_text(p->total, total),
          pu_bytes_text(p->available, there));
}

/* What a flag says of a model that answers is no key of a training run. */
static pu_err refuse_flags(const pu_cli *cli, pu_error *e) {
  for (size_t i = 0; rows[i].key; i++) {
    if (!cli->given[i] || strcmp(rows[i].key, "json") == 0) continue;
    if (strcmp(rows[i].key, "device") == 0)
      return pu_fail(e, PU_ERR_USAGE,
                     "--device is for a model that is to answer: a training run takes train.device=NAME");
    return pu_fail(e, PU_ERR_USAGE,
                   "--%s is for a model that is to answer: a training run is changed by key=value (puyu train --help)",
                   rows[i].key);
  }
  return PU_OK;
}

static pu_err plan_training(const pu_cli *cli, const options *o, int n_args, const char **args, pu_error *e) {
  pu_train_config cfg = {0};
  pu_train_plan p;
  PU_TRY(refuse_flags(cli, e));
  PU_TRY(pu_cli_read_config(pu_train_options, &cfg, args[0], n_args - 1, args + 1, cli->arena, e));
  PU_TRY(pu_train_make_plan(&cfg, &p, e));
  print_training(cli->out, o->json, &p);
  if (p.total <= p.available || !p.available) return PU_OK;
  return pu_fail(e, PU_ERR_NOMEM, "it does not fit: %s", p.mend);
}

/* ---- answering ---- */

static void print_answering(FILE *out, bool json, const pu_engine_plan *p) {
  const part device[] = {{"weights", "weights", p->weights},
                         {"work", "work of a step", p->work},
                         {"cache", "cache of keys and values", p->cache}};
  const part host[] = {{"host", "logits and lists", p->host},
                       {"host_cache", "prefixes that the cache has no room for", p->host_cache}};
  const bool elsewhere = p->host > 0;
  const size_t total = p->weights + p->work + p->cache + (elsewhere ? 0 : p->host_cache);
  char text[24], there[24];
  if (json) {
    fprintf(out, "{\"plan\": \"answering\", ");
    print_device(out, p->device);
    print_json_parts(out, device, PU_COUNT(device));
    fprintf(out,
            ", \"total\": %zu, \"host\": %zu, \"host_cache\": %zu, \"budget\": %zu, \"context\": %lld, "
            "\"cache_tokens\": %lld}\n",
            total, p->host, p->host_cache, p->budget, (long long)p->context, (long long)p->kv_block * p->kv_blocks);
    return;
  }
  fprintf(out, "answering, contexts of %lld tokens, %lld in all\n\n%s\n", (long long)p->context,
          (long long)p->kv_block * p->kv_blocks, p->device);
  print_parts(out, device, PU_COUNT(device));
  if (!elsewhere) print_parts(out, host, PU_COUNT(host));
  fprintf(out, "  %-42s %10s of %s that may be taken\n", "together", pu_bytes_text(total, text),
          pu_bytes_text(p->budget, there));
  if (!elsewhere) return;
  fprintf(out, "\nthis machine\n");
  print_parts(out, host, PU_COUNT(host));
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  const options *o = opts;
  pu_engine_plan p;
  if (pu_ends_with(args[0], ".yaml") || pu_ends_with(args[0], ".yml")) return plan_training(cli, o, n_args, args, e);
  if (n_args > 1) return pu_fail(e, PU_ERR_USAGE, "%s: key=value is for a training run's YAML file", args[1]);
  const pu_cli_engine_options eo = {
      .model = o->model, .batch = o->max_batch, .memory = (size_t)(o->memory * 1024 * 1024 * 1024)};
  PU_TRY(pu_cli_plan_engine(args[0], &eo, &p, e));
  print_answering(cli->out, o->json, &p);
  return PU_OK;
}

const pu_command pu_command_plan = {
    .name = "plan",
    .summary = "say what a run or a model will take of which memory",
    .usage = "CONFIG.yaml [key=value …] | MODEL [options]",
    .details =
        "Part by part, before anything is taken: of a training run that its YAML file describes (train.device says "
        "where), or of a Hugging Face directory or GGUF file that is to answer, as `puyu serve` with the same options "
        "would take it. The exit status is 1 where it does not fit.",
    .options = rows,
    .options_size = sizeof(options),
    .config = pu_train_options,
    .min_args = 1,
    .max_args = -1,
    .run = run,
};
