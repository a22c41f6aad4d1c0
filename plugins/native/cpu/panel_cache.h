// Packed keys and values of the tiles that one worker visited last: packs what is missing.
#pragma once

#include <stdint.h>

#include <vector>

#include "cpu/call.h"

namespace raggedrt {

class PanelCache final : public KeyValuePanels {
 public:
  // slots: a power of two. buffer: slots * slot_floats.
  PanelCache(const AttentionProblem& problem, const IsaKernels& isa, int64_t slots, float* buffer)
      : problem_(problem), isa_(isa), buffer_(buffer), owner_(static_cast<size_t>(slots), -1) {}

  static int64_t slot_floats(const AttentionProblem& problem) {
    return int64_t{kKeyTile} * (problem.head_size + padded_head_size(problem.value_head_size));
  }

  // The sequence and key/value head whose tiles are asked for from now on.
  void select(int64_t sequence, int64_t head) {
    sequence_ = sequence_of(problem_, sequence);
    head_ = head;
    unit_ = (sequence * problem_.kv_num_heads + head) << 32;
  }

  KeyValueTile tile(int64_t key_tile) override {
    const size_t slot = slot_of(key_tile);
    float* keys = buffer_ + static_cast<int64_t>(slot) * slot_floats(problem_);
    float* values = keys + int64_t{kKeyTile} * problem_.head_size;
    const int64_t stride = padded_head_size(problem_.value_head_size);
    if (owner_[slot] != (unit_ | key_tile)) {
      const int64_t first = key_tile * kKeyTile;
      const int64_t last = std::min(sequence_.keys, first + kKeyTile);
      pack_keys(problem_, isa_, sequence_, head_, first, last, keys - first * problem_.head_size);
      pack_values(problem_, isa_, sequence_, head_, first, last, values - first * stride);
      owner_[slot] = unit_ | key_tile;
    }
    return {keys, values, stride};
  }

  void prefetch(int64_t key_tile, int first, int last) override {
    if (owner_[slot_of(key_tile)] == (unit_ | key_tile)) return;
    const int64_t begin = sequence_.first_key + key_tile * kKeyTile;
    const int64_t end = std::min(begin + last, sequence_.first_key + sequence_.keys);
    for (int64_t key = begin + first; key < end; ++key) {
      prefetch_row(problem_, problem_.key, key * problem_.kv_num_heads + head_, problem_.head_size);
      prefetch_row(problem_, problem_.value, key * problem_.kv_num_heads + head_, problem_.value_head_size);
    }
  }

 private:
  size_t slot_of(int64_t key_tile) const { return static_cast<size_t>(key_tile) & (owner_.size() - 1); }

  const AttentionProblem& problem_;
  const IsaKernels& isa_;
  float* buffer_;
  std::vector<int64_t> owner_;  // unit and key tile of each slot
  Sequence sequence_ = {};
  int64_t head_ = 0;
  int64_t unit_ = 0;
};

}  // namespace raggedrt
