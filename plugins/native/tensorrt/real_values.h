// Whether what an attention follows is real. TensorRT's builder times layers on buffers that hold anything, and offsets
// and work lists lead a kernel to wherever they say.
#pragma once

#include "cuda/launch/launch.h"

namespace raggedrt::tensorrt {

// Copies offsets, tiles and positions to the host, which waits for `stream`; `real` tells whether they keep within the
// tensors. Fails where the driver does, such as while the stream is captured.
cuda::Status check_real_values(const cuda::AttentionPlanCall& call, cuda::Stream stream, bool& real);
// The same, and the work list.
cuda::Status check_real_values(const cuda::AttentionCall& call, cuda::Stream stream, bool& real);

}  // namespace raggedrt::tensorrt
