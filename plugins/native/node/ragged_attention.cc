#include "node/ragged_attention.h"

#include <algorithm>
#include <cmath>

#include "cpu/block_mask.h"
#include "ops.gen.h"

namespace raggedrt {
namespace {

using In = gen::RaggedAttentionInput;

}  // namespace

RaggedAttentionNode::RaggedAttentionNode(const Attributes& node)
    : num_heads_(static_cast<int>(node.integer("num_heads"))),
      kv_num_heads_(static_cast<int>(node.integer("kv_num_heads"))),
      scale_(node.real("scale")),
      softcap_(node.real("softcap")),
      causal_(node.integer("causal") != 0),
      block_size_(node.integer("block_size")) {
  if (kv_num_heads_ == 0) kv_num_heads_ = num_heads_;
  if (num_heads_ <= 0 || kv_num_heads_ <= 0 || num_heads_ % kv_num_heads_ != 0) {
    node.refuse("num_heads must be a positive multiple of kv_num_heads");
  }
  if (!(softcap_ >= 0.0f)) node.refuse("softcap must not be negative");
  if (block_size_ < 0 || block_size_ > kLargestBlock || block_size_ % 8 != 0) {
    node.refuse("block_size must be a multiple of 8, at most 1024");
  }
  mask_.window_left = node.integer("window_left");
  mask_.window_right = node.integer("window_right");
  mask_.dilation = node.integer("dilation");
  if (mask_.dilation < 1) node.refuse("dilation must be at least 1");
  if (std::max(mask_.window_left, mask_.window_right) > INT32_MAX) node.refuse("a window exceeds 32 bits");
  for (const int64_t token : node.integers("global_tokens")) {
    if (token >= 0 && token <= INT32_MAX) global_tokens_.push_back(static_cast<int32_t>(token));
  }
  std::sort(global_tokens_.begin(), global_tokens_.end());
  check_features(node);
}

AttentionProblem RaggedAttentionNode::problem(const Inputs& inputs) const {
  AttentionProblem problem;
  problem.num_heads = num_heads_;
  problem.kv_num_heads = kv_num_heads_;
  problem.causal = causal_;
  problem.mask = mask_;
  problem.mask.global_tokens = global_tokens_.data();
  problem.mask.global_count = static_cast<int64_t>(global_tokens_.size());
  read_rows(inputs, problem);
  read_sequences(inputs, problem);
  read_tiles(inputs, problem);
  read_biases(inputs, problem);
  read_disentangled(inputs, problem);
  return problem;
}

// A node that asks for more than its feature bits say might meet a library that ignores it.
void RaggedAttentionNode::check_features(const Attributes& node) const {
  namespace feature = gen::feature;
  uint64_t used = 0;
  if (softcap_ != 0.0f) used |= feature::kSoftcap;
  if (mask_.window_left >= 0 || mask_.window_right >= 0) used |= feature::kWindow;
  if (mask_.dilation > 1) used |= feature::kDilation;
  if (!global_tokens_.empty()) used |= feature::kGlobalTokens;
  if (block_size_ != 0) used |= feature::kBlockMask;
  if ((used & ~static_cast<uint64_t>(node.integer("features"))) != 0) {
    node.refuse("the attribute 'features' does not tell of the node's masks and caps; convert the model again");
  }
}

void RaggedAttentionNode::read_rows(const Inputs& inputs, AttentionProblem& problem) const {
  const Tensor query = inputs.input(In::query, 2);
  const Tensor key = inputs.input(In::key, 2);
  const Tensor value = inputs.input(In::value, 2);
  problem.element = query.element;
  problem.query = query.data;
  problem.key = key.data;
  problem.value = value.data;
  problem.total_q = query.dim(0);
  problem.total_k = key.dim(0);
  problem.head_size = static_cast<int>(query.dim(1) / num_heads_);
  problem.value_head_size = static_cast<int>(value.dim(1) / kv_num_heads_);
  if (query.dim(1) != int64_t{problem.head_size} * num_heads_ ||
      key.dim(1) != int64_t{problem.head_size} * kv_num_heads_ ||
      value.dim(1) != int64_t{problem.value_head_size} * kv_num_heads_ || value.dim(0) != problem.total_k) {
    inputs.fail("query, key and value must be [Tq, N*H], [Tk, Nkv*H] and [Tk, Nkv*Hv]");
  }
  problem.scale = scale_ != 0.0f ? scale_ : 1.0f / std::sqrt(static_cast<float>(problem.head_size));
}

void RaggedAttentionNode::read_sequences(const Inputs& inputs, AttentionProblem& problem) {
  const Tensor offsets_q = inputs.input(In::cu_seqlens_q, 1);
  const Tensor offsets_k = inputs.input(In::cu_seqlens_k, 1);
  if (offsets_q.dim(0) < 1 || offsets_q.shape != offsets_k.shape) {
    inputs.fail("cu_seqlens_q and cu_seqlens_k must both be [B+1]");
  }
  problem.cu_seqlens_q = offsets_q.as<int32_t>();
  problem.cu_seqlens_k = offsets_k.as<int32_t>();
  problem.sequences = offsets_q.dim(0) - 1;
  const Tensor positions_q = inputs.input(In::positions_q, -1);
  const Tensor positions_k = inputs.input(In::positions_k, -1);
  if ((positions_q.present && product(positions_q.shape) != problem.total_q) ||
      (positions_k.present && product(positions_k.shape) != problem.total_k)) {
    inputs.fail("positions_q and positions_k must be [Tq] and [Tk]");
  }
  problem.positions_q = positions_q.as<int32_t>();
  problem.positions_k = positions_k.as<int32_t>();
}

void RaggedAttentionNode::read_tiles(const Inputs& inputs, AttentionProblem& problem) const {
  const Tensor group = inputs.input(In::head_group);
  const Tensor ptr = inputs.input(In::tile_ptr);
  const Tensor col = inputs.input(In::tile_col);
  const Tensor tag = inputs.input(In::tile_tag);
  const Tensor bits = inputs.input(In::tile_bits);
  if (ptr.present != col.present || ptr.present != tag.present || ptr.present != bits.present ||
      ptr.present != (block_size_ != 0) || (group.present && !ptr.present)) {
    inputs.fail("a tile list is tile_ptr, tile_col, tile_tag, tile_bits and block_size, all or none");
  }
  if (!ptr.present) return;
  const int64_t words = block_size_ * block_size_ / 32;
  if (ptr.shape.size() != 3 || ptr.dim(1) < 1 || ptr.dim(2) < 1 || col.shape.size() != 1 || tag.shape != col.shape ||
      bits.shape.size() != 2 || bits.dim(1) != words || (group.present && group.shape != heads())) {
    inputs.fail("a tile list must be [B|1, G, R+1], [E], [E], [P, block_size^2 / 32] and head_group [N]");
  }
  TileList& tiles = problem.tiles;
  tiles = {ptr.as<int32_t>(), col.as<int32_t>(), tag.as<int32_t>(), bits.as<int32_t>(), group.as<int32_t>()};
  tiles.sequences = ptr.dim(0);
  tiles.groups = ptr.dim(1);
  tiles.rows = ptr.dim(2) - 1;
  tiles.entries = col.dim(0);
  tiles.bitmaps = bits.dim(0);
  tiles.block_size = static_cast<int>(block_size_);
}

void RaggedAttentionNode::read_biases(const Inputs& inputs, AttentionProblem& problem) const {
  ScoreTerms& scores = problem.scores;
  scores.softcap = softcap_;
  if (const Tensor bias = inputs.input(In::bias); bias.present) {
    if (bias.shape.size() != 4 || (bias.dim(0) != 1 && bias.dim(0) != problem.sequences) ||
        (bias.dim(1) != 1 && bias.dim(1) != num_heads_) || bias.dim(2) != bias.dim(3)) {
      inputs.fail("bias must be [1|B, 1|N, S, S]");
    }
    scores.bias = bias.data;
    scores.bias_sequences = bias.dim(0);
    scores.bias_heads = bias.dim(1);
    scores.bias_size = bias.dim(2);
  }
  if (const Tensor table = inputs.input(In::distance_bias); table.present) {
    if (table.shape.size() != 2 || (table.dim(0) != 1 && table.dim(0) != num_heads_)) {
      inputs.fail("distance_bias must be [1|N, 2P-1]");
    }
    scores.distance_bias = table.data;
    scores.distance_heads = table.dim(0);
    scores.distance_count = table.dim(1);
  }
  const Tensor sink = inputs.input(In::head_sink);
  const Tensor slopes = inputs.input(In::alibi_slopes);
  if ((sink.present && sink.shape != heads()) || (slopes.present && slopes.shape != heads())) {
    inputs.fail("head_sink and alibi_slopes must be [N]");
  }
  scores.head_sink = sink.as<float>();
  scores.alibi_slopes = slopes.as<float>();
}

void RaggedAttentionNode::read_disentangled(const Inputs& inputs, AttentionProblem& problem) const {
  ScoreTerms& scores = problem.scores;
  const Tensor query = inputs.input(In::rel_query);
  const Tensor key = inputs.input(In::rel_key);
  const Tensor bucket = inputs.input(In::rel_bucket);
  if (bucket.present != (query.present || key.present)) {
    inputs.fail("disentangled terms are rel_bucket with rel_query, rel_key or both");
  }
  if (!bucket.present) return;
  const int64_t size = query.present ? query.shape.back() : key.shape.back();
  using Shape = std::vector<int64_t>;
  if ((query.present && query.shape != Shape{problem.total_q, num_heads_, size}) ||
      (key.present && key.shape != Shape{problem.total_k, num_heads_, size}) || bucket.shape.size() != 1) {
    inputs.fail("rel_query, rel_key and rel_bucket must be [Tq, N, C], [Tk, N, C] and [2P-1]");
  }
  scores.rel_query = query.data;
  scores.rel_key = key.data;
  scores.rel_bucket = bucket.as<int32_t>();
  scores.rel_size = size;
  scores.bucket_count = bucket.dim(0);
}

}  // namespace raggedrt
