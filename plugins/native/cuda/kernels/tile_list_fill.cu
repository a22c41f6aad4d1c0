// Columns and tags of the entries, and what needs a bitmap.
#include "cuda/kernels/tile_list.cuh"

RAGGEDRT_KERNEL(raggedrt::cuda::kDataThreads, 1)
RAGGEDRT_ENTRY(const raggedrt::cuda::TileListParams params) { raggedrt::device::tiles::fill(params); }
