// Kinds of tensors: how an input is filled, and whether an output is finite. See the contract: ../agent_contract.py.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "capi.hpp"
#include "requests.hpp"

constexpr int64_t MAX_TENSOR_ELEMENTS = 1 << 28;

using Random = std::mt19937_64;

template <typename Float>
void fill_normal(void* data, size_t count, Random& random) {
  std::normal_distribution<Float> normal;
  for (size_t i = 0; i < count; ++i) static_cast<Float*>(data)[i] = normal(random);
}

// The float16 that is nearest to a number below 65504 in magnitude.
inline uint16_t half_of(float value) {
  const auto sign = static_cast<uint16_t>(std::signbit(value) ? 0x8000 : 0);
  int exponent = 0;
  const float fraction = std::frexp(std::fabs(value), &exponent);  // in [0.5, 1), or 0
  if (fraction == 0 || exponent < -13) return static_cast<uint16_t>(sign + std::lrint(std::ldexp(std::fabs(value), 24)));  // 0 or subnormal
  return static_cast<uint16_t>(sign + ((exponent + 14) << 10) + std::lrint(std::ldexp(fraction, 11)) - 1024);  // rounded up to 2048 it is the next exponent's
}

inline void fill_normal_half(void* data, size_t count, Random& random) {
  std::normal_distribution<float> normal;
  for (size_t i = 0; i < count; ++i) static_cast<uint16_t*>(data)[i] = half_of(normal(random));
}

inline void fill_any_bytes(void* data, size_t count, Random& random) {
  for (size_t i = 0; i < count; ++i) static_cast<uint8_t*>(data)[i] = static_cast<uint8_t>(random() >> 56);
}

// 0 or 1, which are valid as token, type, position and mask alike.
template <typename Whole>
void fill_bits(void* data, size_t count, Random& random) {
  for (size_t i = 0; i < count; ++i) static_cast<Whole*>(data)[i] = static_cast<Whole>(random() >> 63);
}

// Of IEEE numbers: not all bits of an exponent are set. Reads bits, so that no option of the compiler can do without the answer.
template <typename Bits, int Mantissa>
bool finite_bits(const void* data, size_t count) {
  constexpr Bits exponent = static_cast<Bits>(std::numeric_limits<Bits>::max() << Mantissa) & static_cast<Bits>(std::numeric_limits<Bits>::max() >> 1);
  for (size_t i = 0; i < count; ++i)
    if ((static_cast<const Bits*>(data)[i] & exponent) == exponent) return false;
  return true;
}

inline bool always(const void*, size_t) { return true; }

// `name` is ONNX Runtime's; no `fill` where no input of it is made, no `is_finite` where no output of it is checked, and so refused.
struct Kind {
  ONNXTensorElementDataType type;
  const char* name;
  size_t bytes;
  void (*fill)(void* data, size_t count, Random& random);
  bool (*is_finite)(const void* data, size_t count);
};

constexpr Kind KINDS[] = {
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, "float", 4, fill_normal<float>, finite_bits<uint32_t, 23>},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, "double", 8, fill_normal<double>, finite_bits<uint64_t, 52>},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, "float16", 2, fill_normal_half, finite_bits<uint16_t, 10>},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16, "bfloat16", 2, nullptr, finite_bits<uint16_t, 7>},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, "bool", 1, fill_bits<uint8_t>, always},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, "int8", 1, fill_any_bytes, always},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, "uint8", 1, fill_any_bytes, always},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16, "int16", 2, fill_bits<uint16_t>, always},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16, "uint16", 2, fill_bits<uint16_t>, always},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, "int32", 4, fill_bits<uint32_t>, always},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32, "uint32", 4, fill_bits<uint32_t>, always},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, "int64", 8, fill_bits<uint64_t>, always},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64, "uint64", 8, fill_bits<uint64_t>, always},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING, "string", 0, nullptr, nullptr},
};

inline const Kind* kind_of(ONNXTensorElementDataType type) {
  for (const auto& each : KINDS)
    if (each.type == type) return &each;
  return nullptr;
}

inline Tensor new_tensor(const Kind& kind, const std::vector<int64_t>& shape) {
  return made<Tensor>(ort->CreateTensorAsOrtValue, allocator(), shape.data(), shape.size(), kind.type);
}

inline void* data_of(OrtValue* tensor) {
  void* data = nullptr;
  check(ort->GetTensorMutableData(tensor, &data));
  return data;
}

// What a tensor, or a place for one, is of: a null kind is one that is not known here.
struct Form {
  const Kind* kind = nullptr;
  std::vector<int64_t> shape;  // negative where it is free

  explicit Form(const OrtTensorTypeAndShapeInfo* info) {
    ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    size_t axes = 0;
    check(ort->GetTensorElementType(info, &type));
    check(ort->GetDimensionsCount(info, &axes));
    kind = kind_of(type);
    shape.resize(axes);
    check(ort->GetDimensions(info, shape.data(), axes));
  }

  double elements() const {
    double product = 1;
    for (const int64_t size : shape) product *= static_cast<double>(size);
    return product;
  }
};

// An input of a session, filled. Raises Refused where no such input is made.
inline Tensor filled_input(const OrtSession* session, size_t index, const std::string& name, Random& random) {
  const auto type = made<TypeInfo>(ort->SessionGetInputTypeInfo, session, index);
  const OrtTensorTypeAndShapeInfo* info = nullptr;
  check(ort->CastTypeInfoToTensorInfo(type.get(), &info));
  const std::string only = "; only tensors of numbers of fixed shape are timed";
  if (!info) throw Refused("input " + name + " is no tensor" + only);
  const Form form(info);
  std::vector<const char*> symbols(form.shape.size());
  check(ort->GetSymbolicDimensions(info, symbols.data(), symbols.size()));
  std::string axes;
  for (size_t i = 0; i < form.shape.size(); ++i) {
    const std::string symbol = symbols[i] && *symbols[i] ? "'" + std::string(symbols[i]) + "'" : "free";
    axes += (i ? ", " : "") + (form.shape[i] < 0 ? symbol : std::to_string(form.shape[i]));
  }
  if (!form.kind || !form.kind->fill || std::any_of(form.shape.begin(), form.shape.end(), [](int64_t size) { return size <= 0; }))
    throw Refused("input " + name + " is tensor(" + (form.kind ? form.kind->name : "another type") + ") [" + axes + "]" + only);
  if (form.elements() > static_cast<double>(MAX_TENSOR_ELEMENTS))
    throw Refused("input " + name + " has more than " + std::to_string(MAX_TENSOR_ELEMENTS) + " elements");
  Tensor tensor = new_tensor(*form.kind, form.shape);
  form.kind->fill(data_of(tensor.get()), static_cast<size_t>(form.elements()), random);
  return tensor;
}

inline bool is_tensor(const OrtValue* value) {
  int answer = 0;
  check(ort->IsTensor(value, &answer));
  return answer != 0;
}

// Raises Refused.
inline void check_output(const std::string& name, OrtValue* value) {
  if (!value || !is_tensor(value)) throw Refused("output " + name + " is no tensor of numbers");
  const Form form(made<TensorInfo>(ort->GetTensorTypeAndShape, value).get());
  if (!form.kind || !form.kind->is_finite) throw Refused("output " + name + " is no tensor of numbers");
  if (!form.kind->is_finite(data_of(value), static_cast<size_t>(form.elements()))) throw Refused("output " + name + " is not finite");
}

// Memory of its own with the same in it. The tensor is one that was made or checked here.
inline Tensor copy_of(OrtValue* tensor) {
  const Form form(made<TensorInfo>(ort->GetTensorTypeAndShape, tensor).get());
  Tensor copy = new_tensor(*form.kind, form.shape);
  if (const auto bytes = static_cast<size_t>(form.elements()) * form.kind->bytes) std::memcpy(data_of(copy.get()), data_of(tensor), bytes);
  return copy;
}
