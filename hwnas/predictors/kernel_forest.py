"""Prices of blocks that nobody measured by a forest of regression trees, around their work: nn-Meter's predictor of kernels (Zhang et al., 2021).

The trees learn the logarithm of what `WorkModel` leaves over, from tile-rounded multiply-accumulates, bytes and sizes of the block: steps, such
as those of a runtime that changes its algorithm at some size, which a smooth model cannot have. Fitting takes scikit-learn's extremely
randomised trees (`hwnas[demo]`; Geurts et al., 2006); a fitted forest is arrays of thresholds, in a safetensors file, and needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from hwnas.block_features import matrix, sizes, work
from hwnas.errors import DamagedFile, InputError, MissingExtra
from hwnas.graph import Block
from hwnas.latency_table import LatencyTable
from hwnas.measured_blocks import Support, enough, measured_rows, names_in, predicted_origin
from hwnas.predictor import Fitted, Origin
from hwnas.predictor_file import load_predictor, save_predictor
from hwnas.space import FloatArray
from hwnas.work_model import WorkModel

FORMAT = "hwnas.kernel_forest/1"
MAX_DEPTH = 64
_TREES = 200
_MOST_TREES = 10_000  # of a file
_LEAST_IN_LEAF = 2
_PARTS = ("roots", "feature", "threshold", "left", "right", "value")

Nodes = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """All trees' nodes one after the other. Node i goes to `left[i]` where feature[i] <= threshold[i], else to `right[i]`; leaves have left -1 and a value."""

    roots: Nodes
    feature: Nodes
    threshold: FloatArray
    left: Nodes
    right: Nodes
    value: FloatArray

    def __call__(self, features: FloatArray) -> FloatArray:
        """Mean of the trees' values, features (m, d) -> (m,)."""
        features = features.astype(np.float32)  # as scikit-learn compares them
        at = np.broadcast_to(self.roots, (len(features), len(self.roots))).copy()  # (m, trees)
        rows = np.arange(len(features))[:, None]
        while (inner := self.left[at] >= 0).any():
            goes_left = features[rows, np.maximum(self.feature[at], 0)] <= self.threshold[at]
            at = np.where(inner, np.where(goes_left, self.left[at], self.right[at]), at)
        return np.asarray(self.value[at].mean(axis=1))

    def check(self, width: int) -> None:
        """Raises DamagedFile unless every walk ends: children come after their node, and features are among `width`."""
        n = len(self.feature)
        parts = (self.threshold, self.left, self.right, self.value)
        if len(self.roots) > _MOST_TREES:
            raise DamagedFile(f"the forest has {len(self.roots):,} trees, at most {_MOST_TREES:,} are read")
        if n == 0 or any(part.shape != (n,) for part in (self.feature, *parts)) or self.roots.ndim != 1 or not len(self.roots):
            raise DamagedFile("the forest's arrays do not fit each other")
        inner = self.left >= 0
        here = np.arange(n)
        sound = (self.left[inner] > here[inner]) & (self.right[inner] > here[inner]) & (self.left[inner] < n) & (self.right[inner] < n)
        known = (self.feature[inner] >= 0).all() and self.feature.max() < width  # a walk looks at the feature of leaves, too
        if not sound.all() or not known or self.roots.min() < 0 or self.roots.max() >= n:
            raise DamagedFile("the forest's nodes do not lead to leaves")
        level, depth = np.unique(self.roots), 0
        while len(parents := level[self.left[level] >= 0]):
            level, depth = np.unique(np.concatenate([self.left[parents], self.right[parents]])), depth + 1
            if depth > MAX_DEPTH:
                raise DamagedFile(f"the forest has deeper trees than {MAX_DEPTH}")


class KernelForest:
    """Prices in ms. `fit` makes one."""

    unit = "ms"

    def __init__(self, mean: WorkModel, names: Sequence[str], forest: Forest, support: Support, origin: Origin = "predicted"):
        self.mean, self.names, self.forest, self._support, self.origin = mean, tuple(names), forest, support, origin

    @classmethod
    def fit(cls, blocks: Sequence[Block], prices_ms: FloatArray, *, origin: Origin = "predicted", seed: int = 0) -> KernelForest:
        """Raises InputError where blocks are too few or fit no model, MissingExtra without scikit-learn."""
        try:
            from sklearn.ensemble import ExtraTreesRegressor
        except ImportError:
            raise MissingExtra("fitting a kernel_forest", "scikit-learn", "demo") from None
        prices_ms = enough(blocks, prices_ms)
        try:
            mean = WorkModel.fitted(blocks, prices_ms)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"no model fits the prices of these {len(blocks)} blocks: {error}") from None
        names = sorted({name for block in blocks for name in _features(block)})
        features = matrix([_features(block) for block in blocks], names)
        trees = ExtraTreesRegressor(_TREES, min_samples_leaf=_LEAST_IN_LEAF, max_depth=MAX_DEPTH, random_state=seed, n_jobs=1)
        trees.fit(features, np.log(prices_ms) - mean(blocks))
        return cls(mean, names, _arrays([each.tree_ for each in trees.estimators_]), Support.of(blocks), origin)

    def prices(self, blocks: Sequence[Block]) -> FloatArray:
        """(m,), 0 for a skipped layer."""
        prices = np.zeros(len(blocks))
        rows = [i for i, block in enumerate(blocks) if block]
        if rows:
            computing = [blocks[i] for i in rows]
            features = matrix([_features(block) for block in computing], self.names)
            prices[rows] = np.exp(np.clip(self.mean(computing) + self.forest(features), -20.0, 27.0))  # what a table can hold
        return prices

    def is_outside(self, blocks: Sequence[Block]) -> npt.NDArray[np.bool_]:
        return self._support.is_outside(blocks)

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        facts = {"features": self.names, "work": self.mean.names, "least_ms": self.mean.least_ms, "sizes": self._support.names, "origin": self.origin}
        trees = {f"forest.{name}": getattr(self.forest, name) for name in _PARTS}
        save_predictor(path, FORMAT, facts, {**trees, "work.scale": self.mean.scale, "work.coefficients": self.mean.coefficients, **self._support.tensors()})

    @classmethod
    def load(cls, path: Path) -> KernelForest:
        """Raises DamagedFile."""
        facts, tensors = load_predictor(path, FORMAT)
        try:
            floats = {name: array.astype(np.float64) for name, array in tensors.items() if array.dtype.kind == "f"}
            nodes = {name: tensors[f"forest.{name}"].astype(np.int32) for name in ("roots", "feature", "left", "right")}
            forest = Forest(threshold=floats["forest.threshold"], value=floats["forest.value"], **nodes)
            mean = WorkModel(names_in(facts, "work"), floats["work.scale"], floats["work.coefficients"], float(facts["least_ms"]))
            support = Support(names_in(facts, "sizes"), floats["support.least"], floats["support.greatest"])
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFile(f"{path} lacks a part of a kernel_forest, or has it in another form: {error}") from None
        names, origin = names_in(facts, "features"), facts.get("origin")
        if origin not in ("predicted", "simulated", "emulated"):
            raise DamagedFile(f"{path} is of the origin {str(origin)[:40]!r}")
        forest.check(len(names))
        mean.check()
        support.check()
        return cls(mean, names, forest, support, cast(Origin, origin))


def kernel_forest(table: LatencyTable) -> KernelForest:
    """A forest fitted to the measured rows of a table. Raises InputError."""
    blocks, prices_ms = measured_rows(table)
    return KernelForest.fit(blocks, prices_ms, origin=predicted_origin(table))


def _features(block: Block) -> dict[str, float]:
    """Logarithms of the work, and the sizes."""
    return {**{f"work.{name}": float(np.log1p(amount)) for name, amount in work(block).items()}, **sizes(block)}


def _arrays(trees: Sequence[Any]) -> Forest:
    starts = np.cumsum([0, *(tree.node_count for tree in trees)])
    shifted = [
        [np.where(side >= 0, side + start, -1) for side in (tree.children_left, tree.children_right)] for tree, start in zip(trees, starts[:-1], strict=True)
    ]
    return Forest(
        roots=starts[:-1].astype(np.int32),
        feature=np.concatenate([tree.feature for tree in trees]).astype(np.int32),
        threshold=np.concatenate([tree.threshold for tree in trees]).astype(np.float64),
        left=np.concatenate([left for left, _ in shifted]).astype(np.int32),
        right=np.concatenate([right for _, right in shifted]).astype(np.int32),
        value=np.concatenate([tree.value[:, 0, 0] for tree in trees]).astype(np.float64),
    )


if TYPE_CHECKING:
    _: type[Fitted] = KernelForest
