// Sets words of memory.
#include "cuda/device/device.h"
#include "cuda/kernels/data_params.h"

RAGGEDRT_KERNEL(raggedrt::cuda::kDataThreads, 1)
RAGGEDRT_ENTRY(const raggedrt::cuda::FillParams params) {
  using namespace raggedrt::device;
  const long long stride = static_cast<long long>(grid_size_x()) * block_threads();
  for (long long i = static_cast<long long>(block_index_x()) * block_threads() + thread_index(); i < params.count;
       i += stride) {
    store_global(params.target + i, params.value);
  }
}
