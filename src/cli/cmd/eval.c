/* How well models do on sets of questions. */
#include "puyu/eval.h"

#include <stdlib.h>
#include <string.h>

#include "src/cli/cli.h"
#include "src/cli/sample.h"

typedef struct entry {
  const char *model, *url, *name, *adapter, *served;
  bool chat;
} entry;

typedef struct options {
  pu_strs models, urls, tasks;
  pu_list entries; /* of entry, in YAML */
  entry one;       /* what flags say of all of them */
  const char *data, *out, *ca_file;
  int64_t limit, shots, max_tokens, batch, threads, concurrency, retries;
  double timeout;
  int rule;
  bool naive, json;
  pu_cli_model how;
} options;

#define HOW_ROWS                                                                                                       \
  PU_ROW(options, data, "data", STR, .meta = "DIR", .help = "the folder of the sets"),                                 \
      PU_ROW(options, out, "out", STR, .letter = 'o', .meta = "DIR",                                                   \
             .help =                                                                                                   \
                 "keep what was asked and answered there: a run that was ended goes on, and reports are made of it"),  \
      PU_ROW(options, limit, "limit", INT, .dflt = "0", .max = 1e9, .meta = "N",                                       \
             .help = "questions of each subject; 0: all"),                                                             \
      PU_ROW(options, shots, "shots", INT, .dflt = "-1", .min = -1, .max = 1000, .meta = "N",                          \
             .help = "examples before a question; -1: as many as the task says"),                                      \
      PU_ROW(options, rule, "rule", ENUM, .dflt = "task", .choices = "task|sum|char|byte|token|sequence",              \
             .help = "what options are compared by; task: as the task says"),                                          \
      PU_ROW(options, max_tokens, "max-tokens", INT, .dflt = "0", .max = 1 << 20, .meta = "N",                         \
             .help = "of an answer; 0: as the task says"),                                                             \
      PU_ROW(options, batch, "batch", INT, .dflt = "16", .min = 1, .max = 1024, .meta = "N",                           \
             .help = "questions at a time, of a model in process"),                                                    \
      PU_ROW(options, naive, "naive", BOOL, .help = "compute every option whole, to measure what sharing saves"),      \
      PU_CLI_MODEL_ROWS(options, how), PU_ROW_THREADS(options, 64),                                                    \
      PU_ROW(options, concurrency, "concurrency", INT, .dflt = "8", .min = 1, .max = 1024, .meta = "N",                \
             .help = "requests at a time, to a server"),                                                               \
      PU_ROW(options, retries, "retries", INT, .dflt = "5", .max = 100, .meta = "N",                                   \
             .help = "how often a request that failed is sent again, after 1, 2, 4, … seconds"),                       \
      PU_ROW(options, timeout, "timeout", FLOAT, .dflt = "600", .max = 1e6, .meta = "SECONDS",                         \
             .help = "of one request; 0: none"),                                                                       \
      PU_ROW(options, ca_file, "ca-file", STR, .meta = "FILE", .help = "certificates (PEM) to trust with https")

static const pu_option rows[] = {
    PU_ROW(options, models, "model", STRS, .letter = 'm', .meta = "MODEL",
           .help = "a Hugging Face directory or GGUF file; the flag repeats"),
    PU_ROW(options, urls, "url", STRS, .meta = "URL", .help = "a server that speaks OpenAI's API; the flag repeats"),
    PU_ROW(options, tasks, "tasks", STRS, .letter = 't', .meta = "A,B",
           .help = "names, task files (.yaml) or custom sets (.jsonl, .csv)"),
    PU_ROW(options, one.name, "name", STR, .meta = "NAME", .help = "what the report calls the model"),
    PU_ROW(options, one.served, "served", STR, .meta = "NAME",
           .help = "the model to ask for at the server; else its first"),
    PU_ROW(options, one.adapter, "adapter", STR, .meta = "DIR",
           .help = "a LoRA adapter of the model: a directory as PEFT writes it"),
    PU_ROW(options, one.chat, "chat", BOOL, .help = "ask for answers as a user's turn of a chat"),
    HOW_ROWS,
    PU_ROW_JSON(options),
    {0},
};

static const pu_option entry_rows[] = {
    PU_ROW(entry, model, "model", STR, .meta = "MODEL", .help = "a Hugging Face directory or GGUF file; or"),
    PU_ROW(entry, url, "url", STR, .meta = "URL", .help = "a server that speaks OpenAI's API"),
    PU_ROW(entry, name, "name", STR, .meta = "NAME", .help = "what the report calls it"),
    PU_ROW(entry, adapter, "adapter", STR, .meta = "DIR", .help = "a LoRA adapter"),
    PU_ROW(entry, served, "served", STR, .meta = "NAME", .help = "the model to ask for at the server"),
    PU_ROW(entry, chat, "chat", BOOL, .help = "ask for answers as a user's turn of a chat"),
    {0},
};

static const pu_option config[] = {
    PU_ROW(options, entries, "models", LIST, .sub = entry_rows, .sub_size = sizeof(entry), .required = true,
           .help = "who is asked"),
    PU_ROW(options, tasks, "tasks", STRS, .meta = "TASK", .required = true,
           .help = "names, task files (.yaml) or custom sets (.jsonl, .csv)"),
    HOW_ROWS,
    {0},
};

/* ---- what is asked for ---- */

/* From flags: an entry a --model and --url. */
static pu_err make_entries(options *o, pu_arena *a, pu_error *e) {
  size_t n = o->models.n + o->urls.n;
  if (n == 0) return pu_fail(e, PU_ERR_USAGE, "who is to be asked? Give --model, --url or a YAML file");
  if (n > 1 && (o->one.name || o->one.served || o->one.adapter))
    return pu_fail(e, PU_ERR_USAGE, "--name, --served and --adapter go with one model; for several there is YAML");
  entry *v = pu_arena_zalloc(a, n * sizeof *v);
  if (!v) return pu_fail(e, PU_ERR_NOMEM, "no memory for the models");
  for (size_t i = 0; i < n; i++) {
    v[i] = o->one;
    v[i].model = i < o->models.n ? o->models.v[i] : NULL;
    v[i].url = v[i].model ? NULL : o->urls.v[i - o->models.n];
  }
  o->entries = (pu_list){v, n};
  return PU_OK;
}

static pu_err read_options(const pu_cli *cli, const options *given, int n_args, const char **args, options *out,
                           pu_error *e) {
  *out = *given;
  if (n_args == 0) return make_entries(out, cli->arena, e);
  if (given->models.n || given->urls.n || given->tasks.n || given->data || given->out)
    return pu_fail(e, PU_ERR_USAGE, "with %s, say it there or as key=value, not by flags", args[0]);
  *out = (options){0};
  PU_TRY(pu_cli_read_config(config, out, args[0], n_args - 1, args + 1, cli->arena, e));
  out->json = given->json;
  return PU_OK;
}

typedef struct tasks {
  pu_eval_task **v;
  size_t n;
} tasks;

/* "a,b" are two. */
static pu_err open_tasks(const options *o, pu_arena *a, tasks *out, pu_error *e) {
  size_t most = 0;
  for (size_t i = 0; i < o->tasks.n; i++) {
    most++;
    for (const char *p = o->tasks.v[i]; *p; p++) most += *p == ',';
  }
  if (most == 0) return pu_fail(e, PU_ERR_USAGE, "what is to be asked? Give --tasks; `puyu eval --help` lists them");
  out->v = pu_arena_alloc(a, most * sizeof(pu_eval_task *));
  if (!out->v) return pu_fail(e, PU_ERR_NOMEM, "no memory for the tasks");
  for (size_t i = 0; i < o->tasks.n; i++) {
    for (const char *p = o->tasks.v[i], *comma; p; p = comma ? comma + 1 : NULL) {
      comma = strchr(p, ',');
      const char *name = pu_arena_strndup(a, p, comma ? (size_t)(comma - p) : strlen(p));
      if (!name) return pu_fail(e, PU_ERR_NOMEM, "no memory for the tasks");
      if (*name) PU_TRY(pu_eval_task_open(name, a, &out->v[out->n++], e));
    }
  }
  return PU_OK;
}

/* ---- asking ---- */

typedef struct results {
  pu_eval_result *v;
  size_t n;
} results;

static pu_err ask_all(const options *o, const tasks *t, pu_eval_model *m, results *out, pu_arena *a, pu_error *e) {
  pu_eval_options eo = {.data = o->data,
                        .out = o->out,
                        .limit = o->limit,
                        .shots = o->shots,
                        .rule = o->rule - 1,
                        .max_tokens = o->max_tokens};
  for (size_t i = 0; i < out->n; i++)
    if (strcmp(out->v[i].model, pu_eval_model_name(m)) == 0)
      return pu_fail(e, PU_ERR_USAGE, "two models are called '%s': give one of them another 'name' in a YAML file",
                     pu_eval_model_name(m));
  for (size_t i = 0; i < t->n; i++) {
    pu_eval_result *r = &out->v[out->n];
    PU_TRY(pu_eval_run(t->v[i], m, &eo, r, e));
    r->model = pu_arena_strdup(a, r->model); /* the model goes before the table is made */
    if (!r->model) return pu_fail(e, PU_ERR_NOMEM, "no memory for a result");
    out->n++;
    pu_log(PU_LOG_INFO, "%s: %s: %lld in %.1f s, %lld of them from the log", r->model, r->task, (long long)r->n,
           r->seconds, (long long)r->reused);
  }
  return PU_OK;
}

/* "models/puyu-25m/": "puyu-25m". */
static const char *last_part(const char *path, pu_arena *a) {
  size_t n = strlen(path), from;
  while (n > 1 && path[n - 1] == '/') n--;
  for (from = n; from && path[from - 1] != '/';) from--;
  return pu_arena_strndup(a, path + from, n - from);
}

static pu_err ask_local(const options *o, const entry *x, const tasks *t, results *out, pu_arena *a, pu_error *e) {
  pu_cli_engine_options eo = {
      .model = o->how, .threads = o->threads, .batch = o->batch, .adapter = x->adapter, .no_prefix_cache = o->naive};
  static const char *const types[] = {"auto", "f32", "bf16"};
  const char *words =
      pu_arena_printf(a, "computed in %s, weights %s, cache %s, context %lld%s", types[o->how.dtype],
                      pu_quant_name((pu_quant)o->how.quant), pu_kv_type_name((pu_kv_type)o->how.kv_dtype),
                      (long long)o->how.context, o->naive ? ", naive" : "");
  const char *identity, *name = x->name ? x->name : last_part(x->model, a);
  pu_engine *en;
  pu_eval_model *m;
  if (!words || !name) return pu_fail(e, PU_ERR_NOMEM, "no memory for a model");
  PU_TRY(pu_cli_open_engine(x->model, &eo, &en, e));
  pu_err err = pu_eval_identity(x->model, x->adapter, words, a, &identity, e);
  pu_eval_local local = {.engine = en,
                         .adapter = pu_engine_adapter_at(en, 0),
                         .name = name,
                         .batch = (int)o->batch,
                         .chat = x->chat,
                         .naive = o->naive};
  if (!err) {
    local.identity = identity;
    err = pu_eval_local_open(&local, &m, e);
  }
  if (!err) {
    err = ask_all(o, t, m, out, a, e);
    pu_eval_model_close(m);
  }
  pu_engine_free(en);
  return err;
}

static pu_err ask_remote(const options *o, const entry *x, const tasks *t, results *out, pu_arena *a, pu_error *e) {
  pu_eval_remote remote = {.url = x->url,
                           .model = x->served,
                           .name = x->name,
                           .key = getenv("PUYU_API_KEY"),
                           .ca_file = o->ca_file,
                           .concurrency = (int)o->concurrency,
                           .retries = (int)o->retries,
                           .seconds = o->timeout,
                           .chat = x->chat};
  pu_eval_model *m;
  if (x->adapter) return pu_fail(e, PU_ERR_USAGE, "%s: adapters of a server are names of --served", x->url);
  PU_TRY(pu_eval_remote_open(&remote, &m, e));
  pu_err err = ask_all(o, t, m, out, a, e);
  pu_eval_model_close(m);
  return err;
}

static pu_err print(const pu_cli *cli, const options *o, const results *r, pu_error *e) {
  pu_buf b;
  pu_buf_init(&b, 1 << 24);
  pu_err err = pu_eval_table(r->v, r->n, o->json ? PU_EVAL_JSON : PU_EVAL_TABLE, &b, e);
  if (!err) fwrite(b.data, 1, b.len, cli->out);
  pu_buf_deinit(&b);
  return err;
}

static pu_err run(const pu_cli *cli, const void *given, int n_args, const char **args, pu_error *e) {
  options o;
  tasks t = {0};
  results r = {0};
  PU_TRY(read_options(cli, given, n_args, args, &o, e));
  PU_TRY(open_tasks(&o, cli->arena, &t, e));
  r.v = pu_arena_zalloc(cli->arena, o.entries.n * t.n * sizeof *r.v);
  if (!r.v) return pu_fail(e, PU_ERR_NOMEM, "no memory for the results");
  pu_signals_catch();
  pu_err err = PU_OK;
  for (size_t i = 0; i < o.entries.n && !err; i++) {
    const entry *x = (const entry *)o.entries.items + i;
    if (!x->model == !x->url) return pu_fail(e, PU_ERR_USAGE, "models: each is either a 'model' or a 'url'");
    err = x->model ? ask_local(&o, x, &t, &r, cli->arena, e) : ask_remote(&o, x, &t, &r, cli->arena, e);
  }
  pu_error ignored;
  if (r.n) {
    pu_err printed = print(cli, &o, &r, err ? &ignored : e); /* what there is, also after a failure */
    if (!err) err = printed;
  }
  return err;
}

static void list_tasks(pu_buf *b) {
  pu_buf_puts(b, "Tasks that are built in:");
  for (size_t i = 0; pu_eval_task_at(i); i++) pu_buf_printf(b, "%s %s", i ? "," : "", pu_eval_task_at(i));
  pu_buf_puts(b, ".");
}

const pu_command pu_command_eval = {
    .name = "eval",
    .summary = "measure how well models do on sets of questions",
    .usage = "--model MODEL --tasks A,B [options] | CONFIG.yaml [key=value …]",
    .details =
        "Models in process (--model) or behind servers (--url) are asked the questions of the tasks, whose files lie "
        "in "
        "--data. Prints the share of right answers or the perplexity with its standard error, and how many answers "
        "could not be read, were cut at the limit, or had a prompt that does not fit. With --out everything is kept: "
        "the same command goes on where it was ended, and `puyu eval report` shows samples. A server's key is taken "
        "from PUYU_API_KEY.",
    .more = list_tasks,
    .options = rows,
    .options_size = sizeof(options),
    .config = config,
    .min_args = 0,
    .max_args = -1,
    .run = run,
};
