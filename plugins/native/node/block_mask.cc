#include "node/block_mask.h"

#include "ops.gen.h"

namespace raggedrt {

BlockMaskNode::BlockMaskNode(const Attributes& node) : block_size_(node.integer("block_size")) {
  if (block_size_ < 8 || block_size_ > kLargestBlock || block_size_ % 8 != 0) {
    node.refuse("block_size must be a multiple of 8 from 8 to 1024");
  }
  if (const char* refusal = decode_rules(node.integers("rules"), rules_)) node.refuse(refusal);
}

BlockMaskInput BlockMaskNode::problem(const Inputs& inputs) const {
  using In = gen::BlockMaskInput;
  BlockMaskInput problem;
  problem.rules = rules_.data();
  problem.rule_count = static_cast<int64_t>(rules_.size());
  problem.block_size = block_size_;
  problem.length = inputs.input(In::max_seqlen, 1).dim(0);
  if (const Tensor blocks = inputs.input(In::blocks); blocks.present) {
    if (blocks.shape.size() != 3) inputs.fail("blocks must be [G, R', K]");
    problem.blocks = blocks.as<int32_t>();
    problem.groups = blocks.dim(0);
    problem.block_rows = blocks.dim(1);
    problem.block_columns = blocks.dim(2);
  }
  if (const Tensor offsets = inputs.input(In::cu_seqlens); offsets.present) {
    if (offsets.shape.size() != 1 || offsets.dim(0) < 1) inputs.fail("cu_seqlens must be [B+1]");
    problem.cu_seqlens = offsets.as<int32_t>();
    problem.sequences = offsets.dim(0) - 1;
  }
  return problem;
}

}  // namespace raggedrt
