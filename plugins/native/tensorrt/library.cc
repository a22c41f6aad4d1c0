// What TensorRT looks up in the library: getCreators and setLoggerFinder; and facts about it for tools.
#include <memory>
#include <string>
#include <vector>

#include "tensorrt/log.h"
#include "tensorrt/plugin.h"

#define RAGGEDRT_EXPORT extern "C" __attribute__((visibility("default")))

namespace raggedrt::tensorrt {
namespace {

struct Creators {
  Creators() {
    for (const PluginRow& row : plugin_rows()) {
      owned.push_back(std::make_unique<Creator>(row));
      pointers.push_back(owned.back().get());
    }
  }
  std::vector<std::unique_ptr<Creator>> owned;
  std::vector<nvinfer1::IPluginCreatorInterface*> pointers;
};

}  // namespace
}  // namespace raggedrt::tensorrt

RAGGEDRT_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static const raggedrt::tensorrt::Creators creators;
  count = static_cast<int32_t>(creators.pointers.size());
  return creators.pointers.data();
}

RAGGEDRT_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { raggedrt::tensorrt::set_logger_finder(finder); }

// Facts about this library as a JSON object; the string lives as long as the library.
RAGGEDRT_EXPORT const char* raggedrt_tensorrt_info() {
  static const std::string info = std::string("{\"version\": \"") + RAGGEDRT_VERSION +
                                  "\", \"abi\": " + std::to_string(raggedrt::gen::kAbiVersion) +
                                  ", \"tensorrt\": \"" + std::to_string(NV_TENSORRT_MAJOR) + "." +
                                  std::to_string(NV_TENSORRT_MINOR) + "\"}";
  return info.c_str();
}
