"""hwnas/profiling/transports/ssh.py against a real sshd on loopback: whole profiles, and everything that a link and a board do to them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
import sshd as servers
from agent_models import conv_model, greeted, recorded

from hwnas.data import shipped
from hwnas.errors import ConnectionLost, InputError, MeasurementFailed, RunHeld
from hwnas.index import BlockIndex
from hwnas.latency_table import Failure, LatencyTable
from hwnas.profiling.agent import started_agent
from hwnas.profiling.runtimes.onnxruntime import onnxruntime
from hwnas.profiling.session import profile
from hwnas.profiling.transport import agent_source
from hwnas.profiling.transports import ssh as module
from hwnas.profiling.transports.ssh import Target, ssh
from hwnas.profiling.window import measure_window
from hwnas.spaces.ofa_mini import ofa_mini

AGENT = shipped("devices") / "agents" / "onnxruntime_agent.py"
HELLO = {"op": "hello", "contract": 2, "threads": 1, "seed": 0}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    servers.require()
    server = servers.Sshd(tmp_path_factory.mktemp("sshd"))
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def quiet_login(request, monkeypatch):
    """Each test begins with a login that prints nothing, and with the client's own configuration."""
    if "server" in request.fixturenames:
        server = request.getfixturevalue("server")
        server.login("")
        monkeypatch.setenv("HWNAS_SSH_CONFIG", str(server.config))


@pytest.fixture(scope="module")
def index():
    return BlockIndex(ofa_mini(resolutions=(24,)))


def failure(device):
    with pytest.raises(MeasurementFailed) as caught, started_agent(device, onnxruntime(), threads=1, seed=0):
        pass
    sentence = str(caught.value)
    assert "pi4" in sentence and "\n" not in sentence and "Traceback" not in sentence
    return sentence


# -- addresses ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "target", "arguments"),
    [
        ("pi", Target("pi"), ["--", "pi"]),
        ("me@pi.local", Target("pi.local", "me"), ["-l", "me", "--", "pi.local"]),
        ("ssh://me@pi:2222", Target("pi", "me", 2222), ["-p", "2222", "-l", "me", "--", "pi"]),
        ("ssh://pi", Target("pi"), ["--", "pi"]),
        ("ssh://pi:22/", Target("pi", None, 22), ["-p", "22", "--", "pi"]),
        ("me@[fe80::1]", Target("fe80::1", "me"), ["-l", "me", "--", "fe80::1"]),
        ("ssh://[::1]", Target("::1"), ["--", "::1"]),
        ("ssh://me@[::1]:2222", Target("::1", "me", 2222), ["-p", "2222", "-l", "me", "--", "::1"]),
    ],
)
def test_an_address_is_a_user_a_host_and_a_port(address, target, arguments):
    assert Target.parse(address) == target and target.arguments == arguments


@pytest.mark.parametrize(
    "address",
    [
        *("", "@pi", "me@", "a b", "me@-oProxyCommand=sh", "ssh://-oProxyCommand=sh", "-l@pi", "pi:22", "pi;reboot", "$(reboot)", "`reboot`@pi", "me@pi\n"),
        *("ssh://pi:0", "ssh://pi:65536", "ssh://pi:9999999999", "ssh://pi:22x", "ssh://pi:", "http://pi", "ssh://me@pi/etc", "me@%h", "[::1", "ssh://pi:٢٢"),
    ],
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(InputError, match="is no address for ssh"):
        Target.parse(address)


def test_a_device_without_an_address_is_refused():
    with pytest.raises(InputError, match="pi4 has transport 'ssh' and no address"):
        ssh().check(replace(servers.Sshd.device(None, address="x", python="python3"), address=""))


def test_the_command_line_means_the_same_in_every_shell():
    assert not set(module._loader("hwnas-0123")) & set('"$`\\!%\n')


def test_a_missing_program_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="needs the program ssh"):
        ssh().start(servers.Sshd.device(None, address="me@pi", python="python3"), AGENT)


def test_a_configuration_that_does_not_exist_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(module.shutil, "which", lambda name: name)
    monkeypatch.setenv("HWNAS_SSH_CONFIG", str(tmp_path / "nothing"))
    with pytest.raises(InputError, match=r"HWNAS_SSH_CONFIG names '.*nothing', which is no file"):
        ssh().start(servers.Sshd.device(None, address="me@pi", python="python3"), AGENT)


# -- what works -----------------------------------------------------------------------------------------------------------------------


def test_the_agent_runs_on_the_other_side(server):
    identity = greeted(server.device())
    assert identity.runtime == "onnxruntime" and identity.system["cores"] == os.cpu_count()


@pytest.mark.skipif(shutil.which("taskset") is None, reason="needs taskset (util-linux)")
def test_the_agent_is_kept_to_cores_over_there(server):
    core = str(max(os.sched_getaffinity(0)))
    identity = greeted(replace(server.device(), cores=core))
    assert identity.options["cores"] == identity.system["affinity"] == core


def test_an_alias_of_the_users_configuration_is_an_address(server):
    assert greeted(server.device(address="board")).runtime == "onnxruntime"


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "zsh", "ksh", "mksh", "fish", "tcsh"])
def test_any_shell_starts_it(server, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    server.login("", shell=shutil.which(shell))
    assert greeted(server.device()).runtime == "onnxruntime"


def test_a_path_below_home_is_found_by_the_shell_over_there(server):
    server.login(f"export HOME={server.folder}")
    assert greeted(server.device(python="~/python")).runtime == "onnxruntime"


def test_what_a_login_prints_is_skipped(server):
    server.login("echo Welcome to the board; echo '{\"ok\": true}'; printf 'no newline: '; echo 'to standard error' >&2")
    assert greeted(server.device()).runtime == "onnxruntime"


def test_no_file_is_written_on_the_device(server):
    """A limit of zero bytes for every file is stricter than a full disk."""
    limited = server.script("limited", f"ulimit -f 0\nexec '{sys.executable}' \"$@\"")
    assert greeted(server.device(python=limited)).runtime == "onnxruntime"


def test_modules_in_the_folder_one_logs_in_to_are_not_imported(server):
    home = server.folder / "home"
    home.mkdir(exist_ok=True)
    (home / "numpy.py").write_text("raise SystemExit('this is not numpy')")
    server.login(f"cd {home}")
    assert greeted(server.device()).runtime == "onnxruntime"


def test_a_profile_over_ssh_is_a_table_like_any_other(server, index, tmp_path):
    table = profile(index, server.device(), tmp_path, visits=1, networks=8)
    assert (table.origin, table.conditions.device) == ("measured", "pi4") and len(table.networks) <= 8, "a busy machine drops some"
    assert not [entry for entry in table.entries.values() if isinstance(entry, Failure)]
    assert server_is_idle(server)


def test_the_window_of_verify_works_over_ssh(server):
    window = measure_window([conv_model(4), conv_model(16)], server.device(), seconds=1.0, min_visits=9)
    assert window.conditions.device == "pi4" and [row.runs > 0 for row in window.rows] == [True, True]


def server_is_idle(server):
    """Whether the connections are gone, waiting for the server to notice."""
    for _ in range(600):
        if not server.connections():
            return True
        time.sleep(0.05)
    return False


# -- what keeps it from starting ------------------------------------------------------------------------------------------------------


def test_a_closed_port_is_a_sentence(server):
    device = server.device(address="ssh://me@127.0.0.1:1")
    assert re.search(r"pi4 \(me@127.0.0.1 port 1\) cannot be reached: .*Connection refused; no SSH server listens there", failure(device))


def test_a_host_that_has_no_address_is_a_sentence(server):
    assert re.search(r"cannot be reached: .*resolve.*; check the name", failure(server.device(address="me@no-such-host.invalid")))


def test_a_key_that_is_not_accepted_is_a_sentence(server, monkeypatch):
    monkeypatch.setenv("HWNAS_SSH_CONFIG", str(server.client_config("wrong_key", key="other_key")))
    assert re.search(r"cannot be reached: .*Permission denied .*; install a key .* until this works: ssh -F .* true", failure(server.device()))


def test_an_unknown_host_key_is_never_accepted_silently(server, monkeypatch):
    config = server.client_config("unknown", known="")
    monkeypatch.setenv("HWNAS_SSH_CONFIG", str(config))
    assert re.search(r"cannot be reached: Host key verification failed.*; its host key is not known here: compare and accept it once", failure(server.device()))
    assert (server.folder / "unknown.known_hosts").read_text() == ""


def test_a_changed_host_key_is_never_accepted(server, monkeypatch):
    other = f"[127.0.0.1]:{server.port} {(server.folder / 'other_key.pub').read_text()}"
    monkeypatch.setenv("HWNAS_SSH_CONFIG", str(server.client_config("changed", known=other)))
    assert f"is not the one that was accepted before: find out why, and only then forget the old one (ssh-keygen -R '[127.0.0.1]:{server.port}')" in failure(
        server.device()
    )


def test_a_missing_python_is_a_sentence(server):
    assert re.search(r"cannot run 'python9': .*not found; install Python 3.8 or newer there, or name the one it has", failure(server.device(python="python9")))


def test_a_python_that_may_not_be_run_is_a_sentence(server):
    path = server.script("no_program", "")
    path.chmod(0o644)
    if os.geteuid() == 0:
        path = server.folder  # root may run nothing that is no program, whatever its mode
    assert re.search(rf"cannot run '{path}'", failure(server.device(python=path)))


@pytest.mark.parametrize(("version", "words"), [("2.7.18", "Python 2.7"), ("3.6.9", "Python 3.6"), ("3.7.0rc1+", "Python 3.7")])
def test_an_old_python_is_told_before_it_sees_the_agent(server, version, words):
    program = server.script("old", f"exec '{sys.executable}' -c 'import sys; sys.version = \"{version} (main)\"; exec(sys.argv[2])' \"$@\"")
    assert f"is {words}, the agent needs 3.8 or newer; install one there" in failure(server.device(python=program))


def test_a_python_without_numpy_says_how_it_gets_it(server):
    program = server.script("bare", f"exec '{sys.executable}' -S \"$@\"")
    assert re.search(
        r"ended during 'hello' with exit code 1: No module named '\w+'; install .* -m pip install numpy onnxruntime", failure(server.device(python=program))
    )


def test_an_account_that_may_not_log_in_is_quoted(server):
    server.login("echo This account is currently not available.; exit 1")
    assert "ended the login with exit code 1 before" in failure(server.device())
    assert "This account is currently not available." in failure(server.device())


def test_a_login_that_never_stops_printing_is_refused(server):
    server.login("yes welcome")
    assert "prints without end when one logs in" in failure(server.device())


def test_a_login_that_asks_is_ended(server, monkeypatch):
    monkeypatch.setattr(module, "_LOGIN_S", 3.0)
    server.login("read answer")
    assert "the agent on pi4" in failure(server.device()) and server_is_idle(server)


# -- what breaks it in between --------------------------------------------------------------------------------------------------------


def test_a_dropped_link_is_continued_and_nothing_is_measured_twice(server, index, tmp_path):
    def drop(stage, done, total):
        if stage == "measure" and done > 0:  # by the second pass at the latest
            server.drop()

    with pytest.raises(ConnectionLost, match=r"the connection to pi4 \(.*\) was lost during 'run': .*; the same command goes on where it was"):
        profile(index, server.device(), tmp_path, visits=2, networks=8, progress=drop)
    before = recorded(tmp_path)
    assert before.visits and not before.failures
    table = profile(index, server.device(), tmp_path, visits=2, networks=8)
    after = recorded(tmp_path)
    assert after.visits[: len(before.visits)] == before.visits
    made = Counter(visit.item for visit in after.visits)
    assert all(made[item] == 2 if item[0] == "n" else 2 <= made[item] <= 4 for item in made)
    assert len(made) == len(table.entries) + 8 and not after.failures


def test_a_link_that_drops_while_a_block_is_loaded_is_no_fault_of_the_block_unless_it_drops_there_again(server, index, tmp_path):
    def drop(stage, done, total):
        if stage == "load" and done == 3:
            server.drop()
            assert server_is_idle(server)

    with pytest.raises(ConnectionLost, match="during 'load'"):
        profile(index, server.device(), tmp_path / "once", visits=1, networks=0, progress=drop)
    table = profile(index, server.device(), tmp_path / "once", visits=1, networks=0)
    assert not [entry for entry in table.entries.values() if isinstance(entry, Failure)]

    with pytest.raises(ConnectionLost):
        profile(index, server.device(), tmp_path / "twice", visits=1, networks=0, progress=drop)
    with pytest.raises(MeasurementFailed, match="which the same command leaves out the next time"):
        profile(index, server.device(), tmp_path / "twice", visits=1, networks=0, progress=drop)
    assert set(recorded(tmp_path / "twice").failures) == {"e3"}


@pytest.mark.slow
def test_a_link_that_falls_silent_is_noticed(server):
    """Nothing closes it, as when a cable is pulled."""
    with pytest.raises(ConnectionLost, match="not responding"), started_agent(server.device(), onnxruntime(), threads=1, seed=0) as agent:
        server.drop(signal.SIGSTOP)
        agent.load("a", conv_model())
    server.drop()


def variant(tmp_path, body):
    """The real agent, with something changed."""
    path = tmp_path / "variant.py"
    path.write_text(agent_source(AGENT).decode().partition('if __name__ == "__main__":')[0] + body + "\nmain(OnnxRuntime())\n")
    return path


def started(server, path):
    connection = ssh().start(server.device(), path)
    assert connection.ask(HELLO, seconds=60)["ok"] is True
    return connection


def test_an_agent_that_hangs_is_ended_on_both_sides(server, tmp_path):
    pid = tmp_path / "pid"
    hang = f"def hang(self, request):\n    Path({str(pid)!r}).write_text(str(os.getpid()))\n    while True: pass\nAgent.run = hang"
    connection = started(server, variant(tmp_path, hang))
    with pytest.raises(MeasurementFailed, match=r"the agent on pi4 \(.*\) did not answer 'run' within 2 s and was ended"):
        connection.ask({"op": "run", "seconds": 2}, seconds=2)
    connection.close()
    for _ in range(600):
        if not Path("/proc", pid.read_text()).exists():
            break
        time.sleep(0.05)
    assert not Path("/proc", pid.read_text()).exists(), "the hanging agent is still there"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("Agent.load = lambda self, request: os.kill(os.getpid(), 9)", "pi4 .* (was killed during 'load'|ended during 'load' with exit code 137)"),
        ("Agent.load = lambda self, request: sys.stderr.write('no disk\\n') and os._exit(3)", "ended during 'load' with exit code 3: no disk"),
    ],
)
def test_an_agent_that_ends_is_quoted(server, tmp_path, body, words):
    connection = started(server, variant(tmp_path, body))
    with pytest.raises(MeasurementFailed, match=words) as caught:
        connection.ask({"op": "load", "item": "a", "bytes": 0}, seconds=60)
    assert not isinstance(caught.value, ConnectionLost)
    connection.close()


# -- commands, and the lease ----------------------------------------------------------------------------------------------------------


def hwnas(*arguments, **environment):
    done = subprocess.run([sys.executable, "-m", "hwnas", *map(str, arguments)], capture_output=True, text=True, timeout=600, env={**os.environ, **environment})
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def test_a_device_is_added_checked_and_profiled_by_commands(server, tmp_path):
    own = {"HWNAS_DEVICES": str(tmp_path / "devices")}
    device = server.device()
    code, out, error = hwnas("device", "add", "bench", "--transport", "ssh", "--address", device.address, "--python", device.python, **own)
    assert code == 0 and "next: hwnas device check bench" in out, error
    assert tomllib.loads((tmp_path / "devices" / "bench.toml").read_text())["address"] == device.address

    code, out, error = hwnas("device", "check", "bench", "--seconds", 1, "--json", **own)
    found = json.loads(out)
    assert code == 0 and (found["device"], found["transport"], found["address"], found["origin"]) == ("bench", "ssh", device.address, "measured"), error
    assert found["visits"] > 0 and found["before"]["clock_step_ns"] > 0 and found["system"]["cores"] == os.cpu_count()
    code, out, error = hwnas("device", "check", "bench", "--seconds", 1, **own)
    assert code == 0 and "noise floor" in out and "next: hwnas profile bench" in out, error

    space = ("--space", "ofa_mini(resolutions=(24,))", "--to", tmp_path / "table", "--visits", 1, "--networks", 8)
    code, out, error = hwnas("profile", "bench", *space, **own)
    assert code == 0, error
    assert LatencyTable.load(tmp_path / "table").conditions.device == "bench"


def test_whoever_comes_second_is_told_who_measures_whichever_way_they_come(server, tmp_path):
    lease = f"test-{uuid4().hex[:8]}"
    server.login(f"export HWNAS_LEASE={lease}")
    space = ("--space", "ofa_mini(resolutions=(24,))", "--to", tmp_path, "--visits", 1)
    who = rf"\S+@\S+, process {os.getpid()}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    with started_agent(server.device(), onnxruntime(), threads=1, seed=0):
        code, _, error = hwnas("profile", "localhost", *space, HWNAS_LEASE=lease)
        assert code == 2 and re.search(rf"error: localhost is being measured by {who}; wait until it ends or stop it", error), error
        with pytest.raises(RunHeld, match=f"pi4 is being measured by {who}"), started_agent(server.device(), onnxruntime(), threads=1, seed=0):
            pass
    assert greeted(server.device()).runtime == "onnxruntime"  # free again
