// What one variant of the attention kernel is: its macros as constants, and how it divides shared memory.
//
// A variant is this set of macros; nothing else differs between variants:
//   RAGGEDRT_ENTRY       the kernel's symbol
//   RAGGEDRT_ELEMENT     half | bfloat16
//   RAGGEDRT_HEAD_SIZE   of keys and values, a multiple of 16, at most 128
//   RAGGEDRT_MASK        0: every key is visible | 1: masks by position | 2: tile lists, and masks by position
//   RAGGEDRT_SCORES      1: whatever ScoreTerms holds, and any scale; 0: no score terms but sinks, scale > 0
//   RAGGEDRT_WARPS       of a block
//   RAGGEDRT_ROW_BLOCKS  blocks of 16 query rows that a warp owns
//   RAGGEDRT_KEY_TILE    keys of a step, 32 or 64
//   RAGGEDRT_STAGES      key tiles in shared memory, at least 2
//   RAGGEDRT_MIN_BLOCKS  blocks that a multiprocessor must be able to hold: limits registers
//
// Anonymous namespaces: several variants may end up in one program, and each has its own constants.
#pragma once

#include "cuda/device/device.h"
#include "cuda/kernels/params.h"

namespace raggedrt::device {
namespace {

using cuda::AttentionParams;
using Element = RAGGEDRT_ELEMENT;

constexpr int kHeadSize = RAGGEDRT_HEAD_SIZE;
constexpr bool kByPosition = RAGGEDRT_MASK >= 1;
constexpr bool kByTiles = RAGGEDRT_MASK == 2;
constexpr bool kModified = RAGGEDRT_SCORES == 1;
constexpr int kWarps = RAGGEDRT_WARPS;
constexpr int kRowBlocks = RAGGEDRT_ROW_BLOCKS;
constexpr int kKeys = RAGGEDRT_KEY_TILE;
constexpr int kStages = RAGGEDRT_STAGES;

constexpr int kThreads = 32 * kWarps;
constexpr int kWarpRows = 16 * kRowBlocks;
constexpr int kRows = kWarpRows * kWarps;  // of a query tile
constexpr int kKeyGroups = kKeys / 16;     // what one step of the second product takes, and the unit that is skipped
constexpr int kSlices = kHeadSize / 16;    // what one step of the first product takes
constexpr int kVectors = kHeadSize / 8;    // 16-byte vectors of a row

// Fragments of queries, outputs and scores together must leave a thread some 80 of its 255 registers. Where they would
// not, queries are read from shared memory for every tile.
constexpr bool kQueriesInRegisters = kRowBlocks * (12 * kSlices + kKeys / 2) < 176;

static_assert(kHeadSize % 16 == 0 && kHeadSize <= 128, "head sizes are multiples of 16, at most 128");
static_assert(kKeys == 32 || kKeys == 64, "a key tile is half or all of what a KeySummary describes");
static_assert(kByPosition || !kModified, "score terms need positions");
static_assert(kStages >= 2, "a tile is copied while another is in use");

// A work list has items of at most so many rows. Kernels with more take an item together with those that follow it in
// its sequence, which is only possible where items begin at multiples of their size.
constexpr int kListRows = 64;
static_assert(kRows <= kListRows || !kByTiles, "with a tile list items begin anywhere");

constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kLn2 = 0.69314718055994530942f;
constexpr int kNearest = -(1 << 30);  // before and past every position
constexpr int kFarthest = 1 << 30;

// Bytes of shared memory: per stage keys, then values, then what is known of each key; then the queries, in whose place
// the outputs are gathered; then the next item.
constexpr int kRowBytes = kHeadSize * 2;
constexpr int kTileBytes = kKeys * kRowBytes;
constexpr int kKeyFacts = (kByPosition ? 1 : 0) + (kByTiles ? 1 : 0) + (kModified ? 1 : 0);
constexpr int kFactBytes = kByPosition ? (kKeys * kKeyFacts + 32) * 4 : 0;
constexpr int kStageBytes = 2 * kTileBytes + kFactBytes;
constexpr int kQueryBytes = kRows * kRowBytes;
constexpr int kQueryOffset = kStages * kStageBytes;
constexpr int kNextOffset = kQueryOffset + kQueryBytes;
constexpr int kSharedBytes = kNextOffset + 128;

// Used in turns: a block may go on to store the item after the next while some of its threads still read the next.
RAGGEDRT_DEVICE int* next_item_slot(int turn) {
  return reinterpret_cast<int*>(shared_memory() + kNextOffset) + turn % 2;
}

// The same in all lanes of a warp, and the compiler knows: branches on it need no care for lanes that go the other way.
RAGGEDRT_DEVICE int uniform(int value) { return shuffle(value, 0); }
RAGGEDRT_DEVICE int uniform_warp_index() { return uniform(warp_index()); }

// The value, but the compiler cannot know: what follows from it is computed here, not once before a loop and then kept in
// registers that the loop has no room for.
RAGGEDRT_DEVICE int recomputed(int value) { return shuffle(value, lane_index()); }

// One stage of shared memory.
struct Stage {
  char* keys;
  char* values;
  int* facts;

  RAGGEDRT_DEVICE explicit Stage(int number)
      : keys(shared_memory() + number * kStageBytes),
        values(keys + kTileBytes),
        facts(reinterpret_cast<int*>(values + kTileBytes)) {}

  // Of each key: its position, -1 where nothing may see it.
  RAGGEDRT_DEVICE int* positions() const { return facts; }
  // Of each key: kHidden, kShown, or the byte of the bitmaps that holds its column of bitmap row 0.
  RAGGEDRT_DEVICE int* bytes() const { return facts + kKeys; }
  // Of each key: its index in the sequence.
  RAGGEDRT_DEVICE int* indices() const { return facts + kKeys * (kByTiles ? 2 : 1); }
  // Whether every query of the tile sees every key.
  RAGGEDRT_DEVICE int* full() const { return facts + kKeys * kKeyFacts; }
};

constexpr int kHidden = -2;
constexpr int kShown = -1;

// The queries of one item and head, and the keys that may be theirs. Equal in all threads of a block, but for `lane`.
struct Item {
  int sequence;
  int head;
  int kv_head;
  int split;
  int query_index;  // of row 0, within the sequence
  int first_query;  // token of row 0
  int rows;         // 0: they are part of the item before in the sequence
  int first_key;    // token of key 0
  int keys;         // of the sequence
  int shift;        // of the position of a query without positions
  int lane;         // lane_index(), recomputed for every item
};

// The tokens of a sequence. The host cannot see offsets: those that do not fit the tensors are clipped to them.
struct Tokens {
  int first;
  int count;

  RAGGEDRT_DEVICE Tokens(const int* offsets, int total) {
    first = minimum(maximum(load_global_readonly(offsets), 0), total);
    count = minimum(maximum(load_global_readonly(offsets + 1), first), total) - first;
  }
};

RAGGEDRT_DEVICE Item make_item(const AttentionParams& params, int number) {
  const int entry = number / params.num_heads;
  const Vec16 words = load_global_readonly(
      reinterpret_cast<const Vec16*>(params.work_list + cuda::kWorkHeader) + entry);
  Item item;
  item.sequence = static_cast<int>(words.word[0]);
  item.query_index = static_cast<int>(words.word[1]);
  item.rows = static_cast<int>(words.word[2]);
  item.split = static_cast<int>(words.word[3]);
  item.head = number - entry * params.num_heads;
  item.kv_head = item.head / (params.num_heads / params.kv_num_heads);
  const Tokens queries(params.cu_seqlens_q + item.sequence, params.total_q);
  const Tokens keys(params.cu_seqlens_k + item.sequence, params.total_k);
  item.first_query = queries.first + item.query_index;
  item.rows = minimum(item.rows, queries.count - item.query_index);
  item.first_key = keys.first;
  item.keys = keys.count;
  if constexpr (kRows > kListRows) {
    item.rows = item.query_index % kRows == 0 ? minimum(kRows, queries.count - item.query_index) : 0;
  }
  const bool at_the_end = params.causal != 0 && params.positions_q == nullptr && params.positions_k == nullptr;
  item.lane = recomputed(lane_index());
  item.shift = at_the_end ? item.keys - queries.count : 0;
  return item;
}

// Tiles [first, last) of a split among `tiles`.
struct TileRange {
  int first;
  int last;
};

RAGGEDRT_DEVICE TileRange split_range(const AttentionParams& params, const Item& item, int first, int tiles) {
  if (params.splits == 1) return {first, first + tiles};
  const int share = (tiles + params.splits - 1) / params.splits;
  const int begin = minimum(tiles, share * item.split);
  return {first + begin, first + minimum(tiles, begin + share)};
}

}  // namespace
}  // namespace raggedrt::device
