// What is done to the scores of a row block before the softmax: soft cap, then biases by position, distance and content.
//
// Keys at consecutive positions are the fast path: every table is then read in one piece per row. Other keys (holes,
// kept slots) are looked up one by one.
#pragma once

#include "cpu/score_modifier.h"
#include "cpu/simd/convert.h"
#include "cpu/tile.h"

namespace raggedrt {
namespace RAGGEDRT_ISA {

constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kMostNegativeBias = -2.3e38f;  // in units of log2 it is still finite, as the row's other keys may all be
                                               // as low: only minus infinity hides a key

// Positions of the keys of a tile.
struct KeyPlaces {
  int64_t first_token;  // of the keys: the row in rel_key
  bool consecutive;     // position[k] = position[0] + k
  int32_t position[kKeyTile];
};

RAGGEDRT_INLINE KeyPlaces key_places(const ScoreModifier& modifier, int64_t key_tile) {
  KeyPlaces places;
  places.first_token = key_tile * kKeyTile;
  const int64_t rest = modifier.keys - places.first_token;
  const int count = rest < kKeyTile ? static_cast<int>(rest) : kKeyTile;
  places.consecutive = true;
  for (int k = 0; k < count; ++k) {
    const int64_t key = places.first_token + k;
    places.position[k] = modifier.positions_k != nullptr ? modifier.positions_k[key] : static_cast<int32_t>(key);
    places.consecutive &= places.position[k] == places.position[0] + k && places.position[k] >= 0;
  }
  for (int k = count; k < kKeyTile; ++k) places.position[k] = places.position[0] + k;
  return places;
}

RAGGEDRT_INLINE int64_t clamp(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : (value > high ? high : value);
}

// A bias in units of log2.
RAGGEDRT_INLINE Vec scaled_bias(Vec bias) {
  const Vec finite = max(splat(kMostNegativeBias), bias);
  return (bias == splat(-__builtin_inff()) ? bias : finite) * kLog2E;
}

RAGGEDRT_INLINE float scaled_bias_of(float bias) {
  return (bias < kMostNegativeBias && bias != -__builtin_inff() ? kMostNegativeBias : bias) * kLog2E;
}

// cap * tanh(score / cap): with t = 2^(-2 |score| log2(e) / cap) the tangent is (1 - t) / (1 + t).
RAGGEDRT_INLINE void cap_row(float* line, int vectors, float cap) {
  const Vec factor = splat(2.0f * kLog2E / cap);
  const Vec one = splat(1.0f);
  for (int v = 0; v < vectors; ++v) {
    const Vec score = load(line + v * kWidth);
    const Vec negative = score < splat(0.0f) ? score : -score;
    const Vec t = exp2_of_negative(negative * factor);
    const Vec capped = splat(cap) * ((one - t) / (one + t));
    store(line + v * kWidth, score < splat(0.0f) ? -capped : capped);
  }
}

// `count` floats from `values`, of which only `valid` exist, added as biases.
RAGGEDRT_INLINE void add_bias_row(float* line, const float* values, int vectors, int64_t valid) {
  for (int v = 0; v < vectors; ++v) {
    const int64_t rest = valid - v * kWidth;
    if (rest <= 0) return;
    const Vec bias = rest >= kWidth ? load(values + v * kWidth) : load_first(values + v * kWidth, static_cast<int>(rest));
    store(line + v * kWidth, load(line + v * kWidth) + scaled_bias(bias));
  }
}

RAGGEDRT_INLINE void add_row(float* line, const float* values, int vectors) {
  for (int v = 0; v < vectors; ++v) store(line + v * kWidth, load(line + v * kWidth) + load(values + v * kWidth));
}

// line[k] -= slope * |distance + k|
RAGGEDRT_INLINE void add_slope(float* line, int vectors, float slope, float distance) {
  Vec lane;
  RAGGEDRT_UNROLL
  for (int i = 0; i < kWidth; ++i) lane[i] = static_cast<float>(i);
  for (int v = 0; v < vectors; ++v) {
    const Vec d = lane + (distance + static_cast<float>(v * kWidth));
    const Vec absolute = d < splat(0.0f) ? -d : d;
    store(line + v * kWidth, fused_multiply_add(splat(-slope), absolute, load(line + v * kWidth)));
  }
}

RAGGEDRT_INLINE float element_at(Element element, const void* source, int64_t index) {
  if (element == Element::kFloat) return static_cast<const float*>(source)[index];
  const uint16_t bits = static_cast<const uint16_t*>(source)[index];
  return element == Element::kBFloat16 ? float_of_bfloat16(bits) : float_of_half(bits);
}

// line[k] += table[bucket[k] + k * key_stride], for the keys of one row.
RAGGEDRT_INLINE void add_buckets(Element element, const void* table, int64_t first, const int32_t* bucket,
                                 int64_t key_stride, int keys, float* line) {
  int k = 0;
#if defined(__AVX512F__)
  if (element == Element::kFloat && key_stride < (int64_t{1} << 24)) {
    const float* base = static_cast<const float*>(table) + first;
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i stride = _mm512_set1_epi32(static_cast<int>(key_stride));
    for (; k + 16 <= keys; k += 16) {
      const __m512i key = _mm512_add_epi32(lanes, _mm512_set1_epi32(k));
      const __m512i index = _mm512_add_epi32(_mm512_loadu_si512(bucket + k), _mm512_mullo_epi32(key, stride));
      const Vec values = static_cast<Vec>(_mm512_i32gather_ps(index, base, 4));
      store(line + k, load(line + k) + scaled_bias(values));
    }
  }
#endif
  for (; k < keys; ++k) line[k] += scaled_bias_of(element_at(element, table, first + bucket[k] + k * key_stride));
}

// One query row: its scores of `keys` keys of a tile, from `first_key` on.
struct ModifiedRow {
  int64_t index;
  int head;
  int64_t position;
  int first_key;
  int keys;
  float* line;
};

RAGGEDRT_INLINE void add_dense_bias(const ScoreModifier& m, const ModifiedRow& row, const KeyPlaces& places) {
  const int64_t query = clamp(row.position, 0, m.bias_size - 1);
  const int64_t start = row.head * m.bias_head_stride + query * m.bias_size;
  const int32_t* position = places.position + row.first_key;
  float buffer[kKeyTile];
  if (!places.consecutive) {
    for (int k = 0; k < row.keys; ++k) {
      buffer[k] = element_at(m.element, m.bias, start + clamp(position[k], 0, m.bias_size - 1));
    }
    add_bias_row(row.line, buffer, (row.keys + kWidth - 1) / kWidth, row.keys);
    return;
  }
  const int64_t first = start + position[0];
  const int64_t valid = m.bias_size - position[0];  // up to the end of the bias's row
  if (m.element == Element::kFloat) {
    add_bias_row(row.line, static_cast<const float*>(m.bias) + first, (row.keys + kWidth - 1) / kWidth, valid);
    return;
  }
  const int count = valid < row.keys ? static_cast<int>(valid) : row.keys;
  read_row(m.element, m.bias, first, count, 1.0f, buffer);
  add_bias_row(row.line, buffer, (row.keys + kWidth - 1) / kWidth, count);
}

RAGGEDRT_INLINE void add_by_distance(const ScoreModifier& m, const ModifiedRow& row, const KeyPlaces& places) {
  const int vectors = (row.keys + kWidth - 1) / kWidth;
  const int32_t* position = places.position + row.first_key;
  const int64_t first = position[0] - row.position;
  if (m.distance_bias != nullptr) {
    const float* table = m.distance_bias + row.head * m.distance.head_stride;
    if (places.consecutive) {
      add_row(row.line, table + clamp(m.distance.center + first, 0, m.distance.last_start), vectors);
    } else {
      for (int k = 0; k < row.keys; ++k) {
        row.line[k] += table[clamp(m.distance.center + position[k] - row.position, 0, m.distance.last_start)];
      }
    }
  }
  if (m.alibi_slopes == nullptr) return;
  const float slope = m.alibi_slopes[row.head] * kLog2E;
  if (places.consecutive) {
    add_slope(row.line, vectors, slope, static_cast<float>(first));
    return;
  }
  for (int k = 0; k < row.keys; ++k) {
    const int64_t distance = position[k] - row.position;
    row.line[k] -= slope * static_cast<float>(distance < 0 ? -distance : distance);
  }
}

RAGGEDRT_INLINE void add_disentangled(const ScoreModifier& m, const ModifiedRow& row, const KeyPlaces& places) {
  const int32_t* position = places.position + row.first_key;
  const int32_t* bucket = m.rel_bucket;
  int32_t found[kKeyTile];
  if (places.consecutive) {
    bucket += clamp(m.bucket.center + position[0] - row.position, 0, m.bucket.last_start);
  } else {
    for (int k = 0; k < row.keys; ++k) {
      found[k] = bucket[clamp(m.bucket.center + position[k] - row.position, 0, m.bucket.last_start)];
    }
    bucket = found;
  }
  if (m.rel_query != nullptr) {
    add_buckets(m.element, m.rel_query, row.index * m.rel_size, bucket, 0, row.keys, row.line);
  }
  if (m.rel_key != nullptr) {
    const int64_t key_stride = m.num_heads * m.rel_size;
    const int64_t first = (places.first_token + row.first_key) * key_stride + row.head * m.rel_size;
    add_buckets(m.element, m.rel_key, first, bucket, key_stride, row.keys, row.line);
  }
}

// Asks for what a row block will read of a dense bias in a tile that is visited soon: its rows lie too far apart for
// hardware prefetchers.
static void prefetch_bias(const ScoreModifier& m, const QueryRows& rows, int first, int count, int64_t key_tile) {
  const int64_t key = key_tile * kKeyTile;
  const int64_t position = clamp(m.positions_k != nullptr ? m.positions_k[key] : key, 0, m.bias_size - 1);
  const int64_t bytes = static_cast<int64_t>(element_size(m.element));
  const int64_t length = (position + kKeyTile > m.bias_size ? m.bias_size - position : kKeyTile) * bytes;
  for (int row = first; row < first + count; ++row) {
    const int64_t query = clamp(rows.position[row], 0, m.bias_size - 1);
    const int64_t start = rows.head[row] * m.bias_head_stride + query * m.bias_size + position;
    const char* line = static_cast<const char*>(m.bias) + start * bytes;
    for (int64_t byte = 0; byte < length; byte += 64) __builtin_prefetch(line + byte, 0, 2);
  }
}

// Scores of the rows from `first` and of the tile's keys from `first_key`.
static void modify_scores(const ScoreModifier& modifier, const QueryRows& rows, int first, int count,
                          const KeyPlaces& places, int first_key, int keys, float* scores) {
  for (int r = 0; r < count; ++r) {
    const ModifiedRow row = {rows.index[first + r], rows.head[first + r], rows.position[first + r],
                             first_key,             keys,                 scores + r * kKeyTile};
    if (modifier.softcap != 0.0f) cap_row(row.line, (keys + kWidth - 1) / kWidth, modifier.softcap);
    if (modifier.bias != nullptr) add_dense_bias(modifier, row, places);
    if (modifier.distance_bias != nullptr || modifier.alibi_slopes != nullptr) add_by_distance(modifier, row, places);
    if (modifier.rel_bucket != nullptr) add_disentangled(modifier, row, places);
  }
}

}  // namespace RAGGEDRT_ISA
}  // namespace raggedrt
