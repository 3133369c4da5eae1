"""Subnets of a run as they are deployed: their graphs and files in the precision and batch of the search, and what those files classify right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hwnas.backends.onnx import runner, to_onnx
from hwnas.graph import Graph
from hwnas.ops import Shape
from hwnas.profiling.runtime import Runtime
from hwnas.quantization import is_quantized, value_ranges
from hwnas.verbs.common import Job
from hwnas.weights import Array, random_weights

if TYPE_CHECKING:
    from hwnas.images import Images

CALIBRATION_IMAGES = 128
_IMAGES_AT_ONCE = 256


def graph_of(job: Job, code: Sequence[int]) -> Graph:
    """The subnet's graph in the precision and batch of the search."""
    return job.deployed.space.lower(np.array(code, np.int16))


def model_of(job: Job, code: Sequence[int], runtime: Runtime | None = None) -> bytes:
    """The model file of a subnet with its own batch-norm statistics, int8 calibrated on training images; the same bytes every time.

    An ONNX file, but for a runtime that loads another form."""
    graph, weights = graph_of(job, code), job.accuracy.network(np.array(code, np.int16)).weights()
    if runtime is not None and runtime.loads != "onnx":
        return runtime.build(graph, weights)
    ranges = None
    if is_quantized(graph):
        seen = job.images("train").sample(CALIBRATION_IMAGES).at(slice(None), graph.input[2])
        ranges = value_ranges(graph, weights, seen.numpy())
    raw: bytes = to_onnx(graph, weights, ranges=ranges).SerializeToString(deterministic=True)
    return raw


def classified(model: bytes, shape: Shape, images: Images) -> npt.NDArray[np.bool_]:
    """Whether a file of that input shape classifies each image right, (n,), in ONNX Runtime on this machine. Raises InputError where that cannot run it."""
    run, batch, labels = runner(model), shape[0], images.labels.numpy()
    right = np.empty(len(images), np.bool_)
    step = batch * max(1, _IMAGES_AT_ONCE // batch)  # decoded and resized together: one by one takes longer than the network
    for first in range(0, len(images), step):
        x: Array = images.at(slice(first, first + step), shape[2]).numpy()
        padded = np.concatenate([x, np.zeros((-len(x) % batch, *x.shape[1:]), np.float32)])
        outputs = np.concatenate([run(np.ascontiguousarray(padded[i : i + batch])) for i in range(0, len(padded), batch)])
        right[first : first + step] = outputs[: len(x)].argmax(axis=1) == labels[first : first + step]
    return right


def untrained_model_of(job: Job, code: Sequence[int], runtime: Runtime) -> bytes:
    """The same with random weights, of a seed: latency does not depend on what weights are trained to."""
    graph = graph_of(job, code)
    return runtime.build(graph, random_weights(graph, np.random.default_rng(0)))
