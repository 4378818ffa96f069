/* Which device: the CPU, or a plug-in beside the executable. */
#include <dirent.h>
#include <dlfcn.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "puyu/compute.h"

/* What a plug-in libpuyu-NAME.so exports. */
typedef pu_err (*plugin_open_fn)(int threads, pu_backend **out, pu_error *e);

/* Where plug-ins are, from the folder of the executable. */
static const char *const places[] = {"", "/../lib"};

/* The folder of the executable: the working directory is never searched. */
static bool program_folder(char *out, size_t size) {
  ssize_t n = readlink("/proc/self/exe", out, size - 1);
  if (n <= 0) return false;
  out[n] = '\0';
  char *slash = strrchr(out, '/');
  if (!slash) return false;
  *slash = '\0';
  return true;
}

/* Where the plug-in is; false: nowhere. path: PATH_MAX. */
static bool plugin_find(const char *device, char *path) {
  char folder[PATH_MAX];
  if (!program_folder(folder, sizeof folder)) return false;
  for (size_t i = 0; i < PU_COUNT(places); i++) {
    int n = snprintf(path, PATH_MAX, "%s%s/libpuyu-%s.so", folder, places[i], device);
    if (n < PATH_MAX && access(path, F_OK) == 0) return true;
  }
  return false;
}

/* "libpuyu-cuda.so" -> "cuda". */
static bool plugin_name(const char *file, char *name) {
  static const char before[] = "libpuyu-", after[] = ".so";
  size_t n = strlen(file), around = sizeof before + sizeof after - 2;
  if (n <= around || n - around >= PU_DEVICE_NAME || strncmp(file, before, sizeof before - 1) != 0) return false;
  if (!pu_ends_with(file, after)) return false;
  memcpy(name, file + sizeof before - 1, n - around);
  name[n - around] = 0;
  return true;
}

size_t pu_backend_list(char (*names)[PU_DEVICE_NAME], size_t room) {
  char folder[PATH_MAX], path[PATH_MAX + 8];
  size_t n = 0;
  if (!program_folder(folder, sizeof folder)) return 0;
  for (size_t i = 0; i < PU_COUNT(places) && n == 0; i++) {
    snprintf(path, sizeof path, "%s%s", folder, places[i]);
    DIR *d = opendir(path);
    if (!d) continue;
    for (const struct dirent *f; n < room && (f = readdir(d));) n += plugin_name(f->d_name, names[n]);
    closedir(d);
  }
  return n;
}

static pu_err plugin_open(const char *device, int threads, pu_backend **out, pu_error *e) {
  char path[PATH_MAX];
  if (strchr(device, '/') || strlen(device) >= PU_DEVICE_NAME)
    return pu_fail(e, PU_ERR_USAGE, "'%s' is no device: use auto, cpu or cuda", device);
  if (!plugin_find(device, path))
    return pu_fail(e, PU_ERR_UNSUPPORTED,
                   "%s: libpuyu-%s.so not found beside the program (docs/devices.md says how it is built)", device,
                   device);
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) return pu_fail(e, PU_ERR_IO, "%s: %s", device, dlerror());
  union {
    void *symbol;
    plugin_open_fn open;
  } entry = {dlsym(library, "pu_plugin_open")};
  if (!entry.symbol) {
    dlclose(library);
    return pu_fail(e, PU_ERR_FORMAT, "%s: no pu_plugin_open in it; build it from the same version", path);
  }
  return entry.open(threads, out, e); /* the library stays: its code runs until the program ends */
}

/* The best there is: a device that cannot be used is no error here. */
static pu_err best_open(int threads, pu_backend **out, pu_error *e) {
  char path[PATH_MAX];
  pu_error why;
  if (plugin_find("cuda", path)) {
    if (plugin_open("cuda", threads, out, &why) == PU_OK) return PU_OK;
    pu_log(PU_LOG_INFO, "%s: so the processor computes", why.msg);
  }
  return pu_cpu_open(threads, pu_isa_best(), out, e);
}

pu_err pu_backend_open(const char *device, int threads, pu_backend **out, pu_error *e) {
  const char *wanted = getenv("PUYU_DEVICE");
  if (strcmp(device, "auto") == 0) device = wanted && *wanted ? wanted : device;
  if (strcmp(device, "auto") == 0) return best_open(threads, out, e);
  if (strcmp(device, "cpu") == 0) return pu_cpu_open(threads, pu_isa_best(), out, e);
  return plugin_open(device, threads, out, e);
}
