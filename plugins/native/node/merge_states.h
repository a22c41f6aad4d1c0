// MergeAttentionStates as a node says it.
#pragma once

#include "cpu/merge_states.h"
#include "node/node.h"

namespace raggedrt {

// The problem without outputs; they have the shapes of output1 and lse1.
MergeProblem merge_states_problem(const Inputs& inputs);

}  // namespace raggedrt
