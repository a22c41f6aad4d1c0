// Checks of accesses to a block's shared memory.
#pragma once

#include <stdint.h>

namespace raggedrt::emulator {

struct Lane;

// A row of a matrix, read for all lanes of the warp; `lane` gave its address.
void check_matrix_row(const Lane& lane, const void* address, uint32_t bytes);

}  // namespace raggedrt::emulator
