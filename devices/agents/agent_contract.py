"""The contract of the agents that are Python programs, version 2, and everything of it that no runtime is needed for.

An agent is one program: this file followed by the file of its runtime, `NAME_agent.py`, whose line `from agent_contract import ...` stands
for this text where the agent is sent to a device as one source. Python >= 3.8; nothing of hwnas.

The host writes requests to stdin and reads answers from stdout; each is one line of JSON. The host decides everything (what, in which
order, how often, what counts); the agent only runs and reports raw nanoseconds.

  {"op": "hello", "contract": 2, "threads": 1, "seed": 0}      must come first; "by": who measures, for others who would; "options":
                                                               {name: value} of the runtime, from the device's file
      -> {"ok": true, "contract": 2, "runtime": "onnxruntime", "version": ..., "options": {...}, "system": {...}}
         in system "affinity", such as "4-7": the cores that it may run on, where the system tells; it is compared with what was asked for;
         "not_told": what of this contract the agent cannot tell here, and why, where there is any such thing
      or, where another agent measures on this machine, {"ok": false, "held_by": who and since when, "error": ...}
  {"op": "look"} -> {"ok": true, "state": {...}}                clock, load, memory, frequencies and temperatures as they are now
  {"op": "load", "item": "e0", "bytes": N}, then exactly N bytes of a model with inputs of fixed shape
      -> {"ok": true, "item": "e0"}                             it stays loaded until the end; "facts": {...} of how it is executed, among
                                                                them, of models that are not all float32, "computed_in_TYPE": how many
                                                                convolutions and matrix products read that type, such as float32 or uint8;
                                                                and, where the runtime tells, "nodes", "nodes_elsewhere": on another
                                                                provider than the first asked for, and "partitions" of the first
  {"op": "run", "items": {"e0": {"warmups": 3, "runs": 50}}, "order": ["e0", ...], "anchor": {"item": "a", "warmups": 1, "runs": 5}}
      -> {"ok": true, "visits": [...]}                          one per entry of `order`:
         {"item", "ns": [each timed run], "anchor_ns": [best of the anchor's burst before, after], "at_ns": start on a monotonic clock,
          "wall_ns", "cpu_ns": of the burst, "involuntary": context switches, "psi_us": CPU pressure (some), "steal_ms"},
         the last four null where the system does not tell; or {"item", "error"}. Beside them "crowding_pct": of the cores that this
         agent's threads leave free, how much other programs used meanwhile; null where unknown, or the request took less than 0.2 s
         With "cold": true beside warmups (then 0) and runs, each run opens the model anew, and its time is that of opening and running it.
         With "streams": K beside them, K threads at once do the warm-ups and then the runs, each on memory of its own: "ns" has all K times
         runs of them, one stream after the other, and "busy_ns" is from the first timed run's start to the last one's end.
  {"op": "layers", "item": "e0", "runs": 20}                    what each layer takes, by the runtime's own profiler: a pass of its own, after
      -> {"ok": true, "item": "e0", "layers": [[name, ns], ...]}  which nothing that is timed is profiled. Shares of a run; their sum is no latency
  {"op": "bye"} -> {"ok": true}, then the program ends; so it does at the end of stdin.

A request that cannot be answered gets {"ok": false, "error": "one sentence"}; the program goes on. No path is taken from the host,
models with external data are refused, sizes are limited. Inputs are random, of the given seed: floating-point numbers standard normal,
whole numbers of eight bits any, wider ones 0 or 1, which are valid as token, type, position and mask alike. Outputs must be finite.

Any request may give "seconds", after which the system ends this program if it has not answered; so it does where no request comes for
ten minutes, its host being gone. What the machine has no memory for is an error. From hello on it holds the machine's lease: one agent
measures at a time, whoever started it. HWNAS_LEASE in its environment names another lease than the machine's, or, empty, none.

"system" has at least "processor"; where an emulator stands in for a processor it has "emulated", the emulator's name, so that no number
passes for a measured one. User-mode emulators are noticed; HWNAS_EMULATED in the environment names any other.

The file of a runtime may import others of this folder in the same way. It calls `main` with an object that has `name` and `version` (texts),
`system` ({name: text or whole number} of what else it rests on; its `processor` is the one that models run on, where that is not the host's),
`start(threads, options) -> the options in force`, all of `options` being among them, `load(model, seed) -> item`, and `state()`, for `look`. An
item has `warm_up(runs)`, `timed(runs) -> [ns]`, `open()`, which opens the model anew, `facts`, and, where its runtime has a profiler,
`layers(runs) -> [(name, ns)]`; where several runs may be under way at once, `stream(number)`, which returns something with `warm_up` and
`timed` and memory of its own, the same for the same number; and `on_accelerator`, true where the CPU waits while another processor computes:
CPU time then says nothing, and is null. All raise Refused with one sentence.
"""

import errno
import gc
import json
import os
import platform
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

CONTRACT = 2
MAX_LINE_BYTES = 8 << 20
MAX_MODEL_BYTES = 1 << 30
MAX_TENSOR_ELEMENTS = 1 << 28
MAX_ITEMS = 100000
MAX_OPTIONS = 64
MAX_VISITS = 100000
MAX_RUNS = 100000
MAX_STREAMS = 1024
MAX_JOB_S = 86400
LEAST_CROWDING_S = 0.2  # the system counts in steps of 10 ms
LEAST_SPARE_CORES = 0.2
IDLE_S = 600
EXTERNAL_DATA_KEY = b"\x0a\x08location"  # StringStringEntryProto.key = "location", which only external tensors carry
LEASE_PATIENCE_S = 5  # an agent whose host was killed ends after what it is running


class Refused(Exception):
    """A request that is answered with one sentence."""


class Held(Refused):
    """Another agent has the lease."""


def quoted(value):
    return repr(value)[:60]


def sentence(error):
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def refuse_external_data(model):
    """Before anything is opened: a model's tensors are in the model."""
    if EXTERNAL_DATA_KEY in model:
        raise Refused("the model refers to external data files, which are refused")


def involuntary_switches():
    return None if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def read_first_line(path):
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            return file.readline()
    except OSError:
        return ""


def pressure_us():
    """Microseconds in which some task of this system waited for a CPU (Linux pressure stall information)."""
    total = read_first_line("/proc/pressure/cpu").rpartition("total=")[2].strip()
    return int(total) if total.isdigit() else None


def steal_ms():
    """Milliseconds in which the hypervisor ran something else."""
    fields = read_first_line("/proc/stat").split()
    return int(fields[8]) * 1000 // os.sysconf("SC_CLK_TCK") if len(fields) > 8 else None


def busy_ms():
    """Milliseconds in which the cores of this machine computed, summed over them; None where the system does not tell."""
    fields = read_first_line("/proc/stat").split()
    return sum(map(int, (fields[i] for i in (1, 2, 3, 6, 7)))) * 1000 / os.sysconf("SC_CLK_TCK") if len(fields) > 7 else None


class Crowding:
    """How much other programs use of the cores that the measured threads leave free, from now on."""

    def __init__(self, threads):
        self.spare = max((os.cpu_count() or 1) - threads, LEAST_SPARE_CORES)
        self.wall, self.own, self.busy = time.perf_counter(), time.process_time(), busy_ms()

    def pct(self):
        wall, own, busy = time.perf_counter() - self.wall, time.process_time() - self.own, busy_ms()
        if wall < LEAST_CROWDING_S or busy is None or self.busy is None:
            return None
        return max(0, round(100 * ((busy - self.busy) / 1000 - own) / wall / self.spare))


PROBES = (("involuntary", involuntary_switches), ("psi_us", pressure_us), ("steal_ms", steal_ms))


def timed_cold(item, runs):
    """Nanoseconds of opening the model and running it once, for each run."""
    ns = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        item.open()
        item.warm_up(1)
        ns.append(time.perf_counter_ns() - start)
    return ns


def timed_streams(item, n, warmups, runs):
    """(nanoseconds of n times `runs` runs, those from the first one's start to the last one's end)."""
    streams = [item.stream(number) for number in range(n)]
    gate, found, errors = threading.Barrier(n), [None] * n, []

    def work(number):
        try:
            streams[number].warm_up(warmups)
            gate.wait()
            start = time.perf_counter_ns()
            ns = streams[number].timed(runs)
            found[number] = (start, ns, time.perf_counter_ns())
        except Exception as error:  # the others must not wait for this one; what they say of it is of no interest
            errors.append(error)
            gate.abort()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(n)]
    try:
        for thread in threads:
            thread.start()
    except RuntimeError:  # more than the system has
        gate.abort()
        raise
    for thread in threads:
        thread.join()
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    return [each for _, ns, _ in found for each in ns], max(end for _, _, end in found) - min(start for start, _, _ in found)


def visit(item, warmups, runs, cold, streams):
    """One burst and what disturbed it. The probes are read before the last warm-up, so that reading them does not delay a timed run."""
    last = 0 if streams else min(warmups, 1)
    if not streams:
        item.warm_up(warmups - last)
    before = [probe() for _, probe in PROBES]
    at, cpu = time.perf_counter_ns(), time.process_time_ns()
    item.warm_up(last)
    ns, busy = timed_streams(item, streams, warmups, runs) if streams else (timed_cold(item, runs) if cold else item.timed(runs), None)
    wall, cpu = time.perf_counter_ns() - at, None if getattr(item, "on_accelerator", False) else time.process_time_ns() - cpu
    report = {"ns": ns, "at_ns": at, "wall_ns": wall, "cpu_ns": cpu}
    if streams:
        report["busy_ns"] = busy
    for (name, probe), start in zip(PROBES, before):
        end = probe()
        report[name] = None if start is None or end is None else end - start
    return report


def anchor_ns(item, warmups, runs):
    """The best of a burst of the anchor: tells the speed the machine has now."""
    item.warm_up(warmups)
    return min(item.timed(runs))


def machine_of(program):
    """For which processor a program was built, as its ELF header has it; None where it has none."""
    try:
        with Path(program).open("rb") as file:
            header = file.read(20)
    except OSError:
        return None
    return header[18:20] if header[:4] == b"\x7fELF" and len(header) == 20 else None


def emulator():
    """What translates this program's instructions, empty where the processor runs them: their times say nothing about any device.

    An emulator of user programs (qemu-user and its kin) is the program that the system really runs, built for another processor than
    this one. They show a program itself as /proc/self/exe, but not by way of its tasks.
    """
    said = os.environ.get("HWNAS_EMULATED", "")
    running = Path(f"/proc/self/task/{os.getpid()}/exe")
    ours, real = machine_of(sys.executable), machine_of(running)
    if said or ours is None or real is None or ours == real:
        return said[:60]
    return running.resolve().name[:60]


def usable_cores():
    """Numbers of the cores that this program may run on, sorted; none where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def list_of(cores):
    """`0-3,6`, as Linux writes lists of cores."""
    firsts = [core for core in cores if core - 1 not in cores]
    lasts = [core for core in cores if core + 1 not in cores]
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in zip(firsts, lasts))


def core_folder(core):
    return Path(f"/sys/devices/system/cpu/cpu{core}")


def clusters():
    """`0-3 to 1800 MHz, 4-7 to 2400 MHz`: which cores are alike, by the clock rate they can reach; empty where the system does not tell."""
    by_rate = {}
    for core in range(os.cpu_count() or 0):
        khz = number_in(core_folder(core) / "cpufreq/cpuinfo_max_freq")
        if khz:
            by_rate.setdefault(khz, []).append(core)
    return ", ".join(f"{list_of(cores)} to {khz // 1000} MHz" for khz, cores in sorted(by_rate.items()))


def processor():
    """What /proc/cpuinfo calls it; ARM has no such name: there it is the board's, and what kinds of cores it has."""
    known = {}
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                values = known.setdefault(key.strip(), [])
                if value.strip() and value.strip() not in values:
                    values.append(value.strip())
    except OSError:
        pass
    if known.get("model name"):
        return known["model name"][0]
    board = known.get("Hardware") or known.get("Model") or [read_first_line("/proc/device-tree/model").strip("\0\n ")]
    name = board[0] or platform.processor() or platform.machine()
    kinds = f"implementer {' '.join(known['CPU implementer'])}, parts {' '.join(known.get('CPU part', []))}" if known.get("CPU implementer") else ""
    return f"{name} ({kinds})" if kinds else name


def describe_system():
    cores = usable_cores()
    governors = {read_first_line(core_folder(core) / "cpufreq/scaling_governor").strip() for core in cores or [0]} - {""}
    system = {
        "processor": processor(),
        "cores": os.cpu_count() or 1,
        "affinity": list_of(cores),
        "clusters": clusters(),
        "governor": ", ".join(sorted(governors)) or "unknown",
        "os": f"{platform.system()} {platform.release()}",
        "arch": platform.machine(),
        "python": platform.python_version(),
        "emulated": emulator(),
    }
    return {key: value for key, value in system.items() if value != ""}


def number_in(path):
    """The whole number that a file of the system holds, or None."""
    text = read_first_line(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def clock_step_ns():
    readings = [time.perf_counter_ns() for _ in range(10000)]
    return min((after - before for before, after in zip(readings, readings[1:]) if after > before), default=0)


def memory_available_bytes():
    try:
        with Path("/proc/meminfo").open(encoding="utf-8", errors="replace") as file:
            return next((int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:")), None)
    except (OSError, ValueError, IndexError):
        return None


def describe_state():
    """What may change from minute to minute, as whole numbers; what the system does not tell is left out."""
    state = {"clock_step_ns": clock_step_ns(), "memory_available_bytes": memory_available_bytes()}
    cores = usable_cores()
    if cores:
        state["usable_cores"] = len(cores)
    if hasattr(os, "getloadavg"):
        state["load_1min_pct"] = round(100 * os.getloadavg()[0])  # of one core
    cpu = core_folder(cores[0] if cores else 0)
    files = (("cur", "scaling_cur_freq"), ("limit", "scaling_max_freq"), ("max", "cpuinfo_max_freq"))
    state.update({f"frequency_{name}_khz": number_in(cpu / "cpufreq" / file) for name, file in files})
    state["throttled"] = number_in(cpu / "thermal_throttle/core_throttle_count")
    for zone in sorted(Path("/sys/class/thermal").glob("thermal_zone*"))[:32]:
        name = read_first_line(zone / "type").strip()[:32] or "unnamed"
        state[f"temperature_{zone.name[len('thermal_zone') :]}_{name}_millicelsius"] = number_in(zone / "temp")
    mains = [number_in(each / "online") for each in Path("/sys/class/power_supply").glob("*") if read_first_line(each / "type").strip() == "Mains"]
    if mains:
        state["on_mains"] = any(mains)
    return {key: value for key, value in state.items() if value is not None}


def end_after(seconds):
    """Have the system end this program so many seconds from now, even while it hangs in native code; 0 is never. Costs nothing until then."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


def limit_memory():
    """What this machine has no memory for shall be an error of that model, before the system ends other programs for its sake."""
    available = memory_available_bytes()
    if available and resource is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        sizes = read_first_line("/proc/self/statm").split()
        limit = available // 10 * 9 + (int(sizes[5]) * os.sysconf("SC_PAGE_SIZE") if len(sizes) > 5 else 0)
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def take_lease(holder):
    """Sockets to be kept: the name of the first is free to one program of this machine only, and the second's says which one that is.

    Names without files (Linux): no folder must be writable, all users meet there, and the kernel frees them whenever the program ends.
    Raises Held; where the system has no such names, returns none.
    """
    name = os.environ.get("HWNAS_LEASE", "hwnas-lease").encode("utf-8", "replace")[:40]
    if not name or not hasattr(socket, "AF_UNIX"):
        return []
    lease, label = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    give_up = time.monotonic() + LEASE_PATIENCE_S
    while True:
        try:
            lease.bind(b"\0" + name)
            break
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return []
            if time.monotonic() > give_up:
                raise Held(lease_holder(name)) from None
            time.sleep(0.1)
    about = f"{holder}, since {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())}"
    with suppress(OSError):  # this name is for people, the lease holds without it
        label.bind((b"\0" + name + b" " + about.encode("ascii", "replace"))[:107])
    return [lease, label]


def lease_holder(name):
    """Who has the lease of that name, as far as the system shows it."""
    try:
        sockets = Path("/proc/net/unix").read_bytes().decode("ascii", "replace")
    except OSError:
        sockets = ""
    start = f" @{name.decode('ascii', 'replace')} "
    return next((line.partition(start)[2] for line in sockets.splitlines() if start in line), "") or "another program"


def whole_number(request, key, low, high):
    value = request.get(key)
    if type(value) is not int or not low <= value <= high:
        raise Refused(f"{key} must be a whole number from {low} to {high}, got {quoted(value)}")
    return value


class Agent:
    def __init__(self, runtime, requests, answers):
        self.runtime, self.requests, self.answers = runtime, requests, answers
        self.items, self.options, self.seed, self.threads, self.lease = {}, None, 0, 1, []

    def serve(self):
        while True:
            end_after(IDLE_S)
            line = self.requests.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            if len(line) > MAX_LINE_BYTES:
                self.answer({"ok": False, "error": f"the request is longer than {MAX_LINE_BYTES} bytes"})
                return
            try:
                request = json.loads(line.decode("utf-8"))
                if not isinstance(request, dict):
                    raise Refused("a request is a JSON object")
                end_after(whole_number(request, "seconds", 1, MAX_JOB_S) if "seconds" in request else 0)
                reply = self.handle(request)
            except Held as error:
                reply = {"ok": False, "held_by": str(error), "error": f"this machine is being measured by {error}"}
            except Refused as error:
                reply = {"ok": False, "error": str(error)}
            except Exception as error:  # whatever the runtime throws at a foreign model is the answer for that model
                reply = {"ok": False, "error": sentence(error)}
            self.answer(reply)
            if reply.get("bye"):
                return

    def answer(self, reply):
        self.answers.write(json.dumps(reply).encode("utf-8") + b"\n")
        self.answers.flush()

    def handle(self, request):
        op = request.get("op")
        if op == "hello":
            return self.hello(request)
        if op in ("look", "layers") and self.options is None:
            raise Refused("the first request must be hello")
        if op == "look":
            return {"ok": True, "state": {**describe_state(), **self.runtime.state()}}
        if op == "load":
            return self.load(request)
        if op == "run":
            return self.run(request)
        if op == "layers":
            return self.layers(request)
        if op == "bye":
            return {"ok": True, "bye": True}
        raise Refused(f"unknown request {quoted(op)}")

    def hello(self, request):
        if request.get("contract") != CONTRACT:
            raise Refused(f"this agent speaks contract {CONTRACT}, the host {quoted(request.get('contract'))}; use the agent of the same hwnas version")
        threads = self.threads = whole_number(request, "threads", 1, 1024)
        self.seed = whole_number(request, "seed", 0, 2**32 - 1)
        holder = request.get("by", "an unnamed host")
        if not isinstance(holder, str) or not holder.isprintable() or len(holder) > 200:
            raise Refused(f"by must be a text of at most 200 characters, got {quoted(holder)}")
        asked = request.get("options", {})
        if not isinstance(asked, dict) or len(asked) > MAX_OPTIONS or not all(isinstance(value, (str, int)) for value in asked.values()):
            raise Refused(f"options must be at most {MAX_OPTIONS} texts and whole numbers, got {quoted(asked)}")
        self.lease = self.lease or take_lease(holder)
        self.options = self.runtime.start(threads, asked)
        return {
            "ok": True,
            "contract": CONTRACT,
            "runtime": self.runtime.name,
            "version": self.runtime.version,
            "options": self.options,
            "system": {**describe_system(), **self.runtime.system},
        }

    def load(self, request):
        size = whole_number(request, "bytes", 0, MAX_MODEL_BYTES)
        model = self.requests.read(size)  # read even if refused below: the next request starts after it
        name = request.get("item")
        if self.options is None:
            raise Refused("the first request must be hello")
        if not isinstance(name, str) or not name or len(name) > 200 or len(self.items) >= MAX_ITEMS:
            raise Refused(f"an item needs a name of 1 to 200 characters, and at most {MAX_ITEMS} are held")
        if len(model) != size:
            raise Refused("the model was cut short")
        self.items[name] = self.runtime.load(model, [self.seed, len(self.items)])
        return {"ok": True, "item": name, "facts": self.items[name].facts}

    def layers(self, request):
        item, runs = self.item(request.get("item")), whole_number(request, "runs", 1, MAX_RUNS)
        if not hasattr(item, "layers"):
            raise Refused(f"{self.runtime.name} times no layers here")
        return {"ok": True, "item": request["item"], "layers": item.layers(runs)}

    def item(self, name):
        if not isinstance(name, str) or name not in self.items:
            raise Refused(f"no item {quoted(name)} is loaded")
        return self.items[name]

    def run(self, request):
        items, order, anchor = request.get("items"), request.get("order"), request.get("anchor")
        if not isinstance(items, dict) or not isinstance(order, list) or not isinstance(anchor, dict) or not 0 < len(order) <= MAX_VISITS:
            raise Refused(f"run needs items, an order of 1 to {MAX_VISITS} visits, and an anchor")
        bursts = {}
        for name, burst in items.items():
            if not isinstance(burst, dict):
                raise Refused(f"item {quoted(name)} needs warmups and runs")
            cold = burst.get("cold", False)
            if not isinstance(cold, bool):
                raise Refused(f"cold must be true or false, got {quoted(cold)}")
            warmups = whole_number(burst, "warmups", 0, 0 if cold else MAX_RUNS)
            streams = whole_number(burst, "streams", 1, MAX_STREAMS) if "streams" in burst else 0
            if streams and (cold or not hasattr(self.item(name), "stream")):
                raise Refused(f"{self.runtime.name} runs item {quoted(name)} in one stream at a time, and a cold start is one run")
            bursts[name] = (self.item(name), warmups, whole_number(burst, "runs", 1, MAX_RUNS // max(1, streams)), cold, streams)
        if not all(isinstance(name, str) and name in bursts for name in order):
            raise Refused("the order names an item that is not among the items")
        reference = self.item(anchor.get("item"))
        burst = (whole_number(anchor, "warmups", 0, MAX_RUNS), whole_number(anchor, "runs", 1, MAX_RUNS))
        visits = []
        crowding = Crowding(self.threads)
        gc.disable()
        try:
            before = anchor_ns(reference, *burst)
            for name in order:
                try:
                    report = visit(*bursts[name])
                    after = anchor_ns(reference, *burst)
                    report["anchor_ns"] = [before, after]
                    before = after
                except Exception as error:  # the visit is lost, the others are not
                    report = {"error": sentence(error)}
                report["item"] = name
                visits.append(report)
        finally:
            gc.enable()
        return {"ok": True, "visits": visits, "crowding_pct": crowding.pct()}


def main(runtime):
    # Native code may print to stdout; only answers may reach the host there.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    limit_memory()
    Agent(runtime, sys.stdin.buffer, answers).serve()
