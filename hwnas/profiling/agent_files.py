"""The files of an agent that is a program, with the libraries that it needs, in a folder that the device's file names."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from hwnas.device import Device
from hwnas.errors import InputError
from hwnas.files import sha256
from hwnas.profiling.transport import agent_source

MAX_FILES = 64
MAX_BYTES = 1 << 30
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")  # shells read it


@dataclass(frozen=True, slots=True)
class AgentFiles:
    """`program` is the file that is run, `paths` are all of its folder, itself too."""

    program: Path
    paths: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.paths)


def program_name(agent: Path) -> str:
    """What a program is called that keeps the contract in the place of a shipped agent: `hwnas_onnxruntime_agent` for `onnxruntime_agent.py`."""
    return f"hwnas_{agent.stem}"


def agent_files(device: Device, agent: Path) -> AgentFiles:
    """Those of the folder that the device's file names. agent: the shipped one whose place they take.

    Raises InputError where the folder is none of an agent: it holds the program by its name, and plain files beside it. So no file of a
    device can have another folder of this machine read.
    """
    folder, name = Path(device.agent), program_name(agent)
    if not (folder / name).is_file():
        raise InputError(f"{folder} of device '{device.name}' is no folder with an agent: there must be a program named {name} in it")
    found = sorted(folder.iterdir())
    for path in found:
        if not _NAME.fullmatch(path.name) or not path.is_file() or path.resolve().parent != folder.resolve():
            raise InputError(f"{path} cannot be part of an agent: its folder holds plain files only, named by letters, digits, '_', '.', '+' and '-'")
    files = AgentFiles(folder / name, tuple(found))
    if len(found) > MAX_FILES or files.bytes > MAX_BYTES:
        raise InputError(f"{folder} has {len(found)} files of {files.bytes >> 20:,} MiB; an agent has at most {MAX_FILES}, of {MAX_BYTES >> 20:,} MiB together")
    return files


def agent_sha256(device: Device, agent: Path) -> str:
    """Hash of what runs on the device: of the source that is sent, or of a line `hash name` for each file of a program, sorted by name. Raises InputError."""
    if not device.agent:
        return hashlib.sha256(agent_source(agent)).hexdigest()
    lines = [f"{sha256(path)} {path.name}\n" for path in agent_files(device, agent).paths]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
