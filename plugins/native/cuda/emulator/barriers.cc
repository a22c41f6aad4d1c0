// Barriers of a block, and what they order.
#include <string.h>

#include <algorithm>

#include "cuda/emulator/runtime.h"

namespace raggedrt::emulator {

namespace {

constexpr int kBarriers = 16;

void join(Releases& into, const Releases& from) {
  for (const Release* const release : from) {
    if (std::find(into.begin(), into.end(), release) == into.end()) into.push_back(release);
  }
}

// Everything that one warp of `warps` knows, all of them know afterwards.
void pass_on_among(Block& block, const Barrier& barrier) {
  uint32_t clock[kMostWarps] = {};
  Releases acquired;
  for (int index = 0; index < block.warp_count; ++index) {
    if (barrier.waiting[index] == 0) continue;
    Warp& warp = block.warps[index];
    pass_on(warp);
    for (int other = 0; other < block.warp_count; ++other) clock[other] = std::max(clock[other], warp.clock[other]);
    if (!warp.acquired.empty()) join(acquired, warp.acquired);
  }
  for (int index = 0; index < block.warp_count; ++index) {
    if (barrier.waiting[index] == 0) continue;
    std::copy_n(clock, block.warp_count, block.warps[index].clock);
    if (!acquired.empty()) block.warps[index].acquired = acquired;
  }
}

void complete(Lane& last, Barrier& barrier) {
  Block& block = *last.block;
  for (int index = 0; index < block.warp_count; ++index) {
    if (barrier.waiting[index] != 0 && barrier.waiting[index] != kAllLanes) {
      fail(last, text("completes named barrier %d with only some lanes of warp %d: a barrier counts whole warps",
                      last.barrier, index));
    }
    if (launch.call->profile != 0 && barrier.waiting[index] != 0) profile_warp(block.warps[index]);
  }
  pass_on_among(block, barrier);
  barrier.result_all = barrier.vote_all;
  barrier.result_any = barrier.vote_any;
  barrier.arrived = 0;
  for (int index = 0; index < block.warp_count; ++index) {
    const uint32_t others = index == last.warp->index ? ~(1u << last.lane) : kAllLanes;
    wake(block.warps[index], barrier.waiting[index] & others);
    barrier.waiting[index] = 0;
  }
}

bool same_call(const raggedrt_emulated_call& a, const raggedrt_emulated_call& b) {
  return a.line == b.line && strcmp(a.name, b.name) == 0 && strcmp(a.file, b.file) == 0;
}

void check_arrival(const Lane& lane, const Barrier& barrier, int expected, const raggedrt_emulated_call& call) {
  const Block& block = *lane.block;
  if (lane.barrier == 0 && block.live < expected) {
    fail(lane, "arrives at " + describe(call) +
                   text(", which needs all %d threads of the block, but %d have left the kernel", expected,
                        expected - block.live));
  }
  if (barrier.arrived == 0) return;
  if (barrier.expected != expected) {
    fail(lane, "arrives at " + describe(call) +
                   text(" for %d threads, while others wait there for %d", expected, barrier.expected));
  }
  // Threads that meet at different statements are in different rounds of the program, even if the counts agree.
  if (lane.barrier == 0 && !same_call(call, *barrier.call)) {
    fail(lane, "arrives at " + describe(call) + ", while other threads wait at " + describe(*barrier.call) +
                   ": divergent barriers");
  }
}

Barrier& meet(Lane& lane, const raggedrt_emulated_call& call, int id, int expected, bool predicate) {
  Barrier& barrier = lane.block->barriers[id];
  lane.barrier = id;
  lane.call = &call;
  check_arrival(lane, barrier, expected, call);
  if (barrier.arrived == 0) {
    barrier.expected = expected;
    barrier.call = &call;
    barrier.vote_all = true;
    barrier.vote_any = false;
  }
  barrier.vote_all &= predicate;
  barrier.vote_any |= predicate;
  barrier.waiting[lane.warp->index] |= 1u << lane.lane;
  if (++barrier.arrived < expected) {
    suspend(lane, Wait::kBarrier);
  } else {
    complete(lane, barrier);
  }
  return barrier;
}

}  // namespace

void pass_on(Warp& warp) {
  if (++warp.clock[warp.index] >= kLastEpoch) fail("more barriers in one block than the emulator can number");
  for (int lane = 0; lane < 32; ++lane) {
    Releases& own = warp.lanes[lane].acquired;
    if (own.empty()) continue;
    join(warp.acquired, own);
    own.clear();
  }
}

}  // namespace raggedrt::emulator

using namespace raggedrt::emulator;

void raggedrt_emulated_sync_block(const raggedrt_emulated_call* call) {
  Lane& lane = RAGGEDRT_BEGIN();
  if (skipped(*call)) return;
  if (weakened(*call)) return raggedrt_emulated_sync_warp(call);
  if (lane.thread == 0) ++raggedrt_emulated_counts.sync_block;
  meet(lane, *call, 0, lane.block_threads, false);
}

int raggedrt_emulated_vote_block(const raggedrt_emulated_call* call, int all, int predicate) {
  Lane& lane = RAGGEDRT_BEGIN();
  if (lane.thread == 0) ++raggedrt_emulated_counts.sync_block;
  const Barrier& barrier = meet(lane, *call, 0, lane.block_threads, predicate != 0);
  return all != 0 ? barrier.result_all : barrier.result_any;
}

void raggedrt_emulated_named_barrier(const raggedrt_emulated_call* call, int id, int threads) {
  Lane& lane = RAGGEDRT_BEGIN();
  if (skipped(*call)) return;
  if (weakened(*call)) return raggedrt_emulated_sync_warp(call);
  if (id < 1 || id >= kBarriers) {
    fail(lane, text("named_barrier of id %d: ids are 1 to %d", id, kBarriers - 1));
  }
  if (threads < 32 || threads % 32 != 0 || threads > lane.block_threads) {
    fail(lane, text("named_barrier for %d threads: a multiple of 32, at most the block's %d", threads,
                    lane.block_threads));
  }
  if (lane.block->barriers[id].arrived + 1 == threads) ++raggedrt_emulated_counts.named_barrier;
  meet(lane, *call, id, threads, false);
}
