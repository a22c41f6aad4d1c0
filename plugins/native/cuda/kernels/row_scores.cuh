// What changes the scores of row_attention between the product and the softmax: cap, then biases.
#pragma once

#include "cuda/kernels/row_mask.cuh"

namespace raggedrt::device::row {
namespace {

constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kLn2 = 0.69314718055994530942f;
constexpr float kLeastBias = -2.3e38f;  // still finite in units of log2: a mask of such biases hides nothing if all are

RAGGEDRT_DEVICE float element_at(const void* tensor, long long index) {
  return to_float(load_global_readonly(static_cast<const Element*>(tensor) + index));
}

// Entry of a table by distance, with distance 0 in the middle.
RAGGEDRT_DEVICE int distance_index(int distance, int count) {
  return minimum(maximum(distance + count / 2, 0), count - 1);
}

// What is added to a score.
RAGGEDRT_DEVICE float bias_of(const AttentionParams& params, const Segment& segment, const RowMask& row,
                              const KeyPlace& key) {
  const cuda::ScoreTerms& scores = params.scores;
  const int distance = key.position - row.position;
  float total = 0.0f;
  if (scores.bias != nullptr) {
    const long long sequence = scores.bias_sequences == 1 ? 0 : segment.sequence;
    const long long plane = sequence * scores.bias_heads + (scores.bias_heads == 1 ? 0 : row.head);
    const int last = scores.bias_size - 1;
    const long long line = plane * scores.bias_size + minimum(maximum(row.position, 0), last);
    total += element_at(scores.bias, line * scores.bias_size + minimum(key.position, last));
  }
  if (scores.distance_bias != nullptr) {
    const long long line = scores.distance_heads == 1 ? 0 : row.head;
    total += element_at(scores.distance_bias,
                        line * scores.distance_count + distance_index(distance, scores.distance_count));
  }
  if (scores.alibi_slopes != nullptr) {
    const int magnitude = distance < 0 ? -distance : distance;
    total -= load_global_readonly(scores.alibi_slopes + row.head) * static_cast<float>(magnitude);
  }
  if (scores.rel_bucket != nullptr) {
    const int place = distance_index(distance, scores.bucket_count);
    const int bucket = clipped(load_global_readonly(scores.rel_bucket + place), scores.rel_size - 1);
    if (scores.rel_query != nullptr) {
      const long long line = static_cast<long long>(row.token) * params.num_heads + row.head;
      total += element_at(scores.rel_query, line * scores.rel_size + bucket);
    }
    if (scores.rel_key != nullptr) {
      const long long line = static_cast<long long>(segment.first_key + key.key) * params.num_heads + row.head;
      total += element_at(scores.rel_key, line * scores.rel_size + bucket);
    }
  }
  return total;
}

// The score in units of log2; -inf where a bias hides the key. load_queries has scaled, and put in log2(e) unless
// there is a cap.
RAGGEDRT_DEVICE float modified(const AttentionParams& params, const Segment& segment, const RowMask& row,
                               const KeyPlace& key, float score) {
  const float cap = params.scores.softcap;
  if (cap > 0.0f) score = cap * tanh_approx(score / cap) * kLog2E;
  const float bias = bias_of(params, segment, row, key);
  if (bias == -infinity()) return bias;
  return score + (bias < kLeastBias ? kLeastBias : bias) * kLog2E;
}

}  // namespace
}  // namespace raggedrt::device::row
