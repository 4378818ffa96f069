#include "src/train/memory.h"

void pu_train_plan_make(const pu_backend *be, const pu_arch *arch, const pu_hparams *hp, const pu_train_config *cfg,
                        pu_train_plan *out) {
  int64_t micro = cfg->train.micro_batch, T = cfg->data.seq_len;
  const pu_model shape = {.arch = arch, .hp = *hp, .dtype = pu_train_dtype(cfg)};
  const pu_model_options mo = {.dtype = shape.dtype, .train = true};
  size_t each = (size_t)pu_hparams_count(hp, false) * sizeof(float), all;
  pu_error why;
  *out = (pu_train_plan){.gradients = each,
                         .moments = 2 * each,
                         .copy = 3 * each,
                         .weights = pu_model_weight_bytes(arch, hp, &mo) - each,
                         .activations = pu_model_activation_bytes(&shape, micro * T, T, true, cfg->train.recompute),
                         .work = pu_train_work_bytes(be, &shape, micro * T, T),
                         .data = (size_t)(cfg->train.global_batch * T) * 3 * sizeof(int32_t),
                         .parameters = pu_hparams_count(hp, false),
                         .micro_batch = micro,
                         .seq_len = T};
  size_t host = out->data + out->copy;
  out->host = be->memory ? host : 0;
  out->total = out->weights + out->gradients + out->moments + out->activations + out->work + host - out->host;
  if (!be->memory)
    out->available = pu_memory_free();
  else if (be->memory(be, &out->available, &all, &why) != PU_OK)
    out->available = 0;
  pu_train_where(be, out->device);
}

void pu_train_plan_print(const pu_backend *be, const pu_train_plan *p) {
  const struct {
    const char *name;
    size_t bytes;
  } rows[] = {{"weights", p->weights},         {"gradients", p->gradients}, {"optimiser", p->moments},
              {"activations", p->activations}, {"work space", p->work},     {"batch", p->data},
              {"checkpoint copy", p->copy}};
  char line[400], size[24];
  size_t at = 0, n = PU_COUNT(rows) - (be->memory ? 2 : 0);
  for (size_t i = 0; i < n; i++)
    at += (size_t)snprintf(line + at, sizeof line - at, "%s%s %s", i ? ", " : "", rows[i].name,
                           pu_bytes_text(rows[i].bytes, size));
  if (be->memory) {
    char host[24];
    pu_log(PU_LOG_INFO, "memory plan: %s of %s (%s), %s of this machine", pu_bytes_text(p->total, size), be->name, line,
           pu_bytes_text(p->host, host));
  } else {
    pu_log(PU_LOG_INFO, "memory plan: %s (%s)", pu_bytes_text(p->total, size), line);
  }
}

size_t pu_train_work_bytes(const pu_backend *be, const pu_model *m, int64_t tokens, int64_t seq_len) {
  const pu_hparams *hp = &m->hp;
  const pu_work_shape s = {.dtype = m->dtype,
                           .tokens = tokens,
                           .max_len = seq_len,
                           .hidden = hp->hidden,
                           .ffn = hp->ffn,
                           .vocab = hp->vocab,
                           .experts_used = hp->experts ? hp->experts_used : 0,
                           .heads = (int)hp->heads,
                           .kv_heads = (int)hp->kv_heads,
                           .head_dim = (int)hp->head_dim};
  return be->work_bytes ? be->work_bytes(be, &s) : 0;
}

pu_err pu_train_plan_check(const pu_backend *be, size_t bytes, bool force, pu_error *e) {
  size_t available = 0, all;
  char need[24], have[24];
  if (be->memory) PU_TRY(be->memory(be, &available, &all, e));
  if (!be->memory) available = pu_memory_free();
  if ((available == 0 && !be->memory) || bytes <= available || force) return PU_OK;
  return pu_fail(e, PU_ERR_NOMEM,
                 "the run needs %s of %s memory, and %s are free: lower train.micro_batch or data.seq_len, set "
                 "train.recompute=true, take a smaller model, or train.force=true to try anyway",
                 pu_bytes_text(bytes, need), be->name, pu_bytes_text(available, have));
}

size_t pu_train_memory_used(const pu_backend *be) {
  size_t available, all;
  pu_error e;
  if (!be->memory) return pu_memory_used();
  return be->memory(be, &available, &all, &e) == PU_OK ? all - available : 0;
}

size_t pu_train_activation_room(const pu_backend *be, size_t planned) {
  return be->memory ? planned + ((size_t)16 << 20) : planned + planned / 4 + ((size_t)64 << 20);
}

const char *pu_train_where(const pu_backend *be, char text[200]) {
  if (be->describe)
    snprintf(text, 200, "%s: %s", be->name, be->describe(be));
  else
    snprintf(text, 200, "%s, %d threads", pu_isa_name(pu_cpu_isa(be)), pu_pool_size(be->pool));
  return text;
}
