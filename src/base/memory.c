/* Memory of this process and of the machine, and its processor, as Linux tells it. */
#include <stdlib.h>
#include <string.h>

#include "puyu/base.h"

const char *pu_cpu_name(char *text, size_t room) {
  snprintf(text, room, "unknown");
  FILE *f = fopen("/proc/cpuinfo", "re");
  if (!f) return text;
  char line[512];
  while (fgets(line, sizeof line, f)) {
    char *colon = strchr(line, ':');
    if (strncmp(line, "model name", 10) != 0 || !colon) continue;
    line[strcspn(line, "\n")] = 0;
    snprintf(text, room, "%s", colon + 1 + (colon[1] == ' '));
    break;
  }
  fclose(f);
  return text;
}

const char *pu_bytes_text(size_t bytes, char text[24]) {
  static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double v = (double)bytes;
  size_t u = 0;
  while (v >= 1000 && u + 1 < PU_COUNT(units)) v /= 1024, u++;
  snprintf(text, 24, u == 0 || v >= 100 ? "%.0f %s" : "%.1f %s", v, units[u]);
  return text;
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

size_t pu_memory_used(void) {
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

size_t pu_memory_all(void) {
  return number_after("/proc/meminfo", "MemTotal:", 1024);
}

size_t pu_memory_free(void) {
  size_t machine = number_after("/proc/meminfo", "MemAvailable:", 1024), group = group_free();
  if (machine == 0 || group == 0) return PU_MAX(machine, group);
  return PU_MIN(machine, group);
}
