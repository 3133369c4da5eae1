"""hwnas/profiling/transports/adb.py by the real `adb`, against a stand-in for a phone that speaks its protocol: whole profiles, and every fault."""

import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections import Counter
from pathlib import Path

import adbd as phones
import pytest
from agent_models import conv_model, greeted, recorded

from hwnas.data import shipped
from hwnas.device import Device
from hwnas.errors import ConnectionLost, InputError, MeasurementFailed, RunHeld
from hwnas.index import BlockIndex
from hwnas.latency_table import Failure, LatencyTable
from hwnas.profiling.agent import started_agent
from hwnas.profiling.runtimes.onnxruntime import onnxruntime
from hwnas.profiling.session import profile
from hwnas.profiling.transport import agent_source
from hwnas.profiling.transports import adb as module
from hwnas.profiling.transports.adb import adb
from hwnas.profiling.window import measure_window
from hwnas.spaces.ofa_mini import ofa_mini

AGENT = shipped("devices") / "agents" / "onnxruntime_agent.py"
PROGRAM = "hwnas_onnxruntime_agent"
HELLO = {"op": "hello", "contract": 2, "threads": 1, "seed": 0}
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@pytest.fixture(scope="module")
def bridge(tmp_path_factory):
    phones.require()
    bridge = phones.Bridge(tmp_path_factory.mktemp("adb"))
    yield bridge
    bridge.stop()


@pytest.fixture(scope="module")
def one_phone(bridge, tmp_path_factory):
    phone = phones.Adbd(tmp_path_factory.mktemp("phone"))
    yield phone
    phone.stop()


@pytest.fixture
def phone(bridge, one_phone, monkeypatch):
    """A phone without faults, attached, of whose folder nothing is left afterwards; `adb` of this process speaks to the server of the tests."""
    for name, value in bridge.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ADB_SERVER_SOCKET", raising=False)
    bridge.connect(one_phone)
    yield one_phone
    one_phone.reset()
    assert not one_phone.surprises
    reattach(bridge, one_phone)
    assert ends(one_phone), "an agent is still there"
    assert list(one_phone.temporary.iterdir()) == [], "files are left on the phone"


@pytest.fixture(scope="module")
def index():
    return BlockIndex(ofa_mini(resolutions=(24,)))


@pytest.fixture
def program(tmp_path):
    """Make a folder with a program that is an agent; other files beside it."""

    def make(body, **others):
        folder = tmp_path / "program"
        folder.mkdir()
        (folder / PROGRAM).write_text(body)
        for name, text in others.items():
            (folder / name).write_text(text)
        return str(folder)

    return make


def reattach(bridge, phone, state="device"):
    """As after plugging it in again."""
    bridge.disconnect()
    bridge.connect(phone, state)


def ends(phone):
    """Whether nothing of it runs any more, waiting for that."""
    for _ in range(200):
        if not phone.processes():
            return True
        time.sleep(0.05)
    return False


def python(phone, **fields):
    return phone.device(python=sys.executable, **fields)


def failure(device, kind=MeasurementFailed):
    with pytest.raises(kind) as caught, started_agent(device, onnxruntime(), threads=1, seed=0):
        pass
    sentence = str(caught.value)
    assert "phone" in sentence and "\n" not in sentence and "Traceback" not in sentence and (kind is ConnectionLost) == isinstance(caught.value, ConnectionLost)
    return sentence


def variant(tmp_path, body):
    """The real agent, with something changed."""
    path = tmp_path / "variant.py"
    path.write_text(agent_source(AGENT).decode().partition('if __name__ == "__main__":')[0] + body + "\nmain(OnnxRuntime())\n")
    return path


def started(device, path):
    connection = adb().start(device, path)
    assert connection.ask(HELLO, seconds=60)["ok"] is True
    return connection


# -- what a device's file may say -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["", "0A1B2C3D", "emulator-5554", "192.168.1.5:5555", "[fe80::1%wlan0]:5555", "adb-0A1B-xYz._adb-tls-connect._tcp"])
def test_a_serial_as_adb_shows_it_is_an_address(address):
    adb().check(Device("phone", "a phone", "cpu", "adb", ("onnxruntime",), 1, address))


@pytest.mark.parametrize("address", ["-s", "a b", "a;reboot", "$(reboot)", "`reboot`", "a\n", "a" * 129, "usb/1", "../x", "a'", 'a"', "é", "%a"])
def test_what_is_no_serial_is_refused(address):
    with pytest.raises(InputError, match="is no serial number of a device"):
        adb().check(Device("phone", "a phone", "cpu", "adb", ("onnxruntime",), 1, address))


def test_a_program_with_an_interpreter_is_refused():
    with pytest.raises(InputError, match="phone names both an agent's folder and a python"):
        adb().check(Device("phone", "a phone", "cpu", "adb", ("onnxruntime",), python="python3", agent="/agents"))


def test_a_missing_adb_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="needs the program adb, which is not installed here"):
        adb().start(Device("phone", "a phone", "cpu", "adb", ("onnxruntime",)), AGENT)


# -- what works -----------------------------------------------------------------------------------------------------------------------


def test_the_agent_runs_on_the_phone(phone):
    identity = greeted(python(phone))
    assert identity.runtime == "onnxruntime" and identity.system["cores"] == os.cpu_count() and "cores" not in identity.options


def test_the_only_phone_needs_no_address(phone):
    assert greeted(python(phone, address="")).runtime == "onnxruntime"


@pytest.fixture(params=["sh", "mksh", "bash", "busybox"])
def shell(request, phone, monkeypatch):
    """The phone's shell is that one. Android's is mksh."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    phone.program("shell", f'exec {shutil.which(request.param)} {"sh" if request.param == "busybox" else ""} "$@"')
    monkeypatch.setattr(phone, "shell", str(phone.root / "bin" / "shell"))


def test_any_shell_runs_it(phone, shell):
    assert greeted(python(phone)).runtime == "onnxruntime"


def test_what_the_shell_prints_first_is_skipped(phone, monkeypatch):
    phone.program("shell", """echo Welcome; echo '{"ok": true}'; printf 'no newline: '; echo 'to standard error' >&2; exec /bin/sh "$@" """)
    monkeypatch.setattr(phone, "shell", str(phone.root / "bin" / "shell"))
    assert greeted(python(phone)).runtime == "onnxruntime"


def test_every_byte_arrives_as_it_is(phone, program):
    """Line ends, an escape sequence of terminals, end-of-file characters, and more than adb carries at once."""
    lines = [
        f"#!{sys.executable}",
        "import sys, json, hashlib",
        "for line in sys.stdin.buffer:",
        "    data = sys.stdin.buffer.read(json.loads(line)['bytes'])",
        "    print(json.dumps({'ok': True, 'sha256': hashlib.sha256(data).hexdigest()}), flush=True)",
    ]
    connection = adb().start(phone.device(agent=program("\n".join(lines))), AGENT)
    for payload in (bytes(range(256)), b"\r\n~.\n\x03\x04\x1a\xff\0" * 300_000, b""):
        answer = connection.ask({"op": "load", "bytes": len(payload)}, payload, seconds=60)
        assert answer["sha256"] == hashlib.sha256(payload).hexdigest()
    connection.close()


def test_a_program_runs_beside_its_libraries(phone, program):
    """The real agent as one executable file; a file beside it is found by the linker's path, and hashed with it."""
    source = (
        agent_source(AGENT).decode().replace('"arch": platform', '"beside": (Path(os.environ["LD_LIBRARY_PATH"]) / "libmore.so").read_text(), "arch": platform')
    )
    folder = program(f"#!{sys.executable}\n{source}", **{"libmore.so": "here"})
    identity = greeted(phone.device(agent=folder))
    assert identity.system["beside"] == "here" and identity.options["provider"] == "CPUExecutionProvider"
    (Path(folder) / "libmore.so").write_text("now")
    assert greeted(phone.device(agent=folder)).agent_sha256 != identity.agent_sha256 != greeted(python(phone)).agent_sha256


def test_a_program_for_arm_is_run_by_what_the_stand_in_is_told(bridge, phone, program, tmp_path):
    """The hook for emulators: here a script stands for one, and says what it was given."""
    emulator = tmp_path / "emulator"
    emulator.write_text(f"#!/bin/sh\ntest $1 = -L && test -x $3 && exec '{sys.executable}' -c 'input(); print(\"emulated\")'\n")
    emulator.chmod(0o755)
    other = phones.Adbd(tmp_path / "arm", prefix=(str(emulator), "-L", "/root"))
    bridge.connect(other)
    folder = program("")
    (Path(folder) / PROGRAM).write_bytes(b"\x7fELF\2\1\1" + bytes(9) + (2).to_bytes(2, "little") + (183).to_bytes(2, "little") + bytes(44))
    (Path(folder) / PROGRAM).chmod(0o755)
    with pytest.raises(MeasurementFailed, match="answered 'hello' with b'emulated"):
        connection = adb().start(other.device(agent=folder), AGENT)
        try:
            connection.ask(HELLO, seconds=60)
        finally:
            connection.close()
    other.stop()


@pytest.mark.skipif(len(CORES) < 2 or shutil.which("taskset") is None, reason="needs two cores and taskset (util-linux)")
def test_cores_are_kept_to_and_recorded(phone):
    identity = greeted(python(phone, cores=str(CORES[1])))
    assert identity.options["cores"] == identity.system["affinity"] == str(CORES[1])
    assert greeted(python(phone)).facts["options"] != identity.facts["options"], "tables of other cores are other tables"


@pytest.mark.skipif(len(CORES) < 2 or shutil.which("taskset") is None, reason="needs two cores and taskset (util-linux)")
def test_tables_of_different_cores_are_not_mixed(phone, index, tmp_path):
    """Neither in what was begun, nor where a table is complete."""

    def stop(stage, done, total):
        raise KeyboardInterrupt

    first, second = (python(phone, cores=str(core)) for core in CORES[:2])
    with pytest.raises(KeyboardInterrupt):
        profile(index, first, tmp_path, visits=1, networks=0, progress=stop)
    with pytest.raises(InputError, match=rf"was profiled with options = .*cores {CORES[0]}, .*, and now it is .*cores {CORES[1]}, "):
        profile(index, second, tmp_path, visits=1, networks=0)
    profile(index, first, tmp_path, visits=1, networks=0)
    with pytest.raises(InputError, match=f"was profiled with cores = {CORES[0]}, and now it is {CORES[1]}"):
        profile(index, second, tmp_path, visits=1, networks=0)


def test_a_profile_over_adb_is_a_table_like_any_other(phone, index, tmp_path):
    table = profile(index, python(phone), tmp_path, visits=1, networks=8)
    assert (table.origin, table.conditions.device) == ("measured", "phone")
    assert len({visit.item for visit in recorded(tmp_path).visits if visit.item[0] == "n"}) == 8  # of which a busy machine leaves some out of the table
    assert not [entry for entry in table.entries.values() if isinstance(entry, Failure)]


def test_the_window_of_verify_works_over_adb(phone):
    window = measure_window([conv_model(4), conv_model(16)], python(phone), seconds=1.0, min_visits=9)
    assert window.conditions.device == "phone" and [row.runs > 0 for row in window.rows] == [True, True]


def test_two_commands_on_one_phone_exclude_each_other(phone):
    phone.environment["HWNAS_LEASE"] = f"test-{os.getpid()}-{phone.port}"
    with started_agent(python(phone), onnxruntime(), threads=1, seed=0), pytest.raises(RunHeld, match=f"phone is being measured by .*process {os.getpid()}"):
        greeted(python(phone))


def test_what_a_phone_kept_for_more_than_a_day_is_removed(phone):
    old, young = phone.temporary / "hwnas-0123", phone.temporary / "hwnas-4567"
    for path in (old, young):
        path.mkdir()
        (path / "agent").write_text("left when the phone was switched off")
    os.utime(old, (0, 0))
    greeted(python(phone))
    assert not old.exists() and young.exists()
    shutil.rmtree(young)


# -- what keeps it from starting ------------------------------------------------------------------------------------------------------


def test_no_phone_is_a_sentence(bridge, phone):
    bridge.disconnect()
    assert "phone cannot be reached: no device is attached; turn on its USB debugging" in failure(python(phone, address=""))
    assert f"phone ({phone.serial}) cannot be reached: it is not attached (no device is attached); connect it with: adb connect" in failure(python(phone))


def test_of_several_phones_one_is_to_be_named(bridge, phone, tmp_path):
    other = phones.Adbd(tmp_path / "other")
    bridge.connect(other)
    sentence = failure(python(phone, address=""), InputError)
    assert re.search(r"2 devices are attached \(.*, .*\): say in the file of 'phone' which one it is", sentence)
    assert "it is not attached (attached are " in failure(python(phone, address="0A1B2C3D"))
    other.stop()


def test_a_phone_that_does_not_trust_this_computer_says_so_until_its_owner_agrees(bridge, phone):
    phone.authentication = "refuse"
    reattach(bridge, phone, "unauthorized")
    assert "does not trust this computer yet: unlock it, and allow debugging in the dialog that it shows" in failure(python(phone))
    phone.authentication = "accept"
    reattach(bridge, phone)
    assert greeted(python(phone)).runtime == "onnxruntime" and len(phone.keys) == 1
    phone.authentication = "refuse"  # a key that it knows is enough
    reattach(bridge, phone)
    assert greeted(python(phone)).runtime == "onnxruntime"


def test_a_phone_that_is_offline_is_a_sentence(bridge, phone):
    phone.offline = True
    phone.drop()
    for _ in range(200):
        if bridge.states().get(phone.serial) == "offline":
            break
        time.sleep(0.05)
    assert f"phone ({phone.serial}) cannot be reached: it is offline: plug it in again" in failure(python(phone))


def test_an_old_adbd_is_refused(bridge, phone):
    phone.features = ("cmd",)
    reattach(bridge, phone)
    assert "has an adbd without shell_v2 (Android before 7), over which neither clean bytes nor exit codes come" in failure(python(phone))


def test_a_full_phone_is_a_sentence(phone):
    phone.disk_bytes = 1_000
    assert re.search(r"has no place for the agent's [\d,]+ bytes in /data/local/tmp: free some of its storage", failure(python(phone)))


def test_a_phone_that_runs_no_files_is_a_sentence(phone, program):
    phone.no_execute = True
    phone.program("chmod", ":")
    assert "Permission denied; its system does not let adb's user run files in /data/local/tmp" in failure(phone.device(agent=program("#!/bin/sh\n")))


def test_a_folder_that_cannot_be_made_is_a_sentence(phone):
    phone.program("mkdir", "echo 'mkdir: cannot create directory: Read-only file system' >&2; exit 1")
    assert "cannot take an agent: mkdir: cannot create directory: Read-only file system" in failure(python(phone))


def test_a_program_for_another_processor_is_a_sentence(phone, program):
    sentence = failure(phone.device(agent=program("#!/no/such/linker\n")))
    assert re.search(rf"cannot run '{PROGRAM}': .*not found; it must be a program for the phone's processor and for Android", sentence)


def test_a_missing_python_is_a_sentence(phone):
    assert re.search(r"cannot run 'python9': .*not found; a phone has no Python of its own", failure(phone.device(python="python9")))


def test_cores_that_there_are_not_are_a_sentence(phone):
    if shutil.which("taskset") is None:
        pytest.skip("needs taskset (util-linux)")
    assert "cannot run anything on cores 1023 alone: taskset: " in failure(python(phone, cores="1023"))
    phone.program("taskset", 'shift; exec "$@"')  # as where the system overrules it
    assert "the agent was started on cores 1023 and says that it runs on" in failure_of_agent(phone)


def failure_of_agent(phone):
    with pytest.raises(MeasurementFailed) as caught, started_agent(python(phone, cores="1023"), onnxruntime(), threads=1, seed=0):
        pass
    return str(caught.value)


def test_a_shell_that_never_stops_printing_is_refused(phone, monkeypatch):
    phone.program("shell", 'case "$2" in *"exec 3"*) yes welcome;; *) exec /bin/sh "$@";; esac')
    monkeypatch.setattr(phone, "shell", str(phone.root / "bin" / "shell"))
    assert "prints without end before anything is run" in failure(python(phone))


def test_a_program_that_prints_before_it_answers_is_refused(phone, program):
    body = f"#!{sys.executable}\nprint('loading the model ...', flush=True)\nimport sys\nsys.stdin.read()\n"
    assert "answered 'hello' with b'loading the model ...\\n', which is not of its contract" in failure(phone.device(agent=program(body)))


@pytest.mark.parametrize("port", ["99999", "none"])
def test_a_server_that_cannot_start_is_a_sentence(phone, port, monkeypatch):
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", port)
    assert re.search(r"adb's server cannot be started or reached: .*ANDROID_ADB_SERVER_PORT.*; try: adb devices", failure_without_name(python(phone)))


def failure_without_name(device, kind=MeasurementFailed):
    with pytest.raises(kind) as caught:
        adb().start(device, AGENT)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_server_of_another_version_is_not_ended(phone, monkeypatch):
    """`adb` itself ends it at once; so it must not be run."""
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)

        def serve():
            link, _ = server.accept()
            heard.append(link.recv(100))
            link.sendall(b"OKAY00040020")
            link.close()

        thread = threading.Thread(target=serve)
        thread.start()
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.getsockname()[1]))
        sentence = failure_without_name(python(phone), InputError)
        thread.join()
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()
    assert heard == [b"000chost:version"] and "is of version 1.0.32, and " in sentence and "would end it" in sentence


def test_a_server_is_started_where_none_runs_and_left_running(phone, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
    assert "no device is attached" in failure_without_name(python(phone))
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    finally:
        subprocess.run(["adb", "kill-server"], check=True, timeout=60)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), f"is no folder with an agent: there must be a program named {PROGRAM} in it"),
        ((PROGRAM, "a b"), "cannot be part of an agent"),
        ((PROGRAM, "folder/"), "cannot be part of an agent"),
        ((PROGRAM, "link"), "cannot be part of an agent"),
        ((PROGRAM, *(f"lib{i}.so" for i in range(64))), "has 65 files of .* an agent has at most 64"),
    ],
)
def test_a_folder_that_is_none_of_an_agent_is_refused_before_adb_is_asked(tmp_path, names, words):
    """No file of a device can have another folder of this machine sent to it."""
    folder = tmp_path / "agent"
    folder.mkdir()
    for name in names:
        path = folder / name
        path.symlink_to("/etc/passwd") if name == "link" else path.mkdir() if name[-1] == "/" else path.write_text("")
    with pytest.raises(InputError, match=words):
        adb().start(Device("phone", "a phone", "cpu", "adb", ("onnxruntime",), agent=str(folder)), AGENT)


# -- what breaks it in between --------------------------------------------------------------------------------------------------------


def test_a_dropped_link_is_continued_and_nothing_is_measured_twice(bridge, phone, index, tmp_path):
    def drop(stage, done, total):
        if stage == "measure" and done > 0:
            phone.bytes_until_drop = 2_000  # in the middle of the next requests

    with pytest.raises(ConnectionLost, match=rf"the connection to phone \({phone.serial}\) was lost during 'run'.*; the same command goes on where it was"):
        profile(index, python(phone), tmp_path, visits=2, networks=8, progress=drop)
    before = recorded(tmp_path)
    assert before.visits and not before.failures
    reattach(bridge, phone)
    table = profile(index, python(phone), tmp_path, visits=2, networks=8)
    after = recorded(tmp_path)
    assert after.visits[: len(before.visits)] == before.visits
    made = Counter(visit.item for visit in after.visits)
    assert all(2 <= made[item] <= 4 for item in made)
    assert len(made) == len(table.entries) + 8 and not after.failures


def test_a_link_that_drops_while_files_are_pushed_is_no_fault_of_theirs(phone, program):
    folder = program("#!/bin/sh\n", **{"libmore.so": "x" * 3_000_000})
    phone.bytes_until_drop = 1_000_000
    sentence = failure(phone.device(agent=folder), ConnectionLost)
    assert re.search(r"the connection to phone .* was lost during 'start', and it is .* now: connect it again; the same command", sentence)
    shutil.rmtree(next(phone.temporary.iterdir()))  # nothing could be removed over a broken link: it is removed a day later


def test_a_link_that_drops_ends_the_agent_there_whatever_the_shell(phone, shell):
    with pytest.raises(ConnectionLost), started_agent(python(phone), onnxruntime(), threads=1, seed=0) as agent:
        assert phone.processes()
        phone.drop()
        agent.load("a", conv_model())
    assert ends(phone)


def test_a_link_that_falls_silent_is_told_from_an_agent_that_hangs(bridge, phone, monkeypatch):
    """Nothing closes it, as when the phone leaves the network."""
    monkeypatch.setattr(module, "_ANSWER_S", 1.0)
    connection = started(python(phone), AGENT)
    phone.silent(True)
    with pytest.raises(ConnectionLost, match=r"was lost during 'look'; the same command goes on"):
        connection.ask({"op": "look"}, seconds=1)
    connection.close()
    with pytest.raises(ConnectionLost, match=r"phone .* does not answer: 'adb shell' did not end within 1 s"):
        module.Adb(python(phone)).run("shell", "-T", "true", seconds=1.0)
    phone.silent(False)


def test_an_agent_that_hangs_is_ended_on_both_sides(phone, tmp_path):
    connection = started(python(phone), variant(tmp_path, "def hang(self, request):\n    while True: pass\nAgent.run = hang"))
    with pytest.raises(MeasurementFailed, match=r"the agent on phone \(.*\) did not answer 'run' within 2 s and was ended") as caught:
        connection.ask({"op": "run"}, seconds=2)
    assert not isinstance(caught.value, ConnectionLost)
    connection.close()
    assert ends(phone), "the hanging agent is still there"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            "Agent.load = lambda self, request: os.kill(os.getpid(), 9)",
            "agent on phone .* was killed during 'load': the phone had too little memory for it",
        ),
        ("Agent.load = lambda self, request: sys.stderr.write('no disk\\n') and os._exit(3)", "ended during 'load' with exit code 3: no disk"),
        ("Agent.load = lambda self, request: os.write(2, b'no line end') and os._exit(4)", "ended during 'load' with exit code 4: no line end$"),
        ("Agent.load = lambda self, request: os.abort()", "ended during 'load' with exit code 134"),
    ],
)
def test_an_agent_that_ends_is_quoted(phone, tmp_path, body, words):
    connection = started(python(phone), variant(tmp_path, body))
    with pytest.raises(MeasurementFailed, match=words) as caught:
        connection.ask({"op": "load", "item": "a", "bytes": 0}, seconds=60)
    assert not isinstance(caught.value, ConnectionLost)
    connection.close()


# -- commands -------------------------------------------------------------------------------------------------------------------------


def hwnas(*arguments, **environment):
    done = subprocess.run([sys.executable, "-m", "hwnas", *map(str, arguments)], capture_output=True, text=True, timeout=600, env={**os.environ, **environment})
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def test_a_phone_is_added_listed_checked_and_profiled_by_commands(phone, program, tmp_path):
    own = {"HWNAS_DEVICES": str(tmp_path / "devices")}
    folder = program(f"#!{sys.executable}\n{agent_source(AGENT).decode()}")
    cores = ("--cores", CORES[0]) if CORES and shutil.which("taskset") else ()
    code, out, error = hwnas("device", "add", "pixel", "--transport", "adb", "--address", phone.serial, "--agent", folder, *cores, **own)
    assert code == 0 and "next: hwnas device check pixel" in out, error
    written = tomllib.loads((tmp_path / "devices" / "pixel.toml").read_text())
    assert (written["transport"], written["address"], written["agent"]) == ("adb", phone.serial, folder)

    code, out, error = hwnas("device", "list", **own)
    assert code == 0 and re.search(r"pixel .*own .*adb .*onnxruntime", out), error
    code, out, error = hwnas("device", "check", "pixel", "--seconds", 1, **own)
    assert code == 0 and re.search(rf"reached by +.? *adb {phone.serial}", out) and (not cores or f"on {CORES[0]} as asked" in out), error

    space = ("--space", "ofa_mini(resolutions=(24,))", "--to", tmp_path / "table", "--visits", 1, "--networks", 0)
    code, out, error = hwnas("profile", "pixel", *space, **own)
    assert code == 0, error
    conditions = LatencyTable.load(tmp_path / "table").conditions
    assert conditions.device == "pixel" and (not cores or str(conditions).endswith(f"-1thread-cores{CORES[0]}"))
