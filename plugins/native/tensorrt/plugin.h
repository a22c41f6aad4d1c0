// One plugin class for every op: what TensorRT asks is answered from the op's definition and from a PluginOp.
#pragma once

#include <NvInfer.h>

#include <memory>
#include <string>
#include <vector>

#include "cuda/launch/launch.h"
#include "tensorrt/fields.h"
#include "tensorrt/shapes.h"
#include "tensorrt/tensors.h"

namespace raggedrt::tensorrt {

// An op with its attributes.
class PluginOp {
 public:
  virtual ~PluginOp() = default;
  virtual void shapes(Shapes& shapes) const = 0;
  // Refuses (by Tensors::fail or a status) what the host can see to be wrong; data is not read.
  virtual cuda::Status check(const Tensors& tensors) const = 0;
  virtual cuda::Status workspace_bytes(const cuda::Device& device, const Tensors& tensors, size_t& bytes) const = 0;
  virtual cuda::Status launch(const cuda::Device& device, const Tensors& tensors, void* workspace,
                              cuda::Stream stream) const = 0;
  // Whether a launch keeps within its tensors. Asked while an engine is built, when these may hold anything.
  virtual cuda::Status check_values(const Tensors&, cuda::Stream, bool& real) const {
    real = true;
    return {};
  }
};

// One creator.
struct PluginRow {
  const char* name;
  const gen::Op* op;
  uint64_t features;  // that it serves
  size_t outputs;     // of the definition; scalars of int64 that tell their sizes follow
  size_t size_outputs;
  std::unique_ptr<PluginOp> (*create)(const Attributes& attributes);
};

template <typename T>
std::unique_ptr<PluginOp> create_op(const Attributes& attributes) {
  return std::make_unique<T>(attributes);
}

const std::vector<PluginRow>& plugin_rows();

class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
 public:
  // Throws what the op refuses.
  Plugin(const PluginRow& row, const std::string& name, const nvinfer1::PluginFieldCollection& fields, bool building);

  // IPluginV3
  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  // IPluginV3OneCore
  const char* getPluginName() const noexcept override { return row_.name; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return gen::kDomain; }

  // IPluginV3OneBuild
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t input_count,
                          const nvinfer1::DynamicPluginTensorDesc* outputs, int32_t output_count) noexcept override;
  int32_t getOutputDataTypes(nvinfer1::DataType* outputs, int32_t output_count, const nvinfer1::DataType* inputs,
                             int32_t input_count) const noexcept override;
  int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t input_count,
                          const nvinfer1::DimsExprs* shape_inputs, int32_t shape_input_count,
                          nvinfer1::DimsExprs* outputs, int32_t output_count,
                          nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(int32_t place, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t input_count,
                                 int32_t output_count) noexcept override;
  int32_t getNbOutputs() const noexcept override { return static_cast<int32_t>(row_.outputs + row_.size_outputs); }
  size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t input_count,
                          const nvinfer1::DynamicPluginTensorDesc* outputs,
                          int32_t output_count) const noexcept override;

  // IPluginV3OneRuntime
  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* inputs, int32_t input_count,
                        const nvinfer1::PluginTensorDesc* outputs, int32_t output_count) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descriptions,
                  const nvinfer1::PluginTensorDesc* output_descriptions, const void* const* inputs,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

  static constexpr const char* kVersion = "1";

 private:
  Plugin(const Plugin& other);
  // The element type of output `index`, given that of the op's type variable.
  nvinfer1::DataType output_type(size_t index, nvinfer1::DataType variable) const;
  // The type of the first input of the op's type variable; kFLOAT where it has none.
  template <typename TypeOf>
  nvinfer1::DataType variable_type(const std::vector<size_t>& present, const TypeOf& type_of) const;

  const PluginRow& row_;
  Fields fields_;
  bool building_;  // made for a network, not for an engine
  std::shared_ptr<const PluginOp> op_;  // has no state; clones share it
  int32_t input_count_ = 0;             // as told by onShapeChange
  std::vector<nvinfer1::PluginField> serialized_;
  nvinfer1::PluginFieldCollection collection_ = {};
};

class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  explicit Creator(const PluginRow& row);

  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
  const char* getPluginName() const noexcept override { return row_.name; }
  const char* getPluginVersion() const noexcept override { return Plugin::kVersion; }
  const char* getPluginNamespace() const noexcept override { return gen::kDomain; }

 private:
  const PluginRow& row_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_;
};

}  // namespace raggedrt::tensorrt
