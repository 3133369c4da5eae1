"""`device list`, `device add` and `device check`: which devices there are, one more of one's own, and how well one can be measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hwnas import registry
from hwnas.data import own_devices, shipped
from hwnas.device import device_files, load_device, validate
from hwnas.errors import HwnasError, InputError
from hwnas.files import write_toml
from hwnas.profiling import check
from hwnas.profiling.transport import Transport
from hwnas.verbs.common import Progress, silent


def list_devices() -> list[Mapping[str, Any]]:
    """Name, fields and origin (`shipped` or `own`) of each device; one whose file is damaged has an `error` instead of fields."""
    devices: list[Mapping[str, Any]] = []
    for name, path in device_files().items():
        known = {"name": name, "origin": "shipped" if path.parent == shipped("devices") else "own"}
        try:
            devices.append(known | asdict(load_device(path)))
        except HwnasError as error:
            devices.append(known | {"error": str(error)})
    return devices


def add_device(
    name: str,
    *,
    transport: str,
    address: str = "",
    python: str = "",
    agent: str | Path = "",
    cores: str = "",
    runtimes: Sequence[str] = ("onnxruntime",),
    processor: str = "cpu",
    threads: int = 1,
    description: str = "",
    replace: bool = False,
) -> Path:
    """Write a device of one's own; its file. Nothing is connected to. replace: also where there is one of that name. Raises InputError.

    agent: folder with a program that is the agent there. cores: those that it is measured on, such as `4-7`.
    """
    if Path(f"{name}.toml").name != f"{name}.toml":
        raise InputError(f"'{name}' is a path; a device is named by letters, digits, '.', '_' and '-'")
    path = own_devices() / f"{name}.toml"
    data: dict[str, Any] = {"description": description or f"{address or name}, over {transport}", "processor": processor, "transport": transport}
    data |= {"runtimes": list(runtimes), "threads": threads}
    own = {"address": address, "python": python, "agent": agent and str(Path(agent).expanduser().resolve()), "cores": cores}
    data |= {key: value for key, value in own.items() if value}
    device = validate(data, f"{name}.toml")
    made: Transport = registry.create("profiling.transports", transport)
    made.check(device)
    there = device_files().get(name)
    if there is not None and there != path:
        raise InputError(f"'{name}' is a device that ships with hwnas; choose another name")
    if there is not None and not replace:
        raise InputError(f"{path} is there already; choose another name, or replace it with --replace")
    write_toml(path, data)
    return path


def check_device(device: str, *, seconds: float = 10.0, threads: int | None = None, runtime: str = "", progress: Progress = silent) -> Mapping[str, Any]:
    """What a device is, how finely and evenly it can be timed, and what would make it steadier: plain values. Raises HwnasError.

    It is measured for `seconds`, with the device's own threads and first runtime unless told otherwise.
    """
    target = load_device(device)
    found = check.check_device(target, threads=target.threads if threads is None else threads, seconds=seconds, runtime=runtime, progress=progress)
    identity = found.identity
    return {
        "device": target.name,
        "transport": target.transport,
        "address": target.address,
        "origin": identity.origin,
        "runtime": identity.runtime,
        "version": identity.version,
        "options": dict(identity.options),
        "system": dict(identity.system),
        "agent_sha256": identity.agent_sha256,
        "before": dict(found.before),
        "after": dict(found.after),
        "temperatures_c": check.temperatures(found.after),
        **{key: getattr(found, key) for key in ("threads", "seconds", "visits", "disturbed_share", "anchor_best_us", "noise_pct", "run_noise_pct")},
        "speed_states": [asdict(state) for state in found.states],
        "advice": list(found.advice),
    }
