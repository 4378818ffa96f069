/* Weights in few bits: packing them, giving them back, and which kernel multiplies by them. */
#include "src/compute/cuda/packed.h"
#include "src/compute/cuda/packed_batch.h"
#include "src/compute/cuda/use.h"
#include "src/compute/cuda/w8a8.h"

/* ---- packing ---- */

enum { PACK_AT_ONCE = 64 << 20, PACK_THREADS = 256 };

typedef struct pack_job {
  const uint8_t *q;          /* [rows, cols] from row `first` */
  const float *scale, *zero; /* [rows, groups] likewise; zero NULL: none */
  const int32_t *order;
  uint8_t *to;     /* from that row's block */
  packed_layout l; /* of these rows */
  int bits, group;
  int64_t rows, cols;
} pack_job;

__device__ static uint32_t value_at(const pack_job &j, int64_t row, int64_t place) {
  int64_t input = j.order ? j.order[place] : place < j.cols ? place : -1;
  return row < j.rows && input >= 0 ? j.q[row * j.cols + input] : 0;
}

/* The word-th of a piece's words of bits. */
__device__ static uint32_t pack_word(const pack_job &j, int64_t block, int64_t piece, int word) {
  int inputs = piece + 1 == j.l.pieces ? j.l.tail : PACKED_PIECE, unit = word / (PACKED_UNIT / 4),
      at = word % (PACKED_UNIT / 4);
  int words = j.bits == 4 && unit * 64 + 32 == inputs ? 2 : 4, lane = at / words, w = at % words;
  int step = j.bits == 4 ? unit * 4 + w : unit * 2 + w / 2;
  int64_t k = piece * PACKED_PIECE + step * 16 + lane % 4 * 2, row = block * PACKED_ROWS + lane / 4;
  uint32_t out = 0;
  for (int i = 0; i < (j.bits == 4 ? 4 : 2); i++) {
    int pair = j.bits == 4 ? i : w % 2 * 2 + i;
    for (int odd = 0; odd < 2; odd++)
      out |= value_at(j, row + pair % 2 * 8, k + pair / 2 * 8 + odd) << (j.bits * i + 16 * odd);
  }
  return out;
}

/* The half-th of a piece's scales and zeros. */
__device__ static __half pack_scale(const pack_job &j, int64_t block, int64_t piece, int half) {
  int of = j.zero ? 4 : 2, which = half % of;
  int64_t row = block * PACKED_ROWS + half / of % 8 + which % 2 * 8,
          group = piece * (PACKED_PIECE / j.group) + half / of / 8;
  const float *from = which < 2 ? j.scale : j.zero;
  return __float2half_rn(row < j.rows ? from[row * j.l.groups + group] : 0.0f);
}

/* A block of threads a piece of sixteen rows. */
__global__ static void pack_pieces(pack_job j) {
  int64_t piece = blockIdx.y, block = blockIdx.x;
  int inputs = piece + 1 == j.l.pieces ? j.l.tail : PACKED_PIECE, words = inputs * PACKED_ROWS * j.bits / 32;
  int halves = inputs / j.group * PACKED_ROWS * (j.zero ? 2 : 1);
  uint8_t *to = j.to + packed_at(j.l, block, piece);
  for (int i = threadIdx.x; i < words; i += PACK_THREADS) ((uint32_t *)to)[i] = pack_word(j, block, piece, i);
  for (int i = threadIdx.x; i < halves; i += PACK_THREADS)
    ((__half *)to)[words * 2 + i] = pack_scale(j, block, piece, i);
}

static size_t round_up(size_t bytes) {
  return (bytes + 255) / 256 * 256;
}

typedef struct pack_source {
  const uint8_t *q;
  const float *scale, *zero;
} pack_source;

/* Some rows, a multiple of 128 but for the last, which then lie at j->to. */
static pu_err pack_rows(pu_cuda *d, pack_job *j, const pack_source *s, char *room, pu_error *e) {
  size_t q = (size_t)(j->rows * j->cols), scales = (size_t)(j->rows * j->l.groups) * sizeof(float);
  pu_backend *be = &d->base;
  j->l.blocks = ceil_div(j->rows, PACKED_ROWS);
  j->q = (const uint8_t *)room;
  j->scale = (const float *)(room + round_up(q));
  j->zero = s->zero ? (const float *)(room + round_up(q) + round_up(scales)) : NULL;
  PU_TRY(be->upload(be, (void *)j->q, s->q, q, e));
  PU_TRY(be->upload(be, (void *)j->scale, s->scale, scales, e));
  if (s->zero) PU_TRY(be->upload(be, (void *)j->zero, s->zero, scales, e));
  dim3 grid((unsigned)j->l.blocks, (unsigned)j->l.pieces);
  pack_pieces<<<grid, PACK_THREADS, 0, d->stream>>>(*j);
  return pu_cuda_launched("packing a weight", e);
}

static pu_err pack_matrix(pu_cuda *d, const packed_matrix *m, const pack_source *s, char *room, int64_t rows,
                          pu_error *e) {
  pack_job j = {};
  j.l = m->l;
  j.cols = m->cols;
  j.order = m->order;
  j.bits = m->p.bits;
  j.group = m->p.group;
  for (int64_t row = 0; row < m->rows; row += rows) {
    int64_t groups = row * m->l.groups;
    pack_source from = {s->q + row * m->cols, s->scale + groups, s->zero ? s->zero + groups : NULL};
    j.rows = PU_MIN(rows, m->rows - row);
    j.to = (uint8_t *)m->data + row / PACKED_ROWS * m->l.block_bytes;
    PU_TRY(pack_rows(d, &j, &from, room, e));
  }
  return PU_OK;
}

/* A product may ask for its weights before the kernel before it is done (after_last_kernel), so packing ends with what
 * is no kernel. */
static pu_err pack_weight(pu_backend *be, void *args, pu_error *e) {
  const pu_pack_weight_args *a = (const pu_pack_weight_args *)args;
  const pu_tensor *w = a->out;
  pu_cuda *d = (pu_cuda *)be;
  int64_t n = w->ndim == 3 ? w->shape[0] : 1;
  packed_matrix m = packed_matrix_of(w, 0);
  if (n == 0 || m.rows == 0 || m.cols == 0) return PU_OK;
  const int64_t whole = PACKED_ROWS * PACKED_BLOCKS;
  int64_t rows = PU_MIN(m.rows, PU_MAX(PACK_AT_ONCE / (m.cols * whole), (int64_t)1) * whole);
  size_t bytes = round_up((size_t)(rows * m.cols)) + 2 * round_up((size_t)(rows * m.l.groups) * sizeof(float));
  void *room;
  PU_TRY(pu_cuda_work(d, bytes, &room, e));
  for (int64_t i = 0; i < n; i++) {
    int64_t scales = i * m.rows * m.l.groups;
    packed_matrix one = packed_matrix_of(w, i);
    pack_source s = {a->q + i * m.rows * m.cols, a->scale + scales, a->zero ? a->zero + scales : NULL};
    if (a->order) PU_TRY(be->upload(be, (void *)one.order, a->order, (size_t)m.l.places * sizeof *a->order, e));
    PU_TRY(pack_matrix(d, &one, &s, (char *)room, rows, e));
  }
  return be->clear(be, room, 64, e);
}

/* On this backend TILED is as PLAIN, contiguous: the model keeps a second matrix only where it has two (a tied
 * embedding). */
static pu_err tile_weight(pu_backend *be, void *args, pu_error *e) {
  const pu_tile_weight_args *a = (const pu_tile_weight_args *)args;
  size_t size = pu_dtype_size(a->w->dtype), row = (size_t)a->w->shape[1] * size;
  if (pu_cuda_is_w8a8(a->out)) return pu_cuda_w8a8_weight((pu_cuda *)be, a->w, a->out, e);
  if (a->w->shape[0] == 0 || row == 0) return PU_OK;
  PU_CUDA_TRY(cudaMemcpy2DAsync(a->out->data, row, a->w->data, (size_t)a->w->stride[0] * size, row,
                                (size_t)a->w->shape[0], cudaMemcpyDeviceToDevice, ((pu_cuda *)be)->stream),
              "copying a weight", e);
  return PU_OK;
}

/* ---- giving back what the bits stand for ---- */

typedef struct unpack_job {
  packed_matrix w;
  int64_t first, rows; /* multiples of sixteen, but for the last rows */
  void *to;            /* [rows, step] */
  int64_t step;
  const int32_t *order; /* to which input each place goes; NULL: as they lie */
  int64_t most;         /* inputs from there on are left out */
} unpack_job;

enum { UNPACK_THREADS = 128, UNPACK_STEP = 36 };

/* Sixteen rows by 64 inputs (or 32) in shared memory, [16][UNPACK_STEP] pairs of bf16 integers: no two lanes in one
 * bank. from: the piece; unit: which half of it. */
__device__ static inline void spread_unit(const uint8_t *from, int bits, int unit, int steps, uint32_t *tile,
                                          int lane) {
  const uint8_t *q = from + unit * 64 * PACKED_ROWS * bits / 8;
  for (int step = 0; step < steps; step++) {
    uint32_t a[4];
    if (bits == 4) {
      unpack4(((const uint32_t *)q)[lane * steps + step], a);
    } else {
      const uint32_t *v = (const uint32_t *)(q + step / 2 * PACKED_UNIT) + lane * 4 + step % 2 * 2;
      unpack8(v[0], a), unpack8(v[1], a + 2);
    }
    for (int i = 0; i < 4; i++) tile[(lane / 4 + i % 2 * 8) * UNPACK_STEP + step * 8 + i / 2 * 4 + lane % 4] = a[i];
  }
}

template <typename T> __device__ static inline void store8(const unpack_job &j, T *row, int64_t k, const float v[8]) {
  if (!j.order && k + 8 <= j.most && (uintptr_t)(row + k) % 16 == 0) {
    constexpr int n = pu_pack<T>::n;
#pragma unroll
    for (int i = 0; i < 8; i += n) {
      pu_pack<T> out;
#pragma unroll
      for (int m = 0; m < n; m++) out.v[m] = from_f32<T>(v[i + m]);
      *(pu_pack<T> *)(row + k + i) = out;
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; i++) {
    int64_t at = j.order ? j.order[k + i] : k + i;
    if (at >= 0 && at < j.most) row[at] = from_f32<T>(v[i]);
  }
}

/* A warp a unit of 64 inputs. */
template <typename T> __global__ static void unpack_weight(unpack_job j) {
  __shared__ uint32_t tiles[UNPACK_THREADS / 32][PACKED_ROWS * UNPACK_STEP];
  const packed_matrix &w = j.w;
  int lane = threadIdx.x % 32;
  uint32_t *tile = tiles[threadIdx.x / 32];
  int64_t unit = (int64_t)blockIdx.y * (UNPACK_THREADS / 32) + threadIdx.x / 32,
          block = j.first / PACKED_ROWS + blockIdx.x;
  if (unit * 64 >= w.l.places) return;
  int width = (int)min((int64_t)64, w.l.places - unit * 64),
      inputs = unit / 2 + 1 == w.l.pieces ? w.l.tail : PACKED_PIECE;
  const uint8_t *piece = w.data + packed_at(w.l, block, unit / 2);
  spread_unit(piece, w.p.bits, (int)(unit % 2), width / 16, tile, lane);
  __syncwarp();
  float middle = (float)(1 << (w.p.bits - 1));
  for (int i = lane; i < PACKED_ROWS * width / 8; i += 32) {
    int row = i / (width / 8), at = i % (width / 8) * 8, group = (int)(unit % 2 * 64 + at) / w.p.group;
    int64_t m = (int64_t)blockIdx.x * PACKED_ROWS + row, k = unit * 64 + at;
    if (m >= j.rows) continue;
    const __half *s = (const __half *)(piece + inputs * PACKED_ROWS * w.p.bits / 8) +
                      (group * 8 + row % 8) * (w.p.zeros ? 4 : 2) + row / 8;
    float scale = __half2float(s[0]), zero = w.p.zeros ? __half2float(s[2]) - middle : 0.0f, v[8];
    const uint32_t *from = tile + row * UNPACK_STEP + at / 2;
#pragma unroll
    for (int n = 0; n < 8; n++)
      v[n] = (__uint_as_float(n % 2 ? from[n / 2] & 0xffff0000u : from[n / 2] << 16) - zero) * scale;
    store8<T>(j, (T *)j.to + m * j.step, k, v);
  }
}

static pu_err unpack_rows(pu_cuda *d, const unpack_job *j, pu_dtype type, pu_error *e) {
  if (j->rows == 0 || j->w.l.places == 0) return PU_OK;
  dim3 grid((unsigned)ceil_div(j->rows, PACKED_ROWS), (unsigned)ceil_div(j->w.l.places, 64 * (UNPACK_THREADS / 32)));
  if (type == PU_F32)
    unpack_weight<float><<<grid, UNPACK_THREADS, 0, d->stream>>>(*j);
  else
    unpack_weight<bf16><<<grid, UNPACK_THREADS, 0, d->stream>>>(*j);
  return pu_cuda_launched("making plain rows of a packed weight", e);
}

pu_err pu_cuda_packed_plain(pu_cuda *d, const pu_tensor *w, int64_t matrix, int64_t first, int64_t rows, void *out,
                            pu_error *e) {
  unpack_job j = {packed_matrix_of(w, matrix), first, rows, out, 0, NULL, 0};
  j.step = j.most = j.w.cols;
  j.order = j.w.order;
  return unpack_rows(d, &j, w->dtype, e);
}

/* ---- x ---- */

/* [tokens][places] from x's rows: in order, zeros where no input stands. */
__global__ static void place_inputs(bf16 *to, const bf16 *x, int64_t step, int64_t cols, int64_t places,
                                    const int32_t *order) {
  int64_t k = (int64_t)blockIdx.y * PACK_THREADS + threadIdx.x, token = blockIdx.x;
  if (k >= places) return;
  int64_t from = order ? order[k] : k < cols ? k : -1;
  to[token * places + k] = from < 0 ? from_f32<bf16>(0.0f) : x[token * step + from];
}

static pu_err place_x(pu_cuda *d, const pu_tensor *x, const packed_matrix *w, void *to, pu_error *e) {
  dim3 grid((unsigned)x->shape[0], (unsigned)ceil_div(w->l.places, PACK_THREADS));
  place_inputs<<<grid, PACK_THREADS, 0, d->stream>>>((bf16 *)to, (const bf16 *)x->data, x->stride[0], x->shape[1],
                                                     w->l.places, w->order);
  return pu_cuda_launched("laying out a packed weight's inputs", e);
}

/* x can be read as it lies. */
static bool in_place(const pu_tensor *x, const packed_matrix *w) {
  return !w->order && w->l.places == w->cols && (uintptr_t)x->data % 16 == 0 && x->stride[0] % 8 == 0;
}

static packed_x x_as_it_lies(const pu_tensor *x) {
  packed_x p = {x->data, x->stride[0], x->shape[0], x->dtype, NULL};
  return p;
}

/* For the kernels of many tokens, of bf16. room: placed_bytes. */
static pu_err ready_x(pu_cuda *d, const pu_tensor *x, const packed_matrix *w, void *room, packed_x *out, pu_error *e) {
  *out = x_as_it_lies(x);
  if (in_place(x, w)) return PU_OK;
  out->x = room;
  out->step = w->l.places;
  return place_x(d, x, w, room, e);
}

static size_t placed_bytes(const pu_tensor *x, const packed_matrix *w) {
  return in_place(x, w) ? 0 : round_up((size_t)(x->shape[0] * w->l.places) * sizeof(bf16));
}

/* For those of few. room: rounded_bytes. */
static pu_err round_x(pu_cuda *d, const pu_tensor *x, const packed_matrix *w, void *room, packed_x *out, pu_error *e) {
  *out = x_as_it_lies(x);
  if (out->tokens <= PACKED_ROUND && in_place(x, w)) return PU_OK;
  return packed_round(d, w, out, room, e);
}

static size_t rounded_bytes(const pu_tensor *x, const packed_matrix *w) {
  return x->shape[0] <= PACKED_ROUND && in_place(x, w) ? 0 : packed_round_bytes(w, x->shape[0], x->dtype);
}

static packed_y y_of(const pu_linear_args *a) {
  packed_y y = {a->y->data, a->y->stride[0], a->y->dtype, a->b ? a->b->data : NULL, a->b ? a->b->dtype : PU_F32};
  return y;
}

/* ---- products ---- */

enum { PLAIN_AT_ONCE = 256 << 20 };

static pu_err linear_many(pu_cuda *d, const pu_linear_args *a, const packed_matrix *w, pu_error *e) {
  size_t placed = placed_bytes(a->x, w), sums = packed_many_bytes(d, w, a->x->shape[0]);
  packed_x x;
  packed_y y = y_of(a);
  void *room = NULL;
  if (placed + sums) PU_TRY(pu_cuda_work(d, placed + sums, &room, e));
  PU_TRY(ready_x(d, a->x, w, room, &x, e));
  return packed_many(d, w, &x, w->l.places, &y, (char *)room + placed, e);
}

static pu_err linear_batch(pu_cuda *d, const pu_linear_args *a, const packed_matrix *w, pu_error *e) {
  size_t placed = placed_bytes(a->x, w), sums = packed_batch_bytes(d, w, a->x->shape[0]);
  packed_x x;
  packed_y y = y_of(a);
  void *room;
  PU_TRY(pu_cuda_work(d, placed + sums, &room, e));
  PU_TRY(ready_x(d, a->x, w, room, &x, e));
  return packed_batch(d, w, &x, &y, (char *)room + placed, e);
}

static pu_err linear_few(pu_cuda *d, const pu_tensor *in, const packed_matrix *w, const packed_y *y, bool gated,
                         pu_error *e) {
  size_t bytes = rounded_bytes(in, w);
  packed_x x;
  void *room = NULL;
  if (bytes) PU_TRY(pu_cuda_work(d, bytes, &room, e));
  PU_TRY(round_x(d, in, w, room, &x, e));
  return packed_few(d, w, &x, y, NULL, gated, e);
}

/* Plain rows into work memory, some at a time, and a plain product by them. Without an order they need none in x
 * either. */
static pu_err linear_plain(pu_cuda *d, const pu_linear_args *a, const packed_matrix *w, pu_error *e) {
  size_t size = pu_dtype_size(a->x->dtype);
  int64_t whole = ceil_div(w->rows, PACKED_ROWS) * PACKED_ROWS, cols = w->cols;
  int64_t rows = PU_MIN(whole, PU_MAX(PLAIN_AT_ONCE / (int64_t)size / cols / PACKED_ROWS, (int64_t)1) * PACKED_ROWS);
  void *room;
  PU_TRY(pu_cuda_work(d, (size_t)(rows * cols) * size, &room, e));
  for (int64_t row = 0; row < w->rows; row += rows) {
    int64_t n = PU_MIN(rows, w->rows - row);
    unpack_job j = {*w, row, n, room, cols, w->order, cols};
    pu_cuda_product p = {};
    PU_TRY(unpack_rows(d, &j, a->x->dtype, e));
    p.a = a->x->data, p.b = room;
    p.y = (char *)a->y->data + (size_t)row * pu_dtype_size(a->y->dtype);
    p.rows = a->x->shape[0], p.cols = n, p.inner = cols;
    p.a_step = a->x->stride[0], p.b_step = cols, p.y_step = a->y->stride[0];
    p.type = a->x->dtype, p.y_type = a->y->dtype;
    if (a->b) p.bias = (const char *)a->b->data + (size_t)row * pu_dtype_size(a->b->dtype), p.bias_type = a->b->dtype;
    PU_TRY(pu_cuda_multiply(d, &p, e));
  }
  return PU_OK;
}

/* Without wgmma more tokens are taken some at a time, as long as that is less work than making plain rows. */
enum { FEW_TOKENS = 64 };

/* By wgmma, of few tokens each or of many. */
static bool is_wide(const pu_cuda *d, const pu_tensor *x, const packed_matrix *w) {
  return x->shape[0] >= PACKED_BATCH_FROM && x->dtype == PU_BF16 && packed_many_can(d) && w->cols > 0;
}

pu_err pu_cuda_packed_linear(pu_cuda *d, const pu_linear_args *a, pu_error *e) {
  packed_matrix w = packed_matrix_of(a->w, 0);
  const packed_y y = y_of(a);
  int64_t tokens = a->x->shape[0];
  if (tokens == 0 || w.rows == 0) return PU_OK;
  if (is_wide(d, a->x, &w)) return tokens <= PACKED_BATCH ? linear_batch(d, a, &w, e) : linear_many(d, a, &w, e);
  if (tokens <= FEW_TOKENS || w.cols == 0) return linear_few(d, a->x, &w, &y, false, e);
  return linear_plain(d, a, &w, e);
}

bool pu_cuda_packed_has_gated(const pu_linear_args *a) {
  const packed_matrix w = packed_matrix_of(a->w, 0);
  const int64_t tokens = a->x->shape[0];
  return tokens > 0 && tokens < PACKED_BATCH_FROM && a->x->dtype == PU_BF16 && w.rows > 0 && packed_few_gates(&w);
}

pu_err pu_cuda_packed_gated(pu_cuda *d, const pu_linear_args *a, const pu_tensor *y, pu_error *e) {
  const packed_matrix w = packed_matrix_of(a->w, 0);
  const packed_y to = {y->data, y->stride[0], y->dtype, NULL, PU_F32};
  return linear_few(d, a->x, &w, &to, true, e);
}

pu_err pu_cuda_packed_experts(pu_cuda *d, const pu_tensor *x, const pu_tensor *w, const int32_t *offsets, pu_tensor *y,
                              void *room, pu_error *e) {
  packed_matrix m = packed_matrix_of(w, 0);
  packed_parts parts = {offsets, (int)w->shape[0], m.l.bytes};
  packed_x from;
  packed_y to = {y->data, y->stride[0], y->dtype, NULL, PU_F32};
  if (x->shape[0] == 0) return PU_OK;
  if (!is_wide(d, x, &m)) {
    PU_TRY(round_x(d, x, &m, room, &from, e));
    return packed_few(d, &m, &from, &to, &parts, false, e);
  }
  PU_TRY(ready_x(d, x, &m, room, &from, e));
  if (x->shape[0] / parts.n > PACKED_BATCH) return packed_many_parts(d, &m, &from, m.l.places, &to, &parts, e);
  return packed_batch_parts(d, &m, &from, &to, &parts, e);
}

size_t pu_cuda_packed_experts_bytes(const pu_tensor *x, const pu_tensor *w) {
  packed_matrix m = packed_matrix_of(w, 0);
  return PU_MAX(placed_bytes(x, &m), rounded_bytes(x, &m));
}

void pu_cuda_use_packed(pu_cuda *d) {
  d->base.forward[PU_OP_pack_weight] = pack_weight;
  d->base.forward[PU_OP_tile_weight] = tile_weight;
}
