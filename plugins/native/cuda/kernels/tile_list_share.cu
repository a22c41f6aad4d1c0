// Equal bitmaps become one.
#include "cuda/kernels/tile_list.cuh"

RAGGEDRT_KERNEL(raggedrt::cuda::kScanThreads, 1)
RAGGEDRT_ENTRY(const raggedrt::cuda::TileListParams params) { raggedrt::device::tiles::share(params); }
