#include "src/train/memory.h"

void pu_train_plan_sum(pu_train_plan *p) {
  p->total = p->weights + p->gradients + p->moments + p->activations + p->work + p->data + p->copy;
}

void pu_train_plan_print(const pu_train_plan *p) {
  const struct {
    const char *name;
    size_t bytes;
  } rows[] = {{"weights", p->weights},         {"gradients", p->gradients}, {"optimiser", p->moments},
              {"activations", p->activations}, {"work space", p->work},     {"batch", p->data},
              {"checkpoint copy", p->copy}};
  char line[400], size[24];
  size_t at = 0;
  for (size_t i = 0; i < PU_COUNT(rows); i++)
    at += (size_t)snprintf(line + at, sizeof line - at, "%s%s %s", i ? ", " : "", rows[i].name,
                           pu_bytes_text(rows[i].bytes, size));
  pu_log(PU_LOG_INFO, "memory plan: %s (%s)", pu_bytes_text(p->total, size), line);
}

size_t pu_train_work_bytes(const pu_hparams *hp, int64_t tokens, int threads) {
  const size_t chunk = (size_t)192 << 20, scratch = (size_t)24 << 20; /* as src/compute/cpu takes them at most */
  size_t row = (size_t)hp->vocab * sizeof(float);
  size_t rows = PU_MIN(PU_MAX(chunk / row, 64), 2048);
  size_t logits = PU_MIN(rows, (size_t)tokens) * row;
  size_t packed = 2 * (size_t)tokens * (size_t)((hp->heads + 2 * hp->kv_heads) * hp->head_dim) * sizeof(float);
  return PU_MAX(logits, packed) + (size_t)threads * scratch;
}

pu_err pu_train_plan_check(size_t bytes, bool force, pu_error *e) {
  size_t available = pu_memory_free();
  char need[24], have[24];
  if (available == 0 || bytes <= available || force) return PU_OK;
  return pu_fail(e, PU_ERR_NOMEM,
                 "the run needs %s of memory, and %s are free: lower train.micro_batch or data.seq_len, set "
                 "train.recompute=true, take a smaller model, or train.force=true to try anyway",
                 pu_bytes_text(bytes, need), pu_bytes_text(available, have));
}
