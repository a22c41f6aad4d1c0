// Attention of one query tile: online softmax over the key tiles that it visits.
//
// Scores are kept in units of log2: the query is scaled by scale * log2(e), so that the exponential is a power of two.
#pragma once

#include "cpu/simd/convert.h"
#include "cpu/simd/modify.h"
#include "cpu/simd/multiply.h"
#include "cpu/tile.h"

namespace raggedrt {
namespace RAGGEDRT_ISA {

constexpr float kLn2 = 0.69314718055994530942f;
constexpr int kRowBlock = 12;  // query rows between the two products: their scores never leave the nearest cache
constexpr int kBlockLanes = (kRowBlock + kWidth - 1) / kWidth * kWidth;

// Running softmax of a query tile.
struct SoftmaxState {
  alignas(64) float maximum[kMaxQueryRows + kBlockLanes];  // of the scores so far; whole vectors per row block
  Vec sum[kMaxQueryRows];                                  // of the exponentials, by lane
};

// Query rows and keys of a tile that are computed together.
struct RowBlock {
  int first;
  int count;
  int first_key;  // of the keys that any of these rows sees in the tile, rounded down to whole vectors
  int keys;       // from there to the last such key
  bool masked;    // some row does not see some key
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
    const uint64_t bits = kMasked ? row_bits[block.first + r] >> block.first_key : 0;
    maxima[r] = row_maximum<kMasked>(scores + r * kKeyTile, vectors, bits);
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

// One row block against one key tile.
static void visit_tile(const RowBlock& block, const uint64_t* row_bits, const ScoreModifier* modifier,
                       const QueryRows& rows, const KeyPlaces& places, int head_size, const float* query,
                       const KeyValueTile& tile, SoftmaxState& state, float* output, int output_vectors) {
  alignas(64) float scores[kRowBlock * kKeyTile];
  const int vectors = (block.keys + kWidth - 1) / kWidth;
  multiply<kQueryStride, false>(block.count, vectors, head_size, query + block.first * kQueryStride,
                                tile.keys + block.first_key, kKeyTile, scores, kKeyTile);
  if (modifier != nullptr) {
    modify_scores(*modifier, rows, block.first, block.count, places, block.first_key, block.keys, scores);
  }
  if (block.masked) {
    softmax_rows<true>(block, row_bits, scores, state, output, output_vectors);
  } else {
    softmax_rows<false>(block, row_bits, scores, state, output, output_vectors);
  }
  multiply<kKeyTile, true>(block.count, output_vectors, block.keys, scores,
                           tile.values + block.first_key * tile.value_stride, tile.value_stride,
                           output + block.first * output_vectors * kWidth, output_vectors * kWidth);
}

// What the rows from `first` see of a tile; no key where they see none. Null bits: everything.
RAGGEDRT_INLINE RowBlock row_block(const uint64_t* row_bits, int first, int rows) {
  const int count = rows - first < kRowBlock ? rows - first : kRowBlock;
  if (row_bits == nullptr) return {first, count, 0, kKeyTile, false};
  uint64_t any = 0;
  uint64_t all = ~uint64_t{0};
  for (int row = first; row < first + count; ++row) {
    any |= row_bits[row];
    all &= row_bits[row];
  }
  if (any == 0) return {first, count, 0, 0, true};
  const int first_key = __builtin_ctzll(any) / kWidth * kWidth;
  const int last_key = 64 - __builtin_clzll(any);
  const int computed = (last_key + kWidth - 1) / kWidth * kWidth - first_key;
  const uint64_t needed = (computed == 64 ? ~uint64_t{0} : (uint64_t{1} << computed) - 1) << first_key;
  return {first, count, first_key, last_key - first_key, (all & needed) != needed};
}

// A sink is one more term of the sum, without value. Changes the row's maximum and sum, returns the output's factor.
RAGGEDRT_INLINE float add_sink(float sink, float& maximum, float& sum) {
  const float before = maximum;
  maximum = sink > before ? sink : before;
  const float factor = __builtin_exp2f(before - maximum);
  sum = sum * factor + __builtin_exp2f(sink - maximum);
  return factor;
}

RAGGEDRT_INLINE void write_tile(const AttentionShape& shape, const QueryRows& rows, const float* head_sink,
                                const SoftmaxState& state, const float* sums, int stride, void* output, float* lse) {
  for (int row = 0; row < rows.count; ++row) {
    float maximum = state.maximum[row];
    const bool empty = maximum == -__builtin_inff();
    float sum = horizontal_sum(state.sum[row]);
    float factor = 1.0f;
    if (head_sink != nullptr && !empty) factor = add_sink(head_sink[rows.head[row]] * kLog2E, maximum, sum);
    write_row(shape.element, sums + row * stride, shape.value_head_size, empty ? 0.0f : factor / sum, output,
              rows.index[row] * shape.value_head_size);
    if (lse != nullptr) {
      const int64_t token = rows.index[row] / shape.num_heads;
      lse[rows.head[row] * shape.total_q + token] =
          empty ? -__builtin_inff() : (maximum + __builtin_log2f(sum)) * kLn2;
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

// Online softmax of all row blocks over the key tiles of the list.
static void visit_tiles(const AttentionShape& shape, const QueryRows& rows, KeyValuePanels& panels,
                        const TileMask& mask, const ScoreModifier* modifier, const TileScratch& scratch,
                        SoftmaxState& state, void* output, int output_vectors) {
  uint64_t row_bits[kMaxQueryRows];
  KeyPlaces places;
  const int64_t listed = mask.list(rows, scratch.tiles);
  for (int64_t entry = 0; entry < listed; ++entry) {
    const int64_t key_tile = scratch.tiles[entry];
    if (entry + 1 == listed) prefetch_output(shape, rows, output);
    const TileKind kind = mask.visit(rows, key_tile, row_bits);
    if (kind == TileKind::kEmpty) continue;
    const uint64_t* bits = kind == TileKind::kPartial ? row_bits : nullptr;
    const KeyValueTile tile = panels.tile(key_tile);
    if (modifier != nullptr) places = key_places(*modifier, key_tile);
    for (int first = 0; first < rows.count; first += kRowBlock) {
      if (entry + 1 < listed) {  // spread over the row blocks: a burst would wait for memory
        const int last = first + kRowBlock < rows.count ? first + kRowBlock : rows.count;
        const int64_t next = scratch.tiles[entry + 1];
        panels.prefetch(next, kKeyTile * first / rows.count, kKeyTile * last / rows.count);
        if (modifier != nullptr && modifier->bias != nullptr) prefetch_bias(*modifier, rows, first, last - first, next);
      }
      const RowBlock block = row_block(bits, first, rows.count);
      if (block.keys == 0) continue;
      visit_tile(block, bits, modifier, rows, places, shape.head_size, scratch.query, tile, state, scratch.output,
                 output_vectors);
    }
  }
}

static void attend(const AttentionShape& shape, const QueryRows& rows, const void* query, KeyValuePanels& panels,
                   const TileMask& mask, const ScoreModifier* modifier, const TileScratch& scratch, void* output,
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
  visit_tiles(shape, rows, panels, mask, modifier, scratch, state, output, output_vectors);
  const float* head_sink = modifier != nullptr ? modifier->head_sink : nullptr;
  write_tile(shape, rows, head_sink, state, scratch.output, stride, output, lse);
}

}  // namespace RAGGEDRT_ISA
}  // namespace raggedrt
