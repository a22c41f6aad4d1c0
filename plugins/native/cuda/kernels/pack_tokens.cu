// Rows of a padded tensor become packed rows.
#include "cuda/kernels/token_copy.cuh"

RAGGEDRT_KERNEL(raggedrt::cuda::kDataThreads, 1)
RAGGEDRT_ENTRY(const raggedrt::cuda::TokenCopyParams params) { raggedrt::device::copy::pack(params); }
