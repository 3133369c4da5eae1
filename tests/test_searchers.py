import csv
import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from skeletons import growing, weight_sharing

from hwnas import registry
from hwnas.budget import Budget
from hwnas.costs import macs, params
from hwnas.driver import drive
from hwnas.errors import CheckFailed, InputError
from hwnas.index import BlockIndex
from hwnas.predictor import Additive
from hwnas.problem import Objective, Problem
from hwnas.searcher import Ask, Told, options_of, trains
from hwnas.searchers.hyperband import hyperband
from hwnas.searchers.random_search import random_search
from hwnas.searchers.regularized_evolution import regularized_evolution
from hwnas.searchers.uniform_scaling import uniform_codes, uniform_scaling
from hwnas.spaces.nas_bench_macro import nas_bench_macro
from hwnas.testing import check_searcher, toy_problem

#: Searchers whose proposals take long, and what is left out of their check here; benchmarks/search_macro.py has them beside random search.
LITTLE: dict[str, object] = {"seeds": 8, "evaluations": 40}
SHORTER = {"gp": {"evaluations": 11, "baseline": None}, "asha": LITTLE, "catcma": LITTLE, "cma_es": LITTLE, "nsga3": LITTLE, "tpe": LITTLE}


@pytest.mark.parametrize("name", registry.names("searchers"))
def test_every_searcher_keeps_the_contract(name):
    if trains(registry.load("searchers", name)):
        baseline = f"{SKELETONS / 'weight_sharing.py'}:single_path"
        check_searcher(name, problem=weight_sharing.budgeted, trainer=weight_sharing.supernet_of, baseline=baseline, options={"rounds": 12})
    else:
        check_searcher(name, **SHORTER.get(name, {}))


# -- the four kinds of searcher that the contract is for ------------------------------------------------------------------------------

SKELETONS = Path(__file__).parent / "skeletons"


def test_hyperband_spends_its_brackets_as_published():
    result = drive(hyperband, toy_problem(), seed=0, evaluations=9)
    # eta 3, three rungs: 9 at 1/9, 3 at 1/3, 1 at 1; then 5 at 1/3, 1 at 1; then 3 at 1, which is 8 2/3 evaluations
    assert np.round(9 * result.fidelity).astype(int).tolist()[:22] == [1] * 9 + [3] * 3 + [9] + [3] * 5 + [9] + [9] * 3


@pytest.mark.parametrize("name", ["differentiable", "single_path"])
def test_a_searcher_that_trains_keeps_the_contract(name):
    baseline = f"{SKELETONS / 'weight_sharing.py'}:single_path"
    check_searcher(f"{SKELETONS / 'weight_sharing.py'}:{name}", problem=weight_sharing.budgeted, trainer=weight_sharing.supernet_of, baseline=baseline)


@pytest.mark.parametrize("name", ["hill_climbing", "random_growth"])
def test_a_searcher_whose_space_grows_keeps_the_contract(name):
    check_searcher(f"{SKELETONS / 'growing.py'}:{name}", problem=growing.morphs, baseline=f"{SKELETONS / 'growing.py'}:random_growth")


FORGETS_TO_BEGIN = """
from hwnas.blocks import conv_bn_act
from hwnas.searcher import Ask

def plugin(problem, *, rng):
    while True:
        yield Ask(problem.space.add([conv_bn_act((1, 3, 12, 12), int(rng.integers(1, 50)))]))
"""


def test_rows_that_depend_on_what_the_space_was_used_for_before_are_found(tmp_path):
    (tmp_path / "plugin.py").write_text(FORGETS_TO_BEGIN)
    with pytest.raises(CheckFailed, match="two searches with the same seed differ"):
        check_searcher(f"{tmp_path / 'plugin.py'}:plugin", problem=growing.morphs, baseline=None)


def test_a_problem_without_anything_to_pay_for_proves_nothing():
    toy = toy_problem()
    with pytest.raises(CheckFailed, match="no metric with `expensive = True`"):
        check_searcher("random_search", problem=lambda: Problem(toy.index, [Objective(toy.budgets[0][1])]))


def test_at_a_share_of_an_evaluation_the_toy_problem_is_noisy_and_the_noise_is_always_the_same():
    gain = toy_problem().objectives[0].metric
    codes = toy_problem().space.sample(np.random.default_rng(0), 500)
    off = {share: gain.at(share)(codes) - gain(codes) for share in (1 / 9, 1 / 3, 1.0)}
    assert 0.9 < off[1 / 9].std() < 1.1 and 0.3 < off[1 / 3].std() < 0.45 and not off[1.0].any()  # 0.5 * (1 / sqrt(share) - 1)
    assert np.array_equal(gain.at(1 / 9)(codes[::-1]), gain.at(1 / 9)(codes)[::-1])


# -- the check finds what it is for: each of these is written to a file and loaded as a plug-in ------------------------------------

HEAD = "import numpy as np\nfrom hwnas.searcher import Ask\n"
FAULTY = {
    "global_randomness": (
        "def plugin(problem, *, rng):\n    own = np.random.default_rng()\n    while True:\n        yield Ask(problem.sample_feasible(own, 4))\n",
        "two searches with the same seed differ",
    ),
    "state_outside": (
        "memory = []\n"
        "def plugin(problem, *, rng):\n"
        "    while True:\n"
        "        told = yield Ask(problem.sample_feasible(np.random.default_rng(len(memory) % 90), 1))\n"
        "        memory.append(told)\n",
        "two searches with the same seed differ",
    ),
    "looks_at_what_is_not_recorded": (
        "def plugin(problem, *, rng):\n"
        "    start = problem.objectives[0].metric.evaluated\n"
        "    while True:\n"
        "        count = problem.objectives[0].metric.evaluated - start\n"
        "        yield Ask(problem.sample_feasible(np.random.default_rng([count, int(rng.integers(99))]), 1))\n",
        "was written by another searcher, seed or version",
    ),
    "out_of_range": ("def plugin(problem, *, rng):\n    yield Ask(problem.space.largest() + 1)\n", r"code 4 of layer0.kernel in row 0 is outside 0..3"),
    "no_budget": ("def plugin(problem, *, rng):\n    yield Ask(problem.space.largest())\n", "none of 1 candidates keeps the budget"),
    "worse_than_random": (
        "def plugin(problem, *, rng):\n"
        "    while True:\n"
        "        code = problem.space.smallest()\n"
        "        code[0, rng.integers(6)] = rng.integers(3)\n"
        "        yield Ask(code)\n",
        r"finds worse networks than random_search with 20 of 20 seeds",
    ),
    "not_a_generator": ("def plugin(problem, *, rng):\n    return None\n", "is not a searcher"),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_the_check_names_the_fault_of_a_plug_in(fault, tmp_path):
    source, sentence = FAULTY[fault]
    (tmp_path / "plugin.py").write_text(HEAD + source)
    name = f"{tmp_path / 'plugin.py'}:plugin"
    with pytest.raises(CheckFailed, match=sentence):
        check_searcher(name)


ALL_AT_ONCE = """
def plugin(problem, *, rng, pending: int = 0):
    while True:
        codes = problem.sample_feasible(rng, 4)
        told = yield Ask(codes, pending=pending)
        if not np.array_equal(told.codes, codes):
            raise RuntimeError("I wanted these four in this order")
"""


def test_a_plug_in_that_takes_answers_for_its_last_question_fails_with_pending_ones(tmp_path):
    (tmp_path / "plugin.py").write_text(HEAD + ALL_AT_ONCE)
    with pytest.raises(RuntimeError, match="I wanted these four"):
        check_searcher(f"{tmp_path / 'plugin.py'}:plugin")


def test_the_toy_problem_has_one_optimum_and_it_uses_the_budget():
    problem = toy_problem()
    everything = np.asfortranarray(np.indices((4,) * 6).reshape(6, -1).T, np.int16)
    scores = problem.evaluate(everything)
    best = np.sort(problem.reward(scores))[::-1]
    winner = int(np.argmax(problem.reward(scores)))
    assert best[0] > best[1] and 0.9 < scores.ratio[winner] <= 1.0
    assert len(set(everything[winner].tolist())) > 1  # no uniform network


def test_evolution_finds_the_optimum_of_the_toy_problem_far_more_often_than_random_search():
    problem = toy_problem()
    everything = np.asfortranarray(np.indices((4,) * 6).reshape(6, -1).T, np.int16)
    optimum = problem.reward(problem.evaluate(everything)).max()

    def hits(searcher):
        return sum(drive(searcher, toy_problem(), seed=seed, evaluations=300).scores.values.max() >= optimum for seed in range(10))

    feasible = int(problem.within(everything).sum())
    # random search meets the single best of `feasible` codes with chance 1 - (1 - 1 / feasible) ** 300, about one in eight
    assert 0.05 < 1 - (1 - 1 / feasible) ** 300 < 0.2
    assert hits(regularized_evolution) >= 8 > hits(random_search)


def test_every_candidate_of_the_shipped_searchers_is_within_the_budget_and_evolution_repeats_none():
    for searcher in (random_search, regularized_evolution):
        result = drive(searcher, toy_problem(), seed=3, evaluations=150)
        assert result.scores.feasible.all() and len(result.codes) == 150
    problem, asked = toy_problem(), []
    search = regularized_evolution(problem, rng=np.random.default_rng(0))
    request = next(search)
    for _ in range(100):
        asked += request.codes.tolist()
        request = search.send(Told(request.codes, problem.evaluate(request.codes), np.arange(len(request.codes))))
    assert len(asked) == 24 + 4 + 98 == len(set(map(tuple, asked)))  # population, seeds, children


def test_the_oldest_die_even_if_they_are_best():
    """With a population of one and no crossover, evolution is a random walk: every child is a mutant of the child before."""
    problem, asked = toy_problem(), []
    search = regularized_evolution(problem, rng=np.random.default_rng(1), population=1, tournament=1, mutation=0.0, crossover=0.0, seeds=0)
    request = next(search)
    for _ in range(40):
        asked.append(request.codes[0])
        request = search.send(Told(request.codes, problem.evaluate(request.codes), np.arange(1)))
    steps = np.abs(np.diff(np.array(asked), axis=0))
    assert ((steps > 0).sum(axis=1) == 1).all()


def test_children_come_in_rounds_of_the_size_asked_for():
    problem = toy_problem()
    search = regularized_evolution(problem, rng=np.random.default_rng(1), population=10, tournament=2, children=7)
    sizes = []
    request = next(search)
    for _ in range(4):
        assert isinstance(request, Ask)
        sizes.append(len(request.codes))
        request = search.send(Told(request.codes, problem.evaluate(request.codes), np.arange(len(request.codes))))
    assert sizes == [10, 4, 7, 7]  # population, seeds, children


def test_evolution_ends_when_it_has_seen_all_that_fits():
    toy = toy_problem()
    cost = toy.budgets[0][1]
    everything = np.asfortranarray(np.indices((4,) * 6).reshape(6, -1).T, np.int16)
    few = np.sort(cost(everything))[29]  # thirty networks
    result = drive(regularized_evolution, Problem(toy.index, toy.objectives, [(Budget("macs", float(few)), cost)]), seed=0, evaluations=500)
    assert result.evaluations == len(result.codes) == (cost(everything) <= few).sum()


@pytest.mark.parametrize(
    ("option", "value"),
    [("population", 0), ("tournament", 25), ("tournament", 0), ("mutation", 1.5), ("crossover", -0.1), ("children", 0), ("seeds", -1), ("pending", -1)],
)
def test_impossible_options_of_evolution_are_refused(option, value):
    with pytest.raises(InputError, match=f"regularized_evolution needs 1 <= tournament <= population, .* got .*{option}={value}"):
        drive(regularized_evolution, toy_problem(), seed=0, evaluations=5, options={option: value})


def test_impossible_options_of_random_search_are_refused():
    with pytest.raises(InputError, match="batch >= 1"):
        drive(random_search, toy_problem(), seed=0, evaluations=5, options={"batch": 0})


# -- trained networks ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    folder = os.environ.get("HWNAS_DATA")
    file = Path(folder or ".") / "nas_bench_macro_cifar10.csv.gz"
    if folder is None or not file.exists():
        pytest.skip("HWNAS_DATA does not name a folder with nas_bench_macro_cifar10.csv.gz (github.com/xiusu/NAS-Bench-Macro)")

    with gzip.open(file, "rt") as rows:
        return list(csv.DictReader(rows))


def test_the_space_of_nas_bench_macro_has_the_published_costs_of_all_its_networks(trained):
    index = BlockIndex(nas_bench_macro())
    codes = np.asfortranarray([[int(digit) for digit in row["arch"]] for row in trained], np.int16)
    for price, column in ((macs, "flops"), (params, "params")):
        assert Additive(index, price(index.blocks), name=column, unit="")(codes).tolist() == [float(row[column]) for row in trained]


def test_evolution_beats_random_search_on_trained_networks_under_a_budget(trained):

    table = np.full((3,) * 8, np.nan)
    for row in trained:
        table[tuple(map(int, row["arch"]))] = float(row["mean_acc"])

    class Accuracy:
        name, unit, origin, expensive = "accuracy", "%", "measured", True

        def __call__(self, codes):
            return table[tuple(codes.T)]

    index = BlockIndex(nas_bench_macro())
    cost = Additive(index, macs(index.blocks), name="macs", unit="MACs")
    problem = Problem(index, [Objective(Accuracy(), maximize=True)], [(Budget("macs", None, share=0.5), cost)])

    def best(searcher, seed):
        result = drive(searcher, problem, seed=seed, evaluations=150)
        return float(result.scores.values[result.ranked()[0], 0])

    pairs = [(best(regularized_evolution, seed), best(random_search, seed)) for seed in range(20)]
    wins, losses = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    assert wins >= 14 and losses <= 4, (wins, losses)  # 14 of 18 and better: p = 0.015


# -- documentation ------------------------------------------------------------------------------------------------------------------


def test_the_searcher_of_the_documentation_keeps_the_contract(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "add_a_searcher.md").read_text()
    (tmp_path / "hill_climbing.py").write_text(page.split("```python\n")[1].split("```")[0])
    check_searcher(f"{tmp_path / 'hill_climbing.py'}:hill_climbing")


@pytest.mark.parametrize("name", ["exact", "local_search", "nsga2", "random_search", "regularized_evolution"])
def test_the_page_of_a_searcher_lists_its_options_with_their_defaults(name):
    page = (Path(__file__).parents[1] / "docs" / f"{name}.md").read_text()
    listed = [[cell.strip(" `") for cell in line.split("|")[1:3]] for line in page.splitlines() if line.startswith("| `")]
    assert listed == [[spec.name, str(spec.default)] for spec in options_of(registry.load("searchers", name)).values()]


def test_the_example_of_the_page_on_search_runs(tmp_path, monkeypatch):
    class Accuracy:
        name, unit, origin, expensive = "accuracy", "%", "simulated", True

        def __call__(self, codes):
            return codes.sum(axis=1).astype(float)

    page = (Path(__file__).parents[1] / "docs" / "search.md").read_text()
    monkeypatch.chdir(tmp_path)
    names = {"accuracy": Accuracy()}
    exec(page.split("```python\n")[1].split("```")[0], names)
    assert names["result"].evaluations == 100 and names["cost"](names["best"][None])[0] <= names["problem"].budgets[0][0].limit
    assert (tmp_path / "runs" / "first" / "run.sqlite").is_file()


@pytest.mark.parametrize(("name", "most"), [("ofa_mobilenet_v3", 675), ("mobilenet_v2", 30), ("mnasnet", 4_096), ("fbnet", 0), ("nasbench201", 0)])
def test_what_is_scaled_together_is_told_by_the_roles_and_is_never_too_much(name, most):
    space = registry.create("spaces", name)
    codes = uniform_codes(space, np.random.default_rng(0))
    assert 0.99 * most <= len(codes) <= most and len(np.unique(codes, axis=0)) == len(codes)
    space.check(codes.astype(np.int64))
    kernels = [column for column, choice in enumerate(space.choices) if choice.name.endswith(".kernel")]
    assert (codes[:, kernels] == codes[:, kernels[:1]]).all()


def test_uniform_networks_that_use_most_of_the_budget_come_first_and_a_space_without_them_has_none():
    index = BlockIndex(registry.create("spaces", "ofa_mobilenet_v3"))
    cost = Additive(index, macs(index.blocks), name="macs", unit="MACs")
    problem = Problem(
        index, [Objective(Additive(index, params(index.blocks), name="params", unit=""), maximize=True)], [(Budget.parse("macs", "<= 300M"), cost)]
    )
    found = drive(uniform_scaling, problem, seed=0, evaluations=20)
    used = cost(found.codes)
    assert len(used) == 20 and used[0] <= 300e6 and (np.diff(used) <= 0).all()
    cells = BlockIndex(registry.create("spaces", "nasbench201"))
    none = drive(uniform_scaling, Problem(cells, [Objective(Additive(cells, params(cells.blocks), name="params", unit=""))]), seed=0, evaluations=20)
    assert none.evaluations == 0 and len(none.codes) == 0
