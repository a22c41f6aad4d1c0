#include "cpu/packing_plan.h"

#include "ort/adapter.h"

namespace raggedrt::ort {
namespace {

using In = gen::PackingPlanInput;
using Out = gen::PackingPlanOutput;

bool is_mask(Element element) {
  return element == Element::kInt32 || element == Element::kInt64 || element == Element::kBool ||
         element == Element::kFloat;
}

class PackingPlanKernel final : public Kernel {
 public:
  explicit PackingPlanKernel(const NodeInfo& node)
      : keep_slots_(node.integers("keep_slots")), capacity_(node.integer("capacity")) {
    if (capacity_ < 0) node.refuse("capacity must not be negative");
  }

  void compute(Context& context) const override {
    const Tensor mask = context.input(In::attention_mask, 2);
    const Tensor keep = context.input(In::keep_mask, -1);
    if (!is_mask(mask.element) || (keep.present && !is_mask(keep.element))) {
      context.fail("masks must be int32, int64, bool or float");
    }
    if (keep.present && keep.shape != mask.shape) context.fail("keep_mask must have the shape of attention_mask");
    PackingInput input;
    input.mask_element = mask.element;
    input.mask = mask.data;
    input.keep_element = keep.element;
    input.keep_mask = keep.data;
    input.keep_slots = keep_slots_.data();
    input.keep_count = static_cast<int64_t>(keep_slots_.size());
    input.rows = mask.dim(0);
    input.slots = mask.dim(1);
    input.capacity = capacity_;
    if (!packing_fits(input.rows, input.slots)) context.fail("the batch has more than 2^31 slots");
    const PackingPlan plan(input);
    PackingOutput output;
    output.token_index = static_cast<int32_t*>(context.output(Out::token_index, {plan.tokens()}));
    output.cu_seqlens = static_cast<int32_t*>(context.output(Out::cu_seqlens, {input.rows + 1}));
    output.position = static_cast<int32_t*>(context.output(Out::position, {plan.tokens()}));
    output.key_position = static_cast<int32_t*>(context.output(Out::key_position, {plan.tokens()}));
    plan.write(output);
  }

 private:
  std::vector<int64_t> keep_slots_;
  int64_t capacity_;
};

}  // namespace

const OpAdapter kPackingPlanAdapter = {&gen::kPackingPlan,
                                       gen::feature::kKeepSlots | gen::feature::kKeepMask | gen::feature::kCapacity,
                                       create_kernel<PackingPlanKernel>};

}  // namespace raggedrt::ort
