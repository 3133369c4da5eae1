package org.hwnas.kit;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;

/** What an exported folder says of its network: read and checked before anything else of the folder is. */
public final class Manifest {
  static final int MAX_MANIFEST_BYTES = 16 << 20;
  static final long MAX_FILE_BYTES = 2L << 30, MAX_INPUT_ELEMENTS = 1 << 28;
  static final double MIN_STD = 1e-12;
  static final byte[] EXTERNAL_DATA = "\n\blocation".getBytes(StandardCharsets.US_ASCII);  // the key that only tensors with values in another file carry

  /** Where the files of an export are: a folder, or the assets of an app. */
  public interface Source {
    /** Null where there is no such file. Raises IOException, or Refused where the name leads out of the source. */
    InputStream open(String name) throws IOException, Refused;

    /** As sentences name a file. */
    String path(String name);

    /** Whether every file that the manifest names has to be here; otherwise the model and the example do. */
    boolean isWhole();
  }

  /** Whether a name can be that of a file inside a folder. */
  public static boolean isPlain(String name) {
    return !name.isEmpty() && name.indexOf('\\') < 0 && name.indexOf(':') < 0 && name.indexOf('\0') < 0 && !name.startsWith("/") && !Arrays.asList(name.split("/")).contains("..");
  }

  /** A folder; no name, and no link in it, leads out of it. */
  public static final class Folder implements Source {
    private final File folder;

    public Folder(File folder) {
      this.folder = folder;
    }

    @Override
    public InputStream open(String name) throws IOException, Refused {
      File file = new File(folder, name);
      if (!isPlain(name) || !file.getCanonicalPath().startsWith(folder.getCanonicalPath() + File.separator))
        throw new Refused("the manifest names '" + Text.printable(name, 80) + "', which is not inside " + folder);
      return file.isFile() ? new FileInputStream(file) : null;
    }

    @Override
    public String path(String name) {
      return Text.printable(new File(folder, name).toString(), 200);
    }

    @Override
    public boolean isWhole() {
      return true;
    }
  }

  /** A field is missing, or of another type. */
  private static final class Unfit extends Exception {}

  private final Source source;
  public final String model, example, input, output, kind;  // kind: tensor, pixels or image
  final boolean probabilities, freeBatch;
  final int batch, channels, height, width;
  final double[] mean, std, logits;  // logits: (batch, classes)
  final double low, high, crop, tolerance;  // crop 0: the whole image
  final List<String> labels = new ArrayList<>();
  String certified = "", claim = "certified";  // what is said of the certified latency, or of one that was measured alone
  double boundMs = 0;

  /** After its fields and the hashes of the files were checked. */
  public static Manifest read(Source source) throws Refused {
    String path = source.path("manifest.json");
    byte[] raw = bytes(source, "manifest.json", MAX_MANIFEST_BYTES);
    Object all;
    try {
      all = Json.parse(raw);
    } catch (Refused error) {
      throw new Refused(path + " is not readable JSON");
    }
    if (!(all instanceof Map) || !"hwnas.manifest/1".equals(((Map<?, ?>) all).get("format")))
      throw new Refused(path + " is no manifest of this version (format 'hwnas.manifest/1')");
    try {
      Manifest manifest = new Manifest(source, all);
      Map<?, ?> files = object(all, "files");
      if (!(files.get(manifest.model) instanceof String) || !(files.get(manifest.example) instanceof String)) throw new Unfit();
      for (Map.Entry<?, ?> each : files.entrySet()) {
        String name = (String) each.getKey();
        if (!(each.getValue() instanceof String)) throw new Unfit();
        if (source.isWhole() || name.equals(manifest.model) || name.equals(manifest.example)) checkFile(source, name, (String) each.getValue());
      }
      return manifest;
    } catch (Unfit error) {
      throw new Refused(path + " lacks fields, or its shapes, preprocessing, labels and example do not fit each other");
    }
  }

  private Manifest(Source source, Object all) throws Unfit {
    this.source = source;
    Object in = object(all, "input"), out = object(all, "output"), how = object(all, "preprocessing"), about = object(all, "example");
    model = text(all, "model");
    example = text(about, "input");
    input = text(in, "name");
    output = text(out, "name");
    kind = text(in, "kind");
    String given = text(out, "kind");
    probabilities = given.equals("probabilities");
    List<?> sides = array(how, "resolution"), shape = array(in, "shape"), leaving = array(out, "shape"), rows = array(about, "logits");
    check((probabilities || given.equals("logits")) && sides.size() == 2 && shape.size() == 4 && !leaving.isEmpty() && !rows.isEmpty());
    height = size(sides.get(0));
    width = size(sides.get(1));
    channels = size(at(how, "channels"));
    freeBatch = "batch".equals(shape.get(0));
    batch = freeBatch ? rows.size() : size(shape.get(0));
    List<?> sizes = kind.equals("tensor") ? Arrays.<Object>asList((long) channels, (long) height, (long) width)
        : kind.equals("pixels") ? Arrays.<Object>asList((long) height, (long) width, (long) channels)
        : kind.equals("image") ? Arrays.<Object>asList("height", "width", (long) channels) : null;
    check(shape.subList(1, 4).equals(sizes) && text(in, "dtype").equals(kind.equals("tensor") ? "float32" : "uint8"));
    check(Tensor.elements(new long[] {batch, channels, height, width}) <= MAX_INPUT_ELEMENTS);
    mean = numbers(array(how, "mean"));
    std = numbers(array(how, "std"));
    double[] range = numbers(array(how, "range"));
    check(mean.length == channels && std.length == channels && range.length == 2 && range[0] < range[1]);
    for (double each : std) check(each > MIN_STD);
    low = range[0];
    high = range[1];
    Object share = ((Map<?, ?>) how).get("crop");
    crop = share == null ? 0 : number(share);
    check(share == null || (crop > 0 && crop <= 1));
    tolerance = number(at(about, "tolerance_std"));
    check(tolerance > 0 && tolerance < 1);
    for (Object each : array(all, "labels")) {
      check(each instanceof String);
      labels.add((String) each);
    }
    check(rows.size() == batch && !labels.isEmpty() && leaving.get(leaving.size() - 1).equals((long) labels.size()));
    logits = new double[batch * labels.size()];
    for (int row = 0; row < batch; ++row) {
      check(rows.get(row) instanceof List && ((List<?>) rows.get(row)).size() == labels.size());
      System.arraycopy(numbers((List<?>) rows.get(row)), 0, logits, row * labels.size(), labels.size());
    }
    Object latency = ((Map<?, ?>) all).get("latency");
    if (latency instanceof Map && ((Map<?, ?>) latency).containsKey("measured_ms")) {
      boundMs = number(at(latency, "upper_bound_ms"));
      String of = ((Map<?, ?>) latency).containsKey("covers") ? " for " + Text.printable(text(latency, "covers"), 120) + "," : "";
      if ("measured".equals(((Map<?, ?>) latency).get("claim"))) claim = "measured";
      certified = Text.digits(number(at(latency, "measured_ms")), 3) + " ms " + claim + of + " (" + Text.printable(text(latency, "statistic"), 8) + ", at most "
          + Text.digits(boundMs, 3) + " ms) on " + Text.printable(text(latency, "conditions"), 200);
    }
  }

  private static void check(boolean fits) throws Unfit {
    if (!fits) throw new Unfit();
  }

  private static Object at(Object value, String key) throws Unfit {
    check(value instanceof Map && ((Map<?, ?>) value).get(key) != null);
    return ((Map<?, ?>) value).get(key);
  }

  private static Map<?, ?> object(Object value, String key) throws Unfit {
    check(at(value, key) instanceof Map);
    return (Map<?, ?>) at(value, key);
  }

  private static List<?> array(Object value, String key) throws Unfit {
    check(at(value, key) instanceof List);
    return (List<?>) at(value, key);
  }

  private static String text(Object value, String key) throws Unfit {
    check(at(value, key) instanceof String);
    return (String) at(value, key);
  }

  private static int size(Object value) throws Unfit {
    check(value instanceof Long && (Long) value >= 1 && (Long) value <= MAX_INPUT_ELEMENTS);
    return ((Long) value).intValue();
  }

  private static double number(Object value) throws Unfit {
    check(value instanceof Long || value instanceof Double);
    double found = ((Number) value).doubleValue();
    check(!Double.isInfinite(found) && !Double.isNaN(found));
    return found;
  }

  private static double[] numbers(List<?> values) throws Unfit {
    double[] found = new double[values.size()];
    for (int i = 0; i < found.length; ++i) found[i] = number(values.get(i));
    return found;
  }

  private static void checkFile(Source source, String name, String digest) throws Refused {
    try (InputStream file = opened(source, name)) {
      MessageDigest sha256 = MessageDigest.getInstance("SHA-256");
      byte[] piece = new byte[1 << 16];
      long read = 0;
      for (int got; (got = file.read(piece)) >= 0; read += got) {
        if (read > MAX_FILE_BYTES) throw new Refused(source.path(name) + " is too large to be read");
        sha256.update(piece, 0, got);
      }
      StringBuilder hex = new StringBuilder();
      for (byte each : sha256.digest()) hex.append(String.format("%02x", each));
      if (!hex.toString().equals(digest))
        throw new Refused(source.path(name) + " is cut short or was changed: its SHA-256 is not the manifest's; copy or export it again");
    } catch (IOException error) {
      throw new Refused("cannot read " + source.path(name));
    } catch (NoSuchAlgorithmException error) {
      throw new Refused("this system knows no SHA-256");
    }
  }

  private static InputStream opened(Source source, String name) throws IOException, Refused {
    InputStream file = source.open(name);
    if (file == null) throw new Refused(source.path(name) + " is missing; export the network again");
    return file;
  }

  static byte[] bytes(Source source, String name, long most) throws Refused {
    try (InputStream file = opened(source, name)) {
      return bytes(file, most, source.path(name));
    } catch (IOException error) {
      throw new Refused("cannot read " + source.path(name));
    }
  }

  /** All of a stream. Raises Refused where it is longer than that. */
  static byte[] bytes(InputStream file, long most, String path) throws IOException, Refused {
    ByteArrayOutputStream all = new ByteArrayOutputStream();
    byte[] piece = new byte[1 << 16];
    for (int got; (got = file.read(piece)) >= 0; ) {
      all.write(piece, 0, got);
      if (all.size() > most) throw new Refused(path + " is too large to be read");
    }
    return all.toByteArray();
  }

  /** The model, which must hold all its weights itself. */
  ByteBuffer modelBytes() throws Refused {
    byte[] raw = bytes(source, model, MAX_FILE_BYTES);
    ByteBuffer found = Tensor.memory(raw.length);
    Tensor.rewound(found.put(raw));
    if (hasExternalData(found)) throw new Refused(path(model) + " keeps weights in another file, which is not read; export the network again");
    return found;
  }

  static boolean hasExternalData(ByteBuffer model) {
    for (int at = 0; at + EXTERNAL_DATA.length <= model.limit(); ++at) {
      int same = 0;
      while (same < EXTERNAL_DATA.length && model.get(at + same) == EXTERNAL_DATA[same]) ++same;
      if (same == EXTERNAL_DATA.length) return true;
    }
    return false;
  }

  String path(String name) {
    return source.path(name);
  }

  /** The stored example, as it is fed. */
  Tensor exampleInput() throws Refused {
    String wrong = path(example) + " is no .npy array of what the manifest says";
    Tensor found;
    try {
      found = Tensor.ofNpy(bytes(source, example, MAX_FILE_BYTES));
    } catch (Refused error) {
      throw new Refused(wrong);
    }
    boolean tensor = kind.equals("tensor");
    long[] fixed = tensor ? new long[] {batch, channels, height, width} : new long[] {batch, height, width, channels};
    boolean any = kind.equals("image") && found.shape.length == 4 && found.shape[0] == batch && found.shape[3] == channels;
    if ((!any && !Arrays.equals(found.shape, fixed)) || !found.type.equals(tensor ? "float32" : "uint8") || Tensor.elements(found.shape) > MAX_INPUT_ELEMENTS)
      throw new Refused(wrong);
    return new Tensor(input, found.type, found.shape, found.data);
  }
}
