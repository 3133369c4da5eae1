"""What an exporter is, and the proof that the file it wrote computes what the network computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from hwnas.backends.numpy import numpy
from hwnas.errors import InputError
from hwnas.graph import Graph
from hwnas.weights import Array, Weights

#: Largest difference of logits allowed, relative to their standard deviation.
PARITY_LIMIT = 1e-3
#: The same by the data type of the operators: what rounding to 11 and 8 bits comes to over a network of tens of layers. Of int8 it tells a
#: broken file only, with min-max calibration; what quantisation costs is the accuracy, which `verify` and `export` evaluate.
PARITY_LIMITS = {"float32": PARITY_LIMIT, "float16": 2e-2, "bfloat16": 1e-1, "int8_u8s8": 0.9, "int8_s8s8": 0.9, "int8_fp16": 0.9}
#: Of int8 files on real images: the root mean square of the differences. A file that gives nothing of the network has 1 at least.
INT8_RMS_LIMIT = 0.7


@dataclass(frozen=True, slots=True)
class Exported:
    """Facts about a model file that was written."""

    path: Path
    sha256: str
    size_bytes: int
    opset: int
    ir_version: int
    nodes: int


class Exporter(Protocol):
    """Writes a network to `path`, whole or not at all, and says what it wrote."""

    def __call__(self, graph: Graph, weights: Weights, path: Path, *, metadata: Mapping[str, str] | None = None) -> Exported: ...


@dataclass(frozen=True, slots=True)
class Parity:
    """How far a file's logits are from the reference's: `ratio` is the largest difference over the reference's standard deviation, at most `limit`.

    rms_difference: root mean square of the differences, which the limit is for where it is given."""

    max_abs_difference: float
    logits_std: float
    inputs: int
    limit: float = PARITY_LIMIT
    rms_difference: float | None = None

    @property
    def ratio(self) -> float:
        return self.max_abs_difference / self.logits_std if self.logits_std > 0 else float("inf")

    @property
    def passed(self) -> bool:
        if self.rms_difference is not None:
            return self.logits_std > 0 and self.rms_difference <= self.limit * self.logits_std
        return self.ratio <= self.limit  # false for NaN


def parity(graph: Graph, weights: Weights, path: Path, inputs: Array, *, reference: Callable[[Array], Array] | None = None) -> Parity:
    """Compares the file `path` in ONNX Runtime with `reference` on `inputs`.

    inputs: (m, c, h, w), m a multiple of the graph's batch. reference: inputs -> logits; by default the reference interpreter of
    `graph` with `weights` in float64, another one is for instance the trained PyTorch subnet.
    Raises InputError where the file cannot be loaded or the inputs do not fit.
    """
    from hwnas.backends.onnx import runner

    batch = graph.input[0]
    if inputs.shape[1:] != graph.input[1:] or not len(inputs) or len(inputs) % batch:
        raise InputError(f"parity needs inputs of shape (m, {', '.join(map(str, graph.input[1:]))}), m a multiple of {batch}, got {inputs.shape}")
    run = runner(path)
    got = np.concatenate([run(np.ascontiguousarray(inputs[i : i + batch], np.float32)) for i in range(0, len(inputs), batch)])
    limit = max(PARITY_LIMITS[op.data_type] for op in graph.ops)
    return compare(got, (reference or numpy(graph, weights))(inputs), limit)


def compare(got: Array, expected: Array, limit: float = PARITY_LIMIT, *, by_rms: bool = False) -> Parity:
    """Parity of two sets of logits (m, classes), by the largest difference or by their root mean square. Raises InputError where their shapes differ."""
    if got.shape != expected.shape:
        raise InputError(f"logits of shape {got.shape} cannot be compared with those of shape {expected.shape}")
    difference = np.abs(got.astype(np.float64) - expected)
    rms = float(np.sqrt((difference**2).mean())) if by_rms else None
    return Parity(float(difference.max()), float(expected.std(dtype=np.float64)), len(expected), limit, rms)
