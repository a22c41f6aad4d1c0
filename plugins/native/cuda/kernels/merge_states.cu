// Attention over two key sets becomes attention over their union.
#include "cuda/kernels/merge_states.cuh"

RAGGEDRT_KERNEL(raggedrt::cuda::kDataThreads, 1)
RAGGEDRT_ENTRY(const raggedrt::cuda::MergeParams params) { raggedrt::device::merge::merge_states(params); }
