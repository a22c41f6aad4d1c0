#include "cuda/emulator/shared_shadow.h"

#include <algorithm>

#include "cuda/emulator/runtime.h"

namespace raggedrt::emulator {

namespace {

constexpr uint8_t kWritten = 1;
constexpr uint8_t kPending = 2;
constexpr uint8_t kAtomic = 4;  // last written by an atomic, possibly by several lanes at once

constexpr uint32_t kSeveral = 32;  // in a read record: by several lanes in this epoch

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
  pieces_.assign(count, Piece{0, 0, 0});
  reads_.resize(count * warps);  // what it holds is read for warps in `readers` only
}

void SharedShadow::split(int granule) {
  const uint32_t parts = 1u << (granule_ - granule);
  std::vector<Piece> pieces(pieces_.size() * parts);
  std::vector<uint32_t> reads(reads_.size() * parts);
  for (size_t piece = 0; piece < pieces.size(); ++piece) {
    pieces[piece] = pieces_[piece / parts];
    std::copy_n(&reads_[piece / parts * warps_], warps_, &reads[piece * warps_]);
  }
  pieces_.swap(pieces);
  reads_.swap(reads);
  granule_ = granule;
}

SharedShadow::Span SharedShadow::pieces(uint32_t offset, uint32_t bytes) {
  if (bytes < 1u << granule_) split(__builtin_ctz(bytes));
  return {offset >> granule_, (offset + bytes) >> granule_};
}

void SharedShadow::note_read(const Lane& lane, uint32_t piece, bool whole_warp) {
  const uint32_t warp = lane.warp->index;
  const uint32_t epoch = lane.warp->epoch();
  const uint32_t own = epoch << 10 | static_cast<uint32_t>(lane.lane);
  uint32_t& record = reads_[piece * warps_ + warp];
  const uint32_t bit = 1u << warp;
  const bool again = (pieces_[piece].readers & bit) != 0 && record >> 10 == epoch && (record & 1023u) != (own & 1023u);
  record = whole_warp || again ? own | kSeveral : own;
  pieces_[piece].readers |= bit;
}

template <bool kWholeWarp>
bool SharedShadow::check_read(const Lane& lane, Span span, Conflict& conflict) {
  for (uint32_t at = span.begin; at < span.end; ++at) {
    Piece& piece = pieces_[at];
    if (piece.state != kWritten) {
      if (piece.state & kPending) return report(conflict, Fault::kPending, piece.writer, at, granule_);
      if (!(piece.state & kWritten)) return report(conflict, Fault::kUnwritten, 0, at, granule_);
      if (!check_readers(lane, at, conflict)) {  // an atomic counts as its lane's read, too
        conflict.fault = Fault::kAfterWrite;
        return false;
      }
      piece.state = kWritten;
    }
    const bool fine = kWholeWarp ? ordered_for_warp(piece.writer, lane) : ordered(piece.writer, lane);
    if (!fine) return report(conflict, Fault::kAfterWrite, piece.writer, at, granule_);
    note_read(lane, at, kWholeWarp);
  }
  return true;
}

bool SharedShadow::read(const Lane& lane, uint32_t offset, uint32_t bytes, Conflict& conflict) {
  return check_read<false>(lane, pieces(offset, bytes), conflict);
}

bool SharedShadow::read_warp(const Lane& lane, uint32_t offset, uint32_t bytes, Conflict& conflict) {
  return check_read<true>(lane, pieces(offset, bytes), conflict);
}

bool SharedShadow::check_readers(const Lane& lane, uint32_t piece, Conflict& conflict) const {
  for (uint32_t readers = pieces_[piece].readers; readers != 0; readers &= readers - 1) {
    const int warp = __builtin_ctz(readers);
    const uint32_t record = reads_[piece * warps_ + warp];
    const Stamp reader = make_stamp(record >> 10, warp * 32 + static_cast<int>(record & 31u));
    const bool fine = record & kSeveral ? ordered_for_warp(reader, lane) : ordered(reader, lane);
    if (!fine) return report(conflict, Fault::kAfterRead, reader, piece, granule_);
  }
  return true;
}

bool SharedShadow::check_write(const Lane& lane, uint32_t piece, Conflict& conflict) const {
  const Piece& before = pieces_[piece];
  if (before.state & kPending) return report(conflict, Fault::kPending, before.writer, piece, granule_);
  if (before.writer != 0 && !ordered(before.writer, lane)) {
    return report(conflict, Fault::kAfterWrite, before.writer, piece, granule_);
  }
  return before.readers == 0 || check_readers(lane, piece, conflict);
}

bool SharedShadow::write(const Lane& lane, uint32_t offset, uint32_t bytes, Conflict& conflict) {
  const Span span = pieces(offset, bytes);
  const Stamp own = stamp_of(lane);
  for (uint32_t piece = span.begin; piece < span.end; ++piece) {
    if (!check_write(lane, piece, conflict)) return false;
    pieces_[piece] = {own, 0, kWritten};
  }
  return true;
}

bool SharedShadow::atomic(const Lane& lane, uint32_t offset, uint32_t bytes, Conflict& conflict) {
  const Span span = pieces(offset, bytes);
  for (uint32_t at = span.begin; at < span.end; ++at) {
    Piece& piece = pieces_[at];
    if (!(piece.state & (kWritten | kPending))) return report(conflict, Fault::kUnwritten, 0, at, granule_);
    if (!(piece.state & kAtomic) && !check_write(lane, at, conflict)) return false;
    piece.writer = stamp_of(lane);
    piece.state = kWritten | kAtomic;
    note_read(lane, at, false);
  }
  return true;
}

bool SharedShadow::begin_copy(const Lane& lane, uint32_t offset, uint32_t bytes, Conflict& conflict) {
  const Span span = pieces(offset, bytes);
  const Stamp own = stamp_of(lane);
  for (uint32_t piece = span.begin; piece < span.end; ++piece) {
    if (!check_write(lane, piece, conflict)) return false;
    pieces_[piece] = {own, 0, kPending};
  }
  return true;
}

void SharedShadow::end_copy(const Lane& lane, uint32_t offset, uint32_t bytes) {
  const Span span = pieces(offset, bytes);
  for (uint32_t piece = span.begin; piece < span.end; ++piece) pieces_[piece] = {stamp_of(lane), 0, kWritten};
}

}  // namespace raggedrt::emulator
