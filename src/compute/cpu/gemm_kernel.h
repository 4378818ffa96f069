/* What an instruction set gives to the matrix product: how operands are packed, and one micro kernel.
 *
 * The driver (gemm.c) cuts C into blocks. It packs B of a block, up to `depth` of k at once (it stays in the L2 cache),
 * and takes A by panels of mr rows and kc of k (a panel stays in L1): packed, or where it lies, when a kernel can read
 * it so. The micro kernel does one mr x nr tile of C. Sums over k are kept in f32 between panels, in scratch; the last
 * one hands each finished tile to `store`. This is the scheme of Goto & van de Geijn (2008) with the two inner loops
 * exchanged, since AMX wants its A panel in L1. */
#ifndef PUYU_GEMM_KERNEL_H
#define PUYU_GEMM_KERNEL_H

#include "src/compute/cpu/gemm.h"

enum { PU_TILE_ROWS = 16, PU_TILE_ROW_BYTES = 64, PU_TILE_BYTES = 1024 };

/* Rows of A, or columns of B (both called rows here: what is not k), that are to be packed. */
typedef struct pu_panel {
  const void *data;
  pu_dtype type;
  int64_t r_step, k_step; /* elements from one row, one k, to the next; one of them is 1 */
  int rows;               /* rows there are */
  int lanes;              /* rows to fill: zeros after `rows` */
  int width;              /* lanes of the whole panel, for kernels whose panel is [k][width] */
  int64_t k;
} pu_panel;

/* A finished tile of sums on its way into C: C = alpha acc + beta C + bias. */
typedef struct pu_gemm_tile {
  const float *acc; /* as micro left it: [mr][ld], or four 16 x 16 tiles (AMX) */
  int ld, rows, cols;
  bool stream; /* C is too large to stay in the caches: write it past them where whole lines allow it */
  void *c;     /* element (i, j) at i * c_row + j, or, transposed, at j * c_row + i */
  pu_dtype type;
  int64_t c_row;
  bool transposed;
  float alpha, beta;
  const void *bias; /* one for each column of C as it lies in memory, from this tile's first; or NULL */
  pu_dtype bias_type;
} pu_gemm_tile;

/* A panel of A as AMX reads it, in bytes: from one line of a tile to the next, from one tile of k to the next, and to
 * the second row of tiles. Kernels of vector registers read panels packed densely and need the address alone. */
typedef struct pu_panel_a {
  const void *data;
  int64_t line, k_tile, row_tile;
} pu_panel_a;

/* Memory the driver will need next: a micro kernel asks for it, a few lines at each step, while it multiplies. Spread
 * so, it hides the wait for memory; asked for at once, it would block the kernel's own loads. Two streams: of A and of
 * B. */
typedef struct pu_fetch {
  struct {
    const char *at;
    int64_t step; /* bytes from one step's lines to the next's */
    int64_t next; /* bytes from one line of a step to the next */
    int lines;    /* of a step */
  } stream[2];
  char *c;       /* the tile's rows in C, to be written when this product is done */
  int64_t c_row; /* bytes */
  int c_steps;   /* two rows a step; 0: C is not written yet, or past the caches */
  int c_lines;   /* of a row */
} pu_fetch;

enum { PU_FETCH_STEPS = 16, PU_FETCH_LINES = 4 };

static inline __attribute__((always_inline)) void pu_fetch_step(const pu_fetch *f, int64_t i) {
  for (int s = 0; s < 2; s++)
    for (int line = 0; line < f->stream[s].lines; line++)
      __builtin_prefetch(f->stream[s].at + i * f->stream[s].step + line * f->stream[s].next, 0, 2);
  for (int line = 0; i < f->c_steps && line < f->c_lines; line++) {
    __builtin_prefetch(f->c + 2 * i * f->c_row + line * 64, 1, 3);
    __builtin_prefetch(f->c + (2 * i + 1) * f->c_row + line * 64, 1, 3);
  }
}

typedef struct pu_gemm_kernel {
  int mr, nr;
  int kc;        /* k of a panel of A: a tile's sums are cut at multiples of it, whatever the threads */
  int depth;     /* k of B packed at once, a multiple of kc */
  int most_sums; /* f32s of a block kept between depths */
  int edge;      /* what packing a column of B, or bringing a row of A, costs: columns, rows of products */
  int k_unit;    /* packed k is padded with zeros to a multiple */
  int bytes;     /* of a packed element */
  /* Fill a panel. f32 kernels: [k][width]. AMX: tiles of 1 KiB, see isa/gemm_amx.c. */
  void (*pack_a)(void *dst, const pu_panel *p);
  void (*pack_b)(void *dst, const pu_panel *p);
  /* Where weight tiles are turned: 16 columns of a panel of B from k of a row of tiles (NULL: zeros). */
  void (*pack_tiles)(void *dst, const void *tiles, int64_t k);
  /* acc (mr nr sums) = (add ? acc : 0) + A B over k packed steps of depth. */
  void (*micro)(const pu_panel_a *a, const void *b, int64_t k, float *acc, bool add, const pu_fetch *fetch);
  void (*store)(const pu_gemm_tile *t);
  void (*begin)(void); /* on each thread before the first micro, or NULL */
  void (*end)(void);
  /* Decode: one row of weight tiles [k_tiles][16][64 bytes] times stream_rows (or fewer) rows of x packed by
   * stream_pack; out [16][ld], or where tiles are turned [rows][ld]. The sums are those of micro, to the bit. */
  int stream_rows;
  void (*stream_pack)(void *dst, const pu_panel *x, int64_t k_tiles);
  void (*stream)(const void *w, int64_t k_tiles, const void *x, int rows, float *out, int ld);
  void (*stream_store)(const pu_gemm_tile *t); /* acc is out */
  bool tiles;                                  /* A is read as tiles of lines: weight tiles are panels of A as they lie
                                                * (else they are turned, and packed as B), and so may be rows of x */
} pu_gemm_kernel;

extern const pu_gemm_kernel pu_gemm_avx2, pu_gemm_avx2_bf16, pu_gemm_avx512, pu_gemm_avx512_bf16, pu_gemm_amx;

/* NULL for the reference. */
const pu_gemm_kernel *pu_gemm_kernel_for(pu_isa isa, pu_dtype type);

/* A packed whole, all its panels over all of k in steps of kc, before the blocks began: panel i lies in the scratch of
 * worker i % threads. */
typedef struct pu_packed {
  bool used;
  char *const *scratch;
  int threads;
  int64_t panel_bytes, step_bytes; /* of a panel; of one k in it */
} pu_packed;

/* A product as the driver runs it. */
typedef struct pu_gemm_job {
  pu_gemm g;
  const pu_gemm_kernel *kernel;
  bool a_tiled, b_tiled, c_transposed;
  /* set by the driver */
  int64_t m_block, n_block, depth;
  bool a_in_place; /* whole panels of A are read where they lie */
  bool stream_c;
  pu_packed a_packed;
} pu_gemm_job;
void pu_gemm_run(pu_cpu *cpu, pu_gemm_job *job);

/* The reference: plain loops. */
void pu_gemm_reference(const pu_gemm *g);
void pu_linear_tiled_reference(const pu_tensor *x, const pu_tensor *w, const pu_tensor *b, pu_tensor *y);

/* Decode with turned tiles. Rows of x are taken in groups of even sizes; a group is packed as a panel of A of that
 * width, in which one line of weights meets one step of all its rows. A run of weights (kc of k, which L1 holds) meets
 * all groups before the next one comes: so weights pass once, and each run's sums begin at 0 and are then added to
 * those before, which is micro's order. */
enum { PU_STREAM_GROUP = 8 };

/* sums [rows][16] = (add ? sums : 0) + x w^T over some lines of weights; the number of rows is the function's own. */
typedef void (*pu_stream_part)(const char *w, int64_t lines, const char *x, float *sums, bool add);

typedef struct pu_stream_form {
  int most;      /* rows of a group, up to PU_STREAM_GROUP */
  int step;      /* packed bytes of a row of x for one line of weights */
  int run_tiles; /* kc in tiles */
  void (*pack)(void *dst, const pu_panel *p);
  pu_stream_part part[PU_STREAM_GROUP]; /* for 1, 2, … rows */
} pu_stream_form;

void pu_stream_pack_groups(const pu_stream_form *f, void *dst, const pu_panel *x, int64_t k_tiles);
/* out: [rows][16] */
void pu_stream_groups(const pu_stream_form *f, const void *w, int64_t k_tiles, const void *x, int rows, float *out);

#endif
