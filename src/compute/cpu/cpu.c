/* The CPU backend: memory, threads, and the table of operations, filled from the references up to the best set. */
#include "src/compute/cpu/cpu.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "src/compute/cpu/attention.h"
#include "src/compute/cpu/loss.h"
#include "src/compute/cpu/ref/ref.h"

enum { SCRATCH_BYTES = 24 << 20, HUGE_PAGE = 2 << 20, COPY_CHUNK = 1 << 20 };

static void *aligned(size_t bytes) {
  size_t align = bytes >= 2 * (size_t)HUGE_PAGE ? HUGE_PAGE : 64;
  size_t rounded = (bytes + align - 1) / align * align;
  void *p = rounded < bytes ? NULL : aligned_alloc(align, rounded ? rounded : align);
  if (p && align == HUGE_PAGE) madvise(p, rounded, MADV_HUGEPAGE); /* advice: a refusal costs speed only */
  return p;
}

static pu_err cpu_alloc(pu_backend *be, size_t bytes, void **out, pu_error *e) {
  (void)be;
  char wanted[24], there[24];
  const size_t left = pu_memory_free(); /* 0: unknown */
  *out = aligned(bytes);
  if (*out) return PU_OK;
  return pu_fail(e, PU_ERR_NOMEM,
                 "cpu: %s of memory are not to be had%s%s%s: lower the batch, the sequences or the context, or take a "
                 "smaller model",
                 pu_bytes_text(bytes, wanted), left ? ", " : "", left ? pu_bytes_text(left, there) : "",
                 left ? " are free" : "");
}

static void cpu_free(pu_backend *be, void *memory) {
  (void)be;
  free(memory);
}

typedef struct copy_job {
  char *to;
  const char *from; /* NULL: clear */
} copy_job;

static void copy_chunk(void *arg, int64_t begin, int64_t end, int worker) {
  const copy_job *job = arg;
  (void)worker;
  if (job->from) memcpy(job->to + begin, job->from + begin, (size_t)(end - begin));
  if (!job->from) memset(job->to + begin, 0, (size_t)(end - begin));
}

static pu_err cpu_copy(pu_backend *be, void *to, const void *from, size_t bytes, pu_error *e) {
  copy_job job = {to, from};
  (void)e;
  pu_pool_run(((pu_cpu *)be)->pool, (int64_t)bytes, COPY_CHUNK, copy_chunk, &job);
  return PU_OK;
}

static pu_err cpu_copy_rows(pu_backend *be, void *to, size_t to_stride, const void *from, size_t from_stride,
                            size_t bytes, int64_t rows, pu_error *e) {
  (void)be;
  (void)e;
  for (size_t i = 0; i < (size_t)rows; i++)
    memcpy((char *)to + i * to_stride, (const char *)from + i * from_stride, bytes);
  return PU_OK;
}

static pu_err cpu_clear(pu_backend *be, void *device, size_t bytes, pu_error *e) {
  return cpu_copy(be, device, NULL, bytes, e);
}

static pu_err cpu_sync(pu_backend *be, pu_error *e) {
  (void)be;
  (void)e;
  return PU_OK;
}

static void cpu_close(pu_backend *be) {
  pu_cpu *cpu = (pu_cpu *)be;
  if (!cpu) return;
  for (size_t i = 0; i < PU_COUNT(cpu->scratch); i++) free(cpu->scratch[i]);
  free(cpu->work);
  pu_pool_free(cpu->pool);
  free(cpu);
}

pu_err pu_cpu_work(pu_cpu *cpu, size_t bytes, void **out, pu_error *e) {
  if (bytes > cpu->work_bytes) {
    free(cpu->work);
    cpu->work = aligned(bytes);
    cpu->work_bytes = cpu->work ? bytes : 0;
  }
  *out = cpu->work;
  return bytes == 0 || *out ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "cpu: no %zu bytes of work memory", bytes);
}

/* Work memory is one buffer for all operations, as large as the one that wants most. What the others want (columns'
 * sums, sorted ids) is less than the loss takes for its rows. */
static size_t cpu_work_bytes(const pu_backend *be, const pu_work_shape *s) {
  const pu_cpu *cpu = (const pu_cpu *)be;
  size_t most = PU_MAX(pu_loss_work_bytes(s), pu_attention_work_bytes(cpu, s));
  most = PU_MAX(most, PU_MAX(pu_ref_lora_work_bytes(s), pu_ref_fp8_work_bytes(s)));
  most = PU_MAX(most, (size_t)s->nf4 * pu_dtype_size(s->dtype)); /* as it is computed with */
  return PU_MAX(most, pu_ref_moe_work_bytes(s)) + (size_t)pu_pool_size(cpu->pool) * cpu->scratch_bytes;
}

static pu_err open_threads(pu_cpu *cpu, int threads, pu_error *e) {
  int n = threads > 0 ? threads : pu_cpu_count();
  n = PU_MIN(n, (int)PU_COUNT(cpu->scratch));
  PU_TRY(pu_pool_create(n, &cpu->pool, e));
  cpu->base.pool = cpu->pool;
  cpu->scratch_bytes = SCRATCH_BYTES;
  for (int i = 0; i < n; i++) {
    cpu->scratch[i] = aligned(cpu->scratch_bytes);
    if (!cpu->scratch[i]) return pu_fail(e, PU_ERR_NOMEM, "cpu: no memory for the threads' scratch");
  }
  return PU_OK;
}

pu_err pu_cpu_open(int threads, pu_isa isa, pu_backend **out, pu_error *e) {
  static void (*const use[PU_ISA_COUNT])(pu_cpu *) = {pu_cpu_use_ref, pu_cpu_use_avx2, pu_cpu_use_avx512,
                                                      pu_cpu_use_amx};
  if (isa > pu_isa_best())
    return pu_fail(e, PU_ERR_UNSUPPORTED, "cpu: %s is not available here, %s is", pu_isa_name(isa),
                   pu_isa_name(pu_isa_best()));
  pu_cpu *cpu = calloc(1, sizeof *cpu);
  if (!cpu) return pu_fail(e, PU_ERR_NOMEM, "cpu: no memory");
  cpu->base = (pu_backend){.name = "cpu",
                           .alloc = cpu_alloc,
                           .free = cpu_free,
                           .upload = cpu_copy,
                           .download = cpu_copy,
                           .clear = cpu_clear,
                           .copy = cpu_copy,
                           .copy_rows = cpu_copy_rows,
                           .sync = cpu_sync,
                           .close = cpu_close,
                           .work_bytes = cpu_work_bytes};
  cpu->isa = isa;
  pu_err err = open_threads(cpu, threads, e);
  if (err != PU_OK) {
    cpu_close(&cpu->base);
    return err;
  }
  for (int i = 0; i <= (int)isa; i++) use[i](cpu);
  *out = &cpu->base;
  return PU_OK;
}

pu_isa pu_cpu_isa(const pu_backend *cpu) {
  return ((const pu_cpu *)cpu)->isa;
}
