"""A stand-in for adbd, the end of the Android Debug Bridge on a phone, and a real `adb` that drives it.

The wire protocol is the real one, over TCP: connection with banner and features, RSA authentication, streams with flow control, and the
services `shell,v2`, `shell`, `exec`, `sync` and `localabstract`. Commands run for real, on this machine, with `/data/local/tmp` and
`/sdcard/Android/data` being folders of ours.
Faults are attributes that a test sets; `reset` takes all of them back.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hwnas.device import Device

PROGRAM = shutil.which("adb")
TEMPORARY = "/data/local/tmp"
STORAGE = "/sdcard/Android/data"  # where apps have folders that a host may write to
FEATURES = ("shell_v2", "cmd", "stat_v2", "fixed_push_mkdir")

VERSION, MAX_PAYLOAD = 0x01000001, 1 << 20
CNXN, AUTH, OPEN, OKAY, WRTE, CLSE = (int.from_bytes(name, "little") for name in (b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"WRTE", b"CLSE"))
TOKEN, SIGNATURE, PUBLIC_KEY = 1, 2, 3
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
MAX_SYNC_DATA = 64 << 10
SHA1_OF_TOKEN = bytes.fromhex("3021300906052b0e03021a05000414")  # the ASN.1 prefix of a PKCS #1 signature; adb signs the token as if it were a digest
AARCH64 = 183


def require() -> None:
    """Skip where there is no client, or no /proc to find processes in."""
    if PROGRAM is None:
        pytest.skip("needs Android's adb (package adb)")
    if not Path("/proc/self/stat").exists():
        pytest.skip("finds processes in /proc, which this system has not")


class Closed(Exception):
    """The stream or its link is gone."""


@dataclass(eq=False)
class Stream:
    """One service of a link: what `adb` calls a socket. Each WRTE is answered by an OKAY before the next one is sent, both ways."""

    link: Link
    local: int
    remote: int
    incoming: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False
    _rest: bytes = b""

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), MAX_PAYLOAD):
            if self.closed:
                raise Closed
            self.ready.clear()
            await self.link.send(WRTE, self.local, self.remote, data[start : start + MAX_PAYLOAD])
            await self.ready.wait()
            if self.closed:
                raise Closed

    async def read(self) -> bytes:
        """The next bytes, or b"" where there will be none. The peer may send more only when these were taken."""
        if self._rest:
            data, self._rest = self._rest, b""
            return data
        found = await self.incoming.get() if not self.closed or not self.incoming.empty() else None
        if found is None:
            return b""
        if not self.closed:
            await self.link.send(OKAY, self.local, self.remote)
        return found

    async def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = await self.read()
            if not more:
                raise Closed
            data += more
        self._rest = data[size:] + self._rest
        return data[:size]

    def end(self) -> None:
        self.closed = True
        self.incoming.put_nowait(None)
        self.ready.set()


class Link:
    """One TCP connection of a host."""

    def __init__(self, adbd: Adbd, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.adbd, self._reader, self._writer = adbd, reader, writer
        self._streams: dict[int, Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock, self._token, self._next, self._online = asyncio.Lock(), b"", 1, False

    async def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        await self.adbd.awake.wait()
        packet = struct.pack("<6I", command, first, second, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF) + data
        with suppress(ConnectionError):
            async with self._lock:
                self._writer.write(packet)
                await self._writer.drain()
        self._spend(len(packet))

    def _spend(self, size: int) -> None:
        """Break the link when it has carried what it may."""
        if self.adbd.bytes_until_drop is not None:
            self.adbd.bytes_until_drop -= size
            if self.adbd.bytes_until_drop <= 0:
                self.adbd.bytes_until_drop = None
                self.drop()

    def drop(self) -> None:
        self._writer.transport.abort()

    async def run(self) -> None:
        try:
            while True:
                command, first, second, size, check, magic = struct.unpack("<6I", await self._reader.readexactly(24))
                assert magic == command ^ 0xFFFFFFFF and size <= MAX_PAYLOAD, "this is not ADB's protocol"
                data = await self._reader.readexactly(size)
                assert check in (0, sum(data) & 0xFFFFFFFF), "the checksum is wrong"  # 0: none, between versions that need none
                self._spend(24 + size)
                await self.adbd.awake.wait()
                await self._handle(command, first, second, data)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except Exception as error:
            self.adbd.surprises.append(f"{type(error).__name__}: {error}")
        finally:
            for stream in self._streams.values():
                stream.end()
            self._writer.transport.abort()

    async def _handle(self, command: int, first: int, second: int, data: bytes) -> None:
        stream = self._streams.get(second)
        if command == CNXN and not self.adbd.offline:
            self._online = False
            await (self._ask_for_key() if self.adbd.authentication else self._welcome())
        elif command == AUTH:
            await self._authenticate(first, data)
        elif command == OPEN and self._online:
            await self._open(first, data.rstrip(b"\0").decode())
        elif command == WRTE and stream:
            stream.incoming.put_nowait(data)
        elif command == OKAY and stream:
            stream.ready.set()
        elif command == CLSE and stream:
            stream.end()

    # -- who is there -----------------------------------------------------------------------------------------------------------------

    async def _welcome(self) -> None:
        self._online = True
        banner = f"device::ro.product.name=stand_in;ro.product.model=Stand_in;ro.product.device=stand_in;features={','.join(self.adbd.features)}"
        await self.send(CNXN, VERSION, MAX_PAYLOAD, banner.encode())

    async def _ask_for_key(self) -> None:
        self._token = secrets.token_bytes(20)
        await self.send(AUTH, TOKEN, 0, self._token)

    async def _authenticate(self, kind: int, data: bytes) -> None:
        if kind == SIGNATURE:
            await (self._welcome() if any(is_signed(self._token, data, key) for key in self.adbd.keys) else self._ask_for_key())
        elif kind == PUBLIC_KEY and self.adbd.authentication == "accept":  # the phone asks its owner; who says nothing leaves the host unauthorized
            self.adbd.keys.append(public_key(data))
            await self._welcome()

    # -- services ---------------------------------------------------------------------------------------------------------------------

    async def _open(self, remote: int, service: str) -> None:
        name, _, argument = service.partition(":")
        kind, *options = name.split(",")
        run: Callable[[Stream], Coroutine[Any, Any, None]]
        if kind == "shell" and "v2" in options and "shell_v2" in self.adbd.features:
            run = lambda stream: Command(self.adbd, stream, argument, shell_v2=True).run()  # noqa: E731
        elif (kind == "shell" and not options) or kind == "exec":
            run = lambda stream: Command(self.adbd, stream, argument, shell_v2=False).run()  # noqa: E731
        elif kind == "sync":
            run = lambda stream: Files(self.adbd, stream).run()  # noqa: E731
        elif kind == "localabstract" and argument in self.adbd.sockets:
            run = lambda stream: relay(stream, self.adbd.sockets[argument])  # noqa: E731
        else:
            await self.send(CLSE, 0, remote)
            return
        stream = Stream(self, self._next, remote)
        self._streams[self._next] = stream
        self._next += 1
        await self.send(OKAY, stream.local, remote)
        task = asyncio.get_running_loop().create_task(self._serve(stream, run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: Stream, run: Callable[[Stream], Coroutine[Any, Any, None]]) -> None:
        try:
            await run(stream)
        except Closed:
            pass
        except Exception as error:
            self.adbd.surprises.append(f"{type(error).__name__}: {error}")
        if not self._writer.transport.is_closing():
            await self.send(CLSE, stream.local, stream.remote)
        stream.end()
        self._streams.pop(stream.local, None)


class Command:
    """A command in the phone's shell. As with adbd, its shell gets SIGHUP where the host has gone."""

    def __init__(self, adbd: Adbd, stream: Stream, command: str, *, shell_v2: bool):
        self._adbd, self._stream, self._command, self._v2 = adbd, stream, command, shell_v2

    async def run(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *(self._adbd.shell, "-c", self._adbd.here(self._command)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE if self._v2 else asyncio.subprocess.STDOUT,
            cwd=self._adbd.root,
            env=self._adbd.environment,
            start_new_session=True,
        )
        outputs = [(STDOUT, process.stdout), (STDERR, process.stderr)]
        feeding = asyncio.create_task(self._feed(process))
        results = await asyncio.gather(*(self._pump(process, number, pipe) for number, pipe in outputs if pipe), return_exceptions=True)
        code = await process.wait()
        feeding.cancel()
        process._transport.close()  # type: ignore[attr-defined]  # which else waits for the pipe of an input that nobody reads any more
        if any(isinstance(result, Closed) for result in results):
            raise Closed
        if self._v2:
            await self._stream.write(struct.pack("<BI", EXIT, 1) + bytes([code if code >= 0 else 128 - code]))

    async def _pump(self, process: asyncio.subprocess.Process, number: int, pipe: asyncio.StreamReader) -> None:
        """What it prints. Where the host is gone the pipe is closed, as adbd does: who still prints into it, ends."""
        try:
            while data := await pipe.read(64 << 10):
                await self._stream.write(struct.pack("<BI", number, len(data)) + data if self._v2 else data)
        except Closed:
            process._transport.get_pipe_transport(number).close()  # type: ignore[attr-defined]
            raise

    async def _feed(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin
        try:
            while True:
                kind, data = await self._input()
                if kind == STDIN:
                    with suppress(ConnectionError):
                        process.stdin.write(data)
                        await process.stdin.drain()
                elif kind == CLOSE_STDIN:
                    process.stdin.close()
        except Closed:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGHUP)

    async def _input(self) -> tuple[int, bytes]:
        if not self._v2:
            data = await self._stream.read()
            if not data:
                raise Closed
            return STDIN, data
        kind, size = struct.unpack("<BI", await self._stream.exactly(5))
        return kind, await self._stream.exactly(size)


async def relay(stream: Stream, port: int) -> None:
    """The other end of `adb forward`: a program's socket, here one of this machine."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return

    async def back() -> None:
        with suppress(Closed, ConnectionError):
            while data := await reader.read(64 << 10):
                await stream.write(data)
        stream.end()

    backwards = asyncio.create_task(back())
    with suppress(ConnectionError):
        while data := await stream.read():
            writer.write(data)
            await writer.drain()
    writer.close()
    await backwards


class Files:
    """`adb push`, `pull` and `ls`: the protocol of `sync:`."""

    def __init__(self, adbd: Adbd, stream: Stream):
        self._adbd, self._stream = adbd, stream

    async def run(self) -> None:
        while True:
            kind, size = struct.unpack("<4sI", await self._stream.exactly(8))
            if kind == b"QUIT":
                return
            assert size <= 1024, "a path of sync: has at most 1024 bytes"
            argument = (await self._stream.exactly(size)).decode()
            try:
                await {b"STAT": self._stat, b"STA2": self._stat2, b"LST2": self._stat2, b"LIST": self._list, b"SEND": self._send, b"RECV": self._receive}[kind](
                    *((argument, kind) if kind in (b"STA2", b"LST2") else (argument,))
                )
            except OSError as error:
                await self._fail(os.strerror(error.errno or errno.EIO))

    async def _fail(self, reason: str) -> None:
        await self._stream.write(struct.pack("<4sI", b"FAIL", len(reason)) + reason.encode())

    async def _stat(self, path: str) -> None:
        try:
            found = os.lstat(self._adbd.path(path))
            fields = (found.st_mode, found.st_size, int(found.st_mtime))
        except OSError:
            fields = (0, 0, 0)
        await self._stream.write(struct.pack("<4s3I", b"STAT", *fields))

    async def _stat2(self, path: str, kind: bytes) -> None:
        try:
            look = os.lstat if kind == b"LST2" else os.stat
            found = look(self._adbd.path(path))
            ids, times = (found.st_dev, found.st_ino, found.st_mode, found.st_nlink, 0, 0), (found.st_atime, found.st_mtime, found.st_ctime)
            packed = struct.pack("<4sIQQIIIIQqqq", kind, 0, *ids, found.st_size, *map(int, times))
        except OSError as error:
            packed = struct.pack("<4sIQQIIIIQqqq", kind, error.errno or errno.EIO, *[0] * 10)
        await self._stream.write(packed)

    async def _list(self, path: str) -> None:
        for each in sorted(self._adbd.path(path).iterdir()):
            found, name = each.lstat(), each.name.encode()
            await self._stream.write(struct.pack("<4s4I", b"DENT", found.st_mode, found.st_size, int(found.st_mtime), len(name)) + name)
        await self._stream.write(struct.pack("<4s4I", b"DONE", 0, 0, 0, 0))

    async def _send(self, argument: str) -> None:
        """Receive a file. After a failure its remaining data is read and dropped, as adbd does."""
        text, _, mode = argument.rpartition(",")
        reason, data = "", bytearray()
        while True:
            kind, size = struct.unpack("<4sI", await self._stream.exactly(8))
            if kind == b"DONE":
                break
            assert kind == b"DATA" and size <= MAX_SYNC_DATA
            data += await self._stream.exactly(size)
            if not reason and self._adbd.disk_bytes is not None and len(data) > self._adbd.disk_bytes:
                reason = "write failed: No space left on device"
                await self._fail(reason)
        if reason:
            return
        try:
            path = self._adbd.path(text)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._adbd.store(path, bytes(data), int(mode) & 0o777)
        except OSError as error:
            await self._fail(f"couldn't create file: {os.strerror(error.errno or errno.EIO)}")
            return
        await self._stream.write(struct.pack("<4sI", b"OKAY", 0))

    async def _receive(self, path: str) -> None:
        data = self._adbd.path(path).read_bytes()
        for start in range(0, len(data), MAX_SYNC_DATA):
            chunk = data[start : start + MAX_SYNC_DATA]
            await self._stream.write(struct.pack("<4sI", b"DATA", len(chunk)) + chunk)
        await self._stream.write(struct.pack("<4sI", b"DONE", 0))


class Adbd:
    """A phone. prefix: what programs for 64-bit ARM are run by, such as `qemu-aarch64-static -L ROOT`; without it the system is asked to run them."""

    def __init__(self, folder: Path, *, prefix: Sequence[str] = (), shell: str = "/bin/sh"):
        self.root, self.prefix, self.shell = folder, tuple(prefix), shell
        self.temporary = folder / TEMPORARY[1:]
        self.temporary.mkdir(parents=True)
        (folder / "bin").mkdir()
        self._links: set[Link] = set()
        self.surprises: list[str] = []  # what went wrong in here: of a stand-in, not of what is tested
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.awake = asyncio.Event()
        self.reset()
        self._server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop).result(30)
        self.port = self._server.sockets[0].getsockname()[1]
        self.serial = f"127.0.0.1:{self.port}"

    def reset(self) -> None:
        """A phone without faults."""
        self.features: tuple[str, ...] = FEATURES
        self.authentication = ""  # or "accept", or "refuse": what its owner says to hosts it does not know
        self.keys: list[tuple[int, int]] = []
        self.offline = False  # it accepts connections and does not answer
        self.bytes_until_drop: int | None = None
        self.disk_bytes: int | None = None  # the largest file that it has place for
        self.no_execute = False  # its file system knows no executable files, whatever chmod says
        self.sockets: dict[str, int] = {}  # abstract names of sockets that programs listen at -> port of this machine
        self.environment = {"PATH": f"{self.root}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HWNAS_LEASE": ""}
        for path in (self.root / "bin").iterdir():
            path.unlink()
        self.silent(False)

    def silent(self, silent: bool) -> None:
        """It stops to say or do anything, without closing a connection; or goes on."""
        self._loop.call_soon_threadsafe(self.awake.clear if silent else self.awake.set)

    def drop(self) -> None:
        """Break all links."""

        def drop() -> None:
            for link in list(self._links):
                link.drop()

        self._loop.call_soon_threadsafe(drop)

    def program(self, name: str, body: str) -> None:
        """Put a program of that name before the system's."""
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(self, reader, writer)
        self._links.add(link)
        await link.run()
        self._links.discard(link)

    def here(self, text: str) -> str:
        """A command with the phone's paths, as it is run on this machine."""
        return text.replace(TEMPORARY, str(self.temporary)).replace(STORAGE, f"{self.root}{STORAGE}")

    def path(self, text: str) -> Path:
        """The file here of a path of the phone. Raises PermissionError outside of the folders that a host may write to."""
        if not any(text == each or text.startswith(each + "/") for each in (TEMPORARY, STORAGE)) or ".." in text.split("/"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return Path(self.here(text))

    def store(self, path: Path, data: bytes, mode: int) -> None:
        if self.no_execute:
            mode &= ~0o111
        is_arm_program = data[:4] == b"\x7fELF" and int.from_bytes(data[18:20], "little") == AARCH64 and ".so" not in path.name
        if self.prefix and is_arm_program:
            program = path.with_name(f"{path.name}.arm64")
            program.write_bytes(data)
            program.chmod(mode)  # qemu asks, as the kernel does
            data = f'#!/bin/sh\nexec {" ".join(self.prefix)} {program} "$@"\n'.encode()
        path.write_bytes(data)
        path.chmod(mode)

    def processes(self) -> list[int]:
        """Ids of the processes that run in or below its folder of temporary files, or were started by such a path."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "cmdline").read_bytes()
                state = (path / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if str(self.temporary).encode() in words and state != "Z" and int(path.name) != os.getpid():
                found.append(int(path.name))
        return found

    def device(self, *, address: str | None = None, python: str = "", agent: str = "", cores: str = "") -> Device:
        where = self.serial if address is None else address
        return Device("phone", "a phone", "cpu", "adb", ("onnxruntime",), 1, where, python, agent=agent, cores=cores)

    def stop(self) -> None:
        self.silent(False)
        self.drop()

        async def end() -> None:
            self._server.close()
            while tasks := [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]:
                await asyncio.wait(tasks, timeout=5)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


class Bridge:
    """The real `adb`, with a server, keys and settings of its own."""

    def __init__(self, home: Path):
        self.home = home
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.environment = {"HOME": str(home), "ANDROID_ADB_SERVER_PORT": str(self.port), "ADB_MDNS": "0", "ADB_MDNS_OPENSCREEN": "0"}
        self.run("start-server")

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [str(PROGRAM), *arguments],
            env={**os.environ, **self.environment},
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return done.stdout

    def states(self) -> dict[str, str]:
        rows = [line.split("\t") for line in self.run("devices").splitlines() if "\t" in line]
        return {row[0]: row[1] for row in rows}

    def connect(self, adbd: Adbd, state: str = "device") -> None:
        """Attach it, and wait until it is in that state."""
        said = ""
        for _ in range(100):
            if self.states().get(adbd.serial) == state:
                return
            said = self.run("connect", adbd.serial)
            time.sleep(0.1)
        raise AssertionError(f"{adbd.serial} is not '{state}': {said} {self.run('devices')}")

    def disconnect(self) -> None:
        self.run("disconnect")

    def stop(self) -> None:
        self.run("kill-server")


def public_key(data: bytes) -> tuple[int, int]:
    """(modulus, exponent) of a key in Android's format: sizes and numbers as little-endian words, in base64, then who it belongs to."""
    raw = base64.b64decode(data.rstrip(b"\0").split(b" ")[0])
    (words,) = struct.unpack_from("<I", raw)
    return int.from_bytes(raw[8 : 8 + 4 * words], "little"), int.from_bytes(raw[-4:], "little")


def is_signed(token: bytes, signature: bytes, key: tuple[int, int]) -> bool:
    """Whether the token was signed by the key's owner (RSASSA-PKCS1-v1_5)."""
    modulus, exponent = key
    size = (modulus.bit_length() + 7) // 8
    padded = b"\0\1" + b"\xff" * (size - 3 - len(SHA1_OF_TOKEN) - len(token)) + b"\0" + SHA1_OF_TOKEN + token
    return pow(int.from_bytes(signature, "big"), exponent, modulus) == int.from_bytes(padded, "big")
