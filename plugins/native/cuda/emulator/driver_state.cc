#include "cuda/emulator/driver_state.h"

#include <stdlib.h>

namespace raggedrt::emulator {
namespace {

int number(const char* name, int usual) {
  const char* text = getenv(name);
  return text != nullptr && *text != '\0' ? atoi(text) : usual;
}

}  // namespace

DriverState& driver_state() {
  static auto& state = *new DriverState;  // other threads may still call while the process ends
  const std::lock_guard<std::mutex> lock(state.mutex);
  if (!state.ready) {
    const char* kernels = getenv("RAGGEDRT_EMULATED_KERNELS");
    state.settings.kernels = kernels != nullptr ? kernels : "";
    state.settings.capability = number("RAGGEDRT_EMULATED_CAPABILITY", state.settings.capability);
    state.settings.version = number("RAGGEDRT_EMULATED_DRIVER", state.settings.version);
    state.settings.devices = number("RAGGEDRT_EMULATED_DEVICES", state.settings.devices);
    for (int device = 0; device < state.settings.devices; ++device) {
      state.contexts.push_back(std::make_unique<Context>());
      state.contexts.back()->device = device;
    }
    state.ready = true;
  }
  return state;
}

int enter(DriverState& state, const char* function) {
  ++state.calls[function];
  for (size_t i = 0; i < state.failures.size(); ++i) {
    Failure& failure = state.failures[i];
    if (failure.function != function) continue;
    if (failure.skipped-- > 0) continue;
    const int result = failure.result;
    state.failures.erase(state.failures.begin() + static_cast<std::ptrdiff_t>(i));
    return result;
  }
  return kSuccess;
}

void Streams::seed(uint64_t seed) {
  finish_all();
  seed_ = seed;
  random_.seed(seed);
}

uint64_t Streams::launch_seed() { return seed_ == 0 ? 0 : random_() | 1; }

bool Streams::create(void** handle) {
  *handle = reinterpret_cast<void*>(next_++ << 8);
  return queues_.emplace(*handle, StreamQueue()).second;
}

bool Streams::destroy(void* handle) {
  if (queues_.count(handle) == 0) return false;
  finish(handle);
  queues_.erase(handle);
  return true;
}

void Streams::put(void* handle, Task task) {
  queues_[handle].tasks.push_back(std::move(task));
  if (seed_ == 0) {
    finish(handle);
    return;
  }
  for (uint64_t steps = random_() % 3; steps > 0 && step_any(); --steps) {
  }
}

void Streams::finish(void* handle) {
  while (!queues_[handle].tasks.empty()) {
    if (!step(queues_[handle]) && !step_any()) return;  // it waits for an event that nobody will reach
  }
}

void Streams::finish_all() {
  while (step_any()) {
  }
}

// Runs the first task of a queue if it need not wait.
bool Streams::step(StreamQueue& queue) {
  if (queue.tasks.empty()) return false;
  Task& first = queue.tasks.front();
  if (first.event != nullptr && first.event->reached < first.count) return false;
  const Task task = std::move(first);
  queue.tasks.pop_front();
  if (task.run != nullptr) {
    const int result = task.run();
    if (error_ == kSuccess) error_ = result;
  }
  return true;
}

// Runs one task of some queue.
bool Streams::step_any() {
  std::vector<StreamQueue*> waiting;
  for (auto& [handle, queue] : queues_) {
    if (!queue.tasks.empty()) waiting.push_back(&queue);
  }
  while (!waiting.empty()) {
    const size_t index = seed_ == 0 ? 0 : random_() % waiting.size();
    if (step(*waiting[index])) return true;
    waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(index));
  }
  return false;
}

}  // namespace raggedrt::emulator
