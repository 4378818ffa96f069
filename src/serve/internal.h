/* Inside the server: what routes use, and the two threads share. */
#ifndef PUYU_SERVE_INTERNAL_H
#define PUYU_SERVE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "puyu/serve.h"
#include "src/serve/ask.h"
#include "src/serve/route.h"

/* ---- metrics.c: any thread ---- */

enum { PU_HISTOGRAM_BUCKETS = 14, PU_STATUS_CLASSES = 6 };

typedef struct pu_histogram {
  uint64_t counts[PU_HISTOGRAM_BUCKETS + 1]; /* the last: above all bounds */
  double sum;
} pu_histogram;

typedef struct pu_metrics {
  pthread_mutex_t lock;
  pu_histogram first_token, per_token, whole;
  uint64_t responses[PU_STATUS_CLASSES]; /* by the first digit of their status */
  uint64_t cancelled, prompt_tokens, answer_tokens;
  int running, waiting; /* requests */
  pu_engine_stats engine;
} pu_metrics;

void pu_metrics_status(pu_metrics *m, int status);
void pu_metrics_observe(pu_metrics *m, pu_histogram *h, double seconds);
bool pu_metrics_write(pu_metrics *m, pu_buf *out); /* Prometheus's text format */

/* ---- jobs: a request that generates ---- */

typedef struct pu_job pu_job;

/* A token with its log-probabilities, as the engine told it (pu_token_info). */
enum { PU_NOTE_TOP = 20 };
typedef struct pu_note {
  int32_t id, n_top;
  float logprob; /* NAN: nothing tells of it */
  int32_t top_ids[PU_NOTE_TOP];
  float top[PU_NOTE_TOP];
} pu_note;

/* Where in the choice's text a token stands, as the API tells it: in characters. */
typedef struct pu_text_place {
  pu_decoder decoder;
  size_t characters;
  size_t shown; /* of the tokens to come, those whose special ones are in the text: a prompt given as ids */
} pu_text_place;

typedef struct pu_choice {
  pu_job *job;
  int index;
  size_t prompt;    /* which */
  size_t told_from; /* with echo: tokens of the prompt before that one are given without log-probabilities */
  /* The engine's thread: */
  pu_session *s;
  double last_at;             /* when its last token came */
  size_t noted, noted_prompt; /* tokens whose log-probabilities were taken over */
  /* Under the job's lock: */
  pu_buf text;    /* not yet taken by the loop's thread */
  pu_buf notes;   /* pu_note, likewise; none where they were not asked for */
  int64_t tokens; /* of the answer */
  pu_finish finish;
  bool done;
  /* The loop's thread: */
  bool opened, closed, called; /* what a stream has said of it; called: a tool call */
  pu_text_place place;         /* of the next token that is told with log-probabilities */
  pu_chat_reader *reader;      /* of a stream that may hold tool calls; made for its first text */
  pu_buf *events;              /* where it writes, while it is fed */
} pu_choice;

/* How a kind of answer is written: a route's own. Each appends the members that say it, `"text":…` for instance. */
typedef struct pu_answer_style {
  const char *id_prefix, *object, *chunk_object;
  void (*opening)(pu_buf *b); /* the first piece of a stream; or NULL */
  void (*piece)(pu_buf *b, pu_str text);
  void (*whole)(pu_buf *b, pu_str text);
  /* Tool calls: a piece of one in a stream, and a whole message of the API that has some. */
  void (*call)(pu_buf *b, const pu_chat_piece *p, const char *id);
  void (*message)(pu_buf *b, const json_t *message);
  /* The value of "logprobs". at: of the first note; moved on. */
  void (*logprobs)(pu_buf *b, const pu_tokenizer *t, const pu_note *notes, size_t n, pu_text_place *at);
} pu_answer_style;

/* logprobs.c: the first of a prompt's tokens, but not the very first, that reaches into the last `wanted` characters of
 * their text; the last one where none are wanted. */
size_t pu_first_of_last(const pu_tokenizer *t, const pu_ids *prompt, int64_t wanted);
size_t pu_characters(pu_str s); /* of UTF-8 */
/* The two ways of writing them. */
void pu_put_chat_logprobs(pu_buf *b, const pu_tokenizer *t, const pu_note *notes, size_t n, pu_text_place *at);
void pu_put_text_logprobs(pu_buf *b, const pu_tokenizer *t, const pu_note *notes, size_t n, pu_text_place *at);

struct pu_job {
  pu_server *sv;
  atomic_int refs;       /* the loop's, the engine's, and one for each posted visit */
  atomic_bool cancelled; /* by the loop's thread */
  pu_ask ask;
  const pu_answer_style *style;
  const char *adapter; /* of the server's; NULL: the base alone */
  char id[48];
  pu_grammar *grammar; /* or NULL */
  int64_t created, prompt_tokens;
  pu_ids *prompts;
  size_t n_prompts, n_choices;
  pu_choice *choices;
  double arrived_at, first_at; /* first_at 0: no token yet */
  pthread_mutex_t lock;
  bool posted; /* a visit of the loop's thread is under way */
  pu_err err;  /* of the whole job */
  pu_error why;
  int refusal; /* while it is prepared: the status and code to refuse it with, where an error has its own */
  const char *code;
  pu_http_request *http; /* the loop's; NULL: answered or gone */
  pu_job *next;          /* in a list of the engine's thread */
};

/* job.c. Takes the ask over (also when it fails), answers r now or later. */
void pu_job_submit(pu_server *sv, pu_http_request *r, pu_ask *ask, const pu_answer_style *style);
void pu_job_tell(pu_job *j); /* the engine's thread: there is news */
void pu_job_unref(pu_job *j);
/* The conversation, as templates want it. */
pu_chat pu_ask_chat_of(const pu_ask *a);
/* The ids of the ask's prompts, or of its messages as one prompt: *out is an array of ids, freed by free_prompts. */
pu_err pu_ask_encode(const pu_engine *en, const pu_ask *a, pu_ids **out, size_t *n, pu_error *e) PU_MUST_USE;
void pu_ask_free_prompts(pu_ids *ids, size_t n);

/* ---- worker.c: the engine's thread ---- */

typedef struct pu_job_list {
  pu_job *head, **tail;
} pu_job_list;

typedef struct pu_worker {
  pthread_t thread;
  bool started;
  pthread_mutex_t lock;
  pthread_cond_t wake;
  pu_job_list incoming; /* under the lock, as are the next three */
  bool stop, nudged, give_up;
  atomic_int queued;           /* jobs that were submitted and do not run yet */
  _Atomic int64_t ticked_ms;   /* when the thread was last seen, on pu_now's clock */
  pu_job_list waiting, active; /* the thread's own */
  int sessions;                /* open */
} pu_worker;

void pu_worker_init(pu_server *sv);
void pu_worker_deinit(pu_server *sv);
pu_err pu_worker_start(pu_server *sv, pu_error *e) PU_MUST_USE;
void pu_worker_stop(pu_server *sv);              /* ends what still runs */
bool pu_worker_submit(pu_server *sv, pu_job *j); /* false: the queue is full */
void pu_worker_nudge(pu_server *sv);             /* something was cancelled */
void pu_worker_give_up(pu_server *sv);           /* what still runs or waits fails now */
bool pu_worker_alive(pu_server *sv);             /* it ticked not long ago */

/* ---- server.c ---- */

struct pu_server {
  pu_server_options o; /* strings are in the arena */
  pu_arena *arena;
  pu_engine *en;
  pu_strs adapters; /* their names; in the arena */
  const pu_tokenizer *t;
  const pu_chat_template *chat;
  pu_grammar_vocab *pieces; /* for grammars; made when the first comes, by the loop's thread */
  int64_t context, vocab;
  size_t longest_piece; /* bytes of text that one token stands for at most */
  int64_t started;      /* seconds since 1970 */
  double give_up_at;    /* on pu_now's clock, when answers that did not end are told so; 0: not stopping */
  pu_http_server *http;
  pu_worker worker;
  pu_metrics metrics;
};

/* Replies that every route uses; the request is dead after them. code may be NULL. */
void pu_reply(pu_server *sv, pu_http_request *r, int status, const char *type, pu_str body);
void pu_reply_json(pu_server *sv, pu_http_request *r, int status, pu_buf *body); /* deinits body; failed: status 500 */
void pu_reply_error(pu_server *sv, pu_http_request *r, int status, const char *message, const char *param,
                    const char *code);
void pu_reply_text(pu_server *sv, pu_http_request *r, const char *type, pu_buf *body); /* status 200; deinits body */
/* For what a pu_err says of a request: 400, 413 where a bound was reached, 500 for what we did. */
void pu_reply_failure(pu_server *sv, pu_http_request *r, const pu_error *e, const char *param);
/* Appends {"error":{…}}. */
void pu_put_error(pu_buf *b, int status, const char *message, const char *param, const char *code);
/* The model, or an adapter, that requests call so. False: there is none. *adapter NULL: the model itself. */
bool pu_find_model(const pu_server *sv, const char *name, const char **adapter);
/* Appends the model (adapter NULL), or an adapter, as /v1/models says it. */
void pu_put_model(pu_buf *b, const pu_server *sv, const char *adapter);
/* Begins a stream, counted as the replies are. */
void pu_begin_events(pu_server *sv, pu_http_request *r);

#endif
