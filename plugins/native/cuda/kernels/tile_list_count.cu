// Which tiles of an analytic mask have entries, and which of those need a bitmap.
#include "cuda/kernels/tile_list.cuh"

RAGGEDRT_KERNEL(raggedrt::cuda::kDataThreads, 1)
RAGGEDRT_ENTRY(const raggedrt::cuda::TileListParams params) { raggedrt::device::tiles::count(params); }
