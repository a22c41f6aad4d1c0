// Arguments of the kernels around attention: packing, copies, work lists, tile lists, merging. Rules as in params.h.
//
// Each struct names the kernel families that take it (kernels/<family>.cu), the grid and block they are launched with,
// their dynamic shared memory, and the -D macros of a variant beyond RAGGEDRT_ENTRY. Where no grid is told, any grid
// is right: blocks stride over the work. Block sizes are multiples of 32 up to kDataThreads.
#pragma once

#include "cuda/kernels/params.h"

namespace raggedrt {
namespace cuda {

constexpr int kDataThreads = 256;   // threads of a block of every kernel here, unless told otherwise
constexpr int kScanThreads = 1024;  // of kernels that run as one block

// ---- Packing plan --------------------------------------------------------------------------------------------------

// A mask as PackingPlan takes it; valid where non-zero.
struct MaskTensor {
  const void* data;  // [rows, slots]; null: absent
  int bytes;         // of one element: 1, 4 or 8
  int is_float;      // 4 bytes: float, else int32
};

constexpr int kMaxKeepSlots = 64;  // held in the arguments; more are refused

// Three launches in this order: packing_count, packing_scan (1 block of kScanThreads), packing_fill; each with one int
// of shared memory per warp.
struct PackingPlanParams {
  MaskTensor mask;
  MaskTensor keep_mask;
  int keep_slots[kMaxKeepSlots];  // resolved by the host: 0 <= slot < slots
  int keep_count;
  int rows;
  int slots;        // rows * slots < 2^31
  int capacity;     // the token count is rounded up to a positive multiple of it; 0: exact
  int tokens;       // rows of the three outputs by token; those past the kept slots become 0, 0 and -1
  int* cu_seqlens;  // [rows + 1]; packing_count leaves each row's count at [row + 1]
  int* token_index;   // [tokens]
  int* position;      // [tokens]
  int* key_position;  // [tokens]
  long long* token_count;  // [1]: the token count, rounded up; may be null
};

// ---- Copies of token rows ------------------------------------------------------------------------------------------

// pack_tokens: target [tokens, row_bytes] from source [slots, row_bytes].
// unpack_invert, then unpack_tokens: target [slots, row_bytes] from source [tokens, row_bytes]. The workspace
// token_of_slot must be zero before.
// A thread copies vectors of RAGGEDRT_VECTOR_BYTES (16, 8, 4, 2 or 1); row_bytes and both pointers are multiples of it.
struct TokenCopyParams {
  const void* source;
  void* target;
  const int* token_index;   // [tokens]; negative: a row of zeros (pack), dropped (unpack)
  const int* key_position;  // [tokens]; may be null; negative: dropped (unpack)
  int* token_of_slot;       // [slots], of unpack: 1 + the token in the slot, 0 where there is none
  int tokens;
  int slots;  // an index from `slots` on counts as negative
  int row_bytes;
};

// Largest RAGGEDRT_VECTOR_BYTES that `bits`, the bitwise or of row bytes and addresses, allows.
constexpr int vector_bytes(unsigned long long bits) {
  return bits % 16 == 0 ? 16 : bits % 8 == 0 ? 8 : bits % 4 == 0 ? 4 : bits % 2 == 0 ? 2 : 1;
}

// ---- Work list -----------------------------------------------------------------------------------------------------

constexpr int kWorkClasses = 64;
constexpr int kWorkRows = 64;  // most query rows of an item
constexpr int kWorkThreads = 512;

// work_list: writes a work list (see params.h). Each block counts the items of all sequences, then writes those of its
// own: grid work_blocks, blocks of kWorkThreads, kWorkSharedBytes of shared memory.
//
// An item has at most kWorkRows queries; with a tile list they are of one tile row. Items with more key tiles to visit
// come earlier, in kWorkClasses classes of equal width. Lengths that do not fit the tensors are clipped to them.
struct WorkListParams {
  const int* cu_seqlens_q;  // [sequences + 1]
  const int* cu_seqlens_k;  // [sequences + 1]
  const int* positions_q;   // [total_q]; may be null; read with a tile list only
  int sequences;
  int total_q;
  int total_k;
  int causal;
  MaskTerms mask;
  TileList tiles;
  int splits;      // every item is there once per split
  int most_tiles;  // key tiles (of kKeyTile keys) of the longest sequence
  int lanes;       // threads that share a sequence: a power of two from 1 to kWorkThreads (see work_lanes)
  int capacity;    // items that fit
  int* work_list;  // [kWorkHeader + 4 * capacity], aligned to 16 bytes
};

constexpr int kWorkSharedBytes = 3 * kWorkClasses * 4;

// Items that any lengths of this sum can need, for one split. With positions a tile row may begin anywhere.
constexpr long long work_items(long long total_q, long long sequences, int block_size, bool positions) {
  if (block_size == 0) return total_q / kWorkRows + sequences;
  if (positions) return total_q;
  const long long per_row = (block_size + kWorkRows - 1) / kWorkRows;
  const long long bound = total_q / block_size * per_row + 2 * per_row * sequences;
  return bound < total_q ? bound : total_q;
}

// A good number of threads per sequence, the longest of which has `items`: a thread waits about 600 cycles for lengths
// and takes about 80 for an item. Whole warps where the kernel has to look at all positions.
constexpr int work_lanes(long long items, long long sequences, bool all_positions) {
  int best = 0;
  long long least = 0;
  for (int lanes = all_positions ? 32 : 1; lanes <= kWorkThreads; lanes *= 2) {
    const long long steps = (sequences * lanes + kWorkThreads - 1) / kWorkThreads;
    const long long cycles = steps * (600 + (items + lanes - 1) / lanes * 80);
    if (best == 0 || cycles < least) {
      best = lanes;
      least = cycles;
    }
  }
  return best;
}

// A good number of blocks: each one writes a few items per thread.
constexpr int work_blocks(long long items) {
  const long long blocks = (items + 4 * kWorkThreads - 1) / (4 * kWorkThreads);
  return blocks < 1 ? 1 : blocks > 32 ? 32 : static_cast<int>(blocks);
}

// ---- Tile list of an analytic mask ---------------------------------------------------------------------------------

constexpr int kMaxRules = 32;  // held in the arguments; more are refused
constexpr int kTileUnbounded = 0x7fffffff;

// Units of query and key positions that see each other (see plugins/contract/mask_rules.py).
struct TileRule {
  int clause;
  int unit;
  int query_begin, query_end, query_step;
  int key_begin, key_end, key_step;
  int low, high, step;  // of key - query
};

// Of one tile row: its entries, and those of them that need a bitmap; after tile_list_scan what is before it.
struct TileRowCount {
  int entries;
  int candidates;
};

// A tile that needs a bitmap. Equal bitmaps have equal hashes; 128 bits make different ones differ.
struct TileCandidate {
  unsigned long long hash[2];
  int row;  // of sequences * groups * tile_rows
  int column;
  int entry;
  int first;  // the first candidate with the same bitmap
};

// Five launches in this order: tile_list_count, tile_list_scan (1 block of kScanThreads), tile_list_fill,
// tile_list_share (1 block of kScanThreads), tile_list_bits; those of one block with kScanThreads / 32 * 4 bytes of
// shared memory. Equal bitmaps are stored once, in order of first use. words = ceil(tile_rows / 32),
// rows = sequences * groups * tile_rows.
struct TileListParams {
  TileRule rules[kMaxRules];  // by clause, not decreasing
  int rule_count;
  int clauses;  // at least 1 where blocks are given
  int length;   // positions
  int block_size;
  const int* blocks;  // [groups, block_rows, block_columns]; may be null
  int groups;
  int block_rows;
  int block_columns;
  const int* cu_seqlens;  // [sequences + 1]; may be null: one mask for all
  int sequences;
  int tile_rows;  // ceil(length / block_size)

  // Workspace, not initialised.
  unsigned* listed;           // [rows, words]: bit = the tile has an entry
  unsigned* partial;          // [rows, words]: bit = its entry has a bitmap
  TileRowCount* counts;       // [rows]
  TileCandidate* candidates;  // [candidate_capacity]
  int* candidate_index;       // [candidate_capacity]: index of the bitmap
  int* table;                 // [table_size], a power of two, better not below twice the candidates
  int* candidate_count;       // [1]
  int candidate_capacity;     // rows * tile_rows are always enough
  int table_size;

  // Outputs; what exceeds a capacity is not written, but counted.
  int* tile_ptr;        // [sequences, groups, tile_rows + 1]
  int* tile_col;        // [entry_capacity]
  int* tile_tag;        // [entry_capacity]
  unsigned* tile_bits;  // [bitmap_capacity, block_size * block_size / 32]
  int entry_capacity;
  int bitmap_capacity;
  long long* entry_count;   // [1]
  long long* bitmap_count;  // [1]
};

// ---- Merging -------------------------------------------------------------------------------------------------------

// merge_states: attention over two disjoint key sets becomes attention over their union. RAGGEDRT_ELEMENT.
struct MergeParams {
  const void* output1;  // [tokens, heads * head_size]
  const void* output2;
  const float* lse1;  // [heads, tokens]
  const float* lse2;
  void* output;
  float* lse;
  int tokens;
  int heads;
  int head_size;
};

constexpr int kMaxSplits = 128;

// combine_splits: what AttentionParams::split_output and split_lse hold becomes output and lse. RAGGEDRT_ELEMENT.
struct CombineParams {
  const float* split_output;  // [splits, total_q, num_heads * value_head_size]
  const float* split_lse;     // [splits, num_heads, total_q]
  const float* head_sink;     // [num_heads]; may be null
  const int* cu_seqlens_q;    // rows from cu_seqlens_q[sequences] on become 0, their lse -inf
  void* output;               // [total_q, num_heads * value_head_size]
  float* lse;                 // [num_heads, total_q]; may be null
  int sequences;
  int splits;  // at most kMaxSplits
  int total_q;
  int num_heads;
  int value_head_size;
};

// ---- Row-wise attention --------------------------------------------------------------------------------------------

// row_attention takes AttentionParams; it reads no work list, key summaries or splits. Any head sizes up to
// RAGGEDRT_HEAD_SIZE: 32, 64, 128 or 256; RAGGEDRT_ELEMENT. Tensors need only be aligned to their elements.
// A row is a query and one of the heads that share a key/value head; a warp takes row_tile(RAGGEDRT_HEAD_SIZE) rows.
// Grid: (row_blocks, kv_num_heads), blocks of kRowThreads, row_shared_bytes of shared memory.
constexpr int kRowThreads = 128;
constexpr int kRowWarps = kRowThreads / 32;
constexpr int kRowChunkBytes = 128;  // of a key that lie in shared memory at a time

constexpr int row_tile(int largest_head) { return largest_head <= 128 ? 4 : 2; }

constexpr long long row_blocks(int largest_head, long long total_q, int heads_per_key_head) {
  return (total_q * heads_per_key_head + row_tile(largest_head) * kRowWarps - 1) / (row_tile(largest_head) * kRowWarps);
}

// Per warp: 32 keys of kRowChunkBytes and 16 bytes in between, the scaled queries and the weights of 32 keys as floats.
constexpr int row_warp_bytes(int largest_head) {
  return 32 * (kRowChunkBytes + 16) + row_tile(largest_head) * (largest_head + 32) * 4;
}
constexpr int row_shared_bytes(int largest_head) { return kRowWarps * row_warp_bytes(largest_head); }

}  // namespace cuda
}  // namespace raggedrt
