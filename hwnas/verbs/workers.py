"""Where a command evaluates subnets, and what a worker needs to do as the command itself would: in another process, or on another machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from hwnas import registry
from hwnas.errors import InputError
from hwnas.executor import Evaluate, Executor, Prepare
from hwnas.feasible_set import is_expensive
from hwnas.index import BlockIndex
from hwnas.predictor import Metric
from hwnas.problem import Objective, Problem
from hwnas.space import Codes, FloatArray
from hwnas.verbs.common import Job, images_of, index_of, moved, use_threads

MAX_WORKERS = 1_024


def travels(workers: int, executor: str | None) -> bool:
    """Whether evaluations leave this process."""
    return workers > 1 or executor is not None


def threads_of_worker(threads: int | None, workers: int, executor: str | None) -> int | None:
    """As many as were asked for, else of several processes each a part of this machine's cores; None for all of them. Raises InputError."""
    if not 1 <= workers <= MAX_WORKERS:
        raise InputError(f"--workers is {workers}, it must be from 1 to {MAX_WORKERS:,}")
    if executor is not None and ".py" not in executor:
        registry.load("executors", registry.split_call(executor)[0])
    return threads if threads is not None or not travels(workers, executor) else max(1, (os.cpu_count() or 1) // workers)


def check_workers(job: Job, accuracy: str | Metric | None) -> None:
    """Raises InputError where there is nothing for workers to do, or what they would do cannot be taken to them."""
    if job.predicted is None or job.predicted.accuracy is None:
        return
    if not is_expensive(job.predicted.accuracy):
        if not job.is_measured:
            raise InputError("--workers and --executor are for evaluations that cost something, and this accuracy is predicted here at once; leave them out")
    elif not isinstance(accuracy, str):
        raise InputError("a metric that is given as an object stays in this process: name it as 'path.py:function' to evaluate it in workers")


@contextmanager
def working(
    job: Job, workers: int, executor: str | None, threads: int | None, device: str = "cpu", accuracy: str | Metric | None = None
) -> Iterator[Executor | None]:
    """The executor that was asked for, closed at the end; None for this process. accuracy: what was given in the place of a supernet. Raises InputError."""
    if not travels(workers, executor):
        yield None
        return
    prepare = _supernet_of(job, threads or 1, device) if job.is_trained else _predicted_of(job, threads or 1, accuracy)
    make = cast("Callable[..., Executor]", lambda *given: registry.create("executors", executor or "processes", *given))
    made = make(prepare, workers)
    try:
        yield made
    finally:
        made.close()


def searchable(space: str, accuracy: str | Metric) -> tuple[BlockIndex, Metric]:
    """A space and what stands in the place of a supernet's accuracy: a metric, or the name of one. Raises InputError."""
    index = BlockIndex(registry.create("spaces", space))
    metric = registry.create("predictors", accuracy, index) if isinstance(accuracy, str) else accuracy
    if not callable(metric) or not all(isinstance(getattr(metric, part, None), str) for part in ("name", "unit", "origin")):
        raise InputError(f"'{accuracy}' makes no metric: it must be callable on codes (n, choices) and have name, unit and origin")
    return index, metric


@dataclass(frozen=True, slots=True)
class SupernetEvaluation:
    """Accuracy of subnets with inherited weights, as `Job.accuracy` has it. weights: a safetensors file; train: the options of that stage."""

    folder: Path
    train: Mapping[str, Any]
    weights: bytes
    device: str
    threads: int

    def __call__(self) -> Evaluate:
        from safetensors.torch import load

        from hwnas.supernet.supernet import Supernet
        from hwnas.training.evaluate import SupernetAccuracy

        use_threads(self.threads)
        index = index_of(self.train, self.folder)
        supernet = Supernet(index, sharing=self.train.get("sharing") or "slices")
        supernet.load(load(self.weights))
        moved(supernet, self.device)
        training, validation = (images_of(self.train, split, self.folder) for split in ("train", "validation"))
        return _evaluate(index, SupernetAccuracy(supernet, training, validation, seed=self.train["seed"]))


@dataclass(frozen=True, slots=True)
class PredictedEvaluation:
    """An accuracy that is expensive and needs no supernet, by its name."""

    space: str
    accuracy: str
    threads: int

    def __call__(self) -> Evaluate:
        use_threads(self.threads)
        return _evaluate(*searchable(self.space, self.accuracy))


@dataclass(frozen=True, slots=True)
class _Nothing:
    """Where only latency costs something, which a device is for."""

    def __call__(self) -> Evaluate:
        return nothing


def nothing(code: Codes, fidelity: float) -> FloatArray:
    return np.empty(0)


def _evaluate(index: BlockIndex, accuracy: Metric) -> Evaluate:
    return Problem(index, [Objective(accuracy, maximize=True)]).evaluate_travelling


def _supernet_of(job: Job, threads: int, device: str) -> Prepare:
    files = (job.recorded("search") or {}).get("files") or job.result("train")["files"]
    return SupernetEvaluation(job.run.folder, dict(job.options("train")), job.run.store.blob(files["supernet.safetensors"]), device, threads)


def _predicted_of(job: Job, threads: int, accuracy: str | Metric | None) -> Prepare:
    check_workers(job, accuracy)
    assert job.predicted is not None and job.predicted.accuracy is not None
    if not is_expensive(job.predicted.accuracy):
        return _Nothing()  # the executor is asked for the device alone
    return PredictedEvaluation(job.options("search")["space"], str(accuracy), threads)
