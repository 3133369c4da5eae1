"""Emulated devices: an agent for arm64, run for real by qemu-user, whose numbers no command takes for measured ones."""

import platform
from dataclasses import replace
from pathlib import Path

import adbd as phones
import native_agents
import pytest
from commands import here
from simulated_tables import simulated_table
from test_profiling_agent import AGENT, HELLO, LOCALHOST, conv_model
from test_profiling_session import small_space

from hwnas.errors import DamagedFile, InputError
from hwnas.index import BlockIndex
from hwnas.latency_table import LatencyTable
from hwnas.predictors.calibrated import assess, calibrated
from hwnas.profiling import check
from hwnas.profiling.agent import Burst, Identity, started_agent
from hwnas.profiling.protocol import Visit
from hwnas.profiling.runtimes.onnxruntime import onnxruntime
from hwnas.profiling.session import profile
from hwnas.profiling.transports.local import local
from hwnas.profiling.window import measure_window
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.table_merge import merged

EMULATED = "is emulated by qemu-aarch64-static: its times say nothing about any device, and "


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return native_agents.arm64(tmp_path_factory.mktemp("arm64"))


@pytest.fixture(scope="module")
def arm64(made, tmp_path_factory):
    """A phone's processor, as far as qemu-user goes."""
    return replace(LOCALHOST, name="arm64", agent=str(made.local(tmp_path_factory.mktemp("local") / "agent")))


@pytest.fixture(scope="module")
def emulated_table(arm64, tmp_path_factory):
    folder = tmp_path_factory.mktemp("emulated") / "table"
    return profile(BlockIndex(small_space()), arm64, folder, visits=1, networks=0), folder


def test_an_agent_for_arm64_runs_models_and_says_what_runs_it(arm64):
    with started_agent(arm64, onnxruntime(), threads=1, seed=0) as agent:
        agent.load("conv", conv_model())
        (visit,) = agent.visit(["conv"], {"conv": Burst(1, 3)})
        identity = agent.identity
    assert len(visit.ns) == 3
    assert (identity.system["arch"], identity.emulated, identity.origin) == ("aarch64", "qemu-aarch64-static", "emulated")
    assert identity.system["processor"].endswith("(implementer 0x41, parts 0xd08)")
    assert identity.options["emulated"] == "qemu-aarch64-static" and "emulated qemu-aarch64-static" in identity.facts["options"]


def test_the_same_is_pushed_to_a_phone_and_run_there_over_adb(made, tmp_path, monkeypatch):
    phones.require()
    (tmp_path / "adb").mkdir()
    bridge, phone = phones.Bridge(tmp_path / "adb"), phones.Adbd(tmp_path / "phone", prefix=made.emulator)
    for name, value in bridge.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ADB_SERVER_SOCKET", raising=False)
    try:
        bridge.connect(phone)
        with started_agent(phone.device(agent=str(made.agent)), onnxruntime(), threads=1, seed=0) as agent:
            agent.load("conv", conv_model())
            (visit,) = agent.visit(["conv"], {"conv": Burst(1, 3)})
            assert len(visit.ns) == 3
            assert (agent.identity.system["arch"], agent.identity.emulated, agent.identity.origin) == ("aarch64", "qemu-aarch64-static", "emulated")
        assert not phone.surprises
    finally:
        phone.stop()
        bridge.stop()


def test_outputs_on_arm64_are_checked_as_anywhere(arm64):
    connection = local().start(arm64, AGENT)
    assert connection.ask(HELLO, seconds=120)["ok"]
    model = conv_model()[:-20]
    assert "INVALID_PROTOBUF" in connection.ask({"op": "load", "item": "cut", "bytes": len(model)}, model, seconds=120)["error"]
    connection.close()


def test_a_profile_of_an_emulated_device_is_a_table_that_says_so(emulated_table):
    table, folder = emulated_table
    assert table.origin == "emulated" and table.conditions.emulated == "qemu-aarch64-static"
    assert "aarch64" in (folder / "table.toml").read_text()
    code, out, _ = here("table", "show", folder)
    assert code == 0 and "6 blocks emulated" in out


def test_no_command_takes_an_emulated_table_for_a_measured_one(emulated_table, tmp_path):
    _, folder = emulated_table
    search = ("search", tmp_path / "run", "--table", folder, "--latency", "<= 1ms p50", "--space", "ofa_mini")
    accuracy = tmp_path / "accuracy.py"
    lines = ("from hwnas.costs import macs", "from hwnas.predictor import Additive", "def best(index):")
    accuracy.write_text("\n".join([*lines, "    return Additive(index, macs(index.blocks), name='a', unit='%')"]))
    for arguments, consequence in (
        ((*search, "--accuracy", f"{accuracy}:best"), "no budget is priced by them"),
        (("table", "merge", folder, folder, "--to", tmp_path / "merged"), "they are not merged with others"),
        (("table", "export", folder, "--dialect", "ofa", "--to", tmp_path / "table.yaml"), "they are not written where nothing would say so"),
    ):
        code, _, error = here(*arguments)
        assert code == 2 and EMULATED + consequence in " ".join(error.split()), error
    assert not any((tmp_path / name).exists() for name in ("run", "merged", "table.yaml"))


def test_nothing_is_certified_on_an_emulated_device(arm64):
    with pytest.raises(InputError, match=f"arm64 {EMULATED}nothing is certified by them"):
        measure_window([conv_model()], arm64, seconds=0.1)


def test_a_check_says_that_the_device_is_emulated():
    identity = Identity("onnxruntime", "1", {"emulated": "qemu-aarch64-static"}, {}, "ab" * 32)
    visits = [Visit("anchor", (1000, 1010), 100, 100, 0, 2010, 2010, 0, 0, 0)] * 10
    found = check.assess(identity, {}, {}, visits, threads=1, seconds=1.0)
    assert found.advice[0].startswith("it is emulated by qemu-aarch64-static") and found.identity.origin == "emulated"


def test_a_profile_begun_on_a_processor_is_not_continued_on_an_emulator(monkeypatch, tmp_path):
    """The same agent, which is told that it is emulated."""
    index = BlockIndex(small_space())
    profile(index, LOCALHOST, tmp_path, visits=1, networks=0)
    (tmp_path / "table.toml").unlink()
    monkeypatch.setenv("HWNAS_EMULATED", "a machine of TCG")
    with pytest.raises(InputError, match="was profiled with options ="):
        profile(index, LOCALHOST, tmp_path, visits=1, networks=0)


@pytest.mark.parametrize("agent", ["Python", "C++"])
def test_an_emulator_that_cannot_be_noticed_may_be_named(agent, request, monkeypatch):
    device = LOCALHOST if agent == "Python" else replace(LOCALHOST, agent=str(request.getfixturevalue("native_agent")))
    monkeypatch.setenv("HWNAS_EMULATED", "a machine of TCG")
    with started_agent(device, onnxruntime(), threads=1, seed=0) as started:
        assert (started.identity.emulated, started.identity.origin) == ("a machine of TCG", "emulated")


@pytest.mark.skipif(not Path("/proc/self/exe").exists(), reason="this system has no /proc")
def test_the_agent_in_python_tells_programs_of_other_processors_apart(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(AGENT.parent)
    import agent_contract

    elf = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00"
    arm, x86, script = tmp_path / "arm", tmp_path / "x86", tmp_path / "script"
    arm.write_bytes(elf + b"\xb7\x00" + bytes(44))
    x86.write_bytes(elf + b"\x3e\x00" + bytes(44))
    script.write_text("#!/bin/sh\n" * 3)
    machines = {path.name: agent_contract.machine_of(path) for path in (arm, x86, script, tmp_path / "none")}
    assert machines == {"arm": b"\xb7\x00", "x86": b"\x3e\x00", "script": None, "none": None}
    assert agent_contract.emulator() == ""
    monkeypatch.setattr(agent_contract.sys, "executable", str(x86 if platform.machine() in ("aarch64", "arm64") else arm))
    assert agent_contract.emulator().startswith("python"), "the program that really runs, whatever it says of itself"


# -- tables written by hand -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def index():
    return BlockIndex(ofa_mini(resolutions=(32,)))


def emulated(index):
    table = simulated_table(index, lambda total, layers, activations: total + 0.01)
    conditions = replace(table.conditions, options={"emulated": "qemu-aarch64-static"})
    return replace(table, origin="emulated", conditions=conditions)


def test_an_emulated_table_prices_no_budget_and_says_how_good_it_is_all_the_same(index):
    table = emulated(index)
    with pytest.raises(InputError, match=EMULATED + "no budget is priced by them; measure on the device itself"):
        calibrated(table, index)
    assert assess(table, index)["calibrated"]["mape"] < 0.01


def test_two_emulated_tables_are_not_merged(index):
    with pytest.raises(InputError, match="not merged with others"):
        merged(emulated(index), emulated(index))


def test_a_table_cannot_be_measured_and_emulated(index, tmp_path):
    replace(emulated(index), origin="measured").save(tmp_path)
    with pytest.raises(DamagedFile, match="the origin is measured, and the conditions say that the device was emulated by qemu-aarch64-static"):
        LatencyTable.load(tmp_path)
