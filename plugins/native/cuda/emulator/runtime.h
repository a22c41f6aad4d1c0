// The state of a launch: blocks, warps and lanes, who may run, and what is ordered before what.
//
// Order is kept per warp. A warp's epoch counts the points at which it passed on what its lanes did before (sync_warp,
// barriers); `clock[w]` is the epoch of warp w that a warp knows. So an access by warp w at epoch e is ordered before a
// lane of another warp that knows an epoch above e, and before other lanes of w once w's own epoch is above e.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "cuda/device/device.h"
#include "cuda/emulator/context.h"
#include "cuda/emulator/mma.h"
#include "cuda/emulator/shared_shadow.h"
#include "cuda/emulator/stamp.h"

namespace raggedrt::emulator {

struct Block;
struct Warp;

// What a thread made visible by fence_device: everything that its warp knew then, and its own accesses.
struct Release {
  uint32_t block = 0;
  Stamp stamp = 0;
  uint32_t clock[kMostWarps] = {};
  std::vector<const Release*> acquired;  // what it knew of other blocks
};
using Releases = std::vector<const Release*>;

struct Copy {
  char* to;
  const char* from;
  uint32_t bytes;
  uint32_t group;
  bool valid;
  bool landed;
};

enum class Wait : uint8_t { kNone, kWarp, kBarrier };

// What the lanes of a warp bring to a collective, and fetch from it. There are two, in turns: a lane may come to the
// next collective before another has fetched its part of this one.
struct Stage {
  union {
    char values[32][8];
    struct {
      uint16_t elements[4][8][8];
      uintptr_t rows[32];
    } matrices;
    MmaTile mma;
    uint32_t votes;
  };
};

struct Access {
  const void* site;
  uintptr_t address;
  uint32_t bytes;
  bool shared;
};

struct Lane : raggedrt_emulated_place {
  Context context;
  Block* block = nullptr;
  Warp* warp = nullptr;
  int lane = 0;
  const void* site = nullptr;  // of the last intrinsic
  const raggedrt_emulated_call* call = nullptr;  // of the last barrier, fence, commit or wait
  Wait wait = Wait::kNone;
  int barrier = 0;  // id, while waiting at one
  bool left = false;
  std::vector<Copy> copies;  // in flight, by group
  int not_landed = 0;        // of those
  uint32_t group = 0;        // of the next copy
  const Release* fenced = nullptr;
  Releases observed;  // through atomics, and not fenced yet
  Releases acquired;
  std::vector<Access> accesses;  // since the warp last met, with `profile`
};

enum class Collective : uint8_t { kSyncWarp, kShuffle, kBallot, kLoadMatrix, kMma };

struct Warp {
  Lane* lanes = nullptr;  // 32 of them
  Block* block = nullptr;
  int index = 0;
  uint32_t ready = 0;    // lanes that may run
  uint32_t arrived = 0;  // lanes that wait at `collective`
  uint32_t left = 0;     // lanes that left the kernel
  Collective collective = Collective::kSyncWarp;
  uint32_t detail = 0;  // tells collectives of one kind apart
  Stage stages[2];
  int turn = 0;
  uint32_t clock[kMostWarps] = {};
  Releases acquired;
  uint32_t epoch() const { return clock[index]; }
};

struct Barrier {
  int arrived = 0;  // threads
  int expected = 0;
  bool vote_all = true;
  bool vote_any = false;
  bool result_all = false;
  bool result_any = false;
  const raggedrt_emulated_call* call = nullptr;  // of the first to arrive
  uint32_t waiting[kMostWarps] = {};
};

struct Block {
  int x = 0;
  int y = 0;
  uint32_t id = 0;  // 1 and up
  int live = 0;     // threads that have not left
  int warp_count = 0;
  uint32_t ready_warps = 0;
  bool running = false;
  std::unique_ptr<char[]> memory;
  char* shared = nullptr;
  uint32_t shared_capacity = 0;
  SharedShadow shadow;
  std::vector<Lane> lanes;
  Warp warps[kMostWarps];
  Barrier barriers[16];
  Stacks stacks;
};

struct Launch {
  const raggedrt_emulator_launch* call = nullptr;
  uint64_t random = 0;
  int64_t countdown = 0;        // operations until the running lane is interrupted
  uint32_t warp_switch = 0;     // how often another warp goes on although lanes of this one could, of 256
  std::vector<uint32_t> order;  // of the blocks that have not started
  int resident = 0;
  std::unique_ptr<Block> blocks[4];
  Context main;
  Lane* lane = nullptr;  // that runs
  bool deadlock = false;
  bool over = false;  // a block is over
  std::string error;
  const void* error_site = nullptr;
  uint32_t number = 0;  // of launches, for state that is per launch
  double deadline = 0;
  uint64_t interruptions = 0;
  std::vector<std::unique_ptr<Release>> releases;
  std::unordered_map<uintptr_t, Releases> atomics;  // by address
  std::unordered_map<const void*, int> granules;    // of shared memory, by kernel
};

extern Launch launch;

inline uint32_t draw() {  // xorshift64*
  launch.random ^= launch.random >> 12;
  launch.random ^= launch.random << 25;
  launch.random ^= launch.random >> 27;
  return static_cast<uint32_t>((launch.random * 0x2545f4914f6cdd1dull) >> 32);
}

inline Stamp stamp_of(const Lane& lane) { return make_stamp(lane.warp->epoch(), lane.thread); }

// Whether what the stamp stands for, done by this lane's block, is ordered before what the lane does now.
inline bool ordered(Stamp stamp, const Lane& lane) {
  const uint32_t warp = stamp_warp(stamp);
  if (warp != static_cast<uint32_t>(lane.warp->index)) return lane.warp->clock[warp] > stamp_epoch(stamp);
  return stamp_thread(stamp) == static_cast<uint32_t>(lane.thread) || stamp_epoch(stamp) < lane.warp->epoch();
}

// Ends the launch with an error of this lane; `what` goes on after "kernel, block, thread: ".
[[noreturn]] void fail(const Lane& lane, const std::string& what);
// Likewise, without a place.
[[noreturn]] void fail(const std::string& what);
std::string place_of(const Lane& lane);
std::string describe(const raggedrt_emulated_call& call);
std::string collective_name(const Warp& warp);
std::string deadlock_report();
// Text with a printf format.
std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));

// A point at which a warp passes on what its lanes did: a new epoch.
void pass_on(Warp& warp);

// Interrupts the lane where its time is over. Every access and collective begins with it.
void interrupt();
inline Lane& begin(const void* site) {
  ++raggedrt_emulated_counts.operations;
  if (--launch.countdown <= 0) interrupt();
  Lane& lane = *launch.lane;
  lane.site = site;
  return lane;
}
#define RAGGEDRT_BEGIN() ::raggedrt::emulator::begin(__builtin_return_address(0))

// Whether the launch leaves this statement out, or has a weaker one there.
bool skipped(const raggedrt_emulated_call& call);
bool weakened(const raggedrt_emulated_call& call);

// The lane waits until wake() is called for it; others run.
void suspend(Lane& lane, Wait wait);
void wake(Warp& warp, uint32_t lanes);
void leave_kernel();  // the running lane's end
void land_some(Lane& lane);  // asynchronous copies, by chance
void profile_warp(Warp& warp);  // counts what its lanes accessed since the last time
void fill_poison(char* begin, size_t bytes);

// Runs the whole grid of launch.call; the error, or an empty text.
std::string run_grid();

}  // namespace raggedrt::emulator
