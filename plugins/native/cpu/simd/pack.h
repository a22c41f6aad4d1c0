// Keys into transposed panels and values into rows of whole vectors.
#pragma once

#include "cpu/simd/convert.h"
#include "cpu/tile.h"

namespace raggedrt {
namespace RAGGEDRT_ISA {

#if defined(__clang__) || __GNUC__ >= 12
#define RAGGEDRT_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define RAGGEDRT_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, VecInt{__VA_ARGS__})
#endif

// Swaps the off-diagonal kDistance x kDistance blocks of two rows that are kDistance apart.
template <int kDistance, int... kLane>
RAGGEDRT_INLINE void swap_blocks(std::integer_sequence<int, kLane...>, Vec& upper, Vec& lower) {
  const Vec a = upper;
  const Vec b = lower;
  upper = RAGGEDRT_SHUFFLE(a, b, ((kLane & kDistance) ? kWidth + kLane - kDistance : kLane)...);
  lower = RAGGEDRT_SHUFFLE(a, b, ((kLane & kDistance) ? kWidth + kLane : kLane + kDistance)...);
}

template <int kDistance>
RAGGEDRT_INLINE void transpose_step(Vec* rows) {
  RAGGEDRT_UNROLL
  for (int row = 0; row < kWidth; ++row) {
    if ((row & kDistance) == 0) {
      swap_blocks<kDistance>(std::make_integer_sequence<int, kWidth>{}, rows[row], rows[row + kDistance]);
    }
  }
}

RAGGEDRT_INLINE void transpose(Vec* rows) {
  transpose_step<1>(rows);
  transpose_step<2>(rows);
  if constexpr (kWidth >= 8) transpose_step<4>(rows);
  if constexpr (kWidth >= 16) transpose_step<8>(rows);
}

// Transposes kWidth keys: panel[d * kKeyTile + k] = keys[k][d]; keys past `count` are zeros.
static void pack_key_group(const float* keys, int64_t stride, int count, int head_size, float* panel) {
  for (int d = 0; d < head_size; d += kWidth) {
    const int width = head_size - d < kWidth ? head_size - d : kWidth;
    Vec rows[kWidth];
    if (count >= kWidth && width == kWidth) {
      RAGGEDRT_UNROLL
      for (int k = 0; k < kWidth; ++k) rows[k] = load(keys + k * stride + d);
    } else {
      RAGGEDRT_UNROLL
      for (int k = 0; k < kWidth; ++k) rows[k] = k < count ? load_first(keys + k * stride + d, width) : Vec{};
    }
    transpose(rows);
    RAGGEDRT_UNROLL
    for (int row = 0; row < kWidth; ++row) {
      if (row < width) store(panel + (d + row) * kKeyTile, rows[row]);
    }
  }
}

static void pack_keys(Element element, const void* source, int64_t stride, int count, int head_size, float* panel) {
  for (int first = 0; first < count; first += kWidth) {
    const int group = count - first < kWidth ? count - first : kWidth;
    if (element == Element::kFloat) {
      pack_key_group(static_cast<const float*>(source) + first * stride, stride, group, head_size, panel + first);
      continue;
    }
    float converted[kWidth * kQueryStride];
    for (int k = 0; k < group; ++k) {
      read_row(element, source, (first + k) * stride, head_size, 1.0f, converted + k * kQueryStride);
    }
    pack_key_group(converted, kQueryStride, group, head_size, panel + first);
  }
}

static void pack_values(Element element, const void* source, int64_t stride, int count, int head_size, float* panel) {
  const int padded = padded_head_size(head_size);
  for (int k = 0; k < count; ++k, panel += padded) {
    read_row(element, source, k * stride, head_size, 1.0f, panel);
    for (int d = head_size; d < padded; ++d) panel[d] = 0.0f;
  }
}

}  // namespace RAGGEDRT_ISA
}  // namespace raggedrt
