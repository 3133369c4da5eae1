// Times ONNX models with ONNX Runtime, through its C API, on the machine it runs on: for phones and boards without Python.
//
// It keeps the contract of ../agent_contract.py, and tests hold it against the agent in Python: one line of JSON per request and answer,
// models as bytes after their request, raw nanoseconds back. Nothing is decided here.

#include <onnxruntime_c_api.h>
#include <signal.h>

#include <cmath>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <unordered_map>

#include "json.hpp"
#include "system.hpp"

namespace {

constexpr int CONTRACT = 2;
constexpr uint32_t OLDEST_API = 16;  // all that is called here is in ONNX Runtime 1.16 and whatever comes after
static_assert(ORT_API_VERSION >= OLDEST_API, "these headers are older than ONNX Runtime 1.16");

constexpr size_t MAX_LINE_BYTES = 8 << 20;
constexpr int64_t MAX_MODEL_BYTES = 1 << 30;
constexpr int64_t MAX_TENSOR_ELEMENTS = 1 << 28;
constexpr size_t MAX_ITEMS = 100000;
constexpr size_t MAX_OPTIONS = 64;
constexpr size_t MAX_VISITS = 100000;
constexpr int64_t MAX_RUNS = 100000;
constexpr int64_t MAX_JOB_S = 86400;
#ifndef HWNAS_IDLE_S
#define HWNAS_IDLE_S 600  // another one is for tests
#endif
constexpr std::string_view EXTERNAL_DATA_KEY = "\x0a\x08location";  // StringStringEntryProto.key = "location", which only external tensors carry

// A request that is answered with one sentence.
struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// ---- ONNX Runtime

const OrtApi* ort = nullptr;

// Raises what a status says. The names are those that ONNX Runtime's errors have in Python.
void check(OrtStatus* status) {
  if (!status) return;
  static constexpr const char* names[] = {"OK", "FAIL", "INVALID_ARGUMENT", "NO_SUCHFILE", "NO_MODEL", "ENGINE_ERROR",
                                          "RUNTIME_EXCEPTION", "INVALID_PROTOBUF", "MODEL_LOADED", "NOT_IMPLEMENTED", "INVALID_GRAPH", "EP_FAIL"};
  const auto code = static_cast<size_t>(ort->GetErrorCode(status));
  std::string message = ort->GetErrorMessage(status);
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

OrtAllocator* allocator() {
  OrtAllocator* shared = nullptr;
  check(ort->GetAllocatorWithDefaultOptions(&shared));
  return shared;
}

using Random = std::mt19937_64;

// How a kind of tensor is filled, where it can be an input, and whether its values are finite, where it can be an output.
struct Kind {
  ONNXTensorElementDataType type;
  const char* name;
  void (*fill)(void* data, size_t count, Random& random);
  bool (*is_finite)(const void* data, size_t count);
};

void fill_normal(void* data, size_t count, Random& random) {
  std::normal_distribution<float> normal;
  for (size_t i = 0; i < count; ++i) static_cast<float*>(data)[i] = normal(random);
}

// Of IEEE numbers: not all bits of an exponent are set. Reads bits, so that no option of the compiler can do without the answer.
template <typename Bits, int Mantissa>
bool finite_bits(const void* data, size_t count) {
  constexpr Bits exponent = static_cast<Bits>(std::numeric_limits<Bits>::max() << Mantissa) & static_cast<Bits>(std::numeric_limits<Bits>::max() >> 1);
  for (size_t i = 0; i < count; ++i)
    if ((static_cast<const Bits*>(data)[i] & exponent) == exponent) return false;
  return true;
}

bool always(const void*, size_t) { return true; }

constexpr Kind KINDS[] = {
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, "float32", fill_normal, finite_bits<uint32_t, 23>},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, "float64", nullptr, finite_bits<uint64_t, 52>},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, "float16", nullptr, finite_bits<uint16_t, 10>},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16, "bfloat16", nullptr, finite_bits<uint16_t, 7>},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, "int8", nullptr, always},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, "uint8", nullptr, always},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, "int32", nullptr, always},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, "int64", nullptr, always},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, "bool", nullptr, always},
};

const Kind* kind_of(ONNXTensorElementDataType type) {
  for (const auto& each : KINDS)
    if (each.type == type) return &each;
  return nullptr;
}

std::vector<std::string> names_of(const OrtSession* session, decltype(OrtApi::SessionGetInputCount) count_of, decltype(OrtApi::SessionGetInputName) name_of) {
  size_t count = 0;
  check(count_of(session, &count));
  std::vector<std::string> names;
  for (size_t i = 0; i < count; ++i) {
    char* name = nullptr;
    check(name_of(session, i, allocator(), &name));
    names.emplace_back(name);
    check(ort->AllocatorFree(allocator(), name));
  }
  return names;
}

// A model in a live session, its inputs and outputs bound to fixed memory.
class Item {
 public:
  Item(const OrtEnv* env, std::shared_ptr<OrtSessionOptions> options, std::string model, Random random)
      : env_(env), options_(std::move(options)), model_(std::move(model)) {
    if (model_.find(EXTERNAL_DATA_KEY) != model_.npos) throw Refused("the model refers to external data files, which are refused");
    session_ = made<Session>(ort->CreateSessionFromArray, env_, model_.data(), model_.size(), options_.get());
    binding_ = made<Binding>(ort->CreateIoBinding, session_.get());
    const auto inputs = names_of(session_.get(), ort->SessionGetInputCount, ort->SessionGetInputName);
    for (size_t i = 0; i < inputs.size(); ++i) add_input(i, inputs[i], random);
    add_outputs(names_of(session_.get(), ort->SessionGetOutputCount, ort->SessionGetOutputName));
  }

  // The same model in a new session.
  void open() {
    binding_.reset();
    session_.reset();
    session_ = made<Session>(ort->CreateSessionFromArray, env_, model_.data(), model_.size(), options_.get());
    binding_ = made<Binding>(ort->CreateIoBinding, session_.get());
    for (const auto& [name, tensor] : inputs_) check(ort->BindInput(binding_.get(), name.c_str(), tensor.get()));
    for (const auto& [name, tensor] : outputs_) check(ort->BindOutput(binding_.get(), name.c_str(), tensor.get()));
  }

  void warm_up(int64_t runs) {
    for (int64_t i = 0; i < runs; ++i) run();
  }

  // Nanoseconds of each run.
  std::vector<int64_t> timed(int64_t runs) {
    std::vector<int64_t> ns(static_cast<size_t>(runs));
    for (auto& each : ns) {
      const int64_t start = now_ns();
      run();
      each = now_ns() - start;
    }
    return ns;
  }

  // Nanoseconds of opening the model and running it once, for each run.
  std::vector<int64_t> timed_cold(int64_t runs) {
    std::vector<int64_t> ns(static_cast<size_t>(runs));
    for (auto& each : ns) {
      const int64_t start = now_ns();
      open();
      run();
      each = now_ns() - start;
    }
    return ns;
  }

 private:
  const OrtEnv* env_;
  std::shared_ptr<OrtSessionOptions> options_;
  std::string model_;
  Session session_;
  Binding binding_;
  std::vector<std::pair<std::string, Tensor>> inputs_, outputs_;

  void run() {
    if (!binding_) throw Refused("the model could not be opened again");
    check(ort->RunWithBinding(session_.get(), nullptr, binding_.get()));
  }

  void add_input(size_t index, const std::string& name, Random& random) {
    const auto type = made<TypeInfo>(ort->SessionGetInputTypeInfo, session_.get(), index);
    const OrtTensorTypeAndShapeInfo* info = nullptr;
    check(ort->CastTypeInfoToTensorInfo(type.get(), &info));
    ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    std::vector<int64_t> shape;
    if (info) {
      size_t axes = 0;
      check(ort->GetTensorElementType(info, &element));
      check(ort->GetDimensionsCount(info, &axes));
      shape.resize(axes);
      check(ort->GetDimensions(info, shape.data(), axes));
    }
    const Kind* kind = kind_of(element);
    double elements = 1;
    std::string axes;
    for (const int64_t size : shape) {
      elements *= static_cast<double>(size);
      axes += (axes.empty() ? "" : ", ") + (size < 0 ? "free" : std::to_string(size));
    }
    if (!kind || !kind->fill || std::any_of(shape.begin(), shape.end(), [](int64_t size) { return size <= 0; }))
      throw Refused("input " + name + " is " + (kind ? kind->name : "of another type") + " [" + axes + "]; only float32 of fixed shape is timed");
    if (elements > static_cast<double>(MAX_TENSOR_ELEMENTS))
      throw Refused("input " + name + " has more than " + std::to_string(MAX_TENSOR_ELEMENTS) + " elements");
    auto tensor = made<Tensor>(ort->CreateTensorAsOrtValue, allocator(), shape.data(), shape.size(), element);
    void* data = nullptr;
    check(ort->GetTensorMutableData(tensor.get(), &data));
    kind->fill(data, static_cast<size_t>(elements), random);
    check(ort->BindInput(binding_.get(), name.c_str(), tensor.get()));
    inputs_.emplace_back(name, std::move(tensor));
  }

  // Runs once to learn the outputs' shapes, and binds what came out.
  void add_outputs(const std::vector<std::string>& names) {
    const auto memory = made<MemoryInfo>(ort->CreateCpuMemoryInfo, OrtDeviceAllocator, OrtMemTypeDefault);
    for (const auto& name : names) check(ort->BindOutputToDevice(binding_.get(), name.c_str(), memory.get()));
    run();
    OrtValue** values = nullptr;
    size_t count = 0;
    check(ort->GetBoundOutputValues(binding_.get(), allocator(), &values, &count));
    for (size_t i = 0; i < count; ++i) outputs_.emplace_back(i < names.size() ? names[i] : "", Tensor(values[i]));
    if (values) check(ort->AllocatorFree(allocator(), values));
    ort->ClearBoundOutputs(binding_.get());
    for (const auto& [name, tensor] : outputs_) {
      check_output(name, tensor.get());
      check(ort->BindOutput(binding_.get(), name.c_str(), tensor.get()));
    }
  }

  static void check_output(const std::string& name, OrtValue* value) {
    int is_tensor = 0;
    check(ort->IsTensor(value, &is_tensor));
    if (!is_tensor) throw Refused("output " + name + " is no tensor");
    const auto info = made<TensorInfo>(ort->GetTensorTypeAndShape, value);
    ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    size_t count = 0;
    check(ort->GetTensorElementType(info.get(), &element));
    check(ort->GetTensorShapeElementCount(info.get(), &count));
    const Kind* kind = kind_of(element);
    if (!kind) throw Refused("output " + name + " is of a type that is not timed");
    void* data = nullptr;
    check(ort->GetTensorMutableData(value, &data));
    if (!kind->is_finite(data, count)) throw Refused("output " + name + " is not finite");
  }
};

// ---- visits

struct Burst {
  int64_t warmups, runs;
  bool cold = false;
};

// One burst and what disturbed it. The probes are read before the last warm-up, so that reading them does not delay a timed run.
json::Object visit(Item& item, const Burst& burst) {
  using Probe = Count (*)();
  static constexpr std::pair<const char*, Probe> probes[] = {{"involuntary", involuntary_switches}, {"psi_us", pressure_us}, {"steal_ms", steal_ms}};
  const int64_t last = std::min<int64_t>(burst.warmups, 1);
  item.warm_up(burst.warmups - last);
  std::vector<Count> before;
  for (const auto& [name, probe] : probes) before.push_back(probe());
  const int64_t at = now_ns(), cpu = cpu_ns();
  item.warm_up(last);
  const auto ns = burst.cold ? item.timed_cold(burst.runs) : item.timed(burst.runs);
  const int64_t wall_ns = now_ns() - at, used_ns = cpu_ns() - cpu;
  json::Object report = {{"ns", json::Array(ns.begin(), ns.end())}, {"at_ns", at}, {"wall_ns", wall_ns}, {"cpu_ns", used_ns}};
  for (size_t i = 0; i < std::size(probes); ++i) {
    const Count end = probes[i].second();
    report.emplace_back(probes[i].first, before[i] && end ? json::Value(*end - *before[i]) : json::Value());
  }
  return report;
}

// The best of a burst of the anchor: tells the speed the machine has now.
int64_t anchor_ns(Item& item, const Burst& burst) {
  item.warm_up(burst.warmups);
  const auto ns = item.timed(burst.runs);
  return *std::min_element(ns.begin(), ns.end());
}

// ---- requests

// One sentence of what something else said.
std::string sentence(const std::string& text) {
  std::string out;
  for (const char c : text.substr(0, 500)) out += std::isspace(static_cast<unsigned char>(c)) ? ' ' : c;
  return out;
}

std::string quoted(const json::Value* value) {
  if (!value) return "nothing";
  const auto* text = value->as<std::string>();
  const std::string whole = text ? "'" + *text + "'" : json::text(*value);
  return whole.substr(0, 60);
}

int64_t number_of(const json::Value& request, const char* key, int64_t low, int64_t high) {
  const json::Value* value = request.find(key);
  const auto* number = value ? value->as<int64_t>() : nullptr;
  if (!number || *number < low || *number > high)
    throw Refused(std::string(key) + " must be a whole number from " + std::to_string(low) + " to " + std::to_string(high) + ", got " + quoted(value));
  return *number;
}

// Characters of a text, or -1 where one of them is none that can be seen.
int64_t printable_characters(std::string_view text) {
  int64_t characters = 0;
  while (!text.empty()) {
    const size_t length = json::utf8_length(text);
    const auto first = static_cast<unsigned char>(text.front()), second = static_cast<unsigned char>(length > 1 ? text[1] : 0);
    if (length == 0 || first < 0x20 || first == 0x7F || (first == 0xC2 && second < 0xA0)) return -1;
    text.remove_prefix(length);
    ++characters;
  }
  return characters;
}

// Standard input, in lines and in counted bytes.
class Requests {
 public:
  // A line with its end, or the last one without; empty at the end; longer than `limit` where the line is.
  std::string line(size_t limit) {
    std::string text;
    while (text.size() <= limit && fill()) {
      const size_t end = buffer_.find('\n', at_), take = std::min((end == buffer_.npos ? buffer_.size() : end + 1) - at_, limit + 1 - text.size());
      text.append(buffer_, at_, take);
      at_ += take;
      if (text.back() == '\n') break;
    }
    return text;
  }

  // So many bytes, or fewer at the end. They are read even where there is no memory for them: the next request starts after them.
  std::string bytes(size_t count) {
    std::string data;
    bool has_memory = true;
    while (count > 0 && fill()) {
      const size_t take = std::min(buffer_.size() - at_, count);
      try {
        if (has_memory) data.append(buffer_, at_, take);
      } catch (const std::bad_alloc&) {
        has_memory = false;
        std::string().swap(data);
      }
      at_ += take;
      count -= take;
    }
    if (!has_memory) throw std::bad_alloc();
    return data;
  }

 private:
  std::string buffer_;
  size_t at_ = 0;

  bool fill() {
    if (at_ < buffer_.size()) return true;
    buffer_.resize(1 << 16);
    ssize_t got = 0;
    do got = read(0, buffer_.data(), buffer_.size());
    while (got < 0 && errno == EINTR);
    buffer_.resize(got > 0 ? static_cast<size_t>(got) : 0);
    at_ = 0;
    return got > 0;
  }
};

class Agent {
 public:
  explicit Agent(int answers) : answers_(answers) {}

  void serve() {
    for (bool goes_on = true; goes_on;) {
      alarm(HWNAS_IDLE_S);
      const std::string line = requests_.line(MAX_LINE_BYTES);
      if (line.empty()) return;
      if (line.size() > MAX_LINE_BYTES) {
        answer({{"ok", false}, {"error", "the request is longer than " + std::to_string(MAX_LINE_BYTES) + " bytes"}});
        return;
      }
      answer(reply_to(line, goes_on));
    }
  }

 private:
  int answers_;
  Requests requests_;
  Lease lease_;
  Env env_;
  std::shared_ptr<OrtSessionOptions> options_;
  int64_t seed_ = 0;
  std::unordered_map<std::string, std::unique_ptr<Item>> items_;

  void answer(const json::Object& reply) {
    const std::string line = json::text(reply) + "\n";
    for (size_t sent = 0; sent < line.size();) {
      const ssize_t more = write(answers_, line.data() + sent, line.size() - sent);
      if (more < 0 && errno == EINTR) continue;
      if (more <= 0) std::exit(1);  // the host is gone
      sent += static_cast<size_t>(more);
    }
  }

  json::Object reply_to(const std::string& line, bool& goes_on) {
    const auto failed = [](const std::string& why) { return json::Object{{"ok", false}, {"error", why}}; };
    try {
      const json::Value request = json::parse(line);
      if (!request.as<json::Object>()) throw Refused("a request is a JSON object");
      alarm(request.find("seconds") ? static_cast<unsigned>(number_of(request, "seconds", 1, MAX_JOB_S)) : 0);
      const json::Value* op = request.find("op");
      const auto* name = op ? op->as<std::string>() : nullptr;
      if (name && *name == "hello") return hello(request);
      if (name && *name == "look") return {{"ok", true}, {"state", describe_state()}};
      if (name && *name == "load") return load(request);
      if (name && *name == "run") return run(request);
      if (name && *name == "bye") {
        goes_on = false;
        return {{"ok", true}, {"bye", true}};
      }
      throw Refused("unknown request " + quoted(op));
    } catch (const Held& error) {
      return {{"ok", false}, {"held_by", error.what()}, {"error", std::string("this machine is being measured by ") + error.what()}};
    } catch (const std::bad_alloc&) {
      return failed("out of memory");
    } catch (const std::exception& error) {
      return failed(sentence(error.what()));
    }
  }

  json::Object hello(const json::Value& request) {
    const json::Value* contract = request.find("contract");
    if (!contract || !contract->as<int64_t>() || *contract->as<int64_t>() != CONTRACT)
      throw Refused("this agent speaks contract " + std::to_string(CONTRACT) + ", the host " + quoted(contract) + "; use the agent of the same hwnas version");
    const int64_t threads = number_of(request, "threads", 1, 1024), seed = number_of(request, "seed", 0, (int64_t{1} << 32) - 1);
    std::string holder = "an unnamed host";
    if (const json::Value* by = request.find("by")) {
      const auto* text = by->as<std::string>();
      const int64_t characters = text ? printable_characters(*text) : -1;
      if (characters < 0 || characters > 200) throw Refused("by must be a text of at most 200 characters, got " + quoted(by));
      holder = *text;
    }
    if (const json::Value* asked = request.find("options")) {
      const auto* options = asked->as<json::Object>();
      const auto is_plain = [](const auto& each) { return each.second.template as<std::string>() || each.second.template as<int64_t>() || each.second.template as<bool>(); };
      if (!options || options->size() > MAX_OPTIONS || !std::all_of(options->begin(), options->end(), is_plain))
        throw Refused("options must be at most " + std::to_string(MAX_OPTIONS) + " texts and whole numbers, got " + quoted(asked));
      if (!options->empty()) {
        const json::Value first(options->front().first);
        throw Refused("unknown option " + quoted(&first));
      }
    }
    lease_.take(holder);
    seed_ = seed;
    if (!env_) env_ = made<Env>(ort->CreateEnv, ORT_LOGGING_LEVEL_FATAL, "hwnas");
    auto session = made<SessionOptions>(ort->CreateSessionOptions);
    check(ort->SetIntraOpNumThreads(session.get(), static_cast<int>(threads)));
    check(ort->SetInterOpNumThreads(session.get(), 1));
    check(ort->SetSessionExecutionMode(session.get(), ORT_SEQUENTIAL));
    check(ort->SetSessionGraphOptimizationLevel(session.get(), ORT_ENABLE_ALL));
    check(ort->SetSessionLogSeverityLevel(session.get(), ORT_LOGGING_LEVEL_FATAL));
    // Denormals slow a convolution down two hundred times. Process-wide; the first session of a process decides.
    check(ort->AddSessionConfigEntry(session.get(), "session.set_denormal_as_zero", "1"));
    options_ = std::move(session);
    json::Object options = {{"provider", "CPUExecutionProvider"}, {"intra_op_threads", threads}, {"inter_op_threads", 1}};
    for (auto& each : json::Object{{"optimization", "all"}, {"denormals", "zero"}, {"io_binding", true}}) options.push_back(each);
    return {{"ok", true}, {"contract", CONTRACT}, {"runtime", "onnxruntime"}, {"version", OrtGetApiBase()->GetVersionString()},
            {"options", options}, {"system", describe_system()}};
  }

  json::Object load(const json::Value& request) {
    const auto size = static_cast<size_t>(number_of(request, "bytes", 0, MAX_MODEL_BYTES));
    std::string model = requests_.bytes(size);  // read even if refused below: the next request starts after it
    if (!options_) throw Refused("the first request must be hello");
    const json::Value* item = request.find("item");
    const auto* name = item ? item->as<std::string>() : nullptr;
    if (!name || name->empty() || name->size() > 200 || items_.size() >= MAX_ITEMS)
      throw Refused("an item needs a name of 1 to 200 characters, and at most " + std::to_string(MAX_ITEMS) + " are held");
    if (model.size() != size) throw Refused("the model was cut short");
    std::seed_seq seeds{static_cast<uint32_t>(seed_), static_cast<uint32_t>(items_.size())};
    items_[*name] = std::make_unique<Item>(env_.get(), options_, std::move(model), Random(seeds));
    return {{"ok", true}, {"item", *name}, {"facts", json::Object{}}};
  }

  Item& item(const json::Value* name) {
    const auto* text = name ? name->as<std::string>() : nullptr;
    const auto found = text ? items_.find(*text) : items_.end();
    if (found == items_.end()) throw Refused("no item " + quoted(name) + " is loaded");
    return *found->second;
  }

  static Burst burst_of(const json::Value& request) {
    const json::Value* cold = request.find("cold");
    if (cold && !cold->as<bool>()) throw Refused("cold must be true or false, got " + quoted(cold));
    const bool is_cold = cold && *cold->as<bool>();
    return {number_of(request, "warmups", 0, is_cold ? 0 : MAX_RUNS), number_of(request, "runs", 1, MAX_RUNS), is_cold};
  }

  json::Object run(const json::Value& request) {
    const json::Value *items_asked = request.find("items"), *order_asked = request.find("order"), *anchor = request.find("anchor");
    const auto* items = items_asked ? items_asked->as<json::Object>() : nullptr;
    const auto* order = order_asked ? order_asked->as<json::Array>() : nullptr;
    if (!items || !order || !anchor || !anchor->as<json::Object>() || order->empty() || order->size() > MAX_VISITS)
      throw Refused("run needs items, an order of 1 to " + std::to_string(MAX_VISITS) + " visits, and an anchor");
    std::unordered_map<std::string, std::pair<Item*, Burst>> bursts;
    for (const auto& [name, burst] : *items) {
      const json::Value text(name);
      if (!burst.as<json::Object>()) throw Refused("item " + quoted(&text) + " needs warmups and runs");
      bursts[name] = {&item(&text), burst_of(burst)};
    }
    std::vector<const std::pair<const std::string, std::pair<Item*, Burst>>*> visited;
    for (const auto& name : *order) {
      const auto* text = name.as<std::string>();
      const auto found = text ? bursts.find(*text) : bursts.end();
      if (found == bursts.end()) throw Refused("the order names an item that is not among the items");
      visited.push_back(&*found);
    }
    Item& reference = item(anchor->find("item"));
    Burst reference_burst = burst_of(*anchor);
    reference_burst.cold = false;
    json::Array visits;
    int64_t before = anchor_ns(reference, reference_burst);
    for (const auto* each : visited) {
      json::Object report;
      try {
        report = visit(*each->second.first, each->second.second);
        const int64_t after = anchor_ns(reference, reference_burst);
        report.emplace_back("anchor_ns", json::Array{before, after});
        before = after;
      } catch (const std::exception& error) {  // the visit is lost, the others are not
        report = {{"error", sentence(error.what())}};
      }
      report.emplace_back("item", each->first);
      visits.emplace_back(std::move(report));
    }
    return {{"ok", true}, {"visits", std::move(visits)}};
  }
};

}  // namespace

int main() {
  // Native code may print to stdout; only answers may reach the host there.
  const int answers = fcntl(1, F_DUPFD_CLOEXEC, 3);
  if (answers < 0 || dup2(2, 1) < 0) return 1;
  signal(SIGALRM, SIG_DFL);
  sigset_t alarms;
  sigemptyset(&alarms);
  sigaddset(&alarms, SIGALRM);
  sigprocmask(SIG_UNBLOCK, &alarms, nullptr);
  ort = OrtGetApiBase()->GetApi(OLDEST_API);
  if (!ort) {
    std::fprintf(stderr, "ONNX Runtime %s is too old: 1.%u or newer is needed\n", OrtGetApiBase()->GetVersionString(), OLDEST_API);
    return 1;
  }
  limit_memory();
  Agent(answers).serve();
}
