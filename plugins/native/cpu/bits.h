// Rows of tile masks: bit k of 64 is key k.
#pragma once

#include <stdint.h>

namespace raggedrt {

inline uint64_t low_bits(int64_t count) {
  if (count <= 0) return 0;
  return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
}

// Bits first..last, both included, as far as they are among the 64.
inline uint64_t bit_range(int64_t first, int64_t last) {
  if (last < first || last < 0 || first > 63) return 0;
  return low_bits(last + 1) & ~low_bits(first);
}

// `count` <= 64 bits of an array of words from bit `offset` on; reads no word that holds none of them.
inline uint64_t extract_bits(const int32_t* words, int64_t offset, int count) {
  const int32_t* word = words + offset / 32;
  const int shift = static_cast<int>(offset % 32);
  uint64_t bits = static_cast<uint32_t>(word[0]) >> shift;
  if (shift + count > 32) bits |= static_cast<uint64_t>(static_cast<uint32_t>(word[1])) << (32 - shift);
  if (shift + count > 64) bits |= static_cast<uint64_t>(static_cast<uint32_t>(word[2])) << (64 - shift);
  return bits & low_bits(count);
}

inline int64_t floor_divide(int64_t a, int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }

}  // namespace raggedrt
