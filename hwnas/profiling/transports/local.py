"""The agent as a child process of ours, over pipes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hwnas.device import Device
from hwnas.errors import MeasurementFailed
from hwnas.profiling.transport import Connection, Transport

MAX_ANSWER_BYTES = 256 << 20


class LocalTransport:
    def start(self, device: Device, agent: Path) -> Connection:
        return LocalConnection(agent)


class LocalConnection:
    """The child runs in an empty folder of its own and in its own session: Ctrl-C reaches us, who let it finish what it measures."""

    def __init__(self, agent: Path):
        self._folder = tempfile.TemporaryDirectory(prefix="hwnas-agent-")
        with Path(self._folder.name, "stderr").open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, str(agent.resolve())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=self._folder.name,
                    start_new_session=True,
                )
            except OSError as error:
                self._folder.cleanup()
                raise MeasurementFailed(f"the agent {agent.name} cannot be started: {error.strerror or error}") from None

    def ask(self, request: dict[str, Any], payload: bytes = b"", *, seconds: float) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        what = str(request["op"])
        with self._deadline(what, seconds):
            try:
                self._process.stdin.write(json.dumps(request).encode() + b"\n" + payload)
                self._process.stdin.flush()
                line = self._process.stdout.readline(MAX_ANSWER_BYTES)
            except OSError:
                line = b""
        if not line.endswith(b"\n"):
            raise MeasurementFailed(f"the agent ended during '{what}'{self._last_words()}")
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or not isinstance(answer.get("ok"), bool):
            raise MeasurementFailed(f"the agent answered '{what}' with {line[:80]!r}, which is not of its contract")
        return answer

    @contextmanager
    def _deadline(self, what: str, seconds: float) -> Iterator[None]:
        """Kills the child when the time is over, which ends the wait for it on every system."""
        timer = threading.Timer(seconds, self._process.kill)
        timer.start()
        try:
            yield
        finally:
            expired = not timer.is_alive()
            timer.cancel()
        if expired:
            raise MeasurementFailed(f"the agent did not answer '{what}' within {seconds:.0f} s and was ended")

    def _last_words(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.returncode
        text = Path(self._folder.name, "stderr").read_bytes()[-2000:].decode(errors="replace").strip()
        how = f" with exit code {code}" if code is not None and code >= 0 else f", killed by signal {-code}" if code is not None else ""
        return how + (f": {text.splitlines()[-1][:300]}" if text else "")

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()


def local() -> Transport:
    """This machine."""
    return LocalTransport()
