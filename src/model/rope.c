/* The angles of rotary position embedding (Su et al. 2021) and its scalings for sequences longer than trained on. */
#include "src/model/rope.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Dynamic NTK: above the trained length the base grows, so that the slowest frequency is stretched by as much as the
 * sequence is longer: base (f n / max - (f - 1))^(d / (d - 2)). */
static double dynamic_base(const pu_rope_params *r, int64_t head_dim, int64_t len) {
  if (len <= r->original_max || head_dim <= 2) return r->base;
  double d = (double)head_dim, ratio = (double)len / (double)r->original_max;
  return r->base * pow(r->factor * ratio - (r->factor - 1.0), d / (d - 2.0));
}

/* Llama 3.1: slow frequencies are divided by the factor, fast ones stay, those between are blended by how many times
 * they turn within the original length. */
static double llama3_frequency(const pu_rope_params *r, double frequency) {
  double turns = (double)r->original_max * frequency / (2 * M_PI);
  if (turns < r->low_freq) return frequency / r->factor;
  if (turns > r->high_freq) return frequency;
  double smooth = (turns - r->low_freq) / (r->high_freq - r->low_freq);
  return frequency * (smooth + (1 - smooth) / r->factor);
}

/* YaRN (Peng et al. 2023): as llama3's, but blended along the frequencies' numbers, between that which turns beta_fast
 * times within the original length and that which turns beta_slow times. */
static double yarn_number(const pu_rope_params *r, int64_t head_dim, double turns) {
  return (double)head_dim * log((double)r->original_max / (2 * M_PI * turns)) / (2 * log(r->base));
}

static double yarn_frequency(const pu_rope_params *r, int64_t head_dim, int64_t i, double frequency) {
  double low = yarn_number(r, head_dim, r->beta_fast), high = yarn_number(r, head_dim, r->beta_slow);
  if (!r->exact_range) {
    low = floor(low);
    high = ceil(high);
  }
  low = fmax(low, 0);
  high = fmin(high, (double)head_dim - 1);
  if (low == high) high += 0.001;
  double divided = fmin(fmax(((double)i - low) / (high - low), 0), 1);
  return frequency * (1 - divided) + frequency / r->factor * divided;
}

double pu_rope_yarn_attention(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static double frequency_of(const pu_rope_params *r, int64_t head_dim, int64_t len, int64_t i) {
  double base = r->kind == PU_ROPE_DYNAMIC ? dynamic_base(r, head_dim, len) : r->base;
  double frequency = pow(base, -2.0 * (double)i / (double)head_dim);
  switch (r->kind) {
  case PU_ROPE_LINEAR:
    return frequency / r->factor;
  case PU_ROPE_LLAMA3:
    return llama3_frequency(r, frequency);
  case PU_ROPE_YARN:
    return yarn_frequency(r, head_dim, i, frequency);
  default:
    return frequency;
  }
}

double pu_rope_llama3_divisor(const pu_rope_params *r, int64_t head_dim, int64_t i) {
  double frequency = pow(r->base, -2.0 * (double)i / (double)head_dim);
  return frequency / llama3_frequency(r, frequency);
}

typedef struct sequence {
  const pu_rope_params *r;
  const int32_t *positions;
  int64_t head_dim, len; /* len: that dynamic scaling goes by */
  float *cs;
} sequence;

/* Tokens [begin, end) of a sequence, one frequency after the other. */
static void fill_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const sequence *q = arg;
  const double scale = q->r->kind == PU_ROPE_YARN ? q->r->attention_factor : 1;
  const int64_t half = q->head_dim / 2;
  (void)worker;
  for (int64_t i = 0; i < half; i++) {
    const double frequency = frequency_of(q->r, q->head_dim, q->len, i);
    for (int64_t t = begin; t < end; t++) {
      double sine, cosine;
      sincos((double)q->positions[t] * frequency, &sine, &cosine);
      q->cs[t * q->head_dim + i] = (float)(scale * cosine);
      q->cs[t * q->head_dim + half + i] = (float)(scale * sine);
    }
  }
}

static int64_t rows_of(const pu_seqs *seqs, int32_t s) {
  return seqs->cu[s + 1] - seqs->cu[s];
}

/* What dynamic scaling makes of a sequence: all up to the trained length are alike. */
static int64_t len_of(const pu_rope_params *r, const pu_seqs *seqs, const int32_t *rope_len, int32_t s) {
  const int64_t len = rope_len ? rope_len[s] : rows_of(seqs, s);
  return r->kind == PU_ROPE_DYNAMIC && len > r->original_max ? len : 0;
}

bool pu_rope_repeats(const pu_rope_params *r, const pu_seqs *seqs, const int32_t *rope_len, int32_t s) {
  if (s == 0 || rows_of(seqs, s) > rows_of(seqs, s - 1)) return false;
  if (len_of(r, seqs, rope_len, s) != len_of(r, seqs, rope_len, s - 1)) return false;
  return memcmp(seqs->positions + seqs->cu[s], seqs->positions + seqs->cu[s - 1],
                (size_t)rows_of(seqs, s) * sizeof(int32_t)) == 0;
}

void pu_rope_angles(pu_pool *pool, const pu_rope_params *r, int64_t head_dim, const pu_seqs *seqs,
                    const int32_t *rope_len, float *cs) {
  for (int32_t s = 0; s < seqs->n; s++) {
    const int64_t begin = seqs->cu[s], rows = rows_of(seqs, s);
    float *own = cs + begin * head_dim;
    if (pu_rope_repeats(r, seqs, rope_len, s)) {
      memcpy(own, cs + seqs->cu[s - 1] * head_dim, (size_t)(rows * head_dim) * sizeof *cs);
      continue;
    }
    sequence q = {r, seqs->positions + begin, head_dim, len_of(r, seqs, rope_len, s), own};
    pu_pool_run(pool, rows, 64, fill_rows, &q);
  }
}
