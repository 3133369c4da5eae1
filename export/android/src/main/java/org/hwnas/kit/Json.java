package org.hwnas.kit;

import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * JSON, strictly and with limits: objects are Map, arrays List, whole numbers Long, others Double, and String, Boolean, null. Of two
 * members of one name the last one counts, as in Python. Android brings a reader of its own; this one also runs where tests do.
 */
public final class Json {
  static final int MAX_DEPTH = 16, MAX_VALUES = 1_000_000;

  private final String text;
  private int at = 0, values = 0;

  private Json(String text) {
    this.text = text;
  }

  public static Object parse(byte[] utf8) throws Refused {
    try {
      return parse(StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(utf8)).toString());
    } catch (CharacterCodingException error) {
      throw new Refused("no JSON: it is not UTF-8");
    }
  }

  public static Object parse(String text) throws Refused {
    Json reader = new Json(text);
    Object value = reader.value(0);
    reader.space();
    if (reader.at < text.length()) throw reader.wrong("something follows the value");
    return value;
  }

  private Refused wrong(String what) {
    return new Refused("no JSON: " + what + " at character " + at);
  }

  private void space() {
    while (at < text.length() && " \t\r\n".indexOf(text.charAt(at)) >= 0) ++at;
  }

  private boolean takes(char wanted) {
    space();
    if (at >= text.length() || text.charAt(at) != wanted) return false;
    ++at;
    return true;
  }

  private Object value(int depth) throws Refused {
    if (depth > MAX_DEPTH || ++values > MAX_VALUES) throw wrong("more than " + MAX_DEPTH + " levels or " + MAX_VALUES + " values");
    if (takes('{')) return object(depth);
    if (takes('[')) return array(depth);
    if (takes('"')) return string();
    String[] words = {"true", "false", "null"};
    for (String word : words) {
      if (text.startsWith(word, at)) {
        at += word.length();
        return word.equals("null") ? null : (Object) word.equals("true");
      }
    }
    return number();
  }

  private Map<String, Object> object(int depth) throws Refused {
    Map<String, Object> found = new LinkedHashMap<>();
    if (takes('}')) return found;
    do {
      if (!takes('"')) throw wrong("a name is missing");
      String name = string();
      if (!takes(':')) throw wrong("a colon is missing");
      found.put(name, value(depth + 1));
    } while (takes(','));
    if (!takes('}')) throw wrong("an object has no end");
    return found;
  }

  private List<Object> array(int depth) throws Refused {
    List<Object> found = new ArrayList<>();
    if (takes(']')) return found;
    do found.add(value(depth + 1));
    while (takes(','));
    if (!takes(']')) throw wrong("an array has no end");
    return found;
  }

  private String string() throws Refused {
    StringBuilder found = new StringBuilder();
    while (true) {
      if (at >= text.length()) throw wrong("a text has no end");
      char each = text.charAt(at++);
      if (each == '"') break;
      if (each < 0x20) throw wrong("a text holds a control character");
      found.append(each == '\\' ? escaped() : each);
    }
    for (int i = 0; i < found.length(); ++i) {
      boolean high = Character.isHighSurrogate(found.charAt(i));
      if (high && i + 1 < found.length() && Character.isLowSurrogate(found.charAt(i + 1))) ++i;
      else if (Character.isSurrogate(found.charAt(i))) throw wrong("a text holds half a character");
    }
    return found.toString();
  }

  private char escaped() throws Refused {
    char each = at < text.length() ? text.charAt(at++) : ' ';
    int plain = "\"\\/bfnrt".indexOf(each);
    if (plain >= 0) return "\"\\/\b\f\n\r\t".charAt(plain);
    if (each != 'u' || at + 4 > text.length()) throw wrong("an escape is none");
    int code = 0;
    for (int i = 0; i < 4; ++i) {
      int digit = "0123456789abcdef".indexOf(Character.toLowerCase(text.charAt(at++)));
      if (digit < 0 || text.charAt(at - 1) > 'f') throw wrong("an escape is none");
      code = 16 * code + digit;
    }
    return (char) code;
  }

  private int run() {
    int start = at;
    while (at < text.length() && text.charAt(at) >= '0' && text.charAt(at) <= '9') ++at;
    return at - start;
  }

  private Object number() throws Refused {
    int start = at;
    if (at < text.length() && text.charAt(at) == '-') ++at;
    int first = at, whole = run();
    if (whole == 0 || (whole > 1 && text.charAt(first) == '0')) throw wrong("there is no value");
    boolean isWhole = true;
    if (at < text.length() && text.charAt(at) == '.') {
      ++at;
      isWhole = false;
      if (run() == 0) throw wrong("a number has no digit after its point");
    }
    if (at < text.length() && (text.charAt(at) == 'e' || text.charAt(at) == 'E')) {
      ++at;
      isWhole = false;
      if (at < text.length() && (text.charAt(at) == '+' || text.charAt(at) == '-')) ++at;
      if (run() == 0) throw wrong("a number has no exponent");
    }
    if (at - start > 5000) throw wrong("a number is too long");
    String written = text.substring(start, at);
    if (isWhole && whole <= 18) return Long.parseLong(written);
    return Double.parseDouble(written);
  }

  /** One line of ASCII. */
  public static String text(Object value) {
    StringBuilder out = new StringBuilder();
    write(value, out);
    return out.toString();
  }

  private static void write(Object value, StringBuilder out) {
    String between = "";
    if (value instanceof Map) {
      out.append('{');
      for (Map.Entry<?, ?> each : ((Map<?, ?>) value).entrySet()) {
        out.append(between);
        write(each.getKey(), out);
        out.append(": ");
        write(each.getValue(), out);
        between = ", ";
      }
      out.append('}');
    } else if (value instanceof List) {
      out.append('[');
      for (Object each : (List<?>) value) {
        out.append(between);
        write(each, out);
        between = ", ";
      }
      out.append(']');
    } else if (value instanceof long[]) {
      out.append('[');
      for (long each : (long[]) value) {
        out.append(between).append(each);
        between = ", ";
      }
      out.append(']');
    } else if (value instanceof String) {
      out.append('"');
      for (char each : ((String) value).toCharArray()) {
        if (each == '"' || each == '\\') out.append('\\').append(each);
        else if (each < 0x20 || each > 0x7E) out.append(String.format("\\u%04x", (int) each));
        else out.append(each);
      }
      out.append('"');
    } else {
      out.append(value);
    }
  }
}
