#include "cpu/position_mask.h"

#include <algorithm>
#include <numeric>

#include "cpu/bits.h"

namespace raggedrt {
namespace {

struct Span {
  int32_t lowest;
  int32_t highest;
};

Span position_span(const QueryRows& rows) {
  const auto [lowest, highest] = std::minmax_element(rows.position, rows.position + rows.count);
  return {*lowest, *highest};
}

// Keys that each row sees causally when the visible positions ascend: one walk, restarted where rows step back.
void causal_walk(const QueryRows& rows, const int32_t* positions, int count, uint64_t visible, uint64_t* row_bits) {
  int key = 0;
  for (int row = 0; row < rows.count; ++row) {
    if (row > 0 && rows.position[row] < rows.position[row - 1]) key = 0;
    while (key < count && (positions[key] < 0 || positions[key] <= rows.position[row])) ++key;
    row_bits[row] = visible & low_bits(key);
  }
}

void causal_compare(const QueryRows& rows, const int32_t* positions, int count, uint64_t visible, uint64_t* row_bits) {
  for (int row = 0; row < rows.count; ++row) {
    uint64_t bits = 0;
    for (int key = 0; key < count; ++key) bits |= uint64_t{positions[key] <= rows.position[row]} << key;
    row_bits[row] = bits & visible;
  }
}

}  // namespace

KeyTileSummary summarize_keys(const int32_t* positions, int count) {
  KeyTileSummary summary;
  for (int key = 0; key < count; ++key) {
    const int32_t position = positions[key];
    summary.consecutive &= position >= 0 && position == positions[0] + key;
    if (position < 0) continue;
    if (summary.visible == 0) {
      summary.lowest = summary.highest = position;
    } else if (position < summary.highest) {
      summary.ascending = false;
    }
    summary.lowest = std::min(summary.lowest, position);
    summary.highest = std::max(summary.highest, position);
    summary.visible |= uint64_t{1} << key;
  }
  return summary;
}

TileKind PositionMask::visit(const QueryRows& rows, int64_t key_tile, uint64_t* row_bits) const {
  const int64_t first_key = key_tile * kKeyTile;
  const int count = static_cast<int>(std::min<int64_t>(kKeyTile, keys_ - first_key));
  return positions_ == nullptr ? visit_indices(rows, first_key, count, row_bits)
                               : visit_positions(rows, key_tile, count, row_bits);
}

TileKind PositionMask::visit_indices(const QueryRows& rows, int64_t first_key, int count, uint64_t* row_bits) const {
  if (!causal_) {
    if (count == kKeyTile) return TileKind::kFull;
    std::fill_n(row_bits, rows.count, low_bits(count));
    return TileKind::kPartial;
  }
  const Span span = position_span(rows);
  if (span.highest < first_key) return TileKind::kEmpty;
  if (count == kKeyTile && span.lowest >= first_key + kKeyTile - 1) return TileKind::kFull;
  for (int row = 0; row < rows.count; ++row) {
    row_bits[row] = low_bits(std::min<int64_t>(count, rows.position[row] + 1 - first_key));
  }
  return TileKind::kPartial;
}

TileKind PositionMask::visit_positions(const QueryRows& rows, int64_t key_tile, int count, uint64_t* row_bits) const {
  const KeyTileSummary& summary = summaries_[key_tile];
  if (summary.visible == 0) return TileKind::kEmpty;
  const bool all_keys = summary.visible == ~uint64_t{0};
  const Span span = causal_ ? position_span(rows) : Span{summary.highest, summary.highest};
  if (span.highest < summary.lowest) return TileKind::kEmpty;
  if (span.lowest >= summary.highest) {
    if (all_keys) return TileKind::kFull;
    std::fill_n(row_bits, rows.count, summary.visible);
    return TileKind::kPartial;
  }
  const int32_t* positions = positions_ + key_tile * kKeyTile;
  const auto causal_bits = summary.ascending ? causal_walk : causal_compare;
  causal_bits(rows, positions, count, summary.visible, row_bits);
  return TileKind::kPartial;
}

int64_t PositionMask::list(const QueryRows& rows, int32_t* tiles) const {
  int64_t count = (keys_ + kKeyTile - 1) / kKeyTile;
  if (causal_ && positions_ == nullptr) {
    const int32_t highest = position_span(rows).highest;
    count = std::min<int64_t>(count, highest < 0 ? 0 : highest / kKeyTile + 1);
  }
  std::iota(tiles, tiles + count, 0);
  return count;
}

}  // namespace raggedrt
