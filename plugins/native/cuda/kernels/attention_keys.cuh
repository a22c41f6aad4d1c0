// Which key tiles a query tile visits, without a tile list: those in which some row may see some key.
//
// A source of tiles is asked for the next tile (`next`), then told where to copy it (`copy`).
#pragma once

#include "cuda/kernels/attention_copy.cuh"
#include "cuda/kernels/attention_rows.cuh"

namespace raggedrt::device {
namespace {

RAGGEDRT_DEVICE int tiles_of(int keys) { return (keys + kKeys - 1) / kKeys; }

// Every key of the sequence.
class AllTiles {
 public:
  RAGGEDRT_DEVICE AllTiles(const AttentionParams& params, const Item& item)
      : params_(params), item_(item), range_(split_range(params, item, 0, tiles_of(item.keys))), next_(range_.first) {}

  RAGGEDRT_DEVICE bool next() { return next_++ < range_.last; }
  RAGGEDRT_DEVICE void copy(const Stage& stage) const {
    copy_keys(params_, item_, stage, (next_ - 1) * kKeys);
  }
  // Tiles that are full of keys, and the keys of the one that follows them.
  RAGGEDRT_DEVICE int whole() const { return maximum(0, minimum(range_.last, item_.keys / kKeys) - range_.first); }
  RAGGEDRT_DEVICE int rest() const {
    return range_.first < range_.last && range_.last > item_.keys / kKeys ? item_.keys % kKeys : 0;
  }

 private:
  const AttentionParams& params_;
  const Item& item_;
  TileRange range_;
  int next_;
};

// What is known of the keys of a tile.
struct TileSummary {
  int lowest;     // of the positions that are not negative
  int highest;
  bool any;       // there is such a position
  bool complete;  // there are kKeys of them
};

// What a call's key positions are in one sequence.
struct KeyPositions {
  const int* positions;                // of the sequence; null where consecutive
  const cuda::KeySummary* summaries;   // likewise
  int base;                            // key k lies at base + k

  RAGGEDRT_DEVICE KeyPositions(const AttentionParams& params, const Item& item) {
    base = params.positions_k == nullptr ? 0 : load_global_readonly(params.key_base + item.sequence);
    const bool consecutive = base != cuda::kNotConsecutive;
    positions = consecutive ? nullptr : params.positions_k + item.first_key;
    summaries = consecutive ? nullptr : params.key_summaries + item.first_key / cuda::kKeyTile + item.sequence;
  }
  RAGGEDRT_DEVICE bool consecutive() const { return positions == nullptr; }

  RAGGEDRT_DEVICE TileSummary summary(const Item& item, int tile) const {
    const int first = tile * kKeys;
    if (consecutive()) {
      const int count = minimum(kKeys, item.keys - first);
      return {base + first, base + first + count - 1, true, count == kKeys};
    }
    const Vec16 words = load_global_readonly(reinterpret_cast<const Vec16*>(summaries + first / cuda::kKeyTile));
    const int visible = static_cast<int>(words.word[2]);
    return {static_cast<int>(words.word[0]), static_cast<int>(words.word[1]), visible > 0, visible == cuda::kKeyTile};
  }
};

// Tiles by the positions of their keys, in the order of the sequence: each lane judges one tile of 32.
class PositionTiles {
 public:
  RAGGEDRT_DEVICE PositionTiles(const AttentionParams& params, const MaskRules& rules, const Item& item)
      : params_(params), rules_(rules), item_(item), keys_(params, item), reach_(tile_reach(params, rules, item)) {
    int first = 0;
    int last = item.keys - 1;
    if (keys_.consecutive()) {
      if (!rules.exempting) first = maximum(0, reach_.any_low - keys_.base);
      last = minimum(last, (rules.exempting ? reach_.causal : reach_.any_high) - keys_.base);
    }
    const int tiles = last < first ? 0 : last / kKeys + 1 - first / kKeys;
    const TileRange range = split_range(params, item, first / kKeys, tiles);
    judged_ = range.first - 32;
    end_ = range.last;
  }

  RAGGEDRT_DEVICE bool next() {
    while (pending_ == 0) {
      judged_ += 32;
      if (judged_ >= end_) return false;
      judge();
    }
    const int bit = first_set_bit(pending_);
    pending_ &= pending_ - 1;
    tile_ = judged_ + bit;
    full_ = (all_ >> bit & 1) != 0;
    return true;
  }

  RAGGEDRT_DEVICE void copy(const Stage& stage) const {
    const int first = tile_ * kKeys;
    copy_keys(params_, item_, stage, first);
    for (int key = thread_index(); key < kKeys; key += kThreads) {
      const int index = first + key;
      const bool valid = index < item_.keys;
      if (keys_.consecutive() || !valid) {
        store_shared(stage.positions() + key, valid ? keys_.base + index : -1);
      } else {
        copy_async_4(stage.positions() + key, keys_.positions + index, true);
      }
      if constexpr (kModified) store_shared(stage.indices() + key, valid ? index : 0);
    }
    if (thread_index() == 0) store_shared(stage.full(), full_ ? 1 : 0);
  }

 private:
  RAGGEDRT_DEVICE void judge() {
    const int tile = judged_ + lane_index();
    bool any = false;
    bool all = false;
    if (tile < end_) {
      const TileSummary keys = keys_.summary(item_, tile);
      any = keys.any && (reach_.may_see(keys.lowest, keys.highest) ||
                         (rules_.exempting && keys.lowest <= reach_.causal &&
                          any_global(params_, keys.lowest, keys.highest)));
      all = any && keys.complete && !rules_.dilated && reach_.sees_all(keys.lowest, keys.highest);
    }
    pending_ = ballot(any);
    all_ = ballot(all);
  }

  const AttentionParams& params_;
  const MaskRules& rules_;
  const Item& item_;
  const KeyPositions keys_;
  const Reach reach_;
  int judged_;  // the tile that lane 0 judged last
  int end_;
  uint32_t pending_ = 0;  // of the 32 judged tiles: still to be visited
  uint32_t all_ = 0;      // seen whole
  int tile_ = 0;
  bool full_ = false;
};

}  // namespace
}  // namespace raggedrt::device
