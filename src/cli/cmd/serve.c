#include <stdlib.h>
#include <string.h>

#include "puyu/serve.h"
#include "src/cli/cli.h"
#include "src/cli/rows.h"
#include "src/cli/sample.h"

typedef struct options {
  const char *host, *unix_path, *tls_cert, *tls_key, *api_key_file, *cors, *name;
  pu_cli_model model;
  int64_t port, threads, max_batch, prefill_chunk, queue, drain;
  double memory;
  bool insecure, prefix_cache;
  pu_strs adapters;
} options;

static const pu_option rows[] = {
    {.key = "address", .type = PU_OPT_GROUP, .help = "where it listens"},
    PU_ROW(options, host, "host", STR, .dflt = "127.0.0.1", .meta = "ADDRESS",
           .help = "address or name to listen on; others than this machine's own loop need a key"),
    PU_ROW(options, port, "port", INT, .dflt = "23333", .max = 65535, .meta = "N",
           .help = "port to listen on; 0: any free one"),
    PU_ROW(options, unix_path, "unix", STR, .meta = "PATH", .help = "listen on a Unix socket instead"),
    PU_ROW(options, tls_cert, "tls-cert", STR, .meta = "FILE", .help = "speak HTTPS with this certificate chain (PEM)"),
    PU_ROW(options, tls_key, "tls-key", STR, .meta = "FILE", .help = "its private key (PEM)"),
    {.key = "access", .type = PU_OPT_GROUP, .help = "who may ask"},
    PU_ROW(options, api_key_file, "api-key-file", STR, .meta = "FILE",
           .help = "requests need one of these keys, one a line; also those in PUYU_API_KEYS, between commas"),
    PU_ROW(options, insecure, "insecure", BOOL, .help = "let anybody in, also from other machines"),
    PU_ROW(options, cors, "cors", STR, .meta = "ORIGIN",
           .help = "pages of this origin may ask, such as https://example.org; *: all pages"),
    {.key = "model", .type = PU_OPT_GROUP, .help = "the model and its room"},
    PU_ROW(options, name, "name", STR, .meta = "NAME",
           .help = "what requests call the model; its folder's name where it is not given"),
    PU_ROW(options, adapters, "adapter", STRS, .meta = "NAME=DIR",
           .help = "a LoRA adapter (a PEFT directory) beside the model, which requests choose as model NAME"),
    PU_CLI_MODEL_ROWS(options, model),
    PU_ROW(options, max_batch, "max-batch", INT, .dflt = "16", .min = 1, .max = 4096, .meta = "N",
           .help = "answers that are computed together; more take turns"),
    PU_ROW(options, prefill_chunk, "prefill-chunk", INT, .dflt = "0", .max = 1 << 20, .meta = "N",
           .help =
               "tokens of prompts that a step reads at most, for which running answers wait; 0: 512, on a device 2048"),
    PU_ROW(options, memory, "memory", FLOAT, .dflt = "0", .max = 1e6, .meta = "GIB",
           .help = "GiB for weights, work and cache together; 0: nine tenths of what is free"),
    PU_ROW(options, prefix_cache, "prefix-cache", BOOL, .dflt = "true",
           .help = "keep what was computed of prompts for those that begin alike"),
    PU_ROW_THREADS(options, 64),
    {.key = "load", .type = PU_OPT_GROUP, .help = "much to do"},
    PU_ROW(options, queue, "queue", INT, .dflt = "256", .min = 1, .max = 1e6, .meta = "N",
           .help = "requests that wait; more are told to come back later (status 429)"),
    PU_ROW(options, drain, "drain", INT, .dflt = "30", .min = 1, .max = 86400, .meta = "SECONDS",
           .help = "what running answers get to end when the server is stopped"),
    {0},
};

/* /models/internlm2-1.8b/ is called internlm2-1.8b. */
static const char *model_name(pu_arena *a, const options *o, const char *dir) {
  if (o->name) return o->name;
  char *full = realpath(dir, NULL);
  const char *slash = full ? strrchr(full, '/') : NULL;
  const char *name = pu_arena_strdup(a, slash && slash[1] ? slash + 1 : "puyu");
  free(full);
  return name;
}

static pu_err read_keys(pu_arena *a, const options *o, pu_strs *keys, pu_error *e) {
  const char *given = getenv("PUYU_API_KEYS");
  if (o->api_key_file) PU_TRY(pu_server_read_keys(o->api_key_file, a, keys, e));
  if (!given || !*given) return PU_OK;
  char *text = pu_arena_strdup(a, given);
  size_t most = keys->n + 1;
  for (const char *p = given; *p; p++) most += *p == ',';
  const char **all = pu_arena_zalloc(a, most * sizeof *all);
  if (!text || !all) return pu_fail(e, PU_ERR_NOMEM, "PUYU_API_KEYS: no memory for the keys");
  if (keys->n) memcpy(all, keys->v, keys->n * sizeof *all);
  for (char *save, *key = strtok_r(text, ", ", &save); key; key = strtok_r(NULL, ", ", &save)) all[keys->n++] = key;
  keys->v = all;
  return PU_OK;
}

/* "NAME=DIR" */
static pu_err read_adapters(pu_arena *a, const options *o, const char *model, pu_engine_adapter **out, pu_error *e) {
  *out = pu_arena_zalloc(a, (o->adapters.n + 1) * sizeof **out);
  for (size_t i = 0; i < o->adapters.n && *out; i++) {
    const char *text = o->adapters.v[i], *is = strchr(text, '=');
    if (!is || is == text || !is[1])
      return pu_fail(e, PU_ERR_USAGE, "--adapter %s: give it a name: --adapter NAME=DIR", text);
    const char *name = pu_arena_strndup(a, text, (size_t)(is - text));
    if (!name) return pu_fail(e, PU_ERR_NOMEM, "no memory for the names of adapters");
    if (strcmp(name, model) == 0)
      return pu_fail(e, PU_ERR_USAGE, "the model and an adapter are both called '%s': see --name", name);
    (*out)[i] = (pu_engine_adapter){name, is + 1};
  }
  return *out ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory for the names of adapters");
}

/* What requests will be refused for, said before the first one is. */
static void say_what_lacks(const char *name, const pu_engine *en) {
  if (!pu_engine_tokenizer(en))
    pu_log(PU_LOG_WARN, "%s: no tokenizer: prompts are token ids at /v1/completions, and answers have no text", name);
  else if (!pu_engine_chat(en))
    pu_log(PU_LOG_WARN, "%s: no chat template: it continues plain text at /v1/completions, and does not chat", name);
}

static pu_err serve(const pu_cli *cli, const options *o, pu_server *sv, const char *name, pu_engine *en, pu_error *e) {
  PU_TRY(pu_server_lend(sv, en, e));
  say_what_lacks(name, en);
  pu_signals_catch();
  fprintf(cli->out, "%s\n", pu_server_url(sv));
  fflush(cli->out);
  const pu_engine_plan p = pu_engine_get_plan(en);
  pu_log(PU_LOG_INFO,
         "%s: ready; %d answers at a time, of at most %lld tokens with their prompt, and of %lld tokens all together",
         name, (int)o->max_batch, (long long)p.context, (long long)p.kv_block * p.kv_blocks);
  return pu_server_run(sv, e);
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  (void)n_args;
  const options *o = opts;
  pu_strs keys = {0};
  pu_engine_adapter *adapters;
  const char *name = model_name(cli->arena, o, args[0]);
  PU_TRY(read_keys(cli->arena, o, &keys, e));
  PU_TRY(read_adapters(cli->arena, o, name, &adapters, e));
  pu_server_options so = {.host = o->host,
                          .port = (int)o->port,
                          .unix_path = o->unix_path,
                          .tls_cert = o->tls_cert,
                          .tls_key = o->tls_key,
                          .model_name = name,
                          .api_keys = keys.v,
                          .n_api_keys = keys.n,
                          .cors_origin = o->cors,
                          .insecure = o->insecure,
                          .max_sessions = (int)o->max_batch,
                          .max_queue = (int)o->queue,
                          .drain_seconds = (double)o->drain};
  pu_server *sv;
  pu_cli_engine_options eo = {.model = o->model,
                              .threads = o->threads,
                              .batch = o->max_batch,
                              .prefill_chunk = o->prefill_chunk,
                              .adapters = adapters,
                              .n_adapters = (int)o->adapters.n,
                              .memory = (size_t)(o->memory * 1024 * 1024 * 1024),
                              .no_prefix_cache = !o->prefix_cache,
                              .says_plan = true};
  pu_engine *en = NULL;
  PU_TRY(pu_server_open(NULL, &so, &sv, e)); /* before minutes of reading weights */
  pu_err err = pu_cli_open_engine(args[0], &eo, &en, e);
  if (!err) err = serve(cli, o, sv, name, en, e);
  pu_server_free(sv);
  pu_engine_free(en);
  return err;
}

const pu_command pu_command_serve = {
    .name = "serve",
    .summary = "answer over HTTP, as OpenAI's API does",
    .usage = "MODEL [options]",
    .details =
        "MODEL is a Hugging Face directory or a GGUF file. Prints the address on standard output when it listens, and "
        "answers until "
        "SIGINT or SIGTERM; running answers may then end.\n\n"
        "A chat page is at /. Routes: /v1/chat/completions, /v1/completions, /v1/models, /tokenize, /detokenize, "
        "/apply_template, /health, "
        "/metrics. docs/serving.md shows each with curl.",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
