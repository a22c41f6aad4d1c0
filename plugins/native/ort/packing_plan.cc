#include "cpu/packing_plan.h"

#include "node/packing.h"
#include "ort/adapter.h"

namespace raggedrt::ort {
namespace {

using Out = gen::PackingPlanOutput;

class PackingPlanKernel final : public Kernel {
 public:
  explicit PackingPlanKernel(const NodeInfo& node) : node_(node) {}

  void compute(Context& context) const override {
    const PackingInput problem = node_.problem(context);
    const PackingPlan plan(problem);
    PackingOutput output;
    output.token_index = static_cast<int32_t*>(context.output(Out::token_index, {plan.tokens()}));
    output.cu_seqlens = static_cast<int32_t*>(context.output(Out::cu_seqlens, {problem.rows + 1}));
    output.position = static_cast<int32_t*>(context.output(Out::position, {plan.tokens()}));
    output.key_position = static_cast<int32_t*>(context.output(Out::key_position, {plan.tokens()}));
    plan.write(output);
  }

 private:
  PackingPlanNode node_;
};

}  // namespace

const OpAdapter kPackingPlanAdapter = {&gen::kPackingPlan,
                                       gen::feature::kKeepSlots | gen::feature::kKeepMask | gen::feature::kCapacity,
                                       create_kernel<PackingPlanKernel>};

}  // namespace raggedrt::ort
