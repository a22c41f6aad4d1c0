// Which rows a warp of row_attention takes, and which keys they see.
//
// A GPU cannot refuse what tensors hold: offsets, groups, entries and buckets that contradict the shapes give wrong
// values, but touch no memory outside of the tensors and end.
#pragma once

#include "cuda/device/device.h"
#include "cuda/kernels/data_params.h"

#ifndef RAGGEDRT_ELEMENT
#define RAGGEDRT_ELEMENT half
#endif
#ifndef RAGGEDRT_HEAD_SIZE
#define RAGGEDRT_HEAD_SIZE 64
#endif

namespace raggedrt::device::row {
namespace {  // several variants may end up in one program, and each has its own elements and sizes

using cuda::AttentionParams;
using Element = RAGGEDRT_ELEMENT;

constexpr int kLargestHead = RAGGEDRT_HEAD_SIZE;
constexpr int kRows = cuda::row_tile(kLargestHead);
constexpr int kKeyStride = cuda::kRowChunkBytes + 16;  // the 16 bytes spread the lanes' keys over the banks
constexpr int kFar = 1 << 30;                          // past every position

// Neighbouring rows of one sequence and key/value head; row = query * heads + head within the group. No sequence: -1.
struct Segment {
  int sequence;
  int kv_head;
  int heads;  // that share the key/value head
  int rows;   // at most kRows
  long long first_row;  // token * heads + head of row 0
  int first_query;      // token
  int first_key;        // token
  int keys;
  int shift;  // of the position of a query without positions: causality aligns different lengths at the end
};

RAGGEDRT_DEVICE int clipped(int value, int high) { return minimum(maximum(value, 0), high); }

// The sequence of a token; -1: it is past the last one. All lanes of the warp.
RAGGEDRT_DEVICE int sequence_of(const AttentionParams& params, int token) {
  const int* offsets = params.cu_seqlens_q;
  if (token >= load_global_readonly(offsets + params.sequences) || token < load_global_readonly(offsets)) return -1;
  int low = 0;  // offsets[low] <= token < offsets[high]
  int high = params.sequences;
  while (high - low > 1) {
    const int step = (high - low + 31) / 32;
    const int probe = low + (lane_index() + 1) * step;
    const bool begun = probe < high && load_global_readonly(offsets + minimum(probe, high)) <= token;
    low += population_count(ballot(begun)) * step;
    high = minimum(high, low + step);
  }
  return low;
}

// The rows from `first` on that lie in one sequence, before `end`. All lanes of the warp.
RAGGEDRT_DEVICE Segment segment_at(const AttentionParams& params, long long first, long long end) {
  Segment segment = {};
  segment.kv_head = block_index_y();
  segment.heads = params.num_heads / params.kv_num_heads;
  segment.first_row = first;
  const int token = static_cast<int>(first / segment.heads);
  segment.sequence = sequence_of(params, token);
  const int last_query =
      segment.sequence < 0 ? 0 : load_global_readonly(params.cu_seqlens_q + segment.sequence + 1);
  if (last_query <= token) segment.sequence = -1;  // also where offsets do not ascend
  if (segment.sequence < 0) {
    // Up to the next token only: a sequence may begin behind it.
    segment.rows = static_cast<int>(minimum<long long>(end - first, (token + 1LL) * segment.heads - first));
    return segment;
  }
  const long long last_row = static_cast<long long>(last_query) * segment.heads;
  segment.rows = static_cast<int>(minimum(end, last_row) - first);
  segment.first_query = load_global_readonly(params.cu_seqlens_q + segment.sequence);
  segment.first_key = clipped(load_global_readonly(params.cu_seqlens_k + segment.sequence), params.total_k);
  const int last_key = clipped(load_global_readonly(params.cu_seqlens_k + segment.sequence + 1), params.total_k);
  segment.keys = maximum(0, last_key - segment.first_key);
  const bool by_index = params.positions_q == nullptr && params.positions_k == nullptr;
  if (by_index && params.causal != 0) segment.shift = segment.keys - (last_query - segment.first_query);
  return segment;
}

struct RowPlace {
  int token;
  int head;
};

RAGGEDRT_DEVICE RowPlace place_of(const AttentionParams&, const Segment& segment, int row) {
  const long long at = segment.first_row + row;
  const int token = static_cast<int>(at / segment.heads);
  const int head = static_cast<int>(at - static_cast<long long>(token) * segment.heads);
  return {token, segment.kv_head * segment.heads + head};
}

RAGGEDRT_DEVICE bool is_global(const AttentionParams& params, int position) {
  bool found = false;
  for (int i = 0; i < params.mask.global_count; ++i) found = found || params.mask.global_tokens[i] == position;
  return found;
}

// What a row may see, and where its scores come from.
struct alignas(16) RowMask {
  int token;
  int head;
  int position;
  int low;  // of the positions inside the window
  int high;
  int highest;     // the last position that causality allows
  int exempt;      // from window and dilation
  int entry;       // first one of the row in the tile list
  int last_entry;  // the one after its last
  int bit;         // of the row in a bitmap
  int unused[2];
};
constexpr int kMaskVectors = sizeof(RowMask) / 16;
static_assert(kMaskVectors * kRows <= 32, "each vector has a gap of its own");

// Masks of the rows lie in the gaps that stand between the keys in shared memory: as registers they would be too many.
RAGGEDRT_DEVICE Vec16* mask_gap(char* keys, int row, int vector) {
  return reinterpret_cast<Vec16*>(keys + (row * kMaskVectors + vector) * kKeyStride + cuda::kRowChunkBytes);
}

// By one lane.
RAGGEDRT_DEVICE void store_mask(char* keys, int row, const RowMask& mask) {
  RAGGEDRT_UNROLL
  for (int i = 0; i < kMaskVectors; ++i) {
    store_shared(mask_gap(keys, row, i), reinterpret_cast<const Vec16*>(&mask)[i]);
  }
}

RAGGEDRT_DEVICE RowMask load_mask(char* keys, int row) {
  RowMask mask;
  RAGGEDRT_UNROLL
  for (int i = 0; i < kMaskVectors; ++i) reinterpret_cast<Vec16*>(&mask)[i] = load_shared(mask_gap(keys, row, i));
  return mask;
}

RAGGEDRT_DEVICE RowMask mask_of(const AttentionParams& params, const Segment& segment, int row) {
  const RowPlace place = place_of(params, segment, row);
  RowMask mask = {};
  mask.token = place.token;
  mask.head = place.head;
  mask.position = params.positions_q != nullptr ? load_global_readonly(params.positions_q + place.token)
                                                : place.token - segment.first_query + segment.shift;
  const int left = params.mask.window_left;
  const int right = params.mask.window_right;
  mask.exempt = is_global(params, mask.position) ? 1 : 0;
  mask.low = left < 0 || mask.exempt != 0 ? -kFar : mask.position - minimum(left, kFar);
  mask.high = right < 0 || mask.exempt != 0 ? kFar : mask.position + minimum(right, kFar - maximum(0, mask.position));
  mask.highest = params.causal != 0 ? mask.position : kFar;
  const cuda::TileList& tiles = params.tiles;
  if (tiles.ptr == nullptr) return mask;
  const int tile_row = mask.position >= 0 ? mask.position / tiles.block_size : -1;
  mask.bit = mask.position >= 0 ? mask.position % tiles.block_size * tiles.block_size : 0;
  if (tile_row < 0 || tile_row >= tiles.rows) return mask;  // no entries: nothing is seen
  int group = tiles.groups == 1 ? 0 : mask.head;
  if (tiles.head_group != nullptr) group = load_global_readonly(tiles.head_group + mask.head);
  group = clipped(group, tiles.groups - 1);
  const long long plane = static_cast<long long>(tiles.sequences == 1 ? 0 : segment.sequence) * tiles.groups + group;
  const int* ends = tiles.ptr + plane * (tiles.rows + 1) + tile_row;
  mask.entry = clipped(load_global_readonly(ends), tiles.entries);
  mask.last_entry = clipped(load_global_readonly(ends + 1), tiles.entries);
  return mask;
}

struct KeyPlace {
  int key;       // of the sequence
  int position;  // -1: never visible
  bool global;
};

RAGGEDRT_DEVICE KeyPlace key_at(const AttentionParams& params, const Segment& segment, int key) {
  if (key >= segment.keys) return {key, -1, false};
  const int position =
      params.positions_k != nullptr ? load_global_readonly(params.positions_k + segment.first_key + key) : key;
  return {key, position, is_global(params, position)};
}

// Whether the tile list shows a position to the row.
RAGGEDRT_DEVICE bool in_tiles(const AttentionParams& params, const RowMask& row, int position) {
  const cuda::TileList& tiles = params.tiles;
  const int column = position / tiles.block_size;
  int low = row.entry;
  int high = row.last_entry;
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (load_global_readonly(tiles.col + middle) < column) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low >= row.last_entry || load_global_readonly(tiles.col + low) != column) return false;
  const int tag = load_global_readonly(tiles.tag + low);
  if (tag < 0) return true;
  if (tag >= tiles.bitmaps) return false;
  const int bit = row.bit + position % tiles.block_size;
  const long long words = static_cast<long long>(tiles.block_size) * tiles.block_size / 32;
  return (load_global_readonly(tiles.bits + tag * words + bit / 32) >> (bit % 32) & 1) != 0;
}

RAGGEDRT_DEVICE bool sees(const AttentionParams& params, const RowMask& row, const KeyPlace& key) {
  if (key.position < 0 || key.position > row.highest) return false;
  if (row.exempt == 0 && !key.global) {
    if (key.position < row.low || key.position > row.high) return false;
    if (params.mask.dilation > 1 && (key.position - row.position) % params.mask.dilation != 0) return false;
  }
  return params.tiles.ptr == nullptr || in_tiles(params, row, key.position);
}

// Keys outside of it are hidden from all rows; begins at a multiple of 32.
struct KeyRange {
  int first;
  int end;
};

RAGGEDRT_DEVICE KeyRange key_range(const AttentionParams& params, const Segment& segment, char* keys) {
  KeyRange range = {0, segment.keys};
  if (params.positions_k != nullptr) return range;  // positions may come in any order
  int low = kFar;
  int high = -kFar;
  for (int r = 0; r < segment.rows; ++r) {
    const RowMask row = load_mask(keys, r);
    low = minimum(low, params.mask.global_count > 0 ? -kFar : row.low);
    high = maximum(high, minimum(row.highest, params.mask.global_count > 0 ? kFar : row.high));
  }
  range.first = maximum(0, low) / 32 * 32;
  range.end = minimum(range.end, high + 1);
  return range;
}

}  // namespace
}  // namespace raggedrt::device::row
