// Runs a bundle with ragged inputs in ONNX Runtime from C++: no Python, no tokenizer, no padding.
//
//   c++ -std=c++17 -I<onnxruntime>/include run_bundle.cc <folder of libonnxruntime.so>/libonnxruntime.so -o run_bundle
//   raggedrt convert SOURCE -o minilm --io ragged
//   raggedrt ship minilm -o shipped
//   printf '101 7592 102\n101 2088 2003 102\n' | ./run_bundle shipped
//
// With --tensorrt a bundle of target ort-trt runs on ONNX Runtime's TensorRT provider, whose options lie beside it.
// Every line of standard input is one sequence of token ids. Outputs are printed by name, shape and first values.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr const char* kModel = "/model.onnx";
constexpr const char* kLibrary = "/lib/libraggedrt_ops.so";
constexpr const char* kProvider = "/tensorrt_provider.txt";
constexpr const char* kPlugins = "trt_extra_plugin_lib_paths";
constexpr int kShown = 4;

// A batch without padding: the tokens of all sequences end to end.
struct Batch {
  std::vector<int64_t> tokens;       // [T]
  std::vector<int64_t> other;        // [T], zeros: segment ids and the like
  std::vector<int32_t> cu_seqlens{0};  // [B + 1]
  std::vector<float> max_seqlen;     // [M]: only its length is read
};

Batch read_batch(std::istream& lines) {
  Batch batch;
  size_t longest = 0;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream numbers(line);
    const size_t begin = batch.tokens.size();
    for (int64_t token = 0; numbers >> token;) batch.tokens.push_back(token);
    longest = std::max(longest, batch.tokens.size() - begin);
    batch.cu_seqlens.push_back(static_cast<int32_t>(batch.tokens.size()));
  }
  if (batch.tokens.empty()) throw std::runtime_error("no token ids on standard input");
  batch.other.assign(batch.tokens.size(), 0);
  batch.max_seqlen.assign(longest, 0.0f);
  return batch;
}

template <typename T>
Ort::Value tensor(std::vector<T>& values) {
  static const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const int64_t shape[] = {static_cast<int64_t>(values.size())};
  return Ort::Value::CreateTensor<T>(memory, values.data(), values.size(), shape, 1);
}

Ort::Value input(const std::string& name, Batch& batch) {
  if (name == "cu_seqlens") return tensor(batch.cu_seqlens);
  if (name == "max_seqlen") return tensor(batch.max_seqlen);
  return tensor(name == "input_ids" ? batch.tokens : batch.other);
}

void print(const std::string& name, const Ort::Value& value) {
  const auto info = value.GetTensorTypeAndShapeInfo();
  std::printf("%s [", name.c_str());
  for (const int64_t size : info.GetShape()) std::printf(" %lld", static_cast<long long>(size));
  std::printf(" ]:");
  if (info.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
    std::printf(" not float32\n");
    return;
  }
  const float* data = value.GetTensorData<float>();
  const size_t count = std::min<size_t>(info.GetElementCount(), kShown);
  for (size_t i = 0; i < count; ++i) std::printf(" %.6f", static_cast<double>(data[i]));
  std::printf("\n");
}

// Adds the TensorRT provider with the options that were shipped; returns the model that it takes.
std::string add_tensorrt(const std::string& bundle, Ort::SessionOptions& options) {
  std::ifstream lines(bundle + kProvider);
  if (!lines) throw std::runtime_error(bundle + kProvider + " is missing; ship a bundle of target ort-trt");
  std::string model;
  std::vector<std::string> keys, values;
  for (std::string line; std::getline(lines, line);) {
    const size_t equals = line.find('=');
    if (equals == std::string::npos) continue;
    const std::string key = line.substr(0, equals), value = line.substr(equals + 1);
    if (key == "model") {
      model = bundle + "/" + value;
    } else {
      keys.push_back(key);
      values.push_back(key == kPlugins ? bundle + "/" + value : value);
    }
  }
  std::vector<const char*> names, texts;
  for (const std::string& key : keys) names.push_back(key.c_str());
  for (const std::string& value : values) texts.push_back(value.c_str());
  const OrtApi& api = Ort::GetApi();
  OrtTensorRTProviderOptionsV2* provider = nullptr;
  Ort::ThrowOnError(api.CreateTensorRTProviderOptions(&provider));
  const std::unique_ptr<OrtTensorRTProviderOptionsV2, decltype(api.ReleaseTensorRTProviderOptions)> owned(
      provider, api.ReleaseTensorRTProviderOptions);
  Ort::ThrowOnError(api.UpdateTensorRTProviderOptions(provider, names.data(), texts.data(), names.size()));
  options.AppendExecutionProvider_TensorRT_V2(*provider);
  return model;
}

// The native model. Without the op library the function bodies inside it serve: the same values, slowly.
std::string add_op_library(const std::string& bundle, Ort::SessionOptions& options) {
  const std::string library = bundle + kLibrary;
  if (std::ifstream(library).good()) options.RegisterCustomOpsLibrary(library.c_str());
  return bundle + kModel;
}

void run(const std::string& bundle, bool tensorrt) {
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "run_bundle");
  Ort::SessionOptions options;
  const std::string model = tensorrt ? add_tensorrt(bundle, options) : add_op_library(bundle, options);
  Ort::Session session(env, model.c_str(), options);

  Ort::AllocatorWithDefaultOptions allocator;
  std::vector<std::string> names;
  for (size_t i = 0; i < session.GetInputCount(); ++i) {
    names.emplace_back(session.GetInputNameAllocated(i, allocator).get());
  }
  const size_t inputs = names.size();
  for (size_t i = 0; i < session.GetOutputCount(); ++i) {
    names.emplace_back(session.GetOutputNameAllocated(i, allocator).get());
  }
  if (std::find(names.begin(), names.begin() + inputs, "cu_seqlens") == names.begin() + inputs) {
    throw std::runtime_error("the bundle takes padded inputs; convert it with --io ragged");
  }

  Batch batch = read_batch(std::cin);
  std::vector<const char*> pointers;
  for (const std::string& name : names) pointers.push_back(name.c_str());
  std::vector<Ort::Value> values;
  for (size_t i = 0; i < inputs; ++i) values.push_back(input(names[i], batch));
  const std::vector<Ort::Value> outputs = session.Run(Ort::RunOptions{nullptr}, pointers.data(), values.data(), inputs,
                                                      pointers.data() + inputs, names.size() - inputs);
  for (size_t i = 0; i < outputs.size(); ++i) print(names[inputs + i], outputs[i]);
}

}  // namespace

int main(int argc, char** argv) {
  const bool tensorrt = argc == 3 && std::string(argv[2]) == "--tensorrt";
  if (argc != 2 && !tensorrt) {
    std::fprintf(stderr, "usage: %s BUNDLE [--tensorrt] < token_ids\n", argv[0]);
    return 2;
  }
  try {
    run(argv[1], tensorrt);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
    return 1;
  }
  return 0;
}
