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

size_t pu_train_work_bytes(const pu_backend *be, const pu_model *m, int64_t tokens, int64_t seq_len, int64_t rank) {
  const pu_hparams *hp = &m->hp;
  int64_t nf4 = 0;
  for (size_t i = 0; i < m->n_params; i++)
    if (m->params[i].w->layout == PU_LAYOUT_NF4) nf4 = PU_MAX(nf4, pu_tensor_count(m->params[i].w));
  const pu_work_shape s = {.dtype = m->dtype,
                           .tokens = tokens,
                           .max_len = seq_len,
                           .hidden = hp->hidden,
                           .ffn = hp->ffn,
                           .vocab = hp->vocab,
                           .experts_used = hp->experts ? hp->experts_used : 0,
                           .heads = (int)hp->heads,
                           .kv_heads = (int)hp->kv_heads,
                           .head_dim = (int)hp->head_dim,
                           .rank = rank,
                           .nf4 = nf4};
  return be->work_bytes ? be->work_bytes(be, &s) : 0;
}

pu_err pu_train_plan_check(size_t bytes, size_t taken, bool force, pu_error *e) {
  size_t available = pu_memory_free();
  char need[24], have[24];
  if (available > 0) available += PU_MIN(taken, bytes);
  if (available == 0 || bytes <= available || force) return PU_OK;
  return pu_fail(e, PU_ERR_NOMEM,
                 "the run needs %s of memory, and %s are free: lower train.micro_batch or data.seq_len, set "
                 "train.recompute=true, take a smaller model, or train.force=true to try anyway",
                 pu_bytes_text(bytes, need), pu_bytes_text(available, have));
}
