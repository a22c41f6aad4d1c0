// One row of a tile list, and what it shows of a tile of keys.
#pragma once

#include <stdint.h>

#include "cpu/attention.h"
#include "cpu/position_mask.h"

namespace raggedrt {

// Why `tiles` cannot be a tile list of this problem; null: it can.
const char* check_tile_list(const AttentionProblem& problem);

// The group of a head.
int64_t group_of_head(const TileList& tiles, int64_t head);

// The entries of one tile row.
class TileRow {
 public:
  // Row of the query position; no entries where there is no such row.
  TileRow(const TileList& tiles, int64_t sequence, int64_t group, int64_t position);
  explicit TileRow(const TileList& tiles) : tiles_(tiles) {}

  int64_t begin() const { return begin_; }
  int64_t end() const { return end_; }
  int64_t column(int64_t entry) const { return tiles_.col[entry]; }
  // The first entry whose column is not before `column`.
  int64_t find(int64_t column) const;
  // Whether some entry has a column between two, both included.
  bool any(int64_t first_column, int64_t last_column) const;
  // Whether all keys at positions first..last are in full tiles.
  bool full(int64_t first_position, int64_t last_position) const;

 private:
  const TileList& tiles_;
  int64_t begin_ = 0;
  int64_t end_ = 0;
};

// What one tile row shows of one tile of keys, by query.
class TileRowBits {
 public:
  // positions: of the keys, null if they are consecutive from summary.lowest.
  TileRowBits(const TileList& tiles, const TileRow& row, const KeyTileSummary& summary, const int32_t* positions,
              int count);

  uint64_t of(int64_t query_position) const;

 private:
  // Neighbouring keys of one tile column; of a single key where positions are not consecutive.
  struct Segment {
    int shift;
    int count;
    int32_t tag;
    int64_t offset;  // of the first key in its tile
  };

  void add(const TileRow& row, int64_t position, int shift, int count);

  const TileList& tiles_;
  Segment segments_[kKeyTile];
  int used_ = 0;
};

}  // namespace raggedrt
