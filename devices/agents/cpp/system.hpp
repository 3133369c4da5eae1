// What the agent asks of its system, Linux or Android: clocks, disturbances, limits, the lease, and what this machine is.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#ifdef __ANDROID__
#include <sys/system_properties.h>
#endif

#include "json.hpp"

using Count = std::optional<int64_t>;  // none where the system does not tell

inline std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t\r\n"), last = text.find_last_not_of(" \t\r\n");
  return first == text.npos ? "" : text.substr(first, last - first + 1);
}

inline std::string first_line(const std::string& path) {
  std::string line;
  std::ifstream file(path);
  std::getline(file, line);
  while (!line.empty() && line.back() == '\0') line.pop_back();  // device tree
  return line;
}

inline Count whole_number(const std::string& text) {
  const size_t sign = !text.empty() && text[0] == '-' ? 1 : 0;
  const size_t digits = text.size() - sign;
  if (digits == 0 || digits > 18 || text.find_first_not_of("0123456789", sign) != text.npos) return {};
  return std::strtoll(text.c_str(), nullptr, 10);
}

inline Count number_in(const std::string& path) { return whole_number(trimmed(first_line(path))); }

inline std::vector<std::string> words(const std::string& text) {
  std::vector<std::string> found;
  for (size_t at = 0; (at = text.find_first_not_of(" \t", at)) != text.npos;) {
    const size_t end = std::min(text.find_first_of(" \t", at), text.size());
    found.push_back(text.substr(at, end - at));
    at = end;
  }
  return found;
}

// ---- clocks and disturbances

inline int64_t clock_ns(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return int64_t{now.tv_sec} * 1000000000 + now.tv_nsec;
}

inline int64_t now_ns() { return clock_ns(CLOCK_MONOTONIC); }
inline int64_t cpu_ns() { return clock_ns(CLOCK_PROCESS_CPUTIME_ID); }

inline Count involuntary_switches() {
  rusage usage;
  if (getrusage(RUSAGE_SELF, &usage) != 0) return {};
  return usage.ru_nivcsw;
}

// Microseconds in which some task of this system waited for a CPU (pressure stall information).
inline Count pressure_us() {
  const std::string line = first_line("/proc/pressure/cpu");
  const size_t at = line.rfind("total=");
  return at == line.npos ? Count() : whole_number(trimmed(line.substr(at + 6)));
}

// Milliseconds in which the hypervisor ran something else.
inline Count steal_ms() {
  const auto fields = words(first_line("/proc/stat"));
  const Count ticks = fields.size() > 8 ? whole_number(fields[8]) : Count();
  return ticks ? Count(*ticks * 1000 / sysconf(_SC_CLK_TCK)) : Count();
}

// Milliseconds in which the cores of this machine computed, summed over them.
inline Count busy_ms() {
  const auto fields = words(first_line("/proc/stat"));
  if (fields.size() <= 7) return {};
  int64_t ticks = 0;
  for (const size_t i : {1, 2, 3, 6, 7}) {
    const Count more = whole_number(fields[i]);
    if (!more) return {};
    ticks += *more;
  }
  return ticks * 1000 / sysconf(_SC_CLK_TCK);
}

// How much other programs use of the cores that the measured threads leave free, from now on.
class Crowding {
 public:
  static constexpr int64_t LEAST_NS = 200000000;  // the system counts in steps of 10 ms
  static constexpr double LEAST_SPARE_CORES = 0.2;

  explicit Crowding(int64_t threads) : spare_(std::max(static_cast<double>(sysconf(_SC_NPROCESSORS_ONLN) - threads), LEAST_SPARE_CORES)) {}

  Count pct() const {
    const auto wall = static_cast<double>(now_ns() - wall_), own = static_cast<double>(cpu_ns() - own_);
    const Count busy = busy_ms();
    if (wall < LEAST_NS || !busy || !busy_) return {};
    return std::max<int64_t>(0, std::llround(100 * (1e6 * static_cast<double>(*busy - *busy_) - own) / wall / spare_));
  }

 private:
  double spare_;
  int64_t wall_ = now_ns(), own_ = cpu_ns();
  Count busy_ = busy_ms();
};

inline int64_t clock_step_ns() {
  int64_t step = 0, before = now_ns();
  for (int i = 0; i < 10000; ++i) {
    const int64_t after = now_ns();
    if (after > before && (step == 0 || after - before < step)) step = after - before;
    before = after;
  }
  return step;
}

// ---- limits

inline Count memory_available_bytes() {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);)
    if (line.compare(0, 13, "MemAvailable:") == 0) {
      const auto fields = words(line);
      const Count kilobytes = fields.size() > 1 ? whole_number(fields[1]) : Count();
      return kilobytes ? Count(*kilobytes << 10) : Count();
    }
  return {};
}

// What this machine has no memory for shall be an error of that model, before the system ends other programs for its sake.
inline void limit_memory() {
  const Count available = memory_available_bytes();
  rlimit limit;
  if (!available || *available == 0 || getrlimit(RLIMIT_DATA, &limit) != 0) return;
  const auto sizes = words(first_line("/proc/self/statm"));
  const int64_t held = sizes.size() > 5 ? whole_number(sizes[5]).value_or(0) * sysconf(_SC_PAGESIZE) : 0;
  const auto most = static_cast<rlim_t>(*available / 10 * 9 + held);
  limit.rlim_max = limit.rlim_cur = limit.rlim_max == RLIM_INFINITY ? most : std::min(most, limit.rlim_max);
  setrlimit(RLIMIT_DATA, &limit);
}

// What a program writes beyond so many bytes of a file is cut off: no model shall fill the disk by way of its profile.
inline void limit_files(rlim_t bytes) {
  rlimit limit;
  if (getrlimit(RLIMIT_FSIZE, &limit) != 0) return;
  signal(SIGXFSZ, SIG_IGN);
  limit.rlim_cur = limit.rlim_cur == RLIM_INFINITY ? bytes : std::min(bytes, limit.rlim_cur);
  setrlimit(RLIMIT_FSIZE, &limit);
}

// ---- the lease

struct Held : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Names of abstract sockets, without files: no folder must be writable, all users meet there, and the kernel frees them however the
// program ends. The first name is free to one program of this machine only, the second says which one that is.
class Lease {
 public:
  static constexpr int PATIENCE_S = 5;  // an agent whose host was killed ends after what it is running

  // Raises Held; where the system has no such names nothing is held.
  void take(const std::string& holder) {
    const char* chosen = std::getenv("HWNAS_LEASE");
    const std::string name = std::string(chosen ? chosen : "hwnas-lease").substr(0, 40);
    if (name.empty() || is_taken_) return;
    const int64_t give_up = now_ns() + int64_t{PATIENCE_S} * 1000000000;
    while (!bind_name(name)) {
      if (errno != EADDRINUSE) return;
      if (now_ns() > give_up) throw Held(who_holds(name));
      usleep(100000);
    }
    is_taken_ = true;
    char since[40] = "";
    const time_t now = time(nullptr);
    tm utc;
    if (gmtime_r(&now, &utc)) strftime(since, sizeof since, ", since %Y-%m-%d %H:%M:%S UTC", &utc);
    std::string about = name + " " + holder + since;
    for (char& c : about) c = static_cast<unsigned char>(c) < 0x80 ? c : '?';
    bind_name(about.substr(0, 106));  // for people; the lease holds without it
  }

 private:
  bool is_taken_ = false;

  // The socket stays open until the program ends.
  static bool bind_name(const std::string& name) {
    const int made = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (made < 0) return false;
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path + 1, name.data(), name.size());
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
    if (bind(made, reinterpret_cast<sockaddr*>(&address), length) == 0) return true;
    const int reason = errno;
    close(made);
    errno = reason;
    return false;
  }

  static std::string who_holds(const std::string& name) {
    std::ifstream sockets("/proc/net/unix");
    const std::string start = " @" + name + " ";
    for (std::string line; std::getline(sockets, line);) {
      const size_t at = line.find(start);
      if (at != line.npos && at + start.size() < line.size()) return line.substr(at + start.size());
    }
    return "another program";
  }
};

// ---- what this machine is

inline std::vector<int> usable_cores() {
  cpu_set_t set;
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof set, &set) == 0)
    for (int core = 0; core < CPU_SETSIZE; ++core)
      if (CPU_ISSET(core, &set)) cores.push_back(core);
  return cores;
}

// `0-3,6`, as Linux writes lists of cores.
inline std::string list_of(const std::vector<int>& cores) {
  std::string text;
  for (size_t i = 0; i < cores.size();) {
    size_t last = i;
    while (last + 1 < cores.size() && cores[last + 1] == cores[last] + 1) ++last;
    text += (text.empty() ? "" : ",") + std::to_string(cores[i]) + (last > i ? "-" + std::to_string(cores[last]) : "");
    i = last + 1;
  }
  return text;
}

inline std::string core_folder(int core) { return "/sys/devices/system/cpu/cpu" + std::to_string(core) + "/"; }

// `0-3 to 1800 MHz, 4-7 to 2400 MHz`: which cores are alike, by the clock rate they can reach; empty where the system does not tell.
inline std::string clusters() {
  std::map<int64_t, std::vector<int>> by_rate;
  for (int core = 0; core < sysconf(_SC_NPROCESSORS_CONF) && core < CPU_SETSIZE; ++core)
    if (const Count khz = number_in(core_folder(core) + "cpufreq/cpuinfo_max_freq")) by_rate[*khz].push_back(core);
  std::string text;
  for (const auto& [khz, cores] : by_rate) text += (text.empty() ? "" : ", ") + list_of(cores) + " to " + std::to_string(khz / 1000) + " MHz";
  return text;
}

// The governors of the cores that this program may use.
inline std::string governors() {
  std::set<std::string> found;
  for (const int core : usable_cores()) {
    const std::string governor = trimmed(first_line(core_folder(core) + "cpufreq/scaling_governor"));
    if (!governor.empty()) found.insert(governor);
  }
  std::string text;
  for (const auto& each : found) text += (text.empty() ? "" : ", ") + each;
  return text.empty() ? "unknown" : text;
}

inline std::string property(const char* name) {
#ifdef __ANDROID__
  char value[PROP_VALUE_MAX] = "";
  __system_property_get(name, value);
  return value;
#else
  (void)name;
  return "";
#endif
}

// Of /proc/cpuinfo: the values of a key, each once, in order.
inline std::vector<std::string> cpuinfo(const std::string& key) {
  std::ifstream file("/proc/cpuinfo");
  std::vector<std::string> values;
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (colon == line.npos || trimmed(line.substr(0, colon)) != key) continue;
    const std::string value = trimmed(line.substr(colon + 1));
    if (!value.empty() && std::find(values.begin(), values.end(), value) == values.end()) values.push_back(value);
  }
  return values;
}

// The cores of an ARM processor as it says they are: `implementer 0x41, parts 0xd05 0xd0d`; empty on others.
inline std::string arm_cores() {
  std::string text;
  for (const auto& each : cpuinfo("CPU implementer")) text += (text.empty() ? "implementer " : " ") + each;
  const auto parts = cpuinfo("CPU part");
  for (size_t i = 0; i < parts.size(); ++i) text += (i == 0 ? ", parts " : " ") + parts[i];
  return text;
}

inline std::string processor(const std::string& architecture) {
  for (const auto& each : cpuinfo("model name")) return each;
  std::string name = trimmed(property("ro.soc.manufacturer") + " " + property("ro.soc.model"));
  for (const char* key : {"Hardware", "Model"})
    for (const auto& each : cpuinfo(key)) name = name.empty() ? each : name;
  if (name.empty()) name = trimmed(first_line("/proc/device-tree/model"));
  const std::string cores = arm_cores();
  if (name.empty()) name = architecture;
  return cores.empty() ? name : name + " (" + cores + ")";
}

// What translates this program's instructions, empty where the processor runs them: their times say nothing about any device.
//
// An emulator of user programs (qemu-user and its kin) is the program that the system really runs, built for another processor than
// this one. They show a program itself as /proc/self/exe, but not by way of its tasks.
inline std::string emulator() {
#if defined(__x86_64__)
  constexpr int machine = 62;
#elif defined(__i386__)
  constexpr int machine = 3;
#elif defined(__aarch64__)
  constexpr int machine = 183;
#elif defined(__arm__)
  constexpr int machine = 40;
#elif defined(__riscv)
  constexpr int machine = 243;
#else
  constexpr int machine = 0;
#endif
  if (const char* said = std::getenv("HWNAS_EMULATED"); said && *said) return std::string(said).substr(0, 60);
  const std::string path = "/proc/self/task/" + std::to_string(syscall(SYS_gettid)) + "/exe";
  unsigned char header[20] = {};
  std::ifstream file(path, std::ios::binary);
  if (file.read(reinterpret_cast<char*>(header), sizeof header) && machine && (header[18] | header[19] << 8) != machine) {
    char target[256];
    const ssize_t length = readlink(path.c_str(), target, sizeof target);
    const std::string program(target, length > 0 ? static_cast<size_t>(length) : 0);
    return program.empty() ? "emulator" : program.substr(program.rfind('/') + 1, 60);
  }
  if (property("ro.kernel.qemu") == "1" || property("ro.boot.qemu") == "1" || property("ro.hardware") == "ranchu") return "Android emulator";
  for (const auto& each : cpuinfo("model name"))
    if (each.find("QEMU TCG CPU") != each.npos) return each;
  return "";
}

inline json::Object describe_system() {
  utsname name = {};
  uname(&name);
  json::Object system = {
      {"processor", processor(name.machine)},
      {"cores", int64_t{sysconf(_SC_NPROCESSORS_ONLN)}},
      {"affinity", list_of(usable_cores())},
      {"governor", governors()},
      {"os", std::string(name.sysname) + " " + name.release},
      {"arch", name.machine},
      {"compiler", __VERSION__},
  };
  const auto add = [&](const char* key, const std::string& text) {
    if (!text.empty()) system.emplace_back(key, text);
  };
  add("clusters", clusters());
  add("model", trimmed(property("ro.product.manufacturer") + " " + property("ro.product.model")));
  add("android", property("ro.build.version.release"));
  add("emulated", emulator());
  return system;
}

inline std::vector<std::string> entries(const std::string& folder, const std::string& prefix) {
  std::vector<std::string> names;
  if (DIR* open = opendir(folder.c_str())) {
    while (const dirent* entry = readdir(open))
      if (std::string(entry->d_name).compare(0, prefix.size(), prefix) == 0 && entry->d_name[0] != '.') names.emplace_back(entry->d_name);
    closedir(open);
  }
  std::sort(names.begin(), names.end());
  return names;
}

// What may change from minute to minute, as whole numbers; what the system does not tell is left out.
inline json::Object describe_state() {
  json::Object state;
  const auto add = [&](const std::string& key, const Count& value) {
    if (value) state.emplace_back(key, *value);
  };
  const auto cores = usable_cores();
  add("clock_step_ns", clock_step_ns());
  add("memory_available_bytes", memory_available_bytes());
  add("usable_cores", static_cast<int64_t>(cores.size()));
  double load = 0;
#if !defined(__ANDROID__) || __ANDROID_API__ >= 29
  if (getloadavg(&load, 1) == 1) add("load_1min_pct", static_cast<int64_t>(100 * load + 0.5));  // of one core
#else
  (void)load;
#endif
  const std::string cpu = core_folder(cores.empty() ? 0 : cores.front());
  add("frequency_cur_khz", number_in(cpu + "cpufreq/scaling_cur_freq"));
  add("frequency_limit_khz", number_in(cpu + "cpufreq/scaling_max_freq"));
  add("frequency_max_khz", number_in(cpu + "cpufreq/cpuinfo_max_freq"));
  add("throttled", number_in(cpu + "thermal_throttle/core_throttle_count"));
  const std::string thermal = "/sys/class/thermal/", power = "/sys/class/power_supply/";
  auto zones = entries(thermal, "thermal_zone");
  if (zones.size() > 32) zones.resize(32);
  for (const auto& zone : zones) {
    const std::string type = trimmed(first_line(thermal + zone + "/type")).substr(0, 32);
    add("temperature_" + zone.substr(12) + "_" + (type.empty() ? "unnamed" : type) + "_millicelsius", number_in(thermal + zone + "/temp"));
  }
  std::optional<bool> on_mains;
  for (const auto& supply : entries(power, ""))
    if (trimmed(first_line(power + supply + "/type")) == "Mains") on_mains = on_mains.value_or(false) || number_in(power + supply + "/online").value_or(0) != 0;
  if (on_mains) state.emplace_back("on_mains", *on_mains);
  return state;
}
