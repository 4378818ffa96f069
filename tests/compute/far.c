/* A device for tests, on any machine: the plug-in libpuyu-far.so. It computes as the CPU backend does, but what it
 * gives out as memory are addresses that nobody can touch: only its own functions know where the memory behind them is.
 * It holds NaNs where nothing was written, and is as much as PUYU_FAR_MEMORY says (in MiB; PUYU_FAR_ISA lowers the
 * instruction set); and what operations are given must lie in it. So whoever takes a device's memory for the machine's
 * own crashes here, and not first on a GPU. It has no tiled weights, like other devices. Rows that are copied to the
 * machine's memory arrive when they are waited for, as NaNs before.
 *
 * What is recorded under a key runs as it is asked for, but it must be the same each time, and nothing may be waited
 * for in between. The third time nothing runs at all, and it is to be asked for again. What is made ready runs when it
 * is played: until then its arguments, and what was uploaded, are kept. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/compute/calls.h"

typedef struct area {
  struct area *next;
  char *at, *memory; /* what is given out, what is behind it */
  size_t bytes;
} area;

/* What was asked for under a key. */
typedef struct kept {
  struct kept *next;
  uint64_t key, *calls;
  size_t n, cap;
  int times; /* it was played */
} kept;

/* A call that was made ready. */
typedef struct later {
  struct later *next;
  int op; /* or one of those below */
  union {
    uint64_t align;
    char args[256];
  } u;
  pu_tensor *headers; /* of its first arguments: the caller's are gone by then */
  pu_lora_part *parts;
  void *to;
  const void *from;
  char *sent;
  size_t bytes;
} later;
enum { UPLOAD = PU_OP_COUNT, CLEAR, COPY };

/* Rows that are on their way to the machine's memory. */
typedef struct due {
  struct due *next;
  char *to, *rows; /* rows: one after the other */
  size_t stride, bytes;
  int64_t n;
  uint64_t marks; /* made before */
} due;

typedef struct far {
  pu_backend base;
  pu_backend *cpu;
  area *areas;
  kept *kept, *open;          /* open: between record and play */
  size_t at;                  /* of its calls: the next */
  later *first, **last;       /* made ready, or being made */
  bool ahead, going;          /* between record and play: makes ready; goes on with what was */
  uint64_t ready, last_ready; /* 0: nothing is */
  size_t used, total;
  size_t pinned; /* areas of the host */
  due *owed, **last_owed;
  uint64_t marks;
} far;

enum { POISON = 4 << 20, USUAL_MIB = 32 << 10, MOST_TENSORS = 2048 };

static far *of(pu_backend *be) {
  return (far *)be;
}

/* ---- addresses ---- */

/* Where the memory behind an address of the device is; NULL: so many bytes from there are not its own. */
static void *behind(const far *f, const void *at, size_t bytes) {
  const char *p = at;
  for (const area *a = f->areas; a; a = a->next)
    if (p >= a->at && bytes <= a->bytes && p - a->at <= (ptrdiff_t)(a->bytes - bytes)) return a->memory + (p - a->at);
  return NULL;
}

/* The address that stands for memory of the device; anything else as it is. */
static void *before(const far *f, void *memory) {
  char *p = memory;
  for (const area *a = f->areas; p && a; a = a->next)
    if (p >= a->memory && p < a->memory + a->bytes) return a->at + (p - a->memory);
  return memory;
}

static bool inside(const far *f, const void *at) {
  return behind(f, at, 0) != NULL;
}

static pu_err must(bool ok, const char *what, pu_error *e) {
  return ok ? PU_OK : pu_fail(e, PU_ERR_INTERNAL, "far: %s", what);
}

/* ---- what is kept ---- */

enum { DRY = 2 }; /* times played before the one in which nothing runs */

static bool is_dry(const far *f) {
  return f->open && (f->ahead || f->open->times == DRY);
}

static void forget_later(far *f) {
  for (later *c = f->first, *next; c; c = next) {
    next = c->next;
    free(c->headers);
    free(c->parts);
    free(c->sent);
    free(c);
  }
  f->first = NULL;
  f->last = &f->first;
  f->ready = 0;
}

/* Where the device makes ready: the call's place; else NULL. */
static later *add_later(far *f, int op) {
  if (!f->open || !f->ahead) return NULL;
  later *c = calloc(1, sizeof *c);
  if (!c) abort();
  c->op = op;
  *f->last = c;
  f->last = &c->next;
  return c;
}

static void *copied(const void *from, size_t bytes) {
  void *p = malloc(PU_MAX(bytes, (size_t)1));
  return p ? memcpy(p, from, bytes) : (abort(), NULL);
}

static void add_later_bytes(far *f, int op, void *to, const void *from, size_t bytes) {
  later *c = add_later(f, op);
  if (!c) return;
  c->to = to;
  c->from = from;
  c->bytes = bytes;
  if (op == UPLOAD) c->sent = copied(from, bytes);
}

static void add_later_op(far *f, pu_op op, const void *args) {
  static const size_t sizes[PU_OP_COUNT] = {
#define PU_OP(name, has_backward) sizeof(pu_##name##_args),
#include "puyu/ops.def"
#undef PU_OP
  };
  later *c = add_later(f, (int)op);
  if (!c) return;
  if (sizes[op] > sizeof c->u.args) abort();
  memcpy(c->u.args, args, sizes[op]);
  const int n = pu_call_tensors(op);
  const pu_tensor **t = (const pu_tensor **)(void *)c->u.args;
  c->headers = calloc((size_t)n + 1, sizeof *c->headers);
  if (!c->headers) abort();
  for (int i = 0; i < n; i++)
    if (t[i]) {
      int same = 0; /* some are given twice, and must stay one */
      while (((const pu_tensor *const *)args)[same] != ((const pu_tensor *const *)args)[i]) same++;
      c->headers[i] = *((const pu_tensor *const *)args)[i];
      t[i] = &c->headers[same];
    }
  if (op != PU_OP_lora) return;
  pu_lora_args *a = (void *)c->u.args;
  a->parts = c->parts = copied(a->parts, (size_t)a->n * sizeof *a->parts);
}

static pu_err run_later(far *f, later *c, pu_error *e) {
  if (c->op == UPLOAD) return f->base.upload(&f->base, c->to, c->sent, c->bytes, e);
  if (c->op == CLEAR) return f->base.clear(&f->base, c->to, c->bytes, e);
  if (c->op == COPY) return f->base.copy(&f->base, c->to, c->from, c->bytes, e);
  return f->base.forward[c->op](&f->base, c->u.args, e);
}

static pu_err is_outside(const far *f, const char *what, pu_error *e) {
  return f->open ? pu_fail(e, PU_ERR_INTERNAL, "far: %s between record and play", what) : PU_OK;
}

static void add_call(kept *k, uint64_t call) {
  if (k->n == k->cap) {
    k->cap = PU_MAX(2 * k->cap, (size_t)64);
    k->calls = realloc(k->calls, k->cap * sizeof *k->calls);
    if (!k->calls) abort();
  }
  k->calls[k->n++] = call;
}

/* Before each call of a kind that may be played again. */
static pu_err note(far *f, uint64_t call, pu_error *e) {
  kept *k = f->open;
  if (!k) return PU_OK;
  if (k->times == 0) add_call(k, call);
  size_t at = f->at++;
  if (at < k->n && k->calls[at] == call) return PU_OK;
  return pu_fail(e, PU_ERR_INTERNAL, "far: call %zu under a key is not what it was", at);
}

static pu_err note_bytes(far *f, const void *place, size_t bytes, pu_error *e) {
  return note(f, pu_call_hash_bytes(0, place, bytes), e);
}

static void forget_all(far *f) {
  for (kept *k = f->kept, *next; k; k = next) {
    next = k->next;
    free(k->calls);
    free(k);
  }
  f->kept = NULL;
  forget_later(f);
}

/* Before an upload that goes on with what was made ready: in the place of the one then. */
static pu_err replace(const far *f, const void *to, const void *host, size_t bytes, pu_error *e) {
  for (later *c = f->first; c; c = c->next)
    if (c->op == UPLOAD && c->to == to && c->bytes == bytes) {
      memcpy(c->sent, host, bytes);
      return PU_OK;
    }
  return must(false, "what was made ready uploaded nothing there", e);
}

static pu_err far_record(pu_backend *be, uint64_t key, uint64_t *ready, pu_error *e) {
  far *f = of(be);
  kept *k = f->kept;
  PU_TRY(is_outside(f, "record", e));
  f->going = ready && *ready && *ready == f->ready;
  f->ahead = ready && *ready == 0;
  if (ready && *ready && !f->going) *ready = 0;
  if (ready && !f->going && !f->ahead) return PU_OK;
  if (!f->going) forget_later(f);
  while (k && k->key != key) k = k->next;
  if (f->ahead) {
    if (!k || k->times <= DRY) return PU_OK;
    *ready = ++f->last_ready;
  }
  if (!k) {
    k = calloc(1, sizeof *k);
    if (!k) abort();
    k->key = key;
    k->next = f->kept;
    f->kept = k;
  }
  f->open = k;
  f->at = 0;
  return PU_OK;
}

static pu_err far_play(pu_backend *be, bool *again, pu_error *e) {
  far *f = of(be);
  kept *k = f->open;
  pu_err err = PU_OK;
  *again = is_dry(f) && !f->ahead && !f->going;
  PU_TRY(must(k, "play without record", e));
  f->open = NULL;
  k->times++;
  if (f->going) {
    for (later *c = f->first; c && !err; c = c->next) err = run_later(f, c, e);
    forget_later(f);
    return err;
  }
  if (f->ahead) f->ready = f->last_ready;
  return must(f->at == k->n, "there are fewer calls under a key than there were", e);
}

/* ---- memory and copies ---- */

static size_t pages(size_t bytes) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  return PU_MAX((bytes + page - 1) / page, (size_t)1) * page;
}

static pu_err far_alloc(pu_backend *be, size_t bytes, void **out, pu_error *e) {
  far *f = of(be);
  *out = NULL;
  PU_TRY(is_outside(f, "an allocation", e));
  area *a = malloc(sizeof *a);
  if (bytes > f->total - f->used || !a) {
    free(a);
    return pu_fail(e, PU_ERR_NOMEM, "far: %zu bytes are wanted, %zu are left", bytes, f->total - f->used);
  }
  size_t size = pages(bytes);
  const int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  char *at = mmap(NULL, size, PROT_NONE, kind, -1, 0), *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, kind, -1, 0);
  if (at == MAP_FAILED || memory == MAP_FAILED) abort();
  memset(memory, 0xff, PU_MIN(size, (size_t)POISON));
  *a = (area){f->areas, at, memory, size};
  f->areas = a;
  f->used += size;
  *out = at;
  return PU_OK;
}

static void far_free(pu_backend *be, void *memory) {
  far *f = of(be);
  if (f->open) abort();
  forget_all(f);
  for (area **p = &f->areas; *p; p = &(*p)->next) {
    area *a = *p;
    if (a->at != memory) continue;
    munmap(a->at, a->bytes);
    munmap(a->memory, a->bytes);
    f->used -= a->bytes;
    *p = a->next;
    free(a);
    return;
  }
  if (memory) abort(); /* it was never given out */
}

static pu_err far_upload(pu_backend *be, void *device, const void *host, size_t bytes, pu_error *e) {
  far *f = of(be);
  void *to = behind(f, device, bytes);
  PU_TRY(must(to && !inside(f, host), "an upload from the device, or not to it", e));
  if (f->open && f->going) return replace(f, device, host, bytes, e);
  add_later_bytes(f, UPLOAD, device, host, bytes);
  PU_TRY(note_bytes(f, device, bytes, e));
  return is_dry(f) ? PU_OK : f->cpu->upload(f->cpu, to, host, bytes, e);
}

/* What was on its way when the at-th mark was made arrives. */
static void arrive(far *f, uint64_t at) {
  while (f->owed && f->owed->marks < at) {
    due *d = f->owed;
    for (int64_t i = 0; i < d->n; i++) memcpy(d->to + (size_t)i * d->stride, d->rows + (size_t)i * d->bytes, d->bytes);
    f->owed = d->next;
    free(d->rows);
    free(d);
  }
  if (!f->owed) f->last_owed = &f->owed;
}

static pu_err far_download(pu_backend *be, void *host, const void *device, size_t bytes, pu_error *e) {
  far *f = of(be);
  const void *from = behind(f, device, bytes);
  PU_TRY(is_outside(f, "a download", e));
  PU_TRY(must(from && !inside(f, host), "a download to the device, or not from it", e));
  arrive(f, UINT64_MAX);
  return f->cpu->download(f->cpu, host, from, bytes, e);
}

static pu_err far_clear(pu_backend *be, void *device, size_t bytes, pu_error *e) {
  far *f = of(be);
  void *at = behind(f, device, bytes);
  PU_TRY(must(at, "host memory is to be cleared", e));
  PU_TRY(must(!f->open || !f->going, "clearing where only uploads may come", e));
  add_later_bytes(f, CLEAR, device, NULL, bytes);
  PU_TRY(note_bytes(f, device, bytes, e));
  return is_dry(f) ? PU_OK : f->cpu->clear(f->cpu, at, bytes, e);
}

static pu_err far_copy(pu_backend *be, void *to, const void *from, size_t bytes, pu_error *e) {
  far *f = of(be);
  void *t = behind(f, to, bytes), *s = behind(f, from, bytes);
  PU_TRY(must(t && s, "a copy from or to host memory", e));
  PU_TRY(must(!f->open || !f->going, "a copy where only uploads may come", e));
  add_later_bytes(f, COPY, to, from, bytes);
  PU_TRY(note_bytes(f, to, bytes, e));
  PU_TRY(note_bytes(f, from, bytes, e));
  return is_dry(f) ? PU_OK : f->cpu->copy(f->cpu, t, s, bytes, e);
}

/* Where the memory behind one side of copy_rows is, which may be the host's. */
static void *side(const far *f, const void *at, size_t stride, size_t bytes, int64_t rows) {
  if (!behind(f, at, 1)) return (void *)(uintptr_t)at; /* the host's may begin where an area of the device ends */
  return behind(f, at, stride * (size_t)(rows - 1) + bytes);
}

static void owe(far *f, void *to, size_t to_stride, const void *from, size_t from_stride, size_t bytes, int64_t rows) {
  due *d = calloc(1, sizeof *d);
  if (!d || !(d->rows = malloc(PU_MAX(bytes * (size_t)rows, (size_t)1)))) abort();
  d->to = to, d->stride = to_stride, d->bytes = bytes, d->n = rows, d->marks = f->marks;
  for (int64_t i = 0; i < rows; i++) {
    memcpy(d->rows + (size_t)i * bytes, (const char *)from + (size_t)i * from_stride, bytes);
    memset(d->to + (size_t)i * to_stride, 0xff, bytes);
  }
  *f->last_owed = d;
  f->last_owed = &d->next;
}

static pu_err far_copy_rows(pu_backend *be, void *to, size_t to_stride, const void *from, size_t from_stride,
                            size_t bytes, int64_t rows, pu_error *e) {
  far *f = of(be);
  void *t = side(f, to, to_stride, bytes, rows), *s = side(f, from, from_stride, bytes, rows);
  PU_TRY(must(t && s, "rows are copied beyond the device's memory", e));
  PU_TRY(is_outside(f, "rows are copied", e));
  if (t == to) {
    owe(f, t, to_stride, s, from_stride, bytes, rows);
    return PU_OK;
  }
  arrive(f, UINT64_MAX); /* they may be what is copied now */
  return f->cpu->copy_rows(f->cpu, t, to_stride, s, from_stride, bytes, rows, e);
}

/* What is pinned is told apart, so that each piece is given back once. */
static pu_err far_pin(pu_backend *be, void *host, size_t bytes, pu_error *e) {
  far *f = of(be);
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  PU_TRY(must((uintptr_t)host % page == 0 && bytes % page == 0, "what is pinned are no whole pages", e));
  PU_TRY(must(!behind(f, host, 1), "the device's memory is to be pinned", e));
  f->pinned++;
  return PU_OK;
}

static void far_unpin(pu_backend *be, void *host) {
  (void)host;
  if (of(be)->pinned-- == 0) abort();
}

static pu_err far_sync(pu_backend *be, pu_error *e) {
  PU_TRY(is_outside(of(be), "a wait", e));
  arrive(of(be), UINT64_MAX);
  return of(be)->cpu->sync(of(be)->cpu, e);
}

static pu_err far_mark(pu_backend *be, uint64_t *at, pu_error *e) {
  PU_TRY(is_outside(of(be), "a mark", e));
  *at = ++of(be)->marks;
  return PU_OK;
}

static pu_err far_reach(pu_backend *be, uint64_t at, pu_error *e) {
  PU_TRY(is_outside(of(be), "a wait", e));
  PU_TRY(must(at > 0 && at <= of(be)->marks, "a mark is to be reached that was not made", e));
  arrive(of(be), at);
  return PU_OK;
}

static size_t far_work_bytes(const pu_backend *be, const pu_work_shape *s) {
  const far *f = (const far *)be;
  return f->cpu->work_bytes(f->cpu, s);
}

static pu_err far_memory(const pu_backend *be, size_t *available, size_t *total, pu_error *e) {
  const far *f = (const far *)be;
  (void)e;
  *available = f->total - f->used;
  *total = f->total;
  return PU_OK;
}

static const char *far_describe(const pu_backend *be) {
  (void)be;
  return "the processor, with memory of its own";
}

/* ---- what operations are given ---- */

typedef struct list {
  pu_tensor *v[MOST_TENSORS];
  void *given[MOST_TENSORS]; /* their addresses on the device */
  int n;
  double **number, *given_number; /* one that lies on the device, or NULL; and its address */
} list;

static void add_one(list *l, const pu_tensor *t) {
  if (!t || !t->data) return;
  for (int i = 0; i < l->n; i++)
    if (l->v[i] == t) return;
  if (l->n == MOST_TENSORS) abort();
  l->v[l->n++] = (pu_tensor *)(uintptr_t)t;
}

static void add(list *l, const pu_tensor *const *v, size_t n) {
  for (size_t i = 0; i < n; i++) {
    add_one(l, v[i]);
    if (v[i]) add_one(l, v[i]->grad);
  }
}

#define TENSORS(op, ...)                                                                                               \
  static void list_##op(const void *args, list *l) {                                                                   \
    const pu_##op##_args *a = args;                                                                                    \
    add(l, (const pu_tensor *const[]){__VA_ARGS__}, PU_COUNT(((const pu_tensor *const[]){__VA_ARGS__})));              \
  }
TENSORS(embedding, a->ids, a->w, a->y)
TENSORS(rmsnorm_add, a->res, a->x, a->w, a->h, a->y, a->rstd)
TENSORS(linear, a->x, a->w, a->b, a->y)
TENSORS(linear_fp8, a->x, a->w, a->b, a->y)
TENSORS(mlp_fp8, a->x, a->gate_up, a->down, a->gu, a->y)
TENSORS(qk_norm, a->qkv, a->wq, a->wk, a->out, a->rstd)
TENSORS(rope, a->qkv, a->cs)
TENSORS(attention, a->qkv, a->out, a->lse)
TENSORS(attention_paged, a->qkv, a->out, a->ready.cs, a->ready.wq, a->ready.wk, a->kv->k, a->kv->v)
TENSORS(swiglu, a->gu, a->y)
TENSORS(linear_swiglu, a->x, a->w, a->gu, a->y)
TENSORS(moe_route, a->logits, a->idx, a->weight)
TENSORS(moe_mlp, a->x, a->idx, a->weight, a->gate_up, a->down, a->y, a->order, a->offsets, a->gu, a->act, a->out)
TENSORS(linear_cross_entropy, a->x, a->w, a->targets, a->loss, a->dx)
TENSORS(adjust_logits, a->logits, a->penalty, a->offsets, a->ids, a->values)
TENSORS(top_logits, a->logits, a->scale, a->values, a->ids, a->sums)
TENSORS(tile_weight, a->w, a->out)
TENSORS(pack_weight, a->out)

static void list_sum_squares(const void *args, list *l) {
  const pu_sum_squares_args *a = args;
  add(l, a->t, a->n);
  l->number = (double **)(uintptr_t)&a->out;
}

static void list_adamw(const void *args, list *l) {
  const pu_adamw_args *a = args;
  for (int i = 0; i < a->n; i++) {
    const pu_adamw_param *w = &a->of[i];
    add(l, (const pu_tensor *const[]){w->p, w->low, w->g, w->m, w->v}, 5);
  }
  add(l, &a->gate.finite, 1);
  if (a->gate.squares) l->number = (double **)(uintptr_t)&a->gate.squares;
}

static void list_lora(const void *args, list *l) {
  const pu_lora_args *a = args;
  add(l, (const pu_tensor *const[]){a->x, a->y}, 2);
  for (int i = 0; i < a->n; i++) add(l, (const pu_tensor *const[]){a->parts[i].a, a->parts[i].b}, 2);
}

static size_t reach(const pu_tensor *t) {
  if (t->layout != PU_LAYOUT_PLAIN) return pu_weight_bytes(t);
  int64_t last = 0;
  for (int i = 0; i < t->ndim; i++) {
    if (t->shape[i] == 0) return 0;
    last += (t->shape[i] - 1) * t->stride[i];
  }
  return (size_t)(last + 1) * pu_dtype_size(t->dtype);
}

/* The number's place as it is for the CPU. */
static pu_err go_behind(const far *f, list *l, pu_error *e) {
  if (!l->number) return PU_OK;
  double *memory = behind(f, *l->number, sizeof **l->number);
  l->given_number = *l->number;
  if (memory) *l->number = memory;
  return must(memory, "an operation's number lies in host memory", e);
}

static pu_err run(pu_backend *be, pu_op op, bool backward, void *args, pu_error *e) {
  static void (*const lists[PU_OP_COUNT])(const void *, list *) = {
#define PU_OP(name, has_backward) list_##name,
#include "puyu/ops.def"
#undef PU_OP
  };
  far *f = of(be);
  list l = {.n = 0};
  if (f->open) PU_TRY(must(pu_call_playable(op) && !backward && !f->going, "this operation cannot be played again", e));
  add_later_op(f, op, args);
  PU_TRY(note(f, pu_call_hash(0, op, args), e));
  lists[op](args, &l);
  pu_err err = go_behind(f, &l, e);
  int n = 0; /* so many of them point to where the memory is */
  for (; n < l.n && !err; n++) {
    l.given[n] = l.v[n]->data;
    void *memory = behind(f, l.given[n], reach(l.v[n]));
    err = must(memory, "an operation's tensor lies in host memory", e);
    if (memory) l.v[n]->data = memory;
  }
  if (!err && !is_dry(f)) err = (backward ? f->cpu->backward : f->cpu->forward)[op](f->cpu, args, e);
  while (n-- > 0) l.v[n]->data = l.given[n];
  if (l.number) *l.number = l.given_number;
  for (int i = 0; i < l.n; i++) /* an operation may hand memory on as a gradient's */
    if (l.v[i]->grad) l.v[i]->grad->data = before(f, l.v[i]->grad->data);
  return err;
}

/* An operation is not told its number: so each has its own pair. */
#define PU_OP(name, has_backward)                                                                                      \
  static pu_err forward_##name(pu_backend *be, void *args, pu_error *e) {                                              \
    return run(be, PU_OP_##name, false, args, e);                                                                      \
  }                                                                                                                    \
  static pu_err backward_##name(pu_backend *be, void *args, pu_error *e) {                                             \
    return run(be, PU_OP_##name, true, args, e);                                                                       \
  }
#include "puyu/ops.def"
#undef PU_OP

/* ---- open, close ---- */

static void far_close(pu_backend *be) {
  far *f = of(be);
  while (f->areas) far_free(be, f->areas->at);
  forget_all(f);
  if (f->pinned) abort();
  for (due *d = f->owed, *next; d; d = next) { /* nobody waited: where they were to go may be gone */
    next = d->next;
    free(d->rows);
    free(d);
  }
  f->cpu->close(f->cpu);
  free(f);
}

static void fill_table(far *f) {
#define PU_OP(name, has_backward)                                                                                      \
  f->base.forward[PU_OP_##name] = forward_##name;                                                                      \
  f->base.backward[PU_OP_##name] = (has_backward) ? backward_##name : NULL;
#include "puyu/ops.def"
#undef PU_OP
  f->base.forward[PU_OP_tile_weight] = NULL;
}

__attribute__((visibility("default"))) pu_err pu_plugin_open(int threads, pu_backend **out, pu_error *e);
__attribute__((visibility("default"))) const char *pu_plugin_interface(void);

const char *pu_plugin_interface(void) {
  return pu_interface;
}

pu_err pu_plugin_open(int threads, pu_backend **out, pu_error *e) {
  const char *mib = getenv("PUYU_FAR_MEMORY"), *isa = getenv("PUYU_FAR_ISA");
  far *f = calloc(1, sizeof *f);
  if (!f) return pu_fail(e, PU_ERR_NOMEM, "far: no memory");
  int with = (int)pu_isa_best();
  for (int i = 0; isa && i < (int)pu_isa_best(); i++)
    if (strcmp(isa, pu_isa_name((pu_isa)i)) == 0) with = i;
  pu_err err = pu_cpu_open(threads, (pu_isa)with, &f->cpu, e);
  if (err) {
    free(f);
    return err;
  }
  f->base = (pu_backend){.name = "far",
                         .alloc = far_alloc,
                         .free = far_free,
                         .upload = far_upload,
                         .download = far_download,
                         .clear = far_clear,
                         .copy = far_copy,
                         .copy_rows = far_copy_rows,
                         .pin = far_pin,
                         .unpin = far_unpin,
                         .sync = far_sync,
                         .mark = far_mark,
                         .reach = far_reach,
                         .record = far_record,
                         .play = far_play,
                         .close = far_close,
                         .pool = f->cpu->pool,
                         .work_bytes = far_work_bytes,
                         .memory = far_memory,
                         .describe = far_describe};
  f->last = &f->first;
  f->last_owed = &f->owed;
  f->total = (mib ? strtoull(mib, NULL, 10) : USUAL_MIB) << 20;
  fill_table(f);
  *out = &f->base;
  return PU_OK;
}
