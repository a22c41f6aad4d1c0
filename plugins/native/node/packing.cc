#include "node/packing.h"

#include "ops.gen.h"

namespace raggedrt {
namespace {

bool is_mask(Element element) {
  return element == Element::kInt32 || element == Element::kInt64 || element == Element::kBool ||
         element == Element::kFloat;
}

TokenCopy make_copy(const Tensor& source, const Tensor& token_index, int64_t slots, int64_t row_elements) {
  TokenCopy copy;
  copy.source = source.data;
  copy.token_index = token_index.as<int32_t>();
  copy.tokens = token_index.dim(0);
  copy.slots = slots;
  copy.row_bytes = static_cast<size_t>(row_elements) * element_size(source.element);
  return copy;
}

}  // namespace

PackingPlanNode::PackingPlanNode(const Attributes& node)
    : keep_slots_(node.integers("keep_slots")), capacity_(node.integer("capacity")) {
  if (capacity_ < 0) node.refuse("capacity must not be negative");
}

PackingInput PackingPlanNode::problem(const Inputs& inputs) const {
  using In = gen::PackingPlanInput;
  const Tensor mask = inputs.input(In::attention_mask, 2);
  const Tensor keep = inputs.input(In::keep_mask, -1);
  if (!is_mask(mask.element) || (keep.present && !is_mask(keep.element))) {
    inputs.fail("masks must be int32, int64, bool or float");
  }
  if (keep.present && keep.shape != mask.shape) inputs.fail("keep_mask must have the shape of attention_mask");
  PackingInput problem;
  problem.mask_element = mask.element;
  problem.mask = mask.data;
  problem.keep_element = keep.element;
  problem.keep_mask = keep.data;
  problem.keep_slots = keep_slots_.data();
  problem.keep_count = static_cast<int64_t>(keep_slots_.size());
  problem.rows = mask.dim(0);
  problem.slots = mask.dim(1);
  problem.capacity = capacity_;
  if (!packing_fits(problem.rows, problem.slots)) inputs.fail("the batch has more than 2^31 slots");
  return problem;
}

CopyProblem pack_tokens_problem(const Inputs& inputs) {
  using In = gen::PackTokensInput;
  const Tensor x = inputs.input(In::x);
  const Tensor token_index = inputs.input(In::token_index, 1);
  if (x.shape.size() < 2) inputs.fail("x must have at least the axes [B, S]");
  std::vector<int64_t> shape(x.shape.begin() + 1, x.shape.end());
  shape[0] = token_index.dim(0);
  return {make_copy(x, token_index, x.dim(0) * x.dim(1), product(x.shape, 2)), shape};
}

CopyProblem unpack_tokens_problem(const Inputs& inputs) {
  using In = gen::UnpackTokensInput;
  const Tensor packed = inputs.input(In::packed);
  const Tensor token_index = inputs.input(In::token_index, 1);
  const Tensor like = inputs.input(In::like);
  const Tensor key_position = inputs.input(In::key_position, -1);
  if (like.shape.size() < 2) inputs.fail("like must have at least the axes [B, S]");
  if (packed.shape.empty() || packed.dim(0) != token_index.dim(0) ||
      (key_position.present && key_position.shape != token_index.shape)) {
    inputs.fail("packed, token_index and key_position must have the same number of tokens");
  }
  std::vector<int64_t> shape = {like.dim(0), like.dim(1)};
  shape.insert(shape.end(), packed.shape.begin() + 1, packed.shape.end());
  TokenCopy copy = make_copy(packed, token_index, like.dim(0) * like.dim(1), product(packed.shape, 1));
  copy.key_position = key_position.as<int32_t>();
  return {copy, shape};
}

}  // namespace raggedrt
