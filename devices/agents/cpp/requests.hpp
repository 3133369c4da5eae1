// What a host may send: lines and counted bytes on standard input, values within limits. All else is answered with one sentence.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>

#include "json.hpp"

// A request that is answered with one sentence.
struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// One sentence of what something else said.
inline std::string sentence(const std::string& text) {
  std::string out;
  for (const char c : text.substr(0, 500)) out += std::isspace(static_cast<unsigned char>(c)) ? ' ' : c;
  return out;
}

inline std::string quoted(const json::Value* value) {
  if (!value) return "nothing";
  const auto* text = value->as<std::string>();
  const std::string whole = text ? "'" + *text + "'" : json::text(*value);
  return whole.substr(0, 60);
}

inline int64_t number_of(const json::Value& request, const char* key, int64_t low, int64_t high) {
  const json::Value* value = request.find(key);
  const auto* number = value ? value->as<int64_t>() : nullptr;
  if (!number || *number < low || *number > high)
    throw Refused(std::string(key) + " must be a whole number from " + std::to_string(low) + " to " + std::to_string(high) + ", got " + quoted(value));
  return *number;
}

// Characters of a text, or -1 where one of them is none that can be seen.
inline int64_t printable_characters(std::string_view text) {
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
