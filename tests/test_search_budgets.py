"""Budgets on the command line and in the verbs: `space show` answers them before anything is trained, `search` keeps several at once."""

import csv
import json
import sys

import numpy as np
import pytest

import hwnas
from hwnas import cli, registry
from hwnas.costs import macs, params
from hwnas.errors import Infeasible, InputError
from hwnas.index import BlockIndex
from hwnas.predictor import Additive
from hwnas.run import RunDirectory
from hwnas.verbs.common import Job
from tests.simulated_tables import simulated_table

SPACE = "ofa_mini"
INDEX = BlockIndex(registry.create("spaces", SPACE))
NEW_KEYS = ("budgets", "share")  # of a search's result, unknown to older versions


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    simulated_table(INDEX, lambda total, layers, activations: 0.01 + 0.8 * total).save(folder)
    return folder


def command(monkeypatch, capsys, *arguments):
    """Exit code, standard output and error of a command."""
    monkeypatch.setattr(sys, "argv", ["hwnas", *map(str, arguments)])
    try:
        cli.main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


# -- before anything is trained -------------------------------------------------------------------------------------------------------


def test_a_space_says_which_budgets_it_keeps(table):
    facts = hwnas.show_space(SPACE, table=table, latency="<= 60% p90", macs="<= 0.6M", params="<= 50k", memory="<= 40kB")
    found = facts["feasibility"]
    assert [each["metric"] for each in found["budgets"]] == ["latency", "macs", "params", "memory"]
    latency, work, size, memory = found["budgets"]
    assert latency["budget"].endswith(" ms p90") and latency["origin"] == "simulated" and latency["unit"] == "ms"
    assert latency["limit"] == pytest.approx(0.6 * latency["max"])
    bounds = Additive(INDEX, macs(INDEX.blocks), name="", unit="").bounds()
    assert (work["min"], work["max"], work["limit"], work["exact"]) == (bounds[0].value, bounds[1].value, 600e3, True)
    assert size["limit"] == 50e3 and memory["limit"] == 40e3 and memory["unit"] == "bytes"
    assert found["share"]["samples"] == 65_536 and 0 < found["share"]["low"] < found["share"]["value"] < found["share"]["high"]
    assert found["share"]["value"] <= min(each["share"]["value"] for each in found["budgets"])
    code = INDEX.space.encode(found["witness"])
    graph = INDEX.space.lower(code)
    assert sum(op.macs for op in graph.ops) <= 600e3 and graph.peak_activation_bytes() <= 40e3
    assert Additive(INDEX, params(INDEX.blocks), name="", unit="")(code)[0] <= 50e3
    assert "feasibility" not in hwnas.show_space(SPACE)
    largest = INDEX.space.lower(INDEX.space.largest())
    assert facts["memory"]["max"] == largest.peak_activation_bytes() and 0 < facts["memory"]["min"] < facts["memory"]["max"]


def test_a_space_says_so_in_words_and_as_json(table, monkeypatch, capsys):
    asked = ("space", "show", SPACE, "--table", table, "--latency", "<= 60% p50", "--macs", "<= 0.6M", "--memory", "<= 40kB")
    code, out, _ = command(monkeypatch, capsys, *asked)
    assert code == 0
    lines = out.splitlines()
    assert any(line.startswith("latency 0.") and " ms p50 (simulated); budget 0." in line and line.endswith("% of the space within it") for line in lines)
    assert any(line.startswith("MACs 158 k ... 1.48 M; budget 600 k, ") for line in lines)
    assert any(line.startswith("peak memory 24.6 kB ... 92.2 kB; budget 40.0 kB, ") for line in lines)
    assert any("% of the space within all budgets (95 % interval " in line and "from 65,536 random architectures)" in line for line in lines)
    assert any(line.startswith("such as the smallest architecture") for line in lines)
    code, out, _ = command(monkeypatch, capsys, *asked, "--json")
    facts = hwnas.show_space(SPACE, table=table, latency="<= 60% p50", macs="<= 0.6M", memory="<= 40kB")
    assert code == 0 and json.loads(out)["feasibility"] == facts["feasibility"]


@pytest.mark.parametrize("how", [(), ("--json",)])
@pytest.mark.parametrize(
    ("budgets", "words"),
    [
        (("--memory", "<= 3kB"), "memory <= 3 kB cannot be met: every architecture of ofa_mini takes at least 24576 bytes (predicted), reached by"),
        (("--macs", "<= 10k", "--params", "<= 1M"), "macs <= 1e+04 cannot be met: every architecture of ofa_mini takes at least 157824 MACs"),
    ],
)
def test_an_infeasible_budget_is_one_sentence_and_exit_1(budgets, words, how, monkeypatch, capsys):
    code, out, error = command(monkeypatch, capsys, "space", "show", SPACE, *budgets, *how)
    assert code == 1 and out == "" and error.startswith(f"error: {words}") and error.count("\n") == 1


def test_budgets_that_exclude_each_other_are_one_sentence(tmp_path, monkeypatch, capfd):
    """One choice takes many parameters and little memory, the other the reverse."""
    (tmp_path / "opposite.py").write_text(
        "from functools import partial\nfrom hwnas.blocks import conv_bn_act\nfrom hwnas.space import Choice, Layer, SearchSpace\n\n\n"
        "def build(turn):\n    return conv_bn_act((1, 4, 32, 32), 4, 5) if turn == 0 else conv_bn_act((1, 4, 32, 32), 60, 1)\n\n\n"
        "def opposite():\n    turn = Choice('turn', (0, 1))\n    return SearchSpace('opposite', (turn,), (Layer('only', (turn,), build),))\n"
    )
    # turn=0: 400 weights and 8 of its norm, 8 channels alive; turn=1: 240 and 120, 64 channels alive; 1,024 pixels of 4 bytes each
    asked = ("space", "show", f"{tmp_path / 'opposite.py'}:opposite", "--params", "<= 380", "--memory", "<= 100kB", "--json")
    code, out, error = command(monkeypatch, capfd, *asked)
    assert code == 1 and out == ""  # nothing of the solver's own either
    assert error == (
        "error: params <= 380 and memory <= 100 kB cannot be met together: every architecture of opposite takes at least 1.07368 times one of the "
        "limits; the nearest takes 408 parameters and 32768 bytes: the smallest architecture\n"
    )
    assert command(monkeypatch, capfd, *asked[:3], "--params", "<= 408", "--memory", "<= 100kB")[0] == 0


@pytest.mark.parametrize(
    ("budgets", "words"),
    [
        (("--latency", "<= 3ms"), "--latency is predicted from a table: give its folder with --table"),
        (("--table", "."), "--table prices a budget: give it with --latency"),
        (("--memory", "<= 3"), "'<= 3' has the unit ''; memory takes B, kB, MB, GB, KiB, MiB, GiB or %"),
        (("--macs", "3M"), "'3M' is no budget on macs; write '<= 300M'"),
        (("--params", "<= 3M p50"), "is no budget on params; write '<= 4M'"),
        (("--table", "nowhere", "--latency", "<= 3ms"), "nowhere"),
    ],
)
def test_wrong_budgets_are_one_sentence(budgets, words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, error = command(monkeypatch, capsys, "space", "show", SPACE, *budgets)
    assert code == 2 and out == "" and words in error and error.count("\n") == 1


# -- search ---------------------------------------------------------------------------------------------------------------------------


#: Accuracy in the place of a supernet's: more parameters are better.
SIZE = (
    "from hwnas.costs import params\nfrom hwnas.predictor import Additive\n\n\n"
    "def size(index):\n    return Additive(index, params(index.blocks) / 1e3, name='size', unit='%')\n"
)


@pytest.fixture
def asked(table, tmp_path):
    (tmp_path / "mine.py").write_text(SIZE)
    return {
        "table": table,
        "latency": "<= 70% p50",
        "macs": "<= 0.7M",
        "memory": "<= 45kB",
        "space": SPACE,
        "accuracy": f"{tmp_path / 'mine.py'}:size",
        "evaluations": 300,
        "options": ["population=20"],
    }


def test_a_search_keeps_all_budgets_and_says_what_they_leave(asked, tmp_path):
    found = hwnas.search(tmp_path / "run", **asked)
    assert [each["metric"] for each in found["budgets"]] == ["latency", "macs", "memory"]
    assert found["share"]["value"] == found["feasible_share"]
    networks = [*found["points"], *(point for each in found["baselines"].values() for point in each["points"])]
    assert len(networks) > 300
    for point in networks:
        graph = INDEX.space.lower(np.array(point["code"]))
        assert point["memory_bytes"] == graph.peak_activation_bytes() <= 45_000 and point["macs"] == sum(op.macs for op in graph.ops) <= 700_000
        assert point["latency_ms"] <= found["budget_ms"]
    rows = list(csv.DictReader((tmp_path / "run" / "front.csv").open()))
    assert list(rows[0])[:5] == ["accuracy_pct", "latency_ms_predicted", "macs", "params", "memory_bytes"]
    assert sorted(int(row["memory_bytes"]) for row in rows) == sorted(point["memory_bytes"] for point in found["points"] if point["on_front"])
    assert found["surrogate"]["optimum_pct"] >= found["points"][0]["accuracy_pct"] - 0.01  # solved under all three budgets
    assert hwnas.search(tmp_path / "run", **asked) == found


def test_the_exact_searcher_takes_a_memory_budget_beside_the_latency(asked, tmp_path):
    only = {key: value for key, value in asked.items() if key not in ("macs", "options")}
    found = hwnas.search(tmp_path / "run", **only, searcher="exact", baselines=False, options=["candidates=3"])
    assert len(found["points"]) == 3 and all(point["memory_bytes"] <= 45_000 for point in found["points"])
    evolved = hwnas.search(tmp_path / "evolved", **only, baselines=False)
    assert found["points"][0]["accuracy_pct"] >= evolved["points"][0]["accuracy_pct"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"macs": "<= 0.8M"}, "was begun with search macs = <= 0.7M, and now it is <= 0.8M"),
        ({"memory": None}, "was begun with search memory = <= 45kB, and now it is nothing"),
        ({"params": "<= 50k"}, "was begun with search params = nothing, and now it is <= 50k"),
    ],
)
def test_a_run_goes_on_under_the_budgets_it_was_begun_with(asked, tmp_path, change, words):
    hwnas.search(tmp_path / "run", **{**asked, "evaluations": 30}, baselines=False)
    with pytest.raises(InputError, match=words):
        hwnas.search(tmp_path / "run", **{**asked, "evaluations": 30, **change}, baselines=False)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"memory": "<= 1kB"}, Infeasible, "memory <= 1 kB cannot be met: every architecture of ofa_mini takes at least 24576 bytes"),
        ({"memory": "1kB"}, InputError, "'1kB' is no budget on memory; write '<= 512kB'"),
        ({"macs": "<= 1ms"}, InputError, "'<= 1ms' has the unit 'ms'; macs takes none, k, m, g or %"),
    ],
)
def test_a_budget_that_cannot_be_is_not_recorded(asked, tmp_path, change, kind, words):
    with pytest.raises(kind, match=words):
        hwnas.search(tmp_path / "run", **{**asked, **change})
    with RunDirectory(tmp_path / "run") as run:
        assert run.recorded_options("search") is None
    assert hwnas.search(tmp_path / "run", **{**asked, "evaluations": 20}, baselines=False)["points"]


def test_the_command_shows_every_budget_and_its_column(table, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(SIZE)
    monkeypatch.chdir(tmp_path)
    words = ("search", "run", "--table", table, "--latency", "<= 70% p50", "--params", "<= 60k", "--memory", "<= 45kB", "--space", SPACE)
    code, out, error = command(monkeypatch, capsys, *words, "--accuracy", "mine.py:size", "--evaluations", 60)
    assert code == 0, error
    assert "parameters 20.8 k ... 78.8 k; budget 60.0 k, " in out and "peak memory 24.6 kB ... 92.2 kB; budget 45.0 kB, " in out
    assert "of the space within all budgets" in out
    heading = next(line for line in out.splitlines() if line.startswith("by "))
    assert heading.split()[-4:] == ["MACs", "parameters", "peak", "memory"]


# -- runs of older versions -------------------------------------------------------------------------------------------------------------


def test_a_run_recorded_before_there_were_other_budgets_still_goes_on(asked, tmp_path, monkeypatch, capsys):
    plain = {key: value for key, value in asked.items() if key not in ("macs", "memory")}
    found = hwnas.search(tmp_path / "run", **plain, baselines=False)
    older = {key: value for key, value in found.items() if key not in NEW_KEYS}
    older["points"] = [{key: value for key, value in point.items() if key != "memory_bytes"} for point in found["points"]]
    with RunDirectory(tmp_path / "run") as run:
        assert not {"macs", "params", "memory"} & set(run.recorded_options("search"))
        run.finish("search", older)
        assert Job(run).result("search") == older
    words = ("search", tmp_path / "run", "--table", asked["table"], "--latency", "<= 70% p50", "--space", SPACE, "--accuracy", asked["accuracy"])
    code, out, error = command(monkeypatch, capsys, *words, "--evaluations", 300, "--set", "population=20", "--no-baselines")
    assert code == 0, error
    share = 100 * found["feasible_share"]
    assert out.startswith("latency ") and f"budget {found['budget_ms']:.4g} ms, {share:.0f} % of the space within it" in out
    assert hwnas.search(tmp_path / "run", **plain, baselines=False) == older
