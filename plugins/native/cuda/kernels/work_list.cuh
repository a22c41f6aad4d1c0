// The work list of attention: items of query rows, those with most key tiles to visit first.
//
// A counting sort without a pass between blocks: every block counts the items of all sequences by class of cost, and
// of those before its own sequences; so it knows where its own items of each class begin. Costs are closed forms of
// the lengths, and of tile_ptr for tile lists. Order within a class is not defined.
//
// Bytes moved: 8 per sequence and block of the grid, 16 per item; with a tile list and positions 4 per query and block.
// The least is 8 per sequence and 16 per item. In all some 100 KB for 1000 sequences.
#pragma once

#include "cuda/device/device.h"
#include "cuda/kernels/data_params.h"

namespace raggedrt::device::work {

using cuda::kKeyTile;
using cuda::kWorkClasses;
using cuda::kWorkRows;
using cuda::WorkListParams;

constexpr int kFar = 1 << 30;  // windows beyond it reach everything, and sums with places do not overflow

struct Sequence {
  int index;
  int first_query;
  int queries;
  int keys;
  int shift;  // of the place of a query without positions: causality aligns different lengths at the end
};

struct Item {
  int first;  // query of the sequence
  int rows;
  int place;  // position of the first query, as masks compare it
};

RAGGEDRT_DEVICE int clipped(int value, int low, int high) { return minimum(maximum(value, low), high); }

RAGGEDRT_DEVICE int floor_divide(int a, int b) { return a / b - (a % b < 0 ? 1 : 0); }

RAGGEDRT_DEVICE int ceil_divide(int a, int b) { return (a + b - 1) / b; }

RAGGEDRT_DEVICE Sequence sequence_at(const WorkListParams& params, int index) {
  const int first_q = clipped(load_global_readonly(params.cu_seqlens_q + index), 0, params.total_q);
  const int last_q = clipped(load_global_readonly(params.cu_seqlens_q + index + 1), 0, params.total_q);
  const int first_k = clipped(load_global_readonly(params.cu_seqlens_k + index), 0, params.total_k);
  const int last_k = clipped(load_global_readonly(params.cu_seqlens_k + index + 1), 0, params.total_k);
  Sequence sequence = {index, first_q, maximum(0, last_q - first_q), maximum(0, last_k - first_k), 0};
  if (params.causal != 0 && params.positions_q == nullptr) sequence.shift = sequence.keys - sequence.queries;
  return sequence;
}

// ---- Cost ----------------------------------------------------------------------------------------------------------

// Key tiles that causality and window leave open. Original positions count as indices: close enough for an order.
RAGGEDRT_DEVICE int open_tiles(const WorkListParams& params, const Sequence& sequence, const Item& item) {
  const int all = ceil_divide(sequence.keys, kKeyTile);
  const int last = item.place + item.rows - 1;
  int low = 0;
  int high = sequence.keys - 1;
  bool global = false;
  int extra = 0;
  if (params.mask.window_left >= 0 || params.mask.window_right >= 0) {
    for (int i = 0; i < params.mask.global_count; ++i) {
      global = global || (params.mask.global_tokens[i] >= item.place && params.mask.global_tokens[i] <= last);
    }
    if (!global && params.mask.window_left >= 0) {
      low = maximum(low, item.place - minimum(params.mask.window_left, kFar));
    }
    if (!global && params.mask.window_right >= 0) {
      high = minimum(high, last + minimum(params.mask.window_right, kFar));
    }
    if (!global) extra = params.mask.global_count;
  }
  if (params.causal != 0) high = minimum(high, last);
  const int inside = high < low ? 0 : high / kKeyTile - low / kKeyTile + 1;
  return minimum(all, inside + extra);
}

// Key tiles that the tile list shows, on average over its groups.
RAGGEDRT_DEVICE int listed_tiles(const WorkListParams& params, const Sequence& sequence, const Item& item) {
  const cuda::TileList& tiles = params.tiles;
  const int row = floor_divide(item.place, tiles.block_size);
  if (row < 0 || row >= tiles.rows) return 0;
  long long entries = 0;
  for (int group = 0; group < tiles.groups; ++group) {
    const long long plane = static_cast<long long>(tiles.sequences == 1 ? 0 : sequence.index) * tiles.groups + group;
    const int* ends = tiles.ptr + plane * (tiles.rows + 1) + row;
    entries += load_global_readonly(ends + 1) - load_global_readonly(ends);
  }
  const long long keys = entries * tiles.block_size / tiles.groups;
  return static_cast<int>(minimum<long long>((keys + kKeyTile - 1) / kKeyTile, kFar));
}

// 0 for what costs most.
RAGGEDRT_DEVICE int class_of(const WorkListParams& params, const Sequence& sequence, const Item& item) {
  int cost = open_tiles(params, sequence, item);
  if (params.tiles.ptr != nullptr) cost = minimum(cost, listed_tiles(params, sequence, item));
  const int most = maximum(1, params.most_tiles);
  const long long scaled = static_cast<long long>(minimum(cost, most)) * (kWorkClasses - 1);
  return kWorkClasses - 1 - static_cast<int>((scaled + most - 1) / most);
}

// ---- Items of one sequence -----------------------------------------------------------------------------------------

// Calls body(item) for every `step`-th item from `first` on. Places are indices: items end where tile rows do.
template <typename Body>
RAGGEDRT_DEVICE void for_even_items(const WorkListParams& params, const Sequence& sequence, int first, int step,
                                    const Body& body) {
  const bool listed = params.tiles.ptr != nullptr;
  const int size = listed ? params.tiles.block_size : kWorkRows;
  const int per_row = ceil_divide(size, kWorkRows);
  // Queries up to the first end of a tile row.
  const int offset = listed ? sequence.shift - floor_divide(sequence.shift, size) * size : 0;
  const int head = minimum(sequence.queries, size - offset);
  const int head_items = ceil_divide(head, kWorkRows);
  const int rest = sequence.queries - head;
  const int items = head_items + rest / size * per_row + ceil_divide(rest % size, kWorkRows);
  for (int i = first; i < items; i += step) {
    int begin = i * kWorkRows;
    int end = head;
    if (i >= head_items) {
      const int row = (i - head_items) / per_row;
      begin = head + row * size + (i - head_items) % per_row * kWorkRows;
      end = minimum(sequence.queries, head + (row + 1) * size);
    }
    body(Item{begin, minimum(kWorkRows, end - begin), begin + sequence.shift});
  }
}

RAGGEDRT_DEVICE int tile_row_at(const WorkListParams& params, const Sequence& sequence, int query) {
  const int position = load_global_readonly(params.positions_q + sequence.first_query + query);
  return floor_divide(position, params.tiles.block_size);
}

// The first query of the run of queries in one tile row that `query` belongs to. All lanes of the warp.
RAGGEDRT_DEVICE int run_start(const WorkListParams& params, const Sequence& sequence, int query) {
  const int row = tile_row_at(params, sequence, query);
  for (int last = query - 1; last >= 0; last -= 32) {
    const int before = last - lane_index();
    const uint32_t others = ballot(before >= 0 && tile_row_at(params, sequence, maximum(0, before)) != row);
    if (others != 0) return last - first_set_bit(others) + 1;
  }
  return 0;
}

// Likewise with positions in any order: a warp takes every `step`-th piece of the sequence from `first` on and finds
// the runs of queries in one tile row. Whole warps; body is called by single lanes.
template <typename Body>
RAGGEDRT_DEVICE void for_runs(const WorkListParams& params, const Sequence& sequence, int first, int step,
                              const Body& body) {
  constexpr int kPiece = 256;
  for (int piece = first * kPiece; piece < sequence.queries; piece += step * kPiece) {
    const int end = minimum(sequence.queries, piece + kPiece);
    int start = run_start(params, sequence, piece);
    for (int base = piece; base < end; base += 32) {
      const int query = base + lane_index();
      const bool real = query < end;
      const int row = real ? tile_row_at(params, sequence, query) : 0;
      const bool begins = real && query > piece && tile_row_at(params, sequence, query - 1) != row;
      // The newest run that begins up to here.
      const uint32_t begun = ballot(begins) & (0xffffffffu >> (31 - lane_index()));
      const int own_start = begun != 0 ? base + 31 - leading_zeros(begun) : start;
      const bool last = query + 1 >= sequence.queries;
      const bool last_of_row = real && (last || tile_row_at(params, sequence, query + 1) != row);
      const int rows = (query - own_start) % kWorkRows + 1;
      if (last_of_row || (real && rows == kWorkRows)) {
        const int position = load_global_readonly(params.positions_q + sequence.first_query + query - rows + 1);
        body(Item{query - rows + 1, rows, position});
      }
      start = shuffle(own_start, 31);
    }
  }
}

// Calls body(sequence, item) for the items of sequences first_sequence to last_sequence - 1.
template <typename Body>
RAGGEDRT_DEVICE void for_items(const WorkListParams& params, int first_sequence, int last_sequence, const Body& body) {
  const int lanes = minimum(params.lanes, block_threads());
  const int groups = block_threads() / lanes;
  const int lane = thread_index() % lanes;
  const bool all_positions = params.tiles.ptr != nullptr && params.positions_q != nullptr;
  int index = first_sequence + thread_index() / lanes;
  if (index >= last_sequence) return;
  Sequence next = sequence_at(params, index);
  for (; index < last_sequence; index += groups) {
    const Sequence sequence = next;
    if (index + groups < last_sequence) next = sequence_at(params, index + groups);  // arrives during the items
    const auto with_sequence = [&](const Item& item) { body(sequence, item); };
    if (all_positions) {
      for_runs(params, sequence, lane / 32, lanes / 32, with_sequence);
    } else {
      for_even_items(params, sequence, lane, lanes, with_sequence);
    }
  }
}

// ---- The list ------------------------------------------------------------------------------------------------------

// Counts of one class that a thread holds back: neighbouring items are mostly of one class, and adding to one address
// is slow where all threads do it.
struct Tally {
  int in_class;
  int count;
  bool before;
};

RAGGEDRT_DEVICE void flush(const Tally& tally, int* totals, int* befores) {
  if (tally.count == 0) return;
  atomic_add_shared(totals + tally.in_class, tally.count);
  if (tally.before) atomic_add_shared(befores + tally.in_class, tally.count);
}

// Turns counts into the places where this block's items of each class begin; returns the number of items. One warp.
RAGGEDRT_DEVICE int place_classes(const int* totals, const int* befores, int* cursors) {
  const int lane = lane_index();
  int counts[kWorkClasses / 32];
  int sum = 0;
  RAGGEDRT_UNROLL
  for (int i = 0; i < kWorkClasses / 32; ++i) {
    counts[i] = load_shared(totals + lane * (kWorkClasses / 32) + i);
    sum += counts[i];
  }
  int inclusive = sum;
  RAGGEDRT_UNROLL
  for (int delta = 1; delta < 32; delta *= 2) {
    const int below = shuffle_up(inclusive, delta);
    if (lane >= delta) inclusive += below;
  }
  int begin = inclusive - sum;
  RAGGEDRT_UNROLL
  for (int i = 0; i < kWorkClasses / 32; ++i) {
    const int at = lane * (kWorkClasses / 32) + i;
    store_shared(cursors + at, begin + load_shared(befores + at));
    begin += counts[i];
  }
  return shuffle(inclusive, 31);
}

RAGGEDRT_DEVICE void write_item(const WorkListParams& params, int place, const Sequence& sequence, const Item& item) {
  for (int split = 0; split < params.splits; ++split) {
    if (place + split >= params.capacity) return;
    const Vec16 words = {{static_cast<uint32_t>(sequence.index), static_cast<uint32_t>(item.first),
                          static_cast<uint32_t>(item.rows), static_cast<uint32_t>(split)}};
    store_global(reinterpret_cast<Vec16*>(params.work_list + cuda::kWorkHeader) + place + split, words);
  }
}

RAGGEDRT_DEVICE void write_list(const WorkListParams& params) {
  int* totals = reinterpret_cast<int*>(shared_memory());  // items of each class
  int* befores = totals + kWorkClasses;                   // those of sequences before the block's own
  int* cursors = befores + kWorkClasses;                  // where the block's next item goes
  const int per_block = ceil_divide(params.sequences, grid_size_x());
  const int first_own = minimum(params.sequences, block_index_x() * per_block);
  const int last_own = minimum(params.sequences, first_own + per_block);

  for (int i = thread_index(); i < 2 * kWorkClasses; i += block_threads()) store_shared(totals + i, 0);
  sync_block();
  Tally tally = {0, 0, false};
  for_items(params, 0, params.sequences, [&](const Sequence& sequence, const Item& item) {
    const int in_class = class_of(params, sequence, item);
    const bool before = sequence.index < first_own;
    if (in_class != tally.in_class || before != tally.before) {
      flush(tally, totals, befores);
      tally = {in_class, 0, before};
    }
    tally.count += params.splits;
  });
  flush(tally, totals, befores);
  sync_block();
  if (warp_index() == 0) {
    const int used = place_classes(totals, befores, cursors);
    if (block_index_x() == 0 && lane_index() < cuda::kWorkHeader) {
      store_global(params.work_list + lane_index(), lane_index() == 0 ? minimum(used, params.capacity) : 0);
    }
  }
  sync_block();
  for_items(params, first_own, last_own, [&](const Sequence& sequence, const Item& item) {
    const int place = atomic_add_shared(cursors + class_of(params, sequence, item), params.splits);
    write_item(params, place, sequence, item);
  });
}

}  // namespace raggedrt::device::work
