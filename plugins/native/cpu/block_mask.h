// BlockMask: the tile list of an analytic mask. The same tiles as plugins/layout/from_rules.py makes, step by step.
//
// 1. Of each rule, interval arithmetic gives the tile columns where it may hold and those where it surely holds.
// 2. Tiles where the mask may hold but does not surely hold are evaluated, one query at a time as ranges of keys.
// 3. Entries in order of sequence, group, tile row, tile column; bitmaps in order of first use, equal ones shared.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <unordered_map>
#include <vector>

namespace raggedrt {

constexpr int64_t kUnbounded = (int64_t{1} << 31) - 1;
constexpr size_t kRuleInts = 11;
constexpr int64_t kLargestBlock = 1024;

// Units of query and key positions that see each other (see plugins/contract/mask_rules.py).
struct MaskRule {
  int64_t clause;
  int64_t unit;
  int64_t query_begin, query_end, query_step;
  int64_t key_begin, key_end, key_step;
  int64_t low, high, step;  // of key - query
};

struct BlockMaskInput {
  const MaskRule* rules = nullptr;  // by clause, not decreasing
  int64_t rule_count = 0;
  int64_t length = 0;  // positions
  int64_t block_size = 0;
  const int32_t* blocks = nullptr;  // [groups, block_rows, block_columns]; may be null: one group
  int64_t groups = 1;
  int64_t block_rows = 0;
  int64_t block_columns = 0;
  const int32_t* cu_seqlens = nullptr;  // [sequences + 1]; may be null: one mask for all
  int64_t sequences = 1;
};

// Why the integers are no rules; null: they are, and `rules` has them.
const char* decode_rules(const std::vector<int64_t>& numbers, std::vector<MaskRule>& rules);

class BlockMask {
 public:
  explicit BlockMask(const BlockMaskInput& input);

  std::vector<int32_t> ptr;  // [sequences, groups, rows + 1]
  std::vector<int32_t> col;
  std::vector<int32_t> tag;
  std::vector<uint32_t> bits;  // [bitmaps, words]

  int64_t rows() const { return rows_; }
  int64_t words() const { return words_; }

 private:
  struct Row;

  void add_row(int64_t own, int64_t group, int64_t row);
  void bound(const Row& row, const MaskRule& rule);
  void mark(int64_t first, int64_t last, uint8_t flag);
  void mark_listed(const Row& row);
  bool is_listed(const Row& row, int64_t column) const;
  void evaluate(const Row& row, int64_t column);
  int32_t bitmap_index();

  BlockMaskInput input_;
  int64_t rows_;
  int64_t words_;
  int64_t clauses_;
  std::vector<uint8_t> state_;   // by tile column: may hold, surely holds, all clauses so far
  std::vector<uint8_t> clause_;  // the same of one clause
  std::vector<uint32_t> bitmap_;
  std::vector<uint32_t> line_;   // of one query and clause
  std::unordered_multimap<uint64_t, int32_t> known_;  // bitmaps by hash
};

}  // namespace raggedrt
