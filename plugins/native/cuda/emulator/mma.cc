#include "cuda/emulator/mma.h"

#include <string.h>

// One build serves every CPU of a kind: the loader chooses among the clones.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define RAGGEDRT_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define RAGGEDRT_CLONES
#endif

namespace raggedrt::emulator {

namespace {

constexpr int kRows = 16;
constexpr int kColumns = 8;
constexpr int kDepth = 16;

inline float half_to_float(uint32_t bits) {
  const uint32_t magnitude = (bits & 0x7fffu) << 13;
  float scaled;
  memcpy(&scaled, &magnitude, sizeof scaled);
  scaled *= 0x1p112f;
  uint32_t finite;
  memcpy(&finite, &scaled, sizeof finite);
  const uint32_t value = (bits & 0x8000u) << 16 | (magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : finite);
  float result;
  memcpy(&result, &value, sizeof result);
  return result;
}

inline float bfloat_to_float(uint32_t bits) {
  const uint32_t value = bits << 16;
  float result;
  memcpy(&result, &value, sizeof result);
  return result;
}

RAGGEDRT_CLONES void convert(const uint16_t* from, float* to, int count, bool bfloat) {
  if (bfloat) {
    for (int at = 0; at < count; ++at) to[at] = bfloat_to_float(from[at]);
  } else {
    for (int at = 0; at < count; ++at) to[at] = half_to_float(from[at]);
  }
}

RAGGEDRT_CLONES void multiply_add(const float (&a)[kRows][kDepth], const float (&b)[kDepth][kColumns],
                                  float (&c)[kRows][kColumns]) {
  for (int row = 0; row < kRows; ++row) {
    float sum[kColumns];
    for (int column = 0; column < kColumns; ++column) sum[column] = c[row][column];
    for (int k = 0; k < kDepth; ++k) {
      for (int column = 0; column < kColumns; ++column) sum[column] += a[row][k] * b[k][column];
    }
    for (int column = 0; column < kColumns; ++column) c[row][column] = sum[column];
  }
}

}  // namespace

void multiply(const MmaRegisters& registers, bool bfloat) {
  uint16_t bits[kRows * kDepth + kDepth * kColumns];
  uint16_t* const a_bits = bits;
  uint16_t* const b_bits = bits + kRows * kDepth;
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4;
    const int t = lane % 4;
    for (int r = 0; r < 4; ++r) {
      memcpy(&a_bits[(g + 8 * (r & 1)) * kDepth + 2 * t + 8 * (r >> 1)], &registers.a[lane][r], sizeof(uint32_t));
    }
    for (int r = 0; r < 2; ++r) {
      b_bits[(2 * t + 8 * r) * kColumns + g] = static_cast<uint16_t>(registers.b[lane][r]);
      b_bits[(2 * t + 1 + 8 * r) * kColumns + g] = static_cast<uint16_t>(registers.b[lane][r] >> 16);
    }
  }
  struct {
    float a[kRows][kDepth];
    float b[kDepth][kColumns];
  } operands;
  convert(bits, &operands.a[0][0], kRows * kDepth, bfloat);
  convert(b_bits, &operands.b[0][0], kDepth * kColumns, bfloat);
  float c[kRows][kColumns];
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4;
    const int t = lane % 4;
    for (int i = 0; i < 4; ++i) c[g + 8 * (i >> 1)][2 * t + (i & 1)] = registers.c[lane][i];
  }
  multiply_add(operands.a, operands.b, c);
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4;
    const int t = lane % 4;
    for (int i = 0; i < 4; ++i) registers.c[lane][i] = c[g + 8 * (i >> 1)][2 * t + (i & 1)];
  }
}

}  // namespace raggedrt::emulator
