// What masks say of query rows: the key positions that each row, each warp and each query tile may see.
#pragma once

#include "cuda/kernels/attention_config.cuh"

namespace raggedrt::device {
namespace {

// What a call's masks by position have in common. Empty in variants that have none.
struct MaskRules {
  int left;   // how far back keys may lie, kFarthest: anywhere
  int right;
  bool causal;
  bool dilated;
  bool exempting;  // some keys are exempt from window and dilation

  RAGGEDRT_DEVICE explicit MaskRules(const AttentionParams& params) {
    const cuda::MaskTerms& mask = params.mask;
    left = mask.window_left < 0 ? kFarthest : minimum(mask.window_left, kFarthest);
    right = mask.window_right < 0 ? kFarthest : minimum(mask.window_right, kFarthest);
    causal = params.causal != 0;
    dilated = mask.dilation > 1;
    exempting = mask.global_count > 0 && (mask.window_left >= 0 || mask.window_right >= 0 || dilated);
  }
};

RAGGEDRT_DEVICE bool is_global(const AttentionParams& params, int position) {
  bool found = false;
  for (int i = 0; i < params.mask.global_count; ++i) found |= params.mask.global_tokens[i] == position;
  return found;
}

// Whether a global token lies at first … last.
RAGGEDRT_DEVICE bool any_global(const AttentionParams& params, int first, int last) {
  bool found = false;
  for (int i = 0; i < params.mask.global_count; ++i) {
    found |= params.mask.global_tokens[i] >= first && params.mask.global_tokens[i] <= last;
  }
  return found;
}

RAGGEDRT_DEVICE int query_position(const AttentionParams& params, const Item& item, int row) {
  if (params.positions_q == nullptr) return item.query_index + row + item.shift;
  return load_global_readonly(params.positions_q + item.first_query + row);
}

// Of integers, toward minus infinity.
RAGGEDRT_DEVICE int floor_modulo(int value, int divisor) {
  const int rest = value % divisor;
  return rest < 0 ? rest + divisor : rest;
}

// What one query row may see. No position below 0 is ever visible, so no bound lies there.
struct RowMask {
  int position;
  int low;      // positions inside the window
  int high;
  int causal;   // the last position that any mask allows
  int residue;  // of the positions that dilation leaves, -1: all
  int byte;     // where the row's bits begin in each bitmap
};

// `row` may be past the last row of the item: such a row sees nothing.
RAGGEDRT_DEVICE RowMask row_mask(const AttentionParams& params, const MaskRules& rules, const Item& item, int row) {
  if (row >= item.rows) return {0, kFarthest, kNearest, kNearest, -1, 0};
  RowMask mask;
  mask.position = query_position(params, item, row);
  const bool exempt = rules.exempting && is_global(params, mask.position);
  mask.causal = rules.causal ? mask.position : kFarthest;
  mask.low = exempt ? 0 : maximum(0, mask.position - rules.left);
  mask.high = minimum(mask.causal, exempt ? kFarthest : mask.position + rules.right);
  mask.residue = rules.dilated && !exempt ? floor_modulo(mask.position, params.mask.dilation) : -1;
  mask.byte = 0;
  if constexpr (kByTiles) {
    const int size = params.tiles.block_size;
    mask.byte = floor_modulo(mask.position, size) * (size / 8);
  }
  return mask;
}

// What a set of rows may see, by position: outside of `any` none of them sees a key that is not global, inside of
// `all` every one sees every key, dilation aside. Past `causal` none sees anything.
struct Reach {
  int any_low = kFarthest;
  int any_high = kNearest;
  int all_low = kNearest;
  int all_high = kFarthest;
  int causal = kNearest;

  RAGGEDRT_DEVICE void add(const RowMask& row) {
    if (row.causal == kNearest) return;  // past the last row
    any_low = minimum(any_low, row.low);
    any_high = maximum(any_high, row.high);
    all_low = maximum(all_low, row.low);
    all_high = minimum(all_high, row.high);
    causal = maximum(causal, row.causal);
  }
  // Over the lanes whose numbers differ in the bits from `from` on.
  RAGGEDRT_DEVICE void join(int from) {
    for (int bit = from; bit < 32; bit *= 2) {
      any_low = minimum(any_low, shuffle_xor(any_low, bit));
      any_high = maximum(any_high, shuffle_xor(any_high, bit));
      all_low = maximum(all_low, shuffle_xor(all_low, bit));
      all_high = minimum(all_high, shuffle_xor(all_high, bit));
      causal = maximum(causal, shuffle_xor(causal, bit));
    }
  }
  RAGGEDRT_DEVICE bool may_see(int lowest, int highest) const { return lowest <= any_high && highest >= any_low; }
  RAGGEDRT_DEVICE bool sees_all(int lowest, int highest) const { return lowest >= all_low && highest <= all_high; }
};

// Of the whole query tile; every warp computes it for itself, so that no barrier is needed.
RAGGEDRT_DEVICE Reach tile_reach(const AttentionParams& params, const MaskRules& rules, const Item& item) {
  Reach reach;
  for (int row = lane_index(); row < kRows; row += 32) reach.add(row_mask(params, rules, item, row));
  reach.join(1);
  return reach;
}

// The rows of one thread, and the reach of its warp's rows.
struct WarpRows {
  RowMask row[kRowBlocks][2];
  Reach reach;

  RAGGEDRT_DEVICE WarpRows(const AttentionParams& params, const MaskRules& rules, const Item& item) {
    RAGGEDRT_UNROLL
    for (int block = 0; block < kRowBlocks; ++block) {
      RAGGEDRT_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int number = warp_index() * kWarpRows + block * 16 + half * 8 + lane_index() / 4;
        row[block][half] = row_mask(params, rules, item, number);
        reach.add(row[block][half]);
      }
    }
    reach.join(4);
  }
};

}  // namespace
}  // namespace raggedrt::device
