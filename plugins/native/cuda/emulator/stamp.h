// Who did an access and when: the epoch of its warp, and its thread.
#pragma once

#include <stdint.h>

namespace raggedrt::emulator {

constexpr int kMostThreads = 1024;
constexpr int kMostWarps = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;
constexpr uint32_t kLastEpoch = (1u << 22) - 1;

using Stamp = uint32_t;  // epoch << 10 | thread; epochs begin with 1, so 0 is nobody

inline Stamp make_stamp(uint32_t epoch, int thread) { return epoch << 10 | static_cast<uint32_t>(thread); }
inline uint32_t stamp_thread(Stamp stamp) { return stamp & 1023u; }
inline uint32_t stamp_warp(Stamp stamp) { return (stamp & 1023u) >> 5; }
inline uint32_t stamp_epoch(Stamp stamp) { return stamp >> 10; }

}  // namespace raggedrt::emulator
