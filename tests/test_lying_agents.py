"""Devices that lie, full disks: the real engine, and a process that speaks the real contract. No false latency is a row, and nothing acknowledged is lost."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lying_agent
import numpy as np
import pytest

from hwnas.device import load_device
from hwnas.errors import MeasurementFailed, WrongClock
from hwnas.graph import Graph, Node, block_text
from hwnas.index import BlockIndex
from hwnas.latency_table import TABLE, Failure, Measurement
from hwnas.ops import Conv2d
from hwnas.profiling import agent, clock
from hwnas.profiling.agent import started_agent
from hwnas.profiling.benchmark import measure_bench
from hwnas.profiling.check import check_device
from hwnas.profiling.clock import ClockCheck, Moment
from hwnas.profiling.protocol import TIMING, Visit
from hwnas.profiling.record import FILE, Record
from hwnas.profiling.runtimes.onnxruntime import onnxruntime
from hwnas.profiling.session import profile
from hwnas.profiling.window import measure_window
from hwnas.space import Choice, Layer, SearchSpace
from hwnas.store import Store
from hwnas.weights import random_weights

RUNTIME = """
from hwnas.profiling.runtimes.onnxruntime import onnxruntime

def lying():
    runtime = onnxruntime()
    runtime.agent = {agent!r}
    return runtime
"""
QUICK = replace(TIMING, least_span_s=0.0, anchor_wait_s=0.0)


def device_that(lie, folder):
    """This machine in the place of a device that tells this lie."""
    program, runtime = folder / f"{lie}.py", folder / "lying.py"
    shutil.copy(lying_agent.__file__, program)
    runtime.write_text(RUNTIME.format(agent=str(program)))
    return replace(load_device("localhost"), runtimes=(f"{runtime}:lying",))


def small_index():
    """Six blocks; `e1` is the one that most lies are about."""
    width = Choice("width", (4, 8, 16))

    def first(out):
        return (Node("conv", Conv2d((1, 3, 32, 32), out=out, kernel=3, act="relu"), ("in0",)),)

    def second(out):
        return (Node("conv", Conv2d((1, out, 32, 32), out=8, kernel=3), ("in0",)),)

    return BlockIndex(SearchSpace("small", [width], [Layer("first", (width,), first), Layer("second", (width,), second)]))


@pytest.fixture(scope="module")
def index():
    return small_index()


def rows_of(table, index):
    """`e0`, `e1`, ... -> row."""
    texts = sorted({block_text(block) for block in index.blocks})
    return {f"e{i}": table.entries[text] for i, text in enumerate(texts)}


def is_true(item, row):
    """Whether a row is a latency, and the right one to a tenth; a busy test machine only adds to it."""
    return isinstance(row, Measurement) and 0.98 <= row.price_ms * 1e6 / lying_agent.truth_ns(item) <= (1.1 if row.accepted else 3.0)


def test_an_honest_device_is_believed(index, tmp_path):
    """So that what follows is refused for the lie."""
    table = profile(index, device_that("honest", tmp_path), tmp_path / "table", visits=16, networks=3, timing=QUICK)
    assert all(is_true(item, row) for item, row in rows_of(table, index).items()) and len(table.networks) == 3
    assert all(network.p50_ms * 1e6 >= 0.98 * lying_agent.truth_ns("n0") for network in table.networks)


ONE = {
    "zero": "a run took no time at all: nothing ran, or its end was not waited for",
    "negative": "the agent's times of 'e1' are not 8 positive whole nanoseconds and two anchors",
    "not_a_number": "the agent's times of 'e1' are not 8 positive whole nanoseconds and two anchors",
    "growing": "its times kept rising, by",
    "shrinking": "its times kept falling, by",
    "below_the_clock": "less than a step of the clock, 1,000 ns: that is no time of a run",
    "next_to_nothing": "less than it takes to call a runtime: that is no time of a run",
}


@pytest.mark.parametrize("lie", ONE)
def test_a_lie_about_one_block_is_a_row_with_its_reason_and_the_others_are_measured(index, tmp_path, lie):
    table = profile(index, device_that(lie, tmp_path), tmp_path / "table", visits=16, networks=0, timing=QUICK)
    rows = rows_of(table, index)
    failed = rows.pop("e1")
    assert isinstance(failed, Failure) and ONE[lie] in failed.error, failed
    assert all(is_true(item, row) for item, row in rows.items())


def test_a_block_that_hangs_is_a_row_and_the_others_are_measured(index, tmp_path, monkeypatch):
    monkeypatch.setattr(agent, "_LOAD_S", 1.0)
    rows = rows_of(profile(index, device_that("hanging", tmp_path), tmp_path / "table", visits=2, networks=0, timing=QUICK), index)
    assert rows.pop("e1") == Failure("the agent did not answer 'load' within 1 s and was ended")
    assert all(is_true(item, row) for item, row in rows.items())


def test_a_clock_that_stands_still_makes_a_table_without_a_latency(index, tmp_path):
    table = profile(index, device_that("constant", tmp_path), tmp_path / "table", visits=16, networks=3, timing=QUICK)
    assert all(isinstance(row, Failure) and "took exactly 30,000 ns: the clock stands still" in row.error for row in table.entries.values())
    assert not table.networks


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ("fast_clock", "(it says that its (bursts took|visits were spread over)|by it) .* s"),
        ("slow_clock", "by it .* s passed between two visits, and here"),
        ("slowing_clock", "by it .* s passed between two visits, and here"),
        ("inflated", "it says that the runs of 'e1' took .* s, and their burst took"),
    ],
)
def test_a_clock_that_contradicts_ours_ends_the_profile_and_nothing_that_it_timed_counts(index, tmp_path, monkeypatch, lie, words):
    """The slack of a second hides nothing for longer than that; here it is a hundredth, since a quick machine is done in a tenth."""
    monkeypatch.setattr(clock, "_SLACK_NS", 10_000_000)
    never = replace(QUICK, settled_block=0.0)
    device, folder = device_that(lie, tmp_path), tmp_path / "table"
    for _ in range(2):  # given again, the same command does not add to what was disbelieved
        with pytest.raises(WrongClock, match=f"the agent's clock cannot be believed: {words}"):
            profile(index, device, folder, visits=400, networks=0, timing=never)
        with Store(folder / FILE, write=False) as store:
            assert not Record(store).visits
    assert not (folder / TABLE).exists()


def test_of_a_device_of_two_speeds_the_fast_one_is_the_price(index, tmp_path):
    """The anchor shows them: visits at the slow speed, 1.4 times the fast one, are not accepted, and their share is told."""
    table = profile(index, device_that("two_speeds", tmp_path), tmp_path / "table", visits=32, networks=0, timing=replace(QUICK, settled_block=0.0))
    assert all(is_true(item, row) for item, row in rows_of(table, index).items())
    assert table.anchor["visits"]["slow_share"] > 0.1


def test_speeds_that_the_anchor_does_not_show_are_told(index, tmp_path):
    """A block that switches alone, between its time and 1 / 1.4 of it: no visit is suspect, and the table says what it saw."""
    table = profile(index, device_that("hidden_speeds", tmp_path), tmp_path / "table", visits=64, networks=0, timing=replace(QUICK, settled_block=0.0))
    rows = rows_of(table, index)
    told = rows.pop("e1")
    assert all(is_true(item, row) for item, row in rows.items())
    uneven, text = table.anchor["visits"]["most_uneven"], sorted(table.entries)[1]
    assert isinstance(told, Failure) or (told.p90_ms / told.p10_ms > 1.3 and any(text in words for words in uneven)), (told, uneven)


@pytest.fixture(scope="module")
def model():
    graph = Graph.of_block((Node("conv", Conv2d((1, 3, 8, 8), out=4, kernel=3), ("in0",)),))
    return onnxruntime().build(graph, random_weights(graph, np.random.default_rng(0)))


def test_what_is_no_latency_in_a_table_is_none_in_a_window_or_a_check(model, tmp_path):
    """verify, bench and device check; their items are `m0` and the anchor."""
    device = device_that("constant", tmp_path)
    with pytest.raises(MeasurementFailed, match=r"model 0 of 1 has no latency: each of its \d+ runs took exactly 30,000 ns"):
        measure_window([model], device, seconds=0.2)
    with pytest.raises(MeasurementFailed, match="has no latency: each of its"):
        measure_bench([model], device, quantiles=[0.5], seconds=0.2)
    assert "each of its" in measure_bench([model], device, quantiles=[0.5], seconds=0.2, tolerant=True).left_out[0]
    with pytest.raises(MeasurementFailed, match="the anchor has no latency on localhost: each of its"):
        check_device(device, threads=1, seconds=0.1)
    with pytest.raises(WrongClock, match="clock cannot be believed"):
        measure_window([model], device_that("fast_clock", tmp_path), seconds=0.2)


def test_a_model_that_fails_while_it_is_measured_is_left_out_and_the_others_are_measured(model, tmp_path):
    device, graph = device_that("failing", tmp_path), Graph.of_block((Node("conv", Conv2d((1, 3, 8, 8), out=2), ("in0",)),))
    other = onnxruntime().build(graph, random_weights(graph, np.random.default_rng(0)))
    with pytest.raises(MeasurementFailed, match="a model failed while it was measured: it fell over"):
        measure_bench([model, other], device, quantiles=[0.5], seconds=0.5)
    found = measure_bench([model, other], device, quantiles=[0.5], seconds=0.5, tolerant=True)
    assert "it fell over" in found.left_out[1] and list(found.rows) == [0] and found.rows[0].visits > 2


def visit(ns=(10_000_000,), at_ns=0, wall_ns=10_000_000, busy_ns=None):
    return Visit("m", ns, 50_000, 50_000, at_ns, wall_ns, None, None, None, None, busy_ns=busy_ns)


SECOND = 1_000_000_000


def at(awake_s, slept_s=0):
    """A moment of ours."""
    return Moment(awake_s * SECOND, (awake_s + slept_s) * SECOND)


def test_a_clock_is_compared_with_ours():
    check = ClockCheck()
    check.check([visit(), visit(at_ns=SECOND)], at(0), at(2))
    check.check([visit(at_ns=100 * SECOND)], at(100), at(101))  # a hundred seconds passed on both sides
    check.check([visit(ns=(9_000_000,) * 3, busy_ns=9_500_000, at_ns=101 * SECOND)], at(101), at(102))  # three streams at once
    check.check([], at(0), at(0))
    for bad in (
        [visit(ns=(10_000_000,) * 2)],  # two runs of 10 ms in a burst of 10 ms
        [visit(wall_ns=2 * SECOND)],  # bursts of 2 s in one
        [visit(at_ns=102 * SECOND), visit(at_ns=104 * SECOND)],  # visits 2 s apart
        [visit(at_ns=130 * SECOND)],
        [visit(at_ns=80 * SECOND)],
    ):
        with pytest.raises(WrongClock, match="cannot be believed"):
            check.check(bad, at(102), at(103))


def test_whoever_sleeps_is_believed_but_not_time_and_again():
    here, there = ClockCheck(), ClockCheck()
    here.check([visit()], at(0), at(1))
    here.check([visit(at_ns=3600 * SECOND)], at(2, slept_s=3599), at(3, slept_s=3599))  # this machine slept, the device did not
    clock_ns, now = 0, 0
    there.check([visit()], at(0), at(1))
    for _ in range(3):  # the device sleeps for a minute while we wait for it
        there.check([visit(at_ns=clock_ns + SECOND)], at(now + 1), at(now + 62))
        clock_ns, now = clock_ns + 2 * SECOND, now + 62
        there.check([visit(at_ns=clock_ns)], at(now), at(now + 1))
    there.check([visit(at_ns=clock_ns + SECOND)], at(now + 1), at(now + 62))
    with pytest.raises(WrongClock, match="passed between two visits"):
        there.check([visit(at_ns=clock_ns + 2 * SECOND)], at(now + 62), at(now + 63))


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
import test_lying_agents as own
from hwnas.errors import HwnasError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder, acknowledged, limited = Path(sys.argv[1]), 0, False

def progress(stage, done, total):
    global acknowledged, limited
    if stage == "measure":
        acknowledged = done
        if done > 20 and not limited:
            limited = True
            size = sum(each.stat().st_size for each in folder.iterdir())
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4096, resource.RLIM_INFINITY))

try:
    timing = own.replace(own.QUICK, settled_block=0.0)
    own.profile(own.small_index(), own.load_device("localhost"), folder, visits=400, networks=0, timing=timing, progress=progress)
except HwnasError as error:
    print(acknowledged, error)
"""


def test_a_full_disk_ends_a_profile_in_a_sentence_and_the_same_command_goes_on(index, tmp_path):
    pytest.importorskip("resource", reason="limits on file sizes are POSIX")
    script = FULL_DISK.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=120)
    acknowledged, _, sentence = done.stdout.partition(" ")
    assert "free space, then run the same command again" in sentence, done.stderr
    with Store(tmp_path / FILE, write=False) as store:
        before = Record(store).visits
    assert len(before) >= int(acknowledged) > 20

    def stop(stage, done, total):
        if stage == "measure" and done > len(before):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile(index, load_device("localhost"), tmp_path, visits=400, networks=0, timing=replace(QUICK, settled_block=0.0), progress=stop)
    with Store(tmp_path / FILE, write=False) as store:
        assert Record(store).visits[: len(before)] == before


def test_the_agents_of_this_machine_have_a_clock_that_is_believed():
    with started_agent(load_device("localhost"), onnxruntime(), threads=1, seed=0) as started:
        for _ in range(3):
            started.visit(["anchor"] * 5, {"anchor": TIMING.block_burst()})
