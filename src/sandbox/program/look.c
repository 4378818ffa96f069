/* What the processes inside use, seen from outside through /proc: whoever leaves its parent is given to the first
 * process of its namespace, so all are below that one. A process that begins or ends during a look may be missed: the
 * next look is soon. */
#include "src/sandbox/program/box.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MOST = 4096 }; /* processes in one look; there are fewer: RLIMIT_NPROC */

typedef struct queue {
  int pid[MOST], parent[MOST];
  int n;
} queue;

/* The text of a file of /proc, cut to the room; "" where the process is gone. */
static char *read_proc(const char *path, char *text, size_t room) {
  size_t n = 0;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  for (ssize_t got = 1; fd >= 0 && n + 1 < room && got > 0; n += got > 0 ? (size_t)got : 0)
    got = read(fd, text + n, room - 1 - n);
  if (fd >= 0) close(fd);
  text[n] = 0;
  return text;
}

static void add_children(queue *q, int pid, const char *thread) {
  char path[96], text[32768], *end;
  snprintf(path, sizeof path, "/proc/%d/task/%.20s/children", pid, thread);
  for (char *p = read_proc(path, text, sizeof text); q->n < MOST; p = end) {
    long child = strtol(p, &end, 10);
    if (end == p) return;
    q->parent[q->n] = pid;
    q->pid[q->n++] = (int)child;
  }
}

static void add_below(queue *q, int pid) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/task", pid);
  DIR *d = opendir(path);
  if (!d) return;
  for (struct dirent *entry; (entry = readdir(d));)
    if (*entry->d_name != '.') add_children(q, pid, entry->d_name);
  closedir(d);
}

/* Seconds of the process and of its children that were waited for. The name, which it chose, may hold anything: fields
 * are counted from its last bracket. */
static double cpu_of(int pid) {
  char path[64], text[1024];
  unsigned long long ticks[4] = {0};
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  const char *p = strrchr(read_proc(path, text, sizeof text), ')');
  if (!p || sscanf(p + 1, "%*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu %llu %llu %llu", &ticks[0], &ticks[1],
                   &ticks[2], &ticks[3]) != 4)
    return 0;
  return (double)(ticks[0] + ticks[1] + ticks[2] + ticks[3]) / (double)sysconf(_SC_CLK_TCK);
}

/* The sum of the kB of these fields. */
static uint64_t kilobytes(const char *text, const char *const *fields) {
  uint64_t sum = 0;
  for (; *fields; fields++) {
    const char *p = strstr(text, *fields);
    if (p) sum += strtoull(p + strlen(*fields), NULL, 10);
  }
  return sum << 10;
}

/* Memory of its own, without files of /usr that are mapped. What a fork shares counts for both. */
static uint64_t memory_of(int pid) {
  static const char *const fields[] = {"\nRssAnon:", "\nRssShmem:", "\nVmSwap:", NULL};
  char path[64], text[4096];
  snprintf(path, sizeof path, "/proc/%d/status", pid);
  return kilobytes(read_proc(path, text, sizeof text), fields);
}

/* The same, with what is shared divided among those who share it: slower. */
static uint64_t share_of(int pid) {
  static const char *const fields[] = {"\nPss_Anon:", "\nPss_Shmem:", "\nSwapPss:", NULL};
  char path[64], text[4096];
  snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
  return *read_proc(path, text, sizeof text) ? kilobytes(text, fields) : memory_of(pid);
}

/* After vfork, until it starts another program, a child is in its parent's memory: that counts once. */
static bool in_memory_of(int pid, int parent) {
  return syscall(SYS_kcmp, pid, parent, KCMP_VM, 0, 0) == 0;
}

bool box_can_look(void) {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
  return access(path, R_OK) == 0;
}

box_use box_look(int pid, uint64_t enough) {
  static queue q;
  box_use use = {0};
  q.n = 0;
  q.parent[q.n] = 0;
  q.pid[q.n++] = pid;
  for (int i = 0; i < q.n; i++) {
    add_below(&q, q.pid[i]);
    use.cpu_seconds += cpu_of(q.pid[i]);
    use.memory += memory_of(q.pid[i]);
  }
  if (use.memory <= enough) return use;
  use.memory = 0;
  for (int i = 0; i < q.n; i++)
    if (!in_memory_of(q.pid[i], q.parent[i])) use.memory += share_of(q.pid[i]);
  return use;
}
