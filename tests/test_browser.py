"""A browser as a target: the real page in real headless Chromium, served by the real command."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwnas.data import shipped
from hwnas.device import load_device
from hwnas.errors import DamagedFile, InputError, MeasurementFailed, RunHeld
from hwnas.files import write_whole
from hwnas.graph import Graph, Node
from hwnas.latency_table import LatencyTable, Measurement
from hwnas.ops import Conv2d
from hwnas.profiling.agent import Burst, Refused, started_agent
from hwnas.profiling.protocol import TIMING
from hwnas.profiling.record import FILE, Record
from hwnas.profiling.runtimes.onnxruntime_web import onnxruntime_web
from hwnas.profiling.transports.browser import browser
from hwnas.profiling.web_runtime import PACKAGE, VERSION, web_runtime
from hwnas.profiling.window import measure_window
from hwnas.store import Store
from hwnas.testing import check_runtime
from hwnas.weights import random_weights

DEVICE = load_device("browser")
AGENT = shipped("devices") / "agents" / "onnxruntime_web_agent.js"
HELLO = {"op": "hello", "contract": 2, "threads": 1, "seed": 0}
PATIENCE_S = 120
SPACE = '''
from hwnas.graph import Node
from hwnas.ops import Conv2d
from hwnas.space import Choice, Layer, SearchSpace

def few():
    """Four blocks: two widths of a first convolution, and a second one for each."""
    width = Choice("width", (4, 8))
    def first(out):
        return (Node("conv", Conv2d((1, 3, 16, 16), out=out, kernel=3, act="relu"), ("in0",)),)
    def second(out):
        return (Node("conv", Conv2d((1, out, 16, 16), out=8, kernel=1), ("in0",)),)
    return SearchSpace("few", [width], [Layer("first", (width,), first), Layer("second", (width,), second)])
'''


@pytest.fixture(scope="module")
def chromium():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("Chromium is not installed")
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of our own, so that no other `device serve` of this user is found, with the runtime's files."""
    try:
        files = web_runtime()
    except InputError as error:
        pytest.skip(f"onnxruntime-web cannot be had here: {error}")
    folder = tmp_path_factory.mktemp("cache")
    for name, raw in files.items():
        write_whole(folder / f"{PACKAGE}-{VERSION}" / name, raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWNAS_CACHE", str(folder))
        yield folder


@contextmanager
def opened(chromium, url, folder, *options):
    """A new Chromium that has the page open; it is ended with all its processes."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={folder}", *options]
    process = subprocess.Popen([chromium, *flags, url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
    finally:
        end(process)


def end(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


def close_tab(folder):
    """Close the page as a person does, through Chromium's own tools."""
    port = (folder / "DevToolsActivePort").read_text().split()[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=60) as reply:
        (page,) = [each["id"] for each in json.load(reply) if each["type"] == "page"]
    urllib.request.urlopen(f"http://127.0.0.1:{port}/json/close/{page}", timeout=60).close()


def hwnas(*arguments, cache, **files):
    # Whatever started the tests in the background may have told them to ignore Ctrl-C, and a child inherits that.
    heard = None if os.name == "nt" else lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    command = [sys.executable, "-m", "hwnas", *map(str, arguments)]
    return subprocess.Popen(command, env=os.environ | {"HWNAS_CACHE": str(cache)}, text=True, preexec_fn=heard, **files)


def url_in(path, process):
    """The URL that a command has written into a file."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        if found := [line for line in path.read_text().splitlines() if line.startswith("http://")]:
            return found[0]
        time.sleep(0.05)
    pytest.fail(f"no URL in: {path.read_text()}")


@contextmanager
def serving(cache, tmp, *options):
    """`hwnas device serve`: its URL and process."""
    out = tmp / "serve.out"
    with out.open("w") as file:
        process = hwnas("device", "serve", *options, cache=cache, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield url_in(out, process), process
    finally:
        process.terminate()
        try:
            assert process.wait(60) == 0, out.read_text()
        finally:
            process.kill()
        assert not (cache / "device_serve.json").exists()
        assert "Traceback" not in out.read_text()


@pytest.fixture(scope="module")
def target(chromium, cache, tmp_path_factory):
    """A browser that has the page of `hwnas device serve` open, for all tests that follow; the page's URL."""
    tmp = tmp_path_factory.mktemp("target")
    with serving(cache, tmp) as (url, _), opened(chromium, url, tmp / "profile"):
        yield url


def agent_of(threads=1):
    return started_agent(DEVICE, onnxruntime_web(), threads=threads, seed=7)


@pytest.fixture(scope="module")
def agent(target):
    with agent_of() as agent:
        agent.load("good", conv_model())
        yield agent


def conv_model(out=4):
    graph = Graph.of_block((Node("conv", Conv2d((1, 3, 8, 8), out=out, kernel=3), ("in0",)),))
    return onnxruntime_web().build(graph, random_weights(graph, np.random.default_rng(0)))


def model_of(node, shape, initializers=()):
    """One operator between `x` and `y`."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([node], "g", values[:1], values[1:], list(initializers))
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def test_the_page_is_isolated_and_says_what_it_runs_on(agent):
    identity = agent.identity
    assert (identity.runtime, identity.version) == ("onnxruntime_web", VERSION)
    options = dict(identity.options)
    assert (options["provider"], options["threads"], options["isolated"], options["denormals"]) == ("wasm", 1, True, "kept")
    assert options["group_us"] == 100 * options["clock_us"]
    assert "the web only" in options["reach"]
    assert "Chrome" in identity.system["processor"] and identity.system["cores"] == os.cpu_count()


def test_visits_come_in_the_order_asked_with_as_many_runs_and_no_probes(agent):
    agent.load("other", conv_model(out=8))
    visits = agent.visit(["good", "other", "good"], {"good": Burst(2, 5), "other": Burst(0, 3)})
    assert [(visit.item, len(visit.ns)) for visit in visits] == [("good", 5), ("other", 3), ("good", 5)]
    assert all(first.at_ns < second.at_ns for first, second in pairwise(visits))
    assert visits[0].anchor_after_ns == visits[1].anchor_before_ns
    assert {(visit.cpu_ns, visit.involuntary, visit.psi_us, visit.steal_ms) for visit in visits} == {(None,) * 4}


def test_a_group_of_runs_outlasts_the_steps_of_the_clock(agent):
    """Runs far shorter than a group share its mean, and the burst lasts as long as its groups."""
    agent.visit(["good"] * 3, {"good": Burst(2, 5)})  # the browser optimises what runs often
    (visit,) = agent.visit(["good"], {"good": Burst(2, 40)})
    sizes = Counter(visit.ns)
    assert len(sizes) < 40
    assert visit.wall_ns >= agent.identity.options["group_us"] * 1000 / 2


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        pytest.param(b"this is no model", "protobuf|Protobuf|PROTOBUF", id="bytes"),
        pytest.param(b"", "ModelProto|[Nn]o graph|empty|does not|Can't create a session", id="nothing"),
        pytest.param(conv_model()[:-20], "protobuf|Protobuf|PROTOBUF", id="cut short"),
        pytest.param(model_of(helper.make_node("Relu", ["x"], ["y"]), ["n", 3]).SerializeToString(), "only float32 of fixed shape", id="free axis"),
        pytest.param(model_of(helper.make_node("Relu", ["x"], ["y"]), [1 << 20, 1 << 20]).SerializeToString(), "more than", id="huge input"),
        pytest.param(model_of(helper.make_node("Sqrt", ["x"], ["y"]), [100]).SerializeToString(), "output y is not finite", id="not a number"),
        pytest.param(model_of(helper.make_node("Nonsense", ["x"], ["y"]), [4]).SerializeToString(), "Nonsense", id="unknown operator"),
    ],
)
def test_a_model_that_cannot_be_timed_is_an_answer_and_the_page_goes_on(agent, model, reason):
    with pytest.raises(Refused, match=reason):
        agent.load("bad", model)
    assert len(agent.visit(["good"], {"good": Burst(0, 1)})) == 1


def test_external_data_is_refused(agent, tmp_path):
    weights = numpy_helper.from_array(np.ones(2048, np.float32), "w")
    model = model_of(helper.make_node("Add", ["x", "w"], ["y"]), [2048], [weights])
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(Refused, match="external data"):
        agent.load("external", path.read_bytes())


def test_an_item_that_was_never_loaded_cannot_be_visited(agent):
    with pytest.raises(MeasurementFailed, match='no item "ghost" is loaded'):
        agent.visit(["ghost"], {"ghost": Burst(0, 1)})


def test_the_page_says_how_it_is_now(agent):
    state = agent.look()
    assert (state["isolated"], state["hidden"], state["usable_cores"]) == (True, False, os.cpu_count())
    assert state["clock_step_ns"] >= 1000


def test_a_second_command_is_told_that_the_page_is_in_use(agent):
    with pytest.raises(RunHeld, match="another hwnas command is measuring on this page"), agent_of():
        pass


def test_a_second_page_cannot_be_served_meanwhile(target, cache):
    done = hwnas("device", "serve", cache=cache, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _, error = done.communicate(timeout=PATIENCE_S)
    assert done.returncode == 2 and "another 'hwnas device serve' of yours is running" in error


def test_the_same_page_serves_one_command_after_the_other(chromium, cache, tmp_path):
    """Each gets a fresh worker: what was loaded before is gone, threads are chosen anew."""
    mine = tmp_path / "cache"
    shutil.copytree(cache, mine, ignore=shutil.ignore_patterns("*.json"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWNAS_CACHE", str(mine))
        with serving(mine, tmp_path) as (url, _), opened(chromium, url, tmp_path / "profile"):
            for threads in (1, 2):
                with agent_of(threads) as agent:
                    assert agent.identity.options["threads"] == threads
                    agent.load("good", conv_model())
                    assert len(agent.visit(["good"], {"good": Burst(0, 1)})) == 1
            requests = [
                ({"op": "load", "item": "a", "bytes": 0}, "first request must be hello"),
                ({"op": "hello", "contract": 99, "threads": 1, "seed": 0}, "speaks contract 2, the host 99"),
                ({"op": "hello", "contract": 2, "threads": "many", "seed": 0}, "threads must be a whole number"),
                ({"op": "constructor"}, 'unknown request "constructor"'),
                ({"op": "run", "items": {}, "order": [], "anchor": {}}, "run needs items"),
                ({"op": "run", "items": {}, "order": ["a"], "anchor": {}}, "not among the items"),
            ]
            connection = browser().start(DEVICE, AGENT)
            for request, reason in requests:
                answer = connection.ask(request, seconds=60)
                assert answer["ok"] is False and reason in answer["error"]
            assert connection.ask(HELLO, seconds=60)["ok"] is True
            assert connection.ask({"op": "bye"}, seconds=60)["ok"] is True
            connection.close()


def test_the_runtime_in_a_browser_keeps_the_contract(chromium, cache, tmp_path):
    """All that `check_runtime` asks of every runtime, answered by the page: its second part begins a command of its own."""
    mine = tmp_path / "cache"
    shutil.copytree(cache, mine, ignore=shutil.ignore_patterns("*.json"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWNAS_CACHE", str(mine))
        with serving(mine, tmp_path) as (url, _), opened(chromium, url, tmp_path / "profile"):
            check_runtime("onnxruntime_web", "browser")


def test_over_plain_http_in_a_network_the_page_is_not_isolated_and_measures_all_the_same(chromium, cache, tmp_path):
    """As on a phone: another host than localhost and no TLS is no secure context."""
    mine = tmp_path / "cache"
    shutil.copytree(cache, mine, ignore=shutil.ignore_patterns("*.json"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWNAS_CACHE", str(mine))
        with serving(mine, tmp_path) as (url, _):
            elsewhere = url.replace("127.0.0.1", "laptop.test")
            with opened(chromium, elsewhere, tmp_path / "profile", "--host-resolver-rules=MAP laptop.test 127.0.0.1"):
                with agent_of() as agent:
                    options = agent.identity.options
                    assert options["isolated"] is False and options["group_us"] == 100 * options["clock_us"]
                    agent.load("good", conv_model())
                    assert len(agent.visit(["good"] * 2, {"good": Burst(1, 3)})) == 2
                with pytest.raises(MeasurementFailed, match="not isolated, so WebAssembly has one thread: open it as localhost"), agent_of(threads=2):
                    pass


def test_python_agents_do_not_run_in_browsers():
    with pytest.raises(InputError, match=r"a browser cannot run onnxruntime_agent\.py: the runtimes of device 'browser' must be"):
        browser().start(DEVICE, AGENT.with_name("onnxruntime_agent.py"))


def profile_command(cache, tmp, *options):
    """`hwnas profile browser`, which serves the page itself: (its process, the file of its messages)."""
    (tmp / "few.py").write_text(SPACE)
    messages = tmp / f"profile{len(list(tmp.glob('profile*.err')))}.err"
    arguments = ("profile", "browser", "--space", f"{tmp / 'few.py'}:few", "--to", tmp / "table", "--networks", 2, "--json", *options)
    with messages.open("w") as file:
        return hwnas(*arguments, cache=cache, stdout=subprocess.PIPE, stderr=file), messages


def visits_in(folder):
    if not (folder / FILE).is_file():
        return []
    try:
        with Store(folder / FILE, write=False) as store:
            return Record(store).visits
    except DamagedFile as error:
        if "is empty" not in str(error):
            raise
        return []  # it is being created at this moment


def test_a_profile_whose_page_is_closed_goes_on_in_another_and_measures_nothing_twice(chromium, cache, tmp_path):
    mine, visits = tmp_path / "cache", 150
    shutil.copytree(cache, mine, ignore=shutil.ignore_patterns("*.json"))
    before = []
    ended, closed = "the connection to the browser at 127.0.0.1 ended during 'run'", "the page was closed during 'run'"
    # A page says goodbye as it closes, and its stream may end before that arrives; a killed browser says nothing.
    for kind, words in (("tab", (closed, ended)), ("killed", (ended,))):
        process, messages = profile_command(mine, tmp_path, "--visits", visits)
        with opened(chromium, url_in(messages, process), tmp_path / kind, "--remote-debugging-port=0") as browser_process:
            deadline = time.monotonic() + PATIENCE_S
            while len(visits_in(tmp_path / "table")) <= len(before) and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            if kind == "tab":
                close_tab(tmp_path / kind)
            else:
                end(browser_process)
            process.communicate(timeout=PATIENCE_S)
        error = messages.read_text()
        assert process.returncode == 1 and "Traceback" not in error, error
        assert any(f"{each}: run the same command again and open its page" in error.splitlines()[-1] for each in words), error
        recorded = visits_in(tmp_path / "table")
        assert len(recorded) > len(before) and recorded[: len(before)] == before and not (tmp_path / "table" / "table.toml").exists()
        before = recorded

    process, messages = profile_command(mine, tmp_path, "--visits", visits)
    with opened(chromium, url_in(messages, process), tmp_path / "last"):
        out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, messages.read_text()
    after = visits_in(tmp_path / "table")
    made = Counter(visit.item for visit in after)
    assert after[: len(before)] == before
    assert all(TIMING.least_visits <= made[name] <= visits for name in ("n0", "n1")), "what is settled is not visited again"
    assert all(TIMING.least_visits <= made[f"e{i}"] <= 2 * visits for i in range(4))
    assert json.loads(out)["entries"] == 4 and "browser/onnxruntime_web-" in json.loads(out)["conditions"]

    table = LatencyTable.load(tmp_path / "table")
    assert all(isinstance(entry, Measurement) for entry in table.entries.values())
    assert "the web only" in table.conditions.options["reach"] and table.origin == "measured"
    process, messages = profile_command(mine, tmp_path, "--visits", visits)  # a complete table needs no browser
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, messages.read_text()


def test_a_window_compares_models_in_a_browser(chromium, cache, tmp_path):
    mine = tmp_path / "cache"
    shutil.copytree(cache, mine, ignore=shutil.ignore_patterns("*.json"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWNAS_CACHE", str(mine))
        with serving(mine, tmp_path) as (url, _), opened(chromium, url, tmp_path / "profile"):
            window = measure_window([conv_model(4), conv_model(8)], DEVICE, seconds=2)
    assert (window.conditions.device, window.conditions.runtime) == ("browser", "onnxruntime_web")
    assert all(row.dropped == 0 and (row.upper_bound_ms is not None or row.doubt) for row in window.rows)
