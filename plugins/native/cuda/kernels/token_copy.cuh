// Copies of token rows between padded and packed tensors, in vectors of RAGGEDRT_VECTOR_BYTES.
//
// Every vector of the target is written once, by neighbouring threads in order, whatever the size of a row. Bytes
// moved: pack reads and writes tokens * row_bytes and 4 per token, the least. Unpack reads tokens * row_bytes, writes
// slots * row_bytes, the least, and 12 per slot for finding the token: 1 % of a row of 1536 bytes.
//
// Unpack goes by slots, not by tokens, so that no slot is written twice; token_index need not ascend.
#pragma once

#include "cuda/device/device.h"
#include "cuda/kernels/data_params.h"

#ifndef RAGGEDRT_VECTOR_BYTES
#define RAGGEDRT_VECTOR_BYTES 16
#endif

namespace raggedrt::device::copy {
namespace {  // several variants may end up in one program, and each has its own vectors

using cuda::TokenCopyParams;

template <int kBytes>
struct VectorOf;
template <>
struct VectorOf<1> {
  using Type = uint8_t;
};
template <>
struct VectorOf<2> {
  using Type = uint16_t;
};
template <>
struct VectorOf<4> {
  using Type = uint32_t;
};
template <>
struct VectorOf<8> {
  using Type = Vec8;
};
template <>
struct VectorOf<16> {
  using Type = Vec16;
};
using Vector = VectorOf<RAGGEDRT_VECTOR_BYTES>::Type;

constexpr int kUnroll = 4;  // vectors of a thread in flight

// Fills `rows` rows of the target; source_row(row) is the row of the source, negative for zeros.
template <typename SourceRow>
RAGGEDRT_DEVICE void copy_rows(const TokenCopyParams& params, int rows, const SourceRow& source_row) {
  const Vector* source = static_cast<const Vector*>(params.source);
  Vector* target = static_cast<Vector*>(params.target);
  const uint32_t per_row = static_cast<uint32_t>(params.row_bytes / RAGGEDRT_VECTOR_BYTES);
  const long long vectors = static_cast<long long>(rows) * per_row;
  const int per_block = block_threads() * kUnroll;
  const long long stride = static_cast<long long>(grid_size_x()) * per_block;
  for (long long base = static_cast<long long>(block_index_x()) * per_block; base < vectors; base += stride) {
    // One long division per pass; within it 32 bits are enough.
    const long long first_row = base / per_row;
    const uint32_t first_column = static_cast<uint32_t>(base - first_row * per_row);
    Vector values[kUnroll];
    RAGGEDRT_UNROLL
    for (int i = 0; i < kUnroll; ++i) {
      const uint32_t offset = static_cast<uint32_t>(thread_index() + i * block_threads());
      values[i] = Vector{};
      if (base + offset >= vectors) continue;
      const uint32_t column = first_column + offset;
      const int from = source_row(static_cast<int>(first_row) + static_cast<int>(column / per_row));
      if (from < 0) continue;
      values[i] = load_global_readonly(source + static_cast<long long>(from) * per_row + column % per_row);
    }
    RAGGEDRT_UNROLL
    for (int i = 0; i < kUnroll; ++i) {
      const long long at = base + thread_index() + i * block_threads();
      if (at < vectors) store_global(target + at, values[i]);
    }
  }
}

RAGGEDRT_DEVICE void pack(const TokenCopyParams& params) {
  copy_rows(params, params.tokens, [&](int token) {
    const int slot = load_global_readonly(params.token_index + token);
    return slot < params.slots ? slot : -1;
  });
}

// The slot of a token; -1 where it has none.
RAGGEDRT_DEVICE int slot_of(const TokenCopyParams& params, int token) {
  if (params.key_position != nullptr && load_global_readonly(params.key_position + token) < 0) return -1;
  const int slot = load_global_readonly(params.token_index + token);
  return slot < params.slots ? slot : -1;
}

RAGGEDRT_DEVICE void invert(const TokenCopyParams& params) {
  for (int token = block_index_x() * block_threads() + thread_index(); token < params.tokens;
       token += grid_size_x() * block_threads()) {
    const int slot = slot_of(params, token);
    if (slot >= 0) store_global(params.token_of_slot + slot, token + 1);
  }
}

RAGGEDRT_DEVICE void unpack(const TokenCopyParams& params) {
  copy_rows(params, params.slots, [&](int slot) { return load_global_readonly(params.token_of_slot + slot) - 1; });
}

}  // namespace
}  // namespace raggedrt::device::copy
