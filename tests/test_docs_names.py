"""What the documents name exists: options, files, parts of the package, and what stands in the tables of the guides."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import tomllib
from dataclasses import fields

import pytest
from documents import DOCUMENTS, ROOT, blocks, inline, inline_commands, name
from parsed import COMMANDS, options, path_of

from hwnas import registry
from hwnas.device import Device
from hwnas.searcher import options_of

PLACEHOLDER = re.compile(r"NAME|DEVICE|FOLDER|\bmy_")  # in paths: what the reader puts there


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_options_in_backquotes_exist(path):
    """In the guide to a command they are that command's, elsewhere some command's or some program's."""
    programs = "".join(each.read_text() for folder in ("benchmarks", "examples", "export") for each in (ROOT / folder).rglob("*.py"))
    mine = options((path.stem,)) if (path.stem,) in COMMANDS else {"--version"}.union(*map(options, COMMANDS))
    for text in inline(path):
        option = re.match(r"--[a-z][a-z0-9-]*", text)
        if option:
            assert option[0] in mine or f'"{option[0]}"' in programs, f"{path.name}: there is no option {option[0]}"


def test_every_command_can_print_json_as_the_readme_says():
    assert "Every command but `device serve` has `--json`" in (ROOT / "README.md").read_text()
    assert [path for path in COMMANDS if "--json" not in options(path)] == [("device", "serve")]


def test_every_command_is_documented():
    commands = [each for path in DOCUMENTS for each in inline_commands(path)]
    commands += [each for path in DOCUMENTS for block in blocks(path) if block.language in ("sh", "console") for each, _ in block.commands]
    assert not set(COMMANDS) - {path_of(shlex.split(each)[1:]) for each in commands if each.startswith("hwnas ")}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_files_in_backquotes_are_there(path):
    folders = tuple(f"{each.name}/" for each in ROOT.iterdir() if each.is_dir() and not each.name.startswith((".", "runs")))
    for text in inline(path):
        if text.startswith(folders) and re.fullmatch(r"[\w./*-]+", text) and not PLACEHOLDER.search(text):
            assert list(ROOT.glob(text)), f"{path.name}: there is no {text}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_tests_in_backquotes_exist(path):
    tests = "".join(each.read_text() for each in (ROOT / "tests").glob("test_*.py"))
    for text in inline(path):
        if re.fullmatch(r"test_[a-z0-9_]{12,}", text):
            assert f"def {text}(" in tests, f"{path.name}: there is no {text}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_names_of_the_package_in_backquotes_exist(path):
    for text in inline(path):
        dotted = re.match(r"hwnas(\.[A-Za-z_]+)+", text)
        if dotted and not text.startswith(tuple(f"hwnas.{catalogue}" for catalogue in registry.CATALOGUES)) and not text.endswith(("/1", "/2")):
            assert exists(dotted[0]), f"{path.name}: there is no {dotted[0]}"


def exists(dotted: str) -> bool:
    """Is there a module, or something in one, of that name?"""
    found: object = importlib.import_module("hwnas")
    names = dotted.split(".")
    for i, each in enumerate(names[1:], 2):
        try:
            found = getattr(found, each)
        except AttributeError:
            try:
                found = importlib.import_module(".".join(names[:i]))
            except ImportError:
                return False
    return True


def test_a_name_that_is_gone_is_noticed():
    assert exists("hwnas.manifest.read_manifest") and exists("hwnas.search") and exists("hwnas.driver")
    assert not exists("hwnas.manifest.read_manifests") and not exists("hwnas.drivers")


# -- tables -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("searcher", registry.names("searchers"))
def test_every_searcher_has_a_page_with_its_options_and_their_defaults(searcher):
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \|", (ROOT / "docs" / f"{searcher}.md").read_text(), re.MULTILINE)
    specs = options_of(registry.load("searchers", searcher))
    assert dict(rows) == {option: str(spec.default) for option, spec in specs.items()}


def test_the_fields_of_a_device_are_those_of_its_guide():
    assert keys("docs/add_a_device.md", "```toml") == {field.name for field in fields(Device)} - {"name"}


def keys(document: str, heading: str) -> set[str]:
    """What stands in backquotes in the first column of the table, or where there is none in the text, of a section or paragraph."""
    section = re.split(r"\n##? |\n\n(?=`)", (ROOT / document).read_text().partition(heading)[2])[0]
    rows = re.findall(r"^\|([^|]+)\|", section, re.MULTILINE)
    return set(re.findall(r"`([^`]+)`", " ".join(rows) if rows else section))


def test_the_tables_of_the_guides_name_what_is_in_the_files(demo):
    export, table = demo.folder / "export", demo.folder / "table"
    assert keys("docs/export.md", "## The manifest") - {"range", "resolution", "(x - mean) / std"} == set(json.loads((export / "manifest.json").read_text()))
    shipped = {path.name + "/" * path.is_dir() for path in export.iterdir()}
    assert {key.replace("NAME/", "onnxruntime_python/") for key in keys("export/README.md", "An exported folder holds")} == shipped
    assert keys("docs/export.md", "writes the certified network") == shipped
    assert keys("docs/verify.md", "## `certificate.json`") <= set(json.loads((export / "certificate.json").read_text()))
    sections = {key.strip("[]") for key in keys("latency_tables/README.md", "that was cut short or changed is refused.")}
    assert sections <= set(tomllib.loads((table / "table.toml").read_text()))
    for file in ("entries.csv", "networks.csv"):
        header = (table / file).read_text().partition("\n")[0].split(",")
        assert keys("latency_tables/README.md", f"`{file}`, a row per") == set(header)
