// The kernels that exist once per instruction set, and the choice among them at run time.
#pragma once

#include <stdint.h>

#include "cpu/score_modifier.h"
#include "cpu/tile.h"

namespace raggedrt {

struct IsaKernels {
  const char* name;
  // Packs `count` <= kKeyTile keys: panel[d][k] = source[k * stride + d], zeros for k >= count.
  void (*pack_keys)(Element element, const void* source, int64_t stride, int count, int head_size, float* panel);
  // Packs `count` values as float rows of padded_head_size(head_size), zeros in the padding.
  void (*pack_values)(Element element, const void* source, int64_t stride, int count, int head_size, float* panel);
  // Attention of one query tile over all key tiles that `mask` lets it visit; writes output and, if not null, lse.
  // `modifier` may be null.
  void (*attend)(const AttentionShape& shape, const QueryRows& rows, const void* query, KeyValuePanels& panels,
                 const TileMask& mask, const ScoreModifier* modifier, const TileScratch& scratch, void* output,
                 float* lse);
  // MergeAttentionStates for `heads` heads of one token; lse arrays are `lse_stride` floats apart by head.
  void (*merge)(Element element, const void* output1, const float* lse1, const void* output2, const float* lse2,
                int64_t lse_stride, int heads, int head_size, void* output, float* lse);
  // Width of a vector register in floats.
  int vector_floats;
};

// The kernels in use: the best this CPU has, or what select_isa chose.
const IsaKernels& isa_kernels();

// Names of the instruction sets this CPU has, best first, ending with null.
const char* const* available_isas();

// For tests: uses the kernels called `name` from now on, null for the best. False: this CPU does not have them.
bool select_isa(const char* name);

}  // namespace raggedrt
