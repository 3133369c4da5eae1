// JSON as the agent contract needs it: a strict reader (RFC 8259, UTF-8) with limits on depth and number of values, and a writer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace json {

constexpr int MAX_DEPTH = 16;
constexpr size_t MAX_VALUES = 1 << 20;  // a request for the most visits of the most items has less than half of it

struct Value;
using Array = std::vector<Value>;
using Object = std::vector<std::pair<std::string, Value>>;  // in order; of two members of one name the last counts

struct Value {
  std::variant<std::nullptr_t, bool, int64_t, double, std::string, Array, Object> data = nullptr;

  Value() = default;
  Value(std::nullptr_t) {}
  Value(bool value) : data(value) {}
  Value(int64_t value) : data(value) {}
  Value(int value) : data(int64_t{value}) {}
  Value(std::string value) : data(std::move(value)) {}
  Value(std::string_view value) : data(std::string(value)) {}
  Value(const char* value) : data(std::string(value)) {}
  Value(Array value) : data(std::move(value)) {}
  Value(Object value) : data(std::move(value)) {}

  template <typename T>
  const T* as() const {
    return std::get_if<T>(&data);
  }

  // The member of that name, or null where this is no object or has none.
  const Value* find(std::string_view name) const {
    const Value* found = nullptr;
    if (const auto* object = as<Object>())
      for (const auto& [key, value] : *object)
        if (key == name) found = &value;
    return found;
  }
};

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Length of the UTF-8 sequence that `text` begins with, 0 where it begins with none.
inline size_t utf8_length(std::string_view text) {
  const auto at = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  if (text.empty()) return 0;
  if (at(0) < 0x80) return 1;
  const size_t length = at(0) >= 0xC2 && at(0) <= 0xDF ? 2 : at(0) >= 0xE0 && at(0) <= 0xEF ? 3 : at(0) >= 0xF0 && at(0) <= 0xF4 ? 4 : 0;
  if (length == 0 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((at(i) & 0xC0) != 0x80) return 0;
  const bool overlong = (at(0) == 0xE0 && at(1) < 0xA0) || (at(0) == 0xF0 && at(1) < 0x90);
  const bool beyond = (at(0) == 0xED && at(1) > 0x9F) || (at(0) == 0xF4 && at(1) > 0x8F);  // surrogates, and what is no code point
  return overlong || beyond ? 0 : length;
}

class Reader {
 public:
  explicit Reader(std::string_view text) : rest_(text) {}

  Value document() {
    Value value = this->value(0);
    space();
    if (!rest_.empty()) fail("something follows the value");
    return value;
  }

 private:
  std::string_view rest_;
  size_t values_ = 0;

  [[noreturn]] static void fail(const char* what) { throw Error(std::string("no JSON: ") + what); }

  void space() { rest_.remove_prefix(std::min(rest_.find_first_not_of(" \t\r\n"), rest_.size())); }

  bool take(char expected) {
    if (rest_.empty() || rest_.front() != expected) return false;
    rest_.remove_prefix(1);
    return true;
  }

  bool take(std::string_view word) {
    if (rest_.substr(0, word.size()) != word) return false;
    rest_.remove_prefix(word.size());
    return true;
  }

  Value value(int depth) {
    if (depth > MAX_DEPTH) fail("it is nested too deeply");
    if (++values_ > MAX_VALUES) fail("it has too many values");
    space();
    if (take('{')) return object(depth);
    if (take('[')) return array(depth);
    if (take('"')) return string();
    if (take("true")) return true;
    if (take("false")) return false;
    if (take("null")) return nullptr;
    return number();
  }

  Object object(int depth) {
    Object members;
    space();
    if (take('}')) return members;
    do {
      space();
      if (!take('"')) fail("a member of an object has no name");
      std::string name = string();
      space();
      if (!take(':')) fail("a member of an object has no value");
      members.emplace_back(std::move(name), value(depth + 1));
      space();
    } while (take(','));
    if (!take('}')) fail("an object does not end");
    return members;
  }

  Array array(int depth) {
    Array values;
    space();
    if (take(']')) return values;
    do {
      values.push_back(value(depth + 1));
      space();
    } while (take(','));
    if (!take(']')) fail("an array does not end");
    return values;
  }

  std::string string() {
    std::string text;
    while (!take('"')) {
      if (rest_.empty()) fail("a text does not end");
      if (take('\\')) {
        escape(text);
        continue;
      }
      const size_t length = utf8_length(rest_);
      if (length == 0) fail("a text is not UTF-8");
      if (static_cast<unsigned char>(rest_.front()) < 0x20) fail("a text holds a control character");
      text += rest_.substr(0, length);
      rest_.remove_prefix(length);
    }
    return text;
  }

  void escape(std::string& text) {
    static constexpr std::string_view letters = "\"\\/bfnrt", meant = "\"\\/\b\f\n\r\t";
    if (take('u')) {
      uint32_t code = hex();
      if (code >= 0xD800 && code <= 0xDBFF && take("\\u")) {
        const uint32_t low = hex();
        if (low < 0xDC00 || low > 0xDFFF) fail("a text holds half a surrogate pair");
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      } else if (code >= 0xD800 && code <= 0xDFFF) {
        fail("a text holds half a surrogate pair");
      }
      append(text, code);
      return;
    }
    const size_t which = rest_.empty() ? letters.npos : letters.find(rest_.front());
    if (which == letters.npos) fail("a text holds an unknown escape");
    text += meant[which];
    rest_.remove_prefix(1);
  }

  uint32_t hex() {
    uint32_t code = 0;
    for (int i = 0; i < 4; ++i) {
      const size_t digit = rest_.empty() ? std::string_view::npos : std::string_view("0123456789abcdefABCDEF").find(rest_.front());
      if (digit == std::string_view::npos) fail("a text holds an unknown escape");
      code = code << 4 | static_cast<uint32_t>(digit < 16 ? digit : digit - 6);
      rest_.remove_prefix(1);
    }
    return code;
  }

  static void append(std::string& text, uint32_t code) {
    const auto tail = [&](int shift) { text += static_cast<char>(0x80 | (code >> shift & 0x3F)); };
    if (code < 0x80) {
      text += static_cast<char>(code);
    } else if (code < 0x800) {
      text += static_cast<char>(0xC0 | code >> 6);
      tail(0);
    } else if (code < 0x10000) {
      text += static_cast<char>(0xE0 | code >> 12);
      tail(6);
      tail(0);
    } else {
      text += static_cast<char>(0xF0 | code >> 18);
      tail(12);
      tail(6);
      tail(0);
    }
  }

  size_t digits(size_t at) const {
    size_t end = at;
    while (end < rest_.size() && rest_[end] >= '0' && rest_[end] <= '9') ++end;
    return end - at;
  }

  // Whole numbers that 64 bits hold are int64_t, all others double.
  Value number() {
    const auto is = [&](size_t at, std::string_view any) { return at < rest_.size() && any.find(rest_[at]) != any.npos; };
    size_t end = is(0, "-") ? 1 : 0;
    const size_t whole = digits(end);
    if (whole == 0 || (whole > 1 && rest_[end] == '0')) fail("a value is none");
    end += whole;
    bool is_whole = true;
    if (is(end, ".")) {
      const size_t more = digits(end + 1);
      if (more == 0) fail("a number is cut short");
      end += 1 + more;
      is_whole = false;
    }
    if (is(end, "eE")) {
      const size_t sign = is(end + 1, "+-") ? 1 : 0, more = digits(end + 1 + sign);
      if (more == 0) fail("a number is cut short");
      end += 1 + sign + more;
      is_whole = false;
    }
    const std::string text(rest_.substr(0, end));
    rest_.remove_prefix(end);
    Value value;
    if (is_whole && whole <= 18)
      value.data = static_cast<int64_t>(std::strtoll(text.c_str(), nullptr, 10));
    else
      value.data = std::strtod(text.c_str(), nullptr);
    return value;
  }
};

// Raises Error.
inline Value parse(std::string_view text) { return Reader(text).document(); }

inline void write(std::string& out, const Value& value);

inline void write_string(std::string& out, std::string_view text) {
  out += '"';
  while (!text.empty()) {
    const size_t length = utf8_length(text);
    if (length == 0) {
      out += '?';  // what a library says need not be UTF-8
      text.remove_prefix(1);
      continue;
    }
    const char c = text.front();
    if (c == '"' || c == '\\') {
      (out += '\\') += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", c);
      out += escaped;
    } else {
      out += text.substr(0, length);
    }
    text.remove_prefix(length);
  }
  out += '"';
}

inline void write(std::string& out, const Value& value) {
  if (const auto* array = value.as<Array>()) {
    char separator = '[';
    for (const auto& each : *array) {
      out += separator;
      write(out, each);
      separator = ',';
    }
    out += array->empty() ? "[]" : "]";
  } else if (const auto* object = value.as<Object>()) {
    char separator = '{';
    for (const auto& [name, member] : *object) {
      out += separator;
      write_string(out, name);
      out += ':';
      write(out, member);
      separator = ',';
    }
    out += object->empty() ? "{}" : "}";
  } else if (const auto* text = value.as<std::string>()) {
    write_string(out, *text);
  } else if (const auto* whole = value.as<int64_t>()) {
    out += std::to_string(*whole);
  } else if (const auto* real = value.as<double>()) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.17g", *real);
    out += digits;
  } else if (const auto* flag = value.as<bool>()) {
    out += *flag ? "true" : "false";
  } else {
    out += "null";
  }
}

inline std::string text(const Value& value) {
  std::string out;
  write(out, value);
  return out;
}

}  // namespace json
