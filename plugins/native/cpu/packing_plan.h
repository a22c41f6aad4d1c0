// PackingPlan: the kept slots of a padded batch in row-major order.
#pragma once

#include <stdint.h>

#include <vector>

#include "cpu/element.h"

namespace raggedrt {

struct PackingInput {
  Element mask_element = Element::kInt64;
  const void* mask = nullptr;  // [rows, slots], valid where non-zero
  Element keep_element = Element::kInt64;
  const void* keep_mask = nullptr;  // [rows, slots]; may be null
  const int64_t* keep_slots = nullptr;  // [keep_count]; negative: from the end; outside the row: ignored
  int64_t keep_count = 0;
  int64_t rows = 0;
  int64_t slots = 0;
  int64_t capacity = 0;  // the token count is rounded up to a multiple of it, at least one; 0: exact
};

struct PackingOutput {
  int32_t* token_index = nullptr;   // [tokens]
  int32_t* cu_seqlens = nullptr;    // [rows + 1]
  int32_t* position = nullptr;      // [tokens]
  int32_t* key_position = nullptr;  // [tokens]
};

// Classifies every slot first, so that the outputs can be allocated exactly.
class PackingPlan {
 public:
  explicit PackingPlan(const PackingInput& input);

  int64_t tokens() const { return tokens_; }
  void write(const PackingOutput& output) const;

 private:
  enum Slot : uint8_t { kDropped = 0, kKept = 1, kValid = 2 };

  PackingInput input_;
  std::vector<uint8_t> slots_;  // [rows, slots]
  int64_t tokens_ = 0;
};

// Rows of the outputs for that many tokens.
inline int64_t plan_rows(int64_t tokens, int64_t capacity) {
  if (capacity <= 0) return tokens;
  const int64_t multiples = (tokens + capacity - 1) / capacity;
  return (multiples > 0 ? multiples : 1) * capacity;
}

// Whether slot numbers of this batch fit the int32 outputs.
bool packing_fits(int64_t rows, int64_t slots);

}  // namespace raggedrt
