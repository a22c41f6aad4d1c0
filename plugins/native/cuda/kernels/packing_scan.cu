// Row counts become cu_seqlens.
#include "cuda/kernels/packing_plan.cuh"

RAGGEDRT_KERNEL(raggedrt::cuda::kScanThreads, 1)
RAGGEDRT_ENTRY(const raggedrt::cuda::PackingPlanParams params) { raggedrt::device::packing::scan(params); }
