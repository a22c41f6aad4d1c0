// Collectives of a warp: the lane that arrives last does the work for all.
#include <string.h>

#include "cuda/emulator/mma.h"
#include "cuda/emulator/runtime.h"
#include "cuda/emulator/shared_memory.h"

namespace raggedrt::emulator {

namespace {

constexpr int kRowBytes = 16;
constexpr int kMatrixRows = 8;

// True for the lane that arrives last; it does the work, and calls finish(). The others return when that is done.
bool arrive(Lane& lane, Collective collective, uint32_t detail) {
  Warp& warp = *lane.warp;
  if (warp.arrived == 0) {
    warp.collective = collective;
    warp.detail = detail;
  } else if (warp.collective != collective || warp.detail != detail) {
    const std::string there = collective_name(warp);
    warp.collective = collective;
    fail(lane, "arrives at " + collective_name(warp) + text(", while lane %d of its warp waits at ",
                                                            __builtin_ctz(warp.arrived)) +
                   there + (warp.collective == collective ? " of another form" : "") +
                   ": a warp collective needs all 32 lanes at the same one");
  }
  if (warp.left != 0) {
    fail(lane, "arrives at " + collective_name(warp) +
                   text(", but lane %d of its warp has left the kernel: a warp collective needs all 32 lanes",
                        __builtin_ctz(warp.left)));
  }
  warp.arrived |= 1u << lane.lane;
  if (warp.arrived != kAllLanes) {
    suspend(lane, Wait::kWarp);
    return false;
  }
  if (launch.call->profile != 0) profile_warp(warp);
  return true;
}

void finish(const Lane& lane) {
  lane.warp->arrived = 0;
  wake(*lane.warp, ~(1u << lane.lane));
}

int source_lane(raggedrt_emulated_exchange kind, int lane, int operand) {
  switch (kind) {
    case raggedrt_emulated_shuffle_lane: return operand & 31;
    case raggedrt_emulated_shuffle_xor: return (lane ^ operand) & 31;
    case raggedrt_emulated_shuffle_up: return lane - operand < 0 ? lane : lane - operand;
    case raggedrt_emulated_shuffle_down: return lane + operand > 31 ? lane : lane + operand;
  }
  return lane;
}

void exchange(const Warp& warp, raggedrt_emulated_exchange kind, uint32_t bytes) {
  char values[32][8];
  for (int lane = 0; lane < 32; ++lane) memcpy(values[lane], warp.lanes[lane].operands.value, bytes);
  for (int lane = 0; lane < 32; ++lane) {
    const Operands& operands = warp.lanes[lane].operands;
    memcpy(operands.value, values[source_lane(kind, lane, static_cast<int>(operands.b0))], bytes);
  }
}

// Passes over the banks that eight rows of 16 bytes take, beyond one: equal rows are read once.
int extra_passes(const Lane* lanes) {
  int most = 1;
  for (int row = 0; row < kMatrixRows; ++row) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(lanes[row].operands.source);
    int together = 0;
    for (int other = 0; other < kMatrixRows; ++other) {
      const uintptr_t there = reinterpret_cast<uintptr_t>(lanes[other].operands.source);
      bool repeated = false;
      for (int before = 0; before < other; ++before) {
        repeated |= reinterpret_cast<uintptr_t>(lanes[before].operands.source) == there;
      }
      together += !repeated && there % 128 == address % 128;
    }
    most = together > most ? together : most;
  }
  return most - 1;
}

void load_matrices(const Warp& warp, int matrices, bool transposed) {
  uint16_t elements[4][kMatrixRows][8];
  for (int matrix = 0; matrix < matrices; ++matrix) {
    const Lane* const lanes = warp.lanes + matrix * kMatrixRows;
    for (int row = 0; row < kMatrixRows; ++row) {
      check_matrix_row(lanes[row], lanes[row].operands.source, kRowBytes);
      memcpy(elements[matrix][row], lanes[row].operands.source, kRowBytes);
    }
    raggedrt_emulated_counts.load_matrix_conflicts += static_cast<uint64_t>(extra_passes(lanes));
  }
  raggedrt_emulated_counts.load_matrix += static_cast<uint64_t>(matrices);
  for (int lane = 0; lane < 32; ++lane) {
    uint32_t* const r = static_cast<uint32_t*>(warp.lanes[lane].operands.value);
    const int major = lane / 4;
    const int minor = lane % 4 * 2;
    for (int matrix = 0; matrix < matrices; ++matrix) {
      const auto& m = elements[matrix];
      const uint32_t low = transposed ? m[minor][major] : m[major][minor];
      const uint32_t high = transposed ? m[minor + 1][major] : m[major][minor + 1];
      r[matrix] = low | high << 16;
    }
  }
}

}  // namespace
}  // namespace raggedrt::emulator

using namespace raggedrt::emulator;

void raggedrt_emulated_sync_warp(const raggedrt_emulated_call* call) {
  Lane& lane = RAGGEDRT_BEGIN();
  if (skipped(*call)) return;
  if (!arrive(lane, Collective::kSyncWarp, 0)) return;
  ++raggedrt_emulated_counts.sync_warp;
  pass_on(*lane.warp);
  finish(lane);
}

void raggedrt_emulated_shuffle(raggedrt_emulated_exchange kind, void* value, uint32_t bytes, int operand) {
  Lane& lane = RAGGEDRT_BEGIN();
  lane.operands.value = value;
  lane.operands.b0 = static_cast<uint32_t>(operand);
  if (!arrive(lane, Collective::kShuffle, static_cast<uint32_t>(kind) << 8 | bytes)) return;
  ++raggedrt_emulated_counts.shuffles;
  exchange(*lane.warp, kind, bytes);
  finish(lane);
}

uint32_t raggedrt_emulated_ballot(int predicate) {
  Lane& lane = RAGGEDRT_BEGIN();
  lane.operands.b0 = predicate != 0;
  Warp& warp = *lane.warp;
  if (arrive(lane, Collective::kBallot, 0)) {
    ++raggedrt_emulated_counts.ballots;
    warp.result = 0;
    for (int other = 0; other < 32; ++other) warp.result |= warp.lanes[other].operands.b0 << other;
    finish(lane);
  }
  return warp.result;
}

void raggedrt_emulated_load_matrix(uint32_t* r, const void* row, int matrices, int transposed) {
  Lane& lane = RAGGEDRT_BEGIN();
  lane.operands.value = r;
  lane.operands.source = row;
  if (!arrive(lane, Collective::kLoadMatrix, static_cast<uint32_t>(matrices * 2 + transposed))) return;
  load_matrices(*lane.warp, matrices, transposed != 0);
  finish(lane);
}

void raggedrt_emulated_mma(int bfloat, float* c, const uint32_t* a, uint32_t b0, uint32_t b1) {
  Lane& lane = RAGGEDRT_BEGIN();
  lane.operands = {c, a, b0, b1};
  if (!arrive(lane, Collective::kMma, static_cast<uint32_t>(bfloat))) return;
  ++raggedrt_emulated_counts.mma;
  MmaRegisters registers;
  for (int at = 0; at < 32; ++at) {
    const Operands& operands = lane.warp->lanes[at].operands;
    memcpy(registers.a[at], operands.source, sizeof registers.a[at]);
    registers.b[at][0] = operands.b0;
    registers.b[at][1] = operands.b1;
    registers.c[at] = static_cast<float*>(operands.value);
  }
  multiply(registers, bfloat != 0);
  finish(lane);
}
