/* One tile of a grouped product on tensor cores: ROWS by COLS of y, from tiles of a and b that arrive in shared memory
 * in stages of DEPTH of the sum.
 *
 * An operand that lies along the sum is kept as lines of DEPTH values, one for each row of y (column, of b); one that
 * lies turned as DEPTH lines of the tile's rows. Pieces of 16 bytes are permuted by the line's number, so that the
 * eight that ldmatrix reads at once lie in different banks. What lies outside of the group is zeros. */
#ifndef PUYU_CUDA_GROUPED_TENSOR_CUH
#define PUYU_CUDA_GROUPED_TENSOR_CUH

#include "src/compute/cuda/grouped.h"
#include "src/compute/cuda/mma.h"

template <int ROWS, bool A_TURNED, bool B_TURNED> struct tensor_tile {
  static constexpr int rows = ROWS, cols = 128, depth = 64, stages = ROWS == 16 ? 4 : 3;
  static constexpr bool a_turned = A_TURNED, b_turned = B_TURNED;
  static constexpr int warps_down = ROWS == 16 ? 1 : 2, warps = 4 * warps_down, threads = 32 * warps;
  static constexpr int down = ROWS / warps_down / 16, across = cols / 4 / 8; /* of a warp: mma tiles */
  static constexpr int a_bytes = ROWS * depth * 2, stage = a_bytes + cols * depth * 2;
};

/* Of a tile whose lines hold WIDTH values. */
template <int WIDTH> __device__ static inline uint32_t tile_piece(uint32_t tile, int line, int piece) {
  return tile + (uint32_t)(line * WIDTH * 2 + (piece ^ (line & 7)) * 16);
}

/* Bytes of a piece of 8 values from `at` on that lie below `end`. */
__device__ static inline int inside(int64_t at, int64_t end) {
  return at >= end ? 0 : at + 8 <= end ? 16 : (int)(end - at) * 2;
}

/* LINES by DEPTH from lines [line, lines) and [k, inner) of the sum. */
template <int LINES, bool TURNED, int DEPTH, int THREADS>
__device__ static inline void load_tile(uint32_t tile, const bf16 *from, int64_t line, int64_t lines, int64_t k,
                                        int64_t inner, int64_t step) {
  constexpr int width = TURNED ? LINES : DEPTH, count = TURNED ? DEPTH : LINES, pieces = width / 8;
  int64_t outer0 = TURNED ? k : line, outer_end = TURNED ? inner : lines;
  int64_t side0 = TURNED ? line : k, side_end = TURNED ? lines : inner;
#pragma unroll
  for (int i = threadIdx.x; i < count * pieces; i += THREADS) {
    int l = i / pieces, piece = i % pieces;
    int bytes = outer0 + l < outer_end ? inside(side0 + piece * 8, side_end) : 0;
    copy_async_wide(tile_piece<width>(tile, l, piece), bytes ? from + (outer0 + l) * step + side0 + piece * 8 : from,
                    bytes);
  }
}

/* The fragment of a of 16 rows from `row` on, step s of the stage. */
template <typename TILE> __device__ static inline void load_a(uint32_t *f, uint32_t tile, int row, int s) {
  int lane = threadIdx.x % 32, matrix = lane / 8, l = lane % 8;
  if (TILE::a_turned)
    load_matrices_turned(f, tile_piece<TILE::rows>(tile, s * 16 + matrix / 2 * 8 + l, row / 8 + matrix % 2));
  else
    load_matrices(f, tile_piece<TILE::depth>(tile, row + matrix % 2 * 8 + l, s * 2 + matrix / 2));
}

/* The fragments of b of twice 8 columns from `col` on. */
template <typename TILE> __device__ static inline void load_b(uint32_t *f, uint32_t tile, int col, int s) {
  int lane = threadIdx.x % 32, matrix = lane / 8, l = lane % 8;
  if (TILE::b_turned)
    load_matrices_turned(f, tile_piece<TILE::cols>(tile, s * 16 + matrix % 2 * 8 + l, col / 8 + matrix / 2));
  else
    load_matrices(f, tile_piece<TILE::depth>(tile, col + matrix / 2 * 8 + l, s * 2 + matrix % 2));
}

template <typename TILE>
__device__ static inline void use_stage(float (*sum)[TILE::across][4], uint32_t stage, int row, int col) {
#pragma unroll
  for (int s = 0; s < TILE::depth / 16; s++) {
    uint32_t a[TILE::down][4], b[TILE::across / 2][4];
#pragma unroll
    for (int i = 0; i < TILE::down; i++) load_a<TILE>(a[i], stage, row + i * 16, s);
#pragma unroll
    for (int j = 0; j < TILE::across / 2; j++) load_b<TILE>(b[j], stage + TILE::a_bytes, col + j * 16, s);
#pragma unroll
    for (int i = 0; i < TILE::down; i++)
#pragma unroll
      for (int j = 0; j < TILE::across; j++) mma(sum[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
  }
}

template <typename TILE>
__device__ static inline void load_stage(const pu_cuda_group &g, uint32_t stage, int64_t row, int64_t col, int64_t k) {
  load_tile<TILE::rows, TILE::a_turned, TILE::depth, TILE::threads>(stage, (const bf16 *)g.a, row, g.rows, k, g.inner,
                                                                    TILE::a_turned ? g.a_inner : g.a_row);
  load_tile<TILE::cols, TILE::b_turned, TILE::depth, TILE::threads>(
      stage + TILE::a_bytes, (const bf16 *)g.b, col, g.cols, k, g.inner, TILE::b_turned ? g.b_inner : g.b_col);
}

template <typename TILE>
__device__ static void sum_tile(const pu_cuda_group &g, uint32_t room, int64_t row, int64_t col,
                                float (*sum)[TILE::across][4]) {
  int n = (g.inner + TILE::depth - 1) / TILE::depth, warp = threadIdx.x / 32;
  int warp_row = warp / 4 * (TILE::down * 16), warp_col = warp % 4 * (TILE::across * 8);
  for (int s = 0; s < TILE::stages - 1; s++) {
    if (s < n) load_stage<TILE>(g, room + s * TILE::stage, row, col, (int64_t)s * TILE::depth);
    copies_commit();
  }
  for (int t = 0; t < n; t++) {
    copies_wait<TILE::stages - 2>();
    __syncthreads(); /* stage t is there for all, and all are done with t - 1 */
    int next = t + TILE::stages - 1;
    if (next < n) load_stage<TILE>(g, room + next % TILE::stages * TILE::stage, row, col, (int64_t)next * TILE::depth);
    copies_commit();
    use_stage<TILE>(sum, room + t % TILE::stages * TILE::stage, warp_row, warp_col);
  }
}

template <typename TILE, typename Y>
__device__ static void tensor_block(const pu_cuda_group &g, unsigned char *room, int64_t row, int64_t col) {
  float sum[TILE::down][TILE::across][4] = {};
  sum_tile<TILE>(g, shared_address(room), row, col, sum);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  row += warp / 4 * (TILE::down * 16) + lane / 4;
  col += warp % 4 * (TILE::across * 8) + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < TILE::down; i++)
#pragma unroll
    for (int j = 0; j < TILE::across; j++)
#pragma unroll
      for (int v = 0; v < 4; v++) pu_group_store<Y>(g, row + i * 16 + v / 2 * 8, col + j * 8 + v % 2, sum[i][j][v]);
}

#endif
