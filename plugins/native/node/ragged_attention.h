// RaggedAttention as a node says it.
#pragma once

#include <stdint.h>

#include <vector>

#include "cpu/attention.h"
#include "node/node.h"

namespace raggedrt {

// Attributes of one node, and what they make of a call's inputs.
class RaggedAttentionNode {
 public:
  // Refuses attributes that contradict each other, and features that the node's bits do not tell of.
  explicit RaggedAttentionNode(const Attributes& attributes);

  // The problem without outputs; it refers to this node. Shapes are checked, values of tensors are not read.
  AttentionProblem problem(const Inputs& inputs) const;

  int num_heads() const { return num_heads_; }
  int kv_num_heads() const { return kv_num_heads_; }
  std::vector<int64_t> output_shape(const AttentionProblem& problem) const {
    return {problem.total_q, int64_t{num_heads_} * problem.value_head_size};
  }
  std::vector<int64_t> lse_shape(const AttentionProblem& problem) const { return {num_heads_, problem.total_q}; }

 private:
  void check_features(const Attributes& attributes) const;
  void read_rows(const Inputs& inputs, AttentionProblem& problem) const;
  static void read_sequences(const Inputs& inputs, AttentionProblem& problem);
  void read_tiles(const Inputs& inputs, AttentionProblem& problem) const;
  void read_biases(const Inputs& inputs, AttentionProblem& problem) const;
  void read_disentangled(const Inputs& inputs, AttentionProblem& problem) const;
  std::vector<int64_t> heads() const { return {num_heads_}; }

  int num_heads_;
  int kv_num_heads_;
  float scale_;
  float softcap_;
  bool causal_;
  int64_t block_size_;
  MaskTerms mask_;
  std::vector<int32_t> global_tokens_;  // ascending
};

}  // namespace raggedrt
