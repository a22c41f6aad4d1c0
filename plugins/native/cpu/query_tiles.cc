#include "cpu/query_tiles.h"

#include "cpu/bits.h"

namespace raggedrt {

QueryTiles::QueryTiles(const SparseTerms& terms, const RowSpace& space) {
  const AttentionProblem& problem = terms.problem;
  const bool by_list = problem.tiles.ptr != nullptr;
  // Rows in runs of one kind: local rows in place, global rows by their place among themselves.
  struct Run {
    int64_t first;
    bool global;
    int64_t tile_row;
  };
  std::vector<int64_t> global_tile_rows;
  Run run = {0, false, 0};
  const int64_t queries = space.sequence.queries;
  for (int64_t query = 0; query <= queries; ++query) {
    Run next = {query * space.heads, true, 0};
    if (query < queries) {
      const int64_t position = problem.positions_q != nullptr ? problem.positions_q[space.sequence.first_query + query]
                                                              : query + space.shift;
      next.global = terms.local && terms.is_global(position);
      next.tile_row = by_list ? floor_divide(position, problem.tiles.block_size) : 0;
      for (int64_t head = 0; next.global && head < space.heads; ++head) {
        global_rows_.push_back(next.first + head);
        global_tile_rows.push_back(next.tile_row);
      }
    }
    if (query == 0) {
      run = next;
    } else if (query == queries || next.global != run.global || next.tile_row != run.tile_row) {
      if (!run.global) cut(run.first, next.first, false, by_list);
      run = next;
    }
  }
  const int64_t global_count = static_cast<int64_t>(global_rows_.size());
  for (int64_t first = 0; first < global_count;) {
    int64_t last = first;
    while (last < global_count && global_tile_rows[static_cast<size_t>(last)] ==
                                      global_tile_rows[static_cast<size_t>(first)]) {
      ++last;
    }
    cut(first, last, true, by_list);
    first = last;
  }
}

// Rows of a tile list stay whole where they fit; longer runs are cut evenly.
void QueryTiles::cut(int64_t first, int64_t last, bool global, bool by_list) {
  const int64_t largest = by_list ? kMaxQueryRows : kQueryTile;
  const int64_t parts = (last - first + largest - 1) / largest;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t begin = by_list ? first + (last - first) * part / parts : first + part * largest;
    const int64_t end = by_list ? first + (last - first) * (part + 1) / parts : std::min(last, begin + largest);
    tiles_.push_back({begin, static_cast<int32_t>(end - begin), global});
  }
}

void QueryTiles::rows(const AttentionProblem& problem, const RowSpace& space, size_t tile, QueryRows& rows) const {
  const QueryTile& of = tiles_[tile];
  rows.count = of.count;
  rows.global = of.global;
  for (int place = 0; place < of.count; ++place) {
    const int64_t row = of.global ? global_rows_[static_cast<size_t>(of.first + place)] : of.first + place;
    set_row(problem, space, row, place, rows);
  }
  const auto [lowest, highest] = std::minmax_element(rows.position, rows.position + rows.count);
  rows.lowest = *lowest;
  rows.highest = *highest;
}

}  // namespace raggedrt
