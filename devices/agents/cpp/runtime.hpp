// How sessions are opened: threads, optimization, and the execution provider with its options. See docs/runtimes.md.
#pragma once

#include <cstring>
#include <map>
#include <set>

#include "capi.hpp"
#include "requests.hpp"
#include "system.hpp"

constexpr const char* CPU = "CPUExecutionProvider";
constexpr const char* LIBRARY = "HWNAS_ORT_EP_LIBRARY";

using Settings = std::map<std::string, std::string>;

// `short_name` is that of the C API, where the provider is part of ONNX Runtime; `options` are those that may be set, none of them a
// path; `defaults` are in force unless they are.
struct Provider {
  const char* name = "";
  const char* short_name = nullptr;
  std::vector<const char*> options;
  Settings defaults;
};

// Computing in a shorter type than the model's would be silent: OpenVINO's bfloat16 is off unless asked for.
inline const Provider& known_provider(const std::string& name) {
  static const Provider known[] = {
      {CPU, nullptr, {}, {}},
      {"OpenVINOExecutionProvider",
       nullptr,
       {"INFERENCE_PRECISION_HINT", "EXECUTION_MODE_HINT", "PERFORMANCE_HINT", "NUM_STREAMS", "ENABLE_CPU_PINNING", "ENABLE_HYPER_THREADING"},
       {{"INFERENCE_PRECISION_HINT", "f32"}, {"PERFORMANCE_HINT", "LATENCY"}, {"NUM_STREAMS", "1"}}},
      {"QNNExecutionProvider", "QNN", {"backend_type", "htp_performance_mode", "enable_htp_fp16_precision", "rpc_control_latency"}, {}},
      {"WebGpuExecutionProvider", nullptr, {"preferredLayout", "enableGraphCapture"}, {}},
      {"XnnpackExecutionProvider", "XNNPACK", {}, {}},
  };
  static const Provider unknown;
  for (const auto& each : known)
    if (name == each.name) return each;
  return unknown;
}

// Their inputs and outputs are timed in the memory of the GPU, which this agent does not fill.
inline bool computes_in_its_own_memory(const std::string& provider) {
  static const std::set<std::string> names = {"CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider", "MIGraphXExecutionProvider"};
  return names.count(provider) > 0;
}

// What a session is opened with. `on_accelerator`: the CPU waits while another processor computes, and its time says nothing.
struct Setup {
  const OrtEnv* env = nullptr;
  SessionOptions options;
  std::string provider = CPU;
  bool on_accelerator = false;

  Session open(const std::string& model) const { return made<Session>(ort->CreateSessionFromArray, env, model.data(), model.size(), options.get()); }

  // One whose every run is written down, to a file of this prefix.
  Session open_profiled(const std::string& model, const std::string& prefix) const {
    const auto profiled = made<SessionOptions>(ort->CloneSessionOptions, options.get());
    check(ort->EnableProfiling(profiled.get(), prefix.c_str()));
    return made<Session>(ort->CreateSessionFromArray, env, model.data(), model.size(), profiled.get());
  }
};

class OnnxRuntime {
 public:
  OnnxRuntime() : env_(made<Env>(ort->CreateEnv, ORT_LOGGING_LEVEL_FATAL, "hwnas")) {}

  static std::string version() { return OrtGetApiBase()->GetVersionString(); }

  // Sets up what is opened from now on, and says which options are in force. Raises Refused.
  json::Object start(int64_t threads, const json::Object& asked) {
    Settings options;
    for (const auto& [name, value] : asked) options[name] = text_of(value);
    auto setup = std::make_shared<Setup>();
    setup->env = env_.get();
    setup->provider = popped(options, "provider", CPU);
    const std::string& provider = setup->provider;
    const std::string fallback = popped(options, "fallback", "refused");
    std::string processor = popped(options, "device_type", "");
    std::transform(processor.begin(), processor.end(), processor.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
    if (fallback != "refused" && fallback != "allowed") throw Refused("fallback must be refused or allowed, got " + quoted(fallback));
    const Provider& known = known_provider(provider);
    check_options(provider, known, options);
    auto in_force = known.defaults;
    for (const auto& [name, value] : options) in_force[name] = value;
    setup->options = session_options(threads, provider != CPU && fallback == "refused");
    json::Object said = {{"provider", provider}, {"intra_op_threads", threads}, {"inter_op_threads", 1}, {"optimization", "all"}, {"io_binding", true}};
    for (auto& each : append_provider(*setup, known, processor, threads, in_force)) said.push_back(std::move(each));
    if (provider != CPU) {
      for (const auto& [name, value] : in_force) said.emplace_back(name, value);
      said.emplace_back("fallback", fallback);
    }
    for (const auto& each : asked) put(said, each);  // as they were asked for
    setup_ = std::move(setup);
    return said;
  }

  bool is_started() const { return setup_ != nullptr; }
  std::shared_ptr<const Setup> setup() const { return setup_; }

 private:
  Env env_;
  std::shared_ptr<const Setup> setup_;
  std::set<std::string> registered_;  // plug-in providers whose libraries are loaded, once for the life of this program

  static std::string quoted(const std::string& text) {
    const json::Value value(text);
    return ::quoted(&value);
  }

  static void put(json::Object& object, const json::Object::value_type& member) {
    const auto found = std::find_if(object.begin(), object.end(), [&](const auto& each) { return each.first == member.first; });
    if (found == object.end()) object.push_back(member);
    else found->second = member.second;
  }

  static std::string text_of(const json::Value& value) {
    if (const auto* text = value.as<std::string>()) return *text;
    if (const auto* flag = value.as<bool>()) return *flag ? "1" : "0";
    return json::text(value);
  }

  static std::string popped(Settings& options, const char* name, const char* otherwise) {
    const auto node = options.extract(name);
    return node.empty() ? otherwise : node.mapped();
  }

  // Raises Refused where one is not on the provider's list, or no plain word or number: a device's file may come from anybody.
  static void check_options(const std::string& provider, const Provider& known, const Settings& options) {
    for (const auto& [name, value] : options) {
      if (std::find(known.options.begin(), known.options.end(), name) == known.options.end()) {
        std::string listed;
        for (const char* each : known.options) listed += (listed.empty() ? "" : ", ") + std::string(each);
        throw Refused("unknown option " + quoted(name) + "; of " + provider.substr(0, 60) + " there are: " + (listed.empty() ? "none" : listed));
      }
      const auto is_plain = [](unsigned char c) { return std::isalnum(c) || (c && std::strchr("_.:+-", c)); };
      if (value.empty() || value.size() > 64 || !std::all_of(value.begin(), value.end(), is_plain))
        throw Refused("option " + name + " must be a plain word or number, got " + quoted(value));
    }
  }

  static SessionOptions session_options(int64_t threads, bool refuses_fallback) {
    auto options = made<SessionOptions>(ort->CreateSessionOptions);
    check(ort->SetIntraOpNumThreads(options.get(), static_cast<int>(threads)));
    check(ort->SetInterOpNumThreads(options.get(), 1));
    check(ort->SetSessionExecutionMode(options.get(), ORT_SEQUENTIAL));
    check(ort->SetSessionGraphOptimizationLevel(options.get(), ORT_ENABLE_ALL));
    check(ort->SetSessionLogSeverityLevel(options.get(), ORT_LOGGING_LEVEL_FATAL));
    const auto set = [&](const char* key, const char* value) { check(ort->AddSessionConfigEntry(options.get(), key, value)); };
    set("session.set_denormal_as_zero", "1");  // they slow a convolution down two hundred times; process-wide, the first session decides
    if (api_version >= ASSIGNMENT_API) set("session.record_ep_graph_assignment_info", "1");
    if (refuses_fallback) set("session.disable_cpu_ep_fallback", "1");
    return options;
  }

  static std::vector<std::string> available() {
    char** names = nullptr;
    int count = 0;
    check(ort->GetAvailableProviders(&names, &count));
    std::vector<std::string> found;
    for (int i = 0; i < count; ++i)
      if (std::string(names[i]) != "AzureExecutionProvider") found.emplace_back(names[i]);
    check(ort->ReleaseAvailableProviders(names, count));
    return found;
  }

  // What else is in force. Raises Refused where ONNX Runtime has no such provider, or this agent cannot time what it computes.
  json::Object append_provider(Setup& setup, const Provider& known, const std::string& processor, int64_t threads, const Settings& settings) {
    const std::string& provider = setup.provider;
    if (computes_in_its_own_memory(provider))
      throw Refused("the agent in C++ keeps inputs in the memory of the CPU: measure " + provider + " with the agent in Python");
    const auto here = available();
    if (std::find(here.begin(), here.end(), provider) == here.end()) return append_plugin(setup, processor, threads, settings);
    if (!processor.empty()) throw Refused(provider + " is part of ONNX Runtime and takes no device_type");
    if (provider == CPU) return {{"denormals", "zero"}};
    if (!known.short_name) throw Refused("the agent in C++ does not know how to ask for " + provider.substr(0, 60) + ": measure it with the agent in Python");
    const auto [keys, values] = columns(settings);
    check(ort->SessionOptionsAppendExecutionProvider(setup.options.get(), known.short_name, keys.data(), values.data(), keys.size()));
    setup.on_accelerator = provider != "XnnpackExecutionProvider";
    return {{"denormals", "as the provider does"}};
  }

  static std::pair<std::vector<const char*>, std::vector<const char*>> columns(const Settings& settings) {
    std::vector<const char*> keys, values;
    for (const auto& [key, value] : settings) {
      keys.push_back(key.c_str());
      values.push_back(value.c_str());
    }
    return {keys, values};
  }

#if ORT_API_VERSION >= 22
  static std::string value_of(const OrtKeyValuePairs* pairs, const char* key, const char* otherwise) {
    const char* value = pairs ? ort->GetKeyValue(pairs, key) : nullptr;
    return value ? value : otherwise;
  }

  static std::string type_of(const OrtHardwareDevice* device) {
    const OrtHardwareDeviceType type = ort->HardwareDevice_Type(device);
    return type == OrtHardwareDeviceType_CPU ? "CPU" : type == OrtHardwareDeviceType_GPU ? "GPU" : "NPU";
  }

  json::Object append_plugin(Setup& setup, const std::string& processor, int64_t threads, Settings settings) {
    const OrtEpDevice* device = find_device(setup.provider, processor);
    const OrtKeyValuePairs* metadata = ort->EpDevice_EpMetadata(device);
    const std::string type = type_of(ort->EpDevice_Device(device));
    setup.on_accelerator = type != "CPU";
    std::string denormals = "as the provider does";
    if (setup.provider == "OpenVINOExecutionProvider") {  // what is not in its JSON it ignores
      const std::string kind = value_of(metadata, "ov_device", "CPU");
      if (kind == "CPU") {
        settings["INFERENCE_NUM_THREADS"] = std::to_string(threads);
        settings["CPU_DENORMALS_OPTIMIZATION"] = "YES";
        denormals = "zero";
      }
      settings = {{"load_config", json::text(json::Object{{kind, json::Object(settings.begin(), settings.end())}})}};
    }
    const auto [keys, values] = columns(settings);
    check(ort->SessionOptionsAppendExecutionProvider_V2(setup.options.get(), env_.get(), &device, 1, keys.data(), values.data(), keys.size()));
    return {{"provider_version", value_of(metadata, "version", "unknown")},
            {"provider_device", trimmed(type + " " + ort->HardwareDevice_Vendor(ort->EpDevice_Device(device)))},
            {"denormals", denormals}};
  }

  // The first device that a plug-in provider offers here. Raises Refused naming what there is.
  const OrtEpDevice* find_device(const std::string& provider, const std::string& processor) {
    const char* path = std::getenv(LIBRARY);
    if (!path || !*path) {
      std::string here;
      for (const auto& each : available()) here += (here.empty() ? "" : ", ") + each;
      throw Refused("there is no provider " + quoted(provider) + " here, but " + here + "; " + LIBRARY + " in the agent's environment names the library of another");
    }
    if (api_version < PLUGINS_API) throw Refused("onnxruntime " + version() + " takes no plug-in providers; 1.22 and newer do");
    if (!registered_.count(provider)) {
      if (OrtStatus* failed = ort->RegisterExecutionProviderLibrary(env_.get(), provider.c_str(), path)) {
        const std::string why = ort->GetErrorMessage(failed);
        ort->ReleaseStatus(failed);
        throw Refused("the library of " + provider.substr(0, 60) + " cannot be loaded: " + why.substr(0, 300));
      }
      registered_.insert(provider);
    }
    const OrtEpDevice* const* devices = nullptr;
    size_t count = 0;
    check(ort->GetEpDevices(env_.get(), &devices, &count));
    std::set<std::string> here, offered;
    for (size_t i = 0; i < count; ++i) {
      const OrtHardwareDevice* device = ort->EpDevice_Device(devices[i]);
      here.insert(type_of(device) + " of " + ort->HardwareDevice_Vendor(device));
      if (ort->EpDevice_EpName(devices[i]) != provider || value_of(ort->HardwareDevice_Metadata(device), "is_virtual", "") == "1") continue;
      if (processor.empty() || processor == type_of(device)) return devices[i];
      offered.insert(type_of(device));
    }
    const std::string on_none = !processor.empty() && !offered.empty() ? ", on no " + processor.substr(0, 60) : "";
    throw Refused(provider.substr(0, 60) + " runs on " + (offered.empty() ? "nothing" : listed(offered)) + " of this machine" + on_none + " (there is: " + listed(here) + ")");
  }

  static std::string listed(const std::set<std::string>& names) {
    std::string text;
    for (const auto& each : names) text += (text.empty() ? "" : ", ") + each;
    return text;
  }
#else
  [[noreturn]] json::Object append_plugin(Setup&, const std::string&, int64_t, Settings) {
    throw Refused("this agent takes no plug-in providers: build it with the headers of ONNX Runtime 1.22 or newer");
  }
#endif
};
