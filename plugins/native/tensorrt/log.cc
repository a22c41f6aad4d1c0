#include "tensorrt/log.h"

#include <stdio.h>

#include <atomic>

namespace raggedrt::tensorrt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* finder) { logger_finder = finder; }

void log_error(const std::string& message) {
  nvinfer1::ILoggerFinder* finder = logger_finder;
  nvinfer1::ILogger* logger = finder != nullptr ? finder->findLogger() : nullptr;
  const std::string line = "[raggedrt] " + message;
  if (logger != nullptr) {
    logger->log(nvinfer1::ILogger::Severity::kERROR, line.c_str());
  } else {
    fprintf(stderr, "%s\n", line.c_str());
  }
}

}  // namespace raggedrt::tensorrt
