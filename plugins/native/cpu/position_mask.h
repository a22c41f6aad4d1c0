// The mask of plain, causal and padded attention: key k is visible to query q if its position is not negative and,
// when causal, not greater than the query's.
#pragma once

#include <stdint.h>

#include "cpu/tile.h"

namespace raggedrt {

// What is known of a tile of keys with given positions.
struct KeyTileSummary {
  uint64_t visible = 0;  // bit k: position of key k is not negative
  int32_t lowest = 0;    // of the visible positions
  int32_t highest = 0;
  bool ascending = true;    // the visible positions never decrease
  bool consecutive = true;  // all positions are visible, each one more than the one before
};

KeyTileSummary summarize_keys(const int32_t* positions, int count);

class PositionMask final : public TileMask {
 public:
  // positions and summaries (one per tile) are null when a key's position is its index.
  PositionMask(int64_t keys, const int32_t* positions, const KeyTileSummary* summaries, bool causal)
      : keys_(keys), positions_(positions), summaries_(summaries), causal_(causal) {}

  TileKind visit(const QueryRows& rows, int64_t key_tile, uint64_t* row_bits) const override;
  int64_t list(const QueryRows& rows, int32_t* tiles) const override;

 private:
  TileKind visit_indices(const QueryRows& rows, int64_t first_key, int count, uint64_t* row_bits) const;
  TileKind visit_positions(const QueryRows& rows, int64_t key_tile, int count, uint64_t* row_bits) const;

  int64_t keys_;
  const int32_t* positions_;
  const KeyTileSummary* summaries_;
  bool causal_;
};

}  // namespace raggedrt
