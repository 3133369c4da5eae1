"""A page in a real headless Chromium, driven through its DevTools pipe: null-terminated JSON on file descriptors 3 and 4, without any library."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--remote-debugging-pipe", "about:blank")
PATIENCE_S = 60


class Page:
    """One tab. `said` has every event of it: requests, dialogs, errors, what its console and its content security policy say."""

    def __init__(self, send: int, receive: int):
        self.send, self.receive, self.rest, self.number, self.session = send, receive, b"", 0, ""
        self.said: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """What a DevTools method answers."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters} | ({"sessionId": self.session} if self.session else {})
        os.write(self.send, json.dumps(message).encode() + b"\0")
        while True:
            got = self._next()
            if got.get("id") == self.number:
                assert "error" not in got, got["error"]
                return got["result"]
            self.said.append(got)

    def _next(self) -> Any:
        while b"\0" not in self.rest:
            read = os.read(self.receive, 1 << 16)
            assert read, "Chromium has ended"
            self.rest += read
        raw, _, self.rest = self.rest.partition(b"\0")
        return json.loads(raw)

    def open(self, path: Path, width: int = 1100, height: int = 900) -> None:
        """Show a file in a window of that size, until it is loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.said.clear()
        self.call("Page.navigate", url=path.as_uri())
        deadline = time.monotonic() + PATIENCE_S
        while self.value("document.readyState") != "complete" or self.value("location.href") == "about:blank":
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def value(self, expression: str) -> Any:
        """What JavaScript says. Raises AssertionError where it throws."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def events(self, *methods: str) -> list[dict[str, Any]]:
        """What the page said under these names."""
        return [each["params"] for each in self.said if each.get("method") in methods]

    def picture(self, path: Path) -> None:
        """The whole page, not only what the window shows."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]))


@contextlib.contextmanager
def chromium() -> Iterator[Page]:
    """A tab of a new Chromium, which is ended with all its processes. Skips where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("Chromium is not installed")
    (theirs_in, send), (receive, theirs_out) = os.pipe(), os.pipe()

    def placed() -> None:  # descriptors 3 and 4 may be in use by the pipes themselves
        aside = [fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in (theirs_in, theirs_out)]
        for old, new in zip(aside, (3, 4), strict=True):
            os.dup2(old, new)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [found, f"--user-data-dir={profile}", *FLAGS],
            preexec_fn=placed,  # there is no other way to give it descriptors of these numbers
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            yield Page(send, receive)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE_S)
            os.close(send)
            os.close(receive)
