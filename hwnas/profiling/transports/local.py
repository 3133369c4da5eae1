"""The agent as a child process of ours, over pipes."""

from __future__ import annotations

import sys
from pathlib import Path

from hwnas.device import Device
from hwnas.errors import InputError
from hwnas.profiling.transport import Connection, Transport
from hwnas.profiling.transports._process import ProcessConnection


class LocalTransport:
    def check(self, device: Device) -> None:
        if device.address or device.python:
            raise InputError(f"{device.name} is this machine: transport 'local' takes neither an address nor a python; remove them, or use transport 'ssh'")

    def start(self, device: Device, agent: Path) -> Connection:
        self.check(device)
        return ProcessConnection([sys.executable, str(agent.resolve())])


def local() -> Transport:
    """This machine."""
    return LocalTransport()
