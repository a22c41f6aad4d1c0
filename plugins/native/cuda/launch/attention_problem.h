// What the launcher decides about one attention before anything is launched: pure functions of the call, the table of
// variants and the limits of the device.
#pragma once

#include <stdint.h>

#include "cuda/kernels/data_params.h"
#include "cuda/launch/launch.h"
#include "cuda/launch/variants.h"

namespace raggedrt::cuda {

constexpr const char* kAttention = "RaggedAttention";
constexpr const char* kAttentionPlan = "AttentionPlan";

// Values of RAGGEDRT_MASK and RAGGEDRT_SCORES (kernels/attention_config.cuh).
enum MaskClass : int32_t { kEveryKey = 0, kByPosition = 1, kByTileList = 2 };
enum ScoreClass : int32_t { kPlainScores = 0, kScoreTerms = 1 };

MaskClass mask_class(const AttentionProblem& problem);
ScoreClass score_class(const AttentionProblem& problem);

// Refuses what the host can see to be wrong: what a plan depends on, and the rest.
Status check_lengths_and_mask(const char* op, const AttentionProblem& problem, int64_t max_seqlen_q,
                              int64_t max_seqlen_k);
Status check_heads_and_scores(const AttentionProblem& problem);
// Refuses tensors without memory, and misaligned ones.
Status check_pointers(const AttentionProblem& problem);

// How an attention is computed.
struct AttentionChoice {
  const Variant* variant = nullptr;
  bool by_rows = false;  // row_attention, which needs no work list
  int splits = 1;        // of the keys
  int64_t items = 0;     // most items of the work list, for one split
  Grid grid;
  bool counts_work = false;  // blocks take items as they finish, by a counter
};

Status choose_attention(const AttentionCall& call, const VariantTable& table, const DeviceLimits& limits,
                        AttentionChoice& choice);

// Most items of a work list, for one split.
int64_t work_item_bound(const AttentionProblem& problem);

// Where the parts of a plan lie in its int32: the work list, summaries of the keys' positions, their bases.
struct PlanLayout {
  int64_t summaries = 0;
  int64_t bases = 0;
  int64_t size = 0;
};
PlanLayout plan_layout(const AttentionProblem& problem);

// The structs of kernels/params.h.
AttentionParams attention_params(const AttentionProblem& problem);
MaskTerms mask_params(const AttentionProblem& problem);
TileList tile_params(const AttentionProblem& problem);

}  // namespace raggedrt::cuda
