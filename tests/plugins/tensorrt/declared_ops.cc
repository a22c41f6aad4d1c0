// Ops of the domain trt.plugins declared as ONNX Runtime's TensorRT provider declares plugins: any number of tensors of
// any type, nothing inferred. They compute nothing: this is to load a model with, never to run it.
#include <onnxruntime_cxx_api.h>

#include <memory>
#include <string>
#include <vector>

namespace {

struct Kernel {
  void Compute(OrtKernelContext*) {}
};

struct Declared : Ort::CustomOpBase<Declared, Kernel> {
  explicit Declared(std::string given) : name(std::move(given)) {}
  void* CreateKernel(const OrtApi&, const OrtKernelInfo*) const { return new Kernel; }
  const char* GetName() const { return name.c_str(); }
  size_t GetInputTypeCount() const { return 1; }
  size_t GetOutputTypeCount() const { return 1; }
  ONNXTensorElementDataType GetInputType(size_t) const { return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED; }
  ONNXTensorElementDataType GetOutputType(size_t) const { return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED; }
  OrtCustomOpInputOutputCharacteristic GetInputCharacteristic(size_t) const { return INPUT_OUTPUT_VARIADIC; }
  OrtCustomOpInputOutputCharacteristic GetOutputCharacteristic(size_t) const { return INPUT_OUTPUT_VARIADIC; }
  bool GetVariadicInputHomogeneity() const { return false; }
  bool GetVariadicOutputHomogeneity() const { return false; }
  std::string name;
};

}  // namespace

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                               const OrtApiBase* base) {
  Ort::InitApi(base->GetApi(ORT_API_VERSION));
  static Ort::CustomOpDomain domain{"trt.plugins"};
  static std::vector<std::unique_ptr<Declared>> ops;
  if (ops.empty()) {
    for (const char* name : {OP_NAMES}) {
      ops.push_back(std::make_unique<Declared>(name));
      domain.Add(ops.back().get());
    }
  }
  Ort::UnownedSessionOptions(options).Add(domain);
  return nullptr;
}
