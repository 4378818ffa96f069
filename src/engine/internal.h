/* Inside the engine. */
#ifndef PUYU_ENGINE_INTERNAL_H
#define PUYU_ENGINE_INTERNAL_H

#include "puyu/engine.h"

enum { /* what options are when they are not given, and may be at most */
       PU_KV_BLOCK = 32,
       PU_MAX_KV_BLOCK = 1024,
       PU_DEFAULT_CONTEXT = 32768,
       PU_MAX_CONTEXT = 1 << 24,
       PU_MAX_SESSIONS = 4096,
       PU_PREFILL_CHUNK = 512,
       PU_MAX_CHUNK = 1 << 20,
};

/* Work space for choosing tokens (see sampler.c). */
typedef struct pu_sampler {
  int64_t vocab;
  struct pu_candidate *candidates; /* [vocab] */
  uint8_t *seen;                   /* [vocab], all 0 between calls */
} pu_sampler;

struct pu_engine {
  pu_model *m;
  pu_backend *be;
  bool owns_model;
  pu_tokenizer *own_tokenizer;
  const pu_tokenizer *t;
  const pu_chat_template *chat;
  int64_t context, chunk;
  int32_t kv_block; /* tokens a cache block holds */
  int max_batch;
  pu_sampler sampler;

  pu_arena *mem, *host; /* of one step */
  void *work_memory;    /* under mem */
  void *kv_memory;      /* of all layers */
  pu_arena *kv_headers;
  pu_kv *kv;            /* [layers]; table and len are set anew in each step */
  int32_t *free_blocks; /* a stack */
  int32_t n_free;

  pu_session *first; /* all sessions, oldest first */
  int n_sessions;
  pu_engine_stats stats;
};

/* What an answer has put out so far, and what of it is certain (see stream.c). */
typedef struct pu_stream {
  pu_decoder decoder;
  pu_buf text;
  size_t told;  /* bytes given to on_text */
  bool stopped; /* a stop string came; text ends before it */
} pu_stream;

struct pu_session {
  pu_engine *en;
  pu_session *next;
  pu_ids ids; /* prompt and answers */
  int64_t
      cached; /* of them, keys and values are in the cache; always less than ids.n, so that a next token can be made */
  int32_t *blocks;
  int32_t n_blocks;

  bool started;
  pu_finish finish;
  size_t answer_at; /* where the answer begins in ids */
  pu_sampling how;
  int32_t *stop_ids; /* owned copies of what the caller gave */
  char **stop;
  pu_rng rng;
  pu_stream stream;
  pu_on_text on_text;
  void *on_text_arg;
};

/* ---- sampler.c ---- */

/* A session's ids, of which the last n_answer were generated. */
typedef struct pu_history {
  const int32_t *ids;
  size_t n, n_answer;
} pu_history;

bool pu_sampler_init(pu_sampler *s, int64_t vocab); /* false: no memory */
void pu_sampler_deinit(pu_sampler *s);
/* The next id; logits [vocab] are changed in place. */
int32_t pu_sampler_next(pu_sampler *s, float *logits, const pu_sampling *o, const pu_history *h, pu_rng *rng);

/* ---- stream.c: text as it becomes certain ---- */

/* continues: text stands before the answer's first token, so a space at its beginning belongs to the answer. */
void pu_stream_init(pu_stream *s, const pu_tokenizer *t, bool continues);
void pu_stream_deinit(pu_stream *s);
/* Adds a token's text; looks for stop strings in what is new. */
pu_err pu_stream_push(pu_stream *s, int32_t id, const pu_sampling *how, pu_error *e) PU_MUST_USE;
pu_err pu_stream_finish(pu_stream *s, const pu_sampling *how, pu_error *e) PU_MUST_USE;
/* Gives on_text what is certain (all: everything). False: it asked to stop. */
bool pu_stream_tell(pu_stream *s, const pu_sampling *how, bool all, pu_on_text on_text, void *arg);

/* ---- session.c ---- */

/* Takes the next token of an answer: ends it, or appends it. */
pu_err pu_session_take(pu_session *s, int32_t id, pu_error *e) PU_MUST_USE;
/* Cache blocks for the first n tokens. */
pu_err pu_session_reserve(pu_session *s, int64_t n, pu_error *e) PU_MUST_USE;

#endif
