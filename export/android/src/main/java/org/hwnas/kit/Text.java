package org.hwnas.kit;

import java.math.BigDecimal;
import java.math.MathContext;
import java.math.RoundingMode;

/** Texts from anybody, and numbers, as they are shown. */
public final class Text {
  private Text() {}

  /** What may be shown of a text: one line of it. */
  public static String printable(String text, int most) {
    StringBuilder out = new StringBuilder();
    for (int at = 0, shown = 0; at < text.length() && shown < most; ++shown) {
      int each = text.codePointAt(at);
      at += Character.charCount(each);
      if (isPrintable(each)) out.appendCodePoint(each);
      else out.append('?');
    }
    return out.toString();
  }

  static boolean isPrintable(int each) {
    int type = Character.getType(each);
    return each == ' ' || !(type == Character.CONTROL || type == Character.FORMAT || type == Character.SURROGATE || type == Character.UNASSIGNED
        || type == Character.PRIVATE_USE || type == Character.SPACE_SEPARATOR || type == Character.LINE_SEPARATOR || type == Character.PARAGRAPH_SEPARATOR);
  }

  /** One sentence of what something else said. */
  public static String sentence(Throwable error) {
    String said = error.getMessage() == null ? error.getClass().getSimpleName() : error.getMessage();
    return printable(said.trim().replaceAll("\\s+", " "), 500);
  }

  /** So many significant digits, as C's %g writes them. */
  public static String digits(double value, int digits) {
    if (value == 0 || Double.isNaN(value) || Double.isInfinite(value)) return value == 0 ? "0" : Double.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf";
    BigDecimal rounded = new BigDecimal(value).round(new MathContext(digits, RoundingMode.HALF_EVEN));
    int exponent = rounded.precision() - rounded.scale() - 1;
    if (exponent >= -4 && exponent < digits) return rounded.stripTrailingZeros().toPlainString();
    String mantissa = rounded.movePointLeft(exponent).stripTrailingZeros().toPlainString();
    return mantissa + (exponent < 0 ? "e-" : "e+") + (Math.abs(exponent) < 10 ? "0" : "") + Math.abs(exponent);
  }
}
