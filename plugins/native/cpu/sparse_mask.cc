#include "cpu/sparse_mask.h"

#include <algorithm>

#include "cpu/bits.h"
#include "cpu/tile_list.h"

namespace raggedrt {
namespace {

constexpr int64_t kFarthest = int64_t{1} << 40;  // past every position

uint64_t causal_bits(int64_t query, const KeyTileSummary& keys, const int32_t* positions, int count) {
  if (positions == nullptr) return low_bits(query - keys.lowest + 1);
  uint64_t bits = 0;
  for (int key = 0; key < count; ++key) bits |= uint64_t{positions[key] <= query} << key;
  return bits;
}

}  // namespace

SparseTerms::SparseTerms(const AttentionProblem& of) : problem(of) {
  const MaskTerms& mask = of.mask;
  local = mask.window_left >= 0 || mask.window_right >= 0 || mask.dilation > 1;
  for (int64_t phase = 0; mask.dilation > 1 && phase < std::min<int64_t>(mask.dilation, kKeyTile); ++phase) {
    patterns.push_back(0);
    for (int64_t key = phase; key < kKeyTile; key += mask.dilation) patterns.back() |= uint64_t{1} << key;
  }
}

bool SparseTerms::any_global(int64_t first, int64_t last) const {
  const int32_t* end = problem.mask.global_tokens + problem.mask.global_count;
  const int32_t* found = std::lower_bound(problem.mask.global_tokens, end, first);
  return found != end && *found <= last;
}

uint64_t SparseTerms::dilated(int64_t query) const {
  const int64_t dilation = problem.mask.dilation;
  const int64_t phase = query - floor_divide(query, dilation) * dilation;
  return phase < static_cast<int64_t>(patterns.size()) ? patterns[static_cast<size_t>(phase)] : 0;
}

SparseMask::SparseMask(const SparseTerms& terms, int64_t sequence, int64_t group, const KeyTileSummary* summaries)
    : terms_(&terms), sequence_(sequence), group_(group), summaries_(summaries) {
  const AttentionProblem& problem = terms.problem;
  const int64_t first = problem.cu_seqlens_k[sequence];
  keys_ = problem.cu_seqlens_k[sequence + 1] - first;
  positions_ = problem.positions_k == nullptr ? nullptr : problem.positions_k + first;
  if (positions_ == nullptr || keys_ == 0) return;
  base_ = positions_[0];
  for (int64_t tile = 0; tile < tiles(); ++tile) {
    contiguous_ &= summaries_[tile].consecutive && summaries_[tile].lowest == base_ + tile * kKeyTile;
  }
}

KeyTileSummary SparseMask::summary(int64_t key_tile) const {
  if (summaries_ != nullptr) return summaries_[key_tile];
  const int64_t first = key_tile * kKeyTile;
  const int64_t count = std::min<int64_t>(kKeyTile, keys_ - first);
  KeyTileSummary keys;
  keys.visible = low_bits(count);
  keys.lowest = static_cast<int32_t>(first);
  keys.highest = static_cast<int32_t>(first + count - 1);
  return keys;
}

SparseMask::Reach SparseMask::reach(const QueryRows& rows) const {
  const MaskTerms& mask = terms_->problem.mask;
  Reach reach = {-kFarthest, kFarthest};
  if (!rows.global && mask.window_left >= 0) reach.first = rows.lowest - mask.window_left;
  if (!rows.global && mask.window_right >= 0) reach.last = rows.highest + mask.window_right;
  return reach;
}

bool SparseMask::may_see(const QueryRows& rows, const Reach& reach, const KeyTileSummary& keys) const {
  if (keys.visible == 0 || (terms_->problem.causal && keys.lowest > rows.highest)) return false;
  return (keys.lowest <= reach.last && keys.highest >= reach.first) || terms_->any_global(keys.lowest, keys.highest);
}

int64_t SparseMask::list(const QueryRows& rows, int32_t* tiles) const {
  if (keys_ == 0) return 0;
  if (!contiguous_) return list_all(rows, tiles);
  return terms_->problem.tiles.ptr != nullptr ? list_entries(rows, tiles) : list_reach(rows, tiles);
}

// Positions with holes or out of order: asks every tile.
int64_t SparseMask::list_all(const QueryRows& rows, int32_t* tiles) const {
  const TileList& list = terms_->problem.tiles;
  const Reach reached = reach(rows);
  int64_t count = 0;
  for (int64_t tile = 0; tile < this->tiles(); ++tile) {
    const KeyTileSummary keys = summary(tile);
    if (!may_see(rows, reached, keys)) continue;
    if (list.ptr != nullptr && !TileRow(list, sequence_, group_, rows.lowest)
                                    .any(keys.lowest / list.block_size, keys.highest / list.block_size)) {
      continue;
    }
    tiles[count++] = static_cast<int32_t>(tile);
  }
  return count;
}

int64_t SparseMask::list_entries(const QueryRows& rows, int32_t* tiles) const {
  const TileList& list = terms_->problem.tiles;
  const TileRow row(list, sequence_, group_, rows.lowest);
  const Reach reached = reach(rows);
  int64_t count = 0;
  int64_t next = 0;  // key tile
  for (int64_t entry = row.find(base_ / list.block_size); entry < row.end(); ++entry) {
    const int64_t first = row.column(entry) * list.block_size - base_;  // key index
    if (first >= keys_) break;
    const int64_t last = std::min(keys_, first + list.block_size) - 1;
    next = std::max(next, std::max<int64_t>(0, first) / kKeyTile);
    for (; next <= last / kKeyTile; ++next) {
      if (may_see(rows, reached, summary(next))) tiles[count++] = static_cast<int32_t>(next);
    }
  }
  return count;
}

int64_t SparseMask::list_reach(const QueryRows& rows, int32_t* tiles) const {
  const AttentionProblem& problem = terms_->problem;
  Reach reached = reach(rows);
  const int64_t end = problem.causal ? std::min<int64_t>(keys_, rows.highest - base_ + 1) : keys_;
  if (end <= 0) return 0;
  const int64_t last_tile = std::min((end - 1) / kKeyTile, floor_divide(reached.last - base_, kKeyTile));
  const int64_t first_tile = std::max<int64_t>(0, floor_divide(reached.first - base_, kKeyTile));
  int64_t count = 0;
  int64_t newest = -1;
  for (int64_t i = 0; i < problem.mask.global_count; ++i) {
    const int64_t key = problem.mask.global_tokens[i] - base_;
    if (key < 0 || key >= end) continue;
    const int64_t tile = key / kKeyTile;
    if (tile == newest || (tile >= first_tile && tile <= last_tile)) continue;
    tiles[count++] = static_cast<int32_t>(tile);
    newest = tile;
  }
  for (int64_t tile = first_tile; tile <= last_tile; ++tile) tiles[count++] = static_cast<int32_t>(tile);
  return count;
}

bool SparseMask::sees_all(const QueryRows& rows, const KeyTileSummary& keys) const {
  const AttentionProblem& problem = terms_->problem;
  const MaskTerms& mask = problem.mask;
  if (problem.causal && keys.highest > rows.lowest) return false;
  if (terms_->local && !rows.global) {
    if (mask.dilation > 1) return false;
    if (mask.window_left >= 0 && keys.lowest < rows.highest - mask.window_left) return false;
    if (mask.window_right >= 0 && keys.highest > rows.lowest + mask.window_right) return false;
  }
  return problem.tiles.ptr == nullptr ||
         TileRow(problem.tiles, sequence_, group_, rows.lowest).full(keys.lowest, keys.highest);
}

uint64_t SparseMask::local_bits(int64_t query, const KeyTileSummary& keys, const int32_t* positions, int count) const {
  const MaskTerms& mask = terms_->problem.mask;
  const int64_t low = mask.window_left >= 0 ? query - mask.window_left : -kFarthest;
  const int64_t high = mask.window_right >= 0 ? query + mask.window_right : kFarthest;
  if (positions == nullptr) {
    const uint64_t window = bit_range(low - keys.lowest, high - keys.lowest);
    return mask.dilation > 1 ? window & terms_->dilated(query - keys.lowest) : window;
  }
  uint64_t bits = 0;
  for (int key = 0; key < count; ++key) {
    const int64_t position = positions[key];
    const bool seen = position >= low && position <= high && (position - query) % mask.dilation == 0;
    bits |= uint64_t{seen} << key;
  }
  return bits;
}

uint64_t SparseMask::global_bits(const KeyTileSummary& keys, const int32_t* positions, int count) const {
  const MaskTerms& mask = terms_->problem.mask;
  uint64_t bits = 0;
  if (mask.global_count == 0) return bits;
  if (positions != nullptr) {
    for (int key = 0; key < count; ++key) bits |= uint64_t{terms_->is_global(positions[key])} << key;
    return bits;
  }
  const int32_t* end = mask.global_tokens + mask.global_count;
  const int32_t* token = std::lower_bound(mask.global_tokens, end, keys.lowest);
  for (; token != end && *token <= keys.highest; ++token) bits |= uint64_t{1} << (*token - keys.lowest);
  return bits;
}

TileKind SparseMask::visit(const QueryRows& rows, int64_t key_tile, uint64_t* row_bits) const {
  const AttentionProblem& problem = terms_->problem;
  const KeyTileSummary keys = summary(key_tile);
  if (keys.visible == 0) return TileKind::kEmpty;
  if (sees_all(rows, keys)) {
    if (keys.visible == ~uint64_t{0}) return TileKind::kFull;
    std::fill_n(row_bits, rows.count, keys.visible);
    return TileKind::kPartial;
  }
  const int count = static_cast<int>(std::min<int64_t>(kKeyTile, keys_ - key_tile * kKeyTile));
  const int32_t* positions = keys.consecutive ? nullptr : positions_ + key_tile * kKeyTile;
  const uint64_t global = terms_->local && !rows.global ? global_bits(keys, positions, count) : 0;
  const bool listed = problem.tiles.ptr != nullptr;
  const TileRow row = listed ? TileRow(problem.tiles, sequence_, group_, rows.lowest) : TileRow(problem.tiles);
  const TileRowBits tile_bits(problem.tiles, row, keys, positions, listed ? count : 0);
  uint64_t any = 0;
  for (int r = 0; r < rows.count; ++r) {
    const int64_t query = rows.position[r];
    uint64_t bits = keys.visible;
    if (terms_->local && !rows.global) bits &= local_bits(query, keys, positions, count) | global;
    if (problem.causal) bits &= causal_bits(query, keys, positions, count);
    if (listed) bits &= tile_bits.of(query);
    row_bits[r] = bits;
    any |= bits;
  }
  return any == 0 ? TileKind::kEmpty : TileKind::kPartial;
}

}  // namespace raggedrt
