#include "ort/adapter.h"

#include <string.h>

#include <thread>

#include "ort/cuda_adapter.h"

namespace raggedrt::ort {

const OrtApi* api = nullptr;

void check(OrtStatus* status, const char* doing) {
  if (status == nullptr) return;
  const std::string message = std::string(doing) + ": " + api->GetErrorMessage(status);
  api->ReleaseStatus(status);
  throw std::runtime_error(message);
}

namespace {

bool succeeded(OrtStatus* status) {
  if (status != nullptr) api->ReleaseStatus(status);
  return status == nullptr;
}

class MemoryInfo {
 public:
  static MemoryInfo host() {
    MemoryInfo info;
    check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &info.info_), "memory");
    return info;
  }
  static MemoryInfo device(int ordinal) {
    MemoryInfo info;
    check(api->CreateMemoryInfo("Cuda", OrtArenaAllocator, ordinal, OrtMemTypeDefault, &info.info_), "device memory");
    return info;
  }
  ~MemoryInfo() {
    if (info_ != nullptr) api->ReleaseMemoryInfo(info_);
  }
  MemoryInfo(MemoryInfo&& other) noexcept : info_(other.info_) { other.info_ = nullptr; }
  MemoryInfo& operator=(MemoryInfo&&) = delete;

  const OrtMemoryInfo* get() const { return info_; }

 private:
  MemoryInfo() = default;

  OrtMemoryInfo* info_ = nullptr;
};

}  // namespace

std::string NodeInfo::name() const {
  size_t size = 0;
  succeeded(api->KernelInfo_GetNodeName(info_, nullptr, &size));
  std::string name(size, '\0');
  if (size == 0 || !succeeded(api->KernelInfo_GetNodeName(info_, name.data(), &size))) return "(unnamed)";
  name.resize(strlen(name.c_str()));  // the size counts the final zero
  return name.empty() ? "(unnamed)" : name;
}

const gen::Attribute& NodeInfo::declared(const char* attribute) const {
  for (const gen::Attribute& row : op_.attributes) {
    if (strcmp(row.name, attribute) == 0) return row;
  }
  refuse(std::string("attribute '") + attribute + "' is not declared");
}

int64_t NodeInfo::integer(const char* attribute) const {
  const gen::Attribute& row = declared(attribute);
  int64_t value = 0;
  if (succeeded(api->KernelInfoGetAttribute_int64(info_, attribute, &value))) return value;
  if (row.required) refuse(std::string("attribute '") + attribute + "' is missing");
  return row.default_integer;
}

float NodeInfo::real(const char* attribute) const {
  const gen::Attribute& row = declared(attribute);
  float value = 0.0f;
  return succeeded(api->KernelInfoGetAttribute_float(info_, attribute, &value)) ? value : row.default_real;
}

std::vector<int64_t> NodeInfo::integers(const char* attribute) const {
  declared(attribute);
  size_t size = 0;
  if (!succeeded(api->KernelInfoGetAttributeArray_int64(info_, attribute, nullptr, &size)) || size == 0) return {};
  std::vector<int64_t> values(size);
  check(api->KernelInfoGetAttributeArray_int64(info_, attribute, values.data(), &size), attribute);
  return values;
}

void NodeInfo::refuse(const std::string& reason) const {
  throw std::runtime_error("node '" + name() + "' (" + gen::kDomain + "." + op_.name + "): " + reason +
                           " [raggedrt op library " + RAGGEDRT_VERSION + ", abi " +
                           std::to_string(gen::kAbiVersion) + "]");
}

Context::~Context() {
  for (const Arena* arena : {&host_, &device_}) {
    for (void* block : arena->blocks) arena->allocator->Free(arena->allocator, block);
    if (arena->allocator != nullptr) api->ReleaseAllocator(arena->allocator);
  }
}

void Context::fail(const std::string& reason) const {
  throw std::runtime_error(std::string(gen::kDomain) + "." + op_.name + ": " + reason);
}

Tensor Context::input(size_t index, int rank) const {
  size_t count = 0;
  check(api->KernelContext_GetInputCount(context_, &count), "input count");
  Tensor tensor;
  const OrtValue* value = nullptr;
  if (index < count) check(api->KernelContext_GetInput(context_, index, &value), op_.inputs[index].name);
  if (value == nullptr) {
    if (!op_.inputs[index].optional) fail(std::string("input '") + op_.inputs[index].name + "' is missing");
    return tensor;
  }
  tensor.present = true;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api->GetTensorTypeAndShape(value, &info), op_.inputs[index].name);
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  size_t dimensions = 0;
  OrtStatus* status = api->GetTensorElementType(info, &type);
  if (status == nullptr) status = api->GetDimensionsCount(info, &dimensions);
  tensor.shape.resize(dimensions);
  if (status == nullptr) status = api->GetDimensions(info, tensor.shape.data(), dimensions);
  api->ReleaseTensorTypeAndShapeInfo(info);
  check(status, op_.inputs[index].name);
  tensor.element = static_cast<Element>(type);
  void* data = nullptr;
  check(api->GetTensorMutableData(const_cast<OrtValue*>(value), &data), op_.inputs[index].name);
  tensor.data = data;
#ifdef RAGGEDRT_CUDA_ON_CPU_PROVIDER
  if ((host_inputs_ >> index & 1) == 0) {
    tensor.data = mirror_.input(data, static_cast<size_t>(product(tensor.shape)) * element_size(tensor.element));
  }
#endif
  if (rank >= 0 && static_cast<size_t>(rank) != dimensions) {
    fail(std::string("input '") + op_.inputs[index].name + "' must have " + std::to_string(rank) + " axes, not " +
         std::to_string(dimensions));
  }
  return tensor;
}

void* Context::output(size_t index, const std::vector<int64_t>& shape) const {
  size_t count = 0;
  check(api->KernelContext_GetOutputCount(context_, &count), "output count");
  if (index >= count) return nullptr;
  OrtValue* value = nullptr;
  check(api->KernelContext_GetOutput(context_, index, shape.data(), shape.size(), &value), op_.outputs[index].name);
  if (value == nullptr) return nullptr;
  void* data = nullptr;
  check(api->GetTensorMutableData(value, &data), op_.outputs[index].name);
#ifdef RAGGEDRT_CUDA_ON_CPU_PROVIDER
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api->GetTensorTypeAndShape(value, &info), op_.outputs[index].name);
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  OrtStatus* status = api->GetTensorElementType(info, &type);
  api->ReleaseTensorTypeAndShapeInfo(info);
  check(status, op_.outputs[index].name);
  data = mirror_.output(data, static_cast<size_t>(product(shape)) * element_size(static_cast<Element>(type)));
#endif
  return data;
}

void Context::finish() {
#ifdef RAGGEDRT_CUDA_ON_CPU_PROVIDER
  mirror_.finish();
#endif
}

void Context::parallel(size_t count, void (*task)(void*, size_t), void* data) {
  check(api->KernelContext_ParallelFor(context_, task, count, 0, data), "thread pool");
}

size_t Context::max_workers() const {
  // The C API does not tell the size of the session's pool; workers beyond it find nothing left to do.
  static const size_t processors = std::max<size_t>(1, std::thread::hardware_concurrency());
  return processors;
}

void Context::open(Arena& arena, const OrtMemoryInfo* memory) {
  if (arena.allocator == nullptr) check(api->KernelContext_GetAllocator(context_, memory, &arena.allocator), "allocator");
}

void* Context::keep(Arena& arena, void* block, size_t bytes) const {
  if (block == nullptr && bytes > 0) fail("out of memory (" + std::to_string(bytes) + " bytes)");
  arena.blocks.push_back(block);
  return block;
}

void* Context::allocate(size_t bytes) {
  // The session's own arena: memory of the last call is reused without page faults.
  const MemoryInfo memory = MemoryInfo::host();
  open(host_, memory.get());
  return keep(host_, host_.allocator->Alloc(host_.allocator, bytes), bytes);
}

void* Context::stream() const {
  void* stream = nullptr;
  check(api->KernelContext_GetGPUComputeStream(context_, &stream), "stream");
  return stream;
}

void* Context::device_memory(size_t bytes, int ordinal) {
#ifdef RAGGEDRT_CUDA_ON_CPU_PROVIDER
  (void)ordinal;
  return mirror_.workspace(bytes);
#else
  const MemoryInfo memory = MemoryInfo::device(ordinal);
  open(device_, memory.get());
  void* block = nullptr;
  check(api->KernelContext_GetScratchBuffer(context_, memory.get(), bytes, &block), "workspace");
  return keep(device_, block, bytes);
#endif
}

const std::vector<const OpAdapter*>& adapters() {
  static const std::vector<const OpAdapter*> all = {&kPackingPlanAdapter,     &kPackTokensAdapter, &kUnpackTokensAdapter,
                                                    &kRaggedAttentionAdapter, &kBlockMaskAdapter,
                                                    &kMergeAttentionStatesAdapter, &kAttentionPlanAdapter};
  return all;
}

const std::vector<const OpAdapter*>& cuda_adapters() {
  static const std::vector<const OpAdapter*> all = {
      &kCudaPackingPlanAdapter,     &kCudaPackTokensAdapter, &kCudaUnpackTokensAdapter,
      &kCudaRaggedAttentionAdapter, &kCudaBlockMaskAdapter,  &kCudaMergeAttentionStatesAdapter,
      &kCudaAttentionPlanAdapter};
  return all;
}

}  // namespace raggedrt::ort
