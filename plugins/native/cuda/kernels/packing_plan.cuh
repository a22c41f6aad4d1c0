// PackingPlan on the device: counts per row, their prefix sum, then the tokens of each row.
//
// Bytes moved: the mask three times (twice from the second-level cache), 12 per token, 12 per row. The least is the
// mask once and the outputs; the mask is 1/100 and less of what one layer of a model moves, so two plain launches more
// than a single pass with look-back across blocks are cheaper than its waiting.
#pragma once

#include "cuda/device/device.h"
#include "cuda/kernels/data_params.h"
#include "cuda/kernels/scan.cuh"

namespace raggedrt::device::packing {

using cuda::MaskTensor;
using cuda::PackingPlanParams;

constexpr int kUnroll = 4;  // loads of a lane in flight

// A slot is kept, or kept and valid.
struct Slot {
  bool kept;
  bool valid;
};

RAGGEDRT_DEVICE bool non_zero(const MaskTensor& mask, long long index) {
  if (mask.bytes == 8) return load_global_readonly(static_cast<const uint64_t*>(mask.data) + index) != 0;
  if (mask.bytes == 1) return load_global_readonly(static_cast<const uint8_t*>(mask.data) + index) != 0;
  const uint32_t word = load_global_readonly(static_cast<const uint32_t*>(mask.data) + index);
  return (mask.is_float != 0 ? word & 0x7fffffffu : word) != 0;  // -0.0 is zero
}

RAGGEDRT_DEVICE Slot classify(const PackingPlanParams& params, int row, int slot) {
  const long long index = static_cast<long long>(row) * params.slots + slot;
  Slot result = {false, non_zero(params.mask, index)};
  result.kept = result.valid;
  if (params.keep_mask.data != nullptr) result.kept = result.kept || non_zero(params.keep_mask, index);
  for (int i = 0; i < params.keep_count; ++i) result.kept = result.kept || params.keep_slots[i] == slot;
  return result;
}

// The slots of one row that one warp looks at. Long rows are shared by the warps of a block, which then has few rows.
struct Share {
  int warps_per_row;
  int rows_per_block;
  int row;  // relative to the first row of the block
  int first;
  int end;
};

RAGGEDRT_DEVICE Share share_of_warp(int slots) {
  const int warps = block_threads() / 32;
  Share share;
  share.warps_per_row = 1;
  while (share.warps_per_row * 2 <= warps && share.warps_per_row * 32 * kUnroll < slots) share.warps_per_row *= 2;
  share.rows_per_block = warps / share.warps_per_row;
  share.row = warp_index() / share.warps_per_row;
  const int part = warp_index() % share.warps_per_row;
  const int length = (slots + share.warps_per_row * 32 - 1) / (share.warps_per_row * 32) * 32;
  share.first = minimum(slots, part * length);
  share.end = minimum(slots, share.first + length);
  if (share.row >= share.rows_per_block) share.first = share.end = slots;  // warps that make no whole group
  return share;
}

// Kept slots in this warp's share of a row.
RAGGEDRT_DEVICE int count_share(const PackingPlanParams& params, const Share& share, int row) {
  if (row >= params.rows) return 0;
  int count = 0;
  for (int slot = share.first + lane_index(); slot < share.end; slot += 32 * kUnroll) {
    RAGGEDRT_UNROLL
    for (int i = 0; i < kUnroll; ++i) {
      if (slot + 32 * i < share.end) count += classify(params, row, slot + 32 * i).kept ? 1 : 0;
    }
  }
  return warp_sum(count);
}

RAGGEDRT_DEVICE void write_token(const PackingPlanParams& params, int token, int index, int position,
                                 int key_position) {
  if (token >= params.tokens) return;
  store_global(params.token_index + token, index);
  store_global(params.position + token, position);
  store_global(params.key_position + token, key_position);
}

// Writes the tokens of this warp's share of a row, the first one at `token`.
RAGGEDRT_DEVICE void write_share(const PackingPlanParams& params, const Share& share, int row, int token) {
  for (int base = share.first; base < share.end; base += 32) {
    const int slot = base + lane_index();
    const Slot kind = slot < share.end ? classify(params, row, slot) : Slot{false, false};
    const uint32_t kept = ballot(kind.kept);
    const int before = population_count(kept & ((1u << lane_index()) - 1));
    if (kind.kept) write_token(params, token + before, row * params.slots + slot, slot, kind.valid ? slot : -1);
    token += population_count(kept);
  }
}

RAGGEDRT_DEVICE int rounded_up(const PackingPlanParams& params, int tokens) {
  if (params.capacity <= 0) return tokens;
  return maximum(1, (tokens + params.capacity - 1) / params.capacity) * params.capacity;
}

// Each row's count goes to cu_seqlens[row + 1].
RAGGEDRT_DEVICE void count(const PackingPlanParams& params) {
  int* counts = reinterpret_cast<int*>(shared_memory());  // of each warp
  const Share share = share_of_warp(params.slots);
  for (int first = block_index_x() * share.rows_per_block; first < params.rows;
       first += grid_size_x() * share.rows_per_block) {
    const int row = first + share.row;
    const int kept = count_share(params, share, row);
    if (lane_index() == 0) store_shared(counts + warp_index(), kept);
    sync_block();
    if (lane_index() == 0 && warp_index() % share.warps_per_row == 0 && share.row < share.rows_per_block &&
        row < params.rows) {
      int total = 0;
      for (int i = 0; i < share.warps_per_row; ++i) total += load_shared(counts + warp_index() + i);
      store_global(params.cu_seqlens + row + 1, total);
    }
    sync_block();
  }
}

// Counts become offsets; one block.
RAGGEDRT_DEVICE void scan(const PackingPlanParams& params) {
  int* scratch = reinterpret_cast<int*>(shared_memory());
  int before = 0;
  for (int first = 0; first < params.rows; first += block_threads()) {
    const int row = first + thread_index();
    const int kept = row < params.rows ? load_global(params.cu_seqlens + row + 1) : 0;
    const Prefix prefix = block_prefix(kept, scratch);
    if (row < params.rows) store_global(params.cu_seqlens + row + 1, before + prefix.before + kept);
    before += prefix.total;
  }
  if (thread_index() != 0) return;
  store_global(params.cu_seqlens, 0);
  if (params.token_count != nullptr) {
    store_global(params.token_count, static_cast<long long>(rounded_up(params, before)));
  }
}

RAGGEDRT_DEVICE void fill(const PackingPlanParams& params) {
  int* counts = reinterpret_cast<int*>(shared_memory());
  const Share share = share_of_warp(params.slots);
  for (int first = block_index_x() * share.rows_per_block; first < params.rows;
       first += grid_size_x() * share.rows_per_block) {
    const int row = first + share.row;
    const int kept = count_share(params, share, row);
    if (lane_index() == 0) store_shared(counts + warp_index(), kept);
    sync_block();
    if (row < params.rows && share.row < share.rows_per_block) {
      int token = load_global_readonly(params.cu_seqlens + row);
      for (int i = share.row * share.warps_per_row; i < warp_index(); ++i) token += load_shared(counts + i);
      write_share(params, share, row, token);
    }
    sync_block();
  }
  const int used = load_global_readonly(params.cu_seqlens + params.rows);
  for (int token = used + block_index_x() * block_threads() + thread_index(); token < params.tokens;
       token += grid_size_x() * block_threads()) {
    write_token(params, token, 0, 0, -1);
  }
}

}  // namespace raggedrt::device::packing
