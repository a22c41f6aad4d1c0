// What the emulated driver keeps: devices and contexts, streams and their waiting work, errors to be injected.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

namespace raggedrt::emulator {

enum DriverResult : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNotInitialized = 3,
  kNoDevice = 100,
  kInvalidDevice = 101,
  kInvalidImage = 200,
  kInvalidContext = 201,
  kInvalidHandle = 400,
  kNotFound = 500,
  kNotReady = 600,
  kLaunchFailed = 719,
};

struct DriverSettings {
  std::string kernels;
  int capability = 80;
  int version = 13000;
  int devices = 2;
};

struct Context {
  int device = 0;
};

struct Event {
  uint64_t recorded = 0;  // times that it was put into a stream
  uint64_t reached = 0;   // times that a stream has passed it
};

// One thing to do on a stream, or to wait for.
struct Task {
  std::function<int()> run;      // null: only waits
  std::shared_ptr<Event> event;  // waited for, until it was reached `count` times
  uint64_t count = 0;
};

struct StreamQueue {
  std::deque<Task> tasks;
};

// Where work waits. Not thread-safe: the driver's lock is held.
class Streams {
 public:
  void seed(uint64_t seed);
  // A null handle is the default stream.
  bool create(void** handle);
  bool destroy(void* handle);
  bool knows(void* handle) const { return handle == nullptr || queues_.count(handle) != 0; }
  // Puts a task into a stream and, by the seed, runs some of what waits.
  void put(void* handle, Task task);
  // Runs everything that waits in a stream, and what that waits for; null: in all streams.
  void finish(void* handle);
  void finish_all();
  // The first error of what ran.
  int error() const { return error_; }
  void clear_error() { error_ = 0; }
  uint64_t launch_seed();

 private:
  bool step(StreamQueue& queue);
  bool step_any();

  std::map<void*, StreamQueue> queues_;
  std::mt19937_64 random_;
  uint64_t seed_ = 0;
  uintptr_t next_ = 1;
  int error_ = 0;
};

struct Failure {
  std::string function;
  int skipped = 0;
  int result = 0;
};

struct DriverState {
  std::mutex mutex;
  bool ready = false;
  DriverSettings settings;
  void* kernels = nullptr;  // from dlopen
  std::vector<std::unique_ptr<Context>> contexts;  // by device
  Streams streams;
  std::map<void*, std::shared_ptr<Event>> events;
  std::map<uint64_t, std::pair<std::unique_ptr<char[]>, size_t>> allocations;  // by address
  std::map<std::string, int> calls;
  std::vector<Failure> failures;
  std::string error;  // of the first kernel that failed
};

DriverState& driver_state();

// Counts a call; the result that was injected for it, else 0.
int enter(DriverState& state, const char* function);

}  // namespace raggedrt::emulator
