#include "cuda/emulator/context.h"

#include <sys/mman.h>
#include <unistd.h>

#if !RAGGEDRT_EMULATOR_OWN_SWITCH
#include <ucontext.h>
#endif

namespace raggedrt::emulator {

#if RAGGEDRT_EMULATOR_OWN_SWITCH && defined(__x86_64__)

asm(R"(
.text
.hidden raggedrt_emulator_switch
.globl raggedrt_emulator_switch
.type raggedrt_emulator_switch, @function
.p2align 4
raggedrt_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size raggedrt_emulator_switch, .-raggedrt_emulator_switch
)");

void prepare(Context& context, char* top, size_t, void (*entry)()) {
  void** stack = reinterpret_cast<void**>(top);
  *--stack = nullptr;  // where `entry` would return to: also aligns its frame as a call does
  *--stack = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; ++saved) *--stack = nullptr;
  context.stack_pointer = stack;
}

#elif RAGGEDRT_EMULATOR_OWN_SWITCH

asm(R"(
.text
.hidden raggedrt_emulator_switch
.globl raggedrt_emulator_switch
.type raggedrt_emulator_switch, %function
.p2align 4
raggedrt_emulator_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size raggedrt_emulator_switch, .-raggedrt_emulator_switch
)");

void prepare(Context& context, char* top, size_t, void (*entry)()) {
  void** stack = reinterpret_cast<void**>(top) - 20;
  for (int saved = 0; saved < 20; ++saved) stack[saved] = nullptr;
  stack[11] = reinterpret_cast<void*>(entry);  // x30, the return address
  context.stack_pointer = stack;
}

#else

namespace {

ucontext_t* of(Context& context) {
  if (context.ucontext == nullptr) context.ucontext = new ucontext_t;  // kept with its lane, as its stack is
  return static_cast<ucontext_t*>(context.ucontext);
}

}  // namespace

void prepare(Context& context, char* top, size_t stack_bytes, void (*entry)()) {
  ucontext_t* const next = of(context);
  getcontext(next);
  next->uc_stack.ss_sp = top - stack_bytes;
  next->uc_stack.ss_size = stack_bytes;
  next->uc_link = nullptr;
  makecontext(next, entry, 0);
}
void switch_context(Context& from, Context& to) { swapcontext(of(from), of(to)); }

#endif

namespace {

constexpr int kMostLanes = 1024;
constexpr size_t kGuardBytes = 16 * 1024;  // a multiple of every usual page size
constexpr size_t kColors = 32;             // tops at equal offsets would fight for the same lines of the cache

}  // namespace

Stacks::~Stacks() {
  if (memory_ != nullptr) munmap(memory_, kMostLanes * kBytes);
}

char* Stacks::top(int index) {
  if (memory_ == nullptr) {
    void* const memory =
        mmap(nullptr, kMostLanes * kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    memory_ = static_cast<char*>(memory);
  }
  for (; guarded_ <= index; ++guarded_) {
    if (mprotect(memory_ + guarded_ * kBytes, kGuardBytes, PROT_NONE) != 0) return nullptr;
  }
  return memory_ + (index + 1) * kBytes - (index % kColors) * 192;
}

}  // namespace raggedrt::emulator
