// Attention by rows: a warp takes a few rows (queries times the heads that share a key/value head) and walks their keys
// 32 at a time, one key per lane; values are summed by column. Arithmetic is in float on ordinary cores, so it serves
// every shape and type of the definition: what the tensor-core kernels do not take, and rows so short that several
// sequences share a block.
//
// Bytes moved: queries and outputs once, keys and values once per row_tile(...) rows (from the first-level cache where
// warps of a block work on one sequence). The least is keys and values once.
#pragma once

#include "cuda/kernels/row_mask.cuh"
#include "cuda/kernels/row_scores.cuh"

namespace raggedrt::device::row {
namespace {

constexpr int kColumns = kLargestHead / 32;  // of the values, per lane
constexpr int kChunk = cuda::kRowChunkBytes / static_cast<int>(sizeof(Element));  // elements of a key in shared memory
constexpr int kWarpBytes = cuda::row_warp_bytes(kLargestHead);
constexpr int kVector = 16 / static_cast<int>(sizeof(Element));

template <int kBytes>
struct alignas(kBytes) Elements {
  Element value[kBytes / sizeof(Element)];
};
struct alignas(kRows * 4) Weights {
  float value[kRows];
};

// Shared memory of one warp.
struct Buffers {
  char* keys;        // [32, kKeyStride]
  float* queries;    // [kRows, kLargestHead], scaled
  Weights* weights;  // [32 keys]
};

RAGGEDRT_DEVICE Buffers buffers_of_warp() {
  char* base = shared_memory() + warp_index() * kWarpBytes;
  float* queries = reinterpret_cast<float*>(base + 32 * kKeyStride);
  return {base, queries, reinterpret_cast<Weights*>(queries + kRows * kLargestHead)};
}

RAGGEDRT_DEVICE bool aligned(const void* pointer, long long row_elements, int bytes) {
  const uintptr_t bits = reinterpret_cast<uintptr_t>(pointer) | static_cast<uintptr_t>(row_elements) * sizeof(Element);
  return bits % static_cast<unsigned>(bytes) == 0;
}

// ---- Scores --------------------------------------------------------------------------------------------------------

RAGGEDRT_DEVICE void load_queries(const AttentionParams& params, const Segment& segment, const Buffers& buffers) {
  const float scale = params.scale * (params.scores.softcap > 0.0f ? 1.0f : kLog2E);
  const Element* query = static_cast<const Element*>(params.query);
  for (int r = 0; r < segment.rows; ++r) {
    const RowPlace place = place_of(params, segment, r);
    const long long at = (static_cast<long long>(place.token) * params.num_heads + place.head) * params.head_size;
    for (int i = lane_index(); i < params.head_size; i += 32) {
      store_shared(buffers.queries + r * kLargestHead + i, to_float(load_global_readonly(query + at + i)) * scale);
    }
  }
  for (int r = segment.rows; r < kRows; ++r) {
    for (int i = lane_index(); i < params.head_size; i += 32) {
      store_shared(buffers.queries + r * kLargestHead + i, 0.0f);
    }
  }
}

// Brings elements [first, first + count) of 32 keys into shared memory, zeros past the last key.
template <bool kWide>
RAGGEDRT_DEVICE void stage_keys(const AttentionParams& params, const Segment& segment, const Buffers& buffers, int base,
                                int first, int count) {
  constexpr int kPiece = kWide ? kVector : 1;
  using Piece = Elements<kPiece * static_cast<int>(sizeof(Element))>;
  const int per_key = count / kPiece;
  const long long stride = static_cast<long long>(params.kv_num_heads) * params.head_size;
  const Element* keys = static_cast<const Element*>(params.key) + (segment.first_key + base) * stride +
                        static_cast<long long>(segment.kv_head) * params.head_size + first;
  for (int i = lane_index(); i < 32 * per_key; i += 32) {
    const int key = i / per_key;
    const int piece = i - key * per_key;
    Piece value = {};
    if (base + key < segment.keys) {
      value = load_global_readonly(reinterpret_cast<const Piece*>(keys + key * stride + piece * kPiece));
    }
    store_shared(reinterpret_cast<Piece*>(buffers.keys + key * kKeyStride) + piece, value);
  }
}

// Adds products of elements [first, first + count) of the lane's key with all queries.
template <bool kWide>
RAGGEDRT_DEVICE void add_products(const Buffers& buffers, int first, int count, float (&scores)[kRows]) {
  constexpr int kPiece = kWide ? kVector : 1;
  using Piece = Elements<kPiece * static_cast<int>(sizeof(Element))>;
  const Piece* keys = reinterpret_cast<const Piece*>(buffers.keys + lane_index() * kKeyStride);
  for (int at = 0; at < count; at += kPiece) {
    const Piece key = load_shared(keys + at / kPiece);
    RAGGEDRT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const float* query = buffers.queries + r * kLargestHead + first + at;
      if constexpr (kWide) {
        RAGGEDRT_UNROLL
        for (int i = 0; i < kPiece; i += 4) {
          const Vec16 part = load_shared(reinterpret_cast<const Vec16*>(query + i));
          RAGGEDRT_UNROLL
          for (int j = 0; j < 4; ++j) {
            scores[r] = fused_multiply_add(to_float(key.value[i + j]), bits_to_float(part.word[j]), scores[r]);
          }
        }
      } else {
        scores[r] = fused_multiply_add(to_float(key.value[0]), load_shared(query), scores[r]);
      }
    }
  }
}

// Products of the queries with keys base … base + 31, one per lane.
template <bool kWide>
RAGGEDRT_DEVICE void products(const AttentionParams& params, const Segment& segment, const Buffers& buffers, int base,
                              float (&scores)[kRows]) {
  RAGGEDRT_UNROLL
  for (int r = 0; r < kRows; ++r) scores[r] = 0.0f;
  for (int first = 0; first < params.head_size; first += kChunk) {
    const int count = minimum(kChunk, params.head_size - first);
    sync_warp();  // the last keys have been read
    stage_keys<kWide>(params, segment, buffers, base, first, count);
    sync_warp();
    add_products<kWide>(buffers, first, count, scores);
  }
}

// ---- Values --------------------------------------------------------------------------------------------------------

// The lane's columns of one value row.
template <bool kWide>
RAGGEDRT_DEVICE void load_columns(const Element* value, int columns, float (&result)[kColumns]) {
  const int first = lane_index() * kColumns;
  RAGGEDRT_UNROLL
  for (int i = 0; i < kColumns; ++i) result[i] = 0.0f;
  if constexpr (kWide) {
    constexpr int kBytes = kColumns * static_cast<int>(sizeof(Element));
    constexpr int kPiece = (kBytes < 16 ? kBytes : 16) / static_cast<int>(sizeof(Element));
    using Piece = Elements<kPiece * static_cast<int>(sizeof(Element))>;
    if (first >= columns) return;
    RAGGEDRT_UNROLL
    for (int i = 0; i < kColumns; i += kPiece) {
      const Piece piece = load_global_readonly(reinterpret_cast<const Piece*>(value + first + i));
      RAGGEDRT_UNROLL
      for (int j = 0; j < kPiece; ++j) result[i + j] = to_float(piece.value[j]);
    }
  } else {
    RAGGEDRT_UNROLL
    for (int i = 0; i < kColumns; ++i) {
      if (first + i < columns) result[i] = to_float(load_global_readonly(value + first + i));
    }
  }
}

// Adds the values of keys base … base + 31 that some row sees, by the weights in shared memory.
template <bool kWide>
RAGGEDRT_DEVICE void add_values(const AttentionParams& params, const Segment& segment, const Buffers& buffers, int base,
                                uint32_t seen, float (&outputs)[kRows][kColumns]) {
  constexpr int kAhead = 4;  // loads in flight
  const long long stride = static_cast<long long>(params.kv_num_heads) * params.value_head_size;
  const Element* values = static_cast<const Element*>(params.value) + (segment.first_key + base) * stride +
                          static_cast<long long>(segment.kv_head) * params.value_head_size;
  for (int first = 0; first < 32; first += kAhead) {
    if ((seen >> first & ((1u << kAhead) - 1)) == 0) continue;
    float columns[kAhead][kColumns];
    RAGGEDRT_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      // A hidden key may hold anything, and its weight 0 would not keep an infinity out.
      const bool used = (seen >> (first + i) & 1) != 0;
      load_columns<kWide>(values + (first + i) * stride, used ? params.value_head_size : 0, columns[i]);
    }
    RAGGEDRT_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      const Weights weights = load_shared(buffers.weights + first + i);
      RAGGEDRT_UNROLL
      for (int r = 0; r < kRows; ++r) {
        RAGGEDRT_UNROLL
        for (int c = 0; c < kColumns; ++c) {
          outputs[r][c] = fused_multiply_add(weights.value[r], columns[i][c], outputs[r][c]);
        }
      }
    }
  }
}

// ---- Rows ----------------------------------------------------------------------------------------------------------

struct Totals {
  float top[kRows];  // largest score so far, -inf: none
  float sum[kRows];  // of this lane's weights against it
  float outputs[kRows][kColumns];
};

RAGGEDRT_DEVICE float warp_maximum(float value) {
  RAGGEDRT_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) {
    const float other = shuffle_xor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}

// Turns scores into weights against the largest score so far, and what was summed before along with it.
RAGGEDRT_DEVICE Weights weigh(const float (&scores)[kRows], const bool (&visible)[kRows], Totals& totals) {
  Weights weights;
  RAGGEDRT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const bool counts = visible[r] && scores[r] > -infinity();  // a NaN is no maximum, but spreads
    const float top = warp_maximum(counts && scores[r] > totals.top[r] ? scores[r] : totals.top[r]);
    const float against = top > -infinity() ? top : 0.0f;
    const float shrink = totals.top[r] > -infinity() ? exp2_approx(totals.top[r] - against) : 0.0f;
    weights.value[r] = visible[r] ? exp2_approx(scores[r] - against) : 0.0f;
    totals.sum[r] = fused_multiply_add(totals.sum[r], shrink, weights.value[r]);
    totals.top[r] = top;
    RAGGEDRT_UNROLL
    for (int c = 0; c < kColumns; ++c) totals.outputs[r][c] *= shrink;
  }
  return weights;
}

RAGGEDRT_DEVICE float warp_total(float value) {
  RAGGEDRT_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}

RAGGEDRT_DEVICE void write_row(const AttentionParams& params, const RowPlace& place, const float (&output)[kColumns],
                               float factor, float lse) {
  Element* target = static_cast<Element*>(params.output) +
                    (static_cast<long long>(place.token) * params.num_heads + place.head) * params.value_head_size;
  RAGGEDRT_UNROLL
  for (int c = 0; c < kColumns; ++c) {
    const int column = lane_index() * kColumns + c;
    if (column < params.value_head_size) store_global(target + column, from_float<Element>(output[c] * factor));
  }
  if (params.lse != nullptr && lane_index() == 0) {
    store_global(params.lse + static_cast<long long>(place.head) * params.total_q + place.token, lse);
  }
}

RAGGEDRT_DEVICE void write_rows(const AttentionParams& params, const Segment& segment, Totals& totals) {
  RAGGEDRT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    float sum = warp_total(totals.sum[r]);
    if (r >= segment.rows) continue;
    const RowPlace place = place_of(params, segment, r);
    float top = totals.top[r];
    float factor = 1.0f;
    const bool seen = top > -infinity() || !(sum == sum);
    if (params.scores.head_sink != nullptr && top > -infinity()) {
      const float sink = load_global_readonly(params.scores.head_sink + place.head) * kLog2E;
      const float higher = maximum(top, sink);
      factor = exp2_approx(top - higher);
      sum = fused_multiply_add(sum, factor, exp2_approx(sink - higher));
      top = higher;
    }
    if (!seen) {
      RAGGEDRT_UNROLL
      for (int c = 0; c < kColumns; ++c) totals.outputs[r][c] = 0.0f;
    }
    const float lse = seen ? (top + log2_approx(sum)) * kLn2 : -infinity();
    write_row(params, place, totals.outputs[r], seen ? factor / sum : 0.0f, lse);
  }
}

// Attention of a segment's rows. kWide: rows of keys and values are read in vectors.
template <bool kWide>
RAGGEDRT_DEVICE void attend_segment(const AttentionParams& params, const Segment& segment) {
  const Buffers buffers = buffers_of_warp();
  Totals totals;
  RAGGEDRT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    totals.top[r] = -infinity();
    totals.sum[r] = 0.0f;
    RAGGEDRT_UNROLL
    for (int c = 0; c < kColumns; ++c) totals.outputs[r][c] = 0.0f;
  }
  sync_warp();  // what the last segment left in shared memory has been read
  load_queries(params, segment, buffers);
  if (lane_index() < segment.rows) store_mask(buffers.keys, lane_index(), mask_of(params, segment, lane_index()));
  sync_warp();
  const KeyRange range = key_range(params, segment, buffers.keys);
  for (int base = range.first; base < range.end; base += 32) {
    const KeyPlace key = key_at(params, segment, base + lane_index());
    bool visible[kRows];
    uint32_t seen = 0;
    RAGGEDRT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      visible[r] = r < segment.rows && sees(params, load_mask(buffers.keys, r), key);
      seen |= ballot(visible[r]);
    }
    if (seen == 0) continue;
    float scores[kRows];
    products<kWide>(params, segment, buffers, base, scores);
    RAGGEDRT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      if (visible[r]) scores[r] = modified(params, segment, load_mask(buffers.keys, r), key, scores[r]);
      if (scores[r] == -infinity()) visible[r] = false;  // a bias hides, too
    }
    const Weights weights = weigh(scores, visible, totals);
    store_shared(buffers.weights + lane_index(), weights);
    sync_warp();
    add_values<kWide>(params, segment, buffers, base, seen, totals.outputs);  // products() waits before new weights
  }
  write_rows(params, segment, totals);
}

RAGGEDRT_DEVICE void write_nothing(const AttentionParams& params, const Segment& segment) {
  float zeros[kColumns];
  RAGGEDRT_UNROLL
  for (int c = 0; c < kColumns; ++c) zeros[c] = 0.0f;
  for (int r = 0; r < segment.rows; ++r) write_row(params, place_of(params, segment, r), zeros, 0.0f, -infinity());
}

RAGGEDRT_DEVICE void attend(const AttentionParams& params) {
  const int column_bytes = minimum(16, kColumns * static_cast<int>(sizeof(Element)));
  const bool wide = aligned(params.key, params.head_size, 16) && params.value_head_size % kColumns == 0 &&
                    aligned(params.value, params.value_head_size, column_bytes);
  const long long heads = params.num_heads / params.kv_num_heads;
  const long long rows = params.total_q * heads;
  const long long first = (static_cast<long long>(block_index_x()) * cuda::kRowWarps + warp_index()) * kRows;
  const long long end = minimum(rows, first + kRows);
  for (long long at = first; at < end;) {
    const Segment segment = segment_at(params, at, end);
    if (segment.sequence < 0) {
      write_nothing(params, segment);
    } else if (wide) {
      attend_segment<true>(params, segment);
    } else {
      attend_segment<false>(params, segment);
    }
    at += segment.rows;
  }
}

}  // namespace
}  // namespace raggedrt::device::row
