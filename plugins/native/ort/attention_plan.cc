#include <algorithm>

#include "node/attention_plan.h"
#include "ort/adapter.h"

namespace raggedrt::ort {
namespace {

using Out = gen::AttentionPlanOutput;

// The CPU's kernels divide their work themselves: a list of nothing.
class AttentionPlanKernel final : public Kernel {
 public:
  explicit AttentionPlanKernel(const NodeInfo&) {}

  void compute(Context& context) const override {
    std::fill_n(static_cast<int32_t*>(context.output(Out::work_list, {kNothingListed})), kNothingListed, 0);
  }
};

}  // namespace

namespace feature = gen::feature;

const OpAdapter kAttentionPlanAdapter = {&gen::kAttentionPlan,
                                         feature::kCausal | feature::kPositions | feature::kWindow |
                                             feature::kGlobalTokens | feature::kDilation | feature::kBlockMask,
                                         create_kernel<AttentionPlanKernel>};

}  // namespace raggedrt::ort
