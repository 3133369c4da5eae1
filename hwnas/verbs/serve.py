"""`device serve`: a page that makes any browser that opens it a target, for the commands that measure meanwhile."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hwnas import registry
from hwnas.data import shipped
from hwnas.errors import InputError, RunHeld
from hwnas.profiling.page_server import PageServer
from hwnas.profiling.runtime import Runtime
from hwnas.profiling.transports.browser import is_served, note_path
from hwnas.profiling.web_runtime import web_runtime


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    runtime_files: Path | None = None,
    announce: Callable[[str], None],
    seen: Callable[[str | None], None] = lambda peer: None,
) -> None:
    """Serve the page until interrupted; meanwhile `profile` and `verify` of devices whose transport is `browser` measure on it.

    host: where it is served: by default only to this machine; 0.0.0.0 to its network. port: 0 for any free one. runtime_files: a folder with
    the files of `onnxruntime-web`, which are kept for later; by default npm fetches them once. announce is told the URL, seen the address of
    each browser that opens it, None where it has gone. Raises InputError, DamagedFile, RunHeld where a page is being served already.
    """
    if not 0 <= port <= 65_535:
        raise InputError(f"--port is {port}, it must be from 0 to 65,535")
    runtime: Runtime = registry.create("profiling.runtimes", "onnxruntime_web")
    files = web_runtime(runtime_files)
    if is_served():
        raise RunHeld("another 'hwnas device serve' of yours is running: use its page, or end it")
    server = PageServer(shipped("devices") / "agents" / runtime.agent, files, host, port)
    try:
        _note(server)
        announce(server.url)
        peer = None
        while True:
            peer = server.wait_for_change(peer)
            seen(peer)
    finally:
        with suppress(OSError):
            note_path().unlink()
        server.close()


def _note(server: PageServer) -> None:
    """Tell other commands of this user how to attach. Raises InputError."""
    path = note_path()
    host = "127.0.0.1" if server.host == "0.0.0.0" else server.host
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            json.dump({"host": host, "port": server.port, "secret": server.secret}, file)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; name another folder in HWNAS_CACHE") from None
