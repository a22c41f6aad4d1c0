#include "ort/cuda_staging.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace raggedrt::ort {

using cuda::Status;

// One piece of pinned memory. The event is that of its last copies.
struct Block {
  char* memory = nullptr;
  size_t bytes = 0;
  void* context = nullptr;
  void* event = nullptr;
};

namespace {

constexpr int kSuccess = 0;
constexpr int kPortable = 1;       // CU_MEMHOSTALLOC_PORTABLE
constexpr unsigned kNoTiming = 2;  // CU_EVENT_DISABLE_TIMING
constexpr int kNotCapturing = 0;   // CU_STREAM_CAPTURE_STATUS_NONE
constexpr size_t kLeastBytes = size_t{64} << 10;

// What the launcher does not need of the driver.
struct Functions {
  int (*context_current)(void** context) = nullptr;
  int (*host_allocate)(void** memory, size_t bytes, unsigned flags) = nullptr;
  int (*event_create)(void** event, unsigned flags) = nullptr;
  int (*event_record)(void* event, void* stream) = nullptr;
  int (*event_query)(void* event) = nullptr;
  int (*copy_to_device)(uint64_t target, const void* source, size_t bytes, void* stream) = nullptr;
  int (*stream_is_capturing)(void* stream, int* status) = nullptr;
  std::string missing;  // the first function that the driver lacks, or why it cannot be opened
};

template <typename Function>
void find(void* library, const char* name, Functions& functions, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr && functions.missing.empty()) functions.missing = name;
}

Functions open_functions() {
  Functions functions;
  const char* named = getenv("RAGGEDRT_CUDA_DRIVER");
  void* library = dlopen(named != nullptr && *named != '\0' ? named : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    functions.missing = dlerror();
    return functions;
  }
  find(library, "cuCtxGetCurrent", functions, functions.context_current);
  find(library, "cuMemHostAlloc", functions, functions.host_allocate);
  find(library, "cuEventCreate", functions, functions.event_create);
  find(library, "cuEventRecord", functions, functions.event_record);
  find(library, "cuEventQuery", functions, functions.event_query);
  find(library, "cuMemcpyHtoDAsync_v2", functions, functions.copy_to_device);
  find(library, "cuStreamIsCapturing", functions, functions.stream_is_capturing);
  return functions;
}

Status driver(const Functions** functions) {
  static const Functions opened = open_functions();
  *functions = &opened;
  return opened.missing.empty() ? Status() : Status::failure("the CUDA driver cannot be used: " + opened.missing);
}

Status check(int result, const char* doing) {
  if (result == kSuccess) return {};
  return Status::failure(std::string("PackingPlan: ") + doing + " failed with CUDA error " + std::to_string(result));
}

// Blocks that no call holds; their copies may still be under way. Never freed: the driver may end before this does.
struct Pool {
  std::mutex mutex;
  std::vector<Block*> idle;
};

Pool& pool() {
  static Pool& all = *new Pool;
  return all;
}

// An idle block of this context that is large enough and whose copies are done; null: there is none.
Block* take_idle(const Functions& functions, size_t bytes, void* context) {
  std::lock_guard<std::mutex> lock(pool().mutex);
  std::vector<Block*>& idle = pool().idle;
  for (size_t i = 0; i < idle.size(); ++i) {
    Block* block = idle[i];
    if (block->context != context || block->bytes < bytes || functions.event_query(block->event) != kSuccess) continue;
    idle[i] = idle.back();
    idle.pop_back();
    return block;
  }
  return nullptr;
}

Status make_block(const Functions& functions, size_t bytes, void* context, Block** made) {
  auto block = std::make_unique<Block>();
  block->bytes = kLeastBytes;
  while (block->bytes < bytes) block->bytes *= 2;
  block->context = context;
  void* memory = nullptr;
  RAGGEDRT_RETURN_IF_FAILED(check(functions.host_allocate(&memory, block->bytes, kPortable), "pinned memory"));
  block->memory = static_cast<char*>(memory);
  RAGGEDRT_RETURN_IF_FAILED(check(functions.event_create(&block->event, kNoTiming), "making an event"));
  *made = block.release();
  return {};
}

}  // namespace

Status is_capturing(void* stream, bool& capturing) {
  const Functions* functions = nullptr;
  RAGGEDRT_RETURN_IF_FAILED(driver(&functions));
  int status = kNotCapturing;
  RAGGEDRT_RETURN_IF_FAILED(check(functions->stream_is_capturing(stream, &status), "asking the stream"));
  capturing = status != kNotCapturing;
  return {};
}

Status StagedCopy::allocate(size_t bytes, char** memory) {
  const Functions* functions = nullptr;
  RAGGEDRT_RETURN_IF_FAILED(driver(&functions));
  void* context = nullptr;
  RAGGEDRT_RETURN_IF_FAILED(check(functions->context_current(&context), "asking for the context"));
  block_ = take_idle(*functions, bytes, context);
  if (block_ == nullptr) RAGGEDRT_RETURN_IF_FAILED(make_block(*functions, bytes, context, &block_));
  *memory = block_->memory;
  return {};
}

Status StagedCopy::copy(void* target, const void* part, size_t bytes) {
  if (bytes == 0) return {};
  const Functions* functions = nullptr;
  RAGGEDRT_RETURN_IF_FAILED(driver(&functions));
  const uint64_t address = static_cast<uint64_t>(reinterpret_cast<uintptr_t>(target));
  return check(functions->copy_to_device(address, part, bytes, stream_), "copying the plan to the device");
}

StagedCopy::~StagedCopy() {
  const Functions* functions = nullptr;
  if (block_ == nullptr || !driver(&functions).ok()) return;
  // Without an event nobody could tell when the copies are done, so the block is given up.
  if (functions->event_record(block_->event, stream_) != kSuccess) return;
  std::lock_guard<std::mutex> lock(pool().mutex);
  pool().idle.push_back(block_);
}

}  // namespace raggedrt::ort
