// Which keys a query tile visits by a tile list.
//
// A tile here is gathered from groups of eight neighbouring keys: the blocks of a list hold whole groups, so that what
// small blocks show fills a tile, and a block stays in one tile wherever it begins in the packed sequence. Where
// positions are not consecutive the groups are those of the sequence, and every key is looked up by itself.
#pragma once

#include "cuda/kernels/attention_keys.cuh"

namespace raggedrt::device {
namespace {

constexpr int kGroups8 = kKeys / 8;

// The first entry in begin … end - 1 whose column is not below `column`. All lanes search together.
RAGGEDRT_DEVICE int find_column(const int* columns, int begin, int end, int column) {
  while (begin < end) {
    const int step = (end - begin + 31) / 32;
    const int probe = begin + (lane_index() + 1) * step - 1;
    const bool below = probe < end && load_global_readonly(columns + probe) < column;
    const int passed = population_count(ballot(below));
    begin += passed * step;
    if (step == 1) return minimum(begin, end);
    end = minimum(end, begin + step);
  }
  return begin;
}

// The entries of one row of the list.
struct TileRow {
  int begin = 0;
  int end = 0;

  RAGGEDRT_DEVICE TileRow(const AttentionParams& params, const Item& item) {
    const cuda::TileList& list = params.tiles;
    const int position = query_position(params, item, 0);
    if (position < 0 || position / list.block_size >= list.rows) return;
    int group = 0;
    if (list.groups > 1) {
      group = list.head_group == nullptr ? item.head : load_global_readonly(list.head_group + item.head);
    }
    const int64_t plane = (list.sequences == 1 ? 0 : int64_t{item.sequence}) * list.groups + group;
    const int* ptr = list.ptr + plane * (list.rows + 1) + position / list.block_size;
    begin = load_global_readonly(ptr);
    end = load_global_readonly(ptr + 1);
  }
};

// Tiles of a row of the list.
class ListedTiles {
 public:
  RAGGEDRT_DEVICE ListedTiles(const AttentionParams& params, const MaskRules& rules, const Item& item)
      : params_(params),
        rules_(rules),
        item_(item),
        keys_(params, item),
        reach_(tile_reach(params, rules, item)),
        row_(params, item),
        size_(params.tiles.block_size) {
    int tiles = tiles_of(item.keys);
    if (keys_.consecutive()) {
      const int lowest = rules.exempting ? keys_.base : maximum(keys_.base, reach_.any_low);
      const int last = keys_.base + item.keys - 1;
      const int highest = minimum(last, rules.exempting ? reach_.causal : reach_.any_high);
      const bool none = item.keys == 0 || highest < lowest;
      row_.begin = none ? row_.end : find_column(params.tiles.col, row_.begin, row_.end, lowest / size_);
      row_.end = none ? row_.end : find_column(params.tiles.col, row_.begin, row_.end, highest / size_ + 1);
      tiles = tiles_of((row_.end - row_.begin) * size_);
    }
    const TileRange range = split_range(params, item, 0, row_.begin < row_.end ? tiles : 0);
    tile_ = range.first - 1;
    end_ = range.last;
    if (keys_.consecutive()) read_entry(range.first);
  }

  RAGGEDRT_DEVICE bool next() {
    while (++tile_ < end_) {
      if (keys_.consecutive() ? gather_groups() : look_up_keys()) return true;
    }
    return false;
  }

  RAGGEDRT_DEVICE void copy(const Stage& stage) const {
    gather_keys(params_, item_, stage, [this](int row) { return shuffle(start_, row / 8) + row % 8; });
    RAGGEDRT_UNROLL
    for (int part = 0; part < kKeys / 32; ++part) {
      const int key = 32 * part + lane_index();
      const int index = shuffle(start_, key / 8) + key % 8;
      const int byte = keys_.consecutive() ? shuffle(byte_[0], key / 8) : byte_[part];
      const bool valid = index >= 0 && index < item_.keys;
      if (part % kWarps != warp_index()) continue;
      store_shared(stage.positions() + key, valid ? position_of(index) : -1);
      store_shared(stage.bytes() + key, byte);
      if constexpr (kModified) store_shared(stage.indices() + key, valid ? index : 0);
    }
    if (thread_index() == 0) store_shared(stage.full(), full_ ? 1 : 0);
  }

 private:
  RAGGEDRT_DEVICE int position_of(int index) const {
    return keys_.consecutive() ? keys_.base + index : load_global_readonly(keys_.positions + index);
  }

  // Of a bitmap, or a full tile.
  RAGGEDRT_DEVICE int first_byte(int tag, int column_in_tile) const {
    return tag < 0 ? kShown : tag * (size_ * size_ / 8) + column_in_tile / 8;
  }

  // Reads ahead, for the lane's group of a tile, what gather_groups will want.
  RAGGEDRT_DEVICE void read_entry(int tile) {
    const int groups = size_ / 8;
    const int number = tile * kGroups8 + lane_index() % kGroups8;
    const int entry = row_.begin + number / groups;
    entry_valid_ = entry < row_.end;
    if (!entry_valid_) return;
    column_ = load_global_readonly(params_.tiles.col + entry);
    tag_ = load_global_readonly(params_.tiles.tag + entry);
    in_tile_ = number % groups * 8;
  }

  // The next groups that the row's entries show. Lanes from kGroups8 on repeat the others.
  RAGGEDRT_DEVICE bool gather_groups() {
    const int position = column_ * size_ + in_tile_;
    start_ = position - keys_.base;
    bool any = entry_valid_ && start_ > -8 && start_ < item_.keys;
    bool all = any && start_ >= 0 && start_ + 8 <= item_.keys && tag_ < 0 && !rules_.dilated &&
               reach_.sees_all(position, position + 7);
    any = any && (rules_.exempting || reach_.may_see(position, position + 7));
    byte_[0] = any ? first_byte(tag_, in_tile_) : kHidden;
    if (!any) start_ = -8;  // no key
    read_entry(tile_ + 1);
    full_ = ballot(all) == 0xffffffffu;
    return ballot(any) != 0;
  }

  RAGGEDRT_DEVICE int look_up(int position) const {
    if (position < 0) return kHidden;
    const int column = position / size_;
    int begin = row_.begin;
    int end = row_.end;
    while (begin < end) {
      const int middle = (begin + end) / 2;
      if (load_global_readonly(params_.tiles.col + middle) < column) {
        begin = middle + 1;
      } else {
        end = middle;
      }
    }
    if (begin == row_.end || load_global_readonly(params_.tiles.col + begin) != column) return kHidden;
    return first_byte(load_global_readonly(params_.tiles.tag + begin), position - column * size_);
  }

  // A tile of the sequence; each lane looks up one key of every 32.
  RAGGEDRT_DEVICE bool look_up_keys() {
    start_ = tile_ * kKeys + lane_index() % kGroups8 * 8;
    full_ = false;
    bool any = false;
    RAGGEDRT_UNROLL
    for (int part = 0; part < kKeys / 32; ++part) {
      const int index = tile_ * kKeys + 32 * part + lane_index();
      const int position = index < item_.keys ? position_of(index) : -1;
      byte_[part] = look_up(position);
      any |= byte_[part] != kHidden && (rules_.exempting || reach_.may_see(position, position));
    }
    return ballot(any) != 0;
  }

  const AttentionParams& params_;
  const MaskRules& rules_;
  const Item& item_;
  const KeyPositions keys_;
  const Reach reach_;
  TileRow row_;
  const int size_;
  int tile_;
  int end_;
  // Of the lane's group: index of its first key, and what the list says of it; or of the lane's keys, one of every 32.
  int start_ = 0;
  int byte_[kKeys / 32] = {};
  bool full_ = false;
  // Of the lane's group in the tile after that.
  bool entry_valid_ = false;
  int column_ = 0;
  int tag_ = 0;
  int in_tile_ = 0;
};

}  // namespace
}  // namespace raggedrt::device
