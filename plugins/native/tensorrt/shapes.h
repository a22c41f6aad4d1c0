// Symbolic output shapes of a plugin, by places of the op's definition.
#pragma once

#include <NvInfer.h>

#include <vector>

#include "tensorrt/fields.h"

namespace raggedrt::tensorrt {

using Dim = const nvinfer1::IDimensionExpr*;

class Shapes {
 public:
  Shapes(const Fields& fields, const nvinfer1::DimsExprs* inputs, int input_count, nvinfer1::DimsExprs* outputs,
         nvinfer1::IExprBuilder& builder);

  bool present(size_t input) const { return inputs_[input] != nullptr; }
  size_t rank(size_t input) const;
  // Throws where the input has fewer axes.
  Dim dim(size_t input, size_t axis) const;
  std::vector<Dim> dims(size_t input, size_t first_axis = 0) const;

  Dim constant(int64_t value) const { return builder_.constant(value); }
  Dim plus(Dim first, Dim second) const { return operation(nvinfer1::DimensionOperation::kSUM, first, second); }
  Dim times(Dim first, Dim second) const { return operation(nvinfer1::DimensionOperation::kPROD, first, second); }
  Dim divided(Dim first, Dim second) const { return operation(nvinfer1::DimensionOperation::kFLOOR_DIV, first, second); }
  Dim divided_up(Dim first, Dim second) const { return operation(nvinfer1::DimensionOperation::kCEIL_DIV, first, second); }
  Dim at_least(Dim first, int64_t least) const {
    return operation(nvinfer1::DimensionOperation::kMAX, first, constant(least));
  }
  Dim at_most(Dim first, Dim most) const { return operation(nvinfer1::DimensionOperation::kMIN, first, most); }
  // A length that the plugin finds at run time, at most `most`, and writes to output `output`: a scalar.
  Dim found_at_run_time(size_t output, Dim most);

  void set(size_t output, const std::vector<Dim>& shape);

 private:
  Dim operation(nvinfer1::DimensionOperation operation, Dim first, Dim second) const {
    return builder_.operation(operation, *first, *second);
  }

  const Fields& fields_;
  std::vector<const nvinfer1::DimsExprs*> inputs_;  // by input of the definition
  nvinfer1::DimsExprs* outputs_;
  nvinfer1::IExprBuilder& builder_;
};

}  // namespace raggedrt::tensorrt
