#include "src/train/memory.h"

#include <stdlib.h>
#include <string.h>

void pu_train_plan_sum(pu_train_plan *p) {
  p->total = p->weights + p->gradients + p->moments + p->activations + p->work + p->data + p->copy;
}

const char *pu_train_bytes_text(size_t bytes, char text[24]) {
  static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double v = (double)bytes;
  size_t u = 0;
  while (v >= 1000 && u + 1 < PU_COUNT(units)) v /= 1024, u++;
  snprintf(text, 24, u == 0 || v >= 100 ? "%.0f %s" : "%.1f %s", v, units[u]);
  return text;
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
                           pu_train_bytes_text(rows[i].bytes, size));
  pu_log(PU_LOG_INFO, "memory plan: %s (%s)", pu_train_bytes_text(p->total, size), line);
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

/* The number after `key` in a file of "key: value" or "key value" lines, in bytes; 0: not there. */
static size_t number_after(const char *path, const char *key, size_t unit) {
  FILE *f = fopen(path, "re");
  if (!f) return 0;
  char line[256];
  unsigned long long v = 0;
  size_t n = strlen(key);
  while (fgets(line, sizeof line, f))
    if (strncmp(line, key, n) == 0) {
      v = strtoull(line + n, NULL, 10);
      break;
    }
  fclose(f);
  return (size_t)v * unit;
}

size_t pu_train_memory_used(void) {
  return number_after("/proc/self/status", "RssAnon:", 1024);
}

/* Containers: the group's limit may be far below the machine's memory. "max" (no limit) reads as 0. */
static size_t group_free(void) {
  static const char *const files[][2] = {
      {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
      {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"}};
  for (size_t i = 0; i < PU_COUNT(files); i++) {
    size_t limit = number_after(files[i][0], "", 1), used = number_after(files[i][1], "", 1);
    if (limit == 0) continue;
    /* The page cache counts as used, but gives way. */
    size_t cache = number_after("/sys/fs/cgroup/memory.stat", "inactive_file", 1);
    used -= PU_MIN(used, cache);
    return limit > used ? limit - used : 1;
  }
  return 0;
}

size_t pu_train_memory_free(void) {
  size_t machine = number_after("/proc/meminfo", "MemAvailable:", 1024), group = group_free();
  if (machine == 0 || group == 0) return PU_MAX(machine, group);
  return PU_MIN(machine, group);
}

pu_err pu_train_plan_check(size_t bytes, bool force, pu_error *e) {
  size_t available = pu_train_memory_free();
  char need[24], have[24];
  if (available == 0 || bytes <= available || force) return PU_OK;
  return pu_fail(e, PU_ERR_NOMEM,
                 "the run needs %s of memory, and %s are free: lower train.micro_batch or data.seq_len, set "
                 "train.recompute=true, take a smaller model, or train.force=true to try anyway",
                 pu_train_bytes_text(bytes, need), pu_train_bytes_text(available, have));
}
