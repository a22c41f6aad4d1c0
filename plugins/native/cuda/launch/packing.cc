// PackingPlan, PackTokens, UnpackTokens and MergeAttentionStates.
#include <limits>

#include "cuda/kernels/data_params.h"
#include "cuda/launch/launcher.h"

namespace raggedrt::cuda {
namespace {

constexpr const char* kPackingPlan = "PackingPlan";
constexpr const char* kPackTokens = "PackTokens";
constexpr const char* kUnpackTokens = "UnpackTokens";
constexpr const char* kMerge = "MergeAttentionStates";
constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
constexpr int64_t kWarpsPerBlock = kDataThreads / 32;

bool is_mask(Element element) {
  return element == Element::kInt32 || element == Element::kInt64 || element == Element::kBool ||
         element == Element::kFloat;
}

MaskTensor mask_tensor(const void* data, Element element) {
  return {data, static_cast<int>(element_size(element)), element == Element::kFloat ? 1 : 0};
}

// Keep slots that are in the row, each once.
void resolve_keep_slots(const PackingInput& input, PackingPlanParams& params) {
  params.keep_count = 0;
  for (int64_t i = 0; i < input.keep_count; ++i) {
    const int64_t slot = input.keep_slots[i] < 0 ? input.keep_slots[i] + input.slots : input.keep_slots[i];
    bool known = slot < 0 || slot >= input.slots;
    for (int j = 0; j < params.keep_count; ++j) known = known || params.keep_slots[j] == slot;
    if (!known) params.keep_slots[params.keep_count++] = static_cast<int>(slot);
  }
}

}  // namespace

Status check(const PackingPlanCall& call) {
  const PackingInput& input = call.input;
  if (!is_mask(input.mask_element) || (input.keep_mask != nullptr && !is_mask(input.keep_element))) {
    return refuse(kPackingPlan, "masks must be int32, int64, bool or float");
  }
  if (input.rows < 0 || input.slots < 0 || call.tokens < 0 || input.capacity < 0) {
    return refuse(kPackingPlan, "sizes must not be negative");
  }
  if (!packing_fits(input.rows, input.slots) || call.tokens > kMost || input.rows >= kMost || input.capacity > kMost) {
    return refuse(kPackingPlan, "the batch has more than 2^31 slots");
  }
  if (input.keep_count > kMaxKeepSlots) {
    return refuse(kPackingPlan, "keeps " + std::to_string(input.keep_count) + " slots, expected at most " +
                                    std::to_string(kMaxKeepSlots));
  }
  return {};
}

Status workspace_bytes(const Device&, const PackingPlanCall& call, size_t& bytes) {
  bytes = 0;
  return check(call);
}

Status launch(const Device& device, const PackingPlanCall& call, void*, Stream stream) {
  RAGGEDRT_RETURN_IF_FAILED(check(call));
  const PackingInput& input = call.input;
  const PackingOutput& output = call.output;
  const bool slots = input.rows * input.slots > 0;
  if ((slots && input.mask == nullptr) || output.cu_seqlens == nullptr ||
      (call.tokens > 0 &&
       (output.token_index == nullptr || output.position == nullptr || output.key_position == nullptr))) {
    return refuse(kPackingPlan, "the mask or an output has no memory");
  }
  if (!is_aligned(input.mask, element_size(input.mask_element)) ||
      (input.keep_mask != nullptr && !is_aligned(input.keep_mask, element_size(input.keep_element))) || !is_aligned(output.cu_seqlens, 4) ||
      !is_aligned(output.token_index, 4) || !is_aligned(output.position, 4) || !is_aligned(output.key_position, 4) ||
      !is_aligned(call.token_count, 8)) {
    return refuse(kPackingPlan, "tensors must be aligned to their elements");
  }
  PackingPlanParams params{};
  params.mask = mask_tensor(input.mask, input.mask_element);
  params.keep_mask = mask_tensor(input.keep_mask, input.keep_element);
  resolve_keep_slots(input, params);
  params.rows = static_cast<int>(input.rows);
  params.slots = static_cast<int>(input.slots);
  params.capacity = static_cast<int>(input.capacity);
  params.tokens = static_cast<int>(call.tokens);
  params.cu_seqlens = output.cu_seqlens;
  params.token_index = output.token_index;
  params.position = output.position;
  params.key_position = output.key_position;
  params.token_count = reinterpret_cast<long long*>(call.token_count);
  const Launcher launcher(device, kPackingPlan, stream);
  RAGGEDRT_RETURN_IF_FAILED(launcher.launch({"packing_count"}, launcher.grid_for(input.rows, 1), params));
  RAGGEDRT_RETURN_IF_FAILED(launcher.launch({"packing_scan"}, {1}, params));
  // Also without rows: what only fills the capacity is written here.
  return launcher.launch({"packing_fill"}, launcher.grid_for(input.rows > 0 ? input.rows : 1, 1), params);
}

namespace {

Status check_copy(const char* op, const TokenCopy& copy) {
  if (copy.tokens < 0 || copy.slots < 0 || copy.tokens > kMost || copy.slots > kMost ||
      copy.row_bytes > static_cast<size_t>(kMost)) {
    return refuse(op, "tokens, slots and bytes of a row must be below 2^31");
  }
  return {};
}

Status check_copy_pointers(const char* op, const TokenCopy& copy, bool reads, bool writes) {
  if ((copy.tokens > 0 && copy.token_index == nullptr) || (reads && copy.source == nullptr) ||
      (writes && copy.target == nullptr)) {
    return refuse(op, "a tensor has no memory");
  }
  if (!is_aligned(copy.token_index, 4) || !is_aligned(copy.key_position, 4)) {
    return refuse(op, "token_index and key_position must be aligned to 4 bytes");
  }
  return {};
}

TokenCopyParams copy_params(const TokenCopy& copy) {
  TokenCopyParams params{};
  params.source = copy.source;
  params.target = copy.target;
  params.token_index = copy.token_index;
  params.key_position = copy.key_position;
  params.tokens = static_cast<int>(copy.tokens);
  params.slots = static_cast<int>(copy.slots);
  params.row_bytes = static_cast<int>(copy.row_bytes);
  return params;
}

VariantKey copy_key(const char* family, const TokenCopy& copy) {
  VariantKey key{family};
  key.vector_bytes =
      vector_bytes(reinterpret_cast<uintptr_t>(copy.source) | reinterpret_cast<uintptr_t>(copy.target) | copy.row_bytes);
  return key;
}

// Blocks so that a thread copies a few vectors.
Grid copy_grid(const Launcher& launcher, const TokenCopy& copy, int64_t rows, int32_t vector) {
  constexpr int64_t kVectorsPerThread = 4;
  return launcher.grid_for(divide_up(rows * static_cast<int64_t>(copy.row_bytes), vector),
                           kDataThreads * kVectorsPerThread);
}

}  // namespace

Status check(const PackTokensCall& call) { return check_copy(kPackTokens, call.copy); }

Status workspace_bytes(const Device&, const PackTokensCall& call, size_t& bytes) {
  bytes = 0;
  return check(call);
}

Status launch(const Device& device, const PackTokensCall& call, void*, Stream stream) {
  RAGGEDRT_RETURN_IF_FAILED(check(call));
  const TokenCopy& copy = call.copy;
  if (copy.tokens == 0 || copy.row_bytes == 0) return {};
  RAGGEDRT_RETURN_IF_FAILED(check_copy_pointers(kPackTokens, copy, copy.slots > 0, true));
  const Launcher launcher(device, kPackTokens, stream);
  const VariantKey key = copy_key("pack_tokens", copy);
  return launcher.launch(key, copy_grid(launcher, copy, copy.tokens, key.vector_bytes), copy_params(copy));
}

Status check(const UnpackTokensCall& call) { return check_copy(kUnpackTokens, call.copy); }

Status workspace_bytes(const Device&, const UnpackTokensCall& call, size_t& bytes) {
  RAGGEDRT_RETURN_IF_FAILED(check(call));
  WorkspaceParts parts;
  parts.take<int>(call.copy.slots);
  bytes = parts.used();
  return {};
}

Status launch(const Device& device, const UnpackTokensCall& call, void* workspace, Stream stream) {
  size_t bytes = 0;
  RAGGEDRT_RETURN_IF_FAILED(workspace_bytes(device, call, bytes));
  const TokenCopy& copy = call.copy;
  if (copy.slots == 0 || copy.row_bytes == 0) return {};
  RAGGEDRT_RETURN_IF_FAILED(check_workspace(kUnpackTokens, workspace, bytes));
  RAGGEDRT_RETURN_IF_FAILED(check_copy_pointers(kUnpackTokens, copy, copy.tokens > 0, true));
  const Launcher launcher(device, kUnpackTokens, stream);
  TokenCopyParams params = copy_params(copy);
  params.token_of_slot = WorkspaceParts(workspace).take<int>(copy.slots);
  RAGGEDRT_RETURN_IF_FAILED(launcher.clear(params.token_of_slot, static_cast<size_t>(copy.slots)));
  RAGGEDRT_RETURN_IF_FAILED(
      launcher.launch({"unpack_invert"}, launcher.grid_for(copy.tokens, kDataThreads), params));
  const VariantKey key = copy_key("unpack_tokens", copy);
  return launcher.launch(key, copy_grid(launcher, copy, copy.slots, key.vector_bytes), params);
}

Status check(const MergeCall& call) {
  const MergeProblem& problem = call.problem;
  if (problem.element != Element::kFloat && problem.element != Element::kHalf && problem.element != Element::kBFloat16) {
    return refuse(kMerge, "outputs must be float32, float16 or bfloat16");
  }
  if (problem.tokens < 0 || problem.tokens > kMost || problem.heads <= 0 || problem.head_size <= 0) {
    return refuse(kMerge, "heads and head size must be positive, tokens below 2^31");
  }
  return {};
}

Status workspace_bytes(const Device&, const MergeCall& call, size_t& bytes) {
  bytes = 0;
  return check(call);
}

Status launch(const Device& device, const MergeCall& call, void*, Stream stream) {
  RAGGEDRT_RETURN_IF_FAILED(check(call));
  const MergeProblem& problem = call.problem;
  if (problem.tokens == 0) return {};
  const void* const outputs[] = {problem.output1, problem.output2, problem.output};
  const void* const sums[] = {problem.lse1, problem.lse2, problem.lse};
  for (int i = 0; i < 3; ++i) {
    if (outputs[i] == nullptr || sums[i] == nullptr) return refuse(kMerge, "a tensor has no memory");
    if (!is_aligned(outputs[i], element_size(problem.element)) || !is_aligned(sums[i], 4)) {
      return refuse(kMerge, "tensors must be aligned to their elements");
    }
  }
  const MergeParams params = {problem.output1, problem.output2, problem.lse1,   problem.lse2,
                              problem.output,  problem.lse,     static_cast<int>(problem.tokens),
                              problem.heads,   problem.head_size};
  const Launcher launcher(device, kMerge, stream);
  VariantKey key{"merge_states"};
  key.element = static_cast<int32_t>(problem.element);
  return launcher.launch(key, launcher.grid_for(problem.tokens * problem.heads, kWarpsPerBlock), params);
}

}  // namespace raggedrt::cuda
