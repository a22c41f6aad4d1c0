// Dimension expressions as TensorRT hands them to plugins: symbols with a value, so that results can be checked.
#pragma once

#include <NvInfer.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

namespace host {

class Expression final : public nvinfer1::IDimensionExpr, public nvinfer1::apiv::VDimensionExpr {
 public:
  Expression(int64_t value, bool constant, int size_output) : value_(value), constant_(constant), size_output_(size_output) {
    mImpl = this;
  }
  bool isConstant() const override { return constant_; }
  int64_t getConstantValue() const override { return constant_ ? value_ : std::numeric_limits<int64_t>::min(); }
  bool isSizeTensor() const override { return size_output_ >= 0; }

  int64_t value() const { return value_; }
  int size_output() const { return size_output_; }

 private:
  int64_t value_;  // an upper bound, for a size tensor
  bool constant_;
  int size_output_;
};

inline const Expression& expression(const nvinfer1::IDimensionExpr* dimension) {
  return *static_cast<const Expression*>(dimension);
}

class Builder final : public nvinfer1::IExprBuilder, public nvinfer1::apiv::VExprBuilder {
 public:
  Builder() { nvinfer1::IExprBuilder::mImpl = this; }

  const nvinfer1::IDimensionExpr* symbol(int64_t value) { return make(value, false, -1); }
  const nvinfer1::IDimensionExpr* constant(int64_t value) override { return make(value, true, -1); }
  const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation operation,
                                            const nvinfer1::IDimensionExpr& first,
                                            const nvinfer1::IDimensionExpr& second) override {
    const Expression& a = expression(&first);
    const Expression& b = expression(&second);
    return make(apply(operation, a.value(), b.value()), a.isConstant() && b.isConstant(), -1);
  }
  const nvinfer1::IDimensionExpr* declareSizeTensor(int32_t output, const nvinfer1::IDimensionExpr&,
                                                    const nvinfer1::IDimensionExpr& upper) override {
    return make(expression(&upper).value(), false, output);
  }

 private:
  static int64_t apply(nvinfer1::DimensionOperation operation, int64_t a, int64_t b) {
    using Op = nvinfer1::DimensionOperation;
    switch (operation) {
      case Op::kSUM: return a + b;
      case Op::kPROD: return a * b;
      case Op::kMAX: return std::max(a, b);
      case Op::kMIN: return std::min(a, b);
      case Op::kSUB: return a - b;
      case Op::kEQUAL: return a == b;
      case Op::kLESS: return a < b;
      case Op::kFLOOR_DIV: return a / b;
      case Op::kCEIL_DIV: return (a + b - 1) / b;
    }
    return -1;
  }

  const nvinfer1::IDimensionExpr* make(int64_t value, bool constant, int size_output) {
    made_.push_back(std::make_unique<Expression>(value, constant, size_output));
    return made_.back().get();
  }

  std::vector<std::unique_ptr<Expression>> made_;
};

}  // namespace host
