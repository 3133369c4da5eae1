"""devices/agents/ and the host's side of them: the real agent over real pipes, and agents that misbehave."""

import ast
import json
import os
import re
import shlex
import shutil
import signal
import socket
import sys
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import numpy as np
import onnx
import pytest
from agent_models import conv_model
from onnx import TensorProto, helper, numpy_helper

from hwnas.data import shipped
from hwnas.device import core_text, load_device
from hwnas.errors import DamagedFile, InputError, MeasurementFailed
from hwnas.profiling.agent import Agent, Burst, Refused, started_agent
from hwnas.profiling.protocol import TIMING, is_disturbed
from hwnas.profiling.runtimes.onnxruntime import onnxruntime
from hwnas.profiling.transport import agent_source
from hwnas.profiling.transports.local import local

LOCALHOST = load_device("localhost")
AGENT = shipped("devices") / "agents" / "onnxruntime_agent.py"
HELLO = {"op": "hello", "contract": 2, "threads": 1, "seed": 0}


def model_of(node, shape, initializers=()):
    """One operator between `x` and `y`."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([node], "g", values[:1], values[1:], list(initializers))
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


@pytest.fixture(scope="session", params=["Python", "C++"])
def device(request):
    """This machine, with each of the agents that keep the contract."""
    return LOCALHOST if request.param == "Python" else replace(LOCALHOST, agent=str(request.getfixturevalue("native_agent")))


@pytest.fixture(scope="module")
def agent(device):
    with started_agent(device, onnxruntime(), threads=1, seed=7) as agent:
        agent.load("good", conv_model())
        yield agent


@pytest.fixture
def pipe(device):
    connection = local().start(device, AGENT)
    yield connection
    connection.close()


def foreign(tmp_path, body):
    """An agent of somebody else's, as a program."""
    path = tmp_path / "foreign_agent.py"
    path.write_text("import json, sys, time\n" + body)
    return local().start(LOCALHOST, path)


def without_profiler(tmp_path):
    """A folder with the agent in Python as a program, of a runtime that has no profiler and says so."""
    program = tmp_path / "hwnas_onnxruntime_agent"
    source = agent_source(AGENT).decode().partition('if __name__ == "__main__":')[0]
    changed = "del Item.layers\nOnnxRuntime.system['not_told'] = 'layers: it has no profiler'"
    program.write_text(f"#!{sys.executable}\n{source}\n{changed}\nmain(OnnxRuntime())\n")
    program.chmod(0o755)
    return tmp_path


def test_every_agent_is_python_3_8():
    for path in (shipped("devices") / "agents").glob("*.py"):
        ast.parse(path.read_text(), feature_version=(3, 8))


def test_an_agent_is_sent_as_one_source_of_which_the_contract_is_part():
    source = agent_source(AGENT).decode()
    ast.parse(source, feature_version=(3, 8))
    assert "\nfrom agent_contract" not in source and "def take_lease" in source and "class OnnxRuntime" in source


@pytest.mark.parametrize("name", sorted(path.name for path in AGENT.parent.glob("*_agent.py")))
def test_an_agent_of_several_files_is_one_source_that_defines_every_name_once(name):
    tree = ast.parse(agent_source(AGENT.parent / name))
    own = {path.stem for path in AGENT.parent.glob("*.py")}
    assert not {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} & own, "no file is left out"
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assigned = [target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets if isinstance(target, ast.Name)]
    assert len(defined + assigned) == len(set(defined + assigned)), "of two of one name the later one would serve both files"


def test_what_an_agent_imports_from_elsewhere_stays_an_import(tmp_path):
    (tmp_path / "part.py").write_text("from os import path\nfrom other import B\nA = 1\n")
    (tmp_path / "other.py").write_text("B = 2\n")
    (tmp_path / "some_agent.py").write_text("from part import A\nfrom other import B\nprint(A)\n")
    assert agent_source(tmp_path / "some_agent.py").decode().split("\n") == ["from os import path", "B = 2", "", "A = 1", "", "", "print(A)", ""]
    with pytest.raises(DamagedFile, match="cannot read the agent"):
        agent_source(tmp_path / "no_agent.py")


def test_a_runtime_without_a_profiler_says_so(tmp_path):
    with started_agent(replace(LOCALHOST, agent=str(without_profiler(tmp_path))), onnxruntime(), threads=1, seed=0) as agent:
        agent.load("good", conv_model())
        with pytest.raises(Refused, match="onnxruntime times no layers here"):
            agent.layers("good", 3)


def test_layers_of_an_item_that_was_never_loaded_are_refused(agent):
    with pytest.raises(Refused, match="no item 'ghost' is loaded"):
        agent.layers("ghost", 3)


def test_operators_are_profiled_as_onnx_runtime_runs_them(agent):
    """A convolution with its activation is one operator; a profile of many runs has it once, and what is timed afterwards is not profiled."""
    width = [numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")]
    model = model_of(helper.make_node("Conv", ["x", "w"], ["c"], name="first"), [1, 3, 16, 16], width)
    model.graph.node.extend([helper.make_node("Relu", ["c"], ["r"], name="act"), helper.make_node("Sigmoid", ["r"], ["y"], name="last")])
    model.graph.output[0].type.tensor_type.ClearField("shape")
    agent.load("layered", model.SerializeToString())
    for runs in (1, 40):
        names = [name for name, ns in agent.layers("layered", runs) if ns >= 0]
        assert sum(name.endswith(" (Conv)") for name in names) == names.count("last (Sigmoid)") == 1 and not any("Relu" in name for name in names), names
    (visit,) = agent.visit(["layered"], {"layered": Burst(1, 5)})
    assert len(visit.ns) == 5
    with pytest.raises(Refused, match="at most 1000 are, got 1001"):
        agent.layers("layered", 1001)


def test_agents_leave_no_file_behind(device, tmp_path, monkeypatch):
    """Neither profiles nor the files of ONNX Runtime's telemetry."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with started_agent(device, onnxruntime(), threads=1, seed=0) as agent:
        agent.load("good", conv_model())
        assert agent.layers("good", 2)
        assert not list(tmp_path.iterdir())


def test_a_profile_that_is_larger_than_a_file_may_be_is_refused_and_the_model_is_timed(device, tmp_path):
    """The shell lets the agent write half a megabyte; what ONNX Runtime says of fifty runs is longer. With casts in it, it is profiled on loading too."""
    folder = tmp_path / "limited"
    folder.mkdir()
    command = [str(Path(device.agent) / "hwnas_onnxruntime_agent")] if device.agent else [sys.executable, str(AGENT)]
    (folder / "hwnas_onnxruntime_agent").write_text(f"#!/bin/sh\nulimit -f 1024; exec {shlex.join(command)}\n")
    (folder / "hwnas_onnxruntime_agent").chmod(0o755)
    with started_agent(replace(device, agent=str(folder)), onnxruntime(), threads=1, seed=0) as agent:
        long = model_of(helper.make_node("Exp", ["x"], ["y"], name="Cast" * 200_000), [4]).SerializeToString()
        assert not any(name.startswith("computed_in") for name in agent.load("long", long))
        with pytest.raises(Refused, match=r"cannot be read \(no JSON: .*\): ask for fewer runs|wrote down 0 of 51 runs"):
            agent.layers("long", 50)
        assert len(agent.visit(["long"], {"long": Burst(1, 3)})[0].ns) == 3
        assert agent.load("short", conv_model()) and agent.layers("short", 2)


def test_layers_are_called_what_the_model_calls_them(agent):
    """Whatever that is: names come from anybody, and ONNX Runtime writes them into a file that is read again."""
    for number, name in enumerate(('"', "a\nb", "\\", '", "dur": 1e9, "x": "', "straße \U0001f4f1", "../../x", "_kernel_time", "")):
        agent.load(f"named {number}", model_of(helper.make_node("Exp", ["x"], ["y"], name=name), [4]).SerializeToString())
        try:
            (found,) = agent.layers(f"named {number}", 2)
        except Refused as error:  # an ONNX Runtime that escapes no names
            assert "JSON" in str(error)
            continue
        assert found[0].endswith(" (Exp)") and found[1] < 10**9, found


def test_layers_of_an_agent_are_names_with_nanoseconds(tmp_path):
    connection, agent = lying_agent(tmp_path, [], layers=[["conv\x1b", 1200], ["act", 0]])
    assert agent.layers("a", 5) == [("conv?", 1200), ("act", 0)]
    connection.close()


@pytest.mark.parametrize("layers", [None, {}, [["conv"]], [["conv", 1.5]], [["conv", -1]], [[1, 1]], [["conv", True]], [["conv", 1]] * 10_001])
def test_layers_that_cannot_be_are_not_believed(tmp_path, layers):
    connection, agent = lying_agent(tmp_path, [], layers=layers)
    with pytest.raises(MeasurementFailed, match="layers of 'a' are not"):
        agent.layers("a", 5)
    connection.close()


def test_options_that_the_runtime_does_not_have_are_refused(device):
    device = replace(device, options={"onnxruntime": {"turbo": True}})
    refused = pytest.raises(MeasurementFailed, match="the agent of localhost refused to start: unknown option 'turbo'")
    with refused, started_agent(device, onnxruntime(), threads=1, seed=0):
        pass


def test_a_cold_start_opens_the_model_anew_each_time(agent):
    cold, warm = agent.visit(["good", "good"], {"good": Burst(0, 3, cold=True)})[0], agent.visit(["good"], {"good": Burst(3, 9)})[0]
    assert len(cold.ns) == 3 and min(cold.ns) > min(warm.ns), "opening a model takes longer than running it"


def test_the_agent_says_what_it_runs_on(agent, device):
    identity = agent.identity
    import onnxruntime as library

    assert (identity.runtime, identity.version) == ("onnxruntime", library.__version__)
    assert identity.options["denormals"] == "zero" and identity.options["provider"] == "CPUExecutionProvider" and identity.options["intra_op_threads"] == 1
    own = {"compiler"} if device.agent else {"python", "numpy"}
    assert set(identity.system) - {"affinity", "clusters"} == {"processor", "cores", "governor", "os", "arch", *own}
    assert identity.system["cores"] == os.cpu_count() and identity.origin == "measured"
    if hasattr(os, "sched_getaffinity"):
        assert identity.system["affinity"] == core_text(sorted(os.sched_getaffinity(0)))


@pytest.mark.skipif(shutil.which("taskset") is None, reason="needs taskset (util-linux)")
def test_the_local_agent_is_kept_to_cores_and_says_so(device):
    core = max(os.sched_getaffinity(0))
    with started_agent(replace(device, cores=str(core)), onnxruntime(), threads=1, seed=0) as agent:
        assert agent.identity.system["affinity"] == agent.identity.options["cores"] == str(core)
        assert agent.look()["usable_cores"] == 1


def test_a_program_of_the_devices_file_is_the_agent(tmp_path):
    program = tmp_path / "hwnas_onnxruntime_agent"
    program.write_text(f"#!{sys.executable}\n{agent_source(AGENT).decode()}")
    program.chmod(0o755)
    with started_agent(replace(LOCALHOST, agent=str(tmp_path)), onnxruntime(), threads=1, seed=0) as agent:
        assert agent.identity.runtime == "onnxruntime" and len(agent.identity.agent_sha256) == 64
    program.unlink()
    missing = pytest.raises(InputError, match="must be a program named hwnas_onnxruntime_agent in it")
    with missing, started_agent(replace(LOCALHOST, agent=str(tmp_path)), onnxruntime(), threads=1, seed=0):
        pass


ARM = """processor\t: 0
CPU implementer\t: 0x41
CPU part\t: 0xd05

processor\t: 1
CPU implementer\t: 0x41
CPU part\t: 0xd0d
"""


def test_processors_and_clusters_of_arm_are_told_from_what_linux_shows(tmp_path, monkeypatch):
    """The cores of a phone as its files describe them: two small ones, then a large one, which is switched off."""
    namespace: dict[str, object] = {"__name__": "contract"}
    exec(compile((AGENT.parent / "agent_contract.py").read_text(), "agent_contract.py", "exec"), namespace)
    for core, khz in ((0, 1_803_000), (1, 1_803_000), (2, 2_850_000)):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "cpuinfo_max_freq").write_text(f"{khz}\n")
        (folder / "scaling_governor").write_text("performance\n" if core == 2 else "schedutil\n")
    namespace["core_folder"] = lambda core: tmp_path / f"cpu{core}"
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2}, raising=False)
    (tmp_path / "cpuinfo").write_text(ARM)

    def elsewhere(path):
        names = {"/proc/cpuinfo": tmp_path / "cpuinfo", "/proc/device-tree/model": tmp_path / "model"}
        return names.get(str(path), Path(path))

    namespace["Path"] = elsewhere
    (tmp_path / "model").write_bytes(b"Board 4 Model B\0")
    system = namespace["describe_system"]()
    assert system["processor"] == "Board 4 Model B (implementer 0x41, parts 0xd05 0xd0d)"
    assert (system["affinity"], system["clusters"], system["governor"]) == ("1-2", "0-1 to 1803 MHz, 2 to 2850 MHz", "performance, schedutil")
    (tmp_path / "cpuinfo").write_text(ARM + "Hardware\t: Chip 888\n")
    assert namespace["processor"]().startswith("Chip 888 (")


def test_visits_come_in_the_order_asked_with_as_many_runs(agent):
    agent.load("other", conv_model(out=8))
    visits = agent.visit(["good", "other", "good"], {"good": Burst(2, 5), "other": Burst(0, 3)})
    assert [visit.item for visit in visits] == ["good", "other", "good"]
    assert [len(visit.ns) for visit in visits] == [5, 3, 5]
    assert all(visit.wall_ns >= sum(visit.ns) for visit in visits)
    assert all(first.at_ns < second.at_ns for first, second in pairwise(visits))
    assert visits[0].anchor_after_ns == visits[1].anchor_before_ns


def test_denormals_are_flushed_from_the_first_session_on(agent):
    """5e-30 times 1e-9 is below the normal float32 numbers; its inverse 2e38 is still finite, the inverse of a flushed 0 is not."""
    constants = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("zero", 0.0), ("tiny", 5e-30), ("small", 1e-9), ("one", 1.0))]
    nodes = [
        helper.make_node("Mul", ["x", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "tiny"], ["t"]),
        helper.make_node("Mul", ["t", "small"], ["denormal"]),
        helper.make_node("Div", ["one", "denormal"], ["y"]),
    ]
    model = model_of(nodes[0], [4], constants)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    with pytest.raises(Refused, match="not finite"):
        agent.load("denormals", model.SerializeToString())


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        pytest.param(b"this is no model", "INVALID_PROTOBUF|Protobuf", id="bytes"),
        pytest.param(b"", "ModelProto|[Nn]o graph|empty|does not", id="nothing"),
        pytest.param(conv_model()[:-20], "INVALID_PROTOBUF|Protobuf", id="cut short"),
        pytest.param(model_of(helper.make_node("Relu", ["x"], ["y"]), ["n", 3]).SerializeToString(), "only tensors of numbers of fixed shape", id="free axis"),
        pytest.param(model_of(helper.make_node("Relu", ["x"], ["y"]), [1 << 20, 1 << 20]).SerializeToString(), "more than", id="huge input"),
        pytest.param(model_of(helper.make_node("Sqrt", ["x"], ["y"]), [100]).SerializeToString(), "output y is not finite", id="not a number"),
        pytest.param(model_of(helper.make_node("Nonsense", ["x"], ["y"]), [4]).SerializeToString(), "Nonsense", id="unknown operator"),
    ],
)
def test_a_model_that_cannot_be_timed_is_an_answer_and_the_agent_goes_on(agent, model, reason):
    with pytest.raises(Refused, match=reason):
        agent.load("bad", model)
    assert len(agent.visit(["good"], {"good": Burst(0, 1)})) == 1


def test_external_data_is_refused_before_anything_is_opened(agent, tmp_path):
    weights = numpy_helper.from_array(np.ones(2048, np.float32), "w")
    model = model_of(helper.make_node("Add", ["x", "w"], ["y"]), [2048], [weights])
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(Refused, match="external data files, which are refused"):
        agent.load("external", path.read_bytes())


def typed_model(kind, shape=(4,)):
    """y = x of that type."""
    values = [helper.make_tensor_value_info(name, kind, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


NUMBERS = ("FLOAT", "FLOAT16", "DOUBLE", "BOOL", "INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32", "INT64", "UINT64")


@pytest.mark.parametrize("kind", NUMBERS)
def test_inputs_of_every_type_of_number_are_made(agent, kind):
    agent.load(f"typed {kind}", typed_model(getattr(TensorProto, kind), ()))
    assert len(agent.visit([f"typed {kind}"], {f"typed {kind}": Burst(0, 2)})[0].ns) == 2


def within_model(kind, ranges, size=20_000):
    """A model whose output is finite if, and only if, each statistic of its input of that type is within its range."""
    x = helper.make_tensor_value_info("x", kind, [size])
    nodes = [helper.make_node("Cast", ["x"], ["real"], to=TensorProto.FLOAT), helper.make_node("Mul", ["real", "real"], ["square"])]
    for operator, source, to in (("Mean", "real", "mean"), ("Mean", "square", "mean_square"), ("Min", "real", "least"), ("Max", "real", "most")):
        nodes.append(helper.make_node(f"Reduce{operator}", [source], [to], keepdims=0))
    constants, kept = [numpy_helper.from_array(np.array(1, np.float32), "one")], []
    for name, bounds in ranges.items():
        for bound, operator in zip(bounds, ("GreaterOrEqual", "LessOrEqual"), strict=True):
            kept.append(f"{name} {operator}")
            constants.append(numpy_helper.from_array(np.array(bound, np.float32), f"bound of {kept[-1]}"))
            nodes.append(helper.make_node(operator, [name, f"bound of {kept[-1]}"], [f"is {kept[-1]}"]))
            nodes.append(helper.make_node("Cast", [f"is {kept[-1]}"], [kept[-1]], to=TensorProto.FLOAT))
    nodes += [helper.make_node("Min", kept, ["all kept"]), helper.make_node("Div", ["one", "all kept"], ["y"])]
    graph = helper.make_graph(nodes, "g", [x], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])], constants)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


NORMAL = {"mean": (-0.05, 0.05), "mean_square": (0.9, 1.1), "least": (-8, -3), "most": (3, 8)}
BITS = {"mean": (0.45, 0.55), "least": (0, 0), "most": (1, 1)}
ANY_BYTE = {"mean": (-4, 4), "mean_square": (5_100, 5_820), "least": (-128, -128), "most": (127, 127)}
ANY_UNSIGNED_BYTE = {"mean": (123.5, 131.5), "least": (0, 0), "most": (255, 255)}


@pytest.mark.parametrize("kind", NUMBERS)
def test_inputs_are_distributed_as_the_contract_says(agent, kind):
    """20,000 of them: means within seven standard errors, and all of the values that there are."""
    ranges = NORMAL if kind in ("FLOAT", "FLOAT16", "DOUBLE") else {"INT8": ANY_BYTE, "UINT8": ANY_UNSIGNED_BYTE}.get(kind, BITS)
    agent.load(f"within {kind}", within_model(getattr(TensorProto, kind), ranges))
    with pytest.raises(Refused, match="output y is not finite"):
        agent.load(f"beyond {kind}", within_model(getattr(TensorProto, kind), ranges | {"mean": (300, 400)}))


def test_inputs_that_are_no_numbers_are_refused(agent):
    with pytest.raises(Refused, match=r"input x is tensor\(string\) \[4\]; only tensors of numbers of fixed shape are timed"):
        agent.load("text", typed_model(TensorProto.STRING))


def test_token_ids_are_valid_for_a_table_of_two(agent):
    """0 and 1 are; a larger one would be out of the table, which is an error of the model."""
    table = numpy_helper.from_array(np.ones((2, 3), np.float32), "table")
    x, y = helper.make_tensor_value_info("x", TensorProto.INT64, [1, 500]), helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 500, 3])
    graph = helper.make_graph([helper.make_node("Gather", ["table", "x"], ["y"])], "g", [x], [y], [table])
    agent.load("tokens", helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())


def test_loading_tells_how_many_nodes_run_elsewhere(agent):
    facts = agent.load("facts", conv_model())
    assert facts == {"provider": "CPUExecutionProvider", "nodes": 1, "nodes_elsewhere": 0, "partitions": 1}


def assignment_of(parts, provider="FastExecutionProvider"):
    """The agent's own function, on what a session of several providers would tell."""
    namespace = {"__name__": "agent"}
    exec(compile(agent_source(AGENT), "agent", "exec"), namespace)
    each = [SimpleNamespace(ep_name=name, get_nodes=lambda n=n: [None] * n) for name, n in parts]
    return namespace["assignment"](SimpleNamespace(get_provider_graph_assignment_info=lambda: each), provider)


@pytest.mark.parametrize(
    ("parts", "nodes", "elsewhere", "partitions"),
    [
        ([("FastExecutionProvider", 30), ("FastExecutionProvider", 23), *[("CPUExecutionProvider", 1)] * 34], 87, 34, 2),  # compiled in two pieces
        ([("FastExecutionProvider", 1)] * 5, 5, 0, 1),  # node by node, but all of them
        ([("FastExecutionProvider", 1)] * 5 + [("CPUExecutionProvider", 1)], 6, 1, None),  # node by node: how often it changes is not told
        ([("CPUExecutionProvider", 1)] * 5, 5, 5, 0),  # it got nothing
    ],
)
def test_partitions_are_the_pieces_that_a_compiling_provider_got(parts, nodes, elsewhere, partitions):
    facts = assignment_of(parts)
    assert (facts["nodes"], facts["nodes_elsewhere"], facts.get("partitions")) == (nodes, elsewhere, partitions)


def test_several_streams_report_all_their_runs_and_how_long_they_took_together(agent):
    agent.load("streamed", conv_model())
    (visit,) = agent.visit(["streamed"], {"streamed": Burst(2, 7, streams=3)})
    assert len(visit.ns) == 21 and visit.busy_ns >= max(visit.ns) and visit.wall_ns >= visit.busy_ns
    (alone,) = agent.visit(["streamed"], {"streamed": Burst(2, 7)})
    assert len(alone.ns) == 7 and alone.busy_ns is None


def test_streams_that_cannot_be_are_refused(agent):
    agent.load("streamed", conv_model())
    with pytest.raises(MeasurementFailed, match="streams must be a whole number from 1 to 1024"):
        agent.visit(["streamed"], {"streamed": Burst(0, 1, streams=2000)})
    with pytest.raises(MeasurementFailed, match="one stream at a time, and a cold start is one run"):
        agent.visit(["streamed"], {"streamed": Burst(0, 1, cold=True, streams=2)})
    with pytest.raises(MeasurementFailed, match="runs must be a whole number from 1 to 50000"):
        agent.visit(["streamed"], {"streamed": Burst(0, 50_001, streams=2)})


def test_streams_run_in_a_session_that_was_opened_anew(agent):
    agent.load("reopened", conv_model())
    bursts = (Burst(1, 3, streams=2), Burst(0, 2, cold=True), Burst(1, 3, streams=3))
    assert [len(agent.visit(["reopened"], {"reopened": burst})[0].ns) for burst in bursts] == [6, 2, 9]


def test_a_long_request_tells_what_other_programs_used(agent):
    """The system counts in steps of 10 ms; what it is depends on who else is here."""
    agent.load("crowded", conv_model())
    short, long = agent.visit(["crowded"], {"crowded": Burst(0, 1)})[0], agent.visit(["crowded"] * 2, {"crowded": Burst(0, 100_000)})[1]
    assert short.crowding_pct is None and (long.crowding_pct is not None) is Path("/proc/stat").exists()


def test_an_agent_that_knows_nothing_of_streams_is_not_believed(tmp_path):
    connection, agent = lying_agent(tmp_path, [GOOD_VISIT])
    with pytest.raises(MeasurementFailed, match=r"cannot run 2 stream\(s\) of 'a' at once"):
        agent.visit(["a"], {"a": Burst(0, 1, streams=2)})
    connection.close()


def test_an_item_that_was_never_loaded_cannot_be_visited(agent):
    with pytest.raises(MeasurementFailed, match="no item 'ghost' is loaded"):
        agent.visit(["ghost"], {"ghost": Burst(0, 1)})


def test_more_threads_are_passed_on(device):
    with started_agent(device, onnxruntime(), threads=2, seed=0) as agent:
        assert agent.identity.options["intra_op_threads"] == 2


@pytest.mark.parametrize(("threads", "seed"), [(0, 0), (2000, 0), (1, -1), (1, 2**32)])
def test_threads_and_seeds_out_of_range_are_refused(threads, seed):
    with pytest.raises(InputError, match="must be from"), started_agent(load_device("localhost"), onnxruntime(), threads=threads, seed=seed):
        pass


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"op": "load", "item": "a", "bytes": 0}, "first request must be hello"),
        ({"op": "hello", "contract": 99, "threads": 1, "seed": 0}, "speaks contract 2, the host 99"),
        ({"op": "hello", "contract": 2, "threads": "many", "seed": 0}, "threads must be a whole number"),
        ({"op": "dance"}, "unknown request 'dance'"),
        ({"op": "run", "items": {}, "order": [], "anchor": {}}, "run needs items"),
        ({"op": "run", "items": {}, "order": ["a"], "anchor": {}}, "not among the items"),
    ],
)
def test_the_agent_answers_a_wrong_request_in_one_sentence_and_goes_on(pipe, request_, reason):
    answer = pipe.ask(request_, seconds=60)
    assert answer["ok"] is False and reason in answer["error"]
    assert pipe.ask(HELLO, seconds=60)["ok"] is True
    assert pipe.ask({"op": "bye"}, seconds=60)["ok"] is True


def test_an_agent_that_hangs_is_ended_at_the_deadline(tmp_path):
    connection = foreign(tmp_path, "time.sleep(100)")
    with pytest.raises(MeasurementFailed, match="did not answer 'hello' within 1 s"):
        connection.ask(HELLO, seconds=1)
    connection.close()


def test_an_agent_that_hangs_before_it_has_read_the_model_is_ended_too(tmp_path):
    connection = foreign(tmp_path, "time.sleep(100)")
    with pytest.raises(MeasurementFailed, match="did not answer 'load' within 1 s"):
        connection.ask({"op": "load", "item": "a", "bytes": 1 << 24}, bytes(1 << 24), seconds=1)
    connection.close()


def test_an_agent_that_dies_is_quoted(tmp_path):
    connection = foreign(tmp_path, "sys.stdin.readline(); print('first line', file=sys.stderr); sys.exit('out of memory')")
    with pytest.raises(MeasurementFailed, match="the agent ended during 'hello' with exit code 1: out of memory"):
        connection.ask(HELLO, seconds=60)
    connection.close()


def test_an_agent_that_is_killed_names_the_signal(tmp_path):
    connection = foreign(tmp_path, "import os; sys.stdin.readline(); os.kill(os.getpid(), 9)")
    with pytest.raises(MeasurementFailed, match="killed by signal 9"):
        connection.ask(HELLO, seconds=60)
    connection.close()


@pytest.mark.parametrize("answer", ["hello there", "[1, 2]", '{"ok": 1}', "[" * 100_000])
def test_an_answer_outside_the_contract_is_refused(tmp_path, answer):
    connection = foreign(tmp_path, f"sys.stdin.readline(); print({answer!r}, flush=True); time.sleep(100)")
    with pytest.raises(MeasurementFailed, match="not of its contract"):
        connection.ask(HELLO, seconds=60)
    connection._process.kill()
    connection.close()


GOOD_VISIT = {"item": "a", "ns": [10, 20], "anchor_ns": [5, 6], "at_ns": 0, "wall_ns": 40, "cpu_ns": 40, "involuntary": None, "psi_us": 0, "steal_ms": 0}


def lying_agent(tmp_path, visits, layers=()):
    hello = {"ok": True, "contract": 2, "runtime": "r", "version": "1", "options": {}, "system": {}}
    path = tmp_path / "answers.json"
    path.write_text(json.dumps([hello, {"ok": True, "visits": visits, "layers": layers}]))
    connection = foreign(tmp_path, f"for each in json.load(open({str(path)!r})): sys.stdin.readline(); print(json.dumps(each), flush=True)")
    return connection, Agent(connection, "ab" * 32, threads=1, seed=0, timing=TIMING, options={})


def test_the_contract_is_all_that_an_agent_must_keep(tmp_path):
    connection, agent = lying_agent(tmp_path, [GOOD_VISIT])
    (visit,) = agent.visit(["a"], {"a": Burst(0, 2)})
    connection.close()
    assert (visit.ns, visit.anchor_before_ns, visit.anchor_after_ns, visit.involuntary) == ((10, 20), 5, 6, None)


@pytest.mark.parametrize(("system", "options"), [({"governor": "powersave"}, {"governor": "powersave"}), ({"governor": "unknown"}, {}), ({}, {})])
def test_the_governor_is_among_the_conditions_where_the_system_tells_it(tmp_path, system, options):
    """It decides on the clock rate: a table is not continued, merged or compared under another one."""
    hello = {"ok": True, "contract": 2, "runtime": "r", "version": "1", "options": {}, "system": system}
    connection = foreign(tmp_path, f"sys.stdin.readline(); print({json.dumps(hello)!r}, flush=True)")
    identity = Agent(connection, "ab" * 32, threads=1, seed=0, timing=TIMING, options={}).identity
    connection.close()
    assert identity.options == identity.conditions("d", 1).options == options


def test_a_visit_that_failed_is_its_reason(tmp_path):
    connection, agent = lying_agent(tmp_path, [{"item": "a", "error": "out of memory"}])
    assert agent.visit(["a"], {"a": Burst(0, 2)}) == ["out of memory"]
    connection.close()


def test_a_run_that_took_no_time_is_no_latency(tmp_path):
    connection, agent = lying_agent(tmp_path, [GOOD_VISIT | {"ns": [10, 0]}])
    (reason,) = agent.visit(["a"], {"a": Burst(0, 2)})
    assert isinstance(reason, str) and "took no time at all" in reason
    connection.close()


def test_an_agent_that_cannot_tell_cpu_time_says_so(tmp_path):
    """Browsers cannot. Left out altogether it is a record cut short."""
    connection, agent = lying_agent(tmp_path, [GOOD_VISIT | {"cpu_ns": None}])
    (visit,) = agent.visit(["a"], {"a": Burst(0, 2)})
    connection.close()
    assert visit.cpu_ns is None and not is_disturbed(visit)
    short = {key: value for key, value in GOOD_VISIT.items() if key != "cpu_ns"}
    connection, agent = lying_agent(tmp_path, [short])
    with pytest.raises(MeasurementFailed, match="incomplete"):
        agent.visit(["a"], {"a": Burst(0, 2)})
    connection.close()


def test_what_an_agent_says_of_itself_is_printable_and_short(tmp_path):
    hello = {"ok": True, "contract": 2, "runtime": "r\x1b[2J", "version": "1" * 999, "options": {"a\n": "b\x07"}, "system": {"processor": "p" * 999}}
    connection = foreign(tmp_path, f"sys.stdin.readline(); print({json.dumps(hello)!r}, flush=True)")
    identity = Agent(connection, "ab" * 32, threads=1, seed=0, timing=TIMING, options={}).identity
    connection.close()
    assert (identity.runtime, len(identity.version), identity.options) == ("r?[2J", 200, {"a?": "b?"})
    assert len(identity.system["processor"]) == 200


@pytest.mark.parametrize(
    "change",
    [
        {"item": "b"},
        {"ns": [10]},
        {"ns": [10, -20]},
        {"ns": [10, 1.5]},
        {"ns": [10, True]},
        {"ns": [10, 10**30]},
        {"ns": None},
        {"anchor_ns": [5]},
        {"wall_ns": 0},
        {"cpu_ns": "none"},
        {"cpu_ns": -1},
        {"at_ns": -1},
        {"involuntary": "none"},
    ],
)
def test_times_that_cannot_be_are_not_believed(tmp_path, change):
    connection, agent = lying_agent(tmp_path, [GOOD_VISIT | change])
    with pytest.raises(MeasurementFailed):
        agent.visit(["a"], {"a": Burst(0, 2)})
    connection.close()


def test_an_agent_that_leaves_visits_out_is_not_believed(tmp_path):
    connection, agent = lying_agent(tmp_path, [GOOD_VISIT])
    with pytest.raises(MeasurementFailed, match="asked for 2 visits and answered 1"):
        agent.visit(["a", "a"], {"a": Burst(0, 2)})
    connection.close()


def variant(tmp_path, body):
    """The real agent, with something changed."""
    path = tmp_path / "variant.py"
    path.write_text(agent_source(AGENT).decode().partition('if __name__ == "__main__":')[0] + body + "\nmain(OnnxRuntime())\n")
    return local().start(LOCALHOST, path)


def test_the_agent_tells_the_state_of_its_machine(agent):
    state = agent.look()
    assert state["clock_step_ns"] > 0 and all(isinstance(value, int) for value in state.values())
    if hasattr(os, "sched_getaffinity"):
        assert state["usable_cores"] == len(os.sched_getaffinity(0))
    if Path("/proc/meminfo").exists():
        assert 0 < state["memory_available_bytes"] < 1 << 50


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="this system has no alarms")
def test_a_job_that_hangs_is_ended_by_the_device_itself(tmp_path):
    connection = variant(tmp_path, "def hang(self, request):\n    while True: pass\nAgent.load = hang")
    with pytest.raises(MeasurementFailed, match="the agent ended during 'load', killed by signal 14"):
        connection.ask({"op": "load", "item": "a", "bytes": 0, "seconds": 1}, seconds=60)
    connection.close()


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="this system has no alarms")
def test_an_agent_without_a_host_ends(tmp_path):
    connection = variant(tmp_path, "IDLE_S = 1")
    assert connection._process.wait(60) == -signal.SIGALRM
    connection.close()


@pytest.mark.parametrize("seconds", [0, -1, 1.5, "soon", 10**9, None])
def test_a_time_limit_that_is_none_is_refused(pipe, seconds):
    assert "seconds must be a whole number" in pipe.ask(HELLO | {"seconds": seconds}, seconds=60)["error"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process as Linux does")
def test_a_model_that_the_machine_has_no_memory_for_is_an_answer(tmp_path):
    """A gigabyte is all there is; the second of these models needs four."""
    connection = variant(tmp_path, "memory_available_bytes = lambda: 1 << 30")
    assert connection.ask(HELLO, seconds=60)["ok"]
    for size, fits in ((1 << 10, True), (1 << 30, False), (1 << 10, True)):
        shape = numpy_helper.from_array(np.array([size], np.int64), "shape")
        model = model_of(helper.make_node("Expand", ["x", "shape"], ["y"]), [1], [shape])
        model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = size
        raw = model.SerializeToString()
        answer = connection.ask({"op": "load", "item": "a", "bytes": len(raw)}, raw, seconds=60)
        assert answer["ok"] is fits, answer
        assert fits or "alloc" in answer["error"].lower() or "memory" in answer["error"].lower(), answer
    connection.close()


def impatient(device, tmp_path):
    """The agent of that device, one that does not wait for the lease where it is the one in Python; the other one waits for five seconds."""
    return local().start(device, AGENT) if device.agent else variant(tmp_path, "LEASE_PATIENCE_S = 0")


@pytest.fixture
def lease(monkeypatch):
    """A lease of this test's own."""
    if sys.platform != "linux":
        pytest.skip("the lease is a name of Linux's sockets")
    name = f"test-{uuid4().hex[:8]}"
    monkeypatch.setenv("HWNAS_LEASE", name)
    return name


def test_a_second_agent_is_told_who_measures_until_the_first_ends(tmp_path, device, lease):
    first, second = local().start(LOCALHOST, AGENT), impatient(device, tmp_path)
    assert first.ask(HELLO | {"by": "alice@laptop, process 12"}, seconds=60)["ok"] and first.ask(HELLO, seconds=60)["ok"]
    answer = second.ask(HELLO, seconds=60)
    assert answer["ok"] is False and re.fullmatch(r"alice@laptop, process 12, since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", answer["held_by"])
    first._process.kill()
    first._process.wait()
    assert second.ask(HELLO, seconds=60)["ok"] is True
    for each in (first, second):
        each.close()


def test_an_agent_waits_for_one_that_is_about_to_end(device, lease):
    """As when the host of a profile was killed, and the same command is given again at once."""
    first, second = local().start(device, AGENT), local().start(LOCALHOST, AGENT)
    assert first.ask(HELLO, seconds=60)["ok"]
    threading.Timer(0.5, first._process.kill).start()
    assert second.ask(HELLO, seconds=60)["ok"] is True
    for each in (first, second):
        each.close()


def test_a_lease_that_does_not_name_its_holder_holds_all_the_same(tmp_path, device, lease):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"\0{lease}")
        connection = impatient(device, tmp_path)
        assert connection.ask(HELLO, seconds=60)["held_by"] == "another program"
        connection.close()


def test_other_leases_and_none_do_not_meet(monkeypatch, device, lease):
    connections = []
    for name in (lease, f"{lease}-gpu", "", ""):
        monkeypatch.setenv("HWNAS_LEASE", name)
        connections.append(local().start(device, AGENT))
        assert connections[-1].ask(HELLO, seconds=60)["ok"] is True
    for each in connections:
        each.close()


@pytest.mark.parametrize("by", ["a\nb", "x" * 201, 7, None])
def test_a_holder_is_a_short_text(pipe, by):
    assert "by must be a text" in pipe.ask(HELLO | {"by": by}, seconds=60)["error"]


def test_this_machine_has_neither_address_nor_python():
    for field in ("address", "python"):
        with pytest.raises(InputError, match="takes neither an address nor a python"):
            local().start(replace(LOCALHOST, **{field: "x"}), AGENT)


def test_a_program_that_does_not_exist_ends_with_its_reason(tmp_path):
    connection = local().start(LOCALHOST, Path(tmp_path, "nothing.py"))
    with pytest.raises(MeasurementFailed, match=r"nothing\.py"):
        connection.ask(HELLO, seconds=60)
    connection.close()
