#include "cuda/launch/driver.h"

#include <dlfcn.h>
#include <stdlib.h>

#include <mutex>

namespace raggedrt::cuda {
namespace {

constexpr const char* kUsualLibrary = "libcuda.so.1";

// Reads the table from an opened library; the first function that it lacks is named.
class Reader {
 public:
  explicit Reader(void* library) : library_(library) {}

  template <typename Function>
  void read(Function& function, const char* name) {
    function = reinterpret_cast<Function>(dlsym(library_, name));
    if (function == nullptr && missing_ == nullptr) missing_ = name;
  }

  const char* missing() const { return missing_; }

 private:
  void* library_;
  const char* missing_ = nullptr;
};

const char* read_table(void* library, Driver& driver) {
  Reader reader(library);
  reader.read(driver.init, "cuInit");
  reader.read(driver.version, "cuDriverGetVersion");
  reader.read(driver.error_name, "cuGetErrorName");
  reader.read(driver.error_string, "cuGetErrorString");
  reader.read(driver.device_count, "cuDeviceGetCount");
  reader.read(driver.device_get, "cuDeviceGet");
  reader.read(driver.device_name, "cuDeviceGetName");
  reader.read(driver.device_attribute, "cuDeviceGetAttribute");
  reader.read(driver.context_current, "cuCtxGetCurrent");
  reader.read(driver.context_set_current, "cuCtxSetCurrent");
  reader.read(driver.context_device, "cuCtxGetDevice");
  reader.read(driver.primary_context_retain, "cuDevicePrimaryCtxRetain");
  reader.read(driver.library_load, "cuLibraryLoadData");
  reader.read(driver.library_kernel, "cuLibraryGetKernel");
  reader.read(driver.kernel_set_attribute, "cuKernelSetAttribute");
  reader.read(driver.memset_words, "cuMemsetD32Async");
  reader.read(driver.launch, "cuLaunchKernel");
  return reader.missing();
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

Status open(Driver& driver) {
  const char* named = getenv("RAGGEDRT_CUDA_DRIVER");
  const char* path = named != nullptr && *named != '\0' ? named : kUsualLibrary;
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    return Status::failure(std::string("no CUDA driver: ") + (reason != nullptr ? reason : path) +
                           "; install NVIDIA's driver, or use a CPU target");
  }
  const char* missing = read_table(library, driver);
  int version = 0;
  if (driver.version != nullptr) {
    RAGGEDRT_RETURN_IF_FAILED(driver.check(driver.version(&version), "asking the CUDA driver for its version"));
  }
  if (missing != nullptr || version < kOldestDriver) {
    return Status::failure("the CUDA driver " + std::string(path) + " is too old: it serves CUDA " +
                           version_text(version) + (missing != nullptr ? std::string(" and lacks ") + missing : "") +
                           ", expected " + version_text(kOldestDriver) + " or later; update NVIDIA's driver");
  }
  return driver.check(driver.init(0), "initialising the CUDA driver");
}

}  // namespace

Status Driver::check(DriverResult result, const std::string& doing) const {
  if (result == kDriverSuccess) return {};
  const char* name = nullptr;
  const char* text = nullptr;
  if (error_name == nullptr || error_name(result, &name) != kDriverSuccess) name = nullptr;
  if (error_string == nullptr || error_string(result, &text) != kDriverSuccess) text = nullptr;
  std::string message = doing + ": " + (name != nullptr ? name : "CUDA error " + std::to_string(result));
  if (text != nullptr) message += std::string(" (") + text + ")";
  return Status::failure(message);
}

Status open_driver(const Driver** driver) {
  static std::mutex mutex;
  static Driver opened{};
  static bool ready = false;
  const std::lock_guard<std::mutex> lock(mutex);
  if (!ready) {
    Driver found{};
    RAGGEDRT_RETURN_IF_FAILED(open(found));
    opened = found;
    ready = true;
  }
  *driver = &opened;
  return {};
}

}  // namespace raggedrt::cuda
