// The rules of an analytic mask over tiles and over single queries, as ranges of positions. The steps are those of
// cpu/block_mask.cc.
#pragma once

#include "cuda/device/device.h"
#include "cuda/kernels/data_params.h"

namespace raggedrt::device::tiles {

using cuda::kTileUnbounded;
using cuda::TileListParams;
using cuda::TileRule;

// First and last of some positions, units or columns; none where last < first.
struct Span {
  long long first;
  long long last;
};

RAGGEDRT_DEVICE long long floor_divide(long long a, long long b) { return a / b - (a % b < 0 ? 1 : 0); }

RAGGEDRT_DEVICE long long ceil_divide(long long a, long long b) { return -floor_divide(-a, b); }

RAGGEDRT_DEVICE Span resolved(int begin, int end, long long units) {
  return {begin < 0 ? begin + units : begin, (end < 0 ? end + units : end) - 1};
}

RAGGEDRT_DEVICE Span intersect(const Span& a, const Span& b) {
  return {maximum(a.first, b.first), minimum(a.last, b.last)};
}

// Bits first to last of 32, as far as they are among them.
RAGGEDRT_DEVICE uint32_t bit_range(long long first, long long last) {
  if (last < first || last < 0 || first > 31) return 0;
  const uint32_t up_to_last = last >= 31 ? 0xffffffffu : (2u << static_cast<int>(last)) - 1;
  return first <= 0 ? up_to_last : up_to_last & ~((1u << static_cast<int>(first)) - 1);
}

// A tile row of one sequence and group.
struct Row {
  int own;  // positions of the sequence
  int group;
  int row;
  long long first;  // query positions
  long long last;
};

// Tile columns of 32 neighbouring ones, bit 0 = `first_column`, where a mask may hold and where it surely holds.
struct Columns {
  uint32_t maybe;
  uint32_t surely;
};

RAGGEDRT_DEVICE Columns rule_columns(const TileListParams& params, const TileRule& rule, const Row& row,
                                     int first_column) {
  const long long size = params.block_size;
  const long long units = ceil_divide(row.own, rule.unit);
  const long long last_column = (row.own - 1) / size;
  const Span queries = {row.first / rule.unit, row.last / rule.unit};
  const Span inner = intersect(queries, resolved(rule.query_begin, rule.query_end, units));
  if (inner.last < inner.first) return {0, 0};
  const Span keys = intersect(resolved(rule.key_begin, rule.key_end, units), {0, units - 1});
  const bool open_low = rule.low == -kTileUnbounded;
  const bool open_high = rule.high == kTileUnbounded;
  const Span reached =
      intersect(keys, {open_low ? 0 : inner.first + rule.low, open_high ? units - 1 : inner.last + rule.high});
  if (reached.last < reached.first) return {0, 0};
  const long long last_reached = minimum(last_column, (reached.last * rule.unit + rule.unit - 1) / size);
  Columns columns = {bit_range(reached.first * rule.unit / size - first_column, last_reached - first_column), 0};
  if (rule.query_step > 1 || rule.key_step > 1 || rule.step > 1 || inner.first != queries.first ||
      inner.last != queries.last) {
    return columns;
  }
  const Span sure =
      intersect(keys, {open_low ? 0 : queries.last + rule.low, open_high ? units - 1 : queries.first + rule.high});
  if (sure.last < sure.first) return columns;
  const long long end = (sure.last + 1) * rule.unit;  // of the positions that are surely seen
  const long long last_sure = end >= row.own ? last_column : end / size - 1;
  columns.surely = bit_range(ceil_divide(sure.first * rule.unit, size) - first_column, last_sure - first_column);
  return columns;
}

// The blocks that are listed for the row, among 32 columns.
RAGGEDRT_DEVICE uint32_t listed_columns(const TileListParams& params, const Row& row, int first_column) {
  if (params.blocks == nullptr || row.row >= params.block_rows) return 0;
  const long long place = static_cast<long long>(row.group) * params.block_rows + row.row;
  uint32_t bits = 0;
  for (int i = 0; i < params.block_columns; ++i) {
    const int column = load_global_readonly(params.blocks + place * params.block_columns + i);
    if (column >= 0) bits |= bit_range(column - first_column, column - first_column);
  }
  return bits;
}

RAGGEDRT_DEVICE Columns mask_columns(const TileListParams& params, const Row& row, int first_column) {
  const uint32_t existing = bit_range(0, (row.own - 1) / params.block_size - first_column);
  Columns all = {existing, existing};
  int next = 0;
  for (int clause = 0; clause < params.clauses; ++clause) {
    const uint32_t listed = clause == 0 ? listed_columns(params, row, first_column) : 0;
    Columns any = {listed, listed};
    for (; next < params.rule_count && params.rules[next].clause == clause; ++next) {
      const Columns columns = rule_columns(params, params.rules[next], row, first_column);
      any.maybe |= columns.maybe;
      any.surely |= columns.surely;
    }
    all.maybe &= any.maybe;
    all.surely &= any.surely;
  }
  return all;
}

// Which of `count` <= 32 keys from `first` on the rule shows to a query: bit 0 is `first`.
RAGGEDRT_DEVICE uint32_t rule_keys(const TileRule& rule, int own, long long query, long long first, int count) {
  const long long last = first + count - 1;
  const long long units = ceil_divide(own, rule.unit);
  const long long q = query / rule.unit;
  const Span queries = resolved(rule.query_begin, rule.query_end, units);
  if (q < queries.first || q > queries.last || (q - queries.first) % rule.query_step != 0) return 0;
  const Span allowed = resolved(rule.key_begin, rule.key_end, units);
  Span keys = intersect(allowed, {first / rule.unit, last / rule.unit});
  if (rule.low != -kTileUnbounded) keys.first = maximum(keys.first, q + rule.low);
  if (rule.high != kTileUnbounded) keys.last = minimum(keys.last, q + rule.high);
  if (keys.last < keys.first) return 0;
  if (rule.key_step == 1 && rule.step == 1) {
    return bit_range(keys.first * rule.unit - first, minimum((keys.last + 1) * rule.unit - 1, last) - first);
  }
  uint32_t bits = 0;
  for (long long unit = keys.first; unit <= keys.last; ++unit) {
    if ((unit - allowed.first) % rule.key_step != 0 || (unit - q) % rule.step != 0) continue;
    bits |= bit_range(unit * rule.unit - first, minimum((unit + 1) * rule.unit - 1, last) - first);
  }
  return bits;
}

// The mask of one query and `count` <= 32 keys of one tile; those past the sequence are hidden.
RAGGEDRT_DEVICE uint32_t mask_keys(const TileListParams& params, const Row& row, bool listed, long long query,
                                   long long first, int count) {
  uint32_t visible = bit_range(0, minimum<long long>(count, row.own - first) - 1);
  if (query > row.last) return 0;
  int next = 0;
  for (int clause = 0; clause < params.clauses && visible != 0; ++clause) {
    uint32_t any = clause == 0 && listed ? 0xffffffffu : 0;
    for (; next < params.rule_count && params.rules[next].clause == clause; ++next) {
      any |= rule_keys(params.rules[next], row.own, query, first, count);
    }
    visible &= any;
  }
  return visible;
}

// Word `index` of the bitmap of a tile.
RAGGEDRT_DEVICE uint32_t bitmap_word(const TileListParams& params, const Row& row, int column, bool listed,
                                     int index) {
  const int size = params.block_size;
  uint32_t word = 0;
  for (int done = 0; done < 32;) {
    const int element = 32 * index + done;
    const int key = element % size;
    const int count = minimum(32 - done, size - key);
    const long long first = static_cast<long long>(column) * size + key;
    word |= mask_keys(params, row, listed, row.first + element / size, first, count) << done;
    done += count;
  }
  return word;
}

}  // namespace raggedrt::device::tiles
