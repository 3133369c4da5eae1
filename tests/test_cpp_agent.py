"""devices/agents/cpp/: what the agent in C++ has of its own. That it keeps the contract is in test_profiling_agent.py, with that in Python."""

import json
import random
import shlex
import signal
import subprocess
import zipfile
from dataclasses import replace

import native_agents
import numpy as np
import pytest
from native_agents import NAME, limited, wrapped
from onnx import helper, numpy_helper
from test_profiling_agent import AGENT, HELLO, conv_model, model_of
from test_profiling_session import small_space
from test_runtimes import foreign_model

from hwnas.device import load_device
from hwnas.errors import InputError, MeasurementFailed
from hwnas.index import BlockIndex
from hwnas.profiling.agent import Burst, Refused, started_agent
from hwnas.profiling.runtimes.onnxruntime import onnxruntime
from hwnas.profiling.session import profile
from hwnas.profiling.transports.local import local
from hwnas.testing import check_runtime
from tests.openvino import OPTIONS as OPENVINO
from tests.openvino import openvino_agent

LOCALHOST = load_device("localhost")
MODEL = conv_model()
RUN = {"op": "run", "items": {"a": {"warmups": 0, "runs": 2}}, "order": ["a"], "anchor": {"item": "a", "warmups": 0, "runs": 1}}


@pytest.fixture
def device(native_agent):
    return replace(LOCALHOST, agent=str(native_agent))


def spoken(native_agent, *sent):
    """Answers of the agent to bytes, after which it ends."""
    done = subprocess.run([native_agent / NAME], input=b"".join(sent), capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def line(request):
    return json.dumps(request).encode() + b"\n"


LOADED = (line(HELLO), line({"op": "load", "item": "a", "bytes": len(MODEL)}), MODEL)


# -- hostile hosts --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b'{"op": "look"',
        b'{"op": "look"} {}',
        b'{"op": "look",}',
        b"{'op': 'look'}",
        b'{"op" "look"}',
        b"{1: 2}",
        b'{"op": NaN}',
        b'{"op": -Infinity}',
        b'{"op": 01}',
        b'{"op": 1.}',
        b'{"op": +1}',
        b'{"op": 1e}',
        b'{"op": "a\tb"}',
        b'{"op": "\\x"}',
        b'{"op": "\\u12g4"}',
        b'{"op": "\\ud800"}',
        b'{"op": "\\ud800\\ud800"}',
        b'{"op": "\xff"}',
        b'{"op": "\xed\xa0\x80"}',
        b'{"op": "\xc0\xaf"}',
        b'{"op": "\xf4\x90\x80\x80"}',
        b'{"op": "\0"}',
        b'{"op": "look',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" + b"0," * 2_000_000 + b"0]",
        b"\xef\xbb\xbf{}",
    ],
    ids=lambda text: repr(text[:24]),
)
def test_what_is_no_json_is_an_answer_and_the_agent_goes_on(native_agent, text):
    _, wrong, right = spoken(native_agent, line(HELLO), text + b"\n", line({"op": "look"}))
    assert wrong["ok"] is False and wrong["error"].startswith("no JSON: ") and right["ok"] is True


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ([], "a request is a JSON object"),
        ("look", "a request is a JSON object"),
        ({}, "unknown request nothing"),
        ({"op": ["look"]}, "unknown request"),
        (HELLO | {"contract": 2.0}, "speaks contract 2, the host 2"),
        (HELLO | {"threads": 1.0}, "threads must be a whole number"),
        (HELLO | {"threads": True}, "threads must be a whole number"),
        (HELLO | {"threads": 10**30}, "threads must be a whole number"),
        (HELLO | {"seed": -1}, "seed must be a whole number"),
        (HELLO | {"options": []}, "options must be at most 64"),
        (HELLO | {"options": {"a": 1.5}}, "options must be at most 64"),
        (HELLO | {"options": {str(i): i for i in range(65)}}, "options must be at most 64"),
        (HELLO | {"by": "\x7f"}, "by must be a text"),
        ({"op": "load", "item": "b"}, "bytes must be a whole number"),
        ({"op": "load", "item": "b", "bytes": -1}, "bytes must be a whole number"),
        ({"op": "load", "item": "b", "bytes": 2**40}, "bytes must be a whole number"),
        ({"op": "load", "item": "b", "bytes": "1"}, "bytes must be a whole number"),
        ({"op": "load", "item": "", "bytes": 0}, "an item needs a name"),
        ({"op": "load", "item": "b" * 201, "bytes": 0}, "an item needs a name"),
        ({"op": "load", "item": 7, "bytes": 0}, "an item needs a name"),
        (RUN | {"items": []}, "run needs items"),
        (RUN | {"order": {}}, "run needs items"),
        (RUN | {"order": ["a"] * 100_001}, "run needs items"),
        (RUN | {"anchor": "a"}, "run needs items"),
        (RUN | {"items": {"a": 3}}, "item 'a' needs warmups and runs"),
        (RUN | {"items": {"a": {"warmups": 0, "runs": 0}}}, "runs must be a whole number"),
        (RUN | {"items": {"a": {"warmups": 0, "runs": 100_001}}}, "runs must be a whole number"),
        (RUN | {"items": {"a": {"warmups": 1, "runs": 1, "cold": True}}}, "warmups must be a whole number from 0 to 0"),
        (RUN | {"items": {"a": {"warmups": 0, "runs": 1, "cold": 1}}}, "cold must be true or false"),
        (RUN | {"items": {"ghost": {"warmups": 0, "runs": 1}}}, "no item 'ghost' is loaded"),
        (RUN | {"items": {"a": {"warmups": 0, "runs": 1, "streams": 0}}}, "streams must be a whole number from 1 to 1024"),
        (RUN | {"items": {"a": {"warmups": 0, "runs": 1, "streams": None}}}, "streams must be a whole number from 1 to 1024"),
        (RUN | {"items": {"a": {"warmups": 0, "runs": 98, "streams": 1024}}}, "runs must be a whole number from 1 to 97"),
        ({"op": "layers", "item": "ghost", "runs": 1}, "no item 'ghost' is loaded"),
        ({"op": "layers", "item": ["a"], "runs": 1}, "no item"),
        ({"op": "layers", "item": "a"}, "runs must be a whole number from 1 to 100000, got nothing"),
        ({"op": "layers", "item": "a", "runs": 0}, "runs must be a whole number"),
        ({"op": "layers", "item": "a", "runs": 1001}, "at most 1000 are, got 1001"),
        ({"op": "layers", "item": "../../etc/passwd", "runs": 1}, "no item '../../etc/passwd' is loaded"),
        (HELLO | {"options": {"provider": "NoneExecutionProvider"}}, "there is no provider 'NoneExecutionProvider' here, but CPUExecutionProvider"),
        (HELLO | {"options": {"provider": "CUDAExecutionProvider"}}, "measure CUDAExecutionProvider with the agent in Python"),
        (HELLO | {"options": {"provider": ""}}, "there is no provider '' here"),
        (HELLO | {"options": {"device_type": "npu"}}, "takes no device_type"),
        (HELLO | {"options": {"fallback": "maybe"}}, "fallback must be refused or allowed, got 'maybe'"),
        (HELLO | {"options": {"load_config": "/etc/passwd"}}, "unknown option 'load_config'; of CPUExecutionProvider there are: none"),
        (HELLO | {"options": {"provider": "QNNExecutionProvider", "backend_path": "/x.so"}}, "unknown option 'backend_path'; of QNNExecutionProvider there"),
        (HELLO | {"options": {"provider": "QNNExecutionProvider", "backend_type": "../x.so"}}, "must be a plain word or number, got '../x.so'"),
        (HELLO | {"options": {"provider": "QNNExecutionProvider", "backend_type": "x" * 65}}, "must be a plain word or number"),
        (RUN | {"order": [["a"]]}, "not among the items"),
        (RUN | {"anchor": {"item": None, "warmups": 0, "runs": 1}}, "no item null is loaded"),
    ],
    ids=lambda each: str(each)[:60],
)
def test_a_request_outside_the_contract_is_one_sentence_and_the_agent_goes_on(native_agent, request_, reason):
    *_, wrong, right = spoken(native_agent, *LOADED, line(request_), line(RUN))
    assert wrong["ok"] is False and reason in wrong["error"] and "\n" not in wrong["error"]
    assert right["ok"] is True and len(right["visits"]) == 1


def test_a_request_that_is_too_long_ends_the_agent(native_agent):
    (answer,) = spoken(native_agent, b" " * (9 << 20) + b"\n", line({"op": "look"}))
    assert answer["error"] == "the request is longer than 8388608 bytes"


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_model_whose_host_is_gone_before_its_end_is_not_loaded(native_agent, share):
    _, answer = spoken(native_agent, line(HELLO), line({"op": "load", "item": "a", "bytes": len(MODEL)}), MODEL[: int(share * len(MODEL))])
    assert answer["error"] == "the model was cut short"


def test_names_come_back_as_they_were_sent(native_agent):
    name = 'straße "7"\\\n\u2028\U0001f4f1'
    loaded = line({"op": "load", "item": name, "bytes": len(MODEL)})
    _, answer = spoken(native_agent, line(HELLO), loaded, MODEL)
    assert answer["item"] == name


def mutant(request, rng):
    """The line with a few bytes changed, removed, repeated or moved; still one line."""
    text = bytearray(json.dumps(request).encode())
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text))
        match rng.randrange(4):
            case 0:
                text[at] = rng.choice(b'{}[]":,0123456789eE.-+\\untrfalse \x00\x7f\xc3\xa9\xff')
            case 1:
                del text[at : at + rng.randint(1, 8)]
            case 2:
                text[at:at] = text[at : at + rng.randint(1, 8)]
            case 3:
                other = rng.randrange(len(text))
                text[at:at] = text[other : other + rng.randint(1, 12)]
        text = text or bytearray(b" ")
    return bytes(text)


def accepted_by_python(text):
    """Whether a line is JSON, as strictly as the agent has it."""

    def refuse(name):
        raise ValueError(name)

    try:
        value = json.loads(text.decode(), parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode()  # no halves of surrogate pairs
    except (ValueError, RecursionError):
        return False
    return True


def test_two_thousand_mutated_requests_are_read_as_python_reads_them(native_agent):
    rng = random.Random(11)
    requests = [HELLO, HELLO | {"by": "straße", "options": {}}, RUN, {"op": "look"}, {"op": "dance", "x": [1.5e3, -2, True, None, {"\u2028": "\\"}]}]
    lines = [mutant(rng.choice(requests), rng) for _ in range(2000)]
    lines = [each for each in lines if b'"seconds"' not in each and not (b'"bye"' in each or b'"load"' in each)]
    answers = spoken(native_agent, *LOADED, *(each + b"\n" for each in lines), line(RUN))[2:]
    assert len(answers) == len(lines) + 1 and answers[-1]["ok"] is True
    for text, answer in zip(lines, answers, strict=False):
        assert isinstance(answer["ok"], bool) and (answer["ok"] or answer["error"])
        assert answer.get("error", "").startswith("no JSON: ") is not accepted_by_python(text), text
    assert {True, False} == {accepted_by_python(each) for each in lines}, "the mutants are of both kinds"


def test_mutated_models_are_refused_or_run_and_the_agent_goes_on(native_agent):
    rng = random.Random(3)
    sent = []
    for number in range(150):
        model = bytearray(MODEL)
        for _ in range(rng.randint(1, 6)):
            model[rng.randrange(len(model) if rng.random() < 0.3 else 200)] = rng.randrange(256)
        model = model[: rng.randrange(len(model))] if rng.random() < 0.2 else model
        sent += [line({"op": "load", "item": f"m{number}", "bytes": len(model)}), bytes(model)]
    answers = spoken(native_agent, *LOADED, *sent, line(RUN))[2:]
    assert len(answers) == 151 and answers[-1]["ok"] is True
    refused = [each for each in answers if not each["ok"]]
    assert refused and all(each["error"] and "\n" not in each["error"] for each in refused)


# -- limits ---------------------------------------------------------------------------------------------------------------------------


def test_a_job_that_takes_too_long_is_ended_by_the_device_itself(device):
    connection = local().start(device, AGENT)
    connection.ask(HELLO, seconds=60)
    connection.ask({"op": "load", "item": "a", "bytes": len(MODEL)}, MODEL, seconds=60)
    long = RUN | {"items": {"a": {"warmups": 0, "runs": 100_000}}, "order": ["a"] * 1000, "seconds": 1}
    with pytest.raises(MeasurementFailed, match="the agent ended during 'run', killed by signal 14"):
        connection.ask(long, seconds=60)
    connection.close()


def test_a_model_that_the_machine_has_no_memory_for_is_an_answer(native_agent, tmp_path):
    """A gigabyte is all that the shell lets it have; the second of these models needs four."""
    folder = limited(tmp_path / "limited", "ulimit -d 1048576", native_agent)
    connection = local().start(replace(LOCALHOST, agent=str(folder)), AGENT)
    assert connection.ask(HELLO, seconds=60)["ok"]
    for size, fits in ((1 << 10, True), (1 << 30, False), (1 << 10, True)):
        model = model_of(helper.make_node("Expand", ["x", "shape"], ["y"]), [1], [numpy_helper.from_array(np.array([size], np.int64), "shape")])
        model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = size
        raw = model.SerializeToString()
        answer = connection.ask({"op": "load", "item": "a", "bytes": len(raw)}, raw, seconds=60)
        assert answer["ok"] is fits, answer
        assert fits or "memory" in answer["error"].lower() or "alloc" in answer["error"].lower(), answer
    connection.close()


def test_a_model_larger_than_the_memory_is_an_answer_and_the_next_request_is_read(native_agent, tmp_path):
    folder = limited(tmp_path / "limited", "ulimit -d 131072", native_agent)
    connection = local().start(replace(LOCALHOST, agent=str(folder)), AGENT)
    assert connection.ask(HELLO, seconds=60)["ok"]
    size = 400 << 20
    assert connection.ask({"op": "load", "item": "a", "bytes": size}, bytes(size), seconds=60) == {"ok": False, "error": "out of memory"}
    assert connection.ask({"op": "look"}, seconds=60)["ok"] is True
    connection.close()


def test_streams_that_the_machine_has_no_memory_for_are_a_failed_visit_and_the_agent_goes_on(native_agent, tmp_path):
    """A thousand threads have stacks of eight gigabytes, and a quarter of one is all that the shell lets it have."""
    folder = limited(tmp_path / "limited", "ulimit -s 8192; ulimit -d 262144", native_agent)
    with started_agent(replace(LOCALHOST, agent=str(folder)), onnxruntime(), threads=1, seed=0) as agent:
        agent.load("a", MODEL)
        many, few = agent.visit(["a"], {"a": Burst(1, 2, streams=1024)})[0], agent.visit(["a"], {"a": Burst(1, 2, streams=2)})[0]
        assert isinstance(many, str) and many, "the reason"
        assert len(few.ns) == 4


@pytest.fixture(scope="module")
def variant(tmp_path_factory):
    """An agent that waits for a second, and takes no ONNX Runtime for new enough to tell which nodes run where."""
    return native_agents.native(tmp_path_factory.mktemp("variant"), "-DCMAKE_CXX_FLAGS=-DHWNAS_IDLE_S=1 -DHWNAS_ASSIGNMENT_API=99 -O0")


def test_what_takes_a_newer_onnx_runtime_is_said_and_left_out(variant):
    hello, loaded = spoken(variant, *LOADED)
    assert hello["system"]["not_told"].startswith("nodes and partitions: they take ") and loaded == {"ok": True, "item": "a", "facts": {}}


def test_an_agent_without_a_host_ends(variant):
    connection = local().start(replace(LOCALHOST, agent=str(variant)), AGENT)
    assert connection._process.wait(60) == -signal.SIGALRM
    connection.close()


# -- what it runs on ------------------------------------------------------------------------------------------------------------------


def test_a_profile_of_it_is_a_table_like_any_other(device, native_agent, tmp_path):
    table = profile(BlockIndex(small_space()), device, tmp_path / "table", visits=2, networks=0)
    assert table.origin == "measured" and len(table.entries) == 6
    assert table.provenance["system_compiler"] and table.provenance["system_affinity"] and "system_python" not in table.provenance
    with pytest.raises(InputError, match="was profiled with agent ="):
        (tmp_path / "table" / "table.toml").unlink()
        profile(BlockIndex(small_space()), LOCALHOST, tmp_path / "table", visits=2, networks=0)


def test_both_agents_have_the_same_options_in_force(device):
    identities = []
    for each in (LOCALHOST, device):
        with started_agent(each, onnxruntime(), threads=1, seed=0) as agent:
            identities.append(agent.identity)
    python, cpp = identities
    assert (python.runtime, python.version, python.options) == (cpp.runtime, cpp.version, cpp.options)
    assert "not_told" not in cpp.system
    assert all(python.system[key] == cpp.system[key] for key in ("processor", "cores", "governor", "os", "arch"))


def test_an_operator_of_another_type_inside_is_run_where_the_inputs_are_float32(device):
    """Models in float16 or int8 keep float32 at their ends."""
    nodes = [helper.make_node("Cast", ["x"], ["half"], to=10), helper.make_node("Sqrt", ["half"], ["root"]), helper.make_node("Cast", ["root"], ["y"], to=6)]
    model = model_of(nodes[0], [4])
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.output[0].type.tensor_type.elem_type = 6
    with started_agent(device, onnxruntime(), threads=1, seed=0) as agent:
        agent.load("integers", model.SerializeToString())
        assert len(agent.visit(["integers"], {"integers": Burst(0, 1)})) == 1


@pytest.mark.parametrize(("type_", "name"), [(10, "y"), (16, "y"), (11, "y")], ids=["float16", "bfloat16", "float64"])
def test_outputs_of_any_float_type_must_be_finite(device, type_, name):
    nodes = [helper.make_node("Sqrt", ["x"], ["root"]), helper.make_node("Cast", ["root"], ["y"], to=type_)]
    model = model_of(nodes[0], [100])
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.output[0].type.tensor_type.elem_type = type_
    with started_agent(device, onnxruntime(), threads=1, seed=0) as agent, pytest.raises(Exception, match=f"output {name} is not finite"):
        agent.load("bad", model.SerializeToString())


# -- other execution providers --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_openvino(native_agent, tmp_path_factory):
    """A folder whose agent has OpenVINO's provider at hand, the real one."""
    package = pytest.importorskip("onnxruntime_ep_openvino", reason="pip install 'hwnas[openvino]' brings the provider")
    if "address" in native_agents.SANITIZERS:
        pytest.skip("a library of OpenVINO's is opened in a way that the address sanitizer refuses (RTLD_DEEPBIND)")
    folder = tmp_path_factory.mktemp("openvino")
    preloaded, library = shlex.quote(str(native_agents.say_intel(folder))), shlex.quote(package.get_library_path())
    environment = f"LD_PRELOAD={preloaded} HWNAS_ORT_EP_LIBRARY={library}"
    return wrapped(folder / "agent", f"{environment} exec {shlex.quote(str(native_agent / NAME))}")


def openvino(folder, **options):
    return replace(LOCALHOST, agent=str(folder), options={"onnxruntime": OPENVINO | options})


def test_openvinos_provider_keeps_the_contract(with_openvino):
    check_runtime("onnxruntime", openvino(with_openvino))


def test_of_a_provider_both_agents_have_the_same_options_in_force(with_openvino, tmp_path):
    asked = {"NUM_STREAMS": 2, "ENABLE_CPU_PINNING": True, "device_type": "CPU"}
    with started_agent(openvino(with_openvino, **asked), onnxruntime(), threads=2, seed=0) as agent:
        found = agent.identity
    connection = local().start(LOCALHOST, openvino_agent(tmp_path))
    python = connection.ask(HELLO | {"threads": 2, "options": OPENVINO | asked}, seconds=60)
    connection.close()
    assert found.options == python["options"] and found.options["ENABLE_CPU_PINNING"] is True


def test_a_model_that_needs_the_cpu_provider_too_is_a_failure_unless_that_is_allowed(with_openvino):
    with started_agent(openvino(with_openvino), onnxruntime(), threads=1, seed=0) as agent:
        with pytest.raises(Refused, match="fallback to CPU EP has been explicitly disabled"):
            agent.load("foreign", foreign_model())
        facts = agent.load("whole", MODEL)
        assert (facts["provider"], facts["nodes_elsewhere"], facts["partitions"]) == ("OpenVINOExecutionProvider", 0, 1)
        assert len(agent.visit(["whole"], {"whole": Burst(1, 3, streams=2)})[0].ns) == 6
    with started_agent(openvino(with_openvino, fallback="allowed"), onnxruntime(), threads=1, seed=0) as agent:
        facts = agent.load("foreign", foreign_model())
        assert (facts["nodes"], facts["nodes_elsewhere"], agent.identity.options["fallback"]) == (3, 1, "allowed")


def test_a_library_that_is_none_of_a_provider_and_a_processor_that_it_does_not_offer_are_named(with_openvino, native_agent, tmp_path):
    refused = pytest.raises(MeasurementFailed, match=r"runs on CPU of this machine, on no NPU \(there is: CPU of ")
    with refused, started_agent(openvino(with_openvino, device_type="npu"), onnxruntime(), threads=1, seed=0):
        pass
    other = wrapped(tmp_path / "agent", f"HWNAS_ORT_EP_LIBRARY={shlex.quote(__file__)} exec {shlex.quote(str(native_agent / NAME))}")
    refused = pytest.raises(MeasurementFailed, match="the library of OpenVINOExecutionProvider cannot be loaded: ")
    with refused, started_agent(openvino(other), onnxruntime(), threads=1, seed=0):
        pass


# -- how it is built and found --------------------------------------------------------------------------------------------------------


def test_without_headers_cmake_says_what_to_name(tmp_path):
    native_agents.need("cmake", "c++")
    done = native_agents.configured(tmp_path, f"-DONNXRUNTIME_INCLUDE_DIR={tmp_path}")
    assert done.returncode != 0 and "name its folder with -DONNXRUNTIME_INCLUDE_DIR=FOLDER" in " ".join(done.stderr.split())


def test_without_the_library_cmake_says_what_to_name(tmp_path):
    include = native_agents.headers()
    native_agents.need("cmake", "c++")
    done = native_agents.configured(tmp_path, f"-DONNXRUNTIME_INCLUDE_DIR={include}", f"-DONNXRUNTIME_LIB_DIR={tmp_path}")
    assert done.returncode != 0 and "name its folder with -DONNXRUNTIME_LIB_DIR=FOLDER" in " ".join(done.stderr.split())


def test_an_archive_for_android_is_all_that_cmake_needs_beside_the_ndk(tmp_path):
    """This machine's compiler stands in for the NDK's, this machine's library for Android's."""
    include = native_agents.headers()
    native_agents.need("cmake", "c++")
    (library,) = native_agents.library().glob("libonnxruntime.so*")
    with zipfile.ZipFile(tmp_path / "onnxruntime-android.aar", "w") as archive:
        for header in include.glob("*.h"):
            archive.write(header, f"headers/{header.name}")
        archive.write(library, "jni/x86_64/libonnxruntime.so")
        archive.write(library, "jni/arm64-v8a/libonnxruntime.so")
    aar = f"-DONNXRUNTIME_AAR={tmp_path / 'onnxruntime-android.aar'}"
    done = native_agents.configured(tmp_path / "without", aar)
    assert done.returncode != 0 and "name the NDK's toolchain file too" in " ".join(done.stderr.split())
    done = native_agents.configured(tmp_path / "build", aar, "-DANDROID_ABI=x86_64")
    assert done.returncode == 0, done.stderr
    subprocess.run(["cmake", "--build", tmp_path / "build"], check=True, capture_output=True, timeout=600)
    assert not (tmp_path / "build" / "aar" / "jni" / "arm64-v8a").exists()
    assert spoken(tmp_path / "build" / "agent", line(HELLO))[0]["runtime"] == "onnxruntime"


def test_a_program_that_cannot_be_run_is_a_sentence(tmp_path):
    folder = wrapped(tmp_path / "agent", "exit 0")
    (folder / NAME).chmod(0o644)
    with pytest.raises(MeasurementFailed, match=rf"the agent cannot be started: .*{NAME}: Permission denied"):
        local().start(replace(LOCALHOST, agent=str(folder)), AGENT)
