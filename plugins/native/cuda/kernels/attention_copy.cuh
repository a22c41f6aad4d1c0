// Rows of 16-bit elements in shared memory, and the copies that bring them there.
//
// Rows lie end to end; the 16-byte vectors of a row are permuted by its number, so that the eight rows of an 8x8 matrix,
// which ldmatrix reads at once, lie in different banks whatever the row length.
#pragma once

#include "cuda/kernels/attention_config.cuh"

namespace raggedrt::device {
namespace {

RAGGEDRT_DEVICE int vector_offset(int row, int vector) {
  if constexpr (kRowBytes % 128 == 0) return row * kRowBytes + (vector ^ (row & 7)) * 16;
  if constexpr (kRowBytes % 64 == 0) return row * kRowBytes + (vector ^ ((row >> 1) & 3)) * 16;
  return row * kRowBytes + (vector ^ ((row >> 2) & 1)) * 16;
}

// Where this lane points ldmatrix in 16 rows: matrices are rows 0-7 and 8-15 of the left eight columns, then of the
// right. Rows further down by a multiple of 16 lie at that many times kRowBytes.
struct FragmentOffsets {
  int slice[kSlices];

  RAGGEDRT_DEVICE FragmentOffsets() {
    const int lane = lane_index();
    RAGGEDRT_UNROLL
    for (int i = 0; i < kSlices; ++i) slice[i] = vector_offset(lane & 15, 2 * i + (lane >> 4));
  }
};

// Copies the item's queries; rows past the last become zeros.
RAGGEDRT_DEVICE void copy_queries(const AttentionParams& params, const Item& item) {
  const int64_t stride = int64_t{params.num_heads} * kHeadSize;
  const Element* from = static_cast<const Element*>(params.query) + item.first_query * stride + item.head * kHeadSize;
  char* to = shared_memory() + kQueryOffset;
  for (int i = thread_index(); i < kRows * kVectors; i += kThreads) {
    const int row = i / kVectors;
    const int vector = i - row * kVectors;
    copy_async_16(to + vector_offset(row, vector), from + row * stride + vector * 8, row < item.rows);
  }
}

// Copies the keys and values of a tile: its row r is key index(r) of the sequence. Rows that are no key become zeros:
// what lies there belongs to another sequence and may be anything, and zero times that must be zero.
template <typename Index>
RAGGEDRT_DEVICE void copy_keys(const AttentionParams& params, const Item& item, const Stage& stage, const Index& index) {
  const int64_t stride = int64_t{params.kv_num_heads} * kHeadSize;
  const int64_t origin = item.first_key * stride + item.kv_head * kHeadSize;
  const Element* keys = static_cast<const Element*>(params.key) + origin;
  const Element* values = static_cast<const Element*>(params.value) + origin;
  constexpr int kCopies = kKeys * kVectors;
  static_assert(kCopies % kThreads == 0, "every thread copies as much: index() is a warp collective");
  RAGGEDRT_UNROLL
  for (int step = 0; step < kCopies / kThreads; ++step) {
    const int i = step * kThreads + thread_index();
    const int row = i / kVectors;
    const int vector = i - row * kVectors;
    const int key = index(row);
    const bool valid = key >= 0 && key < item.keys;
    const int64_t offset = key * stride + vector * 8;
    copy_async_16(stage.keys + vector_offset(row, vector), keys + offset, valid);
    copy_async_16(stage.values + vector_offset(row, vector), values + offset, valid);
  }
}

}  // namespace
}  // namespace raggedrt::device
