"""The device that a command measures on: the one of a latency table, or another one in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from hwnas import registry
from hwnas.device import Device, load_device
from hwnas.errors import InputError, UnknownName
from hwnas.executor import Executor, Leasing
from hwnas.graph import Graph
from hwnas.latency_table import LatencyTable
from hwnas.measured_latency import MeasuredLatency
from hwnas.profiling.meter import DeviceMeter, Meter
from hwnas.profiling.protocol import timing_of
from hwnas.profiling.runtime import Runtime
from hwnas.space import Codes
from hwnas.verbs.common import Job, Progress
from hwnas.verbs.deployed import graph_of, untrained_model_of


@dataclass(frozen=True)
class Target:
    """A device, and the table that says under which conditions it is measured. Raises InputError where it has no such runtime."""

    device: Device
    table: LatencyTable

    def __post_init__(self) -> None:
        runtime_of(self.device, self.table.conditions.runtime)

    @property
    def runtime(self) -> str:
        return runtime_of(self.device, self.table.conditions.runtime)


def device_of(name: str, given: str | None, option: str = "--device") -> Device:
    """The device of that name, which a table or `given`, the option's value, has. Raises UnknownName, InputError."""
    try:
        return load_device(name)
    except UnknownName:
        if given is None:
            raise InputError(f"the table is of the device '{name}', which is neither shipped nor one of yours; name its file with {option}") from None
        raise


def runtime_of(device: Device, name: str) -> str:
    """What the device's file calls the runtime that a table was measured with. Raises InputError where it has none such."""
    for each in device.runtimes:
        made: Runtime = registry.create("profiling.runtimes", each)
        if made.name == name:
            return each
    raise InputError(f"the table was measured with the runtime '{name}', and {device.name} has {', '.join(device.runtimes)}; name another device")


def measured_latency(job: Job, target: Target, progress: Progress) -> MeasuredLatency:
    """What measures a search's candidates as its table was measured, with random weights: latency does not depend on what they are trained to."""
    made: Runtime = registry.create("profiling.runtimes", target.runtime)

    def build(code: Codes) -> tuple[bytes, Graph]:
        return untrained_model_of(job, code[0].tolist(), made), graph_of(job, code[0].tolist())

    name = f"latency on {target.device.name}"
    return MeasuredLatency(job.index, build, *meter_of(job, target, None), quantile=job.budget.quantile, progress=lambda done, n: progress(name, done, n))


def meter_of(job: Job, target: Target, executor: Executor | None) -> tuple[Callable[[], Meter], bool]:
    """(what takes the device, whether it is this machine): from here, or where the executor says that the device is. Raises InputError."""
    conditions, options, device = target.table.conditions, job.options("search"), target.device
    how = {"threads": conditions.threads, "timing": timing_of(conditions.regime), "seconds": options["latency_seconds"], "seed": options["seed"]}
    meter = partial(DeviceMeter, device, target.runtime, **how)
    if isinstance(executor, Leasing) and executor.has(device.name):
        return partial(executor.lease, device.name, meter), False
    return meter, device.transport == "local"
