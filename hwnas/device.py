"""A device: what it is called and how to reach it. One TOML file each, in `devices/` or anywhere.

What a device really is (processor, cores, system, versions) is not written down here but asked of its agent when it measures.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hwnas import registry
from hwnas.data import shipped
from hwnas.errors import DamagedFile, UnknownName
from hwnas.files import read_toml

MAX_THREADS = 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Device:
    """`runtimes` are the names of those it can run, the preferred one first; `threads` is what it is measured with unless told otherwise.

    `address` is how its transport reaches it, such as `user@host`; local ones need none.
    """

    name: str
    description: str
    processor: str
    transport: str
    runtimes: tuple[str, ...]
    threads: int = 1
    address: str = ""


def device_names() -> list[str]:
    """Sorted names of the shipped devices."""
    return sorted(path.stem for path in shipped("devices").glob("*.toml"))


def load_device(name_or_path: str | Path) -> Device:
    """The shipped device of that name, or the one in a `.toml` file. Raises UnknownName, DamagedFile."""
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith(".toml"):
        return validate(read_toml(Path(text)), text)
    if text not in device_names():
        raise UnknownName("device", text, device_names())
    return load_device(shipped("devices") / f"{text}.toml")


def validate(data: dict[str, Any], source: str) -> Device:
    """The device that a file's content describes; its name is the file's. Raises DamagedFile naming the field, UnknownName."""
    name = Path(source).stem
    if not _NAME.fullmatch(name):
        raise DamagedFile(f"{source}: a device is named by letters, digits, '.', '_' and '-', at most 64 of them")
    known = [each.name for each in fields(Device) if each.name != "name"]
    for key in data:
        if key not in known:
            raise DamagedFile(f"{source}: unknown field '{key}'; a device has {', '.join(known)}")
    for key in ("description", "processor", "transport"):
        if not isinstance(data.get(key), str) or not data[key]:
            raise DamagedFile(f"{source}: '{key}' must be a text")
    runtimes, threads, address = data.get("runtimes"), data.get("threads", 1), data.get("address", "")
    if not isinstance(runtimes, list) or not runtimes or not all(isinstance(each, str) for each in runtimes):
        raise DamagedFile(f"{source}: 'runtimes' must be a list of one or more names")
    if type(threads) is not int or not 1 <= threads <= MAX_THREADS:
        raise DamagedFile(f"{source}: 'threads' must be a whole number from 1 to {MAX_THREADS}, got {threads!r}")
    if not isinstance(address, str) or not address.isprintable() or address.startswith("-"):  # '-...' would be an option of the program that connects
        raise DamagedFile(f"{source}: 'address' must be a text that does not begin with '-', got {address!r}")
    for catalogue, wanted in (("profiling.transports", [data["transport"]]), ("profiling.runtimes", runtimes)):
        for each in wanted:
            if each not in registry.names(catalogue):
                raise UnknownName(registry.CATALOGUES[catalogue], each, registry.names(catalogue))
    return Device(name, data["description"], data["processor"], data["transport"], tuple(runtimes), threads, address)
