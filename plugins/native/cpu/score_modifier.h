// What changes the scores of a query tile between the first product and the softmax, as the kernels see it.
//
// Scores are in units of log2 (see simd/attend.h); what is precomputed is in these units too. Order: cap, then biases.
#pragma once

#include <stdint.h>

#include "cpu/element.h"

namespace raggedrt {

// A table by key-query distance, continued at both ends by kKeyTile copies of its first and last value, so that the
// distances of one row and one key tile are always in one piece: it starts at
// clamp(center + first distance, 0, last_start).
struct DistanceTable {
  int64_t head_stride = 0;  // 0: shared by all heads
  int64_t center = 0;       // index of distance 0
  int64_t last_start = 0;
};

// Of one sequence.
struct ScoreModifier {
  Element element = Element::kFloat;     // of bias, rel_query and rel_key
  const int32_t* positions_k = nullptr;  // of the sequence; null: a key's position is its index
  int64_t keys = 0;
  int num_heads = 0;
  float softcap = 0.0f;  // times log2(e); 0: none
  const void* bias = nullptr;  // [heads or 1, bias_size, bias_size]
  int64_t bias_head_stride = 0;
  int64_t bias_size = 0;
  const float* distance_bias = nullptr;  // times log2(e)
  DistanceTable distance;
  const float* alibi_slopes = nullptr;  // [heads]
  const float* head_sink = nullptr;     // [heads]
  const void* rel_query = nullptr;      // [tokens, heads, rel_size]
  const void* rel_key = nullptr;        // [keys, heads, rel_size]
  const int32_t* rel_bucket = nullptr;
  DistanceTable bucket;
  int64_t rel_size = 0;
};

}  // namespace raggedrt
