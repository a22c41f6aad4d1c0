// What the launch functions of the ops share: kernels of a device, launches, parts of a workspace.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "cuda/launch/driver.h"
#include "cuda/launch/launch.h"
#include "cuda/launch/pack.h"
#include "cuda/launch/variants.h"

namespace raggedrt::cuda {

// Kernels of one device. A kernel belongs to no context, so one handle serves every context of its device.
struct Device::Kernels {
  const Driver* driver = nullptr;
  DriverDevice handle = 0;
  std::unique_ptr<Pack> pack;
  std::unique_ptr<std::atomic<DriverKernel>[]> loaded;  // one per variant; null until its first launch
  std::mutex loading;
};

// Launches of one call of an op. Messages begin with the op's name.
class Launcher {
 public:
  Launcher(const Device& device, const char* op, Stream stream) : device_(device), op_(op), stream_(stream) {}

  const DeviceLimits& limits() const { return device_.limits(); }
  VariantTable table() const {
    return {device_.kernels_->pack->variants(), device_.kernels_->pack->count()};
  }
  Status find(const VariantKey& key, const Variant** variant) const;
  // Nothing is launched for an empty grid. `params` is the kernel's struct.
  template <typename Params>
  Status launch_variant(const Variant& variant, Grid grid, const Params& params) const {
    return launch_bytes(variant, grid, &params);
  }
  template <typename Params>
  Status launch(const VariantKey& key, Grid grid, const Params& params) const {
    const Variant* variant = nullptr;
    RAGGEDRT_RETURN_IF_FAILED(find(key, &variant));
    return launch_bytes(*variant, grid, &params);
  }
  // A grid that keeps the device busy with `items` pieces of work per block.
  Grid grid_for(int64_t items, int64_t items_per_block) const;
  // Sets `words` 32-bit words to zero.
  Status clear(void* address, size_t words) const;

 private:
  Status launch_bytes(const Variant& variant, Grid grid, const void* params) const;
  Status load(size_t index, DriverKernel* kernel) const;

  const Device& device_;
  const char* op_;
  Stream stream_;
};

// Hands out parts of a workspace: first without memory, to learn the size, then with it.
class WorkspaceParts {
 public:
  explicit WorkspaceParts(void* base = nullptr) : base_(static_cast<char*>(base)) {}

  template <typename T>
  T* take(int64_t count) {
    const size_t begin = used_;
    used_ += static_cast<size_t>(round_up(count * static_cast<int64_t>(sizeof(T)), kWorkspaceAlignment));
    return base_ != nullptr && count > 0 ? reinterpret_cast<T*>(base_ + begin) : nullptr;
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

// Refuses workspaces that are missing or misaligned.
Status check_workspace(const char* op, const void* workspace, size_t bytes);

inline bool is_aligned(const void* pointer, size_t alignment) {
  return reinterpret_cast<uintptr_t>(pointer) % alignment == 0;
}

// `op: reason`.
inline Status refuse(const char* op, const std::string& reason) { return Status::failure(std::string(op) + ": " + reason); }

}  // namespace raggedrt::cuda
