"""The agent as a child process of ours, over pipes."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from hwnas.device import Device
from hwnas.errors import InputError
from hwnas.profiling.agent_files import agent_files
from hwnas.profiling.transport import Connection, Transport, taskset
from hwnas.profiling.transports._process import ProcessConnection


class LocalTransport:
    def check(self, device: Device) -> None:
        if device.address or device.python:
            raise InputError(f"{device.name} is this machine: transport 'local' takes neither an address nor a python; remove them, or use transport 'ssh'")

    def start(self, device: Device, agent: Path) -> Connection:
        self.check(device)
        pinned = taskset(device)
        if pinned and shutil.which(pinned[0]) is None:
            raise InputError(
                f"{device.name} is measured on cores {device.cores}, which needs Linux and its taskset; install it (package util-linux), or remove 'cores'"
            )
        if not device.agent:
            return ProcessConnection([*pinned, sys.executable, str(agent.resolve())])
        program = agent_files(device, agent).program
        libraries = f"{program.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":")
        return ProcessConnection([*pinned, str(program)], environment={"LD_LIBRARY_PATH": libraries})


def local() -> Transport:
    """This machine."""
    return LocalTransport()
