/* TDPBF16PS and nothing else: four sums in turn, as many as the unit's latency asks for. */
#include "puyu/compute.h"
#include "src/compute/cpu/limits.h"

#include <immintrin.h>

enum { STEPS = 4 };

double pu_bare_amx(int64_t rounds) {
  static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t line_bytes[16];
    uint8_t rows[16];
  } config = {.palette = 1, .line_bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
  /* Ordinary values: products of zeros would draw less power and run faster than work does. */
  uint16_t values[16 * 32];
  for (int i = 0; i < 16 * 32; i++) values[i] = pu_f32_to_bf16((float)(i % 61 - 30) * 1e-3f);
  __asm__ volatile("" ::"r"(values) : "memory"); /* gcc 12 does not know that _tile_loadd reads them */
  _tile_loadconfig(&config);
  _tile_loadd(4, values, 64);
  _tile_loadd(5, values, 64);
  _tile_loadd(6, values, 64);
  _tile_loadd(7, values, 64);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t i = 0; i < rounds * STEPS; i++) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return 4.0 * 2 * 16 * 16 * 32 * STEPS * (double)rounds;
}
