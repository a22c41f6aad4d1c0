// The tile list of an analytic mask on the device: the same as plugins/layout/from_rules.py and cpu/block_mask.cc make.
//
// A warp works on a tile row, a lane on 32 of its columns: rules bound both where the mask may hold and where it surely
// holds in closed form, so only tiles in between are evaluated, by all lanes. Bytes moved: 16 per row of tiles for the
// two bitsets, 8 per entry, 4 W per distinct bitmap of W words, 32 per tile that needs one. The least is the outputs.
#pragma once

#include "cuda/device/device.h"
#include "cuda/kernels/data_params.h"
#include "cuda/kernels/scan.cuh"
#include "cuda/kernels/tile_rules.cuh"

namespace raggedrt::device::tiles {

using cuda::TileCandidate;
using cuda::TileRowCount;

RAGGEDRT_DEVICE int words_of(const TileListParams& params) { return (params.tile_rows + 31) / 32; }

RAGGEDRT_DEVICE int row_count(const TileListParams& params) {
  return params.sequences * params.groups * params.tile_rows;
}

RAGGEDRT_DEVICE Row row_at(const TileListParams& params, int index) {
  const int plane = index / params.tile_rows;
  const int sequence = plane / params.groups;
  Row row;
  row.own = params.length;
  if (params.cu_seqlens != nullptr) {
    const int first = load_global_readonly(params.cu_seqlens + sequence);
    row.own = maximum(0, minimum(row.own, load_global_readonly(params.cu_seqlens + sequence + 1) - first));
  }
  row.group = plane % params.groups;
  row.row = index % params.tile_rows;
  row.first = static_cast<long long>(row.row) * params.block_size;
  row.last = minimum<long long>(row.first + params.block_size, row.own) - 1;
  return row;
}

RAGGEDRT_DEVICE bool is_listed(const TileListParams& params, const Row& row, int column) {
  return (listed_columns(params, row, column) & 1) != 0;
}

enum class Kind { kEmpty, kPartial, kFull };

// Evaluates a tile; all lanes of the warp.
RAGGEDRT_DEVICE Kind kind_of(const TileListParams& params, const Row& row, int column) {
  const bool listed = is_listed(params, row, column);
  const int words = params.block_size * params.block_size / 32;
  int seen = 0;
  for (int word = lane_index(); word < words; word += 32) {
    seen += population_count(bitmap_word(params, row, column, listed, word));
  }
  seen = warp_sum(seen);
  const long long first = static_cast<long long>(column) * params.block_size;
  const long long keys = minimum<long long>(params.block_size, row.own - first);
  if (seen == 0) return Kind::kEmpty;
  return seen == (row.last - row.first + 1) * keys ? Kind::kFull : Kind::kPartial;
}

// Entries of the 32 columns from 32 * word on, and which of them are partial. All lanes of the warp, one word each.
struct Entries {
  uint32_t listed;
  uint32_t partial;
};

RAGGEDRT_DEVICE Entries entries_of(const TileListParams& params, const Row& row, int word) {
  Columns columns = {0, 0};
  if (row.last >= row.first && word < words_of(params)) columns = mask_columns(params, row, 32 * word);
  Entries entries = {columns.surely, 0};
  const uint32_t open = columns.maybe & ~columns.surely;
  for (uint32_t lanes = ballot(open != 0); lanes != 0; lanes &= lanes - 1) {
    const int owner = first_set_bit(lanes);
    const int first = 32 * shuffle(word, owner);
    for (uint32_t left = shuffle(open, owner); left != 0; left &= left - 1) {
      const int bit = first_set_bit(left);
      const Kind kind = kind_of(params, row, first + bit);
      if (lane_index() != owner || kind == Kind::kEmpty) continue;
      entries.listed |= 1u << bit;
      if (kind == Kind::kPartial) entries.partial |= 1u << bit;
    }
  }
  return entries;
}

RAGGEDRT_DEVICE int first_row_of_warp() { return block_index_x() * (block_threads() / 32) + warp_index(); }

RAGGEDRT_DEVICE int warps_of_grid() { return grid_size_x() * (block_threads() / 32); }

RAGGEDRT_DEVICE void count(const TileListParams& params) {
  const int words = words_of(params);
  for (int index = first_row_of_warp(); index < row_count(params); index += warps_of_grid()) {
    const Row row = row_at(params, index);
    TileRowCount counts = {0, 0};
    for (int base = 0; base < words; base += 32) {
      const int word = base + lane_index();
      const Entries entries = entries_of(params, row, word);
      counts.entries += population_count(entries.listed);
      counts.candidates += population_count(entries.partial);
      if (word >= words) continue;
      store_global(params.listed + static_cast<long long>(index) * words + word, entries.listed);
      store_global(params.partial + static_cast<long long>(index) * words + word, entries.partial);
    }
    counts.entries = warp_sum(counts.entries);
    counts.candidates = warp_sum(counts.candidates);
    if (lane_index() == 0) store_global(params.counts + index, counts);
  }
}

// One block.
RAGGEDRT_DEVICE void scan(const TileListParams& params) {
  int* scratch = reinterpret_cast<int*>(shared_memory());
  const int rows = row_count(params);
  TileRowCount before = {0, 0};
  for (int first = 0; first < rows; first += block_threads()) {
    const int row = first + thread_index();
    const bool real = row < rows;
    const TileRowCount own = real ? load_global(params.counts + row) : TileRowCount{0, 0};
    const Prefix entries = block_prefix(own.entries, scratch);
    const Prefix candidates = block_prefix(own.candidates, scratch);
    const TileRowCount sum = {before.entries + entries.before, before.candidates + candidates.before};
    if (real) {
      store_global(params.counts + row, sum);
      const int plane = row / params.tile_rows;
      int* ends = params.tile_ptr + static_cast<long long>(plane) * (params.tile_rows + 1);
      if (row % params.tile_rows == 0) store_global(ends, sum.entries);
      store_global(ends + row % params.tile_rows + 1, sum.entries + own.entries);
    }
    before = {before.entries + entries.total, before.candidates + candidates.total};
  }
  // Without tile rows every plane has one end, 0.
  for (int plane = thread_index(); params.tile_rows == 0 && plane < params.sequences * params.groups;
       plane += block_threads()) {
    store_global(params.tile_ptr + plane, 0);
  }
  if (thread_index() != 0) return;
  store_global(params.entry_count, static_cast<long long>(before.entries));
  store_global(params.candidate_count, minimum(before.candidates, params.candidate_capacity));
}

RAGGEDRT_DEVICE uint64_t mixed(uint64_t value) {  // splitmix64
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
  return value ^ (value >> 31);
}

RAGGEDRT_DEVICE uint64_t warp_sum_64(uint64_t value) {
  RAGGEDRT_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}

// Hash of a tile's bitmap: sums, so that the order in which lanes take words does not matter. All lanes of the warp.
RAGGEDRT_DEVICE void hash_tile(const TileListParams& params, const Row& row, int column, uint64_t (&hash)[2]) {
  const bool listed = is_listed(params, row, column);
  const int words = params.block_size * params.block_size / 32;
  hash[0] = hash[1] = 0;
  for (int word = lane_index(); word < words; word += 32) {
    const uint64_t bits = bitmap_word(params, row, column, listed, word);
    const uint64_t place = static_cast<uint64_t>(word) << 32 | bits;
    hash[0] += mixed(place + 0x9e3779b97f4a7c15ull);
    hash[1] += mixed(place * 0xd1342543de82ef95ull + 0x2545f4914f6cdd1dull);
  }
  hash[0] = warp_sum_64(hash[0]);
  hash[1] = warp_sum_64(hash[1]);
}

// Writes a candidate; all lanes of the warp.
RAGGEDRT_DEVICE void write_candidate(const TileListParams& params, const Row& row, int index, int column, int place,
                                     int entry) {
  uint64_t hash[2];
  hash_tile(params, row, column, hash);
  if (lane_index() != 0 || place >= params.candidate_capacity) return;
  TileCandidate* candidate = params.candidates + place;
  store_global(candidate->hash, static_cast<unsigned long long>(hash[0]));
  store_global(candidate->hash + 1, static_cast<unsigned long long>(hash[1]));
  store_global(&candidate->row, index);
  store_global(&candidate->column, column);
  store_global(&candidate->entry, entry);
}

RAGGEDRT_DEVICE void fill(const TileListParams& params) {
  const int words = words_of(params);
  for (int index = first_row_of_warp(); index < row_count(params); index += warps_of_grid()) {
    const Row row = row_at(params, index);
    TileRowCount before = load_global_readonly(params.counts + index);
    for (int base = 0; base < words; base += 32) {
      const int word = base + lane_index();
      const long long at = static_cast<long long>(index) * words + word;
      const uint32_t listed = word < words ? load_global_readonly(params.listed + at) : 0;
      const uint32_t partial = word < words ? load_global_readonly(params.partial + at) : 0;
      const int entries = warp_inclusive_sum(population_count(listed));
      const int candidates = warp_inclusive_sum(population_count(partial));
      const int first_entry = before.entries + entries - population_count(listed);
      const int first_candidate = before.candidates + candidates - population_count(partial);
      int entry = first_entry;
      for (uint32_t left = listed; left != 0; left &= left - 1, ++entry) {
        if (entry >= params.entry_capacity) break;
        const int bit = first_set_bit(left);
        store_global(params.tile_col + entry, 32 * word + bit);
        if ((partial >> bit & 1) == 0) store_global(params.tile_tag + entry, -1);
      }
      for (uint32_t lanes = ballot(partial != 0); lanes != 0; lanes &= lanes - 1) {
        const int owner = first_set_bit(lanes);
        const uint32_t all = shuffle(listed, owner);
        const int owner_entry = shuffle(first_entry, owner);
        int place = shuffle(first_candidate, owner);
        for (uint32_t left = shuffle(partial, owner); left != 0; left &= left - 1, ++place) {
          const int bit = first_set_bit(left);
          const int entry_of_bit = owner_entry + population_count(all & ((1u << bit) - 1));
          write_candidate(params, row, index, 32 * (base + owner) + bit, place, entry_of_bit);
        }
      }
      before = {before.entries + shuffle(entries, 31), before.candidates + shuffle(candidates, 31)};
    }
  }
}

// ---- Equal bitmaps -------------------------------------------------------------------------------------------------

RAGGEDRT_DEVICE bool same_bitmap(const TileListParams& params, int a, int b) {
  const unsigned long long* first = params.candidates[a].hash;
  const unsigned long long* second = params.candidates[b].hash;
  return load_global(first) == load_global(second) && load_global(first + 1) == load_global(second + 1);
}

// Finds for each candidate the first one with the same bitmap, by rounds. Equal bitmaps share a slot of the table, so
// the least candidate of a slot is the first of its bitmap; the others of the slot try again with another hash. One
// block.
RAGGEDRT_DEVICE void find_first(const TileListParams& params, int candidates) {
  int size = params.table_size;  // as much of the table as is needed: it is cleared in each round
  while (size > 64 && size / 4 >= candidates) size /= 2;
  for (int i = thread_index(); i < candidates; i += block_threads()) store_global(&params.candidates[i].first, -1);
  for (int round = 0; ; ++round) {
    for (int i = thread_index(); i < size; i += block_threads()) {
      store_global(params.table + i, kTileUnbounded);
    }
    sync_block();
    const auto slot = [&](int candidate) {
      const uint64_t hash = load_global(params.candidates[candidate].hash);
      return params.table + (mixed(hash + static_cast<uint64_t>(round)) & static_cast<uint64_t>(size - 1));
    };
    for (int i = thread_index(); i < candidates; i += block_threads()) {
      if (load_global(&params.candidates[i].first) < 0) atomic_min_global(slot(i), i);
    }
    sync_block();
    bool open = false;
    for (int i = thread_index(); i < candidates; i += block_threads()) {
      if (load_global(&params.candidates[i].first) >= 0) continue;
      const int first = load_global(slot(i));
      if (same_bitmap(params, first, i)) {
        store_global(&params.candidates[i].first, first);
      } else {
        open = true;
      }
    }
    if (!any_block(open)) return;
  }
}

// One block.
RAGGEDRT_DEVICE void share(const TileListParams& params) {
  int* scratch = reinterpret_cast<int*>(shared_memory());
  const int candidates = load_global(params.candidate_count);
  if (candidates > 0) find_first(params, candidates);
  int bitmaps = 0;
  for (int base = 0; base < candidates; base += block_threads()) {
    const int i = base + thread_index();
    const bool first = i < candidates && load_global(&params.candidates[i].first) == i;
    const Prefix prefix = block_prefix(first ? 1 : 0, scratch);
    if (first) store_global(params.candidate_index + i, bitmaps + prefix.before);
    bitmaps += prefix.total;
  }
  sync_block();
  for (int i = thread_index(); i < candidates; i += block_threads()) {
    const int first = load_global(&params.candidates[i].first);
    if (first != i) store_global(params.candidate_index + i, load_global(params.candidate_index + first));
  }
  if (thread_index() == 0) store_global(params.bitmap_count, static_cast<long long>(bitmaps));
}

RAGGEDRT_DEVICE void bits(const TileListParams& params) {
  const int candidates = load_global_readonly(params.candidate_count);
  const int words = params.block_size * params.block_size / 32;
  for (int i = first_row_of_warp(); i < candidates; i += warps_of_grid()) {
    const TileCandidate* candidate = params.candidates + i;
    const int bitmap = load_global_readonly(params.candidate_index + i);
    const int entry = load_global_readonly(&candidate->entry);
    if (lane_index() == 0 && entry < params.entry_capacity) store_global(params.tile_tag + entry, bitmap);
    if (load_global_readonly(&candidate->first) != i || bitmap >= params.bitmap_capacity) continue;
    const Row row = row_at(params, load_global_readonly(&candidate->row));
    const int column = load_global_readonly(&candidate->column);
    const bool listed = is_listed(params, row, column);
    for (int word = lane_index(); word < words; word += 32) {
      store_global(params.tile_bits + static_cast<long long>(bitmap) * words + word,
                   bitmap_word(params, row, column, listed, word));
    }
  }
}

}  // namespace raggedrt::device::tiles
