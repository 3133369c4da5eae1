package org.hwnas.kit;

import java.io.BufferedInputStream;
import java.io.BufferedReader;
import java.io.File;
import java.io.FileOutputStream;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.PrintStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.concurrent.TimeUnit;

/** The kit for Android without Android: all of it that names none of its classes, on this machine's JVM, for tests. */
public final class HostKit {
  private static final PrintStream OUT = new PrintStream(new java.io.FileOutputStream(java.io.FileDescriptor.out), true);

  /** This machine, which tells an app more than a phone does. */
  private static final class Host extends Linux {
    Host() {
      super(new File(System.getProperty("root", "/")));
    }

    @Override
    public Long cpuNs() {
      return java.lang.management.ManagementFactory.getThreadMXBean().getCurrentThreadCpuTime();
    }

    @Override
    public String hindrance(long sinceNs) {
      String file = System.getProperty("hindrance", "");
      return !file.isEmpty() && new File(file).exists() ? "the app was not in front while it measured" : null;
    }
  }

  private static final class NoLease implements AgentServer.MachineLease {
    @Override
    public void take(String holder) {}

    @Override
    public void release() {}
  }

  private static Engine engine() throws Exception {
    return (Engine) Class.forName("org.hwnas.kit." + System.getProperty("engine", "PipedEngine")).getConstructor().newInstance();
  }

  public static void main(String[] words) throws Exception {
    switch (words[0]) {
      case "kit": System.exit(kit(words)); break;
      case "feed": feed(words); break;
      case "agent": agent(); System.exit(0); break;
      case "serve": serve(new File(words[1]), Long.parseLong(words[2])); break;
      case "json": json(); break;
      case "digits": digits(); break;
      case "percentiles": percentiles(); break;
      case "system": OUT.println(Json.text(new Host().system())); OUT.println(Json.text(new Host().state())); break;
      default: throw new IllegalArgumentException(words[0]);
    }
  }

  /** kit FOLDER TOP RUNS WITHIN [image.npy ...], as MainActivity does it. */
  private static int kit(String[] words) throws Exception {
    int code = 2;
    try (Kit kit = new Kit(new Manifest.Folder(new File(words[1])), engine(), OUT::println)) {
      for (int i = 5; i < words.length; ++i) kit.classify(Files.readAllBytes(new File(words[i]).toPath()), new File(words[i]).getName(), null, Integer.parseInt(words[2]), OUT::println);
      if (Integer.parseInt(words[3]) > 0) kit.time(Integer.parseInt(words[3]), words[4].equals("1"), "on a test", OUT::println);
      OUT.println("ok");
      code = 0;
    } catch (Refused error) {
      code = error.code;
      System.err.println("error: " + Text.printable(error.getMessage(), 1000));
    } catch (OutOfMemoryError error) {
      System.err.println("error: this app has no memory for it");
    }
    return code;
  }

  /** feed FOLDER IMAGE.npy OUT: the bytes that the network would be fed. */
  private static void feed(String[] words) throws Exception {
    Manifest manifest = Manifest.read(new Manifest.Folder(new File(words[1])));
    Tensor fed = Image.read(Files.readAllBytes(new File(words[2]).toPath()), new File(words[2]).getName(), manifest.channels, null).fed(manifest);
    byte[] raw = new byte[fed.data.remaining()];
    fed.data.get(raw);
    try (OutputStream file = new FileOutputStream(words[3])) {
      file.write(raw);
    }
    OUT.println(fed.type + " " + java.util.Arrays.toString(fed.shape));
  }

  /** The agent over standard input and output, as programs have it. */
  private static void agent() throws Exception {
    System.setOut(System.err);
    AgentServer.Clock clock = new AgentServer.Clock(System.in, () -> Runtime.getRuntime().halt(142), 600);
    try (Agent agent = new Agent(engine(), new Host(), holder -> {}, clock, new BufferedInputStream(System.in, 1 << 16), OUT)) {
      agent.serve();
    }
  }

  /** serve FOLDER IDLE_S: the app's server on a loopback port that it prints; every file that appears in the folder is a token. */
  private static void serve(File tokens, long idleS) throws Exception {
    AgentServer server = new AgentServer(engine(), new Host(), new NoLease(), () -> Runtime.getRuntime().halt(142), idleS, 1);
    ServerSocket socket = new ServerSocket(0, 16, InetAddress.getLoopbackAddress());
    OUT.println(socket.getLocalPort());
    new Thread(() -> {
      try {
        server.serve(() -> new Wire(socket.accept()));
      } catch (java.io.IOException error) {
        System.exit(1);
      }
    }).start();
    while (true) {
      for (File each : tokens.listFiles()) {
        try {
          server.admit(each.getName());
        } catch (Refused error) {
          System.err.println(error.getMessage());
        }
        each.delete();
      }
      TimeUnit.MILLISECONDS.sleep(10);
    }
  }

  private static final class Wire implements AgentServer.Connection {
    private final Socket socket;

    Wire(Socket socket) {
      this.socket = socket;
    }

    @Override
    public InputStream in() throws java.io.IOException {
      return socket.getInputStream();
    }

    @Override
    public OutputStream out() throws java.io.IOException {
      return socket.getOutputStream();
    }

    @Override
    public void close() throws java.io.IOException {
      socket.close();
    }
  }

  /** Of each line of standard input what is read of it, or why it is none. */
  private static void json() throws Exception {
    InputStream in = new BufferedInputStream(System.in);
    for (byte[] line; (line = Agent.line(in, 1 << 26)).length > 0; ) {
      try {
        OUT.println(Json.text(Json.parse(line)));
      } catch (Refused error) {
        OUT.println(error.getMessage());
      }
    }
  }

  private static BufferedReader lines() {
    return new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
  }

  /** Of each line `digits value` the number as it is shown. */
  private static void digits() throws Exception {
    BufferedReader in = lines();
    for (String line; (line = in.readLine()) != null; ) OUT.println(Text.digits(Double.parseDouble(line.split(" ")[1]), Integer.parseInt(line.split(" ")[0])));
  }

  /** Of each line `per_cent sorted values` the percentile, exactly. */
  private static void percentiles() throws Exception {
    BufferedReader in = lines();
    for (String line; (line = in.readLine()) != null; ) {
      String[] words = line.split(" ");
      double[] sorted = new double[words.length - 1];
      for (int i = 0; i < sorted.length; ++i) sorted[i] = Double.parseDouble(words[i + 1]);
      OUT.println(Kit.percentile(sorted, Double.parseDouble(words[0])));
    }
  }
}
