// BlockMask as a node says it.
#pragma once

#include <stdint.h>

#include <vector>

#include "cpu/block_mask.h"
#include "node/node.h"

namespace raggedrt {

class BlockMaskNode {
 public:
  explicit BlockMaskNode(const Attributes& attributes);

  // Refers to this node. Shapes are checked, values of tensors are not read.
  BlockMaskInput problem(const Inputs& inputs) const;

 private:
  int64_t block_size_;
  std::vector<MaskRule> rules_;
};

}  // namespace raggedrt
