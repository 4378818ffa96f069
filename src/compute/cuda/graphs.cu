/* Graphs of operations: see graphs.h. */
#include <stdlib.h>
#include <string.h>

extern "C" {
#include "src/compute/calls.h"
}
#include "src/compute/cuda/graphs.h"
#include "src/compute/cuda/paged.h"
#include "src/compute/cuda/use.h"

namespace {

enum {
  MOST_GRAPHS = 64,
  MOST_LETTERS = 32,
  MOST_TRIES = 4,
  PLAIN_TIMES = 4,
  FORGIVEN = 64, /* launches in a row after which what went wrong before counts no longer */
  DELIVERY_THREADS = 256,
  DELIVERY_BLOCKS = 32
};
constexpr size_t INBOX_BYTES = 4 << 20;

/* Something the host hands over: at the same place of the inbox each time. */
typedef struct letter {
  size_t at, bytes;
  void *to;
  bool anywhere; /* to is a place of ours, at the same distance from its begin */
} letter;

typedef struct kept {
  uint64_t key, used, generation;
  uint64_t calls; /* hash of all of them */
  int seen;       /* times it ran as ever, in this generation */
  int tries;      /* that it could not be captured, or did not fit the calls */
  int in_a_row;   /* launches since then */
  cudaGraphExec_t graph;
  letter letters[MOST_LETTERS];
  int n;
} kept;

/* GOING_ON: the calls were made ready before. */
typedef enum stage { IDLE, PLAIN, CAPTURING, COMPARING, GOING_ON, BROKEN } stage;

/* What attention over the cache was called with last: with the same, its plan is the same. */
typedef struct last_plan {
  const void *seqs, *table, *len;
} last_plan;

/* Memory that was given out, and how many steps had been recorded by then. */
typedef struct given {
  const void *memory;
  uint64_t clock;
} given;
enum { MOST_GIVEN = 64 };

} // namespace

struct pu_cuda_graphs {
  stage now;
  kept all[MOST_GRAPHS], *k; /* k: between record and play */
  uint64_t clock, calls;
  int n; /* letters so far */
  size_t used;
  bool says;        /* on the log, what becomes of graphs */
  bool inside;      /* an operation, which may call others */
  bool not_settled; /* see pu_cuda_not_settled */
  last_plan plan;
  char *inbox, *places;        /* pinned; on the device: of letters for any place */
  char *outbox;                /* letters until the inbox is free for them */
  uint64_t launched;           /* waits, when a graph was launched that reads the inbox */
  bool ahead;                  /* play makes ready */
  uint64_t ready, last_ready;  /* the number of what is; 0: nothing */
  given given_out[MOST_GIVEN]; /* the last ones, in turn */
  unsigned n_given;
  pu_op_fn own[PU_OP_COUNT];
};

namespace {

typedef struct pu_cuda_graphs graphs;

/* ---- what is kept ---- */

void forget(kept *k) {
  if (k->graph) cudaGraphExecDestroy(k->graph);
  k->graph = NULL;
  k->seen = 0;
}

kept *find(graphs *g, uint64_t key) {
  kept *oldest = &g->all[0];
  for (int i = 0; i < MOST_GRAPHS; i++) {
    if (g->all[i].used && g->all[i].key == key) return &g->all[i];
    if (g->all[i].used < oldest->used) oldest = &g->all[i];
  }
  forget(oldest);
  *oldest = {};
  oldest->key = key;
  return oldest;
}

/* Nothing of this bracket has run, nor will it. */
void break_off(pu_cuda *d, const char *why) {
  graphs *g = d->graphs;
  if (g->says) pu_log(PU_LOG_INFO, "cuda: step %016llx is asked for again: %s", (unsigned long long)g->k->key, why);
  cudaGraph_t graph = NULL;
  if (g->now == CAPTURING && cudaStreamEndCapture(d->stream, &graph) == cudaSuccess) cudaGraphDestroy(graph);
  cudaGetLastError(); /* what went wrong is found again, if it does again */
  g->now = BROKEN;
  forget(g->k);
  g->k->tries++;
  g->k->in_a_row = 0;
}

/* ---- letters ---- */

__global__ void __launch_bounds__(DELIVERY_THREADS) deliver(const char *from, void *place, size_t bytes) {
  char *to = (char *)place;
  const size_t step = (size_t)gridDim.x * DELIVERY_THREADS, first = blockIdx.x * (size_t)DELIVERY_THREADS + threadIdx.x;
  const size_t pieces = (uintptr_t)to % 16 == 0 ? bytes / 16 : 0;
  uint4 piece = {};
  let_next_start();
  if (first < pieces) piece = __ldcv((const uint4 *)from + first); /* the host wrote it before the graph was launched */
  wait_for_before();
  for (size_t i = first; i < pieces; i += step) {
    ((uint4 *)to)[i] = piece;
    if (i + step < pieces) piece = __ldcv((const uint4 *)from + i + step);
  }
  for (size_t i = pieces * 16 + first; i < bytes; i += step) to[i] = __ldcv(from + i);
}

bool send(pu_cuda *d, const letter *l) {
  const int64_t blocks = PU_MIN(ceil_div((int64_t)l->bytes, 16 * DELIVERY_THREADS), (int64_t)DELIVERY_BLOCKS);
  if (l->bytes == 0) return true;
  pu_cuda_start(d, true, deliver, (unsigned)blocks, DELIVERY_THREADS, 0, d->graphs->inbox + l->at, l->to, l->bytes);
  return cudaGetLastError() == cudaSuccess;
}

/* The same contents for any place, handed over before in this bracket. */
letter *find_letter(graphs *g, const void *host, size_t bytes) {
  for (int i = 0; i < g->n; i++) {
    letter *l = &g->k->letters[i];
    if (l->anywhere && l->bytes == bytes && memcmp(g->outbox + l->at, host, bytes) == 0) return l;
  }
  return NULL;
}

/* What was made ready hands over something else to this place. */
letter *replaced_letter(graphs *g, const void *to, size_t bytes) {
  for (int i = 0; i < g->n; i++) {
    letter *l = &g->k->letters[i];
    if (!l->anywhere && l->to == to && l->bytes == bytes) return l;
  }
  return NULL;
}

/* The next letter, new or as it was captured; NULL: that cannot be. */
letter *next_letter(graphs *g, void *to, size_t bytes) {
  letter *l = &g->k->letters[g->n];
  if (g->now == COMPARING) {
    if (g->n == g->k->n || l->bytes != bytes || l->anywhere != !to || (to && l->to != to)) return NULL;
  } else {
    if (g->n == MOST_LETTERS || bytes > INBOX_BYTES - g->used) return NULL;
    *l = {g->used, bytes, to ? to : g->places + g->used, !to};
    g->used += (bytes + 255) / 256 * 256;
  }
  g->n++;
  return l;
}

/* ---- operations ---- */

/* Layer after layer attends with the same plan, which is made of what the host hands over. */
pu_err plan_again(pu_cuda *d, const pu_attention_paged_args *a, pu_error *e) {
  graphs *g = d->graphs;
  const last_plan now = {a->seqs, a->kv->table, a->kv->len};
  if (memcmp(&now, &g->plan, sizeof now) == 0) return PU_OK;
  g->plan = now;
  return pu_cuda_paged_plan(d, a, e);
}

pu_err call(pu_backend *be, pu_op op, void *args, pu_error *e) {
  pu_cuda *d = (pu_cuda *)be;
  graphs *g = d->graphs;
  pu_err err = PU_OK;
  if (g->inside) return g->own[op](be, args, e);
  if ((!pu_call_playable(op) || g->now == GOING_ON) && g->now != BROKEN)
    break_off(d, "an operation is none of a forward pass");
  if (g->now == BROKEN) return PU_OK;
  g->calls = pu_call_hash(g->calls, op, args);
  if (g->now == CAPTURING) {
    g->inside = true;
    err = g->own[op](be, args, e);
    g->inside = false;
  } else if (op == PU_OP_attention_paged) {
    err = plan_again(d, (const pu_attention_paged_args *)args, e);
  }
  if (err && g->now != BROKEN) break_off(d, e->msg);
  return PU_OK;
}

/* An operation is not told its number. */
#define PU_OP(name, has_backward)                                                                                      \
  pu_err call_##name(pu_backend *be, void *args, pu_error *e) {                                                        \
    return call(be, PU_OP_##name, args, e);                                                                            \
  }
#include "puyu/ops.def"
#undef PU_OP

const pu_op_fn calls[PU_OP_COUNT] = {
#define PU_OP(name, has_backward) call_##name,
#include "puyu/ops.def"
#undef PU_OP
};

void put_calls(pu_cuda *d) {
  memcpy(d->graphs->own, d->base.forward, sizeof d->base.forward);
  for (int op = 0; op < PU_OP_COUNT; op++)
    if (d->base.forward[op]) d->base.forward[op] = calls[op];
}

/* ---- record, play ---- */

pu_err open_inbox(pu_cuda *d, pu_error *e) {
  graphs *g = d->graphs;
  if (!g->inbox) PU_CUDA_TRY(cudaMallocHost(&g->inbox, INBOX_BYTES), "pinned memory", e);
  if (!g->places) PU_CUDA_TRY(cudaMalloc(&g->places, INBOX_BYTES), "a step's small arrays", e);
  if (!g->outbox) g->outbox = (char *)malloc(INBOX_BYTES);
  return g->outbox ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "cuda: no memory for a step's small arrays");
}

pu_err begin(pu_cuda *d, stage next, pu_error *e) {
  graphs *g = d->graphs;
  PU_TRY(open_inbox(d, e));
  g->calls = g->n = 0;
  g->used = 0;
  g->plan = {};
  g->not_settled = false;
  if (next == CAPTURING)
    PU_CUDA_TRY(cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal), "capturing a graph", e);
  g->now = next;
  put_calls(d);
  return PU_OK;
}

/* What was made ready, if it is that and can be launched. */
void go_on(pu_cuda *d, uint64_t *ready) {
  graphs *g = d->graphs;
  if (*ready != g->ready || !g->k->graph || g->k->generation != d->generation) *ready = 0;
  g->ready = 0;
  if (*ready == 0) return;
  g->now = GOING_ON;
  put_calls(d);
}

pu_err record(pu_backend *be, uint64_t key, uint64_t *ready, pu_error *e) {
  pu_cuda *d = (pu_cuda *)be;
  graphs *g = d->graphs;
  if (g->now != IDLE) return pu_fail(e, PU_ERR_INTERNAL, "cuda: record before play");
  g->ahead = false;
  if (ready && *ready) {
    go_on(d, ready);
    return PU_OK;
  }
  kept *k = g->k = find(g, key);
  g->ready = 0;
  k->used = ++g->clock;
  if (k->generation != d->generation) forget(k);
  if (ready) {
    if (!k->graph) return PU_OK;
    g->ahead = true;
    *ready = ++g->last_ready;
  }
  if (k->seen >= PLAIN_TIMES && k->tries < MOST_TRIES) return begin(d, k->graph ? COMPARING : CAPTURING, e);
  g->now = PLAIN;
  return PU_OK;
}

/* What was captured becomes a graph; false: it cannot. */
bool finish(pu_cuda *d, kept *k) {
  cudaGraph_t graph = NULL;
  d->graphs->now = IDLE; /* the capture ends, whatever comes of it */
  cudaError_t err = cudaStreamEndCapture(d->stream, &graph);
  if (err == cudaSuccess) err = cudaGraphInstantiate(&k->graph, graph, 0);
  if (graph) cudaGraphDestroy(graph);
  if (err != cudaSuccess) k->graph = NULL;
  if (d->graphs->says)
    pu_log(PU_LOG_INFO, "cuda: step %016llx, a graph: %s", (unsigned long long)k->key, cudaGetErrorString(err));
  k->calls = d->graphs->calls;
  k->n = d->graphs->n;
  return err == cudaSuccess;
}

/* The bracket's calls can be launched as the graph. */
bool is_whole(pu_cuda *d) {
  graphs *g = d->graphs;
  kept *k = g->k;
  return g->now == GOING_ON || (g->now == CAPTURING && !g->not_settled && finish(d, k)) ||
         (g->now == COMPARING && g->calls == k->calls && g->n == k->n);
}

pu_err launch(pu_cuda *d, pu_error *e) {
  graphs *g = d->graphs;
  if (g->launched == d->waits) PU_TRY(pu_cuda_wait(d, "the last step", e)); /* it may not have read the inbox yet */
  for (int i = 0; i < g->n; i++) {
    const letter *l = &g->k->letters[i];
    memcpy(g->inbox + l->at, g->outbox + l->at, l->bytes);
  }
  g->launched = d->waits;
  if (++g->k->in_a_row == FORGIVEN) g->k->tries = 0;
  PU_CUDA_TRY(cudaGraphLaunch(g->k->graph, d->stream), "a graph", e);
  return PU_OK;
}

pu_err play(pu_backend *be, bool *again, pu_error *e) {
  pu_cuda *d = (pu_cuda *)be;
  graphs *g = d->graphs;
  const stage was = g->now;
  kept *k = g->k;
  *again = false;
  if (was == IDLE) return pu_fail(e, PU_ERR_INTERNAL, "cuda: play without record");
  if (was != PLAIN) memcpy(d->base.forward, g->own, sizeof g->own);
  if (was == PLAIN) {
    k->seen++;
    k->generation = d->generation;
  } else if (was == BROKEN || !is_whole(d)) {
    if (was != BROKEN) break_off(d, g->not_settled ? "an algorithm is not chosen yet" : "other calls than before");
    *again = true;
  }
  g->now = IDLE;
  if (was == PLAIN || *again) return PU_OK;
  if (!g->ahead) return launch(d, e);
  g->ready = g->last_ready;
  return PU_OK;
}

} // namespace

bool pu_cuda_is_recording(const pu_cuda *d) {
  return d->graphs && d->graphs->now >= CAPTURING;
}

bool pu_cuda_is_capturing(const pu_cuda *d) {
  return d->graphs && d->graphs->now == CAPTURING;
}

bool pu_cuda_hand_over(pu_cuda *d, void **to, const void *host, size_t bytes) {
  graphs *g = d->graphs;
  if (g->now == BROKEN) return false;
  letter *l = *to ? NULL : find_letter(g, host, bytes);
  if (l) { /* delivered for an operation before, which waited for it before it let others start: see paged_few.cu */
    d->was_there = true;
    *to = l->to;
    return true;
  }
  l = g->now == GOING_ON ? replaced_letter(g, *to, bytes) : next_letter(g, *to, bytes);
  if (l) memcpy(g->outbox + l->at, host, bytes);
  if (!l || (g->now == CAPTURING && !send(d, l))) {
    break_off(d, "the host hands over other sizes than before, or too much");
    return false;
  }
  *to = l->to;
  return true;
}

bool pu_cuda_note(pu_cuda *d, const void *place, size_t bytes) {
  d->graphs->calls = pu_call_hash_bytes(d->graphs->calls, place, bytes);
  if (d->graphs->now == GOING_ON) break_off(d, "a copy where only uploads may come");
  return d->graphs->now == CAPTURING;
}

void pu_cuda_not_settled(pu_cuda *d) {
  if (d->graphs) d->graphs->not_settled = true;
}

pu_err pu_cuda_may_wait(const pu_cuda *d, pu_error *e) {
  return d->graphs && d->graphs->now != IDLE ? pu_fail(e, PU_ERR_INTERNAL, "cuda: a wait between record and play")
                                             : PU_OK;
}

void pu_cuda_given_out(pu_cuda *d, const void *memory) {
  graphs *g = d->graphs;
  if (g) g->given_out[g->n_given++ % MOST_GIVEN] = {memory, g->clock};
}

void pu_cuda_given_back(pu_cuda *d, const void *memory) {
  graphs *g = d->graphs;
  bool unknown = true;
  for (int i = 0; g && i < MOST_GIVEN; i++) {
    if (g->given_out[i].memory != memory) continue;
    unknown = g->given_out[i].clock != g->clock;
    g->given_out[i] = {};
    break;
  }
  d->generation += unknown;
}

void pu_cuda_use_graphs(pu_cuda *d) {
  const char *wanted = getenv("PUYU_CUDA_GRAPHS");
  if (wanted && strcmp(wanted, "0") == 0) return;
  d->graphs = (graphs *)calloc(1, sizeof *d->graphs);
  if (!d->graphs) return;
  d->graphs->says = wanted && strcmp(wanted, "say") == 0;
  d->graphs->launched = ~(uint64_t)0;
  d->base.record = record;
  d->base.play = play;
}

void pu_cuda_graphs_close(pu_cuda *d) {
  if (!d->graphs) return;
  for (int i = 0; i < MOST_GRAPHS; i++) forget(&d->graphs->all[i]);
  cudaFreeHost(d->graphs->inbox);
  cudaFree(d->graphs->places);
  free(d->graphs->outbox);
  free(d->graphs);
  d->graphs = NULL; /* memory that is given back later is noted nowhere */
}
