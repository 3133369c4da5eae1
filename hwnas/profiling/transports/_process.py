"""The agent contract over the pipes of a child process: the agent itself, or a program that leads to it."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hwnas.errors import MeasurementFailed
from hwnas.profiling.transport import parsed_answer

MAX_ANSWER_BYTES = 256 << 20


class ProcessConnection:
    """The child runs in an empty folder of its own and in its own session: Ctrl-C reaches us, who let it finish what it measures.

    agent: what it is called in messages, such as `the agent on pi4`; environment: variables beside those of this process.
    """

    def __init__(self, command: Sequence[str], agent: str = "the agent", environment: Mapping[str, str] = MappingProxyType({})):
        self.agent = agent
        self._folder = tempfile.TemporaryDirectory(prefix="hwnas-agent-")
        with Path(self._folder.name, "stderr").open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=self._folder.name,
                    env={**os.environ, **environment},
                    start_new_session=True,
                )
            except OSError as error:
                self._folder.cleanup()
                raise MeasurementFailed(f"{agent} cannot be started: {command[0]}: {error.strerror or error}") from None

    def ask(self, request: dict[str, Any], payload: bytes = b"", *, seconds: float) -> dict[str, Any]:
        what = str(request["op"])
        with self._deadline(what, seconds):
            try:
                self._write(json.dumps(request).encode() + b"\n" + payload)
                line = self._read_line(MAX_ANSWER_BYTES)
            except OSError:
                line = b""
        if not line.endswith(b"\n"):
            raise self._ended(what)
        return parsed_answer(line, self.agent, what)

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def _read_line(self, limit: int) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.readline(limit)

    @contextmanager
    def _deadline(self, what: str, seconds: float) -> Iterator[None]:
        """Kills the child when the time is over, which ends the wait for it on every system."""
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self._process.kill()

        timer = threading.Timer(seconds, expire)
        timer.daemon = True  # Ctrl-C in the middle of its start would otherwise keep the program until the deadline
        try:
            timer.start()
            yield
        finally:
            timer.cancel()
        if expired.is_set():
            raise MeasurementFailed(f"{self.agent} did not answer '{what}' within {seconds:.0f} s and was ended")

    def _ended(self, what: str) -> MeasurementFailed:
        """What to raise where the child is gone."""
        code, words = self._last_words()
        how = f" with exit code {code}" if code is not None and code >= 0 else f", killed by signal {-code}" if code is not None else ""
        return MeasurementFailed(f"{self.agent} ended during '{what}'{how}" + (f": {words[-1][:300]}" if words else ""))

    def _last_words(self) -> tuple[int | None, list[str]]:
        """Exit code (None where it still runs) and the last lines of standard error."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        text = Path(self._folder.name, "stderr").read_bytes()[-4000:].decode(errors="replace")
        return self._process.returncode, [line.strip() for line in text.splitlines() if line.strip()]

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
