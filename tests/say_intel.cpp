// Preloaded by tests in front of ONNX Runtime: its record of the CPU says Intel before a plug-in provider is loaded.
//
// OpenVINO's offers itself on processors of Intel alone, though it computes on others of this architecture just as well (see openvino.py,
// which does the same for the agent in Python). No agent that measures for anybody does so.

#include <dlfcn.h>
#include <onnxruntime_c_api.h>

#include <cstdio>
#include <cstdlib>

namespace {

constexpr uint32_t INTEL = 0x8086;

const OrtApi* own = nullptr;
OrtApi changed;
OrtApiBase base;

OrtStatus* ORT_API_CALL register_library(OrtEnv* env, const char* name, const ORTCHAR_T* path) noexcept {
  const OrtEpDevice* const* devices = nullptr;
  size_t count = 0;
  if (OrtStatus* failed = own->GetEpDevices(env, &devices, &count)) return failed;
  for (size_t i = 0; i < count; ++i) {
    const OrtHardwareDevice* device = own->EpDevice_Device(devices[i]);
    if (own->HardwareDevice_Type(device) != OrtHardwareDeviceType_CPU) continue;
    auto* numbers = reinterpret_cast<uint32_t*>(const_cast<OrtHardwareDevice*>(device));  // its type, 0 is the CPU, and its vendor
    if (numbers[0] != 0 || numbers[1] != own->HardwareDevice_VendorId(device)) {
      std::fputs("ONNX Runtime describes a processor otherwise than this test knows\n", stderr);
      std::exit(1);
    }
    numbers[1] = INTEL;
  }
  return own->RegisterExecutionProviderLibrary(env, name, path);
}

const OrtApiBase* real() {
  using Get = const OrtApiBase*(ORT_API_CALL*)();
  static const auto get = reinterpret_cast<Get>(dlsym(RTLD_NEXT, "OrtGetApiBase"));
  return get();
}

const OrtApi* ORT_API_CALL get_api(uint32_t version) noexcept {
  own = real()->GetApi(version);
  if (!own) return nullptr;
  changed = *own;
  changed.RegisterExecutionProviderLibrary = register_library;
  return &changed;
}

}  // namespace

extern "C" const OrtApiBase* ORT_API_CALL OrtGetApiBase(void) noexcept {
  base = {get_api, real()->GetVersionString};
  return &base;
}
