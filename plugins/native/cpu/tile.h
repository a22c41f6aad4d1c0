// Tile sizes, and the views through which the scheduler hands work to the instruction-set specific kernels.
#pragma once

#include <stdint.h>

#include "cpu/element.h"

namespace raggedrt {

constexpr int kKeyTile = 64;    // keys of a tile: one bit each in a 64-bit row of a tile mask
constexpr int kQueryTile = 48;  // query rows of a tile: its queries, sums and scores stay in the first-level cache

// The query rows of a tile. With grouped queries the heads of a group are neighbouring rows of one token.
struct QueryRows {
  int count = 0;
  int64_t index[kQueryTile];     // token * num_heads + head: the row in a [tokens * heads, head size] tensor
  int32_t position[kQueryTile];  // compared with key positions
};

enum class TileKind { kEmpty, kPartial, kFull };

// Which key tiles a query tile visits, and which keys in them each row sees. Windows, tile lists and global tokens
// belong behind this interface; kernels only see kinds and bits.
class TileMask {
 public:
  // Kind of the tile; for kPartial fills row_bits[row], bit k = key k of the tile is visible.
  // A tile of fewer than kKeyTile keys is never kFull.
  virtual TileKind visit(const QueryRows& rows, int64_t key_tile, uint64_t* row_bits) const = 0;
  // Key tiles [first, last) outside of which every tile is empty for these rows.
  virtual void range(const QueryRows& rows, int64_t* first, int64_t* last) const = 0;

 protected:
  ~TileMask() = default;
};

// Keys and values of one sequence and head, ready for the kernels.
struct KeyValuePanels {
  const float* keys = nullptr;    // [tiles, head_size, kKeyTile]: transposed, zeros past the last key
  const float* values = nullptr;  // [keys, value_stride]
  int64_t value_stride = 0;
  int64_t count = 0;  // keys
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
  float* query = nullptr;   // [kQueryTile, kQueryStride]
  float* output = nullptr;  // [kQueryTile, padded value head size]
};

constexpr int kQueryStride = 256 + 16;  // floats; a constant, so that row offsets are part of the instructions;
                                        // an odd number of cache lines, so that rows spread over the cache's sets

// Value head size rounded up to whole vectors of every instruction set.
static constexpr int padded_head_size(int head_size) { return (head_size + 15) / 16 * 16; }

}  // namespace raggedrt
