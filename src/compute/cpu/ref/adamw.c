/* sum_squares and adamw: the step after backward. */
#include <math.h>

#include "src/compute/cpu/ref/ref.h"
#include "src/compute/cpu/rows.h"

/* ---- sum_squares: partial sums of fixed chunks, added in order ------------------------------------------------- */

enum { SUM_CHUNK = 1 << 16, STEP_CHUNK = 1 << 14 };

typedef struct sum_job {
  const pu_tensor *t;
  double *partial;
} sum_job;

static void sum_chunk(void *arg, int64_t begin, int64_t end, int worker) {
  const sum_job *job = arg;
  (void)worker;
  double sum = 0;
  for (int64_t i = begin; i < end; i++) {
    double v = pu_get1(job->t, i);
    sum += v * v;
  }
  job->partial[begin / SUM_CHUNK] = sum;
}

static pu_err sum_one(pu_cpu *cpu, const pu_tensor *t, double *out, pu_error *e) {
  int64_t n = pu_tensor_count(t), chunks = (n + SUM_CHUNK - 1) / SUM_CHUNK;
  void *work;
  PU_TRY(pu_cpu_work(cpu, (size_t)chunks * sizeof(double), &work, e));
  sum_job job = {t, work};
  pu_pool_run(cpu->pool, n, SUM_CHUNK, sum_chunk, &job);
  *out = 0;
  for (int64_t i = 0; i < chunks; i++) *out += job.partial[i];
  return PU_OK;
}

pu_err pu_ref_sum_squares(pu_backend *be, void *args, pu_error *e) {
  const pu_sum_squares_args *a = args;
  *a->out = 0;
  for (int i = 0; i < a->n; i++) {
    double one = 0;
    PU_TRY(sum_one((pu_cpu *)be, a->t[i], &one, e));
    *a->out += one;
  }
  return PU_OK;
}

/* ---- adamw ----------------------------------------------------------------------------------------------------- */

static float read_p(const pu_adam_job *a, int64_t i) {
  if (!a->low) return pu_get1(a->p, i);
  return pu_join_f32(((const uint16_t *)a->p->data)[i], ((const uint16_t *)a->low->data)[i]);
}

static void write_rough(const pu_tensor *t, int64_t i, float v, uint32_t bits) {
  pu_set1(t, i, t->dtype == PU_BF16 ? pu_dither_bf16(v, bits) : v);
}

static void write_p(const pu_adam_job *a, int64_t i, float p, uint32_t bits) {
  if (a->low)
    ((uint16_t *)a->p->data)[i] = pu_split_f32(p, (uint16_t *)a->low->data + i);
  else
    write_rough(a->p, i, p, bits);
}

static void adamw_chunk(void *arg, int64_t begin, int64_t end, int worker) {
  const pu_adam_job *a = arg;
  pu_noise noise = pu_noise_of(a->seed, a->step);
  float keep = (float)(1 - (double)a->lr * (double)a->weight_decay);
  float rate = (float)((double)a->lr / (1 - pow((double)a->beta1, (double)a->step)));
  float scale_v = (float)(1 / (1 - pow((double)a->beta2, (double)a->step)));
  (void)worker;
  for (int64_t i = begin; i < end; i++) {
    uint32_t bits = pu_mix32(pu_noise_at(noise, i));
    float gi = pu_get1(a->g, i) * a->scale;
    float m = a->beta1 * pu_get1(a->m, i) + (1 - a->beta1) * gi;
    float v = a->beta2 * pu_get1(a->v, i) + (1 - a->beta2) * gi * gi;
    write_rough(a->m, i, m, bits);
    write_rough(a->v, i, v, bits >> 16);
    write_p(a, i, read_p(a, i) * keep - rate * m / (sqrtf(v * scale_v) + a->eps), pu_noise_more(noise, bits));
  }
}

pu_err pu_ref_adamw(pu_backend *be, void *args, pu_error *e) {
  const pu_adamw_args *a = args;
  float scale;
  (void)e;
  if (!pu_adamw_opens(&a->gate, &scale)) return PU_OK;
  for (int i = 0; i < a->n; i++) {
    pu_adam_job job = pu_adam_job_of(a, i, scale);
    pu_pool_run(((pu_cpu *)be)->pool, pu_tensor_count(job.p), STEP_CHUNK, adamw_chunk, &job);
  }
  return PU_OK;
}
