#include "cpu/isa.h"

#include <string.h>

#include <atomic>

namespace raggedrt {

#if defined(__x86_64__)
namespace avx512 {
extern const IsaKernels kKernels;
}
namespace avx2 {
extern const IsaKernels kKernels;
}
#endif
namespace generic {
extern const IsaKernels kKernels;
}

namespace {

struct Candidate {
  const IsaKernels* kernels;
  bool (*supported)();
};

// Best first. The compiler's run-time support also asks whether the operating system saves the registers.
const Candidate kCandidates[] = {
#if defined(__x86_64__)
    {&avx512::kKernels,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
     }},
    {&avx2::kKernels,
     [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); }},
#endif
    {&generic::kKernels, [] { return true; }},
};

std::atomic<const IsaKernels*> selected{nullptr};

}  // namespace

const IsaKernels& isa_kernels() {
  const IsaKernels* kernels = selected.load(std::memory_order_acquire);
  if (kernels == nullptr) {
    select_isa(nullptr);
    kernels = selected.load(std::memory_order_acquire);
  }
  return *kernels;
}

const char* const* available_isas() {
  static const char* names[sizeof(kCandidates) / sizeof(kCandidates[0]) + 1] = {};
  static const bool filled = [] {
    int count = 0;
    for (const Candidate& candidate : kCandidates) {
      if (candidate.supported()) names[count++] = candidate.kernels->name;
    }
    return true;
  }();
  (void)filled;
  return names;
}

bool select_isa(const char* name) {
  for (const Candidate& candidate : kCandidates) {
    if ((name == nullptr || strcmp(name, candidate.kernels->name) == 0) && candidate.supported()) {
      selected.store(candidate.kernels, std::memory_order_release);
      return true;
    }
  }
  return false;
}

}  // namespace raggedrt
