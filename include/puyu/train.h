/* train: optimiser, schedule, loop, checkpoints, metrics and the report of a run.
 *
 * A run is a directory:
 *   config.yaml       the resolved configuration
 *   metrics.jsonl     one object a step: step, loss, grad_norm, lr, tokens, tok_per_s, mfu, …; also validation losses
 *   samples.jsonl     generations at intervals
 *   step-NNNNNN/      a checkpoint: the model as a Hugging Face directory (with lora.rank or lora.path the adapter alone,
 *                     as a PEFT directory), with optimizer.safetensors and state.json beside it. It exists when the
 *                     directory was renamed into place.
 *   lock              held while a process trains here
 * Starting again with the same run resumes from the newest complete checkpoint; losses from there on are the same to
 * the bit as in a run that was never stopped, and metrics.jsonl is cut back to that step first.
 *
 * Threads: pu_train_run uses the backend's threads and one of its own that writes checkpoints. */
#ifndef PUYU_TRAIN_H
#define PUYU_TRAIN_H

#include "puyu/model.h"
#include "puyu/shards.h"
#include "puyu/text.h"

typedef enum pu_train_task {
  PU_TASK_PRETRAIN,
  PU_TASK_SFT /* conversations: rows come through pu_train_hooks.feed */
} pu_train_task;

typedef enum pu_source_type {
  PU_SOURCE_SHARDS,
  PU_SOURCE_TEXT,
  PU_SOURCE_JSONL,
  PU_SOURCE_IDS,
  PU_SOURCE_CHAT /* of PU_TASK_SFT, and the only one there */
} pu_source_type;

/* How a file of conversations calls its keys; NULL: as its form does. */
typedef struct pu_chat_columns {
  const char *messages, *role, *content, *tools, *system, *instruction, *input, *output, *history;
} pu_chat_columns;

typedef struct pu_train_source {
  int type; /* pu_source_type */
  const char *path, *key;
  double weight;
  const char *form; /* of a chat source; NULL: found out */
  pu_chat_columns columns;
} pu_train_source;

/* Filled from YAML and key=value through pu_train_options; the keys are its dotted names (see that table for defaults
 * and ranges). */
typedef struct pu_train_config {
  int task; /* pu_train_task */
  const char *run;
  struct { const char *path, *shape, *tokenizer; int64_t seed; } model;
  struct {
    int64_t seq_len;
    bool cross_document;
    pu_list sources; /* of pu_train_source */
    const char *chat_template; /* one of puyu's own by name; NULL: the model's */
    int too_long;              /* a conversation above seq_len: 0 is left out, 1 is cut */
    bool pack;                 /* several conversations a row */
  } data;
  struct {
    int64_t steps, global_batch, micro_batch, seed, threads;
    double epochs;  /* above 0: so many passes over the data, instead of steps; of rows whose number is known */
    double minutes; /* above 0: the run ends after so many minutes of steps, and the schedule is stretched to fit */
    int64_t ramp_start, ramp_steps; /* batch-size ramp-up: from ramp_start sequences, linearly over ramp_steps */
    int precision;                  /* 0: bf16, 1: f32 */
    int linear;                     /* products of attention's matrices and dense MLPs in 0: bf16, 1: fp8 */
    int weights;                    /* what is trained: 0: f32 values, 1: the bf16 ones that are computed with */
    int grads;                      /* gradients of matrices in 0: f32, 1: bf16 */
    double grad_clip;
    int recompute; /* pu_recompute */
    bool deterministic; /* the same losses to the bit in each run; else sums in any order where that is faster */
    const char *device;
    int64_t max_skips;              /* stop after this many skipped steps in a row (NaN, spikes) */
    double spike;                   /* skip a step whose gradient norm is above spike * running mean; 0: off */
    bool force;                     /* start although the memory plan does not fit */
  } train;
  struct {
    double lr;
    pu_floats betas;
    double eps, weight_decay;
    bool decay_all;
    int state; /* moments in 0: f32, 1: bf16 */
  } optim;
  struct { int type; int64_t warmup, decay; double min_lr; } schedule; /* 0 constant, 1 linear, 2 cosine, 3 wsd */
  struct { int64_t every, keep; } checkpoint;
  struct { int64_t every, batches; const char *path; } validate;
  struct { int64_t every, max_tokens; pu_strs prompts; double temperature; } sample;
  /* With rank or path, an adapter is trained and the model stays as it is. */
  struct {
    int64_t rank;     /* of a new one; 0: none */
    double alpha;
    bool rslora;
    pu_strs targets;  /* none: all matrices that can be adapted */
    const char *path; /* an adapter to go on with */
    int base;         /* what the model's matrices are kept in: 0 the compute type, 1 NF4 (QLoRA) */
  } lora;
  struct { int64_t every; } log;
} pu_train_config;

extern const pu_option pu_train_options[];
#define PU_RECOMPUTE_CHOICES "none|gates|some|all" /* of an option: a pu_recompute */

/* ---- rows from a higher floor ------------------------------------------------------------------------------------ */

/* One row of a batch: samples end to end, none of which sees another. */
typedef struct pu_train_row {
  int32_t *ids, *targets, *starts; /* [seq_len] each, the caller's; targets: the id to be predicted, -1: none */
  int64_t n;                       /* tokens, 1 to seq_len */
  int n_starts;                    /* samples; starts[0] = 0 */
  int source;                      /* which of the feed's sources the row is of */
} pu_train_row;

/* Where rows come from, when not from data.sources' tokens. Row `index` is a function of index alone: resuming to the bit
 * rests on that. Reading may not fail: what can go wrong goes wrong when the feed is opened. */
typedef struct pu_train_feed {
  void *arg;
  uint64_t rows, tokens; /* of one pass over the data */
  size_t n;              /* sources, by name */
  const char *const *names;
  void (*read)(void *arg, uint64_t index, pu_train_row *out);
  void (*close)(void *arg);
} pu_train_feed;

typedef struct pu_train_feed_options {
  const pu_train_config *cfg;
  const pu_train_source *sources; /* data.sources, or what validate.path names */
  size_t n;
  bool valid;                    /* for validation: in the order of the files */
  const pu_tokenizer *tokenizer; /* NULL: the model has none */
  const char *model;             /* its path, for the chat template it brings; or NULL */
  const pu_arch *arch;
  int64_t vocab;
} pu_train_feed_options;

/* A text to be made from the model as it is now, for samples.jsonl. */
typedef struct pu_train_sample {
  pu_model *model;
  const pu_adapter *adapter; /* what is trained instead of the model; or NULL */
  const pu_tokenizer *tokenizer;
  const pu_train_config *cfg; /* sample.max_tokens, sample.temperature; task: whether the prompt is a user's in a chat */
  const char *path;           /* the model's, for the chat template it brings; or NULL */
  const char *prompt;
} pu_train_sample;

/* What a higher floor lends the loop. Each may be NULL. */
typedef struct pu_train_hooks {
  void *arg;
  /* Rows for the tasks that need one. What is given lives as long as the feed. */
  pu_err (*feed)(void *arg, const pu_train_feed_options *o, pu_train_feed *out, pu_error *e);
  /* Continues the prompt, or answers it; appends the text to out. (The engine stands on this floor too.) */
  pu_err (*sample)(void *arg, const pu_train_sample *s, pu_buf *out, pu_error *e);
  /* After every step; false stops the run as SIGTERM would, with a checkpoint. */
  bool (*step)(void *arg, int64_t step, double loss);
} pu_train_hooks;

typedef struct pu_train_result {
  int64_t steps, tokens;     /* done in the whole run */
  double seconds;            /* of this process in steps */
  double loss, valid_loss;   /* last; NaN: none */
  double tok_per_s, mfu;
  size_t planned_bytes, peak_bytes;
  char checkpoint[512];      /* the newest */
} pu_train_result;

/* PU_ERR_STOPPED after a clean stop by signal or hook (with a checkpoint). */
pu_err pu_train_run(const pu_train_config *cfg, const pu_train_hooks *hooks, pu_train_result *result, pu_error *e)
    PU_MUST_USE;

/* What a run takes of the device's memory, in bytes, from the configuration and the model's sizes: nothing of it is taken
 * for asking. Where the device is the processor, all of it is the machine's. */
typedef struct pu_train_plan {
  size_t weights; /* in the compute type, and the lower halves of f32 masters where that is bf16 */
  size_t gradients;        /* 0: of a step of one micro-batch, whose gradients come where activations were */
  size_t moments;
  size_t activations;      /* of one micro-batch, as the tape lays them out, with such gradients */
  size_t work;             /* what operations use while they run */
  size_t data;             /* ids of one step */
  size_t copy;             /* what the checkpoint thread writes from */
  size_t total;            /* of the device's memory: all of these, but for the last two where it has its own */
  size_t host;             /* of the machine's memory beside that: those two */
  size_t available;        /* of the device's, now; 0: unknown */
  int64_t parameters, micro_batch, seq_len;
  char device[200];        /* "cuda: …", "avx512, 4 threads" */
  char mend[300];          /* where it does not fit: "lower train.micro_batch …", without what is set already */
} pu_train_plan;
/* Opens the device. Token data is not looked at, a tokenizer is read where the model's vocabulary comes from it. */
pu_err pu_train_make_plan(const pu_train_config *cfg, pu_train_plan *out, pu_error *e) PU_MUST_USE;

/* The schedule alone: learning rate of a step (1-based) of a run. */
double pu_train_lr(const pu_train_config *cfg, int64_t step);
/* Sequences in a step, by the ramp. */
int64_t pu_train_batch(const pu_train_config *cfg, int64_t step);

/* One training step of a named shape, random weights and tokens, against the machine's own matrix products at the
 * shapes of that step (every linear layer and the output matrix, forward and backward), measured in turn with it. */
typedef struct pu_train_bench_options {
  const char *shape, *device; /* device: as pu_backend_open takes it */
  int64_t layers;         /* other than the shape has; 0: as many */
  int64_t seq_len, batch; /* batch: sequences computed at once */
  int64_t rounds;         /* step and products, this many times: the best of each counts */
  pu_dtype dtype;
  int threads;            /* 0: all */
  pu_recompute recompute;
  int weights, grads, state; /* as train.weights, train.grads and optim.state */
  bool any_order;     /* not train.deterministic */
  bool fp8;           /* as train.linear */
  bool profile;
} pu_train_bench_options;

typedef struct pu_train_bench_result {
  double step_seconds, tok_per_s, flops; /* flops: pu_hparams_train_flops a second */
  double gemm_flops, ratio;              /* ratio: flops / gemm_flops */
  double row_seconds;                    /* of a step among others without a rest, the mean; 0: on a processor */
  double optim_seconds;                  /* of step_seconds: norm and update */
  double op_seconds[PU_OP_COUNT][2];     /* profile: forward, backward, in one step */
  double peak_flops, mfu;                /* a large product, or the bare matrix unit; flops / peak_flops */
  size_t planned_bytes, peak_bytes;      /* peak: of the device's memory, where it has its own */
  int64_t layers;
  char where[200];                       /* "cuda: …", "avx512, 4 threads" */
} pu_train_bench_result;
pu_err pu_train_bench(const pu_train_bench_options *o, pu_train_bench_result *out, pu_error *e) PU_MUST_USE;

/* A self-contained HTML page of a run, finished or not: curves of loss, validation loss, learning rate, gradient norm
 * and throughput as inline SVG, samples, configuration. extra_html (may be NULL) is put after the summary. */
pu_err pu_report_write(const char *run_dir, const char *out_path, const char *extra_html, pu_error *e) PU_MUST_USE;
/* Its curves of loss and throughput alone, appended as a part of a page (see pu_page_begin). id, at most 70 bytes of a name:
 * what tells them from those of another run on the page. */
pu_err pu_report_curves(const char *run_dir, const char *id, pu_buf *out, pu_error *e) PU_MUST_USE;

#endif
