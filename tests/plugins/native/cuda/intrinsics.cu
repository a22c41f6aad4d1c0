// One small program per intrinsic, chosen by params.program; the tests know what each must write.
#include "cuda/device/device.h"

#ifndef RAGGEDRT_ELEMENT
#define RAGGEDRT_ELEMENT half
#endif

namespace raggedrt::device {

using Element = RAGGEDRT_ELEMENT;

struct IntrinsicsParams {
  const uint32_t* words;  // [at least 1024]
  uint32_t* results;      // [at least 1024]
  uint32_t* counts;       // [64]
  int program;
  int operand;
};

RAGGEDRT_DEVICE void places(const IntrinsicsParams& params) {
  const int block = block_index_y() * grid_size_x() + block_index_x();
  uint32_t* const at = params.results + 8 * (block * block_threads() + thread_index());
  const int values[8] = {thread_index(), lane_index(),  warp_index(),  block_index_x(),
                         block_index_y(), grid_size_x(), grid_size_y(), shared_memory_bytes()};
  RAGGEDRT_UNROLL
  for (int i = 0; i < 8; ++i) store_global(at + i, static_cast<uint32_t>(values[i]));
}

// Lane l's shuffles of its word, 32-bit and 64-bit.
RAGGEDRT_DEVICE void shuffles(const IntrinsicsParams& params) {
  const uint32_t word = load_global(params.words + lane_index());
  const uint64_t wide = static_cast<uint64_t>(word) << 32 | static_cast<uint32_t>(lane_index());
  uint32_t* const out = params.results + lane_index();
  store_global(out, shuffle(word, params.operand + lane_index()));
  store_global(out + 32, shuffle_xor(word, params.operand));
  store_global(out + 64, shuffle_up(word, params.operand));
  store_global(out + 96, shuffle_down(word, params.operand));
  store_global(out + 128, static_cast<uint32_t>(shuffle_xor(wide, params.operand) >> 32));
  store_global(out + 160, float_to_bits(shuffle_xor(bits_to_float(word), params.operand)));
}

RAGGEDRT_DEVICE void votes(const IntrinsicsParams& params) {
  const bool set = (load_global(params.words + thread_index()) & 1u) != 0;
  uint32_t* const out = params.results + 3 * thread_index();
  store_global(out, ballot(set));
  store_global(out + 1, static_cast<uint32_t>(all_block(set)));
  store_global(out + 2, static_cast<uint32_t>(any_block(set)));
}

// 8x8 matrices of 16-bit elements lie at rows of 8 * operand bytes; lane l's registers go to results[8 l ...].
RAGGEDRT_DEVICE void matrices(const IntrinsicsParams& params) {
  uint32_t* const shared = reinterpret_cast<uint32_t*>(shared_memory());
  for (int i = thread_index(); i < 32 * 4; i += block_threads()) store_shared(shared + i, load_global(params.words + i));
  sync_block();
  const void* const row = shared + 4 * lane_index();
  uint32_t r[4] = {};
  uint32_t pair[2] = {};
  if (params.operand == 0) {
    load_matrix_x4(r, row);
    load_matrix_x2(pair, row);
  } else {
    load_matrix_x4_transposed(r, row);
    load_matrix_x2_transposed(pair, row);
  }
  RAGGEDRT_UNROLL
  for (int i = 0; i < 4; ++i) store_global(params.results + 8 * lane_index() + i, r[i]);
  RAGGEDRT_UNROLL
  for (int i = 0; i < 2; ++i) store_global(params.results + 8 * lane_index() + 4 + i, pair[i]);
}

// Lane l takes a = words[10 l ...], b = the next 2, c = the next 4 as floats, and gives c.
RAGGEDRT_DEVICE void products(const IntrinsicsParams& params) {
  const uint32_t* const in = params.words + 10 * lane_index();
  uint32_t a[4];
  float c[4];
  RAGGEDRT_UNROLL
  for (int i = 0; i < 4; ++i) {
    a[i] = load_global(in + i);
    c[i] = bits_to_float(load_global(in + 6 + i));
  }
  mma_m16n8k16<Element>(c, a, load_global(in + 4), load_global(in + 5));
  RAGGEDRT_UNROLL
  for (int i = 0; i < 4; ++i) store_global(params.results + 4 * lane_index() + i, float_to_bits(c[i]));
}

// Copies of 4, 8 and 16 bytes in two groups; lanes with an odd index give zeros.
RAGGEDRT_DEVICE void copies(const IntrinsicsParams& params) {
  uint32_t* const shared = reinterpret_cast<uint32_t*>(shared_memory());
  const int thread = thread_index();
  const bool valid = thread % 2 == 0;
  const int threads = block_threads();
  copy_async_16(shared + 4 * thread, params.words + 4 * thread, valid);
  copy_async_commit();
  copy_async_8(shared + 4 * threads + 2 * thread, params.words + 2 * thread, valid);
  copy_async_4(shared + 6 * threads + thread, params.words + thread, valid);
  copy_async_commit();
  copy_async_wait<1>();
  sync_block();
  const int other = threads - 1 - thread;
  for (int i = 0; i < 4; ++i) store_global(params.results + 4 * other + i, load_shared(shared + 4 * other + i));
  copy_async_wait<0>();
  sync_block();
  for (int i = 0; i < 2; ++i) {
    store_global(params.results + 4 * threads + 2 * other + i, load_shared(shared + 4 * threads + 2 * other + i));
  }
  store_global(params.results + 6 * threads + other, load_shared(shared + 6 * threads + other));
}

// Every thread of every block adds, takes the largest and the smallest of its word.
RAGGEDRT_DEVICE void atomics(const IntrinsicsParams& params) {
  const int thread = block_index_x() * block_threads() + thread_index();
  const uint32_t word = load_global(params.words + thread);
  atomic_add_global(params.counts, word);
  atomic_max_global(params.counts + 1, word);
  atomic_min_global(params.counts + 2, word);
  atomic_add_global(reinterpret_cast<float*>(params.counts + 3), 0.5f);
  atomic_add_global(reinterpret_cast<uint64_t*>(params.counts + 4), static_cast<uint64_t>(word) << 20);
  const uint32_t ticket = atomic_add_global(params.counts + 6, 1u);
  store_global(params.results + ticket, word);

  uint32_t* const shared = reinterpret_cast<uint32_t*>(shared_memory());
  if (thread_index() < 4) store_shared(shared + thread_index(), thread_index() == 2 ? 0xffffffffu : 0u);
  sync_block();
  atomic_add_shared(shared, word);
  atomic_max_shared(shared + 1, word);
  atomic_min_shared(shared + 2, word);
  atomic_exchange_shared(shared + 3, 7u);
  sync_block();
  if (thread_index() < 4) {
    store_global(params.counts + 8 + 4 * block_index_x() + thread_index(), load_shared(shared + thread_index()));
  }
  if (thread == 0) store_global(params.counts + 7, atomic_exchange_global(params.counts + 63, 5u));
}

// Thread i gives functions of word i as a float, and its bits.
RAGGEDRT_DEVICE void arithmetic(const IntrinsicsParams& params) {
  const uint32_t word = load_global(params.words + thread_index());
  const float x = bits_to_float(word);
  uint32_t* const out = params.results + 12 * thread_index();
  const uint32_t values[12] = {float_to_bits(exp2_approx(x)),
                               float_to_bits(log2_approx(maximum(x, 1e-6f))),
                               float_to_bits(tanh_approx(x)),
                               float_to_bits(reciprocal(x)),
                               float_to_bits(fused_multiply_add(x, x, -1.0f)),
                               static_cast<uint32_t>(population_count(word)),
                               static_cast<uint32_t>(first_set_bit(word)),
                               static_cast<uint32_t>(leading_zeros(word)),
                               float_to_bits(minimum(x, 0.5f)),
                               static_cast<uint32_t>(maximum(static_cast<int>(word), -5)),
                               float_to_bits(exp2_approx(-infinity())),
                               static_cast<uint32_t>(minimum(static_cast<int64_t>(word), static_cast<int64_t>(9)))};
  RAGGEDRT_UNROLL
  for (int i = 0; i < 12; ++i) store_global(out + i, values[i]);
}

// Thread i converts word i to 16 bits and back, and takes it apart as two elements.
RAGGEDRT_DEVICE void conversions(const IntrinsicsParams& params) {
  const uint32_t word = load_global(params.words + thread_index());
  const float x = bits_to_float(word);
  float low;
  float high;
  unpack2<Element>(word, low, high);
  uint32_t* const out = params.results + 6 * thread_index();
  const Element element = from_float<Element>(x);
  store_global(out, static_cast<uint32_t>(element.bits));
  store_global(out + 1, float_to_bits(to_float(element)));
  store_global(out + 2, float_to_bits(low));
  store_global(out + 3, float_to_bits(high));
  store_global(out + 4, pack2<Element>(x, -x));
  store_global(out + 5, float_to_bits(to_float(x)));
}

// Accesses of every size, through shared memory and the read-only cache.
RAGGEDRT_DEVICE void sizes(const IntrinsicsParams& params) {
  const int thread = thread_index();
  char* const shared = shared_memory();
  const char* const in = reinterpret_cast<const char*>(params.words);
  char* const out = reinterpret_cast<char*>(params.results);
  store_shared(reinterpret_cast<Vec16*>(shared) + thread, load_global(reinterpret_cast<const Vec16*>(in) + thread));
  sync_warp();
  store_global(reinterpret_cast<Vec16*>(out) + (thread ^ 1), load_shared(reinterpret_cast<Vec16*>(shared) + (thread ^ 1)));
  sync_warp();
  const int at = 16 * thread;
  store_shared(shared + at, load_global_readonly(in + at));
  store_shared(shared + at + 1, load_global(in + at + 1));
  store_shared(reinterpret_cast<half*>(shared + at + 2), load_global_readonly(reinterpret_cast<const half*>(in + at + 2)));
  store_shared(reinterpret_cast<float*>(shared + at + 4), load_global_readonly(reinterpret_cast<const float*>(in + at + 4)));
  store_shared(reinterpret_cast<Vec8*>(shared + at + 8), load_global_readonly(reinterpret_cast<const Vec8*>(in + at + 8)));
  named_barrier(3, block_threads());
  const int end = 16 * block_threads();
  const int from = 16 * (thread ^ 3);
  for (int i = 0; i < 16; ++i) store_global(out + end + from + i, load_shared(shared + from + i));
}

// The last block to finish adds up what all wrote.
RAGGEDRT_DEVICE void last_block(const IntrinsicsParams& params) {
  uint32_t* const ticket = reinterpret_cast<uint32_t*>(shared_memory());
  const int mine = block_index_x() * block_threads() + thread_index();
  store_global(params.results + mine, load_global(params.words + mine));
  sync_block();
  if (thread_index() == 0) {
    fence_device();
    store_shared(ticket, atomic_add_global(params.counts, 1u));
    fence_device();
  }
  sync_block();
  if (load_shared(ticket) + 1 != static_cast<uint32_t>(grid_size_x())) return;
  uint32_t sum = 0;
  for (int i = thread_index(); i < grid_size_x() * block_threads(); i += block_threads()) {
    sum += load_global(params.results + i);
  }
  atomic_add_global(params.counts + 1, sum);
}

// One access of each kind per lane, `operand` words or 16-byte rows apart.
RAGGEDRT_DEVICE void strides(const IntrinsicsParams& params) {
  uint32_t* const shared = reinterpret_cast<uint32_t*>(shared_memory());
  const int words = shared_memory_bytes() / 4;
  for (int i = thread_index(); i < words; i += block_threads()) store_shared(shared + i, 1u);
  sync_block();
  const uint32_t word = load_shared(shared + lane_index() * params.operand);
  uint32_t r[4];
  load_matrix_x4(r, shared + 4 * lane_index() * params.operand);
  store_global(params.results + lane_index(), word + r[0] + load_global(params.words + lane_index() * params.operand));
  sync_block();
}

RAGGEDRT_DEVICE void run(const IntrinsicsParams& params) {
  switch (params.program) {
    case 0: return places(params);
    case 1: return shuffles(params);
    case 2: return votes(params);
    case 3: return matrices(params);
    case 4: return products(params);
    case 5: return copies(params);
    case 6: return atomics(params);
    case 7: return arithmetic(params);
    case 8: return conversions(params);
    case 9: return sizes(params);
    case 10: return last_block(params);
    case 11: return strides(params);
  }
}

}  // namespace raggedrt::device

RAGGEDRT_KERNEL(1024, 1) RAGGEDRT_ENTRY(const raggedrt::device::IntrinsicsParams params) {
  raggedrt::device::run(params);
}
