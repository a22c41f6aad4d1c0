// What an op's call is read from: attributes and tensors, whichever runtime they come from. No header of a runtime.
//
// The files beside this one turn a node of each op into the problem that kernels take (cpu/*.h), with every check of
// shapes; adapters of ONNX Runtime (CPU and CUDA) and of TensorRT only supply the two interfaces below.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <string>
#include <vector>

#include "cpu/element.h"

namespace raggedrt {

struct Tensor {
  const void* data = nullptr;  // in the memory of the provider that runs the op
  Element element = Element::kFloat;
  std::vector<int64_t> shape;

  bool present = false;
  template <typename T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
  int64_t dim(size_t axis) const { return shape.at(axis); }
};

inline int64_t product(const std::vector<int64_t>& shape, size_t first_axis = 0) {
  int64_t result = 1;
  for (size_t axis = first_axis; axis < shape.size(); ++axis) result *= shape[axis];
  return result;
}

// Attributes of a node, by the names of the op's definition.
class Attributes {
 public:
  // Absent ones have the definition's default, or throw where it has none.
  virtual int64_t integer(const char* attribute) const = 0;
  virtual float real(const char* attribute) const = 0;
  virtual std::vector<int64_t> integers(const char* attribute) const = 0;
  // Refuses the node: throws a message that names it and the library.
  [[noreturn]] virtual void refuse(const std::string& reason) const = 0;

 protected:
  ~Attributes() = default;
};

// Input tensors of one call, by their place in the op's definition.
class Inputs {
 public:
  // An absent optional input is a Tensor that is not present. `rank` -1: any.
  virtual Tensor input(size_t index, int rank = -1) const = 0;
  // Throws an error that names the op.
  [[noreturn]] virtual void fail(const std::string& reason) const = 0;

 protected:
  ~Inputs() = default;
};

}  // namespace raggedrt
