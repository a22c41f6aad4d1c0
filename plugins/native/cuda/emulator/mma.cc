#include "cuda/emulator/mma.h"

#include <string.h>

// One build serves every CPU of a kind: the loader chooses among the clones, where compiler and C library can do that.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__)
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

using Row = float __attribute__((vector_size(32)));

// Rows in the inner loop: their sums do not wait for each other.
RAGGEDRT_CLONES void multiply_add(const float (&a)[kRows][kDepth], const float (&b)[kDepth][kColumns],
                                  float (&c)[kRows][kColumns]) {
  constexpr int kTogether = 8;
  for (int first = 0; first < kRows; first += kTogether) {
    Row sums[kTogether];
    memcpy(sums, c[first], sizeof sums);
    for (int k = 0; k < kDepth; ++k) {
      Row right;
      memcpy(&right, b[k], sizeof right);
      for (int row = 0; row < kTogether; ++row) sums[row] += a[first + row][k] * right;
    }
    memcpy(c[first], sums, sizeof sums);
  }
}

}  // namespace

void MmaTile::bring(int lane, const uint32_t* from_a, uint32_t b0, uint32_t b1, const float* from_c) {
  const int g = lane / 4;
  const int t = lane % 4;
  for (int r = 0; r < 4; ++r) memcpy(&a[g + 8 * (r & 1)][2 * t + 8 * (r >> 1)], &from_a[r], sizeof(uint32_t));
  b[2 * t][g] = static_cast<uint16_t>(b0);
  b[2 * t + 1][g] = static_cast<uint16_t>(b0 >> 16);
  b[2 * t + 8][g] = static_cast<uint16_t>(b1);
  b[2 * t + 9][g] = static_cast<uint16_t>(b1 >> 16);
  for (int row = 0; row < 2; ++row) memcpy(&c[g + 8 * row][2 * t], &from_c[2 * row], 2 * sizeof(float));
}

void MmaTile::fetch(int lane, float* to) const {
  for (int row = 0; row < 2; ++row) memcpy(&to[2 * row], &c[lane / 4 + 8 * row][lane % 4 * 2], 2 * sizeof(float));
}

void multiply(MmaTile& tile, bool bfloat) {
  float a[kRows][kDepth];
  float b[kDepth][kColumns];
  convert(&tile.a[0][0], &a[0][0], kRows * kDepth, bfloat);
  convert(&tile.b[0][0], &b[0][0], kDepth * kColumns, bfloat);
  multiply_add(a, b, tile.c);
}

}  // namespace raggedrt::emulator
