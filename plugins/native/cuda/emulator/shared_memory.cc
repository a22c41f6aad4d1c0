#include "cuda/emulator/shared_memory.h"

#include "cuda/emulator/accesses.h"
#include "cuda/emulator/runtime.h"

namespace raggedrt::emulator {

uint32_t shared_offset(const Lane& lane, const void* address, uint32_t bytes, const char* what) {
  const intptr_t offset = static_cast<const char*>(address) - lane.shared;
  if (offset < 0 || offset + static_cast<intptr_t>(bytes) > lane.shared_bytes) {
    fail(lane, text("%s of %u bytes at shared offset %td, but the launch has %d bytes of shared memory", what, bytes,
                    static_cast<ptrdiff_t>(offset), lane.shared_bytes));
  }
  if (offset % bytes != 0) {
    fail(lane, text("%s of %u bytes at shared offset %td: not a multiple of its size", what, bytes,
                    static_cast<ptrdiff_t>(offset)));
  }
  return static_cast<uint32_t>(offset);
}

void fail_shared(const Lane& lane, const char* what, uint32_t bytes, const Conflict& conflict) {
  fail(lane, text("%s of %u bytes at shared offset %zu ", what, bytes, static_cast<size_t>(conflict.offset)) +
                 explain(lane, conflict));
}

std::string explain(const Lane& lane, const Conflict& conflict) {
  const uint32_t thread = stamp_thread(conflict.other);
  const bool same_warp = stamp_warp(conflict.other) == static_cast<uint32_t>(lane.warp->index);
  std::string other = text("thread %u", thread);
  std::string missing = same_warp ? "no sync_warp or barrier" : "no barrier of both";
  if (conflict.block != 0) {
    const uint32_t id = conflict.block - 1;
    const uint32_t columns = static_cast<uint32_t>(lane.grid_x);
    other += text(" of block (%u, %u)", id % columns, id / columns);
    missing = "no chain of fence_device, atomic, atomic, fence_device";
  }
  switch (conflict.fault) {
    case Fault::kUnwritten: return "reads bytes that nobody has written";
    case Fault::kPending:
      return "touches the destination of an asynchronous copy by " + other + " that may still be in flight";
    case Fault::kAfterWrite: return "races with a write by " + other + ": " + missing + " orders them";
    case Fault::kAfterRead: return "races with a read by " + other + ": " + missing + " orders them";
    case Fault::kReadOnly:
      return "and a load_global_readonly meet in one launch (by " + other + "): such memory is not written";
    case Fault::kNone: break;
  }
  return "is fine";
}

void check_matrix_row(const Lane& lane, const void* address, uint32_t bytes) {
  const uint32_t offset = shared_offset(lane, address, bytes, "load_matrix");
  Conflict conflict;
  if (!lane.block->shadow.read_warp(lane, offset, bytes, conflict)) fail_shared(lane, "load_matrix", bytes, conflict);
}

void note_access(Lane& lane, const void* address, uint32_t bytes, bool shared) {
  lane.accesses.push_back({lane.site, reinterpret_cast<uintptr_t>(address), bytes, shared});
}

}  // namespace raggedrt::emulator

using namespace raggedrt::emulator;

void raggedrt_emulated_read_shared(const void* address, uint32_t bytes) {
  Lane& lane = RAGGEDRT_BEGIN();
  const uint32_t offset = shared_offset(lane, address, bytes, "load_shared");
  Conflict conflict;
  if (!lane.block->shadow.read(lane, offset, bytes, conflict)) fail_shared(lane, "load_shared", bytes, conflict);
  ++raggedrt_emulated_counts.shared_loads;
  raggedrt_emulated_counts.shared_load_bytes += bytes;
  if (launch.call->profile != 0) note_access(lane, address, bytes, true);
}

void raggedrt_emulated_write_shared(const void* address, uint32_t bytes) {
  Lane& lane = RAGGEDRT_BEGIN();
  const uint32_t offset = shared_offset(lane, address, bytes, "store_shared");
  Conflict conflict;
  if (!lane.block->shadow.write(lane, offset, bytes, conflict)) fail_shared(lane, "store_shared", bytes, conflict);
  ++raggedrt_emulated_counts.shared_stores;
  raggedrt_emulated_counts.shared_store_bytes += bytes;
  if (launch.call->profile != 0) note_access(lane, address, bytes, true);
}

void raggedrt_emulated_atomic_shared(const void* address, uint32_t bytes) {
  Lane& lane = RAGGEDRT_BEGIN();
  const uint32_t offset = shared_offset(lane, address, bytes, "an atomic");
  Conflict conflict;
  if (!lane.block->shadow.atomic(lane, offset, bytes, conflict)) fail_shared(lane, "an atomic", bytes, conflict);
  ++raggedrt_emulated_counts.atomics_shared;
}
