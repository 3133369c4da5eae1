package org.hwnas.kit;

import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** What a network reads or gives: numbers of a type (numpy's name of it), their shape, and their bytes in this processor's order. */
public final class Tensor {
  private static final Pattern SHAPE = Pattern.compile("'shape': \\(([0-9, ]*)\\)");

  public final String name, type;
  public final long[] shape;
  public final ByteBuffer data;

  public Tensor(String name, String type, long[] shape, ByteBuffer data) {
    this.name = name;
    this.type = type;
    this.shape = shape;
    this.data = data;
  }

  /** Memory that native code reads without a copy. */
  public static ByteBuffer memory(long bytes) throws Refused {
    if (bytes > Integer.MAX_VALUE) throw new Refused(bytes + " bytes are more than one tensor may have here");
    return ByteBuffer.allocateDirect((int) bytes).order(ByteOrder.nativeOrder());
  }

  /** From its begin. The method of `Buffer`: that of `ByteBuffer`, of newer Javas, is not on older phones. */
  static ByteBuffer rewound(ByteBuffer data) {
    ((Buffer) data).rewind();
    return data;
  }

  /** The number of elements; a double, which no product of sizes overflows. */
  public static double elements(long[] shape) {
    double count = 1;
    for (long size : shape) count *= size;
    return count;
  }

  /** Of a .npy file: float32 or uint8 in C order. Raises Refused without a reason, which the caller knows. */
  static Tensor ofNpy(byte[] file) throws Refused {
    Refused wrong = new Refused("no .npy array of float32 or uint8");
    byte[] magic = {(byte) 0x93, 'N', 'U', 'M', 'P', 'Y'};
    if (file.length < 12 || !Arrays.equals(Arrays.copyOf(file, 6), magic) || file[6] < 1 || file[6] > 3) throw wrong;
    int start = file[6] == 1 ? 10 : 12;
    long length = (file[8] & 0xFF) | (file[9] & 0xFF) << 8 | (start == 12 ? (file[10] & 0xFFL) << 16 | (file[11] & 0xFFL) << 24 : 0);
    if (length > file.length - start) throw wrong;
    String header = new String(file, start, (int) length, StandardCharsets.ISO_8859_1);
    String type = header.contains("'descr': '<f4'") ? "float32" : header.contains("'descr': '|u1'") ? "uint8" : null;
    Matcher sizes = SHAPE.matcher(header);
    if (type == null || !header.contains("'fortran_order': False") || !sizes.find()) throw wrong;
    String[] words = sizes.group(1).replace(" ", "").isEmpty() ? new String[0] : sizes.group(1).replace(" ", "").split(",");
    long[] shape = new long[words.length];
    for (int i = 0; i < words.length; ++i) {
      if (!words[i].matches("[0-9]{1,9}")) throw wrong;
      shape[i] = Long.parseLong(words[i]);
    }
    int at = start + (int) length;
    double bytes = elements(shape) * (type.equals("uint8") ? 1 : 4);
    if (!(bytes > 0) || bytes != file.length - at) throw wrong;
    ByteBuffer data = memory((long) bytes);
    if (type.equals("uint8")) data.put(file, at, file.length - at);
    else data.asFloatBuffer().put(ByteBuffer.wrap(file, at, file.length - at).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer());
    return new Tensor("", type, shape, rewound(data));
  }
}
