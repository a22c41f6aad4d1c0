// Arguments of the device kernels: what the launcher fills in and a kernel receives by value.
//
// Read by NVRTC, which has no standard headers, by the launcher and by the emulator: plain types only (int is 32 bits,
// long long 64). Pointers are device pointers. Meanings are those of the op definitions (plugins/ops).
#pragma once

namespace raggedrt {
namespace cuda {

// ---- Work list -----------------------------------------------------------------------------------------------------

// One piece of attention: query rows of one sequence, for every head.
struct WorkItem {
  int sequence;
  int first_query;  // within the sequence
  int rows;         // at most 64; with a tile list all of one tile row; 0: unused item
  int split;        // which part of the keys: 0 … splits - 1
};

// A work list is int32 [kWorkHeader + 4 * capacity]: how many items are used, three zeros, then the items, those with
// most keys first. Every query of every sequence is in one item per split, also where the sequence has no key.
constexpr int kWorkHeader = 4;

// ---- Attention -----------------------------------------------------------------------------------------------------

constexpr int kKeyTile = 64;            // keys that a KeySummary describes
constexpr int kMaxGlobalTokens = 128;   // held in the arguments; more are refused
constexpr int kNotConsecutive = -2147483647 - 1;

// What is known of the positions of kKeyTile keys.
struct KeySummary {
  int lowest;   // of the positions that are not negative
  int highest;
  int visible;  // number of them; 0: lowest and highest mean nothing
  int reserved;
};

// Masks by position, beyond causality.
struct MaskTerms {
  int window_left;   // -1: unbounded
  int window_right;  // -1: unbounded
  int dilation;      // 1: none
  int global_count;
  int global_tokens[kMaxGlobalTokens];  // ascending
};

// A mask as tiles (see plugins/layout); none if ptr is null.
struct TileList {
  const int* ptr;   // [sequences or 1, groups, rows + 1]
  const int* col;   // [entries]
  const int* tag;   // [entries]; -1: full, else a bitmap
  const int* bits;  // [bitmaps, block_size * block_size / 32]
  const int* head_group;  // [num_heads]; may be null
  int sequences;
  int groups;
  int rows;
  int entries;
  int bitmaps;  // bitmaps * block_size * block_size / 8 < 2^31
  int block_size;
};

// What is done to scores after scaling; absent where null. Tables are of the element type, sinks and slopes float.
struct ScoreTerms {
  float softcap;     // 0: none
  const void* bias;  // [sequences or 1, num_heads or 1, size, size]
  int bias_sequences;
  int bias_heads;
  int bias_size;
  const void* distance_bias;  // [num_heads or 1, distance_count]
  int distance_heads;
  int distance_count;
  const void* rel_query;  // [total_q, num_heads, rel_size]
  const void* rel_key;    // [total_k, num_heads, rel_size]
  const int* rel_bucket;  // [bucket_count]
  int rel_size;
  int bucket_count;
  const float* head_sink;     // [num_heads]
  const float* alibi_slopes;  // [num_heads]
};

// Tensors are aligned to 16 bytes, and so is each row of each head: head sizes are multiples of 8.
struct AttentionParams {
  const void* query;         // [total_q, num_heads * head_size]
  const void* key;           // [total_k, kv_num_heads * head_size]
  const void* value;         // [total_k, kv_num_heads * value_head_size]
  const int* cu_seqlens_q;   // [sequences + 1]
  const int* cu_seqlens_k;   // [sequences + 1]
  const int* positions_q;    // [total_q]; may be null: index within the sequence
  const int* positions_k;    // [total_k]; may be null; negative: never visible
  void* output;              // [total_q, num_heads * value_head_size]
  float* lse;                // [num_heads, total_q]; may be null
  int sequences;
  int total_q;
  int total_k;
  int num_heads;
  int kv_num_heads;
  int head_size;
  int value_head_size;
  float scale;  // the factor itself, never 0; kernels without score terms need it positive
  int causal;
  MaskTerms mask;
  TileList tiles;
  ScoreTerms scores;

  const int* work_list;  // see above
  int* work_counter;     // one int, 0 before the launch: blocks take items as they finish; null: by a fixed stride

  // What describe_keys wrote; null where positions_k is null or no mask compares positions.
  const KeySummary* key_summaries;  // [total_k / kKeyTile + sequences]: sequence s from cu_seqlens_k[s] / kKeyTile + s
  const int* key_base;              // [sequences]: key k lies at position base + k; kNotConsecutive: no such base

  // With splits > 1 nothing is written to output and lse, but what each split found, to be merged: the output over its
  // keys and the logarithm of its denominator, -inf where it saw none. The sink is not counted: merging adds it.
  int splits;
  float* split_output;  // [splits, total_q, num_heads * value_head_size]
  float* split_lse;     // [splits, num_heads, total_q]
};

// Describes the positions of all keys. Any grid; one block works on one sequence at a time.
struct DescribeKeysParams {
  const int* positions_k;   // [total_k]
  const int* cu_seqlens_k;  // [sequences + 1]
  int sequences;
  KeySummary* key_summaries;  // as in AttentionParams
  int* key_base;
  int total_k;
};

}  // namespace cuda
}  // namespace raggedrt
