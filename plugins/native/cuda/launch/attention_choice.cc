// Which kernel computes an attention, and how its work is divided.
#include <algorithm>

#include "cuda/launch/attention_problem.h"

namespace raggedrt::cuda {
namespace {

// Rows this short fill no tile of a tensor core, and a warp holds all their keys: one launch without a work list.
constexpr int64_t kShortQueries = 32;
constexpr int64_t kShortKeys = 32;
// A split has at least this many key tiles, so that what merging costs stays small beside it.
constexpr int64_t kLeastTilesPerSplit = 4;
// Sequences this long on average are computed in tiles of more query rows, which read keys and values half as often
// from the second-level cache; shorter ones would leave too many of the tiles' warps without a query.
constexpr int64_t kLongQueries = 1024;
constexpr int32_t kLongTileRows = 128;

// The smallest size that row_attention is compiled for and that holds both heads.
int32_t row_head_size(const AttentionProblem& problem) {
  const int needed = std::max(problem.head_size, problem.value_head_size);
  for (const int size : {32, 64, 128}) {
    if (needed <= size) return size;
  }
  return 256;
}

VariantKey key_of(const char* family, const AttentionProblem& problem) {
  VariantKey key{family};
  key.element = static_cast<int32_t>(problem.element);
  return key;
}

// The kernel for tensor cores; null where none serves the problem. One with a mask serves problems with less of a mask,
// and one with score terms those without, so that the table need not have every combination.
const Variant* tensor_core_variant(const AttentionProblem& problem, const VariantTable& table,
                                   const DeviceLimits& limits) {
  if (problem.head_size != problem.value_head_size) return nullptr;
  VariantKey key = key_of("attention", problem);
  key.head_size = problem.head_size;
  for (int32_t scores = score_class(problem); scores <= kScoreTerms; ++scores) {
    for (int32_t mask = mask_class(problem); mask <= kByPosition || mask == mask_class(problem); ++mask) {
      key.mask_class = mask;
      key.score_class = scores;
      const Variant* found = find_variant(table, key);
      if (found != nullptr && blocks_per_multiprocessor(*found, limits) > 0) return found;
    }
  }
  return nullptr;
}

// The kernel for long sequences; null where the table has none, or the problem is not for it. A narrow window wants
// small tiles, and so do devices that would not be filled.
const Variant* long_tile_variant(const AttentionCall& call, const VariantTable& table, const DeviceLimits& limits) {
  const AttentionProblem& problem = call.problem;
  const bool windowed = problem.mask.window_left >= 0 || problem.mask.window_right >= 0;
  if (windowed || problem.head_size != problem.value_head_size) return nullptr;
  if (problem.total_q < kLongQueries * std::max<int64_t>(1, problem.sequences)) return nullptr;
  VariantKey key = key_of("attention", problem);
  key.head_size = problem.head_size;
  key.mask_class = mask_class(problem);
  key.score_class = score_class(problem);
  key.query_rows = kLongTileRows;
  const Variant* found = find_variant(table, key);
  if (found == nullptr) return nullptr;
  const int64_t places = int64_t{limits.multiprocessors} * blocks_per_multiprocessor(*found, limits);
  const int64_t tiles = problem.total_q / kLongTileRows * problem.num_heads;
  return places > 0 && tiles >= places ? found : nullptr;
}

// Most keys that one query tile visits.
int64_t visited_keys(const AttentionProblem& problem, int64_t max_seqlen_k) {
  const raggedrt::MaskTerms& mask = problem.mask;
  const int64_t right = problem.causal ? 0 : mask.window_right;
  if (mask.window_left < 0 || right < 0 || mask.global_count > 0) return max_seqlen_k;
  return std::min(max_seqlen_k, mask.window_left + right + kWorkRows);
}

// Splits of the keys so that short queries with long keys occupy the whole device.
int choose_splits(const AttentionCall& call, int64_t items, int64_t places) {
  const AttentionProblem& problem = call.problem;
  const int64_t units = std::max<int64_t>(1, items) * problem.num_heads;
  if (units * 2 > places) return 1;
  const int64_t tiles = divide_up(visited_keys(problem, call.max_seqlen_k), kKeyTile);
  return static_cast<int>(
      std::max<int64_t>(1, std::min({places / units, tiles / kLeastTilesPerSplit, int64_t{kMaxSplits}})));
}

}  // namespace

MaskClass mask_class(const AttentionProblem& problem) {
  if (problem.tiles.ptr != nullptr) return kByTileList;
  const raggedrt::MaskTerms& mask = problem.mask;
  const bool by_position = problem.positions_k != nullptr || problem.causal || mask.window_left >= 0 ||
                           mask.window_right >= 0 || mask.dilation > 1;
  return by_position || score_class(problem) == kScoreTerms ? kByPosition : kEveryKey;
}

ScoreClass score_class(const AttentionProblem& problem) {
  const raggedrt::ScoreTerms& scores = problem.scores;
  const bool terms = scores.softcap != 0.0f || scores.bias != nullptr || scores.distance_bias != nullptr ||
                     scores.rel_bucket != nullptr || scores.alibi_slopes != nullptr;
  return terms || !(problem.scale > 0.0f) ? kScoreTerms : kPlainScores;
}

int64_t work_item_bound(const AttentionProblem& problem) {
  const int block_size = problem.tiles.ptr != nullptr ? problem.tiles.block_size : 0;
  return work_items(problem.total_q, problem.sequences, block_size, problem.positions_q != nullptr);
}

PlanLayout plan_layout(const AttentionProblem& problem) {
  constexpr int64_t kInts = sizeof(KeySummary) / sizeof(int);
  PlanLayout layout;
  layout.summaries = kWorkHeader + 4 * work_item_bound(problem);
  const int64_t summaries = problem.positions_k != nullptr ? problem.total_k / kKeyTile + problem.sequences : 0;
  layout.bases = layout.summaries + kInts * summaries;
  layout.size = layout.bases + (problem.positions_k != nullptr ? round_up(problem.sequences, 4) : 0);
  return layout;
}

Status choose_attention(const AttentionCall& call, const VariantTable& table, const DeviceLimits& limits,
                        AttentionChoice& choice) {
  const AttentionProblem& problem = call.problem;
  choice = AttentionChoice{};
  const bool is_short = call.max_seqlen_q <= kShortQueries && call.max_seqlen_k <= kShortKeys;
  const Variant* tiled = long_tile_variant(call, table, limits);
  if (tiled == nullptr) tiled = tensor_core_variant(problem, table, limits);
  if (tiled == nullptr || is_short) {
    VariantKey key = key_of("row_attention", problem);
    key.head_size = row_head_size(problem);
    const Variant* by_rows = find_variant(table, key);
    if (by_rows == nullptr) {
      return Status::failure(std::string(kAttention) + ": there is no kernel for it (" + describe(key) + ")");
    }
    choice.variant = by_rows;
    choice.by_rows = true;
    choice.grid = {row_blocks(key.head_size, problem.total_q, problem.num_heads / problem.kv_num_heads),
                   problem.kv_num_heads};
    return {};
  }
  choice.variant = tiled;
  choice.items = work_item_bound(problem);
  const int64_t places = int64_t{std::max(1, limits.multiprocessors)} * blocks_per_multiprocessor(*tiled, limits);
  choice.splits = choose_splits(call, choice.items, places);
  const int64_t units = choice.items * choice.splits * problem.num_heads;
  choice.counts_work = units > places;
  choice.grid = {std::max<int64_t>(1, std::min(units, places)), 1};
  return {};
}

}  // namespace raggedrt::cuda
