/* Random weights: normal values, each a function of the seed, the parameter's name and its place in it. They are made
 * of integers, products, sums and square roots alone, whose roundings IEEE 754 fixes, so they are the same on every
 * machine (a library's logarithms and sines are not), and in loops without branches, which become vector instructions.
 */
#include "src/model/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- normal values (Box & Muller 1958): a length and an angle are two of them ---- */

enum { PAIRS = 512, BLOCK = 2 * PAIRS };

/* xoshiro128++ 1.0 (Blackman & Vigna 2019), LANES of them side by side. */
enum { LANES = 16 };

static uint32_t turned(uint32_t x, int by) {
  return x << by | x >> (32 - by);
}

static void draw_bits(uint64_t seed, uint32_t *out, int n) {
  uint32_t s[4][LANES];
  pu_rng rng;
  pu_rng_seed(&rng, seed);
  for (int i = 0; i < 4; i++)
    for (int k = 0; k < LANES; k += 2) {
      uint64_t drawn = pu_rng_next(&rng);
      s[i][k] = (uint32_t)drawn;
      s[i][k + 1] = (uint32_t)(drawn >> 32);
    }
  for (int at = 0; at < n; at += LANES)
    for (int k = 0; k < LANES; k++) {
      uint32_t shifted = s[1][k] << 9;
      out[at + k] = turned(s[0][k] + s[3][k], 7) + s[0][k];
      s[2][k] ^= s[0][k];
      s[3][k] ^= s[1][k];
      s[1][k] ^= s[2][k];
      s[0][k] ^= s[3][k];
      s[2][k] ^= shifted;
      s[3][k] = turned(s[3][k], 11);
    }
}

typedef union bits {
  float f;
  uint32_t u;
} bits;

/* sqrt(-2 log u) of u in (0, 1], uniform: u = 2^e m with m in [sqrt(1/2), sqrt(2)), log m = 2 artanh((m - 1) / (m + 1))
 * to s^9, whose next term is below 2e-9. */
static void draw_lengths(const uint32_t *uniform, float *length) {
  for (int i = 0; i < PAIRS; i++) {
    bits u = {((float)(int32_t)(uniform[i] >> 1) + 0.5f) * 0x1p-31f};
    int32_t e = (int32_t)(u.u - 0x3f3504f3u) >> 23;
    u.u -= (uint32_t)e << 23;
    float s = (u.f - 1) / (u.f + 1), z = s * s;
    float log_m = 2 * s * (1 + z * (1.0f / 3 + z * (1.0f / 5 + z * (1.0f / 7 + z * (1.0f / 9)))));
    float squared = -2 * (log_m + (float)e * 0.693147181f);
    length[i] = squared < 0 ? 0 : squared;
  }
  for (int i = 0; i < PAIRS; i++) length[i] = sqrtf(length[i]);
}

/* The upper two bits are the quarter of the turn, the others the angle in it, from -pi/4 to pi/4: Taylor's series to
 * x^9 and x^8, whose next terms are below 2e-9 and 3e-8. */
static void draw_turned(const uint32_t *uniform, const float *length, float *out) {
  for (int i = 0; i < PAIRS; i++) {
    float x = (float)(int32_t)(uniform[i] << 2) * (float)(0.78539816339744830962 * 0x1p-31), z = x * x;
    float sine = x * (1 + z * (-1.0f / 6 + z * (1.0f / 120 + z * (-1.0f / 5040 + z * (1.0f / 362880)))));
    float cosine = 1 + z * (-1.0f / 2 + z * (1.0f / 24 + z * (-1.0f / 720 + z * (1.0f / 40320))));
    bits a = {cosine * length[i]}, b = {sine * length[i]};
    uint32_t quarter = 0 - (uniform[i] >> 30 & 1), half = uniform[i] & 0x80000000u, swap = (a.u ^ b.u) & quarter;
    a.u ^= swap ^ half ^ (quarter & 0x80000000u);
    b.u ^= swap ^ half;
    out[2 * i] = a.f;
    out[2 * i + 1] = b.f;
  }
}

typedef struct draw {
  uint64_t seed, stream;
  int64_t at, n; /* at: a multiple of BLOCK */
  float deviation;
  pu_dtype type;
  char *out;
} draw;

/* Blocks of BLOCK values. */
static void draw_blocks(void *arg, int64_t begin, int64_t end, int worker) {
  const draw *d = arg;
  (void)worker;
  for (int64_t block = begin; block < end; block++) {
    uint32_t uniform[2][PAIRS];
    float length[PAIRS], values[BLOCK];
    int64_t first = block * BLOCK;
    draw_bits(pu_random_at(d->seed, d->stream, (uint64_t)(d->at / BLOCK + block)), uniform[0], BLOCK);
    draw_lengths(uniform[0], length);
    for (int i = 0; i < PAIRS; i++) length[i] *= d->deviation;
    draw_turned(uniform[1], length, values);
    pu_convert(d->out + (size_t)first * pu_dtype_size(d->type), d->type, values, PU_F32,
               PU_MIN(d->n - first, (int64_t)BLOCK));
  }
}

/* ---- of a model ---- */

static float deviation_of(const pu_hparams *hp, pu_slot slot) {
  switch (slot) {
  case PU_SLOT_WO:
  case PU_SLOT_DOWN:
  case PU_SLOT_EXPERTS_DOWN: /* what is added to the residual stream, 2 layers times (GPT-2's way) */
    return (float)(0.02 / sqrt(2.0 * (double)hp->layers));
  default:
    return 0.02f;
  }
}

static bool is_norm(pu_slot slot) {
  return slot == PU_SLOT_OUT_NORM || slot == PU_SLOT_ATTN_NORM || slot == PU_SLOT_MLP_NORM || slot == PU_SLOT_Q_NORM ||
         slot == PU_SLOT_K_NORM;
}

/* Vectors are ones or zeros, in f32. */
static void fill_piece(const pu_model *m, const pu_param *p, draw *d) {
  bool random = pu_slot_is_matrix(p->slot) || p->slot == PU_SLOT_EMBED;
  float *constant = (float *)d->out;
  if (!random) {
    for (int64_t i = 0; i < d->n; i++) constant[i] = is_norm(p->slot) ? 1.0f : 0.0f;
    d->type = PU_F32;
  } else {
    d->deviation = deviation_of(&m->hp, p->slot);
    pu_pool_run(m->be->pool, (d->n + BLOCK - 1) / BLOCK, 8, draw_blocks, d);
  }
}

static pu_err fill_random(pu_filler *f, uint64_t seed, char *values, pu_error *e) {
  pu_model *m = f->m;
  for (size_t i = 0; i < m->n_params; i++) {
    const pu_param *p = &m->params[i];
    int64_t count = pu_tensor_count(p->w);
    pu_filler_begin(f, p, false);
    draw d = {.seed = seed, .stream = pu_hash64(p->name, strlen(p->name), 0), .out = values};
    for (d.at = 0; d.at < count; d.at += d.n) {
      d.type = pu_filler_type(f, p);
      d.n = PU_MIN(count - d.at, (int64_t)PU_FILL_PIECE);
      fill_piece(m, p, &d);
      PU_TRY(pu_filler_put(f, p, d.at, values, d.type, d.n, e));
    }
    PU_TRY(pu_filler_finish(f, p, e));
  }
  return PU_OK;
}

pu_err pu_model_random(const pu_arch *arch, const pu_hparams *hp, uint64_t seed, pu_backend *be,
                       const pu_model_options *o, pu_model **out, pu_error *e) {
  pu_model *m;
  pu_forms forms;
  const pu_model_options own = pu_model_options_on(be, o);
  *out = NULL;
  PU_TRY(pu_forms_init(&forms, hp, &own, e));
  pu_err made = pu_model_new(arch, hp, be, &own, &forms, &m, e);
  pu_forms_deinit(&forms);
  if (made) return made;
  pu_filler f;
  char *values = malloc((size_t)PU_FILL_PIECE * sizeof(float));
  pu_err err = pu_filler_init(&f, m, &own, e);
  if (!values && err == PU_OK) err = pu_fail(e, PU_ERR_NOMEM, "no memory for random weights");
  if (err == PU_OK) err = fill_random(&f, seed, values, e);
  pu_filler_deinit(&f);
  free(values);
  m->hp.norm_head = false; /* random rows need no normalising */
  if (err == PU_OK)
    *out = m;
  else
    pu_model_free(m);
  return err;
}
