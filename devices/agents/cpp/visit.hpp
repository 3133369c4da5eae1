// One visit of an item: warm-ups, a burst of timed runs, and what disturbed it.
#pragma once

#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#include "item.hpp"
#include "json.hpp"
#include "system.hpp"

// `streams`: how many do the warm-ups and then the runs at once; 0 where one does.
struct Burst {
  int64_t warmups = 0, runs = 1, streams = 0;
  bool cold = false;
};

// Where threads wait until all have come; none passes where one cannot come.
class Gate {
 public:
  explicit Gate(size_t awaited) : awaited_(awaited) {}

  bool passed() {
    std::unique_lock lock(mutex_);
    if (awaited_ > 0 && --awaited_ == 0) opened_.notify_all();
    opened_.wait(lock, [&] { return awaited_ == 0 || is_shut_; });
    return !is_shut_;
  }

  void shut() {
    const std::lock_guard lock(mutex_);
    is_shut_ = true;
    opened_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  size_t awaited_;
  bool is_shut_ = false;
};

// Nanoseconds of the runs, one stream after the other, and from the first one's start to the last one's end.
struct Together {
  std::vector<int64_t> ns;
  int64_t busy_ns = 0;
};

inline Together timed_streams(Item& item, const Burst& burst) {
  struct Part {
    Stream* stream;
    std::vector<int64_t> ns;
    int64_t start = 0, end = 0;
    std::exception_ptr error;
  };
  const auto count = static_cast<size_t>(burst.streams);
  std::vector<Part> parts(count);
  for (size_t i = 0; i < count; ++i) parts[i].stream = &item.stream(i);
  Gate gate(count);
  const auto work = [&](Part& part) {
    try {
      part.stream->warm_up(burst.warmups);
      if (!gate.passed()) return;
      part.start = now_ns();
      part.ns = part.stream->timed(burst.runs);
      part.end = now_ns();
    } catch (...) {
      part.error = std::current_exception();
      gate.shut();
    }
  };
  std::vector<std::thread> threads;
  std::exception_ptr error;
  try {
    for (auto& part : parts) threads.emplace_back(work, std::ref(part));
  } catch (...) {  // more threads than the system has
    error = std::current_exception();
    gate.shut();
  }
  for (auto& thread : threads) thread.join();
  for (const auto& part : parts) error = error ? error : part.error;
  if (error) std::rethrow_exception(error);
  Together found;
  int64_t start = parts.front().start, end = parts.front().end;
  for (const auto& part : parts) {
    found.ns.insert(found.ns.end(), part.ns.begin(), part.ns.end());
    start = std::min(start, part.start);
    end = std::max(end, part.end);
  }
  found.busy_ns = end - start;
  return found;
}

// The probes are read before the last warm-up, so that reading them does not delay a timed run.
inline json::Object visit(Item& item, const Burst& burst) {
  using Probe = Count (*)();
  static constexpr std::pair<const char*, Probe> probes[] = {{"involuntary", involuntary_switches}, {"psi_us", pressure_us}, {"steal_ms", steal_ms}};
  const int64_t last = burst.streams ? 0 : std::min<int64_t>(burst.warmups, 1);
  if (!burst.streams) item.warm_up(burst.warmups - last);
  std::vector<Count> before;
  for (const auto& [name, probe] : probes) before.push_back(probe());
  const int64_t at = now_ns(), cpu = cpu_ns();
  item.warm_up(last);
  Together found;
  if (burst.streams) found = timed_streams(item, burst);
  else found.ns = burst.cold ? item.timed_cold(burst.runs) : item.timed(burst.runs);
  const int64_t wall_ns = now_ns() - at, used_ns = cpu_ns() - cpu;
  json::Object report = {{"ns", json::Array(found.ns.begin(), found.ns.end())}, {"at_ns", at}, {"wall_ns", wall_ns}};
  report.emplace_back("cpu_ns", item.on_accelerator() ? json::Value() : json::Value(used_ns));
  if (burst.streams) report.emplace_back("busy_ns", found.busy_ns);
  for (size_t i = 0; i < std::size(probes); ++i) {
    const Count end = probes[i].second();
    report.emplace_back(probes[i].first, before[i] && end ? json::Value(*end - *before[i]) : json::Value());
  }
  return report;
}

// The best of a burst of the anchor: tells the speed the machine has now.
inline int64_t anchor_ns(Item& item, const Burst& burst) {
  item.warm_up(burst.warmups);
  const auto ns = item.timed(burst.runs);
  return *std::min_element(ns.begin(), ns.end());
}
