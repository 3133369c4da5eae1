"""hwnas/device.py and devices/."""

import json
import sys
from pathlib import Path

import pytest

from hwnas import cli, registry
from hwnas.data import own_devices, shipped
from hwnas.device import Device, core_numbers, core_text, device_names, load_device, validate
from hwnas.errors import DamagedFile, InputError, UnknownName
from hwnas.verbs.device import add_device, list_devices

SHIPPED = sorted(path.stem for path in shipped("devices").glob("*.toml"))
GOOD = {"description": "a phone", "processor": "cpu", "transport": "local", "runtimes": ["onnxruntime"]}


@pytest.mark.parametrize("name", device_names())
def test_every_shipped_device_is_valid_and_its_runtimes_have_an_agent(name):
    device = load_device(name)
    assert device.name == name
    for runtime in device.runtimes:
        assert (shipped("devices") / "agents" / registry.create("profiling.runtimes", runtime).agent).is_file()


def test_this_machine_is_a_device_measured_with_one_thread():
    assert load_device("localhost") == Device("localhost", "this machine's CPU", "cpu", "local", ("onnxruntime", "torch"), 1)


def test_a_device_file_anywhere_is_named_by_its_file(tmp_path):
    path = tmp_path / "my_phone.toml"
    path.write_text('description = "a phone"\nprocessor = "cpu"\ntransport = "local"\nruntimes = ["onnxruntime"]\nthreads = 4\n')
    assert load_device(path) == load_device(str(path)) == Device("my_phone", "a phone", "cpu", "local", ("onnxruntime",), 4)


def test_an_unknown_device_suggests_a_near_name():
    with pytest.raises(UnknownName, match="no device named 'localhots'; did you mean 'localhost'"):
        load_device("localhots")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"description": ""}, "'description' must be a text"),
        ({"processor": 3}, "'processor' must be a text"),
        ({"runtimes": []}, "'runtimes' must be a list"),
        ({"runtimes": "onnxruntime"}, "'runtimes' must be a list"),
        ({"threads": 0}, "'threads' must be a whole number from 1 to 1024, got 0"),
        ({"threads": True}, "'threads' must be a whole number"),
        ({"address": "-oProxyCommand=sh"}, "'address' must be a text that does not begin with '-'"),
        ({"python": 3}, "'python' must be a name or path"),
        ({"agent": 3}, "'agent' must be the path of a folder"),
        ({"agent": "a\nb"}, "'agent' must be the path of a folder"),
        *(({"cores": value}, "'cores' must be a text of core numbers") for value in (7, "4-", "-4", "7-4", "4,,5", "big", "1024", "0x3", "4 5", "٤", [4])),
        ({"python": "a" * 201}, "'python' must be a name or path"),
        *(
            ({"python": text}, "'python' must be a name or path")
            for text in (
                "python3 -x",
                "-c",
                "/opt/my python",
                "p;reboot",
                "$(reboot)",
                "`reboot`",
                "a\nb",
                "a|b",
                "'p'",
                '"p"',
                "~root/p",
                "~",
                "/",
                "a//b",
                "p*",
                "a&b",
            )
        ),
    ],
)
def test_a_wrong_field_is_named(change, message):
    with pytest.raises(DamagedFile, match=message):
        validate(GOOD | change, "phone.toml")


@pytest.mark.parametrize(
    ("text", "same", "numbers"),
    [("7", "7", (7,)), ("4-7", "4-7", (4, 5, 6, 7)), ("7,4,5,6,6", "4-7", (4, 5, 6, 7)), ("0,2-3", "0,2-3", (0, 2, 3)), ("04-5", "4-5", (4, 5))],
)
def test_cores_have_one_way_to_be_written(text, same, numbers):
    assert core_numbers(text) == numbers and core_text(numbers) == same == validate(GOOD | {"cores": text}, "phone.toml").cores


def test_an_agents_folder_is_seen_from_the_devices_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    folders = {text: validate(GOOD | {"agent": text}, f"{tmp_path}/phone.toml").agent for text in ("../agents/arm64", "~/agents", "/agents")}
    assert folders == {"../agents/arm64": f"{tmp_path.resolve().parent}/agents/arm64", "~/agents": "/home/me/agents", "/agents": "/agents"}


@pytest.mark.parametrize(("change", "kind"), [({"transport": "pigeon"}, "transport"), ({"runtimes": ["onnxruntim"]}, "runtime")])
def test_what_a_device_needs_must_exist(change, kind):
    with pytest.raises(UnknownName, match=f"no {kind} named"):
        validate(GOOD | change, "phone.toml")


def test_a_device_name_cannot_be_a_path():
    with pytest.raises(DamagedFile, match="named by letters"):
        validate(GOOD, "..toml")


def test_a_file_that_is_no_toml_is_refused(tmp_path):
    path = tmp_path / "phone.toml"
    path.write_bytes(b"\xff\x00")
    with pytest.raises(DamagedFile, match="not UTF-8"):
        load_device(path)


@pytest.mark.parametrize("python", ["", "python3", "python3.12", "~/venv/bin/python", "/opt/py-3.8+x/bin/python", "venv/bin/python"])
def test_an_interpreter_is_a_plain_name_or_path(python):
    assert validate(GOOD | {"python": python}, "phone.toml").python == python


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The folder of the user's own devices, which does not exist yet."""
    monkeypatch.setenv("HWNAS_DEVICES", str(tmp_path / "own" / "devices"))
    return tmp_path / "own" / "devices"


def test_a_device_that_was_added_is_found_by_its_name(own):
    path = add_device("pi4", transport="ssh", address="ssh://me@pi:2222", python="~/venv/bin/python", threads=4)
    assert path == own / "pi4.toml"
    assert load_device("pi4") == Device("pi4", "ssh://me@pi:2222, over ssh", "cpu", "ssh", ("onnxruntime",), 4, "ssh://me@pi:2222", "~/venv/bin/python")
    assert device_names() == sorted([*SHIPPED, "pi4"])
    assert [(each["name"], each["origin"]) for each in list_devices()] == sorted([*((name, "shipped") for name in SHIPPED), ("pi4", "own")])


def test_a_phone_that_was_added_has_the_folder_of_its_agent_whole(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    add_device("pixel", transport="adb", agent="agents/arm64", cores="4-7")
    pixel = load_device("pixel")
    assert (pixel.transport, pixel.address, pixel.agent, pixel.cores) == ("adb", "", f"{tmp_path.resolve()}/agents/arm64", "4-7")


def test_a_device_is_replaced_on_request_only(own):
    add_device("pi4", transport="ssh", address="pi")
    with pytest.raises(InputError, match=r"pi4\.toml is there already; choose another name, or replace it"):
        add_device("pi4", transport="ssh", address="other")
    assert load_device("pi4").address == "pi"
    add_device("pi4", transport="ssh", address="other", replace=True)
    assert load_device("pi4").address == "other"


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("localhost", {"transport": "ssh", "address": "pi"}, "ships with hwnas; choose another name"),
        ("../pi4", {"transport": "ssh", "address": "pi"}, "is a path"),
        ("a/b", {"transport": "ssh", "address": "pi"}, "is a path"),
        (".pi", {"transport": "ssh", "address": "pi"}, "named by letters"),
        ("", {"transport": "ssh", "address": "pi"}, "named by letters"),
        ("pi4", {"transport": "ssh"}, "has transport 'ssh' and no address"),
        ("pi4", {"transport": "ssh", "address": "pi; reboot"}, "is no address for ssh"),
        ("pi4", {"transport": "ssh", "address": "pi", "python": "a b"}, "'python' must be"),
        ("pi4", {"transport": "ssh", "address": "pi", "threads": 0}, "'threads' must be"),
        ("pi4", {"transport": "pigeon", "address": "pi"}, "no transport named 'pigeon'"),
        ("pi4", {"transport": "local", "address": "pi"}, "takes neither an address nor a python"),
        ("pi4", {"transport": "ssh", "address": "pi", "agent": "agents"}, "has transport 'ssh', which sends the agent in Python"),
        ("pixel", {"transport": "adb", "address": "a b"}, "is no serial number of a device"),
        ("pixel", {"transport": "adb", "cores": "big"}, "'cores' must be a text of core numbers"),
        ("web", {"transport": "browser", "cores": "4-7"}, "remove 'agent' and 'cores'"),
    ],
)
def test_a_device_that_could_not_be_reached_is_not_written(own, name, fields, message):
    with pytest.raises(InputError, match=message):
        add_device(name, **fields)
    assert not own.exists()


def test_a_shipped_device_is_not_hidden_by_one_of_the_same_name(own):
    own.mkdir(parents=True)
    (own / "localhost.toml").write_text('description = "a trap"\nprocessor = "cpu"\ntransport = "ssh"\naddress = "trap"\nruntimes = ["onnxruntime"]\n')
    assert load_device("localhost").transport == "local"


def test_a_damaged_file_of_ones_own_is_a_row_and_hides_no_other(own, monkeypatch, capsys):
    add_device("pi4", transport="ssh", address="pi")
    (own / "broken.toml").write_text("description = 3\n")
    assert load_device("pi4").address == "pi"
    with pytest.raises(DamagedFile, match=r"broken\.toml: 'description' must be a text"):
        load_device("broken")
    for flags in ((), ("--json",)):
        monkeypatch.setattr(sys, "argv", ["hwnas", "device", "list", *flags])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "cannot be read" in out and "me@pi" not in out
    assert [each["name"] for each in json.loads(out[out.index("[\n") :])] == sorted(["broken", *SHIPPED, "pi4"])


def test_own_devices_are_where_the_system_keeps_settings(monkeypatch, tmp_path):
    monkeypatch.delenv("HWNAS_DEVICES")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert own_devices() == tmp_path / "hwnas" / "devices"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")  # to be ignored, says its specification
    monkeypatch.setenv("HOME", str(tmp_path))
    assert own_devices() == tmp_path / ".config" / "hwnas" / "devices"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert own_devices() == tmp_path / "Library" / "Application Support" / "hwnas" / "devices"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("APPDATA", str(tmp_path / "roaming"))
    assert own_devices() == tmp_path / "roaming" / "hwnas" / "devices"


def test_a_user_without_a_home_has_the_shipped_devices(monkeypatch):
    monkeypatch.delenv("HWNAS_DEVICES")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert "localhost" in device_names()
