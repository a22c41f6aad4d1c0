// What changes scores after scaling: cap, then biases. The results are in units of log2.
#pragma once

#include "cuda/kernels/attention_mask.cuh"

namespace raggedrt::device {
namespace {

constexpr float kMostNegativeBias = -2.3e38f;  // times log2(e) it is still finite: such a bias is no mask

RAGGEDRT_DEVICE int clamp(int value, int last) { return minimum(maximum(value, 0), last); }

RAGGEDRT_DEVICE float table_value(const void* table, int64_t index) {
  const float value = to_float(load_global_readonly(static_cast<const Element*>(table) + index));
  return value == -infinity() ? value : maximum(value, kMostNegativeBias);
}

// The score terms of one item.
class ScoreTables {
 public:
  RAGGEDRT_DEVICE ScoreTables(const AttentionParams& params, const Item& item) : params_(params), item_(item) {
    const cuda::ScoreTerms& terms = params.scores;
    if (terms.bias != nullptr) {
      const int64_t plane = int64_t{terms.bias_size} * terms.bias_size;
      const int sequence = terms.bias_sequences == 1 ? 0 : item.sequence;
      const int head = terms.bias_heads == 1 ? 0 : item.head;
      bias_ = (int64_t{sequence} * terms.bias_heads + head) * plane;
    }
    distance_bias_ = terms.distance_heads == 1 ? 0 : int64_t{item.head} * terms.distance_count;
    slope_ = terms.alibi_slopes == nullptr ? 0.0f : load_global_readonly(terms.alibi_slopes + item.head);
    scale_ = params.scale;
  }

  // The changed score of the query at `token` (of all queries) for a key (of the sequence's).
  RAGGEDRT_DEVICE float apply(float product, int query, int query_position, int key, int key_position) const {
    const cuda::ScoreTerms& terms = params_.scores;
    float score = product * scale_;
    if (terms.softcap != 0.0f) score = terms.softcap * tanh_approx(score / terms.softcap);
    const int distance = key_position - query_position;
    float bias = 0.0f;
    if (terms.bias != nullptr) {
      const int last = terms.bias_size - 1;
      bias += table_value(terms.bias,
                          bias_ + int64_t{clamp(query_position, last)} * terms.bias_size + clamp(key_position, last));
    }
    if (terms.distance_bias != nullptr) {
      const int index = clamp(distance + terms.distance_count / 2, terms.distance_count - 1);
      bias += table_value(terms.distance_bias, distance_bias_ + index);
    }
    if (terms.rel_bucket != nullptr) bias += disentangled(query, key, distance);
    bias -= slope_ * static_cast<float>(distance < 0 ? -distance : distance);
    return fused_multiply_add(bias, kLog2E, score * kLog2E);
  }

 private:
  RAGGEDRT_DEVICE float disentangled(int query, int key, int distance) const {
    const cuda::ScoreTerms& terms = params_.scores;
    const int bucket = load_global_readonly(
        terms.rel_bucket + clamp(distance + terms.bucket_count / 2, terms.bucket_count - 1));
    float sum = 0.0f;
    if (terms.rel_query != nullptr) {
      const int64_t row = int64_t{item_.first_query + query} * params_.num_heads + item_.head;
      sum += table_value(terms.rel_query, row * terms.rel_size + bucket);
    }
    if (terms.rel_key != nullptr) {
      const int64_t row = int64_t{item_.first_key + key} * params_.num_heads + item_.head;
      sum += table_value(terms.rel_key, row * terms.rel_size + bucket);
    }
    return sum;
  }

  const AttentionParams& params_;
  const Item& item_;
  int64_t bias_ = 0;  // where the plane of this sequence and head begins
  int64_t distance_bias_ = 0;
  float slope_ = 0.0f;
  float scale_ = 0.0f;
};

// Scores of the groups that are visited. What belongs to no key or no query is computed from something else, and
// hidden or not written later.
RAGGEDRT_DEVICE void modify(const ScoreTables& tables, const Item& item, const WarpRows& rows, const Stage& stage,
                            unsigned groups, Scores& scores) {
  RAGGEDRT_UNROLL
  for (int block8 = 0; block8 < kKeys / 8; ++block8) {
    if ((groups >> (block8 / 2) & 1) == 0) continue;
    const int column = block8 * 8 + lane_index() % 4 * 2;
    const Vec8 positions = load_shared(reinterpret_cast<const Vec8*>(stage.positions() + column));
    const Vec8 indices = load_shared(reinterpret_cast<const Vec8*>(stage.indices() + column));
    RAGGEDRT_UNROLL
    for (int block = 0; block < kRowBlocks; ++block) {
      RAGGEDRT_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int number = warp_index() * kWarpRows + block * 16 + i / 2 * 8 + lane_index() / 4;
        float& score = scores.value[block][block8][i];
        score = tables.apply(score, minimum(number, item.rows - 1), rows.position(block, i / 2),
                             static_cast<int>(indices.word[i % 2]), static_cast<int>(positions.word[i % 2]));
      }
    }
  }
}

}  // namespace
}  // namespace raggedrt::device
