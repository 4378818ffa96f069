/* Which instruction sets this processor and this kernel allow. */
#include "puyu/compute.h"

#include <cpuid.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *const isa_names[PU_ISA_COUNT] = {"ref", "avx2", "avx512", "amx"};

const char *pu_isa_name(pu_isa isa) {
  return (unsigned)isa < PU_ISA_COUNT ? isa_names[isa] : "unknown";
}

/* One CPUID feature bit; reg counts eax, ebx, ecx, edx. */
typedef struct feature {
  unsigned leaf, subleaf;
  int reg, bit;
} feature;

static bool has(feature f) {
  unsigned r[4];
  if (!__get_cpuid_count(f.leaf, f.subleaf, &r[0], &r[1], &r[2], &r[3])) return false;
  return (r[f.reg] >> f.bit) & 1;
}

static bool has_all(const feature *features, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (!has(features[i])) return false;
  return true;
}

enum { EAX, EBX, ECX, EDX };
/* What the files of src/compute/cpu/isa are compiled for (cmake/puyu.cmake), set by set. */
static const feature avx2[] = {
    {1, 0, ECX, 28} /* avx */, {1, 0, ECX, 12} /* fma */, {1, 0, ECX, 29} /* f16c */,
    {7, 0, EBX, 5} /* avx2 */, {7, 0, EBX, 8} /* bmi2 */,
};
static const feature avx512[] = {
    {7, 0, EBX, 16} /* f */,  {7, 0, EBX, 17} /* dq */,   {7, 0, EBX, 30} /* bw */,
    {7, 0, EBX, 31} /* vl */, {7, 0, ECX, 11} /* vnni */, {7, 1, EAX, 5} /* bf16 */,
};
static const feature amx[] = {
    {7, 0, EDX, 24} /* tile */,
    {7, 0, EDX, 22} /* bf16 */,
    {7, 0, EDX, 25} /* int8 */,
};
static const feature osxsave = {1, 0, ECX, 27};

/* Register state the kernel saves on a context switch (XCR0): without it the instructions fault. */
enum { XCR0_YMM = 0x6, XCR0_ZMM = 0xe6, XCR0_TILE = 0x60000 };

static uint64_t xcr0(void) {
  if (!has(osxsave)) return 0;
  uint32_t lo, hi;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (uint64_t)hi << 32 | lo;
}

/* Linux gives a process the 8 KiB of tile state only when asked (since 5.16). */
static bool ask_for_tiles(void) {
  enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

static pu_isa processor_isa(void) {
  uint64_t state = xcr0();
  if ((state & XCR0_YMM) != XCR0_YMM || !has_all(avx2, PU_COUNT(avx2))) return PU_ISA_REF;
  if ((state & XCR0_ZMM) != XCR0_ZMM || !has_all(avx512, PU_COUNT(avx512))) return PU_ISA_AVX2;
  if ((state & XCR0_TILE) != XCR0_TILE || !has_all(amx, PU_COUNT(amx)) || !ask_for_tiles()) return PU_ISA_AVX512;
  return PU_ISA_AMX;
}

pu_isa pu_isa_best(void) {
  pu_isa best = processor_isa();
  const char *wanted = getenv("PUYU_ISA");
  for (int i = 0; wanted && i < (int)best; i++)
    if (!strcmp(wanted, isa_names[i])) return (pu_isa)i;
  return best;
}
