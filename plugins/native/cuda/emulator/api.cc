#include "cuda/emulator/api.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include <mutex>
#include <new>

#include "cuda/emulator/global_memory.h"
#include "cuda/emulator/runtime.h"

namespace raggedrt::emulator {

namespace {

std::mutex mutex;

// One 16-bit pattern that is a NaN as half and a signalling NaN as bfloat16 and, twice, as float; as an integer it is
// far from every index.
constexpr uint16_t kPoison = 0x7fa1;

std::string check_launch(const raggedrt_emulator_launch& call) {
  if (call.kernel == nullptr || call.params == nullptr) return "a launch needs a kernel and its params";
  const char* const name = call.kernel->name;
  if (call.grid_x < 1 || call.grid_y < 1) return text("kernel %s: the grid (%d, %d) is empty", name, call.grid_x, call.grid_y);
  const int most = static_cast<int>(call.kernel->max_threads);
  if (call.block_threads < 32 || call.block_threads % 32 != 0 || call.block_threads > most || most > kMostThreads) {
    return text("kernel %s: %d threads per block; a multiple of 32 is needed, at most %d as the kernel declares", name,
                call.block_threads, most);
  }
  if (call.shared_bytes < 0) return text("kernel %s: %d bytes of shared memory", name, call.shared_bytes);
  return std::string();
}

// "file:line" of the code before a return address, where binutils are installed; else the library and offset.
std::string source_of(const void* site) {
  Dl_info info;
  if (site == nullptr || dladdr(site, &info) == 0 || info.dli_fname == nullptr) return std::string();
  const size_t offset = static_cast<size_t>(static_cast<const char*>(site) - static_cast<const char*>(info.dli_fbase));
  const std::string command =
      text("addr2line -i -s -e '%s' 0x%zx 2>/dev/null", info.dli_fname, offset == 0 ? 0 : offset - 1);
  std::string lines;
  if (FILE* const pipe = popen(command.c_str(), "r")) {
    char line[512];
    while (fgets(line, sizeof line, pipe) != nullptr) {
      line[strcspn(line, " \n")] = '\0';  // after a space: a discriminator
      if (strncmp(line, "emulated.h:", 11) == 0 || strchr(line, '?') != nullptr) continue;
      lines += (lines.empty() ? "" : " < ") + std::string(line);
    }
    pclose(pipe);
  }
  return lines.empty() ? text("%s+0x%zx", info.dli_fname, offset) : lines;
}

}  // namespace

void fill_poison(char* begin, size_t bytes) {
  for (size_t at = 0; at + sizeof kPoison <= bytes; at += sizeof kPoison) memcpy(begin + at, &kPoison, sizeof kPoison);
  if (bytes % sizeof kPoison != 0) memcpy(begin + bytes - 1, &kPoison, 1);
}

}  // namespace raggedrt::emulator

using namespace raggedrt::emulator;

int raggedrt_emulator_run(const raggedrt_emulator_launch* call, raggedrt_emulator_counters* counters, char* error,
                          size_t error_bytes) {
  const std::lock_guard<std::mutex> lock(mutex);
  std::string wrong = check_launch(*call);
  if (wrong.empty()) {
    launch.call = call;
    raggedrt_emulated_counts = {};
    wrong = run_grid();
    const std::string source = wrong.empty() ? std::string() : source_of(launch.error_site);
    if (!source.empty()) wrong += " [" + source + "]";
    if (counters != nullptr) *counters = raggedrt_emulated_counts;
  }
  if (error != nullptr && error_bytes > 0) snprintf(error, error_bytes, "%s", wrong.c_str());
  return wrong.empty() ? 0 : 1;
}

const char* raggedrt_emulator_counter_names() {
#define RAGGEDRT_EMULATOR_NAME(name) #name " "
  return RAGGEDRT_EMULATOR_COUNTERS(RAGGEDRT_EMULATOR_NAME);
#undef RAGGEDRT_EMULATOR_NAME
}

int raggedrt_emulator_register(const void* begin, size_t bytes, const char* name, raggedrt_emulator_memory kind) {
  const std::lock_guard<std::mutex> lock(mutex);
  return global_memory.add(reinterpret_cast<uintptr_t>(begin), bytes, name, kind) ? 0 : 1;
}

int raggedrt_emulator_unregister(const void* begin) {
  const std::lock_guard<std::mutex> lock(mutex);
  return global_memory.remove(reinterpret_cast<uintptr_t>(begin)) ? 0 : 1;
}

int raggedrt_emulator_written(const void* begin, size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex);
  const uintptr_t address = reinterpret_cast<uintptr_t>(begin);
  Region* const region = global_memory.find(address, bytes);
  if (region == nullptr) return 1;
  set_written(*region, address, bytes, true);
  return 0;
}

int raggedrt_emulator_forget(void* begin, size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex);
  const uintptr_t address = reinterpret_cast<uintptr_t>(begin);
  Region* const region = global_memory.find(address, bytes);
  if (region == nullptr) return 1;
  set_written(*region, address, bytes, false);
  fill_poison(static_cast<char*>(begin), bytes);
  return 0;
}

size_t raggedrt_emulator_unwritten(const void* begin, size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex);
  const uintptr_t address = reinterpret_cast<uintptr_t>(begin);
  const Region* const region = global_memory.find(address, bytes);
  return region == nullptr ? SIZE_MAX : count_unwritten(*region, address, bytes);
}

void raggedrt_emulated_debug_check(int condition, const char* what) {
  Lane& lane = RAGGEDRT_BEGIN();
  if (condition == 0) fail(lane, what);
}
