// Messages to TensorRT: through the logger of the engine that calls, else to standard error.
#pragma once

#include <NvInfer.h>

#include <string>

namespace raggedrt::tensorrt {

void set_logger_finder(nvinfer1::ILoggerFinder* finder);

void log_error(const std::string& message);

// Runs `body`; no exception crosses TensorRT's interface. What it throws is logged and `otherwise` is the result.
template <typename Result, typename Body>
Result guarded(Result otherwise, const Body& body) noexcept {
  try {
    return body();
  } catch (const std::exception& error) {
    log_error(error.what());
  } catch (...) {
    log_error("an unknown error");
  }
  return otherwise;
}

}  // namespace raggedrt::tensorrt
