// ONNX Runtime's profile of some runs: which kernels ran, on what, and how long.
#pragma once

#include <stdlib.h>
#include <unistd.h>

#include <cmath>
#include <fstream>

#include "requests.hpp"
#include "runtime.hpp"
#include "system.hpp"

// A model that cannot be profiled, and can be timed all the same.
struct Unprofiled : Refused {
  using Refused::Refused;
};

// A folder of its own for files that ONNX Runtime insists on, removed with what is in it. Empty where there is nowhere to write.
class Folder {
 public:
  Folder() {
    const char* const parents[] = {std::getenv("TMPDIR"), "/tmp", "/data/local/tmp"};
    for (const char* parent : parents) {
      if (!parent || !*parent) continue;
      std::string path = std::string(parent) + "/hwnas-agent-XXXXXX";
      if (!mkdtemp(path.data())) continue;
      path_ = path;
      return;
    }
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    if (path_.empty()) return;
    for (const auto& name : entries(path_, "")) unlink((path_ + "/" + name).c_str());
    rmdir(path_.c_str());
  }

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// A run of one kernel. `type` is that of the first tensor it reads, as ONNX Runtime calls it.
struct Kernel {
  std::string name, operation, type;
  int64_t start_us, took_us;
};

struct Profile {
  std::vector<Kernel> kernels;
  std::vector<int64_t> run_ends_us;  // of each run
};

constexpr std::string_view KERNEL = "_kernel_time";  // the end of a kernel's name in a profile

inline std::string text_in(const json::Value* object, const char* key) {
  const json::Value* value = object ? object->find(key) : nullptr;
  const auto* text = value ? value->as<std::string>() : nullptr;
  return text ? *text : "";
}

inline std::string first_type(const json::Value* about) {
  const json::Value* inputs = about ? about->find("input_type_shape") : nullptr;
  const auto* list = inputs ? inputs->as<json::Array>() : nullptr;
  const auto* first = list && !list->empty() ? list->front().as<json::Object>() : nullptr;
  return first && !first->empty() ? first->front().first : "";
}

inline void add_event(Profile& profile, const json::Value& event) {
  const std::string name = text_in(&event, "name");
  const json::Value *start = event.find("ts"), *took = event.find("dur"), *about = event.find("args");
  const auto *start_us = start ? start->as<int64_t>() : nullptr, *took_us = took ? took->as<int64_t>() : nullptr;
  if (!start_us || !took_us) return;
  if (name == "model_run") profile.run_ends_us.push_back(*start_us + *took_us);
  if (name.size() <= KERNEL.size() || name.compare(name.size() - KERNEL.size(), name.npos, KERNEL) != 0) return;
  profile.kernels.push_back({name.substr(0, name.size() - KERNEL.size()), text_in(about, "op_name"), first_type(about), *start_us, *took_us});
}

// Of so many runs: a list with an event on each line, so that the largest is never in memory as a whole.
//
// Raises Unprofiled where it is not whole. ONNX Runtime keeps a million events and drops the others, a file ends at the limit of its size,
// and names are whatever the model has.
inline Profile read_profile(const std::string& path, int64_t runs) {
  Profile profile;
  std::ifstream file(path);
  try {
    for (std::string line; std::getline(file, line);) {
      line = trimmed(line);
      if (!line.empty() && line.back() == ',') line.pop_back();
      if (!line.empty() && line != "[" && line != "]") add_event(profile, json::parse(line));
    }
  } catch (const json::Error& error) {
    throw Unprofiled(std::string("the profile that ONNX Runtime wrote cannot be read (") + error.what() + "): ask for fewer runs");
  }
  if (profile.run_ends_us.size() != static_cast<size_t>(runs))
    throw Unprofiled("ONNX Runtime wrote down " + std::to_string(profile.run_ends_us.size()) + " of " + std::to_string(runs) + " runs: ask for fewer");
  return profile;
}

// {"computed_in_TYPE": how many convolutions and matrix products} as ONNX Runtime ran them; the type is that of what they read.
//
// It runs what it has no kernel for in float32, between casts, and says so nowhere but in a profile.
inline json::Object computed_in(const Profile& profile) {
  std::map<std::string, int64_t> found;
  for (const auto& each : profile.kernels)
    for (const char* part : {"Conv", "Gemm", "MatMul"})
      if (each.operation.find(part) != each.operation.npos && !each.type.empty()) {
        ++found["computed_in_" + (each.type == "float" ? "float32" : each.type)];
        break;
      }
  return json::Object(found.begin(), found.end());
}

// [operator, mean nanoseconds] in the order in which they ran; the first run sets things up and does not count.
inline json::Array mean_layers(const Profile& profile, int64_t runs) {
  const int64_t begin = *std::min_element(profile.run_ends_us.begin(), profile.run_ends_us.end());
  std::vector<std::pair<std::string, int64_t>> layers;
  std::map<std::string, size_t> places;
  for (const auto& each : profile.kernels) {
    if (each.start_us < begin) continue;
    const std::string name = each.name + " (" + (each.operation.empty() ? "?" : each.operation) + ")";
    const auto [place, is_new] = places.try_emplace(name, layers.size());
    if (is_new) layers.emplace_back(name, 0);
    layers[place->second].second += each.took_us;
  }
  json::Array found;
  for (const auto& [name, us] : layers) found.push_back(json::Array{name, int64_t{std::llround(static_cast<double>(us) * 1000 / static_cast<double>(runs))}});
  return found;
}
