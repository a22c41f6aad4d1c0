// Rows of 16-bit elements in shared memory, and the copies that bring them there.
//
// Rows lie end to end; the 16-byte vectors of a row are permuted by its number, so that the eight rows of an 8x8 matrix,
// which ldmatrix reads at once, lie in different banks whatever the row length.
#pragma once

#include "cuda/kernels/attention_config.cuh"

namespace raggedrt::device {
namespace {

constexpr int kSwizzled = kRowBytes % 128 == 0 ? 8 : kRowBytes % 64 == 0 ? 4 : 2;  // vectors that change places
constexpr int kRowsPerSwizzle = 8 / kSwizzled;

RAGGEDRT_DEVICE int vector_offset(int row, int vector) {
  return row * kRowBytes + (vector ^ (row / kRowsPerSwizzle % kSwizzled)) * 16;
}

// Where a lane points ldmatrix in 16 rows, for each slice of 16 columns. Rows further down by a multiple of 16 lie at
// that many times kRowBytes.
class FragmentOffsets {
 public:
  // In which order a lane's group of eight gets the four 8x8 matrices: those of eight rows, or of eight columns, first.
  enum Order { kRowsFirst, kColumnsFirst };

  RAGGEDRT_DEVICE FragmentOffsets(int lane, Order order) {
    const int row_half = order == kRowsFirst ? lane / 16 : lane / 8 % 2;
    const int column_half = order == kRowsFirst ? lane / 8 % 2 : lane / 16;
    first_ = vector_offset(lane % 8 + 8 * row_half, column_half);
  }
  RAGGEDRT_DEVICE int slice(int number) const {
    constexpr int kPeriod = kSwizzled / 2;  // slices that change places with each other
    return (first_ ^ (32 * (number % kPeriod))) + 32 * kPeriod * (number / kPeriod);
  }

 private:
  int first_;
};

// The 16-byte vector of a tile that this thread copies in one step.
struct Place {
  int row;
  int vector;

  RAGGEDRT_DEVICE Place(const Item& item, int step) {
    const int thread = warp_index() * 32 + item.lane;
    if constexpr (kThreads % kVectors == 0) {  // then only the row depends on the step
      row = step * (kThreads / kVectors) + thread / kVectors;
      vector = thread % kVectors;
    } else {
      row = (step * kThreads + thread) / kVectors;
      vector = (step * kThreads + thread) % kVectors;
    }
  }
  RAGGEDRT_DEVICE int shared_offset() const { return vector_offset(row, vector); }
};

// Copies the item's queries; rows past the last become zeros.
RAGGEDRT_DEVICE void copy_queries(const AttentionParams& params, const Item& item) {
  const int stride = params.num_heads * kRowBytes;
  const char* from = static_cast<const char*>(params.query) + int64_t{item.first_query} * stride + item.head * kRowBytes;
  constexpr int kSteps = kRows * kVectors / kThreads;
  static_assert(kSteps * kThreads == kRows * kVectors, "every thread copies as much");
  RAGGEDRT_UNROLL
  for (int step = 0; step < kSteps; ++step) {
    const Place place(item, step);
    const unsigned offset = static_cast<unsigned>(place.row * stride + place.vector * 16);
    copy_async_16(shared_memory() + kQueryOffset + place.shared_offset(), from + offset, place.row < item.rows);
  }
}

constexpr int kCopySteps = kKeys * kVectors / kThreads;
static_assert(kCopySteps * kThreads == kKeys * kVectors, "every thread copies as much");

// Copies the keys and values of a tile that begins with key `first` of the sequence. Rows that are no key become zeros:
// what lies there belongs to another sequence and may be anything, and zero times that must be zero.
RAGGEDRT_DEVICE void copy_keys(const AttentionParams& params, const Item& item, const Stage& stage, int first) {
  const int stride = params.kv_num_heads * kRowBytes;
  const int token = item.first_key + first;
  const int left = item.keys - first;
  RAGGEDRT_UNROLL
  for (int step = 0; step < kCopySteps; ++step) {
    const Place place(item, step);
    const int64_t row = int64_t{token + place.row} * stride;
    const int column = item.kv_head * kRowBytes + place.vector * 16;
    const bool valid = place.row < left;
    copy_async_16(stage.keys + place.shared_offset(), static_cast<const char*>(params.key) + column + row, valid);
    copy_async_16(stage.values + place.shared_offset(), static_cast<const char*>(params.value) + column + row, valid);
  }
}

// Likewise, of a tile whose row r is key index(r); index is a warp collective.
template <typename Index>
RAGGEDRT_DEVICE void gather_keys(const AttentionParams& params, const Item& item, const Stage& stage,
                                 const Index& index) {
  const int stride = params.kv_num_heads * kRowBytes;
  const int64_t origin = int64_t{item.first_key} * stride + item.kv_head * kRowBytes;
  const char* keys = static_cast<const char*>(params.key) + origin;
  const char* values = static_cast<const char*>(params.value) + origin;
  RAGGEDRT_UNROLL
  for (int step = 0; step < kCopySteps; ++step) {
    const Place place(item, step);
    const int key = index(place.row);
    const bool valid = static_cast<unsigned>(key) < static_cast<unsigned>(item.keys);
    const int64_t offset = int64_t{valid ? key : 0} * stride + place.vector * 16;
    copy_async_16(stage.keys + place.shared_offset(), keys + offset, valid);
    copy_async_16(stage.values + place.shared_offset(), values + offset, valid);
  }
}

}  // namespace
}  // namespace raggedrt::device
