package org.hwnas.kit;

import android.content.Context;
import android.content.Intent;
import android.content.IntentFilter;
import android.graphics.Bitmap;
import android.graphics.BitmapFactory;
import android.net.LocalServerSocket;
import android.net.LocalSocket;
import android.os.BatteryManager;
import android.os.Build;
import android.os.Debug;
import android.os.PowerManager;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.util.Map;

/** The phone: what Android tells an app of it, its decoder of images, and sockets that no other app may use. */
final class Phone extends Linux implements Image.Decoder, AgentServer.MachineLease {
  static final String SOCKET = "hwnas-kit", LEASE = "hwnas-lease";
  static final int PATIENCE_S = 5;
  private static final long MOMENT_NS = 1_000_000_000;
  private static final int SHELL_UID = 2000, ROOT_UID = 0;  // what adbd runs as
  private static final String[] THERMAL = {"none", "light", "moderate", "severe", "critical", "emergency", "shutdown"};

  private final Context context;
  private LocalServerSocket lease = null;
  private volatile boolean isInFront = false;
  private volatile long awayUntilNs = System.nanoTime(), leftNs = awayUntilNs - 2 * MOMENT_NS;

  Phone(Context context) {
    super(new File("/"));
    this.context = context;
  }

  /** Android gives an app that is not in front other cores, and less of them; not so for the moment in which it is handed another host's token. */
  void inFront(boolean is) {
    long now = System.nanoTime();
    if (!is) leftNs = now;
    else if (now - leftNs > MOMENT_NS) awayUntilNs = now;
    isInFront = is;
  }

  @Override
  public String hindrance(long sinceNs) {
    return isInFront && awayUntilNs - sinceNs < 0 ? null : "the app was not in front while it measured: unlock the phone, leave the app open, and run the same command again";
  }

  @Override
  public Long cpuNs() {
    long found = Debug.threadCpuTimeNanos();
    return found < 0 ? null : (Long) found;
  }

  static String chip() {
    String chip = Build.VERSION.SDK_INT >= 31 ? Build.SOC_MANUFACTURER + " " + Build.SOC_MODEL : Build.UNKNOWN;
    return chip.contains(Build.UNKNOWN) ? Build.BOARD + " (" + Build.HARDWARE + ")" : chip;
  }

  static String model() {
    return Build.MANUFACTURER + " " + Build.MODEL;
  }

  /** Which emulator runs Android, or nothing. */
  static String emulator() {
    boolean is = Build.HARDWARE.equals("ranchu") || Build.HARDWARE.equals("goldfish") || Build.HARDWARE.equals("cutf_cvm") || Build.FINGERPRINT.startsWith("generic");
    return is ? "Android emulator" : "";
  }

  /** `none` to `shutdown`, as Android's thermal service has it; `unknown` before Android 10. */
  String thermal() {
    int status = thermalStatus();
    return status < 0 || status >= THERMAL.length ? "unknown" : THERMAL[status];
  }

  private int thermalStatus() {
    PowerManager power = (PowerManager) context.getSystemService(Context.POWER_SERVICE);
    return Build.VERSION.SDK_INT >= 29 && power != null ? power.getCurrentThermalStatus() : -1;
  }

  /** One line, for people. */
  String conditions() {
    String cores = affinity(), kinds = clusters();
    return (emulator().isEmpty() ? "" : "emulated by " + emulator() + ", ") + model() + ", " + processor(chip()) + ", Android " + Build.VERSION.RELEASE + " (API " + Build.VERSION.SDK_INT
        + "), thermal state " + thermal() + ", " + (cores.isEmpty() ? "cores unknown" : "on cores " + cores) + (kinds.isEmpty() ? "" : " of " + kinds);
  }

  @Override
  public Map<String, Object> system() {
    Map<String, Object> system = super.system();
    system.put("processor", processor(chip()));
    system.put("model", model());
    system.put("android", Build.VERSION.RELEASE + " (API " + Build.VERSION.SDK_INT + ")");
    system.put("app", context.getPackageName());
    system.put("abi", Build.SUPPORTED_ABIS[0]);
    if (!emulator().isEmpty()) system.put("emulated", emulator());
    return system;
  }

  @Override
  public Map<String, Object> state() {
    Map<String, Object> state = super.state();
    PowerManager power = (PowerManager) context.getSystemService(Context.POWER_SERVICE);
    state.put("in_front", isInFront);
    if (thermalStatus() >= 0) state.put("thermal_status", (long) thermalStatus());
    if (power != null) state.put("power_save", power.isPowerSaveMode());
    Intent battery = context.registerReceiver(null, new IntentFilter(Intent.ACTION_BATTERY_CHANGED));
    if (battery != null) {
      int tenths = battery.getIntExtra(BatteryManager.EXTRA_TEMPERATURE, -1);
      if (tenths > 0) state.put("temperature_battery_millicelsius", 100L * tenths);
      state.put("on_mains", battery.getIntExtra(BatteryManager.EXTRA_PLUGGED, 0) == BatteryManager.BATTERY_PLUGGED_AC);
    }
    return state;
  }

  /** Looks at the size before anything is decoded; colours of another profile become sRGB's, and no image is turned as a camera's tag says. */
  @Override
  public Image decode(byte[] file) throws Refused {
    BitmapFactory.Options options = new BitmapFactory.Options();
    options.inJustDecodeBounds = true;
    BitmapFactory.decodeByteArray(file, 0, file.length, options);
    long pixels = (long) options.outWidth * options.outHeight;
    if (options.outWidth < 1 || options.outHeight < 1) throw new Refused("is no readable image");
    if (pixels > Image.MAX_PIXELS) throw new Refused("has " + options.outWidth + " x " + options.outHeight + " pixels, more than " + Image.MAX_PIXELS);
    options.inJustDecodeBounds = false;
    options.inPreferredConfig = Bitmap.Config.ARGB_8888;
    options.inPremultiplied = false;
    options.inScaled = false;
    Bitmap bitmap = BitmapFactory.decodeByteArray(file, 0, file.length, options);
    if (bitmap == null) throw new Refused("is no readable image");
    int[] argb = new int[bitmap.getWidth() * bitmap.getHeight()];
    bitmap.getPixels(argb, 0, bitmap.getWidth(), 0, 0, bitmap.getWidth(), bitmap.getHeight());
    Image image = Image.ofArgb(bitmap.getHeight(), bitmap.getWidth(), argb);
    bitmap.recycle();
    return image;
  }

  /** The lease that the agents outside of apps hold too: a name of the kernel's that is free to one program only. */
  @Override
  public synchronized void take(String holder) throws Agent.Held {
    long giveUp = System.nanoTime() + PATIENCE_S * 1_000_000_000L;
    while (lease == null) {
      try {
        lease = new LocalServerSocket(LEASE);
      } catch (IOException error) {
        if (!String.valueOf(error.getMessage()).contains("in use")) return;
        if (System.nanoTime() - giveUp > 0) throw new Agent.Held("another program on this phone");
        try {
          Thread.sleep(100);
        } catch (InterruptedException interrupted) {
          Thread.currentThread().interrupt();
          throw new Agent.Held("another program on this phone");
        }
      }
    }
  }

  @Override
  public synchronized void release() {
    try {
      if (lease != null) lease.close();
    } catch (IOException error) {
      // the kernel frees it with the program
    }
    lease = null;
  }

  /** Connections of `adb forward` alone: other apps are of other users. */
  static AgentServer.Listener listener() throws IOException {
    final LocalServerSocket server = new LocalServerSocket(SOCKET);
    return () -> {
      while (true) {
        LocalSocket socket = server.accept();
        int uid = socket.getPeerCredentials().getUid();
        if (uid == SHELL_UID || uid == ROOT_UID) return new Wire(socket);
        socket.close();
      }
    };
  }

  private static final class Wire implements AgentServer.Connection {
    private final LocalSocket socket;

    Wire(LocalSocket socket) {
      this.socket = socket;
    }

    @Override
    public InputStream in() throws IOException {
      return socket.getInputStream();
    }

    @Override
    public OutputStream out() throws IOException {
      return socket.getOutputStream();
    }

    @Override
    public void close() throws IOException {
      try {
        socket.shutdownInput();  // closing alone leaves whoever reads
        socket.shutdownOutput();
      } finally {
        socket.close();
      }
    }
  }
}
