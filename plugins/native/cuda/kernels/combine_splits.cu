// Attention over the splits of the keys becomes attention over all of them.
#include "cuda/kernels/merge_states.cuh"

RAGGEDRT_KERNEL(raggedrt::cuda::kDataThreads, 1)
RAGGEDRT_ENTRY(const raggedrt::cuda::CombineParams params) { raggedrt::device::merge::combine_splits(params); }
