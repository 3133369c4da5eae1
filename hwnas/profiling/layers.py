"""What each operator of a model takes, by the runtime's own profiler: where the time goes, and no latency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hwnas import registry
from hwnas.device import Device
from hwnas.profiling.agent import Refused, started_agent
from hwnas.profiling.runtime import Runtime

RUNS = 50


@dataclass(frozen=True, slots=True)
class LayerTime:
    """An operator as the runtime executes it, after fusing and converting: mean time of a profiled run, and its share of their sum."""

    name: str
    mean_us: float
    share: float


def profile_layers(
    models: Sequence[bytes],
    device: Device,
    *,
    runtime: str = "",
    threads: int = 1,
    seed: int = 0,
    runs: int = RUNS,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[tuple[LayerTime, ...] | str]:
    """Of each model its operators in the order in which they run; or why there are none, as where the runtime has no profiler.

    An agent of its own: a profiler slows down what it looks at, so nothing that is timed runs beside one. Raises InputError, RunHeld,
    MeasurementFailed.
    """
    report = progress or (lambda stage, done, total: None)
    made: Runtime = registry.create("profiling.runtimes", device.runtime(runtime))
    found: list[tuple[LayerTime, ...] | str] = []
    with started_agent(device, made, threads=threads, seed=seed) as agent:
        for number, model in enumerate(models):
            report("layers", number, len(models))
            try:
                agent.load("profiled", model)
                layers = agent.layers("profiled", runs)
            except Refused as error:
                found.append(str(error))
                continue
            total = sum(ns for _, ns in layers)
            shares = tuple(LayerTime(name, ns / 1e3, ns / total) for name, ns in layers if total)
            found.append(shares or "its profiler saw no operator that takes longer than a step of its clock")
    report("layers", len(models), len(models))
    return found
