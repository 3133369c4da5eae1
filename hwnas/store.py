"""The store: everything written while something runs goes, event by event, to one SQLite file that no crash can damage.

An event is a row: number, kind, JSON body, CRC-32. A row that `append` has returned for is on the disk. Rows are never changed.
Large bytes are files of the folder `blobs` beside it, named by their SHA-256. One process writes at a time; any number read.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import sqlite3
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, BinaryIO, NoReturn, Self

import numpy as np

from hwnas.errors import DamagedFile, InputError, RunHeld
from hwnas.files import parse_json, write_whole

_APPLICATION = 0x686E6173  # "hnas", in the file's header
_FORMAT = 1
_MAGIC = b"SQLite format 3\x00"
_BUSY_MS = 10_000
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SCHEMA = f"""
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_FORMAT};
CREATE TABLE event (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT NULL, crc INTEGER NOT NULL) STRICT;
CREATE TRIGGER event_keeps BEFORE UPDATE ON event BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER event_stays BEFORE DELETE ON event BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END;
"""


@dataclass(frozen=True, slots=True)
class Event:
    """A row of the store; `id` counts from 1 without gaps."""

    id: int
    kind: str
    body: Any


class Store:
    """An append-only log of events in the file `path`, with its blobs; a context manager.

    Opening for writing creates it, and takes the lock that a second writer is refused by. Raises RunHeld where another process
    writes it, DamagedFile where the file is cut short, altered, no store or of another version, InputError where it cannot be written.
    """

    def __init__(self, path: Path, *, write: bool = True):
        self.path, self.blobs = path, path.parent / "blobs"
        self._lock: BinaryIO | None = None
        if not write and not path.is_file():
            raise DamagedFile(f"there is no {path.name} in {path.parent}")
        if write:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._lock = _locked(path.with_suffix(".lock"), path)
            except OSError as error:
                raise InputError(f"cannot write {path}: {error.strerror or error}; choose another folder") from None
        try:
            if path.is_file() and path.stat().st_size > 0:
                with path.open("rb") as file:
                    if file.read(len(_MAGIC)) != _MAGIC:  # SQLite takes a file of a few bytes for an empty one
                        raise DamagedFile(f"{path} is no store of hwnas: its first bytes are not SQLite's")
            mode = "rwc" if write else "ro"
            self._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=_BUSY_MS / 1000)
            self._open(write)
        except (sqlite3.Error, UnicodeDecodeError) as error:  # damaged names of tables break SQLite's own message
            self.close()
            self._refuse(error)
        except OSError as error:
            self.close()
            raise InputError(f"cannot open {path}: {error.strerror or error}; check the folder's permissions") from None
        except BaseException:
            self.close()
            raise

    def _open(self, write: bool) -> None:
        empty = self._one("SELECT count(*) FROM sqlite_master") == 0 and self._one("PRAGMA application_id") == 0
        if empty and not write:
            raise DamagedFile(f"{self.path} is empty")
        if not empty:
            self._check()  # before the first write, and be it to the header: the file may be another program's
        if write:
            self._db.execute("PRAGMA journal_mode = WAL")  # answers another mode where the file system cannot; as safe, only slower
            self._db.execute("PRAGMA synchronous = FULL")
            if empty:
                self._db.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}COMMIT;")

    def _check(self) -> None:
        """Raises DamagedFile where the database is not a store of this format, as it was written."""
        if self._one("PRAGMA application_id") != _APPLICATION:
            raise DamagedFile(f"{self.path} is a database of another program, not a store of hwnas")
        if (version := self._one("PRAGMA user_version")) != _FORMAT:
            raise DamagedFile(f"{self.path} has format {version}, this hwnas reads format {_FORMAT}; use the version of hwnas that wrote it")
        if (answer := self._one("PRAGMA quick_check(1)")) != "ok":
            raise DamagedFile(f"{self.path} is damaged: {' '.join(str(answer).split())}")
        self.events()

    def append(self, kind: str, body: Any) -> int:
        """Record an event; its id, once it is on the disk. body: JSON values, numpy arrays and paths, no NaN or infinity.

        Raises InputError where the disk is full or the body is no JSON; what was recorded before stays as it was.
        """
        try:
            text = json.dumps(body, allow_nan=False, separators=(",", ":"), default=plain_json)
        except (TypeError, ValueError) as error:
            raise InputError(f"an event '{kind}' cannot be recorded: {error}") from None
        try:
            self._db.execute("BEGIN IMMEDIATE")
            number = int(self._one("SELECT coalesce(max(id), 0) + 1 FROM event"))
            self._db.execute("INSERT INTO event VALUES (?, ?, ?, ?)", (number, kind, text, _crc(number, kind, text)))
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):  # where SQLite has rolled back by itself
                self._db.execute("ROLLBACK")
            self._refuse(error)
        return number

    def events(self, kind: str | None = None) -> list[Event]:
        """All events in order, or those of one kind. Raises DamagedFile where a row is missing or altered."""
        where, values = ("", ()) if kind is None else (" WHERE kind = ?", (kind,))
        try:
            rows = self._db.execute(f"SELECT id, kind, body, crc FROM event{where} ORDER BY id", values).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            self._refuse(error)
        events = []
        for row, (number, name, text, crc) in enumerate(rows, start=1):
            if kind is None and number != row:
                raise DamagedFile(f"{self.path} is damaged: event {row} is missing")
            if _crc(number, name, text) != crc:
                raise DamagedFile(f"{self.path} is damaged: event {number} does not match its checksum")
            try:
                events.append(Event(number, name, parse_json(text)))
            except (ValueError, RecursionError):
                raise DamagedFile(f"{self.path} is damaged: event {number} is not readable JSON") from None
        return events

    def add_blob(self, data: bytes) -> str:
        """Keep these bytes; their SHA-256, by which `blob` gives them back. Raises InputError where the disk is full."""
        digest = hashlib.sha256(data).hexdigest()
        if not (self.blobs / digest).exists():
            write_whole(self.blobs / digest, data)
        return digest

    def blob(self, digest: str) -> bytes:
        """The bytes of that SHA-256. Raises DamagedFile where they are missing or altered."""
        path = self._blob_path(digest)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DamagedFile(f"cannot read {path}: {error.strerror or error}") from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise DamagedFile(f"{path} is damaged: its content does not match its name")
        return data

    def drop_blobs(self, digests: Iterable[str]) -> None:
        """Delete blobs that nothing needs any more, such as a superseded checkpoint; those that are gone already are no error."""
        for digest in digests:
            self._blob_path(digest).unlink(missing_ok=True)

    def _blob_path(self, digest: str) -> Path:
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise DamagedFile(f"{self.path} names a blob '{str(digest)[:80]}', which is no SHA-256")
        return self.blobs / digest

    def close(self) -> None:
        """Let go of the file and the lock. Closing twice is no error."""
        if hasattr(self, "_db"):
            self._db.close()
        if self._lock is not None:
            _unlock_file(self._lock)
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _one(self, query: str) -> Any:
        return self._db.execute(query).fetchone()[0]

    def _refuse(self, error: sqlite3.Error | UnicodeDecodeError) -> NoReturn:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            raise InputError(
                f"cannot write {self.path}: the disk is full or fails ({error}); free space, then run the same command again: all recorded so far is kept"
            ) from None
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            raise InputError(f"cannot open {self.path}: {error}; check the folder's permissions") from None
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise RunHeld(f"{self.path} is locked by another program; close it and run the same command again") from None
        if code == sqlite3.SQLITE_NOTADB:
            raise DamagedFile(f"{self.path} is no store of hwnas: {error}") from None
        raise DamagedFile(f"{self.path} is damaged: {error}") from None


def _crc(number: int, kind: str, text: str) -> int:
    return zlib.crc32(f"{number}\n{kind}\n{text}".encode())


def plain_json(value: Any) -> Any:
    """numpy values and paths as values of JSON: the `default` of json.dumps. Raises TypeError on anything else."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, PurePath):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} is not a value of JSON")


def pack(value: Any) -> Any:
    """Dictionaries (of texts), lists, arrays of numbers, numbers and texts as values of JSON; arrays keep type and shape.

    Raises InputError on anything else.
    """
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {"dtype": value.dtype.str, "shape": list(value.shape), "base64": base64.b64encode(value.tobytes()).decode()}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"values": {key: pack(each) for key, each in value.items()}}
    if isinstance(value, list | tuple):
        return [pack(each) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(f"a searcher's state holds a {type(value).__name__}; it may hold arrays, numbers, texts, lists and dictionaries of them")


def unpack(packed: Any) -> Any:
    """The value that `pack` was given, tuples as lists. Raises ValueError, KeyError or TypeError where it was not packed."""
    if isinstance(packed, list):
        return [unpack(each) for each in packed]
    if not isinstance(packed, dict):
        return packed
    if "values" in packed:
        return {key: unpack(each) for key, each in packed["values"].items()}
    dtype = np.dtype(packed["dtype"])
    if dtype.kind not in "biuf":
        raise ValueError(f"arrays of {dtype} are not kept")
    return np.frombuffer(base64.b64decode(packed["base64"]), dtype).reshape(packed["shape"]).copy()


def _locked(path: Path, store: Path) -> BinaryIO:
    """The open lock file, held until it is closed or the process ends. Raises RunHeld naming the holder."""
    file = path.open("a+b")
    try:
        _lock_file(file)
    except OSError:
        file.seek(0)
        holder = file.read(1000).decode("utf-8", "replace").strip() or "another process"
        file.close()
        raise RunHeld(f"{store.parent} is being written by {holder}; wait until it ends or stop it, then run the same command again") from None
    with suppress(OSError):  # the name is for people, the lock holds without it
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC".encode())
        file.flush()
    return file


def _lock_file(file: BinaryIO) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        file.seek(1 << 30)  # beyond the text, which others may read
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _unlock_file(file: BinaryIO) -> None:
    """Let go although processes that were forked meanwhile (workers that load images) have the file open, too."""
    with suppress(ImportError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)
