#include "node/attention_plan.h"

#include <algorithm>

#include "cpu/block_mask.h"
#include "ops.gen.h"

namespace raggedrt {
namespace {

using In = gen::AttentionPlanInput;

}  // namespace

AttentionPlanNode::AttentionPlanNode(const Attributes& node)
    : causal_(node.integer("causal") != 0), block_size_(node.integer("block_size")) {
  if (block_size_ < 0 || block_size_ > kLargestBlock || block_size_ % 8 != 0) {
    node.refuse("block_size must be a multiple of 8, at most 1024");
  }
  mask_.window_left = node.integer("window_left");
  mask_.window_right = node.integer("window_right");
  mask_.dilation = node.integer("dilation");
  for (const int64_t token : node.integers("global_tokens")) {
    if (token >= 0 && token <= INT32_MAX) global_tokens_.push_back(static_cast<int32_t>(token));
  }
  std::sort(global_tokens_.begin(), global_tokens_.end());
}

AttentionProblem AttentionPlanNode::problem(const Inputs& inputs) const {
  AttentionProblem problem;
  problem.causal = causal_;
  problem.mask = mask_;
  problem.mask.global_tokens = global_tokens_.data();
  problem.mask.global_count = static_cast<int64_t>(global_tokens_.size());
  problem.total_q = inputs.input(In::tokens_q).dim(0);
  problem.total_k = inputs.input(In::tokens_k).dim(0);
  const Tensor offsets_q = inputs.input(In::cu_seqlens_q, 1);
  const Tensor offsets_k = inputs.input(In::cu_seqlens_k, 1);
  if (offsets_q.dim(0) < 1 || offsets_q.shape != offsets_k.shape) {
    inputs.fail("cu_seqlens_q and cu_seqlens_k must both be [B+1]");
  }
  problem.sequences = offsets_q.dim(0) - 1;
  problem.cu_seqlens_q = offsets_q.as<int32_t>();
  problem.cu_seqlens_k = offsets_k.as<int32_t>();
  read_positions(inputs, problem);
  read_tiles(inputs, problem);
  return problem;
}

void AttentionPlanNode::read_positions(const Inputs& inputs, AttentionProblem& problem) const {
  const Tensor queries = inputs.input(In::positions_q);
  const Tensor keys = inputs.input(In::positions_k);
  if ((queries.present && product(queries.shape) != problem.total_q) ||
      (keys.present && product(keys.shape) != problem.total_k)) {
    inputs.fail("positions_q and positions_k must be [Tq] and [Tk]");
  }
  problem.positions_q = queries.as<int32_t>();
  problem.positions_k = keys.as<int32_t>();
}

void AttentionPlanNode::read_tiles(const Inputs& inputs, AttentionProblem& problem) const {
  const Tensor ptr = inputs.input(In::tile_ptr);
  if (ptr.present != (block_size_ != 0)) inputs.fail("a tile list is tile_ptr and block_size, both or none");
  if (!ptr.present) return;
  if (ptr.shape.size() != 3 || ptr.dim(1) < 1 || ptr.dim(2) < 1) inputs.fail("tile_ptr must be [B|1, G, R+1]");
  problem.tiles.ptr = ptr.as<int32_t>();
  problem.tiles.sequences = ptr.dim(0);
  problem.tiles.groups = ptr.dim(1);
  problem.tiles.rows = ptr.dim(2) - 1;
  problem.tiles.block_size = static_cast<int>(block_size_);
}

}  // namespace raggedrt
