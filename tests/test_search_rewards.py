"""`search --reward`: what is searched by, recorded, and what is found keeps the budget whatever it is."""

import json
import sys
from contextlib import suppress

import numpy as np
import pytest

import hwnas
from hwnas import cli, registry
from hwnas.errors import InputError
from hwnas.index import BlockIndex
from hwnas.run import RunDirectory
from tests.simulated_tables import simulated_table

SPACE = "ofa_mini"
ACCURACY = "from hwnas.predictor import Additive\nfrom hwnas.costs import params\n\ndef size(index):\n"
ACCURACY += "    return Additive(index, 1e-4 * params(index.blocks), name='accuracy', unit='%')\n"


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """What every search is given: a table, and the number of parameters as accuracy."""
    folder = tmp_path_factory.mktemp("given")
    simulated_table(BlockIndex(registry.create("spaces", SPACE)), lambda total, layers, activations: 0.01 + 0.8 * total).save(folder / "table")
    (folder / "accuracy.py").write_text(ACCURACY)
    return {
        "table": folder / "table",
        "latency": "<= 55% p50",
        "space": SPACE,
        "accuracy": f"{folder / 'accuracy.py'}:size",
        "evaluations": 300,
        "baselines": False,
    }


def test_a_reward_is_searched_by_and_recorded_and_what_is_found_keeps_the_budget(given, tmp_path):
    def search(name, reward, *options):
        found = hwnas.search(tmp_path / name, **given, searcher="reinforce", options=["sampling=free", *options], reward=reward)
        points = found["points"]
        assert points and all(point["latency_ms"] <= found["budget_ms"] for point in points)
        assert [point["accuracy_pct"] for point in points] == sorted((point["accuracy_pct"] for point in points), reverse=True)
        return len(points), np.mean([point["latency_ms"] for point in points]) / found["budget_ms"]

    soft, hard = search("soft", "mnasnet_soft(exponent=-2.0)"), search("hard", "proxylessnas_additive(weight=0)")
    assert soft[0] > hard[0] and soft[1] < hard[1]  # one flees from latency, the other does not mind it
    with RunDirectory(tmp_path / "soft", write=False) as run:
        assert run.recorded_options("search")["reward"] == "mnasnet_soft(exponent=-2.0)"


def test_a_run_goes_on_with_its_reward_only(given, tmp_path):
    first = hwnas.search(tmp_path / "run", **given, reward="absolute")
    assert hwnas.search(tmp_path / "run", **given, reward="absolute") == first
    with pytest.raises(InputError, match="was begun with search reward = absolute, and now it is mnasnet_hard"):
        hwnas.search(tmp_path / "run", **given, reward="mnasnet_hard")
    with pytest.raises(InputError, match="was begun with search reward = absolute, and now it is nothing"):
        hwnas.search(tmp_path / "run", **given)
    hwnas.search(tmp_path / "default", **given)
    with RunDirectory(tmp_path / "default", write=False) as run:
        assert "reward" not in run.recorded_options("search")  # as runs of versions that had none


def test_a_reward_that_is_none_leaves_no_folder(given, tmp_path, monkeypatch, capsys):
    options = [text for name, value in given.items() if name != "baselines" for text in (f"--{name}", str(value))]
    for reward, sentence in (("mnasnet", "error: no reward named 'mnasnet'"), ("absolute(weight=-1)", "it would reward being over the budget")):
        monkeypatch.setattr(sys, "argv", ["hwnas", "search", str(tmp_path / "run"), *options, "--reward", reward])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2 and sentence in capsys.readouterr().err and not (tmp_path / "run").exists()
    monkeypatch.setattr(sys, "argv", ["hwnas", "search", str(tmp_path / "run"), *options, "--no-baselines", "--reward", "mnasnet_hard(exponent=-2)", "--json"])
    with suppress(SystemExit):
        cli.main()
    assert json.loads(capsys.readouterr().out)["points"]
