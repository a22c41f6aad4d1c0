#include "tensorrt/shapes.h"

namespace raggedrt::tensorrt {

Shapes::Shapes(const Fields& fields, const nvinfer1::DimsExprs* inputs, int input_count, nvinfer1::DimsExprs* outputs,
               nvinfer1::IExprBuilder& builder)
    : fields_(fields), inputs_(fields.op().inputs.size(), nullptr), outputs_(outputs), builder_(builder) {
  const std::vector<size_t> present = fields.present_inputs(input_count);
  for (size_t place = 0; place < present.size(); ++place) inputs_[present[place]] = &inputs[place];
}

size_t Shapes::rank(size_t input) const { return static_cast<size_t>(inputs_[input]->nbDims); }

Dim Shapes::dim(size_t input, size_t axis) const {
  if (axis >= rank(input)) {
    fields_.refuse(std::string("input '") + fields_.op().inputs[input].name + "' has " + std::to_string(rank(input)) +
                   " axes, expected at least " + std::to_string(axis + 1));
  }
  return inputs_[input]->d[axis];
}

std::vector<Dim> Shapes::dims(size_t input, size_t first_axis) const {
  const nvinfer1::DimsExprs& shape = *inputs_[input];
  std::vector<Dim> found;
  for (int axis = static_cast<int>(first_axis); axis < shape.nbDims; ++axis) found.push_back(shape.d[axis]);
  return found;
}

Dim Shapes::found_at_run_time(size_t output, Dim most) {
  outputs_[output].nbDims = 0;
  return builder_.declareSizeTensor(static_cast<int32_t>(output), *most, *most);
}

void Shapes::set(size_t output, const std::vector<Dim>& shape) {
  outputs_[output].nbDims = static_cast<int32_t>(shape.size());
  for (size_t axis = 0; axis < shape.size(); ++axis) outputs_[output].d[axis] = shape[axis];
}

}  // namespace raggedrt::tensorrt
