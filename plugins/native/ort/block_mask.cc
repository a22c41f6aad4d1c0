#include "cpu/block_mask.h"

#include <algorithm>

#include "ort/adapter.h"

namespace raggedrt::ort {
namespace {

using In = gen::BlockMaskInput;
using Out = gen::BlockMaskOutput;

class BlockMaskKernel final : public Kernel {
 public:
  explicit BlockMaskKernel(const NodeInfo& node) : block_size_(node.integer("block_size")) {
    if (block_size_ < 8 || block_size_ > kLargestBlock || block_size_ % 8 != 0) {
      node.refuse("block_size must be a multiple of 8 from 8 to 1024");
    }
    if (const char* refusal = decode_rules(node.integers("rules"), rules_)) node.refuse(refusal);
  }

  void compute(Context& context) const override {
    BlockMaskInput input;
    input.rules = rules_.data();
    input.rule_count = static_cast<int64_t>(rules_.size());
    input.block_size = block_size_;
    input.length = context.input(In::max_seqlen, 1).dim(0);
    if (const Tensor blocks = context.input(In::blocks); blocks.present) {
      if (blocks.shape.size() != 3) context.fail("blocks must be [G, R', K]");
      input.blocks = blocks.as<int32_t>();
      input.groups = blocks.dim(0);
      input.block_rows = blocks.dim(1);
      input.block_columns = blocks.dim(2);
    }
    if (const Tensor offsets = context.input(In::cu_seqlens); offsets.present) {
      if (offsets.shape.size() != 1 || offsets.dim(0) < 1) context.fail("cu_seqlens must be [B+1]");
      input.cu_seqlens = offsets.as<int32_t>();
      input.sequences = offsets.dim(0) - 1;
    }
    const BlockMask mask(input);
    const int64_t entries = static_cast<int64_t>(mask.col.size());
    write(context, Out::tile_ptr, {input.sequences, input.groups, mask.rows() + 1}, mask.ptr);
    write(context, Out::tile_col, {entries}, mask.col);
    write(context, Out::tile_tag, {entries}, mask.tag);
    write(context, Out::tile_bits, {static_cast<int64_t>(mask.bits.size()) / mask.words(), mask.words()}, mask.bits);
  }

 private:
  template <typename T>
  static void write(const Context& context, size_t index, const std::vector<int64_t>& shape,
                    const std::vector<T>& values) {
    T* target = static_cast<T*>(context.output(index, shape));
    if (target != nullptr) std::copy(values.begin(), values.end(), target);
  }

  int64_t block_size_;
  std::vector<MaskRule> rules_;
};

}  // namespace

const OpAdapter kBlockMaskAdapter = {&gen::kBlockMask, gen::feature::kBlockMask, create_kernel<BlockMaskKernel>};

}  // namespace raggedrt::ort
