#include "puyu/base.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_TREE_DEPTH = 256 }; /* pu_remove_tree holds one descriptor a level */

static pu_err io_error(pu_error *e, const char *path, const char *what) {
  bool full = errno == ENOSPC || errno == EDQUOT;
  return pu_fail(e, PU_ERR_IO, "%s: cannot %s: %s%s", path, what, strerror(errno),
                 full ? ": make room there, or write to another disk" : "");
}

/* ---- paths and folders ---- */

bool pu_path_exists(const char *path) {
  struct stat st;
  return stat(path, &st) == 0;
}

bool pu_path_is_dir(const char *path) {
  struct stat st;
  return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *pu_path_join(pu_arena *a, const char *dir, const char *name) {
  size_t n = strlen(dir);
  if (n == 0 || name[0] == '/') return pu_arena_strdup(a, name);
  return pu_arena_printf(a, "%s%s%s", dir, dir[n - 1] == '/' ? "" : "/", name);
}

pu_err pu_mkdirs(const char *path, pu_error *e) {
  char part[PATH_MAX];
  size_t len = strlen(path);
  if (len == 0 || len >= sizeof part) return pu_fail(e, PU_ERR_USAGE, "'%.80s': not a usable folder name", path);
  memcpy(part, path, len + 1);
  for (size_t i = 1; i <= len; i++) {
    if (part[i] != '/' && part[i] != 0) continue;
    part[i] = 0;
    int why = mkdir(part, 0777) == 0 ? 0 : errno;
    if (why != 0 && !pu_path_is_dir(part)) {
      errno = why; /* the look at what is there had its own */
      return io_error(e, part, "make the folder");
    }
    part[i] = path[i];
  }
  return PU_OK;
}

static pu_err remove_below(int dir, const char *path, int depth, pu_error *e);

static pu_err remove_entry(int dir, const char *name, const char *path, int depth, pu_error *e) {
  if (unlinkat(dir, name, 0) == 0 || errno == ENOENT) return PU_OK;
  if (errno != EISDIR && errno != EPERM) return io_error(e, path, "remove");
  int sub = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (sub < 0) return io_error(e, path, "remove");
  PU_TRY(remove_below(sub, path, depth + 1, e));
  return unlinkat(dir, name, AT_REMOVEDIR) == 0 ? PU_OK : io_error(e, path, "remove");
}

/* Takes over the descriptor. `path` is for errors. */
static pu_err remove_below(int dir, const char *path, int depth, pu_error *e) {
  DIR *d = depth < MAX_TREE_DEPTH ? fdopendir(dir) : NULL;
  if (!d) {
    close(dir);
    return pu_fail(e, PU_ERR_IO, "%s: too deep to remove, or no memory", path);
  }
  pu_err err = PU_OK;
  for (struct dirent *ent; err == PU_OK && (ent = readdir(d));)
    if (strcmp(ent->d_name, ".") != 0 && strcmp(ent->d_name, "..") != 0)
      err = remove_entry(dirfd(d), ent->d_name, path, depth, e);
  closedir(d);
  return err;
}

pu_err pu_remove_tree(const char *path, pu_error *e) {
  return remove_entry(AT_FDCWD, path, path, 0, e);
}

static int by_bytes(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

pu_err pu_dir_list(pu_arena *a, const char *path, char ***names, size_t *n, pu_error *e) {
  *names = NULL;
  *n = 0;
  DIR *d = opendir(path);
  if (!d) return io_error(e, path, "list the folder");
  pu_buf all; /* the names, each with its NUL */
  pu_buf_init(&all, PU_BUF_MAX);
  size_t count = 0;
  for (struct dirent *ent; (ent = readdir(d));) {
    if (strcmp(ent->d_name, ".") == 0 || strcmp(ent->d_name, "..") == 0) continue;
    pu_buf_append(&all, ent->d_name, strlen(ent->d_name) + 1);
    count++;
  }
  closedir(d);
  char *text = all.failed ? NULL : pu_arena_strndup(a, all.data, all.len);
  char **list = text ? pu_arena_alloc(a, (count + 1) * sizeof *list) : NULL;
  pu_buf_deinit(&all);
  if (!list) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory to list %zu names", path, count);
  for (size_t i = 0; i < count; i++, text += strlen(text) + 1) list[i] = text;
  list[count] = NULL;
  qsort(list, count, sizeof *list, by_bytes);
  *names = list;
  *n = count;
  return PU_OK;
}

/* ---- whole files ---- */

static pu_err read_all(int fd, const char *path, size_t max, pu_buf *out, pu_error *e) {
  char spare; /* where a full buffer looks for the end of the file */
  for (;;) {
    bool full = out->len == PU_MIN(max, out->max);
    if (!full && !pu_buf_reserve(out, 1)) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory to read the file", path);
    size_t room = full ? 1 : PU_MIN(out->cap - 1, PU_MIN(max, out->max)) - out->len;
    ssize_t n = read(fd, full ? &spare : out->data + out->len, PU_MIN(room, (size_t)1 << 30));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_error(e, path, "read");
    if (n == 0) return PU_OK;
    if (full) return pu_fail(e, PU_ERR_FORMAT, "%s: larger than the limit of %zu bytes", path, out->len);
    out->len += (size_t)n;
    out->data[out->len] = 0;
  }
}

pu_err pu_file_read(const char *path, size_t max, pu_buf *out, pu_error *e) {
  pu_buf_clear(out);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return io_error(e, path, "open");
  struct stat st;
  pu_err err = PU_OK;
  if (fstat(fd, &st) != 0)
    err = io_error(e, path, "read");
  else if (S_ISDIR(st.st_mode))
    err = pu_fail(e, PU_ERR_IO, "%s: is a folder, not a file", path);
  else if (S_ISREG(st.st_mode) && (uint64_t)st.st_size > max)
    err = pu_fail(e, PU_ERR_FORMAT, "%s: %lld bytes, larger than the limit of %zu", path, (long long)st.st_size, max);
  else if (S_ISREG(st.st_mode) && !pu_buf_reserve(out, (size_t)st.st_size))
    err = pu_fail(e, PU_ERR_NOMEM, "%s: no memory to read %lld bytes", path, (long long)st.st_size);
  else
    err = read_all(fd, path, max, out, e);
  close(fd);
  return err;
}

static pu_err write_all(int fd, const char *path, const char *data, size_t len, pu_error *e) {
  while (len > 0) {
    ssize_t n = write(fd, data, PU_MIN(len, (size_t)1 << 30));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_error(e, path, "write");
    data += n;
    len -= (size_t)n;
  }
  return PU_OK;
}

/* A pipe or a device cannot be replaced by rename (and /dev/null must not be). */
static pu_err write_in_place(const char *path, const void *data, size_t len, pu_error *e) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return io_error(e, path, "open");
  pu_err err = write_all(fd, path, data, len, e);
  if (close(fd) != 0 && err == PU_OK) err = io_error(e, path, "write");
  return err;
}

pu_err pu_fsync_dir(const char *dir, pu_error *e) {
  int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return io_error(e, dir, "open the folder");
  int rc = fsync(fd);
  int why = errno;
  close(fd);
  errno = why;
  return rc == 0 || why == EINVAL ? PU_OK : io_error(e, dir, "sync the folder"); /* EINVAL: it has no sync */
}

static pu_err sync_parent(char *path, pu_error *e) {
  char *slash = strrchr(path, '/');
  if (!slash) return pu_fsync_dir(".", e);
  slash[slash == path] = 0;
  return pu_fsync_dir(path, e);
}

/* ---- files in pieces ---- */

struct pu_writer {
  int fd;
  char path[PATH_MAX], tmp[PATH_MAX];
};

pu_err pu_writer_begin(const char *path, pu_writer **out, pu_error *e) {
  pu_writer *w = *out = malloc(sizeof *w);
  if (!w) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory to write it", path);
  int n = snprintf(w->tmp, sizeof w->tmp, "%s.tmp", path);
  pu_err err = PU_OK;
  if (n < 0 || (size_t)n >= sizeof w->tmp) err = pu_fail(e, PU_ERR_USAGE, "%.80s…: the name is too long", path);
  if (err == PU_OK) {
    strcpy(w->path, path);
    w->fd = open(w->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (w->fd < 0) err = io_error(e, path, "create"); /* errors name the file that was asked for */
  }
  if (err == PU_OK) return PU_OK;
  free(w);
  *out = NULL;
  return err;
}

static pu_err check_stop(pu_error *e) {
  return pu_signals_stop_writing() ? pu_fail(e, PU_ERR_STOPPED, "stopped; nothing was written") : PU_OK;
}

pu_err pu_writer_put(pu_writer *w, const void *data, size_t len, pu_error *e) {
  PU_TRY(check_stop(e));
  return write_all(w->fd, w->path, data, len, e);
}

pu_err pu_writer_end(pu_writer *w, pu_err err, pu_error *e) {
  if (err == PU_OK && fsync(w->fd) != 0) err = io_error(e, w->path, "sync");
  if (close(w->fd) != 0 && err == PU_OK) err = io_error(e, w->path, "write");
  if (err == PU_OK) err = check_stop(e);
  if (err == PU_OK && rename(w->tmp, w->path) != 0) err = io_error(e, w->path, "rename the new file over it");
  if (err == PU_OK)
    err = sync_parent(w->tmp, e);
  else
    unlink(w->tmp);
  free(w);
  return err;
}

pu_err pu_file_write(const char *path, const void *data, size_t len, pu_error *e) {
  struct stat st;
  if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) return write_in_place(path, data, len, e);
  pu_writer *w;
  PU_TRY(pu_writer_begin(path, &w, e));
  return pu_writer_end(w, pu_writer_put(w, data, len, e), e);
}

/* ---- maps ---- */

pu_err pu_map_open(const char *path, pu_map *out, pu_error *e) {
  *out = (pu_map){0};
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return io_error(e, path, "open");
  struct stat st;
  pu_err err = PU_OK;
  if (fstat(fd, &st) != 0)
    err = io_error(e, path, "map");
  else if (!S_ISREG(st.st_mode))
    err = pu_fail(e, PU_ERR_IO, "%s: not a regular file", path);
  else if (st.st_size > 0) {
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
      err = io_error(e, path, "map");
    else
      *out = (pu_map){p, (size_t)st.st_size};
  }
  close(fd);
  return err;
}

void pu_map_close(pu_map *m) {
  if (m->data) munmap((void *)(uintptr_t)m->data, m->len);
  *m = (pu_map){0};
}

/* ---- claims ---- */

struct pu_claim {
  char dir[PATH_MAX], lock[PATH_MAX];
  size_t had;     /* bytes of dir that were there before; the rest are folders made by open */
  bool made_lock; /* the file, too, was not there */
  int fd;
};

static pu_err lock_busy(int fd, const char *path, pu_error *e) {
  char pid[24] = {0};
  ssize_t n = pread(fd, pid, sizeof pid - 1, 0);
  pid[n > 0 ? strspn(pid, "0123456789") : 0] = 0;
  if (!pid[0]) return pu_fail(e, PU_ERR_IO, "%s: locked by another process", path);
  return pu_fail(e, PU_ERR_IO, "%s: locked by process %s: wait for it, or end it", path, pid);
}

static pu_err take_lock(const char *path, int *fd, pu_error *e) {
  struct stat held, there;
  int f = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (f < 0) return io_error(e, path, "open the lock");
  pu_err err = PU_OK;
  if (flock(f, LOCK_EX | LOCK_NB) != 0)
    err = errno == EWOULDBLOCK ? lock_busy(f, path, e) : io_error(e, path, "lock");
  else if (fstat(f, &held) != 0 || stat(path, &there) != 0 || held.st_ino != there.st_ino)
    err = lock_busy(f, path, e); /* its holder has just removed the file */
  else if (ftruncate(f, 0) != 0 || dprintf(f, "%d\n", (int)getpid()) < 0)
    err = io_error(e, path, "write the lock");
  if (err != PU_OK)
    close(f);
  else
    *fd = f;
  return err;
}

/* The path without its last name; empty: there is no more of it. */
static void cut_name(char *path) {
  size_t len = strlen(path);
  while (len > 0 && path[len - 1] != '/') len--;
  while (len > 0 && path[len - 1] == '/') len--;
  path[len] = 0;
}

static size_t bytes_that_exist(const char *path) {
  char part[PATH_MAX];
  snprintf(part, sizeof part, "%s", path);
  while (part[0] && !pu_path_exists(part)) cut_name(part);
  return strlen(part);
}

static void remove_made_folders(pu_claim *c) {
  while (strlen(c->dir) > c->had && rmdir(c->dir) == 0) cut_name(c->dir);
}

static pu_err claim(pu_claim *c, pu_error *e) {
  PU_TRY(pu_mkdirs(c->dir, e));
  c->made_lock = !pu_path_exists(c->lock);
  return take_lock(c->lock, &c->fd, e);
}

pu_err pu_claim_open(const char *dir, const char *lock, pu_claim **out, pu_error *e) {
  size_t len = strlen(dir);
  *out = NULL;
  while (len > 1 && dir[len - 1] == '/') len--;
  if (len + strlen(lock) + 2 > PATH_MAX) return pu_fail(e, PU_ERR_USAGE, "%.80s…: the name is too long", dir);
  pu_claim *c = calloc(1, sizeof *c);
  if (!c) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory to claim the folder", dir);
  snprintf(c->dir, sizeof c->dir, "%.*s", (int)len, dir);
  snprintf(c->lock, sizeof c->lock, "%.*s/%s", (int)len, dir, lock);
  c->had = bytes_that_exist(c->dir);
  pu_err err = claim(c, e);
  if (err != PU_OK) {
    remove_made_folders(c);
    free(c);
    return err;
  }
  *out = c;
  return PU_OK;
}

/* Names in the folder, up to 2; -1: it cannot be read. */
static int count_names(const char *dir) {
  DIR *d = opendir(dir);
  int n = 0;
  if (!d) return -1;
  for (struct dirent *ent; n < 2 && (ent = readdir(d));)
    n += strcmp(ent->d_name, ".") != 0 && strcmp(ent->d_name, "..") != 0;
  closedir(d);
  return n;
}

void pu_claim_close(pu_claim *c) {
  if (!c) return;
  /* While the lock is held: nobody else can have begun. */
  if (c->made_lock && count_names(c->dir) == 1 && unlink(c->lock) == 0) remove_made_folders(c);
  close(c->fd);
  free(c);
}
