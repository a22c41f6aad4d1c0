#include "cpu/score_tables.h"

#include <string.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/tile.h"

namespace raggedrt {
namespace {

constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kMostNegativeBias = -2.3e38f;  // see simd/modify.h

float scaled_bias(float bias) {
  return (bias == -std::numeric_limits<float>::infinity() ? bias : std::max(bias, kMostNegativeBias)) * kLog2E;
}

float float_of_half(uint16_t half) {
  const int exponent = half >> 10 & 31;
  const float fraction = static_cast<float>(half & 1023);
  float value = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(fraction + 1024.0f, exponent - 25);
  if (exponent == 31) {
    value = fraction == 0.0f ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
  }
  return (half & 0x8000u) != 0 ? -value : value;
}

float float_of(Element element, const void* values, int64_t index) {
  if (element == Element::kFloat) return static_cast<const float*>(values)[index];
  const uint16_t bits = static_cast<const uint16_t*>(values)[index];
  if (element == Element::kHalf) return float_of_half(bits);
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  memcpy(&value, &wide, sizeof value);
  return value;
}

// `lines` of `count` values by distance, each continued by kKeyTile copies at both ends.
template <typename T, typename Value>
DistanceTable extend(int64_t lines, int64_t count, const Value& value, std::vector<T>& table) {
  const int64_t length = count + 2 * kKeyTile;
  table.reserve(static_cast<size_t>(lines * length));
  for (int64_t line = 0; line < lines; ++line) {
    for (int64_t i = -kKeyTile; i < count + kKeyTile; ++i) {
      table.push_back(value(line * count + std::clamp<int64_t>(i, 0, count - 1)));
    }
  }
  return {lines == 1 ? 0 : length, count / 2 + kKeyTile, length - kKeyTile};
}

const char* check_positions(const int32_t* positions, const int32_t* offsets, const AttentionProblem& problem) {
  constexpr const char* kOutside = "a position lies outside of the bias";
  for (int64_t sequence = 0; sequence < problem.sequences; ++sequence) {
    if (positions == nullptr) {
      if (offsets[sequence + 1] - offsets[sequence] > problem.scores.bias_size) return kOutside;
      continue;
    }
    for (int64_t token = offsets[sequence]; token < offsets[sequence + 1]; ++token) {
      if (positions[token] >= problem.scores.bias_size) return kOutside;
    }
  }
  return nullptr;
}

const char* check_buckets(const ScoreTerms& scores) {
  for (int64_t i = 0; i < scores.bucket_count; ++i) {
    if (scores.rel_bucket[i] < 0 || scores.rel_bucket[i] >= scores.rel_size) {
      return "rel_bucket must hold buckets of rel_query and rel_key";
    }
  }
  return nullptr;
}

}  // namespace

const char* check_scores(const AttentionProblem& problem) {
  const ScoreTerms& scores = problem.scores;
  if (scores.distance_bias != nullptr && scores.distance_count % 2 == 0) return "distance_bias must be [1|N, 2P-1]";
  if (scores.rel_bucket != nullptr && scores.bucket_count % 2 == 0) return "rel_bucket must be [2P-1]";
  if (const char* refusal = check_buckets(scores)) return refusal;
  if (scores.bias == nullptr) return nullptr;
  const char* refusal = check_positions(problem.positions_q, problem.cu_seqlens_q, problem);
  return refusal != nullptr ? refusal : check_positions(problem.positions_k, problem.cu_seqlens_k, problem);
}

ScoreTables::ScoreTables(const AttentionProblem& problem) : problem_(problem) {
  const ScoreTerms& scores = problem.scores;
  any_ = scores.softcap != 0.0f || scores.bias != nullptr || scores.distance_bias != nullptr ||
         scores.rel_bucket != nullptr || scores.head_sink != nullptr || scores.alibi_slopes != nullptr;
  shared_.element = problem.element;
  shared_.num_heads = problem.num_heads;
  shared_.softcap = scores.softcap * kLog2E;
  shared_.bias_size = scores.bias_size;
  shared_.bias_head_stride = scores.bias_heads == 1 ? 0 : scores.bias_size * scores.bias_size;
  shared_.alibi_slopes = scores.alibi_slopes;
  shared_.head_sink = scores.head_sink;
  shared_.rel_query = scores.rel_query;
  shared_.rel_size = scores.rel_size;
  if (scores.distance_bias != nullptr) {
    shared_.distance =
        extend(scores.distance_heads, scores.distance_count,
               [&](int64_t i) { return scaled_bias(float_of(problem.element, scores.distance_bias, i)); }, distance_bias_);
    shared_.distance_bias = distance_bias_.data();
  }
  if (scores.rel_bucket != nullptr) {
    shared_.bucket = extend(1, scores.bucket_count, [&](int64_t i) { return scores.rel_bucket[i]; }, buckets_);
    shared_.rel_bucket = buckets_.data();
  }
}

ScoreModifier ScoreTables::of(int64_t sequence) const {
  ScoreModifier modifier = shared_;
  const ScoreTerms& scores = problem_.scores;
  const int64_t first_key = problem_.cu_seqlens_k[sequence];
  const int64_t bytes = static_cast<int64_t>(element_size(problem_.element));
  modifier.keys = problem_.cu_seqlens_k[sequence + 1] - first_key;
  if (problem_.positions_k != nullptr) modifier.positions_k = problem_.positions_k + first_key;
  if (scores.bias != nullptr) {
    const int64_t plane = scores.bias_heads * scores.bias_size * scores.bias_size;
    modifier.bias = static_cast<const char*>(scores.bias) + (scores.bias_sequences == 1 ? 0 : sequence * plane) * bytes;
  }
  if (scores.rel_key != nullptr) {
    const int64_t token = static_cast<int64_t>(problem_.num_heads) * scores.rel_size;
    modifier.rel_key = static_cast<const char*>(scores.rel_key) + first_key * token * bytes;
  }
  return modifier;
}

}  // namespace raggedrt
