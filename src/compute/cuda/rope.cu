/* rope: turns the first and second half of each query and key head by the token's angles, in place. A thread has 16
 * bytes of a first half and their partners; the angles, f32 [N, D], are the same for all heads and come from the
 * caches. */
#include "src/compute/cuda/rows.h"
#include "src/compute/cuda/use.h"

enum { THREADS = 256, MOST_ROWS = 65535 };

template <typename T> struct rotation {
  T *t;
  const float *cs;
  int64_t step, cs_step, rows;
  int heads, half;
  float sign; /* -1: back */
};

/* x: pieces of a half; y: heads. */
template <typename T, bool FAST> __global__ void __launch_bounds__(THREADS) rotate_rows(rotation<T> r) {
  constexpr int N = pu_lane<T>::n;
  int head = (int)(blockIdx.x * blockDim.y + threadIdx.y);
  let_next_start();
  wait_for_before();
  if (head >= r.heads) return;
  for (int64_t n = blockIdx.y; n < r.rows; n += gridDim.y) {
    T *first = r.t + n * r.step + (int64_t)head * 2 * r.half, *second = first + r.half;
    const float *cs = r.cs + n * r.cs_step;
    for (int at = (int)threadIdx.x * N; at < r.half; at += (int)blockDim.x * N) {
      float x1[N], x2[N], cos[N], sin[N];
      read_row<FAST>(first, at, r.half, x1);
      read_row<FAST>(second, at, r.half, x2);
      read_vector<FAST>({cs, true, FAST}, at, r.half, cos);
      read_vector<FAST>({cs + r.half, true, FAST}, at, r.half, sin);
#pragma unroll
      for (int i = 0; i < N; i++) {
        float s = r.sign * sin[i], a = x1[i], b = x2[i];
        x1[i] = pu_turned(a, b, cos[i], -s);
        x2[i] = pu_turned(b, a, cos[i], s);
      }
      write_row<FAST>(first, at, r.half, x1);
      write_row<FAST>(second, at, r.half, x2);
    }
  }
}

static pu_err rotate(pu_cuda *d, const pu_rope_args *a, const pu_tensor *t, float sign, pu_error *e) {
  int lane = t->dtype == PU_F32 ? pu_lane<float>::n : pu_lane<bf16>::n;
  int half = a->head_dim / 2, heads = a->heads + a->kv_heads;
  int64_t rows = t->shape[0], pieces = PU_MIN(ceil_div(half, lane), (int64_t)THREADS);
  bool fast = pu_width_whole(half) && pu_rows_aligned(t) && pu_rows_aligned(a->cs);
  dim3 block((unsigned)pieces, (unsigned)PU_MIN((int64_t)heads, THREADS / pieces));
  dim3 grid((unsigned)ceil_div(heads, block.y), (unsigned)PU_MIN(rows, (int64_t)MOST_ROWS));
  if (rows == 0) return PU_OK;
  pu_with_type(t->dtype, [&](auto type) {
    typedef decltype(type) T;
    rotation<T> r = {(T *)t->data, (const float *)a->cs->data, pu_step(t), pu_step(a->cs), rows, heads, half, sign};
    pu_cuda_start(d, rows <= PU_CUDA_SHORT_ROWS, fast ? rotate_rows<T, true> : rotate_rows<T, false>, grid, block, 0,
                  r);
  });
  return pu_cuda_launched("rope", e);
}

pu_err pu_cuda_rope(pu_cuda *d, const pu_rope_args *a, pu_error *e) {
  return rotate(d, a, a->qkv, 1, e);
}

static pu_err rope(pu_backend *be, void *args, pu_error *e) {
  return pu_cuda_rope((pu_cuda *)be, (const pu_rope_args *)args, e);
}

static pu_err rope_back(pu_backend *be, void *args, pu_error *e) {
  const pu_rope_args *a = (const pu_rope_args *)args;
  return rotate((pu_cuda *)be, a, a->qkv->grad, -1, e);
}

void pu_cuda_use_rope(pu_cuda *d) {
  d->base.forward[PU_OP_rope] = rope;
  d->base.backward[PU_OP_rope] = rope_back;
}
