// The bitmaps, and the tags that name them.
#include "cuda/kernels/tile_list.cuh"

RAGGEDRT_KERNEL(raggedrt::cuda::kDataThreads, 1)
RAGGEDRT_ENTRY(const raggedrt::cuda::TileListParams params) { raggedrt::device::tiles::bits(params); }
