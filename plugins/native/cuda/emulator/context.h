// Stacks of lanes and the switch between them.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if (defined(__x86_64__) || defined(__aarch64__)) && !defined(RAGGEDRT_EMULATOR_UCONTEXT)
#define RAGGEDRT_EMULATOR_OWN_SWITCH 1
#else
#define RAGGEDRT_EMULATOR_OWN_SWITCH 0
#endif

namespace raggedrt::emulator {

// A suspended flow of control. On x86-64 and aarch64 the switch saves what the calling convention asks for and nothing
// else; elsewhere it is ucontext's, which is ten times slower.
struct Context {
  void* stack_pointer = nullptr;
  void* ucontext = nullptr;
};

// Makes `context` begin with `entry()`, which must never return, on the stack that ends at `top` (16-byte aligned).
void prepare(Context& context, char* top, size_t stack_bytes, void (*entry)());

// Suspends the running flow in `from` and goes on with `to`.
#if RAGGEDRT_EMULATOR_OWN_SWITCH
extern "C" __attribute__((visibility("hidden"))) void raggedrt_emulator_switch(void** save, void* stack_pointer);
inline void switch_context(Context& from, Context& to) {
  raggedrt_emulator_switch(&from.stack_pointer, to.stack_pointer);
}
#else
void switch_context(Context& from, Context& to);
#endif

// Stacks of one block's lanes, with a page that traps between them.
class Stacks {
 public:
  static constexpr size_t kBytes = 64 * 1024;
  Stacks() = default;
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  ~Stacks();
  // End of lane `index`'s stack; nullptr where memory is out.
  char* top(int index);

 private:
  char* memory_ = nullptr;
  int guarded_ = 0;
};

}  // namespace raggedrt::emulator
