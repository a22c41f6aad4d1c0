#include "cpu/token_copy.h"

#include "ort/adapter.h"

namespace raggedrt::ort {
namespace {

TokenCopy make_copy(const Context& context, const Tensor& source, const Tensor& token_index, int64_t slots,
                    int64_t row_elements) {
  TokenCopy copy;
  copy.source = source.data;
  copy.token_index = token_index.as<int32_t>();
  copy.tokens = token_index.dim(0);
  copy.slots = slots;
  copy.row_bytes = static_cast<size_t>(row_elements) * element_size(source.element);
  const int64_t token = first_out_of_range(copy);
  if (token >= 0) {
    context.fail("token_index[" + std::to_string(token) + "] is " + std::to_string(copy.token_index[token]) +
                 ", past the last of " + std::to_string(slots) + " slots");
  }
  return copy;
}

class PackTokensKernel final : public Kernel {
 public:
  explicit PackTokensKernel(const NodeInfo&) {}

  void compute(Context& context) const override {
    using In = gen::PackTokensInput;
    const Tensor x = context.input(In::x);
    const Tensor token_index = context.input(In::token_index, 1);
    if (x.shape.size() < 2) context.fail("x must have at least the axes [B, S]");
    std::vector<int64_t> shape(x.shape.begin() + 1, x.shape.end());
    shape[0] = token_index.dim(0);
    TokenCopy copy = make_copy(context, x, token_index, x.dim(0) * x.dim(1), product(x.shape, 2));
    copy.target = context.output(gen::PackTokensOutput::packed, shape);
    pack_tokens(copy, context);
  }
};

class UnpackTokensKernel final : public Kernel {
 public:
  explicit UnpackTokensKernel(const NodeInfo&) {}

  void compute(Context& context) const override {
    using In = gen::UnpackTokensInput;
    const Tensor packed = context.input(In::packed);
    const Tensor token_index = context.input(In::token_index, 1);
    const Tensor like = context.input(In::like);
    const Tensor key_position = context.input(In::key_position, -1);
    if (like.shape.size() < 2) context.fail("like must have at least the axes [B, S]");
    if (packed.shape.empty() || packed.dim(0) != token_index.dim(0) ||
        (key_position.present && key_position.shape != token_index.shape)) {
      context.fail("packed, token_index and key_position must have the same number of tokens");
    }
    std::vector<int64_t> shape = {like.dim(0), like.dim(1)};
    shape.insert(shape.end(), packed.shape.begin() + 1, packed.shape.end());
    TokenCopy copy = make_copy(context, packed, token_index, like.dim(0) * like.dim(1), product(packed.shape, 1));
    copy.key_position = key_position.as<int32_t>();
    copy.target = context.output(gen::UnpackTokensOutput::x, shape);
    unpack_tokens(copy, context);
  }
};

}  // namespace

const OpAdapter kPackTokensAdapter = {&gen::kPackTokens, 0, create_kernel<PackTokensKernel>};
const OpAdapter kUnpackTokensAdapter = {&gen::kUnpackTokens, 0, create_kernel<UnpackTokensKernel>};

}  // namespace raggedrt::ort
