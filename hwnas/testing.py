"""Conformance checks, for what hwnas ships and for plug-ins: each takes one registered thing and raises CheckFailed with its fault.

from hwnas.testing import check_space
check_space(my_space())
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from math import comb
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from hwnas import registry
from hwnas.backends.numpy import numpy
from hwnas.blocks import conv_bn_act
from hwnas.budget import Budget
from hwnas.costs import macs, params
from hwnas.driver import SearchResult, drive
from hwnas.errors import CheckFailed, HwnasError, InputError, MissingExtra
from hwnas.executor import Completion, InProcess
from hwnas.graph import Block, Graph, Node, block_text, parse_block
from hwnas.index import BlockIndex
from hwnas.latency_table import ENTRIES, NETWORKS, TABLE, LatencyTable, Measurement
from hwnas.memory import peak_memory
from hwnas.ops import KINDS, Add, Conv2d, Flatten, GlobalPool, Linear, Mul, Op
from hwnas.ops.op import ACTIVATIONS
from hwnas.predictor import Additive, Metric
from hwnas.problem import Objective, Problem
from hwnas.run import RunDirectory
from hwnas.searcher import Option, Searcher, Trainer, options_of
from hwnas.space import Choice, Codes, FloatArray, Layer, SearchSpace
from hwnas.weights import Array, Weights, random_weights

#: Largest difference allowed between a float32 backend and the reference, relative to the output's standard deviation.
TOLERANCE = 1e-4

Price: TypeAlias = Callable[[Sequence[Block]], FloatArray]
Backend: TypeAlias = Callable[[Graph, Weights], Callable[[Array], Array]]


# -- tables -----------------------------------------------------------------------------------------------------------------------


def check_shipped_table(folder: Path, root: Path) -> None:
    """Checks that the table in `folder` may be shipped in `root`: measured by hwnas, whole, sealed, under the path of its conditions, and better
    than a line through MACs at predicting the networks it holds. Raises CheckFailed."""
    who = folder.relative_to(root).as_posix()
    try:
        table = LatencyTable.load(folder)
    except InputError as error:
        raise CheckFailed(f"{who} does not load: {error}") from None
    files = {path.name for path in folder.iterdir()}
    if files != {TABLE, ENTRIES, NETWORKS}:
        raise CheckFailed(f"{who} holds {', '.join(sorted(files))}; a table is {TABLE}, {ENTRIES} and {NETWORKS}")
    if table.origin != "measured":
        raise CheckFailed(f"{who} is {table.origin}: only measured tables are shipped")
    path = str(table.conditions)
    if who != path and not who.startswith(f"{path}-"):
        raise CheckFailed(f"{who} was measured as {path}: that, or more behind it, is the name of its folder")
    absent = [key for key in ("by", "date", "agent_sha256") if not isinstance(table.provenance.get(key), str)]
    if absent:
        raise CheckFailed(f"{who} does not say in [provenance]: {', '.join(absent)}")
    if not any(isinstance(entry, Measurement) for entry in table.entries.values()):
        raise CheckFailed(f"{who} has no measured block")
    errors = [table.quality[name].get("mape") if isinstance(table.quality.get(name), dict) else None for name in ("calibrated", "macs_line")]
    calibrated, line = (error if isinstance(error, float) else None for error in errors)
    if calibrated is None or line is None or calibrated >= line:
        raise CheckFailed(f"{who} must predict networks better than a line through MACs; [quality] says mape {calibrated} and {line}")


# -- spaces -----------------------------------------------------------------------------------------------------------------------


def check_space(space: SearchSpace, *, samples: int = 30, seed: int = 0, prices: Sequence[Price] = ()) -> None:
    """Checks a search space on its smallest, largest and reference architectures and `samples` random ones.

    Shapes connect; layers are pure; blocks survive their text form; the gathered price of MACs, parameters and every function of
    `prices` (blocks -> (m,)), and peak memory, equal those of the lowered network; tensors of one name differ in sizes alone, so that a supernet can
    hold them; the smallest and largest network compute the same on every installed backend. Raises CheckFailed.
    """
    rng = np.random.default_rng(seed)
    try:
        index = BlockIndex(space)
        codes = {"the smallest architecture": space.smallest(), "the largest architecture": space.largest()}
        codes |= {f"the reference {name}": space.encode(values) for name, values in space.references.items()}
    except InputError as error:
        raise CheckFailed(f"{space.name}: {error}") from error
    codes |= {f"the random architecture {i} of seed {seed}": row[None] for i, row in enumerate(space.sample(rng, samples))}
    _check_text(space, index)
    _check_names(space, index)
    priced = [(price, Additive(index, price(index.blocks), name="", unit="")) for price in (macs, params, *prices)]
    memory = peak_memory(index)
    for who, code in codes.items():
        _check_lowering(space, index, who, code, priced, memory)
    for who in ("the smallest architecture", "the largest architecture"):
        graph = space.lower(codes[who])
        weights, images = random_weights(graph, rng), rng.normal(0, 1, graph.input).astype(np.float32)
        expected = numpy(graph, weights)(images)
        for name, backend in _installed_backends():
            _compare(f"{space.name}: {who}", name, backend, graph, weights, images, expected)


def _check_lowering(space: SearchSpace, index: BlockIndex, who: str, code: Codes, priced: Sequence[tuple[Price, Additive]], memory: Metric) -> None:
    values = space.decode(code)
    if (space.encode(values) != code).any():
        raise CheckFailed(f"{space.name}: {who} decodes to values that encode to another code")
    for layer, number in zip(space.layers, index.ids(code)[0], strict=True):
        if layer.build(*(values[choice.name] for choice in layer.reads)) != index.blocks[number]:
            raise CheckFailed(f"{space.name}: layer {layer.name} builds two different blocks from equal values; it must be a pure function")
    try:
        graph = space.lower(code)
    except InputError as error:
        raise CheckFailed(f"{space.name}: {who} does not connect: {error}") from error
    blocks: dict[str, list[Node]] = {}
    for each in graph.nodes:
        blocks.setdefault(each.layer, []).append(each.node)
    for price, metric in priced:
        gathered = float(metric(code)[0])
        lowered = float(np.sum(price([tuple(nodes) for nodes in blocks.values()])))
        if not np.isclose(gathered, lowered, rtol=1e-9, atol=0):
            raise CheckFailed(
                f"{space.name}: {getattr(price, '__name__', 'a price')} of {who} is {gathered:g} summed over its blocks but {lowered:g} in the "
                f"lowered network; a layer whose output nothing reads must build ABSENT"
            )
    if memory(code)[0] != graph.peak_activation_bytes():
        raise CheckFailed(f"{space.name}: {who} needs {memory(code)[0]:g} bytes by its blocks but {graph.peak_activation_bytes():,} in the lowered network")


def _check_text(space: SearchSpace, index: BlockIndex) -> None:
    for block in index.blocks:
        text = block_text(block)
        try:
            again = block_text(parse_block(text))
        except InputError as error:
            raise CheckFailed(f"{space.name}: the text of a block cannot be read back: {error}") from error
        if again != text:
            raise CheckFailed(f"{space.name}: the block '{text}' reads back as '{again}'")


def _check_names(space: SearchSpace, index: BlockIndex) -> None:
    """Per layer and node name, everything about the weights but their sizes is the same in all blocks."""
    for layer, table in zip(space.layers, index.tables, strict=True):
        seen: dict[str, tuple[object, ...]] = {}
        for number in np.unique(table):
            for node in index.blocks[number]:
                if not node.parameters:
                    continue
                depthwise = getattr(node.op, "is_depthwise", False)
                groups = "channels" if depthwise else getattr(node.op, "groups", 1)
                kind = (node.op.kind, groups, {name: len(shape) for name, shape in node.parameters.items()}, node.norm)
                if seen.setdefault(node.name, kind) != kind:
                    raise CheckFailed(
                        f"{space.name}: two blocks of layer {layer.name} use the node name '{node.name}' for weights that differ in more "
                        f"than sizes: {seen[node.name]} and {kind} (operator, groups, axes of each tensor, batch norm); give them two names"
                    )


# -- backends ---------------------------------------------------------------------------------------------------------------------


def check_backend(name: str, *, seed: int = 0) -> None:
    """Checks a backend on every operator kind, in several shapes and with every attribute, against the reference interpreter.

    Raises CheckFailed; MissingExtra where the backend's library is not installed.
    """
    backend = _load_backend(name)
    rng = np.random.default_rng(seed)
    for kind in KINDS:
        if kind not in _CASES:
            raise CheckFailed(f"operator kind {kind} has no case in hwnas.testing; add one so that backends are checked on it")
        for block in _CASES[kind]():
            graph = Graph.of_block(block)
            weights, images = random_weights(graph, rng), rng.normal(0, 3, graph.input).astype(np.float32)
            _compare(block_text(block), name, backend, graph, weights, images, numpy(graph, weights)(images))


def _load_backend(name: str) -> Backend:
    try:
        return registry.load("backends", name)
    except ImportError as error:
        raise MissingExtra(f"the backend {name}", error.name or "its library", name) from None


def _installed_backends() -> Iterator[tuple[str, Backend]]:
    for name in registry.names("backends"):
        if name == "numpy":  # the reference itself
            continue
        try:
            yield name, _load_backend(name)
        except MissingExtra:
            continue


def _compare(what: str, name: str, backend: Backend, graph: Graph, weights: Weights, images: Array, expected: Array) -> None:
    before = images.copy()
    try:
        got = backend(graph, weights)(images)
    except HwnasError as error:
        raise CheckFailed(f"{what}: backend {name} refuses it: {error}") from error
    if not np.array_equal(images, before):
        raise CheckFailed(f"{what}: backend {name} writes into its input")
    if got.dtype != np.float32 or got.shape != graph.output:
        raise CheckFailed(f"{what}: backend {name} returns {got.dtype} {got.shape}, expected float32 {graph.output}")
    difference = float(np.abs(got - expected).max())
    scale = max(float(expected.std()), float(np.abs(expected).max()) * 1e-2, 1e-6)
    if not difference <= TOLERANCE * scale:
        raise CheckFailed(f"{what}: backend {name} differs from the reference by {difference:.3g} at a spread of {scale:.3g}; allowed is {TOLERANCE:g} of it")


def _alone(op: Op, norm: float | None = None) -> Block:
    return (Node("op", op, ("in0",), norm),)


def _convolutions() -> Iterator[Block]:
    for act in ACTIVATIONS:
        yield _alone(Conv2d((2, 5, 9, 7), out=6, kernel=3, act=act))
        yield _alone(Conv2d((1, 8, 6, 6), out=8, kernel=3, groups=8, act=act), 1e-3)
    for kernel in (1, 3, 5, 7):
        for stride in (1, 2, 3):
            yield _alone(Conv2d((1, 4, 7, 8), out=4, kernel=kernel, stride=stride, groups=4), 1e-5)
            yield _alone(Conv2d((1, 3, 8, 5), out=7, kernel=kernel, stride=stride))
    yield _alone(Conv2d((1, 6, 5, 5), out=4, kernel=3, groups=2))
    yield _alone(Conv2d((1, 6, 5, 5), out=12, kernel=3, groups=6))
    yield _alone(Conv2d((1, 6, 1, 1), out=4, bias=False, act="hsigmoid"))
    yield _alone(Conv2d((1, 6, 5, 5), out=4, bias=False), 1e-5)
    yield _alone(Conv2d((1, 6, 1, 2), out=4, kernel=7))


def _linears() -> Iterator[Block]:
    for act in ACTIVATIONS:
        yield _alone(Linear((3, 5), out=4, act=act))
    yield _alone(Linear((1, 6), out=1, bias=False))
    yield _alone(Linear((2, 6), out=9, act="relu"), 1e-5)


def _pools() -> Iterator[Block]:
    for shape in ((1, 3, 7, 5), (2, 16, 1, 1), (1, 8, 4, 4)):
        yield _alone(GlobalPool(shape))


def _adds() -> Iterator[Block]:
    for shape in ((2, 8, 5, 6), (1, 16, 1, 1)):
        yield (Node("conv", Conv2d(shape, out=shape[1], act="relu"), ("in0",)), Node("op", Add(shape), ("conv", "in0")))
    yield (Node("op", Add((2, 7)), ("in0", "in0")),)


def _muls() -> Iterator[Block]:
    for shape in ((2, 8, 5, 6), (1, 3, 1, 1)):
        yield (Node("pool", GlobalPool(shape), ("in0",)), Node("op", Mul(shape), ("in0", "pool")))
    yield (Node("linear", Linear((2, 7), out=7), ("in0",)), Node("op", Mul((2, 7)), ("in0", "linear")))


def _flattens() -> Iterator[Block]:
    for shape in ((2, 3, 4, 5), (1, 8, 1, 1), (3, 6)):
        yield _alone(Flatten(shape))


_CASES: dict[str, Callable[[], Iterator[Block]]] = {
    "conv2d": _convolutions,
    "linear": _linears,
    "global_pool": _pools,
    "add": _adds,
    "mul": _muls,
    "flatten": _flattens,
}


# -- searchers --------------------------------------------------------------------------------------------------------------------


def check_searcher(name: str, *, trainer: Callable[[Problem], Trainer] | None = None, seeds: int = 20, evaluations: int = 60) -> None:
    """Checks a searcher on a solved toy problem: 4,096 networks under a MACs budget, each evaluation paid for.

    It asks for codes of the space; equal seeds give equal searches; interrupted and resumed equals uninterrupted, with nothing paid
    for twice; its best candidates keep the budget in the lowered network too; with the option `pending` it copes with answers out
    of order; over `seeds` seeds it is not significantly worse than random search at equal cost (sign test, 1 %). Objective and budget
    are sums over blocks, so that exact searchers take part. Raises CheckFailed.

    trainer: makes the shared weights of a searcher that trains.
    """
    searcher: Searcher = registry.load("searchers", name)
    try:
        options = options_of(searcher)
        _check_search(name, searcher, trainer, evaluations, {})
        if "pending" in options:
            _check_search(name, searcher, trainer, evaluations, {"pending": 2})
        _check_against_random(name, searcher, trainer, seeds, evaluations)
    except InputError as error:
        raise CheckFailed(f"{name}: {error}") from error


class _Gains(Additive):
    """Sum over choices of what each value is worth; counts evaluations, and is interrupted at the one numbered `stop`."""

    expensive = True

    def __init__(self, index: BlockIndex, gains: FloatArray, stop: int = -1):
        """gains: (choices, values); every layer reads one choice, so that the gains are the prices of its cells."""
        super().__init__(index, list(gains), name="gain", unit="points", origin="simulated")
        self.gains, self.stop, self.evaluated = gains, stop, list[bytes]()

    def __call__(self, codes: Codes) -> FloatArray:
        for code in codes:
            if len(self.evaluated) == self.stop:
                raise KeyboardInterrupt
            self.evaluated.append(code.tobytes())
        return np.asarray(self.gains[np.arange(codes.shape[1]), codes].sum(axis=1))


class _LastFirst(InProcess):
    """Evaluates the candidate submitted last first, so that answers come out of order."""

    def wait(self) -> Completion:
        self._queue.rotate(1)
        return InProcess.wait(self)


def toy_problem(stop: int = -1) -> Problem:
    """Six layers with a choice of four kernels each; the most points within 55 % of the largest network's MACs.

    Returns diminish, so that the best network is no uniform one. stop: the evaluation to interrupt with KeyboardInterrupt.
    """
    choices = [Choice(f"layer{i}.kernel", (1, 3, 5, 7)) for i in range(6)]
    layers = [Layer(f"layer{i}", (choice,), partial(conv_bn_act, (1, 3 + i, 16, 16), 4 + i)) for i, choice in enumerate(choices)]
    index = BlockIndex(SearchSpace("toy", choices, layers))
    worth = np.random.default_rng(2019).uniform(0.5, 2.0, (len(choices), 1))
    gains = worth * np.sqrt(np.arange(4))
    return Problem(
        index,
        [Objective(_Gains(index, gains, stop), maximize=True)],
        [(Budget("macs", None, share=0.55), Additive(index, macs(index.blocks), name="macs", unit="MACs"))],
    )


def _search(searcher: Searcher, problem: Problem, trainer: Callable[[Problem], Trainer] | None, run: RunDirectory | None, **given: Any) -> SearchResult:
    return drive(searcher, problem, run, trainer=None if trainer is None else trainer(problem), **given)


def _check_search(name: str, searcher: Searcher, trainer: Callable[[Problem], Trainer] | None, evaluations: int, options: dict[str, Option]) -> None:
    def search(problem: Problem, run: RunDirectory | None = None) -> SearchResult:
        return _search(searcher, problem, trainer, run, seed=1, evaluations=evaluations, options=options, executor=_LastFirst() if options else None)

    how = f"{name} with {options}" if options else name
    problem = toy_problem()
    whole, again = search(problem), search(toy_problem())
    if not _equal(whole, again):
        raise CheckFailed(f"{how}: two searches with the same seed differ; take all randomness from rng")
    if len(whole.ranked()) == 0:
        raise CheckFailed(f"{how}: none of {len(whole.codes)} candidates keeps the budget, though more than half of the space does")
    limit = problem.budgets[0][0].limit
    for row in whole.ranked()[:5]:
        lowered = sum(op.macs for op in problem.space.lower(whole.codes[row]).ops)
        if limit is None or lowered > limit:
            raise CheckFailed(f"{how}: a candidate told to be feasible has {lowered:,} MACs, over the budget of {limit}")
    stop = len(whole.codes) // 2
    with tempfile.TemporaryDirectory() as folder, RunDirectory(Path(folder, "run")) as run:
        first, second = toy_problem(stop), toy_problem()
        with suppress(KeyboardInterrupt):
            search(first, run)
        resumed = search(second, run)
        if not _equal(whole, resumed):
            raise CheckFailed(f"{how}: interrupted at evaluation {stop} and resumed, it ends elsewhere than uninterrupted; keep no state outside the function")
        paid = [each for problem in (first, second) for each in _gains(problem).evaluated]
        if trainer is None and len(set(paid)) != len(paid):
            raise CheckFailed(f"{how}: resumed, it evaluates subnets again that were paid for")


def _check_against_random(name: str, searcher: Searcher, trainer: Callable[[Problem], Trainer] | None, seeds: int, evaluations: int) -> None:
    random: Searcher = registry.load("searchers", "random_search")
    worse = better = 0
    for seed in range(seeds):
        found = _search(searcher, toy_problem(), trainer, None, seed=seed, evaluations=evaluations)
        baseline = drive(random, toy_problem(), seed=seed, evaluations=max(1, round(found.evaluations)))
        mine, other = (float(result.scores.values[result.ranked()[:1], 0].max(initial=-np.inf)) for result in (found, baseline))
        worse, better = worse + (mine < other), better + (mine > other)
    chance = sum(comb(worse + better, k) for k in range(worse, worse + better + 1)) / 2 ** (worse + better)
    if chance < 0.01:
        raise CheckFailed(f"{name}: at equal cost it finds worse networks than random search with {worse} of {seeds} seeds, and better ones with {better}")


def _gains(problem: Problem) -> _Gains:
    metric = problem.objectives[0].metric
    assert isinstance(metric, _Gains)
    return metric


def _equal(first: SearchResult, second: SearchResult) -> bool:
    return (
        np.array_equal(first.codes, second.codes)
        and np.array_equal(first.scores.values, second.scores.values)
        and np.array_equal(first.scores.ratio, second.scores.ratio)
        and np.array_equal(first.fidelity, second.fidelity)
    )
