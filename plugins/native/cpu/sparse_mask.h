// The mask of one sequence and head group: windows, dilation, global tokens, tile lists, on top of what PositionMask
// knows. Lists only tiles that may hold a visible key, so that time follows them.
//
// The query rows of a tile lie in one row of the tile list and are all exempt from window and dilation, or none.
#pragma once

#include <stdint.h>

#include <vector>

#include "cpu/attention.h"
#include "cpu/position_mask.h"
#include "cpu/tile.h"

namespace raggedrt {

// What the sparse masks of one call share.
struct SparseTerms {
  explicit SparseTerms(const AttentionProblem& problem);

  bool is_global(int64_t position) const { return any_global(position, position); }
  bool any_global(int64_t first, int64_t last) const;
  // Keys k whose distance k - query is a multiple of the dilation; `query` relative to key 0.
  uint64_t dilated(int64_t query) const;

  const AttentionProblem& problem;
  bool local = false;  // window or dilation
  std::vector<uint64_t> patterns;  // by phase: every dilation-th key
};

class SparseMask final : public TileMask {
 public:
  // summaries: of the sequence's key tiles; null when a key's position is its index.
  SparseMask(const SparseTerms& terms, int64_t sequence, int64_t group, const KeyTileSummary* summaries);

  TileKind visit(const QueryRows& rows, int64_t key_tile, uint64_t* row_bits) const override;
  int64_t list(const QueryRows& rows, int32_t* tiles) const override;

 private:
  // Positions that the rows' windows reach.
  struct Reach {
    int64_t first;
    int64_t last;
  };

  int64_t tiles() const { return (keys_ + kKeyTile - 1) / kKeyTile; }
  KeyTileSummary summary(int64_t key_tile) const;
  Reach reach(const QueryRows& rows) const;
  bool may_see(const QueryRows& rows, const Reach& reach, const KeyTileSummary& keys) const;
  int64_t list_entries(const QueryRows& rows, int32_t* tiles) const;
  int64_t list_reach(const QueryRows& rows, int32_t* tiles) const;
  int64_t list_all(const QueryRows& rows, int32_t* tiles) const;
  bool sees_all(const QueryRows& rows, const KeyTileSummary& keys) const;
  uint64_t local_bits(int64_t query, const KeyTileSummary& keys, const int32_t* positions, int count) const;
  uint64_t global_bits(const KeyTileSummary& keys, const int32_t* positions, int count) const;

  const SparseTerms* terms_;
  int64_t sequence_;
  int64_t group_;
  int64_t keys_;
  const int32_t* positions_;  // of the sequence's keys
  const KeyTileSummary* summaries_;
  bool contiguous_ = true;  // position = base_ + index, for all keys
  int64_t base_ = 0;
};

}  // namespace raggedrt
