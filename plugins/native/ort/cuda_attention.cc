#include "node/attention_plan.h"
#include "node/merge_states.h"
#include "node/ragged_attention.h"
#include "ort/cuda_adapter.h"

namespace raggedrt::ort {
namespace {

namespace feature = gen::feature;

class CudaRaggedAttentionKernel final : public Kernel {
 public:
  explicit CudaRaggedAttentionKernel(const NodeInfo& node) : node_(node) {}

  void compute(Context& context) const override {
    using In = gen::RaggedAttentionInput;
    using Out = gen::RaggedAttentionOutput;
    cuda::AttentionCall call;
    call.problem = node_.problem(context);
    call.max_seqlen_q = context.input(In::max_seqlen_q, 1).dim(0);
    call.max_seqlen_k = context.input(In::max_seqlen_k, 1).dim(0);
    const Tensor list = context.input(In::work_list, -1);
    if (list.present && product(list.shape) > kNothingListed) {
      call.work_list = list.as<int32_t>();
      call.work_list_size = product(list.shape);
    }
    call.problem.output = context.output(Out::output, node_.output_shape(call.problem));
    call.problem.lse = static_cast<float*>(context.output(Out::lse, node_.lse_shape(call.problem)));
    launch(context, call);
  }

 private:
  RaggedAttentionNode node_;
};

class CudaAttentionPlanKernel final : public Kernel {
 public:
  explicit CudaAttentionPlanKernel(const NodeInfo& node) : node_(node) {}

  void compute(Context& context) const override {
    using In = gen::AttentionPlanInput;
    cuda::AttentionPlanCall call;
    call.problem = node_.problem(context);
    call.max_seqlen_q = context.input(In::max_seqlen_q, 1).dim(0);
    call.max_seqlen_k = context.input(In::max_seqlen_k, 1).dim(0);
    const int64_t size = cuda::work_list_size(call.problem);
    call.work_list = static_cast<int32_t*>(context.output(gen::AttentionPlanOutput::work_list, {size}));
    launch(context, call);
  }

 private:
  AttentionPlanNode node_;
};

class CudaMergeAttentionStatesKernel final : public Kernel {
 public:
  explicit CudaMergeAttentionStatesKernel(const NodeInfo&) {}

  void compute(Context& context) const override {
    using In = gen::MergeAttentionStatesInput;
    using Out = gen::MergeAttentionStatesOutput;
    cuda::MergeCall call{merge_states_problem(context)};
    call.problem.output = context.output(Out::output, context.input(In::output1).shape);
    call.problem.lse = static_cast<float*>(context.output(Out::lse, context.input(In::lse1).shape));
    launch(context, call);
  }
};

}  // namespace

const OpAdapter kCudaRaggedAttentionAdapter = {
    &gen::kRaggedAttention,
    feature::kCausal | feature::kGroupedQuery | feature::kLse | feature::kPositions | feature::kValueHeadSize |
        feature::kCrossLengths | feature::kSoftcap | feature::kWindow | feature::kGlobalTokens | feature::kDilation |
        feature::kBlockMask | feature::kBias | feature::kDistanceBias | feature::kDisentangled | feature::kSink |
        feature::kAlibi | feature::kWorkList,
    create_kernel<CudaRaggedAttentionKernel>, kCudaProvider};
const OpAdapter kCudaAttentionPlanAdapter = {&gen::kAttentionPlan,
                                             feature::kCausal | feature::kPositions | feature::kWindow |
                                                 feature::kGlobalTokens | feature::kDilation | feature::kBlockMask,
                                             create_kernel<CudaAttentionPlanKernel>, kCudaProvider};
const OpAdapter kCudaMergeAttentionStatesAdapter = {&gen::kMergeAttentionStates, 0,
                                                    create_kernel<CudaMergeAttentionStatesKernel>, kCudaProvider};

}  // namespace raggedrt::ort
