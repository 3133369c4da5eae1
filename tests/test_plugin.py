"""Plug-ins by entry point: the example in examples/plugin/, installed for real, and what happens to plug-ins that do not load."""

import sys

import pytest
from commands import here, python
from documents import ROOT, blocks

from hwnas import registry
from hwnas.errors import InputError
from hwnas.testing import check_space


def test_an_installed_plug_in_is_listed_and_shown_by_name(plugin, tmp_path):
    listed = python("-m", "hwnas", "space", "list", cwd=tmp_path, folders=(plugin,))
    assert listed.returncode == 0 and {"plain_cnn", "ofa_mini"} <= set(listed.stdout.split())
    shown = python("-m", "hwnas", "space", "show", "plain_cnn(classes=3)", cwd=tmp_path, folders=(plugin,))
    # 3 resolutions; each of 3 stages has a kernel of 2 and a depth of 2, and no two of their combinations are one network
    assert shown.returncode == 0 and "plain_cnn: 7 layers" in shown.stdout and "subnets     192" in shown.stdout


def test_what_it_offers_passes_the_checks_of_hwnas_by_name(plugin, tmp_path):
    """As its README says."""
    check = "".join(block.text for block in blocks(ROOT / "examples" / "plugin" / "README.md") if block.language == "python")
    assert "check_space" in check and "check_searcher" in check
    checked = python("-c", f"{check}\nimport hwnas_example\nprint(hwnas_example.__file__)", cwd=tmp_path, folders=(plugin,))
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith(str(plugin))


def test_without_it_its_names_are_unknown(tmp_path):
    unknown = python("-m", "hwnas", "space", "show", "plain_cnn", cwd=tmp_path)
    assert unknown.returncode == 2 and "no search space named 'plain_cnn'" in unknown.stderr and unknown.stderr.count("\n") == 1


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """Makes a distribution `odd` of that module importable here, as an installer leaves it, whose entry points are those."""

    def make(source, **points):
        (tmp_path / "odd_module.py").write_text(source)
        info = tmp_path / "odd-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
        lines = [f"[hwnas.{catalogue}]\n{name} = {value}\n" for catalogue, (name, value) in points.items()]
        (info / "entry_points.txt").write_text("".join(lines))
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "odd_module", raising=False)

    return make


@pytest.mark.parametrize(
    ("source", "value", "words"),
    [
        ("import no_such_library", "odd_module:odd", "does not load: ModuleNotFoundError: No module named 'no_such_library'"),
        ("def odd(:", "odd_module:odd", "does not load: SyntaxError"),
        ("1 / 0", "odd_module:odd", "does not load: ZeroDivisionError: division by zero"),
        ("", "odd_module:odd", "does not load: AttributeError"),
        ("", "no_such_module:odd", "does not load: ModuleNotFoundError"),
        ("", "odd_module", "is no function: its entry point is 'odd_module', it must be 'module:function'"),
        ("odd = 3", "odd_module:odd", "is no function"),
    ],
)
def test_a_plug_in_that_does_not_load_costs_a_sentence_and_only_its_own_name(offer, source, value, words):
    offer(source, spaces=("odd", value))
    code, out, error = here("space", "list")
    assert code == 0 and "odd" in out.split() and not error
    code, out, error = here("space", "show", "odd")
    assert code == 2 and error.startswith("error: the search space 'odd' of odd ") and words in error and error.count("\n") == 1 and out == ""
    assert here("space", "show", "ofa_mini")[0] == 0


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def odd(): raise KeyError('width')", "odd does not run: KeyError: 'width'"),
        ("def odd(): import no_such_library", "odd does not run: ModuleNotFoundError: No module named 'no_such_library'"),
        ("def odd(): return 3", "a search space must be a SearchSpace of hwnas.space, got int"),
        ("def odd(width): pass", "odd: odd() missing 1 required positional argument: 'width'"),
    ],
)
def test_a_plug_in_that_loads_and_makes_nothing_costs_a_sentence(offer, source, words):
    offer(source, spaces=("odd", "odd_module:odd"))
    code, out, error = here("space", "show", "odd")
    assert (code, out, error) == (2, "", f"error: {words}\n")


def test_a_searcher_that_does_not_load_is_refused_before_anything_is_read(offer):
    offer("import no_such_library", searchers=("odd", "odd_module:odd"))
    code, _, error = here("search", "no_run", "--table", "no_table", "--latency", "<= 1ms", "--searcher", "odd")
    assert code == 2 and "the searcher 'odd' of odd does not load" in error and error.count("\n") == 1


def test_a_shipped_name_cannot_be_taken(offer):
    offer("def ofa_mini(): return 3", spaces=("ofa_mini", "odd_module:ofa_mini"))
    assert registry.load("spaces", "ofa_mini").__module__ == "hwnas.spaces.ofa_mini"


def test_a_backend_that_does_not_load_is_no_fault_of_the_spaces_that_are_checked(offer):
    offer("import no_such_library", backends=("odd", "odd_module:odd"))
    with pytest.raises(InputError, match="the backend 'odd' of odd does not load"):
        registry.load("backends", "odd")
    check_space(registry.create("spaces", "nas_bench_macro"), samples=1)
