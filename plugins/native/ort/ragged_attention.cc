#include <cmath>

#include "cpu/attention.h"
#include "ort/adapter.h"

namespace raggedrt::ort {
namespace {

using In = gen::RaggedAttentionInput;
using Out = gen::RaggedAttentionOutput;

constexpr size_t kFirstUnservedInput = In::tile_ptr;

class RaggedAttentionKernel final : public Kernel {
 public:
  explicit RaggedAttentionKernel(const NodeInfo& node)
      : num_heads_(static_cast<int>(node.integer("num_heads"))),
        kv_num_heads_(static_cast<int>(node.integer("kv_num_heads"))),
        scale_(node.real("scale")),
        causal_(node.integer("causal") != 0) {
    if (kv_num_heads_ == 0) kv_num_heads_ = num_heads_;
    if (num_heads_ <= 0 || kv_num_heads_ <= 0 || num_heads_ % kv_num_heads_ != 0) {
      node.refuse("num_heads must be a positive multiple of kv_num_heads");
    }
    // A node that asks for more than its feature bits say would be computed without it.
    if (node.real("softcap") != 0.0f || node.integer("window_left") >= 0 || node.integer("window_right") >= 0 ||
        node.integer("dilation") != 1 || node.integer("block_size") != 0 || !node.integers("global_tokens").empty()) {
      node.refuse("softcap, windows, dilation, global tokens and tile lists are not served");
    }
  }

  void compute(Context& context) const override {
    const Tensor query = context.input(In::query, 2);
    const Tensor key = context.input(In::key, 2);
    const Tensor value = context.input(In::value, 2);
    AttentionProblem problem;
    problem.element = query.element;
    problem.query = query.data;
    problem.key = key.data;
    problem.value = value.data;
    problem.total_q = query.dim(0);
    problem.total_k = key.dim(0);
    problem.num_heads = num_heads_;
    problem.kv_num_heads = kv_num_heads_;
    problem.head_size = static_cast<int>(query.dim(1) / num_heads_);
    problem.value_head_size = static_cast<int>(value.dim(1) / kv_num_heads_);
    if (query.dim(1) != int64_t{problem.head_size} * num_heads_ ||
        key.dim(1) != int64_t{problem.head_size} * kv_num_heads_ ||
        value.dim(1) != int64_t{problem.value_head_size} * kv_num_heads_ || value.dim(0) != problem.total_k) {
      context.fail("query, key and value must be [Tq, N*H], [Tk, Nkv*H] and [Tk, Nkv*Hv]");
    }
    problem.scale = scale_ != 0.0f ? scale_ : 1.0f / std::sqrt(static_cast<float>(problem.head_size));
    problem.causal = causal_;
    read_sequences(context, problem);
    for (size_t index = kFirstUnservedInput; index < gen::kRaggedAttention.inputs.size(); ++index) {
      if (context.input(index).present) {
        context.fail(std::string("input '") + gen::kRaggedAttention.inputs[index].name + "' is not served");
      }
    }
    if (const char* refusal = check_attention(problem)) context.fail(refusal);
    problem.output = context.output(Out::output, {problem.total_q, int64_t{num_heads_} * problem.value_head_size});
    problem.lse = static_cast<float*>(context.output(Out::lse, {num_heads_, problem.total_q}));
    ragged_attention(problem, context);
  }

 private:
  static void read_sequences(const Context& context, AttentionProblem& problem) {
    const Tensor offsets_q = context.input(In::cu_seqlens_q, 1);
    const Tensor offsets_k = context.input(In::cu_seqlens_k, 1);
    if (offsets_q.dim(0) < 1 || offsets_q.shape != offsets_k.shape) {
      context.fail("cu_seqlens_q and cu_seqlens_k must both be [B+1]");
    }
    problem.cu_seqlens_q = offsets_q.as<int32_t>();
    problem.cu_seqlens_k = offsets_k.as<int32_t>();
    problem.sequences = offsets_q.dim(0) - 1;
    const Tensor positions_q = context.input(In::positions_q, -1);
    const Tensor positions_k = context.input(In::positions_k, -1);
    if ((positions_q.present && product(positions_q.shape) != problem.total_q) ||
        (positions_k.present && product(positions_k.shape) != problem.total_k)) {
      context.fail("positions_q and positions_k must be [Tq] and [Tk]");
    }
    problem.positions_q = positions_q.as<int32_t>();
    problem.positions_k = positions_k.as<int32_t>();
  }

  int num_heads_;
  int kv_num_heads_;
  float scale_;
  bool causal_;
};

}  // namespace

namespace feature = gen::feature;

const OpAdapter kRaggedAttentionAdapter = {
    &gen::kRaggedAttention,
    feature::kCausal | feature::kGroupedQuery | feature::kLse | feature::kPositions | feature::kValueHeadSize |
        feature::kCrossLengths,
    create_kernel<RaggedAttentionKernel>};

}  // namespace raggedrt::ort
