#include "cpu/schedule.h"

#include <algorithm>

#include "cpu/tile.h"

namespace raggedrt {
namespace {

constexpr double kItemsPerWorker = 8.0;       // a unit above 1/8 of a worker's share is cut
constexpr double kSmallestItemCost = 4e6;     // operations, some 20 microseconds: what is worth a queue access
constexpr int64_t kKeysPerPackItem = 8 * kKeyTile;

struct SequenceCost {
  int32_t sequence;
  int64_t tiles;  // query tiles of one key/value head
  int64_t keys;
  double cost;  // of one key/value head
};

SequenceCost sequence_cost(const AttentionProblem& problem, int32_t sequence) {
  const int64_t queries = problem.cu_seqlens_q[sequence + 1] - problem.cu_seqlens_q[sequence];
  const int64_t keys = problem.cu_seqlens_k[sequence + 1] - problem.cu_seqlens_k[sequence];
  const int64_t rows = queries * (problem.num_heads / problem.kv_num_heads);
  const double visible = problem.causal ? 0.5 : 1.0;
  const double width = 2.0 * (problem.head_size + problem.value_head_size);
  // 16 more rows stand for packing, 1 more key for reading and writing a row.
  const double cost = width * (visible * static_cast<double>(rows) + 16.0) * static_cast<double>(keys + 1);
  return {sequence, (rows + kQueryTile - 1) / kQueryTile, keys, cost};
}

void add_large(const AttentionProblem& problem, const SequenceCost& sequence, Schedule& schedule) {
  for (int32_t head = 0; head < problem.kv_num_heads; ++head) {
    const int32_t unit = static_cast<int32_t>(schedule.large_units.size());
    schedule.large_units.push_back({sequence.sequence, head, schedule.shared_floats});
    schedule.shared_floats += key_panel_floats(sequence.keys, problem.head_size) +
                              value_panel_floats(sequence.keys, problem.value_head_size);
    for (int64_t key = 0; key < sequence.keys; key += kKeysPerPackItem) {
      schedule.pack_items.push_back({unit, key, std::min(sequence.keys, key + kKeysPerPackItem)});
    }
    // Last tiles first: they see the most keys when causal. The tiles of a unit stay together, near its panels.
    for (int64_t tile = sequence.tiles - 1; tile >= 0; --tile) {
      schedule.attend_items.push_back({sequence.sequence, head, head + 1, unit, tile, tile + 1, 0.0});
    }
  }
}

void add_small(const AttentionProblem& problem, const SequenceCost& sequence, Schedule& schedule) {
  schedule.longest_small_keys = std::max(schedule.longest_small_keys, sequence.keys);
  const int wanted = static_cast<int>(kSmallestItemCost / sequence.cost) + 1;
  const int items = (problem.kv_num_heads + wanted - 1) / wanted;
  for (int item = 0; item < items; ++item) {
    const int first = problem.kv_num_heads * item / items;
    const int last = problem.kv_num_heads * (item + 1) / items;
    schedule.attend_items.push_back(
        {sequence.sequence, first, last, -1, 0, sequence.tiles, sequence.cost * (last - first)});
  }
}

}  // namespace

int64_t key_panel_floats(int64_t keys, int head_size) {
  return (keys + kKeyTile - 1) / kKeyTile * kKeyTile * head_size;
}

int64_t value_panel_floats(int64_t keys, int value_head_size) {
  // Whole tiles here too, so that what follows stays aligned to cache lines.
  return key_panel_floats(keys, padded_head_size(value_head_size));
}

Schedule make_schedule(const AttentionProblem& problem, size_t workers) {
  Schedule schedule;
  std::vector<SequenceCost> sequences;
  sequences.reserve(static_cast<size_t>(problem.sequences));
  for (int32_t sequence = 0; sequence < problem.sequences; ++sequence) {
    const SequenceCost cost = sequence_cost(problem, sequence);
    if (cost.tiles == 0) continue;
    schedule.longest_keys = std::max(schedule.longest_keys, cost.keys);
    sequences.push_back(cost);
    schedule.cost += cost.cost * problem.kv_num_heads;
  }
  std::sort(sequences.begin(), sequences.end(),
            [](const SequenceCost& a, const SequenceCost& b) { return a.cost > b.cost; });
  const double share = schedule.cost / (kItemsPerWorker * static_cast<double>(workers));
  size_t small_from = 0;
  for (const SequenceCost& sequence : sequences) {
    const bool large = workers > 1 && sequence.tiles > 1 && sequence.cost > std::max(share, kSmallestItemCost);
    if (large) {
      add_large(problem, sequence, schedule);
      small_from = schedule.attend_items.size();
    } else {
      add_small(problem, sequence, schedule);
    }
  }
  std::stable_sort(schedule.attend_items.begin() + static_cast<std::ptrdiff_t>(small_from), schedule.attend_items.end(),
                   [](const AttendItem& a, const AttendItem& b) { return a.cost > b.cost; });
  return schedule;
}

}  // namespace raggedrt
