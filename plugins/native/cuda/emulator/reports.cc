// Words for what went wrong.
#include <string.h>

#include <map>

#include "cuda/emulator/runtime.h"

namespace raggedrt::emulator {

namespace {

// "0-31, 64": sorted numbers with ranges joined.
std::string ranges(const std::vector<int>& numbers) {
  std::string all;
  for (size_t first = 0; first < numbers.size();) {
    size_t last = first;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    if (!all.empty()) all += ", ";
    all += last == first ? text("%d", numbers[first]) : text("%d-%d", numbers[first], numbers[last]);
    first = last + 1;
  }
  return all;
}

std::string waits_at(const Lane& lane) {
  if (lane.left) return "left the kernel";
  if (lane.wait == Wait::kWarp) return std::string("wait for their whole warp at ") + collective_name(*lane.warp);
  const Barrier& barrier = lane.block->barriers[lane.barrier];
  return "wait at " + describe(*lane.call) +
         text(", where %d of %d threads have arrived", barrier.arrived, barrier.expected);
}

}  // namespace

std::string collective_name(const Warp& warp) {
  static const char* const kNames[] = {"sync_warp", "a shuffle", "ballot", "load_matrix", "mma"};
  return kNames[static_cast<int>(warp.collective)];
}

std::string place_of(const Lane& lane) {
  return text("kernel %s, block (%d, %d), thread %d (warp %d, lane %d)", launch.call->kernel->name, lane.block_x,
              lane.block_y, lane.thread, lane.warp->index, lane.lane);
}

std::string describe(const raggedrt_emulated_call& call) {
  const char* const slash = strrchr(call.file, '/');
  return text("%s (%s:%d)", call.name, slash == nullptr ? call.file : slash + 1, call.line);
}

std::string deadlock_report() {
  std::string all = text("kernel %s: deadlock, nothing can run.", launch.call->kernel->name);
  for (int slot = 0; slot < launch.resident; ++slot) {
    const Block& block = *launch.blocks[slot];
    if (!block.running || block.live == 0) continue;
    std::map<std::string, std::vector<int>> groups;
    for (int thread = 0; thread < block.warp_count * 32; ++thread) {
      groups[waits_at(block.lanes[thread])].push_back(thread);
    }
    all += text(" Block (%d, %d):", block.x, block.y);
    const char* separator = " ";
    for (const auto& [what, threads] : groups) {
      all += separator + ("threads " + ranges(threads) + " " + what);
      separator = "; ";
    }
    all += ".";
  }
  return all;
}

}  // namespace raggedrt::emulator
