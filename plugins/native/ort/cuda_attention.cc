#include <algorithm>

#include "node/merge_states.h"
#include "node/ragged_attention.h"
#include "ort/cuda_adapter.h"

namespace raggedrt::ort {
namespace {

namespace feature = gen::feature;

constexpr int64_t kNothingListed = 4;  // length of a work list of a back end that divides work in another way

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
  explicit CudaAttentionPlanKernel(const NodeInfo& node)
      : causal_(node.integer("causal") != 0), block_size_(static_cast<int>(node.integer("block_size"))) {
    mask_.window_left = node.integer("window_left");
    mask_.window_right = node.integer("window_right");
    mask_.dilation = node.integer("dilation");
    for (const int64_t token : node.integers("global_tokens")) {
      if (token >= 0 && token <= INT32_MAX) global_tokens_.push_back(static_cast<int32_t>(token));
    }
    std::sort(global_tokens_.begin(), global_tokens_.end());
  }

  void compute(Context& context) const override {
    using In = gen::AttentionPlanInput;
    cuda::AttentionPlanCall call;
    AttentionProblem& problem = call.problem;
    problem.causal = causal_;
    problem.mask = mask_;
    problem.mask.global_tokens = global_tokens_.data();
    problem.mask.global_count = static_cast<int64_t>(global_tokens_.size());
    problem.total_q = context.input(In::tokens_q).dim(0);
    problem.total_k = context.input(In::tokens_k).dim(0);
    call.max_seqlen_q = context.input(In::max_seqlen_q, 1).dim(0);
    call.max_seqlen_k = context.input(In::max_seqlen_k, 1).dim(0);
    const Tensor offsets_q = context.input(In::cu_seqlens_q, 1);
    const Tensor offsets_k = context.input(In::cu_seqlens_k, 1);
    if (offsets_q.dim(0) < 1 || offsets_q.shape != offsets_k.shape) {
      context.fail("cu_seqlens_q and cu_seqlens_k must both be [B+1]");
    }
    problem.sequences = offsets_q.dim(0) - 1;
    problem.cu_seqlens_q = offsets_q.as<int32_t>();
    problem.cu_seqlens_k = offsets_k.as<int32_t>();
    read_positions(context, problem);
    read_tiles(context, problem);
    const int64_t size = cuda::work_list_size(problem);
    call.work_list = static_cast<int32_t*>(context.output(gen::AttentionPlanOutput::work_list, {size}));
    launch(context, call);
  }

 private:
  static void read_positions(const Context& context, AttentionProblem& problem) {
    using In = gen::AttentionPlanInput;
    const Tensor queries = context.input(In::positions_q);
    const Tensor keys = context.input(In::positions_k);
    if ((queries.present && product(queries.shape) != problem.total_q) ||
        (keys.present && product(keys.shape) != problem.total_k)) {
      context.fail("positions_q and positions_k must be [Tq] and [Tk]");
    }
    problem.positions_q = queries.as<int32_t>();
    problem.positions_k = keys.as<int32_t>();
  }

  void read_tiles(const Context& context, AttentionProblem& problem) const {
    const Tensor ptr = context.input(gen::AttentionPlanInput::tile_ptr);
    if (ptr.present != (block_size_ != 0)) context.fail("a tile list is tile_ptr and block_size, both or none");
    if (!ptr.present) return;
    if (ptr.shape.size() != 3 || ptr.dim(1) < 1 || ptr.dim(2) < 1) context.fail("tile_ptr must be [B|1, G, R+1]");
    problem.tiles.ptr = ptr.as<int32_t>();
    problem.tiles.sequences = ptr.dim(0);
    problem.tiles.groups = ptr.dim(1);
    problem.tiles.rows = ptr.dim(2) - 1;
    problem.tiles.block_size = block_size_;
  }

  bool causal_;
  int block_size_;
  MaskTerms mask_;
  std::vector<int32_t> global_tokens_;  // ascending
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
