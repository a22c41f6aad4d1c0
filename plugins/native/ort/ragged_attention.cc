#include "node/ragged_attention.h"

#include "ort/adapter.h"

namespace raggedrt::ort {
namespace {

using Out = gen::RaggedAttentionOutput;

class RaggedAttentionKernel final : public Kernel {
 public:
  explicit RaggedAttentionKernel(const NodeInfo& node) : node_(node) {}

  void compute(Context& context) const override {
    AttentionProblem problem = node_.problem(context);
    if (const char* refusal = check_attention(problem)) context.fail(refusal);
    problem.output = context.output(Out::output, node_.output_shape(problem));
    problem.lse = static_cast<float*>(context.output(Out::lse, node_.lse_shape(problem)));
    ragged_attention(problem, context);
  }

 private:
  RaggedAttentionNode node_;
};

}  // namespace

namespace feature = gen::feature;

const OpAdapter kRaggedAttentionAdapter = {
    &gen::kRaggedAttention,
    feature::kCausal | feature::kGroupedQuery | feature::kLse | feature::kPositions | feature::kValueHeadSize |
        feature::kCrossLengths | feature::kSoftcap | feature::kWindow | feature::kGlobalTokens | feature::kDilation |
        feature::kBlockMask | feature::kBias | feature::kDistanceBias | feature::kDisentangled | feature::kSink |
        feature::kAlibi | feature::kWorkList,
    create_kernel<RaggedAttentionKernel>};

}  // namespace raggedrt::ort
