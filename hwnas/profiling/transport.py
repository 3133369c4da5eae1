"""What a transport is: how a device's agent is started and spoken to."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Protocol

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


class Transport(Protocol):
    def check(self, device: Device) -> None:
        """Raises InputError where the device's address, or another of its fields, is not what this transport takes."""
        ...

    def start(self, device: Device, agent: Path) -> Connection:
        """Run an agent's file on the device, at its address. Raises InputError as `check` does, MeasurementFailed where it cannot be started."""
        ...


_CONTRACT = re.compile(rb"^from agent_contract import [A-Za-z_, ]+$", re.MULTILINE)


def agent_source(agent: Path) -> bytes:
    """An agent as one source: where it is a Python program that imports `agent_contract.py` of its folder, that file's text stands in the
    import's place. Raises DamagedFile."""
    try:
        source = agent.read_bytes()
        if agent.suffix != ".py" or not _CONTRACT.search(source):
            return source
        contract = (agent.parent / "agent_contract.py").read_bytes()
    except OSError as error:
        raise DamagedFile(f"cannot read the agent {agent}: {error.strerror or error}") from None
    return _CONTRACT.sub(lambda match: contract, source, count=1)


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
