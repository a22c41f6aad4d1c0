// Copies from the host to the device that outlive the call that asks for them: from pinned memory of a pool, which a
// block enters again once the stream has passed its copies. Nothing here waits for the device.
#pragma once

#include <stddef.h>

#include "cuda/launch/status.h"

namespace raggedrt::ort {

// Whether work enqueued on `stream` now is recorded into a CUDA graph instead of being run.
cuda::Status is_capturing(void* stream, bool& capturing);

class StagedCopy {
 public:
  explicit StagedCopy(void* stream) : stream_(stream) {}
  ~StagedCopy();
  StagedCopy(const StagedCopy&) = delete;
  StagedCopy& operator=(const StagedCopy&) = delete;

  // Host memory to fill, valid until this object ends.
  cuda::Status allocate(size_t bytes, char** memory);
  // Enqueues a copy of a part of that memory to the device.
  cuda::Status copy(void* target, const void* part, size_t bytes);

 private:
  struct Block* block_ = nullptr;
  void* stream_;
};

}  // namespace raggedrt::ort
