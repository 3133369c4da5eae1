package org.hwnas.kit;

import java.nio.ByteBuffer;
import java.util.List;
import java.util.Map;

/** What runs models: ONNX Runtime, or in tests something else that runs them with it. */
public interface Engine {
  String version();

  /** How models opened from now on are run; the options in force. */
  Map<String, Object> start(int threads) throws Exception;

  /** A model of these bytes, which stay as they are while it is open. */
  Model open(ByteBuffer model) throws Exception;

  /** An input or output: type is numpy's name of it, or ONNX's where numpy has none; a size is -1 where it is free. */
  final class Port {
    final String name, type;
    final long[] shape;

    public Port(String name, String type, long[] shape) {
      this.name = name;
      this.type = type;
      this.shape = shape;
    }
  }

  interface Model extends AutoCloseable {
    List<Port> inputs() throws Exception;

    List<Port> outputs() throws Exception;

    /** Runs once, and keeps the memory of inputs and outputs for further runs. */
    Bound bind(List<Tensor> inputs) throws Exception;
  }

  interface Bound extends AutoCloseable {
    /** What is timed. */
    void run() throws Exception;

    /** What the last run gave. */
    List<Tensor> outputs() throws Exception;
  }
}
