/* The folder that is shown as /data: files, and nothing that leads to more than files. */
#include "src/sandbox/inner.h"

#include <errno.h>
#include <mntent.h>
#include <stdlib.h>
#include <string.h>

static bool within(const char *path, const char *folder) {
  size_t n = strlen(folder);
  return strncmp(path, folder, n) == 0 && (path[n] == 0 || path[n] == '/');
}

/* Sockets, devices, other processes; wherever they are mounted, as in the root of a container. */
static bool is_place(const char *path) {
  static const char *const never[] = {"/dev", "/proc", "/run", "/sys"};
  bool bad = strcmp(path, "/") == 0;
  for (size_t i = 0; i < PU_COUNT(never); i++) bad = bad || within(path, never[i]);
  return bad;
}

static bool is_kernels(const char *type) {
  static const char *const types[] = {"binfmt_misc", "bpf",      "cgroup",   "cgroup2",    "configfs",   "debugfs",
                                      "devpts",      "devtmpfs", "efivarfs", "fusectl",    "mqueue",     "nsfs",
                                      "proc",        "pstore",   "resctrl",  "rpc_pipefs", "securityfs", "selinuxfs",
                                      "smackfs",     "sysfs",    "tracefs"};
  for (size_t i = 0; i < PU_COUNT(types); i++)
    if (strcmp(type, types[i]) == 0) return true;
  return false;
}

/* What is mounted in it is shown, too, and it may itself be a view of such a mount. */
static pu_err check_mounts(const char *path, pu_error *e) {
  enum { MOST = 16384 };
  struct mntent m;
  char *line = malloc(MOST);
  FILE *f = line ? setmntent("/proc/self/mounts", "re") : NULL;
  pu_err err = f ? PU_OK
                 : pu_fail(e, PU_ERR_UNSUPPORTED,
                           "sandbox: /proc/self/mounts cannot be read: %s; /proc must be mounted", strerror(errno));
  while (!err && getmntent_r(f, &m, line, MOST))
    if (is_kernels(m.mnt_type) && (within(m.mnt_dir, path) || within(path, m.mnt_dir)))
      err = pu_fail(e, PU_ERR_USAGE,
                    "sandbox: %.300s is not shown as /data: it holds more than files, since %.300s is mounted (%.20s)",
                    path, m.mnt_dir, m.mnt_type);
  if (f) endmntent(f);
  free(line);
  return err;
}

pu_err sandbox_folder(const char *path, pu_buf *out, pu_error *e) {
  char *real = realpath(path, NULL);
  pu_err err = PU_OK;
  if (!real || !pu_path_is_dir(real))
    err = pu_fail(e, PU_ERR_USAGE, "sandbox: %s cannot be shown as /data: %s", path, strerror(real ? ENOTDIR : errno));
  else if (is_place(real))
    err = pu_fail(e, PU_ERR_USAGE, "sandbox: %s is not shown as /data: it holds more than files; name a folder in it",
                  path);
  else
    err = check_mounts(real, e);
  if (!err) pu_buf_append(out, real, strlen(real) + 1);
  free(real);
  return err;
}
