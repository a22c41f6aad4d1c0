// What the adapters of ONNX Runtime's CUDA provider share. They check nothing that the launcher checks.
#pragma once

#include <stddef.h>

#include "cuda/launch/launch.h"
#include "ort/adapter.h"

namespace raggedrt::ort {

// The provider that runs the CUDA kernels. Tests build a library that gives them to the CPU provider instead, where an
// emulated driver runs them on host memory.
#ifdef RAGGEDRT_CUDA_ON_CPU_PROVIDER
constexpr const char* kCudaProvider = nullptr;
#else
constexpr const char* kCudaProvider = "CUDAExecutionProvider";
#endif

// Bit of an input that stays in CPU memory (see OpAdapter).
constexpr uint64_t in_host_memory(size_t input) { return uint64_t{1} << input; }

// Throws the message of a status that is not ok; it names the op already.
void require(const cuda::Status& status);

// The device of the context that ONNX Runtime made current.
cuda::Device& current_device();

// Enqueues one call of an op on ONNX Runtime's stream, with workspace from its arena; waits for nothing.
template <typename Call>
void launch(Context& context, const Call& call) {
  cuda::Device& device = current_device();
  size_t bytes = 0;
  require(cuda::workspace_bytes(device, call, bytes));
  void* workspace = bytes == 0 ? nullptr : context.device_memory(bytes, device.ordinal());
  require(cuda::launch(device, call, workspace, context.stream()));
}

extern const OpAdapter kCudaPackingPlanAdapter;
extern const OpAdapter kCudaPackTokensAdapter;
extern const OpAdapter kCudaUnpackTokensAdapter;
extern const OpAdapter kCudaRaggedAttentionAdapter;
extern const OpAdapter kCudaBlockMaskAdapter;
extern const OpAdapter kCudaMergeAttentionStatesAdapter;
extern const OpAdapter kCudaAttentionPlanAdapter;

}  // namespace raggedrt::ort
