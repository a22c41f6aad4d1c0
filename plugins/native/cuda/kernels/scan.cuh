// Sums over a warp or a block, as the kernels around attention need them.
#pragma once

#include "cuda/device/device.h"

namespace raggedrt::device {

RAGGEDRT_DEVICE int warp_sum(int value) {
  RAGGEDRT_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}

// Sum of the values of this lane and all lanes before it.
RAGGEDRT_DEVICE int warp_inclusive_sum(int value) {
  RAGGEDRT_UNROLL
  for (int delta = 1; delta < 32; delta *= 2) {
    const int before = shuffle_up(value, delta);
    if (lane_index() >= delta) value += before;
  }
  return value;
}

struct Prefix {
  int before;  // sum of the values of all threads before this one
  int total;   // of the block
};

// `scratch`: block_threads() / 32 ints of shared memory, free again when this returns. All threads of the block.
RAGGEDRT_DEVICE Prefix block_prefix(int value, int* scratch) {
  const int inclusive = warp_inclusive_sum(value);
  const int warps = block_threads() / 32;
  if (lane_index() == 31) store_shared(scratch + warp_index(), inclusive);
  sync_block();
  const int of_warp = lane_index() < warps ? load_shared(scratch + lane_index()) : 0;
  const int up_to_warp = warp_inclusive_sum(of_warp);
  sync_block();
  const int before_warp = shuffle(up_to_warp, warp_index()) - shuffle(of_warp, warp_index());
  return {before_warp + inclusive - value, shuffle(up_to_warp, 31)};
}

}  // namespace raggedrt::device
