/* swiglu: y = silu(a) b, silu(a) = a s with s = 1 / (1 + exp(-a)); silu'(a) = s (1 + a (1 - s)). A thread has 16
 * bytes of one row, and reads all of it before it writes; bytes are all that counts: of bf16, 6 a value of y forward,
 * 10 backward, 12 where y is made again. */
#include "src/compute/cuda/gates.cuh"
#include "src/compute/cuda/rows.h"
#include "src/compute/cuda/use.h"

enum { THREADS = 256, MOST_ROWS = 65535 /* of a grid's y */ };

template <typename T> struct gates {
  const T *gu, *dy;
  T *y, *dgu;
  int64_t gu_step, dy_step, y_step, dgu_step, rows;
  int inner;
  bool add;
};

template <typename T, bool FAST> __global__ void __launch_bounds__(THREADS) swiglu_rows(gates<T> g) {
  constexpr int N = pu_lane<T>::n;
  int at = (int)(blockIdx.x * THREADS + threadIdx.x) * N;
  let_next_start();
  wait_for_before();
  if (at >= g.inner) return;
  for (int64_t n = blockIdx.y; n < g.rows; n += gridDim.y) {
    const T *row = g.gu + n * g.gu_step;
    float gate[N], up[N];
    read_row<FAST>(row, at, g.inner, gate);
    read_row<FAST>(row + g.inner, at, g.inner, up);
#pragma unroll
    for (int i = 0; i < N; i++) up[i] = pu_gated(gate[i], pu_sigmoid(gate[i], T()), up[i]);
    write_row<FAST>(g.y + n * g.y_step, at, g.inner, up);
  }
}

template <typename T, bool FAST, bool AGAIN> __global__ void __launch_bounds__(THREADS) swiglu_rows_back(gates<T> g) {
  constexpr int N = pu_lane<T>::n;
  int at = (int)(blockIdx.x * THREADS + threadIdx.x) * N;
  if (at >= g.inner) return;
  for (int64_t n = blockIdx.y; n < g.rows; n += gridDim.y) {
    const T *row = g.gu + n * g.gu_step;
    T *out = g.dgu + n * g.dgu_step;
    float gate[N], up[N], dy[N];
    read_row<FAST>(row, at, g.inner, gate);
    read_row<FAST>(row + g.inner, at, g.inner, up);
    read_row<FAST>(g.dy + n * g.dy_step, at, g.inner, dy);
#pragma unroll
    for (int i = 0; i < N; i++) {
      float s = pu_sigmoid(gate[i], T()), a = gate[i], y = pu_gated(a, s, up[i]);
      gate[i] = dy[i] * up[i] * s * (1.0f + a * (1.0f - s));
      up[i] = dy[i] * a * s;
      dy[i] = y;
    }
    acc_row<FAST>(out, at, g.inner, gate, g.add);
    acc_row<FAST>(out + g.inner, at, g.inner, up, g.add);
    if (AGAIN) write_row<FAST>(g.y + n * g.y_step, at, g.inner, dy);
  }
}

template <typename T> static dim3 grid_of(int64_t rows, int64_t inner) {
  return dim3((unsigned)ceil_div(inner, THREADS * pu_lane<T>::n), (unsigned)PU_MIN(rows, (int64_t)MOST_ROWS));
}

static pu_err swiglu(pu_backend *be, void *args, pu_error *e) {
  const pu_swiglu_args *a = (const pu_swiglu_args *)args;
  pu_cuda *d = (pu_cuda *)be;
  int64_t rows = a->y->shape[0], inner = a->y->shape[1];
  bool fast = pu_width_whole(inner) && pu_rows_aligned(a->gu) && pu_rows_aligned(a->y);
  if (rows * inner == 0) return PU_OK;
  pu_with_type(a->y->dtype, [&](auto type) {
    typedef decltype(type) T;
    gates<T> g = {.gu = (const T *)a->gu->data,
                  .y = (T *)a->y->data,
                  .gu_step = pu_step(a->gu),
                  .y_step = pu_step(a->y),
                  .rows = rows,
                  .inner = (int)inner};
    pu_cuda_start(d, rows <= PU_CUDA_SHORT_ROWS, fast ? swiglu_rows<T, true> : swiglu_rows<T, false>,
                  grid_of<T>(rows, inner), THREADS, 0, g);
  });
  return pu_cuda_launched("swiglu", e);
}

template <typename T> static void back_launch(pu_cuda *d, const gates<T> &g, bool fast, bool again) {
  void (*kernel)(gates<T>) = again ? (fast ? swiglu_rows_back<T, true, true> : swiglu_rows_back<T, false, true>)
                                   : (fast ? swiglu_rows_back<T, true, false> : swiglu_rows_back<T, false, false>);
  kernel<<<grid_of<T>(g.rows, g.inner), THREADS, 0, d->stream>>>(g);
}

static pu_err swiglu_back(pu_backend *be, void *args, pu_error *e) {
  const pu_swiglu_args *a = (const pu_swiglu_args *)args;
  pu_cuda *d = (pu_cuda *)be;
  const pu_tensor *dgu = a->gu->grad, *dy = a->y->grad;
  int64_t rows = a->y->shape[0], inner = a->y->shape[1];
  bool add = pu_grad_beta(a->gu) != 0;
  bool fast = pu_width_whole(inner) && pu_rows_aligned(a->gu) && pu_rows_aligned(dgu) && pu_rows_aligned(dy) &&
              pu_rows_aligned(a->y);
  if (rows * inner == 0) return PU_OK;
  pu_with_type(a->y->dtype, [&](auto type) {
    typedef decltype(type) T;
    gates<T> g = {.gu = (const T *)a->gu->data,
                  .dy = (const T *)dy->data,
                  .y = (T *)a->y->data,
                  .dgu = (T *)dgu->data,
                  .gu_step = pu_step(a->gu),
                  .dy_step = pu_step(dy),
                  .y_step = pu_step(a->y),
                  .dgu_step = pu_step(dgu),
                  .rows = rows,
                  .inner = (int)inner,
                  .add = add};
    back_launch(d, g, fast, a->again);
  });
  return pu_cuda_launched("swiglu, backward", e);
}

void pu_cuda_use_swiglu(pu_cuda *d) {
  d->base.forward[PU_OP_swiglu] = swiglu;
  d->base.backward[PU_OP_swiglu] = swiglu_back;
}
