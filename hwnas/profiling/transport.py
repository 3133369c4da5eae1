"""What a transport is: how a device's agent is started and spoken to."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from hwnas.device import Device, core_numbers
from hwnas.errors import DamagedFile, MeasurementFailed


class Connection(Protocol):
    """A running agent.

    Raises MeasurementFailed, naming what happened, when it ends, hangs or answers nonsense, and ConnectionLost where only the way to it broke.
    """

    def ask(self, request: dict[str, Any], payload: bytes = b"", *, seconds: float) -> dict[str, Any]:
        """Send one request, followed by its payload, and wait at most `seconds` for its one-line answer."""
        ...

    def close(self) -> None:
        """End the agent."""
        ...


@runtime_checkable
class Installed(Protocol):
    """A connection to an agent that was there before: which one, its transport alone knows."""

    agent_sha256: str


class Transport(Protocol):
    def check(self, device: Device) -> None:
        """Raises InputError where the device's address, or another of its fields, is not what this transport takes."""
        ...

    def start(self, device: Device, agent: Path) -> Connection:
        """Run an agent's file on the device, at its address. Raises InputError as `check` does, MeasurementFailed where it cannot be started."""
        ...


_IMPORT = re.compile(rb"^from ([A-Za-z0-9_]+) import [A-Za-z0-9_, ]+$", re.MULTILINE)


def agent_source(agent: Path) -> bytes:
    """An agent as one source: where it is a Python program, the text of each file of its folder that it imports from (`agent_contract.py`,
    and others) stands in the place of the first such line, and nothing in that of the later ones. Raises DamagedFile."""
    try:
        return _in_one(agent, set()) if agent.suffix == ".py" else agent.read_bytes()
    except OSError as error:
        raise DamagedFile(f"cannot read the agent {agent}: {error.strerror or error}") from None


def _in_one(path: Path, there: set[Path]) -> bytes:
    def text(line: re.Match[bytes]) -> bytes:
        imported = path.parent / f"{line[1].decode()}.py"
        if imported in there:
            return b""
        if not imported.is_file():
            return line[0]  # of the standard library
        there.add(imported)
        return _in_one(imported, there)

    return _IMPORT.sub(text, path.read_bytes())


def taskset(device: Device) -> list[str]:
    """What stands before a command of a Linux system so that it runs on the device's cores alone; nothing where it names none."""
    numbers = core_numbers(device.cores)
    return ["taskset", f"{sum(1 << number for number in numbers):x}"] if numbers else []


def parsed_answer(line: bytes, agent: str, what: str) -> dict[str, Any]:
    """The answer that a line of an agent is. Raises MeasurementFailed where it is not one of the contract; agent: how the sentence names it."""
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict) or not isinstance(answer.get("ok"), bool):
        raise MeasurementFailed(f"{agent} answered '{what}' with {line[:80]!r}, which is not of its contract")
    return answer
