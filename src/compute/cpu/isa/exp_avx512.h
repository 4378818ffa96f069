/* exp(x) on 16 lanes, relative error below 1.2e-7 (2 units in the last place) over the whole range.
 *
 * x = n ln2 + r with n whole and |r| <= ln2/2; ln2 is subtracted in two parts so that r keeps its low bits. exp(r) is a
 * polynomial of degree 6, minimax in relative error (1.9e-9, Remez), and scalef multiplies by 2^n, also into the
 * denormals. -inf gives 0, +inf gives inf, NaN stays NaN. */
#ifndef PUYU_EXP_AVX512_H
#define PUYU_EXP_AVX512_H

#include <immintrin.h>

static inline __m512 pu_exp_avx512(__m512 x) {
  /* Beyond these the result is 0 or inf anyway; max and min give their second operand where one is NaN. */
  x = _mm512_min_ps(_mm512_set1_ps(89.0f), _mm512_max_ps(_mm512_set1_ps(-104.0f), x));
  __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504089f)),
                                  _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.38368460e-3f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.37481580e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.16682256e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.66664202e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.99999921e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.00000004f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

#endif
