/* run.json: what the report says about model, data and machine. */
#include "src/train/loop.h"

#include <limits.h>
#include <string.h>
#include <time.h>

pu_err pu_train_write_facts(pu_train_loop *l, pu_error *e) {
  char cpu[128], started[32], peak[32], path[PATH_MAX];
  struct tm utc;
  if (snprintf(path, sizeof path, "%s/run.json", l->cfg.run) >= (int)sizeof path)
    return pu_fail(e, PU_ERR_USAGE, "%.80s…: the name of the run is too long", l->cfg.run);
  gmtime_r(&l->started, &utc);
  strftime(started, sizeof started, "%Y-%m-%d %H:%M UTC", &utc);
  pu_cpu_name(cpu, sizeof cpu);
  pu_format_double(peak, l->peak_flops);
  int64_t steps = l->cfg.train.minutes > 0 ? 0 : l->cfg.train.steps; /* a first guess is no fact */
  bool on_cpu = !l->be->describe;
  char where[200];
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  pu_buf_printf(&b, "{\"started\": \"%s\", \"device\": ", started);
  pu_buf_json_str(&b, pu_str_c(on_cpu ? l->be->name : pu_train_where(l->be, where)));
  pu_buf_puts(&b, ", \"processor\": ");
  pu_buf_json_str(&b, pu_str_c(cpu));
  pu_buf_printf(&b, ", \"task\": \"%s\"", l->cfg.task == PU_TASK_SFT ? "fine-tuning on conversations" : "pretraining");
  pu_buf_printf(&b, ", \"threads\": %d, \"isa\": \"%s\", \"matrix_flops\": %s,\n",
                on_cpu ? pu_pool_size(l->be->pool) : 0, on_cpu ? pu_isa_name(pu_cpu_isa(l->be)) : "", peak);
  pu_buf_printf(&b, " \"family\": \"%s\", \"parameters\": %lld, \"vocab\": %lld, \"layers\": %lld, \"hidden\": %lld,\n",
                l->model->arch->name, (long long)pu_hparams_count(&l->model->hp, false), (long long)l->model->hp.vocab,
                (long long)l->model->hp.layers, (long long)l->model->hp.hidden);
  pu_buf_printf(&b,
                " \"data_tokens\": %llu, \"steps\": %lld, \"global_batch\": %lld, \"seq_len\": %lld, "
                "\"planned_bytes\": %zu}\n",
                (unsigned long long)l->data.tokens, (long long)steps, (long long)l->cfg.train.global_batch,
                (long long)l->data.seq_len, l->plan.total);
  if (l->adapter) { /* the object goes on */
    double trained = 0;
    for (size_t i = 0; i < l->optim.n_params; i++) trained += (double)pu_tensor_count(l->optim.params[i].w);
    b.len -= 2;
    pu_buf_printf(&b, ",\n \"adapter_parameters\": %.0f, \"base\": \"%s\"}\n", trained,
                  l->cfg.lora.base ? "NF4" : pu_dtype_name(l->model->dtype));
  }
  pu_err err = b.failed ? pu_fail(e, PU_ERR_NOMEM, "%s: no memory", path) : pu_file_write(path, b.data, b.len, e);
  pu_buf_deinit(&b);
  if (err == PU_OK) l->told_flops = l->peak_flops;
  return err;
}
