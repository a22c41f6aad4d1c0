// The CUDA driver, opened at run time: libcuda.so.1, or the library that RAGGEDRT_CUDA_DRIVER names. Nothing here needs
// CUDA's headers; types and numbers are those of the driver's binary interface.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <string>

#include "cuda/launch/status.h"

namespace raggedrt::cuda {

using DriverResult = int;
using DriverDevice = int;
using DriverContext = struct DriverContextObject*;
using DriverLibrary = struct DriverLibraryObject*;
using DriverKernel = struct DriverKernelObject*;
using DriverStream = void*;

constexpr DriverResult kDriverSuccess = 0;
constexpr DriverResult kDriverOutOfMemory = 2;

// The oldest driver served, as cuDriverGetVersion counts: machine code of CUDA 13 needs one of CUDA 13 or later.
constexpr int kOldestDriver = 13000;

// Numbers of CUdevice_attribute.
enum DeviceAttribute : int {
  kMultiprocessorCount = 16,
  kThreadsPerMultiprocessor = 39,
  kComputeCapabilityMajor = 75,
  kComputeCapabilityMinor = 76,
  kSharedBytesPerMultiprocessor = 81,
  kSharedBytesPerBlockOptIn = 97,
};
// Number of CUfunction_attribute.
constexpr int kMaxDynamicSharedBytes = 8;

struct Driver {
  DriverResult (*init)(unsigned flags);
  DriverResult (*version)(int* version);
  DriverResult (*error_name)(DriverResult, const char** text);
  DriverResult (*error_string)(DriverResult, const char** text);
  DriverResult (*device_count)(int* count);
  DriverResult (*device_get)(DriverDevice*, int ordinal);
  DriverResult (*device_name)(char* name, int size, DriverDevice);
  DriverResult (*device_attribute)(int* value, int attribute, DriverDevice);
  DriverResult (*context_current)(DriverContext*);
  DriverResult (*context_set_current)(DriverContext);
  DriverResult (*context_device)(DriverDevice*);
  DriverResult (*primary_context_retain)(DriverContext*, DriverDevice);
  DriverResult (*library_load)(DriverLibrary*, const void* code, void* jit_options, void** jit_values, unsigned jit_count,
                               void* options, void** values, unsigned count);
  DriverResult (*library_kernel)(DriverKernel*, DriverLibrary, const char* name);
  DriverResult (*kernel_set_attribute)(int attribute, int value, DriverKernel, DriverDevice);
  DriverResult (*memset_words)(uint64_t address, unsigned value, size_t words, DriverStream);
  DriverResult (*launch)(DriverKernel, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                         unsigned block_y, unsigned block_z, unsigned shared_bytes, DriverStream, void** arguments,
                         void** extra);

  // What a result means: `doing: NAME (text)`; ok for success.
  Status check(DriverResult result, const std::string& doing) const;
};

// The driver of this process, opened and initialised at the first call that succeeds.
Status open_driver(const Driver** driver);

}  // namespace raggedrt::cuda
