/* The new root: views of what programs need, all read-only, and a /tmp in memory. */
#include "src/sandbox/program/box.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Where a path is a link (/lib -> usr/lib) the link is made anew; where it is missing it stays so. */
static const struct {
  const char *path;
  bool needed, device;
} paths[] = {
    {"/usr", true, false},
    {"/bin", false, false},
    {"/sbin", false, false},
    {"/lib", false, false},
    {"/lib32", false, false},
    {"/lib64", false, false},
    {"/libx32", false, false},
    {"/etc/ld.so.cache", false, false},
    {"/etc/alternatives", false, false},
    {"/dev/null", true, true},
    {"/dev/urandom", true, true},
    {"/dev/random", true, true},
};
enum { PATHS = sizeof paths / sizeof *paths };

struct box_binds {
  int fd[PATHS]; /* a view that is mounted nowhere yet; -1: none */
  char link[PATHS][256];
  int folder;
};

static int take(const char *path, uint64_t attributes) {
  int fd = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
  if (fd < 0) return -1;
  struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | attributes};
  if (mount_setattr(fd, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof attr) != 0) box_fail(BOX_STEP_BIND, path);
  return fd;
}

const box_binds *box_take_binds(const box *b) {
  static box_binds binds;
  /* What is mounted here from now on is seen by nobody else, and what others mount not here. */
  if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) box_fail(BOX_STEP_BIND, "/");
  for (int i = 0; i < PATHS; i++) {
    binds.fd[i] = -1;
    bool is_link = !paths[i].needed && readlink(paths[i].path, binds.link[i], sizeof binds.link[i] - 1) > 0;
    if (is_link) continue;
    binds.fd[i] = take(paths[i].path, paths[i].device ? MOUNT_ATTR_NOEXEC : MOUNT_ATTR_NODEV);
    if (binds.fd[i] < 0 && (errno != ENOENT || paths[i].needed)) box_fail(BOX_STEP_BIND, paths[i].path);
  }
  binds.folder = *b->folder ? take(b->folder, MOUNT_ATTR_NODEV) : -1;
  if (*b->folder && binds.folder < 0) box_fail(BOX_STEP_BIND, b->folder);
  return &binds;
}

/* Paths are relative to the new root, which is the current folder. */
static void make_dir(const char *path) {
  if (mkdir(path, 0755) != 0 && errno != EEXIST) box_fail(BOX_STEP_ROOT, path);
}

static void make_file(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text) || close(fd) != 0) box_fail(BOX_STEP_ROOT, path);
}

static void make_link(const char *to, const char *path) {
  if (symlink(to, path) != 0) box_fail(BOX_STEP_ROOT, path);
}

static void put(int fd, const char *path) {
  struct stat st;
  if (fstat(fd, &st) != 0) box_fail(BOX_STEP_ROOT, path);
  if (S_ISDIR(st.st_mode))
    make_dir(path);
  else
    make_file(path, "");
  if (move_mount(fd, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) != 0) box_fail(BOX_STEP_ROOT, path);
  close(fd);
}

/* Where the machine shows only parts of /proc (most containers) the kernel lets nobody mount a new one: then there is
 * none. Only what is about processes is in it, and it is read-only. */
static void put_proc(void) {
  make_dir("proc");
  if (mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, "subset=pid") != 0 && errno != EPERM)
    box_fail(BOX_STEP_ROOT, "/proc");
}

static void put_tmp(uint64_t bytes) {
  char options[96];
  uint64_t files = bytes / 4096 < 64 ? 64 : bytes / 4096 > 65536 ? 65536 : bytes / 4096;
  snprintf(options, sizeof options, "mode=0755,size=%llu,nr_inodes=%llu", (unsigned long long)bytes,
           (unsigned long long)files);
  make_dir("tmp");
  if (mount("tmpfs", "tmp", "tmpfs", MS_NOSUID | MS_NODEV, options) != 0) box_fail(BOX_STEP_ROOT, "/tmp");
}

static void fill(const box *b, const box_binds *binds) {
  make_dir("etc");
  make_dir("dev");
  for (int i = 0; i < PATHS; i++) {
    if (*binds->link[i])
      make_link(binds->link[i], paths[i].path + 1);
    else if (binds->fd[i] >= 0)
      put(binds->fd[i], paths[i].path + 1);
  }
  if (*b->folder) put(binds->folder, "data");
  make_file("etc/passwd", "user:x:1000:1000:user:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n");
  make_file("etc/group", "user:x:1000:\nnogroup:x:65534:\n");
  make_file("etc/hosts", "127.0.0.1 localhost\n");
  make_link("/tmp", "dev/shm"); /* so that POSIX shared memory and semaphores share its limit */
  make_link("/proc/self/fd", "dev/fd");
  make_link("/proc/self/fd/0", "dev/stdin");
  make_link("/proc/self/fd/1", "dev/stdout");
  make_link("/proc/self/fd/2", "dev/stderr");
  put_proc();
  put_tmp(b->plan.files);
}

void box_make_root(const box *b, const box_binds *binds) {
  if (sethostname("sandbox", 7) != 0) box_fail(BOX_STEP_ROOT, "the host name");
  /* It needs a folder to be mounted on, in this mount namespace only; /usr is there, as it was just taken. */
  if (mount("tmpfs", "/usr", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m,nr_inodes=256") != 0 ||
      chdir("/usr") != 0)
    box_fail(BOX_STEP_ROOT, "/");
  fill(b, binds);
  struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};
  if (mount_setattr(AT_FDCWD, ".", 0, &attr, sizeof attr) != 0) box_fail(BOX_STEP_ROOT, "/");
  /* The old root lands on top of the new one, in one call without a folder for it, and is taken off. */
  if (syscall(SYS_pivot_root, ".", ".") != 0 || umount2(".", MNT_DETACH) != 0 || chdir("/tmp") != 0)
    box_fail(BOX_STEP_PIVOT, "");
}
