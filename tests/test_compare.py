"""`compare`: equal cost, the same question, random search beside, and no winner inside the noise."""

import json

import pytest
from commands import copied, here
from simulated_tables import simulated_table

import hwnas
from hwnas import registry
from hwnas.errors import InputError
from hwnas.index import BlockIndex
from hwnas.run import RunDirectory
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.verbs.compare import compare

INDEX = BlockIndex(ofa_mini())
SEEDS = range(7)  # 2 / 2 ** 7 is below 5 % for each of two comparisons
WORTH = """
import numpy as np
from hwnas.predictor import Additive

def worth(index):
    return Additive(index, np.random.default_rng(7).uniform(0, 5, len(index.blocks)), name="accuracy", unit="%")
"""


def table_of(index, folder):
    simulated_table(index, lambda total, layers, activations: 0.01 + 0.8 * total).save(folder)
    return folder


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """Runs by a predictor, seven seeds of each of two searchers: (searcher, seed) -> folder."""
    folder = tmp_path_factory.mktemp("compared")
    table = table_of(INDEX, folder / "table")

    (folder / "worth.py").write_text(WORTH)
    runs = {}
    for searcher in ("regularized_evolution", "quasi_random"):
        for seed in SEEDS:
            runs[searcher, seed] = folder / f"{searcher}{seed}"
            how = {"searcher": searcher, "evaluations": 40, "seed": seed}
            hwnas.search(runs[searcher, seed], table=table, latency="<= 60% p50", space="ofa_mini", accuracy=f"{folder}/worth.py", **how)
    return runs


def test_a_searcher_that_wins_with_every_seed_is_the_winner(predicted):
    found = compare([predicted[key] for key in predicted])
    assert found["winner"] == found["best"] == "regularized_evolution" and found["evaluations"] == 40
    methods = {each["method"]: each for each in found["methods"]}
    assert set(methods) == {"regularized_evolution", "quasi_random", "random_search"}
    assert all(each["seeds"] == list(SEEDS) for each in methods.values())  # random search stands beside both searchers, and counts once
    for pair in found["pairs"]:
        if pair["first"] == found["winner"]:
            assert (pair["wins"], pair["losses"], pair["by"]) == (7, 0, "seeds") and pair["p"] == 2 / 2**7 and pair["low_points"] > 0
            assert pair["p"] < 0.05 / 2
            assert pair["difference_points"] == pytest.approx(methods[pair["first"]]["accuracy_pct"] - methods[pair["second"]]["accuracy_pct"])
    assert methods["regularized_evolution"]["hypervolume"] > methods["random_search"]["hypervolume"]


def test_with_six_seeds_nobody_wins_against_two(predicted):
    found = compare([folder for (_, seed), folder in predicted.items() if seed < 6])
    assert found["winner"] is None and all(pair["p"] >= 0.05 / 2 for pair in found["pairs"])


def test_without_seeds_in_common_it_takes_five_runs_of_each(predicted):
    few = [predicted["regularized_evolution", seed] for seed in (0, 1)] + [predicted["quasi_random", seed] for seed in (2, 3)]
    found = compare(few)
    pair = next(each for each in found["pairs"] if {each["first"], each["second"]} == {"regularized_evolution", "quasi_random"})
    assert pair["by"] == "runs" and pair["low_points"] > 0 and not pair["better"] and found["winner"] is None


def test_one_run_of_each_without_images_tells_nothing_of_the_noise(predicted):
    found = compare([predicted["regularized_evolution", 0], predicted["quasi_random", 0]])
    assert found["winner"] is None and {pair["by"] for pair in found["pairs"]} == {"nothing"}


def test_the_command_says_it_in_words_and_as_json(predicted):
    runs = [*predicted.values()]
    code, out, _ = here("compare", *runs)
    assert code == 0 and "winner: regularized_evolution, better than every other beyond the noise" in out and "7 won and 0 lost of 7 seeds" in out
    code, out, _ = here("compare", *runs[:2], "--json")
    assert code == 0 and json.loads(out) == json.loads(json.dumps(compare(runs[:2])))
    code, out, _ = here("compare", *runs[:2])
    assert "no winner: " in out


# -- with a supernet --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched(trained, tmp_path_factory):
    """Two searches of one supernet, of 6 and of 4 evaluations."""
    folder = tmp_path_factory.mktemp("searched")
    table = table_of(BlockIndex(registry.create("spaces", "ofa_mini(resolutions=(24,))")), folder / "table")
    runs = []
    for searcher, evaluations in (("local_search", 6), ("quasi_random", 4)):
        runs.append(copied(trained, folder / searcher))
        hwnas.search(runs[-1], table=table, latency="<= 90% p50", memory="<= 60%", searcher=searcher, evaluations=evaluations, threads=1)
    return runs


def test_searches_are_compared_as_they_stood_at_the_cost_of_the_shortest(searched):
    before = {path: path.read_bytes() for run in searched for path in run.rglob("*") if path.is_file() and path.suffix in (".sqlite", ".toml", ".csv")}
    found = compare(searched)
    assert found["evaluations"] == 4 and found["supernets"] == 1 and found["accuracy_origin"] == "measured"
    methods = {each["method"]: each for each in found["methods"]}
    assert set(methods) == {"local_search", "quasi_random", "random_search"}
    assert len(methods["random_search"]["runs"]) == 1  # each run has the same one beside it
    with RunDirectory(searched[0], write=False) as run:
        evaluated = [event.body["values"][0] for event in run.events("search", "evaluated")]
    assert len(evaluated) == 6 and methods["local_search"]["accuracy_pct"] == max(evaluated[:4])
    for pair in found["pairs"]:
        assert pair["by"] == "validation images" and pair["low_points"] <= pair["difference_points"] <= pair["high_points"]
        assert pair["difference_points"] == pytest.approx(methods[pair["first"]]["accuracy_pct"] - methods[pair["second"]]["accuracy_pct"])
        assert pair["better"] == (pair["low_points"] > 0)
    assert found["winner"] is None
    assert "one run of each tells of two networks, not of the methods" in here("compare", *searched)[1]
    assert {path: path.read_bytes() for path in before} == before  # nothing is written


# -- refusals ---------------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_compared_is_refused_by_name(predicted, searched, tmp_path):
    runs = [*predicted.values()][:2]
    with pytest.raises(InputError, match="two or more different runs"):
        compare([runs[0], runs[0]])
    with pytest.raises(InputError, match="is no run"):
        compare([runs[0], tmp_path])
    with pytest.raises(InputError, match="--evaluations is 41, and the shortest of these searches has 40"):
        compare(runs, evaluations=41)
    with pytest.raises(InputError, match="--evaluations is 0"):
        compare(runs, evaluations=0)
    with pytest.raises(InputError, match="are not recorded one by one"):
        compare(runs, evaluations=20)
    with pytest.raises(InputError, match=r"was searched with space .* and .* with .*: they answer different questions"):
        compare([runs[0], searched[0]])


def test_other_budgets_and_runs_without_random_search_are_refused(predicted, tmp_path):
    table = table_of(INDEX, tmp_path / "table")
    accuracy = f"{predicted['quasi_random', 0].parent}/worth.py"
    given = {"table": table, "space": "ofa_mini", "accuracy": accuracy, "evaluations": 40, "seed": 1}
    first = predicted["quasi_random", 0]
    hwnas.search(tmp_path / "other", latency="<= 70% p50", **given)
    with pytest.raises(InputError, match=r"was searched with latency <= 60% p50 and .* with <= 70% p50"):
        compare([first, tmp_path / "other"])
    hwnas.search(tmp_path / "small", latency="<= 60% p50", size="<= 90%", **given)
    with pytest.raises(InputError, match=r"was searched with size none and .* with <= 90%"):
        compare([first, tmp_path / "small"])
    hwnas.search(tmp_path / "soft", latency="<= 60% p50", reward="mnasnet_soft", **given)
    assert "regularized_evolution for mnasnet_soft" in {each["method"] for each in compare([first, tmp_path / "soft"])["methods"]}
    hwnas.search(tmp_path / "alone", latency="<= 60% p50", baselines=False, **given)
    with pytest.raises(InputError, match="has no random search beside it"):
        compare([first, tmp_path / "alone"])
