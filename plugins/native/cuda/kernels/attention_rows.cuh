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

// Positions that a query at `position` may see; none below 0, which no mask shows.
struct RowReach {
  int low;
  int high;

  RAGGEDRT_DEVICE RowReach(const MaskRules& rules, int position, bool exempt) {
    low = exempt ? 0 : maximum(0, position - rules.left);
    high = minimum(rules.causal ? position : kFarthest, exempt ? kFarthest : position + rules.right);
  }
};

// What a set of rows may see. Outside of `any` none of them sees a key that is not global, inside of `all` every one
// sees every key, dilation aside; past `causal` none sees anything. What a row reaches grows with its position, so that
// the lowest and the highest position tell.
struct Reach {
  int any_low;
  int any_high;
  int all_low;
  int all_high;
  int causal;

  // exempt: some row is free of window and dilation.
  RAGGEDRT_DEVICE Reach(const MaskRules& rules, int lowest, int highest, bool exempt) {
    const RowReach first(rules, lowest, false);
    const RowReach last(rules, highest, false);
    causal = rules.causal ? highest : kFarthest;
    any_low = exempt ? 0 : first.low;
    any_high = exempt ? causal : last.high;
    all_low = last.low;
    all_high = first.high;
  }
  RAGGEDRT_DEVICE bool may_see(int lowest, int highest) const { return lowest <= any_high && highest >= any_low; }
  RAGGEDRT_DEVICE bool sees_all(int lowest, int highest) const { return lowest >= all_low && highest <= all_high; }
};

// Lowest and highest of the rows' positions, and whether a row is exempt, over the lanes whose numbers differ in the
// bits from `from` on.
class RowRange {
 public:
  RAGGEDRT_DEVICE void add(int position, bool exempt) {
    lowest_ = minimum(lowest_, position);
    highest_ = maximum(highest_, position);
    exempt_ = exempt_ || exempt;
  }
  RAGGEDRT_DEVICE Reach reach(const MaskRules& rules, int from) {
    for (int bit = from; bit < 32; bit *= 2) {
      lowest_ = minimum(lowest_, shuffle_xor(lowest_, bit));
      highest_ = maximum(highest_, shuffle_xor(highest_, bit));
    }
    return Reach(rules, lowest_, highest_, ballot(exempt_) != 0);
  }

 private:
  int lowest_ = kFarthest;
  int highest_ = kNearest;
  bool exempt_ = false;
};

// Of the whole query tile; every warp computes it for itself, so that no barrier is needed.
RAGGEDRT_DEVICE Reach tile_reach(const AttentionParams& params, const MaskRules& rules, const Item& item) {
  RowRange range;
  for (int row = item.lane; row < item.rows; row += 32) {
    const int position = query_position(params, item, row);
    range.add(position, rules.exempting && is_global(params, position));
  }
  return range.reach(rules, 1);
}

// The rows of one thread, and the reach of its warp's rows. Little is kept of each row: registers are few, and what
// follows from its position is needed only where a tile is seen in part.
class WarpRows {
 public:
  RAGGEDRT_DEVICE WarpRows(const AttentionParams& params, const MaskRules& rules, const Item& item)
      : reach_(read(params, rules, item)) {}

  RAGGEDRT_DEVICE const Reach& reach() const { return reach_; }
  RAGGEDRT_DEVICE int position(int block, int half) const { return position_[block][half]; }
  RAGGEDRT_DEVICE bool exempt(int block, int half) const { return (exempt_ >> (2 * block + half) & 1) != 0; }

 private:
  // Rows past the last of the item stand at 0; what they see is not written.
  RAGGEDRT_DEVICE Reach read(const AttentionParams& params, const MaskRules& rules, const Item& item) {
    RowRange range;
    RAGGEDRT_UNROLL
    for (int block = 0; block < kRowBlocks; ++block) {
      RAGGEDRT_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int row = warp_index() * kWarpRows + block * 16 + half * 8 + item.lane / 4;
        const bool valid = row < item.rows;
        const int position = valid ? query_position(params, item, row) : 0;
        const bool exempt = valid && rules.exempting && is_global(params, position);
        if (valid) range.add(position, exempt);
        position_[block][half] = position;
        exempt_ |= exempt ? 1u << (2 * block + half) : 0u;
      }
    }
    return range.reach(rules, 4);
  }

  int position_[kRowBlocks][2];
  unsigned exempt_ = 0;
  Reach reach_;
};

}  // namespace
}  // namespace raggedrt::device
