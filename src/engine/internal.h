/* Inside the engine. */
#ifndef PUYU_ENGINE_INTERNAL_H
#define PUYU_ENGINE_INTERNAL_H

#include "puyu/engine.h"

enum {
  PU_KV_BLOCK = 32, /* tokens a cache block holds */
  PU_MAX_CONTEXT = 32768,
  PU_MAX_SESSIONS = 4096,
  PU_PREFILL_CHUNK = 512,
};

struct pu_engine {
  pu_model *m;
  pu_backend *be;
  bool owns_model;
  pu_tokenizer *own_tokenizer;
  const pu_tokenizer *t;
  const pu_chat_template *chat;
  int64_t context, chunk;
  int max_sessions;

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

/* ---- stream.c: text as it becomes certain
 * ---------------------------------------------------------------------------- */

void pu_stream_init(pu_stream *s, const pu_tokenizer *t);
void pu_stream_deinit(pu_stream *s);
/* Adds a token's text; looks for stop strings in what is new. */
pu_err pu_stream_push(pu_stream *s, int32_t id, const pu_sampling *how, pu_error *e) PU_MUST_USE;
pu_err pu_stream_finish(pu_stream *s, const pu_sampling *how, pu_error *e) PU_MUST_USE;
/* Gives on_text what is certain (all: everything). False: it asked to stop. */
bool pu_stream_tell(pu_stream *s, const pu_sampling *how, bool all, pu_on_text on_text, void *arg);

/* ---- session.c
 * --------------------------------------------------------------------------------------------------------- */

/* Takes the next token of an answer: ends it, or appends it. */
pu_err pu_session_take(pu_session *s, int32_t id, pu_error *e) PU_MUST_USE;
/* Cache blocks for the first n tokens. */
pu_err pu_session_reserve(pu_session *s, int64_t n, pu_error *e) PU_MUST_USE;

#endif
