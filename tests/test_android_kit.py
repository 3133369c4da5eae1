"""export/android/: all of it that is not Android's, on this machine's JVM, beside the kit for Python, the other agents and hwnas's own host.

The contract's tests are those of the other agents (test_profiling_agent.py, test_cpp_agent.py), here on the app's agent.
"""

import json
import os
import random
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import adbd as phones
import host_kit
import numpy as np
import pytest
import test_cpp_agent
from agent_models import conv_model
from exports import Ended, kit_file, run_python, write_export
from hostile_files import content
from test_cpp_agent import HELLO, LOADED, MODEL, RUN, accepted_by_python, line, mutant, spoken
from test_kits import FACES, lines_of, refusal
from test_manifest import rewritten
from test_profiling_agent import (  # noqa: F401  # collected here again, on this agent
    AGENT,
    test_a_cold_start_opens_the_model_anew_each_time,
    test_a_model_that_cannot_be_timed_is_an_answer_and_the_agent_goes_on,
    test_an_item_that_was_never_loaded_cannot_be_visited,
    test_denormals_are_flushed_from_the_first_session_on,
    test_external_data_is_refused_before_anything_is_opened,
    test_inputs_that_are_no_numbers_are_refused,
    test_options_that_the_runtime_does_not_have_are_refused,
    test_the_agent_answers_a_wrong_request_in_one_sentence_and_goes_on,
    test_token_ids_are_valid_for_a_table_of_two,
    test_visits_come_in_the_order_asked_with_as_many_runs,
    typed_model,
)
from test_profiling_session import small_space
from test_verify_export import HOSTILE, truncated

from hwnas.device import load_device
from hwnas.errors import ConnectionLost, InputError, MeasurementFailed, RunHeld
from hwnas.index import BlockIndex
from hwnas.interface import Interface
from hwnas.kit import copy_kit
from hwnas.profiling.agent import Burst, started_agent
from hwnas.profiling.runtimes.onnxruntime import onnxruntime
from hwnas.profiling.session import profile
from hwnas.profiling.transports import adb_app as module
from hwnas.profiling.transports.adb_app import APP, SOCKET, AppConnection, adb_app
from hwnas.profiling.transports.local import local

LOCALHOST = load_device("localhost")
WORKFLOW = Path(__file__).resolve().parent.parent / ".github" / "workflows" / "android-kit.yml"


@pytest.fixture(scope="session")
def java(tmp_path_factory):
    """The kit on this machine's JVM."""
    return host_kit.built(tmp_path_factory.mktemp("android-kit"))


@pytest.fixture(scope="module")
def native_agent(java, tmp_path_factory):
    """Its agent over pipes, in the place of the one in C++."""
    return java.agent_folder(tmp_path_factory.mktemp("android-agent") / "agent")


@pytest.fixture(scope="module")
def device(native_agent):
    return replace(LOCALHOST, agent=str(native_agent))


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


def pixels(folder, name, shape):
    """A picture of noise as an array."""
    np.save(folder / name, np.random.default_rng(len(name)).integers(0, 256, shape, np.uint8))
    return folder / name


# -- the kit --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", FACES)
def test_the_kit_says_what_the_python_kit_says(tmp_path, java, face):
    folder = write_export(tmp_path / "shipped", FACES[face], crop=0.875 if face != "tensor" else None)
    shapes = {"grey.npy": (48, 40), "tall.npy": (70, 33, 1), "same.npy": (32, 32), "small.npy": (9, 5)}
    images = [pixels(tmp_path, name, shape) for name, shape in shapes.items()]
    assert lines_of(java.kit(folder, *images)) == lines_of(run_python(folder, *images))


def test_its_latency_says_count_spread_runtime_and_where(exported_folder, java):
    _, first, second, certified, ok = java.kit(exported_folder).out.splitlines()
    assert re.fullmatch(r"latency  [\d.e-]+ ms here \(p50 of 3 runs, one at a time\)", first)
    assert re.fullmatch(r"         p10 [\d.e-]+, p90 [\d.e-]+ ms here, 1 thread, ONNX Runtime \d+\.\d+\.\d+, on a test", second)
    assert certified.strip().startswith("1.5 ms certified") and ok == "ok"


def python_feeds(folder, image):
    """What the kit for Python feeds the network of an image."""
    kit = run_path(str(kit_file("onnxruntime_python", "infer.py")), run_name="infer")
    found = []
    manifest = json.loads((folder / "manifest.json").read_text())

    def run(x):
        found.append(x)
        return np.zeros((1, 10), np.float32)

    kit["classify"](image, manifest, run, 5)
    return found[0]


@pytest.mark.parametrize("face", ["tensor", "pixels", "image"])
@pytest.mark.parametrize("crop", [None, 0.875, 0.4])
def test_what_is_fed_of_an_image_is_what_the_python_kit_feeds(tmp_path, java, face, crop, capsys):
    """Bit for bit where nothing is resized. Where it is, sums are added in another order: whole pixels may differ by one, numbers in their last bit."""
    folder = write_export(tmp_path / "shipped", Interface(face), kits=(), crop=crop)
    for shape in ((32, 32), (37, 61), (200, 129), (7, 9)):
        image = pixels(tmp_path, "a.npy", shape)
        done = java.run("feed", folder, image, tmp_path / "fed")
        assert done.code == 0, done.err
        wanted = python_feeds(folder, image)
        got = np.frombuffer((tmp_path / "fed").read_bytes(), wanted.dtype).reshape(wanted.shape)
        if face == "image" or (shape == (32, 32) and crop is None):
            assert got.tobytes() == wanted.tobytes()
        elif face == "pixels":
            assert np.abs(got.astype(int) - wanted).max() <= 1 and (got == wanted).mean() > 0.99
        else:
            assert np.abs(got - wanted).max() <= 2e-6 * np.abs(wanted).max() and (got == wanted).mean() > 0.99


def test_a_network_that_computes_something_else_is_a_mismatch(exported_folder, java):
    rewritten(exported_folder, lambda manifest: manifest["example"]["logits"][0].__setitem__(0, 9.0))
    ended = java.kit(exported_folder)
    assert ended.code == 1 and "the logits of the stored example are off by" in ended.err and "ok" not in ended.out.splitlines()


def test_a_longer_time_than_certified_is_an_error_where_that_is_asked(exported_folder, java):
    rewritten(exported_folder, lambda manifest: manifest["latency"].update(upper_bound_ms=1e-9))
    assert java.kit(exported_folder).code == 0
    ended = java.kit(exported_folder, within_bound=True)
    assert ended.code == 1 and "longer than the certified bound of 1e-09 ms" in ended.err
    rewritten(exported_folder, lambda manifest: manifest["latency"].update(claim="measured"))
    assert "1.5 ms measured (p50, at most" in java.kit(exported_folder).out


@pytest.mark.parametrize("spoil", HOSTILE, ids=lambda each: each.__name__)
def test_the_kit_refuses_a_hostile_folder(exported_folder, java, spoil):
    spoil(exported_folder)
    before = content(exported_folder.parent)
    said = refusal(java.kit(exported_folder))
    assert any(part in said for part in HOSTILE[spoil].split("|")) and content(exported_folder.parent) == before


def test_a_link_out_of_the_folder_is_refused(exported_folder, java):
    (exported_folder.parent / "outside").write_bytes((exported_folder / "model.onnx").read_bytes())
    (exported_folder / "model.onnx").unlink()
    (exported_folder / "model.onnx").symlink_to(exported_folder.parent / "outside")
    assert "not inside" in refusal(java.kit(exported_folder))


@pytest.mark.parametrize("text", ["not json", "[" * 100_000, "[]", '{"format": "hwnas.manifest/1"}', '{"format": "hwnas.manifest/1", "files": []}', ""])
def test_what_is_no_manifest_is_refused(exported_folder, java, text):
    (exported_folder / "manifest.json").write_text(text)
    assert "manifest.json" in refusal(java.kit(exported_folder))


SPOILT = {
    "std": lambda manifest: manifest["preprocessing"].update(std=[0.0]),
    "mean": lambda manifest: manifest["preprocessing"].update(mean=[0.1, 0.2]),
    "range": lambda manifest: manifest["preprocessing"].update(range=[1, 0]),
    "crop": lambda manifest: manifest["preprocessing"].update(crop=1.5),
    "labels": lambda manifest: manifest["labels"].pop(),
    "label": lambda manifest: manifest["labels"].__setitem__(0, 7),
    "logits": lambda manifest: manifest["example"]["logits"][0].__setitem__(0, None),
    "huge logit": lambda manifest: manifest["example"]["logits"][0].__setitem__(0, 10**400),
    "tolerance": lambda manifest: manifest["example"].update(tolerance_std=1),
    "shape": lambda manifest: manifest["input"].update(shape=[1, 1, 32, 33]),
    "huge": lambda manifest: manifest["input"].update(shape=[1 << 20, 1, 32, 32]),
    "dtype": lambda manifest: manifest["input"].update(dtype="uint8"),
    "kind": lambda manifest: manifest["output"].update(kind="scores"),
    "hash": lambda manifest: manifest["files"].update({"model.onnx": 5}),
    "no hash": lambda manifest: manifest["files"].pop("model.onnx"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_manifest_whose_fields_do_not_fit_is_refused_as_by_the_python_kit(exported_folder, java, what):
    rewritten(exported_folder, SPOILT[what])
    assert "do not fit each other" in refusal(run_python(exported_folder)).replace("is cut short or was changed", "do not fit each other")
    assert "do not fit each other" in refusal(java.kit(exported_folder))


def test_images_that_are_none_are_refused(exported_folder, java, tmp_path):
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00\x05\x00 not ")
    assert "x.npy is no readable .npy array" in refusal(java.kit(exported_folder, tmp_path / "x.npy"))
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00\x76\x00{'descr': '|u1', 'fortran_order': False, 'shape': (999999999, 999999999)}")
    assert "x.npy is no readable .npy array" in refusal(java.kit(exported_folder, tmp_path / "x.npy"))
    np.save(tmp_path / "x.npy", np.zeros((4, 4, 3), np.uint8))
    assert "must hold at most 50000000 uint8 pixels of shape (h, w, 1)" in refusal(java.kit(exported_folder, tmp_path / "x.npy"))
    (tmp_path / "x.png").write_bytes(b"")
    assert "no decoder of images here" in refusal(java.kit(exported_folder, tmp_path / "x.png"))


def test_numbers_are_shown_as_python_shows_them(java):
    rng = random.Random(1)
    values = [0.0, 1.0, 9.995, 0.00012345, 99999.5, 999.5, 1e-9, 123456.0, -0.5, 1e300]
    values += [rng.uniform(0, 10) * 10.0 ** rng.randint(-12, 12) for _ in range(500)]
    asked = [(digits, value) for value in values for digits in (2, 3)]
    shown = java.run("digits", said="".join(f"{digits} {value!r}\n" for digits, value in asked)).out.splitlines()
    assert shown == [f"{value:.{digits}g}" for digits, value in asked]


def test_percentiles_are_those_of_numpy(java):
    rng = np.random.default_rng(0)
    asked = [(per_cent, np.sort(rng.lognormal(0, 1, n))) for n in (1, 2, 3, 10, 101) for per_cent in (10, 50, 90)]
    said = java.run("percentiles", said="".join(f"{per_cent} {' '.join(map(repr, map(float, values)))}\n" for per_cent, values in asked)).out.splitlines()
    assert np.allclose(list(map(float, said)), [np.percentile(values, per_cent) for per_cent, values in asked], rtol=1e-15, atol=0)


# -- the agent's contract -------------------------------------------------------------------------------------------------------------


def cases(test):
    """The parameters of another test."""
    return next(mark for mark in test.pytestmark if mark.name == "parametrize").args[1]


def test_what_is_no_json_is_an_answer_and_the_agent_goes_on(native_agent):
    texts = [text for text in cases(test_cpp_agent.test_what_is_no_json_is_an_answer_and_the_agent_goes_on) if text]
    answers = spoken(native_agent, *(text + b"\n" for text in texts), b"\n", line(HELLO))
    assert len(answers) == len(texts) + 2 and answers[-1]["ok"] is True
    for text, answer in zip(texts, answers, strict=False):
        assert answer["ok"] is False and answer["error"].startswith("no JSON: "), text[:60]


def test_requests_outside_the_contract_are_sentences_and_the_agent_goes_on(native_agent):
    """Those of the other agents, but for what this one has not: streams, profiles, and options of providers."""
    asked = cases(test_cpp_agent.test_a_request_outside_the_contract_is_one_sentence_and_the_agent_goes_on)
    asked = [each for each in asked if not any(word in json.dumps(each[0]) for word in ('"streams"', '"layers"', '"options": {"'))]
    asked += [(HELLO | {"options": options}, "options must be at most 64") for options in ({"a": 1.5}, {str(i): i for i in range(65)})]
    assert len(asked) > 25
    answers = spoken(native_agent, *LOADED, *(line(request) for request, _ in asked), line(RUN))[2:]
    assert len(answers) == len(asked) + 1 and answers[-1]["ok"] is True and len(answers[-1]["visits"]) == 1
    for (request, reason), answer in zip(asked, answers, strict=False):
        reason = reason.replace("request nothing", "request null")
        assert answer["ok"] is False and reason in answer["error"] and "\n" not in answer["error"], (str(request)[:80], answer)


def test_two_thousand_mutated_requests_are_read_as_python_reads_them(native_agent):
    test_cpp_agent.test_two_thousand_mutated_requests_are_read_as_python_reads_them(native_agent)


def test_mutated_models_are_refused_or_run_and_the_agent_goes_on(native_agent):
    test_cpp_agent.test_mutated_models_are_refused_or_run_and_the_agent_goes_on(native_agent)


def test_names_come_back_as_they_were_sent_and_a_model_that_is_cut_is_not_loaded(native_agent):
    test_cpp_agent.test_names_come_back_as_they_were_sent(native_agent)
    test_cpp_agent.test_a_model_whose_host_is_gone_before_its_end_is_not_loaded(native_agent, 0.5)
    test_cpp_agent.test_a_request_that_is_too_long_ends_the_agent(native_agent)


def as_java(text):
    """Whole numbers that a `long` holds for certain; longer ones are floating-point numbers there."""
    return int(text) if len(text.lstrip("-")) <= 18 else float(text)


def test_json_comes_back_as_python_reads_it(java):
    rng = random.Random(5)
    values = [RUN, HELLO | {"by": "straße \U0001f4f1", "x": [1.5e3, -2, True, None, {"\u2028": '\\"'}, 1e-7, 123456789012345678]}]
    lines = [json.dumps(each).encode() for each in values] + [mutant(rng.choice(values), rng) for _ in range(500)]
    found = java.run("json", said=b"".join(each + b"\n" for each in lines)).out.splitlines()
    assert len(found) == len(lines)
    for raw, said in zip(lines, found, strict=True):
        assert accepted_by_python(raw) is not said.startswith("no JSON: "), raw
        if accepted_by_python(raw) and "Infinity" not in said:
            assert json.loads(said, parse_int=as_java) == json.loads(raw, parse_int=as_java), raw


@pytest.mark.parametrize("kind", ["FLOAT", "FLOAT16", "DOUBLE", "BOOL", "INT8", "UINT8", "INT16", "INT32", "INT64"])
def test_inputs_of_these_types_are_made(agent, kind):
    from onnx import TensorProto

    agent.load(f"typed {kind}", typed_model(getattr(TensorProto, kind), ()))
    assert len(agent.visit([f"typed {kind}"], {f"typed {kind}": Burst(0, 2)})[0].ns) == 2


def test_several_streams_are_refused(agent):
    with pytest.raises(MeasurementFailed, match="in one stream at a time"):
        agent.visit(["good"], {"good": Burst(0, 1, streams=2)})


def test_it_has_the_options_of_the_other_agents_in_force(agent):
    with started_agent(LOCALHOST, onnxruntime(), threads=1, seed=0) as other:
        assert agent.identity.options == other.identity.options and agent.identity.runtime == other.identity.runtime
        ours, theirs = agent.identity.system, other.identity.system
        assert all(ours.get(key) == theirs.get(key) for key in ("processor", "cores", "affinity", "clusters", "governor"))
        assert {"clock_step_ns", "memory_available_bytes", "usable_cores"} <= set(agent.look()) <= set(other.look()) | {"frequency_cur_khz"}


def test_a_profile_of_it_is_a_table_like_any_other(device, tmp_path):
    table = profile(BlockIndex(small_space()), device, tmp_path / "table", visits=2, networks=0)
    assert table.origin == "measured" and len(table.entries) == 6


def test_a_phone_is_described_by_what_linux_shows_of_it(java, tmp_path):
    """The files of a phone with two kinds of cores, on some of which the app may run."""
    cpus = tmp_path / "sys/devices/system/cpu"
    for core, khz in ((0, 1_803_000), (1, 1_803_000), (2, 2_850_000)):
        (cpus / f"cpu{core}/cpufreq").mkdir(parents=True)
        (cpus / f"cpu{core}/cpufreq/cpuinfo_max_freq").write_text(f"{khz}\n")
        (cpus / f"cpu{core}/cpufreq/scaling_cur_freq").write_text("600000\n")
        (cpus / f"cpu{core}/cpufreq/scaling_governor").write_text("sched_pixel\n")
    (cpus / "possible").write_text("0-2\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("Name:\tx\nCpus_allowed:\t6\nCpus_allowed_list:\t1-2\n")
    kinds = [f"processor\t: {core}\nCPU implementer\t: 0x41\nCPU part\t: {part}\n\n" for core, part in ((0, "0xd05"), (2, "0xd44"))]
    (tmp_path / "proc/cpuinfo").write_text("".join(kinds) + "Hardware\t: Chip 9\n")
    command = (*java.command[:1], f"-Droot={tmp_path}", *java.command[1:])
    system, state = map(json.loads, host_kit.HostKit(command).run("system").out.splitlines())
    assert system["processor"] == "Chip 9 (implementer 0x41, parts 0xd05 0xd44)" and system["affinity"] == "1-2"
    assert system["clusters"] == "0-1 to 1803 MHz, 2 to 2850 MHz" and system["governor"] == "sched_pixel"
    assert state["frequency_cur_khz"] == 600_000 and state["frequency_max_khz"] == 1_803_000 and state["usable_cores"] == 2
    assert "memory_available_bytes" not in state


# -- the server, over a real socket of this machine ---------------------------------------------------------------------------------------


class Server:
    """The app's server in a process of its own."""

    def __init__(self, java, folder, idle_s=600, *options):
        self.tokens, self.hindrance = folder / "tokens", folder / "hindrance"
        self.tokens.mkdir(parents=True)
        command = (*java.command[:1], f"-Dhindrance={self.hindrance}", *options, *java.command[1:])
        self.process = subprocess.Popen([*command, "serve", str(self.tokens), str(idle_s)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.port = int(self.process.stdout.readline())

    def admit(self, token):
        (self.tokens / token).write_text("")
        while (self.tokens / token).exists():
            time.sleep(0.005)
        return token

    def connected(self, token):
        link, rest = module._greeted(ADB, self.port, token)
        return AppConnection(ADB, self.port, "ab" * 32, link, rest)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


ADB = SimpleNamespace(where="phone (1)", answers=lambda line="true": True, run=lambda *words, seconds=0: (0, ""))
TOKENS = [f"{number:032x}" for number in range(1, 20)]


@pytest.fixture(scope="module")
def one_server(java, tmp_path_factory):
    server = Server(java, tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture
def server(one_server):
    yield one_server
    assert one_server.process.poll() is None, "the app is gone"
    for path in one_server.tokens.iterdir():
        path.unlink()


def greeting(port, raw):
    """What the app answers to the first bytes of a connection, until it closes or asks for more."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as link:
        link.sendall(raw)
        return link.makefile("rb").readline()


@pytest.mark.parametrize(
    "raw",
    [
        *(b"\n", b"{}\n", line(HELLO), b"x" * 5000, b"\xff\xfe\n", b"GET / HTTP/1.1\n"),
        *(b'{"token": %s}\n' % each for each in (b"5", b"null", b'""', b'"' + b"0" * 32 + b'"')),
    ],
    ids=lambda raw: repr(raw[:24]),
)
def test_without_a_token_nothing_is_answered_but_one_sentence(server, raw):
    assert json.loads(greeting(server.port, raw))["error"].startswith("this connection has no token")


def test_a_token_is_good_for_one_connection(server):
    token = server.admit(TOKENS[0])
    assert json.loads(greeting(server.port, json.dumps({"token": token}).encode() + b"\n")) == {"ok": True}
    assert json.loads(greeting(server.port, json.dumps({"token": token}).encode() + b"\n"))["ok"] is False


def test_the_second_host_is_told_who_measures_and_comes_after_it(server):
    first = server.connected(server.admit(TOKENS[1]))
    assert first.ask(HELLO | {"by": "ann@lab, process 7"}, seconds=60)["ok"]
    second = server.connected(server.admit(TOKENS[2]))
    answer = second.ask(HELLO, seconds=60)
    assert answer["ok"] is False and answer["held_by"].startswith("ann@lab, process 7, since 20") and "is being measured by ann@lab" in answer["error"]
    second.close()
    assert first.ask({"op": "look"}, seconds=60)["ok"], "the first one is not disturbed"
    first.close()
    third = server.connected(server.admit(TOKENS[3]))
    assert third.ask(HELLO, seconds=60)["ok"]
    third.close()


def test_items_of_one_host_are_not_there_for_the_next(server):
    for token in TOKENS[4:6]:
        host = server.connected(server.admit(token))
        assert host.ask(HELLO, seconds=60)["ok"]
        assert "no item 'a' is loaded" in host.ask(RUN, seconds=60)["error"]
        assert host.ask({"op": "load", "item": "a", "bytes": len(MODEL)}, MODEL, seconds=60)["ok"] and host.ask(RUN, seconds=60)["ok"]
        host.close()


def test_nothing_counts_while_the_app_is_not_in_front(server):
    host = server.connected(server.admit(TOKENS[6]))
    host.ask(HELLO, seconds=60)
    host.ask({"op": "load", "item": "a", "bytes": len(MODEL)}, MODEL, seconds=60)
    server.hindrance.write_text("")
    assert host.ask(RUN, seconds=60) == {"ok": False, "error": "the app was not in front while it measured"}
    server.hindrance.unlink()
    assert host.ask(RUN, seconds=60)["ok"]
    host.close()


def test_more_connections_than_it_takes_are_closed_and_no_host_is_kept_out_for_long(java, tmp_path):
    server = Server(java, tmp_path)
    links = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(8)]
    try:
        time.sleep(0.2)
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as ninth:
            assert ninth.recv(1) == b""
        links.pop().close()
        host = server.connected(server.admit(TOKENS[7]))
        assert host.ask(HELLO, seconds=60)["ok"]
        host.close()
    finally:
        for link in links:
            link.close()
        server.stop()


def test_a_host_that_falls_silent_is_left(java, tmp_path):
    server = Server(java, tmp_path, 1)
    host = server.connected(server.admit(TOKENS[8]))
    assert host.ask(HELLO, seconds=60)["ok"]
    assert host._link.recv(1) == b"", "after a second"
    following = server.connected(server.admit(TOKENS[9]))
    assert following.ask(HELLO, seconds=60)["ok"]
    following.close()
    host.close()
    server.stop()


def test_a_job_that_does_not_end_ends_the_app(java, tmp_path):
    server = Server(java, tmp_path)
    host = server.connected(server.admit(TOKENS[10]))
    host.ask(HELLO, seconds=60)
    host.ask({"op": "load", "item": "a", "bytes": len(MODEL)}, MODEL, seconds=60)
    long = RUN | {"items": {"a": {"warmups": 0, "runs": 100_000}}, "order": ["a"] * 1000, "seconds": 1}
    with pytest.raises(MeasurementFailed, match=r"the app on phone \(1\) ended during 'run': it was closed"):
        host.ask(long, seconds=60)
    assert server.process.wait(60) == 142
    host.close()
    server.stop()


# -- the transport, by the real adb -----------------------------------------------------------------------------------------------------

#: What the phone of the tests has: the app's file, and Android's programs that start and end it.
PM = '[ "$2" = org.hwnas.kit ] && echo package:/data/app/~~a==/org.hwnas.kit-b==/base.apk'
SHA256SUM = "echo " + "ab" * 32 + "  $1"
AM = 'while [ $# -gt 0 ]; do [ "$1" = agent ] && touch {tokens}/"$2"; shift; done'


@pytest.fixture(scope="module")
def bridge(tmp_path_factory):
    phones.require()
    bridge = phones.Bridge(tmp_path_factory.mktemp("adb"))
    yield bridge
    bridge.stop()


@pytest.fixture
def phone(bridge, server, tmp_path, monkeypatch):
    """A phone with the app."""
    for name, value in bridge.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ADB_SERVER_SOCKET", raising=False)
    phone = phones.Adbd(tmp_path / "phone")
    phone.sockets[SOCKET] = server.port
    for name, body in (("pm", PM), ("sha256sum", SHA256SUM), ("am", AM.format(tokens=server.tokens))):
        phone.program(name, body)
    bridge.connect(phone)
    yield phone
    bridge.disconnect()
    surprises = phone.surprises
    phone.stop()
    assert not surprises


def app(phone, **fields):
    return replace(phone.device(python=""), transport="adb_app", **fields)


def test_a_profile_over_adb_is_a_table_that_names_the_app(phone, tmp_path):
    table = profile(BlockIndex(small_space()), app(phone), tmp_path / "table", visits=2, networks=0)
    assert len(table.entries) == 6 and table.provenance["agent_sha256"] == "ab" * 32
    listed = subprocess.run([phones.PROGRAM, "forward", "--list"], capture_output=True, text=True, timeout=60).stdout
    assert SOCKET not in listed, "the forwarding is taken back"


def test_the_device_is_held_while_another_measures_in_the_app(phone):
    held = pytest.raises(RunHeld, match=r"is being measured by .*, process \d+, since")
    with started_agent(app(phone), onnxruntime(), threads=1, seed=0), held, started_agent(app(phone), onnxruntime(), threads=1, seed=0):
        pass


@pytest.mark.parametrize(
    ("program", "body", "reason"),
    [
        ("pm", "exit 1", "has no app org.hwnas.kit: build and install the kit 'android'"),
        ("pm", "echo 'package:/data/$(reboot)/base.apk'", "has no app org.hwnas.kit"),
        ("sha256sum", "echo denied; exit 1", "does not say what its app org.hwnas.kit is: denied"),
        ("am", "echo 'Error type 3'; echo 'Error: Activity class does not exist.'", "cannot start the app org.hwnas.kit: Error type 3"),
    ],
)
def test_a_phone_on_which_the_app_cannot_be_used_is_a_sentence(phone, program, body, reason):
    phone.program(program, body)
    with pytest.raises(MeasurementFailed, match=re.escape(reason)), started_agent(app(phone), onnxruntime(), threads=1, seed=0):
        pass


def test_an_app_that_does_not_listen_is_a_sentence(phone, monkeypatch):
    monkeypatch.setattr(module, "_START_S", 1.0)
    phone.sockets.clear()
    silent = pytest.raises(MeasurementFailed, match="does not answer: it does not listen; unlock the phone")
    with silent, started_agent(app(phone), onnxruntime(), threads=1, seed=0):
        pass


def test_a_link_that_breaks_says_so_and_the_app_is_free_again(phone, bridge):
    with pytest.raises(ConnectionLost, match="was lost during 'look'"), started_agent(app(phone), onnxruntime(), threads=1, seed=0) as agent:
        bridge.disconnect()
        agent.look()
    bridge.connect(phone)
    with started_agent(app(phone), onnxruntime(), threads=1, seed=0) as agent:
        assert agent.look()


@pytest.mark.parametrize("fields", [{"cores": "4-7"}, {"python": "python3"}, {"agent": "/tmp"}, {"address": "a b"}])
def test_what_no_app_lets_one_choose_is_refused(fields):
    with pytest.raises(InputError):
        adb_app().check(replace(LOCALHOST, transport="adb_app", **fields))


def test_other_runtimes_are_refused():
    with pytest.raises(InputError, match=r'the app cannot run torch_agent.py: the runtimes of device .* must be \["onnxruntime"\]'):
        adb_app().start(replace(LOCALHOST, transport="adb_app"), Path("torch_agent.py"))


# -- run.py, by the real adb --------------------------------------------------------------------------------------------------------------

#: The app in the place of Android: it writes what the kit says into a log, as `logcat` gives it back.
APP_ON_HOST = """
run=-; image=; while [ $# -gt 0 ]; do case "$1" in run) run=$2;; image) image=$2;; esac; shift; done
{kit} kit {folder} 5 3 0 ${{image:+{files}/$image}} > {log}.now 2>&1; code=$?
sed "s/^/I\\/hwnas   ( 4711): $run /" {log}.now >> {log}; echo "I/hwnas   ( 4711): $run exit $code" >> {log}
"""


def run_kit(phone, *arguments):
    command = [sys.executable, "-I", kit_file("android", "run.py"), "--serial", phone.serial, *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=240)
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def installed(phone, java, exported_folder):
    """The folder of an exported network, with which the app on the phone was built."""
    log, files = phone.root / "log", f"{phone.root}{module_of_run()['FOLDER']}"
    phone.program("am", APP_ON_HOST.format(kit=shlex.join(java.command), folder=exported_folder, log=log, files=files))
    phone.program("logcat", f"echo '--------- beginning of main'; cat {log}")
    return exported_folder


def module_of_run():
    return run_path(str(kit_file("android", "run.py")), run_name="run")


def test_run_py_says_what_the_app_says_and_ends_as_it_does(phone, installed, tmp_path):
    image = pixels(tmp_path, "two words.npy", (48, 40))
    ended, python = run_kit(phone, image), run_python(installed, image)
    assert sorted(lines_of(ended)[-3:]) == sorted(["ok", *lines_of(python)[:2]]), "the image comes after the times here"
    assert not list(phone.root.rglob("*.npy")), "the image is taken away again"
    rewritten(installed, lambda manifest: manifest["example"]["logits"][0].__setitem__(0, 9.0))
    ended = run_kit(phone, image)
    assert ended.code == 1 and "the logits of the stored example are off by" in ended.err and "ok" not in ended.out.splitlines()
    truncated(installed)
    assert "cut short or was changed" in refusal(run_kit(phone))


def test_run_py_says_what_is_missing(phone, tmp_path):
    assert "there is no file" in refusal(run_kit(phone, tmp_path / "no.png"))
    phone.program("pm", "exit 1")
    assert "the app is not on the device; build and install it" in refusal(run_kit(phone))
    phone.program("pm", PM)
    phone.program("am", "exit 0")
    phone.program("logcat", "echo '--------- beginning of main'")
    assert "the app did not end within 1 s" in refusal(run_kit(phone, "--seconds", 1))


# -- how it is built --------------------------------------------------------------------------------------------------------------------


def manifest_of_the_app():
    return ET.parse(host_kit.KIT / "src" / "main" / "AndroidManifest.xml").getroot()


def test_the_app_asks_for_no_permission_and_its_activity_is_there():
    android = "{http://schemas.android.com/apk/res/android}"
    root = manifest_of_the_app()
    assert not [each.tag for each in root.iter() if "permission" in each.tag]
    (activity,) = root.iter("activity")
    name = activity.get(f"{android}name")
    assert (host_kit.KIT / "src" / "main" / "java" / (name.replace(".", "/") + ".java")).is_file() and name == f"{APP}.MainActivity"
    assert root.find("application").get(f"{android}largeHeap") == "true" and not list(root.iter("service")) and not list(root.iter("provider"))


def test_androids_own_linker_takes_the_manifest(tmp_path):
    resources = os.environ.get(host_kit.ANDROID) or "/usr/share/android-framework-res/framework-res.apk"
    if shutil.which("aapt2") is None or not Path(resources).is_file():
        pytest.skip("needs aapt2 and the framework's resources (packages aapt and android-framework-res)")
    text = (host_kit.KIT / "src" / "main" / "AndroidManifest.xml").read_text()
    (tmp_path / "AndroidManifest.xml").write_text(text.replace("<manifest ", f'<manifest package="{APP}" '))  # which Gradle takes from `namespace`
    command = ["aapt2", "link", "-o", tmp_path / "a.apk", "-I", resources, "--manifest", tmp_path / "AndroidManifest.xml"]
    done = subprocess.run([*command, "--min-sdk-version", "24", "--target-sdk-version", "29"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and (tmp_path / "a.apk").is_file(), done.stderr


def test_the_files_of_gradle_and_the_workflow_name_the_same_things():
    build = (host_kit.KIT / "build.gradle").read_text()
    assert all(text.count("{") == text.count("}") and text.count("(") == text.count(")") for text in (build, (host_kit.KIT / "settings.gradle").read_text()))
    assert f"namespace '{APP}'" in build and f"applicationId '{APP}'" in build
    (pinned,) = re.findall(r"getOrElse\('(\d+\.\d+\.\d+)'\)", build)
    workflow = WORKFLOW.read_text()
    assert f'ONNXRUNTIME: "{pinned}"' in workflow and "onnxruntime-android:$onnxruntime" in build
    least = re.search(r"minSdk (\d+)", build)[1]
    assert int(least) == 24 and "Android 7 or newer" in " ".join(run_toml()["requires"])
    assert all(path.read_text().splitlines()[0] == "package org.hwnas.kit;" for path in host_kit.SOURCES.glob("*.java"))


def run_toml():
    from hwnas.files import read_toml

    return read_toml(host_kit.KIT / "kit.toml")


def test_two_classes_alone_are_androids():
    everything, plain = host_kit.sources(android=True, onnxruntime=True), host_kit.sources(onnxruntime=True)
    assert {path.name for path in everything} - {path.name for path in plain} == {"MainActivity.java", "Phone.java"}


def test_the_classes_of_android_compile_with_its_own(tmp_path):
    jar, found = os.environ.get(host_kit.ANDROID, ""), host_kit.runtime()
    if not Path(jar).is_file() or not jar:
        pytest.skip(f"{host_kit.ANDROID} does not name the android.jar of API 31 or newer, which no package has")
    if found is None:
        pytest.skip(f"{host_kit.RUNTIME} does not name the folder of ONNX Runtime for Java, which no package has")
    host_kit.compiled(tmp_path, host_kit.sources(android=True, onnxruntime=True), os.pathsep.join([jar, found[0]]))


def test_the_kit_is_copied_whole_without_what_a_build_leaves(tmp_path, monkeypatch):
    from hwnas import kit

    shutil.copytree(host_kit.KIT, tmp_path / "export" / "android")
    (tmp_path / "export" / "android" / "build").mkdir()
    (tmp_path / "export" / "android" / "build" / "big.apk").write_bytes(b"x")
    (tmp_path / "export" / "android" / ".gradle").mkdir()
    (tmp_path / "export" / "android" / ".gradle" / "lock").write_bytes(b"x")
    monkeypatch.setattr(kit, "shipped", lambda folder: tmp_path / folder)
    copies = {path.relative_to(tmp_path / "out" / "android").as_posix() for path in copy_kit("android", tmp_path / "out")}
    assert not [name for name in copies if name.startswith(("build/", "."))]
    assert {f"src/main/java/org/hwnas/kit/{path.name}" for path in host_kit.SOURCES.glob("*.java")} <= copies
    assert {"build.gradle", "gradle.properties", "settings.gradle", "src/main/AndroidManifest.xml", "run.py", "README.md", "kit.toml"} <= copies
