"""Serves the page that makes a browser a target, and speaks to the one browser that holds it.

What is served is a handful of files held in memory, under a random token that is new in each run; no path from outside is opened. The
response to `GET TOKEN/requests`, which does not end, is the lease: its content is what the agent is asked (JSON lines, some followed by a
model), and `POST TOKEN/answer` with the lease's key brings the answers. A second process of this machine may use the page through
`GET SECRET/attach`.
"""

from __future__ import annotations

import json
import secrets
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, cast

from hwnas.errors import ConnectionLost, DamagedFile, InputError, MeasurementFailed
from hwnas.files import sha256
from hwnas.profiling.transport import parsed_answer

MAX_ANSWER_BYTES = 32 << 20
MAX_CONNECTIONS = 64
IDLE_S = 30.0  # what a peer may take for its request
_END_S = 3.0  # what a command or a page that has just ended may take to be gone
_BEACON_S = 1.0  # what the notice that a page was closed may be behind the end of its connection
_TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}
_HEADERS = {
    # Isolation gives the page shared memory, which threads need, and a clock of 5 microseconds.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class LeasedPage:
    """The browser that holds the page; a Connection. It ends when either side ends the stream of its requests."""

    def __init__(self, link: socket.socket, peer: str):
        self.peer, self.lease, self.since = peer, secrets.token_urlsafe(16), datetime.now()
        self._link, self._changed = link, threading.Condition()
        self._awaits = self._expired = self._closed = False
        self._answer: bytes | None = None
        self.ended = False

    def ask(self, request: Mapping[str, Any], payload: bytes = b"", *, seconds: float) -> dict[str, Any]:
        what = str(request["op"])
        with self._changed:
            self._answer, self._awaits = None, True
        timer = threading.Timer(seconds, self._expire)
        timer.daemon = True
        try:
            timer.start()
            with suppress(OSError):  # the watching thread sees the end of a connection, too
                self._link.sendall(json.dumps(request).encode() + b"\n" + payload)
            with self._changed:
                self._changed.wait_for(lambda: self._answer is not None or self.ended)
                self._awaits = False
                if self._answer is None and not self._expired:
                    self._changed.wait_for(lambda: self._closed, _BEACON_S)
                line = self._answer
        finally:
            timer.cancel()
        if line is None:
            raise self._why_it_ended(what, seconds)
        return parsed_answer(line, "the browser", what)

    def _why_it_ended(self, what: str, seconds: float) -> MeasurementFailed:
        again = "run the same command again and open its page"
        if self._expired:
            return MeasurementFailed(f"the browser did not answer '{what}' within {seconds:.0f} s and was let go")
        if self._closed:
            return ConnectionLost(f"the page was closed during '{what}': {again}")
        # A browser that is ended, one that loses its network, and one that a model crashes look alike from here.
        return ConnectionLost(f"the connection to the browser at {self.peer} ended during '{what}': {again}")

    def _expire(self) -> None:
        self._expired = True
        self.close()

    def close(self) -> None:
        """End the stream, whereupon the browser ends what it runs."""
        with suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)

    # -- from the server's threads

    def watch(self) -> None:
        """Returns when the connection has ended."""
        with suppress(OSError):
            while self._link.recv(4096):  # a browser sends nothing here
                pass
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def receive(self, line: bytes) -> bool:
        """Whether an answer was awaited."""
        with self._changed:
            if not self._awaits or self._answer is not None:
                return False
            self._answer = line
            self._changed.notify_all()
            return True

    def say_closed(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class PageServer:
    """Serves until closed. `url` is what a browser opens, `secret` what another process of this user needs to `attach`."""

    def __init__(self, agent: Path, files: Mapping[str, bytes], host: str = "127.0.0.1", port: int = 0):
        """agent: the script; the page is beside it. Raises InputError where the address cannot be had, DamagedFile."""
        self.token, self.secret, self.agent_sha256 = secrets.token_urlsafe(16), secrets.token_urlsafe(32), sha256(agent)
        try:
            self.served = {"": agent.with_suffix(".html").read_bytes(), agent.name: agent.read_bytes(), **files}
        except OSError as error:
            raise DamagedFile(f"cannot read the page of {agent}: {error.strerror or error}") from None
        try:
            self._http = _Server((host, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"no page can be served at {host}:{port}: {reason}; choose another host or port") from None
        self._http.pages = self
        self.host, self.port = host, int(self._http.server_address[1])
        self._changed, self._page, self._taken = threading.Condition(), cast(LeasedPage | None, None), False
        self._host_process = threading.Lock()
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    @property
    def url(self) -> str:
        """What a browser opens; where every address is served, with the one by which this machine reaches others."""
        host = outward_address() if self.host == "0.0.0.0" else self.host
        return f"http://{host}:{self.port}/{self.token}/"

    @property
    def page(self) -> LeasedPage | None:
        """The browser that holds the page now."""
        return self._page

    def wait(self, seconds: float) -> LeasedPage | None:
        """The browser that holds the page, for one use, as soon as there is one; None where there is none within that time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._page is not None and not self._taken, seconds):
                return None
            self._taken = True
            return self._page

    def wait_for_change(self, peer: str | None) -> str | None:
        """The address of the browser that holds the page, None where none does, as soon as it is another than `peer`."""

        def holder() -> str | None:
            return self._page.peer if self._page is not None else None

        with self._changed:
            self._changed.wait_for(lambda: holder() != peer)
            return holder()

    def close(self) -> None:
        """End what is served, and the browser's lease."""
        if self._page is not None:
            self._page.close()
        self._http.shutdown()
        self._http.server_close()

    # -- from the server's threads

    def offer(self, page: LeasedPage, greet: Callable[[], None]) -> LeasedPage | None:
        """Let a browser have the page, or return the one that has it; `greet` tells it before anybody can ask it."""
        with self._changed:
            # A page that is reloaded, or given a new task, comes back before its end is seen here.
            if not self._changed.wait_for(lambda: self._page is None, _END_S):
                return self._page
            self._page, self._taken = page, True  # nobody else has it, and nobody asks it yet
        try:
            greet()
        except OSError:
            self.free(page)
            raise
        with self._changed:
            self._taken = False
            self._changed.notify_all()
        return None

    def free(self, page: LeasedPage) -> None:
        with self._changed:
            if self._page is page:
                self._page = None
                self._changed.notify_all()

    def attach(self, link: socket.socket) -> None:
        """Let another process ask the page, line by line, until it ends."""
        if not self._host_process.acquire(timeout=_END_S):
            _send(link, {"failed": "another hwnas command is measuring on this page: wait for its end", "kind": "held"})
            return
        try:
            while (page := self.wait(1.0)) is None:
                _send(link, {"waiting": self.url})
            try:
                _send(link, {"ready": page.peer})
                reader = link.makefile("rb")
                while line := reader.readline():
                    asked = json.loads(line)
                    answer: dict[str, Any]
                    try:
                        answer = {"answer": page.ask(asked["request"], reader.read(asked["bytes"]), seconds=asked["seconds"])}
                    except MeasurementFailed as error:
                        answer = {"failed": str(error), "kind": "lost" if isinstance(error, ConnectionLost) else "other"}
                    _send(link, answer)
            finally:
                page.close()
        except OSError:
            pass  # the other process is gone
        finally:
            self._host_process.release()


def _send(link: socket.socket, data: Mapping[str, Any]) -> None:
    link.sendall(json.dumps(data).encode() + b"\n")


def outward_address() -> str:
    """The address of this machine that others in its network reach it by; nothing is sent to find out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # of a network that exists in documents only: RFC 5737
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    pages: PageServer

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]):
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that goes away in the middle of something is nothing to report."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    server: _Server

    def do_GET(self) -> None:
        pages = self.server.pages
        name = self._name_under(pages.token)
        if self._name_under(pages.secret) == f"attach/{pages.agent_sha256}":
            self._attach(pages)
        elif name == "requests":
            self._lease(pages)
        elif name in pages.served:
            suffix = Path(name).suffix or ".html"
            self._answer(200, pages.served[name], _TYPES[suffix])
        else:
            self._answer(404)

    def do_POST(self) -> None:
        pages = self.server.pages
        name, length = self._name_under(pages.token), self.headers.get("Content-Length", "")
        if name not in ("answer", "closed"):
            return self._answer(404)
        if not (length.isascii() and length.isdigit() and len(length) < 20):
            return self._answer(411)
        if int(length) > MAX_ANSWER_BYTES:
            return self._answer(413)
        body = self.rfile.read(int(length))
        page = pages.page
        key = self.headers.get("X-Lease", "").encode() if name == "answer" else body
        if len(body) != int(length) or page is None or not secrets.compare_digest(key, page.lease.encode()):
            return self._answer(409)
        if name == "closed":
            page.say_closed()
            return self._answer(204)
        return self._answer(204 if page.receive(body) else 409)

    def _name_under(self, secret: str) -> str | None:
        """What is asked for below `/secret/`; None where it is somewhere else. Compared in constant time, used as a key, never as a path."""
        first, _, name = self.path.removeprefix("/").partition("/")
        return name if secrets.compare_digest(first.encode(errors="replace"), secret.encode()) else None

    def _lease(self, pages: PageServer) -> None:
        page = LeasedPage(self.connection, str(self.client_address[0]))

        def greet() -> None:
            _keep_alive(self.connection)
            self.connection.settimeout(None)
            self._begin(200, {"Content-Type": "application/octet-stream", "X-Lease": page.lease, "Connection": "close"})

        if holder := pages.offer(page, greet):
            text = f"This target is in use by the browser at {holder.peer} since {holder.since:%H:%M:%S}. Reload this page to try again."
            return self._answer(409, text.encode(), "text/plain; charset=utf-8")
        try:
            page.watch()
        finally:
            pages.free(page)

    def _attach(self, pages: PageServer) -> None:
        self.close_connection = True
        self.connection.settimeout(None)
        self._begin(101, {"Connection": "Upgrade", "Upgrade": "hwnas"})
        pages.attach(self.connection)

    def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.close_connection = True
        self.send_response(status)
        for name, value in (_HEADERS | dict(headers)).items():
            self.send_header(name, value)
        self.end_headers()

    def _answer(self, status: int, content: bytes = b"", kind: str = "") -> None:
        length = {} if status == 204 else {"Content-Length": str(len(content))}
        self._begin(status, {**length, **({"Content-Type": kind} if kind else {}), "Connection": "close"})
        self.wfile.write(content)

    def version_string(self) -> str:
        return "hwnas"

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _keep_alive(link: socket.socket) -> None:
    """Have the system find out within a minute that a peer is gone without a word, without any traffic of ours that would disturb it."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 6), ("TCP_USER_TIMEOUT", 60_000)):
        if hasattr(socket, name):  # what a system calls them, or lacks
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
