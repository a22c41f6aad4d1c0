#include "cpu/block_mask.h"

#include <algorithm>
#include <functional>

#include "cpu/bits.h"

namespace raggedrt {
namespace {

constexpr uint8_t kMaybe = 1;
constexpr uint8_t kSurely = 2;

// First and last of some positions, units or columns; none where last < first.
struct Span {
  int64_t first;
  int64_t last;
};

int64_t ceil_divide(int64_t a, int64_t b) { return -floor_divide(-a, b); }

Span resolved(int64_t begin, int64_t end, int64_t units) {
  return {begin < 0 ? begin + units : begin, (end < 0 ? end + units : end) - 1};
}

Span intersect(const Span& a, const Span& b) { return {std::max(a.first, b.first), std::min(a.last, b.last)}; }

void set_bits(uint32_t* words, int64_t first, int64_t last) {
  for (int64_t word = first / 32; word <= last / 32; ++word) {
    words[word] |= static_cast<uint32_t>(bit_range(first - word * 32, std::min<int64_t>(31, last - word * 32)));
  }
}

// Sets the bits of the keys first..last that the rule shows to a query; bit 0 is `first`.
void add_keys(const MaskRule& rule, int64_t length, int64_t query, int64_t first, int64_t last, uint32_t* seen) {
  const int64_t units = ceil_divide(length, rule.unit);
  const int64_t q = query / rule.unit;
  const Span queries = resolved(rule.query_begin, rule.query_end, units);
  if (q < queries.first || q > queries.last || (q - queries.first) % rule.query_step != 0) return;
  const Span allowed = resolved(rule.key_begin, rule.key_end, units);
  Span keys = intersect(allowed, {first / rule.unit, last / rule.unit});
  if (rule.low != -kUnbounded) keys.first = std::max(keys.first, q + rule.low);
  if (rule.high != kUnbounded) keys.last = std::min(keys.last, q + rule.high);
  if (keys.last < keys.first) return;
  if (rule.key_step == 1 && rule.step == 1) {
    set_bits(seen, std::max(keys.first * rule.unit, first) - first,
             std::min((keys.last + 1) * rule.unit - 1, last) - first);
    return;
  }
  for (int64_t unit = keys.first; unit <= keys.last; ++unit) {
    if ((unit - allowed.first) % rule.key_step != 0 || (unit - q) % rule.step != 0) continue;
    set_bits(seen, std::max(unit * rule.unit, first) - first, std::min((unit + 1) * rule.unit - 1, last) - first);
  }
}

// Sets `count` bits from `offset` on; they are 0 so far.
void copy_bits(uint64_t value, int64_t count, int64_t offset, uint32_t* words) {
  for (int64_t done = 0; done < count;) {
    const int64_t shift = (offset + done) % 32;
    words[(offset + done) / 32] |= static_cast<uint32_t>(value >> done << shift);
    done += 32 - shift;
  }
}

uint64_t hash_of(const std::vector<uint32_t>& words) {
  uint64_t hash = 1469598103934665603u;
  for (const uint32_t word : words) hash = (hash ^ word) * 1099511628211u;
  return hash;
}

}  // namespace

// A tile row of one sequence and group.
struct BlockMask::Row {
  int64_t own;  // positions of the sequence
  int64_t group;
  int64_t row;
  int64_t first;  // query positions
  int64_t last;
};

const char* decode_rules(const std::vector<int64_t>& numbers, std::vector<MaskRule>& rules) {
  if (numbers.size() % kRuleInts != 0) return "rules must have 11 integers each";
  for (const int64_t number : numbers) {
    if (number > kUnbounded || number < -kUnbounded) return "every number of a rule must lie within 32 bits";
  }
  int64_t clause = 0;
  for (size_t at = 0; at < numbers.size(); at += kRuleInts) {
    const int64_t* n = numbers.data() + at;
    const MaskRule rule = {n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9], n[10]};
    if (std::min({rule.unit, rule.query_step, rule.key_step, rule.step}) < 1) {
      return "the unit and every step of a rule must be at least 1";
    }
    if (rule.clause != clause && rule.clause != clause + 1) return "the clauses of rules must be 0, 1, ... in order";
    clause = rule.clause;
    rules.push_back(rule);
  }
  return nullptr;
}

BlockMask::BlockMask(const BlockMaskInput& input)
    : input_(input),
      rows_((input.length + input.block_size - 1) / input.block_size),
      words_(input.block_size * input.block_size / 32),
      clauses_(input.rule_count > 0 ? input.rules[input.rule_count - 1].clause + 1 : (input.blocks != nullptr ? 1 : 0)),
      state_(static_cast<size_t>(rows_)),
      clause_(static_cast<size_t>(rows_)),
      bitmap_(static_cast<size_t>(words_)),
      line_(static_cast<size_t>(input.block_size / 32 + 2)) {
  for (int64_t sequence = 0; sequence < input.sequences; ++sequence) {
    int64_t own = input.length;
    if (input.cu_seqlens != nullptr) {
      own = std::min<int64_t>(own, input.cu_seqlens[sequence + 1] - input.cu_seqlens[sequence]);
    }
    for (int64_t group = 0; group < input.groups; ++group) {
      ptr.push_back(static_cast<int32_t>(col.size()));
      for (int64_t row = 0; row < rows_; ++row) {
        add_row(own, group, row);
        ptr.push_back(static_cast<int32_t>(col.size()));
      }
    }
  }
}

void BlockMask::add_row(int64_t own, int64_t group, int64_t row_number) {
  const int64_t size = input_.block_size;
  const Row row = {own, group, row_number, row_number * size, std::min((row_number + 1) * size, own) - 1};
  if (row.last < row.first) return;
  const int64_t columns = (own + size - 1) / size;
  std::fill_n(state_.begin(), columns, static_cast<uint8_t>(kMaybe | kSurely));
  const MaskRule* rule = input_.rules;
  const MaskRule* end = rule + input_.rule_count;
  for (int64_t clause = 0; clause < clauses_; ++clause) {
    std::fill_n(clause_.begin(), columns, uint8_t{0});
    if (clause == 0) mark_listed(row);
    for (; rule != end && rule->clause == clause; ++rule) bound(row, *rule);
    std::transform(state_.begin(), state_.begin() + columns, clause_.begin(), state_.begin(), std::bit_and<>());
  }
  for (int64_t column = 0; column < columns; ++column) {
    const uint8_t state = state_[static_cast<size_t>(column)];
    if ((state & kSurely) != 0) {
      col.push_back(static_cast<int32_t>(column));
      tag.push_back(-1);
    } else if ((state & kMaybe) != 0) {
      evaluate(row, column);
    }
  }
}

void BlockMask::mark(int64_t first, int64_t last, uint8_t flag) {
  for (int64_t column = std::max<int64_t>(first, 0); column <= last; ++column) {
    clause_[static_cast<size_t>(column)] |= flag;
  }
}

void BlockMask::mark_listed(const Row& row) {
  if (input_.blocks == nullptr || row.row >= input_.block_rows) return;
  const int32_t* listed = input_.blocks + (row.group * input_.block_rows + row.row) * input_.block_columns;
  const int64_t columns = (row.own + input_.block_size - 1) / input_.block_size;
  for (int64_t i = 0; i < input_.block_columns; ++i) {
    if (listed[i] >= 0 && listed[i] < columns) mark(listed[i], listed[i], kMaybe | kSurely);
  }
}

// Marks the columns where the rule may hold, and where it surely holds for every pair.
void BlockMask::bound(const Row& row, const MaskRule& rule) {
  const int64_t size = input_.block_size;
  const int64_t units = ceil_divide(row.own, rule.unit);
  const int64_t last_column = (row.own - 1) / size;
  const Span queries = {row.first / rule.unit, row.last / rule.unit};
  const Span allowed = resolved(rule.query_begin, rule.query_end, units);
  const Span inner = intersect(queries, allowed);
  if (inner.last < inner.first) return;
  const Span keys = intersect(resolved(rule.key_begin, rule.key_end, units), {0, units - 1});
  const Span reached = intersect(keys, {rule.low == -kUnbounded ? 0 : inner.first + rule.low,
                                        rule.high == kUnbounded ? units - 1 : inner.last + rule.high});
  if (reached.last < reached.first) return;
  mark(reached.first * rule.unit / size, std::min(last_column, (reached.last * rule.unit + rule.unit - 1) / size),
       kMaybe);
  if (std::max({rule.query_step, rule.key_step, rule.step}) > 1 || inner.first != queries.first ||
      inner.last != queries.last) {
    return;
  }
  const Span sure = intersect(keys, {rule.low == -kUnbounded ? 0 : queries.last + rule.low,
                                     rule.high == kUnbounded ? units - 1 : queries.first + rule.high});
  if (sure.last < sure.first) return;
  const int64_t end = (sure.last + 1) * rule.unit;  // of the positions that are surely seen
  mark(ceil_divide(sure.first * rule.unit, size), end >= row.own ? last_column : end / size - 1, kSurely);
}

bool BlockMask::is_listed(const Row& row, int64_t column) const {
  if (input_.blocks == nullptr || row.row >= input_.block_rows) return false;
  const int32_t* listed = input_.blocks + (row.group * input_.block_rows + row.row) * input_.block_columns;
  return std::find(listed, listed + input_.block_columns, column) != listed + input_.block_columns;
}

// Evaluates a tile pair by pair and adds it, unless nothing is visible.
void BlockMask::evaluate(const Row& row, int64_t column) {
  const int64_t size = input_.block_size;
  const int64_t first = column * size;
  const int64_t last = std::min(first + size, row.own) - 1;
  std::fill(bitmap_.begin(), bitmap_.end(), 0u);
  const bool listed = is_listed(row, column);
  int64_t seen = 0;
  for (int64_t query = row.first; query <= row.last; ++query) {
    const MaskRule* rule = input_.rules;
    const MaskRule* end = rule + input_.rule_count;
    uint64_t visible[kLargestBlock / 64];
    const int64_t words = (size + 63) / 64;
    for (int64_t word = 0; word < words; ++word) visible[word] = bit_range(0, last - first - word * 64);
    for (int64_t clause = 0; clause < clauses_; ++clause) {
      std::fill(line_.begin(), line_.end(), 0u);
      if (clause == 0 && listed) set_bits(line_.data(), 0, last - first);
      for (; rule != end && rule->clause == clause; ++rule) add_keys(*rule, row.own, query, first, last, line_.data());
      for (int64_t word = 0; word < words; ++word) {
        const uint32_t* half = line_.data() + 2 * word;
        visible[word] &= half[0] | static_cast<uint64_t>(half[1]) << 32;
      }
    }
    for (int64_t word = 0; word < words; ++word) {
      seen += __builtin_popcountll(visible[word]);
      copy_bits(visible[word], std::min<int64_t>(64, size - word * 64), (query - row.first) * size + word * 64,
                bitmap_.data());
    }
  }
  if (seen == 0) return;
  col.push_back(static_cast<int32_t>(column));
  tag.push_back(seen == (row.last - row.first + 1) * (last - first + 1) ? -1 : bitmap_index());
}

// Index of the bitmap, which is added if there is none like it.
int32_t BlockMask::bitmap_index() {
  const uint64_t hash = hash_of(bitmap_);
  const auto [begin, end] = known_.equal_range(hash);
  for (auto found = begin; found != end; ++found) {
    if (std::equal(bitmap_.begin(), bitmap_.end(), bits.begin() + found->second * words_)) return found->second;
  }
  const int32_t index = static_cast<int32_t>(static_cast<int64_t>(bits.size()) / words_);
  bits.insert(bits.end(), bitmap_.begin(), bitmap_.end());
  known_.emplace(hash, index);
  return index;
}

}  // namespace raggedrt
