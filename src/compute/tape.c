/* The tape: what ran, in segments, and the walk back over it.
 *
 * Records that no segment holds (the embedding before the blocks, the loss after them) are kept in loose segments, made
 * as they come. Between two segments only the state (h, x) has gradients; they lie in one of two buffers each, in turn,
 * outside the memory of the segments, so that a segment's backward can give all its memory back (Chen et al. 2016 is
 * the recomputation).
 *
 * A segment that makes again what is cheap puts it at the arena's end and lets go of that after its forward: the next
 * one lies in the same place. For backward the place is taken once more, so that the headers point where they did, and
 * the records that say so run again; but swiglu's output is made by swiglu's own backward, which goes in between the
 * two halves of the product's that reads it. The state's gradients lie behind that place.
 *
 * Late gradients of parameters lie at the arena's end too, behind that place, which is held for good when the first of
 * them comes (the output matrix's, while the loss runs forward).
 *
 * A gradient lies where the values lay that its operation is the last to read: products' and swiglu's inputs; and the
 * residual stream's has one place from a block's end to its beginning. */
#include <stdarg.h>
#include <string.h>

#include "src/compute/context.h"

typedef struct pu_tape_segment {
  struct pu_tape_segment *before;
  pu_record *first, *last;
  pu_segment_fn fn; /* NULL: loose */
  void *arg;
  pu_state in, out;
  pu_recompute recompute;
  size_t mem;        /* what of the arena was in use before it */
  size_t end, cheap; /* where its part of the arena's end begins, and how long it is */
} pu_tape_segment;

struct pu_tape {
  pu_arena *host;
  pu_tape_segment *last;
  pu_tape_segment *open; /* the segment that runs, or NULL */
  bool paused;           /* the first run of a segment to be run again: nothing is recorded */
  bool passing;          /* pu_passing */
  bool late;             /* some gradients are late */
  bool held;             /* the arena's end, `cheap` bytes from `end` on, is the segments' until the arena is reset */
  size_t end, cheap;     /* cheap: the most that a segment makes again there */
};

/* ---- the context's status ---- */

void *pu_ctx_fail(pu_ctx *c, pu_err code, const char *fmt, ...) {
  if (c->status) return NULL;
  va_list args;
  va_start(args, fmt);
  c->status = code;
  if (c->err) {
    c->err->code = code;
    vsnprintf(c->err->msg, sizeof c->err->msg, fmt, args);
  }
  va_end(args);
  return NULL;
}

bool pu_ctx_ok(pu_ctx *c, pu_err err) {
  if (!c->status) c->status = err;
  return c->status == PU_OK;
}

/* ---- recording ---- */

pu_err pu_tape_create(pu_arena *host, pu_tape **out, pu_error *e) {
  pu_tape *t = pu_arena_zalloc(host, sizeof *t);
  if (!t) return pu_fail(e, PU_ERR_NOMEM, "no memory for a tape");
  t->host = host;
  *out = t;
  return PU_OK;
}

void pu_tape_reset(pu_tape *t) {
  t->last = t->open = NULL;
  t->paused = t->passing = t->late = t->held = false;
  t->cheap = 0;
}

bool pu_tape_recording(const pu_ctx *c) {
  return c->tape && !c->tape->paused;
}

bool pu_tape_saving(const pu_ctx *c) {
  return c->tape && c->tape->open && c->tape->open->recompute == PU_RECOMPUTE_SOME;
}

static bool makes_again(const pu_tape_segment *s) {
  return s->recompute == PU_RECOMPUTE_GATES || s->recompute == PU_RECOMPUTE_SOME;
}

bool pu_tape_gates(const pu_ctx *c) {
  return c->tape && c->tape->open && makes_again(c->tape->open);
}

bool pu_tape_passes(const pu_ctx *c) {
  return c->tape && c->tape->open && c->tape->open->recompute != PU_RECOMPUTE_ALL && c->tape->passing;
}

void pu_passing(pu_ctx *c, bool on) {
  if (c->tape) c->tape->passing = on;
}

bool pu_tape_again(const pu_ctx *c, const pu_tensor *t) {
  if (!pu_tape_saving(c)) return false;
  for (const pu_record *r = c->tape->open->last; r; r = r->before)
    for (int i = 0; r->again && i < r->n_out; i++)
      if (r->out[i] == t) return true;
  return false;
}

bool pu_tape_gone(const pu_ctx *c, const pu_tensor *t) {
  return pu_tape_saving(c) && pu_arena_at_end(c->mem, t->data) && !pu_tape_again(c, t);
}

static pu_tape_segment *segment_push(pu_ctx *c) {
  pu_tape_segment *s = pu_arena_zalloc(c->tape->host, sizeof *s);
  if (!s) return pu_ctx_fail(c, PU_ERR_NOMEM, "no memory for the tape");
  s->before = c->tape->last;
  c->tape->last = s;
  return s;
}

void pu_tape_add(pu_ctx *c, const pu_record *r, size_t args_size) {
  pu_tape *t = c->tape;
  pu_tape_segment *s = t->open ? t->open : t->last;
  if (!s || (!t->open && s->fn)) s = segment_push(c);
  pu_record *copy = pu_arena_alloc(t->host, sizeof *copy);
  void *args = pu_arena_alloc(t->host, args_size), *again = args;
  if (r->again && r->again != r->args) again = pu_arena_alloc(t->host, args_size);
  if (!s || !copy || !args || !again) {
    pu_ctx_fail(c, PU_ERR_NOMEM, "no memory for the tape");
    return;
  }
  for (int i = 0; i < r->n_in; i++) t->late |= r->in[i]->grad_late;
  *copy = *r;
  copy->args = memcpy(args, r->args, args_size);
  if (r->in_back) copy->in_back = (bool *)((char *)args + ((const char *)r->in_back - (const char *)r->args));
  if (r->again) copy->again = again == args ? args : memcpy(again, r->again, args_size);
  copy->before = s->last;
  copy->after = NULL;
  *(s->last ? &s->last->after : &s->first) = copy;
  s->last = copy;
}

/* ---- late gradients ---- */

static void hold_end(pu_ctx *c) {
  pu_tape *t = c->tape;
  if (t->held) return;
  t->held = true;
  t->end = pu_arena_mark_end(c->mem);
  if (t->cheap && !pu_arena_alloc_end(c->mem, t->cheap))
    pu_ctx_fail(c, PU_ERR_NOMEM, "%zu bytes for what is computed again do not fit: use a smaller batch", t->cheap);
}

void *pu_tape_last(pu_ctx *c, size_t bytes) {
  if (c->tape) hold_end(c);
  void *p = c->status ? NULL : pu_arena_alloc_end(c->mem, bytes);
  if (!p)
    pu_ctx_fail(c, PU_ERR_NOMEM, "a gradient of %zu bytes does not fit in what is left of %zu: use a smaller batch",
                bytes, pu_arena_max(c->mem));
  return p;
}

void pu_late_grad(pu_ctx *c, pu_tensor *w) {
  if (c->status || !w->grad || !w->grad_late || w->grad->data) return;
  if (c->tape) c->tape->late = true;
  w->grad->data = pu_tape_last(c, pu_tensor_bytes(w->grad));
  w->grad_set = false;
}

/* ---- running a segment ---- */

static const pu_state no_state;

/* Memory and header for one tensor of the state that fn will return, taken before fn runs so that it lies below what fn
 * uses. `like` has its shape; x's type is not known before the first block made one, so f32 is the room kept. */
static pu_tensor *keep_room(pu_ctx *c, const pu_tensor *like) {
  return pu_tensor_new(c, like->dtype, like->ndim, like->shape, true);
}

static bool fits_room(const pu_tensor *t, const pu_tensor *room) {
  return t->ndim == room->ndim && memcmp(t->shape, room->shape, (size_t)t->ndim * sizeof t->shape[0]) == 0 &&
         pu_dtype_size(t->dtype) <= pu_dtype_size(room->dtype) && pu_tensor_contiguous(t) && pu_tensor_contiguous(room);
}

/* Moves `from` into the room kept for it. */
static pu_tensor *move_into(pu_ctx *c, pu_tensor *room, const pu_tensor *from) {
  if (!from) return NULL;
  room->dtype = from->dtype;
  if (room->grad) room->grad->dtype = from->dtype;
  if (room->data != from->data &&
      !pu_ctx_ok(c, c->be->copy(c->be, room->data, from->data, pu_tensor_bytes(from), c->err)))
    return NULL;
  return room;
}

/* Where x of the state goes, while a segment runs without a tape. */
typedef struct pu_room {
  pu_tensor *x;
  bool leaving; /* pu_leaving */
} pu_room;

void pu_leaving(pu_ctx *c, bool on) {
  if (c->room) c->room->leaving = on;
}

bool pu_tape_over(const pu_ctx *c) {
  return c->room;
}

pu_tensor *pu_tape_leaves(const pu_ctx *c, pu_dtype dtype, int64_t rows, int64_t cols) {
  if (!c->room || !c->room->leaving) return NULL;
  const pu_tensor like = {.dtype = dtype, .ndim = 2, .shape = {rows, cols}, .stride = {cols, 1}};
  pu_tensor *x = c->room->x;
  if (!fits_room(&like, x)) return NULL;
  x->dtype = dtype;
  return x;
}

/* Runs fn and gives back everything it used, except for its result, which is moved into `room`. */
static pu_state run_in_room(pu_ctx *c, pu_segment_fn fn, void *arg, pu_state in, pu_state room) {
  size_t mem = pu_arena_mark(c->mem), host = pu_arena_mark(c->host);
  pu_state out = fn(c, arg, in);
  if (c->status || !out.h) return no_state;
  if (!fits_room(out.h, room.h) || (out.x && !fits_room(out.x, room.x)))
    return out; /* fn changed the number of rows, or the type: its memory stays */
  pu_state kept = {move_into(c, room.h, out.h), move_into(c, room.x, out.x)};
  pu_arena_release(c->mem, mem);
  pu_arena_release(c->host, host);
  return c->status ? no_state : kept;
}

static pu_state run_inference(pu_ctx *c, pu_segment_fn fn, void *arg, pu_state in) {
  pu_state room = in;
  if (!room.x) room.x = keep_room(c, in.h);
  if (!room.x) return no_state;
  pu_room place = {.x = room.x}, *outer = c->room;
  c->room = &place;
  pu_state out = run_in_room(c, fn, arg, in, room);
  c->room = outer;
  return out;
}

static pu_state run_to_recompute(pu_ctx *c, pu_tape_segment *s) {
  pu_state room = {keep_room(c, s->in.h), keep_room(c, s->in.x ? s->in.x : s->in.h)};
  if (!room.h || !room.x) return no_state;
  c->tape->paused = true;
  pu_state out = run_in_room(c, s->fn, s->arg, s->in, room);
  c->tape->paused = false;
  return out;
}

/* What the next segment reads may not lie where it puts its own. */
static void keep(pu_ctx *c, pu_tensor *t) {
  if (c->status || !t || !pu_arena_at_end(c->mem, t->data)) return;
  void *to = pu_arena_alloc(c->mem, pu_tensor_bytes(t));
  if (!to) {
    pu_ctx_fail(c, PU_ERR_NOMEM, "no memory left to keep the residual state");
    return;
  }
  if (pu_ctx_ok(c, c->be->copy(c->be, to, t->data, pu_tensor_bytes(t), c->err))) t->data = to;
}

static pu_state run_recorded(pu_ctx *c, pu_tape_segment *s) {
  s->end = pu_arena_mark_end(c->mem);
  c->tape->open = s;
  pu_state out = s->fn(c, s->arg, s->in);
  c->tape->open = NULL;
  keep(c, out.h);
  keep(c, out.x);
  s->cheap = pu_arena_mark_end(c->mem) - s->end;
  if (makes_again(s)) c->tape->cheap = PU_MAX(c->tape->cheap, s->cheap);
  pu_arena_release_end(c->mem, s->end);
  return c->status ? no_state : out;
}

pu_state pu_segment(pu_ctx *c, pu_segment_fn fn, void *arg, pu_state in, pu_recompute recompute) {
  if (c->status || !in.h) return no_state;
  if (!c->tape) return run_inference(c, fn, arg, in);
  if (c->tape->open || c->tape->paused) {
    pu_ctx_fail(c, PU_ERR_INTERNAL, "segments do not nest");
    return no_state;
  }
  pu_tape_segment *s = segment_push(c);
  if (!s) return no_state;
  s->fn = fn;
  s->arg = arg;
  s->in = in;
  s->mem = pu_arena_mark(c->mem);
  s->recompute = recompute;
  return s->out = recompute == PU_RECOMPUTE_ALL ? run_to_recompute(c, s) : run_recorded(c, s);
}

/* ---- backward ---- */

/* The two buffers that the gradients of one part of the state lie in, in turn: that of the state at a segment's
 * beginning is the one that its end's does not lie in. They are taken when first needed, sized for the largest type. */
typedef struct turns {
  void *memory[2];
  size_t bytes;
  pu_tensor *begin;
  const pu_tensor *end;
} turns;

/* Memory for the gradients of a segment's activations. What is no longer read is given to the next ones that fit into
 * it, in part if need be. More pieces than there is room for here are not given twice. */
typedef struct pool {
  struct {
    char *p;
    size_t bytes;
    bool taken;
  } piece[64];
  int n;
  turns *state[2]; /* h, x */
} pool;

static void pool_add(pool *b, char *p, size_t bytes, bool taken) {
  if (b->n < (int)PU_COUNT(b->piece)) {
    b->piece[b->n].p = p;
    b->piece[b->n].bytes = bytes;
    b->piece[b->n++].taken = taken;
  }
}

static void *pool_take(pu_ctx *c, pool *b, size_t bytes) {
  int best = -1;
  bytes = (bytes + 63) / 64 * 64;
  for (int i = 0; i < b->n; i++)
    if (!b->piece[i].taken && b->piece[i].bytes >= bytes && (best < 0 || b->piece[i].bytes < b->piece[best].bytes))
      best = i;
  if (best < 0) {
    char *p = pu_arena_alloc(c->mem, bytes);
    if (p) pool_add(b, p, bytes, true);
    return p;
  }
  char *p = b->piece[best].p;
  if (b->piece[best].bytes > bytes) pool_add(b, p + bytes, b->piece[best].bytes - bytes, false);
  b->piece[best].bytes = bytes;
  b->piece[best].taken = true;
  return p;
}

static void pool_give(pool *b, const void *p) {
  for (int i = 0; i < b->n; i++)
    if (b->piece[i].p == p) b->piece[i].taken = false;
}

static bool in_turns(const turns *b, const void *p) {
  return p && (p == b->memory[0] || p == b->memory[1]);
}

static void *turns_take(pu_ctx *c, turns *b) {
  int i = b->end && b->end->grad && b->end->grad->data && b->end->grad->data == b->memory[0];
  if (pu_tensor_bytes(b->begin->grad) > b->bytes)
    return pu_ctx_fail(c, PU_ERR_SHAPE, "the state grows from one segment to the next: it must keep its shape");
  if (!b->memory[i]) b->memory[i] = pu_tape_last(c, b->bytes);
  return b->memory[i];
}

/* Gives t's gradient memory where it has none. */
static void grad_memory(pu_ctx *c, pool *b, pu_tensor *t) {
  if (c->status || !t->grad || t->grad->data) return;
  if (t->grad_late) {
    pu_late_grad(c, t);
    return;
  }
  turns *turn = t == b->state[0]->begin ? b->state[0] : t == b->state[1]->begin ? b->state[1] : NULL;
  t->grad->data = turn ? turns_take(c, turn) : pool_take(c, b, pu_tensor_bytes(t->grad));
  t->grad_set = false;
  if (!t->grad->data)
    pu_ctx_fail(c, PU_ERR_NOMEM, "a gradient of %zu bytes does not fit in what is left of %zu: use a smaller batch",
                pu_tensor_bytes(t->grad), pu_arena_max(c->mem));
}

static bool mentions(const pu_record *r, const pu_tensor *t) {
  for (int i = 0; i < r->n_in; i++)
    if (r->in[i] == t) return true;
  for (int i = 0; i < r->n_out; i++)
    if (r->out[i] == t) return true;
  return false;
}

/* Gives back the gradients of r's outputs that no record before it knows, but for one that an input has taken over. */
static void forget_outputs(pool *b, const pu_record *r) {
  for (int i = 0; i < r->n_out; i++) {
    const pu_record *q = r->before;
    while (q && !mentions(q, r->out[i])) q = q->before;
    bool over = false;
    for (int k = 0; k < r->n_in && r->out[i]->grad; k++) over |= r->in[k]->grad->data == r->out[i]->grad->data;
    if (!q && !over && r->out[i]->grad) pool_give(b, r->out[i]->grad->data);
  }
}

/* ---- gradients in the place of what is not read any more ---- */

/* Does a record before r make t as its first output, with a backward that does not read it, and no other know it (but
 * for adapters that add to it)? */
static bool only_made(const pu_record *r, const pu_tensor *t) {
  const pu_record *maker = NULL;
  for (const pu_record *q = r->before; q; q = q->before) {
    if (!mentions(q, t) || (q->op == PU_OP_lora && q->out[0] == t)) continue;
    if (maker || q->n_out == 0 || q->out[0] != t) return false;
    maker = q;
  }
  return maker && (maker->op == PU_OP_rmsnorm_add || maker->op == PU_OP_linear || maker->op == PU_OP_swiglu);
}

static bool fits_over(const pu_tensor *t, const pu_tensor *grad) {
  return grad && !grad->data && grad->dtype == t->dtype && pu_tensor_contiguous(t);
}

/* t's gradient where t is, which r is the last to read. */
static void share_values(const pu_record *r, pu_tensor *t) {
  if (!fits_over(t, t->grad) || !only_made(r, t)) return;
  t->grad->data = t->data;
  t->grad_set = false;
}

/* The gradient of a norm's res where that of its h is: a residual stream's has one place. */
static void share_residual(const pool *b, const pu_record *r, const pu_rmsnorm_add_args *a) {
  pu_tensor *res = a->res;
  const pu_tensor *h = a->h->grad;
  if (a->h == res || !res->grad || res->grad->data || !h || !a->h->grad_set || !h->data) return;
  for (const pu_record *q = r->before; q; q = q->before)
    if (mentions(q, a->h)) return;
  if (res == b->state[0]->begin && !in_turns(b->state[0], h->data)) return; /* the pool's is gone with the segment */
  res->grad->data = h->data;
  res->grad_set = false;
}

static void share(const pool *b, const pu_record *r) {
  if (r->op == PU_OP_linear) share_values(r, ((const pu_linear_args *)r->args)->x);
  if (r->op == PU_OP_swiglu) share_values(r, ((const pu_swiglu_args *)r->args)->gu);
  if (r->op == PU_OP_rmsnorm_add) share_residual(b, r, r->args);
}

/* ---- one record ---- */

static bool reached(const pu_record *r) {
  bool any = r->n_out == 0;
  for (int i = 0; i < r->n_out; i++) any |= r->out[i]->grad && r->out[i]->grad_set;
  return any; /* else the loss does not depend on it */
}

/* Memory for the gradients that r's backward writes, and zeros for one that it reads and nobody wrote. */
static void prepare(pu_ctx *c, pool *b, pu_record *r) {
  share(b, r);
  for (int i = 0; i < r->n_in; i++) grad_memory(c, b, r->in[i]);
  if (c->status || r->n_out == 0 || r->out[0]->grad_set) return;
  grad_memory(c, b, r->out[0]);
  pu_tensor *g = r->out[0]->grad;
  if (!c->status && pu_ctx_ok(c, c->be->clear(c->be, g->data, pu_tensor_bytes(g), c->err))) r->out[0]->grad_set = true;
}

static void run_back(pu_ctx *c, const pu_record *r) {
  if (!c->status) pu_ctx_ok(c, c->be->backward[r->op](c->be, r->args, c->err));
}

/* Can r's output be made again by r's backward? Then only the product behind it reads it, and is recorded next. */
static bool made_in_back(const pu_record *r) {
  const pu_record *next = r->after;
  if (!r->in_back || !r->again || !r->n_in || !next || next->op != PU_OP_linear) return false;
  const pu_linear_args *a = next->args;
  if (a->x != r->out[0] || !fits_over(a->x, a->x->grad)) return false;
  for (const pu_record *q = next->after; q; q = q->after)
    if (mentions(q, a->x)) return false;
  return true;
}

/* A product whose x is made again by the backward of the record before it: x's gradient, that backward, and then w's
 * gradient. */
static void back_around(pu_ctx *c, pool *b, pu_record *r) {
  pu_linear_args *a = r->args;
  prepare(c, b, r);
  a->no_dw = true;
  run_back(c, r);
  prepare(c, b, r->before);
  run_back(c, r->before);
  a->no_dw = false, a->no_dx = true;
  run_back(c, r);
  forget_outputs(b, r);
  forget_outputs(b, r->before);
}

/* r's backward, and that of the record before it where they belong together; the next one to be done. */
static pu_record *record_back(pu_ctx *c, pool *b, pu_record *r) {
  if (!reached(r)) return r->before;
  if (r->before && r->before->in_back && *r->before->in_back) {
    back_around(c, b, r);
    return r->before->before;
  }
  prepare(c, b, r);
  run_back(c, r);
  forget_outputs(b, r);
  return r->before;
}

static size_t state_bytes(const pu_tensor *t, size_t so_far) {
  return t && t->grad ? PU_MAX(so_far, pu_tensor_bytes(t->grad)) : so_far;
}

/* The recomputed result takes over the gradient that reached the one kept. */
static void grad_hand_over(pu_tensor *from, pu_tensor *to) {
  if (!from || !to || from == to || !from->grad || !to->grad) return;
  to->grad->data = from->grad->data;
  to->grad_set = from->grad_set;
}

/* Has what the segment did not keep made again, where it was. */
static void make_again(pu_ctx *c, const pu_tape_segment *s) {
  const pu_tape *t = c->tape;
  if (s->end != t->end) pu_ctx_fail(c, PU_ERR_INTERNAL, "the place of what is computed again is taken");
  for (const pu_record *r = s->first; r && !c->status; r = r->after) {
    if (r->in_back) *r->in_back = made_in_back(r);
    if (r->again && !(r->in_back && *r->in_back)) pu_ctx_ok(c, c->be->forward[r->op](c->be, r->again, c->err));
  }
}

static void segment_back(pu_ctx *c, pu_tape_segment *s, turns *h, turns *x, bool gives) {
  pu_tape *t = c->tape;
  size_t mem = gives && s->fn ? s->mem : pu_arena_mark(c->mem);
  size_t host = pu_arena_mark(c->host), own = pu_arena_mark(t->host);
  bool all = s->recompute == PU_RECOMPUTE_ALL;
  if (makes_again(s) && s->cheap) make_again(c, s);
  if (all) {
    t->open = s;
    pu_state again = s->fn(c, s->arg, s->in);
    t->open = NULL;
    grad_hand_over(s->out.h, again.h);
    grad_hand_over(s->out.x, again.x);
  }
  pool grads = {.n = 0, .state = {h, x}};
  for (pu_record *r = s->last; r && !c->status;) r = record_back(c, &grads, r);
  if (all) s->first = s->last = NULL;
  pu_arena_release(c->mem, mem);
  if (own <= pu_arena_mark(t->host)) pu_arena_release(t->host, own);
  if (c->host != t->host) pu_arena_release(c->host, host);
}

pu_err pu_backward(pu_ctx *c) {
  size_t mem = pu_arena_mark(c->mem);
  size_t end = pu_arena_mark_end(c->mem);
  pu_tape *t = c->tape;
  turns h = {.bytes = 0}, x = {.bytes = 0};
  bool gives = t->late; /* segments give back what they kept */
  hold_end(c);
  for (pu_tape_segment *s = c->tape->last; s; s = s->before) {
    h.bytes = PU_MAX(state_bytes(s->out.h, h.bytes), state_bytes(s->in.h, h.bytes));
    x.bytes = PU_MAX(state_bytes(s->out.x, x.bytes), state_bytes(s->in.x, x.bytes));
  }
  for (pu_tape_segment *s = c->tape->last; s && !c->status; s = s->before) {
    /* A loose segment begins where the one before it ended. */
    pu_state begin = s->fn ? s->in : s->before ? s->before->out : no_state;
    h.begin = begin.h, h.end = s->out.h;
    x.begin = begin.x, x.end = s->out.x;
    segment_back(c, s, &h, &x, gives);
  }
  pu_arena_release(c->mem, mem);
  if (!t->late) {
    pu_arena_release_end(c->mem, end);
    t->held = false;
  }
  return c->status;
}
