#include "ort/cuda_mirror.h"

#ifdef RAGGEDRT_CUDA_ON_CPU_PROVIDER

#include <dlfcn.h>
#include <stdlib.h>

#include <algorithm>
#include <stdexcept>
#include <string>

namespace raggedrt::ort {
namespace {

template <typename... Arguments>
int call(const char* function, Arguments... arguments) {
  static void* const library = dlopen(getenv("RAGGEDRT_CUDA_DRIVER"), RTLD_NOW | RTLD_LOCAL);
  using Function = int (*)(Arguments...);
  const auto found = library == nullptr ? nullptr : reinterpret_cast<Function>(dlsym(library, function));
  return found == nullptr ? -1 : found(arguments...);
}

void check(int result, const char* doing) {
  if (result != 0) throw std::runtime_error(std::string(doing) + " failed with CUDA error " + std::to_string(result));
}

}  // namespace

uint64_t DeviceMirror::add(void* host, size_t bytes, bool is_output) {
  uint64_t address = 0;
  check(call("cuMemAlloc_v2", &address, std::max<size_t>(bytes, 1)), "device memory");
  pieces_.push_back({address, host, bytes, is_output});
  return address;
}

void* DeviceMirror::input(const void* host, size_t bytes) {
  for (const Piece& piece : pieces_) {
    if (piece.host == host && piece.bytes == bytes) return reinterpret_cast<void*>(piece.address);
  }
  const uint64_t address = add(const_cast<void*>(host), bytes, false);
  if (bytes > 0) check(call("cuMemcpyHtoD_v2", address, host, bytes), "copying to the device");
  return reinterpret_cast<void*>(address);
}

void* DeviceMirror::output(void* host, size_t bytes) {
  return reinterpret_cast<void*>(add(host, bytes, true));
}

void* DeviceMirror::workspace(size_t bytes) { return reinterpret_cast<void*>(add(nullptr, bytes, false)); }

void DeviceMirror::finish() {
  check(call("cuCtxSynchronize"), "running on the device");
  for (const Piece& piece : pieces_) {
    if (!piece.is_output || piece.bytes == 0) continue;
    check(call("cuMemcpyDtoH_v2", piece.host, piece.address, piece.bytes), "copying from the device");
  }
}

DeviceMirror::~DeviceMirror() {
  if (!pieces_.empty()) call("cuCtxSynchronize");
  for (const Piece& piece : pieces_) call("cuMemFree_v2", piece.address);
}

}  // namespace raggedrt::ort

#endif
