// The matrix product that attention is made of: C [rows, columns] (+)= A [rows, depth] B [depth, columns], with C held
// in registers over the whole depth.
#pragma once

#include "cpu/simd/vec.h"

namespace raggedrt {
namespace RAGGEDRT_ISA {

// Shape of a register block: as many sums as leave room for the operands (32 registers with AVX-512, else 16).
constexpr int kMaxBlockVectors = kWidth == 16 ? 4 : 2;
constexpr int block_rows(int vectors) {
  return kWidth == 16 ? (vectors >= 3 ? 6 : 12) : (vectors == 2 ? 6 : 8);
}

template <int kRows, int kVectors, int kStrideA, bool kAccumulate>
__attribute__((noinline)) static void multiply_block(int depth, const float* a, const float* b, int64_t stride_b,
                                                     float* c, int64_t stride_c) {
  Vec sum[kRows][kVectors];
  RAGGEDRT_UNROLL
  for (int row = 0; row < kRows; ++row) {
    RAGGEDRT_UNROLL
    for (int v = 0; v < kVectors; ++v) sum[row][v] = kAccumulate ? load(c + row * stride_c + v * kWidth) : Vec{};
  }
  for (int k = 0; k < depth; ++k) {
    Vec right[kVectors];
    RAGGEDRT_UNROLL
    for (int v = 0; v < kVectors; ++v) right[v] = load(b + v * kWidth);
    RAGGEDRT_UNROLL
    for (int row = 0; row < kRows; ++row) {
      const Vec left = splat(a[row * kStrideA + k]);
      RAGGEDRT_UNROLL
      for (int v = 0; v < kVectors; ++v) sum[row][v] = fused_multiply_add(left, right[v], sum[row][v]);
    }
    b += stride_b;
  }
  RAGGEDRT_UNROLL
  for (int row = 0; row < kRows; ++row) {
    RAGGEDRT_UNROLL
    for (int v = 0; v < kVectors; ++v) store(c + row * stride_c + v * kWidth, sum[row][v]);
  }
}

// All rows of one column block; the last block of rows has its own, smaller kernel.
template <int kVectors, int kStrideA, bool kAccumulate, int... kRowsMinus1>
static void multiply_rows(std::integer_sequence<int, kRowsMinus1...>, int rows, int depth, const float* a,
                          const float* b, int64_t stride_b, float* c, int64_t stride_c) {
  typedef void (*Block)(int, const float*, const float*, int64_t, float*, int64_t);
  static constexpr Block kBlocks[] = {multiply_block<kRowsMinus1 + 1, kVectors, kStrideA, kAccumulate>...};
  constexpr int kStep = block_rows(kVectors);
  for (int row = 0; row < rows; row += kStep) {
    const int block = rows - row < kStep ? rows - row : kStep;
    kBlocks[block - 1](depth, a + row * kStrideA, b, stride_b, c + row * stride_c, stride_c);
  }
}

template <int kVectors, int kStrideA, bool kAccumulate>
static void multiply_columns(int rows, int depth, const float* a, const float* b, int64_t stride_b, float* c,
                             int64_t stride_c) {
  multiply_rows<kVectors, kStrideA, kAccumulate>(std::make_integer_sequence<int, block_rows(kVectors)>{}, rows, depth,
                                                 a, b, stride_b, c, stride_c);
}

// C (+)= A B for `vectors` vectors of columns.
template <int kStrideA, bool kAccumulate>
static void multiply(int rows, int vectors, int depth, const float* a, const float* b, int64_t stride_b, float* c,
                     int64_t stride_c) {
  while (vectors > 0) {
    // One vector more than a block is split evenly: a block of one vector has too few sums to hide latency.
    int block = vectors < kMaxBlockVectors ? vectors : kMaxBlockVectors;
    if (vectors == kMaxBlockVectors + 1) block = (vectors + 1) / 2;
    switch (block) {
      case 1: multiply_columns<1, kStrideA, kAccumulate>(rows, depth, a, b, stride_b, c, stride_c); break;
      case 2: multiply_columns<2, kStrideA, kAccumulate>(rows, depth, a, b, stride_b, c, stride_c); break;
#if defined(__AVX512F__)
      case 3: multiply_columns<3, kStrideA, kAccumulate>(rows, depth, a, b, stride_b, c, stride_c); break;
      case 4: multiply_columns<4, kStrideA, kAccumulate>(rows, depth, a, b, stride_b, c, stride_c); break;
#endif
      default: break;
    }
    vectors -= block;
    b += block * kWidth;
    c += block * kWidth;
  }
}

}  // namespace RAGGEDRT_ISA
}  // namespace raggedrt
