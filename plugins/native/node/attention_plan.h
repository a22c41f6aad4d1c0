// AttentionPlan as a node says it: the problem of its attentions, as far as a plan depends on it.
#pragma once

#include <stdint.h>

#include <vector>

#include "cpu/attention.h"
#include "node/node.h"

namespace raggedrt {

constexpr int64_t kNothingListed = 4;  // length of a work list of a back end that divides work in another way

class AttentionPlanNode {
 public:
  explicit AttentionPlanNode(const Attributes& attributes);

  // Refers to this node. Shapes are checked, values of tensors are not read.
  AttentionProblem problem(const Inputs& inputs) const;
  int64_t block_size() const { return block_size_; }

 private:
  void read_positions(const Inputs& inputs, AttentionProblem& problem) const;
  void read_tiles(const Inputs& inputs, AttentionProblem& problem) const;

  bool causal_;
  int64_t block_size_;
  MaskTerms mask_;
  std::vector<int32_t> global_tokens_;  // ascending
};

}  // namespace raggedrt
