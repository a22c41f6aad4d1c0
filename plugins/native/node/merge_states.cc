#include "node/merge_states.h"

#include "ops.gen.h"

namespace raggedrt {

MergeProblem merge_states_problem(const Inputs& inputs) {
  using In = gen::MergeAttentionStatesInput;
  const Tensor output1 = inputs.input(In::output1, 2);
  const Tensor lse1 = inputs.input(In::lse1, 2);
  const Tensor output2 = inputs.input(In::output2, 2);
  const Tensor lse2 = inputs.input(In::lse2, 2);
  MergeProblem problem;
  problem.tokens = output1.dim(0);
  problem.heads = static_cast<int>(lse1.dim(0));
  if (output1.shape != output2.shape || lse1.shape != lse2.shape || lse1.dim(1) != problem.tokens ||
      problem.heads == 0 || output1.dim(1) % problem.heads != 0) {
    inputs.fail("outputs must be [T, N*H] and lse [N, T]");
  }
  problem.element = output1.element;
  problem.output1 = output1.data;
  problem.output2 = output2.data;
  problem.lse1 = lse1.as<float>();
  problem.lse2 = lse2.as<float>();
  problem.head_size = static_cast<int>(output1.dim(1) / problem.heads);
  return problem;
}

}  // namespace raggedrt
