// What a kernel needs from the runtime that calls it: threads and memory. Adapters implement it.
#pragma once

#include <stddef.h>

namespace raggedrt {

class Runtime {
 public:
  virtual ~Runtime() = default;

  // Calls task(data, i) for i in [0, count), in any order, possibly at the same time; returns when all are done.
  virtual void parallel(size_t count, void (*task)(void* data, size_t index), void* data) = 0;

  // Upper bound of the tasks that run at the same time.
  virtual size_t max_workers() const = 0;

  // Memory that lives until the call of the op ends.
  virtual void* allocate(size_t bytes) = 0;
};

// Calls body(i) for i in [0, count) through `runtime`, without a heap allocation for the closure.
template <typename Body>
void parallel_for(Runtime& runtime, size_t count, Body&& body) {
  if (count == 1) {
    body(size_t{0});
    return;
  }
  runtime.parallel(
      count, [](void* data, size_t index) { (*static_cast<Body*>(data))(index); }, const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace raggedrt
