// Element types of tensors, by their ONNX number, and their sizes.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace raggedrt {

enum class Element : int32_t { kFloat = 1, kInt32 = 6, kInt64 = 7, kBool = 9, kHalf = 10, kBFloat16 = 16 };

// Internal linkage: this header is also compiled for newer CPUs (see simd/vec.h).
// Bytes of one element; 0 for a type that no op admits.
static constexpr size_t element_size(Element element) {
  switch (element) {
    case Element::kBool: return 1;
    case Element::kHalf:
    case Element::kBFloat16: return 2;
    case Element::kFloat:
    case Element::kInt32: return 4;
    case Element::kInt64: return 8;
  }
  return 0;
}

}  // namespace raggedrt
