// What the dense and the sparse way through RaggedAttention share: sequences, memory, workers, packing.
#pragma once

#include <stdint.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "cpu/attention.h"
#include "cpu/isa.h"
#include "cpu/position_mask.h"
#include "cpu/runtime.h"

namespace raggedrt {

constexpr size_t kCacheLine = 64;

// The part of a problem that belongs to one sequence.
struct Sequence {
  int64_t first_query;
  int64_t queries;
  int64_t first_key;
  int64_t keys;
};

Sequence sequence_of(const AttentionProblem& problem, int64_t index);

// Aligned to cache lines; null for no floats.
float* allocate_floats(Runtime& runtime, int64_t count);

// Workers take items from a common counter until none is left: body(item, worker).
template <typename Body>
void drain(Runtime& runtime, size_t items, const Body& body) {
  if (items == 0) return;
  std::atomic<size_t> next{0};
  parallel_for(runtime, std::min(items, runtime.max_workers()), [&](size_t worker) {
    for (size_t item = next.fetch_add(1); item < items; item = next.fetch_add(1)) body(item, worker);
  });
}

AttentionShape shape_of(const AttentionProblem& problem);

// Summaries of the key tiles of all sequences.
class KeySummaries {
 public:
  explicit KeySummaries(const AttentionProblem& problem);

  // Of one sequence; null where a key's position is its index.
  const KeyTileSummary* of(int64_t sequence) const {
    return first_.empty() ? nullptr : summaries_.data() + first_[static_cast<size_t>(sequence)];
  }

 private:
  std::vector<KeyTileSummary> summaries_;
  std::vector<size_t> first_;
};

// Query rows [first, first + count) of `heads` neighbouring heads from `first_head` on: row = query * heads + head.
struct RowSpace {
  Sequence sequence;
  int64_t first_head;
  int64_t heads;
  int64_t shift;  // of the position of a query without positions
};

void set_row(const AttentionProblem& problem, const RowSpace& space, int64_t row, int place, QueryRows& rows);

// Packs keys [first, last) and values of one sequence and head into panels of that sequence.
void pack_keys(const AttentionProblem& problem, const IsaKernels& isa, const Sequence& sequence, int64_t head,
               int64_t first, int64_t last, float* panels);
void pack_values(const AttentionProblem& problem, const IsaKernels& isa, const Sequence& sequence, int64_t head,
                 int64_t first, int64_t last, float* panels);

// Asks for row `row` of [rows, size] elements, into the second-level cache.
inline void prefetch_row(const AttentionProblem& problem, const void* tensor, int64_t row, int64_t size) {
  const int64_t bytes = size * static_cast<int64_t>(element_size(problem.element));
  const char* line = static_cast<const char*>(tensor) + row * bytes;
  for (int64_t byte = 0; byte < bytes; byte += static_cast<int64_t>(kCacheLine)) __builtin_prefetch(line + byte, 0, 3);
}

// The way of problems with windows, dilation, global tokens or tile lists.
void sparse_attention(const AttentionProblem& problem, Runtime& runtime);

}  // namespace raggedrt
