#include "cuda/emulator/faults.h"

#include <pthread.h>

#include "cuda/emulator/runtime.h"

namespace raggedrt::emulator {

sigjmp_buf FaultGuard::again;

namespace {

constexpr size_t kStackBytes = 256 * 1024;  // of its own: the fault may be a full stack

struct HostFault {
  int signal;
  const char* what;
  struct sigaction before;
};

HostFault faults[] = {
    {SIGFPE, "an integer division by zero or an overflowing one", {}},
    {SIGSEGV, "an access to memory that is not there: past the intrinsics, or more locals than the stack holds", {}},
    {SIGBUS, "an access to memory that is not there: past the intrinsics", {}},
    {SIGILL, "an instruction that this CPU does not have", {}},
};
pthread_t owner;
char stack[kStackBytes];

void handle(int signal, siginfo_t*, void*) {
  for (const HostFault& fault : faults) {
    if (fault.signal != signal) continue;
    if (!pthread_equal(owner, pthread_self())) {  // not the emulator's: it happens again under the handler before
      sigaction(signal, &fault.before, nullptr);
      return;
    }
    const Lane* const lane = launch.lane;
    launch.error = (lane != nullptr ? place_of(*lane) : "the emulator") + ": " + fault.what;
    launch.error_site = lane != nullptr ? lane->site : nullptr;
    siglongjmp(FaultGuard::again, 1);
  }
}

}  // namespace

FaultGuard::FaultGuard() {
  owner = pthread_self();
  stack_t own = {};
  own.ss_sp = stack;
  own.ss_size = sizeof stack;
  sigaltstack(&own, &stack_before_);
  struct sigaction action = {};
  action.sa_sigaction = &handle;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  for (HostFault& fault : faults) sigaction(fault.signal, &action, &fault.before);
}

FaultGuard::~FaultGuard() {
  for (const HostFault& fault : faults) sigaction(fault.signal, &fault.before, nullptr);
  sigaltstack(&stack_before_, nullptr);
}

}  // namespace raggedrt::emulator
