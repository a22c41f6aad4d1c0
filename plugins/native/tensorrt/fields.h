// Attributes of a plugin: read from the fields of a creator, kept for serialisation, checked like those of a node.
#pragma once

#include <NvInfer.h>

#include <string>
#include <vector>

#include "node/node.h"
#include "ops.gen.h"

namespace raggedrt::tensorrt {

// Bit i: input i of the definition is there. TensorRT knows no gaps, so absent inputs are dropped from the node.
constexpr const char* kPresent = "present";

// What a creator accepts; `data` of the fields is null.
std::vector<nvinfer1::PluginField> field_names(const gen::Op& op);

class Fields final : public Attributes {
 public:
  // Throws for a field that the op does not have, and for one of another type or out of range.
  Fields(const gen::Op& op, std::string name, const nvinfer1::PluginFieldCollection& collection);

  const gen::Op& op() const { return op_; }
  const std::string& name() const { return name_; }
  int64_t integer(const char* attribute) const override;
  float real(const char* attribute) const override;
  std::vector<int64_t> integers(const char* attribute) const override;
  [[noreturn]] void refuse(const std::string& reason) const override;

  // Which inputs are there, in order of the definition, of a node with `count` inputs; without the attribute
  // `present` the first ones.
  std::vector<size_t> present_inputs(int count) const;

  // Every value that was given, as fields; they point into this object.
  std::vector<nvinfer1::PluginField> given() const;

 private:
  struct Value {
    std::string name;
    gen::AttributeKind kind;
    std::vector<int32_t> integers;  // TensorRT's ONNX parser reads integers as 32 bits
    float real = 0.0f;
  };

  const gen::Attribute& declared(const char* attribute) const;
  const Value* find(const char* attribute) const;

  const gen::Op& op_;
  std::string name_;
  std::vector<Value> values_;
};

}  // namespace raggedrt::tensorrt
