#include "src/train/memory.h"

#include "src/train/config.h"
#include "src/train/news.h"

enum { BF16 = 0, NF4 = 1, IN_BF16 = 1, IN_FP8 = 1 };

/* A step is one micro-batch, so that nothing is to be added up from one to the next. */
static bool one_pass(const pu_train_config *cfg) {
  return cfg->train.global_batch <= cfg->train.micro_batch && !pu_train_config_adapts(cfg);
}

pu_model_options pu_train_model_options(const pu_train_config *cfg) {
  return (pu_model_options){.dtype = cfg->train.precision == BF16 ? PU_BF16 : PU_F32,
                            .train = !pu_train_config_adapts(cfg),
                            .rough = cfg->train.weights == IN_BF16,
                            .grads = cfg->train.grads == IN_BF16 ? PU_BF16 : PU_F32,
                            .late_grads = one_pass(cfg),
                            .fp8 = cfg->train.linear == IN_FP8,
                            .nf4 = cfg->lora.base == NF4};
}

pu_dtype pu_train_moment_type(const pu_train_config *cfg) {
  return cfg->optim.state == IN_BF16 ? PU_BF16 : PU_F32;
}

static size_t work_bytes(const pu_backend *be, const pu_hparams *hp, pu_work_shape s) {
  s.hidden = hp->hidden;
  s.ffn = hp->ffn;
  s.vocab = hp->vocab;
  s.experts_used = hp->experts ? hp->experts_used : 0;
  s.heads = (int)hp->heads;
  s.kv_heads = (int)hp->kv_heads;
  s.head_dim = (int)hp->head_dim;
  return be->work_bytes ? be->work_bytes(be, &s) : 0;
}

size_t pu_train_work_bytes(const pu_backend *be, const pu_model *m, int64_t tokens, int64_t seq_len, int64_t rank) {
  int64_t nf4 = 0;
  for (size_t i = 0; i < m->n_params; i++)
    if (m->params[i].w->layout == PU_LAYOUT_NF4) nf4 = PU_MAX(nf4, pu_tensor_count(m->params[i].w));
  const pu_work_shape s = {
      .dtype = m->dtype, .tokens = tokens, .max_len = seq_len, .rank = rank, .nf4 = nf4, .fp8 = m->fp8};
  return work_bytes(be, &m->hp, s);
}

/* What is trained, in values, and the largest rank of it. */
static pu_err trained(const pu_arch *arch, const pu_hparams *hp, const pu_train_config *cfg, int64_t *count,
                      int64_t *rank, pu_error *e) {
  size_t bytes;
  *rank = 0;
  *count = pu_hparams_count(hp, false);
  if (!pu_train_config_adapts(cfg)) return PU_OK;
  *rank = cfg->lora.rank;
  if (cfg->lora.path) {
    PU_TRY(pu_adapter_measure(cfg->lora.path, arch, hp, PU_F32, &bytes, e));
    *count = (int64_t)(bytes / sizeof(float));
    return PU_OK;
  }
  int64_t q = hp->heads * hp->head_dim, kv = hp->kv_heads * hp->head_dim, c = hp->hidden, f = hp->ffn;
  *count = hp->layers * *rank * (2 * (q + c) + 2 * (kv + c) + (hp->experts ? 0 : 3 * (c + f)));
  return PU_OK;
}

/* What gradients take beside the weights; late ones are the activations'. */
static size_t gradient_bytes(const pu_arch *arch, const pu_hparams *hp, pu_model_options o) {
  size_t all = pu_model_weight_bytes(arch, hp, &o);
  o.late_grads = true;
  return all - pu_model_weight_bytes(arch, hp, &o);
}

/* What would take less. Matrices' weights and gradients in bf16 go neither with f32 nor with an adapter, and such
 * gradients are not added up. */
static void say_mend(const pu_train_config *cfg, pu_train_plan *out) {
  static const char *const recompute[] = {
      [PU_RECOMPUTE_NONE] = "train.recompute=gates, some or all",
      [PU_RECOMPUTE_GATES] = "train.recompute=some or all",
      [PU_RECOMPUTE_SOME] = "train.recompute=all",
  };
  const bool bf16 = cfg->train.precision == BF16 && !pu_train_config_adapts(cfg);
  const char *const keys[] = {
      cfg->train.recompute < PU_RECOMPUTE_ALL ? recompute[cfg->train.recompute] : NULL,
      cfg->optim.state != IN_BF16 ? "optim.state=bf16" : NULL,
      bf16 && cfg->train.weights != IN_BF16 ? "train.weights=bf16" : NULL,
      bf16 && cfg->train.grads != IN_BF16 && one_pass(cfg) ? "train.grads=bf16" : NULL,
  };
  const size_t room = sizeof out->mend;
  size_t at = (size_t)snprintf(out->mend, room, "lower train.micro_batch or data.seq_len");
  for (size_t i = 0, n = 0; i < PU_COUNT(keys); i++)
    if (keys[i]) at += (size_t)snprintf(out->mend + at, room - at, "%s%s", n++ ? ", " : ", set ", keys[i]);
  snprintf(out->mend + at, room - at, ", or take a smaller model");
}

pu_err pu_train_plan_make(const pu_backend *be, const pu_arch *arch, const pu_hparams *hp, const pu_train_config *cfg,
                          pu_train_plan *out, pu_error *e) {
  int64_t micro = cfg->train.micro_batch, T = cfg->data.seq_len, count, rank;
  const pu_model_options mo = pu_train_model_options(cfg);
  const pu_model shape = {.arch = arch,
                          .hp = *hp,
                          .dtype = mo.dtype,
                          .grads = mo.grads,
                          .late_grads = mo.late_grads,
                          .fp8 = mo.fp8,
                          .be = (pu_backend *)(uintptr_t)be};
  pu_work_shape step = {.dtype = mo.dtype, .tokens = micro * T, .max_len = T, .fp8 = mo.fp8};
  PU_TRY(trained(arch, hp, cfg, &count, &rank, e));
  size_t each = (size_t)count * sizeof(float), weights = pu_model_weight_bytes(arch, hp, &mo);
  size_t moments = 2 * (size_t)count * pu_dtype_size(pu_train_moment_type(cfg));
  step.rank = rank;
  if (mo.nf4) step.nf4 = hp->hidden * PU_MAX(2 * hp->ffn, (hp->heads + 2 * hp->kv_heads) * hp->head_dim);
  const size_t news = pu_train_news_bytes(PU_MAX(cfg->train.global_batch, micro) * T);
  size_t gradients = mo.train ? gradient_bytes(arch, hp, mo) : each;
  /* A model's gradients are counted with its weights there; an adapter's weights are not. */
  weights = mo.train ? weights - gradients : weights + each;
  *out = (pu_train_plan){.gradients = gradients,
                         .moments = moments,
                         .copy = moments + (mo.train ? weights : each),
                         .weights = weights,
                         .activations =
                             pu_model_activation_bytes(&shape, micro * T, T, true, (pu_recompute)cfg->train.recompute),
                         .work = work_bytes(be, hp, step) + news,
                         .data = (size_t)(cfg->train.global_batch * T) * 3 * sizeof(int32_t) + news,
                         .parameters = count,
                         .micro_batch = micro,
                         .seq_len = T};
  size_t host = out->data + out->copy;
  out->host = be->memory ? host : 0;
  out->total = out->weights + out->gradients + out->moments + out->activations + out->work + host - out->host;
  size_t all;
  pu_error why;
  if (!be->memory)
    out->available = pu_memory_free();
  else if (be->memory(be, &out->available, &all, &why) != PU_OK)
    out->available = 0;
  pu_train_where(be, out->device);
  say_mend(cfg, out);
  return PU_OK;
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

pu_err pu_train_plan_check(const pu_backend *be, size_t bytes, const char *mend, pu_error *e) {
  size_t available = 0, all;
  char need[24], have[24];
  if (be->memory) PU_TRY(be->memory(be, &available, &all, e));
  if (!be->memory) available = pu_memory_free();
  if ((available == 0 && !be->memory) || bytes <= available) return PU_OK;
  return pu_fail(e, PU_ERR_NOMEM, "the run needs %s of %s memory, and %s are free: %s", pu_bytes_text(bytes, need),
                 be->name, pu_bytes_text(available, have), mend);
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
