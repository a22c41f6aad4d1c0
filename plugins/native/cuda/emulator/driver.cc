#include "cuda/emulator/driver.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <string>

#include "cuda/emulator/driver_state.h"

#define RAGGEDRT_DRIVER extern "C" __attribute__((visibility("default"))) int

namespace raggedrt::emulator {
namespace {

constexpr size_t kAllocationAlignment = 512;
constexpr int kUsualSharedBytes = 48 * 1024;
constexpr const char kImagePrefix[] = "RRTEMULATED ";
constexpr double kLaunchSeconds = 300.0;

thread_local raggedrt::emulator::Context* current_context = nullptr;

// A library of one kernel, and that kernel.
struct Kernel {
  std::string name;
  const raggedrt_emulated_kernel* code = nullptr;
  int most_shared_bytes = kUsualSharedBytes;
};

struct ResultName {
  int result;
  const char* name;
  const char* text;
};

constexpr ResultName kResultNames[] = {
    {kSuccess, "CUDA_SUCCESS", "no error"},
    {kInvalidValue, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {kNotInitialized, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {kNoDevice, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {kInvalidDevice, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {kInvalidImage, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {kInvalidContext, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {kInvalidHandle, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {kNotFound, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {kNotReady, "CUDA_ERROR_NOT_READY", "device not ready"},
    {kLaunchFailed, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
};

// Limits by compute capability, as cuDeviceGetAttribute numbers them.
int attribute_of(int capability, int attribute) {
  const bool large = capability != 86 && capability != 89 && capability / 10 != 12;
  const int shared = !large ? 100 : capability / 10 == 8 ? 164 : 228;  // KiB of a multiprocessor
  switch (attribute) {
    case 16: return 4;  // multiprocessors: few, so that blocks take several pieces of work
    case 39: return capability == 80 || capability / 10 == 9 || capability / 10 == 10 ? 2048 : 1536;
    case 75: return capability / 10;
    case 76: return capability % 10;
    case 81: return shared * 1024;
    case 97: return (shared - 1) * 1024;
    default: return -1;
  }
}

// Runs `body` with the driver locked, after counting the call; an error that was injected, or that earlier work left,
// comes back instead.
template <typename Body>
int call(const char* function, const Body& body) {
  DriverState& state = driver_state();
  const std::lock_guard<std::mutex> lock(state.mutex);
  if (const int injected = enter(state, function)) return injected;
  if (state.streams.error() != kSuccess) return state.streams.error();
  const int result = body(state);
  return result != kSuccess ? result : state.streams.error();
}

int open_kernels(DriverState& state) {
  if (state.kernels != nullptr) return kSuccess;
  state.kernels = dlopen(state.settings.kernels.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (state.kernels != nullptr) return kSuccess;
  const char* reason = dlerror();
  state.error = "RAGGEDRT_EMULATED_KERNELS: " + std::string(reason != nullptr ? reason : "cannot be opened");
  return kNotFound;
}

int run_kernel(DriverState& state, const Kernel& kernel, const std::vector<char>& params, unsigned grid_x,
               unsigned grid_y, unsigned threads, unsigned shared_bytes) {
  raggedrt_emulator_launch launch{};
  launch.kernel = kernel.code;
  launch.params = params.data();
  launch.grid_x = static_cast<int32_t>(grid_x);
  launch.grid_y = static_cast<int32_t>(grid_y);
  launch.block_threads = static_cast<int32_t>(threads);
  launch.shared_bytes = static_cast<int32_t>(shared_bytes);
  launch.seed = state.streams.launch_seed();
  launch.seconds = kLaunchSeconds;
  char error[2048] = {};
  if (raggedrt_emulator_run(&launch, nullptr, error, sizeof(error)) == 0) return kSuccess;
  if (state.error.empty()) state.error = kernel.name + ": " + error;
  return kLaunchFailed;
}

bool in_one_allocation(const DriverState& state, uint64_t address, size_t bytes) {
  auto next = state.allocations.upper_bound(address);
  if (next == state.allocations.begin()) return false;
  const auto& [begin, memory] = *std::prev(next);
  return address - begin <= memory.second && bytes <= memory.second - (address - begin);
}

void* at(uint64_t address) { return reinterpret_cast<void*>(static_cast<uintptr_t>(address)); }

int copy_to_device(DriverState& state, uint64_t target, const void* source, size_t bytes) {
  if (!in_one_allocation(state, target, bytes)) return kInvalidValue;
  memcpy(at(target), source, bytes);
  raggedrt_emulator_written(at(target), bytes);
  return kSuccess;
}

}  // namespace
}  // namespace raggedrt::emulator

using namespace raggedrt::emulator;

// ---- Control -------------------------------------------------------------------------------------------------------

void raggedrt_emulated_driver_seed(uint64_t seed) {
  DriverState& state = driver_state();
  const std::lock_guard<std::mutex> lock(state.mutex);
  state.streams.seed(seed);
}

void raggedrt_emulated_driver_fail(const char* function, int skipped, int result) {
  DriverState& state = driver_state();
  const std::lock_guard<std::mutex> lock(state.mutex);
  if (function == nullptr) {
    state.failures.clear();
  } else {
    state.failures.push_back({function, skipped, result});
  }
}

int raggedrt_emulated_driver_calls(const char* function) {
  DriverState& state = driver_state();
  const std::lock_guard<std::mutex> lock(state.mutex);
  return state.calls[function];
}

void raggedrt_emulated_driver_error(char* text, size_t size) {
  DriverState& state = driver_state();
  const std::lock_guard<std::mutex> lock(state.mutex);
  if (size > 0) snprintf(text, size, "%s", state.error.c_str());
  state.error.clear();
  state.streams.clear_error();
}

size_t raggedrt_emulated_driver_allocated() {
  DriverState& state = driver_state();
  const std::lock_guard<std::mutex> lock(state.mutex);
  size_t bytes = 0;
  for (const auto& [address, memory] : state.allocations) bytes += memory.second;
  return bytes;
}

// ---- Devices and contexts ------------------------------------------------------------------------------------------

RAGGEDRT_DRIVER cuInit(unsigned) {
  return call("cuInit", [](DriverState& state) { return state.settings.devices > 0 ? kSuccess : kNoDevice; });
}

RAGGEDRT_DRIVER cuDriverGetVersion(int* version) {
  return call("cuDriverGetVersion", [&](DriverState& state) {
    *version = state.settings.version;
    return kSuccess;
  });
}

RAGGEDRT_DRIVER cuGetErrorName(int result, const char** text) {
  for (const ResultName& row : kResultNames) {
    if (row.result == result) return *text = row.name, kSuccess;
  }
  return kInvalidValue;
}

RAGGEDRT_DRIVER cuGetErrorString(int result, const char** text) {
  for (const ResultName& row : kResultNames) {
    if (row.result == result) return *text = row.text, kSuccess;
  }
  return kInvalidValue;
}

RAGGEDRT_DRIVER cuDeviceGetCount(int* count) {
  return call("cuDeviceGetCount", [&](DriverState& state) {
    *count = state.settings.devices;
    return kSuccess;
  });
}

RAGGEDRT_DRIVER cuDeviceGet(int* device, int ordinal) {
  return call("cuDeviceGet", [&](DriverState& state) {
    if (ordinal < 0 || ordinal >= state.settings.devices) return kInvalidDevice;
    *device = ordinal;
    return kSuccess;
  });
}

RAGGEDRT_DRIVER cuDeviceGetName(char* name, int size, int device) {
  return call("cuDeviceGetName", [&](DriverState&) {
    snprintf(name, static_cast<size_t>(size), "emulated device %d", device);
    return kSuccess;
  });
}

RAGGEDRT_DRIVER cuDeviceGetAttribute(int* value, int attribute, int) {
  return call("cuDeviceGetAttribute", [&](DriverState& state) {
    *value = attribute_of(state.settings.capability, attribute);
    return *value < 0 ? kInvalidValue : kSuccess;
  });
}

RAGGEDRT_DRIVER cuDevicePrimaryCtxRetain(void** context, int device) {
  return call("cuDevicePrimaryCtxRetain", [&](DriverState& state) {
    if (device < 0 || device >= state.settings.devices) return kInvalidDevice;
    *context = state.contexts[static_cast<size_t>(device)].get();
    return kSuccess;
  });
}

RAGGEDRT_DRIVER cuCtxGetCurrent(void** context) {
  return call("cuCtxGetCurrent", [&](DriverState&) {
    *context = current_context;
    return kSuccess;
  });
}

RAGGEDRT_DRIVER cuCtxSetCurrent(void* context) {
  return call("cuCtxSetCurrent", [&](DriverState&) {
    current_context = static_cast<Context*>(context);
    return kSuccess;
  });
}

RAGGEDRT_DRIVER cuCtxGetDevice(int* device) {
  return call("cuCtxGetDevice", [&](DriverState&) {
    if (current_context == nullptr) return kInvalidContext;
    *device = current_context->device;
    return kSuccess;
  });
}

RAGGEDRT_DRIVER cuCtxSynchronize() {
  return call("cuCtxSynchronize", [](DriverState& state) {
    state.streams.finish_all();
    return kSuccess;
  });
}

// ---- Memory --------------------------------------------------------------------------------------------------------

RAGGEDRT_DRIVER cuMemAlloc_v2(uint64_t* address, size_t bytes) {
  return call("cuMemAlloc_v2", [&](DriverState& state) {
    if (current_context == nullptr) return kInvalidContext;
    if (bytes == 0) return kInvalidValue;
    // A gap before and after, so that what runs over an end meets no other tensor.
    const size_t padded = (bytes + kAllocationAlignment - 1) / kAllocationAlignment * kAllocationAlignment;
    std::unique_ptr<char[]> block(new (std::nothrow) char[padded + 2 * kAllocationAlignment]);
    if (block == nullptr) return kOutOfMemory;
    const uintptr_t begin = reinterpret_cast<uintptr_t>(block.get()) + kAllocationAlignment;
    *address = begin / kAllocationAlignment * kAllocationAlignment + kAllocationAlignment / 2;
    if (raggedrt_emulator_register(at(*address), bytes, "device memory", raggedrt_emulator_uninitialized) != 0) {
      return kInvalidValue;
    }
    state.allocations[*address] = {std::move(block), bytes};
    return kSuccess;
  });
}

RAGGEDRT_DRIVER cuMemFree_v2(uint64_t address) {
  return call("cuMemFree_v2", [&](DriverState& state) {
    state.streams.finish_all();
    if (state.allocations.count(address) == 0) return kInvalidValue;
    raggedrt_emulator_unregister(at(address));
    state.allocations.erase(address);
    return kSuccess;
  });
}

RAGGEDRT_DRIVER cuMemcpyHtoD_v2(uint64_t target, const void* source, size_t bytes) {
  return call("cuMemcpyHtoD_v2", [&](DriverState& state) {
    state.streams.finish_all();
    return copy_to_device(state, target, source, bytes);
  });
}

RAGGEDRT_DRIVER cuMemcpyDtoH_v2(void* target, uint64_t source, size_t bytes) {
  return call("cuMemcpyDtoH_v2", [&](DriverState& state) {
    state.streams.finish_all();
    if (!in_one_allocation(state, source, bytes)) return int{kInvalidValue};
    memcpy(target, at(source), bytes);
    return int{kSuccess};
  });
}

RAGGEDRT_DRIVER cuMemcpyHtoDAsync_v2(uint64_t target, const void* source, size_t bytes, void* stream) {
  return call("cuMemcpyHtoDAsync_v2", [&](DriverState& state) {
    if (!state.streams.knows(stream)) return kInvalidHandle;
    state.streams.put(stream, {[&state, target, source, bytes] { return copy_to_device(state, target, source, bytes); },
                               nullptr, 0});
    return kSuccess;
  });
}

RAGGEDRT_DRIVER cuMemsetD32Async(uint64_t target, unsigned value, size_t words, void* stream) {
  return call("cuMemsetD32Async", [&](DriverState& state) {
    if (current_context == nullptr) return kInvalidContext;
    if (!state.streams.knows(stream)) return kInvalidHandle;
    if (target % 4 != 0 || !in_one_allocation(state, target, words * 4)) return kInvalidValue;
    state.streams.put(stream, {[target, value, words] {
                                 std::fill_n(static_cast<unsigned*>(at(target)), words, value);
                                 raggedrt_emulator_written(at(target), words * 4);
                                 return int{kSuccess};
                               },
                               nullptr, 0});
    return kSuccess;
  });
}

// Host memory is ordinary memory here; the device never reads it.
RAGGEDRT_DRIVER cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
  return call("cuMemHostAlloc", [&](DriverState&) {
    *memory = malloc(bytes);
    return *memory != nullptr ? kSuccess : kOutOfMemory;
  });
}

RAGGEDRT_DRIVER cuMemFreeHost(void* memory) {
  return call("cuMemFreeHost", [&](DriverState& state) {
    state.streams.finish_all();
    free(memory);
    return kSuccess;
  });
}

// ---- Streams and events --------------------------------------------------------------------------------------------

RAGGEDRT_DRIVER cuStreamCreate(void** stream, unsigned) {
  return call("cuStreamCreate", [&](DriverState& state) {
    if (current_context == nullptr) return kInvalidContext;
    return state.streams.create(stream) ? kSuccess : kInvalidValue;
  });
}

RAGGEDRT_DRIVER cuStreamDestroy_v2(void* stream) {
  return call("cuStreamDestroy_v2",
              [&](DriverState& state) { return state.streams.destroy(stream) ? kSuccess : kInvalidHandle; });
}

RAGGEDRT_DRIVER cuStreamSynchronize(void* stream) {
  return call("cuStreamSynchronize", [&](DriverState& state) {
    if (!state.streams.knows(stream)) return kInvalidHandle;
    state.streams.finish(stream);
    return kSuccess;
  });
}

RAGGEDRT_DRIVER cuStreamIsCapturing(void* stream, int* status) {
  return call("cuStreamIsCapturing", [&](DriverState& state) {
    *status = 0;  // nothing is ever captured here
    return state.streams.knows(stream) ? kSuccess : kInvalidHandle;
  });
}

RAGGEDRT_DRIVER cuEventCreate(void** event, unsigned) {
  return call("cuEventCreate", [&](DriverState& state) {
    auto made = std::make_shared<Event>();
    *event = made.get();
    state.events[*event] = std::move(made);
    return kSuccess;
  });
}

RAGGEDRT_DRIVER cuEventDestroy_v2(void* event) {
  return call("cuEventDestroy_v2",
              [&](DriverState& state) { return state.events.erase(event) != 0 ? kSuccess : kInvalidHandle; });
}

RAGGEDRT_DRIVER cuEventRecord(void* event, void* stream) {
  return call("cuEventRecord", [&](DriverState& state) {
    const auto found = state.events.find(event);
    if (found == state.events.end() || !state.streams.knows(stream)) return kInvalidHandle;
    const std::shared_ptr<Event> recorded = found->second;
    const uint64_t count = ++recorded->recorded;
    state.streams.put(stream, {[recorded, count] {
                                 recorded->reached = std::max(recorded->reached, count);
                                 return int{kSuccess};
                               },
                               nullptr, 0});
    return kSuccess;
  });
}

RAGGEDRT_DRIVER cuEventQuery(void* event) {
  return call("cuEventQuery", [&](DriverState& state) {
    const auto found = state.events.find(event);
    if (found == state.events.end()) return kInvalidHandle;
    return found->second->reached >= found->second->recorded ? kSuccess : kNotReady;
  });
}

RAGGEDRT_DRIVER cuStreamWaitEvent(void* stream, void* event, unsigned) {
  return call("cuStreamWaitEvent", [&](DriverState& state) {
    const auto found = state.events.find(event);
    if (found == state.events.end() || !state.streams.knows(stream)) return kInvalidHandle;
    state.streams.put(stream, {nullptr, found->second, found->second->recorded});
    return kSuccess;
  });
}

// ---- Kernels -------------------------------------------------------------------------------------------------------

RAGGEDRT_DRIVER cuLibraryLoadData(void** library, const void* code, void*, void**, unsigned, void*, void**, unsigned) {
  return call("cuLibraryLoadData", [&](DriverState& state) {
    constexpr size_t kPrefix = sizeof(kImagePrefix) - 1;
    if (memcmp(code, kImagePrefix, kPrefix) != 0) return int{kInvalidImage};
    if (const int result = open_kernels(state)) return result;
    auto kernel = std::make_unique<Kernel>();
    kernel->name = static_cast<const char*>(code) + kPrefix;
    kernel->code = static_cast<const raggedrt_emulated_kernel*>(dlsym(state.kernels, (kernel->name + "_emulated").c_str()));
    if (kernel->code == nullptr) return int{kNotFound};
    *library = kernel.release();  // as modules of a process that ends: never unloaded
    return int{kSuccess};
  });
}

RAGGEDRT_DRIVER cuLibraryGetKernel(void** kernel, void* library, const char* name) {
  return call("cuLibraryGetKernel", [&](DriverState&) {
    if (static_cast<Kernel*>(library)->name != name) return kNotFound;
    *kernel = library;
    return kSuccess;
  });
}

RAGGEDRT_DRIVER cuKernelSetAttribute(int attribute, int value, void* kernel, int) {
  return call("cuKernelSetAttribute", [&](DriverState& state) {
    if (attribute != 8 || value > attribute_of(state.settings.capability, 97)) return kInvalidValue;
    static_cast<Kernel*>(kernel)->most_shared_bytes = value;
    return kSuccess;
  });
}

RAGGEDRT_DRIVER cuLaunchKernel(void* kernel, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                               unsigned block_y, unsigned block_z, unsigned shared_bytes, void* stream,
                               void** arguments, void**) {
  return call("cuLaunchKernel", [&](DriverState& state) {
    if (current_context == nullptr) return kInvalidContext;
    if (!state.streams.knows(stream)) return kInvalidHandle;
    const Kernel& launched = *static_cast<Kernel*>(kernel);
    if (grid_x == 0 || grid_y == 0 || grid_z != 1 || block_x == 0 || block_x > launched.code->max_threads ||
        block_y != 1 || block_z != 1 || static_cast<int>(shared_bytes) > launched.most_shared_bytes) {
      return kInvalidValue;
    }
    // Arguments are read now, as the real driver does: the caller's struct is gone when the kernel runs.
    const char* params = static_cast<const char*>(arguments[0]);
    const std::vector<char> copied(params, params + launched.code->param_bytes);
    state.streams.put(stream, {[&state, &launched, copied, grid_x, grid_y, block_x, shared_bytes] {
                                 return run_kernel(state, launched, copied, grid_x, grid_y, block_x, shared_bytes);
                               },
                               nullptr, 0});
    return kSuccess;
  });
}
