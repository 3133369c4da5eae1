"""`hwnas bench-search`: somebody's searcher on the tabular benchmarks, beside others."""

import csv
import json

import numpy as np
import pytest
from commands import here
from published_benchmarks import macro_json, need

import hwnas
from hwnas import registry
from hwnas.benchmark_sources import SOURCES, fetch
from hwnas.errors import InputError
from hwnas.significance import mean_interval, sign_test
from hwnas.tabular_benchmark import reported, traced
from hwnas.verbs.bench_search import Searches, compared, standing

GREEDY = '''
import numpy as np
from hwnas.searcher import Ask

def greedy(problem, *, rng, starts: int = 5):
    """Mutants of the best one so far."""
    told = yield Ask(problem.sample_feasible(rng, starts))
    while True:
        rewards = problem.reward(told.scores)
        best = told.codes[int(np.argmax(rewards))][None] if len(rewards) else problem.sample_feasible(rng, 1)
        mutants = problem.space.mutate(np.repeat(best, 8, axis=0), rng, 0.1)
        told = yield Ask(np.asfortranarray(np.concatenate([best, mutants[problem.within(mutants)]])))

def wrong(problem, *, rng):
    yield Ask(problem.sample_feasible(rng, 1))
    raise KeyError("oh")

def trained(problem, *, rng, state):
    yield Ask(problem.sample_feasible(rng, 1))
'''


@pytest.fixture
def greedy(tmp_path):
    (tmp_path / "mine.py").write_text(GREEDY)
    return tmp_path / "mine.py"


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """NAS-Bench-Macro with drawn accuracies, fetched from a file: what a user without HWNAS_DATA has."""
    from dataclasses import replace

    monkeypatch.delenv("HWNAS_DATA", raising=False)
    monkeypatch.setenv("HWNAS_KEPT", str(tmp_path / "kept"))
    macro_json(tmp_path / "a.json")
    fetch(replace(SOURCES["nas_bench_macro"], sha256=None), file=tmp_path / "a.json")


def test_a_searcher_of_ones_own_stands_beside_random_search_and_the_field(greedy, drawn, tmp_path):
    curves = tmp_path / "curves.csv"
    arguments = ("bench-search", f"{greedy}:greedy", "--seeds", 6, "--evaluations", 20, "--evaluations", 40, "--set", "starts=3", "--curves", curves)
    code, out, error = here(*arguments)
    assert code == 0, error
    assert "greedy starts=3 (now)" in out and "random_search (now)" in out and "against random at 40" in out and f"anytime curves in {curves}" in out
    assert "nasbench201: there is no nb201_accuracy.csv.gz" in out, "what is not there is said"
    found = json.loads(here(*arguments, "--json")[1])
    (only,) = found["benchmarks"]
    assert only["benchmark"] == "nas_bench_macro" and found["evaluations"] == [20, 40] and found["options"] == {"starts": 3}
    # the stored field is of the published accuracies, so that here others are run
    assert {row["searcher"]: row["source"] for row in only["rows"]} == dict.fromkeys(
        ("greedy starts=3", "random_search", "regularized_evolution", "local_search"), "now"
    )
    assert [row["at"][-1]["mean_pct"] for row in only["rows"]] == sorted((row["at"][-1]["mean_pct"] for row in only["rows"]), reverse=True)
    for row in only["rows"]:
        last = row["at"][-1]
        assert last["low_pct"] <= last["mean_pct"] <= last["high_pct"] and last["regret"] == pytest.approx(only["best_pct"] - last["mean_pct"])
        assert row["cost"]["evaluations"] == 40 and row["cost"]["search_s_measured"] > 0 and row["cost"]["device_s_simulated"] is None
    with curves.open() as file:
        lines = list(csv.DictReader(file))
    assert {line["searcher"] for line in lines} == {row["searcher"] for row in only["rows"]} and lines[0]["evaluations"] == "1"


def test_what_is_compared_is_the_same_when_it_is_run_again(drawn):
    first, second = (hwnas.bench_search("local_search", benchmarks=["nas_bench_macro"], seeds=4, evaluations=[30]) for _ in range(2))
    for each in (first, second):
        for row in each["benchmarks"][0]["rows"]:
            row["cost"].pop("search_s_measured")
    assert first == second
    assert [row["searcher"] for row in first["benchmarks"][0]["rows"]].count("local_search") == 1


def test_the_baseline_against_itself_has_neither_wins_nor_losses(drawn):
    found = hwnas.bench_search("random_search", benchmarks=["nas_bench_macro"], seeds=3, evaluations=[10])
    (row,) = [row for row in found["benchmarks"][0]["rows"] if row["searcher"] == "random_search"]
    assert (row["at"][0]["wins"], row["at"][0]["losses"], row["at"][0]["p"]) == (0, 0, 1.0)


def test_the_stored_field_stands_beside_a_searcher(greedy):
    need("nb201_accuracy.csv.gz")
    found = hwnas.bench_search(f"{greedy}:greedy", benchmarks=["nasbench201"], seeds=10, evaluations=[100, 300])
    rows = {row["searcher"]: row for row in found["benchmarks"][0]["rows"]}
    assert rows["regularized_evolution"]["source"].startswith("stored, hwnas ") and rows["regularized_evolution"]["seeds"] == 10
    assert rows["regularized_evolution"]["cost"]["search_s_measured"] is None
    again = hwnas.bench_search("regularized_evolution", benchmarks=["nasbench201"], seeds=10, evaluations=[100])
    (now,) = [row for row in again["benchmarks"][0]["rows"] if row["searcher"] == "regularized_evolution"]
    assert now["source"] == "now" and now["at"][0]["mean_pct"] == pytest.approx(rows["regularized_evolution"]["at"][0]["mean_pct"], abs=1e-9)


def test_a_few_lucky_seeds_are_not_what_the_others_are_measured_by():
    need("nb201_accuracy.csv.gz")
    made = registry.create("tabular_benchmarks", "nasbench201")
    searchers = {name: registry.load("searchers", name) for name in ("random_search", "local_search")}
    traces = {name: [traced(made, each, seed=seed, evaluations=100) for seed in range(12)] for name, each in searchers.items()}
    last = [float(reported(made, [trace], 100)[0]) for trace in traces["local_search"]]
    lucky = [traces["local_search"][i] for i in np.argsort(last)[-2:]]
    runs = [Searches(name, "now", each) for name, each in {**traces, "lucky": lucky}.items()]
    rows = {row["searcher"]: row for row in compared(made, runs, traces["random_search"], [100])}
    assert next(iter(rows)) == "lucky", "the best mean is the first"
    assert {name: standing(row) for name, row in rows.items()} == {"lucky": "too few seeds to tell", "local_search": "level with the best", "random_search": ""}


def test_what_cannot_be_is_refused_in_a_sentence(greedy, drawn):
    refusals = (
        ((f"{greedy}:wrong",), "wrong failed with seed 0: KeyError"),
        ((f"{greedy}:trained",), "trains shared weights"),
        ((f"{greedy}:none",), "no function 'none'"),
        (("random_serch",), "did you mean 'random_search'"),
        (("random_search", "--set", "batch=0"), "batch >= 1"),
        (("random_search", "--set", "size=1"), "no option of random_search named 'size'"),
        (("random_search", "--seeds", 1), "--seeds is 1"),
        (("random_search", "--evaluations", 0), "--evaluations must be"),
        (("random_search", "--benchmark", "nasbench201"), "hwnas data fetch nasbench201"),
        (("random_search", "--benchmark", "nas_bench_macro(share=7)"), "share is 7"),
        (("random_search", "--benchmark", "cifar"), "no tabular benchmark named 'cifar'"),
    )
    for arguments, words in refusals:
        code, _, error = here("bench-search", "--evaluations", 10, "--seeds", 2, *arguments)
        assert code == 2 and words in error and "Traceback" not in error, (arguments, error)


def test_where_no_data_is_there_one_sentence_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.delenv("HWNAS_DATA", raising=False)
    monkeypatch.setenv("HWNAS_KEPT", str(tmp_path))
    with pytest.raises(InputError, match=r"no benchmark is there: nasbench201: there is no .*hwnas data fetch nasbench201"):
        hwnas.bench_search("random_search")


def test_the_sign_test_is_the_binomial_one_and_intervals_hold_the_mean():
    from scipy.stats import binomtest

    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 4, 40).astype(float), rng.integers(0, 4, 40).astype(float)
    found = sign_test(first, second)
    assert found.p == pytest.approx(binomtest(found.wins, found.wins + found.losses, alternative="greater").pvalue)
    assert found.two_sided == pytest.approx(binomtest(found.wins, found.wins + found.losses).pvalue)
    assert found.wins == (first > second).sum() and sign_test(first, first).p == sign_test(first, first).two_sided == 1.0
    inside = 0
    for _ in range(200):
        low, high = mean_interval(rng.normal(1, 2, 30))
        inside += low <= 1 <= high
    assert 180 <= inside <= 198
    with pytest.raises(InputError):
        sign_test(first, second[1:])
    with pytest.raises(InputError):
        mean_interval(np.empty(0))


OWN = '''
import numpy as np
from hwnas.index import BlockIndex
from hwnas.problem import Objective, Problem
from hwnas.spaces.nas_bench_macro import nas_bench_macro
from hwnas.tabular_benchmark import Tabulated, TabularBenchmark

def ones(weight: float = 1.0):
    """Networks are as good as they have second operations."""
    counts = weight * (np.indices((3,) * 8) == 1).sum(axis=0)
    signal = Tabulated(counts, name="accuracy", unit="%", expensive=True)
    problem = Problem(BlockIndex(nas_bench_macro()), [Objective(signal, maximize=True)])
    return TabularBenchmark(problem, Tabulated(counts, name="ones", unit="%"), 8 * weight, "ones", "drawn")

def none():
    return 3
'''


def test_a_benchmark_of_ones_own_is_one(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    found = hwnas.bench_search("local_search", benchmarks=[f"{tmp_path}/own.py:ones(weight=2.0)"], seeds=3, evaluations=[40, 400])
    rows = {row["searcher"]: row["at"] for row in found["benchmarks"][0]["rows"]}
    assert rows["local_search"][-1]["mean_pct"] == 16 and rows["local_search"][-1]["regret"] == 0 < rows["random_search"][-1]["regret"]
    with pytest.raises(InputError, match="must return a TabularBenchmark"):
        hwnas.bench_search("local_search", benchmarks=[f"{tmp_path}/own.py:none"])
