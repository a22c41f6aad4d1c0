// The intrinsics on a GPU, sm_80 and later. What each does is said in device.h, which includes this file.
#pragma once

#define RAGGEDRT_DEVICE __device__ __forceinline__
#define RAGGEDRT_KERNEL(max_threads, min_blocks) extern "C" __global__ void __launch_bounds__(max_threads, min_blocks)
#define RAGGEDRT_UNROLL _Pragma("unroll")

namespace raggedrt::device {

RAGGEDRT_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
RAGGEDRT_DEVICE int block_threads() { return static_cast<int>(blockDim.x); }
RAGGEDRT_DEVICE int block_index_x() { return static_cast<int>(blockIdx.x); }
RAGGEDRT_DEVICE int block_index_y() { return static_cast<int>(blockIdx.y); }
RAGGEDRT_DEVICE int grid_size_x() { return static_cast<int>(gridDim.x); }
RAGGEDRT_DEVICE int grid_size_y() { return static_cast<int>(gridDim.y); }

RAGGEDRT_DEVICE char* shared_memory() {
  extern __shared__ __align__(128) char raggedrt_shared_memory[];
  return raggedrt_shared_memory;
}
RAGGEDRT_DEVICE int shared_memory_bytes() {
  uint32_t bytes;
  asm("mov.u32 %0, %%dynamic_smem_size;" : "=r"(bytes));
  return static_cast<int>(bytes);
}

namespace detail {

// The built-in type of a size: the compiler moves it in one instruction.
template <unsigned kBytes>
struct Word;
template <>
struct Word<1> {
  using Type = unsigned char;
};
template <>
struct Word<2> {
  using Type = unsigned short;
};
template <>
struct Word<4> {
  using Type = unsigned int;
};
template <>
struct Word<8> {
  using Type = uint2;
};
template <>
struct Word<16> {
  using Type = uint4;
};
template <typename T>
using WordOf = typename Word<sizeof(T)>::Type;

template <typename To, typename From>
RAGGEDRT_DEVICE To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs types of one size");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

RAGGEDRT_DEVICE uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

}  // namespace detail

template <typename T>
RAGGEDRT_DEVICE T load_shared(const T* address) {
  return detail::bit_cast<T>(*reinterpret_cast<const detail::WordOf<T>*>(address));
}
template <typename T>
RAGGEDRT_DEVICE void store_shared(T* address, T value) {
  *reinterpret_cast<detail::WordOf<T>*>(address) = detail::bit_cast<detail::WordOf<T>>(value);
}
template <typename T>
RAGGEDRT_DEVICE T load_global(const T* address) {
  return detail::bit_cast<T>(*reinterpret_cast<const detail::WordOf<T>*>(address));
}
template <typename T>
RAGGEDRT_DEVICE T load_global_readonly(const T* address) {
  return detail::bit_cast<T>(__ldg(reinterpret_cast<const detail::WordOf<T>*>(address)));
}
template <typename T>
RAGGEDRT_DEVICE void store_global(T* address, T value) {
  *reinterpret_cast<detail::WordOf<T>*>(address) = detail::bit_cast<detail::WordOf<T>>(value);
}

namespace detail {

RAGGEDRT_DEVICE int32_t atomic_add(int32_t* address, int32_t value) { return atomicAdd(address, value); }
RAGGEDRT_DEVICE uint32_t atomic_add(uint32_t* address, uint32_t value) { return atomicAdd(address, value); }
RAGGEDRT_DEVICE float atomic_add(float* address, float value) { return atomicAdd(address, value); }
RAGGEDRT_DEVICE uint64_t atomic_add(uint64_t* address, uint64_t value) {
  return atomicAdd(reinterpret_cast<unsigned long long*>(address), static_cast<unsigned long long>(value));
}

}  // namespace detail

template <typename T>
RAGGEDRT_DEVICE T atomic_add_global(T* address, T value) {
  return detail::atomic_add(address, value);
}
template <typename T>
RAGGEDRT_DEVICE T atomic_add_shared(T* address, T value) {
  return detail::atomic_add(address, value);
}
template <typename T>
RAGGEDRT_DEVICE T atomic_max_global(T* address, T value) {
  return atomicMax(address, value);
}
template <typename T>
RAGGEDRT_DEVICE T atomic_max_shared(T* address, T value) {
  return atomicMax(address, value);
}
template <typename T>
RAGGEDRT_DEVICE T atomic_min_global(T* address, T value) {
  return atomicMin(address, value);
}
template <typename T>
RAGGEDRT_DEVICE T atomic_min_shared(T* address, T value) {
  return atomicMin(address, value);
}
template <typename T>
RAGGEDRT_DEVICE T atomic_exchange_global(T* address, T value) {
  return atomicExch(address, value);
}
template <typename T>
RAGGEDRT_DEVICE T atomic_exchange_shared(T* address, T value) {
  return atomicExch(address, value);
}
RAGGEDRT_DEVICE void fence_device() { __threadfence(); }

RAGGEDRT_DEVICE void sync_block() { __syncthreads(); }
RAGGEDRT_DEVICE bool all_block(bool predicate) { return __syncthreads_and(predicate) != 0; }
RAGGEDRT_DEVICE bool any_block(bool predicate) { return __syncthreads_or(predicate) != 0; }
RAGGEDRT_DEVICE void sync_warp() { __syncwarp(); }
RAGGEDRT_DEVICE void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

namespace detail {

constexpr uint32_t kAllLanes = 0xffffffffu;

template <unsigned kBytes>
struct ShuffleWord;
template <>
struct ShuffleWord<4> {
  using Type = unsigned int;
};
template <>
struct ShuffleWord<8> {
  using Type = unsigned long long;
};
template <typename T>
using ShuffleWordOf = typename ShuffleWord<sizeof(T)>::Type;

}  // namespace detail

template <typename T>
RAGGEDRT_DEVICE T shuffle(T value, int lane) {
  return detail::bit_cast<T>(__shfl_sync(detail::kAllLanes, detail::bit_cast<detail::ShuffleWordOf<T>>(value), lane));
}
template <typename T>
RAGGEDRT_DEVICE T shuffle_xor(T value, int mask) {
  return detail::bit_cast<T>(
      __shfl_xor_sync(detail::kAllLanes, detail::bit_cast<detail::ShuffleWordOf<T>>(value), mask));
}
template <typename T>
RAGGEDRT_DEVICE T shuffle_up(T value, int delta) {
  return detail::bit_cast<T>(
      __shfl_up_sync(detail::kAllLanes, detail::bit_cast<detail::ShuffleWordOf<T>>(value), delta));
}
template <typename T>
RAGGEDRT_DEVICE T shuffle_down(T value, int delta) {
  return detail::bit_cast<T>(
      __shfl_down_sync(detail::kAllLanes, detail::bit_cast<detail::ShuffleWordOf<T>>(value), delta));
}
RAGGEDRT_DEVICE uint32_t ballot(bool predicate) { return __ballot_sync(detail::kAllLanes, predicate); }

// Volatile keeps ldmatrix and mma behind the waits and barriers that precede them in the source.
RAGGEDRT_DEVICE void load_matrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(detail::shared_address(row))
               : "memory");
}
RAGGEDRT_DEVICE void load_matrix_x4_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(detail::shared_address(row))
               : "memory");
}
RAGGEDRT_DEVICE void load_matrix_x2(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(detail::shared_address(row))
               : "memory");
}
RAGGEDRT_DEVICE void load_matrix_x2_transposed(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(detail::shared_address(row))
               : "memory");
}

template <typename Element>
RAGGEDRT_DEVICE void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
RAGGEDRT_DEVICE void mma_m16n8k16<half>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
RAGGEDRT_DEVICE void mma_m16n8k16<bfloat16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The source size 0 writes zeros and reads nothing. 16 bytes bypass the L1 cache (.cg), smaller copies cannot.
RAGGEDRT_DEVICE void copy_async_4(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(detail::shared_address(shared)), "l"(global),
               "r"(valid ? 4 : 0)
               : "memory");
}
RAGGEDRT_DEVICE void copy_async_8(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(detail::shared_address(shared)), "l"(global),
               "r"(valid ? 8 : 0)
               : "memory");
}
RAGGEDRT_DEVICE void copy_async_16(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(detail::shared_address(shared)), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}
RAGGEDRT_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kGroups>
RAGGEDRT_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

RAGGEDRT_DEVICE float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }
RAGGEDRT_DEVICE uint32_t float_to_bits(float value) { return __float_as_uint(value); }

RAGGEDRT_DEVICE float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
RAGGEDRT_DEVICE float log2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
RAGGEDRT_DEVICE float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
RAGGEDRT_DEVICE float fused_multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
RAGGEDRT_DEVICE float minimum(float a, float b) { return fminf(a, b); }
RAGGEDRT_DEVICE float maximum(float a, float b) { return fmaxf(a, b); }

RAGGEDRT_DEVICE float to_float(float value) { return value; }
RAGGEDRT_DEVICE float to_float(half value) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
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
  half result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
}
template <>
RAGGEDRT_DEVICE bfloat16 from_float<bfloat16>(float value) {
  bfloat16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
}

template <typename Element>
RAGGEDRT_DEVICE uint32_t pack2(float low, float high);
template <>
RAGGEDRT_DEVICE uint32_t pack2<half>(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
template <>
RAGGEDRT_DEVICE uint32_t pack2<bfloat16>(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
template <typename Element>
RAGGEDRT_DEVICE void unpack2(uint32_t packed, float& low, float& high) {
  low = to_float(Element{static_cast<uint16_t>(packed & 0xffffu)});
  high = to_float(Element{static_cast<uint16_t>(packed >> 16)});
}

RAGGEDRT_DEVICE int population_count(uint32_t bits) { return __popc(bits); }
RAGGEDRT_DEVICE int first_set_bit(uint32_t bits) { return __ffs(static_cast<int>(bits)) - 1; }
RAGGEDRT_DEVICE int leading_zeros(uint32_t bits) { return __clz(static_cast<int>(bits)); }

RAGGEDRT_DEVICE void debug_check(bool, const char*) {}

}  // namespace raggedrt::device
