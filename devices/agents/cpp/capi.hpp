// ONNX Runtime's C API as values: what a status says is thrown, what it makes is owned.
#pragma once

#include <onnxruntime_c_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#ifndef HWNAS_ASSIGNMENT_API
#define HWNAS_ASSIGNMENT_API 24  // another one is for tests
#endif

constexpr uint32_t OLDEST_API = 16;   // all that is called without asking is in ONNX Runtime 1.16 and whatever comes after
constexpr uint32_t PLUGINS_API = 22;  // execution providers from libraries
constexpr uint32_t ASSIGNMENT_API = HWNAS_ASSIGNMENT_API;  // which nodes a provider got
static_assert(ORT_API_VERSION >= OLDEST_API, "these headers are older than ONNX Runtime 1.16");

inline const OrtApi* ort = nullptr;
inline uint32_t api_version = 0;  // of `ort`: no function of a newer one may be called

// Takes the newest interface that headers and library have in common; versions of the interface are those of ONNX Runtime, 1.16 has 16.
// False where the library has none that will do.
inline bool find_api() {
  const std::string version = OrtGetApiBase()->GetVersionString();
  const uint32_t minor = version.compare(0, 2, "1.") == 0 ? static_cast<uint32_t>(std::strtoul(version.c_str() + 2, nullptr, 10)) : OLDEST_API;
  api_version = std::min<uint32_t>(std::max(minor, OLDEST_API), ORT_API_VERSION);
  ort = OrtGetApiBase()->GetApi(api_version);
  return ort != nullptr;
}

// Raises what a status says. The names are those that ONNX Runtime's errors have in Python.
inline void check(OrtStatus* status) {
  if (!status) return;
  static constexpr const char* names[] = {"OK", "FAIL", "INVALID_ARGUMENT", "NO_SUCHFILE", "NO_MODEL", "ENGINE_ERROR",
                                          "RUNTIME_EXCEPTION", "INVALID_PROTOBUF", "MODEL_LOADED", "NOT_IMPLEMENTED", "INVALID_GRAPH", "EP_FAIL"};
  const auto code = static_cast<size_t>(ort->GetErrorCode(status));
  const std::string message = ort->GetErrorMessage(status);
  ort->ReleaseStatus(status);
  throw std::runtime_error((code < std::size(names) ? names[code] : "error " + std::to_string(code)) + (": " + message));
}

template <auto Release>
struct Releaser {
  template <typename T>
  void operator()(T* owned) const {
    (ort->*Release)(owned);
  }
};

using Env = std::unique_ptr<OrtEnv, Releaser<&OrtApi::ReleaseEnv>>;
using SessionOptions = std::unique_ptr<OrtSessionOptions, Releaser<&OrtApi::ReleaseSessionOptions>>;
using Session = std::unique_ptr<OrtSession, Releaser<&OrtApi::ReleaseSession>>;
using Binding = std::unique_ptr<OrtIoBinding, Releaser<&OrtApi::ReleaseIoBinding>>;
using Tensor = std::unique_ptr<OrtValue, Releaser<&OrtApi::ReleaseValue>>;
using TypeInfo = std::unique_ptr<OrtTypeInfo, Releaser<&OrtApi::ReleaseTypeInfo>>;
using TensorInfo = std::unique_ptr<OrtTensorTypeAndShapeInfo, Releaser<&OrtApi::ReleaseTensorTypeAndShapeInfo>>;
using MemoryInfo = std::unique_ptr<OrtMemoryInfo, Releaser<&OrtApi::ReleaseMemoryInfo>>;

// `make(arguments..., &owned)` of the C API, as a value.
template <typename Owner, typename Make, typename... Arguments>
Owner made(Make make, Arguments... arguments) {
  typename Owner::pointer owned = nullptr;
  check(make(arguments..., &owned));
  return Owner(owned);
}

inline OrtAllocator* allocator() {
  OrtAllocator* shared = nullptr;
  check(ort->GetAllocatorWithDefaultOptions(&shared));
  return shared;
}

// A text that the C API allocated, as a value.
inline std::string taken(char* text) {
  const std::string copy = text ? text : "";
  if (text) check(ort->AllocatorFree(allocator(), text));
  return copy;
}

inline std::vector<std::string> names_of(const OrtSession* session, decltype(OrtApi::SessionGetInputCount) count_of,
                                         decltype(OrtApi::SessionGetInputName) name_of) {
  size_t count = 0;
  check(count_of(session, &count));
  std::vector<std::string> names;
  for (size_t i = 0; i < count; ++i) {
    char* name = nullptr;
    check(name_of(session, i, allocator(), &name));
    names.push_back(taken(name));
  }
  return names;
}
