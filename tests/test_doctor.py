"""`hwnas doctor`: each probe is a row, whatever the package does when it is imported."""

import dataclasses
import json
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from hwnas import cli
from hwnas.index import BlockIndex
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.verbs import doctor as module
from hwnas.verbs.doctor import PACKAGES, TENSORRT_PATHS, Finding, Package, doctor, healthy, probe_package, tensorrt_path
from tests.simulated_tables import simulated_table

PYPROJECT = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Make a module of that source importable, here and in processes that are started."""

    def make(source, **more):
        (tmp_path / "odd_package.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return Package("odd-package", "odd_package", **more)

    return make


def test_a_package_that_works_says_so_in_its_own_words(package):
    row = probe_package(package("__version__ = '1.2'\nparts = ['a', 'b']", facts="found = m.parts", extra="odd", purpose="for tests"))
    assert row == Finding("odd-package", "works", "1.2, a, b", "for tests", needed=False)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise ImportError('libodd.so.3: cannot open shared object file')", "ImportError: libodd.so.3: cannot open"),
        ("no Python at all", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import os; os._exit(3)", "ended the interpreter (exit code 3)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended the interpreter (SIGSEGV)"),
        ("raise RuntimeError('first line\\nand the [last]')", "and the [last]"),
    ],
)
def test_a_broken_package_is_a_row_that_names_the_extra(package, source, words):
    row = probe_package(package(source, extra="odd"))
    assert row.state == "broken" and words in row.found and row.advice == "pip install 'hwnas[odd]'" and "\n" not in row.found


def test_what_happens_after_the_answer_does_not_count(package):
    row = probe_package(package("import atexit, os\nprint('noise')\natexit.register(os.abort)\n__version__ = '2'"))
    assert (row.state, row.found) == ("works", "2")


def test_an_import_that_does_not_end_is_a_row(package, monkeypatch):
    monkeypatch.setattr(module, "IMPORT_SECONDS", 0.5)
    row = probe_package(package("import time; time.sleep(60)"))
    assert row.state == "broken" and "did not end within 0.5 s" in row.found


def test_a_package_of_the_main_job_that_is_missing_makes_the_machine_unfit():
    rows = [probe_package(Package("nothing", "no_such_module")), probe_package(Package("extra", "no_such_module", extra="odd"))]
    assert [row.state for row in rows] == ["missing", "missing"] and [row.needed for row in rows] == [True, False]
    assert not healthy(rows) and healthy(rows[1:])


def test_every_package_and_extra_named_is_declared():
    def names(requirements):
        return {requirement.partition(">")[0].partition("[")[0] for requirement in requirements}

    for package in PACKAGES:
        declared = names(PYPROJECT["optional-dependencies"][package.extra]) if package.extra else names(PYPROJECT["dependencies"])
        assert any(name == package.distribution or name.startswith(f"{package.distribution}-") for name in declared), package


@pytest.mark.parametrize("path", TENSORRT_PATHS, ids=lambda path: path.what)
def test_a_way_to_tensorrt_was_not_run_on_hardware_until_a_measured_table_of_it_is_shipped(path, tmp_path):
    index = BlockIndex(ofa_mini(resolutions=(32,)))
    table = simulated_table(index, lambda total, layers, activations: total, networks=0)
    version = f"{path.version}9"
    conditions = replace(table.conditions, runtime=path.runtime, version=version)
    replace(table, conditions=conditions, provenance={"date": "2026-11-25"}).save(tmp_path / "simulated")
    replace(table, origin="measured", conditions=conditions).save(tmp_path / "of_nobody_knows_what")
    other = replace(conditions, version="8.6.1")
    replace(table, origin="measured", conditions=other, provenance={"date": "2026-11-25"}).save(tmp_path / "another_version")
    assert tensorrt_path(path, tmp_path).found == "not yet run on hardware" and tensorrt_path(path, tmp_path).state == "note"
    replace(table, origin="measured", conditions=conditions, provenance={"date": "2026-11-25"}).save(tmp_path / "orin" / "table")
    assert tensorrt_path(path, tmp_path) == Finding(path.what, "works", "has been run: orin/table, 2026-11-25")


def test_all_ways_to_tensorrt_are_listed():
    rows = {row.what: row for row in doctor()}
    assert {path.what for path in TENSORRT_PATHS} <= set(rows)


def test_an_odd_answer_of_the_system_is_a_row(monkeypatch):
    def fails():
        raise ZeroDivisionError("no clock")

    monkeypatch.setattr(module, "_clock", fails)
    rows = {row.what: row for row in doctor()}
    assert rows["clock"].state == "broken" and rows["clock"].found == "ZeroDivisionError: no clock"
    assert rows["python"].state == rows["torch"].state == rows["onnxruntime"].state == "works"
    assert "CPU" in rows["torch"].found and "CPUExecutionProvider" in rows["onnxruntime"].found


@pytest.mark.parametrize(
    ("script", "state", "found"),
    [
        (None, "missing", "not installed"),
        (
            "echo Android Debug Bridge version 1.0.41; echo Version 29.0.6-debian; echo Installed as /usr/bin/adb",
            "works",
            "version 1.0.41, Version 29.0.6-debian",
        ),
        ("echo 'adb: no libraries' >&2; exit 127", "broken", "adb: no libraries"),
        ("sleep 60", "broken", "TimeoutExpired"),
    ],
)
def test_adb_is_asked_for_its_version_alone(monkeypatch, tmp_path, script, state, found):
    """Any other command would start its server."""
    if script:
        (tmp_path / "adb").write_text(f'#!/bin/sh\ntest "$*" = version || exit 9\n{script}\n')
        (tmp_path / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if script else str(tmp_path))
    monkeypatch.setattr(module, "IMPORT_SECONDS", 1.0)
    row = module._isolated("adb", module._adb)
    assert (row.what, row.state, row.needed) == ("adb", state, False) and found in row.found
    assert state != "missing" or "platform-tools" in row.advice


def test_the_disk_of_a_folder_that_does_not_exist_yet_is_that_of_its_parent(tmp_path):
    row = module._disk(tmp_path / "a" / "b")
    assert row.found.endswith(str(tmp_path.resolve())) and not list(tmp_path.iterdir())


def test_the_command_shows_the_rows_and_fails_where_the_main_job_cannot_run(monkeypatch, capsys, package):
    monkeypatch.setattr(module, "PACKAGES", (package("", extra="odd"), Package("nothing", "no_such_module", extra="odd")))
    monkeypatch.setattr(sys, "argv", ["hwnas", "doctor"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0 and "pip install 'hwnas[odd]'" in capsys.readouterr().out
    monkeypatch.setattr(module, "PACKAGES", (Package("nothing", "no_such_module"),))
    monkeypatch.setattr(sys, "argv", ["hwnas", "doctor", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    row = next(each for each in json.loads(captured.out) if each["what"] == "nothing")
    assert ended.value.code == 1 and row["state"] == "missing" and set(row) == {each.name for each in dataclasses.fields(Finding)}
    assert captured.err.count("\n") == 1
