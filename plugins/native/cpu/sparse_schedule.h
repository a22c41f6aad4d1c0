// Work items of sparse attention: runs of query tiles of about equal cost, by the key tiles that they visit.
#pragma once

#include <stdint.h>

#include <vector>

#include "cpu/query_tiles.h"
#include "cpu/sparse_mask.h"

namespace raggedrt {

// Heads of one sequence that are computed together: those of a key/value head, if they have the same mask.
struct SparseUnit {
  int64_t sequence;
  int64_t first_head;
  int64_t group;       // of the tile list
  int64_t first_tile;  // of this unit among all query tiles
};

// Query tiles [first, last), counted through all units. Those too heavy for a run are items of their own.
struct SparseItem {
  int64_t first;
  int64_t last;
  bool heavy;
};

class SparseSchedule {
 public:
  SparseSchedule(const SparseTerms& terms, const KeySummaries& summaries, size_t workers);

  const std::vector<SparseItem>& items() const { return items_; }
  int64_t heads() const { return heads_; }  // of a unit
  // The unit of a query tile, by its number.
  size_t unit_of(int64_t tile) const;
  const SparseUnit& unit(size_t index) const { return units_[index]; }
  int64_t unit_end(size_t index) const;
  RowSpace space(const SparseUnit& unit) const;
  const QueryTiles& tiles(const SparseUnit& unit) const { return tiles_[static_cast<size_t>(unit.sequence)]; }
  const SparseMask& mask(const SparseUnit& unit) const { return masks_[mask_index(unit)]; }
  bool heavy(int64_t tile) const;
  // Most key tiles that a query tile without global rows visits.
  int64_t longest_list() const { return longest_list_; }
  int64_t most_key_tiles() const { return most_key_tiles_; }  // of a sequence

 private:
  size_t mask_index(const SparseUnit& unit) const {
    return static_cast<size_t>(unit.sequence * groups_ + unit.group);
  }
  void add_units(int64_t sequence);
  void measure(int64_t sequence, int64_t group);
  void make_items(size_t workers);
  double cost(size_t unit, int64_t tile) const;

  const SparseTerms& terms_;
  int64_t heads_ = 1;
  int64_t groups_ = 1;
  std::vector<QueryTiles> tiles_;           // by sequence
  std::vector<SparseMask> masks_;           // by sequence and group
  std::vector<std::vector<float>> costs_;   // by sequence and group, then query tile
  std::vector<SparseUnit> units_;
  std::vector<SparseItem> items_;
  double heavy_ = 0.0;
  int64_t total_tiles_ = 0;
  int64_t longest_list_ = 0;
  int64_t most_key_tiles_ = 0;
};

}  // namespace raggedrt
