"""Prices of blocks that nobody measured by a graph convolutional network over their operators: the predictor of BRP-NAS (Dudziak et al., 2020).

Each operator is a node, with its kind, sizes and work; three layers of convolution (Kipf and Welling, 2017) mix it with what it reads and
what reads it; the mean of the nodes gives the logarithm of what `WorkModel` leaves over. Three networks of different seeds are averaged.
Where BRP-NAS takes 900 whole networks of one cell, a few hundred blocks do here, for every network of the space is a sum of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log1p, prod
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from hwnas.block_features import kind, tiled_macs
from hwnas.errors import DamagedFile, InputError
from hwnas.graph import Block
from hwnas.latency_table import LatencyTable
from hwnas.measured_blocks import Support, enough, measured_rows, names_in, predicted_origin
from hwnas.ops import Conv2d
from hwnas.ops.op import ITEM_BYTES, Op
from hwnas.predictor import Fitted, Origin
from hwnas.predictor_file import load_predictor, save_predictor
from hwnas.space import FloatArray
from hwnas.work_model import WorkModel

FORMAT = "hwnas.graph_network/1"
MAX_NODES = 256  # of a block
_MEMBERS, _WIDTH, _LAYERS = 3, 48, 3
_STEPS, _BATCH, _RATE, _DECAY = 600, 64, 5e-3, 1e-2

Array = npt.NDArray[np.float32]


class GraphNetwork:
    """Prices in ms. `fit` makes one; weights are those of `_MEMBERS` networks, stacked."""

    unit = "ms"

    def __init__(
        self,
        mean: WorkModel,
        names: Sequence[str],
        weights: Mapping[str, Array],
        support: Support,
        origin: Origin = "predicted",
    ):
        """names (f,): features of an operator. weights: "center", "scale" (f,); "input" (members, f, width), "0.own", "0.near" ... (members, width, width),
        "output" (members, width); biases beside them."""
        self.mean, self.names, self.weights, self._support, self.origin = mean, tuple(names), dict(weights), support, origin

    @classmethod
    def fit(cls, blocks: Sequence[Block], prices_ms: FloatArray, *, origin: Origin = "predicted", seed: int = 0) -> GraphNetwork:
        """Raises InputError where blocks are too few, or fit no model."""
        import torch

        prices_ms = enough(blocks, prices_ms)
        try:
            mean = WorkModel.fitted(blocks, prices_ms)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"no model fits the prices of these {len(blocks)} blocks: {error}") from None
        names = sorted({name for block in blocks for node in block for name in _operator(node.op)})
        nodes, near, present = _batch(blocks, names)
        kept = nodes[present > 0]
        center, scale = kept.mean(axis=0), np.maximum(kept.std(axis=0), 1e-3)
        rest = np.log(prices_ms) - mean(blocks)
        spread = max(float(rest.std()), 1e-4)
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> torch.Tensor:
            weights: torch.Tensor = (torch.randn(_MEMBERS, *shape, generator=generator) / shape[0] ** 0.5).requires_grad_()
            return weights

        weights = {"input": drawn(len(names), _WIDTH), "input.bias": torch.zeros(_MEMBERS, 1, _WIDTH, requires_grad=True)}
        for i in range(_LAYERS):
            weights |= {
                f"{i}.own": drawn(_WIDTH, _WIDTH),
                f"{i}.near": drawn(_WIDTH, _WIDTH),
                f"{i}.bias": torch.zeros(_MEMBERS, 1, _WIDTH, requires_grad=True),
            }
        weights |= {"output": drawn(_WIDTH, 1), "output.bias": torch.zeros(_MEMBERS, 1, 1, requires_grad=True)}
        x, adjacency, mask = (torch.from_numpy(each) for each in ((nodes - center) / scale, near, present))
        target = torch.from_numpy((rest / spread).astype(np.float32))
        optimizer = torch.optim.AdamW(weights.values(), lr=_RATE, weight_decay=_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
        for _ in range(_STEPS):
            rows = torch.randperm(len(blocks), generator=generator)[:_BATCH]
            edges, there = adjacency[rows], mask[rows]
            optimizer.zero_grad()
            hidden = torch.relu(x[rows] @ weights["input"].unsqueeze(1) + weights["input.bias"].unsqueeze(1))  # (members, blocks, nodes, width)
            for i in range(_LAYERS):
                mixed = (edges @ hidden) @ weights[f"{i}.near"].unsqueeze(1)
                hidden = hidden + torch.relu(hidden @ weights[f"{i}.own"].unsqueeze(1) + mixed + weights[f"{i}.bias"].unsqueeze(1))
            pooled = (hidden * there[..., None]).sum(dim=2) / there.sum(dim=1)[:, None]
            found = (pooled @ weights["output"] + weights["output.bias"])[..., 0]
            loss = torch.nn.functional.huber_loss(found, target[rows].expand_as(found))
            loss.backward()
            optimizer.step()
            schedule.step()
        fitted = {name: tensor.detach().numpy() for name, tensor in weights.items()}
        fitted["output"], fitted["output.bias"] = fitted["output"] * np.float32(spread), fitted["output.bias"] * np.float32(spread)
        return cls(mean, names, {**fitted, "center": center, "scale": scale}, Support.of(blocks), origin)

    def prices(self, blocks: Sequence[Block]) -> FloatArray:
        """(m,), 0 for a skipped layer. Raises InputError for a block of over 256 operators."""
        prices = np.zeros(len(blocks))
        rows = [i for i, block in enumerate(blocks) if block]
        if rows:
            computing = [blocks[i] for i in rows]
            prices[rows] = np.exp(np.clip(self.mean(computing) + self._rest(computing), -20.0, 27.0))  # what a table can hold
        return prices

    def _rest(self, blocks: Sequence[Block]) -> FloatArray:
        nodes, near, present = _batch(blocks, self.names)
        w = self.weights
        with np.errstate(over="ignore", invalid="ignore"):  # weights from outside may be huge
            x = (nodes - w["center"]) / w["scale"]
            hidden = np.maximum(x @ w["input"][:, None] + w["input.bias"][:, None], 0)
            for i in range(_LAYERS):
                mixed = (near @ hidden) @ w[f"{i}.near"][:, None]
                hidden = hidden + np.maximum(hidden @ w[f"{i}.own"][:, None] + mixed + w[f"{i}.bias"][:, None], 0)
            pooled = (hidden * present[..., None]).sum(axis=2) / present.sum(axis=1)[:, None]
            return np.nan_to_num(np.asarray((pooled @ w["output"] + w["output.bias"])[..., 0].mean(axis=0), np.float64), nan=0.0)

    def is_outside(self, blocks: Sequence[Block]) -> npt.NDArray[np.bool_]:
        return self._support.is_outside(blocks)

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        facts = {"features": self.names, "work": self.mean.names, "least_ms": self.mean.least_ms, "sizes": self._support.names, "origin": self.origin}
        tensors = {f"network.{name}": array for name, array in self.weights.items()}
        save_predictor(path, FORMAT, facts, {**tensors, "work.scale": self.mean.scale, "work.coefficients": self.mean.coefficients, **self._support.tensors()})

    @classmethod
    def load(cls, path: Path) -> GraphNetwork:
        """Raises DamagedFile."""
        facts, tensors = load_predictor(path, FORMAT)
        names, origin = names_in(facts, "features"), facts.get("origin")
        try:
            weights = {name: tensors[f"network.{name}"].astype(np.float32) for name in _shapes(len(names))}
            floats = {name: array.astype(np.float64) for name, array in tensors.items() if not name.startswith("network.")}
            mean = WorkModel(names_in(facts, "work"), floats["work.scale"], floats["work.coefficients"], float(facts["least_ms"]))
            support = Support(names_in(facts, "sizes"), floats["support.least"], floats["support.greatest"])
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFile(f"{path} lacks a part of a graph_network, or has it in another form: {error}") from None
        for name, shape in _shapes(len(names)).items():
            if weights[name].shape != shape:
                raise DamagedFile(f"{path}: {name} has the shape {weights[name].shape}, it must be {shape}")
        if origin not in ("predicted", "simulated", "emulated") or not (weights["scale"] > 0).all():
            raise DamagedFile(f"{path} is of the origin {str(origin)[:40]!r}, or scales features by nothing")
        mean.check()
        support.check()
        return cls(mean, names, weights, support, cast(Origin, origin))


def graph_network(table: LatencyTable) -> GraphNetwork:
    """A network fitted to the measured rows of a table. Raises InputError."""
    blocks, prices_ms = measured_rows(table)
    return GraphNetwork.fit(blocks, prices_ms, origin=predicted_origin(table))


def _shapes(features: int) -> dict[str, tuple[int, ...]]:
    """Names of all arrays of the networks, and their shapes."""
    layer = {"own": (_MEMBERS, _WIDTH, _WIDTH), "near": (_MEMBERS, _WIDTH, _WIDTH), "bias": (_MEMBERS, 1, _WIDTH)}
    return {
        "center": (features,),
        "scale": (features,),
        "input": (_MEMBERS, features, _WIDTH),
        "input.bias": (_MEMBERS, 1, _WIDTH),
        **{f"{i}.{name}": shape for i in range(_LAYERS) for name, shape in layer.items()},
        "output": (_MEMBERS, _WIDTH, 1),
        "output.bias": (_MEMBERS, 1, 1),
    }


def _operator(op: Op) -> dict[str, float]:
    """An operator as a node of the graph."""
    features = {f"kind.{kind(op)}": 1.0, f"type.{op.data_type}": 1.0, "weights": log1p(sum(map(prod, op.weights.values())))}
    features |= {
        "macs": log1p(tiled_macs(op)),
        "read": log1p(sum(map(prod, op.inputs))),
        "written": log1p(prod(op.output)),
        "bytes": float(ITEM_BYTES[op.data_type]),
    }
    if (act := getattr(op, "act", "none")) != "none":
        features[f"act.{act}"] = 1.0
    if isinstance(op, Conv2d):
        features |= {"kernel": float(op.kernel), "stride": float(op.stride)}
    if len(op.output) == 4:
        features |= {"channels": log1p(op.output[1]), "side": log1p(op.output[-1])}
    return features


def _batch(blocks: Sequence[Block], names: Sequence[str]) -> tuple[Array, Array, Array]:
    """Features (m, nodes, f), normalised adjacency (m, nodes, nodes) without the nodes themselves, and which nodes there are (m, nodes)."""
    size = max(map(len, blocks))
    if size > MAX_NODES:
        raise InputError(f"a block of {size} operators, a graph_network takes up to {MAX_NODES}")
    column = {name: i for i, name in enumerate(names)}
    nodes = np.zeros((len(blocks), size, len(names)), np.float32)
    near = np.zeros((len(blocks), size, size), np.float32)
    present = np.zeros((len(blocks), size), np.float32)
    for i, block in enumerate(blocks):
        place = {node.name: j for j, node in enumerate(block)}
        present[i, : len(block)] = 1
        for j, node in enumerate(block):
            for name, value in _operator(node.op).items():
                if name in column:
                    nodes[i, j, column[name]] = value
            for source in node.inputs:
                if source in place:
                    near[i, j, place[source]] = near[i, place[source], j] = 1
    degrees = np.maximum(near.sum(axis=2), 1)
    return nodes, np.asarray(near / np.sqrt(degrees[:, :, None] * degrees[:, None, :]), np.float32), present


if TYPE_CHECKING:
    _: type[Fitted] = GraphNetwork
