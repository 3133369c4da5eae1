package org.hwnas.kit;

import java.io.BufferedInputStream;
import java.io.Closeable;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.text.SimpleDateFormat;
import java.util.Collections;
import java.util.Date;
import java.util.HashSet;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.TimeZone;
import java.util.Timer;
import java.util.TimerTask;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;

/**
 * Gives the agent to one host at a time. The first line of a connection is `{"token": T}` with a token that was admitted, for one connection;
 * after the answer `{"ok": true}` the contract begins. While one measures, another is told who does.
 */
public final class AgentServer {
  static final int MAX_CONNECTIONS = 8, MAX_TOKENS = 16, MAX_TOKEN_BYTES = 256, GREETING_S = 10;

  /** A stream to somebody and back. Closing it ends whoever reads from it. */
  public interface Connection extends Closeable {
    InputStream in() throws IOException;

    OutputStream out() throws IOException;
  }

  public interface Listener {
    /** The next one who asks. */
    Connection accept() throws IOException;
  }

  /** The machine's lease, which agents of other kinds heed too. */
  public interface MachineLease extends Agent.Lease {
    void release();
  }

  private final Engine engine;
  private final Agent.Machine machine;
  private final MachineLease lease;
  private final Runnable end;
  private final long idleS, patienceS;
  private final Set<String> tokens = Collections.synchronizedSet(new HashSet<String>());
  private final Semaphore places = new Semaphore(MAX_CONNECTIONS), one = new Semaphore(1);
  private volatile String holder = "another host";

  /**
   * end: ends this program, where a job does not end; idleS: after so many seconds without a request the next host may come; patienceS: so long
   * is the next one kept waiting, for the job of a host that was killed ends before its place is free.
   */
  public AgentServer(Engine engine, Agent.Machine machine, MachineLease lease, Runnable end, long idleS, long patienceS) {
    this.engine = engine;
    this.machine = machine;
    this.lease = lease;
    this.end = end;
    this.idleS = idleS;
    this.patienceS = patienceS;
  }

  /** Lets one who knows it connect, once. Raises Refused where it is no token, or too many wait. */
  public void admit(String token) throws Refused {
    if (token == null || !token.matches("[0-9a-f]{32}")) throw new Refused("a token is 32 hexadecimal digits");
    if (tokens.size() >= MAX_TOKENS) throw new Refused(MAX_TOKENS + " hosts were admitted and never came; start the app again");
    tokens.add(token);
  }

  /** Until the listener fails. */
  public void serve(Listener listener) throws IOException {
    while (true) {
      final Connection connection = listener.accept();
      if (!places.tryAcquire()) {
        connection.close();
        continue;
      }
      new Thread(() -> {
        try {
          greet(connection);
        } catch (IOException error) {
          // whoever it was is gone
        } finally {
          places.release();
          close(connection);
        }
      }, "hwnas-agent").start();
    }
  }

  private void greet(Connection connection) throws IOException {
    Clock clock = new Clock(connection, end, GREETING_S);
    clock.waiting();
    try {
      InputStream in = new BufferedInputStream(connection.in(), 1 << 16);
      if (!isAdmitted(Agent.line(in, MAX_TOKEN_BYTES))) {
        say(connection, Agent.failed("this connection has no token of a host that was admitted; start the app anew for it"));
        return;
      }
      say(connection, Collections.<String, Object>singletonMap("ok", true));
      if (!one.tryAcquire(patienceS, TimeUnit.SECONDS)) {
        Agent.line(in, Agent.MAX_LINE_BYTES);
        say(connection, Agent.held(holder));
        return;
      }
      clock.patience = idleS;
      try (Agent agent = new Agent(engine, machine, this::take, clock, in, connection.out())) {
        agent.serve();
      } finally {
        lease.release();
        holder = "another host";
        one.release();
      }
    } catch (InterruptedException error) {
      Thread.currentThread().interrupt();
    } finally {
      clock.stop();
    }
  }

  private void take(String by) throws Agent.Held {
    lease.take(by);
    SimpleDateFormat time = new SimpleDateFormat("yyyy-MM-dd HH:mm:ss 'UTC'", Locale.ROOT);
    time.setTimeZone(TimeZone.getTimeZone("UTC"));
    holder = by + ", since " + time.format(new Date());
  }

  /** Compares in a time that does not tell how much of a token was right. */
  private boolean isAdmitted(byte[] line) {
    Object said;
    try {
      said = Json.parse(line);
    } catch (Refused error) {
      return false;
    }
    Object token = said instanceof Map ? ((Map<?, ?>) said).get("token") : null;
    if (!(token instanceof String)) return false;
    String found = null;
    synchronized (tokens) {
      for (String each : tokens) if (MessageDigest.isEqual(bytes(each), bytes((String) token))) found = each;
      return found != null && tokens.remove(found);
    }
  }

  private static byte[] bytes(String text) {
    return text.getBytes(StandardCharsets.UTF_8);
  }

  private static void say(Connection connection, Map<String, Object> what) throws IOException {
    connection.out().write(bytes(Json.text(what) + "\n"));
    connection.out().flush();
  }

  private static void close(Closeable each) {
    try {
      each.close();
    } catch (IOException error) {
      // it is gone
    }
  }

  /** Costs nothing until it strikes: a host that says nothing is left, a job that does not end ends the program, native code and all. */
  static final class Clock implements Agent.Alarm {
    private final Timer timer = new Timer("hwnas-clock", true);
    private final Closeable connection;
    private final Runnable end;
    private TimerTask next = null;
    volatile long patience;

    Clock(Closeable connection, Runnable end, long patience) {
      this.connection = connection;
      this.end = end;
      this.patience = patience;
    }

    private synchronized void set(final Runnable then, long seconds) {
      if (next != null) next.cancel();
      next = new TimerTask() {
        @Override
        public void run() {
          then.run();
        }
      };
      if (seconds > 0) timer.schedule(next, 1000 * seconds);
    }

    @Override
    public void waiting() {
      set(() -> close(connection), patience);
    }

    @Override
    public void working(long seconds) {
      set(end, seconds);
    }

    void stop() {
      timer.cancel();
    }
  }
}
