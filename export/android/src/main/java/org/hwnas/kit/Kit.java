package org.hwnas.kit;

import java.nio.FloatBuffer;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;

/**
 * A network exported by hwnas: checked against its manifest, timed, and classifying images. To build it into an app of your own, take this
 * class and those that it names; nothing of them is Android's.
 */
public final class Kit implements AutoCloseable {
  static final double LEAST_LOG = -60.0;
  static final long WARM_UP_NS = 300_000_000;  // in which Java compiles what runs often

  /** Gets each line of what is found out. */
  public interface Printer {
    void line(String text);
  }

  public final Manifest manifest;
  private final Engine engine;
  private final Engine.Model model;
  private final Engine.Bound example;

  /** Opens the network and runs its stored example. Raises Refused, of code 1 where it does not compute what it should. */
  public Kit(Manifest.Source source, Engine engine, Printer out) throws Refused {
    this.engine = engine;
    manifest = Manifest.read(source);
    startEngine();
    java.nio.ByteBuffer bytes = manifest.modelBytes();
    String path = manifest.path(manifest.model);
    try {
      model = engine.open(bytes);
    } catch (Exception error) {
      throw new Refused("ONNX Runtime " + engine.version() + " cannot load " + path + ": " + Text.sentence(error));
    }
    try {
      List<Engine.Port> inputs = model.inputs(), outputs = model.outputs();
      if (inputs.size() != 1 || outputs.size() != 1 || !inputs.get(0).name.equals(manifest.input) || !outputs.get(0).name.equals(manifest.output))
        throw new Refused(path + " has other inputs or outputs than the manifest says");
      example = bound(manifest.exampleInput());
      checkExample(out);
    } catch (Exception error) {
      close(model);
      throw error instanceof Refused ? (Refused) error : new Refused("ONNX Runtime cannot run " + path + ": " + Text.sentence(error));
    }
  }

  private void startEngine() throws Refused {
    try {
      engine.start(1);  // as its latency was measured
    } catch (Exception error) {
      throw new Refused("ONNX Runtime cannot be started: " + Text.sentence(error));
    }
  }

  private Engine.Bound bound(Tensor input) throws Refused {
    try {
      return model.bind(Collections.singletonList(input));
    } catch (Exception error) {
      throw error instanceof Refused ? (Refused) error : new Refused("ONNX Runtime cannot run " + manifest.path(manifest.model) + ": " + Text.sentence(error));
    }
  }

  /** (rows, classes) of what it gave. */
  private double[] given(Engine.Bound bound, long rows) throws Exception {
    Tensor output = bound.outputs().get(0);
    long wanted = rows * manifest.labels.size();
    if (!output.type.equals("float32") || Tensor.elements(output.shape) != wanted)
      throw Refused.mismatch("the network returns " + output.type + " " + Arrays.toString(output.shape) + ", the manifest says " + wanted + " numbers of float32");
    FloatBuffer values = output.data.asFloatBuffer();
    double[] found = new double[(int) wanted];
    for (int i = 0; i < found.length; ++i) found[i] = values.get(i);
    return found;
  }

  /** Logarithms of probabilities are logits but for a constant of each image. */
  private void checkExample(Printer out) throws Exception {
    double[] expected = manifest.logits.clone(), got = given(example, manifest.batch);
    int classes = manifest.labels.size();
    if (manifest.probabilities) {
      for (int row = 0; row < expected.length; row += classes) {
        double most = Double.NEGATIVE_INFINITY, sum = 0;
        for (int i = row; i < row + classes; ++i) most = Math.max(most, expected[i]);
        for (int i = row; i < row + classes; ++i) sum += Math.exp(expected[i] - most);
        for (int i = row; i < row + classes; ++i) expected[i] = Math.max(expected[i] - most - Math.log(sum), LEAST_LOG);
      }
      for (int i = 0; i < got.length; ++i) got[i] = Math.max(Math.log(Math.max(got[i], 1e-300)), LEAST_LOG);
    }
    double worst = 0;
    for (int i = 0; i < got.length; ++i) worst = Math.max(worst, Math.abs(got[i] - expected[i]));  // not a number stays one
    double ratio = worst / deviation(expected);
    if (!(ratio <= manifest.tolerance))
      throw Refused.mismatch("the logits of the stored example are off by " + Text.digits(ratio, 2) + " of their standard deviation; do not use this build of the network");
    out.line("example  logits agree to " + Text.digits(ratio, 2) + " of their standard deviation");
  }

  private static double deviation(double[] values) {
    double mean = 0, sum = 0;
    for (double each : values) mean += each / values.length;
    for (double each : values) sum += (each - mean) * (each - mean);
    return Math.max(Math.sqrt(sum / values.length), Manifest.MIN_STD);
  }

  /** Prints the best classes of an image file. */
  public void classify(byte[] file, String name, Image.Decoder decoder, int top, Printer out) throws Refused {
    Tensor input = Image.read(file, Text.printable(name, 80), manifest.channels, decoder).fed(manifest);
    double[] share;
    try (Engine.Bound bound = bound(input)) {
      share = Arrays.copyOf(given(bound, input.shape[0]), manifest.labels.size());
    } catch (Exception error) {
      throw error instanceof Refused ? (Refused) error : new Refused("ONNX Runtime cannot run " + manifest.path(manifest.model) + ": " + Text.sentence(error));
    }
    if (!manifest.probabilities) softmax(share);
    StringBuilder line = new StringBuilder(Text.printable(name, 80));
    for (int i : best(share, top)) line.append("  ").append(Text.printable(manifest.labels.get(i), 80)).append(String.format(java.util.Locale.ROOT, " %.1f %%", 100 * share[i]));
    out.line(line.toString());
  }

  static void softmax(double[] values) {
    double most = Double.NEGATIVE_INFINITY, sum = 0;
    for (double each : values) most = Math.max(most, each);
    for (int i = 0; i < values.length; ++i) sum += values[i] = Math.exp(values[i] - most);
    for (int i = 0; i < values.length; ++i) values[i] /= sum;
  }

  /** Places of the largest, the first of equal ones before. */
  static int[] best(double[] share, int top) {
    Integer[] order = new Integer[share.length];
    for (int i = 0; i < order.length; ++i) order[i] = i;
    Arrays.sort(order, (a, b) -> Double.compare(share[b], share[a]));
    int[] found = new int[Math.min(top, order.length)];
    for (int i = 0; i < found.length; ++i) found[i] = order[i];
    return found;
  }

  /** Sorted values, between which it interpolates, as numpy does. */
  static double percentile(double[] sorted, double per_cent) {
    double at = per_cent / 100 * (sorted.length - 1);
    int below = (int) at;
    return below + 1 < sorted.length ? sorted[below] + (at - below) * (sorted[below + 1] - sorted[below]) : sorted[below];
  }

  /** Times the stored example and prints the certified latency beside it; `conditions` says where, and in which state, it runs. */
  public void time(int runs, boolean withinBound, String conditions, Printer out) throws Refused {
    double[] ms = new double[runs];
    try {
      long begin = System.nanoTime();
      for (int i = 0; i < 10 || System.nanoTime() - begin < WARM_UP_NS; ++i) example.run();
      for (int i = 0; i < runs; ++i) {
        long start = System.nanoTime();
        example.run();
        ms[i] = (System.nanoTime() - start) / 1e6;
      }
    } catch (Exception error) {
      throw new Refused("ONNX Runtime cannot run " + manifest.path(manifest.model) + ": " + Text.sentence(error));
    }
    Arrays.sort(ms);
    double here = percentile(ms, 50);
    out.line("latency  " + Text.digits(here, 3) + " ms here (p50 of " + runs + " runs, one at a time)");
    out.line("         p10 " + Text.digits(percentile(ms, 10), 3) + ", p90 " + Text.digits(percentile(ms, 90), 3) + " ms here, 1 thread, ONNX Runtime " + engine.version()
        + ", " + conditions);
    if (!manifest.certified.isEmpty()) out.line("         " + manifest.certified);
    if (withinBound && manifest.boundMs > 0 && here > manifest.boundMs)
      throw Refused.mismatch("the network takes " + Text.digits(here, 3) + " ms here, longer than the " + manifest.claim + " bound of " + Text.digits(manifest.boundMs, 3) + " ms");
  }

  private static void close(AutoCloseable each) {
    try {
      each.close();
    } catch (Exception error) {
      // nothing more can be done with it
    }
  }

  @Override
  public void close() {
    close(example);
    close(model);
  }
}
