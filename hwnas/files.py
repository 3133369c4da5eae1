"""Reading files from outside and writing our own: whole or not at all, with limits, never as code."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import stat
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from hwnas.errors import DamagedFile, InputError

MAX_TEXT_BYTES = 256 << 20
MAX_DOTS = 200  # on a line of TOML; a key of thousands of parts takes the parser minutes and nests as deeply


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file so that it appears complete or not at all: temporary name, fsync, rename, fsync of the folder, which is made. Raises InputError."""
    raw = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY) if hasattr(os, "O_DIRECTORY") else None
        if folder is not None:
            os.fsync(folder)
            os.close(folder)
    except OSError as error:
        with suppress(OSError):  # where its folder could not be made
            temporary.unlink()
        raise InputError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder, then run the same command again") from None


def stays_inside(name: str) -> bool:
    """Whether a file name from outside, with forward slashes, names something inside its folder, on any system."""
    parts = PurePosixPath(name).parts
    return bool(parts) and name.isprintable() and not name.startswith("/") and ".." not in parts and not set(name) & set("\\:")


def _regular(path: Path) -> os.stat_result:
    """Size and times of a file; what never ends, such as a pipe or a device, is none. Raises OSError, DamagedFile."""
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise DamagedFile(f"cannot read {path}: it is not a file")
    return facts


def read_text(path: Path, limit: int | None = None) -> str:
    """A text file of at most `limit` bytes, MAX_TEXT_BYTES by default. Raises DamagedFile."""
    limit = MAX_TEXT_BYTES if limit is None else limit
    try:
        if (size := _regular(path).st_size) > limit:
            raise DamagedFile(f"{path} has {size:,} bytes, over the limit of {limit:,} for a text file")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DamagedFile(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise DamagedFile(f"{path} is not UTF-8 text") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not allowed")


def parse_json(text: str) -> Any:
    """JSON without NaN or infinity. Raises ValueError, RecursionError."""
    return json.loads(text, parse_constant=_no_constant)


def read_json(path: Path) -> Any:
    """JSON without NaN or infinity. Raises DamagedFile."""
    try:
        return parse_json(read_text(path))
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DamagedFile(f"{path} is not readable JSON: {reason}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """Raises DamagedFile."""
    return parse_toml(read_text(path), path)


def parse_toml(text: str, path: Path) -> dict[str, Any]:
    """The content of the TOML file `path`. Raises DamagedFile."""
    if any(line.count(".") > MAX_DOTS for line in text.splitlines()):
        raise DamagedFile(f"{path} has a line with more than {MAX_DOTS} dots: no key of ours is nested so deeply")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits is a plain ValueError
        raise DamagedFile(f"{path} is not readable TOML: {error}") from None


def write_json(path: Path, data: Any) -> None:
    """Indented JSON, whole or not at all; NaN is refused."""
    write_whole(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def write_toml(path: Path, data: Mapping[str, Any]) -> None:
    """TOML, whole or not at all."""
    import tomli_w

    write_whole(path, tomli_w.dumps(data))


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows as a CSV file has them, the header first."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes. Raises DamagedFile."""
    try:
        _regular(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DamagedFile(f"cannot read {path}: {error.strerror or error}") from None
