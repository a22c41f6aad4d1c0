// Packed rows become rows of a padded tensor, zero where no token lies.
#include "cuda/kernels/token_copy.cuh"

RAGGEDRT_KERNEL(raggedrt::cuda::kDataThreads, 1)
RAGGEDRT_ENTRY(const raggedrt::cuda::TokenCopyParams params) { raggedrt::device::copy::unpack(params); }
