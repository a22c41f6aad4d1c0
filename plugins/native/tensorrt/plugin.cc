#include "tensorrt/plugin.h"

#include <algorithm>

#include "node/guard.h"
#include "tensorrt/log.h"

namespace raggedrt::tensorrt {

using nvinfer1::DataType;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

namespace {

constexpr int32_t kDone = 0;
constexpr int32_t kFailed = -1;

// What follows outputs and tells their sizes.
constexpr DataType kSizeType = DataType::kINT64;

int32_t logged(const Fields& fields, const cuda::Status& status) {
  if (status.ok()) return kDone;
  log_error("layer '" + fields.name() + "': " + status.message());
  return kFailed;
}

}  // namespace

Plugin::Plugin(const PluginRow& row, const std::string& name, const nvinfer1::PluginFieldCollection& fields,
               bool building)
    : row_(row), fields_(*row.op, name, fields), building_(building) {
  check_guard(fields_, row.features);
  op_ = row.create(fields_);
}

Plugin::Plugin(const Plugin& other)
    : row_(other.row_),
      fields_(other.fields_),
      building_(other.building_),
      op_(other.op_),
      input_count_(other.input_count_) {}

nvinfer1::IPluginCapability* Plugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* Plugin::clone() noexcept {
  return guarded<Plugin*>(nullptr, [&] { return new Plugin(*this); });
}

nvinfer1::IPluginV3* Plugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept { return clone(); }

template <typename TypeOf>
DataType Plugin::variable_type(const std::vector<size_t>& present, const TypeOf& type_of) const {
  for (size_t place = 0; place < present.size(); ++place) {
    if (row_.op->inputs[present[place]].element == gen::kVariable) return type_of(place);
  }
  return DataType::kFLOAT;
}

DataType Plugin::output_type(size_t index, DataType variable) const {
  if (index >= row_.outputs) return kSizeType;
  const int32_t element = row_.op->outputs[index].element;
  return element == gen::kVariable ? variable : type_of(static_cast<Element>(element));
}

int32_t Plugin::configurePlugin(const DynamicPluginTensorDesc*, int32_t input_count, const DynamicPluginTensorDesc*,
                                int32_t) noexcept {
  return guarded(kFailed, [&] {
    fields_.present_inputs(input_count);
    return kDone;
  });
}

int32_t Plugin::getOutputDataTypes(DataType* outputs, int32_t output_count, const DataType* inputs,
                                   int32_t input_count) const noexcept {
  return guarded(kFailed, [&] {
    const DataType variable = variable_type(fields_.present_inputs(input_count), [&](size_t place) { return inputs[place]; });
    for (int32_t index = 0; index < output_count; ++index) {
      outputs[index] = output_type(static_cast<size_t>(index), variable);
    }
    return kDone;
  });
}

int32_t Plugin::getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t input_count, const nvinfer1::DimsExprs*,
                                int32_t, nvinfer1::DimsExprs* outputs, int32_t output_count,
                                nvinfer1::IExprBuilder& builder) noexcept {
  return guarded(kFailed, [&] {
    if (output_count != getNbOutputs()) fields_.refuse("it has " + std::to_string(getNbOutputs()) + " outputs");
    Shapes shapes(fields_, inputs, input_count, outputs, builder);
    op_->shapes(shapes);
    return kDone;
  });
}

// Strongly typed: a tensor has the type that its definition says, tensors of the type variable that of the first one.
bool Plugin::supportsFormatCombination(int32_t place, const DynamicPluginTensorDesc* tensors, int32_t input_count,
                                       int32_t) noexcept {
  return guarded(false, [&] {
    const PluginTensorDesc& asked = tensors[place].desc;
    if (asked.format != nvinfer1::TensorFormat::kLINEAR) return false;
    const std::vector<size_t> present = fields_.present_inputs(input_count);
    const auto type_at = [&](size_t input) { return tensors[input].desc.type; };
    if (place >= input_count) {
      return asked.type == output_type(static_cast<size_t>(place - input_count), variable_type(present, type_at));
    }
    const int32_t element = row_.op->inputs[present[static_cast<size_t>(place)]].element;
    if (element == gen::kAny) {
      element_of(asked.type);
      return true;
    }
    if (element != gen::kVariable) return asked.type == type_of(static_cast<Element>(element));
    const std::vector<int32_t>& admitted = row_.op->variable_elements;
    return asked.type == variable_type(present, type_at) &&
           std::find(admitted.begin(), admitted.end(), static_cast<int32_t>(element_of(asked.type))) != admitted.end();
  });
}

size_t Plugin::getWorkspaceSize(const DynamicPluginTensorDesc* inputs, int32_t input_count,
                                const DynamicPluginTensorDesc*, int32_t) const noexcept {
  return guarded<size_t>(0, [&]() -> size_t {
    const Tensors tensors(fields_, inputs, input_count);
    cuda::Device* device = nullptr;
    size_t bytes = 0;
    cuda::Status status = cuda::Device::current(&device);
    if (status.ok()) status = op_->workspace_bytes(*device, tensors, bytes);
    return logged(fields_, status) == kDone ? bytes : 0;
  });
}

int32_t Plugin::onShapeChange(const PluginTensorDesc* inputs, int32_t input_count, const PluginTensorDesc* outputs,
                              int32_t output_count) noexcept {
  return guarded(kFailed, [&] {
    input_count_ = input_count;
    Tensors tensors(fields_, inputs, input_count, nullptr, nullptr);
    tensors.set_output_shapes(outputs, output_count);
    return logged(fields_, op_->check(tensors));
  });
}

int32_t Plugin::enqueue(const PluginTensorDesc* input_descriptions, const PluginTensorDesc*,
                        const void* const* inputs, void* const* outputs, void* workspace,
                        cudaStream_t stream) noexcept {
  return guarded(kFailed, [&] {
    const Tensors tensors(fields_, input_descriptions, input_count_, inputs, outputs);
    cuda::Device* device = nullptr;
    cuda::Status status = cuda::Device::current(&device);
    bool real = true;
    if (status.ok() && building_) status = op_->check_values(tensors, stream, real);
    if (status.ok() && real) status = op_->launch(*device, tensors, workspace, stream);
    return logged(fields_, status);
  });
}

const nvinfer1::PluginFieldCollection* Plugin::getFieldsToSerialize() noexcept {
  return guarded<const nvinfer1::PluginFieldCollection*>(nullptr, [&] {
    serialized_ = fields_.given();
    collection_ = {static_cast<int32_t>(serialized_.size()), serialized_.data()};
    return &collection_;
  });
}

Creator::Creator(const PluginRow& row) : row_(row), fields_(field_names(*row.op)) {
  collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
}

nvinfer1::IPluginV3* Creator::createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                           nvinfer1::TensorRTPhase phase) noexcept {
  return guarded<Plugin*>(nullptr, [&] {
    return new Plugin(row_, name != nullptr ? name : "(unnamed)",
                      fields != nullptr ? *fields : nvinfer1::PluginFieldCollection{},
                      phase == nvinfer1::TensorRTPhase::kBUILD);
  });
}

}  // namespace raggedrt::tensorrt
