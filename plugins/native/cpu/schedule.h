// Cuts the attention of a ragged batch into work items: few for short sequences, many for long ones.
//
// A unit is one sequence and one key/value head. Small units are packed and computed by one worker, several heads at
// a time; the keys and values of a large unit are packed first, by all workers, and its query tiles are then shared.
#pragma once

#include <stdint.h>

#include <vector>

#include "cpu/attention.h"

namespace raggedrt {

// Keys [first_key, last_key) of a large unit, to be packed.
struct PackItem {
  int32_t unit;
  int64_t first_key;
  int64_t last_key;
};

// Query tiles of key/value heads [first_head, last_head) of one sequence.
struct AttendItem {
  int32_t sequence;
  int32_t first_head;
  int32_t last_head;
  int32_t unit;        // the large unit whose shared panels are read, -1: the worker packs its own
  int64_t first_tile;  // of the query tiles
  int64_t last_tile;
  double cost;
};

struct LargeUnit {
  int32_t sequence;
  int32_t head;
  int64_t panel_offset;  // floats, into the shared buffer: keys, then values
};

struct Schedule {
  std::vector<LargeUnit> large_units;
  std::vector<PackItem> pack_items;
  std::vector<AttendItem> attend_items;
  int64_t shared_floats = 0;       // panels of the large units
  int64_t longest_keys = 0;        // of a sequence
  int64_t longest_small_keys = 0;  // of a sequence whose panels a worker packs for itself
  double cost = 0.0;               // of everything, in floating point operations
};

int64_t key_panel_floats(int64_t keys, int head_size);
int64_t value_panel_floats(int64_t keys, int value_head_size);

Schedule make_schedule(const AttentionProblem& problem, size_t workers);

}  // namespace raggedrt
