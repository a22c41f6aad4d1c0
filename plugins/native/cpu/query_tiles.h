// Cuts the query rows of a sequence into tiles for sparse masks.
//
// Rows of global tokens see everything, so they get tiles of their own; a tile never straddles two rows of a tile list.
#pragma once

#include <stdint.h>

#include <vector>

#include "cpu/call.h"
#include "cpu/sparse_mask.h"

namespace raggedrt {

struct QueryTile {
  int64_t first;  // row, or place among the global rows
  int32_t count;
  bool global;
};

class QueryTiles {
 public:
  QueryTiles(const SparseTerms& terms, const RowSpace& space);

  size_t count() const { return tiles_.size(); }
  // The rows of a tile for the heads of `space`.
  void rows(const AttentionProblem& problem, const RowSpace& space, size_t tile, QueryRows& rows) const;
  bool global(size_t tile) const { return tiles_[tile].global; }

 private:
  void cut(int64_t first, int64_t last, bool global, bool by_list);

  std::vector<QueryTile> tiles_;
  std::vector<int64_t> global_rows_;
};

}  // namespace raggedrt
