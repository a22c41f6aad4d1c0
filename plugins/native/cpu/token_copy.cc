#include "cpu/token_copy.h"

#include <string.h>

#include <algorithm>
#include <vector>

namespace raggedrt {
namespace {

constexpr size_t kBytesPerTask = 256 * 1024;  // below it, waking a thread costs more than the copy

// Calls body(first, last) over parts of [0, rows).
template <typename Body>
void parallel_rows(int64_t rows, size_t row_bytes, Runtime& runtime, const Body& body) {
  const int64_t rows_per_task = std::max<int64_t>(1, static_cast<int64_t>(kBytesPerTask / std::max<size_t>(row_bytes, 1)));
  const int64_t tasks = (rows + rows_per_task - 1) / rows_per_task;
  if (tasks == 0) return;
  parallel_for(runtime, static_cast<size_t>(tasks), [&](size_t task) {
    const int64_t first = static_cast<int64_t>(task) * rows_per_task;
    body(first, std::min(rows, first + rows_per_task));
  });
}

}  // namespace

int64_t first_out_of_range(const TokenCopy& copy) {
  for (int64_t token = 0; token < copy.tokens; ++token) {
    if (copy.token_index[token] >= copy.slots) return token;
  }
  return -1;
}

void pack_tokens(const TokenCopy& copy, Runtime& runtime) {
  const char* source = static_cast<const char*>(copy.source);
  char* target = static_cast<char*>(copy.target);
  parallel_rows(copy.tokens, copy.row_bytes, runtime, [&](int64_t first, int64_t last) {
    for (int64_t token = first; token < last;) {
      char* row = target + static_cast<size_t>(token) * copy.row_bytes;
      const int32_t slot = copy.token_index[token];
      if (slot < 0) {
        memset(row, 0, copy.row_bytes);
        ++token;
        continue;
      }
      int64_t end = token + 1;  // neighbouring slots are one copy
      while (end < last && copy.token_index[end] == slot + static_cast<int32_t>(end - token)) ++end;
      memcpy(row, source + static_cast<size_t>(slot) * copy.row_bytes, static_cast<size_t>(end - token) * copy.row_bytes);
      token = end;
    }
  });
}

void unpack_tokens(const TokenCopy& copy, Runtime& runtime) {
  // The inverse map makes every slot written exactly once, by one task.
  std::vector<int32_t> token_of(static_cast<size_t>(copy.slots), -1);
  for (int64_t token = 0; token < copy.tokens; ++token) {
    const bool skipped = copy.token_index[token] < 0 || (copy.key_position != nullptr && copy.key_position[token] < 0);
    if (!skipped) token_of[static_cast<size_t>(copy.token_index[token])] = static_cast<int32_t>(token);
  }
  const char* source = static_cast<const char*>(copy.source);
  char* target = static_cast<char*>(copy.target);
  parallel_rows(copy.slots, copy.row_bytes, runtime, [&](int64_t first, int64_t last) {
    for (int64_t slot = first; slot < last;) {
      char* row = target + static_cast<size_t>(slot) * copy.row_bytes;
      const int32_t token = token_of[static_cast<size_t>(slot)];
      int64_t end = slot + 1;  // neighbouring tokens, or neighbouring gaps, are one access
      while (end < last && token_of[static_cast<size_t>(end)] == (token < 0 ? -1 : token + static_cast<int32_t>(end - slot))) {
        ++end;
      }
      const size_t bytes = static_cast<size_t>(end - slot) * copy.row_bytes;
      if (token < 0) {
        memset(row, 0, bytes);
      } else {
        memcpy(row, source + static_cast<size_t>(token) * copy.row_bytes, bytes);
      }
      slot = end;
    }
  });
}

}  // namespace raggedrt
