// Converts elements: RAGGEDRT_SOURCE to RAGGEDRT_TARGET. Bytes moved: each element once in and once out, the least.
#include "cuda/device/device.h"
#include "cuda/kernels/data_params.h"

RAGGEDRT_KERNEL(raggedrt::cuda::kDataThreads, 1)
RAGGEDRT_ENTRY(const raggedrt::cuda::CastParams params) {
  using namespace raggedrt::device;
  const RAGGEDRT_SOURCE* source = static_cast<const RAGGEDRT_SOURCE*>(params.source);
  RAGGEDRT_TARGET* target = static_cast<RAGGEDRT_TARGET*>(params.target);
  const long long stride = static_cast<long long>(grid_size_x()) * block_threads();
  for (long long i = static_cast<long long>(block_index_x()) * block_threads() + thread_index(); i < params.count;
       i += stride) {
    store_global(target + i, from_float<RAGGEDRT_TARGET>(to_float(load_global_readonly(source + i))));
  }
}
