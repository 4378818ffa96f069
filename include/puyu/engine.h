/* engine: weights, paged key/value cache, batching and sampling: everything that generates goes through here.
 *
 * A pu_engine owns a model (or borrows one that is being trained), its cache and a scheduler. A pu_session is one
 * sequence in it: a prompt that grows. pu_engine_step runs one forward pass over all sessions that have something to do
 * (new prompt tokens, or the next token to make); pu_session_generate steps until its own answer is done. What a session
 * produces depends on its own ids, options and seed only, not on the others in the batch.
 *
 * Lifetimes: engine outlives its sessions; a session's ids and text live until it is closed.
 * Threads: one thread drives an engine and its sessions. */
#ifndef PUYU_ENGINE_H
#define PUYU_ENGINE_H

#include "puyu/model.h"
#include "puyu/text.h"

typedef struct pu_engine pu_engine;
typedef struct pu_session pu_session;

typedef struct pu_engine_options {
  const char *device;     /* "cpu"; NULL: cpu */
  pu_dtype dtype;         /* compute type: PU_BF16 or PU_F32 */
  int threads;            /* 0: all */
  int64_t context;        /* tokens of one session; 0: the model's max_position (times the factor of dynamic RoPE), at
                             most 32768 */
  int max_sessions;       /* 0: 1 */
  int64_t prefill_chunk;  /* prompt tokens a step takes at most; 0: 512 */
  int32_t kv_block;       /* tokens a cache block holds; 0: 32 */
  void (*progress)(void *arg, double done, double total); /* while weights are read */
  void *progress_arg;
} pu_engine_options;

/* model_dir: a Hugging Face directory. Its tokenizer is loaded when there is one (a model without one works on ids). */
pu_err pu_engine_open(const char *model_dir, const pu_engine_options *o, pu_engine **out, pu_error *e) PU_MUST_USE;
/* Over a model (and tokenizer, may be NULL) owned by the caller, e.g. in the middle of training. device, dtype and
 * threads of the options do not count. */
pu_err pu_engine_over(pu_model *m, const pu_tokenizer *t, const pu_engine_options *o, pu_engine **out, pu_error *e)
    PU_MUST_USE;
void pu_engine_free(pu_engine *en);
const pu_tokenizer *pu_engine_tokenizer(const pu_engine *en); /* NULL: none */
const pu_model *pu_engine_model(const pu_engine *en);
int64_t pu_engine_context(const pu_engine *en); /* tokens a session may hold */
/* The chat template of the model; NULL where none fits. */
const pu_chat_template *pu_engine_chat(const pu_engine *en);

/* ---- structured output: grammars that an answer must fit ---------------------------------------------------------- */

/* The tokens of a tokenizer by their bytes: what a grammar is matched with. Made once a tokenizer (tens of
 * milliseconds), then only read, by any number of grammars and threads. The tokenizer may go. */
typedef struct pu_vocab pu_vocab;
pu_err pu_vocab_create(const pu_tokenizer *t, pu_vocab **out, pu_error *e) PU_MUST_USE;
void pu_vocab_free(pu_vocab *v);

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
pu_err pu_grammar_compile(pu_grammar_kind kind, pu_str source, const pu_vocab *v, pu_grammar **out, pu_error *e)
    PU_MUST_USE;
void pu_grammar_free(pu_grammar *g);

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
bool pu_grammar_may_end(const pu_grammar_state *s);  /* the text so far is whole */
bool pu_grammar_must_end(const pu_grammar_state *s); /* and nothing can follow it */

/* How the next token is chosen, in this order: penalties, temperature, top-k, top-p, min-p, draw. */
typedef struct pu_sampling {
  double temperature;        /* 0: greedy (ties: lowest id) */
  int64_t top_k;             /* 0: off */
  double top_p;              /* 1: off */
  double min_p;              /* 0: off; keep p >= min_p * p_max */
  double repetition_penalty; /* 1: off; divides (multiplies) positive (negative) logits of ids seen (Keskar 2019) */
  double presence_penalty, frequency_penalty; /* 0: off; of generated ids, as OpenAI's */
  uint64_t seed;
  int64_t max_tokens;        /* of the answer; 0: to the end of the context */
  const char *const *stop;   /* strings that end the answer (themselves left out), matched on bytes across tokens */
  size_t n_stop;
  const int32_t *stop_ids;   /* ids that end the answer besides the model's eos */
  size_t n_stop_ids;
  bool ignore_eos;
} pu_sampling;
pu_sampling pu_sampling_default(void); /* temperature 0, everything else off */

typedef enum pu_finish {
  PU_FINISH_NONE,   /* not done */
  PU_FINISH_STOP,   /* eos, a stop id or a stop string */
  PU_FINISH_LENGTH, /* max_tokens, or the context is full */
  PU_FINISH_CANCEL  /* the callback returned false */
} pu_finish;

pu_err pu_session_open(pu_engine *en, pu_session **out, pu_error *e) PU_MUST_USE;
void pu_session_close(pu_session *s); /* NULL is fine; gives its cache blocks back */
/* Adds prompt tokens (checked against vocabulary and context). They are processed by the next steps. */
pu_err pu_session_append(pu_session *s, const int32_t *ids, size_t n, pu_error *e) PU_MUST_USE;
/* Begins an answer; tokens come with the engine's steps. on_text (may be NULL) gets text as soon as it is certain: whole
 * UTF-8 characters that cannot be part of a stop string; return false to cancel. */
typedef bool (*pu_on_text)(void *arg, pu_str text);
pu_err pu_session_start(pu_session *s, const pu_sampling *o, pu_on_text on_text, void *arg, pu_error *e) PU_MUST_USE;
pu_finish pu_session_finish(const pu_session *s);
const int32_t *pu_session_answer(const pu_session *s, size_t *n); /* ids of the current answer, without the ending one */
pu_str pu_session_text(const pu_session *s);                      /* its text so far */
int64_t pu_session_length(const pu_session *s);                   /* tokens in the session */
/* Forgets everything after the first n tokens (cached work for them is kept). */
pu_err pu_session_rewind(pu_session *s, int64_t n, pu_error *e) PU_MUST_USE;

/* One forward pass. *more: is there still something to do? */
pu_err pu_engine_step(pu_engine *en, bool *more, pu_error *e) PU_MUST_USE;
/* start + step until this session is finished. */
pu_err pu_session_generate(pu_session *s, const pu_sampling *o, pu_on_text on_text, void *arg, pu_error *e) PU_MUST_USE;

/* Seconds and tokens so far: what tokens/s is made from. */
typedef struct pu_engine_stats {
  double prefill_seconds, decode_seconds;
  int64_t prefill_tokens, decode_tokens;
  size_t weight_bytes, cache_bytes, work_bytes;
} pu_engine_stats;
pu_engine_stats pu_engine_get_stats(const pu_engine *en);

/* Chooses one id from logits [V] (changed in place). history: the session's ids, of which the last n_answer were
 * generated. Exposed for tests. */
int32_t pu_sample_token(float *logits, int64_t vocab, const pu_sampling *o, const int32_t *history, size_t n_history,
                  size_t n_answer, pu_rng *rng);

#endif
