#include "node/block_mask.h"

#include <algorithm>

#include "ort/adapter.h"

namespace raggedrt::ort {
namespace {

using Out = gen::BlockMaskOutput;

class BlockMaskKernel final : public Kernel {
 public:
  explicit BlockMaskKernel(const NodeInfo& node) : node_(node) {}

  void compute(Context& context) const override {
    const BlockMaskInput problem = node_.problem(context);
    const BlockMask mask(problem);
    const int64_t entries = static_cast<int64_t>(mask.col.size());
    write(context, Out::tile_ptr, {problem.sequences, problem.groups, mask.rows() + 1}, mask.ptr);
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

  BlockMaskNode node_;
};

}  // namespace

const OpAdapter kBlockMaskAdapter = {&gen::kBlockMask, gen::feature::kBlockMask, create_kernel<BlockMaskKernel>};

}  // namespace raggedrt::ort
