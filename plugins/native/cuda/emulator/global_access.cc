// Checks of accesses to global memory: bounds, alignment, initialisation, and order between threads and blocks.
#include <algorithm>

#include "cuda/emulator/accesses.h"
#include "cuda/emulator/global_memory.h"
#include "cuda/emulator/runtime.h"

namespace raggedrt::emulator {

namespace {

constexpr uint8_t kAtomic = 1;    // last written by an atomic
constexpr uint8_t kConstant = 2;  // read through the read-only cache

using Piece = Page::Piece;

// What a block has done, and what it knows of the others, decides whether an access is ordered before one of `lane`.
bool covers(const Release& release, uint32_t block, Stamp stamp) {
  if (release.block != block) return false;
  return stamp_thread(stamp) == stamp_thread(release.stamp) ? stamp_epoch(stamp) <= stamp_epoch(release.stamp)
                                                            : release.clock[stamp_warp(stamp)] > stamp_epoch(stamp);
}

bool known(const Releases& releases, uint32_t block, Stamp stamp) {
  return std::any_of(releases.begin(), releases.end(),
                     [&](const Release* release) { return covers(*release, block, stamp); });
}

bool ordered_globally(const Lane& lane, uint32_t block, Stamp stamp) {
  if (block == lane.block->id) return ordered(stamp, lane);
  return known(lane.acquired, block, stamp) || known(lane.warp->acquired, block, stamp);
}

bool report(const Lane& lane, Conflict& conflict, Fault fault, uint32_t block, Stamp stamp) {
  conflict.fault = fault;
  conflict.other = stamp;
  conflict.block = block == lane.block->id ? 0 : block;
  return false;
}

void split(Page& page, int granule) {
  const size_t parts = size_t{1} << (page.granule - granule);
  std::vector<Piece> pieces(page.pieces.size() * parts);
  for (size_t piece = 0; piece < pieces.size(); ++piece) pieces[piece] = page.pieces[piece / parts];
  page.pieces.swap(pieces);
  page.granule = granule;
}

// An access never crosses a page: regions begin at any address, but pages are aligned, as accesses are.
Page& page_of(Region& region, uintptr_t address, uint32_t bytes) {
  std::unique_ptr<Page>& slot = region.pages[address / Region::kPageBytes - region.begin / Region::kPageBytes];
  if (slot == nullptr) slot = std::make_unique<Page>();
  if (slot->launch != launch.number) {
    slot->launch = launch.number;
    slot->pieces.assign(Region::kPageBytes >> slot->granule, Piece());
  }
  if (bytes < 1u << slot->granule) split(*slot, __builtin_ctz(bytes));
  return *slot;
}

void note_read(const Lane& lane, Piece& piece) {
  const uint32_t block = lane.block->id;
  const Stamp own = stamp_of(lane);
  for (int slot = 0; slot < 2; ++slot) {
    if (piece.reader[slot] == 0 || (piece.read_block[slot] == block && ordered(piece.reader[slot], lane))) {
      piece.read_block[slot] = block;
      piece.reader[slot] = own;
      return;
    }
  }
  const int slot = static_cast<int>(draw() & 1u);  // two readers stand for all; other seeds keep others
  piece.read_block[slot] = block;
  piece.reader[slot] = own;
}

bool check_read(const Lane& lane, Piece& piece, bool constant, Conflict& conflict) {
  if (piece.write_block != 0) {
    if (constant) return report(lane, conflict, Fault::kReadOnly, piece.write_block, piece.writer);
    if (!ordered_globally(lane, piece.write_block, piece.writer)) {
      return report(lane, conflict, Fault::kAfterWrite, piece.write_block, piece.writer);
    }
  }
  if (constant) piece.state |= kConstant;
  note_read(lane, piece);
  return true;
}

bool check_write(const Lane& lane, Piece& piece, bool atomic, Conflict& conflict) {
  if (piece.state & kConstant) return report(lane, conflict, Fault::kReadOnly, piece.read_block[0], piece.reader[0]);
  const bool both_atomic = atomic && (piece.state & kAtomic) != 0;
  if (piece.write_block != 0 && !both_atomic && !ordered_globally(lane, piece.write_block, piece.writer)) {
    return report(lane, conflict, Fault::kAfterWrite, piece.write_block, piece.writer);
  }
  for (int slot = 0; slot < 2; ++slot) {
    if (piece.reader[slot] != 0 && !ordered_globally(lane, piece.read_block[slot], piece.reader[slot])) {
      return report(lane, conflict, Fault::kAfterRead, piece.read_block[slot], piece.reader[slot]);
    }
  }
  piece = {lane.block->id, stamp_of(lane), {0, 0}, {0, 0}, static_cast<uint8_t>(atomic ? kAtomic : 0)};
  return true;
}

enum class Kind { kRead, kConstant, kWrite, kAtomic };

std::string access_words(const Region& region, const void* address, uint32_t bytes, const char* what) {
  return text("%s of %u bytes at offset %zu of `%s` (%zu bytes) ", what, bytes,
              reinterpret_cast<uintptr_t>(address) - region.begin, region.name.c_str(), region.end - region.begin);
}

Region& find_region(const Lane& lane, const void* address, uint32_t bytes, const char* what) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(address);
  if (begin % bytes != 0) {
    fail(lane, text("%s of %u bytes at address %p: not a multiple of its size", what, bytes, address));
  }
  Region* const region = global_memory.find(begin, bytes);
  if (region == nullptr) {
    fail(lane, text("%s of %u bytes at address %p is outside of all global memory: ", what, bytes, address) +
                   global_memory.around(begin));
  }
  return *region;
}

void check(Lane& lane, const void* address, uint32_t bytes, Kind kind, const char* what) {
  Region& region = find_region(lane, address, bytes, what);
  const uintptr_t begin = reinterpret_cast<uintptr_t>(address);
  const bool writes = kind == Kind::kWrite || kind == Kind::kAtomic;
  if (kind != Kind::kWrite && !region.written.empty() && count_unwritten(region, begin, bytes) != 0) {
    fail(lane, access_words(region, address, bytes, what) + "reads bytes that nobody has written");
  }
  if (region.kind == raggedrt_emulator_input) {
    if (writes) fail(lane, access_words(region, address, bytes, what) + "writes an input");
    return;
  }
  Page& page = page_of(region, begin, bytes);
  const size_t first = begin % Region::kPageBytes >> page.granule;
  const size_t last = (begin % Region::kPageBytes + bytes - 1) >> page.granule;
  Conflict conflict;
  for (size_t piece = first; piece <= last; ++piece) {
    const bool fine = writes ? check_write(lane, page.pieces[piece], kind == Kind::kAtomic, conflict)
                             : check_read(lane, page.pieces[piece], kind == Kind::kConstant, conflict);
    if (!fine) fail(lane, access_words(region, address, bytes, what) + explain(lane, conflict));
  }
  if (writes && !region.written.empty()) set_written(region, begin, bytes, true);
}

void count_load(Lane& lane, const void* address, uint32_t bytes) {
  ++raggedrt_emulated_counts.global_loads;
  raggedrt_emulated_counts.global_load_bytes += bytes;
  if (launch.call->profile != 0) note_access(lane, address, bytes, false);
}

void add(Releases& into, const Release* release) {
  if (std::find(into.begin(), into.end(), release) == into.end()) into.push_back(release);
}

}  // namespace

void check_copy_source(Lane& lane, const void* address, uint32_t bytes) {
  check(lane, address, bytes, Kind::kRead, "copy_async");
}

}  // namespace raggedrt::emulator

using namespace raggedrt::emulator;

void raggedrt_emulated_read_global(const void* address, uint32_t bytes) {
  Lane& lane = RAGGEDRT_BEGIN();
  check(lane, address, bytes, Kind::kRead, "load_global");
  count_load(lane, address, bytes);
}

void raggedrt_emulated_read_constant(const void* address, uint32_t bytes) {
  Lane& lane = RAGGEDRT_BEGIN();
  check(lane, address, bytes, Kind::kConstant, "load_global_readonly");
  count_load(lane, address, bytes);
}

void raggedrt_emulated_write_global(const void* address, uint32_t bytes) {
  Lane& lane = RAGGEDRT_BEGIN();
  check(lane, address, bytes, Kind::kWrite, "store_global");
  ++raggedrt_emulated_counts.global_stores;
  raggedrt_emulated_counts.global_store_bytes += bytes;
  if (launch.call->profile != 0) note_access(lane, address, bytes, false);
}

// Blocks are ordered by: fence, atomic by one | atomic on the same address, fence by the other. Later atomics pass on
// what earlier ones on that address released.
void raggedrt_emulated_atomic_global(const void* address, uint32_t bytes) {
  Lane& lane = RAGGEDRT_BEGIN();
  check(lane, address, bytes, Kind::kAtomic, "an atomic");
  ++raggedrt_emulated_counts.atomics_global;
  const auto found = launch.atomics.find(reinterpret_cast<uintptr_t>(address));
  if (found == launch.atomics.end() && lane.fenced == nullptr) return;
  Releases& releases = launch.atomics[reinterpret_cast<uintptr_t>(address)];
  for (const Release* const release : releases) add(lane.observed, release);
  if (lane.fenced != nullptr) add(releases, lane.fenced);
}

void raggedrt_emulated_fence(const raggedrt_emulated_call* call) {
  Lane& lane = RAGGEDRT_BEGIN();
  if (skipped(*call)) return;
  ++raggedrt_emulated_counts.fences;
  for (const Release* const release : lane.observed) {
    add(lane.acquired, release);
    for (const Release* const earlier : release->acquired) add(lane.acquired, earlier);
  }
  lane.observed.clear();
  auto release = std::make_unique<Release>();
  release->block = lane.block->id;
  release->stamp = stamp_of(lane);
  std::copy(std::begin(lane.warp->clock), std::end(lane.warp->clock), release->clock);
  release->acquired = lane.warp->acquired;
  for (const Release* const known_before : lane.acquired) add(release->acquired, known_before);
  lane.fenced = release.get();
  launch.releases.push_back(std::move(release));
}
