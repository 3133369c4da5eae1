"""`specialize`: several tables and budgets from one supernet in one command."""

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


def test_each_target_has_a_subnet_within_its_budget_and_its_latency_everywhere(run, tmp_path):
    tables, latencies = [run.parent / "work", run.parent / "layers", run.parent / "work"], ["<= 70% p50", "<= 80% p90", "<= 55% p50"]
    found = specialize(run, tables=tables, latencies=latencies, predictor="ridge", measured=1, to=tmp_path / "nets", threads=1)
    rows = found["targets"]
    assert [row["table"] for row in rows] == ["work", "layers", "work"] and found["samples"] == 20 and found["predictor"] == "ridge"
    prices = [calibrated(LatencyTable.load(table), INDEX, quantile) for table, quantile in zip(tables, (0.5, 0.9, 0.5), strict=True)]
    for i, row in enumerate(rows):
        code = INDEX.space.encode(row["values"])
        assert row["latency_ms"] <= row["budget_ms"] and row["latency_origin"] == "simulated" and 0 < row["accuracy_pct"] < 100
        assert row["elsewhere_ms"] == pytest.approx([float(price(code)[0]) for price in prices]) and row["elsewhere_ms"][i] == pytest.approx(row["latency_ms"])
    assert rows[0]["elsewhere_ms"][2] > rows[2]["budget_ms"]  # another budget on the same device makes another network
    assert {path.name for path in (tmp_path / "nets").iterdir()} == {"1-work.json", "2-layers.json", "3-work.json"}
    architecture = Architecture.load(tmp_path / "nets" / "2-layers.json")
    assert architecture.values == rows[1]["values"] and architecture.code(INDEX.space)[0].tolist() == rows[1]["code"]


def test_the_command_shows_a_row_for_each_target_and_one_budget_stands_for_all(run):
    tables = ("--table", run.parent / "work", "--table", run.parent / "layers")
    code, out, _ = here("specialize", run, *tables, "--latency", "<= 75% p50", "--predictor", "ridge", "--measured", 1, "--threads", 1)
    rows = [line.split()[:2] for line in out.splitlines() if line.startswith(("1 ", "2 "))]
    assert code == 0 and rows == [["1", "work"], ["2", "layers"]]
    assert "fitted to 20 measured subnets" in out and "nothing is certified yet" in out


def test_bad_input_is_one_sentence(run):
    table = run.parent / "work"
    with pytest.raises(InputError, match="a budget for each, or one for all; got 1 and 2"):
        specialize(run, tables=[table], latencies=["<= 70% p50", "<= 60% p50"])
    with pytest.raises(InputError, match="--measured is 0"):
        specialize(run, tables=[table], latencies=["<= 70% p50"], measured=0)
    with pytest.raises(Infeasible, match="cannot be met"):
        specialize(run, tables=[table], latencies=["<= 0.001ms p50"], predictor="ridge", threads=1)
    with pytest.raises(InputError, match="no predictor of accuracy named 'rigde'"):
        specialize(run, tables=[table], latencies=["<= 70% p50"], predictor="rigde")
