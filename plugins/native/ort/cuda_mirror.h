// Device memory beside the CPU provider's tensors, for tests: the CUDA adapters then run on an emulated driver in an
// ordinary CPU session. Only in libraries that are compiled with RAGGEDRT_CUDA_ON_CPU_PROVIDER.
#pragma once

#ifdef RAGGEDRT_CUDA_ON_CPU_PROVIDER

#include <stddef.h>
#include <stdint.h>

#include <vector>

namespace raggedrt::ort {

// Memory of one call. Every function throws where the driver fails.
class DeviceMirror {
 public:
  ~DeviceMirror();

  // A copy of host memory; of the same memory the same copy.
  void* input(const void* host, size_t bytes);
  // Memory that is copied to the host when the call ends well.
  void* output(void* host, size_t bytes);
  void* workspace(size_t bytes);
  // Waits for the device and copies the outputs.
  void finish();

 private:
  struct Piece {
    uint64_t address;
    void* host;
    size_t bytes;
    bool is_output;
  };
  uint64_t add(void* host, size_t bytes, bool is_output);

  std::vector<Piece> pieces_;
};

}  // namespace raggedrt::ort

#endif
