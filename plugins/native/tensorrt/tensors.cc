#include "tensorrt/tensors.h"

#include <stdexcept>

namespace raggedrt::tensorrt {
namespace {

using nvinfer1::DataType;

struct ElementRow {
  DataType type;
  Element element;
};

constexpr ElementRow kElements[] = {
    {DataType::kFLOAT, Element::kFloat}, {DataType::kHALF, Element::kHalf},   {DataType::kBF16, Element::kBFloat16},
    {DataType::kINT32, Element::kInt32}, {DataType::kINT64, Element::kInt64}, {DataType::kBOOL, Element::kBool},
};

// What shape checks see of data that is not there yet: some address, so that a present tensor is not taken for none.
const int64_t kNoData[2] = {0, 0};

}  // namespace

Element element_of(DataType type) {
  for (const ElementRow& row : kElements) {
    if (row.type == type) return row.element;
  }
  throw std::runtime_error("TensorRT's data type " + std::to_string(static_cast<int>(type)) + " is not served");
}

DataType type_of(Element element) {
  for (const ElementRow& row : kElements) {
    if (row.element == element) return row.type;
  }
  throw std::runtime_error("element type " + std::to_string(static_cast<int>(element)) + " is not one of TensorRT");
}

std::vector<int64_t> shape_of(const nvinfer1::Dims& dims) {
  return std::vector<int64_t>(dims.d, dims.d + (dims.nbDims > 0 ? dims.nbDims : 0));
}

Tensors::Tensors(const Fields& fields, const nvinfer1::PluginTensorDesc* descriptions, int count,
                 const void* const* inputs, void* const* outputs)
    : fields_(fields), tensors_(fields.op().inputs.size()), outputs_(outputs) {
  const std::vector<size_t> present = fields.present_inputs(count);
  for (size_t place = 0; place < present.size(); ++place) {
    this->place(present[place], descriptions[place].dims, descriptions[place].type,
                inputs != nullptr ? inputs[place] : kNoData);
  }
}

Tensors::Tensors(const Fields& fields, const nvinfer1::DynamicPluginTensorDesc* descriptions, int count)
    : fields_(fields), tensors_(fields.op().inputs.size()) {
  const std::vector<size_t> present = fields.present_inputs(count);
  for (size_t place = 0; place < present.size(); ++place) {
    this->place(present[place], descriptions[place].max, descriptions[place].desc.type, kNoData);
  }
}

void Tensors::place(size_t index, const nvinfer1::Dims& dims, DataType type, const void* data) {
  tensors_[index] = {data, element_of(type), shape_of(dims), true};
}

void Tensors::set_output_shapes(const nvinfer1::PluginTensorDesc* descriptions, int count) {
  for (int index = 0; index < count; ++index) output_shapes_.push_back(shape_of(descriptions[index].dims));
}

Tensor Tensors::input(size_t index, int rank) const {
  const Tensor& tensor = tensors_.at(index);
  if (tensor.present && rank >= 0 && tensor.shape.size() != static_cast<size_t>(rank)) {
    fail(std::string("input '") + fields_.op().inputs[index].name + "' must have " + std::to_string(rank) +
         " axes, not " + std::to_string(tensor.shape.size()));
  }
  return tensor;
}

}  // namespace raggedrt::tensorrt
