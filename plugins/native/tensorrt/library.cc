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

std::string info() {
  std::string creators;
  for (const PluginRow& row : plugin_rows()) {
    creators += std::string(creators.empty() ? "" : ", ") + "\"" + row.name + "\": " + std::to_string(row.features);
  }
  return std::string("{\"version\": \"") + RAGGEDRT_VERSION + "\", \"abi\": " + std::to_string(gen::kAbiVersion) +
         ", \"tensorrt\": \"" + std::to_string(NV_TENSORRT_MAJOR) + "." + std::to_string(NV_TENSORRT_MINOR) +
         "\", \"creators\": {" + creators + "}}";
}

}  // namespace
}  // namespace raggedrt::tensorrt

RAGGEDRT_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static const raggedrt::tensorrt::Creators creators;
  count = static_cast<int32_t>(creators.pointers.size());
  return creators.pointers.data();
}

RAGGEDRT_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { raggedrt::tensorrt::set_logger_finder(finder); }

// Facts about this library as a JSON object, with the feature bits that each creator serves; the string lives as long as
// the library.
RAGGEDRT_EXPORT const char* raggedrt_tensorrt_info() {
  static const std::string text = raggedrt::tensorrt::info();
  return text.c_str();
}
