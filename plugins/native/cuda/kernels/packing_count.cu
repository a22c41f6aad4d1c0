// Kept slots of each row of a padded batch.
#include "cuda/kernels/packing_plan.cuh"

RAGGEDRT_KERNEL(raggedrt::cuda::kDataThreads, 1)
RAGGEDRT_ENTRY(const raggedrt::cuda::PackingPlanParams params) { raggedrt::device::packing::count(params); }
