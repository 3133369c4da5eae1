// Times ONNX models with ONNX Runtime, through its C API, on the machine it runs on: for phones and boards without Python.
//
// It keeps the contract of ../agent_contract.py, and tests hold it against the agent in Python: one line of JSON per request and answer,
// models as bytes after their request, raw nanoseconds back. Nothing is decided here.

#include <signal.h>

#include <unordered_map>

#include "capi.hpp"
#include "item.hpp"
#include "json.hpp"
#include "requests.hpp"
#include "runtime.hpp"
#include "system.hpp"
#include "visit.hpp"

namespace {

constexpr int CONTRACT = 2;
constexpr size_t MAX_LINE_BYTES = 8 << 20;
constexpr int64_t MAX_MODEL_BYTES = 1 << 30;
constexpr int64_t MAX_PROFILE_BYTES = 1 << 30;
constexpr size_t MAX_ITEMS = 100000;
constexpr size_t MAX_OPTIONS = 64;
constexpr size_t MAX_VISITS = 100000;
constexpr int64_t MAX_RUNS = 100000;
constexpr int64_t MAX_STREAMS = 1024;
constexpr int64_t MAX_JOB_S = 86400;
#ifndef HWNAS_IDLE_S
#define HWNAS_IDLE_S 600  // another one is for tests
#endif

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
  std::unique_ptr<OnnxRuntime> runtime_;  // before the items, whose sessions need it to their end
  int64_t seed_ = 0, threads_ = 1;
  std::unordered_map<std::string, std::unique_ptr<Item>> items_;

  bool is_greeted() const { return runtime_ && runtime_->is_started(); }

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
      if (name && *name == "load") return load(request);
      if (name && *name == "run") return run(request);
      if (name && (*name == "look" || *name == "layers") && !is_greeted()) throw Refused("the first request must be hello");
      if (name && *name == "look") return {{"ok", true}, {"state", describe_state()}};
      if (name && *name == "layers") return layers(request);
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
    json::Object asked;
    if (const json::Value* value = request.find("options")) {
      const auto* options = value->as<json::Object>();
      const auto is_plain = [](const auto& each) { return each.second.template as<std::string>() || each.second.template as<int64_t>() || each.second.template as<bool>(); };
      if (!options || options->size() > MAX_OPTIONS || !std::all_of(options->begin(), options->end(), is_plain))
        throw Refused("options must be at most " + std::to_string(MAX_OPTIONS) + " texts and whole numbers, got " + quoted(value));
      asked = *options;
    }
    lease_.take(holder);
    if (!runtime_) runtime_ = std::make_unique<OnnxRuntime>();
    const json::Object options = runtime_->start(threads, asked);
    seed_ = seed;
    threads_ = threads;
    json::Object system = describe_system();
    if (const std::string gaps = not_told(); !gaps.empty()) system.emplace_back("not_told", gaps);
    return {{"ok", true}, {"contract", CONTRACT}, {"runtime", "onnxruntime"}, {"version", OnnxRuntime::version()}, {"options", options}, {"system", system}};
  }

  json::Object load(const json::Value& request) {
    const auto size = static_cast<size_t>(number_of(request, "bytes", 0, MAX_MODEL_BYTES));
    std::string model = requests_.bytes(size);  // read even if refused below: the next request starts after it
    if (!is_greeted()) throw Refused("the first request must be hello");
    const json::Value* item = request.find("item");
    const auto* name = item ? item->as<std::string>() : nullptr;
    if (!name || name->empty() || name->size() > 200 || items_.size() >= MAX_ITEMS)
      throw Refused("an item needs a name of 1 to 200 characters, and at most " + std::to_string(MAX_ITEMS) + " are held");
    if (model.size() != size) throw Refused("the model was cut short");
    std::seed_seq seeds{static_cast<uint32_t>(seed_), static_cast<uint32_t>(items_.size())};
    auto& loaded = items_[*name] = std::make_unique<Item>(runtime_->setup(), std::move(model), Random(seeds));
    return {{"ok", true}, {"item", *name}, {"facts", loaded->facts()}};
  }

  json::Object layers(const json::Value& request) {
    Item& profiled = item(request.find("item"));
    const int64_t runs = number_of(request, "runs", 1, MAX_RUNS);
    return {{"ok", true}, {"item", *request.find("item")}, {"layers", profiled.layers(runs)}};
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
    Burst burst;
    burst.cold = cold && *cold->as<bool>();
    burst.warmups = number_of(request, "warmups", 0, burst.cold ? 0 : MAX_RUNS);
    burst.streams = request.find("streams") ? number_of(request, "streams", 1, MAX_STREAMS) : 0;
    if (burst.streams && burst.cold) throw Refused("onnxruntime runs an item in one stream at a time, and a cold start is one run");
    burst.runs = number_of(request, "runs", 1, MAX_RUNS / std::max<int64_t>(1, burst.streams));
    return burst;
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
    Burst reference_burst;
    reference_burst.warmups = number_of(*anchor, "warmups", 0, MAX_RUNS);
    reference_burst.runs = number_of(*anchor, "runs", 1, MAX_RUNS);
    const Crowding crowding(threads_);
    json::Array visits;
    int64_t before = anchor_ns(reference, reference_burst);
    for (const auto* each : visited) {
      json::Object report;
      try {
        report = visit(*each->second.first, each->second.second);
        const int64_t after = anchor_ns(reference, reference_burst);
        report.emplace_back("anchor_ns", json::Array{before, after});
        before = after;
      } catch (const std::bad_alloc&) {
        report = {{"error", "out of memory"}};
      } catch (const std::exception& error) {  // the visit is lost, the others are not
        report = {{"error", sentence(error.what())}};
      }
      report.emplace_back("item", each->first);
      visits.emplace_back(std::move(report));
    }
    const Count crowding_pct = crowding.pct();
    return {{"ok", true}, {"visits", std::move(visits)}, {"crowding_pct", crowding_pct ? json::Value(*crowding_pct) : json::Value()}};
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
  if (!find_api()) {
    std::fprintf(stderr, "ONNX Runtime %s is too old: 1.%u or newer is needed\n", OrtGetApiBase()->GetVersionString(), OLDEST_API);
    return 1;
  }
  setenv("ORT_DISABLE_TELEMETRY", "1", 1);  // before its environment is made: a thread, files and connections of which the measured know nothing
  limit_memory();
  limit_files(MAX_PROFILE_BYTES);
  Agent(answers).serve();
}
