/* engine: weights, paged key/value cache, batching and sampling: everything that generates goes through here.
 *
 * A pu_engine owns a model (or borrows one that is being trained), its cache and a scheduler. A pu_session is one
 * sequence in it: a prompt that grows. pu_engine_step runs one forward pass over sessions that have something to do
 * (new prompt tokens, or the next token to make); pu_session_generate steps until its own answer is done. What a session
 * produces depends on its own ids, options and seed only, not on the others in the batch (to the rounding of sums: see
 * src/engine/README.md).
 *
 * Scheduling. Any number of sessions may be open. Those with work wait in the order they came; max_batch of them run at a
 *           time, as far as the cache has room. Where a growing answer finds no free block, blocks are taken from what
 *           only the prefix cache holds, then from sessions at rest, then from the running session that came last: it
 *           waits again, and later computes its tokens anew and goes on where it was. So the oldest always gets on, and
 *           no session ends another one. A step takes prefill_chunk prompt tokens at most, however long a prompt is:
 *           this bounds how long the others wait for their next token.
 * Adapters. Any number of LoRA adapters (PEFT directories, see puyu/model.h) may lie beside the weights; each session
 *           says which one it goes by. A step computes for all of them at once: the base's products are made for the
 *           whole batch, and each adapter adds its own to the rows of its sessions.
 * Prefix cache. Full blocks are shared by all sessions that begin with the same ids, also after the one that computed
 *           them is closed, until their room is needed (least recently used first). A match may end inside a block.
 *           What a device has no more room for goes to a second tier in this machine's memory, and comes back from there
 *           when a session's ids lead along it, instead of being computed anew.
 *
 * Lifetimes: engine outlives its sessions; a session's ids and text live until it is closed.
 * Threads: one thread drives an engine and its sessions. on_text may call pu_session_cancel; it must not open, close,
 * append to, rewind or start sessions. */
#ifndef PUYU_ENGINE_H
#define PUYU_ENGINE_H

#include "puyu/model.h"
#include "puyu/text.h"

/* ---- tokenizers of models: what needs both text and model ------------------------------------------------------------ */

/* Whatever holds a tokenizer: what pu_tokenizer_load takes, or a GGUF file. NULL where a model has none. */
pu_err pu_engine_load_tokenizer(const char *path, pu_tokenizer **out, pu_error *e) PU_MUST_USE;
/* The tokenizer of a model, which is to be used with it: one with more pieces than the model has is an error. NULL where
 * there is none. */
pu_err pu_engine_tokenizer_of(const char *model, pu_tokenizer **out, pu_error *e) PU_MUST_USE;
/* The keys of a GGUF file that hold t, for a model of so many ids; t NULL: those that say that there is none. */
pu_err pu_engine_put_tokenizer(pu_gguf_keys *k, const pu_tokenizer *t, int64_t vocab, pu_error *e) PU_MUST_USE;

/* ---- engines --------------------------------------------------------------------------------------------------------- */

typedef struct pu_engine pu_engine;
typedef struct pu_session pu_session;

/* Type of keys and values in the cache. Those in few bits are asymmetric, each head of each token for itself: see pu_kv.
 * Keys of heads below PU_KV_SMALL_HEAD values are kept one step finer, bf16 with int8 and 8 bits with int4: see
 * docs/engine.md. */
typedef enum pu_kv_type {
  PU_KV_SAME, /* the compute type */
  PU_KV_BF16,
  PU_KV_INT8, /* D + 4 bytes a row of D values */
  PU_KV_INT4  /* D / 2 + 4 */
} pu_kv_type;
const char *pu_kv_type_name(pu_kv_type t); /* "auto", "bf16", "int8", "int4" */
enum { PU_KV_SMALL_HEAD = 32 };
/* What that means for the tensors and the bits of pu_kv. */
typedef struct pu_kv_format {
  pu_dtype k_type, v_type;
  int k_bits, v_bits;
} pu_kv_format;
pu_kv_format pu_kv_format_of(pu_kv_type type, pu_dtype compute, int64_t head_dim);
/* Bytes of a token in one layer, keys and values. */
size_t pu_kv_token_bytes(pu_kv_format f, int64_t kv_heads, int64_t head_dim);
/* The cache of one layer over `memory` of blocks * block tokens; table and len are the caller's to set. */
pu_err pu_kv_over(pu_ctx *c, pu_kv_format f, const pu_hparams *hp, int64_t blocks, int32_t block, void *memory,
                  pu_kv *out) PU_MUST_USE;

/* A PEFT directory, and what sessions call it: 1 to 128 bytes. */
typedef struct pu_engine_adapter {
  const char *name, *dir;
} pu_engine_adapter;

enum { PU_NO_HOST_CACHE = -1 };

typedef struct pu_engine_options {
  const char *device;     /* as pu_backend_open takes it; NULL: cpu */
  pu_dtype dtype;         /* compute type: PU_BF16 or PU_F32 */
  pu_quant quant;         /* how the model's matrices are kept: PU_QUANT_FILE is 0 */
  const char *cache;      /* a folder that keeps weights for the next time: pu_model_options. NULL: none */
  int threads;            /* 0: all */
  int64_t context;        /* tokens of one session; 0: the model's max_position (times the factor of dynamic RoPE), at
                             most 32768. Less where the cache cannot hold as many: see pu_engine_plan */
  int max_batch;          /* sessions a step computes for at most; others wait their turn. 0: 16 */
  size_t memory;          /* bytes for weights, work and cache together; 0: what the device (or, for cpu, the machine)
                             has free, less a tenth */
  int64_t prefill_chunk;  /* prompt tokens a step takes at most; 0: 512, on a device 2048 */
  int32_t kv_block;       /* tokens a cache block holds; 0: 32 */
  pu_kv_type kv_type;
  bool no_prefix_cache;
  int64_t host_cache;     /* bytes of this machine's memory for the prefix cache's second tier; 0: for a device with memory
                             of its own a quarter of what the machine has free, else none; PU_NO_HOST_CACHE. On the
                             processor it is a part of `memory` */
  bool says_plan;         /* pu_engine_open logs the plan before it takes the memory */
  int guess;              /* tokens of an answer guessed ahead in each step, at most 15; 0: none. The text stays the same:
                             see src/engine/guess.c */
  pu_engine *draft;       /* guesses: an engine over a smaller model with the same vocabulary. Becomes this one's, which
                             frees it (unless opening fails). NULL: guesses are what followed the last ids before */
  const pu_engine_adapter *adapters; /* loaded at once and planned for, as a part of the weights */
  int n_adapters;
  void (*progress)(void *arg, double done, double total); /* while weights are read */
  void *progress_arg;
} pu_engine_options;

/* What is taken, computed from the model's sizes and the options before anything is: bytes. The cache gets what the budget
 * leaves, up to max_batch whole contexts; where that is less than one context, the context shrinks to it. */
typedef struct pu_engine_plan {
  size_t weights, work, cache, budget; /* of the device */
  size_t host;                         /* this machine's, where the device has memory of its own: logits, lists */
  size_t host_cache;                   /* the prefix cache's second tier in this machine's memory, and its tables */
  int32_t kv_block, kv_blocks; /* tokens a block; blocks */
  int32_t host_blocks;         /* of the second tier */
  int64_t context;             /* tokens of one session */
  char device[200];            /* "cuda: …", "cpu" */
} pu_engine_plan;
/* For pu_engine_open with the same options: opens the device to ask for its memory. PU_ERR_NOMEM where not even a small cache fits beside the weights. */
pu_err pu_engine_make_plan(const char *model, const pu_engine_options *o, pu_engine_plan *out, pu_error *e)
    PU_MUST_USE;

/* model: a Hugging Face directory or a GGUF file. Its tokenizer is loaded when there is one (a model without one works
 * on ids). */
pu_err pu_engine_open(const char *model, const pu_engine_options *o, pu_engine **out, pu_error *e) PU_MUST_USE;
/* Over a model (and tokenizer, may be NULL) owned by the caller, e.g. in the middle of training. device, dtype and
 * threads of the options do not count. Where memory is 0 the weights are there already and count for nothing. Changed
 * weights need a new engine: the cache holds what the old ones made. */
pu_err pu_engine_over(pu_model *m, const pu_tokenizer *t, const pu_engine_options *o, pu_engine **out, pu_error *e)
    PU_MUST_USE;
void pu_engine_free(pu_engine *en);
const pu_tokenizer *pu_engine_tokenizer(const pu_engine *en); /* NULL: none */
const pu_model *pu_engine_model(const pu_engine *en);
int64_t pu_engine_context(const pu_engine *en); /* tokens a session may hold */
pu_engine_plan pu_engine_get_plan(const pu_engine *en);
/* The chat template of the model (pu_chat_open); NULL where none fits. Lives as long as the engine. */
const pu_chat_template *pu_engine_chat(const pu_engine *en);

/* One adapter more, from what the plan left of the budget: PU_ERR_NOMEM where it does not fit. Names are unique. */
pu_err pu_engine_add_adapter(pu_engine *en, const char *name, const char *dir, pu_error *e) PU_MUST_USE;
/* PU_ERR_USAGE while a session goes by it. */
pu_err pu_engine_remove_adapter(pu_engine *en, const char *name, pu_error *e) PU_MUST_USE;
/* Their names in the order they came; NULL past the last. Lives until that one is removed. */
const char *pu_engine_adapter_at(const pu_engine *en, size_t i);

/* ---- structured output: grammars that an answer must fit ---------------------------------------------------------- */

/* The tokens of a tokenizer by their bytes: what a grammar is matched with. Made once a tokenizer (tens of
 * milliseconds), then only read, by any number of grammars and threads. The tokenizer may go. */
typedef struct pu_grammar_vocab pu_grammar_vocab;
pu_err pu_grammar_vocab_create(const pu_tokenizer *t, pu_grammar_vocab **out, pu_error *e) PU_MUST_USE;
void pu_grammar_vocab_free(pu_grammar_vocab *v);

typedef enum pu_grammar_kind {
  PU_GRAMMAR_JSON,        /* any JSON object; no source */
  PU_GRAMMAR_JSON_SCHEMA, /* draft 2020-12, see docs/structured.md for what of it */
  PU_GRAMMAR_REGEX,       /* the whole text fits it, as if between ^ and $ */
  PU_GRAMMAR_GBNF         /* llama.cpp's notation; the rule `root` */
} pu_grammar_kind;

/* Compiled once, then shared by sessions and threads; the vocabulary must outlive it. Refused: a source of more than
 * 1 MiB or nested more than 200 deep, what would be ignored although it changes the meaning, and what no finite text
 * fits. Whatever a state accepted can go on to an end, if each single byte is a token of the vocabulary. */
typedef struct pu_grammar pu_grammar;
pu_err pu_grammar_compile(pu_grammar_kind kind, pu_str source, const pu_grammar_vocab *v, pu_grammar **out,
                          pu_error *e) PU_MUST_USE;
void pu_grammar_free(pu_grammar *g);
int32_t pu_grammar_vocabulary(const pu_grammar *g); /* tokens of its vocabulary */

/* With a vocabulary that the engine makes of its own tokenizer when it is first asked. The engine must outlive it. */
pu_err pu_engine_grammar(pu_engine *en, pu_grammar_kind kind, pu_str source, pu_grammar **out, pu_error *e) PU_MUST_USE;

/* Where one text stands in a grammar. One thread at a time; the grammar must outlive it. */
typedef struct pu_grammar_state pu_grammar_state;
pu_err pu_grammar_start(const pu_grammar *g, pu_grammar_state **out, pu_error *e) PU_MUST_USE;
pu_err pu_grammar_state_copy(const pu_grammar_state *s, pu_grammar_state **out, pu_error *e) PU_MUST_USE;
void pu_grammar_state_free(pu_grammar_state *s);
/* Bit id is set when the token may come next; bits [ceil(vocabulary / 64)]. Never a special token. */
pu_err pu_grammar_mask(pu_grammar_state *s, uint64_t *bits, pu_error *e) PU_MUST_USE;
/* Takes a token, or text, into account. False: it does not fit, and the state is as it was. */
bool pu_grammar_accept(pu_grammar_state *s, int32_t id);
bool pu_grammar_accept_text(pu_grammar_state *s, pu_str text);
/* What was last refused would perhaps fit, even when the mask has it: the grammar leaves too many ways open at once (a
 * grammar that reads one text in hundreds of ways), or there was no memory. */
bool pu_grammar_gave_up(const pu_grammar_state *s);
bool pu_grammar_may_end(const pu_grammar_state *s);  /* the text so far is whole */
bool pu_grammar_must_end(const pu_grammar_state *s); /* and nothing can follow it */

typedef struct pu_logit_bias {
  int32_t id;
  float bias; /* added to the logit; -INFINITY: never */
} pu_logit_bias;

typedef struct pu_ids_view {
  const int32_t *v;
  size_t n;
} pu_ids_view;

/* How the next token is chosen, in this order: logit bias; grammar; penalties; what may not come (bad words, endings
 * before min_tokens); temperature; top-k; typical; top-p; min-p; draw. Begin with pu_sampling_default(). What pointers
 * point to is copied by pu_session_start, but for the grammar. */
typedef struct pu_sampling {
  double temperature;        /* 0: greedy (ties: lowest id) */
  int64_t top_k;             /* 0: off */
  double top_p;              /* 1: off */
  double min_p;              /* 0: off; keep p >= min_p * p_max */
  double typical_p;          /* 1: off; the tokens whose surprise is nearest to the entropy (Meister et al. 2023) */
  double repetition_penalty; /* 1: off; divides (multiplies) positive (negative) logits of ids seen (Keskar 2019) */
  double presence_penalty, frequency_penalty; /* 0: off; of generated ids, as OpenAI's */
  const pu_logit_bias *logit_bias;
  size_t n_logit_bias;
  const pu_ids_view *bad_words; /* sequences whose last id never follows the ids before it */
  size_t n_bad_words;
  uint64_t seed;
  int64_t min_tokens;        /* no ending before so many, by id or by stop string */
  int64_t max_tokens;        /* of the answer; 0: to the end of the context */
  const char *const *stop;   /* strings that end the answer (themselves left out), matched on bytes across tokens */
  size_t n_stop;
  const int32_t *stop_ids;   /* ids that end the answer besides the model's eos */
  size_t n_stop_ids;
  bool ignore_eos;
  const int32_t *spoken_ids; /* special tokens that give text, their own (marks of tool calls); others give none */
  size_t n_spoken_ids;
  const pu_grammar *grammar; /* what the answer must fit, for the engine's tokenizer; NULL: off. It must outlive the
                                answer; endings come only where the text may end */
  int top_logprobs;          /* -1: none kept; 0: of the chosen token; n <= 20: of the n most probable too */
} pu_sampling;
pu_sampling pu_sampling_default(void); /* temperature 0, everything else off */

typedef enum pu_finish {
  PU_FINISH_NONE,   /* not done */
  PU_FINISH_STOP,   /* eos, a stop id or a stop string; the grammar allows no more */
  PU_FINISH_LENGTH, /* max_tokens, or the context is full; or no token that fits the grammar is left */
  PU_FINISH_CANCEL  /* the callback returned false, or pu_session_cancel */
} pu_finish;

typedef enum pu_session_state {
  PU_SESSION_IDLE,    /* nothing to do */
  PU_SESSION_WAITING, /* for a place in the batch or room in the cache */
  PU_SESSION_RUNNING
} pu_session_state;

pu_err pu_session_open(pu_engine *en, pu_session **out, pu_error *e) PU_MUST_USE;
/* A new session with the same tokens (and adapter), not yet started. Cache blocks are shared, and copied when one of
 * the two writes: n answers to one question, the options of a test, beams. Best done when the prompt is processed;
 * forks of a prompt that is not, wait for its blocks (where there is a prefix cache). */
pu_err pu_session_fork(const pu_session *s, pu_session **out, pu_error *e) PU_MUST_USE;
void pu_session_close(pu_session *s); /* NULL is fine; gives its cache blocks back */
/* Sessions with different salts share nothing in the prefix cache (tenants). Only before the first append. */
pu_err pu_session_salt(pu_session *s, uint64_t salt, pu_error *e) PU_MUST_USE;
/* From now on the session goes by this adapter of the engine; NULL: by the weights alone. Shares nothing in the prefix
 * cache with sessions that go by another. Only before the first append. */
pu_err pu_session_adapter(pu_session *s, const char *name, pu_error *e) PU_MUST_USE;
/* Keeps log-probabilities of prompt tokens, too, with the `top` (0..20) most probable beside: see pu_session_prompt.
 * Only before the first append; such a session takes nothing from the prefix cache. */
pu_err pu_session_score(pu_session *s, int top, pu_error *e) PU_MUST_USE;
/* The same for prompt tokens from `from` (at least 1) on alone, whose first pu_session_prompt then tells. What stands
 * before may come from a fork or the prefix cache: the options of a question branch off it. Before any of these tokens,
 * or the one before them, is computed; so a fork of a processed prompt is told from the prompt's length on. */
pu_err pu_session_score_from(pu_session *s, int64_t from, int top, pu_error *e) PU_MUST_USE;
/* Adds prompt tokens (checked against vocabulary and context). They are processed by the next steps. */
pu_err pu_session_append(pu_session *s, const int32_t *ids, size_t n, pu_error *e) PU_MUST_USE;
/* Begins an answer; tokens come with the engine's steps. on_text (may be NULL) gets text as soon as it is certain: whole
 * UTF-8 characters that cannot be part of a stop string; return false to cancel. */
typedef bool (*pu_on_text)(void *arg, pu_str text);
pu_err pu_session_start(pu_session *s, const pu_sampling *o, pu_on_text on_text, void *arg, pu_error *e) PU_MUST_USE;
/* Ends an answer from outside (a client went away): PU_FINISH_CANCEL. What was made stays. */
void pu_session_cancel(pu_session *s);
pu_finish pu_session_finish(const pu_session *s);
pu_session_state pu_session_get_state(const pu_session *s);
const int32_t *pu_session_answer(const pu_session *s, size_t *n); /* ids of the current answer, without the ending one */
pu_str pu_session_text(const pu_session *s);                      /* its text so far */
int64_t pu_session_length(const pu_session *s);                   /* tokens in the session */

/* A token as it was chosen (or, in a prompt, given). Log-probabilities are natural ones, of the model's own distribution
 * after logit bias, before penalties and temperature. */
typedef struct pu_token_info {
  int32_t id;
  float logprob; /* NAN for the first token of a session: nothing tells of it */
  int n_top;     /* most probable first */
  const int32_t *top_ids;
  const float *top_logprobs;
} pu_token_info;
/* Of the answer's tokens, of which *n are there; NULL where top_logprobs was -1. Lives until the next call on the session
 * or step. */
const pu_token_info *pu_session_tokens(const pu_session *s, size_t *n);
/* Of the prompt's tokens processed so far: after pu_session_score or pu_session_score_from, else NULL. */
const pu_token_info *pu_session_prompt(const pu_session *s, size_t *n);

/* Forgets everything after the first n tokens (cached work for them is kept). */
pu_err pu_session_rewind(pu_session *s, int64_t n, pu_error *e) PU_MUST_USE;

/* One forward pass. *more: is there still something to do? An error is the engine's, not a session's: the pass was not
 * made, and may be tried again. */
pu_err pu_engine_step(pu_engine *en, bool *more, pu_error *e) PU_MUST_USE;
/* start + step until this session is finished. */
pu_err pu_session_generate(pu_session *s, const pu_sampling *o, pu_on_text on_text, void *arg, pu_error *e) PU_MUST_USE;

/* Seconds and tokens so far: what tokens/s is made from. */
typedef struct pu_engine_stats {
  double prefill_seconds, decode_seconds;
  int64_t prefill_tokens, decode_tokens;
  double overhead_seconds; /* of both: choosing who runs and laying out their tokens; not sampling */
  int64_t steps, preemptions;
  int64_t steps_ahead; /* that were made ready while the step before ran, and taken so: 0 where no device keeps steps */
  int64_t guesses, guesses_right;
  int64_t prefix_tokens_hit, prefix_tokens_asked; /* prompt tokens found in the prefix cache, of those looked for */
  int64_t prefix_tokens_host;                     /* of the hits, those that came from the second tier */
  int64_t host_blocks_out, host_blocks_in;        /* copied to the second tier; back from it */
  int running, waiting;                           /* sessions now */
  int32_t kv_blocks, kv_blocks_used, kv_blocks_cached; /* all; held by sessions; held by the prefix cache alone */
  int32_t host_blocks, host_blocks_used;               /* of the second tier */
  size_t weight_bytes, cache_bytes, work_bytes;
} pu_engine_stats;
pu_engine_stats pu_engine_get_stats(const pu_engine *en);

/* Chooses one id from logits [V] (changed in place). history: the session's ids, of which the last n_answer were
 * generated. Exposed for tests. */
int32_t pu_sample_token(float *logits, int64_t vocab, const pu_sampling *o, const int32_t *history, size_t n_history,
                  size_t n_answer, pu_rng *rng);

/* Nats (negative natural log-probabilities) of texts, each token but a text's first told by those before it: the mean, whose
 * exponential is the perplexity, and over how many tokens. Each text fits the engine's context. */
typedef struct pu_engine_score {
  double nats;
  int64_t tokens;
} pu_engine_score;
pu_err pu_engine_score_texts(pu_engine *en, const pu_ids_view *texts, size_t n, pu_engine_score *out,
                             pu_error *e) PU_MUST_USE;

/* ---- making weights of few bits --------------------------------------------------------------------------------------- */

/* A way to do it: one file of src/engine/quantize/methods. Quantised are the matrices of attention and MLPs (those of all
 * experts); embedding, output, norms, biases and routers stay. */
typedef struct pu_quantize_method {
  const char *name, *summary; /* "awq"; one line that begins small */
  int bits;                   /* the only number of bits it has; 0: 4 and 8 */
  bool needs_texts;           /* to calibrate on */
  bool a_row;                 /* one scale a row, symmetric; else by group */
} pu_quantize_method;
/* The i-th, by name; NULL past the last. */
const pu_quantize_method *pu_quantize_method_at(size_t i);

typedef struct pu_quantize_options {
  const char *method; /* its name */
  int bits;                 /* 4 or 8 */
  int64_t group;            /* inputs that share a scale: 32, 64 or 128; with a_row it does not count */
  bool symmetric;           /* no zero points */
  const pu_ids_view *calib; /* texts that the model's inputs are taken from */
  size_t n_calib;
  int threads; /* 0: all */
  void (*progress)(void *arg, double done, double total);
  void *progress_arg;
} pu_quantize_options;

typedef struct pu_quantize_report {
  size_t bytes_before, bytes_after; /* of all tensors */
  int64_t weights;                  /* quantised ones */
  double bits;                      /* what each of them takes, with its share of scales and zeros */
  double error; /* |y' - y|^2 of the quantised matrices' results over |y|^2 of the right ones, on a sample of their inputs,
                   summed over all of them; 0 where nothing was calibrated */
} pu_quantize_report;

/* From the Hugging Face directory src into a new one, dir: config.json with its quantization_config, and safetensors, one
 * file a layer. Other files (tokenizer, generation_config.json) are the caller's to copy. Layer by layer: what is held is one
 * layer (in f32, its matrices' statistics, for gptq their Hessians [K, K]) and the residual state of the calibration texts,
 * 4 bytes times tokens times the hidden size. On failure dir is removed. Runs on a cpu of its own. */
pu_err pu_quantize(const char *src, const char *dir, const pu_quantize_options *o, pu_quantize_report *out,
                   pu_error *e) PU_MUST_USE;
/* Do options and model fit each other? What pu_quantize asks first, for callers who have other work to do before it. */
pu_err pu_quantize_check(const char *src, const pu_quantize_options *o, pu_error *e) PU_MUST_USE;

#endif
