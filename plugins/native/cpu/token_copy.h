// PackTokens and UnpackTokens: rows of bytes gathered from, and scattered to, the slots of a padded batch.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "cpu/runtime.h"

namespace raggedrt {

struct TokenCopy {
  const void* source = nullptr;
  void* target = nullptr;
  const int32_t* token_index = nullptr;   // [tokens]: slot of each token
  const int32_t* key_position = nullptr;  // [tokens], unpack only; may be null; negative: the token is not copied
  int64_t tokens = 0;
  int64_t slots = 0;     // rows * slots per row of the padded tensor
  size_t row_bytes = 0;  // of one token
};

// The first token whose index is not below `slots`, -1: all are in range.
int64_t first_out_of_range(const TokenCopy& copy);

// target[t] = source[token_index[t]]; zeros where the index is negative.
void pack_tokens(const TokenCopy& copy, Runtime& runtime);

// target[token_index[t]] = source[t]; zeros in every slot without a token.
void unpack_tokens(const TokenCopy& copy, Runtime& runtime);

}  // namespace raggedrt
