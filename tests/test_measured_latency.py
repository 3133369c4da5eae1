"""Searches by latency measured on the device: found where a table misses it, measured once, whatever breaks in between; with the real engine."""

import csv
import json
import sys
import threading
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import chained_space
import numpy as np
import pytest
from chained_agent import latency_us
from commands import copied, here

import hwnas
from hwnas import registry
from hwnas.budget import Budget
from hwnas.device import load_device
from hwnas.driver import drive
from hwnas.errors import ConnectionLost, DamagedFile, HwnasError, InputError, MissingExtra, RunHeld
from hwnas.executor import InProcess
from hwnas.index import BlockIndex
from hwnas.latency_table import LatencyTable
from hwnas.measured_latency import MeasuredLatency
from hwnas.problem import Problem
from hwnas.profiling import meter as meter_module
from hwnas.profiling.meter import DeviceMeter, Metered
from hwnas.profiling.protocol import TIMING
from hwnas.profiling.runtimes.onnxruntime import onnxruntime
from hwnas.profiling.session import profile
from hwnas.run import RunDirectory
from hwnas.searcher import trains
from hwnas.searchers.random_search import random_search
from hwnas.store import Store
from hwnas.testing import toy_problem
from hwnas.weights import random_weights

TESTS = Path(__file__).parent
QUICK = replace(TIMING, least_span_s=0.0, anchor_wait_s=0.0)
PROGRAM = """#!{python}
import os, sys
os.environ["CHAINED_AGENT"] = {side!r}
sys.path[:0] = {path!r}
import chained_agent
chained_agent.main()
"""
SPACE, ACCURACY = f"{TESTS / 'chained_space.py'}:chained", f"{TESTS / 'chained_space.py'}:accuracy"
BUDGET_MS = 0.2  # three kernels of 5 take 0.18 ms, and no better network of several kernels is below 0.23


class ChainedDevice:
    """The simulated device of chained_agent.py, in a folder of its own."""

    def __init__(self, folder):
        self.folder, self.side, self.file = folder, folder / "side", folder / "chained.toml"
        (folder / "agent").mkdir(parents=True)
        self.side.mkdir()
        program = folder / "agent" / "hwnas_onnxruntime_agent"
        program.write_text(PROGRAM.format(python=sys.executable, side=str(self.side), path=[str(TESTS), str(TESTS.parent)]))
        program.chmod(0o755)
        self.file.write_text('description = "simulated"\nprocessor = "cpu"\ntransport = "local"\nruntimes = ["onnxruntime"]\nagent = "agent"\n')

    @property
    def device(self):
        return load_device(str(self.file))

    def loaded(self):
        """Kernels of the whole networks that were loaded, in order."""
        lines = (self.side / "loaded").read_text().split() if (self.side / "loaded").exists() else []
        return [line for line in lines if len(line) == 3]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The table that `profile` makes of the simulated device: blocks, and whole networks that calibrate their sum."""
    chained = ChainedDevice(tmp_path_factory.mktemp("profiled"))
    profile(BlockIndex(chained_space.chained()), chained.device, chained.folder / "table", visits=8, networks=16, timing=QUICK)
    return chained.folder / "table"


@pytest.fixture
def chained(tmp_path):
    return ChainedDevice(tmp_path / "device")


def search(run, chained, table, *, source="measured", **more):
    asked = {"latency_source": "measured", "latency_device": str(chained.file), "latency_seconds": 0.3} if source == "measured" else {}
    asked |= {"latency": f"<= {BUDGET_MS}ms p50", "space": SPACE, "accuracy": ACCURACY, "searcher": "grid", "evaluations": 27, "baselines": False} | more
    return hwnas.search(run, table=table, **asked)


def kernels(point):
    return tuple(point["values"].values())


def measured(run):
    with RunDirectory(run, write=False) as directory:
        return [event.body for event in directory.events("latency", "measured")]


# -- what it is for -----------------------------------------------------------------------------------------------------------------


def test_on_a_device_that_is_not_additive_the_table_misses_the_optimum_and_measurements_find_it(chained, table, tmp_path):
    by_table = search(tmp_path / "table-run", chained, table, source="table")
    found = search(tmp_path / "run", chained, table)
    assert kernels(found["points"][0]) == (5, 5, 5) and latency_us((5, 5, 5)) <= 1e3 * BUDGET_MS
    assert (5, 5, 5) not in map(kernels, by_table["points"])  # by the table it is over the budget
    best = kernels(by_table["points"][0])
    assert found["points"][0]["accuracy_pct"] > by_table["points"][0]["accuracy_pct"] and best != (5, 5, 5)
    for point in found["points"]:  # each as long as it really takes, and within the budget by that
        truth_ms = latency_us(kernels(point)) / 1e3
        assert 0.98 * truth_ms <= point["latency_ms"] <= min(BUDGET_MS, 1.5 * truth_ms)
        assert point["latency_p10_ms"] <= point["latency_ms"] <= point["latency_p90_ms"]
    within = {code for code in np.ndindex(3, 3, 3) if latency_us([chained_space.KERNELS[i] for i in code]) < 0.8e3 * BUDGET_MS}
    assert within <= {tuple(point["code"]) for point in found["points"]}


def test_measured_latencies_are_called_so_and_stand_beside_the_predictions(chained, table, tmp_path):
    found = search(tmp_path / "run", chained, table)
    assert found["latency_source"] == "measured" and {point["latency_origin"] for point in found["points"]} == {"measured"}
    assert found["networks_measured"] == {"measured": 27, "failed": 0, "where": "chained/onnxruntime-1-1thread"}
    assert found["budget_ms"] == BUDGET_MS and found["surrogate"] is None
    predicted = {tuple(p["code"]): p["latency_predicted_ms"] for p in found["points"]}
    assert predicted[2, 2, 2] > BUDGET_MS  # what the table says of the network that was measured to fit
    with (tmp_path / "run" / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:5] == ["accuracy_pct", "latency_ms_measured", "latency_p10_ms", "latency_p90_ms", "latency_ms_predicted"]
    assert float(rows[-1]["latency_ms_measured"]) <= BUDGET_MS < float(rows[-1]["latency_ms_predicted"])
    bodies = measured(tmp_path / "run")
    assert len({tuple(body["code"]) for body in bodies}) == len(bodies) == 27
    assert all(0 < body["p10_ms"] <= body["p50_ms"] <= body["p90_ms"] and body["visits"] >= 8 and body["anchor_us"] > 0 for body in bodies)
    with RunDirectory(tmp_path / "run", write=False) as run:
        (conditions,) = [event.body for event in run.events("latency", "conditions")]
    stated = LatencyTable.load(table).conditions
    assert {key: conditions[key] for key in ("processor", "runtime", "version", "threads", "regime")} == {
        key: asdict(stated)[key] for key in ("processor", "runtime", "version", "threads", "regime")
    }
    assert conditions["device"] == "chained" and conditions["statistic"] == "p50"


def test_baselines_meet_what_was_measured_already(chained, table, tmp_path):
    found = search(tmp_path / "run", chained, table, baselines=True, searcher="regularized_evolution", evaluations=12)
    assert set(found["baselines"]) == {"random", "uniform"}
    assert {kernels(point) for point in found["baselines"]["uniform"]["points"]} == {(1, 1, 1), (3, 3, 3), (5, 5, 5)}
    loaded = chained.loaded()
    assert len(loaded) == len(set(loaded)) == len(measured(tmp_path / "run"))


# -- what breaks in between ---------------------------------------------------------------------------------------------------------


def test_what_was_measured_before_an_interruption_is_not_measured_again(chained, table, tmp_path):
    def pressed(stage, done, total):
        if stage.startswith("latency") and done == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "run", chained, table, options=["batch=27"], progress=pressed)
    before = measured(tmp_path / "run")
    assert len(before) == 16
    found = search(tmp_path / "run", chained, table, options=["batch=27"])
    assert kernels(found["points"][0]) == (5, 5, 5)
    assert measured(tmp_path / "run")[:16] == before and len(measured(tmp_path / "run")) == 27
    loaded = chained.loaded()
    assert len(loaded) == len(set(loaded)) == 27
    (chained.folder / "agent" / "hwnas_onnxruntime_agent").unlink()  # the whole run needs no device
    assert search(tmp_path / "run", chained, table, options=["batch=27"]) == found


def test_an_agent_that_dies_in_the_middle_is_started_again(chained, table, tmp_path):
    (chained.side / "dies").touch()
    found = search(tmp_path / "run", chained, table)
    assert not (chained.side / "dies").exists()
    assert kernels(found["points"][0]) == (5, 5, 5) and found["networks_measured"]["measured"] == 27


def test_a_network_that_cannot_be_run_is_a_row_with_its_reason_and_is_not_feasible(chained, table, tmp_path):
    (chained.side / "refused").write_text("555 111")
    found = search(tmp_path / "run", chained, table)
    assert found["networks_measured"] == {"measured": 25, "failed": 2, "where": "chained/onnxruntime-1-1thread"}
    assert not {(5, 5, 5), (1, 1, 1)} & set(map(kernels, found["points"])) and all(point["latency_ms"] > 0 for point in found["points"])
    failed = [body for body in measured(tmp_path / "run") if "error" in body]
    assert sorted((body["code"], body["error"]) for body in failed) == [([0, 0, 0], "no kernel for 111"), ([2, 2, 2], "no kernel for 555")]
    assert all("value_ms" not in body for body in failed)


def test_a_link_that_breaks_is_tried_again_and_then_ends_the_search_which_goes_on_later(chained, table, tmp_path, monkeypatch):
    breaks = [0]

    class Breaking(meter_module.SupervisedAgent):
        def visit(self, order, bursts, *, expected_s=0.0):
            if breaks[0]:
                breaks[0] -= 1
                raise ConnectionLost("the link broke")
            return super().visit(order, bursts, expected_s=expected_s)

    monkeypatch.setattr(meter_module, "SupervisedAgent", Breaking)
    monkeypatch.setattr(meter_module, "_PAUSE_S", 0.0)
    breaks[0] = 2
    assert search(tmp_path / "once", chained, table, evaluations=4)["networks_measured"]["measured"] == 4
    breaks[0] = 9
    with pytest.raises(ConnectionLost, match="the link broke"):
        search(tmp_path / "run", chained, table, evaluations=4)
    assert measured(tmp_path / "run") == [] and breaks[0] == 6
    breaks[0] = 0
    assert search(tmp_path / "run", chained, table, evaluations=4)["networks_measured"]["measured"] == 4


def test_another_device_or_a_record_that_was_altered_is_refused(chained, table, tmp_path):
    search(tmp_path / "run", chained, table, evaluations=3)
    with pytest.raises(InputError, match="latency_device"):
        search(tmp_path / "run", ChainedDevice(tmp_path / "other"), table, evaluations=3)
    with Store(tmp_path / "run" / "run.sqlite") as store:
        store.append("latency/measured", {"code": [0, 0, 0], "value_ms": 0.0, "p10_ms": 0.0, "p90_ms": 0.0, "visits": 8})
    metric = MeasuredLatency(BlockIndex(chained_space.chained()), lambda code: pytest.fail(), lambda: pytest.fail())
    with RunDirectory(tmp_path / "run") as run, pytest.raises(DamagedFile, match="a measured latency that is not as hwnas writes it"):
        metric.keep_in(run)


# -- what is refused ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"latency": "<= 60% p50"}, "is a share, and latency is expensive to evaluate; give the limit in ms"),
        ({"latency_source": "guessed"}, "--latency-source is 'guessed', it must be measured or table"),
        ({"latency_source": "table"}, "--latency-device and --latency-seconds say how latency is measured"),
        ({"latency_seconds": 0.0}, "--latency-seconds is 0, it must be above 0 and at most 3,600"),
        ({"searcher": "proxylessnas"}, "proxylessnas learns from latencies of more networks than can be measured"),
        ({"searcher": "exact"}, "exact search needs sums over blocks, and the budget latency <= 0.2 ms p50 is not one"),
        ({"latency_device": "nosuchdevice"}, "no device named 'nosuchdevice'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(chained, table, tmp_path, given, words):
    with pytest.raises(HwnasError, match=words):
        search(tmp_path / "run", chained, table, **given)
    assert not (tmp_path / "run").exists() or given == {"searcher": "exact"}  # which is known when it is asked


def test_the_command_says_what_was_measured(chained, table, tmp_path):
    asked = ["--space", SPACE, "--accuracy", ACCURACY, "--table", table, "--latency", f"<= {BUDGET_MS}ms p50", "--searcher", "grid", "--evaluations", 27]
    asked = ["search", tmp_path / "run", *asked, "--no-baselines", "--latency-source", "measured", "--latency-device", chained.file, "--latency-seconds", 0.3]
    code, out, error = here(*asked)
    assert code == 0, error
    assert "budget 0.2 ms by measurement: 27 networks on chained/onnxruntime-1-1thread" in out and "latency (measured)" in out
    asked[1], asked[asked.index(f"<= {BUDGET_MS}ms p50")] = tmp_path / "run2", "<= 0.01ms p50"
    code, out, _ = here(*asked)
    assert code == 1 and "none of the candidates keeps the budget" in out
    assert json.loads(here(*asked, "--json")[1])["points"] == []


# -- every searcher, and workers beside -----------------------------------------------------------------------------------------------


class Simulated:
    """The number of a code's changes: a latency that is no sum over layers, on a device that is not there; notes what it measured."""

    name, unit, origin, expensive, here = "latency", "ms", "simulated", True, True

    def __init__(self):
        self.asked = []

    def measure(self, codes):
        self.asked += [tuple(code) for code in codes.tolist()]

    def __call__(self, codes):
        return 1.0 + (np.diff(codes, axis=1) != 0).sum(axis=1)


@pytest.mark.parametrize("name", [name for name in registry.names("searchers") if not trains(registry.load("searchers", name))])
def test_every_searcher_goes_by_measurements_or_says_why_it_cannot(name):
    toy, metric = toy_problem(), Simulated()
    problem = Problem(toy.index, toy.objectives, [(Budget("latency", 4.0), metric)])
    try:
        found = drive(registry.load("searchers", name), problem, seed=0, evaluations=20)
    except MissingExtra as error:
        pytest.skip(str(error))
    except InputError as error:
        assert name == "exact" and "is not one" in str(error)
        return
    rows = found.ranked()
    assert len(metric.asked) == len(found.codes) and set(metric.asked) == set(map(tuple, found.codes.tolist()))
    assert (metric(found.codes[rows]) <= 4.0).all() and (len(rows) or name == "uniform_scaling")


class Counting(InProcess):
    """Knows how many candidates are with its workers."""

    flying = 0

    def submit(self, number, candidate):
        self.flying += 1
        super().submit(number, candidate)

    def wait(self):
        completion = super().wait()
        self.flying -= 1
        return completion


@pytest.mark.parametrize("here", [True, False])
def test_nothing_else_is_evaluated_on_this_machine_while_it_is_measured(here):
    toy, metric, executor, beside = toy_problem(), Simulated(), Counting(), []
    metric.here, metric.measure = here, lambda codes: beside.append(executor.flying)
    problem = Problem(toy.index, toy.objectives, [(Budget("latency", 4.0), metric)])
    found = drive(random_search, problem, seed=0, evaluations=24, options={"batch": 4, "pending": 3}, executor=executor)
    assert len(found.codes) == 24 and any(beside) == (not here)


# -- a real runtime -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mini():
    return BlockIndex(registry.create("spaces", "ofa_mini"))


def of(index):
    def build(code):
        graph = index.space.lower(code[0])
        return onnxruntime().build(graph, random_weights(graph, np.random.default_rng(0))), graph

    return build


def test_real_networks_are_measured_in_onnx_runtime_once_each(mini, tmp_path):
    device = load_device("localhost")
    space, asked = mini.space, []

    def meter():
        asked.append(1)
        return DeviceMeter(device, "onnxruntime", threads=1, seconds=1.0)

    codes = np.asfortranarray(np.concatenate([space.smallest(), space.largest(), space.smallest()]))
    metric = MeasuredLatency(mini, of(mini), meter)
    with closing(metric), RunDirectory(tmp_path / "run") as run:
        metric.keep_in(run)
        values = metric(codes)
        conditions = [event.body for event in run.events("latency", "conditions")]
    assert asked == [1] and values[0] == values[2] < values[1]
    smallest, largest, _ = metric.rows(codes)
    assert 0 < smallest.p10_ms <= smallest.value_ms <= smallest.p90_ms and largest.visits >= 8
    assert conditions[0]["runtime"] == "onnxruntime" and conditions[0]["threads"] == 1 and conditions[0]["version"]
    again = MeasuredLatency(mini, of(mini), lambda: pytest.fail("it is known"))
    with RunDirectory(tmp_path / "run") as run:
        again.keep_in(run)
        assert again(codes).tolist() == values.tolist()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the lease is a name that Linux alone has")
def test_two_measurements_never_run_at_the_same_time_on_one_device(mini, monkeypatch, tmp_path):
    monkeypatch.setenv("HWNAS_LEASE", f"hwnas-test-{tmp_path.name}")
    device, (model,) = load_device("localhost"), [of(mini)(mini.space.smallest())]
    with closing(DeviceMeter(device, "onnxruntime", threads=1, seconds=0.2)) as first, closing(DeviceMeter(device, "onnxruntime", threads=1)) as second:
        assert isinstance(first.measure([model], 0.5)[0], Metered)
        with pytest.raises(RunHeld, match="localhost is being measured by"):
            second.measure([model], 0.5)
        first.close()
        assert second.conditions().device == "localhost"
        monkeypatch.setattr(meter_module, "_HELD_S", 0.0)
        with pytest.raises(RunHeld, match="localhost is being measured by"):
            first.measure([model], 0.5)
        monkeypatch.setattr(meter_module, "_HELD_S", 60.0)
        timer = threading.Timer(0.3, second.close)
        timer.start()
        assert isinstance(first.measure([model], 0.5)[0], Metered)  # it has waited for the other one
        timer.join()


def test_each_lot_is_measured_in_an_agent_of_its_own(chained, monkeypatch):
    begun = []

    class Noted(meter_module.SupervisedAgent):
        def __enter__(self):
            begun.append(self)
            return super().__enter__()

    monkeypatch.setattr(meter_module, "SupervisedAgent", Noted)
    models = [of(BlockIndex(chained_space.chained()))(np.array([[i, i, i]], np.int16)) for i in range(3)]
    with closing(DeviceMeter(chained.device, "onnxruntime", threads=1, seconds=0.1)) as meter:
        assert meter.conditions().processor == "of known truth" and len(begun) == 1
        for lots in (1, 2):
            assert all(isinstance(found, Metered) for found in meter.measure(models, 0.5)) and len(begun) == lots
    sustained = replace(TIMING, most_heating_s=0.01)
    with closing(DeviceMeter(chained.device, "onnxruntime", threads=1, timing=sustained, seconds=0.1)) as meter:
        assert [len(meter.measure(models, 0.5)) for _ in range(2)] == [3, 3] and len(begun) == 3


def test_a_model_that_is_none_is_a_reason_and_the_others_are_measured(mini):
    model, graph = of(mini)(mini.space.smallest())
    with closing(DeviceMeter(load_device("localhost"), "onnxruntime", threads=1, seconds=0.2)) as meter:
        bad, good = meter.measure([(b"no model", graph), (model, graph)], 0.9)
    assert isinstance(bad, str) and bad and isinstance(good, Metered) and good.p50_ms <= good.value_ms == good.p90_ms


# -- the whole job --------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # trains and profiles
def test_a_search_that_measured_is_verified_reported_and_compared(trained, demo, tmp_path):
    asked = {"table": demo.folder / "table", "latency": "<= 900ms p50", "latency_source": "measured", "latency_seconds": 0.2, "threads": 1, "evaluations": 6}
    runs = [copied(trained, tmp_path / name) for name in ("one", "two")]
    for seed, run in enumerate(runs):
        found = hwnas.search(run, **asked, seed=seed, options=["population=4", "tournament=2"])
    verified = hwnas.verify(runs[0], top=2, seconds=6)
    assert all(row["latency_origin"] == "measured" and row["latency_predicted_ms"] > 0 for row in verified["measured"] if row["role"] == "candidate")
    if verified["certificate"] is None:
        pytest.skip("this machine is too busy to measure on")
    certificate = verified["certificate"]
    assert certificate["searched_ms"] != certificate["predicted_ms"] and certificate["origin"] == "measured"
    hwnas.report(runs[0], to=tmp_path / "report.html")
    assert "evaluated, latency measured in the search" in (tmp_path / "report.html").read_text()
    compared = hwnas.compare(runs)
    assert compared["latency_origin"] == "measured" == found["latency_source"]
    by_table = copied(trained, tmp_path / "table")
    hwnas.search(by_table, **{key: value for key, value in asked.items() if not key.startswith("latency_")}, options=["population=4", "tournament=2"])
    with pytest.raises(InputError, match=r"latency source measured and .* with none"):
        hwnas.compare([runs[0], by_table])
    solved = hwnas.solve(runs[0], to=tmp_path / "solved", latency="<= 900ms p50")
    assert {point["latency_origin"] for point in solved["points"]} == {"predicted"}
