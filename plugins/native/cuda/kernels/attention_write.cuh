// The end of an item: sums of all columns, the sink, and what is written.
#pragma once

#include "cuda/kernels/attention_product.cuh"

namespace raggedrt::device {
namespace {

// What the rows of a thread come to.
struct RowResults {
  float factor[kRowBlocks][2];  // of the output
  float lse[kRowBlocks][2];
};

// A sink is one more term of the denominator, without value. Rows that saw no key give 0 and -inf, sink or not.
RAGGEDRT_DEVICE RowResults finish_rows(const Running& running, const float* sink) {
  RowResults results;
  RAGGEDRT_UNROLL
  for (int block = 0; block < kRowBlocks; ++block) {
    RAGGEDRT_UNROLL
    for (int half = 0; half < 2; ++half) {
      float sum = running.sum[block][half];
      sum += shuffle_xor(sum, 1);
      sum += shuffle_xor(sum, 2);
      float highest = running.maximum[block][half];
      const bool empty = highest == -infinity();
      float factor = 1.0f;
      if (sink != nullptr && !empty) {
        const float before = highest;
        const float term = load_global_readonly(sink) * kLog2E;
        highest = maximum(before, term);
        factor = exp2_approx(before - highest);
        sum = fused_multiply_add(sum, factor, exp2_approx(term - highest));
      }
      results.factor[block][half] = empty ? 0.0f : factor * reciprocal(sum);
      results.lse[block][half] = empty ? -infinity() : (highest + log2_approx(sum)) * kLn2;
    }
  }
  return results;
}

RAGGEDRT_DEVICE void write_lse(const AttentionParams& params, const Item& item, const RowResults& results, float* lse) {
  const int lane = item.lane;
  if (lane % 4 != 0) return;
  float* line = lse + int64_t{item.head} * params.total_q + item.first_query;
  RAGGEDRT_UNROLL
  for (int block = 0; block < kRowBlocks; ++block) {
    RAGGEDRT_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int row = warp_index() * kWarpRows + block * 16 + half * 8 + lane / 4;
      if (row < item.rows) store_global(line + row, results.lse[block][half]);
    }
  }
}

// Rounded rows are gathered where the warp's queries were, so that whole vectors are written.
RAGGEDRT_DEVICE void write_output(const AttentionParams& params, const Item& item, const Running& running,
                                  const RowResults& results) {
  char* gathered = shared_memory() + kQueryOffset + warp_index() * kWarpRows * kRowBytes;
  const int lane = item.lane;
  sync_warp();
  RAGGEDRT_UNROLL
  for (int block = 0; block < kRowBlocks; ++block) {
    RAGGEDRT_UNROLL
    for (int vector = 0; vector < kVectors; ++vector) {
      RAGGEDRT_UNROLL
      for (int half = 0; half < 2; ++half) {
        const float factor = results.factor[block][half];
        const float* pair = running.output[block][vector] + 2 * half;
        char* to = gathered + vector_offset(block * 16 + half * 8 + lane / 4, vector) + lane % 4 * 4;
        store_shared(reinterpret_cast<uint32_t*>(to), pack2<Element>(pair[0] * factor, pair[1] * factor));
      }
    }
  }
  sync_warp();
  const int64_t stride = int64_t{params.num_heads} * kHeadSize;
  Element* to = static_cast<Element*>(params.output) + item.first_query * stride + item.head * kHeadSize;
  RAGGEDRT_UNROLL
  for (int i = lane; i < kWarpRows * kVectors; i += 32) {
    const int row = i / kVectors;
    const int vector = i - row * kVectors;
    const int in_tile = warp_index() * kWarpRows + row;
    if (in_tile >= item.rows) continue;
    const Vec16 values = load_shared(reinterpret_cast<const Vec16*>(gathered + vector_offset(row, vector)));
    store_global(reinterpret_cast<Vec16*>(to + in_tile * stride + vector * 8), values);
  }
}

// One part of a split: unrounded, to be merged.
RAGGEDRT_DEVICE void write_part(const AttentionParams& params, const Item& item, const Running& running,
                                const RowResults& results) {
  const int64_t stride = int64_t{params.num_heads} * kHeadSize;
  float* to = params.split_output + (int64_t{item.split} * params.total_q + item.first_query) * stride +
              item.head * kHeadSize;
  const int lane = item.lane;
  RAGGEDRT_UNROLL
  for (int block = 0; block < kRowBlocks; ++block) {
    RAGGEDRT_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int row = warp_index() * kWarpRows + block * 16 + half * 8 + lane / 4;
      if (row >= item.rows) continue;
      const float factor = results.factor[block][half];
      RAGGEDRT_UNROLL
      for (int vector = 0; vector < kVectors; ++vector) {
        const float* pair = running.output[block][vector] + 2 * half;
        const Vec8 values = {{float_to_bits(pair[0] * factor), float_to_bits(pair[1] * factor)}};
        store_global(reinterpret_cast<Vec8*>(to + row * stride + vector * 8 + lane % 4 * 2), values);
      }
    }
  }
}

RAGGEDRT_DEVICE void write_item(const AttentionParams& params, const Item& item, const Running& running) {
  const bool split = params.splits > 1;
  const float* sink = split || params.scores.head_sink == nullptr ? nullptr : params.scores.head_sink + item.head;
  const RowResults results = finish_rows(running, sink);
  if (split) {
    write_part(params, item, running, results);
    write_lse(params, item, results, params.split_lse + int64_t{item.split} * params.num_heads * params.total_q);
    return;
  }
  write_output(params, item, running, results);
  if (params.lse != nullptr) write_lse(params, item, results, params.lse);
}

// Rows past the last sequence exist only to fill a capacity; they are defined, so that nothing downstream is NaN. With
// splits, merging writes them.
RAGGEDRT_DEVICE void clear_unused_rows(const AttentionParams& params) {
  if (params.splits > 1) return;
  int used = 0;
  if (params.sequences > 0) {
    const Tokens last(params.cu_seqlens_q + params.sequences - 1, params.total_q);
    used = last.first + last.count;
  }
  const int vectors = params.num_heads * kVectors;
  Vec16* output = static_cast<Vec16*>(params.output);
  for (int row = used + block_index_x(); row < params.total_q; row += grid_size_x()) {
    for (int vector = thread_index(); vector < vectors; vector += kThreads) {
      store_global(output + int64_t{row} * vectors + vector, Vec16{});
    }
    for (int head = thread_index(); params.lse != nullptr && head < params.num_heads; head += kThreads) {
      store_global(params.lse + int64_t{head} * params.total_q + row, -infinity());
    }
  }
}

}  // namespace
}  // namespace raggedrt::device
