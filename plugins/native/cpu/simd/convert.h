// Rows of float, float16 or bfloat16 to rows of float and back (round to nearest even).
#pragma once

#include "cpu/element.h"
#include "cpu/simd/vec.h"

namespace raggedrt {
namespace RAGGEDRT_ISA {

RAGGEDRT_INLINE float float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

RAGGEDRT_INLINE uint32_t bits_of_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

RAGGEDRT_INLINE float float_of_half(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  if (magnitude >= 0x7c00u) return float_of_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Scaling by 2^112 moves the exponent's bias and makes subnormal numbers right.
  return float_of_bits(sign | bits_of_float(float_of_bits(magnitude << 13) * 0x1p112f));
}

RAGGEDRT_INLINE uint16_t half_of_float(float value) {
  const uint32_t bits = bits_of_float(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // rounds to infinity
  if (magnitude < 0x38800000u) {                        // subnormal: let the adder round to a multiple of 2^-24
    return sign | static_cast<uint16_t>(bits_of_float(float_of_bits(magnitude) + 0.5f) - bits_of_float(0.5f));
  }
  return sign | static_cast<uint16_t>((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
}

RAGGEDRT_INLINE float float_of_bfloat16(uint16_t value) { return float_of_bits(static_cast<uint32_t>(value) << 16); }

RAGGEDRT_INLINE uint16_t bfloat16_of_float(float value) {
  const uint32_t bits = bits_of_float(value);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16 | 0x40u) : rounded);
}

// target[i] = source[first + i] * factor
RAGGEDRT_INLINE void read_row(Element element, const void* source, int64_t first, int count, float factor,
                              float* target) {
  if (element == Element::kFloat) {
    const float* row = static_cast<const float*>(source) + first;
    for (int i = 0; i < count; ++i) target[i] = row[i] * factor;
    return;
  }
  const uint16_t* row = static_cast<const uint16_t*>(source) + first;
  if (element == Element::kBFloat16) {
    for (int i = 0; i < count; ++i) target[i] = float_of_bfloat16(row[i]) * factor;
    return;
  }
  int i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= count; i += 16) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + i));
    store(target + i, static_cast<Vec>(_mm512_cvtph_ps(half)) * factor);
  }
#elif defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + i));
    store(target + i, static_cast<Vec>(_mm256_cvtph_ps(half)) * factor);
  }
#endif
  for (; i < count; ++i) target[i] = float_of_half(row[i]) * factor;
}

// target[first + i] = source[i] * factor
RAGGEDRT_INLINE void write_row(Element element, const float* source, int count, float factor, void* target,
                               int64_t first) {
  if (element == Element::kFloat) {
    float* row = static_cast<float*>(target) + first;
    for (int i = 0; i < count; ++i) row[i] = source[i] * factor;
    return;
  }
  uint16_t* row = static_cast<uint16_t*>(target) + first;
  if (element == Element::kBFloat16) {
    for (int i = 0; i < count; ++i) row[i] = bfloat16_of_float(source[i] * factor);
    return;
  }
  int i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= count; i += 16) {
    const __m256i half = _mm512_cvtps_ph(load(source + i) * factor, _MM_FROUND_TO_NEAREST_INT);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(row + i), half);
  }
#elif defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    const __m128i half = _mm256_cvtps_ph(load(source + i) * factor, _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(row + i), half);
  }
#endif
  for (; i < count; ++i) row[i] = half_of_float(source[i] * factor);
}

}  // namespace RAGGEDRT_ISA
}  // namespace raggedrt
