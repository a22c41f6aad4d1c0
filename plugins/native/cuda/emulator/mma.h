// The matrix product of a warp.
#pragma once

#include <stdint.h>

namespace raggedrt::emulator {

struct MmaRegisters {
  uint32_t a[32][4];
  uint32_t b[32][2];
  float* c[32];  // 4 each
};

// c += a b of mma.m16n8k16, in the fragments that device.h describes.
void multiply(const MmaRegisters& registers, bool bfloat);

}  // namespace raggedrt::emulator
