// Prepares what changes scores (see score_modifier.h) once per call.
#pragma once

#include <stdint.h>

#include <vector>

#include "cpu/attention.h"
#include "cpu/score_modifier.h"

namespace raggedrt {

// Why the terms cannot be computed (shapes, positions outside of a bias); null: they can.
const char* check_scores(const AttentionProblem& problem);

class ScoreTables {
 public:
  explicit ScoreTables(const AttentionProblem& problem);

  // Whether scores change at all.
  bool any() const { return any_; }
  ScoreModifier of(int64_t sequence) const;

 private:
  const AttentionProblem& problem_;
  bool any_ = false;
  ScoreModifier shared_;
  std::vector<float> distance_bias_;
  std::vector<int32_t> buckets_;
};

}  // namespace raggedrt
