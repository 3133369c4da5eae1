package org.hwnas.kit;

import android.app.Activity;
import android.content.Intent;
import android.graphics.Color;
import android.graphics.Typeface;
import android.net.Uri;
import android.os.Bundle;
import android.util.Log;
import android.view.WindowManager;
import android.widget.Button;
import android.widget.LinearLayout;
import android.widget.ScrollView;
import android.widget.TextView;
import java.io.File;
import java.io.FileInputStream;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.InputStream;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/**
 * Checks and times the network that this app was built with, and classifies images; or, started with a token, is the agent that hwnas measures
 * with. What it says is on the screen and in the log, under the tag `hwnas`.
 */
public final class MainActivity extends Activity implements Kit.Printer {
  private static final String TAG = "hwnas";
  private static final int CHOOSE = 1;
  private static final long IDLE_S = 600;
  private static final int MAX_TOP = 1000, MAX_RUNS = 100_000;

  private static final ExecutorService WORK = Executors.newSingleThreadExecutor();
  private static Phone phone = null;
  private static AgentServer agent = null;
  private static Kit kit = null;
  private TextView screen;
  private Intent asked = null;  // until the app is in front
  private String run = "-";

  @Override
  protected void onCreate(Bundle saved) {
    super.onCreate(saved);
    getWindow().addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON);
    getExternalFilesDir(null);  // makes the folder that images are pushed into
    screen = new TextView(this);
    screen.setTypeface(Typeface.MONOSPACE);
    screen.setTextIsSelectable(true);
    Button choose = new Button(this);
    choose.setText("Choose an image");
    choose.setOnClickListener(view -> startActivityForResult(new Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("image/*"), CHOOSE));
    LinearLayout column = new LinearLayout(this);
    column.setOrientation(LinearLayout.VERTICAL);
    column.setFitsSystemWindows(true);
    column.addView(choose);
    ScrollView scroll = new ScrollView(this);
    scroll.addView(screen);
    column.addView(scroll);
    setContentView(column);
    if (phone == null) phone = new Phone(getApplicationContext());
    if (saved == null) asked = getIntent();
  }

  @Override
  protected void onNewIntent(Intent intent) {
    super.onNewIntent(intent);
    asked = intent;
  }

  @Override
  protected void onResume() {
    super.onResume();
    phone.inFront(true);
    if (asked != null) begin(asked);
    asked = null;
  }

  @Override
  protected void onPause() {
    phone.inFront(false);
    super.onPause();
  }

  /** `agent`: a token; else `run`, `image`, `top`, `runs`, `within_bound`, as run.py gives them. Any app may send these. */
  private void begin(Intent intent) {
    try {
      if (intent.hasExtra("agent")) serve(intent.getStringExtra("agent"));
      else WORK.execute(() -> check(intent));
    } catch (RuntimeException error) {  // extras that cannot be read
      line("error: " + Text.sentence(error));
    }
  }

  private void serve(String token) {
    WORK.execute(() -> {
      try {
        if (kit != null) kit.close();
        kit = null;
        if (agent == null) {
          AgentServer.Listener listener = Phone.listener();
          agent = new AgentServer(new OrtEngine(), phone, phone, () -> Runtime.getRuntime().halt(1), IDLE_S, Phone.PATIENCE_S);
          AgentServer server = agent;
          new Thread(() -> {
            try {
              server.serve(listener);
            } catch (IOException error) {
              Runtime.getRuntime().halt(1);  // without its socket it is no agent
            }
          }, "hwnas-server").start();
        }
        agent.admit(token);
        line("agent of hwnas: leave this app open while it measures");
      } catch (Refused | IOException | RuntimeException | LinkageError error) {
        line("error: " + Text.sentence(error));
      }
    });
  }

  private interface Job {
    void run() throws Refused, IOException;
  }

  private void check(Intent intent) {
    String name = intent.getStringExtra("run");
    run = name != null && name.matches("[0-9a-f]{1,32}") ? name : "-";
    ended(() -> {
      if (kit != null) kit.close();
      kit = null;
      kit = new Kit(new Assets(), new OrtEngine(), this);  // the agent has one of its own, with other threads
      String image = intent.getStringExtra("image");
      if (image != null) {
        File file = new File(getExternalFilesDir(null), image);
        if (!Manifest.isPlain(image) || image.indexOf('/') >= 0) throw new Refused("an image is named by its name in " + file.getParent());
        try (InputStream in = new FileInputStream(file)) {
          kit.classify(Manifest.bytes(in, Manifest.MAX_FILE_BYTES, image), image, phone, limited(intent.getIntExtra("top", 5), MAX_TOP), this);
        } catch (FileNotFoundException error) {
          throw new Refused("there is no " + Text.printable(file.toString(), 200) + "; push it there");
        }
      }
      int runs = limited(intent.getIntExtra("runs", 100), MAX_RUNS);
      if (runs > 0) {
        long begin = System.nanoTime();
        String before = phone.thermal();
        kit.time(runs, intent.getBooleanExtra("within_bound", false), phone.conditions() + " (" + before + " before)", this);
        if (phone.hindrance(begin) != null) line("         " + phone.hindrance(begin));
      }
    });
  }

  private static int limited(int value, int most) {
    return Math.max(0, Math.min(value, most));
  }

  @Override
  protected void onActivityResult(int request, int result, Intent data) {
    super.onActivityResult(request, result, data);
    Uri chosen = request == CHOOSE && result == RESULT_OK && data != null ? data.getData() : null;
    if (chosen == null) return;
    WORK.execute(() -> ended(() -> {
      if (kit == null) throw new Refused("there is no network to classify it with");
      try (InputStream in = getContentResolver().openInputStream(chosen)) {
        if (in == null) throw new Refused("that image cannot be read");
        kit.classify(Manifest.bytes(in, Manifest.MAX_FILE_BYTES, "that image"), "image", phone, 5, this);
      } catch (SecurityException error) {
        throw new Refused("that image cannot be read");
      }
    }));
  }

  /** Says how a job ended: by `ok`, or by one sentence on red. */
  private void ended(Job job) {
    int code = 2;
    String said;
    try {
      job.run();
      code = 0;
      said = "ok";
    } catch (Refused error) {
      code = error.code;
      said = "error: " + Text.printable(error.getMessage(), 1000);
    } catch (OutOfMemoryError error) {
      said = "error: this app has no memory for it";
    } catch (IOException | RuntimeException | LinkageError error) {
      said = "error: " + Text.sentence(error);
    }
    line(said);
    Log.i(TAG, run + " exit " + code);
    int colour = code == 0 ? Color.TRANSPARENT : Color.rgb(255, 170, 170);
    runOnUiThread(() -> screen.setBackgroundColor(colour));
  }

  @Override
  public void line(String text) {
    Log.i(TAG, run + " " + text);
    runOnUiThread(() -> screen.append(text + "\n"));
  }

  /** What the build put into this app of the exported folder: the manifest, the model, the example. */
  private final class Assets implements Manifest.Source {
    @Override
    public InputStream open(String name) throws IOException, Refused {
      if (!Manifest.isPlain(name)) throw new Refused("the manifest names '" + Text.printable(name, 80) + "', which is not inside of this app");
      try {
        return getAssets().open("exported/" + name);
      } catch (FileNotFoundException error) {
        if (name.equals("manifest.json")) throw new Refused("this app was built without a network: it is an agent only; build it in an exported folder");
        return null;
      }
    }

    @Override
    public String path(String name) {
      return Text.printable("assets/exported/" + name, 200);
    }

    @Override
    public boolean isWhole() {
      return false;
    }
  }
}
