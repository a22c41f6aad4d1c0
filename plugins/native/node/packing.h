// PackingPlan, PackTokens and UnpackTokens as a node says them.
#pragma once

#include <stdint.h>

#include <vector>

#include "cpu/packing_plan.h"
#include "cpu/token_copy.h"
#include "node/node.h"

namespace raggedrt {

class PackingPlanNode {
 public:
  explicit PackingPlanNode(const Attributes& attributes);

  // Refers to this node. Shapes and types are checked, the masks are not read.
  PackingInput problem(const Inputs& inputs) const;

 private:
  std::vector<int64_t> keep_slots_;
  int64_t capacity_;
};

// A copy without target, and the shape of the target.
struct CopyProblem {
  TokenCopy copy;
  std::vector<int64_t> shape;
};

// Shapes are checked, token indices are not read.
CopyProblem pack_tokens_problem(const Inputs& inputs);
CopyProblem unpack_tokens_problem(const Inputs& inputs);

}  // namespace raggedrt
