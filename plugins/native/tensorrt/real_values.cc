#include "tensorrt/real_values.h"

#include <dlfcn.h>
#include <stdlib.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "cuda/kernels/data_params.h"
#include "cuda/launch/launcher.h"

namespace raggedrt::tensorrt {
namespace {

using cuda::Status;

// The functions of the driver that the launcher has opened already, and needs none of.
class HostCopy {
 public:
  explicit HostCopy(cuda::Stream stream) : stream_(stream) {
    const char* named = getenv("RAGGEDRT_CUDA_DRIVER");
    void* library = dlopen(named != nullptr && *named != '\0' ? named : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return;
    wait_ = reinterpret_cast<int (*)(void*)>(dlsym(library, "cuStreamSynchronize"));
    copy_ = reinterpret_cast<int (*)(void*, uint64_t, size_t)>(dlsym(library, "cuMemcpyDtoH_v2"));
  }

  Status read(const int32_t* source, int64_t count, std::vector<int32_t>& values) const {
    values.resize(static_cast<size_t>(std::max<int64_t>(0, count)));
    if (values.empty()) return {};
    const bool done = source != nullptr && wait_ != nullptr && copy_ != nullptr && wait_(stream_) == 0 &&
                      copy_(values.data(), reinterpret_cast<uint64_t>(source), values.size() * sizeof(int32_t)) == 0;
    return done ? Status() : Status::failure("what the attention follows cannot be looked at while an engine is built");
  }

 private:
  cuda::Stream stream_;
  int (*wait_)(void*) = nullptr;
  int (*copy_)(void*, uint64_t, size_t) = nullptr;
};

bool in_order(const std::vector<int32_t>& offsets, int64_t most) {
  return !offsets.empty() && offsets.front() >= 0 && offsets.back() <= most &&
         std::is_sorted(offsets.begin(), offsets.end());
}

bool none_longer(const std::vector<int32_t>& offsets, int64_t most) {
  for (size_t row = 1; row < offsets.size(); ++row) {
    if (int64_t{offsets[row]} - offsets[row - 1] > most) return false;
  }
  return true;
}

bool all_within(const std::vector<int32_t>& values, int64_t least, int64_t below) {
  return std::all_of(values.begin(), values.end(), [&](int32_t value) { return value >= least && value < below; });
}

// Items of a work list: sequence, first query, number of queries, split.
bool lists_queries(const std::vector<int32_t>& list, const std::vector<int32_t>& offsets) {
  const int64_t capacity = (static_cast<int64_t>(list.size()) - cuda::kWorkHeader) / 4;
  if (list[0] < 0 || list[0] > capacity) return false;
  for (int64_t item = 0; item < list[0]; ++item) {
    const int32_t* row = list.data() + cuda::kWorkHeader + 4 * item;
    if (row[0] < 0 || row[0] + size_t{1} >= offsets.size() || row[1] < 0 || row[2] < 0 || row[2] > cuda::kWorkRows ||
        row[3] != 0) {
      return false;
    }
    const size_t sequence = static_cast<size_t>(row[0]);
    if (int64_t{row[1]} + row[2] > int64_t{offsets[sequence + 1]} - offsets[sequence]) return false;
  }
  return true;
}

// Positions are places in biases and tile rows.
int64_t most_position(const AttentionProblem& problem) {
  int64_t most = std::numeric_limits<int32_t>::max();
  if (problem.scores.bias != nullptr) most = std::min(most, problem.scores.bias_size);
  if (problem.tiles.ptr != nullptr) most = std::min(most, problem.tiles.rows * problem.tiles.block_size);
  return most;
}

// A plan has no columns, and so does not know how many there are.
Status check_tiles(const HostCopy& host, const raggedrt::TileList& tiles, bool& real) {
  std::vector<int32_t> ptr, col;
  const int64_t rows = tiles.sequences * tiles.groups;
  RAGGEDRT_RETURN_IF_FAILED(host.read(tiles.ptr, rows * (tiles.rows + 1), ptr));
  RAGGEDRT_RETURN_IF_FAILED(host.read(tiles.col, tiles.col != nullptr ? tiles.entries : 0, col));
  const int64_t most = tiles.col != nullptr ? tiles.entries : std::numeric_limits<int32_t>::max();
  real = all_within(ptr, 0, most + 1) && all_within(col, 0, std::numeric_limits<int32_t>::max());
  const auto row_length = static_cast<std::ptrdiff_t>(tiles.rows + 1);
  for (auto row = ptr.begin(); real && row != ptr.end(); row += row_length) real = std::is_sorted(row, row + row_length);
  return {};
}

// `offsets` are those of the queries, where these are real.
Status check_problem(const HostCopy& host, const AttentionProblem& problem, int64_t max_seqlen_q, int64_t max_seqlen_k,
                     std::vector<int32_t>& offsets, bool& real) {
  std::vector<int32_t> keys, values;
  RAGGEDRT_RETURN_IF_FAILED(host.read(problem.cu_seqlens_q, problem.sequences + 1, offsets));
  RAGGEDRT_RETURN_IF_FAILED(host.read(problem.cu_seqlens_k, problem.sequences + 1, keys));
  real = in_order(offsets, problem.total_q) && in_order(keys, problem.total_k) && none_longer(offsets, max_seqlen_q) &&
         none_longer(keys, max_seqlen_k);
  if (real && problem.tiles.ptr != nullptr) RAGGEDRT_RETURN_IF_FAILED(check_tiles(host, problem.tiles, real));
  if (!real) return {};
  const int64_t most = most_position(problem);
  for (const auto& [positions, count] : {std::pair(problem.positions_q, offsets.back()),
                                         std::pair(problem.positions_k, keys.back())}) {
    if (!real || positions == nullptr) continue;
    RAGGEDRT_RETURN_IF_FAILED(host.read(positions, count, values));
    real = all_within(values, -1, most);
  }
  return {};
}

}  // namespace

Status check_real_values(const cuda::AttentionPlanCall& call, cuda::Stream stream, bool& real) {
  std::vector<int32_t> offsets;
  return check_problem(HostCopy(stream), call.problem, call.max_seqlen_q, call.max_seqlen_k, offsets, real);
}

Status check_real_values(const cuda::AttentionCall& call, cuda::Stream stream, bool& real) {
  const HostCopy host(stream);
  std::vector<int32_t> offsets, list;
  RAGGEDRT_RETURN_IF_FAILED(check_problem(host, call.problem, call.max_seqlen_q, call.max_seqlen_k, offsets, real));
  if (!real || call.work_list == nullptr) return {};
  RAGGEDRT_RETURN_IF_FAILED(host.read(call.work_list, call.work_list_size, list));
  real = lists_queries(list, offsets);
  return {};
}

}  // namespace raggedrt::tensorrt
