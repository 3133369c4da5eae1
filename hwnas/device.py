"""A device: what it is called and how to reach it. One TOML file each: shipped ones in `devices/`, the user's own in a folder of theirs, or anywhere.

What a device really is (processor, cores, system, versions) is not written down here but asked of its agent when it measures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hwnas import registry
from hwnas.data import own_devices, shipped
from hwnas.errors import DamagedFile, InputError, UnknownName
from hwnas.files import read_toml

MAX_THREADS = 1024
MAX_CORES = 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_CORES = re.compile(r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*")
_PYTHON = re.compile(r"(~/|/)?[A-Za-z0-9_.+][A-Za-z0-9_.+-]*(/[A-Za-z0-9_.+-]+)*")  # a shell reads it: nothing that means something to one


@dataclass(frozen=True, slots=True)
class Device:
    """`runtimes` are the names of those it can run, the one it is measured with first; `threads` of it unless told otherwise.

    `address` is how its transport reaches it, such as `user@host`; local ones need none. `python` is the interpreter there, a name or a
    path, `~/...` being the user's home; where empty it is the transport's choice. `options` are those of a runtime, by its name; its agent
    knows which there are. `agent` is a folder on this machine with a program that is the agent, and what it needs; where empty the agents that
    ship with hwnas are run. `cores` are those that it is measured on, such as `4-7`; where empty the system chooses.
    """

    name: str
    description: str
    processor: str
    transport: str
    runtimes: tuple[str, ...]
    threads: int = 1
    address: str = ""
    python: str = ""
    options: Mapping[str, Mapping[str, str | int | bool]] = field(default_factory=dict, hash=False)
    agent: str = ""
    cores: str = ""

    def runtime(self, name: str = "") -> str:
        """That runtime of the device, or its preferred one. Raises InputError where it has none of that name."""
        if name and name not in self.runtimes:
            raise InputError(f"{self.name} has no runtime '{name}'; its file names {', '.join(self.runtimes)}")
        return name or self.runtimes[0]


def device_files() -> dict[str, Path]:
    """Name -> file of the shipped devices and the user's own, sorted; of two of one name it is the shipped one."""
    files = {path.stem: path for folder in (own_devices(), shipped("devices")) for path in folder.glob("*.toml") if _NAME.fullmatch(path.stem)}
    return dict(sorted(files.items()))


def device_names() -> list[str]:
    """Sorted names of the shipped devices and the user's own."""
    return list(device_files())


def load_device(name_or_path: str | Path) -> Device:
    """The device of that name, shipped or the user's own, or the one in a `.toml` file. Raises UnknownName, DamagedFile."""
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith(".toml"):
        return validate(read_toml(Path(text)), text)
    if text not in device_names():
        raise UnknownName("device", text, device_names())
    return load_device(device_files()[text])


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
    python = data.get("python", "")
    if not isinstance(python, str) or len(python) > 200 or (python and not _PYTHON.fullmatch(python)):
        raise DamagedFile(f"{source}: 'python' must be a name or path of letters, digits, '.', '_', '+', '-' and '/', got {python!r}")
    for catalogue, wanted in (("profiling.transports", [data["transport"]]), ("profiling.runtimes", runtimes)):
        for each in wanted:
            if each not in registry.names(catalogue):
                raise UnknownName(registry.CATALOGUES[catalogue], each, registry.names(catalogue))
    options = data.get("options", {})
    for runtime, own in options.items() if isinstance(options, dict) else [(options, {})]:
        if runtime not in runtimes:
            raise DamagedFile(f"{source}: 'options' must be tables named by a runtime of this device ({', '.join(runtimes)}), got {str(runtime)[:60]!r}")
        if not isinstance(own, dict) or not all(isinstance(value, str | int) and len(str(value)) <= 200 for value in own.values()):
            raise DamagedFile(f"{source}: the options of '{runtime}' must be short texts, whole numbers, true or false")
    agent, cores = data.get("agent", ""), data.get("cores", "")
    if not isinstance(agent, str) or not agent.isprintable() or len(agent) > 1000:
        raise DamagedFile(f"{source}: 'agent' must be the path of a folder, got {agent!r}")
    if agent:
        agent = str(_folder(agent, source))
    numbers = core_numbers(cores) if isinstance(cores, str) else None
    if cores != "" and not numbers:
        raise DamagedFile(f'{source}: \'cores\' must be a text of core numbers such as "4-7" or "0,2", below {MAX_CORES}, got {cores!r}')
    cores = core_text(numbers or ())
    return Device(name, data["description"], data["processor"], data["transport"], tuple(runtimes), threads, address, python, options, agent, cores)


def core_numbers(text: str) -> tuple[int, ...] | None:
    """`4-6,7` -> (4, 5, 6, 7), sorted; None where the text names no cores."""
    if not _CORES.fullmatch(text):
        return None
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not int(first) <= int(last or first) < MAX_CORES:
            return None
        numbers.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(numbers))


def core_text(numbers: Sequence[int]) -> str:
    """(4, 5, 6, 7) -> `4-7`: the one way to write them, as agents do too."""
    firsts = [number for number in numbers if number - 1 not in numbers]
    lasts = [number for number in numbers if number + 1 not in numbers]
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in zip(firsts, lasts, strict=True))


def _folder(text: str, source: str) -> Path:
    """A folder that a device's file names, seen from that file. Raises DamagedFile where there is no home for its `~`."""
    try:
        return (Path(source).parent / Path(text).expanduser()).resolve()
    except RuntimeError:
        raise DamagedFile(f"{source}: '{text}' names a home that there is not") from None
