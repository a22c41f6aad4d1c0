// Asynchronous copies: each lands at some time between its issue and the wait that covers its group.
#include <string.h>

#include <algorithm>

#include "cuda/emulator/accesses.h"
#include "cuda/emulator/runtime.h"

namespace raggedrt::emulator {

namespace {

void land(Lane& lane, Copy& copy) {
  if (copy.landed) return;
  copy.landed = true;
  --lane.not_landed;
  if (copy.valid) {
    memcpy(copy.to, copy.from, copy.bytes);
  } else {
    memset(copy.to, 0, copy.bytes);
  }
}

}  // namespace

void land_some(Lane& lane) {
  if (lane.not_landed == 0 || (draw() & 15u) != 0) return;
  for (Copy& copy : lane.copies) {
    if (!copy.landed && (draw() & 1u) != 0) land(lane, copy);
  }
}

}  // namespace raggedrt::emulator

using namespace raggedrt::emulator;

void raggedrt_emulated_copy_async(void* shared, const void* global, uint32_t bytes, int valid) {
  Lane& lane = RAGGEDRT_BEGIN();
  const uint32_t offset = shared_offset(lane, shared, bytes, "copy_async");
  if (valid != 0) check_copy_source(lane, global, bytes);
  Conflict conflict;
  if (!lane.block->shadow.begin_copy(lane, offset, bytes, conflict)) fail_shared(lane, "copy_async", bytes, conflict);
  ++raggedrt_emulated_counts.copy_async;
  if (valid != 0) raggedrt_emulated_counts.copy_async_bytes += bytes;
  if (launch.call->profile != 0) {
    note_access(lane, shared, bytes, true);
    if (valid != 0) note_access(lane, global, bytes, false);
  }
  lane.copies.push_back({static_cast<char*>(shared), static_cast<const char*>(global), bytes, lane.group, valid != 0,
                         false});
  ++lane.not_landed;
  if ((draw() & 3u) == 0) land(lane, lane.copies.back());
}

void raggedrt_emulated_copy_async_commit(const raggedrt_emulated_call* call) {
  Lane& lane = RAGGEDRT_BEGIN();
  if (skipped(*call)) return;
  ++raggedrt_emulated_counts.copy_async_commits;
  ++lane.group;
}

void raggedrt_emulated_copy_async_wait(const raggedrt_emulated_call* call, int groups) {
  Lane& lane = RAGGEDRT_BEGIN();
  if (skipped(*call)) return;
  ++raggedrt_emulated_counts.copy_async_waits;
  const int left = groups + (weakened(*call) ? 1 : 0);
  const int64_t complete = static_cast<int64_t>(lane.group) - left;  // groups below this number
  auto copy = lane.copies.begin();
  for (; copy != lane.copies.end() && static_cast<int64_t>(copy->group) < complete; ++copy) {
    land(lane, *copy);
    lane.block->shadow.end_copy(lane, static_cast<uint32_t>(copy->to - lane.shared), copy->bytes);
  }
  lane.copies.erase(lane.copies.begin(), copy);
}
