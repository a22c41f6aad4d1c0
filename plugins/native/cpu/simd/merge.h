// Merge of two attention states of one token.
#pragma once

#include "cpu/simd/convert.h"
#include "cpu/tile.h"

namespace raggedrt {
namespace RAGGEDRT_ISA {

static void merge(Element element, const void* output1, const float* lse1, const void* output2, const float* lse2,
                  int64_t lse_stride, int heads, int head_size, void* output, float* lse) {
  constexpr float kMinusInfinity = -__builtin_inff();
  constexpr int kChunk = 256;
  for (int head = 0; head < heads; ++head) {
    const float a = lse1[head * lse_stride];
    const float b = lse2[head * lse_stride];
    const float highest = a > b ? a : b;
    const bool empty = highest == kMinusInfinity;
    const float weight1 = empty ? 0.0f : __builtin_expf(a - highest);
    const float weight2 = empty ? 0.0f : __builtin_expf(b - highest);
    const float sum = weight1 + weight2;
    lse[head * lse_stride] = empty ? kMinusInfinity : highest + __builtin_logf(sum);
    for (int first = 0; first < head_size; first += kChunk) {
      const int count = head_size - first < kChunk ? head_size - first : kChunk;
      const int64_t offset = static_cast<int64_t>(head) * head_size + first;
      float row1[kChunk];
      float row2[kChunk];
      read_row(element, output1, offset, count, empty ? 0.0f : weight1 / sum, row1);
      read_row(element, output2, offset, count, empty ? 0.0f : weight2 / sum, row2);
      for (int i = 0; i < count; ++i) row1[i] += row2[i];
      write_row(element, row1, count, 1.0f, output, offset);
    }
  }
}

}  // namespace RAGGEDRT_ISA
}  // namespace raggedrt
