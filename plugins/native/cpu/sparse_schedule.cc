#include "cpu/sparse_schedule.h"

#include "cpu/tile_list.h"

namespace raggedrt {
namespace {

constexpr double kItemsPerWorker = 8.0;    // a tile above 1/8 of a worker's share is an item of its own
constexpr double kRemainderShare = 0.5;    // of what is left, one worker's part, taken by the next item
constexpr double kSmallestItemCost = 4e6;  // operations, some 20 microseconds: what is worth a queue access
constexpr double kOverheadRows = 6.0;      // of packing and visiting a key tile

// Heads with one mask can share tiles: those of a key/value head, unless a tile list tells them apart.
int64_t heads_per_unit(const AttentionProblem& problem) {
  const int64_t group = problem.num_heads / problem.kv_num_heads;
  for (int64_t head = 0; head < problem.num_heads; ++head) {
    if (group_of_head(problem.tiles, head) != group_of_head(problem.tiles, head / group * group)) return 1;
  }
  return group;
}

}  // namespace

SparseSchedule::SparseSchedule(const SparseTerms& terms, const KeySummaries& summaries, size_t workers)
    : terms_(terms), heads_(heads_per_unit(terms.problem)) {
  const AttentionProblem& problem = terms.problem;
  if (problem.tiles.ptr != nullptr) groups_ = problem.tiles.groups;
  for (int64_t sequence = 0; sequence < problem.sequences; ++sequence) {
    const RowSpace space = this->space({sequence, 0, 0, 0});
    most_key_tiles_ = std::max(most_key_tiles_, (space.sequence.keys + kKeyTile - 1) / kKeyTile);
    tiles_.emplace_back(terms, space);
    for (int64_t group = 0; group < groups_; ++group) masks_.emplace_back(terms, sequence, group, summaries.of(sequence));
  }
  for (int64_t sequence = 0; sequence < problem.sequences; ++sequence) {
    for (int64_t group = 0; group < groups_; ++group) measure(sequence, group);
    add_units(sequence);
  }
  make_items(workers);
}

RowSpace SparseSchedule::space(const SparseUnit& unit) const {
  const Sequence sequence = sequence_of(terms_.problem, unit.sequence);
  return {sequence, unit.first_head, heads_, query_shift(terms_.problem, sequence.queries, sequence.keys)};
}

void SparseSchedule::measure(int64_t sequence, int64_t group) {
  const AttentionProblem& problem = terms_.problem;
  const SparseUnit unit = {sequence, 0, group, 0};
  const QueryTiles& tiles = this->tiles(unit);
  const RowSpace space = this->space(unit);
  const double width = 2.0 * kKeyTile * (problem.head_size + problem.value_head_size);
  std::vector<int32_t> list(static_cast<size_t>(most_key_tiles_));
  std::vector<float> costs;
  costs.reserve(tiles.count());
  QueryRows rows;
  for (size_t tile = 0; tile < tiles.count(); ++tile) {
    tiles.rows(problem, space, tile, rows);
    const int64_t listed = mask(unit).list(rows, list.data());
    if (!tiles.global(tile)) longest_list_ = std::max(longest_list_, listed);
    costs.push_back(static_cast<float>(width * (rows.count + kOverheadRows) * static_cast<double>(listed + 1)));
  }
  costs_.push_back(std::move(costs));
}

void SparseSchedule::add_units(int64_t sequence) {
  const int64_t count = static_cast<int64_t>(tiles_[static_cast<size_t>(sequence)].count());
  if (count == 0) return;
  for (int64_t head = 0; head < terms_.problem.num_heads; head += heads_) {
    units_.push_back({sequence, head, group_of_head(terms_.problem.tiles, head), total_tiles_});
    total_tiles_ += count;
  }
}

double SparseSchedule::cost(size_t unit, int64_t tile) const {
  const SparseUnit& of = units_[unit];
  return costs_[mask_index(of)][static_cast<size_t>(tile - of.first_tile)];
}

int64_t SparseSchedule::unit_end(size_t index) const {
  return index + 1 < units_.size() ? units_[index + 1].first_tile : total_tiles_;
}

size_t SparseSchedule::unit_of(int64_t tile) const {
  const auto after = std::upper_bound(units_.begin(), units_.end(), tile,
                                      [](int64_t number, const SparseUnit& unit) { return number < unit.first_tile; });
  return static_cast<size_t>(after - units_.begin()) - 1;
}

bool SparseSchedule::heavy(int64_t tile) const { return cost(unit_of(tile), tile) > heavy_; }

// Heavy tiles first, then runs that become shorter as less is left. A run ends with its unit where that is near, so
// that one worker packs the unit's keys and values once.
void SparseSchedule::make_items(size_t workers) {
  double rest = 0.0;
  for (size_t unit = 0; unit < units_.size(); ++unit) {
    for (const float each : costs_[mask_index(units_[unit])]) rest += each;
  }
  heavy_ = std::max(rest / (kItemsPerWorker * static_cast<double>(workers)), kSmallestItemCost);
  for (size_t unit = 0; unit < units_.size(); ++unit) {
    for (int64_t tile = units_[unit].first_tile; tile < unit_end(unit); ++tile) {
      if (cost(unit, tile) <= heavy_) continue;
      items_.push_back({tile, tile + 1, true});
      rest -= cost(unit, tile);
    }
  }
  SparseItem item = {0, 0, false};
  double taken = 0.0;
  for (size_t unit = 0; unit < units_.size(); ++unit) {
    const int64_t end = unit_end(unit);
    double left = 0.0;
    for (int64_t tile = units_[unit].first_tile; tile < end; ++tile) left += cost(unit, tile) > heavy_ ? 0.0 : cost(unit, tile);
    for (int64_t tile = units_[unit].first_tile; tile < end; ++tile) {
      const double now = cost(unit, tile) > heavy_ ? 0.0 : cost(unit, tile);
      taken += now;
      left -= now;
      const double wanted = std::max(rest * kRemainderShare / static_cast<double>(workers), kSmallestItemCost);
      const bool unit_done = tile + 1 == end;
      if (taken < wanted * (unit_done ? 0.75 : 1.0) || (!unit_done && left < 0.25 * wanted)) continue;
      items_.push_back({item.first, tile + 1, false});
      item.first = tile + 1;
      rest -= taken;
      taken = 0.0;
    }
  }
  if (item.first < total_tiles_) items_.push_back({item.first, total_tiles_, false});
}

}  // namespace raggedrt
