#include "cpu/merge_states.h"

#include <algorithm>

#include "cpu/isa.h"

namespace raggedrt {

void merge_attention_states(const MergeProblem& problem, Runtime& runtime) {
  constexpr int64_t kTokensPerTask = 64;
  const IsaKernels& isa = isa_kernels();
  const int64_t row_bytes =
      static_cast<int64_t>(element_size(problem.element)) * problem.heads * problem.head_size;
  const int64_t tasks = (problem.tokens + kTokensPerTask - 1) / kTokensPerTask;
  if (tasks == 0) return;
  parallel_for(runtime, static_cast<size_t>(tasks), [&](size_t task) {
    const int64_t first = static_cast<int64_t>(task) * kTokensPerTask;
    const int64_t last = std::min(problem.tokens, first + kTokensPerTask);
    for (int64_t token = first; token < last; ++token) {
      isa.merge(problem.element, static_cast<const char*>(problem.output1) + token * row_bytes, problem.lse1 + token,
                static_cast<const char*>(problem.output2) + token * row_bytes, problem.lse2 + token, problem.tokens,
                problem.heads, problem.head_size, static_cast<char*>(problem.output) + token * row_bytes,
                problem.lse + token);
    }
  });
}

}  // namespace raggedrt
