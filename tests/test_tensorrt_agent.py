"""The agents of TensorRT: what needs no GPU, on the wheel of TensorRT for RTX where that is installed; and, where there is a GPU, all of it."""

import importlib
import json
import struct
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from hwnas import registry
from hwnas.data import shipped
from hwnas.device import load_device
from hwnas.errors import MeasurementFailed
from hwnas.graph import Graph, Node
from hwnas.ops import Conv2d
from hwnas.profiling.agent import ANCHOR_ITEM, Burst, Refused, started_agent
from hwnas.profiling.transport import agent_source
from hwnas.profiling.transports.local import local
from hwnas.tensorrt_parser import parser_is_there
from hwnas.weights import random_weights

DEVICE = load_device("nvidia_gpu")
needs_rtx = pytest.mark.skipif(not parser_is_there(), reason="TensorRT for RTX is not installed: pip install 'hwnas[tensorrt-rtx]'")

pytestmark = pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")  # in TensorRT for RTX


@pytest.fixture(scope="module")
def agents():
    """The files of the agents as modules, as they see each other where they are not one source."""
    sys.path.insert(0, str(shipped("devices") / "agents"))
    names = ("agent_contract", "cuda_driver", "nvidia_state", "tensorrt_engine")
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    sys.path.remove(str(shipped("devices") / "agents"))


def conv_model(out=4, act="hswish"):
    graph = Graph.of_block((Node("conv", Conv2d((1, 3, 16, 16), out=out, kernel=3, act=act), ("in0",)),))
    return registry.create("profiling.runtimes", "tensorrt").build(graph, random_weights(graph, np.random.default_rng(0)))


def why_no_gpu(agents):
    try:
        agents.cuda_driver.CudaDriver()
    except agents.agent_contract.Refused as error:
        return str(error)
    return ""


# -- versions and options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runtime", "version", "typed_by_flag", "timing_cache", "third"),
    [
        ("tensorrt", "10.3.0", True, True, False),  # JetPack 6
        ("tensorrt", "10.3.0.30", True, True, False),
        ("tensorrt", "10.16.1.11", True, True, True),
        ("tensorrt", "11.0.0.114", False, True, True),
        ("tensorrt", "11.4.0.106", False, True, True),
        ("tensorrt_rtx", "1.7.1.116", False, False, True),
    ],
)
def test_versions_differ_in_how_strong_typing_is_asked_for_and_in_the_timing_cache(agents, runtime, version, typed_by_flag, timing_cache, third):
    dialect = agents.tensorrt_engine.Dialect(runtime, version)
    assert (dialect.typed_by_flag, dialect.timing_cache) == (typed_by_flag, timing_cache)
    if runtime == "tensorrt":
        assert ("same_compute_capability" in dialect.hardware) == third


@pytest.mark.parametrize(
    ("runtime", "version"), [("tensorrt", "8.6.1"), ("tensorrt", "10.2.0"), ("tensorrt", "12.0.0"), ("tensorrt", ""), ("tensorrt_rtx", "1.3.0")]
)
def test_versions_that_nobody_looked_at_are_refused(agents, runtime, version):
    with pytest.raises(agents.agent_contract.Refused, match=f"{runtime} is version {version or 'unknown'}; this agent speaks"):
        agents.tensorrt_engine.Dialect(runtime, version)


def test_options_that_are_not_given_are_left_to_tensorrt(agents):
    dialect = agents.tensorrt_engine.Dialect("tensorrt", "10.3.0")
    assert set(agents.tensorrt_engine.checked_options({}, dialect).values()) == {None}
    given = {"workspace_mib": 512, "dla_core": 1, "gpu_fallback": False, "hardware": "ampere_plus", "optimization_level": 5}
    assert agents.tensorrt_engine.checked_options(given, dialect) == {**given, "cuda_graph": None}


@pytest.mark.parametrize(
    ("runtime", "options", "words"),
    [
        ("tensorrt", {"turbo": True}, "unknown option 'turbo'; this runtime has cuda_graph, workspace_mib, dla_core, gpu_fallback"),
        ("tensorrt", {"fp16": True}, "unknown option 'fp16'"),  # precision is in the file
        ("tensorrt_rtx", {"dla_core": 0}, "unknown option 'dla_core'; this runtime has cuda_graph, workspace_mib"),
        ("tensorrt", {"workspace_mib": 0}, "workspace_mib must be a whole number from 1"),
        ("tensorrt", {"workspace_mib": True}, "workspace_mib must be a whole number"),
        ("tensorrt", {"optimization_level": 6}, "optimization_level must be a whole number from 0 to 5"),
        ("tensorrt", {"optimization_level": "5"}, "optimization_level must be a whole number"),
        ("tensorrt", {"dla_core": -1}, "dla_core must be a whole number"),
        ("tensorrt", {"hardware": "any"}, "hardware must be one of none, ampere_plus, got 'any'"),
        ("tensorrt", {"hardware": "same_compute_capability"}, "hardware must be one of none, ampere_plus, got"),  # not in 10.3
        ("tensorrt", {"cuda_graph": 1}, "cuda_graph must be true or false"),
        ("tensorrt", {"gpu_fallback": True}, "gpu_fallback .* needs dla_core"),
        ("tensorrt", {"cuda_graph": True, "dla_core": 0}, "exclude each other"),
    ],
)
def test_wrong_options_are_one_sentence(agents, runtime, options, words):
    dialect = agents.tensorrt_engine.Dialect(runtime, {"tensorrt": "10.3.0", "tensorrt_rtx": "1.7.1"}[runtime])
    with pytest.raises(agents.agent_contract.Refused, match=words):
        agents.tensorrt_engine.checked_options(options, dialect)


# -- without a GPU -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt_rtx"])
def test_a_machine_without_a_gpu_is_told_so_in_one_sentence(agents, runtime):
    if not why_no_gpu(agents):
        pytest.skip("this machine has an NVIDIA GPU")
    made = registry.create("profiling.runtimes", runtime)
    refused = pytest.raises(MeasurementFailed, match="the agent of nvidia_gpu refused to start: this machine has no NVIDIA GPU that can be used: ")
    with refused, started_agent(DEVICE, made, threads=1, seed=0):
        pass


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt_rtx"])
def test_an_agent_says_the_same_where_it_was_sent_as_one_source(agents, runtime, tmp_path):
    if not why_no_gpu(agents):
        pytest.skip("this machine has an NVIDIA GPU")
    path = tmp_path / "sent.py"
    path.write_bytes(agent_source(shipped("devices") / "agents" / f"{runtime}_agent.py"))
    connection = local().start(DEVICE, path)
    answer = connection.ask({"op": "hello", "contract": 2, "threads": 1, "seed": 0}, seconds=60)
    assert answer == {"ok": False, "error": why_no_gpu(agents)}
    assert connection.ask({"op": "look"}, seconds=60) == {"ok": False, "error": "the first request must be hello"}
    connection.close()


def test_threads_of_the_host_are_refused_before_anything_else(agents):
    refused = pytest.raises(MeasurementFailed, match="threads must be 1, got 2")
    with refused, started_agent(DEVICE, registry.create("profiling.runtimes", "tensorrt"), threads=2, seed=0):
        pass


def test_a_missing_tensorrt_is_told_with_how_to_get_it(agents, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # as where it is not installed
    with pytest.raises(agents.agent_contract.Refused, match=r"cannot import tensorrt: .*python3-libnvinfer"):
        agents.tensorrt_engine.library("tensorrt")


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt_rtx"])
def test_what_is_built_is_the_file_that_is_exported(runtime):
    graph = Graph.of_block((Node("conv", Conv2d((1, 3, 8, 8), out=4, kernel=3), ("in0",)),))
    weights = random_weights(graph, np.random.default_rng(0))
    made, exported = registry.create("profiling.runtimes", runtime), registry.create("profiling.runtimes", "onnxruntime")
    assert made.build(graph, weights) == exported.build(graph, weights)


# -- values ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "dtype"), [("FLOAT", "float32"), ("HALF", "float16"), ("BF16", "uint16"), ("INT8", "int8"), ("UINT8", "uint8")])
def test_inputs_are_random_in_the_type_of_the_model(agents, kind, dtype):
    first, again = (agents.tensorrt_engine.random_values(kind, (3, 50), np.random.default_rng([7, 1])) for _ in range(2))
    assert first.dtype == dtype and first.shape == (3, 50) and first.flags.c_contiguous and (first == again).all()
    assert len(np.unique(first)) > 20 and agents.tensorrt_engine.all_finite(kind, first)


def test_bfloat16_is_the_upper_half_of_a_float(agents):
    expected = np.random.default_rng(3).standard_normal((4,)).astype(np.float32)
    bits = agents.tensorrt_engine.random_values("BF16", (4,), np.random.default_rng(3))
    assert bits.tobytes() == b"".join(struct.pack("<f", value)[2:] for value in expected)


def test_what_is_not_a_number_is_seen_in_every_real_type(agents):
    finite = agents.tensorrt_engine.all_finite
    assert not finite("FLOAT", np.array([1, np.inf], np.float32)) and not finite("HALF", np.array([np.nan], np.float16))
    assert not finite("BF16", np.array([0x7F80], np.uint16)) and finite("BF16", np.array([0x7F7F], np.uint16))
    assert finite("INT8", np.array([-128], np.int8)) and finite("UINT8", np.array([255], np.uint8))


def test_inputs_of_other_types_are_refused(agents):
    with pytest.raises(agents.agent_contract.Refused, match="an input of type INT32 is not timed"):
        agents.tensorrt_engine.random_values("INT32", (1,), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("tensor", "name"),
    [  # TensorRT 10 writes one text, in words that differ by release; 11 has the type by itself
        ({"Format/Datatype": "Row major linear FP32"}, "fp32"),
        ({"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}, "fp16"),
        ({"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}, "int8"),
        ({"Format/Datatype": "Half"}, "fp16"),
        ({"Format/Datatype": "BFloat16"}, "bf16"),
        ({"Format/Datatype": "N/A due to dynamic shapes"}, "unknown"),
        ({"DataType": "Float", "Format": "Row major linear FP16 format (kLINEAR)"}, "fp32"),
        ({"DataType": "UInt8"}, "uint8"),
        ({}, "unknown"),
    ],
)
def test_precisions_are_read_from_what_inspectors_write(agents, tensor, name):
    assert agents.tensorrt_engine.precision(tensor) == name


def test_layers_are_counted_by_the_precision_of_what_they_put_out(agents):
    fp32, fp16 = {"Format/Datatype": "Row major linear FP32"}, {"Format/Datatype": "Half"}
    layers = [{"Inputs": [fp32], "Outputs": [fp16]}, {"Inputs": [fp16], "Outputs": [fp16]}, {"Inputs": [fp32], "Outputs": []}, "a name alone"]
    counts = agents.tensorrt_engine.layer_precisions(json.dumps({"Layers": layers}))
    assert counts == {"layers": 4, "layers_fp16": 2, "layers_fp32": 1, "layers_unknown": 1}
    assert agents.tensorrt_engine.layer_precisions("{}") == {"layers": 0}


# -- the state of a board, from files as a Jetson has them -------------------------------------------------------------------------


@pytest.fixture
def jetson(tmp_path):
    files = {
        "var/lib/nvpmodel/status": "pmode:0002\n",
        "etc/nvpmodel.conf": "# < POWER_MODEL ID=2 NAME=OLD >\n< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "sys/class/devfreq/17000000.gpu/cur_freq": "612000000\n",
        "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
        "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
        "sys/class/devfreq/15480000.nvdec/cur_freq": "1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_power_mode_and_clocks_of_a_board_are_among_the_conditions(agents, jetson):
    state = agents.nvidia_state
    assert state.conditions(jetson) == {"power_mode": "MAXN_SUPER (2)", "gpu_clock": "306 to 1020 MHz"}
    assert state.board(jetson) == "NVIDIA Jetson Orin Nano Developer Kit"
    assert state.gpu_state("", jetson) == {"gpu_frequency_cur_khz": 612_000, "gpu_frequency_min_khz": 306_000, "gpu_frequency_max_khz": 1_020_000}
    (jetson / "sys/class/devfreq/17000000.gpu/min_freq").write_text("1020000000\n")  # what jetson_clocks does
    assert state.conditions(jetson)["gpu_clock"] == "fixed at 1020 MHz"


def test_what_the_system_does_not_tell_is_left_out(agents, tmp_path):
    state = agents.nvidia_state
    assert state.conditions(tmp_path) == {} and state.board(tmp_path) == "" and state.board_clocks(tmp_path) == {}
    (tmp_path / "var/lib/nvpmodel").mkdir(parents=True)
    (tmp_path / "var/lib/nvpmodel/status").write_text("pmode:0010")
    assert state.conditions(tmp_path) == {"power_mode": "mode (10)"}


def test_what_nvidia_smi_answers_is_read_in_the_contracts_units(agents):
    assert agents.nvidia_state.parsed_smi("1410, 1980, 2619, 45, 700.00, [N/A]\n") == {
        "gpu_frequency_cur_khz": 1_410_000,
        "gpu_frequency_max_khz": 1_980_000,
        "gpu_memory_frequency_khz": 2_619_000,
        "temperature_gpu_millicelsius": 45_000,
        "gpu_power_limit_mw": 700_000,
    }
    assert agents.nvidia_state.parsed_smi("") == agents.nvidia_state.parsed_smi("No devices were found") == {}


# -- builders, by the wheel of TensorRT for RTX, without a GPU ---------------------------------------------------------------------


@pytest.fixture
def session(agents):
    """All of an agent that comes before its GPU; as one of TensorRT 11, whose API that wheel has too, timing cache included (where it does nothing)."""

    def begin(options, as_version="11.4.0"):
        module, own = agents.tensorrt_engine.library("tensorrt_rtx")
        made = agents.tensorrt_engine.TensorRt("tensorrt_rtx")
        made.set_up_builder(module, agents.tensorrt_engine.Dialect("tensorrt", as_version) if as_version else own, options)
        return made

    return begin


@needs_rtx
@pytest.mark.parametrize("version", ["10.3.0", "11.4.0", ""])
def test_all_engines_of_a_session_share_one_builder_and_their_plans_are_hashed(session, version):
    made = session({}, version)
    first, second, again = (made.build(conv_model(out))[1] for out in (4, 8, 4))
    assert first == again and first["plan_sha256"] != second["plan_sha256"] and len(first["plan_sha256"]) == 64 and first["plan_bytes"] > 0
    if version:
        assert made.config.get_timing_cache() is not None and len(bytes(made.cache.serialize())) > 0


@needs_rtx
def test_options_reach_the_builder_and_are_told_as_they_are_in_force(session):
    told = session({"workspace_mib": 64, "optimization_level": 1, "hardware": "none"}).in_force()
    assert told["workspace_mib"] == 64 and told["optimization_level"] == 1 and told["hardware"] == "none"
    assert told["typing"] == "strong" and told["cuda_graph"] is False and isinstance(told["tf32"], bool)
    assert {"optimization_level", "hardware", "dla_core"}.isdisjoint(session({}, "").in_force())


@needs_rtx
def test_an_option_that_the_builder_does_not_take_is_refused(session, agents):
    """TensorRT for RTX has engines for other GPUs by another way, and ignores this one without a word."""
    with pytest.raises(agents.agent_contract.Refused, match="hardware ampere_plus was not taken by this builder"):
        session({"hardware": "ampere_plus"})


@needs_rtx
def test_a_dla_that_is_not_there_is_refused(session, agents):
    with pytest.raises(agents.agent_contract.Refused, match="dla_core 0 is not there: this device and version have 0 cores of DLA"):
        session({"dla_core": 0})


@needs_rtx
@pytest.mark.parametrize(
    ("model", "words"),
    [(b"this is no model", "there is no network in it"), (b"", "there is no network in it"), (conv_model()[:-20], "Failed to parse the ONNX model")],
    ids=["bytes", "nothing", "cut short"],
)
def test_a_model_that_cannot_be_read_is_refused_by_name_of_the_parser_and_the_session_goes_on(session, agents, model, words):
    made = session({}, "")
    with pytest.raises(agents.agent_contract.Refused, match=r"the parser of tensorrt_rtx 1\.\S+ refuses the model: .*" + words):
        made.build(model)
    assert made.build(conv_model())[1]["plan_bytes"] > 0


# -- on a GPU ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["tensorrt", "tensorrt_rtx"])
def on_gpu(agents, request):
    """A function that starts that runtime's agent with options."""
    if why := why_no_gpu(agents):
        pytest.skip(why)
    try:
        agents.tensorrt_engine.library(request.param)
    except agents.agent_contract.Refused as error:
        pytest.skip(str(error))
    made = registry.create("profiling.runtimes", request.param)
    return lambda **options: started_agent(replace(DEVICE, options={request.param: options}), made, threads=1, seed=7)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_model_is_timed_on_the_gpu(on_gpu, cuda_graph):
    with on_gpu(cuda_graph=cuda_graph) as agent:
        facts = agent.load("conv", conv_model())
        assert len(str(facts["plan_sha256"])) == 64 and int(facts["layers"]) >= 1
        (warm,) = agent.visit(["conv"], {"conv": Burst(3, 20)})
        (cold,) = agent.visit(["conv"], {"conv": Burst(0, 2, cold=True)})
        assert len(warm.ns) == 20 and warm.wall_ns >= sum(warm.ns) and min(cold.ns) > min(warm.ns)
        assert agent.identity.options["cuda_graph"] == cuda_graph and agent.identity.system["compute_capability"]


def test_layers_are_timed_apart_and_the_runs_after_them_are_not_profiled(on_gpu):
    with on_gpu() as agent:
        agent.load("conv", conv_model())
        layers = agent.layers("conv", 5)
        assert layers and all(ns >= 0 for _, ns in layers)
        (visit,) = agent.visit(["conv"], {"conv": Burst(3, 5)})
        assert len(visit.ns) == 5


def test_a_foreign_model_on_the_gpu_is_an_answer_and_the_agent_goes_on(on_gpu):
    with on_gpu() as agent:
        with pytest.raises(Refused, match="refuses the model"):
            agent.load("bad", b"this is no model")
        assert len(agent.visit([ANCHOR_ITEM], {ANCHOR_ITEM: Burst(0, 1)})) == 1
