// Small programs in two forms, chosen by params.broken: a correct one, and one with a single error that the emulator
// must find.
#include "cuda/device/device.h"

namespace raggedrt::device {

struct DetectorParams {
  const uint32_t* input;  // [1024]
  uint32_t* output;       // [1024], uninitialised
  uint32_t* scratch;      // [1024], zeros
  int program;
  int broken;
};

struct Program {
  const DetectorParams& params;
  const bool broken;
  const int thread;
  uint32_t* const shared;

  RAGGEDRT_DEVICE explicit Program(const DetectorParams& given)
      : params(given),
        broken(given.broken != 0),
        thread(thread_index()),
        shared(reinterpret_cast<uint32_t*>(shared_memory())) {}

  RAGGEDRT_DEVICE void give(uint32_t value) const { store_global(params.output + thread, value); }

  RAGGEDRT_DEVICE void fill() const {
    store_shared(shared + thread, static_cast<uint32_t>(thread));
    sync_block();
  }

  RAGGEDRT_DEVICE void read_of_another_warp() const {
    fill();
    store_shared(shared + thread, 7u);
    if (!broken) sync_block();
    give(load_shared(shared + (thread ^ 32)));
  }

  RAGGEDRT_DEVICE void read_of_another_lane() const {
    fill();
    store_shared(shared + thread, 7u);
    if (!broken) sync_warp();
    give(load_shared(shared + (thread ^ 1)));
  }

  RAGGEDRT_DEVICE void read_after_shuffle() const {
    fill();
    store_shared(shared + thread, 7u);
    const uint32_t other = shuffle_xor(static_cast<uint32_t>(thread), 1);
    if (!broken) sync_warp();
    give(load_shared(shared + other));
  }

  RAGGEDRT_DEVICE void write_after_read() const {
    fill();
    const uint32_t value = load_shared(shared + (thread ^ 32));
    if (!broken) sync_block();
    store_shared(shared + thread, value);
    give(value);
  }

  RAGGEDRT_DEVICE void write_after_earlier_read() const {  // a barrier in between, but of the reader's warp only
    fill();
    const uint32_t value = load_shared(shared + (thread ^ 32));
    if (broken) {
      sync_warp();
    } else {
      named_barrier(1, block_threads());
    }
    store_shared(shared + thread, value);
    give(value);
  }

  RAGGEDRT_DEVICE void both_store() const {
    if (!broken || thread < 2) store_shared(shared + (broken ? 0 : thread), 7u);
    give(1);
  }

  RAGGEDRT_DEVICE void unwritten_shared() const {
    if (!broken || thread != 5) store_shared(shared + thread, 7u);
    give(load_shared(shared + thread));
  }

  RAGGEDRT_DEVICE void overrun_of_shared() const {
    const int words = shared_memory_bytes() / 4;
    store_shared(shared + (broken && thread == 3 ? words : thread), 7u);
    give(1);
  }

  RAGGEDRT_DEVICE void misaligned_shared() const {
    Vec16* const at = reinterpret_cast<Vec16*>(shared + 4 * thread + (broken ? 2 : 0));
    if (thread < 16) store_shared(at, Vec16{{1, 2, 3, 4}});
    give(1);
  }

  RAGGEDRT_DEVICE void misaligned_global() const {
    const Vec8* const at = reinterpret_cast<const Vec8*>(params.input + 2 * thread + (broken ? 1 : 0));
    give(load_global(at).word[0]);
  }

  RAGGEDRT_DEVICE void outside_global() const { give(load_global(params.input + (broken && thread == 9 ? 1024 : thread))); }

  RAGGEDRT_DEVICE void write_to_input() const {
    if (broken) store_global(const_cast<uint32_t*>(params.input), 1u);
    give(1);
  }

  RAGGEDRT_DEVICE void unwritten_global() const {
    if (!broken) give(3);
    give(load_global(params.output + thread) + 1);
  }

  RAGGEDRT_DEVICE void copy_without_wait() const {
    copy_async_4(shared + thread, params.input + thread, true);
    copy_async_commit();
    if (!broken) copy_async_wait<0>();
    give(load_shared(shared + thread));
    copy_async_wait<0>();
  }

  RAGGEDRT_DEVICE void copy_without_commit() const {
    copy_async_4(shared + thread, params.input + thread, true);
    if (!broken) copy_async_commit();
    copy_async_wait<0>();
    give(load_shared(shared + thread));
    copy_async_commit();
    copy_async_wait<0>();
  }

  RAGGEDRT_DEVICE void copy_with_short_wait() const {
    copy_async_4(shared + thread, params.input + thread, true);
    copy_async_commit();
    copy_async_4(shared + block_threads() + thread, params.input + thread, true);
    copy_async_commit();
    if (broken) {
      copy_async_wait<1>();
    } else {
      copy_async_wait<0>();
    }
    give(load_shared(shared + block_threads() + thread));
    copy_async_wait<0>();
  }

  RAGGEDRT_DEVICE void copy_without_barrier() const {
    copy_async_4(shared + thread, params.input + thread, true);
    copy_async_commit();
    copy_async_wait<0>();
    if (!broken) sync_block();
    give(load_shared(shared + (thread ^ 32)));
  }

  RAGGEDRT_DEVICE void copy_with_barrier_before_wait() const {
    copy_async_4(shared + thread, params.input + thread, true);
    copy_async_commit();
    if (broken) sync_block();
    copy_async_wait<0>();
    if (!broken) sync_block();
    give(load_shared(shared + (thread ^ 32)));
  }

  RAGGEDRT_DEVICE void copy_over_readers() const {
    fill();
    const uint32_t value = load_shared(shared + (thread ^ 32));
    if (!broken) sync_block();
    copy_async_4(shared + thread, params.input + thread, true);
    copy_async_commit();
    copy_async_wait<0>();
    give(value);
  }

  RAGGEDRT_DEVICE void store_under_copy() const {
    copy_async_4(shared + thread, params.input + thread, true);
    copy_async_commit();
    if (broken) store_shared(shared + thread, 1u);
    copy_async_wait<0>();
    give(1);
  }

  RAGGEDRT_DEVICE void copy_never_awaited() const {
    copy_async_4(shared + thread, params.input + thread, true);
    copy_async_commit();
    if (!broken) copy_async_wait<0>();
    give(1);
  }

  RAGGEDRT_DEVICE void leaves_before_barrier() const {
    give(1);
    if (broken && thread >= 32) return;
    sync_block();
  }

  RAGGEDRT_DEVICE void different_barriers() const {
    if (broken && thread < 32) {
      sync_block();
    } else {
      sync_block();
    }
    give(1);
  }

  RAGGEDRT_DEVICE void starved_named_barrier() const {
    if (thread < 32 || !broken) named_barrier(2, 64);
    give(1);
  }

  RAGGEDRT_DEVICE void torn_named_barrier() const {
    if (broken ? thread % 2 == 0 : thread < 32) named_barrier(2, 32);
    give(1);
  }

  RAGGEDRT_DEVICE void barrier_of_others() const {  // the writer is not a member
    fill();
    if (thread < 32) store_shared(shared + thread, 9u);
    if (broken ? thread >= 32 : true) named_barrier(4, broken ? block_threads() - 32 : block_threads());
    give(load_shared(shared + thread % 32));
  }

  RAGGEDRT_DEVICE void torn_shuffle() const {
    if (!broken || thread % 32 < 16) {
      give(shuffle_xor(1u, 1));
    } else {
      give(ballot(true));
    }
  }

  RAGGEDRT_DEVICE void leaves_before_shuffle() const {
    give(1);
    if (broken && thread == 4) return;
    if (shuffle(1u, 0) == 0) give(2);
  }

  RAGGEDRT_DEVICE void matrix_of_another_lane() const {
    const uint32_t base = 4 * static_cast<uint32_t>(thread);
    for (uint32_t i = 0; i < 4; ++i) store_shared(shared + base + i, base + i);
    if (!broken) sync_warp();
    uint32_t r[4];
    load_matrix_x4(r, shared + base);
    give(r[0]);
  }

  RAGGEDRT_DEVICE void global_race_of_threads() const {
    store_global(params.scratch + thread, 3u);
    if (!broken) sync_block();
    give(load_global(params.scratch + (thread ^ 32)));
  }

  RAGGEDRT_DEVICE void global_race_of_blocks() const {
    const int block = block_index_x();
    store_global(params.scratch + (broken ? thread : block * block_threads() + thread), static_cast<uint32_t>(block));
  }

  RAGGEDRT_DEVICE void last_block(bool release, bool acquire) const {
    if (thread == 0) {
      store_global(params.scratch + 16 + block_index_x(), 3u);
      if (release) fence_device();
      const uint32_t ticket = atomic_add_global(params.scratch, 1u);
      if (acquire) fence_device();
      if (ticket + 1 == static_cast<uint32_t>(grid_size_x())) {
        for (int block = 0; block < grid_size_x(); ++block) load_global(params.scratch + 16 + block);
      }
    }
  }

  RAGGEDRT_DEVICE void fence_before_barrier() const {  // covers thread 0's stores only
    if (thread < 2) store_global(params.scratch + 16 + 2 * block_index_x() + thread, 3u);
    if (broken && thread < 2) fence_device();
    sync_block();
    if (thread == 0) {
      if (!broken) fence_device();
      const uint32_t ticket = atomic_add_global(params.scratch, 1u);
      fence_device();
      if (ticket + 1 == static_cast<uint32_t>(grid_size_x())) {
        for (int i = 0; i < 2 * grid_size_x(); ++i) load_global(params.scratch + 16 + i);
      }
    }
  }

  RAGGEDRT_DEVICE void constant_that_is_written() const {
    store_global(params.scratch + thread, 3u);
    sync_block();
    give(broken ? load_global_readonly(params.scratch + (thread ^ 1)) : load_global(params.scratch + (thread ^ 1)));
  }

  RAGGEDRT_DEVICE void written_constant() const {
    const uint32_t value = load_global_readonly((broken ? params.scratch : params.input) + thread);
    sync_block();
    store_global(params.scratch + (thread ^ 1), value);
    give(value);
  }

  RAGGEDRT_DEVICE void read_beside_atomics() const {
    if (thread == 0) store_shared(shared, 0u);
    sync_block();
    atomic_add_shared(shared, 1u);
    if (!broken) sync_block();
    give(load_shared(shared));
  }

  RAGGEDRT_DEVICE void halves_of_a_word() const {  // neighbours in one word are no race; the same half is
    uint16_t* const halves = reinterpret_cast<uint16_t*>(shared);
    store_shared(halves + thread, static_cast<uint16_t>(thread));
    if (broken && thread % 2 == 1) store_shared(halves + thread - 1, static_cast<uint16_t>(1));
    sync_block();
    give(load_shared(halves + (thread ^ 1)));
  }

  RAGGEDRT_DEVICE void bytes_of_a_global_word() const {
    uint8_t* const bytes = reinterpret_cast<uint8_t*>(params.output);
    store_global(bytes + thread, static_cast<uint8_t>(thread));
    if (broken && thread % 2 == 1) store_global(bytes + thread - 1, static_cast<uint8_t>(1));
  }

  RAGGEDRT_DEVICE void failed_check() const {
    debug_check(!broken || thread != 7, "seven is not welcome");
    give(1);
  }

  RAGGEDRT_DEVICE void endless() const {
    give(1);
    while (broken && load_global(params.output + thread) == 1) {
    }
  }

  RAGGEDRT_DEVICE void unwritten_registers() const {
    float c[4];
    const uint32_t a[4] = {};
    for (int i = 0; i < 4 && !broken; ++i) c[i] = 0.0f;
    mma_m16n8k16<half>(c, a, 0u, 0u);
    debug_check(c[0] == 0.0f, "an accumulator begins with zeros");
    give(1);
  }

  RAGGEDRT_DEVICE void division_by_zero() const {
    const uint32_t zero = load_global(params.input);
    give(7u / (zero + (broken && thread == 3 ? 0u : 1u)));
  }

  RAGGEDRT_DEVICE void past_the_intrinsics() const {
    give(broken && thread == 3 ? *reinterpret_cast<const volatile uint32_t*>(uintptr_t{64}) : 1u);
  }

  RAGGEDRT_DEVICE void run() const {
    switch (params.program) {
      case 0: return read_of_another_warp();
      case 1: return read_of_another_lane();
      case 2: return read_after_shuffle();
      case 3: return write_after_read();
      case 4: return write_after_earlier_read();
      case 5: return both_store();
      case 6: return unwritten_shared();
      case 7: return overrun_of_shared();
      case 8: return misaligned_shared();
      case 9: return misaligned_global();
      case 10: return outside_global();
      case 11: return write_to_input();
      case 12: return unwritten_global();
      case 13: return copy_without_wait();
      case 14: return copy_without_commit();
      case 15: return copy_with_short_wait();
      case 16: return copy_without_barrier();
      case 17: return copy_with_barrier_before_wait();
      case 18: return copy_over_readers();
      case 19: return store_under_copy();
      case 20: return copy_never_awaited();
      case 21: return leaves_before_barrier();
      case 22: return different_barriers();
      case 23: return starved_named_barrier();
      case 24: return torn_named_barrier();
      case 25: return barrier_of_others();
      case 26: return torn_shuffle();
      case 27: return leaves_before_shuffle();
      case 28: return matrix_of_another_lane();
      case 29: return global_race_of_threads();
      case 30: return global_race_of_blocks();
      case 31: return last_block(!broken, true);
      case 32: return last_block(true, !broken);
      case 33: return fence_before_barrier();
      case 34: return constant_that_is_written();
      case 35: return written_constant();
      case 36: return read_beside_atomics();
      case 37: return halves_of_a_word();
      case 38: return bytes_of_a_global_word();
      case 39: return failed_check();
      case 40: return endless();
      case 41: return unwritten_registers();
      case 42: return division_by_zero();
      case 43: return past_the_intrinsics();
    }
  }
};

}  // namespace raggedrt::device

RAGGEDRT_KERNEL(128, 1) RAGGEDRT_ENTRY(const raggedrt::device::DetectorParams params) {
  raggedrt::device::Program(params).run();
}
