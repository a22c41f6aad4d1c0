// A vector of floats as wide as the instruction set this file is compiled for.
//
// Everything in simd/ is compiled once per instruction set, in a namespace of that name, with its compiler flags.
// These files use no function of the C++ standard library: the linker keeps one copy of an inline function, and it
// might keep the one that was compiled for a newer CPU.
#pragma once

#include <stdint.h>
#include <string.h>

#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef RAGGEDRT_ISA
#error "define RAGGEDRT_ISA: the namespace of the instruction set that the flags select"
#endif

#define RAGGEDRT_INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define RAGGEDRT_UNROLL _Pragma("clang loop unroll(full)")
#else
#define RAGGEDRT_UNROLL _Pragma("GCC unroll 16")
#endif

namespace raggedrt {
namespace RAGGEDRT_ISA {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

typedef float Vec __attribute__((vector_size(kWidth * 4)));
typedef int32_t VecInt __attribute__((vector_size(kWidth * 4)));
typedef float VecUnaligned __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));

RAGGEDRT_INLINE Vec load(const float* source) { return *reinterpret_cast<const VecUnaligned*>(source); }
RAGGEDRT_INLINE void store(float* target, Vec value) { *reinterpret_cast<VecUnaligned*>(target) = value; }
RAGGEDRT_INLINE Vec splat(float value) { return Vec{} + value; }

// The first `count` floats, zeros after them; reads nothing past them.
RAGGEDRT_INLINE Vec load_first(const float* source, int count) {
  if (count >= kWidth) return load(source);
  float buffer[kWidth] = {};
  memcpy(buffer, source, static_cast<size_t>(count) * sizeof(float));
  return load(buffer);
}

RAGGEDRT_INLINE Vec fused_multiply_add(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

// Elementwise maximum; where one is NaN the second argument.
RAGGEDRT_INLINE Vec max(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

RAGGEDRT_INLINE float horizontal_max(Vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps(v);
#else
  float best = v[0];
  RAGGEDRT_UNROLL
  for (int lane = 1; lane < kWidth; ++lane) best = v[lane] > best ? v[lane] : best;
  return best;
#endif
}

RAGGEDRT_INLINE float horizontal_sum(Vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(v);
#else
  float sum = v[0];
  RAGGEDRT_UNROLL
  for (int lane = 1; lane < kWidth; ++lane) sum += v[lane];
  return sum;
#endif
}

// Lane i of the result is value's where bit i is set, else other's.
RAGGEDRT_INLINE Vec select_bits(uint32_t bits, Vec value, Vec other) {
#if defined(__AVX512F__)
  return _mm512_mask_mov_ps(other, static_cast<__mmask16>(bits), value);
#else
  VecInt lane_bit;
  RAGGEDRT_UNROLL
  for (int lane = 0; lane < kWidth; ++lane) lane_bit[lane] = 1 << lane;
  return ((VecInt{} + static_cast<int32_t>(bits)) & lane_bit) != 0 ? value : other;
#endif
}

RAGGEDRT_INLINE bool any_differs(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NEQ_UQ)) != 0;
#else
  bool differs = false;
  RAGGEDRT_UNROLL
  for (int lane = 0; lane < kWidth; ++lane) differs |= a[lane] != b[lane];
  return differs;
#endif
}

// Minimax polynomial of 2^f on an interval of length 1, degree 5, relative error 8e-8.
RAGGEDRT_INLINE Vec exp2_polynomial(Vec f, const float (&coefficients)[6]) {
  Vec power = splat(coefficients[5]);
  RAGGEDRT_UNROLL
  for (int i = 4; i >= 0; --i) power = fused_multiply_add(power, f, splat(coefficients[i]));
  return power;
}

// 2^x for x <= 0, relative error about 2e-7; at most 1e-38 below -126. NaN stays NaN.
RAGGEDRT_INLINE Vec exp2_of_negative(Vec x) {
#if defined(__AVX512F__)
  constexpr float kOnZeroToOne[] = {0.9999999403953552f, 0.6931530833244324f, 0.24015361070632935f, 0.05582631751894951f, 0.00898933969438076f, 0.0018775766948238015f};
  const Vec fraction = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF);  // x - floor(x); 0 for -inf
  return _mm512_scalef_ps(exp2_polynomial(fraction, kOnZeroToOne), x);  // times 2^floor(x)
#else
  constexpr float kAroundZero[] = {1.0000001192092896f,   0.6931469440460205f,   0.24022120237350464f,
                                   5.550713092088699e-2f, 9.675540961325169e-3f, 1.3276472454890609e-3f};
  const Vec round_to_integer = splat(12582912.0f);  // 1.5 * 2^23: adding it leaves the integer in the low bits
  x = max(splat(-126.0f), x);
  const Vec shifted = x + round_to_integer;
  const Vec power = exp2_polynomial(x - (shifted - round_to_integer), kAroundZero);
  return reinterpret_cast<Vec>(reinterpret_cast<VecInt>(power) + (reinterpret_cast<VecInt>(shifted) << 23));
#endif
}

}  // namespace RAGGEDRT_ISA
}  // namespace raggedrt
