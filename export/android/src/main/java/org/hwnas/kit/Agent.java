package org.hwnas.kit;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;

/**
 * The profiling agent: hwnas's contract, version 2 (`devices/agents/agent_contract.py`), over a pair of streams. One line of JSON per request
 * and answer, models as bytes after their request, raw nanoseconds back. It decides nothing.
 */
public final class Agent implements AutoCloseable {
  static final int CONTRACT = 2, MAX_LINE_BYTES = 8 << 20, MAX_ITEMS = 100_000, MAX_OPTIONS = 64, MAX_VISITS = 100_000;
  static final long MAX_MODEL_BYTES = 1 << 30, MAX_TENSOR_ELEMENTS = 1 << 28, MAX_RUNS = 100_000, MAX_JOB_S = 86_400;

  /** What the agent runs on; null is what the system does not tell. */
  public interface Machine {
    Map<String, Object> system();

    /** What may change from minute to minute: whole numbers and truths. */
    Map<String, Object> state();

    /** alone: of the calling thread; otherwise of all threads, the virtual machine's own among them. */
    Long involuntarySwitches(boolean alone);

    Long pressureUs();

    /** CPU time of the calling thread. */
    Long cpuNs();

    /** Why nothing that ran since then, by the system's monotonic clock, or runs now, counts; null: no reason. */
    String hindrance(long sinceNs);
  }

  /** Runs out of patience. */
  public interface Alarm {
    /** A request is waited for. */
    void waiting();

    /** One is worked at, for at most so many seconds; 0: for ever. */
    void working(long seconds);
  }

  /** Holds the machine for one who measures. */
  public interface Lease {
    /** Raises Held. Does nothing where it is held by this agent already. */
    void take(String holder) throws Held;
  }

  /** Another one measures here. */
  public static final class Held extends Exception {
    public Held(String holder) {
      super(holder);
    }
  }

  private static final class Item {
    final Engine.Port[] inputs;
    final ByteBuffer bytes;
    final List<Tensor> fed;
    Engine.Model model;
    Engine.Bound bound;

    Item(ByteBuffer bytes, Engine.Port[] inputs, List<Tensor> fed) {
      this.bytes = bytes;
      this.inputs = inputs;
      this.fed = fed;
    }

    void run(long runs) throws Exception {
      if (bound == null) throw new Refused("the model could not be opened again");
      for (long i = 0; i < runs; ++i) bound.run();
    }
  }

  private static final class Burst {
    final Item item;
    final long warmups, runs;
    final boolean cold;

    Burst(Item item, long warmups, long runs, boolean cold) {
      this.item = item;
      this.warmups = warmups;
      this.runs = runs;
      this.cold = cold;
    }
  }

  private final Engine engine;
  private final Machine machine;
  private final Lease lease;
  private final Alarm alarm;
  private final InputStream in;
  private final OutputStream out;
  private final Map<String, Item> items = new LinkedHashMap<>();
  private Map<String, Object> options = null;
  private long seed = 0, threads = 1;

  /** in: better buffered. */
  public Agent(Engine engine, Machine machine, Lease lease, Alarm alarm, InputStream in, OutputStream out) {
    this.engine = engine;
    this.machine = machine;
    this.lease = lease;
    this.alarm = alarm;
    this.in = in;
    this.out = out;
  }

  /** Until `bye`, or the end of the requests. */
  public void serve() throws IOException {
    for (boolean goesOn = true; goesOn; ) {
      alarm.waiting();
      byte[] line = line(in, MAX_LINE_BYTES);
      if (line.length == 0) return;
      if (line.length > MAX_LINE_BYTES) {
        answer(failed("the request is longer than " + MAX_LINE_BYTES + " bytes"));
        return;
      }
      Map<String, Object> reply = reply(line);
      goesOn = !reply.containsKey("bye");
      answer(reply);
    }
  }

  /** A line with its end, or the last one without; empty at the end; longer than `most` where the line is. */
  static byte[] line(InputStream in, int most) throws IOException {
    java.io.ByteArrayOutputStream found = new java.io.ByteArrayOutputStream();
    for (int each; found.size() <= most && (each = in.read()) >= 0; ) {
      found.write(each);
      if (each == '\n') break;
    }
    return found.toByteArray();
  }

  private void answer(Map<String, Object> reply) throws IOException {
    out.write((Json.text(reply) + "\n").getBytes(StandardCharsets.US_ASCII));
    out.flush();
  }

  static Map<String, Object> failed(String why) {
    return said("ok", false, "error", why);
  }

  static Map<String, Object> held(String holder) {
    return said("ok", false, "held_by", holder, "error", "this machine is being measured by " + holder);
  }

  private static Map<String, Object> said(Object... pairs) {
    Map<String, Object> found = new LinkedHashMap<>();
    for (int i = 0; i < pairs.length; i += 2) found.put((String) pairs[i], pairs[i + 1]);
    return found;
  }

  private Map<String, Object> reply(byte[] line) {
    try {
      Object request = Json.parse(line);
      if (!(request instanceof Map)) throw new Refused("a request is a JSON object");
      Map<?, ?> asked = (Map<?, ?>) request;
      alarm.working(asked.containsKey("seconds") ? number(asked, "seconds", 1, MAX_JOB_S) : 0);
      Object op = asked.get("op");
      if ("hello".equals(op)) return hello(asked);
      if (("look".equals(op) || "layers".equals(op)) && options == null) throw new Refused("the first request must be hello");
      if ("look".equals(op)) return said("ok", true, "state", machine.state());
      if ("load".equals(op)) return load(asked);
      if ("run".equals(op)) return run(asked);
      if ("layers".equals(op)) {
        item(asked.get("item"));
        throw new Refused("onnxruntime times no layers here");
      }
      if ("bye".equals(op)) return said("ok", true, "bye", true);
      throw new Refused("unknown request " + quoted(op));
    } catch (Held error) {
      return held(error.getMessage());
    } catch (OutOfMemoryError error) {
      return failed("out of memory");
    } catch (Exception | StackOverflowError error) {  // whatever the runtime throws at a foreign model is the answer for that model
      return failed(Text.sentence(error));
    }
  }

  private Map<String, Object> hello(Map<?, ?> asked) throws Exception {
    if (!Long.valueOf(CONTRACT).equals(asked.get("contract")))
      throw new Refused("this agent speaks contract " + CONTRACT + ", the host " + quoted(asked.get("contract")) + "; use the agent of the same hwnas version");
    long threadsAsked = number(asked, "threads", 1, 1024), seedAsked = number(asked, "seed", 0, (1L << 32) - 1);
    Object by = asked.containsKey("by") ? asked.get("by") : "an unnamed host", wanted = asked.containsKey("options") ? asked.get("options") : Collections.emptyMap();
    if (!(by instanceof String) || ((String) by).codePointCount(0, ((String) by).length()) > 200 || !Text.printable((String) by, 200).equals(by))
      throw new Refused("by must be a text of at most 200 characters, got " + quoted(by));
    boolean plain = wanted instanceof Map && ((Map<?, ?>) wanted).size() <= MAX_OPTIONS;
    if (plain) for (Object each : ((Map<?, ?>) wanted).values()) plain &= each instanceof String || each instanceof Long || each instanceof Boolean;
    if (!plain) throw new Refused("options must be at most " + MAX_OPTIONS + " texts and whole numbers, got " + quoted(wanted));
    for (Object name : ((Map<?, ?>) wanted).keySet()) throw new Refused("unknown option " + quoted(name));
    lease.take((String) by);
    threads = threadsAsked;
    seed = seedAsked;
    options = engine.start((int) threads);
    return said("ok", true, "contract", CONTRACT, "runtime", "onnxruntime", "version", engine.version(), "options", options, "system", machine.system());
  }

  private Map<String, Object> load(Map<?, ?> asked) throws Exception {
    long size = number(asked, "bytes", 0, MAX_MODEL_BYTES);
    ByteBuffer model = null;
    boolean isWhole = true;
    try {
      model = Tensor.memory(size);
    } catch (OutOfMemoryError error) {
      // its bytes are read all the same: the next request starts after them
    }
    byte[] piece = new byte[1 << 16];
    for (long left = size; left > 0 && isWhole; ) {
      int got = in.read(piece, 0, (int) Math.min(left, piece.length));
      isWhole = got > 0;
      if (isWhole && model != null) model.put(piece, 0, got);
      left -= got;
    }
    if (options == null) throw new Refused("the first request must be hello");
    Object name = asked.get("item");
    if (!(name instanceof String) || ((String) name).isEmpty() || ((String) name).length() > 200 || items.size() >= MAX_ITEMS)
      throw new Refused("an item needs a name of 1 to 200 characters, and at most " + MAX_ITEMS + " are held");
    if (!isWhole) throw new Refused("the model was cut short");
    if (size == 0) throw new Refused("the model is empty");
    if (model == null) throw new OutOfMemoryError();
    Tensor.rewound(model);
    if (Manifest.hasExternalData(model)) throw new Refused("the model refers to external data files, which are refused");
    Item item = opened(model, new Random(seed << 20 ^ items.size()));
    long begin = System.nanoTime();
    while (items.isEmpty() && System.nanoTime() - begin < Kit.WARM_UP_NS) timed(item, 1);
    Item old = items.put((String) name, item);
    if (old != null) close(old);
    return said("ok", true, "item", name, "facts", Collections.emptyMap());
  }

  private Item opened(ByteBuffer bytes, Random random) throws Exception {
    Engine.Model model = engine.open(bytes);
    Item item = null;
    try {
      Engine.Port[] inputs = model.inputs().toArray(new Engine.Port[0]);
      List<Tensor> fed = new ArrayList<>();
      for (Engine.Port each : inputs) fed.add(filled(each, random));
      item = new Item(bytes, inputs, fed);
      item.model = model;
      item.bound = model.bind(fed);
      for (Tensor each : item.bound.outputs())
        if (!isFinite(each)) throw new Refused("output " + Text.printable(each.name, 80) + " is not finite");
      return item;
    } catch (Exception | Error error) {
      if (item != null) close(item);
      else model.close();
      throw error;
    }
  }

  /** An input: standard normal; whole numbers of eight bits any, wider ones 0 or 1, which no table of embeddings is too short for. */
  private static Tensor filled(Engine.Port port, Random random) throws Refused {
    boolean fixed = true;
    for (long size : port.shape) fixed &= size > 0;
    int bytes = bytesOf(port.type);
    if (bytes == 0 || !fixed || port.type.equals("bfloat16"))
      throw new Refused("input " + Text.printable(port.name, 80) + " is " + port.type + " " + Arrays.toString(port.shape) + "; only tensors of numbers of fixed shape are timed");
    double elements = Tensor.elements(port.shape);
    if (elements > MAX_TENSOR_ELEMENTS) throw new Refused("input " + Text.printable(port.name, 80) + " has more than " + MAX_TENSOR_ELEMENTS + " elements");
    ByteBuffer data = Tensor.memory((long) elements * bytes);
    while (data.hasRemaining()) {
      switch (port.type) {
        case "float32": data.putFloat((float) random.nextGaussian()); break;
        case "float64": data.putDouble(random.nextGaussian()); break;
        case "float16": data.putShort(half((float) random.nextGaussian())); break;
        case "int8": case "uint8": data.put((byte) random.nextInt()); break;
        case "bool": data.put((byte) random.nextInt(2)); break;
        case "int16": data.putShort((short) random.nextInt(2)); break;
        case "int32": data.putInt(random.nextInt(2)); break;
        default: data.putLong(random.nextInt(2));
      }
    }
    return new Tensor(port.name, port.type, port.shape, Tensor.rewound(data));
  }

  /** The bits of a float16, of a normal one cut, of a smaller one 0. */
  private static short half(float value) {
    int bits = Float.floatToIntBits(value), exponent = (bits >> 23 & 0xFF) - 112;
    return (short) (bits >> 16 & 0x8000 | (exponent <= 0 ? 0 : exponent << 10 | bits >> 13 & 0x3FF));
  }

  private static int bytesOf(String type) {
    switch (type) {
      case "int8": case "uint8": case "bool": return 1;
      case "float16": case "bfloat16": case "int16": return 2;
      case "float32": case "int32": return 4;
      case "float64": case "int64": return 8;
      default: return 0;
    }
  }

  /** Of IEEE numbers: not all bits of an exponent are set. */
  private static boolean isFinite(Tensor tensor) {
    ByteBuffer data = tensor.data;
    switch (tensor.type) {
      case "float32": return !hasSet(data, 4, 0x7F800000L);
      case "float64": return !hasSet(data, 8, 0x7FF0000000000000L);
      case "float16": return !hasSet(data, 2, 0x7C00L);
      case "bfloat16": return !hasSet(data, 2, 0x7F80L);
      default: return true;
    }
  }

  private static boolean hasSet(ByteBuffer data, int bytes, long mask) {
    for (int at = 0; at + bytes <= data.limit(); at += bytes) {
      long bits = bytes == 2 ? data.getShort(at) : bytes == 4 ? data.getInt(at) : data.getLong(at);
      if ((bits & mask) == mask) return true;
    }
    return false;
  }

  private Item item(Object name) throws Refused {
    Item found = name instanceof String ? items.get(name) : null;
    if (found == null) throw new Refused("no item " + quoted(name) + " is loaded");
    return found;
  }

  private Map<String, Object> run(Map<?, ?> asked) throws Refused, Exception {
    Object bursts = asked.get("items"), order = asked.get("order"), anchor = asked.get("anchor");
    if (!(bursts instanceof Map) || !(order instanceof List) || !(anchor instanceof Map) || ((List<?>) order).isEmpty() || ((List<?>) order).size() > MAX_VISITS)
      throw new Refused("run needs items, an order of 1 to " + MAX_VISITS + " visits, and an anchor");
    Map<String, Burst> known = new LinkedHashMap<>();
    for (Map.Entry<?, ?> each : ((Map<?, ?>) bursts).entrySet()) {
      if (!(each.getValue() instanceof Map)) throw new Refused("item " + quoted(each.getKey()) + " needs warmups and runs");
      Map<?, ?> burst = (Map<?, ?>) each.getValue();
      Object cold = burst.containsKey("cold") ? burst.get("cold") : false;
      if (!(cold instanceof Boolean)) throw new Refused("cold must be true or false, got " + quoted(cold));
      Item item = item(each.getKey());
      if (burst.containsKey("streams")) throw new Refused("onnxruntime runs item " + quoted(each.getKey()) + " in one stream at a time here, and a cold start is one run");
      known.put((String) each.getKey(), new Burst(item, number(burst, "warmups", 0, (Boolean) cold ? 0 : MAX_RUNS), number(burst, "runs", 1, MAX_RUNS), (Boolean) cold));
    }
    for (Object each : (List<?>) order)
      if (!(each instanceof String) || !known.containsKey(each)) throw new Refused("the order names an item that is not among the items");
    Map<?, ?> about = (Map<?, ?>) anchor;
    Burst reference = new Burst(item(about.get("item")), number(about, "warmups", 0, MAX_RUNS), number(about, "runs", 1, MAX_RUNS), false);
    List<Object> visits = new ArrayList<>();
    long begin = System.nanoTime(), before = anchorNs(reference);
    for (Object each : (List<?>) order) {
      Map<String, Object> report;
      try {
        report = visit(known.get(each));
        long after = anchorNs(reference);
        report.put("anchor_ns", new long[] {before, after});
        before = after;
      } catch (Exception error) {  // the visit is lost, the others are not
        report = said("error", Text.sentence(error));
      }
      report.put("item", each);
      visits.add(report);
    }
    String hindrance = machine.hindrance(begin);
    if (hindrance != null) throw new Refused(hindrance);
    return said("ok", true, "visits", visits, "crowding_pct", null);  // Android tells no app how busy the others are
  }

  /** One burst and what disturbed it. The probes are read before the last warm-up, so that reading them does not delay a timed run. */
  private Map<String, Object> visit(Burst burst) throws Exception {
    long last = Math.min(burst.warmups, 1);
    burst.item.run(burst.warmups - last);
    Long involuntary = machine.involuntarySwitches(threads == 1), pressure = machine.pressureUs();
    long at = System.nanoTime();
    Long cpu = threads == 1 ? machine.cpuNs() : null;
    burst.item.run(last);
    long[] ns = burst.cold ? cold(burst.item, burst.runs) : timed(burst.item, burst.runs);
    Long cpuEnd = threads == 1 ? machine.cpuNs() : null;
    long wall = System.nanoTime() - at;
    Long involuntaryEnd = machine.involuntarySwitches(threads == 1), pressureEnd = machine.pressureUs();
    return said("ns", ns, "at_ns", at, "wall_ns", wall, "cpu_ns", since(cpu, cpuEnd), "involuntary", since(involuntary, involuntaryEnd),
        "psi_us", since(pressure, pressureEnd), "steal_ms", null);
  }

  private static Long since(Long start, Long end) {
    return start == null || end == null ? null : (Long) (end - start);
  }

  private static long[] timed(Item item, long runs) throws Exception {
    if (item.bound == null) throw new Refused("the model could not be opened again");
    long[] ns = new long[(int) runs];
    Engine.Bound bound = item.bound;
    for (int i = 0; i < ns.length; ++i) {
      long start = System.nanoTime();
      bound.run();
      ns[i] = System.nanoTime() - start;
    }
    return ns;
  }

  /** Nanoseconds of opening the model and running it once, for each run. */
  private long[] cold(Item item, long runs) throws Exception {
    long[] ns = new long[(int) runs];
    for (int i = 0; i < ns.length; ++i) {
      close(item);
      long start = System.nanoTime();
      item.model = engine.open(item.bytes);
      item.bound = item.model.bind(item.fed);
      ns[i] = System.nanoTime() - start;
    }
    return ns;
  }

  /** The best of a burst of the anchor: tells the speed the machine has now. */
  private static long anchorNs(Burst anchor) throws Exception {
    anchor.item.run(anchor.warmups);
    long best = Long.MAX_VALUE;
    for (long each : timed(anchor.item, anchor.runs)) best = Math.min(best, each);
    return best;
  }

  private static void close(Item item) {
    for (AutoCloseable each : new AutoCloseable[] {item.bound, item.model}) {
      try {
        if (each != null) each.close();
      } catch (Exception error) {
        // nothing more can be done with it
      }
    }
    item.bound = null;
    item.model = null;
  }

  @Override
  public void close() {
    for (Item each : items.values()) close(each);
    items.clear();
  }

  private static String quoted(Object value) {
    String whole = value instanceof String ? "'" + Text.printable((String) value, 60) + "'" : Json.text(value);
    return whole.length() <= 60 ? whole : whole.substring(0, 60);
  }

  private static long number(Map<?, ?> asked, String key, long low, long high) throws Refused {
    Object value = asked.get(key);
    if (!(value instanceof Long) || (Long) value < low || (Long) value > high)
      throw new Refused(key + " must be a whole number from " + low + " to " + high + ", got " + quoted(value));
    return (Long) value;
  }
}
