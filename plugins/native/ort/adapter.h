// Thin C++ over ONNX Runtime's C API: what op adapters use to read nodes and tensors. Holds no algorithm.
#pragma once

#include <onnxruntime_c_api.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/runtime.h"
#include "node/node.h"
#include "ops.gen.h"
#include "ort/cuda_mirror.h"

namespace raggedrt::ort {

// The API version asked for: that of the oldest ONNX Runtime served, whatever the headers offer. Memory by stream, which
// the CUDA provider's ops need, came later; an older runtime gets the CPU's ops alone.
constexpr uint32_t kApiVersion = 17;
constexpr uint32_t kCudaApiVersion = 18;

// Set once by RegisterCustomOps.
extern const OrtApi* api;

// Throws with the status's message, prefixed by `doing`.
void check(OrtStatus* status, const char* doing);

// What a constructor sees of its node.
class NodeInfo final : public Attributes {
 public:
  NodeInfo(const OrtKernelInfo* info, const gen::Op& op) : info_(info), op_(op) {}

  const gen::Op& op() const { return op_; }
  std::string name() const;
  int64_t integer(const char* attribute) const override;
  float real(const char* attribute) const override;
  std::vector<int64_t> integers(const char* attribute) const override;
  [[noreturn]] void refuse(const std::string& reason) const override;

 private:
  const gen::Attribute& declared(const char* attribute) const;

  const OrtKernelInfo* info_;
  const gen::Op& op_;
};

// Inputs, outputs, threads and memory of one call.
class Context final : public Inputs, public Runtime {
 public:
  // `host_inputs`: as in OpAdapter.
  Context(OrtKernelContext* context, const gen::Op& op, uint64_t host_inputs = 0)
      : context_(context), op_(op), host_inputs_(host_inputs) {}
  ~Context() override;
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  Tensor input(size_t index, int rank = -1) const override;
  // Null when the node does not have this output.
  void* output(size_t index, const std::vector<int64_t>& shape) const;
  [[noreturn]] void fail(const std::string& reason) const override;

  void parallel(size_t count, void (*task)(void*, size_t), void* data) override;
  size_t max_workers() const override;
  void* allocate(size_t bytes) override;

  // With a GPU's provider: the stream to enqueue on, and memory of device `ordinal` that is free again once that stream
  // has passed what this call enqueues.
  void* stream() const;
  void* device_memory(size_t bytes, int ordinal);

  // What is left to do when the kernel has done its part.
  void finish();

 private:
  // Memory that is given back when the call ends.
  struct Arena {
    OrtAllocator* allocator = nullptr;
    std::vector<void*> blocks;
  };
  void open(Arena& arena, const OrtMemoryInfo* memory);
  void* keep(Arena& arena, void* block, size_t bytes) const;

  OrtKernelContext* context_;
  const gen::Op& op_;
  uint64_t host_inputs_;
  Arena host_;
  Arena device_;
#ifdef RAGGEDRT_CUDA_ON_CPU_PROVIDER
  mutable DeviceMirror mirror_;
#endif
};

class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual void compute(Context& context) const = 0;
};

// One op as the adapter serves it.
struct OpAdapter {
  const gen::Op* op;
  uint64_t features;  // the bits that the kernel serves
  Kernel* (*create)(const NodeInfo& node);
  const char* provider = nullptr;  // that runs it; null: the CPU's
  uint64_t host_inputs = 0;        // by bit: inputs that lie in CPU memory whatever the provider's memory is
};

template <typename T>
Kernel* create_kernel(const NodeInfo& node) {
  return new T(node);
}

extern const OpAdapter kPackingPlanAdapter;
extern const OpAdapter kPackTokensAdapter;
extern const OpAdapter kUnpackTokensAdapter;
extern const OpAdapter kRaggedAttentionAdapter;
extern const OpAdapter kBlockMaskAdapter;
extern const OpAdapter kMergeAttentionStatesAdapter;
extern const OpAdapter kAttentionPlanAdapter;

// Those of the CPU's provider and of the CUDA provider, one per op each.
const std::vector<const OpAdapter*>& adapters();
const std::vector<const OpAdapter*>& cuda_adapters();

}  // namespace raggedrt::ort
