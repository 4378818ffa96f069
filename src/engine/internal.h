/* Inside the engine. */
#ifndef PUYU_ENGINE_INTERNAL_H
#define PUYU_ENGINE_INTERNAL_H

#include "puyu/engine.h"

enum { /* what options are when they are not given, and may be at most */
       PU_KV_BLOCK = 32,
       PU_MAX_KV_BLOCK = 1024,
       PU_DEFAULT_CONTEXT = 32768,
       PU_MAX_CONTEXT = 1 << 24,
       PU_MAX_BATCH = 16,
       PU_MOST_BATCH = 4096,
       PU_PREFILL_CHUNK = 512,
       PU_DEVICE_CHUNK = 2048, /* of a device with memory of its own: products with fewer rows do not fill it */
       PU_MAX_CHUNK = 1 << 20,
       PU_MOST_LOGPROBS = 20,
       PU_MOST_GUESS = 15,
       PU_MOST_ADAPTER_NAME = 128,
       PU_LEAST_PART = 8,             /* tokens of a block: to copy it for less costs as much as to compute them */
       PU_MOST_HOST_BLOCKS = 1 << 24, /* of the second tier */
};

/* ---- blocks.c, prefix.c: blocks of the cache, and the tree of what is in them ---- */

/* A block, who holds it, and its place in the tree. -1: none. */
typedef struct pu_block {
  int32_t holders;                      /* sessions */
  int32_t tokens;                       /* in the tree: ids it stands for; 0: it is not in the tree */
  int32_t parent, child, before, after; /* tree; siblings are a list */
  int32_t older, newer;                 /* list by age; of free blocks of the host, older is the next one */
  uint64_t salt;
} pu_block;

typedef struct pu_block_list {
  int32_t oldest, newest, n;
} pu_block_list;

/* Blocks from 0 to n - 1 are the cache's own, and those from n + 1 on its second tier in host memory: see blocks.c. */
typedef struct pu_cache {
  int32_t n, n_host, size; /* blocks, those of the host, tokens of each */
  pu_block *b;             /* [n + 1 + n_host], n is the tree's root */
  int32_t *ids;            /* [n + 1 + n_host, size]: of blocks in the tree */
  int32_t *free;           /* a stack */
  int32_t n_free;
  int32_t host_free, host_begun; /* a list; how many of the host's blocks were ever used */
  pu_block_list kept, host;      /* only the tree holds them: by when they were given back; came to the host */
  int64_t n_out, n_in;           /* blocks copied to the host, and back */
  pu_err (*copy)(void *arg, int32_t from, int32_t to, pu_error *e); /* what is in a block; with a second tier */
  void *copy_arg;
} pu_cache;

bool pu_cache_init(pu_cache *c, int32_t n, int32_t n_host, int32_t size); /* false: no memory */
void pu_cache_deinit(pu_cache *c);
int32_t pu_cache_available(const pu_cache *c); /* blocks that can be taken */
/* A block for one holder; the least recently used one of the tree where none is free, which goes on in the second tier.
 * PU_ERR_INTERNAL: all are held. After an error all is as it was. */
pu_err pu_cache_take(pu_cache *c, int32_t *out, pu_error *e) PU_MUST_USE;
void pu_cache_hold(pu_cache *c, int32_t b); /* one holder more */
void pu_cache_give(pu_cache *c, int32_t b); /* one less. A session gives its last block first: see blocks.c */
/* Brings the first n ids of the host's block h into a block taken for one holder. A full block: h's place in the tree
 * is that one's, and h free. Of others it is a copy outside the tree; h stays where it knows more. */
pu_err pu_cache_bring(pu_cache *c, int32_t h, int32_t n, int32_t *out, pu_error *e) PU_MUST_USE;
void pu_cache_forget(pu_cache *c, int32_t h); /* the host's block h, which is not in the tree any more */

/* Blocks that spell the beginning of ids[0, n): holds them, puts them into blocks[], returns how many ids they cover.
 * Of the last block it may be a part only. None of the host's. */
int64_t pu_prefix_match(pu_cache *c, uint64_t salt, const int32_t *ids, int64_t n, int32_t *blocks, int32_t *n_blocks);
/* The host's block that goes on with ids[0, n) after parent (-1: the root) further than any other, and for how many.
 * -1: there is none. */
int32_t pu_prefix_next_host(const pu_cache *c, uint64_t salt, int32_t parent, const int32_t *ids, int64_t n,
                            int64_t *common);
/* Puts block b, which stands for n ids, under parent (-1: the root). Returns b; or, where the tree has a block that
 * begins with these ids, that one, and leaves b as it was. Of the host's such a block is one only if it stands for more
 * ids: else b takes its place. */
int32_t pu_prefix_insert(pu_cache *c, uint64_t salt, int32_t parent, int32_t b, const int32_t *ids, int32_t n);
void pu_prefix_remove(pu_cache *c, int32_t b);              /* which has no children */
void pu_prefix_move(pu_cache *c, int32_t from, int32_t to); /* a place in the tree, to a block that has none */

/* ---- host.c: what is in blocks, here and in host memory ---- */

/* The second tier's memory: areas of whole pages, each with so many blocks. */
typedef struct pu_host_tier {
  pu_arena *arena;
  char *memory;
  size_t block, area; /* bytes */
  int32_t area_blocks;
  int32_t pinned;    /* areas: the first ones */
  bool pins_no_more; /* the system refused */
} pu_host_tier;

/* Bytes of one block there, with its part of the tables. */
size_t pu_host_block_bytes(size_t block, int32_t tokens);
/* After the cache; the plan says how many blocks. */
pu_err pu_host_open(pu_engine *en, pu_error *e) PU_MUST_USE;
void pu_host_close(pu_engine *en);
/* Copies what is in a block, of either tier, to another one: in order with the device's operations. */
pu_err pu_host_copy(pu_engine *en, int32_t from, int32_t to, pu_error *e) PU_MUST_USE;

/* ---- sampler.c, logprobs.c ---- */

/* Work space for choosing tokens. */
typedef struct pu_sampler {
  int64_t vocab;
  struct pu_candidate *candidates; /* [vocab] */
  float *copy;                     /* [vocab]: see pu_sampler_copy */
} pu_sampler;

bool pu_penalises(const pu_sampling *o);
/* The different ids among the first `upto` of a sequence that penalties are for, and what these come to; kept up to
 * date while it grows, so that a step does not read all of it. Without a repetition penalty those of the answer alone.
 */
typedef struct pu_seen {
  int32_t *place; /* [vocab]: in ids, from 1 on; 0: it is not there */
  int32_t *ids;   /* [n], as the others, with room for cap */
  int32_t *times; /* generated */
  float *minus;   /* of pu_penalised */
  size_t n, cap, upto;
} pu_seen;
/* False: no memory. answer_at: where what was generated begins. */
bool pu_seen_update(pu_seen *s, int64_t vocab, const pu_sampling *o, const int32_t *ids, size_t n, size_t answer_at);
/* Its ids and what is taken off their logits, as they would be after n_guess more; there is room for s->n + n_guess.
 * Returns how many there are. */
size_t pu_seen_write(const pu_seen *s, int64_t vocab, const pu_sampling *o, const int32_t *guess, int n_guess,
                     int32_t *ids, float *minus);
void pu_seen_deinit(pu_seen *s);

/* A session's ids; and ids that must not come now. */
typedef struct pu_history {
  const int32_t *ids;
  size_t n;
  const pu_seen *seen; /* of ids; NULL: the logits are penalised already */
  const int32_t *never;
  size_t n_never;
} pu_history;

bool pu_sampler_init(pu_sampler *s, int64_t vocab); /* false: no memory */
void pu_sampler_deinit(pu_sampler *s);
/* Logit bias comes first, so that log-probabilities can be taken after it. */
void pu_sampler_bias(float *logits, int64_t vocab, const pu_sampling *o);
/* Ids that may not come now, into ids: room for n_never and one for each bad word. Returns how many. */
size_t pu_sampler_forbidden(const pu_sampling *o, const pu_history *h, int32_t *ids);
/* A copy of logits, until the next. */
const float *pu_sampler_copy(pu_sampler *s, const float *logits);
/* The next id; logits [vocab] are changed in place. */
int32_t pu_sampler_next(pu_sampler *s, float *logits, const pu_sampling *o, const pu_history *h, pu_rng *rng);
/* The n ids with the largest logits, in order; at most vocab. */
size_t pu_sampler_top(pu_sampler *s, const float *logits, size_t n, int32_t *ids);
/* log of the sum of e^logit. */
double pu_log_sum_exp(const float *logits, int64_t vocab);

/* Log-probabilities kept of a row of tokens. */
typedef struct pu_kept {
  pu_token_info *v;
  int32_t *ids; /* [cap, top] */
  float *logprobs;
  size_t n, cap;
  int top; /* -1: none are kept */
} pu_kept;
void pu_kept_init(pu_kept *k, int top);
void pu_kept_deinit(pu_kept *k);
const pu_token_info *pu_kept_get(const pu_kept *k, size_t *n); /* NULL where none are kept */
/* One token more. logits NULL: nothing is known of it. */
pu_err pu_kept_add(pu_kept *k, pu_sampler *s, const float *logits, int32_t id, pu_error *e) PU_MUST_USE;

/* ---- short.c: rows of logits that stay on the device ---- */

/* What a device does with a row of logits before anyone looks at it. */
typedef enum pu_row_how {
  PU_ROW_WHOLE,  /* nothing, and its largest are not enough */
  PU_ROW_PLAIN,  /* nothing: its largest are those of the model */
  PU_ROW_BIASED, /* adds the logit bias */
  PU_ROW_CHANGED /* adds the bias, penalises, and takes out what may not come */
} pu_row_how;

/* A row of logits on the device, the largest of which may be here. */
typedef struct pu_logit_row {
  const pu_tensor *from;
  int64_t at;
  float *logits; /* [V] on the host; NULL: not fetched */
  pu_row_how how;
  int k;      /* 0: nothing is known of it */
  bool whole; /* the k are all that can come */
  const float *values;
  const int32_t *ids;
  double scaled_sum, sum; /* of e^(logit - largest), the first with the logits divided by the temperature */
} pu_logit_row;
/* What a device is to find in rows of logits, and to change in them before. */
typedef struct pu_short_plan {
  int k;           /* of each row, so many of the largest; 0: nothing */
  int64_t changes; /* room for so many; 0: none are made */
  pu_row_how *how; /* [n] */
  bool later;      /* of the next step, whose tokens are not known yet: what changes comes with pu_short_send */
} pu_short_plan;
enum {
  PU_MOST_CHANGES = 1 << 20, /* of a step; the rows beyond are fetched. A power of two */
  PU_KEPT_CHANGES = 1 << 18  /* of a step that a device may keep, to which it keeps room for what is sent */
};
/* What there is room for with so many rows. */
int64_t pu_short_most_changes(int64_t rows, int64_t vocab);
/* s: whose the rows are; of one session the first, and then those behind its guesses. */
pu_err pu_short_plan_rows(pu_engine *en, pu_session *const *s, int64_t n, bool later, pu_short_plan *out,
                          pu_error *e) PU_MUST_USE;
/* What is worth knowing of rows of logits [n, V] before they are fetched. */
typedef struct pu_short {
  int k; /* of each row; 0: nothing */
  const pu_tensor *logits, *values, *ids, *sums;
  const pu_tensor *sent; /* i32: what of the settings the device is told */
} pu_short;
/* Has the device change the rows and find the largest, and fetches what it found. */
pu_err pu_short_ask(pu_engine *en, pu_ctx *c, pu_tensor *logits, const pu_short_plan *plan, pu_session *const *s,
                    int64_t n, pu_short *out, pu_error *e) PU_MUST_USE;
/* Sends what these sessions' settings are. */
pu_err pu_short_send(pu_engine *en, const pu_tensor *sent, const pu_short_plan *plan, pu_session *const *s, int64_t n,
                     pu_error *e) PU_MUST_USE;
pu_err pu_short_fetch(pu_engine *en, const pu_short *found, const pu_short_plan *plan, int64_t n, pu_logit_row *rows,
                      pu_error *e) PU_MUST_USE;
pu_err pu_row_fetch(pu_engine *en, pu_logit_row *row, pu_error *e) PU_MUST_USE;
/* The session's next id from what is here. False: that takes the row. */
bool pu_row_choose(const pu_logit_row *row, pu_session *s, const pu_history *h, int32_t *id);
/* The part of it that knows of drawing (sampler.c): where neither a grammar nor typical sampling, nor a bias or penalty
 * that the device does not know of, change the logits, and top-k is no more than there are. */
bool pu_sampler_short(pu_sampler *s, const pu_logit_row *row, const pu_sampling *o, const pu_history *h, pu_rng *rng,
                      int32_t *id);
pu_err pu_kept_add_short(pu_kept *k, const pu_logit_row *row, int32_t id, pu_error *e) PU_MUST_USE;

/* ---- adapters.c ---- */

/* An adapter beside the weights, in the engine's list. */
typedef struct pu_beside {
  struct pu_beside *next;
  char *name;
  pu_adapter *a;
  uint64_t serial; /* no other one of this engine had it: what prefixes are told apart by */
  int32_t shares;  /* of a step: see adapters.c */
} pu_beside;

/* Bytes that the options' adapters take. */
pu_err pu_adapters_measure(const pu_arch *arch, const pu_hparams *hp, pu_dtype dtype, const pu_engine_options *o,
                           size_t *out, pu_error *e) PU_MUST_USE;
pu_err pu_adapters_load(pu_engine *en, const pu_engine_options *o, pu_error *e) PU_MUST_USE;
void pu_adapters_free(pu_engine *en);
/* Brings the n shares of a step into an order in which each adapter's are together, and those of one adapter stay in
 * theirs. */
pu_err pu_adapters_group(pu_engine *en, int32_t n, pu_error *e) PU_MUST_USE;
/* The rows of each adapter in that order; cu: where the shares' rows begin. rows: room for n. How many there are. */
int pu_adapters_rows(const pu_engine *en, int32_t n, const int32_t *cu, pu_adapter_rows *rows);

/* ---- engine ---- */

/* One session's share of a step. */
typedef struct pu_share {
  pu_session *s;
  int32_t tokens;
  int32_t rope_len; /* the length that decides the angles */
  bool makes;       /* its next token comes out of this step */
  int guesses;      /* of its tokens: the last ones, see guess.c */
} pu_share;

struct pu_engine {
  pu_model *m;
  pu_backend *be;
  bool owns_model;
  pu_tokenizer *own_tokenizer;
  const pu_tokenizer *t;
  const pu_chat_template *chat;
  int64_t chunk;
  int max_batch;
  bool shares_prefixes; /* it has a prefix cache */
  int guess;            /* tokens of an answer guessed ahead at most */
  pu_engine *draft;     /* who guesses; NULL: what stood there before */
  bool memory_bound;    /* the context is less than it was to be */
  pu_engine_plan plan;
  size_t spare; /* bytes of the budget that the plan has left */
  pu_beside *adapters;
  uint64_t last_serial;
  pu_sampler sampler;
  pu_grammar_vocab *vocab; /* of grammars; NULL: not yet asked for */

  pu_arena *mem, *host; /* of one step */
  void *work_memory;    /* under mem */
  void *kv_memory;      /* of all layers */
  pu_arena *kv_headers;
  pu_kv *kv; /* [layers]; table and len are set anew in each step */
  pu_cache cache;
  pu_host_tier host_tier;
  pu_share *shares;       /* [max_batch] of one step */
  struct pu_ahead *ahead; /* the next one: see step.c; NULL: the device keeps nothing */

  pu_session *first;            /* all sessions */
  pu_session *q_first, *q_last; /* those with work, in the order they came: see schedule.c */
  int n_running;
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
  pu_session *next, *before; /* of all */
  pu_session *q_next, *q_before;
  pu_session_state state;
  int64_t last_step; /* that it took part in */

  pu_ids ids;      /* prompt and answers */
  int64_t cached;  /* of them, keys and values are in the cache; not the last one's while an answer is made: its logits
                      give the next */
  int64_t plain;   /* of those, so many with angles that any other session would give them: see schedule.c */
  int32_t *blocks; /* [blocks of a context] */
  int32_t n_blocks;
  int32_t n_known;    /* full blocks that are in the tree: the first ones */
  pu_beside *adapter; /* NULL: the weights alone */
  uint64_t salt;      /* of its prefixes: made of own_salt and the adapter */
  uint64_t own_salt;
  pu_kept prompt; /* of its tokens from score_from on */
  int64_t score_from;
  int32_t guess[PU_MOST_GUESS]; /* what may follow the last of ids */
  int n_guess;
  pu_session *draft;    /* in en->draft */
  int64_t draft_agrees; /* the first so many of its ids are this one's */

  bool started;
  pu_finish finish;
  size_t answer_at; /* where the answer begins in ids */
  pu_sampling how;  /* what it points to lies in `options` */
  void *options;
  int32_t *endings; /* ids that end the answer; in `options` */
  size_t n_endings;
  pu_rng rng;
  pu_seen seen; /* where the answer has penalties */
  pu_stream stream;
  pu_kept kept;
  struct pu_constraint *constraint; /* NULL: none */
  pu_on_text on_text;
  void *on_text_arg;
};

static inline int32_t pu_blocks_for(const pu_engine *en, int64_t tokens) {
  return (int32_t)((tokens + en->plan.kv_block - 1) / en->plan.kv_block);
}

/* ---- plan.c ---- */

/* Checks the options that are numbers, and fills in those that are 0. */
pu_err pu_plan_options(const pu_backend *be, const pu_hparams *hp, pu_engine_options *o, pu_error *e) PU_MUST_USE;
/* From options so filled in. m: only its description and backend count. weights: bytes, of the budget where `counted`;
 * the adapters always are. */
pu_err pu_plan_make(const pu_model *m, const pu_engine_options *o, size_t weights, bool counted, pu_engine_plan *out,
                    pu_error *e) PU_MUST_USE;
/* For a model that is not loaded yet, on this backend. */
pu_err pu_plan_before(const char *model, pu_backend *be, const pu_engine_options *o, pu_engine_plan *out,
                      pu_error *e) PU_MUST_USE;
void pu_plan_say(const pu_backend *be, const pu_engine_plan *p);          /* on the log */
size_t pu_plan_step_bytes(const pu_model *m, const pu_engine_options *o); /* the device's memory for one step */

/* ---- stream.c: text as it becomes certain ---- */

/* continues: text stands before the answer's first token, so a space at its beginning belongs to the answer. */
void pu_stream_init(pu_stream *s, const pu_tokenizer *t, bool continues);
void pu_stream_deinit(pu_stream *s);
/* Adds a token's text; looks for stop strings in what is new. */
pu_err pu_stream_push(pu_stream *s, int32_t id, const pu_sampling *how, pu_error *e) PU_MUST_USE;
pu_err pu_stream_finish(pu_stream *s, const pu_sampling *how, pu_error *e) PU_MUST_USE;
/* Gives on_text what is certain (all: everything). False: it asked to stop. */
bool pu_stream_tell(pu_stream *s, const pu_sampling *how, bool all, pu_on_text on_text, void *arg);

/* ---- answer.c ---- */

/* Brings s->seen up to date, where the answer has penalties. */
pu_err pu_session_keep_seen(pu_session *s, pu_error *e) PU_MUST_USE;
/* Chooses the next token from its logits (changed): ends the answer, or appends it. */
pu_err pu_answer_next(pu_session *s, pu_logit_row *row, pu_error *e) PU_MUST_USE;
void pu_answer_forget(pu_session *s); /* options, text, log-probabilities */

/* ---- constrain.c: grammars ---- */

/* Frees it, and begins the one that s->how asks for. */
void pu_constrain_end(pu_session *s);
pu_err pu_constrain_begin(pu_session *s, pu_error *e) PU_MUST_USE;
/* Finds the tokens that may come next: work for the time that a device computes. */
void pu_constrain_prepare(pu_session *s);
/* Makes the logits of all others -INFINITY. False: nothing is left, not even an ending. */
bool pu_constrain_logits(pu_session *s, float *logits);
/* Takes a token into account. False: it does not fit. *whole: nothing can follow. */
bool pu_constrain_take(pu_session *s, int32_t id, bool *whole);

/* ---- session.c ---- */

/* Puts the blocks that are full into the tree; `tail`: also what there is of the next. */
void pu_session_remember(pu_session *s, bool tail);
/* Forgets that more than the first n tokens are in the cache; blocks stay. */
void pu_session_uncache(pu_session *s, int64_t n);
/* Gives all blocks back; the tree may keep them. */
void pu_session_drop(pu_session *s);

/* ---- guess.c ---- */

/* Guesses for those that answer, before their shares are chosen. */
pu_err pu_guess(pu_engine *en, pu_error *e) PU_MUST_USE;

/* ---- step.c ---- */

/* What the next step is made ready in; host_bytes: as much as a step's arrays take. */
pu_err pu_ahead_open(pu_engine *en, size_t host_bytes, pu_error *e) PU_MUST_USE;
void pu_ahead_close(pu_engine *en);

/* ---- schedule.c ---- */

/* Are the angles of a sequence of this length others than a shorter one's? */
bool pu_schedule_scaled(const pu_engine *en, int64_t len);
/* Tokens that could be processed now. */
int64_t pu_session_pending(const pu_session *s);
/* The first so many tokens may come from the prefix cache: not the last, and none that is to be scored. */
int64_t pu_session_shareable(const pu_session *s);
/* After anything that gives a session work or takes it away: in or out of the queue. */
void pu_schedule_update(pu_session *s);
/* Room in the cache for the token after the next, if it can be had without disturbing one that runs. */
pu_err pu_schedule_ahead(pu_session *s, bool *there, pu_error *e) PU_MUST_USE;
/* Fills en->shares[0, n) with who takes part, with room in the cache for what they add. */
pu_err pu_schedule(pu_engine *en, int32_t *n, pu_error *e) PU_MUST_USE;

#endif
