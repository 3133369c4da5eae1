package org.hwnas.kit;

import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** ONNX Runtime where Java's package of it is not: that of Python, in a process of its own at the other end of two pipes (`piped_onnxruntime.py`). */
public final class PipedEngine implements Engine {
  private final DataInputStream in;
  private final DataOutputStream out;
  private final String version;
  private int threads = 1;

  public PipedEngine() throws IOException {
    Process process = new ProcessBuilder(System.getProperty("python"), "-I", System.getProperty("piped")).redirectError(ProcessBuilder.Redirect.INHERIT).start();
    Runtime.getRuntime().addShutdownHook(new Thread(process::destroyForcibly));
    in = new DataInputStream(new BufferedInputStream(process.getInputStream(), 1 << 16));
    out = new DataOutputStream(new BufferedOutputStream(process.getOutputStream(), 1 << 16));
    version = in.readUTF();
  }

  @Override
  public String version() {
    return version;
  }

  @Override
  public Map<String, Object> start(int asked) {
    threads = asked;
    Map<String, Object> options = new LinkedHashMap<>();
    Object[] pairs = {"provider", "CPUExecutionProvider", "intra_op_threads", threads, "inter_op_threads", 1, "optimization", "all", "io_binding", true, "denormals", "zero"};
    for (int i = 0; i < pairs.length; i += 2) options.put((String) pairs[i], pairs[i + 1]);
    return options;
  }

  private void answered() throws Exception {
    out.flush();
    if (!in.readBoolean()) throw new Exception(in.readUTF());
  }

  private void write(ByteBuffer data) throws IOException {
    byte[] raw = new byte[data.limit()];
    data.duplicate().get(raw);
    out.writeInt(raw.length);
    out.write(raw);
  }

  private long[] shape() throws IOException {
    long[] shape = new long[in.readInt()];
    for (int i = 0; i < shape.length; ++i) shape[i] = in.readLong();
    return shape;
  }

  private List<Port> ports() throws IOException {
    List<Port> ports = new ArrayList<>();
    for (int left = in.readInt(); left > 0; --left) ports.add(new Port(in.readUTF(), in.readUTF(), shape()));
    return ports;
  }

  @Override
  public Model open(ByteBuffer model) throws Exception {
    out.writeByte('O');
    out.writeInt(threads);
    write(model);
    answered();
    final int id = in.readInt();
    final List<Port> inputs = ports(), outputs = ports();
    return new Model() {
      @Override
      public List<Port> inputs() {
        return inputs;
      }

      @Override
      public List<Port> outputs() {
        return outputs;
      }

      @Override
      public Bound bind(List<Tensor> fed) throws Exception {
        out.writeByte('B');
        out.writeInt(id);
        out.writeInt(fed.size());
        for (Tensor each : fed) {
          out.writeUTF(each.name);
          out.writeUTF(each.type);
          out.writeInt(each.shape.length);
          for (long size : each.shape) out.writeLong(size);
          write(each.data);
        }
        answered();
        return bound(in.readInt());
      }

      @Override
      public void close() throws Exception {
        out.writeByte('C');
        out.writeInt(id);
        answered();
      }
    };
  }

  private Bound bound(final int id) {
    return new Bound() {
      @Override
      public void run() throws Exception {
        out.writeByte('R');
        out.writeInt(id);
        answered();
      }

      @Override
      public List<Tensor> outputs() throws Exception {
        out.writeByte('G');
        out.writeInt(id);
        answered();
        List<Tensor> found = new ArrayList<>();
        for (int left = in.readInt(); left > 0; --left) {
          String name = in.readUTF(), type = in.readUTF();
          long[] shape = shape();
          byte[] raw = new byte[in.readInt()];
          in.readFully(raw);
          ByteBuffer data = Tensor.memory(raw.length);
          data.put(raw).rewind();
          found.add(new Tensor(name, type, shape, data));
        }
        return found;
      }

      @Override
      public void close() throws Exception {
        out.writeByte('C');
        out.writeInt(id);
        answered();
      }
    };
  }
}
