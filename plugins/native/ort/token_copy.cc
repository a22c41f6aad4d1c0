#include "cpu/token_copy.h"

#include "node/packing.h"
#include "ort/adapter.h"

namespace raggedrt::ort {
namespace {

void check_indices(const Context& context, const TokenCopy& copy) {
  const int64_t token = first_out_of_range(copy);
  if (token < 0) return;
  context.fail("token_index[" + std::to_string(token) + "] is " + std::to_string(copy.token_index[token]) +
               ", past the last of " + std::to_string(copy.slots) + " slots");
}

class PackTokensKernel final : public Kernel {
 public:
  explicit PackTokensKernel(const NodeInfo&) {}

  void compute(Context& context) const override {
    CopyProblem problem = pack_tokens_problem(context);
    check_indices(context, problem.copy);
    problem.copy.target = context.output(gen::PackTokensOutput::packed, problem.shape);
    pack_tokens(problem.copy, context);
  }
};

class UnpackTokensKernel final : public Kernel {
 public:
  explicit UnpackTokensKernel(const NodeInfo&) {}

  void compute(Context& context) const override {
    CopyProblem problem = unpack_tokens_problem(context);
    check_indices(context, problem.copy);
    problem.copy.target = context.output(gen::UnpackTokensOutput::x, problem.shape);
    unpack_tokens(problem.copy, context);
  }
};

}  // namespace

const OpAdapter kPackTokensAdapter = {&gen::kPackTokens, 0, create_kernel<PackTokensKernel>};
const OpAdapter kUnpackTokensAdapter = {&gen::kUnpackTokens, 0, create_kernel<UnpackTokensKernel>};

}  // namespace raggedrt::ort
