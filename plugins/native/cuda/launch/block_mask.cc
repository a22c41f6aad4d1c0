// BlockMask on the device.
#include "cpu/block_mask.h"

#include <algorithm>
#include <limits>

#include "cuda/kernels/data_params.h"
#include "cuda/launch/launcher.h"

namespace raggedrt::cuda {
namespace {

constexpr const char* kBlockMask = "BlockMask";
constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
constexpr int64_t kWarpsPerBlock = kDataThreads / 32;

int64_t tile_rows(const BlockMaskInput& input) { return divide_up(input.length, input.block_size); }

// Rows of all masks.
int64_t all_rows(const BlockMaskInput& input) { return input.sequences * input.groups * tile_rows(input); }

int64_t bitmap_words(const BlockMaskInput& input) { return input.block_size * input.block_size / 32; }

// Above a power of two that is twice the candidates: chains in the table stay short.
int64_t table_size(int64_t candidates) {
  int64_t size = 64;
  while (size < 2 * candidates) size *= 2;
  return size;
}

bool in_int(int64_t value) { return value >= -kMost && value <= kMost; }

Status copy_rules(const BlockMaskInput& input, TileListParams& params) {
  for (int64_t i = 0; i < input.rule_count; ++i) {
    const MaskRule& rule = input.rules[i];
    const int64_t values[] = {rule.clause,  rule.unit,    rule.query_begin, rule.query_end, rule.query_step, rule.key_begin,
                              rule.key_end, rule.key_step, rule.low,        rule.high,      rule.step};
    for (const int64_t value : values) {
      if (!in_int(value)) return refuse(kBlockMask, "numbers of rules must lie within 32 bits");
    }
    params.rules[i] = {static_cast<int>(rule.clause),      static_cast<int>(rule.unit),
                       static_cast<int>(rule.query_begin), static_cast<int>(rule.query_end),
                       static_cast<int>(rule.query_step),  static_cast<int>(rule.key_begin),
                       static_cast<int>(rule.key_end),     static_cast<int>(rule.key_step),
                       static_cast<int>(rule.low),         static_cast<int>(rule.high),
                       static_cast<int>(rule.step)};
    params.clauses = static_cast<int>(rule.clause) + 1;
  }
  if (input.blocks != nullptr) params.clauses = std::max(params.clauses, 1);
  params.rule_count = static_cast<int>(input.rule_count);
  return {};
}

// Takes the parts of the workspace, and returns its size.
size_t place_workspace(const BlockMaskCall& call, void* workspace, TileListParams& params) {
  const BlockMaskInput& input = call.input;
  const int64_t rows = all_rows(input);
  const int64_t words = divide_up(tile_rows(input), 32);
  const int64_t candidates = rows * tile_rows(input);
  WorkspaceParts parts(workspace);
  params.listed = parts.take<unsigned>(rows * words);
  params.partial = parts.take<unsigned>(rows * words);
  params.counts = parts.take<TileRowCount>(rows);
  params.candidates = parts.take<TileCandidate>(candidates);
  params.candidate_index = parts.take<int>(candidates);
  params.table = parts.take<int>(table_size(candidates));
  params.candidate_count = parts.take<int>(1);
  long long* counts = parts.take<long long>(2);
  params.entry_count = counts;
  params.bitmap_count = counts != nullptr ? counts + 1 : nullptr;
  params.candidate_capacity = static_cast<int>(candidates);
  params.table_size = static_cast<int>(table_size(candidates));
  return parts.used();
}

}  // namespace

BlockMaskBounds block_mask_bounds(const BlockMaskInput& input) {
  BlockMaskBounds bounds;
  bounds.rows = tile_rows(input);
  bounds.entries = all_rows(input) * bounds.rows;
  bounds.bitmaps = bounds.entries;
  return bounds;
}

Status check(const BlockMaskCall& call) {
  const BlockMaskInput& input = call.input;
  if (input.block_size < 8 || input.block_size > raggedrt::kLargestBlock || input.block_size % 8 != 0) {
    return refuse(kBlockMask, "block_size must be a multiple of 8 from 8 to 1024");
  }
  if (input.rule_count > kMaxRules) {
    return refuse(kBlockMask, "has " + std::to_string(input.rule_count) + " rules, expected at most " +
                                  std::to_string(kMaxRules));
  }
  if (input.length < 0 || input.length > kMost || input.groups < 1 || input.sequences < 0) {
    return refuse(kBlockMask, "lengths, groups and sequences must not be negative, and groups at least 1");
  }
  if (input.blocks != nullptr && (input.block_rows < 0 || input.block_rows > kMost || input.block_columns < 0 ||
                                  input.block_columns > kMost)) {
    return refuse(kBlockMask, "blocks must be [G, R', K]");
  }
  const int64_t rows = tile_rows(input);
  if (input.sequences > kMost || input.groups > kMost || input.sequences * input.groups > kMost / std::max<int64_t>(1, rows + 1) ||
      all_rows(input) * rows > (int64_t{1} << 29)) {
    return refuse(kBlockMask, "a mask of " + std::to_string(rows) + " x " + std::to_string(rows) + " tiles for " +
                                  std::to_string(input.sequences) + " sequences is too large; take a larger block_size");
  }
  if (call.entries < 0 || call.entries > kMost || call.bitmaps < 0 ||
      call.bitmaps > kMost / (input.block_size * input.block_size / 8)) {
    return refuse(kBlockMask, "there must be room for fewer than 2^31 entries and 2 GiB of bitmaps");
  }
  return {};
}

Status workspace_bytes(const Device&, const BlockMaskCall& call, size_t& bytes) {
  RAGGEDRT_RETURN_IF_FAILED(check(call));
  TileListParams params{};
  bytes = place_workspace(call, nullptr, params);
  return {};
}

Status launch(const Device& device, const BlockMaskCall& call, void* workspace, Stream stream) {
  RAGGEDRT_RETURN_IF_FAILED(check(call));
  const BlockMaskInput& input = call.input;
  TileListParams params{};
  RAGGEDRT_RETURN_IF_FAILED(copy_rules(input, params));
  RAGGEDRT_RETURN_IF_FAILED(check_workspace(kBlockMask, workspace, place_workspace(call, workspace, params)));
  if ((call.tile_ptr == nullptr && input.sequences > 0) ||
      (call.entries > 0 && (call.tile_col == nullptr || call.tile_tag == nullptr)) ||
      (call.bitmaps > 0 && call.tile_bits == nullptr)) {
    return refuse(kBlockMask, "an output has no memory");
  }
  params.length = static_cast<int>(input.length);
  params.block_size = static_cast<int>(input.block_size);
  params.blocks = input.blocks;
  params.groups = static_cast<int>(input.groups);
  params.block_rows = static_cast<int>(input.block_rows);
  params.block_columns = static_cast<int>(input.block_columns);
  params.cu_seqlens = input.cu_seqlens;
  params.sequences = static_cast<int>(input.sequences);
  params.tile_rows = static_cast<int>(tile_rows(input));
  params.tile_ptr = call.tile_ptr;
  params.tile_col = call.tile_col;
  params.tile_tag = call.tile_tag;
  params.tile_bits = reinterpret_cast<unsigned*>(call.tile_bits);
  params.entry_capacity = static_cast<int>(call.entries);
  params.bitmap_capacity = static_cast<int>(call.bitmaps);
  if (call.entry_count != nullptr) params.entry_count = reinterpret_cast<long long*>(call.entry_count);
  if (call.bitmap_count != nullptr) params.bitmap_count = reinterpret_cast<long long*>(call.bitmap_count);
  const Launcher launcher(device, kBlockMask, stream);
  const Grid by_row = launcher.grid_for(std::max<int64_t>(1, all_rows(input)), kWarpsPerBlock);
  const Grid by_word = launcher.grid_for(std::max<int64_t>(1, call.bitmaps * bitmap_words(input)), kDataThreads);
  struct Step {
    const char* family;
    Grid grid;
  };
  const Step steps[] = {{"tile_list_count", by_row},
                        {"tile_list_scan", {1, 1}},
                        {"tile_list_fill", by_row},
                        {"tile_list_share", {1, 1}},
                        {"tile_list_bits", by_word}};
  for (const Step& step : steps) {
    RAGGEDRT_RETURN_IF_FAILED(launcher.launch(VariantKey{step.family}, step.grid, params));
  }
  return {};
}

}  // namespace raggedrt::cuda
