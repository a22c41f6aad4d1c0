// Tile sizes, and the views through which the scheduler hands work to the instruction-set specific kernels.
#pragma once

#include <stdint.h>

#include "cpu/element.h"

namespace raggedrt {

constexpr int kKeyTile = 64;    // keys of a tile: one bit each in a 64-bit row of a tile mask
constexpr int kQueryTile = 48;  // query rows of a tile: its queries, sums and scores stay in the first-level cache
constexpr int kMaxQueryRows = 64;  // of a tile that follows the rows of a tile list

// The query rows of a tile. With grouped queries the heads of a group are neighbouring rows of one token.
struct QueryRows {
  int count = 0;
  int32_t lowest = 0;  // of the positions
  int32_t highest = 0;
  bool global = false;  // all rows are exempt from window and dilation, else none
  int64_t index[kMaxQueryRows];     // token * num_heads + head: the row in a [tokens * heads, head size] tensor
  int32_t head[kMaxQueryRows];
  int32_t position[kMaxQueryRows];  // compared with key positions
};

enum class TileKind { kEmpty, kPartial, kFull };

// Which key tiles a query tile visits, and which keys in them each row sees. Kernels only see lists, kinds and bits.
class TileMask {
 public:
  // Kind of the tile; for kPartial fills row_bits[row], bit k = key k of the tile is visible.
  // A tile of fewer than kKeyTile keys is never kFull.
  virtual TileKind visit(const QueryRows& rows, int64_t key_tile, uint64_t* row_bits) const = 0;
  // Fills `tiles` with key tiles outside of which every tile is empty for these rows, each once; returns how many.
  virtual int64_t list(const QueryRows& rows, int32_t* tiles) const = 0;

 protected:
  ~TileMask() = default;
};

// Keys and values of one tile, ready for the kernels.
struct KeyValueTile {
  const float* keys = nullptr;    // [head_size, kKeyTile]: transposed, zeros past the last key
  const float* values = nullptr;  // [keys, value_stride]
  int64_t value_stride = 0;
};

// Where the kernels find the keys and values of one sequence and head.
class KeyValuePanels {
 public:
  virtual KeyValueTile tile(int64_t key_tile) = 0;
  // Keys [first, last) of a tile will be asked for soon.
  virtual void prefetch(int64_t /*key_tile*/, int /*first*/, int /*last*/) {}

 protected:
  ~KeyValuePanels() = default;
};

struct AttentionShape {
  Element element = Element::kFloat;
  int head_size = 0;
  int value_head_size = 0;
  int num_heads = 0;
  int64_t total_q = 0;
  float scale = 0.0f;
};

// Buffers of one worker, allocated once per call.
struct TileScratch {
  float* query = nullptr;    // [kMaxQueryRows, kQueryStride]
  float* output = nullptr;   // [kMaxQueryRows, padded value head size]
  int32_t* tiles = nullptr;  // [key tiles of the longest sequence]
};

constexpr int kQueryStride = 256 + 16;  // floats; a constant, so that row offsets are part of the instructions;
                                        // an odd number of cache lines, so that rows spread over the cache's sets

// Value head size rounded up to whole vectors of every instruction set.
static constexpr int padded_head_size(int head_size) { return (head_size + 15) / 16 * 16; }

}  // namespace raggedrt
