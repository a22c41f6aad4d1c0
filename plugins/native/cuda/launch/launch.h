// The CUDA side of every op, for adapters: checks, workspace sizes and launches. No header of CUDA or of a runtime.
//
// A call describes an op as the CPU kernels do (cpu/*.h), with device pointers where those have host pointers; what
// only the host needs (attributes, keep slots, global tokens) stays in host memory. Per op there are
//   check(call)                                  refuses what cannot be computed; host facts only, needs no device
//   workspace_bytes(device, call, bytes)         device memory that launch wants; the same call, the same bytes
//   launch(device, call, workspace, stream)      enqueues the kernels on `stream`; never waits for the device
// launch checks the call again, and every pointer's alignment, before anything is enqueued. A message names the op.
// Workspace is aligned to 256 bytes, may be null where 0 bytes are wanted, and is free again once the stream has
// passed the launches. All functions may be called by several threads at once. Nothing here allocates device memory,
// so calls can be captured in CUDA graphs once each kernel has been launched a first time.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <string>
#include <vector>

#include "cpu/attention.h"
#include "cpu/block_mask.h"
#include "cpu/merge_states.h"
#include "cpu/packing_plan.h"
#include "cpu/token_copy.h"
#include "cuda/launch/status.h"

namespace raggedrt::cuda {

constexpr size_t kWorkspaceAlignment = 256;

using Stream = void*;  // CUstream, cudaStream_t

// ---- Devices -------------------------------------------------------------------------------------------------------

// What choosing kernels depends on; plain data, so that it is tested without a device.
struct DeviceLimits {
  int compute_capability = 0;  // 10 * major + minor, of the device
  int multiprocessors = 0;
  int shared_bytes_per_block = 0;  // that a kernel can ask for
  int shared_bytes_per_multiprocessor = 0;
  int threads_per_multiprocessor = 0;
};

// One CUDA device with the kernels for it. Made once per ordinal, lives as long as the process.
class Device {
 public:
  // The device of the context that is current on this thread, as it is inside ONNX Runtime and TensorRT. Where none is
  // current the primary context of device 0 becomes it. Opens the driver and the kernel pack at the first call; fails
  // when there is no driver, no device, or no pack for it.
  static Status current(Device** device);

  int ordinal() const { return ordinal_; }
  const std::string& name() const { return name_; }
  const DeviceLimits& limits() const { return limits_; }

 private:
  friend class Launcher;
  struct Kernels;

  Status open(const struct Driver& driver, int handle);

  int ordinal_ = 0;
  std::string name_;
  DeviceLimits limits_;
  Kernels* kernels_ = nullptr;
};

// Folders to search for kernel packs before the usual ones (RAGGEDRT_KERNEL_PACKS, the folder of this library, its
// parent's lib/, the user's cache). Takes effect for devices that are not open yet.
void set_pack_folders(std::vector<std::string> folders);

// ---- Packing -------------------------------------------------------------------------------------------------------

// PackingPlan of a mask in device memory. The caller knows the number of tokens (counted on the host, or an upper
// bound of it): rows past the counted tokens are filled as those of `capacity` are.
struct PackingPlanCall {
  PackingInput input;    // mask, keep_mask: device; keep_slots: host
  PackingOutput output;  // device
  int64_t tokens = 0;    // rows of token_index, position and key_position
  int64_t* token_count = nullptr;  // device, one number; may be null: of tokens, also where it exceeds `tokens`
};

Status check(const PackingPlanCall& call);
Status workspace_bytes(const Device& device, const PackingPlanCall& call, size_t& bytes);
Status launch(const Device& device, const PackingPlanCall& call, void* workspace, Stream stream);

// PackTokens: target[t] = source[token_index[t]]. Indices past the slots count as negative ones: zeros.
struct PackTokensCall {
  TokenCopy copy;
};

Status check(const PackTokensCall& call);
Status workspace_bytes(const Device& device, const PackTokensCall& call, size_t& bytes);
Status launch(const Device& device, const PackTokensCall& call, void* workspace, Stream stream);

// UnpackTokens: target[token_index[t]] = source[t], zeros elsewhere.
struct UnpackTokensCall {
  TokenCopy copy;
};

Status check(const UnpackTokensCall& call);
Status workspace_bytes(const Device& device, const UnpackTokensCall& call, size_t& bytes);
Status launch(const Device& device, const UnpackTokensCall& call, void* workspace, Stream stream);

// ---- Attention -----------------------------------------------------------------------------------------------------

// AttentionPlan: the work of one attention, sorted, and what is known of its keys' positions, for all layers with the
// same lengths and mask.
struct AttentionPlanCall {
  // As for attention, as far as lengths, positions, causality, mask and tiles.ptr with its sizes go; nothing else counts.
  AttentionProblem problem;
  int64_t max_seqlen_q = 0;  // no sequence is longer
  int64_t max_seqlen_k = 0;
  int32_t* work_list = nullptr;  // device, int32 [work_list_size(problem)], aligned to 16 bytes
};

// Number of int32 in the work list of a problem. It depends on sequences, total_q, total_k, on whether there are
// positions_q and positions_k, and on tiles.block_size, so the tensor can be made before the lengths are known.
int64_t work_list_size(const AttentionProblem& problem);

Status check(const AttentionPlanCall& call);
Status workspace_bytes(const Device& device, const AttentionPlanCall& call, size_t& bytes);
Status launch(const Device& device, const AttentionPlanCall& call, void* workspace, Stream stream);

// RaggedAttention. mask.global_tokens is in host memory, everything else that the problem points to on the device.
struct AttentionCall {
  AttentionProblem problem;
  int64_t max_seqlen_q = 0;  // lengths of the carriers: no sequence is longer
  int64_t max_seqlen_k = 0;
  const int32_t* work_list = nullptr;  // device, from AttentionPlan; null: made for this call, in the workspace
  int64_t work_list_size = 0;          // int32 in it
};

Status check(const AttentionCall& call);
Status workspace_bytes(const Device& device, const AttentionCall& call, size_t& bytes);
// At least the workspace of every call that differs only in having no larger shapes. That of the largest shapes is not
// enough: fewer queries may be computed in splits of their keys.
Status workspace_bound(const Device& device, const AttentionCall& largest, size_t& bytes);
Status launch(const Device& device, const AttentionCall& call, void* workspace, Stream stream);

// MergeAttentionStates.
struct MergeCall {
  MergeProblem problem;
};

Status check(const MergeCall& call);
Status workspace_bytes(const Device& device, const MergeCall& call, size_t& bytes);
Status launch(const Device& device, const MergeCall& call, void* workspace, Stream stream);

// ---- Masks ---------------------------------------------------------------------------------------------------------

// BlockMask. How many entries and bitmaps there are is known only on the device, so the caller gives room for the
// upper bounds that block_mask_bounds tells; tile_ptr says which entries are used. What finds no room is not written,
// and the counts tell.
struct BlockMaskCall {
  BlockMaskInput input;  // rules: host; blocks, cu_seqlens: device
  int32_t* tile_ptr = nullptr;   // [sequences, groups, rows + 1]
  int32_t* tile_col = nullptr;   // [entries]
  int32_t* tile_tag = nullptr;   // [entries]
  int32_t* tile_bits = nullptr;  // [bitmaps, block_size * block_size / 32]
  int64_t entries = 0;
  int64_t bitmaps = 0;
  int64_t* entry_count = nullptr;   // device, one number each; may be null
  int64_t* bitmap_count = nullptr;
};

struct BlockMaskBounds {
  int64_t rows = 0;  // of tiles
  int64_t entries = 0;
  int64_t bitmaps = 0;
};

BlockMaskBounds block_mask_bounds(const BlockMaskInput& input);

Status check(const BlockMaskCall& call);
Status workspace_bytes(const Device& device, const BlockMaskCall& call, size_t& bytes);
Status launch(const Device& device, const BlockMaskCall& call, void* workspace, Stream stream);

}  // namespace raggedrt::cuda
