#include "cpu/call.h"

#include "cpu/schedule.h"

namespace raggedrt {
namespace {

const void* element_at(const AttentionProblem& problem, const void* tensor, int64_t index) {
  return static_cast<const char*>(tensor) + index * static_cast<int64_t>(element_size(problem.element));
}

}  // namespace

Sequence sequence_of(const AttentionProblem& problem, int64_t index) {
  const int64_t first_query = problem.cu_seqlens_q[index];
  const int64_t first_key = problem.cu_seqlens_k[index];
  return {first_query, problem.cu_seqlens_q[index + 1] - first_query, first_key,
          problem.cu_seqlens_k[index + 1] - first_key};
}

float* allocate_floats(Runtime& runtime, int64_t count) {
  if (count == 0) return nullptr;
  const uintptr_t address =
      reinterpret_cast<uintptr_t>(runtime.allocate(static_cast<size_t>(count) * sizeof(float) + kCacheLine));
  return reinterpret_cast<float*>((address + kCacheLine - 1) / kCacheLine * kCacheLine);
}

AttentionShape shape_of(const AttentionProblem& problem) {
  return {problem.element,   problem.head_size, problem.value_head_size,
          problem.num_heads, problem.total_q,   problem.scale};
}

KeySummaries::KeySummaries(const AttentionProblem& problem) {
  if (problem.positions_k == nullptr) return;
  first_.reserve(static_cast<size_t>(problem.sequences));
  for (int64_t index = 0; index < problem.sequences; ++index) {
    const Sequence sequence = sequence_of(problem, index);
    first_.push_back(summaries_.size());
    for (int64_t key = 0; key < sequence.keys; key += kKeyTile) {
      const int count = static_cast<int>(std::min<int64_t>(kKeyTile, sequence.keys - key));
      summaries_.push_back(summarize_keys(problem.positions_k + sequence.first_key + key, count));
    }
  }
}

void set_row(const AttentionProblem& problem, const RowSpace& space, int64_t row, int place, QueryRows& rows) {
  const int64_t query = row / space.heads;
  const int64_t head = space.first_head + row % space.heads;
  const int64_t token = space.sequence.first_query + query;
  rows.index[place] = token * problem.num_heads + head;
  rows.head[place] = static_cast<int32_t>(head);
  rows.position[place] =
      problem.positions_q != nullptr ? problem.positions_q[token] : static_cast<int32_t>(query + space.shift);
}

void pack_keys(const AttentionProblem& problem, const IsaKernels& isa, const Sequence& sequence, int64_t head,
               int64_t first, int64_t last, float* panels) {
  const int64_t stride = static_cast<int64_t>(problem.kv_num_heads) * problem.head_size;
  for (int64_t key = first; key < last; key += kKeyTile) {
    const int count = static_cast<int>(std::min<int64_t>(kKeyTile, last - key));
    const int64_t source = (sequence.first_key + key) * stride + head * problem.head_size;
    isa.pack_keys(problem.element, element_at(problem, problem.key, source), stride, count, problem.head_size,
                  panels + key * problem.head_size);
  }
}

void pack_values(const AttentionProblem& problem, const IsaKernels& isa, const Sequence& sequence, int64_t head,
                 int64_t first, int64_t last, float* panels) {
  const int64_t stride = static_cast<int64_t>(problem.kv_num_heads) * problem.value_head_size;
  const int64_t source = (sequence.first_key + first) * stride + head * problem.value_head_size;
  isa.pack_values(problem.element, element_at(problem, problem.value, source), stride, static_cast<int>(last - first),
                  problem.value_head_size, panels + first * padded_head_size(problem.value_head_size));
}

}  // namespace raggedrt
