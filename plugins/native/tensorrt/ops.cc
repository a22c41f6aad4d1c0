// The ops as plugins: symbolic shapes, and calls of the launcher.
#include "cuda/launch/attention_problem.h"
#include "node/attention_plan.h"
#include "node/block_mask.h"
#include "node/merge_states.h"
#include "node/packing.h"
#include "node/ragged_attention.h"
#include "tensorrt/plugin.h"
#include "tensorrt/real_values.h"

namespace raggedrt::tensorrt {
namespace {

using cuda::Device;
using cuda::Status;
using cuda::Stream;

// What is the same for every op: a call made of attributes and tensors. `Derived` has call(tensors).
template <typename Derived>
class CallingOp : public PluginOp {
 public:
  Status check(const Tensors& tensors) const override { return cuda::check(self().call(tensors)); }
  Status workspace_bytes(const Device& device, const Tensors& tensors, size_t& bytes) const override {
    return cuda::workspace_bytes(device, self().call(tensors), bytes);
  }
  Status launch(const Device& device, const Tensors& tensors, void* workspace, Stream stream) const override {
    return cuda::launch(device, self().call(tensors), workspace, stream);
  }

 private:
  const Derived& self() const { return static_cast<const Derived&>(*this); }
};

// Rows past the tokens are filled as those of a capacity are, so the outputs may be as large as the batch.
class PackingPlanOp final : public CallingOp<PackingPlanOp> {
 public:
  explicit PackingPlanOp(const Attributes& attributes)
      : node_(attributes), capacity_(attributes.integer("capacity")) {}

  void shapes(Shapes& shapes) const override {
    using In = gen::PackingPlanInput;
    using Out = gen::PackingPlanOutput;
    const Dim rows = shapes.dim(In::attention_mask, 0);
    const Dim tokens = shapes.found_at_run_time(kTokenCount, most_tokens(shapes));
    shapes.set(Out::token_index, {tokens});
    shapes.set(Out::cu_seqlens, {shapes.plus(rows, shapes.constant(1))});
    shapes.set(Out::position, {tokens});
    shapes.set(Out::key_position, {tokens});
  }

  cuda::PackingPlanCall call(const Tensors& tensors) const {
    using Out = gen::PackingPlanOutput;
    cuda::PackingPlanCall call;
    call.input = node_.problem(tensors);
    call.tokens = plan_rows(call.input.rows * call.input.slots, capacity_);
    call.output = {tensors.output<int32_t>(Out::token_index), tensors.output<int32_t>(Out::cu_seqlens),
                   tensors.output<int32_t>(Out::position), tensors.output<int32_t>(Out::key_position)};
    call.token_count = tensors.output<int64_t>(kTokenCount);
    return call;
  }

 private:
  static constexpr size_t kTokenCount = gen::PackingPlanOutput::key_position + 1;

  Dim most_tokens(Shapes& shapes) const {
    using In = gen::PackingPlanInput;
    const Dim slots = shapes.times(shapes.dim(In::attention_mask, 0), shapes.dim(In::attention_mask, 1));
    if (capacity_ == 0) return slots;
    const Dim multiple = shapes.constant(capacity_);
    return shapes.at_least(shapes.times(shapes.divided_up(slots, multiple), multiple), capacity_);
  }

  PackingPlanNode node_;
  int64_t capacity_;
};

class PackTokensOp final : public CallingOp<PackTokensOp> {
 public:
  explicit PackTokensOp(const Attributes&) {}

  void shapes(Shapes& shapes) const override {
    using In = gen::PackTokensInput;
    std::vector<Dim> shape = shapes.dims(In::x, 1);
    shape.at(0) = shapes.dim(In::token_index, 0);
    shapes.set(gen::PackTokensOutput::packed, shape);
  }

  cuda::PackTokensCall call(const Tensors& tensors) const {
    cuda::PackTokensCall call = {pack_tokens_problem(tensors).copy};
    call.copy.target = tensors.output(gen::PackTokensOutput::packed);
    return call;
  }
};

class UnpackTokensOp final : public CallingOp<UnpackTokensOp> {
 public:
  explicit UnpackTokensOp(const Attributes&) {}

  void shapes(Shapes& shapes) const override {
    using In = gen::UnpackTokensInput;
    std::vector<Dim> shape = {shapes.dim(In::like, 0), shapes.dim(In::like, 1)};
    for (const Dim size : shapes.dims(In::packed, 1)) shape.push_back(size);
    shapes.set(gen::UnpackTokensOutput::x, shape);
  }

  cuda::UnpackTokensCall call(const Tensors& tensors) const {
    cuda::UnpackTokensCall call = {unpack_tokens_problem(tensors).copy};
    call.copy.target = tensors.output(gen::UnpackTokensOutput::x);
    return call;
  }
};

class AttentionOp : public CallingOp<AttentionOp> {
 public:
  explicit AttentionOp(const Attributes& attributes) : AttentionOp(attributes, false) {}
  AttentionOp(const Attributes& attributes, bool with_lse) : node_(attributes), with_lse_(with_lse) {}

  void shapes(Shapes& shapes) const override {
    using In = gen::RaggedAttentionInput;
    using Out = gen::RaggedAttentionOutput;
    const Dim tokens = shapes.dim(In::query, 0);
    const Dim value_head_size = shapes.divided(shapes.dim(In::value, 1), shapes.constant(node_.kv_num_heads()));
    const Dim heads = shapes.constant(node_.num_heads());
    shapes.set(Out::output, {tokens, shapes.times(heads, value_head_size)});
    if (with_lse_) shapes.set(Out::lse, {heads, tokens});
  }

  // Shapes below the largest may need more, for partial results of split keys. Bounds of a work list's length need not
  // be its length at the largest shapes.
  Status workspace_bytes(const Device& device, const Tensors& tensors, size_t& bytes) const override {
    cuda::AttentionCall largest = call(tensors);
    if (largest.work_list != nullptr) largest.work_list_size = cuda::work_list_size(largest.problem);
    return cuda::workspace_bound(device, largest, bytes);
  }

  Status check_values(const Tensors& tensors, Stream stream, bool& real) const override {
    return check_real_values(call(tensors), stream, real);
  }

  cuda::AttentionCall call(const Tensors& tensors) const {
    using In = gen::RaggedAttentionInput;
    using Out = gen::RaggedAttentionOutput;
    cuda::AttentionCall call;
    call.problem = node_.problem(tensors);
    call.max_seqlen_q = tensors.input(In::max_seqlen_q, 1).dim(0);
    call.max_seqlen_k = tensors.input(In::max_seqlen_k, 1).dim(0);
    if (const Tensor list = tensors.input(In::work_list); list.present && product(list.shape) > kNothingListed) {
      call.work_list = list.as<int32_t>();
      call.work_list_size = product(list.shape);
    }
    call.problem.output = tensors.output(Out::output);
    if (with_lse_) call.problem.lse = tensors.output<float>(Out::lse);
    return call;
  }

 private:
  RaggedAttentionNode node_;
  bool with_lse_;
};

class AttentionLseOp final : public AttentionOp {
 public:
  explicit AttentionLseOp(const Attributes& attributes) : AttentionOp(attributes, true) {}
};

// How large a work list is follows from shapes alone, so attentions can share it without a size tensor.
class AttentionPlanOp final : public CallingOp<AttentionPlanOp> {
 public:
  explicit AttentionPlanOp(const Attributes& attributes) : node_(attributes) {}

  // cuda::work_list_size in symbols; check() compares the two.
  void shapes(Shapes& shapes) const override {
    using In = gen::AttentionPlanInput;
    const Dim sequences = shapes.plus(shapes.dim(In::cu_seqlens_q, 0), shapes.constant(-1));
    Dim size = shapes.plus(shapes.constant(cuda::kWorkHeader), times(shapes, 4, items(shapes, sequences)));
    if (shapes.present(In::positions_k)) {
      constexpr int64_t kInts = sizeof(cuda::KeySummary) / sizeof(int);
      const Dim tiles = shapes.divided(shapes.dim(In::tokens_k, 0), shapes.constant(cuda::kKeyTile));
      size = shapes.plus(size, times(shapes, kInts, shapes.plus(tiles, sequences)));
      size = shapes.plus(size, times(shapes, 4, shapes.divided_up(sequences, shapes.constant(4))));
    }
    shapes.set(gen::AttentionPlanOutput::work_list, {size});
  }

  Status check(const Tensors& tensors) const override {
    const cuda::AttentionPlanCall planned = call(tensors);
    const int64_t size = cuda::work_list_size(planned.problem);
    if (!tensors.output_shapes().empty() && product(tensors.output_shapes()[0]) != size) {
      tensors.fail("the work list has " + std::to_string(product(tensors.output_shapes()[0])) +
                   " integers, expected " + std::to_string(size));
    }
    return cuda::check(planned);
  }

  Status check_values(const Tensors& tensors, Stream stream, bool& real) const override {
    return check_real_values(call(tensors), stream, real);
  }

  cuda::AttentionPlanCall call(const Tensors& tensors) const {
    using In = gen::AttentionPlanInput;
    cuda::AttentionPlanCall call;
    call.problem = node_.problem(tensors);
    call.max_seqlen_q = tensors.input(In::max_seqlen_q, 1).dim(0);
    call.max_seqlen_k = tensors.input(In::max_seqlen_k, 1).dim(0);
    call.work_list = tensors.output<int32_t>(gen::AttentionPlanOutput::work_list);
    return call;
  }

 private:
  static Dim times(Shapes& shapes, int64_t factor, Dim dim) { return shapes.times(shapes.constant(factor), dim); }

  // work_items() in symbols.
  Dim items(Shapes& shapes, Dim sequences) const {
    using In = gen::AttentionPlanInput;
    const Dim tokens = shapes.dim(In::tokens_q, 0);
    const int64_t block = node_.block_size();
    if (block == 0) return shapes.plus(shapes.divided(tokens, shapes.constant(cuda::kWorkRows)), sequences);
    if (shapes.present(In::positions_q)) return tokens;
    const int64_t per_row = (block + cuda::kWorkRows - 1) / cuda::kWorkRows;
    const Dim rows = times(shapes, per_row, shapes.divided(tokens, shapes.constant(block)));
    return shapes.at_most(shapes.plus(rows, times(shapes, 2 * per_row, sequences)), tokens);
  }

  AttentionPlanNode node_;
};

class MergeOp final : public CallingOp<MergeOp> {
 public:
  explicit MergeOp(const Attributes&) {}

  void shapes(Shapes& shapes) const override {
    using In = gen::MergeAttentionStatesInput;
    using Out = gen::MergeAttentionStatesOutput;
    shapes.set(Out::output, shapes.dims(In::output1));
    shapes.set(Out::lse, shapes.dims(In::lse1));
  }

  cuda::MergeCall call(const Tensors& tensors) const {
    using Out = gen::MergeAttentionStatesOutput;
    cuda::MergeCall call = {merge_states_problem(tensors)};
    call.problem.output = tensors.output(Out::output);
    call.problem.lse = tensors.output<float>(Out::lse);
    return call;
  }
};

// How many entries and bitmaps there are is found at run time; the bounds are those of a dense mask.
class BlockMaskOp final : public CallingOp<BlockMaskOp> {
 public:
  explicit BlockMaskOp(const Attributes& attributes)
      : node_(attributes), block_size_(attributes.integer("block_size")) {}

  void shapes(Shapes& shapes) const override {
    using In = gen::BlockMaskInput;
    using Out = gen::BlockMaskOutput;
    const Dim one = shapes.constant(1);
    const Dim rows = shapes.divided_up(shapes.dim(In::max_seqlen, 0), shapes.constant(block_size_));
    const Dim groups = shapes.present(In::blocks) ? shapes.dim(In::blocks, 0) : one;
    const Dim sequences =
        shapes.present(In::cu_seqlens) ? shapes.plus(shapes.dim(In::cu_seqlens, 0), shapes.constant(-1)) : one;
    const Dim most = shapes.times(shapes.times(sequences, groups), shapes.times(rows, rows));
    const Dim entries = shapes.found_at_run_time(kEntryCount, most);
    shapes.set(Out::tile_ptr, {sequences, groups, shapes.plus(rows, one)});
    shapes.set(Out::tile_col, {entries});
    shapes.set(Out::tile_tag, {entries});
    shapes.set(Out::tile_bits, {shapes.found_at_run_time(kBitmapCount, most), shapes.constant(block_size_ * block_size_ / 32)});
  }

  cuda::BlockMaskCall call(const Tensors& tensors) const {
    using Out = gen::BlockMaskOutput;
    cuda::BlockMaskCall call;
    call.input = node_.problem(tensors);
    const cuda::BlockMaskBounds bounds = cuda::block_mask_bounds(call.input);
    call.entries = bounds.entries;
    call.bitmaps = bounds.bitmaps;
    call.tile_ptr = tensors.output<int32_t>(Out::tile_ptr);
    call.tile_col = tensors.output<int32_t>(Out::tile_col);
    call.tile_tag = tensors.output<int32_t>(Out::tile_tag);
    call.tile_bits = tensors.output<int32_t>(Out::tile_bits);
    call.entry_count = tensors.output<int64_t>(kEntryCount);
    call.bitmap_count = tensors.output<int64_t>(kBitmapCount);
    return call;
  }

 private:
  static constexpr size_t kEntryCount = gen::BlockMaskOutput::tile_bits + 1;
  static constexpr size_t kBitmapCount = kEntryCount + 1;

  BlockMaskNode node_;
  int64_t block_size_;
};

namespace feature = gen::feature;

constexpr uint64_t kAttentionFeatures =
    feature::kCausal | feature::kGroupedQuery | feature::kPositions | feature::kValueHeadSize |
    feature::kCrossLengths | feature::kSoftcap | feature::kWindow | feature::kGlobalTokens | feature::kDilation |
    feature::kBlockMask | feature::kBias | feature::kDistanceBias | feature::kDisentangled | feature::kSink |
    feature::kAlibi | feature::kWorkList;
constexpr uint64_t kPlanFeatures = feature::kCausal | feature::kPositions | feature::kWindow |
                                   feature::kGlobalTokens | feature::kDilation | feature::kBlockMask;

}  // namespace

const std::vector<PluginRow>& plugin_rows() {
  static const std::vector<PluginRow> rows = {
      {"PackingPlan", &gen::kPackingPlan, feature::kKeepSlots | feature::kKeepMask | feature::kCapacity, 4, 1,
       create_op<PackingPlanOp>},
      {"PackTokens", &gen::kPackTokens, 0, 1, 0, create_op<PackTokensOp>},
      {"UnpackTokens", &gen::kUnpackTokens, 0, 1, 0, create_op<UnpackTokensOp>},
      {"RaggedAttention", &gen::kRaggedAttention, kAttentionFeatures, 1, 0, create_op<AttentionOp>},
      {"RaggedAttentionLse", &gen::kRaggedAttention, kAttentionFeatures | feature::kLse, 2, 0,
       create_op<AttentionLseOp>},
      {"AttentionPlan", &gen::kAttentionPlan, kPlanFeatures, 1, 0, create_op<AttentionPlanOp>},
      {"MergeAttentionStates", &gen::kMergeAttentionStates, 0, 2, 0, create_op<MergeOp>},
      {"BlockMask", &gen::kBlockMask, feature::kBlockMask, 4, 2, create_op<BlockMaskOp>},
  };
  return rows;
}

}  // namespace raggedrt::tensorrt
