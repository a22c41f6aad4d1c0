// What is known of the positions of keys: a KeySummary of every kKeyTile keys, and where a sequence's positions are
// consecutive. Made once for all layers with the same keys. Bytes moved: each position once, 16 per summary.
#include "cuda/device/device.h"
#include "cuda/kernels/data_params.h"

namespace raggedrt::device {
namespace {

using cuda::kKeyTile;

// One warp per tile, one lane per two keys; whether all of the tile's positions are base + index.
RAGGEDRT_DEVICE bool describe_tile(const int* positions, int keys, int tile, int base, cuda::KeySummary* summary) {
  int lowest = 0x7fffffff;
  int highest = -1;
  int visible = 0;
  bool consecutive = true;
  for (int part = 0; part < kKeyTile / 32; ++part) {
    const int key = tile * kKeyTile + part * 32 + lane_index();
    const int position = key < keys ? load_global_readonly(positions + key) : -1;
    if (position >= 0) {
      lowest = minimum(lowest, position);
      highest = maximum(highest, position);
    }
    visible += population_count(ballot(position >= 0));
    consecutive = consecutive && (key >= keys || position == base + key);
  }
  for (int bit = 1; bit < 32; bit *= 2) {
    lowest = minimum(lowest, shuffle_xor(lowest, bit));
    highest = maximum(highest, shuffle_xor(highest, bit));
  }
  if (lane_index() == 0) {
    store_global(summary, cuda::KeySummary{visible > 0 ? lowest : 0, maximum(highest, 0), visible, 0});
  }
  return ballot(consecutive) == 0xffffffffu;
}

RAGGEDRT_DEVICE void describe_keys(const cuda::DescribeKeysParams& params) {
  const int warps = block_threads() / 32;
  for (int sequence = block_index_x(); sequence < params.sequences; sequence += grid_size_x()) {
    // Offsets that do not fit the tensor are clipped to it, as attention clips them.
    const int first = minimum(maximum(load_global_readonly(params.cu_seqlens_k + sequence), 0), params.total_k);
    const int last = minimum(maximum(load_global_readonly(params.cu_seqlens_k + sequence + 1), first), params.total_k);
    const int keys = last - first;
    const int* positions = params.positions_k + first;
    cuda::KeySummary* summaries = params.key_summaries + first / kKeyTile + sequence;
    const int base = keys > 0 ? load_global_readonly(positions) : 0;
    bool consecutive = base >= 0;
    for (int tile = warp_index(); tile * kKeyTile < keys; tile += warps) {
      consecutive = describe_tile(positions, keys, tile, base, summaries + tile) && consecutive;
    }
    const bool everywhere = all_block(consecutive);
    if (thread_index() == 0) store_global(params.key_base + sequence, everywhere ? base : cuda::kNotConsecutive);
  }
}

}  // namespace
}  // namespace raggedrt::device

RAGGEDRT_KERNEL(raggedrt::cuda::kDataThreads, 1)
RAGGEDRT_ENTRY(const raggedrt::cuda::DescribeKeysParams params) { raggedrt::device::describe_keys(params); }
