// Attention of one query tile: online softmax over the key tiles that it visits.
//
// Scores are kept in units of log2: the query is scaled by scale * log2(e), so that the exponential is a power of two.
#pragma once

#include "cpu/simd/multiply.h"
#include "cpu/simd/convert.h"
#include "cpu/tile.h"

namespace raggedrt {
namespace RAGGEDRT_ISA {

constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kLn2 = 0.69314718055994530942f;
constexpr int kRowBlock = 12;  // query rows between the two products: their scores never leave the nearest cache
constexpr int kBlockLanes = (kRowBlock + kWidth - 1) / kWidth * kWidth;

// Running softmax of a query tile.
struct SoftmaxState {
  alignas(64) float maximum[kQueryTile + kBlockLanes - kRowBlock];  // of the scores so far; whole vectors per row block
  Vec sum[kQueryTile];                                              // of the exponentials, by lane
};

struct RowBlock {
  int first;
  int count;
  int keys;  // past the last key that any of these rows sees in the tile
};

RAGGEDRT_INLINE void scale_row(float* row, int vectors, float factor) {
  for (int v = 0; v < vectors; ++v) store(row + v * kWidth, load(row + v * kWidth) * factor);
}

// The highest score of a row of `vectors` vectors; with kMasked hidden scores become -inf first.
template <bool kMasked>
RAGGEDRT_INLINE float row_maximum(float* line, int vectors, uint64_t bits) {
  const Vec minus_infinity = splat(-__builtin_inff());
  Vec highest = minus_infinity;
  for (int v = 0; v < vectors; ++v) {
    Vec score = load(line + v * kWidth);
    if constexpr (kMasked) {
      score = select_bits(static_cast<uint32_t>(bits >> (v * kWidth)), score, minus_infinity);
      store(line + v * kWidth, score);
    }
    highest = max(highest, score);
  }
  return horizontal_max(highest);
}

// Raises the rows' maxima to those of a tile and rescales what was summed under the old ones.
//
// All rows of the block or none: which rows rise is unpredictable, so a branch per row costs more than it saves.
static void raise_maxima(const RowBlock& block, const float* maxima, SoftmaxState& state, float* output,
                         int output_vectors) {
  alignas(64) float factors[kBlockLanes];
  bool risen = false;
  RAGGEDRT_UNROLL
  for (int lane = 0; lane < kBlockLanes; lane += kWidth) {
    float* maximum = state.maximum + block.first + lane;
    const Vec before = load(maximum);
    const Vec after = max(load(maxima + lane), before);
    // From -inf the factor is 0, which wipes what was summed while the row had seen no key.
    store(factors + lane, after == before ? splat(1.0f) : exp2_of_negative(before - after));
    store(maximum, after);
    risen |= any_differs(before, after);
  }
  if (!risen) return;
  for (int r = 0; r < block.count; ++r) {
    const int row = block.first + r;
    state.sum[row] *= factors[r];
    scale_row(output + row * output_vectors * kWidth, output_vectors, factors[r]);
  }
}

// scores[row] -> 2^(scores[row] - maximum), updating maximum, sum and the output so far.
//
// Two passes over the rows, maxima first: within a pass rows are independent, so that their latencies overlap.
template <bool kMasked>
static void softmax_rows(const RowBlock& block, const uint64_t* row_bits, float* scores, SoftmaxState& state,
                         float* output, int output_vectors) {
  const int vectors = (block.keys + kWidth - 1) / kWidth;
  alignas(64) float maxima[kBlockLanes];
  RAGGEDRT_UNROLL
  for (int lane = 0; lane < kBlockLanes; ++lane) maxima[lane] = -__builtin_inff();
  for (int r = 0; r < block.count; ++r) {
    maxima[r] = row_maximum<kMasked>(scores + r * kKeyTile, vectors, kMasked ? row_bits[block.first + r] : 0);
  }
  raise_maxima(block, maxima, state, output, output_vectors);
  for (int r = 0; r < block.count; ++r) {
    const int row = block.first + r;
    float* line = scores + r * kKeyTile;
    // A row that has seen no key keeps -inf.
    const float maximum = state.maximum[row];
    const Vec subtract = splat(maximum == -__builtin_inff() ? 0.0f : maximum);
    Vec sum = state.sum[row];
    for (int v = 0; v < vectors; ++v) {
      const Vec power = exp2_of_negative(load(line + v * kWidth) - subtract);
      store(line + v * kWidth, power);
      sum += power;
    }
    state.sum[row] = sum;
  }
}

// One row block against one key tile. What changes scores (bias, soft cap, slopes) belongs between the first product
// and the softmax, in units of log2; a sink is one more term of the sum when the tile list is done.
static void visit_tile(const RowBlock& block, const uint64_t* row_bits, int head_size, const float* query,
                       const float* keys, const float* values, int64_t value_stride, SoftmaxState& state,
                       float* output, int output_vectors) {
  alignas(64) float scores[kRowBlock * kKeyTile];
  const int vectors = (block.keys + kWidth - 1) / kWidth;
  multiply<kQueryStride, false>(block.count, vectors, head_size, query + block.first * kQueryStride, keys, kKeyTile,
                                scores, kKeyTile);
  if (row_bits != nullptr) {
    softmax_rows<true>(block, row_bits, scores, state, output, output_vectors);
  } else {
    softmax_rows<false>(block, row_bits, scores, state, output, output_vectors);
  }
  multiply<kKeyTile, true>(block.count, output_vectors, block.keys, scores, values, value_stride,
                           output + block.first * output_vectors * kWidth, output_vectors * kWidth);
}

// Keys up to the last one that any of the rows sees.
RAGGEDRT_INLINE int visible_keys(const uint64_t* row_bits, int first, int count) {
  uint64_t any = 0;
  for (int row = first; row < first + count; ++row) any |= row_bits[row];
  return any == 0 ? 0 : 64 - __builtin_clzll(any);
}

RAGGEDRT_INLINE void write_tile(const AttentionShape& shape, const QueryRows& rows, const SoftmaxState& state,
                                const float* sums, int stride, void* output, float* lse) {
  for (int row = 0; row < rows.count; ++row) {
    const bool empty = state.maximum[row] == -__builtin_inff();
    const float sum = horizontal_sum(state.sum[row]);
    write_row(shape.element, sums + row * stride, shape.value_head_size, empty ? 0.0f : 1.0f / sum, output,
              rows.index[row] * shape.value_head_size);
    if (lse != nullptr) {
      const int64_t token = rows.index[row] / shape.num_heads;
      const int64_t head = rows.index[row] % shape.num_heads;
      lse[head * shape.total_q + token] =
          empty ? -__builtin_inff() : (state.maximum[row] + __builtin_log2f(sum)) * kLn2;
    }
  }
}

// Asks for the cache lines that write_tile will store to, while there is still work to hide their latency.
RAGGEDRT_INLINE void prefetch_output(const AttentionShape& shape, const QueryRows& rows, void* output) {
  const int64_t row_bytes = static_cast<int64_t>(element_size(shape.element)) * shape.value_head_size;
  for (int row = 0; row < rows.count; ++row) {
    const char* line = static_cast<const char*>(output) + rows.index[row] * row_bytes;
    for (int64_t byte = 0; byte < row_bytes; byte += 64) __builtin_prefetch(line + byte, 1);
  }
}

static void attend(const AttentionShape& shape, const QueryRows& rows, const void* query,
                   const KeyValuePanels& panels, const TileMask& mask, const TileScratch& scratch, void* output,
                   float* lse) {
  const int output_vectors = (shape.value_head_size + kWidth - 1) / kWidth;
  const int stride = output_vectors * kWidth;
  SoftmaxState state;
  for (float& maximum : state.maximum) maximum = -__builtin_inff();
  for (int row = 0; row < rows.count; ++row) {
    read_row(shape.element, query, rows.index[row] * shape.head_size, shape.head_size, shape.scale * kLog2E,
             scratch.query + row * kQueryStride);
    state.sum[row] = Vec{};
    for (int v = 0; v < output_vectors; ++v) store(scratch.output + row * stride + v * kWidth, Vec{});
  }
  prefetch_output(shape, rows, output);
  int64_t first_tile = 0;
  int64_t last_tile = 0;
  mask.range(rows, &first_tile, &last_tile);
  uint64_t row_bits[kQueryTile];
  for (int64_t tile = first_tile; tile < last_tile; ++tile) {
    const TileKind kind = mask.visit(rows, tile, row_bits);
    if (kind == TileKind::kEmpty) continue;
    const uint64_t* bits = kind == TileKind::kPartial ? row_bits : nullptr;
    for (int first = 0; first < rows.count; first += kRowBlock) {
      const int count = rows.count - first < kRowBlock ? rows.count - first : kRowBlock;
      const RowBlock block = {first, count, bits != nullptr ? visible_keys(bits, first, count) : kKeyTile};
      if (block.keys == 0) continue;
      visit_tile(block, bits, shape.head_size, scratch.query, panels.keys + tile * kKeyTile * shape.head_size,
                 panels.values + tile * kKeyTile * panels.value_stride, panels.value_stride, state, scratch.output,
                 output_vectors);
    }
  }
  write_tile(shape, rows, state, scratch.output, stride, output, lse);
}

}  // namespace RAGGEDRT_ISA
}  // namespace raggedrt
