#include "cuda/emulator/shared_shadow.h"

#include <algorithm>

#include "cuda/emulator/runtime.h"

namespace raggedrt::emulator {

namespace {

constexpr uint8_t kWritten = 1;
constexpr uint8_t kPending = 2;

constexpr uint32_t kSeveral = 32;  // in a record: by several lanes in this epoch

bool report(Conflict& conflict, Fault fault, Stamp other, uint32_t piece, int granule) {
  conflict.fault = fault;
  conflict.other = other;
  conflict.block = 0;
  conflict.offset = static_cast<uintptr_t>(piece) << granule;
  return false;
}

// Whether a write is ordered before a read by all lanes of the warp: for lanes of this warp, that takes a new epoch.
bool ordered_for_warp(Stamp stamp, const Lane& lane) {
  if (stamp_warp(stamp) == static_cast<uint32_t>(lane.warp->index)) return stamp_epoch(stamp) < lane.warp->epoch();
  return ordered(stamp, lane);
}

}  // namespace

void SharedShadow::reset(uint32_t bytes, int warps, int granule) {
  granule_ = granule;
  warps_ = warps;
  const size_t count = (bytes + (1u << granule) - 1) >> granule;
  pieces_.assign(count, Piece{0, 0, 0, 0});
  reads_.resize(count * warps);
  if (!atomics_.empty()) atomics_.resize(count * warps);
}

void SharedShadow::split(int granule) {
  const uint32_t parts = 1u << (granule_ - granule);
  std::vector<Piece> pieces(pieces_.size() * parts);
  for (size_t piece = 0; piece < pieces.size(); ++piece) pieces[piece] = pieces_[piece / parts];
  for (Records* const records : {&reads_, &atomics_}) {
    Records more(records->size() * parts);
    for (size_t at = 0; at < more.size(); ++at) more[at] = (*records)[at / warps_ / parts * warps_ + at % warps_];
    records->swap(more);
  }
  pieces_.swap(pieces);
  granule_ = granule;
}

SharedShadow::Span SharedShadow::pieces(uint32_t offset, uint32_t bytes) {
  if (bytes < 1u << granule_) split(__builtin_ctz(bytes));
  return {offset >> granule_, (offset + bytes) >> granule_};
}

void SharedShadow::note(const Lane& lane, uint32_t piece, bool whole_warp, uint32_t& warps, Records& records) {
  const uint32_t warp = lane.warp->index;
  const uint32_t epoch = lane.warp->epoch();
  const uint32_t own = epoch << 10 | static_cast<uint32_t>(lane.lane);
  uint32_t& record = records[piece * warps_ + warp];
  const uint32_t bit = 1u << warp;
  const bool again = (warps & bit) != 0 && record >> 10 == epoch && (record & 1023u) != (own & 1023u);
  record = whole_warp || again ? own | kSeveral : own;
  warps |= bit;
}

bool SharedShadow::check(const Lane& lane, uint32_t piece, uint32_t warps, const Records& records, Fault fault,
                         Conflict& conflict) const {
  for (; warps != 0; warps &= warps - 1) {
    const int warp = __builtin_ctz(warps);
    const uint32_t record = records[piece * warps_ + warp];
    const Stamp other = make_stamp(record >> 10, warp * 32 + static_cast<int>(record & 31u));
    const bool fine = record & kSeveral ? ordered_for_warp(other, lane) : ordered(other, lane);
    if (!fine) return report(conflict, fault, other, piece, granule_);
  }
  return true;
}

// Whether no copy is in flight, and the last plain write is ordered before this access.
bool SharedShadow::check_written(const Lane& lane, uint32_t piece, bool whole_warp, Conflict& conflict) const {
  const Piece& before = pieces_[piece];
  if (before.state & kPending) return report(conflict, Fault::kPending, before.writer, piece, granule_);
  if (before.writer == 0) return true;
  const bool fine = whole_warp ? ordered_for_warp(before.writer, lane) : ordered(before.writer, lane);
  return fine || report(conflict, Fault::kAfterWrite, before.writer, piece, granule_);
}

template <bool kWholeWarp>
bool SharedShadow::check_read(const Lane& lane, Span span, Conflict& conflict) {
  for (uint32_t at = span.begin; at < span.end; ++at) {
    Piece& piece = pieces_[at];
    if (!check_written(lane, at, kWholeWarp, conflict)) return false;
    if (piece.state == 0) return report(conflict, Fault::kUnwritten, 0, at, granule_);
    if (piece.atomics != 0 && !check(lane, at, piece.atomics, atomics_, Fault::kAfterWrite, conflict)) return false;
    note(lane, at, kWholeWarp, piece.readers, reads_);
  }
  return true;
}

bool SharedShadow::read(const Lane& lane, uint32_t offset, uint32_t bytes, Conflict& conflict) {
  return check_read<false>(lane, pieces(offset, bytes), conflict);
}

bool SharedShadow::read_warp(const Lane& lane, uint32_t offset, uint32_t bytes, Conflict& conflict) {
  return check_read<true>(lane, pieces(offset, bytes), conflict);
}

bool SharedShadow::check_write(const Lane& lane, uint32_t piece, Conflict& conflict) const {
  const Piece& before = pieces_[piece];
  return check_written(lane, piece, false, conflict) &&
         check(lane, piece, before.readers, reads_, Fault::kAfterRead, conflict) &&
         check(lane, piece, before.atomics, atomics_, Fault::kAfterWrite, conflict);
}

bool SharedShadow::write(const Lane& lane, uint32_t offset, uint32_t bytes, Conflict& conflict) {
  const Span span = pieces(offset, bytes);
  const Stamp own = stamp_of(lane);
  for (uint32_t piece = span.begin; piece < span.end; ++piece) {
    if (!check_write(lane, piece, conflict)) return false;
    pieces_[piece] = {own, 0, 0, kWritten};
  }
  return true;
}

bool SharedShadow::atomic(const Lane& lane, uint32_t offset, uint32_t bytes, Conflict& conflict) {
  const Span span = pieces(offset, bytes);
  if (atomics_.empty()) atomics_.resize(reads_.size());
  for (uint32_t at = span.begin; at < span.end; ++at) {
    Piece& piece = pieces_[at];
    if (!check_written(lane, at, false, conflict)) return false;
    if (piece.state == 0) return report(conflict, Fault::kUnwritten, 0, at, granule_);
    if (!check(lane, at, piece.readers, reads_, Fault::kAfterRead, conflict)) return false;
    note(lane, at, false, piece.atomics, atomics_);
  }
  return true;
}

bool SharedShadow::begin_copy(const Lane& lane, uint32_t offset, uint32_t bytes, Conflict& conflict) {
  const Span span = pieces(offset, bytes);
  const Stamp own = stamp_of(lane);
  for (uint32_t piece = span.begin; piece < span.end; ++piece) {
    if (!check_write(lane, piece, conflict)) return false;
    pieces_[piece] = {own, 0, 0, kPending};
  }
  return true;
}

void SharedShadow::end_copy(const Lane& lane, uint32_t offset, uint32_t bytes) {
  const Span span = pieces(offset, bytes);
  for (uint32_t piece = span.begin; piece < span.end; ++piece) pieces_[piece] = {stamp_of(lane), 0, 0, kWritten};
}

}  // namespace raggedrt::emulator
