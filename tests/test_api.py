"""The Python API: each verb is a function of the package, imported when it is first asked for."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import hwnas
from hwnas.cli.commands import app

DATA_VERBS = ("fetch_data", "list_data")
WEIGHTS_VERBS = ("add_weights", "check_weights", "list_weights")
TABLE_VERBS = ("check_table", "diff_tables", "export_table", "fill_table", "import_table", "list_tables", "merge_tables", "show_table")
ACCURACY_VERBS = ("build_accuracy", "report_accuracy")
DEVICE_VERBS = ("add_device", "check_device", "list_devices")
VERBS = (
    *("bench", "bench_search", "bench_zoo", "check_tensorrt", "compare", "doctor", "export", "export_module", "plan_profile", "predict", "profile", "report"),
    *("search", "show_space", "solve", "specialize", "train", "verify", "verify_export"),
    *ACCURACY_VERBS,
    *DEVICE_VERBS,
    *TABLE_VERBS,
    *WEIGHTS_VERBS,
    *DATA_VERBS,
)


@pytest.mark.parametrize("name", VERBS)
def test_each_verb_is_a_documented_function_of_the_package(name):
    verb = getattr(hwnas, name)
    assert inspect.isfunction(verb) and verb.__name__ == name and inspect.getdoc(verb)
    assert name in dir(hwnas) and getattr(hwnas, name) is verb


def test_every_command_of_the_shell_is_offered():
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert {name.replace("-", "_") for name in commands} <= set(VERBS)


def test_no_module_is_named_like_a_verb():
    """Importing such a module would put it in the function's place."""
    assert not {module.name for module in pkgutil.iter_modules(hwnas.__path__)} & set(VERBS)


def test_importing_the_verbs_modules_does_not_replace_the_verbs():
    for name in VERBS:
        importlib.import_module(getattr(hwnas, name).__module__)
        assert inspect.isfunction(getattr(hwnas, name))


def test_a_wrong_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        _ = hwnas.serach
    with pytest.raises(ImportError, match="serach"):
        exec("from hwnas import serach")


def test_a_verb_costs_what_it_needs_and_no_more():
    code = "import sys, hwnas; hwnas.show_space; print(sorted({'torch', 'onnx', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_same_facts_as_on_the_command_line():
    facts = hwnas.show_space("ofa_mini")
    assert facts["name"] == "ofa_mini" and facts["macs"]["min"] < facts["macs"]["max"]
