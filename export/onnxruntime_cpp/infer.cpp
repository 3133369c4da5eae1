// Runs a network exported by hwnas with ONNX Runtime's C API: checks it against its manifest, classifies images, times it.
//
//     infer [--folder FOLDER] [--top 5] [--runs 100] [--within-bound] [image.ppm ...]
//
// Images are PPM, PGM or uncompressed BMP: an application has a decoder of its own. Exits 1 if the network does not compute what it should, 2
// if a file is refused. To build the network into a program of your own, copy `Network` and `fed`.

#include <onnxruntime_c_api.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <numeric>

#include "json.hpp"

namespace {

namespace fs = std::filesystem;

constexpr uint32_t OLDEST_API = 16;  // all that is called here is in ONNX Runtime 1.16 and whatever comes after
constexpr uintmax_t MAX_MANIFEST_BYTES = 16 << 20, MAX_FILE_BYTES = uintmax_t{2} << 30;
constexpr int64_t MAX_INPUT_ELEMENTS = 1 << 28, MAX_PIXELS = 50'000'000;
constexpr double MIN_STD = 1e-12, LEAST_LOG = -60.0;
constexpr std::string_view EXTERNAL_DATA = "\x0a\x08location";  // the key that only tensors with their values in another file carry

struct Refused : std::runtime_error {  // one sentence; exit code 2
  using std::runtime_error::runtime_error;
};
struct Mismatch : std::runtime_error {  // one sentence; exit code 1
  using std::runtime_error::runtime_error;
};

std::string text_of(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*g", digits, value);
  return text;
}

// What may be shown of a text from anybody: one line of it.
std::string printable(std::string_view text, size_t most = 80) {
  std::string out;
  for (const char c : text) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? '?' : c;
  if (out.size() > most) out.resize(most);
  return out;
}

// ---- files

std::string read_file(const fs::path& path, uintmax_t limit) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) throw Refused(path.string() + " is missing; export the network again");
  if (fs::file_size(path, error) > limit || error) throw Refused(path.string() + " is too large to be read");
  std::ifstream file(path, std::ios::binary);
  std::string data((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file.is_open() || file.bad() || data.size() > limit) throw Refused("cannot read " + path.string());
  return data;
}

// FIPS 180-4.
std::string sha256(const std::string& data) {
  static constexpr std::array<uint32_t, 64> k = {
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
      0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
      0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
      0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
      0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
      0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
  std::array<uint32_t, 8> h = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  const auto rotated = [](uint32_t x, int by) { return x >> by | x << (32 - by); };
  const auto block = [&](const unsigned char* p) {
    std::array<uint32_t, 64> w;
    for (size_t i = 0; i < 16; ++i) w[i] = uint32_t{p[4 * i]} << 24 | uint32_t{p[4 * i + 1]} << 16 | uint32_t{p[4 * i + 2]} << 8 | p[4 * i + 3];
    for (size_t i = 16; i < 64; ++i) {
      const uint32_t a = rotated(w[i - 15], 7) ^ rotated(w[i - 15], 18) ^ w[i - 15] >> 3, b = rotated(w[i - 2], 17) ^ rotated(w[i - 2], 19) ^ w[i - 2] >> 10;
      w[i] = w[i - 16] + a + w[i - 7] + b;
    }
    std::array<uint32_t, 8> s = h;
    for (size_t i = 0; i < 64; ++i) {
      const uint32_t a = s[7] + (rotated(s[4], 6) ^ rotated(s[4], 11) ^ rotated(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
      const uint32_t b = (rotated(s[0], 2) ^ rotated(s[0], 13) ^ rotated(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
      s = {a + b, s[0], s[1], s[2], s[3] + a, s[4], s[5], s[6]};
    }
    for (size_t i = 0; i < 8; ++i) h[i] += s[i];
  };
  const auto* bytes = reinterpret_cast<const unsigned char*>(data.data());
  const size_t whole = data.size() / 64 * 64, rest = data.size() - whole;
  for (size_t at = 0; at < whole; at += 64) block(bytes + at);
  std::array<unsigned char, 128> end = {};
  if (rest) std::memcpy(end.data(), bytes + whole, rest);
  end[rest] = 0x80;
  const size_t size = rest < 56 ? 64 : 128;
  const uint64_t bits = uint64_t{data.size()} * 8;
  for (size_t i = 0; i < 8; ++i) end[size - 1 - i] = static_cast<unsigned char>(bits >> (8 * i));
  for (size_t at = 0; at < size; at += 64) block(end.data() + at);
  std::string hex;
  char digits[9];
  for (const uint32_t each : h) {
    std::snprintf(digits, sizeof digits, "%08x", each);
    hex += digits;
  }
  return hex;
}

// The path of a file that the manifest names. Raises Refused where it is outside the folder, also through a link.
fs::path inside(const fs::path& folder, const std::string& name) {
  const fs::path relative(name);
  const bool plain = !name.empty() && name.find_first_of("\\:") == name.npos && relative.is_relative() && name.front() != '/' &&
                     std::none_of(relative.begin(), relative.end(), [](const fs::path& part) { return part == ".."; });
  std::error_code error;
  const fs::path root = fs::canonical(folder, error), path = error || !plain ? fs::path() : fs::weakly_canonical(root / relative, error);
  if (!plain || error || std::mismatch(root.begin(), root.end(), path.begin(), path.end()).first != root.end())
    throw Refused("the manifest names '" + printable(name) + "', which is not inside " + folder.string());
  return path;
}

// ---- the manifest

struct Manifest {
  std::string model, example, input, output, kind;  // kind: tensor, pixels or image
  bool probabilities = false, free_batch = false;
  int64_t batch = 1, channels = 0, height = 0, width = 0;
  std::vector<double> mean, std;
  double low = 0, high = 1, crop = 0, tolerance = 0;  // crop 0: the whole image
  std::vector<std::string> labels;
  std::vector<double> logits;  // (batch, classes)
  std::string latency;         // what is said of the certified one, or of one that was measured alone, or nothing
  std::string claim = "certified";
  double bound_ms = 0;
};

struct Unfit {};  // a field is missing, or of another type

const json::Value& at(const json::Value& value, const char* key) {
  const auto* found = value.find(key);
  if (!found) throw Unfit();
  return *found;
}

template <typename T>
const T& as(const json::Value& value) {
  const auto* found = value.as<T>();
  if (!found) throw Unfit();
  return *found;
}

double number(const json::Value& value) {
  if (const auto* whole = value.as<int64_t>()) return static_cast<double>(*whole);
  const double found = as<double>(value);
  if (!std::isfinite(found)) throw Unfit();
  return found;
}

std::vector<double> numbers(const json::Value& value) {
  std::vector<double> found;
  for (const auto& each : as<json::Array>(value)) found.push_back(number(each));
  return found;
}

bool is(const json::Value& value, const char* name) {
  const auto* text = value.as<std::string>();
  return text && *text == name;
}

bool is(const json::Value& value, int64_t size) {
  const auto* whole = value.as<int64_t>();
  return whole && *whole == size;
}

Manifest fields_of(const json::Value& all) {
  Manifest found;
  const auto &input = at(all, "input"), &output = at(all, "output"), &how = at(all, "preprocessing"), &example = at(all, "example");
  found.model = as<std::string>(at(all, "model"));
  found.example = as<std::string>(at(example, "input"));
  found.input = as<std::string>(at(input, "name"));
  found.output = as<std::string>(at(output, "name"));
  found.kind = as<std::string>(at(input, "kind"));
  found.probabilities = is(at(output, "kind"), "probabilities");
  const auto& sides = as<json::Array>(at(how, "resolution"));
  if (sides.size() != 2 || (!found.probabilities && !is(at(output, "kind"), "logits"))) throw Unfit();
  found.height = as<int64_t>(sides[0]);
  found.width = as<int64_t>(sides[1]);
  found.channels = as<int64_t>(at(how, "channels"));
  const auto& shape = as<json::Array>(at(input, "shape"));
  if (shape.size() != 4) throw Unfit();
  found.free_batch = is(shape[0], "batch");
  if (!found.free_batch) found.batch = as<int64_t>(shape[0]);
  const bool image = found.kind == "image", tensor = found.kind == "tensor";
  const auto side = [&](const json::Value& value, int64_t size, const char* name) { return image ? is(value, name) : is(value, size); };
  const bool shaped = tensor ? is(shape[1], found.channels) && is(shape[2], found.height) && is(shape[3], found.width)
                             : side(shape[1], found.height, "height") && side(shape[2], found.width, "width") && is(shape[3], found.channels);
  found.mean = numbers(at(how, "mean"));
  found.std = numbers(at(how, "std"));
  const auto range = numbers(at(how, "range"));
  const auto* crop = how.find("crop");
  if (crop && !crop->as<std::nullptr_t>()) {
    found.crop = number(*crop);
    if (!(found.crop > 0 && found.crop <= 1)) throw Unfit();
  }
  for (const auto& each : as<json::Array>(at(all, "labels"))) found.labels.push_back(as<std::string>(each));
  const auto& rows = as<json::Array>(at(example, "logits"));
  for (const auto& row : rows) {
    const auto values = numbers(row);
    if (values.size() != found.labels.size()) throw Unfit();
    found.logits.insert(found.logits.end(), values.begin(), values.end());
  }
  if (found.free_batch) found.batch = static_cast<int64_t>(rows.size());
  found.tolerance = number(at(example, "tolerance_std"));
  const auto positive = [](double value) { return value > MIN_STD; };
  const double elements = static_cast<double>(found.batch) * static_cast<double>(found.channels) * static_cast<double>(found.height) * static_cast<double>(found.width);
  const auto& leaving = as<json::Array>(at(output, "shape"));
  const bool fits = shaped && (tensor || image || found.kind == "pixels") && is(at(input, "dtype"), tensor ? "float32" : "uint8") && found.batch >= 1 &&
                    found.channels >= 1 && found.height >= 1 && found.width >= 1 && elements <= static_cast<double>(MAX_INPUT_ELEMENTS) &&
                    static_cast<int64_t>(rows.size()) == found.batch && !found.labels.empty() && !leaving.empty() &&
                    is(leaving.back(), static_cast<int64_t>(found.labels.size())) && static_cast<int64_t>(found.mean.size()) == found.channels &&
                    static_cast<int64_t>(found.std.size()) == found.channels && std::all_of(found.std.begin(), found.std.end(), positive) && range.size() == 2 &&
                    range[0] < range[1] && found.tolerance > 0 && found.tolerance < 1;
  if (!fits) throw Unfit();
  found.low = range[0];
  found.high = range[1];
  const auto* latency = all.find("latency");
  if (latency && latency->as<json::Object>()) {
    found.bound_ms = number(at(*latency, "upper_bound_ms"));
    const auto *covers = latency->find("covers"), *claim = latency->find("claim");
    if (claim && as<std::string>(*claim) == "measured") found.claim = "measured";
    const std::string of = covers ? " for " + printable(as<std::string>(*covers), 120) + "," : "";
    found.latency = text_of(number(at(*latency, "measured_ms")), 3) + " ms " + found.claim + of + " (" + printable(as<std::string>(at(*latency, "statistic")), 8) +
                    ", at most " + text_of(found.bound_ms, 3) + " ms) on " + printable(as<std::string>(at(*latency, "conditions")), 200);
  }
  return found;
}

// The manifest, after its fields and the hash of every file it names were checked.
Manifest read_manifest(const fs::path& folder) {
  const fs::path path = folder / "manifest.json";
  json::Value all;
  try {
    all = json::parse(read_file(path, MAX_MANIFEST_BYTES));
  } catch (const json::Error&) {
    throw Refused(path.string() + " is not readable JSON");
  }
  const auto* format = all.find("format");
  if (!format || !is(*format, "hwnas.manifest/1")) throw Refused(path.string() + " is no manifest of this version (format 'hwnas.manifest/1')");
  Manifest manifest;
  try {
    manifest = fields_of(all);
    const auto& files = at(all, "files");
    as<std::string>(at(files, manifest.model.c_str()));
    as<std::string>(at(files, manifest.example.c_str()));
    for (const auto& [name, digest] : as<json::Object>(files))
      if (sha256(read_file(inside(folder, name), MAX_FILE_BYTES)) != as<std::string>(digest))
        throw Refused((folder / name).string() + " is cut short or was changed: its SHA-256 is not the manifest's; copy or export it again");
  } catch (const Unfit&) {
    throw Refused(path.string() + " lacks fields, or its shapes, preprocessing, labels and example do not fit each other");
  }
  return manifest;
}

// ---- the network

const OrtApi* ort = nullptr;

void check(OrtStatus* status, const std::string& what) {
  if (!status) return;
  std::string message = ort->GetErrorMessage(status);
  ort->ReleaseStatus(status);
  throw Refused("ONNX Runtime " + what + ": " + message.substr(0, message.find('\n')));
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
using Tensor = std::unique_ptr<OrtValue, Releaser<&OrtApi::ReleaseValue>>;
using MemoryInfo = std::unique_ptr<OrtMemoryInfo, Releaser<&OrtApi::ReleaseMemoryInfo>>;
using TensorInfo = std::unique_ptr<OrtTensorTypeAndShapeInfo, Releaser<&OrtApi::ReleaseTensorTypeAndShapeInfo>>;

// What the network is fed: float32 or uint8, as its bytes, and its shape.
struct Input {
  std::vector<int64_t> shape;
  std::vector<unsigned char> bytes;
};

// The model in a session on one CPU thread, as its latency was measured.
class Network {
 public:
  Network(const fs::path& folder, const Manifest& manifest) : manifest_(manifest), model_(read_file(inside(folder, manifest.model), MAX_FILE_BYTES)) {
    if (model_.find(EXTERNAL_DATA) != model_.npos) throw Refused(manifest.model + " keeps weights in another file, which is not read; export the network again");
    const std::string loading = "cannot load " + (folder / manifest.model).string();
#ifdef _WIN32
    _putenv_s("ORT_DISABLE_TELEMETRY", "1");
#else
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // nothing is sent from where the network is deployed
#endif
    OrtEnv* env = nullptr;
    check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "hwnas", &env), loading);
    env_.reset(env);
    OrtSessionOptions* options = nullptr;
    check(ort->CreateSessionOptions(&options), loading);
    const SessionOptions owned(options);
    check(ort->SetIntraOpNumThreads(options, 1), loading);
    check(ort->SetInterOpNumThreads(options, 1), loading);
    OrtSession* session = nullptr;
    check(ort->CreateSessionFromArray(env, model_.data(), model_.size(), options, &session), loading);
    session_.reset(session);
    size_t inputs = 0, outputs = 0;
    check(ort->SessionGetInputCount(session, &inputs), loading);
    check(ort->SessionGetOutputCount(session, &outputs), loading);
    if (inputs != 1 || outputs != 1 || name(ort->SessionGetInputName) != manifest.input || name(ort->SessionGetOutputName) != manifest.output)
      throw Refused(manifest.model + " has other inputs or outputs than the manifest says");
    OrtMemoryInfo* memory = nullptr;
    check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory), loading);
    memory_.reset(memory);
  }

  // (rows, classes) of the output, one row after the other.
  std::vector<float> run(Input& input) const {
    OrtValue* fed = nullptr;
    const auto type = manifest_.kind == "tensor" ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    check(ort->CreateTensorWithDataAsOrtValue(memory_.get(), input.bytes.data(), input.bytes.size(), input.shape.data(), input.shape.size(), type, &fed), "refuses the input");
    const Tensor owned(fed);
    const char *in = manifest_.input.c_str(), *out = manifest_.output.c_str();
    OrtValue* given = nullptr;
    check(ort->Run(session_.get(), nullptr, &in, &fed, 1, &out, 1, &given), "cannot run " + manifest_.model);
    const Tensor output(given);
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(ort->GetTensorTypeAndShape(given, &info), "has no output");
    const TensorInfo shape(info);
    ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    size_t count = 0;
    check(ort->GetTensorElementType(info, &element), "has no output");
    check(ort->GetTensorShapeElementCount(info, &count), "has no output");
    if (element != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || count != static_cast<size_t>(input.shape[0]) * manifest_.labels.size())
      throw Mismatch("the network returns " + std::to_string(count) + " numbers, the manifest says " + std::to_string(input.shape[0] * static_cast<int64_t>(manifest_.labels.size())));
    void* data = nullptr;
    check(ort->GetTensorMutableData(given, &data), "has no output");
    const auto* values = static_cast<const float*>(data);
    return std::vector<float>(values, values + count);
  }

 private:
  const Manifest& manifest_;
  std::string model_;
  Env env_;
  Session session_;
  MemoryInfo memory_;

  std::string name(decltype(OrtApi::SessionGetInputName) name_of) const {
    OrtAllocator* allocator = nullptr;
    check(ort->GetAllocatorWithDefaultOptions(&allocator), "has no allocator");
    char* found = nullptr;
    check(name_of(session_.get(), 0, allocator, &found), "tells no name");
    const std::string copy = found;
    check(ort->AllocatorFree(allocator, found), "has no allocator");
    return copy;
  }
};

// ---- the stored example

// A .npy file of float32 or uint8 in C order.
Input read_npy(const fs::path& path, const Manifest& manifest) {
  const std::string data = read_file(path, MAX_FILE_BYTES), wrong = path.string() + " is no .npy array of what the manifest says";
  const auto byte = [&](size_t i) { return static_cast<size_t>(static_cast<unsigned char>(data[i])); };
  if (data.size() < 12 || data.compare(0, 6, "\x93NUMPY", 6) != 0 || byte(6) < 1 || byte(6) > 3) throw Refused(wrong);
  const size_t start = byte(6) == 1 ? 10 : 12, length = byte(8) | byte(9) << 8 | (start == 12 ? byte(10) << 16 | byte(11) << 24 : 0);
  if (length > data.size() - start) throw Refused(wrong);
  const std::string header = data.substr(start, length);
  const bool tensor = manifest.kind == "tensor";
  const size_t type = header.find(tensor ? "'descr': '<f4'" : "'descr': '|u1'"), order = header.find("'fortran_order': False"), shape = header.find("'shape': (");
  if (type == header.npos || order == header.npos || shape == header.npos) throw Refused(wrong);
  Input input;
  double elements = 1;
  for (size_t i = shape + 10; i < header.size() && header[i] != ')';) {
    size_t digits = 0;
    while (i + digits < header.size() && std::isdigit(static_cast<unsigned char>(header[i + digits]))) ++digits;
    if (digits > 9) throw Refused(wrong);
    if (digits == 0) {
      ++i;
      continue;
    }
    input.shape.push_back(std::stoll(header.substr(i, digits)));
    elements *= static_cast<double>(input.shape.back());
    i += digits;
  }
  const double bytes = elements * (tensor ? 4 : 1);
  const std::vector<int64_t> fixed = tensor ? std::vector<int64_t>{manifest.batch, manifest.channels, manifest.height, manifest.width}
                                            : std::vector<int64_t>{manifest.batch, manifest.height, manifest.width, manifest.channels};
  const bool any = manifest.kind == "image" && input.shape.size() == 4 && input.shape[0] == manifest.batch && input.shape[3] == manifest.channels;
  if ((!any && input.shape != fixed) || !(bytes > 0) || bytes != static_cast<double>(data.size() - start - length) || elements > static_cast<double>(MAX_INPUT_ELEMENTS))
    throw Refused(wrong);
  input.bytes.assign(data.begin() + static_cast<std::ptrdiff_t>(start + length), data.end());
  return input;
}

double spread(const std::vector<double>& values) {
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  double sum = 0;
  for (const double each : values) sum += (each - mean) * (each - mean);
  return std::max(std::sqrt(sum / static_cast<double>(values.size())), MIN_STD);
}

// Logarithms of probabilities are logits but for a constant of each image.
void check_example(const Network& network, const Manifest& manifest, Input& example) {
  std::vector<double> expected = manifest.logits;
  const auto output = network.run(example);
  std::vector<double> got(output.begin(), output.end());
  const size_t classes = manifest.labels.size();
  if (manifest.probabilities) {
    for (size_t row = 0; row < expected.size(); row += classes) {
      const auto begin = expected.begin() + static_cast<std::ptrdiff_t>(row), end = begin + static_cast<std::ptrdiff_t>(classes);
      const double most = *std::max_element(begin, end);
      double sum = 0;
      std::for_each(begin, end, [&](double each) { sum += std::exp(each - most); });
      std::for_each(begin, end, [&](double& each) { each = std::max(each - most - std::log(sum), LEAST_LOG); });
    }
    for (double& each : got) each = std::max(std::log(std::max(each, 1e-300)), LEAST_LOG);
  }
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) worst = std::isnan(got[i]) ? INFINITY : std::max(worst, std::abs(got[i] - expected[i]));
  const double ratio = worst / spread(expected);
  if (!(ratio <= manifest.tolerance))
    throw Mismatch("the logits of the stored example are off by " + text_of(ratio, 2) + " of their standard deviation; do not use this build of the network");
  std::cout << "example  logits agree to " << text_of(ratio, 2) << " of their standard deviation\n";
}

// ---- images

struct Image {
  int64_t height, width, channels;
  std::vector<double> pixels;  // 0 to 255, (height, width, channels)
};

void check_size(const fs::path& path, int64_t width, int64_t height) {
  if (width < 1 || height < 1 || width > MAX_PIXELS || height > MAX_PIXELS || width * height > MAX_PIXELS)
    throw Refused(path.string() + " has " + std::to_string(width) + " x " + std::to_string(height) + " pixels; 1 to " + std::to_string(MAX_PIXELS) + " are read");
}

Image read_pnm(const fs::path& path, const std::string& data) {
  size_t at = 2;
  const auto next = [&]() -> int64_t {  // a number of the header; comments begin with #
    while (at < data.size() && (std::isspace(static_cast<unsigned char>(data[at])) || data[at] == '#')) {
      if (data[at] == '#') at = std::min(data.find('\n', at), data.size() - 1);
      ++at;
    }
    size_t digits = 0;
    while (at + digits < data.size() && std::isdigit(static_cast<unsigned char>(data[at + digits]))) ++digits;
    if (digits == 0 || digits > 9) throw Refused(path.string() + " is no readable image");
    const int64_t value = std::stoll(data.substr(at, digits));
    at += digits;
    return value;
  };
  const int64_t channels = data[1] == '6' ? 3 : 1, width = next(), height = next(), most = next();
  check_size(path, width, height);
  const auto size = static_cast<size_t>(width * height * channels);
  if (most != 255 || data.size() < at + 1 + size) throw Refused(path.string() + " is cut short, or no image of eight bits");
  Image image{height, width, channels, {}};
  for (size_t i = 0; i < size; ++i) image.pixels.push_back(static_cast<unsigned char>(data[at + 1 + i]));
  return image;
}

Image read_bmp(const fs::path& path, const std::string& data) {
  const auto word = [&](size_t at) { uint32_t value = 0; std::memcpy(&value, data.data() + at, 4); return value; };  // little endian, as the file
  if (data.size() < 54 || word(14) < 40) throw Refused(path.string() + " is no readable image");
  const int64_t offset = word(10), width = static_cast<int32_t>(word(18)), raw_height = static_cast<int32_t>(word(22)), height = std::abs(raw_height);
  const uint32_t bits = word(28) & 0xFFFF, compression = word(30);
  check_size(path, width, height);
  if ((bits != 24 && bits != 32) || (compression != 0 && compression != 3)) throw Refused(path.string() + " is a BMP of another kind; 24 and 32 bits without compression are read");
  const int64_t step = bits / 8, row = (width * step + 3) / 4 * 4;
  if (offset + row * height > static_cast<int64_t>(data.size())) throw Refused(path.string() + " is cut short");
  Image image{height, width, 3, std::vector<double>(static_cast<size_t>(width * height * 3))};
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      for (int64_t c = 0; c < 3; ++c) {  // bottom row first, blue first
        const int64_t from = offset + (raw_height > 0 ? height - 1 - y : y) * row + x * step + 2 - c;
        image.pixels[static_cast<size_t>((y * width + x) * 3 + c)] = static_cast<unsigned char>(data[static_cast<size_t>(from)]);
      }
  return image;
}

// With that many channels: grey is the luma of ITU-R 601.
Image read_image(const fs::path& path, int64_t channels) {
  const std::string data = read_file(path, MAX_FILE_BYTES);
  const bool pnm = data.size() > 2 && data[0] == 'P' && (data[1] == '5' || data[1] == '6');
  if (!pnm && data.compare(0, 2, "BM") != 0) throw Refused(path.string() + " is no readable image; PPM, PGM and BMP are read");
  Image image = pnm ? read_pnm(path, data) : read_bmp(path, data);
  if (channels != 1 && channels != 3) throw Refused("the network takes " + std::to_string(channels) + " channels, which an image file does not have");
  if (image.channels == channels) return image;
  Image converted{image.height, image.width, channels, {}};
  for (size_t i = 0; i < image.pixels.size(); i += static_cast<size_t>(image.channels)) {
    if (channels == 3)
      converted.pixels.insert(converted.pixels.end(), 3, image.pixels[i]);
    else
      converted.pixels.push_back(std::floor((image.pixels[i] * 19595 + image.pixels[i + 1] * 38470 + image.pixels[i + 2] * 7471 + 32768) / 65536));
  }
  return converted;
}

// Halves go to the even number, as in training.
int64_t rounded(double value) { return static_cast<int64_t>(std::nearbyint(value)); }

// The central square whose side is that share of the shorter side; 0: the whole image.
Image centre(const Image& image, double share) {
  if (share == 0) return image;
  const int64_t side = std::max<int64_t>(1, rounded(share * static_cast<double>(std::min(image.height, image.width))));
  const int64_t top = (image.height - side) / 2, left = (image.width - side) / 2;
  Image cut{side, side, image.channels, {}};
  for (int64_t y = 0; y < side; ++y) {
    const auto begin = image.pixels.begin() + static_cast<std::ptrdiff_t>(((top + y) * image.width + left) * image.channels);
    cut.pixels.insert(cut.pixels.end(), begin, begin + static_cast<std::ptrdiff_t>(side * image.channels));
  }
  return cut;
}

// Along one axis: which samples each new one is made of, and their weights. A triangle, wider where the image shrinks (antialiasing).
struct Window {
  int64_t first;
  std::vector<double> weights;
};

std::vector<Window> windows(int64_t size, int64_t target) {
  const double scale = static_cast<double>(size) / static_cast<double>(target), support = std::max(scale, 1.0);
  std::vector<Window> found;
  for (int64_t i = 0; i < target; ++i) {
    const double middle = (static_cast<double>(i) + 0.5) * scale;
    const int64_t first = std::max<int64_t>(0, static_cast<int64_t>(std::floor(middle - support))), end = std::min(size, static_cast<int64_t>(std::ceil(middle + support)) + 1);
    Window window{first, {}};
    double sum = 0;
    for (int64_t j = first; j < end; ++j) {
      window.weights.push_back(std::max(0.0, 1 - std::abs(static_cast<double>(j) + 0.5 - middle) / support));
      sum += window.weights.back();
    }
    for (double& each : window.weights) each /= sum;
    found.push_back(std::move(window));
  }
  return found;
}

Image resized(const Image& image, int64_t height, int64_t width) {
  const auto across = windows(image.width, width), down = windows(image.height, height);
  const auto place = [&](int64_t y, int64_t x, int64_t c, int64_t wide) { return static_cast<size_t>((y * wide + x) * image.channels + c); };
  Image narrow{image.height, width, image.channels, std::vector<double>(static_cast<size_t>(image.height * width * image.channels))};
  for (int64_t y = 0; y < image.height; ++y)
    for (int64_t x = 0; x < width; ++x)
      for (int64_t c = 0; c < image.channels; ++c) {
        const auto& window = across[static_cast<size_t>(x)];
        double sum = 0;
        for (size_t j = 0; j < window.weights.size(); ++j) sum += window.weights[j] * image.pixels[place(y, window.first + static_cast<int64_t>(j), c, image.width)];
        narrow.pixels[place(y, x, c, width)] = sum;
      }
  Image made{height, width, image.channels, std::vector<double>(static_cast<size_t>(height * width * image.channels))};
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      for (int64_t c = 0; c < image.channels; ++c) {
        const auto& window = down[static_cast<size_t>(y)];
        double sum = 0;
        for (size_t j = 0; j < window.weights.size(); ++j) sum += window.weights[j] * narrow.pixels[place(window.first + static_cast<int64_t>(j), x, c, width)];
        made.pixels[place(y, x, c, width)] = sum;
      }
  return made;
}

// What the network is fed of an image, as often as its batch wants.
Input fed(const Image& image, const Manifest& manifest) {
  const bool tensor = manifest.kind == "tensor", whole = manifest.kind == "image";
  const Image small = whole ? image : resized(centre(image, manifest.crop), manifest.height, manifest.width);
  const int64_t batch = manifest.free_batch ? 1 : manifest.batch;
  const auto count = static_cast<size_t>(small.height * small.width * small.channels);
  Input input;
  if (tensor) {
    input.shape = {batch, small.channels, small.height, small.width};
    std::vector<float> values(count);
    for (int64_t c = 0; c < small.channels; ++c)
      for (int64_t i = 0; i < small.height * small.width; ++i) {
        const double value = small.pixels[static_cast<size_t>(i * small.channels + c)] / 255 * (manifest.high - manifest.low) + manifest.low;
        values[static_cast<size_t>(c * small.height * small.width + i)] = static_cast<float>((value - manifest.mean[static_cast<size_t>(c)]) / manifest.std[static_cast<size_t>(c)]);
      }
    const auto* bytes = reinterpret_cast<const unsigned char*>(values.data());
    for (int64_t i = 0; i < batch; ++i) input.bytes.insert(input.bytes.end(), bytes, bytes + 4 * count);
  } else {
    input.shape = {batch, small.height, small.width, small.channels};
    for (int64_t i = 0; i < batch; ++i)
      for (const double each : small.pixels) input.bytes.push_back(static_cast<unsigned char>(std::clamp<int64_t>(rounded(each), 0, 255)));
  }
  return input;
}

void classify(const fs::path& path, const Network& network, const Manifest& manifest, size_t top) {
  Input input = fed(read_image(path, manifest.channels), manifest);
  const auto output = network.run(input);
  const size_t classes = manifest.labels.size();
  std::vector<double> share(output.begin(), output.begin() + static_cast<std::ptrdiff_t>(classes));
  if (!manifest.probabilities) {
    const double most = *std::max_element(share.begin(), share.end());
    double sum = 0;
    for (double& each : share) sum += each = std::exp(each - most);
    for (double& each : share) each /= sum;
  }
  std::vector<size_t> order(classes);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return share[a] > share[b]; });
  std::cout << path.filename().string() << " ";
  for (size_t i = 0; i < std::min(top, classes); ++i) {
    char per_cent[32];
    std::snprintf(per_cent, sizeof per_cent, "%.1f", 100 * share[order[i]]);
    std::cout << " " << printable(manifest.labels[order[i]]) << " " << per_cent << " %" << (i + 1 < std::min(top, classes) ? " " : "");
  }
  std::cout << "\n";
}

void report_latency(const Network& network, const Manifest& manifest, Input& example, int64_t runs, bool within_bound) {
  for (int i = 0; i < 10; ++i) network.run(example);
  std::vector<double> times;
  for (int64_t i = 0; i < runs; ++i) {
    const auto start = std::chrono::steady_clock::now();
    network.run(example);
    times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  const double here = times[times.size() / 2];
  std::cout << "latency  " << text_of(here, 3) << " ms here (p50 of " << runs << " runs, one at a time)\n";
  if (!manifest.latency.empty()) std::cout << "         " << manifest.latency << "\n";
  if (within_bound && manifest.bound_ms > 0 && here > manifest.bound_ms)
    throw Mismatch("the network takes " + text_of(here, 3) + " ms here, longer than the " + manifest.claim + " bound of " + text_of(manifest.bound_ms, 3) + " ms");
}

int64_t whole_number(const std::string& text) {
  if (text.empty() || text.size() > 9 || text.find_first_not_of("0123456789") != text.npos) throw Refused("'" + printable(text) + "' is no whole number");
  return std::stoll(text);
}

void work(const std::vector<std::string>& arguments, fs::path folder) {
  int64_t top = 5, runs = 100;
  bool within_bound = false;
  std::vector<fs::path> images;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& each = arguments[i];
    const auto value = [&]() -> const std::string& {
      if (i + 1 == arguments.size()) throw Refused(each + " needs a value");
      return arguments[++i];
    };
    if (each == "--folder") {
      folder = value();
    } else if (each == "--top") {
      top = whole_number(value());
    } else if (each == "--runs") {
      runs = whole_number(value());
    } else if (each == "--within-bound") {
      within_bound = true;
    } else if (each.rfind("--", 0) == 0) {
      throw Refused("there is no option " + printable(each) + "; there are --folder, --top, --runs, --within-bound");
    } else {
      images.emplace_back(each);
    }
  }
  const Manifest manifest = read_manifest(folder);
  const Network network(folder, manifest);
  Input example = read_npy(inside(folder, manifest.example), manifest);
  check_example(network, manifest, example);
  for (const auto& path : images) classify(path, network, manifest, static_cast<size_t>(top));
  if (runs > 0) report_latency(network, manifest, example, runs, within_bound);
}

}  // namespace

int main(int count, char** words) {
  ort = OrtGetApiBase()->GetApi(OLDEST_API);
  if (!ort) {
    std::cerr << "error: ONNX Runtime " << OrtGetApiBase()->GetVersionString() << " is too old: 1." << OLDEST_API << " or newer is needed\n";
    return 2;
  }
  try {
    work({words + 1, words + count}, "..");
  } catch (const Mismatch& error) {
    std::cout.flush();
    std::cerr << "error: " << printable(error.what(), 1000) << "\n";
    return 1;
  } catch (const std::exception& error) {  // Refused, no memory, what the standard library thinks of a path
    std::cout.flush();
    std::cerr << "error: " << printable(error.what(), 1000) << "\n";
    return 2;
  }
  std::cout << "ok\n";
  return 0;
}
