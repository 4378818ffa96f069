/* A driver in place of NVIDIA's, for a test of what is said where a real one will not do: as much of it as the runtime
 * asks before it looks for devices, of which there are none. FAKE_DRIVER: the version it says it is, as 12080. */
#include <stdlib.h>
#include <string.h>

enum { OK, NO_DEVICE = 100 };

static int version(int *out) {
  const char *v = getenv("FAKE_DRIVER");
  *out = v ? atoi(v) : 0;
  return OK;
}

static int nothing(void) {
  return NO_DEVICE;
}

int cuGetProcAddress_v2(const char *name, void **out, int wanted, unsigned long long flags, int *found);

__attribute__((visibility("default"))) int cuGetProcAddress_v2(const char *name, void **out, int wanted,
                                                               unsigned long long flags, int *found) {
  (void)wanted, (void)flags;
  if (found) *found = 0;
  *out = strcmp(name, "cuDriverGetVersion") == 0 ? (void *)version
         : strcmp(name, "cuGetProcAddress") == 0 ? (void *)cuGetProcAddress_v2
                                                 : (void *)nothing;
  return OK;
}

int cuGetProcAddress(const char *name, void **out, int wanted, unsigned long long flags);

__attribute__((visibility("default"))) int cuGetProcAddress(const char *name, void **out, int wanted,
                                                            unsigned long long flags) {
  return cuGetProcAddress_v2(name, out, wanted, flags, NULL);
}
