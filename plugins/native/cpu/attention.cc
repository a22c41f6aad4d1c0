#include "cpu/attention.h"

#include <string.h>

#include <algorithm>
#include <limits>

#include "cpu/call.h"
#include "cpu/schedule.h"
#include "cpu/score_tables.h"
#include "cpu/tile_list.h"

namespace raggedrt {
namespace {

constexpr int64_t kTilesToReadInPlace = 2;  // with so few query tiles packing the values costs more than it saves
constexpr int64_t kKeysToPrefetch = 256;    // queries, keys and values of so many fit the second-level cache

// Keys and values of a sequence and head, packed one after the other.
class ContiguousPanels final : public KeyValuePanels {
 public:
  ContiguousPanels(const float* keys, int head_size, const float* values, int64_t value_stride)
      : keys_(keys), head_size_(head_size), values_(values), value_stride_(value_stride) {}

  KeyValueTile tile(int64_t key_tile) override {
    return {keys_ + key_tile * kKeyTile * head_size_, values_ + key_tile * kKeyTile * value_stride_, value_stride_};
  }

 private:
  const float* keys_;
  int head_size_;
  const float* values_;
  int64_t value_stride_;
};

// Everything that the workers of one call share.
class Call {
 public:
  Call(const AttentionProblem& problem, Runtime& runtime)
      : problem_(problem),
        runtime_(runtime),
        isa_(isa_kernels()),
        schedule_(make_schedule(problem, runtime.max_workers())),
        summaries_(problem),
        tables_(problem),
        group_(problem.num_heads / problem.kv_num_heads),
        shape_(shape_of(problem)) {}

  void run() {
    shared_ = allocate_floats(runtime_, schedule_.shared_floats);
    drain(runtime_, schedule_.pack_items.size(),
          [this](size_t item, size_t) { pack_shared(schedule_.pack_items[item]); });
    const size_t workers = std::min(schedule_.attend_items.size(), runtime_.max_workers());
    float* scratch = allocate_floats(runtime_, worker_floats() * static_cast<int64_t>(workers));
    std::vector<int32_t> lists(workers * key_tiles());
    drain(runtime_, schedule_.attend_items.size(), [&](size_t item, size_t worker) {
      attend(schedule_.attend_items[item], scratch + worker_floats() * static_cast<int64_t>(worker),
             lists.data() + worker * key_tiles());
    });
  }

 private:
  int64_t worker_floats() const {
    return kMaxQueryRows * (kQueryStride + padded_head_size(problem_.value_head_size)) +
           key_panel_floats(schedule_.longest_small_keys, problem_.head_size) +
           value_panel_floats(schedule_.longest_small_keys, problem_.value_head_size);
  }

  // Of the longest sequence.
  size_t key_tiles() const { return static_cast<size_t>((schedule_.longest_keys + kKeyTile - 1) / kKeyTile); }

  void pack_shared(const PackItem& item) const {
    const LargeUnit& unit = schedule_.large_units[static_cast<size_t>(item.unit)];
    const Sequence sequence = sequence_of(problem_, unit.sequence);
    float* keys = shared_ + unit.panel_offset;
    pack_keys(problem_, isa_, sequence, unit.head, item.first_key, item.last_key, keys);
    pack_values(problem_, isa_, sequence, unit.head, item.first_key, item.last_key,
                keys + key_panel_floats(sequence.keys, problem_.head_size));
  }

  ContiguousPanels shared_panels(const AttendItem& item, const Sequence& sequence) const {
    const float* keys = shared_ + schedule_.large_units[static_cast<size_t>(item.unit)].panel_offset;
    return {keys, problem_.head_size, keys + key_panel_floats(sequence.keys, problem_.head_size),
            padded_head_size(problem_.value_head_size)};
  }

  ContiguousPanels own_panels(const AttendItem& item, int64_t head, const Sequence& sequence, float* buffer) const {
    pack_keys(problem_, isa_, sequence, head, 0, sequence.keys, buffer);
    const int64_t stride = static_cast<int64_t>(problem_.kv_num_heads) * problem_.value_head_size;
    if (problem_.element == Element::kFloat && problem_.value_head_size % isa_.vector_floats == 0 &&
        item.last_tile - item.first_tile <= kTilesToReadInPlace) {
      const float* values = static_cast<const float*>(problem_.value) + sequence.first_key * stride;
      return {buffer, problem_.head_size, values + head * problem_.value_head_size, stride};
    }
    float* values = buffer + key_panel_floats(sequence.keys, problem_.head_size);
    pack_values(problem_, isa_, sequence, head, 0, sequence.keys, values);
    return {buffer, problem_.head_size, values, padded_head_size(problem_.value_head_size)};
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
    return {sequence.keys, problem_.positions_k + sequence.first_key, summaries_.of(index), problem_.causal};
  }

  void attend(const AttendItem& item, float* buffer, int32_t* list) const {
    const Sequence sequence = sequence_of(problem_, item.sequence);
    const TileScratch scratch = {buffer, buffer + kMaxQueryRows * kQueryStride, list};
    float* panel_buffer = scratch.output + kMaxQueryRows * padded_head_size(problem_.value_head_size);
    const PositionMask mask = mask_of(item.sequence, sequence);
    const ScoreModifier modifier = tables_.any() ? tables_.of(item.sequence) : ScoreModifier{};
    for (int64_t head = item.first_head; head < item.last_head; ++head) {
      ContiguousPanels panels =
          item.unit >= 0 ? shared_panels(item, sequence) : own_panels(item, head, sequence, panel_buffer);
      if (item.unit < 0 && head + 1 < item.last_head && sequence.keys <= kKeysToPrefetch) {
        prefetch_head(sequence, head + 1);
      }
      for (int64_t tile = item.first_tile; tile < item.last_tile; ++tile) {
        const QueryRows rows = query_rows(sequence, head, tile);
        isa_.attend(shape_, rows, problem_.query, panels, mask, tables_.any() ? &modifier : nullptr, scratch,
                    problem_.output, problem_.lse);
      }
    }
  }

  QueryRows query_rows(const Sequence& sequence, int64_t head, int64_t tile) const {
    QueryRows rows;
    const int64_t first = tile * kQueryTile;
    rows.count = static_cast<int>(std::min<int64_t>(kQueryTile, sequence.queries * group_ - first));
    const RowSpace space = {sequence, head * group_, group_, query_shift(problem_, sequence.queries, sequence.keys)};
    for (int row = 0; row < rows.count; ++row) set_row(problem_, space, first + row, row, rows);
    return rows;
  }

  const AttentionProblem& problem_;
  Runtime& runtime_;
  const IsaKernels& isa_;
  const Schedule schedule_;
  const KeySummaries summaries_;
  const ScoreTables tables_;
  const int64_t group_;
  const AttentionShape shape_;
  float* shared_ = nullptr;
};

// Rows past the last sequence exist only to fill a capacity; they are defined, so that nothing downstream is NaN.
void clear_unused_rows(const AttentionProblem& problem) {
  const int64_t used = problem.cu_seqlens_q[problem.sequences];
  const size_t row_bytes =
      element_size(problem.element) * static_cast<size_t>(problem.num_heads * problem.value_head_size);
  char* output = static_cast<char*>(problem.output) + row_bytes * static_cast<size_t>(used);
  if (used < problem.total_q) memset(output, 0, row_bytes * static_cast<size_t>(problem.total_q - used));
  for (int64_t head = 0; problem.lse != nullptr && head < problem.num_heads; ++head) {
    std::fill(problem.lse + head * problem.total_q + used, problem.lse + (head + 1) * problem.total_q,
              -std::numeric_limits<float>::infinity());
  }
}

bool is_sparse(const AttentionProblem& problem) {
  const MaskTerms& mask = problem.mask;
  return mask.window_left >= 0 || mask.window_right >= 0 || mask.dilation > 1 || problem.tiles.ptr != nullptr;
}

const char* check_offsets(const int32_t* offsets, int64_t sequences, int64_t total) {
  if (offsets[0] != 0) return "cu_seqlens must start with 0";
  for (int64_t i = 0; i < sequences; ++i) {
    if (offsets[i + 1] < offsets[i]) return "cu_seqlens must not decrease";
  }
  return offsets[sequences] > total ? "cu_seqlens ends past the last token" : nullptr;
}

bool compares_positions(const AttentionProblem& problem) {
  const ScoreTerms& scores = problem.scores;
  return problem.causal || is_sparse(problem) || problem.mask.global_count > 0 || scores.bias != nullptr ||
         scores.distance_bias != nullptr || scores.rel_bucket != nullptr || scores.alibi_slopes != nullptr;
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
  if ((problem.positions_q == nullptr) != (problem.positions_k == nullptr) && compares_positions(problem)) {
    return "causality, windows, dilation, tile lists and biases need positions_q and positions_k, or neither";
  }
  const char* refusal = check_offsets(problem.cu_seqlens_q, problem.sequences, problem.total_q);
  if (refusal == nullptr) refusal = check_offsets(problem.cu_seqlens_k, problem.sequences, problem.total_k);
  if (refusal == nullptr) refusal = check_tile_list(problem);
  return refusal != nullptr ? refusal : check_scores(problem);
}

int64_t query_shift(const AttentionProblem& problem, int64_t queries, int64_t keys) {
  const bool indices = problem.positions_q == nullptr && problem.positions_k == nullptr;
  return indices && problem.causal ? keys - queries : 0;
}

void ragged_attention(const AttentionProblem& problem, Runtime& runtime) {
  clear_unused_rows(problem);
  if (is_sparse(problem)) {
    sparse_attention(problem, runtime);
  } else {
    Call(problem, runtime).run();
  }
}

}  // namespace raggedrt
