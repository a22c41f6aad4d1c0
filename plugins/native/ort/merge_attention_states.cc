#include "cpu/merge_states.h"
#include "ort/adapter.h"

namespace raggedrt::ort {
namespace {

using In = gen::MergeAttentionStatesInput;
using Out = gen::MergeAttentionStatesOutput;

class MergeAttentionStatesKernel final : public Kernel {
 public:
  explicit MergeAttentionStatesKernel(const NodeInfo&) {}

  void compute(Context& context) const override {
    const Tensor output1 = context.input(In::output1, 2);
    const Tensor lse1 = context.input(In::lse1, 2);
    const Tensor output2 = context.input(In::output2, 2);
    const Tensor lse2 = context.input(In::lse2, 2);
    MergeProblem problem;
    problem.tokens = output1.dim(0);
    problem.heads = static_cast<int>(lse1.dim(0));
    if (output1.shape != output2.shape || lse1.shape != lse2.shape || lse1.dim(1) != problem.tokens ||
        problem.heads == 0 || output1.dim(1) % problem.heads != 0) {
      context.fail("outputs must be [T, N*H] and lse [N, T]");
    }
    problem.element = output1.element;
    problem.output1 = output1.data;
    problem.output2 = output2.data;
    problem.lse1 = lse1.as<float>();
    problem.lse2 = lse2.as<float>();
    problem.head_size = static_cast<int>(output1.dim(1) / problem.heads);
    problem.output = context.output(Out::output, output1.shape);
    problem.lse = static_cast<float*>(context.output(Out::lse, lse1.shape));
    merge_attention_states(problem, context);
  }
};

}  // namespace

const OpAdapter kMergeAttentionStatesAdapter = {&gen::kMergeAttentionStates, 0,
                                                create_kernel<MergeAttentionStatesKernel>};

}  // namespace raggedrt::ort
