/* Which device: the CPU, or a plug-in beside the executable. */
#include <dirent.h>
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "puyu/compute.h"

/* What a plug-in libpuyu-NAME.so exports. */
typedef pu_err (*plugin_open_fn)(int threads, pu_backend **out, pu_error *e);
typedef const char *(*plugin_interface_fn)(void);

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

static bool within(uint64_t at, uint64_t bytes, uint64_t size) {
  return at <= size && bytes <= size - at;
}

/* Whether all that its headers speak of is in the file; what else is wrong with it dlopen says. */
static bool plugin_whole(FILE *f, uint64_t size) {
  Elf64_Ehdr h;
  if (fread(&h, sizeof h, 1, f) != 1) return false;
  if (memcmp(h.e_ident, ELFMAG, SELFMAG) != 0 || h.e_ident[EI_CLASS] != ELFCLASS64 ||
      h.e_ident[EI_DATA] != ELFDATA2LSB || h.e_phentsize != sizeof(Elf64_Phdr))
    return true;
  if (!within(h.e_shoff, (uint64_t)h.e_shnum * h.e_shentsize, size)) return false;
  if (!within(h.e_phoff, (uint64_t)h.e_phnum * h.e_phentsize, size) || fseek(f, (long)h.e_phoff, SEEK_SET) != 0)
    return false;
  for (int i = 0; i < h.e_phnum; i++) {
    Elf64_Phdr part;
    if (fread(&part, sizeof part, 1, f) != 1 || !within(part.p_offset, part.p_filesz, size)) return false;
  }
  return true;
}

/* dlopen maps a file that ends too early, and touching what is not there ends the process. */
static pu_err plugin_check(const char *path, pu_error *e) {
  struct stat st;
  if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) return pu_fail(e, PU_ERR_FORMAT, "%s is no file", path);
  FILE *f = fopen(path, "re");
  if (!f) return pu_fail(e, PU_ERR_IO, "%s: %s", path, strerror(errno));
  bool whole = fstat(fileno(f), &st) == 0 && plugin_whole(f, (uint64_t)st.st_size);
  fclose(f);
  return whole ? PU_OK : pu_fail(e, PU_ERR_FORMAT, "%s is cut off: build it anew", path);
}

/* What opens it; NULL, and what is wrong: it is none, or made for another program. */
static plugin_open_fn plugin_entry(void *library, const char **wrong) {
  union {
    void *symbol;
    plugin_open_fn open;
  } entry = {dlsym(library, "pu_plugin_open")};
  union {
    void *symbol;
    plugin_interface_fn get;
  } interface = {dlsym(library, "pu_plugin_interface")};
  const bool same = interface.symbol && strcmp(interface.get(), pu_interface) == 0;
  *wrong = entry.symbol ? "of another version than the program: build both from the same" : "no plug-in of puyu";
  return entry.symbol && same ? entry.open : NULL;
}

static pu_err plugin_open(const char *device, int threads, pu_backend **out, pu_error *e) {
  char path[PATH_MAX];
  const bool named = *device && !strchr(device, '/') && strlen(device) < PU_DEVICE_NAME;
  const bool found = named && plugin_find(device, path);
  if (!found && strcmp(device, "cuda") == 0)
    return pu_fail(e, PU_ERR_UNSUPPORTED,
                   "cuda: libpuyu-cuda.so not found beside the program (docs/devices.md says how it is built)");
  if (!found) return pu_fail(e, PU_ERR_USAGE, "'%.80s' is no device: use auto, cpu or cuda", device);
  PU_TRY(plugin_check(path, e));
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) return pu_fail(e, PU_ERR_IO, "%s: %s", device, dlerror());
  const char *wrong;
  const plugin_open_fn open = plugin_entry(library, &wrong);
  if (open) return open(threads, out, e); /* the library stays: its code runs until the program ends */
  dlclose(library);
  return pu_fail(e, PU_ERR_FORMAT, "%s is %s", path, wrong);
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

static pu_err named_open(const char *device, int threads, pu_backend **out, pu_error *e) {
  if (strcmp(device, "auto") == 0) return best_open(threads, out, e);
  if (strcmp(device, "cpu") == 0) return pu_cpu_open(threads, pu_isa_best(), out, e);
  return plugin_open(device, threads, out, e);
}

pu_err pu_backend_open(const char *device, int threads, pu_backend **out, pu_error *e) {
  const char *wanted = getenv("PUYU_DEVICE");
  if (strcmp(device, "auto") != 0 || !wanted || !*wanted) return named_open(device, threads, out, e);
  pu_err err = named_open(wanted, threads, out, e);
  return err ? pu_fail_in(e, err, "PUYU_DEVICE=%.80s", wanted) : PU_OK;
}
