/* Which device: the CPU, or a plug-in beside the executable. */
#include <dlfcn.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "puyu/compute.h"

/* What a plug-in libpuyu-NAME.so exports. */
typedef pu_err (*plugin_open_fn)(int threads, pu_backend **out, pu_error *e);

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

static pu_err plugin_open(const char *device, int threads, pu_backend **out, pu_error *e) {
  char folder[PATH_MAX], path[PATH_MAX + 64];
  void *library = NULL;
  static const char *const places[] = {"%s/libpuyu-%s.so", "%s/../lib/libpuyu-%s.so"};
  if (strchr(device, '/') || strlen(device) > 32)
    return pu_fail(e, PU_ERR_USAGE, "'%s' is no device: use cpu or cuda", device);
  if (!program_folder(folder, sizeof folder))
    return pu_fail(e, PU_ERR_IO, "%s: the program's own folder is unknown", device);
  for (size_t i = 0; i < PU_COUNT(places) && !library; i++) {
    snprintf(path, sizeof path, i == 0 ? places[0] : places[1], folder, device);
    if (access(path, F_OK) != 0) continue;
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) return pu_fail(e, PU_ERR_IO, "%s: %s", device, dlerror());
  }
  if (!library)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: libpuyu-%s.so not found beside the program (%s)", device, device,
                   folder);
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

pu_err pu_backend_open(const char *device, int threads, pu_backend **out, pu_error *e) {
  if (strcmp(device, "cpu") == 0) return pu_cpu_open(threads, pu_isa_best(), out, e);
  return plugin_open(device, threads, out, e);
}
