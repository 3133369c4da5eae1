"""The agent as a page that a browser has opened: of this machine, or of a phone in its network."""

from __future__ import annotations

import json
import re
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hwnas.data import cache_folder
from hwnas.device import Device
from hwnas.errors import ConnectionLost, DamagedFile, InputError, MeasurementFailed, RunHeld
from hwnas.files import read_json, sha256
from hwnas.profiling.page_server import LeasedPage, PageServer
from hwnas.profiling.transport import Connection, Transport, parsed_answer
from hwnas.profiling.web_runtime import web_runtime

WAIT_S = 600.0  # for somebody to open the page
_GRACE_S = 30.0
_ADDRESS = re.compile(r"([A-Za-z0-9.-]+)(?::([0-9]{1,5}))?")

#: Is told the URL to open.
Announce = Callable[[str], None]


def tell(url: str) -> None:
    """The URL on stderr, and as a QR code where the package that draws one is installed."""
    print(f"open this page in the browser that is to be measured (waiting {WAIT_S / 60:.0f} minutes):\n{url}\n{qr_code(url)}", file=sys.stderr, flush=True)


def qr_code(text: str) -> str:
    """A QR code in block characters, for light and dark terminals; where `segno` is missing, how to get it."""
    try:
        import segno
    except ImportError:
        return "(a QR code would stand here: pip install 'hwnas[browser]')"
    rows = [list(row) for row in segno.make(text, micro=False, error="l").matrix_iter(border=2)]
    rows += [[0] * len(rows[0])] * (len(rows) % 2)
    light = {(0, 0): "█", (0, 1): "▀", (1, 0): "▄", (1, 1): " "}
    lines = ["".join(light[bool(top), bool(bottom)] for top, bottom in zip(*pair, strict=True)) for pair in zip(rows[::2], rows[1::2], strict=True)]
    return "\n".join(f"\033[37;40m{line}\033[0m" for line in lines)


class BrowserTransport:
    """Attaches to the page of `hwnas device serve` where that is running, else serves one of its own while it measures."""

    def __init__(self, announce: Announce = tell, wait_s: float = WAIT_S):
        self._announce, self._wait_s = announce, wait_s

    def check(self, device: Device) -> None:
        """Raises InputError where the address is none that a page can be served at, and for what no browser lets one choose."""
        parse_address(device.address)
        if device.agent or device.cores:
            raise InputError(f"{device.name} is a browser, which runs hwnas's page on cores of its own choice; remove 'agent' and 'cores' from its file")

    def start(self, device: Device, agent: Path) -> Connection:
        """Returns when a browser has opened the page. Raises InputError, DamagedFile, MeasurementFailed where none does in time."""
        if agent.suffix != ".js":
            raise InputError(f"a browser cannot run {agent.name}: the runtimes of device '{device.name}' must be [\"onnxruntime_web\"]")
        if not device.address and (attached := AttachedPage.find(agent, self._announce, self._wait_s)):
            return attached
        server = PageServer(agent, web_runtime(), *parse_address(device.address))
        try:
            self._announce(server.url)
            page = server.wait(self._wait_s)
            if page is None:
                raise MeasurementFailed(f"no browser opened the page within {self._wait_s:.0f} s: run the same command again")
        except BaseException:
            server.close()
            raise
        return OwnPage(server, page)


def parse_address(address: str) -> tuple[str, int]:
    """`host`, `host:port` or nothing -> (host, port), 0 for any free one. Raises InputError."""
    if not address:
        return "127.0.0.1", 0
    found = _ADDRESS.fullmatch(address)
    port = int(found[2] or 0) if found else -1
    if found is None or not 0 <= port <= 65_535:
        raise InputError(f"the address of a browser says where its page is served, such as 0.0.0.0:8421, got '{address}'")
    return found[1], port


class OwnPage:
    """A page whose server ends with it."""

    def __init__(self, server: PageServer, page: LeasedPage):
        self._server, self._page = server, page

    def ask(self, request: dict[str, Any], payload: bytes = b"", *, seconds: float) -> dict[str, Any]:
        return self._page.ask(request, payload, seconds=seconds)

    def close(self) -> None:
        self._server.close()


class AttachedPage:
    """The page of a `hwnas device serve` of the same user, through its socket."""

    def __init__(self, link: socket.socket):
        self._link, self._reader = link, link.makefile("rb")

    @classmethod
    def find(cls, agent: Path, announce: Announce, wait_s: float) -> AttachedPage | None:
        """None where nothing is being served. Raises MeasurementFailed where no browser opens the page in time, RunHeld where another command uses it."""
        address = served_address()
        if address is None:
            return None
        host, port, secret = address
        try:
            link = socket.create_connection((host, port), timeout=5)
        except (OSError, ValueError):
            return None  # it ended without taking its note away
        page = cls(link)
        try:
            link.sendall(f"GET /{secret}/attach/{sha256(agent)} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            if b" 101 " not in page._reader.readline(200):
                raise InputError("the 'hwnas device serve' that is running is of another version of hwnas: end it and start it again")
            while page._reader.readline(2000).strip():  # its headers
                pass
            page._wait(announce, wait_s)
        except OSError:
            page.close()
            raise MeasurementFailed(f"'hwnas device serve' at {host}:{port} ended, or does not answer: start it again") from None
        except BaseException:
            page.close()
            raise
        return page

    def _wait(self, announce: Announce, wait_s: float) -> None:
        for waited in range(int(wait_s) + 1):  # it says once a second that there is no browser yet
            said = self._read(_GRACE_S)
            if "ready" in said:
                return
            if waited == 0 and "waiting" in said:
                announce(str(said["waiting"]))
        raise MeasurementFailed(f"no browser opened the page within {wait_s:.0f} s: run the same command again")

    def ask(self, request: dict[str, Any], payload: bytes = b"", *, seconds: float) -> dict[str, Any]:
        what = str(request["op"])
        try:
            self._link.settimeout(seconds + _GRACE_S)
            self._link.sendall(json.dumps({"request": request, "bytes": len(payload), "seconds": seconds}).encode() + b"\n" + payload)
            said = self._read(seconds + _GRACE_S)
        except OSError:
            raise ConnectionLost(f"'hwnas device serve' ended during '{what}': start it again, then run the same command") from None
        return parsed_answer(json.dumps(said.get("answer")).encode(), "the browser", what)

    def _read(self, seconds: float) -> Mapping[str, Any]:
        self._link.settimeout(seconds)
        line = self._reader.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError
        said: dict[str, Any] = json.loads(line)
        if "failed" in said:
            raise {"held": RunHeld, "lost": ConnectionLost}.get(str(said["kind"]), MeasurementFailed)(str(said["failed"]))
        return said

    def close(self) -> None:
        with suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        self._reader.close()
        self._link.close()


def note_path() -> Path:
    """Where `hwnas device serve` notes, readable by its user alone, how other commands attach to it."""
    return cache_folder() / "device_serve.json"


def is_served() -> bool:
    """Whether a `hwnas device serve` of this user answers."""
    address = served_address()
    if address is None:
        return False
    try:
        socket.create_connection(address[:2], timeout=5).close()
    except (OSError, ValueError):
        return False
    return True


def served_address() -> tuple[str, int, str] | None:
    """(host, port, secret) of the `hwnas device serve` that noted it; None where there is no readable note."""
    if not note_path().is_file():
        return None
    try:
        note = read_json(note_path())
        host, port, secret = note["host"], note["port"], note["secret"]
    except (DamagedFile, TypeError, KeyError):
        return None
    return (host, port, secret) if isinstance(host, str) and type(port) is int and 0 < port < 65_536 and isinstance(secret, str) else None


def browser() -> Transport:
    """Whatever browser opens the page."""
    return BrowserTransport()
