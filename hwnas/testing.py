"""Conformance checks, for what hwnas ships and for plug-ins: each takes one registered thing and raises CheckFailed with its fault.

from hwnas.testing import check_space
check_space(my_space())
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import comb, sqrt
from pathlib import Path
from typing import TypeAlias

import numpy as np

from hwnas import registry
from hwnas.backends.numpy import at_unit_scale, numpy
from hwnas.blocks import conv_bn_act
from hwnas.budget import Budget
from hwnas.costs import macs, params
from hwnas.device import Device, load_device
from hwnas.driver import SearchResult, drive
from hwnas.errors import CheckFailed, HwnasError, InputError, MeasurementFailed, MissingExtra
from hwnas.executor import Candidate, Completion, Evaluate, Executor, InProcess
from hwnas.graph import Block, Graph, Node, block_text, parse_block
from hwnas.index import BlockIndex
from hwnas.latency_table import ENTRIES, NETWORKS, TABLE, LatencyTable, Measurement
from hwnas.memory import peak_memory
from hwnas.ops import KINDS, Activation, Add, Affine, AvgPool, ChannelShuffle, Conv2d, Flatten, GlobalPool, Linear, MaxPool, Mul, Op, Zero
from hwnas.ops.op import ACTIVATIONS
from hwnas.pareto import hypervolume
from hwnas.predictor import Additive, Metric, Origin
from hwnas.problem import Objective, Problem
from hwnas.profiling.agent import Agent, Refused, started_agent
from hwnas.profiling.protocol import Burst, Visit
from hwnas.profiling.runtime import Runtime
from hwnas.run import RunDirectory
from hwnas.searcher import Gates, Option, Paths, Sampler, Searcher, Trainer, options_of
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
    if predicted := table.predicted():
        raise CheckFailed(f"{who} has {len(predicted)} predicted blocks: nothing that is shipped is computed by a model; the first is {predicted[0]}")
    errors = [table.quality[name].get("mape") if isinstance(table.quality.get(name), dict) else None for name in ("calibrated", "macs_line")]
    calibrated, line = (error if isinstance(error, float) else None for error in errors)
    if calibrated is None or line is None or calibrated >= line:
        raise CheckFailed(f"{who} must predict networks better than a line through MACs; [quality] says mape {calibrated} and {line}")


# -- spaces -----------------------------------------------------------------------------------------------------------------------


def check_space(space: SearchSpace, *, samples: int = 30, seed: int = 0, prices: Sequence[Price] = ()) -> None:
    """Checks a search space on its smallest, largest and reference architectures and `samples` random ones.

    Shapes connect; layers are pure; blocks survive their text form; the gathered price of MACs, parameters and every function of
    `prices` (blocks -> (m,)), and peak memory, equal those of the lowered network; tensors of one name differ in sizes alone, so that a supernet can
    hold them; the smallest and largest network compute the same, at the smallest resolution, on every installed backend. Raises CheckFailed.
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
        code = codes[who].copy()
        if "resolution" in space.column:
            code[0, space.column["resolution"]] = 0  # the same operators; the largest network at its own would take the reference minutes
        graph = space.lower(code)
        weights, images = random_weights(graph, rng), rng.normal(0, 1, graph.input).astype(np.float32)
        weights = at_unit_scale(graph, weights, images)  # else a network of fifty blocks may amplify rounding beyond any tolerance
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
        except InputError:  # its library is not installed, or a plug-in does not load: that is no fault of what is checked here
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


def _windows(kind: type[MaxPool | AvgPool]) -> Iterator[Block]:
    """Of both parities, with and without padding, rounded down and up; before the last, windows that begin beyond the image are left out."""
    for kernel, stride, padding in ((2, 2, 0), (3, 2, 1), (3, 1, 1), (3, 2, 0), (1, 2, 0), (2, 3, 1)):
        for ceil in (False, True):
            yield _alone(kind((2, 4, 7, 8), kernel=kernel, stride=stride, padding=padding, ceil=ceil))
    yield _alone(kind((1, 8, 3, 5), kernel=2, stride=2, ceil=True))


def _shuffles() -> Iterator[Block]:
    for groups in (1, 2, 3, 6):
        yield _alone(ChannelShuffle((2, 6, 3, 4), groups=groups))


def _adds() -> Iterator[Block]:
    for act in ACTIVATIONS:
        yield (Node("conv", Conv2d((1, 4, 3, 3), out=4), ("in0",)), Node("op", Add((1, 4, 3, 3), act=act), ("conv", "in0")))
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


def _activations() -> Iterator[Block]:
    for act in ACTIVATIONS[1:]:  # what it is given is read by others, and stays as it is
        yield (
            Node("op", Activation((2, 3, 4, 5), act=act), ("in0",)),
            Node("add", Add((2, 3, 4, 5)), ("op", "in0")),
        )
    yield _alone(Activation((2, 7), act="relu"))


def _affines() -> Iterator[Block]:
    for act in ACTIVATIONS:
        yield _alone(Affine((2, 6, 5, 4), act=act))


def _zeros() -> Iterator[Block]:
    for shape in ((2, 3, 4, 5), (2, 7)):
        yield (Node("op", Zero(shape), ("in0",)), Node("add", Add(shape), ("op", "in0")))
    yield _alone(Zero((1, 4, 3, 3)))


_CASES: dict[str, Callable[[], Iterator[Block]]] = {
    "conv2d": _convolutions,
    "linear": _linears,
    "global_pool": _pools,
    "max_pool": partial(_windows, MaxPool),
    "avg_pool": partial(_windows, AvgPool),
    "add": _adds,
    "mul": _muls,
    "flatten": _flattens,
    "activation": _activations,
    "affine": _affines,
    "zero": _zeros,
    "channel_shuffle": _shuffles,
}


# -- runtimes ---------------------------------------------------------------------------------------------------------------------

_SMALL: Block = (Node("conv", Conv2d((1, 4, 4, 4), out=4), ("in0",)),)
_LARGE: Block = (Node("conv", Conv2d((1, 256, 28, 28), out=256, kernel=3), ("in0",)),)


def check_runtime(name: str, device: Device | str = "localhost", *, seed: int = 0) -> None:
    """Checks a runtime, and its agent on a device that has what it needs, on every operator kind in several shapes.

    Equal arguments build equal bytes. The agent says which runtime it is and refuses options it does not know. A model is timed or is refused with
    a reason: one it has no form of, one that is none, and one whose output is not finite are never a latency. After a refusal it goes on.
    Runs are waited for: a large convolution takes longer than a tiny one. Raises CheckFailed; what keeps the device
    from being reached is raised as it is (MeasurementFailed, RunHeld).
    """
    runtime: Runtime = registry.create("profiling.runtimes", name)
    target = replace(load_device(device) if isinstance(device, str) else device, runtimes=(name,))
    rng = np.random.default_rng(seed)

    def build(block: Block, spoil: bool = False) -> bytes | None:
        """None where the runtime has no form of the block."""
        graph = Graph.of_block(block)
        weights = random_weights(graph, rng)
        if spoil:
            weights = {key: np.full_like(array, np.nan) for key, array in weights.items()}
        try:
            models = [runtime.build(graph, {key: array.copy() for key, array in weights.items()}) for _ in range(2)]
        except InputError:
            return None
        if models[0] != models[1]:
            raise CheckFailed(f"{name}: equal graphs and weights build different models; what is measured could not be told from what is shipped")
        return models[0]

    if runtime.granularity not in ("block", "operator"):
        raise CheckFailed(f"{name}: granularity is '{runtime.granularity}', it must be 'block' or 'operator'")
    blocks = {f"{kind}{i}": block for kind in KINDS for i, block in enumerate(_CASES[kind]())}
    models = {item: model for item, block in blocks.items() if (model := build(block)) is not None}
    with started_agent(target, runtime, threads=1, seed=seed) as agent:
        if agent.identity.runtime != runtime.name or not agent.identity.version:
            raise CheckFailed(
                f"{name}: its agent calls itself '{agent.identity.runtime}' '{agent.identity.version}', it must be '{runtime.name}' with a version"
            )
        loaded = [item for item, model in models.items() if _loads(name, agent, item, model)]
        if missing := {"conv2d", "linear"} - {blocks[item][-1].op.kind for item in loaded}:
            raise CheckFailed(f"{name}: it runs no {' and no '.join(sorted(missing))}")
        for what, bad in (("garbage", b"this is no model"), ("nothing", b""), ("NaN", build(_SMALL, spoil=True))):
            if bad is not None and _loads(name, agent, what, bad) and isinstance(_visited(name, agent, [what])[0], Visit):
                raise CheckFailed(f"{name}: its agent gives a latency for a model that is {what}; it must refuse it")
        for visit in _visited(name, agent, [loaded[i] for i in rng.permutation(len(loaded))]):
            if isinstance(visit, str):
                raise CheckFailed(f"{name}: a model that was loaded cannot be run: {visit}")
        _check_waits(name, agent, build(_SMALL), build(_LARGE))
    options = {runtime.name: {"no_such_option": True}}
    try:
        with started_agent(replace(target, options=options), runtime, threads=1, seed=seed):
            pass
    except MeasurementFailed as error:
        if "no_such_option" not in str(error):
            raise CheckFailed(f"{name}: an option that does not exist must be refused by its name, this is said: {error}") from error
    else:
        raise CheckFailed(f"{name}: its agent takes an option that does not exist; what is in force would not be what was asked for")


def _loads(name: str, agent: Agent, item: str, model: bytes) -> bool:
    try:
        agent.load(item, model)
    except Refused as error:
        if not str(error).strip():
            raise CheckFailed(f"{name}: its agent refuses {item} without a reason") from error
        return False
    return True


def _visited(name: str, agent: Agent, order: Sequence[str]) -> list[Visit | str]:
    try:
        return agent.visit(order, {item: Burst(1, 3) for item in order}, expected_s=60.0)
    except MeasurementFailed as error:
        raise CheckFailed(f"{name}: its agent breaks the contract when it runs: {error}") from error


def _check_waits(name: str, agent: Agent, small: bytes | None, large: bytes | None) -> None:
    if small is None or large is None:
        raise CheckFailed(f"{name}: it has no form of a convolution")
    for item, model in (("small", small), ("large", large)):
        agent.load(item, model)
    best = [min(visit.ns) if isinstance(visit, Visit) else 0 for visit in _visited(name, agent, ["small", "large"])]
    if not 0 < best[0] < best[1]:
        raise CheckFailed(f"{name}: a small convolution takes {best[0]:,} ns and a large one {best[1]:,} ns: its agent does not wait for the end of a run")
    if not isinstance(agent.visit(["small"], {"small": Burst(0, 2, cold=True)}, expected_s=60.0)[0], Visit):
        raise CheckFailed(f"{name}: its agent cannot open a model anew")


# -- searchers --------------------------------------------------------------------------------------------------------------------


def toy_problem(objectives: int = 1) -> Problem:
    """Six layers with a choice of four kernels each; the most points within 55 % of the largest network's MACs, and with two objectives the fewest MACs.

    Returns diminish, so that the best network is no uniform one. At a share of an evaluation the points are off by a noise that is
    the same each time and the smaller the larger the share.
    """
    choices = [Choice(f"layer{i}.kernel", (1, 3, 5, 7)) for i in range(6)]
    layers = [Layer(f"layer{i}", (choice,), partial(conv_bn_act, (1, 3 + i, 16, 16), 4 + i)) for i, choice in enumerate(choices)]
    index = BlockIndex(SearchSpace("toy", choices, layers))
    worth = np.random.default_rng(2019).uniform(0.5, 2.0, (len(choices), 1))
    cost = Additive(index, macs(index.blocks), name="macs", unit="MACs")
    asked = [Objective(Gains(index, worth * np.sqrt(np.arange(4))), maximize=True), Objective(cost)]
    return Problem(index, asked[:objectives], [(Budget("macs", None, share=0.55), cost)])


class Gains(Additive):
    """Sum over choices of what each value is worth, in `gains` (choices, values); counts the candidates it has evaluated."""

    expensive = True

    def __init__(self, index: BlockIndex, gains: FloatArray):
        """Every layer reads one choice, so that the gains are the prices of its cells."""
        super().__init__(index, list(gains), name="gain", unit="points", origin="simulated")
        self.gains, self.evaluated = gains, 0
        self.noise = np.random.default_rng(2016).normal(0, 0.5, gains.shape[1:] * gains.shape[0])

    def __call__(self, codes: Codes) -> FloatArray:
        self.evaluated += len(codes)
        return np.asarray(self.gains[np.arange(codes.shape[1]), codes].sum(axis=1))

    def at(self, fidelity: float) -> Metric:
        return _Early(self, fidelity)


class _Early:
    """Gains after a share of an evaluation: with a noise of its own for each architecture, as if over a sample of that size."""

    unit, expensive = "points", True
    origin: Origin = "simulated"

    def __init__(self, final: Gains, fidelity: float):
        self.name, self.final, self.fidelity = f"{final.name} at {fidelity:g}", final, fidelity

    def __call__(self, codes: Codes) -> FloatArray:
        noise: FloatArray = self.final.noise[tuple(codes.T)]
        return self.final(codes) + (1 / sqrt(self.fidelity) - 1) * noise


def check_searcher(
    name: str,
    *,
    problem: Callable[[], Problem] = toy_problem,
    trainer: Callable[[Problem], Trainer] | None = None,
    baseline: str | None = "random_search",
    seeds: int = 20,
    evaluations: int = 60,
    options: Mapping[str, Option] | None = None,
) -> None:
    """Checks a searcher on a solved toy problem: 4,096 networks under a MACs budget, each evaluation paid for.

    It asks for codes of the space; equal seeds give equal searches, whatever the problem was used for before; interrupted and resumed,
    twice, equals uninterrupted, with nothing paid for twice; its best candidates keep a MACs budget in the lowered network too; with
    the option `pending` it copes with workers that end out of order; over `seeds` seeds it is not significantly worse than random search at
    equal cost (sign test, 1 %; by the hypervolume of the front where there are several objectives). Objective and budget are sums over
    blocks, so that exact searchers take part. Raises CheckFailed.

    problem: makes another one, for searchers that need a space of a certain kind, such as one that grows, or several objectives; each
    call makes a fresh one, with at least one expensive metric. trainer: makes the shared weights of a searcher that trains.
    baseline: what random search is on that problem, as a name or `path.py:name`; None compares with nothing. options: of the searcher, such as fewer rounds.
    """
    searcher: Searcher = registry.load("searchers", name)
    check, given = _SearcherCheck(name, searcher, problem, trainer, evaluations), dict(options or {})
    try:
        specs = options_of(searcher)
        if not problem().expensive:
            raise CheckFailed(f"{name}: the problem to check it on has no metric with `expensive = True`; there is nothing to interrupt or to pay for")
        check.search_and_resume(given)
        if "pending" in specs:
            check.search_and_resume({**given, "pending": 2})
        if baseline is not None:
            check.compare(registry.load("searchers", baseline), seeds, given)
    except InputError as error:
        raise CheckFailed(f"{name}: {error}") from error


# -- executors ----------------------------------------------------------------------------------------------------------------


class _Unmeasurable:
    """The toy problem's gain, of networks whose first choice is not the smallest: others cannot be measured."""

    name: str = "gain"
    unit: str = "points"
    origin: Origin = "simulated"
    expensive: bool = True

    def __init__(self, gain: Metric):
        self.gain = gain

    def __call__(self, codes: Codes) -> FloatArray:
        if (codes[:, 0] == 0).any():
            raise MeasurementFailed("no such network")
        return self.gain(codes)


@dataclass(frozen=True, slots=True)
class _ToyEvaluation:
    """What a worker evaluates by."""

    fails: bool

    def problem(self) -> Problem:
        toy = toy_problem()
        gain = toy.objectives[0].metric
        return Problem(toy.index, [Objective(_Unmeasurable(gain) if self.fails else gain, maximize=True)], toy.budgets)

    def __call__(self) -> Evaluate:
        return self.problem().evaluate_travelling


def check_executor(name: str) -> None:
    """Checks an executor, a name with arguments or `path.py:name`, with two workers: a search of the toy problem, with answers that are all waited for and
    with some that are not, ends as in one process; what cannot be measured has failed, and nothing else. Raises CheckFailed, or what making it raises."""
    searcher: Searcher = registry.load("searchers", "regularized_evolution")
    for prepare in (_ToyEvaluation(False), _ToyEvaluation(True)):
        executor: Executor = registry.create("executors", name, prepare, 2)
        try:
            for pending in (0, 3):
                options: dict[str, Option] = {"pending": pending, "population": 8, "tournament": 3}
                whole, found = (drive(searcher, prepare.problem(), seed=1, evaluations=24, options=options, executor=each) for each in (None, executor))
                if not _equal(whole, found):
                    raise CheckFailed(f"{name}: with pending={pending} a search ends elsewhere than in one process; complete each number once, with its values")
        finally:
            executor.close()


class _Meter:
    """Counts what a search pays for: evaluations, trainings and gradients. Interrupts it before the one numbered `stop`, from 0."""

    def __init__(self, stop: int = -1):
        self.stop, self.paid, self.evaluated = stop, 0, list[int]()

    def pay(self) -> None:
        if self.paid == self.stop:
            raise KeyboardInterrupt
        self.paid += 1


class _MeteredExecutor(InProcess):
    """Evaluates in this process; `last_first` what was submitted last, so that candidates complete out of order."""

    def __init__(self, meter: _Meter, last_first: bool):
        super().__init__()
        self.meter, self.last_first = meter, last_first

    def submit(self, number: int, candidate: Candidate) -> None:
        def paid(code: Codes, fidelity: float) -> FloatArray:
            self.meter.pay()
            self.meter.evaluated.append(number)
            return candidate()

        super().submit(number, replace(candidate, by=paid))

    def wait(self) -> Completion:
        if self.last_first:
            self._queue.rotate(1)
        return super().wait()


class _MeteredTrainer:
    """Another trainer, whose trainings and gradients are counted."""

    def __init__(self, trainer: Trainer, meter: _Meter):
        self.trainer, self.meter = trainer, meter

    def train(self, sampler: Sampler, steps: int, rate: float) -> float:
        self.meter.pay()
        return self.trainer.train(sampler, steps, rate)

    def gradient(self, gates: Gates, paths: Paths) -> tuple[float, Gates]:
        self.meter.pay()
        return self.trainer.gradient(gates, paths)

    def validate(self, codes: Codes) -> FloatArray:
        self.meter.pay()
        return self.trainer.validate(codes)

    def save(self, folder: Path) -> None:
        self.trainer.save(folder)

    def load(self, folder: Path) -> None:
        self.trainer.load(folder)


@dataclass(frozen=True, slots=True)
class _SearcherCheck:
    name: str
    searcher: Searcher
    problem: Callable[[], Problem]
    trainer: Callable[[Problem], Trainer] | None
    evaluations: int

    def search(
        self,
        problem: Problem,
        meter: _Meter | None = None,
        run: RunDirectory | None = None,
        *,
        searcher: Searcher | None = None,
        seed: int = 1,
        evaluations: int | None = None,
        options: dict[str, Option] | None = None,
    ) -> SearchResult:
        meter = meter or _Meter()
        trainer = None if self.trainer is None else _MeteredTrainer(self.trainer(problem), meter)
        return drive(
            searcher or self.searcher,
            problem,
            run,
            seed=seed,
            evaluations=evaluations or self.evaluations,
            options=options,
            trainer=trainer,
            executor=_MeteredExecutor(meter, last_first="pending" in (options or {})),
        )

    def search_and_resume(self, options: dict[str, Option]) -> None:
        how, problem, meter = f"{self.name} with {options}" if options else self.name, self.problem(), _Meter()
        whole = self.search(problem, meter, options=options)
        used = self.problem()
        if self.trainer is None:  # what was trained stays trained
            self.search(used, seed=2, options=options)
        if not _equal(whole, self.search(used, options=options)):
            raise CheckFailed(f"{how}: two searches with the same seed differ; take all randomness from rng")
        self._check_best(how, whole)
        with tempfile.TemporaryDirectory() as folder, RunDirectory(Path(folder, "run")) as run:
            parts = [_Meter(meter.paid // 3), _Meter(meter.paid // 3), _Meter()]
            for part in parts:
                with suppress(KeyboardInterrupt):
                    resumed = self.search(self.problem(), part, run, options=options)
        if not _equal(whole, resumed):
            stops = f"evaluation {parts[0].stop} and again {parts[1].stop} later"
            raise CheckFailed(f"{how}: interrupted at {stops} and resumed, it ends elsewhere than uninterrupted; keep no state outside the function")
        paid = [number for part in parts for number in part.evaluated]
        if len(set(paid)) != len(paid):
            raise CheckFailed(f"{how}: resumed, it evaluates candidates again that were paid for")

    def _check_best(self, how: str, found: SearchResult) -> None:
        if len(found.ranked()) == 0:
            raise CheckFailed(f"{how}: none of {len(found.codes)} candidates keeps the budget")
        for budget, _ in found.problem.budgets:
            for row in found.ranked()[:5]:
                lowered = sum(op.macs for op in found.problem.space.lower(found.codes[row]).ops)
                if budget.metric == "macs" and budget.limit is not None and lowered > budget.limit:
                    raise CheckFailed(f"{how}: a candidate told to be feasible has {lowered:,} MACs, over the budget of {budget.limit}")

    def compare(self, baseline: Searcher, seeds: int, options: dict[str, Option]) -> None:
        worse = better = 0
        for seed in range(seeds):
            found = self.search(self.problem(), seed=seed, options=options)
            other = self.search(self.problem(), searcher=baseline, seed=seed, evaluations=max(1, round(found.evaluations)))
            mine, theirs = _merits(found, other)
            worse, better = worse + (mine < theirs), better + (mine > theirs)
        chance = sum(comb(worse + better, k) for k in range(worse, worse + better + 1)) / 2 ** (worse + better)
        if chance < 0.01:
            raise CheckFailed(
                f"{self.name}: at equal cost it finds worse networks than {baseline.__name__} with {worse} of {seeds} seeds, and better ones with {better}"
            )


def _merits(*results: SearchResult) -> list[float]:
    """What fully evaluated feasible candidates came to: the best value, larger is better, or with several objectives the hypervolume of their front."""
    values = [found.problem.minimised(found.scores[found.scores.feasible & (found.fidelity == 1.0)]) for found in results]
    worst = np.max(np.concatenate(values), axis=0, initial=-np.inf)
    if len(worst) == 1:
        return [-float(each.min(initial=np.inf)) for each in values]
    return [hypervolume(each, worst) if len(each) else 0.0 for each in values]


def _equal(first: SearchResult, second: SearchResult) -> bool:
    return (
        np.array_equal(first.codes, second.codes)
        and np.array_equal(first.scores.values, second.scores.values, equal_nan=True)
        and np.array_equal(first.scores.ratio, second.scores.ratio, equal_nan=True)
        and np.array_equal(first.fidelity, second.fidelity)
    )
