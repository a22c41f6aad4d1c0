// Whether a call worked, with one message for the user where it did not. Nothing is thrown across adapters.
#pragma once

#include <string>
#include <utility>

namespace raggedrt::cuda {

class [[nodiscard]] Status {
 public:
  Status() = default;  // it worked
  static Status failure(std::string message) {
    Status status;
    status.message_ = std::move(message);
    return status;
  }

  bool ok() const { return message_.empty(); }
  const std::string& message() const { return message_; }

 private:
  std::string message_;
};

}  // namespace raggedrt::cuda

// Returns the status of `expression` from the enclosing function unless it is ok.
#define RAGGEDRT_RETURN_IF_FAILED(expression)                            \
  do {                                                                   \
    ::raggedrt::cuda::Status raggedrt_status = (expression);             \
    if (!raggedrt_status.ok()) return raggedrt_status;                   \
  } while (false)
