#include "cuda/launch/variants.h"

#include <string.h>

#include <algorithm>

namespace raggedrt::cuda {
namespace {

// Of every compute capability from 8.0 to 12.x.
constexpr int kRegisters = 65536;      // of a multiprocessor
constexpr int kRegisterUnit = 256;     // of a warp: registers are handed out by so many
constexpr int kMostBlocks = 16;        // of a multiprocessor; some hold more
constexpr int kReservedShared = 1024;  // of every block, for the system
constexpr int kSharedUnit = 128;

}  // namespace

const Variant* find_variant(const VariantTable& table, const VariantKey& key) {
  for (size_t i = 0; i < table.count; ++i) {
    const Variant& row = table.rows[i];
    if (row.element == key.element && row.vector_bytes == key.vector_bytes && row.head_size == key.head_size &&
        row.mask_class == key.mask_class && row.score_class == key.score_class &&
        (key.query_rows == 0 || row.query_rows == key.query_rows) && strcmp(row.family, key.family) == 0) {
      return &row;
    }
  }
  return nullptr;
}

std::string describe(const VariantKey& key) {
  std::string text = key.family;
  const auto add = [&text](const char* name, int32_t value) {
    if (value != 0) text += std::string(", ") + name + " " + std::to_string(value);
  };
  add("element type", key.element);
  add("vector bytes", key.vector_bytes);
  add("head size", key.head_size);
  add("mask class", key.mask_class);
  add("score class", key.score_class);
  add("query rows", key.query_rows);
  return text;
}

int blocks_per_multiprocessor(const Variant& variant, const DeviceLimits& limits) {
  const int shared = variant.shared_bytes + variant.static_shared_bytes;
  if (shared > limits.shared_bytes_per_block) return 0;
  const int warps = variant.threads / 32;
  const int64_t registers = round_up(int64_t{variant.registers} * 32, kRegisterUnit) * warps;
  int64_t blocks = std::min<int64_t>(kMostBlocks, limits.threads_per_multiprocessor / variant.threads);
  if (registers > 0) blocks = std::min(blocks, kRegisters / registers);
  return static_cast<int>(
      std::min(blocks, limits.shared_bytes_per_multiprocessor / round_up(shared + kReservedShared, kSharedUnit)));
}

}  // namespace raggedrt::cuda
