package org.hwnas.kit;

import java.io.BufferedReader;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;

/** What Linux shows a program of itself and of the machine, as the other agents read it; Android shows apps less, and what it hides is left out. */
public class Linux implements Agent.Machine {
  private final File root;

  /** root: `/`, or a folder with files as a phone has them, for tests. */
  public Linux(File root) {
    this.root = root;
  }

  private List<String> lines(String path, int most) {
    List<String> found = new ArrayList<>();
    try (BufferedReader file = new BufferedReader(new InputStreamReader(new FileInputStream(new File(root, path)), StandardCharsets.UTF_8))) {
      for (String line; found.size() < most && (line = file.readLine()) != null; ) found.add(line);
    } catch (IOException | SecurityException error) {
      // not shown here
    }
    return found;
  }

  private String firstLine(String path) {
    List<String> found = lines(path, 1);
    return found.isEmpty() ? "" : found.get(0).replace("\0", "").trim();
  }

  private Long number(String path) {
    return whole(firstLine(path));
  }

  private static Long whole(String text) {
    return text.matches("-?[0-9]{1,18}") ? Long.valueOf(text) : null;
  }

  /** What stands behind a name in a file of lines `name: value`; empty where it is not there. */
  private String field(String path, String name) {
    for (String line : lines(path, 1000)) if (line.startsWith(name + ":")) return line.substring(name.length() + 1).trim();
    return "";
  }

  // ---- disturbances, null where the system does not tell

  @Override
  public Long involuntarySwitches(boolean alone) {
    if (alone) return whole(field("proc/thread-self/status", "nonvoluntary_ctxt_switches"));
    String[] threads = new File(root, "proc/self/task").list();
    long sum = 0;
    for (String each : threads == null ? new String[0] : threads) {
      Long found = whole(field("proc/self/task/" + each + "/status", "nonvoluntary_ctxt_switches"));
      sum += found == null ? 0 : found;  // a thread that ended meanwhile
    }
    return threads == null ? null : (Long) sum;
  }

  @Override
  public Long pressureUs() {
    String line = firstLine("proc/pressure/cpu");
    return whole(line.substring(line.lastIndexOf('=') + 1));
  }

  /** Of the thread that measures: only the system's own clock is fine enough, and Java has none; Android has. */
  @Override
  public Long cpuNs() {
    return null;
  }

  @Override
  public String hindrance(long sinceNs) {
    return null;
  }

  // ---- what it is

  /** `4-7`: the cores that this program may run on. */
  String affinity() {
    return field("proc/self/status", "Cpus_allowed_list");
  }

  private static List<Integer> cores(String list) {
    List<Integer> found = new ArrayList<>();
    for (String part : list.split(",")) {
      if (!part.matches("[0-9]{1,4}(-[0-9]{1,4})?")) continue;
      String[] ends = part.split("-");
      for (int core = Integer.parseInt(ends[0]); core <= Integer.parseInt(ends[ends.length - 1]) && found.size() < 1024; ++core) found.add(core);
    }
    return found;
  }

  /** `0-3,6`, as Linux writes lists of cores. */
  private static String list(List<Integer> cores) {
    StringBuilder text = new StringBuilder();
    for (int i = 0, last; i < cores.size(); i = last + 1) {
      for (last = i; last + 1 < cores.size() && cores.get(last + 1) == cores.get(last) + 1; ) ++last;
      text.append(text.length() == 0 ? "" : ",").append(cores.get(i));
      if (last > i) text.append('-').append(cores.get(last));
    }
    return text.toString();
  }

  private static String folder(int core) {
    return "sys/devices/system/cpu/cpu" + core + "/cpufreq/";
  }

  /** `0-3 to 1800 MHz, 4-7 to 2400 MHz`: which cores are alike, by the clock rate they can reach; empty where the system does not tell. */
  String clusters() {
    Map<Long, List<Integer>> byRate = new TreeMap<>();
    for (int core : cores(firstLine("sys/devices/system/cpu/possible"))) {
      Long khz = number(folder(core) + "cpuinfo_max_freq");
      if (khz == null) continue;
      if (!byRate.containsKey(khz)) byRate.put(khz, new ArrayList<Integer>());
      byRate.get(khz).add(core);
    }
    StringBuilder text = new StringBuilder();
    for (Map.Entry<Long, List<Integer>> each : byRate.entrySet())
      text.append(text.length() == 0 ? "" : ", ").append(list(each.getValue())).append(" to ").append(each.getKey() / 1000).append(" MHz");
    return text.toString();
  }

  private String governor() {
    TreeSet<String> found = new TreeSet<>();
    for (int core : cores(affinity())) found.add(firstLine(folder(core) + "scaling_governor"));
    found.remove("");
    return found.isEmpty() ? "unknown" : found.toString().replaceAll("[\\[\\]]", "");
  }

  /** Of /proc/cpuinfo: the values of a key, each once, in order. */
  private String cpuinfo(String key) {
    List<String> found = new ArrayList<>();
    for (String line : lines("proc/cpuinfo", 10000)) {
      int colon = line.indexOf(':');
      if (colon < 0 || !line.substring(0, colon).trim().equals(key)) continue;
      String value = line.substring(colon + 1).trim();
      if (!value.isEmpty() && !found.contains(value)) found.add(value);
    }
    StringBuilder text = new StringBuilder();
    for (String each : found) text.append(text.length() == 0 ? "" : " ").append(each);
    return text.toString();
  }

  /** chip: what the system calls the processor, where it has a name for it. */
  String processor(String chip) {
    if (!cpuinfo("model name").isEmpty()) return firstOf("proc/cpuinfo", "model name");
    String name = !chip.isEmpty() ? chip : !cpuinfo("Hardware").isEmpty() ? cpuinfo("Hardware") : firstLine("proc/device-tree/model");
    if (name.isEmpty()) name = System.getProperty("os.arch", "unknown");
    String kinds = cpuinfo("CPU implementer");
    return kinds.isEmpty() ? name : name + " (implementer " + kinds + ", parts " + cpuinfo("CPU part") + ")";
  }

  private String firstOf(String path, String key) {
    for (String line : lines(path, 100)) if (line.startsWith(key)) return line.substring(line.indexOf(':') + 1).trim();
    return "";
  }

  @Override
  public Map<String, Object> system() {
    Map<String, Object> system = new LinkedHashMap<>();
    system.put("processor", processor(""));
    system.put("cores", (long) Runtime.getRuntime().availableProcessors());
    system.put("affinity", affinity());
    system.put("clusters", clusters());
    system.put("governor", governor());
    system.put("os", System.getProperty("os.name", "unknown") + " " + System.getProperty("os.version", ""));
    system.put("arch", System.getProperty("os.arch", "unknown"));
    system.values().removeAll(java.util.Collections.singleton((Object) ""));
    return system;
  }

  @Override
  public Map<String, Object> state() {
    Map<String, Object> state = new LinkedHashMap<>();
    long step = Long.MAX_VALUE, before = System.nanoTime();
    for (int i = 0; i < 10000; ++i) {
      long now = System.nanoTime();
      if (now > before) step = Math.min(step, now - before);
      before = now;
    }
    state.put("clock_step_ns", step);
    Long available = whole(field("proc/meminfo", "MemAvailable").replace(" kB", ""));
    state.put("memory_available_bytes", available == null ? null : (Object) (available << 10));
    List<Integer> cores = cores(affinity());
    state.put("usable_cores", cores.isEmpty() ? null : (Object) (long) cores.size());
    String folder = folder(cores.isEmpty() ? 0 : cores.get(0));
    state.put("frequency_cur_khz", number(folder + "scaling_cur_freq"));
    state.put("frequency_limit_khz", number(folder + "scaling_max_freq"));
    state.put("frequency_max_khz", number(folder + "cpuinfo_max_freq"));
    state.values().removeAll(java.util.Collections.singleton(null));
    return state;
  }
}
