"""The agent inside an app on an Android phone: the kit `android`, which measures as an app is run, not as a program of the shell is.

The app is started by `adb` with a token of this run alone, over standard input, so that no list of processes shows it here; then `adb forward`
leads to the app's socket, where the token comes first. Nothing is pushed, and the app stays installed.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from hwnas.device import Device
from hwnas.errors import ConnectionLost, InputError, MeasurementFailed
from hwnas.profiling.transport import Connection, Transport, parsed_answer
from hwnas.profiling.transports._process import MAX_ANSWER_BYTES
from hwnas.profiling.transports.adb import Adb, AdbTransport

APP = "org.hwnas.kit"
SOCKET = "hwnas-kit"
_COMMAND_S = 30.0
_START_S = 60.0  # an app's first start on a slow phone
_MAX_GREETING_BYTES = 4096
_PATH = re.compile(r"package:(/[A-Za-z0-9/_=.~+-]{1,300}\.apk)\s*")


class AdbAppTransport:
    def check(self, device: Device) -> None:
        """Raises InputError where the address is none of `adb`, and for what no app lets one choose."""
        AdbTransport().check(device)
        if device.agent or device.python or device.cores:
            raise InputError(f"{device.name} is measured inside an app, on cores that Android chooses; remove 'agent', 'python' and 'cores'")

    def start(self, device: Device, agent: Path) -> Connection:
        self.check(device)
        if agent.stem != "onnxruntime_agent":
            raise InputError(f"the app cannot run {agent.name}: the runtimes of device '{device.name}' must be [\"onnxruntime\"]")
        adb = Adb(device)
        sha256 = _app_sha256(adb)
        code, words = adb.run("forward", "tcp:0", f"localabstract:{SOCKET}")
        port = int(words) if code == 0 and words.strip().isdigit() else 0
        if not 0 < port < 65_536:
            raise MeasurementFailed(f"{adb.where} cannot be forwarded to: {words.strip()[:300] or 'no reason given'}")
        try:
            token = secrets.token_hex(16)
            _start_app(adb, token)
            return AppConnection(adb, port, sha256, *_greeted(adb, port, token))
        except BaseException:
            _remove(adb, port)
            raise


def _app_sha256(adb: Adb) -> str:
    """Of the installed app's file, as the phone says. Raises MeasurementFailed where it is not installed."""
    code, words = adb.run("shell", "-T", f"pm path {APP}")
    if code == 0 and (found := _PATH.match(words)):
        code, words = adb.run("shell", "-T", f"sha256sum {found[1]}")
        if code == 0 and (digest := re.match(r"[0-9a-f]{64}\b", words)):
            return digest[0]
        raise MeasurementFailed(f"{adb.where} does not say what its app {APP} is: {words.strip()[:200] or 'no reason given'}")
    raise MeasurementFailed(f"{adb.where} has no app {APP}: build and install the kit 'android' (gradle installRelease in its folder)")


def _start_app(adb: Adb, token: str) -> None:
    command = f"am start -W -n {APP}/.MainActivity --es agent {token}\n"
    try:
        done = subprocess.run(
            adb.command("shell", "-T", "sh"), input=command.encode(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_START_S, start_new_session=True
        )
    except subprocess.TimeoutExpired:
        raise ConnectionLost(f"{adb.where} did not start the app within {_START_S:.0f} s; unlock it, and run the same command again") from None
    words = done.stdout.decode(errors="replace")
    if done.returncode != 0 or "Error" in words:
        said = [line.strip() for line in words.splitlines() if "Error" in line or "Exception" in line] or [words.strip()]
        raise MeasurementFailed(f"{adb.where} cannot start the app {APP}: {said[0][:300] or 'no reason given'}")


def _greeted(adb: Adb, port: int, token: str) -> tuple[socket.socket, bytes]:
    """A connection whose token was taken, and what was read of it beyond that. The app may take a moment until it listens."""
    give_up, said = time.monotonic() + _START_S, "it does not listen"
    while time.monotonic() < give_up:
        link = None
        try:
            link = socket.create_connection(("127.0.0.1", port), timeout=5)
            link.sendall(json.dumps({"token": token}).encode() + b"\n")
            line, rest = _line(link, b"", time.monotonic() + 10, _MAX_GREETING_BYTES)
            if parsed_answer(line, "the app", "start")["ok"]:
                return link, rest
            said = str(json.loads(line).get("error", "no reason given"))[:200]
        except (OSError, EOFError):
            pass
        except BaseException:
            if link:
                link.close()
            raise
        if link:
            link.close()
        time.sleep(0.1)
    said = "".join(c for c in said if c.isprintable())
    raise MeasurementFailed(f"the app on {adb.where} does not answer: {said}; unlock the phone, and run the same command again")


def _line(link: socket.socket, begun: bytes, deadline: float, limit: int) -> tuple[bytes, bytes]:
    """(a line, what came after it). Raises TimeoutError, EOFError where the other side closes or says too much, OSError."""
    parts, size, newest = [begun], len(begun), begun
    while b"\n" not in newest:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        link.settimeout(left)
        newest = link.recv(1 << 16)
        size += len(newest)
        if not newest or size > limit:
            raise EOFError
        parts.append(newest)
    line, _, rest = b"".join(parts).partition(b"\n")
    return line, rest


class AppConnection:
    """agent_sha256: of the app that is installed."""

    def __init__(self, adb: Adb, port: int, agent_sha256: str, link: socket.socket, rest: bytes):
        self.agent_sha256, self.agent = agent_sha256, f"the app on {adb.where}"
        self._adb, self._port, self._link, self._rest = adb, port, link, rest

    def ask(self, request: dict[str, Any], payload: bytes = b"", *, seconds: float) -> dict[str, Any]:
        what, deadline = str(request["op"]), time.monotonic() + seconds
        try:
            self._link.settimeout(seconds)
            self._link.sendall(json.dumps(request).encode() + b"\n" + payload)
            line, self._rest = _line(self._link, self._rest, deadline, MAX_ANSWER_BYTES)
        except TimeoutError:
            if not self._adb.answers():
                raise self._adb.lost(what) from None
            self._adb.answers(f"am force-stop {APP}")
            raise MeasurementFailed(f"{self.agent} did not answer '{what}' within {seconds:.0f} s and was ended") from None
        except (OSError, EOFError):
            if not self._adb.answers():
                raise self._adb.lost(what) from None
            raise MeasurementFailed(f"{self.agent} ended during '{what}': it was closed, or the phone had too little memory for it; close other apps") from None
        return parsed_answer(line, self.agent, what)

    def close(self) -> None:
        """The app goes on, and waits for the next."""
        with suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        self._link.close()
        _remove(self._adb, self._port)


def _remove(adb: Adb, port: int) -> None:
    with suppress(MeasurementFailed):
        adb.run("forward", "--remove", f"tcp:{port}", seconds=_COMMAND_S)


def adb_app() -> Transport:
    """Inside an app on an Android phone, over ADB."""
    return AdbAppTransport()
