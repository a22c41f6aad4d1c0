// libraggedrt_trt_ort.so: the plugins for ONNX Runtime's TensorRT provider, which opens a plugin library and expects that
// this alone registers its creators. TensorRT's own tools call getCreators of libraggedrt_trt.so instead, and refuse a
// library whose creators are registered already; so registration on load is a library of its own, beside that one.
#include <NvInferRuntime.h>
#include <NvInferVersion.h>
#include <dlfcn.h>

#include <string>

#define RAGGEDRT_EXPORT extern "C" __attribute__((visibility("default")))
#define RAGGEDRT_TEXT(number) #number
#define RAGGEDRT_SONAME(major) "libnvinfer.so." RAGGEDRT_TEXT(major)

namespace {

constexpr const char* kPlugins = "libraggedrt_trt.so";

std::string dl_error() {
  const char* said = dlerror();
  return said == nullptr ? "no reason given" : said;
}

// The registry of the TensorRT that this process has loaded already; it is never loaded here, or there would be two.
nvinfer1::IPluginRegistry* registry(std::string& problem) {
  constexpr const char* kName = RAGGEDRT_SONAME(NV_TENSORRT_MAJOR);
  void* tensorrt = dlopen(kName, RTLD_LAZY | RTLD_NOLOAD);
  if (tensorrt == nullptr) {
    problem = std::string(kName) + " is not loaded in this process";
    return nullptr;
  }
  using Get = nvinfer1::IPluginRegistry*();
  Get* get = reinterpret_cast<Get*>(dlsym(tensorrt, "getPluginRegistry"));
  nvinfer1::IPluginRegistry* found = get == nullptr ? nullptr : get();
  if (found == nullptr) problem = std::string(kName) + " has no plugin registry";
  return found;
}

// The creators of the plugin library that lies beside this one.
nvinfer1::IPluginCreatorInterface* const* creators(int32_t& count, std::string& problem) {
  Dl_info here{};
  if (dladdr(reinterpret_cast<void*>(&dl_error), &here) == 0 || here.dli_fname == nullptr) {
    problem = "the place of this library is not known";
    return nullptr;
  }
  const std::string own = here.dli_fname;
  const size_t slash = own.rfind('/');
  const std::string place = (slash == std::string::npos ? std::string() : own.substr(0, slash + 1)) + kPlugins;
  void* plugins = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (plugins == nullptr) {
    problem = dl_error();
    return nullptr;
  }
  using Get = nvinfer1::IPluginCreatorInterface* const*(int32_t&);
  Get* get = reinterpret_cast<Get*>(dlsym(plugins, "getCreators"));
  if (get == nullptr) {
    problem = place + " exports no getCreators";
    return nullptr;
  }
  return get(count);
}

std::string register_all() {
  std::string problem;
  nvinfer1::IPluginRegistry* known = registry(problem);
  if (known == nullptr) return problem;
  int32_t count = 0;
  nvinfer1::IPluginCreatorInterface* const* found = creators(count, problem);
  if (found == nullptr) return problem;
  for (int32_t number = 0; number < count; ++number) {
    auto* creator = static_cast<nvinfer1::IPluginCreatorV3One*>(found[number]);  // the library has no other kind
    const char* name = creator->getPluginName();
    const char* domain = creator->getPluginNamespace();
    if (known->getCreator(name, creator->getPluginVersion(), domain) != nullptr) continue;
    if (!known->registerCreator(*creator, domain)) return std::string("TensorRT refuses the creator ") + name;
  }
  return {};
}

__attribute__((constructor)) void on_load() { register_all(); }

}  // namespace

// Registers what is not registered yet. Returns an empty text, or what is wrong; it lives until the next call.
RAGGEDRT_EXPORT const char* raggedrt_register_plugins() {
  static std::string problem;
  problem = register_all();
  return problem.c_str();
}
