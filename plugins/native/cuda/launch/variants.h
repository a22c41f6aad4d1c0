// Choosing kernel variants: pure functions of rows, keys and device limits.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <string>

#include "cuda/launch/launch.h"
#include "cuda/launch/pack.h"

namespace raggedrt::cuda {

struct Grid {
  int64_t x = 1;
  int64_t y = 1;
};

struct VariantTable {
  const Variant* rows = nullptr;
  size_t count = 0;
};

// What a variant must be; 0: the family does not have it.
struct VariantKey {
  const char* family;
  int32_t element = 0;
  int32_t vector_bytes = 0;
  int32_t head_size = 0;
  int32_t mask_class = 0;
  int32_t score_class = 0;
  int32_t query_rows = 0;  // 0: whatever the first row has
};

// The first row that is as the key says; null: there is none.
const Variant* find_variant(const VariantTable& table, const VariantKey& key);

std::string describe(const VariantKey& key);

// Blocks of a variant that one multiprocessor holds at the same time; 0: it does not fit.
int blocks_per_multiprocessor(const Variant& variant, const DeviceLimits& limits);

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t multiple) { return divide_up(a, multiple) * multiple; }

}  // namespace raggedrt::cuda
