"""`specialize`: several tables and budgets from one supernet in one command."""

import json

import numpy as np
import pytest
from commands import copied, here
from simulated_tables import simulated_table

from hwnas import registry
from hwnas.architecture import Architecture
from hwnas.errors import Infeasible, InputError
from hwnas.index import BlockIndex
from hwnas.latency_table import LatencyTable
from hwnas.predictors.calibrated import calibrated
from hwnas.verbs.specialize import specialize

INDEX = BlockIndex(registry.create("spaces", "ofa_mini(resolutions=(24,))"))


@pytest.fixture(scope="module")
def run(built, tmp_path_factory):
    """A run with measured accuracies, and tables of a device that feels the work and one that feels the layers."""
    folder = tmp_path_factory.mktemp("specialized")
    simulated_table(INDEX, lambda total, layers, activations: 0.01 + 0.8 * total).save(folder / "work")
    simulated_table(INDEX, lambda total, layers, activations: 0.05 + 0.01 * total + 0.3 * layers).save(folder / "layers")
    return copied(built, folder / "run")


def test_each_target_has_a_subnet_within_its_budget_and_its_latency_everywhere(run):
    tables, latencies = [run.parent / "work", run.parent / "layers", run.parent / "work"], ["<= 70% p50", "<= 80% p90", "<= 55% p50"]
    found = specialize(run, tables=tables, latencies=latencies, predictor="ridge", measured=2, threads=1)
    rows = found["targets"]
    assert [row["table"] for row in rows] == ["work", "layers", "work"] and found["samples"] == 20 and found["predictor"] == "ridge"
    prices = [calibrated(LatencyTable.load(table), INDEX, quantile) for table, quantile in zip(tables, (0.5, 0.9, 0.5), strict=True)]
    for i, row in enumerate(rows):
        code = INDEX.space.encode(row["values"])
        assert row["latency_ms"] <= row["budget_ms"] and row["latency_origin"] == "simulated"
        assert row["elsewhere_ms"] == pytest.approx([float(price(code)[0]) for price in prices]) and row["elsewhere_ms"][i] == pytest.approx(row["latency_ms"])
        assert 0 <= row["accuracy_pct"] <= 100
    assert rows[0]["latency_ms"] > rows[2]["budget_ms"]  # another budget on the same device makes another network


def test_one_budget_stands_for_all_and_files_are_written(run, tmp_path):
    asked = ("specialize", run, "--table", run.parent / "work", "--table", run.parent / "layers", "--latency", "<= 75% p50")
    how = ("--predictor", "ridge", "--measured", 1, "--threads", 1)
    code, out, _ = here(*asked, *how, "--to", tmp_path / "nets", "--json")
    found = json.loads(out)
    assert code == 0 and {path.name for path in (tmp_path / "nets").iterdir()} == {"1-work.json", "2-layers.json"}
    for i, name in enumerate(("1-work.json", "2-layers.json")):
        architecture = Architecture.load(tmp_path / "nets" / name)
        assert architecture.values == found["targets"][i]["values"] and architecture.code(INDEX.space)[0].tolist() == found["targets"][i]["code"]
    code, out, _ = here(*asked, *how)
    assert code == 0 and "nothing is certified yet" in out and "75" not in out.split("\n")[0]


def test_the_accuracy_is_what_the_supernet_measures(run):
    from hwnas.run import RunDirectory
    from hwnas.verbs.common import Job

    found = specialize(run, tables=[run.parent / "work"], latencies=["<= 70% p50"], predictor="ridge", measured=3, threads=1)
    (row,) = found["targets"]
    with RunDirectory(run, write=False) as directory:
        assert float(Job(directory).accuracy(np.array([row["code"]], np.int16))[0]) == row["accuracy_pct"]


def test_bad_input_is_one_sentence(run, trained):
    table = run.parent / "work"
    with pytest.raises(InputError, match="a budget for each, or one for all; got 1 and 2"):
        specialize(run, tables=[table], latencies=["<= 70% p50", "<= 60% p50"])
    with pytest.raises(InputError, match="--measured is 0"):
        specialize(run, tables=[table], latencies=["<= 70% p50"], measured=0)
    with pytest.raises(Infeasible, match="cannot be met"):
        specialize(run, tables=[table], latencies=["<= 0.001ms p50"], predictor="ridge")
    with pytest.raises(InputError, match="no predictor of accuracy named 'rigde'"):
        specialize(run, tables=[table], latencies=["<= 70% p50"], predictor="rigde")
