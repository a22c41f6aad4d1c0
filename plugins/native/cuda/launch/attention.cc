// AttentionPlan and RaggedAttention.
#include "cuda/launch/attention_problem.h"
#include "cuda/launch/launcher.h"

#include <algorithm>

namespace raggedrt::cuda {
namespace {

constexpr size_t kPlanAlignment = 16;

// A plan's parts in memory.
struct Plan {
  const int* work_list = nullptr;
  const KeySummary* summaries = nullptr;
  const int* bases = nullptr;
};

Plan plan_at(const AttentionProblem& problem, const int32_t* memory) {
  const PlanLayout layout = plan_layout(problem);
  const bool positions = problem.positions_k != nullptr;
  return {memory, positions ? reinterpret_cast<const KeySummary*>(memory + layout.summaries) : nullptr,
          positions ? memory + layout.bases : nullptr};
}

// Writes a work list for `splits` splits of the keys.
Status launch_work_list(const Launcher& launcher, const AttentionProblem& problem, int64_t max_seqlen_k, int splits,
                        int* work_list) {
  const int64_t items = work_item_bound(problem) * splits;
  WorkListParams params{};
  params.cu_seqlens_q = problem.cu_seqlens_q;
  params.cu_seqlens_k = problem.cu_seqlens_k;
  params.positions_q = problem.positions_q;
  params.sequences = static_cast<int>(problem.sequences);
  params.total_q = static_cast<int>(problem.total_q);
  params.total_k = static_cast<int>(problem.total_k);
  params.causal = problem.causal ? 1 : 0;
  params.mask = mask_params(problem);
  params.tiles = tile_params(problem);
  params.splits = splits;
  params.most_tiles = static_cast<int>(std::max<int64_t>(1, divide_up(max_seqlen_k, kKeyTile)));
  const bool all_positions = problem.positions_q != nullptr && problem.tiles.ptr != nullptr;
  const int64_t longest = std::min<int64_t>(items, params.most_tiles);  // items of one sequence, as far as is known
  params.lanes = work_lanes(longest, problem.sequences, all_positions);
  params.capacity = static_cast<int>(items);
  params.work_list = work_list;
  return launcher.launch(VariantKey{"work_list"}, {work_blocks(items), 1}, params);
}

Status launch_key_description(const Launcher& launcher, const AttentionProblem& problem, const Plan& plan) {
  if (plan.bases == nullptr || problem.sequences == 0) return {};
  const DescribeKeysParams params = {problem.positions_k, problem.cu_seqlens_k, static_cast<int>(problem.sequences),
                                     const_cast<KeySummary*>(plan.summaries), const_cast<int*>(plan.bases),
                                     static_cast<int>(problem.total_k)};
  return launcher.launch(VariantKey{"describe_keys"}, launcher.grid_for(problem.sequences, 1), params);
}

Status check_work_items(const char* op, const AttentionProblem& problem, int splits) {
  const int64_t items = work_item_bound(problem) * splits;
  if (items * std::max(4, problem.num_heads) < (int64_t{1} << 31) - 8) return {};
  return refuse(op, "there is too much work for one launch: " + std::to_string(items) + " items");
}

}  // namespace

int64_t work_list_size(const AttentionProblem& problem) { return plan_layout(problem).size; }

MaskTerms mask_params(const AttentionProblem& problem) {
  const raggedrt::MaskTerms& mask = problem.mask;
  MaskTerms params{};
  params.window_left = static_cast<int>(mask.window_left);
  params.window_right = static_cast<int>(mask.window_right);
  params.dilation = static_cast<int>(mask.dilation);
  params.global_count = static_cast<int>(mask.global_count);
  std::copy_n(mask.global_tokens, mask.global_count, params.global_tokens);
  return params;
}

TileList tile_params(const AttentionProblem& problem) {
  const raggedrt::TileList& tiles = problem.tiles;
  if (tiles.ptr == nullptr) return {};
  return {tiles.ptr,
          tiles.col,
          tiles.tag,
          tiles.bits,
          tiles.head_group,
          static_cast<int>(tiles.sequences),
          static_cast<int>(tiles.groups),
          static_cast<int>(tiles.rows),
          static_cast<int>(tiles.entries),
          static_cast<int>(tiles.bitmaps),
          tiles.block_size};
}

AttentionParams attention_params(const AttentionProblem& problem) {
  const raggedrt::ScoreTerms& scores = problem.scores;
  AttentionParams params{};
  params.query = problem.query;
  params.key = problem.key;
  params.value = problem.value;
  params.cu_seqlens_q = problem.cu_seqlens_q;
  params.cu_seqlens_k = problem.cu_seqlens_k;
  params.positions_q = problem.positions_q;
  params.positions_k = problem.positions_k;
  params.output = problem.output;
  params.lse = problem.lse;
  params.sequences = static_cast<int>(problem.sequences);
  params.total_q = static_cast<int>(problem.total_q);
  params.total_k = static_cast<int>(problem.total_k);
  params.num_heads = problem.num_heads;
  params.kv_num_heads = problem.kv_num_heads;
  params.head_size = problem.head_size;
  params.value_head_size = problem.value_head_size;
  params.scale = problem.scale;
  params.causal = problem.causal ? 1 : 0;
  params.mask = mask_params(problem);
  params.tiles = tile_params(problem);
  params.scores = {scores.softcap,
                   scores.bias,
                   static_cast<int>(scores.bias_sequences),
                   static_cast<int>(scores.bias_heads),
                   static_cast<int>(scores.bias_size),
                   scores.distance_bias,
                   static_cast<int>(scores.distance_heads),
                   static_cast<int>(scores.distance_count),
                   scores.rel_query,
                   scores.rel_key,
                   scores.rel_bucket,
                   static_cast<int>(scores.rel_size),
                   static_cast<int>(scores.bucket_count),
                   scores.head_sink,
                   scores.alibi_slopes};
  params.splits = 1;
  return params;
}

// ---- AttentionPlan -------------------------------------------------------------------------------------------------

Status check(const AttentionPlanCall& call) {
  RAGGEDRT_RETURN_IF_FAILED(check_lengths_and_mask(kAttentionPlan, call.problem, call.max_seqlen_q, call.max_seqlen_k));
  return check_work_items(kAttentionPlan, call.problem, 1);
}

Status workspace_bytes(const Device&, const AttentionPlanCall& call, size_t& bytes) {
  bytes = 0;
  return check(call);
}

Status launch(const Device& device, const AttentionPlanCall& call, void*, Stream stream) {
  RAGGEDRT_RETURN_IF_FAILED(check(call));
  const AttentionProblem& problem = call.problem;
  if (call.work_list == nullptr || problem.cu_seqlens_q == nullptr || problem.cu_seqlens_k == nullptr) {
    return refuse(kAttentionPlan, "cu_seqlens or the work list has no memory");
  }
  if (!is_aligned(call.work_list, kPlanAlignment)) {
    return refuse(kAttentionPlan, "the work list must be aligned to 16 bytes");
  }
  const Launcher launcher(device, kAttentionPlan, stream);
  RAGGEDRT_RETURN_IF_FAILED(launch_key_description(launcher, problem, plan_at(problem, call.work_list)));
  return launch_work_list(launcher, problem, call.max_seqlen_k, 1, call.work_list);
}

// ---- RaggedAttention -----------------------------------------------------------------------------------------------

namespace {

// Device memory of one attention.
struct AttentionMemory {
  int32_t* plan = nullptr;       // where the call brings none
  int* split_list = nullptr;     // a work list of a call with splits
  int* counter = nullptr;
  float* split_output = nullptr;
  float* split_lse = nullptr;
  size_t bytes = 0;
};

AttentionMemory memory_of(const AttentionCall& call, const AttentionChoice& choice, void* workspace) {
  const AttentionProblem& problem = call.problem;
  AttentionMemory memory;
  WorkspaceParts parts(workspace);
  if (choice.by_rows || problem.total_q == 0) return memory;
  if (call.work_list == nullptr) memory.plan = parts.take<int32_t>(plan_layout(problem).size);
  if (choice.counts_work) memory.counter = parts.take<int>(1);
  if (choice.splits > 1) {
    memory.split_list = parts.take<int>(kWorkHeader + 4 * choice.items * choice.splits);
    memory.split_lse = parts.take<float>(choice.splits * problem.total_q * problem.num_heads);
    memory.split_output =
        parts.take<float>(choice.splits * problem.total_q * problem.num_heads * problem.value_head_size);
  }
  memory.bytes = parts.used();
  return memory;
}

Status launch_combination(const Launcher& launcher, const AttentionProblem& problem, const AttentionParams& attention) {
  CombineParams params{};
  params.split_output = attention.split_output;
  params.split_lse = attention.split_lse;
  params.head_sink = attention.scores.head_sink;
  params.cu_seqlens_q = problem.cu_seqlens_q;
  params.output = problem.output;
  params.lse = problem.lse;
  params.sequences = attention.sequences;
  params.splits = attention.splits;
  params.total_q = attention.total_q;
  params.num_heads = problem.num_heads;
  params.value_head_size = problem.value_head_size;
  VariantKey key{"combine_splits"};
  key.element = static_cast<int32_t>(problem.element);
  const int64_t elements = problem.total_q * problem.num_heads * problem.value_head_size;
  return launcher.launch(key, launcher.grid_for(elements, 4 * kDataThreads), params);
}

Status launch_by_tiles(const Launcher& launcher, const AttentionCall& call, const AttentionChoice& choice,
                       const AttentionMemory& memory) {
  const AttentionProblem& problem = call.problem;
  const Plan plan = plan_at(problem, call.work_list != nullptr ? call.work_list : memory.plan);
  AttentionParams params = attention_params(problem);
  params.work_list = plan.work_list;
  if (call.work_list == nullptr) RAGGEDRT_RETURN_IF_FAILED(launch_key_description(launcher, problem, plan));
  if (choice.splits > 1) params.work_list = memory.split_list;
  if (call.work_list == nullptr || choice.splits > 1) {
    RAGGEDRT_RETURN_IF_FAILED(launch_work_list(launcher, problem, call.max_seqlen_k, choice.splits,
                                               const_cast<int*>(params.work_list)));
  }
  params.key_summaries = plan.summaries;
  params.key_base = plan.bases;
  params.splits = choice.splits;
  params.split_output = memory.split_output;
  params.split_lse = memory.split_lse;
  if (choice.counts_work) {
    params.work_counter = memory.counter;
    RAGGEDRT_RETURN_IF_FAILED(launcher.clear(memory.counter, 1));
  }
  RAGGEDRT_RETURN_IF_FAILED(launcher.launch_variant(*choice.variant, choice.grid, params));
  return choice.splits > 1 ? launch_combination(launcher, problem, params) : Status();
}

}  // namespace

Status check(const AttentionCall& call) {
  const AttentionProblem& problem = call.problem;
  RAGGEDRT_RETURN_IF_FAILED(check_lengths_and_mask(kAttention, problem, call.max_seqlen_q, call.max_seqlen_k));
  RAGGEDRT_RETURN_IF_FAILED(check_heads_and_scores(problem));
  if (call.work_list != nullptr && call.work_list_size != plan_layout(problem).size) {
    return refuse(kAttention, "the work list has " + std::to_string(call.work_list_size) + " integers, expected " +
                                  std::to_string(plan_layout(problem).size) +
                                  "; it must be the plan of these lengths, positions and tiles");
  }
  return check_work_items(kAttention, problem, 1);
}

Status workspace_bytes(const Device& device, const AttentionCall& call, size_t& bytes) {
  RAGGEDRT_RETURN_IF_FAILED(check(call));
  AttentionChoice choice;
  const Launcher launcher(device, kAttention, nullptr);
  RAGGEDRT_RETURN_IF_FAILED(choose_attention(call, launcher.table(), launcher.limits(), choice));
  bytes = memory_of(call, choice, nullptr).bytes;
  return {};
}

// Splits times items times heads is at most the number of blocks that the device holds at once, and an item has at most
// kWorkRows queries.
Status workspace_bound(const Device& device, const AttentionCall& largest, size_t& bytes) {
  RAGGEDRT_RETURN_IF_FAILED(check(largest));
  AttentionChoice choice;
  const Launcher launcher(device, kAttention, nullptr);
  RAGGEDRT_RETURN_IF_FAILED(choose_attention(largest, launcher.table(), launcher.limits(), choice));
  bytes = 0;
  if (choice.by_rows) return {};
  const AttentionProblem& problem = largest.problem;
  const int64_t places = launcher.limits().multiprocessors * blocks_per_multiprocessor(*choice.variant, launcher.limits());
  WorkspaceParts parts(nullptr);
  if (largest.work_list == nullptr) parts.take<int32_t>(plan_layout(problem).size);
  parts.take<int>(1);
  parts.take<int>(kWorkHeader + 4 * places);
  parts.take<float>(kWorkRows * places);
  parts.take<float>(kWorkRows * places * problem.value_head_size);
  bytes = parts.used();
  return {};
}

Status launch(const Device& device, const AttentionCall& call, void* workspace, Stream stream) {
  RAGGEDRT_RETURN_IF_FAILED(check(call));
  const AttentionProblem& problem = call.problem;
  if (problem.total_q == 0) return {};
  RAGGEDRT_RETURN_IF_FAILED(check_pointers(problem));
  if (!is_aligned(call.work_list, kPlanAlignment)) {
    return refuse(kAttention, "the work list must be aligned to 16 bytes");
  }
  const Launcher launcher(device, kAttention, stream);
  AttentionChoice choice;
  RAGGEDRT_RETURN_IF_FAILED(choose_attention(call, launcher.table(), launcher.limits(), choice));
  const AttentionMemory memory = memory_of(call, choice, workspace);
  RAGGEDRT_RETURN_IF_FAILED(check_workspace(kAttention, workspace, memory.bytes));
  RAGGEDRT_RETURN_IF_FAILED(check_work_items(kAttention, problem, choice.splits));
  if (!choice.by_rows) return launch_by_tiles(launcher, call, choice, memory);
  return launcher.launch_variant(*choice.variant, choice.grid, attention_params(problem));
}

}  // namespace raggedrt::cuda
