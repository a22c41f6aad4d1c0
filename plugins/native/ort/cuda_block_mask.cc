#include "node/block_mask.h"
#include "ort/cuda_adapter.h"

namespace raggedrt::ort {
namespace {

// How many tiles are listed is known only on the device, so the tensors have room for all that there can be; tile_ptr
// tells which part of it is used.
class CudaBlockMaskKernel final : public Kernel {
 public:
  explicit CudaBlockMaskKernel(const NodeInfo& node) : node_(node) {}

  void compute(Context& context) const override {
    using Out = gen::BlockMaskOutput;
    cuda::BlockMaskCall call;
    call.input = node_.problem(context);
    const cuda::BlockMaskBounds bounds = cuda::block_mask_bounds(call.input);
    call.entries = bounds.entries;
    call.bitmaps = bounds.bitmaps;
    const int64_t words = call.input.block_size * call.input.block_size / 32;
    const std::vector<int64_t> rows = {call.input.sequences, call.input.groups, bounds.rows + 1};
    call.tile_ptr = output(context, Out::tile_ptr, rows);
    call.tile_col = output(context, Out::tile_col, {bounds.entries});
    call.tile_tag = output(context, Out::tile_tag, {bounds.entries});
    call.tile_bits = output(context, Out::tile_bits, {bounds.bitmaps, words});
    launch(context, call);
  }

 private:
  static int32_t* output(const Context& context, size_t index, const std::vector<int64_t>& shape) {
    return static_cast<int32_t*>(context.output(index, shape));
  }

  BlockMaskNode node_;
};

}  // namespace

const OpAdapter kCudaBlockMaskAdapter = {&gen::kBlockMask, gen::feature::kBlockMask,
                                         create_kernel<CudaBlockMaskKernel>, kCudaProvider};

}  // namespace raggedrt::ort
