// Collectives of a warp: the lane that arrives last does the work for all.
#include <string.h>

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
  Warp& warp = *lane.warp;
  warp.arrived = 0;
  warp.turn ^= 1;
  wake(warp, ~(1u << lane.lane));
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

// Passes over the banks that eight rows of 16 bytes take, beyond one: equal rows are read once.
int extra_passes(const uintptr_t* rows) {
  int most = 1;
  for (int row = 0; row < kMatrixRows; ++row) {
    int together = 0;
    for (int other = 0; other < kMatrixRows; ++other) {
      bool repeated = false;
      for (int before = 0; before < other; ++before) repeated |= rows[before] == rows[other];
      together += !repeated && rows[other] % 128 == rows[row] % 128;
    }
    most = together > most ? together : most;
  }
  return most - 1;
}

// Eight rows in eight places of the banks, the usual case.
bool apart(const uintptr_t* rows) {
  uint32_t places = 0;
  for (int row = 0; row < kMatrixRows; ++row) places |= 1u << (rows[row] / kRowBytes % 8);
  return places == 0xffu;
}

void count_matrices(const uintptr_t* rows, int matrices) {
  raggedrt_emulated_counts.load_matrix += static_cast<uint64_t>(matrices);
  for (int matrix = 0; matrix < matrices; ++matrix) {
    const uintptr_t* const own = rows + matrix * kMatrixRows;
    if (!apart(own)) raggedrt_emulated_counts.load_matrix_conflicts += static_cast<uint64_t>(extra_passes(own));
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
  Stage& stage = lane.warp->stages[lane.warp->turn];
  memcpy(stage.values[lane.lane], value, bytes);
  if (arrive(lane, Collective::kShuffle, static_cast<uint32_t>(kind) << 8 | bytes)) {
    ++raggedrt_emulated_counts.shuffles;
    finish(lane);
  }
  memcpy(value, stage.values[source_lane(kind, lane.lane, operand)], bytes);
}

uint32_t raggedrt_emulated_ballot(int predicate) {
  Lane& lane = RAGGEDRT_BEGIN();
  Warp& warp = *lane.warp;
  Stage& stage = warp.stages[warp.turn];
  if (warp.arrived == 0) stage.votes = 0;
  stage.votes |= static_cast<uint32_t>(predicate != 0) << lane.lane;
  if (arrive(lane, Collective::kBallot, 0)) {
    ++raggedrt_emulated_counts.ballots;
    finish(lane);
  }
  return stage.votes;
}

void raggedrt_emulated_load_matrix(uint32_t* r, const void* row, int matrices, int transposed) {
  Lane& lane = RAGGEDRT_BEGIN();
  auto& stage = lane.warp->stages[lane.warp->turn].matrices;
  if (lane.lane < matrices * kMatrixRows) {
    check_matrix_row(lane, row, kRowBytes);
    stage.rows[lane.lane] = reinterpret_cast<uintptr_t>(row);
    memcpy(stage.elements[lane.lane / kMatrixRows][lane.lane % kMatrixRows], row, kRowBytes);
  }
  if (arrive(lane, Collective::kLoadMatrix, static_cast<uint32_t>(matrices * 2 + transposed))) {
    count_matrices(stage.rows, matrices);
    finish(lane);
  }
  const int major = lane.lane / 4;
  const int minor = lane.lane % 4 * 2;
  for (int matrix = 0; matrix < matrices; ++matrix) {
    const auto& m = stage.elements[matrix];
    const uint32_t low = transposed ? m[minor][major] : m[major][minor];
    const uint32_t high = transposed ? m[minor + 1][major] : m[major][minor + 1];
    r[matrix] = low | high << 16;
  }
}

void raggedrt_emulated_mma(int bfloat, float* c, const uint32_t* a, uint32_t b0, uint32_t b1) {
  Lane& lane = RAGGEDRT_BEGIN();
  MmaTile& tile = lane.warp->stages[lane.warp->turn].mma;
  tile.bring(lane.lane, a, b0, b1, c);
  if (arrive(lane, Collective::kMma, static_cast<uint32_t>(bfloat))) {
    ++raggedrt_emulated_counts.mma;
    multiply(tile, bfloat != 0);
    finish(lane);
  }
  tile.fetch(lane.lane, c);
}
