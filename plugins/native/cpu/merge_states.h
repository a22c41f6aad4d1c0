// MergeAttentionStates: attention over two disjoint key sets becomes attention over their union.
#pragma once

#include <stdint.h>

#include "cpu/element.h"
#include "cpu/runtime.h"

namespace raggedrt {

struct MergeProblem {
  Element element = Element::kFloat;  // of the outputs
  const void* output1 = nullptr;      // [tokens, heads * head_size]
  const void* output2 = nullptr;
  const float* lse1 = nullptr;  // [heads, tokens]
  const float* lse2 = nullptr;
  void* output = nullptr;
  float* lse = nullptr;
  int64_t tokens = 0;
  int heads = 0;
  int head_size = 0;
};

void merge_attention_states(const MergeProblem& problem, Runtime& runtime);

}  // namespace raggedrt
