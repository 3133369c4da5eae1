package org.hwnas.kit;

import ai.onnxruntime.NodeInfo;
import ai.onnxruntime.OnnxJavaType;
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OnnxValue;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtLoggingLevel;
import ai.onnxruntime.OrtSession;
import ai.onnxruntime.TensorInfo;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/** ONNX Runtime on the CPU, with the options that all of hwnas's agents run it with. Nothing in here is Android's. */
public final class OrtEngine implements Engine {
  private static final String PREFIX = "ONNX_TENSOR_ELEMENT_DATA_TYPE_";
  private final OrtEnvironment environment = OrtEnvironment.getEnvironment(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL, "hwnas");
  private int threads = 1;

  @Override
  public String version() {
    return environment.getVersion();
  }

  @Override
  public Map<String, Object> start(int asked) {
    threads = asked;
    Map<String, Object> options = new LinkedHashMap<>();
    options.put("provider", "CPUExecutionProvider");
    options.put("intra_op_threads", threads);
    options.put("inter_op_threads", 1);
    options.put("optimization", "all");
    options.put("io_binding", true);
    options.put("denormals", "zero");
    return options;
  }

  @Override
  public Model open(ByteBuffer model) throws OrtException {
    try (OrtSession.SessionOptions options = new OrtSession.SessionOptions()) {
      options.setIntraOpNumThreads(threads);
      options.setInterOpNumThreads(1);
      options.setExecutionMode(OrtSession.SessionOptions.ExecutionMode.SEQUENTIAL);
      options.setOptimizationLevel(OrtSession.SessionOptions.OptLevel.ALL_OPT);
      options.setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL);
      // Denormals slow a convolution down two hundred times. Process-wide; the first session of a process decides.
      options.addConfigEntry("session.set_denormal_as_zero", "1");
      return new Opened(environment.createSession(model, options));
    }
  }

  /** numpy's name of a type, or ONNX's in brackets. */
  private static String nameOf(TensorInfo info) {
    String name = info.onnxType.name();
    name = name.startsWith(PREFIX) ? name.substring(PREFIX.length()).toLowerCase(Locale.ROOT) : name;
    switch (name) {
      case "float": return "float32";
      case "double": return "float64";
      case "float16": case "bfloat16": case "bool": case "int8": case "uint8": case "int16": case "int32": case "int64": return name;
      default: return "tensor(" + name + ")";
    }
  }

  private static OnnxJavaType typeOf(String name) throws Refused {
    switch (name) {
      case "float32": return OnnxJavaType.FLOAT;
      case "float64": return OnnxJavaType.DOUBLE;
      case "float16": return OnnxJavaType.FLOAT16;
      case "bool": return OnnxJavaType.BOOL;
      case "int8": return OnnxJavaType.INT8;
      case "uint8": return OnnxJavaType.UINT8;
      case "int16": return OnnxJavaType.INT16;
      case "int32": return OnnxJavaType.INT32;
      case "int64": return OnnxJavaType.INT64;
      default: throw new Refused("ONNX Runtime takes no tensors of " + name + " from Java");
    }
  }

  private final class Opened implements Model {
    private final OrtSession session;

    Opened(OrtSession session) {
      this.session = session;
    }

    private List<Port> ports(Map<String, NodeInfo> found) {
      List<Port> ports = new ArrayList<>();
      for (NodeInfo each : found.values()) {
        if (each.getInfo() instanceof TensorInfo) {
          TensorInfo info = (TensorInfo) each.getInfo();
          ports.add(new Port(each.getName(), nameOf(info), info.getShape()));
        } else {
          ports.add(new Port(each.getName(), "no tensor", new long[0]));
        }
      }
      return ports;
    }

    @Override
    public List<Port> inputs() throws OrtException {
      return ports(session.getInputInfo());
    }

    @Override
    public List<Port> outputs() throws OrtException {
      return ports(session.getOutputInfo());
    }

    @Override
    public Bound bind(List<Tensor> inputs) throws Exception {
      return new Fixed(session, inputs);
    }

    @Override
    public void close() throws OrtException {
      session.close();
    }
  }

  /** A session with the tensors that it reads and writes: later runs write into the outputs of the first. */
  private final class Fixed implements Bound {
    private final OrtSession session;
    private final Map<String, OnnxTensor> fed = new LinkedHashMap<>();
    private final Map<String, OnnxTensor> given = new LinkedHashMap<>();
    private OrtSession.Result first;

    Fixed(OrtSession session, List<Tensor> inputs) throws Exception {
      this.session = session;
      try {
        for (Tensor each : inputs) fed.put(each.name, OnnxTensor.createTensor(environment, each.data, each.shape, typeOf(each.type)));
        first = session.run(fed);
        for (Map.Entry<String, OnnxValue> each : first) {
          if (!(each.getValue() instanceof OnnxTensor)) throw new Refused("output " + Text.printable(each.getKey(), 80) + " is no tensor of numbers");
          given.put(each.getKey(), (OnnxTensor) each.getValue());
        }
      } catch (Exception | Error error) {
        close();
        throw error;
      }
    }

    @Override
    public void run() throws OrtException {
      session.run(fed, given).close();
    }

    @Override
    public List<Tensor> outputs() throws Refused {
      List<Tensor> found = new ArrayList<>();
      for (Map.Entry<String, OnnxTensor> each : given.entrySet()) {
        TensorInfo info = each.getValue().getInfo();
        ByteBuffer data = each.getValue().getByteBuffer();
        if (data == null) throw new Refused("output " + Text.printable(each.getKey(), 80) + " is no tensor of numbers");
        found.add(new Tensor(each.getKey(), nameOf(info), info.getShape(), data.order(ByteOrder.nativeOrder())));
      }
      return found;
    }

    @Override
    public void close() {
      for (OnnxTensor each : fed.values()) each.close();
      fed.clear();
      given.clear();
      if (first != null) first.close();
      first = null;
    }
  }
}
