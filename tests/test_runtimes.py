"""hwnas/profiling/runtimes/ and their agents: each keeps the contract, and computes what the graph says."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwnas.data import shipped
from hwnas.device import load_device
from hwnas.errors import CheckFailed, InputError, MeasurementFailed
from hwnas.graph import Graph, Node
from hwnas.ops import KINDS, Conv2d
from hwnas.profiling.agent import Burst, Refused, started_agent
from hwnas.profiling.check import check_device
from hwnas.profiling.runtimes.torch import torch as torch_runtime
from hwnas.testing import _CASES, TOLERANCE, check_runtime
from hwnas.weights import random_weights
from tests.openvino import OPTIONS as OPENVINO
from tests.openvino import openvino_agent

LOCALHOST = load_device("localhost")
CONV = (Node("conv", Conv2d((1, 3, 8, 8), out=4, kernel=3, act="relu"), ("in0",)),)


def torch_device(**options):
    return replace(LOCALHOST, runtimes=("torch",), options={"torch": options})


def torch_model(block=CONV):
    graph = Graph.of_block(block)
    return torch_runtime().build(graph, random_weights(graph, np.random.default_rng(0)))


@pytest.fixture(scope="module")
def agent_module():
    """The agent's file as a module."""
    folder = str(shipped("devices") / "agents")
    sys.path.insert(0, folder)
    import torch_agent

    sys.path.remove(folder)
    yield torch_agent
    torch_agent.torch.set_flush_denormal(False)  # an agent sets it for its process, and here that is everybody's


@pytest.fixture
def openvino(tmp_path):
    """(name of the runtime, device) of ONNX Runtime with OpenVINO's provider."""
    path = tmp_path / "with_openvino.py"
    agent = openvino_agent(tmp_path)
    path.write_text(
        "from hwnas.profiling.runtimes.onnxruntime import onnxruntime\n\n\ndef with_openvino():\n    runtime = onnxruntime()\n"
        f"    runtime.agent = {str(agent)!r}\n    return runtime\n"
    )
    return f"{path}:with_openvino", replace(LOCALHOST, options={"onnxruntime": OPENVINO})


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_a_runtime_of_this_machine_keeps_the_contract(name):
    check_runtime(name)


def test_openvinos_provider_keeps_the_contract(openvino):
    check_runtime(*openvino)


BROKEN = """
from hwnas.profiling.runtimes.onnxruntime import OnnxRuntime

class Broken(OnnxRuntime):
    count = 0
    {name} = {value}

def broken():
    return Broken()
"""


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("name", "'other'", "calls itself 'onnxruntime' '.*', it must be 'other'"),
        ("granularity", "'layer'", "granularity is 'layer'"),
        ("build", "lambda self, graph, weights: (setattr(self, 'count', self.count + 1), bytes([self.count]))[1]", "build different models"),
        ("agent", "{deaf!r}", "gives a latency for a model that is NaN"),
        ("agent", "{hasty!r}", "does not wait for the end of a run"),
        ("agent", "{obliging!r}", "takes an option that does not exist"),
    ],
)
def test_what_breaks_the_contract_of_runtimes_is_named(tmp_path, name, value, message):
    source = (
        "import sys, time\nsys.path.insert(0, {folder!r})\nimport agent_contract, onnxruntime_agent as own\n{body}\nagent_contract.main(own.OnnxRuntime())\n"
    )
    bodies = {
        "deaf": "own.np.isfinite = lambda array: own.np.ones(1, bool)",
        "hasty": "own.Item.timed = lambda self, runs: [1000] * runs",
        "obliging": "start = own.OnnxRuntime.start\nown.OnnxRuntime.start = lambda self, threads, options: start(self, threads, {{}})",
    }
    agents = {}
    for each, body in bodies.items():
        agents[each] = str(tmp_path / f"{each}.py")
        (tmp_path / f"{each}.py").write_text(source.format(folder=str(shipped("devices") / "agents"), body=body.replace("{{}}", "{}")))
    path = tmp_path / "broken.py"
    path.write_text(BROKEN.format(name=name, value=value.format(**agents)))
    with pytest.raises(CheckFailed, match=message):
        check_runtime(f"{path}:broken")


# -- PyTorch ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_pytorch_computes_what_the_graph_says(agent_module, kind, channels_last):
    from hwnas.backends.numpy import numpy

    runtime, rng = agent_module.Torch(), np.random.default_rng(0)
    runtime.start(1, {"channels_last": channels_last})
    for block in _CASES[kind]():
        graph = Graph.of_block(block)
        weights = random_weights(graph, rng)
        item = agent_module.Item(torch_runtime().build(graph, weights), runtime, 0)
        expected = numpy(graph, weights)(item.input.contiguous().numpy())
        scale = max(float(expected.std()), float(np.abs(expected).max()) * 1e-2, 1e-6)
        assert np.abs(item.call(item.input).numpy() - expected).max() <= TOLERANCE * scale, block


def test_pytorch_says_what_is_in_force():
    with started_agent(torch_device(channels_last=True), torch_runtime(), threads=1, seed=0) as agent:
        options = agent.identity.options
        assert (options["device"], options["channels_last"], options["compile"], options["intra_op_threads"]) == ("cpu", True, False, 1)
        assert options["denormals"] == "zero" and options["inference_mode"] is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "device must be cpu, cuda or cuda:NUMBER"),
        ({"compile": "yes"}, "option compile must be true or false, got 'yes'"),
        ({"cuda_graph": True}, "cuda_graph: only with device = .cuda"),
        ({"turbo": True}, "unknown option 'turbo'; there are device, channels_last"),
    ],
)
def test_options_of_pytorch_that_cannot_be_are_refused(options, message):
    with pytest.raises(MeasurementFailed, match=message), started_agent(torch_device(**options), torch_runtime(), threads=1, seed=0):
        pass


def test_a_gpu_that_is_not_there_is_a_sentence():
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with (
        pytest.raises(MeasurementFailed, match=r"(was built without CUDA|finds no GPU) here; there is: cpu"),
        started_agent(torch_device(device="cuda"), torch_runtime(), threads=1, seed=0),
    ):
        pass


def header_of(model):
    size = int.from_bytes(model[:8], "little")
    return json.loads(model[8 : 8 + size]), model[8 + size :]


def changed(change):
    """A model whose description, {"input", "output", "nodes"}, was changed."""
    header, data = header_of(torch_model())
    graph = json.loads(header["__metadata__"]["graph"])
    change(graph, header)
    header["__metadata__"]["graph"] = json.dumps(graph)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def first(key, value):
    return lambda graph, header: graph["nodes"][0].update({key: value})


@pytest.mark.parametrize(
    "change",
    [
        first("kind", "eval"),
        first("kind", ["conv2d"]),
        first("act", "__import__('os').system('true')"),
        first("dtype", "int8"),
        first("inputs", ["nowhere"]),
        first("inputs", []),
        first("inputs", 7),
        first("name", "input"),
        first("name", 3),
        first("kernel", 10**9),
        first("kernel", "3"),
        first("groups", 0),
        first("groups", 3),
        first("stride", -1),
        lambda graph, header: graph.update(nodes=[]),
        lambda graph, header: graph.update(nodes=None),
        lambda graph, header: graph.update(output="nowhere"),
        lambda graph, header: graph["input"].update(shape=[1 << 20, 1 << 20, 1 << 20]),
        lambda graph, header: graph["input"].update(shape=[1, 3, -8, 8]),
        lambda graph, header: graph["input"].update(shape=[1, 5, 8, 8]),
        lambda graph, header: graph["input"].update(shape=7),
        lambda graph, header: graph["input"].update(dtype="object"),
        lambda graph, header: header["block/conv.weight"].update(data_offsets=[0, 1 << 40]),
        lambda graph, header: header["block/conv.weight"].update(data_offsets=[-432, 0]),
        lambda graph, header: header["block/conv.weight"].update(shape=[4, 3, 3]),
        lambda graph, header: header["block/conv.weight"].update(dtype="O"),
        lambda graph, header: header.pop("block/conv.weight"),
    ],
)
def test_a_description_that_is_none_is_refused_and_the_agent_goes_on(torch_agent, change):
    with pytest.raises(Refused, match=r"\w+ \w+"):
        torch_agent.load("bad", changed(change))
    assert len(torch_agent.visit(["good"], {"good": Burst(0, 2)})[0].ns) == 2


@pytest.mark.parametrize(
    "model", [b"", b"x", b"\x80\x04cposix\nsystem\n", (1 << 40).to_bytes(8, "little") + b"{}", b"\x02" + bytes(7) + b"[]", torch_model()[:-4]]
)
def test_bytes_that_are_no_safetensors_file_are_refused(torch_agent, model):
    with pytest.raises(Refused, match=r"safetensors|float32 of its shape"):
        torch_agent.load("bad", model)


@pytest.fixture(scope="module")
def torch_agent():
    with started_agent(torch_device(), torch_runtime(), threads=1, seed=0) as agent:
        agent.load("good", torch_model())
        yield agent


def test_the_precision_that_is_computed_in_is_told_or_refused(torch_agent):
    """A processor without kernels of a short type would compute in float32: then the model is refused."""
    for dtype in ("float16", "bfloat16"):
        model = torch_model((Node("conv", Conv2d((1, 3, 8, 8), out=4, kernel=3, dtype=dtype), ("in0",)),))
        try:
            facts = torch_agent.load(dtype, model)
        except Refused as error:
            assert f"no kernels for {dtype}" in str(error)
            continue
        assert facts == {f"computed_in_{dtype}": 1}
        assert not isinstance(torch_agent.visit([dtype], {dtype: Burst(1, 2)})[0], str)


def test_pytorch_is_given_no_operator_of_other_types():
    graph = Graph.of_block((Node("conv", Conv2d((1, 3, 8, 8), out=4, dtype="int8_u8s8"), ("in0",)),))
    with pytest.raises(InputError, match=r"PyTorch is given no form of conv2d\.int8_u8s8"):
        torch_runtime().build(graph, random_weights(graph, np.random.default_rng(0)))


@pytest.mark.slow  # the C++ compiler takes its time
def test_pytorch_compiled_is_timed_or_refused_with_its_reason():
    """It needs a C++ compiler, which a device may not have."""
    try:
        with started_agent(torch_device(compile=True), torch_runtime(), threads=1, seed=0) as agent:
            assert agent.identity.options["compile"] is True
            for name in ("a", "b"):
                agent.load(name, torch_model())
            assert all(len(visit.ns) == 3 for visit in agent.visit(["a", "b"], {name: Burst(1, 3) for name in "ab"}))
    except MeasurementFailed as error:
        if "compiler" not in str(error).lower():
            raise
        pytest.skip(f"torch.compile does not work here: {error}")


def test_pytorch_on_a_gpu_is_timed_by_events():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("this machine has no GPU that PyTorch can use")
    check_runtime("torch", torch_device(device="cuda"))
    for options in ({"cuda_graph": True}, {"channels_last": True, "flush_l2": True}):
        with started_agent(torch_device(device="cuda", **options), torch_runtime(), threads=1, seed=0) as agent:
            assert agent.identity.options["timer"] == "CUDA events" and agent.identity.system["gpu_architecture"].startswith("sm_")
            agent.load("good", torch_model())
            (visit,) = agent.visit(["good"], {"good": Burst(3, 5)})
            assert visit.cpu_ns is None and len(set(visit.ns)) > 1
            assert agent.look()["clock_step_ns"] > 0


# -- execution providers of ONNX Runtime --------------------------------------------------------------------------------------------


def refused(options):
    device = replace(LOCALHOST, options={"onnxruntime": options})
    with pytest.raises(MeasurementFailed) as raised:
        check_device(device, threads=1, seconds=0.1)
    return str(raised.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"provider": "NonsenseExecutionProvider"}, "there is no provider 'NonsenseExecutionProvider' here, but CPUExecutionProvider"),
        ({"provider": "NonsenseExecutionProvider", "library": "/tmp/evil.so"}, "unknown option 'library'"),
        ({"library": "/tmp/evil.so"}, "unknown option 'library'; of CPUExecutionProvider there are: none"),
        ({"provider": "OpenVINOExecutionProvider", "load_config": "/etc/passwd"}, "unknown option 'load_config'"),
        ({"provider": "OpenVINOExecutionProvider", "CACHE_DIR": "/tmp"}, "unknown option 'CACHE_DIR'"),
        ({"provider": "OpenVINOExecutionProvider", "NUM_STREAMS": "../1"}, "NUM_STREAMS must be a plain word or number"),
        ({"provider": "QNNExecutionProvider", "backend_path": "libevil.so"}, "unknown option 'backend_path'"),
        ({"fallback": "sometimes"}, "fallback must be refused or allowed"),
        ({"device_type": "cpu"}, "takes no device_type"),
    ],
)
def test_a_provider_that_is_not_there_and_options_that_could_be_paths_are_refused(options, words):
    assert words in refused(options)


def test_a_library_of_the_users_own_that_is_none_is_a_sentence(monkeypatch, tmp_path):
    path = tmp_path / "libnothing.so"
    path.write_text("no library")
    monkeypatch.setenv("HWNAS_ORT_EP_LIBRARY", str(path))
    assert "the library of MyExecutionProvider cannot be loaded" in refused({"provider": "MyExecutionProvider"})


def foreign_model():
    """Relu, FastGelu and Relu; the one in the middle is ONNX Runtime's own, which OpenVINO has no form of."""
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in ("x", "y")]
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("FastGelu", ["a"], ["b"], domain="com.microsoft"), helper.make_node("Relu", ["b"], ["y"])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:]), ir_version=8, opset_imports=opsets).SerializeToString()


def test_a_model_that_needs_the_cpu_provider_too_is_a_failure_unless_that_is_allowed(openvino):
    from hwnas import registry

    name, device = openvino
    runtime = registry.create("profiling.runtimes", name)
    with started_agent(device, runtime, threads=1, seed=0) as agent, pytest.raises(Refused, match="fallback to CPU EP has been explicitly disabled"):
        agent.load("foreign", foreign_model())
    allowed = replace(device, options={"onnxruntime": OPENVINO | {"fallback": "allowed"}})
    with started_agent(allowed, runtime, threads=1, seed=0) as agent:
        facts = agent.load("foreign", foreign_model())
        assert (facts["provider"], facts["nodes_elsewhere"], facts["nodes"]) == ("OpenVINOExecutionProvider", 1, 3)
        assert agent.identity.options["fallback"] == "allowed"


def test_the_provider_and_what_is_in_force_are_conditions(openvino):
    from hwnas import registry

    name, device = openvino
    with started_agent(device, registry.create("profiling.runtimes", name), threads=1, seed=0) as agent:
        options = agent.identity.conditions("x", 1).options
        assert options["provider"] == "OpenVINOExecutionProvider" and options["provider_version"] != "unknown"
        assert options["provider_device"].startswith("CPU") and (options["INFERENCE_PRECISION_HINT"], options["fallback"]) == ("f32", "refused")


def test_the_library_of_a_plug_in_may_be_named_in_the_agents_environment(openvino, monkeypatch):
    import onnxruntime_ep_openvino

    from hwnas import registry

    name, device = openvino
    monkeypatch.setenv("HWNAS_ORT_EP_LIBRARY", onnxruntime_ep_openvino.get_library_path())
    with started_agent(device, registry.create("profiling.runtimes", name), threads=1, seed=0) as agent:
        assert agent.identity.options["provider"] == "OpenVINOExecutionProvider"
    monkeypatch.setenv("HWNAS_ORT_EP_LIBRARY", str(Path(__file__)))
    with pytest.raises(MeasurementFailed, match="cannot be loaded"), started_agent(device, registry.create("profiling.runtimes", name), threads=1, seed=0):
        pass


def test_a_processor_that_the_provider_does_not_offer_is_named(openvino):
    from hwnas import registry

    name, device = openvino
    device = replace(device, options={"onnxruntime": OPENVINO | {"device_type": "npu"}})
    with (
        pytest.raises(MeasurementFailed, match=r"runs on CPU.* of this machine, on no NPU"),
        started_agent(device, registry.create("profiling.runtimes", name), threads=1, seed=0),
    ):
        pass
