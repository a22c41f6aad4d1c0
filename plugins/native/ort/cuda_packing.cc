#include "cpu/packing_plan.h"
#include "node/packing.h"
#include "ort/cuda_adapter.h"
#include "ort/cuda_staging.h"

namespace raggedrt::ort {
namespace {

// The mask lies in CPU memory, so the number of tokens is known before anything is launched: the plan is made by the
// CPU's kernel and copied to the device.
class CudaPackingPlanKernel final : public Kernel {
 public:
  explicit CudaPackingPlanKernel(const NodeInfo& node) : node_(node) {}

  void compute(Context& context) const override {
    using Out = gen::PackingPlanOutput;
    current_device();  // of all that may be missing, the first op says it
    bool capturing = false;
    require(is_capturing(context.stream(), capturing));
    if (capturing) {
      context.fail(
          "a padded mask is read on the host, so its plan would be the same at every replay of a CUDA graph; convert "
          "with --io ragged, or run without enable_cuda_graph");
    }
    const PackingInput problem = node_.problem(context);
    const PackingPlan plan(problem);
    const size_t counts[] = {static_cast<size_t>(plan.tokens()), static_cast<size_t>(problem.rows) + 1,
                             static_cast<size_t>(plan.tokens()), static_cast<size_t>(plan.tokens())};
    const size_t outputs[] = {Out::token_index, Out::cu_seqlens, Out::position, Out::key_position};
    StagedCopy staged(context.stream());
    char* memory = nullptr;
    require(staged.allocate((counts[0] + counts[1] + counts[2] + counts[3]) * sizeof(int32_t), &memory));
    int32_t* parts[4];
    int32_t* next = reinterpret_cast<int32_t*>(memory);
    for (int i = 0; i < 4; ++i) {
      parts[i] = next;
      next += counts[i];
    }
    PackingOutput host;
    host.token_index = parts[0];
    host.cu_seqlens = parts[1];
    host.position = parts[2];
    host.key_position = parts[3];
    plan.write(host);
    for (int i = 0; i < 4; ++i) {
      void* target = context.output(outputs[i], {static_cast<int64_t>(counts[i])});
      if (target != nullptr) require(staged.copy(target, parts[i], counts[i] * sizeof(int32_t)));
    }
  }

 private:
  PackingPlanNode node_;
};

class CudaPackTokensKernel final : public Kernel {
 public:
  explicit CudaPackTokensKernel(const NodeInfo&) {}

  void compute(Context& context) const override {
    CopyProblem problem = pack_tokens_problem(context);
    problem.copy.target = context.output(gen::PackTokensOutput::packed, problem.shape);
    launch(context, cuda::PackTokensCall{problem.copy});
  }
};

class CudaUnpackTokensKernel final : public Kernel {
 public:
  explicit CudaUnpackTokensKernel(const NodeInfo&) {}

  void compute(Context& context) const override {
    CopyProblem problem = unpack_tokens_problem(context);
    problem.copy.target = context.output(gen::UnpackTokensOutput::x, problem.shape);
    launch(context, cuda::UnpackTokensCall{problem.copy});
  }
};

}  // namespace

const OpAdapter kCudaPackingPlanAdapter = {
    &gen::kPackingPlan, gen::feature::kKeepSlots | gen::feature::kKeepMask | gen::feature::kCapacity,
    create_kernel<CudaPackingPlanKernel>, kCudaProvider,
    in_host_memory(gen::PackingPlanInput::attention_mask) | in_host_memory(gen::PackingPlanInput::keep_mask)};
const OpAdapter kCudaPackTokensAdapter = {&gen::kPackTokens, 0, create_kernel<CudaPackTokensKernel>, kCudaProvider};
// Of `like` only the shape is read; in the graphs of padded inputs it is the mask, which lies in CPU memory.
const OpAdapter kCudaUnpackTokensAdapter = {&gen::kUnpackTokens, 0, create_kernel<CudaUnpackTokensKernel>,
                                            kCudaProvider, in_host_memory(gen::UnpackTokensInput::like)};

}  // namespace raggedrt::ort
