"""What the documents say is run: every fenced block, and every command in backquotes; what is shown of their output is compared.

Nothing is listed: a new document, block or command is run because it is there. Commands that take minutes are shortened as `shortened.py`
says, and continue from what the demo (`conftest.py`) left, as `reader.py` says. What no test can run stands in NOT_RUN with its reason.
"""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatchcase
from functools import cache
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import numpy as np
import parsed
import pytest
import reader as readers
from commands import here, python
from documents import DOCUMENTS, LANGUAGES, ROOT, blocks, inline_commands, name, prose
from printed import VARYING, assert_printed, varies
from reader import Reader
from shortened import shortened, shortened_python

from hwnas import registry
from hwnas.budget import Budget
from hwnas.device import validate
from hwnas.driver import drive

#: Commands that no test runs as they stand, and why. Their options are checked all the same; `*` stands for anything.
NOT_RUN = {
    "hwnas bench --zoo *": "measures eighty networks; tests/test_zoo.py measures a small one",
    "hwnas bench-search *": "needs published data; tests/test_bench_search.py has some, and draws some",
    "hwnas bench mine.onnx *": "takes files of the reader's own; tests/test_bench.py has some",
    "hwnas check-tensorrt *": "needs TensorRT for RTX, 100 MB; tests/test_tensorrt_parser.py does where that is installed",
    "hwnas data fetch *": "fetches from the network; tests/test_benchmark_sources.py does from a real server",
    "hwnas device check orin.toml": "measures on a board with a GPU, which none of us has: docs/tensorrt.md says what was checked",
    "cmake *": "needs headers that no package has; tests/native_agents.py does the same where they are",
    "hwnas device check pi4": "measures on a board; tests/test_profiling_ssh.py does over a real SSH server",
    "hwnas device check pixel8": "measures on a phone; tests/test_profiling_adb.py does over ADB's real client",
    "hwnas device check pixel8_app": "measures on a phone; tests/test_android_kit.py does over ADB's real client, the app's agent on a JVM",
    "hwnas device check openvino": "needs a processor of Intel; tests/test_runtimes.py has its provider wherever it is installed",
    "hwnas device serve*": "serves until it is ended; tests/test_browser.py does with a real browser",
    "hwnas profile browser*": "needs a browser; tests/test_browser.py has one where there is any",
    "hwnas profile orin.toml *": "measures on a board with a GPU, which none of us has: docs/tensorrt.md says what was checked",
    "hwnas profile pi4 *": "measures on a board; tests/test_profiling_ssh.py does over a real SSH server",
    "hwnas profile pixel8 *": "measures on a phone; tests/test_profiling_adb.py does over ADB's real client",
    "hwnas profile pixel8_app *": "measures on a phone; tests/test_android_kit.py does over ADB's real client, the app's agent on a JVM",
    "hwnas verify RUN --also *": "measures on a second device; tests/test_verify.py does on this machine under another name",
    "hwnas verify RUN --random-weights": "of a run without weights; tests/test_verify.py has one",
    "build/infer *": "is compiled against headers that no package has; tests/test_kits.py does where they are",
    "gradle *": "needs Gradle and the Android SDK; the workflow android-kit has both",
    "make *": "installs, then runs these tests, the benchmarks, or examples/end_to_end.sh, which the fixture `demo` runs",
    "pip install *": "installs from the network; the fixture `plugin` installs examples/plugin into a folder of its own",
    "pre-commit install": "writes into the repository's hooks",
    "python android/*": "needs a phone with the app; tests/test_android_kit.py has a stand-in for one, with the real adb",
    "python benchmarks/*": "takes minutes to hours",
    "python tensorrt/*": "needs a GPU; tests/test_kits.py does what can be done without one",
    "python web/*": "needs a browser; tests/test_kits.py has one where there is any",
    "hwnas search * --executor *": "needs a cluster of Ray; tests/test_ray.py has one",
    "ray start *": "starts a cluster of Ray; tests/test_ray.py has one",
    "torchrun *": "needs several GPUs and ImageNet; tests/test_train.py starts two processes",
}

#: Documents whose Python blocks another test runs.
PYTHON_ELSEWHERE = {"examples/plugin/README.md": "test_plugin.py, in a process that finds the installed plug-in"}

#: Commands whose exit code is a judgement on what was measured: 1 is an answer too.
JUDGES = ("hwnas table check ", "hwnas verify ")

#: Outside quotes: what only a shell would make of a line, which no document may need.
SHELL = set("|&;<>$`*?(){}~")


@pytest.fixture
def reader(request, tmp_path, monkeypatch):
    """A reader in an empty folder, with a folder for own devices."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HWNAS_DEVICES", str(tmp_path / "devices"))
    monkeypatch.setenv("HWNAS_KEPT", str(tmp_path / "kept"))
    return Reader(tmp_path, request.getfixturevalue, monkeypatch.syspath_prepend)


def having(*languages: str) -> list[str]:
    """Names of the documents with such blocks."""
    return [name(path) for path in DOCUMENTS if any(block.language in languages for block in blocks(path))]


def in_blocks(document: str) -> list[tuple[str, str]]:
    """(command, output as shown) of all blocks that a shell would run, but the session of the README, which is the demo's."""
    session = {"README.md": "console"}.get(document)
    return [each for block in blocks(ROOT / document) if block.language in {"sh", "console"} - {session} for each in block.commands]


def in_backquotes(document: str) -> list[str]:
    """Commands; a program's name alone is none, but for `hwnas`."""
    return [command for command in inline_commands(ROOT / document) if " " in command or command == "hwnas"]


def reason(command: str) -> str | None:
    """Why no test runs a command."""
    return next((why for pattern, why in NOT_RUN.items() if fnmatchcase(command, pattern)), None)


def runnable(document: str) -> list[tuple[str, str, bool]]:
    """(command, output as shown, may be a command's name alone) of what is run."""
    found = [(command, shown, False) for command, shown in in_blocks(document)] + [(command, "", True) for command in in_backquotes(document)]
    return [each for each in found if reason(each[0]) is None]


def write_files(document: str, folder: Path) -> None:
    """The files that the blocks of a document are said to be."""
    for block in blocks(ROOT / document):
        if block.file is not None:
            (folder / block.file).write_text(block.text)


def run(command: str, reader: Reader, *, fails: bool = False) -> str:
    """What a command prints; it must succeed, or fail."""
    program, *words = reader.words(command)
    assert not SHELL & set(re.sub(r"'[^']*'|\"[^\"]*\"", "", command)), f"`{command}` needs a shell; write it as one plain command"
    if program == "hwnas":
        check_before_it_is_shortened(words)
        code, out, error = ended(tuple(shortened(words)))
    elif program == "python":
        done = python(*words, cwd=reader.folder)
        code, out, error = done.returncode, done.stdout, done.stderr
    else:
        pytest.fail(f"no test knows how to run `{command}`: teach tests/test_docs.py, or give a reason in NOT_RUN")
    allowed = {1, 2} if fails else {0, 1} if command.startswith(JUDGES) else {0}
    assert code in allowed and "Traceback" not in error, f"`{command}` ended with {code}: {error}"
    return out + error


def ended(words: tuple[str, ...]) -> tuple[int, str, str]:
    """Exit code, standard output and error of `hwnas ...`; of a command without arguments once, whichever document names it."""
    return once(*words) if words in parsed.COMMANDS or words[-1] == "--help" else here(*words)


once = cache(here)


def check_before_it_is_shortened(words: list[str]) -> None:
    """Values that `shortened.py` replaces must be right too."""
    if "--help" not in words:
        parsed.check(words)
    for option, value in pairwise(words):
        if option in ("--latency", "--macs", "--params", "--memory", "--size"):
            Budget.parse(option.removeprefix("--"), value)
        elif option == "--space":
            registry.create("spaces", value)


# -- blocks and commands ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_block_says_what_it_is(path):
    for block in blocks(path):
        assert block.language in LANGUAGES, f"{path.name}, line {block.line}: '```{block.language}' is none of {', '.join(sorted(LANGUAGES))}"
    rest = prose(path)
    assert "```" not in rest, f"{path.name}: a fence is not closed"
    assert not re.search(r"\n\n(?: {4}|\t)\S", rest), f"{path.name}: an indented block is run by no test; fence it"
    assert not re.search(r"``|^~~~|<(?:code|pre)\b", rest, re.MULTILINE), f"{path.name}: code is fenced by ``` and, in a line, stands between single backquotes"
    bare = re.search(rf"\bhwnas (?:{'|'.join(sorted({words[0] for words in parsed.COMMANDS}))})\b", re.sub(r"`[^`]*`", "", rest))
    assert bare is None, f"{path.name}: the command '{bare and bare[0]}' stands outside backquotes, where no test sees it"


@pytest.mark.parametrize("document", [each for each in having("python") if each not in PYTHON_ELSEWHERE])
def test_the_python_of_a_document_runs_and_prints_what_it_shows(document, reader, capsys):
    write_files(document, reader.folder)
    namespace: dict[str, object] = {}
    for block in blocks(ROOT / document):
        if block.language == "python":
            tree = ast.parse("\n" * block.line + block.text, document)
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    reader.provide(node.value)
            capsys.readouterr()
            exec(compile(shortened_python(tree), str(ROOT / document), "exec"), namespace)
            assert block.printed is None or capsys.readouterr().out == block.printed


@pytest.mark.parametrize("document", [name(path) for path in DOCUMENTS if runnable(name(path))])
def test_the_commands_of_a_document_run_and_print_what_it_shows(document, reader):
    """Those of its blocks in order, then those in backquotes; of a command that is only named, its help."""
    write_files(document, reader.folder)
    for command, _ in in_blocks(document):
        if reason(command):
            reader.words(command)  # has what it would leave
    for command, shown, named in runnable(document):
        if named and parsed.is_name(shlex.split(command)[1:]):
            command = f"{command} --help"
        printed = run(command, reader, fails="error: " in shown)
        if shown:
            assert_printed(shown, printed, varying=varies(command))


def test_the_session_of_the_readme_is_what_the_demo_prints(demo):
    session = [block.text for block in blocks(ROOT / "README.md") if block.language == "console"]
    assert session and session[0].startswith("$ hwnas profile")
    for text in session:
        assert_printed(text, demo.printed, varying=True)


def test_the_refusal_on_the_page_about_ssh_is_that_of_a_device_that_is_being_measured(reader, monkeypatch):
    from hwnas.device import load_device
    from hwnas.profiling.agent import started_agent
    from hwnas.profiling.runtimes.onnxruntime import onnxruntime

    if sys.platform != "linux":
        pytest.skip("only Linux has a lease")
    monkeypatch.setenv("HWNAS_LEASE", f"test-{uuid4().hex}")
    (text,) = [block.text for path in DOCUMENTS for block in blocks(path) if block.text.startswith("error: ")]
    with started_agent(load_device("localhost"), onnxruntime(), threads=1, seed=0):
        code, _, error = here("profile", "localhost", "--space", "nas_bench_macro", "--to", reader.folder / "table")
    assert code == 2
    assert_printed(text.replace("pi4", "localhost").replace("alice@laptop", re.search(r"\S+@\S+(?=,)", error)[0]), error, varying=True)


def test_the_same_in_python_takes_ten_lines():
    (session,) = [block.text for block in blocks(ROOT / "README.md") if block.language == "python"]
    assert len(session.splitlines()) <= 10


def test_the_searcher_that_trains_of_the_guide_searches():
    from skeletons.weight_sharing import budgeted, supernet_of

    namespace: dict[str, object] = {}
    for block in blocks(ROOT / "docs" / "add_a_searcher.md"):
        if block.language == "python":
            exec(block.text, namespace)
    problem = budgeted()
    supernet = supernet_of(problem)
    found = drive(namespace["gradient_descent"], problem, seed=0, evaluations=10, trainer=supernet, options={"rounds": 6, "steps": 7, "rate": 2.0})
    assert supernet.trained == 6 * 7 and len(found.codes) == 1 and problem.within(found.codes).all()
    assert found.scores.values[0, 0] > np.mean(supernet.accuracy(problem.sample_feasible(np.random.default_rng(0), 200)))


@pytest.mark.parametrize("document", having("toml"))
def test_the_toml_of_a_document_is_what_hwnas_reads(document):
    """With the lines that are comments, too."""
    for block in blocks(ROOT / document):
        if block.language == "toml":
            for text in (block.text, re.sub(r"^# (?=\w+ = )", "", block.text, flags=re.MULTILINE)):
                data = tomllib.loads(text)
                if "project" in data:
                    groups = data["project"]["entry-points"]
                    assert groups and {group.removeprefix("hwnas.") for group in groups} <= set(registry.CATALOGUES)
                else:
                    device = validate(data, block.file or "device.toml")
                    registry.create("profiling.transports", device.transport).check(device)


# -- what is not run --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", NOT_RUN)
def test_what_is_not_run_is_right_as_far_as_can_be_seen(pattern, monkeypatch, capsys):
    every = [command for path in DOCUMENTS for command in ([each for each, _ in in_blocks(name(path))] + in_backquotes(name(path)))]
    standing = sorted({command for command in every if fnmatchcase(command, pattern)})
    assert standing, f"no document has a command like `{pattern}` any more"
    for command in standing:
        program, *words = shlex.split(command)
        if program == "hwnas":
            assert parsed.is_name(words) or parsed.check(words) is None
        elif program == "make":
            check_make(words)
        elif program == "pip":
            check_pip(words)
        elif program == "python":
            check_program(words, monkeypatch, capsys)
        elif program == "cmake":
            sources = words[words.index("-S") + 1] if "-S" in words else ""
            assert not sources or any((base / sources / "CMakeLists.txt").is_file() for base in (ROOT, ROOT / "export"))
        else:
            assert (ROOT / ".pre-commit-config.yaml").is_file()
    pytest.skip(f"checked and not run: {', '.join(f'`{each}`' for each in standing)}: {NOT_RUN[pattern]}")


def test_what_the_tests_know_of_the_documents_is_still_in_them():
    every = [command for path in DOCUMENTS for command in (*(each for each, _ in in_blocks(name(path))), *in_backquotes(name(path)))]
    words = {part for command in every for word in shlex.split(command) for part in (word.strip("[.]"), word.strip("[.]").partition("/")[0])}
    assert not {*readers.TEXTS, *readers.PATHS} - words
    text = "".join(path.read_text() for path in DOCUMENTS)
    assert not [each for each in readers.NAMES if each not in text]
    assert not [each for each in JUDGES if not any(command.startswith(each) for command in every)]
    assert {tuple(each.split()) for each in VARYING} <= set(parsed.COMMANDS)
    assert set(PYTHON_ELSEWHERE) <= set(having("python"))


def test_every_document_under_version_control_is_one_of_them():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no checkout, or there is no git")
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert listed and set(listed) <= set(map(name, DOCUMENTS))


def check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in (word for word in words if "=" not in word):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"the Makefile has no {target}"


def check_pip(words: list[str]) -> None:
    """Packages and extras to install are declared, folders are there."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    packages = "\n".join([*declared["dependencies"], *tomllib.loads((ROOT / "export" / "onnxruntime_python" / "kit.toml").read_text())["requires"], "pillow"])
    assert words[0] == "install"
    for word in words[1:]:
        extra, extras = re.fullmatch(r"hwnas\[(.+)\]", word), declared["optional-dependencies"]
        own = [re.split(r"[<>=!~; ]", each)[0] for needed in extras.values() for each in needed]
        known = word in packages or word.partition("==")[0] in own or (extra and extra[1] in extras)
        assert word.startswith("-") or (ROOT / word).is_dir() or known, word


def check_program(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It says with --help what the options after it mean. A kit's finds beside it what it shares with others."""
    program = next(base / words[0] for base in (ROOT, ROOT / "export") if (base / words[0]).is_file())
    if (program.parent / "kit.toml").is_file():
        for target, source in tomllib.loads((program.parent / "kit.toml").read_text()).get("shared", {}).items():
            monkeypatch.syspath_prepend((ROOT / source).parent)
            if target == "exported.py":
                monkeypatch.setitem(sys.modules, "exported", importlib.import_module("infer"))
    monkeypatch.syspath_prepend(program.parent)
    monkeypatch.setattr(sys, "argv", [words[0], "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(program), run_name="__main__")
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and all(word in shown for word in words[1:] if word.startswith("--")), f"{words[0]} has no {words[1:]}"
