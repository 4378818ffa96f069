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

typedef struct process {
  int pid;
  int above;  /* its parent's place in the same queue; -1: not known */
  int thread; /* one that has its memory: the first has none once it has ended, though others go on; 0: none has */
  uint64_t memory;
  uint64_t start;    /* with pid, it is this process and no later one; 0: it was gone before it could be asked */
  uint64_t own, all; /* ticks of the processor; all: and those of children that were waited for */
} process;

typedef struct queue {
  process v[MOST];
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

/* Its times. The name, which it chose, may hold anything: fields are counted from its last bracket. */
static bool read_times(process *p) {
  char path[64], text[1024];
  unsigned long long user, kernel, user_below, kernel_below, start;
  snprintf(path, sizeof path, "/proc/%d/stat", p->pid);
  const char *fields = strrchr(read_proc(path, text, sizeof text), ')');
  if (!fields ||
      sscanf(fields + 1, "%*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu %llu %llu %llu %*s %*s %*s %*s %llu", &user,
             &kernel, &user_below, &kernel_below, &start) != 5)
    return false;
  p->own = user + kernel;
  p->all = p->own + user_below + kernel_below;
  p->start = start;
  return true;
}

/* The sum of the kB of these fields; false where the first is missing. */
static bool kilobytes(const char *text, const char *const *fields, uint64_t *bytes) {
  bool found = strstr(text, *fields) != NULL;
  for (*bytes = 0; *fields; fields++) {
    const char *p = strstr(text, *fields);
    if (p) *bytes += strtoull(p + strlen(*fields), NULL, 10) << 10;
  }
  return found;
}

/* Memory of its own, without files of /usr that are mapped. What a fork shares counts for both. */
static void read_memory(process *p, int thread) {
  static const char *const fields[] = {"\nRssAnon:", "\nRssShmem:", "\nVmSwap:", NULL};
  char path[64], text[4096];
  snprintf(path, sizeof path, "/proc/%d/status", thread);
  if (kilobytes(read_proc(path, text, sizeof text), fields, &p->memory)) p->thread = thread;
}

/* The same, with what is shared divided among those who share it: slower. */
static uint64_t share_of(process *p) {
  static const char *const fields[] = {"\nPss_Anon:", "\nPss_Shmem:", "\nSwapPss:", NULL};
  char path[64], text[4096];
  uint64_t bytes;
  snprintf(path, sizeof path, "/proc/%d/smaps_rollup", p->thread);
  if (kilobytes(read_proc(path, text, sizeof text), fields, &bytes)) return bytes;
  p->memory = 0; /* of one that has ended since */
  read_memory(p, p->thread);
  return p->memory;
}

/* After vfork, until it starts another program, a child is in its parent's memory: that counts once. */
static bool in_memory_of_parent(const queue *q, const process *p) {
  return p->above >= 0 && syscall(SYS_kcmp, p->thread, q->v[p->above].thread, KCMP_VM, 0, 0) == 0;
}

static int find(const queue *q, int pid) {
  for (int i = 0; i < q->n; i++)
    if (q->v[i].pid == pid) return i;
  return -1;
}

/* Once: a child whose parent ends during the look is listed again, by who has it then. */
static void add(queue *q, int pid, int above) {
  if (q->n < MOST && find(q, pid) < 0) q->v[q->n++] = (process){.pid = pid, .above = above};
}

static void add_children(queue *q, int at, int thread) {
  char path[96], text[32768], *end;
  snprintf(path, sizeof path, "/proc/%d/task/%d/children", q->v[at].pid, thread);
  for (char *p = read_proc(path, text, sizeof text);; p = end) {
    long child = strtol(p, &end, 10);
    if (end == p) return;
    add(q, (int)child, at);
  }
}

static void look_at(queue *q, int at) {
  char path[64];
  process *p = &q->v[at];
  snprintf(path, sizeof path, "/proc/%d/task", p->pid);
  DIR *d = opendir(path);
  if (!d) return;
  for (struct dirent *entry; (entry = readdir(d));) {
    int thread = atoi(entry->d_name);
    if (thread == 0) continue;
    add_children(q, at, thread);
    if (!p->thread) read_memory(p, thread);
  }
  closedir(d);
  read_times(p);
}

/* ---- from look to look ---- */

/* Time of processes that are gone. The kernel gives it to their parents only if those wait for them: here it is kept
 * as it was last seen. */
static uint64_t ticks_of_gone;

/* What was there a look ago and was not found now is gone, or else it was missed. */
static void look_for_missed(queue *q, const queue *before) {
  int n = q->n;
  for (int i = 0; i < before->n; i++) {
    const process *then = &before->v[i];
    int at = find(q, then->pid);
    process now = {.pid = then->pid};
    if (then->start == 0 || (at >= 0 && q->v[at].start == then->start)) continue;
    if (!read_times(&now) || now.start != then->start)
      ticks_of_gone += then->own;
    else
      add(q, now.pid, then->above < 0 ? -1 : find(q, before->v[then->above].pid));
  }
  for (int i = n; i < q->n; i++) look_at(q, i);
}

/* Either sum may lack some: the one time nobody waited for, the other that of processes no look saw. */
static double seconds_of(const queue *q) {
  uint64_t all = 0, own = ticks_of_gone;
  for (int i = 0; i < q->n; i++) {
    all += q->v[i].all;
    own += q->v[i].own;
  }
  return (double)(all > own ? all : own) / (double)sysconf(_SC_CLK_TCK);
}

bool box_can_look(void) {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
  return access(path, R_OK) == 0;
}

box_use box_look(int pid, uint64_t enough) {
  static queue q, before;
  box_use use = {0};
  q.n = 0;
  add(&q, pid, -1);
  for (int i = 0; i < q.n; i++) look_at(&q, i);
  look_for_missed(&q, &before);
  memcpy(before.v, q.v, (size_t)q.n * sizeof *q.v);
  before.n = q.n;
  use.cpu_seconds = seconds_of(&q);
  for (int i = 0; i < q.n; i++) use.memory += q.v[i].memory;
  if (use.memory <= enough) return use;
  use.memory = 0;
  for (int i = 0; i < q.n; i++)
    if (!in_memory_of_parent(&q, &q.v[i])) use.memory += share_of(&q.v[i]);
  return use;
}
