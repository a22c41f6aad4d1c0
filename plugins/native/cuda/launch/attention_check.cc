// Refusals of attention.
#include <cmath>
#include <limits>

#include "cuda/launch/attention_problem.h"
#include "cuda/launch/launcher.h"

namespace raggedrt::cuda {
namespace {

constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
constexpr size_t kTensorAlignment = 16;
constexpr int64_t kMostHeads = 65535;  // they are a dimension of a grid

bool fits(int64_t value) { return value >= 0 && value <= kMost; }

bool compares_positions(const AttentionProblem& problem) {
  const raggedrt::MaskTerms& mask = problem.mask;
  const raggedrt::ScoreTerms& scores = problem.scores;
  return problem.causal || mask.window_left >= 0 || mask.window_right >= 0 || mask.dilation > 1 ||
         mask.global_count > 0 || problem.tiles.ptr != nullptr || scores.bias != nullptr ||
         scores.distance_bias != nullptr || scores.rel_bucket != nullptr || scores.alibi_slopes != nullptr;
}

const char* refuse_sizes(const AttentionProblem& problem, int64_t max_seqlen_q, int64_t max_seqlen_k) {
  if (!fits(problem.sequences) || !fits(problem.total_q) || !fits(problem.total_k) || problem.sequences == kMost) {
    return "sequences and tokens must be below 2^31";
  }
  return fits(max_seqlen_q) && fits(max_seqlen_k) ? nullptr : "max_seqlen must be below 2^31";
}

const char* refuse_heads(const AttentionProblem& problem) {
  if (problem.element != Element::kFloat && problem.element != Element::kHalf && problem.element != Element::kBFloat16) {
    return "queries, keys and values must be float32, float16 or bfloat16";
  }
  if (problem.num_heads <= 0 || problem.kv_num_heads <= 0 || problem.num_heads % problem.kv_num_heads != 0 ||
      problem.num_heads > kMostHeads) {
    return "num_heads must be a positive multiple of kv_num_heads, at most 65535";
  }
  const auto served = [](int head_size) { return head_size > 0 && head_size <= raggedrt::kMaxHeadSize; };
  return served(problem.head_size) && served(problem.value_head_size) ? nullptr : "head sizes must be between 1 and 256";
}

const char* refuse_mask(const AttentionProblem& problem) {
  const raggedrt::MaskTerms& mask = problem.mask;
  if (mask.window_left < -1 || mask.window_right < -1 || mask.window_left > kMost || mask.window_right > kMost) {
    return "a window must be -1 (unbounded) or below 2^31";
  }
  if (mask.dilation < 1 || mask.dilation > kMost) return "dilation must be at least 1";
  if ((problem.positions_q == nullptr) != (problem.positions_k == nullptr) && compares_positions(problem)) {
    return "causality, windows, dilation, tile lists and biases need positions_q and positions_k, or neither";
  }
  return nullptr;
}

const char* refuse_tiles(const AttentionProblem& problem) {
  const raggedrt::TileList& tiles = problem.tiles;
  if (tiles.ptr == nullptr) return nullptr;
  if (tiles.block_size < 8 || tiles.block_size > 1024 || tiles.block_size % 8 != 0) {
    return "block_size must be a multiple of 8 from 8 to 1024";
  }
  return tiles.sequences == 1 || tiles.sequences == problem.sequences ? nullptr : "tile_ptr must be [B|1, G, R+1]";
}

const char* refuse_tile_contents(const AttentionProblem& problem) {
  const raggedrt::TileList& tiles = problem.tiles;
  if (tiles.ptr == nullptr) return nullptr;
  if (tiles.head_group == nullptr && tiles.groups != 1 && tiles.groups != problem.num_heads) {
    return "a tile list needs head_group unless it has one group, or one per head";
  }
  if (!fits(tiles.groups) || !fits(tiles.rows) || !fits(tiles.entries) || !fits(tiles.bitmaps)) {
    return "a tile list must have fewer than 2^31 rows, entries and bitmaps";
  }
  if (tiles.bitmaps > kMost / (int64_t{tiles.block_size} * tiles.block_size / 8)) {
    return "the bitmaps of a tile list must be smaller than 2 GiB";
  }
  return nullptr;
}

const char* refuse_scores(const AttentionProblem& problem) {
  const raggedrt::ScoreTerms& scores = problem.scores;
  if (!std::isfinite(problem.scale) || problem.scale == 0.0f) return "scale must be finite and not 0";
  if (!(scores.softcap >= 0.0f) || !std::isfinite(scores.softcap)) return "softcap must not be negative";
  if (scores.bias != nullptr &&
      ((scores.bias_sequences != 1 && scores.bias_sequences != problem.sequences) ||
       (scores.bias_heads != 1 && scores.bias_heads != problem.num_heads) || scores.bias_size < 1 ||
       !fits(scores.bias_size))) {
    return "bias must be [1|B, 1|N, S, S]";
  }
  if (scores.distance_bias != nullptr && ((scores.distance_heads != 1 && scores.distance_heads != problem.num_heads) ||
                                          scores.distance_count % 2 == 0 || !fits(scores.distance_count))) {
    return "distance_bias must be [1|N, 2P-1]";
  }
  // Without any token the tensors of the terms are empty, and may have no address.
  const bool any = problem.total_q > 0 && problem.total_k > 0;
  if (any && (scores.rel_bucket != nullptr) != (scores.rel_query != nullptr || scores.rel_key != nullptr)) {
    return "disentangled terms are rel_bucket with rel_query, rel_key or both";
  }
  if (scores.rel_bucket != nullptr && (scores.bucket_count % 2 == 0 || !fits(scores.bucket_count))) {
    return "rel_bucket must be [2P-1]";
  }
  if (scores.rel_bucket != nullptr && (scores.rel_size < 1 || !fits(scores.rel_size))) {
    return "rel_query and rel_key must be [T, N, C]";
  }
  return nullptr;
}

}  // namespace

Status check_lengths_and_mask(const char* op, const AttentionProblem& problem, int64_t max_seqlen_q,
                              int64_t max_seqlen_k) {
  const char* reason = refuse_sizes(problem, max_seqlen_q, max_seqlen_k);
  if (reason == nullptr) reason = refuse_mask(problem);
  if (reason == nullptr) reason = refuse_tiles(problem);
  if (reason != nullptr) return refuse(op, reason);
  if (problem.mask.global_count > kMaxGlobalTokens) {
    return refuse(op, "has " + std::to_string(problem.mask.global_count) + " global tokens, expected at most " +
                          std::to_string(kMaxGlobalTokens));
  }
  for (int64_t i = 0; i < problem.mask.global_count; ++i) {
    const int32_t* tokens = problem.mask.global_tokens;
    if (tokens[i] < 0 || (i > 0 && tokens[i] < tokens[i - 1])) {
      return refuse(op, "global_tokens must ascend and not be negative");
    }
  }
  return {};
}

Status check_heads_and_scores(const AttentionProblem& problem) {
  const char* reason = refuse_heads(problem);
  if (reason == nullptr) reason = refuse_tile_contents(problem);
  if (reason == nullptr) reason = refuse_scores(problem);
  return reason != nullptr ? refuse(kAttention, reason) : Status();
}

Status check_pointers(const AttentionProblem& problem) {
  struct Row {
    const char* name;
    const void* pointer;
    bool needed;
    size_t alignment;
  };
  const bool queries = problem.total_q > 0;
  const bool keys = problem.total_k > 0;
  const raggedrt::TileList& tiles = problem.tiles;
  const raggedrt::ScoreTerms& scores = problem.scores;
  const bool tiled = tiles.ptr != nullptr;
  const Row rows[] = {
      {"query", problem.query, queries, kTensorAlignment},
      {"key", problem.key, keys, kTensorAlignment},
      {"value", problem.value, keys, kTensorAlignment},
      {"output", problem.output, queries, kTensorAlignment},
      {"lse", problem.lse, false, 4},
      {"cu_seqlens_q", problem.cu_seqlens_q, true, 4},
      {"cu_seqlens_k", problem.cu_seqlens_k, true, 4},
      {"positions_q", problem.positions_q, false, 4},
      {"positions_k", problem.positions_k, false, 4},
      {"tile_ptr", tiles.ptr, false, 4},
      {"tile_col", tiles.col, tiled && tiles.entries > 0, 4},
      {"tile_tag", tiles.tag, tiled && tiles.entries > 0, 4},
      {"tile_bits", tiles.bits, tiled && tiles.bitmaps > 0, 4},
      {"head_group", tiles.head_group, false, 4},
      {"bias", scores.bias, false, element_size(problem.element)},
      {"distance_bias", scores.distance_bias, false, element_size(problem.element)},
      {"rel_query", scores.rel_query, false, element_size(problem.element)},
      {"rel_key", scores.rel_key, false, element_size(problem.element)},
      {"rel_bucket", scores.rel_bucket, false, 4},
      {"head_sink", scores.head_sink, false, 4},
      {"alibi_slopes", scores.alibi_slopes, false, 4},
  };
  for (const Row& row : rows) {
    if (row.needed && row.pointer == nullptr) return refuse(kAttention, std::string(row.name) + " has no memory");
    if (!is_aligned(row.pointer, row.alignment)) {
      return refuse(kAttention, std::string(row.name) + " must be aligned to " + std::to_string(row.alignment) + " bytes");
    }
  }
  return {};
}

}  // namespace raggedrt::cuda
