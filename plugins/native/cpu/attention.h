// RaggedAttention on a CPU: softmax(q k^T * scale + mask) v within each sequence of a packed batch.
#pragma once

#include <stdint.h>

#include "cpu/element.h"
#include "cpu/runtime.h"

namespace raggedrt {

constexpr int kMaxHeadSize = 256;

// Masks by position, beyond causality.
struct MaskTerms {
  int64_t window_left = -1;  // -1: unbounded
  int64_t window_right = -1;
  int64_t dilation = 1;
  const int32_t* global_tokens = nullptr;  // ascending
  int64_t global_count = 0;
};

// A mask as tiles (see plugins/layout); none if ptr is null.
struct TileList {
  const int32_t* ptr = nullptr;   // [sequences or 1, groups, rows + 1]
  const int32_t* col = nullptr;   // [entries]
  const int32_t* tag = nullptr;   // [entries]; -1: full, else a bitmap
  const int32_t* bits = nullptr;  // [bitmaps, block_size * block_size / 32]
  const int32_t* head_group = nullptr;  // [num_heads]; may be null
  int64_t sequences = 0;
  int64_t groups = 0;
  int64_t rows = 0;
  int64_t entries = 0;
  int64_t bitmaps = 0;
  int block_size = 0;
};

// What is done to scores after scaling; absent where null.
struct ScoreTerms {
  float softcap = 0.0f;
  const void* bias = nullptr;  // [sequences or 1, num_heads or 1, size, size]
  int64_t bias_sequences = 0;
  int64_t bias_heads = 0;
  int64_t bias_size = 0;
  const void* distance_bias = nullptr;  // [num_heads or 1, distance_count]
  int64_t distance_heads = 0;
  int64_t distance_count = 0;
  const void* rel_query = nullptr;  // [total_q, num_heads, rel_size]
  const void* rel_key = nullptr;    // [total_k, num_heads, rel_size]
  const int32_t* rel_bucket = nullptr;  // [bucket_count]
  int64_t rel_size = 0;
  int64_t bucket_count = 0;
  const float* head_sink = nullptr;     // [num_heads]
  const float* alibi_slopes = nullptr;  // [num_heads]
};

struct AttentionProblem {
  Element element = Element::kFloat;  // of query, key, value and output
  const void* query = nullptr;        // [total_q, num_heads * head_size]
  const void* key = nullptr;          // [total_k, kv_num_heads * head_size]
  const void* value = nullptr;        // [total_k, kv_num_heads * value_head_size]
  const int32_t* cu_seqlens_q = nullptr;  // [sequences + 1]
  const int32_t* cu_seqlens_k = nullptr;  // [sequences + 1]
  const int32_t* positions_q = nullptr;   // [total_q]; may be null: index within the sequence
  const int32_t* positions_k = nullptr;   // [total_k]; may be null; negative: never visible
  void* output = nullptr;                 // [total_q, num_heads * value_head_size]
  float* lse = nullptr;                   // [num_heads, total_q]; may be null
  int64_t sequences = 0;
  int64_t total_q = 0;
  int64_t total_k = 0;
  int num_heads = 0;
  int kv_num_heads = 0;
  int head_size = 0;
  int value_head_size = 0;
  float scale = 0.0f;
  bool causal = false;
  MaskTerms mask;
  TileList tiles;
  ScoreTerms scores;
};

// Why `problem` cannot be computed (offsets that do not ascend or leave the tensors, head sizes, tile lists); null: it
// can.
const char* check_attention(const AttentionProblem& problem);

// Which query without positions is at index 0 of the keys: causality aligns different lengths at the end.
int64_t query_shift(const AttentionProblem& problem, int64_t queries, int64_t keys);

void ragged_attention(const AttentionProblem& problem, Runtime& runtime);

}  // namespace raggedrt
