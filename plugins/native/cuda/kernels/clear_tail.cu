// Rows of no sequence become 0, their lse -inf.
#include "cuda/kernels/merge_states.cuh"

RAGGEDRT_KERNEL(raggedrt::cuda::kDataThreads, 1)
RAGGEDRT_ENTRY(const raggedrt::cuda::ClearTailParams params) { raggedrt::device::merge::clear_tail(params); }
