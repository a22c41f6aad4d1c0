// Who runs next, and the life of blocks.
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <algorithm>
#include <numeric>

#include "cuda/emulator/faults.h"
#include "cuda/emulator/global_memory.h"
#include "cuda/emulator/runtime.h"

raggedrt_emulated_place* raggedrt_emulated_here = nullptr;
raggedrt_emulator_counters raggedrt_emulated_counts = {};

namespace raggedrt::emulator {

Launch launch;

namespace {

constexpr int kMostResident = 4;
constexpr int64_t kOperationsBetweenClocks = 1 << 16;
constexpr uint32_t kWarpSwitches[] = {0, 2, 12, 64};  // of 256; a seed takes one

double now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

bool shuffled() { return launch.call->seed != 0; }

Lane& pick_lane(const Warp& warp) {
  const uint32_t turn = shuffled() ? draw() & 31u : 0;
  const uint32_t turned = warp.ready >> turn | warp.ready << ((32u - turn) & 31u);
  return warp.lanes[(static_cast<uint32_t>(__builtin_ctz(turned)) + turn) & 31u];
}

// Any warp of a resident block that has lanes to run; null where all wait.
Warp* pick_warp() {
  int count = 0;
  for (int slot = 0; slot < launch.resident; ++slot) count += __builtin_popcount(launch.blocks[slot]->ready_warps);
  if (count == 0) return nullptr;
  int chosen = shuffled() ? static_cast<int>(draw() % static_cast<uint32_t>(count)) : 0;
  for (int slot = 0; slot < launch.resident; ++slot) {
    Block& block = *launch.blocks[slot];
    for (uint32_t ready = block.ready_warps; ready != 0; ready &= ready - 1) {
      if (chosen-- == 0) return &block.warps[__builtin_ctz(ready)];
    }
  }
  return nullptr;
}

Lane* pick() {
  if (launch.lane != nullptr) {
    const Warp& warp = *launch.lane->warp;
    if (warp.ready != 0 && (!shuffled() || (draw() & 255u) >= launch.warp_switch)) return &pick_lane(warp);
  }
  const Warp* const warp = pick_warp();
  return warp == nullptr ? nullptr : &pick_lane(*warp);
}

void go_to(Lane& next) {
  Lane& from = *launch.lane;
  if (&from == &next) return;
  launch.lane = &next;
  raggedrt_emulated_here = &next;
  ++raggedrt_emulated_counts.switches;
  switch_context(from.context, next.context);
}

// From a lane's stack back to run_grid().
void go_to_main() { switch_context(launch.lane->context, launch.main); }

void not_ready(Lane& lane) {
  lane.warp->ready &= ~(1u << lane.lane);
  if (lane.warp->ready == 0) lane.block->ready_warps &= ~(1u << lane.warp->index);
}

void go_on_elsewhere() {
  Lane* const next = pick();
  if (next == nullptr) {
    launch.deadlock = true;
    go_to_main();
  }
  go_to(*next);
}

void lane_main() {
  launch.call->kernel->call(launch.call->params);
  leave_kernel();
}

}  // namespace

void interrupt() {
  launch.countdown = shuffled() ? 16 + static_cast<int64_t>(draw() % 4096u) : kOperationsBetweenClocks;
  if (launch.deadline > 0 && (++launch.interruptions & 15u) == 0 && now() > launch.deadline) {
    fail(*launch.lane, text("the launch runs for more than %.0f seconds; is there an endless loop?",
                            launch.call->seconds));
  }
  if (!shuffled()) return;
  land_some(*launch.lane);
  go_to(pick_lane(*pick_warp()));
}

void suspend(Lane& lane, Wait wait) {
  lane.wait = wait;
  not_ready(lane);
  land_some(lane);
  go_on_elsewhere();
}

void wake(Warp& warp, uint32_t lanes) {
  if (lanes == 0) return;
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) warp.lanes[__builtin_ctz(rest)].wait = Wait::kNone;
  warp.ready |= lanes;
  warp.block->ready_warps |= 1u << warp.index;
}

void leave_kernel() {
  Lane& lane = *launch.lane;
  Warp& warp = *lane.warp;
  lane.site = nullptr;
  if (!lane.copies.empty()) {
    fail(lane, text("leaves the kernel with %zu asynchronous copies in flight: commit them, and wait for all groups",
                    lane.copies.size()));
  }
  if (warp.arrived != 0) {
    fail(lane, text("leaves the kernel while lane %d of its warp waits for all 32 at a warp collective",
                    __builtin_ctz(warp.arrived)));
  }
  lane.left = true;
  warp.left |= 1u << lane.lane;
  not_ready(lane);
  if (--lane.block->live == 0) {
    launch.over = true;
    go_to_main();
  }
  go_on_elsewhere();
  __builtin_unreachable();
}

void fail(const Lane& lane, const std::string& what) {
  launch.error = place_of(lane) + ": " + what;
  launch.error_site = lane.site;
  go_to_main();
  __builtin_unreachable();
}

void fail(const std::string& what) {
  launch.error = text("kernel %s: ", launch.call->kernel->name) + what;
  go_to_main();
  __builtin_unreachable();
}

std::string text(const char* format, ...) {
  char buffer[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  return buffer;
}

namespace {

bool changed(const raggedrt_emulated_call& call) {
  if (launch.call->changed_line != call.line) return false;
  const size_t length = strlen(launch.call->changed_file);
  const size_t whole = strlen(call.file);
  return length <= whole && strcmp(call.file + whole - length, launch.call->changed_file) == 0;
}

}  // namespace

bool skipped(const raggedrt_emulated_call& call) {
  return changed(call) && launch.call->change == raggedrt_emulator_leave_out;
}

bool weakened(const raggedrt_emulated_call& call) {
  return changed(call) && launch.call->change == raggedrt_emulator_weaken;
}

namespace {

bool start_lane(Block& block, int thread) {
  const raggedrt_emulator_launch& call = *launch.call;
  Lane& lane = block.lanes[thread];
  static_cast<raggedrt_emulated_place&>(lane) = {
      thread, call.block_threads, block.x, block.y, call.grid_x, call.grid_y, call.shared_bytes, block.shared};
  lane.block = &block;
  lane.warp = &block.warps[thread / 32];
  lane.lane = thread % 32;
  lane.wait = Wait::kNone;
  lane.left = false;
  lane.site = nullptr;
  lane.call = nullptr;
  lane.copies.clear();
  lane.not_landed = 0;
  lane.group = 0;
  lane.fenced = nullptr;
  lane.observed.clear();
  lane.acquired.clear();
  lane.accesses.clear();
  char* const top = block.stacks.top(thread);
  if (top != nullptr) prepare(lane.context, top, Stacks::kBytes / 2, &lane_main);
  return top != nullptr;
}

void start_warps(Block& block) {
  block.ready_warps = 0;
  for (int index = 0; index < block.warp_count; ++index) {
    Warp& warp = block.warps[index];
    warp.arrived = warp.left = 0;
    warp.turn = 0;
    std::fill_n(warp.clock, kMostWarps, 0u);
    warp.acquired.clear();
    warp.lanes = &block.lanes[index * 32];
    warp.block = &block;
    warp.index = index;
    warp.ready = kAllLanes;
    warp.clock[index] = 1;
    block.ready_warps |= 1u << index;
  }
}

// Begins 128-byte aligned and no better: what needs more has to ask for it.
void start_shared_memory(Block& block, uint32_t bytes) {
  constexpr uintptr_t kAlignment = 256;
  if (block.memory == nullptr || block.shared_capacity < bytes) {
    block.memory = std::make_unique<char[]>(bytes + 2 * kAlignment);
    block.shared_capacity = bytes;
  }
  const uintptr_t begin = reinterpret_cast<uintptr_t>(block.memory.get());
  block.shared = reinterpret_cast<char*>((begin + kAlignment - 1) / kAlignment * kAlignment + 128);
  fill_poison(block.shared, bytes);
  const auto known = launch.granules.find(launch.call->kernel);
  block.shadow.reset(bytes, block.warp_count, known == launch.granules.end() ? 2 : known->second);
}

bool start_block(Block& block, uint32_t id) {
  const raggedrt_emulator_launch& call = *launch.call;
  block.id = id + 1;
  block.x = static_cast<int>(id % static_cast<uint32_t>(call.grid_x));
  block.y = static_cast<int>(id / static_cast<uint32_t>(call.grid_x));
  block.live = call.block_threads;
  block.warp_count = call.block_threads / 32;
  block.running = true;
  if (block.lanes.size() < static_cast<size_t>(call.block_threads)) block.lanes.resize(call.block_threads);
  start_shared_memory(block, static_cast<uint32_t>(call.shared_bytes));
  start_warps(block);
  for (Barrier& barrier : block.barriers) barrier = Barrier();
  for (int thread = 0; thread < call.block_threads; ++thread) {
    if (!start_lane(block, thread)) return false;
  }
  ++raggedrt_emulated_counts.blocks;
  return true;
}

void start_launch() {
  const raggedrt_emulator_launch& call = *launch.call;
  launch.random = call.seed * 0x9e3779b97f4a7c15ull + 0x5851f42d4c957f2dull;
  if (launch.random == 0) launch.random = 1;
  launch.warp_switch = kWarpSwitches[draw() % 4u];
  launch.countdown = 1;
  launch.lane = nullptr;
  launch.deadlock = launch.over = false;
  launch.error.clear();
  launch.error_site = nullptr;
  ++launch.number;
  launch.interruptions = 0;
  launch.deadline = call.seconds > 0 ? now() + call.seconds : 0;
  launch.releases.clear();
  launch.atomics.clear();
  launch.order.resize(static_cast<size_t>(call.grid_x) * static_cast<size_t>(call.grid_y));
  std::iota(launch.order.rbegin(), launch.order.rend(), 0u);  // the last is next
  if (shuffled()) {
    for (size_t left = launch.order.size(); left > 1; --left) {
      std::swap(launch.order[left - 1], launch.order[draw() % static_cast<uint32_t>(left)]);
    }
  }
  const int wanted = shuffled() ? 1 + static_cast<int>(draw() % kMostResident) : 1;
  launch.resident = static_cast<int>(std::min<size_t>(wanted, launch.order.size()));
  for (int slot = 0; slot < launch.resident; ++slot) {
    if (launch.blocks[slot] == nullptr) launch.blocks[slot] = std::make_unique<Block>();
    launch.blocks[slot]->running = false;
    launch.blocks[slot]->ready_warps = 0;
  }
}

// Blocks take the places of those that are over. False where memory is out.
bool fill_slots() {
  for (int slot = 0; slot < launch.resident; ++slot) {
    Block& block = *launch.blocks[slot];
    if (block.running && block.live == 0) {
      block.running = false;
      launch.granules[launch.call->kernel] = block.shadow.granule();
    }
    if (block.running || launch.order.empty()) continue;
    const uint32_t id = launch.order.back();
    launch.order.pop_back();
    if (!start_block(block, id)) return false;
  }
  return true;
}

}  // namespace

std::string run_grid() {
  start_launch();
  const FaultGuard guard;
  if (sigsetjmp(FaultGuard::again, 1) != 0) launch.lane = nullptr;  // a fault: the launch has an error
  while (launch.error.empty()) {
    if (!fill_slots()) return "the emulator has no memory for the stacks of another block";
    launch.lane = nullptr;
    launch.over = false;
    Lane* const next = pick();
    if (next == nullptr) break;  // every block is over
    launch.lane = next;
    raggedrt_emulated_here = next;
    switch_context(launch.main, next->context);
    if (launch.deadlock) launch.error = deadlock_report();
  }
  for (int slot = 0; slot < launch.resident; ++slot) launch.blocks[slot]->running = false;
  raggedrt_emulated_here = nullptr;
  return launch.error;
}

}  // namespace raggedrt::emulator
