// Runs a program that each thread reads from global memory: random programs put the race detector to the test.
#include "cuda/device/device.h"

namespace raggedrt::device {

struct InterpreterParams {
  const uint32_t* program;  // [steps, threads]: what << 16 | where << 8 | how many
  const uint32_t* input;    // [words]
  uint32_t* global;         // [words]
  int steps;
  int words;  // of shared memory, too
};

RAGGEDRT_DEVICE void step(const InterpreterParams& params, uint32_t* shared, int what, int where, int count) {
  switch (what) {
    case 1: load_shared(shared + where); break;
    case 2: store_shared(shared + where, 1u); break;
    case 3: atomic_add_shared(shared + where, 1u); break;
    case 4: load_global(params.global + where); break;
    case 5: store_global(params.global + where, 1u); break;
    case 6: copy_async_4(shared + where, params.input + where, true); break;
    case 7: copy_async_commit(); break;
    case 8: copy_async_wait<0>(); break;
    case 9: copy_async_wait<1>(); break;
    case 10: sync_warp(); break;
    case 11: sync_block(); break;
    case 12: named_barrier(where, 32 * count); break;
    case 13: shuffle_xor(1u, 1); break;
    case 14: load_shared(reinterpret_cast<uint16_t*>(shared + where) + count); break;
    case 15: store_shared(reinterpret_cast<uint16_t*>(shared + where) + count, static_cast<uint16_t>(1)); break;
    default: break;
  }
}

RAGGEDRT_DEVICE void interpret(const InterpreterParams& params) {
  uint32_t* const shared = reinterpret_cast<uint32_t*>(shared_memory());
  for (int at = thread_index(); at < params.words; at += block_threads()) store_shared(shared + at, 0u);
  sync_block();
  for (int at = 0; at < params.steps; ++at) {
    const uint32_t code = load_global(params.program + at * block_threads() + thread_index());
    step(params, shared, static_cast<int>(code >> 16), static_cast<int>(code >> 8 & 0xffu),
         static_cast<int>(code & 0xffu));
  }
  copy_async_commit();
  copy_async_wait<0>();
}

}  // namespace raggedrt::device

RAGGEDRT_KERNEL(1024, 1) RAGGEDRT_ENTRY(const raggedrt::device::InterpreterParams params) {
  raggedrt::device::interpret(params);
}
