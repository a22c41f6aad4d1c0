// The work list of attention, longest items first.
#include "cuda/kernels/work_list.cuh"

RAGGEDRT_KERNEL(raggedrt::cuda::kWorkThreads, 1)
RAGGEDRT_ENTRY(const raggedrt::cuda::WorkListParams params) { raggedrt::device::work::write_list(params); }
