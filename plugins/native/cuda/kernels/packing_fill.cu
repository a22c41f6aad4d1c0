// The tokens of each row.
#include "cuda/kernels/packing_plan.cuh"

RAGGEDRT_KERNEL(raggedrt::cuda::kDataThreads, 1)
RAGGEDRT_ENTRY(const raggedrt::cuda::PackingPlanParams params) { raggedrt::device::packing::fill(params); }
