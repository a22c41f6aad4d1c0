// Tensors of one call as TensorRT describes them, by their place in the op's definition.
#pragma once

#include <NvInfer.h>

#include <vector>

#include "node/node.h"
#include "tensorrt/fields.h"

namespace raggedrt::tensorrt {

// The ONNX element type; throws for one that no op admits.
Element element_of(nvinfer1::DataType type);
nvinfer1::DataType type_of(Element element);

std::vector<int64_t> shape_of(const nvinfer1::Dims& dims);

class Tensors final : public Inputs {
 public:
  // descriptions: of the present inputs, in order. inputs: their data; null while shapes are all that is known.
  Tensors(const Fields& fields, const nvinfer1::PluginTensorDesc* descriptions, int count, const void* const* inputs,
          void* const* outputs);
  // The largest shapes of a profile.
  Tensors(const Fields& fields, const nvinfer1::DynamicPluginTensorDesc* descriptions, int count);

  Tensor input(size_t index, int rank = -1) const override;
  [[noreturn]] void fail(const std::string& reason) const override { fields_.refuse(reason); }

  // Shapes of the outputs, in order; empty while they are not told.
  void set_output_shapes(const nvinfer1::PluginTensorDesc* descriptions, int count);
  const std::vector<std::vector<int64_t>>& output_shapes() const { return output_shapes_; }

  template <typename T = void>
  T* output(size_t index) const {
    return outputs_ != nullptr ? static_cast<T*>(outputs_[index]) : nullptr;
  }

 private:
  void place(size_t index, const nvinfer1::Dims& dims, nvinfer1::DataType type, const void* data);

  const Fields& fields_;
  std::vector<Tensor> tensors_;  // by input of the definition
  std::vector<std::vector<int64_t>> output_shapes_;
  void* const* outputs_ = nullptr;
};

}  // namespace raggedrt::tensorrt
