// Attention states (output and lse) over disjoint key sets become the state over their union.
//
// Bytes moved: each state and the result once, the least, and the lse of a head once per vector of it, from the cache.
#pragma once

#include "cuda/device/device.h"
#include "cuda/kernels/data_params.h"

#ifndef RAGGEDRT_ELEMENT
#define RAGGEDRT_ELEMENT half
#endif

namespace raggedrt::device::merge {
namespace {  // several variants may end up in one program, and each has its own elements

using Element = RAGGEDRT_ELEMENT;

constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kLn2 = 0.69314718055994530942f;

// Weight of a state whose logarithm is `lse`, in a sum whose largest one is `top`; 0 where it saw nothing.
RAGGEDRT_DEVICE float weight_of(float lse, float top) {
  return lse > -infinity() ? exp2_approx((lse - top) * kLog2E) : 0.0f;
}

RAGGEDRT_DEVICE float lse_of(float top, float total) { return top + log2_approx(total) * kLn2; }

// A state that saw nothing may hold anything.
RAGGEDRT_DEVICE float weighted(float weight, float value) { return weight > 0.0f ? weight * value : 0.0f; }

// Calls body(token, head, first column of the head, whether it is the first piece of the head) for pieces of kPiece
// neighbouring elements of one head.
template <int kPiece, typename Body>
RAGGEDRT_DEVICE void for_pieces(int tokens, int heads, int head_size, const Body& body) {
  const uint32_t per_head = static_cast<uint32_t>(head_size / kPiece);
  const uint32_t per_token = per_head * static_cast<uint32_t>(heads);
  const long long pieces = static_cast<long long>(tokens) * per_token;
  const long long stride = static_cast<long long>(grid_size_x()) * block_threads();
  for (long long i = static_cast<long long>(block_index_x()) * block_threads() + thread_index(); i < pieces;
       i += stride) {
    const int token = static_cast<int>(i / per_token);
    const uint32_t piece = static_cast<uint32_t>(i - static_cast<long long>(token) * per_token);
    const int head = static_cast<int>(piece / per_head);
    body(token, head, static_cast<int>(piece - static_cast<uint32_t>(head) * per_head) * kPiece);
  }
}

template <int kPiece>
struct alignas(kPiece * sizeof(Element)) Piece {
  Element value[kPiece];
};

template <int kPiece>
RAGGEDRT_DEVICE void merge_pieces(const cuda::MergeParams& params) {
  using Vector = Piece<kPiece>;
  for_pieces<kPiece>(params.tokens, params.heads, params.head_size, [&](int token, int head, int column) {
    const long long row = static_cast<long long>(head) * params.tokens + token;
    const float lse1 = load_global_readonly(params.lse1 + row);
    const float lse2 = load_global_readonly(params.lse2 + row);
    const float top = maximum(lse1, lse2);
    const bool seen = top > -infinity();
    const float weight1 = weight_of(lse1, top);
    const float weight2 = weight_of(lse2, top);
    const float total = seen ? weight1 + weight2 : 1.0f;
    const float share = 1.0f / total;
    const long long at = (static_cast<long long>(token) * params.heads + head) * params.head_size + column;
    const auto load = [at](const void* output) {
      return load_global_readonly(reinterpret_cast<const Vector*>(static_cast<const Element*>(output) + at));
    };
    const Vector a = load(params.output1);
    const Vector b = load(params.output2);
    Vector merged;
    RAGGEDRT_UNROLL
    for (int i = 0; i < kPiece; ++i) {
      merged.value[i] = from_float<Element>(weighted(weight1 * share, to_float(a.value[i])) +
                                            weighted(weight2 * share, to_float(b.value[i])));
    }
    store_global(reinterpret_cast<Vector*>(static_cast<Element*>(params.output) + at), merged);
    if (column == 0) store_global(params.lse + row, seen ? lse_of(top, total) : -infinity());
  });
}

RAGGEDRT_DEVICE bool aligned(const void* pointer, int bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % static_cast<unsigned>(bytes) == 0;
}

RAGGEDRT_DEVICE void merge_states(const cuda::MergeParams& params) {
  constexpr int kPiece = 16 / static_cast<int>(sizeof(Element));
  const bool wide = params.head_size % kPiece == 0 && aligned(params.output1, 16) && aligned(params.output2, 16) &&
                    aligned(params.output, 16);
  if (wide) {
    merge_pieces<kPiece>(params);
  } else {
    merge_pieces<1>(params);
  }
}

// The largest logarithm of a row and the sum of all weights against it; a sink counts, if it is not alone.
struct Total {
  float top;
  float sum;
  bool seen;
};

RAGGEDRT_DEVICE Total total_of(const cuda::CombineParams& params, long long row, int head) {
  const long long plane = static_cast<long long>(params.num_heads) * params.total_q;
  Total total = {-infinity(), 0.0f, false};
  for (int split = 0; split < params.splits; ++split) {
    total.top = maximum(total.top, load_global_readonly(params.split_lse + split * plane + row));
  }
  total.seen = total.top > -infinity();
  if (!total.seen) return total;
  const float sink = params.head_sink != nullptr ? load_global_readonly(params.head_sink + head) : -infinity();
  total.top = maximum(total.top, sink);
  total.sum = weight_of(sink, total.top);
  for (int split = 0; split < params.splits; ++split) {
    total.sum += weight_of(load_global_readonly(params.split_lse + split * plane + row), total.top);
  }
  return total;
}

template <int kPiece>
RAGGEDRT_DEVICE void combine_pieces(const cuda::CombineParams& params) {
  struct alignas(kPiece * 4) Partial {
    float value[kPiece];
  };
  const int end = load_global_readonly(params.cu_seqlens_q + params.sequences);
  for_pieces<kPiece>(params.total_q, params.num_heads, params.value_head_size, [&](int token, int head, int column) {
    const long long row = static_cast<long long>(head) * params.total_q + token;
    const long long width = static_cast<long long>(params.num_heads) * params.value_head_size;
    const long long at = token * width + static_cast<long long>(head) * params.value_head_size + column;
    float mixed[kPiece];
    RAGGEDRT_UNROLL
    for (int i = 0; i < kPiece; ++i) mixed[i] = 0.0f;
    Total total = {-infinity(), 0.0f, false};
    if (token < end) total = total_of(params, row, head);
    for (int split = 0; total.seen && split < params.splits; ++split) {
      const long long plane = static_cast<long long>(params.num_heads) * params.total_q;
      const float weight = weight_of(load_global_readonly(params.split_lse + split * plane + row), total.top);
      if (weight == 0.0f) continue;
      const Partial part = load_global_readonly(
          reinterpret_cast<const Partial*>(params.split_output + split * (params.total_q * width) + at));
      RAGGEDRT_UNROLL
      for (int i = 0; i < kPiece; ++i) mixed[i] = fused_multiply_add(weight, part.value[i], mixed[i]);
    }
    const float share = total.seen ? 1.0f / total.sum : 0.0f;
    Piece<kPiece> result;
    RAGGEDRT_UNROLL
    for (int i = 0; i < kPiece; ++i) result.value[i] = from_float<Element>(mixed[i] * share);
    store_global(reinterpret_cast<Piece<kPiece>*>(static_cast<Element*>(params.output) + at), result);
    if (column == 0 && params.lse != nullptr) {
      store_global(params.lse + row, total.seen ? lse_of(total.top, total.sum) : -infinity());
    }
  });
}

RAGGEDRT_DEVICE void combine_splits(const cuda::CombineParams& params) {
  const bool wide = params.value_head_size % 4 == 0 && aligned(params.split_output, 16) &&
                    aligned(params.output, 4 * static_cast<int>(sizeof(Element)));
  if (wide) {
    combine_pieces<4>(params);
  } else {
    combine_pieces<1>(params);
  }
}

}  // namespace
}  // namespace raggedrt::device::merge
