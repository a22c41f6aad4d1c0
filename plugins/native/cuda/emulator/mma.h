// The matrix product of a warp.
#pragma once

#include <stdint.h>

namespace raggedrt::emulator {

// Operands and result of a warp's product as matrices; lanes bring and fetch their fragments, which device.h describes.
struct MmaTile {
  uint16_t a[16][16];
  uint16_t b[16][8];
  float c[16][8];

  void bring(int lane, const uint32_t* a, uint32_t b0, uint32_t b1, const float* c);
  void fetch(int lane, float* c) const;
};

// c += a b
void multiply(MmaTile& tile, bool bfloat);

}  // namespace raggedrt::emulator
