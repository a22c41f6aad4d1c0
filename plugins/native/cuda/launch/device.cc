#include <string.h>

#include <vector>

#include "cuda/launch/launcher.h"

namespace raggedrt::cuda {
namespace {

constexpr int kBlocksPerMultiprocessor = 8;  // of kernels whose blocks stride over their work
constexpr int64_t kMostGridY = 65535;
constexpr int64_t kMostGridX = 0x7fffffff;
constexpr int kUsualSharedBytes = 48 * 1024;  // beyond it a kernel has to ask

std::string on_device(const Device& device) {
  return " on device " + std::to_string(device.ordinal()) + " (" + device.name() + ")";
}

Status read_limits(const Driver& driver, DriverDevice handle, DeviceLimits& limits) {
  struct Row {
    int* value;
    DeviceAttribute attribute;
  };
  int major = 0;
  int minor = 0;
  const Row rows[] = {{&major, kComputeCapabilityMajor},
                      {&minor, kComputeCapabilityMinor},
                      {&limits.multiprocessors, kMultiprocessorCount},
                      {&limits.shared_bytes_per_block, kSharedBytesPerBlockOptIn},
                      {&limits.shared_bytes_per_multiprocessor, kSharedBytesPerMultiprocessor},
                      {&limits.threads_per_multiprocessor, kThreadsPerMultiprocessor}};
  for (const Row& row : rows) {
    RAGGEDRT_RETURN_IF_FAILED(
        driver.check(driver.device_attribute(row.value, row.attribute, handle), "asking a CUDA device for its limits"));
  }
  limits.compute_capability = 10 * major + minor;
  return {};
}

// The device of the context that is current, made current where none is.
Status current_device(const Driver& driver, DriverDevice& handle) {
  DriverContext context = nullptr;
  RAGGEDRT_RETURN_IF_FAILED(driver.check(driver.context_current(&context), "asking for the current CUDA context"));
  if (context == nullptr) {
    int count = 0;
    RAGGEDRT_RETURN_IF_FAILED(driver.check(driver.device_count(&count), "counting CUDA devices"));
    if (count == 0) return Status::failure("no CUDA device: the driver finds none; use a CPU target");
    RAGGEDRT_RETURN_IF_FAILED(driver.check(driver.device_get(&handle, 0), "opening CUDA device 0"));
    RAGGEDRT_RETURN_IF_FAILED(
        driver.check(driver.primary_context_retain(&context, handle), "retaining the context of CUDA device 0"));
    RAGGEDRT_RETURN_IF_FAILED(driver.check(driver.context_set_current(context), "making CUDA device 0 current"));
  }
  return driver.check(driver.context_device(&handle), "asking the current CUDA context for its device");
}

}  // namespace

Status Device::current(Device** device) {
  // Never destroyed: other threads may launch while the process ends.
  static auto& mutex = *new std::mutex;
  static auto& devices = *new std::vector<std::unique_ptr<Device>>;  // by ordinal, which is the driver's handle
  const Driver* driver = nullptr;
  RAGGEDRT_RETURN_IF_FAILED(open_driver(&driver));
  DriverDevice handle = 0;
  RAGGEDRT_RETURN_IF_FAILED(current_device(*driver, handle));
  const std::lock_guard<std::mutex> lock(mutex);
  const size_t index = static_cast<size_t>(handle);
  if (index >= devices.size()) devices.resize(index + 1);
  if (devices[index] == nullptr) {
    std::unique_ptr<Device> made(new Device);
    RAGGEDRT_RETURN_IF_FAILED(made->open(*driver, handle));
    devices[index] = std::move(made);
  }
  *device = devices[index].get();
  return {};
}

Status Device::open(const Driver& driver, int handle) {
  char name[256] = {};
  RAGGEDRT_RETURN_IF_FAILED(driver.check(driver.device_name(name, sizeof(name) - 1, handle), "asking a CUDA device for its name"));
  ordinal_ = handle;
  name_ = name;
  RAGGEDRT_RETURN_IF_FAILED(read_limits(driver, handle, limits_));
  auto kernels = std::make_unique<Kernels>();
  if (Status status = find_pack(limits_.compute_capability, kernels->pack); !status.ok()) {
    return Status::failure("CUDA device " + std::to_string(handle) + " (" + name_ + "): " + status.message());
  }
  kernels->driver = &driver;
  kernels->handle = handle;
  kernels->loaded.reset(new std::atomic<DriverKernel>[kernels->pack->count()]());
  kernels_ = kernels.release();
  return {};
}

void set_pack_folders(std::vector<std::string> folders) { set_first_pack_folders(std::move(folders)); }

Status Launcher::find(const VariantKey& key, const Variant** variant) const {
  *variant = find_variant(table(), key);
  if (*variant != nullptr) return {};
  return refuse(op_, "there is no kernel for it (" + describe(key) + ") in " + device_.kernels_->pack->path());
}

Grid Launcher::grid_for(int64_t items, int64_t items_per_block) const {
  const int64_t most = int64_t{kBlocksPerMultiprocessor} * (limits().multiprocessors > 0 ? limits().multiprocessors : 1);
  const int64_t wanted = divide_up(items, items_per_block);
  return {wanted < most ? wanted : most, 1};
}

Status Launcher::clear(void* address, size_t words) const {
  const Driver& driver = *device_.kernels_->driver;
  return driver.check(driver.memset_words(reinterpret_cast<uint64_t>(address), 0, words, stream_),
                      std::string(op_) + ": clearing memory" + on_device(device_));
}

Status Launcher::load(size_t index, DriverKernel* kernel) const {
  Device::Kernels& kernels = *device_.kernels_;
  *kernel = kernels.loaded[index].load(std::memory_order_acquire);
  if (*kernel != nullptr) return {};
  const std::lock_guard<std::mutex> lock(kernels.loading);
  *kernel = kernels.loaded[index].load(std::memory_order_relaxed);
  if (*kernel != nullptr) return {};
  const Driver& driver = *kernels.driver;
  const Variant& variant = kernels.pack->variant(index);
  const std::string doing = std::string(op_) + ": loading kernel " + variant.entry + on_device(device_);
  const void* code = nullptr;
  RAGGEDRT_RETURN_IF_FAILED(kernels.pack->code(index, &code));
  DriverLibrary library = nullptr;
  RAGGEDRT_RETURN_IF_FAILED(
      driver.check(driver.library_load(&library, code, nullptr, nullptr, 0, nullptr, nullptr, 0), doing));
  DriverKernel found = nullptr;
  RAGGEDRT_RETURN_IF_FAILED(driver.check(driver.library_kernel(&found, library, variant.entry), doing));
  if (variant.shared_bytes > kUsualSharedBytes) {
    RAGGEDRT_RETURN_IF_FAILED(driver.check(
        driver.kernel_set_attribute(kMaxDynamicSharedBytes, variant.shared_bytes, found, kernels.handle), doing));
  }
  kernels.loaded[index].store(found, std::memory_order_release);
  *kernel = found;
  return {};
}

Status Launcher::launch_bytes(const Variant& variant, Grid grid, const void* params) const {
  if (grid.x <= 0 || grid.y <= 0) return {};
  if (grid.x > kMostGridX || grid.y > kMostGridY) return refuse(op_, "the problem is too large for one launch");
  DriverKernel kernel = nullptr;
  RAGGEDRT_RETURN_IF_FAILED(load(static_cast<size_t>(&variant - table().rows), &kernel));
  void* arguments[] = {const_cast<void*>(params)};
  const Driver& driver = *device_.kernels_->driver;
  const DriverResult result =
      driver.launch(kernel, static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), 1,
                    static_cast<unsigned>(variant.threads), 1, 1, static_cast<unsigned>(variant.shared_bytes), stream_,
                    arguments, nullptr);
  if (result == kDriverSuccess) return {};
  return driver.check(result, std::string(op_) + ": launching kernel " + variant.entry + on_device(device_) + ", grid " +
                                  std::to_string(grid.x) + "x" + std::to_string(grid.y) +
                                  " (the error may be that of earlier work on the device)");
}

Status check_workspace(const char* op, const void* workspace, size_t bytes) {
  if (bytes == 0) return {};
  if (workspace == nullptr) return refuse(op, "needs a workspace of " + std::to_string(bytes) + " bytes, got none");
  if (!is_aligned(workspace, kWorkspaceAlignment)) {
    return refuse(op, "the workspace must be aligned to " + std::to_string(kWorkspaceAlignment) + " bytes");
  }
  return {};
}

}  // namespace raggedrt::cuda
