"""hwnas/profiling/session.py: real profiles of this CPU, whole, killed, interrupted and repeated. No test says how long anything takes."""

import os
import platform
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from hwnas.data import shipped
from hwnas.device import load_device
from hwnas.errors import DamagedFile, InputError, MeasurementFailed, MissingLatency, RunHeld
from hwnas.graph import Node, block_text
from hwnas.index import BlockIndex
from hwnas.latency_table import Failure, LatencyTable, Measurement
from hwnas.ops import Conv2d
from hwnas.predictors.lookup import lookup
from hwnas.profiling import supervised
from hwnas.profiling.protocol import REGIMES, Burst, Visit
from hwnas.profiling.record import FILE, Record
from hwnas.profiling.session import profile
from hwnas.profiling.tabulate import doubt
from hwnas.space import Choice, Layer, SearchSpace
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.store import Store
from hwnas.variant import Variant
from tests.openvino import openvino_agent

DEVICE = load_device("localhost")


def small_space(dtype="float32"):
    """Six blocks: three widths of a first convolution, and a second one for each."""
    width = Choice("width", (4, 8, 16))

    def first(out):
        return (Node("conv", Conv2d((1, 3, 32, 32), out=out, kernel=3, act="relu"), ("in0",)),)

    def second(out):
        return (Node("conv", Conv2d((1, out, 32, 32), out=8, kernel=3, dtype=dtype if out == 16 else "float32"), ("in0",)),)

    return SearchSpace("small", [width], [Layer("first", (width,), first), Layer("second", (width,), second)])


def recorded(folder: Path):
    with Store(folder / FILE, write=False) as store:
        return Record(store).visits


@pytest.fixture(scope="module")
def index():
    return BlockIndex(ofa_mini(resolutions=(32,)))


@pytest.fixture(scope="module")
def complete(index, tmp_path_factory):
    folder = tmp_path_factory.mktemp("complete")
    seen = []
    table = profile(index, DEVICE, folder, visits=2, networks=8, progress=lambda *each: seen.append(each))
    return table, folder, seen


def test_every_block_of_the_space_is_measured(complete, index):
    table, _, _ = complete
    assert set(table.entries) == {block_text(block) for block in index.blocks if block}
    for entry in table.entries.values():
        assert isinstance(entry, Measurement)
        assert 2 <= entry.visits <= 4 and 0 <= entry.accepted <= entry.visits and entry.runs >= 8 * entry.visits
        assert 0 < entry.p10_ms <= entry.p50_ms <= entry.p90_ms
    assert (lookup(table).prices(index.blocks) > 0).sum() == len(table.entries)


def test_networks_are_measured_as_often_as_planned(complete, index):
    table, _, _ = complete
    assert len(table.networks) == 8
    for network in table.networks:
        assert (network.fingerprint, network.architecture.space) == (index.fingerprint, "ofa_mini")
        assert network.visits + network.dropped == 2
        index.space.check(network.architecture.code(index.space))


def test_the_table_says_how_its_numbers_came_about(complete, index):
    table, _, _ = complete
    assert (table.origin, table.conditions.device, table.conditions.runtime, table.conditions.threads) == ("measured", "localhost", "onnxruntime", 1)
    assert table.conditions.options["denormals"] == "zero" and "warm" in table.conditions.regime and table.conditions.processor
    assert (table.protocol["space"], table.protocol["visits"], table.protocol["networks"], table.protocol["seed"]) == (index.fingerprint, 2, 8, 0)
    assert {"by", "date", "space", "agent_sha256", "system_os", "system_governor", "system_cores"} <= set(table.provenance)
    assert table.anchor["best_us"] > 0 and sum(state["share"] for state in table.anchor["states"]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("regime", ["steady", "first-run", "cold-start"])
def test_each_regime_has_a_table_of_its_own_and_none_replaces_another(tmp_path, regime):
    index = BlockIndex(small_space())
    table = profile(index, DEVICE, tmp_path, visits=2, networks=0, timing=REGIMES[regime])
    assert table.conditions.regime == REGIMES[regime].regime
    runs = {len(visit.ns) for visit in recorded(tmp_path)}
    assert runs == {1} if regime != "steady" else min(runs) >= 8
    with pytest.raises(InputError, match="was profiled with regime = " + re.escape(REGIMES[regime].regime[:12])):
        profile(index, DEVICE, tmp_path, visits=2, networks=0)


def test_a_sustained_profile_heats_the_device_until_its_speed_has_settled(tmp_path, monkeypatch):
    import hwnas.profiling.agent as module

    monkeypatch.setattr(module, "_SETTLING_S", 0.2)
    monkeypatch.setattr(module, "_HEATING_RUNS", 200)
    seen = []
    visit = module.Agent.visit
    monkeypatch.setattr(module.Agent, "visit", lambda self, order, bursts, **more: seen.append(bursts) or visit(self, order, bursts, **more))
    table = profile(BlockIndex(small_space()), DEVICE, tmp_path, visits=1, networks=0, timing=replace(REGIMES["sustained"], most_heating_s=3.0))
    heated = sum(bursts.get("anchor") == Burst(0, 200) for bursts in seen)
    assert heated >= 3 and table.conditions.regime == REGIMES["sustained"].regime


def test_visits_are_spread_over_time_before_anything_is_settled(tmp_path):
    """A shared machine keeps its mood for seconds to minutes: eight visits within one say nothing of the next."""
    index, steady = BlockIndex(small_space()), {"settled_block": 1e9, "most_crowding_pct": 10**9, "anchor_tolerance": 1e9}
    profile(index, DEVICE, tmp_path, visits=12, networks=0, timing=replace(REGIMES["warm"], least_span_s=3.0, **steady))
    visits = recorded(tmp_path)
    assert set(Counter(visit.item for visit in visits).values()) == {8}
    assert visits[-1].at_ns - visits[0].at_ns >= 3e9


def test_ctrl_c_is_heard_while_the_device_is_heated(tmp_path):
    """Heating takes minutes: nothing may wait for its end."""
    stages = []

    def press(stage, done, total):
        stages.append(stage)
        if stage == "heat":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        profile(BlockIndex(small_space()), DEVICE, tmp_path, visits=1, networks=0, timing=REGIMES["sustained"], progress=press)
    assert stages.count("heat") == 1 and not recorded(tmp_path)


def test_items_are_visited_in_another_order_each_pass(complete, index):
    _, folder, _ = complete
    items = [visit.item for visit in recorded(folder)]
    per_pass = len([block for block in index.blocks if block]) + 8
    first, second = items[:per_pass], items[per_pass : 2 * per_pass]
    assert Counter(first) == Counter(second) and first != second
    assert sum(a[0] != b[0] for a, b in pairwise(first)) > 4  # networks among blocks, not after them


def test_progress_reaches_its_total(complete):
    _, _, seen = complete
    assert [stage for stage, _, _ in seen if stage == "load"] and seen[-1][0] == "measure"
    assert seen[-1][1] == seen[-1][2]
    assert all(done <= total for _, done, total in seen)


def test_the_same_command_on_a_complete_table_measures_nothing(complete, index):
    table, folder, _ = complete
    before, seen = {path.name: path.read_bytes() for path in folder.iterdir()}, []
    assert profile(index, DEVICE, folder, visits=2, networks=8, progress=lambda *each: seen.append(each)) == table
    assert seen == [("complete", len(table.entries), len(table.entries))]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visits": 3}, "was profiled with visits = 2, and now it is 3"),
        ({"networks": 9}, "networks = 8, and now it is 9"),
        ({"seed": 1}, "seed = 0, and now it is 1"),
        ({"threads": 2}, "threads = 1, and now it is 2"),
    ],
)
def test_other_options_than_those_of_the_complete_table_are_refused(complete, index, change, message):
    _, folder, _ = complete
    with pytest.raises(InputError, match=message):
        profile(index, DEVICE, folder, **{"visits": 2, "networks": 8} | change)


def test_another_space_does_not_go_into_the_same_folder(complete):
    _, folder, _ = complete
    with pytest.raises(InputError, match="was profiled with space"):
        profile(BlockIndex(small_space()), DEVICE, folder, visits=2, networks=8)


KILLED = """
import os, signal, sys
from pathlib import Path
from hwnas.device import load_device
from hwnas.index import BlockIndex
from hwnas.profiling.session import profile
from hwnas.spaces.ofa_mini import ofa_mini

def progress(stage, done, total):
    if stage == sys.argv[2] and done >= int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

profile(BlockIndex(ofa_mini(resolutions=(32,))), load_device("localhost"), Path(sys.argv[1]), visits=4, networks=8, progress=progress)
"""


@pytest.mark.parametrize(("stage", "done"), [("load", 30), ("measure", 60), ("measure", 150)])
def test_a_killed_profile_goes_on_and_measures_nothing_twice(index, tmp_path, stage, done):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), stage, str(done)], check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    before = recorded(tmp_path)
    assert len(before) >= done or stage == "load"
    table = profile(index, DEVICE, tmp_path, visits=4, networks=8)
    after = recorded(tmp_path)
    assert after[: len(before)] == before
    made = Counter(visit.item for visit in after)
    assert all(made[item] == 4 if item[0] == "n" else 4 <= made[item] <= 8 for item in made)
    assert len(made) == len(table.entries) + 8


def test_a_folder_in_the_making_refuses_other_options(tmp_path):
    def stop(stage, done, total):
        if stage == "measure":
            raise KeyboardInterrupt

    index = BlockIndex(small_space())
    with pytest.raises(KeyboardInterrupt):
        profile(index, DEVICE, tmp_path, visits=2, networks=0, progress=stop)
    with pytest.raises(InputError, match="visits = 2, and now it is 5"):
        profile(index, DEVICE, tmp_path, visits=5, networks=0)
    with pytest.raises(DamagedFile, match=r"there is no table\.toml in it; a profile that was not finished is continued by the same command"):
        LatencyTable.load(tmp_path)


def test_ctrl_c_finishes_the_batch_and_can_be_resumed(index, tmp_path):
    def press(stage, done, total):
        if stage == "measure" and done == 0:
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        profile(index, DEVICE, tmp_path, visits=4, networks=8, progress=press)
    assert signal.getsignal(signal.SIGINT) is handler
    before = recorded(tmp_path)
    assert before, "the batch in progress was recorded"
    profile(index, DEVICE, tmp_path, visits=4, networks=8)
    assert recorded(tmp_path)[: len(before)] == before


def test_a_second_writer_is_told_who_holds_the_folder(tmp_path):
    index = BlockIndex(small_space())

    def again(stage, done, total):
        if stage == "measure" and done == 0:
            with pytest.raises(RunHeld, match=f"process {os.getpid()}"):
                profile(index, DEVICE, tmp_path, visits=1, networks=0)
            told.append(stage)

    told: list[str] = []
    profile(index, DEVICE, tmp_path, visits=1, networks=0, progress=again)
    assert told == ["measure"]


def test_a_block_the_runtime_cannot_run_is_a_row_and_the_others_are_measured(tmp_path):
    table = profile(BlockIndex(small_space("float16")), DEVICE, tmp_path, visits=1, networks=0)
    failed = {text: entry for text, entry in table.entries.items() if isinstance(entry, Failure)}
    assert list(failed) == ["conv = conv2d.float16 1x16x32x32 out=8 k=3 (in0)"]
    assert len(table.entries) == 6
    with pytest.raises(MissingLatency, match=r"1 of 6 blocks of small have no latency .* \(it failed: .* in float16 it computes 1 in float32\)"):
        lookup(table, "small").prices(BlockIndex(small_space("float16")).blocks)


def visit_of(*ns):
    return Visit("e0", ns, 10, 10, 0, sum(ns), sum(ns), 0, 0, 0)


def test_times_that_never_change_are_no_latency():
    assert "each of its 16 runs took exactly 500 ns" in doubt([visit_of(*[500] * 8), visit_of(*[500] * 8)])
    assert doubt([visit_of(*[500] * 8), visit_of(*[500] * 7, 501)]) is None
    assert doubt([visit_of(*[500] * 16)]) is None and doubt([visit_of(500), visit_of(500)]) is None  # too few to tell from a coarse clock


def test_any_runtime_of_a_device_makes_a_table_of_its_own(tmp_path):
    index = BlockIndex(small_space())
    table = profile(index, DEVICE, tmp_path, runtime="torch", visits=1, networks=3)
    assert (table.conditions.runtime, table.conditions.options["device"]) == ("torch", "cpu")
    assert all(isinstance(entry, Measurement) for entry in table.entries.values())  # a network is left out where another process ran during each visit
    with pytest.raises(InputError, match="was profiled with runtime = torch, and now it is onnxruntime"):
        profile(index, DEVICE, tmp_path, visits=1, networks=3)
    other = replace(DEVICE, options={"torch": {"channels_last": True}})
    with pytest.raises(InputError, match="was profiled with option channels_last = False, and now it is True"):
        profile(index, other, tmp_path, runtime="torch", visits=1, networks=3)
    with pytest.raises(InputError, match="localhost has no runtime 'tensorflow'; its file names onnxruntime, torch"):
        profile(index, DEVICE, tmp_path / "other", runtime="tensorflow")


def test_a_space_is_profiled_through_openvinos_provider(tmp_path):
    path = tmp_path / "with_openvino.py"
    agent = openvino_agent(tmp_path)
    path.write_text(OTHER_AGENT.format(agent=str(agent)))
    device = replace(DEVICE, runtimes=(f"{path}:other",), options={"onnxruntime": load_device("openvino").options["onnxruntime"]})
    table = profile(BlockIndex(small_space()), device, tmp_path / "table", visits=1, networks=3)
    assert table.conditions.options["provider"] == "OpenVINOExecutionProvider" and "INFERENCE_PRECISION_HINT" in table.conditions.options
    assert all(isinstance(entry, Measurement) for entry in table.entries.values())  # a network is left out where another process ran during each visit


@pytest.mark.parametrize(("precision", "reason"), [
    ("fp16", "of 1 convolutions or matrix products in float16 it computes 1 in float32"),
    ("int8_s8s8", "of 1 convolutions or matrix products in int8 it computes 1 in float32"),
    ("bf16", "Could not find an implementation for Conv"),
])  # fmt: skip
def test_a_precision_without_kernels_is_refused_and_leaves_the_folder_free(tmp_path, precision, reason):
    """On x86; the CPU provider has float16 kernels on ARM."""
    if precision == "fp16" and platform.machine() != "x86_64":
        pytest.skip("ONNX Runtime may have float16 kernels on this processor")
    space = Variant(precision).space(small_space())
    with pytest.raises(InputError, match=f"onnxruntime .* on localhost does not compute in {precision}: .*{reason}"):
        profile(BlockIndex(space), DEVICE, tmp_path, visits=1, networks=0)
    assert not (tmp_path / "table.toml").exists()
    assert len(profile(BlockIndex(small_space()), DEVICE, tmp_path, visits=1, networks=0).entries) == 6


def test_blocks_and_networks_are_measured_in_int8_of_a_batch(tmp_path):
    index = BlockIndex(Variant("int8_u8s8", 2).space(ofa_mini(resolutions=(32,))))
    table = profile(index, DEVICE, tmp_path, visits=1, networks=8)
    assert set(table.entries) == {block_text(block) for block in index.blocks if block}
    assert all(isinstance(entry, Measurement) for entry in table.entries.values())
    assert {network.fingerprint for network in table.networks} == {index.fingerprint}  # on a busy machine some are dropped
    assert table.variants() == [Variant("int8_u8s8", 2)]


CRASHING_AGENT = """
import os, sys
sys.path.insert(0, {folder!r})
import agent_contract, onnxruntime_agent

class Crashing(agent_contract.Agent):
    def load(self, request):
        if request["item"] == "e2":
            os.abort()
        return super().load(request)

    def run(self, request):
        if "e4" in request["order"]:
            os.kill(os.getpid(), 9)  # as the system does where memory ends
        answer = super().run(request)
        for visit in answer["visits"]:
            if visit["item"] == "e1":
                visit["ns"][3] = 0
        return answer

agent_contract.Agent = Crashing
agent_contract.main(onnxruntime_agent.OnnxRuntime())
"""

#: Ends wherever it is asked for more than one visit: no single model is to blame.
ENDING_AGENT = """
import os, sys
sys.path.insert(0, {folder!r})
import agent_contract, onnxruntime_agent
open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "starts"), "a").write("x")

class Ending(agent_contract.Agent):
    def run(self, request):
        if len(request["order"]) > 1:
            os.kill(os.getpid(), 9)
        return super().run(request)

agent_contract.Agent = Ending
agent_contract.main(onnxruntime_agent.OnnxRuntime())
"""

OTHER_AGENT = """
from hwnas.profiling.runtimes.onnxruntime import onnxruntime

def other():
    runtime = onnxruntime()
    runtime.agent = {agent!r}
    return runtime
"""


def test_models_that_bring_the_agent_down_are_rows_and_the_others_are_measured(tmp_path):
    agent, runtime, folder = tmp_path / "agent.py", tmp_path / "crashing.py", tmp_path / "table"
    agent.write_text(CRASHING_AGENT.format(folder=str(shipped("devices") / "agents")))
    runtime.write_text(OTHER_AGENT.format(agent=str(agent)))
    device = replace(DEVICE, runtimes=(f"{runtime}:other",))
    index = BlockIndex(small_space())
    texts = sorted(block_text(block) for block in index.blocks)
    table = profile(index, device, folder, visits=1, networks=0)
    failed = {text: entry.error for text, entry in table.entries.items() if isinstance(entry, Failure)}
    assert failed == {
        texts[1]: "a run took no time at all: nothing ran, or its end was not waited for",
        texts[2]: "the agent ended during 'load', killed by signal 6",
        texts[4]: "the agent ended during 'run', killed by signal 9",
    }
    assert len(table.entries) == 6


BUILDING_AGENT = """
import json, sys
sys.path.insert(0, {folder!r})
import agent_contract, onnxruntime_agent

class Building(agent_contract.Agent):
    def load(self, request):
        answer = super().load(request)
        plan = json.load(open({plans!r})).get(request["item"], "ab" * 32)
        return dict(answer, facts={{"plan_sha256": plan}})

agent_contract.Agent = Building
agent_contract.main(onnxruntime_agent.OnnxRuntime())
"""


def test_what_was_measured_of_another_plan_is_measured_again(tmp_path):
    """The device builds something of each model, as TensorRT does, and after an interruption something else of one of them."""
    agent, runtime, plans, folder = (tmp_path / name for name in ("agent.py", "building.py", "plans.json", "table"))
    agent.write_text(BUILDING_AGENT.format(folder=str(shipped("devices") / "agents"), plans=str(plans)))
    runtime.write_text(OTHER_AGENT.format(agent=str(agent)).replace("other", "building"))
    plans.write_text("{}")
    device, index = replace(DEVICE, runtimes=(f"{runtime}:building",)), BlockIndex(small_space())

    def interrupt(stage, done, total):
        if stage == "measure" and done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile(index, device, folder, visits=3, networks=0, progress=interrupt)
    before = Counter(visit.item for visit in recorded(folder))
    assert all(before[f"e{i}"] >= 3 for i in range(6))
    plans.write_text('{"e1": "' + "cd" * 32 + '"}')
    table = profile(index, device, folder, visits=3, networks=0)
    with Store(folder / FILE, write=False) as store:
        events, kept = [event for event in store.events() if event.kind == "visits"], Record(store)
    made = Counter(visit[0] for event in events for visit in event.body["visits"])
    assert kept.plans == {f"e{i}": ("cd" if i == 1 else "ab") * 32 for i in range(6)}
    assert made["e1"] == before["e1"] + Counter(visit.item for visit in kept.visits)["e1"], "the former visits are on record and do not count"
    assert table.entries[sorted(table.entries)[1]].visits == Counter(visit.item for visit in kept.visits)["e1"]
    assert len(str(table.provenance["plans_sha256"])) == 64


def test_an_agent_that_ends_whatever_it_runs_ends_the_profile(tmp_path, monkeypatch):
    monkeypatch.setattr(supervised, "MAX_RESTARTS", 3)
    agent, runtime = tmp_path / "agent.py", tmp_path / "crashing.py"
    agent.write_text(ENDING_AGENT.format(folder=str(shipped("devices") / "agents")))
    runtime.write_text(OTHER_AGENT.format(agent=str(agent)))
    with pytest.raises(MeasurementFailed, match="killed by signal 9; it was started again 3 times"):
        profile(BlockIndex(small_space()), replace(DEVICE, runtimes=(f"{runtime}:other",)), tmp_path / "table", visits=9, networks=0)
    assert (tmp_path / "starts").read_text() == "xxxx"


def test_a_record_of_something_else_is_refused(tmp_path):
    with Store(tmp_path / FILE) as store:
        store.append("recipe", {"eggs": 2})
    with pytest.raises(DamagedFile, match="is no record of a profile"):
        profile(BlockIndex(small_space()), DEVICE, tmp_path, visits=1, networks=0)


def test_a_damaged_complete_table_is_not_profiled_over(complete, index, tmp_path):
    _, folder, _ = complete
    for name in ("table.toml", "entries.csv", "networks.csv"):
        (tmp_path / name).write_bytes((folder / name).read_bytes()[:-1])
    with pytest.raises(DamagedFile, match="was cut short or changed"):
        profile(index, DEVICE, tmp_path, visits=2, networks=8)
