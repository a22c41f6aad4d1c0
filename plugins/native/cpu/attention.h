// RaggedAttention on a CPU: softmax(q k^T * scale + mask) v within each sequence of a packed batch.
#pragma once

#include <stdint.h>

#include "cpu/element.h"
#include "cpu/runtime.h"

namespace raggedrt {

constexpr int kMaxHeadSize = 256;

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
};

// Why `problem` cannot be computed (offsets that do not ascend or leave the tensors, head sizes); null: it can.
const char* check_attention(const AttentionProblem& problem);

void ragged_attention(const AttentionProblem& problem, Runtime& runtime);

}  // namespace raggedrt
