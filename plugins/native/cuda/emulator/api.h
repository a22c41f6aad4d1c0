// C surface of the emulator: runs device kernels that were compiled for the host (see device/emulated.h) on memory of
// this process, one launch at a time. Launches and registrations from several threads wait for each other.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define RAGGEDRT_EMULATOR_API extern "C" __attribute__((visibility("default")))

// A kernel compiled for the emulator; a library exports one as `<entry>_emulated`.
struct raggedrt_emulated_kernel {
  const char* name;
  void (*call)(const void* params);
  uint32_t param_bytes;
  uint32_t max_threads;
};

enum raggedrt_emulator_change {
  raggedrt_emulator_leave_out = 0,
  raggedrt_emulator_weaken = 1,  // sync_block and named_barrier to sync_warp, a wait by one group; others stay
};

struct raggedrt_emulator_launch {
  const raggedrt_emulated_kernel* kernel;
  const void* params;
  int32_t grid_x;
  int32_t grid_y;
  int32_t block_threads;
  int32_t shared_bytes;
  uint64_t seed;        // 0: lanes, warps and blocks in their order, without preemption; else a schedule drawn from it
  double seconds;       // more than this is an endless loop; 0: no limit
  int32_t profile;      // 1: count bank conflicts and memory sectors of plain accesses, at a third of the speed
  // For mutation tests, a barrier, fence, commit or wait to change; 0: none.
  int32_t changed_line;
  const char* changed_file;  // its path ends with this
  raggedrt_emulator_change change;
};

// What the kernels of a launch did. Warp operations count once per warp, the others once per lane.
#define RAGGEDRT_EMULATOR_COUNTERS(X)                                                                              \
  X(operations) /* of lanes: accesses, collectives, barriers, copies, special functions */                         \
  X(switches)   /* from lane to lane */                                                                            \
  X(blocks)                                                                                                        \
  X(mma)                                                                                                           \
  X(load_matrix)           /* 8x8 matrices */                                                                      \
  X(load_matrix_conflicts) /* extra passes over the banks */                                                       \
  X(shuffles)                                                                                                      \
  X(ballots)                                                                                                       \
  X(shared_loads)                                                                                                  \
  X(shared_load_bytes)                                                                                             \
  X(shared_stores)                                                                                                 \
  X(shared_store_bytes)                                                                                            \
  X(shared_requests)  /* of warps; with `profile` */                                                               \
  X(shared_conflicts) /* extra passes of those; with `profile` */                                                  \
  X(global_loads)                                                                                                  \
  X(global_load_bytes)                                                                                             \
  X(global_stores)                                                                                                 \
  X(global_store_bytes)                                                                                            \
  X(global_requests) /* of warps; with `profile` */                                                                \
  X(global_sectors)  /* of 32 bytes that those touch; with `profile` */                                            \
  X(copy_async)                                                                                                    \
  X(copy_async_bytes) /* read from global memory */                                                                \
  X(copy_async_commits)                                                                                            \
  X(copy_async_waits)                                                                                              \
  X(sync_block) /* once per block */                                                                               \
  X(sync_warp)                                                                                                     \
  X(named_barrier) /* once per barrier */                                                                          \
  X(atomics_shared)                                                                                                \
  X(atomics_global)                                                                                                \
  X(fences)                                                                                                        \
  X(exp2)                                                                                                          \
  X(log2)                                                                                                          \
  X(reciprocal)

struct raggedrt_emulator_counters {
#define RAGGEDRT_EMULATOR_FIELD(name) uint64_t name;
  RAGGEDRT_EMULATOR_COUNTERS(RAGGEDRT_EMULATOR_FIELD)
#undef RAGGEDRT_EMULATOR_FIELD
};

// 0: the grid ran without an error. 1: `error` says what was wrong, first error only; outputs then mean nothing.
RAGGEDRT_EMULATOR_API int raggedrt_emulator_run(const raggedrt_emulator_launch* launch,
                                                raggedrt_emulator_counters* counters, char* error, size_t error_bytes);

// Names of the counters in their order, separated by spaces.
RAGGEDRT_EMULATOR_API const char* raggedrt_emulator_counter_names();

enum raggedrt_emulator_memory {
  raggedrt_emulator_input = 0,          // written by the host; a kernel's store is an error
  raggedrt_emulator_in_out = 1,         // written by the host, and by kernels
  raggedrt_emulator_uninitialized = 2,  // for kernels to write: filled with signalling NaNs, reading those is an error
};

// Makes [begin, begin + bytes) global memory. 0, or 1 where it overlaps another region.
RAGGEDRT_EMULATOR_API int raggedrt_emulator_register(const void* begin, size_t bytes, const char* name,
                                                     raggedrt_emulator_memory kind);
// 0, or 1 where no region begins there.
RAGGEDRT_EMULATOR_API int raggedrt_emulator_unregister(const void* begin);
// The host (or a copy) has written these bytes of a region; undone: they are uninitialised again, and poisoned.
RAGGEDRT_EMULATOR_API int raggedrt_emulator_written(const void* begin, size_t bytes);
RAGGEDRT_EMULATOR_API int raggedrt_emulator_forget(void* begin, size_t bytes);
// Bytes of [begin, begin + bytes) that neither host nor kernel has written; SIZE_MAX outside every region.
RAGGEDRT_EMULATOR_API size_t raggedrt_emulator_unwritten(const void* begin, size_t bytes);
