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

/* Of cosines and sines. */
static double scale_of(const pu_rope_params *r) {
  return r->kind == PU_ROPE_YARN ? r->attention_factor : 1;
}

/* Pairs of one frequency for all tokens of one sequence, times `scale`. */
static void fill_column(const pu_seqs *seqs, int32_t s, double frequency, double scale, int64_t head_dim, int64_t i,
                        float *cs) {
  for (int32_t t = seqs->cu[s]; t < seqs->cu[s + 1]; t++) {
    double sine, cosine;
    sincos((double)seqs->positions[t] * frequency, &sine, &cosine);
    cs[t * head_dim + i] = (float)(scale * cosine);
    cs[t * head_dim + head_dim / 2 + i] = (float)(scale * sine);
  }
}

void pu_rope_angles(const pu_rope_params *r, int64_t head_dim, const pu_seqs *seqs, const int32_t *rope_len,
                    float *cs) {
  for (int32_t s = 0; s < seqs->n; s++) {
    int32_t len = seqs->cu[s + 1] - seqs->cu[s];
    if (r->kind == PU_ROPE_DYNAMIC && rope_len) len = rope_len[s];
    for (int64_t i = 0; i < head_dim / 2; i++)
      fill_column(seqs, s, frequency_of(r, head_dim, len, i), scale_of(r), head_dim, i, cs);
  }
}

/* ---- kept ---- */

enum { MOST_KEPT = 1 << 17, KEPT_AT_A_TIME = 256 /* positions */ };

static int64_t last_position(const pu_seqs *seqs) {
  int32_t last = 0;
  for (int32_t t = 0; t < seqs->tokens; t++) last = PU_MAX(last, seqs->positions[t]);
  return last;
}

/* Rows up to that of a position. False: no memory. */
static bool keep(pu_rope_rows *kept, const pu_rope_params *r, int64_t head_dim, int64_t position) {
  int64_t n = (position / KEPT_AT_A_TIME + 1) * KEPT_AT_A_TIME;
  float *more = realloc(kept->v, (size_t)(n * head_dim) * sizeof *more);
  if (!more) return false;
  kept->v = more;
  int32_t positions[KEPT_AT_A_TIME];
  for (; kept->n < n; kept->n += KEPT_AT_A_TIME) {
    const pu_seqs next = {1, KEPT_AT_A_TIME, KEPT_AT_A_TIME, (const int32_t[]){0, KEPT_AT_A_TIME}, positions};
    for (int32_t i = 0; i < KEPT_AT_A_TIME; i++) positions[i] = (int32_t)kept->n + i;
    for (int64_t i = 0; i < head_dim / 2; i++)
      fill_column(&next, 0, frequency_of(r, head_dim, 0, i), scale_of(r), head_dim, i, more + kept->n * head_dim);
  }
  return true;
}

/* Dynamic scaling leaves sequences up to the trained length as they are. */
static bool is_scaled(const pu_rope_params *r, const pu_seqs *seqs, const int32_t *rope_len) {
  if (r->kind != PU_ROPE_DYNAMIC) return false;
  for (int32_t s = 0; s < seqs->n; s++)
    if ((rope_len ? rope_len[s] : seqs->cu[s + 1] - seqs->cu[s]) > r->original_max) return true;
  return false;
}

void pu_rope_kept_angles(pu_rope_rows *kept, const pu_rope_params *r, int64_t head_dim, const pu_seqs *seqs,
                         const int32_t *rope_len, float *cs) {
  int64_t last = last_position(seqs);
  bool fits = last < MOST_KEPT && !is_scaled(r, seqs, rope_len);
  if (!fits || (last >= kept->n && !keep(kept, r, head_dim, last))) {
    pu_rope_angles(r, head_dim, seqs, rope_len, cs);
    return;
  }
  for (int32_t t = 0; t < seqs->tokens; t++)
    memcpy(cs + t * head_dim, kept->v + seqs->positions[t] * head_dim, (size_t)head_dim * sizeof *cs);
}
