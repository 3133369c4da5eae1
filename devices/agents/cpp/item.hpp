// A loaded model: its session, the memory that its runs read and write, and what is known of how it is executed.
#pragma once

#include "capi.hpp"
#include "profile.hpp"
#include "requests.hpp"
#include "runtime.hpp"
#include "system.hpp"
#include "tensors.hpp"

constexpr std::string_view EXTERNAL_DATA_KEY = "\x0a\x08location";  // StringStringEntryProto.key = "location", which only external tensors carry
constexpr int64_t MAX_PROFILED = 1000;

using Named = std::vector<std::pair<std::string, Tensor>>;

// What of the contract cannot be told here, and why; empty where all is told.
inline std::string not_told() {
  std::string text;
  if (api_version < ASSIGNMENT_API) text = "nodes and partitions: they take the headers and the library of ONNX Runtime 1.24 or newer";
  if (Folder().path().empty()) text += std::string(text.empty() ? "" : "; ") + "layers and types of kernels: there is no folder for a profile, TMPDIR names one";
  return text;
}

// Facts on which nodes, counted before they are fused, run on the provider asked for, and in how many pieces it got them.
//
// A provider that compiles what it gets has one of them for each piece; of one that runs node by node the pieces are not told,
// unless it has them all.
inline json::Object assignment(const OrtSession* session, const std::string& provider) {
#if ORT_API_VERSION >= 24
  if (api_version < ASSIGNMENT_API) return {};
  const OrtEpAssignedSubgraph* const* parts = nullptr;
  size_t count = 0;
  if (OrtStatus* status = ort->Session_GetEpGraphAssignmentInfo(session, &parts, &count)) {  // a session whose record was refused
    ort->ReleaseStatus(status);
    return {};
  }
  int64_t own = 0, elsewhere = 0, pieces = 0, largest = 0;
  for (size_t i = 0; i < count; ++i) {
    const char* name = nullptr;
    const OrtEpAssignedNode* const* nodes = nullptr;
    size_t size = 0;
    check(ort->EpAssignedSubgraph_GetEpName(parts[i], &name));
    check(ort->EpAssignedSubgraph_GetNodes(parts[i], &nodes, &size));
    const auto here = static_cast<int64_t>(size);
    if (name && provider == name) {
      ++pieces;
      own += here;
      largest = std::max(largest, here);
    } else {
      elsewhere += here;
    }
  }
  json::Object facts = {{"provider", provider}, {"nodes", own + elsewhere}, {"nodes_elsewhere", elsewhere}};
  if (largest > 1) facts.emplace_back("partitions", pieces);
  else if (elsewhere == 0 || pieces == 0) facts.emplace_back("partitions", std::min<int64_t>(pieces, 1));
  return facts;
#else
  (void)session;
  (void)provider;
  return {};
#endif
}

// The memory that one run at a time of a session reads and writes.
class Stream {
 public:
  Stream(Named inputs, Named outputs) : inputs_(std::move(inputs)), outputs_(std::move(outputs)) {}

  // Raises Refused where there is no session, as after a cold start that failed.
  void bind(OrtSession* session) {
    if (!session) throw Refused(NOT_OPEN);
    binding_ = made<Binding>(ort->CreateIoBinding, session);
    for (const auto& [name, tensor] : inputs_) check(ort->BindInput(binding_.get(), name.c_str(), tensor.get()));
    for (const auto& [name, tensor] : outputs_) check(ort->BindOutput(binding_.get(), name.c_str(), tensor.get()));
    session_ = session;
  }

  void release() {
    session_ = nullptr;
    binding_.reset();
  }

  std::unique_ptr<Stream> copy() const {
    const auto copied = [](const Named& all) {
      Named copies;
      for (const auto& [name, tensor] : all) copies.emplace_back(name, copy_of(tensor.get()));
      return copies;
    };
    return std::make_unique<Stream>(copied(inputs_), copied(outputs_));
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

 private:
  static constexpr const char* NOT_OPEN = "the model could not be opened again";
  Named inputs_, outputs_;
  OrtSession* session_ = nullptr;
  Binding binding_;

  void run() {
    if (!session_) throw Refused(NOT_OPEN);
    check(ort->RunWithBinding(session_, nullptr, binding_.get()));
  }
};

// A model in a live session, its inputs and outputs bound to fixed memory.
class Item {
 public:
  Item(std::shared_ptr<const Setup> setup, std::string model, Random random) : setup_(std::move(setup)), model_(std::move(model)) {
    if (model_.find(EXTERNAL_DATA_KEY) != model_.npos) throw Refused("the model refers to external data files, which are refused");
    session_ = setup_->open(model_);
    facts_ = assignment(session_.get(), setup_->provider);
    Named inputs;
    const auto names = names_of(session_.get(), ort->SessionGetInputCount, ort->SessionGetInputName);
    for (size_t i = 0; i < names.size(); ++i) inputs.emplace_back(names[i], filled_input(session_.get(), i, names[i], random));
    Named outputs = first_outputs(inputs);
    const bool mixes_types = model_.find("QuantizeLinear") != model_.npos || model_.find("Cast") != model_.npos || !std::all_of(inputs.begin(), inputs.end(), is_float);
    main_ = std::make_unique<Stream>(std::move(inputs), std::move(outputs));
    main_->bind(session_.get());
    if (mixes_types) add_types_of_kernels();
  }

  const json::Object& facts() const { return facts_; }
  bool on_accelerator() const { return setup_->on_accelerator; }

  void warm_up(int64_t runs) { main_->warm_up(runs); }
  std::vector<int64_t> timed(int64_t runs) { return main_->timed(runs); }

  // Nanoseconds of opening the model anew and running it once, for each run.
  std::vector<int64_t> timed_cold(int64_t runs) {
    std::vector<int64_t> ns(static_cast<size_t>(runs));
    for (auto& each : ns) {
      const int64_t start = now_ns();
      open();
      main_->warm_up(1);
      each = now_ns() - start;
    }
    return ns;
  }

  // One of several runs of the same session beside each other, the same for the same number; weights are shared, inputs and outputs are copies.
  Stream& stream(size_t number) {
    while (streams_.size() <= number) {
      auto made = main_->copy();
      made->bind(session_.get());
      streams_.push_back(std::move(made));
    }
    return *streams_[number];
  }

  json::Array layers(int64_t runs) {
    if (runs > MAX_PROFILED)
      throw Refused("ONNX Runtime writes down every run that it profiles: at most " + std::to_string(MAX_PROFILED) + " are, got " + std::to_string(runs));
    return mean_layers(profiled(1 + runs), runs);
  }

 private:
  std::shared_ptr<const Setup> setup_;
  std::string model_;
  Session session_;
  json::Object facts_;
  std::unique_ptr<Stream> main_;
  std::vector<std::unique_ptr<Stream>> streams_;

  static bool is_float(const Named::value_type& each) {
    return Form(made<TensorInfo>(ort->GetTensorTypeAndShape, each.second.get()).get()).kind->type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }

  // The same model in a new session; what ran beside it is made anew.
  void open() {
    main_->release();
    streams_.clear();
    session_.reset();
    session_ = setup_->open(model_);
    main_->bind(session_.get());
  }

  // Runs once to learn the outputs' shapes; what came out is the memory for what will. Raises Refused where it is not finite.
  Named first_outputs(const Named& inputs) {
    const auto names = names_of(session_.get(), ort->SessionGetOutputCount, ort->SessionGetOutputName);
    const auto binding = made<Binding>(ort->CreateIoBinding, session_.get());
    const auto memory = made<MemoryInfo>(ort->CreateCpuMemoryInfo, OrtDeviceAllocator, OrtMemTypeDefault);
    for (const auto& [name, tensor] : inputs) check(ort->BindInput(binding.get(), name.c_str(), tensor.get()));
    for (const auto& name : names) check(ort->BindOutputToDevice(binding.get(), name.c_str(), memory.get()));
    check(ort->RunWithBinding(session_.get(), nullptr, binding.get()));
    OrtValue** values = nullptr;
    size_t count = 0;
    check(ort->GetBoundOutputValues(binding.get(), allocator(), &values, &count));
    Named outputs;
    for (size_t i = 0; i < count; ++i) outputs.emplace_back(i < names.size() ? names[i] : "", Tensor(values[i]));
    if (values) check(ort->AllocatorFree(allocator(), values));
    for (const auto& [name, tensor] : outputs) check_output(name, tensor.get());
    return outputs;
  }

  void add_types_of_kernels() {
    try {
      for (auto& each : computed_in(profiled(1))) facts_.push_back(std::move(each));
    } catch (const Unprofiled&) {  // what is not told is not believed by the host
    }
  }

  // Of so many runs in a session of its own. Raises Unprofiled.
  Profile profiled(int64_t runs) {
    const Folder folder;
    if (folder.path().empty()) throw Unprofiled("there is no folder to write a profile to: TMPDIR in the agent's environment names one");
    const Session session = setup_->open_profiled(model_, folder.path() + "/profile");
    const auto stream = main_->copy();
    stream->bind(session.get());
    stream->warm_up(runs);
    char* name = nullptr;
    check(ort->SessionEndProfiling(session.get(), allocator(), &name));
    return read_profile(taken(name), runs);
  }
};
