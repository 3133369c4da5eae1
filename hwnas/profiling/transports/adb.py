"""An Android phone, by the real `adb`: the user's server, keys and devices are those of the shell.

The agent's files are pushed to a folder of a random name and run there. A few lines of shell stand around the agent: they say a random word before it
starts, end it when the host is gone, remove the folder, and say how it ended; for `adb` itself ends with code 0 when its device vanishes.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwnas.device import Device
from hwnas.errors import ConnectionLost, InputError, MeasurementFailed
from hwnas.profiling.agent_files import agent_files
from hwnas.profiling.transport import Connection, Transport, agent_source, taskset
from hwnas.profiling.transports._process import ProcessConnection

FOLDER = "/data/local/tmp"
_COMMAND_S = 30.0
_PUSH_S = 600.0
_START_S = 60.0
_ANSWER_S = 10.0  # a phone that does not run `true` within them has a broken link
_MAX_NOISE_BYTES = 1 << 16
_SERIAL = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9._:%\[\]-]{0,127}")

_STATES = {
    "unauthorized": "does not trust this computer yet: unlock it, and allow debugging in the dialog that it shows",
    "authorizing": "is being asked whether it trusts this computer: unlock it, allow it, and run the same command again",
    "connecting": "is not connected yet: run the same command again in a few seconds",
    "offline": "is offline: plug it in again, or connect it again (adb reconnect offline), until 'adb devices' calls it a device",
    "no permissions": "may not be opened by this user: install the udev rules for Android (package android-sdk-platform-tools-common) and plug it in again",
}

#: Runs the agent, and ends it when adbd says that the host is gone. Text for any POSIX shell; nothing in it comes from the device.
_RUN = (
    "cd {folder} || exit 2; chmod 700 {entry}; exec 3<&0; trap 'kill -9 $agent' HUP INT TERM; echo {word}; "
    "{command} <&3 3<&- & agent=$!; wait $agent; code=$?; cd /; rm -rf {folder}; echo {word} $code >&2; exit $code"
)

#: Makes the folder, and removes what older ones were left, by a phone that was switched off say, for more than a day.
_MAKE = "find {parent} -maxdepth 1 -type d -name 'hwnas-*' -mtime +0 -exec rm -rf {{}} ';' 2>/dev/null; mkdir -m 700 {folder}"


class AdbTransport:
    def check(self, device: Device) -> None:
        if device.address and not _SERIAL.fullmatch(device.address):
            raise InputError(f"'{device.address}' is no serial number of a device; write one as 'adb devices' shows it, such as 0A1B2C3D or 192.168.1.5:5555")
        if device.agent and device.python:
            raise InputError(f"{device.name} names both an agent's folder and a python: a program needs no interpreter; remove one of them")

    def start(self, device: Device, agent: Path) -> Connection:
        self.check(device)
        files = agent_files(device, agent) if device.agent else None
        adb = Adb(device)
        folder = f"{FOLDER}/hwnas-{secrets.token_hex(8)}"
        connection: AdbConnection | None = None
        try:
            if files:
                adb.push(files.paths, folder)
            else:
                with tempfile.TemporaryDirectory(prefix="hwnas-push-") as made:
                    source = Path(made, agent.name)
                    source.write_bytes(agent_source(agent))
                    adb.push([source], folder)
            connection = AdbConnection(adb, device, files.program.name if files else agent.name, folder)
            connection.wait_for_word()
        except BaseException:
            if connection:
                connection.close()
            adb.answers(f"rm -rf {folder}")
            raise
        return connection


class Adb:
    """The `adb` program, and the one device of it that is meant.

    Raises InputError where the program is missing or the device is not told from others, MeasurementFailed where it cannot be used.
    """

    def __init__(self, device: Device):
        found = shutil.which("adb")
        if found is None:
            raise InputError("transport 'adb' needs the program adb, which is not installed here; install Android's platform-tools (package adb)")
        self._program, self._device = found, device
        _refuse_other_server(found)
        self.serial = self._chosen()
        self.where = f"{device.name} ({self.serial})"
        code, words = self.run("features")
        if code != 0:
            raise self._failed("cannot be reached", words)
        if "shell_v2" not in words.split():
            raise MeasurementFailed(
                f"{self.where} has an adbd without shell_v2 (Android before 7), over which neither clean bytes nor exit codes come: "
                f"measure it over SSH (Termux), or in its browser"
            )

    def command(self, *arguments: str) -> list[str]:
        return [self._program, "-s", self.serial, *arguments]

    def run(self, *arguments: str, seconds: float = _COMMAND_S) -> tuple[int, str]:
        """Exit code and words of `adb` for the device. Raises ConnectionLost where it does not end in time."""
        try:
            return _run(self.command(*arguments), seconds)
        except TimeoutError:
            raise ConnectionLost(f"{self.where} does not answer: 'adb {arguments[0]}' did not end within {seconds:.0f} s; check its cable or network") from None

    def push(self, files: Sequence[Path], folder: str) -> None:
        """Put the files into a new folder on the device, which only adb's user there may enter."""
        code, words = self.run("shell", "-T", _MAKE.format(parent=FOLDER, folder=folder))
        if code != 0:
            raise self._failed("cannot take an agent", words)
        code, words = self.run("push", *map(str, files), f"{folder}/", seconds=_PUSH_S)
        if code != 0 and "No space left" in words:
            size = sum(path.stat().st_size for path in files)
            raise MeasurementFailed(f"{self.where} has no place for the agent's {size:,} bytes in {FOLDER}: free some of its storage")
        if code != 0:
            raise self._failed("cannot take the agent's files", words)

    def lost(self, what: str) -> ConnectionLost:
        """The sentence for a link that broke, with what adb knows of the device now."""
        try:
            state = self._states().get(self.serial, "no longer attached")
            now = "" if state == "device" else f", and it is {state} now: connect it again"
        except MeasurementFailed:
            now = ", and adb's server does not answer"
        return ConnectionLost(f"the connection to {self.where} was lost during '{what}'{now}; the same command goes on where it was")

    def answers(self, line: str = "true") -> bool:
        """Whether the device still runs a command."""
        try:
            return _run(self.command("shell", "-T", line), _ANSWER_S)[0] == 0
        except TimeoutError:
            return False

    def _failed(self, how: str, words: str) -> MeasurementFailed:
        if self._states().get(self.serial) != "device":
            return self.lost("start")
        return MeasurementFailed(f"{self.where} {how}: {_reason(words)}")

    def _states(self) -> dict[str, str]:
        """Serial -> state, of what is attached. This starts adb's server where none runs."""
        try:
            code, words = _run([self._program, "devices"], _COMMAND_S)
        except TimeoutError:
            raise MeasurementFailed(f"adb's server did not answer within {_COMMAND_S:.0f} s; try: adb devices") from None
        if code != 0:
            raise MeasurementFailed(f"adb's server cannot be started or reached: {_reason(words)}; try: adb devices")
        rows = [line.partition("\t") for line in words.splitlines() if "\t" in line]
        return {serial: state.strip() for serial, _, state in rows}

    def _chosen(self) -> str:
        """The serial of the device that the address names, or of the only one. Raises InputError, MeasurementFailed."""
        name, wanted, states = self._device.name, self._device.address, self._states()
        if not wanted and len(states) > 1:
            raise InputError(f"{len(states)} devices are attached ({', '.join(states)}): say in the file of '{name}' which one it is, as its address")
        serial = wanted or next(iter(states), "")
        if not serial:
            raise MeasurementFailed(f"{name} cannot be reached: no device is attached; turn on its USB debugging and plug it in, until 'adb devices' lists it")
        if serial not in states:
            there = f"attached are {', '.join(states)}" if states else "no device is attached"
            how = f"connect it with: adb connect {serial}" if ":" in serial else "turn on its USB debugging and plug it in"
            raise MeasurementFailed(f"{name} ({serial}) cannot be reached: it is not attached ({there}); {how}")
        state = states[serial]
        if state != "device":
            advice = next((text for known, text in _STATES.items() if state.startswith(known)), f"is in state '{state}': start it normally (adb reboot)")
            raise MeasurementFailed(f"{name} ({serial}) cannot be reached: it {advice}")
        return serial


class AdbConnection(ProcessConnection):
    """`adb shell` without a terminal, the agent at its other end."""

    def __init__(self, adb: Adb, device: Device, entry: str, folder: str):
        self._adb, self._device, self._word = adb, device, f"hwnas-{secrets.token_hex(8)}"
        self._what = entry if device.agent else device.python or "python3"
        # The characters of all that stands in this line were checked, or are ours.
        command = " ".join([f"LD_LIBRARY_PATH={folder}", *taskset(device), f"./{entry}"] if device.agent else [*taskset(device), self._what, f"./{entry}"])
        line = _RUN.format(folder=folder, entry=entry, word=self._word, command=command)
        super().__init__(adb.command("shell", "-T", line), f"the agent on {adb.where}")

    def wait_for_word(self) -> None:
        """Skip what is printed before the agent starts. Raises MeasurementFailed."""
        read = 0
        with self._deadline("start", _START_S):
            while not (line := self._read_line(_MAX_NOISE_BYTES)).rstrip().endswith(self._word.encode()):
                read += len(line)
                if not line:
                    raise self._ended("start")
                if read > _MAX_NOISE_BYTES:
                    self._process.kill()
                    raise MeasurementFailed(f"{self._adb.where} prints without end before anything is run; try: adb shell -T true")

    def ask(self, request: dict[str, Any], payload: bytes = b"", *, seconds: float) -> dict[str, Any]:
        try:
            return super().ask(request, payload, seconds=seconds)
        except ConnectionLost:
            raise
        except MeasurementFailed:
            if not self._adb.answers():  # a link that fell silent looks like an agent that hangs
                raise self._adb.lost(str(request["op"])) from None
            raise

    def _ended(self, what: str) -> MeasurementFailed:
        adb_code, words = self._last_words()
        ended = re.search(rf"{self._word} (\d{{1,3}})$", "\n".join(words))
        said = [rest for line in words if (rest := line.partition(self._word)[0].strip())]  # an agent's last line may have no end
        why = f": {said[-1][:300]}" if said else ""
        code = int(ended[1]) if ended else adb_code
        if ended is None and code in (None, 0, 1, 255):  # nobody there said how it ended
            return self._adb.lost(what)
        if code == 137:
            return MeasurementFailed(f"{self.agent} was killed during '{what}': the phone had too little memory for it, or somebody ended it; close other apps")
        if self._device.cores and any("taskset" in line for line in said):
            return MeasurementFailed(f"{self._adb.where} cannot run anything on cores {self._device.cores} alone{why}; change 'cores' in the device's file")
        if code in (126, 127):
            return MeasurementFailed(f"{self._adb.where} cannot run '{self._what}'{why}; {self._advice(why)}")
        return MeasurementFailed(f"{self.agent} ended during '{what}' with exit code {code}{why}")

    def _advice(self, why: str) -> str:
        if not self._device.agent:
            return "a phone has no Python of its own: name an agent's folder, or a python that adb's user may run, in the device's file"
        if "denied" in why:
            return f"its system does not let adb's user run files in {FOLDER}"
        return "it must be a program for the phone's processor and for Android (adb shell getprop ro.product.cpu.abi), with the libraries it needs beside it"


def _run(command: list[str], seconds: float) -> tuple[int, str]:
    """Exit code and what was printed, both streams together. Raises TimeoutError, MeasurementFailed. What never stops printing is ended."""
    try:
        started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    except OSError as error:
        raise MeasurementFailed(f"{command[0]} cannot be run: {error.strerror or error}") from None
    with started as process:
        assert process.stdout
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            words = process.stdout.read(_MAX_NOISE_BYTES)
            if len(words) == _MAX_NOISE_BYTES:
                process.kill()
            code = process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            expired = not timer.is_alive()
            timer.cancel()
    if expired:
        raise TimeoutError
    return code, words.decode(errors="replace")


def _reason(words: str) -> str:
    """The line of adb's output that says what went wrong."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    errors = [line for line in lines if re.search("error|denied|failed|cannot", line, re.IGNORECASE)]
    return (errors or lines or ["no reason given"])[-1].removeprefix("adb: ").removeprefix("error: ")[:300]


def _refuse_other_server(program: str) -> None:
    """Raises InputError where another version's server runs: `adb` would end it, and with it what others do with their devices."""
    theirs = _version_of_server()
    try:
        ours = re.search(r"version 1\.0\.(\d+)", _run([program, "version"], _COMMAND_S)[1]) if theirs else None
    except TimeoutError:
        raise MeasurementFailed(f"'{program} version' did not end within {_COMMAND_S:.0f} s") from None
    if theirs and ours and theirs != int(ours[1]):
        raise InputError(
            f"the adb server that runs is of version 1.0.{theirs}, and {program} of 1.0.{ours[1]}, which would end it: put the server's own adb first into PATH"
        )


def _version_of_server() -> int | None:
    """Of the one that `adb` would speak to; None where none runs there, or it is said in a way that `adb` alone understands."""
    if os.environ.get("ADB_SERVER_SOCKET") or os.environ.get("ANDROID_ADB_SERVER_ADDRESS"):
        return None
    try:
        with socket.create_connection(("127.0.0.1", int(os.environ.get("ANDROID_ADB_SERVER_PORT") or 5037)), 5) as link:
            link.settimeout(5)
            link.sendall(b"000chost:version")
            answer = link.makefile("rb").read(12)  # OKAY, the length 0004, the version in hexadecimal
            return int(answer[8:], 16) if answer.startswith(b"OKAY0004") else None
    except (OSError, ValueError, OverflowError):
        return None


def adb() -> Transport:
    """An Android phone, over ADB."""
    return AdbTransport()
