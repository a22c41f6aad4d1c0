#include "cpu/packing_plan.h"

#include <limits>

namespace raggedrt {
namespace {

template <typename T>
void mark_nonzero(const void* mask, uint8_t mark, std::vector<uint8_t>& slots) {
  const T* values = static_cast<const T*>(mask);
  for (size_t i = 0; i < slots.size(); ++i) slots[i] |= values[i] != T{} ? mark : uint8_t{0};
}

void mark(Element element, const void* mask, uint8_t value, std::vector<uint8_t>& slots) {
  switch (element) {
    case Element::kInt32: return mark_nonzero<int32_t>(mask, value, slots);
    case Element::kInt64: return mark_nonzero<int64_t>(mask, value, slots);
    case Element::kBool: return mark_nonzero<uint8_t>(mask, value, slots);
    default: return mark_nonzero<float>(mask, value, slots);
  }
}

}  // namespace

PackingPlan::PackingPlan(const PackingInput& input)
    : input_(input), slots_(static_cast<size_t>(input.rows * input.slots)) {
  mark(input.mask_element, input.mask, kValid, slots_);
  if (input.keep_mask != nullptr) mark(input.keep_element, input.keep_mask, kKept, slots_);
  for (int64_t i = 0; i < input.keep_count; ++i) {
    const int64_t slot = input.keep_slots[i] < 0 ? input.keep_slots[i] + input.slots : input.keep_slots[i];
    if (slot < 0 || slot >= input.slots) continue;
    for (int64_t row = 0; row < input.rows; ++row) slots_[static_cast<size_t>(row * input.slots + slot)] |= kKept;
  }
  for (const uint8_t slot : slots_) tokens_ += slot != kDropped;
  tokens_ = plan_rows(tokens_, input.capacity);
}

void PackingPlan::write(const PackingOutput& output) const {
  int64_t token = 0;
  output.cu_seqlens[0] = 0;
  for (int64_t row = 0; row < input_.rows; ++row) {
    for (int64_t slot = 0; slot < input_.slots; ++slot) {
      const int64_t index = row * input_.slots + slot;
      const uint8_t kind = slots_[static_cast<size_t>(index)];
      if (kind == kDropped) continue;
      output.token_index[token] = static_cast<int32_t>(index);
      output.position[token] = static_cast<int32_t>(slot);
      output.key_position[token] = (kind & kValid) != 0 ? static_cast<int32_t>(slot) : -1;
      ++token;
    }
    output.cu_seqlens[row + 1] = static_cast<int32_t>(token);
  }
  for (; token < tokens_; ++token) {  // rows that only fill the capacity
    output.token_index[token] = 0;
    output.position[token] = 0;
    output.key_position[token] = -1;
  }
}

bool packing_fits(int64_t rows, int64_t slots) {
  return slots == 0 || rows <= std::numeric_limits<int32_t>::max() / slots;
}

}  // namespace raggedrt
