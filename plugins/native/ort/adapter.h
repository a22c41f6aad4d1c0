// Thin C++ over ONNX Runtime's C API: what op adapters use to read nodes and tensors. Holds no algorithm.
#pragma once

#include <onnxruntime_c_api.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/element.h"
#include "cpu/runtime.h"
#include "ops.gen.h"

namespace raggedrt::ort {

// The API version asked for: that of the oldest ONNX Runtime served, whatever the headers offer.
constexpr uint32_t kApiVersion = 17;

// Set once by RegisterCustomOps.
extern const OrtApi* api;

// Throws with the status's message, prefixed by `doing`.
void check(OrtStatus* status, const char* doing);

// What a constructor sees of its node.
class NodeInfo {
 public:
  NodeInfo(const OrtKernelInfo* info, const gen::Op& op) : info_(info), op_(op) {}

  const gen::Op& op() const { return op_; }
  std::string name() const;
  // Attributes; absent ones have the definition's default, or throw where it has none.
  int64_t integer(const char* attribute) const;
  float real(const char* attribute) const;
  std::vector<int64_t> integers(const char* attribute) const;
  // Refuses the node: throws a message that names it and the library.
  [[noreturn]] void refuse(const std::string& reason) const;

 private:
  const gen::Attribute& declared(const char* attribute) const;

  const OrtKernelInfo* info_;
  const gen::Op& op_;
};

struct Tensor {
  const void* data = nullptr;
  Element element = Element::kFloat;
  std::vector<int64_t> shape;

  bool present = false;
  template <typename T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
  int64_t dim(size_t axis) const { return shape.at(axis); }
};

int64_t product(const std::vector<int64_t>& shape, size_t first_axis = 0);

// Inputs, outputs, threads and memory of one call.
class Context final : public Runtime {
 public:
  Context(OrtKernelContext* context, const gen::Op& op) : context_(context), op_(op) {}
  ~Context() override;
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  // An absent optional input is a Tensor that is not present. `rank` -1: any.
  Tensor input(size_t index, int rank = -1) const;
  // Null when the node does not have this output.
  void* output(size_t index, const std::vector<int64_t>& shape) const;
  // Throws an error that names the op.
  [[noreturn]] void fail(const std::string& reason) const;

  void parallel(size_t count, void (*task)(void*, size_t), void* data) override;
  size_t max_workers() const override;
  void* allocate(size_t bytes) override;

 private:
  OrtKernelContext* context_;
  const gen::Op& op_;
  OrtAllocator* allocator_ = nullptr;
  std::vector<void*> blocks_;
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

const std::vector<const OpAdapter*>& adapters();

}  // namespace raggedrt::ort
