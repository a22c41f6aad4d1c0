// Plays TensorRT: drives a plugin through the calls that a builder and an execution context make, in their order.
//
// Memory comes from the CUDA driver that the plugin uses too, named by RAGGEDRT_CUDA_DRIVER, else the machine's.
#include "host.h"

#include <NvInfer.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include <stdexcept>
#include <string>

#include "dimensions.h"

#define HOST_API extern "C" __attribute__((visibility("default")))

namespace host {
namespace {

using namespace nvinfer1;

void require(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}

class Library {
 public:
  explicit Library(const char* path) : handle_(dlopen(path, RTLD_NOW | RTLD_LOCAL)) {
    if (handle_ == nullptr) throw std::runtime_error(dlerror());
  }
  template <typename Function>
  Function* function(const char* name) const {
    void* found = dlsym(handle_, name);
    require(found != nullptr, std::string(name) + " is not exported");
    return reinterpret_cast<Function*>(found);
  }

 private:
  void* handle_;  // stays open: creators live as long as the process
};

std::string last_error;

class Logger final : public ILogger {
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kERROR) last_error = message;
  }
};

class Finder final : public ILoggerFinder {
 public:
  ILogger* findLogger() override { return &logger_; }

 private:
  Logger logger_;
};

class Resources final : public IPluginResourceContext {
 public:
  IGpuAllocator* getGpuAllocator() const noexcept override { return nullptr; }
  IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
};

// The driver's memory functions.
class Driver {
 public:
  Driver() : library_(path()) {
    check(library_.function<int(unsigned)>("cuInit")(0), "cuInit");
    int device = 0;
    void* context = nullptr;
    check(library_.function<int(int*, int)>("cuDeviceGet")(&device, 0), "cuDeviceGet");
    check(library_.function<int(void**, int)>("cuDevicePrimaryCtxRetain")(&context, device), "cuDevicePrimaryCtxRetain");
    check(library_.function<int(void*)>("cuCtxSetCurrent")(context), "cuCtxSetCurrent");
  }

  void* allocate(size_t bytes) {
    uint64_t address = 0;
    check(library_.function<int(uint64_t*, size_t)>("cuMemAlloc_v2")(&address, bytes > 0 ? bytes : 1), "cuMemAlloc");
    return reinterpret_cast<void*>(address);
  }
  void release(void* memory) {
    check(library_.function<int(uint64_t)>("cuMemFree_v2")(reinterpret_cast<uint64_t>(memory)), "cuMemFree");
  }
  void to_device(void* target, const void* source, size_t bytes) {
    if (bytes == 0) return;
    check(library_.function<int(uint64_t, const void*, size_t)>("cuMemcpyHtoD_v2")(reinterpret_cast<uint64_t>(target),
                                                                                    source, bytes), "cuMemcpyHtoD");
  }
  void to_host(void* target, const void* source, size_t bytes) {
    if (bytes == 0) return;
    check(library_.function<int(void*, uint64_t, size_t)>("cuMemcpyDtoH_v2")(target, reinterpret_cast<uint64_t>(source),
                                                                              bytes), "cuMemcpyDtoH");
  }
  void synchronize() { check(library_.function<int()>("cuCtxSynchronize")(), "cuCtxSynchronize"); }

 private:
  static const char* path() {
    const char* named = getenv("RAGGEDRT_CUDA_DRIVER");
    return named != nullptr ? named : "libcuda.so.1";
  }
  static void check(int code, const char* what) {
    require(code == 0, std::string(what) + " gives CUDA error " + std::to_string(code));
  }

  Library library_;
};

size_t size_of(DataType type) {
  switch (type) {
    case DataType::kINT64: return 8;
    case DataType::kFLOAT:
    case DataType::kINT32: return 4;
    case DataType::kHALF:
    case DataType::kBF16: return 2;
    default: return 1;
  }
}

Dims dims_of(const int64_t* values, int rank) {
  Dims dims{};
  dims.nbDims = rank;
  for (int axis = 0; axis < rank; ++axis) dims.d[axis] = values[axis];
  return dims;
}

int64_t volume(const Dims& dims) {
  int64_t product = 1;
  for (int axis = 0; axis < dims.nbDims; ++axis) product *= dims.d[axis];
  return product;
}

PluginTensorDesc description(const Dims& dims, DataType type) {
  PluginTensorDesc tensor{};
  tensor.dims = dims;
  tensor.type = type;
  tensor.format = TensorFormat::kLINEAR;
  return tensor;
}

// One plugin with its inputs, taken through build and run.
class Run {
 public:
  Run(const char* library, const char* creator, const HostField* fields, int field_count, const HostTensor* inputs,
      int input_count)
      : library_(library), inputs_(inputs, inputs + input_count) {
    static Finder finder;
    last_error.clear();
    library_.function<void(ILoggerFinder*)>("setLoggerFinder")(&finder);
    creator_ = find(creator);
    for (int index = 0; index < field_count; ++index) {
      fields_.emplace_back(fields[index].name, fields[index].data, static_cast<PluginFieldType>(fields[index].type),
                           fields[index].length);
    }
  }

  // The build phase: types, shapes, formats, workspace. Returns the outputs' types and largest shapes.
  void build() {
    check_field_names();
    const PluginFieldCollection collection = {static_cast<int32_t>(fields_.size()), fields_.data()};
    plugin_ = creator_->createPlugin("layer", &collection, TensorRTPhase::kBUILD);
    require(plugin_ != nullptr, last_error);
    plugin_ = plugin_->clone();
    auto* core = static_cast<IPluginV3OneCore*>(plugin_->getCapabilityInterface(PluginCapabilityType::kCORE));
    require(strcmp(core->getPluginName(), creator_->getPluginName()) == 0 &&
                strcmp(core->getPluginVersion(), creator_->getPluginVersion()) == 0 &&
                strcmp(core->getPluginNamespace(), creator_->getPluginNamespace()) == 0,
            "plugin and creator have different names");
    build_ = static_cast<IPluginV3OneBuild*>(plugin_->getCapabilityInterface(PluginCapabilityType::kBUILD));
    infer_outputs();
    check_formats();
    const std::vector<DynamicPluginTensorDesc> tensors = dynamic();
    const auto count = static_cast<int32_t>(inputs_.size());
    require(build_->configurePlugin(tensors.data(), count, tensors.data() + count, outputs()) == 0, last_error);
    workspace_bytes_ = build_->getWorkspaceSize(tensors.data(), count, tensors.data() + count, outputs());
    require(last_error.empty(), last_error);
  }

  // Runs the plugin of the network itself, as a builder does that times it.
  void time(Driver& driver, HostTensor* results, int result_count) {
    auto* layer = static_cast<IPluginV3OneRuntime*>(plugin_->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    Resources resources;
    IPluginV3* attached = layer->attachToContext(&resources);
    require(attached != nullptr, last_error);
    auto* runtime = static_cast<IPluginV3OneRuntime*>(attached->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    enqueue(driver, *runtime, results, result_count);
    delete attached;
  }

  // Serialises the fields, makes the plugin of an engine from them, and runs it once.
  void run(Driver& driver, HostTensor* results, int result_count) {
    auto* source = static_cast<IPluginV3OneRuntime*>(plugin_->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    const PluginFieldCollection* serialized = source->getFieldsToSerialize();
    require(serialized != nullptr, last_error);
    IPluginV3* loaded = creator_->createPlugin("layer", serialized, TensorRTPhase::kRUNTIME);
    require(loaded != nullptr, last_error);
    Resources resources;
    auto* unattached = static_cast<IPluginV3OneRuntime*>(loaded->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    IPluginV3* attached = unattached->attachToContext(&resources);
    require(attached != nullptr, last_error);
    auto* runtime = static_cast<IPluginV3OneRuntime*>(attached->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    enqueue(driver, *runtime, results, result_count);
    delete attached;
    delete loaded;
  }

  int32_t outputs() const { return static_cast<int32_t>(types_.size()); }
  size_t workspace_bytes() const { return workspace_bytes_; }

 private:
  IPluginCreatorV3One* find(const char* name) {
    int32_t count = 0;
    auto* const* creators = library_.function<IPluginCreatorInterface* const*(int32_t&)>("getCreators")(count);
    for (int32_t index = 0; index < count; ++index) {
      const InterfaceInfo info = creators[index]->getInterfaceInfo();
      require(strcmp(info.kind, "PLUGIN CREATOR_V3ONE") == 0, std::string("a creator is of kind ") + info.kind);
      auto* creator = static_cast<IPluginCreatorV3One*>(creators[index]);
      if (strcmp(creator->getPluginName(), name) == 0) return creator;
    }
    throw std::runtime_error(std::string("there is no creator ") + name);
  }

  // Names and types of what a network's attributes are read into.
  void check_field_names() {
    const PluginFieldCollection* names = creator_->getFieldNames();
    require(names->nbFields >= 3, "a creator names abi, features and present at least");
    for (int32_t index = 0; index < names->nbFields; ++index) {
      const PluginField& field = names->fields[index];
      require(field.name != nullptr && (field.type == PluginFieldType::kINT32 || field.type == PluginFieldType::kFLOAT32),
              "a field has no name, or a type that TensorRT's parser does not fill");
    }
  }

  void infer_outputs() {
    std::vector<DataType> input_types;
    std::vector<DimsExprs> input_shapes;
    Builder builder;
    for (const HostTensor& tensor : inputs_) {
      input_types.push_back(static_cast<DataType>(tensor.type));
      DimsExprs shape{};
      shape.nbDims = tensor.rank;
      for (int axis = 0; axis < tensor.rank; ++axis) shape.d[axis] = builder.symbol(tensor.dims[axis]);
      input_shapes.push_back(shape);
    }
    types_.resize(static_cast<size_t>(build_->getNbOutputs()));
    shapes_.resize(types_.size());
    size_outputs_.assign(types_.size(), {});
    const auto count = static_cast<int32_t>(inputs_.size());
    require(build_->getOutputDataTypes(types_.data(), outputs(), input_types.data(), count) == 0, last_error);
    std::vector<DimsExprs> shapes(types_.size());
    require(build_->getOutputShapes(input_shapes.data(), count, nullptr, 0, shapes.data(), outputs(), builder) == 0,
            last_error);
    for (size_t index = 0; index < shapes.size(); ++index) {
      shapes_[index].nbDims = shapes[index].nbDims;
      size_outputs_[index].assign(8, -1);
      for (int axis = 0; axis < shapes[index].nbDims; ++axis) {
        const Expression& size = expression(shapes[index].d[axis]);
        shapes_[index].d[axis] = size.value();
        size_outputs_[index][static_cast<size_t>(axis)] = size.size_output();
      }
    }
  }

  std::vector<DynamicPluginTensorDesc> dynamic() const {
    std::vector<DynamicPluginTensorDesc> tensors;
    for (const HostTensor& tensor : inputs_) {
      DynamicPluginTensorDesc row{};
      const Dims largest = dims_of(tensor.max_dims, tensor.rank);
      row.desc = description(largest, static_cast<DataType>(tensor.type));
      row.min = row.opt = dims_of(tensor.dims, tensor.rank);
      row.max = largest;
      tensors.push_back(row);
    }
    for (size_t index = 0; index < types_.size(); ++index) {
      DynamicPluginTensorDesc row{};
      row.desc = description(shapes_[index], types_[index]);
      row.min = row.opt = row.max = shapes_[index];
      tensors.push_back(row);
    }
    return tensors;
  }

  // What the model has is supported at every place; another format, or a type no op has, is not.
  void check_formats() {
    std::vector<DynamicPluginTensorDesc> tensors = dynamic();
    const auto count = static_cast<int32_t>(inputs_.size());
    for (int32_t place = 0; place < count + outputs(); ++place) {
      PluginTensorDesc& asked = tensors[static_cast<size_t>(place)].desc;
      const PluginTensorDesc original = asked;
      const std::string where = "place " + std::to_string(place);
      require(build_->supportsFormatCombination(place, tensors.data(), count, outputs()), where + " is not supported");
      asked.format = TensorFormat::kCHW32;
      require(!build_->supportsFormatCombination(place, tensors.data(), count, outputs()), where + " takes kCHW32");
      asked = original;
      asked.type = DataType::kINT8;
      require(!build_->supportsFormatCombination(place, tensors.data(), count, outputs()), where + " takes kINT8");
      asked = original;
    }
    last_error.clear();
  }

  void enqueue(Driver& driver, IPluginV3OneRuntime& runtime, HostTensor* results, int result_count) {
    std::vector<PluginTensorDesc> in, out;
    std::vector<void*> memory;
    std::vector<const void*> inputs;
    for (const HostTensor& tensor : inputs_) {
      in.push_back(description(dims_of(tensor.dims, tensor.rank), static_cast<DataType>(tensor.type)));
      const size_t bytes = static_cast<size_t>(volume(in.back().dims)) * size_of(in.back().type);
      memory.push_back(driver.allocate(bytes));
      driver.to_device(memory.back(), tensor.data, bytes);
      inputs.push_back(memory.back());
    }
    std::vector<void*> outputs;
    for (size_t index = 0; index < types_.size(); ++index) {
      out.push_back(description(shapes_[index], types_[index]));
      memory.push_back(driver.allocate(static_cast<size_t>(volume(shapes_[index])) * size_of(types_[index])));
      outputs.push_back(memory.back());
    }
    void* workspace = workspace_bytes_ > 0 ? driver.allocate(workspace_bytes_) : nullptr;
    if (workspace != nullptr) memory.push_back(workspace);
    const auto count = static_cast<int32_t>(in.size());
    require(runtime.onShapeChange(in.data(), count, out.data(), this->outputs()) == 0, last_error);
    require(runtime.enqueue(in.data(), out.data(), inputs.data(), outputs.data(), workspace, nullptr) == 0, last_error);
    driver.synchronize();
    for (int index = 0; index < result_count; ++index) read(driver, static_cast<size_t>(index), outputs, results[index]);
    for (void* each : memory) driver.release(each);
  }

  void read(Driver& driver, size_t index, const std::vector<void*>& outputs, HostTensor& result) {
    Dims dims = shapes_[index];
    for (int axis = 0; axis < dims.nbDims; ++axis) {
      const int source = size_outputs_[index][static_cast<size_t>(axis)];
      if (source < 0) continue;
      int64_t found = 0;
      driver.to_host(&found, outputs[static_cast<size_t>(source)], sizeof(found));
      require(found >= 0 && found <= dims.d[axis], "a size tensor exceeds its bound");
      dims.d[axis] = found;
    }
    const int64_t bytes = volume(dims) * static_cast<int64_t>(size_of(types_[index]));
    require(bytes <= result.room, "output " + std::to_string(index) + " is larger than expected");
    result.type = static_cast<int32_t>(types_[index]);
    result.rank = dims.nbDims;
    for (int axis = 0; axis < dims.nbDims; ++axis) result.dims[axis] = dims.d[axis];
    driver.to_host(result.result, outputs[index], static_cast<size_t>(bytes));
  }

  Library library_;
  IPluginCreatorV3One* creator_ = nullptr;
  std::vector<PluginField> fields_;
  std::vector<HostTensor> inputs_;
  IPluginV3* plugin_ = nullptr;  // one clone per run of the test process; TensorRT would delete it with the network
  IPluginV3OneBuild* build_ = nullptr;
  std::vector<DataType> types_;
  std::vector<Dims> shapes_;                    // the largest
  std::vector<std::vector<int>> size_outputs_;  // by output and axis; -1: known from the inputs
  size_t workspace_bytes_ = 0;
};

int report(const char* text, char* message, size_t size) {
  strncpy(message, text, size - 1);
  message[size - 1] = '\0';
  return 1;
}

}  // namespace
}  // namespace host

// Builds and, with `results`, runs a plugin, that of the engine or with `building` that of the network. 0: done; 1: `message` says what was refused or wrong.
HOST_API int host_drive(const char* library, const char* creator, const HostField* fields, int field_count,
                        const HostTensor* inputs, int input_count, HostTensor* results, int result_count,
                        int building, char* message, size_t message_size) {
  try {
    host::Run run(library, creator, fields, field_count, inputs, input_count);
    host::Driver driver;
    run.build();
    if (building != 0) {
      run.time(driver, results, result_count);
    } else if (result_count > 0) {
      run.run(driver, results, result_count);
    }
    return 0;
  } catch (const std::exception& error) {
    return host::report(error.what(), message, message_size);
  }
}
