// Exported functions: registration with ONNX Runtime, facts about the library, and the choice of instruction set.
#include <stdlib.h>

#include <memory>
#include <string>
#include <vector>

#include "cpu/isa.h"
#include "node/guard.h"
#include "ort/adapter.h"

#define RAGGEDRT_EXPORT extern "C" __attribute__((visibility("default")))

namespace raggedrt::ort {
namespace {

OrtStatus* status_of(const std::exception& error) { return api->CreateStatus(ORT_FAIL, error.what()); }

// One row of ONNX Runtime's registry: an op for one element type. ONNX Runtime keeps the pointer.
struct CustomOp : OrtCustomOp {
  const OpAdapter* adapter;
  int32_t element;  // of the op's type variable; 0 where it has none
};

// A kernel together with the row it was made from.
struct Instance {
  const OpAdapter* adapter;
  std::unique_ptr<Kernel> kernel;
};

// Whether this ONNX Runtime has what the CUDA provider's ops call; set before the domain is made.
bool runtime_serves_cuda = false;

const CustomOp& self(const OrtCustomOp* op) { return *static_cast<const CustomOp*>(op); }

ONNXTensorElementDataType type_of(const CustomOp& op, const gen::Tensor& tensor) {
  return static_cast<ONNXTensorElementDataType>(tensor.element == gen::kVariable ? op.element : tensor.element);
}

OrtCustomOpInputOutputCharacteristic characteristic(const gen::Tensor& tensor) {
  return tensor.optional ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
}

OrtStatus* create(const OrtCustomOp* op, const OrtApi*, const OrtKernelInfo* info, void** kernel) noexcept {
  try {
    const OpAdapter& adapter = *self(op).adapter;
    const NodeInfo node(info, *adapter.op);
    check_guard(node, adapter.features);
    *kernel = new Instance{&adapter, std::unique_ptr<Kernel>(adapter.create(node))};
    return nullptr;
  } catch (const std::exception& error) {
    return status_of(error);
  }
}

OrtStatus* compute(void* kernel, OrtKernelContext* ort_context) noexcept {
  try {
    const Instance& instance = *static_cast<Instance*>(kernel);
    Context context(ort_context, *instance.adapter->op, instance.adapter->host_inputs);
    instance.kernel->compute(context);
    context.finish();
    return nullptr;
  } catch (const std::exception& error) {
    return status_of(error);
  }
}

CustomOp make_custom_op(const OpAdapter& adapter, int32_t element) {
  CustomOp op{};
  op.version = kApiVersion;
  op.adapter = &adapter;
  op.element = element;
  op.GetName = [](const OrtCustomOp* row) { return self(row).adapter->op->name; };
  op.GetExecutionProviderType = [](const OrtCustomOp* row) { return self(row).adapter->provider; };
  op.GetInputTypeCount = [](const OrtCustomOp* row) { return self(row).adapter->op->inputs.size(); };
  op.GetInputType = [](const OrtCustomOp* row, size_t i) { return type_of(self(row), self(row).adapter->op->inputs[i]); };
  op.GetOutputTypeCount = [](const OrtCustomOp* row) { return self(row).adapter->op->outputs.size(); };
  op.GetOutputType = [](const OrtCustomOp* row, size_t i) {
    return type_of(self(row), self(row).adapter->op->outputs[i]);
  };
  op.GetInputCharacteristic = [](const OrtCustomOp* row, size_t i) {
    return characteristic(self(row).adapter->op->inputs[i]);
  };
  op.GetOutputCharacteristic = [](const OrtCustomOp* row, size_t i) {
    return characteristic(self(row).adapter->op->outputs[i]);
  };
  op.GetInputMemoryType = [](const OrtCustomOp* row, size_t i) {
    return (self(row).adapter->host_inputs >> i & 1) != 0 ? OrtMemTypeCPUInput : OrtMemTypeDefault;
  };
  op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op.GetEndVersion = [](const OrtCustomOp*) { return 1; };
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = compute;
  op.KernelDestroy = [](void* kernel) { delete static_cast<Instance*>(kernel); };
  return op;
}

// Rows of every provider lie in one domain; ONNX Runtime takes those of the providers that a session has.
std::vector<const OpAdapter*> served_adapters() {
#ifdef RAGGEDRT_CUDA_ON_CPU_PROVIDER
  return cuda_adapters();
#else
  std::vector<const OpAdapter*> served = adapters();
  if (runtime_serves_cuda) served.insert(served.end(), cuda_adapters().begin(), cuda_adapters().end());
  return served;
#endif
}

// Lives until the process ends, as ONNX Runtime keeps pointers to its elements.
const std::vector<CustomOp>& custom_ops() {
  static const std::vector<CustomOp>& ops = *[] {
    auto* all = new std::vector<CustomOp>;
    for (const OpAdapter* adapter : served_adapters()) {
      for (const int32_t element : adapter->op->variable_elements) all->push_back(make_custom_op(*adapter, element));
    }
    return all;
  }();
  return ops;
}

// All sessions share one domain. Made on first use; an attempt that throws is repeated by the next session.
OrtCustomOpDomain* custom_op_domain() {
  static OrtCustomOpDomain* const domain = [] {
    OrtCustomOpDomain* made = nullptr;
    check(api->CreateCustomOpDomain(gen::kDomain, &made), "custom op domain");
    for (const CustomOp& op : custom_ops()) check(api->CustomOpDomain_Add(made, &op), op.adapter->op->name);
    return made;
  }();
  return domain;
}

std::string quoted(const std::string& text) { return '"' + text + '"'; }

std::string features_of(const std::vector<const OpAdapter*>& adapters) {
  std::string ops;
  for (const OpAdapter* adapter : adapters) {
    ops += (ops.empty() ? "" : ", ") + quoted(adapter->op->name) + ": " + std::to_string(adapter->features);
  }
  return "{" + ops + "}";
}

std::string library_info() {
  std::string isas;
  for (const char* const* name = available_isas(); *name != nullptr; ++name) {
    isas += (isas.empty() ? "" : ", ") + quoted(*name);
  }
  return "{\"version\": " + quoted(RAGGEDRT_VERSION) + ", \"abi\": " + std::to_string(gen::kAbiVersion) +
         ", \"digest\": " + quoted(RAGGEDRT_SOURCE_DIGEST) + ", \"isa\": [" + isas + "], \"features\": " + features_of(adapters()) +
         ", \"cuda_features\": " + features_of(cuda_adapters()) + "}";
}

}  // namespace
}  // namespace raggedrt::ort

// Called by ONNX Runtime when the library is registered with session options, possibly by several threads at once.
RAGGEDRT_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  using namespace raggedrt::ort;
  const OrtApi* found = base->GetApi(kApiVersion);
  if (found == nullptr) {
    return base->GetApi(1)->CreateStatus(ORT_FAIL, "the raggedrt op library needs ONNX Runtime 1.17 or later");
  }
  api = found;
  runtime_serves_cuda = base->GetApi(kCudaApiVersion) != nullptr;
  try {
    return found->AddCustomOpDomain(options, custom_op_domain());
  } catch (const std::exception& error) {
    return status_of(error);
  }
}

// Facts about this library as a JSON object; the string lives as long as the library.
RAGGEDRT_EXPORT const char* raggedrt_library_info() {
  static const std::string info = raggedrt::ort::library_info();
  return info.c_str();
}

// For tests and benchmarks: uses the named instruction set from now on, null for the best; 0 if this CPU lacks it.
RAGGEDRT_EXPORT int raggedrt_select_isa(const char* name) { return raggedrt::select_isa(name) ? 1 : 0; }
