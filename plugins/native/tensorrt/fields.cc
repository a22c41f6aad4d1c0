#include "tensorrt/fields.h"

#include <string.h>

#include <limits>
#include <stdexcept>

namespace raggedrt::tensorrt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

const gen::Attribute kPresentAttribute = {kPresent, false, 0, 0.0f, gen::AttributeKind::kInteger};

const gen::Attribute* find_attribute(const gen::Op& op, const char* name) {
  if (strcmp(name, kPresent) == 0) return &kPresentAttribute;
  for (const gen::Attribute& attribute : op.attributes) {
    if (strcmp(attribute.name, name) == 0) return &attribute;
  }
  return nullptr;
}

PluginFieldType type_of(gen::AttributeKind kind) {
  return kind == gen::AttributeKind::kReal ? PluginFieldType::kFLOAT32 : PluginFieldType::kINT32;
}

int64_t element(const PluginField& field, int index) {
  switch (field.type) {
    case PluginFieldType::kINT8: return static_cast<const int8_t*>(field.data)[index];
    case PluginFieldType::kINT16: return static_cast<const int16_t*>(field.data)[index];
    case PluginFieldType::kINT64: return static_cast<const int64_t*>(field.data)[index];
    default: return static_cast<const int32_t*>(field.data)[index];
  }
}

bool holds_integers(PluginFieldType type) {
  return type == PluginFieldType::kINT8 || type == PluginFieldType::kINT16 || type == PluginFieldType::kINT32 ||
         type == PluginFieldType::kINT64;
}

bool holds_reals(PluginFieldType type) {
  return type == PluginFieldType::kFLOAT32 || type == PluginFieldType::kFLOAT64;
}

}  // namespace

std::vector<PluginField> field_names(const gen::Op& op) {
  std::vector<PluginField> fields;
  for (const gen::Attribute& attribute : op.attributes) {
    fields.emplace_back(attribute.name, nullptr, type_of(attribute.kind), 1);
  }
  fields.emplace_back(kPresent, nullptr, PluginFieldType::kINT32, 1);
  return fields;
}

Fields::Fields(const gen::Op& op, std::string name, const nvinfer1::PluginFieldCollection& collection)
    : op_(op), name_(std::move(name)) {
  for (int index = 0; index < collection.nbFields; ++index) {
    const PluginField& field = collection.fields[index];
    if (field.name == nullptr) refuse("a field has no name");
    const gen::Attribute* attribute = find_attribute(op, field.name);
    if (attribute == nullptr) refuse(std::string("field '") + field.name + "' is not one of this plugin");
    if (field.data == nullptr || field.length <= 0) continue;  // an absent attribute, or an empty list
    Value value = {field.name, attribute->kind, {}, 0.0f};
    const std::string what = std::string("field '") + field.name + "' ";
    if (attribute->kind == gen::AttributeKind::kReal) {
      if (!holds_reals(field.type) || field.length != 1) refuse(what + "must be one float");
      value.real = field.type == PluginFieldType::kFLOAT32 ? *static_cast<const float*>(field.data)
                                                           : static_cast<float>(*static_cast<const double*>(field.data));
    } else {
      if (!holds_integers(field.type)) refuse(what + "must hold integers");
      if (attribute->kind == gen::AttributeKind::kInteger && field.length != 1) refuse(what + "must be one integer");
      for (int place = 0; place < field.length; ++place) {
        const int64_t number = element(field, place);
        if (number < std::numeric_limits<int32_t>::min() || number > std::numeric_limits<int32_t>::max()) {
          refuse(what + "exceeds 32 bits");
        }
        value.integers.push_back(static_cast<int32_t>(number));
      }
    }
    values_.push_back(std::move(value));
  }
}

const Fields::Value* Fields::find(const char* attribute) const {
  for (const Value& value : values_) {
    if (value.name == attribute) return &value;
  }
  return nullptr;
}

const gen::Attribute& Fields::declared(const char* attribute) const {
  const gen::Attribute* found = find_attribute(op_, attribute);
  if (found == nullptr) refuse(std::string("attribute '") + attribute + "' is not declared");
  return *found;
}

int64_t Fields::integer(const char* attribute) const {
  const gen::Attribute& row = declared(attribute);
  if (const Value* value = find(attribute)) return value->integers.at(0);
  if (row.required) refuse(std::string("attribute '") + attribute + "' is missing");
  return row.default_integer;
}

float Fields::real(const char* attribute) const {
  const gen::Attribute& row = declared(attribute);
  const Value* value = find(attribute);
  return value != nullptr ? value->real : row.default_real;
}

std::vector<int64_t> Fields::integers(const char* attribute) const {
  declared(attribute);
  const Value* value = find(attribute);
  if (value == nullptr) return {};
  return std::vector<int64_t>(value->integers.begin(), value->integers.end());
}

void Fields::refuse(const std::string& reason) const {
  throw std::runtime_error("layer '" + name_ + "' (" + gen::kDomain + "." + op_.name + "): " + reason +
                           " [raggedrt TensorRT plugins " + RAGGEDRT_VERSION + ", abi " +
                           std::to_string(gen::kAbiVersion) + "]");
}

std::vector<size_t> Fields::present_inputs(int count) const {
  std::vector<size_t> inputs;
  const Value* present = find(kPresent);
  const auto bits = present != nullptr ? static_cast<uint32_t>(present->integers.at(0)) : (uint32_t{1} << count) - 1;
  for (size_t index = 0; index < op_.inputs.size(); ++index) {
    if ((bits >> index & 1) != 0) {
      inputs.push_back(index);
    } else if (!op_.inputs[index].optional) {
      refuse(std::string("input '") + op_.inputs[index].name + "' is missing");
    }
  }
  if (inputs.size() != static_cast<size_t>(count)) {
    refuse("it has " + std::to_string(count) + " inputs, but the attribute 'present' tells of " +
           std::to_string(inputs.size()));
  }
  return inputs;
}

std::vector<PluginField> Fields::given() const {
  std::vector<PluginField> fields;
  for (const Value& value : values_) {
    const bool real = value.kind == gen::AttributeKind::kReal;
    const void* data = real ? static_cast<const void*>(&value.real) : value.integers.data();
    fields.emplace_back(value.name.c_str(), data, type_of(value.kind),
                        real ? 1 : static_cast<int32_t>(value.integers.size()));
  }
  return fields;
}

}  // namespace raggedrt::tensorrt
