// Attention by rows, for everything that the tensor-core kernels do not take.
#include "cuda/kernels/row_attention.cuh"

RAGGEDRT_KERNEL(raggedrt::cuda::kRowThreads, 3)
RAGGEDRT_ENTRY(const raggedrt::cuda::AttentionParams params) { raggedrt::device::row::attend(params); }
