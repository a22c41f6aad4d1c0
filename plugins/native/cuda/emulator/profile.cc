// Groups the accesses of a warp's lanes into the requests a GPU would make of them, and counts what those cost.
//
// Lanes run apart here, so the requests are those of one call site: the n-th access of each lane through it since the
// lanes last met at a collective or barrier.
#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "cuda/emulator/runtime.h"

namespace raggedrt::emulator {

namespace {

constexpr uintptr_t kBanks = 32;
constexpr uintptr_t kBankBytes = 4;
constexpr uintptr_t kSectorBytes = 32;

using Request = std::vector<Access>;

// Passes over the banks: lanes go in groups that move 128 bytes at most, and a bank gives one word a pass.
int passes(const Request& request) {
  const size_t lanes = std::max<size_t>(1, kBanks * kBankBytes / request.front().bytes);
  int total = 0;
  for (size_t first = 0; first < request.size(); first += lanes) {
    std::set<uintptr_t> words[kBanks];
    size_t most = 1;
    for (size_t at = first; at < std::min(first + lanes, request.size()); ++at) {
      const uintptr_t end = request[at].address + request[at].bytes;
      for (uintptr_t word = request[at].address / kBankBytes; word * kBankBytes < end; ++word) {
        words[word % kBanks].insert(word);
        most = std::max(most, words[word % kBanks].size());
      }
    }
    total += static_cast<int>(most);
  }
  return total;
}

int fewest_passes(const Request& request) {
  const size_t lanes = std::max<size_t>(1, kBanks * kBankBytes / request.front().bytes);
  return static_cast<int>((request.size() + lanes - 1) / lanes);
}

size_t sectors(const Request& request) {
  std::set<uintptr_t> touched;
  for (const Access& access : request) touched.insert(access.address / kSectorBytes);
  return touched.size();
}

}  // namespace

void profile_warp(Warp& warp) {
  std::map<std::tuple<const void*, bool, int>, Request> requests;
  for (int index = 0; index < 32; ++index) {
    Lane& lane = warp.lanes[index];
    std::map<std::pair<const void*, bool>, int> times;
    for (const Access& access : lane.accesses) {
      const int time = times[{access.site, access.shared}]++;
      requests[{access.site, access.shared, time}].push_back(access);
    }
    lane.accesses.clear();
  }
  for (const auto& [key, request] : requests) {
    if (std::get<1>(key)) {
      ++raggedrt_emulated_counts.shared_requests;
      raggedrt_emulated_counts.shared_conflicts += static_cast<uint64_t>(passes(request) - fewest_passes(request));
    } else {
      ++raggedrt_emulated_counts.global_requests;
      raggedrt_emulated_counts.global_sectors += sectors(request);
    }
  }
}

}  // namespace raggedrt::emulator
