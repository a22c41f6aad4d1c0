// Faults of the host while kernels run: division by zero, which a GPU does not notice, and accesses past the intrinsics.
#pragma once

#include <setjmp.h>
#include <signal.h>

namespace raggedrt::emulator {

// While it lives, a fault of this thread becomes the launch's error and goes back to where `again` was set.
class FaultGuard {
 public:
  FaultGuard();
  FaultGuard(const FaultGuard&) = delete;
  FaultGuard& operator=(const FaultGuard&) = delete;
  ~FaultGuard();
  static sigjmp_buf again;

 private:
  stack_t stack_before_ = {};
};

}  // namespace raggedrt::emulator
