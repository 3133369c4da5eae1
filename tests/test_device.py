"""hwnas/device.py and devices/."""

import pytest

from hwnas import registry
from hwnas.data import shipped
from hwnas.device import Device, device_names, load_device, validate
from hwnas.errors import DamagedFile, UnknownName

GOOD = {"description": "a phone", "processor": "cpu", "transport": "local", "runtimes": ["onnxruntime"]}


@pytest.mark.parametrize("name", device_names())
def test_every_shipped_device_is_valid_and_its_runtimes_have_an_agent(name):
    device = load_device(name)
    assert device.name == name
    for runtime in device.runtimes:
        assert (shipped("devices") / "agents" / registry.create("profiling.runtimes", runtime).agent).is_file()


def test_this_machine_is_a_device_measured_with_one_thread():
    assert load_device("localhost") == Device("localhost", "this machine's CPU", "cpu", "local", ("onnxruntime",), 1)


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
    ],
)
def test_a_wrong_field_is_named(change, message):
    with pytest.raises(DamagedFile, match=message):
        validate(GOOD | change, "phone.toml")


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
