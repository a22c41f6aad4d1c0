// Libraries under TensorRT's names for its Python bindings: what the builder's interfaces are asked is written down, line
// by line, into the file that RAGGEDRT_RECORD names. Nothing is parsed and nothing is built.
#include <NvInfer.h>
#include <NvOnnxParser.h>
#include <stdio.h>
#include <stdlib.h>

#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "registry.cc"

namespace {

using namespace nvonnxparser;

void record(const std::string& line) {
  const char* path = getenv("RAGGEDRT_RECORD");
  FILE* file = path == nullptr ? nullptr : fopen(path, "a");
  if (file == nullptr) return;
  fprintf(file, "%s\n", line.c_str());
  fclose(file);
}

#include "recorders.gen.h"

std::string text_of(const Dims& dims) {
  std::string text;
  for (int32_t axis = 0; axis < dims.nbDims; ++axis) text += (axis > 0 ? "x" : "") + std::to_string(dims.d[axis]);
  return text;
}

class Tensor final : public ITensor, public VTensorRecorder {
 public:
  Tensor(const std::string& name, int32_t rank) : name_(name) {
    mImpl = this;
    dims_.nbDims = rank;
    for (int32_t axis = 0; axis < rank; ++axis) dims_.d[axis] = -1;
  }
  char const* getName() const noexcept override { return name_.c_str(); }
  Dims getDimensions() const noexcept override { return dims_; }
  DataType getType() const noexcept override { return DataType::kINT64; }

 private:
  std::string name_;
  Dims dims_{};
};

// Has the inputs that RAGGEDRT_INPUTS names, as `name:rank name:rank`.
class Network final : public INetworkDefinition, public VNetworkDefinitionRecorder {
 public:
  explicit Network(IBuilder& builder) : builder_(builder) {
    mImpl = this;
    const char* named = getenv("RAGGEDRT_INPUTS");
    std::istringstream inputs(named == nullptr ? "" : named);
    for (std::string input; inputs >> input;) {
      const size_t colon = input.rfind(':');
      inputs_.push_back(std::make_unique<Tensor>(input.substr(0, colon), std::stoi(input.substr(colon + 1))));
    }
  }
  int32_t getNbInputs() const noexcept override { return static_cast<int32_t>(inputs_.size()); }
  ITensor* getInput(int32_t index) const noexcept override { return inputs_[static_cast<size_t>(index)].get(); }
  IBuilder& getBuilder() const noexcept override { return builder_; }

 private:
  IBuilder& builder_;
  std::vector<std::unique_ptr<Tensor>> inputs_;
};

class Profile final : public IOptimizationProfile, public VOptimizationProfileRecorder {
 public:
  Profile() { mImpl = this; }
  bool setDimensions(char const* input, OptProfileSelector select, Dims const& dims) noexcept override {
    record(std::string("setDimensions ") + input + " " + std::to_string(static_cast<int>(select)) + " " + text_of(dims));
    return true;
  }
  bool isValid() const noexcept override { return true; }
};

class Cache final : public ITimingCache, public VTimingCacheRecorder {
 public:
  Cache() { mImpl = this; }
};

class Config final : public IBuilderConfig, public VBuilderConfigRecorder {
 public:
  Config() { mImpl = this; }
  void setFlag(BuilderFlag flag) noexcept override { record("setFlag " + std::to_string(static_cast<int>(flag))); }
  void clearFlag(BuilderFlag flag) noexcept override { record("clearFlag " + std::to_string(static_cast<int>(flag))); }
  void setHardwareCompatibilityLevel(HardwareCompatibilityLevel level) noexcept override {
    record("setHardwareCompatibilityLevel " + std::to_string(static_cast<int>(level)));
  }
  void setPluginsToSerialize(char const* const* paths, int32_t count) noexcept override {
    for (int32_t index = 0; index < count; ++index) record(std::string("setPluginsToSerialize ") + paths[index]);
  }
  int32_t addOptimizationProfile(IOptimizationProfile const*) noexcept override { return profiles_++; }
  int32_t getNbOptimizationProfiles() const noexcept override { return profiles_; }
  ITimingCache* createTimingCache(void const*, std::size_t) const noexcept override { return new Cache(); }
  bool setTimingCache(ITimingCache const&, bool) noexcept override { return true; }

 private:
  int32_t profiles_ = 0;
};

class Builder final : public IBuilder, public VBuilderRecorder {
 public:
  Builder() { mImpl = this; }
  IBuilderConfig* createBuilderConfig() noexcept override { return new Config(); }
  INetworkDefinition* createNetworkV2(NetworkDefinitionCreationFlags flags) noexcept override {
    record("createNetworkV2 " + std::to_string(flags));
    return new Network(*this);
  }
  IOptimizationProfile* createOptimizationProfile() noexcept override { return new Profile(); }
  IPluginRegistry& getPluginRegistry() noexcept override {
    record("Builder.getPluginRegistry");
    return registry;
  }
};

class Parser final : public IParserRecorder {
 public:
  bool parseFromFile(const char* path, int) noexcept override {
    record(std::string("parseFromFile ") + path);
    return true;
  }
  bool supportsOperator(const char* name) const noexcept override { return std::string(name) != "NonZero"; }
};

}  // namespace

#define RECORDERS_EXPORT extern "C" __attribute__((visibility("default")))

RECORDERS_EXPORT void* createInferBuilder_INTERNAL(void*, int32_t) noexcept { return new Builder(); }
RECORDERS_EXPORT void* createInferRuntime_INTERNAL(void*, int32_t) noexcept { return nullptr; }
RECORDERS_EXPORT void* createInferRefitter_INTERNAL(void*, void*, int32_t) noexcept { return nullptr; }
RECORDERS_EXPORT void* createNvOnnxParser_INTERNAL(void*, void*, int) noexcept { return new Parser(); }
RECORDERS_EXPORT void* createNvOnnxParserRefitter_INTERNAL(void*, void*, int) noexcept { return nullptr; }
RECORDERS_EXPORT int getNvOnnxParserVersion() noexcept { return 0; }
RECORDERS_EXPORT IPluginRegistry* getBuilderPluginRegistry(EngineCapability) noexcept { return &registry; }
RECORDERS_EXPORT bool initLibNvInferPlugins(void*, char const*) noexcept {
  record("initLibNvInferPlugins");
  return true;
}
