// The intrinsics in the emulator. What each does is said in device.h, which includes this file; what the emulator
// checks, in emulator/. The functions declared here are the emulator's; a kernel calls the wrappers only.
#pragma once

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "cuda/emulator/api.h"

// Where the running lane is.
struct raggedrt_emulated_place {
  int32_t thread;
  int32_t block_threads;
  int32_t block_x;
  int32_t block_y;
  int32_t grid_x;
  int32_t grid_y;
  int32_t shared_bytes;
  char* shared;
};

// A statement that a mutation test can leave out, and that messages name.
struct raggedrt_emulated_call {
  const char* name;
  const char* file;
  int32_t line;
};

enum raggedrt_emulated_exchange : int32_t {
  raggedrt_emulated_shuffle_lane,
  raggedrt_emulated_shuffle_xor,
  raggedrt_emulated_shuffle_up,
  raggedrt_emulated_shuffle_down,
};

#define RAGGEDRT_EMULATED RAGGEDRT_EMULATOR_API
RAGGEDRT_EMULATED raggedrt_emulated_place* raggedrt_emulated_here;
RAGGEDRT_EMULATED raggedrt_emulator_counters raggedrt_emulated_counts;
RAGGEDRT_EMULATED void raggedrt_emulated_read_shared(const void* address, uint32_t bytes);
RAGGEDRT_EMULATED void raggedrt_emulated_write_shared(const void* address, uint32_t bytes);
RAGGEDRT_EMULATED void raggedrt_emulated_atomic_shared(const void* address, uint32_t bytes);
RAGGEDRT_EMULATED void raggedrt_emulated_read_global(const void* address, uint32_t bytes);
RAGGEDRT_EMULATED void raggedrt_emulated_read_constant(const void* address, uint32_t bytes);
RAGGEDRT_EMULATED void raggedrt_emulated_write_global(const void* address, uint32_t bytes);
RAGGEDRT_EMULATED void raggedrt_emulated_atomic_global(const void* address, uint32_t bytes);
RAGGEDRT_EMULATED void raggedrt_emulated_fence(const raggedrt_emulated_call* call);
RAGGEDRT_EMULATED void raggedrt_emulated_sync_block(const raggedrt_emulated_call* call);
RAGGEDRT_EMULATED int raggedrt_emulated_vote_block(const raggedrt_emulated_call* call, int all, int predicate);
RAGGEDRT_EMULATED void raggedrt_emulated_named_barrier(const raggedrt_emulated_call* call, int id, int threads);
RAGGEDRT_EMULATED void raggedrt_emulated_sync_warp(const raggedrt_emulated_call* call);
RAGGEDRT_EMULATED void raggedrt_emulated_shuffle(raggedrt_emulated_exchange kind, void* value, uint32_t bytes,
                                                 int operand);
RAGGEDRT_EMULATED uint32_t raggedrt_emulated_ballot(int predicate);
RAGGEDRT_EMULATED void raggedrt_emulated_load_matrix(uint32_t* r, const void* row, int matrices, int transposed);
RAGGEDRT_EMULATED void raggedrt_emulated_mma(int bfloat, float* c, const uint32_t* a, uint32_t b0, uint32_t b1);
RAGGEDRT_EMULATED void raggedrt_emulated_copy_async(void* shared, const void* global, uint32_t bytes, int valid);
RAGGEDRT_EMULATED void raggedrt_emulated_copy_async_commit(const raggedrt_emulated_call* call);
RAGGEDRT_EMULATED void raggedrt_emulated_copy_async_wait(const raggedrt_emulated_call* call, int groups);
RAGGEDRT_EMULATED void raggedrt_emulated_debug_check(int condition, const char* what);

#define RAGGEDRT_DEVICE inline __attribute__((always_inline))
#define RAGGEDRT_KERNEL(max_threads, min_blocks)                     \
  static constexpr uint32_t raggedrt_emulated_max_threads = max_threads; \
  extern "C" __attribute__((visibility("hidden"))) void
#define RAGGEDRT_UNROLL

// Exports `entry` as raggedrt_emulated_kernel `entry`_emulated; the build adds one to each translation unit.
#define RAGGEDRT_EMULATED_EXPORT(entry) RAGGEDRT_EMULATED_EXPORT_NAMED(entry, #entry)
#define RAGGEDRT_EMULATED_EXPORT_NAMED(entry, entry_name)                                                   \
  extern "C" {                                                                                              \
  extern const raggedrt_emulated_kernel entry##_emulated __attribute__((visibility("default")));            \
  const raggedrt_emulated_kernel entry##_emulated = {                                                       \
      entry_name, &raggedrt::device::detail::Caller<decltype(&entry)>::call<&entry>,                        \
      raggedrt::device::detail::Caller<decltype(&entry)>::kBytes, raggedrt_emulated_max_threads};           \
  }

namespace raggedrt::device {

namespace detail {

// Calls an entry with its by-value argument.
template <typename Function>
struct Caller;
template <typename Params>
struct Caller<void (*)(Params)> {
  static constexpr uint32_t kBytes = sizeof(Params);
  template <void (*entry)(Params)>
  static void call(const void* params) {
    entry(*static_cast<const Params*>(params));
  }
};

// A default argument of this type is made where the intrinsic is called.
struct Where {
  const char* file;
  int line;
  static constexpr Where here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};
RAGGEDRT_DEVICE raggedrt_emulated_call call(const char* name, Where where) { return {name, where.file, where.line}; }

template <typename To, typename From>
RAGGEDRT_DEVICE To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs types of one size");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

template <typename T>
RAGGEDRT_DEVICE T read(const T* address) {
  static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16,
                "an access has 1, 2, 4, 8 or 16 bytes");
  T value;
  memcpy(&value, address, sizeof(T));
  return value;
}

}  // namespace detail

RAGGEDRT_DEVICE int thread_index() { return raggedrt_emulated_here->thread; }
RAGGEDRT_DEVICE int block_threads() { return raggedrt_emulated_here->block_threads; }
RAGGEDRT_DEVICE int block_index_x() { return raggedrt_emulated_here->block_x; }
RAGGEDRT_DEVICE int block_index_y() { return raggedrt_emulated_here->block_y; }
RAGGEDRT_DEVICE int grid_size_x() { return raggedrt_emulated_here->grid_x; }
RAGGEDRT_DEVICE int grid_size_y() { return raggedrt_emulated_here->grid_y; }
RAGGEDRT_DEVICE char* shared_memory() { return raggedrt_emulated_here->shared; }
RAGGEDRT_DEVICE int shared_memory_bytes() { return raggedrt_emulated_here->shared_bytes; }

template <typename T>
RAGGEDRT_DEVICE T load_shared(const T* address) {
  raggedrt_emulated_read_shared(address, sizeof(T));
  return detail::read(address);
}
template <typename T>
RAGGEDRT_DEVICE void store_shared(T* address, T value) {
  raggedrt_emulated_write_shared(address, sizeof(T));
  memcpy(address, &value, sizeof(T));
}
template <typename T>
RAGGEDRT_DEVICE T load_global(const T* address) {
  raggedrt_emulated_read_global(address, sizeof(T));
  return detail::read(address);
}
template <typename T>
RAGGEDRT_DEVICE T load_global_readonly(const T* address) {
  raggedrt_emulated_read_constant(address, sizeof(T));
  return detail::read(address);
}
template <typename T>
RAGGEDRT_DEVICE void store_global(T* address, T value) {
  raggedrt_emulated_write_global(address, sizeof(T));
  memcpy(address, &value, sizeof(T));
}

#define RAGGEDRT_EMULATED_ATOMIC(name, result)                     \
  template <typename T>                                            \
  RAGGEDRT_DEVICE T atomic_##name##_global(T* address, T value) {  \
    raggedrt_emulated_atomic_global(address, sizeof(T));           \
    const T before = detail::read(address);                        \
    const T after = result;                                        \
    memcpy(address, &after, sizeof(T));                            \
    return before;                                                 \
  }                                                                \
  template <typename T>                                            \
  RAGGEDRT_DEVICE T atomic_##name##_shared(T* address, T value) {  \
    raggedrt_emulated_atomic_shared(address, sizeof(T));           \
    const T before = detail::read(address);                        \
    const T after = result;                                        \
    memcpy(address, &after, sizeof(T));                            \
    return before;                                                 \
  }
RAGGEDRT_EMULATED_ATOMIC(add, static_cast<T>(before + value))
RAGGEDRT_EMULATED_ATOMIC(max, before < value ? value : before)
RAGGEDRT_EMULATED_ATOMIC(min, value < before ? value : before)
RAGGEDRT_EMULATED_ATOMIC(exchange, value)
#undef RAGGEDRT_EMULATED_ATOMIC

RAGGEDRT_DEVICE void fence_device(detail::Where where = detail::Where::here()) {
  const raggedrt_emulated_call call = detail::call("fence_device", where);
  raggedrt_emulated_fence(&call);
}

RAGGEDRT_DEVICE void sync_block(detail::Where where = detail::Where::here()) {
  const raggedrt_emulated_call call = detail::call("sync_block", where);
  raggedrt_emulated_sync_block(&call);
}
RAGGEDRT_DEVICE bool all_block(bool predicate, detail::Where where = detail::Where::here()) {
  const raggedrt_emulated_call call = detail::call("all_block", where);
  return raggedrt_emulated_vote_block(&call, 1, predicate) != 0;
}
RAGGEDRT_DEVICE bool any_block(bool predicate, detail::Where where = detail::Where::here()) {
  const raggedrt_emulated_call call = detail::call("any_block", where);
  return raggedrt_emulated_vote_block(&call, 0, predicate) != 0;
}
RAGGEDRT_DEVICE void sync_warp(detail::Where where = detail::Where::here()) {
  const raggedrt_emulated_call call = detail::call("sync_warp", where);
  raggedrt_emulated_sync_warp(&call);
}
RAGGEDRT_DEVICE void named_barrier(int id, int threads, detail::Where where = detail::Where::here()) {
  const raggedrt_emulated_call call = detail::call("named_barrier", where);
  raggedrt_emulated_named_barrier(&call, id, threads);
}

namespace detail {

template <typename T>
RAGGEDRT_DEVICE T exchange(raggedrt_emulated_exchange kind, T value, int operand) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle moves 4 or 8 bytes");
  raggedrt_emulated_shuffle(kind, &value, sizeof(T), operand);
  return value;
}

}  // namespace detail

template <typename T>
RAGGEDRT_DEVICE T shuffle(T value, int lane) {
  return detail::exchange(raggedrt_emulated_shuffle_lane, value, lane);
}
template <typename T>
RAGGEDRT_DEVICE T shuffle_xor(T value, int mask) {
  return detail::exchange(raggedrt_emulated_shuffle_xor, value, mask);
}
template <typename T>
RAGGEDRT_DEVICE T shuffle_up(T value, int delta) {
  return detail::exchange(raggedrt_emulated_shuffle_up, value, delta);
}
template <typename T>
RAGGEDRT_DEVICE T shuffle_down(T value, int delta) {
  return detail::exchange(raggedrt_emulated_shuffle_down, value, delta);
}
RAGGEDRT_DEVICE uint32_t ballot(bool predicate) { return raggedrt_emulated_ballot(predicate); }

RAGGEDRT_DEVICE void load_matrix_x4(uint32_t (&r)[4], const void* row) { raggedrt_emulated_load_matrix(r, row, 4, 0); }
RAGGEDRT_DEVICE void load_matrix_x4_transposed(uint32_t (&r)[4], const void* row) {
  raggedrt_emulated_load_matrix(r, row, 4, 1);
}
RAGGEDRT_DEVICE void load_matrix_x2(uint32_t (&r)[2], const void* row) { raggedrt_emulated_load_matrix(r, row, 2, 0); }
RAGGEDRT_DEVICE void load_matrix_x2_transposed(uint32_t (&r)[2], const void* row) {
  raggedrt_emulated_load_matrix(r, row, 2, 1);
}

template <typename Element>
RAGGEDRT_DEVICE void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
RAGGEDRT_DEVICE void mma_m16n8k16<half>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  raggedrt_emulated_mma(0, c, a, b0, b1);
}
template <>
RAGGEDRT_DEVICE void mma_m16n8k16<bfloat16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  raggedrt_emulated_mma(1, c, a, b0, b1);
}

RAGGEDRT_DEVICE void copy_async_4(void* shared, const void* global, bool valid) {
  raggedrt_emulated_copy_async(shared, global, 4, valid);
}
RAGGEDRT_DEVICE void copy_async_8(void* shared, const void* global, bool valid) {
  raggedrt_emulated_copy_async(shared, global, 8, valid);
}
RAGGEDRT_DEVICE void copy_async_16(void* shared, const void* global, bool valid) {
  raggedrt_emulated_copy_async(shared, global, 16, valid);
}
RAGGEDRT_DEVICE void copy_async_commit(detail::Where where = detail::Where::here()) {
  const raggedrt_emulated_call call = detail::call("copy_async_commit", where);
  raggedrt_emulated_copy_async_commit(&call);
}
template <int kGroups>
RAGGEDRT_DEVICE void copy_async_wait(detail::Where where = detail::Where::here()) {
  static_assert(kGroups >= 0, "the number of groups that may stay in flight");
  const raggedrt_emulated_call call = detail::call("copy_async_wait", where);
  raggedrt_emulated_copy_async_wait(&call, kGroups);
}

RAGGEDRT_DEVICE float bits_to_float(uint32_t bits) { return detail::bit_cast<float>(bits); }
RAGGEDRT_DEVICE uint32_t float_to_bits(float value) { return detail::bit_cast<uint32_t>(value); }

RAGGEDRT_DEVICE float exp2_approx(float x) {
  ++raggedrt_emulated_counts.exp2;
  return ::exp2f(x);
}
RAGGEDRT_DEVICE float log2_approx(float x) {
  ++raggedrt_emulated_counts.log2;
  return ::log2f(x);
}
RAGGEDRT_DEVICE float reciprocal(float x) {
  ++raggedrt_emulated_counts.reciprocal;
  return 1.0f / x;
}
RAGGEDRT_DEVICE float fused_multiply_add(float a, float b, float c) { return ::fmaf(a, b, c); }
RAGGEDRT_DEVICE float minimum(float a, float b) { return ::fminf(a, b); }
RAGGEDRT_DEVICE float maximum(float a, float b) { return ::fmaxf(a, b); }

RAGGEDRT_DEVICE float to_float(float value) { return value; }
RAGGEDRT_DEVICE float to_float(half value) {
  const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7fffu) << 13;
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t bits = float_to_bits(bits_to_float(magnitude) * 0x1p112f);  // also right for subnormals
  return bits_to_float(sign | (magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : bits));
}
RAGGEDRT_DEVICE float to_float(bfloat16 value) { return bits_to_float(static_cast<uint32_t>(value.bits) << 16); }

template <typename Element>
RAGGEDRT_DEVICE Element from_float(float value);
template <>
RAGGEDRT_DEVICE float from_float<float>(float value) {
  return value;
}
template <>
RAGGEDRT_DEVICE half from_float<half>(float value) {
  const uint32_t sign = (float_to_bits(value) >> 16) & 0x8000u;
  const uint32_t bits = float_to_bits(value) & 0x7fffffffu;
  uint32_t result;
  if (bits > 0x7f800000u) return half{0x7fff};
  if (bits >= 0x47800000u) {
    result = 0x7c00;
  } else if (bits < 0x38800000u) {  // the sum's last bit is a half's smallest subnormal, and the addition rounds
    result = float_to_bits(bits_to_float(bits) + 0.5f) - 0x3f000000u;
  } else {
    result = (bits - 0x38000000u + 0xfffu + ((bits >> 13) & 1u)) >> 13;
  }
  return half{static_cast<uint16_t>(sign | result)};
}
template <>
RAGGEDRT_DEVICE bfloat16 from_float<bfloat16>(float value) {
  const uint32_t bits = float_to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return bfloat16{0x7fff};
  return bfloat16{static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

template <typename Element>
RAGGEDRT_DEVICE uint32_t pack2(float low, float high) {
  return from_float<Element>(low).bits | static_cast<uint32_t>(from_float<Element>(high).bits) << 16;
}
template <typename Element>
RAGGEDRT_DEVICE void unpack2(uint32_t packed, float& low, float& high) {
  low = to_float(Element{static_cast<uint16_t>(packed & 0xffffu)});
  high = to_float(Element{static_cast<uint16_t>(packed >> 16)});
}

RAGGEDRT_DEVICE int population_count(uint32_t bits) { return __builtin_popcount(bits); }
RAGGEDRT_DEVICE int first_set_bit(uint32_t bits) { return __builtin_ffs(static_cast<int>(bits)) - 1; }
RAGGEDRT_DEVICE int leading_zeros(uint32_t bits) { return bits == 0 ? 32 : __builtin_clz(bits); }

RAGGEDRT_DEVICE void debug_check(bool condition, const char* what) { raggedrt_emulated_debug_check(condition, what); }

}  // namespace raggedrt::device
