#include "cpu/tile_list.h"

#include <algorithm>

#include "cpu/bits.h"

namespace raggedrt {
namespace {

constexpr int32_t kFullTag = -1;

const char* check_rows(const TileList& tiles) {
  for (int64_t plane = 0; plane < tiles.sequences * tiles.groups; ++plane) {
    const int32_t* ptr = tiles.ptr + plane * (tiles.rows + 1);
    if (ptr[0] < 0 || ptr[tiles.rows] > tiles.entries) return "tile_ptr must point into tile_col";
    for (int64_t row = 0; row < tiles.rows; ++row) {
      if (ptr[row + 1] < ptr[row]) return "tile_ptr must not decrease";
    }
    for (int64_t row = 0; row < tiles.rows; ++row) {
      for (int32_t entry = ptr[row] + 1; entry < ptr[row + 1]; ++entry) {
        if (tiles.col[entry] <= tiles.col[entry - 1]) return "tile_col must ascend within a row";
      }
    }
  }
  return nullptr;
}

}  // namespace

const char* check_tile_list(const AttentionProblem& problem) {
  const TileList& tiles = problem.tiles;
  if (tiles.ptr == nullptr) return nullptr;
  if (tiles.sequences != 1 && tiles.sequences != problem.sequences) return "tile_ptr must be [B|1, G, R+1]";
  for (int64_t entry = 0; entry < tiles.entries; ++entry) {
    if (tiles.col[entry] < 0) return "tile_col must not be negative";
    if (tiles.tag[entry] < kFullTag || tiles.tag[entry] >= tiles.bitmaps) return "tile_tag must be -1 or a bitmap";
  }
  for (int head = 0; tiles.head_group != nullptr && head < problem.num_heads; ++head) {
    if (tiles.head_group[head] < 0 || tiles.head_group[head] >= tiles.groups) return "head_group must be a group";
  }
  if (tiles.head_group == nullptr && tiles.groups != 1 && tiles.groups != problem.num_heads) {
    return "a tile list needs head_group unless it has one group, or one per head";
  }
  return check_rows(tiles);
}

int64_t group_of_head(const TileList& tiles, int64_t head) {
  if (tiles.ptr == nullptr || tiles.groups == 1) return 0;
  return tiles.head_group != nullptr ? tiles.head_group[head] : head;
}

TileRow::TileRow(const TileList& tiles, int64_t sequence, int64_t group, int64_t position) : tiles_(tiles) {
  const int64_t row = floor_divide(position, tiles.block_size);
  if (row < 0 || row >= tiles.rows) return;
  const int64_t plane = (tiles.sequences == 1 ? 0 : sequence) * tiles.groups + group;
  const int32_t* ptr = tiles.ptr + plane * (tiles.rows + 1);
  begin_ = ptr[row];
  end_ = ptr[row + 1];
}

int64_t TileRow::find(int64_t column) const {
  return std::lower_bound(tiles_.col + begin_, tiles_.col + end_, column) - tiles_.col;
}

bool TileRow::any(int64_t first_column, int64_t last_column) const {
  const int64_t entry = find(first_column);
  return entry < end_ && tiles_.col[entry] <= last_column;
}

bool TileRow::full(int64_t first_position, int64_t last_position) const {
  const int64_t last = last_position / tiles_.block_size;
  int64_t entry = find(first_position / tiles_.block_size);
  for (int64_t column = first_position / tiles_.block_size; column <= last; ++column, ++entry) {
    if (entry >= end_ || tiles_.col[entry] != column || tiles_.tag[entry] != kFullTag) return false;
  }
  return true;
}

TileRowBits::TileRowBits(const TileList& tiles, const TileRow& row, const KeyTileSummary& summary,
                         const int32_t* positions, int count)
    : tiles_(tiles) {
  if (positions != nullptr) {
    for (int key = 0; key < count; ++key) {
      if (positions[key] >= 0) add(row, positions[key], key, 1);
    }
    return;
  }
  for (int key = 0; key < count;) {
    const int64_t position = int64_t{summary.lowest} + key;
    const int64_t in_block = tiles.block_size - position % tiles.block_size;
    const int length = static_cast<int>(std::min<int64_t>(in_block, count - key));
    add(row, position, key, length);
    key += length;
  }
}

void TileRowBits::add(const TileRow& row, int64_t position, int shift, int count) {
  const int64_t column = position / tiles_.block_size;
  const int64_t entry = row.find(column);
  if (entry >= row.end() || row.column(entry) != column) return;
  segments_[used_++] = {shift, count, tiles_.tag[entry], position % tiles_.block_size};
}

uint64_t TileRowBits::of(int64_t query_position) const {
  const int64_t size = tiles_.block_size;
  const int64_t words = size * size / 32;
  const int64_t first = query_position % size * size;
  uint64_t bits = 0;
  for (int i = 0; i < used_; ++i) {
    const Segment& segment = segments_[i];
    const uint64_t seen = segment.tag == kFullTag
                              ? low_bits(segment.count)
                              : extract_bits(tiles_.bits + segment.tag * words, first + segment.offset, segment.count);
    bits |= seen << segment.shift;
  }
  return bits;
}

}  // namespace raggedrt
