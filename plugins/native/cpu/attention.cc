#include "cpu/attention.h"

#include <string.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/isa.h"
#include "cpu/position_mask.h"
#include "cpu/schedule.h"

namespace raggedrt {
namespace {

constexpr int64_t kTilesToReadInPlace = 2;  // with so few query tiles packing the values costs more than it saves
constexpr int64_t kKeysToPrefetch = 256;    // queries, keys and values of so many fit the second-level cache
constexpr size_t kCacheLine = 64;

// The part of a problem that belongs to one sequence.
struct Sequence {
  int64_t first_query;
  int64_t queries;
  int64_t first_key;
  int64_t keys;
};

Sequence sequence_of(const AttentionProblem& problem, int64_t index) {
  const int64_t first_query = problem.cu_seqlens_q[index];
  const int64_t first_key = problem.cu_seqlens_k[index];
  return {first_query, problem.cu_seqlens_q[index + 1] - first_query, first_key,
          problem.cu_seqlens_k[index + 1] - first_key};
}

// Everything that the workers of one call share.
class Call {
 public:
  Call(const AttentionProblem& problem, Runtime& runtime)
      : problem_(problem),
        runtime_(runtime),
        isa_(isa_kernels()),
        schedule_(make_schedule(problem, runtime.max_workers())),
        group_(problem.num_heads / problem.kv_num_heads),
        shape_{problem.element,   problem.head_size, problem.value_head_size,
               problem.num_heads, problem.total_q,   problem.scale} {}

  void run() {
    summarize_positions();
    clear_unused_rows();
    shared_ = allocate_floats(schedule_.shared_floats);
    drain(schedule_.pack_items.size(), [this](size_t item, size_t) { pack_shared(schedule_.pack_items[item]); });
    const size_t workers = std::min(schedule_.attend_items.size(), runtime_.max_workers());
    scratch_ = allocate_floats(worker_floats() * static_cast<int64_t>(workers));
    drain(schedule_.attend_items.size(), [this](size_t item, size_t worker) {
      attend(schedule_.attend_items[item], scratch_ + worker_floats() * static_cast<int64_t>(worker));
    });
  }

 private:
  float* allocate_floats(int64_t count) {
    if (count == 0) return nullptr;
    const uintptr_t address =
        reinterpret_cast<uintptr_t>(runtime_.allocate(static_cast<size_t>(count) * sizeof(float) + kCacheLine));
    return reinterpret_cast<float*>((address + kCacheLine - 1) / kCacheLine * kCacheLine);
  }

  // Workers take items from a common counter until none is left; items are ordered longest first.
  template <typename Body>
  void drain(size_t items, const Body& body) {
    if (items == 0) return;
    std::atomic<size_t> next{0};
    parallel_for(runtime_, std::min(items, runtime_.max_workers()), [&](size_t worker) {
      for (size_t item = next.fetch_add(1); item < items; item = next.fetch_add(1)) body(item, worker);
    });
  }

  int64_t worker_floats() const {
    return kQueryTile * (kQueryStride + padded_head_size(problem_.value_head_size)) +
           key_panel_floats(schedule_.longest_small_keys, problem_.head_size) +
           value_panel_floats(schedule_.longest_small_keys, problem_.value_head_size);
  }

  void summarize_positions() {
    if (problem_.positions_k == nullptr) return;
    first_summary_.reserve(static_cast<size_t>(problem_.sequences));
    for (int64_t index = 0; index < problem_.sequences; ++index) {
      const Sequence sequence = sequence_of(problem_, index);
      first_summary_.push_back(summaries_.size());
      for (int64_t key = 0; key < sequence.keys; key += kKeyTile) {
        const int count = static_cast<int>(std::min<int64_t>(kKeyTile, sequence.keys - key));
        summaries_.push_back(summarize_keys(problem_.positions_k + sequence.first_key + key, count));
      }
    }
  }

  // Rows past the last sequence exist only to fill a capacity; they are defined, so that nothing downstream is NaN.
  void clear_unused_rows() {
    const int64_t used = problem_.cu_seqlens_q[problem_.sequences];
    const size_t row_bytes =
        element_size(problem_.element) * static_cast<size_t>(problem_.num_heads * problem_.value_head_size);
    char* output = static_cast<char*>(problem_.output) + row_bytes * static_cast<size_t>(used);
    if (used < problem_.total_q) memset(output, 0, row_bytes * static_cast<size_t>(problem_.total_q - used));
    for (int64_t head = 0; problem_.lse != nullptr && head < problem_.num_heads; ++head) {
      std::fill(problem_.lse + head * problem_.total_q + used, problem_.lse + (head + 1) * problem_.total_q,
                -std::numeric_limits<float>::infinity());
    }
  }

  const void* element_at(const void* tensor, int64_t index) const {
    return static_cast<const char*>(tensor) + index * static_cast<int64_t>(element_size(problem_.element));
  }

  void pack_keys(const Sequence& sequence, int64_t head, int64_t first, int64_t last, float* panels) const {
    const int64_t stride = static_cast<int64_t>(problem_.kv_num_heads) * problem_.head_size;
    for (int64_t key = first; key < last; key += kKeyTile) {
      const int count = static_cast<int>(std::min<int64_t>(kKeyTile, last - key));
      const int64_t source = (sequence.first_key + key) * stride + head * problem_.head_size;
      isa_.pack_keys(problem_.element, element_at(problem_.key, source), stride, count, problem_.head_size,
                     panels + key * problem_.head_size);
    }
  }

  void pack_values(const Sequence& sequence, int64_t head, int64_t first, int64_t last, float* panels) const {
    const int64_t stride = static_cast<int64_t>(problem_.kv_num_heads) * problem_.value_head_size;
    const int64_t source = (sequence.first_key + first) * stride + head * problem_.value_head_size;
    isa_.pack_values(problem_.element, element_at(problem_.value, source), stride, static_cast<int>(last - first),
                     problem_.value_head_size, panels + first * padded_head_size(problem_.value_head_size));
  }

  void pack_shared(const PackItem& item) const {
    const LargeUnit& unit = schedule_.large_units[static_cast<size_t>(item.unit)];
    const Sequence sequence = sequence_of(problem_, unit.sequence);
    float* keys = shared_ + unit.panel_offset;
    pack_keys(sequence, unit.head, item.first_key, item.last_key, keys);
    pack_values(sequence, unit.head, item.first_key, item.last_key,
                keys + key_panel_floats(sequence.keys, problem_.head_size));
  }

  KeyValuePanels shared_panels(const AttendItem& item, const Sequence& sequence) const {
    const float* keys = shared_ + schedule_.large_units[static_cast<size_t>(item.unit)].panel_offset;
    return {keys, keys + key_panel_floats(sequence.keys, problem_.head_size),
            padded_head_size(problem_.value_head_size), sequence.keys};
  }

  KeyValuePanels own_panels(const AttendItem& item, int64_t head, const Sequence& sequence, float* buffer) const {
    pack_keys(sequence, head, 0, sequence.keys, buffer);
    KeyValuePanels panels = {buffer, nullptr, padded_head_size(problem_.value_head_size), sequence.keys};
    const int64_t stride = static_cast<int64_t>(problem_.kv_num_heads) * problem_.value_head_size;
    if (problem_.element == Element::kFloat && problem_.value_head_size % isa_.vector_floats == 0 &&
        item.last_tile - item.first_tile <= kTilesToReadInPlace) {
      panels.values = static_cast<const float*>(problem_.value) + sequence.first_key * stride +
                      head * problem_.value_head_size;
      panels.value_stride = stride;
      return panels;
    }
    float* values = buffer + key_panel_floats(sequence.keys, problem_.head_size);
    pack_values(sequence, head, 0, sequence.keys, values);
    panels.values = values;
    return panels;
  }

  // Rows of one head lie far apart, where hardware prefetchers do not look: asks for the next head of a small unit.
  void prefetch_head(const Sequence& sequence, int64_t head) const {
    const int64_t bytes = static_cast<int64_t>(element_size(problem_.element));
    prefetch_rows(problem_.key, sequence.first_key, sequence.keys, problem_.kv_num_heads * problem_.head_size * bytes,
                  head * problem_.head_size * bytes, problem_.head_size * bytes);
    prefetch_rows(problem_.value, sequence.first_key, sequence.keys,
                  problem_.kv_num_heads * problem_.value_head_size * bytes, head * problem_.value_head_size * bytes,
                  problem_.value_head_size * bytes);
    prefetch_rows(problem_.query, sequence.first_query, sequence.queries,
                  problem_.num_heads * problem_.head_size * bytes, head * group_ * problem_.head_size * bytes,
                  group_ * problem_.head_size * bytes);
  }

  static void prefetch_rows(const void* tensor, int64_t first, int64_t count, int64_t stride, int64_t offset,
                            int64_t bytes) {
    const char* row = static_cast<const char*>(tensor) + first * stride + offset;
    for (int64_t i = 0; i < count; ++i, row += stride) {
      for (int64_t byte = 0; byte < bytes; byte += static_cast<int64_t>(kCacheLine)) __builtin_prefetch(row + byte);
    }
  }

  PositionMask mask_of(int64_t index, const Sequence& sequence) const {
    if (problem_.positions_k == nullptr) return {sequence.keys, nullptr, nullptr, problem_.causal};
    return {sequence.keys, problem_.positions_k + sequence.first_key,
            summaries_.data() + first_summary_[static_cast<size_t>(index)], problem_.causal};
  }

  void attend(const AttendItem& item, float* buffer) const {
    const Sequence sequence = sequence_of(problem_, item.sequence);
    const TileScratch scratch = {buffer, buffer + kQueryTile * kQueryStride};
    float* panel_buffer = scratch.output + kQueryTile * padded_head_size(problem_.value_head_size);
    const PositionMask mask = mask_of(item.sequence, sequence);
    for (int64_t head = item.first_head; head < item.last_head; ++head) {
      const KeyValuePanels panels =
          item.unit >= 0 ? shared_panels(item, sequence) : own_panels(item, head, sequence, panel_buffer);
      if (item.unit < 0 && head + 1 < item.last_head && sequence.keys <= kKeysToPrefetch) {
        prefetch_head(sequence, head + 1);
      }
      for (int64_t tile = item.first_tile; tile < item.last_tile; ++tile) {
        const QueryRows rows = query_rows(sequence, head, tile);
        isa_.attend(shape_, rows, problem_.query, panels, mask, scratch, problem_.output, problem_.lse);
      }
    }
  }

  QueryRows query_rows(const Sequence& sequence, int64_t head, int64_t tile) const {
    QueryRows rows;
    const int64_t first = tile * kQueryTile;
    rows.count = static_cast<int>(std::min<int64_t>(kQueryTile, sequence.queries * group_ - first));
    // Without positions the last query is aligned with the last key.
    const int64_t shift = problem_.positions_k == nullptr ? sequence.keys - sequence.queries : 0;
    for (int row = 0; row < rows.count; ++row) {
      const int64_t query = (first + row) / group_;
      const int64_t token = sequence.first_query + query;
      rows.index[row] = token * problem_.num_heads + head * group_ + (first + row) % group_;
      rows.position[row] =
          problem_.positions_q != nullptr ? problem_.positions_q[token] : static_cast<int32_t>(query + shift);
    }
    return rows;
  }

  const AttentionProblem& problem_;
  Runtime& runtime_;
  const IsaKernels& isa_;
  const Schedule schedule_;
  const int64_t group_;
  const AttentionShape shape_;
  std::vector<KeyTileSummary> summaries_;
  std::vector<size_t> first_summary_;
  float* shared_ = nullptr;
  float* scratch_ = nullptr;  // [workers, worker_floats()]
};

const char* check_offsets(const int32_t* offsets, int64_t sequences, int64_t total) {
  if (offsets[0] != 0) return "cu_seqlens must start with 0";
  for (int64_t i = 0; i < sequences; ++i) {
    if (offsets[i + 1] < offsets[i]) return "cu_seqlens must not decrease";
  }
  return offsets[sequences] > total ? "cu_seqlens ends past the last token" : nullptr;
}

bool head_size_served(int head_size) { return head_size > 0 && head_size <= kMaxHeadSize; }

}  // namespace

const char* check_attention(const AttentionProblem& problem) {
  if (problem.num_heads <= 0 || problem.kv_num_heads <= 0 || problem.num_heads % problem.kv_num_heads != 0) {
    return "num_heads must be a positive multiple of kv_num_heads";
  }
  if (!head_size_served(problem.head_size) || !head_size_served(problem.value_head_size)) {
    return "head sizes must be between 1 and 256";
  }
  const char* refusal = check_offsets(problem.cu_seqlens_q, problem.sequences, problem.total_q);
  return refusal != nullptr ? refusal : check_offsets(problem.cu_seqlens_k, problem.sequences, problem.total_k);
}

void ragged_attention(const AttentionProblem& problem, Runtime& runtime) { Call(problem, runtime).run(); }

}  // namespace raggedrt
