#include "node/merge_states.h"
#include "ort/adapter.h"

namespace raggedrt::ort {
namespace {

using In = gen::MergeAttentionStatesInput;
using Out = gen::MergeAttentionStatesOutput;

class MergeAttentionStatesKernel final : public Kernel {
 public:
  explicit MergeAttentionStatesKernel(const NodeInfo&) {}

  void compute(Context& context) const override {
    MergeProblem problem = merge_states_problem(context);
    problem.output = context.output(Out::output, context.input(In::output1).shape);
    problem.lse = static_cast<float*>(context.output(Out::lse, context.input(In::lse1).shape));
    merge_attention_states(problem, context);
  }
};

}  // namespace

const OpAdapter kMergeAttentionStatesAdapter = {&gen::kMergeAttentionStates, 0,
                                                create_kernel<MergeAttentionStatesKernel>};

}  // namespace raggedrt::ort
