// A plugin registry under TensorRT's name: what a process that has loaded TensorRT offers to a library that registers.
#include <NvInferRuntime.h>
#include <NvInferVersion.h>
#include <dlfcn.h>

#include <cstring>
#include <string>
#include <vector>

namespace {

using namespace nvinfer1;

class Registry final : public IPluginRegistry {
 public:
#if NV_TENSORRT_MAJOR < 11
  bool registerCreator(IPluginCreator&, AsciiChar const*) noexcept override { return false; }
  IPluginCreator* const* getPluginCreatorList(int32_t*) const noexcept override { return nullptr; }
  IPluginCreator* getPluginCreator(AsciiChar const*, AsciiChar const*, AsciiChar const*) noexcept override {
    return nullptr;
  }
  bool deregisterCreator(IPluginCreator const&) noexcept override { return false; }
#endif
  // Not in the first versions of TensorRT 10.
  IPluginCreatorInterface* const* getAllCreatorsRecursive(int32_t* count) noexcept { return getAllCreators(count); }
  void setErrorRecorder(IErrorRecorder*) noexcept override {}
  IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
  bool isParentSearchEnabled() const override { return false; }
  void setParentSearchEnabled(bool) override {}
  // As TensorRT does: refuses a library of which a creator is registered already.
  PluginLibraryHandle loadLibrary(AsciiChar const* path) noexcept override {
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    using Get = IPluginCreatorInterface* const*(int32_t&);
    auto* get = library == nullptr ? nullptr : reinterpret_cast<Get*>(dlsym(library, "getCreators"));
    if (get == nullptr) return nullptr;
    int32_t count = 0;
    IPluginCreatorInterface* const* found = get(count);
    for (int32_t number = 0; number < count; ++number) {
      if (!registerCreator(*found[number], static_cast<IPluginCreatorV3One*>(found[number])->getPluginNamespace())) {
        return nullptr;
      }
    }
    return library;
  }
  void deregisterLibrary(PluginLibraryHandle) noexcept override {}
  bool registerCreator(IPluginCreatorInterface& creator, AsciiChar const* domain) noexcept override {
    if (std::strcmp(creator.getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE") != 0) return false;
    auto& known = static_cast<IPluginCreatorV3One&>(creator);
    if (getCreator(known.getPluginName(), known.getPluginVersion(), domain) != nullptr) return false;
    creators_.push_back(&creator);
    names_ += std::string(domain) + "." + known.getPluginName() + "." + known.getPluginVersion() + "\n";
    return true;
  }
  IPluginCreatorInterface* const* getAllCreators(int32_t* count) const noexcept override {
    *count = static_cast<int32_t>(creators_.size());
    return creators_.data();
  }
  IPluginCreatorInterface* getCreator(AsciiChar const* name, AsciiChar const* version,
                                      AsciiChar const* domain) noexcept override {
    for (IPluginCreatorInterface* creator : creators_) {
      auto* known = static_cast<IPluginCreatorV3One*>(creator);
      if (std::strcmp(known->getPluginName(), name) == 0 && std::strcmp(known->getPluginVersion(), version) == 0 &&
          std::strcmp(known->getPluginNamespace(), domain) == 0)
        return creator;
    }
    return nullptr;
  }
  bool deregisterCreator(IPluginCreatorInterface const&) noexcept override { return false; }
  IPluginResource* acquirePluginResource(AsciiChar const*, IPluginResource*) noexcept override { return nullptr; }
  int32_t releasePluginResource(AsciiChar const*) noexcept override { return 0; }

  const char* names() const { return names_.c_str(); }

 private:
  std::vector<IPluginCreatorInterface*> creators_;
  std::string names_;
};

Registry registry;

}  // namespace

extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginRegistry* getPluginRegistry() noexcept {
  return &registry;
}

extern "C" __attribute__((visibility("default"))) const char* registered() { return registry.names(); }
