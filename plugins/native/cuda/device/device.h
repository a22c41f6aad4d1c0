// The one intrinsic header of device code. A kernel source includes this file and nothing of CUDA or the C++ library;
// NVRTC and nvcc compile it to machine code (ptx.h), g++ with -DRAGGEDRT_EMULATE into the emulator (emulated.h).
//
// Rules for kernel authors. The emulator reports a violation as an error; on a GPU most are silent wrong numbers.
//  1. A kernel is `RAGGEDRT_KERNEL(max_threads, min_blocks) RAGGEDRT_ENTRY(const SomeParams params) {...}` at global
//     scope, one per translation unit, with one by-value struct of kernels/params.h. block_threads() is a multiple of
//     32, at most max_threads. Functions are marked RAGGEDRT_DEVICE. No statics, no globals, no recursion. Code stands
//     in namespace raggedrt::device or one inside it, and the entry calls it by its full name: CUDA has global
//     functions of the same names (ballot, any).
//  2. Every access to shared and global memory goes through an intrinsic. Local arrays are registers: index them with
//     compile-time constants after RAGGEDRT_UNROLL.
//  3. Shared memory is the launch's dynamic shared memory only, begins 128-byte aligned and is not initialised.
//     Writing or reading past the launched size, and reading bytes nobody wrote, are errors.
//  4. Accesses have natural alignment: a 16-byte vector lies at a multiple of 16.
//  5. What one thread writes, another may touch only after sync_block, a named_barrier of both or, within a warp,
//     sync_warp; likewise a write after another's read. Shuffles, votes, ldmatrix and mma do NOT order memory,
//     lanes of a warp do not run in step, and two threads may not store to one address even the same value.
//  6. Blocks run in any order, alone or together; a block never waits for another. Results pass between blocks of one
//     launch only so: write, [sync_block,] fence_device, atomic | atomic, fence_device, [sync_block,] read.
//  7. load_global_readonly only for memory that no block of this launch writes.
//  8. Warp collectives (shuffles, ballot, load_matrix, mma, sync_warp) need all 32 lanes of the warp, at the same
//     operation; sync_block, all_block and any_block need all threads of the block. No thread returns before the
//     others pass their last barrier. A named barrier counts whole warps; ids are 1 to 15.
//  9. An asynchronous copy lands at any time between its issue and the wait of the issuing thread that covers its
//     group; until then nobody touches its destination, and until a barrier after that wait only that thread does.
//     Order after earlier readers of the destination: a barrier before the issue. No copy is in flight at the end.
// 10. Arithmetic on poison (signalling NaN patterns in shared and output memory) shows in the outputs: never let a
//     masked lane's garbage reach a sum by multiplying it with zero.
#pragma once

#include "cuda/device/integers.h"

namespace raggedrt::device {

// Elements of tensors; `half` is IEEE binary16. Arithmetic is in float.
struct half {
  uint16_t bits;
};
struct bfloat16 {
  uint16_t bits;
};
using float32 = float;

struct alignas(8) Vec8 {
  uint32_t word[2];
};
struct alignas(16) Vec16 {
  uint32_t word[4];
};

}  // namespace raggedrt::device

// Each of the two files implements all of what follows, in namespace raggedrt::device, and defines
//   RAGGEDRT_KERNEL(max_threads, min_blocks)   linkage and launch bounds of an entry
//   RAGGEDRT_DEVICE                            a device function that is always inlined
//   RAGGEDRT_UNROLL                            before a loop: unroll it fully
//
// Where am I
//   int thread_index(), lane_index(), warp_index()     in the block; lane_index() = thread_index() % 32
//   int block_threads()
//   int block_index_x(), block_index_y(), grid_size_x(), grid_size_y()
//   char* shared_memory();  int shared_memory_bytes()  dynamic shared memory of this launch
//
// Memory. T is trivially copyable of 1, 2, 4, 8 or 16 bytes (Vec8, Vec16, half, float, ...)
//   T load_shared(const T*);  void store_shared(T*, T)
//   T load_global(const T*);  void store_global(T*, T)
//   T load_global_readonly(const T*)                   through the read-only cache, see rule 7
//   T atomic_add_global(T*, T)                         previous value; T = int32_t, uint32_t, uint64_t, float
//   T atomic_max_global(T*, T), atomic_min_global      T = int32_t, uint32_t
//   T atomic_exchange_global(T*, T)                    T = int32_t, uint32_t
//   T atomic_add_shared, atomic_max_shared, atomic_min_shared, atomic_exchange_shared    likewise
//   void fence_device()                                __threadfence(): rule 6
//
// Barriers
//   void sync_block();  bool all_block(bool), any_block(bool)    the latter two are barriers, too
//   void sync_warp();   void named_barrier(int id, int threads)  `threads` of them, whole warps, wait for each other
//
// Warp collectives
//   T shuffle(T, int lane), shuffle_xor(T, int mask), shuffle_up(T, int delta), shuffle_down(T, int delta)
//                                                      T of 4 or 8 bytes; up/down past the end: the own value
//   uint32_t ballot(bool)                              bit i: the predicate of lane i
//   load_matrix_x4(uint32_t (&r)[4], const void* row)  ldmatrix.x4: lanes 8j..8j+7 give the 16-byte rows of 8x8 matrix
//                                                      j of 16-bit elements; r[j] of lane l: row l/4, columns 2(l%4), +1
//   load_matrix_x4_transposed                          r[j] of lane l: rows 2(l%4), +1 of column l/4
//   load_matrix_x2(uint32_t (&r)[2], const void* row), load_matrix_x2_transposed      rows from lanes 0..15; the
//                                                      addresses of lanes 16..31 are ignored
//   mma_m16n8k16<Element>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
//       c += a b with A 16x16, B 16x8, C 16x8; Element = half or bfloat16. With g = lane/4, t = lane%4:
//       a[r]: row g + 8(r&1), columns 2t, 2t+1 + 8(r>>1);  b_r: rows k = 2t, 2t+1 + 8r, column g;
//       c[i]: row g + 8(i>>1), column 2t + (i&1)
//
// Asynchronous copies from global to shared memory, rule 9
//   copy_async_4, copy_async_8, copy_async_16(void* shared, const void* global, bool valid)
//                                                      !valid: zeros are written, and `global` is not read
//   copy_async_commit()                                closes this thread's group (it may be empty)
//   copy_async_wait<N>()                               until at most the N newest groups of this thread are in flight
//
// Arithmetic
//   float exp2_approx(float), log2_approx(float), reciprocal(float)    relative error <= 2^-21; exp2(-inf) = 0
//   float tanh_approx(float)                           absolute error <= 3e-7
//   float to_float(half | bfloat16 | float);  Element from_float<Element>(float)      round to nearest even
//   uint32_t pack2<Element>(float low, float high);  void unpack2<Element>(uint32_t, float& low, float& high)
//   float bits_to_float(uint32_t);  uint32_t float_to_bits(float);  float infinity()
//   float fused_multiply_add(float a, float b, float c);  T minimum(T, T), maximum(T, T)    int32_t, uint32_t, int64_t,
//                                                      float; of a float and a NaN: the float
//   int population_count(uint32_t), first_set_bit(uint32_t)       the latter: index of the lowest one, -1 if none
//   int leading_zeros(uint32_t)                        32 for 0
//
// Debugging
//   void debug_check(bool, const char* what)           an error in the emulator, nothing on a GPU

#if defined(RAGGEDRT_EMULATE)
#include "cuda/device/emulated.h"
#else
#include "cuda/device/ptx.h"
#endif

namespace raggedrt::device {

RAGGEDRT_DEVICE int lane_index() { return thread_index() % 32; }
RAGGEDRT_DEVICE int warp_index() { return thread_index() / 32; }

template <typename T>
RAGGEDRT_DEVICE T minimum(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
RAGGEDRT_DEVICE T maximum(T a, T b) {
  return a < b ? b : a;
}

RAGGEDRT_DEVICE float infinity() { return bits_to_float(0x7f800000u); }

// Near zero by its series, elsewhere from exp2: 1 - 2 / (exp(2|x|) + 1) would lose the small values' digits.
RAGGEDRT_DEVICE float tanh_approx(float x) {
  const float magnitude = bits_to_float(float_to_bits(x) & 0x7fffffffu);
  const float square = x * x;
  const float series =
      x * (1.0f + square * (-1.0f / 3 + square * (2.0f / 15 + square * (-17.0f / 315 + square * (62.0f / 2835)))));
  const float tail = 1.0f - 2.0f * reciprocal(exp2_approx(magnitude * 2.8853900817779268f) + 1.0f);  // 2 / ln 2
  const float far = x < 0.0f ? -tail : tail;
  return magnitude < 0.3f ? series : far;
}

}  // namespace raggedrt::device
