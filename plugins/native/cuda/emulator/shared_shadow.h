// What is known of each piece of a block's shared memory: who wrote it last, who has read it since.
#pragma once

#include <stdint.h>

#include <vector>

#include "cuda/emulator/stamp.h"

namespace raggedrt::emulator {

struct Lane;

enum class Fault : uint8_t {
  kNone,
  kUnwritten,   // a read of bytes that nobody wrote
  kPending,     // bytes that an asynchronous copy may still write
  kAfterWrite,  // not ordered after another's write
  kAfterRead,   // a write not ordered after another's read
  kReadOnly,    // a write to memory that kernels only read, or a read-only load of what this launch writes
};

struct Conflict {
  Fault fault = Fault::kNone;
  Stamp other = 0;         // of the other access
  uint32_t block = 0;      // its block; 0: the same one
  uintptr_t offset = 0;    // of the piece
};

class SharedShadow {
 public:
  // Pieces are of 1 << granule bytes at first; a smaller access splits all of them.
  void reset(uint32_t bytes, int warps, int granule);
  int granule() const { return granule_; }

  // Each checks an access of `lane` to [offset, offset + bytes), notes it, and returns whether it is in order; where it
  // is not, `conflict` says why. `bytes` is a power of two and divides `offset`.
  bool read(const Lane& lane, uint32_t offset, uint32_t bytes, Conflict& conflict);
  // A read on behalf of all lanes of the warp.
  bool read_warp(const Lane& lane, uint32_t offset, uint32_t bytes, Conflict& conflict);
  bool write(const Lane& lane, uint32_t offset, uint32_t bytes, Conflict& conflict);
  bool atomic(const Lane& lane, uint32_t offset, uint32_t bytes, Conflict& conflict);
  // An asynchronous copy of this lane begins to write, and is known to have written.
  bool begin_copy(const Lane& lane, uint32_t offset, uint32_t bytes, Conflict& conflict);
  void end_copy(const Lane& lane, uint32_t offset, uint32_t bytes);

 private:
  struct Piece {
    Stamp writer;       // of the last plain write
    uint32_t readers;   // warps that have read since
    uint32_t atomics;   // warps that had atomics since
    uint8_t state;
  };
  struct Span {
    uint32_t begin;
    uint32_t end;
  };
  // [pieces, warps]: epoch << 10 | several lanes << 5 | lane of a warp's last access of a kind
  using Records = std::vector<uint32_t>;

  Span pieces(uint32_t offset, uint32_t bytes);
  void split(int granule);
  void note(const Lane& lane, uint32_t piece, bool whole_warp, uint32_t& warps, Records& records);
  bool check(const Lane& lane, uint32_t piece, uint32_t warps, const Records& records, Fault fault,
             Conflict& conflict) const;
  bool check_written(const Lane& lane, uint32_t piece, bool whole_warp, Conflict& conflict) const;
  bool check_write(const Lane& lane, uint32_t piece, Conflict& conflict) const;
  template <bool kWholeWarp>
  bool check_read(const Lane& lane, Span span, Conflict& conflict);

  int granule_ = 2;
  int warps_ = 0;
  std::vector<Piece> pieces_;
  Records reads_;    // valid for warps in `readers`
  Records atomics_;  // valid for warps in `atomics`; empty until the first one
};

}  // namespace raggedrt::emulator
